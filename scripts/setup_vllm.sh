#!/usr/bin/env bash
# Makes .venv able to run vLLM on the CPU with the demo's model. Run again, it returns at once unless the locks changed.
set -euo pipefail
cd "$(dirname "$0")/.."

locks=(python/requirements-vllm.txt python/requirements-vllm-nodeps.txt)
stamp=.venv/.vllm-locks
wanted=$(cat "${locks[@]}" | sha256sum | cut -d' ' -f1)

if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [[ ! -x .venv/bin/python ]]; then
    python=
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null && fits "$candidate"; then
            python=$candidate
            break
        fi
    done
    if [[ -z $python ]]; then
        echo "setup_vllm: Python 3.11 or newer is needed; install it, or name it with PYTHON=/path/to/python" >&2
        exit 1
    fi
    "$python" -m venv .venv
fi

echo "setup_vllm: installing vLLM and what it needs into .venv (about 6 GB, some minutes)"
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
pip --requirement "${locks[0]}"
# Their own requirements name builds that PyPI does not have, or far more than text generation needs.
pip --no-deps --requirement "${locks[1]}"
.venv/bin/python -c 'import vllm' >/dev/null 2>&1 || {
    echo "setup_vllm: vLLM does not import; try: .venv/bin/python -c 'import vllm'" >&2
    exit 1
}
echo "$wanted" >"$stamp"

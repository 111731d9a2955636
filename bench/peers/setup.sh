#!/usr/bin/env bash
# Makes bench/peers/.venv: the peers' released packages and Forebay as it stands, on top of the project's .venv (whose
# torch and vLLM are used, not copied). Another .venv is named with BENCH_BASE_VENV. With --without-foyer that one, which is
# compiled, is left out.
set -euo pipefail
cd "$(dirname "$0")"

root=$(cd ../.. && pwd)
base=${BENCH_BASE_VENV:-$root/.venv}
if [[ ! -x $base/bin/python ]]; then
    echo "bench: no Python in $base; run 'make setup' first, or name an environment with BENCH_BASE_VENV" >&2
    exit 1
fi
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

if [[ ! -x .venv/bin/python ]]; then
    "$base/bin/python" -m venv .venv
fi
own=$(site .venv/bin/python)
site "$base/bin/python" >"$own/zz_base.pth"

wanted=$(cat requirements.txt requirements-nodeps.txt guard_triton.py | sha256sum | cut -d' ' -f1)
if [[ ! -f .venv/.locks || $(<.venv/.locks) != "$wanted" ]]; then
    pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
    # Not resolved against the base environment: vLLM's own metadata names a torch build that PyPI does not have.
    pip --no-deps --requirement requirements.txt
    pip --no-deps --requirement requirements-nodeps.txt
    .venv/bin/python guard_triton.py
    echo "$wanted" >.venv/.locks
fi

export VIRTUAL_ENV=$PWD/.venv
rm -rf .venv/wheels
(cd "$root" && "$base/bin/maturin" build --quiet --release --interpreter "$VIRTUAL_ENV/bin/python" \
    --out "$VIRTUAL_ENV/wheels")
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .venv/wheels/*.whl
if [[ ${1:-} != --without-foyer ]]; then
    cargo build --quiet --release --locked --manifest-path foyer/Cargo.toml --target-dir foyer/target
fi

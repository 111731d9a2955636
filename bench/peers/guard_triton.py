"""Lets vLLM start beside LMCache on a CPU: a copy of vLLM in this environment with one line of it guarded.

When vLLM 0.32.0 replaces Triton kernels on a CPU it looks into every object of every loaded module, and two kinds of
them, which LMCache's imports load, answer with an exception: Triton's own driver, which a machine without a GPU has
none of, and the functions of C libraries. The engine then does not start. Everything but that file is a link to the
installed package, which stays as it is.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

DISPATCHER = Path("triton_utils") / "dispatcher.py"
ORIGINAL = """\
            if hasattr(value, "__dict__"):
                wrapper = lookup(vars(value).get("kernel"))
"""
GUARDED = """\
            try:
                if hasattr(value, "__dict__"):
                    wrapper = lookup(vars(value).get("kernel"))
            except (AttributeError, RuntimeError):
                continue
"""


def _installed(own: Path) -> Path:
    for entry in map(Path, sys.path):
        found = entry / "vllm"
        if found.resolve() != own.resolve() and (found / DISPATCHER).is_file():
            return found
    sys.exit("guard_triton: vLLM is not installed")


def main() -> None:
    own = Path(sysconfig.get_path("purelib")) / "vllm"
    shutil.rmtree(own, ignore_errors=True)
    installed = _installed(own)
    for source in installed.rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            target = own / source.relative_to(installed)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())
    text = (installed / DISPATCHER).read_text()
    if text.count(ORIGINAL) != 1:
        sys.exit("guard_triton: vLLM's dispatcher is not the one of 0.32.0; see whether the guard is still needed")
    (own / DISPATCHER).unlink()
    (own / DISPATCHER).write_text(text.replace(ORIGINAL, GUARDED))


if __name__ == "__main__":
    main()

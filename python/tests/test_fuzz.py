"""A short run of what `make fuzz-python` does for long: any arguments at all for everything the package takes."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
SECONDS = 3
# A start, and the longest wait of an input that runs into it.
PATIENCE_S = 180


@pytest.mark.parametrize("target", ["configuration", "keys", "cache", "planes"])
def test_no_argument_makes_the_package_panic_hang_leak_or_end(target):
    command = [sys.executable, "-X", "faulthandler", str(FUZZ / "short.py"), target, str(SECONDS)]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False)
    last = ended.stderr[-4000:]
    assert ended.returncode == 0, last
    assert "panicked at" not in ended.stderr, last
    assert int(ended.stdout) > 10, "hardly anything was fed"

"""The examples run and say what they should."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_cache_example_comes_back_after_a_restart(tmp_path):
    command = [sys.executable, str(EXAMPLES / "cache.py"), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "after a restart: hit, 10 of 10 chunks" in said
    assert "10 loaded, 10 of them right" in said

#!/usr/bin/env python3
"""Feeds the Python boundary with atheris, one target after the other, each in its process (`make fuzz-python`).

python/fuzz/run.py                        # all targets, 600 seconds each
python/fuzz/run.py planes --seconds 60
python/fuzz/run.py planes FILE            # once more what was found

atheris sees the branches of this code and of the package's Python, not those of the native module. What it found is in
`target/fuzz-python`, with the inputs that reached something new.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("configuration", "keys", "cache", "planes")
KEPT = Path(__file__).parent / "kept"
FEED = "--feed"
# An input that takes so long is a hang: every wait in the targets ends before.
INPUT_MAX_S = 120
INPUT_MAX_BYTES = 1024


def _feed(target: str, words: list[str]) -> None:
    """In the process that is fuzzed."""
    import atheris  # noqa: PLC0415 - only the child needs it

    with atheris.instrument_imports(include=["boundary", "given", "forebay"]):
        import boundary  # noqa: PLC0415 - seen by the fuzzer

    atheris.Setup([sys.argv[0], *words], boundary.TARGETS[target])
    atheris.Fuzz()


def _watched(command: list[str]) -> bool:
    """Runs it and shows what it says. A panic on a native thread is a failure too, which only its words tell."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    assert process.stderr is not None
    panicked = False
    for line in process.stderr:
        # The library logs what it refuses; the fuzzer makes it refuse a lot.
        if " WARN " not in line and " ERROR " not in line and " INFO " not in line:
            sys.stderr.write(line)
        panicked = panicked or "panicked at" in line
    return process.wait() == 0 and not panicked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=NAMES, help="one target (default: all)")
    parser.add_argument("file", nargs="?", type=Path, help="an input to be tried once")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default 600)")
    if sys.argv[1:2] == [FEED]:
        _feed(sys.argv[2], sys.argv[3:])
        return 0
    options = parser.parse_args()
    found = False
    for name in [options.target] if options.target else NAMES:
        print(f"fuzz: {name}", file=sys.stderr)
        place = ROOT / "target" / "fuzz-python" / name
        (place / "corpus").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, FEED, name]
        if options.file:
            command += [str(options.file)]
        else:
            command += [f"-max_total_time={options.seconds}", f"-max_len={INPUT_MAX_BYTES}", f"-timeout={INPUT_MAX_S}"]
            # Long from the start: a short input is few calls.
            command += ["-len_control=0"]
            command += [f"-artifact_prefix={place}/", "-print_final_stats=1", str(place / "corpus"), str(KEPT / name)]
        found = not _watched(command) or found
    return int(found)


if __name__ == "__main__":
    sys.exit(main())

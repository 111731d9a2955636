"""Some inputs for a target, the same on every machine; run by `python/tests/test_fuzz.py` in a process of its own."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import boundary

KEPT = Path(__file__).parent / "kept"
LENGTHS = (16, 64, 256, 1024)


def main(target: str, seconds: float) -> None:
    feed = boundary.TARGETS[target]
    for path in sorted((KEPT / target).glob("*")):
        feed(path.read_bytes())
    chance = random.Random(7)
    deadline_s, fed = time.monotonic() + seconds, 0
    while time.monotonic() < deadline_s:
        data = chance.randbytes(chance.choice(LENGTHS))
        # Shown when it is the last: nothing may be left of a process that ends by a signal.
        print(data.hex(), file=sys.stderr, flush=True)
        feed(data)
        fed += 1
    print(fed)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

"""What one copy of a chunk from memory to memory costs on this machine: a JSON object with CPU seconds per GB."""

from __future__ import annotations

import json
import resource
import sys

import numpy as np
from peer import huge_buffers

BUFFERS = 8
ROUNDS = 8


def main(chunk_bytes: int) -> None:
    buffers = [np.frombuffer(view, dtype=np.uint8) for view in huge_buffers(2 * BUFFERS, chunk_bytes)]
    used = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(ROUNDS):
        for source, target in zip(buffers[:BUFFERS], buffers[BUFFERS:], strict=True):
            np.copyto(target, source)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"cpu_s_per_gb": seconds * 1e9 / (ROUNDS * BUFFERS * chunk_bytes)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Run by `test_full_disk.py` in a small file system of its own: what the cache does while that is full."""

import errno
import json
import os
import sys
import time

import forebay

CHUNK = 1 << 20
GIB = 1 << 30
WAIT_S = 30


def prompt(number):
    return forebay.chunk_keys([number, *range(39)], 4)


def payload(key):
    return key * (CHUNK // len(key))


def statuses(cache, keys):
    outcomes = cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
    return sorted({f"{outcome.status} {outcome.reason}".strip() for outcome in outcomes})


def loads_right(cache, keys):
    buffers = [bytearray(CHUNK) for _ in keys]
    with cache.lookup(keys) as hit:
        outcomes = cache.load(keys, buffers).wait(WAIT_S)
        right = all(bytes(buffer) == payload(key) for key, buffer in zip(keys, buffers, strict=True))
        return hit.chunks == len(keys) and right and {outcome.status for outcome in outcomes} == {"loaded"}


def main(folder):
    config = forebay.Config(
        local_disk=f"{folder}/kv",
        max_local_disk_size=(48 << 20) / GIB,
        use_only_staging_buffer=True,
        max_local_cpu_size=4 * CHUNK / GIB,
        disk_min_free_size=0,
    )
    seen = {}
    with forebay.Cache(config, CHUNK) as cache:
        seen["before"] = statuses(cache, prompt(1))
        try:
            with open(f"{folder}/fill", "wb") as fill:
                while True:
                    fill.write(bytes(4096))
                    fill.flush()
        except OSError as error:
            seen["filled"] = error.errno == errno.ENOSPC
        seen["committed_is_there"] = loads_right(cache, prompt(1))
        # Chunks have their space already; the journal has not.
        seen["full"] = sorted({status for number in range(2, 60) for status in statuses(cache, prompt(number))})
        stats = cache.stats()
        seen["degraded"] = stats["degraded"]
        seen["left_behind"] = stats["open_tickets"] + stats["staging_in_use"]
        os.remove(f"{folder}/fill")
        deadline_s = time.monotonic() + WAIT_S
        while statuses(cache, prompt(99)) not in (["stored"], ["present"]) and time.monotonic() < deadline_s:
            pass
        seen["after"] = loads_right(cache, prompt(99))
        seen["degraded_after"] = cache.stats()["degraded"]
    with forebay.Cache(config, CHUNK) as cache:
        seen["after_restart"] = loads_right(cache, prompt(99))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])

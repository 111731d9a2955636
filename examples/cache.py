"""Forebay without an engine: chunks go to disk, come back after a restart, and prove themselves.

python examples/cache.py [DIRECTORY]
"""

import os
import sys
import tempfile

import forebay

CHUNK_BYTES = 1 << 20
CHUNK_TOKENS = 256


def main(directory: str) -> None:
    config = forebay.Config(
        local_disk=directory,
        max_local_disk_size=0.125,  # GiB
        local_cpu=False,
        use_only_staging_buffer=True,
        max_local_cpu_size=0.002,  # GiB: two slots of 1 MiB
    )
    prompt = list(range(10 * CHUNK_TOKENS + 7))
    keys = forebay.chunk_keys(prompt, CHUNK_TOKENS, forebay.Namespace(model="an-example"))
    kv = [os.urandom(CHUNK_BYTES) for _ in keys]

    with forebay.Cache(config, CHUNK_BYTES) as cache:
        for outcome in cache.store(keys, kv).wait():
            print(outcome.key.hex()[:16], outcome.status, outcome.reason)

    with forebay.Cache(config, CHUNK_BYTES) as cache, cache.lookup(keys) as hit:
        print(f"after a restart: {hit.status}, {hit.chunks} of {len(keys)} chunks")
        buffers = [bytearray(CHUNK_BYTES) for _ in range(hit.chunks)]
        outcomes = cache.load(keys[: hit.chunks], buffers).wait()
        right = sum(bytes(buffer) == chunk for buffer, chunk in zip(buffers, kv, strict=True))
        print(f"{sum(outcome.status == 'loaded' for outcome in outcomes)} loaded, {right} of them right")
        print(f"staging: {cache.stats()['staging_in_use_max']} of {cache.stats()['staging_slots']} slots at most")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(directory)

"""The demo of a shared store: one engine computes a long prompt, and another one answers it from what the first stored.

Two vLLM processes with a real small model on the CPU, which share a Redis server and nothing else: neither has a disk.
Prints a table and writes target/demo-remote.json. Ends with an error if a token differs, if the second engine computed
5 % of the prompt or more, or if it was not clearly faster.
"""

from __future__ import annotations

from typing import Any

import demo
from redis_server import RedisServer


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    stored = runs["cold"]["stats"]["connector_chunks_stored"]
    return {**demo.summary({"plain": runs["cold"], **runs}), "chunks_stored": stored}


def table_rows(seen: dict[str, Any]) -> list[tuple[str, str]]:
    mib, chunk_bytes = 1 << 20, seen["chunk_bytes"]
    return [
        ("time to first token, computed by engine one", f"{seen['cold_ttft_s']:.2f} s"),
        ("time to first token, loaded by engine two", f"{seen['loaded_ttft_s']:.2f} s"),
        ("faster by", f"{seen['ratio']:.0f} x"),
        ("tokens computed by engine two", f"{100 * seen['computed_fraction']:.1f} % of the prompt"),
        ("answers identical", "yes" if seen["tokens_identical"] else "NO"),
        ("loaded from the store", f"{seen['chunks']} chunks, {seen['chunks'] * chunk_bytes / mib:.0f} MiB"),
        (
            "stored by engine one, a short prompt before it included",
            f"{seen['chunks_stored']} chunks, {seen['chunks_stored'] * chunk_bytes / mib:.0f} MiB",
        ),
        (
            "staging memory, highest use of what is allowed",
            f"{seen['staging_bytes_max'] / mib:.1f} of {seen['staging_bytes_bound'] / mib:.1f} MiB",
        ),
    ]


def main() -> None:
    options = demo.arguments(__doc__ or "").parse_args()
    print(f"Forebay demo: {options.prompt_tokens} tokens, two engines, one Redis server")
    with demo.work_folder("demo-remote") as work, RedisServer() as redis:
        forebay = {"remote_url": redis.url, **demo.staging_only(options)}
        runs = {
            "cold": demo.run_engine("engine one, nothing stored yet", options, forebay, work),
            "loaded": demo.run_engine("engine two, in another process", options, forebay, work),
        }
    seen = summary(runs)
    demo.conclude("demo-remote", seen, table_rows(seen), runs["loaded"]["text"], demo.complaints(seen))


if __name__ == "__main__":
    main()

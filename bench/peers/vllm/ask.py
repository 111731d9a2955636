"""One engine process of the head-to-head: asks the same prompts of vLLM with a given connector. Run by ../run.py.

Engine, environment and prompts are the demo's (demo/engine.py); each prompt begins with words of its own, so that none
is the front of another. Writes time to first token, tokens and memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "demo"))

import engine as demo
from vllm import LLM
from vllm.config import KVTransferConfig

SETTLE_MAX_S = 120
SETTLE_S = 1.0


def prompt_of(tokenizer: object, tokens: int) -> list[int]:
    front = tokenizer.encode(f"Log book of {tokens} words. ", add_special_tokens=False)  # type: ignore[attr-defined]
    return front + demo.long_prompt(tokenizer, tokens - len(front))


def stored(directory: Path) -> int:
    return sum(path.stat().st_blocks for path in directory.rglob("*") if path.is_file())


def settle(engine: object, directory: Path) -> None:
    """Lets the engine step, and waits, until no more is written: what a busy engine would do by itself."""
    until_s = time.monotonic() + SETTLE_MAX_S
    before, since_s = -1, time.monotonic()
    while time.monotonic() < until_s and time.monotonic() - since_s < SETTLE_S:
        engine.step()  # type: ignore[attr-defined]
        time.sleep(0.05)
        if (now := stored(directory)) != before:
            before, since_s = now, time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="the directory the connector's chunks end in")
    parser.add_argument("--prompt-tokens", type=int, nargs="+", required=True)
    parser.add_argument("--answer-tokens", type=int, required=True)
    parser.add_argument("--connector", type=json.loads, help="arguments of KVTransferConfig; without, no connector")
    options = parser.parse_args()
    llm = LLM(
        options.model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=4,
        kv_transfer_config=KVTransferConfig(**options.connector) if options.connector else None,
        disable_log_stats=True,
        seed=0,
    )
    tokenizer = llm.get_tokenizer()
    # Longer than a chunk: the first use of engine and connector belongs to no prompt.
    warm_up = tokenizer.encode("Some words that have nothing to do with water. ", add_special_tokens=False) * 40
    demo.ask(llm, warm_up, 2)
    answers = []
    for tokens in options.prompt_tokens:
        first_s, answer = demo.ask(llm, prompt_of(tokenizer, tokens), options.answer_tokens)
        answers.append(
            {
                "prompt_tokens": len(answer.prompt_token_ids),
                "ttft_s": first_s,
                "cached_tokens": answer.num_cached_tokens or 0,
                "token_ids": list(answer.outputs[0].token_ids),
            }
        )
        if options.connector:
            settle(llm.llm_engine, options.store)
    options.result.write_text(json.dumps({"answers": answers, "rss_mib": demo.memory_mib("VmRSS")}))
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()

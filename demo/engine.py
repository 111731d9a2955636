"""One engine process of the demo: starts vLLM on CPU, answers one long prompt, writes what it saw as JSON.

Run by demo.py and demo_remote.py, never by hand. The environment is set before vLLM is imported because vLLM and
OpenMP read it then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    # Spinning OpenMP threads take a core from whatever else runs, the mover's threads included.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
}
os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.config import KVTransferConfig  # noqa: E402
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group  # noqa: E402

_QUESTION = "\n\nQuestion: What is the purpose of a forebay?\nAnswer:"


def long_prompt(tokenizer: Any, tokens: int) -> list[int]:
    """Exactly `tokens` tokens: a made-up log book, then a question about it."""
    question = tokenizer.encode(_QUESTION, add_special_tokens=False)
    log: list[int] = []
    day = 0
    while len(log) < tokens - len(question):
        day += 1
        log += tokenizer.encode(
            f"Day {day}. Inflow {317 + day * 37 % 211} cubic metres a second, head {41 + day * 13 % 17} m. "
            f"Gate {1 + day % 6} is open to {day * 29 % 100} percent, turbine {1 + day * 5 % 4} ran for "
            f"{3 + day * 11 % 19} hours. The forebay stages the water ahead of the dam and keeps none.\n",
            add_special_tokens=False,
        )
    return log[: tokens - len(question)] + question


def ask(llm: LLM, prompt: list[int], max_tokens: int) -> tuple[float, Any]:
    """Seconds until the first token, and the finished answer."""
    engine = llm.llm_engine
    parameters = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    began_s = time.perf_counter()
    engine.add_request("demo", {"prompt_token_ids": prompt}, parameters)
    first_s, answer = None, None
    while engine.has_unfinished_requests():
        for output in engine.step():
            if first_s is None and output.outputs and output.outputs[0].token_ids:
                first_s = time.perf_counter() - began_s
            answer = output
    if first_s is None:
        sys.exit("the engine gave no token")
    return first_s, answer


def connector_stats(llm: LLM) -> dict[str, Any]:
    """Both halves' counters; they live in this process because multiprocessing is off."""
    if not has_kv_transfer_group():
        return {}
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
    return {**scheduler.get_kv_connector().stats(), **get_kv_transfer_group().stats()}


def settle(llm: LLM) -> None:
    """Steps on until nothing is being stored any more, as a serving engine's loop does by itself."""
    core = llm.llm_engine.engine_core.engine_core  # type: ignore[attr-defined]
    while core.scheduler.has_requests():
        core.step_fn()


def memory_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--answer-tokens", type=int, required=True)
    parser.add_argument("--forebay", type=json.loads, help="the connector's options; without them, no connector")
    options = parser.parse_args()
    transfer = options.forebay and KVTransferConfig(
        kv_connector="ForebayConnector",
        kv_connector_module_path="forebay.vllm",
        kv_role="kv_both",
        kv_connector_extra_config=options.forebay,
    )
    llm = LLM(
        options.model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=4,
        kv_transfer_config=transfer or None,
        disable_log_stats=True,
        seed=0,
    )
    tokenizer = llm.get_tokenizer()
    # First-use costs of the engine belong to no run; other words, so that the prompt stays unknown. Longer
    # than a chunk, so that the connector's first-use costs are in it as well.
    warm_up = tokenizer.encode("Some words that have nothing to do with water. ", add_special_tokens=False) * 40
    ask(llm, warm_up, 2)
    loaded_before = connector_stats(llm).get("connector_chunks_loaded", 0)
    first_s, answer = ask(llm, long_prompt(tokenizer, options.prompt_tokens), options.answer_tokens)
    settle(llm)
    stats = connector_stats(llm)
    result = {
        "ttft_s": first_s,
        "chunks_loaded": stats.get("connector_chunks_loaded", 0) - loaded_before,
        "prompt_tokens": len(answer.prompt_token_ids),
        "computed_tokens": len(answer.prompt_token_ids) - (answer.num_cached_tokens or 0),
        "token_ids": list(answer.outputs[0].token_ids),
        "text": answer.outputs[0].text,
        "rss_mib": memory_mib("VmRSS"),
        "stats": stats,
    }
    options.result.write_text(json.dumps(result))
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()

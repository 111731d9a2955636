"""One vLLM process of an end-to-end test: reads a JSON job from its argument, prints one JSON answer line.

The model is a small Llama with dummy weights, which are seeded: every process computes the same tokens. A job
is a list of steps; each step starts an engine (in this process unless the environment says otherwise),
answers its prompts and shuts the engine down, so that one process can show several starts without paying
vLLM's import again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_model import VLLM_ENVIRONMENT

os.environ.update(
    {**VLLM_ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0")}
)

import msgspec
import zmq
from vllm import LLM, SamplingParams
from vllm.config import KVEventsConfig, KVTransferConfig
from vllm.distributed.kv_events import KVEventBatch
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

import forebay

ANSWER = "ANSWER "


def prompt(seed: int, tokens: int) -> list[int]:
    return [(seed * 7919 + position * (31 + seed)) % 1000 + 3 for position in range(tokens)]


def start(step: dict[str, Any], model: str) -> LLM:
    options = step.get("forebay")
    return LLM(
        model,
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        seed=0,
        max_model_len=step.get("model_len", 4096),
        block_size=32,
        tensor_parallel_size=step.get("tensor_parallel", 1),
        pipeline_parallel_size=step.get("pipeline_parallel", 1),
        num_gpu_blocks_override=step.get("blocks"),
        max_num_seqs=step.get("max_num_seqs", 16),
        max_num_batched_tokens=step.get("batched_tokens", 4096),
        disable_log_stats="events_port" not in step,
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, endpoint=f"tcp://*:{step['events_port']}")
        if "events_port" in step
        else None,
        kv_transfer_config=options
        and KVTransferConfig(
            kv_connector="ForebayConnector",
            kv_connector_module_path="forebay.vllm",
            kv_role=step.get("role", "kv_both"),
            kv_connector_extra_config=options,
        ),
    )


def answers(llm: LLM, step: dict[str, Any]) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Tokens and cached tokens by request. All prompts are in flight together; `abort_after` names requests
    that are given up after so many engine steps."""
    parameters = SamplingParams(
        max_tokens=step.get("max_tokens", 8), temperature=0.0, ignore_eos=True, detokenize=False
    )
    engine = llm.llm_engine
    aborts = dict(step.get("abort_after", {}))
    given_to: dict[str, str] = {}
    for name, (seed, tokens) in step["prompts"].items():
        given_to[name] = engine.add_request(name, {"prompt_token_ids": prompt(seed, tokens)}, parameters) or name
    tokens_of: dict[str, list[int]] = {}
    cached_of: dict[str, int] = {}
    taken = 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            tokens_of[output.request_id] = list(output.outputs[0].token_ids)
            cached_of[output.request_id] = output.num_cached_tokens or 0
        taken += 1
        for name, after in list(aborts.items()):
            if taken >= after:
                engine.abort_request([name])
                del aborts[name]
    for name in step.get("abort_after", {}):
        tokens_of.pop(name, None)
    return tokens_of, cached_of


@contextlib.contextmanager
def router(port: int | None) -> Iterator[list[Any]]:
    """What somebody hears who subscribed to the engine's KV events; complete when it ends."""
    heard: list[Any] = []
    if port is None:
        yield heard
        return
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(f"tcp://127.0.0.1:{port}")
    time.sleep(0.5)  # until the publisher knows of us
    try:
        yield heard
        while socket.poll(1000):
            _, _, payload = socket.recv_multipart()
            batch = msgspec.msgpack.decode(payload, type=KVEventBatch)
            heard.extend(msgspec.to_builtins(event) for event in batch.events)
    finally:
        socket.close(0)


def figure(metric: Any) -> float:
    return metric.value if hasattr(metric, "value") else metric.count


def settle(llm: LLM) -> None:
    """Steps on until nothing is left to report, as a serving engine's loop does by itself."""
    core = llm.llm_engine.engine_core.engine_core  # type: ignore[attr-defined]
    for _ in range(20_000):
        if not core.scheduler.has_requests():
            return
        core.step_fn()
    raise AssertionError("the engine did not come to rest")


def count_preemptions(scheduler: Any) -> list[str]:
    """Grows by each preempted request: vLLM counts them per request, and a finished request is gone."""
    preempt, preempted = scheduler._preempt_request, []

    def noting(request: Any, *arguments: Any, **options: Any) -> None:
        preempted.append(request.request_id)
        preempt(request, *arguments, **options)

    scheduler._preempt_request = noting
    return preempted


def run(step: dict[str, Any], model: str) -> dict[str, Any]:
    keeper = step.get("locked_by_us")
    guard = forebay.ControlPlane(forebay.Config.load(None, **keeper), 1 << 20) if keeper else None
    try:
        llm = start(step, model)
    except Exception as error:
        if not step.get("may_refuse"):
            raise
        return {"refused": f"{type(error).__name__}: {error}"}
    core = llm.llm_engine.engine_core
    inside = hasattr(core, "engine_core")
    preemptions = count_preemptions(core.engine_core.scheduler) if inside else []
    with router(step.get("events_port")) as heard:
        tokens, cached = answers(llm, step)
        if inside:
            settle(llm)
    if "kill" in step:  # a server's process, and then there is more to answer
        os.kill(step["kill"], signal.SIGKILL)
        more, more_cached = answers(llm, {**step, "prompts": step["prompts_after"]})
        tokens, cached = {**tokens, **more}, {**cached, **more_cached}
    seen: dict[str, Any] = {"tokens": tokens, "cached": cached, "stats": {}, "preemptions": len(preemptions)}
    if "events_port" in step:
        seen["events"] = [event for event in heard if event["medium"] != "GPU"]
        seen["metrics"] = {each.name: figure(each) for each in llm.get_metrics() if "forebay" in each.name}
    if inside:
        settle(llm)
        scheduler = core.engine_core.scheduler
        seen["requests_left"] = len(scheduler.requests)
        seen["blocks_free"] = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        if (connector := scheduler.get_kv_connector()) is not None:
            # Of several workers each is in a process of its own.
            here = get_kv_transfer_group().stats() if has_kv_transfer_group() else {}
            seen["stats"] = {**connector.stats(), **here}
    if (port := (step.get("forebay") or {}).get("http_listen")) is not None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/now", timeout=60) as answer:
            seen["now"] = json.load(answer)
    core.shutdown()
    if guard is not None:
        with contextlib.suppress(forebay.Error):
            guard.close()
    return seen


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    for step in job["steps"]:
        print(ANSWER + json.dumps(run(step, step.get("model") or job["model"])), flush=True)


if __name__ == "__main__":
    main()

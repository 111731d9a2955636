"""A real vLLM with the connector, end to end: every scenario in a process of its own, against the tokens of a
vLLM without a connector. The numbers in the names are the guarantees of docs/DESIGN.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from redis_server import RedisServer

ENGINE = Path(__file__).with_name("vllm_engine.py")
PROCESS_MAX_S = 480
CHUNK_TOKENS = 256
BLOCK_TOKENS = 32
SLOT_GIB = (CHUNK_TOKENS * 4 * 2 * 64 * 2 * 4 + 4096) / (1 << 30)  # 4 layers, 2 heads of 64, K and V, float32

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}
LONG = {"long": [1, 8 * CHUNK_TOKENS + 16]}
BORDER = {"border": [2, 4 * CHUNK_TOKENS]}
OTHER = {"other": [3, 3 * CHUNK_TOKENS + 5]}
CROWD = {f"crowd{seed}": [10 + seed, 600 + 40 * seed] for seed in range(8)}
CROWD_STEP = {"prompts": CROWD, "max_tokens": 80, "blocks": 90, "model_len": 1024, "batched_tokens": 1024}


def run_engine(model: Path, *steps: dict[str, Any], processes: int = 0) -> tuple[list[dict[str, Any]], str]:
    """What each step answered, and everything the process said."""
    job = model.parent / "job.json"
    job.write_text(json.dumps({"model": str(model), "steps": steps}))
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": str(processes)}
    done = subprocess.run(
        [sys.executable, str(ENGINE), str(job)],
        capture_output=True,
        text=True,
        timeout=PROCESS_MAX_S,
        env=environment,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"the engine's process ended with {done.returncode}:\n{said[-6000:]}"
    lines = [line.removeprefix("ANSWER ") for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert len(lines) == len(steps), said[-6000:]
    return [json.loads(line) for line in lines], said


def options(directory: Path | None, slots: int = 16, **more: Any) -> dict[str, Any]:
    return {
        **({"local_disk": str(directory), "max_local_disk_size": 0.25, "disk_min_free_size": 0} if directory else {}),
        "local_cpu": False,
        "use_only_staging_buffer": True,
        "max_local_cpu_size": slots * SLOT_GIB,
        "chunk_size": CHUNK_TOKENS,
        **more,
    }


def write_model(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vllm") / "model")


@pytest.fixture(scope="module")
def reference(model: Path) -> dict[str, list[int]]:
    """The tokens of a vLLM without a connector."""
    seen, _ = run_engine(model, {"prompts": {**LONG, **BORDER, **OTHER}}, CROWD_STEP)
    return {**seen[0]["tokens"], **seen[1]["tokens"]}


@pytest.fixture(scope="module")
def stored(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which an engine that has ended left the long and the border prompt. Copy it to use
    it."""
    directory = tmp_path_factory.mktemp("stored") / "kv"
    directory.mkdir()
    step = {"prompts": {**LONG, **BORDER}, "forebay": options(directory), "events_port": free_port()}
    [seen], _ = run_engine(model, step)
    assert seen["cached"] == {"long": 0, "border": 0}
    assert seen["stats"]["connector_chunks_stored"] == 12
    # A router is told of each chunk, block by block, under the engine's own hashes.
    assert_announced(seen["events"], chunks=12)
    assert seen["metrics"]["vllm:forebay_stored_chunks"] == 12
    assert seen["metrics"]["vllm:forebay_prompt_tokens"] == LONG["long"][1] + BORDER["border"][1]
    assert seen["metrics"]["vllm:forebay_hit_tokens"] == 0
    return directory


def assert_announced(events: list[dict[str, Any]], chunks: int) -> None:
    assert [event["type"] for event in events] == ["BlockStored"] * chunks
    blocks = [block for event in events for block in event["block_hashes"]]
    assert len(set(blocks)) == chunks * CHUNK_TOKENS // BLOCK_TOKENS
    for event in events:
        assert (event["medium"], event["locality"], event["block_size"]) == ("STORAGE", "LOCAL", BLOCK_TOKENS)
        assert len(event["token_ids"]) == CHUNK_TOKENS
        assert event["parent_block_hash"] is None or event["parent_block_hash"] in blocks


@pytest.fixture
def warm(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "kv"))


def assert_at_rest(seen: dict[str, Any]) -> None:
    """Guarantee 4: nothing leaks."""
    stats = seen["stats"]
    assert seen["requests_left"] == 0
    at_rest = (
        "connector_requests",
        "connector_loads_open",
        "connector_stores_open",
        "connector_copies_open",
        "worker_loads_open",
        "worker_stores_open",
        "worker_copies_open",
        "worker_requests_held",
        "open_tickets",
        "remote_open_tickets",
        "remote_queued",
        "staging_in_use",
    )
    # The worker's are not seen where it has a process of its own.
    assert {name: stats.get(name, 0) for name in at_rest} == dict.fromkeys(at_rest, 0)


def assert_same_tokens(seen: dict[str, Any], reference: dict[str, list[int]]) -> None:
    assert seen["tokens"] == {name: reference[name] for name in seen["tokens"]}


def test_g1_g2_g6_a_restarted_engine_answers_from_disk_through_two_slots(
    model: Path, reference: dict[str, list[int]], warm: Path
) -> None:
    forebay = options(warm, slots=2, http_listen=free_port())
    step = {"prompts": {**LONG, **BORDER}, "forebay": forebay, "events_port": free_port()}
    [seen], _ = run_engine(model, step)
    assert_same_tokens(seen, reference)
    # The worker is in the scheduler's process: it is asked itself, also when no step is made.
    assert [mover["age_s"] for mover in seen["now"]["movers"]] == [0]
    assert seen["now"]["tiers"][0]["loaded_chunks"] == 12
    computed = LONG["long"][1] - seen["cached"]["long"]
    assert computed == 16 and computed / LONG["long"][1] < 0.05
    # A prompt that ends on a chunk's border: its last chunk is loaded but for the one block that must be
    # computed.
    assert BORDER["border"][1] - seen["cached"]["border"] == BLOCK_TOKENS
    assert seen["stats"]["connector_chunks_loaded"] == 12
    assert "connector_chunks_stored" not in seen["stats"], "what was loaded must not be stored again"
    assert seen["stats"]["staging_slots"] == 2
    assert_at_rest(seen)
    # What an earlier process stored is announced when it is asked for.
    assert_announced(seen["events"], chunks=12)
    metrics = seen["metrics"]
    loaded = seen["cached"]["long"] + seen["cached"]["border"]
    assert metrics["vllm:forebay_hit_tokens"] == metrics["vllm:forebay_loaded_tokens"] == loaded
    assert metrics["vllm:forebay_load_seconds"] == 2 and metrics["vllm:forebay_failed_loads"] == 0


def test_g6_an_engine_in_its_own_processes_loads_and_stores(
    model: Path, reference: dict[str, list[int]], warm: Path
) -> None:
    [first], said = run_engine(model, {"prompts": {**LONG, **OTHER}, "forebay": options(warm)}, processes=1)
    assert_same_tokens(first, reference)
    assert first["cached"] == {"long": 8 * CHUNK_TOKENS, "other": 0}
    assert "worker closed" in said and "scheduler closed" in said
    [second], _ = run_engine(model, {"prompts": OTHER, "forebay": options(warm)})
    assert_same_tokens(second, reference)
    assert second["cached"] == {"other": 3 * CHUNK_TOKENS}


def test_g1_flipped_bytes_on_disk_are_recomputed_counted_and_stored_again(
    model: Path, reference: dict[str, list[int]], warm: Path
) -> None:
    flip_bytes(warm / "data")
    step = {"prompts": LONG, "forebay": options(warm)}
    [spoilt, mended], said = run_engine(model, step, step)
    assert_same_tokens(spoilt, reference)
    assert spoilt["stats"]["connector_chunks_lost"] > 0
    assert spoilt["stats"]["connector_chunks_stored"] > 0
    assert "load_failed" in said
    assert_at_rest(spoilt)
    assert_same_tokens(mended, reference)
    assert mended["cached"]["long"] == 8 * CHUNK_TOKENS


def test_g1_g6_two_ranks_answer_from_disk_and_compute_what_one_of_them_lost(model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    directory.mkdir()
    step = {"prompts": OTHER, "forebay": options(directory), "tensor_parallel": 2}
    shown = {**step, "forebay": options(directory, http_listen=free_port())}
    [cold, warm], _ = run_engine(model, step, shown)
    now = warm["now"]
    assert {mover["worker"] for mover in now["movers"]} <= {0, 1} and now["movers"], "each says what it does"
    assert now["lookups"]["hit"] > 0 and now["tiers"][0]["chunks"] == 2 * 3 and now["health"]["live"]
    assert cold["cached"] == {"other": 0} and cold["stats"]["connector_chunks_stored"] == 2 * 3
    assert_same_tokens(warm, cold["tokens"])
    assert warm["cached"] == {"other": 3 * CHUNK_TOKENS} and warm["stats"]["connector_chunks_loaded"] == 2 * 3
    assert "connector_chunks_stored" not in warm["stats"]
    damage_second_rank(directory)
    [spoilt], said = run_engine(model, step)
    assert_same_tokens(spoilt, cold["tokens"])
    assert spoilt["stats"]["connector_chunks_lost"] > 0 and "load_failed" in said
    assert spoilt["stats"]["connector_chunks_loaded"] >= 3, "the first rank lost nothing"
    assert spoilt["stats"]["connector_chunks_stored"] > 0
    for seen in (cold, warm, spoilt):
        assert_at_rest(seen)


def damage_second_rank(directory: Path) -> None:
    """Flips a byte in each of its chunks (docs/FORMAT.md): home notes the namespace of the first rank only."""
    [first_rank] = json.loads((directory / "namespaces").read_text())
    data = bytearray((directory / "data").read_bytes())
    damaged = 0
    for trailer in range(0, len(data), 4096):
        namespace = data[trailer + 32 : trailer + 40].hex()
        if data[trailer : trailer + 7] == b"FOREBAY" and namespace != first_rank:
            data[trailer - 4000] ^= 0x10
            damaged += 1
    assert damaged == 3
    (directory / "data").write_bytes(data)


def flip_bytes(data: Path) -> None:
    """One byte in every 64 KiB, so that no chunk is spared."""
    with data.open("r+b") as file:
        for position in range(40_000, data.stat().st_size, 65_536):
            file.seek(position)
            byte = file.read(1)
            file.seek(position)
            file.write(bytes([byte[0] ^ 0x10]))


def test_g9_a_cache_that_cannot_be_opened_leaves_inference_alone_and_bad_options_are_refused(
    model: Path, reference: dict[str, list[int]], tmp_path: Path
) -> None:
    a_file = tmp_path / "a_file"
    a_file.write_text("not a directory")
    locked = tmp_path / "locked"
    locked.mkdir()
    window = write_model(
        tmp_path / "window", architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=64
    )
    steps = [
        {"prompts": OTHER, "forebay": options(a_file / "kv")},
        {"prompts": OTHER, "forebay": options(locked), "locked_by_us": options(locked)},
        {"prompts": OTHER, "forebay": options(tmp_path, max_local_disk_sise=1), "may_refuse": True},
        {"prompts": OTHER, "forebay": options(tmp_path), "model": str(window), "may_refuse": True},
    ]
    [no_directory, owned, bad_key, window_model], said = run_engine(model, *steps)
    for seen in (no_directory, owned):
        assert_same_tokens(seen, reference)
    assert said.count("cannot be opened; inference goes on without it") == 2
    assert "max_local_disk_sise" in bad_key["refused"]
    assert "full attention" in window_model["refused"] and "SlidingWindowSpec" in window_model["refused"]


def test_g3_g4_preempted_and_aborted_requests_give_the_same_tokens_and_leave_nothing_behind(
    model: Path, reference: dict[str, list[int]], tmp_path: Path
) -> None:
    directory = tmp_path / "kv"
    directory.mkdir()
    forebay = options(directory, slots=2, chunk_size=64)
    crowd = {**CROWD_STEP, "forebay": forebay}
    aborted = {**crowd, "abort_after": {"crowd1": 3, "crowd4": 6, "crowd6": 12}}
    [first, second, third], _ = run_engine(model, aborted, crowd, aborted)
    for seen in (first, second, third):
        assert_same_tokens(seen, reference)
        assert seen["preemptions"] > 0
        assert seen["blocks_free"] == 90 - 1  # one is vLLM's own null block
        assert_at_rest(seen)
    assert second["stats"]["connector_chunks_loaded"] > 0
    assert len(first["tokens"]) == len(CROWD) - 3 and len(second["tokens"]) == len(CROWD)


def test_g1_g5_g9_engines_that_share_a_store_and_nothing_else(
    model: Path, reference: dict[str, list[int]], tmp_path: Path
) -> None:
    with RedisServer() as redis:
        store = {"remote_url": redis.url, "lookup_wait_s": 20}
        alone = {"prompts": LONG, "forebay": options(None, **store)}
        # In their own processes, as they are served: what is being stored when they are told to end is stored.
        [cold, producer], _ = run_engine(
            model,
            alone,
            {"prompts": {**BORDER, **OTHER}, "forebay": options(tmp_path / "first", **store), "role": "kv_producer"},
            processes=1,
        )
        assert cold["cached"] == {"long": 0} and redis.keys() == 8 + 7
        everything = {**LONG, **BORDER, **OTHER}
        [salted, other_salt, consumer, loaded], said = run_engine(
            model,
            {"prompts": LONG, "forebay": options(None, cache_salt="another", **store)},
            {"prompts": LONG, "forebay": options(None, cache_salt="a third", **store)},
            {"prompts": everything, "forebay": options(tmp_path / "second", **store), "role": "kv_consumer"},
            {**alone, "forebay": options(None, slots=2, **store), "kill": redis.pid, "prompts_after": OTHER},
        )
    for seen in (cold, producer, salted, other_salt, consumer, loaded):
        assert_same_tokens(seen, reference)
    for seen in (salted, other_salt, consumer, loaded):
        assert_at_rest(seen)
    assert salted["cached"] == other_salt["cached"] == {"long": 0}, "namespaces never meet"
    computed = {name: tokens - consumer["cached"][name] for name, (_, tokens) in everything.items()}
    assert computed == {"long": 16, "border": BLOCK_TOKENS, "other": 5}, "a consumer computes the tail"
    assert consumer["stats"]["remote_loaded"] == 15 and "connector_lookups_out_of_time" not in consumer["stats"]
    assert loaded["cached"] == {"long": 8 * CHUNK_TOKENS, "other": 0}, "what was there until the server was killed"
    assert loaded["stats"]["staging_slots"] == 2 and "store_failed" in said

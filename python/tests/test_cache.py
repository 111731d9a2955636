"""The Python façade: the names others script against, and what each promises."""

import asyncio
import logging
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import forebay

CHUNK = 64 << 10
GIB = 1 << 30
WAIT_S = 60


def config(directory, slots=4, **more):
    keys = {
        "local_disk": str(directory),
        "max_local_disk_size": (64 << 20) / GIB,
        "local_cpu": False,
        "use_only_staging_buffer": True,
        "max_local_cpu_size": slots * CHUNK / GIB,
        "disk_min_free_size": 0,
    }
    return forebay.Config(**{**keys, **more})


def prompt(first_token, chunks):
    return forebay.chunk_keys([first_token, *range(chunks * 4 - 1)], 4, forebay.Namespace(model="test"))


def payload(key):
    return np.random.default_rng(list(key)).integers(0, 256, CHUNK, dtype=np.uint8).tobytes()


@pytest.fixture
def cache(tmp_path):
    with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as cache:
        yield cache


def test_what_was_stored_is_found_and_loaded(cache):
    keys = prompt(1, 10)
    outcomes = cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
    assert [(outcome.key, outcome.status, outcome.reason) for outcome in outcomes] == [
        (key, "stored", "") for key in keys
    ]
    assert all(outcome.tiers == {"disk": "stored"} for outcome in outcomes)
    with cache.lookup([*keys, *prompt(2, 1)]) as hit:
        assert (hit.status, hit.chunks) == ("hit", 10)
        buffers = [bytearray(CHUNK) for _ in keys]
        outcomes = cache.load(keys[: hit.chunks], buffers).wait(WAIT_S)
    assert [(outcome.status, outcome.tier) for outcome in outcomes] == [("loaded", "disk")] * 10
    assert [bytes(buffer) for buffer in buffers] == [payload(key) for key in keys]
    assert cache.stats()["open_tickets"] == 0


def test_a_miss_is_a_miss(cache):
    keys = prompt(1, 2)
    lookup = cache.lookup(keys)
    assert (lookup.status, lookup.chunks) == ("miss", 0)
    outcome = cache.load(keys[:1], [bytearray(CHUNK)]).wait(WAIT_S)[0]
    assert (outcome.status, outcome.reason, outcome.tier) == ("miss", "not there", None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(CHUNK // 4, dtype=np.float32),
        lambda: np.arange(CHUNK // 8, dtype=np.int64).reshape(8, -1),
        lambda: memoryview(bytearray(range(256)) * (CHUNK // 256)),
        lambda: bytes(CHUNK),
    ],
)
def test_any_contiguous_buffer_serves(cache, make):
    keys = prompt(1, 1)
    assert cache.store(keys, [make()]).wait(WAIT_S)[0].status == "stored"
    back = np.zeros(CHUNK, dtype=np.uint8)
    assert cache.load(keys, [back]).wait(WAIT_S)[0].status == "loaded"
    assert back.tobytes() == memoryview(make()).tobytes()


@pytest.mark.parametrize("length", [CHUNK, CHUNK - 4096, 4096, 4095, 1])
def test_a_page_buffer_is_stored_from_and_loaded_into(tmp_path, length):
    with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as cache:
        keys = prompt(1, 20)
        data = [payload(key)[:length] for key in keys]
        buffers = [forebay.PageBuffer(length) for _ in keys]
        for buffer, chunk in zip(buffers, data, strict=True):
            assert (len(buffer), bytes(buffer)) == (length, bytes(length))
            assert np.frombuffer(buffer, dtype=np.uint8).ctypes.data % 4096 == 0
            memoryview(buffer)[:] = chunk
        outcomes = cache.store(keys, buffers).wait(WAIT_S)
        assert [outcome.status for outcome in outcomes] == ["stored"] * len(keys)
        buffers.reverse()
        assert [outcome.status for outcome in cache.load(keys, buffers).wait(WAIT_S)] == ["loaded"] * len(keys)
        assert [bytes(buffer) for buffer in buffers] == data
        plain = [bytearray(length) for _ in keys]
        assert [outcome.status for outcome in cache.load(keys, plain).wait(WAIT_S)] == ["loaded"] * len(keys)
        assert plain == data


def test_a_page_buffer_lives_as_long_as_what_uses_it(tmp_path):
    with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as cache:
        keys = prompt(1, 50)
        view = memoryview(forebay.PageBuffer(3))
        view[:] = b"abc"
        handles = []
        for key in keys:
            buffer = forebay.PageBuffer(CHUNK)
            memoryview(buffer)[:] = payload(key)
            handles.append(cache.store([key], [buffer]))
            del buffer
        assert {handle.wait(WAIT_S)[0].status for handle in handles} == {"stored"}
        back = [bytearray(CHUNK) for _ in keys]
        cache.load(keys, back).wait(WAIT_S)
        assert back == [payload(key) for key in keys]
        assert view.tobytes() == b"abc"


def test_a_store_of_what_is_there_is_present(cache):
    keys = prompt(1, 3)
    data = [payload(key) for key in keys]
    cache.store(keys, data).wait(WAIT_S)
    assert [outcome.status for outcome in cache.store(keys, data).wait(WAIT_S)] == ["present"] * 3


def test_on_complete_is_called_once_a_chunk_before_the_handle_is_done(cache):
    keys = prompt(1, 20)
    calls = []
    outcomes = cache.store(
        keys, [payload(key) for key in keys], lambda key, outcome: calls.append((key, outcome.status))
    )
    outcomes = outcomes.wait(WAIT_S)
    assert sorted(calls) == sorted((outcome.key, outcome.status) for outcome in outcomes)
    calls.clear()
    cache.load(keys, [bytearray(CHUNK) for _ in keys], lambda key, outcome: calls.append((key, outcome.status))).wait(
        WAIT_S
    )
    assert sorted(calls) == sorted((key, "loaded") for key in keys)


def test_a_callback_that_raises_is_logged_and_costs_nothing(cache, caplog):
    def broken(key, outcome):
        raise RuntimeError("a broken callback")

    keys = prompt(1, 3)
    with caplog.at_level(logging.ERROR, logger="forebay"):
        outcomes = cache.store(keys, [payload(key) for key in keys], broken).wait(WAIT_S)
    assert [outcome.status for outcome in outcomes] == ["stored"] * 3
    assert sum("on_complete" in record.message for record in caplog.records) == 3
    assert "a broken callback" in caplog.text


def test_a_handle_can_be_awaited(cache):
    async def run():
        keys = prompt(1, 5)
        stored = await cache.store(keys, [payload(key) for key in keys])
        buffers = [bytearray(CHUNK) for _ in keys]
        loaded = await cache.load(keys, buffers)
        again = await asyncio.gather(*(wrap(cache.store(keys, buffers)) for _ in range(4)))
        return stored, loaded, again

    async def wrap(handle):
        return await handle

    stored, loaded, again = asyncio.run(run())
    assert {outcome.status for outcome in stored} == {"stored"}
    assert {outcome.status for outcome in loaded} == {"loaded"}
    assert {outcome.status for outcomes in again for outcome in outcomes} == {"present"}


def test_a_wait_that_is_too_short_times_out_and_the_batch_goes_on(tmp_path):
    with forebay.Cache(config(tmp_path, slots=2), chunk_bytes=CHUNK) as cache:
        keys = prompt(1, 500)
        handle = cache.store(keys, [payload(key) for key in keys])
        with pytest.raises(TimeoutError):
            handle.wait(0)
        assert len(handle.wait(WAIT_S)) == 500
        assert handle.done()


def test_a_namespace_is_cleared_and_the_others_stay(tmp_path):
    with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as cache:
        mine, others = (forebay.Namespace(model=model) for model in ("mine", "others"))
        keys = {each: forebay.chunk_keys([1] * 64, 16, each) for each in (mine, others)}
        for each in keys.values():
            cache.store(each, [payload(key) for key in each]).wait(WAIT_S)
        assert cache.clear(mine) == 4
        assert [cache.lookup(keys[each]).chunks for each in (mine, others)] == [0, 4]
        assert cache.clear() == 4
        assert cache.stats()["chunks"] == 0 and cache.stats()["cleared"] == 8


def test_the_disk_becomes_smaller_and_larger_while_it_is_used(tmp_path):
    with forebay.Cache(config(tmp_path, max_local_disk_size=(8 << 20) / GIB), chunk_bytes=CHUNK) as cache:
        keys = prompt(1, 20)
        cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
        capacity = cache.stats()["capacity_bytes"]
        smaller = cache.set_disk_capacity(4 << 20)
        assert smaller == cache.stats()["capacity_bytes"] == capacity - (4 << 20)
        assert cache.stats()["bytes"] <= smaller
        assert cache.set_disk_capacity(8 << 20) == capacity
        for bytes, kind in [(0, "argument"), (1 << 62, "no_space")]:
            with pytest.raises(forebay.Error) as error:
                cache.set_disk_capacity(bytes)
            assert error.value.kind == kind
        with pytest.raises(OverflowError):
            cache.set_disk_capacity(-1)


def test_what_is_pinned_stays_until_it_is_unpinned(tmp_path):
    mine = forebay.Namespace(model="mine")
    with forebay.Cache(config(tmp_path, max_local_disk_size=(4 << 20) / GIB), chunk_bytes=CHUNK) as cache:
        by_key, by_namespace = prompt(1, 5), forebay.chunk_keys([1] * 80, 16, mine)
        for keys in (by_key, by_namespace):
            cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
        assert cache.pin(by_key) == (5, 0) and cache.pin(namespace=mine) == (5, 0)
        assert cache.pin(prompt(2, 3)) == (0, 3)
        assert cache.stats()["pinned_chunks"] == 10
        for number in range(3, 30):
            keys = prompt(number, 5)
            cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
        assert cache.stats()["evictions"] > 50
        assert cache.lookup(by_key).chunks == cache.lookup(by_namespace).chunks == 5
        assert cache.unpin(namespace=mine) == 5 and cache.unpin(by_key[3:]) == 2 and cache.unpin() == 3
        assert cache.stats()["pinned_chunks"] == cache.stats()["pinned_bytes"] == 0
        with pytest.raises(forebay.Error):
            cache.pin(by_key, mine)


def test_a_lookup_pins_until_it_is_released(tmp_path):
    with forebay.Cache(config(tmp_path, max_local_disk_size=(4 << 20) / GIB), chunk_bytes=CHUNK) as cache:
        pinned = prompt(1, 5)
        cache.store(pinned, [payload(key) for key in pinned]).wait(WAIT_S)
        with cache.lookup(pinned):
            for number in range(2, 30):
                keys = prompt(number, 5)
                cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
            assert cache.stats()["evictions"] > 50
            outcomes = cache.load(pinned, [bytearray(CHUNK) for _ in pinned]).wait(WAIT_S)
            assert {outcome.status for outcome in outcomes} == {"loaded"}
        assert cache.stats()["open_tickets"] == 0


def test_it_comes_back_after_a_restart(tmp_path):
    keys = prompt(1, 10)
    for status in ["stored", "present", "present"]:
        with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as cache:
            outcomes = cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
            assert {outcome.status for outcome in outcomes} == {status}


def test_many_threads_share_a_cache_of_two_slots(tmp_path):
    wrong = []
    with forebay.Cache(config(tmp_path, slots=2), chunk_bytes=CHUNK) as cache:

        def work(number):
            keys = prompt(number % 3, 30)
            cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
            with cache.lookup(keys) as hit:
                buffers = [bytearray(CHUNK) for _ in range(hit.chunks)]
                outcomes = cache.load(keys[: hit.chunks], buffers).wait(WAIT_S)
            wrong.extend(outcome for outcome in outcomes if outcome.status != "loaded")
            wrong.extend(key for key, buffer in zip(keys, buffers, strict=True) if bytes(buffer) != payload(key))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert wrong == []
        stats = cache.stats()
        assert (stats["staging_in_use"], stats["open_tickets"]) == (0, 0)
        assert stats["staging_in_use_max"] <= 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cache: cache.store(prompt(1, 1), [bytes(CHUNK + 1)]), "larger than chunk_bytes"),
        (lambda cache: cache.store(prompt(1, 2), [bytes(CHUNK)]), "2 keys but 1 buffers"),
        (lambda cache: cache.store([b"short"], [bytes(CHUNK)]), "32 bytes"),
        (lambda cache: cache.load(prompt(1, 1), [bytes(CHUNK)]), "writable"),
        (
            lambda cache: cache.store(prompt(1, 1), [np.zeros((8, CHUNK), dtype=np.uint8)[:, :1]]),
            "contiguous",
        ),
        (lambda cache: cache.store(prompt(1, 1), ["text"]), "buffer"),
        (lambda cache: forebay.chunk_keys([1, 2], 0), "chunk_size"),
        (lambda cache: forebay.chunk_keys([-1] * 8, 4), "token id"),
    ],
)
def test_a_bad_argument_is_refused_by_name(cache, call, message):
    with pytest.raises(forebay.Error, match=message) as caught:
        call(cache)
    assert caught.value.kind == "argument"
    assert cache.stats()["chunks"] == 0


def test_a_directory_in_use_is_refused_with_its_owner(tmp_path, cache):
    directory = cache  # the fixture owns its own directory: open that one again
    assert directory is not None
    with forebay.Cache(config(tmp_path / "a"), chunk_bytes=CHUNK):
        with pytest.raises(forebay.Error, match="in use by process") as caught:
            forebay.Cache(config(tmp_path / "a"), chunk_bytes=CHUNK)
        assert caught.value.kind == "locked"


def test_a_closed_cache_says_so(tmp_path):
    cache = forebay.Cache(config(tmp_path), chunk_bytes=CHUNK)
    cache.close()
    cache.close()
    with pytest.raises(forebay.Error, match="closed"):
        cache.lookup(prompt(1, 1))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_local_cpu_sise": 1}, "max_local_cpu_size"),
        ({"max_local_disk_size": "large"}, "max_local_disk_size"),
        ({"max_local_disk_size": 0}, "max_local_disk_size"),
        ({"max_local_cpu_size": -1}, "max_local_cpu_size"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"local_disk": None}, "local_disk"),
        ({"max_local_cpu_size": CHUNK / GIB}, "max_local_cpu_size"),
    ],
)
def test_a_bad_configuration_is_refused_by_key(tmp_path, keys, message):
    with pytest.raises(forebay.Error, match=message) as caught:
        forebay.Cache(config(tmp_path, **keys), chunk_bytes=CHUNK)
    assert caught.value.kind == "config"


def test_several_directories_are_one_cache(tmp_path):
    directories = [tmp_path / "one", tmp_path / "two"]
    settings = config(tmp_path, local_disk=directories)
    assert settings.to_dict()["local_disk"] == [str(path) for path in directories]
    assert config(tmp_path).to_dict()["local_disk"] == str(tmp_path)
    keys = prompt(1, 6)
    with forebay.Cache(settings, chunk_bytes=CHUNK) as cache:
        cache.store(keys, [payload(key) for key in keys]).wait(WAIT_S)
    as_text = ",".join(str(path) for path in directories)
    with forebay.Cache(config(tmp_path, local_disk=as_text), chunk_bytes=CHUNK) as cache, cache.lookup(keys) as hit:
        assert hit.chunks == len(keys)
    with pytest.raises(forebay.Error, match="home") as caught:
        forebay.Cache(config(tmp_path, local_disk=directories[::-1]), chunk_bytes=CHUNK)
    assert caught.value.kind == "config"


def test_what_is_kept_of_a_closed_cache_keeps_neither_directory_nor_interpreter(tmp_path):
    keys = prompt(1, 3)
    cache = forebay.Cache(config(tmp_path), chunk_bytes=CHUNK)
    handle = cache.store(keys, [payload(key) for key in keys])
    handle.wait(WAIT_S)
    lookup = cache.lookup(keys)
    cache.close()
    with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as again:
        assert again.lookup(keys).chunks == 3
    lookup.release()
    assert handle.done()


def test_dropping_everything_with_chunks_under_way_does_not_stop_the_interpreter(tmp_path):
    keys = prompt(1, 200)
    cache = forebay.Cache(config(tmp_path, slots=2), chunk_bytes=CHUNK)
    handle = cache.store(keys, [bytearray(payload(key)) for key in keys], lambda key, outcome: None)
    started_s = time.monotonic()
    del cache
    del handle
    assert time.monotonic() - started_s < 5


def test_a_program_may_end_without_closing(tmp_path):
    # One write a line: callbacks run on several threads.
    program = f"""
import sys
import forebay
config = forebay.Config(local_disk={str(tmp_path)!r}, max_local_disk_size=0.0625, use_only_staging_buffer=True,
                        max_local_cpu_size={2 * CHUNK / GIB}, disk_min_free_size=0)
cache = forebay.Cache(config, {CHUNK})
keys = forebay.chunk_keys(range(800), 4)
tell = lambda key, outcome: sys.stdout.write(outcome.status + "\\n")
handle = cache.store(keys, [bytes({CHUNK}) for _ in keys], tell)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["stored"] * 200
    assert ended.stderr == ""


@pytest.mark.parametrize("child_ends_by", ["sys.exit(0)", "del cache; os._exit(0)"])
def test_a_forked_child_takes_nothing_from_its_parent(tmp_path, child_ends_by):
    program = f"""
import os, sys, urllib.request
import forebay
config = forebay.Config(local_disk={str(tmp_path)!r}, max_local_disk_size=0.0625, use_only_staging_buffer=True,
                        max_local_cpu_size={2 * CHUNK / GIB}, disk_min_free_size=0, http_listen=0)
cache = forebay.Cache(config, {CHUNK})
child = os.fork()
if child == 0:
    {child_ends_by}
assert os.waitpid(child, 0)[1] == 0
try:
    forebay.Cache(config, {CHUNK})
except forebay.Error as error:
    print(error.kind)
keys = forebay.chunk_keys(range(8), 4)
print(*(end.status for end in cache.store(keys, [bytes({CHUNK}) for _ in keys]).wait(30)))
print(urllib.request.urlopen(f"http://{{cache.http_address}}/healthz", timeout=30).status)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout.split() == ["locked", "stored", "stored", "200"], ended.stderr


def test_a_child_that_lives_on_does_not_keep_the_port(tmp_path):
    program = f"""
import os, socket, time
import forebay
def open_at(port):
    config = forebay.Config(local_disk={str(tmp_path)!r}, max_local_disk_size=0.0625, use_only_staging_buffer=True,
                            max_local_cpu_size={2 * CHUNK / GIB}, disk_min_free_size=0, http_listen=port)
    return forebay.Cache(config, {CHUNK})
cache = open_at(0)
address = cache.http_address
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)  # until the parent is done
    cache.close()
    os._exit(0)
cache.close()
try:
    socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=30)
except ConnectionRefusedError:
    print("refused")
os.close(writer)
print(os.waitpid(child, 0)[1])
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["refused", "0"], ended.stderr


def test_values_in_values_without_end_are_refused():
    around = []
    around.append(around)
    table = {}
    table["a"] = table
    deep = None
    for _ in range(100_000):
        deep = [deep]
    for value in (around, table, deep):
        with pytest.raises(forebay.Error, match="without end"):
            forebay.Config(local_disk=value, max_local_disk_size=1.0)


@pytest.mark.parametrize("opened", [f"forebay.Cache(config, {CHUNK})", f"forebay.Mover(config, {CHUNK})"])
def test_threads_that_use_what_is_closed_do_not_hold_each_other_up(tmp_path, opened):
    program = f"""
import threading
import forebay
config = forebay.Config(local_disk={str(tmp_path)!r}, max_local_disk_size=0.0625, use_only_staging_buffer=True,
                        max_local_cpu_size={2 * CHUNK / GIB}, disk_min_free_size=0)
opened = {opened}
opened.close()
def use():
    for _ in range(2_000):
        try:
            opened.stats()
        except forebay.Error as error:
            assert error.kind == "closed"
threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)

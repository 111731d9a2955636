"""Control plane and mover apart, as an engine's scheduler and workers use them."""

import pickle

import numpy as np
import pytest

import forebay

LAYERS, BLOCKS, PAGE = 3, 16, 4096
BLOCKS_PER_CHUNK = 2
CHUNK = LAYERS * BLOCKS_PER_CHUNK * PAGE
GIB = 1 << 30
WAIT_S = 60


@pytest.fixture(params=[1, 3], ids=["one drive", "three drives"])
def planes(tmp_path, request):
    directories = [str(tmp_path / f"drive{number}") for number in range(request.param)]
    config = forebay.Config(
        local_disk=directories,
        max_local_disk_size=(64 << 20) / GIB,
        use_only_staging_buffer=True,
        max_local_cpu_size=2 * CHUNK / GIB,
        disk_min_free_size=0,
    )
    control = forebay.ControlPlane(config, CHUNK)
    mover = forebay.Mover(config, CHUNK)
    yield control, mover
    mover.close()
    control.close()


def pages(memory):
    """KV memory [layer, block, page] as an engine lays it out."""
    layer_stride, block_stride, _ = memory.strides
    offsets = [layer * layer_stride for layer in range(LAYERS)]
    return forebay.PagedMemory(memory, memory.ctypes.data, memory.nbytes, offsets, block_stride, PAGE)


def random_memory(seed):
    return np.random.default_rng(seed).integers(0, 256, (LAYERS, BLOCKS, PAGE), dtype=np.uint8)


def keys(count):
    return forebay.chunk_keys(list(range(count * 4)), 4, forebay.Namespace(model="test"))


def store(planes, chunk_keys, sources):
    control, mover = planes
    plans = control.plan_store(chunk_keys, CHUNK)
    assert {plan.status for plan in plans} == {"write"}
    # The plans travel in an engine's own messages.
    messages = pickle.loads(pickle.dumps([plan.message for plan in plans]))
    transfer = mover.store(messages, sources)
    transfer.wait(WAIT_S)
    assert transfer.done()
    assert transfer.released()
    return transfer.poll()


def test_pages_are_gathered_and_scattered(planes):
    control, mover = planes
    there, back = random_memory(1), np.zeros((LAYERS, BLOCKS, PAGE), dtype=np.uint8)
    chunk_keys = keys(2)
    results = store(planes, chunk_keys, [pages(there).chunk([3, 9]), pages(there).chunk([0, 15])])
    assert control.lookup(chunk_keys).status == "pending"
    for message, status, reason in results:
        assert (status, reason) == ("written", "")
        assert control.finish(message, status, reason)
        assert not control.finish(message, status, reason), "a plan is finished once"
    lookup = control.lookup(chunk_keys)
    assert lookup.chunks == 2
    plans = control.plan_load(chunk_keys)
    lookup.release()
    # Other blocks than they came from, and one page that the engine has already.
    transfer = mover.load([plan.message for plan in plans], [pages(back).chunk([5, 6]), pages(back).chunk([-1, 7])])
    transfer.wait(WAIT_S)
    for message, status, reason in transfer.poll():
        assert (status, reason) == ("loaded", "")
        assert control.finish(message, status)
    assert (back[:, 5] == there[:, 3]).all()
    assert (back[:, 6] == there[:, 9]).all()
    assert (back[:, 7] == there[:, 15]).all()
    assert not back[:, [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15]].any()
    assert control.stats()["open_tickets"] == 0
    assert mover.stats()["staging_in_use"] == 0


class Device:
    """Memory that only its owner can copy, as a GPU's is."""

    def __init__(self, data):
        self.data = bytearray(data)

    def fill(self, offset, view):
        view[:] = self.data[offset : offset + len(view)]

    def drain(self, offset, view):
        self.data[offset : offset + len(view)] = view


def test_memory_that_copies_for_itself(planes):
    control, mover = planes
    data = random_memory(2).tobytes()[:CHUNK]
    for message, status, _ in store(planes, keys(1), [Device(data)]):
        assert control.finish(message, status)
    back = Device(bytes(CHUNK))
    plans = control.plan_load(keys(1))
    transfer = mover.load([plans[0].message], [back])
    transfer.wait(WAIT_S)
    assert transfer.poll()[0][1] == "loaded"
    assert bytes(back.data) == data
    assert control.finish(plans[0].message, "loaded")


class Broken(Device):
    def fill(self, offset, view):
        raise RuntimeError("the device is gone")


def test_memory_that_fails_fails_its_chunk(planes):
    control, mover = planes
    message, status, why = store(planes, keys(1), [Broken(bytes(CHUNK))])[0]
    assert status == "failed"
    assert "the device is gone" in why
    assert control.finish(message, status, why)
    assert control.lookup(keys(1)).status == "miss"
    assert mover.stats()["staging_in_use"] == 0


def test_pages_outside_the_memory_are_refused():
    memory = random_memory(3)
    with pytest.raises(forebay.Error, match="block 16"):
        pages(memory).chunk([16])
    with pytest.raises(forebay.Error, match="block -2"):
        pages(memory).chunk([-2])


def test_a_store_of_pages_without_memory_fails(planes):
    control, _ = planes
    message, status, why = store(planes, keys(1), [pages(random_memory(4)).chunk([1, -1])])[0]
    assert (status, "without memory" in why) == ("failed", True)
    assert control.finish(message, status, why)


def test_a_message_that_was_damaged_is_refused(planes):
    control, mover = planes
    message = control.plan_store(keys(1), CHUNK)[0].message
    for at in range(8, len(message)):
        damaged = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        with pytest.raises(forebay.Error, match="no message"):
            mover.store([damaged], [bytes(CHUNK)])
    assert control.finish(message, "failed", "given up")


def test_a_failed_read_is_not_found_again(planes, tmp_path):
    control, mover = planes
    chunk_keys = keys(2)
    for message, status, _ in store(planes, chunk_keys, [bytes(CHUNK), bytes(CHUNK)]):
        assert control.finish(message, status)
    with open(tmp_path / "drive0" / "data", "r+b") as data:
        data.seek(8192)
        data.write(b"\xff")
    plans = control.plan_load(chunk_keys)
    transfer = mover.load([plan.message for plan in plans], [bytearray(CHUNK), bytearray(CHUNK)])
    transfer.wait(WAIT_S)
    results = {message: (status, reason) for message, status, reason in transfer.poll()}
    assert results[plans[0].message] == ("miss", "corrupt: payload")
    assert results[plans[1].message] == ("loaded", "")
    for message, (status, reason) in results.items():
        assert control.finish(message, status, reason)
    assert control.lookup(chunk_keys).status == "miss"
    assert control.stats()["corrupt"] == 1


def carry_on(control, mover):
    """Copies chunks to the tiers behind until none waits."""
    while control.has_copies():
        copies = control.plan_copies()
        transfer = mover.copy(copies)
        transfer.wait(WAIT_S)
        writes = dict(copies)
        for read, status, reason in transfer.poll():
            assert (status, reason) == ("copied", "")
            assert control.finish_copy(read, writes[read], status, reason)
            assert not control.finish_copy(read, writes[read], status, reason), "a copy is finished once"


def test_a_memory_tier_answers_first_and_is_filled_by_stores_and_loads(tmp_path):
    config = forebay.Config(
        local_disk=str(tmp_path),
        max_local_disk_size=(64 << 20) / GIB,
        max_local_cpu_size=(64 << 20) / GIB,
        disk_min_free_size=0,
    )
    there, chunk_keys = random_memory(1), keys(2)

    def load(control, mover):
        """Bytes that were read from disk for it."""
        back = np.zeros((LAYERS, BLOCKS, PAGE), dtype=np.uint8)
        before = mover.stats()["read_bytes"]
        plans = control.plan_load(chunk_keys)
        # A page of the second chunk is the engine's already: what is kept in memory is whole all the same.
        sinks = [pages(back).chunk([5, 6]), pages(back).chunk([-1, 7])]
        transfer = mover.load([plan.message for plan in plans], sinks)
        transfer.wait(WAIT_S)
        for message, status, reason in transfer.poll():
            assert (status, reason) == ("loaded", "")
            assert control.finish(message, status, reason)
        assert (back[:, 5] == there[:, 3]).all()
        assert (back[:, 6] == there[:, 9]).all()
        assert (back[:, 7] == there[:, 15]).all()
        stats = control.stats()
        assert (stats["memory_chunks"], stats["open_tickets"], stats["memory_open_tickets"]) == (2, 0, 0)
        return mover.stats()["read_bytes"] - before

    control, mover = forebay.ControlPlane(config, CHUNK), forebay.Mover(config, CHUNK)
    sources = [pages(there).chunk([3, 9]), pages(there).chunk([0, 15])]
    for message, status, reason in store((control, mover), chunk_keys, sources):
        assert control.finish(message, status, reason)
    assert control.stats()["chunks"] == 0, "they are in memory, and on their way to the disk"
    carry_on(control, mover)
    assert control.stats()["chunks"] == 2
    assert load(control, mover) == 0
    mover.close()
    control.close()

    control, mover = forebay.ControlPlane(config, CHUNK), forebay.Mover(config, CHUNK)
    assert control.lookup(chunk_keys).chunks == 2
    assert [load(control, mover) for _ in range(2)] == [2 * CHUNK, 0], "from disk, and then from memory"
    assert mover.stats()["staging_in_use"] == 0
    mover.close()
    control.close()


def test_pages_that_are_larger_than_the_memory_or_make_no_chunk_are_refused():
    memory = np.zeros(PAGE, np.uint8)
    with pytest.raises(forebay.Error, match="larger than the memory"):
        forebay.PagedMemory(memory, memory.ctypes.data, memory.nbytes, [0], PAGE, 2**63)
    many = forebay.PagedMemory(memory, memory.ctypes.data, memory.nbytes, [0] * 10**6, 1, 1)
    with pytest.raises(forebay.Error, match="4 GiB"):
        many.chunk([0] * 10**6)
    assert len(many.chunk([0, -1])) == 2 * 10**6


def test_what_a_mover_has_no_tier_for_fails_at_once(tmp_path):
    config = {
        "local_disk": str(tmp_path / "kv"),
        "max_local_disk_size": (64 << 20) / GIB,
        "disk_min_free_size": 0,
    }
    chunk_keys, content = keys(1), bytes(CHUNK)
    with_memory = forebay.Config(**config, max_local_cpu_size=(64 << 20) / GIB)
    without = forebay.Config(**config, max_local_cpu_size=2 * CHUNK / GIB, use_only_staging_buffer=True)
    control = forebay.ControlPlane(with_memory, CHUNK)
    mover, other = forebay.Mover(with_memory, CHUNK), forebay.Mover(without, CHUNK)
    ((message, status, reason),) = store((control, mover), chunk_keys, [content])
    assert control.finish(message, status, reason)
    (plan,) = control.plan_load(chunk_keys)
    assert plan.status == "read", "it is in memory"
    transfer = other.load([plan.message], [bytearray(CHUNK)])
    transfer.wait(WAIT_S)
    ((_, status, reason),) = transfer.poll()
    assert (status, reason) == ("failed", "engine: there is no memory tier here")
    assert control.finish(plan.message, status, reason)
    mover.close()
    control.close()

    control = forebay.ControlPlane(without, CHUNK)
    (plan,) = control.plan_store(keys(2)[1:], CHUNK)
    transfer = other.copy([(plan.message, plan.message)])
    transfer.wait(WAIT_S)
    ((_, status, reason),) = transfer.poll()
    assert (status, reason) == ("failed", "engine: no remote_url is set here")
    assert control.finish(plan.message, "failed")
    other.close()
    control.close()

"""Maps over several files, and what brings their pages into memory."""

import os
import resource
import threading

import numpy as np
import pytest
import torch

from lightning_graceful.data import paging, shards
from lightning_graceful.data.paging import Pager, map_files, take_rows
from lightning_graceful.data.rows import RowLayout
from tests.data.store_files import LAYOUT, fill, make, run, said

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside torch's threads
PAGE = 2**16


def write_files(folder, sizes=(PAGE, 2 * PAGE, 100)):
    data = np.random.default_rng(0).integers(0, 256, sum(sizes), dtype=np.uint8)
    files = [folder / str(number) for number in range(len(sizes))]
    for file, part in zip(files, np.split(data, np.cumsum(sizes)[:-1]), strict=True):
        file.write_bytes(part.tobytes())
    return files, sizes, data


def drop_from_memory(file):
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def is_mapped(file):
    with open("/proc/self/maps") as maps:
        return str(file) in maps.read()


def minor_faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def test_files_are_mapped_next_to_each_other(tmp_path):
    files, sizes, data = write_files(tmp_path)
    table = map_files(files, sizes)
    assert (table == data).all()
    assert not table.flags.writeable
    with files[1].open("r+b") as handle:
        handle.write(b"new")
    assert bytes(table[PAGE : PAGE + 3]) == b"new"


def test_map_goes_with_its_last_view(tmp_path):
    files, sizes, data = write_files(tmp_path)
    view = map_files(files, sizes).reshape(-1, 4)[5:, :2]
    assert is_mapped(files[2])
    assert (view == data.reshape(-1, 4)[5:, :2]).all()
    del view
    assert not any(is_mapped(file) for file in files)


def test_map_outlives_the_files_and_a_fork(tmp_path):
    files, sizes, data = write_files(tmp_path)
    table = map_files(files, sizes)
    for file in files:
        file.unlink()
    assert run(lambda: bool((table == data).all()))
    assert (table == data).all()


def test_file_that_is_gone_is_an_error(tmp_path):
    files, sizes, _ = write_files(tmp_path)
    files[1].unlink()
    with pytest.raises(FileNotFoundError):
        map_files(files, sizes)
    assert not is_mapped(files[0])


@pytest.mark.parametrize("at_once", [True, False])
def test_rows_come_from_a_cold_disk(tmp_path, monkeypatch, at_once):
    asked = []
    ask = paging._ask_for_all
    monkeypatch.setattr(paging, "_ask_for_all", lambda ranges: asked.append(len(ranges)) or (at_once and ask(ranges)))
    monkeypatch.setattr(paging, "_major_faults", iter([0, 1, 2]).__next__)  # as if the probes had come from the disk
    files, _, data = write_files(tmp_path, sizes=(100 * PAGE,))
    rows = data.reshape(-1, 2048)
    table = map_files(files, [len(data)]).reshape(rows.shape)
    drop_from_memory(files[0])
    numbers = np.random.default_rng(1).integers(0, len(rows), 1500)
    found, waited = take_rows(table, numbers, probes=4)
    assert (found == rows[numbers]).all()
    assert waited
    assert asked == [1496]


def test_ranges_are_asked_for_in_one_call_where_the_system_can(tmp_path):
    files, sizes, _ = write_files(tmp_path)
    address = map_files(files, sizes).ctypes.data
    good = np.array([[address, 4096], [address + PAGE, 4096]], dtype=np.uint64)
    assert paging._ask_for_all(good) in {True, False}  # refused by some containers
    assert not paging._ask_for_all(np.array([[address + 1, 4096]], dtype=np.uint64))


def test_rows_in_memory_are_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "_ask_for", None)
    files, _, data = write_files(tmp_path, sizes=(4 * PAGE,))
    table = map_files(files, [len(data)]).reshape(-1, 64)
    assert table.sum(dtype=np.int64) == data.sum(dtype=np.int64)
    found, waited = take_rows(table, np.arange(500), probes=4)
    assert (found.reshape(-1) == data[: 500 * 64]).all()
    assert not waited


def test_files_in_memory_are_told_from_others():
    descriptor = os.memfd_create("graceful")
    assert paging.is_in_memory(descriptor)
    os.close(descriptor)
    assert not paging.is_in_memory(-1)


def test_store_in_memory_takes_its_room_when_it_is_made(tmp_path, monkeypatch):
    sparse, whole = tmp_path / "sparse", tmp_path / "whole"
    monkeypatch.setattr(shards, "is_in_memory", lambda descriptor: False)
    make(sparse, 10_000)
    monkeypatch.setattr(shards, "is_in_memory", lambda descriptor: True)
    fill(make(whole, 10_000), torch.arange(3))
    make(whole, 10_000)
    assert (sparse / "rows-00000.bin").stat().st_blocks == 0
    assert (whole / "rows-00000.bin").stat().st_blocks * 512 >= 10_000 * LAYOUT.nbytes
    assert len(make(whole, 10_000).missing()) == 9997


def test_pager_brings_everything_into_memory(tmp_path):
    files, sizes, _ = write_files(tmp_path, sizes=(100 * PAGE, 100 * PAGE))
    drop_from_memory(files[0])
    table = map_files(files, sizes)
    Pager(table).wait()
    before = minor_faults()
    assert table[::4096].sum() > 0
    assert minor_faults() - before < 20  # of 3200 pages


def test_pager_that_is_stopped_ends(tmp_path, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    advise, seen = paging._advise, []

    def slowly(table, start, size, advice):
        if advice == paging.MADV_POPULATE_READ:
            seen.append(start)
            reached.set()
            assert go_on.wait(30)
        return advise(table, start, size, advice)

    monkeypatch.setattr(paging, "_advise", slowly)
    monkeypatch.setattr(paging, "PIECE_BYTES", PAGE)
    files, sizes, _ = write_files(tmp_path)
    pager = Pager(map_files(files, sizes))
    assert reached.wait(30)
    pager._stopped.set()
    go_on.set()
    pager.stop()
    assert seen == [0]


def test_pager_does_nothing_where_the_system_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "MADV_POPULATE_READ", 12345)
    files, sizes, _ = write_files(tmp_path)
    Pager(map_files(files, sizes)).wait()


def test_store_is_brought_into_memory_once_and_only_if_it_fits(tmp_path, monkeypatch):
    cache = make(tmp_path, 5000)
    fill(cache, batch=5000)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "available_memory", lambda: 2 * 5000 * LAYOUT.nbytes - 1)
        assert not cache.populate()
    assert cache.populate()
    pager = cache._files._pager
    assert cache.populate()
    assert cache._files._pager is pager
    assert run(cache.close) is None  # in a fork, where the thread is not
    cache.close()
    assert not pager._thread.is_alive()
    assert torch.equal(cache.read(torch.tensor([4999])).outputs().logits, said(torch.tensor([4999])).logits)


def test_threads_may_read_write_and_close_at_once(tmp_path):
    cache, stop, seen = make(tmp_path, 2000, RowLayout(200)), threading.Event(), []
    everything = torch.arange(2000)
    truth = said(everything, cache.layout).logits.half().float()

    def read():
        while not stop.is_set():
            index = torch.randint(2000, (64,))
            rows, filled = cache.peek(index)
            seen.append(int(filled.sum()))
            assert torch.equal(rows.outputs().logits[filled], truth[index[filled]])

    failures = []
    monitor = threading.excepthook
    threading.excepthook = failures.append
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(10):
        fill(cache, torch.randperm(2000), batch=50)
        if turn % 3 == 0:
            cache.populate()
        cache.close()
        assert cache.filled(everything).all()
    stop.set()
    for reader in readers:
        reader.join()
    threading.excepthook = monitor
    assert failures == []
    assert max(seen) == 64


def anonymous_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def test_fifty_million_rows_cost_no_more_than_ten(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "is_in_memory", lambda descriptor: False)  # wherever tests are run
    small = make(tmp_path / "small", 10, RowLayout(1000, top_k=10))
    small.missing()
    before = anonymous_memory()
    cache = make(tmp_path / "large", 50_000_000, RowLayout(1000, top_k=10))
    index = torch.randint(50_000_000, (256,))
    logits = torch.randn(256, 1000)
    cache.write(index, type(said(index))(logits), None)
    assert torch.equal(cache.read(index).outputs().logits.argmax(1), logits.argmax(1))
    assert cache.filled(index).all()
    assert len(cache.missing_in(0, 4096)) == 4096 - int((torch.unique(index) < 4096).sum())
    assert cache.count_filled() == len(torch.unique(index))
    assert anonymous_memory() - before < 2**26
    assert sum(file.stat().st_blocks for file in (tmp_path / "large").iterdir()) * 512 < 2**22

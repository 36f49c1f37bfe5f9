"""The store on disk, against a reader of its files that shares no code with it."""

import ast
import errno
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_graceful.data import manifest, rows, shards, store
from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.manifest import nearest, store_path
from lightning_graceful.data.rows import CacheError, RowLayout, target_key
from lightning_graceful.data.store import OutputStore

LAYOUT = RowLayout(logits=5, embedding=2, dtype="float32")  # 28 bytes, 4 of padding, 8 target, 4 hash, 4 CRC
PRINT = {"old": "v1", "classes": ["cat", "dog"], "length": 10}
fork = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside torch's threads


def make(path, num_rows=10, layout=LAYOUT, fingerprint=PRINT, **kwargs):
    return OutputStore.open(path, fingerprint=fingerprint, num_rows=num_rows, layout=layout, **kwargs)


def said(index, layout=LAYOUT):
    """What the old model says of these samples: any fixed function of the index."""
    width = (layout.logits or 0) + (layout.embedding or 0)
    values = torch.sin(index[:, None] * 31.0 + torch.arange(width)) * 50
    logits, embedding = values[:, : layout.logits or 0], values[:, layout.logits or 0 :]
    return Outputs(logits if layout.logits else None, embedding if layout.embedding else None)


def fill(cache, index=None, batch=4):
    for part in (torch.arange(cache.num_rows) if index is None else index).split(batch):
        cache.write(part, said(part, cache.layout), part % 3, part * 7)


def parse(path):
    """Read the files by ``struct``: {row: (values, target, hash)} of the filled rows, and the rows with a bad CRC."""
    head = json.loads((path / "manifest.json").read_text())
    size, code = {"float32": (4, "f"), "float16": (2, "e"), "bfloat16": (2, "H")}[head["layout"]["dtype"]]
    width = (head["layout"]["logits"] or 0) + (head["layout"]["embedding"] or 0)
    form = struct.Struct(f"<{width}{code}{-width * size % 8}xqII")
    seed = zlib.crc32(json.dumps(head["fingerprint"], sort_keys=True, separators=(",", ":")).encode())
    data = b"".join(file.read_bytes() for file in sorted(path.glob("rows-*.bin")))
    assert len(data) == head["num_rows"] * form.size
    found, bad = {}, []
    for row in range(head["num_rows"]):
        raw = data[row * form.size : (row + 1) * form.size]
        *values, target, digest, crc = form.unpack(raw)
        if crc:
            found[row] = (values, target, digest)
            if crc != (zlib.crc32(raw[:-4], zlib.crc32(struct.pack("<q", row), seed)) or 1):
                bad.append(row)
    return found, bad


def rounded(value, dtype):
    """Round as the dtype does, to nearest even; bfloat16 as its 16 bits."""
    if dtype == "bfloat16":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    code = {"float32": "<f", "float16": "<e"}[dtype]
    return struct.unpack(code, struct.pack(code, value))[0]


def edit(file, offset, data):
    with file.open("r+b") as handle:
        handle.seek(offset)
        handle.write(data)


def flip(file, offset, bit=0):
    edit(file, offset, bytes([file.read_bytes()[offset] ^ 1 << bit]))


def assert_complete(path, layout=LAYOUT):
    found, bad = parse(path)
    assert bad == []
    index = torch.arange(json.loads((path / "manifest.json").read_text())["num_rows"])
    truth = torch.cat([part for part in said(index, layout) if part is not None], dim=1).tolist()
    assert found == {row: (truth[row], row % 3, row * 7) for row in index.tolist()}


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("logits", "embedding"), [(5, 2), (4, None), (None, 3)])
def test_files_hold_the_rounded_outputs(tmp_path, dtype, logits, embedding):
    layout = RowLayout(logits, embedding, dtype)
    cache = make(tmp_path, layout=layout)
    index = torch.tensor([7, 3, 4])
    cache.write(index, said(index, layout), torch.tensor([1, -2, 2**40]), torch.tensor([0, 5, 2**32 - 1]))
    truth = torch.cat([part for part in said(index, layout) if part is not None], dim=1).tolist()
    truth = [[rounded(value, dtype) for value in row] for row in truth]
    assert parse(tmp_path) == (
        {7: (truth[0], 1, 0), 3: (truth[1], -2, 5), 4: (truth[2], 2**40, 2**32 - 1)},
        [],
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_read_returns_round_bit_for_bit(tmp_path, dtype):
    layout = RowLayout(5, 2, dtype)
    cache = make(tmp_path, layout=layout)
    fill(cache)
    index = torch.tensor([9, 0, 0, 4], dtype=torch.int32)
    found, expected = cache.read(index, index % 3), cache.round(said(index, layout))
    for got, want in zip(found.outputs, expected, strict=True):
        assert got.dtype == want.dtype == getattr(torch, dtype)
        assert torch.equal(bits(got), bits(want))
    assert found.target_key.tolist() == [0, 0, 0, 1]
    assert found.input_hash.tolist() == [63, 0, 0, 28]


def test_special_floats_survive(tmp_path):
    logits = torch.tensor([[-0.0, float("-inf"), 1e-45, 3.4028235e38, 0.1]])
    cache = make(tmp_path, layout=RowLayout(5, dtype="float32"))
    cache.write(torch.tensor([1]), Outputs(logits), None, torch.tensor([2**32 - 1]))
    found = cache.read(torch.tensor([1]))
    assert torch.equal(bits(found.outputs.logits), bits(logits))
    assert found.input_hash.tolist() == [2**32 - 1]


def test_parts_outside_the_layout_are_left_out(tmp_path):
    layout = RowLayout(logits=5)
    index = torch.arange(10)
    cache = make(tmp_path, layout=layout)
    cache.write(index, said(index), index)
    assert cache.read(index).outputs.embedding is None
    assert cache.round(said(index)).embedding is None


def test_read_tensors_own_their_memory(tmp_path):
    cache = make(tmp_path)
    fill(cache)
    found = cache.read(torch.arange(10))
    cache.close()
    for tensor in (*found.outputs, found.target_key, found.input_hash):
        assert tensor.is_contiguous()
        tensor.zero_()
    assert_complete(tmp_path)


def test_round_cuts_the_graph_and_copies(tmp_path):
    logits = torch.ones(1, 5, requires_grad=True)
    outputs = make(tmp_path, layout=RowLayout(5, dtype="float32")).round(Outputs(logits))
    assert not outputs.logits.requires_grad
    outputs.logits.zero_()
    assert logits.sum() == 5


def test_empty_batch(tmp_path):
    cache = make(tmp_path)
    none = torch.empty(0, dtype=torch.int64)
    cache.write(none, Outputs(torch.empty(0, 5), torch.empty(0, 2)), none)
    assert cache.read(none, none).outputs.logits.shape == (0, 5)
    assert cache.missing(none).tolist() == []


def test_holes_are_found_and_refused(tmp_path):
    cache = make(tmp_path)
    fill(cache, torch.tensor([0, 2, 5]))
    assert cache.filled(torch.tensor([5, 1, 0])).tolist() == [True, False, True]
    assert cache.missing().tolist() == [1, 3, 4, 6, 7, 8, 9]
    assert cache.missing(torch.tensor([9, 0, 1, 9, 2])).tolist() == [1, 9]
    with pytest.raises(CacheError, match=r"rows 1, 3, 4, 6, 7, \.\.\. \(7 in all\) empty\. Fill"):
        cache.read(torch.arange(10))


def test_last_of_two_outputs_for_a_row_is_kept(tmp_path):
    cache = make(tmp_path)
    cache.write(torch.tensor([3, 4] * 50), said(torch.arange(100)), None)
    assert torch.equal(cache.read(torch.tensor([3, 4])).outputs.logits, said(torch.tensor([98, 99])).logits)


@pytest.mark.parametrize("region", ["logits", "embedding", "padding", "target", "hash", "crc"])
def test_flipped_bit_is_noticed(tmp_path, region):
    offset = {"logits": 0, "embedding": 20, "padding": 28, "target": 32, "hash": 40, "crc": 47}[region]
    cache = make(tmp_path)
    fill(cache)
    flip(tmp_path / "rows-00000.bin", 6 * 48 + offset, bit=5)
    with pytest.raises(CacheError, match=r"wrong CRC in row 6 \(rows-00000\.bin.*graceful cache prune"):
        cache.read(torch.tensor([5, 6, 7]))
    assert cache.read(torch.tensor([5, 7])).target_key.tolist() == [2, 1]
    assert cache.verify() == (10, 10, [6], 1)


def test_every_flipped_bit_of_the_manifest_is_noticed(tmp_path):
    make(tmp_path)
    file = tmp_path / "manifest.json"
    sound = file.read_bytes()
    for place in range(len(sound) * 8):
        file.write_bytes(sound)
        flip(file, place // 8, place % 8)
        with pytest.raises(CacheError, match=r"Delete|delete"):
            OutputStore.open_existing(tmp_path)


def test_crc_of_a_filled_row_is_never_zero(monkeypatch):
    monkeypatch.setattr(rows.zlib, "crc32", lambda *args: 0)
    assert rows.checksums(np.zeros((2, 24), dtype=np.uint8), np.arange(2), 0).tolist() == [1, 1]


def test_moved_row_is_noticed(tmp_path):
    cache = make(tmp_path)
    fill(cache)
    file = tmp_path / "rows-00000.bin"
    data = file.read_bytes()
    edit(file, 2 * 48, data[3 * 48 : 4 * 48])
    assert cache.verify() == (10, 10, [2], 1)


def test_shard_of_another_store_is_noticed(tmp_path):
    cache, other = make(tmp_path / "a"), make(tmp_path / "b", fingerprint={**PRINT, "old": "v2"})
    fill(other)
    shutil.copy(tmp_path / "b/rows-00000.bin", tmp_path / "a/rows-00000.bin")
    cache.close()
    assert cache.verify().damaged_count == 10


def test_shard_cut_after_opening_is_refused(tmp_path):
    cache = make(tmp_path)
    os.truncate(tmp_path / "rows-00000.bin", 100)
    with pytest.raises(CacheError, match="Expected 480 bytes"):
        cache.read(torch.tensor([0]))


@pytest.mark.parametrize("damage", ["cut", "grown", "gone"])
def test_shard_of_a_wrong_size_is_refused(tmp_path, damage):
    make(tmp_path)
    file = tmp_path / "rows-00000.bin"
    if damage == "gone":
        file.unlink()
    else:
        os.truncate(file, 479 if damage == "cut" else 481)
    got = {"cut": "479 bytes", "grown": "481 bytes", "gone": "no such file"}[damage]
    with pytest.raises(CacheError, match=rf"Expected 480 bytes in .*rows-00000\.bin, got {got}\. Delete"):
        make(tmp_path)
    with pytest.raises(CacheError, match=got):
        OutputStore.open_existing(tmp_path)


def test_reordered_or_other_targets_are_refused(tmp_path):
    cache = make(tmp_path)
    fill(cache)
    index = torch.tensor([3, 4, 5])
    assert cache.read(index, torch.tensor([0, 1, 2])).target_key.tolist() == [0, 1, 2]
    with pytest.raises(CacheError, match=r"others for rows 3, 4 .*stored 0, batch 1.*reordered"):
        cache.read(index, torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match="one target for each of 3 rows"):
        cache.read(index, torch.tensor([1]))


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_format_is_refused(tmp_path, version):
    make(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": version}))
    with pytest.raises(CacheError, match=rf"store of format 1, got format {version!r}.*delete"):
        make(tmp_path)


def test_each_part_that_differs_is_named(tmp_path):
    classes = [f"c{i}" for i in range(1000)]
    make(tmp_path, fingerprint={"old": "v1", "classes": classes})
    changed = [*classes[:500], "new", *classes[501:]]
    with pytest.raises(CacheError) as error:
        make(tmp_path, 11, RowLayout(6, 2, "float32"), {"old": "v2", "classes": changed, "views": 1})
    text = str(error.value)
    for part in ("fingerprint.old: expected 'v2', got 'v1'", "fingerprint.classes", "fingerprint.views: expected 1"):
        assert part in text
    assert "num_rows: expected 11, got 10" in text
    assert "layout.logits: expected 6, got 5" in text
    assert "layout.embedding" not in text
    assert len(text) < 700


def test_open_existing_takes_all_from_the_manifest(tmp_path):
    fill(make(tmp_path))
    with OutputStore.open_existing(str(tmp_path)) as cache:
        assert (cache.path, cache.num_rows, cache.layout, cache.fingerprint) == (tmp_path, 10, LAYOUT, PRINT)
        assert cache.missing().tolist() == []
        with pytest.raises(CacheError, match="read only"):
            fill(cache)


def test_no_store_is_made_for_reading(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json there\. Check"):
        make(tmp_path / "none", read_only=True)
    with pytest.raises(FileNotFoundError):
        OutputStore.open_existing(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "number"), [("open", errno.EROFS), ("ftruncate", errno.ENOSPC)])
def test_disk_that_refuses_a_new_store(tmp_path, monkeypatch, call, number):
    monkeypatch.setattr(shards.os, call, refusing(number))
    with pytest.raises(CacheError, match=rf"make a store of 480 bytes .*{os.strerror(number)}.*Free space"):
        make(tmp_path / "new")


@pytest.mark.parametrize(("call", "number"), [("open", errno.EROFS), ("pwrite", errno.ENOSPC)])
def test_disk_that_refuses_rows(tmp_path, monkeypatch, call, number):
    cache = make(tmp_path)
    fill(cache, torch.arange(5))
    monkeypatch.setattr(shards.os, call, refusing(number))
    with pytest.raises(CacheError, match=rf"write 96 bytes .*{os.strerror(number)}"):
        fill(cache, torch.tensor([7, 8]))
    monkeypatch.undo()
    assert cache.missing().tolist() == [5, 6, 7, 8, 9]


def refusing(number):
    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(shards.os, "pwrite", lambda file, data, offset: pwrite(file, data[:5], offset))
    fill(make(tmp_path))
    assert_complete(tmp_path)


def test_disk_that_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.os, "pwrite", lambda file, data, offset: 0)
    with pytest.raises(CacheError, match=os.strerror(errno.ENOSPC)):
        fill(make(tmp_path))


def test_manifest_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest.os, "link", refusing(errno.EPERM))
    fill(make(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["manifest.json", "rows-00000.bin"]


def run(function, *args):
    """Run in a forked process and return its result."""
    receive, send = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: send.send(function(*args)))
    process.start()
    send.close()
    result = receive.recv()
    process.join()
    return result


def fill_a_full_disk(cache, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        fill(cache)
    except CacheError as error:
        return str(error)


def test_full_disk_keeps_what_was_written(tmp_path):
    cache = make(tmp_path)
    message = run(fill_a_full_disk, cache, 6 * 48 + 46)  # ends within the CRC of row 6
    assert "Expected to write 192 bytes" in message
    assert os.strerror(errno.EFBIG) in message
    found, bad = parse(tmp_path)
    assert sorted(set(found) - set(bad)) == [0, 1, 2, 3, 4, 5]
    fill(cache)
    assert_complete(tmp_path)


def fill_until_killed(path, layout, ready):
    cache = make(path, 300, layout)
    ready.set()
    while True:
        fill(cache, batch=8)


@pytest.mark.parametrize("moments", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_filler_is_resumed(tmp_path, moments):
    layout = RowLayout(logits=1500, dtype="float32")  # a row spans pages
    start = time.perf_counter()
    fill(make(tmp_path / "timed", 300, layout), batch=8)
    needed, chance = time.perf_counter() - start, random.Random(moments)
    for moment in range(moments):
        path, ready = tmp_path / str(moment), fork.Event()
        process = fork.Process(target=fill_until_killed, args=(path, layout, ready))
        process.start()
        assert ready.wait(30)
        time.sleep(chance.random() * needed)
        process.kill()
        process.join()
        with make(path, 300, layout) as cache:
            assert cache.verify().damaged_count == 0
            fill(cache, cache.missing())
        assert_complete(path, layout)
        shutil.rmtree(path)


def make_and_fill(path, barrier, seed):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    barrier.wait(30)
    with make(path, 100) as cache:
        fill(cache, order)
        return cache.missing().tolist()


def test_two_processes_make_and_fill_one_store(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1000)
    for attempt in range(5):
        path, barrier = tmp_path / str(attempt), fork.Barrier(2)
        workers = [fork.Process(target=make_and_fill, args=(path, barrier, seed)) for seed in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert_complete(path)
        assert [file.name for file in path.iterdir() if not file.name.startswith("rows")] == ["manifest.json"]


def test_late_maker_checks_the_manifest_of_the_first(tmp_path, monkeypatch):
    publish = store.publish

    def late(path, text):
        monkeypatch.setattr(store, "publish", publish)
        make(path, fingerprint={"old": "first"})
        publish(path, text)

    monkeypatch.setattr(store, "publish", late)
    with pytest.raises(CacheError, match=r"fingerprint\.old: expected 'v1', got 'first'"):
        make(tmp_path)


@pytest.mark.parametrize("num_rows", [10, 12])
def test_late_maker_leaves_the_files_of_the_first(tmp_path, monkeypatch, num_rows):
    create = shards.RowFiles.create

    def late(files):
        monkeypatch.setattr(shards.RowFiles, "create", create)
        fill(make(tmp_path, num_rows))
        create(files)

    monkeypatch.setattr(shards.RowFiles, "create", late)
    if num_rows == 10:
        make(tmp_path)
    else:
        with pytest.raises(CacheError, match="num_rows: expected 10, got 12"):
            make(tmp_path)
    assert_complete(tmp_path)


def keys_read(cache, index):
    return cache.read(torch.tensor(index)).target_key.tolist()


def test_store_works_in_a_spawned_and_a_forked_process(tmp_path):
    cache = make(tmp_path)
    fill(cache)
    assert keys_read(cache, [4, 5]) == [1, 2]  # a map is open, and cannot travel
    assert run(keys_read, cache, [4, 5]) == [1, 2]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(keys_read, (cache, [4, 5])) == [1, 2]
    assert len(pickle.dumps(cache)) < 2000


def test_rows_go_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 3 * 48 + 10)
    monkeypatch.setattr(shards, "MAX_MAPS", 2)
    cache = make(tmp_path)
    assert [file.stat().st_size for file in sorted(tmp_path.glob("rows-*"))] == [144, 144, 144, 48]
    fill(cache, torch.tensor([9, 2, 3, 0, 8, 7, 6, 5, 4, 1]), batch=10)
    index = torch.tensor([9, 0, 5, 3, 9])
    assert torch.equal(cache.read(index).outputs.logits, said(index).logits)
    assert len(cache._files._maps) <= 2
    monkeypatch.undo()
    assert make(tmp_path).missing().tolist() == []
    flip(tmp_path / "rows-00002.bin", 50)
    with pytest.raises(CacheError, match=r"row 7 \(rows-00002\.bin"):
        cache.read(torch.tensor([0, 7]))
    assert_complete_but(tmp_path, 7)


def assert_complete_but(path, row):
    found, bad = parse(path)
    assert (len(found), bad) == (10, [row])


@pytest.mark.parametrize("index", [[-1], [10], [0, 11]])
@pytest.mark.parametrize("method", ["read", "filled", "missing", "write"])
def test_index_out_of_range_is_refused(tmp_path, index, method):
    cache, index = make(tmp_path), torch.tensor(index)
    arguments = (index, said(index), None) if method == "write" else (index,)
    with pytest.raises(ValueError, match=r"index in \[0, 10\), got row -?\d+\."):
        getattr(cache, method)(*arguments)
    assert parse(tmp_path) == ({}, [])


@pytest.mark.parametrize(
    ("part", "value"),
    [("logits", "nan"), ("logits", "inf"), ("embedding", "nan"), ("embedding", "inf"), ("embedding", "-inf")],
)
def test_numbers_that_no_model_should_say_are_refused(tmp_path, part, value):
    cache, index = make(tmp_path), torch.tensor([2, 8, 5])
    outputs = said(index)
    getattr(outputs, part)[1, 1] = float(value)
    with pytest.raises(ValueError, match=rf"{part} without NaN or Inf .* in row 8\."):
        cache.write(index, outputs, None)
    assert parse(tmp_path) == ({}, [])


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 65520.0), ("float16", -7e4), ("bfloat16", 3.4e38), ("float32", 1e39)]
)
def test_overflow_is_refused(tmp_path, dtype, value):
    cache = make(tmp_path, layout=RowLayout(2, dtype=dtype))
    logits = torch.tensor([[1.0, float("-inf")], [2.0, value]], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"all that torch\.{dtype} holds, got more in row 5\..*bfloat16"):
        cache.write(torch.tensor([4, 5]), Outputs(logits), None)
    assert cache.missing().numel() == 10


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (Outputs(None, torch.ones(2, 2)), "floating logits of shape"),
        (Outputs(torch.ones(2, 4), torch.ones(2, 2)), "floating logits of shape"),
        (Outputs(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 2)), "got torch.int64"),
        (Outputs(torch.ones(2, 5), torch.ones(2, 1, 2)), "floating embedding of shape"),
        (Outputs(torch.ones(1, 5), torch.ones(2, 2)), "logits of 2 samples"),
    ],
)
def test_wrong_outputs_are_refused(tmp_path, outputs, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path).write(torch.tensor([0, 1]), outputs, None)


@pytest.mark.parametrize(
    ("index", "target", "digest", "message"),
    [
        (torch.tensor([0.0, 1.0]), None, None, "integer index"),
        (torch.tensor([True, False]), None, None, "integer index"),
        (torch.tensor([[0], [1]]), None, None, "integer index"),
        (torch.tensor([0, 1]), torch.tensor([1]), None, "one target for each of 2 rows"),
        (torch.tensor([0, 1]), None, torch.tensor([1]), "one input_hash for each of 2 rows"),
        (torch.tensor([0, 1]), None, torch.tensor([1, 2**32]), "input_hash in"),
        (torch.tensor([0, 1]), None, torch.tensor([-1, 0]), "input_hash in"),
    ],
)
def test_wrong_keys_are_refused(tmp_path, index, target, digest, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path).write(index, said(torch.arange(2)), target, digest)


def test_wrong_arguments_of_a_store_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_rows >= 1"):
        make(tmp_path, 0)
    for value in ({1, 2}, float("nan"), torch.ones(1)):
        with pytest.raises(ValueError, match="fingerprint of JSON values"):
            make(tmp_path, fingerprint={"old": value})
    for wrong in ({}, {"logits": 0}, {"logits": 2.0}, {"embedding": True}, {"logits": 2, "dtype": "int8"}):
        with pytest.raises(ValueError, match="Expected"):
            RowLayout(**wrong)


def test_target_key_is_the_label_or_a_crc():
    assert target_key(torch.tensor([3, 0, -1], dtype=torch.int16)).tolist() == [3, 0, -1]
    assert target_key(torch.tensor([True, False])).tolist() == [1, 0]
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    keys = target_key(labels)
    assert keys.tolist() == [zlib.crc32(np.array(row, dtype="<i8").tobytes()) for row in labels.tolist()]
    assert torch.equal(target_key(labels.t().contiguous().t()), keys)
    assert len(set(target_key(torch.tensor([0.5, 0.25, 0.5], dtype=torch.bfloat16)).tolist())) == 2
    assert target_key(torch.empty(0, 3)).shape == (0,)
    assert target_key(None).dtype == torch.int64


def test_multilabel_targets_are_compared(tmp_path):
    cache, index = make(tmp_path), torch.tensor([1, 2])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    cache.write(index, said(index), labels)
    assert cache.read(index, labels).outputs.logits.shape == (2, 5)
    with pytest.raises(CacheError, match="reordered"):
        cache.read(index, labels.flip(0))


def test_rows_without_a_target_do_not_match_one(tmp_path):
    cache, index = make(tmp_path), torch.tensor([1, 2])
    cache.write(index, said(index), None)
    assert cache.read(index).target_key.tolist() == target_key(None).expand(2).tolist()
    with pytest.raises(CacheError, match="others for rows 1, 2"):
        cache.read(index, torch.tensor([0, 0]))


def test_row_that_is_being_written_is_read_again(tmp_path, monkeypatch):
    cache = make(tmp_path)
    fill(cache)
    gather, torn = shards.RowFiles.gather, []

    def tear_once(files, numbers, *args, **kwargs):
        found = gather(files, numbers, *args, **kwargs)
        if not torn:
            torn.append(numbers)
            found[1, 0] ^= 1
        return found

    monkeypatch.setattr(shards.RowFiles, "gather", tear_once)
    index = torch.tensor([3, 6])
    assert torch.equal(cache.read(index).outputs.logits, said(index).logits)
    assert len(torn) == 1


def test_nearest_store_and_what_differs(tmp_path):
    assert nearest(tmp_path / "none", PRINT) is None
    for print_ in ({**PRINT, "old": "v0", "length": 9}, {**PRINT, "old": "v0"}, {"else": 1}):
        make(store_path(tmp_path, print_), fingerprint=print_)
    (tmp_path / "0" / "sub").mkdir(parents=True)
    (tmp_path / "0" / "manifest.json").write_text("{")
    assert nearest(tmp_path, PRINT) == (store_path(tmp_path, {**PRINT, "old": "v0"}), ["old"])
    assert nearest(tmp_path, {**PRINT, "views": 1})[1] == ["old", "views"]
    assert nearest(tmp_path, {"other": 2}) is None


def test_store_path_follows_the_fingerprint_only():
    turned = dict(reversed(PRINT.items()))
    assert store_path("c", turned) == store_path(Path("c"), PRINT)
    assert store_path("c", PRINT) != store_path("c", {**PRINT, "length": 11})
    assert len(store_path("c", PRINT).name) == 16


def test_verify_counts_and_reports_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SCAN_BYTES", 4 * 48)
    monkeypatch.setattr(store, "MAX_DAMAGED", 2)
    cache, seen = make(tmp_path), []
    fill(cache, torch.arange(2, 9))
    for row in (2, 5, 8):
        flip(tmp_path / "rows-00000.bin", row * 48)
    assert cache.verify(seen.append) == (10, 7, [2, 5], 3)
    assert seen == [4, 4, 2]


def test_scans_hold_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SCAN_BYTES", 2**18)
    cache = make(tmp_path, 20_000, RowLayout(1000))  # 40 MB
    tracemalloc.start()
    assert cache.verify().filled == 0
    assert len(cache.missing()) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("module", [rows, store])
def test_nothing_is_pickled(module):
    tree = ast.parse(Path(module.__file__).read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"pickle", "marshal", "shelve", "joblib"}
    assert not attributes & {"torch.save", "torch.load", "np.save", "np.load"}

"""The store on disk, against a reader of its files that shares no code with it."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_graceful.data import manifest, sealed, shards, store
from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.encode import target_key
from lightning_graceful.data.manifest import nearest, store_path
from lightning_graceful.data.rows import CacheError, RowLayout
from lightning_graceful.data.store import OutputStore
from lightning_graceful.data.top_k import compress, expand
from tests.data.store_files import LAYOUT, PRINT, assert_complete, bits, edit, fill, flip, make, parse, run, said

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside torch's threads
ROW = LAYOUT.nbytes


def rounded(value, dtype):
    """Round as the dtype does, to nearest even; bfloat16 as its 16 bits."""
    if dtype == "bfloat16":
        (number,) = struct.unpack("<I", struct.pack("<f", value))
        return (number + 0x7FFF + (number >> 16 & 1)) >> 16
    code = {"float32": "<f", "float16": "<e"}[dtype]
    return struct.unpack(code, struct.pack(code, value))[0]


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
def test_read_returns_the_rounded_outputs_bit_for_bit(tmp_path, dtype):
    layout = RowLayout(5, 2, dtype)
    cache = make(tmp_path, layout=layout)
    fill(cache)
    index = torch.tensor([9, 0, 0, 4], dtype=torch.int32)
    found = cache.read(index, index % 3, index * 7)
    for got, want in zip(found.outputs(), said(index, layout), strict=True):
        assert torch.equal(bits(got), bits(want.to(getattr(torch, dtype)).float()))
    assert found.target_key.tolist() == [0, 0, 0, 1]
    assert found.input_hash.tolist() == [63, 0, 0, 28]


def test_top_k_rows_go_through_the_files(tmp_path):
    layout = RowLayout(300, top_k=3)
    cache = make(tmp_path, layout=layout)
    logits = torch.randn(10, 300, generator=torch.Generator().manual_seed(0)) * 4
    cache.write(torch.arange(10), Outputs(logits), None)
    found = OutputStore.open_existing(tmp_path).read(torch.arange(10)).outputs().logits
    assert torch.equal(found, expand(compress(logits, 3), 300))
    with pytest.raises(CacheError, match=r"layout\.top_k: expected 4, got 3"):
        make(tmp_path, layout=RowLayout(300, top_k=4))


def test_largest_input_hash_survives(tmp_path):
    cache = make(tmp_path)
    cache.write(torch.tensor([1]), said(torch.tensor([1])), None, torch.tensor([2**32 - 1]))
    assert cache.read(torch.tensor([1])).input_hash.tolist() == [2**32 - 1]


def test_parts_outside_the_layout_are_left_out(tmp_path):
    index = torch.arange(10)
    cache = make(tmp_path, layout=RowLayout(logits=5))
    cache.write(index, said(index), index)
    assert cache.read(index).outputs().embedding is None


def test_read_rows_own_their_memory(tmp_path):
    cache = make(tmp_path)
    fill(cache)
    found = cache.read(torch.arange(10))
    cache.close()
    found.buffer.zero_()
    assert_complete(tmp_path)


def test_peek_tells_which_rows_are_filled(tmp_path):
    cache = make(tmp_path)
    fill(cache, torch.tensor([2, 5]))
    rows, filled = cache.peek(torch.tensor([5, 1, 2, 5]))
    assert filled.tolist() == [True, False, True, True]
    assert torch.equal(rows.select(filled).outputs().logits, said(torch.tensor([5, 2, 5])).logits)
    flip(tmp_path / "rows-00000.bin", 2 * ROW)
    with pytest.raises(CacheError, match="wrong checksum in row 2 "):
        cache.peek(torch.tensor([1, 2]))


def test_what_a_killed_process_left_without_a_checksum_counts_as_empty(tmp_path):
    cache = make(tmp_path, layout=RowLayout(300, top_k=3))
    edit(tmp_path / "rows-00000.bin", 0, b"\xff" * 16)
    rows, filled = cache.peek(torch.tensor([0]))
    assert filled.tolist() == [False]
    assert rows.outputs().logits.shape == (1, 300)  # class ids that there are not would fail
    assert cache.missing().tolist() == list(range(10))


def test_empty_batch(tmp_path):
    cache = make(tmp_path)
    none = torch.empty(0, dtype=torch.int64)
    cache.write(none, Outputs(torch.empty(0, 5), torch.empty(0, 2)), none)
    assert cache.read(none, none, none).outputs().logits.shape == (0, 5)
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
    assert torch.equal(cache.read(torch.tensor([3, 4])).outputs().logits, said(torch.tensor([98, 99])).logits)


@pytest.mark.parametrize("region", ["logits", "embedding", "padding", "target", "hash", "checksum"])
def test_flipped_bit_is_noticed(tmp_path, region):
    offset = {"logits": 0, "embedding": 20, "padding": 28, "target": 32, "hash": 40, "checksum": 47}[region]
    cache = make(tmp_path)
    fill(cache)
    flip(tmp_path / "rows-00000.bin", 6 * 48 + offset, bit=5)
    with pytest.raises(CacheError, match=r"wrong checksum in row 6 \(rows-00000\.bin.*graceful cache prune --damaged"):
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
    with pytest.raises(
        CacheError, match=r"others for rows 3, 4 .*stored 0, batch 1.*reordered.*OldOutputCache\(\.\.\., ind"
    ):
        cache.read(index, torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match="one target for each of 3 rows"):
        cache.read(index, torch.tensor([1]))


def test_samples_that_were_reordered_among_equal_targets_are_refused(tmp_path):
    cache = make(tmp_path)
    fill(cache)  # the hash of row i is 7 i, its target i % 3: rows 3 and 6 have one target
    index = torch.tensor([3, 6, 0])
    rows = cache.read(index, torch.zeros(3, dtype=torch.int64), index * 7)
    with pytest.raises(
        CacheError, match=r"inputs .* others for rows 3, 6 .*reordered.*transform.*OldOutputCache\(\.\.\., ind"
    ):
        cache.compare(index, rows, torch.zeros(3, dtype=torch.int64), torch.tensor([42, 21, 0]))
    cache.compare(index, rows, None, torch.tensor([0, 42, 5]))  # 0: no hash; row 0 was stored without one
    with pytest.raises(CacheError, match="others for row 3 "):
        cache.read(index, None, torch.tensor([22, 0, 0]))
    with pytest.raises(ValueError, match="one input_hash for each of 3 rows"):
        cache.compare(index, rows, None, torch.tensor([1]))


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_other_format_is_refused(tmp_path, version):
    make(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": version}))
    with pytest.raises(CacheError, match=rf"store of format 2, got format {version!r}.*delete"):
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
    with pytest.raises(CacheError, match=rf"make a store of up to 480 bytes .*{os.strerror(number)}.*Free space"):
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


def test_rows_go_across_files(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # as small as maps allow
    step, total = 4096, 10_000  # 48 bytes are 16 * 3: 4096 rows end where a page does
    cache = make(tmp_path, total)
    sizes = [file.stat().st_size for file in sorted(tmp_path.glob("rows-*"))]
    assert sizes == [step * ROW, step * ROW, (total - 2 * step) * ROW]
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    fill(cache, order, batch=999)
    index = torch.tensor([9999, 0, 4095, 4096, 8191, 8192, 9999])
    for reader in (cache, OutputStore.open_existing(tmp_path)):
        assert torch.equal(reader.read(index, index % 3).outputs().logits, said(index).logits)
    assert cache.missing().tolist() == []
    cache.erase(torch.tensor([4095, 4096]))
    assert cache.missing().tolist() == cache.missing_in(4000, 5000).tolist() == [4095, 4096]
    assert cache.count_filled() == total - 2
    monkeypatch.undo()
    assert len(make(tmp_path, total).missing()) == 2
    flip(tmp_path / "rows-00002.bin", ROW)
    with pytest.raises(CacheError, match=r"row 8193 \(rows-00002\.bin"):
        cache.read(torch.tensor([0, 8193]))


def test_files_end_where_another_can_be_mapped():
    for nbytes in (24, 64, 2016, 2**18 + 16):
        assert shards.rows_per_file(nbytes) * nbytes % 2**16 == 0
    assert 2**28 - 2**24 < shards.rows_per_file(2016) * 2016 <= 2**28


@pytest.mark.parametrize("index", [[-1], [10], [0, 11]])
@pytest.mark.parametrize("method", ["read", "filled", "missing", "write"])
def test_index_out_of_range_is_refused(tmp_path, index, method):
    cache, index = make(tmp_path), torch.tensor(index)
    arguments = (index, said(index), None) if method == "write" else (index,)
    with pytest.raises(ValueError, match=r"index in \[0, 10\), got row -?\d+\."):
        getattr(cache, method)(*arguments)
    assert parse(tmp_path) == ({}, [])


@pytest.mark.parametrize("index", [[-1], [10], [3, 2**40]])
@pytest.mark.parametrize("method", ["read", "peek"])
def test_index_out_of_range_is_refused_by_a_full_store(tmp_path, index, method):
    cache = make(tmp_path)
    fill(cache)
    with pytest.raises(ValueError, match=r"index in \[0, 10\), got row -?\d+\."):
        getattr(cache, method)(torch.tensor(index))


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
    assert cache.read(index, labels).outputs().logits.shape == (2, 5)
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
    assert torch.equal(cache.read(index).outputs().logits, said(index).logits)
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
    monkeypatch.setattr(sealed, "SCAN_BYTES", 4 * ROW)
    monkeypatch.setattr(sealed, "MAX_DAMAGED", 2)
    cache, seen = make(tmp_path), []
    fill(cache, torch.arange(2, 9))
    for row in (2, 5, 8):
        flip(tmp_path / "rows-00000.bin", row * 48)
    assert cache.verify(seen.append) == (10, 7, [2, 5], 3)
    assert seen == [4, 4, 2]


def test_scans_hold_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "SCAN_BYTES", 2**18)
    cache = make(tmp_path, 20_000, RowLayout(1000))  # 40 MB
    tracemalloc.start()
    assert cache.verify().filled == 0
    assert len(cache.missing()) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22

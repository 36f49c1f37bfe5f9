"""Stores under kills, full and read-only disks, rivals and rot: whatever happens, nothing is silently wrong."""

import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightning_graceful.data import sealed, shards
from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.claims import CLAIMS, Claims
from lightning_graceful.data.inventory import stores
from lightning_graceful.data.pruning import empty_damaged
from lightning_graceful.data.rows import CacheError, RowLayout
from lightning_graceful.data.store import OutputStore
from tests.data.store_files import LAYOUT, PRINT, assert_complete, edit, fill, fork, make, parse, run, said

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside torch's threads
ROW = LAYOUT.nbytes
WIDE = RowLayout(logits=1500, dtype="float32")  # a row spans pages
ROWS, REGION, BATCH = 400, 64, 8
NOBODY = 65534


def fill_by_regions(path, log, layout=WIDE):
    """Fill a store as a run does: claim a region, compute what is missing, note what was written, let go."""
    with make(path, ROWS, layout) as cache, Claims(path) as claims, open(log, "ab", buffering=0) as written:
        left = set(range(-(-ROWS // REGION)))
        while left:
            for region in sorted(left):
                if not claims.take(region):
                    continue
                missing = cache.missing_in(region * REGION, (region + 1) * REGION)
                for part in missing.split(BATCH) if len(missing) else ():
                    cache.write(part, said(part, layout), part % 3, part * 7)
                    written.write(b"".join(row.to_bytes(4, "little") for row in part.tolist()))
                claims.drop(region)
                left.discard(region)
            time.sleep(0.001 if left else 0)


def rows_in(log):
    data = log.read_bytes() if log.exists() else b""
    return [int.from_bytes(data[place : place + 4], "little") for place in range(0, len(data), 4)]


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_store_survives_kills_while_it_is_filled(tmp_path, kills):
    start = time.perf_counter()
    run(fill_by_regions, tmp_path / "timed", tmp_path / "timed.log")
    needed, chance = time.perf_counter() - start, random.Random(kills)
    for kill in range(kills):
        path, log = tmp_path / f"store{kill}", tmp_path / f"log{kill}"
        while True:  # until a kill comes too late
            process = fork.Process(target=fill_by_regions, args=(path, log))
            process.start()
            time.sleep(chance.random() * needed)
            process.kill()
            process.join()
            done = rows_in(log)
            assert len(done) == len(set(done))  # nothing that was kept is computed again
            with make(path, ROWS, WIDE) as cache:
                report = cache.verify()
                assert report.damaged_count == 0
                assert report.filled - len(done) <= BATCH  # what was in flight
                assert cache.filled(torch.tensor(done, dtype=torch.int64)).all()
            if chance.random() < 0.5 or process.exitcode == 0:
                break
        fill_by_regions(path, log)
        assert_complete(path, WIDE)
        shutil.rmtree(path)


@pytest.mark.parametrize("attempts", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_rivals_compute_each_row_once(tmp_path, attempts):
    for attempt in range(attempts):
        path, logs = tmp_path / f"store{attempt}", [tmp_path / f"log{attempt}.{rival}" for rival in range(3)]
        rivals = [fork.Process(target=fill_by_regions, args=(path, log)) for log in logs]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join(60)
        assert [rival.exitcode for rival in rivals] == [0, 0, 0]
        assert sorted(row for log in logs for row in rows_in(log)) == list(range(ROWS))
        assert_complete(path, WIDE)
        assert {file.name for file in path.iterdir()} == {"manifest.json", "rows-00000.bin", CLAIMS}


def test_rivals_without_claims_are_right_all_the_same(tmp_path):
    start = fork.Barrier(2)

    def work(seed):
        start.wait(30)
        with make(tmp_path / "store", 2000) as cache:
            fill(cache, torch.randperm(2000, generator=torch.Generator().manual_seed(seed)), batch=50)
            assert cache.verify() == (2000, 2000, [], 0)

    workers = [fork.Process(target=work, args=(seed,)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert_complete(tmp_path / "store")


def fill_with_a_limit(path, limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        fill(OutputStore.open_existing(path, read_only=False))
    except CacheError as error:
        return str(error)


@pytest.mark.parametrize("limit", [6 * ROW, 6 * ROW + 30, 6 * ROW + 44])
def test_full_disk_keeps_what_was_written(tmp_path, limit):
    make(tmp_path)
    message = run(fill_with_a_limit, tmp_path, limit)
    assert "Expected to write 192 bytes" in message
    assert "File too large" in message
    assert "Free space" in message
    with make(tmp_path) as cache:
        assert cache.missing().tolist() == [6, 7, 8, 9]
        assert cache.verify().damaged_count == 0
        fill(cache, cache.missing())
    assert_complete(tmp_path)


def test_checksum_that_a_full_disk_cut_is_found_and_mended(tmp_path):
    make(tmp_path)
    run(fill_with_a_limit, tmp_path, 6 * ROW + 46)
    with make(tmp_path) as cache:
        with pytest.raises(CacheError, match=r"row 6 .*prune --damaged"):
            cache.peek(torch.arange(10))
        assert empty_damaged(stores(tmp_path)[0]) == [6]
        fill(cache, cache.missing())
    assert_complete(tmp_path)


def make_with_a_limit(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        make(path)
    except CacheError as error:
        return str(error)


def test_store_that_does_not_fit_is_not_made(tmp_path):
    assert "make a store of up to 480 bytes" in run(make_with_a_limit, tmp_path / "new")
    assert not (tmp_path / "new" / "manifest.json").exists()
    fill(make(tmp_path / "new"))
    assert_complete(tmp_path / "new")


@contextmanager
def read_only_store():
    """Yield a filled store that only its owner, who we are not, may change."""
    with tempfile.TemporaryDirectory() as folder:  # below tmp_path nobody else may even look
        path = Path(folder) / "store"
        fill(make(path))
        os.chmod(folder, 0o755)
        for place, mode in ((path / "manifest.json", 0o444), (path / "rows-00000.bin", 0o444), (path, 0o555)):
            place.chmod(mode)
        yield path
        path.chmod(0o755)


def use_as_nobody(path):
    """Do all that can be done with a store; return what each said."""
    if os.geteuid() == 0:  # whom permissions do not bind
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    said_by = {}

    def attempt(name, action):
        try:
            said_by[name] = action()
        except (CacheError, FileNotFoundError) as error:
            said_by[name] = str(error)

    cache = make(path, read_only=True)
    attempt("read", lambda: cache.read(torch.arange(10), torch.arange(10) % 3).target_key.tolist())
    attempt("verify", lambda: tuple(cache.verify()))
    attempt("populate", cache.populate)
    attempt("write", lambda: fill(cache))
    attempt("write by force", lambda: fill(make(path)))
    attempt("claim", lambda: Claims(path))
    attempt("new", lambda: make(path.parent / "other"))
    attempt("new inside", lambda: make(path / "other"))
    attempt("mend", lambda: empty_damaged(stores(path)[0]))
    return said_by


def test_read_only_store_is_read_and_refuses_the_rest():
    with read_only_store() as path:
        before = {file.name: (file.read_bytes(), file.stat().st_mtime) for file in path.iterdir()}
        found = run(use_as_nobody, path)
        assert before == {file.name: (file.read_bytes(), file.stat().st_mtime) for file in path.iterdir()}
    assert found.pop("read") == [row % 3 for row in range(10)]
    assert found.pop("verify") == (10, 10, [], 0)
    assert found.pop("populate")
    assert "read only" in found.pop("write")
    for name in ("write by force", "claim", "new", "new inside", "mend"):
        assert "Permission denied" in found[name], name
        assert "a directory that may be written to" in found[name]


def test_folder_below_a_file_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").touch()
    for action in (make, OutputStore.open_existing, Claims):
        with pytest.raises(CacheError, match="Not a directory"):
            action(tmp_path / "file" / "store")


def look(path, truth):
    """Read every row for itself; return how many say something else than the truth without an error."""
    wrong = 0
    try:
        cache = OutputStore.open_existing(path)
    except CacheError:
        return 0
    with cache:
        for row in range(cache.num_rows):
            index = torch.tensor([row])
            try:
                rows, filled = cache.peek(index)
            except CacheError:
                continue
            if filled:
                found = [*rows.outputs(), rows.target_key, rows.input_hash]
                wrong += any(not torch.equal(a, b) for a, b in zip(found, truth[row], strict=True))
    return wrong


def truth_of(num_rows, layout=LAYOUT):
    return [
        [*said(torch.tensor([row]), layout), torch.tensor([row % 3]), torch.tensor([row * 7])]
        for row in range(num_rows)
    ]


@pytest.mark.parametrize("share", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_no_flipped_bit_changes_what_is_read(tmp_path, monkeypatch, share):
    monkeypatch.setattr(sealed, "SETTLING", (0.0,))
    fill(make(tmp_path, 6), torch.arange(5))  # row 5 stays empty
    with Claims(tmp_path) as claims:
        claims.mark_full(0)
    truth, chance = truth_of(6), random.Random(0)
    for file in tmp_path.iterdir():
        sound = file.read_bytes()
        places = range(len(sound) * 8)
        for place in chance.sample(places, max(8, int(len(places) * share))):
            edit(file, place // 8, bytes([sound[place // 8] ^ 1 << place % 8]))
            assert look(tmp_path, truth) == 0, (file.name, place)
            with Claims(tmp_path) as claims:
                assert claims.full() <= {0}
            file.write_bytes(sound)
    assert look(tmp_path, truth) == 0
    assert OutputStore.open_existing(tmp_path).verify() == (6, 5, [], 0)


@pytest.mark.parametrize("before", ["empty", "filled"])
def test_torn_row_is_old_or_new_or_an_error(tmp_path, monkeypatch, before):
    """A row of which a power cut left the first or the last part, at every byte."""
    monkeypatch.setattr(sealed, "SETTLING", (0.0,))
    other = make(tmp_path / "other")
    other.write(torch.arange(10), Outputs(torch.ones(10, 5), torch.ones(10, 2)), torch.zeros(10, dtype=torch.int64))
    fill(make(tmp_path / "store"))
    new = (tmp_path / "store" / "rows-00000.bin").read_bytes()
    old = bytes(len(new)) if before == "empty" else (tmp_path / "other" / "rows-00000.bin").read_bytes()
    file, truth = tmp_path / "store" / "rows-00000.bin", truth_of(10)
    cache = OutputStore.open_existing(tmp_path / "store")
    for cut in range(3 * ROW + 1, 4 * ROW):
        for torn in (new[:cut] + old[cut:], old[:cut] + new[cut:]):
            file.write_bytes(torn)
            try:
                rows, filled = cache.peek(torch.tensor([3]))
            except CacheError:
                continue
            assert not filled or torn[3 * ROW : 4 * ROW] in {old[3 * ROW : 4 * ROW], new[3 * ROW : 4 * ROW]}
            assert not filled or torch.equal(rows.outputs().logits, truth[3][0])


@pytest.mark.parametrize("shard", [0, 1, 2])
@pytest.mark.parametrize("harm", ["gone", "empty", "cut", "grown", "a folder"])
@pytest.mark.parametrize("when", ["before opening", "before reading"])
def test_shard_that_is_cut_or_gone(tmp_path, monkeypatch, shard, harm, when):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    cache, file = make(tmp_path, 10_000), tmp_path / f"rows-0000{shard}.bin"
    fill(cache, torch.arange(0, 10_000, 100))
    cache.close()
    size = file.stat().st_size
    if harm in {"gone", "a folder"}:
        file.unlink()
    if harm == "a folder":
        file.mkdir()
    elif harm != "gone":
        os.truncate(file, {"empty": 0, "cut": size - 1, "grown": size + 1}[harm])
    with pytest.raises(CacheError, match=rf"Expected {size} bytes in .*{file.name}, got .*Delete .* and fill it again"):
        OutputStore.open_existing(tmp_path) if when == "before opening" else cache.peek(torch.tensor([0]))


def test_store_of_format_1_is_refused(tmp_path):
    """As it was written before rows had a vectorised checksum."""
    layout = {"logits": 5, "embedding": 2, "dtype": "float32"}
    body = {"format": 1, "fingerprint": PRINT, "layout": layout, "num_rows": 10, "rows_per_shard": 5592405}
    crc = zlib.crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    (tmp_path / "manifest.json").write_text(json.dumps({**body, "crc32": crc}))
    (tmp_path / "rows-00000.bin").write_bytes(bytes(480))
    for action in (make, OutputStore.open_existing):
        with pytest.raises(CacheError, match=r"format 2, got format 1 .*version of lightning-graceful .*fill it again"):
            action(tmp_path)


def test_zeroed_and_scribbled_pages_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "SETTLING", (0.0,))
    fill(make(tmp_path, 2000), batch=2000)
    file = tmp_path / "rows-00000.bin"
    for page, content in ((3, bytes(4096)), (7, bytes([0xFF]) * 4096), (11, random.Random(0).randbytes(4096))):
        edit(file, page * 4096, content)
    assert look(tmp_path, truth_of(2000)) == 0
    report = OutputStore.open_existing(tmp_path).verify()
    # A page of zeros empties the rows that end in it; the next one begins in it and is damaged.
    assert (report.rows, report.damaged_count > 150) == (2000, True)
    empty_damaged(stores(tmp_path)[0])
    with make(tmp_path, 2000) as cache:
        fill(cache, cache.missing(), batch=2000)
    assert_complete(tmp_path)
    assert parse(tmp_path)[1] == []

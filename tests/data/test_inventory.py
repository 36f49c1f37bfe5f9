"""What lies in a folder of stores, the room there is, and what pruning chooses, deletes and leaves alone."""

import json
import os
import re
import shutil
import threading
import time
from collections import namedtuple

import pytest
import torch

from lightning_graceful.data import inventory, shards
from lightning_graceful.data.claims import CLAIMS, Claims
from lightning_graceful.data.inventory import parse_bytes, room_for, stores
from lightning_graceful.data.manifest import publish, store_path
from lightning_graceful.data.pruning import DAY, delete, empty_damaged, over_quota, unsound, unused
from lightning_graceful.data.rows import CacheError, RowLayout
from lightning_graceful.data.store import OutputStore
from tests.data.store_files import fill, flip, fork, make

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside torch's threads
BIG = RowLayout(1000, dtype="float32")  # 4016 bytes


def add(folder, name, rows=10, *, filled=True, age=0.0):
    """Add a store that was last used so many days ago."""
    fingerprint = {"old": name, "views": 1}
    path = store_path(folder, fingerprint)
    with make(path, rows, BIG, fingerprint) as cache:
        if filled:
            fill(cache)
    then = time.time() - age * DAY
    os.utime(path / "manifest.json", (then, then))
    return path


def by_name(folder):
    return {info.fingerprint.get("old", info.path.name): info for info in stores(folder)}


def test_stores_are_described(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "is_in_memory", lambda descriptor: False)  # wherever tests are run
    full, empty = add(tmp_path, "full", rows=300, age=3), add(tmp_path, "empty", rows=300, filled=False)
    found = by_name(tmp_path)
    assert {name: info.path for name, info in found.items()} == {"full": full, "empty": empty}
    info = found["full"]
    assert (info.num_rows, info.layout, info.problem, info.full_bytes) == (300, BIG, None, 300 * BIG.nbytes)
    assert info.full_bytes <= info.disk_bytes < info.full_bytes + 2**16
    assert info.last_used == pytest.approx(time.time() - 3 * DAY, abs=60)
    assert found["empty"].disk_bytes < 2**14
    assert [found[name].count_filled() for name in ("full", "empty")] == [300, 0]
    assert stores(full) == [info]


def test_filled_rows_are_counted(tmp_path):
    path = add(tmp_path, "some", filled=False)
    fill(OutputStore.open_existing(path, read_only=False), torch.tensor([1, 5, 9]))
    assert stores(tmp_path)[0].count_filled() == 3


def test_opening_and_reading_count_as_use_and_looking_does_not(tmp_path):
    path = add(tmp_path, "v1", age=9)
    content = (path / "manifest.json").read_bytes()
    with OutputStore.open_existing(path) as cache:
        cache.verify()
        assert stores(tmp_path)[0].last_used < time.time() - 8 * DAY
        cache.read(torch.tensor([1]))
    assert stores(tmp_path)[0].last_used > time.time() - 60
    os.utime(path / "manifest.json", (0, 0))
    make(path, 10, BIG, {"old": "v1", "views": 1}).close()
    assert stores(tmp_path)[0].last_used > time.time() - 60
    assert (path / "manifest.json").read_bytes() == content


def test_use_that_cannot_be_noted_does_no_harm(tmp_path, monkeypatch):
    path = add(tmp_path, "v1", age=9)

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    with OutputStore.open_existing(path) as cache:
        assert len(cache.read(torch.tensor([1]))) == 1


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda path: (path / "manifest.json").unlink(), r"no manifest\.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "altered"),
        (lambda path: (path / "rows-00000.bin").unlink(), "no such file"),
        (lambda path: os.truncate(path / "rows-00000.bin", 99), "got 99 bytes"),
        (lambda path: old_format(path), "format 2, got format 1"),
    ],
)
def test_unsound_store_says_why(tmp_path, harm, problem):
    add(tmp_path, "sound")
    harm(add(tmp_path, "v1"))
    (info,) = unsound(stores(tmp_path))
    assert re.search(problem, info.problem)
    assert info.count_filled() == 0
    assert delete(info)
    assert list(by_name(tmp_path)) == ["sound"]


def old_format(path):
    body = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**body, "format": 1}))


def test_folders_of_others_are_no_stores(tmp_path):
    path = add(tmp_path, "v1")
    (path / "notes.txt").write_text("mine")  # a store no more
    for name in ("photos", "empty", "0123456789abcde", "store"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    (tmp_path / "store" / "manifest.json").mkdir()
    (tmp_path / "rows-00000.bin").touch()
    outside = add(tmp_path / "elsewhere", "v2")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "0123456789abcdef").mkdir()
    assert [info.path.name for info in stores(tmp_path)] == ["0123456789abcdef"]


def test_stores_are_listed_while_others_come_and_go(tmp_path):
    stays, stop = add(tmp_path, "stays"), threading.Event()

    def come_and_go():
        while not stop.is_set():
            path = add(tmp_path, "goes", filled=False)
            delete(stores(path)[0])

    def keep_publishing():
        text = (stays / "manifest.json").read_text()
        while not stop.is_set():
            publish(stays, text)

    workers = [threading.Thread(target=work) for work in (come_and_go, keep_publishing)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(300):
            assert stays in {info.path for info in stores(tmp_path)}
            room_for(tmp_path, 1000, quota=10**9)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="Check the path"):
        stores(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="Expected to read"):
        stores(tmp_path / "file")


def test_room_on_the_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(inventory.shutil, "disk_usage", lambda path: usage(10**9, 9 * 10**8, 10**8))
    room_for(tmp_path / "not" / "yet", 10**8)
    with pytest.raises(CacheError, match=r"room for 200\.0 MB .* 100\.0 MB are free .*Keep less .*another folder\."):
        room_for(tmp_path, 2 * 10**8)
    path = add(tmp_path, "v1", rows=30_000, filled=False)
    os.posix_fallocate(os.open(path / "rows-00000.bin", os.O_WRONLY), 0, 110 * 10**6)
    with pytest.raises(
        CacheError, match=rf"biggest stores: {path.name} \(1\d\d\.\d MB\).*prune {tmp_path} --quota \d+`"
    ):
        room_for(tmp_path, 2 * 10**8)


def test_room_within_a_quota(tmp_path):
    paths = [add(tmp_path, f"v{number}", rows=100 * (number + 1)) for number in range(4)]
    used = sum(info.disk_bytes for info in stores(tmp_path))
    room_for(tmp_path, 1000, quota=used + 1000)
    with pytest.raises(CacheError, match=r"may take .* already\. The biggest stores") as error:
        room_for(tmp_path, 1001, quota=used + 1000)
    assert [str(error.value).find(path.name) > 0 for path in paths] == [False, True, True, True]
    assert f"graceful cache prune {tmp_path} --quota {used - 1}`" in str(error.value)
    with pytest.raises(CacheError) as error:
        room_for(tmp_path, 2000, quota=1999)
    assert "prune" not in str(error.value)  # it would not help


def test_stores_are_chosen_by_age_and_by_quota(tmp_path):
    for age in (1, 5, 3):
        add(tmp_path, f"{age} days", age=age)
    infos = stores(tmp_path)
    size = infos[0].disk_bytes

    def names(chosen):
        return [info.fingerprint["old"] for info in chosen]

    assert sorted(names(unused(infos, 2))) == ["3 days", "5 days"]
    assert names(unused(infos, 2, now=time.time() - 2 * DAY)) == ["5 days"]
    assert names(unused(infos, 6)) == []
    assert names(over_quota(infos, 3 * size)) == []
    assert names(over_quota(infos, 3 * size - 1)) == ["5 days"]
    assert names(over_quota(infos, size)) == ["5 days", "3 days"]
    assert names(over_quota(infos, 0)) == ["5 days", "3 days", "1 days"]


def hold(path, ready, stop):
    own = Claims(path)
    assert own.take(1234)
    ready.set()
    stop.wait(60)


def test_store_that_is_being_filled_is_left_alone(tmp_path):
    path, ready, stop = add(tmp_path, "v1"), fork.Event(), fork.Event()
    owner = fork.Process(target=hold, args=(path, ready, stop))
    owner.start()
    assert ready.wait(30)
    (info,) = stores(tmp_path)
    assert not delete(info)
    assert empty_damaged(info) is None
    stop.set()
    owner.join()
    assert info.count_filled() == 10
    assert delete(info)
    assert list(tmp_path.iterdir()) == []


def test_deleted_store_is_gone_at_once_and_those_who_read_it_go_on(tmp_path):
    path = add(tmp_path, "v1")
    cache, writer = OutputStore.open_existing(path), OutputStore.open_existing(path, read_only=False)
    cache.read(torch.tensor([1]))
    assert delete(stores(tmp_path)[0])
    assert len(cache.read(torch.tensor([2]))) == 1
    with pytest.raises(CacheError, match="Expected to write"):
        fill(writer)


def test_deletion_that_was_interrupted_can_be_finished(tmp_path, monkeypatch):
    add(tmp_path, "v1")
    unlink = type(tmp_path).unlink

    def fail(file, *args, **kwargs):
        if file.name.startswith("rows"):
            raise PermissionError("no")
        unlink(file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", fail)
        with pytest.raises(CacheError, match="Expected to delete"):
            delete(stores(tmp_path)[0])
    (rest,) = stores(tmp_path)
    assert rest.path.name.startswith(".deleted-")
    assert unsound([rest]) == [rest]
    assert delete(rest)
    assert list(tmp_path.iterdir()) == []


def test_damaged_rows_are_emptied(tmp_path):
    path = add(tmp_path, "v1", rows=20)
    for row in (3, 17):
        flip(path / "rows-00000.bin", row * BIG.nbytes)
    (info,) = stores(tmp_path)
    seen = []
    assert empty_damaged(info, dry_run=True, progress=seen.append) == [3, 17]
    assert sum(seen) == 20
    with OutputStore.open_existing(path) as cache:
        assert cache.verify().damaged == [3, 17]
        assert empty_damaged(info) == [3, 17]
        assert cache.verify() == (20, 18, [], 0)
        assert cache.missing().tolist() == [3, 17]


def test_regions_are_looked_through_again_after_rows_were_emptied(tmp_path):
    path = add(tmp_path, "v1")
    for mend in (
        lambda: empty_damaged(stores(tmp_path)[0]),
        lambda: OutputStore.open_existing(path, read_only=False).erase(torch.tensor([1])),
    ):
        with Claims(path) as own:
            own.mark_full(0)
        mend()
        with Claims(path) as own:
            assert own.full() == set()


def test_sound_rows_are_left_as_they_are(tmp_path):
    path = add(tmp_path, "v1", rows=20)
    before = (path / "rows-00000.bin").read_bytes()
    assert empty_damaged(stores(tmp_path)[0]) == []
    assert (path / "rows-00000.bin").read_bytes() == before
    assert {file.name for file in path.iterdir()} == {"manifest.json", "rows-00000.bin", CLAIMS}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50GB", 50 * 10**9),
        ("1.5TiB", 3 * 2**39),
        ("12", 12),
        (" 7 kb ", 7000),
        ("3M", 3 * 10**6),
        ("2Ki", 2048),
        ("0", 0),
        ("5B", 5),
        (10**12, 10**12),
    ],
)
def test_sizes_are_read(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "5 iB", "1e9", "5 GBs", "five", "1,5GB", "nan"])
def test_wrong_sizes_are_refused(text):
    with pytest.raises(ValueError, match="number of bytes such as 50GB"):
        parse_bytes(text)


def test_stores_with_a_file_of_the_user_are_not_touched(tmp_path):
    home = tmp_path / "home"
    for name in ("a", "b"):
        shutil.copytree(add(tmp_path / "stores", name), home / name)
        (home / name / "diary.txt").write_text("dear diary")
    assert stores(home) == []

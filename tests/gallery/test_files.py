import json
import os
import zlib

import numpy as np
import pytest
import torch

import lightning_graceful.gallery.files as files
from lightning_graceful.data.rows import CacheError
from lightning_graceful.gallery.index import GalleryIndex

G, D = 50, 4
WORDS = [f"item {i}" for i in range(G)]
OLD, NEW = torch.randn(2, G, D, generator=torch.Generator().manual_seed(0))
QUERY = torch.eye(D)


def index_of(ids=WORDS, labels=True, **options):
    labels = torch.arange(G) % 3 if labels else None
    return GalleryIndex.build(OLD, ids, labels=labels, version="v1", fingerprint="abc", **options)


def same(one, other):
    return (
        torch.equal(one.embeddings, other.embeddings)
        and one.ids.tolist() == other.ids.tolist()
        and (one.labels is None) == (other.labels is None)
        and (one.labels is None or torch.equal(one.labels, other.labels))
        and torch.equal(one.version_of, other.version_of)
        and (one.versions, one.distance) == (other.versions, other.distance)
    )


@pytest.mark.parametrize("ids", [WORDS, list(range(G)), ["ü" * (1 + i) for i in range(G)]])
@pytest.mark.parametrize("labels", [True, False])
def test_what_is_saved_is_loaded(tmp_path, ids, labels):
    index = index_of(ids, labels, distance="l2")
    index.refresh(ids[3:9], NEW[3:9], version="v2")
    index.save(tmp_path / "a" / "b")
    loaded = GalleryIndex.load(tmp_path / "a" / "b")
    assert same(loaded, index)
    assert (
        loaded.search(QUERY, 3, query_ids=ids[:4]).ids.tolist()
        == index.search(QUERY, 3, query_ids=ids[:4]).ids.tolist()
    )
    assert isinstance(loaded._rows, np.memmap)
    assert isinstance(index._rows, np.memmap)


def test_an_empty_gallery_is_saved_as_well(tmp_path):
    GalleryIndex.build(OLD[:0], []).save(tmp_path)
    assert len(GalleryIndex.load(tmp_path)) == 0


def test_rows_on_disk_take_what_is_documented(tmp_path):
    index_of(list(range(G))).save(tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix == ".npy")
    assert size == G * (4 * D + 2 + 8 + 8) + 4 * 128


def test_changes_stay_in_memory_until_they_are_saved(tmp_path):
    index_of().save(tmp_path)
    first, second = GalleryIndex.load(tmp_path), GalleryIndex.load(tmp_path)
    first.refresh(WORDS, NEW, version="v2")
    assert same(second, index_of())
    assert same(GalleryIndex.load(tmp_path), index_of())
    first.save(tmp_path)
    assert same(GalleryIndex.load(tmp_path), first)
    assert same(second, index_of())  # goes on to see what it opened
    assert len(list(tmp_path.iterdir())) == 5


def test_a_save_leaves_nothing_else_behind_and_takes_nothing_else_away(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "rows.npy").write_text("mine, too")
    index_of().save(tmp_path)
    index_of(labels=False).save(tmp_path)
    names = sorted(file.name.split("-")[0] for file in tmp_path.iterdir())
    assert names == ["codes", "ids", "manifest.json", "notes.txt", "rows", "rows.npy"]


# -- a process that dies while it saves --------------------------------------------------------------------------------


def die_after(count, path):
    """Save in another process that is killed at its ``count``-th call of the disk; whether it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [count]

    def mortal(call):
        def dying(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return call(*args, **options)

        return dying

    for name in ("fsync", "replace"):
        setattr(os, name, mortal(getattr(os, name)))
    files._write_array = mortal(files._write_array)
    files.Path.unlink = mortal(files.Path.unlink)
    files.np.save = mortal(files.np.save)
    try:
        index = GalleryIndex.load(path)
        index.refresh(WORDS[::2], NEW[::2], version="v2")
        index.save(path)
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_leaves_the_state_before_or_after(tmp_path):
    before, after = index_of(), index_of()
    after.refresh(WORDS[::2], NEW[::2], version="v2")
    seen, count, died = [], 0, True
    while died:
        path = tmp_path / str(count)
        index_of().save(path)
        died = die_after(count, path)
        left = GalleryIndex.load(path)
        seen.append("before" if same(left, before) else "after" if same(left, after) else "between")
        left.save(path)  # goes on, and clears away what was left
        assert len(list(path.iterdir())) == 5
        count += 1
    assert seen == ["before"] * seen.count("before") + ["after"] * seen.count("after")
    assert seen.count("before") > 10
    assert seen.count("after") > 3


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_state_before(tmp_path, monkeypatch, name):
    index_of().save(tmp_path)
    index = GalleryIndex.load(tmp_path)
    index.refresh(WORDS, NEW, version="v2")

    def refuse(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        with pytest.raises(CacheError, match="No space left"):
            index.save(tmp_path)
    assert same(GalleryIndex.load(tmp_path), index_of())
    if name == "fsync":
        assert len(list(tmp_path.iterdir())) == 5
    index.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    assert same(GalleryIndex.load(tmp_path), index)


def test_an_interrupt_right_after_the_manifest_was_replaced_takes_nothing_away(tmp_path, monkeypatch):
    index, replace = index_of(), os.replace

    def interrupted(*args):
        replace(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.save(tmp_path)
    assert same(GalleryIndex.load(tmp_path), index)


def test_a_load_in_the_midst_of_a_save_sees_the_newer_state(tmp_path, monkeypatch):
    index_of().save(tmp_path)
    newer = index_of()
    newer.refresh(WORDS, NEW, version="v2")
    read, saved = files._read_arrays, []

    def late(*args):
        if not saved:
            saved.append(True)
            newer.save(tmp_path)
        return read(*args)

    monkeypatch.setattr(files, "_read_arrays", late)
    assert same(GalleryIndex.load(tmp_path), newer)
    assert saved


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "ids", "codes", "labels"])
def test_a_flipped_bit_is_noticed(tmp_path, kind):
    index_of().save(tmp_path)
    (file,) = tmp_path.glob(f"{kind}-*")
    sound = file.read_bytes()
    for place in (3, 60, 128, len(sound) // 2, len(sound) - 1):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(CacheError, match=f"a sound .*{file.name}, got an altered one: its checksum"):
            GalleryIndex.load(tmp_path)
    file.write_bytes(sound)
    assert same(GalleryIndex.load(tmp_path), index_of())


def test_a_flipped_bit_of_the_manifest_is_noticed(tmp_path):
    index_of().save(tmp_path)
    file = tmp_path / "manifest.json"
    sound = file.read_bytes()
    for place in range(0, len(sound), 3):
        if sound[place] not in b" \n":
            file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
            with pytest.raises(CacheError):
                GalleryIndex.load(tmp_path)


def test_files_that_are_cut_or_gone_are_named(tmp_path):
    index_of().save(tmp_path)
    (file,) = tmp_path.glob("codes-*")
    sound = file.read_bytes()
    file.write_bytes(sound[:-1])
    for verify in (True, False):
        with pytest.raises(CacheError, match=f"{file.name} of 228 bytes, got 227"):
            GalleryIndex.load(tmp_path, verify=verify)
    file.unlink()
    with pytest.raises(CacheError, match=f"{file.name}, got none"):
        GalleryIndex.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got no manifest\.json there"):
        GalleryIndex.load(tmp_path / "nowhere")


def altered(path, **changes):
    """Write a manifest of other contents with the right checksum."""
    body = json.loads((path / "manifest.json").read_text())
    body = {**{name: value for name, value in body.items() if name != "crc32"}, **changes}
    body["crc32"] = zlib.crc32(files.canonical(body))
    (path / "manifest.json").write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "index of format 1, got format 2"),
        ({"items": G - 1}, r"of shape \(49, 4\), got float32 of shape \(50, 4\)"),
        ({"versions": []}, "misses versions of rows"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(tmp_path, changes, message):
    index_of().save(tmp_path)
    altered(tmp_path, **changes)
    with pytest.raises(CacheError, match=message):
        GalleryIndex.load(tmp_path)


def test_nothing_pickled_is_read(tmp_path):
    index_of().save(tmp_path)
    (file,) = tmp_path.glob("ids-*")
    np.save(file, np.array(WORDS, dtype=object), allow_pickle=True)
    body = json.loads((tmp_path / "manifest.json").read_text())
    body["files"]["ids"] |= {"bytes": file.stat().st_size, "crc32": zlib.crc32(file.read_bytes())}
    altered(tmp_path, files=body["files"])
    with pytest.raises(CacheError, match="got an altered one"):
        GalleryIndex.load(tmp_path)


def test_no_manifest_leads_out_of_its_directory(tmp_path):
    index_of().save(tmp_path / "index")
    body = json.loads((tmp_path / "index" / "manifest.json").read_text())
    name = body["files"]["rows"]["name"]
    os.rename(tmp_path / "index" / name, tmp_path / name)
    body["files"]["rows"]["name"] = f"../{name}"
    altered(tmp_path / "index", files=body["files"])
    with pytest.raises(CacheError, match="got none"):
        GalleryIndex.load(tmp_path / "index")

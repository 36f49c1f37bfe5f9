"""The directory of an index: what a kill leaves is the state before the last save or after it, never between.

Each save writes new files beside the old ones, then a manifest that names them takes the place of the old manifest in
one step, then the old files go. Who has mapped them keeps them until it lets go.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from lightning_graceful.data.manifest import canonical
from lightning_graceful.data.rows import CacheError
from lightning_graceful.data.shards import disk

FORMAT = 1
MANIFEST = "manifest.json"
# What each array holds: kinds of dtype, and dimensions.
ARRAYS = {"rows": ("f", 2), "ids": ("iU", 1), "codes": ("u", 1), "labels": ("i", 1)}
BLOCK = 2**22
# A manifest may be replaced, and its files removed, between the two reads of a load.
TRIES = 10
REMEDY = "Take the directory from a backup, or build the index again."


class Version(NamedTuple):
    """A model that rows of an index are of.

    Attributes:
        name: What the user calls it.
        fingerprint: Tells two models of one name apart, such as ``OldModel.fingerprint``; None where nobody said.
    """

    name: str
    fingerprint: str | None = None


@dataclass(frozen=True, eq=False)
class Content:
    """All that an index holds.

    Attributes:
        rows: Embeddings, float32, shape ``(G, d)``.
        ids: Int64 or unicode, shape ``(G,)``.
        codes: Of which version each row is, uint16, shape ``(G,)``.
        labels: Int64, shape ``(G,)``, or None.
        versions: The versions, oldest first.
        distance: What rows are compared by.
    """

    rows: NDArray[np.float32]
    ids: NDArray[Any]
    codes: NDArray[np.uint16]
    labels: NDArray[np.int64] | None
    versions: tuple[Version, ...]
    distance: str


def write_index(path: Path, content: Content) -> None:
    """Put an index into a directory, in the place of the one that is there.

    Args:
        path: The directory; made where it is missing. One process at a time may write there.
        content: What to write.

    Raises:
        CacheError: If the disk refuses; what was there before is kept.
    """
    with disk(f"write an index to {path}"):
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: value for name in ARRAYS if (value := getattr(content, name)) is not None}
        with _undone_unless_finished() as new:
            generation = uuid4().hex
            files = {}
            for name, array in arrays.items():
                new.append(path / f"{name}-{generation}.npy")
                files[name] = _write_array(new[-1], array)
            draft = path / f".{MANIFEST}.{generation}"
            new.append(draft)
            body = {
                "format": FORMAT,
                "items": len(content.rows),
                "dimensions": content.rows.shape[1],
                "distance": content.distance,
                "versions": [[*version] for version in content.versions],
                "files": files,
            }
            _write_text(draft, json.dumps({**body, "crc32": zlib.crc32(canonical(body))}, indent=1))
            new.clear()  # from here on they may be what the manifest names
            os.replace(draft, path / MANIFEST)
        _sync_folder(path)
        _remove_all_but(path, {str(file["name"]) for file in files.values()})


def read_index(path: Path, *, verify: bool = True) -> Content:
    """Map the files of an index; changes to the arrays stay in memory.

    Args:
        path: The directory.
        verify: Read all files once and compare their checksums: as long as the disk takes.

    Returns:
        What they hold.

    Raises:
        FileNotFoundError: If there is no index.
        CacheError: If a file is missing, was altered, or is of another format; names it.
    """
    return _read(path, _read_manifest(path / MANIFEST), verify, TRIES)


def _read(path: Path, body: dict[str, Any], verify: bool, tries: int) -> Content:
    try:
        return _read_arrays(path, body, verify)
    except FileNotFoundError as error:
        newer = _read_manifest(path / MANIFEST)
        if tries == 1 or newer["files"] == body["files"]:
            raise CacheError(f"{_expected(Path(error.filename))}, got none. {REMEDY}") from error
    return _read(path, newer, verify, tries - 1)


def _read_arrays(path: Path, body: Mapping[str, Any], verify: bool) -> Content:
    arrays = {
        name: _read_array(path / Path(file["name"]).name, name, body, file, verify)
        for name, file in body["files"].items()
    }
    versions = tuple(Version(*version) for version in body["versions"])
    codes = arrays["codes"]
    if len(codes) and int(codes.max()) >= len(versions):
        raise CacheError(f"{_expected(path / MANIFEST)}, got one that misses versions of rows. {REMEDY}")
    return Content(arrays["rows"], arrays["ids"], codes, arrays.get("labels"), versions, body["distance"])


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        with disk(f"read {file}"):
            text = file.read_bytes() if file.is_file() else None
        if text is None:
            raise FileNotFoundError(f"Expected an index in {file.parent}, got no {MANIFEST} there. Check the path.")
        body: dict[str, Any] = json.loads(text)
        version, crc = body["format"], body.pop("crc32", None)
        sound = crc == zlib.crc32(canonical(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(f"{_expected(file)}, got an altered one. {REMEDY}") from error
    if version != FORMAT:
        raise CacheError(
            f"Expected an index of format {FORMAT}, got format {version!r} in {file}. Use the version of "
            "lightning-graceful that wrote it."
        )
    if not sound:
        raise CacheError(f"{_expected(file)}, got an altered one. {REMEDY}")
    return body


def _read_array(path: Path, name: str, body: Mapping[str, Any], file: Mapping[str, Any], verify: bool) -> NDArray[Any]:
    with path.open("rb") as opened:  # a missing file is noticed here, outside of disk()
        size = os.fstat(opened.fileno()).st_size
        if size != file["bytes"]:
            raise CacheError(f"{_expected(path)} of {file['bytes']} bytes, got {size}. {REMEDY}")
        if verify and _crc(opened) != file["crc32"]:
            raise CacheError(f"{_expected(path)}, got an altered one: its checksum is another. {REMEDY}")
    kinds, dimensions = ARRAYS[name]
    try:
        # Nothing pickled is read. Pages are copied when they are written to; the file never changes.
        array: NDArray[Any] = np.load(path, mmap_mode="c" if body["items"] else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CacheError(f"{_expected(path)}, got an altered one. {REMEDY}") from error
    shape = (body["items"], body["dimensions"])[:dimensions]
    if array.dtype.kind not in kinds or array.shape != shape:
        raise CacheError(f"{_expected(path)} of shape {shape}, got {array.dtype} of shape {array.shape}. {REMEDY}")
    return array


def _expected(file: Path) -> str:
    return f"Expected a sound {file}"


def _write_array(path: Path, array: NDArray[Any]) -> dict[str, str | int]:
    with path.open("xb+") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return {"name": path.name, "bytes": os.fstat(file.fileno()).st_size, "crc32": _crc(file)}


def _crc(file: Any) -> int:
    crc = 0
    while block := file.read(BLOCK):
        crc = zlib.crc32(block, crc)
    return crc


def _write_text(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _undone_unless_finished() -> Iterator[list[Path]]:
    new: list[Path] = []
    try:
        yield new
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_all_but(path: Path, names: set[str]) -> None:
    # Of the state before, and of saves that were killed.
    found = [*path.glob(f".{MANIFEST}.*"), *(file for name in ARRAYS for file in path.glob(f"{name}-*.npy"))]
    for file in found:
        if file.name not in names:
            file.unlink(missing_ok=True)

"""What lies in a folder of stores: how large, how old, how sound; and whether there is room for more.

A folder that holds anything but files of a store is never taken for one, whatever its name.
"""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from lightning_graceful.data.claims import CLAIMS
from lightning_graceful.data.manifest import MANIFEST, load_manifest
from lightning_graceful.data.rows import CacheError, RowLayout
from lightning_graceful.data.store import OutputStore

OUR_FILES = re.compile(rf"{re.escape(MANIFEST)}|\.{re.escape(MANIFEST)}\.[0-9a-f]{{32}}|rows-\d{{5,}}\.bin|\{CLAIMS}")
DELETED = ".deleted-"  # how a folder is called while it is being deleted
OUR_FOLDERS = re.compile(rf"({re.escape(DELETED)})?[0-9a-f]{{16}}")
BLOCK = 512  # what st_blocks counts in, whatever the file system
UNITS = "kmgtp"  # powers of 1000, or of 1024 with an i
BIGGEST = 3


@dataclass(frozen=True)
class StoreInfo:
    """What is known of a store without reading its rows.

    Attributes:
        path: Its folder.
        fingerprint: What its outputs depend on; empty where the manifest cannot be read.
        num_rows: Number of rows, filled or not; 0 where the manifest cannot be read.
        layout: What a row holds, or None.
        disk_bytes: What its files take on the disk now.
        full_bytes: What they take when every row is filled.
        last_used: When it was last opened or read, seconds since 1970.
        problem: Why it cannot be used, or None.
    """

    path: Path
    fingerprint: dict[str, Any]
    num_rows: int
    layout: RowLayout | None
    disk_bytes: int
    full_bytes: int
    last_used: float
    problem: str | None

    def count_filled(self) -> int:
        """Count the rows that are not empty; reads a page for each row that was written.

        Returns:
            Their number; 0 where the store cannot be used.
        """
        if self.problem is not None:
            return 0
        with OutputStore.open_existing(self.path) as store:
            return store.count_filled()


def stores(cache_dir: Path | str) -> list[StoreInfo]:
    """List the stores of a folder, or the folder itself where it is a store.

    Args:
        cache_dir: The folder; links in it are passed over, and so is what another process deletes meanwhile.

    Returns:
        One entry a store, by path; those that cannot be used say why.

    Raises:
        CacheError: If the folder cannot be read.
        FileNotFoundError: If there is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     OutputStore.open(f"{path}/0", fingerprint={"old": "v1"}, num_rows=4, layout=RowLayout(2)).close()
        ...     [(info.path.name, info.num_rows, info.full_bytes, info.problem) for info in stores(path)]
        [('0', 4, 96, None)]
    """
    folder = Path(cache_dir)
    if not folder.exists():
        raise FileNotFoundError(f"Expected a folder of stores, got no {folder}. Check the path.")
    try:
        if is_store(folder):
            return [_describe(folder)]
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())
        return list(_still_there(entries))
    except OSError as error:
        raise CacheError(f"Expected to read {folder}, got {error}. Pass a folder that may be read.") from error


def room_for(cache_dir: Path | str, nbytes: int, quota: int | None = None) -> None:
    """Make sure that so many bytes more may be written.

    Args:
        cache_dir: The folder of the stores, which need not be there yet.
        nbytes: How many bytes will be written.
        quota: What all stores may take together; None for all that the disk has.

    Raises:
        CacheError: If the disk or the quota has not so much room; names the biggest stores and the way to delete some.

    Example:
        >>> room_for("no/such/place", nbytes=1000)
    """
    folder = Path(cache_dir)
    there = stores(folder) if folder.exists() else []
    used = sum(info.disk_bytes for info in there)
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    limits = [(free, f"{decimal(max(free, 0))} are free on the disk")]
    if quota is not None:
        limits.append((quota - used, f"the stores may take {decimal(quota)} and take {decimal(used)} already"))
    room, words = min(limits)
    if nbytes > room:
        raise CacheError(
            f"Expected room for {decimal(nbytes)} of old outputs in {folder}, but {words}. "
            f"{_prune_remedy(folder, there, used + room - nbytes)}Keep less (top_k=10, dtype='float16'), or name "
            "another folder."
        )


def parse_bytes(text: str | int) -> int:
    """Read a number of bytes.

    Args:
        text: A number, or one with a unit: kB, MB, GB, TB, PB (powers of 1000), KiB, MiB, GiB, TiB, PiB (of 1024).

    Returns:
        Bytes.

    Raises:
        ValueError: If it is not that, or negative.

    Example:
        >>> parse_bytes("50GB"), parse_bytes("1.5 KiB"), parse_bytes(7)
        (50000000000, 1536, 7)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgtp]?)(i?)b?)?\s*", str(text), flags=re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"Expected a number of bytes such as 50GB or 1.5TiB, got {text!r}.")
    power = UNITS.index(match[2].lower()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def files_in(folder: Path) -> dict[str, os.stat_result]:
    """Look at the entries of a folder.

    Args:
        folder: The folder; another process may be writing there.

    Returns:
        The state of each entry (of a link: its own), by name, without those that went away meanwhile.

    Raises:
        OSError: If the folder cannot be read.
    """
    states = {}
    for file in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the draft of a manifest lives for a moment
            states[file.name] = file.lstat()
    return states


def is_store(folder: Path) -> bool:
    """Say whether a folder is a store, or what is left of one: nothing else lies in it.

    Args:
        folder: The folder.

    Returns:
        False, too, where there is no folder, or an empty one that no store is called like.
    """
    if not folder.is_dir():
        return False
    files = files_in(folder)
    if not files:
        return OUR_FOLDERS.fullmatch(folder.name) is not None
    return all(OUR_FILES.fullmatch(name) and stat.S_ISREG(state.st_mode) for name, state in files.items())


def _still_there(folders: list[Path]) -> Iterator[StoreInfo]:
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):  # pruned by another process
            if is_store(folder):
                yield _describe(folder)


def _describe(folder: Path) -> StoreInfo:
    states = files_in(folder)
    disk_bytes = sum(state.st_blocks * BLOCK for state in states.values())
    last_used = states.get(MANIFEST, folder.stat()).st_mtime
    try:
        manifest = load_manifest(folder)
    except (CacheError, FileNotFoundError) as error:
        return StoreInfo(folder, {}, 0, None, disk_bytes, disk_bytes, last_used, str(error))
    files, problem = manifest.files(folder), None
    try:
        files.check()
    except CacheError as error:
        problem = str(error)
    return StoreInfo(
        folder, manifest.fingerprint, manifest.num_rows, manifest.layout, disk_bytes, files.size, last_used, problem
    )


def _prune_remedy(folder: Path, there: list[StoreInfo], quota: int) -> str:
    # Which quota makes the room that is missing, if any does.
    if quota < 0 or not there:
        return ""
    biggest = sorted(there, key=lambda info: -info.disk_bytes)[:BIGGEST]
    named = ", ".join(f"{info.path.name} ({decimal(info.disk_bytes)})" for info in biggest)
    return f"The biggest stores: {named}. Make room with `graceful cache prune {folder} --quota {quota}`. "

"""Files in memory: many as one array, and their pages asked for before they are touched.

What the standard library has no call for goes to the C library, which lets other threads run meanwhile.
"""

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

with contextlib.suppress(ImportError):  # for POSIX systems
    import resource

MAP_FIXED = 0x10  # the same on Linux, macOS and the BSDs
MADV_POPULATE_READ = 22
SYS_PROCESS_MADVISE = 440
TMPFS_MAGIC = 0x01021994
MAX_RANGES = 1024  # that one call takes (UIO_MAXIOV)
PIECE_BYTES = 4 * 2**20  # what is paged in between two looks at the stop sign


def map_files(files: Sequence[Path], sizes: Sequence[int]) -> NDArray[np.uint8]:
    """Map files next to each other, so that one gather reaches rows of all of them.

    Args:
        files: Their paths.
        sizes: Their sizes in bytes, all but the last multiples of the page size.

    Returns:
        All their bytes, read only, shape ``(sum(sizes),)``; what is written to the files shows in it, and the maps go
        when the array and its last view do. It may be used after a fork.

    Raises:
        OSError: If the system refuses.
    """
    # The space is taken first, so that each file can be put at its place in it.
    space = mmap.mmap(-1, sum(sizes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    table = np.frombuffer(space, dtype=np.uint8)
    place = table.ctypes.data
    for file, size in zip(files, sizes, strict=True):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if _libc().mmap(place, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, descriptor, 0) != place:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
        finally:
            os.close(descriptor)
        place += size
    # Rows are asked for at random: a page that was touched says nothing of its neighbours.
    _advise(table, 0, len(table), getattr(mmap, "MADV_RANDOM", None))
    return table


def take_rows(table: NDArray[np.uint8], numbers: NDArray[np.int64], *, probes: int) -> tuple[NDArray[np.uint8], bool]:
    """Copy rows out of a map; what has to come from the disk is asked for all at once.

    Args:
        table: Rows in a map, shape ``(M, nbytes)``.
        numbers: Which, in ``[0, M)``, shape ``(N,)``.
        probes: How many rows to take first: if one of them had to come from the disk, the others are asked for before
            they are taken. Where all are in memory, asking would cost more than it saves.

    Returns:
        Shape ``(N, nbytes)``, and whether this thread had to wait for the disk.
    """
    found = np.empty((len(numbers), table.shape[1]), dtype=np.uint8)
    before = _major_faults()
    # Only mode="clip" writes to `out` at once, and lets other threads run.
    if probes:
        np.take(table, numbers[:probes], axis=0, out=found[:probes], mode="clip")
        if _major_faults() > before:
            _ask_for(table, numbers[probes:])
    np.take(table, numbers[probes:], axis=0, out=found[probes:], mode="clip")
    return found, _major_faults() > before


def ask_for_range(table: NDArray[np.uint8], start: int, stop: int) -> None:
    """Ask for the pages of neighbouring rows of a map, shape ``(M, nbytes)``, without waiting for them."""
    first = start * table.shape[1]
    _advise(table, first, stop * table.shape[1] - first, getattr(mmap, "MADV_WILLNEED", None))


class Pager:
    """Brings a map into memory, in a thread of its own, until done or stopped.

    Where the system cannot (before Linux 5.14, other systems), it does nothing.

    Args:
        table: The map, shape ``(n,)``.
    """

    def __init__(self, table: NDArray[np.uint8]) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(table,), name="graceful-pager", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all is in memory."""
        self._thread.join()

    def stop(self) -> None:
        """Stop within milliseconds."""
        self._stopped.set()
        self._thread.join()

    def _run(self, table: NDArray[np.uint8]) -> None:
        for start in range(0, len(table), PIECE_BYTES):
            size = min(PIECE_BYTES, len(table) - start)
            # Asked for first, since pages that are taken one by one are read one by one.
            _advise(table, start, size, getattr(mmap, "MADV_WILLNEED", None))
            if self._stopped.is_set() or not _advise(table, start, size, MADV_POPULATE_READ):
                return


def available_memory() -> int:
    """Return the bytes that programs may take before the system gets into need; 0 where it does not say."""
    with contextlib.suppress(OSError), open("/proc/meminfo", "rb") as lines:
        for line in lines:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def is_in_memory(descriptor: int) -> bool:
    """Say whether an open file lies in memory (tmpfs), where touching a hole in a map takes room, or kills if none is.

    Args:
        descriptor: Of the file.

    Returns:
        False as well where the system does not say.
    """
    if sys.platform != "linux":
        return False
    state = ctypes.create_string_buffer(256)  # struct statfs begins with the kind of file system, a long
    done = _libc().fstatfs(descriptor, state)
    return bool(done == 0 and ctypes.c_long.from_buffer(state).value == TMPFS_MAGIC)


def _ask_for(table: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
    nbytes, base = table.shape[1], table.ctypes.data
    starts = np.sort(numbers).clip(0, len(table) - 1) * nbytes
    pages = starts // mmap.PAGESIZE * mmap.PAGESIZE
    ranges = np.stack([base + pages, starts + nbytes - pages], axis=1).astype(np.uint64)
    if not _ask_for_all(ranges):
        for page, size in zip(pages.tolist(), ranges[:, 1].tolist(), strict=True):
            _advise(table, page, size, getattr(mmap, "MADV_WILLNEED", None))


def _ask_for_all(ranges: NDArray[np.uint64]) -> bool:
    # process_madvise(2) takes many ranges in one call; say whether it is there.
    if sys.platform != "linux":
        return False
    try:
        own = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        for start in range(0, len(ranges), MAX_RANGES):
            part = ranges[start : start + MAX_RANGES]
            done = _libc().syscall(
                SYS_PROCESS_MADVISE, own, ctypes.c_void_p(part.ctypes.data), len(part), mmap.MADV_WILLNEED, 0
            )
            if done < 0 and ctypes.get_errno() != errno.EAGAIN:
                return False
    finally:
        os.close(own)
    return True


def _advise(table: NDArray[np.uint8], start: int, size: int, advice: int | None) -> bool:
    # Advice is about whole pages; say whether the system took it.
    if advice is None or sys.platform == "win32":
        return False
    address = table.ctypes.data + start
    before = address % mmap.PAGESIZE
    return bool(_libc().madvise(address - before, size + before, advice) == 0)


def _major_faults() -> int:
    # Of this thread: how often it had to wait for the disk. Where that is not known, as if never.
    return int(resource.getrusage(resource.RUSAGE_THREAD).ru_majflt) if sys.platform == "linux" else 0


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.syscall.restype = ctypes.c_long
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint]
    return libc

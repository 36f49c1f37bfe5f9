"""Who is filling what: locks on regions of rows, which the operating system takes back when a process ends.

A claim is a lock on one byte of the store's file ``.claims``: byte r for region r, whose rows begin at
``r * REGION_ROWS``. The byte itself notes whether the region was once seen full. Both only save work: what is written
without a claim is right all the same, and a row that is missing in a full region is computed when it is asked for.
"""

import contextlib
import errno
import os
import struct
import sys
import weakref
from pathlib import Path
from types import TracebackType

from lightning_graceful.data.rows import CacheError
from lightning_graceful.data.shards import disk

with contextlib.suppress(ImportError):  # for POSIX systems; elsewhere old models run live
    import fcntl

REGION_ROWS = 1024
CLAIMS = ".claims"
FULL = b"\xa5"  # which no single flipped bit makes of the 0 that stands for "not known"
BUSY = {errno.EAGAIN, errno.EACCES}
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
# struct flock of 64-bit Linux: type, whence, start, length, process (0 for a lock of a file description).
FLOCK = struct.Struct("@hhqqi0q")
# Linux ties these locks to the open file, so two objects of one process exclude each other as well. Elsewhere a lock
# belongs to the process, and closing any claims of a store gives up all that the process has there.
PER_FILE = sys.platform == "linux" and struct.calcsize("P") == 8 and hasattr(fcntl, "F_OFD_SETLK")


class Claims:
    """The claims of one owner on the regions of a store; safe to use from several threads.

    Claims are given up by :meth:`drop`, by :meth:`close`, and when the process ends, however it ends; a forked process
    has none of its parent's. Where the file system knows no locks, every claim is granted: work may then be done twice,
    never wrongly.

    Args:
        path: The directory of a store.

    Raises:
        CacheError: If the directory cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path, Claims(path) as one, Claims(path) as other:
        ...     one.take(3), one.take(3), other.take(3), other.take(4)
        (True, True, False, True)
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._held: set[int] = set()
        self._file: int | None = None
        self._descriptor()
        _open_claims.add(self)

    def take(self, region: int) -> bool:
        """Claim a region, without waiting.

        Args:
            region: Its number, from 0 on.

        Returns:
            Whether it is ours, now or from before; False where another owner has it.

        Raises:
            CacheError: If the system refuses for another reason.
            ValueError: If the region is negative.
        """
        if region < 0:
            raise ValueError(f"Expected a region from 0 on, got {region}. Pass row // REGION_ROWS.")
        if region not in self._held:
            if not self._lock(fcntl.F_WRLCK, region, 1):
                return False
            self._held.add(region)
        return True

    def take_all(self) -> bool:
        """Claim every region that there is or may be, without waiting.

        Returns:
            Whether they are ours; False where another owner has one.
        """
        return self._lock(fcntl.F_WRLCK, 0, 0)

    def drop(self, region: int) -> None:
        """Give up a region; nothing happens where it is not ours."""
        if region in self._held:
            self._lock(fcntl.F_UNLCK, region, 1)
            self._held.discard(region)

    def full(self) -> set[int]:
        """Return the regions that were marked as full."""
        marks, place = b"", 0
        with disk(f"read {self.path / CLAIMS}"):
            while part := os.pread(self._descriptor(), 2**20, place):
                marks, place = marks + part, place + len(part)
        return {region for region, mark in enumerate(marks) if mark == FULL[0]}

    def mark_full(self, region: int) -> None:
        """Note that no row of a region is missing, so that it need not be looked through again."""
        with contextlib.suppress(OSError):  # on a full disk it is looked through again
            os.pwrite(self._descriptor(), FULL, region)

    def close(self) -> None:
        """Give up all; the object may be used again."""
        self._held.clear()
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> "Claims":
        """Return the claims."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up all."""
        self.close()

    def __del__(self) -> None:
        """Give up all."""
        self.close()

    def _descriptor(self) -> int:
        if self._file is None:
            with disk(f"claim rows in {self.path / CLAIMS}"):
                self._file = os.open(self.path / CLAIMS, os.O_RDWR | os.O_CREAT, 0o666)
        return self._file

    def _lock(self, kind: int, start: int, length: int) -> bool:
        file = self._descriptor()
        try:
            if PER_FILE:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
            else:
                names = {fcntl.F_WRLCK: fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.F_UNLCK: fcntl.LOCK_UN}
                fcntl.lockf(file, names[kind], length, start)
        except OSError as error:
            if error.errno in BUSY:
                return False
            if error.errno not in NO_LOCKS:
                raise CacheError(
                    f"Expected to claim rows in {self.path / CLAIMS}, got {error}. Check that the directory is there, "
                    "or use one on a local disk."
                ) from error
        return True


def forget_full(path: Path) -> None:
    """Forget which regions of a store were full: rows of it have been emptied."""
    with disk(f"clear {path / CLAIMS}"), contextlib.suppress(FileNotFoundError):
        os.truncate(path / CLAIMS, 0)


_open_claims: "weakref.WeakSet[Claims]" = weakref.WeakSet()


def _close_after_fork() -> None:
    # A fork, such as a worker of a DataLoader, shares the open file: it would keep the claims of a parent that died.
    for claims in list(_open_claims):
        claims.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)

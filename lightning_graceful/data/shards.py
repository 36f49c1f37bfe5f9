"""The files of a store: rows of bytes by number, whatever they mean."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_graceful.data.paging import Pager, ask_for_range, available_memory, is_in_memory, map_files, take_rows
from lightning_graceful.data.rows import CacheError

SHARD_BYTES = 256 * 2**20
PROBES = 4
PAGES = 2**16  # a multiple of every page size: where a file may begin in memory


def rows_per_file(nbytes: int) -> int:
    """Say how many rows a file takes: 256 MiB of them, but so that another file can be mapped right behind it.

    Args:
        nbytes: Bytes a row, a multiple of 8.

    Returns:
        Number of rows.

    Example:
        >>> rows_per_file(2016), rows_per_file(2016) * 2016 % 2**16
        (133120, 0)
    """
    step = PAGES // math.gcd(nbytes, PAGES)
    return max(step, SHARD_BYTES // nbytes // step * step)


class RowFiles:
    """The files ``rows-00000.bin``, ... of a store: bytes by row number, whatever they mean.

    Reads go through one map over all files, made when it is needed; writes go through the file, since a full disk under
    a map would kill the process (SIGBUS). Threads may read, write and close at once, without a lock, which a fork might
    copy while it is held.
    """

    def __init__(self, path: Path, num_rows: int, nbytes: int, rows_per_file: int) -> None:
        self.path = path
        self.num_rows = num_rows
        self.nbytes = nbytes
        self.rows_per_file = rows_per_file
        self._table: NDArray[np.uint8] | None = None
        self._pager: Pager | None = None
        self._cold = True  # whether the last read had to wait for the disk

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map behind: a spawned process makes its own."""  # noqa: DOC201
        return {**self.__dict__, "_table": None, "_pager": None}

    @property
    def size(self) -> int:
        """Bytes of all files when full."""
        return self.num_rows * self.nbytes

    def create(self) -> None:
        """Make the files; several processes may do so at once.

        They are sparse, except in memory (tmpfs): a hole that is read there takes room, too, and a lack of it would
        kill the process.

        Raises:
            CacheError: If the disk refuses.
        """
        with disk(f"make a store of up to {self.size} bytes in {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            for number in range(self._count):
                with _descriptor(self._file(number), os.O_RDWR | os.O_CREAT) as descriptor:
                    if os.fstat(descriptor).st_size < self._size(number):  # never cut what another process made
                        os.ftruncate(descriptor, self._size(number))
                    if is_in_memory(descriptor):
                        os.posix_fallocate(descriptor, 0, self._size(number))

    def check(self) -> None:
        """Compare the sizes of the files with what they should be.

        Raises:
            CacheError: If a file is missing, cut or too long.
        """
        for number in range(self._count):
            file, size = self._file(number), self._size(number)
            try:
                got = f"{os.stat(file).st_size} bytes"
            except OSError as error:
                got = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            if got != f"{size} bytes":
                raise CacheError(f"Expected {size} bytes in {file}, got {got}. Delete {self.path} and fill it again.")

    def gather(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy rows out of the files.

        Args:
            numbers: Row numbers, shape ``(N,)``.

        Returns:
            Bytes, shape ``(N, nbytes)``.
        """
        found, self._cold = take_rows(self._map(), numbers, probes=PROBES if self._cold else 0)
        return found

    def last_words(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Copy the last 4 bytes of rows; touches one page a row.

        Args:
            numbers: Row numbers, shape ``(N,)``.

        Returns:
            Shape ``(N,)``.
        """
        words = self._map().reshape(-1).view("<u4")
        step = self.nbytes // 4
        return np.take(words, numbers * step + (step - 1), mode="clip")

    def ahead(self, start: int, stop: int) -> None:
        """Ask the disk for the rows from ``start`` to before ``stop``, which are about to be read."""
        ask_for_range(self._map(), start, stop)

    def has_data(self, start: int, stop: int) -> bool:
        """Say whether anything may have been written to the rows from ``start`` to before ``stop``.

        Asks the file system for holes, and so reads nothing; where it knows of none, the answer is yes.

        Args:
            start: First row.
            stop: Row after the last.

        Returns:
            False where all these rows are surely empty.
        """
        for number in range(start // self.rows_per_file, -(-stop // self.rows_per_file)):
            first = number * self.rows_per_file
            begin, end = (max(start, first) - first) * self.nbytes, (stop - first) * self.nbytes
            with disk(f"read {self._file(number)}"), _descriptor(self._file(number), os.O_RDONLY) as descriptor:
                if _next_data(descriptor, begin) < min(end, self._size(number)):
                    return True
        return False

    def write(self, numbers: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Write rows, each run of neighbours at once; where a number comes twice, its last row is kept.

        Args:
            numbers: Row numbers, shape ``(N,)``.
            rows: Bytes, shape ``(N, nbytes)``.

        Raises:
            CacheError: If the disk refuses; the rows before are written.
        """
        order = np.argsort(numbers, kind="stable")
        files, places = np.divmod(numbers[order], self.rows_per_file)
        for number in np.unique(files).tolist():
            here = files == number
            runs = np.flatnonzero(np.diff(places[here], prepend=-2) != 1)  # where a run of neighbours starts
            data = rows[order[here]]
            file = self._file(number)
            with disk(f"write {data.nbytes} bytes to {file}"), _descriptor(file, os.O_WRONLY) as descriptor:
                for start, run in zip(places[here][runs].tolist(), np.split(data, runs[1:]), strict=True):
                    _write_at(descriptor, run.reshape(-1).data, start * self.nbytes)

    def populate(self) -> bool:
        """Start to bring all files into memory, if they fit into half of what is free; once.

        Returns:
            Whether they fit.
        """
        if self._pager is None and 2 * self.size <= available_memory():
            self._pager = Pager(self._map().reshape(-1))
        return self._pager is not None

    def wait(self) -> None:
        """Return when what :meth:`populate` started is done."""
        if self._pager is not None:
            self._pager.wait()

    def names(self, numbers: NDArray[np.int64]) -> str:
        """Name the files that hold these rows."""  # noqa: DOC201
        return ", ".join(self._file(number).name for number in np.unique(numbers // self.rows_per_file).tolist())

    def close(self) -> None:
        """Give up the map; it comes back if it is needed."""
        pager, self._pager = self._pager, None
        if pager is not None:
            pager.stop()
        self._table = None

    @property
    def _count(self) -> int:
        return -(-self.num_rows // self.rows_per_file)

    def _file(self, number: int) -> Path:
        return self.path / f"rows-{number:05d}.bin"

    def _size(self, number: int) -> int:
        return min(self.rows_per_file, self.num_rows - number * self.rows_per_file) * self.nbytes

    def _map(self) -> NDArray[np.uint8]:
        table = self._table
        if table is None:
            self.check()  # touching what lies behind the end of a file would kill the process
            numbers = range(self._count)
            with disk(f"read {self.path}"):
                whole = map_files([self._file(i) for i in numbers], [self._size(i) for i in numbers])
            self._table = table = whole.reshape(-1, self.nbytes)
        return table


@contextmanager
def disk(action: str) -> Iterator[None]:
    """Turn what the operating system refuses into a message that says what to do."""  # noqa: DOC501
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"Expected to {action}, got {error}. Free space or pick a directory that may be written to, and run again: "
            "the rows written so far are kept."
        ) from error


@contextmanager
def _descriptor(file: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(file, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _next_data(descriptor: int, offset: int) -> float:
    # Where the first written byte from an offset on lies.
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        return math.inf if error.errno == errno.ENXIO else offset
    except AttributeError:  # a system that does not tell holes
        return offset


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, offset = data[count:], offset + count

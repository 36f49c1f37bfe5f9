"""The files of a store: rows of bytes by number, whatever they mean."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_graceful.data.rows import CacheError

MAX_MAPS = 512  # each open map costs a file descriptor, of which a process often has 1024


class RowFiles:
    """The files ``rows-00000.bin``, ... of a store: bytes by row number, whatever they mean.

    Reads go through maps, opened when needed, at most 512 at a time; writes go through the file, since a full disk
    under a map would kill the process (SIGBUS).
    """

    def __init__(self, path: Path, num_rows: int, nbytes: int, rows_per_file: int) -> None:
        self.path = path
        self.num_rows = num_rows
        self.nbytes = nbytes
        self.rows_per_file = rows_per_file
        self._maps: dict[int, tuple[mmap.mmap, NDArray[np.uint8]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps behind: a spawned process opens its own."""  # noqa: DOC201
        return {**self.__dict__, "_maps": {}}

    def create(self) -> None:
        """Make the files, sparse; several processes may do so at once.

        Raises:
            CacheError: If the disk refuses.
        """
        with disk(f"make a store of {self.num_rows * self.nbytes} bytes (sparse) in {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            for number in range(self._count):
                with _descriptor(self._file(number), os.O_RDWR | os.O_CREAT) as descriptor:
                    if os.fstat(descriptor).st_size < self._size(number):  # never cut what another process made
                        os.ftruncate(descriptor, self._size(number))

    def check(self) -> None:
        """Compare the sizes of the files with what they should be.

        Raises:
            CacheError: If a file is missing, cut or too long.
        """
        for number in range(self._count):
            self._check(number)

    def gather(
        self, numbers: NDArray[np.int64], columns: slice = slice(None), *, prefetch: bool = False
    ) -> NDArray[np.uint8]:
        """Copy rows out of the files.

        Args:
            numbers: Row numbers, shape ``(N,)``.
            columns: Which bytes of each row.
            prefetch: Ask for all pages of the batch at once: a cold disk then serves them together, not fault by fault.

        Returns:
            Bytes, shape ``(N, len(columns))``.
        """
        files, places = np.divmod(numbers, self.rows_per_file)
        found = np.empty((len(numbers), len(range(self.nbytes)[columns])), dtype=np.uint8)
        for number in np.unique(files).tolist():
            here = files == number
            memory, table = self._map(number)
            if prefetch:
                self._prefetch(memory, places[here])
            found[here] = table[places[here], columns]
        return found

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

    def names(self, numbers: NDArray[np.int64]) -> str:
        """Name the files that hold these rows."""  # noqa: DOC201
        return ", ".join(self._file(number).name for number in np.unique(numbers // self.rows_per_file).tolist())

    def close(self) -> None:
        """Give up the maps; they come back if they are needed."""
        self._maps.clear()

    @property
    def _count(self) -> int:
        return -(-self.num_rows // self.rows_per_file)

    def _file(self, number: int) -> Path:
        return self.path / f"rows-{number:05d}.bin"

    def _size(self, number: int) -> int:
        return min(self.rows_per_file, self.num_rows - number * self.rows_per_file) * self.nbytes

    def _check(self, number: int) -> None:
        file, size = self._file(number), self._size(number)
        got = f"{file.stat().st_size} bytes" if file.is_file() else "no such file"
        if got != f"{size} bytes":
            raise CacheError(f"Expected {size} bytes in {file}, got {got}. Delete {self.path} and fill it again.")

    def _map(self, number: int) -> tuple[mmap.mmap, NDArray[np.uint8]]:
        if number not in self._maps:
            if len(self._maps) >= MAX_MAPS:
                self._maps.pop(next(iter(self._maps)))
            self._check(number)
            with disk(f"read {self._file(number)}"), _descriptor(self._file(number), os.O_RDONLY) as descriptor:
                memory = mmap.mmap(descriptor, self._size(number), access=mmap.ACCESS_READ)
            self._maps[number] = memory, np.frombuffer(memory, dtype=np.uint8).reshape(-1, self.nbytes)
        return self._maps[number]

    def _prefetch(self, memory: mmap.mmap, places: NDArray[np.int64]) -> None:
        starts = places * self.nbytes // mmap.PAGESIZE * mmap.PAGESIZE
        for start in np.unique(starts).tolist():
            memory.madvise(mmap.MADV_WILLNEED, start, min(self.nbytes + mmap.PAGESIZE, len(memory) - start))


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


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, offset = data[count:], offset + count

"""Rows under a checksum: which are empty, which are damaged, whatever they hold."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_graceful.data.checksum import checksums
from lightning_graceful.data.rows import stored_checksums
from lightning_graceful.data.shards import RowFiles

SCAN_BYTES = 16 * 2**20  # what a scan holds at a time
MAX_DAMAGED = 1000
NONE = np.empty(0, dtype=np.intp)
SETTLING = (0.0, 0.001, 0.01, 0.1)  # seconds until a row that was being written is looked at again


class Piece(NamedTuple):
    """What a scan found in neighbouring rows.

    Attributes:
        rows: How many rows were looked at.
        filled: Numbers of those that are not empty, int64.
        damaged: Numbers of those with a wrong checksum, int64.
    """

    rows: int
    filled: NDArray[np.int64]
    damaged: NDArray[np.int64]


class Looked(NamedTuple):
    """Rows that were read.

    Attributes:
        rows: Their bytes, shape ``(N, nbytes)``.
        filled: Which are not empty, shape ``(N,)``.
        damaged: The places among the N of those that are filled and wrong.
    """

    rows: NDArray[np.uint8]
    filled: NDArray[np.bool_]
    damaged: NDArray[np.intp]


class StoreReport(NamedTuple):
    """What a full scan found.

    Attributes:
        rows: Rows of the store.
        filled: Rows that are not empty, the damaged ones among them.
        damaged: Numbers of the first 1000 rows with a wrong checksum.
        damaged_count: Number of rows with a wrong checksum.
    """

    rows: int
    filled: int
    damaged: list[int]
    damaged_count: int


class SealedRows:
    """The rows of a store's files, each with a checksum; one of 0 says that the row is empty.

    Args:
        files: The files.
        seed: Of the store, see :func:`~lightning_graceful.data.checksum.checksums`.
    """

    def __init__(self, files: RowFiles, seed: int) -> None:
        self.files = files
        self.seed = seed

    def filled(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which rows are not empty; touches one page a row.

        Args:
            numbers: Row numbers, shape ``(N,)``.

        Returns:
            Shape ``(N,)``.
        """
        filled: NDArray[np.bool_] = self.files.last_words(numbers) != 0
        return filled

    def look(self, numbers: NDArray[np.int64]) -> Looked:
        """Copy rows and check them.

        Another thread or process may be writing these very rows: they are read again until they are right, or have been
        wrong for a tenth of a second.

        Args:
            numbers: Row numbers, shape ``(N,)``. One that is outside the store gets the row at the nearer end, which is
                either empty or has the wrong checksum for it.

        Returns:
            The rows, and which are empty or damaged.
        """
        rows = self.files.gather(numbers)
        stored = stored_checksums(rows)
        wrong = stored != checksums(rows, numbers, self.seed)
        if not wrong.any():  # a right checksum is never 0
            return Looked(rows, ~wrong, NONE)
        suspects = np.flatnonzero(wrong & (stored != 0))
        for seconds in SETTLING if len(suspects) else ():
            time.sleep(seconds)
            rows[suspects] = self.files.gather(numbers[suspects])
            right = checksums(rows[suspects], numbers[suspects], self.seed)
            suspects = suspects[(stored[suspects] != right) & (stored[suspects] != 0)]
            if not len(suspects):
                break
        return Looked(rows, stored != 0, suspects)

    def empty_in(self, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """Find the empty ones among neighbouring rows, piece by piece; what was never written to is not read.

        Args:
            start: First row.
            stop: Row after the last.

        Yields:
            Their numbers.
        """
        for first, behind in self._pieces(start, stop):
            yield self._empty(np.arange(first, behind))

    def empty_among(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Find the empty ones among some rows, likewise.

        Args:
            numbers: Row numbers, sorted, each once, shape ``(N,)``.

        Yields:
            Their numbers.
        """
        for first, behind in self._pieces(0, len(numbers)):
            yield self._empty(numbers[first:behind])

    def scan(self) -> Iterator[Piece]:
        """Compute the checksum of every row; what was never written to is not read.

        Yields:
            What was found in neighbouring rows, from the first to the last.
        """
        for start, stop in self._pieces(0, self.files.num_rows):
            numbers = np.arange(start, stop)
            if not self.files.has_data(start, stop):
                yield Piece(len(numbers), numbers[:0], numbers[:0])
                continue
            self.files.ahead(start, stop)
            _, filled, damaged = self.look(numbers)
            yield Piece(len(numbers), numbers[filled], numbers[damaged])

    def verify(self, progress: Callable[[int], None] | None = None) -> StoreReport:
        """Sum a scan up.

        Args:
            progress: Called after each piece with the number of rows in it.

        Returns:
            What was found.
        """
        damaged: list[int] = []
        filled = count = 0
        for piece in self.scan():
            filled, count = filled + len(piece.filled), count + len(piece.damaged)
            damaged += piece.damaged[: MAX_DAMAGED - len(damaged)].tolist()
            if progress is not None:
                progress(piece.rows)
        return StoreReport(self.files.num_rows, filled, damaged, count)

    def _empty(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        first, behind = int(numbers[0]), int(numbers[-1]) + 1
        if not self.files.has_data(first, behind):
            return numbers
        if behind - first == len(numbers):
            self.files.ahead(first, behind)
        return numbers[~self.filled(numbers)]

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        step = max(1, SCAN_BYTES // self.files.nbytes)
        for first in range(start, stop, step):
            yield first, min(first + step, stop)

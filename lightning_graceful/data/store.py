"""The outputs of an old model on disk: one row of fixed size a sample, found by its index.

A directory holds ``manifest.json`` (what the rows are, and of what) and ``rows-00000.bin``, ... of 256 MiB,
created sparse. The place of row ``i`` follows from ``i``, so processes may fill a store together without a lock, and
what a killed one wrote is kept. For POSIX systems; no pickle, nothing in memory that grows with the data set.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.claims import forget_full
from lightning_graceful.data.encode import encode
from lightning_graceful.data.encode import target_key as target_key
from lightning_graceful.data.manifest import Manifest, canonical, has_manifest, load_manifest, mark_used, publish
from lightning_graceful.data.rows import CacheError as CacheError
from lightning_graceful.data.rows import RowLayout as RowLayout
from lightning_graceful.data.rows import Rows as Rows
from lightning_graceful.data.rows import name_rows
from lightning_graceful.data.sealed import Piece, SealedRows
from lightning_graceful.data.sealed import StoreReport as StoreReport
from lightning_graceful.data.shards import disk, rows_per_file

INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}


class OutputStore:
    """A store of old outputs; make it with :meth:`open` or :meth:`open_existing`.

    A row takes 2 (float16, bfloat16) or 4 bytes a number and 16 more: 2016 bytes for 1000 classes in float16, 64 for
    the 10 largest of them. Reading or writing N rows costs O(N), however large the store is; the pages that were read
    belong to the system's page cache. A store may be read, written and closed by several threads at once, works after a
    fork, and pickles (as a path) to a spawned process. Writes are not flushed to the disk one by one: a killed process
    loses nothing that ``write`` returned from; what a power cut takes is empty or fails its checksum.

    Attributes:
        path: The directory.
        fingerprint: What the outputs depend on, as it was given.
        num_rows: Number of samples of the base dataset.
        layout: What a row holds.
        read_only: Whether ``write`` is refused.

    Example:
        >>> import tempfile
        >>> layout = RowLayout(logits=2, dtype="float32")
        >>> with tempfile.TemporaryDirectory() as path:
        ...     store = OutputStore.open(path, fingerprint={"old": "v1"}, num_rows=4, layout=layout)
        ...     store.write(torch.tensor([2, 0]), Outputs(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), torch.tensor([1, 0]))
        ...     store.missing().tolist(), store.read(torch.tensor([0])).outputs().logits.tolist()
        ([1, 3], [[3.0, 4.0]])
    """

    def __init__(self, path: Path, manifest: Manifest, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.fingerprint = manifest.fingerprint
        self.num_rows = manifest.num_rows
        self.layout = manifest.layout
        self._files = manifest.files(path)
        # Rows of a store with another fingerprint fail their checksum, should their files ever land here.
        self._rows = SealedRows(self._files, zlib.crc32(canonical(manifest.fingerprint)))
        self._marked = False

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        fingerprint: Mapping[str, Any],
        num_rows: int,
        layout: RowLayout,
        read_only: bool = False,
    ) -> "OutputStore":
        """Open a store, or make it where there is none; several processes may do so at once.

        Args:
            path: The directory, by convention :func:`store_path`.
            fingerprint: What the outputs depend on: names and JSON values.
            num_rows: Number of samples of the base dataset.
            layout: What a row holds.
            read_only: Neither make a store nor write to it.

        Returns:
            The store.

        Raises:
            CacheError: If the store there is another one, is damaged, or cannot be made.
            FileNotFoundError: If there is none and ``read_only``.
            ValueError: If the fingerprint is not JSON or ``num_rows`` is not positive.
        """
        if num_rows < 1:
            raise ValueError(f"Expected num_rows >= 1, got {num_rows}. Pass the length of the base dataset.")
        expected = Manifest(json.loads(canonical(fingerprint)), num_rows, layout, rows_per_file(layout.nbytes))
        with disk(f"open a store in {path}"):
            exists = has_manifest(Path(path))
        if not read_only and not exists:
            # The manifest comes last: whoever finds one finds the files whole.
            expected.files(Path(path)).create()
            publish(Path(path), expected.to_json())
        store = cls._checked(Path(path), expected, read_only=read_only)
        store._mark_used()
        return store

    @classmethod
    def open_existing(cls, path: Path | str, *, read_only: bool = True) -> "OutputStore":
        """Open a store, whatever it holds.

        Args:
            path: The directory.
            read_only: Do not write to it.

        Returns:
            The store.

        Raises:
            CacheError: If it is damaged.
            FileNotFoundError: If there is none.
        """
        return cls._checked(Path(path), None, read_only=read_only)

    @classmethod
    def _checked(cls, path: Path, expected: Manifest | None, *, read_only: bool) -> "OutputStore":
        found = load_manifest(path)
        if expected is not None:
            found.refuse_other(expected, path)
        found.files(path).check()
        return cls(path, found, read_only=read_only)

    def filled(self, index: Tensor) -> Tensor:
        """Say which rows have been written; touches one page of the file a row.

        Args:
            index: Row numbers, integer, shape ``(N,)``.

        Returns:
            Bool, shape ``(N,)``.
        """
        return torch.from_numpy(self._rows.filled(self._numbers(index)))

    def missing(self, index: Tensor | None = None) -> Tensor:
        """Find the rows that are empty; what was never written to is not read.

        Reads in pieces, and holds 8 bytes for each row that is missing.

        Args:
            index: Rows to look at, integer, shape ``(N,)``; None for all.

        Returns:
            Row numbers, int64, sorted, each once.
        """
        if index is None:
            return self.missing_in(0, self.num_rows)
        return _joined(self._rows.empty_among(np.unique(self._numbers(index))))

    def missing_in(self, start: int, stop: int) -> Tensor:
        """Find the empty ones among neighbouring rows, as :meth:`missing` does.

        Args:
            start: First row.
            stop: Row after the last; rows behind the end of the store are left out.

        Returns:
            Row numbers, int64, sorted.
        """
        return _joined(self._rows.empty_in(max(start, 0), min(stop, self.num_rows)))

    def write(self, index: Tensor, outputs: Outputs, target: Tensor | None, input_hash: Tensor | None = None) -> None:
        """Keep the outputs of a batch; nothing is written where one row is refused.

        Args:
            index: Row numbers, integer, shape ``(N,)``; where one comes twice, its last outputs are kept.
            outputs: Floating, shapes ``(N, C)`` and ``(N, D)``; parts that the layout does not hold are left out.
            target: Targets of the batch, shape ``(N, ...)``, or None.
            input_hash: Hashes of the inputs, integers in ``[0, 2**32)``, shape ``(N,)``; 0 where there is none.

        Raises:
            CacheError: If the store is read only, or the disk refuses (some of the rows may then be written).
            ValueError: If a shape is wrong, a row number is outside the store, or a number is NaN, infinite or too
                large for the dtype (a logit of ``-inf`` is allowed: a class that the model never knew).
        """
        self._refuse_read_only()
        numbers = self._numbers(index)
        keys = target_key(target) if target is None else _one_a_row("target", target_key(target), len(numbers))
        hashes = torch.zeros(1, dtype=torch.int64)
        if input_hash is not None:
            hashes = _one_a_row("input_hash", input_hash.detach().to("cpu", torch.int64), len(numbers))
        if ((hashes < 0) | (hashes >= 2**32)).any():
            raise ValueError(f"Expected input_hash in [0, 2**32), got {int(hashes.min())} to {int(hashes.max())}.")
        self._files.write(numbers, encode(self.layout, outputs, keys, hashes, numbers, self._rows.seed))

    def erase(self, index: Tensor) -> None:
        """Make rows empty, so that they are filled again.

        Args:
            index: Row numbers, integer, shape ``(N,)``.

        Raises:
            CacheError: If the store is read only, or the disk refuses.
        """
        self._refuse_read_only()
        numbers = self._numbers(index)
        self._files.write(numbers, np.zeros((len(numbers), self.layout.nbytes), dtype=np.uint8))
        forget_full(self.path)

    def read(self, index: Tensor, target: Tensor | None = None, input_hash: Tensor | None = None) -> Rows:
        """Return the rows of a batch, each with a right checksum.

        Args:
            index: Row numbers, integer, shape ``(N,)``; one may come twice.
            target: Targets of the batch, shape ``(N, ...)``; compared with those that were stored.
            input_hash: Hashes of the inputs, integers, shape ``(N,)``; compared likewise, where neither is 0.

        Returns:
            The rows, in memory of their own.

        Raises:
            CacheError: If a row is empty or damaged, or belongs to another target or input.
            ValueError: If a row number is outside the store.
        """
        rows, filled = self.peek(index)
        if not filled.all():
            raise CacheError(
                f"Expected filled rows in {self.path}, got {name_rows(self._numbers(index)[~filled.numpy()])} empty. "
                'Fill the store (OldOutputCache with an old model and fill="ahead" or "lazy").'
            )
        self.compare(index, rows, target, input_hash)
        return rows

    def peek(self, index: Tensor) -> tuple[Rows, Tensor]:
        """Return the rows of a batch, of which some may be empty.

        Args:
            index: Row numbers, integer, shape ``(N,)``; one may come twice.

        Returns:
            The rows, in memory of their own, and which are filled: bool, shape ``(N,)``. The others mean nothing.

        Raises:
            CacheError: If a filled row is damaged.
            ValueError: If a row number is outside the store.
        """
        if not self._marked:
            self._mark_used()
        numbers = _integers(index)
        rows, filled, damaged = self._rows.look(numbers)
        if len(damaged) or not filled.all():
            self._numbers(index)  # a number outside the store cannot have looked sound
        if len(damaged):
            raise CacheError(
                f"Expected rows as they were written, got a wrong checksum in {name_rows(numbers[damaged])} "
                f"({self._files.names(numbers[damaged])} of {self.path}): torn, altered or moved. "
                f"Run `graceful cache prune --damaged {self.path}`, or delete the store, and fill it again."
            )
        if not filled.all():
            rows[~filled] = 0  # what a killed process left of a row could hold class ids that there are not
        return Rows(torch.from_numpy(rows), self.layout), torch.from_numpy(filled)

    def compare(
        self, index: Tensor, rows: Rows, target: Tensor | None = None, input_hash: Tensor | None = None
    ) -> None:
        """Compare rows that were read with the batch that they are for.

        Args:
            index: Row numbers, integer, shape ``(N,)``, to name rows in an error.
            rows: What :meth:`read` or :meth:`peek` returned for them, filled ones.
            target: Targets of the batch, shape ``(N, ...)``; not compared where None.
            input_hash: Hashes of the inputs, integers, shape ``(N,)``; compared where neither is 0.

        Raises:
            CacheError: If a row belongs to another target or input.
            ValueError: If there is not one target and one hash for each row.
        """
        if target is not None:
            given = _one_a_row("target", target_key(target), len(rows))
            if not torch.equal(stored := rows.target_key, given):
                self._refuse_targets(index, stored, given)
        if input_hash is not None:
            given = _one_a_row("input_hash", input_hash.detach().to("cpu", torch.int64), len(rows))
            if not torch.equal(stored := rows.input_hash, given):
                self._refuse_inputs(index, stored, given)

    def populate(self) -> bool:
        """Start to bring the whole store into memory in the background, if it fits into half of what is free.

        Asking again changes nothing; :meth:`close` stops it.

        Returns:
            Whether it fits.
        """
        return self._files.populate()

    def scan(self) -> Iterator[Piece]:
        """Compute the checksum of every row; reads what was written to, 16 MiB at a time.

        Yields:
            What was found in neighbouring rows, from the first to the last.
        """
        yield from self._rows.scan()

    def count_filled(self) -> int:
        """Count the rows that are not empty; reads a page for each row that was written.

        Returns:
            Their number.
        """
        return self.num_rows - sum(len(part) for part in self._rows.empty_in(0, self.num_rows))

    def verify(self, progress: Callable[[int], None] | None = None) -> StoreReport:
        """Compute the checksum of every row, see :meth:`scan`.

        Args:
            progress: Called after each piece with the number of rows in it.

        Returns:
            What was found.
        """
        return self._rows.verify(progress)

    def close(self) -> None:
        """Give up the map of the files; it comes back if the store is used again."""
        self._files.close()

    def __enter__(self) -> "OutputStore":
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _mark_used(self) -> None:
        self._marked = True
        mark_used(self.path)

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise CacheError(f"Expected a store open for writing, got {self.path} read only. Open it with open().")

    def _numbers(self, index: Tensor) -> NDArray[np.int64]:
        numbers = _integers(index)
        outside = numbers.view(np.uint64) >= self.num_rows  # negative ones among them
        if outside.any():
            raise ValueError(
                f"Expected an index in [0, {self.num_rows}), got {name_rows(numbers[outside])}. "
                "The index is the position in the base dataset; if that has grown, make a new store."
            )
        return numbers

    def _refuse_targets(self, index: Tensor, stored: Tensor, given: Tensor) -> None:
        wrong = stored != given
        first = int(wrong.int().argmax())
        raise CacheError(
            f"Expected the targets that were stored, got others for {name_rows(self._numbers(index)[wrong.numpy()])} "
            f"of {self.path} (first: stored {int(stored[first])}, batch {int(given[first])}). The samples of the batch "
            "were reordered (by a collate function?), or the dataset changed, or the dtype of its targets: keep the "
            "sampler's order, or return the sample's own index in the batch and name it: "
            "OldOutputCache(..., index=...), or use a new store."
        )

    def _refuse_inputs(self, index: Tensor, stored: Tensor, given: Tensor) -> None:
        wrong = (stored != given) & (stored != 0) & (given != 0)
        if wrong.any():
            raise CacheError(
                "Expected the inputs that the outputs were computed from, got others for "
                f"{name_rows(self._numbers(index)[wrong.numpy()])} of {self.path}, with the same targets. Samples with "
                "equal targets were reordered (by a collate function?), or the dataset or its transform changed since, "
                "or a transfer hook is random: keep the sampler's order, or return the sample's own index in the batch "
                "and name it, OldOutputCache(..., index=...), or delete the store and fill it again, or run the old "
                'model live, fill="never".'
            )


def _integers(index: Tensor) -> NDArray[np.int64]:
    if index.ndim != 1 or index.dtype not in INTEGERS:
        raise ValueError(f"Expected an integer index of shape (N,), got {index.dtype} {tuple(index.shape)}.")
    numbers: NDArray[np.int64] = index.detach().to("cpu", torch.int64).numpy()
    return numbers


def _one_a_row(name: str, values: Tensor, length: int) -> Tensor:
    if values.shape != (length,):
        raise ValueError(f"Expected one {name} for each of {length} rows, got shape {tuple(values.shape)}.")
    return values


def _joined(parts: Iterable[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *parts]))

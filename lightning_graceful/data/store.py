"""The outputs of an old model on disk: one row of fixed size a sample, found by its index.

A directory holds ``manifest.json`` (what the rows are, and of what) and ``rows-00000.bin``, ... of at most 256 MiB,
created sparse. The place of row ``i`` follows from ``i``, so processes may fill a store together without a lock, and
what a killed one wrote is kept. For POSIX systems; no pickle, nothing in memory that grows with the data set.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.manifest import MANIFEST, Manifest, canonical, load_manifest, publish
from lightning_graceful.data.rows import CacheError as CacheError
from lightning_graceful.data.rows import RowLayout as RowLayout
from lightning_graceful.data.rows import Rows as Rows
from lightning_graceful.data.rows import checked_part, checksums, decode, encode, name_rows
from lightning_graceful.data.rows import target_key as target_key

SHARD_BYTES = 256 * 2**20
SCAN_BYTES = 16 * 2**20  # what a scan of the whole store holds at a time
MAX_DAMAGED = 1000
CRC = slice(-4, None)


class StoreReport(NamedTuple):
    """What a full scan found.

    Attributes:
        rows: Rows of the store.
        filled: Rows that are not empty, the damaged ones among them.
        damaged: Numbers of the first 1000 rows with a wrong CRC.
        damaged_count: Number of rows with a wrong CRC.
    """

    rows: int
    filled: int
    damaged: list[int]
    damaged_count: int


class OutputStore:
    """A store of old outputs; make it with :meth:`open` or :meth:`open_existing`.

    A row takes 2 (float16, bfloat16) or 4 bytes a number and 16 more: 2016 bytes for 1000 classes in float16. Reading
    or writing N rows costs O(N), however large the store is; the pages that were read belong to the system's page
    cache. A store works after a fork, and pickles (as a path) to a spawned process. Writes are not flushed to the disk
    one by one: a killed process loses nothing that ``write`` returned from; what a power cut takes is empty or fails
    its CRC.

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
        ...     store.missing().tolist(), store.read(torch.tensor([0])).outputs.logits.tolist()
        ([1, 3], [[3.0, 4.0]])
    """

    def __init__(self, path: Path, manifest: "Manifest", *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.fingerprint = manifest.fingerprint
        self.num_rows = manifest.num_rows
        self.layout = manifest.layout
        self._files = manifest.files(path)
        # Rows of a store with another fingerprint fail their CRC, should their files ever land here.
        self._seed = zlib.crc32(canonical(manifest.fingerprint))

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
        rows_per_shard = max(1, SHARD_BYTES // layout.nbytes)
        expected = Manifest(json.loads(canonical(fingerprint)), num_rows, layout, rows_per_shard)
        if not read_only and not (Path(path) / MANIFEST).exists():
            # The manifest comes last: whoever finds one finds the files whole.
            expected.files(Path(path)).create()
            publish(Path(path), expected.to_json())
        return cls._checked(Path(path), expected, read_only=read_only)

    @classmethod
    def open_existing(cls, path: Path | str) -> "OutputStore":
        """Open a store for reading, whatever it holds.

        Args:
            path: The directory.

        Returns:
            The store, read only.

        Raises:
            CacheError: If it is damaged.
            FileNotFoundError: If there is none.
        """
        return cls._checked(Path(path), None, read_only=True)

    @classmethod
    def _checked(cls, path: Path, expected: "Manifest | None", *, read_only: bool) -> "OutputStore":
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
        return torch.from_numpy(self._files.gather(self._numbers(index), CRC).any(axis=1))

    def missing(self, index: Tensor | None = None) -> Tensor:
        """Find the rows that are empty; reads in pieces, and holds 8 bytes for each row that is missing.

        Args:
            index: Rows to look at, integer, shape ``(N,)``; None for all.

        Returns:
            Row numbers, int64, sorted, each once.
        """
        rows = None if index is None else torch.from_numpy(np.unique(self._numbers(index)))
        empty = [part[~self.filled(part)] for part in self._pieces(rows)]
        return torch.cat([torch.empty(0, dtype=torch.int64), *empty])

    def write(self, index: Tensor, outputs: Outputs, target: Tensor | None, input_hash: Tensor | None = None) -> None:
        """Keep the outputs of a batch; nothing is written where one row is refused.

        Args:
            index: Row numbers, integer, shape ``(N,)``; where one comes twice, its last outputs are kept.
            outputs: Floating, shapes ``(N, C)`` and ``(N, D)``; parts that the layout does not hold are left out.
            target: Targets of the batch, shape ``(N, ...)``, or None.
            input_hash: Hashes of the inputs, integers in ``[0, 2**32)``, shape ``(N,)``.

        Raises:
            CacheError: If the store is read only, or the disk refuses (some of the rows may then be written).
            ValueError: If a shape is wrong, a row number is outside the store, or a number is NaN, infinite or too
                large for the dtype (a logit of ``-inf`` is allowed: a class that the model never knew).
        """
        if self.read_only:
            raise CacheError(f"Expected a store open for writing, got {self.path} read only. Open it with open().")
        numbers = self._numbers(index)
        keys = target_key(target) if target is None else _one_a_row("target", target_key(target), len(numbers))
        hashes = torch.zeros(1, dtype=torch.int64)
        if input_hash is not None:
            hashes = _one_a_row("input_hash", input_hash.detach().to("cpu", torch.int64), len(numbers))
        if ((hashes < 0) | (hashes >= 2**32)).any():
            raise ValueError(f"Expected input_hash in [0, 2**32), got {int(hashes.min())} to {int(hashes.max())}.")
        self._files.write(numbers, encode(self.layout, outputs, keys, hashes, numbers, self._seed))

    def read(self, index: Tensor, target: Tensor | None = None) -> Rows:
        """Return the rows of a batch, bit for bit what :meth:`round` gave for them.

        Args:
            index: Row numbers, integer, shape ``(N,)``; one may come twice.
            target: Targets of the batch; compared with those that were stored.

        Returns:
            Outputs on the CPU, target keys and input hashes.

        Raises:
            CacheError: If a row is empty or damaged, or belongs to another target.
            ValueError: If a row number is outside the store.
        """
        numbers = self._numbers(index)
        rows = self._files.gather(numbers, prefetch=True)
        empty = ~rows[:, CRC].any(axis=1)
        if empty.any():
            raise CacheError(
                f"Expected filled rows in {self.path}, got {name_rows(numbers[empty])} empty. Fill the store "
                '(OldOutputCache with an old model and fill="ahead" or "lazy").'
            )
        self._refuse_damage(numbers, rows)
        found = decode(self.layout, rows)
        if target is not None:
            self._compare_targets(numbers, found.target_key, target)
        return found

    def round(self, outputs: Outputs) -> Outputs:
        """Cast outputs to what :meth:`read` returns for them, so that a computed batch equals one that is read.

        Args:
            outputs: Floating, shapes ``(N, C)`` and ``(N, D)``, on any device.

        Returns:
            Copies without a graph, in the dtype of the store, on the device of the outputs; parts that the layout does
            not hold become None.

        Raises:
            ValueError: If a part is missing or has another width.
        """
        parts = {name: checked_part(self.layout, outputs, name).detach() for name in self.layout.widths}
        return Outputs(**{name: part.to(self.layout.torch_dtype, copy=True) for name, part in parts.items()})

    def verify(self, progress: Callable[[int], None] | None = None) -> StoreReport:
        """Compute the CRC of every row; reads the whole store, 16 MiB at a time.

        Args:
            progress: Called after each piece with the number of rows in it.

        Returns:
            What was found.
        """
        damaged: list[int] = []
        filled = count = 0
        for piece in self._pieces(None):
            rows = self._files.gather(piece.numpy())
            written = rows[:, CRC].any(axis=1)
            numbers, rows = piece.numpy()[written], rows[written]
            wrong = numbers[self._damaged(numbers, rows)].tolist()
            filled, count = filled + len(numbers), count + len(wrong)
            damaged += wrong[: MAX_DAMAGED - len(damaged)]
            if progress is not None:
                progress(len(piece))
        return StoreReport(self.num_rows, filled, damaged, count)

    def close(self) -> None:
        """Give up the maps of the files; they come back if the store is used again."""
        self._files.close()

    def __enter__(self) -> "OutputStore":
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _numbers(self, index: Tensor) -> NDArray[np.int64]:
        if index.ndim != 1 or index.dtype not in {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}:
            raise ValueError(f"Expected an integer index of shape (N,), got {index.dtype} {tuple(index.shape)}.")
        numbers: NDArray[np.int64] = index.detach().to("cpu", torch.int64).numpy()
        outside = (numbers < 0) | (numbers >= self.num_rows)
        if outside.any():
            raise ValueError(
                f"Expected an index in [0, {self.num_rows}), got {name_rows(numbers[outside])}. "
                "The index is the position in the base dataset; if that has grown, make a new store."
            )
        return numbers

    def _pieces(self, rows: Tensor | None) -> Iterator[Tensor]:
        total, step = self.num_rows if rows is None else len(rows), max(1, SCAN_BYTES // self.layout.nbytes)
        for start in range(0, total, step):
            stop = min(start + step, total)
            yield torch.arange(start, stop) if rows is None else rows[start:stop]

    def _damaged(self, numbers: NDArray[np.int64], rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        stored: NDArray[np.uint32] = rows.view(self.layout.record)["crc"][:, 0]
        return np.not_equal(stored, checksums(rows, numbers, self._seed))

    def _refuse_damage(self, numbers: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        wrong = self._damaged(numbers, rows)
        if wrong.any():
            # Another process may be writing these very rows: only what is wrong twice is damaged.
            rows[wrong] = self._files.gather(numbers[wrong])
            wrong = self._damaged(numbers, rows)
        if wrong.any():
            raise CacheError(
                f"Expected rows as they were written, got a wrong CRC in {name_rows(numbers[wrong])} "
                f"({self._files.names(numbers[wrong])} of {self.path}): torn, altered or moved. "
                "Run `graceful cache prune`, or delete the store, and fill it again."
            )

    def _compare_targets(self, numbers: NDArray[np.int64], stored: Tensor, target: Tensor) -> None:
        given = _one_a_row("target", target_key(target), len(numbers))
        wrong = (stored != given).numpy()
        if wrong.any():
            first = int(wrong.argmax())
            raise CacheError(
                f"Expected the targets that were stored, got others for {name_rows(numbers[wrong])} of {self.path} "
                f"(first: stored {int(stored[first])}, batch {int(given[first])}). The samples of the batch were "
                "reordered (by a collate function?), or the dataset changed, or the dtype of its targets: keep the "
                "sampler's order, or use a new store."
            )


def _one_a_row(name: str, values: Tensor, length: int) -> Tensor:
    if values.shape != (length,):
        raise ValueError(f"Expected one {name} for each of {length} rows, got shape {tuple(values.shape)}.")
    return values

"""Rows of fixed size: what an old model said of one sample, with a checksum.

A row is ``[logits][embedding][zeros up to 8][target_key int64][input_hash uint32][checksum uint32]``, little-endian.
With ``top_k`` the logits are ``[k log-probabilities and the log of the tail, float16][k class ids]``, see
:mod:`lightning_graceful.data.top_k`. The checksum comes last in the file and in a write: 0 means that the row is empty,
a wrong one that it was torn, altered or moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.top_k import TopK, expand

Dtype = Literal["float16", "bfloat16", "float32"]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SMALL_IDS = 2**16  # up to so many classes an id takes 16 bits


class CacheError(RuntimeError):
    """A store that cannot be used: the message says what was expected, what was found, and what to do."""


class Part(NamedTuple):
    """Where a part of a row lies.

    Attributes:
        offset: Its first byte.
        width: How many numbers.
        dtype: What the bytes are read as; unsigned integers as the signed ones of the same bits, which every device
            knows.
    """

    offset: int
    width: int
    dtype: torch.dtype

    def of(self, buffer: Tensor) -> Tensor:
        """Return this part of rows, uint8 ``(N, nbytes)``, as a view of shape ``(N, width)``."""
        if not len(buffer):  # numpy gives no rows strides that torch cannot view
            return buffer.new_empty((0, self.width), dtype=self.dtype)
        return buffer[:, self.offset : self.offset + self.width * self.dtype.itemsize].view(self.dtype)


@dataclass(frozen=True)
class RowLayout:
    """What one row holds, and so how large it is.

    Attributes:
        logits: Number of classes, or None where no logits are kept.
        embedding: Width of the embedding, or None where none is kept.
        dtype: Kind of float on disk.
        top_k: Keep float16 log-probabilities of the k largest classes and what the others share, instead of all logits.

    Example:
        >>> RowLayout(logits=1000).nbytes, RowLayout(logits=10, embedding=3, dtype="float32").nbytes
        (2016, 72)
        >>> RowLayout(logits=1000, top_k=10).nbytes
        64
    """

    logits: int | None = None
    embedding: int | None = None
    dtype: Dtype = "float16"
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Refuse a row that cannot be.

        Raises:
            ValueError: If the dtype is unknown, or no part is kept, or one has no positive width, or ``top_k`` is not
                below the number of classes.
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"Expected dtype among {list(DTYPES)}, got {self.dtype!r}.")
        widths = [width for width in (self.logits, self.embedding) if width is not None]
        if not widths or any(type(width) is not int or width < 1 for width in widths):
            raise ValueError(f"Expected a positive width for logits, embedding or both, got {self}.")
        if self.top_k is not None and not (type(self.top_k) is int and 1 <= self.top_k < (self.logits or 0)):
            raise ValueError(
                f"Expected top_k in [1, {self.logits}), below the number of classes, got {self.top_k!r}. "
                "Keep fewer classes, or all: top_k=None."
            )

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Where each part lies, in the order of the file."""
        kind = DTYPES[self.dtype]
        wanted: list[tuple[str, int | None, torch.dtype]] = [("logits", self.logits, kind)]
        if self.top_k is not None and self.logits is not None:
            ids = torch.int16 if self.logits <= SMALL_IDS else torch.int32
            wanted = [("log_probs", self.top_k + 1, torch.float16), ("ids", self.top_k, ids)]
        wanted += [("embedding", self.embedding, kind), ("target_key", 1, torch.int64)]
        wanted += [("input_hash", 1, torch.int32), ("checksum", 1, torch.int32)]
        parts: dict[str, Part] = {}
        end = 0
        for name, width, dtype in wanted:
            if width is not None:
                start = end + -end % dtype.itemsize
                parts[name] = Part(start, width, dtype)
                end = start + width * dtype.itemsize
        return parts

    @cached_property
    def nbytes(self) -> int:
        """Bytes a row, a multiple of 8: 2 or 4 a number and 16 more."""
        return self.parts["checksum"].offset + 4


@dataclass(frozen=True, eq=False)
class Rows:
    """What a store returns for a batch: the rows as they lie on disk, in memory of their own.

    Attributes:
        buffer: The bytes, uint8, shape ``(N, layout.nbytes)``, on the CPU.
        layout: What they hold.

    Example:
        >>> layout = RowLayout(logits=2, dtype="float32")
        >>> rows = Rows(torch.zeros(3, layout.nbytes, dtype=torch.uint8), layout)
        >>> rows.outputs("cpu").logits.shape, rows.target_key.tolist(), rows.input_hash.tolist()
        (torch.Size([3, 2]), [0, 0, 0], [0, 0, 0])
    """

    buffer: Tensor
    layout: RowLayout

    def __len__(self) -> int:
        """Return N."""
        return len(self.buffer)

    @property
    def target_key(self) -> Tensor:
        """:func:`target_key` of each sample as it was stored, int64, shape ``(N,)``."""
        return self.layout.parts["target_key"].of(self.buffer)[:, 0]

    @property
    def input_hash(self) -> Tensor:
        """Hash of each sample's input, int64 in ``[0, 2**32)``, shape ``(N,)``; 0 where none was given."""
        return _unsigned(self.layout.parts["input_hash"].of(self.buffer)[:, 0])

    def outputs(self, device: torch.device | str = "cpu") -> Outputs:
        """Bring the outputs to a device: moved as they are stored, in one transfer, and made float32 there.

        Args:
            device: Where to. Out of pinned memory (:meth:`pin`) the transfer does not wait.

        Returns:
            Float32, contiguous, shapes ``(N, C)`` and ``(N, D)``, in memory of their own; what the layout does not hold
            is None. float32 rows come back bit for bit; with ``top_k`` the logits are log-probabilities, in which the
            classes outside the k share what is left equally.
        """
        moved = self.buffer.to(device, non_blocking=True)
        found = {name: part.of(moved) for name, part in self.layout.parts.items()}
        logits = _float32(found.get("logits"))
        if "ids" in found:
            assert self.layout.logits is not None
            logits = expand(TopK(found["log_probs"], _unsigned(found["ids"])), self.layout.logits)
        return Outputs(logits, _float32(found.get("embedding")))

    def pin(self) -> "Rows":
        """Copy the rows to pinned memory, from where CUDA moves them without waiting; needs CUDA."""  # noqa: DOC201
        return Rows(self.buffer.pin_memory(), self.layout)

    def select(self, positions: Tensor) -> "Rows":
        """Return some of the rows: ``positions`` are int64 places in the batch, or bool of shape ``(N,)``."""
        return Rows(self.buffer[positions], self.layout)


def stored_checksums(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the checksum that each row of shape ``(N, nbytes)`` carries, a view of shape ``(N,)``; 0 is empty."""
    return rows.view("<u4")[:, -1]


def name_rows(numbers: Sequence[int] | NDArray[np.int64]) -> str:
    """Say which rows are meant: the first five, and how many there are.

    Returns:
        Text for an error message.

    Example:
        >>> name_rows([4]), name_rows(range(9))
        ('row 4', 'rows 0, 1, 2, 3, 4, ... (9 in all)')
    """
    first = ", ".join(str(number) for number in numbers[:5])
    more = f", ... ({len(numbers)} in all)" if len(numbers) > 5 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"


def _float32(stored: Tensor | None) -> Tensor | None:
    if stored is None:
        return None
    return stored.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _unsigned(stored: Tensor) -> Tensor:
    return stored.to(torch.int64).bitwise_and(2 ** (8 * stored.dtype.itemsize) - 1)

"""Rows of fixed size: what an old model said of one sample, with a checksum.

A row is ``[logits][embedding][zeros up to 8][target_key int64][input_hash uint32][crc uint32]``, little-endian. The CRC
comes last in the file and in a write: 0 means that the row is empty, a wrong one that it was torn, altered or moved.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.data.batch import Outputs

Dtype = Literal["float16", "bfloat16", "float32"]
NO_TARGET = -(2**63)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
BITS = {"float16": (torch.int16, "<i2"), "bfloat16": (torch.int16, "<i2"), "float32": (torch.int32, "<i4")}


class CacheError(RuntimeError):
    """A store that cannot be used: the message says what was expected, what was found, and what to do."""


class Rows(NamedTuple):
    """What a store returns for a batch; the tensors own their memory.

    Attributes:
        outputs: Logits ``(N, C)`` and embeddings ``(N, D)`` in the dtype of the store, on the CPU.
        target_key: :func:`target_key` of each sample as it was stored, int64, shape ``(N,)``.
        input_hash: Hash of each sample's input, int64 in ``[0, 2**32)``, shape ``(N,)``; 0 where none was given.
    """

    outputs: Outputs
    target_key: Tensor
    input_hash: Tensor


@dataclass(frozen=True)
class RowLayout:
    """What one row holds, and so how large it is.

    Attributes:
        logits: Number of classes, or None where no logits are kept.
        embedding: Width of the embedding, or None where none is kept.
        dtype: Kind of float on disk.

    Example:
        >>> RowLayout(logits=1000).nbytes, RowLayout(logits=10, embedding=3, dtype="float32").nbytes
        (2016, 72)
    """

    logits: int | None = None
    embedding: int | None = None
    dtype: Dtype = "float16"

    def __post_init__(self) -> None:
        """Refuse a row that cannot be.

        Raises:
            ValueError: If the dtype is unknown, or no part is kept, or one has no positive width.
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"Expected dtype among {list(DTYPES)}, got {self.dtype!r}.")
        if not self.widths or any(type(width) is not int or width < 1 for width in self.widths.values()):
            raise ValueError(f"Expected a positive width for logits, embedding or both, got {self}.")

    @property
    def widths(self) -> dict[str, int]:
        """Width of each part that a row holds, in the order of the file."""
        parts = {"logits": self.logits, "embedding": self.embedding}
        return {name: width for name, width in parts.items() if width is not None}

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the tensors that are read."""
        return DTYPES[self.dtype]

    @property
    def record(self) -> np.dtype[np.void]:
        """The row as a numpy record; a float is held as the integer of the same bits, since numpy has no bfloat16."""
        fields: dict[str, tuple[Any, int]] = {}
        offset = 0
        for name, width in self.widths.items():
            fields[name] = ((BITS[self.dtype][1], (width,)), offset)
            offset += width * self.torch_dtype.itemsize
        offset += -offset % 8
        fields |= {"target_key": ("<i8", offset), "input_hash": ("<u4", offset + 8), "crc": ("<u4", offset + 12)}
        formats, offsets = zip(*fields.values(), strict=True)
        return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": offset + 16})

    @property
    def nbytes(self) -> int:
        """Bytes a row: 2 or 4 a number, rounded up to 8, and 16 more."""
        return self.record.itemsize


def target_key(target: Tensor | None) -> Tensor:
    """Reduce the target of each sample to one integer, by which a reordered batch is noticed.

    Args:
        target: Integer labels of shape ``(N,)``, or anything else of shape ``(N, ...)``; None where there is none.

    Returns:
        Int64, shape ``(N,)``: the label itself; for other targets a CRC of the sample's bytes, which changes with the
        dtype; for None a constant that says "no target", shape ``(1,)``.

    Example:
        >>> target_key(torch.tensor([3, 1])).tolist()
        [3, 1]
        >>> target_key(torch.tensor([[0.0, 1.0], [1.0, 1.0]])).tolist()
        [3905382943, 3573961104]
    """
    if target is None:
        return torch.tensor([NO_TARGET])
    if target.ndim == 1 and not target.is_floating_point() and not target.is_complex():
        return target.detach().to("cpu", torch.int64)
    values = target.detach().cpu().reshape(len(target), target[:1].numel()).contiguous()
    return torch.tensor([zlib.crc32(row.data) for row in values.view(torch.uint8).numpy()], dtype=torch.int64)


def encode(
    layout: RowLayout, outputs: Outputs, keys: Tensor, hashes: Tensor, numbers: NDArray[np.int64], seed: int
) -> NDArray[np.uint8]:
    """Lay out a batch as rows.

    Args:
        layout: What a row holds; parts of the outputs that it does not hold are left out.
        outputs: Floating, shapes ``(N, C)`` and ``(N, D)``.
        keys: :func:`target_key` of the targets, int64, shape ``(N,)`` or ``(1,)``.
        hashes: Integers in ``[0, 2**32)``, shape ``(N,)`` or ``(1,)``.
        numbers: Row numbers, shape ``(N,)``.
        seed: Where the CRC starts, see :func:`checksums`.

    Returns:
        Bytes, shape ``(N, layout.nbytes)``, with their CRC.

    Raises:
        ValueError: If a part is missing or has another shape, or holds a number that the row cannot keep.
    """
    rows = np.zeros((len(numbers), layout.nbytes), dtype=np.uint8)
    record = rows.view(layout.record)[:, 0]
    for name in layout.widths:
        given = checked_part(layout, outputs, name).detach().cpu()
        if len(given) != len(numbers):
            raise ValueError(f"Expected {name} of {len(numbers)} samples, as many as the index, got {len(given)}.")
        stored = given.to(layout.torch_dtype)
        if not torch.isfinite(stored).all():
            _refuse_lost(name, given, stored, numbers)
        record[name] = stored.contiguous().view(BITS[layout.dtype][0]).numpy()
    record["target_key"] = keys.numpy()
    record["input_hash"] = hashes.numpy()
    record["crc"] = checksums(rows, numbers, seed)
    return rows


def decode(layout: RowLayout, rows: NDArray[np.uint8]) -> Rows:
    """Read tensors, with memory of their own, out of rows of shape ``(N, layout.nbytes)``."""  # noqa: DOC201
    record = rows.view(layout.record)[:, 0]
    parts = {name: torch.from_numpy(record[name].copy()).view(layout.torch_dtype) for name in layout.widths}
    keys = torch.from_numpy(record["target_key"].copy())
    return Rows(Outputs(**parts), keys, torch.from_numpy(record["input_hash"].astype(np.int64)))


def checksums(rows: NDArray[np.uint8], numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint32]:
    """Compute the CRC32 of each row, of its number and of the store that it belongs to.

    Args:
        rows: Bytes, shape ``(N, nbytes)``; the last 4 of each, where the CRC goes, are left out.
        numbers: Row numbers: a row that moved is noticed.
        seed: A hash of the store's fingerprint: a row of another store is noticed.

    Returns:
        Shape ``(N,)``, never 0, which means "empty".
    """
    width, data = rows.shape[1], np.ascontiguousarray(rows).reshape(-1).data
    starts = [zlib.crc32(struct.pack("<q", number), seed) for number in numbers.tolist()]
    found = [zlib.crc32(data[i * width : (i + 1) * width - 4], start) or 1 for i, start in enumerate(starts)]
    return np.array(found, dtype=np.uint32)


def checked_part(layout: RowLayout, outputs: Outputs, name: str) -> Tensor:
    """Return one part of a model's outputs if it is what the layout holds.

    Args:
        layout: What a row holds.
        outputs: What the model said.
        name: ``"logits"`` or ``"embedding"``.

    Returns:
        Floating, shape ``(N, width)``.

    Raises:
        ValueError: If it is missing, is not floating, or has another shape.
    """
    values, width = getattr(outputs, name), layout.widths[name]
    if values is None or not values.is_floating_point() or values.ndim != 2 or values.shape[1] != width:
        got = "None" if values is None else f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(
            f"Expected floating {name} of shape (N, {width}), got {got}. "
            "Pass the outputs of the model that the store was made for, one row a sample."
        )
    return torch.as_tensor(values)


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


def _refuse_lost(name: str, given: Tensor, stored: Tensor, numbers: NDArray[np.int64]) -> None:
    # A class that the model never knew has the logit -inf; an embedding has no such thing.
    unknown = torch.isneginf(given) & (name == "logits")
    bad = ~(torch.isfinite(given) | unknown).all(dim=1)
    if bad.any():
        raise ValueError(
            f"Expected {name} without NaN or Inf (-inf only for a class that the model never knew), got them in "
            f"{name_rows(numbers[bad.numpy()])}. Check the old model on these samples, and its precision."
        )
    lost = ~(torch.isfinite(stored) | unknown).all(dim=1)
    if lost.any():
        raise ValueError(
            f"Expected {name} within +-{torch.finfo(stored.dtype).max:.6g}, all that {stored.dtype} holds, got more in "
            f"{name_rows(numbers[lost.numpy()])}. Make the store with dtype='bfloat16' or 'float32'."
        )

"""From what an old model said of a batch to rows of a store; what a row cannot keep is refused."""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.checksum import checksums
from lightning_graceful.data.rows import RowLayout, name_rows, stored_checksums
from lightning_graceful.data.top_k import compress

NO_TARGET = -(2**63)


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
        seed: Of the store, see :func:`~lightning_graceful.data.checksum.checksums`.

    Returns:
        Bytes, shape ``(N, layout.nbytes)``, with their checksum.

    Raises:
        ValueError: If a part is missing or has another shape, or holds a number that the row cannot keep.
    """
    kept = {"target_key": keys[:, None], "input_hash": hashes[:, None]}
    if layout.logits is not None:
        logits = _checked("logits", outputs.logits, layout.logits, numbers)
        if layout.top_k is None:
            kept["logits"] = _rounded("logits", logits, layout.parts["logits"].dtype, numbers)
        else:
            _refuse_unknowing(logits, numbers)
            kept |= compress(logits, layout.top_k)._asdict()
    if layout.embedding is not None:
        embedding = _checked("embedding", outputs.embedding, layout.embedding, numbers)
        kept["embedding"] = _rounded("embedding", embedding, layout.parts["embedding"].dtype, numbers)
    buffer = torch.zeros(len(numbers), layout.nbytes, dtype=torch.uint8)
    for name, values in kept.items():
        part = layout.parts[name]
        part.of(buffer).copy_(values.to(part.dtype))  # integers wrap, and are unwrapped when they are read
    rows: NDArray[np.uint8] = buffer.numpy()
    stored_checksums(rows)[:] = checksums(rows, numbers, seed)
    return rows


def _checked(name: str, values: Tensor | None, width: int, numbers: NDArray[np.int64]) -> Tensor:
    # Return a part of the outputs, on the CPU, if it has the right shape and no number that no model should say.
    if values is None or not values.is_floating_point() or values.ndim != 2 or values.shape[1] != width:
        got = "None" if values is None else f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(
            f"Expected floating {name} of shape (N, {width}), got {got}. "
            "Pass the outputs of the model that the store was made for, one row a sample."
        )
    if len(values) != len(numbers):
        raise ValueError(f"Expected {name} of {len(numbers)} samples, as many as the index, got {len(values)}.")
    given = values.detach().cpu()
    bad = ~(torch.isfinite(given) | _unknown(name, given)).all(dim=1)
    if bad.any():
        raise ValueError(
            f"Expected {name} without NaN or Inf (-inf only for a class that the model never knew), got them in "
            f"{name_rows(numbers[bad.numpy()])}. Check the old model on these samples, and its precision."
        )
    return given


def _rounded(name: str, given: Tensor, dtype: torch.dtype, numbers: NDArray[np.int64]) -> Tensor:
    stored = given.to(dtype)
    lost = ~(torch.isfinite(stored) | _unknown(name, given)).all(dim=1)
    if lost.any():
        raise ValueError(
            f"Expected {name} within +-{torch.finfo(dtype).max:.6g}, all that {dtype} holds, got more in "
            f"{name_rows(numbers[lost.numpy()])}. Make the store with dtype='bfloat16' or 'float32'."
        )
    return stored


def _refuse_unknowing(logits: Tensor, numbers: NDArray[np.int64]) -> None:
    none = ~torch.isfinite(logits).any(dim=1)
    if none.any():
        raise ValueError(
            f"Expected a finite logit in every row, of which to keep the largest, got none in "
            f"{name_rows(numbers[none.numpy()])}. Check the old model and its label map on these samples."
        )


def _unknown(name: str, given: Tensor) -> Tensor:
    # A class that the model never knew has the logit -inf; an embedding has no such thing.
    return torch.isneginf(given) & (name == "logits")

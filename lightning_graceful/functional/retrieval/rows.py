"""Embeddings as rows of numbers whose products add up without rounding: a score is the same however it is found.

Each number is put on a grid of steps of 2^-24. A product of two is then a multiple of 2^-48, and since no row is longer
than 1, any sum of them fits the 53 bits of a float64: scores do not depend on the order of summation, hence not on the
size of a block, the number of threads, the device or the library. Equal rows have equal scores, and a tie is a tie. The
grid moves a cosine by about 1e-8, less than float32 products do (so two unlike pairs of the same cosine may differ by
as much).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "l2"]
Dimensions = int | Literal["shared", "padded"] | None
STEPS = 2.0**24
# Rows put on the grid at a time, so that float64 copies stay in the processor's cache.
PART = 2**11
# Beyond this a single long row would leave the others few bits of the grid.
NORM_SPREAD = 64.0


def on_grid(
    embeddings: Mapping[str, Tensor], *, distance: Distance = "cosine", dimensions: Dimensions = None
) -> tuple[list[Tensor], float]:
    """Check embeddings, bring them to one dimension, scale them, and round them to the grid.

    Args:
        embeddings: Floating embeddings, shape ``(N, d)`` each, by the name that errors use. Nothing is taken for
            granted of their norms.
        distance: ``"cosine"`` gives every row length 1 (a row of zeros stays: its cosine with all others is 0).
            ``"l2"`` divides all rows by one power of 2.
        dimensions: How many leading dimensions are compared; ``"shared"``: as many as the narrowest has; ``"padded"``:
            as many as the widest has, with zeros where others end; ``None``: all, and all must have as many.

    Returns:
        Rows of length 1 at most, on the grid, float32, shape ``(N, dimensions)`` each; the length that 1 stands for.

    Raises:
        ValueError: If an embedding is not a finite floating matrix, dimensions do not fit, or (``"l2"``) norms are so
            unlike that the grid would be too coarse for most.

    Example:
        >>> (rows,), unit = on_grid({"query": torch.tensor([[3.0, 4.0]])})
        >>> rows, unit
        (tensor([[0.6000, 0.8000]]), 1.0)
    """
    if distance not in {"cosine", "l2"}:
        raise ValueError(f"Expected distance to be 'cosine' or 'l2', got {distance!r}.")
    check_shapes(embeddings)
    width = common_width({name: x.shape[1] for name, x in embeddings.items()}, dimensions)
    # Apple's accelerator has no float64.
    moved = {name: (x.cpu() if x.device.type == "mps" else x).detach()[:, :width] for name, x in embeddings.items()}
    norms = {name: _norms(name, x) for name, x in moved.items()}
    if distance == "cosine":
        return [_round(x, norms[name].where(norms[name] > 0, 1.0), width) for name, x in moved.items()], 1.0
    unit = _unit(norms)
    return [_round(x, norms[name].new_full((len(x),), unit), width) for name, x in moved.items()], unit


def fit_width(embeddings: Tensor, width: int) -> Tensor:
    """Cut embeddings to their leading dimensions, or fill them up with zeros.

    So do rows of two models, one of which was trained to live in the first dimensions of the other's space, go into one
    gallery.

    Args:
        embeddings: Shape ``(N, d)``.
        width: Dimensions wanted.

    Returns:
        A copy, shape ``(N, width)``.

    Raises:
        ValueError: If the embeddings are no matrix, or the width is not positive.

    Example:
        >>> fit_width(torch.tensor([[1.0, 2.0]]), 3), fit_width(torch.tensor([[1.0, 2.0]]), 1)
        (tensor([[1., 2., 0.]]), tensor([[1.]]))
    """
    if embeddings.ndim != 2 or width < 1:
        raise ValueError(
            f"Expected embeddings (N, d) and a width of at least 1, got {tuple(embeddings.shape)} and {width}."
        )
    return F.pad(embeddings, (0, width - embeddings.shape[1]))  # fewer than none cuts


def check_shapes(embeddings: Mapping[str, Tensor]) -> None:
    """Check that embeddings are floating matrices on one device.

    Args:
        embeddings: By the name that errors use.

    Raises:
        ValueError: If they are not.
    """
    for name, x in embeddings.items():
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(
                f"Expected {name} embeddings as a floating matrix (N, d), got {x.dtype} of shape {tuple(x.shape)}. "
                "Flatten each to one row; convert integers with .float()."
            )
    if len({x.device for x in embeddings.values()}) > 1:
        raise ValueError(
            f"Expected embeddings on one device, got {[str(x.device) for x in embeddings.values()]}. Move them."
        )


def common_width(widths: Mapping[str, int], dimensions: Dimensions) -> int:
    """Say how many dimensions embeddings of several models are compared by.

    Args:
        widths: Dimensions of each, by the name that errors use.
        dimensions: As in :func:`on_grid`.

    Returns:
        How many.

    Raises:
        ValueError: If they do not fit ``dimensions``.

    Example:
        >>> [common_width({"old": 64, "new": 128}, dimensions) for dimensions in (16, "shared", "padded")]
        [16, 64, 128]
    """
    narrowest, widest = min(widths.values()), max(widths.values())
    said = " and ".join(f"{width} ({name})" for name, width in widths.items())
    if narrowest < 1:
        raise ValueError(f"Expected embeddings of at least one dimension, got {said}.")
    if dimensions is None and narrowest < widest:
        raise ValueError(
            f"Expected embeddings of one dimension, got {said}. Pass dimensions='shared' to compare the first "
            f"{narrowest} of each, or 'padded' to fill up with zeros to {widest}."
        )
    if dimensions == "padded":
        return widest
    if dimensions is None or dimensions == "shared":
        return narrowest
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= narrowest:
        raise ValueError(
            f"Expected dimensions in [1, {narrowest}], 'shared', 'padded' or None, got {dimensions!r}; have {said}."
        )
    return dimensions


def _norms(name: str, x: Tensor) -> Tensor:
    norms = torch.cat([
        x.new_zeros(0, dtype=torch.float64),
        *(part.double().norm(dim=1) for part in torch.split(x, PART)),
    ])
    bad = (~norms.isfinite()).nonzero()
    if len(bad):  # a NaN or Inf anywhere in a row shows in its norm
        raise ValueError(
            f"Expected finite {name} embeddings, got NaN or Inf in {len(bad)} of {len(x)} rows, first in row "
            f"{bad[0].item()}. Look at that model's outputs."
        )
    return norms


def _unit(norms: Mapping[str, Tensor]) -> float:
    every = torch.cat(list(norms.values()))
    every = every[every > 0]
    if not len(every):
        return 1.0
    longest, median = every.max().item(), every.median().item()
    if longest > NORM_SPREAD * median:
        raise ValueError(
            f"Expected norms of at most {NORM_SPREAD:.0f} times their median with distance='l2', got {longest:.4g} "
            f"with a median of {median:.4g}. Look at that row, or compare by distance='cosine'."
        )
    return math.ldexp(1.0, math.frexp(longest)[1])  # a power of 2: to divide by it rounds nothing


def _round(x: Tensor, length: Tensor, width: int) -> Tensor:
    rows = torch.empty(len(x), width, dtype=torch.float32, device=x.device)
    rows[:, x.shape[1] :] = 0
    for start in range(0, len(x), PART):
        part = slice(start, start + PART)
        rows[part, : x.shape[1]] = (x[part].double() / length[part, None]).mul_(STEPS).round_().div_(STEPS)
    return rows

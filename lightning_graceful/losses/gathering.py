"""Rows of all ranks, through which gradients find back to the rank that they belong to."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Count the ranks.

    Returns:
        1 where there is no process group.
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all ranks, in the order of ranks; there may be another number on each.

    A collective operation, and so is its backward, which adds up the gradients that all ranks have for a row: every
    rank must run both.

    Args:
        rows: Of this rank, shape ``(N, ...)``.

    Returns:
        Shape ``(sum of N, ...)``; ``rows`` itself on one rank.

    Example:
        >>> gather_rows(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    if world_size() == 1:
        return rows
    sizes = _sizes(rows)
    joined: Tensor = _Gather.apply(rows, sizes)  # type: ignore[no-untyped-call]
    return joined


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        start = sum(sizes[: dist.get_rank()])
        ctx.own = slice(start, start + len(rows))
        # Parts of all_gather must have one shape.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[ctx.own], None


def _sizes(rows: Tensor) -> list[int]:
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    return torch.cat(sizes).tolist()

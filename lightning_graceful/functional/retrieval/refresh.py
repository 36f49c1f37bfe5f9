"""The order and the parts in which a gallery is replaced."""

import torch
from torch import Tensor

from lightning_graceful.functional.retrieval.arguments import integers


def refresh_parts(
    old_gallery: Tensor, new_gallery: Tensor, gallery_labels: Tensor, order: Tensor, parts: int
) -> tuple[list[Tensor], Tensor]:
    """Cut the order of replacement into parts, the first of which is empty: the gallery as it was.

    Args:
        old_gallery: Shape ``(G, d_old)``.
        new_gallery: The same items, shape ``(G, d)``.
        gallery_labels: Shape ``(G,)``.
        order: Gallery positions in the order of replacement, each once, integer, shape ``(G,)``.
        parts: In how many steps of nearly equal size.

    Returns:
        Positions that each of the ``parts + 1`` steps replaces, and the share of the gallery that is new after it,
        float64, shape ``(parts + 1,)``, from 0 to 1.

    Raises:
        ValueError: If the galleries differ in rows, the order is no permutation, or there are no so many parts.

    Example:
        >>> x = torch.eye(3)
        >>> steps, share = refresh_parts(x, x, torch.arange(3), torch.tensor([2, 0, 1]), 2)
        >>> [step.tolist() for step in steps], share
        ([[], [2, 0], [1]], tensor([0.0000, 0.6667, 1.0000], dtype=torch.float64))
    """
    rows = len(gallery_labels)
    if len(old_gallery) != rows or len(new_gallery) != rows or not rows:
        raise ValueError(
            f"Expected one row an item in both galleries, at least one, got {len(old_gallery)} old and "
            f"{len(new_gallery)} new ones for {rows} labels."
        )
    order = integers("order", order, new_gallery)
    if not torch.equal(order.sort().values, torch.arange(rows, device=order.device)):
        raise ValueError(f"Expected order to hold each gallery position from 0 to {rows - 1} once.")
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= rows:
        raise ValueError(f"Expected parts from 1 to the {rows} items of the gallery, got {parts}.")
    ends = [round(part * rows / parts) for part in range(parts + 1)]
    steps = [order[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return steps, torch.tensor(ends, dtype=torch.float64) / rows

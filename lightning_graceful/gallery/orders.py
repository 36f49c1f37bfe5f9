"""In which order to embed a gallery anew, so that the parts that gain most come first."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.rows import Distance, check_shapes


def random_order(items: int, seed: int = 0) -> Tensor:
    """Draw an order: the one that others must beat.

    Args:
        items: How many items the gallery has.
        seed: Another seed, another order.

    Returns:
        Gallery positions, each once, int64, shape ``(items,)``.

    Raises:
        ValueError: If ``items`` is negative.

    Example:
        >>> random_order(4).sort().values
        tensor([0, 1, 2, 3])
    """
    if items < 0:
        raise ValueError(f"Expected a number of items of at least 0, got {items}.")
    return torch.randperm(items, generator=torch.Generator().manual_seed(seed))


def uncertainty_order(logits: Tensor, *, by: Literal["entropy", "margin"] = "entropy") -> Tensor:
    """Begin with the items that a classifier is least sure of, as RACT does (Zhang et al., ICLR 2022).

    FastFill (Jaeckle et al., ICLR 2023) predicts the uncertainty of each item instead: with its numbers the order is
    ``uncertainty.argsort(descending=True)``.

    Args:
        logits: Scores of the gallery's items, floating, shape ``(G, C)``; ``-inf`` for a class that cannot be.
        by: ``"entropy"``: the largest entropy first; ``"margin"``: the smallest gap between the two likeliest classes'
            probabilities first.

    Returns:
        Gallery positions, each once, int64, shape ``(G,)``; of equal ones the first comes first.

    Raises:
        ValueError: If the logits are no floating matrix of two classes or more, hold NaN or ``+inf``, or leave an item
            without any class.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, -9.0]])
        >>> uncertainty_order(logits), uncertainty_order(logits, by="margin")
        (tensor([1, 2, 0]), tensor([1, 2, 0]))
    """
    if logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise ValueError(
            f"Expected logits as a floating matrix (G, C) of two classes or more, got {logits.dtype} of shape "
            f"{tuple(logits.shape)}."
        )
    if by not in {"entropy", "margin"}:
        raise ValueError(f"Expected by to be 'entropy' or 'margin', got {by!r}.")
    shares = logits.detach().double().softmax(1)
    bad = shares.isnan().any(1).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"Expected logits without NaN or +inf, and a finite one an item, got others in {len(bad)} of {len(logits)} "
            f"rows, first in row {bad[0].item()}. Look at that model's outputs."
        )
    if by == "entropy":
        certainty: Tensor = torch.special.xlogy(shares, shares).sum(1)
    else:
        first = shares.topk(2).values
        certainty = first[:, 0] - first[:, 1]
    return certainty.argsort(stable=True)


def distance_to_class_mean_order(embeddings: Tensor, labels: Tensor, *, distance: Distance = "cosine") -> Tensor:
    """Begin with the items farthest from the mean of their class, as lambda-orthogonality does (arXiv 2509.16664).

    Args:
        embeddings: Of the gallery, floating, shape ``(G, d)``: what it holds now.
        labels: Integer, shape ``(G,)``.
        distance: ``"cosine"``: of rows of length 1 and their mean; ``"l2"``: of the rows as they are.

    Returns:
        Gallery positions, each once, int64, shape ``(G,)``; of equally far ones the first comes first.

    Raises:
        ValueError: If an argument is not as said, or an embedding holds NaN or Inf.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.3, 1.0]])
        >>> distance_to_class_mean_order(rows, torch.tensor([0, 0, 0, 1]))
        tensor([2, 0, 1, 3])
    """
    check_shapes({"gallery": embeddings})
    if distance not in {"cosine", "l2"}:
        raise ValueError(f"Expected distance to be 'cosine' or 'l2', got {distance!r}.")
    labels = integers("labels", labels, embeddings)
    rows = embeddings.detach().double()
    if not bool(rows.isfinite().all()):
        raise ValueError("Expected finite embeddings, got NaN or Inf. Look at that model's outputs.")
    rows = F.normalize(rows) if distance == "cosine" else rows
    classes, place = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(place, minlength=len(classes))
    means = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, place, rows) / counts[:, None]
    if distance == "cosine":
        nearness = (rows * F.normalize(means)[place]).sum(1)
    else:
        nearness = -(rows - means[place]).square().sum(1)
    return nearness.argsort(stable=True)

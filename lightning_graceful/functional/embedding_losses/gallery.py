"""New queries search the old gallery: for their class, and as the old queries did."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_graceful.functional.distillation import Reduction
from lightning_graceful.functional.embedding_losses.arguments import (
    check_embeddings,
    check_rows,
    check_target,
    check_temperature,
    reduce_rows,
)
from lightning_graceful.functional.embedding_losses.rows import cosines, directions


def gallery_search_loss(
    new_embedding: Tensor,
    target: Tensor,
    gallery: Tensor,
    gallery_target: Tensor,
    *,
    temperature: float = 0.2,
    left_out: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Have each new query find the old rows of its class: the supervised contrastive loss across two models.

    With cosines, and :math:`P_i` the rows of the gallery of the class of query :math:`i`:

    .. math:: -\frac1N \sum_i \frac1{|P_i|} \sum_{m \in P_i}
        \log \frac{e^{\text{new}_i \cdot \text{old}_m/\tau}}{\sum_k e^{\text{new}_i \cdot \text{old}_k/\tau}}

    Unlabelled rows (target below 0) are left out, as queries and in the gallery, and so are queries without a row of
    their class.

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``; cut or filled up to ``d_old``.
        target: Labels, integer, shape ``(N,)``.
        gallery: Embeddings of the old model, shape ``(M, d_old)``; must not require grad.
        gallery_target: Their labels, integer, shape ``(M,)``.
        temperature: :math:`\tau`.
        left_out: Which rows a query does not search, such as itself, bool, shape ``(N, M)``; default: none.
        reduction: ``"mean"`` over the queries that count, or ``"none"`` for one value a row, 0 where it does not count.

    Returns:
        The loss, float32 (float64 for float64 embeddings), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, or an embedding holds NaN or Inf.

    Example:
        >>> new, target = torch.tensor([[1.0, 0.0]]), torch.tensor([4])
        >>> gallery_search_loss(new, target, torch.eye(2), torch.tensor([4, 9]), temperature=1.0)
        tensor(0.3133)
    """
    check_temperature(temperature)
    check_embeddings(new_embedding, gallery=gallery)
    check_target(target, new_embedding)
    check_target(gallery_target, gallery, "gallery_target")
    there = _is_there(new_embedding, gallery, left_out) & (gallery_target >= 0)
    found = there & (target[:, None] == gallery_target)
    counted = found.any(1)
    scores = cosines(directions(new_embedding, gallery.shape[1]), directions(gallery)) / temperature
    log_share = F.log_softmax(_hide(scores, ~there, counted), dim=1)
    values = -log_share.where(found, 0).sum(1) / found.sum(1).clamp(min=1)
    return reduce_rows(values, counted, reduction)


def gallery_distillation_loss(
    new_embedding: Tensor,
    old_embedding: Tensor,
    gallery: Tensor,
    *,
    target: Tensor | None = None,
    gallery_target: Tensor | None = None,
    temperature: float = 0.1,
    tilt: float = 0.0,
    left_out: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Have each new query rank the old gallery as the old query did, tilted towards its own class.

    With cosines, and softmax over the rows :math:`m` of the gallery:

    .. math:: \frac1N \sum_i \mathrm{KL}\Bigl(\mathrm{softmax}_m\bigl(\tfrac{\text{old}_i \cdot \text{old}_m}\tau +
        \text{tilt}\,[y_i = y_m]\bigr) \,\Big\|\, \mathrm{softmax}_m\bigl(\tfrac{\text{new}_i \cdot
        \text{old}_m}\tau\bigr)\Bigr)

    A tilt of :math:`\ln 10` makes a row of the same class ten times as likely as the old query had it. Without a tilt
    labels play no part; with one, unlabelled rows (target below 0) get none, and count.

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``; cut or filled up to ``d_old``.
        old_embedding: Of the old model, shape ``(N, d_old)``; must not require grad.
        gallery: Embeddings of the old model, shape ``(M, d_old)``; must not require grad.
        target: Labels of the queries, integer, shape ``(N,)``; only for a tilt.
        gallery_target: Labels of the gallery, integer, shape ``(M,)``; only for a tilt.
        temperature: :math:`\tau`.
        tilt: Added to the old query's scores of rows of its own class.
        left_out: Which rows a query does not search, such as itself, bool, shape ``(N, M)``; default: none.
        reduction: ``"mean"`` over the queries that have any row to search, or ``"none"`` for one value a row, 0 for
            those that have none.

    Returns:
        The loss, float32 (float64 for float64 embeddings), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, an embedding holds NaN or Inf, or labels are missing for the tilt.

    Example:
        >>> new, old = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> gallery_distillation_loss(new, old, torch.eye(2), temperature=1.0)
        tensor(0.4621)
        >>> gallery_distillation_loss(old, old, torch.eye(2)).item()
        0.0
    """
    check_temperature(temperature)
    check_embeddings(new_embedding, old_embedding=old_embedding, gallery=gallery)
    check_rows(new_embedding, old_embedding=old_embedding)
    _check_width(old_embedding, gallery)
    there = _is_there(new_embedding, gallery, left_out)
    counted = there.any(1)
    rows = directions(gallery)
    old_scores = cosines(directions(old_embedding), rows) / temperature
    if tilt:
        old_scores = old_scores + tilt * _same_class(target, gallery_target, old_embedding, gallery)
    new_scores = cosines(directions(new_embedding, gallery.shape[1]), rows) / temperature
    old_log, new_log = (F.log_softmax(_hide(s, ~there, counted), dim=1) for s in (old_scores, new_scores))
    # Both are -inf where a row is left out, and their difference would be NaN.
    difference = (old_log - new_log).masked_fill(~there, 0)
    return reduce_rows((old_log.exp() * difference).sum(1), counted, reduction)


def _is_there(query: Tensor, gallery: Tensor, left_out: Tensor | None) -> Tensor:
    shape = (len(query), len(gallery))
    if left_out is None:
        return torch.ones(shape, dtype=torch.bool, device=query.device)
    if left_out.dtype != torch.bool or left_out.shape != shape:
        raise ValueError(
            f"Expected left_out as bool of shape {shape}, got {left_out.dtype} of shape {tuple(left_out.shape)}."
        )
    return ~left_out


def _hide(scores: Tensor, hidden: Tensor, counted: Tensor) -> Tensor:
    # A row that does not count stays: without any score its softmax, and the gradient of all, would be NaN.
    return scores.masked_fill(hidden & counted[:, None], -torch.inf)


def _check_width(old_embedding: Tensor, gallery: Tensor) -> None:
    if old_embedding.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"Expected old_embedding as wide as the gallery of the old model, {gallery.shape[1]}, got "
            f"{old_embedding.shape[1]}. Both come from one old model."
        )


def _same_class(target: Tensor | None, gallery_target: Tensor | None, query: Tensor, gallery: Tensor) -> Tensor:
    if target is None or gallery_target is None:
        raise ValueError("Expected target and gallery_target for a tilt, got none. Pass both, or tilt=0.")
    check_target(target, query)
    check_target(gallery_target, gallery, "gallery_target")
    same = (target[:, None] == gallery_target) & (gallery_target >= 0)
    return same.to(torch.promote_types(query.dtype, torch.float32))

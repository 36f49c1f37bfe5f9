"""The old classifier judges the new embedding (Shen et al., Backward-Compatible Representation Learning, CVPR 2020)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_graceful.functional.distillation import Reduction
from lightning_graceful.functional.embedding_losses.arguments import (
    check_embeddings,
    check_rows,
    check_target,
    check_temperature,
    old_columns,
    reduce_rows,
)
from lightning_graceful.functional.embedding_losses.rows import fit_width, in_single

Classifier = Callable[[Tensor], Tensor]


def influence_loss(
    new_embedding: Tensor,
    target: Tensor,
    classifier: Classifier,
    *,
    new_to_old: Sequence[int] | Tensor | None = None,
    width: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of the frozen old classifier on the new embedding: BCT's influence loss.

    .. math:: \frac1{|K|} \sum_{i \in K} \mathrm{CE}(\text{classifier}(\text{new}_i), y_i),
        \quad K = \{i : \text{the old model knows } y_i\}

    Rows that are unlabelled (target below 0), or of a class that ``new_to_old`` marks -1, are left out. A wider new
    embedding is cut to its first ``width`` dimensions, which are the old-compatible ones; a narrower one is filled up
    with zeros.

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``.
        target: Labels of the new model, integer, shape ``(N,)``.
        classifier: The old head, from embeddings ``(N, width)`` to scores ``(N, C)``; its weights must not require
            grad. ``OldModel.classifier`` is one.
        new_to_old: For each class of the new model its column of the scores, or -1; default: they are the same.
        width: Of the classifier's input; default: that of the new embedding.
        reduction: ``"mean"`` over the rows that count, or ``"none"`` for one value a row, 0 where it does not count.

    Returns:
        The loss, float32 (float64 for float64 scores), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, a label has no column, or an embedding holds NaN or Inf.

    Example:
        >>> head = lambda z: torch.cat([z, -z], dim=1)
        >>> new, target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> influence_loss(new, target, head, new_to_old=[0, -1], reduction="none")
        tensor([0.6265, 0.0000])
    """
    check_embeddings(new_embedding)
    check_target(target, new_embedding)
    columns = old_columns(target, new_to_old)
    scores = _frozen_scores(classifier, fit_width(new_embedding, width))
    return reduce_rows(cross_entropy_rows(scores, columns), columns >= 0, reduction)


def soft_influence_loss(
    new_embedding: Tensor,
    old_embedding: Tensor,
    target: Tensor,
    classifier: Classifier,
    *,
    new_to_old: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Influence loss that has the old classifier's own scores for targets where it has no class.

    Row by row: :math:`\mathrm{CE}(\text{classifier}(\text{new}_i), y_i)` where the old model knows the label, else
    :math:`\tau^2\,\mathrm{KL}(\mathrm{softmax}(\text{classifier}(\text{old}_i)/\tau)\,\|\,
    \mathrm{softmax}(\text{classifier}(\text{new}_i)/\tau))` (as Learning without Forgetting, and openBCT's ``--lwf``).
    All rows count, the unlabelled (target below 0) among the latter.

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``; cut or filled up to ``d_old``.
        old_embedding: Of the old model, shape ``(N, d_old)``; must not require grad.
        target: Labels of the new model, integer, shape ``(N,)``.
        classifier: The old head, as in :func:`influence_loss`.
        new_to_old: As in :func:`influence_loss`.
        temperature: :math:`\tau`.
        reduction: ``"mean"`` over the batch, or ``"none"`` for one value a row.

    Returns:
        The loss, float32 (float64 for float64 scores), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, a label has no column, or an embedding holds NaN or Inf.

    Example:
        >>> head = lambda z: torch.cat([z, -z], dim=1)
        >>> new, old = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(2)
        >>> soft_influence_loss(new, old, torch.tensor([0, -100]), head, reduction="none")
        tensor([0.6265, 0.0000])
    """
    check_temperature(temperature)
    check_embeddings(new_embedding, old_embedding=old_embedding)
    check_rows(new_embedding, old_embedding=old_embedding)
    check_target(target, new_embedding)
    columns = old_columns(target, new_to_old)
    scores = _frozen_scores(classifier, fit_width(new_embedding, old_embedding.shape[1]))
    with torch.no_grad():
        old_scores = _frozen_scores(classifier, old_embedding.to(new_embedding.dtype))
    new_log, old_log = (F.log_softmax(s / temperature, dim=1) for s in (scores, old_scores))
    divergence = temperature**2 * (old_log.exp() * (old_log - new_log)).sum(1)
    return reduce_rows(cross_entropy_rows(scores, columns).where(columns >= 0, divergence), None, reduction)


def cross_entropy_rows(scores: Tensor, columns: Tensor) -> Tensor:
    """Compute one cross-entropy a row.

    Args:
        scores: Floating, shape ``(N, C)``.
        columns: Right ones, int64, shape ``(N,)``; below 0 for none.

    Returns:
        Shape ``(N,)``; of no meaning where the column is below 0.

    Raises:
        ValueError: If the scores are no matrix of ``N`` rows, or a column is not among them.
    """
    if scores.ndim != 2 or len(scores) != len(columns):
        raise ValueError(
            f"Expected a classifier that returns scores ({len(columns)}, C), got shape {tuple(scores.shape)}."
        )
    if len(columns) and int(columns.max()) >= scores.shape[1]:
        raise ValueError(
            f"Expected classes below {scores.shape[1]}, the columns of the classifier, got {int(columns.max())}. "
            "Pass new_to_old: for each class of the new model its column, or -1 for what the old model does not know."
        )
    return F.cross_entropy(scores, columns.clamp(min=0), reduction="none")


def _frozen_scores(classifier: Classifier, embedding: Tensor) -> Tensor:
    if isinstance(classifier, nn.Module) and any(parameter.requires_grad for parameter in classifier.parameters()):
        raise ValueError(
            "Expected a frozen classifier, got weights that require grad. Use OldModel(..., classifier=path)"
            ".classifier, or classifier.requires_grad_(False)."
        )
    return in_single(classifier(embedding))

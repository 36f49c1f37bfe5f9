"""A classifier that sees new and old embeddings as one (Liang et al., MixBCT, arXiv 2308.06948)."""

import torch
from torch import Tensor

from lightning_graceful.functional.distillation import Reduction
from lightning_graceful.functional.embedding_losses.arguments import (
    check_embeddings,
    check_rows,
    check_target,
    reduce_rows,
)
from lightning_graceful.functional.embedding_losses.influence import Classifier, cross_entropy_rows
from lightning_graceful.functional.embedding_losses.rows import directions, in_single


def mixed_gallery_loss(
    new_embedding: Tensor,
    old_embedding: Tensor,
    target: Tensor,
    classifier: Classifier,
    is_old: Tensor,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of a classifier on a batch in which some new embeddings give way to the old ones.

    An old embedding is cut or filled up with zeros to the new width, and takes the length of the new embedding that it
    replaces: a search by cosine compares directions, and a linear classifier could otherwise tell the two by their
    lengths. Unlabelled rows (target below 0) are left out.

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``.
        old_embedding: Of the old model, shape ``(N, d_old)``; must not require grad.
        target: Labels, integer, shape ``(N,)``.
        classifier: In training: from embeddings ``(N, d)`` to scores ``(N, C)``.
        is_old: Which rows are replaced, bool, shape ``(N,)``.
        reduction: ``"mean"`` over the labelled rows, or ``"none"`` for one value a row, 0 for unlabelled ones.

    Returns:
        The loss, float32 (float64 for float64 scores), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, a label has no column, or an embedding holds NaN or Inf.

    Example:
        >>> new, old, is_old = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]), torch.tensor([True])
        >>> mixed_gallery_loss(new, old, torch.tensor([1]), lambda z: z, is_old)  # the classifier sees (0, 2)
        tensor(0.1269)
    """
    check_embeddings(new_embedding, old_embedding=old_embedding)
    check_rows(new_embedding, old_embedding=old_embedding, is_old=is_old)
    check_target(target, new_embedding)
    if is_old.dtype != torch.bool or is_old.ndim != 1:
        raise ValueError(f"Expected is_old as bool of shape (N,), got {is_old.dtype} of shape {tuple(is_old.shape)}.")
    lengths = torch.linalg.vector_norm(in_single(new_embedding.detach()), dim=1, keepdim=True)
    replacements = (lengths * directions(old_embedding, new_embedding.shape[1])).to(new_embedding.dtype)
    scores = in_single(classifier(replacements.where(is_old[:, None], new_embedding)))
    return reduce_rows(cross_entropy_rows(scores, target.to(torch.int64)), target >= 0, reduction)

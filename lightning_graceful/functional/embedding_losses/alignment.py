"""New embeddings pulled onto the old ones: the l2 baseline of Shen et al. (CVPR 2020)."""

from torch import Tensor

from lightning_graceful.functional.distillation import Reduction
from lightning_graceful.functional.embedding_losses.arguments import check_embeddings, check_rows, reduce_rows
from lightning_graceful.functional.embedding_losses.rows import directions


def feature_alignment_loss(new_embedding: Tensor, old_embedding: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Squared distance of the directions of the new and the old embedding, which is ``2 - 2 cosine``.

    .. math:: \frac1N \sum_i \Bigl\lVert \frac{\text{new}_i}{\lVert\text{new}_i\rVert} -
        \frac{\text{old}_i}{\lVert\text{old}_i\rVert} \Bigr\rVert^2

    Labels play no part: rows without one count. The longer of two widths is cut, then both get length 1. The paper
    adds this term to the classification loss; openBCT's l2 branch uses it alone (``weights={"task": 0}``), as
    ``nn.MSELoss``, which is this divided by the width. A baseline: openBCT's README has it far below a compatible
    search (13.0 against 39.5 % top-1 of the old model on ImageNet).

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``.
        old_embedding: Of the old model, shape ``(N, d_old)``; must not require grad.
        reduction: ``"mean"`` over the batch, or ``"none"`` for one value a sample.

    Returns:
        The loss, float32 (float64 for float64 embeddings), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, or an embedding holds NaN or Inf.

    Example:
        >>> import torch
        >>> feature_alignment_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.8000)
    """
    check_embeddings(new_embedding, old_embedding=old_embedding)
    check_rows(new_embedding, old_embedding=old_embedding)
    width = min(new_embedding.shape[1], old_embedding.shape[1])
    difference = directions(new_embedding, width) - directions(old_embedding, width)
    return reduce_rows(difference.square().sum(1), None, reduction)

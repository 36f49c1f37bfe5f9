"""Each new embedding nearer to its own old one than to those of other classes (Zhang et al., RACT, ICLR 2022)."""

from typing import NamedTuple

import torch
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


class Pool(NamedTuple):
    """Where negatives are taken from.

    Attributes:
        new_embedding: Shape ``(M, d)``; with a graph, if gradients are to reach it.
        old_embedding: Shape ``(M, d_old)``.
        target: Labels, integer, shape ``(M,)``; rows below 0 are nobody's negatives.
    """

    new_embedding: Tensor
    old_embedding: Tensor
    target: Tensor


def contrastive_compatibility_loss(
    new_embedding: Tensor,
    old_embedding: Tensor,
    target: Tensor,
    *,
    temperature: float = 0.05,
    new_negatives: bool = False,
    pool: Pool | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""InfoNCE of a new embedding against its own old one, with the old ones of other classes for negatives.

    With cosines :math:`\cdot`, and sums over the :math:`k` of other classes than :math:`i`:

    .. math:: -\frac1N \sum_i \log \frac{e^{\text{new}_i \cdot \text{old}_i/\tau}}{e^{\text{new}_i \cdot
        \text{old}_i/\tau} + \sum_k e^{\text{new}_i \cdot \text{old}_k/\tau} \,[\,+ \sum_k e^{\text{new}_i \cdot
        \text{new}_k/\tau}\,]}

    The last sum is RACT's: in a gallery that is being refreshed, new rows of other classes compete with old rows of the
    same class. Rows of the same class are taken out of the sums, which is not the same as a cosine of 0. Unlabelled
    rows (target below 0) are left out, as queries and as negatives. openBCT has :math:`\tau = 0.05`, OpenCompatible
    0.01.

    Args:
        new_embedding: Of the model in training, floating, shape ``(N, d)``; cut or filled up to ``d_old``, also for the
            new negatives: that is the space in which a mixed gallery is searched.
        old_embedding: Of the old model, shape ``(N, d_old)``; must not require grad.
        target: Labels, integer, shape ``(N,)``.
        temperature: :math:`\tau`.
        new_negatives: Whether new embeddings of other classes are negatives, too.
        pool: Where negatives are taken from, such as the batches of all ranks; default: the batch.
        reduction: ``"mean"`` over the labelled rows, or ``"none"`` for one value a row, 0 for unlabelled ones.

    Returns:
        The loss, float32 (float64 for float64 embeddings), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If an argument is not as said, or an embedding holds NaN or Inf.

    Example:
        >>> new, target = torch.eye(2), torch.tensor([0, 1])
        >>> contrastive_compatibility_loss(new, torch.eye(2), target, temperature=1.0)
        tensor(0.3133)
        >>> contrastive_compatibility_loss(new, torch.eye(2), target, temperature=1.0, new_negatives=True)
        tensor(0.5514)
    """
    check_temperature(temperature)
    check_embeddings(new_embedding, old_embedding=old_embedding)
    check_rows(new_embedding, old_embedding=old_embedding)
    check_target(target, new_embedding)
    pool = Pool(new_embedding, old_embedding, target) if pool is None else pool
    query, old = directions(new_embedding, old_embedding.shape[1]), directions(old_embedding)
    negatives = [directions(pool.old_embedding)]
    if new_negatives:
        negatives.append(directions(pool.new_embedding, old_embedding.shape[1]))
    is_negative = (target[:, None] != pool.target) & (pool.target >= 0)
    positive = (query * old).sum(1) / temperature
    scores = [(cosines(query, rows) / temperature).masked_fill(~is_negative, -torch.inf) for rows in negatives]
    values = torch.logsumexp(torch.cat([positive[:, None], *scores], dim=1), dim=1) - positive
    return reduce_rows(values, target >= 0, reduction)

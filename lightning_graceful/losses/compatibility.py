"""Losses that tie a new embedding to its own old one, as modules, ready to be terms of a GracefulMixin."""

from torch import Tensor, nn

from lightning_graceful.functional.embedding_losses.alignment import feature_alignment_loss
from lightning_graceful.functional.embedding_losses.arguments import check_temperature
from lightning_graceful.functional.embedding_losses.contrastive import Pool, contrastive_compatibility_loss
from lightning_graceful.functional.embedding_losses.rows import in_single
from lightning_graceful.losses.gathering import gather_rows, world_size


class FeatureAlignmentLoss(nn.Module):
    """Squared distance of the directions of new and old embedding, BCT's l2 baseline.

    See :func:`feature_alignment_loss`. The paper adds it; openBCT uses it alone: ``weights={"task": 0}``.

    Example:
        >>> import torch
        >>> FeatureAlignmentLoss()(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.8000)
    """

    def forward(self, new_embedding: Tensor, old_embedding: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; shapes ``(N, d)``, ``(N, d_old)``."""
        return feature_alignment_loss(new_embedding, old_embedding)


class ContrastiveCompatibilityLoss(nn.Module):
    """InfoNCE of a new embedding against its own old one, with negatives of other classes from all ranks.

    See :func:`contrastive_compatibility_loss`. With several ranks the mean of their losses, and what DDP makes of their
    gradients, are those of one process on the joined batch, exactly: each rank's sum is divided by the mean number of
    labelled rows a rank, not by its own, and gradients that other ranks have for a row (only with ``new_negatives``)
    are sent home. Every rank must take part in every step.

    Args:
        temperature: Divides the cosines: openBCT's 0.05; OpenCompatible has 0.01.
        new_negatives: Whether new embeddings of other classes are negatives, too (RACT).

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> import torch
        >>> ContrastiveCompatibilityLoss(temperature=1.0)(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
        tensor(0.3133)
    """

    def __init__(self, temperature: float = 0.05, new_negatives: bool = False) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.new_negatives = new_negatives

    def forward(self, new_embedding: Tensor, old_embedding: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the labelled rows, a scalar; shapes ``(N, d)``, ``(N, d_old)``, ``(N,)``."""
        # Nobody looks at new rows of other ranks otherwise, and no backward has to wait for them.
        new_rows = gather_rows(in_single(new_embedding)) if self.new_negatives else new_embedding
        pool = Pool(new_rows, gather_rows(in_single(old_embedding)), gather_rows(target))
        values = contrastive_compatibility_loss(
            new_embedding,
            old_embedding,
            target,
            temperature=self.temperature,
            new_negatives=self.new_negatives,
            pool=pool,
            reduction="none",
        )
        # DDP averages gradients over ranks: that takes the factor back.
        return world_size() * values.sum() / (pool.target >= 0).sum().clamp(min=1)

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"temperature={self.temperature}, new_negatives={self.new_negatives}"

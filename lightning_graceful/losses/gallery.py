"""Losses that search a gallery of old embeddings, which the last batches have filled, with new queries."""

from torch import Tensor, nn

from lightning_graceful.functional.embedding_losses.arguments import check_matrices, check_rows, check_temperature
from lightning_graceful.functional.embedding_losses.gallery import gallery_distillation_loss, gallery_search_loss
from lightning_graceful.functional.embedding_losses.rows import is_same_direction
from lightning_graceful.losses.memory import GalleryMemory


class GallerySearchLoss(nn.Module):
    """Have each new query find the old rows of its class among those of the last batches.

    See :func:`gallery_search_loss`; the gallery is a :class:`GalleryMemory`, the current batch included. An item does
    not search for itself: rows in the direction of its own old embedding are left out, also where an earlier epoch has
    put them there.

    Args:
        temperature: Divides the cosines.
        memory: Rows of the gallery, ``4 d_old + 8`` bytes each; not saved in checkpoints, own to each rank.

    Raises:
        ValueError: If the temperature is not positive, or the memory below 1.

    Example:
        >>> import torch
        >>> old, target = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0])
        >>> GallerySearchLoss()(torch.eye(2), old, target)  # each has one row to find, and finds it
        tensor(0.)
    """

    def __init__(self, temperature: float = 0.2, memory: int = 2048) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.memory = GalleryMemory(memory)

    def forward(self, new_embedding: Tensor, old_embedding: Tensor, target: Tensor) -> Tensor:
        """Return the mean over queries with something to find; shapes ``(N, d)``, ``(N, d_old)``, ``(N,)``."""
        _check(new_embedding, old_embedding)
        gallery, labels = self.memory.joined(old_embedding, target)
        left_out = is_same_direction(old_embedding, gallery)
        loss = gallery_search_loss(
            new_embedding, target, gallery, labels, temperature=self.temperature, left_out=left_out
        )
        self.memory.keep(gallery, labels)
        return loss

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"temperature={self.temperature}"


class GalleryDistillationLoss(nn.Module):
    """Have each new query rank the old rows of the last batches as the old query did, tilted towards its class.

    See :func:`gallery_distillation_loss`; the gallery is a :class:`GalleryMemory`, the current batch included. Rows in
    the direction of an item's own old embedding are left out, as in :class:`GallerySearchLoss`: at a low temperature
    the old query would see nothing else. Only a tilt asks for labels.

    Args:
        temperature: Divides the cosines.
        tilt: Added to the old query's scores of rows of its own class; ``log(10)`` makes them ten times as likely.
        memory: Rows of the gallery, ``4 d_old + 8`` bytes each; not saved in checkpoints, own to each rank.

    Raises:
        ValueError: If the temperature is not positive, or the memory below 1.

    Example:
        >>> import torch
        >>> old = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> GalleryDistillationLoss()(old, old).item()
        0.0
        >>> GalleryDistillationLoss(tilt=1.0).asks
        ('new_embedding', 'old_embedding', 'target')
    """

    def __init__(self, temperature: float = 0.1, tilt: float = 0.0, memory: int = 2048) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.tilt = tilt
        self.memory = GalleryMemory(memory)

    @property
    def asks(self) -> tuple[str, ...]:
        """Arguments that a GracefulMixin serves: the target only for a tilt."""
        return ("new_embedding", "old_embedding", *(("target",) if self.tilt else ()))

    def forward(self, new_embedding: Tensor, old_embedding: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the mean over queries with any row to rank; shapes ``(N, d)``, ``(N, d_old)``, ``(N,)``."""
        _check(new_embedding, old_embedding)
        gallery, labels = self.memory.joined(old_embedding, target)
        loss = gallery_distillation_loss(
            new_embedding,
            old_embedding,
            gallery,
            target=target,
            gallery_target=labels,
            temperature=self.temperature,
            tilt=self.tilt,
            left_out=is_same_direction(old_embedding, gallery),
        )
        self.memory.keep(gallery, labels)
        return loss

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"temperature={self.temperature}, tilt={self.tilt}"


def _check(new_embedding: Tensor, old_embedding: Tensor) -> None:
    # Before the memory is looked at; the function sees to the values.
    check_matrices(new_embedding, old_embedding=old_embedding)
    check_rows(new_embedding, old_embedding=old_embedding)

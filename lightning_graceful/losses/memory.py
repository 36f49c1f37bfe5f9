"""The old embeddings of the last batches, as a gallery to search while training."""

import torch
from torch import Tensor, nn


class GalleryMemory(nn.Module):
    """The latest old embeddings and their labels.

    The old model is frozen, so that they never go stale. A row takes ``4 d + 8`` bytes on the model's device: 2048 rows
    of 512 dimensions 4 MB. The width is that of the first batch. Nothing is saved in checkpoints: a resumed run fills
    the memory again in a few steps. With several ranks each has its own.

    Args:
        rows: How many embeddings are kept, those of the current batch among them.

    Raises:
        ValueError: If it is not at least 1.

    Example:
        >>> memory = GalleryMemory(3)
        >>> for batch in torch.arange(4.0).reshape(2, 2, 1):
        ...     memory.keep(*memory.joined(batch, batch.flatten().long()))
        >>> memory.embedding.flatten()
        tensor([2., 3., 0.])
    """

    embedding: Tensor | None
    target: Tensor | None

    def __init__(self, rows: int = 2048) -> None:
        super().__init__()
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ValueError(f"Expected memory of at least 1 row, got {rows!r}.")
        self.rows = rows
        self.register_buffer("embedding", None, persistent=False)
        self.register_buffer("target", None, persistent=False)

    def joined(self, old_embedding: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Put a batch before what is kept.

        Args:
            old_embedding: Floating, shape ``(N, d)``.
            target: Labels, integer, shape ``(N,)``; None: no row has any.

        Returns:
            The latest ``rows`` embeddings and labels, this batch's first.

        Raises:
            ValueError: If the width is not that of the batches before.
        """
        labels = old_embedding.new_full((len(old_embedding),), -1, dtype=torch.int64) if target is None else target
        if self.embedding is None or self.target is None:
            return old_embedding[: self.rows], labels[: self.rows]
        if old_embedding.ndim == 2 and old_embedding.shape[1] != self.embedding.shape[1]:
            raise ValueError(
                f"Expected old_embedding of width {self.embedding.shape[1]}, as in the batches before, got "
                f"{old_embedding.shape[1]}. Use a new loss for another old model."
            )
        kept, kept_labels = self.embedding.to(old_embedding), self.target.to(labels)
        return torch.cat([old_embedding, kept])[: self.rows], torch.cat([labels, kept_labels])[: self.rows]

    def keep(self, embedding: Tensor, target: Tensor) -> None:
        """Keep what :meth:`joined` returned, once it has proved sound."""
        self.embedding, self.target = embedding.detach().clone(), target.clone()

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"rows={self.rows}"

"""What a trained map is asked for: mapped rows near their targets, or searches that rank a gallery as before."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_graceful.adapters.sample import check_pairs
from lightning_graceful.functional.embedding_losses import gallery_distillation_loss, gallery_search_loss

Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Loss of a batch: mapped rows ``(B, d_to)``, rows of the target space ``(B, d_to)``, labels ``(B,)`` or None."""
# Any label below 0 marks a row without one, as in the losses on embeddings.
UNLABELLED = -1


def squared_distance(mapped: Tensor, target: Tensor, labels: Tensor | None = None) -> Tensor:
    """Average the squared distance of mapped rows from their targets; of unit rows: 2 less twice the cosine.

    Args:
        mapped: Floating, shape ``(B, d)``.
        target: Shape ``(B, d)``.
        labels: Are not looked at.

    Returns:
        Scalar.

    Example:
        >>> squared_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(2.)
    """
    del labels
    return (mapped - target).square().sum(1).mean()


def int_labels(labels: Tensor | None, rows: Tensor) -> Tensor | None:
    """Check that there is one label a row.

    Args:
        labels: Integer, shape ``(N,)``, or None.
        rows: The embeddings that they belong to, shape ``(N, d)``.

    Returns:
        Int64, on the device of the rows, shape ``(N,)``; None without labels.

    Raises:
        ValueError: If they are no integers, or not as many as rows.
    """
    if labels is None:
        return None
    if labels.is_floating_point() or labels.is_complex() or labels.shape != rows.shape[:1]:
        raise ValueError(
            f"Expected integer labels of shape ({len(rows)},), got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    return labels.to(rows.device, torch.int64)


def with_unlabelled(
    source: Tensor, target: Tensor, labels: Tensor | None, unlabelled: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Append pairs without a label to a sample.

    Args:
        source: Floating, shape ``(N, d_from)``.
        target: Floating, shape ``(N, d_to)``.
        labels: Int64, shape ``(N,)``, or None.
        unlabelled: Further source and target rows, shapes ``(M, d_from)`` and ``(M, d_to)``, or None.

    Returns:
        All source rows, target rows, and labels, of which those of the new rows are -1.

    Raises:
        ValueError: If the further rows do not fit.
    """
    if unlabelled is None:
        return source, target, labels
    check_pairs(*unlabelled)
    if (unlabelled[0].shape[1], unlabelled[1].shape[1]) != (source.shape[1], target.shape[1]):
        raise ValueError(
            f"Expected unlabelled pairs of {source.shape[1]} and {target.shape[1]} dimensions, got "
            f"{unlabelled[0].shape[1]} and {unlabelled[1].shape[1]}."
        )
    if labels is not None:
        labels = torch.cat([labels, labels.new_full((len(unlabelled[0]),), UNLABELLED)])
    return torch.cat([source, unlabelled[0].to(source)]), torch.cat([target, unlabelled[1].to(target)]), labels


class GalleryObjective:
    """Ask mapped rows for the scores that target rows give a gallery drawn of the sample, same labels raised.

    Args:
        gallery: Target rows of the sample, shape ``(N, d)``.
        labels: Their labels, int64, below 0 for none, shape ``(N,)``; None: none are raised.
        temperature: Cosines are divided by it.
        tilt: How much is added to the scores of rows of the query's label.
        size: Rows drawn for each batch, with replacement, by torch's global generator on the CPU.

    Raises:
        ValueError: If the size is no positive integer, the gallery is empty, or temperature or tilt are out of their
            domain.
    """

    def __init__(self, gallery: Tensor, labels: Tensor | None, *, temperature: float, tilt: float, size: int) -> None:
        _check_gallery(gallery, size)
        if not 0 < temperature < math.inf or not 0 <= tilt < math.inf:
            raise ValueError(f"Expected temperature > 0 and tilt >= 0, got {temperature} and {tilt}.")
        self.gallery, self.labels, self.size = gallery, labels, size
        self.temperature, self.tilt = temperature, tilt

    def __call__(self, mapped: Tensor, target: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            mapped: Mapped rows, floating, shape ``(B, d)``.
            target: Target rows of the same items, shape ``(B, d)``.
            labels: Int64, below 0 for none, shape ``(B,)``; None as in the gallery.

        Returns:
            Scalar.
        """
        drawn = torch.randint(len(self.gallery), (self.size,)).to(self.gallery.device)
        if labels is None or self.labels is None:
            return gallery_distillation_loss(mapped, target, self.gallery[drawn], temperature=self.temperature)
        return gallery_distillation_loss(
            mapped,
            target,
            self.gallery[drawn],
            target=labels,
            gallery_target=self.labels[drawn],
            temperature=self.temperature,
            tilt=self.tilt,
        )


class SearchObjective:
    """Ask mapped rows to find the rows of their label; those without a label to rank a gallery as their target does.

    Args:
        gallery: Target rows, those without a label among them, shape ``(N, d)``.
        labels: Their labels, int64, below 0 for none, shape ``(N,)``.
        temperature: Cosines of rows with a label are divided by it.
        unlabelled_temperature: Cosines of rows without one are divided by it.
        unlabelled_weight: Of the part of the rows without a label; that of the others is 1.
        size: Rows drawn for each batch, with replacement, by torch's global generator on the CPU.

    Raises:
        ValueError: If the size is no positive integer, the gallery has no label, or a number is out of its domain.
    """

    def __init__(
        self,
        gallery: Tensor,
        labels: Tensor,
        *,
        temperature: float,
        unlabelled_temperature: float,
        unlabelled_weight: float,
        size: int,
    ) -> None:
        _check_gallery(gallery, size)
        numbers = temperature, unlabelled_temperature, unlabelled_weight
        if not all(0 < number < math.inf for number in numbers[:2]) or not 0 <= unlabelled_weight < math.inf:
            raise ValueError(
                f"Expected temperature > 0, unlabelled_temperature > 0 and unlabelled_weight >= 0, got {numbers}."
            )
        self.gallery, self.labels, self.size = gallery, labels, size
        self.temperature, self.unlabelled_temperature = temperature, unlabelled_temperature
        self.unlabelled_weight = unlabelled_weight
        self._labelled = (labels >= 0).nonzero()[:, 0].cpu()
        if not len(self._labelled):
            raise ValueError("Expected rows with a label to find, got none. Without labels: SpaceAlignment.distilled.")

    def __call__(self, mapped: Tensor, target: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            mapped: Mapped rows, floating, shape ``(B, d)``.
            target: Target rows of the same items, shape ``(B, d)``.
            labels: Int64, below 0 for none, shape ``(B,)``.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are no labels.
        """
        if labels is None:
            raise ValueError("Expected labels with this objective, got None.")
        is_labelled = labels >= 0
        drawn = self._drawn(self._labelled)
        loss = gallery_search_loss(
            mapped, labels, self.gallery[drawn], self.labels[drawn], temperature=self.temperature
        )
        if not self.unlabelled_weight or bool(is_labelled.all()):
            return loss
        drawn = self._drawn(torch.arange(len(self.gallery)))
        ranked = gallery_distillation_loss(
            mapped[~is_labelled],
            target[~is_labelled],
            self.gallery[drawn],
            temperature=self.unlabelled_temperature,
        )
        return loss + self.unlabelled_weight * ranked

    def _drawn(self, rows: Tensor) -> Tensor:
        return rows[torch.randint(len(rows), (self.size,))].to(self.gallery.device)


def _check_gallery(gallery: Tensor, size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or not len(gallery):
        raise ValueError(f"Expected gallery_size of at least 1, of at least one row, got {size} of {len(gallery)}.")

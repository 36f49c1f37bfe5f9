"""Old clusters that new embeddings fall into, as a torchmetrics class."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_graceful.functional.clusters import assign_clusters, b_cubed_from_counts
from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.pairs import PairOptions
from lightning_graceful.functional.retrieval.rows import Dimensions, Distance


class ClusterBCubed(Metric):
    """B-cubed of the clusters that embeddings fall into, by the centres of old clusters.

    The state is one table of counts, so the answer is the same for any split over batches and ranks; an item that is
    repeated (a ``DistributedSampler`` pads shards) counts twice.

    Args:
        centres: Of clusters of old embeddings, floating, shape ``(K, d)``.
        num_classes: Number of labels.
        distance: ``"cosine"`` or ``"l2"``.
        dimensions: As in :func:`lightning_graceful.functional.retrieval.pairs.pair_up`.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there are no centres or classes.

    Example:
        >>> metric = ClusterBCubed(torch.eye(2), num_classes=2)
        >>> metric.update(torch.tensor([[1.0, 0.1], [0.9, 0.0], [1.0, 0.2], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'precision': 0.667, 'recall': 0.75, 'f': 0.706}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor
    centres: Tensor

    def __init__(
        self,
        centres: Tensor,
        num_classes: int,
        *,
        distance: Distance = "cosine",
        dimensions: Dimensions = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if centres.ndim != 2 or not len(centres) or num_classes < 1:
            raise ValueError(
                f"Expected centres (K, d) and at least one class, got {tuple(centres.shape)} and {num_classes}."
            )
        self.num_classes = num_classes
        self.options: PairOptions = {"distance": distance, "dimensions": dimensions}
        self.register_buffer("centres", centres.detach().clone(), persistent=False)
        self.add_state("counts", torch.zeros(len(centres), num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: Of any model in the old space, floating, shape ``(N, d)``; ``N`` may be 0.
            labels: True labels in ``[0, num_classes)``, integer, shape ``(N,)``.

        Raises:
            ValueError: If labels are out of range, or an argument is not as said.
        """
        labels = integers("labels", labels, embeddings)
        if bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise ValueError(
                f"Expected labels in [0, {self.num_classes}), got {labels.min().item()} to {labels.max().item()}."
            )
        clusters = assign_clusters(embeddings, self.centres, **self.options)
        cells = torch.bincount(clusters * self.num_classes + labels.to(clusters.device), minlength=self.counts.numel())
        self.counts += cells.view_as(self.counts).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Read the measures from the counts of all ranks.

        Returns:
            ``precision``, ``recall`` and ``f``, float64; NaN without items.
        """
        return b_cubed_from_counts(self.counts)._asdict()

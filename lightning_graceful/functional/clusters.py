"""Clusters that were made of old embeddings, and what is left of them when new ones fall into them.

Search is not all that embeddings are used for. Somebody has run k-means over the old gallery and acts on the clusters;
the items that are embedded again are put into them by the same centres.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.pairs import PairOptions, pair_up
from lightning_graceful.functional.retrieval.refresh import refresh_parts


class BCubed(NamedTuple):
    """How pure and how whole clusters are, each item counting alike; float64, shape ``()``; NaN without items.

    Attributes:
        precision: Mean over the items of the share of their cluster that has their label.
        recall: Mean over the items of the share of their label that is in their cluster.
        f: Harmonic mean of the two.
    """

    precision: Tensor
    recall: Tensor
    f: Tensor


class ClusterCurve(NamedTuple):
    """Clusters of a gallery that is embedded again, part after part.

    Attributes:
        share: Share of the gallery that is new, float64, shape ``(parts + 1,)``, from 0 to 1.
        precision: B-cubed precision at each, float64, likewise.
        recall: B-cubed recall at each.
        f: Their harmonic mean at each.
        moved: Share of the gallery that is in another cluster than before, at each.
    """

    share: Tensor
    precision: Tensor
    recall: Tensor
    f: Tensor
    moved: Tensor


def assign_clusters(embeddings: Tensor, centres: Tensor, **options: Unpack[PairOptions]) -> Tensor:
    """Put each row into the cluster of the nearest centre; of equally near ones the first.

    Scored without rounding and in blocks, as in a search, so the answer is the same on any machine.

    Args:
        embeddings: Floating, shape ``(N, d)``; ``N`` may be 0.
        centres: Floating, shape ``(K, d)``, of any k-means over old embeddings.
        **options: ``distance, dimensions, memory`` of
            :func:`lightning_graceful.functional.retrieval.pairs.pair_up`: ``"cosine"`` (the default) for centres of
            normalised rows, ``"l2"`` for those of rows as they are.

    Returns:
        Positions of centres, int64, shape ``(N,)``.

    Raises:
        ValueError: If there is no centre, or an argument is not as said.

    Example:
        >>> centres = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> assign_clusters(torch.tensor([[0.1, 3.0], [2.0, 0.0], [1.0, 1.0]]), centres).tolist()
        [1, 0, 0]
    """
    if not len(centres):
        raise ValueError("Expected at least one centre, got none.")
    pairs = pair_up(embeddings, centres, **options)
    found = [torch.zeros(0, dtype=torch.int64, device=pairs.query.device)]
    for rows in pairs.batches():
        best = pairs.query.new_full((len(rows),), -torch.inf, dtype=torch.float64)
        place = torch.zeros_like(rows)
        for start, scores in pairs.blocks(rows):
            nearest, first = scores.max(1)  # of equal ones the first, says torch
            place = torch.where(nearest > best, first + start, place)
            best = nearest.maximum(best)
        found.append(place)
    return torch.cat(found)


def b_cubed(clusters: Tensor, labels: Tensor) -> BCubed:
    """Compute B-cubed of a clustering (Bagga and Baldwin, 1998; averaged before F, as Amigo et al., 2009).

    Args:
        clusters: Cluster of each item, integer, shape ``(N,)``.
        labels: True label of each item, integer, shape ``(N,)``.

    Returns:
        Precision, recall and F.

    Raises:
        ValueError: If they are not integers of one shape.

    Example:
        >>> [round(x.item(), 3) for x in b_cubed(torch.tensor([0, 0, 0, 1]), torch.tensor([5, 5, 9, 9]))]
        [0.667, 0.75, 0.706]
    """
    labels = integers("labels", labels, clusters)
    clusters = integers("clusters", clusters, clusters)
    _, cluster, cluster_sizes = torch.unique(clusters, return_inverse=True, return_counts=True)
    _, label, label_sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    cells, counts = torch.unique(cluster * max(len(label_sizes), 1) + label, return_counts=True)
    width = max(len(label_sizes), 1)
    return _b_cubed(counts, cluster_sizes[cells // width], label_sizes[cells % width])


def b_cubed_from_counts(counts: Tensor) -> BCubed:
    """Compute B-cubed from a table of counts.

    Args:
        counts: Items ``[cluster, label]``, integer, shape ``(K, L)``.

    Returns:
        Precision, recall and F.

    Raises:
        ValueError: If it is no integer matrix.

    Example:
        >>> [round(x.item(), 3) for x in b_cubed_from_counts(torch.tensor([[2, 1], [0, 1]]))]
        [0.667, 0.75, 0.706]
    """
    if counts.ndim != 2 or counts.is_floating_point() or counts.is_complex():
        raise ValueError(f"Expected integer counts (K, L), got {counts.dtype} of shape {tuple(counts.shape)}.")
    cluster, label = counts.nonzero(as_tuple=True)
    return _b_cubed(counts[cluster, label], counts.sum(1)[cluster], counts.sum(0)[label])


def mixed_clusters(
    centres: Tensor,
    old_gallery: Tensor,
    new_gallery: Tensor,
    gallery_labels: Tensor,
    *,
    order: Tensor,
    parts: int = 10,
    **options: Unpack[PairOptions],
) -> ClusterCurve:
    """Measure the old clusters while the gallery is embedded again, part after part.

    Args:
        centres: Of clusters of the old gallery, floating, shape ``(K, d)``.
        old_gallery: Gallery as the old model embeds it, shape ``(G, d)``.
        new_gallery: The same items as the new model embeds them, shape ``(G, d)``.
        gallery_labels: Integer, shape ``(G,)``.
        order: Gallery positions in the order of replacement, each once, integer, shape ``(G,)``.
        parts: In how many steps of nearly equal size, as in :func:`lightning_graceful.functional.backfill_curve`.
        **options: As in :func:`assign_clusters`; ``dimensions="shared"`` or ``"padded"`` where widths differ.

    Returns:
        B-cubed before, after each part, and how much has moved.

    Raises:
        ValueError: If the galleries differ in rows, the order is no permutation, or an argument is not as said.

    Example:
        >>> centres, labels = torch.eye(2), torch.tensor([0, 1])
        >>> curve = mixed_clusters(centres, torch.eye(2), torch.eye(2)[[0, 0]], labels, order=torch.arange(2), parts=2)
        >>> curve.precision.tolist(), curve.recall.tolist(), curve.moved.tolist()
        ([1.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 0.5])
    """
    steps, share = refresh_parts(old_gallery, new_gallery, gallery_labels, order, parts)
    old, new = (assign_clusters(gallery, centres, **options) for gallery in (old_gallery, new_gallery))
    mixed, found = old.clone(), []
    for step in steps:
        step = step.to(old.device)
        mixed[step] = new[step]
        found.append(torch.stack([*b_cubed(mixed, gallery_labels), (mixed != old).double().mean()]))
    return ClusterCurve(share.to(old.device), *torch.stack(found, 1))


def _b_cubed(counts: Tensor, cluster_sizes: Tensor, label_sizes: Tensor) -> BCubed:
    # One entry a pair of cluster and label that occurs: its items, and all of that cluster, and of that label.
    counts, items = counts.double(), counts.sum()
    precision = (counts * (counts / cluster_sizes)).sum() / items
    recall = (counts * (counts / label_sizes)).sum() / items
    return BCubed(precision, recall, 2 * precision * recall / (precision + recall))

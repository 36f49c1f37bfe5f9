"""BCT's strict criterion, pair by pair: do new queries keep old distances on the right side?"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_graceful.functional.retrieval.arguments import both_ids, check_memory, integers
from lightning_graceful.functional.retrieval.pairs import MEMORY, Pairs, hide
from lightning_graceful.functional.retrieval.rows import Dimensions, Distance, on_grid


class PairwiseCompatibility(NamedTuple):
    """Shares of pairs for which new queries are no worse than old ones against the old gallery.

    Attributes:
        same: Of pairs of one label: those that came no further apart, float64; NaN without such pairs.
        different: Of pairs of two labels: those that came no nearer.
        both: Of all pairs: those that meet the inequality of their kind.
    """

    same: Tensor
    different: Tensor
    both: Tensor


def pairwise_compatibility(
    old_query: Tensor,
    new_query: Tensor,
    old_gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    distance: Distance = "cosine",
    dimensions: Dimensions = None,
    memory: int = MEMORY,
) -> PairwiseCompatibility:
    """Compute how often BCT's strict criterion holds.

    Of one label: ``d(new(i), old(j)) <= d(old(i), old(j))``; of two: ``>=`` (Shen et al., CVPR 2020).

    Args:
        old_query: Queries as the old model embeds them, shape ``(Q, d)``.
        new_query: The same queries as the new model embeds them, shape ``(Q, d)``.
        old_gallery: Gallery of the old model, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        query_ids: Ids of the queries, as in :func:`search_gallery`; a pair of one id is left out.
        gallery_ids: Ids of the gallery.
        distance: ``"cosine"`` or ``"l2"``.
        dimensions: How many leading dimensions are compared, as in :func:`search_gallery`.
        memory: Bytes that blocks of scores may take.

    Returns:
        Shares of the pairs.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> old, new, labels = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
        >>> [share.item() for share in pairwise_compatibility(old, new, old, labels, labels)]
        [0.5, 0.5, 0.5]
    """
    if len(old_query) != len(new_query):
        raise ValueError(f"Expected the same queries twice, got {len(old_query)} old and {len(new_query)} new ones.")
    check_memory(memory)
    # One grid for all three, so that scores of old and new queries compare.
    named = {"old_query": old_query, "new_query": new_query, "old_gallery": old_gallery}
    (old_rows, new_rows, gallery), unit = on_grid(named, distance=distance, dimensions=dimensions)
    ids = both_ids(query_ids, gallery_ids, old_rows, gallery)
    old = Pairs(old_rows, gallery, distance, unit, memory, *ids)
    query_labels = integers("query_labels", query_labels, old_rows)
    return _pairwise(old, new_rows, query_labels, integers("gallery_labels", gallery_labels, gallery))


def _pairwise(old: Pairs, new_rows: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> PairwiseCompatibility:
    held = torch.zeros(2, dtype=torch.int64, device=new_rows.device)
    total = torch.zeros_like(held)
    for rows in old.batches():
        same = old.same(rows)
        for start, scores in old.blocks(rows):
            width = scores.shape[1]
            after = hide(old.score(new_rows[rows], old.gallery[start : start + width]), same, start)
            alike = query_labels[rows, None] == gallery_labels[start : start + width]
            seen = scores.isfinite()
            held += torch.stack([(alike & seen & (after >= scores)).sum(), (~alike & seen & (after <= scores)).sum()])
            total += torch.stack([(alike & seen).sum(), (~alike & seen).sum()])
    shares = held.double() / total
    return PairwiseCompatibility(shares[0], shares[1], held.sum().double() / total.sum())

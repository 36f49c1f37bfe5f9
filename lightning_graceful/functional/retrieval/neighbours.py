"""What an update does to the lists that users see: how much of them stays, and which queries lose or gain a hit."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_graceful.functional.retrieval.arguments import integers


class RetrievalFlips(NamedTuple):
    """Queries whose list had a relevant item and has none any more, and the reverse.

    Attributes:
        lost: Ids of the queries that found something before and no longer do, int64, shape ``(L,)``.
        lost_items: Gallery positions of the relevant items nearest to them before, shape ``(L,)``.
        lost_to: Gallery positions of the items now first in their place, shape ``(L,)``; -1 for an empty list.
        gained: Ids of the queries that find something now and did not before, shape ``(W,)``.
        gained_items: Gallery positions of the relevant items nearest to them now, shape ``(W,)``.
        negative_flip_rate: Share of the queries with a relevant item in the gallery that are lost, float64.
        positive_flip_rate: Share of these that are gained.
    """

    lost: Tensor
    lost_items: Tensor
    lost_to: Tensor
    gained: Tensor
    gained_items: Tensor
    negative_flip_rate: Tensor
    positive_flip_rate: Tensor


def neighbour_stability(old: Tensor, new: Tensor) -> Tensor:
    """Compute how much of each query's list the update keeps, whatever the order.

    Args:
        old: Gallery positions of the old lists, as :func:`search_gallery` gives them, integer, shape ``(Q, k)``; -1
            is no item.
        new: Those of the new lists, shape ``(Q, k)``, in the same gallery.

    Returns:
        Shared items over the length of the longer list, float64, shape ``(Q,)``; NaN where both are empty.

    Raises:
        ValueError: If a shape or kind differs.

    Example:
        >>> neighbour_stability(torch.tensor([[4, 2, 7]]), torch.tensor([[2, 4, 5]]))
        tensor([0.6667], dtype=torch.float64)
    """
    _check_lists(old, new)
    new = new.to(old.device)
    longest = (old >= 0).sum(1).maximum((new >= 0).sum(1))
    merged = torch.cat([old, new], 1).sort(1).values  # an item is once in a list, so twice in both
    shared = ((merged[:, 1:] == merged[:, :-1]) & (merged[:, 1:] >= 0)).sum(1)
    return shared.double() / longest


def retrieval_flips(
    old: Tensor,
    new: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
) -> RetrievalFlips:
    """List the queries that lose their hit by an update, and those that gain one.

    Args:
        old: Gallery positions of the old lists, as :func:`search_gallery` gives them, integer, shape ``(Q, k)``.
        new: Those of the new lists, shape ``(Q, k)``, in the same gallery.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        query_ids: Ids of the queries, integer, shape ``(Q,)``; None: their positions.
        gallery_ids: Ids of the gallery, as given to the search; an item with the query's id is no match for it.

    Returns:
        Queries in the order given, the items that tell why, and rates.

    Raises:
        ValueError: If a shape or kind differs, or a position is not in the gallery.

    Example:
        >>> labels = torch.tensor([0, 1])
        >>> flips = retrieval_flips(torch.tensor([[0], [0]]), torch.tensor([[1], [1]]), labels, labels)
        >>> flips.lost.tolist(), flips.lost_items.tolist(), flips.gained.tolist(), flips.negative_flip_rate.item()
        ([0], [0], [1], 0.5)
    """
    _check_lists(old, new)
    new, labels = new.to(old.device), integers("query_labels", query_labels, old)
    gallery = integers("gallery_labels", gallery_labels, gallery_labels).to(old.device)
    if old.numel() and int(max(old.max(), new.max())) >= len(gallery):
        raise ValueError(
            f"Expected positions below {len(gallery)} (gallery_labels), got {int(max(old.max(), new.max()))}."
        )
    ids = torch.arange(len(old), device=old.device) if query_ids is None else integers("query_ids", query_ids, old)
    before, after = _first_hit(old, labels, gallery), _first_hit(new, labels, gallery)
    lost, gained = (before >= 0) & (after < 0), (before < 0) & (after >= 0)
    matched = (_matches(labels, gallery, ids, gallery_ids, query_ids) > 0).sum().double()
    return RetrievalFlips(
        ids[lost], before[lost], new[lost, 0], ids[gained], after[gained], lost.sum() / matched, gained.sum() / matched
    )


def _check_lists(old: Tensor, new: Tensor) -> None:
    if (
        old.ndim != 2
        or old.shape != new.shape
        or old.shape[1] < 1
        or old.is_floating_point()
        or new.is_floating_point()
    ):
        raise ValueError(
            "Expected old and new positions, integer, of one shape (Q, k), got "
            f"{old.dtype} of {tuple(old.shape)} and {new.dtype} of {tuple(new.shape)}."
        )


def _first_hit(positions: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    # Position of the first relevant item of each list, -1 without one.
    if not len(gallery_labels):
        return positions.new_full((len(positions),), -1)
    hits = (gallery_labels[positions.clamp(min=0)] == query_labels[:, None]) & (positions >= 0)
    first = positions.gather(1, hits.byte().argmax(1, keepdim=True))[:, 0]
    return first.where(hits.any(1), -1)


def _matches(
    labels: Tensor, gallery: Tensor, ids: Tensor, gallery_ids: Tensor | None, query_ids: Tensor | None
) -> Tensor:
    matches = _count(gallery, labels)
    if gallery_ids is None or query_ids is None:
        return matches
    own = integers("gallery_ids", gallery_ids, gallery)
    # Pairs of label and id, as one integer each.
    every = torch.cat([torch.stack([gallery, own], 1), torch.stack([labels, ids], 1)])
    _, codes = torch.unique(every, dim=0, return_inverse=True)
    return matches - _count(codes[: len(gallery)], codes[len(gallery) :])


def _count(values: Tensor, wanted: Tensor) -> Tensor:
    ordered = values.sort().values
    return torch.searchsorted(ordered, wanted, right=True) - torch.searchsorted(ordered, wanted)

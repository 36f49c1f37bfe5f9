"""Where the relevant gallery items of each query rank, by counting: no list is sorted as a whole, none is kept.

An item's place is the number of items with a greater score, counted block by block of the gallery. Items with the same
score share their places: what is read from ranks is the mean over all orders of equal items (McSherry & Najork,
Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008), so that no
measure depends on the order of the gallery.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_graceful.functional.retrieval.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of the relevant items of ``B`` queries, ``P`` places each, filled from the right.

    Attributes:
        rows: Positions of the queries, shape ``(B,)``.
        matches: How many relevant items a query has, int64, shape ``(B,)``.
        real: Which places are filled, bool, shape ``(B, P)``; the last one holds the nearest relevant item.
        above: Gallery items with a greater score, int64, shape ``(B, P)``.
        tied: Gallery items with the same score, at least 1, likewise.
        relevant_above: Relevant items with a greater score, likewise.
        relevant_tied: Relevant items with the same score, at least 1, likewise.
    """

    rows: Tensor
    matches: Tensor
    real: Tensor
    above: Tensor
    tied: Tensor
    relevant_above: Tensor
    relevant_tied: Tensor


def rank_relevant(pairs: Pairs, query_labels: Tensor, gallery_labels: Tensor) -> Iterator[Ranks]:
    """Rank the items that have the label of the query.

    Args:
        pairs: Queries and gallery.
        query_labels: Int64, shape ``(Q,)``.
        gallery_labels: Int64, shape ``(G,)``.

    Yields:
        Ranks of a batch of queries; every query is in one.
    """
    ordered, items = gallery_labels.sort(stable=True)
    order = query_labels.argsort(stable=True)
    first, last = (torch.searchsorted(ordered, query_labels[order], right=right) for right in (False, True))
    # Ranks take about 100 bytes a relevant item, so that queries with many come in smaller batches.
    most = int((last - first).max()) if len(order) else 0
    size = max(min(pairs.block_shape[0], pairs.memory // (100 * max(most, 1))), 1)
    for rows, begin, end in zip(*(torch.split(x, size) for x in (order, first, last)), strict=True):
        if len(rows):
            yield _rank(pairs, rows, _relevant_scores(pairs, rows, begin, end, items))


def _relevant_scores(pairs: Pairs, rows: Tensor, begin: Tensor, end: Tensor, items: Tensor) -> Tensor:
    # Queries come ordered by label, so that those with the same relevant items are next to each other.
    width = max(int((end - begin).max()), 1)
    scores = pairs.query.new_full((len(rows), width), -torch.inf, dtype=torch.float64)
    spans, runs = torch.unique_consecutive(torch.stack([begin, end]), dim=1, return_counts=True)
    start = 0
    for (left, right), count in zip(spans.T.tolist(), runs.tolist(), strict=True):
        here, there = rows[start : start + count], items[left:right]
        found = pairs.score(pairs.query[here], pairs.gallery[there])
        if pairs.query_ids is not None and pairs.gallery_ids is not None:
            found[pairs.query_ids[here][:, None] == pairs.gallery_ids[there]] = -torch.inf
        scores[start : start + count, : right - left] = found
        start += count
    return scores


def _rank(pairs: Pairs, rows: Tensor, scores: Tensor) -> Ranks:
    scores = ascending(scores)
    real = scores > -torch.inf
    relevant_above, relevant_tied = _count(scores, scores)
    above, tied = torch.zeros_like(relevant_above), torch.zeros_like(relevant_above)
    if bool(real.any()):
        for _, block in pairs.blocks(rows):
            more, equal = _count(ascending(block), scores)
            above += more
            tied += equal
    return Ranks(rows, real.sum(1), real, above, tied, relevant_above, relevant_tied)


def _count(ordered: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    # How many of a row are greater than each score, and how many equal.
    upper = torch.searchsorted(ordered, scores, right=True)
    return ordered.shape[1] - upper, upper - torch.searchsorted(ordered, scores)


def ascending(scores: Tensor) -> Tensor:
    """Sort each row, in place where possible.

    Args:
        scores: Shape ``(B, C)``, contiguous.

    Returns:
        The same scores, ascending.
    """
    if scores.device.type != "cpu" or not scores.numel():
        return scores.sort(1).values
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy sorts four times as fast as torch, on one thread
        for _ in pool.map(lambda part: part.numpy().sort(1), scores.chunk(torch.get_num_threads())):
            pass
    return scores

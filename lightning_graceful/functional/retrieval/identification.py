"""Open-set identification: who is this, if anyone in the gallery? TNIR@FPIR."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_graceful.functional.retrieval.arguments import check_rates, integers
from lightning_graceful.functional.retrieval.pairs import PairOptions, Pairs, pair_up
from lightning_graceful.functional.retrieval.verification import allowed


class Identification(NamedTuple):
    """Identification rates at given false positive identification rates.

    Attributes:
        tnir: Share of the queries with a match that are identified, float64, shape ``(F,)``; NaN without such queries.
        threshold: A query is answered if its best score is above it; cosine, or minus the distance; ``(F,)``.
        mated: Queries with a relevant item in the gallery, int64.
        non_mated: Queries without one, int64.
    """

    tnir: Tensor
    threshold: Tensor
    mated: Tensor
    non_mated: Tensor


def identification_rates(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    fpir: Sequence[float] = (1e-2, 1e-1),
    **options: Unpack[PairOptions],
) -> Identification:
    """Compute how many queries are identified where at most ``fpir`` of those without a match are answered.

    A query is answered if its best score is above the threshold, and identified if moreover the best item has its
    label (of equal best items: the share that has). The threshold is the ``floor(fpir * non_mated) + 1``-th largest
    best score of the queries without a match. The share identified is called TNIR by BCT's authors (Shen et al., CVPR
    2020) and TPIR, ``1 - FNIR``, by NIST.

    Args:
        query: Floating embeddings of one model, shape ``(Q, d)``.
        gallery: Floating embeddings of the same or another model, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``; those that no other gallery item has make a query without a match.
        gallery_labels: Integer, shape ``(G,)``.
        fpir: False positive identification rates, in [0, 1]. One below ``1 / non_mated`` means: no false positive.
        **options: ``query_ids, gallery_ids, distance, dimensions, memory`` of
            :func:`lightning_graceful.functional.retrieval.pairs.pair_up`; items with the id of the query are left out.

    Returns:
        Rates and thresholds in the order of ``fpir``; the threshold is ``-inf`` where the rate allows all answers, as
        it does if all queries have a match.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> query, gallery = torch.eye(3), torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
        >>> found = identification_rates(query, gallery, torch.tensor([0, 1, 2]), torch.tensor([0, 1]), fpir=[0.0])
        >>> found.tnir.item(), round(found.threshold.item(), 3), found.non_mated.item()
        (1.0, 0.447, 1)
    """
    check_rates("fpir", fpir)
    pairs = pair_up(query, gallery, **options)
    query_labels = integers("query_labels", query_labels, pairs.query)
    best, share, mated = _best(pairs, query_labels, integers("gallery_labels", gallery_labels, pairs.gallery))
    wrong = best[~mated].sort(descending=True).values
    lowest = best.new_tensor([-torch.inf])
    cut = torch.cat([wrong, lowest])[[allowed(rate, len(wrong)) for rate in fpir]]
    tnir = [share[mated & (best > threshold)].sum() / mated.sum() for threshold in cut]
    return Identification(torch.stack(tnir), pairs.unscaled(cut), mated.sum(), (~mated).sum())


def _best(pairs: Pairs, query_labels: Tensor, gallery_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Of each query: the best score, the share of its label among the items that have it, and whether any item has its
    # label.
    best = pairs.query.new_full((len(pairs.query),), -torch.inf, dtype=torch.float64)
    share, mated = torch.zeros_like(best), torch.zeros_like(best, dtype=torch.bool)
    for rows in pairs.batches():
        top, hits, ties = best[rows], best.new_zeros(len(rows)), best.new_zeros(len(rows))
        for start, scores in pairs.blocks(rows):
            right = (query_labels[rows, None] == gallery_labels[start : start + scores.shape[1]]) & scores.isfinite()
            mated[rows] |= right.any(1)
            higher = top.maximum(scores.amax(1))
            tied, kept = scores == higher[:, None], top == higher
            hits, ties = hits * kept + (tied & right).sum(1), ties * kept + tied.sum(1)
            top = higher
        best[rows], share[rows] = top, hits / ties.clamp(min=1)
    return best, share, mated

"""Measures of search: recall@k, precision@k, R-precision, mAP, mAP@R and CMC, for each query and on average."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_graceful.functional.retrieval.arguments import check_lengths, integers
from lightning_graceful.functional.retrieval.pairs import PairOptions, pair_up
from lightning_graceful.functional.retrieval.ranks import Ranks, rank_relevant

RetrievalAverage = Literal["micro", "macro", "none"]


def retrieval_per_query(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    k: Sequence[int] = (1, 5, 10),
    cmc: int | None = None,
    **options: Unpack[PairOptions],
) -> dict[str, Tensor]:
    """Measure the search of each query: how early the gallery items of its label come.

    Everything is exact and counted over the whole gallery; negative scores count like others. Where items have the same
    score, a measure is its mean over all their orders, so it does not depend on the order of the gallery.

    Args:
        query: Floating embeddings of one model, shape ``(Q, d)``.
        gallery: Floating embeddings of the same or another model, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        k: Lengths of lists, each at least 1.
        cmc: Length of the cumulative match curve; None: no curve.
        **options: ``query_ids, gallery_ids, distance, dimensions, memory`` of
            :func:`lightning_graceful.functional.retrieval.pairs.pair_up`; items with the id of the query are left out.

    Returns:
        Values by name, float64, shape ``(Q,)``, NaN where no other item has the label of the query:
        ``recall_at_<k>`` (whether a relevant item is among the first k, as in metric learning), ``precision_at_<k>``
        (relevant share of k), ``r_precision`` (precision at R, the number of relevant items), ``map`` (mean over the
        relevant items of the precision at their rank), ``map_at_r`` (the same, items beyond rank R counting 0; Musgrave
        et al., ECCV 2020); and ``cmc``, shape ``(Q, cmc)``, recall at each length.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> found = retrieval_per_query(query, gallery, torch.tensor([7]), torch.tensor([3, 7, 7]), k=[1, 2])
        >>> {name: round(value.item(), 3) for name, value in found.items() if not name.startswith("precision")}
        {'recall_at_1': 0.0, 'recall_at_2': 1.0, 'r_precision': 0.5, 'map': 0.583, 'map_at_r': 0.25}
    """
    check_lengths(k, cmc)
    pairs = pair_up(query, gallery, **options)
    query_labels = integers("query_labels", query_labels, pairs.query)
    gallery_labels = integers("gallery_labels", gallery_labels, pairs.gallery)
    empty = {name: pairs.query.new_full((len(query),), torch.nan, dtype=torch.float64) for name in _names(k)}
    if cmc is not None:
        empty["cmc"] = pairs.query.new_full((len(query), cmc), torch.nan, dtype=torch.float64)
    for ranks in rank_relevant(pairs, query_labels, gallery_labels):
        found = ranks.matches > 0
        for name, values in _measure(ranks, k, cmc).items():
            empty[name][ranks.rows[found]] = values[found]
    return empty


def retrieval_metrics(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    k: Sequence[int] = (1, 5, 10),
    cmc: int | None = None,
    average: RetrievalAverage = "micro",
    **options: Unpack[PairOptions],
) -> dict[str, Tensor]:
    """Average :func:`retrieval_per_query`.

    Args:
        query: Floating embeddings of one model, shape ``(Q, d)``.
        gallery: Floating embeddings of the same or another model, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        k: Lengths of lists, each at least 1.
        cmc: Length of the cumulative match curve; None: no curve.
        average: ``"micro"``: mean over queries. ``"macro"``: mean over the classes of the mean over their queries.
            ``"none"``: one value a class, in the order of ``classes``.
        **options: As in :func:`retrieval_per_query`.

    Returns:
        Means over queries with a relevant item, float64, by the names of :func:`retrieval_per_query`: scalars, or
        shape ``(C,)`` for ``"none"`` (``cmc``: one dimension more); NaN over none. Also ``queries`` (how many were
        averaged) and ``queries_without_match`` (left out since no other item has their label), int64; and ``classes``
        for ``"none"``: the labels of the queries, ascending.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> query, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> metrics = retrieval_metrics(query, query[:1], labels, labels[:1], k=[1])
        >>> metrics["map"].item(), metrics["queries_without_match"].item()
        (1.0, 1)
    """
    values = retrieval_per_query(query, gallery, query_labels, gallery_labels, k=k, cmc=cmc, **options)
    return average_queries(values, query_labels, average=average)


def average_queries(
    values: dict[str, Tensor], labels: Tensor, *, average: RetrievalAverage = "micro"
) -> dict[str, Tensor]:
    """Average measures of queries; those of NaN are left out and counted.

    Args:
        values: What :func:`retrieval_per_query` returned.
        labels: Labels of the queries, integer, shape ``(Q,)``.
        average: As in :func:`retrieval_metrics`.

    Returns:
        As :func:`retrieval_metrics`.

    Raises:
        ValueError: If ``average`` is none of the three.

    Example:
        >>> average_queries({"map": torch.tensor([0.5, torch.nan])}, torch.tensor([0, 0]))["map"]
        tensor(0.5000)
    """
    if average not in {"micro", "macro", "none"}:
        raise ValueError(f"Expected average to be 'micro', 'macro' or 'none', got {average!r}.")
    found = ~values["map"].isnan()
    if average == "micro":
        means = {name: value[found].mean(0) for name, value in values.items()}
        return means | {"queries": found.sum(), "queries_without_match": (~found).sum()}
    classes, place = torch.unique(labels.to(found.device), return_inverse=True)
    counts = _by_class(found.long(), place, len(classes))
    means = {name: _class_means(value, found, place, counts) for name, value in values.items()}
    if average == "macro":
        means = {name: value[counts > 0].mean(0) for name, value in means.items()}
        return means | {"queries": found.sum(), "queries_without_match": (~found).sum()}
    without = _by_class((~found).long(), place, len(classes))
    return means | {"queries": counts, "queries_without_match": without, "classes": classes}


def _class_means(value: Tensor, found: Tensor, place: Tensor, counts: Tensor) -> Tensor:
    sums = _by_class(value[found], place[found], len(counts))
    return sums / counts.view(-1, *[1] * (value.ndim - 1))


def _by_class(value: Tensor, place: Tensor, classes: int) -> Tensor:
    return value.new_zeros(classes, *value.shape[1:]).index_add_(0, place, value)


def _names(k: Sequence[int]) -> list[str]:
    return [f"{name}_at_{length}" for length in k for name in ("recall", "precision")] + [
        "r_precision",
        "map",
        "map_at_r",
    ]


def _measure(ranks: Ranks, k: Sequence[int], cmc: int | None) -> dict[str, Tensor]:
    matches = ranks.matches.double()
    values: dict[str, Tensor] = {}
    for length in k:
        values[f"recall_at_{length}"] = _hit(ranks, torch.tensor([length], device=matches.device))[:, 0]
        values[f"precision_at_{length}"] = _share_within(ranks, torch.full_like(ranks.matches, length)) / length
    values["r_precision"] = _share_within(ranks, ranks.matches) / matches
    values["map"] = _precisions(ranks, torch.full_like(ranks.above[:, -1:], 2**62)) / matches
    values["map_at_r"] = _precisions(ranks, ranks.matches[:, None]) / matches
    if cmc is not None:
        values["cmc"] = _hit(ranks, torch.arange(1, cmc + 1, device=matches.device))
    return values


def _share_within(ranks: Ranks, length: Tensor) -> Tensor:
    # How many relevant items are within the first ``length``: of tied ones, the share of their places.
    within = (length[:, None] - ranks.above).clamp(min=0).minimum(ranks.tied)
    return (within.double() / ranks.tied).where(ranks.real, 0.0).sum(1)


def _precisions(ranks: Ranks, length: Tensor) -> Tensor:
    # Sum over the relevant items of the precision at their rank, if within ``length``. A tied item takes each place i
    # of the n tied with chance 1 / n; then above + i items have come, and of the relevant ones those above, itself, and
    # (i - 1) (r - 1) / (n - 1) of the other tied ones.
    above, tied = ranks.above.double(), ranks.tied.double()
    places = (length - ranks.above).clamp(min=0).minimum(ranks.tied).double()
    others = (ranks.relevant_tied - 1) / (tied - 1).clamp(min=1)
    inverse = torch.digamma(above + places + 1) - torch.digamma(above + 1)  # sum of 1 / (above + i) over the places
    inverse = torch.where(places == 1, 1 / (above + 1), inverse)
    gained = (ranks.relevant_above + 1) * inverse + others * (places - (above + 1) * inverse)
    return (gained / tied).where(ranks.real, 0.0).sum(1)


def _hit(ranks: Ranks, lengths: Tensor) -> Tensor:
    # Chance that one of the nearest relevant items (r of n tied ones) is among the first places of these.
    above, tied, relevant = (x[:, -1:] for x in (ranks.above, ranks.tied, ranks.relevant_tied))
    places = (lengths - above).clamp(min=0).minimum(tied)
    others = tied - relevant
    chosen = places.minimum(others)
    miss = _log_choices(others, chosen) - _log_choices(tied, chosen)
    return torch.where(places > others, 1.0, 1 - miss.exp())


def _log_choices(items: Tensor, chosen: Tensor) -> Tensor:
    items, chosen = items.double(), chosen.double()  # an integer plus 1.0 would be float32
    return torch.lgamma(items + 1) - torch.lgamma(chosen + 1) - torch.lgamma(items - chosen + 1)

"""Searches across model versions: all pairs of versions, and a gallery replaced bit by bit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_graceful.functional.compatibility import average_compatibility
from lightning_graceful.functional.retrieval.measures import retrieval_metrics
from lightning_graceful.functional.retrieval.refresh import refresh_parts
from lightning_graceful.functional.retrieval.rows import Dimensions, common_width, fit_width


class CompatibilityMatrix(NamedTuple):
    """A measure of search for every pair of versions.

    Attributes:
        versions: Names, in the order given: oldest first.
        values: Measure ``[i, j]`` of queries of version i in the gallery of version j, float64, shape ``(V, V)``.
        average_compatibility: AC of these, :func:`lightning_graceful.functional.average_compatibility`.
    """

    versions: tuple[str, ...]
    values: Tensor
    average_compatibility: Tensor


class BackfillCurve(NamedTuple):
    """A measure of search while a gallery is replaced.

    Attributes:
        share: Share of the gallery that is new, float64, shape ``(parts + 1,)``, from 0 to 1.
        values: The measure at each, float64, likewise.
        area: Area under the curve, trapezoids, float64: the mean of the measure over the refresh.
    """

    share: Tensor
    values: Tensor
    area: Tensor


def compatibility_matrix(
    queries: Mapping[str, Tensor],
    galleries: Mapping[str, Tensor],
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    measure: str = "map",
    **options: Any,
) -> CompatibilityMatrix:
    """Search the gallery of each version with the queries of each.

    Args:
        queries: Embeddings of the same queries by version, oldest first, shape ``(Q, d)`` each.
        galleries: Embeddings of the same gallery by the same versions, shape ``(G, d)`` each.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        measure: Name of what :func:`retrieval_metrics` returns, such as ``"map"`` or ``"recall_at_1"``.
        **options: Keyword arguments of :func:`retrieval_metrics`; ``dimensions="shared"`` or ``"padded"`` where widths
            differ.

    Returns:
        Matrix and AC.

    Raises:
        ValueError: If the versions differ, there is no such measure, or an argument is not as said.

    Example:
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> matrix = compatibility_matrix({"v1": x, "v2": x.flip(0)}, {"v1": x, "v2": x.flip(0)}, labels, labels)
        >>> matrix.values, matrix.average_compatibility.item()
        (tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]], dtype=torch.float64), 0.0)
    """
    versions = tuple(queries)
    if not versions or versions != tuple(galleries):
        raise ValueError(
            f"Expected queries and galleries of the same versions in one order, got {list(queries)} and "
            f"{list(galleries)}."
        )
    values = torch.stack([
        torch.stack([
            _measure(query, gallery, query_labels, gallery_labels, measure, options) for gallery in galleries.values()
        ])
        for query in queries.values()
    ])
    return CompatibilityMatrix(versions, values, average_compatibility(values))


def backfill_curve(
    query: Tensor,
    old_gallery: Tensor,
    new_gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    order: Tensor,
    parts: int = 10,
    measure: str = "map",
    **options: Any,
) -> BackfillCurve:
    """Measure the search while the gallery is replaced, part after part.

    Args:
        query: Embeddings of the new model, shape ``(Q, d)``.
        old_gallery: Gallery as the old model embeds it, shape ``(G, d_old)``.
        new_gallery: The same items as the new model embeds them, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        order: Gallery positions in the order of replacement, each once, integer, shape ``(G,)``.
        parts: In how many steps of nearly equal size.
        measure: Name of what :func:`retrieval_metrics` returns.
        **options: Keyword arguments of :func:`retrieval_metrics`. With ``dimensions="shared"`` (or a number) both
            galleries are cut to it first, with ``"padded"`` the narrower is filled up with zeros.

    Returns:
        The measure before, after each part, and its area.

    Raises:
        ValueError: If the galleries differ in rows, or in width without ``dimensions``, the order is no permutation, or
            an argument is not as said.

    Example:
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> curve = backfill_curve(x, x.flip(0), x, labels, labels, order=torch.tensor([0, 1]), parts=2)
        >>> curve.share.tolist(), curve.values, round(curve.area.item(), 3)
        ([0.0, 0.5, 1.0], tensor([0.5000, 0.7500, 1.0000], dtype=torch.float64), 0.75)
    """
    steps, share = refresh_parts(old_gallery, new_gallery, gallery_labels, order, parts)
    gallery, replacement = _mixable(old_gallery, new_gallery, options.get("dimensions"))
    values = []
    for step in steps:
        gallery[step] = replacement[step]
        values.append(_measure(query, gallery, query_labels, gallery_labels, measure, options))
    curve = torch.stack(values)
    return BackfillCurve(share.to(query.device), curve, torch.trapezoid(curve, share.to(curve.device)))


def _mixable(old: Tensor, new: Tensor, dimensions: Dimensions) -> tuple[Tensor, Tensor]:
    # Copies of one width, so that rows of one can replace those of the other.
    width = common_width({"old": old.shape[-1], "new": new.shape[-1]}, dimensions)
    return fit_width(old.detach(), width).float(), fit_width(new.detach(), width).float()


def _measure(
    query: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor, measure: str, options: dict[str, Any]
) -> Tensor:
    metrics = retrieval_metrics(query, gallery, query_labels, gallery_labels, **options)
    if measure not in metrics or metrics[measure].ndim:
        scalars = [name for name, value in metrics.items() if not value.ndim]
        raise ValueError(f"Expected measure to be one number of {scalars}, got {measure!r}. Pass k= for other lengths.")
    return metrics[measure].double()

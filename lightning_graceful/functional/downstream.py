"""What was fitted on old embeddings and goes on working, or not, on new ones: a classifier head, a threshold."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from lightning_graceful.functional.flips import FlipOptions, flip_rates
from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.pairs import PairOptions, pair_up
from lightning_graceful.functional.retrieval.verification import verification_rates


class ThresholdRates(NamedTuple):
    """Accept rates at given thresholds.

    Attributes:
        far: Share of the pairs of two labels that are accepted, float64, shape ``(F,)``; NaN without such pairs.
        tar: Share of the pairs of one label that are accepted, likewise.
        positives: Pairs of one label, int64.
        negatives: Pairs of two labels, int64.
    """

    far: Tensor
    tar: Tensor
    positives: Tensor
    negatives: Tensor


class ThresholdDrift(NamedTuple):
    """What an old threshold lets through after an update.

    Attributes:
        asked: False accept rates that the thresholds were chosen for, float64, shape ``(F,)``.
        threshold: The thresholds, from old pairs, float64, shape ``(F,)``.
        old: Rates of old queries in the old gallery: ``far`` is at most ``asked``.
        cross: Rates of new queries in the old gallery.
        new: Rates of new queries in the new gallery.
    """

    asked: Tensor
    threshold: Tensor
    old: ThresholdRates
    cross: ThresholdRates
    new: ThresholdRates


def old_head_rates(
    classifier: Callable[[Tensor], Tensor],
    old_embedding: Tensor,
    new_embedding: Tensor,
    target: Tensor,
    *,
    batch_size: int = 4096,
    **options: Unpack[FlipOptions],
) -> dict[str, Tensor]:
    """Compare what the old classifier head says of old and of new embeddings.

    Args:
        classifier: The old head: embeddings ``(N, d)`` to scores ``(N, C)``; a module is called in eval mode and left
            as it was.
        old_embedding: Floating, shape ``(N, d)``.
        new_embedding: The same items, of the new model, in the old head's width (map or cut them first), likewise.
        target: True labels, integer, shape ``(N,)``.
        batch_size: Rows that the head gets at a time.
        **options: Keyword arguments of :func:`lightning_graceful.functional.flip_rates`.

    Returns:
        The rates of :func:`lightning_graceful.functional.flip_rates`: among them ``error_old``, ``error_new`` (of the
        old head on new embeddings) and ``nfr``, float64.

    Raises:
        ValueError: If embeddings are not finite, of different shapes, or an argument is not as said.

    Example:
        >>> old, new = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.9, 0.1], [0.8, 0.2]])
        >>> rates = old_head_rates(nn.Identity(), old, new, torch.tensor([0, 1]))
        >>> rates["error_new"].item(), rates["nfr"].item()
        (0.5, 0.5)
    """
    if old_embedding.shape != new_embedding.shape or batch_size < 1:
        raise ValueError(
            f"Expected old and new embeddings of one shape and batch_size of at least 1, got "
            f"{tuple(old_embedding.shape)}, {tuple(new_embedding.shape)} and {batch_size}. Map or cut the new ones to "
            "the width of the old head."
        )
    for name, x in (("old", old_embedding), ("new", new_embedding)):
        if not bool(x.isfinite().all()):
            raise ValueError(f"Expected finite {name} embeddings, got NaN or Inf. Look at that model's outputs.")
    with _evaluating(classifier), torch.no_grad():
        old, new = (
            torch.cat([classifier(part) for part in torch.split(x, batch_size)]) for x in (old_embedding, new_embedding)
        )
    return flip_rates(old, new, target, **options)


def threshold_rates(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    threshold: float | Sequence[float] | Tensor,
    **options: Unpack[PairOptions],
) -> ThresholdRates:
    """Count which pairs a threshold accepts, over all pairs and without rounding.

    Args:
        query: Floating embeddings, shape ``(Q, d)``.
        gallery: Floating embeddings, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        threshold: Pairs with a score above it are accepted: cosine, or minus the Euclidean distance; one or several, as
            :func:`lightning_graceful.functional.verification_rates` gives them. ``-inf`` accepts all pairs.
        **options: ``query_ids, gallery_ids, distance, dimensions, memory`` of
            :func:`lightning_graceful.functional.retrieval.pairs.pair_up`; pairs with one id are left out.

    Returns:
        Rates in the order of the thresholds.

    Raises:
        ValueError: If a threshold is NaN, or an argument is not as said.

    Example:
        >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> rates = threshold_rates(query, gallery, torch.tensor([7]), torch.tensor([7, 3, 7]), [0.5, 0.99])
        >>> rates.far.tolist(), rates.tar.tolist()
        ([1.0, 0.0], [0.5, 0.5])
    """
    pairs = pair_up(query, gallery, **options)
    labels = (
        integers("query_labels", query_labels, pairs.query),
        integers("gallery_labels", gallery_labels, pairs.gallery),
    )
    wanted = torch.as_tensor(threshold, dtype=torch.float64, device=pairs.query.device).reshape(-1)
    if bool(wanted.isnan().any()) or not len(wanted):
        raise ValueError(f"Expected one or more thresholds that are numbers, got {wanted.tolist()}.")
    # [negative or positive, threshold], and in the last column all of them.
    counts = torch.zeros(2, len(wanted) + 1, dtype=torch.int64, device=pairs.query.device)
    for rows in pairs.batches():
        for start, scores in pairs.blocks(rows):
            positive = labels[0][rows, None] == labels[1][start : start + scores.shape[1]]
            seen, scores = scores > -torch.inf, pairs.unscaled(scores)
            for kind, chosen in enumerate((seen & ~positive, seen & positive)):
                some = scores[chosen]
                counts[kind] += torch.stack([*((some > least).sum() for least in wanted), chosen.sum()])
    rates = counts[:, :-1] / counts[:, -1:].double()
    return ThresholdRates(rates[0], rates[1], counts[1, -1], counts[0, -1])


def threshold_drift(
    old_query: Tensor,
    old_gallery: Tensor,
    new_query: Tensor,
    new_gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    far: Sequence[float] = (1e-4, 1e-3, 1e-2),
    **options: Unpack[PairOptions],
) -> ThresholdDrift:
    """Choose thresholds on old pairs, and see what they accept of new ones: the rate that was promised may not hold.

    Args:
        old_query: Floating embeddings, shape ``(Q, d)``.
        old_gallery: Shape ``(G, d)``.
        new_query: The same queries as the new model embeds them, shape ``(Q, d)``.
        new_gallery: The same gallery as the new model embeds it, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        far: False accept rates that the thresholds are chosen for, in [0, 1].
        **options: As in :func:`threshold_rates`; ``dimensions="shared"`` or ``"padded"`` where widths differ.

    Returns:
        Thresholds and rates, old queries in the old gallery, new in old, new in new.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> x, labels = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1])
        >>> drift = threshold_drift(x, x, x.abs().sqrt(), x, labels, labels, far=[0.0])
        >>> drift.old.far.item(), drift.cross.far.item()
        (0.0, 0.5)
    """
    labels = query_labels, gallery_labels
    threshold = verification_rates(old_query, old_gallery, *labels, far=far, **options).threshold
    return ThresholdDrift(
        torch.tensor(far, dtype=torch.float64, device=threshold.device),
        threshold,
        threshold_rates(old_query, old_gallery, *labels, threshold, **options),
        threshold_rates(new_query, old_gallery, *labels, threshold, **options),
        threshold_rates(new_query, new_gallery, *labels, threshold, **options),
    )


@contextmanager
def _evaluating(classifier: Callable[[Tensor], Tensor]) -> Iterator[None]:
    modules = list(classifier.modules()) if isinstance(classifier, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode

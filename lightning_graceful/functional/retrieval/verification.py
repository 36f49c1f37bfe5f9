"""Verification: are two embeddings of one label? TAR@FAR over all pairs, exact, in bounded memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_graceful.functional.retrieval.arguments import check_rates, integers
from lightning_graceful.functional.retrieval.pairs import PairOptions, Pairs, pair_up

# Scores are multiples of 2^-48 from -4 to 1 and a little beyond: whole numbers of 51 bits, found 17 bits at a time.
_LOWEST, _STEPS, _BITS = -5.0, 2.0**48, 17


class Verification(NamedTuple):
    """True accept rates at given false accept rates.

    Attributes:
        tar: Share of the pairs of one label that are accepted, float64, shape ``(F,)``; NaN without such pairs.
        threshold: Pairs with a score above it are accepted; cosine, or minus the distance; float64, shape ``(F,)``.
        positives: Pairs of one label, int64.
        negatives: Pairs of two labels, int64.
    """

    tar: Tensor
    threshold: Tensor
    positives: Tensor
    negatives: Tensor


def verification_rates(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    far: Sequence[float] = (1e-4, 1e-3, 1e-2),
    **options: Unpack[PairOptions],
) -> Verification:
    """Compute the largest true accept rate whose false accept rate is at most ``far``, over all pairs.

    The threshold is the ``floor(far * negatives) + 1``-th largest score of a negative pair. It is found exactly: scores
    are whole numbers of 51 bits; the pairs are scored three times, each time counting 17 bits more of them in a
    histogram of 4 MB. Nothing is sampled or interpolated.

    Args:
        query: Floating embeddings of one model, shape ``(Q, d)``.
        gallery: Floating embeddings of the same or another model, shape ``(G, d)``.
        query_labels: Integer, shape ``(Q,)``.
        gallery_labels: Integer, shape ``(G,)``.
        far: False accept rates, in [0, 1]. One below ``1 / negatives`` means: no false accept.
        **options: ``query_ids, gallery_ids, distance, dimensions, memory`` of
            :func:`lightning_graceful.functional.retrieval.pairs.pair_up`; pairs with one id are left out.

    Returns:
        Rates and thresholds in the order of ``far``. All pairs are accepted (threshold ``-inf``) where the rate allows
        it, as it does without negative pairs.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> verification_rates(query, gallery, torch.tensor([7]), torch.tensor([7, 3, 7]), far=[0.0, 1.0]).tar
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    check_rates("far", far)
    pairs = pair_up(query, gallery, **options)
    labels = (
        integers("query_labels", query_labels, pairs.query),
        integers("gallery_labels", gallery_labels, pairs.gallery),
    )
    first = _histograms(pairs, labels, [0], 2 * _BITS)[0].cpu()
    total = first.sum(1)
    found = [_threshold_bin(first, torch.zeros_like(total), allowed(rate, int(total[0]))) for rate in far]
    keys, accepted = zip(*_refine(pairs, labels, found, [allowed(rate, int(total[0])) for rate in far]), strict=True)
    threshold = torch.tensor([-torch.inf if key < 0 else key / _STEPS + _LOWEST for key in keys], dtype=torch.float64)
    tar = torch.tensor(accepted, dtype=torch.float64) / total[1]
    device = pairs.query.device
    return Verification(tar.to(device), pairs.unscaled(threshold).to(device), total[1].to(device), total[0].to(device))


def allowed(rate: float, total: int) -> int:
    """Count how many of ``total`` a rate allows: 0.1 of 10 are 1, though 0.1 is not a binary fraction.

    Args:
        rate: In [0, 1].
        total: How many there are.

    Returns:
        ``floor(rate * total)``.

    Example:
        >>> allowed(0.29, 100), allowed(0.0001, 9999)
        (29, 0)
    """
    return min(int(rate * total * (1 + 1e-12) + 1e-12), total)


def _refine(
    pairs: Pairs, labels: tuple[Tensor, Tensor], found: list[tuple[int, Tensor]], most: list[int]
) -> list[tuple[int, int]]:
    # For each number of false accepts: the key above which pairs are accepted (-1: all are), and the true accepts.
    lows, above = [bin_ << 2 * _BITS if bin_ >= 0 else -1 for bin_, _ in found], [counts for _, counts in found]
    for shift in (_BITS, 0):
        open_ = sorted({low for low in lows if low >= 0})
        tables = dict(zip(open_, _histograms(pairs, labels, open_, shift) if open_ else [], strict=True))
        for place, low in enumerate(lows):
            if low >= 0:
                bin_, above[place] = _threshold_bin(tables[low].cpu(), above[place], most[place])
                lows[place] += bin_ << shift
    return [(low, int(counts[1])) for low, counts in zip(lows, above, strict=True)]


def _threshold_bin(table: Tensor, above: Tensor, most: int) -> tuple[int, Tensor]:
    # The highest bin that cannot be accepted as a whole (-1: none), and how many pairs, [positive], are above it.
    counts = table.flip(1).cumsum(1) + above[:, None]
    whole = int((counts[0] <= most).sum())
    return table.shape[1] - 1 - whole, counts[:, whole - 1] if whole else above


def _histograms(pairs: Pairs, labels: tuple[Tensor, Tensor], lows: list[int], shift: int) -> list[Tensor]:
    # Counts of pairs, [positive, bin], of the 2^17 bins of 2^shift keys from each of ``lows``.
    tables = [torch.zeros(2 << _BITS, dtype=torch.int64, device=pairs.query.device) for _ in lows]
    for rows in pairs.batches():
        for start, scores in pairs.blocks(rows):
            positive = labels[0][rows, None] == labels[1][start : start + scores.shape[1]]
            seen = scores > -torch.inf
            keys = scores.sub_(_LOWEST).mul_(_STEPS)[seen].long()
            for table, low in zip(tables, lows, strict=True):
                table += _histogram(keys, positive[seen], low, shift)
    return [table.view(2, -1) for table in tables]


def _histogram(keys: Tensor, positive: Tensor, low: int, shift: int) -> Tensor:
    bins = (keys - low) >> shift
    inside = (bins >= 0) & (bins < 1 << _BITS)
    if not bool(inside.all()):
        bins, positive = bins[inside], positive[inside]
    return torch.bincount(bins + (positive.long() << _BITS), minlength=2 << _BITS)

"""Flips between an old and a new classifier, and the rates read from them.

A *negative flip* is a decision that the old model got right and the new one gets wrong, a *positive flip* the reverse.
All rates are read from one table of counts, ``[old_right, new_right, changed]``:

- flip rates and the relative one: Yan et al., Positive-Congruent Training, CVPR 2021 (eq. 2 and 11);
- flip impacts: Xie et al., Regression Bugs Are In Your Model, ACL 2021;
- backward compatibility: Bansal et al., AAAI 2019; Srivastava et al., KDD 2020;
- churn: Milani Fard et al., Launch and Iterate, NeurIPS 2016.

A rate that is 0/0 is NaN, never 0 ("perfect") or 1. Rates are float64, so that a budget of 5/100 is met by 5 in 100.
"""

from typing import TypedDict

from torch import Tensor
from typing_extensions import Unpack

from lightning_graceful.functional.decisions import Average, Settings, count, decide


class FlipOptions(TypedDict, total=False):
    """Keyword arguments that all rates share; :func:`flip_rates` describes them."""

    weights: Tensor | None
    average: Average | None
    num_classes: int | None
    threshold: float
    num_labels: int | None
    ignore_index: int | None


def flip_table(
    old: Tensor,
    new: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.5,
    num_labels: int | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Count decisions by whether the old and the new model are right.

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels, integer, shape ``(N,)`` or ``(N, ...)``; ``N`` may be 0.
        threshold: Binary and multilabel scores above it say 1.
        num_labels: Width ``L`` of a multilabel target ``(N, L)``; a sample is right if all of its labels are.
        ignore_index: Entries with this target are left out.

    Returns:
        Counts ``table[old_right, new_right]``, int64, shape ``(2, 2)``; ``table[1, 0]`` are the negative flips.

    Raises:
        ValueError: If shapes or values are not as said.

    Example:
        >>> from torch import tensor
        >>> flip_table(tensor([0, 1, 2]), tensor([0, 2, 2]), tensor([0, 1, 1])).tolist()
        [[1, 0], [1, 1]]
    """
    settings = Settings(threshold=threshold, num_labels=num_labels, ignore_index=ignore_index)
    return count(decide(old, new, target, settings))[0].sum(-1)


def flip_rates(
    old: Tensor,
    new: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    average: Average | None = None,
    num_classes: int | None = None,
    threshold: float = 0.5,
    num_labels: int | None = None,
    ignore_index: int | None = None,
    costs: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute all rates from one count.

    Args:
        old: What the old model says. Integer: labels of the target's shape. Floating: scores ``(N, C)`` or
            ``(N, C, ...)`` (the largest decides; ``-inf`` marks a class that the model never knew), or binary scores of
            the target's shape. The two models may be given in different kinds.
        new: What the new model says, likewise.
        target: True labels, integer, shape ``(N,)`` or ``(N, ...)``; multilabel 0/1, shape ``(N, L)``. ``N`` may be 0.
        weights: Weight of each sample (of all of its pixels or labels), at least 0, shape ``(N,)``; added in float64.
        average: What a rate is taken over. None: one decision a sample, or a pixel (multilabel: right if all labels
            are). ``"micro"``: multilabel pools every label, else as None. ``"macro"``: mean over the target classes
            (multilabel: labels) where the rate is defined. ``"none"``: one value for each of these.
        num_classes: Number of classes; needed per class where both models give labels, else read from the scores.
        threshold: Binary and multilabel scores above it say 1. Scores are compared as they are: 0 suits logits.
        num_labels: Width ``L`` of a multilabel target; without it ``(N, L)`` is ``N * L`` separate decisions.
        ignore_index: Entries with this target are left out (multilabel exact match: such a label counts as right on
            both sides, and a sample of nothing else is left out).
        costs: Severity of a mistake, ``costs[target, predicted]``, at least 0, shape ``(C, C)``. Adds the keys
            ``nf_cost`` and ``pf_cost``: flips weighed by the new model's mistake (a negative flip) or the old one's (a
            positive flip), over the plain mass of samples. The other rates take none.

    Returns:
        ``nfr, pfr, relative_nfr, nfi, pfi, btc, bec, churn, error_old, error_new``; float64 scalars, or shape ``(C,)``
        for ``average="none"``. ``error_new - error_old == nfr - pfr``.

    Raises:
        ValueError: If shapes or values are not as said.

    Example:
        >>> from torch import tensor
        >>> old, new, target = tensor([0, 1, 2, 2]), tensor([0, 2, 2, 1]), tensor([0, 1, 1, 0])
        >>> rates = flip_rates(old, new, target)
        >>> {name: round(rate.item(), 2) for name, rate in rates.items() if name in ("nfr", "btc", "churn")}
        {'nfr': 0.25, 'btc': 0.5, 'churn': 0.5}
    """
    settings = Settings(average, num_classes, threshold, num_labels, ignore_index, costs)
    counts, cost_sums = count(decide(old, new, target, settings, weights))
    return rates_from_counts(counts, cost_sums, average=average)


def rates_from_counts(
    counts: Tensor, costs: Tensor | None = None, *, average: Average | None = None
) -> dict[str, Tensor]:
    """Read all rates from counts of decisions.

    Args:
        counts: How many decisions, or what mass of them, ``[..., old_right, new_right, changed]``; shape
            ``(..., 2, 2, 2)``.
        costs: Cost of the mistakes in these decisions, same shape; only the flips' are read.
        average: ``"macro"`` takes the mean over the first dimension where a rate is defined; else there is no mean.

    Returns:
        The rates of :func:`flip_rates`, float64, shape ``(...)``.

    Example:
        >>> from torch import tensor
        >>> counts = tensor([[[6, 0], [0, 1]], [[0, 3], [90, 0]]])
        >>> round(rates_from_counts(counts)["nfr"].item(), 2)
        0.03
    """
    counts = counts.double()
    (both_wrong, positive), (negative, both_right) = _cells(counts)
    total = counts.sum((-3, -2, -1))
    old_right, new_right = negative + both_right, positive + both_right
    old_wrong, new_wrong = positive + both_wrong, negative + both_wrong
    rates = {
        "nfr": negative / total,
        "pfr": positive / total,
        "relative_nfr": negative * total / (old_right * new_wrong),
        "nfi": negative / new_wrong,
        "pfi": positive / new_right,
        "btc": both_right / old_right,
        "bec": both_wrong / old_wrong,
        "churn": counts[..., 1].sum((-2, -1)) / total,
        "error_old": old_wrong / total,
        "error_new": new_wrong / total,
    }
    if costs is not None:
        (_, positive_cost), (negative_cost, _) = _cells(costs.double())
        rates |= {"nf_cost": negative_cost / total, "pf_cost": positive_cost / total}
    return {name: rate.nanmean(0) for name, rate in rates.items()} if average == "macro" else rates


def _cells(counts: Tensor) -> list[list[Tensor]]:
    table = counts.sum(-1)
    return [[table[..., old_right, new_right] for new_right in (0, 1)] for old_right in (0, 1)]


def negative_flip_rate(
    old: Tensor, new: Tensor, target: Tensor, *, costs: Tensor | None = None, **options: Unpack[FlipOptions]
) -> Tensor:
    """Compute the share of decisions that the update breaks: old right, new wrong.

    .. math:: NFR = NF / N

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        costs: Severity ``costs[target, predicted]`` of the new model's mistake; the rate is then the cost over ``N``.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`.

    Returns:
        Rate in [0, 1] (with costs: at least 0), float64; NaN without decisions.

    Example:
        >>> from torch import tensor
        >>> negative_flip_rate(tensor([0, 1, 2, 2]), tensor([0, 2, 2, 1]), tensor([0, 1, 1, 0])).item()
        0.25
    """
    return flip_rates(old, new, target, costs=costs, **options)["nfr" if costs is None else "nf_cost"]


def positive_flip_rate(
    old: Tensor, new: Tensor, target: Tensor, *, costs: Tensor | None = None, **options: Unpack[FlipOptions]
) -> Tensor:
    """Compute the share of decisions that the update repairs: old wrong, new right.

    .. math:: PFR = PF / N

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        costs: Severity ``costs[target, predicted]`` of the old model's mistake; the rate is then the cost over ``N``.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`.

    Returns:
        Rate in [0, 1] (with costs: at least 0), float64; NaN without decisions.

    Example:
        >>> from torch import tensor
        >>> positive_flip_rate(tensor([0, 0, 2, 2]), tensor([0, 1, 2, 1]), tensor([0, 1, 1, 0])).item()
        0.25
    """
    return flip_rates(old, new, target, costs=costs, **options)["pfr" if costs is None else "pf_cost"]


def relative_negative_flip_rate(old: Tensor, new: Tensor, target: Tensor, **options: Unpack[FlipOptions]) -> Tensor:
    r"""Compare the negative flip rate with that of two models that err independently.

    .. math:: NFR / ((1 - error_{old}) \cdot error_{new})

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`; no
            costs, since it is a ratio of counts.

    Returns:
        Ratio of at least 0 (1: as many as by chance), float64; NaN if old is never right or new never wrong.

    Example:
        >>> from torch import tensor
        >>> old, new, target = tensor([0, 1, 1, 1]), tensor([0, 1, 0, 0]), tensor([0, 1, 1, 0])
        >>> round(relative_negative_flip_rate(old, new, target).item(), 3)
        1.333
    """
    return flip_rates(old, new, target, costs=None, **options)["relative_nfr"]


def negative_flip_impact(old: Tensor, new: Tensor, target: Tensor, **options: Unpack[FlipOptions]) -> Tensor:
    """Compute the share of the new model's errors that are new.

    .. math:: NFI = NF / (new wrong)

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`; no
            costs, since it is a ratio of counts.

    Returns:
        Share in [0, 1], float64; NaN if the new model makes no error.

    Example:
        >>> from torch import tensor
        >>> negative_flip_impact(tensor([0, 1, 2, 2]), tensor([0, 2, 1, 1]), tensor([0, 1, 1, 0])).item()
        0.5
    """
    return flip_rates(old, new, target, costs=None, **options)["nfi"]


def positive_flip_impact(old: Tensor, new: Tensor, target: Tensor, **options: Unpack[FlipOptions]) -> Tensor:
    """Compute the share of the new model's right decisions that are new.

    .. math:: PFI = PF / (new right)

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`; no
            costs, since it is a ratio of counts.

    Returns:
        Share in [0, 1], float64; NaN if the new model is never right.

    Example:
        >>> from torch import tensor
        >>> positive_flip_impact(tensor([0, 1, 2, 2]), tensor([0, 2, 1, 1]), tensor([0, 1, 1, 0])).item()
        0.5
    """
    return flip_rates(old, new, target, costs=None, **options)["pfi"]


def backward_trust_compatibility(old: Tensor, new: Tensor, target: Tensor, **options: Unpack[FlipOptions]) -> Tensor:
    r"""Compute the share of the old model's right decisions that stay right.

    .. math:: BTC = (both right) / (old right) = 1 - NFR / (1 - error_{old})

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`; no
            costs, since it is a ratio of counts.

    Returns:
        Share in [0, 1], float64; NaN if the old model is never right.

    Example:
        >>> from torch import tensor
        >>> old, new, target = tensor([0, 1, 2, 2]), tensor([0, 2, 1, 1]), tensor([0, 1, 1, 0])
        >>> backward_trust_compatibility(old, new, target).item()
        0.5
    """
    return flip_rates(old, new, target, costs=None, **options)["btc"]


def backward_error_compatibility(old: Tensor, new: Tensor, target: Tensor, **options: Unpack[FlipOptions]) -> Tensor:
    """Compute the share of the old model's errors that remain.

    .. math:: BEC = (both wrong) / (old wrong)

    The other definition in print, (both wrong) / (new wrong), is 1 - NFI: see :func:`negative_flip_impact`.

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`; no
            costs, since it is a ratio of counts.

    Returns:
        Share in [0, 1], float64; NaN if the old model makes no error.

    Example:
        >>> from torch import tensor
        >>> old, new, target = tensor([0, 1, 2, 2]), tensor([0, 2, 1, 1]), tensor([0, 1, 1, 0])
        >>> backward_error_compatibility(old, new, target).item()
        0.5
    """
    return flip_rates(old, new, target, costs=None, **options)["bec"]


def churn_rate(old: Tensor, new: Tensor, target: Tensor, **options: Unpack[FlipOptions]) -> Tensor:
    """Compute the share of decisions that change at all: flips, and one wrong label for another.

    .. math:: churn = (NF + PF + wrong to another wrong) / N

    Args:
        old: Labels or scores of the old model, as in :func:`flip_rates`.
        new: Labels or scores of the new model.
        target: True labels; they only matter to leave entries out and to tell classes apart.
        **options: ``weights, average, num_classes, threshold, num_labels, ignore_index`` of :func:`flip_rates`; no
            costs, since a change between two mistakes has none.

    Returns:
        Share in [0, 1], float64; NaN without decisions.

    Example:
        >>> from torch import tensor
        >>> churn_rate(tensor([0, 1, 2, 2]), tensor([0, 2, 1, 1]), tensor([0, 1, 1, 0])).item()
        0.75
    """
    return flip_rates(old, new, target, costs=None, **options)["churn"]

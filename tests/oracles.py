"""Slow, obvious ways to compute the same things: python loops over python numbers. For tests only."""

import math
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One decision: what was said, what is true (a tuple of labels under exact match), and how much it weighs."""

    old: Any
    new: Any
    target: Any
    weight: float
    group: int


def records(old, new, target, *, weights=None, average=None, threshold=0.5, num_labels=None, ignore_index=None, **_):
    """List the decisions of a batch one by one."""
    found = []
    for sample in range(len(target)):
        weight = 1.0 if weights is None else float(weights[sample])
        places = list(_places(tuple(target.shape[1:])))
        said = [
            (_label(old, target, sample, place, threshold), _label(new, target, sample, place, threshold),
             int(target[(sample, *place)]), place)
            for place in places if int(target[(sample, *place)]) != ignore_index
        ]  # fmt: skip
        if num_labels is not None and average is None:
            if said:
                labels = [tuple(column) for column in zip(*said, strict=True)][:3]
                found.append(Record(*labels, weight, 0))
        else:
            found += [Record(o, n, t, weight, t if num_labels is None else place[0]) for o, n, t, place in said]
    return found


def _places(shape):
    if not shape:
        return [()]
    return [(first, *rest) for first in range(shape[0]) for rest in _places(shape[1:])]


def _label(prediction, target, sample, place, threshold):
    if prediction.shape == target.shape:
        value = prediction[(sample, *place)].item()
        return int(value > threshold) if prediction.is_floating_point() else value
    scores = [prediction[(sample, c, *place)].item() for c in range(prediction.shape[1])]
    return scores.index(max(scores))


def share(chosen, among):
    """Weighted share of the records that ``chosen`` picks; NaN among none."""
    total = math.fsum(record.weight for record in among)
    return math.fsum(record.weight for record in among if chosen(record)) / total if total else math.nan


def old_right(record):
    return record.old == record.target


def new_right(record):
    return record.new == record.target


def negative_flip_rate(seen):
    return share(lambda r: old_right(r) and not new_right(r), seen)


def positive_flip_rate(seen):
    return share(lambda r: new_right(r) and not old_right(r), seen)


def error_old(seen):
    return share(lambda r: not old_right(r), seen)


def error_new(seen):
    return share(lambda r: not new_right(r), seen)


def relative_negative_flip_rate(seen):
    by_chance = (1 - error_old(seen)) * error_new(seen)
    return negative_flip_rate(seen) / by_chance if by_chance else math.nan


def negative_flip_impact(seen):
    return share(old_right, [r for r in seen if not new_right(r)])


def positive_flip_impact(seen):
    return share(lambda r: not old_right(r), [r for r in seen if new_right(r)])


def backward_trust_compatibility(seen):
    return share(new_right, [r for r in seen if old_right(r)])


def backward_error_compatibility(seen):
    return share(lambda r: not new_right(r), [r for r in seen if not old_right(r)])


def churn_rate(seen):
    return share(lambda r: r.old != r.new, seen)


def negative_flip_cost(seen, costs):
    flips = [r for r in seen if old_right(r) and not new_right(r)]
    mass = math.fsum(r.weight for r in seen)
    return math.fsum(r.weight * costs[r.target][r.new].item() for r in flips) / mass if mass else math.nan


def positive_flip_cost(seen, costs):
    flips = [r for r in seen if new_right(r) and not old_right(r)]
    mass = math.fsum(r.weight for r in seen)
    return math.fsum(r.weight * costs[r.target][r.old].item() for r in flips) / mass if mass else math.nan


FLIP_RATES = {
    "nfr": negative_flip_rate,
    "pfr": positive_flip_rate,
    "relative_nfr": relative_negative_flip_rate,
    "nfi": negative_flip_impact,
    "pfi": positive_flip_impact,
    "btc": backward_trust_compatibility,
    "bec": backward_error_compatibility,
    "churn": churn_rate,
    "error_old": error_old,
    "error_new": error_new,
}


def flip_rates(old, new, target, *, average=None, groups=None, costs=None, **options):
    """Compute all rates; for ``average="none"`` a list, one for each of the ``groups`` (classes or labels)."""
    seen = records(old, new, target, average=average, **options)
    rates = dict(FLIP_RATES)
    if costs is not None:
        rates["nf_cost"] = lambda some: negative_flip_cost(some, costs)
        rates["pf_cost"] = lambda some: positive_flip_cost(some, costs)
    if average in {None, "micro"}:
        return {name: rate(seen) for name, rate in rates.items()}
    grouped = [[r for r in seen if r.group == group] for group in range(groups)]
    each = {name: [rate(group) for group in grouped] for name, rate in rates.items()}
    return each if average == "none" else {name: _mean_of_defined(values) for name, values in each.items()}


def _mean_of_defined(values):
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan

"""Accept, reject or undecided: each rule against the interval of what was measured.

A bound is an end of a 95 % interval, so that each claim in one direction is wrong in at most 2.5 of 100 cases. To
accept, every rule must hold, which needs no correction; to reject, one suffices, so the p-values of all budgets of
rates are adjusted after Holm (Scandinavian Journal of Statistics, 1979).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_graceful.functional.statistics import Interval, exact_p_value, holm, rows_needed
from lightning_graceful.report.budgets import Budget, Measure, placed
from lightning_graceful.report.database import PredictionError
from lightning_graceful.report.summary import Candidate, Check, Decision, Group, Ruling, Tally
from lightning_graceful.report.words import bounds, counted, percent, points

TAIL = 0.025
ALL_ROWS = "all rows"
NAMES: dict[Measure, str] = {"nfr": "NFR", "error": "error", "cost": "cost a sample"}
RATES: dict[Measure, str] = {"nfr": "nfr", "error": "error_new"}
ORDER: tuple[Decision, ...] = ("reject", "undecided", "accept")


@dataclass(frozen=True)
class Rules:
    """What a release must keep to.

    Attributes:
        budgets: Limits on what may break.
        non_inferior: The error may rise by less than this, as a share; None for no such rule.
        equivalent: The error may change by less than this either way; None for no such rule.
    """

    budgets: Sequence[Budget] = ()
    non_inferior: float | None = None
    equivalent: float | None = None

    def __bool__(self) -> bool:
        """Say whether there is any rule.

        Returns:
            Whether there is.
        """
        return bool(self.budgets) or self.non_inferior is not None or self.equivalent is not None


def judge(candidate: Candidate, rules: Rules, kept: Check | None = None) -> Ruling | None:
    """Give the verdict on a candidate.

    Args:
        candidate: What was measured.
        rules: What it must keep to.
        kept: Whether it keeps the samples that must be kept.

    Returns:
        The verdict, or None where there is no rule.

    Raises:
        PredictionError: If a budget is about a slice, a class or costs that there are none of.
    """
    checks = [] if kept is None else [kept]
    checks += _budget_checks(placed(rules.budgets, candidate.classes, candidate.slices), candidate)
    if rules.non_inferior is not None:
        checks.append(_non_inferior(candidate, rules.non_inferior))
    if rules.equivalent is not None:
        checks.append(_equivalent(candidate, rules.equivalent))
    if not checks:
        return None
    ordered = sorted(checks, key=lambda check: ORDER.index(check.decision))
    return Ruling(ordered[0].decision, tuple(ordered))


def _budget_checks(places: list[tuple[Budget, Group | None]], candidate: Candidate) -> list[Check]:
    tallies = [candidate.whole if group is None else group.tally for _, group in places]
    chances = [_chance(budget, tally) for (budget, _), tally in zip(places, tallies, strict=True)]
    adjusted = holm(chances)
    return [
        _budget_check(budget, ALL_ROWS if group is None else group.where, tally, float(chance), len(places))
        for (budget, group), tally, chance in zip(places, tallies, adjusted, strict=True)
    ]


def _chance(budget: Budget, tally: Tally) -> float:
    # Chance of so many hits, or more, at the limit; NaN for a cost, whose bound comes from a bootstrap.
    if budget.measure == "cost":
        return math.nan
    if budget.limit >= 1:
        return 1.0
    rate, size = _interval(budget.measure, tally).mean, tally.effective_rows[RATES[budget.measure]]
    return float(exact_p_value(rate * size, size, budget.limit, alternative="greater"))


def _interval(measure: Measure, tally: Tally) -> Interval:
    if measure == "cost":
        if tally.cost is None:
            raise PredictionError("Expected a column cost or a file of costs (--costs) for a budget of cost, got none.")
        return tally.cost
    return tally.nfr if measure == "nfr" else tally.error_new


def _budget_check(budget: Budget, where: str, tally: Tally, chance: float, family: int) -> Check:
    value, name = _interval(budget.measure, tally), NAMES[budget.measure]
    limit = _written(budget.measure, budget.limit)
    said = f"{name} {_measured(budget.measure, value)} in {where}"
    is_above = value.low > budget.limit
    needed = None
    decision: Decision = "undecided"
    if value.high <= budget.limit:
        decision, why = "accept", f"the upper bound is within {limit}"
    elif is_above and not chance >= TAIL:
        decision, why = "reject", f"the lower bound is above {limit}"
    elif is_above:
        why = f"the lower bound is above {limit}, but among {family} budgets that may be chance"
    else:
        needed = _still_needed(budget, tally, value)
        more = "no number of rows would decide at this rate" if needed is None else _more(needed)
        why = f"the interval holds {limit}; {more}"
    return Check(f"{name} at most {limit}", where, decision, f"{said}: {why}.", value, budget.limit, needed)


def _still_needed(budget: Budget, tally: Tally, value: Interval) -> int | None:
    if budget.measure == "cost":
        return _by_width(value, budget.limit, tally.rows)
    if budget.limit >= 1:
        return None
    total = rows_needed(value.mean, budget.limit)
    size = tally.effective_rows[RATES[budget.measure]]
    # Rows that belong together, or weigh differently, tell less each.
    return None if total is None else max(math.ceil(total * tally.rows / size) - tally.rows, 1)


def _by_width(value: Interval, limit: float, rows: int) -> int | None:
    # A bound comes nearer with the square root of the rows.
    distance = abs(limit - value.mean)
    half = value.high - value.mean if value.mean < limit else value.mean - value.low
    total = rows * (half / distance) ** 2 if distance > 0 else math.inf
    return max(math.ceil(total) - rows, 1) if total < 1e12 else None


def _non_inferior(candidate: Candidate, margin: float) -> Check:
    difference, rule = candidate.error_difference, f"error not higher by {percent(margin)} or more"
    decision: Decision = "undecided"
    needed = None
    if difference.high < margin:
        decision, why = "accept", "the upper bound is below the margin"
    elif difference.low > margin:
        decision, why = "reject", "the lower bound is above the margin"
    else:
        needed = _by_width(difference, margin, candidate.whole.rows)
        why = f"the interval holds the margin{_bracketed(needed)}"
    reason = f"Error changes by {points(difference)}: {why} of {percent(margin)}."
    return Check(rule, ALL_ROWS, decision, reason, difference, margin, needed)


def _equivalent(candidate: Candidate, margin: float) -> Check:
    # Two one-sided tests (Schuirmann 1987), each at 2.5 %: the interval must lie within the margins.
    difference, rule = candidate.error_difference, f"error changes by less than {percent(margin)}"
    decision: Decision = "undecided"
    needed = None
    if -margin < difference.low and difference.high < margin:
        decision, why = "accept", "the interval lies within the margins"
    elif difference.low > margin or difference.high < -margin:
        decision, why = "reject", "the interval lies beyond a margin"
    else:
        near = margin if difference.mean > 0 else -margin
        needed = _by_width(difference, near, candidate.whole.rows)
        why = f"the interval holds a margin{_bracketed(needed)}"
    reason = f"Error changes by {points(difference)}: {why} of {percent(margin)} either way."
    return Check(rule, ALL_ROWS, decision, reason, difference, margin, needed)


def _bracketed(needed: int | None) -> str:
    return "" if needed is None else f" ({_more(needed)})"


def _more(needed: int) -> str:
    return f"about {counted(needed, 'more row')} would decide"


def written_limit(check: Check) -> str:
    """Write the limit of a check.

    Args:
        check: The check.

    Returns:
        The limit, "none" where a single sample decides.
    """
    return "none" if check.limit is None else _written("cost" if _is_cost(check) else "nfr", check.limit)


def written_value(check: Check) -> str:
    """Write what a check measured.

    Args:
        check: The check.

    Returns:
        The value with its interval; "" where a single sample decides.
    """
    if check.value is None:
        return ""
    if check.value.low < 0:
        return points(check.value)
    return _measured("cost" if _is_cost(check) else "nfr", check.value)


def _is_cost(check: Check) -> bool:
    return check.rule.startswith(NAMES["cost"])


def _written(measure: Measure, value: float) -> str:
    # In full: a limit of 0.001 % is not to be read as 0.00 %.
    return f"{value:g}" if measure == "cost" else f"{100 * value:g} %"


def _measured(measure: Measure, value: Interval) -> str:
    if measure == "cost":
        return f"{value.mean:.4g} [{value.low:.4g}, {value.high:.4g}]"
    return f"{percent(value.mean)} {bounds(value)}"

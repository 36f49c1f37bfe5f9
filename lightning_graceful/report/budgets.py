"""What an update may break: budgets as users write them, and where each of them holds."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_graceful.report.database import PredictionError
from lightning_graceful.report.summary import Group
from lightning_graceful.report.tallies import CLASS

Measure = Literal["nfr", "error", "cost"]
MEASURES: tuple[Measure, ...] = ("nfr", "error", "cost")
PATTERN = re.compile(
    r"(?:(?P<where>.*\S)\s+)?(?P<measure>\w+)\s*=\s*(?P<limit>[^\s=%]+)\s*(?P<percent>%?)\s*", re.DOTALL
)
EVERYWHERE = ""
ALL = "all"


@dataclass(frozen=True)
class Budget:
    """A limit on one measure.

    Attributes:
        measure: "nfr", "error" (of the new model) or "cost" (mean a sample of what broke).
        limit: Most that is allowed: a share, or a cost.
        column: "" for all rows and every slice, "all" for all rows only, "class", or a slice.
        value: Value of the slice, or class; None for each of them.
        text: As the user wrote it.
    """

    measure: Measure
    limit: float
    column: str = EVERYWHERE
    value: str | None = None
    text: str = ""


def parse_budget(text: str) -> Budget:
    """Read a budget.

    Args:
        text: ``nfr=0.01`` (all rows, and every slice that has no budget of its own), ``all nfr=0.01`` (all rows only),
            ``slice:country=IS nfr=0.02``, ``slice:country nfr=2%`` (each country), ``class=cat nfr=0.05``,
            ``class nfr=0.05`` (each class), likewise with ``error`` or ``cost``.

    Returns:
        The budget.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> budget = parse_budget("slice:country=IS nfr=2%")
        >>> budget.column, budget.value, budget.measure, budget.limit
        ('country', 'IS', 'nfr', 0.02)
    """
    found = PATTERN.fullmatch(text.strip())
    measure = next((name for name in MEASURES if found and found["measure"] == name), None)
    if found is None or measure is None:
        raise ValueError(
            f"Expected a budget such as nfr=0.01, 'slice:country=IS nfr=0.02', error=0.1 or cost=0.5, got {text!r}."
        )
    column, value = _where(found["where"] or EVERYWHERE, text)
    return Budget(measure, _limit(found, measure, text), column, value, text)


def parse_margin(text: str) -> float:
    """Read a margin of the error, such as ``error=0.005``.

    Args:
        text: The margin.

    Returns:
        The margin as a share.

    Raises:
        ValueError: If it is no margin above 0.

    Example:
        >>> parse_margin("error=0.5%")
        0.005
    """
    found = PATTERN.fullmatch(text.strip())
    if found is None or found["measure"] != "error" or found["where"]:
        raise ValueError(f"Expected a margin such as error=0.005, got {text!r}.")
    margin = _limit(found, "error", text)
    if not margin:
        raise ValueError(f"Expected a margin above 0, got {text!r}.")
    return margin


def placed(
    budgets: Iterable[Budget], classes: Sequence[Group], slices: Sequence[Group]
) -> list[tuple[Budget, Group | None]]:
    """Say which rows each budget is about.

    Args:
        budgets: The budgets; of two for the same rows and measure the more particular one holds, else the last.
        classes: The rows of each class.
        slices: The rows of each value of each slice.

    Returns:
        Budget and group, None for all rows.

    Raises:
        PredictionError: If there is no such slice, value or class; the message names those there are.
    """
    holds: dict[tuple[Measure, Group | None], Budget] = {}
    for budget in sorted(budgets, key=_particular):
        for group in _places(budget, classes, slices):
            holds[budget.measure, group] = budget
    return [(budget, group) for (_, group), budget in holds.items()]


def _where(words: str, text: str) -> tuple[str, str | None]:
    column, equals, value = words.removeprefix("slice:").partition("=")
    is_known = words in {EVERYWHERE, ALL, CLASS} or words.startswith(("slice:", f"{CLASS}="))
    if not is_known or (words and not column):
        raise ValueError(
            f"Expected all, class, class=NAME, slice:COLUMN or slice:COLUMN=VALUE before the measure, got {text!r}."
        )
    return column, value if equals else None


def _limit(found: re.Match[str], measure: Measure, text: str) -> float:
    percent = bool(found["percent"])
    try:
        limit = float(found["limit"])
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"Expected a number of at least 0 as the limit of {measure}, got {text!r}.")
    if measure == "cost" and percent:
        raise ValueError(f"Expected a cost without a percent sign, got {text!r}.")
    limit /= 100 if percent else 1
    if measure != "cost" and limit >= 1:
        raise ValueError(f"Expected a share below 1 as the limit of {measure}, such as 0.01 or 1%, got {text!r}.")
    return limit


def _particular(budget: Budget) -> int:
    if budget.value is not None:
        return 2
    return 0 if budget.column == EVERYWHERE else 1


def _places(budget: Budget, classes: Sequence[Group], slices: Sequence[Group]) -> list[Group | None]:
    if budget.column == EVERYWHERE:
        return [None, *slices]
    if budget.column == ALL:
        return [None]
    known = classes if budget.column == CLASS else [group for group in slices if group.column == budget.column]
    fitting: list[Group | None] = [group for group in known if budget.value in {None, group.value}]
    if not fitting:
        names = [group.value for group in known] or sorted({group.column for group in slices})
        kind = "value" if known else "slice"
        raise PredictionError(
            f"Budget {budget.text!r}: expected a {kind} that occurs, such as {', '.join(names[:8]) or 'none'}."
        )
    return fitting

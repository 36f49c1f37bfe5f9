"""The tables of the page: rates side by side, and what each class and slice pays."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.figures.groups import any_of, worst_first
from lightning_graceful.report.summary import Candidate, Group, Summary, Tally
from lightning_graceful.report.words import bounds, difference_words, duration, percent, points


class Cell(NamedTuple):
    """One cell: the number, what qualifies it, and the words of a difference."""

    main: str
    under: str = ""
    words: str = ""


class Line(NamedTuple):
    """One line, a cell for each candidate."""

    label: str
    hint: str
    cells: list[Cell]


class GroupLine(NamedTuple):
    """One class or slice: its rows, and what each candidate does there."""

    column: str
    value: str
    rows: int
    groups: list[Group | None]


class GroupTable(NamedTuple):
    """All classes, or all slices, the worst first."""

    key: str
    title: str
    kind: str
    lines: list[GroupLine]


def side_by_side(summary: Summary) -> list[Line]:
    """Put the candidates side by side.

    Args:
        summary: The comparison.

    Returns:
        The lines that have something to say.
    """
    lines = [*_counts(summary), *_differences(summary), *_first_answers(summary), *_others(summary)]
    return [line for line in lines if any(cell.main for cell in line.cells)]


def group_tables(summary: Summary) -> list[GroupTable]:
    """List what each class and each slice pays.

    Args:
        summary: The comparison.

    Returns:
        A table of slices and a table of classes, each only where there are any.
    """
    tables = [
        GroupTable("slices", "By slice", "slice", _group_lines(summary, lambda candidate: candidate.slices)),
        GroupTable("classes", "By true class", "class", _group_lines(summary, lambda candidate: candidate.classes)),
    ]
    return [table for table in tables if table.lines]


def _group_lines(summary: Summary, groups: Callable[[Candidate], tuple[Group, ...]]) -> list[GroupLine]:
    rows = worst_first(summary, groups)
    return [GroupLine(any_of(row).column, any_of(row).value, any_of(row).tally.rows, row) for row in rows]


def _counts(summary: Summary) -> Iterable[Line]:
    wholes = [candidate.whole for candidate in summary.candidates]
    yield Line("Samples tested", "", [_tested(whole) for whole in wholes])
    yield Line("Error, old model", "", [_rate(whole.error_old) for whole in wholes])
    yield Line("Error, new model", "", [_rate(whole.error_new) for whole in wholes])
    changes = [_difference(candidate.error_difference) for candidate in summary.candidates]
    yield Line("Change of the error", "new − old, in points", changes)
    yield Line("Negative flips", "right before, wrong now", [Cell(f"{whole.broke:,}") for whole in wholes])
    yield Line("Positive flips", "wrong before, right now", [Cell(f"{whole.fixed:,}") for whole in wholes])
    yield Line("NFR", "negative flips / samples", [_rate(whole.nfr) for whole in wholes])
    yield Line("PFR", "positive flips / samples", [_rate(whole.pfr) for whole in wholes])
    relative = [Cell(percent(whole.relative_nfr, 1)) for whole in wholes]
    yield Line("Relative NFR", "100 % if they erred independently", relative)
    yield Line("Cost of what broke", "mean a sample", [_cost(whole) for whole in wholes])


def _differences(summary: Summary) -> Iterable[Line]:
    hint, first = f"in points, from {summary.first.name}", Cell("–")
    others = summary.candidates[1:]
    if any(one.nfr_against_first is not None for one in others):
        yield Line("Difference in NFR", hint, [first, *(_difference(one.nfr_against_first) for one in others)])
    if any(one.error_against_first is not None for one in others):
        yield Line("Difference in error", hint, [first, *(_difference(one.error_against_first) for one in others)])


def _first_answers(summary: Summary) -> Iterable[Line]:
    firsts = [candidate.at_argmax for candidate in summary.candidates]
    hint = "without the operating threshold"
    yield Line("NFR, first answers", hint, [_rate(one.nfr) if one else Cell("") for one in firsts])
    yield Line("PFR, first answers", hint, [_rate(one.pfr) if one else Cell("") for one in firsts])
    yield Line("Error, first answers", hint, [_rate(one.error_new) if one else Cell("") for one in firsts])


def _others(summary: Summary) -> Iterable[Line]:
    blank = [Cell("") for _ in summary.candidates[1:]]
    if summary.noise_floor is not None:
        yield Line("Noise floor", "NFR of one recipe trained twice", [_rate(summary.noise_floor), *blank])
    if any(candidate.wall_seconds is not None for candidate in summary.candidates):
        yield Line("Training time", "", [Cell(duration(candidate.wall_seconds)) for candidate in summary.candidates])


def _tested(whole: Tally) -> Cell:
    return Cell(f"{whole.samples:,}", f"{whole.rows:,} answers" if whole.rows > whole.samples else "")


def _rate(interval: Interval) -> Cell:
    return Cell(percent(interval.mean), bounds(interval))


def _cost(whole: Tally) -> Cell:
    if whole.cost is None or math.isnan(whole.cost.mean):
        return Cell("")
    return Cell(f"{whole.cost.mean:.3g}", f"[{whole.cost.low:.3g}, {whole.cost.high:.3g}]")


def _difference(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("n/a")
    number, _, limits = points(interval).partition(" points ")
    return Cell(number, limits, difference_words(interval) if limits else "")

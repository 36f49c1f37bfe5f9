"""The tables of the page, cell by cell: numbers, what qualifies them, and verdicts."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.summary import CompatibilitySummary, Way
from lightning_graceful.report.compatibility.words import (
    ends,
    groups_of,
    hundredths,
    interval_in,
    measure_name,
    measures_of,
    tenths,
    verdict_of,
    why_no_gain,
)
from lightning_graceful.report.words import duration

TONES: dict[str, Literal["accept", "reject", "undecided", "open"]] = {
    "yes": "accept", "yes?": "undecided", "mixed": "undecided", "no?": "reject", "no": "reject", "n/a": "open",
}  # fmt: skip
MOST_GROUPS = 4  # beside each other in every measure
SIGNS = {"accept": "✓", "reject": "✕", "undecided": "?", "open": "–"}
REASONS = {"yes?": "an interval holds 0", "no?": "an interval holds 0", "mixed": "in some measures"}


class Cell(NamedTuple):
    """One cell: the number, and lines under it."""

    main: str
    under: str = ""
    words: str = ""


class Judgement(NamedTuple):
    """A verdict as a badge."""

    tone: str
    sign: str
    word: str
    reason: str


class Table(NamedTuple):
    """A table with a row a way; old/old comes first, the paragon last."""

    heads: list[tuple[str, str]]
    first: list[Cell]
    rows: list[list[Cell]]
    last: list[Cell] | None


def judgement(way: Way) -> Judgement:
    """Put the verdict on a way into a badge.

    Args:
        way: The way.

    Returns:
        Tone, sign, word and reason.
    """
    word = verdict_of(way).short
    tone = TONES[word]
    return Judgement(tone, SIGNS[tone], word.rstrip("?"), REASONS.get(word, ""))


def main_table(summary: CompatibilitySummary) -> Table:
    """Lay out what decides: the first measure whole, the cross tests of the others, and the time.

    Args:
        summary: The evaluation.

    Returns:
        The table, without the column of verdicts.
    """
    main, *others = measures_of(summary) or ["map"]
    name, old, paragon = measure_name(main), summary.old_self_test, summary.paragon_self_test
    has_times = any(way.train_seconds is not None for way in summary.ways)
    heads = [(f"Cross {name}", "less old/old"), ("Update gain", f"in {name}")]
    heads += [(f"Cross {measure_name(other)}", "less old/old") for other in others]
    heads += [(f"Self {name}", "re-indexed"), ("Tax", f"{name}, points")]
    heads += [("Time", "of training")] if has_times else []
    rows = [
        [
            _cross(way, main), _gain(way, summary, main), *(_cross(way, other) for other in others), _self(way, main),
            _tax(way, main), *([Cell(duration(way.train_seconds))] if has_times else []),
        ]
        for way in summary.ways
    ]  # fmt: skip
    time, blank = [Cell("")] * has_times, [Cell("")] * (2 + len(others))
    first = [_share(old, main), Cell(""), *(_share(old, other) for other in others), _share(old, main), Cell("")]
    last = None if paragon is None else [*blank, _share(paragon, main), Cell(""), *time]
    return Table(heads, [*first, *time], rows, last)


def measure_tables(summary: CompatibilitySummary) -> Iterator[tuple[str, Table]]:
    """Lay out everything that is known, a table a measure.

    Args:
        summary: The evaluation.

    Yields:
        The measure's name, and its table.
    """
    old, paragon = summary.old_self_test, summary.paragon_self_test
    for measure in measures_of(summary):
        has_spaces = any(_other_space(way, measure) for way in summary.ways)
        heads = [("Cross test", ""), ("Less old/old", "points"), ("Update gain", ""), ("Self test", "re-indexed")]
        heads += [*([("Self test", "in the old space")] if has_spaces else []), ("Tax", "points")]
        rows = []
        for way in summary.ways:
            shared = [_share(way.shared_self_test, measure)] if has_spaces else []
            numbers = [_share(way.cross_test, measure), _rise(way, measure), _gain(way, summary, measure)]
            rows.append([*numbers, _share(way.self_test, measure), *shared, _tax(way, measure)])
        width = len(heads)
        first = [_share(old, measure), *[Cell("")] * 2, _share(old, measure), *[Cell("")] * (width - 4)]
        last = [*[Cell("")] * 3, _share(paragon, measure), *[Cell("")] * (width - 4)] if paragon is not None else None
        yield measure_name(measure), Table(heads, first, rows, last)


def group_tables(summary: CompatibilitySummary) -> list[Table]:
    """Lay out the cross tests by group of queries, in every measure.

    Args:
        summary: The evaluation.

    Returns:
        One table of a few groups, a table a measure of many; none where there are no groups.
    """
    groups, measures = groups_of(summary), measures_of(summary)
    if not groups:
        return []
    parts = [measures] if len(groups) <= MOST_GROUPS else [[measure] for measure in measures]
    return [_by_group(summary, [(group, measure) for group in groups for measure in part]) for part in parts]


def _by_group(summary: CompatibilitySummary, places: list[tuple[str, str]]) -> Table:
    heads = [(group, measure_name(measure)) for group, measure in places]
    rows = [[_share(way.groups.get(group), measure) for group, measure in places] for way in summary.ways]
    return Table(heads, [], rows, None)


def _share(test: Mapping[str, Interval] | None, measure: str) -> Cell:
    interval = interval_in(test, measure)
    return Cell("n/a") if math.isnan(interval.mean) else Cell(f"{tenths(interval.mean)} %", ends(interval))


def _cross(way: Way, measure: str) -> Cell:
    cross, rise = interval_in(way.cross_test, measure).mean, interval_in(way.cross_gain, measure)
    if math.isnan(cross):
        return Cell("n/a")
    return Cell(f"{tenths(cross)} %", tenths(rise.mean, "+"), ends(rise, "difference"))


def _rise(way: Way, measure: str) -> Cell:
    rise = interval_in(way.cross_gain, measure)
    return Cell(tenths(rise.mean, "+"), ends(rise, "difference"))


def _gain(way: Way, summary: CompatibilitySummary, measure: str) -> Cell:
    gain = interval_in(way.update_gain, measure)
    if math.isnan(gain.mean):
        return Cell("n/a", why_no_gain(summary, measure))
    return Cell(hundredths(gain.mean), ends(gain, "ratio"))


def _tax(way: Way, measure: str) -> Cell:
    tax = interval_in(way.tax, measure)
    return Cell(tenths(tax.mean), ends(tax))


def _self(way: Way, measure: str) -> Cell:
    shared = f"old space {tenths(interval_in(way.shared_self_test, measure).mean)} %"
    return _share(way.self_test, measure)._replace(words=shared if _other_space(way, measure) else "")


def _other_space(way: Way, measure: str) -> bool:
    shared = interval_in(way.shared_self_test, measure)
    return not math.isnan(shared.mean) and shared != interval_in(way.self_test, measure)

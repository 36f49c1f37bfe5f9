"""How compatibility is put into words: names of measures, numbers with one decimal, verdicts, lacking gains."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.summary import MEASURES, CompatibilitySummary, Matrix, Way

NAMES = {"map": "mAP", "map_at_r": "mAP@R", "recall_at_1": "R@1"}
# By its detail: a summary that was read back from JSON has no more than that.
BASELINES = frozenset({"old class mean of the predicted class"})
UNKNOWN = Interval(math.nan, math.nan, math.nan)


class Verdict(NamedTuple):
    """Whether a way is backward compatible: its cross test beats the old model's self test.

    Attributes:
        word: "yes" in every measure, "no" in none, "mixed" in some, "n/a" where nothing was measured.
        is_certain: Whether the intervals of all differences lie on that side of 0.
    """

    word: Literal["yes", "no", "mixed", "n/a"]
    is_certain: bool

    @property
    def short(self) -> str:
        """The word, with a question mark where an interval holds 0."""
        return self.word if self.is_certain or self.word in {"mixed", "n/a"} else f"{self.word}?"


def verdict_of(way: Way) -> Verdict:
    """Judge a way over all of its measures: one that only some of them like, such as a collapse of classes, is "mixed".

    Args:
        way: The way.

    Returns:
        The verdict.

    Example:
        >>> rise, fall = Interval(0.03, 0.01, 0.05), Interval(-0.1, -0.2, 0.0)
        >>> made = lambda **gains: Way("a", "", {}, {}, {}, gains, {}, {})
        >>> [verdict_of(way).short for way in (made(map=rise), made(map=fall), made(map=rise, recall_at_1=fall))]
        ['yes', 'no?', 'mixed']
    """
    gains = [gain for gain in way.cross_gain.values() if not math.isnan(gain.mean)]
    if not gains:
        return Verdict("n/a", False)
    if all(gain.mean > 0 for gain in gains):
        return Verdict("yes", all(gain.low > 0 for gain in gains))
    if any(gain.mean > 0 for gain in gains):
        return Verdict("mixed", False)
    return Verdict("no", all(gain.high < 0 for gain in gains))


def measures_of(summary: CompatibilitySummary) -> list[str]:
    """List what was measured, the best known first.

    Args:
        summary: The evaluation.

    Returns:
        Keys, such as "map".
    """
    tests = [summary.old_self_test, *(way.cross_test for way in summary.ways)]
    found = list(dict.fromkeys(measure for test in tests for measure in test))
    return sorted(found, key=lambda measure: MEASURES.index(measure) if measure in MEASURES else len(MEASURES))


def is_baseline(way: Way) -> bool:
    """Tell whether a way is shown to be beaten: a collapse of classes may lead in a mean, but nobody would search so.

    Args:
        way: The way.

    Returns:
        Whether its detail is one of ``BASELINES``.

    Example:
        >>> [is_baseline(Way("a", detail, {}, {}, {}, {}, {}, {})) for detail in (*BASELINES, "weight 1")]
        [True, False]
    """
    return way.detail in BASELINES


def groups_of(summary: CompatibilitySummary) -> list[str]:
    """List the groups of queries.

    Args:
        summary: The evaluation.

    Returns:
        Their names, each once.
    """
    return list(dict.fromkeys(group for way in summary.ways for group in way.groups))


def measure_name(measure: str) -> str:
    """Name a measure as papers do.

    Args:
        measure: Its key.

    Returns:
        The name; the key itself where there is none.

    Example:
        >>> measure_name("map_at_r"), measure_name("recall_at_5")
        ('mAP@R', 'R@5')
    """
    return NAMES.get(measure, measure.replace("recall_at_", "R@"))


def interval_in(test: Mapping[str, Interval] | None, measure: str) -> Interval:
    """Look a measure up.

    Args:
        test: Intervals by measure; None for a test that was not made.
        measure: The measure.

    Returns:
        Its interval; NaN where there is none.

    Example:
        >>> interval_in(None, "map")
        Interval(mean=nan, low=nan, high=nan)
    """
    return UNKNOWN if test is None else test.get(measure, UNKNOWN)


def tenths(share: float, sign: str = "") -> str:
    """Write a share in percent, or a difference in points, with one decimal.

    Args:
        share: A fraction.
        sign: "+" to write a plus sign too.

    Returns:
        The number; "n/a" for NaN.

    Example:
        >>> tenths(0.6214), tenths(-0.0002), tenths(0.031, "+"), tenths(float("nan"))
        ('62.1', '0.0', '+3.1', 'n/a')
    """
    # No "-0.0".
    return "n/a" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:{sign}.1f}"


def hundredths(ratio: float, sign: str = "") -> str:
    """Write a ratio with two decimals.

    Args:
        ratio: The ratio.
        sign: "+" to write a plus sign too.

    Returns:
        The number; "n/a" for NaN.

    Example:
        >>> hundredths(0.618), hundredths(-0.001), hundredths(float("-inf"))
        ('0.62', '0.00', '-∞')
    """
    if math.isnan(ratio):
        return "n/a"
    return f"{ratio:{sign}.0f}".replace("inf", "∞") if math.isinf(ratio) else f"{round(ratio, 2) + 0.0:{sign}.2f}"


def ends(interval: Interval, kind: Literal["share", "difference", "ratio"] = "share") -> str:
    """Write both ends of an interval.

    Args:
        interval: Mean and ends.
        kind: A share in percent, a difference in points with its sign, or a ratio.

    Returns:
        The ends in brackets; nothing for NaN.

    Example:
        >>> ends(Interval(0.05, -0.01, 0.11), "difference"), ends(Interval(0.5, 0.4, 0.6), "ratio")
        ('[-1.0, +11.0]', '[0.40, 0.60]')
    """
    if math.isnan(interval.low) or math.isnan(interval.high):
        return ""
    written, sign = hundredths if kind == "ratio" else tenths, "+" if kind == "difference" else ""
    return f"[{written(interval.low, sign)}, {written(interval.high, sign)}]"


def why_no_gain(summary: CompatibilitySummary, measure: str) -> str:
    """Say why there is no update gain.

    Args:
        summary: The evaluation.
        measure: The measure.

    Returns:
        "no paragon", or the gap between old model and paragon.
    """
    if summary.paragon_self_test is None:
        return "no paragon"
    gap = interval_in(summary.paragon_self_test, measure).mean - interval_in(summary.old_self_test, measure).mean
    return "not measured" if math.isnan(gap) else f"gap {tenths(gap)} points"


def beats_own(matrix: Matrix, row: int, column: int) -> bool:
    """Tell whether a later version searches the gallery of an earlier one better than that one does.

    Args:
        matrix: The measures.
        row: Version of the queries.
        column: Version of the gallery.

    Returns:
        Whether it does; never for a version's own gallery, for a later one's, or where a measure is NaN.
    """
    return row > column and bool(matrix.values[row, column] > matrix.values[column, column])


def headline(summary: CompatibilitySummary) -> list[str]:
    """Say in a few sentences what came out.

    Args:
        summary: The evaluation.

    Returns:
        The sentences: how many ways are compatible, and what the best of them does; a baseline is never the best.
    """
    verdicts, measures = [verdict_of(way).word for way in summary.ways], measures_of(summary)
    if all(word == "n/a" for word in verdicts):
        return ["Nothing was measured."]
    compatible = verdicts.count("yes")
    names = _listed([measure_name(measure) for measure in measures])
    better = f"search the old gallery better than old queries do ({names})."
    are = "is" if compatible == 1 else "are"
    opening = f"{compatible:,} of {len(verdicts):,} ways {are} backward compatible: new queries"
    if len(verdicts) == 1:
        name = summary.ways[0].name
        opening = f"{name} is backward compatible: new queries"
        opening = opening if compatible else f"{name} is not backward compatible: new queries do not"
    said = [f"{opening} {better}"]
    main = measures[0]
    chosen = [way for way, verdict in zip(summary.ways, verdicts, strict=True) if verdict == "yes"]
    if len(verdicts) > 1:
        chosen = [way for way in chosen if not is_baseline(way)]
    best = max(chosen, key=lambda way: interval_in(way.cross_test, main).mean, default=None)
    return said if best is None else [*said, *_about(best, summary, main)]


def _about(way: Way, summary: CompatibilitySummary, main: str) -> Iterable[str]:
    cross, rise = interval_in(way.cross_test, main), interval_in(way.cross_gain, main)
    best = "" if len(summary.ways) == 1 else "Best in the old gallery: "
    yield (
        f"{best}{way.name}, {measure_name(main)} {tenths(cross.mean)} %, {tenths(rise.mean, '+')} points "
        f"{ends(rise, 'difference')} over the old model."
    )
    gain, tax = interval_in(way.update_gain, main), interval_in(way.tax, main)
    if not math.isnan(gain.mean):
        yield f"Update gain {hundredths(gain.mean)} {ends(gain, 'ratio')}: that share of what re-indexing brings."
    if not math.isnan(tax.mean):
        yield f"Where everything is re-indexed, compatibility costs {tenths(tax.mean)} points {ends(tax)}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

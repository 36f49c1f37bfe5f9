"""The table that ``graceful evaluate`` prints; it fits into 80 columns."""

import math
import re
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_graceful.report.compatibility.summary import (
    ChainStep,
    CompatibilitySummary,
    Curve,
    Downstream,
    Matrix,
    Way,
)
from lightning_graceful.report.compatibility.words import (
    beats_own,
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
from lightning_graceful.report.words import counted, printable

MOST_VERSIONS = 9  # columns of the matrix that fit
LONGEST = 11  # letters of a name that fit beside the numbers
MOST_LETTERS = 33  # of a name that wraps; the rest is cut
ABREAST = 3  # groups of queries beside each other
GROUP_WIDTH = 18  # a number with its interval


def print_compatibility(summary: CompatibilitySummary, console: Console) -> None:
    """Print the evaluation: ways, versions, backfill, chain, flips and notes.

    Args:
        summary: The evaluation.
        console: Where to.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> test, unknown = {"map": Interval(0.5, 0.4, 0.6)}, {}
        >>> way = Way("copy", "", test, test, test, {"map": Interval(0.0, 0.0, 0.0)}, unknown, unknown)
        >>> summary = CompatibilitySummary("Digits", (), 10, 10, 1, test, None, (way,))
        >>> print_compatibility(summary, Console(width=80, color_system=None))  # doctest: +ELLIPSIS
        Digits
        ...
        copy     50.0 (+0.0)          n/a 50.0 n/a   no?
        ...
    """
    for part in (*_ways(summary), *_remarks(summary), *_further(summary)):
        console.print(part, highlight=False)
    for note in summary.notes:
        console.print(Text(printable(note)))


def _ways(summary: CompatibilitySummary) -> Iterator[Text | Table]:
    main, has_hits = _main(summary), "recall_at_1" in measures_of(summary)[1:]
    name = measure_name(main)
    hits = ["cross R@1\n(- old/old)"] if has_hits else []
    heads = [f"cross {name}\n(- old/old)", f"update\ngain, {name}", *hits, f"self\n{name}", "tax", "beats\nold"]
    yield Text(printable(summary.title), style="bold")
    table = _table("way", *heads, gap=1)
    old, own = interval_in(summary.old_self_test, "recall_at_1"), interval_in(summary.old_self_test, main)
    table.add_row("old/old", tenths(own.mean), "", *([tenths(old.mean)] if has_hits else []), tenths(own.mean))
    for way in summary.ways:
        hits = [_cross(way, "recall_at_1")] if has_hits else []
        cross, tax = ends(interval_in(way.cross_gain, main), "difference"), interval_in(way.tax, main)
        numbers = _two(_cross(way, main), cross), _gain(way, summary, main), *hits, _self(way, main)
        table.add_row(wrapped(way.name, LONGEST), *numbers, _two(tenths(tax.mean), ends(tax)), verdict_of(way).short)
    if summary.paragon_self_test is not None:
        best = tenths(interval_in(summary.paragon_self_test, main).mean)
        table.add_row("paragon", "", "", *([""] if has_hits else []), best)
    yield table


def _remarks(summary: CompatibilitySummary) -> Iterator[Text]:
    yield Text(
        f"{counted(summary.queries, 'query', 'queries')}, {counted(summary.gallery, 'item')} in the gallery, "
        f"{counted(summary.seeds, 'seed')}. Percent; differences in points; 95 % intervals over queries."
    )
    marks = {verdict_of(way).short for way in summary.ways}
    if any(mark.endswith("?") for mark in marks):
        yield Text("?: the interval of the difference from old/old holds 0 in a measure.")
    if "mixed" in marks:
        yield Text("mixed: above old/old in some measures only.")
    if any(_has_two_spaces(way, _main(summary)) for way in summary.ways):
        yield Text("*: self test in the space that is compatible with the old one.")
    if details := [_detail(way) for way in summary.ways if way.detail]:
        yield Text(printable(f"Ways: {'; '.join(details)}."))
    for sentence in summary.protocol:
        yield Text(printable(sentence))


def _further(summary: CompatibilitySummary) -> Iterator[Text | Table]:
    if groups := groups_of(summary):
        yield from _groups(summary, groups)
    if summary.matrix is not None:
        yield from _matrix(summary.matrix)
    if summary.curves:
        yield from _curves(summary.curves)
    if summary.taxes:
        yield from _chain(summary.taxes)
    if summary.downstream:
        yield from _downstream(summary.downstream)
    if summary.flips:
        lost, found = ([flip.change for flip in summary.flips].count(change) for change in ("lost", "found"))
        yield _title("Retrieval flips")
        yield Text(
            f"{counted(lost, 'query', 'queries')} found a right item before and no longer "
            f"{'does' if lost == 1 else 'do'}; {found:,} the reverse."
        )


def _groups(summary: CompatibilitySummary, groups: list[str]) -> Iterator[Text | Table]:
    main = _main(summary)
    yield _title(f"Cross {measure_name(main)} by group of queries")
    for first in range(0, len(groups), ABREAST):
        if first:
            yield Text()
        part = groups[first : first + ABREAST]
        table = _table("way", *(wrapped(group, GROUP_WIDTH, 2 * MOST_LETTERS) for group in part))
        for way in summary.ways:
            intervals = [interval_in(way.groups.get(group), main) for group in part]
            table.add_row(wrapped(way.name, GROUP_WIDTH), *(f"{tenths(one.mean)} {ends(one)}" for one in intervals))
        yield table


def _matrix(matrix: Matrix) -> Iterator[Text | Table]:
    count = len(matrix.versions)
    first = max(count - MOST_VERSIONS, 0)
    shown = f", the last {MOST_VERSIONS} of {count} versions" if first else ""
    average = hundredths(matrix.average_compatibility)
    yield _title(f"{measure_name(matrix.measure)} of queries (rows) in galleries (columns){shown}")
    table = _table("", *(_name(one, longest=6) for one in matrix.versions[first:]))
    for row in range(first, count):
        cells = [_cell(matrix, row, column) for column in range(first, count)]
        table.add_row(_name(matrix.versions[row], longest=LONGEST), *cells)
    yield table
    yield Text(f"*: beats the gallery's own version. Average compatibility {average}: the share of such pairs.")


def _cell(matrix: Matrix, row: int, column: int) -> str:
    if column > row:
        return ""
    return tenths(float(matrix.values[row, column])) + ("*" if beats_own(matrix, row, column) else " ")


def _curves(curves: Sequence[Curve]) -> Iterator[Text | Table]:
    yield _title("Backfill")
    table = _table("curve", "measure", "nothing new", "half new", "all new", "area")
    for curve in curves:
        half = int(abs(curve.share - 0.5).argmin())
        numbers = [tenths(float(curve.values[place])) for place in (0, half, -1)]
        table.add_row(_name(curve.name), measure_name(curve.measure), *numbers, tenths(curve.area))
    yield table


def _chain(steps: Sequence[ChainStep]) -> Iterator[Text | Table]:
    olds = list(dict.fromkeys(name for step in steps for name in step.nfr))[: MOST_VERSIONS - 2]
    yield _title("Chain: tax and negative-flip rate against each predecessor")
    table = _table("version", "tax", *(_name(f"NFR\n{name}", longest=8) for name in olds))
    for step in steps:
        rates = [tenths(step.nfr[name].mean) if name in step.nfr else "" for name in olds]
        table.add_row(_name(step.version), f"{tenths(step.tax.mean)} {ends(step.tax)}", *rates)
    yield table


def _downstream(lines: Sequence[Downstream]) -> Iterator[Text | Table]:
    yield _title("Built on old embeddings")
    table = _table("", "old", "mixed", "new")
    for line in lines:
        table.add_row(
            _name(line.name), *("" if math.isnan(one) else tenths(one) for one in (line.old, line.mixed, line.new))
        )
    yield table


def _title(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _table(first: str, *heads: str | Text, gap: int = 2) -> Table:
    # The box itself puts a space between two columns.
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    table.add_column(first, overflow="fold")  # names give way to numbers, and neither is cut
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _name(name: str, longest: int | None = None) -> Text:
    # Text, so that brackets in a name are no markup.
    return Text("\n".join(_cut(line, longest or len(line)) for line in name.split("\n", 1)))


def wrapped(name: str, width: int, longest: int = MOST_LETTERS) -> Text:
    """Break a name into lines: after a space or an underscore where there is one, else anywhere.

    Args:
        name: Any text.
        width: Most letters of a line.
        longest: Most letters of the name; the rest is cut.

    Returns:
        The lines.

    Example:
        >>> wrapped("cosine_influence", 11).plain.split()
        ['cosine_', 'influence']
    """
    lines = [""]
    for piece in re.split(r"(?<=[\s_])", _cut(name, longest)):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    # Text, so that brackets in a name are no markup.
    return Text(
        "\n".join(
            line[start : start + width]
            for line in map(str.rstrip, lines)
            for start in range(0, max(len(line), 1), width)
        )
    )


def _cut(text: str, longest: int) -> str:
    line = printable(text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _detail(way: Way) -> str:
    return f"{_cut(way.name, MOST_LETTERS)} ({_cut(way.detail, 2 * MOST_LETTERS)})"


def _two(number: str, under: str) -> str:
    return f"{number}\n{under}" if under else number


def _cross(way: Way, measure: str) -> str:
    rise = interval_in(way.cross_gain, measure).mean
    return f"{tenths(interval_in(way.cross_test, measure).mean)} ({tenths(rise, '+')})"


def _gain(way: Way, summary: CompatibilitySummary, measure: str) -> str:
    gain = interval_in(way.update_gain, measure)
    if not math.isnan(gain.mean):
        return _two(hundredths(gain.mean), ends(gain, "ratio"))
    return f"n/a\n({why_no_gain(summary, measure)})"


def _has_two_spaces(way: Way, measure: str) -> bool:
    shared = interval_in(way.shared_self_test, measure)
    return not math.isnan(shared.mean) and shared != interval_in(way.self_test, measure)


def _self(way: Way, measure: str) -> str:
    own, shared = interval_in(way.self_test, measure).mean, interval_in(way.shared_self_test, measure).mean
    return f"{tenths(own)}\n{tenths(shared)}*" if _has_two_spaces(way, measure) else tenths(own)


def _main(summary: CompatibilitySummary) -> str:
    return next(iter(measures_of(summary)), "map")

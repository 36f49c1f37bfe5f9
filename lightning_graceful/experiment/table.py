"""The table that a job prints."""

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.differences import difference_words, paired_difference, paired_error_difference
from lightning_graceful.report.evidence import Comparison, Way
from lightning_graceful.report.verdict import bounds, percent


def print_table(comparison: Comparison, console: Console) -> None:
    """Print all ways side by side; it fits into 80 columns.

    Args:
        comparison: The ways; the first is plain training.
        console: Where to.
    """
    table = Table(
        title=comparison.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, leading=1
    )
    table.add_column("way", no_wrap=True)
    for column in ("error\nold", "error new\n(against plain)", "NFR\n(against plain)", "relative\nNFR", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for way in comparison.ways:
        said = way.predictions
        table.add_row(
            f"{way.name}\n{way.detail}",
            percent(said.error_old),
            percent(said.error_new) + _against_plain(way, comparison, paired_error_difference),
            percent(said.nfr) + _against_plain(way, comparison, paired_difference),
            percent(said.relative_nfr, 1),
            "n/a" if way.wall_seconds is None else f"{way.wall_seconds:,.0f} s",
        )
    console.print(table)
    said = comparison.plain.predictions
    notes = [f"{said.samples:,} samples tested, {len(said):,} rows over the seeds."]
    if len(comparison.ways) > 1:
        notes.append("In brackets: paired 95 % interval of the difference from plain, in points.")
    for note in [*notes, *_floor(comparison), *comparison.notes]:
        console.print(note, markup=False, highlight=False)


def _against_plain(way: Way, comparison: Comparison, difference: Callable[[Way, Way], Interval]) -> str:
    if way is comparison.plain:
        return ""
    found = difference(way, comparison.plain)
    return f"\n{bounds(found, signed=True)}\n{difference_words(found)}"


def _floor(comparison: Comparison) -> list[str]:
    if comparison.noise_floor is None:
        return []
    return [f"Noise floor: NFR {percent(comparison.noise_floor)} between two plain seeds of one recipe."]

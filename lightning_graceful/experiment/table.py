"""The table that a job prints."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.summary import Summary
from lightning_graceful.report.words import bounds, difference_words, percent


def print_table(summary: Summary, console: Console) -> None:
    """Print all candidates side by side; it fits into 80 columns.

    Args:
        summary: The comparison; the first candidate is plain training where there are several.
        console: Where to.
    """
    table = Table(
        title=summary.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, leading=1
    )
    several = len(summary.candidates) > 1
    against = f"\n(against {summary.first.name})" if several else "\n"
    table.add_column("way", no_wrap=True)
    for column in ("error\nold", f"error new{against}", f"NFR{against}", "relative\nNFR", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for candidate in summary.candidates:
        whole = candidate.whole
        table.add_row(
            f"{candidate.name}\n{candidate.detail}",
            percent(whole.error_old.mean),
            percent(whole.error_new.mean) + _against(candidate.error_against_first),
            percent(whole.nfr.mean) + _against(candidate.nfr_against_first),
            percent(whole.relative_nfr, 1),
            "n/a" if candidate.wall_seconds is None else f"{candidate.wall_seconds:,.0f} s",
        )
    console.print(table)
    whole = summary.first.whole
    notes = [f"{whole.samples:,} samples tested, {whole.rows:,} rows over the seeds."]
    if several:
        notes.append(f"In brackets: paired 95 % interval of the difference from {summary.first.name}, in points.")
    for note in [*notes, *_floor(summary), *summary.notes]:
        console.print(note, markup=False, highlight=False)


def _against(difference: Interval | None) -> str:
    return "" if difference is None else f"\n{bounds(difference, signed=True)}\n{difference_words(difference)}"


def _floor(summary: Summary) -> list[str]:
    if summary.noise_floor is None:
        return []
    return [f"Noise floor: NFR {percent(summary.noise_floor.mean)} between two plain seeds of one recipe."]

"""What a search job leaves behind: tables, the evaluation as JSON, Markdown and a page."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.export import compatibility_to_json, compatibility_to_markdown
from lightning_graceful.report.compatibility.summary import CompatibilitySummary
from lightning_graceful.report.compatibility.table import LONGEST, print_compatibility, wrapped
from lightning_graceful.report.compatibility.words import ends, hundredths, tenths
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.words import printable


def leave_search(summary: CompatibilitySummary, directory: Path, console: Console) -> None:
    """Write everything, print the table, and say where things are.

    Args:
        summary: The evaluation.
        directory: The run's folder.
        console: Where to print.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with draft_of(directory / "results.json") as draft:
        draft.write_text(compatibility_to_json(summary))
    with draft_of(directory / "results.md") as draft:
        draft.write_text(compatibility_to_markdown(summary))
    print_compatibility(summary, console)
    page = _page(summary, directory) or "none; pip install 'lightning-graceful[report]' brings it."
    # Without markup: it would take brackets away, those of a path too.
    console.print(f"Page: {page}\nRuns: {directory.resolve()}", soft_wrap=True, markup=False)


def leave_draws(found: Mapping[str, CompatibilitySummary], directory: Path, console: Console) -> None:
    """Write and print what each draw of held-out classes came to.

    Args:
        found: By draw, the evaluation.
        directory: The run's folder.
        console: Where to print.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with draft_of(directory / "draws.json") as draft:
        draft.write_text(json.dumps({name: json.loads(compatibility_to_json(one)) for name, one in found.items()}))
    for name, summary in found.items():
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=printable(name), title_justify="left")
        table.add_column("way", overflow="fold")
        for head in ("mAP - old/old", "R@1 - old/old", "gain, mAP", "tax, mAP"):
            table.add_column(head, justify="right", no_wrap=True)
        for way in summary.ways:
            points = way.cross_gain["map"], way.cross_gain["recall_at_1"]
            gain, tax = way.update_gain["map"], way.tax["map"]
            cells = [*(_points(value) for value in points), _lines(hundredths(gain.mean), ends(gain, "ratio"))]
            table.add_row(wrapped(way.name, LONGEST), *cells, _points(tax))
        console.print(table)


def _points(value: Interval) -> Text:
    return _lines(tenths(value.mean, "+"), ends(value, "difference"))


def _lines(number: str, under: str) -> Text:
    # Text, for rich takes brackets for markup. One below the other, four columns fit into a terminal.
    return Text(f"{number}\n{under}" if under else number)


def _page(summary: CompatibilitySummary, directory: Path) -> Path | None:
    try:
        from lightning_graceful.report.compatibility.page import write_compatibility_page
    except ModuleNotFoundError:
        return None
    return write_compatibility_page(summary, directory / "page.html").resolve()

"""What a search job leaves behind: tables, the evaluation as JSON, Markdown and a page."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.export import compatibility_to_json, compatibility_to_markdown
from lightning_graceful.report.compatibility.summary import CompatibilitySummary
from lightning_graceful.report.compatibility.table import print_compatibility
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
    page = _page(summary, directory)
    console.print(
        f"Page: {page}" if page else "Page: none; pip install 'lightning-graceful[report]' brings it.", soft_wrap=True
    )
    console.print(f"Runs: {directory.resolve()}", soft_wrap=True)


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
        table = Table(title=printable(name), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("way", no_wrap=True)
        for head in ("mAP - old/old", "R@1 - old/old", "gain, mAP", "tax"):
            table.add_column(head, justify="right", no_wrap=True)
        for way in summary.ways:
            points = (way.cross_gain["map"], way.cross_gain["recall_at_1"])
            gain = _written(way.update_gain["map"], 1, 2)
            table.add_row(way.name, *(_written(value) for value in points), gain, _written(way.tax["map"]))
        console.print(table)


def _written(value: Interval, scale: float = 100, digits: int = 1) -> str:
    if value.mean != value.mean:
        return "n/a"
    return f"{value.mean * scale:+.{digits}f} [{value.low * scale:+.{digits}f}, {value.high * scale:+.{digits}f}]"


def _page(summary: CompatibilitySummary, directory: Path) -> Path | None:
    try:
        from lightning_graceful.report.compatibility.page import write_compatibility_page
    except ModuleNotFoundError:
        return None
    return write_compatibility_page(summary, directory / "page.html").resolve()

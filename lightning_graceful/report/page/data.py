"""What the scripts of the page read: figures, and the negative flips one by one. All of it is plain JSON."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go

from lightning_graceful.report import figures
from lightning_graceful.report.summary import Candidate, FlipRow, Summary

SHOWN = 60  # rows on the screen at once, and more with each press of the button
PAIRS = 8
PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*")


class Column(NamedTuple):
    """A column of the table of flips.

    Attributes:
        key: Its name in the CSV file.
        label: Its heading.
        kind: How its values are shown and sorted.
    """

    key: str
    label: str
    kind: Literal["name", "text", "share", "number"]


def page_data(summary: Summary) -> dict[str, Any]:
    """Collect what the scripts read.

    Args:
        summary: The comparison.

    Returns:
        Plain values, without NaN.
    """
    columns = _columns(summary)
    shown = {flip.id for candidate in summary.candidates for flip in candidate.flips}
    images = {key: uri for key, uri in summary.images.items() if key in shown and PICTURE.fullmatch(uri)}
    return {
        "columns": [column._asdict() for column in columns],
        "candidates": [_candidate(candidate, summary, columns) for candidate in summary.candidates],
        "hasCosts": summary.has_costs,
        "shown": SHOWN,
        "images": images,
        "figures": {key: _plain(figure) for key, figure in _figures(summary)},
    }


def _columns(summary: Summary) -> list[Column]:
    flips = [flip for candidate in summary.candidates for flip in candidate.flips]
    columns = [
        Column("target", "True class", "name"),
        Column("new", "New answer", "name"),
        Column("text", "Text", "text") if any(flip.text for flip in flips) else None,
        Column("new_confidence", "New confidence", "share") if _known(flips, "new_confidence") else None,
        Column("old_confidence", "Old confidence", "share") if _known(flips, "old_confidence") else None,
        Column("cost", "Cost", "number") if summary.has_costs else None,
        Column("id", "Id", "text"),
        Column("seed", "Seed", "text") if any(flip.seed is not None for flip in flips) else None,
        *(Column(f"slice:{name}", name, "text") for name in summary.slice_columns),
    ]
    return [column for column in columns if column is not None]


def _candidate(candidate: Candidate, summary: Summary, columns: list[Column]) -> dict[str, Any]:
    pairs = [(pair.target, pair.new, pair.count, pair.cost) for pair in candidate.pairs]
    kinds: tuple[Literal["count", "cost"], ...] = ("count", "cost") if summary.has_costs else ("count",)
    return {
        "name": candidate.name,
        "total": candidate.whole.broke,
        "rows": [[_value(flip, column.key, summary) for column in columns] for flip in candidate.flips],
        "ids": [flip.id for flip in candidate.flips],
        "pairs": {
            "count": sorted(pairs, key=lambda pair: -pair[2])[:PAIRS],
            "cost": sorted(pairs, key=lambda pair: -pair[3])[:PAIRS],
        },
        "heat": {by: _plain(figures.flip_figure(summary, candidate, by)) for by in kinds} if pairs else None,
        "confidence": _plain(figures.confidence_figure(candidate)) if _has_confidences(candidate) else None,
    }


def _figures(summary: Summary) -> Iterator[tuple[str, go.Figure]]:
    yield "rates", figures.rate_figure(summary)
    if len(summary.candidates) > 1:
        yield "frontier", figures.frontier_figure(summary)
        if any(one.nfr_against_first or one.error_against_first for one in summary.candidates):
            yield "differences", figures.difference_figure(summary)
    if any(one.slices for one in summary.candidates):
        yield "slices", figures.slice_figure(summary)
    if any(one.classes for one in summary.candidates):
        yield "classes", figures.class_figure(summary)
    for number, candidate in enumerate(summary.candidates):
        if candidate.calibration is not None:
            yield f"reliability-{number}", figures.reliability_figure(candidate, number)
    if summary.history is not None and summary.history.epochs:
        yield "churn", figures.churn_figure(summary.history)
        yield "times", figures.times_figure(summary.history)


def _value(flip: FlipRow, key: str, summary: Summary) -> str | float | None:
    if key.startswith("slice:"):
        place = summary.slice_columns.index(key.removeprefix("slice:"))
        return flip.slices[place] if place < len(flip.slices) else ""
    value = getattr(flip, key)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # Ids and seeds travel as text: int64 does not fit into a number of JavaScript.
    return None if value is None else str(value)


def _known(flips: list[FlipRow], key: str) -> bool:
    return any(math.isfinite(getattr(flip, key)) for flip in flips)


def _has_confidences(candidate: Candidate) -> bool:
    return any(any(row) for row in candidate.confidences or ())


def _plain(figure: go.Figure) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain

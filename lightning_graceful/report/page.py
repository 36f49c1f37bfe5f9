"""One self-contained HTML page of a comparison: no server, no network."""

import base64
import io
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import plotly.graph_objects as go
from PIL import Image as Picture
from plotly.offline import get_plotlyjs

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report import figures
from lightning_graceful.report.differences import (
    difference_words,
    paired_difference,
    paired_error_difference,
    rate_interval,
)
from lightning_graceful.report.evidence import Comparison, Image, Integers, Predictions, Way
from lightning_graceful.report.verdict import bounds, percent, points, seeds_of, verdict_lines

SHOWN = 60  # rows on the screen at once
KEPT = 1000  # rows a way in the file, so that a filter finds more than the worst
PAIRS = 8
THUMBNAIL = 112


class Cell(NamedTuple):
    """One cell of the summary: the number, what qualifies it, and the words of a difference."""

    main: str
    under: str = ""
    words: str = ""


class Line(NamedTuple):
    """One line of the summary, a cell for each way."""

    label: str
    hint: str
    cells: list[Cell]


def render_page(comparison: Comparison) -> str:
    """Render the page as one HTML text with everything inside: styles, scripts, figures, images.

    Args:
        comparison: The ways, the plain one first.

    Returns:
        The page.

    Example:
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> said = Predictions(np.arange(2), zeros, zeros, zeros, np.array([0, 1]), sure, sure)
        >>> "<h1>Digits</h1>" in render_page(Comparison("Digits", ["a", "b"], [Way("plain", said)]))
        True
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(typeset=_typeset, percent=percent)
    template = environment.from_string(files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        comparison=comparison,
        verdict=verdict_lines(comparison),
        summary=_summary(comparison),
        by_class=_by_class(comparison),
        data=_data(comparison),
        marks=figures.MARKS,
        palette=list(zip(figures.LIGHT, figures.DARK, strict=True)),
        plotly_js=get_plotlyjs(),
    )


def write_page(comparison: Comparison, path: str | Path) -> Path:
    """Write the page; a crash on the way leaves an earlier page as it was.

    Args:
        comparison: The ways, the plain one first.
        path: File to write; its folder is made.

    Returns:
        The path.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> said = Predictions(np.arange(2), zeros, zeros, zeros, np.array([0, 1]), sure, sure)
        >>> with TemporaryDirectory() as folder:
        ...     write_page(Comparison("Digits", ["a", "b"], [Way("plain", said)]), f"{folder}/page.html").name
        'page.html'
    """
    path = Path(path)
    page = render_page(comparison)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def worst_negative_flips(predictions: Predictions, limit: int | None = 60) -> Integers:
    """Rows of the negative flips, those first in which the new model is most sure of its mistake.

    Args:
        predictions: The rows.
        limit: Most rows to return; None for all.

    Returns:
        Row numbers, int64, shape ``(n,)``.

    Example:
        >>> zeros, sure = np.zeros(3, np.int64), np.array([0.5, 0.9, 0.7], np.float32)
        >>> said = Predictions(np.arange(3), zeros, zeros, zeros, np.array([1, 1, 0]), sure, sure)
        >>> worst_negative_flips(said).tolist()
        [1, 0]
    """
    rows = np.flatnonzero(predictions.negative)
    order = np.lexsort((predictions.seed[rows], predictions.id[rows], -predictions.new_confidence[rows]))
    return rows[order][:limit]


def _summary(comparison: Comparison) -> list[Line]:
    ways, plain = comparison.ways, comparison.plain
    lines = [
        Line("Samples tested", "", [_tested(way) for way in ways]),
        Line("Error, old model", "", [Cell(percent(way.predictions.error_old)) for way in ways]),
        Line("Error, new model", "", [_rate(way, way.predictions.wrong) for way in ways]),
        Line("Negative flips", "right before, wrong now", [Cell(f"{way.predictions.table[1, 0]:,}") for way in ways]),
        Line("Positive flips", "wrong before, right now", [Cell(f"{way.predictions.table[0, 1]:,}") for way in ways]),
        Line("NFR", "negative flips / samples", [_rate(way, way.predictions.negative) for way in ways]),
        Line(
            "Relative NFR",
            "100 % if they erred independently",
            [Cell(percent(way.predictions.relative_nfr, 1)) for way in ways],
        ),
    ]
    if len(ways) > 1:
        hint = f"in points, from {plain.name}"
        others = ways[1:]
        nfr = [_difference(paired_difference(way, plain)) for way in others]
        error = [_difference(paired_error_difference(way, plain)) for way in others]
        lines += [
            Line("Difference in NFR", hint, [Cell("–"), *nfr]),
            Line("Difference in error", hint, [Cell("–"), *error]),
        ]
    floor = "n/a" if comparison.noise_floor is None else percent(comparison.noise_floor)
    return [
        *lines,
        Line("Noise floor", "NFR between two plain seeds", [Cell(floor), *(Cell("") for _ in ways[1:])]),
        Line("Training time", "", [Cell(_duration(way.wall_seconds)) for way in ways]),
    ]


def _tested(way: Way) -> Cell:
    return Cell(f"{way.predictions.samples:,}", seeds_of(way))


def _rate(way: Way, flags: Any) -> Cell:
    interval = rate_interval(flags, way.predictions.id)
    return Cell(percent(interval.mean), bounds(interval))


def _difference(interval: Interval) -> Cell:
    number, _, limits = points(interval).partition(" points ")
    return Cell(number, limits, difference_words(interval))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _by_class(comparison: Comparison) -> list[dict[str, Any]]:
    targets = comparison.plain.predictions.target
    classes = len(comparison.class_names)
    flips = [
        np.bincount(way.predictions.target[way.predictions.negative], minlength=classes) for way in comparison.ways
    ]
    counts = np.bincount(targets, minlength=classes)
    return [
        {"name": name, "tested": int(counts[index]), "flips": [int(flip[index]) for flip in flips]}
        for index, name in enumerate(comparison.class_names)
    ]


def _data(comparison: Comparison) -> dict[str, Any]:
    ways = [_way_data(comparison, way) for way in comparison.ways]
    shown = {row[0] for way in ways for row in way["rows"]}
    return {
        "classes": list(comparison.class_names),
        "ways": ways,
        "start": min(1, len(ways) - 1),
        "shown": SHOWN,
        "colours": len(figures.LIGHT),
        "images": {str(key): _data_uri(image) for key, image in comparison.images.items() if str(key) in shown},
        "figures": {
            "overview": _plain(figures.overview_figure(comparison)),
            "by-class": _plain(figures.class_figure(comparison)),
        },
    }


def _way_data(comparison: Comparison, way: Way) -> dict[str, Any]:
    said, pairs = way.predictions, figures.flip_pairs(way.predictions)
    rows = worst_negative_flips(said, KEPT)
    # Ids and seeds travel as text: int64 does not fit into a number of JavaScript.
    columns = (
        said.id[rows].astype(str), said.seed[rows].astype(str), said.target[rows], said.new[rows],
        said.new_confidence[rows].astype(float), said.old_confidence[rows].astype(float),
    )  # fmt: skip
    return {
        "name": way.name,
        "total": int(said.table[1, 0]),
        "rows": [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)],
        "pairs": pairs[:PAIRS],
        "kinds": len(pairs),
        "figure": _plain(figures.flip_figure(comparison, way)) if pairs else None,
    }


def _plain(figure: go.Figure) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain


def _data_uri(image: Image) -> str:
    picture = Picture.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _typeset(text: str) -> str:
    # Minus signs, and a number that stays on one line with its unit.
    return re.sub(r"(?<![^\s\[])-(?=\d)", "−", text).replace(" %", "\u00a0%")

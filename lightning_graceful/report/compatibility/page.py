"""One self-contained HTML page of an evaluation: no server, no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lightning_graceful.report.compatibility.cells import group_tables, judgement, main_table, measure_tables
from lightning_graceful.report.compatibility.figures import all_figures, curve_name, predecessors
from lightning_graceful.report.compatibility.summary import CompatibilitySummary, LostQuery
from lightning_graceful.report.compatibility.words import (
    headline,
    hundredths,
    measure_name,
    measures_of,
    tenths,
    why_no_gain,
)
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.page.data import PICTURE
from lightning_graceful.report.page.template import environment

PACKAGES = ("lightning_graceful.report.compatibility", "lightning_graceful.report.page")
SCRIPTS = ("theme.js", "queries.js")
MOST_FLIPS = 1000
SHOWN = 30  # on the screen at once, and more with each press of the button


def render_compatibility_page(summary: CompatibilitySummary) -> str:
    """Render the page as one HTML text with everything inside: styles, scripts, figures, pictures.

    Args:
        summary: The evaluation. Of more than 1,000 flips the first are listed, half of them of either kind where there
            are as many.

    Returns:
        The page.

    Example:
        >>> summary = CompatibilitySummary("Digits", (), 0, 0, 1, {}, None, ())
        >>> "<h1>Digits</h1>" in render_compatibility_page(summary)
        True
    """
    made = environment(PACKAGES)
    words = {"hundredths": hundredths, "tenths": tenths, "measure_name": measure_name, "curve_name": curve_name}
    made.filters.update(words, judged=judgement)
    drawn = _drawn(summary)
    listed = _listed(summary.flips)
    return made.get_template("compatibility.html.jinja").render(
        summary=summary,
        lines=headline(summary),
        measures=[measure_name(measure) for measure in measures_of(summary)],
        no_gain=why_no_gain(summary, next(iter(measures_of(summary)), "map")),
        main=main_table(summary),
        tables=list(measure_tables(summary)),
        groups=group_tables(summary),
        figures=set(drawn),
        backfills=[name for name in drawn if name.startswith("backfill_")],
        backfill_measures=list(dict.fromkeys(curve.measure for curve in summary.curves)),
        olds=predecessors(summary.taxes),
        most=MOST_FLIPS,
        data={
            "figures": {f"figure-{name}": json.loads(figure.to_json()) for name, figure in drawn.items()},
            "queries": [_query(flip) for flip in listed],
            "total": len(summary.flips),
            "images": _images(listed, summary),
            "shown": SHOWN,
        },
        scripts=SCRIPTS,
        plotly_js=Markup(get_plotlyjs()),
    )


def write_compatibility_page(summary: CompatibilitySummary, path: str | Path) -> Path:
    """Write the page; a crash on the way leaves an earlier page as it was.

    Args:
        summary: The evaluation.
        path: File to write; its folder is made.

    Returns:
        The path.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     summary = CompatibilitySummary("Digits", (), 0, 0, 1, {}, None, ())
        ...     write_compatibility_page(summary, f"{folder}/page.html").name
        'page.html'
    """
    path = Path(path)
    page = render_compatibility_page(summary)
    with draft_of(path) as draft:
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _drawn(summary: CompatibilitySummary) -> dict[str, Any]:
    # Those that ways.jinja has room for: one way trades nothing off, and its update gain tells what cross gain would.
    drawn = all_figures(summary)
    idle = {"trade_off", *(["cross_gain"] if "update_gain" in drawn else [])} if len(summary.ways) == 1 else set()
    return {name: figure for name, figure in drawn.items() if name not in idle}


def _listed(flips: Sequence[LostQuery]) -> list[LostQuery]:
    # Of each kind at least half of what there is room for, if it has as many; in the order given.
    lost, found = ([flip for flip in flips if flip.change == change] for change in ("lost", "found"))
    room = max(MOST_FLIPS // 2, MOST_FLIPS - len(found))
    kept = {id(flip) for flip in lost[:room] + found[: MOST_FLIPS - min(room, len(lost))]}
    return [flip for flip in flips if id(flip) in kept]


def _query(flip: LostQuery) -> dict[str, Any]:
    lists = {
        "old": list(zip(flip.old_items, flip.old_labels, strict=True)),
        "new": list(zip(flip.new_items, flip.new_labels, strict=True)),
    }
    return {"id": flip.id, "label": flip.label, "change": flip.change, **lists}


def _images(flips: Sequence[LostQuery], summary: CompatibilitySummary) -> dict[str, str]:
    shown = {key for flip in flips for key in (flip.id, *flip.old_items, *flip.new_items)}
    return {key: uri for key, uri in summary.images.items() if key in shown and PICTURE.fullmatch(uri)}

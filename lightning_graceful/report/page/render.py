"""The page as one text: template, styles, scripts, figures and plotly.js put together."""

from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lightning_graceful.report.card import VERDICTS, card_lines
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.page.data import page_data
from lightning_graceful.report.page.tables import group_tables, side_by_side
from lightning_graceful.report.page.template import environment
from lightning_graceful.report.summary import Summary
from lightning_graceful.report.verdict import written_limit, written_value

SCRIPTS = ("theme.js", "groups.js", "flips.js", "start.js")
SIGNS = {"accept": "✓", "reject": "✕", "undecided": "?"}


def render_page(summary: Summary) -> str:
    """Render the page as one HTML text with everything inside: styles, scripts, figures, images.

    Args:
        summary: The comparison.

    Returns:
        The page.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Candidate, Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> "<h1>Digits</h1>" in render_page(Summary("Digits", (Candidate("new", tally, rate, 1.0),), ("a", "b")))
        True
    """
    return _environment().get_template("page.html.jinja").render(
        summary=summary,
        candidates=summary.candidates,
        lines=side_by_side(summary),
        tables=group_tables(summary),
        data=page_data(summary),
        scripts=SCRIPTS,
        plotly_js=Markup(get_plotlyjs()),
    )  # fmt: skip


def write_page(summary: Summary, path: str | Path) -> Path:
    """Write the page; a crash on the way leaves an earlier page as it was.

    Args:
        summary: The comparison.
        path: File to write; its folder is made.

    Returns:
        The path.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Candidate, Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> with TemporaryDirectory() as folder:
        ...     summary = Summary("Digits", (Candidate("new", tally, rate, 1.0),), ("a", "b"))
        ...     write_page(summary, f"{folder}/page.html").name
        'page.html'
    """
    path = Path(path)
    page = render_page(summary)
    with draft_of(path) as draft:
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _environment() -> jinja2.Environment:
    made = environment(["lightning_graceful.report.page"])
    made.filters.update(written_limit=written_limit, written_value=written_value)
    made.globals.update(card_lines=card_lines, verdicts=VERDICTS, signs=SIGNS)
    return made

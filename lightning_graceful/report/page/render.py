"""The page as one text: template, styles, scripts, figures and plotly.js put together."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from lightning_graceful.report.card import VERDICTS, card_lines
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.figures.canvas import DARK, INVISIBLE, LIGHT, MARKS
from lightning_graceful.report.page.data import page_data
from lightning_graceful.report.page.tables import group_tables, side_by_side
from lightning_graceful.report.summary import Summary
from lightning_graceful.report.verdict import written_limit, written_value
from lightning_graceful.report.words import bounds, percent

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
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_source), finalize=_visible,
    )  # fmt: skip
    environment.filters.update(
        typeset=_typeset, percent=percent, bounds=bounds, written_limit=written_limit, written_value=written_value
    )
    environment.globals.update(
        asset=lambda name: Markup(_source(name)), card_lines=card_lines, verdicts=VERDICTS, signs=SIGNS, marks=MARKS,
        palette=list(zip(LIGHT, DARK, strict=True)),
    )  # fmt: skip
    return environment


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _visible(value: Any) -> Any:
    # Line ends stay: they are markup's own, and of what users give no text is shown on more than one line.
    if isinstance(value, str) and not isinstance(value, Markup):
        return INVISIBLE.sub(lambda found: found[0] if found[0] in "\t\n\r" else "\ufffd", value)
    return value


def _typeset(text: str) -> Markup:
    # Minus signs, and a number that stays on one line with its unit or within its brackets.
    signs = re.sub(r"(?<![^\s\[])-(?=\d)", "−", text)
    signs = re.sub(r"(?<=\d) (?=%|points\b)", "\u00a0", signs)
    return Markup(re.sub(r"\[[−+.\d]+, [−+.\d]+\]", r'<span class="whole">\g<0></span>', str(escape(_visible(signs)))))

"""What the templates of all pages share: where they lie, escaping, how numbers are set, colours and signs of ways."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lightning_graceful.report.figures.canvas import DARK, INVISIBLE, LIGHT, MARKS
from lightning_graceful.report.words import bounds, percent


def environment(packages: Sequence[str]) -> jinja2.Environment:
    """Make the environment of a page's templates: everything is escaped, and nothing undefined is passed over.

    Args:
        packages: Dotted names of the packages in which templates, styles and scripts are looked for, in this order.

    Returns:
        The environment; ``asset(name)`` puts a file in as it is.

    Example:
        >>> page = environment(["lightning_graceful.report.page"])
        >>> page.from_string("{{ text }} {{ number|typeset }}").render(text="<b>", number="[-1, 2]")
        '&lt;b&gt; <span class="whole">[−1, 2]</span>'
    """

    def source(name: str) -> str:
        found = (files(package).joinpath(name) for package in packages)
        return next(file for file in found if file.is_file()).read_text(encoding="utf-8")

    made = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(source), finalize=_visible,
    )  # fmt: skip
    made.filters.update(typeset=_typeset, percent=percent, bounds=bounds)
    palette = list(zip(LIGHT, DARK, strict=True))
    made.globals.update(asset=lambda name: Markup(source(name)), marks=MARKS, palette=palette)
    return made


def _visible(value: Any) -> Any:
    # Line ends stay: they are markup's own, and of what users give no text is shown on more than one line.
    if isinstance(value, str) and not isinstance(value, Markup):
        return INVISIBLE.sub(lambda found: found[0] if found[0] in "\t\n\r" else "\ufffd", value)
    return value


def _typeset(text: str) -> Markup:
    # Minus signs, and a number that stays on one line with its unit or within its brackets.
    signs = re.sub(r"(?<![^\s\[])-(?=[\d∞])", "−", text)
    signs = re.sub(r"(?<=\d) (?=%|points\b)", "\u00a0", signs)
    return Markup(
        re.sub(r"\[[−+.\d∞]+, [−+.\d∞]+\]", r'<span class="whole">\g<0></span>', str(escape(_visible(signs))))
    )

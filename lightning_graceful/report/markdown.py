"""A comparison as Markdown, for a comment on a pull request; names make no link, no mention and no markup."""

import html
import re
from collections.abc import Iterable, Sequence

from lightning_graceful.report.card import VERDICTS, card
from lightning_graceful.report.summary import Candidate, Check, Group, Summary
from lightning_graceful.report.verdict import written_limit, written_value
from lightning_graceful.report.words import counted, measured

SIGNS = {"accept": "✅", "reject": "❌", "undecided": "❔"}
MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
MOST_GROUPS = 20
MOST_CHECKS = 50  # a comment on GitHub holds 65,536 characters


def to_markdown(summary: Summary) -> str:
    """Write a comparison as Markdown (GitHub's and GitLab's kind).

    Args:
        summary: The comparison.

    Returns:
        The text: verdict and counts, checks, what changed, for whom.
    """
    parts = [f"## {literal(summary.title)}"]
    for candidate in summary.candidates:
        parts += _candidate(candidate, summary)
    return "\n\n".join(parts) + "\n"


def literal(text: str) -> str:
    r"""Escape a text so that Markdown and HTML show it as it is.

    Args:
        text: Any text.

    Returns:
        The text on one line. Behind ``@`` and ``#`` comes a space of no width, so that nobody is mentioned and no issue
        is linked (an entity for the sign itself is resolved before mentions are looked for).

    Example:
        >>> print(literal("a|b <img> @you"))
        a\|b &lt;img&gt; @&#8203;you
    """
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    escaped = MARKUP.sub(r"\\\1", html.escape(line, quote=False))
    return (
        escaped
        .replace("@", "@&#8203;")
        .replace("\\#", "\\#&#8203;")
        .replace("://", "&#58;//")
        .replace("www.", "www&#46;")
    )


def _candidate(candidate: Candidate, summary: Summary) -> Iterable[str]:
    verdict, *sections = card(candidate, summary)
    sign = f"{SIGNS[candidate.ruling.decision]} " if candidate.ruling else ""
    yield f"### {sign}{literal(verdict.title)}"
    yield "\n".join(f"- {literal(line)}" for line in verdict.lines)
    if candidate.ruling:
        yield _folded(counted(len(candidate.ruling.checks), "check"), _checks(candidate.ruling.checks))
    for section in sections:
        body = "\n".join(f"- {literal(line)}" for line in section.lines)
        yield (
            f"**{literal(section.title)}**\n\n{body}"
            if section.title == "What changed"
            else _folded(section.title, body)
        )
    if groups := [*candidate.slices, *candidate.classes]:
        yield _folded("Slices and classes", _groups(groups))


def _checks(checks: Sequence[Check]) -> str:
    rows = [
        (check.rule, check.where, written_value(check), written_limit(check), VERDICTS[check.decision].lower())
        for check in checks[:MOST_CHECKS]
    ]
    left = f"\n\nThe first {len(rows)} of {len(checks):,}." if len(rows) < len(checks) else ""
    return _table(("Rule", "Where", "Measured", "Limit", "Decision"), rows) + left


def _groups(groups: Sequence[Group]) -> str:
    worst = sorted(groups, key=lambda group: -group.tally.nfr.mean)[:MOST_GROUPS]
    rows = [
        (
            group.where,
            f"{group.tally.rows:,}",
            f"{group.tally.broke:,}",
            f"{group.tally.fixed:,}",
            measured(group.tally.nfr),
        )
        for group in worst
    ]
    left = f"\n\nThe worst {len(worst)} of {len(groups):,}." if len(worst) < len(groups) else ""
    return _table(("Where", "Rows", "Broke", "Fixed", "NFR"), rows) + left


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([literal(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>\n\n{body}\n\n</details>"

"""An evaluation as plain JSON for other programs, and as Markdown for a comment on a pull request."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.cells import (
    MOST_GROUPS,
    Cell,
    Table,
    group_tables,
    judgement,
    main_table,
)
from lightning_graceful.report.compatibility.summary import CompatibilitySummary, Matrix
from lightning_graceful.report.compatibility.words import beats_own, headline, hundredths, measure_name, tenths
from lightning_graceful.report.markdown import literal

FORMAT = 1
LEFT_OUT = ("images",)
MOST_VERSIONS = 20  # a comment on GitHub holds 65,536 characters


def compatibility_to_json(summary: CompatibilitySummary) -> str:
    """Write an evaluation as JSON: the fields of :class:`CompatibilitySummary`, intervals as mean, low and high.

    Args:
        summary: The evaluation; pictures are left out.

    Returns:
        JSON text; NaN and Inf, which JSON lacks, are null.

    Example:
        >>> summary = CompatibilitySummary("Digits", (), 10, 20, 1, {"map": Interval(0.5, 0.4, math.nan)}, None, ())
        >>> json.loads(compatibility_to_json(summary))["old_self_test"]
        {'map': {'mean': 0.5, 'low': 0.4, 'high': None}}
    """
    fields = {name: value for name, value in _plain(summary).items() if name not in LEFT_OUT}
    return json.dumps({"format": FORMAT} | fields, indent=2, allow_nan=False) + "\n"


def compatibility_to_markdown(summary: CompatibilitySummary) -> str:
    """Write an evaluation as Markdown (GitHub's and GitLab's kind); names make no link, no mention and no markup.

    Args:
        summary: The evaluation.

    Returns:
        The text: what came out, ways, groups, versions, backfill, chain, notes.
    """
    parts = [f"## {literal(summary.title)}", *(literal(line) for line in headline(summary))]
    if summary.ways:
        verdicts = [f"{one.sign} {one.word}" for one in map(judgement, summary.ways)]
        parts.append(_of_ways(summary, main_table(summary), verdicts))
    parts += [*_groups(summary), *_further(summary), *_notes(summary)]
    return "\n\n".join(parts) + "\n"


def _groups(summary: CompatibilitySummary) -> Iterator[str]:
    # Of many groups the first measure alone, a few side by side; results.json has the others.
    tables = group_tables(summary)
    if tables:
        yield "**Cross test by group of queries**"
    if len(tables) == 1:
        yield _of_ways(summary, tables[0])
        return
    for table in tables[:1]:
        for first in range(0, len(table.heads), MOST_GROUPS):
            part = slice(first, first + MOST_GROUPS)
            yield _of_ways(summary, Table(table.heads[part], [], [row[part] for row in table.rows], None))


def _of_ways(summary: CompatibilitySummary, table: Table, verdicts: Sequence[str] = ()) -> str:
    # old/old first, the paragon last, as on the page.
    blank = [""] if verdicts else []
    heads = ["Way", *(["Compatible"] if verdicts else []), *(" ".join(head).strip() for head in table.heads)]
    rows = [["old/old", *blank, *map(_written, table.first)]] if table.first else []
    for place, (way, line) in enumerate(zip(summary.ways, table.rows, strict=True)):
        name = f"{way.name} ({way.detail})" if way.detail else way.name
        rows.append([name, *verdicts[place : place + 1], *map(_written, line)])
    if table.last is not None:
        rows.append(["paragon", *blank, *map(_written, table.last)])
    return _table(heads, rows)


def _further(summary: CompatibilitySummary) -> Iterator[str]:
    if summary.matrix is not None:
        average = hundredths(summary.matrix.average_compatibility)
        name = measure_name(summary.matrix.measure)
        yield f"**{literal(name)} of queries (rows) in galleries (columns)**; average compatibility {average}"
        yield _matrix(summary.matrix)
    if summary.curves:
        rows = [[curve.name, measure_name(curve.measure), tenths(curve.area)] for curve in summary.curves]
        yield _table(["Backfill", "Measure", "Area"], rows)
    if summary.taxes:
        olds = list(dict.fromkeys(old for step in summary.taxes for old in step.nfr))
        rows = [
            [
                step.version,
                tenths(step.tax.mean),
                *(tenths(step.nfr[old].mean) if old in step.nfr else "" for old in olds),
            ]
            for step in summary.taxes
        ]
        yield _table(["Version", "Tax", *(f"NFR against {old}" for old in olds)], rows)
    if summary.downstream:
        rows = [
            [line.name, *("" if math.isnan(one) else tenths(one) for one in (line.old, line.mixed, line.new))]
            for line in summary.downstream
        ]
        yield _table(["Built on old embeddings", "Old", "Mixed", "New"], rows)
    if summary.flips:
        lost = [flip.change for flip in summary.flips].count("lost")
        yield f"Retrieval flips: {lost:,} lost, {len(summary.flips) - lost:,} found."


def _matrix(matrix: Matrix) -> str:
    first = max(len(matrix.versions) - MOST_VERSIONS, 0)
    places = range(first, len(matrix.versions))
    rows = [
        [
            matrix.versions[i],
            *(f"{tenths(float(matrix.values[i, j]))}{' ✓' if beats_own(matrix, i, j) else ''}" for j in places),
        ]
        for i in places
    ]
    return _table(["", *matrix.versions[first:]], rows)


def _notes(summary: CompatibilitySummary) -> Iterator[str]:
    if lines := (*summary.protocol, *summary.notes):
        yield "\n".join(f"- {literal(line)}" for line in lines)
    yield "Percent and points; brackets hold 95 % intervals over queries."


def _written(cell: Cell) -> str:
    return " ".join(part for part in cell if part)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        [literal(head) for head in heads],
        ["---"] * len(heads),
        *([literal(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value

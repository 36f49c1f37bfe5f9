"""An evaluation of compatible embeddings in a W&B run: tables, charts, numbers for the table of runs, and the page."""

import math
import re
from collections.abc import Iterator
from typing import Any

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.export import compatibility_to_json
from lightning_graceful.report.compatibility.figures import all_figures
from lightning_graceful.report.compatibility.page import render_compatibility_page
from lightning_graceful.report.compatibility.summary import CompatibilitySummary, LostQuery, Matrix, Way
from lightning_graceful.report.compatibility.words import measures_of, verdict_of

FIELDS = ("cross_test", "self_test", "shared_self_test", "cross_gain", "update_gain", "tax")
SCALARS = ("cross_test", "self_test", "update_gain", "tax")
MAX_ROWS = 10_000  # wandb.Table.MAX_ROWS: of more, W&B shows none


def log_compatibility(run: Any, summary: CompatibilitySummary, *, stage: str = "test") -> None:
    """Log an evaluation into a W&B run that somebody else has begun and will end.

    In one step: ``compatibility/ways``, ``/matrix_table``, ``/backfill``, ``/downstream`` and ``/flips`` as tables
    (where there are any), the figures of the page, and ``compatibility/page``. In the run's summary, of the first
    measure: ``test/cross_test``, ``test/self_test``, ``test/update_gain``, ``test/tax`` and
    ``test/is_backward_compatible``, each followed by the name of the way where there are several, as in
    ``test/tax/influence``; what is NaN is left out. As an artifact of type ``evaluation``: ``page.html`` and
    ``compatibility.json``.

    Args:
        run: The run.
        summary: The evaluation.
        stage: What the keys in the run's summary begin with.
    """
    import wandb

    page = render_compatibility_page(summary).encode("utf-8", "backslashreplace").decode("utf-8")
    logged: dict[str, Any] = {f"compatibility/{name}": table for name, table in _tables(summary)}
    logged |= {f"compatibility/{name}": wandb.Plotly(figure) for name, figure in all_figures(summary).items()}
    run.log(logged | {"compatibility/page": wandb.Html(page, inject=False)})
    run.summary.update(dict(_scalars(summary, stage)))
    artifact = wandb.Artifact(
        f"compatibility-{run.id}",
        "evaluation",
        metadata={"queries": summary.queries, "gallery": summary.gallery, "seeds": summary.seeds},
    )
    for name, text in (("page.html", page), ("compatibility.json", compatibility_to_json(summary))):
        with artifact.new_file(name, mode="w", encoding="utf-8") as file:
            file.write(text)
    run.log_artifact(artifact)


def _scalars(summary: CompatibilitySummary, stage: str) -> Iterator[tuple[str, float | bool]]:
    measures, names = measures_of(summary), _key_names(summary.ways)
    for way, name in zip(summary.ways, names, strict=True):
        suffix = f"/{name}" if len(names) > 1 else ""
        for field in SCALARS if measures else ():
            interval = getattr(way, field).get(measures[0])
            if interval is not None and math.isfinite(interval.mean):
                yield f"{stage}/{field}{suffix}", interval.mean
        if verdict_of(way).word != "n/a":
            yield f"{stage}/is_backward_compatible{suffix}", verdict_of(way).word == "yes"


def _key_names(ways: tuple[Way, ...]) -> list[str]:
    # W&B takes dots and slashes for levels. Names that become alike are told apart by their place.
    made = [re.sub(r"[^\w-]+", "_", way.name)[:64].strip("_") or "way" for way in ways]
    return [f"{name}_{place}" if made.count(name) > 1 else name for place, name in enumerate(made)]


def _tables(summary: CompatibilitySummary) -> Iterator[tuple[str, Any]]:
    import wandb

    heads = [f"{field}{end}" for field in FIELDS for end in ("", "_low", "_high")]
    columns = ["way", "detail", "compatible", "measure", *heads, "train_seconds"]
    yield "ways", wandb.Table(columns=[*columns], data=[row for way in summary.ways for row in _rows(way, summary)])
    if summary.matrix is not None:
        yield (
            "matrix_table",
            wandb.Table(columns=["queries", "gallery", "measure", "value"], data=[*_cells(summary.matrix)]),
        )
    if summary.curves:
        points = [
            [curve.name, curve.measure, share, value, curve.area]
            for curve in summary.curves
            for share, value in zip(curve.share.tolist(), curve.values.tolist(), strict=True)
        ]
        yield "backfill", wandb.Table(columns=["curve", "measure", "share", "value", "area"], data=points[:MAX_ROWS])
    if summary.downstream:
        lines = [
            [line.name, *(one if math.isfinite(one) else None for one in (line.old, line.mixed, line.new))]
            for line in summary.downstream
        ]
        yield "downstream", wandb.Table(columns=["name", "old", "mixed", "new"], data=lines)
    if summary.flips:
        columns = ["id", "label", "change", "old_items", "old_labels", "new_items", "new_labels"]
        yield "flips", wandb.Table(columns=[*columns], data=[_flip(flip) for flip in summary.flips[:MAX_ROWS]])


def _rows(way: Way, summary: CompatibilitySummary) -> Iterator[list[Any]]:
    unknown = Interval(math.nan, math.nan, math.nan)
    for measure in measures_of(summary):
        ends = [end for field in FIELDS for end in getattr(way, field).get(measure, unknown)]
        numbers = [end if math.isfinite(end) else None for end in ends]
        yield [way.name, way.detail, verdict_of(way).short, measure, *numbers, way.train_seconds]


def _cells(matrix: Matrix) -> Iterator[list[Any]]:
    for i, query in enumerate(matrix.versions):
        for j, gallery in enumerate(matrix.versions):
            yield [query, gallery, matrix.measure, float(matrix.values[i, j])]


def _flip(flip: LostQuery) -> list[str]:
    lists = (flip.old_items, flip.old_labels, flip.new_items, flip.new_labels)
    return [flip.id, flip.label, flip.change, *(", ".join(items) for items in lists)]

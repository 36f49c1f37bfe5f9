"""The charts of a comparison in W&B: its own kinds where it has them, the figures of the page where it has none."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_graceful.report.summary import Candidate, Summary

MOST_BARS, MOST_CLASSES, MOST_POINTS = 50, 40, 1000


def charts(summary: Summary, stage: str) -> dict[str, Any]:
    """Draw a comparison.

    Args:
        summary: The comparison; its first candidate is drawn.
        stage: ``"val"`` or ``"test"``, for titles.

    Returns:
        What ``wandb.Run.log`` takes, by name: ``nfr_by_class`` and, where anything broke, ``between_classes`` and
        ``confidence``, of W&B's own kinds; ``quadrants``, ``rates`` and, where they are known, ``reliability``,
        ``slices`` and ``epochs``, as plotly figures.
    """
    import wandb

    candidate = summary.first
    own = {"nfr_by_class": _by_class(candidate, stage)}
    if candidate.flips:
        own |= {"between_classes": _between_classes(candidate, stage), "confidence": _confidence(candidate, stage)}
    return own | {name: wandb.Plotly(figure) for name, figure in _figures(summary).items()}


def _figures(summary: Summary) -> dict[str, Any]:
    from lightning_graceful.report import figures

    drawn = {"quadrants": figures.quadrant_figure(summary), "rates": figures.rate_figure(summary)}
    if summary.first.calibration is not None:
        drawn["reliability"] = figures.reliability_figure(summary.first)
    if summary.first.slices:
        drawn["slices"] = figures.slice_figure(summary)
    if summary.history is not None:
        drawn["epochs"] = figures.churn_figure(summary.history)
    return drawn


def _by_class(candidate: Candidate, stage: str) -> Any:
    import wandb

    worst = sorted(candidate.classes, key=lambda group: -group.tally.nfr.mean)
    bars = [[group.value, 100 * group.tally.nfr.mean] for group in worst[:MOST_BARS]]
    some = f", worst {MOST_BARS} of {len(worst):,}" if len(worst) > MOST_BARS else ""
    table = wandb.Table(["class", "NFR (%)"], bars)
    return wandb.plot.bar(table, "class", "NFR (%)", title=f"NFR by class ({stage}{some})")


def _confidence(candidate: Candidate, stage: str) -> Any:
    import wandb

    points = [[flip.old_confidence, flip.new_confidence] for flip in candidate.flips[:MOST_POINTS]]
    some = f", {len(points):,} of {candidate.whole.broke:,}" if len(points) < candidate.whole.broke else ""
    x, y = "old confidence", "new confidence"
    return wandb.plot.scatter(wandb.Table([x, y], points), x, y, title=f"Negative flips by confidence ({stage}{some})")


def _between_classes(candidate: Candidate, stage: str) -> Any:
    import wandb

    names = list(dict.fromkeys(name for pair in candidate.pairs for name in (pair.target, pair.new)))
    axis, counts = names[:MOST_CLASSES], {(pair.target, pair.new): pair.count for pair in candidate.pairs}
    some = f", {MOST_CLASSES} of {len(names):,} classes" if len(names) > MOST_CLASSES else ""
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(["Actual", "Predicted", "nPredictions"], list(_grid(axis, counts))),
        fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        string_fields={"title": f"Negative flips: true class (the old answer) and new answer ({stage}{some})"},
    )


def _grid(axis: Sequence[str], counts: Mapping[tuple[str, str], int]) -> Iterable[list[Any]]:
    return ([target, new, counts.get((target, new), 0)] for target in axis for new in axis)

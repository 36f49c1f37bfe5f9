"""The figures of a comparison (plotly). Each can be used alone; names in them are text, never markup."""

from lightning_graceful.report.figures.canvas import text_of
from lightning_graceful.report.figures.confidence import confidence_figure, reliability_figure
from lightning_graceful.report.figures.epochs import churn_figure, times_figure
from lightning_graceful.report.figures.frontier import difference_figure, frontier, frontier_figure
from lightning_graceful.report.figures.groups import class_figure, slice_figure
from lightning_graceful.report.figures.pairs import flip_figure
from lightning_graceful.report.figures.rates import quadrant_figure, rate_figure

__all__ = [
    "churn_figure",
    "class_figure",
    "confidence_figure",
    "difference_figure",
    "flip_figure",
    "frontier",
    "frontier_figure",
    "quadrant_figure",
    "rate_figure",
    "reliability_figure",
    "slice_figure",
    "text_of",
    "times_figure",
]

"""The figures of an evaluation (plotly): ways, versions, backfill, chain. Names in them are text, never markup."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.summary import ChainStep, CompatibilitySummary, Curve, Matrix, Way
from lightning_graceful.report.compatibility.words import (
    beats_own,
    interval_in,
    is_baseline,
    measure_name,
    measures_of,
    tenths,
    verdict_of,
)
from lightning_graceful.report.figures.canvas import (
    LIGHT,
    bars,
    canvas,
    cells,
    look,
    name_axis,
    shifts,
    short,
    text_of,
)

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
DIFFERENCES = {
    "update_gain": "update gain",
    "cross_gain": "cross test less old/old (points)",
    "tax": "paragon less self test (points)",
}
SCALES = {"update_gain": (1, 2)}  # others in points with one decimal
MOST_MARKS = 12  # on a line
MOST_NUMBERED = 16  # versions with which the numbers still fit into the cells


def all_figures(summary: CompatibilitySummary) -> dict[str, go.Figure]:
    """Draw whatever there is to draw.

    Args:
        summary: The evaluation.

    Returns:
        By name: ``update_gain``, ``cross_gain``, ``tax``, ``trade_off``, ``matrix``, ``backfill_<measure>``,
        ``chain_tax`` and ``chain_nfr``.
    """
    return dict(_drawn(summary))


def difference_figure(summary: CompatibilitySummary, field: str) -> go.Figure:
    """Draw a difference of all ways in all measures, with intervals at 95 %: a row a way, a sign a measure.

    Args:
        summary: The evaluation.
        field: "update_gain", "cross_gain" or "tax".

    Returns:
        The figure; ways without a finite number have an empty row. Where more is better, one that is worse by far, such
        as an independent training, lies at the edge with its number beside it.

    Example:
        >>> test, rise = {"map": Interval(0.5, 0.4, 0.6)}, {"map": Interval(0.25, 0.0, 0.5)}
        >>> way = Way("copy", "", test, test, test, rise, {}, {})
        >>> summary = CompatibilitySummary("Digits", (), 10, 10, 1, test, None, (way,))
        >>> [(trace.name, trace.x) for trace in difference_figure(summary, "cross_gain").data]
        [('mAP', (25.0,))]
    """
    measures, scale, digits = measures_of(summary), *SCALES.get(field, (100, 1))
    intervals = [interval_in(getattr(way, field), measure) for way in summary.ways for measure in measures]
    floor = -math.inf if field == "tax" else _floor(intervals)
    figure = canvas(DIFFERENCES[field], "", height=110 + 44 * len(summary.ways))
    for number, (measure, shift) in enumerate(zip(measures, shifts(len(measures)), strict=True)):
        drawn = [
            (place, interval) for place, way in enumerate(summary.ways)
            if _is_finite(interval := interval_in(getattr(way, field), measure))
        ]  # fmt: skip
        intervals = [_scaled(interval, scale, floor) for _, interval in drawn]
        numbers = [f"{scale * interval.mean:.{digits}f}".replace("-", "−") for _, interval in drawn]
        style = look(number, measure_name(measure)) | {"mode": "markers+text", "textfont": {"size": 10}}
        figure.add_scatter(
            x=[100 * interval.mean for interval in intervals], y=[place + shift for place, _ in drawn],
            error_x=bars(intervals), **style,
            text=[f"← {said}" if one.mean < floor else "" for said, (_, one) in zip(numbers, drawn, strict=True)],
            textposition="middle right",
            customdata=[
                [text_of(short(summary.ways[place].name, 40)), said]
                for said, (place, _) in zip(numbers, drawn, strict=True)
            ],
            hovertemplate="%{customdata[0]}: %{customdata[1]}",
        )  # fmt: skip
    for place in (0, 1) if field == "update_gain" else (0,):
        figure.add_vline(x=place, line={"width": 1, "dash": "solid" if place == 0 else "dot"})
    name_axis(figure.layout.yaxis, [way.name for way in summary.ways], reverse=True, longest=20)
    return figure


def trade_off_figure(summary: CompatibilitySummary, measure: str) -> go.Figure:
    """Draw what each way gains without re-indexing against what it costs with it: the best are on top and to the left.

    Args:
        summary: The evaluation.
        measure: The measure.

    Returns:
        The figure, with intervals at 95 % in both directions.

    Example:
        >>> number = {"map": Interval(0.5, 0.4, 0.6)}
        >>> way = Way("copy", "", number, number, number, number, number, number)
        >>> summary = CompatibilitySummary("Digits", (), 10, 10, 1, number, number, (way,))
        >>> [(trace.name, trace.x, trace.y) for trace in trade_off_figure(summary, "map").data]
        [('copy', (50.0,), (0.5,))]
    """
    name = text_of(measure_name(measure))
    figure = canvas(f"tax in {name} (points)", f"update gain in {name}", height=400)
    floor = _floor([interval_in(way.update_gain, measure) for way in summary.ways])
    for number, way in enumerate(summary.ways):
        gain, tax = _gain_and_tax(way, measure)
        if not (_is_finite(gain) and _is_finite(tax)):
            continue
        drawn, style = _scaled(gain, 1, floor), look(number, way.name) | {"mode": "markers+text"}
        if verdict_of(way).word != "yes" or is_baseline(way):
            style["marker"] |= {"symbol": f"{style['marker']['symbol']}-open"}
        figure.add_scatter(
            x=[100 * tax.mean], y=[100 * drawn.mean], error_x=bars([tax]), error_y=bars([drawn]), **style,
            text=[f"↓ {gain.mean:.2f}".replace("-", "−") if gain.mean < floor else ""], textposition="top center",
            customdata=[f"{gain.mean:.2f}"], hovertemplate="tax %{x:.1f} points<br>update gain %{customdata}",
        )  # fmt: skip
    return figure.add_hline(y=0, line={"width": 1}).add_vline(x=0, line={"width": 1})


def matrix_figure(matrix: Matrix) -> go.Figure:
    """Draw a measure for all pairs of versions, queries of later ones in galleries of earlier ones.

    Args:
        matrix: The measures.

    Returns:
        Heat map of the lower triangle: a tick where a later version beats the gallery's own one, a cross where not.

    Example:
        >>> import numpy as np
        >>> matrix = Matrix("map", ("v1", "v2"), np.array([[0.5, 0.25], [0.625, 0.75]]), 1.0)
        >>> matrix_figure(matrix).data[0].text
        (['50.0', ''], ['62.5 ✓', '75.0'])
    """
    count = len(matrix.versions)
    grid = [[100 * float(matrix.values[i, j]) if j <= i else None for j in range(count)] for i in range(count)]
    few = count <= MOST_NUMBERED
    figure = canvas("gallery", "queries", height=130 + max(120, 44 * min(count, MOST_NUMBERED)))
    figure.add_heatmap(
        z=grid, **cells("cell"), hoverongaps=False, showscale=not few, texttemplate="%{text}" if few else "",
        text=[[_cell(matrix, i, j) for j in range(count)] for i in range(count)],
        customdata=[[[text_of(short(i, 40)), text_of(short(j, 40))] for j in matrix.versions] for i in matrix.versions],
        hovertemplate="%{customdata[0]} in the gallery of %{customdata[1]}: %{text}<extra></extra>",
    )  # fmt: skip
    name_axis(figure.layout.xaxis, matrix.versions)
    name_axis(figure.layout.yaxis, matrix.versions, reverse=True)
    return figure.update_layout(margin={"t": 8})


def backfill_figure(summary: CompatibilitySummary, measure: str) -> go.Figure:
    """Draw a measure while the old gallery is replaced, for each order; the dashed line is old/old.

    Args:
        summary: The evaluation.
        measure: The measure; curves of others are left out.

    Returns:
        The figure; names of curves hold their area.

    Example:
        >>> import numpy as np
        >>> curve = Curve("random", "map", np.array([0.0, 1.0]), np.array([0.5, 0.75]), 0.625)
        >>> summary = CompatibilitySummary("Digits", (), 10, 10, 1, {}, None, (), curves=(curve,))
        >>> backfill_figure(summary, "map").data[0].name
        'random: area 62.5'
    """
    figure = canvas("share of the gallery that is new (%)", f"{text_of(measure_name(measure))} (%)", height=380)
    for number, curve in enumerate(curve for curve in summary.curves if curve.measure == measure):
        figure.add_scatter(
            x=(100 * curve.share).tolist(), y=(100 * curve.values).tolist(), **_line(number, curve_name(curve)),
            hovertemplate="%{x:.0f} % new: %{y:.1f} %",
        )  # fmt: skip
    old = interval_in(summary.old_self_test, measure).mean
    if math.isfinite(old):
        figure.add_hline(
            y=100 * old, line={"dash": "dash", "width": 1}, annotation={"text": "old/old", "showarrow": False},
            annotation_position="bottom right",
        )  # fmt: skip
    return figure


def curve_name(curve: Curve) -> str:
    """Name a curve with its area, the mean of the measure over the refresh.

    Args:
        curve: The curve.

    Returns:
        The name.
    """
    return f"{short(curve.name, 40)}: area {tenths(curve.area)}"


def chain_tax_figure(steps: Sequence[ChainStep]) -> go.Figure:
    """Draw what compatibility costs against the number of versions before, with intervals at 95 %.

    Args:
        steps: The versions, oldest first.

    Returns:
        The figure.

    Example:
        >>> chain_tax_figure([ChainStep("v1", Interval(0.0, 0, 0)), ChainStep("v2", Interval(0.25, 0, 1))]).data[0].y
        (0.0, 25.0)
    """
    figure = canvas("version", "tax (points)", height=320)
    places = [place for place, step in enumerate(steps) if math.isfinite(step.tax.mean)]
    taxes = [steps[place].tax for place in places]
    figure.add_scatter(
        x=places, y=[100 * tax.mean for tax in taxes], error_y=bars(taxes), **_line(0, "tax"),
        hovertemplate="%{y:.1f} points",
    )  # fmt: skip
    figure.add_hline(y=0, line={"width": 1})
    name_axis(figure.layout.xaxis, [step.version for step in steps])
    return figure


def chain_nfr_figure(steps: Sequence[ChainStep]) -> go.Figure:
    """Draw the negative-flip rate of each version's classifier against every predecessor, with intervals at 95 %.

    Args:
        steps: The versions, oldest first.

    Returns:
        The figure, a line a predecessor.

    Example:
        >>> tax, nfr = Interval(0.0, 0.0, 0.0), Interval(0.5, 0.0, 1.0)
        >>> steps = [ChainStep("v1", tax), ChainStep("v2", tax, {"v1": nfr})]
        >>> [(line.name, line.x, line.y) for line in chain_nfr_figure(steps).data]
        [('v1', (1.0,), (50.0,))]
    """
    figure = canvas("version", "NFR (%)", height=320)
    olds = predecessors(steps)
    # Beside each other, so that one interval does not hide another.
    besides = [shift / 4 for shift in shifts(len(olds))]
    for number, (old, beside) in enumerate(zip(olds, besides, strict=True)):
        found = [(place, step.nfr[old]) for place, step in enumerate(steps) if old in step.nfr]
        rates = [rate for _, rate in found]
        figure.add_scatter(
            x=[place + beside for place, _ in found], y=[100 * rate.mean for rate in rates],
            error_y=bars(rates), **_line(number, old), hovertemplate="%{y:.2f} %",
        )  # fmt: skip
    name_axis(figure.layout.xaxis, [step.version for step in steps])
    return figure.update_yaxes(rangemode="tozero")


def predecessors(steps: Sequence[ChainStep]) -> list[str]:
    """List the versions against which a negative-flip rate was measured.

    Args:
        steps: The versions.

    Returns:
        Names, each once.
    """
    return list(dict.fromkeys(old for step in steps for old in step.nfr))


def _drawn(summary: CompatibilitySummary) -> Iterator[tuple[str, go.Figure]]:
    measures = measures_of(summary)
    for field in DIFFERENCES:
        if any(_is_finite(interval) for way in summary.ways for interval in getattr(way, field).values()):
            yield field, difference_figure(summary, field)
    if measures and any(all(map(_is_finite, _gain_and_tax(way, measures[0]))) for way in summary.ways):
        yield "trade_off", trade_off_figure(summary, measures[0])
    if summary.matrix is not None:
        yield "matrix", matrix_figure(summary.matrix)
    for number, measure in enumerate(dict.fromkeys(curve.measure for curve in summary.curves)):
        yield f"backfill_{measure if measure.isidentifier() else number}", backfill_figure(summary, measure)
    if summary.taxes:
        yield "chain_tax", chain_tax_figure(summary.taxes)
        if predecessors(summary.taxes):
            yield "chain_nfr", chain_nfr_figure(summary.taxes)


def _gain_and_tax(way: Way, measure: str) -> tuple[Interval, Interval]:
    return interval_in(way.update_gain, measure), interval_in(way.tax, measure)


def _is_finite(interval: Interval) -> bool:
    return math.isfinite(interval.mean)


def _floor(intervals: Sequence[Interval]) -> float:
    # As far below 0 as the best is above: else one way that is far worse leaves no room to tell the others apart.
    ranked = sorted((interval for interval in intervals if _is_finite(interval)), key=lambda one: -one.mean)
    floor = -max(ranked[0].mean if ranked else 0.0, 0.1)
    for interval in ranked:
        if interval.mean >= floor and math.isfinite(interval.low):
            floor = min(floor, interval.low)  # and an interval is drawn whole
    return floor


def _scaled(interval: Interval, scale: float, floor: float) -> Interval:
    # Bars are drawn in percent; an end that bounds nothing draws none, and neither does a mark at the edge.
    mean = max(interval.mean, floor)
    low, high = (end if math.isfinite(end) and mean == interval.mean else mean for end in interval[1:])
    return Interval(*(value * scale / 100 for value in (mean, max(low, floor), high)))


def _cell(matrix: Matrix, row: int, column: int) -> str:
    if column > row:
        return ""
    number = tenths(float(matrix.values[row, column]))
    return number if row == column or number == "n/a" else f"{number} {'✓' if beats_own(matrix, row, column) else '✕'}"


def _line(number: int, name: str) -> dict[str, Any]:
    style = look(number, name)
    line = {"width": 2, "dash": DASHES[number % len(DASHES)], "color": LIGHT[number % len(LIGHT)]}
    marker = style["marker"] | {"size": 8, "maxdisplayed": MOST_MARKS}
    return style | {"name": text_of(name), "mode": "lines+markers", "line": line, "marker": marker}

"""Several candidates: error against NFR with the frontier, and what sets each apart from the first."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lightning_graceful.report.figures.canvas import OLD, bars, canvas, look, name_axis, text_of
from lightning_graceful.report.summary import Candidate, Summary

DIFFERENCES = (("NFR", "nfr_against_first", -0.16), ("error", "error_against_first", 0.16))


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Choose the candidates that no other beats: none has a lower error or NFR without the other being higher.

    Args:
        candidates: The candidates.

    Returns:
        Those, by rising error.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> def made(name, error, nfr):
        ...     rates = [Interval(rate, 0, 1) for rate in (0.1, error, nfr, 0.1)]
        ...     return Candidate(name, Tally(4, 4, 2, 0, 1, 1, *rates, 1.0), rates[0], 1.0)
        >>> [one.name for one in frontier([made("a", 0.3, 0.1), made("b", 0.2, 0.2), made("c", 0.3, 0.2)])]
        ['b', 'a']
    """
    points = [(one.whole.error_new.mean, one.whole.nfr.mean) for one in candidates]
    best = [
        one for one, (error, nfr) in zip(candidates, points, strict=True)
        if not any(e <= error and n <= nfr and (e, n) != (error, nfr) for e, n in points)
    ]  # fmt: skip
    return sorted(best, key=lambda one: one.whole.error_new.mean)


def frontier_figure(summary: Summary) -> go.Figure:
    """Error of the new model against NFR with intervals at 95 %; steps join the candidates that no other beats.

    Args:
        summary: The comparison.

    Returns:
        The figure; dashes mark the noise floor.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> summary = Summary("Digits", (Candidate("new", tally, rate, 1.0),), ("a", "b"))
        >>> [trace.name for trace in frontier_figure(summary).data]
        ['frontier', 'new']
    """
    figure = canvas("error of the new model (%)", "NFR (%)", height=400)
    errors, rates = _steps(summary.candidates)
    figure.add_scatter(
        x=errors, y=rates, mode="lines", name="frontier", meta={"paint": "old"}, hoverinfo="skip",
        line={"shape": "hv", "width": 1.5, "dash": "dot", "color": OLD},
    )  # fmt: skip
    for number, candidate in enumerate(summary.candidates):
        error, nfr = candidate.whole.error_new, candidate.whole.nfr
        figure.add_scatter(
            x=[100 * error.mean], y=[100 * nfr.mean], error_x=bars([error]), error_y=bars([nfr]),
            **look(number, candidate.name), hovertemplate="error %{x:.2f} %<br>NFR %{y:.2f} %",
        )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    if summary.noise_floor is not None:
        figure.add_hline(
            y=100 * summary.noise_floor.mean, line={"dash": "dash", "width": 1},
            annotation={"text": "noise floor", "showarrow": False}, annotation_position="top right",
        )  # fmt: skip
    return figure


def _steps(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    # As far as the candidates reach: above and to the right of the steps another one is at least as good in both.
    best = [one.whole for one in frontier(candidates)]
    errors, rates = [whole.error_new.mean for whole in best], [whole.nfr.mean for whole in best]
    highest = max(one.whole.nfr.mean for one in candidates)
    furthest = max(one.whole.error_new.mean for one in candidates)
    line = [(errors[0], highest), *zip(errors, rates, strict=True), (furthest, rates[-1])]
    return [100 * error for error, _ in line], [100 * rate for _, rate in line]


def difference_figure(summary: Summary) -> go.Figure:
    """NFR and error of each further candidate less those of the first, in points, with paired intervals at 95 %.

    Args:
        summary: The comparison.

    Returns:
        The figure: for each candidate NFR above, error below and hollow.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> both = Candidate("a", tally, rate, 1.0), Candidate("b", tally, rate, 1.0, nfr_against_first=rate)
        >>> [trace.x for trace in difference_figure(Summary("Digits", both, ("a", "b"))).data]
        [(25.0,)]
    """
    others = summary.candidates[1:]
    figure = canvas("points", "", height=110 + 52 * len(others))
    for place, candidate in enumerate(others):
        for name, field, shift in DIFFERENCES:
            difference = getattr(candidate, field)
            if difference is None:
                continue
            style = look(place + 1, candidate.name)
            if name == "error":
                style["marker"]["symbol"] += "-open"
            figure.add_scatter(
                x=[100 * difference.mean], y=[place + shift], error_x=bars([difference]), **style,
                hovertemplate=f"{name} %{{x:+.2f}} points<extra>{text_of(candidate.name[:60])}</extra>",
            )  # fmt: skip
    figure.add_vline(x=0, line={"width": 1})
    name_axis(figure.layout.yaxis, [candidate.name for candidate in others], reverse=True, longest=20)
    return figure

"""Each figure against numbers that are known beforehand."""

import json

import numpy as np
import pytest

from lightning_graceful.report.compatibility import figures
from lightning_graceful.report.compatibility.summary import ChainStep, Curve, Matrix
from tests.report.compatibility.summaries import (
    COLLAPSE,
    MEASURES,
    UNKNOWN,
    by_measure,
    chain,
    empty,
    hostile,
    interval,
    made,
    minimal,
    rich,
    small_gap,
    versions,
)
from tests.report.summaries import HOSTILE


def compared(*ways):
    return minimal(ways=ways, paragon_self_test=by_measure(0.72, 0.65, 0.94))


def bars(trace, axis="x"):
    error, values = getattr(trace, f"error_{axis}"), getattr(trace, axis)
    return [
        (value - less, value + more) for value, less, more in zip(values, error.arrayminus, error.array, strict=True)
    ]


def test_gains_are_ratios_and_taxes_are_points():
    summary = compared(made("a"), made("b", rise=(0.1, 0.1, 0.1), tax=(0.02, 0.01, 0.0)))
    gains, taxes = (figures.difference_figure(summary, field) for field in ("update_gain", "tax"))
    assert [trace.name for trace in gains.data] == ["mAP", "mAP@R", "R@1"]
    assert gains.data[0].x == pytest.approx((0.25, 0.5))
    assert bars(gains.data[0])[0] == pytest.approx((0.2, 0.3))
    assert taxes.data[0].x == pytest.approx((1.0, 2.0))
    assert bars(taxes.data[0])[1] == pytest.approx((1.6, 2.4))
    assert [round(place) for place in gains.data[2].y] == [0, 1]
    assert len({trace.marker.symbol for trace in gains.data}) == 3  # not by colour alone
    assert list(gains.layout.yaxis.ticktext) == ["a", "b"]


def test_a_way_that_is_far_worse_leaves_room_for_the_others():
    summary = compared(made("a"), made("independent", rise=(-0.4, -0.4, -0.4)))
    cross = figures.difference_figure(summary, "cross_gain").data[0]
    assert cross.x == pytest.approx((5, -10))
    assert cross.text == ("", "← −40.0")
    assert bars(cross)[1] == pytest.approx((-10, -10))
    assert cross.customdata[1][1] == "−40.0"
    _, apart = figures.trade_off_figure(summary, "map").data
    assert (apart.y[0], apart.text) == (pytest.approx(-0.25), ("↓ −2.00",))


def test_an_interval_is_drawn_whole_before_a_way_lies_at_the_edge():
    gains = by_measure(0.02, 0.02, 0.02)
    gains["map"] = gains["map"]._replace(low=-0.3)
    summary = compared(made("a"), made("wide", cross_gain=gains), made("independent", rise=(-0.4, -0.4, -0.4)))
    cross = figures.difference_figure(summary, "cross_gain").data[0]
    assert bars(cross)[1][0] == pytest.approx(-30)
    assert (cross.x[2], cross.text) == (pytest.approx(-30), ("", "", "← −40.0"))


def test_every_tax_lies_where_it_is():
    """Less than nothing is better than the paragon: it is no way that is worse by far."""
    taxes = compared(made("a", tax=(0.02, 0.02, 0.02)), made("b", tax=(-0.15, -0.12, -0.3)))
    drawn = figures.difference_figure(taxes, "tax")
    assert drawn.data[0].x == pytest.approx((2, -15))
    assert bars(drawn.data[2])[1] == pytest.approx((-30.4, -29.6))
    assert {text for trace in drawn.data for text in trace.text} == {""}
    assert drawn.layout.xaxis.range is None


def test_ends_without_bound_draw_no_bar():
    gains = by_measure(0.25, 0.2, 0.1)
    gains["map"] = gains["map"]._replace(low=-np.inf, high=np.inf)
    drawn = figures.difference_figure(compared(made("a", update_gain=gains)), "update_gain").data[0]
    assert bars(drawn) == [(0.25, 0.25)]


def test_what_is_not_compatible_is_hollow():
    good, mixed = figures.trade_off_figure(compared(made("a"), made("b", rise=(0.1, 0.1, -0.01))), "map").data
    assert (good.x[0], good.y[0]) == pytest.approx((1.0, 0.25))
    assert bars(good, "y")[0] == pytest.approx((0.2, 0.3))
    assert not good.marker.symbol.endswith("-open")
    assert mixed.marker.symbol.endswith("-open")
    _, baseline = figures.trade_off_figure(compared(made("a"), made("c", COLLAPSE, rise=(0.1, 0.1, 0.1))), "map").data
    assert baseline.marker.symbol.endswith("-open")


def test_the_matrix_shows_its_lower_triangle():
    (heat,) = figures.matrix_figure(versions()).data
    assert [[value is None for value in row] for row in heat.z] == [[j > i for j in range(4)] for i in range(4)]
    assert heat.z[3][0] == pytest.approx(50.8)
    assert heat.text[3] == ["50.8 ✕", "65.5 ✓", "70.0 ✓", "74.5"]
    layout = figures.matrix_figure(versions()).layout
    assert layout.yaxis.range[0] > layout.yaxis.range[1]  # the oldest on top
    assert list(layout.xaxis.ticktext) == ["v1", "v2", "v3", "v4"]


def test_a_matrix_of_many_versions_has_no_numbers():
    (heat,) = figures.matrix_figure(versions(20)).data
    assert heat.texttemplate == ""
    assert heat.showscale


def test_measures_that_are_nan_are_neither_better_nor_worse():
    matrix = Matrix("map", ("v1", "v2"), np.full((2, 2), np.nan), np.nan)
    assert figures.matrix_figure(matrix).data[0].text == (["n/a", ""], ["n/a", "n/a"])


def test_backfill_has_a_line_an_order_and_its_area():
    figure = figures.backfill_figure(rich(), "map")
    assert [line.name for line in figure.data] == [
        "contrastive, random: area 71.2",
        "contrastive, uncertainty: area 72.0",
        "contrastive, far from class mean: area 72.6",
    ]
    assert figure.data[0].x == pytest.approx(tuple(range(0, 101, 10)))
    assert figure.data[0].y[0] == pytest.approx(67.0)
    assert len({line.line.dash for line in figure.data}) == 3
    (old,) = figure.layout.shapes
    assert old.y0 == pytest.approx(100 * rich().old_self_test["map"].mean)


def test_a_measure_has_its_own_backfill_figure():
    share = np.array([0.0, 1.0])
    curves = (Curve("a", "map", share, share, 0.5), Curve("b", "<b>", share, share, 0.5))
    drawn = figures.all_figures(minimal(curves=curves))
    assert [name for name in drawn if name.startswith("backfill")] == ["backfill_map", "backfill_1"]
    assert len(drawn["backfill_map"].data) == 1


def test_the_chain_shows_tax_and_flips():
    tax = figures.chain_tax_figure(chain()).data[0]
    assert (tax.x, tax.y) == ((0, 1, 2, 3), pytest.approx((0, 0.4, 1.1, 2.1)))
    assert bars(tax, "y")[3] == pytest.approx((1.6, 2.6))
    lines = figures.chain_nfr_figure(chain()).data
    assert [(line.name, [round(x) for x in line.x]) for line in lines] == [
        ("v1", [1, 2, 3]),
        ("v2", [2, 3]),
        ("v3", [3]),
    ]
    assert lines[1].y == pytest.approx((1.8, 2.4))


def test_a_version_without_a_paragon_has_no_tax():
    steps = [ChainStep("v1", UNKNOWN), ChainStep("v2", interval(0.02))]
    drawn = figures.all_figures(minimal(taxes=tuple(steps)))
    assert drawn["chain_tax"].data[0].x == (1,)
    assert "chain_nfr" not in drawn


def test_only_what_is_known_is_drawn():
    assert set(figures.all_figures(rich())) == {
        "update_gain", "cross_gain", "tax", "trade_off", "matrix", "backfill_map", "chain_tax", "chain_nfr",
    }  # fmt: skip
    assert set(figures.all_figures(small_gap())) == {"cross_gain"}
    assert figures.all_figures(empty()) == {}


@pytest.mark.parametrize("make", [rich, small_gap, hostile])
def test_figures_are_json_without_markup_of_users(make):
    for figure in figures.all_figures(make()).values():
        text = json.dumps(json.loads(figure.to_json(), parse_constant=lambda word: pytest.fail(word)))
        assert not any(bad in text for bad in HOSTILE[:3])
        assert "<img" not in text
        assert '<b>\\"' not in text


def test_every_measure_is_drawn():
    assert len(figures.difference_figure(rich(), "tax").data) == len(MEASURES)

"""Each figure against values counted by hand from the rows of ``summaries.ROWS``."""

from dataclasses import replace

import pytest

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report import figures
from lightning_graceful.report.summary import Group
from tests.report import summaries
from tests.report.summaries import HOSTILE, digits, many, minimal, share, tally


def values(trace):
    return pytest.approx(tuple(trace.x)), pytest.approx(tuple(trace.y))


def bounds(trace):
    bars = trace.error_x
    return [(x - below, x + above) for x, below, above in zip(trace.x, bars.arrayminus, bars.array, strict=True)]


def test_quadrants_are_counts():
    bars = {bar.name: list(bar.x) for bar in figures.quadrant_figure(digits()).data}
    assert bars == {"both right": [4, 5], "fixed": [2, 2], "broke": [3, 2], "both wrong": [1, 1]}


def test_rates_are_shown_with_their_intervals():
    old, plain, pct, twice = figures.rate_figure(digits()).data
    assert [trace.name for trace in (old, plain, pct, twice)] == [
        "old model",
        "plain",
        "pct",
        "one recipe trained twice",
    ]
    assert list(old.x) == pytest.approx([30])
    # Error of the new model, NFR, PFR; plain above pct, in rows 1 to 3.
    assert (list(plain.x), list(pct.x)) == (pytest.approx([40, 30, 20]), pytest.approx([30, 20, 20]))
    assert [round(y) for y in plain.y] == [round(y) for y in pct.y] == [1, 2, 3]
    assert plain.y[0] < pct.y[0]
    # Wilson by hand for 3 of 10.
    assert bounds(plain)[1] == pytest.approx((10.78, 60.32), abs=0.01)
    assert (list(twice.x), bounds(twice)) == (pytest.approx([5]), [pytest.approx((2, 10))])


def test_first_answers_are_hollow_beside_those_at_the_threshold():
    summary = minimal()
    candidate = replace(summary.first, at_argmax=tally(870, 60, 30, 40))
    _, at, first = figures.rate_figure(replace(summary, candidates=(candidate,))).data
    assert first.name == "new, first answers"
    assert (at.marker.symbol, first.marker.symbol) == ("circle", "circle-open")
    assert list(first.x) == pytest.approx([7, 3, 6])


def test_frontier_is_a_staircase_over_those_that_none_beats():
    def at(name, error, nfr):
        whole = replace(tally(1, 0, 0, 1), error_new=Interval(error, error, error), nfr=Interval(nfr, nfr, nfr))
        return replace(minimal().first, name=name, whole=whole)

    candidates = (
        at("a", 0.3, 0.1),
        at("beaten", 0.32, 0.2),
        at("b", 0.1, 0.4),
        at("same", 0.1, 0.4),
        at("c", 0.2, 0.2),
        at("tied", 0.1, 0.5),
    )
    assert [one.name for one in figures.frontier(candidates)] == ["b", "same", "c", "a"]
    line, a, beaten, *_ = figures.frontier_figure(replace(minimal(), candidates=candidates)).data
    assert (tuple(line.x), tuple(line.y)) == (
        pytest.approx((10, 10, 10, 20, 30, 32)),
        pytest.approx((50, 40, 40, 20, 10, 10)),
    )
    assert line.line.shape == "hv"
    assert (a.x[0], a.y[0], beaten.x[0], beaten.y[0]) == pytest.approx((30, 10, 32, 20))


def test_differences_are_in_points_against_the_first():
    nfr, error = figures.difference_figure(digits()).data
    assert (nfr.x[0], *bounds(nfr)[0]) == pytest.approx((-10, -40, 20))
    assert (error.x[0], *bounds(error)[0]) == pytest.approx((-10, -30, -1))
    assert (nfr.marker.symbol, error.marker.symbol) == ("diamond", "diamond-open")


def test_noise_floor_is_a_line():
    (line,) = figures.frontier_figure(digits()).layout.shapes
    assert (line.y0, line.y1) == (5, 5)


def test_classes_come_worst_first_with_their_rows():
    figure = figures.class_figure(digits())
    # plain breaks 2 of 2 zeros and 1 of 2 ones; pct 1 of 2 zeros and 1 of 2 ones.
    assert figure.layout.yaxis.ticktext == ("zero (2)", "one (2)", "two (3)", "three (3)")
    assert [tuple(trace.x) for trace in figure.data] == [(100, 50, 0, 0), (50, 50, 0, 0)]
    assert figure.data[0].customdata[1] == "one, 1 of 2"


def test_slices_are_named_by_column_and_value_and_a_group_may_be_missing():
    def cut(*sizes):
        return tuple(Group("country", name, tally(100 - size, 0, size, 0)) for name, size in sizes)

    first, second = digits().candidates
    both = (replace(first, slices=cut(("IS", 4), ("NO", 1))), replace(second, slices=cut(("NO", 9))))
    figure = figures.slice_figure(replace(digits(), candidates=both))
    assert figure.layout.yaxis.ticktext == ("country=NO (100)", "country=IS (100)")
    assert [tuple(trace.x) for trace in figure.data] == [(1, 4), (9,)]


def test_only_the_worst_are_drawn():
    figure = figures.class_figure(many(), limit=7)
    assert (figure.layout.meta["groups"], figure.layout.meta["shown"], len(figure.data[0].x)) == (1000, 7, 7)
    # 6 broken of 102 in every seventh class.
    assert list(figure.data[0].x) == pytest.approx([100 * 6 / 102] * 7)
    assert figures.class_figure(many()).layout.height < 1000


def test_flips_between_classes_by_count_and_by_cost():
    summary = digits()
    count, cost = (figures.flip_figure(summary, summary.first, by).data[1].z for by in ("count", "cost"))
    none = [None] * 4
    assert [list(row) for row in count] == [[None, 2, None, None], [None, None, 1, None], none, none]
    assert [list(row) for row in cost] == [[None, 2, None, None], [None, None, 10, None], none, none]


def test_heat_maps_of_all_candidates_share_axes_and_scale():
    summary = digits()
    first, second = (figures.flip_figure(summary, candidate) for candidate in summary.candidates)
    assert first.layout.meta == second.layout.meta == {"classes": ["zero", "one", "two", "three"], "taking_part": 4}
    assert first.data[1].zmax == second.data[1].zmax == 2


def test_an_answer_that_is_no_class_has_a_place():
    summary = digits(classes=("zero", "one", "two", "three"))
    assert figures.flip_figure(replace(summary, classes=("zero",)), summary.first).layout.meta["classes"] == [
        "zero",
        "one",
        "two",
        "three",
    ]


def test_heat_map_of_many_classes_keeps_those_with_most():
    summary = many()
    meta = figures.flip_figure(summary, summary.first, limit=9).layout.meta
    assert (len(meta["classes"]), meta["taking_part"] > 500) == (9, True)


def test_confidences_are_old_upwards_and_new_to_the_right():
    table = [[0] * 10 for _ in range(10)]
    table[9][5], table[2][7] = 3, 1  # old 90-100 %, new 50-60 %
    figure = figures.confidence_figure(replace(minimal().first, confidences=tuple(map(tuple, table))))
    cells = figure.data[1]
    assert {(cells.y[i], cells.x[j]): z for i, row in enumerate(cells.z) for j, z in enumerate(row) if z} == {
        (95, 55): 3,
        (25, 75): 1,
    }
    assert cells.z[0][0] is None


def test_reliability_is_accuracy_over_confidence():
    both = summaries.calibration(0.1), summaries.calibration(0.2)
    old, new = figures.reliability_figure(replace(minimal().first, calibration=both), 1).data
    first = both[0].bins[0]
    assert (old.x[0], old.y[0]) == pytest.approx((100 * first.confidence, 100 * (first.confidence - 0.1)))
    assert new.y[3] == pytest.approx(100 * (both[1].bins[3].confidence - 0.2))
    assert (old.meta["paint"], new.meta["paint"]) == ("old", "way-1")
    assert max(old.marker.size) == 14


def test_history_counts_each_validation():
    churn = summaries.churn()
    lines = {line.name: list(line.y) for line in figures.churn_figure(churn).data}
    assert lines["broke"] == churn.broke
    assert lines["newly broke"][:3] == [312, 47, 45]  # 241 - 312 + 118, 190 - 241 + 96
    assert lines["recovered"] == churn.left
    (bars,) = figures.times_figure(churn).data
    assert dict(zip(bars.x, bars.y, strict=True))[10] == 21
    assert 0 not in bars.x


def test_several_validations_in_an_epoch_do_not_fall_together():
    churn = replace(summaries.churn(), epochs=[number // 2 for number in range(10)])
    figure = figures.churn_figure(churn)
    assert list(figure.data[0].x) == list(range(10))
    assert figure.layout.xaxis.title.text == "validation"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text(name):
    assert "<" not in figures.text_of(name).replace("&lt;", "")
    assert not any(ord(sign) < 32 or 0x202A <= ord(sign) <= 0x202E for sign in figures.text_of(name))


def test_no_markup_reaches_plotly():
    summary = summaries.hostile()
    made = [
        figures.rate_figure,
        figures.frontier_figure,
        figures.class_figure,
        figures.slice_figure,
        figures.quadrant_figure,
    ]
    texts = [str(figure(summary).data) + str(figure(summary).layout.yaxis) for figure in made]
    texts.append(str(figures.flip_figure(summary, summary.first).data[1]))
    for text in texts:
        for tag in ("<script", "<img", "<b>", "<a "):
            assert tag not in text


def test_rates_of_no_rows_are_left_open():
    figure = figures.rate_figure(summaries.empty())
    assert "NaN" not in figure.to_json()
    assert share(0, 0).mean != share(0, 0).mean

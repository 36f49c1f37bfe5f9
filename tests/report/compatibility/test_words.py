"""Verdicts and sentences."""

import pytest

from lightning_graceful.experiment.search_ways import CollapsedWay
from lightning_graceful.report.compatibility.words import (
    beats_own,
    ends,
    headline,
    is_baseline,
    measures_of,
    tenths,
    verdict_of,
    why_no_gain,
)
from tests.report.compatibility.summaries import (
    COLLAPSE,
    MEASURES,
    UNKNOWN,
    by_measure,
    empty,
    interval,
    made,
    minimal,
    rich,
    small_gap,
    versions,
)


@pytest.mark.parametrize(
    ("rise", "word"),
    [
        ((0.05, 0.04, 0.02), "yes"),
        ((0.05, 0.04, 0.007), "yes?"),  # within 0.8 points of 0
        ((0.05, 0.04, 0.0), "mixed"),  # a draw is not compatible
        ((0.17, 0.16, -0.003), "mixed"),  # as a collapse of classes
        ((-0.05, -0.04, -0.007), "no?"),
        ((-0.05, -0.04, -0.02), "no"),
        ((-0.05, 0.0, -0.02), "no?"),
    ],
)
def test_a_way_is_compatible_if_every_measure_says_so(rise, word):
    assert verdict_of(made(rise=rise)).short == word


def test_what_is_nan_has_no_say():
    gains = by_measure(0.05, 0.04, 0.02, half=0.001)
    assert verdict_of(made(cross_gain=gains | {"map": UNKNOWN})).short == "yes"
    assert verdict_of(made(cross_gain=dict.fromkeys(MEASURES, UNKNOWN))).short == "n/a"


def test_the_best_is_the_best_of_the_compatible():
    # The collapse of classes has the highest cross mAP.
    first, second, *rest = headline(rich())
    assert first.startswith("5 of 8 ways are backward compatible: ")
    assert first.endswith("(mAP, mAP@R and R@1).")
    assert second.startswith("Best in the old gallery: contrastive, mAP 65.")
    assert [line.split()[0] for line in rest] == ["Update", "Where"]


def test_a_baseline_is_judged_but_never_the_best():
    baseline, copy = made("class_collapse", COLLAPSE, rise=(0.3, 0.3, 0.3)), made("copy")
    first, second, *_ = headline(minimal(ways=(baseline, copy)))
    assert first.startswith("2 of 2 ways are backward compatible: ")
    assert second.startswith("Best in the old gallery: copy, mAP 57.0 %")
    (line,) = headline(minimal(ways=(baseline, made("copy", rise=(-0.1, -0.1, -0.1)))))
    assert line.startswith("1 of 2 ways is backward compatible: ")
    assert is_baseline(made(detail=CollapsedWay.detail))
    assert not is_baseline(copy)


def test_one_way_is_called_by_its_name():
    assert headline(minimal())[:2] == [
        "copy is backward compatible: new queries search the old gallery better than old queries do (mAP, mAP@R and "
        "R@1).",
        "copy, mAP 57.0 %, +5.0 points [+4.2, +5.8] over the old model.",
    ]
    (line,) = headline(minimal(ways=(made("copy", rise=(-0.1, 0.1, 0.0)),)))
    assert line.startswith("copy is not backward compatible: new queries do not search")
    assert headline(empty()) == ["Nothing was measured."]
    assert headline(minimal(ways=())) == ["Nothing was measured."]


def test_it_is_said_why_there_is_no_gain():
    assert why_no_gain(minimal(), "map") == "no paragon"
    assert why_no_gain(small_gap(), "map") == "gap 2.3 points"
    assert why_no_gain(small_gap(), "other") == "not measured"


def test_the_best_known_measures_come_first():
    test = {"recall_at_5": interval(0.5), "recall_at_1": interval(0.5), "map": interval(0.5)}
    assert measures_of(minimal(old_self_test=test, ways=())) == ["map", "recall_at_1", "recall_at_5"]


def test_later_versions_are_held_against_the_gallerys_own():
    matrix = versions()
    matrix.values[0, 1] = 0.99  # old queries in a new gallery are nobody's constraint
    assert [[beats_own(matrix, i, j) for j in range(4)] for i in range(4)] == [
        [False, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
    ]


def test_numbers_are_short():
    assert tenths(0.9996) == "100.0"
    assert tenths(-0.0004, "+") == "+0.0"
    assert ends(UNKNOWN) == ""
    assert ends(interval(0.0, 0.2), "ratio") == "[-0.20, 0.20]"

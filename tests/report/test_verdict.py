import dataclasses
import math

import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import binom_test, proportion_confint

from lightning_graceful.functional.statistics import (
    Interval,
    equivalence,
    non_inferiority,
    paired_difference_interval,
)
from lightning_graceful.report.answers import Reading
from lightning_graceful.report.budgets import parse_budget
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.database import PredictionError
from lightning_graceful.report.summary import Candidate, Group, Tally
from lightning_graceful.report.verdict import Rules, judge, written_limit, written_value
from tests.report.prediction_files import write_csv

NONE = Interval(0.0, 0.0, 0.0)


def share(count, total):
    low, high = proportion_confint(count, total, method="beta")
    return Interval(count / total, low, high)


def tally(broke, rows, fixed=0, cost=None):
    right = rows - broke - fixed
    sizes = dict.fromkeys(("error_old", "error_new", "nfr", "pfr"), float(rows))
    rates = (share(fixed, rows), share(broke, rows), share(broke, rows), share(fixed, rows))
    return Tally(rows, rows, right, fixed, broke, 0, *rates, math.nan, cost, sizes)


def candidate(whole, slices=(), classes=()):
    difference = paired_difference_interval(whole.broke, whole.fixed, whole.rows)
    groups = [tuple(Group(name, *part) for part in parts) for name, parts in (("class", classes), ("x", slices))]
    return Candidate("new", whole, difference, 1.0, *groups)


def ruling(broke, rows, *budgets, slices=(), classes=(), **rules):
    found = candidate(tally(broke, rows), slices, classes)
    return judge(found, Rules([parse_budget(text) for text in budgets], **rules))


@pytest.mark.parametrize("limit", [0.01, 0.05])
@pytest.mark.parametrize("rows", [50, 400, 5000])
def test_decision_follows_the_interval(rows, limit):
    for broke in range(0, rows // 5, max(rows // 100, 1)):
        low, high = proportion_confint(broke, rows, method="beta")
        expected = "accept" if high <= limit else "reject" if low > limit else "undecided"
        for measure in ("nfr", "error"):
            found = ruling(broke, rows, f"all {measure}={limit}")
            assert (found.decision, found.checks[0].decision) == (expected, expected)
            assert found.checks[0].value == pytest.approx((broke / rows, low, high))


@pytest.mark.parametrize(
    ("broke", "rows", "words"),
    [
        (2, 1000, "NFR 0.20 % [0.02, 0.72] in all rows: the upper bound is within 1 %."),
        (30, 1000, "NFR 3.00 % [2.03, 4.26] in all rows: the lower bound is above 1 %."),
        (
            10,
            1000,
            "NFR 1.00 % [0.48, 1.83] in all rows: the interval holds 1 %; no number of rows would decide at this rate.",
        ),
        (0, 100, "NFR 0.00 % [0.00, 3.62] in all rows: the interval holds 1 %; about 268 more rows would decide."),
        (2, 100, "NFR 2.00 % [0.24, 7.04] in all rows: the interval holds 1 %; about 447 more rows would decide."),
    ],
)
def test_reason_in_words(broke, rows, words):
    (check,) = ruling(broke, rows, "all nfr=0.01").checks
    assert (check.reason, check.rule, check.where, check.limit) == (words, "NFR at most 1 %", "all rows", 0.01)


@pytest.mark.parametrize(("broke", "rows"), [(0, 100), (1, 200), (4, 200), (7, 400), (48, 4000), (30, 4000)])
def test_as_many_more_rows_at_the_same_rate_decide(broke, rows):
    needed = ruling(broke, rows, "all nfr=0.01").checks[0].rows_needed
    total = rows + needed
    low, high = proportion_confint(broke / rows * total, total, method="beta")
    assert high <= 0.01 or low > 0.01
    low, high = proportion_confint(broke / rows * total * 0.97, total * 0.97, method="beta")
    assert low <= 0.01 < high


def test_rows_that_tell_less_are_needed_in_greater_number():
    whole = tally(1, 200)
    half = dataclasses.replace(whole, effective_rows=dict.fromkeys(whole.effective_rows, 100.0))
    needed = [
        judge(candidate(part), Rules([parse_budget("all nfr=0.02")])).checks[0].rows_needed for part in (whole, half)
    ]
    assert needed[1] == 2 * (needed[0] + 200) - 200


def test_a_budget_of_nothing_is_never_met_by_counting():
    assert ruling(0, 10**6, "all nfr=0").checks[0].rows_needed is None
    assert ruling(0, 10**6, "all nfr=0").decision == "undecided"
    assert ruling(1, 10**6, "all nfr=0").decision == "reject"


def test_one_of_many_slices_may_be_above_by_chance():
    broke = [5] + [1] * 39
    slices = [(f"v{place}", tally(count, 100)) for place, count in enumerate(broke)]
    found = ruling(sum(broke), 4000, "nfr=0.013", slices=slices)
    chances = [
        binom_test(count, size, 0.013, "larger") for count, size in [(sum(broke), 4000), *((n, 100) for n in broke)]
    ]
    assert chances[1] < 0.025 < multipletests(chances, method="holm")[1][1]
    check = next(check for check in found.checks if check.where == "x=v0")
    assert check.decision == "undecided"
    assert check.reason.endswith("the lower bound is above 1.3 %, but among 41 budgets that may be chance.")
    assert ruling(5, 100, "all nfr=0.013").decision == "reject"


def test_one_slice_far_above_rejects():
    slices = [("IS", tally(30, 100)), ("NO", tally(0, 900))]
    found = ruling(30, 10_000, "nfr=0.01", slices=slices)
    assert [(check.where, check.decision) for check in found.checks] == [
        ("x=IS", "reject"),
        ("all rows", "accept"),
        ("x=NO", "accept"),
    ]
    assert found.decision == "reject"


@pytest.mark.parametrize(
    ("text", "decision"), [("nfr=0.01", "accept"), ("class nfr=0.01", "reject"), ("class=cat nfr=0.01", "accept")]
)
def test_classes_have_budgets_of_their_own(text, decision):
    classes = [("cat", tally(0, 5000)), ("dog", tally(20, 100))]
    assert ruling(20, 5100, text, classes=classes).decision == decision


@pytest.mark.parametrize(
    ("limit", "decision"), [(2.0, "accept"), (1.5, "accept"), (1.2, "undecided"), (0.5, "undecided"), (0.3, "reject")]
)
def test_cost_budgets(limit, decision):
    whole = tally(10, 1000, cost=Interval(1.0, 0.4, 1.5))
    (check,) = judge(candidate(whole), Rules([parse_budget(f"all cost={limit}")])).checks
    assert check.decision == decision
    assert (check.rows_needed is not None) == (decision == "undecided")
    assert check.reason.startswith("cost a sample 1 [0.4, 1.5] in all rows: ")


def test_cost_needs_costs():
    with pytest.raises(
        PredictionError, match=r"Expected a column cost or a file of costs \(--costs\) for a budget of cost"
    ):
        ruling(1, 10, "cost=1")


@pytest.mark.parametrize("margin", [0.002, 0.01, 0.03])
def test_margins_agree_with_their_tests(margin):
    for broke, fixed in [(0, 0), (3, 3), (8, 2), (2, 8), (30, 5), (5, 60), (100, 10), (10, 100)]:
        found = candidate(tally(broke, 1000, fixed))
        one = judge(found, Rules(non_inferior=margin)).decision
        two = judge(found, Rules(equivalent=margin)).decision
        assert (one == "accept") == non_inferiority(broke, fixed, 1000, margin=margin).holds
        assert (two == "accept") == equivalence(broke, fixed, 1000, margin=margin).holds
        difference = paired_difference_interval(broke, fixed, 1000)
        assert (one == "reject") == (difference.low > margin)
        assert (two == "reject") == (difference.low > margin or difference.high < -margin)


def test_a_margin_that_cannot_be_told_is_undecided():
    unknown = dataclasses.replace(candidate(tally(1, 10)), error_difference=Interval(0.1, math.nan, math.nan))
    for rules in (Rules(non_inferior=0.01), Rules(equivalent=0.01)):
        found = judge(unknown, rules)
        assert (found.decision, found.checks[0].rows_needed) == ("undecided", None)


def test_no_rule_no_verdict():
    assert judge(candidate(tally(5, 10)), Rules()) is None
    assert not Rules()


def test_the_worst_rule_decides_and_comes_first():
    found = ruling(20, 1000, "all nfr=0.001", "all error=0.02", non_inferior=0.5)
    assert [check.decision for check in found.checks] == ["reject", "undecided", "accept"]
    assert [written_limit(check) for check in found.checks] == ["0.1 %", "2 %", "50 %"]
    assert written_value(found.checks[0]) == "2.00 % [1.23, 3.07]"


@pytest.mark.parametrize("undecided", [True, False])
def test_a_better_mean_does_not_pay_for_what_breaks(undecided, tmp_path):
    rows = 60 if undecided else 1000
    broke, fixed = math.ceil(0.03 * rows), math.ceil(0.06 * rows)
    labels = ["b"] * broke + ["a"] * (rows - broke)
    old = ["a"] * (rows - fixed) + ["b"] * fixed
    about = {"id": range(rows), "target": "a" * rows, "country": ["IS", "NO"] * (rows // 2)}
    files = [write_csv(tmp_path / name, about | {"label": label})
             for name, label in (("old.csv", old), ("new.csv", labels))]  # fmt: skip
    rules = Rules([parse_budget("nfr=1%")])
    first = compare_files(files[0], {"new": files[1]}, question=Question(Reading(("country",)), rules=rules)).first
    assert first.whole.error_new.mean < first.whole.error_old.mean
    assert first.ruling.decision == ("undecided" if undecided else "reject")
    assert {check.where for check in first.ruling.checks} == {"all rows", "country=IS", "country=NO"}

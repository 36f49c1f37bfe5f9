import re

import pytest

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.budgets import parse_budget, parse_margin, placed
from lightning_graceful.report.database import PredictionError
from lightning_graceful.report.summary import Group, Tally

ZERO = Interval(0.0, 0.0, 0.0)
TALLY = Tally(1, 1, 1, 0, 0, 0, ZERO, ZERO, ZERO, ZERO, 0.0)
CLASSES = [Group("class", name, TALLY) for name in ("cat", "dog")]
SLICES = [Group("country", name, TALLY) for name in ("IS", "NO")] + [Group("city", "New York", TALLY)]


@pytest.mark.parametrize(
    ("text", "column", "value", "measure", "limit"),
    [
        ("nfr=0.01", "", None, "nfr", 0.01),
        (" nfr = 1 % ", "", None, "nfr", 0.01),
        ("nfr=0", "", None, "nfr", 0.0),
        ("nfr=1e-3", "", None, "nfr", 0.001),
        ("cost=12.5", "", None, "cost", 12.5),
        ("all error=0.1", "all", None, "error", 0.1),
        ("slice:country nfr=2%", "country", None, "nfr", 0.02),
        ("slice:country=IS nfr=0.02", "country", "IS", "nfr", 0.02),
        ("slice:city=New York nfr=0.02", "city", "New York", "nfr", 0.02),
        ("slice:x=a=b nfr=0.02", "x", "a=b", "nfr", 0.02),
        ("slice:x= nfr=0.02", "x", "", "nfr", 0.02),
        ("slice:x=nfr=0.5 nfr=0.02", "x", "nfr=0.5", "nfr", 0.02),
        ("class nfr=0.05", "class", None, "nfr", 0.05),
        ("class=cat cost=3", "class", "cat", "cost", 3.0),
    ],
)
def test_budgets_that_are_understood(text, column, value, measure, limit):
    budget = parse_budget(text)
    assert (budget.column, budget.value, budget.measure) == (column, value, measure)
    assert budget.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expected a budget such as nfr=0.01"),
        ("nfr", "Expected a budget such as nfr=0.01"),
        ("pfr=0.1", "Expected a budget such as nfr=0.01"),
        ("nfr=0.1=2", "Expected a budget such as nfr=0.01"),
        ("nfr=x", "Expected a number of at least 0 as the limit of nfr, got 'nfr=x'."),
        ("nfr=-1", "Expected a number of at least 0 as the limit of nfr, got 'nfr=-1'."),
        ("nfr=nan", "Expected a number of at least 0 as the limit of nfr, got 'nfr=nan'."),
        ("cost=inf", "Expected a number of at least 0 as the limit of cost, got 'cost=inf'."),
        ("nfr=1", "Expected a share below 1 as the limit of nfr, such as 0.01 or 1%, got 'nfr=1'."),
        ("error=100%", "Expected a share below 1 as the limit of error, such as 0.01 or 1%, got 'error=100%'."),
        ("cost=5%", "Expected a cost without a percent sign, got 'cost=5%'."),
        (
            "country=IS nfr=0.1",
            "Expected all, class, class=NAME, slice:COLUMN or slice:COLUMN=VALUE before the measure",
        ),
        ("slice:=IS nfr=0.1", "Expected all, class, class=NAME, slice:COLUMN or slice:COLUMN=VALUE before the measure"),
    ],
)
def test_budgets_that_are_not(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_budget(text)


@pytest.mark.parametrize("text", ["0.1", "nfr=0.1", "all error=0.1", "error=0", "error=1", "error=-1", "error=nan"])
def test_margins_that_are_not(text):
    with pytest.raises(ValueError, match=r"^Expected a "):
        parse_margin(text)


def where(*texts):
    places = placed([parse_budget(text) for text in texts], CLASSES, SLICES)
    return {("all rows" if group is None else group.where, budget.measure): budget.limit for budget, group in places}


def test_a_budget_holds_for_all_rows_and_every_slice():
    names = ["all rows", "country=IS", "country=NO", "city=New York"]
    assert where("nfr=0.01") == {(name, "nfr"): 0.01 for name in names}


def test_a_budget_for_all_rows_only():
    assert where("all nfr=0.01") == {("all rows", "nfr"): 0.01}


def test_a_budget_for_each_class():
    assert where("class nfr=0.01", "class=dog nfr=0.5") == {("class=cat", "nfr"): 0.01, ("class=dog", "nfr"): 0.5}


@pytest.mark.parametrize("swapped", [False, True])
def test_the_more_particular_budget_holds_in_any_order(swapped):
    texts = ["nfr=0.01", "slice:country nfr=0.02", "slice:country=IS nfr=0.03", "all nfr=0.04", "error=0.5"]
    found = where(*(reversed(texts) if swapped else texts))
    limits = {"all rows": 0.04, "country=IS": 0.03, "country=NO": 0.02, "city=New York": 0.01}
    assert found == {(name, "nfr"): limit for name, limit in limits.items()} | {(name, "error"): 0.5 for name in limits}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slice:country=DK nfr=0.1", "expected a value that occurs, such as IS, NO."),
        ("slice:planet nfr=0.1", "expected a slice that occurs, such as city, country."),
        ("class=emu nfr=0.1", "expected a value that occurs, such as cat, dog."),
    ],
)
def test_budgets_of_what_does_not_occur(text, words):
    with pytest.raises(PredictionError) as error:
        where(text)
    assert str(error.value) == f"Budget {text!r}: {words}"

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from lightning_graceful.functional.statistics import cluster_bootstrap, poisson_bootstrap
from lightning_graceful.report import costs
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.database import PredictionError
from tests.report.prediction_files import broke, cluster_sums, counted, samples, write, write_csv


def expected(rows, bootstrap):
    weight = np.array([row["weight"] for row in rows])
    spent = np.array([row["weight"] * row["cost"] * broke(row) for row in rows])
    if bootstrap is cluster_bootstrap:
        sums = cluster_sums(rows, lambda row: row["cost"] * broke(row))
        spent, weight = np.array(sums).T
    interval = bootstrap(spent, weight)
    flips = sum(map(broke, rows))
    mean = interval.mean * len(rows) / flips if flips else max(row["cost"] for row in rows)
    low, high = (end * mean for end in proportion_confint(flips, len(rows), method="beta"))
    return interval.mean, min(interval.low, low), max(interval.high, high)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("about", "bootstrap"),
    [(("cost",), poisson_bootstrap), (("cost", "weight"), poisson_bootstrap), (("cost", "group"), cluster_bootstrap)],
)
def test_cost_a_sample_of_what_broke(about, bootstrap, seed, tmp_path):
    rows = samples(seed, 300, **dict.fromkeys(about))
    old = write(tmp_path / "old.csv", rows, "old", "target", "country", *about)
    first = compare_files(old, {"new": write(tmp_path / "new.csv", rows, "new")}, question=by_country()).first
    assert first.whole.cost == pytest.approx(expected(counted(rows), bootstrap))
    for group in first.slices:
        part = [row for row in counted(rows) if row["country"] == group.value]
        assert group.tally.cost == pytest.approx(expected(part, bootstrap))


def by_country(**others):
    from lightning_graceful.report.answers import Reading

    return Question(Reading(slices=("country",)), **others)


def test_many_different_costs_are_taken_for_normal(tmp_path, monkeypatch):
    rows = samples(3, 3000, cost=None, weight=None)
    old = write(tmp_path / "old.csv", rows, "old", "target", "cost", "weight")
    new = write(tmp_path / "new.csv", rows, "new")
    bootstrapped = compare_files(old, {"new": new}).first.whole.cost
    monkeypatch.setattr(costs, "MOST_PATTERNS", 0)
    normal = compare_files(old, {"new": new}).first.whole.cost
    assert normal.mean == pytest.approx(bootstrapped.mean)
    assert normal == pytest.approx(bootstrapped, rel=0.1)


def test_nothing_broken_may_still_cost_as_much_as_the_costliest_row(tmp_path):
    rows = [row | {"new": row["old"], "cost": 1 + place} for place, row in enumerate(samples(0, 50))]
    old = write(tmp_path / "old.csv", rows, "old", "target", "cost")
    cost = compare_files(old, {"new": write(tmp_path / "new.csv", rows, "new")}).first.whole.cost
    assert cost == pytest.approx((0, 0, 50 * (1 - 0.025 ** (1 / 50))))


def files(folder, **table):
    old = write_csv(folder / "old.csv", {"id": [1, 2, 3], "target": ["a", "a", "b"], "label": ["a", "a", "b"]})
    new = write_csv(folder / "new.csv", {"id": [1, 2, 3], "label": ["b", "c", "a"]})
    return old, {"new": new}, Question(costs=write_csv(folder / "costs.csv", table))


def test_costs_by_kind_of_mistake(tmp_path):
    old, new, question = files(tmp_path, target=["a", "c"], answer=["b", "b"], cost=[8.5, 100])
    first = compare_files(old, new, question=question).first
    assert {(pair.target, pair.new): pair.cost for pair in first.pairs} == {
        ("a", "b"): 8.5,
        ("a", "c"): 1,
        ("b", "a"): 1,
    }
    assert first.whole.cost.mean == pytest.approx(10.5 / 3)
    assert first.whole.rows == 3


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"cost": [-1]}, r"costs\.csv: expected a finite cost of at least 0, got '-1'\."),
        ({"cost": ["nan"]}, r"costs\.csv: expected a finite cost of at least 0, got 'nan'\."),
        ({"cost": ["inf"]}, r"costs\.csv: expected a finite cost of at least 0, got 'inf'\."),
        ({"cost": ["x"]}, r"costs\.csv: expected a finite cost of at least 0, got 'x'\."),
        ({"cost": [""]}, r"costs\.csv, line 2: expected a value in target, answer, cost\."),
    ],
)
def test_costs_that_are_none(table, words, tmp_path):
    old, new, question = files(tmp_path, target=["a"], answer=["b"], **table)
    with pytest.raises(PredictionError, match=words):
        compare_files(old, new, question=question)


def test_two_costs_of_one_mistake(tmp_path):
    old, new, question = files(tmp_path, target=["a", "a"], answer=["b", "b"], cost=[1, 2])
    with pytest.raises(PredictionError, match=r"expected one cost for 'a' answered 'b', got two\. Drop one\."):
        compare_files(old, new, question=question)

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.differences import (
    difference_words,
    paired_difference,
    paired_error_difference,
    rate_interval,
)
from lightning_graceful.report.evidence import COLUMNS, Comparison, Predictions, Way
from lightning_graceful.report.verdict import verdict_line


def predictions(target, old, new, *, ids=None, seed=None, old_confidence=None, new_confidence=None):
    size = len(target)
    return Predictions(
        id=np.arange(size) if ids is None else np.array(ids, np.int64),
        seed=np.zeros(size, np.int64) if seed is None else np.array(seed, np.int64),
        target=np.array(target, np.int64),
        old=np.array(old, np.int64),
        new=np.array(new, np.int64),
        old_confidence=np.full(size, 0.5, np.float32) if old_confidence is None else old_confidence,
        new_confidence=np.full(size, 0.5, np.float32) if new_confidence is None else new_confidence,
    )


def random_pair(seeds=3, samples=40):
    generator = np.random.default_rng(0)
    ids, seed = np.tile(np.arange(samples), seeds), np.repeat(np.arange(seeds), samples)
    target, old = np.tile(generator.integers(0, 4, (2, samples)), seeds)
    return [predictions(target, old, generator.integers(0, 4, ids.size), ids=ids, seed=seed) for _ in range(2)]


def shuffled(said, generator):
    order = generator.permutation(len(said))
    return Predictions(*(getattr(said, name)[order] for name in COLUMNS))


def test_counts_and_rates_equal_a_loop():
    said, _ = random_pair()
    table = [[0, 0], [0, 0]]
    for target, old, new in zip(said.target, said.old, said.new, strict=True):
        table[int(old == target)][int(new == target)] += 1
    size = len(said)
    assert said.table.tolist() == table
    assert said.table.dtype == np.int64
    assert said.nfr == table[1][0] / size
    assert said.pfr == table[0][1] / size
    assert said.error_old == sum(table[0]) / size
    assert said.error_new == (table[0][0] + table[1][0]) / size
    assert said.relative_nfr == pytest.approx(said.nfr / ((1 - said.error_old) * said.error_new))
    assert said.error_new - said.error_old == pytest.approx(said.nfr - said.pfr)


def test_undefined_rates_are_nan():
    perfect = predictions([0, 1], [0, 1], [0, 1])
    assert math.isnan(perfect.relative_nfr)
    empty = predictions([], [], [])
    assert math.isnan(empty.nfr)
    assert math.isnan(rate_interval(empty.negative, empty.id).low)
    assert "n/a" in verdict_line(Comparison("empty", ["a"], [Way("plain", empty)]))


def test_difference_joins_by_key_and_never_by_order():
    plain, other = random_pair()
    expected = float(np.mean(other.negative.astype(float) - plain.negative))
    straight = paired_difference(Way("pct", other), Way("plain", plain))
    generator = np.random.default_rng(1)
    mixed = paired_difference(Way("pct", shuffled(other, generator)), Way("plain", shuffled(plain, generator)))
    assert straight.mean == pytest.approx(expected)
    assert mixed == pytest.approx(straight)
    assert mixed.low < mixed.mean < mixed.high
    error = paired_error_difference(Way("pct", shuffled(other, generator)), Way("plain", plain))
    assert error.mean == pytest.approx(other.error_new - plain.error_new)


@pytest.mark.parametrize("column", ["id", "seed", "target", "old"])
def test_rows_of_other_samples_are_refused(column):
    plain, other = random_pair()
    columns = {name: getattr(other, name).copy() for name in COLUMNS}
    columns[column][0] += 1000
    way = Way("pct", Predictions(**columns))
    with pytest.raises(ValueError, match=f"same {column} in 'pct'"):
        paired_difference(way, Way("plain", plain))
    with pytest.raises(ValueError, match="'pct'"):
        Comparison("digits", list("abcd"), [Way("plain", plain), way])


def test_repeated_seeds_do_not_narrow_the_interval():
    new = [1, 1, 0, 0, 0, 0, 0, 0]
    once = predictions([0] * 8, [0] * 8, new)
    thrice = predictions([0] * 24, [0] * 24, new * 3, ids=[*range(8)] * 3, seed=np.repeat([0, 1, 2], 8))
    assert rate_interval(thrice.negative, thrice.id) == pytest.approx(rate_interval(once.negative, once.id))


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(-0.2, -0.3, -0.1), "lower"),
        (Interval(0.2, 0.1, 0.3), "higher"),
        (Interval(0.1, -0.1, 0.3), "not distinguishable"),
        (Interval(0.1, 0.0, 0.2), "not distinguishable"),
        (Interval(0.1, math.nan, math.nan), "n/a"),
    ],
)
def test_words_follow_the_interval(interval, words):
    assert difference_words(interval) == words


def test_csv_round_trip_keeps_every_value(tmp_path):
    generator = np.random.default_rng(2)
    said = predictions(
        [0, 1, 2], [0, 1, 1], [2, 1, 0], ids=[2**62, -5, 7], seed=[1, 1, 2],
        old_confidence=generator.random(3, np.float32), new_confidence=generator.random(3, np.float32),
    )  # fmt: skip
    said.to_csv(tmp_path / "rows.csv")
    back = Predictions.from_csv(tmp_path / "rows.csv")
    for name in COLUMNS:
        assert np.array_equal(getattr(back, name), getattr(said, name))
        assert getattr(back, name).dtype == getattr(said, name).dtype


def test_csv_without_rows(tmp_path):
    predictions([], [], []).to_csv(tmp_path / "rows.csv")
    assert len(Predictions.from_csv(tmp_path / "rows.csv")) == 0


def test_csv_errors_name_column_and_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,seed,target,old,new\n0,0,0,0,0\n")
    with pytest.raises(ValueError, match="missing: old_confidence, new_confidence"):
        Predictions.from_csv(path)
    path.write_text(
        "new_confidence,extra,id,seed,target,old,new,old_confidence\n.5,x,0,0,0,0,0,.5\n.5,x,1,0,cat,0,0,.5\n"
    )
    with pytest.raises(ValueError, match=r"line 3: expected a number \(int\) in target, got 'cat'"):
        Predictions.from_csv(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": np.zeros(2, np.int64)}, "one shape"),
        ({"target": np.zeros(3, np.float32)}, "int64 in target"),
        ({"new": np.array([0, -1, 0])}, "class indices >= 0 in new"),
        ({"new_confidence": np.array([0.5, 1.5, 0.5], np.float32)}, r"\[0, 1\] in new_confidence"),
        ({"old_confidence": np.array([0.5, np.nan, 0.5], np.float32)}, "NaN"),
        ({"old_confidence": np.zeros(3, np.int64)}, "float32 in old_confidence"),
        ({"id": np.array([4, 4, 5])}, "id 4, seed 0 repeatedly"),
    ],
)
def test_bad_rows_are_refused(change, message):
    good = predictions([0, 1, 2], [0, 1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match=message):
        Predictions(**{name: getattr(good, name) for name in COLUMNS} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": []}, "at least one way"),
        ({"class_names": ["a", "b"]}, r"below 2 \(class_names\), got 2"),
        ({"noise_floor": 1.2}, "noise_floor"),
        ({"images": {0: np.zeros((2, 2))}}, "uint8"),
        ({"images": {0: np.zeros((2, 2, 4), np.uint8)}}, r"image 0, got uint8 \(2, 2, 4\)"),
    ],
)
def test_bad_comparisons_are_refused(change, message):
    way = Way("plain", predictions([0, 1, 2], [0, 1, 2], [0, 1, 2]))
    with pytest.raises(ValueError, match=message):
        Comparison(**{"title": "t", "class_names": list("abc"), "ways": [way]} | change)


def test_ways_need_names_of_their_own():
    said = predictions([0], [0], [0])
    with pytest.raises(ValueError, match="name"):
        Way(" ", said)
    with pytest.raises(ValueError, match="name of its own"):
        Comparison("t", ["a"], [Way("plain", said), Way("plain", said)])
    with pytest.raises(ValueError, match="wall_seconds"):
        Way("plain", said, wall_seconds=-1)


def test_report_loads_no_framework():
    code = (
        "import sys, lightning_graceful.report.page; "
        "print({'torch', 'lightning', 'pytorch_lightning', 'hydra', 'wandb'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"

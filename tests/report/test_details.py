import math
from collections import Counter

import numpy as np
import pytest

from lightning_graceful.report.answers import Reading
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.details import class_order
from tests.report.prediction_files import broke, counted, samples, write

SURE = ("confidence", "target_score")


def compared(rows, folder, *about, question=None, sure=SURE, kind=".csv"):
    old = write(folder / f"old{kind}", rows, "old", "target", "country", *sure, *about)
    new = write(folder / f"new{kind}", rows, "new", "target", *sure)
    return compare_files(old, {"new": new}, question=question or Question(Reading(slices=("country",))))


@pytest.mark.parametrize("about", [(), ("cost", "weight", "seen_by_old")], ids=["plain", "costs"])
def test_flips_are_counted_by_class_and_answer(about, tmp_path):
    rows = samples(1, 400, **dict.fromkeys(about))
    flips = [row for row in counted(rows) if broke(row)]
    counts = Counter((row["target"], row["new"]) for row in flips)
    found = compared(rows, tmp_path, *about).first.pairs
    assert [(pair.target, pair.new) for pair in found] == sorted(counts, key=lambda pair: (-counts[pair], pair))
    for pair in found:
        assert pair.count == counts[pair.target, pair.new]
        same = [row for row in flips if (row["target"], row["new"]) == (pair.target, pair.new)]
        assert pair.cost == pytest.approx(math.fsum(row["weight"] * row["cost"] for row in same))


@pytest.mark.parametrize("about", [(), ("cost", "weight")], ids=["plain", "costs"])
@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_worst_flips_come_first(about, kind, tmp_path):
    rows = samples(2, 300, **dict.fromkeys(about))
    flips = [row for row in counted(rows) if broke(row)]
    flips.sort(key=lambda row: (-row["weight"] * row["cost"], -row["new_confidence"], row["id"]))
    found = compared(rows, tmp_path, *about, kind=kind).first.flips
    assert [flip.id for flip in found] == [row["id"] for row in flips]
    for flip, row in zip(found, flips, strict=True):
        assert (flip.target, flip.new, flip.slices) == (row["target"], row["new"], (row["country"],))
        assert (flip.old_confidence, flip.new_confidence) == pytest.approx((
            row["old_confidence"],
            row["new_confidence"],
        ))
        assert (flip.cost, flip.seed, flip.text) == (row["cost"], None, None)


def test_as_many_flips_are_listed_as_asked(tmp_path):
    rows = samples(2, 300)
    question = Question(Reading(slices=("country",)), listed=3)
    assert len(compared(rows, tmp_path, question=question).first.flips) == 3


def test_flips_of_labels_have_no_confidence(tmp_path):
    first = compared(samples(2), tmp_path, sure=()).first
    assert (first.calibration, first.confidences) == (None, None)
    assert all(math.isnan(flip.new_confidence) for flip in first.flips)


@pytest.mark.parametrize("seed", range(2))
def test_confidence_grid(seed, tmp_path):
    rows = samples(seed, 400)
    expected = np.zeros((10, 10), int)
    for row in filter(broke, rows):
        expected[min(int(row["old_confidence"] * 10), 9), min(int(row["new_confidence"] * 10), 9)] += 1
    assert np.array(compared(rows, tmp_path).first.confidences).tolist() == expected.tolist()


@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize("seed", range(2))
def test_calibration(seed, side, tmp_path):
    rows = samples(seed, 400, seen_by_old=None)
    found = compared(rows, tmp_path, "seen_by_old").first.calibration[side == "new"]
    kept = counted(rows)
    bins = {}
    for row in kept:
        bins.setdefault(min(int(row[f"{side}_confidence"] * 15), 14), []).append(row)
    expected = [
        (
            len(part),
            np.mean([row[f"{side}_confidence"] for row in part]),
            np.mean([row[side] == row["target"] for row in part]),
        )
        for _, part in sorted(bins.items())
    ]
    assert [(part.rows, part.confidence, part.accuracy) for part in found.bins] == [pytest.approx(e) for e in expected]
    ece = sum(count * abs(sure - accuracy) for count, sure, accuracy in expected) / len(kept)
    assert (found.ece, found.confidence) == pytest.approx((ece, np.mean([row[f"{side}_confidence"] for row in kept])))
    assert found.nll == pytest.approx(np.mean([-math.log(max(row[f"{side}_target_score"], 1e-12)) for row in kept]))


def test_likelihood_needs_the_probability_of_the_truth(tmp_path):
    old, new = compared(samples(0), tmp_path, sure=("confidence",)).first.calibration
    assert (old.nll, new.nll) == (None, None)


def test_classes_are_ordered_as_people_order_them():
    names = ["10", "9", "b", "a", "-1", "nan", "2.5", "inf"]
    assert sorted(names, key=class_order) == ["-1", "2.5", "9", "10", "a", "b", "inf", "nan"]

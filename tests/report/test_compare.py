import tempfile
from pathlib import Path

import numpy as np
import pytest

from lightning_graceful.report.answers import Reading
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.database import PredictionError
from tests.report.prediction_files import samples, write, write_csv

TARGET = ["a", "a", "b", "b"]


def answers(folder, name, label, **columns):
    return write_csv(folder / f"{name}.csv", {"id": range(len(label)), "label": label, **columns})


@pytest.fixture(autouse=True)
def no_folder_is_left(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield
    assert list(scratch.iterdir()) == []


def test_names_and_title(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET, **{"slice:x": "pqpq"})
    summary = compare_files(
        old, {"first": answers(tmp_path, "one", "babb"), "second": answers(tmp_path, "two", "aaba")}
    )
    assert summary.title == "old replaced by first or second"
    assert [candidate.name for candidate in summary.candidates] == ["first", "second"]
    assert (summary.classes, summary.slice_columns, summary.threshold) == (("a", "b"), ("x",), None)
    assert (summary.noise_floor, summary.has_costs, summary.images, summary.notes) == (None, False, {}, ())
    assert compare_files(old, {"n": old}, title="Mine").title == "Mine"


def test_answers_that_are_no_target_are_named(tmp_path):
    """A class that one model calls by another name counts as broken: the card says so."""
    old = answers(tmp_path, "old", "aabb", target=TARGET)
    notes = compare_files(old, {"new": answers(tmp_path, "new", "AAbA")}).notes
    assert notes == (
        "Answers of the new model that are no target: A (3). If classes were renamed, say so with a label map "
        "(--label-map).",
    )


def test_noise_floor_is_the_nfr_of_a_retrain(tmp_path):
    rows = samples(3, 200)
    old = write(tmp_path / "old.csv", rows, "old", "target")
    again = write(tmp_path / "again.csv", samples(3, 200), "new")
    other = write(tmp_path / "other.csv", [row | {"new": row["target"]} for row in rows], "new")
    floor = compare_files(old, {"new": other}, question=Question(retrain=again)).noise_floor
    assert floor == compare_files(old, {"new": again}).first.whole.nfr


def test_a_retrain_knows_the_old_classes_and_threshold(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET, confidence=[0.9, 0.9, 0.9, 0.9])
    new = answers(tmp_path, "new", "AABB", confidence=[1, 1, 1, 1])
    again = answers(tmp_path, "again", "abbb", confidence=[0.9, 0.9, 0.9, 0.1])
    question = Question(Reading(label_map={"a": "A", "b": "B"}), threshold=(0.5, 0.95), retrain=again)
    summary = compare_files(old, {"new": new}, question=question)
    assert (summary.first.whole.both_right, summary.noise_floor.mean) == (4, 2 / 4)


def test_threshold_of_each_model(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET, confidence=[0.9, 0.7, 0.6, 0.95])
    new = answers(tmp_path, "new", "aaab", confidence=[0.9, 0.6, 0.9, 0.55])
    first = compare_files(old, {"new": new}, question=Question(threshold=(0.65, 0.8))).first
    assert [(flip.id, flip.new) for flip in first.flips] == [("1", "(no answer)"), ("3", "(no answer)")]
    assert (first.whole.both_right, first.whole.broke, first.whole.both_wrong) == (1, 2, 1)
    assert (first.at_argmax.both_right, first.at_argmax.broke) == (3, 1)
    assert [(pair.target, pair.new, pair.count) for pair in first.pairs] == [
        ("a", "(no answer)", 1),
        ("b", "(no answer)", 1),
    ]
    assert sum(map(sum, first.confidences)) == 2


def test_threshold_of_one_score(tmp_path):
    target = [0, 0, 1, 1]
    old = write_csv(tmp_path / "old.csv", {"id": range(4), "target": target, "score": [0.1, 0.6, 0.6, 0.9]})
    new = write_csv(tmp_path / "new.csv", {"id": range(4), "target": target, "score": [0.1, 0.2, 0.6, 0.75]})
    first = compare_files(old, {"new": new}, question=Question(threshold=(0.7, 0.8))).first
    assert (first.whole.both_right, first.whole.broke, first.whole.both_wrong) == (2, 1, 1)
    assert (first.at_argmax.both_right, first.at_argmax.fixed) == (3, 1)
    assert first.calibration[1].nll == pytest.approx(-np.log([0.9, 0.8, 0.6, 0.75]).mean())
    # What counts is the answer at the threshold, here always 0: right, right, wrong, wrong.
    assert first.calibration[1].ece == pytest.approx((0.1 + 0.2 + 0.4 + 0.25) / 4)


def test_slices_that_nobody_has(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET)
    with pytest.raises(
        PredictionError, match=r"Expected the slice 'x' as a column of .*old\.csv or .*new\.csv, got none"
    ):
        compare_files(old, {"new": answers(tmp_path, "new", "aabb")}, question=Question(Reading(("x",))))


def test_candidates_have_the_same_slices(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET)
    first, second = answers(tmp_path, "one", "babb", **{"slice:x": "pqpq"}), answers(tmp_path, "two", "babb")
    with pytest.raises(PredictionError, match=r"two\.csv: expected the slices \('x',\), got \(\)\."):
        compare_files(old, {"one": first, "two": second})


def test_a_slice_by_its_name_or_its_mark(tmp_path):
    slices = {"country": ["IS", "IS", "NO", ""], "slice:age": [1, 10, 9, 9], "slice": "xxyy"}
    old = answers(tmp_path, "old", "aabb", target=TARGET, **slices)
    found = compare_files(old, {"new": old}, question=Question(Reading(("country",))))
    assert found.slice_columns == ("slice", "country", "age")
    places = [group.where for group in found.first.slices]
    assert places == ["slice=x", "slice=y", "country=(empty)", "country=IS", "country=NO", "age=1", "age=10", "age=9"]


def test_a_slice_may_be_named_as_a_column_of_ours(tmp_path):
    slices = {f"slice:{name}": "pqpq" for name in ("new", "old", "target", "id", "seed", "place", "rank", "candidate")}
    old = answers(tmp_path, "old", "aabb", target=TARGET, **slices)
    flips = tmp_path / "flips.csv"
    found = compare_files(old, {"new": answers(tmp_path, "new", "babb")}, question=Question(flips=flips)).first
    assert (found.whole.broke, found.flips[0].new, found.flips[0].slices) == (1, "b", ("p",) * 8)
    assert flips.read_text().splitlines()[1].startswith("new,0,a,b,p,")


def test_columns_without_meaning_are_mentioned(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET, **{"hair colour": "xyxy"})
    assert compare_files(old, {"new": old}).notes == ("Not used in old.csv: hair colour.",)


def test_texts_and_costs_of_flips(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET, text=["one", "", "x", "y"], cost=[2, 5, 1, 1], seed=[7] * 4)
    new = answers(tmp_path, "new", "bbbb", seed=[7] * 4)
    found = [(flip.id, flip.cost, flip.seed, flip.text) for flip in compare_files(old, {"new": new}).first.flips]
    assert found == [("1", 5.0, 7, None), ("0", 2.0, 7, "one")]


@pytest.mark.parametrize("broken", ["old", "new"])
def test_errors_leave_no_folder(broken, tmp_path):
    good, bad = answers(tmp_path, "good", "aabb", target=TARGET), Path(tmp_path, "gone.csv")
    with pytest.raises(PredictionError, match=r"gone\.csv: no such file\."):
        compare_files(*((bad, {"new": good}) if broken == "old" else (good, {"new": bad})))


def test_memory_that_is_no_size(tmp_path):
    old = answers(tmp_path, "old", "aabb", target=TARGET)
    with pytest.raises(PredictionError, match=r"^memory_limit lots: Parser Error: "):
        compare_files(old, {"new": old}, question=Question(memory="lots"))


def test_each_step_is_told(tmp_path):
    told = []
    old, new = answers(tmp_path, "old", "aabb", target=TARGET), answers(tmp_path, "new", "aabb")
    compare_files(old, {"new": new}, question=Question(tell=told.append))
    assert told == ["reading old.csv", "reading new.csv", "joining new.csv with old.csv", "counting what new breaks"]

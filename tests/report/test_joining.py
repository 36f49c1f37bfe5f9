import os

import pytest

from lightning_graceful.report.answers import Reading
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.database import PredictionError
from lightning_graceful.report.files import write_predictions
from tests.report.prediction_files import samples, write, write_csv

OLD = {"id": [1, 2, 3], "target": ["a", "a", "b"], "label": ["a", "a", "a"]}
NEW = {"id": [1, 2, 3], "label": ["b", "a", "b"]}


def compared(folder, old=OLD, new=NEW, **question):
    files = write_csv(folder / "old.csv", old), {"new": write_csv(folder / "new.csv", new)}
    return compare_files(*files, question=Question(**question))


def refusal(folder, old=OLD, new=NEW, **question):
    with pytest.raises(PredictionError) as error:
        compared(folder, old, new, **question)
    return str(error.value).replace(f"{folder}{os.sep}", "")


@pytest.mark.parametrize("seed", range(3))
def test_order_does_not_matter(seed, tmp_path):
    rows = samples(1)
    old = write(tmp_path / "old.csv", rows, "old", "target", seed=seed)
    found = compare_files(old, {"new": write(tmp_path / "new.csv", rows, "new", seed=seed + 1)}).first
    plain = write(tmp_path / "plain.csv", rows, "new", seed=0)
    assert found.whole == compare_files(old, {"new": plain}).first.whole


@pytest.mark.parametrize("holder", ["old", "new"])
@pytest.mark.parametrize("name", ["target", "weight", "cost", "group", "slice:x", "seen_by_old"])
def test_a_column_may_be_in_either_file(name, holder, tmp_path):
    given = {"target": ["a", "a", "b"], "weight": [1, 2, 3], "cost": [5, 6, 7], "group": ["g", "g", "h"]}
    given |= {"slice:x": ["p", "p", "q"], "seen_by_old": [False, False, True]}
    sides = {"old": {**OLD}, "new": {**NEW}}
    sides["old"].pop("target") if name == "target" else None
    found = compared(tmp_path, sides["old"] | ({name: given[name]} if holder == "old" else {}),
                     sides["new"] | ({name: given[name]} if holder == "new" else {}))  # fmt: skip
    whole = found.first.whole
    assert (whole.broke, whole.rows) == (1, 2 if name == "seen_by_old" else 3)
    assert whole.nfr.mean == pytest.approx({"weight": 1 / 6, "seen_by_old": 1 / 2}.get(name, 1 / 3))
    assert (found.slice_columns == ("x",)) == (name == "slice:x")
    assert (whole.cost is not None) == (name == "cost")


@pytest.mark.parametrize(
    ("name", "mine", "other", "is_same"),
    [
        ("target", ["a", "a", "b"], ["a", "c", "b"], False),
        ("weight", [1, 1, 1], [1, 2, 1], False),
        ("weight", [0.1, 0.2, 0.3], [0.1, 0.20000000298, 0.3], True),
        ("cost", [1, 1, 1], [1, 0, 1], False),
        ("group", ["g", "g", "h"], ["g", "h", "h"], False),
        ("slice:x", ["p", "p", ""], ["p", "q", ""], False),
    ],
)
def test_what_both_files_say_they_say_alike(name, mine, other, is_same, tmp_path):
    old, new = OLD | {name: mine}, NEW | {name: other}
    if is_same:
        assert compared(tmp_path, old, new).first.whole.rows == 3
        return
    remedy = "Drop the column from one of them."
    if name == "target":
        remedy = "Use one labelling, or a label map (--label-map) if the classes were renamed."
    expected = f"Expected one {name} for each id in old.csv and new.csv, got two for id 2. {remedy}"
    assert refusal(tmp_path, old, new) == expected


IDS = "Complete the files, or say --common to compare the ids that both have."


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ({"id": [1, 2], "label": "ab"}, f"new.csv: expected the same ids as in old.csv, got no id 3. {IDS}"),
        ({"id": [1, 2, 3, 4], "label": "abab"}, f"old.csv: expected the same ids as in new.csv, got no id 4. {IDS}"),
        ({"id": [1, 2, "03"], "label": "aba"}, f"new.csv: expected the same ids as in old.csv, got no id 3. {IDS}"),
        ({"id": [1, 1, 2], "seed": [0, 1, 0], "label": "aba"},
         f"new.csv: expected the same ids as in old.csv, got no id 3. {IDS}"),
    ],
    ids=["missing", "extra", "zeros", "seeds in place of ids"],
)  # fmt: skip
def test_ids_that_differ_are_named(new, words, tmp_path):
    assert refusal(tmp_path, new=new) == words


def test_many_missing_ids_are_counted(tmp_path):
    old = {"id": range(100, 1400), "target": "a" * 1300, "label": "a" * 1300}
    assert refusal(tmp_path, old, {"id": [100], "label": "a"}) == (
        f"new.csv: expected the same ids as in old.csv, got no id 1000, 1001, 1002, 1003, 1004 and 1,294 more. {IDS}"
    )


def test_common_ids_are_compared_on_demand(tmp_path):
    summary = compared(tmp_path, new={"id": [3, 1, 7, 8], "label": "bbbb"}, common=True)
    assert (summary.first.whole.rows, summary.first.whole.broke, summary.first.whole.fixed) == (2, 1, 1)
    assert "3 rows left out that only one of the files has." in summary.notes
    words = "Expected rows in both old.csv and new.csv to compare, got none that count."
    assert refusal(tmp_path, new={"id": [7], "label": "b"}, common=True) == words


def test_integers_of_parquet_are_the_text_of_csv(tmp_path):
    old = write_predictions(tmp_path / "old.parquet", **OLD)
    new = write_csv(tmp_path / "new.csv", NEW)
    assert compare_files(old, {"new": new}).first.whole.broke == 1
    padded = write_csv(tmp_path / "padded.csv", NEW | {"id": ["001", "002", "003"]})
    with pytest.raises(PredictionError, match=r"no id 1, 2, 3 \(ids are BIGINT in one, VARCHAR in the other\)\."):
        compare_files(old, {"new": padded})


def test_what_the_old_model_was_trained_on_is_no_evidence(tmp_path):
    summary = compared(tmp_path, OLD | {"seen_by_old": [True, False, False]}, NEW | {"seen_by_old": [0, 0, 0]})
    assert (summary.first.whole.rows, summary.first.whole.broke) == (2, 0)
    assert summary.notes == ("1 row that the old model was trained on left out: no evidence.",)


def test_several_seeds_of_the_new_model_answer_one_old_one(tmp_path):
    new = {"id": [1, 2, 3] * 2, "seed": [0] * 3 + [1] * 3, "label": "bab" + "aab"}
    whole = compared(tmp_path, new=new).first.whole
    assert (whole.samples, whole.rows, whole.broke, whole.fixed) == (3, 6, 1, 2)


def test_seeds_of_the_old_model_alone_are_refused(tmp_path):
    words = "new.csv: expected a column seed, as old.csv has one; got none."
    assert refusal(tmp_path, OLD | {"seed": [0, 0, 0]}) == words


def test_somebody_must_know_the_truth(tmp_path):
    assert refusal(tmp_path, NEW) == "Expected a column target in old.csv or new.csv, got none."


def test_costs_have_one_source(tmp_path):
    costs = write_csv(tmp_path / "costs.csv", {"target": "a", "answer": "b", "cost": [3]})
    words = "Expected a column cost or a file of costs, got both. Drop one of them."
    assert refusal(tmp_path, OLD | {"cost": [1, 1, 1]}, costs=costs) == words


@pytest.mark.parametrize("side", ["old", "new"])
def test_answers_that_are_named_unlike_the_targets_are_refused(side, tmp_path):
    old, new = OLD | {"target": [0, 1, 0], "label": [0, 1, 1]}, NEW | {"label": [1, 1, 0]}
    (old if side == "old" else new)["label"] = ["0.0", "1.0", "1.0"]
    assert refusal(tmp_path, old, new) == (
        f"Expected the {side} model to answer with names of targets, got answers 0.0, 1.0 and targets 0, 1. Write both "
        "alike, or map the old names (--label-map)."
    )


def test_one_class_is_no_error(tmp_path):
    summary = compared(tmp_path, OLD | {"target": ["a"] * 3, "label": ["a"] * 3}, NEW | {"label": ["a", "a", "b"]})
    assert (summary.first.whole.broke, summary.classes) == (1, ("a", "b"))


SCORES = {"id": [1, 2], "target": ["a", "b"], "score_a": [1, 0], "score_b": [0, 1]}


def test_unequal_class_sets_are_refused(tmp_path):
    new = {"id": [1, 2], "score_b": [1, 0], "score_c": [0, 1]}
    assert refusal(tmp_path, SCORES, new) == (
        "Expected scores for the same classes in old.csv and new.csv; only in the one: a; only in the other: c. Say "
        "how they correspond with a label map (--label-map FILE with the columns old,new; a map of no rows says that "
        "the new model knows other classes)."
    )


@pytest.mark.parametrize(
    ("label_map", "broke", "classes"), [({"a": "c"}, 0, ("b", "c")), ({}, 1, ("a", "b", "c"))], ids=["renamed", "other"]
)
def test_label_map_says_how_classes_correspond(label_map, broke, classes, tmp_path):
    new = {"id": [1, 2], "score_c": [1, 0], "score_b": [0, 1]}
    summary = compared(tmp_path, SCORES, new, reading=Reading(label_map=label_map))
    assert (summary.first.whole.broke, summary.classes) == (broke, classes)

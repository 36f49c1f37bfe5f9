import pytest

from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.database import PredictionError
from tests.report.prediction_files import write_csv

OLD = {"id": ["k1", "k2", "k3", "k4"], "target": "aabb", "label": "aaab", "weight": [1, 0, 1, 1]}
OLD |= {"seen_by_old": [0, 0, 0, 1]}
NEW = {"id": ["k1", "k2", "k3", "k4"], "label": "abaa"}


def kept(folder, ids):
    must_keep = write_csv(folder / "keep.csv", {"why": ["w"] * len(ids), "id": ids})
    old, new = write_csv(folder / "old.csv", OLD), write_csv(folder / "new.csv", NEW)
    return compare_files(old, {"new": new}, question=Question(must_keep=must_keep)).first.ruling


@pytest.mark.parametrize(
    ("ids", "decision", "reason"),
    [
        (["k1"], "accept", "None of 1 sample that must be kept broke."),
        (["k1", "k3", "k3"], "accept", "None of 2 samples that must be kept broke."),
        (["k1", "k2"], "reject", "1 sample of 2 that must be kept broke: id k2."),
        (["k4", "k2", "k1", "k3"], "reject", "2 samples of 4 that must be kept broke: id k2, k4."),
    ],
    ids=["kept", "wrong before", "no weight", "seen by old"],
)
def test_one_flip_among_them_rejects(ids, decision, reason, tmp_path):
    ruling = kept(tmp_path, ids)
    (check,) = ruling.checks
    assert (ruling.decision, check.decision, check.reason) == (decision, decision, reason)
    assert (check.value, check.limit, check.rows_needed) == (None, None, None)


@pytest.mark.parametrize("hostile", ["'; DROP TABLE old; --", 'x"y', "new\nline", "back\\slash"])
def test_unknown_ids_are_named(hostile, tmp_path):
    with pytest.raises(PredictionError) as error:
        kept(tmp_path, ["k1", hostile, "zz"])
    assert str(error.value).endswith(
        "keep.csv: expected ids that were tested, got id " + ", ".join(sorted([hostile, "zz"])) + "."
    )


def test_a_list_of_nothing_is_a_mistake(tmp_path):
    with pytest.raises(PredictionError, match=r"keep\.csv: expected ids of samples that must be kept, got none\."):
        kept(tmp_path, [])

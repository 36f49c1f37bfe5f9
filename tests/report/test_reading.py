import gzip
import math
import os

import numpy as np
import pytest

from lightning_graceful.report.answers import Reading
from lightning_graceful.report.database import Database, PredictionError, column
from lightning_graceful.report.files import write_predictions
from lightning_graceful.report.reading import read_predictions
from tests.report.prediction_files import write_csv

HOSTILE = [
    "'; DROP TABLE old; --",
    'a"b',
    "back\\slash",
    "new\nline",
    "\t",
    "$id",
    "nul\0byte",
    "%s {0}",
    "é\u202e\U0001f600",
    "''",
    "nan",
]


def read(path, *names, threshold=None, **reading):
    with Database() as database:
        table = read_predictions(database, path, "old", Reading(**reading), threshold=threshold)
        listed = ", ".join(map(column, names or ("id", "label")))
        return table, database.all(f"SELECT {listed} FROM old ORDER BY id")


def refusal(path, **options):
    with pytest.raises(PredictionError) as error:
        read(path, **options)
    return str(error.value).replace(f"{path.parent}{os.sep}", "")


BOTH = {"id": ["1", "2"], "label": ["a", "b"]}


@pytest.mark.parametrize(
    "body",
    [
        "id,label\n1,a\n2,b\n",
        "id,label\r\n1,a\r\n2,b\r\n",
        "\ufeffid,label\n1,a\n2,b",
        '"label","id"\n"a","1"\n"b","2"\n',
        "id,label\n\n1,a\n\n2,b\n\n",
    ],
    ids=["plain", "crlf", "bom", "quoted", "blank lines"],
)
@pytest.mark.parametrize("kind", [".csv", ".csv.gz"])
def test_csv_of_any_maker(body, kind, tmp_path):
    path = tmp_path / f"old{kind}"
    path.write_bytes(gzip.compress(body.encode()) if kind.endswith("gz") else body.encode())
    table, rows = read(path)
    assert rows == [("1", "a"), ("2", "b")]
    assert (table.rows, table.columns, table.slices, table.classes, table.unused) == (2, set(), (), (), ())


@pytest.mark.parametrize(
    "name",
    [
        "a[1].csv",
        "b*.csv",
        "c?.csv",
        "it's.csv",
        "sp ace.csv",
        "ünï.csv",
        "~x.csv",
        "seed=3/old.csv",
        "a,b.csv",
        "#.csv",
    ],
)
def test_file_names_are_no_patterns(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)(name)
    path.parent.mkdir(exist_ok=True)
    write_csv(tmp_path / "b1.csv", {"id": [7], "label": ["other"]})
    table, rows = read(write_csv(path, BOTH))
    assert rows == [("1", "a"), ("2", "b")]
    assert "seed" not in table.columns


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_hostile_values_are_values(kind, tmp_path):
    path = tmp_path / f"old{kind}"
    values = {"id": HOSTILE, "label": HOSTILE, 'slice:it\'s "x"; --': HOSTILE, "text": HOSTILE}
    write_csv(path, values) if kind == ".csv" else write_predictions(path, **values)
    table, rows = read(path, "id", "label", 'slice:it\'s "x"; --', "text")
    assert rows == [(name,) * 4 for name in sorted(HOSTILE)]
    assert table.slices == ('it\'s "x"; --',)


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\n" not in name])
def test_hostile_classes_of_scores(name, tmp_path):
    values = {"id": [1, 2], "target": [name, "b"], f"score_{name}": [0.9, 0.2], "score_b": [0.1, 0.8]}
    table, rows = read(write_csv(tmp_path / "old.csv", values), "label", "confidence", "target_score")
    assert table.classes == (name, "b")
    assert rows == [(name, pytest.approx(0.9), pytest.approx(0.9)), ("b", pytest.approx(0.8), pytest.approx(0.8))]


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_answer_is_the_class_of_the_highest_score(logits, kind, tmp_path):
    given = np.random.default_rng(0).normal(size=(40, 3)) * 3000
    shares = np.exp(given - given.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    names, target = ["x", "y", "z"], np.random.default_rng(1).integers(0, 3, 40)
    values = {f"score_{name}": (given if logits else shares)[:, place].tolist() for place, name in enumerate(names)}
    values = {"id": [f"{number:02}" for number in range(40)], "target": [names[place] for place in target], **values}
    path = tmp_path / f"old{kind}"
    write_csv(path, values) if kind == ".csv" else write_predictions(
        path, label=[names[p] for p in given.argmax(1)], **values
    )
    _, rows = read(path, "label", "confidence", "target_score", logits=logits)
    assert [row[0] for row in rows] == [names[place] for place in given.argmax(1)]
    assert [row[1] for row in rows] == pytest.approx(shares.max(1), abs=1e-6)
    assert [row[2] for row in rows] == pytest.approx(shares[np.arange(40), target], abs=1e-6)


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_one_score_is_of_the_positive_class(logits, threshold, tmp_path):
    shares = [0.05, 0.3, 0.49, 0.5, 0.97]
    given = [math.log(share / (1 - share)) for share in shares] if logits else shares
    path = write_csv(tmp_path / "old.csv", {"id": range(5), "target": [0, 1, 1, 0, 1], "score": given})
    _, rows = read(path, "label", "confidence", "target_score", logits=logits, threshold=threshold)
    says = [share >= (threshold or 0.5) - 1e-12 * (not logits) for share in shares]
    assert [row[0] for row in rows] == ["1" if yes else "0" for yes in says]
    assert [row[1] for row in rows] == pytest.approx([s if yes else 1 - s for s, yes in zip(shares, says, strict=True)])
    assert [row[2] for row in rows] == pytest.approx([0.95, 0.3, 0.49, 0.5, 0.97])


@pytest.mark.parametrize(
    ("target", "positive", "classes"),
    [
        ([0, 1, 1], None, ("0", "1")),
        (["true", "false", "true"], None, ("false", "true")),
        (["it's", "ham", "ham"], "it's", ("ham", "it's")),
        ([0, 0, 0], None, ("0", "1")),
        (["x", "x", "x"], "x", ("not x", "x")),
    ],
)
def test_classes_of_one_score(target, positive, classes, tmp_path):
    path = write_csv(tmp_path / "old.csv", {"id": [1, 2, 3], "target": target, "score": [0.1, 0.2, 0.9]})
    table, rows = read(path, positive=positive)
    assert table.classes == classes
    assert [row[1] for row in rows] == [classes[0], classes[0], classes[1]]


@pytest.mark.parametrize("threshold", [0.9, 0.3, 1e-5, 1.0])
def test_answers_below_the_threshold_are_none(threshold, tmp_path):
    sure = [threshold, threshold * 0.99, 1.0]
    path = write_csv(tmp_path / "old.csv", {"id": [1, 2, 3], "label": ["a", "b", "c"], "confidence": sure})
    _, rows = read(path, "first", "label", threshold=threshold)
    assert rows == [("a", "a"), ("b", None), ("c", "c")]


def test_columns_of_the_user_do_not_stand_in_for_ours(tmp_path):
    traps = {name: [9, 9] for name in ("given", "raised", "shares", "share", "x", "first", "value", "d")}
    scores = {"score_a": [0.9, 0.2], "score_b": [0.1, 0.8]}
    table, rows = read(write_csv(tmp_path / "old.csv", {"id": [1, 2], **traps, **scores}), slices=("given", "first"))
    assert rows == [("1", "a"), ("2", "b")]
    assert {*table.unused} == {*traps} - {"given", "first"}


def test_columns_called_as_ours_are_refused(tmp_path):
    path = write_csv(tmp_path / "old.csv", {**BOTH, "Graceful:given": [1, 1]})
    assert refusal(path) == "old.csv: expected no column that begins with graceful:, got 'Graceful:given'. Rename it."


def test_numbers_of_data_frames(tmp_path):
    values = {
        "id": np.arange(3),
        "label": [0.0, 1.0, 2.5],
        "slice:age": [0.25, math.nan, 3.0],
        "group": [0.5, 0.6, 7.0],
    }
    _, rows = read(write_predictions(tmp_path / "old.parquet", **values), "id", "label", "slice:age", "group")
    assert rows == [("0", "0", "0.25", "0.5"), ("1", "1", "", "0.6"), ("2", "2.5", "3", "7")]


@pytest.mark.parametrize("written", ["true False 1 0", "yes no t f"])
def test_ways_to_say_true(written, tmp_path):
    path = write_csv(tmp_path / "old.csv", {"id": range(4), "label": "aaaa", "seen_by_old": written.split()})
    assert [row[0] for row in read(path, "seen_by_old")[1]] in ([True, False, True, False],)


def test_label_map_renames_at_once(tmp_path):
    path = write_csv(tmp_path / "old.csv", {"id": [1, 2, 3], "target": ["a", "b", "c"], "label": ["b", "a", "c"]})
    hostile = "'; DROP TABLE old"
    _, rows = read(path, "target", "label", label_map={"a": "b", "b": "a", "c": hostile})
    assert rows == [("b", "a"), ("a", "b"), (hostile, hostile)]


MALFORMED = {
    "": "expected a header, got an empty file.",
    "\n": "expected a header, got an empty first line.",
    "id,label\n": "expected rows, got a header only.",
    "id;label\n1;a\n": "expected a column id, got id;label. Separate columns by commas.",
    "id\tlabel\n1\ta\n": "expected a column id, got id\tlabel. Separate columns by commas.",
    "key,label\n1,a\n": "expected a column id, got key, label.",
    "id,x\n1,a\n": "expected the model's answer in a column label, score, or score_<class>, got the columns id, x.",
    ",id,label\n0,1,a\n": (
        "expected a name for each column, got ['', 'id', 'label']. Name or drop the column (pandas: index=False)."
    ),
    "id,label,Label\n1,a,b\n": (
        "expected column names that differ, in more than case, got ['label', 'Label']. Rename one."
    ),
    "id,lable\n1,a\n": (
        "the column 'lable' means nothing here. Call it 'label' if it is that, name it as a slice (--slice) if it is a "
        "property of the sample, or else call it something quite different."
    ),
    'id,label\n1,"a\n2,b\n': (
        "expected quotes that end, got an open one in line 2. Double a quote within a quoted value."
    ),
    "id,label\n1,a\n2\n": "expected 2 columns, got 1 in line 3. Quote a value that holds a separator.",
    "id,label\n1,a,b\n": "expected 2 columns, got 3 in line 2. Quote a value that holds a separator.",
    "id,label\n1,a\r\n2,b\n": "expected CSV as in RFC 4180, got mixed line ends or quotes. Save it anew.",
    "id,label\n1,a\n1,b\n2,a\n2,a\n3,a\n": "expected each id once, got repeatedly: 1, 2. Keep one row of each.",
    "id,label\n,a\n": "expected an id in each row, not so for id (none).",
    "id,label\n1,\n2,\n": "expected an answer in each row, not so for id 1, 2.",
    "id,label,target\n1,a,\n": "expected a target in each row, not so for id 1.",
    "id,label,weight\n1,a,-1\n": "expected a finite weight of at least 0, not so for id 1.",
    "id,label,weight\n1,a,nan\n": "expected a finite weight of at least 0, not so for id 1.",
    "id,label,cost\n1,a,-0.5\n2,b,inf\n": "expected a finite cost of at least 0, not so for id 1, 2.",
    "id,label,cost\n1,a,\n": "expected a finite cost of at least 0, not so for id 1.",
    "id,label,cost\n1,a,dear\n": "expected a number in cost of id 1, got dear.",
    "id,label,group\n1,a,\n": "expected a group in each row, not so for id 1.",
    "id,label,seed\n1,a,x\n": "expected a number in seed of id 1, got x.",
    "id,label,seed\n1,a,0\n1,a,0\n": "expected each id and seed once, got repeatedly: 1. Keep one row of each.",
    "id,label,seen_by_old\n1,a,perhaps\n": "expected true or false in seen_by_old of id 1, got perhaps.",
    "id,label,confidence\n1,a,1.5\n2,a,nan\n": "expected a probability in confidence, not so for id 1, 2.",
    "id,label,confidence\n1,a,sure\n": "expected a number in confidence of id 1, got sure.",
    "id,label,target_score\n1,a,-1\n": "expected a probability in target_score, not so for id 1.",
    "id,label,slice:class\n1,a,x\n": "expected another name for a slice than 'class'. Rename the column.",
    "id,label,slice:\n1,a,x\n": "expected another name for a slice than ''. Rename the column.",
    "id,score\n1,0.5\n": "expected a column target beside a single score, got none.",
    "id,target,score\n1,0,nan\n": "expected a probability (say --logits if it is a logit) as score of id 1, got nan.",
    "id,target,score\n1,0,\n": "expected a probability (say --logits if it is a logit) as score of id 1, got none.",
    "id,target,score\n1,0,3\n": "expected a probability (say --logits if it is a logit) as score of id 1, got 3.0.",
    "id,target,score\n1,0,x\n": "expected a number in score of id 1, got x.",
    "id,target,score\n1,a,0.5\n2,b,0.5\n": (
        "expected two classes for a single score, and which of them it is for, got ['a', 'b']. Name it (--positive), "
        "or give a score_<class> column for each class."
    ),
    "id,score_a,score_b\n1,0.5,\n": "expected a number in each score column of id 1, got [0.5, NULL].",
    "id,score_a,score_b\n1,0.5,inf\n": "expected a number in each score column of id 1, got [0.5, inf].",
    "id,score_a,score_b\n1,0.5,NaN\n": "expected a number in each score column of id 1, got [0.5, nan].",
    "id,score_a,score_b\n1,0.5,high\n": "expected a number in score_b of id 1, got high.",
    "id,score_a,score_b\n1,5,-3\n": (
        "expected probabilities that sum to 1 (say --logits if they are logits) in the score columns of id 1, got "
        "[5.0, -3.0]."
    ),
    "id,label,score_a,score_b\n1,c,0.5,0.5\n": ("expected a label that has a score column in the row of id 1, got c."),
}


@pytest.mark.parametrize("body", MALFORMED, ids=ascii)
def test_refused_in_one_line(body, tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes(body.encode())
    assert refusal(path) == f"old.csv: {MALFORMED[body]}"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("score_a", math.inf, "expected a number in each score column of id 1, got [inf, 0.0]."),
        ("score", -math.inf, "expected a finite number as score of id 1, got -inf."),
    ],
)
def test_logits_are_finite(column, value, words, tmp_path):
    other = {"score_b": [0]} if column == "score_a" else {}
    path = write_csv(tmp_path / "old.csv", {"id": [1], "target": [0], column: [value], **other})
    assert refusal(path, logits=True) == f"old.csv: {words}"


def test_threshold_needs_a_confidence(tmp_path):
    path = write_csv(tmp_path / "old.csv", BOTH)
    assert refusal(path, threshold=0.5) == (
        "old.csv: expected a column confidence, or scores, for a threshold; got neither."
    )


def test_floating_ids_are_refused(tmp_path):
    path = write_predictions(tmp_path / "old.parquet", id=[1.0, 2.0], label=["a", "b"])
    assert refusal(path) == "old.parquet: expected text or integers in id, got DOUBLE. Write them as integers."


@pytest.mark.parametrize("name", ["old.xlsx", "old", "old.gz", "old.CSV"])
def test_files_of_unknown_kind(name, tmp_path):
    (tmp_path / name).write_text("id,label\n")
    kind = {"old": "no suffix", "old.gz": ".gz"}.get(name, name[3:])
    assert refusal(tmp_path / name) == f"{name}: expected .csv, .tsv, .csv.gz, .tsv.gz or .parquet, got {kind}."


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    assert refusal(tmp_path / "folder.csv") == "folder.csv: no such file."
    assert refusal(tmp_path / "gone.csv") == "gone.csv: no such file."


@pytest.mark.parametrize("name", ["old.parquet", "old.csv.gz"])
def test_broken_containers(name, tmp_path):
    (tmp_path / name).write_bytes(b"PAR1 but not really, and quite long enough to look like one PAR?")
    words = refusal(tmp_path / name)
    assert words.startswith(f"{name}: ")
    assert "\n" not in words
    assert "LINE" not in words


@pytest.mark.parametrize("cut", [12, 60])
def test_truncated_gzip(cut, tmp_path):
    path = tmp_path / "old.csv.gz"
    path.write_bytes(gzip.compress("".join(["id,label\n", *(f"{n},a\n" for n in range(500))]).encode())[:-cut])
    assert refusal(path).startswith("old.csv.gz: ")


def test_bytes_that_are_no_utf_8(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes(b"id,label\n" + b"".join(b"%d,a\n" % number for number in range(9000)) + b"x,caf\xe9\n")
    assert refusal(path) == "old.csv: expected UTF-8, got other bytes in line 9002. Save the file as UTF-8."


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "old.csv", BOTH)
    monkeypatch.setattr("pathlib.Path.open", lambda *args, **kwargs: os.open("/proc/1/nothing/to/see", os.O_RDONLY))
    assert refusal(path) == "old.csv: No such file or directory."

import csv
import json
import math
import re
from xml.etree import ElementTree

import pytest

from lightning_graceful.report.answers import Reading
from lightning_graceful.report.budgets import Budget
from lightning_graceful.report.compare import Question, compare_files
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.junit import to_junit
from lightning_graceful.report.markdown import literal, to_markdown
from lightning_graceful.report.plain import to_json
from lightning_graceful.report.verdict import Rules
from tests.report.prediction_files import samples, write, write_csv

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)> @everyone #12",
    "a|b\n| c | `d` **e** [f](javascript:x) ![g](http://h.example/i)",
    "]]> <!-- --> &amp; \x00\x07\x1b[31m\ud7ff\uffff",
    '=HYPERLINK("http://x.example")',
    "www.example.com https://example.com me@example.com",
    "</summary></details> ~~x~~ $1+1$ -->",
]


@pytest.fixture
def hostile(tmp_path):
    """Give a comparison in which everything that can be named is named by somebody mean."""
    count = len(HOSTILE)
    names = {"id": HOSTILE, "text": HOSTILE, f"slice:{HOSTILE[1]}": HOSTILE, "target": HOSTILE}
    old = write_csv(tmp_path / "old.csv", {**names, "label": HOSTILE})
    new = write_csv(tmp_path / "new.csv", {"id": HOSTILE, "label": HOSTILE[1:] + HOSTILE[:1]})
    rules = Rules([Budget("nfr", 0.5), Budget("nfr", 0.5, "class")])
    question = Question(rules=rules, flips=tmp_path / "out" / "flips.csv")
    found = compare_files(old, {HOSTILE[0]: new, HOSTILE[3]: new}, title=HOSTILE[2], question=question)
    assert found.first.whole.broke == count
    return found


def test_json_reads_back(hostile):
    found = json.loads(to_json(hostile, 3))
    assert (found["format"], found["decision"], found["exit_code"], found["title"]) == (1, "undecided", 3, HOSTILE[2])
    first = found["candidates"][0]
    assert {flip["id"] for flip in first["flips"]} == {*HOSTILE}
    assert {group["value"] for group in first["classes"]} == {*HOSTILE}
    assert first["flips"][0]["new_confidence"] is None
    assert "images" not in found


def test_json_holds_all_numbers(tmp_path):
    rows = samples(1, 100, cost=None)
    old = write(tmp_path / "old.csv", rows, "old", "target", "cost", "confidence", "target_score")
    summary = compare_files(
        old, {"new": write(tmp_path / "new.csv", rows, "new", "target", "confidence", "target_score")}
    )
    found, first = json.loads(to_json(summary, 0)), summary.first
    whole = found["candidates"][0]["whole"]
    assert whole["nfr"] == first.whole.nfr._asdict()
    assert whole["cost"] == first.whole.cost._asdict()
    assert whole["effective_rows"] == first.whole.effective_rows
    assert found["candidates"][0]["calibration"][1]["nll"] == first.calibration[1].nll
    assert (found["decision"], found["exit_code"]) == (None, 0)


@pytest.mark.parametrize(("undecided", "kind"), [("report", "error"), ("fail", "failure"), ("pass", None)])
def test_junit_has_a_case_a_check(undecided, kind, tmp_path):
    old = write_csv(tmp_path / "old.csv", {"id": range(100), "target": "a" * 100, "label": "a" * 100})
    new = write_csv(tmp_path / "new.csv", {"id": range(100), "label": "b" + "a" * 99})
    rules = Rules([Budget("nfr", 0.01), Budget("error", 0.5)], non_inferior=0.0001)
    found = compare_files(old, {"new": new}, question=Question(rules=rules))
    suite = ElementTree.fromstring(to_junit(found, undecided))[0]
    cases = {case.get("name"): [part.tag for part in case] for case in suite}
    assert cases["NFR at most 1 % in all rows"] == [kind or "system-out"]
    assert cases["error at most 50 % in all rows"] == ["system-out"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        "3", str(2 * (kind == "failure")), str(2 * (kind == "error")),
    )  # fmt: skip


def test_junit_reads_back(hostile):
    written = to_junit(hostile)
    assert written.startswith("<?xml version='1.0' encoding='utf-8'?>")
    suites = ElementTree.fromstring(written.encode())
    assert suites.get("name") == HOSTILE[2]
    assert suites[1].get("name") == "]]> <!-- --> &amp; \ufffd\ufffd\ufffd[31m\ud7ff\ufffd"
    names = {case.get("name") for case in suites[0]}
    assert f"NFR at most 50 % in class={HOSTILE[0]}" in names
    assert len(suites[0]) == int(suites[0].get("tests")) == 2 * len(HOSTILE) + 1


def test_markdown_shows_names_as_they_are(hostile):
    written = to_markdown(hostile)
    tags = set(re.findall(r"<[^>]*>?", written))
    assert tags == {"<details>", "<summary>", "</summary>", "</details>"}
    assert not re.search(r"@(?!&#8203;)", written)
    assert not re.search(r"(?<!&)#\d", written)
    assert "://" not in written
    assert "www." not in written
    assert "\x1b" not in written
    assert "(javascript" not in written.replace("\\(", "")
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    assert all("](" not in line.replace("\\]", "").replace("\\(", "") for line in written.splitlines())


def test_a_comment_has_room_for_many_slices(tmp_path):
    about = {"id": range(900), "target": "a" * 900, "slice:a long name of a slice": [f"value {n}" for n in range(900)]}
    old = write_csv(tmp_path / "old.csv", about | {"label": "a" * 900})
    new = write_csv(tmp_path / "new.csv", {"id": range(900), "label": "b" * 900})
    written = to_markdown(compare_files(old, {"new": new}, question=Question(rules=Rules([Budget("nfr", 0.5)]))))
    assert len(written) < 20_000
    assert "<summary>901 checks</summary>" in written
    assert "The first 50 of 901." in written
    assert "The worst 20 of 901." in written


@pytest.mark.parametrize("sign", list("\\`*_{}[]()#+!|~$-"))
def test_markup_is_escaped(sign):
    assert literal(f"a{sign}b").startswith(f"a\\{sign}")


def test_flips_read_back_and_run_nothing(hostile, tmp_path):
    with (tmp_path / "out" / "flips.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(HOSTILE)
    assert {row["id"].removeprefix("'") for row in rows} == {*HOSTILE}
    assert {row["candidate"] for row in rows} == {HOSTILE[0], HOSTILE[3]}
    assert not any(cell[:1] in {*"=+-@\t\r"} for row in rows for cell in row.values())
    assert {row[f"slice:{HOSTILE[1]}"] for row in rows if row["id"] == HOSTILE[0]} == {HOSTILE[0]}


def test_flips_of_numbers_stay_numbers(tmp_path):
    old = write_csv(tmp_path / "old.csv", {"id": ["-1", "+2", "-x", "=1+1"], "target": ["-1"] * 4, "label": ["-1"] * 4})
    new = write_csv(tmp_path / "new.csv", {"id": ["-1", "+2", "-x", "=1+1"], "label": ["@a"] * 4})
    compare_files(old, {"new": new}, question=Question(flips=tmp_path / "flips.csv"))
    with (tmp_path / "flips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["id"], row["target"], row["new"]) for row in rows} == {
        ("-1", "-1", "'@a"), ("+2", "-1", "'@a"), ("'-x", "-1", "'@a"), ("'=1+1", "-1", "'@a"),
    }  # fmt: skip


@pytest.mark.parametrize("about", [(), ("cost", "weight")], ids=["plain", "costs"])
def test_all_flips_are_listed_in_order(about, tmp_path):
    rows = samples(2, 300, **dict.fromkeys(about))
    old = write(tmp_path / "old.csv", rows, "old", "target", "confidence", "country", *about)
    new = write(tmp_path / "new.csv", rows, "new", "confidence")
    question = Question(Reading(("country",)), flips=tmp_path / "flips.csv")
    found = compare_files(old, {"new": new}, question=question).first.flips
    with (tmp_path / "flips.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [row["id"] for row in listed] == [flip.id for flip in found]
    for row, flip in zip(listed, found, strict=True):
        assert (row["slice:country"], row["new"], row["target"]) == (*flip.slices, flip.new, flip.target)
        assert math.isclose(float(row["new_confidence"]), flip.new_confidence, rel_tol=1e-6)
        assert float(row["cost"]) == flip.cost


def test_a_crash_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a" / "result.txt"
    with draft_of(path) as draft:
        draft.write_text("first")
    with pytest.raises(ZeroDivisionError), draft_of(path) as draft:
        draft.write_bytes(bytes(1 // 0))
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("result.txt", "first")]

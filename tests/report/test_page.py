"""What the page says, read from its HTML without a browser."""

import json
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from lightning_graceful.report.card import card_lines
from lightning_graceful.report.page import render_page, write_page
from lightning_graceful.report.summary import Check, Group, Ruling
from lightning_graceful.report.verdict import written_limit
from tests.report import summaries
from tests.report.summaries import HOSTILE, digits, empty, harmless, hostile, many, minimal, rich, several, share, tally

PLOTLY = get_plotlyjs()


class Read(HTMLParser):
    """Collects what the page would load, its ids and labels, and the cells of its tables."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.rows, self.ids, self.inside, self.elements = [], [], [], False, []
        self.feed(text.replace(PLOTLY, ""))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        self.loads += [given[name] for name in ("src", "href", "srcset", "action", "data") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag not in {"td", "th"}

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += f" {data.strip()}"

    def row(self, label):
        rows = [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in self.rows]
        return next(row[1:] for row in rows if row and row[0].startswith(label))


def data_of(text):
    found = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_numbers_of_the_page_are_those_counted_by_hand():
    page = Read(render_page(digits()))
    assert page.row("Samples tested") == ["10", "10"]
    assert [cell.split(" [")[0] for cell in page.row("Error, old model")] == ["30.00 %", "30.00 %"]
    assert [cell.split(" [")[0] for cell in page.row("Error, new model")] == ["40.00 %", "30.00 %"]
    assert page.row("Negative flips") == ["3", "2"]
    assert page.row("Positive flips") == ["2", "2"]
    # Wilson by hand for 3 of 10 and 2 of 10.
    assert page.row("NFR negative") == ["30.00 % [10.78, 60.32]", "20.00 % [5.67, 50.98]"]
    assert page.row("PFR positive") == ["20.00 % [5.67, 50.98]"] * 2
    assert page.row("Relative NFR") == ["107.1 %", "95.2 %"]
    assert page.row("Change of the error") == [
        "+10.00 [−30.00, +50.00] not distinguishable",
        "+0.00 [−30.00, +50.00] not distinguishable",
    ]
    assert page.row("Difference in NFR") == ["–", "−10.00 [−40.00, +20.00] not distinguishable"]
    assert page.row("Difference in error") == ["–", "−10.00 [−30.00, −1.00] lower"]
    assert page.row("Noise floor") == ["5.00 % [2.00, 10.00]", ""]
    assert page.row("Training time") == ["1 min 01 s", "1 h 02 min"]


def test_quadrants_and_groups_are_those_counted_by_hand():
    page = Read(render_page(digits()))
    assert page.row("old right") == ["4 both right 40.0 %", "3 broke 30.0 %"]
    assert page.row("old wrong") == ["2 fixed 20.0 %", "1 both wrong 10.0 %"]
    # Rows, then broke, fixed, NFR and p of plain and of pct.
    zero = page.row("zero")
    assert zero[0] == "2"
    assert zero[1:5] == ["2", "0", "100.00 % [34.24, 100.00]", "0.25"]
    assert [zero[5], zero[6], zero[7].split(" [")[0]] == ["1", "0", "50.00 %"]
    assert page.row("two")[1:4:2] == ["0", "0.00 % [0.00, 56.15]"]


def test_first_answers_stand_beside_those_at_the_threshold():
    candidate = replace(minimal().first, at_argmax=tally(870, 60, 30, 40))
    page = Read(render_page(replace(minimal(), candidates=(candidate,))))
    assert page.row("NFR negative")[0].startswith("2.50 %")
    assert page.row("NFR, first answers")[0].startswith("3.00 %")
    assert page.row("Error, first answers")[0].startswith("7.00 %")


def test_card_leads():
    text = render_page(minimal())
    (first, *_) = card_lines(minimal().first, minimal())
    assert first.startswith("25 cases broke, 40 fixed (1,000 samples tested)")
    assert text.index(first) < text.index("<table")
    assert "badge" not in text.split("</style>")[1].split("<script")[0]


@pytest.mark.parametrize(
    ("decision", "words"), [("accept", "✓ ACCEPT"), ("reject", "✕ REJECT"), ("undecided", "? UNDECIDED")]
)
def test_verdict_is_a_word_and_a_sign(decision, words):
    checks = (Check("NFR at most 1.00 %", "country=IS", decision, "Because.", share(3, 100), 0.01, 7200),)
    summary = replace(minimal(), candidates=(replace(minimal().first, ruling=Ruling(decision, checks)),))
    text = render_page(summary)
    verdict = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text[text.index('id="verdict"') :]))
    assert words in verdict[:200]
    row = Read(text).row(words.lower())
    assert row == [
        "NFR at most 1.00 %",
        "country=IS",
        "3.00 % [1.03, 8.45]",
        written_limit(checks[0]),
        "7,200",
        "Because.",
    ]


def test_many_checks_are_folded():
    checks = tuple(Check("NFR at most 1.00 %", f"site={k}", "accept", "Fine.", share(0, 900), 0.01) for k in range(300))
    text = render_page(replace(minimal(), candidates=(replace(minimal().first, ruling=Ruling("accept", checks)),)))
    before, after = text.split("292 more checks")
    assert ("site=7<" in before, "site=8<" in before, "site=299<" in after) == (True, False, True)


def test_parts_with_nothing_to_show_are_left_out():
    ids = set(Read(render_page(minimal())).ids)
    assert {"verdict", "side", "rates", "notes"} <= ids
    assert not {"broke", "whom", "calibration", "history", "frontier", "differences", "ways", "measures"} & ids
    assert "broke" not in Read(render_page(harmless())).ids
    everything = set(Read(render_page(rich())).ids) | set(Read(render_page(several())).ids)
    assert {
        "broke",
        "whom",
        "calibration",
        "history",
        "frontier",
        "differences",
        "ways",
        "measures",
        "always",
    } <= everything


def test_every_figure_has_a_place_a_name_and_a_table():
    for summary in (digits(), rich(), several(), minimal()):
        text = render_page(summary)
        page = Read(text)
        images = {given["id"]: given for _, given in page.elements if given.get("role") == "img"}
        assert set(data_of(text)["figures"]) <= set(images)
        assert all("table" in given["aria-label"] for given in images.values())
        assert len(set(page.ids)) == len(page.ids)
        known = set(page.ids)
        assert {given["aria-labelledby"] for _, given in page.elements if "aria-labelledby" in given} <= known
        assert {link.removeprefix("#") for link in page.loads} <= known


def test_landmarks_and_captions():
    page = Read(render_page(rich()))
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("main", "header", "nav", "footer", "h1")] == [1] * 5
    assert tags.count("caption") == tags.count("table")
    assert ("a", {"class": "skip", "href": "#verdict"}) in page.elements


def test_columns_of_flips_are_those_there_is_something_in():
    keys = [column["key"] for column in data_of(render_page(digits()))["columns"]]
    assert keys == ["target", "new", "new_confidence", "old_confidence", "cost", "id", "slice:country"]
    keys = [column["key"] for column in data_of(render_page(many()))["columns"]]
    assert keys == ["target", "new", "id", "slice:site"]
    flips = tuple(replace(flip, seed=2**60, text="a") for flip in digits().first.flips)
    data = data_of(render_page(replace(digits(), candidates=(replace(digits().first, flips=flips),))))
    assert {"text", "seed"} <= {column["key"] for column in data["columns"]}
    assert str(2**60) in data["candidates"][0]["rows"][0]


def test_one_unknown_confidence_is_null():
    first = digits().first
    flips = (replace(first.flips[0], old_confidence=math.nan), *first.flips[1:])
    data = data_of(render_page(replace(digits(), candidates=(replace(first, flips=flips),))))
    assert [row[3] for row in data["candidates"][0]["rows"]] == [None, 0.55, 0.55]


def test_page_loads_nothing_and_holds_plotly_once():
    text = render_page(hostile())
    assert {load[0] for load in Read(text).loads} == {"#"}
    assert text.count("plotly.js v") == 1
    assert set(data_of(text)["images"]) == {HOSTILE[0]}


def test_bad_strings_are_text():
    page = Read(render_page(hostile()))
    assert [tag for tag, _ in page.elements if tag in {"img", "b", "iframe", "object"}] == []
    assert [given for _, given in page.elements if any(name.startswith("on") for name in given)] == []
    assert [tag for tag, given in page.elements if tag == "script"] == ["script"] * 3


@pytest.mark.parametrize("make", [empty, harmless, minimal, many, rich, several, hostile, digits])
def test_corner_cases_render(make):
    text = render_page(make())
    assert data_of(text)["candidates"]
    assert "</html>" in text


def test_a_page_of_many_classes_stays_small():
    data = data_of(render_page(many()))
    figures = data["figures"]
    assert len(figures["classes"]["data"][0]["x"]) == len(figures["slices"]["data"][0]["x"]) == 30
    assert len(json.dumps(data)) < 400_000
    assert sum(row[0].strip().startswith("a long class name") for row in Read(render_page(many())).rows if row) == 1000


def test_a_crash_leaves_the_earlier_page(tmp_path, monkeypatch):
    path = write_page(digits(), tmp_path / "new" / "page.html")
    before = path.read_text(encoding="utf-8")

    def crash(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write_page(replace(digits(), title="other"), path)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path):
    bad = Group("a", "\ud800", summaries.tally(1, 0, 1, 0))
    candidate = replace(minimal().first, slices=(bad,), flips=(replace(digits().first.flips[0], id="\udc00"),))
    path = write_page(replace(minimal(), title="\ud800", candidates=(candidate,)), tmp_path / "page.html")
    assert "<h1>\ufffd</h1>" in path.read_text(encoding="utf-8")

"""JSON and Markdown."""

import json
import re

import pytest

from lightning_graceful.report.compatibility.export import compatibility_to_json, compatibility_to_markdown
from tests.report.compatibility.summaries import DRAWS, MEASURES, by_draw, empty, hostile, minimal, rich, small_gap

MAKERS = [rich, small_gap, minimal, empty, hostile]


def test_json_holds_every_number():
    summary = rich()
    found = json.loads(compatibility_to_json(summary))
    gain = summary.ways[4].update_gain["map"]
    assert found["format"] == 1
    assert found["ways"][4]["update_gain"]["map"] == gain._asdict()
    assert found["matrix"]["values"] == summary.matrix.values.tolist()
    assert found["curves"][0]["share"] == summary.curves[0].share.tolist()
    assert found["flips"][0]["old_items"] == list(summary.flips[0].old_items)
    assert "images" not in found


@pytest.mark.parametrize("make", MAKERS)
def test_json_is_json(make):
    def refuse(word):
        raise AssertionError(word)

    found = json.loads(compatibility_to_json(make()), parse_constant=refuse)
    assert len(found["ways"]) == len(make().ways)


def test_what_json_lacks_is_null():
    found = json.loads(compatibility_to_json(small_gap()))
    assert found["ways"][0]["update_gain"]["map"] == {"mean": None, "low": None, "high": None}


@pytest.mark.parametrize("make", MAKERS)
def test_markdown_tables_have_as_many_cells_in_every_row(make):
    text = compatibility_to_markdown(make())
    for block in text.split("\n\n"):
        rows = [re.split(r"(?<!\\)\|", row) for row in block.splitlines() if row.startswith("|")]
        assert len({len(row) for row in rows}) <= 1
    assert len(text) < 65_536 or make is hostile


def test_markdown_says_what_came_out():
    text = compatibility_to_markdown(small_gap())
    assert text.startswith("## Digits\n\n2 of 2 ways are backward compatible")
    row = next(one for one in text.splitlines() if one.startswith("| copy"))
    assert "✓ yes" in row
    assert "n/a gap 2.3 points" in row
    assert "+5.0 [+4.2, +5.8]" in row.replace("\\", "")


def test_many_groups_are_tables_of_a_few_in_the_first_measure():
    text = compatibility_to_markdown(by_draw()).replace("\\", "")
    heads = [[cell.strip() for cell in row.split("|")[2:-1]] for row in text.splitlines() if row.startswith("| Way |")]
    assert heads[1:] == [[f"{draw} mAP" for draw in DRAWS[first : first + 4]] for first in (0, 4, 8)]
    rows = [row for row in text.splitlines() if row.startswith("| other |")]
    assert (
        rows[2] == "| other | 49.0 % [48.0, 50.0] | 51.0 % [50.0, 52.0] | 53.0 % [52.0, 54.0] | 55.0 % [54.0, 56.0] |"
    )
    few = compatibility_to_markdown(by_draw(draws=DRAWS[:2]))
    assert few.count(DRAWS[1]) == len(MEASURES)


def test_what_is_built_on_old_embeddings_is_told():
    text = compatibility_to_markdown(rich())
    assert "| Built on old embeddings | Old | Mixed | New |" in text
    assert "| old head, negative flips |  |  | 6.1 |" in text
    assert json.loads(compatibility_to_json(rich()))["downstream"][1]["mixed"] is None


def test_names_make_no_markup():
    text = compatibility_to_markdown(hostile())
    assert "<script" not in text
    assert "<img" not in text

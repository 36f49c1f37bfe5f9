"""The page as text."""

import json
import math
import re

import pytest

from lightning_graceful.report.compatibility.page import render_compatibility_page, write_compatibility_page
from lightning_graceful.report.compatibility.summary import Downstream, LostQuery
from tests.report.compatibility.summaries import (
    DRAWS,
    MEASURES,
    by_draw,
    by_measure,
    empty,
    hostile,
    made,
    minimal,
    rich,
    small_gap,
)
from tests.report.summaries import HOSTILE, picture


def data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def body(page):
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("make", [rich, small_gap, minimal, empty, hostile])
def test_the_page_is_whole_and_loads_nothing(make):
    page = render_compatibility_page(make())
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert not re.search(r'(src|href)="(?!#|data:)', body(page))
    assert "default-src 'none'" in page
    ids = re.findall(r' id="([^"]*)"', body(page))
    assert len(ids) == len(set(ids))
    labelled = re.findall(r'aria-labelledby="([^"]*)"', body(page)) + re.findall(r'href="#([^"]*)"', body(page))
    assert set(labelled) <= set(ids)
    assert set(data(page)["figures"]) == {key for key in ids if key.startswith("figure-")}


def test_numbers_of_ways_are_on_it():
    page = render_compatibility_page(small_gap())
    assert "57.0\u00a0%" in page
    assert '<small>+5.0</small><small><span class="whole">[+4.2, +5.8]</span></small>' in page
    assert "gap 2.3\u00a0points" in page
    assert "no paragon" in render_compatibility_page(minimal())


def test_many_groups_have_a_table_a_measure():
    page = body(render_compatibility_page(by_draw()))
    section = page.split("By group of queries</h3>")[1].split("All numbers in")[0]
    tables = re.findall("<table.*?</table>", section, re.DOTALL)
    assert [table.count('<th scope="col">') for table in tables] == [len(DRAWS)] * 3
    assert re.findall("By group in <bdi>(.*?)</bdi>", section) == ["mAP@R", "R@1"]
    few = body(render_compatibility_page(by_draw(draws=DRAWS[:2])))
    assert "By group in" not in few
    assert few.split("By group of queries</h3>")[1].split("</table>")[0].count('<th scope="col">') == 6


def test_every_figure_of_one_way_has_its_place():
    """A figure without one stops the script, and none is drawn."""
    paragon = by_measure(*(value + 0.2 for value in MEASURES.values()))
    page = render_compatibility_page(minimal(ways=(made(),), paragon_self_test=paragon))
    assert {"figure-update_gain", "figure-tax"} == set(data(page)["figures"])
    assert all(f'id="{key}"' in body(page) for key in data(page)["figures"])


def test_what_is_built_on_old_embeddings_is_told():
    lines = (Downstream("old head <b>", 0.1234, math.nan, 0.25), Downstream("clusters", 0.5, 0.4, math.nan))
    page = body(render_compatibility_page(minimal(downstream=lines)))
    cells = re.findall(
        r"<bdi>(old head &lt;b&gt;|clusters)</bdi></div></th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page
    )
    assert cells == [("old head &lt;b&gt;", "12.3", "", "25.0"), ("clusters", "50.0", "40.0", "")]
    assert 'href="#downstream"' in page
    assert "downstream" not in body(render_compatibility_page(minimal()))


def test_verdicts_are_words_and_signs_too():
    ways = (
        made("a"),
        made("b", rise=(0.05, 0.04, 0.001)),
        made("c", rise=(0.1, 0.1, -0.1)),
        made("d", rise=(-0.1,) * 3),
    )
    page = render_compatibility_page(minimal(ways=ways))
    badges = re.findall(r'badge small"><span aria-hidden="true">(.)</span> (\w+)</span>(?:<small>(.*?)</small>)?', page)
    assert badges == [
        ("✓", "yes", ""),
        ("?", "yes", "an interval holds 0"),
        ("?", "mixed", "in some measures"),
        ("✕", "no", ""),
    ]


def test_protocol_and_notes_are_told():
    page = body(render_compatibility_page(rich()))
    for sentence in (*rich().protocol, *rich().notes):
        assert f"<li>{sentence}</li>" in page


def flips(lost, found):
    changes = ["lost"] * lost + ["found"] * found
    return tuple(LostQuery(str(k), "a", change, ("x",), ("y",), ("a",), ("b",)) for k, change in enumerate(changes))


@pytest.mark.parametrize(
    ("lost", "found", "listed"),
    [(3, 2, (3, 2)), (1500, 0, (1000, 0)), (1500, 900, (500, 500)), (1500, 300, (700, 300)), (100, 1500, (100, 900))],
)
def test_at_most_1000_flips_are_listed(lost, found, listed):
    page = render_compatibility_page(minimal(flips=flips(lost, found)))
    changes = [query["change"] for query in data(page)["queries"]]
    assert (changes.count("lost"), changes.count("found")) == listed
    assert (f"This file lists {sum(listed):,} of {lost + found:,}." in page) == (lost + found > 1000)


def test_a_query_has_what_both_models_find():
    query = data(render_compatibility_page(minimal(flips=flips(1, 0))))["queries"][0]
    assert query == {"id": "0", "label": "a", "change": "lost", "old": [["x", "a"]], "new": [["y", "b"]]}


def test_only_pictures_that_are_shown_and_are_pictures_are_inside():
    images = {"x": picture(1), "0": "javascript:alert(1)", "unused": picture(2)}
    page = render_compatibility_page(minimal(flips=flips(1, 0), images=images))
    assert data(page)["images"] == {"x": picture(1)}
    assert picture(2) not in page


def test_bad_strings_stay_text():
    page = body(render_compatibility_page(hostile()))
    for bad in HOSTILE[:3]:
        assert bad not in page
    assert 'onerror="' not in page
    assert "{{" not in page.replace("{{ 7 * 7 }}", "")


def test_a_crash_leaves_the_earlier_page(tmp_path, monkeypatch):
    path = write_compatibility_page(minimal(), tmp_path / "deep" / "page.html")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_compatibility_page(rich(), path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]

"""What broke, driven in headless Chromium: heat map, buttons, list, download; rows against those counted by hand."""

import csv
import io
from dataclasses import replace

import pytest

from lightning_graceful.report.page import data as page_data
from tests.report.summaries import digits, flip_rows, harmless, minimal, pairs_of, rich


@pytest.fixture
def few_shown(monkeypatch):
    monkeypatch.setattr(page_data, "SHOWN", 2)


def saved(browser):
    browser.run(
        """
        HTMLAnchorElement.prototype.click = () => {};
        URL.createObjectURL = blob => { blob.text().then(text => window.saved = text); return "#"; };
        """
    )
    browser.click("#download")
    return list(csv.reader(io.StringIO(browser.wait("return window.saved"))))


def test_rows_open_as_given_costliest_first(browser):
    browser.open(digits())
    assert browser.ids() == ["3", "1", "2"]
    assert browser.status() == "plain: 3 of 3 negative flips shown."
    cells = browser.run(
        "return [...document.querySelectorAll('#flips tbody tr')[1].cells].map(cell => cell.textContent)"
    )
    assert cells == ["", "zero", "one", "90.0\u00a0%", "55.0\u00a0%", "1", "1", "IS"]
    assert browser.text("#flips tbody td.picture") == "none"
    browser.wait("return [...document.querySelectorAll('#flips img')].every(image => image.naturalWidth === 8)")
    assert browser.run("return getComputedStyle(document.querySelector('#flips img')).imageRendering") == "pixelated"


def test_a_click_on_a_cell_filters_the_rows(browser):
    browser.open(digits())
    browser.click_cell(0, 1)
    browser.wait("return document.querySelectorAll('#flips tbody tr').length === 2")
    assert browser.ids() == ["1", "2"]
    assert browser.status() == "plain: 2 of 3 negative flips shown, filtered by zero → one."
    assert browser.texts("#pairs [aria-pressed=true]") == ["zero → one× 2"]
    browser.click("#clear")
    assert browser.ids() == ["3", "1", "2"]
    assert not browser.find("#clear").is_displayed()


def test_a_pair_is_both_of_its_classes(browser):
    browser.open(rich())
    pair = next(one for one in rich().first.pairs if one.count < 8)
    browser.click_text("#pairs button", f"{pair.target} → {pair.new}")
    assert browser.column("target") == [pair.target] * pair.count
    assert browser.column("new") == [pair.new] * pair.count


def test_another_candidate_has_its_own_flips(browser):
    browser.open(digits())
    browser.click_cell(0, 1)
    browser.click_text("#ways button", "pct")
    assert browser.ids() == ["4", "1"]
    assert browser.status() == "pct: 2 of 2 negative flips shown."
    assert browser.texts("#ways [aria-pressed=true]") == ["◆pct"]
    assert browser.run("return document.getElementById('heat').data[1].z[1][3]") == 1
    browser.click_cell(1, 3)
    browser.wait("return document.querySelectorAll('#flips tbody tr').length === 1")
    assert browser.ids() == ["4"]


def test_costs_take_the_place_of_counts(browser):
    browser.open(digits())
    assert browser.texts("#pairs button") == ["zero → one× 2", "one → two× 1"]
    browser.click("#measures [data-by=cost]")
    assert browser.text("#frequent") == "Costliest flips"
    assert browser.texts("#pairs button") == ["one → twocost 10", "zero → onecost 2"]
    assert browser.run("return document.getElementById('heat').data[1].z[1][2]") == 10
    browser.click("#measures [data-by=count]")
    assert browser.run("return document.getElementById('heat').data[1].z[1][2]") == 1


def test_keyboard_alone_filters_sorts_and_skips(browser):
    browser.open(digits())
    browser.press("tab")
    assert browser.run("return document.activeElement.className") == "skip"
    assert browser.run("return document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("enter")
    browser.wait("return location.hash === '#verdict'")
    browser.run("document.querySelector('#pairs button').focus()")
    browser.press("enter")
    assert browser.ids() == ["1", "2"]
    browser.press("space")
    assert browser.ids() == ["3", "1", "2"]
    browser.run("document.querySelector('#flips [data-key=id] button').focus()")
    browser.press("enter")
    assert browser.ids() == ["1", "2", "3"]
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_every_control_is_reached_by_tab(browser):
    browser.open(digits())
    seen = "[...document.querySelectorAll('button, input, summary')].filter(one => one.checkVisibility())"
    wanted = browser.run(f"return {seen}.length")
    browser.run("document.addEventListener('focusin', event => { event.target.dataset.reached = 1; })")
    browser.press("tab", wanted + 25)
    assert browser.run(f"return {seen}.filter(one => !one.dataset.reached).map(one => one.outerHTML)") == []


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("id", ["1", "2", "3"], ["3", "2", "1"]),
        ("new_confidence", ["1", "3", "2"], ["2", "3", "1"]),
        ("cost", ["3", "1", "2"], ["1", "2", "3"]),
        ("new", ["1", "2", "3"], ["3", "1", "2"]),
    ],
)
def test_columns_sort_both_ways(browser, key, first, second):
    browser.open(digits())
    head, ways = f"#flips th[data-key={key}]", []
    for _ in range(2):
        browser.click(f"{head} button")
        ways.append((browser.ids(), browser.find(head).get_attribute("aria-sort")))
    is_number = key in {"cost", "new_confidence"}
    names = ["descending", "ascending"] if is_number else ["ascending", "descending"]
    assert ways == [(first, names[0]), (second, names[1])]
    assert browser.run("return document.querySelectorAll('#flips th[aria-sort=none]').length") == 6


def test_ids_sort_as_numbers_and_what_is_missing_comes_last(browser):
    flips = tuple(replace(digits().first.flips[0], id=name, old_confidence=sure) for name, sure in
                  (("10", 0.5), ("9", float("nan")), ("100", 0.7)))  # fmt: skip
    browser.open(replace(digits(), candidates=(replace(digits().first, flips=flips),)))
    browser.click("#flips th[data-key=id] button")
    assert browser.ids() == ["9", "10", "100"]
    for expected in (["100", "10", "9"], ["10", "100", "9"]):
        browser.click("#flips th[data-key=old_confidence] button")
        assert browser.ids() == expected
    assert browser.column("old_confidence")[-1] == "–"


@pytest.mark.parametrize(
    ("typed", "ids"), [("TWO", ["3"]), ("zero", ["1", "2"]), ("no", ["2"]), ("3", ["3"]), ("x", [])]
)
def test_text_filters_classes_ids_and_slices(browser, typed, ids):
    browser.open(digits())
    browser.find("#text").send_keys(typed)
    assert browser.ids() == ids
    assert browser.status() == f"plain: {len(ids)} of 3 negative flips shown, filtered by “{typed}”."
    assert browser.find("#download").is_enabled() == bool(ids)


def test_what_samples_say_is_filtered_too(browser):
    flips = tuple(replace(flip, text=f"says {flip.id}{flip.id}") for flip in digits().first.flips)
    browser.open(replace(digits(), candidates=(replace(digits().first, flips=flips),)))
    browser.find("#text").send_keys("says 22")
    assert browser.ids() == ["2"]
    assert browser.column("text") == ["says 22"]


def test_more_rows_come_when_asked_for(browser, few_shown):
    browser.open(digits())
    assert browser.status() == "plain: 2 of 3 negative flips shown; the CSV has all 3."
    assert browser.text("#more") == "Show 1 more"
    browser.click("#more")
    assert browser.ids() == ["3", "1", "2"]
    assert not browser.find("#more").is_displayed()
    browser.find("#text").send_keys("zero")
    assert browser.ids() == ["1", "2"]


def test_a_cut_list_says_so(browser):
    summary = digits()
    first = replace(summary.first, flips=summary.first.flips[:2])
    browser.open(replace(summary, candidates=(first,)))
    assert browser.status() == "plain: 2 of 3 negative flips shown. This file lists 2 of them, the worst."


def test_csv_holds_every_filtered_row_and_no_formulas(browser, few_shown):
    names = ("=1+1", 'a "b", c', "-5", "+three")
    summary = digits(names)
    flips = tuple(replace(flip, id=f"@{flip.id}", slices=("\tx",)) for flip in summary.first.flips)
    browser.open(replace(summary, candidates=(replace(summary.first, flips=flips), summary.candidates[1])))
    head, *rows = saved(browser)
    assert head == ["candidate", "target", "new", "new_confidence", "old_confidence", "cost", "id", "slice:country"]
    assert rows[0] == ["plain", 'a "b", c', "-5", "0.8", "0.55", "10", "'@3", "'\tx"]
    assert rows[1][1] == "'=1+1"
    assert len(rows) == 3


def test_csv_follows_the_filter(browser):
    browser.open(digits())
    browser.find("#text").send_keys("zero")
    assert [row[6] for row in saved(browser)] == ["id", "1", "2"]


def test_seeds_have_a_column_only_where_there_are_several(browser):
    browser.open(digits())
    assert browser.column("seed") == []
    flips = tuple(replace(flip, seed=2**60 + 1) for flip in digits().first.flips)
    browser.open(replace(digits(), candidates=(replace(digits().first, flips=flips),)))
    assert browser.column("seed") == [str(2**60 + 1)] * 3


def test_confidences_are_those_of_the_flips(browser):
    summary = rich()
    browser.open(summary)
    z = browser.run("return document.getElementById('confidence').data[1].z")
    grid = summary.first.confidences
    assert sum(value or 0 for row in z for value in row) == sum(map(sum, grid)) == 137
    shown = browser.run(
        "return [...document.querySelectorAll('[data-of=\"0\"] tbody tr')].map(row => row.cells[8].textContent)"
    )
    assert shown == [str(row[7] or "") for row in grid]


def test_candidates_that_break_nothing_are_said_to(browser):
    summary = digits()
    whole = harmless().first
    browser.open(replace(summary, candidates=(summary.first, replace(whole, name="calm"))))
    browser.click_text("#ways button", "calm")
    assert browser.status() == "calm breaks nothing that the old model had right."
    for part in ("#between", "#tools", "#flips"):
        assert not browser.find(part).is_displayed()


def test_a_thousand_rows_filter_at_once(browser):
    import random

    flips = flip_rows(random.Random(0), 1000)
    candidate = replace(minimal().first, flips=flips, pairs=pairs_of(flips))
    browser.open(replace(rich(), candidates=(candidate,), images={}))
    browser.find("#text").send_keys("fog")
    count = sum("fog" in flip.text for flip in flips)
    assert browser.status().startswith(
        f"new: 60 of 25 negative flips shown, filtered by “fog”; the CSV has all {count}."
    )

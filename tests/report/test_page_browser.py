"""The page as a whole in headless Chromium: groups, themes, widths, print, and strings that mean harm."""

import json

import pytest

from tests.report.summaries import HOSTILE, digits, empty, harmless, hostile, many, minimal, rich, several

MAKERS = [digits, rich, several, minimal, many, hostile, harmless, empty]


def first_cells(browser, table, place=0):
    rows = "[...document.querySelectorAll(arguments[0])].filter(row => !row.hidden)"
    script = f"return {rows}.map(row => row.cells[arguments[1]].textContent)"
    return browser.run(script, f"#{table}-table tbody tr", place)


def test_groups_sort_by_every_column(browser):
    browser.open(digits())
    browser.click("details:has(#classes-table) summary")
    assert first_cells(browser, "classes") == ["zero", "one", "two", "three"]
    head = "#classes-table thead tr:last-child th:nth-child({}) button"
    browser.click(head.format(1))
    assert first_cells(browser, "classes") == ["one", "three", "two", "zero"]
    browser.click(head.format(2))  # rows, falling
    assert first_cells(browser, "classes", 1) == ["3", "3", "2", "2"]
    browser.click(head.format(2))
    assert first_cells(browser, "classes", 1) == ["2", "2", "3", "3"]
    assert browser.run("return document.querySelector('#classes-table [aria-sort=ascending]').textContent") == "Rows"
    browser.click(head.format(9 - 2))  # broke by pct
    assert sorted(first_cells(browser, "classes")[:2]) == ["one", "zero"]


def test_many_groups_have_a_filter(browser):
    browser.open(many())
    browser.click("details:has(#classes-table) summary")
    browser.find("[data-filters=classes-table]").send_keys("name 99")
    assert len(first_cells(browser, "classes")) == 11  # 99 and 990 to 999
    assert browser.text("#classes-table-status") == "11 of 1,000"
    browser.click("details:has(#slices-table) summary")
    browser.find("[data-filters=slices-table]").send_keys("site=site 29")
    assert len(first_cells(browser, "slices")) == 11
    assert browser.text("#slices").count("site=site") == 30


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_scrolls_sideways(browser, make, width):
    browser.open(make(), width=width)
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert browser.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("make", [digits, rich])
def test_figures_follow_the_colour_scheme(browser, make):
    browser.open(make())
    read = "return ['rates', 'classes', 'heat'].map(id => document.getElementById(id)._fullLayout.font.color)"
    light = browser.run(read)
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.paint("dark")
    old = json.dumps(light, separators=(",", ":"))
    browser.wait(f"return JSON.stringify((() => {{ {read} }})()) !== arguments[0]", old)
    assert set(light).isdisjoint(browser.run(read))
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != ground


CONTRAST = """
const luminance = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(part => part / 255)
  .map(part => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
  .reduce((sum, part, place) => sum + part * [.2126, .7152, .0722][place], 0);
const ground = element => { for (; element; element = element.parentElement) {
  const colour = getComputedStyle(element).backgroundColor;
  if (!/^rgba.*, 0\\)$|transparent/.test(colour)) return colour; } };
const contrast = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
return [...document.querySelectorAll("main *, header *, nav *, footer")]
  .filter(element => element.offsetParent && !element.closest("svg, :disabled, .mark, [role=img]"))
  .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()))
  .map(element => [getComputedStyle(element).color, ground(element), element.outerHTML])
  .map(([ink, behind, markup]) => [contrast(luminance(ink), luminance(behind)), markup])
  .filter(([value]) => value < 4.5);
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("make", [rich, several])
def test_text_has_enough_contrast(browser, make, dark):
    browser.open(make(), dark=dark)
    assert browser.run(CONTRAST) == []


def test_what_reading_aloud_needs_is_there(browser):
    browser.open(several())
    parts = "[...document.querySelectorAll('button, input, [role=img], [role=region], [role=group]')]"
    named = "one.ariaLabel || one.getAttribute('aria-labelledby') || one.labels?.length || one.textContent.trim()"
    nameless = f"{parts}.filter(one => one.checkVisibility()).filter(one => !({named}))"
    assert browser.run(f"return {nameless}.map(one => one.outerHTML)") == []
    scrolls = "[...document.querySelectorAll('.scroll')].filter(one => one.tabIndex !== 0)"
    assert browser.run(f"return {scrolls}.length") == 0
    assert browser.find("#status").get_attribute("aria-live") == "polite"


def test_a_long_rule_leaves_the_reason_in_sight(browser):
    browser.open(hostile())
    table = browser.run("return document.querySelector('.checks').getBoundingClientRect().width")
    assert table < 1600


def test_print_opens_what_is_folded(browser):
    browser.open(rich())
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("return document.querySelectorAll('details:not([open])').length") == 0


def test_history_is_drawn(browser):
    browser.open(rich())
    assert browser.run("return document.getElementById('churn').data.map(line => line.y[1])") == [241, 190, 47, 118]
    assert browser.run("return document.querySelectorAll('#times .bars path').length") == 10
    assert browser.text("#always").startswith("40, 41, 42")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_bad_strings_are_shown_and_never_run(browser, dark):
    # The fixture looks at what was logged, requested and run.
    browser.open(hostile(), dark=dark)
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert browser.text("h1") == HOSTILE[0]
    assert browser.text("title") == HOSTILE[0]
    assert HOSTILE[1] in browser.texts(".notes li")
    for number in range(len(HOSTILE)):
        browser.run("document.querySelectorAll('#ways button')[arguments[0]].click()", number)
        for button in ("#pairs button", "#measures [data-by=cost]", "#flips th[data-key=id] button"):
            browser.run("document.querySelector(arguments[0]).click()", button)
    browser.run("document.querySelector('#clear').click()")
    assert len(browser.ids()) == len(HOSTILE)
    assert HOSTILE[2] in browser.ids()
    labels = browser.texts("#heat .ytick text")
    assert "</script><scri…" in labels
    assert browser.run("return document.querySelectorAll('main b, main iframe, svg a, h1 *').length") == 0
    sources = browser.run("return [...document.images].map(image => image.src.slice(0, 11))")
    assert set(sources) == {"data:image/"}


def test_bad_strings_stay_text_when_the_mouse_is_over_them(browser):
    browser.open(hostile())
    browser.hover_cell(0, 1).perform()
    browser.wait("return document.querySelector('#heat .hoverlayer text') !== null")
    assert "</script>" in browser.text("#heat .hoverlayer")
    assert browser.run("return document.querySelectorAll('.hoverlayer a, .hoverlayer script').length") == 0


def test_signs_that_turn_the_reading_direction_are_not_shown(browser):
    browser.open(hostile())
    assert browser.run("return /[\\u202a-\\u202e\\u2066-\\u2069\\u0000\\u001b]/.test(document.body.innerText)") is False


def test_a_long_name_takes_a_few_lines(browser):
    browser.open(hostile())
    parts = "#flips tbody td, h1, .verdict p, #ways button, #pairs button, .checks td"
    high = f"[...document.querySelectorAll('{parts}')].filter(one => one.getBoundingClientRect().height > 330)"
    assert browser.run(f"return {high}.map(one => one.outerHTML.slice(0, 80))") == []

"""The page in headless Chromium: list of queries, themes, widths, print, and strings that mean harm."""

import pytest

from lightning_graceful.report.compatibility.page import write_compatibility_page
from tests.report.browser import FIGURES
from tests.report.compatibility.summaries import CLOTHES, empty, hostile, minimal, rich
from tests.report.summaries import HOSTILE
from tests.report.test_page_browser import CONTRAST


def show(browser, make, *, width=1280, dark=False):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.paint("dark" if dark else "light")
    path = browser.folder / f"{make.__name__}.html"
    if not path.exists():
        write_compatibility_page(make(), path)
    browser.driver.get(path.as_uri())
    browser.wait(f"return {FIGURES}.every(figure => figure.querySelector('.main-svg'))")


def listed(browser):
    return browser.texts("#queries > li .id")


def test_queries_are_filtered_by_change_and_by_text(browser):
    show(browser, rich)
    flips = rich().flips
    assert listed(browser) == [flip.id for flip in flips[:30]]
    assert browser.status() == "30 of 60 shown: 40 lost, 20 found."
    browser.click("#changes [data-change=lost]")
    assert listed(browser) == [flip.id for flip in flips if flip.change == "lost"][:30]
    assert browser.find("#changes [data-change=lost]").get_attribute("aria-pressed") == "true"
    browser.click("#more")
    assert len(listed(browser)) == 40
    assert not browser.find("#more").is_displayed()
    browser.find("#text").send_keys("sneak")
    expected = [flip.id for flip in flips if flip.change == "lost" and flip.label == "Sneaker"]
    assert listed(browser) == expected != []
    browser.find("#text").send_keys("nothing")
    assert browser.status() == "No query matches."


def test_items_are_marked_right_or_wrong_in_words_and_signs(browser):
    show(browser, rich)
    flip = rich().flips[0]
    for place, labels in ((2, flip.old_labels), (3, flip.new_labels)):
        captions = browser.texts(f"#queries > li:first-child > :nth-child({place}) .caption")
        assert captions == [f"✓ right: {label}" if label == flip.label else f"✕ wrong: {label}" for label in labels]
    assert browser.run("return document.querySelectorAll('#queries > li:first-child img').length") == 11
    assert {label for label in CLOTHES if label in browser.text("#queries")} == set(CLOTHES)


@pytest.mark.parametrize(("make", "width"), [(rich, 320), (rich, 1280), (hostile, 320), (hostile, 1280), (empty, 320)])
def test_nothing_scrolls_sideways(browser, make, width):
    show(browser, make, width=width)
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_the_table_of_ways_needs_no_scrolling_on_a_desktop(browser):
    show(browser, rich)
    assert browser.run("const part = document.querySelector('.scroll'); return part.scrollWidth <= part.clientWidth")


def test_figures_follow_the_colour_scheme(browser):
    show(browser, rich)
    read = "return document.getElementById('figure-matrix')._fullLayout.font.color"
    light = browser.run(read)
    browser.paint("dark")
    browser.wait(f"return (() => {{ {read} }})() !== arguments[0]", light)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_enough_contrast(browser, dark):
    show(browser, rich, dark=dark)
    assert browser.run(CONTRAST.replace(".mark, ", ".mark, .sign, ")) == []


def test_what_reading_aloud_needs_is_there(browser):
    show(browser, rich)
    parts = "[...document.querySelectorAll('button, input, [role=img], [role=region], [role=group], img')]"
    names = ("one.alt", "one.ariaLabel", "one.getAttribute('aria-labelledby')", "one.labels?.length")
    named = " || ".join((*names, "one.textContent.trim()"))
    assert browser.run(f"return {parts}.filter(one => one.checkVisibility() && !({named})).length") == 0
    assert browser.run("return [...document.querySelectorAll('.scroll')].every(one => one.tabIndex === 0)")


def test_print_opens_what_is_folded(browser):
    show(browser, rich)
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("return document.querySelectorAll('details:not([open])').length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_bad_strings_are_shown_and_never_run(browser, dark):
    # The fixture looks at what was logged, requested and run.
    show(browser, hostile, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert browser.text("h1") == browser.text("title") == HOSTILE[0]
    assert HOSTILE[1] in browser.texts(".notes li")
    assert HOSTILE[2] in listed(browser)
    assert "</script><scri…" in browser.texts("#figure-matrix .ytick text")
    assert browser.run("return document.querySelectorAll('main b, main iframe, svg a, h1 *').length") == 0
    assert set(browser.run("return [...document.images].map(image => image.src.slice(0, 11))")) == {"data:image/"}
    assert browser.run("return /[\\u202a-\\u202e\\u2066-\\u2069\\u0000\\u001b]/.test(document.body.innerText)") is False


def test_one_way_without_flips_needs_no_list(browser):
    show(browser, minimal)
    assert browser.run("return document.getElementById('queries')") is None

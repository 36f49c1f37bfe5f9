import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lightning_graceful.report import page as page_module
from lightning_graceful.report.evidence import Comparison, Predictions, Way
from lightning_graceful.report.figures import class_figure, overview_figure, quadrant_figure
from lightning_graceful.report.page import render_page, worst_negative_flips, write_page
from lightning_graceful.report.verdict import verdict_line

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
CLASSES = ["zero", "one", "two", "three"]
# id, target, old, plain, pct, confidence of plain, of pct
ROWS = [
    (1, 0, 0, 1, 1, 0.90, 0.60),  # both break it: zero -> one
    (2, 0, 0, 1, 0, 0.70, 0.99),  # plain breaks it: zero -> one
    (3, 1, 1, 2, 1, 0.80, 0.99),  # plain breaks it: one -> two
    (4, 1, 1, 1, 3, 0.99, 0.95),  # pct breaks it: one -> three
    (5, 2, 0, 2, 2, 0.99, 0.99),  # both fix it
    (6, 2, 0, 2, 2, 0.99, 0.99),
    (7, 2, 2, 2, 2, 0.99, 0.99),
    (8, 3, 3, 3, 3, 0.99, 0.99),
    (9, 3, 1, 1, 1, 0.99, 0.99),  # all wrong
    (10, 3, 3, 3, 3, 0.99, 0.99),
]
HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 2">',
    "<b>\"R&D\"</b> <a href='javascript:window.pwned = 3'>x</a>",
    "%{z} {{ 7 * 7 }} \u2028<!--",
]


def predictions(column, confidence, rows=ROWS):
    table = np.array(rows)
    size = len(rows)
    ids, target, old, new = (table[:, place].astype(np.int64) for place in (0, 1, 2, column))
    sure = table[:, confidence].astype(np.float32)
    return Predictions(ids, np.full(size, 3), target, old, new, np.full(size, 0.55, np.float32), sure)


def digits(classes=CLASSES, names=("plain", "pct"), **others):
    ways = [
        Way(names[0], predictions(3, 5), 61.0, "cross-entropy"),
        Way(names[1], predictions(4, 6), 3725.0, "lambda 1"),
    ]
    images = {1: np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, 4: np.zeros((8, 8, 3), np.uint8)}
    given = {"title": "Digits", "class_names": classes, "ways": ways, "images": images, "noise_floor": 0.05}
    return Comparison(**given | others)


def hostile():
    return digits(HOSTILE, (HOSTILE[1], HOSTILE[0]), title=HOSTILE[0], notes=HOSTILE)


def constant(size, classes, **others):
    target = np.arange(size) % classes
    zeros, sure = np.zeros(size, np.int64), np.full(size, 0.9, np.float32)
    said = Predictions(np.arange(size), zeros, target, target, target, sure, sure)
    return Comparison("Nothing breaks", [f"class {index}" for index in range(classes)], [Way("plain", said)], **others)


def many_classes():
    generator = np.random.default_rng(0)
    target, old, new = generator.integers(0, 200, (3, 500))
    old[:300] = target[:300]
    sure = generator.random(500).astype(np.float32)
    said = Predictions(np.arange(500), np.zeros(500, np.int64), target, old, new, sure, sure)
    return Comparison("Many", [f"a long class name {index}" for index in range(200)], [Way("plain", said)])


class Links(HTMLParser):
    """Collects what the page would load, and the cells of its tables."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.rows, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in {"src", "href", "srcset", "action"}]
        if tag == "tr":
            self.rows.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag != "tr"

    def handle_data(self, data):
        if self.inside:
            self.rows[-1] += f" {data.strip()}"

    def row(self, label):
        return re.sub(r"\s+", " ", next(row for row in self.rows if row.strip().startswith(label))).strip()


def test_numbers_of_the_page_are_those_counted_by_hand():
    text = Links(render_page(digits()))
    assert text.row("Samples tested") == "Samples tested 10 10"
    assert text.row("Error, old model") == "Error, old model 30.00 % 30.00 %"
    assert re.fullmatch(r"Error, new model 40.00 % \[\S+ \S+\] 30.00 % \[\S+ \S+\]", text.row("Error, new model"))
    assert text.row("Negative flips") == "Negative flips right before, wrong now 3 2"
    assert text.row("Positive flips") == "Positive flips wrong before, right now 2 2"
    # Wilson by hand for 3 of 10 and 2 of 10.
    assert text.row("NFR") == "NFR negative flips / samples 30.00 % [10.78, 60.32] 20.00 % [5.67, 50.98]"
    assert text.row("Relative NFR").endswith("107.1 % 95.2 %")
    assert "– −10.00 [" in text.row("Difference in NFR")
    assert text.row("Difference in NFR").endswith("not distinguishable")
    assert text.row("Noise floor").endswith("5.00 %")
    assert text.row("Training time") == "Training time 1 min 01 s 1 h 02 min"


def test_verdict_leads_with_counts():
    line = verdict_line(digits())
    assert line.startswith(
        "pct breaks 2 cases that the old model had right and fixes 2 (10 tested); plain breaks 3. "
        "NFR 20.00 % against 30.00 %, difference -10.00 points ["
    )
    assert line.endswith("not distinguishable. Error 30.0 % against 40.0 % (not distinguishable).")
    assert line.replace("-", "−").replace(" %", "\u00a0%") in render_page(digits())


def test_page_loads_nothing_and_holds_plotly_once():
    text = render_page(hostile())
    assert not Links(text).loads
    assert text.count("plotly.js v") == 1


def test_figures_hold_the_counts():
    bars = {bar.name: list(bar.x) for bar in quadrant_figure(digits()).data}
    assert bars == {"both right": [4, 5], "fixed": [2, 2], "broke": [3, 2], "both wrong": [1, 1]}
    plain, pct = overview_figure(digits()).data
    assert (plain.x[0], plain.y[0], pct.x[0], pct.y[0]) == pytest.approx((40, 30, 30, 20))
    figure = class_figure(digits())
    assert figure.layout.yaxis.ticktext == ("zero (2)", "one (2)", "two (3)", "three (3)")
    assert [tuple(trace.x) for trace in figure.data] == [(100, 50, 0, 0), (50, 50, 0, 0)]
    assert len(class_figure(many_classes(), limit=7).layout.meta["classes"]) == 7


def test_worst_flips_come_first():
    said = predictions(3, 5)
    assert said.id[worst_negative_flips(said)].tolist() == [1, 3, 2]
    assert said.id[worst_negative_flips(said, limit=1)].tolist() == [1]


def test_a_crash_leaves_the_earlier_page(tmp_path, monkeypatch):
    path = write_page(digits(), tmp_path / "new" / "page.html")
    before = path.read_text(encoding="utf-8")

    def crash(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        page_module.write_page(digits(title="other"), path)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "comparison", [constant(0, 1), constant(9, 3), constant(5, 1), many_classes()], ids=["empty", "zero", "one", "many"]
)
def test_corner_cases_render(comparison):
    assert f"<h1>{comparison.title}</h1>" in render_page(comparison)


class Browser:
    """A headless Chromium that shows comparisons."""

    def __init__(self, folder):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        for flag in [*flags.split(), "disable-component-update", "disable-sync", f"user-data-dir={folder / 'profile'}"]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        self.folder = folder

    def open(self, comparison, *, width=1280, dark=False):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.paint("dark" if dark else "light")
        self.driver.get(write_page(comparison, self.folder / "page.html").as_uri())
        self.wait("return !!document.querySelector('#by-class .main-svg')")

    def paint(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments):
        end = time.monotonic() + 5
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)
        return value

    def click(self, selector):
        self.driver.find_element("css selector", selector).click()

    def click_text(self, selector, text):
        next(found for found in self.driver.find_elements("css selector", selector) if found.text == text).click()

    def click_cell(self, row, column):
        """Click with the mouse where the heat map shows the cell."""
        from selenium.webdriver.common.action_chains import ActionChains

        x, y = self.run(
            """
            const heat = document.getElementById("heat");
            heat.scrollIntoView({block: "center"});
            const {left, top} = heat.getBoundingClientRect(), {xaxis, yaxis} = heat._fullLayout;
            return [left + xaxis._offset + xaxis.d2p(arguments[1]), top + yaxis._offset + yaxis.d2p(arguments[0])];
            """,
            row,
            column,
        )
        actions = ActionChains(self.driver, duration=50)
        actions.w3c_actions.pointer_action.move_to_location(round(x) - 4, round(y))
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.pause(0.1).click().perform()

    def ids(self):
        return self.run("return [...document.querySelectorAll('#flips tbody tr')].map(row => row.cells[5].textContent)")

    def status(self):
        return self.run("return document.getElementById('status').textContent")

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium):
    chromium.errors()
    yield chromium
    assert chromium.errors() == []
    assert (
        chromium.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))") == []
    )


def test_rows_open_with_the_surest_mistake_of_the_successor(browser):
    browser.open(digits())
    assert browser.ids() == ["4", "1"]
    assert browser.status() == "pct: 2 of 2 negative flips shown."
    cells = browser.run("return [...document.querySelector('#flips tbody tr').cells].map(cell => cell.textContent)")
    assert cells == ["", "one", "three", "95.0\u00a0%", "55.0\u00a0%", "4", "3"]
    assert browser.run("return document.querySelector('#flips img').src").startswith("data:image/png;base64,")
    browser.wait("return [...document.querySelectorAll('#flips img')].every(image => image.naturalWidth === 8)")
    assert browser.run("return getComputedStyle(document.querySelector('#flips img')).imageRendering") == "pixelated"


def test_a_click_on_a_cell_filters_the_rows(browser):
    browser.open(digits())
    browser.click_text("#ways button", "plain")
    assert browser.ids() == ["1", "3", "2"]
    assert browser.run("return document.querySelector('#ways [aria-pressed=true]').textContent") == "plain"
    browser.click_cell(0, 1)
    browser.wait("return document.querySelectorAll('#flips tbody tr').length === 2")
    assert browser.ids() == ["1", "2"]
    assert browser.status() == "plain: 2 of 3 negative flips shown, filtered by zero → one."
    browser.click("#clear")
    assert browser.ids() == ["1", "3", "2"]
    assert not browser.driver.find_element("id", "clear").is_displayed()


def test_pair_buttons_serve_the_keyboard(browser):
    browser.open(digits())
    button = browser.run("return document.querySelector('#pairs button')")
    assert button.text == "zero → one× 1"
    button.send_keys("\ue007")
    assert browser.ids() == ["1"]
    assert button.get_attribute("aria-pressed") == "true"
    browser.click_text("#ways button", "plain")
    assert browser.ids() == ["1", "3", "2"]


def test_columns_sort_and_text_filters(browser):
    browser.open(digits())
    browser.click_text("#ways button", "plain")
    browser.click("#flips th[data-key=id] button")
    assert browser.ids() == ["1", "2", "3"]
    browser.click("#flips th[data-key=id] button")
    assert browser.ids() == ["3", "2", "1"]
    assert browser.run("return document.querySelector('[aria-sort=descending]').dataset.key") == "id"
    browser.driver.find_element("id", "text").send_keys("TWO")
    assert browser.ids() == ["3"]
    assert browser.status() == "plain: 1 of 3 negative flips shown, filtered by “TWO”."
    browser.driver.find_element("id", "text").send_keys("x")
    assert browser.ids() == []
    browser.click("#clear")
    browser.driver.find_element("id", "text").send_keys("2")
    assert browser.ids() == ["2"]


def test_csv_holds_the_rows_and_no_formulas(browser):
    names = ["=1+1", 'a "b", c', "two", "three"]
    browser.open(digits(names))
    browser.click_text("#ways button", "plain")
    browser.run(
        """
        HTMLAnchorElement.prototype.click = () => {};
        URL.createObjectURL = blob => { blob.text().then(text => window.saved = text); return "#"; };
        """
    )
    browser.click("#download")
    lines = browser.wait("return window.saved").splitlines()
    assert lines[0] == '"way","id","seed","true_class","new_answer","new_confidence","old_confidence"'
    assert lines[1].startswith('"plain","1","3","\'=1+1","a ""b"", c","0.89999')
    assert len(lines) == 4


def test_hostile_names_are_shown_and_never_run(browser):
    browser.open(hostile())
    browser.click_cell(0, 1)
    browser.wait("return document.querySelectorAll('#flips tbody tr').length === 1")
    browser.click_text("#ways button", HOSTILE[1])
    assert browser.run("return window.pwned") is None
    assert browser.run("return document.querySelector('h1').textContent") == HOSTILE[0]
    assert browser.run("return document.querySelector('#flips tbody td.name').textContent") == HOSTILE[0]
    labels = browser.run("return [...document.querySelectorAll('#heat .ytick text')].map(label => label.textContent)")
    assert sorted(labels) == sorted(re.sub(r"\s+", " ", f"{name[:14]}…") for name in HOSTILE)
    assert browser.run("return document.querySelectorAll('svg a, h1 *, .verdict p *, #pairs button b').length") == 0
    assert [note.text for note in browser.driver.find_elements("css selector", ".notes li")][1] == HOSTILE[1]


@pytest.mark.parametrize("make", [digits, hostile, many_classes, lambda: constant(9, 3)])
def test_a_phone_need_not_scroll_sideways(browser, make):
    browser.open(make(), width=375)
    browser.run("document.querySelector('details').open = true")
    assert browser.run("return document.documentElement.scrollWidth") == 375


def test_figures_follow_the_colour_scheme(browser):
    browser.open(digits())
    read = "return ['by-class', 'heat'].map(id => document.getElementById(id)._fullLayout.font.color)"
    light = browser.run(read)
    browser.paint("dark")
    browser.wait(
        f"return JSON.stringify((() => {{ {read} }})()) !== arguments[0]", json.dumps(light, separators=(",", ":"))
    )
    assert set(light).isdisjoint(browser.run(read))


def test_nothing_broken_shows_no_empty_parts(browser):
    browser.open(constant(9, 3))
    assert browser.status() == "plain breaks nothing that the old model had right."
    for part in ("between", "tools", "flips"):
        assert not browser.driver.find_element("id", part).is_displayed()


def test_a_filter_finds_more_than_the_rows_shown(browser, monkeypatch):
    monkeypatch.setattr(page_module, "SHOWN", 2)
    browser.open(digits())
    browser.click_text("#ways button", "plain")
    assert browser.status() == "plain: 2 of 3 negative flips shown; the CSV has all 3."
    browser.driver.find_element("id", "text").send_keys("2")
    assert browser.ids() == ["2"]

"""A headless Chromium that shows summaries."""

import time
from pathlib import Path

from lightning_graceful.report.page import write_page

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
FIGURES = "[...document.querySelectorAll('[role=img]')].filter(figure => figure.offsetParent)"
KEYS = {"tab": "\ue004", "enter": "\ue007", "space": " "}


class Browser:
    def __init__(self, folder):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in [*FLAGS.split(), "disable-component-update", "disable-sync", f"user-data-dir={folder / 'profile'}"]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        self.folder = folder

    def open(self, summary, *, width=1280, dark=False):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.paint("dark" if dark else "light")
        self.driver.get(write_page(summary, self.folder / "page.html").as_uri())
        self.wait(f"return {FIGURES}.every(figure => figure.querySelector('.main-svg'))")

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

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def click(self, selector):
        self.find(selector).click()

    def click_text(self, selector, text):
        next(found for found in self.driver.find_elements("css selector", selector) if text in found.text).click()

    def press(self, key, times=1):
        from selenium.webdriver.common.action_chains import ActionChains

        for _ in range(times):
            ActionChains(self.driver).send_keys(KEYS[key]).perform()

    def click_cell(self, row, column):
        """Click with the mouse where the heat map shows the cell."""
        self.hover_cell(row, column).pause(0.1).click().perform()

    def hover_cell(self, row, column):
        """Move the mouse to where the heat map shows the cell."""
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
        return actions

    def column(self, key):
        cells = "[...document.querySelectorAll(`#flips tbody td[data-key='${arguments[0]}']`)]"
        return self.run(f"return {cells}.map(cell => cell.textContent)", key)

    def ids(self):
        return self.column("id")

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)", selector)

    def status(self):
        return self.text("#status")

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        return self.run("return performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:'))")

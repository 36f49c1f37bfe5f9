"""Take the pictures of a page for the docs: ``python benchmarks/screenshots.py PAGE OUTDIR``.

Needs Chromium and its driver. Writes compare_light.png, compare_dark.png and compare_phone.png.
"""

import argparse
import base64
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SHOTS = {"light": (1280, "light"), "dark": (1280, "dark"), "phone": (390, "light")}
FLAGS = "headless no-sandbox disable-gpu no-first-run disable-background-networking hide-scrollbars"
READY = (
    "return [...document.querySelectorAll('[role=img]')].every(part => !part.offsetParent || part.querySelector('svg'))"
)


def take(page, folder, *, prefix="compare", height=None):
    """Write one picture of the whole page, or of its first ``height`` pixels, for each of SHOTS."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        driver = _driver(profile)
        try:
            for name, (width, scheme) in SHOTS.items():
                shot = _shot(driver, page, width, scheme, height)
                (folder / f"{prefix}_{name}.png").write_bytes(shot)
        finally:
            driver.quit()


def _driver(profile):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS.split(), f"user-data-dir={profile}"]:
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def _shot(driver, page, width, scheme, height):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(page.resolve().as_uri())
    assert driver.execute_script(READY), "figures are missing"
    whole = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height or whole, whole), "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--prefix", default="compare")
    parser.add_argument("--height", type=int, help="pixels from the top; default: the whole page")
    given = parser.parse_args()
    take(given.page, given.outdir, prefix=given.prefix, height=given.height)

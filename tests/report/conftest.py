import pytest

from tests.report.browser import CHROMIUM, DRIVER, Browser


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium):
    """The browser; after the test nothing may have been logged, requested or run."""
    chromium.errors()
    yield chromium
    assert chromium.errors() == []
    assert chromium.requests() == []
    assert chromium.run("return window.pwned") is None

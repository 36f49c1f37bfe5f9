"""What all tests share."""

import logging
import signal

import pytest

from lightning_graceful.experiment.update import LIGHTNINGS


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell has its jobs in the background ignore SIGINT, and what they start: tests of Ctrl-C must not notice."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def levels_of_lightning():
    """Jobs quieten Lightning for the whole process: other files' tests that read its log must not notice."""
    before = {name: logging.getLogger(name).level for name in LIGHTNINGS}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)

"""What all tests share."""

import logging

import pytest

from lightning_graceful.experiment.update import LIGHTNINGS


@pytest.fixture(scope="module", autouse=True)
def levels_of_lightning():
    """Jobs quieten Lightning for the whole process: other files' tests that read its log must not notice."""
    before = {name: logging.getLogger(name).level for name in LIGHTNINGS}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)

"""Filling ahead: which rows, in which order, and what a second look costs."""

import pytest
import torch
from torch.utils.data import DataLoader, Subset, random_split

from lightning_graceful import OldOutputCache
from lightning_graceful.callbacks import filling
from lightning_graceful.data.claims import Claims
from lightning_graceful.data.store import OutputStore
from tests.callbacks.test_old_outputs import counting, fit, images, new_module, pytestmark
from tests.identity_cases import Photos, augment

assert pytestmark


@pytest.fixture
def small_regions(monkeypatch):
    monkeypatch.setattr(filling, "REGION_ROWS", 16)


def only_store(folder):
    (manifest,) = folder.glob("*/manifest.json")
    return OutputStore.open_existing(manifest.parent)


def test_a_subset_fills_its_own_rows_alone(tmp_path, small_regions):
    fit(new_module(), OldOutputCache(counting(), tmp_path), DataLoader(Subset(images(), [40, 3, 3, 18]), 2))
    store = only_store(tmp_path)
    assert store.filled(torch.arange(50)).nonzero().flatten().tolist() == [3, 18, 40]
    assert Claims(store.path).full() == set()


def test_regions_that_are_full_are_not_looked_through_again(tmp_path, small_regions, monkeypatch):
    train, val = random_split(images(), [0.6, 0.4], torch.Generator().manual_seed(0))
    fit(new_module(), OldOutputCache(counting(), tmp_path, verify=0), DataLoader(train, 8), DataLoader(val, 8))
    assert Claims(only_store(tmp_path).path).full() == {0, 1, 2, 3}
    monkeypatch.setattr(OutputStore, "missing", None)
    monkeypatch.setattr(OutputStore, "missing_in", None)
    old = counting()
    fit(new_module(), OldOutputCache(old, tmp_path, verify=0), DataLoader(train, 8), DataLoader(val, 8))
    assert old.asked == 0


def test_rows_of_all_views_are_filled(tmp_path, small_regions):
    from lightning_graceful import OldModel
    from tests.identity_cases import Lit, network

    data = Photos(30, transform=augment)
    cache = OldOutputCache(OldModel(network()), tmp_path, views=3)
    fit(Lit(), cache, DataLoader(Subset(data, range(4, 20)), 8), None)
    filled = only_store(tmp_path).filled(torch.arange(90)).nonzero().flatten().tolist()
    assert filled == list(range(12, 60))


def test_a_region_that_another_process_holds_is_waited_for(tmp_path, small_regions, monkeypatch):
    """The other one dies without having filled it."""
    fit(new_module(), OldOutputCache(counting(), tmp_path, fill="lazy"), DataLoader(images(), 8), limit_train_batches=1)
    other = Claims(only_store(tmp_path).path)
    assert other.take(1)
    waits = []
    monkeypatch.setattr(filling.time, "sleep", lambda seconds: (waits.append(seconds), other.drop(1)))
    old = counting()
    fit(new_module(), OldOutputCache(old, tmp_path, verify=0), DataLoader(images(), 8))
    assert waits == [filling.WAIT_S]
    assert old.asked == 50 - 8


def test_claims_are_given_back_when_the_old_model_breaks_down(tmp_path, small_regions):
    with pytest.raises(RuntimeError, match="breaks down"):
        fit(new_module(), OldOutputCache(counting(fail_after=50 + 20), tmp_path), DataLoader(images(), 8))
    assert Claims(only_store(tmp_path).path).take_all()

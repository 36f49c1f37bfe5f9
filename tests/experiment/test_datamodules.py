import hashlib

import numpy as np
import pytest

from lightning_graceful.experiment.datamodules import DigitsDataModule, FashionMNISTDataModule
from tests.data.test_datasets import needs_fashion_mnist


def parts(data):
    return [np.asarray(subset.indices) for subset in (data.train_set, data.val_set, data.test_set)]


def test_every_digit_is_tested_once():
    tested = np.concatenate([parts(DigitsDataModule(seed=seed))[2] for seed in range(5)])
    assert sorted(tested.tolist()) == list(range(1797))


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_digits_are_disjoint_and_stratified(seed):
    data = DigitsDataModule(seed=seed)
    train, val, test = parts(data)
    assert sorted(np.concatenate([train, val, test]).tolist()) == list(range(1797))
    for part in (train, val, test):
        share = np.bincount(data.base.target.numpy()[part]) / len(part)
        assert np.abs(share - 0.1).max() < 0.015


def test_old_model_sees_a_stratified_part_of_the_training_samples():
    data = DigitsDataModule(seed=1, old_fraction=0.3)
    seen = data.of_old().train_set.indices
    assert set(seen) < set(data.train_set.indices)
    assert len(seen) == int(0.3 * len(data.train_set))
    assert DigitsDataModule(seed=1, old_fraction=1.0).of_old().train_set.indices == data.train_set.indices


@needs_fashion_mnist
def test_split_of_fashion_mnist_never_moves():
    """Reported figures hold for this split only: a change of the library that draws it must not go unnoticed."""
    first, second = FashionMNISTDataModule(seed=0), FashionMNISTDataModule(seed=1)
    train, val, test = parts(first)
    assert (len(train), len(val), len(test)) == (50_000, 10_000, 10_000)
    assert not set(train) & set(val)
    assert np.bincount(first.val_set.dataset.target.numpy()[val]).tolist() == [1000] * 10
    assert hashlib.sha256(val.astype("<i8").tobytes()).hexdigest()[:16] == SPLIT
    assert parts(second)[1].tolist() == val.tolist()
    assert first.of_old().train_set.indices != second.of_old().train_set.indices


SPLIT = "c5e05687e4013bd4"


@pytest.mark.parametrize("fraction", [0, 1.5])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match="old_fraction"):
        DigitsDataModule(old_fraction=fraction)

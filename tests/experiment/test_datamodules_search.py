import math
from itertools import combinations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_graceful import FlipMonitor, OldModel, OldOutputCache
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.experiment.datamodules import DigitsDataModule, SearchDataModule, class_draws
from lightning_graceful.models.mlp import MLP

DIGITS = DigitsDataModule(seed=1, old_fraction=0.1)
HELD_OUT = (2, 5, 9)


def labels(samples):
    return [int(target) for _, target in samples]


def true_labels(samples):
    """Labels of the whole dataset, whatever the samples say."""
    return DIGITS.base.target[list(samples.indices)].tolist()


def test_closed_protocol_is_the_data_as_they_are():
    data = SearchDataModule(DIGITS)
    for part in ("train_set", "val_set", "test_set"):
        assert getattr(data, part) is getattr(DIGITS, part)
    assert data.of_old().train_set.indices == DIGITS.of_old().train_set.indices
    assert (data.old_label_map, data.class_names) == (None, DIGITS.base.classes)
    assert (data.seed, data.old_fraction, data.batch_size) == (1, 0.1, 64)


def test_held_out_classes_are_in_no_training():
    data = SearchDataModule(DIGITS, held_out=HELD_OUT)
    for part in (data.train_set, data.val_set, data.test_set, data.of_old().train_set, data.of_old().val_set):
        assert set(true_labels(part)) == set(range(10)) - set(HELD_OUT)
        assert set(labels(part)) == set(range(7))
        assert [data.label_of[label] for label in true_labels(part)] == labels(part)
    assert [data.class_names[data.label_of[label]] for label in (0, 3, 8)] == ["0", "3", "8"]
    assert data.base.classes == data.class_names
    assert data.old_label_map is None


def test_nothing_but_held_out_classes_is_searched_in_the_open_protocol():
    halves = SearchDataModule(DIGITS, held_out=HELD_OUT).search_halves("test", seed=0)
    for half in halves:
        assert set(labels(half)) == set(HELD_OUT)
        assert labels(half) == true_labels(half)


def test_validation_of_known_classes_can_be_searched_instead():
    data = SearchDataModule(DIGITS, held_out=HELD_OUT)
    query, gallery = data.search_halves("val", seed=0, classes=data.new_classes)
    assert set(labels(query)) == set(labels(gallery)) == set(data.new_classes)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_halves_are_disjoint_whole_stratified_and_fixed_by_seed(stage):
    data = SearchDataModule(DIGITS)
    query, gallery = data.search_halves(stage, seed=4)
    part = DIGITS.val_set if stage == "val" else DIGITS.test_set
    assert sorted([*query.indices, *gallery.indices]) == list(part.indices)
    of_class = np.bincount(labels(part))
    assert np.bincount(labels(query)).tolist() == (of_class // 2).tolist()
    assert data.search_halves(stage, seed=4).query.indices == query.indices
    assert data.search_halves(stage, seed=5).query.indices != query.indices


def test_halves_of_a_class_do_not_depend_on_what_else_is_searched():
    alone = SearchDataModule(DIGITS).search_halves("test", 0, classes=[5]).query.indices
    among = SearchDataModule(DIGITS, held_out=HELD_OUT).search_halves("test", 0).query
    assert alone == [index for index, label in zip(among.indices, labels(among), strict=True) if label == 5]


def test_old_model_may_know_some_classes_only():
    data = SearchDataModule(DIGITS, held_out=[0], old_classes=[9, 3, 4])
    assert (data.new_classes, data.old_classes) == (tuple(range(1, 10)), (3, 4, 9))
    old = data.of_old()
    for part in (old.train_set, old.val_set):
        assert [[3, 4, 9][label] for label in labels(part)] == true_labels(part)
    train = [label for label in true_labels(DIGITS.train_set) if label in {3, 4, 9}]
    assert len(old.train_set) == int(0.1 * len(train))
    assert set(old.train_set.indices) < set(data.train_set.indices)
    by_name = [-1 if column < 0 else data.old_classes[column] for column in data.old_label_map]
    assert by_name == [-1, -1, 3, 4, -1, -1, -1, -1, 9]


@pytest.mark.parametrize("size", [0, 10**6])
def test_an_impossible_sample_of_held_out_classes_is_refused(size):
    with pytest.raises(ValueError, match=r"Expected a size in \[1, \d+\], images of the held-out classes"):
        SearchDataModule(DigitsDataModule(), held_out=[0, 4]).held_out_sample(size, seed=0)


def test_samples_to_fit_an_adapter_on_keep_their_labels():
    data = SearchDataModule(DIGITS, held_out=HELD_OUT)
    assert data.train_eval.indices == data.train_set.indices
    assert labels(data.train_eval) == true_labels(data.train_set)
    assert SearchDataModule(DIGITS).train_eval.indices == DIGITS.train_set.indices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": [10]}, r"in \[0, 10\) as held_out, got \[10\]"),
        ({"held_out": [-1]}, "as held_out"),
        ({"held_out": [1, 1]}, "different labels"),
        ({"held_out": [1], "old_classes": [1, 2, 3]}, r"not held out, got \[1\] in both"),
        ({"held_out": range(9)}, "at least two classes.*1 for the old one and 1 for the new one"),
        ({"old_classes": [1]}, "1 for the old one and 10 for the new one"),
    ],
)
def test_impossible_classes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SearchDataModule(DIGITS, **options)


def test_impossible_searches_are_refused():
    data = SearchDataModule(DIGITS)
    with pytest.raises(ValueError, match="stage 'val' or 'test', got 'train'"):
        data.search_halves("train", 0)
    with pytest.raises(ValueError, match="as classes"):
        data.search_halves("val", 0, classes=[11])
    few = SearchDataModule(DIGITS)
    few.data = DigitsDataModule(folds=1000 // 6, old_fraction=0.1)
    with pytest.raises(ValueError, match=r"two or more test images of class '\d', found [01]\."):
        few.search_halves("test", 0)


def test_an_old_part_that_misses_a_class_is_refused():
    with pytest.raises(ValueError, match=r"old_fraction to draw and .* a sample of each of 10 classes, got 0\.005"):
        DigitsDataModule(old_fraction=0.005).of_old()


def test_draws_differ_and_stay_when_more_are_asked_for():
    draws = class_draws(6, 2, math.comb(6, 2), seed=3)
    assert sorted(draws) == list(combinations(range(6), 2))
    assert class_draws(6, 2, 4, seed=3) == draws[:4]
    assert class_draws(6, 2, 4, seed=4) != draws[:4]


@pytest.mark.parametrize(("held_out", "count"), [(0, 1), (6, 1), (2, 16), (2, 0)])
def test_impossible_draws_are_refused(held_out, count):
    with pytest.raises(ValueError, match="up to"):
        class_draws(6, held_out, count, seed=0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*memorised.*")
def test_old_outputs_of_fewer_classes_reach_the_right_samples(tmp_path):
    """Training and validation are relabelled apart, and the old model has its own classes."""
    data = SearchDataModule(DIGITS, held_out=HELD_OUT, old_classes=[0, 8, 4])
    torch.manual_seed(0)
    old = OldModel(MLP(64, 3, hidden=(8,)), label_map=data.old_label_map)
    compared = []

    class Compare(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            torch.testing.assert_close(module.old_outputs.logits, old.outputs(batch).logits, rtol=1e-3, atol=1e-3)
            assert (module.old_outputs.logits.isfinite().sum(1) == 3).all()
            compared.append(len(batch[1]))

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [OldOutputCache(old, tmp_path), FlipMonitor(old), Compare()]
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, callbacks=callbacks, **options)
    trainer.fit(LitClassifier(MLP(64, 7, hidden=(8,))), datamodule=data)
    assert sum(compared) == len(data.train_set) // 64 * 64
    assert 0 <= float(trainer.callback_metrics["val/nfr"]) <= 1

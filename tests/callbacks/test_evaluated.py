import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lightning_graceful import Batch, FlipMonitor
from tests.callbacks.test_flips import choose, combined, semi
from tests.callbacks.test_old_outputs import images, new_module, old_model, pytestmark, trainer
from tests.callbacks.test_slices import Lit, Stream, rows
from tests.callbacks.test_slices import old_model as linear_old_model

assert pytestmark


class Listener(pl.Callback):
    def __init__(self, folder=None):
        self.folder = folder
        self.told = []
        self.told_at_epoch_end = None

    def on_evaluated_batch(self, trainer, pl_module, evaluated):
        self.told.append(evaluated)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.told_at_epoch_end = len(self.told)
        if self.folder is not None:
            torch.save([one.position.tolist() for one in self.told], self.folder / str(trainer.global_rank))


@pytest.mark.parametrize("is_first", [True, False])
def test_each_batch_is_told_once_with_what_both_models_said(is_first):
    data, old, new, listener = rows(50), linear_old_model(), Lit(), Listener()
    callbacks = [listener, FlipMonitor(old)] if is_first else [FlipMonitor(old), listener]
    subset = Subset(data, range(49, -1, -1))
    trainer(*callbacks).validate(new, DataLoader(subset, 8), verbose=False)
    assert listener.told_at_epoch_end == len(listener.told) == 7
    position = torch.cat([one.position for one in listener.told])
    index = torch.cat([one.index for one in listener.told])
    assert position.tolist() == list(range(50))
    assert index.tolist() == list(range(49, -1, -1))
    assert {int(code) for one in listener.told for code in one.code} >= {1, 4, 6, 7}
    for one in listener.told:
        assert (one.stage, one.old_name, one.loader, one.dataset) == ("val", "", 0, subset)
        inputs, target, _ = data[one.index]
        assert torch.equal(one.target, target)
        torch.testing.assert_close(one.old, old.outputs((inputs, target)).logits)
        with torch.no_grad():
            torch.testing.assert_close(one.new, new(inputs))
        assert torch.equal(one.batch[0], inputs)
        old_right, new_right = one.old.argmax(1) == target, one.new.argmax(1) == target
        assert torch.equal(one.old_right, old_right)
        assert torch.equal(one.new_right, new_right)
        changed = one.old.argmax(1) != one.new.argmax(1)
        assert torch.equal(one.code, (1 + 4 * old_right + 2 * new_right + changed.int()).byte())


def test_names_loaders_and_stages_are_told():
    listener = Listener()
    running = trainer(FlipMonitor({"v1": old_model(), "v2": old_model(5)}), listener)
    data, module = images(8), new_module(graceful=False)
    running.validate(module, [DataLoader(data, 8), DataLoader(data, 8)], verbose=False)
    running.test(module, DataLoader(data, 8), verbose=False)
    found = [(one.stage, one.loader, one.old_name) for one in listener.told]
    assert found[:4] == [("val", 0, "v1"), ("val", 0, "v2"), ("val", 1, "v1"), ("val", 1, "v2")]
    assert found[4:] == [("test", 0, "v1"), ("test", 0, "v2")]


def test_sanity_checks_are_not_told():
    listener = Listener()
    running = trainer(FlipMonitor(old_model()), listener, num_sanity_val_steps=2, max_epochs=1)
    running.fit(new_module(graceful=False), DataLoader(images(8), 8), DataLoader(images(8), 8))
    assert len(listener.told) == 1


def test_of_a_combined_batch_the_leg_is_told():
    listener = Listener()
    trainer(FlipMonitor(old_model(), batch=choose), listener).validate(
        semi(), combined(images(), "min_size"), verbose=False
    )
    assert {one.loader for one in listener.told} == {1}
    assert torch.cat([one.index for one in listener.told]).tolist() == list(range(50))
    assert all(len(one.batch[0]) == len(one.target) for one in listener.told)


def test_positions_are_unique_where_indices_are_not():
    listener, data = Listener(), ConcatDataset([images(5), images(5, seed=3)])
    trainer(FlipMonitor(old_model()), listener).validate(new_module(graceful=False), DataLoader(data, 8), verbose=False)
    assert torch.cat([one.position for one in listener.told]).tolist() == list(range(10))
    assert torch.cat([one.index for one in listener.told]).tolist() == [0, 1, 2, 3, 4] * 2


def test_samples_that_nobody_knows_have_no_index():
    listener = Listener()
    monitor = FlipMonitor(linear_old_model(), batch=lambda batch: Batch(batch[0], batch[1]))
    trainer(monitor, listener).validate(Lit(), DataLoader(Stream(rows(8)), 8), verbose=False)
    assert [(one.index, one.position, one.dataset) for one in listener.told] == [(None, None, None)]


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler`.*")
def test_repeated_samples_are_told_by_every_rank_that_had_them(tmp_path):
    running = trainer(FlipMonitor(old_model()), Listener(tmp_path), devices=2, strategy="ddp_fork")
    running.validate(new_module(graceful=False), DataLoader(images(9), 8), verbose=False)
    found = [torch.load(tmp_path / rank) for rank in "01"]
    assert found == [[[0, 2, 4, 6, 8]], [[1, 3, 5, 7, 0]]]

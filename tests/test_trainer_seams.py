import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_graceful import trainer_seams
from lightning_graceful.trainer_seams import SampleTracker, combined_loader, loaders
from tests.callbacks.test_old_outputs import images, new_module, pytestmark, trainer

assert pytestmark


class Follow(pl.Callback):
    """Compares the followed samples with the batch in every loop."""

    def __init__(self, data):
        self.data = data
        self.stages = []

    def setup(self, trainer, module, stage):
        self.tracker = SampleTracker.of(trainer)

    def teardown(self, trainer, module, stage):
        self.tracker.remove()

    def check(self, trainer, batch):
        positions = self.tracker.samples(batch).position
        torch.testing.assert_close(self.data.images[positions].unsqueeze(1) / 255, batch[0])
        self.stages.append(str(trainer.state.stage.value))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.check(trainer, batch)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.check(trainer, batch)

    def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.check(trainer, batch)


@pytest.mark.filterwarnings("ignore:.*shuffling enabled.*")
def test_every_loop_is_followed():
    """Names each private in PRIVATES: the four ``_combined_loader`` and ``CombinedLoader._iterator.iterators``."""
    data = images()
    follow = Follow(data)
    running = trainer(follow, max_epochs=1, val_check_interval=3)
    module = new_module(graceful=False)
    train = DataLoader(data, 8, shuffle=True)
    running.fit(module, train, [DataLoader(data, 16), train])
    running.validate(module, DataLoader(data, 25, shuffle=True), verbose=False)
    running.test(module, DataLoader(data, 10, shuffle=True), verbose=False)
    counts = {stage: follow.stages.count(stage) for stage in set(follow.stages)}
    assert counts == {"sanity_check": 4, "train": 7, "validate": 2 * (4 + 7) + 2, "test": 5}


@pytest.mark.parametrize("private", trainer_seams.PRIVATES)
def test_private_of_lightning_exists(private):
    found = []

    class Look(pl.Callback):
        def look(self, trainer):
            found.append(combined_loader(trainer) is not None and bool(combined_loader(trainer)._iterator.iterators))

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.look(trainer)

        def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
            self.look(trainer)

        def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
            self.look(trainer)

    running, module, loader = trainer(Look(), max_epochs=1), new_module(graceful=False), DataLoader(images(), 50)
    if private.startswith("fit_loop") or private.startswith("Combined"):
        running.fit(module, loader, loader)
    elif private.startswith("validate"):
        running.validate(module, loader, verbose=False)
    else:
        running.test(module, loader, verbose=False)
    assert found
    assert all(found)


def test_missing_private_means_no_samples(monkeypatch):
    monkeypatch.setattr(trainer_seams, "combined_loader", lambda trainer: None)
    seen = []

    class Ask(pl.Callback):
        def setup(self, trainer, module, stage):
            self.tracker = SampleTracker.of(trainer)

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(self.tracker.samples(batch))

    trainer(Ask(), max_epochs=1).fit(new_module(graceful=False), DataLoader(images(), 25))
    assert seen == [None, None]


def test_loaders_of_no_loop_are_none():
    assert loaders(trainer()) == []

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

from lightning_graceful import trainer_seams
from lightning_graceful.trainer_seams import SampleTracker, loaders
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

    def on_sanity_check_start(self, trainer, module):
        self.tracker.begin()

    on_train_start = on_validation_start = on_test_start = on_predict_start = on_sanity_check_start

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

    def on_predict_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.check(trainer, batch)


@pytest.mark.filterwarnings("ignore:.*shuffling enabled.*")
def test_every_loop_is_followed():
    """Names privates in PRIVATES: the five ``_combined_loader`` and ``CombinedLoader._iterator.iterators``."""
    data = images()
    follow = Follow(data)
    running = trainer(follow, max_epochs=1, val_check_interval=3)
    module = predicting()
    train = DataLoader(data, 8, shuffle=True)
    running.fit(module, train, [DataLoader(data, 16), train])
    running.validate(module, DataLoader(data, 25, shuffle=True), verbose=False)
    running.test(module, DataLoader(data, 10, shuffle=True), verbose=False)
    running.predict(module, DataLoader(data, 20, shuffle=True))
    counts = {stage: follow.stages.count(stage) for stage in set(follow.stages)}
    assert counts == {"sanity_check": 4, "train": 7, "validate": 2 * (4 + 7) + 2, "test": 5, "predict": 3}


def predicting():
    module = new_module(graceful=False)
    module.predict_step = lambda batch, batch_idx: module.net(batch[0])
    return module


RUNS = {
    "fit_loop": lambda running, module, loader: running.fit(module, loader, loader),
    "validate_loop": lambda running, module, loader: running.validate(module, loader, verbose=False),
    "test_loop": lambda running, module, loader: running.test(module, loader, verbose=False),
    "predict_loop": lambda running, module, loader: running.predict(module, loader),
}


@pytest.mark.parametrize("private", trainer_seams.PRIVATES)
def test_private_of_lightning_exists(private):
    """Walks the path of each private in a step of the loop that it belongs to."""
    found = []
    loop, _, path = private.partition(".")
    if loop == "CombinedLoader":
        loop, path = "fit_loop", f"_combined_loader.{path}"

    class Look(pl.Callback):
        def look(self, trainer, *_):
            place = getattr(trainer, loop)
            for name in path.split("."):
                place = place._data_fetcher if name == "_data_fetcher" else getattr(place, name)
            found.append(place)

        on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = look

    if "batches" in private:  # only a loader without a length is read ahead
        stream = DataLoader(Endless())
        trainer(Look(), max_steps=1, max_epochs=None).fit(new_module(graceful=False), stream)
        assert len(found[0]) == 1
    else:
        RUNS[loop](trainer(Look(), max_epochs=1), predicting(), DataLoader(images(), 50))
        assert found
        assert all(place is not None for place in found)


class Endless(IterableDataset):
    def __iter__(self):
        data = images()
        while True:
            yield data[0]


def test_batches_that_are_read_ahead_keep_their_samples():
    """A leg without a length makes Lightning fetch a batch ahead, while a short leg begins anew."""
    data, seen = images(), []

    class Check(Follow):
        def check(self, trainer, batch):
            samples = self.tracker.samples(batch)
            assert samples["stream"] is None
            images_of = self.data.images[[7, 3, 9]][samples["a"].position]
            torch.testing.assert_close(images_of.unsqueeze(1) / 255, batch["a"][0])
            seen.append(samples["a"].position.tolist())

    module = new_module(graceful=False)
    module.training_step = lambda batch, batch_idx: module.net(batch["a"][0]).mean()
    legs = {"a": DataLoader(Subset(data, [7, 3, 9]), 2, shuffle=True), "stream": DataLoader(Endless(), 2)}
    combined = pl.utilities.CombinedLoader(legs, "max_size_cycle")
    trainer(Check(data), max_steps=9, max_epochs=None).fit(module, combined)
    assert len(seen) == 9


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_skipped_batches_do_not_shift_the_samples():
    """Lightning calls no hook for a batch that is None."""
    data, seen = images(), []

    def sometimes_none(samples):
        return None if len(seen) in {1, 3} and not seen.append(None) else default_collate(samples)

    class Check(Follow):
        def check(self, trainer, batch):
            super().check(trainer, batch)
            seen.append(1)

    loader = DataLoader(data, 8, shuffle=True, collate_fn=sometimes_none)
    trainer(Check(data), max_epochs=2).fit(new_module(graceful=False), loader)
    assert seen.count(1) == 14 - 2


def test_missing_private_means_no_samples(monkeypatch):
    monkeypatch.setattr(trainer_seams, "combined_loader", lambda trainer: None)
    seen = []

    class Ask(pl.Callback):
        def setup(self, trainer, module, stage):
            self.tracker = SampleTracker.of(trainer)

        def on_train_start(self, trainer, module):
            assert self.tracker.begin() == []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(self.tracker.samples(batch))

    trainer(Ask(), max_epochs=1).fit(new_module(graceful=False), DataLoader(images(), 25))
    assert seen == [None, None]


def test_loaders_of_no_loop_are_none():
    assert loaders(trainer()) == []

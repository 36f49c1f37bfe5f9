import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from lightning_graceful import FlipHistory, FlipMonitor, OldModel
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.report.history import read_history
from tests.callbacks.test_old_outputs import images, pytestmark, trainer

pytestmark = [
    pytestmark,
    pytest.mark.filterwarnings(
        "ignore:Be aware that when using `ckpt_path`",
        "ignore:Using `DistributedSampler`.*",
        "ignore:.*exists and is not empty",
    ),
]


class Witness(pl.Callback):
    """Asks the model about every sample, one by one, at each validation."""

    def __init__(self, data, old):
        self.data, self.old, self.rows = data, old, []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.rows.append([self.row(pl_module, *self.data[i]) for i in range(len(self.data))])

    def row(self, module, image, target):
        batch = (torch.as_tensor(image)[None], torch.as_tensor([target]))
        right = [int(model(batch)) == int(target) for model in (self.say(self.old), lambda b: module(b[0]).argmax())]
        return tuple(right)

    def say(self, old):
        return lambda batch: old.outputs(batch).logits.argmax()


def by_hand(rows, index=None):
    """Walk over samples, then over epochs."""
    epochs, number = len(rows), len(rows[0])
    index = list(range(number)) if index is None else index
    flips = [[old and not new for old, new in row] for row in rows]
    times = [sum(flips[e][i] for e in range(epochs)) for i in range(number)]
    return {
        "broke": [sum(row) for row in flips],
        "fixed": [sum(new and not old for old, new in row) for row in rows],
        "entered": [sum(flips[e][i] and (e == 0 or not flips[e - 1][i]) for i in range(number)) for e in range(epochs)],
        "left": [sum(e > 0 and flips[e - 1][i] and not flips[e][i] for i in range(number)) for e in range(epochs)],
        "times": [times.count(k) for k in range(epochs + 1)],
        "always": sorted(index[i] for i in range(number) if times[i] == epochs),
        "always_total": times.count(epochs),
        "once": number - times.count(0),
        "samples": number,
    }


def said(churn):
    return {name: getattr(churn, name) for name in by_hand([[(True, True)]])}


def fit(history, data, *callbacks, epochs=4, ckpt_path=None, train=None, **options):
    running = trainer(FlipMonitor(old_model()), history, *callbacks, max_epochs=epochs, **options)
    running.fit(steady(), DataLoader(train or images(24, seed=7), 8), DataLoader(data, 8), ckpt_path=ckpt_path)
    return running


def net(seed):
    """Draw a linear model that says all classes."""
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    layer = torch.nn.Linear(16, 3, bias=False)
    layer.weight.data = weight - weight.mean(1, keepdim=True)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


def old_model(seed=99):
    return OldModel(net(seed))


class Restless(LitClassifier):
    """Each epoch draws other weights; a step leaves them alone."""

    def on_train_epoch_start(self):
        self.net.load_state_dict(net(self.current_epoch).state_dict())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def steady():
    return Restless(net(0))


@pytest.mark.parametrize("sanity", [0, 2])
def test_what_came_and_went_equals_that_by_hand(tmp_path, sanity):
    data = images(50)
    history, witness = FlipHistory(tmp_path), Witness(data, old_model())
    fit(history, data, witness, num_sanity_val_steps=sanity)
    expected = by_hand(witness.rows)
    assert said(history.summary()) == expected
    assert history.summary().epochs == [0, 1, 2, 3]
    assert history.summary().steps == [3, 6, 9, 12]
    assert len({tuple(row) for row in witness.rows}) > 1, "the model should change"
    assert sum(expected["left"]) > 0
    for i in range(50):
        assert history.times_of(i) == sum(old and not new for old, new in (row[i] for row in witness.rows))
    assert (tmp_path / "flips.u8").stat().st_size == 4 * 50


def test_indices_are_those_of_the_base_dataset(tmp_path):
    data, index = images(50), [40, 3, 17, 20, 21, 4, 0]
    history, witness = FlipHistory(tmp_path), Witness(Subset(data, index), old_model())
    fit(history, Subset(data, index), witness)
    assert said(history.summary()) == by_hand(witness.rows, index)
    assert history.times_of(3) == sum(row[1] == (True, False) for row in witness.rows)
    with pytest.raises(IndexError, match="got 5"):
        history.times_of(5)
    assert read_history(tmp_path).index == "position in the base dataset"


def test_of_several_datasets_positions_count(tmp_path):
    data = ConcatDataset([images(10), images(10, seed=3)])
    history, witness = FlipHistory(tmp_path), Witness(data, old_model())
    fit(history, data, witness)
    assert said(history.summary()) == by_hand(witness.rows)
    assert read_history(tmp_path).index == "position in the validation dataset"


@pytest.mark.parametrize("length", [49, 1])
def test_ranks_write_one_row_together(tmp_path, length):
    data, train = images(length), images(16, seed=7)
    fit(FlipHistory(tmp_path / "two"), data, devices=2, strategy="ddp_fork", epochs=2, train=train)
    fit(FlipHistory(tmp_path / "one"), data, epochs=2, train=train)
    assert np.fromfile(tmp_path / "two" / "flips.u8", np.uint8).min() >= 128
    assert len(np.unique(np.fromfile(tmp_path / "two" / "flips.u8", np.uint8))) > 1 or length == 1
    assert (tmp_path / "two" / "flips.u8").read_bytes() == (tmp_path / "one" / "flips.u8").read_bytes()


@pytest.mark.parametrize("folder", ["parts", "elsewhere"])
@pytest.mark.parametrize(("stop", "known"), [(2, 1), (4, 1), (3, 2)])
def test_a_resumed_run_equals_a_straight_one(tmp_path, stop, known, folder):
    """It stops after ``stop`` epochs and goes on from a checkpoint that may be older."""
    data = images(50)
    fit(FlipHistory(tmp_path / "straight"), data)
    every = ModelCheckpoint(tmp_path / "every", filename="{epoch}", save_top_k=-1)
    fit(FlipHistory(tmp_path / "parts"), data, every, epochs=stop, enable_checkpointing=True)
    checkpoint = tmp_path / "every" / f"epoch={known}.ckpt"
    resumed = FlipHistory(tmp_path / folder)
    fit(resumed, data, ckpt_path=checkpoint)
    for name in ("flips.u8", "history.json"):
        assert (tmp_path / folder / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert resumed.path == tmp_path / folder


def test_what_is_gone_begins_with_the_resumed_epoch(tmp_path):
    data = images(20)
    last = ModelCheckpoint(tmp_path / "last", filename="last")
    fit(FlipHistory(tmp_path / "a"), data, last, epochs=2, enable_checkpointing=True)
    (tmp_path / "a" / "flips.u8").write_bytes(b"")
    history = FlipHistory(tmp_path / "a")
    with pytest.warns(UserWarning, match="first 2 rows of the flip history"):
        fit(history, data, ckpt_path=tmp_path / "last" / "last.ckpt")
    assert history.summary().epochs == [2, 3]


def test_a_second_fit_goes_on(tmp_path):
    data, history = images(20), FlipHistory(tmp_path)
    running = fit(history, data, epochs=2)
    running.fit_loop.max_epochs = 3
    running.fit(running.lightning_module, DataLoader(images(24), 8), DataLoader(data, 8))
    assert history.summary().epochs == [0, 1, 2]


def test_a_fit_from_an_older_checkpoint_takes_back_what_came_after(tmp_path):
    data, history = images(20), FlipHistory(tmp_path / "history")
    every = ModelCheckpoint(tmp_path / "every", filename="{epoch}", save_top_k=-1)
    running = fit(history, data, every, epochs=3, enable_checkpointing=True)
    loaders = DataLoader(images(24, seed=7), 8), DataLoader(data, 8)
    running.fit(steady(), *loaders, ckpt_path=tmp_path / "every" / "epoch=0.ckpt")
    assert history.summary().epochs == [0, 1, 2]


def test_another_run_replaces_it_with_a_warning(tmp_path):
    fit(FlipHistory(tmp_path), images(20), epochs=2)
    with pytest.warns(UserWarning, match="history of another run"):
        fit(FlipHistory(tmp_path), images(30), epochs=1)
    assert read_history(tmp_path).summary().samples == 30


def test_validations_within_an_epoch_are_rows_of_their_own(tmp_path):
    history = FlipHistory(tmp_path)
    fit(history, images(20), epochs=2, val_check_interval=1)
    assert history.summary().epochs == [0, 0, 0, 1, 1, 1]
    assert history.summary().steps == [1, 2, 3, 4, 5, 6]


def test_one_of_several_olds_and_loaders_is_followed(tmp_path):
    data = [images(20), images(30, seed=5)]
    witness = Witness(data[1], old_model(7))
    history = FlipHistory(tmp_path, loader=1, old="v2")
    monitor = FlipMonitor({"v1": old_model(), "v2": old_model(7)})
    running = trainer(monitor, history, witness, max_epochs=2)
    running.fit(steady(), DataLoader(images(24, seed=7), 8), [DataLoader(one, 8) for one in data])
    assert said(history.summary()) == by_hand(witness.rows)
    assert read_history(tmp_path).old == "v2"


def test_validate_and_test_add_nothing(tmp_path):
    data, history = images(20), FlipHistory(tmp_path)
    running = fit(history, data, epochs=1)
    running.validate(running.lightning_module, DataLoader(data, 8), verbose=False)
    running.test(running.lightning_module, DataLoader(data, 8), verbose=False)
    assert history.summary().epochs == [0]


def test_without_a_monitor_it_says_so(tmp_path):
    running = trainer(FlipHistory(tmp_path), max_epochs=1)
    with pytest.raises(RuntimeError, match=r"got nothing. Add FlipMonitor\(old\)"):
        running.fit(steady(), DataLoader(images(24), 8), DataLoader(images(20), 8))
    running = trainer(FlipMonitor(old_model()), FlipHistory(tmp_path, old="v2"), max_epochs=1)
    with pytest.warns(UserWarning, match="another run"), pytest.raises(RuntimeError, match=r"got \[\(0, ''\)\]"):
        running.fit(steady(), DataLoader(images(24), 8), DataLoader(images(20), 8))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([images(8)[i] for i in range(8)])


def test_samples_that_nobody_knows_are_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"IterableDataset.*Choose another"):
        fit(FlipHistory(tmp_path), Stream())
    with pytest.raises(RuntimeError, match="no such loader"):
        fit(FlipHistory(tmp_path, loader=2), images(8))


def test_a_summary_before_any_fit_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="none yet"):
        FlipHistory().summary()
    with pytest.raises(FileNotFoundError, match="Train with FlipHistory"):
        FlipHistory(tmp_path).summary()


def test_urls_are_refused():
    with pytest.raises(ValueError, match="folder of this machine"):
        FlipHistory("s3://bucket/history")

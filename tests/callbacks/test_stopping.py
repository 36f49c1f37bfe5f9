import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_graceful import BudgetStopping
from tests.callbacks.scripted import run
from tests.callbacks.test_old_outputs import pytestmark

pytestmark = [pytestmark, pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")]
NAN = float("nan")


def nfr(*values):
    return [{"val/nfr": value} for value in values]


def epochs_run(values, *, budget, patience, start=0):
    """Look back from each epoch: are the last ``patience`` rates that are numbers all above the budget?"""
    for epoch in range(len(values)):
        known = [value for value in values[start : epoch + 1] if value == value]
        is_counted = epoch >= start and values[epoch] == values[epoch] and len(known) >= patience
        if is_counted and all(value > budget for value in known[-patience:]):
            return epoch + 1
    return len(values)


@pytest.mark.filterwarnings("ignore:val/nfr was NaN")
@pytest.mark.parametrize("seed", range(8))
def test_a_rate_that_stays_above_its_budget_stops(seed):
    generator = np.random.default_rng(seed)
    values = [NAN if draw == 0 else float(draw) / 8 for draw in generator.integers(0, 7, 10)]
    patience, start = 1 + seed % 3, seed % 4
    stopping = BudgetStopping(nfr=0.375, patience=patience, start_epoch=start)
    running = run(nfr(*values), stopping, enable_checkpointing=False)
    expected = epochs_run(values, budget=0.375, patience=patience, start=start)
    assert running.current_epoch == expected
    assert (stopping.reason is not None) == (
        epochs_run([*values, 0.0], budget=0.375, patience=patience, start=start) <= 10
    )


@pytest.mark.parametrize("namespace", [pl, lightning.pytorch])
def test_the_reason_is_one_line(namespace):
    stopping = BudgetStopping(nfr=0.1, patience=2)
    running = run(nfr(0.3, 0.2, 0.0), stopping, namespace=namespace, enable_checkpointing=False)
    assert running.current_epoch == 2
    assert stopping.reason == "val/nfr has been above its budget of 0.1 for 2 validations in a row"


def test_a_rate_equal_to_the_budget_is_within():
    running = run(nfr(*[0.05] * 4), BudgetStopping(nfr=0.05, patience=1), enable_checkpointing=False)
    assert running.current_epoch == 4


def test_each_key_is_counted_on_its_own():
    script = [{"val/nfr": above, "val/nfi": 0.5 - above} for above in (0.5, 0.0, 0.5, 0.0)]
    stopping = BudgetStopping(budgets={"val/nfr": 0.1, "val/nfi": 0.1}, patience=2)
    assert run(script, stopping, enable_checkpointing=False).current_epoch == 4
    stopping = BudgetStopping(nfr=0.1, budgets={"val/nfi": 0.6}, patience=1)
    assert run(script, stopping, enable_checkpointing=False).current_epoch == 1


def test_nan_neither_stops_nor_resets():
    stopping = BudgetStopping(nfr=0.1, patience=2)
    assert run(nfr(0.5, NAN, 0.5, 0.0), stopping, enable_checkpointing=False).current_epoch == 3


def test_nan_does_not_stop_what_should_have_stopped():
    """A resumed run that was stopped already goes on until the rate is known."""
    stopping = BudgetStopping(nfr=0.1, patience=1)
    stopping.load_state_dict({"above": {"val/nfr": 1}, "unknown": {"val/nfr": 0}, "reason": None})
    with pytest.warns(UserWarning, match="NaN"):
        assert run(nfr(NAN, 0.5, 0.0), stopping, enable_checkpointing=False).current_epoch == 2


def test_nan_for_long_is_warned_about_once():
    with pytest.warns(UserWarning, match="NaN at 2 validations in a row") as said:
        running = run(nfr(*[NAN] * 5), BudgetStopping(nfr=0.1, patience=2), enable_checkpointing=False)
    assert running.current_epoch == 5
    assert len([one for one in said if "val/nfr was NaN" in str(one.message)]) == 1


def test_a_key_that_is_missing_lists_those_that_are_logged():
    with pytest.raises(RuntimeError, match=r"val/nfi to be logged for BudgetStopping, got val/nfr\."):
        run(nfr(0.1), BudgetStopping(budgets={"val/nfi": 0.1}), enable_checkpointing=False)


def test_the_trainer_may_ask_for_more_epochs():
    running = run(nfr(*[0.5] * 5), BudgetStopping(nfr=0.1, patience=1), min_epochs=3, enable_checkpointing=False)
    assert running.current_epoch == 3


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_resumed_run_equals_a_straight_one(tmp_path, parts):
    script = nfr(0.5, 0.0, 0.5, 0.5, 0.5, 0.5)
    straight = BudgetStopping(nfr=0.1, patience=3)
    assert run(script, straight, enable_checkpointing=False).current_epoch == 5
    last = ModelCheckpoint(tmp_path, filename="last")
    run(script, BudgetStopping(nfr=0.1, patience=3), last, max_epochs=parts)
    resumed = BudgetStopping(nfr=0.1, patience=3)
    running = run(script, resumed, ckpt_path=tmp_path / "last.ckpt", enable_checkpointing=False)
    assert running.current_epoch == 5
    assert resumed.state_dict() == straight.state_dict()


class Note(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        torch.save(int(trainer.current_epoch), self.folder / f"{trainer.global_rank}")


@pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist", "ignore:Using `DistributedSampler`.*")
def test_one_rank_that_is_above_stops_all(tmp_path):
    script = nfr(0.1, 0.1, 0.095, 0.095, 0.0)  # rank 1 says 0.01 more
    stopping = BudgetStopping(nfr=0.1, patience=3)
    options = {
        "devices": 2,
        "strategy": "ddp_fork",
        "on_rank_1": lambda value: value + 0.01,
        "enable_checkpointing": False,
    }
    run(script, stopping, Note(tmp_path), **options)
    assert [torch.load(tmp_path / rank) for rank in "01"] == [3, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a budget, got none"),
        ({"nfr": -0.1}, "at least 0 for val/nfr"),
        ({"nfr": NAN}, "at least 0 for val/nfr"),
        ({"nfr": "1%"}, "at least 0 for val/nfr"),
        ({"nfr": 0.1, "patience": 0}, "patience of at least 1"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        BudgetStopping(**options)

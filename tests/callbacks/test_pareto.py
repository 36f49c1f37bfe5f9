import json
import os

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_graceful import BudgetStopping, ParetoCheckpoint
from tests.callbacks.scripted import LOADER, run, scripted
from tests.callbacks.test_old_outputs import pytestmark, trainer

pytestmark = [pytestmark, pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")]
NAN = float("nan")


def rates(*pairs):
    return [{"val/error_new": error, "val/nfr": nfr} for error, nfr in pairs]


def random_pairs(seed, length=8):
    generator = np.random.default_rng(seed)
    return [(float(e) / 16, float(n) / 16) for e, n in generator.integers(0, 6, (length, 2))]


def left_over(pairs):
    """Walk over the epochs: who comes must be better in one of both than each that is there."""
    kept = []
    for epoch, (error, nfr) in enumerate(pairs):
        if any(pairs[k][0] <= error and pairs[k][1] <= nfr for k in kept) or error != error or nfr != nfr:
            continue
        kept = [k for k in kept if not (error <= pairs[k][0] and nfr <= pairs[k][1])] + [epoch]
    return sorted(kept)


def on_disk(folder):
    return sorted(int(path.name.split("-")[0].removeprefix("epoch=")) for path in folder.glob("*.ckpt"))


def record(folder):
    return json.loads((folder / "frontier.json").read_text())


@pytest.mark.parametrize("namespace", [pl, lightning.pytorch])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_beaten_is_kept(tmp_path, seed, namespace):
    pairs, pareto = random_pairs(seed), ParetoCheckpoint(tmp_path)
    run(rates(*pairs), pareto, namespace=namespace)
    expected = left_over(pairs)
    assert on_disk(tmp_path) == expected
    assert sorted(point.epoch for point in pareto.frontier) == expected
    points = record(tmp_path)["points"]
    assert [(point["error"], point["nfr"]) for point in points] == pairs
    assert [point["epoch"] for point in points if point["kept"]] == expected
    assert [point["epoch"] for point in points if point["path"]] == expected
    best = min(expected, key=lambda epoch: pairs[epoch])
    saved = torch.load(pareto.best_model_path, weights_only=True)
    assert int(saved["state_dict"]["trained"]) == best + 1
    assert pareto.best_model_path == str(tmp_path / f"epoch={best}-step={2 * best + 2}.ckpt")


def test_equal_points_keep_the_first(tmp_path):
    run(rates((0.2, 0.1), (0.2, 0.1), (0.2, 0.2), (0.3, 0.1)), ParetoCheckpoint(tmp_path))
    assert on_disk(tmp_path) == [0]


def test_a_budget_chooses_the_least_error_within_it(tmp_path):
    pareto = ParetoCheckpoint(tmp_path, budget=0.05)
    run(rates((0.1, 0.08), (0.2, 0.05), (0.3, 0.01), (0.05, 0.2)), pareto)
    assert "epoch=1-" in pareto.best_model_path  # though 0.05 is more in float32
    assert [pareto.best_under(budget).epoch for budget in (0.01, 0.0799, 0.08, 1.0)] == [2, 1, 0, 3]
    with pytest.warns(UserWarning, match=r"budget of 0\.001.* of epoch 2"):
        assert pareto.best_under(0.001).epoch == 2


def test_no_checkpoint_within_the_budget_is_warned_about_at_the_end(tmp_path):
    pareto = ParetoCheckpoint(tmp_path, budget=0.001)
    with pytest.warns(UserWarning, match="within the budget of 0.001"):
        run(rates((0.1, 0.08), (0.2, 0.05)), pareto)
    assert "epoch=1-" in pareto.best_model_path


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_what_is_no_number_is_listed_and_never_kept(tmp_path, bad):
    pairs = [(bad, 0.0), (0.2, 0.1), (0.0, bad), (0.1, 0.1)]
    pareto = ParetoCheckpoint(tmp_path)
    with pytest.warns(UserWarning, match="keeps no checkpoint of such epochs") as said:
        run(rates(*pairs), pareto)
    assert len([one for one in said if "such epochs" in str(one.message)]) == 1
    assert on_disk(tmp_path) == [3]
    assert [point["error"] is None for point in record(tmp_path)["points"]] == [True, False, False, False]
    assert [point["nfr"] is None for point in record(tmp_path)["points"]] == [False, False, True, False]


def test_nothing_is_kept_where_nothing_is_a_number(tmp_path):
    pareto = ParetoCheckpoint(tmp_path, budget=0.1)
    with pytest.warns(UserWarning, match="such epochs"):
        run(rates((NAN, NAN)), pareto)
    assert pareto.best_model_path == ""
    with pytest.raises(RuntimeError, match="none yet"):
        pareto.best_under(0.1)


def same(folder, other):
    assert on_disk(folder) == on_disk(other)
    assert record(folder)["points"] == record(other)["points"]


@pytest.mark.parametrize("namespace", [pl, lightning.pytorch])
@pytest.mark.parametrize("known", [1, 4])
@pytest.mark.parametrize("seed", [1, 2, 4])
def test_a_resumed_run_equals_a_straight_one(tmp_path, seed, known, namespace):
    """It stops after epoch 4 and goes on with what a checkpoint of epoch ``known`` says."""
    script = rates(*random_pairs(seed))
    straight = ParetoCheckpoint(tmp_path / "straight")
    run(script, straight, namespace=namespace)
    every = namespace.callbacks.ModelCheckpoint(tmp_path / "every", filename="{epoch}", save_top_k=-1)
    run(script, ParetoCheckpoint(tmp_path / "parts"), every, max_epochs=5, namespace=namespace)
    resumed = ParetoCheckpoint(tmp_path / "parts")
    run(script, resumed, ckpt_path=tmp_path / "every" / f"epoch={known}.ckpt", namespace=namespace)
    same(tmp_path / "parts", tmp_path / "straight")
    assert resumed.best_model_path == straight.best_model_path.replace("straight", "parts")


def test_a_pareto_checkpoint_resumes_with_the_next_epoch(tmp_path):
    script = rates((0.4, 0.1), (0.3, 0.1), (0.2, 0.1), (0.1, 0.1))
    run(script, ParetoCheckpoint(tmp_path / "straight"))
    first = ParetoCheckpoint(tmp_path / "parts")
    run(script, first, max_epochs=2)
    saved = torch.load(first.best_model_path, weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 2  # the epoch is over
    run(script, ParetoCheckpoint(tmp_path / "parts"), ckpt_path=first.best_model_path)
    same(tmp_path / "parts", tmp_path / "straight")


def test_resumed_in_another_folder_it_leaves_the_first_alone(tmp_path):
    script = rates((0.4, 0.1), (0.3, 0.2), (0.35, 0.05))
    first = ParetoCheckpoint(tmp_path / "a")
    run(script, first, max_epochs=2)
    assert on_disk(tmp_path / "a") == [0, 1]
    resumed = ParetoCheckpoint(tmp_path / "b")
    run(script, resumed, ckpt_path=first.best_model_path)
    assert on_disk(tmp_path / "a") == [0, 1]
    assert on_disk(tmp_path / "b") == [2]
    assert sorted(point.epoch for point in resumed.frontier) == [1, 2]
    assert resumed.best_model_path == first.best_model_path


def test_a_checkpoint_that_is_gone_leaves_the_frontier(tmp_path):
    script = rates((0.4, 0.1), (0.3, 0.2), (0.35, 0.3))
    last = ModelCheckpoint(tmp_path / "last", save_last=True)
    run(script, ParetoCheckpoint(tmp_path / "a"), last, max_epochs=2)
    next((tmp_path / "a").glob("epoch=1-*")).unlink()
    resumed = ParetoCheckpoint(tmp_path / "a")
    run(script, resumed, ckpt_path=tmp_path / "last" / "last.ckpt")
    assert [point.epoch for point in resumed.frontier] == [0, 2]


def test_no_file_of_another_run_is_overwritten(tmp_path):
    script = rates((0.4, 0.1))
    run(script, ParetoCheckpoint(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt")}
    second = ParetoCheckpoint(tmp_path)
    with pytest.warns(UserWarning, match="frontier of another run"):
        run(script, second)
    assert second.best_model_path.endswith("-v1.ckpt")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_validations_within_an_epoch_are_points_of_their_own(tmp_path):
    script = rates((0.4, 0.3), (0.3, 0.4), (0.2, 0.5), (0.1, 0.6))
    pareto = ParetoCheckpoint(tmp_path)
    run(script, pareto, max_epochs=2, val_check_interval=0.5)
    assert [(point.epoch, point.step) for point in pareto.points] == [(0, 1), (0, 2), (1, 3), (1, 4)]
    assert len(pareto.frontier) == 4


def test_epochs_without_validation_are_no_points(tmp_path):
    pareto = ParetoCheckpoint(tmp_path)
    run(rates((0.4, 0.3), (0.3, 0.4)), pareto, max_epochs=4, check_val_every_n_epoch=2)
    assert [point.epoch for point in pareto.points] == [1, 3]


def test_a_key_that_is_missing_lists_those_that_are_logged(tmp_path):
    with pytest.raises(RuntimeError, match=r"val/error to be logged.* val/error_new, val/nfr\."):
        run(rates((0.4, 0.3)), ParetoCheckpoint(tmp_path, error="val/error"))


@pytest.mark.parametrize("namespace", [pl, lightning.pytorch])
def test_it_saves_last_and_stands_beside_model_checkpoint(tmp_path, namespace):
    """The state of a callback that stands behind it in the list is that after the epoch."""
    pareto, stopping = ParetoCheckpoint(tmp_path / "pareto"), BudgetStopping(nfr=0.2, patience=9)
    other = namespace.callbacks.ModelCheckpoint(tmp_path / "last", save_last=True)
    running = run(rates((0.4, 0.3), (0.3, 0.4)), pareto, stopping, other, namespace=namespace)
    saved = torch.load(pareto.best_model_path, weights_only=True)
    assert saved["callbacks"][stopping.state_key]["above"] == {"val/nfr": 2}
    assert len(saved["callbacks"][pareto.state_key]["points"]) == 2
    assert (tmp_path / "last" / "last.ckpt").exists()
    assert running.checkpoint_callbacks == [pareto, other]


@pytest.mark.parametrize("namespace", [pl, lightning.pytorch])
def test_the_best_one_can_be_tested(tmp_path, namespace):
    script, pareto = rates((0.4, 0.1), (0.1, 0.1), (0.3, 0.3)), ParetoCheckpoint(tmp_path)
    running = run(script, pareto, namespace=namespace)
    for path in ("best", pareto.best_model_path):
        found = running.test(scripted(script, namespace), LOADER, ckpt_path=path, verbose=False)
        assert found == [{"test/trained": 2.0}]


def test_weights_only_leaves_out_the_optimiser(tmp_path):
    pareto = ParetoCheckpoint(tmp_path, save_weights_only=True)
    run(rates((0.4, 0.3)), pareto)
    assert "optimizer_states" not in torch.load(pareto.best_model_path, weights_only=True)


def test_trial_runs_leave_nothing(tmp_path):
    run(rates((0.4, 0.3)), ParetoCheckpoint(tmp_path), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_it_goes_beside_the_run(tmp_path):
    pareto = ParetoCheckpoint()
    logger = pl.loggers.CSVLogger(tmp_path, name="digits", version=3)
    run(rates((0.4, 0.3)), pareto, logger=logger, log_every_n_steps=1)
    assert on_disk(tmp_path / "digits" / "version_3" / "pareto") == [0]


def test_a_record_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch):
    script = rates((0.4, 0.4), (0.3, 0.3), (0.2, 0.2))
    run(script, ParetoCheckpoint(tmp_path / "straight"))
    last = ModelCheckpoint(tmp_path / "last", filename="last", enable_version_counter=False)
    run(script, ParetoCheckpoint(tmp_path / "parts"), last, max_epochs=1)
    replace = os.replace

    def full(source, target):
        if str(target).endswith("frontier.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            run(script, ParetoCheckpoint(tmp_path / "parts"), ckpt_path=tmp_path / "last" / "last.ckpt")
    assert [point["epoch"] for point in record(tmp_path / "parts")["points"]] == [0]
    assert on_disk(tmp_path / "parts") == [0, 1]  # none is deleted before the record says so
    (tmp_path / "parts" / "epoch=1-step=4.ckpt").unlink()
    run(script, ParetoCheckpoint(tmp_path / "parts"), ckpt_path=tmp_path / "last" / "last.ckpt")
    same(tmp_path / "parts", tmp_path / "straight")


class Note(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        pareto = next(one for one in trainer.callbacks if isinstance(one, ParetoCheckpoint))
        torch.save((pareto.best_model_path, pareto.state_dict()), self.folder / f"{trainer.global_rank}")


@pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist", "ignore:Using `DistributedSampler`.*")
def test_ranks_agree_on_what_rank_0_says(tmp_path):
    """Rank 1 logs the reverse, by which it would keep other checkpoints."""
    pairs = [(0.300, 0.1), (0.295, 0.11), (0.2, 0.2), (0.19, 0.1)]
    pareto = ParetoCheckpoint(tmp_path, budget=0.15)
    options = {"devices": 2, "strategy": "ddp_fork", "on_rank_1": lambda value: 1 - value}
    run(rates(*pairs), pareto, Note(tmp_path), **options)
    assert torch.load(tmp_path / "0") == torch.load(tmp_path / "1")
    assert on_disk(tmp_path) == left_over(pairs) == [3]
    assert [point["error"] for point in record(tmp_path)["points"]] == pytest.approx([error for error, _ in pairs])
    assert pareto.best_model_path == str(tmp_path / "epoch=3-step=4.ckpt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": -1}, "at least 0"),
        ({"budget": NAN}, "at least 0"),
        ({"error": "val/nfr"}, "two different keys"),
        ({"dirpath": "s3://bucket/run"}, "folder of this machine"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ParetoCheckpoint(**options)


def test_the_trainer_knows_it_as_a_checkpoint():
    running = trainer(ParetoCheckpoint("unused"), enable_checkpointing=True)
    assert len(running.checkpoint_callbacks) == 1

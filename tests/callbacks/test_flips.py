import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, Subset

from lightning_graceful import (
    Batch,
    FlipMonitor,
    FocalDistillationLoss,
    OldModel,
    OldOutputCache,
    Outputs,
    make_graceful,
)
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP
from tests.callbacks.test_old_outputs import images, new_module, old_model, pytestmark, trainer

assert pytestmark


def logged(module, monitor, loaders, *callbacks):
    running = trainer(monitor, *callbacks)
    running.validate(module, loaders, verbose=False)
    return {name: float(value) for name, value in running.callback_metrics.items()}


def labels(model, data):
    model = model if isinstance(model, OldModel) else OldModel(model)
    return model.outputs(next(iter(DataLoader(data, len(data))))).logits.argmax(-1).numpy()


def by_hand(old, new, data, rows=None):
    rows = np.arange(len(data)) if rows is None else np.asarray(rows)
    o, n = labels(old, data)[rows], labels(new, data)[rows]
    t = np.array([int(data[int(i)][1]) for i in rows])
    broke, fixed = ((o == t) & (n != t)).sum(), ((o != t) & (n == t)).sum()
    size = len(rows)
    return {
        "nfr": broke / size,
        "pfr": fixed / size,
        "relative_nfr": broke / size / ((o == t).mean() * (n != t).mean()),
        "nfi": broke / (n != t).sum(),
        "pfi": fixed / (n == t).sum(),
        "btc": ((o == t) & (n == t)).sum() / (o == t).sum(),
        "bec": ((o != t) & (n != t)).sum() / (o != t).sum(),
        "churn": (o != n).mean(),
        "error_old": (o != t).mean(),
        "error_new": (n != t).mean(),
        "old_correct": (o == t).mean(),
    }


@pytest.mark.parametrize("cached", [False, True])
def test_rates_equal_those_by_hand(tmp_path, cached):
    data, old, new = images(), old_model(), new_module(graceful=False)
    caches = [OldOutputCache(old, tmp_path)] if cached else []
    found = logged(new, FlipMonitor(old), DataLoader(data, 8), *caches)
    expected = by_hand(old, new, data)
    assert {name: found[f"val/{name}"] for name in expected} == pytest.approx(expected)


def test_old_model_need_not_be_given_beside_a_cache(tmp_path):
    data, old, new = images(), old_model(), new_module(graceful=False)
    found = logged(new, FlipMonitor(), DataLoader(data, 8), OldOutputCache(old, tmp_path))
    assert found["val/nfr"] == pytest.approx(by_hand(old, new, data)["nfr"])


def test_neither_old_model_nor_cache_is_an_error():
    with pytest.raises(RuntimeError, match=r"FlipMonitor\(old\)"):
        logged(new_module(graceful=False), FlipMonitor(), DataLoader(images(), 8))


def test_cache_of_another_old_model_is_not_taken(tmp_path):
    data, old, new = images(), old_model(1), new_module(graceful=False)
    found = logged(new, FlipMonitor(old), DataLoader(data, 8), OldOutputCache(old_model(5), tmp_path))
    assert found["val/nfr"] == pytest.approx(by_hand(old, new, data)["nfr"])


def test_loaders_and_olds_have_their_own_counts():
    data, new = images(), new_module(graceful=False)
    olds = {"v1": old_model(1), "v2": old_model(5)}
    loaders = [DataLoader(data, 8), DataLoader(Subset(data, range(20)), 8)]
    found = logged(new, FlipMonitor(olds), loaders)
    for name, old in olds.items():
        for number, rows in enumerate([range(50), range(20)]):
            expected = by_hand(old, new, data, rows)["nfr"]
            assert found[f"val/nfr/{name}/dataloader_idx_{number}"] == pytest.approx(expected)


def test_checkpoint_can_follow_the_rate(tmp_path):
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/nfr")
    running = trainer(FlipMonitor(old_model()), checkpoint, enable_checkpointing=True)
    running.fit(new_module(graceful=False), DataLoader(images(), 8), DataLoader(images(), 8))
    assert float(checkpoint.best_model_score) <= float(running.callback_metrics["val/nfr"])


def test_sanity_check_is_not_counted():
    running = trainer(FlipMonitor(old_model()), num_sanity_val_steps=2, max_epochs=1)
    module, data = new_module(graceful=False), images()
    running.fit(module, DataLoader(data, 8), DataLoader(data, 8))
    assert float(running.callback_metrics["val/nfr"]) == pytest.approx(by_hand(old_model(), module, data)["nfr"])


def test_test_stage_is_logged():
    data, old, new = images(), old_model(), new_module(graceful=False)
    running = trainer(FlipMonitor(old))
    running.test(new, DataLoader(data, 8), verbose=False)
    assert float(running.callback_metrics["test/nfr"]) == pytest.approx(by_hand(old, new, data)["nfr"])


def test_logits_can_be_named():
    data, old, new = images(), old_model(), new_module(graceful=False)
    assert logged(new, FlipMonitor(old, logits="net.fc"), DataLoader(data, 8))["val/nfr"] == pytest.approx(
        by_hand(old, new, data)["nfr"]
    )
    with pytest.raises(ValueError, match=r"no 'head'"):
        logged(new, FlipMonitor(old, logits="net.head"), DataLoader(data, 8))


def test_memorised_training_data_are_warned_about(tmp_path):
    """An old model that is right on all of the training samples and on hardly any of the others."""
    train, val = images(seed=1), images(seed=2)
    old = old_model()
    train.target = torch.from_numpy(labels(old, train))
    val.target = torch.from_numpy((labels(old, val) + 1) % 3)
    running = trainer(OldOutputCache(old, tmp_path), FlipMonitor(old))
    with pytest.warns(UserWarning, match="memorised"):
        running.fit(new_module(graceful=False), DataLoader(train, 8), DataLoader(val, 8))
    assert float(running.callback_metrics["train/old_correct"]) == 1
    assert float(running.callback_metrics["val/old_correct"]) == 0


def test_summary_is_printed_after_fit(capsys):
    running = trainer(FlipMonitor(old_model()), enable_progress_bar=True, max_epochs=1)
    running.fit(new_module(graceful=False), DataLoader(images(), 8), DataLoader(images(), 8))
    assert "val/nfr" in capsys.readouterr().out


def test_watch_is_taken_off():
    module = new_module(graceful=False)
    logged(module, FlipMonitor(old_model()), DataLoader(images(), 8))
    assert not any(child._forward_hooks for child in module.modules())


@pytest.mark.parametrize("old", ["old.ckpt", {}, {"v1": 3}])
def test_bad_old_models_are_refused(old):
    with pytest.raises(ValueError, match="Expected an OldModel"):
        FlipMonitor(old)


# -- which cache serves which old model --------------------------------------------------------------------------------


class CacheStub(pl.Callback):
    """Serves old outputs as an OldOutputCache of several old models does, but turned: each class for the next."""

    provides_old_outputs = True

    def __init__(self, olds, named=True):
        self.olds, self.named = olds, named
        self.old = next(iter(olds.values()))
        if not named:
            del self.olds

    def serve(self, pl_module, batch):
        served = {name: turned(old, batch) for name, old in getattr(self, "olds", {"": self.old}).items()}
        pl_module.__dict__["old_outputs"] = next(iter(served.values()))
        if self.named:
            pl_module.__dict__["all_old_outputs"] = served

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.serve(pl_module, batch)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.serve(pl_module, batch)

    def teardown(self, trainer, pl_module, stage):
        for name in ("old_outputs", "all_old_outputs"):
            pl_module.__dict__.pop(name, None)


def turned(old, batch):
    """Map a batch, or each leg of one."""
    if isinstance(batch, dict) and "labeled" in batch:
        return {key: turned(old, leg) for key, leg in batch.items()}
    return None if batch is None else Outputs(old.outputs(batch).logits.roll(1, dims=1))


def turned_model(old):
    return OldModel(nn.Sequential(copy.deepcopy(old._module), Turn()))


class Turn(nn.Module):
    def forward(self, logits):
        return logits.roll(1, dims=1)


def copy_of(old):
    return pickle.loads(pickle.dumps(old))


def test_each_old_model_is_taken_from_the_cache_by_what_it_is_whatever_its_name(monkeypatch):
    a, b, c = old_model(1), old_model(7), old_model(6)
    data, new = images(), new_module(graceful=False)
    cache = CacheStub({"first": b, "second": a})
    ran = []
    monkeypatch.setattr(c, "outputs", lambda batch: (ran.append(1), OldModel.outputs(c, batch))[1])
    found = logged(new, FlipMonitor({"v1": copy_of(a), "v2": b, "live": c}), DataLoader(data, 8), cache)
    assert len(ran) == 7
    for name, truth in {"v1": turned_model(a), "v2": turned_model(b), "live": c}.items():
        expected = by_hand(truth, new, data)
        assert found[f"val/nfr/{name}"] == pytest.approx(expected["nfr"])
        assert found[f"val/error_old/{name}"] == pytest.approx(expected["error_old"])


@pytest.mark.parametrize("named", [True, False])
def test_a_cache_of_one_old_model_may_have_no_names(named):
    data, new, old = images(), new_module(graceful=False), old_model()
    for monitor in (FlipMonitor(old), FlipMonitor()):
        found = logged(new, monitor, DataLoader(data, 8), CacheStub({"": old}, named=named))
        assert found["val/nfr"] == pytest.approx(by_hand(turned_model(old), new, data)["nfr"])


def test_of_several_caches_the_last_one_counts():
    data, new, old = images(), new_module(graceful=False), old_model(1)
    caches = [CacheStub({"": old}), CacheStub({"": old_model(7)})]
    found = logged(new, FlipMonitor(old), DataLoader(data, 8), *caches)
    assert found["val/nfr"] == pytest.approx(by_hand(old, new, data)["nfr"])  # live: the last serves another model


def test_fingerprints_are_computed_once_a_stage(monkeypatch):
    counts = []
    own = OldModel.fingerprint.fget
    monkeypatch.setattr(OldModel, "fingerprint", property(lambda old: (counts.append(old), own(old))[1]))
    old, same = old_model(), old_model()
    running = trainer(CacheStub({"": same}), FlipMonitor(old), max_epochs=3)
    running.fit(new_module(graceful=False), DataLoader(images(), 8), DataLoader(images(), 8))
    assert len(counts) == 2  # of each once, over three validations of seven batches
    counts.clear()
    running = trainer(CacheStub({"": old}), FlipMonitor(old))
    running.validate(new_module(graceful=False), DataLoader(images(), 8), verbose=False)
    assert counts == []  # the very same needs none


def test_batches_are_read_as_the_cached_old_model_does():
    data, new = images(), new_module(graceful=False)
    plain = old_model()
    old = OldModel(plain._module, batch=lambda batch: Batch(batch[0], batch[1] * 0))
    found = logged(new, FlipMonitor(), DataLoader(data, 8), CacheStub({"": old}))
    truth = labels(turned_model(plain), data)
    assert found["val/error_old"] == pytest.approx((truth != 0).mean())


def test_right_answers_on_training_data_are_logged_by_name():
    data, olds = images(), {"v1": old_model(1), "v2": old_model(7)}
    running = trainer(CacheStub(olds), FlipMonitor({**olds, "live": old_model(6)}))
    running.fit(new_module(graceful=False), DataLoader(data, 8), DataLoader(data, 8))
    for name, old in olds.items():
        right = by_hand(turned_model(old), old, data)["old_correct"]
        assert float(running.callback_metrics[f"train/old_correct/{name}"]) == pytest.approx(right)
    assert "train/old_correct/live" not in running.callback_metrics


def test_unlabelled_training_samples_are_nobodys_errors(tmp_path):
    """A batch may hold a few, or nothing else; samples count alike, however many of their batch have a label."""
    train, old = images(), old_model()
    train.target[:8] = -100
    train.target[10:35:2] = -100
    rows = [i for i in range(50) if train.target[i] >= 0]
    running = trainer(OldOutputCache(old, tmp_path), FlipMonitor(old), max_epochs=1)
    running.fit(new_module(graceful=False), DataLoader(train, 8), DataLoader(images(), 8))
    right = by_hand(old, old, train, rows)["old_correct"]
    assert float(running.callback_metrics["train/old_correct"]) == pytest.approx(right)


# -- batches of a CombinedLoader ---------------------------------------------------------------------------------------


class Semi(LitClassifier):
    """Trains and validates on the labelled leg of a combined batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["labeled"] if isinstance(batch, dict) else batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch["labeled"] if isinstance(batch, dict) else batch, batch_idx)


def semi():
    torch.manual_seed(2)
    return Semi(MLP(16, 3, hidden=(8,)))


def choose(batch):
    return Batch(*batch["labeled"])


def combined(data, mode="max_size"):
    legs = {"unlabeled": DataLoader(images(30, seed=4), 4), "labeled": DataLoader(data, 8)}
    return CombinedLoader(legs, mode)


def test_the_chosen_leg_is_counted():
    data, old, new = images(), old_model(), semi()
    expected = by_hand(old, new, data)
    caches = [[], [CacheStub({"": old})]]
    truths = [expected, by_hand(turned_model(old), new, data)]
    for cache, truth in zip(caches, truths, strict=True):
        found = logged(new, FlipMonitor(old, batch=choose), combined(data, "min_size"), *cache)
        assert found["val/nfr"] == pytest.approx(truth["nfr"])
        assert "val/nfr/dataloader_idx_1" not in found


def test_an_old_model_that_chooses_the_leg_itself_is_given_the_whole_batch():
    data, new, plain = images(), semi(), old_model()
    old = OldModel(plain._module, batch=choose)
    found = logged(new, FlipMonitor(old), combined(data, "min_size"))
    assert found["val/nfr"] == pytest.approx(by_hand(plain, new, data)["nfr"])


def test_no_choice_of_a_leg_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r'CombinedLoader.*batch=lambda b: Batch\(\*b\["labeled"\]\)'):
        logged(semi(), FlipMonitor(old_model()), combined(images(), "min_size"))


@pytest.mark.parametrize("graceful", [True, False])
def test_training_on_legs_beside_a_usual_validation(graceful):
    """The monitor reads validation batches; which leg is trained on, a graceful module knows."""
    data, old, new = images(), old_model(), semi()
    if graceful:
        new = make_graceful(new, {"pct": FocalDistillationLoss(temperature=2.0)}, batch=choose)
    running = trainer(CacheStub({"": old}), FlipMonitor(old), max_epochs=1)
    running.fit(new, combined(data, "min_size"), DataLoader(data, 8))
    truth = by_hand(turned_model(old), new, data)
    assert float(running.callback_metrics["val/nfr"]) == pytest.approx(truth["nfr"])
    if graceful:
        assert float(running.callback_metrics["train/old_correct"]) == pytest.approx(truth["old_correct"])
    else:
        assert "train/old_correct" not in running.callback_metrics


def test_training_batches_of_any_kind_are_none_of_its_business():
    class Odd(Semi):
        def training_step(self, batch, batch_idx):
            return self.net(batch.rows).sum()

    def collate(samples):
        return SimpleNamespace(rows=torch.stack([x for x, _ in samples]))

    running = trainer(FlipMonitor(old_model()), max_epochs=1)
    torch.manual_seed(2)
    train = DataLoader(images(), 8, collate_fn=collate)
    running.fit(Odd(MLP(16, 3, hidden=(8,))), train, DataLoader(images(), 8))
    assert "val/nfr" in running.callback_metrics


@pytest.mark.filterwarnings("ignore")  # of Dynamo's own
def test_compiled_modules_are_watched():
    torch._dynamo.reset()
    data, old = images(), old_model()

    class Quiet(Semi):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    torch.manual_seed(2)
    new = Quiet(MLP(16, 3, hidden=(8,)))
    found = logged(torch.compile(new, backend="eager"), FlipMonitor(old), DataLoader(data, 8))
    assert found["val/nfr"] == pytest.approx(by_hand(old, new_module(graceful=False), data)["nfr"])


class Report(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_validation_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, self.path)


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler`.*")
@pytest.mark.parametrize("is_combined", [False, True])
def test_under_ddp_each_sample_of_the_leg_counts_once(tmp_path, is_combined):
    data, old, new = images(49), old_model(), semi()
    loaders = combined(data, "max_size") if is_combined else DataLoader(data, 8)
    running = trainer(FlipMonitor(old, batch=choose_if_any), Report(tmp_path / "found"), devices=2, strategy="ddp_fork")
    running.validate(new, loaders, verbose=False)
    expected, found = by_hand(old, new, data), torch.load(tmp_path / "found")
    assert {name: found[f"val/{name}"] for name in expected} == pytest.approx(expected)


def choose_if_any(batch):
    return choose(batch) if isinstance(batch, dict) else Batch(*batch)

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset

from lightning_graceful import FlipMonitor, OldModel, OldOutputCache
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

"""Verification, several old models, top-k, views, quota and named keys of OldOutputCache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from lightning_graceful import FlipMonitor, FocalDistillationLoss, OldModel, OldOutputCache, make_graceful
from lightning_graceful.data.datasets import ImageArrays
from lightning_graceful.data.rows import CacheError
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP
from tests.callbacks.test_old_outputs import Compare, counting, fit, images, new_module, old_model, pytestmark, trainer

assert pytestmark


# -- verify ----------------------------------------------------------------------------------------------------------


def filled(tmp_path, data=None, **options):
    fit(new_module(), OldOutputCache(old_model(), tmp_path, **options), DataLoader(data or images(), 8))


def test_second_run_asks_about_a_share_again(tmp_path):
    filled(tmp_path)
    old = counting()
    fit(new_module(), OldOutputCache(old, tmp_path, verify=0.2), DataLoader(images(), 8), DataLoader(images(), 8))
    assert 1 <= old.asked <= 10


def changed(data, place):
    """One image of the data is another one; the probe of 64 samples looks elsewhere."""
    data.images[place] = 255 - data.images[place]
    return data


def test_changed_sample_that_the_probe_did_not_see_is_noticed(tmp_path):
    from lightning_graceful.data.probe import probe_positions

    length = 400
    place = next(i for i in range(length) if i not in probe_positions(length))
    filled(tmp_path, images(length))
    with pytest.raises(CacheError, match=r"inputs"):
        filled(tmp_path, changed(images(length), place), verify=1)
    with pytest.raises(CacheError, match=r"inputs"):  # in the step that meets it, too
        filled(tmp_path, changed(images(length), place), verify=0)


class Wrong(OldModel):
    """Says of one sample something else than its weights say."""

    def outputs(self, batch):
        said = super().outputs(batch)
        return said._replace(logits=said.logits + 3.0 * (batch[0].flatten(1)[:, :1] > 0.5))


def test_old_model_that_says_something_else_is_noticed(tmp_path):
    filled(tmp_path)
    torch.manual_seed(1)
    wrong = Wrong(MLP(16, 3, hidden=(8,)))
    with pytest.raises(CacheError, match=r"other logits.*same inputs.*delete"):
        fit(new_module(), OldOutputCache(wrong, tmp_path, verify=1), DataLoader(images(), 8))


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"dtype": "float32"}, {"top_k": 2}])
def test_what_is_right_is_verified(tmp_path, options):
    filled(tmp_path, **options)
    filled(tmp_path, verify=1, **options)


@pytest.mark.parametrize("top_k", [None, 1])
def test_label_map_with_unknown_classes(tmp_path, top_k):
    """With k = 1 the class that the old model never knew is one of those that are not kept."""
    torch.manual_seed(1)
    net = MLP(16, 2, hidden=(8,))
    old = OldModel(net, label_map=[1, 0, -1])

    class Check(Compare):
        def check(self, module, batch):
            stored = module.old_outputs.logits.softmax(1)
            torch.testing.assert_close(stored, old.outputs(batch).logits.softmax(1), atol=1e-3, rtol=1e-3)
            assert torch.isneginf(module.old_outputs.logits[:, 2]).all()
            self.compared += 1

    for verify in (0, 1):
        check, cache = Check(old), OldOutputCache(old, tmp_path, verify=verify, top_k=top_k)
        fit(new_module(), cache, DataLoader(images(), 8), None, check)
        assert check.compared == 14
    reading = Check(old)
    fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(images(), 8), None, reading)
    assert reading.compared == 14


# -- several old models ----------------------------------------------------------------------------------------------


def test_several_old_models(tmp_path):
    olds = {"v1": old_model(1), "v2": old_model(2)}
    seen = []

    class Look(Compare):
        def check(self, module, batch):
            super().check(module, batch)
            for name, old in olds.items():
                torch.testing.assert_close(module.all_old_outputs[name].logits, old.outputs(batch).logits)
            seen.append(1)

    cache = OldOutputCache(olds, tmp_path, dtype="float32")
    running = fit(
        new_module(), cache, DataLoader(images(), 8), DataLoader(images(30), 8), Look(olds["v1"]), FlipMonitor(olds)
    )
    assert len(seen) == 2 * (7 + 4) + 2
    assert {"val/nfr/v1", "val/nfr/v2"} <= set(running.callback_metrics)
    assert len(list(tmp_path.iterdir())) == 2 * 2


# -- top-k -----------------------------------------------------------------------------------------------------------


def test_top_k_keeps_the_largest_classes_and_the_tail(tmp_path):
    old = old_model()

    class Check(Compare):
        def check(self, module, batch):
            stored, live = module.old_outputs.logits, old.outputs(batch).logits.log_softmax(1)
            assert torch.equal(stored.argmax(1), live.argmax(1))
            torch.testing.assert_close(stored.max(1).values, live.max(1).values, atol=2e-3, rtol=1e-3)
            torch.testing.assert_close(stored.logsumexp(1), torch.zeros(len(stored)), atol=2e-3, rtol=0)
            self.compared += 1

    check = Check(old)
    fit(new_module(), OldOutputCache(old, tmp_path, top_k=1), DataLoader(images(), 8), None, check)
    assert check.compared == 14


# -- quota -----------------------------------------------------------------------------------------------------------


def test_quota_is_kept_and_said_before_anything_is_computed(tmp_path):
    old = counting()
    with pytest.raises(CacheError, match=r"room for 1.2 kB.*500 bytes"):
        fit(new_module(), OldOutputCache(old, tmp_path, quota=500), DataLoader(images(), 8))
    assert old.asked == 50  # the probe, which tells the size of a row
    fit(new_module(), OldOutputCache(old, tmp_path, quota="1GB"), DataLoader(images(), 8))


# -- named keys ------------------------------------------------------------------------------------------------------


class WithKey(Subset):
    """Each sample carries its own key."""

    def __getitem__(self, index):
        return (*super().__getitem__(index), self.indices[index])

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class KeyedLit(LitClassifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)


def keyed_module():
    return make_graceful(KeyedLit(MLP(16, 3, hidden=(8,))), {"pct": FocalDistillationLoss()})


def keyed(collate=None):
    return DataLoader(WithKey(images(), range(5, 45)), 8, shuffle=True, collate_fn=collate)


def test_named_key_serves_samples_in_any_order(tmp_path):
    old = counting()
    compare = Compare(old_model())
    cache = OldOutputCache(old, tmp_path, dtype="float32", index=lambda batch: batch[2], num_samples=50)
    fit(keyed_module(), cache, keyed(lambda samples: default_collate(samples[:0:-1])), None, compare, max_epochs=6)
    assert compare.compared == 30
    assert old.asked <= 8 + 5 * 7 * 6  # less and less: what is stored is not asked again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "key"}, "keys at index='key'"),
        ({"index": 0}, "an integer key for each sample"),
        ({"index": 2, "num_samples": 10}, r"\[0, 10\)"),
    ],
)
def test_wrong_key_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit(keyed_module(), OldOutputCache(old_model(), tmp_path, **options), keyed())


# -- memory ----------------------------------------------------------------------------------------------------------

FREED = """
import json, sys, torch, pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lightning_graceful import OldModel, OldOutputCache

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 3)
    def training_step(self, batch, batch_idx):
        seen.append(anonymous())
        return self.net(batch[0]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

seen = []
old = OldModel(nn.Sequential(nn.Linear(8, 8000), nn.Linear(8000, 8000, bias=False), nn.Linear(8000, 3)))
before = anonymous()
cache = OldOutputCache(old, sys.argv[1])
trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False, callbacks=[cache])
trainer.fit(Lit(), DataLoader(TensorDataset(torch.randn(32, 8), torch.zeros(32, dtype=torch.int64)), 8))
print(json.dumps([before, seen]))
"""


def test_old_model_leaves_memory_once_nothing_needs_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FREED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    before, seen = json.loads(done.stdout.splitlines()[-1])
    assert min(seen) < before - 180  # 256 MB of weights


def test_old_model_comes_back_when_it_is_needed(tmp_path):
    """A stage whose data were not seen yet, after the weights were parked."""
    old = counting()
    running = trainer(OldOutputCache(old, tmp_path, dtype="float32"), Compare(old_model()))
    module = new_module()
    running.fit(module, DataLoader(images(), 8))
    running.test(module, DataLoader(images(seed=9), 8), verbose=False)
    assert old.asked == 2 * (50 + 50)


# -- where samples are fetched ---------------------------------------------------------------------------------------


class Opening(ImageArrays):
    """Opens its file at the first fetch, which must not happen in the process that forks workers."""

    main = os.getpid()

    def __getitems__(self, indices):
        assert os.getpid() != self.main
        return super().__getitems__(indices)


@pytest.mark.parametrize("options", [{"verify": 1}, {"fill": "lazy"}, {"views": 2}])
def test_with_workers_nothing_is_fetched_in_the_training_process(tmp_path, options):
    plain = images()
    data = Opening(plain.images, plain.target, plain.classes)
    for _ in range(2):
        loader = DataLoader(data, 8, shuffle=True, num_workers=1)
        fit(new_module(), OldOutputCache(old_model(), tmp_path, **options), loader)

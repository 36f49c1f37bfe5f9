"""Hooks on the way of a batch to the device: what the old model is asked about is what they made of it."""

import random

import pytest
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lightning_graceful import FocalDistillationLoss, OldOutputCache, make_graceful
from lightning_graceful.data.batch import Batch
from lightning_graceful.data.rows import CacheError
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP
from tests.callbacks.test_old_outputs import Compare, counting, fit, images, old_model, pytestmark

assert pytestmark


def module_with(hook, **options):
    class Hooked(LitClassifier):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return hook(self, batch)

        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"] if isinstance(batch, dict) else batch, batch_idx)

    torch.manual_seed(2)
    module = Hooked(MLP(16, 3, hidden=(8,)))
    return make_graceful(module, {"pct": FocalDistillationLoss(temperature=2.0)}, **options)


def scaled(by):
    return lambda module, batch: (batch[0] * by, batch[1])


def in_place(module, batch):
    batch[0].mul_(1.5)
    return batch


@pytest.mark.parametrize("hook", [scaled(1.5), in_place])
@pytest.mark.parametrize("fill", ["ahead", "lazy"])
def test_a_hook_that_is_always_the_same_is_part_of_what_is_stored(tmp_path, hook, fill):
    for _ in range(2):
        compare = Compare(old_model())
        cache = OldOutputCache(old_model(), tmp_path, fill=fill, dtype="float32", verify=1)
        loader = DataLoader(images(), 8, shuffle=True)
        fit(module_with(hook), cache, loader, DataLoader(images(), 16), compare)
        assert compare.compared == 14 + 2 * 4 + 2
    assert len(list(tmp_path.iterdir())) == 1


def test_another_hook_begins_another_store(tmp_path, capsys):
    for by in (1.0, 1.5, 2.0):
        compare = Compare(old_model())
        cache = OldOutputCache(old_model(), tmp_path, dtype="float32", verify=0)
        loader = DataLoader(images(), 8, shuffle=True)
        fit(module_with(scaled(by)), cache, loader, None, compare, enable_progress_bar=True)
        assert compare.compared == 14
    assert len(list(tmp_path.iterdir())) == 3
    assert "differs in probe_on_device" in " ".join(capsys.readouterr().out.split())


def always(module, batch):
    return batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]


def now_and_then(module, batch):
    return always(module, batch) if random.random() < 0.02 else batch


def later(module, batch):
    return always(module, batch) if module.trainer.training and module.trainer.current_epoch == 1 else batch


def mixing_the_batch(module, batch):
    return batch[0] - batch[0].mean(), batch[1]


@pytest.mark.parametrize(
    ("hook", "message"),
    [(always, "transfer hook"), (now_and_then, "inputs"), (later, "inputs"), (mixing_the_batch, "inputs")],
)
def test_a_hook_that_is_not_always_the_same_is_noticed(tmp_path, hook, message):
    random.seed(0)
    with pytest.raises(CacheError, match=message):
        fit(
            module_with(hook),
            OldOutputCache(old_model(), tmp_path),
            DataLoader(images(), 8, shuffle=True),
            max_epochs=30,
        )


@pytest.mark.filterwarnings("ignore:The old model runs live")
def test_a_hook_that_sees_a_combined_batch_means_live(tmp_path):
    def hook(module, batch):
        return {name: scaled(1.5)(module, leg) for name, leg in batch.items()} if isinstance(batch, dict) else batch

    old, seen = counting(), []

    class Check(Compare):
        def check(self, module, batch):
            for name in ("a", "b"):
                torch.testing.assert_close(module.old_outputs[name].logits, self.old.outputs(batch[name]).logits)
            seen.append(1)

    module = module_with(hook, batch=lambda batch: Batch(*batch["a"]))
    legs = CombinedLoader({"a": DataLoader(images(), 8), "b": DataLoader(images(20), 4)}, "min_size")
    fit(module, OldOutputCache(old, tmp_path), legs, None, Check(old_model()))
    assert len(seen) == 10
    assert old.asked > 0

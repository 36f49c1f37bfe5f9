"""Batches of a CombinedLoader: the terms look at the leg that ``batch=`` chooses."""

from collections import namedtuple

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lightning_graceful import Batch, GracefulMixin, Outputs, make_graceful
from tests.litmodels import Lit, dataset, loader, old_logits, seeded, trainer
from tests.mixin.oracle import assert_trained_like, by_hand, distil

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")
Legs = namedtuple("Legs", ["labeled", "unlabeled"])


class Mirroring(pl.Callback):
    """Serves what an OldOutputCache does: a collection in the structure of the batch."""

    provides_old_outputs = True

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        loaders = trainer.train_dataloader
        pl_module.old_outputs = mirrored(loaders, batch, lambda x: Outputs(old_logits(x)))
        pl_module.sample_index = mirrored(loaders, batch, lambda x: torch.arange(len(x)))


def mirrored(loaders, batch, of_leg):
    if isinstance(loaders, DataLoader):
        x = batch[0] if isinstance(batch, list) else batch
        return None if x is None else of_leg(x)
    if isinstance(loaders, dict):
        return {key: mirrored(loaders[key], batch[key], of_leg) for key in loaders}
    legs = [mirrored(*pair, of_leg) for pair in zip(loaders, batch, strict=True)]
    return type(loaders)(*legs) if hasattr(loaders, "_fields") else type(loaders)(legs)


class Semi(Lit):
    """Trains on the labelled leg, which ``choose`` takes from a batch."""

    choose = staticmethod(lambda batch: batch["labeled"])

    def training_step(self, batch, batch_idx):
        x, y = self.choose(batch)
        return F.cross_entropy(self(x), y)


def rows(length=32):
    return DataLoader(torch.zeros(length, 4, dtype=torch.float64), 4)


LAYOUTS = {
    "dict": ({"labeled": loader(), "unlabeled": rows()}, lambda b: b["labeled"]),
    "dict, the other first": ({"unlabeled": rows(), "labeled": loader()}, lambda b: b["labeled"]),
    "list": ([rows(), loader()], lambda b: b[1]),
    "tuple": ((loader(), rows()), lambda b: b[0]),
    "named tuple": (Legs(loader(), rows()), lambda b: b.labeled),
    "nested": ({"train": [rows(), {"labeled": loader()}], "more": rows()}, lambda b: b["train"][1]["labeled"]),
    "two of a kind": ([loader(), DataLoader(dataset(), 4, shuffle=True)], lambda b: b[0]),
}


@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_on_a_leg_equals_a_loop_by_hand(layout, mode):
    loaders, choose = LAYOUTS[layout]
    seen = []

    def term(new_logits, old_logits, target, index):
        seen.append(index)
        return distil(new_logits, old_logits) + 0 * F.cross_entropy(new_logits, target)

    module = seeded(Semi)
    module.choose = choose
    module = make_graceful(module, {"distil": term}, batch=lambda batch: Batch(*choose(batch)))
    trainer(Mirroring(), limit_train_batches=4).fit(module, CombinedLoader(loaders, mode))
    assert_trained_like(module, by_hand({"distil": distil}))
    assert seen[-1].tolist() == [0, 1, 2, 3]


def test_legs_that_are_exhausted_are_none():
    longer = CombinedLoader({"labeled": loader(), "unlabeled": rows(8)}, "max_size")
    module = make_graceful(seeded(Semi), {"distil": distil}, batch=lambda batch: Batch(*batch["labeled"]))
    trainer(Mirroring()).fit(module, longer)
    assert_trained_like(module, by_hand({"distil": distil}))


def test_a_method_may_choose_the_leg_and_terms_be_added_by_hand():
    class ByHand(GracefulMixin, Lit):
        def configure_terms(self):
            return {"distil": distil}

        def graceful_batch(self, batch):
            return Batch(*batch["labeled"])

        def training_step(self, batch, batch_idx):
            x, y = batch["labeled"]
            logits = self.net.forward(x)
            return self.graceful_loss(F.cross_entropy(logits, y), new_logits=logits)[0]

    module = seeded(ByHand)
    trainer(Mirroring()).fit(module, CombinedLoader({"labeled": loader(), "unlabeled": rows()}, "min_size"))
    assert_trained_like(module, by_hand({"distil": distil}))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_default_adapter_says_to_choose_a_leg(layout):
    loaders, choose = LAYOUTS[layout]
    module = seeded(Semi)
    module.choose = choose
    with pytest.raises(ValueError, match=r'CombinedLoader.*batch=lambda b: Batch\(\*b\["labeled"\]\)'):
        trainer(Mirroring()).fit(make_graceful(module, {"distil": distil}), CombinedLoader(loaders, "min_size"))


@pytest.mark.parametrize(
    ("adapter", "got"),
    [
        (lambda b: Batch(b["labeled"][0] + 0, b["labeled"][1] + 0), "tensors that are in none"),
        (
            lambda b: Batch(b["unlabeled"], b["labeled"][1]),
            r"parts of \[\"batch\['labeled'\]\", \"batch\['unlabeled'\]\"\]",
        ),
    ],
)
def test_an_adapter_that_chooses_no_one_leg_is_an_error_that_names_them(adapter, got):
    module = make_graceful(seeded(Semi), {"distil": distil}, batch=adapter)
    loaders = CombinedLoader({"labeled": loader(), "unlabeled": rows()}, "min_size")
    with pytest.raises(ValueError, match=rf"one leg of the combined batch, got {got}.*legs are .*unlabeled"):
        trainer(Mirroring()).fit(module, loaders)

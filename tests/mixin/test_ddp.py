"""Two ranks: the weights after graceful training equal those with the term inside, trained by the same strategy."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from lightning_graceful import make_graceful
from tests.litmodels import CLASSES, HIDDEN, LR, OldStub, loader, seeded, trainer
from tests.mixin.oracle import distil
from tests.mixin.test_matrix import Base, Manual

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec.*:FutureWarning",
    "ignore:.*find_unused_parameters=True was specified.*",
)


class Unused(Base):
    """A layer gets no gradient: plain DDP needs ``find_unused_parameters``."""

    def __init__(self, lr=LR):
        super().__init__(lr)
        self.unused = nn.Linear(2, 2)


class OnlyTheTask(Base):
    """A second head feeds the task's loss alone: at weight 0 DDP still waits for its gradient."""

    def __init__(self, lr=LR):
        super().__init__(lr)
        self.aside = nn.Linear(HIDDEN, CLASSES)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        aside = F.cross_entropy(self.aside(self.net.body(batch[0])), batch[1])
        return self.total(F.cross_entropy(logits, batch[1]) + aside, logits, batch)


class Saver(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save(pl_module.state_dict(), self.path)


def trained(base, path, *, inside, weights, make=None, **options):
    module = seeded(base)
    if inside:
        module.inside, module.weights = True, weights
    else:
        module = make_graceful(module, {"distil": distil}, weights, **(make or {}))
    trainer(OldStub(), Saver(path), devices=2, **options).fit(module, loader(batch_size=2))
    return torch.load(path)


@pytest.mark.parametrize(
    ("base", "strategy", "options"),
    [
        (Base, "ddp_fork", {}),
        (Base, "ddp_fork", {"accumulate_grad_batches": 2}),
        (Manual, "ddp_fork", {}),
        (Unused, "ddp_fork_find_unused_parameters_true", {}),
        (OnlyTheTask, "ddp_fork", {"weights": {"distil": 0.7, "task": 0.0}}),
        (OnlyTheTask, "ddp_fork_find_unused_parameters_true", {"make": {"logits": "net"}}),
    ],
)
def test_two_ranks(tmp_path, base, strategy, options):
    options = {"strategy": strategy, "weights": {"distil": 0.7}, **options}
    found = trained(base, tmp_path / "found", inside=False, **options)
    expected = trained(base, tmp_path / "expected", inside=True, **{**options, "make": None})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not torch.equal(found["net.fc.bias"], seeded(base).net.fc.bias.double())

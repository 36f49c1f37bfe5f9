"""Small LightningModules, data and a trainer, shared by tests.

The data are a fixed set of float64 rows, never shuffled: a hand-written loop sees the same batches. ``OldStub`` serves
old outputs from a fixed linear map, so that tests of the mixin need no cache.
"""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_graceful.data.batch import Outputs

FEATURES, HIDDEN, CLASSES, ROWS, BATCH = 4, 6, 3, 16, 4
LR = 0.1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh())
        self.fc = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


class Lit(pl.LightningModule):
    """Calls ``self(x)`` and returns a tensor."""

    def __init__(self, lr: float = LR) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.5)


class ValidatingLit(Lit):
    """Has a validation as well."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))


class DictLit(Lit):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits.detach()}


class ForwardLit(Lit):
    """Calls ``self.forward(x)``, past the hooks of ``self``; has no ``batch_idx``."""

    def training_step(self, batch: Any) -> Any:
        return F.cross_entropy(self.forward(batch[0]), batch[1])


class NetLit(Lit):
    """Calls the network, and itself once more for a number to log, without a graph."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        with torch.no_grad():
            self.log("train/accuracy", (self(batch[0]).argmax(-1) == batch[1]).float().mean())
        return loss


class PartsLit(Lit):
    """Calls two children one after the other: features and logits are both 2-D."""

    def __init__(self, lr: float = LR) -> None:
        super().__init__(lr)
        self.body, self.fc = self.net.body, self.net.fc
        del self.net

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.fc(self.body(batch[0])), batch[1])


class InheritedLit(Lit):
    """Has no ``training_step`` of its own."""


class ManualLit(Lit):
    def __init__(self, lr: float = LR) -> None:
        super().__init__(lr)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()


class TwiceLit(Lit):
    """Two forwards of the whole batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1]) + F.cross_entropy(self(batch[0] + 1), batch[1])


class HiddenLit(Lit):
    """Calls ``self.net.forward``: no hook of the network sees it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net.forward(batch[0]), batch[1])


class SkippingLit(Lit):
    """Skips every other step, after a forward."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        return loss if batch_idx % 2 else None


class OldStub(pl.Callback):
    """Serves ``pl_module.old_outputs`` from a fixed linear map."""

    provides_old_outputs = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.old_outputs = Outputs(old_logits(batch[0]))


def old_logits(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, CLASSES * FEATURES, dtype=x.dtype).reshape(CLASSES, FEATURES)
    return x @ weight.to(x.device).T


def dataset(dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    return TensorDataset(x.to(dtype), torch.randint(CLASSES, (ROWS,), generator=generator))


def loader(batch_size: int = BATCH, dtype: torch.dtype = torch.float64) -> DataLoader:
    return DataLoader(dataset(dtype), batch_size)


def seeded(build: Any, *args: Any) -> Any:
    """Build a module with the same weights each time, whatever its class."""
    torch.manual_seed(0)
    return build(*args)


def trainer(*callbacks: Any, of: Any = pl, **options: Any) -> Any:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return of.Trainer(callbacks=list(callbacks), **{**defaults, **options})

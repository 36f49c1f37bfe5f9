"""The LightningModule of the jobs: an ordinary classifier that knows nothing of flips."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn


class LitClassifier(pl.LightningModule):
    """Cross-entropy and a one-cycle learning rate.

    Args:
        net: Gives logits ``(N, C)`` of a batch of images.
        lr: Highest learning rate.
        optimizer: Builds the optimiser of ``(parameters, lr=lr)``; its momentum is cycled, too.

    Example:
        >>> LitClassifier(nn.Linear(4, 3))(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, net: nn.Module, *, lr: float = 0.01, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    ) -> None:
        super().__init__()
        self.net = net
        self.lr = lr
        self.optimizer = optimizer

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, C)``."""
        return self.net(image)  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch."""
        image, target = batch
        loss = F.cross_entropy(self(image), target)
        self.log("train/loss/task", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log cross-entropy and error."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log cross-entropy and error."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser with one cycle over all steps."""
        optimizer = self.optimizer(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=max(steps, 2))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        image, target = batch
        logits = self(image)
        error = (logits.argmax(-1) != target).float().mean()
        self.log_dict({f"{stage}/loss": F.cross_entropy(logits, target), f"{stage}/error": error}, sync_dist=True)

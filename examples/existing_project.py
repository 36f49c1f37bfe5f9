"""An ordinary Lightning project on digits, and the lines that make its next update graceful.

Run it from anywhere: ``python examples/existing_project.py``. It takes some seconds on a CPU.
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_graceful import FlipMonitor, FocalDistillationLoss, OldModel, OldOutputCache, make_graceful


class LitDigits(pl.LightningModule):
    """The project's own module: nothing in it knows of an old model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.ReLU())
        self.head = torch.nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.body(x))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Log the error."""
        x, y = batch
        self.log("val/error", (self(x).argmax(-1) != y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), 0.003)


def main() -> None:
    """Train the old model on a third of the data, and its graceful successor on all of them."""
    pl.seed_everything(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))
    few, more, val = random_split(data, [450, 900, 447])

    last_year = pl.Trainer(max_epochs=20, accelerator="cpu", default_root_dir="runs/example")
    last_year.fit(LitDigits(16), DataLoader(few, 32, shuffle=True), DataLoader(val, 64))
    last_year.save_checkpoint("runs/example/old.ckpt")

    # From here on: what is added to the project.
    old = OldModel.from_checkpoint("runs/example/old.ckpt", LitDigits)
    new = make_graceful(LitDigits(64), terms={"pct": FocalDistillationLoss()}, weights={"pct": 0.3})
    callbacks = [OldOutputCache(old, "runs/example/old_outputs"), FlipMonitor(old)]
    trainer = pl.Trainer(max_epochs=20, accelerator="cpu", default_root_dir="runs/example", callbacks=callbacks)
    trainer.fit(new, DataLoader(more + few, 32, shuffle=True), DataLoader(val, 64))


if __name__ == "__main__":
    main()

"""An embedding model on digits, and a new one whose queries search the gallery that the old one has embedded.

Run it from anywhere: ``python examples/compatibility.py``. It takes some seconds on a CPU.
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_graceful import CompatibilityMonitor, GallerySearchLoss, OldModel, OldOutputCache, make_graceful

FOLDER = "runs/compatibility"


class LitDigits(pl.LightningModule):
    """The project's own module: features, an embedding to search by, and a classifier to train it with."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.body(x))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Log the error."""
        x, y = batch
        self.log("val/error", (self(x).argmax(-1) != y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), 0.003)


def fit(module: pl.LightningModule, train: object, val: object, *callbacks: pl.Callback) -> pl.Trainer:
    """Train for 15 epochs.

    Returns:
        The trainer.
    """
    trainer = pl.Trainer(
        max_epochs=15,
        accelerator="cpu",
        callbacks=[*callbacks],
        default_root_dir=FOLDER,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, 32, shuffle=True), DataLoader(val, 64))
    return trainer


def main() -> None:
    """Train the old model on a few data, a new one as usual, and a new one that searches the old gallery."""
    pl.seed_everything(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))
    few, more, val = random_split(data, [150, 1050, 597])

    last_year = LitDigits(16, width=16)
    fit(last_year, few, val).save_checkpoint(f"{FOLDER}/old.ckpt", weights_only=True)

    # From here on: what is added to the project. The new embedding is wider; its first 16 dimensions are the old space.
    old = OldModel.from_checkpoint(f"{FOLDER}/old.ckpt", LitDigits, embedding="body")
    search = {"search": GallerySearchLoss()}
    for name, terms in (("as usual", {}), ("with GallerySearchLoss", search)):
        new = make_graceful(LitDigits(64, width=32), terms=terms, embedding="body")
        monitor = CompatibilityMonitor(old, embedding="body", dimensions="shared")
        trainer = fit(new, more + few, val, OldOutputCache(old, f"{FOLDER}/old_outputs"), monitor)
        found = {key: value.item() for key, value in trainer.callback_metrics.items()}
        print(f"New model {name}, mAP:")
        print(f"  old queries in the old gallery  {found['val/old_self_test']:.3f}")
        print(f"  new queries in the old gallery  {found['val/cross_test']:.3f}")
        print(f"  new queries in a new gallery    {found['val/self_test']:.3f}")


if __name__ == "__main__":
    main()

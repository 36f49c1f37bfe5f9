"""Fashion-MNIST: the experiment that counts."""

from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split
from torch.utils.data import Subset

from lightning_graceful.data.datasets import fashion_mnist
from lightning_graceful.data.relabelled import Sample
from lightning_graceful.experiment.datamodules.update import UpdateDataModule, subsets


class FashionMNISTDataModule(UpdateDataModule):
    """Fashion-MNIST: 50,000 to train, 10,000 to choose (stratified, one split for all seeds), 10,000 to test once.

    Args:
        folder: Where the four IDX files are; None looks where Debian puts them, then downloads.
        seed: Draws the old model's part.
        old_fraction: See :class:`~lightning_graceful.experiment.datamodules.UpdateDataModule`.
        batch_size: Samples a batch.
        num_workers: Processes that load.
    """

    def __init__(
        self,
        *,
        folder: str | Path | None = None,
        seed: int = 0,
        old_fraction: float = 0.5,
        batch_size: int = 256,
        num_workers: int = 0,
    ) -> None:
        self.folder = folder
        super().__init__(seed=seed, old_fraction=old_fraction, batch_size=batch_size, num_workers=num_workers)

    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return the published test images, and a stratified split of the others."""
        train_data, test_data = fashion_mnist(self.folder)
        target = train_data.target.numpy()
        train, val = train_test_split(np.arange(len(target)), test_size=10_000, stratify=target, random_state=0)
        return subsets((train_data, train), (train_data, val), (test_data, np.arange(len(test_data))))

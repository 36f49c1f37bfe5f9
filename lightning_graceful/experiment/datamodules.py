"""Data of the jobs: who trains on what, who is chosen on what, and what is read once at the end."""

from abc import abstractmethod
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch.utils.data import DataLoader, Subset

from lightning_graceful.data.datasets import ImageArrays, digits, fashion_mnist

Sample = tuple[torch.Tensor, torch.Tensor]
Indices = NDArray[np.int64]


class UpdateDataModule(pl.LightningDataModule):
    """Data of an update: the new model trains on all training samples, the old one on a part of them.

    Args:
        seed: Chooses what a subclass says it chooses.
        old_fraction: Share of the training samples that the old model is trained on, stratified.
        batch_size: Samples a batch.
        num_workers: Processes that load; these data are in memory, so 0 is fastest.
    """

    def __init__(self, *, seed: int = 0, old_fraction: float = 0.5, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__()
        if not 0 < old_fraction <= 1:
            raise ValueError(f"Expected old_fraction in (0, 1], got {old_fraction}.")
        self.seed = seed
        self.old_fraction = old_fraction
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_set, self.val_set, self.test_set = self.split()

    @abstractmethod
    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return training, validation and test samples."""

    @property
    def base(self) -> ImageArrays:
        """All images among which test samples are counted; ``classes`` names their classes."""
        return self.test_set.dataset  # type: ignore[return-value]

    def of_old(self) -> "OldDataModule":
        """Return the data that the old model is trained on."""
        return OldDataModule(self)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled training batches."""
        return self.loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return validation batches."""
        return self.loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return test batches."""
        return self.loader(self.test_set)

    def loader(self, dataset: "Subset[Sample]", *, shuffle: bool = False) -> DataLoader[Sample]:
        """Return a loader with this module's batch size and workers."""
        return DataLoader(
            dataset,
            self.batch_size,
            shuffle=shuffle,
            drop_last=shuffle and len(dataset) > self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class OldDataModule(pl.LightningDataModule):
    """The part of an update's data that the old model saw.

    Args:
        update: The update's data.
    """

    def __init__(self, update: UpdateDataModule) -> None:
        super().__init__()
        self.update = update
        train = np.asarray(update.train_set.indices)
        data: ImageArrays = update.train_set.dataset  # type: ignore[assignment]
        if update.old_fraction < 1:
            target = data.target.numpy()[train]
            train, _ = train_test_split(
                train, train_size=update.old_fraction, stratify=target, random_state=update.seed
            )
        self.train_set: Subset[Sample] = Subset(data, np.sort(train).tolist())

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled training batches of the old model's part."""
        return self.update.loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return validation batches: the same as the new model's."""
        return self.update.val_dataloader()


class DigitsDataModule(UpdateDataModule):
    """Digits in stratified folds: seed ``k`` tests on fold ``k``, so that ``folds`` seeds test every sample once.

    Args:
        folds: Number of folds.
        seed: The fold to test on, modulo ``folds``; also draws the old model's part.
        options: See :class:`UpdateDataModule`.
    """

    def __init__(
        self, *, folds: int = 5, seed: int = 0, old_fraction: float = 0.5, batch_size: int = 64, num_workers: int = 0
    ) -> None:
        self.folds = folds
        super().__init__(seed=seed, old_fraction=old_fraction, batch_size=batch_size, num_workers=num_workers)

    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return folds; an eighth of what is not tested is for validation."""
        data = digits()
        target = data.target.numpy()
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=0).split(target, target)
        rest, test = list(folds)[self.seed % self.folds]
        train, val = train_test_split(rest, test_size=1 / 8, stratify=target[rest], random_state=0)
        return _subsets((data, train), (data, val), (data, test))


class FashionMNISTDataModule(UpdateDataModule):
    """Fashion-MNIST: 50,000 to train, 10,000 to choose (stratified, one split for all seeds), 10,000 to test once.

    Args:
        folder: Where the four IDX files are; None looks where Debian puts them, then downloads.
        seed: Draws the old model's part.
        options: See :class:`UpdateDataModule`.
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
        return _subsets((train_data, train), (train_data, val), (test_data, np.arange(len(test_data))))


def _subsets(*parts: tuple[ImageArrays, Indices]) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
    train, val, test = (Subset(data, np.sort(indices).tolist()) for data, indices in parts)
    return train, val, test

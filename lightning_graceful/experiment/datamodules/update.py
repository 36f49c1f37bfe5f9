"""Data of an update: the new model trains on all training samples, the old one on a part of them."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lightning_graceful.data.relabelled import LabelledImages, Sample, of_classes

Indices = NDArray[np.int64]


class UpdateDataModule(pl.LightningDataModule):
    """Data of an update: the new model trains on all training samples, the old one on a part of them.

    Args:
        seed: Chooses what a subclass says it chooses.
        old_fraction: Share of the training samples that the old model is trained on, stratified.
        batch_size: Samples a batch.
        num_workers: Processes that load; for data in memory 0 is fastest.

    Raises:
        ValueError: If ``old_fraction`` is not in (0, 1].
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
    def base(self) -> LabelledImages:
        """All images among which test samples are counted; ``classes`` names their classes."""
        return base_of(self.test_set)

    @property
    def train_eval(self) -> "Subset[Sample]":
        """The training samples as they are evaluated, without random transforms: to fit an adapter on."""
        return self.train_set

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

    def loader(self, dataset: "Subset[Sample] | ConcatDataset[Sample]", *, shuffle: bool = False) -> DataLoader[Sample]:
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
        classes: Labels that the old model knows, to be its 0, 1, 2, ...; None for all.

    Raises:
        ValueError: If the old model's share of the samples is too small for its classes.
    """

    def __init__(self, update: UpdateDataModule, *, classes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.update = update
        known = range(len(base_of(update.train_set).classes)) if classes is None else classes
        self.train_set = _part(of_classes(update.train_set, known), update.old_fraction, update.seed)
        self.val_set = of_classes(update.val_set, known)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled training batches of the old model's part."""
        return self.update.loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return validation batches: the new model's, of the classes that the old one knows."""
        return self.update.loader(self.val_set)


def base_of(samples: "Subset[Sample]") -> LabelledImages:
    """Return the base dataset of samples."""
    return samples.dataset  # type: ignore[return-value]


def targets_of(samples: "Subset[Sample]") -> NDArray[np.int64]:
    """Return the labels of samples, int64, shape ``(N,)``, without a look at the images."""
    return base_of(samples).target.numpy()[np.asarray(samples.indices, dtype=np.int64)]


def subsets(
    *parts: tuple[LabelledImages, Indices],
) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
    """Return training, validation and test samples, each of a base dataset, in the order of their positions."""
    train, val, test = (Subset(data, np.sort(indices).tolist()) for data, indices in parts)  # type: ignore[arg-type, var-annotated]
    return train, val, test


def _part(samples: "Subset[Sample]", share: float, seed: int) -> "Subset[Sample]":
    # A stratified share of samples.
    if share == 1:
        return samples
    target = targets_of(samples)
    classes, counts = np.unique(target, return_counts=True)
    seen = int(share * len(target))
    if min(seen, len(target) - seen) < len(classes) or counts.min() < 2:
        raise ValueError(
            f"Expected old_fraction to draw and to leave a sample of each of {len(classes)} classes, got {share} of "
            f"{len(target)} samples, {counts.min()} of the rarest class."
        )
    train, _ = train_test_split(np.asarray(samples.indices), train_size=share, stratify=target, random_state=seed)
    return Subset(samples.dataset, np.sort(train).tolist())

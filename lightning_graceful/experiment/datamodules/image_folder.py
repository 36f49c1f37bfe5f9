"""A folder of image files, such as ImageNet, CUB-200-2011 or iNaturalist."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.model_selection import train_test_split
from torch.utils.data import Subset

from lightning_graceful.data.image_folder import CenterCrop, Crop, ImageFolder
from lightning_graceful.data.image_layouts import Layout, class_folders
from lightning_graceful.data.relabelled import Sample
from lightning_graceful.experiment.datamodules.update import UpdateDataModule, subsets


class ImageFolderDataModule(UpdateDataModule):
    """A folder of images; validation images are a stratified part of the training images, one split for all seeds.

    Args:
        folder: The folder.
        layout: Reads which images it holds: :func:`~lightning_graceful.data.image_layouts.class_folders`, ``cub_200``,
            ``inaturalist``, or a function of yours.
        crop: Makes images of one size, always the same.
        train_crop: Does so for training, such as :class:`~lightning_graceful.data.image_folder.RandomCrop`, with which
            ``OldOutputCache`` needs ``views=K``; None takes ``crop``.
        channels: 3 for colour, 1 for shades of grey.
        mean: Subtracted from each channel; None leaves ``[0, 1]``.
        std: Each channel is divided by it; given with ``mean``.
        val_fraction: Share of the training images that is for validation, stratified.
        seed: Draws the old model's part.
        old_fraction: See :class:`~lightning_graceful.experiment.datamodules.UpdateDataModule`.
        batch_size: Samples a batch.
        num_workers: Processes that open images.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        layout: Layout = class_folders,
        crop: Crop | None = None,
        train_crop: Crop | None = None,
        channels: Literal[1, 3] = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        old_fraction: float = 0.5,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.layout = layout
        self.crop = CenterCrop() if crop is None else crop
        self.train_crop = train_crop
        self.channels: Literal[1, 3] = channels
        self.mean = mean
        self.std = std
        self.val_fraction = val_fraction
        super().__init__(seed=seed, old_fraction=old_fraction, batch_size=batch_size, num_workers=num_workers)

    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return the layout's test images, and a stratified split of its training images.

        Raises:
            ValueError: If ``val_fraction`` leaves a part without images of some class.
        """
        train_files, test_files = self.layout(self.folder)
        counts = np.bincount(train_files.target, minlength=len(train_files.classes))
        size = round(self.val_fraction * len(train_files))
        if counts.min() < 2 or not len(counts) <= size <= len(train_files) - len(counts):
            raise ValueError(
                f"Expected val_fraction to leave training and validation an image of each of {len(counts)} classes, "
                f"got {self.val_fraction} of {len(train_files)} images, {counts.min()} of the rarest class."
            )
        train, val = train_test_split(
            np.arange(len(train_files)), test_size=size, stratify=train_files.target, random_state=0
        )
        images = partial(ImageFolder, channels=self.channels, mean=self.mean, std=self.std)
        self._steady = images(train_files, crop=self.crop)
        train_data = self._steady if self.train_crop is None else images(train_files, crop=self.train_crop)
        test_data = images(test_files, crop=self.crop)
        return subsets((train_data, train), (self._steady, val), (test_data, np.arange(len(test_files))))

    @property
    def train_eval(self) -> "Subset[Sample]":
        """The training samples without random crops."""
        return Subset(self._steady, self.train_set.indices)

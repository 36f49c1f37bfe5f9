"""Searching with an old and a new model: which classes each is trained on, and which images are queries or gallery.

*Closed*: all classes are trained on and searched. *Open*: some classes are held out of both trainings, and only these
are searched. *More classes*: the old model is trained on some classes only, the new one on all.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Subset

from lightning_graceful.data.relabelled import Sample, of_classes
from lightning_graceful.experiment.datamodules.update import OldDataModule, UpdateDataModule, base_of, targets_of


class SearchHalves(NamedTuple):
    """Disjoint halves of a part of the data, with the labels of the whole dataset.

    Attributes:
        query: Images that are searched with.
        gallery: Images that are searched.
    """

    query: "Subset[Sample]"
    gallery: "Subset[Sample]"


class SearchDataModule(UpdateDataModule):
    """An update's data, with classes left out of the trainings, and with queries and a gallery to search.

    Models are trained on labels 0, 1, 2, ... of the classes that they know, in the order of the dataset's labels: see
    ``class_names`` and ``label_of``. Whatever is searched, and ``train_eval``, keeps the dataset's labels. Where no
    class is left out, samples are those of ``data`` itself.

    Args:
        data: The update's data.
        held_out: Labels of the classes that neither model is trained on; if there are any, only they are searched.
        old_classes: Labels of the classes that the old model is trained on; None for the new model's.

    Raises:
        ValueError: If a label is unknown, or given twice, or the old model has a class that the new one has not, or a
            model is left with fewer than two classes.

    Example:
        >>> from lightning_graceful.experiment.datamodules import DigitsDataModule
        >>> data = SearchDataModule(DigitsDataModule(), held_out=[0, 4, 7], old_classes=[1, 2, 9])
        >>> data.class_names, data.label_of[9], data.old_label_map
        (['1', '2', '3', '5', '6', '8', '9'], 6, [0, 1, -1, -1, -1, -1, 2])
        >>> [len(half) for half in data.search_halves("test", seed=0)]
        [54, 55]
    """

    def __init__(
        self, data: UpdateDataModule, *, held_out: Sequence[int] = (), old_classes: Sequence[int] | None = None
    ) -> None:
        classes = range(len(data.base.classes))
        self.data = data
        self.held_out = _checked("held_out", held_out, classes)
        self.new_classes = tuple(label for label in classes if label not in self.held_out)
        self.old_classes = self.new_classes if old_classes is None else _checked("old_classes", old_classes, classes)
        if not set(self.old_classes) <= set(self.new_classes):
            both = sorted(set(self.old_classes) & set(self.held_out))
            raise ValueError(f"Expected old_classes that are not held out, got {both} in both.")
        if min(len(self.new_classes), len(self.old_classes)) < 2:
            raise ValueError(
                f"Expected at least two classes to train each model on, got {len(self.old_classes)} for the old one "
                f"and {len(self.new_classes)} for the new one."
            )
        super().__init__(
            seed=data.seed, old_fraction=data.old_fraction, batch_size=data.batch_size, num_workers=data.num_workers
        )

    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return the samples of the classes that the new model is trained on."""
        train, val, test = (
            of_classes(part, self.new_classes) for part in (self.data.train_set, self.data.val_set, self.data.test_set)
        )
        return train, val, test

    def of_old(self) -> OldDataModule:
        """Return the data that the old model is trained on, with its own labels."""
        return OldDataModule(self.data, classes=self.old_classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the new model's classes, in the order of its labels."""
        return [self.data.base.classes[label] for label in self.new_classes]

    @property
    def label_of(self) -> dict[int, int]:
        """The new model's label of each class that it knows, by the dataset's label."""
        return {label: number for number, label in enumerate(self.new_classes)}

    @property
    def old_label_map(self) -> list[int] | None:
        """For ``OldModel(label_map=...)``: the old model's column of each new class, or -1; None where they agree."""
        if self.old_classes == self.new_classes:
            return None
        column = {label: number for number, label in enumerate(self.old_classes)}
        return [column.get(label, -1) for label in self.new_classes]

    @property
    def train_eval(self) -> "Subset[Sample]":
        """The new model's training samples, without random transforms, with the dataset's labels."""
        samples = self.data.train_eval
        return Subset(samples.dataset, _indices_of(samples, self.new_classes))

    def held_out_sample(self, size: int, seed: int) -> "Subset[Sample]":
        """Draw training images of the held-out classes, which neither model is trained on and no search sees.

        Args:
            size: How many.
            seed: Chooses them.

        Returns:
            The images, without random transforms; their labels are not to be looked at.

        Raises:
            ValueError: If there are not so many.
        """
        samples = self.data.train_eval
        indices = _indices_of(samples, self.held_out)
        if not 0 < size <= len(indices):
            raise ValueError(f"Expected a size in [1, {len(indices)}], images of the held-out classes, got {size}.")
        return Subset(samples.dataset, np.random.default_rng(seed).permutation(indices)[:size].tolist())

    def search_halves(
        self, stage: Literal["val", "test"], seed: int, *, classes: Sequence[int] | None = None
    ) -> SearchHalves:
        """Split validation or test images into queries and gallery, class by class.

        The halves of a class depend on seed and class alone, not on which other classes are searched. Of an odd number
        the gallery has one more.

        Args:
            stage: Which images.
            seed: Chooses the halves.
            classes: The dataset's labels to search; None for those that are held out, or for all if none is. To choose
                a setting in the open protocol without a look at held-out classes: ``"val"`` and ``new_classes``.

        Returns:
            Queries and gallery.

        Raises:
            ValueError: If the stage or a label is unknown, or a class has fewer than two images.
        """
        if stage not in {"val", "test"}:
            raise ValueError(f"Expected stage 'val' or 'test', got {stage!r}.")
        samples = self.data.val_set if stage == "val" else self.data.test_set
        every = range(len(base_of(samples).classes))
        chosen = (self.held_out or every) if classes is None else _checked("classes", classes, every)
        halves: tuple[list[int], list[int]] = ([], [])
        for label in chosen:
            shuffled = np.random.default_rng([seed, label]).permutation(_indices_of(samples, [label]))
            if len(shuffled) < 2:
                name = base_of(samples).classes[label]
                raise ValueError(f"Expected two or more {stage} images of class {name!r}, found {len(shuffled)}.")
            middle = len(shuffled) // 2
            halves[0].extend(shuffled[:middle].tolist())
            halves[1].extend(shuffled[middle:].tolist())
        return SearchHalves(*(Subset(samples.dataset, sorted(half)) for half in halves))


def class_draws(num_classes: int, held_out: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """Draw classes to hold out, several times, never the same ones twice.

    Args:
        num_classes: Number of classes.
        held_out: Classes a draw.
        count: Number of draws; the first ones are the same, however many are asked for.
        seed: Chooses them.

    Returns:
        Sorted labels of each draw, in the order in which they were drawn.

    Raises:
        ValueError: If there are not so many draws.

    Example:
        >>> class_draws(10, 3, 2, seed=0)
        [(2, 4, 6), (2, 3, 9)]
    """
    possible = math.comb(num_classes, held_out) if 0 < held_out < num_classes else 0
    if not 0 < count <= possible:
        raise ValueError(
            f"Expected 0 < held_out < {num_classes} and up to {possible} draws, got held_out={held_out}, count={count}."
        )
    generator = np.random.default_rng(seed)
    drawn: dict[tuple[int, ...], None] = {}  # keeps the order
    while len(drawn) < count:
        drawn[tuple(sorted(generator.permutation(num_classes)[:held_out].tolist()))] = None
    return list(drawn)


def _checked(name: str, labels: Sequence[int], allowed: range) -> tuple[int, ...]:
    if len(set(labels)) < len(labels) or not set(labels) <= set(allowed):
        raise ValueError(f"Expected different labels in [0, {len(allowed)}) as {name}, got {list(labels)}.")
    return tuple(sorted(labels))


def _indices_of(samples: "Subset[Sample]", labels: Sequence[int]) -> list[int]:
    # Positions in the base dataset of the samples of some classes.
    kept = np.isin(targets_of(samples), labels)
    return [int(index) for index in np.asarray(samples.indices, dtype=np.int64)[kept]]

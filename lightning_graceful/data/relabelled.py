"""Some classes of a dataset, counted anew: for models that are trained on a part of the classes."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

Sample = tuple[Tensor, Tensor]
IGNORED = -100  # torch's ignore_index: cross-entropy passes such a sample over


class LabelledImages(Protocol):
    """What the jobs ask of a base dataset.

    Attributes:
        target: Labels, int64, shape ``(N,)``.
        classes: Class names.
    """

    target: Tensor
    classes: list[str]

    @property
    def images(self) -> Any:
        """Pixels of each image by its index: uint8, shape ``(H, W)`` or ``(H, W, 3)``."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return one image and its target."""
        ...


class Relabelled(Dataset[Sample]):
    """A dataset whose chosen classes are labelled 0, 1, 2, ...; samples of other classes have the target -100.

    Samples keep their positions. 8 bytes a sample are held.

    Args:
        data: The dataset.
        chosen: Labels of the chosen classes, in the order of their new labels.

    Example:
        >>> from lightning_graceful.data.datasets import digits
        >>> data = Relabelled(digits(), [7, 2])
        >>> data.classes, digits().target[:8].tolist(), data.target[:8].tolist()
        (['7', '2'], [0, 1, 2, 3, 4, 5, 6, 7], [-100, -100, 1, -100, -100, -100, -100, 0])
    """

    def __init__(self, data: LabelledImages, chosen: Sequence[int]) -> None:
        labels = torch.full((len(data.classes),), IGNORED)
        labels[list(chosen)] = torch.arange(len(chosen))
        self.data = data
        self.target = labels[data.target]
        self.classes = [data.classes[label] for label in chosen]

    @property
    def images(self) -> Any:
        """Pixels of each image by its index."""
        return self.data.images

    def __len__(self) -> int:
        """Return the number of samples, those of other classes among them."""
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        """Return one image and its new label."""
        return self.data[index][0], self.target[index]

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        """Return a batch at once where the dataset can."""
        fetch = getattr(self.data, "__getitems__", None)
        samples: list[Sample] = fetch(indices) if fetch else [self.data[index] for index in indices]
        return [(image, target) for (image, _), target in zip(samples, self.target[indices], strict=True)]


def of_classes(samples: "Subset[Sample]", chosen: Sequence[int]) -> "Subset[Sample]":
    """Keep the samples of some classes, labelled 0, 1, 2, ...

    Args:
        samples: Samples of a base dataset.
        chosen: Labels of the classes to keep, in the order of their new labels.

    Returns:
        The samples that are kept, in their order; the very same object where all classes are kept as they are.

    Example:
        >>> from lightning_graceful.data.datasets import digits
        >>> [int(target) for _, target in of_classes(Subset(digits(), [1, 2, 7, 12]), [2, 7])]
        [0, 1, 0]
    """
    data: LabelledImages = samples.dataset  # type: ignore[assignment]
    if list(chosen) == list(range(len(data.classes))):
        return samples
    relabelled = Relabelled(data, chosen)
    kept = relabelled.target[list(samples.indices)] != IGNORED
    return Subset(relabelled, [index for index, keep in zip(samples.indices, kept.tolist(), strict=True) if keep])

"""Images of no known class, made of training images: something to compare two models on without a label."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_graceful.data.relabelled import IGNORED


def _flipped(image: Tensor, other: Tensor) -> Tensor:
    return image.flip(-2)


def _transposed(image: Tensor, other: Tensor) -> Tensor:
    return image.transpose(-2, -1)


def _mixed(image: Tensor, other: Tensor) -> Tensor:
    return (image + other) / 2


def _halves(image: Tensor, other: Tensor) -> Tensor:
    middle = image.shape[-2] // 2
    return torch.cat([image[..., :middle, :], other[..., middle:, :]], dim=-2)


VIEWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flipped": _flipped,
    "transposed": _transposed,
    "mixed": _mixed,
    "halves": _halves,
}


class UnlabelledViews(Dataset[tuple[Tensor, Any]]):
    """Images that are no clean picture of a known class, with the target -100; the same each time they are fetched.

    For losses of compatibility that need no label: old and new embeddings are to agree between and beyond the classes,
    too, where other classes will lie. Train on both::

        ConcatDataset([train, UnlabelledViews(train, share=0.3)])

    -100 is ``ignore_index`` of torch's cross-entropy, which passes these samples over and averages over the others;
    shuffle, for a batch without any label has the loss NaN. Losses that use the target need a mask of their own. As no
    fetch is random, OldOutputCache keeps what the old model says of them, in a store of their own (a base with random
    transforms needs ``views=K``, as ever).

    - ``"flipped"``: top to bottom;
    - ``"transposed"``: rows for columns, of square images;
    - ``"mixed"``: the mean of two images;
    - ``"halves"``: the upper half of one image, the lower half of another.

    Some classes look the same upside down (the digits 0 and 8, a circle): choose ``kinds`` for your data. 17 bytes a
    sample are held.

    Args:
        data: Samples ``(image, target)``; images floating, shape ``(C, H, W)``, of one size.
        share: As many views as this share of the samples of ``data``, each of another sample, in ``(0, 1]``.
        kinds: Which views, as likely as each other.
        seed: Chooses samples, kinds and second images.

    Raises:
        ValueError: If an option is out of its range, or a kind unknown.

    Example:
        >>> from lightning_graceful.data.datasets import digits
        >>> views = UnlabelledViews(digits(), share=0.1)
        >>> len(views), views[0][0].shape, int(views[0][1])
        (180, torch.Size([1, 8, 8]), -100)
    """

    def __init__(
        self, data: Dataset[Any], *, share: float = 0.3, kinds: Sequence[str] = tuple(VIEWS), seed: int = 0
    ) -> None:
        length = len(data)  # type: ignore[arg-type]
        if not 0 < share <= 1 or length < 2:
            raise ValueError(f"Expected share in (0, 1] of two samples or more, got {share} of {length}.")
        if not kinds or not set(kinds) <= set(VIEWS):
            raise ValueError(f"Expected kinds among {list(VIEWS)}, got {list(kinds)}.")
        generator = torch.Generator().manual_seed(seed)
        size = max(1, round(share * length))
        self.data = data
        self.kinds = tuple(kinds)
        self.first = torch.randperm(length, generator=generator)[:size].clone()
        # From one place further on to just before it came round: never the image itself.
        self.second = (self.first + torch.randint(1, length, (size,), generator=generator)) % length
        self.kind = torch.randint(len(self.kinds), (size,), generator=generator, dtype=torch.uint8)

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.first)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Return one view and the target -100, of the type of the samples' own targets."""
        kind = self.kinds[int(self.kind[index])]
        (image, target), (other, _) = self.data[int(self.first[index])], self.data[int(self.second[index])]
        _check_images(image, other, kind)
        ignored = torch.full_like(target, IGNORED) if isinstance(target, Tensor) else IGNORED
        return VIEWS[kind](image, other).contiguous(), ignored


def _check_images(image: Tensor, other: Tensor, kind: str) -> None:
    is_image = isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3
    if not is_image or image.shape != other.shape:
        raise ValueError(
            "Expected floating images (C, H, W) of one size, got "
            f"{' and '.join(f'{one.dtype} {tuple(one.shape)}' for one in (image, other))}."
        )
    if kind == "transposed" and image.shape[-2] != image.shape[-1]:
        raise ValueError(f"Expected square images to transpose, got {tuple(image.shape)}. Leave it out of kinds=.")

"""Images in files, opened when they are asked for; the one file of data that needs Pillow."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_graceful.data.image_list import ImageList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

TRIES = 10  # boxes that a random crop draws before it takes the middle
Box = tuple[int, int, int, int]  # left, top, right, bottom


class Crop(Protocol):
    """Makes images of one size."""

    def __call__(self, image: "Image.Image") -> "Image.Image":
        """Return an image of a fixed size."""
        ...


@dataclass(frozen=True)
class CenterCrop:
    """Resize the short side and cut out the middle: always the same, so that old outputs can be kept.

    Attributes:
        size: Side of the square that is cut out, in pixels.
        resize: Length of the short side before, at least ``size``.
    """

    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        """Refuse a square that does not fit.

        Raises:
            ValueError: If the square is larger than the image.
        """
        if not 0 < self.size <= self.resize:
            raise ValueError(f"Expected 0 < size <= resize, got size {self.size} and resize {self.resize}.")

    def __call__(self, image: "Image.Image") -> "Image.Image":
        """Return the middle, ``size`` by ``size``."""
        short = min(image.size)
        width, height = (max(self.resize, round(side * self.resize / short)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), resample=_bilinear())
        return resized.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True)
class RandomCrop:
    """Resize a random box of the image and flip it half of the time (Szegedy et al., 2015): for training.

    Drawn from torch's global generator, which ``OldOutputCache(..., views=K)`` replays; with ``views=1`` the cache
    refuses such images.

    Attributes:
        size: Side of the square that comes out, in pixels.
        smallest: Share of the image's area that a box has at least, in ``(0, 1]``.
    """

    size: int = 224
    smallest: float = 0.08

    def __post_init__(self) -> None:
        """Refuse an empty box.

        Raises:
            ValueError: If an option is out of its range.
        """
        if self.size < 1 or not 0 < self.smallest <= 1:
            raise ValueError(f"Expected size >= 1 and smallest in (0, 1], got {self.size} and {self.smallest}.")

    def __call__(self, image: "Image.Image") -> "Image.Image":
        """Return a random box, ``size`` by ``size``."""
        from PIL import Image

        resized = image.resize((self.size, self.size), resample=_bilinear(), box=self._box(*image.size))
        is_flipped = bool(torch.rand(()) < 0.5)
        return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_flipped else resized

    def _box(self, width: int, height: int) -> Box:
        for _ in range(TRIES):
            area, shape, across, down = torch.rand(4).tolist()
            pixels = width * height * (self.smallest + (1 - self.smallest) * area)
            ratio = (3 / 4) * (16 / 9) ** shape  # from 3/4 to 4/3, as likely as its inverse
            wide, high = max(1, round((pixels * ratio) ** 0.5)), max(1, round((pixels / ratio) ** 0.5))
            if wide <= width and high <= height:
                left, top = int(across * (width - wide + 1)), int(down * (height - high + 1))
                return left, top, left + wide, top + high
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """Images of a layout; a sample is ``(image float32 of (C, size, size) in [0, 1], target int64)``.

    Nothing but the list of paths is held; see :class:`~lightning_graceful.data.image_layouts.ImageList`.

    Args:
        files: Paths and labels.
        crop: Makes images of one size; the default always gives the same.
        channels: 3 for colour, 1 for shades of grey.
        mean: Subtracted from each channel; None leaves ``[0, 1]``.
        std: Each channel is divided by it; given with ``mean``.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        files: ImageList,
        *,
        crop: Crop | None = None,
        channels: Literal[1, 3] = 3,
        mean: "Sequence[float] | None" = None,
        std: "Sequence[float] | None" = None,
    ) -> None:
        if channels not in {1, 3}:
            raise ValueError(f"Expected 1 or 3 channels, got {channels}.")
        self.files = files
        self.crop = CenterCrop() if crop is None else crop
        self.channels = channels
        self.scale = _checked_scale(mean, std, channels)
        self.target = torch.from_numpy(files.target)
        self.classes = list(files.classes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image and its target."""
        pixels = self.pixels(index)
        image = (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)) / 255
        if self.scale is not None:
            mean, std = self.scale
            image = (image - mean) / std
        return image.contiguous(), self.target[index]

    @property
    def images(self) -> "Pictures":
        """Pixels of each image by its index, for people to look at."""
        return Pictures(self)

    @property
    def ids(self) -> list[str]:
        """Relative path of each image, made anew each time."""
        return [self.files.id_of(index) for index in range(len(self))]

    def pixels(self, index: int) -> Tensor:
        """Open an image and crop it.

        Args:
            index: Which one.

        Returns:
            uint8, shape ``(size, size, 3)``, or ``(size, size)`` for one channel.
        """
        image = self.crop(_opened(self.files.path_of(index), "L" if self.channels == 1 else "RGB"))
        return torch.from_numpy(np.array(image, dtype=np.uint8))


class Pictures:
    """Pixels of an :class:`ImageFolder`, where a page or a table shows samples; opened one by one.

    Args:
        data: The images.
    """

    def __init__(self, data: ImageFolder) -> None:
        self._data = data

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._data)

    def __getitem__(self, index: int) -> Tensor:
        """Return what the model sees of an image: uint8, shape ``(H, W)`` or ``(H, W, 3)``."""
        return self._data.pixels(index)


def _bilinear() -> "Image.Resampling":
    from PIL import Image

    return Image.Resampling.BILINEAR


def _opened(path: Path, mode: str) -> "Image.Image":
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Expected Pillow to open images, found none: pip install 'lightning-graceful[report]'."
        ) from error
    try:
        with Image.open(path) as image:
            kind = image.mode
            converted = image.convert(mode)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected an image at {path}, found no file. Was it moved since?") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(
            f"Expected an image at {path}, got a damaged or unknown file ({error}). Bring it anew."
        ) from error
    if kind.startswith(("I", "F")):
        raise ValueError(f"Expected 8 bits a channel in {path}, got mode {kind!r}. Convert it first.")
    return converted


def _checked_scale(
    mean: "Sequence[float] | None", std: "Sequence[float] | None", channels: int
) -> tuple[Tensor, Tensor] | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(f"Expected mean and std > 0 of {channels} channels, got {mean} and {std}.")
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

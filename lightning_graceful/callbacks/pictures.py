"""Pictures and texts of samples, for people to look at."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from lightning_graceful.data.batch import default_batch

Picture = npt.NDArray[np.uint8]
PictureSource = Literal["auto"] | Callable[[Any], Tensor]
TextSource = str | Callable[[Any], Sequence[str]]

SIDE = 128  # pixels, at most: 49 kB in colour
LENGTH = 500  # characters, at most


def pictures_of(batch: Any, source: PictureSource, rows: Sequence[int]) -> list[Picture]:
    """Draw some samples of a batch.

    Args:
        batch: The batch.
        source: Function from a batch to pictures of shape ``(N, C, H, W)`` with 1 or 3 channels, or ``(N, H, W)``;
            "auto": the inputs of a batch of a usual kind, if they are of such a shape.
        rows: Which samples.

    Returns:
        Of each a picture of uint8, shape ``(H, W)`` or ``(H, W, 3)``, its longer side at most 128; none if "auto" finds
        none.

    Raises:
        ValueError: If the source gives something else.

    Example:
        >>> import torch
        >>> [picture] = pictures_of((torch.eye(2)[None], torch.zeros(1)), "auto", [0])
        >>> picture.tolist()
        [[255, 0], [0, 255]]
    """
    given = _inputs(batch) if source == "auto" else source(batch)
    if not _is_drawable(given):
        if source == "auto":
            return []
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"Expected pictures as a tensor of shape (N, 1 or 3, H, W) or (N, H, W), got {got}.")
    return [_drawn(given[row]) for row in rows]


def texts_of(batch: Any, source: TextSource | None, size: int) -> Sequence[str]:
    """Read the texts of a batch.

    Args:
        batch: The batch.
        source: Function from a batch to a text a sample, or the key of one in a dict; None for no texts.
        size: Number of samples.

    Returns:
        A text a sample, cut to 500 characters; none where a dict has no such key.

    Raises:
        ValueError: If the source gives something else.

    Example:
        >>> texts_of({"text": ["good", "bad"]}, "text", 2)
        ['good', 'bad']
    """
    if isinstance(source, str):
        given = batch.get(source) if isinstance(batch, Mapping) else None
    else:
        given = None if source is None else source(batch)
    if given is None or (isinstance(source, str) and isinstance(given, Tensor)):
        return []
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != size:
        raise ValueError(f"Expected a text for each of the {size} samples of a batch, got {type(given).__name__}.")
    return [clean(str(text)[:LENGTH]) for text in given]


def clean(text: str) -> str:
    r"""Replace what no file can hold: halves of surrogate pairs, which some tokenisers leave.

    Args:
        text: Any text.

    Returns:
        The same, as a rule.

    Example:
        >>> clean("caf\u00e9 \ud83d")
        'café ?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def _inputs(batch: Any) -> Any:
    try:
        return default_batch(batch).inputs
    except ValueError:
        return None


def _is_drawable(given: Any) -> bool:
    return isinstance(given, Tensor) and (given.ndim == 3 or (given.ndim == 4 and given.shape[1] in {1, 3}))


def _drawn(sample: Tensor) -> Picture:
    planes = sample.detach().cpu()[None] if sample.ndim == 2 else sample.detach().cpu()
    is_whole = not planes.is_floating_point()
    planes = planes.float().nan_to_num(0, 0, 0)
    low, high = float(planes.min()), float(planes.max())
    if is_whole and low >= 0 and high <= 255:
        pass  # pixels as they are
    elif low >= 0 and high <= 1:
        planes = planes * 255
    else:
        planes = (planes - low) * (255 / max(high - low, 1e-12))  # normalised inputs: dark to light
    longest = max(planes.shape[1:])
    if longest > SIDE:
        size = [max(1, side * SIDE // longest) for side in planes.shape[1:]]
        planes = F.interpolate(planes[None], size, mode="area")[0]
    pixels: Picture = planes.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels

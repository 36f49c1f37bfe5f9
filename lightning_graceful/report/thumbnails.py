"""Pictures of samples, small enough to lie inside a page."""

import base64
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 112  # pixels, at most: twice the size on the page


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Encode a picture as a data URI.

    Args:
        pixels: uint8, shape ``(H, W)`` or ``(H, W, 3)``.

    Returns:
        A PNG, at most 112 pixels a side.

    Raises:
        ValueError: If the array is of another kind.

    Example:
        >>> data_uri(np.zeros((2, 2), np.uint8))[:22]
        'data:image/png;base64,'
    """
    array = np.asarray(pixels)
    is_flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not array.size or not is_flat:
        raise ValueError(f"Expected uint8 of shape (H, W) or (H, W, 3) as a picture, got {array.dtype} {array.shape}.")
    return _encoded(Image.fromarray(array))


def data_uri_of_file(path: str | Path) -> str | None:
    """Encode a picture file as a data URI.

    Args:
        path: The file, of any kind that Pillow reads.

    Returns:
        As :func:`data_uri`; None where there is no such file, or it is no picture, or one of over 89 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return _encoded(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None


def _encoded(picture: Any) -> str:
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

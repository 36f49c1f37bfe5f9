"""Keys that samples carry themselves, where the sampler does not tell which samples are in a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SampleKey = str | int | Callable[[Any], Tensor]


def keys_in(batch: Any, index: SampleKey | None) -> Tensor:
    """Read the samples' keys out of a batch.

    Args:
        batch: What the DataLoader delivers.
        index: Where they are: a key of a dict, a place in a tuple, or a function of the batch.

    Returns:
        Int64, on the CPU, shape ``(N,)``.

    Raises:
        ValueError: If there are none, or they are no integers, one a sample.

    Example:
        >>> keys_in({"image": torch.zeros(2, 3), "id": [7, 4]}, "id")
        tensor([7, 4])
    """
    try:
        found = index(batch) if callable(index) else batch[index]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected the samples' keys at index={index!r} of a batch, got {type(error).__name__}: {error}."
        ) from error
    keys = found if isinstance(found, Tensor) else torch.as_tensor(found)
    if keys.ndim != 1 or keys.is_floating_point() or keys.is_complex() or keys.dtype == torch.bool:
        raise ValueError(
            f"Expected an integer key for each sample at index={index!r}, got {keys.dtype} of shape "
            f"{tuple(keys.shape)}."
        )
    return keys.detach().to("cpu", torch.int64)


def length_of(loader: Any) -> int:
    """Return how many samples a loader's dataset has.

    Args:
        loader: Any loader.

    Returns:
        Number of samples.

    Raises:
        ValueError: If nobody knows.
    """
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError, NotImplementedError):
        raise ValueError(
            "Expected to know how many samples there are, but the dataset has no length. Say it: "
            "OldOutputCache(..., index=..., num_samples=N); the keys lie in [0, N), and a bound that is too large "
            "costs nothing."
        ) from None

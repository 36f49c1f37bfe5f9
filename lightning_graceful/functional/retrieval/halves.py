"""Which samples of a set are queries and which are the gallery: by a hash, the same in every run."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def query_mask(index: Tensor, *, share: float = 0.5, seed: int = 0) -> Tensor:
    """Choose queries by a hash of each sample's index and a seed; the others are the gallery.

    A sample keeps its role, whatever other samples there are, in whatever order they come.

    Args:
        index: Integer, shape ``(N,)``.
        share: Share of the samples that are queries, nearly, in (0, 1).
        seed: Another seed, another choice.

    Returns:
        Whether each is a query, bool, shape ``(N,)``, on the device of ``index``.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> query_mask(torch.arange(6)).tolist() == query_mask(torch.arange(5, -1, -1)).flip(0).tolist()
        True
    """
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ValueError(f"Expected integer index of shape (N,), got {index.dtype} of shape {tuple(index.shape)}.")
    if not 0 < share < 1:
        raise ValueError(f"Expected share in (0, 1), got {share}.")
    start = _scrambled(np.array([seed % 2**64], np.uint64))
    mixed = _scrambled(index.detach().cpu().numpy().astype(np.int64).view(np.uint64) + start)
    return torch.from_numpy((mixed >> np.uint64(11)) * 2.0**-53 < share).to(index.device)


def _scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # splitmix64 (Steele, Lea, Flood, OOPSLA 2014): neighbours get unrelated numbers.
    mixed = (values + np.uint64(1)) * GOLDEN
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)

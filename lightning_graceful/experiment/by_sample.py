"""One value a sample, over seeds that may test on the same samples or on others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mean_by_sample(ids: Sequence[NDArray[np.int64]], values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Take the mean of each sample over the seeds that asked about it.

    Args:
        ids: Samples of each seed, int64, shape ``(N,)``, each once a seed.
        values: What each seed came to, float64, shape ``(..., N)``.

    Returns:
        Means, shape ``(..., M)``, in the order of ``np.unique`` of all ids.

    Example:
        >>> mean_by_sample([np.array([3, 1]), np.array([3])], [np.array([1.0, 5.0]), np.array([2.0])]).tolist()
        [5.0, 1.5]
    """
    joined, rows = np.concatenate(ids), np.concatenate(values, axis=-1)
    order = np.argsort(joined, kind="stable")
    _, starts, counts = np.unique(joined[order], return_index=True, return_counts=True)
    return np.asarray(np.add.reduceat(rows[..., order], starts, axis=-1) / counts)

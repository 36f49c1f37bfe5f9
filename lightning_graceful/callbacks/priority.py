"""Which samples of an evaluation come first where not all can be shown or held."""

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.void]
ROW = np.dtype([  # 44 bytes a sample, and 2 for each slice
    ("position", np.int64), ("index", np.int64), ("target", np.int32), ("old", np.int32), ("new", np.int32),
    ("old_confidence", np.float32), ("new_confidence", np.float32),
    ("old_score", np.float32), ("new_score", np.float32),
])  # fmt: skip
BROKE, FIXED = 4.0, 2.0  # to which a confidence is added: a surer mistake comes first


def priority(rows: Rows, seed: int = 0) -> npt.NDArray[np.float64]:
    """Order samples for a table: negative flips, the surest mistakes first; then positive flips; then a draw.

    The draw goes by a hash of position and seed: the same on any number of ranks, and it can be taken batch by batch.

    Args:
        rows: Of dtype ``ROW``.
        seed: Of the draw.

    Returns:
        Higher comes first, float64, shape ``(N,)``: from 4 for a negative flip, from 2 for a positive one, below 1 for
        the others.
    """
    old_right, new_right = rows["old"] == rows["target"], rows["new"] == rows["target"]
    sure = rows["new_confidence"].astype(np.float64)
    return np.select([old_right & ~new_right, ~old_right & new_right], [BROKE + sure, FIXED + sure], _drawn(rows, seed))


def _drawn(rows: Rows, seed: int) -> npt.NDArray[np.float64]:
    # SplitMix64 (Steele et al., OOPSLA 2014), whose products wrap round as meant.
    mixed = rows["position"].astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64


class Kept:
    """Values of the highest priority, at most so many.

    Args:
        limit: Most values to hold.

    Example:
        >>> kept = Kept(2)
        >>> for position, priority in enumerate([0.1, 0.9, 0.5]):
        ...     kept.offer(priority, position, f"sample {position}")
        >>> kept.values
        {1: 'sample 1', 2: 'sample 2'}
    """

    def __init__(self, limit: int) -> None:
        self.values: dict[int, Any] = {}
        self._limit = limit
        self._heap: list[tuple[float, int]] = []

    def wants(self, priority: float, position: int) -> bool:
        """Return whether a sample would be kept."""
        if position in self.values or not self._limit:
            return False
        return len(self._heap) < self._limit or (priority, -position) > self._heap[0]

    def offer(self, priority: float, position: int, value: Any) -> None:
        """Keep a value if there is room, or another one comes after it."""
        if not self.wants(priority, position):
            return
        self.values[position] = value
        heapq.heappush(self._heap, (priority, -position))
        if len(self._heap) > self._limit:
            del self.values[-heapq.heappop(self._heap)[1]]

"""The frontier of error and negative flips: points that no other point beats in both."""

from collections.abc import Iterable
from typing import NamedTuple

from lightning_graceful.callbacks.logged import is_within


class ParetoPoint(NamedTuple):
    """A model of a training, as validation saw it.

    Attributes:
        epoch: Its epoch.
        step: Its training step.
        error: Its error, or what else is monitored in its place.
        nfr: Its negative-flip rate, likewise.
        path: Its checkpoint; None if it was never saved. One that was dominated later is on disk no more.
    """

    epoch: int
    step: int
    error: float
    nfr: float
    path: str | None

    @property
    def is_finite(self) -> bool:
        """Whether both values are numbers that can be compared."""
        return abs(self.error) < float("inf") and abs(self.nfr) < float("inf")

    def dominates(self, other: "ParetoPoint") -> bool:
        """Say whether this point is no worse in both, and was there first where both are equal.

        Args:
            other: Another point.

        Returns:
            Whether ``other`` is not needed.
        """
        if (self.error, self.nfr) == (other.error, other.nfr):
            return self.step < other.step
        return self.error <= other.error and self.nfr <= other.nfr


def frontier_of(points: Iterable[ParetoPoint]) -> list[ParetoPoint]:
    """Keep the points that are not dominated.

    Args:
        points: Any points; those with NaN or Inf are left out.

    Returns:
        From the lowest NFR to the lowest error.

    Example:
        >>> points = [ParetoPoint(0, 10, 0.3, 0.00, None), ParetoPoint(1, 20, 0.2, 0.02, None)]
        >>> [point.epoch for point in frontier_of([*points, ParetoPoint(2, 30, 0.25, 0.03, None)])]
        [0, 1]
    """
    finite = [point for point in points if point.is_finite]
    kept = [point for point in finite if not any(other.dominates(point) for other in finite)]
    return sorted(kept, key=lambda point: point.nfr)


def best_of(frontier: list[ParetoPoint], budget: float | None) -> ParetoPoint:
    """Choose the least error among the points within a budget.

    Args:
        frontier: At least one point, from the lowest NFR to the lowest error.
        budget: Highest NFR that is allowed; None allows any.

    Returns:
        The point; the one of least NFR where none is within the budget.

    Example:
        >>> frontier = [ParetoPoint(0, 10, 0.3, 0.01, None), ParetoPoint(1, 20, 0.2, 0.02, None)]
        >>> best_of(frontier, 0.01).epoch, best_of(frontier, None).epoch, best_of(frontier, 0.001).epoch
        (0, 1, 0)
    """
    within = [point for point in frontier if budget is None or is_within(point.nfr, budget)]
    return min(within, key=lambda point: point.error) if within else frontier[0]

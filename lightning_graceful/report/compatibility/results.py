"""From measures of each query to the intervals of a way."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.functional.statistics.gains import gain_interval, percentile_interval, resampled_means
from lightning_graceful.report.compatibility.summary import Way
from lightning_graceful.report.compatibility.words import UNKNOWN

PerQuery = Mapping[str, ArrayLike]


def way_of(
    name: str,
    *,
    cross_test: PerQuery,
    self_test: PerQuery,
    old_self_test: PerQuery,
    paragon_self_test: PerQuery | None = None,
    shared_self_test: PerQuery | None = None,
    detail: str = "",
    groups: Mapping[str, ArrayLike] | None = None,
    train_seconds: float | None = None,
    minimum_gap: float = 0.05,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Way:
    """Compute what is shown of a way: all means and differences over the same resampled queries.

    Args:
        name: Name of the way.
        cross_test: By measure, each query's value of new queries in the old gallery, shape ``(S, Q)`` or ``(Q,)``; NaN
            for a query without a match.
        self_test: Of new queries in the new gallery, native space.
        old_self_test: Of old queries in the old gallery.
        paragon_self_test: Of the paragon in its own gallery; None without one.
        shared_self_test: As ``self_test``, in the space that is compatible with the old one; None where there is one
            space.
        detail: What sets the way apart.
        groups: By name, which queries belong to it, bool, shape ``(Q,)``.
        train_seconds: Time that the training took.
        minimum_gap: Gap between paragon and old model below which there is no update gain.
        replicates: Number of resamples.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        The way.

    Raises:
        ValueError: If measures differ between the tests, shapes do not fit, or an argument is out of its domain.

    Example:
        >>> old, new, paragon = {"map": [0.2, 0.4]}, {"map": [0.4, 0.6]}, {"map": [0.6, 0.8]}
        >>> way = way_of("copy", cross_test=new, self_test=new, old_self_test=old, paragon_self_test=paragon)
        >>> [round(value, 2) for value in (*way.cross_gain["map"], way.update_gain["map"].mean, way.tax["map"].mean)]
        [0.2, 0.2, 0.2, 0.5, 0.2]
    """
    if not minimum_gap >= 0:
        raise ValueError(f"Expected minimum_gap of at least 0, got {minimum_gap}. Pass 0.05 for 5 points.")
    tests = {"cross": cross_test, "self": self_test, "shared": shared_self_test, "old": old_self_test}
    tests |= {"paragon": paragon_self_test}
    given = {key: test for key, test in tests.items() if test is not None}
    _check_measures(given)
    found: dict[str, dict[str, Interval]] = {}
    for measure in cross_test:
        columns = resampled_means(*(test[measure] for test in given.values()), replicates=replicates, seed=seed)
        means = dict(zip(given, columns.T, strict=True))
        for key, interval in _intervals(means, minimum_gap, confidence).items():
            found.setdefault(key, {})[measure] = interval
    of_groups = {
        group: intervals_of(_within(cross_test, chosen), replicates=replicates, confidence=confidence, seed=seed)
        for group, chosen in (groups or {}).items()
    }
    return Way(name, detail, **found, train_seconds=train_seconds, groups=of_groups)


def intervals_of(
    per_query: PerQuery, *, replicates: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Compute the mean and its interval of each measure, such as of the old model's self test.

    Args:
        per_query: By measure, each query's value, shape ``(S, Q)`` or ``(Q,)``; NaN for a query without a match.
        replicates: Number of resamples.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        By measure.

    Example:
        >>> intervals_of({"map": [[0.5, 0.5], [0.75, 0.75]]})
        {'map': Interval(mean=0.625, low=0.625, high=0.625)}
    """
    return {
        measure: percentile_interval(
            resampled_means(values, replicates=replicates, seed=seed)[:, 0], confidence=confidence
        )
        for measure, values in per_query.items()
    }


def _intervals(means: Mapping[str, NDArray[np.float64]], minimum_gap: float, confidence: float) -> dict[str, Interval]:
    # By the fields of a way.
    def interval(values: NDArray[np.float64]) -> Interval:
        return percentile_interval(values, confidence=confidence)

    cross, own, old, paragon = means["cross"], means["self"], means["old"], means.get("paragon")
    given = {"minimum_gap": minimum_gap, "confidence": confidence}
    return {
        "cross_test": interval(cross),
        "self_test": interval(own),
        "shared_self_test": interval(means.get("shared", own)),
        "cross_gain": interval(cross - old),
        "update_gain": UNKNOWN if paragon is None else gain_interval(cross, old, paragon, **given),
        "tax": UNKNOWN if paragon is None else interval(paragon - own),
    }


def _within(per_query: PerQuery, chosen: ArrayLike) -> dict[str, NDArray[np.float64]]:
    mask = np.asarray(chosen)
    arrays = {measure: np.asarray(values, np.float64) for measure, values in per_query.items()}
    queries = next(iter(arrays.values())).shape[-1]
    if mask.dtype != np.bool_ or mask.shape != (queries,):
        raise ValueError(f"Expected a group as bool, shape ({queries},), got {mask.dtype} of shape {mask.shape}.")
    return {measure: values[..., mask] for measure, values in arrays.items()}


def _check_measures(tests: Mapping[str, PerQuery]) -> None:
    said = {key: sorted(test) for key, test in tests.items()}
    if not said["cross"] or any(measures != said["cross"] for measures in said.values()):
        raise ValueError(f"Expected the same measures of every test, at least one, got {said}.")

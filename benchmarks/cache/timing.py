"""Timings of several ways to do a thing, side by side: the machine is shared, so only what ran together is compared."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

WARM_UP = 3
RESAMPLES = 10_000


def interleaved(
    arms: Mapping[str, Callable[[Any], Any]], draw: Callable[[], Any], repeats: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Time arms in turn, each time beginning with another; seconds by arm.

    Each arm gets a draw of its own: what one has read, the next would find in the processor's cache.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    with undisturbed():
        for repeat in range(warm_up + repeats):
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                drawn = draw()
                start = time.perf_counter()
                made = arms[name](drawn)
                taken[name].append(time.perf_counter() - start)
                del made  # giving memory back is nobody's lookup
    return {name: values[warm_up:] for name, values in taken.items()}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of somebody's time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def spread(values: Sequence[float], scale: float = 1e3) -> dict[str, float]:
    """Median, quartiles and tail; of seconds, in milliseconds."""
    low, median, high, tail = np.quantile(np.asarray(values) * scale, [0.25, 0.5, 0.75, 0.99]).tolist()
    return {"median": median, "q1": low, "q3": high, "p99": tail, "n": len(values)}


def spreads(taken: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {name: spread(values) for name, values in taken.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Spread of the ratio of what ran in the same repeat."""
    return spread(np.asarray(above) / np.asarray(below), scale=1)


def extra_percent(arm: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Per cent by which an arm is slower than the base: median over rounds with its 95 % interval (bootstrap)."""
    extra = 100 * (np.asarray(arm) / np.asarray(base) - 1)
    drawn = np.random.default_rng(0).choice(extra, (RESAMPLES, len(extra)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975]).tolist()
    return {**spread(extra, scale=1), "low": low, "high": high}

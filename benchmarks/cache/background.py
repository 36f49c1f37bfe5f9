"""Goal 2: how long a training step waits for rows on a cold disk when they are read in the background."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl

from benchmarks.cache.data import Lit, files_of, fill_truly, light_net, loader, trainer
from benchmarks.cache.machine import made_cold, resident
from benchmarks.cache.sparse import CLASSES
from benchmarks.cache.timing import spread
from lightning_graceful import OldModel, OldOutputCache
from lightning_graceful.callbacks.serving import OldServer
from lightning_graceful.data.store import OutputStore
from lightning_graceful.models.resnet import ResNet

STEP_WIDTHS = (8, 16)  # on images halved by the stem: a step of about 50 ms on one thread
PREFETCH = 2  # batches a worker that a DataLoader draws ahead


def store_of_fit(folder: Path, rows: int) -> Path:
    """Have the callback make the store that belongs to our images, and fill all of it."""
    old = OldModel(light_net())
    fit(old, folder, rows, workers=0, limit_train_batches=1)
    (path,) = folder.iterdir()
    fill_truly(path, old)
    return path


def waits(folder: Path, rows: int, steps: int, rounds: int, workers: tuple[int, ...]) -> dict[str, Any]:
    """Waits by number of workers: as the package does it, and where the store is too large to be paged in."""
    (path,) = folder.iterdir()
    arms = {(count, paged): Waits(path) for count in workers for paged in (True, False)}
    for _ in range(rounds):
        for (count, paged), arm in arms.items():
            arm.one_fit(folder, rows, count, steps, paged=paged)
    return {
        f"{count} workers, {'default' if paged else 'never paged in'}": arm.figures()
        for (count, paged), arm in arms.items()
    }


class Waits:
    """What the steps of some cold fits waited for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, list[float]] = {name: [] for name in ("wait", "serve", "first_wait", "step")}
        self.resident: dict[str, list[float]] = {name: [] for name in ("before", "at_first_step", "at_last_step")}

    def one_fit(self, folder: Path, rows: int, workers: int, steps: int, *, paged: bool) -> None:
        """Fit over a store that was just forgotten; the first batches, drawn before the store is open, count apart."""
        first = PREFETCH * workers + 1
        self.resident["before"].append(made_cold(files_of(self.path)))
        old, clock = OldModel(light_net()), _Steps(files_of(self.path))
        with _serves_timed() as served, _populating(paged):
            fit(old, folder, rows, workers, clock, max_steps=first + steps)
        self.records["first_wait"] += [wait for wait, _ in served[:first]]
        self.records["wait"] += [wait for wait, _ in served[first:]]
        self.records["serve"] += [total for _, total in served[first:]]
        self.records["step"] += clock.intervals[first:]
        self.resident["at_first_step"].append(clock.resident[0])
        self.resident["at_last_step"].append(clock.resident[-1])

    def figures(self) -> dict[str, Any]:
        return {
            **{name: spread(values) for name, values in self.records.items()},
            "resident": {name: sum(shares) / len(shares) for name, shares in self.resident.items()},
        }


def fit(old: OldModel, folder: Path, rows: int, workers: int, *callbacks: pl.Callback, **limits: Any) -> None:
    module = Lit(ResNet(3, CLASSES, widths=STEP_WIDTHS, stem_stride=2))
    runner = trainer(OldOutputCache(old, folder), *callbacks, **{"max_epochs": 1, **limits})
    runner.fit(module, loader(rows, workers=workers))


class _Steps(pl.Callback):
    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.intervals: list[float] = []
        self.resident: list[float] = []
        self._last = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.resident:
            self.resident.append(resident(self.files))

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        if self._last:
            self.intervals.append(now - self._last)
        self._last = now

    def on_train_end(self, *_: Any) -> None:
        self.resident.append(resident(self.files))


@contextmanager
def _serves_timed() -> Iterator[list[tuple[float, float]]]:
    # For each batch the wait for the reader, and all of `serve`.
    taken: list[tuple[float, float]] = []
    serve = OldServer.serve

    def timed(server: OldServer, samples: Any, delivered: Any) -> Any:
        start = time.perf_counter()
        ahead = samples.ahead.get(id(server))
        if ahead is not None:
            ahead.result()
        waited = time.perf_counter()
        try:
            return serve(server, samples, delivered)
        finally:
            taken.append((waited - start, time.perf_counter() - start))

    with patch.object(OldServer, "serve", timed):
        yield taken


@contextmanager
def _populating(paged: bool) -> Iterator[None]:
    # Without: as where a store takes more than half of the free memory.
    if paged:
        yield
        return
    with patch.object(OutputStore, "populate", lambda store: False):
        yield

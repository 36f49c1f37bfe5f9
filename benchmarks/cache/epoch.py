"""Goal 6: what a step of ResNet-18 costs with a warm cache, with the old model run live, and with neither.

Four fits run at once, each in a thread, and take turns: one step of each, in a new order each round. What the machine
does meanwhile so falls on all of them, and the steps of a round are pairs.
"""

import gc
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.cache.data import Lit, loader, resnet18, trainer
from benchmarks.cache.timing import extra_percent, spread, spreads, undisturbed
from lightning_graceful import FocalDistillationLoss, OldModel, OldOutputCache, make_graceful

SETTLE = 3  # first steps of a fit: the optimiser makes its buffers


class Turns(pl.Callback):
    """Lets its fit go on for one step at a time, from the end of a batch to the end of the next."""

    def __init__(self) -> None:
        self.may_go = threading.Semaphore(0)
        self.has_stopped = threading.Semaphore(0)
        self.started = 0.0
        self.wall: list[float] = []
        self.cpu: list[float] = []  # of all threads, the cache's reader among them
        self._begun: tuple[float, float] | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = self.started or time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        if self._begun is not None:
            self.wall.append(time.perf_counter() - self._begun[0])
            self.cpu.append(time.process_time() - self._begun[1])
        self.has_stopped.release()
        self.may_go.acquire()
        self._begun = time.perf_counter(), time.process_time()


class TimedCache(OldOutputCache):
    """Notes what a step pays inside the callback."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.taken: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        start = time.perf_counter()
        super().on_train_batch_start(*args)
        self.taken.append(time.perf_counter() - start)


def against_nothing(folder: Path, images: int, batch: int, rounds: int) -> dict[str, Any]:
    """Steps of each kind, and by how much they are longer than those of the fit without an old model."""
    net = resnet18()
    trainer(OldOutputCache(OldModel(net), folder), max_steps=1).fit(Lit(resnet18()), loader(images, batch))
    graceful = make_graceful(Lit(resnet18()), terms={"pct": FocalDistillationLoss()})
    timed = TimedCache(OldModel(net), folder)
    arms = {
        "plain": (Lit(resnet18()), []),
        "cache": (Lit(resnet18()), [timed]),
        "online": (Lit(resnet18()), [OldOutputCache(OldModel(net), folder, fill="never")]),
        "cache_pct": (graceful, [OldOutputCache(OldModel(net), folder)]),
    }
    turns = {arm: Turns() for arm in arms}
    fits = {arm: _fit(turns[arm], *parts, images, batch, rounds) for arm, parts in arms.items()}
    before = _take_turns(turns, fits, rounds)
    wall = {arm: one.wall[SETTLE:] for arm, one in turns.items()}
    cpu = {arm: one.cpu[SETTLE:] for arm, one in turns.items()}
    others = [arm for arm in arms if arm != "plain"]
    return {
        "images": images,
        "batch": batch,
        "rounds": rounds,
        "wall": spreads(wall),
        "cpu": spreads(cpu),
        "before_first_step_s": before,
        "inside_callback": spread(timed.taken[SETTLE:]),
        "extra_percent": {arm: extra_percent(wall[arm], wall["plain"]) for arm in others},
        "extra_percent_cpu": {arm: extra_percent(cpu[arm], cpu["plain"]) for arm in others},
    }


def _fit(turns: Turns, module: Any, callbacks: list[Any], images: int, batch: int, rounds: int) -> Callable[[], None]:
    def fit() -> None:
        torch.set_num_threads(1)  # each thread has a setting of its own
        try:
            runner = trainer(*callbacks, turns, max_steps=1 + SETTLE + rounds, max_epochs=-1)
            runner.fit(module, loader(images, batch))
        finally:
            turns.has_stopped.release()

    return fit


def _take_turns(turns: dict[str, Turns], fits: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    # Return the seconds from the start of each fit to its first step.
    order, before = random.Random(0), {}
    running: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(len(turns)) as pool, undisturbed():
        for arm, one in turns.items():
            begun = time.perf_counter()
            running[arm] = pool.submit(fits[arm])
            one.has_stopped.acquire()
            before[arm] = one.started - begun
        for _ in range(SETTLE + rounds):
            for arm in order.sample(list(turns), len(turns)):
                turns[arm].may_go.release()
                turns[arm].has_stopped.acquire()
            gc.collect()
        for arm, one in turns.items():
            one.may_go.release()
            running[arm].result()
    return before

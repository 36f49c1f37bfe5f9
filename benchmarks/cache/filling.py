"""Goal 5: fill a store ahead of training against running the old model over the same loader and writing nothing."""

import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from benchmarks.cache.data import Lit, light_net, loader, resnet18, trainer
from benchmarks.cache.sparse import BATCH, CLASSES
from benchmarks.cache.timing import extra_percent, spread, undisturbed
from lightning_graceful import OldModel, OldOutputCache
from lightning_graceful.callbacks import old_outputs
from lightning_graceful.data.probe import PROBE_SIZE

Seconds = tuple[float, float]  # wall, processor
Arms = dict[str, Callable[[], Seconds]]
FEW_CLASSES = 10
FILL = "lightning_graceful.callbacks.old_outputs.fill_ahead"


def against_inference(folder: Path, images: int, batch: int, rounds: int) -> dict[str, Any]:
    """ResNet-18: rounds of a bare run and fills, for 10 classes and for 1000 (dense, top 10)."""
    few, many = resnet18(FEW_CLASSES).eval(), resnet18(CLASSES).eval()
    arms = {
        "bare_10": lambda: bare(few, images, batch),
        "dense_10": lambda: fill(folder, few, images, batch),
        "bare_1000": lambda: bare(many, images, batch),
        "dense_1000": lambda: fill(folder, many, images, batch),
        "top10_1000": lambda: fill(folder, many, images, batch, top_k=10),
    }
    wall, cpu = by_rounds(arms, rounds)
    fills = {arm: f"bare_{arm.split('_')[1]}" for arm in arms if "bare" not in arm}
    return {
        "images": images,
        "batch": batch,
        "rounds": rounds,
        "wall_s": {arm: spread(values, 1) for arm, values in wall.items()},
        "cpu_s": {arm: spread(values, 1) for arm, values in cpu.items()},
        "extra_percent": {arm: extra_percent(wall[arm], wall[base]) for arm, base in fills.items()},
        "extra_percent_cpu": {arm: extra_percent(cpu[arm], cpu[base]) for arm, base in fills.items()},
    }


def ceiling(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    """With an old model that costs next to nothing: what a fill adds for each image, however fast the model is."""
    light = light_net().eval()
    arms = {
        "bare": lambda: bare(light, images, BATCH),
        "dense": lambda: fill(folder, light, images, BATCH),
        "top10": lambda: fill(folder, light, images, BATCH, top_k=10),
    }
    wall, _ = by_rounds(arms, rounds)
    added = {arm: np.subtract(wall[arm], wall["bare"]) / images for arm in ("dense", "top10")}
    return {
        "images": images,
        "bare_us": spread(np.divide(wall["bare"], images), 1e6),
        "added_us": {arm: spread(values, 1e6) for arm, values in added.items()},
    }


def by_rounds(arms: Arms, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and processor seconds that the arms say, each round beginning with another; the first does not count."""
    wall: dict[str, list[float]] = {arm: [] for arm in arms}
    cpu: dict[str, list[float]] = {arm: [] for arm in arms}
    names = list(arms)
    with undisturbed():
        for number in range(1 + rounds):
            for arm in np.roll(names, number).tolist():
                seconds = arms[arm]()
                wall[arm].append(seconds[0])
                cpu[arm].append(seconds[1])
            gc.collect()
    return tuple({arm: values[1:] for arm, values in taken.items()} for taken in (wall, cpu))


def bare(net: nn.Module, images: int, batch: int) -> Seconds:
    """The model over all batches of the loader."""
    batches = loader(images, batch, shuffle=False)
    with torch.no_grad():
        net(next(iter(batches))[0][:PROBE_SIZE])  # as a fill has run the model on its probe by then
        clock = Clock()
        for image, _ in batches:
            net(image)
    return clock.seconds()


def fill(folder: Path, net: nn.Module, images: int, batch: int, top_k: int | None = None) -> Seconds:
    """The fill in a run of Lightning; that the files reach the disk is not waited for."""
    place = Path(tempfile.mkdtemp(dir=folder))
    cache = OldOutputCache(OldModel(net), place, top_k=top_k)
    with _timed() as taken:
        trainer(cache).validate(Lit(nn.Identity()), loader(images, batch, shuffle=False), verbose=False)
    shutil.rmtree(place)
    (seconds,) = taken
    return seconds


class Clock:
    """Wall time, and processor time of all threads."""

    def __init__(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def seconds(self) -> Seconds:
        return time.perf_counter() - self._begun[0], time.process_time() - self._begun[1]


@contextmanager
def _timed() -> Iterator[list[Seconds]]:
    taken: list[Seconds] = []
    fill_ahead = old_outputs.fill_ahead

    def timed(*args: Any, **options: Any) -> int:
        clock = Clock()
        computed = fill_ahead(*args, **options)
        taken.append(clock.seconds())
        return computed

    with patch(FILL, timed):
        yield taken

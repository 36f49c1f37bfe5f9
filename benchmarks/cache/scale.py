"""Goals 7 and 8: lookup and memory of stores of 1e5 to 5e7 rows of 64 bytes: sparse but for the rows that are read."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cache.data import BATCH, CLASSES, make_store
from benchmarks.cache.lookup import warm
from benchmarks.cache.timing import interleaved, ratio, spreads
from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.store import OutputStore

BATCHES = 200


def make_stores(folder: Path, sizes: tuple[int, ...]) -> dict[int, Path]:
    """Stores in which only the rows are written that :func:`batches` asks for."""
    paths = {size: folder / f"sparse-{size}" for size in sizes}
    for size, path in paths.items():
        with make_store(path, size, top_k=10) as store:
            index = batches(size).flatten()
            for part in index.split(BATCH * 16):
                store.write(part, Outputs(torch.randn(len(part), CLASSES)), part % CLASSES)
    return paths


def batches(size: int) -> Tensor:
    """Random rows of a store, each once, by batch."""
    count = min(BATCHES, size // BATCH) * BATCH
    # Not a permutation of all rows, whose memory would be taken for the store's.
    return torch.tensor(random.Random(size).sample(range(size), count)).view(-1, BATCH)


def lookups(paths: dict[int, Path], repeats: int) -> dict[str, Any]:
    """Goal 7: time of a batch and of opening by size; the same gather in RAM beside it."""
    chosen = {size: batches(size) for size in paths}
    numbers = iter(range(10**9))
    draw = lambda: next(numbers)  # noqa: E731
    opening = interleaved({str(size): _opener(path) for size, path in paths.items()}, draw, max(5, repeats // 10))
    touched = {size: OutputStore.open_existing(path) for size, path in paths.items()}
    first = interleaved({str(size): _reader(touched[size], chosen[size]) for size in paths}, draw, repeats // 2)
    for store in touched.values():
        store.close()
    stores = {size: warm(path) for size, path in paths.items()}
    reads = interleaved({str(size): _reader(stores[size], chosen[size]) for size in paths}, draw, repeats)
    for store in stores.values():
        store.close()
    # Ones, for a page of zeros that was never written is the same page everywhere.
    arrays = {size: np.ones((size, 64), dtype=np.uint8) for size in paths}
    gathers = {str(size): _gatherer(arrays[size], chosen[size]) for size in paths}
    ram = interleaved(gathers, draw, repeats)
    small, large = str(min(paths)), str(max(paths))
    return {
        "open": spreads(opening),
        "read": spreads(reads),
        "read_first_touch": spreads(first),
        "ram": spreads(ram),
        "ratio": ratio(reads[large], reads[small]),
        "ratio_first_touch": ratio(first[large], first[small]),
        "ratio_ram": ratio(ram[large], ram[small]),
    }


def memory(paths: dict[int, Path]) -> dict[str, dict[str, int]]:
    """Goal 8: bytes of a fresh process before it opens a store, and after it has read 200 batches."""
    return {str(size): _in_fresh_process(path, size) for size, path in paths.items()}


def _in_fresh_process(path: Path, size: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.cache.reading", str(path), str(size)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found: dict[str, int] = json.loads(answer.stdout)
    return found


def _opener(path: Path) -> Any:
    def opened(_: int) -> OutputStore:
        store = OutputStore.open_existing(path)
        store.filled(torch.tensor([0]))  # the map is made when it is needed
        return store

    return opened


def _reader(store: OutputStore, chosen: Tensor) -> Any:
    return lambda number: store.read(chosen[number % len(chosen)])


def _gatherer(array: np.ndarray, chosen: Tensor) -> Any:
    return lambda number: array[chosen[number % len(chosen)].numpy()]

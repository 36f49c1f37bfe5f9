"""Goals 7 and 8: lookup and memory of stores of 1e5 to 5e7 rows of 64 bytes: sparse but for the rows that are read."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cache.lookup import warm
from benchmarks.cache.sparse import batches
from benchmarks.cache.timing import interleaved, ratio, spreads
from lightning_graceful.data.store import OutputStore, Rows

BATCHES = 2000  # more than the processor's caches hold
READ_BY_PROCESS = 200


def lookups(paths: dict[int, Path], repeats: int) -> dict[str, Any]:
    """Goal 7: time of opening and of a batch by size, and of the same gather in RAM."""
    chosen = {size: batches(size, BATCHES) for size in paths}
    next_batch = itertools.count().__next__
    opening = interleaved({str(size): _opener(path) for size, path in paths.items()}, next_batch, max(5, repeats // 10))
    unmapped = {size: OutputStore.open_existing(path) for size, path in paths.items()}
    taken = {"open": opening, "unmapped": interleaved(_readers(unmapped, chosen), next_batch, repeats // 2)}
    _close(unmapped)
    stores = {size: warm(path) for size, path in paths.items()}
    taken["first"] = interleaved(_readers(stores, chosen), next_batch, repeats)
    for size, store in stores.items():
        for index in chosen[size]:
            store.read(index)
    taken["read"] = interleaved(_readers(stores, chosen), next_batch, repeats)
    _close(stores)
    # Ones, for a page of zeros that was never written is the same page everywhere.
    arrays = {size: np.ones((size, 64), dtype=np.uint8) for size in paths}
    gathers = {str(size): _gatherer(arrays[size], chosen[size]) for size in paths}
    taken["ram"] = interleaved(gathers, next_batch, repeats)
    small, large = str(min(paths)), str(max(paths))
    return {
        **{name: spreads(times) for name, times in taken.items()},
        "ratio": {name: ratio(times[large], times[small]) for name, times in taken.items()},
    }


def memory(paths: dict[int, Path]) -> dict[str, dict[str, int]]:
    """Goal 8: bytes of a fresh process before it opens a store, and after it has read 200 batches."""
    return {str(size): _in_fresh_process(path, size) for size, path in paths.items()}


def _in_fresh_process(path: Path, size: int) -> dict[str, int]:
    rows = path.with_suffix(".npy")
    np.save(rows, batches(size, BATCHES)[:READ_BY_PROCESS].numpy())
    command = [sys.executable, "-m", "benchmarks.cache.reading", str(path), str(rows)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found: dict[str, int] = json.loads(answer.stdout)
    return found


def _opener(path: Path) -> Callable[[int], OutputStore]:
    def opened(_: int) -> OutputStore:
        store = OutputStore.open_existing(path)
        store.filled(torch.tensor([0]))  # the map is made when it is needed
        return store

    return opened


def _readers(stores: dict[int, OutputStore], chosen: dict[int, Tensor]) -> dict[str, Callable[[int], Rows]]:
    return {str(size): _reader(store, chosen[size]) for size, store in stores.items()}


def _reader(store: OutputStore, chosen: Tensor) -> Callable[[int], Rows]:
    return lambda number: store.read(chosen[number % len(chosen)])


def _gatherer(array: NDArray[np.uint8], chosen: Tensor) -> Callable[[int], NDArray[np.uint8]]:
    return lambda number: array[chosen[number % len(chosen)].numpy()]


def _close(stores: dict[int, OutputStore]) -> None:
    for store in stores.values():
        store.close()

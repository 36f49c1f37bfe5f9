"""Stores of any size that are empty but for some random rows; imports no Lightning."""

import random
from pathlib import Path

import torch
from torch import Tensor

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.store import OutputStore, RowLayout

BATCH = 256
CLASSES = 1000
WRITTEN_AT_ONCE = 4096


def make_store(path: Path, rows: int, top_k: int | None = None, classes: int = CLASSES) -> OutputStore:
    layout = RowLayout(logits=classes, top_k=top_k)
    return OutputStore.open(path, fingerprint={"benchmark": "cache"}, num_rows=rows, layout=layout)


def make_stores(folder: Path, sizes: tuple[int, ...], count: int) -> dict[int, Path]:
    """Stores of rows of 64 bytes in which only those are written that :func:`batches` asks for."""
    paths = {size: folder / f"sparse-{size}" for size in sizes}
    logits = Outputs(torch.randn(WRITTEN_AT_ONCE, CLASSES))
    for size, path in paths.items():
        with make_store(path, size, top_k=10) as store:
            for part in batches(size, count).flatten().split(WRITTEN_AT_ONCE):
                store.write(part, Outputs(logits.logits[: len(part)]), part % CLASSES)
    return paths


def batches(size: int, count: int) -> Tensor:
    """Random rows of a store, each once, by batch: so many batches, or as many as there are rows for."""
    rows = min(count, size // BATCH) * BATCH
    # Not a permutation of all rows, whose memory would be taken for the store's.
    return torch.tensor(random.Random(size).sample(range(size), rows)).view(-1, BATCH)

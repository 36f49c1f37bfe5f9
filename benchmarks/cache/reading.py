"""What a process that reads a store takes of memory: ``python -m benchmarks.cache.reading STORE ROWS.npy``."""

import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.cache.machine import memory_of_this_process
from benchmarks.cache.sparse import batches, make_stores
from lightning_graceful.data.store import OutputStore

FEW_ROWS = 10_000


def main() -> None:
    path, chosen = Path(sys.argv[1]), torch.from_numpy(np.load(sys.argv[2]))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # What the first reads of a process take for good, whatever they read.
        (small,) = make_stores(Path(folder), (FEW_ROWS,), len(chosen)).values()
        read_all(small, batches(FEW_ROWS, len(chosen))).close()
    gc.collect()
    before = memory_of_this_process()
    with read_all(path, chosen):
        after = memory_of_this_process()
    print(json.dumps({"before": before["RssAnon"], "after": after["RssAnon"], "page_tables": after["VmPTE"]}))


def read_all(path: Path, chosen: torch.Tensor) -> OutputStore:
    store = OutputStore.open_existing(path)
    for index in chosen:
        store.read(index).outputs()
    return store


if __name__ == "__main__":
    main()

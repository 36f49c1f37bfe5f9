"""What a process that reads a store takes of memory: ``python -m benchmarks.cache.reading STORE ROWS``."""

import gc
import json
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.cache.machine import memory_of_this_process
from benchmarks.cache.scale import batches, make_stores
from lightning_graceful.data.store import OutputStore


def main() -> None:
    path, size = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    chosen = batches(size)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # What the first read of a process takes for good, whatever it reads.
        (small,) = make_stores(Path(folder), (10_000,)).values()
        read_all(small, batches(10_000))
    gc.collect()
    before = memory_of_this_process()
    store = read_all(path, chosen)
    after = memory_of_this_process()
    store.close()
    print(json.dumps({"before": before["RssAnon"], "after": after["RssAnon"], "page_tables": after["VmPTE"]}))


def read_all(path: Path, chosen: torch.Tensor) -> OutputStore:
    store = OutputStore.open_existing(path)
    for index in chosen:
        store.read(index).outputs()
    return store


if __name__ == "__main__":
    main()

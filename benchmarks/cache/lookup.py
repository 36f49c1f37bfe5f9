"""Goals 1, 3 and 4: a batch of rows against a gather in RAM, against one .pt file a sample, and in 64 bytes a row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cache.data import files_of, fill_truly, in_memory, light_net
from benchmarks.cache.machine import made_cold, resident
from benchmarks.cache.sparse import BATCH, CLASSES, make_store
from benchmarks.cache.timing import interleaved, ratio, spreads
from lightning_graceful import OldModel
from lightning_graceful.data.store import OutputStore, RowLayout

MANY_CLASSES = 65_536
MANY_ROWS = 256
COLD_BATCHES = 8


def fill_stores(folder: Path, rows: int) -> tuple[Path, Path]:
    """A store of all 1000 logits in float16 and one of the 10 largest."""
    old = OldModel(light_net())
    for name, top_k in {"dense": None, "top10": 10}.items():
        make_store(folder / name, rows, top_k).close()
        fill_truly(folder / name, old)
    return folder / "dense", folder / "top10"


def against_ram(path: Path, repeats: int) -> dict[str, Any]:
    """Goal 1: rows of a warm store against the same rows in an array; each repeat takes new random rows."""
    with warm(path) as store:
        array = in_memory(OldModel(light_net()), store.num_rows)
        check = random_rows(store.num_rows)()
        assert np.array_equal(array[check.numpy()], store.read(check).outputs().logits.half().numpy())
        arms = {
            "ram": lambda index: array[index.numpy()],
            "ram_take": lambda index: np.take(array, index.numpy(), axis=0),
            "read": store.read,
            "ram_float32": lambda index: torch.from_numpy(array[index.numpy()]).float(),
            "read_outputs": lambda index: store.read(index).outputs("cpu"),
        }
        first = interleaved(arms, random_rows(store.num_rows), repeats // 3)
        store.verify()  # reads every row
        later = interleaved(arms, random_rows(store.num_rows), repeats)
        return {
            "rows": store.num_rows,
            "bytes": store.num_rows * store.layout.nbytes,
            "resident": resident(files_of(path)),
            "first": _against_ram(first),
            "later": _against_ram(later),
        }


def _against_ram(taken: dict[str, list[float]]) -> dict[str, Any]:
    ratios = {"read": "ram", "read_outputs": "ram_float32"}
    return {
        **spreads(taken),
        "ratio": {ours: ratio(taken[ours], taken[base]) for ours, base in ratios.items()},
        "ratio_take": ratio(taken["read"], taken["ram_take"]),
    }


def against_files(folder: Path, dense: Path, top10: Path, samples: int, repeats: int, rounds: int) -> dict[str, Any]:
    """Goal 3: one .pt file a sample, warm and cold, against a store."""
    files = write_files(folder / "pt", samples)
    with warm(dense) as large, warm(top10) as small:
        arms = {"pt": read_files(files), "dense": at_random(large), "top10": at_random(small)}
        warm_times = interleaved(arms, random_rows(samples), repeats)
    cold_times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, values in cold_round(files, dense, top10).items():
            cold_times[name] += values
    return {
        "samples": samples,
        "warm": spreads(warm_times),
        "cold": spreads(cold_times),
        "warm_ratio": {name: ratio(warm_times["pt"], warm_times[name]) for name in ("dense", "top10")},
        # Cold batches are no pairs: the ratio of the medians.
        "cold_ratio": {
            name: float(np.median(cold_times["pt"]) / np.median(cold_times[name])) for name in ("dense", "top10")
        },
    }


def cold_round(files: list[Path], dense: Path, top10: Path) -> dict[str, list[float]]:
    """The first batches after the files were forgotten; nothing pages the stores in."""
    for group in (files, files_of(dense), files_of(top10)):
        made_cold(group)
    with OutputStore.open_existing(dense) as large, OutputStore.open_existing(top10) as small:
        arms = {"pt": read_files(files), "dense": at_random(large), "top10": at_random(small)}
        return interleaved(arms, random_rows(len(files)), COLD_BATCHES, warm_up=0)


def in_64_bytes(dense: Path, top10: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Goal 4: size and lookup of the 10 largest of up to 65,536 classes."""
    sizes = {str(classes): RowLayout(logits=classes, top_k=10).nbytes for classes in (11, 100, CLASSES, MANY_CLASSES)}
    make_store(folder / "many", MANY_ROWS, top_k=10, classes=MANY_CLASSES).close()
    fill_truly(folder / "many", OldModel(light_net(MANY_CLASSES)))
    with warm(dense) as full, warm(top10) as some, warm(folder / "many") as many:
        arms = {
            "dense": full.read,
            "top10": some.read,
            "dense_outputs": lambda index: full.read(index).outputs(),
            "top10_outputs": lambda index: some.read(index).outputs(),
        }
        taken = interleaved(arms, random_rows(some.num_rows), repeats)
        # Apart, for 64 MiB of logits push everybody's rows out of the processor's caches.
        wide = {"many": many.read, "many_outputs": lambda index: many.read(index).outputs()}
        taken |= interleaved(wide, random_rows(MANY_ROWS), repeats // 4)
    return {"bytes": sizes, **spreads(taken)}


def warm(path: Path) -> OutputStore:
    """Open a store and wait until all of it was brought from the disk into memory."""
    made_cold(files_of(path))
    store = OutputStore.open_existing(path)
    if not store.populate():
        raise RuntimeError(f"Expected room in memory for {path}, got too little: close other programs.")
    store._files.wait()
    return store


def random_rows(count: int) -> Callable[[], Tensor]:
    """Draw a batch of different rows each time."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randint(count, (BATCH,), generator=generator)


def at_random(store: OutputStore) -> Callable[[Tensor], Any]:
    """Read as many rows as are asked for, from all over the store; the same ones for the same index."""
    return lambda index: store.read(index * 2_654_435_761 % store.num_rows)


def write_files(folder: Path, samples: int) -> list[Path]:
    folder.mkdir()
    logits = torch.randn(samples, CLASSES).half()
    files = [folder / f"{number:06d}.pt" for number in range(samples)]
    for file, row in zip(files, logits, strict=True):
        torch.save(row.clone(), file)
    return files


def read_files(files: list[Path]) -> Callable[[Tensor], Tensor]:
    return lambda index: torch.stack([torch.load(files[number]) for number in index.tolist()])

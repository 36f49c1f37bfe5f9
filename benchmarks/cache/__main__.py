"""How fast is the cache of old outputs? ``python -m benchmarks.cache --help``; from the root of the checkout."""

import argparse
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.cache import background, epoch, filling, lookup, machine, scale, sparse, table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cache.json"
PARTS = ("lookup", "background", "scale", "filling", "epoch")


@dataclass(frozen=True)
class Sizes:
    rows: int = 1_280_000
    repeats: int = 1000
    pt_files: int = 40_000
    pt_repeats: int = 40
    cold_rounds: int = 5
    steps: int = 150
    workers: tuple[int, ...] = (0, 1, 2)
    fits: int = 3
    many_rows: tuple[int, ...] = (100_000, 1_000_000, 10_000_000, 50_000_000)
    scale_repeats: int = 400
    light_images: int = 65_536
    light_rounds: int = 7
    fill_images: int = 256
    fill_batch: int = 64
    fill_rounds: int = 24
    epoch_images: int = 1024
    epoch_batch: int = 16
    epoch_rounds: int = 200
    free_gb: float = 10


QUICK = Sizes(
    rows=10_000,
    repeats=20,
    pt_files=512,
    pt_repeats=3,
    cold_rounds=1,
    steps=5,
    workers=(0, 1),
    fits=1,
    many_rows=(5_000, 50_000),
    scale_repeats=10,
    light_images=1024,
    light_rounds=1,
    fill_images=16,
    fill_batch=8,
    fill_rounds=1,
    epoch_images=16,
    epoch_batch=4,
    epoch_rounds=1,
    free_gb=0.5,
)


def main() -> None:
    options = _options()
    if options.table:
        print(table.markdown(json.loads(options.out.read_text(encoding="utf-8"))))
        return
    _hush()
    # The second core is for the reader, as on a machine with a GPU, and for whoever else is on this one.
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="cache-bench-", dir=options.dir) as folder:
        results = measure(Path(folder), sizes, options.only, Console(stderr=True))
    if not options.quick and not options.only:
        _write(options.out, results)
    print(table.markdown(results))


def measure(folder: Path, sizes: Sizes, only: list[str], console: Console) -> dict[str, Any]:
    """Run the parts; what one wrote to the disk is deleted before the next."""
    if shutil.disk_usage(folder).free < sizes.free_gb * 1e9:
        raise SystemExit(f"Expected {sizes.free_gb} GB free in {folder}, got less. Name another folder: --dir.")
    results: dict[str, Any] = {"machine": machine.facts(folder), "sizes": asdict(sizes)}
    parts: dict[str, Callable[[Path, Sizes], dict[str, Any]]] = {
        "lookup": _lookup, "background": _background, "scale": _scale, "filling": _filling, "epoch": _epoch,
    }  # fmt: skip
    for name, part in parts.items():
        if not only or name in only:
            place, begun = folder / name, time.perf_counter()
            place.mkdir()
            console.print(f"{name} ...")
            results |= part(place, sizes)
            shutil.rmtree(place)
            console.print(f"{name}: {time.perf_counter() - begun:.0f} s, load {os.getloadavg()[0]:.1f}")
    results["machine"]["load_at_end"] = os.getloadavg()[0]
    return results


def _lookup(folder: Path, sizes: Sizes) -> dict[str, Any]:
    dense, top10 = lookup.fill_stores(folder, sizes.rows)
    return {
        "ram": lookup.against_ram(dense, sizes.repeats),
        "small": lookup.in_64_bytes(dense, top10, folder, sizes.repeats),
        "pt": lookup.against_files(folder, dense, top10, sizes.pt_files, sizes.pt_repeats, sizes.cold_rounds),
    }


def _background(folder: Path, sizes: Sizes) -> dict[str, Any]:
    background.store_of_fit(folder, sizes.rows)
    return {"cold": background.waits(folder, sizes.rows, sizes.steps, sizes.fits, sizes.workers)}


def _scale(folder: Path, sizes: Sizes) -> dict[str, Any]:
    paths = sparse.make_stores(folder, sizes.many_rows, scale.BATCHES)
    return {"scale": scale.lookups(paths, sizes.scale_repeats), "memory": scale.memory(paths)}


def _filling(folder: Path, sizes: Sizes) -> dict[str, Any]:
    return {
        "fill": filling.against_inference(folder, sizes.fill_images, sizes.fill_batch, sizes.fill_rounds),
        "light_fill": filling.ceiling(folder, sizes.light_images, sizes.light_rounds),
    }


def _epoch(folder: Path, sizes: Sizes) -> dict[str, Any]:
    return {"epoch": epoch.against_nothing(folder, sizes.epoch_images, sizes.epoch_batch, sizes.epoch_rounds)}


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(results), indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {str(key): _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _hush() -> None:
    # Lightning's advice on workers and hardware would drown the figures.
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs: under a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[], help="these parts; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where a full run writes (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the table of what --out holds; measure nothing")
    parser.add_argument("--dir", type=Path, help="folder for about 10 GB for the time of the run (default: temporary)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

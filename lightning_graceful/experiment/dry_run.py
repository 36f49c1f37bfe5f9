"""``graceful train dry_run=true``: what the cache of old outputs would cost, before anything is filled."""

import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from torch.utils.data import DataLoader

from lightning_graceful.callbacks.filling import Filling
from lightning_graceful.callbacks.stores import OldStores
from lightning_graceful.data.fetch import few_batches
from lightning_graceful.data.identity import track
from lightning_graceful.data.probe import probe_positions
from lightning_graceful.experiment.datamodules import UpdateDataModule
from lightning_graceful.models.old_model import OldModel


def show_plan(cfg: DictConfig, data: UpdateDataModule, old: OldModel, console: Console) -> None:
    """Print rows, bytes and minutes of what would be filled for training and validation.

    Args:
        cfg: ``conf/train.yaml``, composed; ``callbacks.old_outputs`` says how outputs are kept.
        data: The update's data.
        old: The old model.
        console: Where to.
    """
    options = cfg.callbacks.old_outputs
    table = Table(title="Old outputs that are missing", title_justify="left", box=SIMPLE_HEAD)
    for column in ("data", "rows", "bytes a row", "in all", "minutes on this CPU"):
        table.add_column(column, justify="left" if column == "data" else "right")
    stores = OldStores(
        old,
        Path(options.cache_dir),
        dtype=options.dtype,
        top_k=options.get("top_k"),
        read_batch=old.batch,
        deliver=lambda batch: batch,
        device=torch.device("cpu"),
        console=console,
    )
    try:
        for name, loader in (("training", data.train_dataloader()), ("validation", data.val_dataloader())):
            table.add_row(name, *_row(stores, loader))
    finally:
        stores.close()
    console.print(table)


def _row(stores: OldStores, loader: DataLoader[Any]) -> list[str]:
    track(loader)
    wanted = stores.open(loader)
    rows = sum(sum(Filling(stores, loader, opened, index).missing().values()) for opened, index in wanted)
    row_bytes = wanted[0][0].store.layout.nbytes
    minutes = rows * _seconds_a_sample(stores, loader, wanted[0][0].dataset) / 60
    return [f"{rows:,}", f"{row_bytes:,}", decimal(rows * row_bytes), f"{minutes:.1f}"]


def _seconds_a_sample(stores: OldStores, loader: DataLoader[Any], dataset: Any) -> float:
    index = torch.tensor(probe_positions(len(dataset)))
    assert stores.old is not None
    spent = []
    for _ in range(3):  # the first one warms up
        start = time.perf_counter()
        stores.old.outputs(few_batches(loader, dataset, [index])[0])
        spent.append(time.perf_counter() - start)
    return min(spent) / len(index)

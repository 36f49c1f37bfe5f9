"""Fill the missing rows of a store ahead of training, together with whoever fills it at the same time."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_graceful.callbacks.serving import kept_hash, to_cpu
from lightning_graceful.callbacks.stores import OldStores, Opened
from lightning_graceful.data.batch import batch_size
from lightning_graceful.data.claims import REGION_ROWS, Claims
from lightning_graceful.data.fetch import chosen_batches, fetch_size
from lightning_graceful.data.hashing import input_hash
from lightning_graceful.data.inventory import room_for
from lightning_graceful.data.rows import CacheError
from lightning_graceful.models.old_model import OldModel

WAIT_S = 0.2


class Filling:
    """Fills the rows of one store that a loader can ask for.

    Work is shared out by regions of 1024 rows: a process claims a region, computes what is missing in it and lets it
    go. Ranks of a run and the runs of a sweep so compute each row once, wherever they run; a process that dies gives
    its claims back. What is written before a stop stays.

    Args:
        stores: The stores of the old model.
        loader: Gives collate function and workers.
        opened: The store to fill.
        index: Positions in the base dataset that are wanted, int64, sorted; None for all.
    """

    def __init__(self, stores: OldStores, loader: DataLoader[Any], opened: Opened, index: Tensor | None) -> None:
        self._stores = stores
        self._loader = loader
        self._opened = opened
        self._index = index
        self._claims = Claims(opened.store.path)
        self._under_way: deque[tuple[int, Tensor, bool]] = deque()  # region, rows, whether they are its last

    def missing(self) -> dict[int, int]:
        """Count the missing rows by region; regions that are known to be full are passed over.

        Returns:
            Number of missing rows of each region that misses any.
        """
        full = self._claims.full()
        counts = {region: len(self._missing_in(region)) for region in self._regions() if region not in full}
        return {region: count for region, count in counts.items() if count}

    def run(self, old: OldModel, missing: dict[int, int], progress: Progress) -> int:
        """Run the old model on the missing rows and write what it says.

        Args:
            old: The old model, on the device.
            missing: See :meth:`missing`.
            progress: Shows how far it is.

        Returns:
            Number of rows that this process computed; another one may have computed the rest.
        """
        task = progress.add_task("old outputs", total=sum(missing.values()))
        computed, left = 0, list(missing)
        try:
            while left:
                left_before, left = left, []
                for rows, batch in self._batches(left_before, left):
                    self._write(old, rows, batch)
                    computed += len(rows)
                    progress.advance(task, len(rows))
                if left:
                    waiting = sum(missing[region] for region in left)
                    progress.update(task, description="old outputs (another process fills the rest)")
                    progress.update(task, completed=sum(missing.values()) - waiting)
                    time.sleep(WAIT_S)
        finally:
            self._claims.close()
        return computed

    def _batches(self, regions: list[int], held: list[int]) -> Iterator[tuple[Tensor, Any]]:
        # Regions that another process holds are added to `held`.
        draws = self._draws(regions, held)
        first = next(draws, None)
        if first is None:
            return
        batches = chosen_batches(self._loader, self._opened.dataset, _chain(first, draws), views=self._opened.views)
        for batch in batches:
            region, rows, is_last = self._under_way.popleft()
            yield rows, batch
            if is_last:
                self._done(region)

    def _draws(self, regions: list[int], held: list[int]) -> Iterator[Tensor]:
        # Runs ahead of the batches, as far as the loader's workers do.
        for region in regions:
            if not self._claims.take(region):
                held.append(region)
                continue
            rows = self._missing_in(region)  # another process may have filled them since
            if not len(rows):
                self._done(region)
                continue
            chunks = torch.split(rows, fetch_size(self._loader))
            for number, chunk in enumerate(chunks):
                self._under_way.append((region, chunk, number == len(chunks) - 1))
                yield chunk

    def _done(self, region: int) -> None:
        if self._index is None or not len(self._opened.store.missing_in(*self._bounds(region))):
            self._claims.mark_full(region)  # so that no later run looks through it again
        self._claims.drop(region)

    def _write(self, old: OldModel, rows: Tensor, batch: Any) -> None:
        raw = self._stores.read_batch(batch)
        if batch_size(raw) != len(rows):
            raise CacheError(
                f"Expected a batch of the {len(rows)} samples that were asked for, got {batch_size(raw)}: the collate "
                'function drops or adds samples. Run the old model live: fill="never".'
            )
        target = None if raw.target is None else raw.target.clone()  # a transfer hook may work in place
        delivered = self._stores.deliver(batch)
        hashes = input_hash(self._stores.read_batch(delivered).inputs) if self._opened.hashed else None
        outputs = self._opened.narrow(to_cpu(old.outputs(delivered)))
        hash_of = kept_hash(self._opened, hashes, torch.arange(len(rows)))
        self._opened.store.write(rows, outputs, target, hash_of)

    def _regions(self) -> Iterator[int]:
        if self._index is None:
            yield from range(-(-self._opened.store.num_rows // REGION_ROWS))
        else:
            first, last = self._index * self._opened.views, (self._index + 1) * self._opened.views - 1
            yield from torch.unique(torch.cat([first // REGION_ROWS, last // REGION_ROWS])).tolist()

    def _bounds(self, region: int) -> tuple[int, int]:
        return region * REGION_ROWS, min((region + 1) * REGION_ROWS, self._opened.store.num_rows)

    def _missing_in(self, region: int) -> Tensor:
        start, stop = self._bounds(region)
        if self._index is None:
            return self._opened.store.missing_in(start, stop)
        views = self._opened.views
        low, high = torch.searchsorted(self._index, torch.tensor([start // views, -(-stop // views)])).tolist()
        rows = (self._index[low:high, None] * views + torch.arange(views)).flatten()
        return self._opened.store.missing(rows[(rows >= start) & (rows < stop)])


def fill_ahead(
    stores: OldStores,
    loader: DataLoader[Any],
    wanted: list[tuple[Opened, Tensor | None]],
    *,
    quota: int | None,
    console: Console,
) -> int:
    """Fill all stores that a loader reads from, after a look at size and room.

    Args:
        stores: The stores of the old model.
        loader: The loader.
        wanted: Each store, and the positions that are wanted; None for all.
        quota: Bytes that the folder of the stores may take; None for no bound.
        console: Shows size, rate and time left.

    Returns:
        Number of rows that this process computed.
    """
    assert stores.old is not None
    fillings = [Filling(stores, loader, opened, index) for opened, index in wanted]
    computed = 0
    for (opened, _), filling in zip(wanted, fillings, strict=True):
        missing = filling.missing()
        if not missing:
            continue
        rows, store = sum(missing.values()), opened.store
        room_for(store.path.parent, rows * store.layout.nbytes, quota)
        console.print(
            f"Old outputs: {rows:,} of {store.num_rows:,} rows are missing, {store.layout.nbytes} bytes each, "
            f"{decimal(rows * store.layout.nbytes)} -> {store.path}",
            soft_wrap=True,
        )
        with _progress(console) as progress:
            computed += filling.run(stores.old.to(stores.device), missing, progress)
    return computed


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} rows/s")


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=console.quiet, transient=True)


def _chain(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest

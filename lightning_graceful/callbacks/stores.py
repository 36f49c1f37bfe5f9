"""The stores of the datasets that a trainer draws from: opened by probe, filled ahead, read by sample."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_graceful.data.batch import BatchAdapter, Outputs
from lightning_graceful.data.identity import BaseSamples, Samples, base_samples
from lightning_graceful.data.manifest import MANIFEST, nearest, store_path
from lightning_graceful.data.probe import content_hash, probe_batch, seeded
from lightning_graceful.data.rows import CacheError, Dtype, RowLayout
from lightning_graceful.data.store import OutputStore
from lightning_graceful.models.old_model import OldModel

Deliver = Callable[[Any], Any]
FILL_BATCH = 256


class _Opened(NamedTuple):
    dataset: Dataset[Any]  # held, so that its id() is not given to another
    store: OutputStore
    offset: int


class DatasetStores:
    """One :class:`~lightning_graceful.OutputStore` a base dataset.

    Args:
        old: The old model, or None to read only.
        cache_dir: Folder that holds the stores.
        dtype: Precision of stored outputs.
        read_batch: Reads inputs and target from a batch.
        deliver: Brings a batch to the device as the trainer does.
        device: Where the old model runs.
    """

    def __init__(
        self,
        old: OldModel | None,
        cache_dir: Path,
        dtype: Dtype,
        *,
        read_batch: BatchAdapter,
        deliver: Deliver,
        device: torch.device,
    ) -> None:
        self._old = old
        self._cache_dir = cache_dir
        self._dtype: Dtype = dtype
        self._read_batch = read_batch
        self._deliver = deliver
        self._device = device
        self._opened: dict[int, _Opened] = {}

    def open(self, loader: DataLoader[Any], *, console: Console) -> None:
        """Open the stores of all base datasets of a loader; those that are open stay so.

        Args:
            loader: A tracked loader.
            console: Where to say that a new store is begun.

        Raises:
            CacheError: If the samples are random, or no store matches and there is no old model to fill one.
        """
        for part in _whole(loader.dataset):
            if id(part.dataset) not in self._opened:
                offset = sum(opened.store.num_rows for opened in self._opened.values())
                store = self._open(loader, part.dataset, console)
                self._opened[id(part.dataset)] = _Opened(part.dataset, store, offset)

    def missing(self, dataset: Dataset[Any]) -> list[tuple[Dataset[Any], Tensor]]:
        """Return the rows that a loader of this dataset can ask for and that are empty; 8 bytes a row.

        Args:
            dataset: The loader's dataset.

        Returns:
            Pairs of base dataset and sorted int64 positions.
        """
        return [(part.dataset, self._opened[id(part.dataset)].store.missing(part.index)) for part in _whole(dataset)]

    def fill(self, loader: DataLoader[Any], dataset: Dataset[Any], rows: Tensor, *, console: Console) -> None:
        """Run the old model over rows and write what it says; whatever is written before a stop stays.

        Args:
            loader: Gives workers and the collate function.
            dataset: The base dataset.
            rows: Positions in it, int64.
            console: Shows the size and the progress.
        """
        store = self._opened[id(dataset)].store
        total = len(rows) * store.layout.nbytes
        console.print(
            f"Old outputs: {len(rows):,} of {store.num_rows:,} rows are missing, {store.layout.nbytes} bytes each, "
            f"{decimal(total)} -> {store.path}",
            soft_wrap=True,
        )
        with self.old_on_device() as old, _progress(console) as progress:
            task = progress.add_task("old outputs", total=len(rows))
            for chunk, batch in _in_order(loader, dataset, rows):
                outputs = old.outputs(self._deliver(batch))
                store.write(chunk, _to_cpu(outputs), self._read_batch(batch).target)
                progress.advance(task, len(chunk))

    def serve(self, samples: Samples, target: Tensor | None, delivered: Any) -> tuple[Outputs, Tensor]:
        """Return the stored outputs of a batch; a missing row is computed and written first.

        Args:
            samples: The batch's samples.
            target: Their targets, compared with the stored ones.
            delivered: The batch on the device.

        Returns:
            Outputs on the CPU, float32, in the order of the batch: the first time gives what every later time gives.
            And the key of each sample, int64 ``(N,)``: its position in its base dataset, after those of the base
            datasets that were opened before.
        """
        parts = base_samples(samples.dataset, samples.position)
        if self._old is not None:  # without one, reading names the holes
            self._complete(self._old, parts, target, delivered)
        index = torch.empty_like(samples.position)
        found = []
        for part in parts:
            opened = self._opened[id(part.dataset)]
            found.append((part.row, opened.store.read(part.index, _rows_of(target, part.row)).outputs))
            index[part.row] = part.index + opened.offset
        return Outputs(*(_scatter([(row, outputs[field]) for row, outputs in found]) for field in range(2))), index

    def _complete(self, old: OldModel, parts: list[BaseSamples], target: Tensor | None, delivered: Any) -> None:
        empty = [~self._store(part).filled(part.index) for part in parts]
        if not any(bool(mask.any()) for mask in empty):
            return
        outputs = _to_cpu(old.to(self._device).outputs(delivered))
        for part, mask in zip(parts, empty, strict=True):
            rows = part.row[mask]
            chosen = Outputs(*(_rows_of(field, rows) for field in outputs))
            self._store(part).write(part.index[mask], chosen, _rows_of(target, rows))

    @contextmanager
    def old_on_device(self) -> Iterator[OldModel]:
        """Lend the old model the device, and free it after.

        Yields:
            The old model.

        Raises:
            CacheError: If there is none.
        """
        if self._old is None:
            raise CacheError(
                "Expected every row to be stored, since there is no old model (read only), but rows are missing."
            )
        try:
            yield self._old.to(self._device)
        finally:
            self._old.to("cpu")

    def close(self) -> None:
        """Close all stores."""
        for opened in self._opened.values():
            opened.store.close()
        self._opened.clear()

    def _store(self, part: BaseSamples) -> OutputStore:
        return self._opened[id(part.dataset)].store

    def _open(self, loader: DataLoader[Any], dataset: Dataset[Any], console: Console) -> OutputStore:
        raw = probe_batch(loader, dataset, seed=0)
        self._refuse_randomness(raw, probe_batch(loader, dataset, seed=1))
        fingerprint: dict[str, Any] = {
            "rows": len(dataset),  # type: ignore[arg-type]
            "classes": _class_names(dataset),
            "views": 1,
            "probe": content_hash(raw),
        }
        if self._old is None:
            return _read_only(self._cache_dir, fingerprint)
        fingerprint |= {"old": self._old.fingerprint, "dtype": self._dtype}
        path = store_path(self._cache_dir, fingerprint)
        # The manifest is what makes a store: another rank may just have made the folder.
        exists = (path / MANIFEST).is_file()
        if not exists and (near := nearest(self._cache_dir, fingerprint)) is not None:
            console.print(
                f"Old outputs: a new store is begun; the nearest, {near[0].name}, differs in {', '.join(near[1])}."
            )
        layout = OutputStore.open_existing(path).layout if exists else self._layout(raw)
        return OutputStore.open(path, fingerprint=fingerprint, num_rows=len(dataset), layout=layout)  # type: ignore[arg-type]

    def _layout(self, raw: Any) -> RowLayout:
        with self.old_on_device() as old:
            outputs = old.outputs(self._deliver(raw))
        return RowLayout(
            logits=None if outputs.logits is None else outputs.logits.shape[1],
            embedding=None if outputs.embedding is None else outputs.embedding.shape[1],
            dtype=self._dtype,
        )

    def _refuse_randomness(self, first: Any, second: Any) -> None:
        remedy = 'Store outputs of samples without random transforms, or run the old model live: fill="never".'
        if content_hash(first) != content_hash(second):
            raise CacheError(
                "Expected a sample to be the same each time it is fetched (views=1), but the dataset or its collate "
                f"function is random: a stored output would belong to another view. {remedy}"
            )
        delivered = []
        for seed in (0, 1):
            with seeded(seed, self._device):
                delivered.append(content_hash(self._deliver(first)))
        if delivered[0] != delivered[1]:
            raise CacheError(
                "Expected a batch to be the same each time it is moved to the device (views=1), but a transfer hook "
                f"such as on_after_batch_transfer is random. {remedy}"
            )


def _read_only(cache_dir: Path, fingerprint: dict[str, Any]) -> OutputStore:
    # Find the one store of this dataset, whatever the old model was.
    found = []
    for manifest in sorted(cache_dir.glob("*/manifest.json")):
        store = OutputStore.open_existing(manifest.parent)
        if all(store.fingerprint.get(name) == value for name, value in fingerprint.items()):
            found.append(store)
        else:
            store.close()
    if len(found) == 1:
        return found[0]
    if found:
        raise CacheError(
            f"Expected one store of this dataset in {cache_dir}, found {[store.path.name for store in found]}. "
            "Say which old model is meant: OldOutputCache(old, cache_dir)."
        )
    near = nearest(cache_dir, fingerprint)
    difference = (
        "there is no store at all" if near is None else f"the nearest, {near[0].name}, differs in {', '.join(near[1])}"
    )
    raise CacheError(
        f"Expected a store of this dataset in {cache_dir}, but {difference}. "
        "Fill one first: OldOutputCache(old, cache_dir)."
    )


def _whole(dataset: Dataset[Any]) -> list[BaseSamples]:
    return base_samples(dataset, torch.arange(len(dataset)))  # type: ignore[arg-type]


def _in_order(loader: DataLoader[Any], dataset: Dataset[Any], rows: Tensor) -> Iterator[tuple[Tensor, Any]]:
    chunks = torch.split(rows, loader.batch_size or FILL_BATCH)
    filling: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        multiprocessing_context=loader.multiprocessing_context,
        worker_init_fn=loader.worker_init_fn,
        # A generator of its own: filling must not shift the random numbers of the training that follows.
        generator=torch.Generator().manual_seed(0),
    )
    return zip(chunks, filling, strict=True)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=console.quiet, transient=True)


def _class_names(dataset: Dataset[Any]) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def _to_cpu(outputs: Outputs) -> Outputs:
    return Outputs(*(None if part is None else part.cpu() for part in outputs))


def _rows_of(tensor: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[rows.to(tensor.device)]


def _scatter(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    # Put the rows of several stores into the order of the batch, in float32.
    first = parts[0][1]
    if first is None:
        return None
    whole = torch.empty(sum(len(row) for row, _ in parts), first.shape[1], dtype=torch.float32)
    for row, part in parts:
        if part is None or part.shape[1] != first.shape[1]:
            raise CacheError("Expected stores with outputs of one shape for one loader, got several.")
        whole[row] = part.float()
    return whole

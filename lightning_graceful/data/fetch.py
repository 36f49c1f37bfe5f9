"""Fetch chosen samples as a user's loader fetches them: its dataset, collate function and workers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_graceful.data.replay import Replayed, replayable, seeded

FETCH_BATCH = 256


def fetch_size(loader: DataLoader[Any]) -> int:
    """Return how many samples to fetch at a time: the loader's batch size where it has one."""
    return loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or FETCH_BATCH


def chosen_batches(
    loader: DataLoader[Any],
    dataset: Dataset[Any],
    rows: Iterable[Tensor],
    *,
    views: int = 1,
    num_workers: int | None = None,
) -> DataLoader[Any]:
    """Return a loader of chosen rows; the random numbers of the caller are left as they are.

    Args:
        loader: The user's loader.
        dataset: A base dataset of the loader's.
        rows: For each batch its rows, int64, shape ``(N,)``: row ``index * views + view`` is a view of a sample. Drawn
            from as the loader asks, in this process.
        views: Views of a sample that are replayed; 1 fetches the sample as it is.
        num_workers: Workers; None for as many as the loader has.

    Returns:
        A loader of as many batches, as the user's loader would deliver them.
    """
    options: dict[str, Any] = {
        "num_workers": loader.num_workers if num_workers is None else num_workers,
        "collate_fn": loader.collate_fn,
        # A generator of its own: what is fetched here must not shift the random numbers of the training.
        "generator": torch.Generator().manual_seed(0),
    }
    if options["num_workers"]:
        options["multiprocessing_context"] = loader.multiprocessing_context
        options["worker_init_fn"] = loader.worker_init_fn
        options["prefetch_factor"] = loader.prefetch_factor
    draws: Any = _Draws(rows, views)
    source: Any = Replayed(dataset) if views > 1 else dataset
    if loader.batch_sampler is None:  # batch_size=None and a sampler that yields lists: the dataset makes the batch
        return DataLoader(source, batch_size=None, sampler=draws, **options)
    return DataLoader(source, batch_sampler=draws, **options)


def few_batches(loader: DataLoader[Any], dataset: Dataset[Any], rows: Iterable[Tensor], *, views: int = 1) -> list[Any]:
    """Fetch a few batches of chosen rows, one after the other in one process; see :func:`chosen_batches`.

    Where the user's loader has workers, it is a worker, too: a dataset that opens its file at the first fetch must not
    do so in this process, whose forks would share it.

    Args:
        loader: The user's loader.
        dataset: A base dataset of the loader's.
        rows: For each batch its rows, int64, shape ``(N,)``.
        views: Views of a sample.

    Returns:
        The batches, on the CPU.

    Example:
        >>> few_batches(DataLoader(range(10, 20), batch_size=4), range(10, 20), [torch.tensor([3, 1])])
        [tensor([13, 11])]
    """
    with seeded(0):
        return list(chosen_batches(loader, dataset, rows, views=views, num_workers=min(1, loader.num_workers)))


class _Draws:
    def __init__(self, rows: Iterable[Tensor], views: int) -> None:
        self._rows = rows
        self._views = views

    def __iter__(self) -> Any:
        for rows in self._rows:
            index, view = rows // self._views, rows % self._views
            yield replayable(index, index, view) if self._views > 1 else index.tolist()

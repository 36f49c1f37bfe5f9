"""Which samples are in this batch: learnt from the sampler of a DataLoader, with no edit of the user's code.

The one file that touches the privates of ``torch.utils.data.DataLoader``. ``track`` gives a loader a subclass of its
own class in which the sampler is recorded as it is drawn from and each batch is paired with what was recorded for it.
Dataset, collate function, workers and the order of batches stay as they were.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

# Each is named by a test in tests/data/test_identity.py.
PRIVATES = ("_index_sampler", "_get_iterator")


class Samples(NamedTuple):
    """The samples of one batch.

    Attributes:
        dataset: The loader's dataset.
        position: Their positions in it, int64, shape ``(N,)``.
        batch: The batch as the loader delivered it, before it is moved to a device.
    """

    dataset: Dataset[Any]
    position: Tensor
    batch: Any


@dataclass(frozen=True)
class BaseSamples:
    """Those samples of a batch that stem from one base dataset.

    Attributes:
        dataset: The base dataset: what is left when Subset, random_split and ConcatDataset are looked through.
        index: Positions in the base dataset, int64, shape ``(M,)``.
        row: Which rows of the batch they are, int64, shape ``(M,)``.
    """

    dataset: Dataset[Any]
    index: Tensor
    row: Tensor


def why_untrackable(loader: object) -> str | None:
    """Say why the samples of a loader's batches cannot be known for certain.

    Args:
        loader: What Lightning iterates over.

    Returns:
        A reason in words, or None if they can.

    Example:
        >>> why_untrackable([1, 2])
        'it is a list, not a torch DataLoader'
    """
    if not isinstance(loader, DataLoader):
        return f"it is a {type(loader).__name__}, not a torch DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "its dataset is an IterableDataset, whose samples have no position"
    if not hasattr(loader.dataset, "__len__"):
        return "its dataset has no length"
    if loader.num_workers > 0 and not getattr(loader, "in_order", True):
        return "in_order=False lets batches overtake one another"
    if not all(hasattr(DataLoader, name) for name in PRIVATES):
        return "this version of torch has another DataLoader"
    if type(loader).__iter__ not in {DataLoader.__iter__, _Tracked.__iter__}:
        return f"{type(loader).__name__} brings its own __iter__"
    return None


def track(loader: DataLoader[Any]) -> None:
    """Make every new iterator of a loader a :class:`TrackedIterator`; tracking twice is tracking once.

    Args:
        loader: A loader for which :func:`why_untrackable` is None.

    Example:
        >>> loader = DataLoader(range(4), batch_size=2, shuffle=True)
        >>> track(loader)
        >>> iterator = iter(loader)
        >>> batch = next(iterator)
        >>> bool((iterator.take().position == batch).all())
        True
    """
    if not isinstance(loader, _Tracked):
        loader.__class__ = type(
            f"Tracked{type(loader).__name__}", (_Tracked, type(loader)), {"_user_class": type(loader)}
        )


def untrack(loader: DataLoader[Any]) -> None:
    """Give a loader its own class back."""
    if isinstance(loader, _Tracked):
        loader.__class__ = loader._user_class  # type: ignore[assignment]
        loader.__dict__.pop("_drawn", None)


class TrackedIterator:
    """An iterator over a tracked loader that knows the samples of each batch it has handed out.

    Args:
        loader: The tracked loader.
        inner: The loader's own iterator.
        drawn: Filled by the sampler: one entry a batch, in the order of delivery.
    """

    def __init__(self, loader: DataLoader[Any], inner: Iterator[Any], drawn: deque[Any]) -> None:
        self._loader = loader
        self._inner = inner
        self._drawn = drawn
        self._handed_out: deque[Samples] = deque()

    def __iter__(self) -> "TrackedIterator":
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Return the next batch of the loader, after its samples were noted."""
        batch = next(self._inner)
        self._handed_out.append(Samples(self._loader.dataset, _positions(self._drawn.popleft()), batch))
        return batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(cast("Sequence[Any]", self._inner))

    def __getattr__(self, name: str) -> Any:
        """Return what the loader's own iterator has by that name."""
        return getattr(self._inner, name)

    def take(self) -> Samples:
        """Return the samples of the oldest batch that was handed out and not yet asked for.

        Returns:
            The samples.

        Raises:
            RuntimeError: If every batch was asked for already.
        """
        if not self._handed_out:
            raise RuntimeError("Expected a batch that was handed out and not yet asked for, found none.")
        return self._handed_out.popleft()


def base_samples(dataset: Dataset[Any], position: Tensor) -> list[BaseSamples]:
    """Look through Subset, random_split and ConcatDataset.

    Args:
        dataset: The loader's dataset.
        position: Positions in it, int64, shape ``(N,)``.

    Returns:
        One entry for each base dataset that occurs.

    Example:
        >>> first, second = base_samples(ConcatDataset([Subset(range(9), [8, 7]), range(5)]), torch.tensor([1, 2]))
        >>> first.index.tolist(), second.index.tolist()
        ([7], [0])
    """
    found: dict[int, list[BaseSamples]] = {}
    for part in _look_through(dataset, position, torch.arange(len(position))):
        found.setdefault(id(part.dataset), []).append(part)
    return [
        BaseSamples(
            parts[0].dataset, torch.cat([part.index for part in parts]), torch.cat([part.row for part in parts])
        )
        for parts in found.values()
    ]


def _look_through(dataset: Dataset[Any], position: Tensor, row: Tensor) -> Iterator[BaseSamples]:
    if isinstance(dataset, Subset):
        inner = torch.tensor([int(dataset.indices[number]) for number in position.tolist()], dtype=torch.int64)
        yield from _look_through(dataset.dataset, inner, row)
    elif isinstance(dataset, ConcatDataset):
        ends = torch.tensor(dataset.cumulative_sizes)
        part_of = torch.bucketize(position, ends, right=True)
        for number in torch.unique(part_of).tolist():
            chosen = part_of == number
            before = int(ends[number - 1]) if number else 0
            yield from _look_through(dataset.datasets[number], position[chosen] - before, row[chosen])
    else:
        yield BaseSamples(dataset, position, row)


def _positions(drawn: Any) -> Tensor:
    drawn = list(drawn) if isinstance(drawn, list | tuple | Tensor) else [drawn]
    try:
        return torch.tensor([int(position) for position in drawn], dtype=torch.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a sampler that yields integer positions, got {drawn[:3]}. Let it yield positions, or run "
            'the old model live: OldOutputCache(old, cache_dir, fill="never").'
        ) from error


class _Recorder:
    """Stands before the sampler; each iteration begins a new queue and adds what it draws."""

    def __init__(self, sampler: Any, loader: "_Tracked") -> None:
        self._sampler = sampler
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        # DataLoader's worker iterator calls iter() twice and draws from the second: the last queue is the live one.
        queue: deque[Any] = deque()
        self._loader.__dict__["_drawn"] = queue
        return self._draw(queue)

    def _draw(self, queue: deque[Any]) -> Iterator[Any]:
        for drawn in self._sampler:
            queue.append(drawn)
            yield drawn

    def __len__(self) -> int:
        return len(self._sampler)


class _Tracked(DataLoader[Any]):
    _user_class: type[DataLoader[Any]]

    @property
    def _index_sampler(self) -> Any:
        return _Recorder(super()._index_sampler, self)

    def __iter__(self) -> Any:
        inner = super().__iter__()
        return TrackedIterator(self, inner, self.__dict__["_drawn"])

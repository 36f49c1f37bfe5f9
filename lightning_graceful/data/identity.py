"""Which samples are in this batch: learnt from the sampler of a DataLoader, with no edit of the user's code.

The one file that touches the privates of ``torch.utils.data.DataLoader``. ``track`` gives a loader a subclass of its
own class in which the sampler is recorded as it is drawn from and each batch is paired with what was recorded for it.
Dataset, collate function, workers and the order of batches stay as they were.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_graceful.data.bases import base_samples
from lightning_graceful.data.replay import Replayed, original, replayable, seeded, view_of

# Each is named by a test in tests/data/test_identity.py.
PRIVATES = ("_index_sampler", "_send_idx", "_rcvd_idx", "_get_data", "_in_order")


@dataclass(eq=False)
class Samples:
    """The samples of one batch, known from the moment that the sampler draws them.

    Attributes:
        dataset: The loader's dataset.
        position: Their positions in it, int64, shape ``(N,)``.
        view: Which of a sample's views each is, int64, shape ``(N,)``.
        views: How many views are replayed; 1 where samples are fetched as they are.
        batch: The batch as the loader delivered it, before it is moved to a device; None until then.
        ahead: What listeners made of the samples between draw and delivery, each under its own key.
    """

    dataset: Dataset[Any]
    position: Tensor
    view: Tensor
    views: int = 1
    batch: Any = None
    ahead: dict[Any, Any] = field(default_factory=dict)


Listener = Callable[[Samples], None]


class Tracking(NamedTuple):
    """How a loader is tracked: the arguments of :func:`track`."""

    views: int
    epoch: Callable[[], int]
    listener: Listener | None


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
    if not hasattr(DataLoader, "_index_sampler"):
        return "this version of torch has another DataLoader"
    if not _iterates_as_usual(loader):
        return f"{type(loader).__name__} brings its own __iter__"
    if loader.batch_sampler is None and not _draws_lists(loader):
        return "its batch_size is None, so that a sample of the dataset is a batch"
    return None


def _first_epoch() -> int:
    return 0


def track(
    loader: DataLoader[Any],
    *,
    views: int = 1,
    epoch: Callable[[], int] = _first_epoch,
    listener: Listener | None = None,
) -> None:
    """Make every new iterator of a loader a :class:`TrackedIterator`; tracking again changes the arguments.

    Args:
        loader: A loader for which :func:`why_untrackable` is None.
        views: Replay so many views of each sample, see :mod:`lightning_graceful.data.replay`; 1 leaves the samples as
            they are.
        epoch: Tells the number of the epoch, which decides the view.
        listener: Called with each batch's samples when they are drawn: with workers long before they are delivered.

    Example:
        >>> loader = DataLoader(range(4), batch_size=2, shuffle=True)
        >>> track(loader)
        >>> iterator = iter(loader)
        >>> batch = next(iterator)
        >>> bool((iterator.take().position == batch).all())
        True
    """
    loader.__dict__["graceful_tracking"] = Tracking(views, epoch, listener)
    if not isinstance(loader, _Tracked):
        loader.__class__ = type(
            f"Tracked{type(loader).__name__}", (_Tracked, type(loader)), {"_user_class": type(loader)}
        )


def tracked_views(loader: DataLoader[Any]) -> int:
    """Return how many views of each sample a tracked loader replays."""
    tracking: Tracking = loader.__dict__["graceful_tracking"]
    return tracking.views


def untrack(loader: DataLoader[Any]) -> None:
    """Give a loader its own class back."""
    if isinstance(loader, _Tracked):
        loader.__class__ = loader._user_class  # type: ignore[assignment]
        for name in ("graceful_tracking", "graceful_drawn"):
            loader.__dict__.pop(name, None)


class TrackedIterator:
    """An iterator over a tracked loader that knows the samples of the batch that it handed out last.

    Args:
        loader: The tracked loader.
        inner: The loader's own iterator.
        drawn: Filled by the sampler: the samples of each batch by the number of the draw.
    """

    def __init__(self, loader: DataLoader[Any], inner: Iterator[Any], drawn: dict[int, Samples]) -> None:
        self._inner = inner
        self._drawn = drawn
        self._last: Samples | None = None
        self._last_arrival: list[int] = []
        # With workers, draws are sent out ahead and numbered from 0, after those that a resumed loader skipped.
        self._skipped = max(drawn, default=-1) + 1 - getattr(inner, "_send_idx", 0)
        self._number = _number_of(loader, inner)
        if self._number is _of_last_arrival:
            _note_arrivals(inner, self._last_arrival)

    def __iter__(self) -> "TrackedIterator":
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Return the next batch of the loader, after its samples were noted."""
        self._last = None
        batch = next(self._inner)
        number = self._number(self)
        self._last = self._drawn.pop(number, None)
        if self._last is None or self._number is not _of_last_arrival:
            # What came before, a resumed loader has skipped; of what is not known for certain nothing is kept.
            for older in [drawn for drawn in self._drawn if drawn < number]:
                del self._drawn[older]
        if self._last is not None:
            self._last.batch = batch
        return batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(cast("Sequence[Any]", self._inner))

    def __getattr__(self, name: str) -> Any:
        """Return what the loader's own iterator has by that name."""
        return getattr(self._inner, name)

    def take(self) -> Samples | None:
        """Return the samples of the batch that was handed out last, once.

        Returns:
            The samples; None where they were taken already, or there was no batch.
        """
        taken, self._last = self._last, None
        return taken

    def waiting(self) -> list[Samples]:
        """Return the samples that are drawn and not delivered, in the order of the draws."""
        return [self._drawn[number] for number in sorted(self._drawn)]


def _iterates_as_usual(loader: DataLoader[Any]) -> bool:
    iterate = type(loader).__iter__
    # torchdata's StatefulDataLoader draws, numbers and hands out as torch's own loader does.
    return iterate in {DataLoader.__iter__, _Tracked.__iter__} or iterate.__module__.startswith("torchdata.stateful")


def _draws_lists(loader: DataLoader[Any]) -> bool:
    with seeded(0):  # a random sampler takes its seed from the global generator
        return isinstance(next(iter(loader.sampler), None), list | tuple | Tensor)


def _positions(drawn: Any) -> Tensor:
    drawn = list(drawn) if isinstance(drawn, list | tuple | Tensor) else [drawn]
    try:
        return torch.tensor([int(position) for position in drawn], dtype=torch.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a sampler that yields integer positions, got {drawn[:3]}. Let it yield positions, or run "
            'the old model live: OldOutputCache(old, cache_dir, fill="never").'
        ) from error


def _note_arrivals(inner: Any, arrived: list[int]) -> None:
    # With in_order=False the batch that is handed out is the one that came in last. Held weakly: an iterator in a cycle
    # would keep its workers until the garbage collector comes by.
    get_data, weakly = type(inner)._get_data, weakref.ref(inner)

    def noting() -> Any:
        data = get_data(weakly())
        arrived[:] = [data[0]]
        return data

    inner._get_data = noting


class _Recorder:
    """Stands before the sampler; each iteration begins a new record and adds what it draws."""

    def __init__(self, sampler: Any, loader: "_Tracked") -> None:
        self._sampler = sampler
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        # DataLoader's worker iterator calls iter() twice and draws from the second: the last record is the live one.
        drawn = self._loader.__dict__["graceful_drawn"] = {}
        inner = iter(self._sampler)
        return (_StatefulDraws if _is_stateful(inner) else _Draws)(inner, drawn, self._loader)

    def __len__(self) -> int:
        return len(self._sampler)


class _Draws:
    def __init__(self, inner: Iterator[Any], drawn: dict[int, Samples], loader: "_Tracked") -> None:
        self._inner = inner
        self._drawn = drawn
        self._dataset = original(loader.dataset)
        self._views, epoch, self._listener = loader.__dict__["graceful_tracking"]
        self._epoch = epoch()
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        drawn = next(self._inner)
        position = _positions(drawn)
        samples = Samples(self._dataset, position, torch.zeros_like(position), self._views)
        if self._views > 1:
            index = torch.empty_like(position)
            for part in base_samples(self._dataset, position):
                index[part.row] = part.index
            samples.view = view_of(index, self._epoch, self._views)
            drawn = replayable(position, index, samples.view)
        self._drawn[self._number] = samples
        self._number += 1
        if self._listener is not None:
            self._listener(samples)
        return drawn


class _StatefulDraws(_Draws):
    """Draws of a sampler that can be saved and resumed (torchdata)."""

    def state_dict(self) -> Any:
        return cast(Any, self._inner).state_dict()

    def load_state_dict(self, state: Any) -> None:
        cast(Any, self._inner).load_state_dict(state)


# The number of the draw that has just been handed out, by kind of loader.


def _number_of(loader: DataLoader[Any], inner: Any) -> Callable[[TrackedIterator], int]:
    if loader.num_workers == 0:
        return _of_last_draw
    # torch before 2.6 knows no other order than that of the draws, and says nothing of it.
    is_ordered = getattr(inner, "_in_order", not hasattr(loader, "in_order") or None)
    if is_ordered is None or not all(hasattr(inner, name) for name in ("_send_idx", "_rcvd_idx", "_get_data")):
        return _unknown  # another version of torch
    return _of_next_in_order if is_ordered else _of_last_arrival


def _of_last_draw(iterator: TrackedIterator) -> int:
    return max(iterator._drawn, default=-1)  # without workers a batch is fetched as soon as it is drawn


def _of_next_in_order(iterator: TrackedIterator) -> int:
    return int(iterator._skipped + cast(Any, iterator._inner)._rcvd_idx - 1)


def _of_last_arrival(iterator: TrackedIterator) -> int:
    return iterator._skipped + iterator._last_arrival[0]


def _unknown(iterator: TrackedIterator) -> int:
    iterator._drawn.clear()
    return -1


def _is_stateful(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


class _Tracked(DataLoader[Any]):
    _user_class: type[DataLoader[Any]]

    @property
    def _index_sampler(self) -> Any:
        sampler = super()._index_sampler
        recorder = _Recorder(sampler, self)
        if _is_stateful(sampler):
            # On the instance, as a structural check for a stateful sampler looks for them.
            recorder.state_dict, recorder.load_state_dict = sampler.state_dict, sampler.load_state_dict  # type: ignore[attr-defined]
        return recorder

    def __iter__(self) -> Any:
        dataset = self.dataset
        try:
            if tracked_views(self) > 1:
                self.__dict__["dataset"] = Replayed(dataset)  # what the iterator, and so each worker, fetches from
            inner = super().__iter__()
        finally:
            self.__dict__["dataset"] = dataset
        return TrackedIterator(self, inner, self.__dict__["graceful_drawn"])

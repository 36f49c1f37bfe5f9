"""Where this library reaches into Lightning: the only file that touches its privates.

Each private is listed in ``PRIVATES`` and named by a test in ``tests/test_trainer_seams.py``. Works for trainers from
``pytorch_lightning`` and from ``lightning.pytorch``, which is why nothing is imported from either.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch.utils._pytree import tree_unflatten
from torch.utils.data import DataLoader

from lightning_graceful.data.identity import Samples, TrackedIterator, track, untrack, why_untrackable

PRIVATES = (
    "fit_loop._combined_loader",
    "fit_loop.epoch_loop.val_loop._combined_loader",
    "validate_loop._combined_loader",
    "test_loop._combined_loader",
    "predict_loop._combined_loader",
    "fit_loop._data_fetcher.batches",
    "CombinedLoader._iterator.iterators",
    "CombinedLoader._spec",
)

TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")

_TRACKERS: "WeakKeyDictionary[Any, SampleTracker]" = WeakKeyDictionary()


class Leg(NamedTuple):
    """What one loader gave to a batch.

    Attributes:
        loader: The loader.
        samples: Its samples; None where they cannot be known for certain.
        batch: Its batch, on the device; None where the loader is exhausted.
    """

    loader: Any
    samples: Samples | None
    batch: Any


class Legs(NamedTuple):
    """A batch by the loaders that it was combined from: one, most of the time.

    Attributes:
        legs: What each loader gave.
        mirror: Puts a value for each leg into the structure of the batch.
    """

    legs: list[Leg]
    mirror: Callable[[list[Any]], Any]


class SampleTracker:
    """Knows the samples of the batch that a trainer's loop is working on.

    Every DataLoader of a trainer passes through the strategy's public ``process_dataloader`` in its final form, after
    Lightning has put in a DistributedSampler and before workers start: there it is tracked.

    Args:
        trainer: A trainer whose strategy is set.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._loaders: list[DataLoader[Any]] = []
        self._combined: list[Any] = []
        self._batch: Any = None
        self._legs: Legs | None = None
        self._listeners: list[Callable[[Samples], None]] = []
        self.views_of: Callable[[DataLoader[Any]], int] = lambda loader: 1

    @classmethod
    def of(cls, trainer: Any) -> "SampleTracker":
        """Return the tracker of a trainer, installed the first time: several callbacks share one.

        Args:
            trainer: The trainer, during ``setup``.

        Returns:
            Its tracker.
        """
        if trainer not in _TRACKERS:
            tracker = cls(trainer)
            tracker._install()
            _TRACKERS[trainer] = tracker
        return _TRACKERS[trainer]

    def listen(self, listener: Callable[[Samples], None]) -> None:
        """Have a function called with each batch's samples when the sampler draws them.

        Args:
            listener: Light work: it runs in the training loop.
        """
        self._listeners.append(listener)

    def begin(self) -> list[Samples]:
        """Follow the loop that begins now; call it in ``on_*_start`` and ``on_train_epoch_start``.

        Returns:
            The samples that workers were sent to fetch before now: nobody listened then.
        """
        combined = combined_loader(self._trainer)
        if combined is None:
            return []
        if not hasattr(combined, "graceful_class"):
            combined.__class__ = _tracked_class(type(combined))
            self._combined.append(combined)
            # A fetcher may have asked for its first batch already.
            combined.__dict__["graceful_taken"] = deque(_taken(combined))
        return [
            samples for leg in _iterators(combined) if isinstance(leg, TrackedIterator) for samples in leg.waiting()
        ]

    def legs(self, batch: Any, dataloader_idx: int = 0) -> Legs:
        """Take apart a batch that a ``*_batch_start`` or ``*_batch_end`` hook was given.

        Args:
            batch: The hook's batch; asking again for the same one gives the same answer.
            dataloader_idx: Which of several loaders, one after the other, it comes from.

        Returns:
            What each loader gave to it.
        """
        if self._legs is None or batch is not self._batch:
            self._batch, self._legs = batch, self._take(batch, dataloader_idx)
        return self._legs

    def samples(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Return the samples of a batch in the structure of the batch.

        Args:
            batch: The hook's batch.
            dataloader_idx: Which of several loaders, one after the other, it comes from.

        Returns:
            The samples, or None where they cannot be known for certain; of a combined batch a collection of these.
        """
        legs, mirror = self.legs(batch, dataloader_idx)
        return mirror([leg.samples for leg in legs])

    def remove(self) -> None:
        """Give loaders and strategy back as they were."""
        self._trainer.strategy.__dict__.pop("process_dataloader", None)
        for loader in self._loaders:
            untrack(loader)
        for combined in self._combined:
            combined.__class__ = combined.graceful_class
            combined.__dict__.pop("graceful_taken", None)
        self._loaders.clear()
        self._combined.clear()
        self._batch = self._legs = None
        _TRACKERS.pop(self._trainer, None)

    def _install(self) -> None:
        strategy = self._trainer.strategy
        process = strategy.process_dataloader

        def tracking(dataloader: Any) -> Any:
            loader = process(dataloader)
            if why_untrackable(loader) is None:
                track(loader, views=self.views_of(loader), listener=self._drawn, epoch=self._epoch)
                self._loaders.append(loader)
            return loader

        strategy.process_dataloader = tracking

    def _drawn(self, samples: Samples) -> None:
        for listener in self._listeners:
            listener(samples)

    def _epoch(self) -> int:
        return int(self._trainer.current_epoch)

    def _take(self, batch: Any, dataloader_idx: int) -> Legs:
        combined = combined_loader(self._trainer)
        samples, flat = self._taken_of(combined), list(getattr(combined, "flattened", []))
        if _is_split(combined):
            spec = combined._spec
            found = samples if len(samples) == len(flat) else [None] * len(flat)
            legs = [Leg(*leg) for leg in zip(flat, found, spec.flatten_up_to(batch), strict=True)]
            return Legs(legs, lambda values: tree_unflatten(values, spec))
        # One loader after the other.
        loader = flat[dataloader_idx] if dataloader_idx < len(flat) else None
        return Legs([Leg(loader, samples[0] if len(samples) == 1 else None, batch)], lambda values: values[0])

    def _taken_of(self, combined: Any) -> list[Samples | None]:
        taken: deque[list[Samples | None]] = getattr(combined, "__dict__", {}).get("graceful_taken", deque())
        # A hook is not called for every batch (None skips it): the one that counts is the last but those fetched ahead.
        ahead = len(getattr(_fetcher(self._trainer), "batches", []))
        while len(taken) > 1 + ahead:
            taken.popleft()
        return taken.popleft() if len(taken) == 1 + ahead else []


def _tracked_class(base: type) -> type:
    # Of a CombinedLoader, from whichever namespace: a class that notes the samples of each leg as a batch is combined.
    # With one base and no more, since an object takes on another class only if both are laid out alike.
    plain: Any = base

    def begin(self: Any) -> Any:
        self.__dict__["graceful_taken"] = deque()
        return plain.__iter__(self)

    def combine(self: Any) -> Any:
        out = plain.__next__(self)
        taken: deque[Any] = self.__dict__["graceful_taken"]
        taken.extend(_taken(self))
        while len(taken) > MAX_AHEAD:
            taken.popleft()
        return out

    return type(f"Tracked{base.__name__}", (base,), {"__iter__": begin, "__next__": combine, "graceful_class": base})


MAX_AHEAD = 64  # batches that are put together before a hook asks for their samples; a fetcher takes 1 ahead


def _taken(combined: Any) -> Iterator[list[Samples | None]]:
    iterators = _iterators(combined)
    if iterators:
        yield [leg.take() if isinstance(leg, TrackedIterator) else None for leg in iterators]


def is_combined(trainer: Any) -> bool:
    """Return whether the batches of the loop that runs now are put together from several loaders."""
    combined = combined_loader(trainer)
    return combined is not None and _is_split(combined) and len(combined.flattened) > 1


def changes_batches(trainer: Any) -> bool:
    """Return whether module or DataModule have a hook of their own on the way of a batch to the device."""
    holders = [trainer.lightning_module, getattr(trainer, "datamodule", None)]
    kinds = [kind for holder in holders if holder is not None for kind in type(holder).__mro__]
    users = [kind for kind in kinds if not kind.__module__.startswith(("pytorch_lightning.", "lightning.pytorch."))]
    return any(hook in vars(kind) for kind in users for hook in TRANSFER_HOOKS)


def _is_split(combined: Any) -> bool:
    return getattr(combined, "_spec", None) is not None and getattr(combined, "_mode", None) != "sequential"


def combined_loader(trainer: Any) -> Any:
    """Return Lightning's CombinedLoader of the loop that runs now, or None.

    Args:
        trainer: The trainer.

    Returns:
        The loader.
    """
    return getattr(_loop(trainer), "_combined_loader", None)


def loaders(trainer: Any) -> list[Any]:
    """Return the loaders of the loop that runs now, flattened.

    Args:
        trainer: The trainer.

    Returns:
        The loaders, in order.
    """
    combined = combined_loader(trainer)
    return [] if combined is None else list(combined.flattened)


def deliver(trainer: Any, batch: Any) -> Any:
    """Bring a batch to the device exactly as the trainer does before a step.

    Args:
        trainer: The trainer.
        batch: What the DataLoader delivers.

    Returns:
        The batch that a step would see.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _loop(trainer: Any) -> Any:
    if trainer.training:
        return trainer.fit_loop
    if trainer.sanity_checking or (trainer.validating and trainer.state.fn == "fit"):
        return trainer.fit_loop.epoch_loop.val_loop
    if trainer.validating:
        return trainer.validate_loop
    if trainer.testing:
        return trainer.test_loop
    return trainer.predict_loop if trainer.predicting else None


def _fetcher(trainer: Any) -> Any:
    return getattr(_loop(trainer), "_data_fetcher", None)


def _iterators(combined: Any) -> list[Any]:
    return list(getattr(getattr(combined, "_iterator", None), "iterators", []))

"""Where this library reaches into Lightning: the only file that touches its privates.

Each private is listed in ``PRIVATES`` and named by a test in ``tests/test_trainer_seams.py``. Works for trainers from
``pytorch_lightning`` and from ``lightning.pytorch``, which is why nothing is imported from either.
"""

from typing import Any
from weakref import WeakKeyDictionary

from torch.utils.data import DataLoader

from lightning_graceful.data.identity import Samples, TrackedIterator, track, untrack, why_untrackable

PRIVATES = (
    "fit_loop._combined_loader",
    "fit_loop.epoch_loop.val_loop._combined_loader",
    "validate_loop._combined_loader",
    "test_loop._combined_loader",
    "CombinedLoader._iterator.iterators",
)

_TRACKERS: "WeakKeyDictionary[Any, SampleTracker]" = WeakKeyDictionary()


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
        self._batch: Any = None
        self._samples: Samples | None = None

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

    def _install(self) -> None:
        strategy = self._trainer.strategy
        process = strategy.process_dataloader

        def tracking(dataloader: Any) -> Any:
            loader = process(dataloader)
            if why_untrackable(loader) is None:
                track(loader)
                self._loaders.append(loader)
            return loader

        strategy.process_dataloader = tracking

    def remove(self) -> None:
        """Give loaders and strategy back as they were."""
        self._trainer.strategy.__dict__.pop("process_dataloader", None)
        for loader in self._loaders:
            untrack(loader)
        self._loaders.clear()
        _TRACKERS.pop(self._trainer, None)

    def samples(self, batch: Any) -> Samples | None:
        """Return the samples of a batch that a ``*_batch_start`` or ``*_batch_end`` hook was given.

        Args:
            batch: The hook's batch; asking again for the same one gives the same answer.

        Returns:
            The samples, or None where they cannot be known for certain.
        """
        if batch is not self._batch:
            self._batch, self._samples = batch, self._take()
        return self._samples

    def _take(self) -> Samples | None:
        iterators = _iterators(combined_loader(self._trainer))
        # Several legs make one batch of batches: identity of each leg is a matter of its own.
        if len(iterators) != 1 or not isinstance(iterators[0], TrackedIterator):
            return None
        return iterators[0].take()


def combined_loader(trainer: Any) -> Any:
    """Return Lightning's CombinedLoader of the loop that runs now, or None.

    Args:
        trainer: The trainer.

    Returns:
        The loader.
    """
    if trainer.training:
        return getattr(trainer.fit_loop, "_combined_loader", None)
    if trainer.sanity_checking or (trainer.validating and trainer.state.fn == "fit"):
        return getattr(trainer.fit_loop.epoch_loop.val_loop, "_combined_loader", None)
    if trainer.validating:
        return getattr(trainer.validate_loop, "_combined_loader", None)
    if trainer.testing:
        return getattr(trainer.test_loop, "_combined_loader", None)
    return None


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


def _iterators(combined: Any) -> list[Any]:
    return list(getattr(getattr(combined, "_iterator", None), "iterators", []))

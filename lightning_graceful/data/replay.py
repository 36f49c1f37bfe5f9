"""Random augmentation that can be replayed: view v of sample i is the same on every rank, worker and run.

While ``views=K`` are kept, a sample is fetched under a random state that follows from its index and its view alone, so
that K views of it can be stored and met again. Python's, numpy's and torch's global generators are seeded around each
fetch, in the process that fetches, and given back their state; about 0.03 ms a sample. A dataset with a generator of
its own cannot be replayed, which a probe notices.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

_MASK = 2**64 - 1


class Draw(int):
    """A position that carries the seed under which its sample is fetched; any sampler may hand it on as an int."""

    seed: int

    def __new__(cls, position: int, seed: int) -> "Draw":
        """Make a position with a seed in ``[0, 2**32)``."""
        draw = super().__new__(cls, position)
        draw.seed = seed
        return draw

    def __reduce__(self) -> Any:
        """Pickle with the seed, on the way to a worker."""  # noqa: DOC201
        return Draw, (int(self), self.seed)


class Replayed:
    """Stands before a dataset and fetches each :class:`Draw` under its seed; in all else it is the dataset.

    Args:
        dataset: The user's dataset.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        object.__setattr__(self, "graceful_dataset", dataset)

    def __getitem__(self, position: Any) -> Any:
        """Return one sample.

        Raises:
            ValueError: If a whole list is asked for, of which the dataset makes a batch under one random state.
        """
        if not isinstance(position, Draw):
            raise ValueError(
                f"Expected samples to be fetched one by one to replay their views, got {type(position).__name__} "
                '(batch_size=None). Use a batch_sampler, or run the old model live: fill="never".'
            )
        with _states_kept():
            return self._fetch(position)

    def __getitems__(self, positions: Sequence[Draw]) -> Any:
        """Return the samples, one at a time: each has a seed of its own."""
        with _states_kept():
            return [self._fetch(position) for position in positions]

    def _fetch(self, position: Draw) -> Any:
        dataset = self.graceful_dataset
        _reseed(position.seed)
        if hasattr(dataset, "__getitems__"):
            return dataset.__getitems__([int(position)])[0]
        return dataset[int(position)]

    def __len__(self) -> int:
        """Return the length of the dataset."""
        return len(self.graceful_dataset)

    # What a worker_init_fn sees as worker_info.dataset is to look, and to change, as the user's own.

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the dataset."""
        return getattr(object.__getattribute__(self, "graceful_dataset"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the dataset."""
        setattr(self.graceful_dataset, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the dataset."""
        return type(self.graceful_dataset)

    def __reduce__(self) -> Any:
        """Pickle, on the way to a spawned worker."""  # noqa: DOC201
        return Replayed, (self.graceful_dataset,)


def original(dataset: Any) -> Any:
    """Return the dataset behind a :class:`Replayed`, or the dataset itself."""
    return object.__getattribute__(dataset, "graceful_dataset") if type(dataset) is Replayed else dataset


def view_of(index: Tensor, epoch: int, views: int) -> Tensor:
    """Say which view of each sample an epoch shows: each sample goes through all of them in turn.

    Args:
        index: Positions in the base dataset, int64, shape ``(N,)``.
        epoch: Number of the epoch.
        views: Number of views.

    Returns:
        Views in ``[0, views)``, int64, shape ``(N,)``; in one epoch different samples show different ones.

    Example:
        >>> [view_of(torch.tensor([5, 6]), epoch, 3).tolist() for epoch in range(3)]
        [[2, 0], [0, 1], [1, 2]]
    """
    return (index + epoch) % views


def replayable(position: Tensor, index: Tensor, view: Tensor) -> list[Draw]:
    """Give positions the seeds of their views.

    Args:
        position: What the dataset is asked for, int64, shape ``(N,)``.
        index: Positions in the base dataset, which with the view make the seed, int64, shape ``(N,)``.
        view: Views, int64, shape ``(N,)``.

    Returns:
        Positions with seeds.
    """
    pairs = zip(position.tolist(), index.tolist(), view.tolist(), strict=True)
    return [Draw(place, _seed(number, which)) for place, number, which in pairs]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed python, numpy and torch inside the block and give each its state back after it.

    Args:
        seed: The seed, in ``[0, 2**32)``.
        device: An accelerator whose generator is seeded, too.

    Yields:
        Nothing.
    """
    with _states_kept([device] if device is not None and device.type == "cuda" else []):
        _reseed(seed)
        if device is not None and device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _states_kept(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _reseed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators, whose state is not kept


def _seed(index: int, view: int) -> int:
    # splitmix64 of the pair, so that neighbours have unrelated seeds.
    state = (index * 0x9E3779B97F4A7C15 + (view + 1) * 0xD1B54A32D192ED03) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return (state ^ (state >> 31)) >> 32

"""A few seeded samples of a dataset as its loader delivers them: what identifies it, and whether it is random."""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

PROBE_SIZE = 64


def probe_positions(length: int) -> list[int]:
    """Choose the positions of the probe: seeded, so that every run and rank takes the same.

    Args:
        length: Samples in the dataset.

    Returns:
        At most ``PROBE_SIZE`` sorted positions.

    Example:
        >>> probe_positions(3)
        [0, 1, 2]
    """
    return sorted(random.Random(0).sample(range(length), min(length, PROBE_SIZE)))


def probe_batch(loader: DataLoader[Any], dataset: Dataset[Any], *, seed: int) -> Any:
    """Fetch and collate the probe under a random state of its own; the caller's is left as it was.

    Args:
        loader: Gives the collate function.
        dataset: A base dataset of the loader's.
        seed: Seed of python, numpy and torch meanwhile. Two seeds that give two batches show a random transform.

    Returns:
        A batch as the loader delivers it, on the CPU.
    """
    positions = probe_positions(len(dataset))  # type: ignore[arg-type]
    with seeded(seed):
        if hasattr(dataset, "__getitems__"):
            samples = dataset.__getitems__(positions)
        else:
            samples = [dataset[position] for position in positions]
        if loader.batch_sampler is None and loader.batch_size is None:
            return torch.utils.data.default_collate(samples)
        return loader.collate_fn(samples)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed python, numpy and torch inside the block and give each its state back after it.

    Args:
        seed: The seed.
        device: An accelerator whose generator is seeded, too.

    Yields:
        Nothing.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed)
        # torch.manual_seed would also reseed accelerators, whose state is not kept here unless they are named.
        if devices:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def content_hash(value: Any) -> str:
    """Hash the bytes of all tensors and plain values in a batch (never a ``repr``, which may hold addresses).

    Args:
        value: A batch.

    Returns:
        SHA-256 in hex.

    Example:
        >>> content_hash([torch.ones(2)]) == content_hash((torch.ones(2),)) != content_hash([torch.zeros(2)])
        True
    """
    digest = hashlib.sha256()
    for part in _content(value):
        digest.update(part)
    return digest.hexdigest()


def _content(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        yield f"{value.dtype} {tuple(value.shape)} ".encode()
        yield value.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} ".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}=".encode()
            yield from _content(value[key])
    elif isinstance(value, str | bytes | int | float | bool | None):
        yield f"{type(value).__name__} {value!r} ".encode()
    elif isinstance(value, Sequence):
        for part in value:
            yield from _content(part)
    elif hasattr(value, "__dict__"):
        yield from _content(vars(value))
    else:
        yield type(value).__qualname__.encode()

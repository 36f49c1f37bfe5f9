"""A few samples of a dataset as its loader delivers them: what identifies it, and whether outputs can be kept."""

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_graceful.data.batch import BatchAdapter
from lightning_graceful.data.fetch import few_batches
from lightning_graceful.data.hashing import content_hash, input_hash
from lightning_graceful.data.rows import CacheError

PROBE_SIZE = 64
LIVE = 'run the old model live: OldOutputCache(old, cache_dir, fill="never")'
NAMED = (
    "let the dataset return each sample's own index, and name where it is in the batch: "
    'OldOutputCache(old, cache_dir, index="index")'
)


class Probe(NamedTuple):
    """What a probe found.

    Attributes:
        batch: The probed samples as the loader delivers them (view 0), on the CPU.
        content: Hash of the first two views.
        hashed: Whether the hash of a sample's input is the same in any batch, so that it can be kept and compared.
    """

    batch: Any
    content: str
    hashed: bool


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


def is_random(loader: DataLoader[Any], dataset: Dataset[Any]) -> bool:
    """Tell whether samples differ from fetch to fetch.

    Args:
        loader: Gives collate function and worker.
        dataset: A base dataset of the loader's.

    Returns:
        Whether two fetches differ.
    """
    first, second = few_batches(loader, dataset, [_index(dataset)] * 2)
    return content_hash(first) != content_hash(second)


def probe(loader: DataLoader[Any], dataset: Dataset[Any], *, views: int, read: BatchAdapter) -> Probe:
    """Fetch the probe several times and see whether outputs of such samples can be kept.

    Args:
        loader: Gives collate function and worker.
        dataset: A base dataset of the loader's.
        views: Views that are replayed; 1 for samples without random transforms.
        read: Reads inputs and target from a batch.

    Returns:
        What was found.

    Raises:
        CacheError: If samples are random and not replayed, cannot be replayed, or are mixed, dropped or reordered by
            the collate function.
    """
    index = _index(dataset)
    wholes = [index * views + view for view in range(min(views, 2)) for _ in range(2)]
    halves = [half * views for half in index.tensor_split(2) if len(half)]
    batches = few_batches(loader, dataset, [*wholes, *halves], views=views)
    hashes = [content_hash(batch) for batch in batches[: len(wholes)]]
    if hashes[0::2] != hashes[1::2]:
        raise CacheError(_RANDOM if views == 1 else _NOT_REPLAYED)
    inputs = [read(batch).inputs for batch in (batches[0], *batches[len(wholes) :])]
    return Probe(batches[0], " ".join(hashes[0::2]), _keeps_order(len(index), *map(input_hash, inputs)))


_RANDOM = (
    "Expected a sample to be the same each time it is fetched (views=1), but the dataset or its collate function is "
    "random: a stored output would belong to another view. For random transforms in the dataset keep several views of "
    f"each sample, OldOutputCache(old, cache_dir, views=4), else {LIVE}."
)
_NOT_REPLAYED = (
    "Expected random transforms that can be replayed (views=K), from the global generators of python, numpy and torch, "
    "but two fetches under one seed differ: the dataset has a generator of its own, or the collate function mixes "
    f"samples at random. Use the global generators, else {LIVE}."
)


def _index(dataset: Dataset[Any]) -> Tensor:
    return torch.tensor(probe_positions(len(dataset)))  # type: ignore[arg-type]


def _keeps_order(length: int, together: Tensor | None, *halves: Tensor | None) -> bool:
    if together is None:
        return False
    if len(together) != length:
        raise CacheError(
            f"Expected a batch of the {length} samples that were drawn, got {len(together)}: the collate function "
            f"drops or adds samples. Let the dataset do it, {NAMED}, or {LIVE}."
        )
    apart = _joined(list(halves))
    if apart is None or torch.equal(together, apart):
        return apart is not None
    if torch.equal(together.sort().values, apart.sort().values):
        raise CacheError(
            "Expected the samples of a batch in the order in which they were drawn, but the collate function reorders "
            f"them. Keep the order, {NAMED}, or {LIVE}."
        )
    return False  # a sample's input depends on its batch, as with padding


def _joined(hashes: list[Tensor | None]) -> Tensor | None:
    found = [part for part in hashes if part is not None]
    return torch.cat(found) if len(found) == len(hashes) else None

"""The datasets beneath Subset, random_split and ConcatDataset: a sample has one key, wherever it is drawn from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset


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
        parts[0]
        if len(parts) == 1
        else BaseSamples(
            parts[0].dataset, torch.cat([part.index for part in parts]), torch.cat([part.row for part in parts])
        )
        for parts in found.values()
    ]


def base_datasets(dataset: Dataset[Any]) -> list[tuple[Dataset[Any], Tensor | None]]:
    """List the base datasets that a dataset draws from, and which of their samples.

    Args:
        dataset: The loader's dataset.

    Returns:
        For each its samples, sorted, each once, int64; None for all of them. 8 bytes a sample of a Subset.

    Example:
        >>> base_datasets(Subset(range(9), [8, 7]))
        [(range(0, 9), tensor([7, 8]))]
    """
    found: dict[int, tuple[Dataset[Any], Tensor | None]] = {}
    for base, index in _drawn_from(dataset):
        before = found.get(id(base), (base, torch.empty(0, dtype=torch.int64)))[1]
        both = None if index is None or before is None else torch.unique(torch.cat([before, index]))
        found[id(base)] = base, both
    return list(found.values())


def _drawn_from(dataset: Dataset[Any]) -> Iterator[tuple[Dataset[Any], Tensor | None]]:
    if isinstance(dataset, Subset):
        for part in base_samples(dataset, torch.arange(len(dataset))):
            yield part.dataset, part.index
    elif isinstance(dataset, ConcatDataset):
        for one in dataset.datasets:
            yield from _drawn_from(one)
    else:
        yield dataset, None


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

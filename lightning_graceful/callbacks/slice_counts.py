"""Counts of flips for each value of a slice: which group of samples does an update break?"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_graceful.callbacks.evaluated import EvaluatedBatch
from lightning_graceful.callbacks.slices import MAX_VALUES, TOO_MANY, Slice
from lightning_graceful.functional.decisions import CODES
from lightning_graceful.functional.flips import rates_from_counts

LOGGED = ("nfr", "pfr", "error_old", "error_new")


class SliceRates(NamedTuple):
    """What is logged of one value.

    Attributes:
        loader: Number of the dataloader.
        old_name: Name of the old model.
        key: Such as ``"country=IS"``.
        rates: ``nfr, pfr, error_old, error_new, samples``; scalars.
    """

    loader: int
    old_name: str
    key: str
    rates: dict[str, Tensor]


class SliceMonitor:
    """Counts every slice for every loader and old model.

    Args:
        slices: The slices.
    """

    def __init__(self, slices: list[Slice]) -> None:
        self._slices = slices
        self._counts: dict[tuple[int, str, str], SliceCounts] = {}

    def clear(self) -> None:
        """Forget all counts."""
        self._counts = {}

    def begin(self, loader: int, old_name: str, num_samples: int | None, device: torch.device) -> None:
        """Make room for one loader and one old model, as :class:`SliceCounts` does."""
        for one in self._slices:
            self._counts[loader, old_name, one.name] = SliceCounts(num_samples, device)

    def update(self, evaluated: list[EvaluatedBatch]) -> None:
        """Count a batch.

        Args:
            evaluated: The batch by old model.
        """
        for one in self._slices:
            values = one.read(evaluated[0])
            for each in evaluated:
                counts = self._counts[each.loader, each.old_name, one.name]
                counts.update(values, each.code, each.position)

    def compute(self, *, reduce: bool) -> Iterator[SliceRates]:
        """Read the rates of all ranks; every rank has to come to the end.

        Args:
            reduce: Whether there are other ranks.

        Yields:
            One entry for each value that was seen.
        """
        agreed = {one.name: agree(one.name, one.values, gather=reduce) for one in self._slices}
        slices = {one.name: one for one in self._slices}
        for (loader, old_name, name), counts in self._counts.items():
            tables = counts.compute(slices[name].values, agreed[name], reduce=reduce)
            rates, samples = rates_from_counts(tables), tables.sum((1, 2, 3))
            for place, value in enumerate(agreed[name]):
                if samples[place] > 0:
                    said = {key: rates[key][place].float() for key in LOGGED} | {"samples": samples[place].float()}
                    yield SliceRates(loader, old_name, slices[name].key(value), said)


class SliceCounts:
    """Decisions by the value of a slice, exact on any number of ranks.

    Args:
        num_samples: Length of the loader's dataset, to count samples once that a sampler repeats: 2 bytes a sample;
            None adds up.
        device: Where counts are kept.
    """

    def __init__(self, num_samples: int | None, device: torch.device) -> None:
        # Of each value a table of CODES entries, code 0 unused; or for each sample in which table and entry it is.
        self._noted = None if num_samples is None else torch.zeros(num_samples, dtype=torch.int16, device=device)
        self._tables = torch.zeros(MAX_VALUES * CODES, dtype=torch.int64, device=device)

    def update(self, values: Tensor, code: Tensor, position: Tensor | None) -> None:
        """Add a batch.

        Args:
            values: Number of each sample's value, int64, shape ``(N,)``.
            code: What was decided, as in :class:`EvaluatedBatch`, shape ``(N,)``.
            position: Of each sample in the loader's dataset, shape ``(N,)``; needed with ``num_samples``.
        """
        entry = values * CODES + code
        if self._noted is None or position is None:
            self._tables = self._tables + torch.bincount(entry, minlength=MAX_VALUES * CODES)
        else:
            self._noted[position.to(entry.device)] = entry.to(torch.int16)

    def compute(self, values: list[str], agreed: list[str], *, reduce: bool) -> Tensor:
        """Count on all ranks.

        Args:
            values: Values by number on this rank.
            agreed: Values by number in the result, the same on all ranks.
            reduce: Whether there are other ranks.

        Returns:
            ``[value, old_right, new_right, changed]``, int64, shape ``(len(agreed), 2, 2, 2)``.
        """
        places = {value: place for place, value in enumerate(agreed)}
        order = torch.tensor([places[value] for value in values], dtype=torch.int64, device=self._tables.device)
        tables = self._tables.new_zeros(len(agreed), CODES)
        tables.index_add_(0, order, self._tables.view(MAX_VALUES, CODES)[: len(values)])
        if reduce:
            dist.all_reduce(tables)
        if self._noted is not None:
            entry = _renumbered(self._noted.int(), order)  # gloo and NCCL carry no int16
            if reduce:
                dist.all_reduce(entry, dist.ReduceOp.MAX)
            counted = torch.bincount(entry[entry > 0], minlength=tables.numel())
            tables = tables + counted.view_as(tables)
        return tables[:, 1:].reshape(-1, 2, 2, 2)


def agree(name: str, values: list[str], *, gather: bool) -> list[str]:
    """Bring together the values that any rank met.

    Args:
        name: Of the slice.
        values: Those of this rank.
        gather: Whether there are other ranks.

    Returns:
        The same on all ranks, sorted.

    Raises:
        ValueError: If there are more than 1,000, on all ranks alike.
    """
    every: list[list[str]] = [values]
    if gather:
        every = [[]] * dist.get_world_size()
        dist.all_gather_object(every, values)
    agreed = sorted({value for some in every for value in some})
    if len(agreed) > MAX_VALUES:
        raise ValueError(TOO_MANY.format(name=name))
    return agreed


def _renumbered(entry: Tensor, order: Tensor) -> Tensor:
    # From the numbers that this rank gave its values to those that all ranks agreed on; 0 is a sample not seen.
    if not len(order):
        return entry
    value, code = entry // CODES, entry % CODES
    return (order[value.long()].int() * CODES + code) * (entry > 0)

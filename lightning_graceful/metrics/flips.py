"""Flip rates as torchmetrics classes; :mod:`lightning_graceful.functional.flips` has the definitions.

The state is sums of counts, so any split over batches and ranks, empty ranks among them, gives the exact answer. But a
``DistributedSampler`` repeats samples so that each rank gets as many; to count each once, pass ``num_samples`` and
``index``. All classes take the options of :class:`FlipRates`; a ``MetricCollection`` lets those set up alike share one
state.
"""

from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_graceful.functional.decisions import Average, Decisions, Settings, count, decide
from lightning_graceful.functional.flips import rates_from_counts

_COST_RATES = {"nfr": "nf_cost", "pfr": "pf_cost"}


class _FlipCounts(Metric):
    # What all classes share: the options, the counts, and how a batch enters them.

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False
    _takes_costs = False

    counts: Tensor
    masses: Tensor
    cost_sums: Tensor
    codes: Tensor
    groups: Tensor
    sample_weights: Tensor
    sample_costs: Tensor
    last_codes: Tensor | None = None  # of the last batch on this rank, one a decision, as in functional.decisions

    def __init__(
        self,
        *,
        average: Average | None = None,
        num_classes: int | None = None,
        threshold: float = 0.5,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        costs: Tensor | None = None,
        num_samples: int | None = None,
        weighted: bool = False,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = Settings(average, num_classes, threshold, num_labels, ignore_index, costs)
        self.num_samples, self.weighted, self.validate_args = num_samples, weighted, validate_args
        self._check_arguments()
        if num_samples is None:
            self._add_sum_states()
        else:
            self._add_sample_states(num_samples)
        # A MetricCollection lets metrics share a state if theirs are equal after the first batch. Two thresholds may
        # well agree on that one; this state, which never changes, keeps them apart.
        self.add_state("options", torch.tensor(self._fingerprint()), dist_reduce_fx="max")

    def update(
        self, old: Tensor, new: Tensor, target: Tensor, index: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Add a batch, as in :func:`lightning_graceful.functional.flip_rates`.

        Args:
            old: Labels or scores of the old model.
            new: Labels or scores of the new model.
            target: True labels, integer, shape ``(N,)`` or ``(N, ...)``.
            index: Which samples these are, integer, shape ``(N,)``, in [0, num_samples); with ``num_samples`` only.
            weights: Weight of each sample, at least 0, shape ``(N,)``.
        """
        self._check_index(index, target, weights)
        decisions = decide(old, new, target, self.settings, weights, validate=self.validate_args).to(self.device)
        self.last_codes = decisions.code
        if index is None:
            self._add(decisions)
        else:
            self._note(decisions, index.to(self.device))

    @property
    def table(self) -> Tensor:
        """Counts ``[old_right, new_right]`` on this rank, int64, shape ``(2, 2)``, without batches that had weights.

        Within ``with metric.sync_context():`` they are the counts of all ranks.
        """
        counts = self.counts if self.num_samples is None else count(self._noted()._replace(weight=None))[0]
        return counts.view(-1, 2, 2, 2).sum((0, 3))

    def _rates(self) -> dict[str, Tensor]:
        if self.num_samples is None:
            counts, costs = self.counts + self.masses, None if self.settings.costs is None else self.cost_sums
        else:
            counts, costs = count(self._noted())
        return rates_from_counts(counts, costs, average=self.settings.average)

    def _add(self, decisions: Decisions) -> None:
        # Not in place: a state made in Lightning's evaluation is an inference tensor, which nothing else may write to.
        counts, costs = count(decisions)
        if decisions.weight is None:
            self.counts = self.counts + counts
        else:
            self.masses = self.masses + counts
        if costs is not None:
            self.cost_sums = self.cost_sums + costs

    def _note(self, decisions: Decisions, index: Tensor) -> None:
        self.codes[index] = decisions.code
        if decisions.group is not None:
            self.groups[index] = (decisions.group + 1).to(self._group_dtype)[:, None].view(torch.uint8)
        if self.weighted:
            self.sample_weights[index] = 1.0 if decisions.weight is None else decisions.weight.float()
        if decisions.cost is not None:
            self.sample_costs[index] = decisions.cost.float()

    def _noted(self) -> Decisions:
        return Decisions(
            self.codes,
            (self.groups.view(self._group_dtype)[:, 0].long() - 1).clamp(min=0) if self.settings.grouped else None,
            self._num_groups,
            self.sample_weights.double() if self.weighted else None,
            self.sample_costs.double() if self.settings.costs is not None else None,
        )

    @property
    def _num_groups(self) -> int:
        return (self.settings.num_labels or self.settings.classes or 0) if self.settings.grouped else 1

    @property
    def _group_dtype(self) -> torch.dtype:
        return torch.int16 if self._num_groups < 2**15 else torch.int32

    def _add_sum_states(self) -> None:
        shape = (self._num_groups, 2, 2, 2) if self.settings.grouped else (2, 2, 2)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("masses", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        if self.settings.costs is not None:
            self.add_state("cost_sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _add_sample_states(self, num_samples: int) -> None:
        # Max over ranks takes the one that saw the sample: every state is 0 where it was not seen.
        states = {"codes": torch.zeros(num_samples, dtype=torch.uint8)}
        if self.settings.grouped:  # as bytes, which are the same on all ranks or 0: gloo and NCCL carry no int16
            states["groups"] = torch.zeros(num_samples, 1, dtype=self._group_dtype).view(torch.uint8)
        if self.weighted:
            states["sample_weights"] = torch.zeros(num_samples, dtype=torch.float32)
        if self.settings.costs is not None:
            states["sample_costs"] = torch.zeros(num_samples, dtype=torch.float32)
        for name, zeros in states.items():
            self.add_state(name, zeros, dist_reduce_fx="max")

    def _fingerprint(self) -> int:
        known = self.settings
        costs = None if known.costs is None else known.costs.tolist()
        said = (known.grouped, known.exact_match, known.threshold, known.num_labels, known.ignore_index, costs)
        return crc32(repr(said).encode()) % 2**16  # small: torchmetrics compares states to a relative 1e-5

    def _check_arguments(self) -> None:
        if self.settings.costs is not None and not self._takes_costs:
            raise ValueError(
                f"Expected no costs: {type(self).__name__} is a ratio of counts. "
                "Use NegativeFlipRate, PositiveFlipRate or FlipRates."
            )
        if self.settings.grouped and not self._num_groups:
            raise ValueError(
                f"Expected num_classes with average={self.settings.average!r}, got None. Pass num_classes=."
            )
        if self.num_samples is None:
            return
        if self.num_samples < 1:
            raise ValueError(f"Expected num_samples of at least 1, got {self.num_samples}. Pass len(dataset).")
        if self.settings.num_labels is not None and not self.settings.exact_match:
            raise ValueError("Expected one decision a sample with num_samples. Leave average=None (exact match).")

    def _check_index(self, index: Tensor | None, target: Tensor, weights: Tensor | None) -> None:
        if index is None and self.num_samples is None:
            return
        if index is None:
            raise ValueError("Expected index with num_samples, got None. Pass index=, or drop num_samples.")
        if self.num_samples is None:
            raise ValueError("Expected num_samples with index, got None. Pass num_samples=len(dataset), or drop index.")
        if weights is not None and not self.weighted:
            raise ValueError(
                "Expected no weights with num_samples, got some. Pass weighted=True to make room for them."
            )
        if target.ndim != (1 if self.settings.num_labels is None else 2):
            raise ValueError(
                f"Expected one decision a sample with num_samples, got target of shape {tuple(target.shape)}. "
                "Drop num_samples and index for pixels."
            )
        _check_positions(index, len(target), self.num_samples if self.validate_args else None)


def _check_positions(index: Tensor, length: int, num_samples: int | None) -> None:
    if index.shape != (length,) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"Expected an integer index of shape ({length},), got {index.dtype} of shape {tuple(index.shape)}. "
            "Pass the position of each sample in the base dataset."
        )
    if num_samples is not None and bool(((index < 0) | (index >= num_samples)).any()):
        raise ValueError(
            f"Expected index in [0, {num_samples}), got {index.min().item()} to {index.max().item()}. "
            "Pass num_samples=len(dataset) of the base dataset."
        )


class FlipRates(_FlipCounts):
    """All flip rates as a dict, from one count.

    Keys: ``nfr, pfr, relative_nfr, nfi, pfi, btc, bec, churn, error_old, error_new``; with costs ``nf_cost, pf_cost``.
    See :func:`lightning_graceful.functional.flip_rates`; float64, NaN for 0/0.

    Args:
        average: What a rate is taken over: None, ``"micro"``, ``"macro"`` or ``"none"``, as in ``flip_rates``.
        num_classes: Number of classes; needed for ``"macro"`` and ``"none"``, except with ``num_labels`` or ``costs``.
        threshold: Binary and multilabel scores above it say 1. Scores are compared as they are: 0 suits logits.
        num_labels: Width ``L`` of a multilabel target ``(N, L)``.
        ignore_index: Entries with this target are left out.
        costs: Severity of a mistake, ``costs[target, predicted]``, at least 0, shape ``(C, C)``.
        num_samples: Length of the dataset; ``update`` then needs ``index``, and repeated samples count once on any
            number of ranks. A rank holds 1 byte a sample, 2 more for ``"macro"`` and ``"none"`` (4 from 32768 classes),
            4 more with ``weighted``, 4 more with ``costs`` (float32). One decision a sample only: no pixels, no pooled
            labels.
        weighted: Makes room for weights beside ``num_samples``; without it weights need no announcement.
        validate_args: Whether values are checked, which waits for the device; shapes always are.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of its domain, or two of them exclude each other.

    Example:
        >>> rates = FlipRates()
        >>> rates.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1]), torch.tensor([0, 1, 1, 2]))
        >>> {name: round(rate.item(), 2) for name, rate in rates.compute().items() if name in ("nfr", "btc", "churn")}
        {'nfr': 0.5, 'btc': 0.33, 'churn': 0.5}
    """

    higher_is_better = None
    _takes_costs = True

    def compute(self) -> dict[str, Tensor]:
        """Read all rates from the counts of all ranks.

        Returns:
            Rates by name.
        """
        return self._rates()


class _FlipRate(_FlipCounts):
    _rate: str

    def compute(self) -> Tensor:
        """Read the rate from the counts of all ranks.

        Returns:
            Rate, float64; a scalar, or shape ``(C,)`` for ``average="none"``.
        """
        return self._rates()[self._rate if self.settings.costs is None else _COST_RATES[self._rate]]


class NegativeFlipRate(_FlipRate):
    """Share of decisions that the update breaks, ``NF / N``; in [0, 1], lower is better.

    With ``costs``: the cost of the new model's mistakes in negative flips over ``N``. See
    :func:`lightning_graceful.functional.negative_flip_rate`; options as in :class:`FlipRates`.

    Example:
        >>> rate = NegativeFlipRate()
        >>> rate.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    _rate = "nfr"
    _takes_costs = True


class PositiveFlipRate(_FlipRate):
    """Share of decisions that the update repairs, ``PF / N``; in [0, 1], higher is better.

    With ``costs``: the cost of the old model's mistakes in positive flips over ``N``. See
    :func:`lightning_graceful.functional.positive_flip_rate`; options as in :class:`FlipRates`.

    Example:
        >>> rate = PositiveFlipRate()
        >>> rate.update(torch.tensor([0, 0, 2, 2]), torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True
    _rate = "pfr"
    _takes_costs = True


class RelativeNegativeFlipRate(_FlipRate):
    """Negative flips against chance, ``NFR / ((1 - error_old) * error_new)``; at least 0, lower is better.

    1 is what two independently erring models have. NaN if old is never right or new never wrong. See
    :func:`lightning_graceful.functional.relative_negative_flip_rate`; options as in :class:`FlipRates`, without costs.

    Example:
        >>> rate = RelativeNegativeFlipRate()
        >>> rate.update(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(1.3333, dtype=torch.float64)
    """

    _rate = "relative_nfr"


class NegativeFlipImpact(_FlipRate):
    """Share of the new model's errors that are new, ``NF / (new wrong)``; in [0, 1], lower is better.

    NaN if the new model makes no error. See :func:`lightning_graceful.functional.negative_flip_impact`; options as in
    :class:`FlipRates`, without costs.

    Example:
        >>> rate = NegativeFlipImpact()
        >>> rate.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    _rate = "nfi"


class PositiveFlipImpact(_FlipRate):
    """Share of the new model's right decisions that are new, ``PF / (new right)``; in [0, 1], higher is better.

    NaN if the new model is never right. See :func:`lightning_graceful.functional.positive_flip_impact`; options as in
    :class:`FlipRates`, without costs.

    Example:
        >>> rate = PositiveFlipImpact()
        >>> rate.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    _rate = "pfi"


class BackwardTrustCompatibility(_FlipRate):
    """Share of the old model's right decisions that stay right, ``(both right) / (old right)``.

    In [0, 1], higher is better; NaN if the old model is never right. See
    :func:`lightning_graceful.functional.backward_trust_compatibility`; options as in :class:`FlipRates`, without costs.

    Example:
        >>> rate = BackwardTrustCompatibility()
        >>> rate.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    _rate = "btc"


class BackwardErrorCompatibility(_FlipRate):
    """Share of the old model's errors that remain, ``(both wrong) / (old wrong)``; in [0, 1].

    No direction is better: a high share means errors that users know, a low one errors that are repaired. The other
    definition in print, ``(both wrong) / (new wrong)``, is ``1 - NFI``. NaN if the old model makes no error. See
    :func:`lightning_graceful.functional.backward_error_compatibility`; options as in :class:`FlipRates`, without costs.

    Example:
        >>> rate = BackwardErrorCompatibility()
        >>> rate.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None
    _rate = "bec"


class ChurnRate(_FlipRate):
    """Share of decisions that change at all, ``(NF + PF + wrong to another wrong) / N``; in [0, 1], lower is better.

    See :func:`lightning_graceful.functional.churn_rate`; options as in :class:`FlipRates`, without costs.

    Example:
        >>> rate = ChurnRate()
        >>> rate.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0]))
        >>> rate.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    _rate = "churn"

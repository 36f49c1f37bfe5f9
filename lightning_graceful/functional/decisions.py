"""What two models decided on a batch: read, checked, and coded in one byte a decision.

Every measure of flips is read from counts of these codes, ``1 + 4 * old_right + 2 * new_right + changed``. Code 0 is a
decision that does not count: its target is ``ignore_index`` or, in a metric's memory, its sample was not seen yet.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Average = Literal["micro", "macro", "none"]
CODES = 9


@dataclass(frozen=True, eq=False)
class Settings:
    """How predictions are read and what a rate is taken over; the arguments of ``flip_rates`` by the same names."""

    average: Average | None = None
    num_classes: int | None = None
    threshold: float = 0.5
    num_labels: int | None = None
    ignore_index: int | None = None
    costs: Tensor | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data.

        Raises:
            ValueError: If an argument is out of its domain, or two of them exclude each other.
        """
        if self.average not in {None, "micro", "macro", "none"}:
            raise ValueError(f"Expected average to be None, 'micro', 'macro' or 'none', got {self.average!r}.")
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"Expected num_classes of at least 2, got {self.num_classes}.")
        if self.num_labels is not None and self.num_labels < 1:
            raise ValueError(f"Expected num_labels of at least 1, got {self.num_labels}.")
        if self.num_classes is not None and self.num_labels is not None:
            raise ValueError(
                "Expected num_classes or num_labels, got both. Multilabel decisions are labels: drop classes."
            )
        if self.costs is not None:
            self._check_costs(self.costs)

    @property
    def exact_match(self) -> bool:
        """Whether a multilabel sample is one decision, right if all of its labels are."""
        return self.num_labels is not None and self.average is None

    @property
    def grouped(self) -> bool:
        """Whether counts are kept apart by target class (multilabel: by label)."""
        return self.average in {"macro", "none"}

    @property
    def classes(self) -> int | None:
        """Number of classes as far as it is known without data."""
        if self.num_labels is not None:
            return 2
        return len(self.costs) if self.num_classes is None and self.costs is not None else self.num_classes

    def _check_costs(self, costs: Tensor) -> None:
        if self.exact_match:
            raise ValueError(
                "Expected average='micro', 'macro' or 'none' with multilabel costs, got None (exact match)."
            )
        if costs.ndim != 2 or costs.shape != (self.classes, self.classes) or len(costs) < 2:
            classes = f"{2 if self.num_labels else self.num_classes or 'C'}"
            raise ValueError(
                f"Expected costs[target, predicted] of shape ({classes}, {classes}), got {tuple(costs.shape)}. "
                "Give one row and one column a class."
            )
        if not bool(((costs >= 0) & costs.isfinite()).all()):
            raise ValueError("Expected finite costs of at least 0, got a negative one, NaN or Inf. Clean the costs.")


class Decisions(NamedTuple):
    """Coded decisions of a batch, flat, one entry a decision.

    Attributes:
        code: ``1 + 4 * old_right + 2 * new_right + changed``, or 0 if left out; uint8, shape ``(M,)``.
        group: Target class (multilabel: position of the label), int64, shape ``(M,)``; None where counts are pooled.
        groups: Number of groups; 1 where counts are pooled.
        weight: Weight of the decision's sample, float64, shape ``(M,)``; None where each weighs 1.
        cost: Cost of the mistake in a flip, float64, shape ``(M,)``; meaningless for other decisions; None if no costs.
    """

    code: Tensor
    group: Tensor | None
    groups: int
    weight: Tensor | None
    cost: Tensor | None

    def to(self, device: torch.device) -> "Decisions":
        """Move all tensors.

        Args:
            device: Where to.

        Returns:
            The same decisions there.
        """
        parts: dict[str, Any] = {name: x.to(device) for name, x in self._asdict().items() if isinstance(x, Tensor)}
        return self._replace(**parts)


def decide(
    old: Tensor,
    new: Tensor,
    target: Tensor,
    settings: Settings,
    weights: Tensor | None = None,
    *,
    validate: bool = True,
) -> Decisions:
    """Read, check and code the decisions of two models on a batch.

    Args:
        old: Labels or scores of the old model, as in :func:`lightning_graceful.functional.flip_rates`.
        new: Labels or scores of the new model.
        target: True labels, integer, shape ``(N,)`` or ``(N, ...)``; multilabel ``(N, num_labels)``.
        settings: How to read them.
        weights: Weight of each sample, at least 0, shape ``(N,)``.
        validate: Whether values are checked too, which waits for the device; shapes are always checked.

    Returns:
        One code for each decision.

    Raises:
        ValueError: If shapes, class counts or (with ``validate``) values are not as said.

    Example:
        >>> old, new = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2])
        >>> decide(old, new, torch.tensor([0, 1, 1]), Settings()).code.tolist()
        [7, 6, 1]
    """
    _check_target(target, settings)
    target = target.long()
    old_labels, old_classes = _labels(old, target, "old", settings, validate)
    new_labels, new_classes = _labels(new, target, "new", settings, validate)
    classes = _class_count(old_classes, new_classes, settings)
    if settings.grouped and classes is None:
        raise ValueError(f"Expected num_classes with average={settings.average!r}, got labels only. Pass num_classes=.")
    seen = torch.ones_like(target, dtype=torch.bool)
    if settings.ignore_index is not None:
        seen = target != settings.ignore_index
        target, old_labels, new_labels = (labels.where(seen, 0) for labels in (target, old_labels, new_labels))
    if validate:
        _check_labels(old_labels, new_labels, target, classes)
    group, groups = _group(target, classes, settings)
    return Decisions(
        _code(old_labels, new_labels, target, seen, settings),
        group,
        groups,
        _spread(weights, target, settings, validate),
        _cost(old_labels, new_labels, target, settings.costs),
    )


def count(decisions: Decisions) -> tuple[Tensor, Tensor | None]:
    """Add up the decisions of each kind.

    Args:
        decisions: Coded decisions.

    Returns:
        Sums ``[old_right, new_right, changed]`` of decisions, int64, or of their weights, float64; and of their costs
        times weights, float64, None without costs. Shape ``(2, 2, 2)``; ``(groups, 2, 2, 2)`` where there are groups.

    Example:
        >>> counts, _ = count(Decisions(torch.tensor([7, 6, 1, 0], dtype=torch.uint8), None, 1, None, None))
        >>> counts.sum(-1).tolist()
        [[1, 0], [1, 1]]
    """
    weight, cost = decisions.weight, decisions.cost
    if cost is not None and weight is not None:
        cost = cost * weight
    return _add_up(decisions, weight), None if cost is None else _add_up(decisions, cost)


def _add_up(decisions: Decisions, value: Tensor | None) -> Tensor:
    code, group, groups = decisions[:3]
    key = code.long() if group is None else group * CODES + code
    if value is None:
        sums = torch.bincount(key, minlength=groups * CODES)
    else:  # not bincount(weights=): Trainer(deterministic=True) forbids it on CUDA
        sums = torch.zeros(groups * CODES, dtype=torch.float64, device=key.device).index_add_(0, key, value)
    table = sums.view(groups, CODES)[:, 1:].reshape(groups, 2, 2, 2)
    return table[0] if group is None else table


def _check_target(target: Tensor, settings: Settings) -> None:
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"Expected target to hold integer labels, got {target.dtype}. Convert it with target.long().")
    if target.ndim == 0:
        raise ValueError("Expected target of shape (N,) or (N, ...), got a scalar. Add a batch dimension.")
    if settings.num_labels is not None and target.shape[1:] != (settings.num_labels,):
        raise ValueError(
            f"Expected target of shape (N, {settings.num_labels}) (num_labels), got {tuple(target.shape)}."
        )


def _labels(
    prediction: Tensor, target: Tensor, name: str, settings: Settings, validate: bool
) -> tuple[Tensor, int | None]:
    # Also returned: the number of classes, where the prediction's shape gives it away.
    scores, same_shape = prediction.is_floating_point(), prediction.shape == target.shape
    if same_shape and scores:
        if validate and not bool((prediction < math.inf).all()):
            raise ValueError(f"Expected scores below +Inf from {name}, got NaN or +Inf. Look at that model's outputs.")
        return (prediction > settings.threshold).long(), 2
    if same_shape:
        return prediction.long(), None
    if not scores or settings.num_labels is not None or prediction.shape[:1] + prediction.shape[2:] != target.shape:
        raise ValueError(
            f"Expected {name} as labels or binary scores of target's shape {tuple(target.shape)}, or as scores with "
            f"a further second dimension for classes, got {prediction.dtype} of shape {tuple(prediction.shape)}."
        )
    if prediction.shape[1] < 2:
        raise ValueError(f"Expected {name} scores of two or more classes, got one. Pass binary scores as scores[:, 0].")
    top = prediction.max(dim=1)  # not argmax: NaN and Inf show in the largest value, so one pass finds both
    if validate and not bool(top.values.isfinite().all()):
        raise ValueError(
            f"Expected a finite largest score in each row of {name}, got NaN, +Inf or only -Inf. Look at its outputs."
        )
    return top.indices, prediction.shape[1]


def _class_count(old: int | None, new: int | None, settings: Settings) -> int | None:
    if old is not None and new is not None and old != new:
        raise ValueError(
            f"Expected old and new scores of the same classes, got {old} and {new} of them. "
            "Map the old classes to the new ones: OldModel(..., label_map=...)."
        )
    found, stated = old or new, settings.classes
    if found is not None and stated is not None and found != stated:
        raise ValueError(f"Expected scores of {stated} classes (num_classes or costs), got {found}. Make them agree.")
    return stated or found


def _check_labels(old: Tensor, new: Tensor, target: Tensor, classes: int | None) -> None:
    _check_range(target, classes, "target", "Pass ignore_index= to leave such entries out.")
    if classes is not None:
        _check_range(old, classes, "old", "Map the old labels to those of target.")
        _check_range(new, classes, "new", "Map the new labels to those of target.")


def _check_range(labels: Tensor, classes: int | None, name: str, remedy: str) -> None:
    outside = (labels < 0) if classes is None else (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        bounds = "at least 0" if classes is None else f"in [0, {classes})"
        raise ValueError(f"Expected labels of {name} {bounds}, got {labels[outside][0].item()}. {remedy}")


def _code(old: Tensor, new: Tensor, target: Tensor, seen: Tensor, settings: Settings) -> Tensor:
    old_right, new_right, changed = old == target, new == target, old != new
    if settings.exact_match:  # entries that are not seen were made equal, so they count as right on both sides
        old_right, new_right, changed, seen = old_right.all(1), new_right.all(1), changed.any(1), seen.any(1)
    return ((1 + 4 * old_right.byte() + 2 * new_right.byte() + changed) * seen).flatten()


def _group(target: Tensor, classes: int | None, settings: Settings) -> tuple[Tensor | None, int]:
    if not settings.grouped:
        return None, 1
    if settings.num_labels is None:
        return target.flatten(), classes or 1
    return torch.arange(settings.num_labels, device=target.device).repeat(len(target)), settings.num_labels


def _spread(weights: Tensor | None, target: Tensor, settings: Settings, validate: bool) -> Tensor | None:
    if weights is None:
        return None
    if weights.shape != target.shape[:1]:
        raise ValueError(f"Expected one weight a sample, shape ({len(target)},), got {tuple(weights.shape)}.")
    if validate and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError("Expected finite weights of at least 0, got a negative one, NaN or Inf. Clean the weights.")
    weights = weights.detach().double()
    return weights if settings.exact_match else weights.repeat_interleave(target[:1].numel())


def _cost(old: Tensor, new: Tensor, target: Tensor, costs: Tensor | None) -> Tensor | None:
    if costs is None:
        return None
    mistake = new.where(old == target, old)  # of a negative flip the new model's, of a positive one the old model's
    return costs.to(target.device, torch.float64)[target, mistake].flatten()

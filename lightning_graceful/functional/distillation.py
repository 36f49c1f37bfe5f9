"""Losses of positive-congruent training (Yan et al., Positive-Congruent Training, CVPR 2021, section 3)."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["kl", "logit"]
Focus = Literal["old_correct", "all", "neg_flip", "new_incorrect"]
Reduction = Literal["mean", "none"]


def focal_distillation_loss(
    new_logits: Tensor,
    old_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 5.0,
    kind: Kind = "kl",
    temperature: float = 100.0,
    focus: Focus = "old_correct",
    class_reduction: Literal["mean", "sum"] = "mean",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distil the old model, most where it was right (PCT, eq. 5 and 7).

    .. math:: \frac1N \sum_i (\alpha + \beta\,[i \in \text{focus}])\, D(\text{new}_i, \text{old}_i)

    ``kind="kl"``: :math:`D =
        \tau^2\,\mathrm{KL}(\mathrm{softmax}(\text{old}/\tau)\,\|\,\mathrm{softmax}(\text{new}/\tau))`.
    The paper's eq. 8 has no :math:`\tau^2`, without which the term is inert at its :math:`\tau = 100`.
    ``kind="logit"``: :math:`D = \frac12 \lVert \text{new} - \text{old} \rVert^2`, divided by the number of classes
        unless
    ``class_reduction="sum"``, which is the paper's literal eq. 9.

    Note:
        Scale. At :math:`\tau = 100` the KL term is nearly half the *mean* squared difference of centred logits, so both
        kinds have one scale with ``class_reduction="mean"``; weights from 0.01 to 1 are worth a try. With ``"sum"`` the
        gradient is ``C`` times larger: at weight 1, with ``alpha + beta = 6``, SGD diverged on Fashion-MNIST (error
        90 %; command in benchmarks/README.md). A weight for ``"sum"`` is a weight for ``"mean"`` divided by ``C``.

    Classes that the old model never knew carry ``-inf`` in ``old_logits``: the distance is taken over the known ones.

    Args:
        new_logits: Scores of the model in training, floating, shape ``(N, C)``.
        old_logits: Scores of the old model, shape ``(N, C)``; must not require grad.
        target: True labels, integer, shape ``(N,)``.
        alpha: Weight of every sample.
        beta: Extra weight of the samples in focus.
        kind: Distance of two rows of logits.
        temperature: :math:`\tau` of ``kind="kl"``.
        focus: ``"old_correct"``: the old model is right; ``"neg_flip"``: and the new one is not; ``"new_incorrect"``:
            the new one is wrong; ``"all"``: every sample.
        class_reduction: How ``kind="logit"`` reduces over classes.
        reduction: ``"mean"`` over the batch, or ``"none"`` for one value a sample.

    Returns:
        The loss, float32 (float64 for float64 logits), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If shapes differ, ``old_logits`` requires grad, a target is out of range or an option is unknown.

    Example:
        >>> old = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> new = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> focal_distillation_loss(new, old, torch.tensor([0, 1]), kind="logit", reduction="none")
        tensor([1.5000, 0.2500])
    """
    _check_option("kind", kind, Kind)
    _check_option("focus", focus, Focus)
    if kind == "kl" and class_reduction != "mean":
        raise ValueError('Expected class_reduction="mean" with kind="kl" (a KL divergence is one sum), got "sum".')
    new_logits, old_logits = _check_logits(new_logits, old_logits, target)
    if kind == "kl":
        distance = _softened_kl(new_logits, old_logits, temperature)
    else:
        distance = _squared_difference(new_logits, old_logits, class_reduction)
    weight = alpha + beta * _in_focus(new_logits, old_logits, target, focus)
    return _reduce(weight * distance, reduction)


def new_error_loss(new_logits: Tensor, old_logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Cross-entropy on the samples that the old model has right (PCT's "naive", eq. 6).

    .. math:: \frac1N \sum_i [\text{old}_i \text{ right}]\, \mathrm{CE}(\text{new}_i, y_i)

    Also the *new-error dissonance* of Bansal et al. (AAAI 2019). The mean is over all N samples, not over the right
    ones.

    Args:
        new_logits: Scores of the model in training, floating, shape ``(N, C)``.
        old_logits: Scores of the old model, shape ``(N, C)``; must not require grad.
        target: True labels, integer, shape ``(N,)``.
        reduction: ``"mean"`` over the batch, or ``"none"`` for one value a sample.

    Returns:
        The loss, float32 (float64 for float64 logits), a scalar or shape ``(N,)``.

    Raises:
        ValueError: If shapes differ, ``old_logits`` requires grad or a target is out of range.

    Example:
        >>> logits = torch.zeros(2, 4)
        >>> new_error_loss(logits, torch.eye(4)[:2], torch.tensor([0, 3]), reduction="none")
        tensor([1.3863, 0.0000])
    """
    new_logits, old_logits = _check_logits(new_logits, old_logits, target)
    right = (old_logits.argmax(-1) == target).to(new_logits.dtype)
    return _reduce(right * F.cross_entropy(new_logits, target, reduction="none"), reduction)


def _softened_kl(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Return KL(old || new) times the squared temperature, per sample, exact where the two are close.

    At a high temperature the divergence is a small number left over from the cancellation of large ones. With d the
    difference of the softened logits, x = d - E_old[d], it is log E_old[exp(x)], and E_old[x] = 0 can be taken out
    before the sum.
    """
    known = torch.isfinite(old)
    log_p = F.log_softmax(old / temperature, dim=-1)
    p = log_p.exp()
    difference = torch.where(known, new - torch.where(known, old, 0), 0) / temperature
    x = difference - (p * difference).sum(-1, keepdim=True)
    close = x.detach().abs().amax(-1, keepdim=True) < 1
    near = torch.where(close, x, 0)
    exact_when_close = torch.log1p((p * (torch.expm1(near) - near)).sum(-1))
    divergence = torch.where(close.squeeze(-1), exact_when_close, torch.logsumexp(log_p + x, dim=-1))
    return temperature**2 * divergence


def _squared_difference(new: Tensor, old: Tensor, class_reduction: str) -> Tensor:
    _check_option("class_reduction", class_reduction, Literal["mean", "sum"])
    known = torch.isfinite(old)
    squares = 0.5 * torch.where(known, new - torch.where(known, old, 0), 0).square()
    return squares.sum(-1) if class_reduction == "sum" else squares.sum(-1) / known.sum(-1)


def _in_focus(new: Tensor, old: Tensor, target: Tensor, focus: Focus) -> Tensor:
    # One where a sample gets the extra weight, else zero, shape (N,).
    old_right, new_wrong = old.argmax(-1) == target, new.argmax(-1) != target
    masks = {
        "old_correct": old_right,
        "all": torch.ones_like(old_right),
        "neg_flip": old_right & new_wrong,
        "new_incorrect": new_wrong,
    }
    return masks[focus].to(new.dtype)


def _reduce(per_sample: Tensor, reduction: str) -> Tensor:
    _check_option("reduction", reduction, Reduction)
    if reduction == "none":
        return per_sample
    # An empty batch gives a zero that still has a graph, so that backward and DDP go on.
    return per_sample.sum() / max(len(per_sample), 1)


def _check_option(name: str, value: str, allowed: object) -> None:
    if value not in get_args(allowed):
        raise ValueError(f"Expected {name} to be one of {list(get_args(allowed))}, got {value!r}.")


def _check_logits(new: Tensor, old: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    # Refuse what cannot be compared; return both in float32, or float64 where the new ones are.
    if new.ndim != 2 or old.ndim != 2 or len(new) != len(old) or target.shape != new.shape[:1]:
        raise ValueError(
            "Expected new_logits (N, C), old_logits (N, C) and target (N,), "
            f"got {tuple(new.shape)}, {tuple(old.shape)} and {tuple(target.shape)}."
        )
    if new.shape[1] != old.shape[1]:
        raise ValueError(
            f"Expected one number of classes, got {new.shape[1]} (new) and {old.shape[1]} (old). "
            "Give the OldModel a label_map: for each new class its column in the old model, or -1."
        )
    if old.requires_grad:
        raise ValueError(
            "Expected old_logits without grad: the old model is frozen. Use OldModel, or old_logits.detach()."
        )
    _check_values(new, old, target)
    dtype = torch.promote_types(new.dtype, torch.float32)
    return new.to(dtype), old.to(dtype)


def _check_values(new: Tensor, old: Tensor, target: Tensor) -> None:
    classes = new.shape[1]
    # One transfer to the host for all four questions: this runs in every training step.
    problems = torch.stack([
        ~torch.isfinite(new.detach()).all(),
        (torch.isnan(old) | (old == math.inf)).any(),
        (target < 0).any(),
        (target >= classes).any(),
    ]).tolist()
    if problems[0]:
        raise ValueError(
            "Expected finite new_logits, got NaN or Inf: lower the learning rate or the weight of the loss."
        )
    if problems[1]:
        raise ValueError("Expected old_logits without NaN or +Inf: the old model or its cache is broken.")
    if problems[2] or problems[3]:
        low, high = int(target.min()), int(target.max())
        raise ValueError(f"Expected targets in [0, {classes}), got values from {low} to {high}.")

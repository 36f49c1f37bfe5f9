"""Checks of arguments that the losses on embeddings share, and their last step, the mean."""

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from lightning_graceful.functional.distillation import Reduction


def check_embeddings(new_embedding: Tensor | None = None, **old: Tensor) -> None:
    """Check that embeddings are finite floating matrices, and the old ones constants.

    Args:
        new_embedding: Of the model in training, shape ``(N, d)``; None where only old ones play a part.
        old: Of the old model, by the name that errors use, shape ``(., d_old)``.

    Raises:
        ValueError: If one holds NaN or Inf, or is not as :func:`check_matrices` wants it.
    """
    check_matrices(new_embedding, **old)
    named = _named(new_embedding, old)
    # One transfer to the host for all: this runs in every training step.
    finite = torch.stack([torch.isfinite(rows.detach()).all() for rows in named.values()]).tolist()
    for name, is_finite in zip(named, finite, strict=True):
        if not is_finite:
            raise ValueError(f"Expected finite {name}, got NaN or Inf. {_remedy(name)}")


def check_matrices(new_embedding: Tensor | None = None, **old: Tensor) -> None:
    """Check what can be told of embeddings without a look at their values.

    Args:
        new_embedding: Of the model in training, shape ``(N, d)``; None where only old ones play a part.
        old: Of the old model, by the name that errors use, shape ``(., d_old)``.

    Raises:
        ValueError: If one is no floating matrix, or an old one requires grad.
    """
    for name, rows in _named(new_embedding, old).items():
        if rows.ndim != 2 or not rows.is_floating_point() or not rows.shape[1]:
            raise ValueError(
                f"Expected {name} as a floating matrix (N, d), got {rows.dtype} of shape {tuple(rows.shape)}. "
                "Flatten each embedding to one row."
            )
    for name, rows in old.items():
        if rows.requires_grad:
            raise ValueError(f"Expected {name} without grad: the old model is frozen. Use OldModel, or .detach() it.")


def _named(new_embedding: Tensor | None, old: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return old if new_embedding is None else {"new_embedding": new_embedding, **old}


def check_rows(rows: Tensor, **others: Tensor) -> None:
    """Check that there is as much of everything.

    Args:
        rows: One a sample, shape ``(N, d)``.
        others: By the name that errors use; should have ``N`` rows, too.

    Raises:
        ValueError: If one has not.
    """
    for name, other in others.items():
        if len(other) != len(rows):
            raise ValueError(f"Expected {name} of {len(rows)} rows, as many as embeddings, got {len(other)}.")


def check_target(target: Tensor, rows: Tensor, name: str = "target") -> None:
    """Check that there is one integer a row.

    Args:
        target: Labels.
        rows: What they belong to, shape ``(N, d)``.
        name: What errors call the labels.

    Raises:
        ValueError: If they are no integers, or of another number.
    """
    if target.is_floating_point() or target.dtype == torch.bool or target.shape != rows.shape[:1]:
        raise ValueError(
            f"Expected integer {name} of shape ({len(rows)},), got {target.dtype} of shape {tuple(target.shape)}. "
            "Give one label an embedding; below 0 for none."
        )


def check_temperature(temperature: float) -> None:
    """Check a temperature.

    Args:
        temperature: Should be positive.

    Raises:
        ValueError: If it is not.
    """
    if not temperature > 0:
        raise ValueError(f"Expected temperature > 0, got {temperature}.")


def reduce_rows(values: Tensor, counted: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce one value a row to the mean of those that count.

    Args:
        values: Floating, shape ``(N,)``.
        counted: Whether a row counts, bool, shape ``(N,)``; None: all do.
        reduction: ``"mean"``, or ``"none"`` for one value a row, 0 where it does not count.

    Returns:
        A scalar, or shape ``(N,)``; it has a graph even if no row counts, so that backward and DDP go on.

    Raises:
        ValueError: If the reduction is unknown.

    Example:
        >>> reduce_rows(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True]), "mean")
        tensor(3.5000)
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"Expected reduction to be one of {list(get_args(Reduction))}, got {reduction!r}.")
    if counted is None:
        return values if reduction == "none" else values.sum() / max(len(values), 1)
    values = values.where(counted, 0)
    return values if reduction == "none" else values.sum() / counted.sum().clamp(min=1)


def old_columns(target: Tensor, new_to_old: Sequence[int] | Tensor | None) -> Tensor:
    """Look up which class of the old model each label is.

    Args:
        target: Labels of the new model, integer, shape ``(N,)``; below 0 for none.
        new_to_old: For each class of the new model that of the old one, or -1; None: they are the same.

    Returns:
        Classes of the old model, below 0 for none, int64, shape ``(N,)``.

    Raises:
        ValueError: If a label is not in the map.

    Example:
        >>> old_columns(torch.tensor([0, 1, 2, -100]), [5, -1, 3])
        tensor([   5,   -1,    3, -100])
    """
    target = target.to(torch.int64)
    if new_to_old is None or not len(target):
        return target
    classes = torch.as_tensor(new_to_old, device=target.device)
    highest = int(target.max())
    if highest >= len(classes):
        raise ValueError(
            f"Expected targets below {len(classes)}, the length of new_to_old, got {highest}. Give it one entry a "
            "class of the new model, -1 for what the old one does not know."
        )
    return classes[target.clamp(min=0)].where(target >= 0, target)


def _remedy(name: str) -> str:
    if name == "new_embedding":
        return "Lower the learning rate or the weight of the loss."
    return 'The old model or its cache is broken; where float16 overflows: OldOutputCache(dtype="float32").'

"""What a user's LightningModule says of itself; nothing of Lightning is needed to read it."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch


def first_optimizer(configured: Any) -> torch.optim.Optimizer:
    """Find the first optimiser in what ``configure_optimizers`` may return.

    Args:
        configured: An optimiser, a dict with one, or a sequence of these (also with schedulers).

    Returns:
        The optimiser.

    Raises:
        RuntimeError: If there is none.
    """
    if isinstance(configured, torch.optim.Optimizer):
        return configured
    if isinstance(configured, Mapping) and "optimizer" in configured:
        return first_optimizer(configured["optimizer"])
    if isinstance(configured, list | tuple) and configured:
        return first_optimizer(configured[0])
    got = type(configured).__name__
    raise RuntimeError(f"Expected configure_optimizers to return an optimiser for the trainable terms, got {got}.")


def arguments_of(training_step: Callable[..., Any]) -> int | None:
    """Count the arguments that a ``training_step`` takes by position: ``batch_idx`` is optional in Lightning.

    Args:
        training_step: A bound method.

    Returns:
        Their number; None for any.

    Raises:
        ValueError: If it fetches batches itself.
    """
    count = _by_position(getattr(training_step, "__func__", training_step))
    return count - hasattr(training_step, "__func__") if count is not None else None


@functools.lru_cache(maxsize=64)  # a signature takes as long to read as a small layer to run
def _by_position(function: Callable[..., Any]) -> int | None:
    parameters = inspect.signature(function).parameters
    if "dataloader_iter" in parameters:
        raise ValueError("Expected training_step(self, batch, ...) to add terms to, got one with dataloader_iter.")
    kinds = [parameter.kind for parameter in parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return None if inspect.Parameter.VAR_POSITIONAL in kinds else sum(kind in positional for kind in kinds)


def mentions(module: Any, name: str) -> bool:
    """Tell whether a method of the user's calls a method of the mixin.

    Args:
        module: The module.
        name: Of the method.

    Returns:
        Whether its name occurs in the code of a method.
    """
    methods = [value for base in type(module).__mro__ for value in vars(base).values()]
    return any(name in code.co_names for code in (getattr(method, "__code__", None) for method in methods) if code)

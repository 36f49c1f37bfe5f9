"""Keep functions out of what ``torch.compile`` traces, with their types."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def untraced(function: Function) -> Function:
    """Run a function, and all that it calls, as it is.

    Args:
        function: Called from compiled code.

    Returns:
        The function, at whose call the compiled code is interrupted.

    Example:
        >>> untraced(len)([1, 2])
        2
    """
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def untraced_itself(function: Function) -> Function:
    """Run a function as it is, while what it calls may be compiled.

    Args:
        function: Compiled by whoever calls it.

    Returns:
        The very function.

    Example:
        >>> @untraced_itself
        ... def double(x):
        ...     return 2 * x
        >>> double(2)
        4
    """
    return cast(Function, torch.compiler.disable(function, recursive=False))  # type: ignore[no-untyped-call]

"""Which arguments a loss asks for: a term of a GracefulMixin is served by their names."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

ARGUMENTS = ("new_logits", "old_logits", "new_embedding", "old_embedding", "target", "index")


def term_arguments(name: str, term: Callable[..., Tensor]) -> tuple[str, ...]:
    """Read which arguments a term asks for.

    They are those of its signature, or what its attribute ``asks`` names: for a module whose options decide, or that
    hands them on to another loss.

    Args:
        name: What errors call it.
        term: A function or module.

    Returns:
        Names among ``ARGUMENTS``.

    Raises:
        ValueError: If it is no callable, or asks for anything else.

    Example:
        >>> term_arguments("l2", lambda new_logits, old_logits, power=2: (new_logits - old_logits).pow(power).mean())
        ('new_logits', 'old_logits')
    """
    if not callable(term) or isinstance(term, type):
        got = f"the class {term.__name__}: call it" if isinstance(term, type) else type(term).__name__
        raise ValueError(f"Expected the term {name!r} to be a loss that can be called, got {got}.")
    asks: Any = getattr(term, "asks", None) if isinstance(term, nn.Module) else None
    if asks is not None:
        return _known(name, tuple(asks))
    try:
        signature = inspect.signature(term.forward if isinstance(term, nn.Module) else term)
    except ValueError:
        raise ValueError(f"Expected the term {name!r} to name its arguments, got {term!r}: wrap it.") from None
    named = [p for p in signature.parameters.values() if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    unknown = [p.name for p in named if p.name not in ARGUMENTS and p.default is p.empty]
    if unknown or (signature.parameters and not named):
        got_names = unknown or list(map(str, signature.parameters.values()))
        raise ValueError(f"Expected the arguments of the term {name!r} among {list(ARGUMENTS)}, got {got_names}.")
    return tuple(p.name for p in named if p.name in ARGUMENTS)


def _known(name: str, asks: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [argument for argument in asks if argument not in ARGUMENTS]:
        raise ValueError(f"Expected the arguments of the term {name!r} among {list(ARGUMENTS)}, got {unknown}.")
    return asks

"""Subclasses that are made while a program runs, and pickle although no name leads to them."""

import copyreg
import functools
from collections.abc import Callable, Mapping
from typing import Any

RECIPE = "_made_by"


def made_class(
    bases: tuple[type, ...], make: Callable[..., type], recipe: tuple[Any, ...], namespace: Mapping[str, Any]
) -> type:
    """Make a subclass of ``bases`` that pickles as a call of ``make``.

    Args:
        bases: Its bases; the last is the user's, and gives name, docstring and module.
        make: Function at the top of a module that makes this class.
        recipe: Its arguments.
        namespace: Attributes of the class.

    Returns:
        The class, under a metaclass of ours.

    Example:
        >>> class Base: ...
        >>> made_class((Base,), lambda: Base, (), {"answer": 42}).answer
        42
    """
    base = bases[-1]
    described = {"__doc__": base.__doc__, "__module__": base.__module__, RECIPE: (make, recipe), **namespace}
    made: type = _metaclass(type(base))(f"Graceful{base.__name__}", bases, described)
    return made


@functools.cache
def _metaclass(of_base: type[type]) -> type[type]:
    metaclass = type("_MadeClass", (of_base,), {})
    copyreg.pickle(metaclass, _reduce)
    return metaclass


def _reduce(cls: type) -> Any:
    # A user's subclass of a made class has a name of its own.
    return vars(cls).get(RECIPE, cls.__qualname__)

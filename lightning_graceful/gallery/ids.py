"""Names of the gallery's items: integers or strings, each once."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = Sequence[int] | Sequence[str] | Tensor | NDArray[Any]


class ItemIds:
    """The ids of a gallery, and where each is. 16 bytes an integer; 4 a sign of the longest string and 8 a string.

    Args:
        values: Integers or strings, shape ``(G,)``.

    Raises:
        ValueError: If they are of another kind, or one comes twice.

    Example:
        >>> ItemIds(["b", "a"]).positions(["a", "c"])
        array([ 1, -1])
    """

    def __init__(self, values: Ids) -> None:
        self.values = as_array(values)
        refuse_repeated(self.values)

    def positions(self, ids: Ids) -> NDArray[np.int64]:
        """Find items.

        Args:
            ids: Of the gallery's kind, shape ``(N,)``; one may come several times.

        Returns:
            Their positions, int64, shape ``(N,)``; -1 where the gallery has no such item.

        Raises:
            ValueError: If the ids are of another kind.
        """
        wanted = as_array(ids)
        if len(wanted) and len(self.values) and wanted.dtype.kind != self.values.dtype.kind:
            raise ValueError(f"Expected ids as the gallery's {self.values[:3].tolist()}, got {wanted[:3].tolist()}.")
        if not len(self.values) or not len(wanted):
            return np.full(len(wanted), -1)
        place = np.searchsorted(self.values, wanted, sorter=self._order)
        found = self._order[np.minimum(place, len(self.values) - 1)]
        return np.where(self.values[found] == wanted, found, -1)

    def known(self, ids: Ids) -> NDArray[np.int64]:
        """Find items that must be there, each once.

        Args:
            ids: Of the gallery's kind, shape ``(N,)``.

        Returns:
            Their positions, int64, shape ``(N,)``.

        Raises:
            ValueError: If one is unknown or comes twice; names some.
        """
        wanted = as_array(ids)
        found = self.positions(wanted)
        missing = wanted[found < 0]
        if len(missing):
            raise ValueError(
                f"Expected ids of items in the gallery, got {len(missing)} others: {missing[:3].tolist()}. add() "
                "takes new items."
            )
        refuse_repeated(wanted)
        return found

    def joined(self, ids: Ids) -> "ItemIds":
        """Put new items behind those of the gallery.

        Args:
            ids: Of the gallery's kind, shape ``(N,)``.

        Returns:
            All ids, shape ``(G + N,)``.

        Raises:
            ValueError: If they are of another kind, one is there already, or one comes twice; names some.
        """
        added = as_array(ids)
        there = added[self.positions(added) >= 0]
        if len(there):
            raise ValueError(
                f"Expected ids of new items, got {len(there)} that are in the gallery: {there[:3].tolist()}. refresh() "
                "takes new embeddings of those."
            )
        # The kind of nothing is int64, whatever comes.
        parts = [part for part in (self.values, added) if len(part)]
        return ItemIds(np.concatenate(parts) if parts else self.values)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.values, kind="stable")


def as_array(ids: Ids) -> NDArray[Any]:
    """Put ids into an array.

    Args:
        ids: Integers or strings.

    Returns:
        Int64 or unicode, shape ``(N,)``.

    Raises:
        ValueError: If they are of another kind or of both, or a string holds a null sign (arrays drop it at the end).

    Example:
        >>> as_array(range(3)).dtype, as_array(["a", "bc"]).dtype
        (dtype('int64'), dtype('<U2'))
    """
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else ids
    if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind == "U":
        return array  # with no null sign at an end, where one would be lost
    if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "iu":
        if len(array) and int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"Expected integer ids below 2**63, got {array.max()}. Use strings.")
        return array.astype(np.int64, copy=False)
    return _from_sequence(array.tolist() if isinstance(array, np.ndarray) else [*array])


def refuse_repeated(values: NDArray[Any]) -> None:
    """Check that each id comes once.

    Args:
        values: Shape ``(N,)``.

    Raises:
        ValueError: If one comes twice; names some.
    """
    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(repeated):
        raise ValueError(
            f"Expected each id once, got {len(repeated)} ids several times, such as {repeated[:3].tolist()}. Give "
            "every item its own."
        )


def _from_sequence(ids: list[Any]) -> NDArray[Any]:
    if all(isinstance(one, str) for one in ids) and ids:
        if any("\0" in one for one in ids):
            raise ValueError("Expected ids without null signs, got one with some. Escape them.")
        return np.array(ids, dtype=np.str_)
    if all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in ids):
        try:
            return np.array(ids, dtype=np.int64)
        except OverflowError as error:
            raise ValueError("Expected integer ids of 64 bits, got a longer one. Use strings.") from error
    kinds = sorted({type(one).__name__ for one in ids})
    raise ValueError(f"Expected ids that are all integers or all strings, shape (N,), got {kinds}.")

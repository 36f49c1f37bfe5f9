"""Checks of arguments that several functions of retrieval share."""

from collections.abc import Sequence

import torch
from torch import Tensor


def integers(name: str, values: Tensor, rows: Tensor) -> Tensor:
    """Check that there is one integer a row.

    Args:
        name: What errors call them.
        values: Labels or ids.
        rows: Embeddings that they belong to.

    Returns:
        The same on the rows' device, int64, shape ``(N,)``.

    Raises:
        ValueError: If their kind or number is another.
    """
    if values.is_floating_point() or values.is_complex() or values.shape != rows.shape[:1]:
        raise ValueError(
            f"Expected integer {name} of shape ({len(rows)},), got {values.dtype} of shape {tuple(values.shape)}. "
            "Give one integer an embedding."
        )
    return values.to(rows.device, torch.int64)


def both_ids(
    query_ids: Tensor | None, gallery_ids: Tensor | None, query: Tensor, gallery: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Check that both sides have ids, or neither.

    Args:
        query_ids: Integer, shape ``(Q,)``, or None.
        gallery_ids: Integer, shape ``(G,)``, or None.
        query: Embeddings of the queries.
        gallery: Embeddings of the gallery.

    Returns:
        The same, int64.

    Raises:
        ValueError: If one is missing, or they are no integers, or not as many as embeddings.
    """
    if query_ids is None and gallery_ids is None:
        return None, None
    if query_ids is None or gallery_ids is None:
        raise ValueError("Expected query_ids and gallery_ids, or neither, got one of them. A pair is told by both.")
    return integers("query_ids", query_ids, query), integers("gallery_ids", gallery_ids, gallery)


def check_memory(memory: int) -> None:
    """Check that blocks have room.

    Args:
        memory: Bytes.

    Raises:
        ValueError: If it is less than a block needs.
    """
    if memory < 2**16:
        raise ValueError(f"Expected memory of at least {2**16} bytes, got {memory}.")


def check_lengths(k: Sequence[int], cmc: int | None) -> None:
    """Check lengths of lists.

    Args:
        k: Several.
        cmc: One, or None.

    Raises:
        ValueError: If one is no integer of at least 1.
    """
    lengths = [*k, 1 if cmc is None else cmc]
    if any(isinstance(length, bool) or not isinstance(length, int) or length < 1 for length in lengths):
        raise ValueError(f"Expected k and cmc to be integers of at least 1, got {list(k)} and {cmc}.")


def check_rates(name: str, rates: Sequence[float]) -> None:
    """Check that there are rates.

    Args:
        name: What errors call them.
        rates: Should be in [0, 1].

    Raises:
        ValueError: If there are none, or one is outside.
    """
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"Expected {name} in [0, 1], one or more, got {list(rates)}.")

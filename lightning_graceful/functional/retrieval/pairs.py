"""Scores of all pairs of a query and a gallery item, block after block in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from lightning_graceful.functional.retrieval.arguments import both_ids, check_memory
from lightning_graceful.functional.retrieval.rows import Dimensions, Distance, on_grid

MEMORY = 2**28
# Block bytes a score: the score twice, and what is made of it (masks, positions).
_BYTES = 64
_QUERIES = 512
# Scores a block at most: more would leave the processor's cache and be slower.
_SCORES = 2**21


class PairOptions(TypedDict, total=False):
    """Keyword arguments that all functions of retrieval share; :func:`pair_up` describes them."""

    query_ids: Tensor | None
    gallery_ids: Tensor | None
    distance: Distance
    dimensions: Dimensions
    memory: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """Queries and gallery on the grid (:mod:`.rows`), and which of their pairs are one and the same item.

    Attributes:
        query: Float32, shape ``(Q, d)``.
        gallery: Float32, shape ``(G, d)``.
        distance: What they are compared by.
        unit: Length that 1 stands for.
        memory: Bytes that blocks of scores may take.
        query_ids: Ids of the queries, int64, shape ``(Q,)``, or None.
        gallery_ids: Ids of the gallery, int64, shape ``(G,)``, or None.
    """

    query: Tensor
    gallery: Tensor
    distance: Distance
    unit: float
    memory: int
    query_ids: Tensor | None = None
    gallery_ids: Tensor | None = None

    @property
    def block_shape(self) -> tuple[int, int]:
        """Queries and gallery items of a block; fewer queries leave room for more items."""
        scores = max(min(self.memory // _BYTES, _SCORES), 1)
        queries = max(min(_QUERIES, len(self.query), scores), 1)
        return queries, max(min(scores // queries, len(self.gallery)), 1)

    def score(self, query: Tensor, gallery: Tensor) -> Tensor:
        """Score rows on the grid: cosine, or minus the squared distance in units; without rounding.

        Args:
            query: Rows, shape ``(B, d)``.
            gallery: Rows, shape ``(C, d)``.

        Returns:
            Scores, greater is nearer, float64, shape ``(B, C)``.
        """
        query, gallery = query.double(), gallery.double()
        if self.distance == "cosine":
            return query @ gallery.T
        scores = torch.addmm(-gallery.square().sum(1), query, gallery.T, alpha=2)
        return scores.sub_(query.square().sum(1)[:, None])

    def blocks(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Score some queries against the gallery, one block of it after another.

        Args:
            rows: Positions of the queries, shape ``(B,)``; :meth:`batches` gives suitable ones.

        Yields:
            Position of the block's first gallery item, and scores, shape ``(B, C)``: ``-inf`` where query and item are
            one.
        """
        query, same = self.query[rows], self.same(rows)
        width = self.block_shape[1]
        for start in range(0, len(self.gallery), width):
            scores = self.score(query, self.gallery[start : start + width])
            yield start, hide(scores, same, start)

    def batches(self, order: Tensor | None = None, size: int | None = None) -> Iterator[Tensor]:
        """Split the queries into batches.

        Args:
            order: Positions of the queries in the order wanted.
            size: How many a batch; None: as many as fit a block.

        Yields:
            Positions of the queries of a batch, shape ``(B,)``.
        """
        order = torch.arange(len(self.query), device=self.query.device) if order is None else order
        if len(order):
            yield from torch.split(order, size or self.block_shape[0])

    def same(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Find the pairs that are one item.

        Args:
            rows: Positions of queries, shape ``(B,)``.

        Returns:
            Places in ``rows`` and positions in the gallery, shape ``(M,)`` each; None without ids.
        """
        if self.query_ids is None or self.gallery_ids is None:
            return None
        ordered, order = self.gallery_ids.sort()
        ids = self.query_ids[rows]
        first = torch.searchsorted(ordered, ids)
        place, nth = expand(torch.searchsorted(ordered, ids, right=True) - first)
        return place, order[first[place] + nth]

    def unscaled(self, scores: Tensor) -> Tensor:
        """Put scores in the user's units.

        Args:
            scores: Scores of :meth:`score`.

        Returns:
            Cosine, or minus the Euclidean distance of the embeddings as they were given.
        """
        if self.distance == "cosine":
            return scores
        return -(-scores).clamp(min=0).sqrt() * self.unit


def pair_up(
    query: Tensor,
    gallery: Tensor,
    *,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    distance: Distance = "cosine",
    dimensions: Dimensions = None,
    memory: int = MEMORY,
) -> Pairs:
    """Check and prepare queries of one model and a gallery of another.

    Args:
        query: Floating embeddings, shape ``(Q, d)``; normalised or not; ``Q`` may be 0.
        gallery: Floating embeddings, shape ``(G, d)``; ``G`` may be 0.
        query_ids: Which items the queries are, integer, shape ``(Q,)``. A pair with one id is one item, which is left
            out of the search; an id may occur several times (views of one item), and all of them are left out.
        gallery_ids: Likewise of the gallery; both or neither.
        distance: ``"cosine"`` or ``"l2"``.
        dimensions: How many leading dimensions are compared (then normalised); ``"shared"``: as many as the narrower of
            the two has; ``"padded"``: as many as the wider has, the narrower being filled up with zeros, so that each
            is normalised by the length of its whole row; None: all, which then must be as many.
        memory: Bytes that blocks of scores may take, beside a float32 copy of both embeddings.

    Returns:
        Both on the grid.

    Raises:
        ValueError: If embeddings, ids or memory are not as said.

    Example:
        >>> pair_up(torch.ones(3, 2), torch.ones(5, 2)).block_shape
        (3, 5)
    """
    check_memory(memory)
    (query, gallery), unit = on_grid({"query": query, "gallery": gallery}, distance=distance, dimensions=dimensions)
    query_ids, gallery_ids = both_ids(query_ids, gallery_ids, query, gallery)
    return Pairs(query, gallery, distance, unit, memory, query_ids, gallery_ids)


def hide(scores: Tensor, same: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
    """Set the scores of pairs that are one item to ``-inf``, in place.

    Args:
        scores: Scores of a block, shape ``(B, C)``.
        same: The pairs, as :meth:`Pairs.same` gives them.
        start: Gallery position of the block's first column.

    Returns:
        The same tensor.
    """
    if same is not None:
        inside = (same[1] >= start) & (same[1] < start + scores.shape[1])
        scores[same[0][inside], same[1][inside] - start] = -torch.inf
    return scores


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """List each place as often as it counts.

    Args:
        counts: Int64, shape ``(B,)``.

    Returns:
        Places, ascending, and which of a place's entries it is, shape ``(counts.sum(),)`` each.

    Example:
        >>> [x.tolist() for x in expand(torch.tensor([2, 0, 1]))]
        [[0, 0, 2], [0, 1, 0]]
    """
    place = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return place, torch.arange(len(place), device=counts.device) - (counts.cumsum(0) - counts)[place]

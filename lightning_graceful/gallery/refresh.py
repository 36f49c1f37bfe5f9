"""A gallery is embedded anew part by part, and each state on the way is measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.measures import retrieval_metrics
from lightning_graceful.functional.retrieval.neighbours import RetrievalFlips, retrieval_flips
from lightning_graceful.gallery.embedding import in_space
from lightning_graceful.gallery.ids import Ids

if TYPE_CHECKING:
    from lightning_graceful.gallery.files import Version
    from lightning_graceful.gallery.index import GalleryIndex


@dataclass(frozen=True, eq=False)
class Probe:
    """Queries by which the states of a refresh are judged.

    Attributes:
        query: Embeddings of the model that will query the gallery, floating, shape ``(Q, d)``.
        labels: Integer, shape ``(Q,)``.
        ids: Which items the queries are, shape ``(Q,)``, so that none finds itself; None: none of the gallery's.
        k: Length of the lists that flips are told of, and one of those of ``recall_at_<k>``.
        measures: Of :func:`lightning_graceful.functional.retrieval_metrics`.
        before: What flips are against: positions of the lists that users had before, such as
            ``index.search(old_query, k).positions``, integer, shape ``(Q, k)``. None: the lists of these queries when
            the refresh is begun, or gone on with.
    """

    query: Tensor
    labels: Tensor
    ids: Ids | None = None
    k: int = 10
    measures: Sequence[str] = ("map", "map_at_r", "recall_at_1")
    before: Tensor | None = None

    def lists(self, index: "GalleryIndex") -> Tensor:
        """Search.

        Args:
            index: The gallery.

        Returns:
            Positions, int64, shape ``(Q, k)``.
        """
        return index.search(self.query, self.k, query_ids=self.ids).positions

    def measure(self, index: "GalleryIndex") -> dict[str, float]:
        """Measure the search.

        Args:
            index: The gallery, with labels.

        Returns:
            The measures by name.

        Raises:
            ValueError: If the index has no labels, or there is no such measure.
        """
        if index.labels is None:
            raise ValueError("Expected an index with labels to measure a search, got none: build(..., labels=labels).")
        options = {} if self.ids is None else index.query_options(self.ids)
        items = in_space("query", self.query, index.dimensions).cpu(), index.embeddings, self.labels, index.labels
        found = retrieval_metrics(*items, k=sorted({1, 5, 10, self.k}), distance=index.distance, **options)
        unknown = [name for name in self.measures if name not in found]
        if unknown:
            raise ValueError(f"Expected measures among {[*found]}, got {unknown}. Set k for another length.")
        return {name: float(found[name]) for name in self.measures}

    def flips(self, index: "GalleryIndex", before: Tensor) -> RetrievalFlips:
        """Tell which queries lost or gained their hit.

        Args:
            index: The gallery, with labels.
            before: Positions of the lists before, shape ``(Q, k)``.

        Returns:
            The flips; queries by number, items by position in the index.
        """
        now, labels = self.lists(index), index.labels
        assert labels is not None  # measure() has looked
        found = retrieval_flips(before, now, self.labels, labels)
        if self.ids is None:
            return found
        # With ids for the rates, whose denominator they change; without for the numbers of the queries.
        rates = retrieval_flips(before, now, self.labels, labels, **index.query_options(self.ids))
        return found._replace(negative_flip_rate=rates.negative_flip_rate, positive_flip_rate=rates.positive_flip_rate)


@dataclass(frozen=True, eq=False)
class RefreshReport:
    """How far a refresh is, and how well the gallery is searched there.

    Attributes:
        part: Parts that are done.
        parts: How many there are.
        share: Share of the items that are of the new version.
        replaced: Items that this part replaced; 0 in the first report.
        bytes: Of the embeddings of the new version that the index holds.
        measures: What the probe measured, by name; empty without a probe.
        flips: Queries that lost or gained their hit; None without a probe.
    """

    part: int
    parts: int
    share: float
    replaced: int
    bytes: int
    measures: Mapping[str, float]
    flips: RetrievalFlips | None


def refresh_in_parts(
    index: "GalleryIndex",
    embeddings: Tensor | Callable[[NDArray[Any]], Tensor],
    order: Tensor,
    version: "Version",
    parts: int,
    probe: Probe | None,
    path: Path | None,
) -> Iterator[RefreshReport]:
    """Check the arguments and begin, as :meth:`GalleryIndex.refresh_in_parts` says.

    Args:
        index: The gallery.
        embeddings: New ones by position, or a function of ids.
        order: Positions.
        version: The new model.
        parts: How many.
        probe: Queries, or None.
        path: Where to save, or None.

    Returns:
        Reports.

    Raises:
        ValueError: If an argument is not as said.
    """
    items = len(index)
    order = integers("order", order, index.embeddings)
    if not torch.equal(order.sort().values, torch.arange(items)):
        raise ValueError(f"Expected order to hold each position from 0 to {items - 1} once. See gallery.orders.")
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= items:
        raise ValueError(f"Expected parts from 1 to the {items} items of the gallery, got {parts}.")
    if isinstance(embeddings, Tensor):
        in_space("new", embeddings, index.dimensions)
        if len(embeddings) != items:
            raise ValueError(
                f"Expected one new embedding for each of the {items} items, got {len(embeddings)}. Or pass a function "
                "from ids to embeddings."
            )
    ends = [round(part * items / parts) for part in range(parts + 1)]
    return _reports(index, embeddings, [order[begin:end] for begin, end in pairwise(ends)], version, probe, path)


def _reports(
    index: "GalleryIndex",
    embeddings: Tensor | Callable[[NDArray[Any]], Tensor],
    batches: list[Tensor],
    version: "Version",
    probe: Probe | None,
    path: Path | None,
) -> Iterator[RefreshReport]:
    held, before = index.ids, None
    if probe is not None:
        before = probe.lists(index) if probe.before is None else probe.before
    todo = [batch[~index.is_of(version.name)[batch]] for batch in batches]
    begun = next((part for part, batch in enumerate(todo) if len(batch)), len(todo))
    yield _report(index, version.name, begun, len(todo), 0, probe, before)
    for part, batch in enumerate(todo[begun:], begun + 1):
        if not len(batch):
            continue  # a refresh in another order was there before
        if index.ids is not held and not np.array_equal(index.ids[: len(held)], held):
            raise ValueError(
                "Expected the items that the refresh began with, but some were removed. Begin again with a new order: "
                "it goes on where it was."
            )
        ids = index.ids[batch.numpy()]
        rows = embeddings[batch.to(embeddings.device)] if isinstance(embeddings, Tensor) else embeddings(ids)
        index.refresh(ids, rows, version=version.name, fingerprint=version.fingerprint)
        if path is not None:
            index.save(path)
        yield _report(index, version.name, part, len(todo), len(batch), probe, before)


def _report(
    index: "GalleryIndex", name: str, part: int, parts: int, replaced: int, probe: Probe | None, before: Tensor | None
) -> RefreshReport:
    new = int(index.is_of(name).sum())
    measures = {} if probe is None else probe.measure(index)
    flips = None if probe is None or before is None else probe.flips(index, before)
    held = new * index.dimensions * index.embeddings.element_size()
    return RefreshReport(part, parts, new / len(index), replaced, held, measures, flips)

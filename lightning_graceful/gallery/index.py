"""A gallery that is built by one model, searched by another, and embedded anew part by part."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.pairs import MEMORY
from lightning_graceful.functional.retrieval.rows import Distance
from lightning_graceful.functional.retrieval.search import Backend, search_gallery
from lightning_graceful.gallery.embedding import embed_gallery, in_space, sound_rows
from lightning_graceful.gallery.files import Content, Version, read_index, write_index
from lightning_graceful.gallery.ids import Ids, ItemIds, as_array
from lightning_graceful.gallery.refresh import Probe, RefreshReport, refresh_in_parts

if TYPE_CHECKING:
    from lightning_graceful.models.old_model import OldModel

MOST_VERSIONS = 2**16


class Hits(NamedTuple):
    """What a search found, nearest first. Where ``positions`` is -1, there is no item.

    Attributes:
        ids: Ids of the items, int64 or unicode, shape ``(Q, k)``; -1 or ``""`` where there is none.
        scores: Cosine, or minus the Euclidean distance; float64, shape ``(Q, k)``; ``-inf`` where there is none.
        versions: Of which version each item's row is: its place in ``index.versions``, int64, shape ``(Q, k)``; -1.
        positions: Positions of the items in the index, int64, shape ``(Q, k)``; -1.
    """

    ids: NDArray[Any]
    scores: Tensor
    versions: Tensor
    positions: Tensor


class GalleryIndex:
    """Embeddings of a gallery by id, each of a known version of the model, in one space that all versions share.

    Make one by :meth:`build`, :meth:`from_model` or :meth:`load`. The search is exact. All versions have to embed into
    the space of the first, with its number of dimensions: a backward-compatible model does, else an adapter, or
    :func:`lightning_graceful.functional.retrieval.rows.fit_width` for a model that was trained to live in the leading
    dimensions. An index holds ``4 * d + 2`` bytes an item, 16 for an integer id (``4 * longest + 8`` for strings) and 8
    for a label; loaded, the rows stay on disk and are mapped. A search takes a float32 copy of the rows besides.

    Attributes:
        distance: ``"cosine"`` or ``"l2"``.
        versions: The versions seen, oldest first.

    Example:
        >>> index = GalleryIndex.build(torch.eye(3), ["cat", "dog", "emu"], version="v1")
        >>> index.refresh(["dog"], torch.tensor([[1.0, 2.0, 0.0]]), version="v2")
        >>> hits = index.search(torch.tensor([[0.0, 1.0, 0.0]]), k=2)
        >>> hits.ids.tolist(), [index.versions[number].name for number in hits.versions[0]]
        ([['dog', 'cat']], ['v2', 'v1'])
    """

    distance: Distance
    versions: tuple[Version, ...]
    _rows: NDArray[np.float32]
    _codes: NDArray[np.uint16]

    def __init__(self, content: Content) -> None:
        self._ids = ItemIds(content.ids)
        self.distance = content.distance  # type: ignore[assignment]  # checked by build, sealed by save
        self.versions = content.versions
        self._labels = None if content.labels is None else torch.from_numpy(content.labels)
        self._hold(content)

    @classmethod
    def build(
        cls,
        embeddings: Tensor,
        ids: Ids,
        *,
        labels: Tensor | None = None,
        version: str = "old",
        fingerprint: str | None = None,
        distance: Distance = "cosine",
    ) -> Self:
        """Make an index of embeddings.

        Args:
            embeddings: Floating, shape ``(G, d)``, normalised or not; copied as float32.
            ids: Integers or strings, each once, shape ``(G,)``.
            labels: Integer, shape ``(G,)``; needed to measure a refresh.
            version: Name of the model that embedded them.
            fingerprint: Of that model.
            distance: ``"cosine"`` or ``"l2"``.

        Returns:
            The index.

        Raises:
            ValueError: If an argument is not as said, an embedding holds NaN or Inf, or an id comes twice.

        Example:
            >>> len(GalleryIndex.build(torch.ones(2, 3), ids=[7, 8]))
            2
        """
        if distance not in {"cosine", "l2"}:
            raise ValueError(f"Expected distance to be 'cosine' or 'l2', got {distance!r}.")
        values = as_array(ids)
        rows = sound_rows("gallery", embeddings, values)
        known = None if labels is None else integers("labels", labels, embeddings).cpu().numpy()
        codes = np.zeros(len(rows), np.uint16)
        return cls(Content(rows.numpy(), values, codes, known, (Version(version, fingerprint),), distance))

    @classmethod
    def from_model(
        cls,
        model: "OldModel",
        loader: Iterable[Any],
        *,
        ids: Ids | None = None,
        version: str = "old",
        distance: Distance = "cosine",
    ) -> Self:
        """Make an index of what a model says of a loader's samples; its fingerprint is noted.

        Args:
            model: With an embedding, ``OldModel(net, embedding="path")``; runs where it is.
            loader: The gallery, each sample once.
            ids: As in :func:`lightning_graceful.gallery.embedding.embed_gallery`.
            version: Name of the model.
            distance: ``"cosine"`` or ``"l2"``.

        Returns:
            The index, with labels where the batches have targets.

        Raises:
            ValueError: If an argument is not as said.

        Example:
            >>> from torch import nn
            >>> from torch.utils.data import DataLoader
            >>> from lightning_graceful.models.old_model import OldModel
            >>> model = OldModel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), embedding="0")
            >>> GalleryIndex.from_model(model, DataLoader(torch.eye(2)), ids=["a", "b"]).dimensions
            3
        """
        found = embed_gallery(model, loader, ids=ids)
        named: Any = {"version": version, "fingerprint": model.fingerprint, "distance": distance}
        return cls.build(found.embeddings, found.ids, labels=found.labels, **named)

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = True) -> Self:
        """Open an index that was saved; its rows stay on disk.

        Args:
            path: The directory.
            verify: Read all of it once and compare checksums.

        Returns:
            The index. What is changed in it stays in memory until :meth:`save`.

        Raises:
            FileNotFoundError: If there is none.
            CacheError: If it was altered.
        """
        return cls(read_index(Path(path), verify=verify))

    def save(self, path: str | Path) -> None:
        """Put the index into a directory, in the place of the one there; from then on its rows are read from disk.

        A kill or a full disk leaves the directory as it was, or as it should be. Others that have it open go on to see
        what they opened. One process at a time may save.

        Args:
            path: The directory; made where it is missing.

        Raises:
            CacheError: If the disk refuses.
        """
        labels = None if self._labels is None else self._labels.numpy()
        write_index(Path(path), Content(self._rows, self.ids, self._codes, labels, self.versions, self.distance))
        self._hold(read_index(Path(path), verify=False))

    def __len__(self) -> int:
        """Count the items.

        Returns:
            How many.
        """
        return len(self._rows)

    def __repr__(self) -> str:
        """Say how many items there are, of which versions.

        Returns:
            One line.
        """
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        return f"GalleryIndex({counts}; {self.dimensions} dimensions, {self.distance})"

    @property
    def dimensions(self) -> int:
        """Dimensions of a row."""
        return int(self._rows.shape[1])

    @property
    def ids(self) -> NDArray[Any]:
        """Ids by position, int64 or unicode, shape ``(G,)``."""
        return self._ids.values

    @property
    def labels(self) -> Tensor | None:
        """Labels by position, int64, shape ``(G,)``; None where none were given."""
        return self._labels

    @property
    def embeddings(self) -> Tensor:
        """Rows by position, float32, shape ``(G, d)``; not a copy, and not to be written to."""
        return torch.from_numpy(self._rows)

    @property
    def version_of(self) -> Tensor:
        """Place in ``versions`` of each row's, int64, shape ``(G,)``."""
        return torch.from_numpy(self._codes.astype(np.int64))

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each version, by name."""
        found = np.bincount(self._codes, minlength=len(self.versions)).tolist()
        return {version.name: count for version, count in zip(self.versions, found, strict=True)}

    def is_of(self, version: str) -> Tensor:
        """Tell which rows are of a version.

        Args:
            version: Its name; one that is not known has no rows.

        Returns:
            Bool, shape ``(G,)``.
        """
        names = [known.name for known in self.versions]
        return self.version_of == (names.index(version) if version in names else -1)

    def positions(self, ids: Ids) -> Tensor:
        """Find items by id.

        Args:
            ids: Integers or strings, as the index has, shape ``(N,)``.

        Returns:
            Positions, int64, shape ``(N,)``; -1 for an unknown id.

        Raises:
            ValueError: If the ids are of another kind.
        """
        return torch.from_numpy(self._ids.positions(ids))

    def search(
        self,
        query: Tensor,
        k: int = 10,
        *,
        query_ids: Ids | None = None,
        backend: Backend = "auto",
        memory: int = MEMORY,
    ) -> Hits:
        """Find the nearest items of each query, whatever version their rows are of.

        Args:
            query: Embeddings of any version that shares the space, floating, shape ``(Q, d)``; searched on the CPU.
            k: How many items.
            query_ids: Which items the queries are, shape ``(Q,)``: a query does not find itself. Ids that the index
                does not know are allowed.
            backend: As in :func:`lightning_graceful.functional.search_gallery`.
            memory: Bytes that blocks of scores may take.

        Returns:
            Items, scores and versions. Of items with the same score the first in the index comes first.

        Raises:
            ValueError: If an argument is not as said.

        Example:
            >>> index = GalleryIndex.build(torch.eye(2), ids=[7, 8])
            >>> index.search(torch.eye(2), k=1, query_ids=[7, 9]).ids.tolist()
            [[8], [8]]
        """
        query = in_space("query", query, self.dimensions).cpu()
        own = {} if query_ids is None else self.query_options(query_ids)
        found = search_gallery(
            query, self.embeddings, k=k, backend=backend, distance=self.distance, memory=memory, **own
        )
        is_item = (found.positions >= 0).numpy()
        chosen = found.positions.numpy()[is_item]
        ids = np.full(is_item.shape, "" if self.ids.dtype.kind == "U" else -1, self.ids.dtype)
        versions = np.full(is_item.shape, -1)
        ids[is_item], versions[is_item] = self.ids[chosen], self._codes[chosen]
        return Hits(ids, found.scores, torch.from_numpy(versions), found.positions)

    def query_options(self, query_ids: Ids) -> Any:
        """Say which queries are which items, as the functions of retrieval want it.

        Args:
            query_ids: Integers or strings, shape ``(Q,)``.

        Returns:
            ``query_ids`` and ``gallery_ids``: positions in the index.

        Raises:
            ValueError: If the ids are of another kind.
        """
        return {"query_ids": self.positions(query_ids), "gallery_ids": torch.arange(len(self))}

    def add(
        self,
        ids: Ids,
        embeddings: Tensor,
        *,
        labels: Tensor | None = None,
        version: str,
        fingerprint: str | None = None,
    ) -> None:
        """Append items that came later, such as those of a new model, beside the old ones that stay as they are.

        Takes the time of a pass over the index, however many come, and the memory of a second one while it is made;
        what was mapped from disk is then in memory until :meth:`save`.

        Args:
            ids: Of items that are not in the index, each once, of its kind, shape ``(N,)``.
            embeddings: Floating, shape ``(N, d)``, in the space of the index; normalised or not.
            labels: Integer, shape ``(N,)``; given if, and only if, the index has labels.
            version: Name of the model that embedded them; a new one joins ``versions``.
            fingerprint: Of that model.

        Raises:
            ValueError: If an argument is not as said; then nothing is changed.

        Example:
            >>> index = GalleryIndex.build(torch.eye(2), ["cat", "dog"], version="v1")
            >>> index.add(["emu"], torch.tensor([[1.0, 1.0]]), version="v2")
            >>> index.counts
            {'v1': 2, 'v2': 1}
        """
        joined = self._ids.joined(ids)
        values = joined.values[len(self) :]
        rows = sound_rows("new", in_space("new", embeddings, self.dimensions), values)
        if (labels is None) != (self._labels is None):
            has, got = ("no labels", "some") if self._labels is None else ("labels", "none")
            raise ValueError(f"Expected new items as those of the index, which have {has}, but got {got}.")
        known = labels if labels is None else integers("labels", labels, embeddings).cpu()
        number = self._enter(version, fingerprint)
        if known is not None and self._labels is not None:
            self._labels = torch.cat([self._labels, known])
        self._ids = joined
        self._rows = np.concatenate([self._rows, rows.numpy()])
        self._codes = np.append(self._codes, np.full(len(rows), number, np.uint16))

    def remove(self, ids: Ids) -> None:
        """Take items out; those behind them move up. Time and memory as for :meth:`add`.

        Args:
            ids: Of items in the index, each once, shape ``(N,)``.

        Raises:
            ValueError: If one is unknown or comes twice; then nothing is changed.

        Example:
            >>> index = GalleryIndex.build(torch.eye(2), ["cat", "dog"])
            >>> index.remove(["cat"])
            >>> index.ids.tolist()
            ['dog']
        """
        stays = np.ones(len(self), np.bool_)
        stays[self._ids.known(ids)] = False
        self._ids = ItemIds(self.ids[stays])
        self._rows, self._codes = self._rows[stays], self._codes[stays]
        self._labels = None if self._labels is None else self._labels[torch.from_numpy(stays)]

    def refresh(self, ids: Ids, embeddings: Tensor, *, version: str, fingerprint: str | None = None) -> None:
        """Replace the rows of some items by another model's.

        Args:
            ids: Of items in the index, each once, shape ``(N,)``.
            embeddings: Floating, shape ``(N, d)``, in the space of the index; normalised or not.
            version: Name of the model that embedded them; a new one joins ``versions``.
            fingerprint: Of that model.

        Raises:
            ValueError: If an argument is not as said; then nothing is changed.
        """
        positions = self._ids.known(ids)
        rows = sound_rows("new", in_space("new", embeddings, self.dimensions), self.ids[positions])
        number = self._enter(version, fingerprint)
        self._rows[positions] = rows.numpy()
        self._codes[positions] = number

    def refresh_in_parts(
        self,
        embeddings: Tensor | Callable[[NDArray[Any]], Tensor],
        order: Tensor,
        *,
        version: str,
        fingerprint: str | None = None,
        parts: int = 10,
        probe: Probe | None = None,
        path: str | Path | None = None,
    ) -> Iterator[RefreshReport]:
        """Replace all rows by another model's, a part at a time, and report before the first part and after each.

        A refresh that was stopped goes on where it was, if it is called again with the same arguments on the index as
        it was saved: rows that are of ``version`` are left alone, and the first report tells how far it is. Items may
        be added between two parts, not removed.

        Args:
            embeddings: Of the new model, by position, shape ``(G, d)``; or a function from the ids of a part to theirs,
                which is asked for those alone that are to be replaced.
            order: Positions in the order of replacement, each once, integer, shape ``(G,)``; see
                :mod:`lightning_graceful.gallery.orders`.
            version: Name of the new model.
            fingerprint: Of the new model.
            parts: In how many steps of nearly equal size.
            probe: Queries that are searched for each report; None: none.
            path: Where to save the index after each part, before it is reported; None: nowhere.

        Returns:
            Reports, each made when it is asked for; so is the part before it replaced.

        Raises:
            ValueError: If an argument is not as said, or items are removed between two parts.

        Example:
            >>> index = GalleryIndex.build(torch.eye(2).flip(0), [7, 8], labels=torch.tensor([0, 1]), version="v1")
            >>> probe = Probe(torch.eye(2), torch.tensor([0, 1]))
            >>> for report in index.refresh_in_parts(torch.eye(2), torch.arange(2), version="v2", parts=2, probe=probe):
            ...     print(report.share, round(report.measures["map"], 3))
            0.0 0.5
            0.5 0.75
            1.0 1.0
        """
        self._number_of(version, fingerprint)
        target = None if path is None else Path(path)
        return refresh_in_parts(self, embeddings, order, Version(version, fingerprint), parts, probe, target)

    def _hold(self, content: Content) -> None:
        self._rows, self._codes = content.rows, content.codes

    def _enter(self, name: str, fingerprint: str | None) -> int:
        number = self._number_of(name, fingerprint)
        if number == len(self.versions):
            self.versions = (*self.versions, Version(name, fingerprint))
        return number

    def _number_of(self, name: str, fingerprint: str | None) -> int:
        # Place of a version; of a new one the place that it will have.
        known = {version.name: version.fingerprint for version in self.versions}
        own = known.get(name)
        if None not in {own, fingerprint} and own != fingerprint:
            raise ValueError(
                f"Expected version {name!r} to be the model of fingerprint {own}, got {fingerprint}. Give another "
                "model another name."
            )
        if name not in known and len(known) == MOST_VERSIONS:
            raise ValueError(f"Expected at most {MOST_VERSIONS} versions, got one more. Build the index anew.")
        return [*known, name].index(name)

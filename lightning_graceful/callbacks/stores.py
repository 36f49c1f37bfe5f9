"""The stores of one old model: one for each base dataset that a trainer draws from, opened by probe, read by sample."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_graceful.data.bases import base_datasets
from lightning_graceful.data.batch import BatchAdapter, Outputs
from lightning_graceful.data.hashing import content_hash
from lightning_graceful.data.identity import tracked_views
from lightning_graceful.data.manifest import MANIFEST, nearest, store_path
from lightning_graceful.data.probe import Probe, probe
from lightning_graceful.data.replay import seeded
from lightning_graceful.data.rows import CacheError, Dtype, RowLayout
from lightning_graceful.data.store import OutputStore
from lightning_graceful.models.old_model import OldModel

Deliver = Callable[[Any], Any]
DELIVERIES = 8  # how often the probe is moved to the device, to see a transfer hook that is random now and then


class Opened(NamedTuple):
    """The store of one base dataset.

    Attributes:
        dataset: The base dataset; held, so that its ``id()`` is not given to another.
        store: Row ``index * views + view`` holds a view of a sample.
        views: Views of each sample.
        hashed: Whether input hashes, of inputs as they reach the device, are kept and compared.
        unchanged: Whether inputs reach the device as the loader delivers them: no transfer hook changes them.
        offset: What is added to an index to make a key among all base datasets.
    """

    dataset: Any
    store: OutputStore
    views: int
    hashed: bool
    unchanged: bool
    offset: int

    def narrow(self, outputs: Outputs) -> Outputs:
        """Return what the store keeps of outputs; see :func:`narrow`."""
        return narrow(outputs, self.store.fingerprint.get("known"))

    def widen(self, outputs: Outputs) -> Outputs:
        """Return stored outputs with the logit ``-inf`` of the classes that the old model never knew."""
        known, logits = self.store.fingerprint.get("known"), outputs.logits
        if known is None or logits is None:
            return outputs
        wide = logits.new_full((len(logits), self.store.fingerprint["classes_of_new"]), -torch.inf)
        wide[:, known] = logits
        return outputs._replace(logits=wide)


def narrow(outputs: Outputs, known: list[int] | None) -> Outputs:
    """Leave out the classes that the old model never knew: with top-k no row says which of the others they are.

    Args:
        outputs: What the old model said.
        known: The classes that it knows; None for all.

    Returns:
        Outputs without the others.
    """
    if known is None or outputs.logits is None:
        return outputs
    return outputs._replace(logits=outputs.logits[:, known])


class OldStores:
    """The stores of one old model.

    Args:
        old: The old model, or None to read only.
        cache_dir: Folder that holds the stores.
        dtype: Precision of stored outputs.
        top_k: Keep only so many logits of a sample; None for all.
        read_batch: Reads inputs and target from a batch.
        deliver: Brings a batch to the device as the trainer does.
        device: Where the old model runs and the outputs go.
        console: Where to say that a new store is begun.
    """

    def __init__(
        self,
        old: OldModel | None,
        cache_dir: Path,
        *,
        dtype: Dtype,
        top_k: int | None,
        read_batch: BatchAdapter,
        deliver: Deliver,
        device: torch.device,
        console: Console,
    ) -> None:
        self.old = old
        self.read_batch = read_batch
        self.deliver = deliver
        self.device = device
        self.console = console
        self._cache_dir = cache_dir
        self._dtype: Dtype = dtype
        self._top_k = top_k
        self._opened: dict[tuple[int, int], Opened] = {}
        self._streams: dict[int, Opened] = {}
        self._old_fingerprint: str | None = None

    def open(self, loader: DataLoader[Any]) -> list[tuple[Opened, Tensor | None]]:
        """Open the stores of all base datasets of a loader; those that are open stay so.

        Args:
            loader: A tracked loader.

        Returns:
            Each store, and the positions that the loader can ask for, int64, sorted; None for all.

        Raises:
            CacheError: If outputs of such samples cannot be kept, or no store matches and there is no old model.
        """
        views, wanted = tracked_views(loader), []
        for dataset, index in base_datasets(loader.dataset):
            key = id(dataset), views
            if key not in self._opened:
                self._opened[key] = self._open(
                    dataset, views, probe(loader, dataset, views=views, read=self.read_batch)
                )
            wanted.append((self._opened[key], index))
        return wanted

    def open_stream(self, loader: Any, name: str, num_samples: int, raw: Any) -> Opened:
        """Open the store of samples that carry their own key; if it is open, it stays so.

        Args:
            loader: Any loader.
            name: Tells it from the other loaders, alike in every run.
            num_samples: Keys lie in ``[0, num_samples)``.
            raw: A batch, to learn what the old model says of one.

        Returns:
            The store.

        Raises:
            CacheError: If no store matches and there is no old model to fill one.
        """
        if id(loader) not in self._streams:
            fingerprint = {"rows": num_samples, "views": 1, "stream": name}
            store = self._open_store(fingerprint, num_samples, raw)
            self._streams[id(loader)] = Opened(loader, store, 1, hashed=True, unchanged=False, offset=0)
        return self._streams[id(loader)]

    def __getitem__(self, key: tuple[Dataset[Any], int]) -> Opened:
        """Return the open store of a base dataset with so many views."""
        dataset, views = key
        return self._opened[id(dataset), views]

    def __len__(self) -> int:
        """Return the number of open stores of base datasets."""
        return len(self._opened)

    def close(self) -> None:
        """Close all stores."""
        for opened in [*self._opened.values(), *self._streams.values()]:
            opened.store.close()
        self._opened.clear()
        self._streams.clear()

    def _open(self, dataset: Dataset[Any], views: int, found: Probe) -> Opened:
        samples = len(dataset)  # type: ignore[arg-type]
        on_device = self._content_on_device(found.batch)
        fingerprint = {"rows": samples, "classes": _class_names(dataset), "views": views, "probe": found.content}
        fingerprint |= {} if on_device == content_hash(found.batch) else {"probe_on_device": on_device}
        store = self._open_store(fingerprint, samples * views, found.batch)
        offset = sum(opened.store.num_rows // opened.views for opened in self._opened.values())
        return Opened(dataset, store, views, found.hashed, "probe_on_device" not in fingerprint, offset)

    def _open_store(self, fingerprint: dict[str, Any], num_rows: int, raw: Any) -> OutputStore:
        if self.old is None:
            return _read_only(self._cache_dir, fingerprint)
        if self._old_fingerprint is None:
            self._old_fingerprint = self.old.fingerprint
        fingerprint |= {"old": self._old_fingerprint, "dtype": self._dtype, "top_k": self._top_k}
        if self._top_k is not None:
            columns = self.old.options["label_map"] or []
            known = [number for number, column in enumerate(columns) if column >= 0]
            fingerprint |= {"classes_of_new": len(columns), "known": known} if len(known) < len(columns) else {}
        path = store_path(self._cache_dir, fingerprint)
        # The manifest is what makes a store: another process may just have made the folder.
        if (path / MANIFEST).is_file():
            layout = OutputStore.open_existing(path).layout
        else:
            self._say_what_differs(fingerprint)
            layout = self._layout(raw, fingerprint.get("known"))
        return OutputStore.open(path, fingerprint=fingerprint, num_rows=num_rows, layout=layout)

    def _say_what_differs(self, fingerprint: dict[str, Any]) -> None:
        near = nearest(self._cache_dir, fingerprint)
        if near is not None:
            self.console.print(
                f"Old outputs: a new store is begun; the nearest, {near[0].name}, differs in {', '.join(near[1])}."
            )

    def _layout(self, raw: Any, known: list[int] | None) -> RowLayout:
        assert self.old is not None
        outputs = narrow(self.old.to(self.device).outputs(self.deliver(raw)), known)
        return RowLayout(
            logits=None if outputs.logits is None else outputs.logits.shape[1],
            embedding=None if outputs.embedding is None else outputs.embedding.shape[1],
            dtype=self._dtype,
            top_k=self._top_k if outputs.logits is not None else None,
        )

    def _content_on_device(self, raw: Any) -> str:
        found = set()
        for seed in range(DELIVERIES):
            with seeded(seed, self.device):
                found.add(content_hash(self.deliver(copy.deepcopy(raw))))  # a hook may work in place
        if len(found) > 1:
            raise CacheError(
                "Expected a batch to be the same each time it is moved to the device, but a transfer hook such as "
                "on_after_batch_transfer is random. Move the random part into the dataset and keep several views, "
                'OldOutputCache(old, cache_dir, views=4), or run the old model live: fill="never".'
            )
        return found.pop()


def _read_only(cache_dir: Path, fingerprint: dict[str, Any]) -> OutputStore:
    # Find the one store of this dataset, whatever the old model was.
    found = []
    for manifest in sorted(cache_dir.glob(f"*/{MANIFEST}")):
        store = OutputStore.open_existing(manifest.parent)
        if all(store.fingerprint.get(name) == value for name, value in fingerprint.items()):
            found.append(store)
        else:
            store.close()
    if len(found) == 1:
        return found[0]
    if found:
        raise CacheError(
            f"Expected one store of this dataset in {cache_dir}, found {[store.path.name for store in found]}. "
            "Say which old model is meant: OldOutputCache(old, cache_dir)."
        )
    near = nearest(cache_dir, fingerprint)
    difference = (
        "there is no store at all" if near is None else f"the nearest, {near[0].name}, differs in {', '.join(near[1])}"
    )
    raise CacheError(
        f"Expected a store of this dataset in {cache_dir}, but {difference}. "
        "Fill one first: OldOutputCache(old, cache_dir)."
    )


def _class_names(dataset: Dataset[Any]) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else None

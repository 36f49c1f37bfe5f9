"""Serve the stored outputs of a batch: read ahead in the background, check, complete, put on the device."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_graceful.callbacks.stores import OldStores, Opened
from lightning_graceful.data.bases import base_samples
from lightning_graceful.data.batch import Batch, Outputs, batch_size
from lightning_graceful.data.hashing import input_hash
from lightning_graceful.data.identity import Samples
from lightning_graceful.data.probe import LIVE, NAMED
from lightning_graceful.data.rows import CacheError, Rows

LOOK_EVERY = 16  # batches on an accelerator


class Place(NamedTuple):
    """Where the samples of a batch are stored that stem from one base dataset.

    Attributes:
        opened: The store.
        number: Rows of the store, int64, shape ``(M,)``.
        row: Rows of the batch, int64, shape ``(M,)``.
    """

    opened: Opened
    number: Tensor
    row: Tensor


class Found(NamedTuple):
    """What a store holds of a batch.

    Attributes:
        place: Where.
        rows: The rows; those that are not filled hold anything.
        filled: Bool, shape ``(M,)``.
    """

    place: Place
    rows: Rows
    filled: Tensor


class OldServer:
    """Serves batches from the stores of one old model.

    Args:
        stores: The stores.
    """

    def __init__(self, stores: OldStores) -> None:
        self.stores = stores
        # One thread: the rows of a batch are asked for in the order of the batches.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="old outputs")
        self._batches = 0

    def fetch(self, samples: Samples) -> None:
        """Begin to read the rows of a batch in the background, and to check and pin them.

        Args:
            samples: Samples that have just been drawn.
        """
        if len(self.stores):
            samples.ahead[id(self)] = self._reader.submit(self._find_if_open, samples)

    def serve(self, samples: Samples, delivered: Any) -> tuple[Outputs, Tensor]:
        """Return the stored outputs of a batch; missing rows are computed and written first.

        Args:
            samples: The batch's samples, with the batch as the loader delivered it.
            delivered: The batch on the device.

        Returns:
            Outputs on the device, float32, in the order of the batch: the first time gives what every later time gives.
            And the key of each sample, int64 ``(N,)``: its position in its base dataset, after those of the base
            datasets that were opened before.

        Raises:
            CacheError: If a row is damaged, belongs to other inputs, or is missing and there is no old model.
        """
        raw = self.stores.read_batch(samples.batch)
        if batch_size(raw) != len(samples.position):
            raise CacheError(
                f"Expected a batch of the {len(samples.position)} samples that were drawn, got {batch_size(raw)}: the "
                f"collate function drops or adds samples. Let the dataset do it, {NAMED}, or {LIVE}."
            )
        ahead: Future[list[Found] | None] | None = samples.ahead.pop(id(self), None)
        found = (None if ahead is None else ahead.result()) or self._find(samples)
        outputs = self._checked(found, raw, delivered)
        key = torch.empty_like(samples.position)
        for place, _, _ in found:
            key[place.row] = place.number // place.opened.views + place.opened.offset
        return outputs, key

    def serve_keys(self, opened: Opened, keys: Tensor, raw: Any, delivered: Any) -> Outputs:
        """Return the stored outputs of samples that carry their key; missing rows are computed and written first.

        Args:
            opened: The store, see :meth:`OldStores.open_stream`.
            keys: Integer, shape ``(N,)``.
            raw: The batch to read targets and inputs from.
            delivered: The batch on the device.

        Returns:
            Outputs on the device, float32.

        Raises:
            CacheError: As :meth:`serve`.
        """
        place = Place(opened, keys, torch.arange(len(keys)))
        return self._checked([self._peek(place)], self.stores.read_batch(raw), delivered)

    def _find_if_open(self, samples: Samples) -> list[Found] | None:
        try:
            return self._find(samples)
        except KeyError:  # workers draw the first batches of a stage before its stores are open
            return None

    def _find(self, samples: Samples) -> list[Found]:
        found = []
        for part in base_samples(samples.dataset, samples.position):
            opened = self.stores[part.dataset, samples.views]
            number = part.index * opened.views + samples.view[part.row]
            found.append(self._peek(Place(opened, number, part.row)))
        return found

    def _peek(self, place: Place) -> Found:
        rows, filled = place.opened.store.peek(place.number)
        return Found(place, rows.pin() if self.stores.device.type == "cuda" else rows, filled)

    def _checked(self, found: list[Found], raw: Batch, delivered: Any) -> Outputs:
        hashes = self._hashes([part.place.opened for part in found], raw, delivered)
        if not all(bool(part.filled.all()) for part in found):
            found = self._completed([part.place for part in found], raw.target, delivered)
        for place, rows, _ in found:
            place.opened.store.compare(
                place.number, rows, rows_of(raw.target, place.row), kept_hash(place.opened, hashes, place.row)
            )
        return self._assembled(found)

    def _hashes(self, opened: list[Opened], raw: Batch, delivered: Any) -> Tensor | None:
        if not any(store.hashed for store in opened):
            return None
        # As they reach the device: a transfer hook may change them. To look there means to wait for the accelerator, so
        # most batches are looked at as the loader delivered them, if that is the same.
        is_waiting = self.stores.device.type != "cpu" and self._batches % LOOK_EVERY
        self._batches += 1
        if not is_waiting:
            return input_hash(self.stores.read_batch(delivered).inputs)
        return input_hash(raw.inputs) if all(store.unchanged for store in opened) else None

    def _completed(self, places: list[Place], target: Tensor | None, delivered: Any) -> list[Found]:
        # Another process may have filled the rows since they were looked up.
        found = [self._peek(place) for place in places]
        if self.stores.old is not None and not all(bool(part.filled.all()) for part in found):
            outputs = to_cpu(self.stores.old.to(self.stores.device).outputs(delivered))
            hashes = input_hash(self.stores.read_batch(delivered).inputs)
            for place, _, filled in found:
                rows = place.row[~filled]
                chosen = Outputs(*(rows_of(part, rows) for part in outputs))
                hash_of = kept_hash(place.opened, hashes, rows)
                place.opened.store.write(
                    place.number[~filled], place.opened.narrow(chosen), rows_of(target, rows), hash_of
                )
        # Read, not peeked: without an old model the holes are named.
        return [Found(place, place.opened.store.read(place.number), filled) for place, _, filled in found]

    def _assembled(self, found: list[Found]) -> Outputs:
        if len(found) == 1 and torch.equal(found[0].place.row, torch.arange(len(found[0].place.row))):
            return self._outputs(found[0])
        parts = [(part.place.row.to(self.stores.device), self._outputs(part)) for part in found]
        return Outputs(*(_scatter([(row, outputs[field]) for row, outputs in parts]) for field in range(2)))

    def _outputs(self, found: Found) -> Outputs:
        return found.place.opened.widen(found.rows.outputs(self.stores.device))

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(wait=True, cancel_futures=True)


def rows_of(tensor: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return rows of a tensor that may be None and may be on any device."""
    return None if tensor is None else tensor[rows.to(tensor.device)]


def kept_hash(opened: Opened, hashes: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return input hashes to keep or to compare; None where the store keeps none."""
    return rows_of(hashes, rows) if opened.hashed else None


def to_cpu(outputs: Outputs) -> Outputs:
    """Return outputs on the CPU."""
    return Outputs(*(None if part is None else part.cpu() for part in outputs))


def _scatter(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    # Put the rows of several stores into the order of the batch.
    first = parts[0][1]
    if first is None:
        return None
    whole = first.new_empty(sum(len(row) for row, _ in parts), first.shape[1])
    for row, part in parts:
        if part is None or part.shape[1] != first.shape[1]:
            raise CacheError("Expected stores with outputs of one shape for one loader, got several.")
        whole[row] = part
    return whole

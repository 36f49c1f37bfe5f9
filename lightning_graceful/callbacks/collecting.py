"""What both models said of each sample of an evaluation: in bounded memory, each sample once, gathered from ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lightning_graceful.callbacks.evaluated import EvaluatedBatch
from lightning_graceful.callbacks.pictures import Picture, PictureSource, TextSource, pictures_of, texts_of
from lightning_graceful.callbacks.priority import BROKE, ROW, Kept, Rows, priority
from lightning_graceful.callbacks.slices import Slice

WHOLE = ("target", "old", "new")
REAL = ("old_confidence", "new_confidence", "old_score", "new_score")


@dataclass(frozen=True)
class Wanted:
    """What to keep of an evaluation.

    Attributes:
        max_rows: Most samples of which the text is kept: those that a table shows.
        max_images: Most samples of which a picture is kept: the surest of the negative flips.
        images: Where a batch holds pictures; None for nowhere.
        text: Where a batch holds texts; None for nowhere.
        slices: Ways to cut the data.
        seed: Of the draw among samples whose flip is none.
    """

    max_rows: int
    max_images: int
    images: PictureSource | None = None
    text: TextSource | None = None
    slices: Sequence[Slice] = ()
    seed: int = 0


@dataclass
class Collected:
    """What was said of the samples of one loader, against one old model.

    Attributes:
        rows: One a sample, of dtype ``ROW`` and a ``slice<n>`` for each slice, by rising position once merged.
        slices: Names of the slices.
        values: Of each slice its values; the place of a value is its number in the rows.
        texts: By position, of the samples that come first.
        images: By position, of the surest negative flips.
        classes: Names of the classes; empty where nobody named them.
        width: Number of classes.
    """

    rows: Rows
    slices: list[str]
    values: list[list[str]]
    texts: dict[int, str]
    images: dict[int, Picture]
    classes: tuple[str, ...]
    width: int


@dataclass
class Collector:
    """Collects the batches of one rank.

    Args:
        wanted: What to keep.
        rank: This process.
        ranks: How many there are.
    """

    wanted: Wanted
    rank: int = 0
    ranks: int = 1
    _parts: list[Rows] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self._images, self._texts = Kept(self.wanted.max_images), Kept(self.wanted.max_rows)
        self._dataset: Any = None
        self._width = 0

    def add(self, evaluated: EvaluatedBatch) -> None:
        """Keep what is needed of a batch.

        Args:
            evaluated: The batch.
        """
        rows = self._rows(evaluated)
        self._parts.append(rows)
        self._count += len(rows)
        self._dataset, self._width = evaluated.dataset, evaluated.old.shape[1]
        first, place = priority(rows, self.wanted.seed).tolist(), rows["position"].tolist()
        for row, text in enumerate(texts_of(evaluated.batch, self.wanted.text, len(rows))):
            self._texts.offer(first[row], place[row], text)
        broke = [row for row, value in enumerate(first) if value >= BROKE]
        self._add_images(evaluated.batch, {row: (first[row], place[row]) for row in broke})

    def collected(self, classes: tuple[str, ...] = ()) -> Collected:
        """Return what was kept.

        Args:
            classes: Names of the classes; none: those that the dataset tells.

        Returns:
            Rows, texts and pictures.
        """
        return Collected(
            np.concatenate(self._parts),
            [one.name for one in self.wanted.slices],
            [one.values for one in self.wanted.slices],
            self._texts.values,
            self._images.values,
            classes or self._told_names(),
            self._width,
        )

    def _told_names(self) -> tuple[str, ...]:
        names = class_names(self._dataset)
        return names if len(names) == len({*names}) == self._width else ()  # they name something else

    def _add_images(self, batch: Any, ranked: dict[int, tuple[float, int]]) -> None:
        # Only of samples that would be kept is a picture drawn.
        rows = [row for row, where in ranked.items() if self._images.wants(*where)]
        if rows and self.wanted.images is not None:
            for row, picture in zip(rows, pictures_of(batch, self.wanted.images, rows), strict=False):
                self._images.offer(*ranked[row], picture)

    def _rows(self, evaluated: EvaluatedBatch) -> Rows:
        size, slices = len(evaluated.target), self.wanted.slices
        rows = np.zeros(size, np.dtype([*ROW.descr, *((f"slice{place}", "<i2") for place in range(len(slices)))]))
        # Ranks take turns, as a DistributedSampler deals: of samples that nobody can follow no two share a number.
        in_passing = (self._count + np.arange(size)) * self.ranks + self.rank
        rows["position"] = in_passing if evaluated.position is None else evaluated.position.numpy()
        rows["index"] = in_passing if evaluated.index is None else evaluated.index.numpy()
        for names, values in _said(evaluated).items():
            for name, column in zip(names, values.cpu().numpy(), strict=True):
                rows[name] = column
        for place, one in enumerate(slices):
            rows[f"slice{place}"] = one.read(evaluated).cpu().numpy()
        return rows


def _said(evaluated: EvaluatedBatch) -> dict[tuple[str, ...], torch.Tensor]:
    # Stacked, so that what is on a GPU is waited for twice a batch.
    target = evaluated.target.long()
    labels = [scores.argmax(1) for scores in (evaluated.old, evaluated.new)]
    shares = [scores.detach().float().softmax(1) for scores in (evaluated.old, evaluated.new)]
    confidences = [share.gather(1, label[:, None])[:, 0] for share, label in zip(shares, labels, strict=True)]
    scores = [share.gather(1, target[:, None])[:, 0] for share in shares]
    return {WHOLE: torch.stack([target, *labels]), REAL: torch.stack([*confidences, *scores])}


def merged(parts: Sequence[Collected], wanted: Wanted) -> Collected:
    """Put together what ranks have collected, each sample once.

    Args:
        parts: Of each rank that saw a sample.
        wanted: What to keep.

    Returns:
        The whole, by rising position.
    """
    values: list[dict[str, int]] = [{} for _ in parts[0].values]
    renumbered = [_renumber(part, values) for part in parts]
    rows = np.concatenate(renumbered)
    rows = rows[np.unique(rows["position"], return_index=True)[1]]
    images = _first(rows, [part.images for part in parts], wanted.max_images, wanted.seed)
    texts = _first(rows, [part.texts for part in parts], wanted.max_rows, wanted.seed)
    named = next((part.classes for part in parts if part.classes), ())
    found = [[*one] for one in values]
    return Collected(rows, parts[0].slices, found, texts, images, named, parts[0].width)


def _first(rows: Rows, held: Sequence[dict[int, Any]], limit: int, seed: int) -> dict[int, Any]:
    kept = Kept(limit)
    for values in held:
        places = np.searchsorted(rows["position"], [*values])
        for first, (position, value) in zip(priority(rows[places], seed), values.items(), strict=True):
            kept.offer(float(first), position, value)
    return kept.values


def _renumber(part: Collected, values: list[dict[str, int]]) -> Rows:
    # Each rank has numbered the values of a slice as it met them.
    rows = part.rows.copy()
    for place, (known, own) in enumerate(zip(values, part.values, strict=True)):
        numbers = np.array([known.setdefault(value, len(known)) for value in own], np.int16)
        if len(numbers):
            rows[f"slice{place}"] = numbers[part.rows[f"slice{place}"]]
    return rows


def gathered(mine: Any) -> list[Any]:
    """Bring what each rank holds to rank zero.

    Args:
        mine: This rank's.

    Returns:
        Of each rank, on rank zero; nothing on the others.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, everyone)
    return everyone or []


def class_names(dataset: Any) -> tuple[str, ...]:
    """Find the names of the classes, as torchvision's datasets tell them.

    Args:
        dataset: The loader's dataset, or a subset of it.

    Returns:
        The names; none where the dataset tells none.

    Example:
        >>> from types import SimpleNamespace
        >>> class_names(SimpleNamespace(dataset=SimpleNamespace(classes=["cat", "dog"])))
        ('cat', 'dog')
    """
    while dataset is not None:
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple):
            return tuple(str(name) for name in names)
        dataset = getattr(dataset, "dataset", None) or next(iter(getattr(dataset, "datasets", [])), None)
    return ()

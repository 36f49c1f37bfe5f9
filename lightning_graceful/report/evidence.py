"""What an old model and its successors said of the same samples: the rows behind every number of the page."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]

LABELS = ("id", "seed", "target", "old", "new")
CONFIDENCES = ("old_confidence", "new_confidence")
COLUMNS = LABELS + CONFIDENCES
SLACK = 1e-5  # a softmax in float32 may sum to a little more than 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the old and one new model said of the same samples, one row a sample and seed.

    Attributes:
        id: Stable id of the sample, int64, shape ``(N,)``; may repeat over seeds, not within one.
        seed: Seed of the run that trained the new model, int64, shape ``(N,)``.
        target: True class, int64, shape ``(N,)``.
        old: Class that the old model answered, int64, shape ``(N,)``.
        new: Class that the new model answered, int64, shape ``(N,)``.
        old_confidence: Probability that the old model gave to its answer, float32, shape ``(N,)``.
        new_confidence: Probability that the new model gave to its answer, float32, shape ``(N,)``.

    Raises:
        ValueError: If shapes differ, an array is of another kind, a value is out of range, or an (id, seed) repeats.

    Example:
        >>> zeros, sure = np.zeros(4, np.int64), np.full(4, 0.9, np.float32)
        >>> said = Predictions(np.arange(4), zeros, zeros, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), sure, sure)
        >>> said.table.tolist(), said.nfr
        ([[1, 1], [1, 1]], 0.25)
    """

    id: Integers
    seed: Integers
    target: Integers
    old: Integers
    new: Integers
    old_confidence: Floats
    new_confidence: Floats

    def __post_init__(self) -> None:
        """Check the arrays, and hold them as int64 and float32."""
        for name in COLUMNS:
            check = _integers if name in LABELS else _probabilities
            object.__setattr__(self, name, check(name, getattr(self, name)))
        _check_shapes(self)
        _check_keys(self)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.id)

    @property
    def samples(self) -> int:
        """Number of distinct samples; over several seeds there are more rows."""
        return len(np.unique(self.id))

    @property
    def negative(self) -> Mask:
        """Rows that the old model had right and the new one gets wrong, bool, shape ``(N,)``."""
        return np.asarray((self.old == self.target) & self.wrong, np.bool_)

    @property
    def positive(self) -> Mask:
        """Rows that the old model had wrong and the new one gets right, bool, shape ``(N,)``."""
        return np.asarray((self.old != self.target) & ~self.wrong, np.bool_)

    @property
    def wrong(self) -> Mask:
        """Rows that the new model gets wrong, bool, shape ``(N,)``."""
        return np.asarray(self.new != self.target, np.bool_)

    @property
    def table(self) -> Integers:
        """Counts ``table[old_right, new_right]``, int64, shape ``(2, 2)``; ``table[1, 0]`` are the negative flips."""
        cell = 2 * (self.old == self.target) + (self.new == self.target)
        return np.bincount(cell, minlength=4).reshape(2, 2).astype(np.int64)

    @property
    def nfr(self) -> float:
        """Negative flips / rows, NaN without rows."""
        return ratio(self.table[1, 0], len(self))

    @property
    def pfr(self) -> float:
        """Positive flips / rows, NaN without rows."""
        return ratio(self.table[0, 1], len(self))

    @property
    def error_old(self) -> float:
        """Share of rows that the old model has wrong, NaN without rows."""
        return ratio(self.table[0].sum(), len(self))

    @property
    def error_new(self) -> float:
        """Share of rows that the new model has wrong, NaN without rows."""
        return ratio(self.table[:, 0].sum(), len(self))

    @property
    def relative_nfr(self) -> float:
        """NFR / ((1 - error_old) * error_new): 1 if the models erred independently, NaN for 0/0."""
        return ratio(self.nfr, (1 - self.error_old) * self.error_new)

    def to_csv(self, path: str | Path) -> None:
        """Write the rows as CSV with the columns of the attributes; float32 values survive the round trip.

        Args:
            path: File to write.
        """
        columns = [getattr(self, name) for name in COLUMNS]
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([str(value) for value in row] for row in zip(*columns, strict=True))

    @classmethod
    def from_csv(cls, path: str | Path) -> "Predictions":
        """Read rows written by :meth:`to_csv`, or by hand; the order of the columns is free and others are ignored.

        Args:
            path: File to read.

        Returns:
            The rows.

        Raises:
            ValueError: If a column is missing or a value is not a number.
        """
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}.")
            rows = [_numbers(row, f"{path}, line {reader.line_num}") for row in reader]
        pairs = [*((name, np.int64) for name in LABELS), *((name, np.float32) for name in CONFIDENCES)]
        columns: list[Any] = [np.array([row[name] for row in rows], kind) for name, kind in pairs]
        return cls(*columns)


@dataclass(frozen=True, eq=False)
class Way:
    """One way to train the successor.

    Attributes:
        name: Short name, shown in every table.
        predictions: What the old model and this successor said.
        wall_seconds: Training time, or None where it was not taken.
        detail: What sets this way apart, for example "lambda 1".

    Raises:
        ValueError: If the name is empty or the time is negative.
    """

    name: str
    predictions: Predictions
    wall_seconds: float | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        """Check name and time."""
        _check_names([self])
        _check_range("wall_seconds", self.wall_seconds, float("inf"))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several ways to train the successor of one old model; the first is the plain one to compare with.

    Attributes:
        title: Heading of the page.
        class_names: Name of each class.
        ways: The ways, the plain one first; all on the same (id, seed) rows.
        noise_floor: NFR between two plain runs that differ by seed only, or None.
        images: Pictures by sample id, uint8, shape ``(H, W)`` or ``(H, W, 3)``; only those to be shown are needed.
        notes: Remarks for the end of the page.

    Raises:
        ValueError: If there is no way, names repeat, rows differ, a class has no name, or an image is of another kind.

    Example:
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> plain = Way("plain", Predictions(np.arange(2), zeros, zeros, zeros, zeros, sure, sure))
        >>> Comparison("Digits", ["zero"], [plain]).plain.name
        'plain'
    """

    title: str
    class_names: Sequence[str]
    ways: Sequence[Way]
    noise_floor: float | None = None
    images: Mapping[int, Image] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _check_names(self.ways)
        _check_range("noise_floor", self.noise_floor, 1.0)
        for way in self.ways:
            aligned_rows(way, self.plain)
            _check_classes(way, len(self.class_names))
        for key, image in self.images.items():
            _check_image(key, image)

    @property
    def plain(self) -> Way:
        """The way that the others are compared with."""
        return self.ways[0]


def aligned_rows(way: Way, plain: Way) -> tuple[Integers, Integers]:
    """Join two ways by (id, seed).

    Args:
        way: One way.
        plain: The way it is compared with.

    Returns:
        Row numbers of ``way`` and of ``plain``, each int64, shape ``(N,)``, so that the k-th of both are one sample.

    Raises:
        ValueError: If the (id, seed) keys, the targets or the old answers differ.

    Example:
        >>> zeros, sure, ids = np.zeros(2, np.int64), np.full(2, 0.9, np.float32), np.array([7, 3])
        >>> plain = Way("plain", Predictions(ids, zeros, zeros, zeros, zeros, sure, sure))
        >>> pct = Way("pct", Predictions(ids[::-1], zeros, zeros, zeros, zeros, sure, sure))
        >>> [rows.tolist() for rows in aligned_rows(pct, plain)]
        [[0, 1], [1, 0]]
    """
    rows, plain_rows = _key_order(way.predictions), _key_order(plain.predictions)
    for column in ("id", "seed", "target", "old"):
        ours, theirs = getattr(way.predictions, column)[rows], getattr(plain.predictions, column)[plain_rows]
        if not np.array_equal(ours, theirs):
            raise ValueError(
                f"Expected the same {column} in {way.name!r} ({len(rows)} rows) and {plain.name!r} "
                f"({len(plain_rows)} rows) when joined by (id, seed). Use one old model and one test set."
            )
    return rows, plain_rows


def _key_order(predictions: Predictions) -> Integers:
    return np.lexsort((predictions.seed, predictions.id)).astype(np.int64)


def ratio(part: Any, whole: Any) -> float:
    """Return part / whole, NaN where there is nothing to divide by."""
    return float(part) / float(whole) if whole else float("nan")


def _integers(name: str, values: Any) -> Integers:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or (array.dtype == np.uint64 and np.any(array > np.iinfo(np.int64).max)):
        raise ValueError(f"Expected int64 in {name}, got {array.dtype}.")
    return array.astype(np.int64)


def _probabilities(name: str, values: Any) -> Floats:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise ValueError(f"Expected float32 in {name}, got {array.dtype}.")
    if not np.all((array >= 0) & (array <= 1 + SLACK)):
        raise ValueError(f"Expected probabilities in [0, 1] in {name}, got values out of range or NaN.")
    return array.astype(np.float32)


def _numbers(row: Mapping[str, str | None], where: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name in COLUMNS:
        kind = int if name in LABELS else float
        try:
            numbers[name] = kind(row[name] or "")
        except ValueError:
            raise ValueError(f"{where}: expected a number ({kind.__name__}) in {name}, got {row[name]!r}.") from None
    return numbers


def _check_shapes(said: Predictions) -> None:
    shapes = {name: getattr(said, name).shape for name in COLUMNS}
    if len(set(shapes.values())) > 1 or said.id.ndim != 1:
        raise ValueError(f"Expected arrays of one shape (N,), got {shapes}.")
    for name in ("target", "old", "new"):
        if np.any(getattr(said, name) < 0):
            raise ValueError(f"Expected class indices >= 0 in {name}, got {getattr(said, name).min()}.")


def _check_keys(said: Predictions) -> None:
    order = _key_order(said)
    same = (np.diff(said.id[order]) == 0) & (np.diff(said.seed[order]) == 0)
    if same.any():
        row = order[same.argmax()]
        raise ValueError(f"Expected each (id, seed) once, got id {said.id[row]}, seed {said.seed[row]} repeatedly.")


def _check_names(ways: Sequence[Way]) -> None:
    names = [way.name for way in ways]
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ValueError(f"Expected at least one way, each with a name of its own, got {names}.")


def _check_range(name: str, value: float | None, most: float) -> None:
    if value is not None and not 0 <= value <= most:
        raise ValueError(f"Expected {name} in [0, {most:g}] or None, got {value}.")


def _check_classes(way: Way, classes: int) -> None:
    for column in ("target", "old", "new"):
        if np.any(getattr(way.predictions, column) >= classes):
            found = getattr(way.predictions, column).max()
            raise ValueError(f"Expected {column} of {way.name!r} below {classes} (class_names), got {found}.")


def _check_image(key: int, image: Image) -> None:
    kind = getattr(image, "dtype", None)
    if kind != np.uint8 or image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        shape = getattr(image, "shape", None)
        raise ValueError(f"Expected uint8 (H, W) or (H, W, 3) for image {key}, got {kind} {shape}.")

"""What an evaluation of compatible embeddings says, ready to be shown: plain values for table, page and W&B."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_graceful.functional.statistics import Interval

MEASURES = ("map", "map_at_r", "recall_at_1")


@dataclass(frozen=True)
class Way:
    """One way to get an update, or one version. Measures are shares in [0, 1].

    Attributes:
        name: Name of the way.
        detail: What sets it apart, such as "weight 1, temperature 0.2".
        cross_test: By measure, new queries in the old gallery.
        self_test: By measure, new queries in the new gallery, in the native space of the new model.
        shared_self_test: By measure, the same in the space that is compatible with the old one; equal to ``self_test``
            where there is one space.
        cross_gain: By measure, cross test less the old model's self test, paired.
        update_gain: By measure; NaN where the gap is too small or there is no paragon.
        tax: By measure, the paragon's self test less ``self_test``, paired; NaN without a paragon.
        train_seconds: Time that the training took, or None where nobody knows.
        groups: By group of queries, such as "old classes" and "new classes", the cross test by measure.
    """

    name: str
    detail: str
    cross_test: Mapping[str, Interval]
    self_test: Mapping[str, Interval]
    shared_self_test: Mapping[str, Interval]
    cross_gain: Mapping[str, Interval]
    update_gain: Mapping[str, Interval]
    tax: Mapping[str, Interval]
    train_seconds: float | None = None
    groups: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A measure of search for every pair of versions.

    Attributes:
        measure: The measure, such as "map".
        versions: Names, oldest first.
        values: Measure ``[i, j]`` of queries of version i in the gallery of version j, float64, shape ``(V, V)``.
        average_compatibility: Share of the pairs whose later version beats the earlier in its own gallery.
    """

    measure: str
    versions: tuple[str, ...]
    values: NDArray[np.float64]
    average_compatibility: float


@dataclass(frozen=True, eq=False)
class Curve:
    """A backfill curve: a measure while the old gallery is replaced.

    Attributes:
        name: Way and order, such as "influence, random" or "influence, far from class mean".
        measure: The measure, such as "map".
        share: Share of the gallery that is new, float64, shape ``(P,)``, from 0 to 1.
        values: The measure at each, float64, shape ``(P,)``.
        area: Area under the curve: the mean of the measure over the refresh.
    """

    name: str
    measure: str
    share: NDArray[np.float64]
    values: NDArray[np.float64]
    area: float


@dataclass(frozen=True)
class LostQuery:
    """A retrieval flip: a query that found a right item and no longer does, or the reverse.

    Attributes:
        id: Id of the query.
        label: Its label, as text.
        change: "lost" or "found".
        old_items: Ids of the first items that the old query finds, nearest first.
        new_items: Ids of the first items that the new query finds.
        old_labels: Labels of ``old_items``.
        new_labels: Labels of ``new_items``.
    """

    id: str
    label: str
    change: Literal["lost", "found"]
    old_items: tuple[str, ...]
    new_items: tuple[str, ...]
    old_labels: tuple[str, ...]
    new_labels: tuple[str, ...]


@dataclass(frozen=True)
class ChainStep:
    """A version of a chain in which each is trained against its predecessor only.

    Attributes:
        version: Name of the version.
        tax: What compatibility costs it, a share: the paragon's self test less its own.
        nfr: Negative-flip rate of its classifier against each predecessor, by that one's name.
    """

    version: str
    tax: Interval
    nfr: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Downstream:
    """A share that tells how something that was built on old embeddings does, while these give way to new ones.

    Attributes:
        name: What is measured, such as "10 old clusters, B-cubed F" or "old head, error".
        old: On old embeddings; NaN where that says nothing.
        mixed: Half of the gallery new, or new queries in the old gallery; NaN where that says nothing.
        new: On new embeddings.
    """

    name: str
    old: float
    mixed: float
    new: float


@dataclass(frozen=True)
class CompatibilitySummary:
    """An evaluation of one or more ways.

    Attributes:
        title: What was evaluated.
        protocol: Sentences that say how.
        queries: Queries with a match in the gallery.
        gallery: Items of the gallery.
        seeds: Trainings of each way.
        old_self_test: By measure, old queries in the old gallery.
        paragon_self_test: By measure, the paragon in its own gallery; None without one.
        ways: The ways, in the order shown.
        matrix: The measure for all pairs of versions.
        curves: Backfill curves.
        taxes: A chain of versions, oldest first.
        flips: Queries that lost their hit, or gained one.
        images: Pictures of queries and items as data URIs, by id.
        notes: Remarks for the reader.
        downstream: Old clusters, an old classifier head and old thresholds with new embeddings.
    """

    title: str
    protocol: tuple[str, ...]
    queries: int
    gallery: int
    seeds: int
    old_self_test: Mapping[str, Interval]
    paragon_self_test: Mapping[str, Interval] | None
    ways: tuple[Way, ...]
    matrix: Matrix | None = None
    curves: tuple[Curve, ...] = ()
    taxes: tuple[ChainStep, ...] = ()
    flips: tuple[LostQuery, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    downstream: tuple[Downstream, ...] = ()

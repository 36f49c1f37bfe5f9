"""What a successor does in the place of a version: backfill, retrieval flips, and what was built on old embeddings."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from lightning_graceful.data.relabelled import LabelledImages
from lightning_graceful.experiment.search_ways import Rows
from lightning_graceful.experiment.versions import Version
from lightning_graceful.functional.clusters import mixed_clusters
from lightning_graceful.functional.downstream import ThresholdRates, old_head_rates, threshold_drift
from lightning_graceful.functional.retrieval import backfill_curve, retrieval_flips, search_gallery
from lightning_graceful.functional.retrieval.rows import fit_width
from lightning_graceful.gallery.orders import random_order
from lightning_graceful.report.compatibility.summary import Curve, Downstream, LostQuery
from lightning_graceful.report.words import percent

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Update:
    """A version and its successor, in one space.

    Attributes:
        old: The version.
        new: Its successor.
        old_rows: What the old version embeds.
        new_rows: The same items as the new version embeds them, in the old one's space.
        labels: The dataset's, of queries and gallery, int64, shapes ``(Q,)`` and ``(G,)``.
        options: ``distance`` and ``dimensions`` of a search.
    """

    old: Version
    new: Version
    old_rows: Rows
    new_rows: Rows
    labels: tuple[Tensor, Tensor]
    options: dict[str, Any]


def curves(update: Update, cfg: DictConfig, orders: dict[str, Callable[..., Tensor]], k: Sequence[int]) -> list[Curve]:
    """Measure the search while the old gallery is replaced, in each order.

    Args:
        update: The versions.
        cfg: ``conf/evaluate.yaml``, composed.
        orders: By name, functions of any of ``items``, ``embeddings``, ``labels`` and ``logits`` of the old gallery.
        k: Lengths of lists that are measured.

    Returns:
        The curves, without those that need the logits of a classifier that is not there.
    """
    found = []
    for name, order in orders.items():
        positions = _positions(order, update)
        if positions is None:
            continue
        curve = backfill_curve(
            update.new_rows.query, update.old_rows.gallery, update.new_rows.gallery, *update.labels,
            order=positions, parts=cfg.backfill.parts, measure=cfg.measure, k=k, **update.options,
        )  # fmt: skip
        found.append(Curve(name, cfg.measure, curve.share.numpy(), curve.values.numpy(), curve.area.item()))
    return found


def flips(
    update: Update, ids: tuple[NDArray[np.int64], NDArray[np.int64]], classes: Sequence[str], cfg: DictConfig
) -> tuple[list[LostQuery], str]:
    """List the queries that lose their hit, and those that gain one.

    Args:
        update: The versions.
        ids: Positions in the base dataset of queries and gallery, shapes ``(Q,)`` and ``(G,)``.
        classes: Names of the dataset's classes.
        cfg: ``conf/evaluate.yaml``, composed.

    Returns:
        The queries, those that lost first; a sentence with the rates.
    """
    is_old = cfg.flips.gallery == "old"
    searched = (update.old_rows if is_old else update.new_rows).gallery
    k = min(cfg.flips.k, len(searched))
    before = search_gallery(update.old_rows.query, update.old_rows.gallery, k=k, **update.options).positions
    now = search_gallery(update.new_rows.query, searched, k=k, **update.options).positions
    told = retrieval_flips(before, now, *update.labels)
    lists, labels = (before.tolist(), now.tolist()), [names.tolist() for names in update.labels]

    def lost_query(query: int, change: Any) -> LostQuery:
        old, new = ([int(place) for place in positions[query]] for positions in lists)
        items = [tuple(str(ids[1][place]) for place in places) for places in (old, new)]
        named = [tuple(classes[labels[1][place]] for place in places) for places in (old, new)]
        return LostQuery(str(ids[0][query]), classes[labels[0][query]], change, *items, *named)

    found = [lost_query(query, "lost") for query in told.lost.tolist()]
    found += [lost_query(query, "found") for query in told.gained.tolist()]
    where = "old gallery" if is_old else "gallery embedded again"
    return found, (
        f"Retrieval flips among the first {k} items, queries of {update.new.name} in the {where}: "
        f"{percent(told.negative_flip_rate.item())} of the queries lost their hit, "
        f"{percent(told.positive_flip_rate.item())} gained one."
    )


def pictured(found: Sequence[LostQuery], most: int) -> list[str]:
    """Choose whose pictures are shown: lost and found queries in turn, each with what it finds.

    Args:
        found: Retrieval flips.
        most: How many pictures at most.

    Returns:
        Ids of queries and items.

    Example:
        >>> lost = LostQuery("7", "cat", "lost", ("1",), ("2",), ("cat",), ("dog",))
        >>> gained = LostQuery("8", "cat", "found", ("2",), ("1",), ("dog",), ("cat",))
        >>> pictured([lost, lost, gained], 4)
        ['7', '1', '2', '8']
    """
    kinds = ([flip for flip in found if flip.change == change] for change in ("lost", "found"))
    turns = (flip for flip in chain.from_iterable(zip_longest(*kinds)) if flip is not None)
    ids = dict.fromkeys(key for flip in turns for key in (flip.id, *flip.old_items, *flip.new_items))
    return list(ids)[:most]


def downstream(
    update: Update, cfg: DictConfig, kmeans: Any, base: LabelledImages
) -> tuple[list[Downstream], list[str]]:
    """Measure what was built on old embeddings: clusters, the classifier head, thresholds.

    Args:
        update: The versions.
        cfg: ``conf/evaluate.yaml``, composed.
        kmeans: A clusterer like scikit-learn's KMeans; None for no clusters.
        base: The base dataset.

    Returns:
        Numbers, and remarks on what could not be measured.
    """
    notes: list[str] = []
    found = [] if kmeans is None else list(_clusters(update, kmeans))
    found += _head(update, base, notes)
    return [*found, *(_thresholds(update, [float(rate) for rate in cfg.far]) if cfg.far else ())], notes


def _positions(order: Callable[..., Tensor], update: Update) -> Tensor | None:
    wanted, gallery = inspect.signature(order).parameters, update.old_rows.gallery
    given = {"items": len(gallery), "embeddings": gallery, "labels": update.labels[1]}
    given["distance"] = update.options["distance"]
    if "logits" in wanted:
        head = update.old.model.classifier
        if head is None:
            return None
        given["logits"] = head(gallery)
    return order(**{name: value for name, value in given.items() if name in wanted})


def _clusters(update: Update, kmeans: Any) -> Iterator[Downstream]:
    is_cosine = update.options["distance"] == "cosine"
    old = update.old_rows.gallery
    fitted = kmeans.fit((F.normalize(old) if is_cosine else old).numpy())
    centres = torch.from_numpy(fitted.cluster_centers_).to(old.dtype)
    order = random_order(len(old))
    curve = mixed_clusters(
        centres, old, update.new_rows.gallery, update.labels[1], order=order, parts=2, **update.options
    )
    of = f"{len(centres)} old clusters"
    for name, values in (("precision", curve.precision), ("recall", curve.recall), ("F", curve.f)):
        yield Downstream(f"{of}, B-cubed {name}", *values.tolist())
    yield Downstream(f"{of}, items in another one", *curve.moved.tolist())


def _head(update: Update, base: LabelledImages, notes: list[str]) -> Iterator[Downstream]:
    head = update.old.model.classifier
    if head is None:
        notes.append(f"No old head: {update.old.name} was given no classifier.")
        return
    old, new = (torch.cat(rows) for rows in (update.old_rows, update.new_rows))
    columns = int(head(old[:1]).shape[1])
    classes = update.old.classes or tuple(range(len(base.classes)))
    if len(classes) != columns:
        notes.append(
            f"No old head: {update.old.name} has {columns} classes, the data have {len(classes)}. "
            f"Give models.{update.old.name}.classes, the dataset's label of each."
        )
        return
    column = torch.full((len(base.classes),), -1)
    column[list(classes)] = torch.arange(columns)
    target = column[torch.cat(update.labels)]
    if not bool((target >= 0).any()):
        notes.append(f"No old head: {update.old.name} knows none of the classes that are searched.")
        return
    known = target >= 0
    rates = old_head_rates(head, old[known], _scaled(new, old, update)[known], target[known])
    yield Downstream("old head, error", rates["error_old"].item(), NAN, rates["error_new"].item())
    yield Downstream("old head, negative flips", NAN, NAN, rates["nfr"].item())


def _scaled(new: Tensor, old: Tensor, update: Update) -> Tensor:
    # A head knows the length of what it was trained on; an adapter gives rows of length 1.
    new = fit_width(new, old.shape[1])
    is_unit = update.new.adapter is not None and update.new.adapter.normalize
    return new * old.norm(dim=1).mean() if is_unit else new


def _thresholds(update: Update, far: list[float]) -> Iterator[Downstream]:
    rows = update.old_rows, update.new_rows
    drift = threshold_drift(*rows[0], *rows[1], *update.labels, far=far, **update.options)

    def rates(part: ThresholdRates, number: int) -> tuple[float, float]:
        return part.far[number].item(), part.tar[number].item()

    for number, asked in enumerate(far):
        told = [rates(part, number) for part in (drift.old, drift.cross, drift.new)]
        for name, values in zip(("false accepts", "true accepts"), zip(*told, strict=True), strict=True):
            yield Downstream(f"old threshold for FAR {100 * asked:g} %, {name}", *values)

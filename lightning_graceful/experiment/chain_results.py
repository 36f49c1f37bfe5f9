"""What a chain of versions does: each in every gallery, and its classifier against each predecessor's."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_graceful.data.relabelled import Sample
from lightning_graceful.experiment.by_sample import mean_by_sample
from lightning_graceful.experiment.datamodules.search import SearchHalves
from lightning_graceful.experiment.finished import Finished
from lightning_graceful.experiment.predictions import answers
from lightning_graceful.experiment.search_ways import labels_of, rows_of
from lightning_graceful.functional.compatibility import average_compatibility
from lightning_graceful.functional.retrieval import retrieval_per_query
from lightning_graceful.functional.statistics.gains import mean_difference_interval, mean_interval
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.compatibility.results import way_of
from lightning_graceful.report.compatibility.summary import MEASURES, ChainStep, Matrix, Way
from lightning_graceful.report.compatibility.words import ends, tenths

Values = NDArray[np.float64]
MEASURE = "map"  # of matrix and tax


class ChainFound(NamedTuple):
    """What V versions of a chain do, sample by sample.

    Attributes:
        query_id: Position of each query in the dataset, int64, shape ``(Q,)``.
        gallery: Items in the gallery; that of the first seed where each has its own.
        searches: By measure, what each query of version i finds in the gallery of version j ``[i, j]``, float64, shape
            ``(V, V, Q)``.
        shared: By measure, the same of version i in its own gallery, both cut to the width of the first version,
            float64, shape ``(V, Q)``.
        test_id: Position of each test sample, int64, shape ``(N,)``.
        wrong: Whether the classifier of each version errs, or in which share of the seeds, float64, shape ``(V, N)``.
        broke: Likewise, whether version i errs where version j was right ``[i, j]``, float64, shape ``(V, V, N)``.
    """

    query_id: NDArray[np.int64]
    gallery: int
    searches: Mapping[str, Values]
    shared: Mapping[str, Values]
    test_id: NDArray[np.int64]
    wrong: Values
    broke: Values

    def search(self, query: int, gallery: int) -> dict[str, Values]:
        """Return by measure what the queries of one version find in the gallery of one version, shape ``(Q,)``."""
        return {measure: values[query, gallery] for measure, values in self.searches.items()}


def search_chain(models: Sequence[OldModel], halves: SearchHalves, loader: DataLoader[Sample]) -> ChainFound:
    """Search the gallery of each version with the queries of each, and ask all classifiers.

    Args:
        models: The versions, oldest first, with embeddings and logits.
        halves: Queries and gallery.
        loader: Of the test samples, in order.

    Returns:
        What they do; ``24 * V**2`` bytes a query and ``8 * V**2`` a test sample.
    """
    rows = [rows_of(model, halves) for model in models]
    labels = labels_of(halves.query), labels_of(halves.gallery)
    width = rows[0].query.shape[1]
    said = [answers(model, loader, seed=0) for model in models]
    wrong = np.stack([one.wrong for one in said])
    grid = [[_search(new.query, old.gallery, labels) for old in rows] for new in rows]
    shared = [_search(own.query[:, :width], own.gallery[:, :width], labels) for own in rows]
    return ChainFound(
        query_id=np.asarray(halves.query.indices, np.int64),
        gallery=len(labels[1]),
        searches={measure: np.array([[cell[measure] for cell in row] for row in grid]) for measure in MEASURES},
        shared={measure: np.array([cell[measure] for cell in shared]) for measure in MEASURES},
        test_id=said[0].id,
        wrong=wrong.astype(np.float64),
        broke=(wrong[:, None] & ~wrong).astype(np.float64),
    )


def chains_on_disk(chains: Mapping[str, ChainFound], seconds: Mapping[str, Sequence[float]]) -> Finished:
    """Lay what the chains of a seed do out as arrays.

    Args:
        chains: By name.
        seconds: Of training, by name and version.

    Returns:
        What :func:`chains_from_disk` takes.
    """
    arrays = {
        f"{name}\t{field}\t{measure}": values
        for name, found in chains.items()
        for field in ("searches", "shared")
        for measure, values in getattr(found, field).items()
    }
    for name, found in chains.items():
        arrays |= {f"{name}\t{field}\t": getattr(found, field) for field in ("query_id", "test_id", "wrong", "broke")}
    return Finished(arrays, {"seconds": seconds, "gallery": {name: found.gallery for name, found in chains.items()}})


def chains_from_disk(kept: Finished) -> dict[str, ChainFound]:
    """Return the chains of a seed that :func:`chains_on_disk` laid out.

    Args:
        kept: Arrays and all else.

    Returns:
        What each chain does, by name.
    """

    def of(name: str, field: str) -> Values:
        return kept.arrays[f"{name}\t{field}\t"]

    def by_measure(name: str, field: str) -> dict[str, Values]:
        return {measure: kept.arrays[f"{name}\t{field}\t{measure}"] for measure in MEASURES}

    return {
        name: ChainFound(
            query_id=of(name, "query_id").astype(np.int64),
            gallery=gallery,
            searches=by_measure(name, "searches"),
            shared=by_measure(name, "shared"),
            test_id=of(name, "test_id").astype(np.int64),
            wrong=of(name, "wrong"),
            broke=of(name, "broke"),
        )
        for name, gallery in kept.about["gallery"].items()
    }


def over_seeds(seeds: Sequence[ChainFound]) -> ChainFound:
    """Take the mean of each sample over the seeds that asked about it: seeds may test on the same samples, or not.

    Args:
        seeds: What one chain does on each seed.

    Returns:
        A row a sample that any seed asked about.
    """
    queries, tests = [seed.query_id for seed in seeds], [seed.test_id for seed in seeds]
    return ChainFound(
        np.unique(np.concatenate(queries)),
        seeds[0].gallery,
        {measure: mean_by_sample(queries, [seed.searches[measure] for seed in seeds]) for measure in MEASURES},
        {measure: mean_by_sample(queries, [seed.shared[measure] for seed in seeds]) for measure in MEASURES},
        np.unique(np.concatenate(tests)),
        mean_by_sample(tests, [seed.wrong for seed in seeds]),
        mean_by_sample(tests, [seed.broke for seed in seeds]),
    )


def matrix_of(versions: Sequence[str], found: ChainFound) -> Matrix:
    """Take the means over queries.

    Args:
        versions: Their names.
        found: What they do.

    Returns:
        mAP of every version in every gallery, and the average compatibility of these means.
    """
    values = found.searches[MEASURE].mean(-1)
    return Matrix(MEASURE, tuple(versions), values, average_compatibility(torch.from_numpy(values)).item())


def ways_of(
    versions: Sequence[str],
    found: ChainFound,
    alone: ChainFound,
    *,
    details: Sequence[str],
    seconds: Sequence[float],
    minimum_gap: float,
) -> tuple[Way, ...]:
    """Have every later version search the gallery of the first, as if it had never been re-indexed.

    Args:
        versions: Their names.
        found: What they do.
        alone: What the paragons of these versions do.
        details: What sets each version apart.
        seconds: Time that the training of each took.
        minimum_gap: Between paragon and first version, below which there is no update gain.

    Returns:
        A way a version, without the first.
    """
    return tuple(
        way_of(
            versions[new],
            cross_test=found.search(new, 0),
            self_test=found.search(new, new),
            shared_self_test={measure: values[new] for measure, values in found.shared.items()},
            old_self_test=found.search(0, 0),
            paragon_self_test=alone.search(new, new),
            detail=details[new],
            train_seconds=seconds[new],
            minimum_gap=minimum_gap,
        )
        for new in range(1, len(versions))
    )


def steps_of(versions: Sequence[str], found: ChainFound, alone: ChainFound) -> tuple[ChainStep, ...]:
    """Compute what each version pays, and whom it breaks.

    Args:
        versions: Their names.
        found: What they do.
        alone: What the paragons of these versions do.

    Returns:
        Tax in mAP and negative-flip rates; the first version is its own paragon.
    """
    own, paragon = found.searches[MEASURE], alone.searches[MEASURE]
    return tuple(
        ChainStep(
            version,
            mean_difference_interval(paragon[new, new], own[new, new]),
            {versions[old]: mean_interval(found.broke[new, old]) for old in range(new)},
        )
        for new, version in enumerate(versions)
    )


def classifier_notes(versions: Sequence[str], found: ChainFound, alone: ChainFound) -> list[str]:
    """Say what the constraints cost the classifiers.

    Args:
        versions: Their names.
        found: What they do.
        alone: What the paragons of these versions do.

    Returns:
        A sentence a version, without the first.
    """
    notes = []
    for new, version in enumerate(versions[1:], start=1):
        tax = mean_difference_interval(found.wrong[new], alone.wrong[new])
        rates = ", ".join(f"{tenths(alone.broke[new, old].mean())} against {versions[old]}" for old in range(new))
        notes.append(
            f"Classifier of {version}: error {tenths(found.wrong[new].mean())} %, {tenths(tax.mean, '+')} points "
            f"{ends(tax, 'difference')} over its paragon's. NFR in the chain of paragons, percent: {rates}."
        )
    return notes


def _search(query: Tensor, gallery: Tensor, labels: tuple[Tensor, Tensor]) -> dict[str, Values]:
    found = retrieval_per_query(query, gallery, *labels, k=[1], dimensions="shared")
    return {measure: found[measure].numpy() for measure in MEASURES}

"""``graceful bench experiment=bct_...``: several ways to search an old gallery with a new model, over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, open_dict
from rich.console import Console
from torch import Tensor

from lightning_graceful.experiment.by_sample import mean_by_sample
from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.experiment.finished import Finished, FinishedSeeds
from lightning_graceful.experiment.search_results import leave_draws, leave_search
from lightning_graceful.experiment.search_ways import Rows, Searched, SearchWay, Trial, labels_of, rows_of
from lightning_graceful.experiment.steps import Steps
from lightning_graceful.experiment.update import build_data, is_rank_zero, obtain_old, train_new
from lightning_graceful.functional.retrieval import retrieval_per_query
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.compatibility.results import intervals_of, way_of
from lightning_graceful.report.compatibility.summary import MEASURES, CompatibilitySummary, Way
from lightning_graceful.report.compatibility.words import measure_name, tenths

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
OLD, PARAGON = "old/old", "paragon"
CROSS, NATIVE, SHARED = "cross test", "self test", "shared self test"
_TEST, _SEPARATOR = "test", "\t"  # of names in a file
Tests = dict[tuple[str, str], Values]
"""What each query finds, by way or model and test: a row a measure, float64, shape ``(len(MEASURES), Q)``."""


class _Found(NamedTuple):
    # What a seed came to, a draw of classes, or all draws: query by query.
    name: str
    told: tuple[str, ...]
    gallery: int
    query: NDArray[np.int64]  # position in the dataset
    is_old: Mask  # whether the old model knows its class
    tests: Tests
    seconds: dict[str, float]

    def on_disk(self) -> Finished:
        tests = {_SEPARATOR.join((_TEST, *key)): values for key, values in self.tests.items()}
        about = {"name": self.name, "told": self.told, "gallery": self.gallery, "seconds": self.seconds}
        return Finished({"query": self.query, "is_old": self.is_old, **tests}, about)

    @classmethod
    def from_disk(cls, kept: Finished) -> "_Found":
        parts = {key: tuple(key.split(_SEPARATOR)) for key in kept.arrays}
        return cls(
            **{**kept.about, "told": tuple(kept.about["told"])},
            query=kept.arrays["query"],
            is_old=kept.arrays["is_old"],
            tests={(part[1], part[2]): kept.arrays[key] for key, part in parts.items() if part[0] == _TEST},
        )

    def measured(self, name: str, test: str) -> dict[str, Values]:
        return dict(zip(MEASURES, self.tests[name, test], strict=True))


class SearchBench:
    """Search the old gallery in every way, for each draw of held-out classes and each seed.

    Each query counts once: with the mean over the seeds that search with it, which are all of them, or one each where
    seeds test on images of their own, as those of digits do.

    Args:
        cfg: ``conf/bench.yaml`` with one of ``conf/experiment/bct_*``, composed. A way that is null is left out.
        directory: The run's folder.
        console: Where progress is told.

    Raises:
        ValueError: If there is no way, draw or seed, or no path of the embedding; or a way is none of searching, or two
            draws are one.
    """

    def __init__(self, cfg: DictConfig, directory: Path, console: Console) -> None:
        nodes = {str(name): node for name, node in (cfg.ways or {}).items() if node is not None}
        lists = isinstance(cfg.draws, ListConfig) and isinstance(cfg.seeds, ListConfig)
        if not nodes or not lists or not cfg.draws or not cfg.seeds or not cfg.embedding:
            raise ValueError(
                f"Expected ways, lists of draws and seeds, and the path of the embedding, got {list(nodes)}, "
                f"{cfg.draws}, {cfg.seeds} and {cfg.embedding}."
            )
        if not cfg.minimum_gap >= 0:
            raise ValueError(f"Expected minimum_gap of at least 0, got {cfg.minimum_gap}. 0.05 is 5 points.")
        self._cfg = cfg
        self._title = str(cfg.title)
        self._draws = _distinct(cfg.draws)
        self._ways = {name: _way_of(name, node) for name, node in nodes.items()}
        self._directory = directory
        self._finished = FinishedSeeds(cfg, directory)
        self._steps = Steps(console, len(self._draws) * len(cfg.seeds) * self._steps_a_seed)

    @property
    def _steps_a_seed(self) -> int:
        return len(self._ways) + 2

    def run(self) -> dict[str, CompatibilitySummary]:
        """Run everything.

        Returns:
            By draw of held-out classes what its queries came to; under ``"all draws"`` all queries together.
        """
        draws = [_over_seeds([self._obtain(draw, int(number)) for number in self._cfg.seeds]) for draw in self._draws]
        found = {draw.name: self._summary(draw, _by_class(draw)) for draw in draws}
        if len(draws) > 1:
            found["all draws"] = self._summary(_joined(draws), _by_draw(draws))
        return found

    def _obtain(self, held_out: Sequence[int], seed: int) -> _Found:
        name = f"{_folder(held_out)}-seed{seed}"
        kept = self._finished.take(name)
        if kept is not None:
            found = _Found.from_disk(kept)
            self._steps.tell(f"{found.name}, seed {seed}: finished before", self._steps_a_seed)
            return found
        found = self._run_seed(held_out, seed)
        self._finished.keep(name, found.on_disk())
        return found

    def _run_seed(self, held_out: Sequence[int], seed: int) -> _Found:
        data = SearchDataModule(
            build_data(self._cfg, seed), held_out=held_out, old_classes=self._cfg.get("old_classes")
        )
        names = data.data.base.classes
        name = ", ".join(names[label] for label in held_out) or "all classes"
        trial = self._begin(data, name, seed)
        old, paragon = trial.old_rows, trial.paragon_rows
        labels = labels_of(trial.halves.query), labels_of(trial.halves.gallery)
        tests = {
            (OLD, NATIVE): _measured(old.query, old.gallery, labels),
            (PARAGON, NATIVE): _measured(paragon.query, paragon.gallery, labels),
        }
        seconds = {}
        for way, searcher in self._ways.items():
            self._steps.tell(f"{name}, seed {seed}: {way}")
            searched = searcher.search(way, trial)
            seconds[way] = searched.seconds
            tests |= {(way, test): values for test, values in _tests(searched, old, labels).items()}
        return _Found(
            name=name,
            told=_protocol(data, name, is_given="_target_" in self._cfg.old),
            gallery=len(labels[1]),
            query=np.asarray(trial.halves.query.indices, np.int64),
            is_old=np.isin(labels[0].numpy(), data.old_classes),
            tests=tests,
            seconds=seconds,
        )

    def _begin(self, data: SearchDataModule, name: str, seed: int) -> Trial:
        cfg = self._cfg.copy()
        with open_dict(cfg):
            cfg.num_classes, cfg.old_num_classes = len(data.new_classes), len(data.old_classes)
        directory = self._directory / _folder(data.held_out) / f"seed{seed}"
        halves = data.search_halves(cfg.stage, cfg.halves_seed)
        self._steps.tell(f"{name}, seed {seed}: old model")
        old = obtain_old(cfg, data, directory, seed).to("cpu")
        self._steps.tell(f"{name}, seed {seed}: paragon")
        trained = train_new(cfg, cfg.paragon, data, old, directory, name="paragon", seed=seed)
        paragon = OldModel(trained.module.cpu(), embedding=cfg.embedding)
        rows = rows_of(old, halves), rows_of(paragon, halves)
        return Trial(cfg, data, halves, old, rows[0], paragon, trained.module, rows[1], directory, seed)

    def _summary(self, found: _Found, groups: Mapping[str, Mask]) -> CompatibilitySummary:
        cfg, old = self._cfg, found.measured(OLD, NATIVE)
        halves = f"Queries and gallery are disjoint halves of each seed's {cfg.stage} images"
        return CompatibilitySummary(
            title=f"{self._title}: {found.name}",
            protocol=(f"{halves} (halves_seed={cfg.halves_seed}).", *found.told),
            queries=len(found.query),
            gallery=found.gallery,
            seeds=len(cfg.seeds),
            old_self_test=intervals_of(old),
            paragon_self_test=intervals_of(found.measured(PARAGON, NATIVE)),
            ways=tuple(self._way(name, found, groups) for name in self._ways),
            notes=tuple(
                f"Old/old, {group}: "
                + ", ".join(f"{measure_name(one)} {tenths(values[mask].mean())}" for one, values in old.items())
                + "."
                for group, mask in groups.items()
            ),
        )

    def _way(self, name: str, found: _Found, groups: Mapping[str, Mask]) -> Way:
        return way_of(
            name,
            cross_test=found.measured(name, CROSS),
            self_test=found.measured(name, NATIVE),
            shared_self_test=found.measured(name, SHARED),
            old_self_test=found.measured(OLD, NATIVE),
            paragon_self_test=found.measured(PARAGON, NATIVE),
            detail=self._ways[name].detail,
            groups=groups,
            train_seconds=found.seconds[name],
            minimum_gap=self._cfg.minimum_gap,
        )


def run(cfg: DictConfig, directory: Path, console: Console) -> None:
    """Run the bench and leave tables, JSON and page.

    Args:
        cfg: The job's config.
        directory: The run's folder.
        console: Where to print.
    """
    found = SearchBench(cfg, directory, console).run()
    if is_rank_zero():
        whole = list(found.values())[-1]
        if len(found) > 1:
            leave_draws(found, directory, console)
        leave_search(whole, directory, console)


def _way_of(name: str, node: Any) -> SearchWay:
    # Losses stay configs: they are made anew for each training.
    way = instantiate(node, _recursive_="terms" not in node, _convert_="partial")
    if not isinstance(way, SearchWay):
        raise ValueError(
            f"Expected the way {name!r} to be one of experiment.search_ways, got {type(way).__name__}. Choose ways=bct."
        )
    return way


def _folder(held_out: Sequence[int]) -> str:
    return "-".join(map(str, held_out)) or "closed"


def _distinct(draws: ListConfig) -> list[tuple[int, ...]]:
    if not all(isinstance(draw, ListConfig) for draw in draws):
        raise ValueError(f"Expected draws as lists of labels, got {draws}: draws=[[0,8,9]] is one draw of three.")
    found = [tuple(sorted(int(label) for label in draw)) for draw in draws]
    if len(set(found)) < len(found):
        raise ValueError(f"Expected each draw of held-out classes once, got {draws}.")
    return found


def _protocol(data: SearchDataModule, name: str, *, is_given: bool) -> tuple[str, ...]:
    names = data.data.base.classes
    known = ", ".join(names[label] for label in data.old_classes)
    return (
        "The old model was given."
        if is_given
        else f"The old model saw {data.old_fraction:.0%} of the training samples of the classes it knows.",
        *([f"The old model knows: {known}."] if data.old_classes != data.new_classes else []),
        f"Held out of both trainings, and searched: {name}."
        if data.held_out
        else "All classes are trained on and searched.",
    )


def _tests(searched: Searched, old: Rows, labels: tuple[Tensor, Tensor]) -> dict[str, Values]:
    shared, native = searched.shared, searched.native
    own = _measured(shared.query, shared.gallery, labels)
    return {
        CROSS: _measured(shared.query, old.gallery, labels),
        NATIVE: own if native is shared else _measured(native.query, native.gallery, labels),
        SHARED: own,
    }


def _measured(query: Tensor, gallery: Tensor, labels: tuple[Tensor, Tensor]) -> Values:
    found = retrieval_per_query(query, gallery, *labels, k=[1], dimensions="shared")
    return np.stack([found[measure].numpy() for measure in MEASURES])


def _over_seeds(seeds: Sequence[_Found]) -> _Found:
    # A column a query: the mean over the seeds that searched with it.
    ids = [seed.query for seed in seeds]
    query, first = np.unique(np.concatenate(ids), return_index=True)
    return seeds[0]._replace(
        query=query,
        is_old=np.concatenate([seed.is_old for seed in seeds])[first],
        tests={key: mean_by_sample(ids, [seed.tests[key] for seed in seeds]) for key in seeds[0].tests},
        seconds={way: sum(seed.seconds[way] for seed in seeds) for way in seeds[0].seconds},
    )


def _joined(draws: Sequence[_Found]) -> _Found:
    # The queries of all draws side by side.
    query = np.concatenate([draw.query for draw in draws])
    again = len(query) - len(np.unique(query))
    return _Found(
        name=f"{len(draws)} draws of held-out classes",
        told=(
            *draws[0].told[:-1],
            "Held out of both trainings, and searched: one draw of classes at a time.",
            *([f"{again:,} queries are images of an earlier draw's; intervals take them as others."] if again else []),
        ),
        gallery=sum(draw.gallery for draw in draws),
        query=query,
        is_old=np.concatenate([draw.is_old for draw in draws]),
        tests={key: np.concatenate([draw.tests[key] for draw in draws], axis=1) for key in draws[0].tests},
        seconds={way: sum(draw.seconds[way] for draw in draws) for way in draws[0].seconds},
    )


def _by_class(draw: _Found) -> dict[str, Mask]:
    if draw.is_old.all() or not draw.is_old.any():
        return {}
    return {"old classes": draw.is_old, "new classes": ~draw.is_old}


def _by_draw(draws: Sequence[_Found]) -> dict[str, Mask]:
    place = np.repeat(np.arange(len(draws)), [len(draw.query) for draw in draws])
    return {draw.name: place == number for number, draw in enumerate(draws)}

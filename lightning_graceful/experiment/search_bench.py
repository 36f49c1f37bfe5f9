"""``graceful bench experiment=bct_...``: several ways to search an old gallery with a new model, over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, open_dict
from rich.console import Console
from torch import Tensor

from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.experiment.search_results import leave_draws, leave_search
from lightning_graceful.experiment.search_ways import Rows, Searched, SearchWay, Trial, labels_of, rows_of
from lightning_graceful.experiment.update import build_data, is_rank_zero, obtain_old, train_new
from lightning_graceful.functional.retrieval import retrieval_per_query
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.compatibility.results import intervals_of, way_of
from lightning_graceful.report.compatibility.summary import MEASURES, CompatibilitySummary, Way

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = tuple[Tensor, Tensor]  # of queries and gallery
Measured = Mapping[str, Values]  # by measure, each query's value
OLD, PARAGON = "old/old", "paragon"


class _Tests(NamedTuple):
    cross: Measured
    native: Measured
    shared: Measured


class _Draw(NamedTuple):
    # What all seeds of one draw of classes came to: by way (or model), one entry a seed.
    name: str
    sizes: tuple[int, int]
    own: dict[str, list[Measured]]
    ways: dict[str, list[_Tests]]
    is_old: Mask


class SearchBench:
    """Search the old gallery in every way, for each draw of held-out classes and each seed.

    Args:
        cfg: ``conf/bench.yaml`` with one of ``conf/experiment/bct_*``, composed.
        directory: The run's folder.
        console: Where progress is told.

    Raises:
        ValueError: If there is no way, draw or seed, or no path of the embedding.
    """

    def __init__(self, cfg: DictConfig, directory: Path, console: Console) -> None:
        if not cfg.ways or not cfg.draws or not cfg.seeds or not cfg.embedding:
            raise ValueError(
                f"Expected ways, draws, seeds and the path of the embedding, got {list(cfg.ways or ())}, "
                f"{cfg.draws}, {cfg.seeds} and {cfg.embedding}."
            )
        self._cfg = cfg
        self._directory = directory
        self._console = console
        # Losses stay configs: they are made anew for each training.
        self._ways: dict[str, SearchWay] = {
            str(name): instantiate(node, _recursive_=_is_fitted(node), _convert_="partial")
            for name, node in cfg.ways.items()
        }
        self._seconds = dict.fromkeys(self._ways, 0.0)
        self._done = 0
        self._total = len(cfg.draws) * len(cfg.seeds) * (len(self._ways) + 2)

    def run(self) -> dict[str, CompatibilitySummary]:
        """Run everything.

        Returns:
            By draw of held-out classes what its queries came to; under ``"all draws"`` all queries together.
        """
        draws = [self._run_draw([int(label) for label in draw]) for draw in self._cfg.draws]
        found = {draw.name: self._summary(draw) for draw in draws}
        if len(draws) > 1:
            found["all draws"] = self._summary(_joined(draws), groups=_queries_by_draw(draws))
        return found

    def _run_draw(self, held_out: Sequence[int]) -> _Draw:
        draw: _Draw | None = None
        for number in self._cfg.seeds:
            seed = int(number)
            data = SearchDataModule(
                build_data(self._cfg, seed), held_out=held_out, old_classes=self._cfg.get("old_classes")
            )
            name = ", ".join(data.data.base.classes[label] for label in held_out) or "all classes"
            trial = self._begin(data, held_out, seed)
            labels = labels_of(trial.halves.query), labels_of(trial.halves.gallery)
            if draw is None:
                is_old = np.isin(labels[0].numpy(), data.old_classes)
                own: dict[str, list[Measured]] = {OLD: [], PARAGON: []}
                draw = _Draw(name, (len(labels[0]), len(labels[1])), own, {way: [] for way in self._ways}, is_old)
            draw.own[OLD].append(_measured(trial.old_rows.query, trial.old_rows.gallery, labels))
            draw.own[PARAGON].append(_measured(trial.paragon_rows.query, trial.paragon_rows.gallery, labels))
            for way, searcher in self._ways.items():
                self._tell(f"{name}, seed {seed}: {way}")
                searched = searcher.search(way, trial)
                self._seconds[way] += searched.seconds
                draw.ways[way].append(_tests(searched, trial.old_rows, labels))
        assert draw is not None
        return draw

    def _begin(self, data: SearchDataModule, held_out: Sequence[int], seed: int) -> Trial:
        cfg = self._cfg.copy()
        with open_dict(cfg):
            cfg.num_classes, cfg.old_num_classes = len(data.new_classes), len(data.old_classes)
        directory = self._directory / f"{'-'.join(map(str, held_out)) or 'closed'}" / f"seed{seed}"
        halves = data.search_halves(cfg.stage, cfg.halves_seed)
        self._tell(f"seed {seed}: old model")
        old = obtain_old(cfg, data, directory, seed).to("cpu")
        self._tell(f"seed {seed}: paragon")
        trained = train_new(cfg, cfg.paragon, data, old, directory, name="paragon", seed=seed)
        paragon = OldModel(trained.module.cpu(), embedding=cfg.embedding)
        rows = rows_of(old, halves), rows_of(paragon, halves)
        return Trial(cfg, data, halves, old, rows[0], paragon, trained.module, rows[1], directory, seed)

    def _summary(self, draw: _Draw, groups: Mapping[str, Mask] | None = None) -> CompatibilitySummary:
        old, paragon = (_stacked(draw.own[name]) for name in (OLD, PARAGON))
        ways = tuple(self._way(name, draw, old, paragon, groups) for name in self._ways)
        cfg = self._cfg
        protocol = (
            f"Queries and gallery are disjoint halves of the {cfg.stage} images (halves_seed={cfg.halves_seed}).",
            f"The old model saw {cfg.data.old_fraction:.0%} of the training samples of the classes it knows.",
            "Held out of both trainings, and searched: " + draw.name + "."
            if draw.name != "all classes"
            else "All classes are trained on and searched.",
        )
        return CompatibilitySummary(
            title=f"{cfg.title}: {draw.name}",
            protocol=protocol,
            queries=draw.sizes[0],
            gallery=draw.sizes[1],
            seeds=len(cfg.seeds),
            old_self_test=intervals_of(old),
            paragon_self_test=intervals_of(paragon),
            ways=ways,
        )

    def _way(self, name: str, draw: _Draw, old: Measured, paragon: Measured, groups: Mapping[str, Mask] | None) -> Way:
        tests = [_stacked([getattr(test, part) for test in draw.ways[name]]) for part in _Tests._fields]
        split = {"old classes": draw.is_old, "new classes": ~draw.is_old} if draw.is_old.any() else {}
        if draw.is_old.all():
            split = {}
        return way_of(
            name,
            cross_test=tests[0],
            self_test=tests[1],
            shared_self_test=tests[2],
            old_self_test=old,
            paragon_self_test=paragon,
            detail=self._ways[name].detail,
            groups=groups or split,
            train_seconds=self._seconds[name],
            minimum_gap=self._cfg.minimum_gap,
        )

    def _tell(self, words: str) -> None:
        self._done += 1
        self._console.print(f"[{self._done:>3}/{self._total}] {words}", markup=False, highlight=False)


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


def _is_fitted(node: DictConfig) -> bool:
    return "terms" not in node


def _tests(searched: Searched, old: Rows, labels: Labels) -> _Tests:
    shared, native = searched.shared, searched.native
    own = _measured(shared.query, shared.gallery, labels)
    return _Tests(
        _measured(shared.query, old.gallery, labels),
        own if native is shared else _measured(native.query, native.gallery, labels),
        own,
    )


def _measured(query: Tensor, gallery: Tensor, labels: Labels) -> Measured:
    found = retrieval_per_query(query, gallery, *labels, k=[1], dimensions="shared")
    return {measure: found[measure].numpy() for measure in MEASURES}


def _stacked(parts: Sequence[Measured]) -> Measured:
    return {measure: np.stack([part[measure] for part in parts]) for measure in MEASURES}


def _joined(draws: Sequence[_Draw]) -> _Draw:
    # The queries of all draws side by side: seed k of each is seed k of the whole.
    def joined(parts: Sequence[Measured]) -> Measured:
        return {measure: np.concatenate([part[measure] for part in parts]) for measure in MEASURES}

    seeds = range(len(draws[0].own[OLD]))
    own = {name: [joined([draw.own[name][seed] for draw in draws]) for seed in seeds] for name in (OLD, PARAGON)}
    ways = {
        way: [
            _Tests(*(joined([getattr(draw.ways[way][seed], part) for draw in draws]) for part in _Tests._fields))
            for seed in seeds
        ]
        for way in draws[0].ways
    }
    sizes = sum(draw.sizes[0] for draw in draws), sum(draw.sizes[1] for draw in draws)
    return _Draw(f"{len(draws)} draws of held-out classes", sizes, own, ways, np.concatenate([d.is_old for d in draws]))


def _queries_by_draw(draws: Sequence[_Draw]) -> dict[str, Mask]:
    place = np.repeat(np.arange(len(draws)), [draw.sizes[0] for draw in draws])
    return {draw.name: place == number for number, draw in enumerate(draws)}

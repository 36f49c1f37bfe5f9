"""``graceful evaluate``: how two or more checkpoints search each other's galleries, and what an update changes."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, open_dict
from rich.console import Console

from lightning_graceful.callbacks.compatibility_charts import log_compatibility
from lightning_graceful.experiment.datamodules import UpdateDataModule
from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.experiment.datamodules.update import base_of
from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.search_results import leave_search
from lightning_graceful.experiment.search_ways import Rows, labels_of
from lightning_graceful.experiment.searchpath import conf_dir
from lightning_graceful.experiment.update import prepare_process
from lightning_graceful.experiment.update_effects import Update, curves, downstream, flips, pictured
from lightning_graceful.experiment.versions import Chain, Version, build_version, build_versions, embed
from lightning_graceful.functional.compatibility import average_compatibility
from lightning_graceful.functional.retrieval import retrieval_per_query
from lightning_graceful.report.compatibility.results import intervals_of, way_of
from lightning_graceful.report.compatibility.summary import CompatibilitySummary, LostQuery, Matrix, Way
from lightning_graceful.report.compatibility.words import UNKNOWN

PerQuery = dict[str, NDArray[np.float64]]


class Evaluation:
    """Embed queries and gallery once a model, and measure all that is told of them.

    Args:
        cfg: ``conf/evaluate.yaml``, composed.
        console: Where progress is told.

    Raises:
        ValueError: If the config, the data or a model is not as said there.
        FileNotFoundError: If a file is missing.
    """

    def __init__(self, cfg: DictConfig, console: Console) -> None:
        self._console = console
        self._k = sorted({1, *(int(length) for length in cfg.k)})
        self._told = ["map", "map_at_r", *(f"recall_at_{length}" for length in self._k)]
        self._check(cfg)
        data = instantiate(cfg.data, _convert_="all")
        if not isinstance(data, UpdateDataModule):
            raise ValueError(f"Expected data of an UpdateDataModule, got {type(data).__name__}.")
        self._data = SearchDataModule(data, held_out=list(cfg.held_out))
        self._halves = self._data.search_halves(
            cfg.stage, cfg.halves_seed, classes=None if cfg.searched is None else list(cfg.searched)
        )
        self._base = base_of(self._halves.query)
        self._labels = labels_of(self._halves.query), labels_of(self._halves.gallery)
        self._cfg = cfg.copy()
        with open_dict(self._cfg):
            self._cfg.num_classes = len(self._data.new_classes) if cfg.num_classes is None else cfg.num_classes
        self._versions = build_versions(self._cfg)
        self._paragon = build_version(self._cfg, "paragon", self._cfg.paragon) if self._cfg.paragon else None
        self._kmeans = instantiate(cfg.clusters, _convert_="all") if cfg.clusters else None
        orders = cfg.backfill.orders if cfg.backfill else {}
        self._orders = {str(name): instantiate(node, _convert_="all") for name, node in orders.items()}

    def run(self) -> CompatibilitySummary:
        """Measure everything.

        Returns:
            The evaluation.

        Raises:
            ValueError: If embeddings are not finite, or the newest model and its predecessor share no space.
        """
        chain = Chain(self._versions, [self._embed(version) for version in self._versions], self._cfg.dimensions)
        paragon = None
        if self._paragon is not None:
            rows = self._embed(self._paragon)
            paragon = self._told_of(self._search(rows.query, rows.gallery))
        self._tell("search")
        matrix, old, ways = self._all_pairs(chain, paragon)
        self._tell("update")
        return self._summary(chain, matrix, old, paragon, ways)

    def _check(self, cfg: DictConfig) -> None:
        # What would be refused later, after everything was embedded.
        lengths = [f"{kind}_at_{length}" for kind in ("recall", "precision") for length in self._k]
        known = ["map", "map_at_r", "r_precision", *lengths]
        if cfg.measure not in known:
            raise ValueError(
                f"Expected measure among {', '.join(known)}, got {cfg.measure!r}. Set k for other lengths."
            )
        for name, value, allowed in (
            ("distance", cfg.distance, ["cosine", "l2"]),
            ("dimensions", cfg.dimensions, [None, "shared", "padded"]),
            ("device", cfg.device, ["auto", "cpu", "cuda"]),
            ("flips.gallery", cfg.flips.gallery if cfg.flips else "old", ["old", "new"]),
        ):
            if value not in allowed:
                raise ValueError(f"Expected {name} to be one of {allowed}, got {value!r}.")

    def _embed(self, version: Version) -> Rows:
        self._tell(f"embed {version.name}")
        is_cuda = self._cfg.device == "cuda" or (self._cfg.device == "auto" and torch.cuda.is_available())
        loaders = [self._data.loader(half) for half in self._halves]
        return embed(version, loaders, torch.device("cuda" if is_cuda else "cpu"), self._console)

    def _tell(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False)

    def _search(self, query: torch.Tensor, gallery: torch.Tensor) -> PerQuery:
        found = retrieval_per_query(query, gallery, *self._labels, k=self._k, **self._options)
        return {measure: values.numpy() for measure, values in found.items()}

    def _told_of(self, found: PerQuery) -> PerQuery:
        return {measure: found[measure] for measure in self._told}

    @property
    def _options(self) -> dict[str, Any]:
        return {"distance": self._cfg.distance, "dimensions": self._cfg.dimensions}

    def _all_pairs(self, chain: Chain, paragon: PerQuery | None) -> tuple[Matrix, PerQuery, list[Way]]:
        # Each pair is searched once; of each query is kept what the ways need.
        count = len(self._versions)
        values = np.full((count, count), np.nan)
        cross: dict[int, PerQuery] = {}
        own: dict[int, PerQuery] = {}
        for i in range(count):
            for j in range(count):
                space = min(i, j)
                if not chain.can_compare(max(i, j), space):
                    continue
                found = self._search(chain.in_space(i, space).query, chain.in_space(j, space).gallery)
                values[i, j] = np.nanmean(found[self._cfg.measure])
                if j == 0:
                    cross[i] = self._told_of(found)
                if i == j:
                    own[i] = self._told_of(found)
        ways = [self._way(chain, number, cross, own, paragon) for number in cross if number]
        names = tuple(version.name for version in self._versions)
        average = average_compatibility(torch.from_numpy(values)).item()
        return Matrix(self._cfg.measure, names, values, average), own[0], ways

    def _way(
        self, chain: Chain, number: int, cross: dict[int, PerQuery], own: dict[int, PerQuery], paragon: PerQuery | None
    ) -> Way:
        shared = None
        if not chain.is_same_space(number, 0):
            rows = chain.in_space(number, 0)
            shared = self._told_of(self._search(rows.query, rows.gallery))
        version = self._versions[number]
        way = way_of(
            version.name,
            cross_test=cross[number],
            self_test=own[number],
            shared_self_test=shared,
            old_self_test=own[0],
            paragon_self_test=paragon,
            detail=version.detail,
            minimum_gap=self._cfg.minimum_gap,
        )
        # The paragon is the newest model's: less an older one it would count progress as a price.
        is_newest = number == len(self._versions) - 1
        return way if is_newest else replace(way, tax=dict.fromkeys(way.tax, UNKNOWN))

    def _summary(
        self, chain: Chain, matrix: Matrix, old: PerQuery, paragon: PerQuery | None, ways: list[Way]
    ) -> CompatibilitySummary:
        cfg, newest = self._cfg, len(self._versions) - 1
        before, after = self._versions[-2:]
        update = Update(before, after, chain.rows[-2], chain.in_space(newest, newest - 1), self._labels, self._options)
        lost, notes = self._flips(update) if cfg.flips else ([], [])
        stands, lacking = downstream(update, cfg, self._kmeans, self._base)
        drawn = curves(update, cfg, self._orders, self._k)
        missing = [name for name in self._orders if name not in {curve.name for curve in drawn}]
        if missing:
            lacking.append(f"No backfill in the order {', '.join(missing)}: {before.name} was given no classifier.")
        kind = type(self._data.data).__name__.removesuffix("DataModule")
        names = [version.name for version in self._versions]
        whom = f"{after.name} against {before.name}" if len(names) == 2 else f"{len(names)} versions"
        return CompatibilitySummary(
            title=cfg.title or f"{kind}: {whom}",
            protocol=tuple(self._protocol(chain)),
            queries=len(self._labels[0]),
            gallery=len(self._labels[1]),
            seeds=1,
            old_self_test=intervals_of(old),
            paragon_self_test=None if paragon is None else intervals_of(paragon),
            ways=tuple(ways),
            matrix=matrix,
            curves=tuple(drawn),
            downstream=tuple(stands),
            flips=tuple(lost),
            images=self._pictures(lost),
            notes=(*notes, *lacking, *self._notes(chain)),
        )

    def _protocol(self, chain: Chain) -> Iterator[str]:
        cfg, searched = self._cfg, torch.unique(self._labels[0]).tolist()
        of = "all classes" if len(searched) == len(self._base.classes) else self._named(searched)
        yield (
            f"Queries and gallery are disjoint halves of the {cfg.stage} images of {of} "
            f"(halves_seed={cfg.halves_seed})."
        )
        if cfg.held_out:
            yield f"Said to be held out of all trainings: {self._named(cfg.held_out)}."
        known = [
            f"{version.name} ({chain.width(number)} dimensions{', ' if version.detail else ''}{version.detail})"
            for number, version in enumerate(self._versions)
        ]
        yield f"Versions, oldest first: {', '.join(known)}. Each is compared in the space of the older of two."
        before, after = (version.name for version in self._versions[-2:])
        yield (
            f"Old/old is {self._versions[0].name}. Backfill, flips and what is built on old embeddings: {after} in the "
            f"place of {before}."
        )

    def _named(self, labels: Sequence[int]) -> str:
        names = [self._base.classes[label] for label in labels]
        return ", ".join(names) if len(names) <= 12 else f"{len(names)} classes"

    def _notes(self, chain: Chain) -> Iterator[str]:
        for number, version in enumerate(self._versions):
            strangers = [self._versions[old].name for old in range(number) if not chain.can_compare(number, old)]
            if strangers:
                yield f"{version.name} shares no space with {', '.join(strangers)}: their widths differ."
        if len(self._versions) > 2 and self._paragon is not None:
            yield f"The paragon is that of {self._versions[-1].name}: there is no tax of older versions."

    def _flips(self, update: Update) -> tuple[list[LostQuery], list[str]]:
        ids = np.asarray(self._halves.query.indices), np.asarray(self._halves.gallery.indices)
        found, sentence = flips(update, ids, self._base.classes, self._cfg)
        return found, [sentence]

    def _pictures(self, lost: Sequence[LostQuery]) -> dict[str, str]:
        try:
            from lightning_graceful.report.thumbnails import data_uri
        except ModuleNotFoundError:
            return {}
        wanted = pictured(lost, self._cfg.flips.pictures) if self._cfg.flips else []
        return {key: data_uri(self._base.images[int(key)].numpy()) for key in wanted}


def evaluate(cfg: DictConfig, directory: Path) -> CompatibilitySummary:
    """Evaluate the models of a config, and leave table, JSON, Markdown and page; in W&B the same where it is asked for.

    Args:
        cfg: ``conf/evaluate.yaml``, composed.
        directory: The run's folder.

    Returns:
        The evaluation.
    """
    console = Console()
    prepare_process(cfg)
    summary = Evaluation(cfg, console).run()
    leave_search(summary, directory, console)
    if "wandb" in (cfg.logger or {}):
        _log(cfg, summary, directory)
    return summary


def _log(cfg: DictConfig, summary: CompatibilitySummary, directory: Path) -> None:
    if importlib.util.find_spec("wandb") is None:
        Console(stderr=True).print("No W&B run: wandb is not installed (pip install wandb).")
        return
    run = instantiate(cfg.logger.wandb, save_dir=str(directory), name=summary.title, _convert_="all").experiment
    log_compatibility(run, summary, stage=cfg.stage)
    run.finish()


def _as_addition(argument: str) -> str:
    # models.v1.checkpoint=FILE names a model that no config knows: to Hydra that is ++models.v1.checkpoint=FILE.
    return f"++{argument}" if argument.startswith(("models.", "models=", "paragon.", "paragon=")) else argument


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="evaluate")
@reported
def run(cfg: DictConfig) -> None:
    """Run the job in the folder that Hydra gives it."""
    evaluate(cfg, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Let models be named on the command line as they are, and run the job."""
    sys.argv[1:] = [_as_addition(argument) for argument in sys.argv[1:]]
    run()

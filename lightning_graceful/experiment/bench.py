"""``graceful bench``: several ways to train the successor of one old model, over seeds, in one table and one page."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from lightning_graceful.experiment.datamodules import UpdateDataModule
from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.finished import Finished, FinishedSeeds, told_how_to_go_on
from lightning_graceful.experiment.gate import question_of
from lightning_graceful.experiment.predictions import Answers, answers, pooled
from lightning_graceful.experiment.results import Found, Way, leave
from lightning_graceful.experiment.searchpath import conf_dir
from lightning_graceful.experiment.steps import Steps
from lightning_graceful.experiment.update import (
    Trained,
    build_data,
    is_rank_zero,
    obtain_old,
    prepare_process,
    train_new,
)
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.words import percent

PLAIN = "plain"
AGAIN = "plain again"
OLD = "old model"
OTHER_SEED = 1000  # between the two plain runs whose flips are the noise floor


class _Seed(NamedTuple):
    number: int
    data: UpdateDataModule
    old: OldModel
    directory: Path


class Bench:
    """Train every way on every seed; test data are read once, after all choices are made on validation data.

    Args:
        cfg: ``conf/bench.yaml``, composed.
        directory: The run's folder.
        console: Where progress is told.

    Raises:
        ValueError: If there is no plain way, no other way, or no seed.
    """

    def __init__(self, cfg: DictConfig, directory: Path, console: Console) -> None:
        self._ways = list(cfg.ways)
        if PLAIN not in self._ways or not cfg.seeds:
            raise ValueError(
                f"Expected a way named {PLAIN!r} and at least one seed, got {self._ways} and {list(cfg.seeds)}."
            )
        self._cfg = cfg
        question_of(cfg.gate)  # a rule that makes no sense is refused before anything is trained
        self._directory = directory
        self._grid = [float(weight) for weight in cfg.select.grid or []]
        self._weights: dict[str, float] = {}
        self._tried: list[str] = []
        self._seconds = dict.fromkeys(self._ways, 0.0)
        self._said: dict[str, list[Answers]] = {name: [] for name in [OLD, *self._ways, AGAIN]}
        self._plain_val: dict[str, float] = {}
        chooses = {"the seed that weights are chosen on": int(cfg.seeds[0])} if self._grid else {}
        self._finished = FinishedSeeds(cfg, directory, chooses)
        selecting = (len(self._ways) - 1) * (len(self._grid) - 1) if self._grid else 0
        self._steps = Steps(console, len(cfg.seeds) * (len(self._ways) + 2) + selecting)

    def run(self) -> Found:
        """Run everything.

        Returns:
            What all ways, plain training first, said of the test samples, pooled over seeds.
        """
        for number in self._cfg.seeds:
            self._obtain(int(number))
        data = build_data(self._cfg, int(self._cfg.seeds[0]))
        said = {name: pooled(parts) for name, parts in self._said.items()}
        order = [PLAIN, *(name for name in self._ways if name != PLAIN)]
        return Found(
            title=f"{_name(data)}: ways to train the new model, {len(self._cfg.seeds)} seeds",
            data=data.base,
            old=said[OLD],
            ways=[Way(name, said[name], self._seconds[name], self._detail(name)) for name in order],
            again=said[AGAIN],
            notes=self._notes(data),
        )

    def _obtain(self, number: int) -> None:
        kept = self._finished.take(f"seed{number}")
        if kept is not None:
            self._steps.tell(f"seed {number}: finished before", int(kept.about["steps"]))
            self._take(kept)
            return
        before, steps = dict(self._seconds), self._steps.done
        self._run_seed(self._begin(number))
        self._finished.keep(f"seed{number}", self._seed_on_disk(before, self._steps.done - steps))

    def _seed_on_disk(self, seconds_before: Mapping[str, float], steps: int) -> Finished:
        columns = {
            f"{name}\t{field}": column
            for name, said in self._said.items()
            for field, column in said[-1]._asdict().items()
        }
        seconds = {name: value - seconds_before[name] for name, value in self._seconds.items()}
        about = {"seconds": seconds, "weights": self._weights, "tried": self._tried, "steps": steps}
        return Finished(columns, about)

    def _take(self, kept: Finished) -> None:
        for name, said in self._said.items():
            said.append(Answers(*(kept.arrays[f"{name}\t{field}"] for field in Answers._fields)))
        for name, seconds in kept.about["seconds"].items():
            self._seconds[name] += seconds
        self._weights, self._tried = dict(kept.about["weights"]), list(kept.about["tried"])

    def _run_seed(self, seed: _Seed) -> None:
        self._ask(seed, OLD, seed.old.to("cpu"))
        for name in [PLAIN, *(name for name in self._ways if name != PLAIN)]:
            is_open = self._grid and name != PLAIN and name not in self._weights
            trained = self._select(seed, name) if is_open else self._train(seed, name)
            if name == PLAIN:
                self._plain_val = trained.val
            self._seconds[name] += trained.seconds
            self._ask(seed, name, trained.module.cpu())
        self._ask(seed, AGAIN, self._train(seed, AGAIN).module.cpu())

    def _ask(self, seed: _Seed, name: str, model: OldModel | nn.Module) -> None:
        self._said[name].append(answers(model, seed.data.test_dataloader(), seed=seed.number))

    def _begin(self, number: int) -> _Seed:
        directory = self._directory / f"seed{number}"
        self._steps.tell(f"seed {number}: old model")
        data = build_data(self._cfg, number)
        return _Seed(number, data, obtain_old(self._cfg, data, directory, number), directory)

    def _train(self, seed: _Seed, name: str, weight: float | None = None) -> Trained:
        weight = self._weights.get(name) if weight is None else weight
        tried = "" if weight is None else f", weight {weight:g}"
        self._steps.tell(f"seed {seed.number}: {name}{tried}")
        losses = copy.deepcopy(self._cfg.ways[PLAIN if name == AGAIN else name])
        if weight is not None:
            losses.weights = dict.fromkeys(losses.terms, weight)
        number = seed.number + (OTHER_SEED if name == AGAIN else 0)
        run = f"{name} {weight:g}" if weight is not None else name
        return train_new(
            self._cfg, losses, seed.data, seed.old, seed.directory, name=run.replace(" ", "_"), seed=number
        )

    def _select(self, seed: _Seed, name: str) -> Trained:
        # Choose a weight on validation data: the lowest NFR at a bearable price in error, else the least error.
        allowed = self._plain_val["val/error_new"] + self._cfg.select.max_error_increase
        tried = {weight: self._train(seed, name, weight) for weight in self._grid}

        def harm(weight: float) -> tuple[bool, float]:
            val = tried[weight].val
            is_bearable = val["val/error_new"] <= allowed
            return not is_bearable, val["val/nfr"] if is_bearable else val["val/error_new"]

        self._weights[name] = min(tried, key=harm)
        figures = (
            f"{weight:g}: {percent(trained.val['val/nfr'])}, {percent(trained.val['val/error_new'])}"
            for weight, trained in tried.items()
        )
        plain = f"{percent(self._plain_val['val/nfr'])}, {percent(self._plain_val['val/error_new'])}"
        self._tried.append(f"{name}, validation NFR and error by weight (plain {plain}): {'; '.join(figures)}.")
        return tried[self._weights[name]]

    def _detail(self, name: str) -> str:
        weights = {self._weights[name]} if name in self._weights else set(self._cfg.ways[name].weights.values())
        return ", ".join(f"lambda {weight:g}" for weight in sorted(weights))

    def _notes(self, data: UpdateDataModule) -> list[str]:
        first = self._cfg.seeds[0]
        chosen = (
            f"Weights were chosen on the validation data of seed {first} from {self._grid}."
            if self._grid
            else "Weights are those of the config; none was chosen on these data."
        )
        return [
            f"The old model saw {data.old_fraction:.0%} of the training samples. {chosen}",
            *self._tried,
            "Time is the training of the new models; the first way with terms also computes the old outputs.",
        ]


def run(cfg: DictConfig, directory: Path, console: Console) -> None:
    """Run the bench of flips and leave table, JSON and page.

    Args:
        cfg: The job's config.
        directory: The run's folder.
        console: Where to print.
    """
    found = Bench(cfg, directory, console).run()
    if is_rank_zero():
        leave(found, directory, console, cfg.gate)


def _name(data: UpdateDataModule) -> str:
    return type(data).__name__.removesuffix("DataModule")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="bench")
@reported
def main(cfg: DictConfig) -> None:
    """Run the job in the folder that Hydra gives it."""
    prepare_process(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    job: Callable[[DictConfig, Path, Console], None] = instantiate(cfg.job, _partial_=True)
    with told_how_to_go_on(directory):
        job(cfg, directory, Console(quiet=not is_rank_zero()))

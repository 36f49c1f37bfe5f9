"""``graceful bench experiment=bct_chain_...``: v1 -> v2 -> v3 -> v4, each trained against its predecessor only."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, open_dict
from rich.console import Console
from torch.utils.data import Subset

from lightning_graceful.data.relabelled import Sample
from lightning_graceful.experiment.chain_results import (
    ChainFound,
    chains_from_disk,
    chains_on_disk,
    classifier_notes,
    matrix_of,
    over_seeds,
    search_chain,
    steps_of,
    ways_of,
)
from lightning_graceful.experiment.datamodules import UpdateDataModule
from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.experiment.finished import FinishedSeeds
from lightning_graceful.experiment.search_results import leave_search
from lightning_graceful.experiment.steps import Steps
from lightning_graceful.experiment.update import build_data, is_rank_zero, obtain_old, train_new
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.compatibility.results import intervals_of
from lightning_graceful.report.compatibility.summary import CompatibilitySummary
from lightning_graceful.report.compatibility.words import hundredths

ALONE = "independent"  # the chain of paragons: the same versions, trained without regard to each other
OTHER_SEED = 1000  # between versions: two of one size that begin alike end alike, without any term


class EarlierDataModule(UpdateDataModule):
    """Data of an earlier version: it is trained on what its successor's ``of_old()`` draws, and tested on the same.

    Args:
        successor: Data of the next version, whose ``old_fraction`` of samples this version is trained on.
        old_fraction: Share of these that the version before this one is trained on.

    Example:
        >>> from lightning_graceful.experiment.datamodules import DigitsDataModule
        >>> data = EarlierDataModule(DigitsDataModule(old_fraction=0.5), old_fraction=0.2)
        >>> [len(part) for part in (data.train_set, data.of_old().train_set, data.test_set)]
        [628, 125, 360]
    """

    def __init__(self, successor: UpdateDataModule, *, old_fraction: float) -> None:
        self.successor = successor
        super().__init__(
            seed=successor.seed,
            old_fraction=old_fraction,
            batch_size=successor.batch_size,
            num_workers=successor.num_workers,
        )

    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return what the successor leaves for this version, and the successor's validation and test samples."""
        return self.successor.of_old().train_set, self.successor.val_set, self.successor.test_set


class ChainBench:
    """Train a chain of versions in every way, and one without regard to each other, on each seed.

    Args:
        cfg: ``conf/bench.yaml`` with one of ``conf/experiment/bct_chain_*``, composed. A way that is null is
            left out.
        directory: The run's folder.
        console: Where progress is told.

    Raises:
        ValueError: If there is no way, seed or path of the embedding, not one draw of held-out classes, or the shares
            are not those of two or more versions.
    """

    def __init__(self, cfg: DictConfig, directory: Path, console: Console) -> None:
        ways = {str(name): node for name, node in (cfg.ways or {}).items() if node is not None}
        have_terms = bool(ways) and all("terms" in node for node in ways.values())
        if not have_terms or ALONE in ways or not cfg.seeds or len(cfg.draws) != 1 or not cfg.embedding:
            raise ValueError(
                f"Expected ways with terms, none named {ALONE!r}, seeds, one draw and the path of the embedding, got "
                f"{list(ways)}, {cfg.seeds}, {cfg.draws} and {cfg.embedding}. Take ways=chain."
            )
        self._shares = [float(share) for share in cfg.shares]
        if len(self._shares) < 2 or any(not 0 < early <= late <= 1 for early, late in pairwise(self._shares)):
            raise ValueError(
                f"Expected shares in (0, 1] that never fall, for two or more versions, got {self._shares}. Each "
                "version has seen what the one before it has."
            )
        self._cfg = cfg
        self._directory = directory
        self._versions = [f"v{number}" for number in range(1, 1 + len(self._shares))]
        self._losses: dict[str, DictConfig] = {ALONE: cfg.paragon, **ways}
        self._seconds = {name: [0.0] * len(self._shares) for name in self._losses}
        self._finished = FinishedSeeds(cfg, directory, {"draws": [int(label) for label in cfg.draws[0]]})
        self._steps_a_seed = 1 + len(self._losses) * (len(self._shares) - 1)
        self._steps = Steps(console, len(cfg.seeds) * self._steps_a_seed)

    def run(self) -> dict[str, CompatibilitySummary]:
        """Run everything.

        Returns:
            By chain what it came to; the first is that of the paragons.
        """
        seeds = [self._obtain(int(number)) for number in self._cfg.seeds]
        found = {name: over_seeds([seed[name] for seed in seeds]) for name in self._losses}
        return {name: self._summary(name, one, found[ALONE]) for name, one in found.items()}

    def _obtain(self, seed: int) -> dict[str, ChainFound]:
        kept = self._finished.take(f"seed{seed}")
        if kept is None:
            before = {name: list(seconds) for name, seconds in self._seconds.items()}
            found = self._run_seed(seed)
            spent = {name: (np.array(now) - before[name]).tolist() for name, now in self._seconds.items()}
            self._finished.keep(f"seed{seed}", chains_on_disk(found, spent))
            return found
        self._steps.tell(f"seed {seed}: finished before", self._steps_a_seed)
        for name, spent in kept.about["seconds"].items():
            self._seconds[name] = (np.array(self._seconds[name]) + spent).tolist()
        return chains_from_disk(kept)

    def _run_seed(self, seed: int) -> dict[str, ChainFound]:
        cfg = self._cfg.copy()
        with open_dict(cfg):
            cfg.data.old_fraction = self._shares[-1]
        whole = SearchDataModule(build_data(cfg, seed), held_out=list(cfg.draws[0]))
        with open_dict(cfg):
            cfg.num_classes = cfg.old_num_classes = len(whole.new_classes)
        parts = earlier_data(whole, self._shares)
        directory = self._directory / f"seed{seed}"
        self._steps.tell(f"seed {seed}: {self._versions[0]}")
        first = obtain_old(cfg, parts[0], directory, seed).to("cpu")
        chains = {name: [first] for name in self._losses}
        for number, data in enumerate(parts, start=1):
            for name, models in chains.items():
                self._steps.tell(f"seed {seed}: {self._versions[number]}, {name}")
                trained = train_new(
                    cfg, self._losses[name], data, models[-1], directory / _folder(name),
                    name=self._versions[number], seed=seed + number * OTHER_SEED,
                )  # fmt: skip
                self._seconds[name][number] += trained.seconds
                models.append(OldModel(trained.module.cpu(), embedding=cfg.embedding, classifier=cfg.classifier))
        halves = whole.search_halves(cfg.stage, cfg.halves_seed)
        loader = whole.test_dataloader() if cfg.stage == "test" else whole.val_dataloader()
        return {name: search_chain(models, halves, loader) for name, models in chains.items()}

    def _summary(self, name: str, found: ChainFound, alone: ChainFound) -> CompatibilitySummary:
        versions, cfg = self._versions, self._cfg
        details = [f"{share:.0%} of the samples" for share in self._shares]
        return CompatibilitySummary(
            title=f"{cfg.title}: {versions[0]} to {versions[-1]}, {name}",
            protocol=self._protocol(),
            queries=len(found.query_id),
            gallery=found.gallery,
            seeds=len(cfg.seeds),
            old_self_test=intervals_of(found.search(0, 0)),
            paragon_self_test=intervals_of(alone.search(-1, -1)),
            ways=ways_of(
                versions, found, alone,
                details=details, seconds=self._seconds[name], minimum_gap=cfg.minimum_gap,
            ),
            matrix=matrix_of(versions, found),
            taxes=steps_of(versions, found, alone),
            notes=tuple(self._notes(found, alone)) if found is not alone else (),
        )  # fmt: skip

    def _protocol(self) -> tuple[str, ...]:
        cfg, (first, *_, last) = self._cfg, self._versions
        held_out = [str(label) for label in cfg.draws[0]]
        shares = ", ".join(f"{share:.0%}" for share in self._shares)
        return (
            f"Queries and gallery are disjoint halves of the {cfg.stage} images (halves_seed={cfg.halves_seed}); each "
            "seed searches its own gallery.",
            f"Each version has seen what the one before it has: {shares} of the training samples.",
            f"Old/old is {first}: later versions search its gallery as if it had never been re-indexed.",
            f"Gain and tax are against the paragon of the same version; the paragon that is shown is that of {last}.",
            f"Labels held out of all trainings, and searched: {', '.join(held_out)}."
            if held_out
            else "All classes are trained on and searched.",
        )

    def _notes(self, found: ChainFound, alone: ChainFound) -> list[str]:
        average = hundredths(matrix_of(self._versions, alone).average_compatibility)
        return [
            f"Average compatibility of the paragons: {average}.",
            *classifier_notes(self._versions, found, alone),
        ]


def run(cfg: DictConfig, directory: Path, console: Console) -> None:
    """Run the bench and leave tables, JSON and a page of each chain, in a folder of its own.

    Args:
        cfg: The job's config.
        directory: The run's folder.
        console: Where to print.
    """
    found = ChainBench(cfg, directory, console).run()
    if is_rank_zero():
        for name, summary in found.items():
            leave_search(summary, directory / _folder(name), console)


def earlier_data(whole: UpdateDataModule, shares: Sequence[float]) -> list[UpdateDataModule]:
    """Return the data of each version but the first, nested, oldest first; ``of_old()`` is that of the one before.

    Args:
        whole: Its ``old_fraction`` is the last version's share of the training samples.
        shares: Share of each version, oldest first.

    Returns:
        Data of the second version, of the third, ...

    Example:
        >>> from lightning_graceful.experiment.datamodules import DigitsDataModule
        >>> data = earlier_data(DigitsDataModule(old_fraction=1.0), [0.1, 0.4, 1.0])
        >>> [len(part.train_set) for part in (data[0].of_old(), *data)]
        [125, 502, 1257]
    """
    parts: list[UpdateDataModule] = [whole]
    for share, earlier in pairwise(shares[::-1]):
        parts.append(EarlierDataModule(parts[-1], old_fraction=earlier / share))
    return parts[:0:-1]


def _folder(name: str) -> str:
    return name.replace(" ", "_")

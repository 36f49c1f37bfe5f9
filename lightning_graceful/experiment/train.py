"""``graceful train``: one new model against one old model, with a verdict where rules are given."""

import sys
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from lightning_graceful.cli import EXIT_ACCEPT
from lightning_graceful.experiment.dry_run import show_plan
from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.gate import question_of
from lightning_graceful.experiment.predictions import answers
from lightning_graceful.experiment.results import Found, Way, leave
from lightning_graceful.experiment.searchpath import conf_dir
from lightning_graceful.experiment.update import build_data, is_rank_zero, obtain_old, prepare_process, train_new


class Outcome(NamedTuple):
    """What a run comes to.

    Attributes:
        nfr: Negative flip rate on validation data: what a sweep minimises; NaN for a dry run.
        code: Exit code of the verdict on test data; 0 without rules.
    """

    nfr: float
    code: int


def train(cfg: DictConfig, directory: Path) -> Outcome:
    """Train the old model if need be, then the new one, and show what the update breaks.

    Args:
        cfg: ``conf/train.yaml``, composed.
        directory: The run's folder.

    Returns:
        The outcome.
    """
    console = Console()
    question_of(cfg.gate)  # a rule that makes no sense is refused before anything is trained
    prepare_process(cfg)
    data = build_data(cfg, cfg.seed)
    old = obtain_old(cfg, data, directory, cfg.seed)
    if cfg.dry_run:
        show_plan(cfg, data, old, console)
        return Outcome(float("nan"), EXIT_ACCEPT)
    name = "+".join(cfg.losses.terms) or "plain"
    trained = train_new(cfg, cfg.losses, data, old, directory, name=name, seed=cfg.seed)
    code = EXIT_ACCEPT
    if is_rank_zero():
        loader = data.test_dataloader()
        found = Found(
            title=f"{type(data).__name__.removesuffix('DataModule')}: {name} against the old model, seed {cfg.seed}",
            data=data.base,
            old=answers(old.to("cpu"), loader, seed=cfg.seed),
            ways=[Way(name, answers(trained.module.cpu(), loader, seed=cfg.seed), trained.seconds)],
        )
        code = leave(found, directory, console, cfg.gate)
    return Outcome(trained.val.get("val/nfr", float("nan")), code)


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")
@reported
def main(cfg: DictConfig) -> float:
    """Return the validation NFR of a run in the folder that Hydra gives it; leave with the code of a verdict."""
    hydra_config = HydraConfig.get()
    outcome = train(cfg, Path(hydra_config.runtime.output_dir))
    # A sweep goes on to its other runs, whatever the verdict on one.
    if outcome.code != EXIT_ACCEPT and hydra_config.mode is not RunMode.MULTIRUN:
        sys.exit(outcome.code)
    return outcome.nfr

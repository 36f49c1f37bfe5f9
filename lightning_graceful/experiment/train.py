"""``graceful train``: one new model against one old model."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lightning_graceful.experiment.dry_run import show_plan
from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.predictions import answers, predictions, samples
from lightning_graceful.experiment.results import images_of_flips, leave
from lightning_graceful.experiment.searchpath import conf_dir
from lightning_graceful.experiment.update import build_data, is_rank_zero, obtain_old, prepare_process, train_new
from lightning_graceful.report.evidence import Comparison, Way


def train(cfg: DictConfig, directory: Path) -> float:
    """Train the old model if need be, then the new one, and show what the update breaks.

    Args:
        cfg: ``conf/train.yaml``, composed.
        directory: The run's folder.

    Returns:
        The negative flip rate on validation data: what a sweep minimises; NaN for a dry run.
    """
    console = Console()
    prepare_process(cfg)
    data = build_data(cfg, cfg.seed)
    old = obtain_old(cfg, data, directory, cfg.seed)
    if cfg.dry_run:
        show_plan(cfg, data, old, console)
        return float("nan")
    name = "+".join(cfg.losses.terms) or "plain"
    trained = train_new(cfg, cfg.losses, data, old, directory, name=name, seed=cfg.seed)
    if is_rank_zero():
        loader = data.test_dataloader()
        said = predictions(
            samples(loader), answers(old.to("cpu"), loader), answers(trained.module.cpu(), loader), seed=cfg.seed
        )
        comparison = Comparison(
            title=f"{type(data).__name__.removesuffix('DataModule')}: {name} against the old model, seed {cfg.seed}",
            class_names=data.base.classes,
            ways=[Way(name, said, trained.seconds)],
            images=images_of_flips(said.id[said.negative], data.base),
        )
        leave(comparison, directory, console)
    return trained.val.get("val/nfr", float("nan"))


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")
@reported
def main(cfg: DictConfig) -> float:
    """Return the validation NFR of a run in the folder that Hydra gives it."""
    return train(cfg, Path(HydraConfig.get().runtime.output_dir))

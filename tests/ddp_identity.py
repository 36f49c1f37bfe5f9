"""Run one case of the identity matrix on two ranks: ``python -m tests.ddp_identity STRATEGY CASE FOLDER``.

A script of its own, since Lightning's ``ddp`` starts the other rank by running the script again, and forks want a
process without threads.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset

from lightning_graceful import OldOutputCache
from tests.identity_cases import Case, Compare, OwnDistributed, Photos, augment, execute

warnings.simplefilter("ignore")


def with_own_sampler() -> Any:
    data = Photos()
    # Lightning leaves a user's distributed sampler alone; before the processes exist there is nothing to distribute.
    if not torch.distributed.is_initialized():
        return DataLoader(data, 6)
    return DataLoader(data, 6, sampler=OwnDistributed(data, shuffle=True))


def fit_own_sampler(trainer: Any, module: Any, train: Any, val: Any) -> None:
    module.train_dataloader = with_own_sampler  # made in the hook, where the ranks are known
    trainer.fit(module, val_dataloaders=val)


class Report(pl.Callback):
    """Writes what a rank has seen; what a forked rank counts is lost to its parent."""

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        compare = next(c for c in trainer.callbacks if isinstance(c, Compare))
        cache = next(c for c in trainer.callbacks if isinstance(c, OldOutputCache))
        folder = Path(trainer.default_root_dir)
        run = len(list(folder.glob(f"rank{trainer.global_rank}-*.json")))
        seen = {**compare.compared, "asked": cache.old.asked, "world": trainer.world_size}
        (folder / f"rank{trainer.global_rank}-{run}.json").write_text(json.dumps(seen))


CASES = {
    "shuffle": Case("shuffle", lambda: DataLoader(Photos(), 6, shuffle=True, num_workers=1)),
    "own sampler": Case("own sampler", run=fit_own_sampler, trainer={"use_distributed_sampler": False}),
    "subset": Case("subset", lambda: DataLoader(Subset(Photos(), range(3, 40)), 6, shuffle=True)),
    "views": Case("views", lambda: DataLoader(Photos(transform=augment), 6, shuffle=True), cache={"views": 2}),
    "lazy": Case("lazy", lambda: DataLoader(Photos(), 6), cache={"fill": "lazy"}),
}


def main(strategy: str, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    case = CASES[name]
    case.trainer = {"strategy": strategy, "devices": 2, "default_root_dir": folder, "max_epochs": 2, **case.trainer}
    case.callbacks = lambda: [Report()]
    execute(case, Path(folder) / "cache")


if __name__ == "__main__":
    main(*sys.argv[1:])

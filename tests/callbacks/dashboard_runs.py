"""Runs with a FlipDashboard for its tests, and what they should leave, by a loop."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch.utils.data import DataLoader

from lightning_graceful import FlipMonitor, OldModel
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP
from tests.callbacks.test_old_outputs import images, pytestmark, trainer
from tests.wandb_file import ended_runs

wandb = pytest.importorskip("wandb")

MARKS = [
    pytestmark,
    pytest.mark.filterwarnings("ignore:There is a wandb run already in progress:UserWarning"),
    # wandb's artifacts leave their temporary folders to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]


def network(seed):
    torch.manual_seed(seed)
    net = MLP(16, 3, hidden=(8,))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)  # so that confidences differ
    return net


def old_model(seed=1):
    return OldModel(network(seed))


def new_module(seed=3):
    return LitClassifier(network(seed))


def logits(model, data):
    inputs = torch.stack([data[place][0] for place in range(len(data))])
    with torch.no_grad():
        model = model.net if isinstance(model, pl.LightningModule) else model._module
        return model.eval()(inputs).double().numpy()


def by_hand(old, new, data, names="abc"):
    """The joined rows, by a loop."""
    rows = {}
    for place, (o, n) in enumerate(zip(logits(old, data), logits(new, data), strict=True)):
        target, (p, q) = int(data[place][1]), (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (o, n))
        was, now = p.argmax() == target, q.argmax() == target
        rows[str(place)] = {
            "target": names[target],
            "old": names[p.argmax()],
            "new": names[q.argmax()],
            "old_confidence": p.max(),
            "new_confidence": q.max(),
            "old_score": p[target],
            "new_score": q[target],
            "change": {(1, 1): "both right", (0, 1): "fixed", (1, 0): "broke", (0, 0): "both wrong"}[was, now],
        }
    return rows


def flips(rows, change="broke"):
    found = [place for place, row in rows.items() if row["change"] == change]
    return sorted(found, key=lambda place: -rows[place]["new_confidence"])


def run_with(module, dashboard, data, *callbacks, logger=True, verb="validate", monitor=None, **options):
    old = old_model()
    logger = WandbLogger(project="p", save_dir=Path.cwd()) if logger is True else logger
    running = trainer(*callbacks, dashboard, monitor or FlipMonitor(old), logger=logger, **options)
    loader = data if isinstance(data, list) else DataLoader(data, 8)
    if verb == "fit":
        running.fit(module, DataLoader(images(), 8), loader)
    else:
        getattr(running, verb)(module, loader, verbose=False)
    return running, old


def the_run(folder):
    wandb.finish()
    (run,) = ended_runs(folder)
    return run


def check_rows(found, expected):
    assert len(found) == len(expected)
    for row in found:
        for name, value in expected[row["id"]].items():
            assert row[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)

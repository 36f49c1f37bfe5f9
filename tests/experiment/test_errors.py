"""How a job leaves that something stopped."""

import os
import signal

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.finished import told_how_to_go_on

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Stopped(BoringModel):
    def training_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


def test_a_training_that_sigterm_stops_is_told_and_leaves_with_143(tmp_path, capsys):
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "seed0.npz").touch()

    def job(cfg):
        with told_how_to_go_on(tmp_path):
            pl.Trainer(max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False).fit(Stopped())

    with pytest.raises(SystemExit) as stop:
        reported(job)(OmegaConf.create({}))
    assert stop.value.code == 143
    assert f"To go on, add: resume={tmp_path}" in capsys.readouterr().err

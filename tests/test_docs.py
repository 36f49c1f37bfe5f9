"""The code of the guides and of the README runs as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lightning_graceful import cli
from lightning_graceful.experiment.searchpath import conf_dir

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs/compatibility.md"
README_BLOCK = "## Replace an embedding model without re-indexing"
# What the README takes for granted: a class, its old checkpoint, data and a Trainer.
PROJECT = """
import functools
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class LitClassifier(pl.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.net = nn.Sequential()
        self.net.embedding = nn.Linear(4, 8)
        self.net.classifier = nn.Linear(8, 3)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class Data(pl.LightningDataModule):
    samples = TensorDataset(torch.randn(24, 4), torch.arange(24) % 3)

    def train_dataloader(self):
        return DataLoader(self.samples, 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.samples, 8)


Trainer = functools.partial(pl.Trainer, max_epochs=1, accelerator="cpu", logger=False)
first = Trainer()
first.fit(LitClassifier(), Data())
first.save_checkpoint("old.ckpt")
datamodule = Data()
(new_rows, old_rows), labels = torch.randn(2, 24, 8), torch.arange(24) % 3
"""


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(job):
    """Each command of a job in the guide's bash blocks, as a list of words without ``graceful`` and comments."""
    joined = "".join(blocks(GUIDE.read_text(), "bash")).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in joined.splitlines() if line.startswith(f"graceful {job} ")]


def test_block_of_the_readme_runs(tmp_path):
    section = (ROOT / "README.md").read_text().partition(README_BLOCK)[2].partition("\n## ")[0]
    (block,) = blocks(section, "python")
    assert block.count("\n") <= 12
    run_python(PROJECT + block, tmp_path)


@pytest.fixture(scope="module")
def after_the_guide(tmp_path_factory):
    """The folder that its Python blocks leave, one after another."""
    folder = tmp_path_factory.mktemp("guide")
    printed = run_python("\n".join(blocks(GUIDE.read_text(), "python")), folder)
    return folder, printed


def test_python_of_the_guide_runs(after_the_guide):
    folder, printed = after_the_guide
    assert "100% new, mAP 0." in printed
    assert (folder / "new_to_old.safetensors").is_file()
    assert (folder / "gallery/manifest.json").is_file()


@pytest.mark.parametrize("command", commands("evaluate"), ids=" ".join)
def test_evaluate_of_the_guide_runs(command, after_the_guide, monkeypatch, capsys):
    monkeypatch.chdir(after_the_guide[0])
    monkeypatch.setattr("sys.argv", ["graceful"])
    monkeypatch.setenv(cli.COMMAND_VARIABLE, "")
    monkeypatch.setenv(cli.FULL_ERROR_VARIABLE, "0")
    assert cli.main(command) == 0
    assert "Average compatibility 1.00" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands("bench"), ids=" ".join)
def test_bench_of_the_guide_is_composed(command):
    """Each override names something; that jobs run is tested where they are."""
    job, *overrides = command
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert compose(job, overrides).title


def test_links_of_the_guide_and_the_readme_are_there():
    for page in (ROOT / "README.md", GUIDE):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def run_python(code, folder):
    (folder / "blocks.py").write_text(code)
    return run(folder, sys.executable, "blocks.py")


def run(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""The installed ``graceful`` script, started in the folder of a user's project."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

SCRIPT = Path(sysconfig.get_path("scripts"), "graceful")
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed in this environment")

PROJECT = """
import pytorch_lightning as pl
from torch import nn

class LitNet(pl.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width))

    def forward(self, x):
        return self.body(x)

def data(**options):
    import wave  # one that nothing else has imported by then

    raise ValueError("my_project was asked for data")
"""
SMALL = ("each.embedding=body", "each.classifier=null", "clusters=null", "far=[]", "backfill=null", "flips=null")


@pytest.fixture
def project(tmp_path):
    (tmp_path / "my_project.py").write_text(PROJECT)
    return tmp_path


def graceful(*arguments, cwd, code=0, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    command = [SCRIPT, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_class_of_the_folder_is_found(project):
    torch.manual_seed(0)
    weights = {"body.1.weight": torch.randn(8, 64), "body.1.bias": torch.zeros(8)}
    torch.save({"state_dict": weights, "hyper_parameters": {"width": 8}, "pytorch-lightning_version": "2.0.0"},
               project / "a.ckpt")  # fmt: skip
    given = ("models.v1.checkpoint=a.ckpt", "models.v2.checkpoint=a.ckpt", "each.module=my_project.LitNet", *SMALL)
    graceful("evaluate", *given, cwd=project)
    (found,) = project.rglob("results.json")
    (way,) = json.loads(found.read_text())["ways"]
    assert way["cross_gain"]["map"]["mean"] == 0  # both are one model


def test_a_file_of_the_folder_does_not_stand_in_for_a_package(project):
    for name in ("yaml", "random", "wave"):
        (project / f"{name}.py").write_text("raise SystemExit('a file that lies about was run')")
    said = graceful("train", "data={_target_: my_project.data}", cwd=project, code=65)
    assert "my_project was asked for data" in said


def test_who_asks_python_for_a_safe_path_gets_one(project):
    said = graceful("train", "data={_target_: my_project.data}", cwd=project, code=70, PYTHONSAFEPATH="1")
    assert "No module named 'my_project'" in said

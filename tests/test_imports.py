"""What a plain import loads, in fresh processes; and that every public name is there."""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

import lightning_graceful
import lightning_graceful.functional
from tests.hydra_app import ROOT, run_well

HEAVY = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "plotly", "torchvision"}
PACKAGES = [lightning_graceful, lightning_graceful.functional]


def loaded_by(statement, folder):
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    printed = run_well([sys.executable, "-c", program], folder, PYTHONPATH=str(ROOT))
    return {name.split(".")[0] for name in json.loads(printed.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    [
        "import lightning_graceful",
        "from lightning_graceful import FlipRates, NegativeFlipRate, FocalDistillationLoss, NewErrorLoss, OutputStore",
        "from lightning_graceful.functional import *",
        "from lightning_graceful import Batch, CacheError, OldModel, Outputs, register",
        "import lightning_graceful.cli",
    ],
)
def test_measuring_loads_nothing_heavy(statement, tmp_path):
    assert loaded_by(statement, tmp_path) & HEAVY == set()


@pytest.mark.parametrize(
    "module",
    [f"lightning_graceful{name}" for name in ("", ".cli", ".compare_cli", ".functional.statistics")]
    + [f"lightning_graceful.report.{name}" for name in ("compare", "files", "markdown", "junit", "plain")]
    + [f"lightning_graceful.report.{name}" for name in ("summary", "verdict", "figures", "page")],
)
def test_numbers_and_pages_load_no_torch(module, tmp_path):
    assert "torch" not in loaded_by(f"import {module}", tmp_path)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_resolves(package):
    assert [name for name in package.__all__ if getattr(package, name).__name__ != name] == []
    assert len(package.__all__) == len(set(package.__all__))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_are_shown_before_their_first_use(package, tmp_path):
    program = f"import {package.__name__} as package; print(*(set(package.__all__) - set(dir(package))))"
    assert run_well([sys.executable, "-c", program], tmp_path, PYTHONPATH=str(ROOT)) == "\n"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=rf"module '{package.__name__}' has no attribute 'NegativeFlop'"):
        _ = package.NegativeFlop


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_are_told_every_lazy_name(package):
    (block,) = (node for node in ast.parse(Path(package.__file__).read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    told = {(alias.name, alias.asname, node.module) for node in block.body for alias in node.names}
    assert told == {(name, name, f"{package.__name__}.{home}") for name, home in package._HOME.items()}


def test_environment_has_no_torchvision():
    reason = (
        "torchvision is installed. On a CPU build of torch it breaks `import pytorch_lightning`, and would for users "
        "if a need of ours brought it. Uninstall it, and install the package that needs it with --no-deps."
    )
    assert importlib.util.find_spec("torchvision") is None, reason

"""Copies of the source, ways to install them, and small Hydra applications to run against each."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--quiet"]
OFFLINE = ["--no-index", "--no-deps", "--no-build-isolation"]
# What a surrounding run may have set and a fresh process must not see.
INHERITED = ("PYTHONPATH", "HYDRA_FULL_ERROR", "LIGHTNING_GRACEFUL_COMMAND", "LOCAL_RANK", "REGISTER")

COMPOSE_EVERYTHING = """
import json
import sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
import lightning_graceful
from lightning_graceful.experiment.searchpath import conf_dir

composed = []
with initialize_config_dir(str(conf_dir()), version_base="1.3"):
    options = [path.relative_to(conf_dir()).with_suffix("").as_posix() for path in sorted(conf_dir().glob("*/*.yaml"))]
    for job in ("train", "bench"):
        for option in options:
            group, name = option.split("/")
            if job == "train" and (group == "ways" or option.startswith("experiment/bct")):
                continue  # a bench's alone
            # A bench has losses a way, and no losses of its own that would be left unused.
            place = "losses@ways.pct" if (job, group) == ("bench", "losses") else group
            OmegaConf.to_container(compose(job, [f"{place}={name}"]), resolve=True)
            composed.append(f"{job} {option}")
plugin = sys.modules["hydra_plugins.lightning_graceful_searchpath"]
print(json.dumps({"composed": composed, "files": [lightning_graceful.__file__, plugin.__file__, str(conf_dir())]}))
"""

FOREIGN_APP = """
import json
import os
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

for _ in range(int(os.environ.get("REGISTER", "0"))):
    from lightning_graceful import register
    register()

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    sources = [source.provider for source in HydraConfig.get().runtime.config_sources]
    print(json.dumps({"cfg": OmegaConf.to_container(cfg), "sources": sources}))

main()
"""
FOREIGN_CONFIG = """
defaults:
  - losses: pct
  - callbacks: old_outputs
  - old: checkpoint
  - _self_
old:
  path: their.ckpt
model:
  _target_: torch.nn.Linear
hydra:
  run:
    dir: run
  output_subdir: null
"""


class Installed(NamedTuple):
    """One way to have the library: a python, what its PYTHONPATH holds, and the folder from which all must come."""

    python: Path
    path: str
    home: Path


def run(arguments: list[Any], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a python, the first argument, as a user would from a folder of their own."""
    kept = {name: value for name, value in os.environ.items() if name not in INHERITED}
    return subprocess.run(
        [str(word) for word in arguments], cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=250
    )


def run_well(arguments: list[Any], cwd: Path, **variables: str) -> str:
    """Run a python that must succeed, and return what it printed."""
    done = run(arguments, cwd, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compose_everything(installed: Installed, folder: Path) -> dict[str, Any]:
    """Compose train and bench with each option of each group, one at a time."""
    printed = run_well([installed.python, "-c", COMPOSE_EVERYTHING], folder, PYTHONPATH=installed.path)
    return json.loads(printed.splitlines()[-1])


def foreign_app(folder: Path) -> Path:
    """Write somebody's Hydra application, which takes its losses, a callback and the old model from our groups."""
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(FOREIGN_CONFIG)
    script = folder / "app.py"
    script.write_text(FOREIGN_APP)
    return script


def source_copy(folder: Path) -> Path:
    """Copy what git tracks and what it would track: building in the checkout would leave build/ and egg-info there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a copy of the source."""
    run_well([sys.executable, *PIP, "wheel", *OFFLINE, "--wheel-dir", folder, source], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, folder: Path) -> Installed:
    """Unpack a wheel as pip does, into a folder beside all environments."""
    run_well([sys.executable, *PIP, "install", *OFFLINE, "--target", folder, wheel], folder)
    return Installed(Path(sys.executable), str(folder), folder)


def install_editable(source: Path, folder: Path, mode: str) -> Installed:
    """Install a copy of the source in an editable ``mode`` into an environment that borrows our dependencies."""
    run_well([sys.executable, "-m", "venv", "--without-pip", folder], source)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # A folder named in a .pth is searched, but the .pth files in it are not: our own editable install stays behind.
    (packages / "test_environment.pth").write_text(sysconfig.get_paths()["purelib"])
    # --ignore-installed: pip must not think of removing what it sees in the borrowed folder.
    options = ["--ignore-installed", *OFFLINE, "--config-settings", f"editable_mode={mode}"]
    run_well([sys.executable, *PIP, "--python", python, "install", *options, "--editable", source], source)
    return Installed(python, "", source)

"""Wheel, editable install, bare checkout: all configs compose, and a foreign Hydra application finds our groups."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_graceful import __version__
from tests.hydra_app import (
    CONF,
    ROOT,
    Installed,
    build_wheel,
    compose_everything,
    foreign_app,
    install_editable,
    install_wheel,
    run,
    source_copy,
)

OPTIONS = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))
OF_BENCH = ("ways/", "experiment/bct")  # no other job has them
LAYOUTS = ["wheel", "editable", "checkout"]
# Setuptools' other two ways of an editable install differ in where the plugin is found, not in the configs.
RARE_LAYOUTS = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("strict", "compat")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_copy(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build_wheel(source_copy(tmp_path_factory.mktemp("built")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(request, source, tmp_path_factory):
    if request.param == "checkout":
        return Installed(Path(sys.executable), str(source), source)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "wheel":
        return install_wheel(request.getfixturevalue("wheel"), folder)
    mode = "lenient" if request.param == "editable" else request.param
    return install_editable(source_copy(tmp_path_factory.mktemp("editable_source")), folder, mode)


def run_foreign(installed, folder, *overrides, register=0):
    command = [installed.python, foreign_app(folder), *overrides]
    return run(command, folder, PYTHONPATH=installed.path, REGISTER=str(register))


def test_wheel_contains_data_files_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = {f"lightning_graceful/{path.relative_to(ROOT).as_posix()}" for path in CONF.rglob("*.yaml")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lightning_graceful").rglob("*.py")}
    report = ROOT / "lightning_graceful/report"
    others = {
        path.relative_to(ROOT).as_posix() for kind in ("jinja", "css", "js") for path in report.rglob(f"*.{kind}")
    }
    others |= {"lightning_graceful/py.typed", "lightning_graceful/report/page/page.html.jinja"}
    others |= {"lightning_graceful/report/compatibility/compatibility.html.jinja"}
    assert configs | modules | others <= set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"lightning_graceful", "hydra_plugins"}


def test_wheel_brings_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        words = archive.read(name).decode().split()
    assert "".join(words) == "[console_scripts]graceful=lightning_graceful.cli:main"


def test_wheel_has_the_version_of_the_package(wheel):
    assert wheel.name == f"lightning_graceful-{__version__}-py3-none-any.whl"


def test_building_leaves_the_checkout_as_it_was(wheel):
    assert not (ROOT / "build").exists()


@pytest.mark.parametrize("installed", LAYOUTS, indirect=True)
def test_every_config_composes(installed, tmp_path):
    done = compose_everything(installed, tmp_path)
    of_train = [f"train {option}" for option in OPTIONS if not option.startswith(OF_BENCH)]
    assert done["composed"] == [*of_train, *(f"bench {option}" for option in OPTIONS)]
    assert [name for name in done["files"] if not Path(name).resolve().is_relative_to(installed.home.resolve())] == []


@pytest.mark.parametrize("register", [0, 2], ids=["found", "registered_twice"])
@pytest.mark.parametrize("installed", [*LAYOUTS, *RARE_LAYOUTS], indirect=True)
def test_foreign_application_finds_our_groups(installed, tmp_path, register):
    done = run_foreign(installed, tmp_path, register=register)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["cfg"]["losses"]["terms"]["pct"]["_target_"] == "lightning_graceful.FocalDistillationLoss"
    assert said["cfg"]["callbacks"]["old_outputs"]["_target_"] == "lightning_graceful.OldOutputCache"
    assert said["cfg"]["old"]["path"] == "their.ckpt"
    assert said["sources"].count("lightning-graceful") == 1


@pytest.mark.parametrize("installed", LAYOUTS, indirect=True)
def test_foreign_application_sees_no_other_group(installed, tmp_path):
    done = run_foreign(installed, tmp_path, "--help")
    listed = done.stdout.split("(group=option)")[1].split("==")[0]
    assert [line.split(":")[0] for line in listed.split("\n") if line] == ["callbacks", "losses", "old"]


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_foreign_application_cannot_choose_our_other_configs(installed, tmp_path):
    done = run_foreign(installed, tmp_path, "+data=digits", "+trainer=cpu", "+losses@also=none")
    said = json.loads(done.stdout)["cfg"]
    assert said["also"] == {"terms": {}, "weights": {}}
    # Where there is no such group, Hydra takes the words for a plain value.
    assert (said["data"], said["trainer"]) == ("digits", "cpu")


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_foreign_application_cannot_run_our_jobs(installed, tmp_path):
    done = run_foreign(installed, tmp_path, "--config-name=train")
    assert done.returncode == 1
    assert "Cannot find primary config 'train'" in done.stderr


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_foreign_search_path_raises_no_warning(installed, tmp_path):
    (tmp_path / "more").mkdir()
    done = run_foreign(installed, tmp_path, f"hydra.searchpath=[file://{tmp_path}/more]")
    assert done.returncode == 0, done.stderr
    assert "not available" not in done.stderr


def test_missing_configs_are_said_plainly(source, tmp_path):
    shutil.copytree(source / "lightning_graceful", tmp_path / "lightning_graceful")
    lookup = "from lightning_graceful.experiment.searchpath import conf_dir; conf_dir()"
    done = run([sys.executable, "-c", lookup], tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert f"Expected conf/ in or beside {tmp_path}/lightning_graceful, found neither." in done.stderr

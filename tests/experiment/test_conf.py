"""Every config is commented, points at things that exist and builds; a slip on the command line is told in words."""

import os
import signal
import sys

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from rich.console import Console

from lightning_graceful import FlipMonitor, OldOutputCache, cli
from lightning_graceful.experiment import bench, search_bench, train
from lightning_graceful.experiment.search_bench import SearchBench
from lightning_graceful.experiment.searchpath import conf_dir
from tests.hydra_app import CONF, ROOT, run

CONFIGS = sorted(CONF.rglob("*.yaml"))
GROUPS = ["callbacks", "data", "experiment", "gate", "logger", "losses", "model", "old", "trainer"]
OWN_GROUPS = {"train": [], "bench": ["ways"]}
SEARCHES = ["bct_digits", "bct_fashion_mnist", "bct_fashion_mnist_open"]


def options(group):
    return [path.stem for path in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides, job="train"):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(job, list(overrides))


def targets(node):
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "_target_")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from targets(child)


def graceful(folder, *arguments):
    return run([sys.executable, "-m", "lightning_graceful", *arguments], folder, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(CONF)))
def test_config_opens_with_a_comment_and_parses(path):
    comments = [line for line in path.read_text().splitlines()[:2] if line.startswith("# ")]
    assert path.read_text().startswith("# ")
    assert comments != ["# @package _global_"]
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_every_target_exists():
    named = {target for path in CONFIGS for target in targets(yaml.safe_load(path.read_text()))}
    assert len(named) > 10
    assert all(callable(get_object(target)) for target in named)


@pytest.mark.parametrize("name", options("losses"))
def test_losses_build_and_every_term_has_a_weight(name):
    losses = composed(f"losses={name}").losses
    terms = {key: instantiate(term, _convert_="all") for key, term in losses.terms.items()}
    assert terms.keys() == losses.weights.keys()
    logits, target = torch.randn(4, 10), torch.arange(4)
    for term in terms.values():
        assert torch.isfinite(term(new_logits=logits, old_logits=logits.flip(0), target=target))


@pytest.mark.parametrize(("name", "shape"), [("mlp", (2, 1, 8, 8)), ("resnet", (2, 1, 28, 28))])
def test_models_build_and_take_their_pictures(name, shape):
    assert name in options("model")
    assert instantiate(composed(f"model={name}").model, _convert_="all")(torch.zeros(shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "shape", "widths"),
    [("embedder_mlp", (2, 1, 8, 8), (64, 32)), ("embedder", (2, 1, 28, 28), (128, 64))],
)
def test_embedders_build_beside_their_old_models_and_take_the_classes_of_the_job(name, shape, widths):
    """Without a job that counts classes they have ten, as digits and Fashion-MNIST do."""
    cfg = composed(f"model={name}", f"old=train_{name}")
    counted = composed(f"model={name}", f"old=train_{name}", "+num_classes=7", "+old_num_classes=4")
    for found, classes in ((cfg, (10, 10)), (counted, (7, 4))):
        modules = [instantiate(node, _convert_="all") for node in (found.model, found.old.model)]
        assert [module(torch.zeros(shape)).shape[1] for module in modules] == list(classes)
        assert [module.net.embedding.out_features for module in modules] == list(widths)
    old, new = (sum(weight.numel() for weight in module.parameters()) for module in modules[::-1])
    assert old < new / 2


@pytest.mark.parametrize("experiment", SEARCHES)
def test_searches_compose_and_their_ways_build(experiment, tmp_path):
    cfg = composed(f"experiment={experiment}", "logger=none", f"root={tmp_path}", job="bench")
    OmegaConf.to_container(cfg, resolve=True)
    SearchBench(cfg, tmp_path, Console(quiet=True))
    assert instantiate(cfg.job, _partial_=True).func is search_bench.run
    assert {"independent", "class_collapse", "l2", "influence", "cosine_influence", "contrastive"} <= cfg.ways.keys()
    assert {"mixed_gallery", "procrustes", "ridge"} <= cfg.ways.keys()
    assert cfg.callbacks.flips is None
    assert all(way.weights.keys() - {"task"} == way.terms.keys() for way in cfg.ways.values() if "terms" in way)


def test_searches_of_fashion_mnist_run_in_bfloat16_where_that_is_possible():
    cfg = composed("experiment=bct_fashion_mnist", job="bench")
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False, _convert_="all")
    assert (trainer.precision, trainer.num_devices) == ("bf16-mixed", 1)


def test_a_bench_without_experiment_counts_flips():
    cfg = composed(job="bench")
    assert instantiate(cfg.job, _partial_=True).func is bench.run
    assert list(cfg.ways) == ["plain", "new_error", "pct"]


def test_digits_build():
    data = instantiate(composed("data=digits", "seed=1").data, _convert_="all")
    assert (data.seed, len(data.base)) == (1, 1797)


def test_trainer_builds(tmp_path):
    cfg = composed("trainer=cpu", "epochs=3")
    trainer = instantiate(cfg.trainer, logger=False, default_root_dir=str(tmp_path), _convert_="all")
    assert (trainer.max_epochs, trainer.num_devices) == (3, 1)


def test_callbacks_build_around_an_old_checkpoint(tmp_path):
    module = instantiate(composed().model, _convert_="all")
    torch.save(module.state_dict(), tmp_path / "old.ckpt")
    cfg = composed("old=weights", f"old.path={tmp_path / 'old.ckpt'}", f"cache_dir={tmp_path}")
    built = instantiate(cfg.callbacks, _convert_="all")
    assert built.keys() == {"old_outputs", "flips", "checkpoint", "progress", "dashboard", "history"}
    assert isinstance(built["old_outputs"], OldOutputCache)
    assert isinstance(built["flips"], FlipMonitor)


@pytest.mark.parametrize(
    ("command", "override", "words"),
    [
        ("train", "trainr=cpu", "Could not override 'trainr'"),
        ("train", "losses.weights.pcd=1", "Could not override 'losses.weights.pcd'"),
        ("train", "losses=nope", "Could not find 'losses/nope'"),
        ("train", "experiment=bct_digits", "Could not override 'ways'"),
        ("bench", "ways=nope", "Could not find 'ways/nope'"),
    ],
)
def test_slip_in_an_override_is_told_in_words(command, override, words, tmp_path):
    done = graceful(tmp_path, command, override)
    assert done.returncode == 2
    assert done.stderr.startswith("graceful: ")
    assert words in done.stderr
    assert done.stderr.endswith(f"See graceful {command} --help for the groups and the config.\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "bench"])
def test_help_of_a_command_lists_the_groups(command, tmp_path):
    done = graceful(tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    groups = [*GROUPS, *OWN_GROUPS[command]]
    assert [group for group in groups if f"\n{group}: {', '.join(options(group))}\n" not in done.stdout] == []


def test_help_lists_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr()
    assert all(f"\n  {command} " in said.out for command in ("train", "bench"))
    assert said.err == ""


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_no_command_is_wrong_usage(arguments, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "usage: graceful COMMAND" in said.err
    assert ("no command 'nonsense'" in said.err) == bool(arguments)
    assert said.out == ""


def interrupt():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        sys.exit(1)  # as Lightning does


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (interrupt, 130),
        (lambda: fail(PermissionError("runs: not yours")), 65),
        (lambda: fail(ZeroDivisionError()), 70),
        (lambda: sys.exit(65), 65),
        (lambda: None, 0),
    ],
    ids=["interrupted", "folder", "crash", "bad_data", "done"],
)
def test_nothing_broken_reads_as_a_verdict(job, code, monkeypatch):
    for variable in (cli.COMMAND_VARIABLE, cli.FULL_ERROR_VARIABLE):
        monkeypatch.setenv(variable, "")  # so that what main sets is taken back
    monkeypatch.setattr(sys, "argv", ["graceful"])
    monkeypatch.setattr(train, "main", job)
    assert cli.main(["train"]) == code

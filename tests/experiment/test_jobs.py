import csv
import json
import math
import os
import re
import subprocess
import sys

import pytest
import torch

from lightning_graceful.data.store import OutputStore
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP


def graceful(*arguments, cwd, code=0, **variables):
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "lightning_graceful", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


QUICK = ("epochs=2", "old.epochs=2", "callbacks.progress=null", "trainer.enable_progress_bar=false")


def run_folder(cwd, job):
    (folder,) = (cwd / "runs" / job).iterdir()
    return folder


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def rates_by_hand(run, name):
    old = {(row["id"], row["seed"]): row for row in table(run / "predictions_old.csv")}
    pairs = [(old[row["id"], row["seed"]], row) for row in table(run / f"predictions_{name}.csv")]
    broke = sum(before["label"] == row["target"] != row["label"] for before, row in pairs)
    return len(pairs), broke / len(pairs), sum(row["label"] != row["target"] for _, row in pairs) / len(pairs)


def candidate(run, name):
    found = json.loads((run / "results.json").read_text())["candidates"]
    return next(one for one in found if one["name"] == name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return folder, graceful("train", *QUICK, cwd=folder)


def test_train_leaves_page_figures_predictions_and_logs(trained):
    folder, printed = trained
    run = run_folder(folder, "train")
    assert str(run / "page.html") in printed
    size, nfr, error = rates_by_hand(run, "pct")
    whole = candidate(run, "pct")["whole"]
    assert size == whole["rows"] == 360
    assert (whole["nfr"]["mean"], whole["error_new"]["mean"]) == pytest.approx((nfr, error))
    metrics = table(next(run.glob("pct/**/metrics.csv")))
    assert {"val/nfr", "val/error_new", "train/loss/pct", "train/loss/task"} <= set(metrics[-1])
    assert list(run.glob("pct/wandb/offline-run-*/*.wandb"))
    assert list(run.glob("pct/**/new.ckpt"))


def test_gate_ends_with_the_verdict_on_test_data(trained, tmp_path):
    """A budget of 0 rejects an update that breaks anything, one of 100 % accepts it; both say why."""
    old = next(run_folder(trained[0], "train").glob("old/**/new.ckpt"))
    short = (*QUICK[:1], *QUICK[2:], "logger=none", "old=weights", f"old.path={old}", "model.net.hidden=[32]")
    printed = graceful("train", *short, "gate.nfr=0", cwd=tmp_path, code=1)
    assert re.search(r"REJECT pct: \d+ cases? broke", printed)
    assert "the lower bound is above 0 %" in printed
    assert json.loads((run_folder(tmp_path, "train") / "results.json").read_text())["exit_code"] == 1
    printed = graceful("train", *short, "gate.nfr=0.99", 'gate.budgets=["class nfr=0.99"]', cwd=tmp_path)
    assert "ACCEPT pct" in printed
    assert "Expected a budget" in graceful("train", 'gate.budgets=["speed=1"]', cwd=tmp_path, code=65)


def test_a_sweep_prints_verdicts_and_goes_on(tmp_path):
    printed = graceful("train", "--multirun", *QUICK, "logger=none", "gate.nfr=0", "seed=0,1", cwd=tmp_path)
    assert printed.count("REJECT pct") == 2


def test_old_checkpoint_can_be_given(trained, tmp_path):
    torch.manual_seed(0)
    torch.save(LitClassifier(MLP(64, 10, hidden=(64,))).state_dict(), tmp_path / "old.ckpt")
    printed = graceful("train", *QUICK[:1], *QUICK[2:], "old=weights", "old.path=old.ckpt", "logger=csv", cwd=tmp_path)
    assert "NFR" in printed


def test_old_checkpoint_of_another_class_is_one_sentence(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "old.ckpt")
    printed = graceful("train", "old=weights", "old.path=old.ckpt", "logger=none", cwd=tmp_path, code=65)
    assert "Expected a checkpoint of LitClassifier" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("experiment=fashion_mnist", "data.folder=nowhere"), "Expected the files of Fashion-MNIST in nowhere"),
        (("old=weights", "old.path=nowhere.ckpt"), "checkpoint at nowhere.ckpt, found no file"),
        (("data.old_fraction=0",), "Expected old_fraction in (0, 1]"),
        (("model.net.num_classes=12",), "Expected one number of classes, got 12 (new) and 10 (old)"),
    ],
)
def test_bad_data_is_one_sentence(tmp_path, overrides, words):
    printed = graceful(
        "train",
        *QUICK[2:],
        "old.epochs=1" if "old=weights" not in overrides else "epochs=1",
        "logger=none",
        *overrides,
        cwd=tmp_path,
        code=65,
    )
    assert words in " ".join(printed.split())
    assert "Traceback" not in printed


def test_bench_compares_all_ways_on_every_sample(tmp_path):
    printed = graceful(
        "bench", *QUICK, "logger=none", "data.folds=2", "seeds=[0,1]", "select.grid=[0.1,1]", cwd=tmp_path
    )
    run = run_folder(tmp_path, "bench")
    results = json.loads((run / "results.json").read_text())
    assert [one["name"] for one in results["candidates"]] == ["plain", "new_error", "pct"]
    assert sorted(int(row["id"]) for row in table(run / "predictions_pct.csv")) == list(range(1797))
    size, nfr, error = rates_by_hand(run, "plain")
    plain = candidate(run, "plain")["whole"]
    assert size == 1797
    assert (plain["nfr"]["mean"], plain["error_new"]["mean"]) == pytest.approx((nfr, error))
    assert re.search(r"lambda (0\.1|1)$", candidate(run, "pct")["detail"])
    assert 0 < results["noise_floor"]["mean"] < 1
    assert "Noise floor" in printed
    assert "Page: " in printed
    assert (run / "page.html").stat().st_size > 1e6


def test_bench_computes_the_old_outputs_once_a_seed(tmp_path):
    graceful("bench", *QUICK, "logger=none", "seeds=[0]", cwd=tmp_path)
    stores = list((tmp_path / "runs" / "old_outputs").iterdir())
    assert len(stores) == 1


def test_bench_without_plain_is_refused(tmp_path):
    assert "way named 'plain'" in graceful("bench", "seeds=[]", cwd=tmp_path, code=65)


def test_ddp_by_subprocess_works_and_counts_each_sample_once(tmp_path):
    """Two processes started by Lightning from our own command; 180 validation samples, an odd batch size."""
    printed = graceful("train", *QUICK, "trainer=ddp", "logger=csv", "data.batch_size=7", cwd=tmp_path)
    run = run_folder(tmp_path, "train")
    assert printed.count("Page: ") == 1
    metrics = [row for row in table(next(run.glob("pct/**/metrics.csv"))) if row["val/nfr"]]
    # Of 180 samples, so a whole number of them: a padded count would have another denominator.
    for name in ("val/nfr", "val/error_new", "val/error_old"):
        count = 180 * float(metrics[-1][name])
        assert math.isclose(count, round(count), abs_tol=1e-3)


NO_WANDB = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "wandb" else found(name, *rest)
"""


def test_job_falls_back_to_csv_without_wandb(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_WANDB)
    printed = graceful("train", *QUICK, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "wandb is not installed" in printed
    assert list(run_folder(tmp_path, "train").glob("pct/**/metrics.csv"))
    assert not list(run_folder(tmp_path, "train").glob("pct/wandb"))


def test_dry_run_says_what_a_run_would_cost_and_fills_nothing(tmp_path):
    printed = graceful("train", *QUICK, "dry_run=true", "logger=none", "callbacks.old_outputs.top_k=2", cwd=tmp_path)
    assert "Old outputs that are missing" in printed
    assert "training" in printed
    assert "minutes" in printed
    assert not list(tmp_path.rglob("page.html"))
    stores = [OutputStore.open_existing(manifest.parent) for manifest in tmp_path.rglob("manifest.json")]
    assert stores
    assert all(len(store.missing()) == store.num_rows for store in stores)

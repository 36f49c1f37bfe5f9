"""What lands in W&B; without it, in a folder."""

import csv
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import duckdb
import lightning.pytorch
import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch.utils.data import DataLoader, Subset

from lightning_graceful import FlipDashboard, FlipHistory, FlipMonitor
from lightning_graceful.callbacks import wandb_run
from lightning_graceful.callbacks.flip_files import Place
from lightning_graceful.callbacks.workspace import flip_report, flip_workspace
from lightning_graceful.experiment.classifier import LitClassifier
from tests.callbacks.dashboard_runs import (
    MARKS,
    by_hand,
    check_rows,
    flips,
    network,
    new_module,
    old_model,
    run_with,
    the_run,
    wandb,
)
from tests.callbacks.test_old_outputs import images, trainer
from tests.wandb_file import ended_runs, offline_runs

pytestmark = MARKS

# -- in W&B ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_every_row_equals_those_by_hand_and_flips_come_first(here, verb):
    data, new = images(seed=5), new_module()
    _, old = run_with(new, FlipDashboard(), data, verb=verb)
    expected, run = by_hand(old, new, data), the_run(here)
    found = run.table("flips/test_table" if verb == "test" else "flips/val_table")
    check_rows(found, expected)
    broke, fixed = flips(expected), flips(expected, "fixed")
    assert len(broke) > 2
    assert len(fixed) > 2
    assert [row["id"] for row in found[: len(broke) + len(fixed)]] == broke + fixed
    assert {row["shown"] for row in found if row["change"] == "broke"} == {f"all {len(broke)} broke"}


def test_every_key_of_a_fit_and_a_test_in_one_run(here):
    new, dashboard = new_module(), FlipDashboard()
    running, _ = run_with(new, dashboard, images(seed=5), verb="fit")
    before = wandb.run
    running.test(new, DataLoader(images(seed=6), 8), verbose=False)
    assert wandb.run is before  # the callback ended nothing
    assert before is running.logger.experiment
    (run,) = offline_runs(here)
    assert run.exits == 0
    run = the_run(here)
    assert run.exits == 1
    parts = {"table", "page", "shown", "nfr_by_class_table", "between_classes_table", "confidence_table"}
    parts |= {"quadrants", "rates", "reliability"}
    found = {key for key in run.keys if key.startswith("flips/")}
    assert {"/".join(key.split("/")[:2]) for key in found} == {
        f"flips/{stage}_{part}" for stage in ("val", "test") for part in parts
    }
    assert {"val/nfr", "test/nfr", "val/error_new", "test/error_new", "trainer/global_step"} <= set(run.keys)
    steps = [step["_step"] for step in run.history]
    assert steps == sorted(set(steps))
    axis = [step["trainer/global_step"] for step in run.history]
    assert axis == sorted(axis)
    assert run.keys["trainer/global_step"] == 14


def test_metrics_are_defined_along_the_axis_of_wandblogger(here):
    run_with(new_module(), FlipDashboard(), images())
    run = the_run(here)
    for name in ("*", "val/nfr*", "val/error_new*", "test/churn*", "flips/*"):
        assert run.metrics[name].step_metric == "trainer/global_step"
        assert run.metrics[name].options.step_sync
        assert not run.metrics[name].HasField("summary") or not run.metrics[name].summary.min
    assert isinstance(run.summary.get("val/nfr"), float)  # under its own name, for sweeps


def test_a_run_that_the_user_began_gets_the_axis_too_and_goes_on(here):
    with wandb.init(project="p", dir=here) as mine:
        run_with(new_module(), FlipDashboard(), images())
        assert wandb.run is mine
        mine.log({"after": 1})
    run = the_run(here)
    assert run.metrics["flips/*"].step_metric == "trainer/global_step"
    assert {"flips/val_table/path", "after"} <= set(run.keys)


def test_images_are_the_pixels_of_the_surest_flips(here):
    data, new = images(seed=5), new_module()
    _, old = run_with(new, FlipDashboard(max_images=2), data)
    expected, run = by_hand(old, new, data), the_run(here)
    found = {row["id"]: row["image"] for row in run.table("flips/val_table") if row["image"] is not None}
    assert [*found] == flips(expected)[:2]
    for place, cell in found.items():
        assert np.array_equal(run.image("flips/val_table", cell), data.images[int(place)].numpy())


def test_charts_hold_what_a_loop_counts(here):
    data, new = images(seed=5), new_module()
    _, old = run_with(new, FlipDashboard(), data)
    expected, run = by_hand(old, new, data), the_run(here)
    broke = [row for row in expected.values() if row["change"] == "broke"]
    rates = {}
    for name in "abc":
        of_class = [row for row in expected.values() if row["target"] == name]
        rates[name] = 100 * sum(row["change"] == "broke" for row in of_class) / len(of_class)
    bars = {row["class"]: row["NFR (%)"] for row in run.table("flips/val_nfr_by_class_table")}
    assert bars == pytest.approx(rates)
    assert [*bars.values()] == sorted(bars.values(), reverse=True)
    for row in run.table("flips/val_between_classes_table"):
        pair = row["Actual"], row["Predicted"]
        assert row["nPredictions"] == sum((flip["target"], flip["new"]) == pair for flip in broke)
    points = [[row["old confidence"], row["new confidence"]] for row in run.table("flips/val_confidence_table")]
    truth = [[row["old_confidence"], row["new_confidence"]] for row in broke]
    assert sorted(points) == [pytest.approx(point, abs=1e-5) for point in sorted(truth)]
    kinds = {key: value["panel_config"]["panelDefId"] for key, value in run.config.items() if "/visualize/" in key}
    assert kinds == {
        "_wandb/visualize/flips/val_nfr_by_class": "wandb/bar/v0",
        "_wandb/visualize/flips/val_between_classes": "wandb/confusion_matrix/v1",
        "_wandb/visualize/flips/val_confidence": "wandb/scatter/v0",
    }


def test_figures_that_wandb_has_no_kind_for_are_those_of_the_page(here):
    data, new, values = images(seed=5), new_module(), ["x", "y"] * 25
    dashboard, history = FlipDashboard(slices={"half": values}), FlipHistory(here / "history")
    _, old = run_with(new, dashboard, data, history, verb="fit", max_epochs=1)
    expected, run = by_hand(old, new, data), the_run(here)
    bars = {bar["name"]: bar["x"] for bar in run.figure("flips/val_quadrants")}
    assert bars == {change: [len(flips(expected, change))] for change in ("both right", "fixed", "broke", "both wrong")}
    assert all(len(run.figure(f"flips/val_{name}")) > 0 for name in ("rates", "reliability", "slices", "epochs"))


def test_page_is_a_panel_and_files_are_artifacts(here):
    running, old = run_with(new_module(), FlipDashboard(), images(seed=5))
    folder = here / "p" / running.logger.version / "flips" / "val"
    run = the_run(here)
    assert run.media("flips/val_page").read_bytes() == (folder / "page.html").read_bytes()
    facts, files = run.artifact("predictions")
    assert {*files} == {"predictions_old.parquet", "predictions_new.parquet", "flips.csv", "page.html"}
    assert all((folder / name).read_bytes() == Path(path).read_bytes() for name, path in files.items())
    assert facts["old_model"] == old.fingerprint
    assert facts["nfr"] == pytest.approx(float(running.callback_metrics["val/nfr"]))
    facts, files = run.artifact("model")
    assert facts == json.loads(Path(files["fingerprint.json"]).read_text()) == {"fingerprint": old.fingerprint}


def test_the_old_model_that_only_a_cache_knows_is_found(here, tmp_path):
    from lightning_graceful import OldOutputCache

    old = old_model()
    run_with(new_module(), FlipDashboard(), images(), OldOutputCache(old, tmp_path / "cache"), monitor=FlipMonitor())
    facts, _ = the_run(here).artifact("model")
    assert facts == {"fingerprint": old.fingerprint}


def test_lineage_is_asked_for_only_online(tmp_path):
    asked = []

    class Run(SimpleNamespace):
        def __getattr__(self, name):
            return lambda artifact: asked.append((name, artifact.type))

    whole = SimpleNamespace(samples=1, broke=0, fixed=0, nfr=SimpleNamespace(mean=0), error_new=SimpleNamespace(mean=0))
    written = SimpleNamespace(files=[], summary=SimpleNamespace(first=SimpleNamespace(whole=whole)))
    for offline in (False, True):
        wandb_run.log_artifacts(Run(id="r", offline=offline, disabled=False), Place("val"), written, "f" * 64)
    assert asked == [
        ("log_artifact", "predictions"),
        ("use_artifact", "model"),
        ("log_artifact", "predictions"),
        ("log_artifact", "model"),
    ]


def test_a_run_of_tensorboard_keeps_its_own_axis():
    wandb_run.define_axes(SimpleNamespace(settings=SimpleNamespace(sync_tensorboard=True)))  # defines nothing


def test_a_disabled_run_is_no_trouble(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_with(new_module(), FlipDashboard("out"), images())
    assert (here / "out/flips/val/page.html").exists()


def test_workspace_opens_on_flips_and_shows_a_sweep(here):
    module = new_module()
    module.save_hyperparameters({"lr": 0.1, "name": "mlp", "layers": [1, 2]})
    running, _ = run_with(module, FlipDashboard(), images())
    said = json.loads((here / "p" / running.logger.version / "flips" / "workspace.json").read_text())
    sections = said["spec"]["section"]["panelBankConfig"]["sections"]
    assert [(section["name"], section["isOpen"]) for section in sections] == [
        ("Flips (val)", True),
        ("Flips (test)", True),
        ("Sweep", False),
    ]
    val, _, sweep = (section["panels"] for section in sections)
    assert val[0]["config"]["metrics"] == ["val/nfr", "val/pfr"]
    assert val[3]["config"]["mediaKeys"] == ["flips/val_page"]
    assert "flips/val_table" in json.dumps(val[4])
    axes = [column["accessor"] for column in sweep[0]["config"]["columns"]]
    assert axes == ["config:lr.value", "config:name.value", "summary:val/error_new", "summary:val/nfr"]
    assert [sweep[1]["config"][axis] for axis in ("xAxis", "yAxis")] == ["summary:val/error_new", "summary:val/nfr"]


@pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # of wandb-workspaces, as it is imported
def test_workspace_is_saved_only_online_and_only_if_asked(here, monkeypatch):
    import wandb_workspaces.workspaces as ws

    saved = []
    monkeypatch.setattr(ws.Workspace, "save", lambda self: saved.append(self.project))
    run_with(new_module(), FlipDashboard(save_workspace=True), images(), verb="fit", max_epochs=1)
    assert saved == []
    monkeypatch.setattr(wandb.Run, "offline", False)
    monkeypatch.setattr(wandb.Run, "use_artifact", wandb.Run.log_artifact)
    run_with(new_module(), FlipDashboard(), images(), verb="fit", max_epochs=1)
    assert saved == []
    run_with(new_module(), FlipDashboard(save_workspace=True), images(), verb="fit", max_epochs=1)
    assert saved == ["p"]


def test_workspace_without_hyperparameters():
    assert len(flip_workspace("p", stages=("val",)).sections) == 2


def test_a_report_has_the_panels_of_the_workspace():
    report = flip_report("p", "me", stages=("test",))
    first, grid, _, frontier = report.blocks
    assert first.text == "Flips (test)"
    assert grid.panels[0].y == ["test/nfr", "test/pfr"]
    assert [type(panel).__name__ for panel in frontier.panels] == ["ParallelCoordinatesPlot", "ScatterPlot"]


def test_logger_of_the_other_namespace(here):
    from lightning.pytorch.loggers import WandbLogger as Other

    data, new, old = images(seed=5), new_module(), old_model()
    callbacks = [FlipMonitor(old), FlipDashboard()]
    loggers = [lightning.pytorch.loggers.CSVLogger("."), Other(project="p", save_dir=Path.cwd())]
    running = trainer(*callbacks, namespace=lightning.pytorch, logger=loggers)

    class Lit(lightning.pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = new.net

        def validation_step(self, batch, batch_idx):
            self.net(batch[0])

    running.validate(Lit(), DataLoader(data, 8), verbose=False)
    check_rows(the_run(here).table("flips/val_table"), by_hand(old, new, data))


def test_olds_and_loaders_have_tables_of_their_own(here):
    data, new = images(seed=5), new_module()
    olds = {"v1": old_model(1), "v2": old_model(4)}
    loaders = [DataLoader(data, 8), DataLoader(Subset(data, range(20, 40)), 8)]
    running, _ = run_with(new, FlipDashboard(), loaders, monitor=FlipMonitor(olds))
    run = the_run(here)
    for name, old in olds.items():
        expected = by_hand(old, new, data)
        check_rows(run.table(f"flips/val_table/{name}/dataloader_idx_0"), expected)
        part = {place: row for place, row in expected.items() if 20 <= int(place) < 40}
        check_rows(run.table(f"flips/val_table/{name}/dataloader_idx_1"), part)  # by base index
        folder = here / "p" / running.logger.version / "flips" / "val" / name / "dataloader_idx_1"
        assert (folder / "page.html").exists()


def test_two_fits_two_runs_in_one_process(here):
    dashboard = FlipDashboard()
    for _ in range(2):
        run_with(new_module(), dashboard, images(), verb="fit", max_epochs=1)
        wandb.finish()
    first, second = ended_runs(here)
    assert first.folder != second.folder
    for run in (first, second):
        assert len(run.table("flips/val_table")) == 50


def test_steps_of_a_resumed_fit_go_on(here):
    logger = WandbLogger(project="p", save_dir=Path.cwd())
    running, _ = run_with(Plain(network(3)), FlipDashboard(), images(), logger=logger, verb="fit", max_epochs=1)
    running.save_checkpoint(here / "last.ckpt")
    again = trainer(FlipMonitor(old_model()), FlipDashboard(), logger=logger, max_epochs=3)
    again.fit(Plain(network(5)), DataLoader(images(), 8), DataLoader(images(), 8), ckpt_path=here / "last.ckpt")
    run = the_run(here)
    axis = [step["trainer/global_step"] for step in run.history]
    assert axis == sorted(axis)
    assert axis[-1] == 20  # the last epoch's own logs come last
    tables = [step for step in run.history if "flips/val_table/path" in step]
    assert len(tables) == 2


class Plain(LitClassifier):
    """Has no schedule, so that it may go on."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# -- without W&B -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_without_wandb_there_are_page_and_files_and_one_line(here, monkeypatch, caplog, file_format):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    data, new = images(seed=5), new_module()
    with caplog.at_level(logging.INFO):
        dashboard = FlipDashboard(file_format=file_format)
        _, old = run_with(new, dashboard, data, logger=CSVLogger(".", "csv"))
    folder = here / "csv/version_0/flips/val"
    assert {path.name for path in folder.iterdir()} == {
        f"predictions_old.{file_format}",
        f"predictions_new.{file_format}",
        "flips.csv",
        "page.html",
    }
    (line,) = [record.message for record in caplog.records if "page.html" in record.message]
    assert str(folder / "page.html") in line
    expected = by_hand(old, new, data)
    for model in ("old", "new"):
        path = folder / f"predictions_{model}.{file_format}"
        rows = duckdb.sql(f"SELECT id, target, label, confidence, target_score FROM '{path}'").fetchall()
        assert len(rows) == 50
        for place, target, label, confidence, score in rows:
            row = expected[str(place)]
            assert (target, label) == (row["target"], row[model])
            assert confidence == pytest.approx(row[f"{model}_confidence"], abs=1e-5)
            assert score == pytest.approx(row[f"{model}_score"], abs=1e-5)
    with (folder / "flips.csv").open() as file:
        listed = [*csv.DictReader(file)]
    assert [row["id"] for row in listed] == flips(expected) + flips(expected, "fixed")
    assert all(row["new"] == expected[row["id"]]["new"] for row in listed)


def test_without_a_logger_the_root_folder_is_taken(here):
    run_with(new_module(), FlipDashboard(), images(), logger=False, default_root_dir=here / "root")
    assert (here / "root/flips/val/page.html").exists()
    assert not (here / "root/flips/workspace.json").exists()


def test_dirpath_wins(here):
    run_with(new_module(), FlipDashboard(here / "mine"), images(), logger=CSVLogger("."), verb="test")
    assert (here / "mine/flips/test/page.html").exists()

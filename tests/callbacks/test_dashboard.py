import csv
import gc
import json
import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import duckdb
import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from lightning_graceful import Batch, FlipDashboard, FlipHistory, FlipMonitor, OldModel
from lightning_graceful.callbacks import dashboard, wandb_run
from lightning_graceful.callbacks.collecting import class_names
from lightning_graceful.callbacks.flip_files import Place
from lightning_graceful.callbacks.pictures import pictures_of, texts_of
from lightning_graceful.callbacks.priority import ROW, Kept, priority
from lightning_graceful.callbacks.workspace import flip_report, flip_workspace
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP
from tests.callbacks.test_old_outputs import images, pytestmark, trainer
from tests.wandb_file import ended_runs, offline_runs

wandb = pytest.importorskip("wandb")

pytestmark = [
    *([pytestmark] if not isinstance(pytestmark, list) else pytestmark),
    pytest.mark.filterwarnings("ignore:There is a wandb run already in progress:UserWarning"),
    # wandb's artifacts leave their temporary folders to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder in which W&B keeps everything, offline; whatever run is left is ended."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    wandb.finish()
    gc.collect()


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


# -- what lands in W&B -------------------------------------------------------------------------------------------------


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


# -- what is collected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [8, 50])
def test_the_cap_is_a_seeded_draw_and_said(here, batch_size):
    data, new = images(seed=5), new_module()
    loaders = [DataLoader(data, batch_size)]
    for seed in (0, 0, 1):
        run_with(new, FlipDashboard("out", max_rows=40, seed=seed), loaders)
        wandb.finish()
    first, again, other = (run.table("flips/val_table") for run in ended_runs(here))
    expected = by_hand(old_model(), new, data)
    moved = len(flips(expected)) + len(flips(expected, "fixed"))
    assert moved < 40
    assert len(first) == 40
    assert [row["id"] for row in first] == [row["id"] for row in again]
    assert [row["id"] for row in first][:moved] == [row["id"] for row in other][:moved]
    assert {row["id"] for row in first} != {row["id"] for row in other}
    for change in ("both right", "both wrong"):
        total = len(flips(expected, change))
        drawn = [row for row in first if row["change"] == change]
        assert {row["shown"] for row in drawn} == {f"{len(drawn)} of {total} {change}, drawn"}
    said = ended_runs(here)[0].keys["flips/val_shown"]
    assert said.startswith(f"all {len(flips(expected))} broke; ")
    assert "drawn" in said


def test_the_draw_is_even():
    rows = np.zeros(20_000, ROW)
    rows["position"] = np.arange(20_000)
    drawn = priority(rows, seed=3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(np.full(10, 2000), rel=0.1)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, priority(rows, seed=4))[0, 1]) < 0.02


def test_kept_values_are_those_of_a_full_sort():
    generator = np.random.default_rng(0)
    offered = [(float(generator.integers(4)), int(place)) for place in generator.integers(30, size=200)]
    kept, seen = Kept(7), {}
    for value, place in offered:
        kept.offer(value, place, place)
        seen.setdefault(place, set()).add(value)
    assert len(kept.values) == 7
    assert Kept(0).wants(1.0, 0) is False
    once = Kept(3)
    for place, value in enumerate([0.5, 0.1, 0.9, 0.7, 0.9]):
        once.offer(value, place, value)
        once.offer(value, place, "again")
    assert once.values == {2: 0.9, 3: 0.7, 4: 0.9}


@pytest.mark.parametrize("given", ["to the dashboard", "to the monitor"])
def test_slices_are_those_of_the_monitor_unless_given(here, given):
    data, values = images(seed=5), [f"c{place % 3}" for place in range(50)]
    slices, other = {"country": values}, {"other": values}
    own = slices if given == "to the dashboard" else None
    monitor = FlipMonitor(old_model(), slices=slices if own is None else other)
    run_with(new_module(), FlipDashboard(slices=own), data, monitor=monitor)
    rows = the_run(here).table("flips/val_table")
    assert "slice:other" not in rows[0]
    assert all(row["slice:country"] == values[int(row["id"])] for row in rows)
    file = next(here.glob("p/*/flips/val/predictions_new.parquet"))
    found = dict(duckdb.sql(f"SELECT id, \"slice:country\" FROM '{file}'").fetchall())
    assert found == dict(enumerate(values))


class Texts(torch.utils.data.Dataset):
    """Dicts with a text, some of them nasty."""

    def __init__(self, data, texts):
        self.data, self.texts, self.classes = data, texts, ["<script>alert(1)</script>", "=1+1", 'c",\n']

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        image, target = self.data[place]
        return {"image": image, "label": target, "text": self.texts[place]}


class DictLit(LitClassifier):
    def validation_step(self, batch, batch_idx):
        self.net(batch["image"])


NASTY = [
    "<script>alert(2)</script>",
    "</script><img src=x onerror=alert(3)>",
    "=cmd|' /C calc'!A0",
    '"; DROP',
    "\ud800\0",
]


def test_hostile_strings_stay_text(here):
    data = Texts(images(seed=5), [f"{NASTY[place % 5]} {place} {'x' * 600}" for place in range(50)])
    new = DictLit(network(3))
    run_with(new, FlipDashboard(), data)
    run = the_run(here)
    rows = run.table("flips/val_table")
    expected = by_hand(old_model(), new, data.data, data.classes)
    check_rows(rows, expected)
    for row in rows:
        said = data.texts[int(row["id"])][:500].encode("utf-8", "replace").decode()
        assert row["text"] == said
    page = run.media("flips/val_page").read_text()
    for bad in ("<script>alert", "<img src=x"):
        assert bad not in page
    with next(here.glob("p/*/flips/val/flips.csv")).open(newline="") as file:
        listed = [*csv.DictReader(file)]
    assert len(listed) == sum(row["change"] in {"broke", "fixed"} for row in expected.values())
    assert not any((cell or "").startswith(("=", "+", "@")) for row in listed for cell in row.values())


def test_text_is_kept_only_of_rows_that_are_shown(here):
    data = Texts(images(seed=5), [f"text {place}" for place in range(50)])
    run_with(DictLit(network(3)), FlipDashboard("out", max_rows=10), data, logger=False)
    found = duckdb.sql(f"SELECT id, text FROM '{here}/out/flips/val/predictions_new.parquet'").fetchall()
    assert sum(text is not None for _, text in found) == 10
    assert all(text in {None, f"text {place}"} for place, text in found)


def test_sanity_check_is_not_shown_and_nothing_is_held_after_a_fit(here):
    dashboard = FlipDashboard("out")
    run_with(new_module(), dashboard, images(), logger=False, verb="fit", num_sanity_val_steps=2, max_epochs=1)
    assert duckdb.sql("SELECT count(*) FROM 'out/flips/val/predictions_new.parquet'").fetchall() == [(50,)]
    assert dashboard._now == dashboard._whole == {}


def test_samples_that_nobody_can_follow_are_numbered_in_passing(here):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([images(seed=5)[place] for place in range(50)])

    data, new = images(seed=5), new_module()
    dashboard = FlipDashboard(class_names=["x", "y", "z"])
    _, old = run_with(new, dashboard, [DataLoader(Stream(), 8)])
    check_rows(the_run(here).table("flips/val_table"), by_hand(old, new, data, "xyz"))


def test_samples_that_share_an_index_are_told_apart_by_position(here):
    parts = [images(30, seed=5), images(20, seed=6)]
    new = new_module()
    _, old = run_with(new, FlipDashboard(), [DataLoader(ConcatDataset(parts), 8)])
    check_rows(the_run(here).table("flips/val_table"), by_hand(old, new, ConcatDataset(parts)))


def test_the_history_of_flips_is_on_the_page(here, monkeypatch):
    from lightning_graceful.report import page

    summaries, write = [], page.write_page
    monkeypatch.setattr(page, "write_page", lambda summary, path: (summaries.append(summary), write(summary, path))[1])
    history = FlipHistory(here / "history")
    run_with(new_module(), FlipDashboard("out"), images(), history, logger=False, verb="fit")
    assert summaries[0].history == history.summary()
    assert summaries[0].classes == ("a", "b", "c")
    run_with(new_module(), FlipDashboard("out"), images(), logger=False)
    assert summaries[1].history is None


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Failing(LitClassifier):
    error = RuntimeError("out of luck")

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 3:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_after_an_exception_the_last_whole_validation_is_there(here, error):
    new = Failing(network(3))
    new.error = error
    kept = {}

    class Remember(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            kept.update(by_hand(old_model(), pl_module, images(seed=5)))
            pl_module.train()

    with pytest.raises(RuntimeError if isinstance(error, RuntimeError) else SystemExit):
        run_with(new, FlipDashboard(), images(seed=5), Remember(), verb="fit", num_sanity_val_steps=0)
    assert wandb.run is not None
    check_rows(the_run(here).table("flips/val_table"), kept)


def test_an_exception_before_any_validation_is_the_only_one(here):
    new = Failing(network(3))
    with pytest.raises(RuntimeError, match="out of luck"):
        run_with(new, FlipDashboard("out"), images(), logger=False, verb="fit", check_val_every_n_epoch=2)
    assert not (here / "out").exists()


def test_trouble_in_showing_does_not_hide_the_exception(here):
    (here / "out").write_text("a file where a folder should be")
    new = Failing(network(3))
    with pytest.warns(UserWarning, match="could not be shown"), pytest.raises(RuntimeError, match="out of luck"):
        run_with(new, FlipDashboard("out"), images(), logger=False, verb="fit")


def test_no_monitor_is_an_error_that_says_so():
    running = trainer(FlipDashboard())
    with pytest.raises(RuntimeError, match=r"FlipMonitor\(old\), FlipDashboard\(\)"):
        running.validate(new_module(), DataLoader(images(), 8), verbose=False)


def test_what_the_page_needs_is_asked_for_before_the_fit(monkeypatch):
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None if name == "plotly" else name)
    with pytest.raises(ImportError, match=r"plotly.*lightning-graceful\[report\]"):
        run_with(new_module(), FlipDashboard(), images(), logger=False)


@pytest.mark.parametrize(
    "options",
    [
        {"max_rows": 0},
        {"max_rows": 10_001},
        {"max_images": -1},
        {"images": "png"},
        {"text": 3},
        {"class_names": "abc"},
        {"class_names": ["a", "a"]},
        {"file_format": "json"},
        {"dirpath": "s3://bucket"},
        {"slices": ["country"]},
    ],
)
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match="Expected"):
        FlipDashboard(**options)


def test_another_number_of_class_names_is_refused(here):
    with pytest.raises(ValueError, match="Expected 3 names of classes"):
        run_with(new_module(), FlipDashboard("out", class_names=["a", "b"]), images(), logger=False)


def test_prediction_needs_no_monitor():
    trainer(FlipDashboard()).predict(Predicting(network(3)), DataLoader(images(), 8))


class Predicting(LitClassifier):
    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])


# -- pictures, texts, names --------------------------------------------------------------------------------------------


def picture(values, **options):
    (drawn,) = pictures_of(torch.as_tensor(values)[None], options.get("source", lambda batch: batch), [0])
    return drawn


def test_pictures_are_scaled_only_if_need_be():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) * 20
    assert np.array_equal(picture(pixels), pixels.transpose(1, 2, 0))
    assert np.array_equal(picture(pixels / 255), pixels.transpose(1, 2, 0))
    assert picture([[[-1.0, 0.0], [1.0, 3.0]]]).tolist() == [[0, 64], [128, 255]]
    assert picture([[-1.0, 1.0]]).tolist() == [[0, 255]]
    assert picture([[2.0, 2.0]]).tolist() == [[0, 0]]
    assert picture([[math.nan, 1.0]]).tolist() == [[0, 255]]


def test_large_pictures_are_made_small():
    large = torch.zeros(3, 640, 320)
    large[0, 320:] = 1
    drawn = picture(large)
    assert drawn.shape == (128, 64, 3)
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[-1, 0].tolist() == [255, 0, 0]


def test_what_is_no_picture_is_not_drawn():
    assert pictures_of((torch.zeros(2, 16), torch.zeros(2)), "auto", [0]) == []
    assert pictures_of((torch.zeros(2, 5, 4, 4), torch.zeros(2)), "auto", [0]) == []
    assert pictures_of(object(), "auto", [0]) == []
    with pytest.raises(ValueError, match=r"\(N, 1 or 3, H, W\)"):
        pictures_of((torch.zeros(2, 16), torch.zeros(2)), lambda batch: batch[0], [0])


def test_texts_are_one_a_sample():
    assert texts_of({"text": torch.zeros(2)}, "text", 2) == []
    assert texts_of((torch.zeros(2),), "text", 2) == []
    assert texts_of([1, 2], lambda batch: [f"no {one}" for one in batch], 2) == ["no 1", "no 2"]
    for bad in (["one"], "ab", None):
        with pytest.raises(ValueError, match="text for each of the 2 samples") if bad else _nothing():
            texts_of(bad, lambda batch: batch, 2)


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_class_names_are_found_beneath_subsets():
    data = images()
    assert class_names(Subset(Subset(data, range(9)), range(4))) == ("a", "b", "c")
    assert class_names(ConcatDataset([data, data])) == ("a", "b", "c")
    assert class_names(range(3)) == ()
    assert class_names(None) == ()


# -- several ranks -----------------------------------------------------------------------------------------------------


class Ending(pl.Callback):
    """Ends the run as a job does: a forked process leaves without a goodbye."""

    def teardown(self, trainer, pl_module, stage):
        if trainer.is_global_zero and "wandb" in sys.modules:
            sys.modules["wandb"].finish()


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler`.*")
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_under_ddp_one_run_shows_each_sample_once(here, verb):
    data, new, old = images(49, seed=5), new_module(), old_model()
    dashboard = FlipDashboard("out", slices={"light": brightness}, max_images=3)
    callbacks = [FlipMonitor(old), dashboard, Weights(here / "weights"), Ending()]
    logger = WandbLogger(project="p", save_dir=Path.cwd())
    running = trainer(*callbacks, logger=logger, devices=2, strategy="ddp_fork", max_epochs=1)
    if verb == "fit":
        running.fit(new, DataLoader(data, 8), DataLoader(data, 8))
    else:
        running.validate(new, DataLoader(data, 8), verbose=False)
    new.load_state_dict(torch.load(here / "weights"))
    expected, (run,) = by_hand(old, new, data), ended_runs(here)
    rows = run.table("flips/val_table")
    check_rows(rows, expected)
    lights = brightness([torch.stack([data[place][0] for place in range(49)])])
    assert len({*lights}) > 4  # which ranks meet in different orders
    assert all(row["slice:light"] == lights[int(row["id"])] for row in rows)
    drawn = {row["id"]: row["image"] for row in rows if row["image"] is not None}
    assert [*drawn] == flips(expected)[:3]
    for place, cell in drawn.items():
        assert np.array_equal(run.image("flips/val_table", cell), data.images[int(place)].numpy())
    assert sum("flips/val_table/path" in step for step in run.history) == 1


def brightness(batch):
    return [f"{int(image.mean() * 40)} of 40" for image in batch[0]]


class Weights(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_validation_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save(pl_module.state_dict(), self.path)


def test_the_batch_of_the_monitor_decides_the_target(here):
    data, new = images(seed=5), new_module()
    monitor = FlipMonitor(old_model(), batch=lambda batch: Batch(batch[0], batch[1] * 0))
    run_with(new, FlipDashboard(), data, monitor=monitor)
    assert {row["target"] for row in the_run(here).table("flips/val_table")} == {"a"}

"""An evaluation in an offline W&B run, read back from what it wrote."""

import gc
import json
import math
from pathlib import Path

import pytest

from lightning_graceful.callbacks.compatibility_charts import log_compatibility
from tests.report.compatibility.summaries import hostile, made, minimal, rich, small_gap
from tests.wandb_file import ended_runs

wandb = pytest.importorskip("wandb")

# wandb's artifacts leave their temporary folders to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """A function that logs an evaluation and reads the run back."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def log(summary):
        run = wandb.init(project="p", dir=tmp_path)
        log_compatibility(run, summary)
        run.finish()
        (found,) = ended_runs(tmp_path)
        return found

    yield log
    wandb.finish()
    gc.collect()


def test_an_evaluation_is_logged_whole(logged):
    summary = rich()
    run = logged(summary)
    rows = run.table("compatibility/ways")
    assert [(row["way"], row["measure"]) for row in rows[:4]] == [
        ("independent", "map"), ("independent", "map_at_r"), ("independent", "recall_at_1"), ("l2", "map"),
    ]  # fmt: skip
    gain = summary.ways[4].update_gain["map"]
    row = rows[12]
    assert (row["way"], row["compatible"]) == ("contrastive", "yes")
    assert (row["update_gain"], row["update_gain_low"], row["update_gain_high"]) == pytest.approx(gain)
    assert len(run.table("compatibility/matrix_table")) == 16
    assert len(run.table("compatibility/backfill")) == 33
    assert run.table("compatibility/downstream")[1] == {
        "name": "old head, negative flips", "old": None, "mixed": None, "new": 0.061,
    }  # fmt: skip
    assert run.table("compatibility/flips")[0]["new_labels"] == ", ".join(summary.flips[0].new_labels)
    assert len(run.figure("compatibility/tax")) == 3
    assert "Fashion-MNIST" in Path(run.media("compatibility/page")).read_text()
    facts, files = run.artifact("evaluation")
    assert facts == {"queries": 5000, "gallery": 5000, "seeds": 3}
    assert json.loads(Path(files["compatibility.json"]).read_text())["title"] == summary.title
    assert Path(files["page.html"]).read_text().startswith("<!doctype html>")
    assert run.summary["test/cross_test/contrastive"] == pytest.approx(summary.ways[4].cross_test["map"].mean)
    assert run.summary["test/tax/influence_cosine"] == pytest.approx(summary.ways[3].tax["map"].mean)
    assert run.summary["test/is_backward_compatible/class_collapse"] is False


def test_one_way_has_plain_keys_and_no_nan(logged):
    run = logged(minimal())
    assert run.summary["test/cross_test"] == pytest.approx(0.57)
    assert run.summary["test/is_backward_compatible"] is True
    assert not {"test/update_gain", "test/tax"} & set(run.summary)
    (row, *_) = run.table("compatibility/ways")
    assert row["update_gain"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in run.summary.values())


def test_names_that_become_alike_stay_apart(logged):
    run = logged(small_gap().__class__(**vars(small_gap()) | {"ways": (made("a.b"), made("a/b"), made("???"))}))
    assert {"test/tax/a_b_0", "test/tax/a_b_1", "test/tax/way"} <= set(run.summary)


def test_bad_strings_are_logged(logged):
    run = logged(hostile())
    assert len(run.table("compatibility/flips")) == 9

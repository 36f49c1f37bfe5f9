"""Flips in the W&B run that the user's WandbLogger has begun: never a run of our own, and never an end to theirs."""

import json
import re
from typing import Any

from lightning_graceful.callbacks.flip_files import Place, Table, Written
from lightning_graceful.callbacks.flips import LOGGED
from lightning_graceful.callbacks.wandb_charts import charts

STEP = "trainer/global_step"  # WandbLogger's axis


def find_run(trainer: Any) -> Any:
    """Find the run of a WandbLogger, from either namespace.

    Args:
        trainer: The trainer.

    Returns:
        The run, on rank zero; None where there is no such logger.
    """
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
            return logger.experiment
    return None


def is_online(run: Any) -> bool:
    """Return whether the server can be asked; where a version of wandb does not tell, it is not."""
    return getattr(run, "offline", None) is False and not getattr(run, "disabled", False)


def define_axes(run: Any) -> None:
    """Give what is logged the axis of WandbLogger, also in a run that the user began and WandbLogger took over.

    No ``summary="min"``: W&B would then hold ``val/nfr.min`` in the place of ``val/nfr``, which sweeps and tables of
    runs ask for, and the least error and the least NFR would belong to different epochs.

    Args:
        run: The run.
    """
    if getattr(run.settings, "sync_tensorboard", False):
        return  # then WandbLogger logs no such step
    run.define_metric(STEP)
    for stage in ("val", "test"):
        for name in (*LOGGED, "old_correct"):
            run.define_metric(f"{stage}/{name}*", step_metric=STEP, step_sync=True)
    run.define_metric("flips/*", step_metric=STEP, step_sync=True)


def log_flips(run: Any, place: Place, table: Table, written: Written, *, max_rows: int, step: int) -> None:
    """Log table, charts and page, in one step that W&B numbers itself, so that it never goes back.

    Args:
        run: The run.
        place: Which comparison.
        table: Both models' answers.
        written: What is on disk.
        max_rows: Most rows of the table.
        step: The trainer's.
    """
    import wandb

    logged: dict[str, Any] = {place.key("table"): joined_table(table, max_rows)}
    logged |= {place.key(name): chart for name, chart in charts(written.summary, place.stage).items()}
    logged[place.key("page")] = wandb.Html(str(written.files[-1]), inject=False)
    logged[place.key("shown")] = "; ".join(shown(table, max_rows).values())
    # The last step that WandbLogger gave, which counts batches: with manual optimisation global_step counts otherwise.
    logged[STEP] = run.summary.get(STEP) or step
    run.log(logged)


def joined_table(table: Table, max_rows: int) -> Any:
    """Build the table: both models' answers a sample, flips first.

    Args:
        table: Both models' answers.
        max_rows: Most rows.

    Returns:
        A ``wandb.Table``; its column ``shown`` says which share of such rows is there.
    """
    import wandb

    chosen, columns = table.order[:max_rows], dict(table.columns)
    said = shown(table, max_rows)
    cells = {name: values[chosen].tolist() for name, values in columns.items()}
    cells["id"] = [str(value) for value in cells["id"]]
    cells["shown"] = [said[change] for change in cells["change"]]
    if table.images:
        drawn = [table.images.get(int(row)) for row in chosen]
        cells["image"] = [None if picture is None else wandb.Image(picture) for picture in drawn]
    if table.texts:
        cells["text"] = [table.texts.get(int(row)) for row in chosen]
    return wandb.Table(columns=[*cells], data=[list(row) for row in zip(*cells.values(), strict=True)])


def shown(table: Table, max_rows: int) -> dict[str, str]:
    """Say how much of the table is shown.

    Args:
        table: Both models' answers.
        max_rows: Most rows.

    Returns:
        By ``change``, such as ``"all 12 that broke"`` or ``"40 of 976 both right, drawn"``.

    Example:
        >>> import numpy as np
        >>> columns = {"change": np.array(["broke", "fixed", "both right"])}
        >>> counts = {"broke": 1, "fixed": 1, "both right": 1, "both wrong": 0}
        >>> shown(Table(columns, {}, {}, np.array([0, 1, 2]), counts), 1)["fixed"]
        'none of 1 fixed'
    """
    visible = table.columns["change"][table.order[:max_rows]].tolist()
    said = {}
    for change, total in table.counts.items():
        count = visible.count(change)
        share = f"all {total:,}" if count == total else f"{count:,} of {total:,}" if count else f"none of {total:,}"
        said[change] = f"{share} {change}" + (", drawn" if 0 < count < total and change.startswith("both") else "")
    return said


def log_artifacts(run: Any, place: Place, written: Written, fingerprint: str | None) -> None:
    """Log the files as an artifact, and the old model by its fingerprint: as an input of the run, where it is online.

    Args:
        run: The run.
        place: Which comparison.
        written: What is on disk.
        fingerprint: Of the old model; None where nobody knows.
    """
    import wandb

    whole = written.summary.first.whole
    facts = {"stage": place.stage, "samples": whole.samples, "broke": whole.broke, "fixed": whole.fixed}
    facts |= {"nfr": whole.nfr.mean, "error_new": whole.error_new.mean, "old_model": fingerprint}
    predictions = wandb.Artifact(
        _artifact_name(f"flips-{place.stage}{place.suffix}-{run.id}"), "predictions", metadata=facts
    )
    for file in written.files:
        predictions.add_file(str(file))
    run.log_artifact(predictions)
    if fingerprint is None:
        return
    old = wandb.Artifact(f"old-model-{fingerprint[:16]}", "model", metadata={"fingerprint": fingerprint})
    with old.new_file("fingerprint.json") as said:
        json.dump({"fingerprint": fingerprint}, said)
    # Offline there is nobody to ask, and use_artifact fails.
    (run.use_artifact if is_online(run) else run.log_artifact)(old)


def _artifact_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:128]

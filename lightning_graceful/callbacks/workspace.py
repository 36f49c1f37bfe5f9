"""A W&B workspace that opens on flips, and a report, built by code: the view of a run, and of a sweep over many."""

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_graceful.callbacks.folders import write_json

NAME = "Flips"


def flip_workspace(
    project: str, entity: str = "", *, hyperparameters: Sequence[str] = (), stages: Sequence[str] = ("val", "test")
) -> Any:
    """Build the workspace; its ``save()`` puts it on the server, as one more view of the project.

    Args:
        project: Name of the W&B project.
        entity: User or team that the project belongs to.
        hyperparameters: Keys of the config, each an axis of the view of a sweep.
        stages: Stages to show, of ``"val"`` and ``"test"``.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``.

    Example:
        >>> flip_workspace("digits", hyperparameters=["lr"]).sections[0].name
        'Flips (val)'
    """
    ws, _ = _library()
    sections = [ws.Section(name=f"Flips ({stage})", panels=_panels(stage), is_open=True) for stage in stages]
    sweep = ws.Section(name="Sweep", panels=_sweep(hyperparameters), is_open=False)
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=[*sections, sweep])


def flip_report(project: str, entity: str = "", *, stages: Sequence[str] = ("val", "test")) -> Any:
    """Build a W&B report of all runs of a project, the same panels as in the workspace; ``save()`` needs the server.

    Args:
        project: Name of the W&B project.
        entity: User or team that the project belongs to.
        stages: Stages to show, of ``"val"`` and ``"test"``.

    Returns:
        A ``wandb_workspaces.reports.v2.Report``.

    Example:
        >>> flip_report("digits", "me").title
        'Flips'
    """
    _, wr = _library()
    blocks: list[Any] = []
    for name, panels in [*((f"Flips ({stage})", _panels(stage)) for stage in stages), ("Frontier", _sweep(()))]:
        runs = wr.Runset(project=project, entity=entity)
        blocks += [wr.H1(text=name), wr.PanelGrid(panels=panels, runsets=[runs])]
    return wr.Report(project=project, entity=entity, title=NAME, blocks=blocks)


def write_workspace(path: Path, workspace: Any) -> Path:
    """Write what ``save()`` would send, for a look without a server.

    Args:
        path: The file.
        workspace: From :func:`flip_workspace`.

    Returns:
        The path.
    """
    # wandb-workspaces has no public way to look at a workspace that is not on the server.
    write_json(path, json.loads(workspace._to_model().model_dump_json(by_alias=True)))
    return path


def is_available() -> bool:
    """Return whether wandb-workspaces is installed."""
    try:
        return find_spec("wandb_workspaces") is not None
    except ValueError:
        return False


def _panels(stage: str) -> list[Any]:
    _, wr = _library()
    step = "trainer/global_step"
    errors = [f"{stage}/{name}" for name in ("error_old", "error_new")]
    flips = [f"{stage}/{name}" for name in ("nfr", "pfr")]
    return [
        wr.LinePlot(title="Negative and positive flips", x=step, y=flips, layout=_place(0, 0)),
        wr.LinePlot(title="Error of the old and of the new model", x=step, y=errors, layout=_place(8, 0)),
        wr.ScalarChart(title="NFR", metric=f"{stage}/nfr", layout=_place(16, 0)),
        wr.MediaBrowser(title="What broke", media_keys=[f"flips/{stage}_page"], layout=_place(0, 6, 24, 18)),
        wr.WeavePanelSummaryTable(table_name=f"flips/{stage}_table", layout=_place(0, 24, 24, 12)),
    ]


def _sweep(hyperparameters: Sequence[str]) -> list[Any]:
    _, wr = _library()
    config = [wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in hyperparameters]
    results = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(f"val/{name}")) for name in ("error_new", "nfr")]
    return [
        wr.ParallelCoordinatesPlot(
            title="Hyper-parameters, error and NFR", columns=[*config, *results], layout=_place(0, 0, 24, 8)
        ),
        wr.ScatterPlot(
            title="Frontier: error of the new model and NFR",
            x=wr.SummaryMetric("val/error_new"),
            y=wr.SummaryMetric("val/nfr"),
            running_ymin=True,
            layout=_place(0, 8, 24, 10),
        ),
    ]


def _place(x: int, y: int, width: int = 8, height: int = 6) -> Any:
    return _library()[1].Layout(x=x, y=y, w=width, h=height)


def _library() -> tuple[Any, Any]:
    # Its workspaces, and its panels.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Pydantic, about how the library is written
        import wandb_workspaces.reports.v2 as parts
        import wandb_workspaces.workspaces as workspaces
    return workspaces, parts

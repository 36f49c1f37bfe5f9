"""What a job leaves behind: predictions, figures as JSON, the page."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lightning_graceful.data.datasets import ImageArrays
from lightning_graceful.experiment.table import print_table
from lightning_graceful.report.differences import paired_difference, paired_error_difference
from lightning_graceful.report.evidence import Comparison


def images_of_flips(comparison_ids: "np.ndarray[Any, np.dtype[np.int64]]", data: ImageArrays) -> dict[int, Any]:
    """Return the images that a page shows.

    Args:
        comparison_ids: Ids of negative flips.
        data: The dataset whose positions the ids are.

    Returns:
        uint8 arrays ``(H, W)`` by id.
    """
    return {int(number): data.images[int(number)].numpy() for number in np.unique(comparison_ids)}


def leave(comparison: Comparison, directory: Path, console: Console) -> None:
    """Write everything, print the table, and say where things are.

    Args:
        comparison: The ways.
        directory: The run's folder.
        console: Where to print.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for way in comparison.ways:
        way.predictions.to_csv(directory / f"predictions_{way.name}.csv")
    (directory / "results.json").write_text(json.dumps(_figures(comparison), indent=2))
    print_table(comparison, console)
    page = _page(comparison, directory)
    console.print(
        f"Page: {page}" if page else "Page: none; pip install 'lightning-graceful[report]' brings it.", soft_wrap=True
    )
    console.print(f"Runs: {directory.resolve()}", soft_wrap=True)


def _page(comparison: Comparison, directory: Path) -> Path | None:
    try:
        from lightning_graceful.report.page import write_page
    except ModuleNotFoundError:
        return None
    return write_page(comparison, directory / "page.html").resolve()


def _figures(comparison: Comparison) -> dict[str, Any]:
    ways: dict[str, dict[str, Any]] = {}
    for way in comparison.ways:
        said = way.predictions
        ways[way.name] = {
            "detail": way.detail,
            "samples": said.samples,
            "rows": len(said),
            "table": said.table.tolist(),
            "error_old": said.error_old,
            "error_new": said.error_new,
            "nfr": said.nfr,
            "pfr": said.pfr,
            "relative_nfr": said.relative_nfr,
            "wall_seconds": way.wall_seconds,
        }
        if way is not comparison.plain:
            ways[way.name]["nfr_against_plain"] = paired_difference(way, comparison.plain)._asdict()
            ways[way.name]["error_against_plain"] = paired_error_difference(way, comparison.plain)._asdict()
    figures = {
        "title": comparison.title,
        "noise_floor": comparison.noise_floor,
        "ways": ways,
        "notes": list(comparison.notes),
    }
    return _without_nan(figures)  # type: ignore[no-any-return]


def _without_nan(value: Any) -> Any:
    # JSON has no NaN: null stands for it.
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value

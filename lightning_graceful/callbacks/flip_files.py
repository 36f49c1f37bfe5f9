"""What a run leaves on disk of its flips: two prediction files, a list of the flips, and the page."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_graceful.callbacks.collecting import Collected
from lightning_graceful.callbacks.pictures import Picture, clean
from lightning_graceful.callbacks.priority import Rows, priority
from lightning_graceful.callbacks.slices import safe
from lightning_graceful.report.compare import compare_files
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.files import write_predictions
from lightning_graceful.report.history import Churn
from lightning_graceful.report.summary import Summary

FileFormat = Literal["parquet", "csv"]
CHANGES = ("broke", "fixed", "both right", "both wrong")


class Place(NamedTuple):
    """Which of a run's comparisons something belongs to.

    Attributes:
        stage: ``"val"`` or ``"test"``.
        old_name: Name of the old model; ``""`` for the only one.
        loader: Number of the dataloader.
        several: Whether there is more than one.
    """

    stage: str
    old_name: str = ""
    loader: int = 0
    several: bool = False

    @property
    def suffix(self) -> str:
        """What FlipMonitor's keys end in, too: ``""``, or such as ``"/v1/dataloader_idx_1"``."""
        name = f"/{safe(self.old_name)}" if self.old_name else ""
        return name + (f"/dataloader_idx_{self.loader}" if self.several else "")

    @property
    def folder(self) -> Path:
        """Folder of its files, from that of the run's flips."""
        parts = self.suffix.split("/")[1:]
        return Path(self.stage, *(part if part.strip(".") else "old" for part in parts))

    def key(self, name: str) -> str:
        """Name something in W&B.

        Args:
            name: What it is.

        Returns:
            Such as ``"flips/val_table"``.
        """
        return f"flips/{self.stage}_{name}{self.suffix}"


class Table(NamedTuple):
    """Both models' answers in words, joined: one row a sample.

    Attributes:
        columns: By name, each an array of length ``N``: ``id``, ``target``, ``old``, ``new``, ``old_confidence``,
            ``new_confidence``, ``old_score``, ``new_score`` (probability of the true class), ``change`` and a
            ``slice:<name>`` for each slice.
        texts: By row, of some.
        images: By row, of some.
        order: The rows in the order of a table: flips first.
        counts: How many rows there are of each ``change``.
        classes: Names of all classes, in order.
    """

    columns: Mapping[str, Any]
    texts: Mapping[int, str]
    images: Mapping[int, Picture]
    order: npt.NDArray[np.int64]
    counts: Mapping[str, int]
    classes: Sequence[str] = ()


class Written(NamedTuple):
    """What was written.

    Attributes:
        folder: Holds the files.
        files: All of them, the page last.
        summary: What the page shows.
    """

    folder: Path
    files: Sequence[Path]
    summary: Summary


def table_of(collected: Collected, seed: int = 0) -> Table:
    """Put what was collected into words.

    Args:
        collected: Of all ranks.
        seed: Of the draw among samples that did not flip.

    Returns:
        The table.

    Raises:
        ValueError: If there are names for another number of classes, or a name is there twice.
    """
    rows, names = collected.rows, _names(collected)
    columns: dict[str, Any] = {"id": _ids(collected)}
    columns |= {name: names[rows[name]] for name in ("target", "old", "new")}
    columns |= {name: rows[name] for name in ("old_confidence", "new_confidence", "old_score", "new_score")}
    right = 2 * (rows["old"] != rows["target"]) + (rows["new"] == rows["target"])
    columns["change"] = np.array(["broke", "both right", "both wrong", "fixed"], object)[right]
    for place, (name, values) in enumerate(zip(collected.slices, collected.values, strict=True)):
        columns[f"slice:{name}"] = np.array([clean(value) for value in values], object)[rows[f"slice{place}"]]
    return Table(
        columns,
        _by_row(rows, collected.texts),
        _by_row(rows, collected.images),
        np.lexsort((rows["position"], -priority(rows, seed))),
        {change: int(np.count_nonzero(columns["change"] == change)) for change in CHANGES},
        names.tolist(),
    )


def write_files(
    table: Table, folder: Path, *, title: str, file_format: FileFormat, history: Churn | None = None
) -> Written:
    """Write prediction files, the flips, and the page.

    Args:
        table: Both models' answers.
        folder: Where to; made if need be.
        title: Of the page.
        file_format: Of the prediction files.
        history: How flips moved over epochs, if anybody followed.

    Returns:
        What was written.
    """
    from lightning_graceful.report.page import write_page
    from lightning_graceful.report.thumbnails import data_uri

    columns = table.columns
    about = {key: values for key, values in columns.items() if key.startswith("slice:")}
    if table.texts:
        about["text"] = np.array([table.texts.get(row) for row in range(len(columns["id"]))], object)
    said = {}
    for model in ("old", "new"):
        said[model] = write_predictions(
            folder / f"predictions_{model}.{file_format}",
            id=columns["id"],
            target=columns["target"],
            label=columns[model],
            confidence=columns[f"{model}_confidence"],
            target_score=columns[f"{model}_score"],
            **about,
        )
    flips = _write_flips(table, folder / "flips.csv")
    images = {str(columns["id"][row]): data_uri(picture) for row, picture in table.images.items()}
    summary = compare_files(said["old"], {"new": said["new"]}, title=title)
    classes = tuple(name for name in table.classes if name in {*summary.classes})
    summary = replace(summary, classes=classes, images=images, history=history)
    page = write_page(summary, folder / "page.html")
    return Written(folder, [*said.values(), flips, page], summary)


def _write_flips(table: Table, path: Path) -> Path:
    names = [name for name in table.columns if not name.endswith("_score")]
    with draft_of(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *(["text"] if table.texts else [])])
        for row in table.order[: table.counts["broke"] + table.counts["fixed"]]:
            cells = [table.columns[name][row] for name in names]
            cells += [table.texts.get(int(row), "")] if table.texts else []
            writer.writerow([_harmless(cell) for cell in cells])
    return path


def _harmless(cell: Any) -> Any:
    # A spreadsheet runs text that begins with one of these signs.
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _by_row(rows: Rows, values: Mapping[int, Any]) -> dict[int, Any]:
    places = np.searchsorted(rows["position"], [*values]).tolist()
    return dict(zip(places, values.values(), strict=True))


def _ids(collected: Collected) -> npt.NDArray[np.int64]:
    # Two samples of a ConcatDataset may share an index; a position is unique.
    index = collected.rows["index"]
    unique = len(np.unique(index)) == len(index)
    return np.ascontiguousarray(index if unique else collected.rows["position"])


def _names(collected: Collected) -> npt.NDArray[np.object_]:
    width, names = collected.width, collected.classes or tuple(map(str, range(collected.width)))
    if len(names) != width or len({*names}) < width:
        raise ValueError(
            f"Expected {width} names of classes, each another, got {len(names)}, {len({*names})} of them different: "
            f"{', '.join(names[:5])}, ... Pass class_names=[...]."
        )
    return np.array([clean(name) for name in names], object)

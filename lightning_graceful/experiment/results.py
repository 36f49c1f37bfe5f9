"""What a job leaves behind: prediction files, the comparison as JSON and as a page, the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from lightning_graceful.cli import verdict_code
from lightning_graceful.data.relabelled import LabelledImages
from lightning_graceful.experiment.gate import print_verdicts, question_of
from lightning_graceful.experiment.predictions import Answers, write_answers
from lightning_graceful.experiment.table import print_table
from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compare import compare_files
from lightning_graceful.report.plain import to_json
from lightning_graceful.report.summary import Summary


@dataclass(frozen=True)
class Way:
    """One way to train the new model, and what it said of the test samples.

    Attributes:
        name: Short name.
        said: Its answers.
        wall_seconds: Training time.
        detail: What sets it apart, such as "lambda 1".
    """

    name: str
    said: Answers
    wall_seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Found:
    """All that a job found out on test data.

    Attributes:
        title: Heading.
        data: The base dataset.
        old: Answers of the old model.
        ways: The ways to train its successor; the first is compared with.
        again: Answers of the first way under another seed, or None.
        notes: Remarks.
    """

    title: str
    data: LabelledImages
    old: Answers
    ways: Sequence[Way]
    again: Answers | None = None
    notes: Sequence[str] = ()


def leave(found: Found, directory: Path, console: Console, gate: DictConfig) -> int:
    """Write everything, print table and verdict, and say where things are.

    Args:
        found: What was found.
        directory: The run's folder.
        console: Where to print.
        gate: ``conf/gate/default.yaml``, composed: what a release must keep to.

    Returns:
        The exit code of the verdict on the first way.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = found.data.classes
    old = write_answers(directory / "predictions_old.csv", found.old, names)
    files = {way.name: write_answers(directory / f"predictions_{way.name}.csv", way.said, names) for way in found.ways}
    summary = compare_files(old, files, title=found.title, question=question_of(gate))
    summary = replace(
        summary,
        candidates=tuple(
            replace(candidate, detail=way.detail, wall_seconds=way.wall_seconds)
            for candidate, way in zip(summary.candidates, found.ways, strict=True)
        ),
        noise_floor=_noise_floor(found, directory, files),
        notes=(*summary.notes, *found.notes),
    )
    ruling = summary.first.ruling
    code = verdict_code(ruling.decision if ruling else None, gate.undecided)
    (directory / "results.json").write_text(to_json(summary, code))
    print_table(summary, console)
    page = _page(summary, found, directory)
    words = f"Page: {page}" if page else "Page: none; pip install 'lightning-graceful[report]' brings it."
    for line in (words, f"Runs: {directory.resolve()}"):
        console.print(line, soft_wrap=True, markup=False)  # [report] is no markup
    print_verdicts(summary, console)
    return code


def _noise_floor(found: Found, directory: Path, files: Mapping[str, Path]) -> Interval | None:
    # What plain training under another seed breaks of plain training: no old model is involved.
    if found.again is None:
        return None
    again = write_answers(directory / "predictions_again.csv", found.again, found.data.classes)
    return compare_files(files[found.ways[0].name], {"again": again}).first.whole.nfr


def _page(summary: Summary, found: Found, directory: Path) -> Path | None:
    try:
        from lightning_graceful.report.page import write_page
        from lightning_graceful.report.thumbnails import data_uri
    except ModuleNotFoundError:
        return None
    shown = np.unique([int(flip.id) for candidate in summary.candidates for flip in candidate.flips])
    images = {str(number): data_uri(found.data.images[number].numpy()) for number in shown.tolist()}
    return write_page(replace(summary, images=images), directory / "page.html").resolve()

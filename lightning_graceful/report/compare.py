"""Two or more prediction files in, one :class:`Summary` out: the whole comparison."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_graceful.functional.statistics import Interval, benjamini_hochberg
from lightning_graceful.report.answers import Reading
from lightning_graceful.report.costs import read_costs
from lightning_graceful.report.database import MEMORY, NAMED, Database, PredictionError, named
from lightning_graceful.report.details import (
    calibration,
    class_names,
    class_order,
    confidence_grid,
    flip_images,
    flip_pairs,
    refuse_strangers,
    strange_answers,
    worst_flips,
)
from lightning_graceful.report.differences import error_difference, new_error_difference, nfr_difference
from lightning_graceful.report.flip_list import write_flips
from lightning_graceful.report.joining import Joined, join
from lightning_graceful.report.must_keep import kept_check
from lightning_graceful.report.reading import Table, read_predictions
from lightning_graceful.report.summary import Candidate, Group, Summary
from lightning_graceful.report.tallies import CLASS, groups, p_value, whole_tally
from lightning_graceful.report.verdict import Rules, judge
from lightning_graceful.report.words import counted

LISTED = 1000  # negative flips that a summary lists
OLD, RETRAIN = "old", "retrain"


@dataclass(frozen=True)
class Question:
    """What is asked of prediction files, beside what they hold.

    Attributes:
        reading: How to read the files.
        threshold: Operating thresholds of the old and of the new model; None takes first answers.
        rules: What a release must keep to.
        must_keep: CSV file of ids that must not break.
        retrain: Predictions of the old recipe, trained again: its NFR is the noise floor.
        costs: CSV file with target, answer and cost: what each kind of mistake costs.
        common: Whether to go on with the ids that all files have.
        listed: Most negative flips that the summary lists for each candidate.
        flips: CSV file to write all negative flips to.
        with_images: Whether to read the pictures (column ``image``) of the flips that are listed.
        memory: Most memory that the database may take.
        tell: Called with a few words before each step that may take long.
    """

    reading: Reading = field(default_factory=Reading)
    threshold: tuple[float, float] | None = None
    rules: Rules = field(default_factory=Rules)
    must_keep: Path | None = None
    retrain: Path | None = None
    costs: Path | None = None
    common: bool = False
    listed: int = LISTED
    flips: Path | None = None
    with_images: bool = False
    memory: str = MEMORY
    tell: Callable[[str], None] = lambda words: None


def compare_files(
    old: str | Path, new: Mapping[str, str | Path], *, title: str = "", question: Question | None = None
) -> Summary:
    """Compare what an old and new models said of the same samples.

    Time grows with the rows, memory does not: rows are kept in a temporary database on disk (about 45 bytes a row in
    all for two files, and what the columns of the user take).

    Args:
        old: Prediction file of the old model (see :mod:`lightning_graceful.report.reading`).
        new: Prediction file of each new model by name; the verdict is about the first.
        title: Heading; default: the names of the files.
        question: What is asked.

    Returns:
        The comparison.

    Raises:
        PredictionError: If a file cannot be read or does not fit the others, or a budget is about what does not occur.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_graceful.report.files import write_predictions
        >>> with TemporaryDirectory() as folder:
        ...     old = write_predictions(f"{folder}/old.csv", id=[1, 2, 3], target=[0, 1, 1], label=[0, 1, 0])
        ...     new = write_predictions(f"{folder}/new.csv", id=[3, 2, 1], label=[1, 0, 0])
        ...     whole = compare_files(old, {"new": new}).first.whole
        >>> whole.broke, whole.fixed, round(whole.nfr.mean, 3)
        (1, 1, 0.333)
    """
    question = question or Question()
    with Database(question.memory) as database:
        return _Comparison(database, question).summary(
            Path(old), {name: Path(path) for name, path in new.items()}, title
        )


class _Comparison:
    def __init__(self, database: Database, question: Question) -> None:
        self._database = database
        self._question = question
        self._notes: list[str] = []

    def summary(self, old: Path, new: Mapping[str, Path], title: str) -> Summary:
        if self._question.costs is not None:
            read_costs(self._database, self._question.costs)
        held = self._read(old, OLD)
        joined = {name: self._join(held, path, number) for number, (name, path) in enumerate(new.items())}
        first = next(iter(joined.values()))
        for name, rows in joined.items():
            if rows.slices != first.slices:
                raise PredictionError(f"{new[name]}: expected the slices {first.slices}, got {rows.slices}.")
        candidates = [self._candidate(name, rows, first) for name, rows in joined.items()]
        if self._question.flips is not None:
            write_flips(self._database, joined, self._question.flips)
        return Summary(
            title or f"{old.name.split('.')[0] or old.name} replaced by {' or '.join(new)}",
            tuple(candidates),
            tuple(self._classes(held, joined.values())),
            first.slices,
            noise_floor=self._noise_floor(held),
            threshold=self._question.threshold,
            has_costs=first.has_costs,
            images=self._images(joined.values()) if self._question.with_images else {},
            notes=tuple(dict.fromkeys(self._notes)),
        )

    def _read(self, path: Path, name: str) -> Table:
        # A retrain of the old recipe knows the old classes and is used as the old model is.
        is_old = name in {OLD, RETRAIN}
        threshold = None if self._question.threshold is None else self._question.threshold[0 if is_old else 1]
        reading = self._question.reading if is_old else replace(self._question.reading, label_map=None)
        self._question.tell(f"reading {path.name}")
        table = read_predictions(self._database, path, name, reading, threshold=threshold)
        if table.unused:
            self._notes.append(f"Not used in {path.name}: {named(list(table.unused[:NAMED]), len(table.unused))}.")
        return table

    def _join(self, old: Table, path: Path, number: int) -> Joined:
        new = self._read(path, f"new_{number}")
        self._check_classes(old, new)
        self._question.tell(f"joining {path.name} with {old.path.name}")
        question = self._question
        joined = join(
            self._database, old, new, f"rows_{number}", common=question.common, costs=question.costs is not None
        )
        missing = [name for name in question.reading.slices if name not in joined.slices]
        if missing:
            raise PredictionError(f"Expected the slice {missing[0]!r} as a column of {old.path} or {path}, got none.")
        # The old model's answers are the same beside each candidate.
        for side in ("new",) if number else ("old", "new"):
            if strange := strange_answers(self._database, joined, side):
                self._notes.append(
                    f"Answers of the {side} model that are no target: {named(strange[:NAMED], len(strange))}. If "
                    "classes were renamed, say so with a label map (--label-map)."
                )
        if joined.left_out:
            self._notes.append(
                f"{counted(joined.left_out, 'row')} that the old model was trained on left out: no evidence."
            )
        if joined.unmatched:
            self._notes.append(f"{counted(joined.unmatched, 'row')} left out that only one of the files has.")
        return joined

    def _check_classes(self, old: Table, new: Table) -> None:
        if not old.classes or not new.classes or self._question.reading.label_map is not None:
            return
        lone = sorted({*old.classes} - {*new.classes}), sorted({*new.classes} - {*old.classes})
        if any(lone):
            one, other = (named(names[:NAMED], len(names)) or "none" for names in lone)
            raise PredictionError(
                f"Expected scores for the same classes in {old.path} and {new.path}; only in the one: {one}; only "
                f"in the other: {other}. Say how they correspond with a label map (--label-map FILE with the columns "
                "old,new; a map of no rows says that the new model knows other classes)."
            )

    def _candidate(self, name: str, joined: Joined, first: Joined) -> Candidate:
        database, question = self._database, self._question
        question.tell(f"counting what {name} breaks")
        whole = whole_tally(database, joined)
        for side, right in (("old", whole.both_right + whole.broke), ("new", whole.both_right + whole.fixed)):
            if not right:
                refuse_strangers(database, joined, side)
        grouped = [groups(database, joined, column) for column in (CLASS, *joined.slices)]
        classes, *slices = _adjusted(grouped)
        old, new = (calibration(database, joined, side) for side in ("old", "new"))
        candidate = Candidate(
            name,
            whole,
            error_difference(database, joined),
            p_value(whole, joined),
            classes=tuple(classes),
            slices=tuple(group for part in slices for group in part),
            pairs=flip_pairs(database, joined),
            flips=worst_flips(database, joined, question.listed),
            calibration=None if old is None or new is None else (old, new),
            confidences=confidence_grid(database, joined),
            at_argmax=None if question.threshold is None else whole_tally(database, joined, first=True),
            nfr_against_first=None if joined is first else nfr_difference(database, joined, first),
            error_against_first=None if joined is first else new_error_difference(database, joined, first),
        )
        kept = None if question.must_keep is None else kept_check(database, joined, question.must_keep)
        return replace(candidate, ruling=judge(candidate, question.rules, kept))

    def _noise_floor(self, old: Table) -> Interval | None:
        if self._question.retrain is None:
            return None
        again = self._read(self._question.retrain, RETRAIN)
        joined = join(self._database, old, again, "rows_retrain", common=self._question.common)
        return whole_tally(self._database, joined).nfr

    def _images(self, joined: Iterable[Joined]) -> dict[str, str]:
        from lightning_graceful.report.thumbnails import data_uri_of_file

        paths = dict(pair for rows in joined for pair in flip_images(self._database, rows, self._question.listed))
        found = {key: data_uri_of_file(path) for key, path in paths.items()}
        missing = [paths[key] for key, uri in found.items() if uri is None]
        if missing:
            self._notes.append(f"No picture in {named(missing[:NAMED], len(missing))}.")
        return {key: uri for key, uri in found.items() if uri is not None}

    def _classes(self, old: Table, joined: Iterable[Joined]) -> list[str]:
        found = {name for rows in joined for name in class_names(self._database, rows)}
        return sorted(found | set(old.classes), key=class_order)


def _adjusted(grouped: Sequence[Sequence[Group]]) -> list[list[Group]]:
    # All groups that are looked at make one family.
    flat = [group for part in grouped for group in part]
    values = iter(benjamini_hochberg([group.p_value for group in flat]).tolist())
    return [[replace(group, p_value=next(values)) for group in part] for part in grouped]

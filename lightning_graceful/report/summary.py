"""What a comparison says, ready to be shown: plain values that the card, the page, W&B and every file read alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.history import Churn

Decision = Literal["accept", "reject", "undecided"]


@dataclass(frozen=True)
class Tally:
    """Rows by whether the old and the new model are right, and every rate read from them.

    Attributes:
        rows: Answers counted: one a sample, and a seed where there are several.
        samples: Distinct samples.
        both_right: Right before and now.
        fixed: Positive flips: wrong before, right now.
        broke: Negative flips: right before, wrong now.
        both_wrong: Wrong before and now.
        error_old: Error of the old model with its interval at 95 %, as fractions; weighted where rows have weights.
        error_new: Error of the new model, likewise.
        nfr: Negative-flip rate, likewise.
        pfr: Positive-flip rate, likewise.
        relative_nfr: NFR / ((1 - error_old) * error_new); 1 if the models erred independently, NaN for 0/0.
        cost: Mean cost a sample of what broke, or None where nothing says what a mistake costs.
        effective_rows: By rate ("nfr", "error_new", ...) the independent rows that would tell as much of it.
    """

    rows: int
    samples: int
    both_right: int
    fixed: int
    broke: int
    both_wrong: int
    error_old: Interval
    error_new: Interval
    nfr: Interval
    pfr: Interval
    relative_nfr: float
    cost: Interval | None = None
    effective_rows: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Group:
    """The rows of one class or of one value of a slice.

    Attributes:
        column: Slice column, or "class" for the true class.
        value: The class or the value, as text.
        tally: Its counts and rates.
        p_value: Exact McNemar test of "the error here stays the same", adjusted after Benjamini and Hochberg for the
            number of groups looked at: for exploring, never for a verdict.
    """

    column: str
    value: str
    tally: Tally
    p_value: float = math.nan

    @property
    def where(self) -> str:
        """Name of the group, such as ``country=IS``."""
        return f"{self.column}={self.value or '(empty)'}"


@dataclass(frozen=True)
class Pair:
    """Negative flips from one true class (the old answer) to one new answer.

    Attributes:
        target: True class.
        new: New answer.
        count: Negative flips.
        cost: Their summed cost, weighted; 1 each where nothing says otherwise.
    """

    target: str
    new: str
    count: int
    cost: float


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: rows whose confidence lies in it.

    Attributes:
        rows: Number of rows, more than 0.
        confidence: Their mean confidence.
        accuracy: Share of them that is right.
    """

    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far one model's confidence can be believed; each row counts once, whatever its weight.

    Attributes:
        ece: Expected calibration error over 15 bins of equal width (Guo et al., ICML 2017), a fraction.
        nll: Mean negative log-likelihood of the true class in nats, or None where its probability is not known.
        confidence: Mean confidence.
        bins: The bins that hold rows, by rising confidence.
    """

    ece: float
    nll: float | None
    confidence: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class FlipRow:
    """One negative flip.

    Attributes:
        id: Id of the sample as given.
        target: True class, which the old model answered.
        new: New answer.
        old_confidence: Confidence of the old model in its answer, NaN where not known.
        new_confidence: Confidence of the new model in its answer, NaN where not known.
        cost: Cost of the mistake; 1 where no column says otherwise.
        seed: Seed of the run, or None where there is only one.
        slices: Values of the slice columns, in the order of ``Summary.slice_columns``.
        text: What the sample says, or None.
    """

    id: str
    target: str
    new: str
    old_confidence: float
    new_confidence: float
    cost: float = 1.0
    seed: int | None = None
    slices: tuple[str, ...] = ()
    text: str | None = None


@dataclass(frozen=True)
class Check:
    """One rule of a verdict and what the rows say to it.

    Attributes:
        rule: What was asked, in the user's words: "NFR at most 1 %".
        where: The rows it is about: "all rows" or "country=IS".
        decision: What follows for this rule.
        reason: Why, in one sentence.
        value: What was measured, or None for a rule about single samples.
        limit: What is allowed, as a fraction, or a cost.
        rows_needed: Rows that would decide it at the rate seen, or None where it is decided or none would.
    """

    rule: str
    where: str
    decision: Decision
    reason: str
    value: Interval | None = None
    limit: float | None = None
    rows_needed: int | None = None


@dataclass(frozen=True)
class Ruling:
    """The verdict on one candidate.

    Attributes:
        decision: Reject if any check does, else undecided if any is, else accept.
        checks: All checks, those that reject first, then those that are undecided.
    """

    decision: Decision
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Candidate:
    """One new model against the old one.

    Attributes:
        name: Short name, shown in every table.
        whole: All rows.
        error_difference: error_new - error_old with its paired interval.
        p_value: Exact McNemar test of "the error stays the same".
        classes: The rows by true class, by name.
        slices: The rows by each value of each slice column.
        pairs: Negative flips by true class and new answer, the most frequent first.
        flips: Negative flips one by one, the costliest first, then the surest mistakes; capped.
        calibration: Of the old and of the new model, or None without confidences.
        confidences: Negative flips by confidence in ten bins of equal width, ``[old][new]``, or None.
        at_argmax: All rows by the models' first answers where the rest is about an operating threshold, else None.
        nfr_against_first: NFR - NFR of the first candidate with its paired interval; None for the first.
        error_against_first: The same for the error.
        detail: What sets this candidate apart, such as "lambda 1".
        wall_seconds: Training time, or None where it was not taken.
        ruling: The verdict, or None where no rule was given.
    """

    name: str
    whole: Tally
    error_difference: Interval
    p_value: float
    classes: tuple[Group, ...] = ()
    slices: tuple[Group, ...] = ()
    pairs: tuple[Pair, ...] = ()
    flips: tuple[FlipRow, ...] = ()
    calibration: tuple[Calibration, Calibration] | None = None
    confidences: tuple[tuple[int, ...], ...] | None = None
    at_argmax: Tally | None = None
    nfr_against_first: Interval | None = None
    error_against_first: Interval | None = None
    detail: str = ""
    wall_seconds: float | None = None
    ruling: Ruling | None = None


@dataclass(frozen=True)
class Summary:
    """A comparison of one old model with one or more candidates on the same samples.

    Attributes:
        title: Heading.
        candidates: The candidates; the first is the one that others are compared with.
        classes: Names of the classes, in the order of axes.
        slice_columns: Names of the slice columns.
        noise_floor: NFR between two trainings of one recipe, or None.
        threshold: Operating thresholds of the old and of the new model, or None where answers are first choices.
        has_costs: Whether the rows say what each mistake costs.
        images: Pictures of samples by id, as data URIs; only of those that are shown.
        history: How flips moved over epochs, or None.
        notes: Remarks for the end.

    Raises:
        ValueError: If there is no candidate, or a name is empty or repeats.
    """

    title: str
    candidates: tuple[Candidate, ...]
    classes: tuple[str, ...]
    slice_columns: tuple[str, ...] = ()
    noise_floor: Interval | None = None
    threshold: tuple[float, float] | None = None
    has_costs: bool = False
    images: Mapping[str, str] = field(default_factory=dict)
    history: Churn | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: If there is no candidate, or a name is empty or repeats.
        """
        names = [candidate.name for candidate in self.candidates]
        if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise ValueError(f"Expected at least one candidate, each with a name of its own, got {names}.")

    @property
    def first(self) -> Candidate:
        """The candidate that the verdict is about and others are compared with."""
        return self.candidates[0]

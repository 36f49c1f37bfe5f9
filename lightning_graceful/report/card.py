"""The verdict card: what a release owner reads first, in plain sentences that lead with counts."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_graceful.functional.statistics import Interval, minimum_detectable_nfr
from lightning_graceful.report.summary import Calibration, Candidate, FlipRow, Group, Summary
from lightning_graceful.report.verdict import ALL_ROWS
from lightning_graceful.report.words import counted, difference_words, measured, percent, points

VERDICTS = {"accept": "ACCEPT", "reject": "REJECT", "undecided": "UNDECIDED"}
WORST_GROUPS = 5
WORST_FLIPS = 5
EXPLORED = 0.05  # adjusted p below which a group is pointed at


class Section(NamedTuple):
    """A part of the card.

    Attributes:
        title: Heading.
        lines: Sentences.
    """

    title: str
    lines: tuple[str, ...]


def card_lines(candidate: Candidate, summary: Summary) -> list[str]:
    """Say in a few sentences what replacing the old model by a candidate does.

    Args:
        candidate: The candidate.
        summary: The comparison it belongs to.

    Returns:
        The sentences, counts first.
    """
    whole = candidate.whole
    tested = f"{counted(whole.samples, 'sample')} tested"
    if whole.rows > whole.samples:
        tested += f", {whole.rows:,} answers"
    named = f"{candidate.name}: " if len(summary.candidates) > 1 else ""
    lines = [
        f"{named}{counted(whole.broke, 'case')} broke, {whole.fixed:,} fixed ({tested}).",
        f"NFR {measured(whole.nfr)}. Error {percent(whole.error_old.mean)} before, {percent(whole.error_new.mean)} "
        f"now: {points(candidate.error_difference)}, {difference_words(candidate.error_difference)}.",
    ]
    if whole.cost is not None:
        low, high = whole.cost.low, whole.cost.high
        lines.append(f"What broke costs {whole.cost.mean:.3g} a sample [{low:.3g}, {high:.3g}].")
    if candidate.nfr_against_first is not None:
        words = difference_words(candidate.nfr_against_first)
        lines.append(f"NFR against {summary.first.name}: {points(candidate.nfr_against_first)}, {words}.")
    if summary.noise_floor is not None:
        lines.append(_floor(summary.noise_floor, whole.nfr))
    return lines


def card(candidate: Candidate, summary: Summary) -> list[Section]:
    """Write the whole card.

    Args:
        candidate: The candidate.
        summary: The comparison it belongs to.

    Returns:
        The sections: verdict, what changed, for whom, confidence, the worst flips.
    """
    sections = [_verdict(candidate), Section("What changed", tuple(card_lines(candidate, summary)))]
    sections += [_threshold(candidate, summary), _for_whom(candidate), _confidence(candidate)]
    sections += [_worst(candidate, summary), Section("Remarks", tuple(summary.notes))]
    return [section for section in sections if section.lines]


def _verdict(candidate: Candidate) -> Section:
    counts = f"{counted(candidate.whole.broke, 'case')} broke, {candidate.whole.fixed:,} fixed"
    if candidate.ruling is None:
        detectable = minimum_detectable_nfr(candidate.whole.samples)
        words = f"No budget was given, so there is no verdict. {counted(candidate.whole.samples, 'sample')} would show "
        return Section(
            f"{candidate.name}: {counts}", (f"{words}an NFR of {percent(detectable)} or more in 8 cases of 10.",)
        )
    decided = [check for check in candidate.ruling.checks if check.decision == candidate.ruling.decision]
    lines = [check.reason for check in decided[:WORST_GROUPS]]
    if len(decided) > WORST_GROUPS:
        lines.append(f"{counted(len(decided) - WORST_GROUPS, 'more rule')} with this outcome.")
    if rest := len(candidate.ruling.checks) - len(decided):
        lines.append(f"{counted(rest, 'other rule')} with a better outcome.")
    if candidate.ruling.decision == "undecided" and not any(check.where == ALL_ROWS for check in decided):
        lines.append(
            "Only slices are undecided, for want of rows; 'all' before a budget makes it about all rows alone."
        )
    return Section(f"{VERDICTS[candidate.ruling.decision]} {candidate.name}: {counts}", tuple(lines))


def _floor(floor: Interval, nfr: Interval) -> str:
    words = f"Noise floor: one recipe trained twice has an NFR of {measured(floor)}"
    if nfr.low > floor.high:
        return f"{words}, less than the candidate."
    return f"{words}, more than the candidate." if nfr.high < floor.low else f"{words}, not distinguishable."


def _threshold(candidate: Candidate, summary: Summary) -> Section:
    if candidate.at_argmax is None or summary.threshold is None:
        return Section("", ())
    first = candidate.at_argmax
    old, new = summary.threshold
    at = f"{old:g}" if old == new else f"{old:g} (old) and {new:g} (new)"
    return Section(
        f"At the operating threshold {at}",
        (
            f"All figures are at the threshold. By first answers: {counted(first.broke, 'case')} broke, "
            f"{first.fixed:,} fixed; NFR {measured(first.nfr)}.",
        ),
    )


def _for_whom(candidate: Candidate) -> Section:
    broken = [*_worst_of(candidate.slices), *_worst_of(candidate.classes)]
    lines = [
        f"{group.where} (n = {group.tally.rows:,}): {group.tally.broke:,} broke, {group.tally.fixed:,} fixed, NFR "
        f"{measured(group.tally.nfr)}{_pointed(group)}"
        for group in broken
    ]
    left = sum(bool(group.tally.broke) for group in [*candidate.slices, *candidate.classes]) - len(broken)
    if left > 0:
        lines.append(f"{left:,} more slices and classes have negative flips.")
    return Section("For whom", tuple(lines))


def _worst_of(groups: Sequence[Group]) -> list[Group]:
    broken = [group for group in groups if group.tally.broke]
    return sorted(broken, key=lambda group: -group.tally.nfr.mean)[:WORST_GROUPS]


def _pointed(group: Group) -> str:
    if not group.p_value < EXPLORED:
        return "."
    worse = group.tally.broke > group.tally.fixed
    return f"; got {'worse' if worse else 'better'} (exploring, adjusted p {group.p_value:.2g})."


def _confidence(candidate: Candidate) -> Section:
    if candidate.calibration is None:
        return Section("", ())
    old, new = candidate.calibration
    lines = [f"ECE {percent(old.ece)} before, {percent(new.ece)} now."]
    if old.nll is not None and new.nll is not None:
        lines.append(f"NLL {old.nll:.4f} before, {new.nll:.4f} now.")
    lines.append(_shift(old, new))
    return Section("Calibration", tuple(lines))


def _shift(old: Calibration, new: Calibration) -> str:
    return (
        f"Mean confidence {percent(old.confidence)} before, {percent(new.confidence)} now "
        f"({100 * (new.confidence - old.confidence):+.2f} points): a fixed threshold "
        f"{'lets more through' if new.confidence > old.confidence else 'holds more back'}."
    )


def _worst(candidate: Candidate, summary: Summary) -> Section:
    lines = [_flip(flip, summary) for flip in candidate.flips[:WORST_FLIPS]]
    return Section("Worst flips" if lines else "", tuple(lines))


def _flip(flip: FlipRow, summary: Summary) -> str:
    sure = "" if math.isnan(flip.new_confidence) else f" ({percent(flip.new_confidence, 0)} sure)"
    price = f", cost {flip.cost:g}" if summary.has_costs else ""
    seed = "" if flip.seed is None else f", seed {flip.seed}"
    return f"id {flip.id}{seed}: {flip.target} -> {flip.new}{sure}{price}{_slices(flip.slices, summary.slice_columns)}"


def _slices(values: Iterable[str], columns: Iterable[str]) -> str:
    return "".join(f", {column}={value}" for column, value in zip(columns, values, strict=True))

"""The gate at the end of a job: rules from the config, the verdict on test data, the exit code."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from lightning_graceful.cli import POLICIES
from lightning_graceful.report.budgets import Budget, Measure, parse_budget
from lightning_graceful.report.card import card
from lightning_graceful.report.compare import Question
from lightning_graceful.report.summary import Summary
from lightning_graceful.report.verdict import Rules


def question_of(gate: DictConfig) -> Question:
    """Read the rules of a release.

    Args:
        gate: ``conf/gate/default.yaml``, composed.

    Returns:
        What is asked of the test answers.

    Raises:
        ValueError: If a rule makes no sense.
    """
    if gate.undecided not in POLICIES:
        raise ValueError(f"Expected gate.undecided to be one of {', '.join(POLICIES)}, got {gate.undecided!r}.")
    measures: tuple[Measure, ...] = ("nfr", "error")
    limits = [Budget(name, float(gate[name]), text=f"gate.{name}") for name in measures if gate[name] is not None]
    margins = [None if gate[name] is None else float(gate[name]) for name in ("non_inferior", "equivalence")]
    rules = Rules([*limits, *(parse_budget(str(text)) for text in gate.budgets)], *margins)
    return Question(rules=rules, must_keep=None if gate.must_keep is None else Path(gate.must_keep))


def print_verdicts(summary: Summary, console: Console) -> None:
    """Print the verdict on every candidate that has one.

    Args:
        summary: The comparison on test data.
        console: Where to print.
    """
    for candidate in summary.candidates if summary.first.ruling else ():
        title, lines = card(candidate, summary)[0]
        for line in ("", title, *(f"  {line}" for line in lines)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

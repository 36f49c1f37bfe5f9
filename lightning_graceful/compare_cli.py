"""The ``graceful compare`` command: what an update breaks, from prediction files, with a verdict and an exit code."""

import argparse
import dataclasses
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning_graceful.cli import (
    EXIT_BAD_DATA,
    EXIT_CRASH,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    POLICIES,
    verdict_code,
)
from lightning_graceful.report.database import PredictionError

EXAMPLES = """\
examples:
  graceful compare old.csv new.csv                                   what broke, what was fixed; no verdict, exit code 0
  graceful compare old.csv new.csv --budget nfr=0.01                 0 accept, 1 reject, 3 undecided
  graceful compare old.csv new.csv --budget nfr=0.01 --slice country # in every country, too
  graceful compare old.csv new.csv --budget 'all nfr=0.01' --budget 'slice:country=IS nfr=0.02' --slice country
  graceful compare old.csv new.csv --must-keep contracts.csv --non-inferior error=0.005 --undecided fail
  graceful compare old.csv new.csv --html page.html --markdown comment.md --junit checks.xml --json result.json
  graceful compare old.csv new.csv other.csv --html page.html        two candidates; the verdict is about the first

files: one row a sample; columns id, target (in either file), and label or score_<class>... or score; optional
  confidence, target_score, seed, weight, cost, group, seen_by_old, text, image, slice:<name>.
  CSV, TSV (.gz) or Parquet. Rows are joined by id, never by order.

exit codes: 0 accept, or no rule was given; 1 reject; 3 undecided (--undecided folds it into 0 or 1);
  2 wrong usage, 65 bad data, 70 a crash, 130 interrupted: none of these is a verdict.
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``graceful compare``.

    Args:
        arguments: What follows ``graceful compare``.

    Returns:
        The exit code: 0 accept or no rule, 1 reject, 3 undecided, 2 wrong usage, 65 bad data, 70 a crash,
        130 interrupted.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (PredictionError, OSError) as error:
        from lightning_graceful.report.words import printable

        sys.stderr.write(f"graceful compare: {printable(str(error))}\n")
        return EXIT_BAD_DATA
    except Exception as error:
        traceback.print_exception(error)
        return EXIT_CRASH


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line: twenty of usage would hide it.
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "graceful compare", description="Say what replacing OLD by NEW breaks, for whom, and if that is within budget.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("old", metavar="OLD", type=Path, help="predictions of the old model")
    parser.add_argument(
        "new", metavar="NEW", type=Path, nargs="+", help="predictions of the new model; of more candidates"
    )
    _add_rules(parser.add_argument_group("rules of the verdict"))
    _add_reading(parser.add_argument_group("reading"))
    _add_outputs(parser.add_argument_group("outputs"))
    return parser


def _add_rules(group: Any) -> None:
    add = group.add_argument
    add("--budget", metavar="[WHERE] MEASURE=LIMIT", action="append", default=[], type=_kind("parse_budget"),
        help="most that may break: nfr=0.01 (all rows and every slice), 'all nfr=0.01', 'slice:country=IS nfr=0.02', "
             "'class nfr=5%%', error=0.1, cost=0.5; may be repeated")  # fmt: skip
    add("--must-keep", metavar="CSV", type=Path, help="ids that must not break: one flip among them rejects")
    add(
        "--non-inferior",
        metavar="error=MARGIN",
        type=_kind("parse_margin"),
        help="the error may not rise by MARGIN or more",
    )
    add(
        "--equivalence",
        metavar="error=MARGIN",
        type=_kind("parse_margin"),
        help="the error may change by less than MARGIN",
    )
    add("--undecided", choices=[*POLICIES], default="report", help="exit code of undecided: 3, 0 (pass) or 1 (fail)")
    add("--retrain", metavar="CSV", type=Path, help="predictions of the old recipe under another seed: the noise floor")


def _add_reading(group: Any) -> None:
    add = group.add_argument
    add("--slice", metavar="COLUMN", action="append", default=[], help="a column by which to look; may be repeated")
    add(
        "--threshold",
        metavar="T[,T_NEW]",
        type=_thresholds,
        help="answers below it count as none: of both models, or each",
    )
    add("--logits", action="store_true", help="scores are logits, not probabilities")
    add("--positive", metavar="CLASS", help="the class that a single score column is about")
    add("--label-map", metavar="CSV", type=Path, help="columns old,new: the new name of each class of the old model")
    add(
        "--costs",
        metavar="CSV",
        type=Path,
        help="columns target,answer,cost: what each kind of mistake costs (others 1)",
    )
    add("--common", action="store_true", help="compare the ids that both files have, rather than refuse")
    add("--name", metavar="NAME", action="append", help="name of a candidate, in order; default: its file's")
    add("--memory", metavar="SIZE", default="1GB", help="most memory for rows; the rest goes to the disk (default 1GB)")


def _add_outputs(group: Any) -> None:
    add = group.add_argument
    add("--title", default="", help="heading")
    add("--html", metavar="FILE", type=Path, help="the page: one self-contained file")
    add(
        "--history", metavar="DIR", type=Path, help="what FlipHistory wrote: the page shows how flips moved over epochs"
    )
    add("--flips", metavar="FILE", type=Path, help="every negative flip as CSV")
    add("--json", metavar="FILE", help="everything as JSON; - for standard output, in place of the card")
    add("--markdown", metavar="FILE", help="a comment for a pull request; - for standard output")
    add("--junit", metavar="FILE", type=Path, help="the checks as JUnit XML")
    add("--quiet", action="store_true", help="neither progress nor card")


def _kind(name: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        from lightning_graceful.report import budgets

        try:
            return getattr(budgets, name)(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _thresholds(text: str) -> tuple[float, float]:
    try:
        old, _, new = text.partition(",")
        pair = float(old), float(new or old)
    except ValueError:
        pair = (-1.0, -1.0)
    if not all(0 <= part <= 1 for part in pair):
        raise argparse.ArgumentTypeError(f"expected a confidence between 0 and 1, or two as 0.8,0.7, got {text!r}")
    return pair


def _run(options: argparse.Namespace) -> int:
    if options.html and not all(map(importlib.util.find_spec, ("plotly", "jinja2", "PIL"))):
        sys.stderr.write("graceful compare: --html needs pip install 'lightning-graceful[report]'.\n")
        return EXIT_USAGE
    names = options.name or _names(options.new)
    if not len(set(names)) == len(names) == len(options.new) or not all(map(str.strip, names)):
        sys.stderr.write(f"graceful compare: expected a --name of its own for each of {len(options.new)} candidates.\n")
        return EXIT_USAGE
    if clash := _clash(options):
        sys.stderr.write(f"graceful compare: expected a file of its own for each output, got {str(clash)!r} twice.\n")
        return EXIT_USAGE
    from lightning_graceful.report.compare import compare_files

    new = dict(zip(names, options.new, strict=True))
    history = _history(options)
    summary = compare_files(options.old, new, title=options.title, question=_question(options))
    summary = dataclasses.replace(summary, history=history)
    ruling = summary.first.ruling
    code = verdict_code(ruling.decision if ruling else None, options.undecided)
    _write_all(options, summary, code)
    return code


def _history(options: argparse.Namespace) -> Any:
    from lightning_graceful.report.history import read_history

    try:
        return read_history(options.history).summary() if options.history else None
    except ValueError as error:
        raise PredictionError(str(error)) from error


def _clash(options: argparse.Namespace) -> Any:
    # A file that would be written twice, or over what is read.
    given = (options.must_keep, options.retrain, options.label_map, options.costs)
    taken = {os.path.realpath(path) for path in (options.old, *options.new, *given) if path}
    for path in (options.html, options.flips, options.json, options.markdown, options.junit):
        real = None if path is None else "-" if str(path) == "-" else os.path.realpath(path)
        if real in taken:
            return path
        taken |= {real} - {None, os.devnull}
    return None


def _names(paths: Sequence[Path]) -> list[str]:
    stems = [path.name.split(".")[0] or str(path) for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _question(options: argparse.Namespace) -> Any:
    from lightning_graceful.report.answers import Reading
    from lightning_graceful.report.compare import Question
    from lightning_graceful.report.csv_files import read_rows
    from lightning_graceful.report.verdict import Rules

    label_map: dict[str, str] | None = None
    if options.label_map:
        label_map = {}
        for old, new in read_rows(options.label_map, "old", "new"):
            if old in label_map:
                raise PredictionError(f"{options.label_map}: expected each old name once, got {old!r} repeatedly.")
            label_map[old] = new
    asked = [budget.column for budget in options.budget if budget.column not in {"", "all", "class"}]
    return Question(
        Reading(tuple(dict.fromkeys([*options.slice, *asked])), options.logits, options.positive, label_map),
        options.threshold,
        Rules(options.budget, options.non_inferior, options.equivalence),
        must_keep=options.must_keep,
        retrain=options.retrain,
        costs=options.costs,
        common=options.common,
        flips=options.flips,
        with_images=options.html is not None,
        memory=options.memory,
        tell=_teller(options),
    )


def _teller(options: argparse.Namespace) -> Callable[[str], None]:
    if options.quiet or not sys.stderr.isatty():
        return lambda words: None
    return lambda words: print(f"\r\033[K{words} ...", end="", file=sys.stderr, flush=True)


def _write_all(options: argparse.Namespace, summary: Any, code: int) -> None:
    from lightning_graceful.report.junit import to_junit
    from lightning_graceful.report.markdown import to_markdown
    from lightning_graceful.report.plain import to_json

    if options.html:
        from lightning_graceful.report.page import write_page

        write_page(summary, options.html)
    if options.junit:
        _write(options.junit, to_junit(summary, options.undecided))
    texts: dict[str | None, Callable[[], str]] = {
        options.json: lambda: to_json(summary, code),
        options.markdown: lambda: to_markdown(summary),
    }
    for place, text in texts.items():
        if place and place != "-":
            _write(Path(place), text())
    if not options.quiet and sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may be ASCII
        sys.stdout.reconfigure(errors="backslashreplace")
    if "-" in texts:
        sys.stdout.write(texts["-"]())
    elif not options.quiet:
        sys.stdout.write(_card(summary, options))


def _write(path: Path, text: str) -> None:
    from lightning_graceful.report.drafts import draft_of

    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def _card(summary: Any, options: argparse.Namespace) -> str:
    from lightning_graceful.report.card import card
    from lightning_graceful.report.words import printable

    lines = [summary.title]
    for candidate in summary.candidates:
        for title, sentences in card(candidate, summary):
            lines += ["", title, *(f"  {sentence}" for sentence in sentences)]
    if len(summary.candidates) > 1 and summary.first.ruling is not None:
        lines += ["", f"The exit code is the verdict on {summary.first.name}, the first."]
    files = {"page": options.html, "every flip": options.flips, "JSON": options.json, "Markdown": options.markdown}
    files |= {"JUnit": options.junit}
    written = ", ".join(f"{path} ({kind})" for kind, path in files.items() if path)
    lines += (
        ["", f"Written: {written}."]
        if written
        else ["", "Every flip as a list: --flips flips.csv; a page: --html page.html."]
    )
    return "\n".join(map(printable, lines)) + "\n"

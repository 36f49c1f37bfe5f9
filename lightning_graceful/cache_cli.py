"""The ``graceful cache`` command: what the stores of old outputs hold, whether they are sound, and making room."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lightning_graceful.cli import EXIT_BAD_DATA, EXIT_CRASH, EXIT_INTERRUPTED, EXIT_USAGE
from lightning_graceful.data.inventory import StoreInfo, parse_bytes, stores
from lightning_graceful.data.pruning import delete, empty_damaged, over_quota, unsound, unused
from lightning_graceful.data.rows import CacheError, name_rows
from lightning_graceful.data.store import OutputStore

EXAMPLES = """\
examples:
  graceful cache info old_outputs                      what is there, how full, how large, when last used
  graceful cache verify old_outputs                    checksum every row; 65 if one is damaged
  graceful cache prune old_outputs --quota 50GB        delete the least recently used stores beyond 50 GB
  graceful cache prune old_outputs --damaged --yes     empty damaged rows, so that the next run fills them again
"""
SHORT = 12  # characters of an old model's fingerprint that are shown


def main(arguments: Sequence[str]) -> int:
    """Run ``graceful cache``.

    Args:
        arguments: What follows ``graceful cache``.

    Returns:
        The exit code: 0 done or sound, 2 wrong usage, 65 damaged or no stores, 70 a crash, 130 interrupted.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     main(["info", path, "--json"])
        []
        0
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (CacheError, OSError, ValueError) as error:
        _complain(str(error))
        return EXIT_BAD_DATA
    except Exception as error:
        traceback.print_exception(error)
        return EXIT_CRASH


def _parser() -> argparse.ArgumentParser:
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("graceful cache", description=__doc__, epilog=EXAMPLES, **form)
    commands = parser.add_subparsers(metavar="info|verify|prune", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words, epilog=EXAMPLES, **form)
        added.add_argument("dir", metavar="DIR", type=Path, help="a folder of stores (cache_dir), or one store")
        added.set_defaults(run=run)
        return added

    info = command("info", _info, "Show what the stores hold.")
    info.add_argument("--json", action="store_true", help="print JSON instead of a table")
    info.add_argument("--quick", action="store_true", help="do not count the filled rows, which reads the stores")
    command("verify", _verify, "Compute the checksum of every row.")
    prune = command("prune", _prune, "Delete stores, or empty their damaged rows. Says what, and asks before it does.")
    prune.add_argument("--damaged", action="store_true", help="empty damaged rows, delete what cannot be used at all")
    prune.add_argument("--unused-days", metavar="N", type=_days, help="delete stores not used for N days")
    prune.add_argument("--quota", metavar="SIZE", type=_size, help="delete the least recently used beyond 50GB, 1TiB")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be done")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _info(options: argparse.Namespace) -> int:
    infos = stores(options.dir)
    filled = [None if options.quick else info.count_filled() for info in infos]
    if options.json:
        described = [_as_json(info, count) for info, count in zip(infos, filled, strict=True)]
        sys.stdout.write(json.dumps(described, indent=1) + "\n")
    elif infos:
        # Into a file or a pipe whole lines, which nobody has to guess the rest of.
        Console(width=None if sys.stdout.isatty() else 200).print(_table(infos, filled))
        for info in unsound(infos):
            _say(f"{info.path.name}: {info.problem}")
    else:
        _say(f"No store in {options.dir}.")
    return 0


def _verify(options: argparse.Namespace) -> int:
    infos = stores(options.dir)
    if not infos:
        raise CacheError(f"Expected a store, or a folder of stores, got none in {options.dir}. Check the path.")
    sound = True
    with _progress(sum(info.num_rows for info in infos if info.problem is None)) as advance:
        for info in infos:
            words, is_sound = _verdict(info, advance)
            _say(f"{info.path.name}: {words}")
            sound &= is_sound
    if not sound:
        _complain(f"damage was found. Mend it with `graceful cache prune --damaged {options.dir}`, and fill again.")
    return 0 if sound else EXIT_BAD_DATA


def _verdict(info: StoreInfo, advance: Callable[[int], None]) -> tuple[str, bool]:
    if info.problem is not None:
        return info.problem, False
    try:
        with OutputStore.open_existing(info.path) as store:
            report = store.verify(advance)
    except (CacheError, OSError) as error:
        return str(error), False
    if report.damaged_count:
        first = name_rows(report.damaged)
        return f"{report.damaged_count:,} of {report.filled:,} filled rows are damaged: {first}", False
    return f"sound, {report.filled:,} of {report.rows:,} rows are filled", True


def _prune(options: argparse.Namespace) -> int:
    if not options.damaged and options.unused_days is None and options.quota is None:
        _complain("say what to prune: --damaged, --unused-days N, --quota SIZE.")
        return EXIT_USAGE
    infos = stores(options.dir)
    doomed = _doomed(options, infos)
    kept = [info for info in infos if info.path not in doomed]
    for info in infos:
        if info.path in doomed:
            _say(f"delete {info.path.name} ({decimal(info.disk_bytes)}): {doomed[info.path]}")
    if options.damaged and kept:
        _say(f"empty the damaged rows of {len(kept)} store{'s' if len(kept) > 1 else ''}")
    if not doomed and not (options.damaged and kept):
        _say("Nothing to do.")
        return 0
    if not options.dry_run and not options.yes:
        if not sys.stdin.isatty():
            _complain("there is no terminal to ask on: pass --yes to do this, or --dry-run to only look.")
            return EXIT_USAGE
        if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
            _say("Nothing was changed.")
            return 0
    _carry_out(options, kept, [info for info in infos if info.path in doomed])
    return 0


def _carry_out(options: argparse.Namespace, kept: list[StoreInfo], doomed: list[StoreInfo]) -> None:
    if options.damaged:
        _mend(kept, dry_run=options.dry_run)
    if not options.dry_run:
        _delete(doomed)


def _doomed(options: argparse.Namespace, infos: list[StoreInfo]) -> dict[Path, str]:
    # The stores to delete, and why.
    doomed: dict[Path, str] = {}
    if options.damaged:
        doomed |= {info.path: info.problem or "" for info in unsound(infos)}
    if options.unused_days is not None:
        words = f"not used for {options.unused_days:g} days"
        doomed |= {info.path: words for info in unused(infos, options.unused_days) if info.path not in doomed}
    if options.quota is not None:
        left = [info for info in infos if info.path not in doomed]
        words = f"least recently used, beyond {decimal(options.quota)}"
        doomed |= {info.path: words for info in over_quota(left, options.quota)}
    return doomed


def _mend(infos: list[StoreInfo], *, dry_run: bool) -> None:
    with _progress(sum(info.num_rows for info in infos)) as advance:
        for info in infos:
            rows = empty_damaged(info, dry_run=dry_run, progress=advance)
            if rows is None:
                _say(f"{info.path.name}: left alone, a process is filling it")
            else:
                done = "would be emptied" if dry_run else "emptied"
                _say(f"{info.path.name}: {f'{name_rows(rows)} {done}' if rows else 'no row is damaged'}")


def _delete(infos: list[StoreInfo]) -> None:
    freed = 0
    for info in infos:
        if delete(info):
            freed += info.disk_bytes
        else:
            _say(f"{info.path.name}: left alone, a process is filling it")
    if infos:
        _say(f"{decimal(freed)} freed.")


def _table(infos: list[StoreInfo], filled: list[int | None]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("store", "old model", "rows", "filled", "a row holds", "on disk", "last used"):
        table.add_column(header, no_wrap=header == "store", justify="right" if header in {"rows", "filled"} else "left")
    for info, count in zip(infos, filled, strict=True):
        share = "?" if count is None or not info.num_rows else f"{100 * count / info.num_rows:.1f} %"
        size = decimal(info.disk_bytes)
        if info.disk_bytes < info.full_bytes:
            size += f" of {decimal(info.full_bytes)}"
        used = datetime.fromtimestamp(info.last_used).strftime("%Y-%m-%d %H:%M")
        cells = [info.path.name, str(info.fingerprint.get("old", "?"))[:SHORT], f"{info.num_rows:,}", share]
        cells += [_holds(info) if info.problem is None else "cannot be used", size, used]
        table.add_row(*map(Text, cells), style="" if info.problem is None else "red")
    return table


def _holds(info: StoreInfo) -> str:
    layout = info.layout
    assert layout is not None
    parts = []
    if layout.logits is not None:
        parts.append(f"{layout.logits} classes" + (f" (top {layout.top_k})" if layout.top_k else ""))
    if layout.embedding is not None:
        parts.append(f"embedding {layout.embedding}")
    if info.fingerprint.get("views", 1) != 1:
        parts.append(f"{info.fingerprint['views']} views")
    return ", ".join([*parts, layout.dtype])


def _as_json(info: StoreInfo, filled: int | None) -> dict[str, Any]:
    return {
        "path": str(info.path),
        "fingerprint": info.fingerprint,
        "rows": info.num_rows,
        "filled": filled,
        "layout": None if info.layout is None else asdict(info.layout),
        "disk_bytes": info.disk_bytes,
        "full_bytes": info.full_bytes,
        "last_used": datetime.fromtimestamp(info.last_used, timezone.utc).isoformat(timespec="seconds"),
        "problem": info.problem,
    }


class _Rate(ProgressColumn):
    # Rows a second.
    def render(self, task: Task) -> Text:
        """Return the rate."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")


@contextmanager
def _progress(rows: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("checksums"), BarColumn(), TextColumn("{task.percentage:.0f} %"), _Rate())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not rows) as progress:
        task = progress.add_task("", total=rows)
        yield lambda count: progress.advance(task, count)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of days from 0 on, got {text!r}")
    return days


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")


def _complain(words: str) -> None:
    sys.stderr.write(f"graceful: {words}\n")

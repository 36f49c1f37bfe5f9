"""The ``graceful`` command."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from lightning_graceful import __version__

COMMANDS = {
    "train": "train one new model against one old model (Hydra overrides follow)",
    "bench": "compare ways to train the new model, over seeds (Hydra overrides follow)",
    "evaluate": "search with two or more checkpoints in each other's galleries (Hydra overrides follow)",
}
# Commands without Hydra: what they do, and the module with their ``main``.
PLAIN = {
    "compare": ("say what an update breaks, from prediction files: verdict, page, exit code", "compare_cli"),
    "cache": ("show, verify and prune stored old outputs: info, verify, prune DIR", "cache_cli"),
}
# Lightning's DDP starts its other processes with this process' arguments, from which the command was taken away.
COMMAND_VARIABLE = "LIGHTNING_GRACEFUL_COMMAND"
FULL_ERROR_VARIABLE = "HYDRA_FULL_ERROR"
EXIT_ACCEPT, EXIT_REJECT, EXIT_UNDECIDED = 0, 1, 3
EXIT_USAGE = 2
EXIT_BAD_DATA = 65
EXIT_CRASH = 70
EXIT_INTERRUPTED = 130  # as shells say of Ctrl-C
EXIT_TERMINATED = 143  # as shells say of SIGTERM
# What undecided may be made to leave with.
POLICIES = {"report": EXIT_UNDECIDED, "pass": EXIT_ACCEPT, "fail": EXIT_REJECT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows ``graceful``; default: those of the process.

    Returns:
        The exit code: 0 done or accept, 1 reject, 3 undecided, 2 wrong usage, 65 bad data, 70 a crash, 130 interrupted.

    Example:
        >>> main(["--version"])
        lightning-graceful 0.1.0
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        sys.stdout.write(f"lightning-graceful {__version__}\n")
        return 0
    if given and given[0] in PLAIN:
        return _run_plain(*given)
    if given and given[0] in COMMANDS:
        os.environ[COMMAND_VARIABLE] = given.pop(0)
    elif "LOCAL_RANK" not in os.environ or COMMAND_VARIABLE not in os.environ:
        wanted_help = given in (["--help"], ["-h"])
        (sys.stdout if wanted_help else sys.stderr).write(_usage(given))
        return 0 if wanted_help else EXIT_USAGE
    return _run(os.environ[COMMAND_VARIABLE], given)


def verdict_code(decision: str | None, undecided: str = "report") -> int:
    """Give the exit code of a verdict.

    Args:
        decision: "accept", "reject" or "undecided"; None where no rule was given.
        undecided: Which of ``POLICIES`` to follow.

    Returns:
        0 accept or no rule, 1 reject, 3 undecided unless the policy folds it into 0 or 1.

    Example:
        >>> verdict_code("reject"), verdict_code("undecided"), verdict_code("undecided", "fail"), verdict_code(None)
        (1, 3, 1, 0)
    """
    codes = {None: EXIT_ACCEPT, "accept": EXIT_ACCEPT, "reject": EXIT_REJECT, "undecided": POLICIES[undecided]}
    return codes[decision]


def _run_plain(command: str, *arguments: str) -> int:
    # Python would leave with 1, which elsewhere means "reject", if an import failed.
    try:
        return int(importlib.import_module(f"lightning_graceful.{PLAIN[command][1]}").main(arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        traceback.print_exception(error)
        return EXIT_CRASH


def _run(command: str, overrides: list[str]) -> int:
    job = importlib.import_module(f"lightning_graceful.experiment.{command}")
    sys.argv = [sys.argv[0], *overrides]
    wants_traceback = os.environ.get(FULL_ERROR_VARIABLE) == "1"
    # With it Hydra raises; without, it prints and leaves with 1, which elsewhere means "reject".
    os.environ[FULL_ERROR_VARIABLE] = "1"
    try:
        _find_modules_here()
        job.main()
    except SystemExit as stop:
        # Our jobs leave with 65 or 70; Lightning leaves with 1 on Ctrl-C.
        return EXIT_INTERRUPTED if isinstance(stop.__context__, KeyboardInterrupt) else int(stop.code or 0)
    except BrokenPipeError:
        return 0  # whoever read has gone, as with `| head`.
    except Exception as error:
        if wants_traceback:
            traceback.print_exception(error)
        return _explain(error, command)
    return 0


def _find_modules_here() -> None:
    # Configs name the user's own classes by dotted path. `python -m` has the working directory in its path, a console
    # script only its own folder. Last, for a file that lies about there must not stand in for an installed package.
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.append(here)


def _explain(error: Exception, command: str) -> int:
    """Return the exit code for what kept a job from starting (jobs let no error through), after saying it."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if packages & {"hydra", "omegaconf"}:
        words, _, _ = str(error).partition("Config search path:")
        sys.stderr.write(f"graceful: {words.strip()}\nSee graceful {command} --help for the groups and the config.\n")
        return EXIT_USAGE
    if isinstance(error, OSError):
        sys.stderr.write(f"graceful: {error}\n")
        return EXIT_BAD_DATA
    traceback.print_exception(error)
    return EXIT_CRASH


def _usage(given: list[str]) -> str:
    lines = [] if not given or given[0] in {"-h", "--help"} else [f"graceful: no command {given[0]!r}.\n"]
    lines += ["usage: graceful COMMAND [overrides]", "", "commands:"]
    plain = {name: words for name, (words, _) in PLAIN.items()}
    lines += [f"  {name:<9}{words}" for name, words in {**COMMANDS, **plain}.items()]
    lines += ["", "graceful COMMAND --help shows more: of a job, its groups and its composed config.", ""]
    return "\n".join(lines)

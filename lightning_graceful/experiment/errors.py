"""How a job ends when something is wrong: one sentence for the user's mistake, a traceback for ours."""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console

from lightning_graceful.cli import EXIT_BAD_DATA, EXIT_CRASH, EXIT_TERMINATED, EXIT_USAGE
from lightning_graceful.data.rows import CacheError

Result = TypeVar("Result")


def reported(job: Callable[[DictConfig], Result]) -> Callable[[DictConfig], Result]:
    """Turn errors of a job into exit codes that do not read as a verdict.

    65 for bad data or arguments, 70 for a crash, 143 where SIGTERM stopped a training.

    Args:
        job: Runs a composed config.

    Returns:
        The job, which leaves by ``SystemExit`` instead of an error.
    """

    @functools.wraps(job)
    def run(cfg: DictConfig) -> Result:
        try:
            return job(cfg)
        except SIGTERMException:
            sys.exit(EXIT_TERMINATED)  # its own code is 0
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, OmegaConfBaseException):
                first = str(cause).strip().splitlines()[0]
                Console(stderr=True).print(f"graceful: {first}", markup=False, soft_wrap=True)
                sys.exit(EXIT_USAGE)
            if isinstance(cause, ValueError | FileNotFoundError | CacheError):
                Console(stderr=True).print(f"graceful: {cause}", markup=False, soft_wrap=True)
                sys.exit(EXIT_BAD_DATA)
            traceback.print_exception(error)
            sys.exit(EXIT_CRASH)

    return run


def _cause(error: BaseException) -> BaseException:
    # Look behind Hydra's InstantiationException at what the constructor raised.
    from hydra.errors import InstantiationException

    return error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error

"""Where a run keeps what its callbacks write, and plain files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from lightning_graceful.report.drafts import draft_of


def run_folder(trainer: Any, dirpath: str | None, name: str) -> Path:
    """Choose a folder, the same on all ranks.

    Args:
        trainer: The trainer.
        dirpath: What the user asked for; None follows ModelCheckpoint: a folder of the first logger's run, else
            ``default_root_dir``.
        name: The folder there.

    Returns:
        An absolute path.
    """
    if dirpath is None:
        logger = next(iter(trainer.loggers), None)
        root = getattr(logger, "save_dir", None) or trainer.default_root_dir
        dirpath = str(Path(root, *_run(logger), name))
    chosen: str = trainer.strategy.broadcast(str(Path(dirpath).absolute()))
    return Path(chosen)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all: a crash on the way leaves an earlier file as it was.

    Args:
        path: The file; its folder is made.
        value: Plain values, no NaN among them.
    """
    with draft_of(path) as draft, draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def local_path(dirpath: str | Path | None) -> str | None:
    """Check a user's folder.

    Args:
        dirpath: A folder of this machine, or None.

    Returns:
        The same as text.

    Raises:
        ValueError: If it is a URL.
    """
    if dirpath is not None and "://" in str(dirpath):
        raise ValueError(f"Expected dirpath to be a folder of this machine, got {str(dirpath)!r}. Mount it, or copy.")
    return None if dirpath is None else str(dirpath)


def _run(logger: Any) -> list[str]:
    if logger is None:
        return []
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return [str(logger.name), version]

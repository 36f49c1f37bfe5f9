"""What each finished seed of a bench came to, on disk: a bench that was interrupted goes on from there."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from lightning_graceful.experiment.update import is_rank_zero
from lightning_graceful.report.drafts import draft_of

FOLDER = "finished"
_ABOUT = "about"
# These say which seeds are run, where things go and what is told of them, not what a seed comes to.
_FREE = ("seeds", "draws", "resume", "root", "cache_dir", "logger", "title", "gate", "minimum_gap", "job")
_SHOWN = ("callbacks.progress", "trainer.enable_progress_bar")
_MOST_TOLD = 5
_OF_ZIP = (zipfile.BadZipFile, zlib.error)


class Finished(NamedTuple):
    """What a seed came to.

    Attributes:
        arrays: By name.
        about: All else, of JSON's kinds.
    """

    arrays: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any]


class FinishedSeeds:
    """Keep each finished seed in the run's folder, and take those of the run that is gone on with.

    A seed is one file, ``finished/NAME.npz``, there whole or not at all, without pickle, and with the settings that it
    was run with; zip's checksums find a damage.

    Args:
        cfg: The job's config; ``resume`` is the folder of an earlier run, or null.
        directory: The run's folder.
        further: Settings besides those of the config that decide what a seed comes to.

    Raises:
        FileNotFoundError: If the earlier run has no finished seed.
    """

    def __init__(self, cfg: DictConfig, directory: Path, further: Mapping[str, Any] | None = None) -> None:
        self._settings = json.loads(json.dumps({**_settings_of(cfg), **(further or {})}))
        self._kept = directory / FOLDER
        self._earlier = None if cfg.resume is None else Path(cfg.resume) / FOLDER
        if self._earlier is not None and not any(self._earlier.glob("*.npz")):
            raise FileNotFoundError(
                f"Expected resume to be the folder of a bench that has finished a seed, but {self._earlier} holds none."
                " Leave resume out to begin anew."
            )

    def take(self, name: str) -> Finished | None:
        """Return what a seed of the earlier run came to, and keep it here, too.

        Args:
            name: Of the seed.

        Returns:
            What it came to; None if there is no earlier run, or it has not finished this seed.

        Raises:
            ValueError: If the file is damaged, or the settings were others.
        """
        path = None if self._earlier is None else self._earlier / f"{name}.npz"
        if path is None or not path.is_file():
            return None
        found, settings = _read(path)
        _check_settings(path, settings, self._settings)
        self.keep(name, found)
        return found

    def keep(self, name: str, found: Finished) -> None:
        """Write what a seed came to, on the first rank.

        Args:
            name: Of the seed.
            found: What it came to.
        """
        if not is_rank_zero():
            return
        about = json.dumps({"settings": self._settings, "names": sorted(found.arrays), _ABOUT: dict(found.about)})
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **{_ABOUT: np.array(about), **found.arrays})
        with draft_of(self._kept / f"{name}.npz") as draft:
            draft.write_bytes(content.getvalue())


@contextmanager
def told_how_to_go_on(directory: Path) -> Iterator[None]:
    """Say what to type where a bench ends early and has finished a seed.

    Args:
        directory: The run's folder.

    Yields:
        Nothing.
    """
    try:
        yield
    except BaseException:
        if is_rank_zero() and any((directory / FOLDER).glob("*.npz")):
            Console(stderr=True).print(
                f"Finished seeds are kept. To go on, add: resume={directory}", markup=False, soft_wrap=True
            )
        raise


def _settings_of(cfg: DictConfig) -> dict[str, Any]:
    # Flat, by dotted key: two runs differ in single settings.
    copy = cfg.copy()
    with open_dict(copy):
        copy.root = copy.cache_dir = ""  # paths that are made of them would differ
    flat = dict(_leaves(OmegaConf.to_container(copy, resolve=True), ""))
    versions = {"lightning-graceful": version("lightning-graceful"), "torch": torch.__version__}
    decisive = {key: value for key, value in flat.items() if not _is_free(key)}
    return {**versions, **decisive}


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _is_free(key: str) -> bool:
    return key.split(".")[0] in _FREE or any(key == name or key.startswith(f"{name}.") for name in _SHOWN)


def _read(path: Path) -> tuple[Finished, Mapping[str, Any]]:
    try:
        content = io.BytesIO(path.read_bytes())  # of a damaged file numpy would leave the handle open
        _check_sums(content)
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop(_ABOUT)))
        if sorted(arrays) != header["names"]:  # its list of contents has no checksum
            raise ValueError(f"it holds {len(arrays)} arrays of {len(header['names'])}")
        return Finished(arrays, header[_ABOUT]), header["settings"]
    except (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, *_OF_ZIP) as error:
        raise ValueError(
            f"Expected {path} as it was written, but it cannot be read: {error}. Delete it, and the seed is run again."
        ) from error


def _check_sums(content: io.BytesIO) -> None:
    # All of them before numpy reads a header: it would evaluate whatever stands there.
    with zipfile.ZipFile(content) as file:
        damaged = file.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged!r} has changed since")
    content.seek(0)


def _check_settings(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    unset = "nothing"
    differ = [key for key in sorted({*there, *here}) if there.get(key, unset) != here.get(key, unset)]
    if not differ:
        return
    told = "; ".join(f"{key}: {there.get(key, unset)} there, {here.get(key, unset)} now" for key in differ[:_MOST_TOLD])
    more = f"; and {len(differ) - _MOST_TOLD} more" if len(differ) > _MOST_TOLD else ""
    raise ValueError(
        f"Expected the settings of {path}, but {told}{more}. Go on with the same settings, or leave resume out."
    )

"""What a store of old outputs says of itself: of which model and data its rows are, and how they lie."""

import contextlib
import hashlib
import json
import os
import reprlib
import stat
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_graceful.data.rows import CacheError, RowLayout
from lightning_graceful.data.shards import RowFiles, disk

FORMAT = 2
MANIFEST = "manifest.json"


def nearest(cache_dir: Path | str, fingerprint: Mapping[str, Any]) -> tuple[Path, list[str]] | None:
    """Find the store that shares most parts of a fingerprint, to say why a new one is needed.

    Args:
        cache_dir: The directory of the stores; directories in it that are no sound store are passed over.
        fingerprint: What the outputs depend on.

    Returns:
        Its path and the sorted names of the parts that differ; None where no store shares a part.

    Example:
        >>> nearest("no/such/place", {"old": "v1"}) is None
        True
    """
    wanted: dict[str, Any] = json.loads(canonical(fingerprint))
    best: tuple[int, Path, list[str]] | None = None
    for file in sorted(Path(cache_dir).glob(f"*/{MANIFEST}")):
        try:
            found = load_manifest(file.parent).fingerprint
        except (CacheError, OSError):
            continue
        differing = _differing(wanted, found)
        shared = len(wanted.keys() | found.keys()) - len(differing)
        if shared > (best[0] if best else 0):
            best = shared, file.parent, differing
    return best[1:] if best else None


def store_path(cache_dir: Path | str, fingerprint: Mapping[str, Any]) -> Path:
    """Name the directory of a store.

    Args:
        cache_dir: The directory of all stores.
        fingerprint: What the outputs depend on: names and JSON values.

    Returns:
        ``cache_dir`` and 16 hexadecimal digits of the fingerprint's SHA-256.

    Example:
        >>> store_path("old_outputs", {"old": "v1"}).as_posix()
        'old_outputs/8c7482aee42e3032'
    """
    return Path(cache_dir) / hashlib.sha256(canonical(fingerprint)).hexdigest()[:16]


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says; it is written once and never changed."""

    fingerprint: dict[str, Any]
    num_rows: int
    layout: RowLayout
    rows_per_shard: int

    def files(self, path: Path) -> RowFiles:
        """Return the files of the rows."""
        return RowFiles(path, self.num_rows, self.layout.nbytes, self.rows_per_shard)

    def to_json(self) -> str:
        """Return the text of the file, with a checksum of its own."""
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps({**body, "crc32": zlib.crc32(canonical(body))}, indent=1, sort_keys=True)

    def refuse_other(self, expected: "Manifest", path: Path) -> None:
        """Compare with what is wanted.

        Raises:
            CacheError: If a part differs; names each.
        """
        wanted, found = expected.parts(), self.parts()
        wrong = [
            f"{part}: expected {reprlib.repr(wanted.get(part))}, got {reprlib.repr(found.get(part))}"
            for part in _differing(wanted, found)
        ]
        if wrong:
            raise CacheError(f"Another store is in {path}. {'; '.join(wrong)}. Use another directory or delete it.")

    def parts(self) -> dict[str, Any]:
        """Return all that identifies the store, by name."""
        named = {f"fingerprint.{name}": value for name, value in self.fingerprint.items()}
        layout = {f"layout.{name}": value for name, value in asdict(self.layout).items()}
        return {**named, **layout, "num_rows": self.num_rows}


def load_manifest(path: Path) -> Manifest:
    """Read and check the manifest of a store.

    Args:
        path: The store's directory.

    Returns:
        What it says.

    Raises:
        FileNotFoundError: If there is none.
        CacheError: If it cannot be read, was altered, or is of another format.
    """
    file = path / MANIFEST
    with disk(f"read {file}"):
        text = file.read_bytes() if has_manifest(path) else None
    if text is None:
        raise FileNotFoundError(
            f"Expected a store of old outputs in {path}, got no {MANIFEST} there. "
            "Check the path, or fill the store first (OldOutputCache with an old model)."
        )
    altered = f"Expected a sound {file}, got an altered one. Delete the directory and fill it again."
    try:
        body = json.loads(text)
        version, crc = body["format"], body.pop("crc32", None)
        sound = crc == zlib.crc32(canonical(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(altered) from error
    if version != FORMAT:
        raise CacheError(
            f"Expected a store of format {FORMAT}, got format {version!r} in {file}. "
            "Use the version of lightning-graceful that wrote it, or delete the directory and fill it again."
        )
    if not sound:
        raise CacheError(altered)
    return Manifest(body["fingerprint"], body["num_rows"], RowLayout(**body["layout"]), body["rows_per_shard"])


def has_manifest(path: Path) -> bool:
    """Say whether there is a store in a directory, sound or not.

    Args:
        path: The directory.

    Returns:
        False where there is no directory, or no manifest in it.

    Raises:
        OSError: If the system does not say.
    """
    try:
        return stat.S_ISREG(os.stat(path / MANIFEST).st_mode)
    except FileNotFoundError:
        return False


def mark_used(path: Path) -> None:
    """Note in the time of the manifest's last change, which never changes otherwise, that the store is used now."""
    with contextlib.suppress(OSError):  # it may lie where nothing can be written
        os.utime(path / MANIFEST)


def publish(path: Path, text: str) -> None:
    """Put a manifest in place, whole or not at all; where another process was first, its own stays.

    Args:
        path: The store's directory.
        text: The manifest.

    Raises:
        CacheError: If the disk refuses.
    """
    draft = path / f".{MANIFEST}.{uuid.uuid4().hex}"
    with disk(f"write {path / MANIFEST}"):
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path / MANIFEST)
            except FileExistsError:
                pass  # another process was first; its manifest is checked like any that is found
            except OSError:  # a file system without hard links
                draft.replace(path / MANIFEST)
        finally:
            draft.unlink(missing_ok=True)


def canonical(value: Mapping[str, Any]) -> bytes:
    """Write JSON values so that equal ones give equal bytes.

    Args:
        value: JSON values by name.

    Returns:
        The bytes.

    Raises:
        ValueError: If a value is not JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected a fingerprint of JSON values, got {reprlib.repr(value)}: {error}.") from error


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    absent = object()
    return sorted(name for name in one.keys() | other.keys() if one.get(name, absent) != other.get(name, absent))

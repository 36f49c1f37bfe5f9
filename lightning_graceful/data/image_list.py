"""A list of image files, checked as far as it can be without opening one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NAMED = 5  # names that a message lists


@dataclass(frozen=True)
class ImageList:
    """Paths and labels of images; as many bytes a sample as the longest path has, and 8: about 45 for ImageNet.

    Attributes:
        folder: Where the paths begin.
        paths: Relative paths with ``/``, encoded, in one array: workers that are forked share it. Shape ``(N,)``.
        target: Labels, int64, shape ``(N,)``.
        classes: Class names.
    """

    folder: Path
    paths: NDArray[np.bytes_]
    target: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.target)

    def id_of(self, index: int) -> str:
        """Return the relative path of an image, by which people know it."""
        return os.fsdecode(bytes(self.paths[index]))

    def path_of(self, index: int) -> Path:
        """Return where an image lies."""
        return self.folder / self.id_of(index)


class ImageEntry(NamedTuple):
    """An image that a file of annotations lists.

    Attributes:
        path: Its path, relative to the folder.
        label: Its label.
        where: The line or entry that lists it, for messages.
    """

    path: str
    label: int
    where: str


def image_list(folder: Path, entries: Sequence[ImageEntry], classes: Sequence[str]) -> ImageList:
    """List images after a look whether their files are there: one look into each folder.

    Args:
        folder: Where the paths begin.
        entries: The images.
        classes: Class names.

    Returns:
        The images, in the order of the entries.

    Raises:
        FileNotFoundError: If a file is missing; names the entry that lists it.
    """
    for parent, inside in groupby(sorted(entries), key=lambda entry: entry.path.rpartition("/")[0]):
        present = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
        for entry in inside:
            if entry.path.rpartition("/")[2] not in present:
                raise FileNotFoundError(f"Expected the image of {entry.where} at {folder / entry.path}, found no file.")
    target = np.array([entry.label for entry in entries], dtype=np.int64)
    return ImageList(folder, encoded([entry.path for entry in entries]), target, tuple(classes))


def encoded(paths: Sequence[str]) -> NDArray[np.bytes_]:
    """Return paths as one array of bytes."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def checked_parts(train: ImageList, test: ImageList, where: str) -> tuple[ImageList, ImageList]:
    """Refuse parts that nothing can be trained or tested on.

    Args:
        train: Training images.
        test: Test images.
        where: What lists the training images, for messages.

    Returns:
        Both parts.

    Raises:
        ValueError: If there are fewer than two classes, one has no training image, or there is no test image.
    """
    counts = np.bincount(train.target, minlength=len(train.classes))
    if len(counts) < 2:
        raise ValueError(f"Expected at least two classes {where}, found {len(counts)}.")
    if not counts.all():
        empty = [name for name, count in zip(train.classes, counts.tolist(), strict=True) if not count]
        raise ValueError(
            f"Expected training images of every class {where}, found none of {few(empty)}. "
            "Bring them, or take the class out."
        )
    if not len(test):
        raise ValueError(f"Expected test images in {test.folder}, found none.")
    return train, test


def existing_folder(folder: str | Path) -> Path:
    """Return a folder that is there.

    Args:
        folder: Its path; ``~`` is the user's home.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a folder of images at {root}, found none. data.folder=FOLDER names it.")
    return root


def seen_in(folder: Path) -> str:
    """Return the names of what lies in a folder, for messages."""
    return few(sorted(os.listdir(folder))) if folder.is_dir() else "no such folder"


def few(names: Sequence[str]) -> str:
    """Return the first names, for messages.

    Example:
        >>> few(["a", "b"]), few(list("abcdefg"))
        ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "nothing") + more

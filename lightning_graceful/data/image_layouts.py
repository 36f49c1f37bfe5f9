"""Which images a folder holds: layouts of ImageNet, CUB-200-2011 and iNaturalist, read without opening an image.

A layout is a function from a folder to its training and its test images, such as :func:`class_folders`; any function
with the same answer is one, too.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_graceful.data.image_list import (
    ImageEntry,
    ImageList,
    checked_parts,
    encoded,
    existing_folder,
    few,
    image_list,
    seen_in,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
CUB_FILES = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
Layout = Callable[[Path], tuple[ImageList, ImageList]]


def class_folders(folder: str | Path, *, train: str = "train", test: str = "val") -> tuple[ImageList, ImageList]:
    """Read ``train/<class>/<image>`` and ``val/<class>/<image>``: the layout of ImageNet.

    ImageNet's validation images, whose labels are public, are the test images. Files with another suffix than an
    image's are passed over, and so are folders within a class.

    Args:
        folder: Holds both parts.
        train: Folder of the training images; its folders are the classes, in alphabetical order.
        test: Folder of the test images; a class may be missing.

    Returns:
        Training and test images.

    Raises:
        FileNotFoundError: If a part is missing.
        ValueError: If a class has no training image, or a test class is unknown.
    """
    root = existing_folder(folder)
    for part in (train, test):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"Expected folders {train}/CLASS/IMAGE and {test}/CLASS/IMAGE in {root}, found {seen_in(root)}. "
                "Name the parts (train=, test=), or choose another layout: cub_200, inaturalist."
            )
    classes = _class_names(root / train)
    if strange := sorted(set(_class_names(root / test)) - set(classes)):
        raise ValueError(f"Expected the classes of {root / train} in {root / test}, got {few(strange)}, too.")
    parts = [_in_class_folders(root, part, classes) for part in (train, test)]
    return checked_parts(parts[0], parts[1], f"in {root / train}")


def cub_200(folder: str | Path) -> tuple[ImageList, ImageList]:
    """Read the layout of CUB-200-2011 (Wah et al., 2011): four text files and ``images/<class>/<image>``.

    Lines are ``<number> <value>``: ``images.txt`` gives the path of each image below ``images``, ``classes.txt`` the
    names, ``image_class_labels.txt`` the class of each image, ``train_test_split.txt`` 1 for training and 0 for test.

    Args:
        folder: The unpacked ``CUB_200_2011``.

    Returns:
        Training and test images.

    Raises:
        FileNotFoundError: If a text file or an image is missing; names the line that lists it.
        ValueError: If a line cannot be, or a class has no training image.
    """
    root = existing_folder(folder)
    if missing := [name for name in CUB_FILES if not (root / name).is_file()]:
        raise FileNotFoundError(f"Expected {', '.join(missing)} of CUB-200-2011 in {root}, found {seen_in(root)}.")
    names, images, labels, split = (_numbered_lines(root / name) for name in CUB_FILES)
    position = {number: place for place, number in enumerate(sorted(names))}
    entries: tuple[list[ImageEntry], list[ImageEntry]] = ([], [])
    for number, (path, line) in images.items():
        label = _value_of(number, labels, root / CUB_FILES[2], {str(name): at for name, at in position.items()})
        is_train = _value_of(number, split, root / CUB_FILES[3], {"0": 0, "1": 1})
        entries[1 - is_train].append(ImageEntry(f"images/{path}", label, f"line {line} of {root / 'images.txt'}"))
    classes = [names[number].text for number in sorted(names)]
    train, test = (image_list(root, part, classes) for part in entries)
    return checked_parts(train, test, f"in {root / CUB_FILES[3]}")


def inaturalist(
    folder: str | Path, *, train: str = "train2018.json", test: str = "val2018.json"
) -> tuple[ImageList, ImageList]:
    """Read the layout of iNaturalist (Van Horn et al., 2018): annotations in JSON, as those of COCO.

    ``images`` holds ``id`` and ``file_name`` (below the folder), ``annotations`` ``image_id`` and ``category_id``,
    ``categories`` ``id`` and ``name``. Classes are the categories of the training file by their id.

    Args:
        folder: Holds annotations and images.
        train: Annotations of the training images.
        test: Annotations of the test images: the published validation part, whose labels are public.

    Returns:
        Training and test images.

    Raises:
        FileNotFoundError: If annotations or an image are missing; names the entry that lists it.
        ValueError: If an entry cannot be, or a class has no training image.
    """
    root = existing_folder(folder)
    annotations = [_Annotations.read(root / part) for part in (train, test)]
    names = {one["id"]: str(one["name"]) for one in annotations[0].entries("categories", "id", "name")}
    position = {number: place for place, number in enumerate(sorted(names))}
    classes = [names[number] for number in sorted(names)]
    parts = [image_list(root, list(_annotated(part, position)), classes) for part in annotations]
    return checked_parts(parts[0], parts[1], f"in {root / train}")


class _Line(NamedTuple):
    text: str
    line: int


class _Annotations(NamedTuple):
    # A file of annotations, parsed once.
    path: Path
    content: Any

    @classmethod
    def read(cls, path: Path) -> "_Annotations":
        try:
            return cls(path, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Expected annotations of iNaturalist at {path}, found {seen_in(path.parent)}. "
                "Name them: train=, test=."
            ) from error
        except ValueError as error:  # says line and column
            raise ValueError(f"Expected JSON in {path}, got something else: {error}.") from error

    def entries(self, part: str, *keys: str) -> list[dict[str, Any]]:
        # One of its lists, every entry with these keys.
        found = self.content.get(part) if isinstance(self.content, dict) else None
        if not isinstance(found, list):
            raise ValueError(f"Expected a list {part!r} in {self.path}, found none. Is it of iNaturalist?")
        for number, entry in enumerate(found):
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                raise ValueError(f"Expected {' and '.join(keys)} in entry {number} of {part!r} in {self.path}.")
        return found


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _in_class_folders(root: Path, part: str, classes: Sequence[str]) -> ImageList:
    paths: list[str] = []
    sizes = []
    for name in classes:
        place = root / part / name
        files = sorted(os.listdir(place)) if place.is_dir() else []
        found = [f"{part}/{name}/{file}" for file in files if file.lower().endswith(SUFFIXES)]
        paths += found
        sizes.append(len(found))
    return ImageList(root, encoded(paths), np.repeat(np.arange(len(classes)), sizes), tuple(classes))


def _numbered_lines(path: Path) -> dict[int, _Line]:
    # Lines `<number> <text>`, by number.
    found: dict[int, _Line] = {}
    for line, content in enumerate(path.read_text().splitlines(), start=1):
        number, _, text = content.strip().partition(" ")
        if not number and not text:
            continue  # an empty line
        if not number.isdecimal() or not text or int(number) in found:
            raise ValueError(f"Expected a new number and a value in line {line} of {path}, got {content!r}.")
        found[int(number)] = _Line(text.strip(), line)
    return found


def _value_of(number: int, lines: dict[int, _Line], path: Path, allowed: dict[str, int]) -> int:
    if number not in lines:
        raise ValueError(f"Expected image {number} of images.txt in {path}, found no line for it.")
    text, line = lines[number]
    if text not in allowed:
        raise ValueError(f"Expected one of {few(sorted(allowed))} in line {line} of {path}, got {text!r}.")
    return allowed[text]


def _annotated(annotations: _Annotations, position: dict[int, int]) -> Iterator[ImageEntry]:
    # The images of an annotation file in its order, each with its one label.
    labels: dict[int, int] = {}
    for number, one in enumerate(annotations.entries("annotations", "image_id", "category_id")):
        place = f"entry {number} of 'annotations' in {annotations.path}"
        if one["category_id"] not in position:
            raise ValueError(f"Expected a category of the training images in {place}, got {one['category_id']}.")
        if labels.setdefault(one["image_id"], position[one["category_id"]]) != position[one["category_id"]]:
            raise ValueError(f"Expected one category of image {one['image_id']}, got another one in {place}.")
    for number, image in enumerate(annotations.entries("images", "id", "file_name")):
        place = f"entry {number} of 'images' in {annotations.path}"
        if image["id"] not in labels:
            raise ValueError(f"Expected an annotation of image {image['id']}, {place}, found none.")
        yield ImageEntry(image["file_name"], labels[image["id"]], place)

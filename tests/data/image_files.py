"""Tiny image files in the layouts of ImageNet, CUB-200-2011 and iNaturalist.

Every image has one shade, ``10 * class + number`` (PNG) so that a test can tell which one it was given.
"""

import json

import numpy as np
from PIL import Image

CLASSES = ["ant", "bee", "cat"]
SIZE = (12, 8)  # width, height


def shade(label, number):
    return 60 * label + number


def write_image(path, value, size=SIZE, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), value, np.uint8)).convert(mode).save(path)
    return path


def write_class_folders(root, train=6, test=4, suffix=".png", parts=("train", "val")):
    for part, count in zip(parts, (train, test), strict=True):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                write_image(root / part / name / f"{number}{suffix}", shade(label, number))
    return root


def write_cub(root, train=6, test=4):
    lines = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    number = 0
    for label, name in enumerate(CLASSES):
        folder = f"{label + 1:03}.{name}"
        for position in range(train + test):
            number += 1
            write_image(root / "images" / folder / f"{position}.png", shade(label, position))
            lines["images"].append(f"{number} {folder}/{position}.png")
            lines["image_class_labels"].append(f"{number} {label + 1}")
            # As in CUB, both parts stand in one folder, in turns.
            lines["train_test_split"].append(f"{number} {int(position % 2 == 0 or position >= 2 * test)}")
    lines["classes"] = [f"{label + 1} {label + 1:03}.{name}" for label, name in enumerate(CLASSES)]
    for name, content in lines.items():
        (root / f"{name}.txt").write_text("\n".join(content) + "\n")
    return root


def annotations(root, part, count):
    """Entries out of order, with ids that are no positions."""
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for number in range(count):
            key = 1000 - 10 * label - number
            file = f"{part}/{name}/{number}.jpg"
            write_image(root / file, shade(label, number))
            images.append({"id": key, "file_name": file, "width": SIZE[0], "height": SIZE[1]})
            labels.insert(0, {"id": key, "image_id": key, "category_id": 70 + label})
    categories = [{"id": 70 + label, "name": name} for label, name in reversed(list(enumerate(CLASSES)))]
    return {"images": images, "annotations": labels, "categories": categories}


def write_inaturalist(root, train=6, test=4):
    for part, count in (("train2018", train), ("val2018", test)):
        content = annotations(root, part, count)
        (root / f"{part}.json").write_text(json.dumps(content))
    return root

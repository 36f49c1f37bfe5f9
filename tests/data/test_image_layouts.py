import json

import numpy as np
import pytest

from lightning_graceful.data.image_layouts import class_folders, cub_200, inaturalist
from tests.data.image_files import CLASSES, write_class_folders, write_cub, write_image, write_inaturalist


def label_in(path):
    """The class that a path names: the truth, whatever the annotations say."""
    return next(label for label, name in enumerate(CLASSES) if f"{name}/" in path)


@pytest.mark.parametrize(
    ("layout", "write"),
    [(class_folders, write_class_folders), (cub_200, write_cub), (inaturalist, write_inaturalist)],
)
def test_layouts_list_every_image_once_with_its_class(layout, write, tmp_path):
    train, test = layout(write(tmp_path))
    assert (len(train), len(test)) == (18, 12)
    for part in (train, test):
        assert [label_in(part.id_of(index)) for index in range(len(part))] == part.target.tolist()
        assert all(part.path_of(index).is_file() for index in range(len(part)))
        assert [name.rpartition(".")[2] for name in part.classes] == CLASSES
        assert part.target.dtype == np.int64
    ids = [part.id_of(index) for part in (train, test) for index in range(len(part))]
    assert len(set(ids)) == 30


def test_a_sample_costs_its_path_and_eight_bytes(tmp_path):
    train, _ = class_folders(write_class_folders(tmp_path))
    assert train.paths.nbytes + train.target.nbytes == len(train) * (len("train/ant/0.png") + 8)


def test_class_folders_pass_other_files_over_and_take_names_of_any_script(tmp_path):
    write_class_folders(tmp_path)
    write_image(tmp_path / "train" / "ant" / "été Ж.JPEG", 5)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "list.csv").write_text("no class")
    train, _ = class_folders(tmp_path)
    assert len(train) == 19
    assert train.classes == tuple(CLASSES)
    assert "train/ant/été Ж.JPEG" in [train.id_of(index) for index in range(19)]


def test_class_folders_of_other_names(tmp_path):
    write_class_folders(tmp_path, parts=("a", "b"))
    assert len(class_folders(tmp_path, train="a", test="b")[1]) == 12
    with pytest.raises(FileNotFoundError, match=r"train/CLASS/IMAGE and val/CLASS/IMAGE in .*found a, b\."):
        class_folders(tmp_path)


def test_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere, found none"):
        class_folders(tmp_path / "nowhere")


def test_empty_class_is_named(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"every class in .*train, found none of dog\."):
        class_folders(tmp_path)


def test_class_of_test_images_alone_is_named(tmp_path):
    write_class_folders(tmp_path)
    write_image(tmp_path / "val" / "dog" / "0.png", 0)
    with pytest.raises(ValueError, match="got dog, too"):
        class_folders(tmp_path)


def test_a_class_may_be_missing_from_the_test_images(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "val" / "ant").rename(tmp_path / "elsewhere")
    assert set(class_folders(tmp_path)[1].target.tolist()) == {1, 2}


def test_no_test_images_are_refused(tmp_path):
    write_class_folders(tmp_path, test=0)
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="Expected test images"):
        class_folders(tmp_path)


def altered(path, line, content):
    lines = path.read_text().splitlines()
    lines[line - 1] = content
    path.write_text("\n".join(line for line in lines if line is not None))


@pytest.mark.parametrize(
    ("file", "line", "content", "error", "message"),
    [
        ("images.txt", 3, "3 001.ant/gone.png", FileNotFoundError, r"line 3 of .*images\.txt at .*ant/gone\.png"),
        ("images.txt", 3, "3 nowhere/2.png", FileNotFoundError, r"line 3 of .*images\.txt at .*nowhere/2\.png"),
        ("images.txt", 3, "three 001.ant/2.png", ValueError, r"line 3 of .*images\.txt, got 'three"),
        ("images.txt", 3, "2 001.ant/2.png", ValueError, r"a new number and a value in line 3 of .*images\.txt"),
        ("images.txt", 3, "3", ValueError, r"line 3 of .*images\.txt, got '3'"),
        ("image_class_labels.txt", 4, "4 9", ValueError, r"line 4 of .*image_class_labels\.txt, got '9'"),
        ("image_class_labels.txt", 4, None, ValueError, r"image 4 of images\.txt in .*labels\.txt, found no line"),
        ("train_test_split.txt", 5, "5 2", ValueError, r"one of 0, 1 in line 5 of .*split\.txt, got '2'"),
    ],
)
def test_bad_lines_of_cub_are_named(file, line, content, error, message, tmp_path):
    altered(write_cub(tmp_path) / file, line, content)
    with pytest.raises(error, match=message):
        cub_200(tmp_path)


def test_cub_elsewhere_says_what_is_there(tmp_path):
    (tmp_path / "CUB_200_2011").mkdir()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt, images\.txt.*found CUB_200_2011\."):
        cub_200(tmp_path)


def test_class_of_cub_without_images_is_named(tmp_path):
    write_cub(tmp_path)
    with (tmp_path / "classes.txt").open("a") as file:
        file.write("4 004.dog\n\n")
    with pytest.raises(ValueError, match=r"found none of 004\.dog"):
        cub_200(tmp_path)


def first(part, **changes):
    return lambda content: content[part][0].update(changes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (first("images", file_name="gone.jpg"), FileNotFoundError, r"entry 0 of 'images' in .*json at .*gone\.jpg"),
        (first("annotations", category_id=5), ValueError, r"entry 0 of 'annotations' in .*train2018\.json, got 5"),
        (lambda content: content["annotations"].pop(0), ValueError, r"annotation of image 975, entry 17 of 'images'"),
        (lambda content: content["images"][2].pop("id"), ValueError, r"id and file_name in entry 2 of 'images'"),
        (lambda content: content.pop("categories"), ValueError, r"a list 'categories' in .*train2018\.json"),
        (lambda content: content["categories"].append({"id": 9, "name": "dog"}), ValueError, "found none of dog"),
        (
            lambda content: content["annotations"].append({"image_id": 1000, "category_id": 71}),
            ValueError,
            r"one category of image 1000, got another one in entry 18",
        ),
    ],
)
def test_bad_entries_of_inaturalist_are_named(change, error, message, tmp_path):
    path = write_inaturalist(tmp_path) / "train2018.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(error, match=message):
        inaturalist(tmp_path)


def test_broken_and_missing_annotations_are_told(tmp_path):
    (write_inaturalist(tmp_path) / "train2018.json").write_text('{"images": [}')
    with pytest.raises(ValueError, match=r"JSON in .*train2018\.json.*line 1 column 13"):
        inaturalist(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"at .*train2021\.json, found train2018, train2018\.json.*train=, test="
    ):
        inaturalist(tmp_path, train="train2021.json")

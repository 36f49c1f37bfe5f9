import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_graceful.callbacks.pictures import pictures_of
from lightning_graceful.data.image_folder import CenterCrop, ImageFolder, RandomCrop
from lightning_graceful.data.image_layouts import class_folders
from lightning_graceful.report.thumbnails import data_uri
from tests.data.image_files import CLASSES, shade, write_class_folders, write_image

SMALL = CenterCrop(4, 6)


@pytest.fixture
def files(tmp_path):
    return class_folders(write_class_folders(tmp_path))[0]


def test_samples_are_images_in_0_to_1_with_their_labels(files):
    data = ImageFolder(files, crop=SMALL)
    for index, (image, target) in enumerate(data[index] for index in range(len(data))):
        label, number = divmod(index, 6)
        assert (image.dtype, image.shape, target.dtype, int(target)) == (torch.float32, (3, 4, 4), torch.int64, label)
        torch.testing.assert_close(image, torch.full((3, 4, 4), shade(label, number) / 255))
    assert (len(data), data.classes) == (18, CLASSES)
    assert data.ids[7] == "train/bee/1.png"
    assert data.target.tolist() == files.target.tolist()


def test_one_channel_and_other_scales(files):
    grey = ImageFolder(files, crop=SMALL, channels=1, mean=[0.5], std=[0.25])[8][0]
    torch.testing.assert_close(grey, torch.full((1, 4, 4), (shade(1, 2) / 255 - 0.5) / 0.25))


def test_scale_of_colours_keeps_to_its_channel(tmp_path):
    write_class_folders(tmp_path)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = 255, 51
    Image.fromarray(pixels).save(tmp_path / "train" / "ant" / "0.png")
    data = ImageFolder(class_folders(tmp_path)[0], crop=SMALL, mean=[0.0, 0.2, 0.4], std=[1.0, 2.0, 0.5])
    torch.testing.assert_close(data[0][0].mean((1, 2)), torch.tensor([1.0, 0.0, -0.8]))
    assert data.images[0][0, 0].tolist() == [255, 51, 0]


def test_centre_crop_is_the_middle_of_the_resized_image():
    """A ramp from left to right and one from top to bottom say where a pixel came from."""
    across = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    crop = np.asarray(CenterCrop(50, 100)(Image.fromarray(across)))
    assert (crop == np.arange(75, 125)).all()
    crop = np.asarray(CenterCrop(50, 50)(Image.fromarray(across.T.copy())))
    assert crop.shape == (50, 50)
    assert np.abs(crop[:, 0].astype(int) - (50 + 2 * np.arange(50))).max() <= 1


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (1, 1), (7, 5)])
@pytest.mark.parametrize("crop", [CenterCrop(5, 5), RandomCrop(5)])
def test_crops_take_images_of_any_size(crop, size):
    assert crop(Image.new("RGB", size)).size == (5, 5)


def test_random_crop_draws_from_the_global_generator_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8))
    crop = RandomCrop(16)

    def drawn(seed):
        torch.manual_seed(seed)
        return np.asarray(crop(image)).tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_random_crops_lie_in_the_image_and_are_flipped_half_of_the_time():
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (100, 1)) + 50)
    torch.manual_seed(0)
    crops = np.stack([np.asarray(RandomCrop(20, smallest=0.25)(ramp)).astype(int) for _ in range(300)])
    assert crops.min() >= 50
    assert crops.max() <= 149
    span = crops[:, 0, -1] - crops[:, 0, 0]
    assert 0.4 < (span < 0).mean() < 0.6
    # Of a quarter of the area and of a shape of 3 : 4 at least 43 of 100 columns are seen.
    assert np.abs(span).min() > 38
    assert np.abs(span).max() > 90


def test_shades_of_grey_and_colour_tables_become_colours(tmp_path):
    write_class_folders(tmp_path)
    write_image(tmp_path / "train" / "ant" / "0.png", 90, mode="L")
    write_image(tmp_path / "train" / "ant" / "1.png", 90, mode="P")
    write_image(tmp_path / "train" / "ant" / "2.jpg", 90, mode="CMYK")
    data = ImageFolder(class_folders(tmp_path)[0], crop=SMALL)
    assert [data[index][0].shape for index in (0, 1, 3)] == [(3, 4, 4)] * 3
    torch.testing.assert_close(data[1][0], torch.full((3, 4, 4), 90 / 255), atol=0.01, rtol=0)


def test_truncated_file_and_no_image_are_named(files):
    whole = files.path_of(3).read_bytes()
    rough = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    rough.save(files.path_of(4), "JPEG")
    data = ImageFolder(files, crop=SMALL)
    files.path_of(2).write_text("no image")
    files.path_of(3).write_bytes(whole[: len(whole) // 2])
    files.path_of(4).write_bytes(files.path_of(4).read_bytes()[:1000])
    for index in (2, 3, 4):
        with pytest.raises(ValueError, match=rf"Expected an image at .*ant/{index}\.png, got a damaged"):
            data[index]


def test_file_that_was_moved_is_named(files):
    data = ImageFolder(files, crop=SMALL)
    files.path_of(5).unlink()
    with pytest.raises(FileNotFoundError, match=r"ant/5\.png, found no file"):
        data[5]


def test_sixteen_bits_are_refused_rather_than_clipped(files):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(files.path_of(0))
    with pytest.raises(ValueError, match=r"8 bits a channel in .*0\.png, got mode 'I;16'"):
        ImageFolder(files, crop=SMALL)[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda files: ImageFolder(files, channels=2), "1 or 3 channels"),
        (lambda files: ImageFolder(files, mean=[0.5]), "mean and std"),
        (lambda files: ImageFolder(files, mean=[0.5], std=[0.5]), "of 3 channels"),
        (lambda files: ImageFolder(files, mean=[0.5] * 3, std=[0.5, 0, 1]), "std > 0"),
        (lambda files: CenterCrop(5, 4), "size <= resize"),
        (lambda files: RandomCrop(0), "size >= 1"),
        (lambda files: RandomCrop(5, smallest=0), "smallest"),
    ],
)
def test_bad_options_are_refused(build, message, files):
    with pytest.raises(ValueError, match=message):
        build(files)


def test_pictures_for_page_and_dashboard(files):
    ramp = np.broadcast_to(np.arange(0, 240, 30, dtype=np.uint8)[:, None, None], (8, 8, 3))  # from top to bottom
    Image.fromarray(ramp.copy()).save(files.path_of(4))
    data = ImageFolder(files, crop=SMALL)
    assert len(data.images) == 18
    assert (data[4][0].diff(dim=1) > 0).all()
    assert data_uri(data.images[4].numpy()).startswith("data:image/png")
    [picture] = pictures_of((data[4][0][None], data[4][1][None]), "auto", [0])
    assert (picture == data.images[4].numpy()).all()
    assert ImageFolder(files, crop=SMALL, channels=1).images[4].shape == (4, 4)


def test_without_pillow_the_error_says_what_to_install(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-graceful\[report\]"):
        ImageFolder(files).pixels(0)

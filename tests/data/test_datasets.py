import gzip
import struct
import urllib.request

import numpy as np
import pytest
import torch

from lightning_graceful.data import datasets
from lightning_graceful.data.datasets import DEBIAN_FOLDER, ImageArrays, digits, fashion_mnist

needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="Fashion-MNIST is not here: apt-get install dataset-fashion-mnist"
)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data, bunch = digits(), load_digits()
    image, target = data[100]
    np.testing.assert_allclose(image[0].numpy(), np.round(bunch.images[100] * 255 / 16) / 255, atol=1e-7)
    assert (int(target), len(data), data.classes[3]) == (bunch.target[100], 1797, "3")


def test_batched_fetch_equals_one_by_one():
    data = digits()
    for (image, target), index in zip(data.__getitems__([5, 2, 9]), [5, 2, 9], strict=True):
        assert torch.equal(image, data[index][0])
        assert torch.equal(target, data[index][1])


@needs_fashion_mnist
def test_fashion_mnist_is_complete():
    train, test = fashion_mnist()
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((60_000, 28, 28), (10_000, 28, 28))
    assert torch.bincount(train.target).tolist() == [6000] * 10
    assert torch.bincount(test.target).tolist() == [1000] * 10
    # The first training image is an ankle boot with a mean of 97.25 (read off the published file by hand).
    assert train.classes[int(train.target[0])] == "Ankle boot"
    with gzip.open(DEBIAN_FOLDER / "train-images-idx3-ubyte.gz") as file:
        header, first = file.read(16), file.read(28 * 28)
    assert struct.unpack(">4i", header) == (2051, 60_000, 28, 28)
    assert train.images[0].flatten().tolist() == list(first)


def test_missing_folder_names_the_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no train-images.*t10k-labels"):
        fashion_mnist(tmp_path)


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(datasets, "DOWNLOAD_FOLDER", tmp_path / "cache")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(FileNotFoundError, match=r"no network.*apt-get install dataset-fashion-mnist"):
        fashion_mnist()
    assert not list((tmp_path / "cache").iterdir())


def idx(array):
    return gzip.compress(
        struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of tiny files in the same layout, and their checksums."""
    import hashlib

    content = {
        name: idx(
            np.arange(4 * (9 if "images" in name else 1), dtype=np.uint8).reshape((4, 3, 3) if "images" in name else 4)
        )
        for name in datasets.FASHION_MNIST
    }
    sums = {name: hashlib.sha256(gzip.decompress(data)).hexdigest() for name, data in content.items()}
    source, cache = tmp_path / "mirror", tmp_path / "cache"
    source.mkdir()
    for name, data in content.items():
        (source / name).write_bytes(data)
    monkeypatch.setattr(datasets, "FASHION_MNIST", sums)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(datasets, "DOWNLOAD_FOLDER", cache)
    monkeypatch.setattr(datasets, "DOWNLOAD_FROM", f"{source.as_uri()}/")
    return cache


def test_download_is_kept(mirror):
    train, test = fashion_mnist()
    assert train.images[1].flatten().tolist() == list(range(9, 18))
    assert test.target.tolist() == [0, 1, 2, 3]
    assert sorted(path.name for path in mirror.iterdir()) == sorted(datasets.FASHION_MNIST)


def test_altered_file_is_refused(mirror):
    fashion_mnist()
    name = "t10k-labels-idx1-ubyte.gz"
    (mirror / name).write_bytes(idx(np.zeros(4, dtype=np.uint8)))
    with pytest.raises(ValueError, match=f"{name}, got others"):
        fashion_mnist(mirror)
    (mirror / name).write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="damaged"):
        fashion_mnist(mirror)


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "target"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.tensor([0, 5]), r"targets in \[0, 2\)"),
    ],
)
def test_bad_arrays_are_refused(images, target, message):
    with pytest.raises(ValueError, match=message):
        ImageArrays(images, target, ["a", "b"])

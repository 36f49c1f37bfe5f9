"""Real image data for the jobs: digits (inside scikit-learn) and Fashion-MNIST (a folder of IDX files)."""

import gzip
import hashlib
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_FOLDER = Path("~/.cache/lightning-graceful/fashion-mnist")
DOWNLOAD_FROM = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DOWNLOAD_TIMEOUT = 20

# SHA-256 of the unpacked bytes: mirrors compress differently.
FASHION_MNIST = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class ImageArrays(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, one byte a pixel; a sample is ``(image float32 in [0, 1] of (1, H, W), target int64)``.

    Args:
        images: uint8, shape ``(N, H, W)``.
        target: int64, shape ``(N,)``.
        classes: Class names.

    Raises:
        ValueError: If lengths differ, an image is no uint8, or a target has no class name.

    Example:
        >>> data = ImageArrays(torch.full((2, 3, 3), 255, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"])
        >>> data[1][0].max(), data[1][1]
        (tensor(1.), tensor(1))
    """

    def __init__(self, images: Tensor, target: Tensor, classes: Sequence[str]) -> None:
        if images.dtype != torch.uint8 or images.ndim != 3 or target.shape != images.shape[:1]:
            raise ValueError(
                f"Expected uint8 images (N, H, W) and target (N,), got {images.dtype} {tuple(images.shape)} "
                f"and {tuple(target.shape)}."
            )
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < len(classes):
            raise ValueError(
                f"Expected targets in [0, {len(classes)}), got {int(target.min())} to {int(target.max())}."
            )
        self.images = images
        self.target = target
        self.classes = list(classes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image and its target."""
        return self.images[index].unsqueeze(0) / 255, self.target[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return a batch at once: far fewer small operations than one image at a time."""
        images = self.images[indices].unsqueeze(1) / 255
        return list(zip(images, self.target[indices], strict=True))


def digits() -> ImageArrays:
    """Load the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (UCI, BSD).

    Returns:
        The images, scaled from 0..16 to 0..255.

    Example:
        >>> len(digits())
        1797
    """
    from sklearn.datasets import load_digits  # slow to import, and only this function needs it

    bunch = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))
    return ImageArrays(images, torch.from_numpy(bunch.target.astype(np.int64)), [str(number) for number in range(10)])


def fashion_mnist(folder: str | Path | None = None) -> tuple[ImageArrays, ImageArrays]:
    """Load the complete Fashion-MNIST: 60,000 and 10,000 images of 28x28 pixels (Xiao et al., 2017, MIT).

    The four IDX files are looked for in ``folder``; without one, where Debian's package ``dataset-fashion-mnist`` puts
    them, else in a cache folder, into which they are downloaded. Their bytes are compared with known SHA-256 sums.

    Args:
        folder: Where the four ``.gz`` files are.

    Returns:
        Training and test images.

    Raises:
        FileNotFoundError: If they are nowhere and cannot be downloaded.
        ValueError: If a file's bytes are not those of Fashion-MNIST.
    """
    place = _find(None if folder is None else Path(folder))
    arrays = {name: _read_idx(place / name, checksum) for name, checksum in FASHION_MNIST.items()}
    train_images, train_target, test_images, test_target = (torch.from_numpy(array) for array in arrays.values())
    return (
        ImageArrays(train_images, train_target.long(), FASHION_CLASSES),
        ImageArrays(test_images, test_target.long(), FASHION_CLASSES),
    )


def _find(folder: Path | None) -> Path:
    cache = DOWNLOAD_FOLDER.expanduser()
    places = [DEBIAN_FOLDER, cache] if folder is None else [folder.expanduser()]
    for place in places:
        if all((place / name).is_file() for name in FASHION_MNIST):
            return place
    if folder is not None:
        missing = [name for name in FASHION_MNIST if not (folder / name).is_file()]
        raise FileNotFoundError(f"Expected the files of Fashion-MNIST in {folder}, found no {', '.join(missing)}.")
    try:
        for name in FASHION_MNIST:
            _download(name, cache)
    except OSError as error:
        raise FileNotFoundError(
            f"Expected Fashion-MNIST in {' or '.join(map(str, places))}, found none; its download failed ({error}). "
            "On Debian: apt-get install dataset-fashion-mnist. Elsewhere: data.folder=FOLDER with its four .gz files."
        ) from error
    return cache


def _download(name: str, folder: Path) -> None:
    if (folder / name).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: a stopped download leaves no file that looks whole.
    source = urllib.request.urlopen(DOWNLOAD_FROM + name, timeout=DOWNLOAD_TIMEOUT)
    with source, tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
        shutil.copyfileobj(source, part)
    Path(part.name).replace(folder / name)


def _read_idx(path: Path, checksum: str) -> NDArray[np.uint8]:
    # Read an IDX file: big-endian header (byte 3 = dimensions, one uint32 each), then uint8.
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"Expected a gzip file at {path}, got a damaged one ({error}). Fetch it again.") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"Expected the bytes of Fashion-MNIST in {path}, got others (SHA-256). Fetch it again.")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(map(int, shape))).copy()

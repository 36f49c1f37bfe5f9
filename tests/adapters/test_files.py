import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lightning_graceful.adapters.alignment import SpaceAlignment
from lightning_graceful.adapters.transformation import GalleryTransformation

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, [3, 1, 0]].relu() + 0.1
MAPS = {
    "procrustes": lambda: SpaceAlignment.procrustes(X, Y),
    "ridge": lambda: SpaceAlignment.ridge(X, Y, normalize=False),
    "low_rank": lambda: SpaceAlignment.low_rank(X, Y, rank=2),
    "mlp": lambda: SpaceAlignment.mlp(X, Y, hidden=5, epochs=2),
    "distilled": lambda: SpaceAlignment.distilled(X, Y, hidden=5, epochs=2),
    "transformation": lambda: GalleryTransformation.fit(X, Y, hidden=8, epochs=2),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "maps" / "to_old.safetensors"


@pytest.mark.parametrize("name", MAPS)
def test_a_map_says_the_same_after_it_was_saved(name, path):
    module = MAPS[name]()
    module.save(path)
    loaded = type(module).load(str(path))
    assert torch.equal(loaded(X), module(X))
    assert str(loaded) == str(module)
    assert loaded.normalize == module.normalize
    assert not loaded.training
    assert not any(weight.requires_grad or weight.is_meta for weight in loaded.state_dict(keep_vars=True).values())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_side_information_is_saved_too(path):
    module = GalleryTransformation.fit(X, Y, X[:, :2], hidden=8, epochs=2)
    module.save(path)
    assert torch.equal(GalleryTransformation.load(path)(X, X[:, :2]), module(X, X[:, :2]))


def test_loading_draws_no_random_numbers(path):
    MAPS["mlp"]().save(path)
    state = torch.get_rng_state()
    SpaceAlignment.load(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_failed_save_leaves_the_file_before_it(path, monkeypatch):
    MAPS["ridge"]().save(path)
    before = path.read_bytes()

    def fail(tensors, draft, metadata):
        draft.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        MAPS["mlp"]().save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_any_flipped_byte_is_noticed(path):
    MAPS["procrustes"]().save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = SpaceAlignment.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - some bytes are padding
        else:
            assert torch.equal(found(X), MAPS["procrustes"]()(X))


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_cut_files_are_refused(path, length):
    MAPS["ridge"]().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"to_old\.safetensors, but it cannot be read"):
        SpaceAlignment.load(path)


def rewritten(path, change):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["lightning_graceful"])
    change(header)
    safetensors.torch.save_file(tensors, path, metadata={"lightning_graceful": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(version=2), "got SpaceAlignment, format 2"),
        (lambda h: h.update(kind="GalleryTransformation"), "got GalleryTransformation, format 1"),
        (lambda h: h["options"].update(normalize=True), "has changed since"),
        (lambda h: h.pop("options"), "of something else"),
    ],
)
def test_other_headers_are_refused(path, change, message):
    MAPS["ridge"]().save(path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        SpaceAlignment.load(path)


@pytest.mark.parametrize(
    "options", [{"widths": [4, 10**9]}, {"widths": [10**30, 3]}, {"widths": ["4", 3]}, {"method": "cca"}, {"more": 1}]
)
def test_a_header_that_does_not_fit_its_tensors_is_refused(path, options, monkeypatch):
    monkeypatch.setattr("lightning_graceful.adapters.files._checksum", lambda *_: 0)
    MAPS["ridge"]().save(path)
    rewritten(path, lambda h: h["options"].update(options))
    with pytest.raises(ValueError, match="its parts do not fit"):
        SpaceAlignment.load(path)


def test_foreign_and_missing_files_are_refused(path):
    with pytest.raises(FileNotFoundError, match="SpaceAlignment at"):
        SpaceAlignment.load(path)
    path.parent.mkdir()
    safetensors.torch.save_file({"weight": X}, path)
    with pytest.raises(ValueError, match="of something else"):
        SpaceAlignment.load(path)
    torch.save({"weight": X}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        GalleryTransformation.load(path)

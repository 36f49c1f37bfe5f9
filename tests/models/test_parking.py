import copy
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from lightning_graceful import OldModel
from lightning_graceful.models.parking import park
from tests.litmodels import CLASSES, FEATURES, Net, seeded

X = torch.linspace(-1, 1, 5 * FEATURES).reshape(5, FEATURES)


def is_parked(tensor):
    return tensor.layout == torch.strided and tensor.untyped_storage().filename is not None


class Knotted(nn.Module):
    """Tied, sliced, transposed, empty and frozen tensors of several dtypes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.fc, self.tied = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)
        self.tied.weight = self.fc.weight
        flat = torch.randn(2 * FEATURES)
        self.register_buffer("left", flat[:FEATURES])
        self.register_buffer("right", flat[FEATURES:])
        self.register_buffer("across", torch.randn(CLASSES, FEATURES).T)
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("low", torch.ones(3, dtype=torch.bfloat16), persistent=False)
        self.register_buffer("sparse", torch.eye(2).to_sparse())
        self.register_buffer("one", torch.ones(1).expand(4))

    def forward(self, x):
        x = self.norm(x) * self.left + self.right
        knots = self.low.float() * self.one[0] + self.sparse.to_dense()[0, 0]
        return self.fc(x) + self.tied(x) + x @ self.across * knots


def old_model():
    return OldModel(seeded(Knotted).eval(), embedding="norm")


def storages(old):
    return {
        name: tensor.untyped_storage().data_ptr() for name, tensor in old._tensors() if tensor.layout == torch.strided
    }


def test_what_it_says_and_its_fingerprint_stay(tmp_path):
    old = old_model()
    before, fingerprint = old.outputs((X,)), old.fingerprint
    tensors = dict(old._tensors())
    assert old.park(tmp_path) is old
    torch.testing.assert_close(tuple(old.outputs((X,))), tuple(before), rtol=0, atol=0)
    assert old.fingerprint == fingerprint
    assert all(tensor is tensors[name] for name, tensor in old._tensors())
    parked = {name for name, tensor in old._tensors() if is_parked(tensor)}
    assert parked == set(tensors) - {"none", "sparse"}
    assert list(tmp_path.iterdir()) == []


def test_what_shares_memory_goes_on_to(tmp_path):
    old = old_model()
    old.park(tmp_path)
    where, module = storages(old), old._module
    assert module.tied.weight is module.fc.weight
    assert where["left"] == where["right"] != where["fc.weight"]
    with torch.no_grad():
        module.left[0] = 7
    assert torch.empty(0).set_(module.right.untyped_storage())[0] == 7
    assert module.across.stride() == (1, FEATURES)
    assert module.one.stride() == (0,)


def test_parking_twice_is_parking_once(tmp_path):
    old = old_model()
    where = storages(old.park(tmp_path))
    assert storages(old.park(tmp_path)) == where


def test_it_moves_casts_and_parks_again(tmp_path):
    old, plain = old_model().park(tmp_path), old_model()
    old._module.double()
    assert not is_parked(old._module.fc.weight)
    torch.testing.assert_close(old.park(tmp_path).outputs((X,)).logits, plain.outputs((X,)).logits)
    assert is_parked(old._module.fc.weight)
    assert old.to("meta").device.type == "meta"
    old.park(tmp_path)  # there is nothing to keep


def test_tensors_made_by_inference_are_parked_and_the_map_is_a_usual_tensor(tmp_path):
    with torch.inference_mode():
        old = old_model().park(tmp_path)
    assert not any(tensor.is_inference() for _, tensor in old._tensors())
    x = X.clone().requires_grad_()
    old._module(x).sum().backward()  # as the frozen head of a term is used
    assert x.grad is not None


@pytest.mark.parametrize("folder", ["missing", "a_file"])
def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path, folder):
    (tmp_path / "a_file").touch()
    old = old_model()
    where, before = storages(old), old.outputs((X,)).logits
    old.park(tmp_path / folder)
    assert storages(old) == where
    torch.testing.assert_close(old.outputs((X,)).logits, before)


def test_a_disk_that_is_full_in_between_leaves_the_rest_as_it_is(tmp_path):
    first, second = torch.ones(8), torch.ones(1 << 20)
    where = second.data_ptr()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        park([first, second], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert is_parked(first)
    assert second.data_ptr() == where
    assert list(tmp_path.iterdir()) == []


def answers(queue, old):
    queue.put(old.outputs((X,)).logits.tolist())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda old: pickle.loads(pickle.dumps(old))])
def test_copies_say_the_same(tmp_path, clone):
    old = old_model()
    expected, fingerprint = tuple(old.outputs((X,))), old.fingerprint
    copied = clone(old.park(tmp_path))
    torch.testing.assert_close(tuple(copied.outputs((X,))), expected)
    assert copied.fingerprint == fingerprint


def test_another_process_is_given_the_weights(tmp_path):
    """The way of ddp_spawn: a map of an unlinked file cannot be opened again."""
    old = OldModel(seeded(Net)).park(tmp_path)  # torch itself cannot hand tied tensors to a process
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=answers, args=(queue, old))
    process.start()
    found = queue.get()
    process.join()
    torch.testing.assert_close(torch.tensor(found), old.outputs((X,)).logits)


MEASURE = """
import re, sys, torch
from torch import nn
from lightning_graceful import OldModel

def anonymous():
    return int(re.search(r"RssAnon:\\\\s+(\\\\d+) kB", open("/proc/self/status").read())[1]) / 1024

width, layers = int(sys.argv[2]), int(sys.argv[3])
for _ in range(3):
    torch.ones(7_500_000)  # after a large block was freed, glibc keeps smaller ones for the process
old = OldModel(nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))))
x = torch.ones(2, width)
before, said, fingerprint = anonymous(), old.outputs(x).logits, old.fingerprint
old.park(sys.argv[1])
after = anonymous()
assert torch.equal(old.outputs(x).logits, said) and old.fingerprint == fingerprint
print(before, after, anonymous())
"""


@pytest.mark.parametrize(("width", "layers"), [(3600, 4), (512, 200)], ids=["4 of 50 MB", "200 of 1 MB"])
def test_anonymous_memory_falls_by_the_weights(tmp_path, width, layers):
    script = tmp_path / "measure.py"
    script.write_text(MEASURE.replace("\\\\", "\\"))
    command = [sys.executable, script, tmp_path, str(width), str(layers)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    before, after, used = map(float, re.findall(r"[\d.]+", done.stdout))
    size = width * (width + 1) * layers * 4 / 2**20
    print(f"{size:.0f} MiB of weights: {before:.0f} MiB anonymous before, {after:.0f} after, {used:.0f} after use")
    assert before - after > 0.95 * size
    assert before - used > 0.9 * size

"""Many runs share one cache: the old model computes each sample once."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_graceful.data.store import OutputStore

RUN = """
import sys, time, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from torch.utils.data import DataLoader
from lightning_graceful import OldOutputCache
from lightning_graceful.data import claims
from tests.callbacks.test_old_outputs import Compare, Counting, fit, images, new_module, old_model
from lightning_graceful.models.mlp import MLP

folder, length, region = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
from lightning_graceful.callbacks import filling
filling.REGION_ROWS = region

class Slow(Counting):
    def outputs(self, batch):
        time.sleep(0.01)
        return super().outputs(batch)

torch.manual_seed(1)
old = Slow(MLP(16, 3, hidden=(8,)))
compare = Compare(old_model())
loader = DataLoader(images(length), 16, shuffle=True)
fit(new_module(), OldOutputCache(old, folder, dtype="float32", verify=0), loader, None, compare, max_epochs=1)
assert compare.compared == len(loader)
print(old.asked)
"""


def sweep(tmp_path, runs, length, region):
    command = [sys.executable, "-c", RUN, str(tmp_path), str(length), str(region)]
    root = Path(__file__).parents[2]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root) for _ in range(runs)]
    outputs = [process.communicate(timeout=280) for process in started]
    assert [process.returncode for process in started] == [0] * runs, [error.decode()[-2000:] for _, error in outputs]
    return [int(output.split()[-1]) for output, _ in outputs]


@pytest.mark.parametrize("region", [64, 100_000])  # the others fill other rows, or wait
def test_two_runs_at_once_compute_each_sample_once(tmp_path, region):
    asked = sweep(tmp_path, runs=2, length=1000, region=region)
    assert 1000 <= sum(asked) <= 1000 + 2 * 64  # each run may ask about its probe


@pytest.mark.slow
def test_twenty_runs_compute_each_sample_once(tmp_path):
    asked = sweep(tmp_path, runs=20, length=2000, region=64)
    assert 2000 <= sum(asked) <= 2000 + 20 * 64
    assert sum(asked) - 2000 <= 64 * len([count for count in asked if count])


def count_filled(folder):
    manifests = list(folder.glob("*/manifest.json"))
    return OutputStore.open_existing(manifests[0].parent).count_filled() if manifests else 0


@pytest.mark.slow
def test_runs_that_are_killed_while_they_fill_lose_nothing(tmp_path):
    """What a killed run has written is right and is not asked again; its claims are free."""
    command = [sys.executable, "-c", RUN, str(tmp_path), "3000", "64"]
    root, chance, filled = Path(__file__).parents[2], random.Random(0), [0]
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root)
        wanted = filled[-1] + chance.randrange(1, 300)
        while count_filled(tmp_path) < wanted:
            assert process.poll() is None
        process.kill()
        process.wait()
        (manifest,) = tmp_path.glob("*/manifest.json")
        assert OutputStore.open_existing(manifest.parent).verify().damaged_count == 0
        filled.append(count_filled(tmp_path))
    assert filled[-1] < 3000
    assert filled == sorted(filled)
    (asked,) = sweep(tmp_path, runs=1, length=3000, region=64)
    assert asked <= 3000 - filled[-1] + 64

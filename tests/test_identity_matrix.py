"""Each case of the identity matrix, by name: ``pytest tests/test_identity_matrix.py -v`` prints them."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests import ddp_identity
from tests.identity_cases import CASES, execute

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def parameters():
    return [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in CASES]


@pytest.mark.parametrize("case", parameters())
def test_identity(case, tmp_path):
    case.trainer = {"default_root_dir": str(tmp_path), **case.trainer}
    if case.expect not in {"stored", "live", "never"}:
        with pytest.raises((RuntimeError, ValueError), match=case.expect):
            execute(case, tmp_path / "cache")
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counts = execute(case, tmp_path / "cache")
    live = [str(warning.message) for warning in caught if "runs live" in str(warning.message)]
    for stage in case.stages:
        assert counts[stage] > 0
    assert (counts["asked"] == 0) == (case.expect == "stored")
    assert len(live) == 2 * (case.expect == "live")


QUICK = {("ddp", "shuffle"), ("ddp_fork", "views")}


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        pytest.param(strategy, name, marks=[] if (strategy, name) in QUICK else pytest.mark.slow)
        for strategy in ("ddp", "ddp_fork", "ddp_spawn")
        for name in ddp_identity.CASES
    ],
)
def test_identity_on_two_ranks(strategy, name, tmp_path):
    command = [sys.executable, "-m", "tests.ddp_identity", strategy, name, str(tmp_path)]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    runs = [[json.loads((tmp_path / f"rank{rank}-{run}.json").read_text()) for rank in (0, 1)] for run in (0, 1)]
    for seen in [*runs[0], *runs[1]]:
        assert seen["world"] == 2
        assert seen["train"] >= 6
        assert seen["validate"] >= 4
    assert [seen["asked"] for seen in runs[1]] == [0, 0]

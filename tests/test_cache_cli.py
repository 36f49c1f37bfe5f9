"""The ``graceful cache`` command, on stores on disk."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from lightning_graceful import cache_cli
from lightning_graceful.cli import main
from lightning_graceful.data.claims import Claims
from lightning_graceful.data.manifest import store_path
from lightning_graceful.data.pruning import DAY
from lightning_graceful.data.rows import RowLayout
from lightning_graceful.data.store import OutputStore
from tests.data.store_files import fill, flip, make

LAYOUT = RowLayout(1000, embedding=8, top_k=10)  # 80 bytes


def add(folder, name, age=0.0, rows=200, layout=LAYOUT):
    fingerprint = {"old": f"{name}-0123456789abcdef", "views": 2}
    path = store_path(folder, fingerprint)
    with make(path, rows, layout, fingerprint) as cache:
        fill(cache, torch.arange(rows // 2), batch=rows)
    then = time.time() - age * DAY
    os.utime(path / "manifest.json", (then, then))
    return path


def cache(capsys, *arguments):
    code = main(["cache", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_info_shows_a_line_a_store(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path, broken = add(tmp_path, "v1"), add(tmp_path, "v2")
    (broken / "manifest.json").write_text("{")
    code, out, _ = cache(capsys, "info", tmp_path)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.strip().startswith(path.name)]
    for part in ("v1-012345678 ", " 200 ", "50.0 %", "1000 classes (top 10), embedding 8, 2 views, float16", "kB"):
        assert part in line
    assert time.strftime("%Y-%m-%d") in line
    assert f"{broken.name}: Expected a sound" in out


def test_info_as_json(tmp_path, capsys):
    path, broken = add(tmp_path, "v1"), add(tmp_path, "v2")
    (broken / "manifest.json").unlink()
    code, out, _ = cache(capsys, "info", tmp_path, "--json")
    found = {entry["path"]: entry for entry in json.loads(out)}
    assert code == 0
    sound = found[str(path)]
    assert (sound["rows"], sound["filled"], sound["problem"]) == (200, 100, None)
    assert sound["layout"] == {"logits": 1000, "embedding": 8, "dtype": "float16", "top_k": 10}
    assert sound["fingerprint"]["old"] == "v1-0123456789abcdef"
    assert "no manifest.json" in found[str(broken)]["problem"]
    assert json.loads(cache(capsys, "info", path, "--json", "--quick")[1])[0]["filled"] is None


def test_folder_without_stores(tmp_path, capsys):
    assert cache(capsys, "info", tmp_path) == (0, f"No store in {tmp_path}.\n", "")
    code, _, err = cache(capsys, "verify", tmp_path)
    assert (code, "got none" in err) == (65, True)
    assert cache(capsys, "prune", tmp_path, "--quota", "1GB") == (0, "Nothing to do.\n", "")


def test_verify_of_sound_stores(tmp_path, capsys):
    paths = sorted([add(tmp_path, "v1"), add(tmp_path, "v2")])
    code, out, err = cache(capsys, "verify", tmp_path)
    assert (code, err.strip()) == (0, "")
    assert out.splitlines() == [f"{path.name}: sound, 100 of 200 rows are filled" for path in paths]
    assert cache(capsys, "verify", paths[1])[1] == f"{paths[1].name}: sound, 100 of 200 rows are filled\n"


def test_verify_names_what_is_damaged(tmp_path, capsys):
    path, cut = add(tmp_path, "v1"), add(tmp_path, "v2")
    for row in (4, 90):
        flip(path / "rows-00000.bin", row * LAYOUT.nbytes + 20)
    os.truncate(cut / "rows-00000.bin", 10)
    code, out, err = cache(capsys, "verify", tmp_path)
    assert code == 65
    assert f"{path.name}: 2 of 100 filled rows are damaged: rows 4, 90" in out
    assert f"{cut.name}: Expected 16000 bytes" in out
    assert f"graceful cache prune --damaged {tmp_path}" in err


def test_prune_mends_what_is_damaged(tmp_path, capsys):
    path, cut = add(tmp_path, "v1"), add(tmp_path, "v2")
    flip(path / "rows-00000.bin", 4 * LAYOUT.nbytes)
    os.truncate(cut / "rows-00000.bin", 10)
    code, out, _ = cache(capsys, "prune", "--damaged", tmp_path, "--dry-run")
    assert code == 0
    assert f"delete {cut.name}" in out
    assert f"{path.name}: row 4 would be emptied" in out
    assert cache(capsys, "verify", tmp_path)[0] == 65
    code, out, _ = cache(capsys, "prune", "--damaged", tmp_path, "--yes")
    assert code == 0
    assert f"{path.name}: row 4 emptied" in out
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert cache(capsys, "verify", tmp_path)[0] == 0
    with OutputStore.open_existing(path) as store:
        assert store.missing_in(0, 100).tolist() == [4]


def test_prune_by_age_and_by_quota(tmp_path, capsys):
    big = RowLayout(1000, dtype="float32")
    paths = {age: add(tmp_path, f"v{age}", age, layout=big) for age in (1, 10, 40, 20)}
    code, out, _ = cache(capsys, "prune", tmp_path, "--unused-days", "30", "--quota", "1MB", "--yes")
    assert code == 0
    assert f"delete {paths[40].name} (" in out
    assert "): not used for 30 days" in out
    assert f"delete {paths[20].name} (" in out
    assert "): least recently used, beyond 1.0 MB" in out
    assert {entry.name for entry in tmp_path.iterdir()} == {paths[1].name, paths[10].name}


def test_prune_leaves_alone_what_is_being_filled(tmp_path, capsys):
    path = add(tmp_path, "v1", age=9)
    with Claims(path) as own:
        own.take(0)
        for option in (["--quota", "0"], ["--damaged"]):
            code, out, _ = cache(capsys, "prune", tmp_path, "--yes", *option)
            assert code == 0
            assert f"{path.name}: left alone, a process is filling it" in out
    assert path.exists()


@pytest.mark.parametrize(("answer", "is_deleted"), [("y", True), ("yes", True), ("", False), ("no", False)])
def test_prune_asks_on_a_terminal(tmp_path, capsys, monkeypatch, answer, is_deleted):
    path = add(tmp_path, "v1")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda words: answer)
    code, out, _ = cache(capsys, "prune", tmp_path, "--quota", "0")
    assert code == 0
    assert path.exists() != is_deleted
    assert ("Nothing was changed." in out) != is_deleted


def test_prune_without_a_terminal_needs_yes(tmp_path, capsys, monkeypatch):
    path = add(tmp_path, "v1")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    code, _, err = cache(capsys, "prune", tmp_path, "--quota", "0")
    assert (code, "--yes" in err, path.exists()) == (2, True, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["info"], "DIR"),
        (["mend", "x"], "mend"),
        (["prune", "x"], "--damaged, --unused-days N, --quota SIZE"),
        (["prune", "x", "--quota", "lots"], "a number of bytes such as 50GB"),
        (["prune", "x", "--unused-days", "-1"], "a number of days"),
        (["prune", "x", "--unused-days", "nan"], "a number of days"),
    ],
)
def test_wrong_usage(capsys, arguments, words):
    code, _, err = cache(capsys, *arguments)
    assert (code, words in err) == (2, True), err


def test_folder_that_is_not_there(tmp_path, capsys):
    for command in (["info"], ["verify"], ["prune", "--quota", "1GB"]):
        code, _, err = cache(capsys, *command, tmp_path / "none")
        assert (code, "Check the path" in err) == (65, True)


def test_help_has_examples(capsys):
    for command in ([], ["info"], ["verify"], ["prune"]):
        code, out, _ = cache(capsys, *command, "--help")
        assert code == 0
        assert "graceful cache prune old_outputs --quota 50GB" in out
    assert main(["--help"]) == 0
    assert "cache " in capsys.readouterr().out


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (ZeroDivisionError, 70), (PermissionError, 65)])
def test_what_goes_wrong_has_an_exit_code(tmp_path, capsys, monkeypatch, error, code):
    def fail(folder):
        raise error("no")

    monkeypatch.setattr(cache_cli, "stores", fail)
    assert cache(capsys, "info", tmp_path)[0] == code


def test_neither_lightning_nor_hydra_is_loaded(tmp_path):
    path = add(tmp_path, "v1")
    code = (
        "import sys\n"
        "from lightning_graceful.cli import main\n"
        f"code = [main(['cache', command, {str(path)!r}]) for command in ('info', 'verify')]\n"
        "heavy = {'pytorch_lightning', 'lightning', 'lightning_fabric', 'torchmetrics', 'hydra', 'omegaconf'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0] []"

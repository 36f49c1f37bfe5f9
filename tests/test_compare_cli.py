"""The command as a user runs it: what it prints, writes and leaves with."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightning_graceful import cli, compare_cli
from tests.hydra_app import ROOT
from tests.report.prediction_files import write_csv

USAGE, BAD_DATA, CRASH, INTERRUPTED = 2, 65, 70, 130
VERDICTS = {0, 1, 3}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder to work in, with another that must be empty in the end for temporary files."""
    scratch, work = tmp_path / "scratch", tmp_path / "work"
    scratch.mkdir()
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.chdir(work)
    yield work
    assert list(scratch.iterdir()) == []


def graceful(*arguments, **options):
    command = [sys.executable, "-W", "error", "-m", "lightning_graceful", "compare", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False, **options)


def files(folder, broke, fixed=0, rows=1000, **more):
    """Write two files of which the new one breaks and fixes so many rows."""
    old = "a" * (rows - fixed) + "b" * fixed
    write_csv(folder / "old.csv", {"id": range(rows), "target": "a" * rows, "label": old, **more})
    write_csv(folder / "new.csv", {"id": range(rows), "label": "b" * broke + "a" * (rows - broke)})
    return "old.csv", "new.csv"


CARD = """\
old replaced by new

REJECT new: 30 cases broke, 60 fixed
  NFR 3.00 % [2.03, 4.26] in all rows: the lower bound is above 1 %.

What changed
  30 cases broke, 60 fixed (1,000 samples tested).
  NFR 3.00 % [2.03, 4.26]. Error 6.00 % before, 3.00 % now: -3.00 points [-4.92, -1.17], lower.

For whom
  class=a (n = 1,000): 30 broke, 60 fixed, NFR 3.00 % [2.03, 4.26]; got better (exploring, adjusted p 0.0021).

Worst flips
  id 0: a -> b
  id 1: a -> b
  id 10: a -> b
  id 11: a -> b
  id 12: a -> b

Remarks
  Answers of the old model that are no target: b (60). If classes were renamed, say so with a label map (--label-map).
  Answers of the new model that are no target: b (30). If classes were renamed, say so with a label map (--label-map).

Every flip as a list: --flips flips.csv; a page: --html page.html.
"""


def test_a_better_mean_with_three_percent_flips_is_rejected(folder):
    done = graceful(*files(folder, 30, 60), "--budget", "nfr=1%")
    assert (done.returncode, done.stdout, done.stderr) == (1, CARD, "")


@pytest.mark.parametrize(
    ("broke", "rules", "code"),
    [
        (30, [], 0),
        (0, ["--budget", "nfr=0.01"], 0),
        (30, ["--budget", "nfr=0.01"], 1),
        (8, ["--budget", "nfr=0.01"], 3),
        (8, ["--budget", "nfr=0.01", "--undecided", "pass"], 0),
        (8, ["--budget", "nfr=0.01", "--undecided", "fail"], 1),
        (30, ["--budget", "nfr=0.01", "--undecided", "pass"], 1),
        (0, ["--budget", "nfr=0.01", "--undecided", "fail"], 0),
        (2, ["--non-inferior", "error=0.02"], 0),
        (30, ["--non-inferior", "error=0.5%"], 1),
        (2, ["--equivalence", "error=0.02"], 0),
        (2, ["--equivalence", "error=0.002"], 3),
    ],
)
def test_exit_code_is_the_verdict(broke, rules, code, folder):
    done = graceful(*files(folder, broke), *rules)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["old.csv", "new.csv", "--bugdet", "nfr=1%"], "unrecognized arguments: --bugdet nfr=1%"),
        (["old.csv", "new.csv", "--budget", "pfr=1"], "argument --budget: Expected a budget such as nfr=0.01"),
        (["old.csv", "new.csv", "--budget", "nfr=5"], "Expected a share below 1 as the limit of nfr"),
        (["old.csv", "new.csv", "--non-inferior", "0.1"], "Expected a margin such as error=0.005, got '0.1'."),
        (["old.csv", "new.csv", "--threshold", "2"], "expected a confidence between 0 and 1, or two as 0.8,0.7"),
        (["old.csv", "new.csv", "--threshold", "nan"], "expected a confidence between 0 and 1, or two as 0.8,0.7"),
        (["old.csv", "new.csv", "--undecided", "no"], "argument --undecided: invalid choice: 'no'"),
        (["old.csv", "new.csv", "--name", "a", "--name", "b"], "a --name of its own for each of 1 candidates."),
        (["old.csv", "new.csv", "--name", " "], "a --name of its own for each of 1 candidates."),
        (["old.csv", "new.csv", "new.csv"], "a --name of its own for each of 2 candidates."),
        (["old.csv", "new.csv", "--json", "-", "--markdown", "-"], "a file of its own for each output, got '-' twice."),
        (["old.csv", "new.csv", "--flips", "new.csv"], "a file of its own for each output, got 'new.csv' twice."),
        (["old.csv", "new.csv", "--json", "./old.csv"], "a file of its own for each output, got './old.csv' twice."),
        (["old.csv"], "the following arguments are required: NEW"),
        ([], "the following arguments are required: OLD, NEW"),
    ],
)
def test_wrong_usage(arguments, words, folder, capsys):
    files(folder, 1, rows=10)
    assert cli.main(["compare", *arguments]) == USAGE
    assert words in capsys.readouterr().err


def bad(folder, **bodies):
    files(folder, 1, rows=10)
    for name, body in bodies.items():
        (folder / f"{name}.csv").write_text(body)


@pytest.mark.parametrize(
    ("bodies", "more", "words"),
    [
        ({"new": ""}, [], "new.csv: expected a header, got an empty file."),
        ({"new": "id,label\n"}, [], "new.csv: expected rows, got a header only."),
        ({"old": 'id,target,label\n1,a,"b\n'}, [],
         "old.csv: expected quotes that end, got an open one in line 2. Double a quote within a quoted value."),
        ({}, ["--budget", "slice:x nfr=0.1"], "Expected the slice 'x' as a column of old.csv or new.csv, got none."),
        ({}, ["--budget", "class=c nfr=0.1"], "Budget 'class=c nfr=0.1': expected a value that occurs, such as a."),
        ({}, ["--budget", "cost=3"],
         "Expected a column cost or a file of costs (--costs) for a budget of cost, got none."),
        ({}, ["--must-keep", "keep.csv"], "keep.csv: No such file or directory."),
        ({"keep": "key\n1\n"}, ["--must-keep", "keep.csv"], "keep.csv: expected the columns id; missing: id."),
        ({"map": "old,new\na,b\na,c\n"}, ["--label-map", "map.csv"],
         "map.csv: expected each old name once, got 'a' repeatedly."),
        ({"map": "old,new\na\n"}, ["--label-map", "map.csv"], "map.csv, line 2: expected a value in old, new."),
        ({"map": 'old,new\n"a,b\n'}, ["--label-map", "map.csv"],
         "map.csv, line 1: expected CSV in UTF-8, got unexpected end of data."),
        ({}, ["--retrain", "gone.csv"], "gone.csv: no such file."),
        ({}, ["--memory", "much"], "memory_limit much: Parser Error: Memory must have a number (e.g. 1GB)"),
        ({}, ["--json", "."], "[Errno 21] Is a directory: '.'"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_and_no_verdict(bodies, more, words, folder):
    bad(folder, **bodies)
    done = graceful("old.csv", "new.csv", *more)
    assert (done.returncode, done.stdout, done.stderr) == (BAD_DATA, "", f"graceful compare: {words}\n")


def test_a_broken_history_is_bad_data(folder, capsys):
    (folder / "history.json").write_text("{")
    assert compare_cli.main([*files(folder, 1, rows=10), "--history", "."]) == BAD_DATA
    assert capsys.readouterr().err.startswith(
        "graceful compare: Expected the header of a history in history.json, got "
    )


@pytest.mark.parametrize("where", ["import", "work"])
def test_a_crash_is_no_verdict(where, folder, capsys, monkeypatch):
    def crash(*_, **__):
        raise ValueError("our bug")

    names = files(folder, 1, rows=10)
    if where == "import":
        monkeypatch.setitem(sys.modules, "lightning_graceful.compare_cli", None)
    else:
        monkeypatch.setattr("lightning_graceful.report.compare.compare_files", crash)
    assert cli.main(["compare", *names]) == CRASH
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ZeroDivisionError, KeyError])
def test_no_error_looks_like_a_verdict(error, folder, monkeypatch):
    def crash(*_, **__):
        raise error("our bug")

    monkeypatch.setattr("lightning_graceful.report.tallies.whole_tally", crash)
    monkeypatch.setattr("lightning_graceful.report.compare.whole_tally", crash)
    assert compare_cli.main(files(folder, 1, rows=10)) == CRASH


def test_an_interrupt_is_no_verdict(folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_graceful.report.compare.compare_files", interrupt)
    assert compare_cli.main(files(folder, 1, rows=10)) == INTERRUPTED


@pytest.mark.parametrize("delay", [0.01, 0.1, 0.2])
def test_ctrl_c_while_the_database_works(delay, folder):
    names = files(folder, 1, rows=400_000)
    command = [sys.executable, "-m", "lightning_graceful", "compare", *names, "--budget", "nfr=0.1"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as running:  # fmt: skip
        scratch, started = Path(os.environ["TMPDIR"]), time.monotonic()
        while not [*scratch.glob("*/rows.duckdb")] and running.poll() is None and time.monotonic() < started + 30:
            time.sleep(0.002)
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == INTERRUPTED


def test_a_full_disk_is_no_verdict(folder):
    names = files(folder, 1, rows=300_000)
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    done = graceful(*names, preexec_fn=limited)
    assert done.returncode in {BAD_DATA, CRASH}
    assert done.stdout == ""


def test_every_output_is_written(folder):
    names = files(folder, 30, 60)
    outputs = ["--json", "a/r.json", "--markdown", "r.md", "--junit", "r.xml", "--flips", "r.csv", "--quiet"]
    done = graceful(*names, *outputs, "--budget", "nfr=0.01")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    found = json.loads((folder / "a" / "r.json").read_text())
    assert (found["decision"], found["exit_code"]) == ("reject", 1)
    assert (
        (folder / "r.md")
        .read_text()
        .startswith("## old replaced by new\n\n### ❌ REJECT new: 30 cases broke, 60 fixed")
    )
    assert ElementTree.parse(folder / "r.xml").getroot()[0].get("failures") == "1"
    assert len((folder / "r.csv").read_text().splitlines()) == 31
    assert {path.name for path in folder.iterdir()} == {*names, "a", "r.md", "r.xml", "r.csv"}


@pytest.mark.parametrize("kind", ["--json", "--markdown"])
def test_standard_output_in_place_of_the_card(kind, folder):
    names = files(folder, 8)
    done = graceful(*names, kind, "-", "--budget", "nfr=0.01", "--undecided", "fail")
    assert (done.returncode, done.stderr) == (1, "")
    assert "For whom\n" not in done.stdout
    if kind == "--json":
        assert (json.loads(done.stdout)["decision"], json.loads(done.stdout)["exit_code"]) == ("undecided", 1)


def test_devices_are_written_to_and_not_replaced(folder):
    os.mkfifo(folder / "pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert graceful(*files(folder, 1, rows=10), "--json", "pipe", "--quiet").returncode == 0
            assert (folder / "pipe").is_fifo()
            assert json.loads(reader.communicate(timeout=30)[0])["format"] == 1
        finally:
            reader.kill()


@pytest.mark.parametrize("where", ["card", "error"])
def test_terminals_get_no_control_characters(where, folder):
    mean = "\x1b[31mred\x07\x9b\u202e\r\nREJECT"
    column = f"slice:{mean}"
    write_csv(folder / "old.csv", {"id": [mean], "target": [mean], "label": [mean], column: [mean]})
    other = mean if where == "card" else "\x1b]0;x\x07"
    write_csv(folder / "new.csv", {"id": [other], "label": ["b"]})
    done = graceful("old.csv", "new.csv", "--title", mean, "--name", mean)
    printed = done.stdout + done.stderr
    assert done.returncode == (0 if where == "card" else BAD_DATA)
    assert "red" in printed
    assert all(sign.isprintable() for sign in printed.replace("\n", ""))
    assert not any(line.startswith("REJECT") for line in printed.splitlines())


def test_output_that_is_ascii_only(folder):
    done = graceful(*files(folder, 30), "--markdown", "-", "--budget", "nfr=0.01", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert done.stdout.isascii()


def test_names_of_candidates(folder):
    old, new = files(folder, 30)
    os.makedirs("other")
    (folder / "other" / "new.csv").write_text((folder / new).read_text())
    assert "other/new.csv: 30 cases broke" in graceful(old, new, "other/new.csv").stdout
    done = graceful(old, new, "other/new.csv", "--name", "A", "--name", "B", "--budget", "nfr=0.01")
    assert "REJECT A: " in done.stdout
    assert "REJECT B: " in done.stdout


def test_options_reach_the_comparison(folder):
    rows = range(200)
    sure = {"confidence": [0.9] * 200}
    write_csv(
        folder / "old.csv", {"id": rows, "target": "a" * 200, "label": "A" * 200, "country": ["IS", "NO"] * 100, **sure}
    )
    write_csv(folder / "new.csv", {"id": range(1, 201), "label": "b" * 9 + "a" * 191, **sure})
    write_csv(folder / "map.csv", {"old": "A", "new": "a"})
    write_csv(folder / "costs.csv", {"target": "a", "answer": "b", "cost": [40]})
    options = [
        "--common",
        "--label-map",
        "map.csv",
        "--costs",
        "costs.csv",
        "--threshold",
        "0.5,0.95",
        "--slice",
        "country",
    ]
    done = graceful(
        "old.csv", "new.csv", *options, "--json", "-", "--title", "T", "--budget", "all cost=1", "--memory", "200MB"
    )
    found = json.loads(done.stdout)
    first = found["candidates"][0]
    assert (found["title"], found["threshold"], found["slice_columns"]) == ("T", [0.5, 0.95], ["country"])
    assert (first["whole"]["rows"], first["whole"]["broke"], first["at_argmax"]["broke"]) == (199, 199, 9)
    assert first["ruling"]["checks"][0]["rule"] == "cost a sample at most 1"


LOOKS = "import json, sys, time; from lightning_graceful.cli import main; code = main(sys.argv[1:])\n"
LOOKS += (
    "print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules}), 'scipy.stats' in sys.modules]))"
)


def test_nothing_heavy_is_loaded(folder):
    names = files(folder, 1, rows=3, confidence=[0.5] * 3, cost=[1, 2, 3], weight=[1, 2, 3])
    outputs = ["--json", "r.json", "--markdown", "r.md", "--junit", "r.xml", "--flips", "r.csv"]
    command = [sys.executable, "-c", LOOKS, "compare", *names, *outputs, "--budget", "nfr=0.1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    code, loaded, has_stats = json.loads(done.stdout.splitlines()[-1])
    heavy = {"torch", "hydra", "omegaconf", "wandb", "lightning", "pytorch_lightning", "plotly", "pandas", "pyarrow"}
    assert (code in VERDICTS, heavy & {*loaded}, has_stats) == (True, set(), False)


def test_starts_in_a_moment(folder):
    names = files(folder, 1, rows=3)

    def seconds():
        before = time.monotonic()
        assert graceful(*names).returncode == 0
        return time.monotonic() - before

    assert min(seconds() for _ in range(3)) < 2


MEMORY = """
import resource, sys
from lightning_graceful.cli import main
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = ["compare", "small/old.csv", "small/new.csv", "--quiet", "--memory", "100MB"]
assert main(small) == 0
before = peak()
assert main(["compare", "old.csv", "new.csv", "--quiet", "--memory", "100MB", "--slice", "country"]) == 0
print((peak() - before) // 1024)
"""


@pytest.mark.slow
def test_a_million_rows_stay_within_their_memory(folder):
    (folder / "small").mkdir()
    files(folder / "small", 1, rows=10)
    rows = 1_000_000
    files(folder, 30_000, rows=rows, country=["IS", "NO"] * (rows // 2), weight=[1 + n % 1000 / 7 for n in range(rows)],
          cost=[1 + n % 977 / 3 for n in range(rows)])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250, "MiB"

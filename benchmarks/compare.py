"""How long ``graceful compare`` takes and what it holds, beside pandas joining the same two files and counting flips.

    python -m benchmarks.compare                 # 10^5, 10^6 and 10^7 rows, three times each, interleaved
    python -m benchmarks.compare --rows 1e6 --repeats 1

Written is benchmarks/results/compare.json. Each run is a process of its own; memory is its largest resident set.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import duckdb

RESULTS = Path(__file__).parent / "results" / "compare.json"
ROWS = "100 classes, NFR about 6 %, seven slices, shuffled in the new file; id, target, label, confidence"
PANDAS = """
import pandas as pd
old, new = pd.read_csv("old.csv"), pd.read_csv("new.csv")
rows = old.merge(new, on="id", validate="one_to_one", suffixes=("_old", "_new"))
right = {side: rows[f"label_{side}"] == rows["target_old"] for side in ("old", "new")}
broke = right["old"] & ~right["new"]
print(broke.sum(), broke.groupby(rows["country"]).mean().max(), broke.groupby(rows["target_old"]).mean().max())
"""
ARMS = {
    "graceful": [
        sys.executable, "-m", "lightning_graceful", "compare", "old.csv", "new.csv", "--slice", "country",
        "--budget", "nfr=0.01", "--json", "out.json", "--flips", "flips.csv", "--quiet",
    ],
    "pandas": [sys.executable, "-c", PANDAS],
}  # fmt: skip


def write_files(folder: Path, rows: int) -> None:
    """Write both files, seeded."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.execute("SELECT setseed(0.25)")
        connection.execute(
            "CREATE TABLE t AS SELECT i, (random() * 100)::INT AS target, random() AS a, random() AS b, "
            f"(random() * 100)::INT AS other, random() AS sure FROM range({rows}) r(i)"
        )
        for name, column, share, slices in (("old", "a", 0.1, ", 'k' || (i % 7) AS country"), ("new", "b", 0.07, "")):
            label = f"'c' || CASE WHEN {column} < {share} THEN other ELSE target END AS label"
            known = "'img_' || i AS id, 'c' || target AS target"
            query = f"SELECT {known}, {label}, round(sure, 4) AS confidence{slices} FROM t"
            order = "" if name == "old" else "ORDER BY hash(i)"
            connection.execute(f"COPY ({query} {order}) TO '{folder / name}.csv' (HEADER)")


def measure(arm: str, folder: Path) -> dict[str, float]:
    """Run one arm in a process of its own."""
    start = time.perf_counter()
    child = os.posix_spawn(
        sys.executable, ARMS[arm], {**os.environ},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    assert code == (1 if arm == "graceful" else 0), f"{arm} left with {code}"
    return {"seconds": seconds, "gigabytes": usage.ru_maxrss * 1024 / 1e9}


def main() -> None:
    """Measure all arms at all sizes, interleaved, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = {}
    home = os.getcwd()
    for rows in map(int, options.rows):
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), rows)
            os.environ["PYTHONPATH"] = home
            os.chdir(folder)
            runs = {arm: [] for arm in ARMS}
            for _ in range(options.repeats):
                for arm in ARMS:
                    runs[arm].append(measure(arm, Path(folder)))
            os.chdir(home)
        found[rows] = {
            arm: {key: statistics.median(run[key] for run in said) for key in said[0]} for arm, said in runs.items()
        }
        found[rows]["all"] = runs
        ours, theirs = found[rows]["graceful"], found[rows]["pandas"]
        times, sizes = (ours[key] / theirs[key] for key in ("seconds", "gigabytes"))
        print(
            f"{rows:>10,} rows: {ours['seconds']:6.2f} s, {ours['gigabytes']:.2f} GB; pandas "
            f"{theirs['seconds']:6.2f} s, {theirs['gigabytes']:.2f} GB; "
            f"{times:.2f} of its time, {sizes:.2f} of its memory",
            flush=True,
        )
    machine = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    RESULTS.write_text(json.dumps({"machine": machine, "rows": ROWS, "median": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

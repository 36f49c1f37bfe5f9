"""The table of each draw, as the terminal shows it."""

import io
import json

from rich.console import Console

from lightning_graceful.experiment.search_results import leave_draws
from tests.report.compatibility.summaries import made, minimal

NAMES = ("class_collapse", "cosine_influence", "mixed_gallery", "independent")


def test_names_and_numbers_of_draws_are_whole_in_80_columns(tmp_path):
    ways = tuple(made(name, rise=(-0.312, -0.3, -0.299), tax=(0.154, 0.1, 0.1)) for name in NAMES)
    console = Console(file=io.StringIO(), width=80, color_system=None)
    leave_draws({"Shirt, Bag": minimal(ways=ways)}, tmp_path, console)
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    rows = text.split("─\n")[1].splitlines()
    assert "".join(row[:11].strip() for row in rows) == "".join(NAMES)
    assert text.count("[-32.0, -30.4]") == text.count("[-1.61, -1.51]") == text.count("[+15.0, +15.8]") == len(NAMES)
    assert list(json.loads((tmp_path / "draws.json").read_text())) == ["Shirt, Bag"]

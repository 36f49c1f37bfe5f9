import re
import subprocess
import sys
from pathlib import Path

import lightning_graceful

ROOT = Path(__file__).parent.parent


def test_example_project_trains_gracefully(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "existing_project.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "val/nfr" in done.stdout
    assert (tmp_path / "runs/example/old_outputs").is_dir()


def test_example_of_compatibility_searches_the_old_gallery(tmp_path):
    """Trained with a term it beats the old model there; trained as usual it finds next to nothing."""
    command = [sys.executable, str(ROOT / "examples" / "compatibility.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    old, cross = (
        [float(value) for value in re.findall(rf"{whose} queries in the old gallery +(\S+)", done.stdout)]
        for whose in ("old", "new")
    )
    assert old[0] == old[1]
    assert cross[0] < old[0] < cross[1]


def test_code_in_the_readme_uses_names_that_exist():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for names in re.findall(r"from lightning_graceful import (.*)", block):
            assert all(hasattr(lightning_graceful, name.strip()) for name in names.split(","))


def test_commands_in_the_readme_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_compare_as_in_the_readme_and_its_guide(tmp_path):
    """The commands run as they stand there, and print what stands below them."""
    graceful = str(Path(sys.executable).with_name("graceful"))
    for page in ("README.md", "docs/compare.md"):
        text = (ROOT / page).read_text()
        commands = re.search(r"^(python examples/predictions.py .*?) *#.*\n(graceful compare .*)$", text, re.MULTILINE)
        make, compare = commands.groups()
        run(tmp_path, sys.executable, str(ROOT / make.split()[1]), *make.split()[2:])
        printed = run(tmp_path, graceful, *compare.split()[1:], code=1)
        block = re.search(r"```\n(REJECT .*?)```", text, re.DOTALL)[1]
        assert block in printed
        assert (tmp_path / "page.html").stat().st_size > 1e6


def run(folder, *command, code=0):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout

"""One style, kept by ruff, in the library, the tests and the chapters; and a library that stays small."""

import subprocess
import sys

import pytest

from lbdl import chapters

ROOT = chapters.FOLDER.parent
# "Small" in numbers of lines, docstrings included.
MOST_LINES = {"data.py": 400, "download.py": 130, "schematics.py": 570, "the rest": 1350}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_finds_nothing(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run: make lint\n{done.stdout}{done.stderr}"


def test_the_library_is_small():
    lines = dict.fromkeys(MOST_LINES, 0)
    for file in (ROOT / "lib").rglob("*.py"):
        part = file.name if file.name in lines else "the rest"
        lines[part] += len(file.read_text(encoding="utf-8").splitlines())
    assert all(0 < lines[part] <= MOST_LINES[part] for part in MOST_LINES), lines

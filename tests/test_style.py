"""One style, kept by ruff, in the library, the tests and the chapters; and a library that stays small."""

import subprocess
import sys

import pytest

from lbdl import chapters

ROOT = chapters.FOLDER.parent
MOST_LINES = 1500  # "small" in numbers: all of lib/lbdl, docstrings and comments included


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_finds_nothing(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run: make lint\n{done.stdout}{done.stderr}"


def test_the_library_is_small():
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "lib").rglob("*.py"))
    assert lines <= MOST_LINES

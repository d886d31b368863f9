"""One style, kept by ruff, in the library, the tests and the chapters; and a library that stays small."""

import subprocess
import sys

import pytest

from lbdl import chapters
from tests.running import PAIRED

ROOT = chapters.FOLDER.parent
MOST_LINES = 2600  # what "small" means for the library, docstrings included


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_finds_nothing(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run: make lint\n{done.stdout}{done.stderr}"


def test_the_library_is_small():
    files = [*(ROOT / "lib").rglob("*.py")]
    assert 0 < sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= MOST_LINES


def test_the_weekly_proofs_take_every_chapter():
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert all(f'"CHAPTER={script.name[:2]}"' in workflow for script in PAIRED)

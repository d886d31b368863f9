"""A figure is the same bytes in every process, whatever their hashes and addresses."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.test_figures import typical_png

ROOT = Path(__file__).parents[2]


def test_fresh_processes_give_the_same_bytes():
    code = "import hashlib, tests.test_figures as t; print(hashlib.sha256(t.typical_png()).hexdigest())"
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    hashes = {run.communicate(timeout=60)[0].decode().strip() for run in runs}
    assert hashes == {hashlib.sha256(typical_png()).hexdigest()}

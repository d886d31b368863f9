"""Packages of public registries: pinned, downloaded once into .cache/packages, checked by SHA-256, read in place."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lbdl.download import pip_download

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "packages"
PLATFORM = ["--python-version", "3.11", "--implementation", "cp"]
PLATFORM += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]


@dataclass(frozen=True)
class Source:
    """A pinned package: `kind` is pip (a wheel), sdist, npm or apt; `sha256` is of the archive that is downloaded."""

    kind: str
    name: str
    version: str
    sha256: str

    def fetch(self) -> Path:
        """The archive, from the cache or downloaded into it; only one with the right SHA-256 ever gets there."""
        there = CACHE / self.sha256
        if not there.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="partial-") as folder:
                archive = self._download(Path(folder))
                found = hashlib.sha256(archive.read_bytes()).hexdigest()
                if found != self.sha256:
                    raise SystemExit(f"{archive.name}: expected SHA-256 {self.sha256}, got {found}")
                archive.replace(there)
        return there

    def _download(self, folder: Path) -> Path:
        pinned = f"{self.name}=={self.version}"
        if self.kind == "pip":  # the platform is named so that each machine gets the same wheel
            done = pip_download(pinned, self.sha256, folder, "--only-binary=:all:", *PLATFORM)
        elif self.kind == "sdist":
            done = pip_download(pinned, self.sha256, folder, "--no-binary=:all:")
        else:
            command = {
                "npm": ["npm", "pack", "--silent", f"{self.name}@{self.version}"],
                "apt": ["apt-get", "download", "-q", f"{self.name}={self.version}"],
            }[self.kind]
            if not shutil.which(command[0]):
                raise SystemExit(f"{command[0]} is needed for the {self.kind} package {self.name}, and was not found")
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        archives = list(folder.iterdir())
        if done.returncode or len(archives) != 1:
            raise SystemExit(f"{self.kind} package {self.name} {self.version} could not be fetched:\n{done.stderr}")
        return archives[0]

    @cache  # noqa: B019 - a build is one short process
    def files(self) -> dict[str, bytes]:
        """The content of every file in the package, by its path."""
        archive = self.fetch()
        if self.kind == "pip":
            with zipfile.ZipFile(archive) as wheel:
                return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
        content = archive.read_bytes()
        if self.kind == "apt":
            done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=True)
            content = done.stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            return {member.name.removeprefix("./"): tar.extractfile(member).read() for member in tar if member.isfile()}

    def unpack(self, folder: Path) -> Path:
        """Write the package's files and links into a folder, for a package that has to run rather than be read."""
        target = folder / self.name
        archive = self.fetch()
        if self.kind == "apt":
            subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
        else:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target)
        return target


def importable(*tools: Source) -> None:
    """Let this process import packages that only the build needs, without installing them.

    They are unpacked beside the cached archives, under the name of their SHA-256.
    """
    for tool in tools:
        folder = CACHE / f"{tool.sha256}.unpacked"
        if not folder.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="partial-") as partial:
                tool.unpack(Path(partial)).replace(folder)
        sys.path.append(str(folder))

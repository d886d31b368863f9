"""The data sets that the companion ships, as tensors: real, small, offline, without pickle (see data/README.md)."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "data"
REBUILD = "python data/build.py"

DIGITS = tuple("0123456789")
PENGUINS = ("Adelie", "Chinstrap", "Gentoo")
MEASUREMENTS = ("bill length", "bill depth", "flipper length", "body mass")  # the first three in mm, the mass in g

_verified: dict[str, bytes] = {}  # each file is read and checked once a session


class DataError(RuntimeError):
    """A shipped file is missing or damaged; the message says which, and what to run."""


def read(file: str) -> bytes:
    """The bytes of a shipped file, checked against the SHA-256 in data/manifest.json.

    Raises:
        DataError: the file is missing, damaged, or not in the manifest.
    """
    if file not in _verified:
        manifest = FOLDER / "manifest.json"
        for path in (manifest, FOLDER / file):
            if not path.exists():
                raise DataError(f"data/{path.name} is missing: get it with `git checkout data`, or run `{REBUILD}`")
        known = json.loads(manifest.read_text())
        if file not in known:
            raise DataError(f"data/{file} is not in the manifest: expected one of {', '.join(known)}")
        content = (FOLDER / file).read_bytes()
        if hashlib.sha256(content).hexdigest() != known[file]["sha256"]:
            raise DataError(
                f"data/{file} is damaged: its {len(content):,} bytes do not have the SHA-256 in the manifest "
                f"({known[file]['bytes']:,} bytes expected): get it with `git checkout data`, or run `{REBUILD}`"
            )
        _verified[file] = content
    return _verified[file]


def _known_split(split: str, there: tuple[str, ...]) -> None:
    if split not in there:
        raise ValueError(f"expected the split to be one of {', '.join(there)}, got {split!r}")


def mnist(split: str = "train", device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """MNIST, handwritten digits: 8,000 to train, 2,000 to test.

    Args:
        split: "train" or "test".
        device: where the tensors are made.

    Returns:
        images (N, 1, 28, 28), float32, from 0 (paper) to 1 (ink); labels (N,), int64, the digit; names: `DIGITS`.

    Raises:
        ValueError: an unknown split.
        DataError: the file is missing or damaged.
    """
    _known_split(split, ("train", "test"))
    with np.load(io.BytesIO(read("mnist.npz")), allow_pickle=False) as arrays:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return torch.tensor(images, device=device)[:, None].float() / 255, torch.tensor(labels, device=device).long()


class Penguins(NamedTuple):
    """`measured` (N, 4) float32 in the columns of `MEASUREMENTS`; `species` (N,) int64, an index into `PENGUINS`."""

    measured: Tensor
    species: Tensor


def penguins(split: str = "all", device: torch.device | str = "cpu") -> Penguins:
    """Penguins of three species, measured at Palmer Station: 202 to train, 70 to validate, 70 to test.

    Args:
        split: "train", "validation", "test" or "all".
        device: where the tensors are made.

    Returns:
        measured (N, 4), float32: bill length, bill depth, flipper length in mm, body mass in g; species (N,), int64.

    Raises:
        ValueError: an unknown split.
        DataError: the file is missing or damaged.
    """
    _known_split(split, ("train", "validation", "test", "all"))
    rows = [r for r in csv.DictReader(io.StringIO(read("penguins.csv").decode())) if split in ("all", r["split"])]
    columns = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
    measured = torch.tensor([[float(row[c]) for c in columns] for row in rows], device=device)
    return Penguins(measured, torch.tensor([PENGUINS.index(row["species"]) for row in rows], device=device))

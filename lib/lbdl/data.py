"""The data sets that the companion ships, as tensors: real, small, offline, without pickle (see data/README.md)."""

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lbdl.download import DataError, smollm2  # noqa: F401 - smollm2 is offered here, beside what is shipped

FOLDER = Path(__file__).resolve().parents[2] / "data"
REBUILD = "python data/build.py"

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
EMOJI_STYLES = ("twemoji", "noto", "fluent", "openmoji")
SAMPLE_RATE = 8000  # of the spoken words, in samples a second
BONDS = ("single", "double", "triple", "aromatic")
PENGUINS = ("Adelie", "Chinstrap", "Gentoo")
MEASUREMENTS = ("bill length", "bill depth", "flipper length", "body mass")  # the first three in mm, the mass in g

_verified: dict[str, bytes] = {}  # each file is read and checked once a session


def read(file: str) -> bytes:
    """The bytes of a shipped file, checked against the SHA-256 in data/manifest.json.

    Raises:
        DataError: the file is missing, damaged, or not in the manifest.
    """
    if file not in _verified:
        get = f"get it with `git checkout data`, or run `{REBUILD}`"
        for name in ("manifest.json", file):
            if not (FOLDER / name).exists():
                raise DataError(f"data/{name} is missing: {get}")
        try:
            manifest = json.loads((FOLDER / "manifest.json").read_text())
            known = {name: (entry["sha256"], int(entry["bytes"])) for name, entry in manifest.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"data/manifest.json is damaged: {error}: {get}") from None
        if file not in known:
            raise DataError(f"data/{file} is not in the manifest: expected one of {', '.join(known)}")
        content = (FOLDER / file).read_bytes()
        sha256, size = known[file]
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DataError(
                f"data/{file} is damaged: its {len(content):,} bytes do not have the SHA-256 in the manifest "
                f"({size:,} bytes expected): {get}"
            )
        _verified[file] = content
    return _verified[file]


def _one_of(kind: str, asked: str, there: tuple[str, ...]) -> None:
    if asked not in there:
        raise ValueError(f"expected the {kind} to be one of {', '.join(there)}, got {asked!r}")


def _arrays(file: str, *names: str) -> list[np.ndarray]:
    with np.load(io.BytesIO(read(file)), allow_pickle=False) as arrays:
        return [arrays[name] for name in names]


def _rows(file: str, split: str = "all") -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(read(file).decode()))
    return [row for row in rows if split == "all" or row["split"] == split]


def _lines(letters: np.ndarray) -> tuple[str, ...]:
    return tuple(letters.tobytes().decode().split("\n"))


def _from_zero_to_one(pixels: np.ndarray, device) -> Tensor:
    return torch.tensor(pixels, device=device).float().div_(255)


def _images_and_labels(file: str, split: str, device) -> tuple[Tensor, Tensor]:
    _one_of("split", split, ("train", "test"))
    images, labels = _arrays(file, f"{split}_images", f"{split}_labels")
    return _from_zero_to_one(images[:, None], device), torch.tensor(labels, device=device).long()


def mnist(split: str = "train", device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """MNIST, handwritten digits: 8,000 to train, 2,000 to test.

    Args:
        split: "train" or "test".
        device: where the tensors are made.

    Returns:
        images (N, 1, 28, 28), float32, from 0 (paper) to 1 (ink); labels (N,), int64, the digit; names: `DIGITS`.

    Raises:
        ValueError: an unknown split.
        DataError: the file is missing or damaged. (Both are true of all data sets.)
    """
    return _images_and_labels("mnist.npz", split, device)


def fashion_mnist(split: str = "train", device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Fashion-MNIST, photographs of clothes: 5,000 to train, 2,000 to test, the same number of each class.

    Args:
        split: "train" or "test".
        device: where the tensors are made.

    Returns:
        images (N, 1, 28, 28), float32, from 0 (ground) to 1; labels (N,), int64; names: `CLOTHES`.
    """
    return _images_and_labels("fashion_mnist.npz", split, device)


class Photographs(NamedTuple):
    """`images` (N, 3, 512, 512) float32 from 0 to 1; `names` (N), such as "stream" and "stream_detail"."""

    images: Tensor
    names: tuple[str, ...]


def photographs(split: str = "all", device: torch.device | str = "cpu") -> Photographs:
    """Colour photographs, two squares of each: the whole view, and a part rich in detail, twice as near.

    Args:
        split: "train" (9 photographs, 18 squares), "validation" (2, 4), "test" (3, 6) or "all".
        device: where the tensors are made.

    Returns:
        images (N, 3, 512, 512), float32, red, green and blue from 0 to 1; names (N), whole views first.
    """
    _one_of("split", split, ("train", "validation", "test", "all"))
    names = [row["name"] for row in _rows("photographs.csv", split)]
    names += [f"{name}_detail" for name in names]
    pixels = [np.array(Image.open(io.BytesIO(read(f"photographs/{name}.jpg")))) for name in names]
    return Photographs(_from_zero_to_one(np.stack(pixels).transpose(0, 3, 1, 2), device), tuple(names))


class Emoji(NamedTuple):
    """`images` (N, 4, 32, 32) float32 from 0 to 1, and of each its character, name, keywords and group (N)."""

    images: Tensor
    characters: tuple[str, ...]
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...]


def emoji(style: str = "twemoji", split: str = "all", device: torch.device | str = "cpu") -> Emoji:
    """Emoji as one art style draws them; the same ones in the same order in every style, no near-duplicates.

    Args:
        style: one of `EMOJI_STYLES`: "twemoji", "noto", "fluent" or "openmoji".
        split: "train" (994), "test" (100 others, for names never seen) or "all".
        device: where the tensors are made.

    Returns:
        images (N, 4, 32, 32), float32, red, green, blue and alpha from 0 to 1 (colours not multiplied by alpha, 0 where
        alpha is 0); characters, names, keywords and groups (N).
    """
    _one_of("style", style, EMOJI_STYLES)
    _one_of("split", split, ("train", "test", "all"))
    rows = _rows("emoji.csv")
    chosen = [i for i, row in enumerate(rows) if split in ("all", row["split"])]
    (pixels,) = _arrays("emoji.npz", style)
    images = _from_zero_to_one(pixels[chosen].transpose(0, 3, 1, 2), device)
    told = [(row["emoji"], row["name"], tuple(row["keywords"].split("|")), row["group"]) for row in rows]
    return Emoji(images, *zip(*(told[i] for i in chosen), strict=True))


class Text(NamedTuple):
    """`text` of T characters; `codes` (T,) int64, the place of each in `characters`, the sorted set of all splits."""

    text: str
    codes: Tensor
    characters: str


def shakespeare(split: str = "train", device: torch.device | str = "cpu") -> Text:
    """Nine plays of Shakespeare: 991,000 characters to train, and the ends of the plays, 109,000, to validate.

    Args:
        split: "train" or "validation".
        device: where the tensors are made.

    Returns:
        text, a str in plain ASCII; codes (T,), int64; characters, the same for both splits.
    """
    _one_of("split", split, ("train", "validation"))
    texts = {s: gzip.decompress(read(f"shakespeare_{s}.txt.gz")) for s in ("train", "validation")}
    letters = np.unique(np.frombuffer(b"".join(texts.values()), np.uint8))  # sorted
    codes = np.searchsorted(letters, np.frombuffer(texts[split], np.uint8))
    return Text(texts[split].decode("ascii"), torch.tensor(codes, device=device), letters.tobytes().decode("ascii"))


class WordVectors(NamedTuple):
    """`words` (N), most frequent first; `vectors` (N, 50) float32."""

    words: tuple[str, ...]
    vectors: Tensor


def glove(device: torch.device | str = "cpu") -> WordVectors:
    """GloVe vectors of the 20,000 most frequent English words, as learned from Wikipedia and newspapers.

    Args:
        device: where the tensors are made.

    Returns:
        words (20000), in lower case; vectors (20000, 50), float32, of standard deviation 0.7, stored in half precision.
    """
    words, vectors = _arrays("glove.npz", "words", "vectors")
    return WordVectors(_lines(words), torch.tensor(vectors, device=device).float())


class Speech(NamedTuple):
    """`waves` (N, T) float32, 0 after `lengths` (N,); `words` and `voices` (N,) index `vocabulary` and `speakers`."""

    waves: Tensor
    lengths: Tensor
    words: Tensor
    voices: Tensor
    vocabulary: tuple[str, ...]
    speakers: tuple[str, ...]


def speech(split: str = "train", device: torch.device | str = "cpu") -> Speech:
    """Spoken words: the same 54 said by each of many synthetic voices, and by one human voice.

    Args:
        split: "train", "validation", "test" (synthetic voices, none in two of them) or "human".
        device: where the tensors are made.

    Returns:
        waves (N, T), float32, from -1 to 1, `SAMPLE_RATE` samples a second; lengths (N,), int64, in samples;
        words and voices (N,), int64, the places in vocabulary (54) and in speakers (of all splits).
    """
    _one_of("split", split, ("train", "validation", "test", "human"))
    audio, starts, word, voice, spelled = _arrays("speech.npz", "audio", "starts", "word", "voice", "vocabulary")
    speakers = _rows("speech_voices.csv")
    chosen = np.flatnonzero([speakers[v]["split"] == split for v in voice])
    lengths = np.diff(starts)[chosen]
    waves = np.zeros((len(chosen), lengths.max()), np.float32)
    for row, i in enumerate(chosen):
        waves[row, : lengths[row]] = MU_LAW[audio[starts[i] : starts[i + 1]]]
    numbers = [torch.tensor(n, device=device).long() for n in (lengths, word[chosen], voice[chosen])]
    names = tuple(row["name"] for row in speakers)
    return Speech(torch.tensor(waves, device=device), *numbers, _lines(spelled), names)


def _mu_law_table() -> np.ndarray:
    """What each of the 256 codes of ITU-T G.711 stands for, from -1 to 1: sign, exponent, mantissa, all inverted."""
    bits = 255 - np.arange(256)
    magnitude = ((2 * (bits & 15) + 33) << (bits >> 4 & 7)) - 33  # from 0 to 8031
    return (np.where(bits & 128, -magnitude, magnitude) / 8192).astype(np.float32)


MU_LAW = _mu_law_table()  # (256,) float32


class Molecules(NamedTuple):
    """M molecules as one graph of A atoms and B bonds.

    `atoms` (A, 3) int64: place in `elements`, attached hydrogens, charge; `bonds` (B, 2) int64: the two atoms, each
    bond once; `bond_types` (B,) int64, an index into `BONDS`; `molecule` (A,) int64: which of the M an atom belongs to;
    `area` (M,) float32: polar surface in square Angstrom; `smiles` (M): each as text; `elements`: their symbols.
    """

    atoms: Tensor
    bonds: Tensor
    bond_types: Tensor
    molecule: Tensor
    area: Tensor
    smiles: tuple[str, ...]
    elements: tuple[str, ...]


def molecules(split: str = "train", device: torch.device | str = "cpu") -> Molecules:
    """Molecules as graphs, with their topological polar surface area (Ertl et al., 2000) as the property to predict.

    Args:
        split: "train" (3,792 molecules), "validation" (500), "test" (500) or "all".
        device: where the tensors are made.

    Returns:
        See `Molecules`; atoms are numbered from 0 within the split. Hydrogens are counted, not drawn as atoms.
    """
    _one_of("split", split, ("train", "validation", "test", "all"))
    names = ("atoms", "bonds", "atoms_in", "bonds_in", "area", "smiles", "elements", "borders")
    atoms, bonds, atoms_in, bonds_in, area, smiles, elements, borders = _arrays("molecules.npz", *names)
    train, validation, everything = borders.tolist()
    parts = {"train": (0, train), "validation": (train, validation), "test": (validation, everything)}
    first, last = (parts | {"all": (0, everything)})[split]
    atom, bond = ([n[:first].sum(dtype=int), n[:last].sum(dtype=int)] for n in (atoms_in, bonds_in))
    ends, types = bonds[slice(*bond), :2] - atom[0], bonds[slice(*bond), 2]
    molecule = np.repeat(np.arange(last - first), atoms_in[first:last])
    numbers = [torch.tensor(n, device=device).long() for n in (atoms[slice(*atom)], ends, types, molecule)]
    return Molecules(
        *numbers, torch.tensor(area[first:last], device=device), _lines(smiles)[first:last], _lines(elements)
    )


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
    """
    _one_of("split", split, ("train", "validation", "test", "all"))
    rows = _rows("penguins.csv", split)
    columns = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
    measured = torch.tensor([[float(row[c]) for c in columns] for row in rows], device=device)
    return Penguins(measured, torch.tensor([PENGUINS.index(row["species"]) for row in rows], device=device))


class TrainingCosts(NamedTuple):
    """Of each model (N) its name, year with fraction, domain, parameters, training FLOP, and where these are from."""

    models: tuple[str, ...]
    years: Tensor
    domains: tuple[str, ...]
    parameters: Tensor
    flop: Tensor
    citations: tuple[str, ...]


def training_costs(device: torch.device | str = "cpu") -> TrainingCosts:
    """What it cost to train landmark models (book section 3.7, figure 3.7); a citation and the arithmetic for each.

    Args:
        device: where the tensors are made.

    Returns:
        models, domains ("vision", "language" or "other") and citations (N); years, parameters, flop (N,), float32.
    """
    rows = _rows("training_costs.csv")
    years = [int(row["date"][:4]) + (int(row["date"][5:]) - 0.5) / 12 for row in rows]
    numbers = (years, *([float(row[c]) for row in rows] for c in ("parameters", "flop")))
    years, parameters, flop = (torch.tensor(n, device=device, dtype=torch.float32) for n in numbers)
    models, domains, sources = zip(
        *((row["model"], row["domain"], f"{row['citation']}. {row['basis']}") for row in rows), strict=True
    )
    return TrainingCosts(models, years, domains, parameters, flop, sources)


class PublicDataset(NamedTuple):
    """A row of the book's table 3.1: `samples` of a `unit` ("images" or "books"), `size` in bytes, and its paper."""

    name: str
    year: int
    samples: float
    unit: str
    size: float
    samples_in_the_book: str
    citation: str


def public_datasets() -> tuple[PublicDataset, ...]:
    """Publicly available data sets (book section 3.7, table 3.1). A book is 500,000 characters, as the book counts.

    Returns:
        Six rows; `samples_in_the_book` is the number as printed there, which for texts is a thousand times too large.
    """
    return tuple(
        PublicDataset(
            r["name"], int(r["year"]), float(r["samples"]), r["unit"], float(r["bytes"]), *list(r.values())[5:]
        )
        for r in _rows("public_datasets.csv")
    )

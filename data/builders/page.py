"""What is said and shown of the data: data/README.md, its picture of samples, and the texts that licences ask for."""

import hashlib
import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from builders import molecules, pictures
from lbdl.data import EMOJI_STYLES, MU_LAW
from lbdl.figures import compact, pixels

SHOWN = 4  # a data set of more files than this gets its checksums from the manifest only


def section(data, made: dict[str, bytes], facts: dict) -> str:
    """The part of README.md on one data set."""
    sources = [
        f"{source.kind} package `{source.name}` {source.version}, archive SHA-256 `{source.sha256}`"
        for source in data.sources
    ]
    lines = [
        f"## {data.title}\n\n{data.what}\n",
        f"- load: `lbdl.data.{data.loader}()`",
        f"- counts: {data.counts.format(**facts)}",
        f"- split: {data.split.format(**facts)}",
        f"- source: {'; '.join(sources) or 'written by hand'}",
        f"- licence and attribution: {data.licence}",
    ]
    if len(made) > SHOWN:
        rest = [name for name in made if not name.endswith(".jpg")]
        size = sum(len(content) for name, content in made.items() if name not in rest)
        lines.append(
            f"- {len(made) - len(rest)} JPEG files in `photographs/`, {size:,} bytes; SHA-256 in manifest.json"
        )
        made = {name: made[name] for name in rest}
    for name, content in made.items():
        lines.append(f"- `{name}`: {len(content):,} bytes, SHA-256 `{hashlib.sha256(content).hexdigest()}`")
    return "\n".join(lines) + "\n"


def readme(sections: list[str], files: dict[str, bytes]) -> str:
    """data/README.md: what is in each file, from where, under which licence."""
    total = sum(map(len, files.values()))
    start = (
        f"# The data\n\n{len(files)} files, {total / 1e6:.1f} MB, made by `make data` (`data/build.py`) from packages "
        "of public registries; nothing else writes into this folder, and this page is made with them. `manifest.json` "
        "holds the sizes and SHA-256, which `lbdl.data` checks before it reads. To look at and listen to the data, "
        "open [chapters/00_the_data.ipynb](../chapters/00_the_data.ipynb).\n\n"
        "The code's licence (../LICENSE) does not cover the data: each has its own, named below; the texts that a "
        "licence asks for are in `licences/`. The language model of chapters 7 and 8 is not here: "
        "`lbdl.data.smollm2()` downloads it once.\n\n![Samples of the data sets that can be seen](samples.jpg)\n"
    )
    end = (
        "## book.yaml\n\nThe sections, figures, equations and index terms of the book, as facts: the contract "
        "that `tests/test_ledger.py` holds the chapters against. Written by hand.\n"
    )
    return "\n".join([start, *sections, end])


def samples(files: dict[str, bytes]) -> bytes:
    """One picture with samples of every data set that can be seen, titled with what it is."""
    rows = {
        "MNIST": _grey(files, "mnist.npz"),
        "Fashion-MNIST": _grey(files, "fashion_mnist.npz"),
        "Photographs": _photographs(files),
        "Emoji: Twemoji, Noto, Fluent, OpenMoji": _emoji(files),
        "Spoken words: “seven” by four synthetic voices and the human one (spectrograms, 0 to 4 kHz)": _spectra(files),
        "Molecules": _molecules(files),
    }
    width = 1200
    shapes = [image.height * width / image.width + 34 for image in rows.values()]
    figure = plt.figure(figsize=(width / 100, sum(shapes) / 100), dpi=100)
    grid = figure.add_gridspec(len(rows), 1, height_ratios=shapes, left=0, right=1, bottom=0, top=1, hspace=0)
    for cell, (title, image) in zip(grid, rows.items(), strict=True):
        axes = figure.add_subplot(cell)
        axes.imshow(np.asarray(image), interpolation="none", aspect="auto")
        axes.set_title(title, loc="left", fontsize=11, y=0.995, pad=-14)
        axes.set_ylim(image.height, -34 * image.width / width)
        axes.axis("off")
    drawn = pixels(figure)
    plt.close(figure)
    return compact(drawn)  # JPEG, since it holds photographs


def _arrays(files: dict[str, bytes], name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(files[name]), allow_pickle=False) as arrays:
        return dict(arrays)


def _grid(images: np.ndarray, columns: int) -> Image.Image:
    """Pictures (N, H, W[, C]) in rows of `columns`."""
    count, height, width, *colours = images.shape
    rows = images.reshape(count // columns, columns, height, width, *colours).swapaxes(1, 2)
    return Image.fromarray(np.ascontiguousarray(rows.reshape(-1, columns * width, *colours)))


def _grey(files, name: str) -> Image.Image:
    return _grid(255 - _arrays(files, name)["train_images"][:80], 40).convert("RGB")


def _photographs(files) -> Image.Image:
    names = [name for name, *_ in pictures.PHOTOGRAPHS]
    names += [f"{name}_detail" for name in names]
    small = [Image.open(io.BytesIO(files[f"photographs/{name}.jpg"])).resize((128, 128)) for name in names]
    return _grid(np.stack([np.asarray(image) for image in small]), 14)


def _emoji(files) -> Image.Image:
    drawn = _arrays(files, "emoji.npz")
    every = np.linspace(0, len(drawn["noto"]) - 1, 36).astype(int)
    image = _grid(np.concatenate([drawn[style][every] for style in EMOJI_STYLES]), 36)
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return ground.convert("RGB")


def _spectra(files) -> Image.Image:
    from builders import speech

    said = _arrays(files, "speech.npz")
    shown = []
    for name in ("slt", "f4", "m5", "Denis", speech.VOICES[-1].name):
        voice = [v.name for v in speech.VOICES].index(name)
        (i,) = np.flatnonzero((said["voice"] == voice) & (said["word"] == speech.WORDS.index("seven")))
        wave = MU_LAW[said["audio"][said["starts"][i] : said["starts"][i + 1]]].astype(float)
        windows = np.lib.stride_tricks.sliding_window_view(wave, 256)[::64] * np.hanning(256)
        power = np.log10(np.abs(np.fft.rfft(windows)) ** 2 + 1e-5).T[::-1]
        shown.append(Image.fromarray(np.uint8(np.interp(power, [-4, 2], [255, 0]))).resize((240, 110)))
    return _grid(np.stack([np.asarray(image) for image in shown]), 5).convert("RGB")


def _molecules(files) -> Image.Image:
    molecules.importable(molecules.RDKIT)
    from rdkit import Chem
    from rdkit.Chem import Draw

    smiles = bytes(_arrays(files, "molecules.npz")["smiles"]).decode().split("\n")
    drawn = [Draw.MolToImage(Chem.MolFromSmiles(s), size=(200, 150)) for s in smiles[:24] if 25 < len(s) < 50][:8]
    return _grid(np.stack([np.asarray(image.convert("RGB")) for image in drawn]), 8)


def licences() -> dict[str, bytes]:
    """The texts that licences ask to be passed on, from the packages themselves."""
    mit = pictures.MNIST.files()["package/LICENSE"].decode()
    fluent = mit.replace(
        "Copyright (c) 2015 Juan Cazala",
        "Copyright (c) Microsoft Corporation\nCopyright (c) 2023 LobeHub (the package)",
    )
    if fluent == mit:
        raise SystemExit("the MIT text of the package mnist is not as expected")
    texts = {
        "mnist": mit.encode(),
        "fashion-mnist": pictures.FASHION.files()["usr/share/doc/dataset-fashion-mnist/copyright"],
        "noto-emoji": pictures.NOTO.files()["usr/share/doc/fonts-noto-color-emoji/copyright"],
        "fluent-emoji": fluent.encode(),
        "unicode": pictures.ANNOTATIONS.files()["package/LICENSE"],
        "rdkit": molecules.RDKIT.files()["rdkit/license.txt"],
    }
    return {f"licences/{name}.txt": text for name, text in texts.items()}

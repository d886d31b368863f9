"""The shipped data are what their descriptions say, and damage is found before it is used.

The bytes are pinned by their SHA-256 (tests/test_data_build.py), so a data set needs one look: does the loader give
the right numbers in the right places, and do labels belong to inputs?
"""

import csv
import functools
import inspect
import io
import itertools
import json
import math
import pickle
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from lbdl import data

MANIFEST = json.loads((data.FOLDER / "manifest.json").read_text())

SPLITS = {
    data.mnist: ("train", "test"),
    data.fashion_mnist: ("train", "test"),
    data.photographs: ("train", "validation", "test", "all"),
    data.emoji: ("train", "test", "all"),
    data.shakespeare: ("train", "validation"),
    data.speech: ("train", "validation", "test", "human"),
    data.molecules: ("train", "validation", "test", "all"),
    data.penguins: ("train", "validation", "test", "all"),
}
OF_TENSORS = [*SPLITS, data.glove, data.training_costs]
LOADERS = [*OF_TENSORS, data.public_datasets]

loaded = functools.cache(lambda loader, *arguments: loader(*arguments))  # never changed, so read once


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back():
    yield
    loaded.cache_clear()
    data._verified.clear()


def each(loaders):
    return pytest.mark.parametrize("loader", loaders, ids=lambda loader: loader.__name__)


def rows_of(file):
    return list(csv.DictReader(io.StringIO((data.FOLDER / file).read_text(encoding="utf-8"))))


def tensors(result):
    return [x for x in result if isinstance(x, torch.Tensor)]


def contents(images):
    """Each image as bytes, to compare by content."""
    return [image.tobytes() for image in (images * 255).round().byte().numpy()]


def are_images(images, *shape):
    """From 0 to 1, both reached."""
    return images.shape == shape and images.dtype == torch.float32 and images.aminmax() == (0, 1)


def are_numbers(*several, shape):
    return all(numbers.shape == shape and numbers.dtype == torch.int64 for numbers in several)


# Pictures.


@pytest.mark.parametrize("loader, counts", [(data.mnist, (8000, 2000)), (data.fashion_mnist, (5000, 2000))])
def test_digits_and_clothes(loader, counts):
    (train, train_labels), (test, test_labels) = loaded(loader, "train"), loaded(loader, "test")
    for images, labels, count in ((train, train_labels, counts[0]), (test, test_labels, counts[1])):
        assert are_images(images, count, 1, 28, 28) and are_numbers(labels, shape=(count,))
        assert labels.bincount().tolist() == pytest.approx([count / 10] * 10, rel=0.2)
    assert (train[:, :, 0] == 0).float().mean() > 0.65  # 0 is the ground
    assert len(set(contents(train) + contents(test))) == sum(counts)
    means = torch.stack([train[train_labels == label].mean(0).flatten() for label in range(10)])
    nearest = torch.cdist(test.flatten(1), means).argmin(1)
    assert (nearest == test_labels).float().mean() > 0.6  # by chance: 0.1


def test_classes_have_the_names_that_belong_to_them():
    images, labels = loaded(data.fashion_mnist, "train")
    typical = {name: images[labels == label, 0].mean(0) for label, name in enumerate(data.CLOTHES)}
    assert set(sorted(typical, key=lambda n: typical[n][:7].mean())[:4]) == {"sandal", "sneaker", "ankle boot", "bag"}
    sides = [*range(7), *range(21, 28)]
    assert sorted(typical, key=lambda n: typical[n][:, sides].mean())[:2] == ["trousers", "dress"]
    assert data.DIGITS == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_photographs():
    parts = [loaded(data.photographs, split) for split in ("train", "validation", "test")]
    for (images, names), count in zip(parts, (18, 4, 6), strict=True):
        assert are_images(images, count, 3, 512, 512)
        half = count // 2  # whole views first, then their details
        assert names[half:] == tuple(f"{name}_detail" for name in names[:half])
        stored = [
            np.array(Image.open(data.FOLDER / "photographs" / f"{name}.jpg")).transpose(2, 0, 1) for name in names
        ]
        assert contents(images) == [picture.tobytes() for picture in stored]
    everything = loaded(data.photographs, "all")
    assert sorted(everything.names) == sorted(n for part in parts for n in part.names)
    assert sorted(contents(everything.images)) == sorted(c for part in parts for c in contents(part.images))
    red, _, blue = everything.images[everything.names.index("fig")].mean((1, 2))
    assert red > 2 * blue


@pytest.mark.parametrize("style", data.EMOJI_STYLES)
def test_emoji(style):
    train, test, everything = (loaded(data.emoji, style, split) for split in SPLITS[data.emoji])
    by_name = dict(zip(everything.names, contents(everything.images), strict=True))
    for split, emoji, count in zip(SPLITS[data.emoji], (train, test, everything), (994, 100, 1094), strict=True):
        assert are_images(emoji.images, count, 4, 32, 32)
        assert [len(told) for told in emoji[1:]] == [count] * 4
        assert [by_name[name] for name in emoji.names] == contents(emoji.images)
        assert emoji[1:] == loaded(data.emoji, "noto", split)[1:]  # the same ones in the same order
    assert sorted(train.characters + test.characters) == sorted(set(everything.characters))
    colours, alpha = everything.images[:, :3], everything.images[:, 3:]
    assert (colours * (alpha == 0)).max() == 0 and ((colours > alpha) & (alpha > 0)).any()
    i = everything.characters.index("🍋")
    assert (everything.names[i], everything.groups[i]) == ("lemon", "Food & Drink")
    assert everything.keywords[i] == ("citrus", "fruit", "lemon", "sour")
    red, green, blue = everything.images[i, :3, everything.images[i, 3] > 0.5].mean(1)
    assert red > 1.5 * blue and green > 1.5 * blue


def test_each_style_draws_the_emoji_in_its_own_way():
    assert len({c for style in data.EMOJI_STYLES for c in contents(loaded(data.emoji, style).images)}) == 4 * 1094


# Words.


def test_shakespeare():
    train, validation = (loaded(data.shakespeare, split) for split in SPLITS[data.shakespeare])
    for (text, codes, characters), count in ((train, 991_248), (validation, 109_139)):
        assert len(text) == count and text.isascii() and are_numbers(codes, shape=(count,))
        assert text == "".join(characters[code] for code in codes.tolist())
        assert characters == "".join(sorted(set(train.text + validation.text)))
    speeches = [speech for speech in validation.text.split("\n\n") if len(speech) > 100]
    assert len(speeches) > 300 and not [speech for speech in speeches if speech in train.text]
    assert train.text.startswith("ACT I.")


def test_word_vectors():
    words, vectors = loaded(data.glove)
    assert vectors.shape == (20_000, 50) and vectors.dtype == torch.float32 and 0.5 < vectors.std() < 1
    assert len(set(words)) == 20_000 and words[:3] == ("the", ",", ".")
    cosines = torch.cosine_similarity(vectors, vectors[words.index("king")], dim=1)
    nearest = [words[i] for i in cosines.topk(10).indices]
    assert nearest[0] == "king" and {"prince", "queen", "emperor", "throne"} <= set(nearest)


@functools.cache
def spectra(split):
    """Each recording as 24 moments by 20 bands of its logarithmic spectrum."""
    speech = loaded(data.speech, split)
    short = torch.stft(speech.waves, 256, 64, window=torch.hann_window(256), center=False, return_complex=True)
    bands = (short.abs()[:, 4:124].unflatten(1, (20, 6)).mean(2) + 0.01).log()
    moments = [bands[i, :, : (length - 256) // 64 + 1] for i, length in enumerate(speech.lengths.tolist())]
    same = torch.stack([torch.nn.functional.interpolate(m[None], 24, mode="linear")[0] for m in moments])
    return (same - same.mean((1, 2), keepdim=True)).flatten(1)


@pytest.mark.parametrize("split, voices", [("train", 27), ("validation", 4), ("test", 5), ("human", 1)])
def test_recordings(split, voices):
    speech, count = loaded(data.speech, split), 54 * voices
    rows = rows_of("speech_voices.csv")
    assert speech.waves.shape == (count, speech.lengths.max()) and speech.waves.dtype == torch.float32
    assert are_numbers(speech.lengths, speech.words, speech.voices, shape=(count,))
    assert speech.speakers == tuple(row["name"] for row in rows)
    of_split = {i for i, row in enumerate(rows) if row["split"] == split}
    said = set(zip(speech.voices.tolist(), speech.words.tolist(), strict=True))
    assert said == set(itertools.product(of_split, range(54))) and len(said) == count  # each voice each word once
    assert len(set(speech.vocabulary)) == 54 and speech.vocabulary[7] == "seven"
    after = torch.arange(speech.waves.shape[1]) >= speech.lengths[:, None]
    assert (speech.waves * after == 0).all()
    loudness = ((speech.waves**2).sum(1) / speech.lengths).sqrt()
    assert (loudness / (1000 / 32768) - 1).abs().max() < 0.01  # so the lengths are right, and the scale
    assert speech.lengths.min() > 0.2 * data.SAMPLE_RATE and speech.lengths.max() < 1.5 * data.SAMPLE_RATE


def test_the_word_of_a_recording_is_that_of_the_nearest_one_in_training():
    nearest = torch.cdist(spectra("test"), spectra("train")).argmin(1)
    words = loaded(data.speech, "train").words[nearest]
    assert (words == loaded(data.speech, "test").words).float().mean() > 0.7  # by chance: 0.02


@pytest.mark.parametrize(
    "code, value",
    [
        (0xFF, 0), (0xFE, 2), (0xEF, 33), (0xDF, 99), (0xCF, 231), (0xBF, 495), (0xAF, 1023), (0x9F, 2079),
        (0x8F, 4191), (0x80, 8031), (0x7F, 0), (0x7E, -2), (0x0F, -4191), (0x00, -8031),
    ],
)  # fmt: skip
def test_mu_law_codes_stand_for_the_values_of_the_standard(code, value):
    """ITU-T G.711, table 2."""
    assert data.MU_LAW[code] == np.float32(value / 8192)


# Tables.

ATOM = re.compile(r"\[[^]]*\]|Cl|Br|[BCNOPSFIbcnops]")  # an atom in SMILES: in brackets, or a common element


def symbol(atom):
    return re.match(r"\[?\d*(Cl|Br|Cu|Co|As|Hg|[A-Z]|[a-z])", atom)[1].capitalize()


@pytest.mark.parametrize("split, count", [("train", 3792), ("validation", 500), ("test", 500), ("all", 4792)])
def test_molecules(split, count):
    graphs = loaded(data.molecules, split)
    atoms, bonds = len(graphs.molecule), len(graphs.bond_types)
    assert [tuple(x.shape) for x in tensors(graphs)] == [(atoms, 3), (bonds, 2), (bonds,), (atoms,), (count,)]
    assert [x.dtype for x in tensors(graphs)] == [torch.int64] * 4 + [torch.float32]
    assert graphs.molecule.unique().tolist() == list(range(count)) and (graphs.molecule.diff() >= 0).all()
    # Atoms, links and rings are those of the SMILES.
    held = [Counter() for _ in range(count)]
    for molecule, element in zip(graphs.molecule.tolist(), graphs.atoms[:, 0].tolist(), strict=True):
        held[molecule][graphs.elements[element]] += 1
    assert held == [Counter(symbol(atom) for atom in ATOM.findall(smiles)) for smiles in graphs.smiles]
    rings = [len(re.findall(r"%\d\d|\d", re.sub(r"\[[^]]*\]", "", smiles))) // 2 for smiles in graphs.smiles]
    links = [sum(c.values()) - 1 - smiles.count(".") for c, smiles in zip(held, graphs.smiles, strict=True)]
    first, second = graphs.bonds.T
    assert torch.equal(graphs.molecule[first], graphs.molecule[second]) and (first != second).all()
    assert graphs.molecule[first].bincount(minlength=count).tolist() == [
        a + b for a, b in zip(links, rings, strict=True)
    ]
    # The area goes with the number of nitrogen and oxygen atoms.
    polar = torch.tensor([float(c["N"] + c["O"]) for c in held])
    assert torch.corrcoef(torch.stack([polar, graphs.area]))[0, 1] > 0.9  # were the order wrong: 0
    assert graphs.area[polar == 0].max() == 0


def test_the_splits_of_the_molecules_are_all_of_them_in_order():
    *parts, everything = (loaded(data.molecules, split) for split in SPLITS[data.molecules])
    assert sum((part.smiles for part in parts), ()) == everything.smiles and len(set(everything.smiles)) == 4792
    for name in ("atoms", "bond_types", "area"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(everything, name))


def test_hydrogens_and_types_of_bonds_give_carbon_its_four():
    graphs = loaded(data.molecules, "all")
    orders = torch.zeros(len(graphs.atoms), dtype=torch.int64)
    aromatic = torch.zeros(len(graphs.atoms), dtype=torch.bool)
    for ends in graphs.bonds.T:
        orders.index_add_(0, ends, graphs.bond_types + 1)
        aromatic[ends[graphs.bond_types == data.BONDS.index("aromatic")]] = True
    element, hydrogens, charge = graphs.atoms.T
    carbon = (element == graphs.elements.index("C")) & (charge == 0) & ~aromatic
    assert (orders + hydrogens)[carbon].unique().tolist() == [4]
    assert data.BONDS[:3] == ("single", "double", "triple")


def test_penguins():
    everyone = [tuple(row) for row in data.penguins("all").measured.tolist()]
    together = []
    for split, count in (("train", 202), ("validation", 70), ("test", 70)):
        measured, species = data.penguins(split)
        assert measured.shape == (count, 4) and measured.dtype == torch.float32
        assert are_numbers(species, shape=(count,)) and species.unique().tolist() == [0, 1, 2]
        mass = [measured[species == i, 3].mean().item() for i in range(3)]
        assert data.PENGUINS[int(np.argmax(mass))] == "Gentoo"
        together += [tuple(row) for row in measured.tolist()]
        ranges = {
            "bill length": (30, 60),
            "bill depth": (13, 22),
            "flipper length": (170, 235),
            "body mass": (2500, 6500),
        }
        assert tuple(ranges) == data.MEASUREMENTS
        for (least, most), column in zip(ranges.values(), measured.T, strict=True):
            assert least < column.min() < column.max() < most
    assert sorted(everyone) == sorted(together) and len(set(everyone)) == 342


NUMBER = r"\d+(?:\.\d+)?(?:e\d+)?"
COSTS = rows_of("training_costs.csv")


def product(text):
    """What the numbers between " x " in a text multiply to, the first one in each part."""
    return math.prod(float(re.search(NUMBER, part)[0]) for part in text.split(" x "))


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row["model"])
def test_a_cost_is_what_its_basis_says(row):
    flop, basis = float(row["flop"]), re.sub(r"\([^)]*\)", "", row["basis"])
    if row["model"] == "LaMDA":  # stated in hours of hardware
        assert "56.5% x 123 TFLOPS/s x 1024 TPUv3 chips x 57.7 days" in basis
        assert flop == pytest.approx(0.565 * 123e12 * 1024 * 57.7 * 86400, rel=0.02)
    elif " = " in basis:
        left, right = basis.split(" = ")
        computed = product(re.split(r"[;:] ", left)[-1])
        assert float(re.match(NUMBER, right)[0]) == pytest.approx(computed, rel=0.005)
        digits = len(row["flop"].split("e")[0].replace(".", ""))
        assert flop == float(f"{computed:.{digits - 1}e}")
    else:
        assert row["method"] == "stated" and flop in [float(found) for found in re.findall(NUMBER, row["basis"])]
        if ", from " in basis:
            assert flop == pytest.approx(product(basis.split(", from ")[1]), rel=0.02)
    if row["method"] == "6ND":
        parameters, all_of_them = float(re.match(rf"6 x ({NUMBER}) param", row["basis"])[1]), float(row["parameters"])
        assert parameters < all_of_them if "active per token" in row["basis"] else parameters == all_of_them


def test_the_loader_gives_the_costs_in_order_with_their_sources():
    costs = loaded(data.training_costs)
    assert {x.dtype for x in tensors(costs)} == {torch.float32} and [len(x) for x in costs] == [31] * 6
    assert list(costs.models) == [row["model"] for row in COSTS] and len(set(costs.models)) == 31
    assert set(costs.domains) == {"vision", "language", "other"}
    assert costs.flop.tolist() == pytest.approx([float(row["flop"]) for row in COSTS])
    assert costs.parameters.tolist() == pytest.approx([float(row["parameters"]) for row in COSTS])
    assert list(costs.citations) == [f"{row['citation']}. {row['basis']}" for row in COSTS]
    assert (costs.years.diff() >= 0).all() and costs.years.int().tolist() == [int(row["year"]) for row in COSTS]
    assert ((costs.years % 1) * 12 + 0.5).round().tolist() == [int(row["date"][5:]) for row in COSTS]


def test_there_are_the_six_rows_of_the_books_table_with_books_a_thousand_times_fewer():
    table = [(d.name, d.year, d.samples_in_the_book, d.unit) for d in data.public_datasets()]
    assert table == [
        ("ImageNet", 2012, "1.2M", "images"),
        ("Cityscapes", 2016, "25K", "images"),
        ("LAION-5B", 2022, "5.8B", "images"),
        ("WMT-18-de-en", 2018, "14M", "books"),
        ("The Pile", 2020, "1.6B", "books"),
        ("OSCAR", 2020, "12B", "books"),
    ]
    for row in data.public_datasets():
        printed = float(row.samples_in_the_book[:-1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[row.samples_in_the_book[-1]]
        if row.unit == "images":
            assert row.samples == printed
        else:
            assert 850 < printed / row.samples < 1050
            assert row.samples == pytest.approx(row.size / 500_000, rel=0.05)
        assert re.match(r".+, (19|20)\d\d, [A-Z]", row.citation)


# All loaders.


def calls(loader):
    """All arguments that a loader takes: splits, and of emoji also styles."""
    if loader is data.emoji:
        return list(itertools.product(data.EMOJI_STYLES, SPLITS[loader]))
    return [(split,) for split in SPLITS.get(loader, ())] or [()]


def test_every_loader_is_tested():
    there = {f for f in vars(data).values() if inspect.isfunction(f) and f.__module__ == "lbdl.data"}
    assert {f for f in there if not f.__name__.startswith("_")} - {data.read} == set(LOADERS)
    assert {f for f in there if "split" in inspect.signature(f).parameters and f.__name__[0] != "_"} == set(SPLITS)


def test_the_loaders_read_every_file_and_unpickle_none(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    asked, read = set(), data.read
    monkeypatch.setattr(data, "read", lambda file: asked.add(file) or read(file))
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for loader in LOADERS:
        for arguments in calls(loader):
            loader(*arguments)
    assert asked == set(MANIFEST)


@pytest.mark.parametrize(
    "loader, default",
    [
        (data.mnist, ("train",)),
        (data.fashion_mnist, ("train",)),
        (data.photographs, ("all",)),
        (data.emoji, ("twemoji", "all")),
        (data.shakespeare, ("train",)),
        (data.speech, ("train",)),
        (data.molecules, ("train",)),
        (data.penguins, ("all",)),
    ],
)
def test_the_default_is_the_one_that_is_described(loader, default):
    plain, asked = loader(), loaded(loader, *default)
    assert all(map(torch.equal, tensors(plain), tensors(asked)))


@each(OF_TENSORS)
def test_tensors_are_made_on_the_device_that_is_asked_for_and_are_never_shared(loader):
    assert {tensor.device.type for tensor in tensors(loader(device="meta"))} == {"meta"}
    for tensor in tensors(loader()):
        assert tensor.device.type == "cpu"
        tensor.fill_(7)
    assert all((tensor != 7).any() for tensor in tensors(loader()))


@each(SPLITS)
def test_an_unknown_split_is_refused_and_the_known_ones_are_named(loader):
    expected = f"expected the split to be one of {', '.join(SPLITS[loader])}, got 'training'"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        loader(split="training")


@pytest.mark.parametrize("style", ["Noto", "", None])
def test_an_unknown_style_is_refused_and_the_known_ones_are_named(style):
    expected = f"expected the style to be one of {', '.join(data.EMOJI_STYLES)}, got {style!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        data.emoji(style)


# Damage.


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A function that copies a file to where it can be damaged; all files not copied count as read and checked."""
    checked = {file: data.read(file) for file in MANIFEST}
    (tmp_path / "manifest.json").write_bytes((data.FOLDER / "manifest.json").read_bytes())
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    monkeypatch.setattr(data, "_verified", checked)

    def copy(file):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(checked.pop(file))
        return tmp_path / file

    return copy


def flipped(content, place):
    content = bytearray(content)
    content[place] ^= 1
    return bytes(content)


DAMAGES = {
    "a flipped bit at the start": lambda content: flipped(content, 0),
    "a flipped bit in the middle": lambda content: flipped(content, len(content) // 2),
    "a flipped bit at the end": lambda content: flipped(content, -1),
    "cut short": lambda content: content[:500],
    "without its last byte": lambda content: content[:-1],
    "a byte too long": lambda content: content + b"\n",
    "empty": lambda content: b"",
}
WHAT_TO_RUN = r".*`git checkout data`.*`python data/build\.py`"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found_and_named_with_what_to_run_and_not_remembered(copied, damage):
    path = copied("penguins.csv")
    whole = path.read_bytes()
    damaged = DAMAGES[damage](whole)
    path.write_bytes(damaged)
    sizes = rf"its {len(damaged):,} bytes .*SHA-256.* \({len(whole):,} bytes expected\)"
    with pytest.raises(data.DataError, match=rf"^data/penguins\.csv is damaged: {sizes}{WHAT_TO_RUN}"):
        data.read("penguins.csv")
    path.write_bytes(whole)
    assert data.read("penguins.csv") == whole


# A file of each form, by a loader that reads it.
FORMS = [
    (data.mnist, "mnist.npz"),
    (data.emoji, "emoji.csv"),
    (data.photographs, "photographs/room_detail.jpg"),
    (data.shakespeare, "shakespeare_validation.txt.gz"),
]


@pytest.mark.parametrize("loader, file", FORMS)
def test_no_loader_goes_on_with_a_damaged_file_without_it_or_without_a_manifest(copied, loader, file):
    path = copied(file)
    path.write_bytes(flipped(path.read_bytes(), 100))
    with pytest.raises(data.DataError, match=rf"^data/{file} is damaged: "):
        loader()
    path.unlink()
    with pytest.raises(data.DataError, match=rf"^data/{file} is missing: {WHAT_TO_RUN}"):
        loader()
    (data.FOLDER / "manifest.json").unlink()
    with pytest.raises(data.DataError, match=rf"^data/manifest\.json is missing: {WHAT_TO_RUN}"):
        loader()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"penguins.csv": {}}', b"\xff\xfe", b"not JSON"])
def test_a_damaged_manifest_is_named_with_what_to_run(copied, content):
    (copied("penguins.csv").parent / "manifest.json").write_bytes(content)
    with pytest.raises(data.DataError, match=rf"(?s)^data/manifest\.json is damaged: {WHAT_TO_RUN}"):
        data.penguins()


def test_a_file_that_is_not_in_the_manifest_is_refused(copied):
    (copied("penguins.csv").parent / "other.bin").write_bytes(b"anything")
    with pytest.raises(data.DataError, match=r"data/other\.bin is not in the manifest: expected one of .*mnist\.npz"):
        data.read("other.bin")


def test_what_was_read_and_checked_is_not_read_again(copied):
    path = copied("penguins.csv")
    content = data.read("penguins.csv")
    path.unlink()
    assert data.read("penguins.csv") == content


def test_an_array_that_hides_a_pickle_is_refused(monkeypatch):
    hidden = io.BytesIO()
    np.savez(hidden, **dict.fromkeys(("words", "vectors"), np.array([print], dtype=object)))
    monkeypatch.setattr(data, "_verified", {"glove.npz": hidden.getvalue()})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.glove()

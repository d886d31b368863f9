"""Each chapter is a pair: the .py that people write, and the .ipynb that holds the same with its outputs."""

import os
import shutil

import jupytext
import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from lbdl import chapters
from tests import publish
from tests.compare import UNSTABLE
from tests.publish import FOLDED, KEPT, _with_ids
from tests.running import PAIRED

MOST_BYTES = {"image/png": 60_000, "image/jpeg": 250_000}  # drawings, and figures with photographs
EVERY_CHAPTER = pytest.mark.parametrize("script", PAIRED, ids=lambda path: path.stem)


def essence(notebook) -> list[tuple]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


@pytest.fixture
def pair(script):
    return jupytext.read(script), nbformat.read(script.with_suffix(".ipynb"), as_version=4)


@EVERY_CHAPTER
def test_the_two_agree_in_every_cell_tag_and_order(script, pair):
    text, notebook = pair
    assert essence(text) == essence(notebook), f"run: make outputs CHAPTER={script.name[:2]}"


@EVERY_CHAPTER
def test_the_notebook_was_executed_from_top_to_bottom_without_error(script, pair):
    _, notebook = pair
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert outputs


@EVERY_CHAPTER
def test_nothing_that_varies_is_stored(script, pair):
    _, notebook = pair
    assert set(notebook.metadata) == {"jupytext", "kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {*KEPT, *FOLDED}
        for output in cell.get("outputs", []):
            assert not set(UNSTABLE) & set(output.get("data", {})), "a live widget is stored"
    ids = [cell.id for cell in notebook.cells]
    _with_ids(notebook)
    assert ids == [cell.id for cell in notebook.cells]


@EVERY_CHAPTER
def test_solutions_are_collapsed(script, pair):
    _, notebook = pair
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        folded = {key: value for key, value in cell.metadata.items() if key in FOLDED}
        assert folded == (FOLDED if "solution" in tags else {})
        assert ("solution" in tags) == ("hide-input" in tags)


@EVERY_CHAPTER
def test_every_picture_is_described_and_small(script, pair):
    _, notebook = pair
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [(o, form) for o in outputs for form in MOST_BYTES if form in o.get("data", {})]
    assert pictures
    for output, form in pictures:
        about = output.metadata[form]
        assert about["alt"] == output.data["text/plain"] and len(about["alt"].split()) >= 6
        assert about["width"] <= 1000
        assert len(output.data[form]) * 3 / 4 <= MOST_BYTES[form] * (4 if script.stem.startswith("00") else 1)


@pytest.mark.parametrize("newer", ["py", "ipynb"])
def test_either_opens_in_a_fresh_clone_and_saving_changes_nothing(newer, tmp_path):
    """A checkout writes the two files in any order; jupytext refuses a pair whose .ipynb is newer and different."""
    script = next(script for script in PAIRED if script.stem.startswith("01"))  # the smallest: one is enough
    files = [tmp_path / f"{script.stem}{suffix}" for suffix in (".py", ".ipynb")]
    for file in files:
        shutil.copy(script.with_suffix(file.suffix), file)
    shutil.copy(chapters.FOLDER.parent / "pyproject.toml", tmp_path)
    before = [file.read_bytes() for file in files]
    later = tmp_path / f"{script.stem}.{newer}"
    os.utime(later, (later.stat().st_atime, later.stat().st_mtime + 100))
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(tmp_path))
    for file in files:
        model = manager.get(file.name, type="notebook")
        assert len(model["content"]["cells"]) == len(chapters.cells(script))
        assert any(cell.get("outputs") for cell in model["content"]["cells"]), "opened without its outputs"
        manager.save(model, file.name)
    assert [file.read_bytes() for file in files] == before


def test_a_difference_is_seen(tmp_path):
    before = jupytext.reads("# %%\n1 + 1\n", fmt="py:percent")
    after = jupytext.reads('# %% tags=["export"]\n1 + 1\n', fmt="py:percent")
    assert essence(before) != essence(after)


@pytest.mark.parametrize(
    "script", [s for s in PAIRED if "in summary.items()" in s.read_text("utf-8")], ids=lambda path: path.stem
)
def test_the_table_of_what_was_trained_can_be_told_by_sections(script):
    """So that outputs of one section can be made, with the rows that the others have stored."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    places = publish.sections_of(notebook)
    names = []
    for section in dict.fromkeys(places):
        cells = [cell for cell, place in zip(notebook.cells, places, strict=True) if place == section]
        names += publish.trained_stored(cells, notebook)
    (table,) = [cell for cell in notebook.cells if "in summary.items()" in cell.source]
    rows = table.outputs[0].data["text/plain"].splitlines()
    assert names == [row.split(" | ")[0] for row in rows]

"""The chapters against the book: every section, figure, equation, table and term of data/book.yaml is live."""

import re

import nbformat
import pytest

from lbdl import chapters
from tests import reading
from tests.publish import book, claims_stored, concordance
from tests.running import SCRIPTS, TOO_LONG, sections

BOOK = book()
CHAPTERS = {chapter["notebook"]: chapter for chapter in BOOK["chapters"]}
EVERY_CHAPTER = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def test_each_script_is_a_chapter_of_the_book():
    assert {script.stem for script in SCRIPTS} <= set(CHAPTERS)
    assert SCRIPTS, "no chapters at all"


def is_whole(script) -> bool:
    """Whether all sections of a chapter are there; it may be published with some of them."""
    return sections(script) == list(CHAPTERS[script.stem]["sections"])


@EVERY_CHAPTER
def test_the_sections_are_the_books_in_its_order_with_its_titles(script):
    parts, titles = chapters.sections(script), CHAPTERS[script.stem]["sections"]
    there = sections(script)
    assert there and there == [section for section in titles if section in there]
    assert [chapters.SECTION.search(parts[section][0].source)[3] for section in there] == [titles[s] for s in there]


@EVERY_CHAPTER
def test_every_section_has_its_terms_an_exercise_and_something_that_moves(script):
    parts = chapters.sections(script)
    assert [lack for section in sections(script) for lack in reading.lacks(section, parts[section])] == []


@EVERY_CHAPTER
@pytest.mark.parametrize("kind", ["figures", "equations", "tables"])
def test_every_numbered_thing_of_the_book_has_a_cell_with_its_tag(script, kind):
    """What has a number belongs to the chapter of that number; what has a name is checked once all chapters exist."""
    if not is_whole(script):
        pytest.skip(f"{script.stem} has {len(sections(script))} of its sections so far")
    chapter = CHAPTERS[script.stem]["id"]
    wanted = {f"{kind[:-1]}-{key}" for key in BOOK[kind] if key.split(".")[0] == chapter}
    assert wanted <= set(reading.tags(chapters.cells(script)))


@pytest.mark.parametrize("kind", ["figures", "equations", "tables"])
def test_no_tag_names_a_thing_that_the_book_does_not_have(kind):
    pattern = re.compile(rf"{kind[:-1]}-(.+)")
    found = [
        match[1]
        for script in SCRIPTS
        for tag in reading.tags(chapters.cells(script))
        if (match := pattern.fullmatch(tag))
    ]
    assert set(found) <= set(BOOK[kind])
    assert len(found) == len(set(found)), "one cell for each"


def test_all_named_equations_are_there_once_all_chapters_are():
    if len(SCRIPTS) < len(CHAPTERS) or not all(map(is_whole, SCRIPTS)):
        pytest.skip(f"{len(SCRIPTS)} of {len(CHAPTERS)} chapters so far")
    found = {tag for script in SCRIPTS for tag in reading.tags(chapters.cells(script))}
    assert {f"equation-{key}" for key in BOOK["equations"]} <= found


@EVERY_CHAPTER
def test_figure_cells_show_that_figure_and_equation_cells_make_a_claim(script):
    assert reading.empty_tags(chapters.cells(script)) == []


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name[:2] not in TOO_LONG], ids=lambda path: path.stem)
def test_the_table_at_the_top_has_a_claim_of_each_section_and_what_was_measured(script):
    parts = chapters.sections(script)
    claims = claims_stored(nbformat.read(script.with_suffix(".ipynb"), as_version=4))
    rows = re.findall(r"^\| ([\dM]\.\d+) (.+?) \| (.+?) \| (.+?) \|$", parts[""][0].source, re.MULTILINE)
    titles = [(s, chapters.SECTION.search(parts[s][0].source)[3]) for s in parts if s not in ("", "end")]
    assert [row[:2] for row in rows] == titles
    for section, _, statement, number in rows:
        assert statement in claims[section], f"{section} claims no {statement!r} with a number"
        measured = float(claims[section][statement][1])
        assert abs(float(number) - measured) <= 0.1 * abs(measured), f"{section} {statement}: measured {measured}"


def test_the_concordance_is_current():
    path = chapters.FOLDER / "README.md"
    assert path.read_text(encoding="utf-8") == concordance(), "run: make concordance"


def test_links_in_the_concordance_lead_somewhere():
    page = (chapters.FOLDER / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", page)
    assert links
    for file, anchor in links:
        text = (chapters.FOLDER / file).read_text(encoding="utf-8")
        if anchor.startswith("L"):
            assert int(anchor[1:]) <= text.count("\n")
        else:
            assert f"## {anchor.replace('-', ' ')}" in text.replace("-", " ")

"""Sections stand alone: no name leaks from one to another. Proven by reading the code; and cells are short."""

import statistics

import pytest

from lbdl import chapters
from tests.reading import (
    CHAPTER_SIZE,
    LARGER,
    MOST_BYTES,
    SECTION_SIZE,
    leaks,
    lines_of,
    long_cells,
    size_of,
    too_large,
)
from tests.running import SCRIPTS, TOO_LONG, code, sections

EVERY_CHAPTER = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
EVERY_SECTION = [
    pytest.param(script, section, id=f"{script.stem}-{section}") for script in SCRIPTS for section in sections(script)
]


@pytest.mark.parametrize(("script", "section"), EVERY_SECTION)
def test_no_name_leaks_from_one_section_to_another(script, section):
    parts = chapters.sections(script)
    known: set[str] = set()
    assert leaks(parts[""], known) == []
    assert leaks(parts[section], known) == []


@EVERY_CHAPTER
def test_exported_cells_use_only_what_is_exported(script):
    exported = [cell for cell in code(chapters.cells(script)) if "export" in cell.tags]
    assert leaks(exported, set()) == []


def test_a_leak_is_seen():
    def cell(source):
        return chapters.Cell("code", [], source, 1)

    assert leaks([cell("a = 1\nb = a")], set()) == []
    assert leaks([cell("b = a")], set()) == ["line 1: a"]
    assert leaks([cell("def f():\n    return a"), cell("a = 1")], set()) == ["line 1: a"]
    assert leaks([cell("def f():\n    return a\n\na = 1")], set()) == []
    assert leaks([cell("total += 1")], set()) == ["line 1: total"]
    assert leaks([cell("x = x + 1")], set()) == ["line 1: x"]
    assert leaks([cell("for n in range(3):\n    print(n)")], set()) == []
    assert leaks([cell("squares = [n * n for n in range(m)]")], set()) == ["line 1: m"]


@EVERY_CHAPTER
def test_cells_are_short_and_prose_comes_first(script):
    parts = chapters.sections(script)
    inside = [cell for section, cells in parts.items() if section for cell in cells]
    assert long_cells(chapters.cells(script)) == []
    lengths = sorted(lines_of(cell) for cell in code(chapters.cells(script)))
    assert statistics.median(lengths) <= 5
    assert lengths[int(0.9 * (len(lengths) - 1))] <= 20
    lines = size_of(chapters.cells(script))["lines of code"]
    words = sum(len(cell.source.split()) for cell in inside if cell.kind == "markdown")
    assert 7 <= words / lines <= 15, f"{words} words of prose for {lines} lines of code"
    for section, cells in parts.items():
        assert not cells or cells[0].kind == "markdown", f"section {section} does not begin with prose"


WITHIN = [script for script in SCRIPTS if script.name[:2] not in TOO_LONG]


@pytest.mark.parametrize("script", WITHIN, ids=lambda path: path.stem)
def test_a_chapter_and_its_sections_are_short(script):
    for section, cells in chapters.sections(script).items():
        assert too_large(cells, SECTION_SIZE, LARGER.get(section, 1)) == [], f"section {section}"
    assert too_large(chapters.cells(script), CHAPTER_SIZE) == []
    assert script.with_suffix(".ipynb").stat().st_size <= MOST_BYTES


def test_what_is_too_large_is_told():
    cells = [chapters.Cell("code", [], "x = 1\n# why\n\nfigure('1')", 1), chapters.Cell("markdown", [], "two words", 1)]
    assert size_of(cells) == {"code cells": 1, "lines of code": 2, "words": 2, "pictures": 1}
    assert too_large(cells, {"words": 1}) == ["2 words (at most 1)"]
    assert too_large(cells, {"words": 1}, 2) == []


@EVERY_CHAPTER
def test_no_cell_is_kept_from_the_comparison(script):
    """nbval has marks that skip a cell or its outputs; none is used without a comment beside it that says why."""
    for cell in code(chapters.cells(script)):
        marks = [tag for tag in cell.tags if tag.startswith("nbval-") or tag == "raises-exception"]
        marks += [line for line in cell.source.splitlines() if "NBVAL_" in line or "PYTEST_VALIDATE" in line]
        assert not marks or "# because" in cell.source, f"line {cell.line}: {marks} without '# because …'"

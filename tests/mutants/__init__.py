"""Deliberate mistakes: (section, what is right, what is put in its place), a file a chapter."""

import importlib
from pathlib import Path

from lbdl.chapters import Cell

Mutant = tuple[str, str]  # what is right, and what is put in its place


def all_of(script: Path) -> list[tuple[str, str, str]]:
    """All mutants of a chapter, with their sections."""
    return importlib.import_module(f"tests.mutants.ch{script.name[:2]}").MUTANTS


def mutants_of(script: Path, section: str) -> list[Mutant]:
    """The mutants of a section."""
    return [(right, wrong) for of, right, wrong in all_of(script) if of == section]


def place_of(cells: list[Cell], right: str) -> int:
    """The number of the cell in which a piece of code stands, which must be there exactly once."""
    assert sum(cell.source.count(right) for cell in cells) == 1, f"expected once in the section: {right}"
    return next(number for number, cell in enumerate(cells) if right in cell.source)

"""The chapters' own checks are sharp: a deliberate mistake in what they teach makes a cell of the section fail.

Each mutant is put into one section, and the section is run with it. Only a failed claim counts as a catch (or, where a
mistake makes numbers explode, the training loop's refusal to go on): a typing error would be caught by anything.

What stands before the mistake need not be run again for each mutant: the section is run as it is, once, and where a
mistake belongs the process is copied (os.fork), and the copy goes on with the mistake.
"""

import contextlib
import dataclasses
import importlib
import io
import os
import traceback
from collections.abc import Callable

import pytest

from lbdl import ClaimError
from lbdl.chapters import Cell
from tests.running import SCRIPTS, alone, execute, first_names, kernel_of, run, sections

CAUGHT = (ClaimError, FloatingPointError)
NOTICED, UNNOTICED = "a claim failed", "no cell failed"
Mutant = tuple[str, str]  # what is right, and what is put in its place


def mutants_of(script) -> list[tuple[str, str, str]]:
    return importlib.import_module(f"tests.mutants.ch{script.name[:2]}").MUTANTS


def place_of(cells: list[Cell], right: str) -> int:
    """The number of the cell in which a piece of code stands, which must be there exactly once."""
    assert sum(cell.source.count(right) for cell in cells) == 1, f"expected once in the section: {right}"
    return next(number for number, cell in enumerate(cells) if right in cell.source)


def in_a_copy(action: Callable[[], str]) -> str:
    """What action() returns in a copy of this process, or the traceback of what it raised."""
    reading, writing = os.pipe()
    copy = os.fork()
    if copy == 0:
        try:
            said = action()
        except BaseException:
            said = traceback.format_exc()
        with contextlib.suppress(OSError):
            os.write(writing, said[-60_000:].encode())
        os._exit(0)  # without the tidying up that is the original's
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        said = stream.read()
    os.waitpid(copy, 0)
    return said or "the copy ended without a word"


def run_on(cells: list[Cell], script, names: dict) -> str:
    """How the rest of a section ends."""
    try:
        run(cells, script, names)
    except CAUGHT:
        return NOTICED
    return UNNOTICED


def not_caught(cells: list[Cell], script, mutants: list[Mutant]) -> dict[Mutant, str]:
    """The mutants that no claim catches, each with what happened instead."""
    places = {mutant: place_of(cells, mutant[0]) for mutant in mutants}
    names, ends = first_names(script), {}
    for number in range(max(places.values()) + 1):
        for (right, wrong), place in places.items():
            if place == number:
                mistaken = dataclasses.replace(cells[number], source=cells[number].source.replace(right, wrong))
                rest = [mistaken, *cells[number + 1 :]]
                ends[right, wrong] = in_a_copy(lambda rest=rest: run_on(rest, script, names))
        with kernel_of(names):
            execute(cells[number], script, names)
    return {mutant: end for mutant, end in ends.items() if end != NOTICED}


CASES = [pytest.param(script, section, id=section) for script in SCRIPTS for section in sections(script)]


@pytest.mark.parametrize(("script", "section"), CASES)
def test_mistakes_are_caught_by_their_section(script, section):
    mutants = [(right, wrong) for of, right, wrong in mutants_of(script) if of == section]
    assert mutants, f"expected mistakes for section {section} in tests/mutants, found none"
    with contextlib.redirect_stdout(io.StringIO()):
        assert not_caught(alone(script, section), script, mutants) == {}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_mutants_name_sections_that_exist(script):
    assert {section for section, _, _ in mutants_of(script)} <= set(sections(script))


def test_what_is_not_a_failed_claim_is_no_catch():
    """The machinery itself: equal code passes, and another error is told, so that a catch means something."""
    right = "(y - f(x, w)).square()"
    same, broken, worse = [
        (right, wrong) for wrong in ("(f(x, w) - y).square()", "(y - g(x, w)).square()", "(y - f(x, w)).abs()")
    ]
    script = SCRIPTS[0]
    with contextlib.redirect_stdout(io.StringIO()):
        ends = not_caught(alone(script, "1.1"), script, [same, broken, worse])
    assert set(ends) == {same, broken}
    assert ends[same] == UNNOTICED
    assert "NameError: name 'g' is not defined" in ends[broken]

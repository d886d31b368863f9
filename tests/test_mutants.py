"""The chapters' own checks are sharp: a deliberate mistake in what they teach makes a cell of the section fail.

Each mutant is put into one section, which is then run alone. Only a failed claim counts as a catch (or, where a
mistake makes numbers explode, the training loop's refusal to go on): a typing error would be caught by anything.
"""

import contextlib
import copy
import importlib
import io

import pytest

from lbdl import ClaimError
from tests.running import SCRIPTS, alone, code, run, sections

CAUGHT = (ClaimError, FloatingPointError)


def mutants_of(script) -> list[tuple[str, str, str]]:
    return importlib.import_module(f"tests.mutants.ch{script.name[:2]}").MUTANTS


CASES = [
    pytest.param(script, *mutant, id=f"{script.name[:2]}-{mutant[0]}-{number}")
    for script in SCRIPTS
    for number, mutant in enumerate(mutants_of(script))
]


def mutated(cells: list, right: str, wrong: str) -> list:
    """The cells with one piece of code replaced, which must be there exactly once."""
    assert sum(cell.source.count(right) for cell in cells) == 1, f"expected once in the section: {right}"
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell.source = cell.source.replace(right, wrong)
    return cells


@pytest.mark.parametrize(("script", "section", "right", "wrong"), CASES)
def test_a_mistake_is_caught_by_its_section(script, section, right, wrong):
    with pytest.raises(CAUGHT), contextlib.redirect_stdout(io.StringIO()):
        run(mutated(alone(script, section), right, wrong), script)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_section_has_mutants(script):
    with_mutants = {section for section, _, _ in mutants_of(script)}
    assert with_mutants == set(sections(script))


def test_a_mistake_that_changes_nothing_is_not_caught():
    """The machinery itself: an equivalent change passes, so that a catch means something."""
    script = SCRIPTS[0]
    cells = mutated(alone(script, "1.1"), "(y - f(x, w)).square()", "(f(x, w) - y).square()")
    with contextlib.redirect_stdout(io.StringIO()):
        assert run(cells, script)
    assert code(cells)

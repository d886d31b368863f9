"""The deliberate mistakes of tests/mutants belong to the chapters as they are; make prove sees that each is caught."""

import ast

import pytest

from tests.mutants import all_of, mutants_of, place_of
from tests.running import SCRIPTS, alone, sections

FEWEST = 3  # of a section


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_section_has_mutants_that_are_other_code(script):
    assert {section for section, _, _ in all_of(script)} == set(sections(script))
    for section in sections(script):
        cells, mutants = alone(script, section), mutants_of(script, section)
        assert len(set(mutants)) == len(mutants) >= FEWEST, section
        for right, wrong in mutants:
            source = cells[place_of(cells, right)].source
            mistaken = ast.parse(source.replace(right, wrong))
            assert ast.dump(mistaken) != ast.dump(ast.parse(source)), f"{section}: no mistake: {wrong}"

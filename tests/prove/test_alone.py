"""Each section, run once, alone: its outputs are those stored, its checks are sharp, its pictures keep their names.

A reader may run the set-up and one section, and the outputs of a section are made so; both need that it gives alone
what it gives in its chapter. Its checks are sharp if a deliberate mistake in what it teaches makes a cell of it fail.
Each mutant is put into the section where it belongs: there the process is copied (os.fork), and the copy goes on with
the mistake. Only a failed claim counts as a catch (or, where a mistake makes numbers explode, the training loop's
refusal to go on): a typing error would be caught by anything.
"""

import contextlib
import dataclasses
import io
import json
import os
import resource
import traceback
from collections.abc import Callable

import matplotlib.pyplot as plt
import nbformat
import pytest

from lbdl import ClaimError
from lbdl.chapters import Cell
from tests import in_kernel, reading, running
from tests.compare import differences
from tests.mutants import Mutant, mutants_of, place_of
from tests.publish import stored
from tests.running import SCRIPTS, alone, execute, first_names, kernel_of, run, sections

CAUGHT = (ClaimError, FloatingPointError)
NOTICED, UNNOTICED = "a claim failed", "no cell failed"
MUTANT_SECONDS = 150  # of the processor for a copy with a mistake; the average needs one, a section's trainings some 60
UNSEEN = ("figure", "explore")  # a copy draws nothing: pictures make no claims

EVERY_SECTION = pytest.mark.parametrize(
    ("script", "section"),
    [pytest.param(script, s, id=f"{script.stem}-{s}") for script in SCRIPTS for s in sections(script)],
)


def in_a_copy(action: Callable[[], str]) -> str:
    """What action() returns in a copy of this process, or the traceback of what it raised."""
    reading_end, writing_end = os.pipe()
    copy = os.fork()
    if copy == 0:
        try:
            said = action()
        except BaseException:
            said = traceback.format_exc()
        with contextlib.suppress(OSError), os.fdopen(writing_end, "w", encoding="utf-8") as stream:
            stream.write(said)
        os._exit(0)  # without the tidying up that is the original's
    os.close(writing_end)
    with os.fdopen(reading_end, encoding="utf-8") as stream:
        said = stream.read()
    os.waitpid(copy, 0)
    return said or f"the copy ended without a word, perhaps after its {MUTANT_SECONDS} s"


def run_on(cells: list[Cell], script, names: dict) -> str:
    """How the rest of a section ends."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + MUTANT_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    names.update({name: _nothing for name in UNSEEN if name in names})
    try:
        run(cells, script, names)
    except CAUGHT:
        return NOTICED
    return UNNOTICED


def _nothing(*_args, **_options) -> None:
    plt.close("all")


def mistaken(cells: list[Cell], number: int, mutants: list[Mutant], script, names: dict) -> dict[Mutant, str]:
    """How the section ends with each of the mutants that belong into a cell which is about to run."""
    ends = {}
    for right, wrong in mutants:
        cell = dataclasses.replace(cells[number], source=cells[number].source.replace(right, wrong))
        ends[right, wrong] = in_a_copy(lambda rest=(cell, *cells[number + 1 :]): run_on(rest, script, names))
    return ends


def not_caught(cells: list[Cell], script, mutants: list[Mutant]) -> dict[Mutant, str]:
    """The mutants that no claim catches, each with what happened instead."""
    places, names, ends = {mutant: place_of(cells, mutant[0]) for mutant in mutants}, first_names(script), {}
    for number in range(max(places.values()) + 1):
        ends |= mistaken(cells, number, [m for m, place in places.items() if place == number], script, names)
        with kernel_of(names):
            execute(cells[number], script, names)
    return {mutant: end for mutant, end in ends.items() if end != NOTICED}


def stored_outputs(script) -> dict[str, list]:
    """Source of a cell -> the outputs that the notebook stores for it."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def problems_of(script, section: str) -> list[str]:
    """Run a section alone and return all that is wrong with it, in words."""
    cells, before, names = alone(script, section), stored_outputs(script), first_names(script)
    mutants = mutants_of(script, section)
    places, found = {mutant: place_of(cells, mutant[0]) for mutant in mutants}, []
    for number, cell in enumerate(cells):
        here = [mutant for mutant, place in places.items() if place == number]
        ends = mistaken(cells, number, here, script, names)
        found += [f"not caught: {mutant}: {end}" for mutant, end in ends.items() if end != NOTICED]
        outputs = [kept for output in running.outputs_of(cell, script, names) if (kept := stored(output))]
        where = f"line {cell.line}"
        found += [f"{where}, alone and in its chapter: {told}" for told in differences(before[cell.source], outputs)]
        if "solution" in cell.tags:
            with kernel_of(names), contextlib.redirect_stdout(io.StringIO()):
                found += in_kernel.wrong_answers(names, script.name[:2], reading.function_of(cell.source))
    with kernel_of(names):
        found += in_kernel.widgets_of_section(names)
        found += in_kernel.spoiled_names(names, sorted(reading.own_names(script, section)))
    return found


@EVERY_SECTION
def test_a_section_alone(script, section):
    with contextlib.redirect_stdout(io.StringIO()):
        said = in_a_copy(lambda: json.dumps(problems_of(script, section)))
    problems = json.loads(said) if said.startswith("[") else [said]
    assert not problems, "\n".join(problems)


def test_what_is_not_a_failed_claim_is_no_catch():
    """The machinery itself: equal code passes, and another error is told, so that a catch means something."""
    right = "(y - f(x, w)).square()"
    same, broken, worse = [
        (right, wrong) for wrong in ("(f(x, w) - y).square()", "(y - g(x, w)).square()", "(y - f(x, w)).abs()")
    ]
    script = SCRIPTS[0]
    with contextlib.redirect_stdout(io.StringIO()):
        said = in_a_copy(
            lambda: json.dumps(list(not_caught(alone(script, "1.1"), script, [same, broken, worse]).items()))
        )
    ends = {tuple(mutant): end for mutant, end in json.loads(said)}
    assert set(ends) == {same, broken}
    assert ends[same] == UNNOTICED
    assert "NameError: name 'g' is not defined" in ends[broken]

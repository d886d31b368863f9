"""The exercises of all chapters: the stub counts as not attempted, the solution is right, wrong answers are told so."""

import contextlib
import importlib
import inspect
import io
import re

import pytest

from lbdl import chapters, check
from lbdl.exercises import results
from tests.running import SCRIPTS, code, kernel_of, run, sections

CASES = [
    pytest.param(script, section, id=f"{script.stem}-{section}") for script in SCRIPTS for section in sections(script)
]


def function_of(cell) -> str:
    """The function that an exercise asks for: the first one that its cell defines."""
    return re.search(r"^def (\w+)\(", cell.source, re.MULTILINE)[1]


def wrong_answers(script, name: str) -> list:
    module = importlib.import_module(f"tests.wrong_answers.ch{script.name[:2]}")
    functions = inspect.getmembers(module, inspect.isfunction)
    return [function for found, function in functions if re.fullmatch(rf"{name}(_\d+)?", found)]


def judged(function, name: str, names: dict) -> str:
    """What the reader is told about an answer, in the kernel that has these names."""
    function.__name__ = name
    with kernel_of(names):
        check(function)
    return results[name]


@pytest.mark.parametrize(("script", "section"), CASES)
def test_stub_solution_and_wrong_answers(script, section):
    parts = chapters.sections(script)
    inside = code(parts[section])
    names = run(parts[""], script)
    for position, cell in enumerate(inside):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            run([cell], script, names)
            if "exercise" not in cell.tags:
                continue
            name = function_of(cell)
            assert results[name] == "not attempted"
            assert f"{name}: not attempted yet" in said.getvalue()
            solution = inside[position + 1]
            assert "solution" in solution.tags and function_of(solution) == name, f"no solution right after {name}"
            run([solution], script, names)
            assert judged(names[name], name, names) == "right", said.getvalue()
            wrong = wrong_answers(script, name)
            assert wrong, f"tests/wrong_answers has none for {name}"
            for answer in wrong:
                described = f"{answer.__name__}: {inspect.getsource(answer)}"
                assert judged(answer, name, names) == "not yet", f"taken for right: {described}"
            message = said.getvalue().strip().splitlines()[-1]
            assert message.startswith(f"✗ {name}: not yet. ") and len(message) > len(name) + 20

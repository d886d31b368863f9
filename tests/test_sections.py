"""Sections stand alone: no name leaks from one to another. Proven by reading the code; and cells are short."""

import ast
import builtins
import statistics
import symtable

import pytest

from lbdl import chapters
from tests.running import SCRIPTS, code, sections

EVERY_CHAPTER = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
EVERY_SECTION = [
    pytest.param(script, section, id=f"{script.stem}-{section}") for script in SCRIPTS for section in sections(script)
]
GIVEN = set(dir(builtins)) | {"__name__", "__file__", "display", "get_ipython"}


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """The global names that a piece of code reads, those in its functions and classes included."""
    top = table.get_type() == "module"
    read = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return read.union(*(globals_of(child) for child in table.get_children()))


def read_by(statement: ast.stmt) -> set[str]:
    """The global names that a statement reads; `x += 1` reads x as well as it writes it."""
    also = (
        {statement.target.id}
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name)
        else set()
    )
    return also | globals_of(symtable.symtable(ast.unparse(statement), "cell", "exec"))


def bound_by(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a cell defines."""
    table = symtable.symtable(ast.unparse(statement), "cell", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}


def leaks(cells: list, known: set[str]) -> list[str]:
    """Names that are read before the set-up or these cells define them; `known` grows by what the cells define."""
    found = []
    for cell in code(cells):
        statements = ast.parse(cell.source).body
        in_cell = set().union(*(bound_by(statement) for statement in statements))
        for statement in statements:
            delayed = isinstance(statement, (ast.FunctionDef, ast.ClassDef))  # its body runs when it is called
            plain = isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign))  # reads before it binds
            own = set() if plain else bound_by(statement)
            missing = read_by(statement) - known - (in_cell if delayed else own) - GIVEN
            found += [f"line {cell.line + statement.lineno - 1}: {name}" for name in sorted(missing)]
            known |= bound_by(statement)
    return found


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
    lengths = sorted(_lines(cell) for cell in code(chapters.cells(script)))
    assert statistics.median(lengths) <= 5
    assert lengths[int(0.9 * (len(lengths) - 1))] <= 20
    assert lengths[-1] <= 40
    words = sum(len(cell.source.split()) for cell in inside if cell.kind == "markdown")
    assert 7 <= words / sum(lengths) <= 15, f"{words} words of prose for {sum(lengths)} lines of code"
    for section, cells in parts.items():
        assert not cells or cells[0].kind == "markdown", f"section {section} does not begin with prose"


def _lines(cell) -> int:
    return sum(1 for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#"))


@EVERY_CHAPTER
def test_no_cell_is_kept_from_the_comparison(script):
    """nbval has marks that skip a cell or its outputs; none is used without a comment beside it that says why."""
    for cell in code(chapters.cells(script)):
        marks = [tag for tag in cell.tags if tag.startswith("nbval-") or tag == "raises-exception"]
        marks += [line for line in cell.source.splitlines() if "NBVAL_" in line or "PYTEST_VALIDATE" in line]
        assert not marks or "# because" in cell.source, f"line {cell.line}: {marks} without '# because …'"

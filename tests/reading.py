"""What can be told of a chapter by reading it, without running it: names, sizes, and what it lacks of the book."""

import ast
import builtins
import collections
import re
import symtable

from lbdl import chapters
from tests.publish import book
from tests.running import code

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


def own_names(script, section) -> set[str]:
    """The names that a section gives and another may give too: not those of the set-up, and no export given once.

    Such an export means the same everywhere; the methods of exported classes look it up late.
    """
    parts = chapters.sections(script)
    given = {p: [(cell, names_of(cell)) for cell in code(cells)] for p, cells in parts.items()}
    everywhere = collections.Counter(name for cells in given.values() for _, names in cells for name in names)
    own = set().union(*(names for _, names in given[section])) - set().union(*(names for _, names in given[""]))
    exports = set().union(*(names for cell, names in given[section] if "export" in cell.tags))
    return own - {name for name in exports if everywhere[name] == 1}


def function_of(source: str) -> str:
    """The function that an exercise asks for, or its solution gives: the first one that the cell defines."""
    return re.search(r"^def (\w+)\(", source, re.MULTILINE)[1]


def names_of(cell) -> set[str]:
    """The names that a cell defines."""
    return set().union(*(bound_by(statement) for statement in ast.parse(cell.source).body))


# The book is little, and so is each chapter: the most code cells, lines of code, words of prose and pictures.
SECTION_SIZE = {"code cells": 28, "lines of code": 220, "words": 1700, "pictures": 4}
CHAPTER_SIZE = {"code cells": 200, "lines of code": 1550, "words": 13_000}
LONGEST = 40  # lines of a cell
MOST_BYTES = 2_500_000  # of a notebook
LARGER = {"2.1": 1.5, "4.2": 2, "4.8": 2, "5.2": 2, "5.3": 3, "7.1": 2}  # sections that hold several things of the book


def lines_of(cell) -> int:
    return sum(1 for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#"))


def size_of(cells: list) -> dict[str, int]:
    """How much is in some cells of a chapter."""
    inside, prose = code(cells), (cell.source for cell in cells if cell.kind == "markdown")
    shown = sum(len(re.findall(r"^\s*(?:figure|explore)\(", cell.source, re.MULTILINE)) for cell in inside)
    lines, words = sum(lines_of(cell) for cell in inside), sum(len(text.split()) for text in prose)
    return {"code cells": len(inside), "lines of code": lines, "words": words, "pictures": shown}


def too_large(cells: list, most: dict[str, int], factor: float = 1) -> list[str]:
    """What is over a house size, in words."""
    sizes = size_of(cells)
    return [
        f"{sizes[what]} {what} (at most {most[what] * factor:g})" for what in most if sizes[what] > most[what] * factor
    ]


def plain(text: str) -> str:
    """A term as it is looked for: small letters, hyphens as spaces, without what stands in brackets."""
    return re.sub(r"[\s\-]+", " ", re.sub(r"\s*\(.*\)", "", text).lower()).strip()


def bold(cells: list) -> list[str]:
    """All that is in bold type in Markdown cells."""
    prose = "\n".join(cell.source for cell in cells if cell.kind == "markdown")
    return [plain(found) for found in re.findall(r"\*\*(.+?)\*\*", prose, re.DOTALL)]


def tags(cells: list) -> list[str]:
    return [tag for cell in cells for tag in cell.tags]


def lacks(section: str, cells: list) -> list[str]:
    """What a section of the book must have and this one has not: its terms in bold, an exercise, a widget."""
    text, marks = bold(cells), tags(cells)
    terms = book()["index"].get(section, [])
    found = [f"{section}: not bold where it is explained: {t}" for t in terms if not any(plain(t) in b for b in text)]
    found += [f"{section}: no cell tagged {mark}" for mark in ("exercise", "solution") if mark not in marks]
    inside = code(cells)
    for cell, following in zip(inside, [*inside[1:], None], strict=True):
        if "exercise" in cell.tags and (following is None or "solution" not in following.tags):
            found.append(f"{section}, line {cell.line}: no solution right after the exercise")
        if "solution" in cell.tags and "hide-input" not in cell.tags:
            found.append(f"{section}, line {cell.line}: a solution needs the tag hide-input, too")
    if not any("explore(" in cell.source for cell in inside):
        found.append(f"{section}: no widget")
    return found


def empty_tags(cells: list) -> list[str]:
    """Tags that are no proof: a tagged cell must show the figure of that number, or be followed by its claim."""
    found, inside = [], code(cells)
    for cell, following in zip(inside, [*inside[1:], None], strict=True):
        for tag in cell.tags:
            kind, _, key = tag.partition("-")
            if kind == "figure" and f'"{key}"' not in cell.source:
                found.append(f"line {cell.line}: the cell tagged {tag} shows no figure {key}")
            if kind == "equation" and "claim(" not in cell.source + (following.source if following else ""):
                found.append(f"line {cell.line}: nothing is claimed of {tag}")
    return found


def long_cells(cells: list) -> list[str]:
    """Cells that are too long."""
    sizes = [(lines_of(cell), cell.line) for cell in code(cells)]
    return [f"line {at}: {lines} lines of code (at most {LONGEST})" for lines, at in sizes if lines > LONGEST]

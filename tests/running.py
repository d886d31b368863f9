"""Run the cells of chapters in this process, without a kernel: whole chapters, one section alone, or changed cells."""

import matplotlib.pyplot as plt
from lbdl import chapters
from lbdl.chapters import Cell

SCRIPTS = sorted(chapters.FOLDER.glob("[0-9][0-9]_*.py"))


def code(cells: list[Cell]) -> list[Cell]:
    """The code cells among `cells`."""
    return [cell for cell in cells if cell.kind == "code"]


def run(cells: list[Cell], script, names: dict | None = None) -> dict:
    """Execute code cells in order, in one namespace, and return it. Tracebacks point into the script."""
    names = {"__name__": "__main__", "__file__": str(script)} if names is None else names
    try:
        for cell in code(cells):
            exec(compile("\n" * (cell.line - 1) + cell.source, str(script), "exec"), names)
    finally:
        plt.close("all")
    return names


def alone(script, section: str) -> list[Cell]:
    """The code cells that a reader runs to see one section: the set-up, then the section."""
    parts = chapters.sections(script)
    return code(parts[""] + parts[section])

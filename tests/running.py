"""Run the cells of chapters in this process, without a kernel: whole chapters, one section alone, or changed cells."""

import ast
import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import torch
from IPython.lib.pretty import pretty

from lbdl import chapters
from lbdl.chapters import Cell

PAIRED = [script for script in sorted(chapters.FOLDER.glob("[0-9][0-9]_*.py")) if script.with_suffix(".ipynb").exists()]
DRAFTS = chapters.FOLDER / "drafts"  # sections that are being written, which no test but the linter reads
SCRIPTS = [script for script in PAIRED if not script.stem.startswith("00")]  # the chapters; 00 shows the data
TOO_LONG = ("02", "03", "04")  # chapters that still await being cut to the house sizes of tests/test_sections.py
DTYPE = "default dtype after the last cell"  # a key that no cell can name


def code(cells: list[Cell]) -> list[Cell]:
    """The code cells among `cells`."""
    return [cell for cell in cells if cell.kind == "code"]


def sections(script: Path) -> list[str]:
    """The numbers of the sections of a chapter."""
    return [section for section in chapters.sections(script) if section not in ("", "end")]


def chapter_of(section: str) -> str:
    """The two digits of a chapter, from its own number or from that of a section: 6.3 and 06 are in 06, M.1 in 09."""
    chapter = section.partition(".")[0]
    return "09" if chapter == "M" else f"{int(chapter):02d}"


def draft_of(section: str) -> Path:
    """Where a section is while it is being written: chapters/drafts/06.3.py for 6.3, 09.1.py for M.1."""
    return DRAFTS / f"{chapter_of(section)}.{section.partition('.')[2]}.py"


def front_of(section: str) -> Path:
    """Where the beginning of a chapter is (title and set-up) while it has no section: chapters/drafts/06.py."""
    return DRAFTS / f"{chapter_of(section)}.py"


def alone(script: Path, section: str) -> list[Cell]:
    """The code cells that a reader runs to see one section: the set-up, then the section."""
    parts = chapters.sections(script)
    return code(parts[""] + parts[section])


@contextlib.contextmanager
def kernel_of(names: dict) -> Iterator[None]:
    """A kernel has a default dtype of its own, which a chapter may set: have it here for a while, then put it back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(names.get(DTYPE, torch.float32))
    try:
        yield
    finally:
        names[DTYPE] = torch.get_default_dtype()
        torch.set_default_dtype(before)


def first_names(script: Path) -> dict:
    """The namespace of a kernel in which nothing was run yet."""
    return {"__name__": "__main__", "__file__": str(script)}


def execute(cell: Cell, script: Path, names: dict) -> object:
    """Execute one code cell and return the value of its last line if that is an expression, as a kernel shows it.

    Tracebacks point into the script.
    """
    body = ast.parse("\n" * (cell.line - 1) + cell.source, str(script)).body
    silent = cell.source.rstrip().endswith(";")
    last = body.pop() if body and isinstance(body[-1], ast.Expr) and not silent else None
    exec(compile(ast.Module(body, []), str(script), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(script), "eval"), names) if last else None


def run(cells: list[Cell], script: Path, names: dict | None = None) -> dict:
    """Execute code cells in order, in one namespace, and return it."""
    names = first_names(script) if names is None else names
    with kernel_of(names):
        try:
            for cell in code(cells):
                execute(cell, script, names)
        finally:
            plt.close("all")
    return names


def outputs_of(cell: Cell, script: Path, names: dict) -> list[dict]:
    """Execute a code cell as a kernel does, and return its outputs in the form in which notebooks store them."""
    printed, errors, shown = io.StringIO(), io.StringIO(), []

    def display(forms: dict, metadata: dict, raw: bool) -> None:
        shown.append({"output_type": "display_data", "data": _encoded(forms), "metadata": metadata})

    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        mock.patch("lbdl.show.in_notebook", lambda: True),
        mock.patch("lbdl.show.display", display),
        kernel_of(names),
    ):
        result = execute(cell, script, names)
    plt.close("all")
    streams = (("stdout", printed.getvalue()), ("stderr", errors.getvalue()))
    outputs = [{"output_type": "stream", "name": name, "text": text} for name, text in streams if text]
    if result is not None:
        shown.append({"output_type": "execute_result", "data": {"text/plain": pretty(result)}, "metadata": {}})
    return outputs + shown


def _encoded(forms: dict) -> dict:
    """Pictures in base64, as notebooks have them."""
    return {m: base64.b64encode(form).decode() if isinstance(form, bytes) else form for m, form in forms.items()}

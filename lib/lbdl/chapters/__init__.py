"""Import what a chapter built: `from lbdl.chapters.ch05 import GPT`.

A chapter is a percent script, chapters/05_architectures.py. Importing it runs only its cells tagged `export`, which
hold imports, functions, classes and constants. All other lines are blanked, not cut: line numbers stay, so that
tracebacks and inspect.getsource point into the chapter itself.
"""

import ast
import importlib.machinery
import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "chapters"
MARK = re.compile(r"# %%(?P<markdown> \[markdown\])?(?: [^\[\]{}=]*)??(?: tags=(?P<tags>\[[^\]]*\]))?\s*")
ALMOST_MARK = re.compile(r"\s*# ?%%")  # jupytext begins a cell here too
SECTION = re.compile(r"^## (\d|M)\.(\d+) (.+)$", re.MULTILINE)


@dataclass
class Cell:
    """A cell of a percent script: `line` is the number of its first line of source, counted from 1."""

    kind: str  # "code" or "markdown"
    tags: list[str]
    source: str
    line: int


def path_of(number: int | str) -> Path:
    """The percent script of a chapter.

    Raises:
        ModuleNotFoundError: there is no such chapter.
    """
    found = list(FOLDER.glob(f"{int(number):02d}_*.py"))
    if len(found) != 1:
        there = ", ".join(f"ch{p.name[:2]}" for p in sorted(FOLDER.glob("[0-9][0-9]_*.py"))) or "none"
        raise ModuleNotFoundError(f"no chapter {number} in {FOLDER.name}/: expected one of {there}")
    return found[0]


def cells(script: Path) -> list[Cell]:
    """The cells of a percent script, in order; Markdown without its comment signs."""
    found: list[Cell] = []
    for number, line in enumerate(script.read_text(encoding="utf-8").splitlines(), 1):
        mark = MARK.fullmatch(line)
        if not mark and ALMOST_MARK.match(line):
            raise SyntaxError(
                f"{script.name}, line {number}: expected a cell to begin with `# %%` or `# %% [markdown]`, and with "
                f"nothing but tags after it, got {line}"
            )
        if mark:
            tags = json.loads(mark["tags"]) if mark["tags"] else []
            found.append(Cell("markdown" if mark["markdown"] else "code", tags, "", number + 1))
        elif found:
            text = re.sub(r"^# ?", "", line) if found[-1].kind == "markdown" else line
            found[-1].source += text + "\n"
    for cell in found:
        text = cell.source.lstrip("\n")
        cell.line += len(cell.source) - len(text)
        cell.source = text.rstrip("\n")
    return [cell for cell in found if cell.source]


def sections(script: Path) -> dict[str, list[Cell]]:
    """The cells by section of the book ("1.2"); "" holds those before the first section, "end" those after the last."""
    found: dict[str, list[Cell]] = {"": []}
    current = ""
    for cell in cells(script):
        if cell.kind == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            heading = SECTION.search(cell.source)
            current = f"{heading[1]}.{heading[2]}" if heading else "end"
        found.setdefault(current, []).append(cell)
    return found


def _importable(node: ast.stmt) -> bool:
    """Whether a statement may run at import: it defines something and computes nothing."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return not any(isinstance(part, ast.Call) for part in ast.walk(node))
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))


def exported(script: Path) -> str:
    """The script with all but its cells tagged `export` blanked.

    Raises:
        SyntaxError: an exported cell holds more than imports, functions, classes and constants.
    """
    lines = script.read_text(encoding="utf-8").splitlines()
    kept = [""] * len(lines)
    for cell in cells(script):
        if "export" not in cell.tags:
            continue
        for node in ast.parse("\n" * (cell.line - 1) + cell.source, str(script)).body:
            if not _importable(node):
                raise SyntaxError(
                    f"{script.name}, line {node.lineno}: a cell tagged export may hold imports, "
                    f"functions, classes and constants, and this is: {ast.unparse(node).splitlines()[0]}"
                )
        inside = slice(cell.line - 1, cell.line + cell.source.count("\n"))
        kept[inside] = lines[inside]
    return "\n".join(kept) + "\n"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the exported cells of a chapter; nothing is cached, because nobody edits what is compiled."""

    def get_data(self, path: str) -> bytes:
        return exported(Path(path)).encode()

    def path_stats(self, path: str) -> dict:
        raise OSError  # no bytecode file

    def get_source(self, fullname: str) -> str:
        return exported(Path(self.path))


class _Finder:
    """Finds lbdl.chapters.chNN."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None):
        parent, _, name = fullname.rpartition(".")
        if parent != __name__:
            return None
        if not re.fullmatch(r"ch\d\d", name):
            raise ModuleNotFoundError(f"{fullname}: expected chapters to be named ch01, ch02, …, got {name}")
        script = str(path_of(name[2:]))
        return importlib.util.spec_from_file_location(fullname, script, loader=_Loader(fullname, script))


if _Finder not in sys.meta_path:
    sys.meta_path.append(_Finder)

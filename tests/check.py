"""Look at one section while writing it: make check SECTION=6.3, a draft in chapters/drafts/06.3.py or in its chapter.

Reads it (ruff, sizes, names that leak, terms, tags), runs the set-up and the section in this process, judges its
exercises, moves its widgets, and writes every picture, of widgets one for each value of each control, into
.cache/check/6.3. Prints claims, cells that take over a second, and at the end all that is wrong.
"""

import base64
import contextlib
import html
import io
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

from lbdl import chapters, claims, exercises, widgets
from lbdl.bars import VARIABLE
from lbdl.chapters import Cell
from tests import in_kernel, reading, running

ROOT = Path(__file__).parents[1]
SLOW = 1.0  # seconds of a cell that are worth a line
MOST_SECONDS = 60  # of a section, times its factor in reading.LARGER
TAG = re.compile(r"<[^>]+>")


def sources(section: str) -> tuple[Path, list[Cell], list[Cell]]:
    """The script that holds a section, the cells of the set-up, and those of the section.

    Raises:
        SystemExit: there is no such section, neither as a draft nor in its chapter.
    """
    draft, front = running.draft_of(section), running.front_of(section)
    found = list(chapters.FOLDER.glob(f"{running.chapter_of(section)}_*.py"))
    script = draft if draft.exists() else (found or [draft])[0]
    inside = chapters.sections(script).get(section, []) if script.exists() else []
    beginning = front if front.exists() and script == draft else (found or [front])[0]
    if not inside:
        raise SystemExit(f"expected section {section} in {draft.relative_to(ROOT)} or in its chapter, found none")
    if not beginning.exists():
        raise SystemExit(f"expected the set-up in {front.relative_to(ROOT)}, as there is no chapter yet, found none")
    return script, chapters.sections(beginning)[""], inside


def read(section: str, script: Path, setup: list[Cell], inside: list[Cell]) -> list[str]:
    """All that can be seen without running anything."""
    found, known = [], set()
    for command in ("check --output-format=concise", "format --check"):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command.split(), "-q", str(script)], capture_output=True, text=True
        )
        found += [f"ruff {command} (make lint mends most):\n{done.stdout}"] if done.returncode else []
    reading.leaks(setup, known)
    found += [f"{leak} is defined neither by the set-up nor before" for leak in reading.leaks(inside, known)]
    found += reading.lacks(section, inside) + reading.empty_tags(inside) + reading.long_cells(inside)
    larger = reading.LARGER.get(section, 1)
    found += [f"over the house size: {size}" for size in reading.too_large(inside, reading.SECTION_SIZE, larger)]
    sizes = ", ".join(f"{size} {what}" for what, size in reading.size_of(inside).items())
    print(f"{section} in {script.name}: {sizes}")
    return found


def run(section: str, script: Path, cells: list[Cell], folder: Path) -> tuple[list[str], dict]:
    """Run cells, show what they claim and how long they take, write their pictures; stop where one fails."""
    names, found, total = running.first_names(script), [], 0.0
    for cell in cells:
        start = time.perf_counter()
        try:
            outputs = running.outputs_of(cell, script, names)
        except Exception:
            return [f"line {cell.line} failed, the rest was not run:\n{traceback.format_exc(limit=-4)}"], names
        seconds = time.perf_counter() - start
        total += seconds
        if seconds > SLOW:
            print(f"  {seconds:5.1f} s  line {cell.line}: {cell.source.splitlines()[-1].strip()[:90]}")
        for output in outputs:
            found += show(output, cell, folder)
        if "solution" in cell.tags and (name := reading.function_of(cell.source)) in exercises.cases_of:
            with running.kernel_of(names), contextlib.redirect_stdout(io.StringIO()):
                found += in_kernel.wrong_answers(names, running.chapter_of(section), name)
    most = MOST_SECONDS * reading.LARGER.get(section, 1)
    print(f"  {total:5.1f} s  in all, on one thread")
    return found + ([f"{total:.0f} s (at most {most:g})"] if total > most else []), names


def show(output: dict, cell: Cell, folder: Path) -> list[str]:
    """Print an output in a line, or write its picture; return what is wrong with it."""
    if output["output_type"] == "stream":
        text = output["text"].strip()
        print(f"  | {text}")
        return [f"line {cell.line} writes to stderr: {text}"] if output["name"] == "stderr" else []
    data, pictures = output["data"], ("image/png", "image/jpeg")
    for form in (form for form in pictures if form in data):
        number = 1 + len(list(folder.glob("figure-*")))
        path = folder / f"figure-{number:02d}.{form.removeprefix('image/')}"
        path.write_bytes(base64.b64decode(data[form]))
        print(f"  {path.relative_to(ROOT)}: {data['text/plain']}")
        return []
    if not data["text/plain"].startswith("Figure "):
        print(f"  {html.unescape(TAG.sub(' ', data.get('text/html', data['text/plain'])))[:300]}")
    return []


def move(names: dict, folder: Path) -> list[str]:
    """Judge the widgets as the tests do, and write a picture of each value of each control."""
    with running.kernel_of(names):
        found = in_kernel.widgets_of_section(names)
        for explorer in widgets.shown:
            for name, control in explorer.controls.items():
                for number, value in enumerate(control.samples):
                    try:
                        picture = explorer.sharp.draw_all(explorer.start | {name: value})
                    except Exception as error:
                        found.append(f"figure {explorer.number}, {name} = {value}: {type(error).__name__}: {error}")
                        continue
                    picture.save(folder / f"{explorer.number}-{name}-{number}.png")
                    print(f"  {explorer.number}, {name} = {value}: {explorer.sharp.words}")
    return found


def main(section: str = "") -> int:
    """Check a section; return the exit code."""
    if not re.fullmatch(r"[\dM]\.\d+", section):
        raise SystemExit("expected a section, as in make check SECTION=6.3")
    script, setup, inside = sources(section)
    folder = ROOT / ".cache" / "check" / section
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = read(section, script, setup, inside)
    failed, names = run(section, script, running.code(setup + inside), folder)
    found += failed
    start = time.perf_counter()
    found += move(names, folder)
    with running.kernel_of(names):
        own = set().union(*(reading.names_of(cell) for cell in running.code(inside) if "export" not in cell.tags))
        found += in_kernel.spoiled_names(names, sorted(own - set().union(*map(reading.names_of, running.code(setup)))))
    print(f"  {time.perf_counter() - start:5.1f} s  for the widgets; {len(claims.made)} claims hold")
    for problem in found:
        print(f"✗ {problem}")
    print(f"{section}: {len(found)} problems" if found else f"{section}: nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ[VARIABLE] = "0"
    sys.exit(main(*sys.argv[1:]))

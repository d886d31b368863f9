"""Run a chapter on the pretend accelerator (tests/accelerator.py), one section after the other, each on its own.

    python -m tests.run_on_accelerator 05            all sections of chapter 5
    python -m tests.run_on_accelerator 05 5.2 5.3    two of them
    python -m tests.run_on_accelerator draft.py      a chapter that is not in chapters/ yet

What is looked for is a tensor on the wrong device, so a training is cut to one step, any other long loop with a
progress bar to two, and what would have come out is forgiven: false claims, and errors in a few cells that want the
rest. All else must work as on the CPU: cells, exercises, widgets at both ends of their controls.

What went wrong is written to stderr, with section and line, and the exit code is 1. The last line of stdout is JSON:
by section, the heavy operations that ran on CPU tensors, and where; those that draw widgets apart:

    {"5.2": {"mm": {"count": 3, "lines": ["05_architectures.py:120"]}}, "5.2 widgets": {}}
"""

import contextlib
import functools
import inspect
import itertools
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt

import lbdl
from lbdl import bars, chapters, claims, exercises, training, widgets
from lbdl.claims import ClaimError
from lbdl.devices import VARIABLE
from tests import accelerator, running

SHARE_MISSED = 0.1  # of a section's cells may fail for want of what a loop was cut of
FEW_ITEMS = 60
LOOP = "a loop that is not lbdl.fit"

# About the section that is running:
shortened: list[str] = []  # the trainings and loops that were cut
in_widgets: Counter[tuple[str, str]] = Counter()  # what accelerator.heavy_on_cpu counted while widgets were drawn


def one_step(fit: Callable) -> Callable:
    """`fit`, but it stops after one step.

    The History is drawn out to the length that the full training would have given it, so that the chapter's figures
    find as many epochs as they draw.
    """

    @functools.wraps(fit)
    def cut(*args, **kwargs):
        call = inspect.signature(fit).bind(*args, **kwargs)
        call.apply_defaults()
        data, epochs = call.arguments["data"], call.arguments["epochs"]
        call.arguments.update(data=list(itertools.islice(data, 1)), epochs=1)
        history = fit(*call.args, **call.kwargs)
        shortened.append(call.arguments["label"])
        history.steps *= epochs * (len(data) if hasattr(data, "__len__") else 1)
        history.epochs *= epochs
        history.metrics = {name: values * epochs for name, values in history.metrics.items()}
        return history

    return cut


def two_items(progress: Callable) -> Callable:
    """`progress`, but it stops after two items, unless there are only few: those are no steps of a training."""

    @functools.wraps(progress)
    def cut(items, *args, **kwargs):
        if hasattr(items, "__len__") and len(items) <= FEW_ITEMS:
            return iter(items)
        shortened.append(LOOP)
        return itertools.islice(items, 2)

    return cut


def forgiving(claim: Callable) -> Callable:
    """`claim`, but a false one does not stop where it may be false here: after a cut training, and about times.

    A wrong form, other shapes or devices still raise; and so does an equality in a section that trains nothing,
    because it has nothing to do with how well or how fast something runs.
    """

    @functools.wraps(claim)
    def forgiven(statement, value, **bars):
        try:
            claim(statement, value, **bars)
        except ClaimError as error:
            if bars.get("equals") is not None:
                claims._gap(value, bars["equals"])  # raises if it is about shapes or devices
                if not shortened:
                    raise
            claims.made[statement] = ("forgiven", "false on the pretend accelerator")
            print(f"forgiven: {error}")

    return forgiven


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Notes the heavy operations inside as those of widgets: a scene may prefer the CPU for its few points."""
    before = accelerator.heavy_on_cpu.copy()
    try:
        yield
    finally:
        in_widgets.update(accelerator.heavy_on_cpu - before)


def prepare() -> None:
    """Install the accelerator, choose it, and put the changed functions where chapters import them from."""
    os.environ[VARIABLE] = accelerator.NAME
    accelerator.install()
    lbdl.fit = training.fit = one_step(training.fit)
    lbdl.progress = bars.progress = two_items(bars.progress)
    lbdl.claim = claims.claim = forgiving(claims.claim)
    lbdl.explore = widgets.explore = drawing()(widgets.explore)


def run_section(script: Path, section: str) -> list[str]:
    """Run the set-up and one section, then move its widgets; return what went wrong."""
    for memory in (shortened, in_widgets, exercises.results, widgets.shown, accelerator.heavy_on_cpu):
        memory.clear()
    cells, names, missed = running.alone(script, section), running.first_names(script), []
    with running.kernel_of(names):
        for cell in cells:
            try:
                running.execute(cell, script, names)
            except Exception as error:
                said = f"section {section}, {place(error, script)}: {type(error).__name__}: {error}"
                if LOOP not in shortened or any(message in str(error) for message in accelerator.MESSAGES):
                    return [said]
                missed.append(said)
            finally:
                plt.close("all")
        try:
            move_widgets()
        except Exception as error:
            return [f"section {section}, {place(error, script)}: {type(error).__name__}: {error}"]
    if len(missed) > SHARE_MISSED * len(cells):
        return [f"section {section}: after the cuts {len(missed)} of {len(cells)} cells failed", *missed]
    wrong = [name for name, result in exercises.results.items() if result == "not yet"]
    return [f"section {section}: the check of {name} says that its solution is wrong" for name in wrong]


@drawing()
def move_widgets() -> None:
    """Draw every widget of the section with all its controls at one end, then all at the other."""
    for explorer in widgets.shown:
        for end in (0, -1):
            explorer.sharp.draw({name: control.samples[end] for name, control in explorer.controls.items()})


def place(error: Exception, script: Path) -> str:
    """Where in the chapter an error arose: the line of the cell, then those inside the functions that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [str(frame.lineno) for frame in frames if frame.filename == str(script)]
    return f"{script.name}, line {', '.join(lines)}" if lines else script.name


def by_operation(counts: Counter[tuple[str, str]]) -> dict[str, dict]:
    """Operation -> how often it ran, and where."""
    found: dict[str, dict] = {}
    for (operation, line), count in sorted(counts.items()):
        entry = found.setdefault(operation, {"count": 0, "lines": []})
        entry["count"] += count
        entry["lines"].append(line)
    return found


def report(script: Path, sections: Iterable[str]) -> tuple[dict[str, dict], list[str]]:
    """Run sections of a chapter after prepare(); return the heavy operations on CPU tensors, and what went wrong."""
    heavy, problems = {}, []
    for section in sections:
        problems += run_section(script, section)
        heavy[section] = by_operation(accelerator.heavy_on_cpu - in_widgets)
        heavy[f"{section} widgets"] = by_operation(in_widgets)
    return heavy, problems


def main(chapter: str, *asked: str) -> int:
    """Run the sections of a chapter, given by number or file; return the exit code."""
    script = Path(chapter).resolve() if chapter.endswith(".py") else chapters.path_of(chapter)
    there = [section for section in chapters.sections(script) if section]
    if unknown := set(asked) - set(there):
        raise SystemExit(f"{script.name} has no section {', '.join(unknown)}: expected some of {', '.join(there)}")
    prepare()
    heavy, problems = report(script, asked or there)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(json.dumps(heavy))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

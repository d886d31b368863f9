"""Measure what the README says about times, and write it there. Not a test: nothing fails by being slow.

    python -m tests.benchmark          all chapters, written into README.md
    python -m tests.benchmark 01 04    only these chapters, printed

For times that mean something, nothing else should run meanwhile.
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jupytext
import torch

from lbdl import chapters
from tests.browser import launch, opened, serve
from tests.publish import execute

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"
PRESSES, WARM_UP = 105, 5  # key presses on a slider, and how many of them at first do not count
HEAD = """\
| chapter | all cells | first figure | slider to pixels: median | 95 % of moves within |
|---|---:|---:|---:|---:|"""


@dataclass
class Times:
    """What a chapter costs: seconds, and milliseconds for each key press on its first slider; None without one."""

    chapter: str
    whole: float
    first_figure: float | None = None
    slider: list[float] | None = None

    def row(self) -> str:
        """A row of the table."""
        first = "–" if self.first_figure is None else f"{self.first_figure:.1f} s"
        median, most = "–", "–"
        if self.slider:
            median = f"{statistics.median(self.slider):.0f} ms"
            most = f"{statistics.quantiles(self.slider, n=20)[-1]:.0f} ms"
        return f"| {self.chapter} | {self.whole:.0f} s | {first} | {median} | {most} |"


def timed(action: Callable, *arguments) -> tuple[float, object]:
    """The seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    returned = action(*arguments)
    return time.perf_counter() - start, returned


def up_to_picture(executed, script: Path, mark: str = "") -> bool:
    """Write the chapter as script and notebook, cut after the first cell that shows a picture and has `mark` in it."""
    for number, cell in enumerate(executed.cells, 1):
        shows = any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in cell.get("outputs", ()))
        if shows and mark in cell.source:
            part = jupytext.reads(jupytext.writes(executed, "py:percent"), "py:percent")  # without outputs
            part.cells = part.cells[:number]
            for suffix in (".py", ".ipynb"):
                jupytext.write(part, script.with_suffix(suffix))
            return True
    return False


def key_times(path: Path) -> list[float] | None:
    """Run a notebook in JupyterLab, and time moves of the first slider of its last widget."""
    with serve(path.parent) as lab, launch() as browser, opened(browser, lab, path.stem) as notebook:
        notebook.run_all()
        widget = notebook.widgets()[-1]
        sliders = widget.sliders()
        return widget.key_times(sliders[0], PRESSES)[WARM_UP:] if sliders else None


def measure(script: Path) -> Times:
    """All times of one chapter."""
    seconds, executed = timed(execute, script)
    times = Times(script.stem.replace("_", " "), seconds)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / script.name
        if up_to_picture(executed, part):
            times.first_figure, _ = timed(execute, part)
        if up_to_picture(executed, part, "explore("):
            times.slider = key_times(part)
    return times


def processor() -> str:
    """The name that the processor gives itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    return platform.processor() or platform.machine()


def table(measured: list[Times]) -> str:
    """The measured times as Markdown, with the machine that they hold for."""
    total = sum(times.whole for times in measured)
    rows = [HEAD, *(times.row() for times in measured), f"| all | {total / 60:.1f} min | | | |"]
    threads, gpu = torch.get_num_threads(), "with" if torch.accelerator.is_available() else "without"
    machine = (
        f"Measured on {processor()}, {os.cpu_count()} cores ({threads} for PyTorch), {gpu} a GPU, "
        f"with Python {platform.python_version()} and PyTorch {torch.__version__.partition('+')[0]}. "
        "A figure is counted from the start of the kernel; a move from the key to the painted pixels in Chromium."
    )
    return "\n".join(rows) + f"\n\n{machine}"


def readme_parts() -> tuple[str, str]:
    """What stands in README.md before and after the table.

    Raises:
        SystemExit: the file or the marks around the table are missing.
    """
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README.name}: expected a line {BEGIN} and after it a line {END}, found no such pair")
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="CHAPTER", help="two digits, such as 04; all when left out")
    numbers = parser.parse_args().numbers
    if not numbers:
        readme_parts()  # to fail now rather than after all measurements
    measured = []
    for script in [chapters.path_of(n) for n in numbers] or sorted(chapters.FOLDER.glob("[0-9][0-9]_*.py")):
        measured.append(measure(script))
        print(measured[-1].row(), flush=True)
    if numbers:
        print(table(measured))
    else:
        before, after = readme_parts()
        README.write_text(f"{before}{BEGIN}\n{table(measured)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""nbval with the companion's comparison (tests.compare), in kernels that cannot reach the network.

nbval runs every cell of every notebook and compares each output with the stored one. On its own it compares text to
the letter and pictures not at all; here decimals get a small tolerance and pictures are compared by their pixels.

A chapter's kernel then answers for more, since the cells have run anyway (tests.in_kernel): wrong answers right after
each solution, the widgets at the end of each section, and at the end of all whether pictures keep their names.
"""

import ast
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams

from lbdl import chapters
from lbdl.bars import VARIABLE
from tests import in_kernel, reading, running
from tests.compare import differences
from tests.publish import sections_of, stored

OFFLINE = Path(__file__).parent / "offline"  # its sitecustomize.py refuses connections
ROOT = Path(__file__).parents[1]  # where kernels find tests.in_kernel
OUTPUT_TIMEOUT = 60  # seconds to wait for what a cell that has ended has shown; nbval's own 5 are few on a busy machine
SPENT = "CPU seconds"  # of a notebook's kernel
HEAVY = {"test_browser.py": 2, "test_accelerator.py": 1}  # files of tests that start programs


def pytest_configure(config):
    os.environ[VARIABLE] = "0"
    paths = [str(OFFLINE), str(ROOT), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest files first, so that no core waits for the other at the end: notebooks, then what starts programs."""
    items.sort(key=lambda item: _weight(item.path), reverse=True)  # stable: within a file the order stays


@functools.cache
def _weight(path: Path) -> int:
    return path.stat().st_size if path.suffix == ".ipynb" else HEAVY.get(path.name, 0)


def pytest_itemcollected(item):
    if isinstance(item, IPyNbCell):
        item.output_timeout = OUTPUT_TIMEOUT
        if item.cell.execution_count is None:  # stored without having been run: nbval would compare nothing
            item.cell.execution_count = 0


def pytest_terminal_summary(terminalreporter):
    """What the notebooks cost: a chapter that gets too dear should be seen early."""
    reports = terminalreporter.stats.get("passed", [])
    if drafts := sorted(draft.stem for draft in running.DRAFTS.glob("*.py")):
        terminalreporter.write_line(f"drafts, which are not tested: {', '.join(drafts)}")
    spent = {r.nodeid.split("::")[0]: s for r in reports for name, s in r.user_properties if name == SPENT}
    if spent:
        listed = ", ".join(f"{Path(name).stem[:2]}: {s:.0f}" for name, s in sorted(spent.items()))
        terminalreporter.write_line(f"{SPENT} by chapter: {listed}; all: {sum(spent.values()):.0f}")


def compare_outputs(self, test, ref, skip_compare=None):
    """Called by nbval after each cell: `test` are the new outputs, `ref` the stored ones."""
    new = [kept for output in coalesce_streams(test) if (kept := stored(output))]
    self.comparison_traceback = differences(ref, new)
    return not self.comparison_traceback


def execute_cell_input(self, cell_input, allow_stdin=None):
    """As nbval's own, but with history: only then does IPython honour a semicolon at the end of a line."""
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


class Question(pytest.Item):
    """Something that the kernel of a chapter is asked after the cells before it have run."""

    def __init__(self, *, question: str, arguments: list, **given):
        super().__init__(**given)
        self.question = in_kernel.ask(question, *arguments)

    def runtest(self):
        if problems := self.evaluate(self.question):
            raise AssertionError("\n".join(problems))
        self.user_properties.append(
            (SPENT, self.evaluate("__import__('json').dumps(__import__('time').process_time())"))
        )

    def evaluate(self, expression: str) -> object:
        """The value in the kernel of an expression that gives JSON.

        Raises:
            RuntimeError: it failed there.
        """
        kernel, asked = self.parent.kernel, {"said": expression}
        number = kernel.kc.execute("", silent=True, store_history=False, user_expressions=asked)
        reply = None
        while reply is None or reply["parent_header"].get("msg_id") != number:
            reply = kernel.get_message("shell", timeout=self.config.option.nbval_cell_timeout)
        said = reply["content"]["user_expressions"]["said"]
        if said["status"] != "ok":
            raise RuntimeError("\n".join(said["traceback"]))
        return json.loads(ast.literal_eval(said["data"]["text/plain"]))

    def repr_failure(self, excinfo):
        return str(excinfo.value)

    def reportinfo(self):
        return self.path, 0, self.name


def collect(self) -> Iterator[pytest.Item]:
    """nbval's items, a cell each, with questions between them where the notebook is one of the chapters."""
    cells = list(collect_cells(self))
    script = self.path.with_suffix(".py")
    if script not in running.PAIRED:
        yield from cells
        return

    def question(name: str, kind: str, *arguments) -> Question:
        return Question.from_parent(self, name=name, question=kind, arguments=list(arguments))

    code_cells = zip(self.nb.cells, sections_of(self.nb), strict=True)
    places = [section for cell, section in code_cells if cell.cell_type == "code"]
    for item, section, following in zip(cells, places, [*places[1:], None], strict=True):
        yield item
        if "solution" in item.cell.metadata.get("tags", ()):
            name = reading.function_of(item.cell.source)
            yield question(f"wrong answers {name}", "wrong answers", script.name[:2], name)
        if following != section:
            yield question(f"widgets {section}", "widgets")
    own = [reading.own_names(script, section) for section in chapters.sections(script) if section]
    yield question("names", "names", sorted(set().union(*own)))


collect_cells, IPyNbFile.collect = IPyNbFile.collect, collect
IPyNbCell.compare_outputs = compare_outputs
RunningKernel.execute_cell_input = execute_cell_input

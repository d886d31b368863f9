"""nbval with the companion's comparison (tests.compare), in kernels that cannot reach the network.

nbval runs every cell of every notebook and compares each output with the stored one. On its own it compares text to
the letter and pictures not at all; here decimals get a small tolerance and pictures are compared by their pixels.
"""

import os
from pathlib import Path

from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, coalesce_streams

from lbdl.bars import VARIABLE
from tests.compare import differences
from tests.publish import stored

OFFLINE = Path(__file__).parent / "offline"  # its sitecustomize.py refuses connections


def pytest_configure(config):
    os.environ[VARIABLE] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))


def pytest_itemcollected(item):
    """A cell that was stored without having been run has no number, and nbval would compare nothing."""
    if isinstance(item, IPyNbCell) and item.cell.execution_count is None:
        item.cell.execution_count = 0


def compare_outputs(self, test, ref, skip_compare=None):
    """Called by nbval after each cell: `test` are the new outputs, `ref` the stored ones."""
    new = [kept for output in coalesce_streams(test) if (kept := stored(output))]
    self.comparison_traceback = differences(ref, new)
    return not self.comparison_traceback


def execute_cell_input(self, cell_input, allow_stdin=None):
    """As nbval's own, but with history: only then does IPython honour a semicolon at the end of a line."""
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


IPyNbCell.compare_outputs = compare_outputs
RunningKernel.execute_cell_input = execute_cell_input

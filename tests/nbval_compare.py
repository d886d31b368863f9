"""nbval with the companion's comparison (lbdl.compare), in kernels that cannot reach the network.

nbval runs every cell of every notebook and compares each output with the stored one. On its own it compares text to
the letter and pictures not at all; here decimals get a small tolerance and pictures are compared by their pixels.
"""

import os
from pathlib import Path

from lbdl.compare import differences
from lbdl.progress import VARIABLE
from lbdl.publish import stored
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, coalesce_streams

OFFLINE = Path(__file__).parent / "offline"  # its sitecustomize.py refuses connections


def pytest_configure(config):
    os.environ[VARIABLE] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))


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

"""Progress bars that leave nothing behind: not in JupyterLab, not in a terminal, not in a stored notebook."""

import os
import sys
from collections.abc import Iterable, Iterator

from lbdl.show import in_notebook

VARIABLE = "LBDL_PROGRESS"  # "0" switches bars off; tests and `make outputs` do


def progress(items: Iterable, label: str = "", total: int | None = None) -> Iterator:
    """Yield the items, with a bar (count, rate, time left) while they last, and nothing after.

    Args:
        items: anything to iterate over.
        label: what is going on, shown in front of the bar.
        total: how many items there will be, where len(items) does not tell.
    """
    if os.environ.get(VARIABLE) == "0":
        yield from items
    elif in_notebook():
        yield from _notebook_bar(items, label, total)
    elif sys.stderr.isatty():
        from tqdm.std import tqdm

        yield from tqdm(items, desc=label, total=total, leave=False)
    else:
        yield from items


def _notebook_bar(items: Iterable, label: str, total: int | None) -> Iterator:
    from IPython.display import display
    from tqdm.notebook import tqdm

    bar = tqdm(items, desc=label, total=total, leave=False, display=False)
    handle = display(bar.container, display_id=True)
    try:
        yield from bar
    finally:
        bar.close()
        handle.update({}, raw=True)  # the output becomes empty: a saved notebook keeps no dead widget

"""Every chapter in a real JupyterLab in a real browser: its outputs are those stored, its widgets follow the hand.

That a widget of each kind of control does all that keys and mouse ask is proven by tests/test_browser.py on a scene of
its own; here each widget of the chapters is moved once, by its first slider.
"""

import nbformat
import pytest

from tests.browser import differ
from tests.compare import differences
from tests.publish import stored
from tests.running import PAIRED
from tests.test_browser import browser, drag, lab, ran, there_and_back  # noqa: F401  two of them are fixtures

FEW_MOVES = 20  # of the mouse, as quickly as the browser takes them


@pytest.mark.parametrize("script", PAIRED, ids=lambda path: path.stem)
def test_a_chapter_runs_and_its_widgets_follow_the_hand(browser, lab, script, tmp_path):  # noqa: F811
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with ran(browser, lab, script.stem, tmp_path) as opened:
        for cell, outputs in zip(cells, opened.outputs(), strict=True):
            new = [kept for output in outputs if (kept := stored(nbformat.from_dict(output)))]
            assert differences(cell.outputs, new) == [], cell.source
        widgets = [widget for widget in opened.widgets() if widget.sliders()]
        for widget in widgets:
            assert not differ(widget.still, widget.picture()), f"moved before it was touched: {widget.words()}"
            there_and_back(widget, widget.sliders()[:1])
        if widgets:
            drag(widgets[0], FEW_MOVES)

"""Every chapter in a real JupyterLab in a real browser: it runs without errors, and its widgets follow the hand."""

import pytest

from lbdl import chapters
from tests.browser import differ
from tests.test_browser import browser, drag, lab, ran, to_and_fro  # noqa: F401  two of them are fixtures

NOTEBOOKS = sorted(notebook.stem for notebook in chapters.FOLDER.glob("[0-9][0-9]_*.ipynb"))
FEW_MOVES = 20  # of the mouse, as quickly as the browser takes them


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_chapter_runs_and_its_widgets_follow_the_hand(browser, lab, name, tmp_path):  # noqa: F811
    with ran(browser, lab, name, tmp_path) as notebook:
        for widget in notebook.widgets():
            assert not differ(widget.still, widget.picture()), f"moved before it was touched: {widget.words()}"
            if widget.sliders():
                to_and_fro(widget)
                drag(widget, FEW_MOVES)

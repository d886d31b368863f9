"""Progress bars give every item and leave nothing behind: not in a terminal, not in a stored notebook."""

import io
import sys

import nbformat
from nbclient import NotebookClient

from lbdl import bars, progress
from tests.publish import stored


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """An error stream that is a terminal, and no variable that switches bars off."""
    monkeypatch.delenv(bars.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def test_every_item_comes_in_order_and_nothing_is_shown_when_bars_are_off(monkeypatch, capsys):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv(bars.VARIABLE, "0")
    assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert terminal.getvalue() == "" and capsys.readouterr().out == ""


def test_in_a_terminal_a_bar_with_the_label_is_shown_and_wiped_out(monkeypatch):
    terminal = open_terminal(monkeypatch)
    assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    shown = terminal.getvalue()
    assert "counting" in shown and "/5" in shown
    assert shown.split("\r")[-1].strip() == ""


def test_a_total_can_be_given_where_the_items_do_not_tell(monkeypatch):
    terminal = open_terminal(monkeypatch)
    assert list(progress(iter("abc"), total=3)) == ["a", "b", "c"]
    assert "/3" in terminal.getvalue()


def test_the_bar_goes_too_when_the_loop_is_left_early(monkeypatch):
    terminal = open_terminal(monkeypatch)
    for item in progress(range(5)):
        if item == 2:
            break
    assert "/5" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1].strip() == ""


def test_without_terminal_and_notebook_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.delenv(bars.VARIABLE, raising=False)
    assert list(progress("ab")) == ["a", "b"]
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out == ""


def test_items_are_asked_for_one_at_a_time(monkeypatch):
    monkeypatch.setenv(bars.VARIABLE, "0")
    asked = []
    items = progress(asked.append(i) or i for i in range(5))
    next(items)
    next(items)
    assert asked == [0, 1]


def test_a_notebook_shows_a_bar_and_stores_nothing_of_it(monkeypatch):
    monkeypatch.delenv(bars.VARIABLE, raising=False)
    cells = [
        "import os\nfrom lbdl import progress",
        "assert list(progress(range(5), 'to the end')) == [0, 1, 2, 3, 4]",
        "for item in progress(iter('abc'), 'left early', total=3):\n    break\ndel item",
        "os.environ['LBDL_PROGRESS'] = '0'\nassert list(progress(range(5), 'off')) == [0, 1, 2, 3, 4]",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    raw = [cell.outputs for cell in notebook.cells]
    assert [len(outputs) for outputs in raw] == [0, 1, 1, 0]  # the bar is an output of its cell while it runs
    assert [[kept for output in outputs if (kept := stored(output))] for outputs in raw] == [[], [], [], []]

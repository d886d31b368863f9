"""Progress bars give every item and leave nothing behind: not in a terminal, not in a stored notebook."""

import io
import sys

from lbdl import bars, progress


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


def test_in_a_terminal_a_bar_with_label_and_total_is_shown_and_wiped_out(monkeypatch):
    terminal = open_terminal(monkeypatch)
    assert list(progress(iter("abc"), "counting", total=3)) == ["a", "b", "c"]
    shown = terminal.getvalue()
    assert "counting" in shown and "/3" in shown
    assert shown.split("\r")[-1].strip() == ""


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
    assert capsys.readouterr() == ("", "")


def test_items_are_asked_for_one_at_a_time(monkeypatch):
    monkeypatch.setenv(bars.VARIABLE, "0")
    asked = []
    items = progress(asked.append(i) or i for i in range(5))
    next(items)
    next(items)
    assert asked == [0, 1]

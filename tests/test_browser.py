"""A widget with all kinds of controls in a real JupyterLab in a real browser: it does what hands ask.

A widget must show what its controls say, also after fast moves. So after a move its last picture is looked at, and it
must be the same picture whichever way these values were reached.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser

from lbdl import chapters
from tests.browser import Lab, Notebook, Slider, Widget, differ, find_chromium, launch, opened, serve

MOST_PRESSES = 10  # one step of a slider may be too small to be seen; so many are not
MANY_MOVES = 60  # of the mouse, as quickly as the browser takes them

SCENE = """
from lbdl import choice, explore, slider, toggle, words

def scene(fig):
    ax = fig.subplots()
    ax.set(xlim=(0, 300), ylim=(0, 10))
    label = ax.text(10, 1, "")
    (dot,) = ax.plot([], [], "o")

    def update(along, height, side, big, name):
        if height == 7:
            raise ValueError("seven is <too> high")
        dot.set_data([along if side == "left" else along + 100], [height])
        dot.set_markersize(30 if big else 15)
        label.set_text(name)
        return f"a {'big' if big else 'small'} {name} on the {side} at {along}, {height} high"

    return update

explore(
    scene, "0.0", "A dot.",
    along=slider(0, 200, 20), height=slider(0, 10, 5), side=choice(["left", "right"]), big=toggle(False),
    name=words("dot", ["spot"]),
)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("expected Chromium or Chrome to be installed, found none")
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(browser: Browser) -> Iterator[Lab]:
    with serve(chapters.FOLDER) as lab:
        yield lab


@contextmanager
def ran(browser: Browser, lab: Lab, name: str, tmp_path: Path) -> Iterator[Notebook]:
    """Open a notebook and run its cells, without a problem then and later."""
    with opened(browser, lab, name, screenshot=tmp_path / f"{name}.png") as notebook:
        notebook.run_all()
        assert notebook.problems() == []
        yield notebook
        assert notebook.problems() == []


def there_and_back(widget: Widget, sliders: list[Slider]) -> None:
    """Move sliders by keyboard until that is seen, then all of them back."""
    moves, before = [], widget.still
    for slider in sliders:
        there, back = ("ArrowRight", "ArrowLeft") if slider.place() < 1 else ("ArrowLeft", "ArrowRight")
        presses = 1
        while not differ(before, after := widget.press(slider, there)):
            assert presses < MOST_PRESSES, f"{presses} steps of {slider.label} change nothing: {widget.words()}"
            presses += 1
        moves.append((slider, [back] * presses))
        before = after
    shown = widget.shown()
    for slider, keys in moves:
        widget.type(slider, *keys)
    after = widget.settled(shown)
    assert not differ(widget.still, after), f"after moves there and back another picture stays: {widget.words()}"


def drag(widget: Widget, moves: int) -> int:
    """Drag the first slider far and fast, and see that the picture that stays is that of the last value."""
    slider, before = widget.sliders()[0], widget.picture()
    up = slider.place() <= 0.5
    after, shown = widget.drag(slider, 0.9 if up else 0.1, moves)
    assert differ(before, after), f"dragging {slider.label} changes nothing: {widget.words()}"
    again = widget.press(slider, *(("ArrowLeft", "ArrowRight") if up else ("ArrowRight", "ArrowLeft")))
    assert not differ(after, again), f"dragging {slider.label} left a picture of another value: {widget.words()}"
    return shown


def test_a_widget_does_what_keys_and_mouse_ask_and_survives_an_error(browser, lab, tmp_path):
    kernel = {"name": "python3", "display_name": "Python 3"}
    cells = [nbformat.v4.new_code_cell(SCENE)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), lab.folder / "scene.ipynb")
    with ran(browser, lab, "scene", tmp_path) as notebook:
        (widget,) = notebook.widgets()
        there_and_back(widget, widget.sliders()[:2])
        (along, height, side), (big,) = widget.sliders(), widget.toggles()
        assert widget.words() == "a small dot on the left at 20, 5 high"

        at_six = widget.press(height, "ArrowRight")
        assert differ(widget.still, at_six)
        assert widget.words() == "a small dot on the left at 20, 6 high"

        widget.type(height, "ArrowRight")
        widget.wait_for_words("ValueError: seven is <too> high")
        assert not differ(at_six, widget.picture()), "an error must leave the last good picture"

        at_eight = widget.press(height, "ArrowRight")
        assert differ(at_six, at_eight)
        assert widget.words() == "a small dot on the left at 20, 8 high"

        on_the_right = widget.press(side, "End")
        assert differ(at_eight, on_the_right)
        assert widget.words() == "a small dot on the right at 20, 8 high"

        grown = widget.press(big, "Space")
        assert differ(on_the_right, grown)
        assert widget.words() == "a big dot on the right at 20, 8 high"

        (name,) = widget.lines()
        renamed = widget.press(name, "End", "t", "y")
        assert differ(grown, renamed)
        assert widget.words() == "a big dotty on the right at 20, 8 high"
        assert not differ(grown, widget.press(name, "Backspace", "Backspace"))

        assert drag(widget, MANY_MOVES) < MANY_MOVES, "moves that were overtaken must be dropped"
        away = int(along.value())
        assert widget.words() == f"a big dot on the right at {away}, 8 high"

        widget.press(big, "Space")
        widget.press(side, "Home")
        widget.press(height, *["ArrowLeft"] * 3)
        back = widget.press(along, *["ArrowLeft"] * (away - 20))
        assert widget.words() == "a small dot on the left at 20, 5 high"
        assert not differ(widget.still, back)

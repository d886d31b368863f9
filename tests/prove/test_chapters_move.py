"""Every section runs alone; its pictures with sliders can be moved everywhere, whatever its names mean by then."""

import itertools

import numpy as np
import pytest

from lbdl.figures import LOGICAL_DPI
from lbdl.widgets import Canvas, Explorer, with_names_of_now
from tests.reading import own_names
from tests.running import SCRIPTS, kernel_of, sections, shown

EVERY_SECTION = pytest.mark.parametrize(
    ("script", "section"),
    [
        pytest.param(script, section, id=f"{script.stem}-{section}")
        for script in SCRIPTS
        for section in sections(script)
    ],
)
pytestmark = pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")


def canvas_of(explorer: Explorer) -> Canvas:
    return Canvas(explorer.scene, explorer.size, LOGICAL_DPI, explorer.start)


def pixels(canvas: Canvas, values: dict) -> np.ndarray:
    return np.asarray(canvas.draw(values), dtype=np.int16)


def ends(explorer: Explorer) -> list[dict]:
    """The first two controls in all corners of their ranges."""
    names = list(explorer.controls)[:2]
    values = [(explorer.controls[name].samples[0], explorer.controls[name].samples[-1]) for name in names]
    return [explorer.start | dict(zip(names, corner, strict=True)) for corner in itertools.product(*values)]


@EVERY_SECTION
def test_a_section_runs_alone(script, section, capsys):
    names, _ = shown(script, section)
    assert len(names) > 10
    assert not capsys.readouterr().err


@EVERY_SECTION
def test_every_control_moves_the_picture(script, section):
    names, explorers = shown(script, section)
    with kernel_of(names):
        for explorer in explorers:
            canvas = canvas_of(explorer)
            at_rest = pixels(canvas, explorer.start)
            for name, control in explorer.controls.items():
                moved = [pixels(canvas, explorer.start | {name: value}) for value in control.samples]
                assert any((picture != at_rest).any() for picture in moved), f"{name} moves nothing"
            assert (pixels(canvas, explorer.start) == at_rest).all(), "moved back, it is not the same picture"


@EVERY_SECTION
def test_moving_gives_the_picture_that_drawing_anew_gives(script, section):
    """Drawn the quick way, over a kept background, against a fresh figure: nothing stale is left."""
    names, explorers = shown(script, section)
    with kernel_of(names):
        for explorer in explorers:
            canvas = canvas_of(explorer)
            for values in ends(explorer):
                assert (pixels(canvas, values) == pixels(canvas_of(explorer), values)).all(), values
                assert len(canvas.words.split()) >= 4


@EVERY_SECTION
def test_pictures_do_not_depend_on_names_that_other_sections_use(script, section):
    """A notebook has one set of names, and sections give the same names to different things: spoil them all."""
    names, explorers = shown(script, section)
    with kernel_of(names):
        before = [[pixels(canvas_of(explorer), values) for values in ends(explorer)[:2]] for explorer in explorers]
        kept = {name: names[name] for name in own_names(script, section) if name in names}
        names.update(dict.fromkeys(kept))
        try:
            after = [[pixels(canvas_of(explorer), values) for values in ends(explorer)[:2]] for explorer in explorers]
        finally:
            names.update(kept)
    for early, late in zip(before, after, strict=True):
        assert all((left == right).all() for left, right in zip(early, late, strict=True))


def test_spoiling_reaches_what_looks_a_name_up_late():
    """A scene and the functions that it calls keep their names; a helper that hides deeper would be found."""
    names: dict = {}
    exec(
        "height = 1\nlisted = [lambda: height]\nnamed = {'a': lambda: height}\nhidden = [[lambda: height]]\n"
        "def seen(also=listed[0]): return height, also()\n"
        "def scene(fig): return lambda k: f'{seen()}, {listed[0]()}, {named[\"a\"]()} and {hidden[0][0]()}'",
        names,
    )
    update = with_names_of_now(names["scene"])(None)
    names["height"] = None
    assert update(0) == "(1, 1), 1, 1 and None"

"""Every section runs alone; its pictures with sliders can be moved everywhere, also after all other sections ran."""

import itertools

import numpy as np
import pytest

from lbdl.figures import LOGICAL_DPI
from lbdl.widgets import Canvas, Explorer
from tests.running import SCRIPTS, kernel_of, sections, shown

EVERY_SECTION = pytest.mark.parametrize(
    ("script", "section"),
    [
        pytest.param(script, section, id=f"{script.stem}-{section}")
        for script in SCRIPTS
        for section in sections(script)
    ],
)
EVERY_CHAPTER = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
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


@EVERY_CHAPTER
def test_pictures_do_not_change_when_other_sections_run(script):
    """A notebook has one set of names, and sections give the same names to different things."""
    all_names, together = shown(script, None)
    separate = [(section, explorer) for section in sections(script) for explorer in shown(script, section)[1]]
    assert len(together) == len(separate) > 0
    with kernel_of(all_names):
        for late, (section, early) in zip(together, separate, strict=True):
            for values in ends(early)[:2]:
                assert (pixels(canvas_of(late), values) == pixels(canvas_of(early), values)).all(), section

"""The comparison behind `make test` sees what a careful person would see and nothing else, and nbval really uses it."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from PIL import Image

from lbdl.chapters import Cell
from lbdl.show import measured
from tests import running
from tests.compare import ABSOLUTE, RELATIVE, UNSTABLE, differences, picture_difference, same_text
from tests.publish import stored

ROOT = Path(__file__).parents[1]

# Texts.


@pytest.mark.parametrize(
    "before, now",
    [
        ("accuracy 0.9876", "accuracy 0.9877"),
        ("1.000", "1.001"),
        ("tensor([0.1000, 0.2000])", "tensor([0.1000, 0.2001])"),
        ("1.0e-07", "2.0e-07"),
        ("-0.0", "0.0"),
        ("loss nan", "loss nan"),
        ("[-inf, 0.5]", "[-inf, 0.5]"),
        ("a minus −1.0", "a minus −1.0004"),
        ("two lines\nof text", "two lines\nof text\n"),
    ],
)
def test_texts_agree(before, now):
    assert same_text(before, now) and same_text(now, before)


@pytest.mark.parametrize(
    "before, now",
    [
        ("3 epochs", "4 epochs"),
        ("step 100000", "step 100001"),
        ("torch.Size([2, 3])", "torch.Size([3, 2])"),
        ("-3", "3"),
        ("1,234", "1,235"),
        ("0x10", "0x11"),
        ("v1.2.3", "v1.2.4"),
        ("0.5", "-0.5"),
        ("1.000", "1.002"),
        ("0.00001", "0.00002"),
        ("0.5", "nan"),
        ("inf", "nan"),
        ("inf", "-inf"),
        ("1e300", "inf"),
        ("loss 0.5", "loss 0.6"),
        ("loss 0.5", "error 0.5"),
        ("loss 0.5", "loss  0.5"),
        ("a\nb", "b\na"),
        ("[0.1, 0.2]", "[0.2, 0.1]"),
        ("0.1 0.2 0.3 0.4", "0.1 0.2 0.35 0.4"),
        ("", "something"),
    ],
)
def test_texts_differ(before, now):
    assert not same_text(before, now) and not same_text(now, before)


@pytest.mark.parametrize("value", [1.0, -250.0, 12345.678])
def test_decimals_may_differ_by_the_relative_tolerance_and_no_more(value):
    assert same_text(f"{value:.9f}", f"{value * (1 + 0.9 * RELATIVE):.9f}")
    assert not same_text(f"{value:.9f}", f"{value * (1 + 1.1 * RELATIVE):.9f}")


def test_near_zero_decimals_may_differ_by_the_absolute_tolerance_and_no_more():
    assert same_text("0.0", f"{0.9 * ABSOLUTE:.9f}")
    assert not same_text("0.0", f"{1.1 * ABSOLUTE:.9f}")


def test_what_is_measured_is_not_compared_and_what_is_around_it_is():
    def line(text, value):
        return f"{text}: {measured(value)} in all"

    assert same_text(line("time", "3 ms"), line("time", "about 1,000 hours <"))
    assert not same_text(line("time", "3 ms"), line("memory", "3 ms"))
    assert not same_text(f"{measured('1')} and {measured('2')}", measured("1 and 2"))
    assert not same_text(f"{measured('1')} one {measured('2')}", f"{measured('1')} two {measured('2')}")


def test_where_any_number_may_differ_the_words_may_not():
    assert same_text("3.1 ms on 2 cores", "99 ms on 64 cores", numbers="any")
    assert not same_text("3.1 ms on 2 cores", "3.1 s on 2 cores", numbers="any")


# Pictures.


def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()


def line_figure(shift=0, curve=True, size=(200, 400)):
    """White paper with a frame, and a curve that can be shifted or left out."""
    pixels = np.full((*size, 3), 255)
    pixels[-20:-18, 20:] = pixels[:-20, 20:22] = 136
    if curve:
        for x in range(40, size[1] - 20):
            y = int(size[0] / 2 + 50 * np.sin(x / 40)) + shift
            pixels[y : y + 4, x] = (0, 119, 187)
    return pixels


def heat_map(factor=1.0):
    values = np.random.default_rng(0).random((20, 40))
    return np.kron(255 * factor * values, np.ones((10, 10)))[..., None].repeat(3, -1)


def a_little_otherwise(pixels):
    """In the last digits, and in 40 of 80,000 pixels."""
    now = np.clip(pixels + np.random.default_rng(1).integers(-1, 2, pixels.shape), 0, 255)
    now[100, :40] = 0
    return now


def with_a_stripe(pixels):
    now = pixels.copy()
    now[:2, :100] = 255 - now[:2, :100]  # 200 of 80,000 pixels
    return now


LINE, MAP, GONE, BLACK = line_figure(), heat_map(), line_figure(curve=False), np.zeros((200, 400, 3))
WHITE, WIDER = BLACK + 255, line_figure(size=(200, 408))
CHANGED, COVERED = r"of the pixels changed \(allowed 0\.10%\)", "the drawing covered"
SIZES = "^the picture was 400 x 200 pixels, now 408 x 200$"


@pytest.mark.parametrize(
    "before, now, exact, trained",  # what is said of figures held so; "" for nothing
    [
        (LINE, LINE, "", ""),
        (LINE, a_little_otherwise(LINE), "", ""),
        (MAP, a_little_otherwise(MAP), "", ""),
        (MAP, with_a_stripe(MAP), CHANGED, ""),
        (MAP, heat_map(0.87), "the pixels changed by", ""),
        (LINE, line_figure(2), CHANGED, ""),  # a trained curve may be elsewhere
        (LINE, line_figure(40), CHANGED, ""),
        (LINE, GONE, CHANGED, COVERED),
        (GONE, LINE, CHANGED, COVERED),
        (LINE, WHITE, CHANGED, COVERED),
        (WHITE, LINE, CHANGED, COVERED),
        (LINE, BLACK, CHANGED, COVERED),
        (MAP, heat_map(0.4), CHANGED, COVERED),
        (MAP, BLACK, CHANGED, COVERED),
        (LINE, WIDER, SIZES, SIZES),
    ],
)
def test_pictures_are_held_as_tightly_as_they_say(before, now, exact, trained):
    for held, words in (("exact", exact), ("trained", trained), ("measured", "")):
        problem = picture_difference(encoded(before), encoded(now), held)
        assert re.search(words, problem) if words else problem is None, held


@pytest.mark.parametrize("how", ["empty", "no base64", "no picture", "cut short", "flipped"])
@pytest.mark.parametrize("held", ["exact", "trained"])
def test_a_picture_that_cannot_be_read_is_a_difference_and_no_crash(how, held):
    whole = base64.b64decode(encoded(LINE))
    flipped = whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]
    content = {"empty": b"", "no picture": b"like a picture", "cut short": whole[: len(whole) // 2], "flipped": flipped}
    damaged = "$$$ a" if how == "no base64" else base64.b64encode(content[how]).decode()
    assert "a picture cannot be read" in picture_difference(encoded(LINE), damaged, held)
    assert "a picture cannot be read" in picture_difference(damaged, encoded(LINE), held)


def test_an_unknown_way_to_hold_is_an_error_and_does_not_pass():
    with pytest.raises(ValueError, match="expected held to be one of exact, trained, measured, got 'loosely'"):
        picture_difference(encoded(LINE), encoded(GONE), "loosely")


# Outputs of a cell.


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def display(held=None, **forms):
    """A display; the forms are named by the part of their MIME type after the slash."""
    types = {"plain": "text/plain", "html": "text/html", "png": "image/png", "live": UNSTABLE[0]}
    data = {types[name]: content for name, content in forms.items()}
    return {"output_type": "display_data", "data": data, "metadata": {"lbdl": {"held": held}} if held else {}}


def result(text, count=1):
    return {"output_type": "execute_result", "data": {"text/plain": text}, "metadata": {}, "execution_count": count}


def error(name, value, traceback=()):
    return {"output_type": "error", "ename": name, "evalue": value, "traceback": list(traceback)}


PICTURE, OTHER_PICTURE, BLANK_PICTURE = encoded(LINE), encoded(line_figure(40)), encoded(GONE)


@pytest.mark.parametrize(
    "before, now",
    [
        ([], []),
        ([stream("a 1.0\n")], [stream("a 1.0001\n")]),
        ([stream("a\n"), stream("b\n")], [stream("a\nb\n")]),
        ([stream("a\n"), display(plain="x")], [display(plain="x"), stream("a\n")]),
        ([result("7", 3)], [result("7", 4)]),
        ([display(plain="x", live="model 1")], [display(plain="x", live="model 2")]),
        ([display(plain="x")], [display(plain="x", live="model 2")]),
        ([display(live="model 1")], []),
        ([error("ValueError", "bad", ["line 1"])], [error("ValueError", "bad", ["line 2"])]),
        ([display(plain="x", png=PICTURE)], [display(plain="x", png=PICTURE)]),
        ([display("measured", plain="3 ms", png=PICTURE)], [display("measured", plain="9 ms", png=OTHER_PICTURE)]),
        ([display(html=measured(1))], [display(html=measured(2))]),
    ],
)
def test_outputs_agree(before, now):
    assert differences(before, now) == []


@pytest.mark.parametrize(
    "before, now, words",
    [
        ([stream("hello\n")], [stream("hullo\n")], "stored: hello\n  now:    hullo"),
        ([result("42")], [result("43")], "stored: 42\n  now:    43"),
        ([stream("hello\n")], [], r"the outputs were ['stdout'], now they are none"),
        ([], [stream("hello\n")], "the outputs were none, now they are ['stdout']:\n  stdout: hello"),
        ([], [stream("a warning\n", "stderr")], "now they are ['stderr']:\n  stderr: a warning"),
        ([stream("a\n", "stderr")], [stream("b\n", "stderr")], "stored: a\n  now:    b"),
        ([stream("a\n")], [stream("a\n", "stderr")], "the outputs were ['stdout'], now they are ['stderr']"),
        ([display(plain="a"), display(plain="b")], [display(plain="b"), display(plain="a")], "stored: a\n  now:    b"),
        ([display(plain="a")], [display(plain="a"), display(plain="b")], "now they are ['display', 'display']"),
        ([display(plain="a", html="a")], [display(plain="a")], "had ['text/html', 'text/plain'] (exact), now"),
        ([display(plain="a", html="a")], [display(plain="a", html="b")], "display text/html"),
        ([display(plain="x", png=PICTURE)], [display(plain="x", png=OTHER_PICTURE)], "of the pixels changed"),
        ([display(plain="x", png=PICTURE)], [display(plain="y", png=PICTURE)], "stored: x\n  now:    y"),
        ([display("exact", png=PICTURE)], [display("measured", png=OTHER_PICTURE)], "(exact), now ['image/png'] (mea"),
        ([display("trained", png=PICTURE)], [display("trained", png=BLANK_PICTURE)], "the drawing covered"),
        ([display("trained", plain="a 3", png=PICTURE)], [display("trained", plain="b 3", png=PICTURE)], "now:    b 3"),
        ([display("measured", plain="3 ms")], [display("measured", plain="3 s")], "stored: 3 ms\n  now:    3 s"),
        ([error("ValueError", "bad")], [error("TypeError", "bad")], "stored: ValueError\n  now:    TypeError"),
        ([error("ValueError", "bad")], [error("ValueError", "worse")], "stored: bad\n  now:    worse"),
        ([error("ValueError", "bad")], [], "the outputs were ['error'], now they are none"),
        ([stream("a")], [error("ValueError", "bad")], "now they are ['error']:\n  error: ValueError"),
    ],
)
def test_outputs_differ_and_the_message_shows_both_sides(before, now, words):
    assert words in "\n".join(differences(before, now)).replace("\n\n", "\n")


def test_every_difference_is_told():
    before, now = [stream("a"), display(plain="b"), result("c")], [stream("A"), display(plain="B"), result("c")]
    assert len(differences(before, now)) == 2


def test_long_texts_are_clipped_in_messages():
    (message,) = differences([stream("a" * 10_000)], [stream("b" * 10_000)])
    assert len(message) < 1500 and " …" in message


def test_what_is_live_is_not_stored():
    assert stored(display(plain="x", live="model")) == display(plain="x")
    assert stored(display(live="model")) is None
    assert stored({"output_type": "display_data", "data": {}, "metadata": {}}) is None
    assert stored(stream("a")) == stream("a")


# In a real run: nbval, with the project's own plugin and options, on a notebook that is damaged cell by cell.

CELLS = {
    "set-up": "import sys\n\nimport matplotlib.pyplot as plt\nfrom lbdl import explore, figure, note, slider",
    "integer": "6 * 7",
    "decimal": "0.1 + 0.2",
    "rounded": "0.1 + 0.7",
    "text": "print('hello')",
    "note": "note('time of a step', '3 ms')",
    "figure": "plt.plot([0, 1, 0])\nfigure('1.1', 'A caption.', 'A line from 0 to 1 and back.')",
    "figure in words": "plt.plot([0, 1, 2])\nfigure('1.2', 'A caption.', f'A line to {2}.')",
    "widget": """
def scene(fig):
    (line,) = fig.subplots().plot([0, 1])

    def update(a):
        line.set_ydata([0, a])
        return 'a line'

    return update


explore(scene, '1.3', 'A caption.', a=slider(0, 2, 1))""".strip(),
    "missing output": "print('kept')",
    "new warning": "print('a warning', file=sys.stderr)",
    "never run": "print('not stored')",
    "network": "import socket\n\nsocket.create_connection(('192.0.2.1', 80), timeout=2)",
}


REFUSED = "the network is blocked in tests: something tried to reach '192.0.2.1'"


def damaged_outputs():
    """The outputs that are stored, by name: those of a run, but for some that a run does not give."""
    names = {}
    cells = {name: Cell("code", [], source, 1) for name, source in CELLS.items() if name != "network"}
    given = {name: running.outputs_of(cell, Path(__file__), names) for name, cell in cells.items()}
    given["network"] = [error("PermissionError", REFUSED)]
    given["integer"] = [result("43")]
    given["decimal"] = [result("0.31")]
    given["rounded"] = [result("0.80001")]
    given["text"] = [stream("hullo\n")]
    given["note"][0]["data"]["text/html"] = f"time of a step: {measured('99 hours')}"
    given["figure"][0]["data"]["image/png"] = given["figure in words"][0]["data"]["image/png"]
    given["figure in words"][0]["data"]["text/plain"] = "A line to 3."
    return given | {"missing output": [], "new warning": [], "never run": []}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What pytest says of the cells: name -> message or None."""
    folder = tmp_path_factory.mktemp("notebooks")
    notebook = nbformat.v4.new_notebook()
    for name, outputs in damaged_outputs().items():
        cell = nbformat.v4.new_code_cell(CELLS[name], execution_count=None if name == "never run" else 1)
        cell.outputs = nbformat.from_dict(list(map(stored, outputs)))
        cell.metadata.tags = ["raises-exception"] if name == "network" else []
        notebook.cells.append(cell)
    nbformat.write(notebook, folder / "damaged.ipynb")
    report = folder / "report.xml"
    options = ["-n", "0", "-p", "tests.nbval_compare", "-p", "no:cacheprovider", "--color=no", f"--junitxml={report}"]
    where = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder / "damaged.ipynb")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *where], cwd=ROOT, timeout=120, capture_output=True, text=True
    )
    assert run.returncode == 1, run.stdout + run.stderr  # some cells failed, and nothing else went wrong
    messages = [case.findtext("failure") for case in ElementTree.parse(report).iter("testcase")]
    return dict(zip(CELLS, messages, strict=True))


def test_exactly_the_damaged_cells_fail_and_kernels_under_test_cannot_reach_the_network(verdicts):
    not_damaged, within_tolerance = {"set-up", "widget", "network"}, {"rounded", "note"}
    failed = {name for name, message in verdicts.items() if message}
    assert failed == CELLS.keys() - not_damaged - within_tolerance


@pytest.mark.parametrize(
    "cell, was, now",
    [
        ("integer", "stored: 43", "now:    42"),
        ("decimal", "stored: 0.31", "now:    0.30000000000000004"),
        ("text", "stored: hullo", "now:    hello"),
        ("figure", "of the pixels changed", "(allowed 0.10%)"),
        ("figure in words", "stored: A line to 3.", "now:    A line to 2."),
        ("missing output", "the outputs were none", "now they are ['stdout']:\n  stdout: kept"),
        ("new warning", "the outputs were none", "now they are ['stderr']:\n  stderr: a warning"),
        ("never run", "the outputs were none", "now they are ['stdout']:\n  stdout: not stored"),
    ],
)
def test_the_message_of_a_failing_cell_shows_both_sides(verdicts, cell, was, now):
    message = verdicts[cell]
    assert "Cell outputs differ" in message
    assert was in message and now in message

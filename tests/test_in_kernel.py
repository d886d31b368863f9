"""The questions that kernels answer find what they are there to find: dead controls, stale pictures, lost names."""

import json

import pytest

from lbdl import check, choice, explore, slider, widgets
from lbdl.widgets import Explorer
from tests import in_kernel

CONTROLS = {"height": slider(0.0, 1.0, 0.5), "side": choice(["left", "right"])}


def scene_of(draw):
    """A scene with one dot, and `draw(dot, height, side)`, which moves it and returns the words."""

    def scene(fig):
        ax = fig.subplots()
        ax.set(xlim=(0, 2), ylim=(0, 1))
        (dot,) = ax.plot([], [], "o", ms=12)
        return lambda height, side: draw(dot, height, side)

    return scene


def place(dot, height, side):
    dot.set_data([0.5 if side == "left" else 1.5], [height])
    return f"a dot on the {side} at {height:g}"


def dead(dot, height, side):
    return place(dot, height, "left") + f" instead of {side}"


def remembering(dot, height, side):
    dot.set_markersize(dot.get_markersize() + 1)
    return place(dot, height, side)


def failing(dot, height, side):
    return place(dot, 1 / height, side)


def taciturn(dot, height, side):
    return place(dot, height, side)[:5]


@pytest.mark.parametrize(
    "draw, problems",
    [
        (place, []),
        (dead, ["side moves nothing"]),
        (failing, ["ZeroDivisionError: float division by zero"]),
        (taciturn, ["at {'height': 0.0, 'side': 'left'} it says too little: a dot"] * 2),
    ],
)
def test_what_is_wrong_with_a_widget_is_told(draw, problems):
    found = in_kernel.widget(Explorer(scene_of(draw), (3, 2), CONTROLS))
    assert [problem.replace("1.0, 'side': 'right'", "0.0, 'side': 'left'") for problem in found] == problems


def test_a_picture_that_depends_on_what_was_shown_before_is_told():
    found = in_kernel.widget(Explorer(scene_of(remembering), (3, 2), CONTROLS))
    assert any("it is not the picture that is drawn anew there" in problem for problem in found)
    assert "moved back, it is not the same picture" in found


def test_what_comes_to_lie_on_top_is_drawn_on_top():
    def scene(fig):
        ax = fig.subplots()
        bands = [ax.plot([0, 1], [0, 1], lw=9, color=shade)[0] for shade in ("red", "blue")]

        def update(top, tilt):
            for number, band in enumerate(bands):
                band.set(zorder=3 if number == top else 2, ydata=[0.1 * number, tilt])
            return f"band {top} lies on top of the other"

        return update

    assert in_kernel.widget(Explorer(scene, (3, 2), {"top": slider(0, 1, 0), "tilt": slider(0.5, 1.0, 1.0)})) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_warning_is_a_problem():
    def warning(dot, height, side):
        dot.axes.legend()  # without labels
        return place(dot, height, side)

    assert in_kernel.widget(Explorer(scene_of(warning), (3, 2), CONTROLS))[0].startswith("UserWarning: No artists")


def test_a_section_is_asked_about_its_own_widgets_only(monkeypatch, displayed):
    monkeypatch.setattr(widgets, "shown", [])
    monkeypatch.setattr(in_kernel, "moved", 0)
    explore(scene_of(dead), "1.1a", "caption", (3, 2), **CONTROLS)
    assert in_kernel.widgets_of_section({}) == ["figure 1.1a: side moves nothing"]
    explore(scene_of(place), "1.2a", "caption", (3, 2), **CONTROLS)
    assert in_kernel.widgets_of_section({}) == []


LATE = """
def hidden(height):
    return height * factor

class Late:
    def __call__(self, height):
        return hidden(height)

late, factor = Late(), 0.5

def scene(fig):
    (dot,) = fig.subplots().plot([0], [0], "o")
    def update(height):
        dot.set_ydata([late(height)])
        return f"a dot that is at {height}"
    return update
"""


def test_a_name_that_is_looked_up_late_is_found_when_it_is_spoiled(monkeypatch, displayed):
    monkeypatch.setattr(widgets, "shown", [])
    names: dict = {}
    exec(LATE, names)
    explore(names["scene"], "1.1a", "caption", (3, 2), height=slider(0.0, 1.0, 0.5))
    assert in_kernel.spoiled_names(names, ["scene", "unknown"]) == []
    (problem,) = in_kernel.spoiled_names(names, ["hidden"])
    assert problem.startswith("figure 1.1a: other names make another picture of it, TypeError")


def double(a):
    return 2 * a


def square(a):
    return a * a


@pytest.mark.parametrize(
    "solution, answers, problems",
    [
        (double, [square], []),
        (square, [square], ["the solution of double is called not yet"]),
        (double, [], ["tests/wrong_answers/ch01.py has none for double"]),
        (double, [square, double], ["a wrong answer to double is called right"]),
    ],
)
def test_exercises_are_judged(monkeypatch, capsys, solution, answers, problems):
    monkeypatch.setattr(in_kernel, "answers_to", lambda chapter, name: answers)
    check(double, ("twice 3 is 6", lambda f: (f(3), 6)))
    found = in_kernel.wrong_answers({"double": solution}, "01", "double")
    assert [problem.partition(":")[0] for problem in found] == problems


def test_a_question_to_a_kernel_is_code_whose_value_is_json(monkeypatch):
    class Shell:
        user_ns = {"scene": 1}  # noqa: RUF012

    monkeypatch.setattr("IPython.get_ipython", Shell)
    monkeypatch.setattr(widgets, "shown", [])
    assert json.loads(eval(in_kernel.ask("names", ["scene"]))) == []
    assert Shell.user_ns == {"scene": None}

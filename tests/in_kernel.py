"""What the tests ask where a section has just run: a notebook's kernel, or a process that ran it alone.

Each question returns a list of problems in words, empty when all is well. A kernel is asked through `ask`.
"""

import importlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from lbdl import exercises, widgets
from lbdl.figures import LOGICAL_DPI
from lbdl.widgets import Canvas, Explorer

FEWEST_WORDS = 4  # of what a picture says of itself
moved = 0  # how many of widgets.shown were asked about


def ask(question: str, *arguments) -> str:
    """What a kernel is told to evaluate: a question of this module with its arguments; the answer is JSON."""
    return f"__import__('tests.in_kernel', fromlist=['']).answer({question!r}, {json.dumps(arguments)!r})"


def answer(question: str, arguments: str) -> str:
    """Answer a question inside a kernel, where the names of the cells are IPython's."""
    from IPython import get_ipython

    questions = {"widgets": widgets_of_section, "wrong answers": wrong_answers, "names": spoiled_names}
    return json.dumps(questions[question](get_ipython().user_ns, *json.loads(arguments)))


# Widgets.


def widgets_of_section(_names: dict) -> list[str]:
    """What is wrong with the widgets that were shown since the last time."""
    global moved
    explorers, moved = widgets.shown[moved:], len(widgets.shown)
    return [f"figure {explorer.number}: {problem}" for explorer in explorers for problem in widget(explorer)]


def widget(explorer: Explorer) -> list[str]:
    """Move all controls of a widget to all their samples: each must be seen, and nothing stale may be left."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return _moved(explorer)
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]


def _moved(explorer: Explorer) -> list[str]:
    found, canvas = [], _canvas(explorer)
    at_rest = _pixels(canvas, explorer.start)
    for name, control in explorer.controls.items():
        pictures = (_pixels(canvas, explorer.start | {name: value}) for value in control.samples)
        if not any((picture != at_rest).any() for picture in pictures):
            found.append(f"{name} moves nothing")
    for end in (0, -1):
        values = {name: control.samples[end] for name, control in explorer.controls.items()}
        if (_pixels(canvas, values) != _pixels(_canvas(explorer), values)).any():
            found.append(f"moved to {values}, it is not the picture that is drawn anew there")
        if len(canvas.words.split()) < FEWEST_WORDS:
            found.append(f"at {values} it says too little: {canvas.words}")
    if (_pixels(canvas, explorer.start) != at_rest).any():
        found.append("moved back, it is not the same picture")
    return found


def _canvas(explorer: Explorer) -> Canvas:
    return Canvas(explorer.scene, explorer.size, LOGICAL_DPI, explorer.start)


def _pixels(canvas: Canvas, values: dict) -> np.ndarray:
    return np.asarray(canvas.draw(values), dtype=np.int16)


# Names.


def spoiled_names(names: dict, sections: Iterable[str]) -> list[str]:
    """Pictures keep the names of their scenes: give these names to nothing at all, and draw all widgets again.

    A notebook has one set of names, and sections give the same names to different things.
    """
    names.update(dict.fromkeys(set(sections) & set(names)))
    return [
        f"figure {explorer.number}: other names make another picture of it, {problem}"
        for explorer in widgets.shown
        if (problem := _still_differs(explorer))
    ]


def _still_differs(explorer: Explorer) -> str:
    try:
        return "" if explorer.still() == explorer.image else "with other pixels"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# Exercises.


def answers_to(chapter: str, name: str) -> list[Callable]:
    """The wrong answers to an exercise: name, name_2, … in tests/wrong_answers/chNN.py."""
    functions = inspect.getmembers(importlib.import_module(f"tests.wrong_answers.ch{chapter}"), inspect.isfunction)
    return [function for found, function in functions if re.fullmatch(rf"{name}(_\d+)?", found)]


def wrong_answers(names: dict, chapter: str, name: str) -> list[str]:
    """Right after a solution ran: it must be taken for right, and plausible wrong answers must be told."""
    found = []
    if (said := _judged(names[name], name)) != "right":
        found.append(f"the solution of {name} is called {said}")
    wrong = answers_to(chapter, name)
    if not wrong:
        found.append(f"tests/wrong_answers/ch{chapter}.py has none for {name}")
    for function in wrong:
        if (said := _judged(function, name)) != "not yet":
            found.append(f"a wrong answer to {name} is called {said}: {inspect.getsource(function)}")
    return found


def _judged(function: Callable, name: str) -> str:
    own, function.__name__ = function.__name__, name
    try:
        exercises.check(function)
    finally:
        function.__name__ = own
    return exercises.results[name]

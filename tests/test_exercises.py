"""Exercises answer at once, in plain words, whatever the reader's function does."""

import math

import pytest
import torch

from lbdl import check, exercises


@pytest.fixture(autouse=True)
def no_exercises_before(monkeypatch):
    monkeypatch.setattr(exercises, "cases_of", {})
    monkeypatch.setattr(exercises, "results", {})


def answer(capsys, function, *cases):
    """The outcome of a check, and the line that it shows."""
    check(function, *cases)
    (line,) = capsys.readouterr().out.splitlines()
    return exercises.results[function.__name__], line


def returning(value):
    """A reader's function that returns a value, whatever it is given."""

    def attempt(*_):
        return value

    return attempt


def expecting(expected):
    return ("the answer", lambda f: (f(), expected))


SQUARE_OF_3 = ("the square of 3 is 9", lambda f: (f(3.0), 9.0))
SQUARE_OF_2 = ("the square of -2 is 4", lambda f: (f(-2.0), 4.0))


def square_is_missing(x):
    raise NotImplementedError


def test_a_stub_is_not_attempted(capsys):
    outcome, line = answer(capsys, square_is_missing, SQUARE_OF_3)
    assert outcome == "not attempted"
    assert line == "○ square_is_missing: not attempted yet. Replace the line that raises, and run again."


def test_a_solution_is_right_and_a_wrong_answer_is_told_by_the_first_check_that_fails(capsys):
    def square(x):
        return x * x

    assert answer(capsys, square, SQUARE_OF_3, SQUARE_OF_2) == ("right", "✓ square: right.")

    def square(x):
        return 3 * x

    problem = "✗ square: not yet. the square of -2 is 4: expected 4, got -6"
    assert answer(capsys, square, SQUARE_OF_3, SQUARE_OF_2) == ("not yet", problem)

    def square(x):
        return 2 * x

    problem = "✗ square: not yet. the square of 3 is 9: expected 9, got 6"
    assert answer(capsys, square, SQUARE_OF_3, SQUARE_OF_2) == ("not yet", problem)


@pytest.mark.parametrize(
    "got, expected, told",
    [
        (torch.zeros(3, 1), torch.zeros(3), "expected the shape (3,), got (3, 1)"),
        (
            torch.zeros(10),
            torch.ones(10),
            "expected a tensor of shape (10,) that starts [1.0, 1.0, 1.0], got a tensor of",
        ),
        (torch.zeros(2), torch.tensor([1, 2]), "expected [1, 2], got [0.0, 0.0]"),
        (3.0, torch.tensor([3.0]), "expected a tensor, got 3"),
        (torch.zeros(3, device="meta"), torch.zeros(3), "expected a tensor on cpu, got one on meta"),
        (None, torch.zeros(3), "returned nothing (None): is a return missing?"),
        (None, 9.0, "returned nothing (None): is a return missing?"),
        (None, "text", "returned nothing (None): is a return missing?"),
        ("nine", 9.0, "expected a number, got 'nine'"),
        ([9.0], 9.0, "expected a number, got [9.0]"),
        (torch.tensor([9.0, 9.0]), 9.0, "expected a number, got [9.0, 9.0]"),
        (torch.tensor([1.0, 2.0]), 9, "expected 9, got [1.0, 2.0]"),
        (torch.tensor([1.0, 2.0]), (1, 2), "expected (1, 2), got [1.0, 2.0]"),
    ],
)
def test_what_is_wrong_is_told_and_never_raised(capsys, got, expected, told):
    outcome, line = answer(capsys, returning(got), expecting(expected))
    assert outcome == "not yet" and told in line


def test_an_error_in_the_answer_is_told_and_not_raised(capsys):
    def square(x):
        return x / 0

    outcome, line = answer(capsys, square, SQUARE_OF_3)
    assert outcome == "not yet"
    assert "the square of 3 is 9. It raised ZeroDivisionError: float division by zero" in line


def test_what_torch_has_not_implemented_is_an_error_of_the_answer_and_no_stub(capsys):
    def normalize():
        return torch.softmax(torch.arange(3), 0)  # torch raises NotImplementedError for whole numbers

    outcome, line = answer(capsys, normalize, expecting(torch.ones(3)))
    assert outcome == "not yet"
    assert "not implemented for" in line


@pytest.mark.parametrize(
    "got, expected",
    [
        (9.0005, 9.0),
        (9, 9.0),
        (torch.tensor(9.0), 9.0),
        (1e-5, 0.0),
        (math.inf, math.inf),
        (torch.tensor([1.00001, 2.0]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1, 2]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0])),
        (torch.tensor([1.0], requires_grad=True), torch.tensor([1.0])),
        (torch.tensor([-math.inf, 0.0]), torch.tensor([-math.inf, 0.0])),
        (torch.tensor([True, False]), torch.tensor([True, False])),
        ((2, 3), (2, 3)),
        ("relu", "relu"),
    ],
)
def test_what_is_right_up_to_rounding_is_right(capsys, got, expected):
    assert answer(capsys, returning(got), expecting(expected))[0] == "right"


@pytest.mark.parametrize(
    "got, expected",
    [
        (9.002, 9.0),
        (2e-4, 0.0),
        (math.nan, 9.0),
        (-math.inf, math.inf),
        (torch.tensor([1.0005, 2.0]), torch.tensor([1.0, 2.0])),
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([1.9]), torch.tensor([1])),
        (torch.tensor([100_001]), torch.tensor([100_000])),
        (torch.tensor([2]), torch.tensor([True])),
        (torch.tensor([True, True]), torch.tensor([True, False])),
        ((3, 2), (2, 3)),
        (8, 7),
    ],
)
def test_what_is_wrong_by_more_is_not(capsys, got, expected):
    assert answer(capsys, returning(got), expecting(expected))[0] == "not yet"


def test_a_case_may_be_a_yes_or_no(capsys):
    negative = ("the result is negative", lambda f: f() < 0)
    assert answer(capsys, returning(-1), negative)[0] == "right"
    assert answer(capsys, returning(1), negative) == ("not yet", "✗ attempt: not yet. the result is negative")
    assert answer(capsys, returning(torch.tensor(1.0)), negative)[0] == "not yet"


def test_the_solution_is_held_to_the_cases_given_last_for_its_name(capsys):
    check(returning(4.0), expecting(4.0))
    check(returning(9.0), expecting(9.0))
    capsys.readouterr()
    assert answer(capsys, returning(4.0))[0] == "not yet"
    assert answer(capsys, returning(9.0))[0] == "right"


def test_a_check_without_cases_now_or_before_is_refused():
    with pytest.raises(ValueError, match="check attempt: expected cases, and none were given now or before"):
        check(returning(1))


def test_the_answer_in_a_notebook_is_text_not_html(displayed):
    check(returning("<b>"), ("a < b", lambda f: (f(), "<i>")))
    ((forms, _),) = displayed
    assert "a < b: expected '<i>', got '<b>'" in forms["text/plain"]
    assert "a &lt; b: expected &#x27;&lt;i&gt;&#x27;" in forms["text/html"]

"""Exercises: a stub to complete, and an answer at once in plain words."""

import html
import math
from collections.abc import Callable

import torch

from lbdl.show import publish

Case = tuple[str, Callable[[Callable], object]]
cases_of: dict[str, tuple[Case, ...]] = {}  # function name -> cases, so that the solution is held to the same
results: dict[str, str] = {}  # function name -> "not attempted", "not yet" or "right"


def _short(value: object) -> str:
    if isinstance(value, torch.Tensor):
        if value.numel() > 6:
            return f"a tensor of shape {tuple(value.shape)} that starts {_short(value.flatten()[:3])}"
        return str([round(v, 4) if isinstance(v, float) else v for v in value.flatten().tolist()])
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _difference(got: object, expected: object) -> str | None:
    """What is wrong with `got`, in plain words; None when it is right."""
    if got is None:
        return "the function returned nothing (None): is a return missing?"
    if isinstance(expected, torch.Tensor):
        if not isinstance(got, torch.Tensor):
            return f"expected a tensor, got {_short(got)}"
        if got.shape != expected.shape:
            return f"expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}"
        if got.device != expected.device:
            return f"expected a tensor on {expected.device}, got one on {got.device}: is a .to(device) missing?"
        if expected.is_floating_point() or expected.is_complex():
            right = torch.allclose(got.to(expected.dtype), expected, rtol=1e-4, atol=1e-5)
        else:  # whole numbers and truth values are right or wrong
            right = bool((got == expected).all())
    elif isinstance(expected, float):
        try:
            right = math.isclose(float(got), expected, rel_tol=1e-4, abs_tol=1e-4)
        except (TypeError, ValueError, RuntimeError):
            return f"expected a number, got {_short(got)}"
    else:
        try:
            right = bool(got == expected)
        except (RuntimeError, ValueError):  # a tensor of several elements is neither true nor false
            right = False
    return None if right else f"expected {_short(expected)}, got {_short(got)}"


def _try(function: Callable, words: str, case: Callable[[Callable], object]) -> str | None:
    try:
        outcome = case(function)
    except Exception as error:  # whatever the reader's code raises is an answer to talk about
        if isinstance(error, NotImplementedError) and not error.args:
            raise  # the stub; PyTorch's own NotImplementedError says what is not implemented
        return f"{words}. It raised {type(error).__name__}: {error}"
    if isinstance(outcome, tuple):
        problem = _difference(*outcome)
        return None if problem is None else f"{words}: {problem}"
    return None if bool(outcome) else words


def check(function: Callable, *cases: Case) -> None:
    """Say whether an exercise is solved: not attempted, not yet (and what is expected), or right.

    >>> check(square, ("the square of 3 is 9", lambda f: (f(3.0), 9.0)))

    Args:
        function: the reader's function; a stub raises NotImplementedError.
        cases: pairs of a statement in plain words, and a test that takes the function and returns
            (what it gave, what is expected), or True or False. Left out, the cases given last for a function
            of this name are used: so a solution is held to the same cases as the stub.

    Raises:
        ValueError: no cases, now or before.
    """
    name = function.__name__
    cases_of[name] = cases = cases or cases_of.get(name, ())
    if not cases:
        raise ValueError(
            f"check {name}: expected cases, and none were given now or before: run the exercise's cell first"
        )
    try:
        problem = next((p for words, case in cases if (p := _try(function, words, case))), None)
    except NotImplementedError:
        results[name], text = (
            "not attempted",
            f"○ {name}: not attempted yet. Replace the line that raises, and run again.",
        )
    else:
        if problem is None:
            results[name], text = "right", f"✓ {name}: right."
        else:
            results[name], text = "not yet", f"✗ {name}: not yet. {problem}"
    publish(text, {"text/html": html.escape(text)})

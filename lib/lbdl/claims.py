"""Claims: statements that fail when they are false. Tests compare the statement, the reader also sees the number."""

import html
import math

import torch

from lbdl.show import measured as span
from lbdl.show import publish, table

made: dict[str, tuple[str, str]] = {}  # statement -> (bar, measured), in the order first claimed


class ClaimError(AssertionError):
    """A claim that turned out to be false."""


def _number(statement: str, value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"claim {statement!r}: expected a number or a tensor of one element, got {value!r}") from None


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest absolute difference; shapes must be the same, so that no broadcasting hides a mistake."""
    left = torch.as_tensor(left)
    if not isinstance(right, torch.Tensor):  # a plain number or list is on no device: take it to the other side
        right = torch.as_tensor(right, device=left.device)
    if left.shape != right.shape:
        raise ClaimError(f"the two sides have shapes {tuple(left.shape)} and {tuple(right.shape)}: expected the same")
    if left.numel() == 0:
        raise ClaimError("the two sides are empty: there is nothing to compare")
    if left.device != right.device:
        raise ClaimError(f"the two sides are on {left.device} and {right.device}: expected the same device")
    left, right = left.detach(), right.detach()
    if not any(side.is_floating_point() or side.is_complex() for side in (left, right)):
        left, right = left.long(), right.long()
    return torch.where(left == right, 0, left - right).abs().max().item()  # so that two infinities agree


def claim(
    statement: str,
    value: object,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    equals: object = None,
    within: float | None = None,
) -> None:
    """Check a statement about a measured value, and show it with the value.

    One of four forms:
        claim("test accuracy", accuracy, at_least=0.985)
        claim("test error", error, at_least=0.1, at_most=0.2)
        claim("layer equals torch's", by_hand, equals=by_torch, within=1e-6)    tensors, of one shape
        claim("the split is disjoint", condition)                               True or False

    The statement and its bar are compared by the regression tests; the value is shown beside them and is not.

    Args:
        statement: what is claimed, in plain words; short, unique in its chapter.
        value: a number, a tensor of one element, or for `equals` a tensor of any shape.
        at_least, at_most: the bars, inclusive.
        equals, within: what the value must equal, and the largest absolute difference allowed (default 0).

    Raises:
        ClaimError: the claim is false; not-a-number satisfies no bar.
        TypeError: a form that is none of the four.
    """
    if equals is not None:
        if at_least is not None or at_most is not None:
            raise TypeError(f"claim {statement!r}: equals= goes alone with within=")
        try:
            gap = _gap(value, equals)
        except ClaimError as error:
            raise ClaimError(f"{statement}: {error}") from None
        allowed = within or 0.0
        bar = f"both sides agree within {allowed:g}" if allowed else "both sides are the same"
        shown, holds = f"largest difference {gap:.1e}" if gap else "no difference", gap <= allowed
    elif within is not None:
        raise TypeError(f"claim {statement!r}: within= needs equals=")
    elif at_least is not None or at_most is not None:
        number = _number(statement, value)
        bars = [f"at least {at_least:g}"] if at_least is not None else []
        bars += [f"at most {at_most:g}"] if at_most is not None else []
        bar, shown = " and ".join(bars), f"{number:.4g}"
        low = -math.inf if at_least is None else at_least
        high = math.inf if at_most is None else at_most
        holds = low <= number <= high
    else:
        if isinstance(value, torch.Tensor) and value.dtype == torch.bool and value.numel() == 1:
            value = value.item()
        if not isinstance(value, bool):
            raise TypeError(
                f"claim {statement!r}: expected a bar (at_least, at_most, equals) or True or False, got {value!r}"
            )
        bar, shown, holds = "true", str(value).lower(), value
    if not holds:
        raise ClaimError(f"{statement}: expected {bar}, got {shown}")
    made[statement] = (bar, shown)
    text = f"✓ {statement}: {bar}"
    rich = f"✓ {html.escape(statement)}: <b>{html.escape(bar)}</b>, here"
    if bar == "true":
        publish(f"✓ {statement}", {"text/html": f"✓ {html.escape(statement)}"})
    else:
        publish(text, {"text/html": f"{rich} &nbsp; {span(shown)}"}, terminal=f"{text} ({shown})")


def claims_made() -> None:
    """Show the table of all claims made so far in this session, each with what was measured."""
    if not made:
        raise ValueError("no claim was made yet: run a section first")
    rows = [(statement, *bar_and_shown) for statement, bar_and_shown in made.items()]
    table(("claim", "bar", "measured here"), rows, varies=["measured here"])

"""Who checks the checkers? What chapters prove equalities with must see functions that are wrong on purpose.

A proof tool that is blind lets every claim of a chapter pass. So each is tried on functions whose difference is known:
in value only, in gradient only, in shape, above and below.
"""

import math

import pytest
import torch
from lbdl.chapters.ch04 import difference

X = torch.linspace(-1, 2, 7, dtype=torch.float64)
W = torch.linspace(0.5, 1.5, 7, dtype=torch.float64)


def product(x, w):
    return x * w


def steeper(by: float, of: int):
    """The same values, and a derivative that is `by` larger with respect to one of the two arguments."""

    def function(*tensors):
        wrong = tensors[of]
        return product(*tensors) + by * (wrong - wrong.detach())

    return function


def weights() -> torch.Tensor:
    """How `difference` weighs the outputs of seven numbers before it takes gradients."""
    return torch.rand(7, generator=torch.Generator().manual_seed(0)).double()


def test_equal_functions_have_no_difference():
    assert difference(product, lambda x, w: w * x, X, W) == 0


@pytest.mark.parametrize("off", [0.25, -0.25])
def test_a_difference_in_value_is_seen_on_either_side(off):
    assert difference(product, lambda x, w: x * w + off, X, W) == pytest.approx(0.25)
    assert difference(lambda x, w: x * w + off, product, X, W) == pytest.approx(0.25)


def test_the_largest_of_all_differences_counts():
    at_one_place = torch.zeros(7).double().index_fill(0, torch.tensor([3]), -0.5)
    assert difference(product, lambda x, w: x * w + at_one_place, X, W) == pytest.approx(0.5)


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("by", [0.25, -0.25])
def test_a_difference_in_the_gradient_alone_is_seen_in_full(by, of):
    expected = 0.25 * weights().max().item()
    assert difference(product, steeper(by, of), X, W) == pytest.approx(expected)
    assert difference(steeper(by, of), product, X, W) == pytest.approx(expected)


def test_outputs_that_only_swap_their_gradients_differ():
    """Each output counts with a weight of its own: with the same for all, a gradient at the wrong place goes unseen."""

    def swapped(x, w):
        y = x * w
        return y.detach() + (y.flip(0) - y.flip(0).detach())

    ones = torch.ones(7, dtype=torch.float64)
    assert difference(product, swapped, ones, ones) > 0.1


def test_another_shape_is_an_error_even_where_broadcasting_would_hide_it():
    with pytest.raises(ValueError, match=r"expected outputs of one shape, got \[\(7,\), \(1, 7\)\]"):
        difference(product, lambda x, w: (x * w)[None], X, W)


def test_what_is_no_number_is_no_agreement():
    assert math.isnan(difference(product, lambda x, w: x * w * math.nan, X, W))

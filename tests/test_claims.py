"""Claims fail when they are false, and what the tests compare does not depend on what was measured."""

import math
import re

import pytest
import torch

from lbdl import ClaimError, claim, claims_made, note, table
from lbdl.claims import made
from lbdl.show import measured, publish
from tests.compare import same_text


@pytest.fixture(autouse=True)
def no_claims_before():
    made.clear()
    yield
    made.clear()


# True and false.


@pytest.mark.parametrize(
    "value, form",
    [
        (0.99, {"at_least": 0.985}),
        (torch.tensor(0.1), {"at_most": 0.2}),
        (0.15, {"at_least": 0.1, "at_most": 0.2}),
        (2, {"at_least": 2, "at_most": 2}),  # bars are inclusive
        (torch.ones(3), {"equals": torch.ones(3)}),
        (torch.zeros(3).double(), {"equals": torch.full((3,), 1e-6, dtype=torch.double), "within": 1e-6}),
        (torch.tensor([0.0, -math.inf]), {"equals": torch.tensor([0.0, -math.inf])}),
        (torch.ones(2, requires_grad=True), {"equals": [1.0, 1.0]}),
        (True, {}),
        (torch.tensor(True), {}),
    ],
)
def test_a_true_claim_passes(value, form):
    claim("true", value, **form)


ZEROS = torch.zeros(3)
NAN = torch.tensor([0.0, math.nan])
MASKED = torch.tensor([0.0, -math.inf])


@pytest.mark.parametrize(
    "value, form, words",
    [
        (0.98, {"at_least": 0.985}, r"expected at least 0\.985, got .*0\.98$"),
        (torch.tensor(0.3), {"at_most": 0.2}, r"expected at most 0\.2, got .*0\.3$"),
        (0.0, {"at_least": 0.1, "at_most": 0.2}, r"expected at least 0\.1 and at most 0\.2, got 0$"),
        (math.inf, {"at_least": 0.1, "at_most": 0.2}, "got inf$"),
        (-1, {"at_least": 0}, "expected at least 0, got -1"),  # a bar of zero is a bar
        (1, {"at_most": 0}, "expected at most 0, got 1"),
        (math.nan, {"at_least": -1e9}, "got nan"),
        (math.nan, {"at_most": 1e9}, "got nan"),
        (math.nan, {"at_least": -math.inf, "at_most": math.inf}, "got nan"),
        (ZEROS, {"equals": ZEROS + 0.5}, r"expected both sides are the same, got largest difference 5\.0e-01"),
        (ZEROS.double(), {"equals": ZEROS.double() + 1.1e-6, "within": 1e-6}, r"agree within 1e-06, got .* 1\.1e-06"),
        (torch.eye(40)[0], {"equals": torch.zeros(40), "within": 0.5}, r"largest difference 1\.0e\+00"),  # not the mean
        (NAN, {"equals": NAN, "within": 1e9}, ""),
        (torch.tensor([0.0, 1.0]), {"equals": NAN, "within": 1e9}, ""),
        (MASKED, {"equals": -MASKED, "within": 1e9}, "largest difference inf"),
        (MASKED, {"equals": torch.zeros(2), "within": 1e9}, "largest difference inf"),
        # Broadcasting hides mistakes, and an empty tensor is no evidence.
        (ZEROS, {"equals": torch.zeros(1, 3)}, r"the two sides have shapes \(3,\) and \(1, 3\): expected the same"),
        (ZEROS, {"equals": torch.zeros(1)}, r"shapes \(3,\) and \(1,\)"),
        (ZEROS, {"equals": 0.0}, r"shapes \(3,\) and \(\)"),
        (torch.zeros(0, 3), {"equals": torch.zeros(0, 3)}, "nothing to compare"),
        (ZEROS, {"equals": torch.zeros(3, device="meta")}, "on cpu and meta: expected the same device"),
        # Whole numbers and truth values are neither cut off nor wrapped around.
        (1, {"equals": 1.9}, r"largest difference 9\.0e-01"),
        (torch.tensor([1.9]), {"equals": torch.tensor([1])}, r"largest difference 9\.0e-01"),
        (torch.tensor([0]).byte(), {"equals": torch.tensor([255]).byte()}, r"largest difference 2\.6e\+02"),
        (torch.tensor([True, False]), {"equals": torch.tensor([True, True])}, r"largest difference 1\.0e\+00"),
        (False, {}, "expected true, got false"),
        (torch.tensor(False), {}, "expected true, got false"),
    ],
)
def test_a_false_claim_fails_and_is_not_remembered(value, form, words):
    with pytest.raises(ClaimError, match=f"^statement: .*{words}"):
        claim("statement", value, **form)
    assert not made


@pytest.mark.parametrize(
    "value, form, words",
    [
        (0.5, {}, "expected a bar"),
        (1, {}, "expected a bar"),
        (None, {}, "expected a bar"),
        (torch.tensor(1.0), {}, "expected a bar"),
        (torch.tensor([True, True]), {}, "expected a bar"),
        (0.5, {"within": 0.1, "at_least": 0}, "within= needs equals="),
        (0.5, {"within": 0.1}, "within= needs equals="),
        (0.5, {"equals": 0.5, "at_least": 0}, "equals= goes alone"),
        (0.5, {"equals": 0.5, "at_most": 0}, "equals= goes alone"),
        (torch.tensor([1.0, 2.0]), {"at_least": 0}, "one element"),
        ("high", {"at_least": 0}, "number"),
        (None, {"at_most": 0}, "number"),
    ],
)
def test_a_form_that_is_none_of_the_four_is_refused(value, form, words):
    with pytest.raises(TypeError, match=rf"claim 'wrong': .*{words}"):
        claim("wrong", value, **form)


# What is shown, and what of it is compared.


@pytest.mark.parametrize(
    "one, other, form",
    [
        (0.991, 0.987, {"at_least": 0.985}),
        (torch.zeros(2), torch.full((2,), 1e-7), {"equals": torch.zeros(2), "within": 1e-6}),
    ],
)
def test_of_a_claim_and_of_the_table_of_claims_the_statement_is_compared_and_the_value_is_not(
    displayed, one, other, form
):
    for value in (one, other):
        claim("statement", value, **form)
        claims_made()
    for (first, _), (second, _) in (displayed[::2], displayed[1::2]):
        assert first["text/plain"] == second["text/plain"]
        assert first["text/html"] != second["text/html"]
        assert same_text(first["text/html"], second["text/html"])


def test_a_claim_shows_statement_bar_and_value_and_another_bar_is_seen_by_the_comparison(displayed):
    claim("a < b", 0.98765, at_least=0.9)
    claim("a < b", 0.98765, at_least=0.8)
    claim("a < b", True)
    (first, _), (second, _), (third, _) = displayed
    assert first["text/plain"] == "✓ a < b: at least 0.9"
    assert re.search('a &lt; b.*<span class="lbdl-measured">[^<]*0.9877</span>', first["text/html"])
    assert first["text/plain"] != second["text/plain"] and not same_text(first["text/html"], second["text/html"])
    assert third == {"text/plain": "✓ a < b", "text/html": "✓ a &lt; b"}


def test_the_table_lists_every_claim_in_order_with_its_latest_value(displayed):
    claim("first", 1.0, at_least=0)
    claim("second", True)
    claim("first", 2.0, at_least=0)
    claims_made()
    forms, _ = displayed[-1]
    assert forms["text/plain"] == "first | at least 0\nsecond | true"
    assert re.findall('<span class="lbdl-measured">([^<]*)</span>', forms["text/html"]) == ["2", "true"]


def test_the_table_of_no_claims_is_refused():
    with pytest.raises(ValueError, match="no claim was made yet"):
        claims_made()


# lbdl.show: notes, tables, publishing as such.


def test_in_a_terminal_all_is_shown_in_plain_lines(capsys):
    claim("accuracy", 0.98765, at_least=0.9)
    claims_made()
    note("number of errors", 0)
    table(("model", "time"), [("a", "3 s"), ("b", "4 s")], varies=["time"])
    publish("text", {"text/html": "rich"})
    publish("text", terminal="other")
    publish("text", terminal="")
    assert capsys.readouterr().out.splitlines() == [
        "✓ accuracy: at least 0.9 (0.9877)",
        "accuracy | at least 0.9 | 0.9877",
        "number of errors: 0",
        "a | 3 s",
        "b | 4 s",
        "text",
        "other",
    ]


def test_in_a_notebook_the_forms_are_displayed_and_nothing_is_printed(displayed, capsys):
    publish("text", {"text/html": "rich"}, {"lbdl": {"held": "exact"}}, terminal="other")
    assert displayed == [({"text/plain": "text", "text/html": "rich"}, {"lbdl": {"held": "exact"}})]
    assert capsys.readouterr().out == ""


def test_the_value_of_a_note_is_shown_but_not_compared_and_without_one_it_is_compared_whole(displayed):
    note("time < 1 s", "3 ms")
    note("time < 1 s", "9 ms")
    note("a < b")
    (first, _), (second, _), whole = displayed
    assert first["text/plain"] == second["text/plain"] == "time < 1 s"
    assert first["text/html"] == 'time &lt; 1 s: <span class="lbdl-measured">3 ms</span>'
    assert same_text(first["text/html"], second["text/html"])
    assert whole == ({"text/plain": "a < b", "text/html": "a &lt; b"}, {})


def test_what_varies_in_a_table_is_shown_but_not_compared_and_the_rest_is(displayed):
    for time, weights in (("3 s", 7), ("9 s", 7), ("3 s", 8)):
        table(("model", "time < 9", "weights"), [("a < b", time, weights), ("c", "1 s", 8)], varies=["time < 9"])
    (first, _), (other_time, _), (other_weights, _) = displayed
    assert first["text/plain"] == other_time["text/plain"] == "a < b | 7\nc | 8" != other_weights["text/plain"]
    assert same_text(first["text/html"], other_time["text/html"])
    assert not same_text(first["text/html"], other_weights["text/html"])
    for words in ("time &lt; 9", "a &lt; b", '<span class="lbdl-measured">3 s</span>'):
        assert words in first["text/html"]


@pytest.mark.parametrize(
    ("rows", "varies", "words"),
    [
        ([], [], "expected rows of 2 values"),
        ([(1, 2), (3,)], [], r"expected rows of 2 values, got \[2, 1\]"),
        ([(1, 2)], ["c"], r"expected varies to be among \['a', 'b'\], got \['c'\]"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(rows, varies, words):
    with pytest.raises(ValueError, match=words):
        table(("a", "b"), rows, varies)


def test_what_is_measured_cannot_break_out_of_its_span():
    assert measured("</span><b>") == '<span class="lbdl-measured">&lt;/span&gt;&lt;b&gt;</span>'

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


# The four forms, true and false.


def test_a_value_above_its_lower_bar_passes_and_below_fails():
    claim("accuracy", 0.99, at_least=0.985)
    with pytest.raises(ClaimError, match=r"^accuracy: expected at least 0\.985, got .*0\.98$"):
        claim("accuracy", 0.98, at_least=0.985)


def test_a_value_below_its_upper_bar_passes_and_above_fails():
    claim("loss", torch.tensor(0.1), at_most=0.2)
    with pytest.raises(ClaimError, match=r"^loss: expected at most 0\.2, got .*0\.3$"):
        claim("loss", torch.tensor(0.3), at_most=0.2)


@pytest.mark.parametrize("value", [0.0, 0.3, -math.inf, math.inf])
def test_a_value_outside_two_bars_fails(value):
    claim("between", 0.15, at_least=0.1, at_most=0.2)
    with pytest.raises(ClaimError, match=r"expected at least 0\.1 and at most 0\.2"):
        claim("between", value, at_least=0.1, at_most=0.2)


def test_bars_are_inclusive():
    claim("bar", 2, at_least=2, at_most=2)


def test_a_bar_of_zero_is_a_bar():
    with pytest.raises(ClaimError, match=r"expected at least 0, got .*-1"):
        claim("positive", -1, at_least=0)
    with pytest.raises(ClaimError, match=r"expected at most 0, got .*1"):
        claim("negative", 1, at_most=0)


def test_equal_tensors_pass_and_different_ones_fail():
    a = torch.tensor([1.0, 2.0])
    claim("same", a, equals=a.clone())
    with pytest.raises(ClaimError, match=r"same: expected both sides are the same, got largest difference 5\.0e-01"):
        claim("same", a, equals=a + 0.5)


def test_tensors_are_equal_up_to_within():
    a = torch.zeros(3, dtype=torch.float64)
    claim("close", a, equals=a + 1e-6, within=1e-6)
    with pytest.raises(ClaimError, match=r"both sides agree within 1e-06, got largest difference 1\.1e-06"):
        claim("close", a, equals=a + 1.1e-6, within=1e-6)


def test_the_largest_difference_counts_not_the_mean():
    difference = torch.zeros(1000)
    difference[7] = -1.0
    with pytest.raises(ClaimError, match=r"largest difference 1\.0e\+00"):
        claim("one is off", difference, equals=torch.zeros(1000), within=0.5)


def test_true_passes_and_false_fails():
    claim("split is disjoint", True)
    claim("all positive", torch.tensor(True))
    with pytest.raises(ClaimError, match="split is disjoint: expected true, got false"):
        claim("split is disjoint", False)
    with pytest.raises(ClaimError, match="all positive: expected true, got false"):
        claim("all positive", torch.tensor(False))


# Numbers that are none, and tensors that cannot be compared.


@pytest.mark.parametrize("bars", [{"at_least": -1e9}, {"at_most": 1e9}, {"at_least": -math.inf, "at_most": math.inf}])
def test_not_a_number_satisfies_no_bar(bars):
    with pytest.raises(ClaimError, match=r"got .*nan"):
        claim("a number", math.nan, **bars)


def test_not_a_number_equals_nothing_not_even_itself():
    nan = torch.tensor([0.0, math.nan])
    with pytest.raises(ClaimError):
        claim("equal", nan, equals=nan, within=1e9)
    with pytest.raises(ClaimError):
        claim("equal", torch.tensor([0.0, 1.0]), equals=nan, within=1e9)


def test_infinities_equal_themselves_and_nothing_else():
    masked = torch.tensor([0.0, -math.inf])
    claim("masked scores", masked, equals=masked.clone())
    with pytest.raises(ClaimError, match="largest difference inf"):
        claim("masked scores", masked, equals=-masked, within=1e9)
    with pytest.raises(ClaimError, match="largest difference inf"):
        claim("masked scores", masked, equals=torch.zeros(2), within=1e9)


@pytest.mark.parametrize("other", [torch.zeros(1, 3), torch.zeros(1), torch.tensor(0.0), torch.zeros(3, 1), 0.0])
def test_shapes_must_be_the_same_because_broadcasting_hides_mistakes(other):
    with pytest.raises(ClaimError, match=r"zeros: the two sides have shapes \(3,\) and \(.*\): expected the same"):
        claim("zeros", torch.zeros(3), equals=other)


def test_empty_tensors_are_no_evidence():
    with pytest.raises(ClaimError, match="nothing to compare"):
        claim("empty", torch.zeros(0, 3), equals=torch.zeros(0, 3))


def test_devices_must_be_the_same():
    with pytest.raises(ClaimError, match="on cpu and meta: expected the same device"):
        claim("devices", torch.zeros(2), equals=torch.zeros(2, device="meta"))


@pytest.mark.parametrize("left, right", [(1, 1.9), (1.9, 1), (torch.tensor([1]), torch.tensor([1.9]))])
def test_a_whole_number_does_not_equal_a_decimal_that_begins_with_it(left, right):
    with pytest.raises(ClaimError, match=r"largest difference 9\.0e-01"):
        claim("same", left, equals=right)


def test_small_integers_and_booleans_do_not_wrap_around():
    with pytest.raises(ClaimError, match=r"largest difference 2\.6e\+02"):
        claim("bytes", torch.tensor([0], dtype=torch.uint8), equals=torch.tensor([255], dtype=torch.uint8))
    with pytest.raises(ClaimError, match=r"largest difference 1\.0e\+00"):
        claim("masks", torch.tensor([True, False]), equals=torch.tensor([True, True]))


def test_tensors_with_gradients_and_lists_of_numbers_can_be_compared():
    claim("with gradients", torch.ones(2, requires_grad=True), equals=[1.0, 1.0])


# Forms that are none of the four.


@pytest.mark.parametrize(
    "value, form, words",
    [
        (0.5, {}, "expected a bar"),
        (1, {}, "expected a bar"),
        ("yes", {}, "expected a bar"),
        (None, {}, "expected a bar"),
        (torch.tensor(1.0), {}, "expected a bar"),
        (0.5, {"within": 0.1}, "within= needs equals="),
        (0.5, {"within": 0.1, "at_least": 0}, "within= needs equals="),
        (0.5, {"equals": 0.5, "at_least": 0}, "equals= goes alone"),
        (0.5, {"equals": 0.5, "at_most": 0}, "equals= goes alone"),
        (torch.tensor([True, True]), {}, "expected a bar"),
        (torch.tensor([1.0, 2.0]), {"at_least": 0}, "one element"),
        ("high", {"at_least": 0}, "number"),
        (None, {"at_most": 0}, "number"),
    ],
)
def test_a_form_that_is_none_of_the_four_is_refused(value, form, words):
    with pytest.raises(TypeError, match=rf"claim 'wrong': .*{words}"):
        claim("wrong", value, **form)


def test_a_false_claim_is_not_remembered():
    with pytest.raises(ClaimError):
        claim("false", False)
    assert not made


# What is shown, and what of it is compared.


@pytest.mark.parametrize(
    "one, other, form",
    [
        (0.991, 0.987, {"at_least": 0.985}),
        (torch.zeros(2), torch.full((2,), 1e-7), {"equals": torch.zeros(2), "within": 1e-6}),
    ],
)
def test_two_measured_values_give_the_same_compared_output_and_both_are_shown(displayed, one, other, form):
    claim("statement", one, **form)
    claim("statement", other, **form)
    (first, _), (second, _) = displayed
    assert first["text/plain"] == second["text/plain"]
    assert first["text/html"] != second["text/html"]
    assert same_text(first["text/html"], second["text/html"])


def test_the_measured_value_is_shown_inside_the_measured_span(displayed):
    claim("test accuracy", 0.98765, at_least=0.9)
    (forms, _) = displayed[0]
    assert forms["text/plain"] == "✓ test accuracy: at least 0.9"
    assert re.search('<span class="lbdl-measured">[^<]*0.9877</span>', forms["text/html"])


def test_another_bar_is_seen_by_the_comparison(displayed):
    claim("accuracy", 0.99, at_least=0.9)
    claim("accuracy", 0.99, at_least=0.8)
    (first, _), (second, _) = displayed
    assert not same_text(first["text/html"], second["text/html"])
    assert first["text/plain"] != second["text/plain"]


def test_statements_are_text_not_html(displayed):
    claim("1 < 2 & <b>bold</b>", True)
    claim("x < y", 1, at_least=0)
    assert "1 &lt; 2 &amp; &lt;b&gt;" in displayed[0][0]["text/html"]
    assert "x &lt; y" in displayed[1][0]["text/html"]


def test_a_terminal_shows_statement_bar_and_value_on_one_line(capsys):
    claim("accuracy", 0.98765, at_least=0.9)
    assert re.fullmatch(r"✓ accuracy: at least 0\.9 \(.*0\.9877\)\n", capsys.readouterr().out)


def test_the_table_lists_every_claim_in_order_with_its_latest_value(displayed):
    claim("first", 1.0, at_least=0)
    claim("second", True)
    claim("first", 2.0, at_least=0)
    claims_made()
    forms, _ = displayed[-1]
    assert forms["text/plain"] == "first | at least 0\nsecond | true"
    assert re.search('<span class="lbdl-measured">[^<]*2</span>', forms["text/html"])
    assert not re.search('<span class="lbdl-measured">[^<]*1</span>', forms["text/html"])


def test_the_compared_part_of_the_table_does_not_depend_on_what_was_measured(displayed):
    tables = []
    for value in (1.0, 2.0):
        claim("first", value, at_least=0)
        claims_made()
        tables.append(displayed[-1][0])
    assert tables[0]["text/plain"] == tables[1]["text/plain"]
    assert same_text(tables[0]["text/html"], tables[1]["text/html"])


def test_the_table_of_no_claims_is_refused():
    with pytest.raises(ValueError, match="no claim was made yet"):
        claims_made()


def test_the_table_in_a_terminal_shows_the_values(capsys):
    claim("first", 1.5, at_least=0)
    capsys.readouterr()
    claims_made()
    assert re.fullmatch(r"first \| at least 0 \| .*1\.5\n", capsys.readouterr().out)


# Notes, and publishing as such (lbdl.show).


def test_the_value_of_a_note_is_shown_but_not_compared(displayed):
    note("time of a step", "3 ms")
    note("time of a step", "9 ms")
    (first, _), (second, _) = displayed
    assert first["text/plain"] == second["text/plain"] == "time of a step"
    assert '<span class="lbdl-measured">3 ms</span>' in first["text/html"]
    assert same_text(first["text/html"], second["text/html"])


def test_a_note_without_a_value_is_compared_whole(displayed):
    note("a < b")
    assert displayed == [({"text/plain": "a < b", "text/html": "a &lt; b"}, {})]


def test_a_value_of_zero_is_a_value(capsys):
    note("number of errors", 0)
    assert capsys.readouterr().out == "number of errors: 0\n"


def test_what_varies_in_a_table_is_shown_but_not_compared(displayed):
    for time in ("3 s", "9 s"):
        table(("model", "time", "weights"), [("a < b", time, 7), ("c", "1 s", 8)], varies=["time"])
    (first, _), (second, _) = displayed
    assert first["text/plain"] == second["text/plain"] == "a < b | 7\nc | 8"
    assert '<span class="lbdl-measured">3 s</span>' in first["text/html"] and "a &lt; b" in first["text/html"]
    assert same_text(first["text/html"], second["text/html"])


def test_what_does_not_vary_in_a_table_is_compared(displayed):
    for weights in (7, 8):
        table(("model", "weights"), [("a", weights)])
    (first, _), (second, _) = displayed
    assert first["text/plain"] != second["text/plain"]
    assert not same_text(first["text/html"], second["text/html"])


def test_a_table_in_a_terminal_shows_all(capsys):
    table(("model", "time"), [("a", "3 s"), ("b", "4 s")], varies=["time"])
    assert capsys.readouterr().out == "a | 3 s\nb | 4 s\n"


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


def test_in_a_terminal_the_terminal_form_is_printed_and_nothing_when_it_is_empty(capsys):
    publish("text", {"text/html": "rich"})
    publish("text", terminal="other")
    publish("text", terminal="")
    assert capsys.readouterr().out == "text\nother\n"


def test_in_a_notebook_the_forms_are_displayed_and_nothing_is_printed(displayed, capsys):
    publish("text", {"text/html": "rich"}, {"lbdl": {"held": "exact"}}, terminal="other")
    assert displayed == [({"text/plain": "text", "text/html": "rich"}, {"lbdl": {"held": "exact"}})]
    assert capsys.readouterr().out == ""

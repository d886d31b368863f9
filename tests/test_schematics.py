"""Schematics: what is drawn is what was run, and boxes and arrows keep out of each other's way."""

import math
import random
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lbdl import schematics
from lbdl.schematics import Plan, arrows, collapse, make_plan, record, schematic, shape_in_words, size_of

NEAR = 0.05  # in letters' heights


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.second(F.relu(self.norm(self.first(x))))


class Attention(nn.Module):
    def forward(self, Q, K, V, mask):
        scores = (Q @ K.mT / math.sqrt(Q.shape[-1])).masked_fill(~mask, -math.inf)
        return F.dropout(scores.softmax(-1), 0.1, training=False) @ V


class Heads(nn.Module):
    def __init__(self, heads=3):
        super().__init__()
        self.of = nn.ModuleList(nn.ModuleList(nn.Linear(6, 2) for _ in range(3)) for _ in range(heads))
        self.join = nn.Linear(2 * heads, 6)

    def forward(self, Q, K, V):
        heads = [F.scaled_dot_product_attention(q(Q), k(K), v(V)) for q, k, v in self.of]
        return self.join(torch.cat(heads, -1))


class Own(nn.Module):
    """A layer with a parameter of its own, used outside of any module of torch.nn."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(5, 3))

    def forward(self, x):
        return x @ self.w.T


class Random(nn.Module):
    """A chain of operations, each of which takes one or two of all earlier results."""

    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)
        self.sources = [choose.sample(range(n + 1), min(n + 1, choose.choice([1, 1, 2]))) for n in range(9)]
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(9))

    def forward(self, x):
        results = [x]
        for layer, sources in zip(self.layers, self.sources, strict=True):
            taken = [results[source] for source in sources]
            results.append(layer(taken[0] if len(taken) == 1 else taken[0] + taken[1]))
        return results[-1]


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


small = nn.Sequential(
    nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, stride=2), nn.Flatten(), nn.Linear(200, 10)
)
EXAMPLES = {
    "small": (small, (rand(2, 1, 28, 28),)),
    "residual": (Residual(), (rand(2, 4, 6, 6),)),
    "attention": (Attention(), (rand(2, 7, 5), rand(2, 9, 5), rand(2, 9, 4), rand(7, 9) > 0.2)),
    "heads": (Heads(), (rand(2, 7, 6), rand(2, 9, 6), rand(2, 9, 6))),
    "own": (Own(), (rand(2, 3),)),
    "deep": (nn.Sequential(nn.Linear(3, 8), *(nn.Linear(8, 8) for _ in range(5)), nn.Linear(8, 2)), (rand(2, 3),)),
} | {f"random {seed}": (Random(seed), (rand(2, 3),)) for seed in range(5)}


def plan_of(module, inputs) -> Plan:
    steps = collapse(record(module, inputs, (), {}, "output"))
    return make_plan(steps, [shape_in_words(step, steps[0], False, {}) for step in steps])


@pytest.fixture(scope="module", params=EXAMPLES)
def plan(request):
    return plan_of(*EXAMPLES[request.param])


def boxes(plan) -> list[tuple[float, float, float, float]]:
    """Left, right, bottom and top of every box."""
    found = []
    for i, step in enumerate(plan.steps):
        (width, height), x, y = size_of(step), plan.x[i, plan.level[i]], plan.y[i]
        found.append((x - width / 2, x + width / 2, y - height / 2, y + height / 2))
    return found


def segments(corners):
    return [(a, b) for a, b in pairwise(corners) if a != b]


# What is drawn is what was run


def test_a_network_in_words():
    fig = plt.figure()
    said = schematic(fig.subplots(), *EXAMPLES["small"][:1], *EXAMPLES["small"][1])
    plt.close(fig)
    assert said == (
        "input: 1 × 28 × 28; then conv 5 × 5: 6 × 24 × 24; then ReLU: 6 × 24 × 24; then max pool 2 × 2: 6 × 12 × 12; "
        "then conv 3 × 3, stride 2: 8 × 5 × 5; then flatten: 200; then fully connected, 200 → 10: 10."
    )


def test_operations_outside_of_modules_are_seen():
    fig = plt.figure()
    said = schematic(fig.subplots(), Attention(), *EXAMPLES["attention"][1], names={"mask": "M"}, letters={7: "$N^Q$"})
    texts = {text.get_text() for text in fig.axes[0].texts}
    plt.close(fig)
    assert {"×", "transpose", "÷ 2.24", "M", "mask", "softargmax", "dropout", "$N^Q$ × 9"} <= texts
    assert "matrix product of dropout and V" in said


def test_shapes_are_those_of_the_run():
    module, inputs = EXAMPLES["small"]
    seen = []
    handles = [part.register_forward_hook(lambda m, i, y: seen.append(tuple(y.shape))) for part in module]
    module(*inputs)
    for handle in handles:
        handle.remove()
    steps = record(module, inputs, (), {}, "output")
    assert [step.shape for step in steps] == [tuple(inputs[0].shape), *seen, seen[-1]]
    assert [step.kind for step in steps[1:4]] == ["layer", "operation", "operation"]


def test_sources_are_what_was_taken():
    steps = record(*EXAMPLES["residual"], (), {}, "output")
    by_words = {step.words: step for step in steps}
    assert (steps[0].words, steps[-1].words) == ("x", "output")
    assert by_words["+"].sources == [0, len(steps) - 3]


def test_a_parameter_used_directly_is_shown_as_weights():
    steps = record(*EXAMPLES["own"], (), {"w": "W"}, "output")
    assert [(step.words, step.kind) for step in steps[:2]] == [("x", "input"), ("W", "weights")]
    assert steps[1].shape == (5, 3)


def test_a_closed_class_is_one_box():
    module = nn.Sequential(Residual(), Residual())
    steps = record(module, (rand(2, 4, 6, 6),), (Residual,), {Residual: "residual block"}, "output")
    assert [step.words for step in steps] == ["input", "residual block", "residual block", "output"]
    assert [step.repeats for step in collapse(steps)] == [1, 2, 1]


def test_equal_layers_are_one_box_unless_something_leaves_between_them():
    assert [step.repeats for step in collapse(record(*EXAMPLES["deep"], (), {}, "output"))] == [1, 1, 5, 1, 1]

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            y = self.a(x)
            return y + self.b(y)

    assert {step.repeats for step in collapse(record(Skip(), (rand(2, 3),), (), {}, "output"))} == {1}


def test_the_module_is_left_as_it_was():
    module, inputs = EXAMPLES["residual"]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    plan_of(module, inputs)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_inputs_that_the_module_refuses_are_refused():
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        record(Attention(), EXAMPLES["attention"][1][:3], (), {}, "output")


# Boxes and arrows


def test_boxes_keep_apart(plan):
    for (left, right, bottom, top), (left2, right2, bottom2, top2) in combinations(boxes(plan), 2):
        assert right + NEAR < left2 or right2 + NEAR < left or top + NEAR < bottom2 or top2 + NEAR < bottom


def test_each_connection_has_one_arrow_level_and_upright_from_top_to_box(plan):
    wanted = sorted((source, i) for i, step in enumerate(plan.steps) for source in set(step.sources))
    found = []
    for corners, _ in arrows(plan):
        (x, y), (x2, y2) = corners[0], corners[-1]
        starts = [i for i, box in enumerate(boxes(plan)) if abs(y - box[3]) < NEAR and box[0] <= x <= box[1]]
        ends = [
            i
            for i, (left, right, bottom, top) in enumerate(boxes(plan))
            if left - NEAR <= x2 <= right + NEAR and bottom - NEAR <= y2 <= top + NEAR
        ]
        assert len(starts) == len(ends) == 1
        found.append((starts[0], ends[0]))
        assert all(abs(a[0] - b[0]) <= 2 * NEAR or abs(a[1] - b[1]) < 1e-9 for a, b in pairwise(corners)), (
            "level or upright"
        )
    assert sorted(found) == wanted


def test_arrows_do_not_run_through_boxes(plan):
    for corners, _ in arrows(plan):
        for (x, y), (x2, y2) in segments(corners):
            for left, right, bottom, top in boxes(plan):
                inside = max(min(x, x2), left + NEAR) < min(max(x, x2), right - NEAR) if x != x2 else left < x < right
                along = max(min(y, y2), bottom + NEAR) < min(max(y, y2), top - NEAR) if y != y2 else bottom < y < top
                assert not (inside and along)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "random" not in name])  # tangled ones may
def test_arrows_of_different_results_do_not_run_over_each_other(name):
    plan = plan_of(*EXAMPLES[name])
    ways = [(corners[0], segments(corners)) for corners, _ in arrows(plan)]
    for (start, one), (start2, other) in combinations(ways, 2):
        if start == start2:
            continue
        for (x, y), (x2, y2) in one:
            for (u, v), (u2, v2) in other:
                if x == x2 == u == u2:
                    assert min(max(y, y2), max(v, v2)) <= max(min(y, y2), min(v, v2)) + NEAR
                if y == y2 == v == v2:
                    assert min(max(x, x2), max(u, u2)) <= max(min(x, x2), min(u, u2)) + NEAR


class Asked(nn.Module):
    """A second input enters late, and is no skip; the first one is."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(4), nn.Bilinear(4, 4, 4)

    def forward(self, x, source):
        return x + self.mix(self.norm(x), source)


def test_an_arrow_skips_if_its_result_also_goes_elsewhere():
    plan = plan_of(Asked(), (torch.rand(2, 4), torch.rand(2, 4)))
    first, second = (i for i, step in enumerate(plan.steps) if step.kind == "input")
    starts = {corners[0][0] for corners, skips in arrows(plan) if skips}
    assert plan.level[second] < max(plan.level) - 2, "its arrow passes by the layer norm"
    assert starts == {plan.x[first, plan.level[first]]}


def test_letters_shrink_where_there_is_no_room():
    module, inputs = EXAMPLES["small"]
    sizes = []
    for size in ((4, 8), (1.5, 2)):
        fig = plt.figure(figsize=size)
        schematic(fig.subplots(), module, *inputs, size=10)
        sizes.append(fig.axes[0].texts[0].get_size())
        plt.close(fig)
    assert sizes[0] == 10 and sizes[1] < 6


def test_words_that_the_book_uses():
    said = {schematics.layer_in_words(m): m for m in (nn.LayerNorm(3), nn.BatchNorm2d(3), nn.GELU(), nn.Dropout(0.3))}
    assert set(said) == {"layer norm", "batch norm", "GELU", "dropout 0.3"}
    assert schematics.layer_in_words(nn.Conv2d(2, 4, (3, 5), padding=(1, 2), groups=2)) == (
        "conv 3 × 5\npadding 1 × 2, groups 2"
    )
    assert schematics.layer_in_words(nn.ConvTranspose1d(2, 4, 4, stride=2)) == "transposed conv 4\nstride 2"
    assert schematics.layer_in_words(nn.AvgPool2d(3, stride=1)) == "average pool 3 × 3\nstride 1"

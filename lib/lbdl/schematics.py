"""Schematics: the graph of a module, drawn from the module itself by running it.

Three steps: run the module and write down each operation with the shape of its result; find a place for each box and a
way for each arrow; draw. Boxes stand in rows, from the bottom up; a result that skips rows passes by beside them.
"""

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from lbdl.figures import color

# Words for operations and layers

WORDS = {  # the book's words for what PyTorch calls otherwise; a constant goes where the braces are
    "add": "+ {}",
    "sub": "− {}",
    "mul": "⊙",
    "div": "÷ {}",
    "eq": "= {}",
    "pow": "to the power {}",
    "matmul": "×",
    "bmm": "×",
    "mT": "transpose",
    "T": "transpose",
    "cat": "concatenate",
    "relu": "ReLU",
    "ReLU": "ReLU",
    "gelu": "GELU",
    "GELU": "GELU",
    "SiLU": "SiLU",
    "LeakyReLU": "leaky ReLU",
    "softmax": "softargmax",
    "Softmax": "softargmax",
    "RMSNorm": "RMS norm",
    "masked_fill": "mask",
    "where": "mask",
    "getitem": "take",
    "chunk": "split",
    "view": "reshape",
    "unflatten": "reshape",
    "permute": "reorder",
    "interpolate": "up-sampling",
    "Linear": "fully connected",
    "MultiheadAttention": "multi-head attention",
    "scaled_dot_product_attention": "attention",
    "AdaptiveAvgPool2d": "average pool",
}


def times(size: int | tuple[int, ...], dimensions: int = 1) -> str:
    """A size as in "3 × 3"; a single number stands for all dimensions."""
    return " × ".join(map(str, size if isinstance(size, tuple) else (size,) * dimensions))


def operation_in_words(function: Callable, constants: list) -> str:
    """The book's word for a PyTorch function, with the constant that it takes, if there is one."""
    name = (function.__self__ if function.__name__ == "__get__" else function).__name__.strip("_")
    numbers = [f"{c:.3g}" for c in constants if type(c) in (int, float)]
    if name == "mul" and numbers:
        return f"× {numbers[0]}"
    return WORDS.get(name, name.replace("_", " ")).format(*numbers[:1] or [""]).strip()


def layer_in_words(module: nn.Module) -> str:
    """A module's name, and in a second line its hyper-parameters, without those that are as usual."""
    kind = type(module).__name__
    if hasattr(module, "kernel_size"):
        return window_in_words(module, kind)
    words = WORDS.get(kind) or re.sub(r"(?<=[a-z])(?=[A-Z])|\dd$", " ", kind).strip().lower()
    if isinstance(module, nn.Linear | nn.Embedding):
        before, after = list(module.weight.shape)[:: -1 if isinstance(module, nn.Linear) else 1]
        return f"{words}\n{before} → {after}"
    return f"{words} {module.p:g}" if isinstance(module, nn.Dropout) else words


def window_in_words(module: nn.Module, kind: str) -> str:
    """The same for convolutions and pooling: the kernel; below it stride, padding, dilation and groups."""
    name = {"C": "conv", "M": "max pool", "A": "average pool"}[kind[0]]
    name, dimensions = "transposed conv" if "Transpose" in kind else name, int(kind[-2])
    usual = {"stride": module.kernel_size if "pool" in name else 1, "padding": 0, "dilation": 1, "groups": 1}
    details = []
    for what, normal in usual.items():
        value = times(getattr(module, what, normal), dimensions)
        if value != times(normal, dimensions):
            alike = len(set(value.split(" × "))) == 1
            details.append(f"{what} {value.split()[0] if alike else value}")
    return "\n".join([f"{name} {times(module.kernel_size, dimensions)}", *([", ".join(details)] if details else [])])


# Running the module, and writing down what happens


@dataclass
class Step:
    """One box of a schematic: its words, its kind, the steps whose results it takes, the shape of its own."""

    words: str
    kind: str  # "input", "weights", "layer", "operation" or "output"
    sources: list[int]
    shape: tuple[int, ...]
    late: bool = False  # drawn just below the step that needs it, not at the bottom
    repeats: int = 1


def tensors_in(tree: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def apart(result: object, given: list[Tensor]) -> object:
    """The result as objects of its own: an operation that has nothing to do returns what it was given."""
    before = {id(x) for x in given}
    return tree_map(lambda x: x.view_as(x) if id(x) in before else x, result)


class Recorder(TorchFunctionMode):
    """While it is active, PyTorch reports every operation to it; it keeps those outside of closed modules."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names = names  # of parameters, by their id
        self.steps, self.made, self.depth = [], {}, 0

    def source(self, x: Tensor) -> int:
        """The step that made a tensor. What none has made is a parameter, or a constant."""
        if id(x) not in self.made:
            self.add(self.names.get(id(x), "constant"), "weights", [], x)
        return self.made[id(x)][0]

    def add(self, words: str, kind: str, given: list[Tensor], result: object) -> None:
        sources, made = [self.source(x) for x in given], tensors_in(result)
        late = all(self.steps[s].late for s in sources) and kind == "operation"  # it prepares weights or a mask
        late = late or kind == "weights" or (kind == "input" and made[0].dtype == torch.bool)
        self.steps.append(Step(words, kind, sources, tuple(made[0].shape), late))
        self.made |= {id(x): (len(self.steps) - 1, x) for x in made}  # x is kept: no other gets its id

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result, given = function(*args, **(kwargs or {})), tensors_in((args, kwargs))
        if self.depth or not tensors_in(result):
            return result
        if getattr(function, "__name__", "") in ("contiguous", "to", "detach", "float", "clone"):  # not worth a box
            self.made[id(result)] = (self.source(given[0]), result)
            return result
        result = apart(result, given)
        self.add(operation_in_words(function, [*args, *(kwargs or {}).values()]), "operation", given, result)
        return result


def watch(module: nn.Module, words: str, recorder: Recorder) -> None:
    """Close a module: have it reported as one step, whatever it does inside."""

    def enter(_module, _args, _kwargs):
        recorder.depth += 1

    def leave(module, args, kwargs, result):
        given = tensors_in((args, kwargs))
        result = apart(result, given)
        recorder.depth -= 1
        if recorder.depth == 0:
            kind = "operation" if next(module.parameters(), None) is None else "layer"
            recorder.add(words, kind, given, result)
        return result

    module.register_forward_pre_hook(enter, with_kwargs=True)
    module.register_forward_hook(leave, with_kwargs=True)


def record(module: nn.Module, inputs: tuple, closed: tuple, names: dict, output: str) -> list[Step]:
    """Run a copy of a module, and return its steps; the arguments are those of `schematic`."""
    module = copy.deepcopy(module)
    recorder = Recorder({id(p): names.get(name, name) for name, p in module.state_dict(keep_vars=True).items()})
    for path, part in module.named_modules():
        ours = type(part).__module__.startswith("torch.nn")
        if path and (isinstance(part, closed) or (ours and not isinstance(part, nn.Sequential | nn.ModuleList))):
            watch(part, names.get(path) or names.get(type(part)) or layer_in_words(part), recorder)
    for name, x in zip(inspect.signature(module.forward).parameters, inputs, strict=False):
        recorder.add(names.get(name, name), "input", [], x)
    with torch.no_grad(), recorder:
        result = module(*inputs)
    for x in tensors_in(result):
        recorder.add(output, "output", [x], x)
    return recorder.steps


def collapse(steps: list[Step]) -> list[Step]:
    """Make one step, with a number of repeats, of each chain of equal layers."""
    kept, new = [], []
    for step in steps:
        uses = sum(source in other.sources for source in step.sources for other in steps)
        before, sources = kept[-1] if kept else None, [new[source] for source in step.sources]
        alike = before and (step.words, step.kind, step.shape) == (before.words, "layer", before.shape)
        if alike and uses == 1 and sources == [len(kept) - 1]:
            before.repeats += 1
        else:
            kept.append(Step(step.words, step.kind, sources, step.shape, step.late))
        new.append(len(kept) - 1)
    return kept


# Where everything goes; lengths in letters' heights ("em")

LINE, STEM, TRACK, HEAD, SMALL = 1.25, 1.55, 0.75, 1.1, 0.85  # of text; the parts of arrows; small letters
Key = tuple[int, int]  # a step and a row: the step in its own row; its result, passing by, in those above


@dataclass
class Plan:
    """The steps with their rows and columns, and the texts of their shapes; then all that is to be drawn."""

    steps: list[Step]
    shapes: list[str]
    level: list[int]
    rows: list[list[Key]]
    x: dict[Key, float] = field(default_factory=dict)
    y: dict[int, float] = field(default_factory=dict)  # the middles of the boxes
    turns: dict[tuple, list] = field(default_factory=dict)  # (source, to, x): the corners of an arrow

    def passes(self, key: Key) -> bool:
        return key[1] > self.level[key[0]]


@cache
def width_of(words: str) -> float:
    """The width of a text, the longest line of several; lines below the first are small."""
    ends = [TextPath((0, 0), line, size=1).vertices[:, 0].max() for line in words.split("\n") if line]
    return max([end * (SMALL if n else 1) for n, end in enumerate(ends)], default=0)


def size_of(step: Step) -> tuple[float, float]:
    """Width and height of a box; inputs, outputs and bare weights have none, only words."""
    if step.kind not in ("layer", "operation"):
        return width_of(step.words), LINE
    height = LINE * len(step.words.split("\n")) + 0.75 + (0.5 if step.repeats > 1 else 0)
    return max(width_of(step.words) + 1.2, 2.0), height


def levels(steps: list[Step]) -> list[int]:
    """The row of each step: above all that it needs; what comes late, just below its first use."""
    level = []
    for step in steps:
        level.append(1 + max((level[s] for s in step.sources if not steps[s].late), default=-1))
    for i, step in reversed(list(enumerate(steps))):
        if step.late:
            level[i] = min(level[j] for j, user in enumerate(steps) if i in user.sources) - 1
    uses = [sum(i in step.sources for step in steps) for i in range(len(steps))]
    for i in reversed([i for i in range(len(steps)) if is_main(steps, i)]):
        below, at = steps[i].sources[0], level[i] - 1
        while uses[below] == 1:  # what leads to its first input stands right below it
            level[below], at = max(level[below], at), at - 1
            if len(steps[below].sources) != 1:
                break
            below = steps[below].sources[0]
    return [at - min(level) for at in level]


def is_main(steps: list[Step], i: int, source: int | None = None) -> bool:
    """Whether a step is a layer of several inputs, and this source, if given, is the first: the signal itself."""
    several = steps[i].kind == "layer" and sum(not steps[s].late for s in steps[i].sources) > 1
    return several and source in (None, steps[i].sources[0])


def table(steps: list[Step], level: list[int]) -> list[list[Key]]:
    """For each row its steps, then the results from below that pass by, up to where they turn in."""
    rows = [[(i, row) for i, at in enumerate(level) if at == row] for row in range(max(level) + 1)]
    for i, start in enumerate(level):
        users = [(level[j], len(user.sources) > 1) for j, user in enumerate(steps) if i in user.sources]
        last = max((at if at > start + 1 and several else at - 1 for at, several in users), default=0)
        for row in range(start + 1, last + 1):
            rows[row].append((i, row))
    return rows


def neighbours(plan: Plan) -> dict[Key, tuple[list[Key], list[Key]]]:
    """For each place those that it is connected to, in the row below and in the row above."""
    links = {key: ([], []) for row in plan.rows for key in row}
    for i, row in list(links):
        below = [i] if plan.passes((i, row)) else plan.steps[i].sources
        for key in [(s, row - 1) for s in below if (s, row - 1) in links]:
            links[i, row][0].append(key)
            links[key][1].append((i, row))
    return links


def sort_rows(plan: Plan, links: dict) -> None:
    """Bring connected places near each other: order each row by the mean place of what it is connected to."""
    for sweep in range(6):
        for row in plan.rows[:: -1 if sweep % 2 else 1]:
            place = {key: n - (len(r) - 1) / 2 for r in plan.rows for n, key in enumerate(r)}
            near = {key: [place[k] for k in links[key][sweep % 2]] or [place[key]] for key in row}
            row.sort(key=lambda key: sum(near[key]) / len(near[key]))


def spread(wanted: list[float], gaps: list[float], weights: list[float]) -> list[float]:
    """Places as near as possible to those wanted, each at least its gap to the right of the one before."""
    shift = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    groups = []  # of [place, weight, count]: neighbours that want too much of one place are put side by side
    for want, by, weight in zip(wanted, shift, weights, strict=True):
        groups.append([want - by, weight, 1])
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (a, v, m), (b, w, n) = groups[-2:]
            groups[-2:] = [[(a * v + b * w) / (v + w), v + w, m + n]]
    places = [place for place, _, count in groups for _ in range(count)]
    return [place + by for place, by in zip(places, shift, strict=True)]


def reach(plan: Plan, key: Key) -> tuple[float, float]:
    """How much room a place needs to its left, and to its right, where the shape is written."""
    if plan.passes(key):
        return 0.6, 0.6
    step, half = plan.steps[key[0]], size_of(plan.steps[key[0]])[0] / 2
    label = 0.6 + SMALL * width_of(plan.shapes[key[0]]) if step.kind != "output" else 0
    return half + 0.6, max(half + (2.5 if step.repeats > 1 else 0), label) + 0.6


def leftish(plan: Plan, lane: int) -> bool:
    """Whether a result passes by more steps on their left than on their right."""
    score = 0
    for row in plan.rows:
        for n, key in enumerate(row):
            if key[0] == lane and plan.passes(key):
                score += sum((m > n) - (m < n) for m, other in enumerate(row) if not plan.passes(other))
    return score > 0


def follows(plan: Plan, one: Key, other: Key) -> bool:
    """Whether two connected places should be above one another: a layer stands above its first input alone."""
    low, high = sorted((one, other), key=lambda key: key[1])
    return plan.passes(high) or not is_main(plan.steps, high[0]) or is_main(plan.steps, high[0], low[0])


def set_columns(plan: Plan, links: dict, sweeps: int = 40) -> None:
    """Find the x of each place: steps above what they take, results that pass by straight up, outside."""
    x = plan.x = {key: 0.0 for row in plan.rows for key in row}
    outer = {key[0]: min if leftish(plan, key[0]) else max for key in x if plan.passes(key)}
    gaps = [[0, *(reach(plan, a)[1] + reach(plan, b)[0] for a, b in pairwise(r))] for r in plan.rows]
    for sweep in range(sweeps):
        for row, gap in list(zip(plan.rows, gaps, strict=True))[:: -1 if sweep % 2 else 1]:
            wanted = []
            for key in row:
                near = [k for k in links[key][sweep % 2] if not plan.steps[k[0]].late and follows(plan, key, k)]
                near = [k for k in near if not plan.passes(k)] or near
                if plan.passes(key) and sweep > 3:
                    wanted.append(outer[key[0]](x[k] for k in x if k[0] == key[0] and plan.passes(k)))
                else:
                    wanted.append(sum(x[k] for k in near) / len(near) if near else x[key])
            weights = [1e-3 if plan.passes(key) or plan.steps[key[0]].late else 1 for key in row]
            x |= dict(zip(row, spread(wanted, gap, weights), strict=True))
    plan.x = {key: round(value, 2) for key, value in x.items()}


# The ways of the arrows


def turns_in(plan: Plan, source: int, target: int) -> bool:
    """Whether a result that passes by enters a step from the side: it is next to it in its row."""
    row = plan.rows[plan.level[target]]
    if (source, plan.level[target]) not in row or plan.level[source] == plan.level[target]:
        return False
    return abs(row.index((source, plan.level[target])) - row.index((target, plan.level[target]))) == 1


def entries(plan: Plan, i: int) -> list[tuple[int, float]]:
    """The sources that enter a step from below, from left to right, and the x of each entry."""
    row = plan.level[i] - 1
    below = [s for s in plan.steps[i].sources if plan.level[s] == row or not turns_in(plan, s, i)]
    below.sort(key=lambda s: plan.x[s, row])
    main = [n for n, s in enumerate(below) if is_main(plan.steps, i, s)]
    main = main or [n for n, s in enumerate(below) if not plan.steps[s].late]
    middle = main[0] if len(main) == 1 else (len(below) - 1) / 2
    width = min(2.2, 0.75 * size_of(plan.steps[i])[0] / max(len(below), 1))
    return [(s, round(plan.x[i, row + 1] + (n - middle) * width, 2)) for n, s in enumerate(below)]


def arrows_above(plan: Plan, number: int) -> dict[int, list[tuple[Key, float]]]:
    """For each source that goes from one row to the next: where to, and at which x."""
    found = {}
    for i, row in plan.rows[number + 1] if number + 1 < len(plan.rows) else []:
        ends = [(i, plan.x[i, row])] if plan.passes((i, row)) else entries(plan, i)
        for source, end in ends:
            found.setdefault(source, []).append(((i, row), end))
    return found


def conflicts(order: list[tuple]) -> int:
    """How often arrows cross, or run over each other, if they turn at heights in this order."""
    count = 0
    for n, (_, start, ends) in enumerate(order):
        for _, above, others in order[n + 1 :]:
            count += min(start, *ends) < above < max(start, *ends)
            count += sum(min(above, *others) < end < max(above, *others) for end in ends)
            count += 10 * sum(abs(above - end) < 0.5 for end in ends)
    return count


def tracks(plan: Plan, number: int, found: dict) -> dict[int, int]:
    """At which height the arrows from each source turn: the order with the fewest conflicts, then packed."""
    order, track = [], {}
    for source, targets in found.items():
        net = (source, plan.x[source, number], [end for _, end in targets])
        if any(abs(end - net[1]) > 0.05 for end in net[2]):
            order = min(([*order[:n], net, *order[n:]] for n in range(len(order) + 1)), key=conflicts)
    for n, (source, start, ends) in enumerate(order):
        low, high = min(start, *ends) - 0.6, max(start, *ends) + 0.6
        lower = [track[s] for s, at, others in order[:n] if max(at, *others) > low and min(at, *others) < high]
        track[source] = 1 + max(lower, default=-1)
    return track


def stack(plan: Plan) -> None:
    """Go up row by row: set the heights of the boxes, and the corners of the arrows between them."""
    y = 0.0
    for number, row in enumerate(plan.rows):
        height = max(size_of(plan.steps[i])[1] for i, at in row if plan.level[i] == at)
        plan.y |= {i: y + height / 2 for i, at in row if plan.level[i] == at}
        y += height
        found = arrows_above(plan, number)
        track = tracks(plan, number, found)
        for source, targets in found.items():
            start, bend = plan.x[source, number], y + STEM + TRACK * track.get(source, 0)
            for key, end in targets:
                plan.turns[source, key, end] = [(start, bend), (end, bend)] if abs(start - end) > 0.05 else []
        y += STEM + HEAD + (TRACK * max(track.values()) if track else -0.7)


def way(plan: Plan, source: int, row: int) -> list[tuple[float, float]]:
    """The corners from the top of a step up to the row in which its result passes by."""
    corners = [(plan.x[source, plan.level[source]], plan.y[source] + size_of(plan.steps[source])[1] / 2)]
    for at in range(plan.level[source] + 1, row + 1):
        corners += plan.turns[source, (source, at), plan.x[source, at]]
    return corners


def arrows(plan: Plan) -> list[tuple[list[tuple[float, float]], bool]]:
    """The corners of all arrows, and whether they skip: pass by steps, while the same result also goes elsewhere."""
    found, forks = [], [sum(i in step.sources for step in plan.steps) > 1 for i in range(len(plan.steps))]
    for (source, (i, row), end), turn in plan.turns.items():
        if source != i:
            bottom = plan.y[i] - size_of(plan.steps[i])[1] / 2
            skips = plan.level[source] < row - 1 and forks[source]
            found.append(([*way(plan, source, row - 1), *turn, (end, bottom)], skips))
    for i, step in enumerate(plan.steps):
        for source in step.sources:
            if plan.level[source] < plan.level[i] - 1 and turns_in(plan, source, i):
                lane, x, half = plan.x[source, plan.level[i]], plan.x[i, plan.level[i]], size_of(step)[0] / 2
                edge = (x + half if lane > x else x - half, plan.y[i])
                found.append(([*way(plan, source, plan.level[i]), (lane, plan.y[i]), edge], forks[source]))
    return found


def make_plan(steps: list[Step], shapes: list[str]) -> Plan:
    """All places of a schematic."""
    level = levels(steps)
    plan = Plan(steps, shapes, level, table(steps, level))
    links = neighbours(plan)
    sort_rows(plan, links)
    set_columns(plan, links)
    stack(plan)
    return plan


# Drawing


def rounded(corners: list[tuple[float, float]], radius: float = 0.5) -> Path:
    """A way with round corners; all its lines are level or upright."""
    points, codes = [corners[0]], [Path.MOVETO]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        near = []
        for end in (before, after):
            length = abs(end[0] - corner[0]) + abs(end[1] - corner[1])
            share = min(radius, length / 2) / max(length, 1e-9)
            near.append(tuple(c + share * (e - c) for c, e in zip(corner, end, strict=True)))
        points += [near[0], corner, near[1]]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*points, corners[-1]], [*codes, Path.LINETO])


def fit_to(ax: Axes, plan: Plan, size: float) -> float:
    """Scale the axes so that the plan fits with letters of at most `size` points; return their size."""
    ax.axis("off")
    figure = ax.get_figure(root=True)
    if figure.get_layout_engine() is not None:
        figure.get_layout_engine().execute(figure)
    edges = [(plan.x[i, at] - reach(plan, (i, at))[0], plan.x[i, at] + reach(plan, (i, at))[1]) for i, at in plan.x]
    left, right = min(low for low, _ in edges), max(high for _, high in edges)
    top = max(plan.y[i] + size_of(step)[1] / 2 for i, step in enumerate(plan.steps))
    box = ax.get_window_extent()
    width, height = 72 * box.width / figure.dpi, 72 * box.height / figure.dpi
    size = min(size, width / (right - left), height / (top + 0.4))
    middle, half, tall = (left + right) / 2, width / size / 2, height / size
    ax.set(xlim=(middle - half, middle + half), ylim=(-0.2, tall - 0.2))
    return size


def draw_box(ax: Axes, plan: Plan, i: int, size: float) -> None:
    """One step: layers in the weights' colour, operations grey, inputs, outputs and bare weights as words."""
    step, x, (width, height) = plan.steps[i], plan.x[i, plan.level[i]], size_of(plan.steps[i])
    bottom, height = plan.y[i] - height / 2, height - (0.5 if step.repeats > 1 else 0)
    shades = {"layer": ("#fbdce8", color.weights), "operation": ("#efefef", "#999999")}
    for n in reversed(range(min(step.repeats, 3) if step.kind in shades else 0)):
        corner, style = (x - width / 2 + 0.3 * n, bottom + 0.25 * n), "round,pad=0,rounding_size=0.55"
        face, edge = shades[step.kind]
        ax.add_patch(FancyBboxPatch(corner, width, height, style, fc=face, ec=edge, lw=0.9))
    if step.repeats > 1:
        ax.text(x + width / 2 + 1, bottom + height / 2, f"× {step.repeats}", va="center", size=size)
    shade = {"input": color.model, "weights": color.weights, "output": color.output}.get(step.kind, "#222222")
    lines = step.words.split("\n")
    for n, line in enumerate(lines):
        at = bottom + height / 2 + (len(lines) - 1 - 2 * n) / 2 * LINE
        look = {"color": "#555555", "size": SMALL * size} if n else {"color": shade, "size": size}
        bold = "bold" if step.kind in ("input", "output") else "normal"
        ax.text(x, at, line, ha="center", va="center_baseline", weight=bold, **look)


def shape_in_words(step: Step, first: Step, batch: bool, letters: dict[int, str]) -> str:
    """A shape as "6 × 24 × 24", the batch dimension left out unless asked for."""
    sizes = step.shape
    if not batch and step.kind != "weights" and sizes[:1] == first.shape[:1]:
        sizes = sizes[1:]
    return " × ".join(letters.get(size, str(size)) for size in sizes) or "1"


def graph_in_words(plan: Plan) -> str:
    """The schematic in words: what each step takes, and the shape of what it gives."""
    spoken, said = {"×": "matrix product", "+": "sum", "⊙": "product"}, []
    for i, (step, shape) in enumerate(zip(plan.steps, plan.shapes, strict=True)):
        words = spoken.get(step.words, step.words.replace("\n", ", "))
        words += f", {step.repeats} times" if step.repeats > 1 else ""
        given = [spoken.get(plan.steps[s].words, plan.steps[s].words.split("\n")[0]) for s in step.sources]
        if step.sources == [i - 1]:
            words = f"then {words}"
        elif given:
            words += f" of {' and '.join(given)}"
        said += [f"{words}: {shape}"] if step.kind != "output" else []
    return re.sub(r"[${}]", "", "; ".join(said)) + "."


def schematic(
    ax: Axes,
    module: nn.Module,
    *inputs: Tensor,
    closed: tuple = (),
    names: dict | None = None,
    letters: dict[int, str] | None = None,
    batch: bool = False,
    output: str = "output",
    size: float = 10,
    passing: str = "#555555",
) -> str:
    """Draw the graph of a module by running it, from the bottom up, and return it in words.

    Args:
        inputs: real ones; the shapes at the arrows are those that come out.
        closed: classes of modules to show as one box; those of torch.nn are.
        names: other words, by the name of an input or a weight, or by the path or the class of a module.
        letters: the book's letters for sizes, like {64: "D"}.
        batch: whether shapes have the batch dimension, which is the first input's first.
        output: the word at the end.
        size: of the letters in points, if there is room.
        passing: colour of the skips: arrows past other steps, from a result that also goes elsewhere.
    """
    steps = collapse(record(module, inputs, closed, names or {}, output))
    plan = make_plan(steps, [shape_in_words(step, steps[0], batch, letters or {}) for step in steps])
    size = fit_to(ax, plan, size)
    style, grey = "-|>,head_length=0.45,head_width=0.2", "#555555"
    for corners, skips in arrows(plan):
        look = {"color": passing, "lw": 1.6} if skips and passing != grey else {"color": grey, "lw": 0.9}
        path = rounded(corners)
        ax.add_patch(FancyArrowPatch(path=path, arrowstyle=style, mutation_scale=size, **look))
    for i, step in enumerate(steps):
        draw_box(ax, plan, i, size)
        if step.kind != "output":
            x, y = plan.x[i, plan.level[i]] + 0.45, plan.y[i] + size_of(step)[1] / 2 + 0.68
            ax.text(x, y, plan.shapes[i], va="center", size=SMALL * size, color=grey)
    return graph_in_words(plan)

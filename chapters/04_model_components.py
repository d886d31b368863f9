# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 Model Components
#
# Deep networks are put together from a small number of parts, and this chapter takes each of them in hand. A part is
# written down from its definition, with plain tensors, in code that says what the formula says. Then it is held
# against PyTorch's own version, with the same weights and inputs, for random shapes and options: both must give the
# same outputs and the same gradients. Its parameters and its multiplications are counted, and the count is checked.
# And since formulas do not show what a layer is *for*, each one is let loose on something real: a photograph, a
# spoken word, handwritten digits, a line of text.
#
# Then it is yours. There are more than twenty pictures with sliders below, which is more than in any other chapter.
# The short function above each of them, called `scene`, draws it: change it, run its cell and the next one again, and
# see.
#
# Sections stand alone, as in the chapters before: run the cells up to the first section, then the one that you want.
# From the next chapter on, networks are built from PyTorch's own layers, as everybody does. Here you learn what is in
# them.

# %% tags=["export"]
import copy
import itertools
import math
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import torch
from lbdl import batches, check, choice, claim, claims_made, color, device, explore, figure, fit
from lbdl import log_scale, progress, schematic, seed, slider, toggle
from lbdl.data import SAMPLE_RATE, glove, mnist, photographs, shakespeare, speech
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# %% [markdown]
# Comparisons in this chapter are made with numbers of 64 bits, and most of them with 32 bits as well. So the device
# must have both; `EXACT` is short for "on this device, in 64 bits". NVIDIA's GPUs usually compute convolutions with
# fewer bits than they are given (a format called TF32). We want to see the rounding of 32 bits and no other, so that
# is switched off.

# %%
DEVICE = device(needs=torch.float64)
EXACT = {"device": DEVICE, "dtype": torch.float64}
torch.backends.cudnn.allow_tf32 = False

# %% [markdown]
# Two tools serve all sections. The first holds two implementations of a layer against each other. It gives both the
# same tensors, input and weights alike, and compares what comes out. Then it compares the gradients with respect to
# every one of these tensors, of a loss that weighs each output with a random number of its own, so that no mistake
# can hide behind a sum. The result is the largest difference found anywhere.


# %% tags=["export"]
def difference(one: Callable, other: Callable, *tensors: Tensor) -> float:
    """Largest difference between two functions of the same tensors: in outputs and in all gradients.

    Raises:
        ValueError: the two outputs have different shapes.
    """
    results = []
    for function in (one, other):
        copies = [x.detach().clone().requires_grad_() for x in tensors]
        y = function(*copies)
        weights = torch.rand(y.shape, generator=seed(0)).to(y)  # each output counts differently
        results.append([y, *torch.autograd.grad((y * weights).sum(), copies)])
    if results[0][0].shape != results[1][0].shape:
        shapes = [tuple(y.shape) for y, *_ in results]
        raise ValueError(f"expected outputs of one shape, got {shapes}")
    gaps = [(a - b).abs().max() for a, b in zip(*results, strict=True)]
    return torch.stack(gaps).max().item()  # not a number if any gap is not


# %% [markdown]
# The second tool counts: the parameters of a layer, and the multiplications that it makes for an input, divisions
# included. PyTorch's counter, which chapters 2 and 3 have used, looks at each operation while it runs. It knows
# matrix products and convolutions, and counts two operations, one multiplication and one addition, for each product
# of two numbers. We teach it the plain `*` and `/` as well, also as two operations for each, and halve the total at
# the end.


# %% tags=["export"]
def cost(layer: Callable, *inputs: Tensor) -> tuple[int, int]:
    """Parameters of a layer, and the multiplications that it makes for these inputs (divisions count as well)."""

    def two_for_each(*shapes, out_shape, **others) -> int:
        return 2 * math.prod(out_shape)

    more = {torch.ops.aten.mul: two_for_each, torch.ops.aten.div: two_for_each}
    # PyTorch does not count the kernel that computes attention in one go on the CPU; those of GPUs it does.
    in_one_go = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    more[in_one_go] = lambda Q, K, V, *options, **others: sdpa_flop_count(Q, K, V)
    with FlopCounterMode(display=False, custom_mapping=more) as counter, torch.no_grad():
        layer(*inputs)
    parameters = layer.parameters() if isinstance(layer, nn.Module) else ()
    return sum(p.numel() for p in parameters), counter.get_total_flops() // 2


# %% [markdown]
# ## 4.1 The notion of layer
#
# The models of the chapters to come have hundreds of operations, yet they are made of few different pieces, used
# again and again. Such a piece is called a **layer**: an operation on tensors, usually put together from several
# simpler ones, usually with trainable parameters of its own. No theory says which pieces there should be. Experience
# has kept those that turned out to be useful for many problems, that can be trained by gradient descent, and that run
# well on the hardware. This chapter takes the most common ones apart.
#
# Here is one, built by hand. PyTorch calls any piece of a model a *module*, an `nn.Module`. To make one takes two
# functions. `__init__` creates the parameters. Its first line, `super().__init__()`, prepares the module to find
# them; then `nn.Parameter` marks a tensor as one that training may change, and the module keeps everything marked
# like this. `forward` says what is computed from an input $x$: here $W x + b$, for all rows of $x$ at once. The two
# sizes `d_in` and `d_out` are not trained. They are given when the layer is made, so they are its hyper-parameters.
# The weights are drawn with the standard deviation $1/\sqrt{D}$ of section 3.4, for $D$ inputs, so that what comes
# out is about as large as what goes in. `.mT` exchanges rows and columns: with a sample in each row of `x`, $W x$ for
# all of them at once is $x W^\top$.


# %%
class ByHand(nn.Module):
    """The layer W x + b, for inputs (N, d_in) and outputs (N, d_out)."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_out, d_in) / math.sqrt(d_in))  # (d_out, d_in)
        self.bias = nn.Parameter(torch.randn(d_out))  # (d_out,)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT + self.bias  # (N, d_out)


# %% [markdown]
# A module is used like a function: `layer(x)` calls `forward`. And it knows its parameters by name, which is what an
# optimizer asks for when it is handed `layer.parameters()`. Ours turns the 784 pixels of a digit into 200 numbers.

# %%
seed(0)
layer = ByHand(784, 200).to(DEVICE)
for name, parameter in layer.named_parameters():
    print(name, tuple(parameter.shape))

# %% [markdown]
# PyTorch's own version is `nn.Linear`. It has parameters of the same names and shapes, so that ours can be loaded
# into it: `state_dict()` gives all that a module keeps as a dictionary of tensors, and `load_state_dict` takes such a
# dictionary in. (This is also how a trained model is written to a file, and read again.) The two layers must then be
# the same function of the input and of both parameters. `functional_call` runs a module with parameters that we hand
# over, so that `difference` can vary them, too, and compare their gradients.


# %%
def compare(d_in: int, d_out: int, chance: torch.Generator, dtype: torch.dtype) -> float:
    """Largest difference between our layer and PyTorch's, in outputs and gradients."""
    ours, theirs = ByHand(d_in, d_out).to(DEVICE, dtype), nn.Linear(d_in, d_out).to(DEVICE, dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, d_in, generator=chance).to(DEVICE, dtype)  # (N, d_in)
    given = theirs.state_dict()
    return difference(
        lambda x, weight, bias: functional_call(ours, {"weight": weight, "bias": bias}, x),
        lambda x, weight, bias: functional_call(theirs, {"weight": weight, "bias": bias}, x),
        x,
        given["weight"],
        given["bias"],
    )


# %% [markdown]
# We try fifteen random sizes, each in 64 bits and in 32. With 32 bits rounding is coarser, so the tolerance is wider:
# they hold about seven decimal digits, and the sums here have up to 40 terms.

# %%
chance = seed(1)
gaps = {torch.float64: [], torch.float32: []}
for _ in range(15):
    d_in, d_out = torch.randint(1, 40, (2,), generator=chance).tolist()
    for dtype in gaps:
        gaps[dtype].append(compare(d_in, d_out, chance, dtype))

# %%
claim("a layer by hand and nn.Linear, 15 sizes, 64 bits", max(gaps[torch.float64]), at_most=1e-12)
claim("a layer by hand and nn.Linear, 15 sizes, 32 bits", max(gaps[torch.float32]), at_most=1e-4)

# %% [markdown]
# `cost`, from the top of the chapter, counts a layer's parameters and its multiplications. Both can be foretold.
# There is a weight for each pair of an input and an output, and a bias for each output. And each weight is multiplied
# once for every one of the $N$ samples, while adding the bias multiplies nothing.

# %%
counted = cost(layer, torch.zeros(64, 784, device=DEVICE))
foretold = (200 * (784 + 1), 64 * 784 * 200)  # parameters, multiplications
print(f"{counted[0]:,} parameters and {counted[1]:,} multiplications for 64 inputs")
claim("parameters and multiplications as by formula", counted == foretold)

# %% [markdown]
# A layer like this is called a **linear layer**, and so are all others whose output is a weighted sum of the input
# plus a constant. The mathematician objects. A function $g$ is *linear* if it respects sums and factors,
# $g(2u + 3v) = 2\,g(u) + 3\,g(v)$, and this one does not, because of the bias: the left side has $b$ once, the right
# side five times. The proper word is *affine*. Take away what comes out for an input of zeros, and the rest,
# $f(x) - f(0)$, is linear. The habit of the field is to say linear all the same.


# %%
def without_constant(f: Callable, x: Tensor) -> Tensor:
    """The linear part of an affine function."""
    return f(x) - f(torch.zeros_like(x))


# %%
f = ByHand(8, 3).to(**EXACT)
u, v = torch.randn(2, 1, 8, generator=seed(2)).to(**EXACT)  # (1, 8) each

# %%
whole = without_constant(f, 2 * u + 3 * v)  # (1, 3)
parts = 2 * without_constant(f, u) + 3 * without_constant(f, v)  # (1, 3)
claim("without its constant the layer is linear", whole, equals=parts, within=1e-12)

# %% [markdown]
# And with the constant? Five biases on one side, one on the other: four must be left.

# %%
left_over = 2 * f(u)[0] + 3 * f(v)[0] - f(2 * u + 3 * v)[0]  # (3,)
claim("with it, four biases are left over", left_over, equals=4 * f.bias, within=1e-12)

# %% [markdown]
# Layers are made to be composed: the output of one is the input of the next. `nn.Sequential` does that, and is a
# module again. But two linear layers in a row are no more than one. Multiply out $W_2 (W_1 x + b_1) + b_2$, and there
# is a single matrix $W_2 W_1$ and a single constant $W_2 b_1 + b_2$. This is why models alternate linear layers with
# others that are not linear; section 4.3 is about those. Section 3.5 has shown what can be built when something bends
# between them.

# %%
first, second = ByHand(8, 5).to(**EXACT), ByHand(5, 3).to(**EXACT)
two = nn.Sequential(first, second)

# %% [markdown]
# We make the single layer that should do the same, and write the two products into it. `torch.no_grad()` tells
# PyTorch not to take this for a part of the model's computation.

# %%
merged = ByHand(8, 3).to(**EXACT)
with torch.no_grad():
    merged.weight.copy_(second.weight @ first.weight)  # (3, 8)
    merged.bias.copy_(second.weight @ first.bias + second.bias)  # (3,)
claim("two linear layers in a row are one", two(u), equals=merged(u), within=1e-12)

# %% [markdown]
# Now a small network for digits, in the style of the earliest convolutional ones. Of its layers only two kinds have
# parameters: the convolutions, which move a small window of weights over the image (section 4.2), and the fully
# connected layers, which are what we have built above, `nn.Linear`: each output is connected to each input. The
# others, ReLU (4.3), max pooling (4.4) and flatten, which only lines up all numbers in one row, have none. The first
# number of a convolution is the channels that come in, the second those that go out; a grey image has one.

# %%
seed(3)
network = nn.Sequential(
    nn.Conv2d(1, 6, kernel_size=5),  # (N, 6, 24, 24)
    nn.ReLU(),
    nn.MaxPool2d(2),  # (N, 6, 12, 12)
    nn.Conv2d(6, 16, kernel_size=5),  # (N, 16, 8, 8)
    nn.ReLU(),
    nn.MaxPool2d(2),  # (N, 16, 4, 4)
    nn.Flatten(),  # (N, 256)
    nn.Linear(256, 84),  # (N, 84)
    nn.ReLU(),
    nn.Linear(84, 10),  # (N, 10)
).to(DEVICE)

# %%
digit = mnist("test", DEVICE)[0][2:3]  # (1, 1, 28, 28)

# %% [markdown]
# What happens between the layers can be watched. A *hook* is a function that a module calls each time it has computed
# something. Ours writes down the name of the layer's class and keeps its output. We let the network run on one digit,
# and the list fills. Then the hooks are taken off again. (The list is emptied first, so that the cell can be run
# twice.)

# %%
seen = []


def keep(module: nn.Module, inputs: tuple, result: Tensor) -> None:
    """Called after each layer: keep what it is called and what came out."""
    seen.append((type(module).__name__, result.detach()))


# %%
seen.clear()
hooks = [part.register_forward_hook(keep) for part in network]
scores = network(digit)  # (1, 10)
for hook in hooks:
    hook.remove()

# %%
for name, result in seen:
    print(f"{name:10s}", tuple(result.shape))

# %% [markdown]
# The first number is the batch, here one image. The others follow from the hyper-parameters. A window of size 5 fits
# into a row of 28 pixels at $28 - 5 + 1 = 24$ places. Pooling keeps one number of each 2 × 2, so 12 are left, then
# $12 - 5 + 1 = 8$, then 4; and 16 channels of 4 × 4, also called maps, are the 256 numbers that the first fully
# connected layer takes. Such sums must come out right, or the next layer refuses its input. A convolution from $C$ to
# $C'$ channels has $C' (C K^2 + 1)$ parameters: for each output channel one window, as deep as the input has
# channels, and one bias.

# %%
side = [28 - 5 + 1, (28 - 5 + 1) // 2, (28 - 5 + 1) // 2 - 5 + 1]
claim("sides of the maps", [seen[k][1].shape[-1] for k in (0, 2, 3)] == side)

# %% [markdown]
# For the costs, each layer must run on what it had as input, which is what the layer before it has given. All that
# the hooks have kept, moved on by one place, with the digit in front.

# %%
inputs = [digit, *[result for _, result in seen[:-1]]]  # of each layer: what the one before gave
each = [cost(part, x) for part, x in zip(network, inputs, strict=True)]
by_formula = [6 * (1 * 5**2 + 1), 16 * (6 * 5**2 + 1), 84 * (256 + 1), 10 * (84 + 1)]
claim("parameters of the four layers that have some", [p for p, _ in each if p] == by_formula)

# %% [markdown]
# A picture of a network as boxes and arrows is called a schematic. To draw one by hand invites mistakes, so
# `schematic` draws it from the module, and does what we have just done: it lets the module run and writes down what
# is computed, from what, and in which shape. Layers with parameters are pink, operations without grey. The signal
# goes from the bottom to the top, and each arrow has the shape of the tensor that travels along it, without the
# batch. On the right is the signal itself, at six of these stages (each channel stretched to the full range from
# black to white). The weights are still those drawn at random, so the six windows of the first convolution see the
# digit each in its own accidental way.


# %% tags=["export"]
def strip(maps: Tensor) -> Tensor:
    """The channels (C, H, W) side by side, each stretched to the range from 0 to 1, with white in between."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    framed = F.pad((maps - low) / (high - low + 1e-9), (0, 1), value=1)  # (C, H, W + 1)
    return torch.cat(list(framed), dim=1)  # (H, C * (W + 1))


# %%
rows = [("84 numbers, after ReLU", seen[8][1][:, None]), ("pooled: 16 × 4 × 4", seen[5][1])]
rows += [("16 × 8 × 8", seen[3][1]), ("6 × 24 × 24", seen[0][1]), ("a digit: 1 × 28 × 28", digit)]

# %% [markdown]
# The rows are listed from the top of the picture to the bottom, that is, from the end of the network to its start.
# The 84 numbers get a place as a single row of pixels.

# %%
fig = plt.figure(figsize=(8.5, 6.4))
left, right = fig.subfigures(1, 2, width_ratios=[1, 2.1])
graph = left.subplots()
said = schematic(graph, network, digit, names={"input": "a digit"}, output="scores", size=9)
axes = right.subplots(6, 1, height_ratios=[1.3, 0.6, 1, 1, 1.5, 1.9])
axes[0].bar(range(10), scores[0].detach().cpu(), color=color.output)
axes[0].set(xticks=range(10), yticks=[])
axes[0].set_title("10 scores, one for each digit", size=10, weight="normal")
for ax, (title, maps) in zip(axes[1:], rows, strict=True):
    ax.imshow(strip(maps[0].reshape(-1, *maps.shape[-2:])).cpu())
    ax.set(xticks=[], yticks=[], anchor="W")
    ax.set_title(title, size=10, weight="normal")
    ax.spines[:].set_visible(False)
axes[1].set_aspect("auto")  # 84 pixels in a row would be a thin line
figure("4.1a", "A small network, drawn by running it, and the signal on its way.", said, fig)

# %% [markdown]
# Read it from below. The six maps are still pictures of a seven: each window has found its own kind of edge in it. In
# the sixteen maps above one has to guess, and in the 84 numbers, place means nothing any more. Height and width
# shrink on the way, the number of channels grows. That is the shape of most networks for images: from many places
# with little to say about each to few places with much.

# %% [markdown]
# What do hyper-parameters cost? For the widget we build a network of the same kind with a kernel size $K$, a stride
# $S$ (how far the window moves at each step) and a width $C$, the number of channels, of our choice; without ReLU and
# pooling, to keep it short: two convolutions, the second with $2C$ channels, then two fully connected layers. Three
# things matter for each layer: how many numbers come out, which must be kept in memory for the backward pass; how
# many parameters it has; how many multiplications it makes. PyTorch has a device made for such questions. Tensors on
# `meta` have shapes and no contents, so that a module on it computes nothing, and still says which shapes would come
# out, and what it would have cost. `.detach()` cuts the record of the computation, which nobody needs here.


# %%
def costs(kernel: int, stride: int, width: int) -> list[tuple[tuple, int, int]]:
    """For each layer of a network on 28 × 28 images: the shape that comes out, parameters, multiplications."""
    with torch.device("meta"):
        x = torch.zeros(1, 1, 28, 28)
        parts = [nn.Conv2d(1, width, kernel, stride), nn.Conv2d(width, 2 * width, kernel, stride)]
        features = parts[1](parts[0](x)).numel()
        parts += [nn.Flatten(), nn.Linear(features, 64), nn.Linear(64, 10)]
        found = []
        for part in parts:
            counted = cost(part, x)
            x = part(x).detach()
            found.append((tuple(x.shape[1:]), *counted))
    return found


# %%
NAMES = ["convolution", "convolution", "flatten", "fully connected", "fully connected"]

# %% [markdown]
# The picture has one row for each layer, the first at the bottom, and a bar for each of the three numbers. The scales
# are logarithmic, so that from one mark to the next is a factor of a hundred: a bar that looks a little longer may be
# ten times as much.


# %%
def scene(fig):
    """Five layers from the bottom up, with three bars each on logarithmic scales: numbers out, and costs."""
    axes = fig.subplots(1, 3, sharey=True)
    titles = ["numbers that come out", "parameters", "multiplications"]
    bars, texts = [], []
    shades = [color.model, color.weights, color.gradient]
    for ax, title, shade in zip(axes, titles, shades, strict=True):
        bars.append(ax.barh(range(5), [1] * 5, height=0.55, color=shade, left=1))
        texts.append([ax.text(1.3, n + 0.3, "", va="bottom", size=10) for n in range(5)])
        ax.set(title=title, xlim=(1, 2e7), ylim=(-0.5, 4.8), yticks=range(5), yticklabels=NAMES)
        log_scale(ax.xaxis, [1, 1e2, 1e4, 1e6])
        ax.set_xticklabels(["1", "100", "10,000", "1 million"])

    def update(kernel, stride, width):
        found = costs(kernel, stride, width)
        for n, (shape, parameters, products) in enumerate(found):
            counts = (math.prod(shape), parameters, products)
            words = (" × ".join(f"{size:,}" for size in shape), f"{parameters:,}", f"{products:,}")
            for m in range(3):
                bars[m][n].set_width(max(counts[m] - 1, 0))
                texts[m][n].set_text(words[m])
        totals = [sum(row[k] for row in found) for k in (1, 2)]
        share = max(row[1] for row in found) / totals[0]
        said = f"{totals[0]:,} parameters, {share:.0%} of them in one layer; {totals[1]:,} multiplications"
        return f"{said}; the second convolution gives {' × '.join(map(str, found[1][0]))}"

    return update


# %%
knobs = {"kernel": slider(1, 7, 5), "stride": slider(1, 3, 1), "width": slider(2, 32, 8, 2)}
explore(scene, "4.1b", "What hyper-parameters cost, layer by layer.", (8.5, 3.7), **knobs)

# %% [markdown]
# At the start nearly all parameters sit in one fully connected layer, and most multiplications in one convolution. A
# convolution uses each of its weights at hundreds of places; a fully connected layer uses each once. Move the stride
# to 2: the convolutions keep all their parameters and make a fraction of the multiplications, and the fully connected
# layer shrinks, since fewer numbers reach it. Double the width, and the parameters of the second convolution nearly
# quadruple (its weights do exactly), for it has twice as many inputs *and* twice as many outputs. Go back to stride
# 1, last. A larger kernel costs the convolutions more weights and leaves fewer places for the layer above, so that
# the total of the parameters falls. (With larger strides it may also rise. Why?)

# %%
narrow, wide = costs(5, 1, 8), costs(5, 1, 16)
factor = (wide[1][1] - 32) / (narrow[1][1] - 16)  # without the biases, 2 C of them
claim("twice the width, second convolution: factor of its weights", factor, equals=4.0)

# %%
share = narrow[3][1] / sum(parameters for _, parameters, _ in narrow)
claim("share of the parameters in the first fully connected layer", share, at_least=0.9)

# %% [markdown]
# This lopsided budget is old. In AlexNet, the network of 2012 with which deep learning took over the recognition of
# images, three fully connected layers hold 59 of 61 million parameters. Later networks average over all places before
# their last layer, and need only one that is small.

# %% [markdown]
# **Exercise.** Write the function that counts the trainable parameters of a model: single numbers, not tensors, so
# that a matrix of 3 × 5 counts 15. Two things must not be counted: parameters that were frozen, that is, whose
# `requires_grad` is False, and what a module keeps without training it. (Batch normalization, section 4.6, keeps
# averages of the data in this way: they are in `state_dict()`, but are no parameters.) A layer that is used twice in
# a model counts once.


# %% tags=["exercise"]
def trainable_parameters(model: nn.Module) -> int:
    """How many numbers training may change."""
    raise NotImplementedError


shared, frozen, normed = nn.Linear(5, 5), nn.Linear(4, 3), nn.BatchNorm1d(7)
frozen.bias.requires_grad = False
check(
    trainable_parameters,
    ("a linear layer from 5 to 3 has 3 x 5 + 3", lambda g: (g(nn.Linear(5, 3)), 18)),
    ("with a frozen bias, 4 x 3 weights are left", lambda g: (g(frozen), 12)),
    ("batch normalization of 7 channels has 7 + 7", lambda g: (g(normed), 14)),
    ("a layer used twice counts once", lambda g: (g(nn.Sequential(shared, nn.ReLU(), shared)), 30)),
)


# %% tags=["solution", "hide-input"]
def trainable_parameters(model: nn.Module) -> int:
    """parameters() goes into all parts of a model, gives no buffers, and gives nothing twice."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# %% [markdown]
# ## 4.2 Linear layers
#
# Most of what a network computes, and nearly all of its weights, sit in two kinds of layers: fully connected ones and
# convolutional ones. Both multiply their inputs by weights and add up, then add a constant to each sum. For a
# mathematician that is not linear but *affine*, because of the constant; the field says linear all the same. It is in
# these layers that a network does nearly all of its learning. What stands between them, in the sections to come, has
# few weights or none.
#
# ### Fully connected layers
#
# A **fully connected layer** computes every output from all inputs. It has a table of weights $W$, of shape
# $D' \times D$, with a row for each output and a column for each input, and a **bias vector** $b$ with one number for
# each output. Its output $y = W x + b$ is an **affine operation** of the input:
#
# $$y_i = \sum_{j=1}^{D} W_{i,j}\, x_j + b_i$$
#
# Word for word, for a single input of $D$ numbers:


# %%
def by_loops(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """A fully connected layer, for x (D,), W (D', D) and b (D',): one sum for each output."""
    sums = [sum(W[i, j] * x[j] for j in range(len(x))) + b[i] for i in range(len(b))]
    return torch.stack(sums)  # (D',)


# %% [markdown]
# Signals seldom come as a single list of numbers. They come as a batch of them, or as a batch of images with $D$
# channels at each pixel. The layer does not mind. Whatever the shape of its input, it takes the last dimension as the
# $D$ numbers, and applies *the same* operation at each position of all dimensions before. In `einsum`, the three dots
# stand for those. In code, $D'$ is called `E`, and in `einsum`, `e`.


# %% tags=["export"]
def fully_connected(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """A fully connected layer at every position of x (..., D), for W (D', D) and b (D',): (..., D')."""
    return torch.einsum("...d,ed->...e", x, W) + b


# %%
chance = seed(1)
x, W, b = (torch.randn(s, generator=chance).to(**EXACT) for s in ((2, 3, 5), (4, 5), (4,)))
at_once = fully_connected(x, W, b).flatten(0, 1)  # (6, D')
looped = torch.stack([by_loops(position, W, b) for position in x.flatten(0, 1)])  # (6, D')
claim("a fully connected layer, position by position", at_once, equals=looped, within=1e-12)

# %% [markdown]
# PyTorch's layer is `nn.Linear`. To compare it with ours, it must have the same weights, and we want the gradients of
# both, with respect to the input, the weights and the biases. `functional_call` runs a module with weights that it is
# handed in place of its own, so that those count as inputs. And `difference`, from the set-up, takes the largest
# deviation in the output and in all three gradients.


# %%
def module(layer: nn.Module) -> Callable:
    """A layer of PyTorch as a function of its input, weights and biases."""
    return lambda x, w, b: functional_call(layer, {"weight": w, "bias": b}, (x,))


# %%
def linear_gap(dtype: torch.dtype, cases: int = 20) -> float:
    """Largest difference between our layer and torch's, over random shapes with 0 to 3 dimensions before D."""
    chance, gaps = seed(2), []
    for case in range(cases):
        *before, D, E = torch.randint(1, 7, (case % 4 + 2,), generator=chance).tolist()
        shapes = ((*before, D), (E, D), (E,))
        x, W, b = (torch.randn(s, generator=chance).to(DEVICE, dtype) for s in shapes)
        gaps.append(difference(fully_connected, module(nn.Linear(D, E)), x, W, b))
    return max(gaps)


# %% [markdown]
# Twenty random shapes, from a single vector to three dimensions of positions; once with numbers of 64 bits, once of
# 32. The two add in different orders and so round differently; with fewer bits these errors are larger, hence the
#   wider tolerance.

# %%
claim("fully connected and nn.Linear, 20 shapes, 64 bits", linear_gap(torch.float64), at_most=1e-12)
claim("fully connected and nn.Linear, 20 shapes, 32 bits", linear_gap(torch.float32), at_most=1e-4)

# %% [markdown]
# What does it cost? $D' \times D$ weights and $D'$ biases to store, and $D' \times D$ multiplications for each
# position. `cost` counts both while the layer runs.

# %%
positions, D, E = 7, 30, 20
expected = (E * D + E, positions * E * D)
counted = cost(nn.Linear(D, E).to(DEVICE), torch.rand(positions, D, device=DEVICE))
claim("cost of a fully connected layer", counted == expected)

# %% [markdown]
# That is harmless for a hundred channels. For whole signals it is not. A colour image of 256 by 256 pixels is a list
# of $256 \cdot 256 \cdot 3 = 196{,}608$ numbers. A layer that turns it into another of that size needs the square of
# this, and we can ask PyTorch for such a layer, provided that it lives on the device `meta`, where tensors have
# shapes but no memory.

# %%
D = 256 * 256 * 3
weights, products = cost(nn.Linear(D, D, device="meta"), torch.empty(D, device="meta"))
print(f"{weights:,} weights and biases, {4 * weights / 1e9:.0f} GB in FP32; {products:,} products")
claim("products of a dense layer between two images", products, at_least=3.8e10, at_most=4e10)

# %% [markdown]
# Forty billion weights, as the book says, for one layer. And they would be badly spent. To see it, we watch a single
# row of weights at work on a real signal, a spoken word: 8,000 numbers a second, the pressure of the air. One row
# gives one output, the sum of the products of signal and row. Of all rows whose squares have the same sum, the one
# that answers most to our word is the word itself, up to a factor. We choose the factor so that the answer is 1. Then
# we say the word later: `roll` moves it along, and brings what leaves at the end back in at the beginning.


# %% tags=["export"]
def spoken(word: str, where: torch.device | str = "cpu") -> Tensor:
    """A word said by the human voice, (T,), at 8,000 samples a second."""
    said = speech("human", where)
    n = (said.words == said.vocabulary.index(word)).nonzero()[0].item()
    return said.waves[n, : said.lengths[n]]


# %%
word = spoken("march", DEVICE)  # (T,)
row = word / word.square().sum()  # (T,) one row of weights
later = row @ word.roll(16)  # 16 samples are 2 ms
print(f"{len(word)} samples; answer to the word {row @ word:.2f}, 2 ms later {later:.2f}")
claim("the answer of a row to its word, said 2 ms later", later, at_most=-0.4)

# %% [markdown]
# Say the word two thousandths of a second later, which no ear would notice, and the answer is not a little smaller:
# it is negative. Move the slider. The word (dark) slides over the row (pink, enlarged); of both we see 40 ms. Below
# are the products of these 40 ms, and on the right their sum over the whole word, for all delays. Peaks that should
# meet peaks meet valleys. At 4.6 ms, one period of the voice, they meet the next peaks.

# %%
delays = range(-80, 81)  # in samples, 8 of which are a millisecond
answers = [(row @ word.roll(d)).item() for d in delays]
sound, pattern = word.cpu(), row.cpu()  # for drawing
time = torch.arange(len(sound)) / 8  # in ms
near = slice(1500, 1820)  # 40 ms of the vowel


# %%
def scene(fig):
    """Left, 40 ms of the word and of a row of weights, and their products. Right, the output for all delays."""
    axes = fig.subplot_mosaic([["both", "sum"], ["product", "sum"]], width_ratios=[2, 1])
    both, product, total = axes["both"], axes["product"], axes["sum"]
    both.plot(time[near], sound[near], color=color.weights, lw=4, alpha=0.35)
    moved, parts = (ax.plot(time[near], sound[near], lw=1.2)[0] for ax in (both, product))
    moved.set_color(color.data)
    parts.set_color(color.output)
    total.plot([d / 8 for d in delays], answers, color=color.output, lw=1.2)
    (dot,) = total.plot([], [], "o", color=color.output, ms=8)
    both.set(xticks=[], yticks=[], title="The word, over a row of weights")
    product.set(ylim=(-0.0028, 0.0044), yticks=[0], xlabel="time (ms)", ylabel="products")
    total.set(xlabel="delay (ms)", title="The output", ylim=(-0.7, 1.1), yticks=[0, 1])

    def update(delay_in_ms):
        delay = round(8 * delay_in_ms)
        moved.set_ydata(sound.roll(delay)[near])
        parts.set_ydata((pattern * sound.roll(delay))[near])
        answer = answers[delay + 80]
        dot.set_data([delay_in_ms], [answer])
        return f"delayed by {delay_in_ms:g} ms, the word makes the row answer {answer:.2f}"

    return update


# %%
delay = slider(-10.0, 10.0, 2.0, 0.125)
explore(scene, "4.2a", "One row of weights knows one place.", (7.5, 3), delay_in_ms=delay)

# %% [markdown]
# A fully connected layer would have to learn the word once for each moment at which it may begin, from examples for
# each. But a sound is the same sound whenever it is made, and an edge is an edge wherever it is in a photograph.
# Signals look alike everywhere. A layer that knows this needs far fewer weights.
#
# ### Convolutional layers
#
# A **convolutional layer** is a small fully connected layer that is moved along the signal. In one dimension its
# input has the shape $D \times T$: at each of $T$ moments there are $D$ numbers, the channels. The layer looks at $K$
# moments at a time. These $D \times K$ numbers go through one affine operation with $D'$ outputs; then it moves on by
# one moment and does the same, *with the same weights*, and so to the end.
#
# $K$ is the **kernel size**, also called filter size. The weights have the shape $D' \times D \times K$: there are
# $D'$ **filters**, each with $K$ weights for each input channel. A window of length $K$ fits into a signal of length
# $T$ in $T - K + 1$ places, so the output is $D' \times (T - K + 1)$. Such an output is an **activation map**, since
# it tells for each filter where in the signal it was activated. The operation is called **convolution**. (In
# mathematics the word stands for a version in which the filter is turned round. Since the weights are learned, that
# makes no difference, and deep learning does without.) Here it is in code, for a batch of $N$ signals at a time.


# %%
def moved_along(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A convolution of x (N, D, T) with w (D', D, K) and b (D',): one affine operation, at all places."""
    T, K = x.shape[2], w.shape[2]
    windows = [x[:, :, t : t + K].flatten(1) for t in range(T - K + 1)]  # (N, D K) each
    return torch.stack([fully_connected(window, w.flatten(1), b) for window in windows], dim=2)


# %%
chance = seed(3)
x, w, b = (torch.randn(s, generator=chance).to(**EXACT) for s in ((2, 3, 9), (4, 3, 5), (4,)))
gap = difference(moved_along, F.conv1d, x, w, b)
claim("an affine operation moved along the signal is torch's convolution", gap, at_most=1e-12)

# %% [markdown]
# That is all there is to it. With one channel and the filter $(1, 2, 3)$ one can do it by hand: where the input reads
# $0, 1, 3$, the output is $0 \cdot 1 + 1 \cdot 2 + 3 \cdot 3 = 11$.
#
# Leave the bias aside. Being made of sums of products, a convolution is itself a product with some large matrix, as
# every fully connected layer is. Which one? Push a signal through that is 1 at one moment and 0 elsewhere: what comes
# out is a column of the matrix. All these signals at once are the rows of `torch.eye`.


# %%
def matrix_of(layer: Callable, T: int) -> Tensor:
    """The matrix (T', T) of a linear layer from one channel to one channel."""
    impulses = torch.eye(T, **EXACT)[:, None]  # (T, 1, T): signal t is 1 at moment t
    return layer(impulses)[:, 0].mT  # (T', T)


# %%
kernel = torch.tensor([[[1, 2, 3]]], **EXACT)  # (1, 1, 3)
nothing = torch.zeros(1, **EXACT)  # no bias
A = matrix_of(lambda x: moved_along(x, kernel, nothing), T=14)  # (12, 14)
x = torch.randn(1, 1, 14, generator=seed(4)).to(**EXACT)
y = F.conv1d(x, kernel)[0, 0]  # (12,)
claim("a convolution is a product with its matrix", A @ x[0, 0], equals=y, within=1e-12)

# %% [markdown]
# This matrix has 12 rows and 14 columns, but only three different numbers besides zero. Each row is the one above,
# one place further to the right, so that the matrix is constant along its diagonals. A fully connected layer of the
# same shape is free to choose all 168. The two pictures below show what a convolution knows beforehand: that numbers
# far apart have nothing to do with each other, and that all places are alike. The longer the signal, the more this
# saves. For our word, a fully connected layer that gives as many numbers as it takes has 35 million weights; a
# convolution with a kernel of size 3 still has three.

# %%
claim("the matrix is constant along its diagonals", A[1:, 1:], equals=A[:-1, :-1])
claim("different numbers in it, besides zero", len(A[A != 0].unique()), equals=3)

# %%
tables = {"Fully connected": torch.rand(12, 14, generator=seed(5)) * 3, "Convolution": A.cpu()}
shades = LinearSegmentedColormap.from_list("weights", ["white", color.weights])
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
said = []
for ax, (name, table) in zip(axes, tables.items(), strict=True):
    ax.pcolormesh(table.flip(0), cmap=shades, vmin=0, vmax=3.5, edgecolor="#dddddd", lw=0.5)
    numbers = len(table[table != 0].unique())
    ax.set(aspect="equal", xticks=[], yticks=[], xlabel="14 inputs", ylabel="12 outputs")
    ax.set_title(f"{name}: {numbers} numbers")
    ax.spines[:].set_visible(False)
    said.append(f"{name}: {(table != 0).sum()} entries not zero, {numbers} different values")
for i, j in A.nonzero().tolist():
    axes[1].text(j + 0.5, 11.5 - i, f"{A[i, j]:.0f}", ha="center", va="center", fontsize=9)
figure("4.2b", "Two layers as matrices.", "; ".join(said) + ".")

# %% [markdown]
# The matrix has a second use. Multiplied by its *transpose*, with rows and columns exchanged, signals travel the
# other way: from the 12 outputs back to the 14 inputs, along the same wires, with the same weights on them. That is a
# **transposed convolution**. Without padding, a convolution makes a signal shorter; its transpose makes it longer.
# Each number of its input lays a copy of the kernel, multiplied by that number, into the output, and where copies
# overlap they add up.
#
# Two small helpers turn a matrix into a picture of wires. The longer signal is a row of cells side by side. Each cell
# of the shorter one stands in the middle of the cells that it is wired to; a wire is where the matrix is not zero.


# %%
def wires(wired: Tensor, size=1.0, transposed=False) -> tuple[Tensor, Tensor, Tensor]:
    """Where the cells are, (long, 2) and (short, 2), and the two ends of each wire, (M, 2, 2)."""
    height, count = -2.4 if transposed else 2.4, wired.shape[1]
    x = (torch.arange(count) - (count - 1) / 2) * size  # (long,)
    middle = (wired * x).sum(1) / wired.sum(1)  # (short,)
    long = torch.stack([x, torch.full_like(x, height)], dim=1)  # (long, 2)
    short = torch.stack([middle, torch.full_like(middle, -height)], dim=1)  # (short, 2)
    i, j = wired.nonzero().T  # (M,), (M,)
    return long, short, torch.stack([long[j], short[i]], dim=1)


# %%
def squares(at: Tensor, strong: Tensor, shade: str, size: float = 1, padding: int = 0) -> dict:
    """Cells around the places `at` (M, 2) and their colours: full, pale, or white for padding."""
    corners = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size * 0.42  # (4, 2)
    full = torch.tensor(to_rgb(shade))
    tints = torch.where(strong[:, None], full, 0.3 * full + 0.7)  # (M, 3)
    blank = torch.arange(len(at)).sub((len(at) - 1) / 2).abs() > (len(at) - 1) / 2 - padding
    tints[blank] = 1
    return {"verts": (at[:, None] + corners).numpy(), "facecolors": tints.numpy()}


# %% [markdown]
# A third puts them on the page: all wires grey and thin, those of one cell of the shorter signal, the chosen one,
# pink and thick, and the cells at their ends in full colour. Inputs are light blue and stand above, outputs are
# violet and stand below. A fourth writes numbers into cells.


# %%
def draw_layer(ax, wired: Tensor, chosen: int, padding: int = 0, transposed: bool = False) -> tuple:
    """Cells and wires of a layer; returns where the cells and the chosen wires are."""
    long, short, lines = wires(wired, transposed=transposed)
    strong = torch.arange(len(wired)) == chosen  # (short,)
    mine = lines[strong[wired.nonzero()[:, 0]]]  # (K, 2, 2)
    ax.add_collection(LineCollection(lines, colors=color.quiet, lw=0.8))
    ax.add_collection(LineCollection(mine, colors=color.weights, lw=2))
    longer, shorter = (color.output, color.input) if transposed else (color.input, color.output)
    looks = squares(long, wired[chosen], longer, 1, padding), squares(short, strong, shorter)
    for look in looks:
        ax.add_collection(PolyCollection(**look, edgecolors="#888888", lw=0.6, zorder=3))
    ax.set(xlim=(-5.6, 5.6), ylim=(-3, 3), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return long, short, mine


# %%
def write(ax, at: Tensor, numbers: Tensor, white=()) -> None:
    """Numbers in their cells, black or white."""
    for n, (place, number) in enumerate(zip(at.tolist(), numbers.tolist(), strict=True)):
        shade = "white" if n in white else "#222222"
        ax.text(*place, f"{number:.0f}", color=shade, ha="center", va="center", zorder=5)


# %% [markdown]
# So here are both. Wires, weights and results are read off the matrix. On the left, follow the pink wires: one output
# gathers from three inputs. On the right, one input spreads over three outputs. The signal there is 1 and 2 at two
# moments and 0 elsewhere, so one sees two copies of the kernel, $1, 2, 3$ and $2, 4, 6$. They overlap in one cell,
# and add up there: $3 + 2 = 5$.

# %% tags=["figure-4.1"]
A = matrix_of(lambda x: moved_along(x, kernel, nothing), T=8).cpu()  # (6, 8)
x, z = torch.tensor([0, 1, 3, 2, 0, 0, 1, 0]), torch.tensor([1, 0, 2, 0, 0, 0])
y, spread_out = A @ x.double(), A.mT @ z.double()  # (6,), (8,)
fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.9))
pairs = ((axes[0], x, y, 1, ((), [1])), (axes[1], spread_out, z, 2, ([2, 3, 4], ())))
for ax, longer, shorter, chosen, white in pairs:
    long, short, mine = draw_layer(ax, A != 0, chosen, transposed=ax is axes[1])
    on_wires = 0.65 * mine[:, 0] + 0.35 * mine[:, 1]  # (K, 2)
    ax.scatter(*on_wires.T, s=190, color="white", edgecolor=color.weights, zorder=4)
    write(ax, on_wires, kernel.flatten())
    write(ax, long, longer, white[0])
    write(ax, short, shorter, white[1])
axes[0].set_title("Convolution: 8 to 6")
axes[1].set_title("Transposed convolution: 6 to 8")
x, y, z, spread_out = (signal.int().tolist() for signal in (x, y, z, spread_out))
said = f"Left, {x} becomes {y}. Right, {z} becomes {spread_out}. The kernel is 1, 2, 3."
figure("4.1", "A convolution and its transpose: the same wires, in opposite directions.", said)

# %% [markdown]
# ### Stride, padding and dilation
#
# Three more numbers say how the window moves. The **stride** $S$ is the length of its step. With $S = 2$ it visits
# every second place, and the output is about half as long. The **padding** $P$ is the number of zeros put before the
# signal, and as many after it, so that the window may stick out at both ends. The **dilation** $D$ spreads the $K$
# weights apart: with $D = 2$ they meet every second number of the signal. (One letter does double duty in this
# section. In shapes, $D$ is the number of channels; beside $S$ and $P$ it is the dilation.)
#
# How long is the output? Count places. A kernel that is not dilated fits first at the left end of the signal, which
# leaves $T - K$ numbers to its right; it can make one step for each $S$ of them, and so there are
#
# $$\frac{T - K}{S} + 1$$
#
# places, if the division leaves no remainder. If there is a remainder, the last numbers are not looked at, and the
# quotient is rounded down. Padding makes the signal $T + 2P$ long. A dilated kernel spans $D(K - 1) + 1$ numbers,
# from its first weight to its last. With these two in place of $T$ and $K$,
#
# $$T' = \left\lfloor \frac{T + 2P - D(K - 1) - 1}{S} \right\rfloor + 1.$$


# %% tags=["export"]
def output_size(T: int, K: int, S: int = 1, P: int = 0, D: int = 1) -> int:
    """Length of a convolution's output, for a signal of length T, kernel size, stride, padding and dilation.

    It is 0 where the kernel is longer than the padded signal.
    """
    return max(0, (T + 2 * P - D * (K - 1) - 1) // S + 1)


# %% [markdown]
# Here are all signals up to length 12, with all kernel sizes up to 12, strides up to 4, paddings from 0 to 3 and
# dilations up to 3: 6,912 combinations. For each, PyTorch convolves, and we look at the length of what comes out. It
# refuses to convolve where the kernel does not fit, which our function calls 0; so the two must agree on that, too.

# %% tags=["equation-conv-size"]
sizes = list(itertools.product(range(1, 13), range(1, 13), range(1, 5), range(4), range(1, 4)))
by_torch = []
for T, K, S, P, D in sizes:
    signal, ones = torch.ones(1, 1, T, device=DEVICE), torch.ones(1, 1, K, device=DEVICE)
    try:
        by_torch.append(F.conv1d(signal, ones, stride=S, padding=P, dilation=D).shape[2])
    except RuntimeError:
        by_torch.append(0)
formula = [output_size(*size) for size in sizes]

# %%
claim("output sizes of 6,912 convolutions", torch.tensor(formula), equals=torch.tensor(by_torch))
unfit = by_torch.count(0)
print(f"in {unfit:,} the kernel does not fit; the longest output has {max(by_torch)} numbers")

# %% [markdown]
# Now the layer itself, with all of this. `unfold` cuts the padded signal into windows, each as long as the span of
# the kernel, at steps of the stride; of each window every `dilation`-th number is kept. Then one `einsum` does all
# places at once.
#
# It also has PyTorch's last option, *groups*. So far every filter saw all input channels. With $G$ groups, channels
# and filters are dealt into $G$ equal parts, and a filter sees the channels of its own part only; the weights shrink
# to $D' \times D/G \times K$. In the code the dimension of channels is split in two, groups and what is in them.
#
# The letters of the `einsum` say what happens to each dimension. `n` counts the signals of the batch, `t` the places,
# `e` the filters: they are on the right of the arrow, and so they survive. `d` and `k`, the channels and the cells of
# the kernel, are not, and so are summed over. `g` is found in both tensors and survives: nothing is summed across
# groups.


# %% tags=["export"]
def conv1d(x: Tensor, w: Tensor, b=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """A convolution of x (N, D, T) with w (D', D / groups, K) and b (D',), or no biases: (N, D', T')."""
    span = dilation * (w.shape[2] - 1) + 1  # from the first weight to the last
    padded = F.pad(x, (padding, padding))  # (N, D, T + 2P)
    windows = padded.unfold(2, span, stride)[..., ::dilation]  # (N, D, T', K)
    windows = windows.unflatten(1, (groups, -1))  # (N, G, D/G, T', K)
    filters = w.unflatten(0, (groups, -1))  # (G, D'/G, D/G, K)
    y = torch.einsum("ngdtk,gedk->nget", windows, filters).flatten(1, 2)  # (N, D', T')
    return y if b is None else y + b[:, None]


# %% [markdown]
# Forty random layers put it to the test. Each has its own channels, groups, kernel size, stride, padding, dilation
# and length of the signal, which is always long enough for the kernel. As before, the output and the gradients with
# respect to the input, the weights and the biases must all agree. A window that starts one place too late, or a
# filter that listens to the wrong group, would show.


# %%
def random_layer(chance: torch.Generator) -> tuple[tuple[int, ...], dict[str, int]]:
    """Sizes (D, D', K, T) of a layer drawn at random, and its options."""
    G, D, E, K, S, P, dilation, more = torch.randint(1, 5, (8,), generator=chance).tolist()
    options = {"stride": S, "padding": P - 1, "dilation": dilation, "groups": G}
    return (G * D, G * E, K, dilation * (K - 1) + more + 6), options


# %%
def largest_gap(ours: Callable, theirs: type, dtype: torch.dtype) -> float:
    """Largest difference between our layer and torch's, outputs and gradients, over 40 random layers."""
    chance, gaps = seed(6), []
    for case in range(40):
        (D, E, K, T), options = random_layer(chance)
        if theirs is nn.ConvTranspose1d:  # of which more below
            options["output_padding"] = case % max(options["stride"], options["dilation"])
        layer = theirs(D, E, K, **options)
        shapes = ((2, D, T), layer.weight.shape, (E,))
        x, w, b = (torch.randn(s, generator=chance).to(DEVICE, dtype) for s in shapes)
        gaps.append(difference(partial(ours, **options), module(layer), x, w, b))
    return max(gaps)


# %%
gaps = [largest_gap(conv1d, nn.Conv1d, dtype) for dtype in (torch.float64, torch.float32)]
claim("conv1d and nn.Conv1d, 40 layers, 64 bits", gaps[0], at_most=1e-12)
claim("conv1d and nn.Conv1d, 40 layers, 32 bits", gaps[1], at_most=1e-4)

# %% [markdown]
# What it costs follows from its definition. There are $D'$ filters with $D/G \cdot K$ weights and a bias each, and
# every one of the $D' \times T'$ outputs takes $D/G \cdot K$ multiplications. The length of the signal enters the
# work, but not the number of weights.

# %%
chance, counted, expected = seed(7), [], []
for _ in range(20):
    (D, E, K, T), options = random_layer(chance)
    layer = nn.Conv1d(D, E, K, **options).to(DEVICE)
    counted.append(cost(layer, torch.rand(1, D, T, device=DEVICE)))
    weights = E * (D // options["groups"]) * K
    length = output_size(T, K, options["stride"], options["padding"], options["dilation"])
    expected.append((weights + E, weights * length))
claim("parameters and multiplications of 20 convolutions", counted == expected)

# %% [markdown]
# **Exercise.** Turn the formula round. A layer with these four numbers must give a certain number of outputs, one or
# more. How many numbers must its signal have at least? (Assume that the padding alone is not enough.) Begin at the
# end: all windows together reach from the first cell of the first to the last cell of the last. Padding provides some
# of these cells for nothing.


# %% tags=["exercise"]
def input_size(outputs: int, K: int, S: int = 1, P: int = 0, D: int = 1) -> int:
    """The least length of a signal from which a convolution makes so many outputs (one or more)."""
    raise NotImplementedError


check(
    input_size,
    ("5 outputs of a kernel of size 3 take 7 numbers", lambda g: (g(5, 3), 7)),
    ("with stride 2 they take 11", lambda g: (g(5, 3, 2), 11)),
    ("and 9 of these with padding 1", lambda g: (g(5, 3, 2, 1), 9)),
    ("with dilation 2, stride 3, padding 1 they take 15", lambda g: (g(5, 3, 3, 1, 2), 15)),
)


# %% tags=["solution", "hide-input"]
def input_size(outputs: int, K: int, S: int = 1, P: int = 0, D: int = 1) -> int:
    """The last window starts S (outputs - 1) after the first and is D (K - 1) + 1 long; 2 P cells are padding."""
    return S * (outputs - 1) + D * (K - 1) + 1 - 2 * P


# %% [markdown]
# To draw stride, padding and dilation, we let the layer say itself what it is connected to. A kernel of ones goes
# over impulses, as before, and wherever the output is not zero there is a wire. A convolution and its transpose have
# the same wires, so one table does for both, with a row for each cell of the shorter signal and a column for each
# cell of the longer one, its padding included.


# %%
def reach(T: int, K: int, S: int = 1, P: int = 0, D: int = 1, transposed=False) -> Tensor:
    """Which cells are wired, for an input of length T: (cells of the shorter signal, cells of the longer one)."""
    ones = torch.ones(1, 1, K)
    if transposed:
        return F.conv_transpose1d(torch.eye(T)[:, None], ones, stride=S, dilation=D)[:, 0] > 0
    if output_size(T, K, S, P, D) == 0:
        return torch.zeros(0, T + 2 * P, dtype=torch.bool)
    return F.conv1d(torch.eye(T + 2 * P)[:, None], ones, stride=S, dilation=D)[:, 0].mT > 0


# %% [markdown]
# One output and all that it sees is drawn strong. Look at what each option changes: the stride, the distance from one
# window to the next; the padding, how far windows stick out at the ends, where the white cells hold zeros; the
# dilation, the gaps inside a window.

# %% tags=["figure-4.3"]
fig, axes = plt.subplots(2, 2, figsize=(7.6, 4.1))
ways = {"Plain": (1, 0, 1), "Stride 2": (2, 0, 1), "Padding 1": (1, 1, 1), "Dilation 2": (1, 0, 2)}
said = []
for ax, (name, (S, P, D)) in zip(axes.flat, ways.items(), strict=True):
    wired = reach(9, 3, S, P, D)  # (T', T + 2P)
    chosen = len(wired) // 2
    long, *_ = draw_layer(ax, wired, chosen, P)
    write(ax, torch.cat([long[:P], long[len(long) - P :]]), torch.zeros(2 * P))
    ax.set_title(f"{name}: 9 to {len(wired)}")
    inputs = (wired[chosen].nonzero()[:, 0] - P + 1).tolist()
    said.append(f"{name}: {len(wired)} outputs, and number {chosen + 1} sees inputs {inputs}")
figure("4.3", "A kernel of size 3 moves over 9 inputs.", "; ".join(said) + ".")

# %% [markdown]
# With stride 2, neighbouring windows share one input instead of two, and there are about half as many. With padding
# 1, the signal comes out as long as it went in, which is why this pair, kernel size 3 and padding 1, is found in so
# many networks. With dilation 2, three weights look over five cells, and the neighbours of a cell that is seen are
# not: the window grows wider without growing dearer.
#
# Now all of it at once, live. Choose an output cell, one of the first twelve, and see what it is made of. Then look
# for the limits. Set the stride to 1. Which padding keeps the length when the kernel has 5 cells, and which when a
# kernel of 3 has dilation 2? With stride 4 and kernel size 2, which inputs does nobody see? When is the signal too
# short for the kernel? Last, turn the picture round: with *transposed* on, the shorter signal is the input, and white
# cells are cut off the output.


# %%
def in_words(T: int, K: int, S: int, P: int, D: int, transposed: bool) -> tuple[int, str]:
    """The number of outputs of a layer, and how it comes about."""
    outputs = (T - 1) * S + D * (K - 1) + 1 - 2 * P if transposed else output_size(T, K, S, P, D)
    if transposed:
        why = f"({T} − 1) · {S} + {D} · ({K} − 1) + 1 − 2 · {P} = {outputs}"
        return max(outputs, 0), f"outputs: {why}" if outputs > 0 else f"no output: {why}"
    why = f"({T} + 2 · {P} − {D} · ({K} − 1) − 1) / {S} + 1, rounded down, is {outputs}"
    span, padded = D * (K - 1) + 1, T + 2 * P
    lost = f"no output: the kernel is longer, {span}, than the padded signal, {padded}"
    return outputs, f"outputs: {why}" if outputs else lost


# %%
def seen_in_words(output: int, inputs: list[int], T: int) -> str:
    """Which inputs an output sees; those numbered below 1 or above T are padding."""
    real = [str(i) for i in inputs if 1 <= i <= T]
    zeros = f", and {len(inputs) - len(real)} of the zeros" if len(real) < len(inputs) else ""
    return (
        f"output {output} sees input {', '.join(real)}{zeros}"
        if real
        else f"output {output} sees no input"
    )


# %% [markdown]
# In the scene, `wired` has the cells of the longer signal in its columns. What one output sees is a row of it in a
# convolution, and a column in a transposed convolution; `mine` keeps only those wires. All the rest is moving the two
# rows of squares and the two bundles of lines to where `wires` and `squares` say.


# %%
def scene(fig):
    """Input cells above, output cells below. Thin wires: what is connected. Thick ones: what one output sees."""
    ax = fig.subplots()
    ax.set(xlim=(-14.6, 12.4), ylim=(-3.4, 3.4))
    ax.axis("off")
    for word, height, shade in (("input", 2.4, color.input), ("output", -2.4, color.output)):
        ax.text(-14.4, height, word, color=shade, va="center", fontsize=13, weight="bold")
    thin = ax.add_collection(LineCollection([], colors=color.quiet, lw=0.8))
    thick = ax.add_collection(LineCollection([], colors=color.weights, lw=2.5))
    look = {"edgecolors": "#888888", "lw": 0.6, "zorder": 3}
    cells, others = (ax.add_collection(PolyCollection([], **look)) for _ in range(2))

    def update(length, kernel_size, stride, padding, dilation, output_cell, transposed):
        layer = (length, kernel_size, stride, padding, dilation, transposed)
        outputs, words = in_words(*layer)
        wired = reach(*layer)  # (short, long)
        size = min(1.4, 24 / wired.shape[1])
        long, short, lines = wires(wired, size, transposed)
        cell, mine = min(output_cell, outputs) - 1, torch.zeros_like(wired)
        if outputs:
            line = (slice(None), cell + padding) if transposed else cell
            mine[line] = wired[line]
        thin.set_segments(lines.numpy())
        thick.set_segments(lines[mine[wired]].numpy())
        shades = (color.output, color.input) if transposed else (color.input, color.output)
        cells.set(**squares(long, mine.any(0), shades[0], size, padding))
        others.set(**squares(short, mine.any(1), shades[1], size))
        inputs = mine.any(1 if transposed else 0).nonzero()[:, 0] + 1 - padding * (not transposed)
        seen = seen_in_words(cell + 1, inputs.tolist(), length)
        return f"{words}; {seen}" if outputs else words

    return update


# %%
layer = {"length": slider(1, 12, 9), "kernel_size": slider(1, 6, 3), "stride": slider(1, 4, 2)}
layer |= {"padding": slider(0, 3, 1), "dilation": slider(1, 3, 1), "output_cell": slider(1, 12, 2)}
explore(scene, "4.2c", "What is connected to what.", (8.5, 2.2), **layer, transposed=toggle(False))

# %% [markdown]
# ### Transposed convolutions
#
# The transposed convolution takes the same options, and they mean the same wires. So the stride is now the distance
# between the copies of the kernel that the inputs lay down, and makes the output *longer*; the padding is *cut off*
# at both ends; the dilation spreads the copies out. In the code, first all products: every number of the input with
# every weight. Then `index_add` adds each of them into an output of zeros, at its place: the product of number $t$
# and weight $k$ belongs at `stride * t + dilation * k`.
#
# One option is new. A convolution with kernel size 3 and stride 2 makes 4 numbers of 9, and also of 10. On the way
# back from 4, which of the two is meant? `output_padding` says by how many numbers the output is to be longer, at its
# end. The weights have the shape $D \times D'/G \times K$, with the channels of the input first: it is the shape that
# they have in the convolution whose transpose this is.


# %% tags=["export"]
def conv_transpose1d(
    x: Tensor, w: Tensor, b=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> Tensor:
    """A transposed convolution of x (N, D, T) with w (D, D' / groups, K) and b (D',), or none: (N, D', T')."""
    t, k = (torch.arange(size, device=x.device) for size in (x.shape[2], w.shape[2]))
    x = x.unflatten(1, (groups, -1))  # (N, G, D/G, T)
    w = w.unflatten(0, (groups, -1))  # (G, D/G, D'/G, K)
    copies = torch.einsum("ngdt,gdek->ngetk", x, w).flatten(1, 2)  # (N, D', T, K)
    places = stride * t[:, None] + dilation * k  # (T, K)
    length = int(places.max()) + 1 + output_padding
    y = x.new_zeros(*copies.shape[:2], length)  # (N, D', length)
    y = y.index_add(2, places.flatten(), copies.flatten(2))[:, :, padding : length - padding]
    return y if b is None else y + b[:, None]


# %% [markdown]
# Again forty random layers, now with an output padding as well, which PyTorch wants to be smaller than the larger of
# stride and dilation.


# %%
gaps = [
    largest_gap(conv_transpose1d, nn.ConvTranspose1d, t) for t in (torch.float64, torch.float32)
]
claim("conv_transpose1d and torch's, 40 layers, 64 bits", gaps[0], at_most=1e-12)
claim("conv_transpose1d and torch's, 40 layers, 32 bits", gaps[1], at_most=1e-4)

# %% [markdown]
# Does it deserve its name? Three answers. First, its matrix must be the transpose of the convolution's, here with
# stride 2, padding 1 and dilation 2.

# %%
options = {"stride": 2, "padding": 1, "dilation": 2}
there = matrix_of(partial(conv1d, w=kernel, **options), T=13)  # (T', T)
back = matrix_of(partial(conv_transpose1d, w=kernel, **options), T=len(there))  # (T, T')
claim("the matrix of a transposed convolution is the transpose", back, equals=there.mT)

# %% [markdown]
# Second, without any matrix: for two lists of numbers write $\langle a, b \rangle$ for the sum of their products. The
# transpose of $A$ is the one operation with $\langle A x, y \rangle = \langle x, A^\top y \rangle$ for all $x$ and
# $y$. Third, what is it good for? The gradient of a convolution with respect to its input, which section 3.4 says is
# a product with the transposed Jacobian, must be a transposed convolution of the gradient that arrives, with the same
# weights. Whoever has trained a convolutional network has used transposed convolutions. Thirty random layers confirm
# both. The output padding must make up for what the stride rounded away.

# %%
chance, products, gradients = seed(9), [], []
for _ in range(30):
    (D, E, K, T), options = random_layer(chance)
    shapes = ((2, D, T), (E, D // options["groups"], K))
    x, w = (torch.randn(s, generator=chance).to(**EXACT) for s in shapes)
    y = conv1d(x.requires_grad_(), w, **options)  # (N, D', T')
    g = torch.randn(y.shape, generator=chance).to(y)  # the gradient that arrives
    lost = (T + 2 * options["padding"] - options["dilation"] * (K - 1) - 1) % options["stride"]
    back = conv_transpose1d(g, w, output_padding=lost, **options)  # (N, D, T)
    products.append(((y * g).sum() - (x * back).sum()).abs().item())
    gradients.append((torch.autograd.grad(y, x, g)[0] - back).abs().max().item())

# %%
claim("⟨A x, y⟩ and ⟨x, A' y⟩, largest difference", max(products), at_most=1e-10)
claim("the way back through a convolution is a transposed one", max(gradients), at_most=1e-12)

# %% [markdown]
# So it is a transpose, and brings the right *size* back: without output padding, its length is the answer to the
# exercise above. It is no inverse, and does not bring the numbers back.
#
# A remark for those who make images with it. When the kernel size is not a multiple of the stride, the outputs are
# not all reached by the same number of inputs. Take stride 2. With kernel size 3, it is two inputs for every other
# output and one for those between: signals come out with a ripple, images with a chequered pattern. With size 4 it is
# two for all, but for the ends. We count, away from the ends, for all kernels up to 12 and all strides up to the
# kernel size.

# %%
agrees = []
for S, K in itertools.combinations_with_replacement(range(1, 13), 2):  # S <= K
    ones = torch.ones(1, 1, 40, device=DEVICE)
    inputs = conv_transpose1d(ones, torch.ones(1, 1, K, device=DEVICE), stride=S)[0, 0, K:-K]
    equal = (inputs.min() == inputs.max()).item()
    agrees.append(equal == (K % S == 0))
claim("outputs have equally many inputs just where S divides K", all(agrees) and len(agrees) == 78)

# %% [markdown]
# ### A spoken word
#
# What do such layers do to a real signal? We return to the word *march*, which has three very different sounds. The
# *m* is a hum. The vowel *ar* is loud and rich. After a short silence, *ch* is a hiss, far weaker than the vowel.
# Here we choose the weights ourselves. In a network they are learned, and what the first layers learn from sound or
# images often looks much like these.
#
# The two simplest filters come first. *Smoothing* replaces each number by the mean of a few around it. *Differencing*
# subtracts from each number the one before. To compare them we look at the strength of a sound, the root of its mean
# square, in the hiss and in the vowel. (Both filters are divided by seven, the second for convenience only. A factor
# makes hiss and vowel equally weaker.)

# %%
SOUNDS = {"m": slice(400, 1050), "ar": slice(1300, 3300), "ch": slice(4600, 5200)}


def strength(signal: Tensor, sound: str) -> Tensor:
    """Root of the mean square of a signal (..., T) during a sound: (...)."""
    return signal[..., SOUNDS[sound]].square().mean(-1).sqrt()


# %%
w = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, -1, 1, 0, 0, 0]]) / 7  # (D', K) = (2, 7)
maps = conv1d(word[None, None], w[:, None].to(DEVICE), padding=3)[0]  # (D', T)
before = strength(word, "ch") / strength(word, "ar")
after = strength(maps, "ch") / strength(maps, "ar")  # (2,)
smooth, rough = after / before
claim("smoothing: the hiss against the vowel, as a multiple of before", smooth, at_most=0.5)
claim("differencing: the hiss against the vowel, as a multiple of before", rough, at_least=2)

# %% [markdown]
# Smoothing keeps what changes slowly, and so takes the hiss away: beside the vowel it is now at most half as strong
# as before. Differencing keeps what changes quickly, and brings the hiss out, at least twofold. The same operation,
# seven weights at every place, and only their values differ.
#
# Other filters listen for one pitch. A *wavelet* is a wave of a certain frequency that swells and fades within the
# window. Where the signal contains a wave of that frequency, the sums of products are large. They swing from positive
# to negative as the waves run through each other, so we take two wavelets, shifted by a quarter of a wave: when one
# is at zero, the other is at its peak, and the root of the sum of their squares does not swing.
#
# Our window, `hump`, is half a wave of a sine, squared; all humps below are scaled so that their weights add up to
# one.


# %%
def hump(K: int) -> Tensor:
    """K weights (K,) that rise and fall, and add up to 1."""
    weights = torch.sin(math.pi * (torch.arange(K) + 0.5) / K) ** 2
    return weights / weights.sum()


# %%
def wavelets(frequencies: Tensor, K: int) -> Tensor:
    """For each frequency in Hz (M,), a pair of waves in a window of odd length K: filters (2 M, 1, K)."""
    phase = 2 * math.pi * frequencies[:, None] * (torch.arange(K) - K // 2) / SAMPLE_RATE  # (M, K)
    return (torch.stack([phase.cos(), phase.sin()], 1) * hump(K)).flatten(0, 1)[:, None]


# %%
def envelope(maps: Tensor) -> Tensor:
    """The strength (M, T') of each pair in the activation maps (2 M, T')."""
    return maps.unflatten(0, (-1, 2)).square().sum(1).sqrt()


# %% [markdown]
# Three pairs of such filters, in a window of 10 ms: at 250 Hz for the hum, at 1,000 Hz for the vowel, at 3,500 Hz for
# the hiss. As a layer, that is one input channel and six output channels.

# %%
frequencies = torch.tensor([250.0, 1000.0, 3500.0])
w = wavelets(frequencies, 81).to(DEVICE)  # (D', D, K) = (6, 1, 81)
heard = envelope(conv1d(word[None, None], w, padding=40)[0])  # (3, T)
hum, vowel, hiss = (strength(heard, sound) for sound in SOUNDS)  # (3,) each
claim("in m, the filter at 250 Hz against that at 1000 Hz", hum[0] / hum[1], at_least=20)
claim("the filter at 1000 Hz, in ar against m", vowel[1] / hum[1], at_least=5)
claim("in ch, the filter at 3500 Hz against that at 250 Hz", hiss[2] / hiss[0], at_least=10)

# %% [markdown]
# Each pair makes two activation maps. Below the wave is the envelope of each pair, scaled to its own peak. The hum
# and the vowel both contain the pitch of the voice, which the first pair hears; only the vowel excites the second;
# and the third answers most to the hiss, though in the wave the vowel is far stronger. None knows about words. But a
# layer that sees the six maps side by side can tell the sounds apart, and that is what layers are stacked for.

# %%
clock = torch.arange(len(word)) / SAMPLE_RATE
fig, axes = plt.subplots(4, 1, figsize=(7.2, 3.7), sharex=True, height_ratios=[2, 1, 1, 1])
axes[0].plot(clock, word.cpu(), color=color.data, lw=0.5)
for name, part in SOUNDS.items():
    axes[0].text(clock[part].mean(), 0.22, name, ha="center", fontsize=15, style="italic")
for ax, one, frequency in zip(axes[1:], heard.cpu(), frequencies, strict=True):
    ax.fill_between(clock, one / one.max(), color=color.output, lw=0)
    ax.text(0.745, 0.5, f"{frequency:,.0f} Hz", ha="right", va="center", color=color.output)
for ax in axes:
    ax.set(yticks=[], xlim=(0, 0.745), ylim=(0, 1.05))
    ax.spines["left"].set_visible(False)
axes[0].set_ylim(-0.13, 0.27)
axes[-1].set_xlabel("time (s)")
peaks = [f"{t:.2f} s" for t in clock[heard.argmax(1).cpu()]]
said = f"The answers peak at {', '.join(peaks)}."
figure("4.2d", "A spoken word, and the answers of three pairs of filters.", said)

# %% [markdown]
# Build the filter yourself. On the left is the pair of wavelets, the weights of the layer; on the right the word, and
# below it the envelope of the two activation maps. Listen for *ch*: raise the frequency beyond 2,500 Hz. Then make
# the window long, at a low frequency. The filter becomes choosy in frequency and blurred in time; a short one is the
# reverse, and no window is sharp in both. The stride says how many of the answers are computed at all. Go back to
# 1,000 Hz, make the window short, 3 ms, and the stride 10: in the vowel the single pulses of the voice stand out. At
# stride 80, with one answer in every hundredth of a second, they are lost; the vowel is still there, and the work is
# an eightieth of that without a stride.

# %%
sound = word.cpu()  # pictures are drawn on the CPU


# %%
def scene(fig):
    """Left, the two filters. Right, the word march, and below it how strongly the filters answer."""
    axes = fig.subplot_mosaic([["w", "x"], ["w", "y"]], width_ratios=[1, 2])
    pair = [axes["w"].plot([], [], color=color.weights, lw=2, alpha=a)[0] for a in (1, 0.4)]
    axes["x"].plot(clock[::2], sound[::2], color=color.input, lw=0.5)
    for name, part in SOUNDS.items():
        axes["x"].text(clock[part].mean(), 0.21, name, ha="center", fontsize=14, style="italic")
    (answer,) = axes["y"].plot([], [], "o-", color=color.output, ms=3, lw=1)
    axes["w"].set(xlim=(-12.5, 12.5), ylim=(-1.1, 1.1), yticks=[], xlabel="ms", title="Filters")
    axes["x"].set(ylim=(-0.13, 0.27), yticks=[], xticks=[], title="Word and answer")
    axes["y"].set(xlim=axes["x"].get_xlim(), ylim=(0, 1.05), yticks=[], xlabel="time (s)")

    def update(frequency_in_Hz, window_in_ms, stride):
        K = 8 * window_in_ms + 1
        w = wavelets(torch.tensor([float(frequency_in_Hz)]), K)  # (2, 1, K)
        maps = F.conv1d(sound[None, None], w, stride=stride, padding=K // 2)[0]  # (2, T')
        strong = envelope(maps)[0]  # (T',)
        for line, filter in zip(pair, w[:, 0] / w.max(), strict=True):
            line.set_data((torch.arange(K) - K // 2) / 8, filter)
        answer.set_data(torch.arange(len(strong)) * stride / SAMPLE_RATE, strong / strong.max())
        peak = strong.argmax().item() * stride / SAMPLE_RATE
        return f"{len(strong):,} answers of {2 * K} products each; the strongest at {peak:.2f} s"

    return update


# %%
listen = {"frequency_in_Hz": slider(100, 3900, 1000, 50), "window_in_ms": slider(1, 24, 16)}
listen["stride"] = slider(10, 160, 40, 10)
explore(scene, "4.2e", "A pair of filters over a spoken word.", (7.5, 3), **listen)

# %% [markdown]
# Last, the stride as a way to make signals *shorter*, and the transposed convolution as the way back. A hump with
# stride $S$ keeps one number in $S$, each a weighted mean of its neighbours. The same hump, transposed, spreads every
# number out again; its weights are multiplied by $S$, so that where the signal is constant the copies add up to the
# constant. How much of a sound survives? We take the strength of what is missing, relative to the sound itself.


# %%
def spread(fewer: Tensor, K: int, S: int) -> Tensor:
    """A longer signal, each number of fewer (T',) spread out over K places, S apart."""
    w = S * hump(K).to(fewer)[None, None]  # (1, 1, K)
    return F.conv_transpose1d(fewer[None, None], w, stride=S)[0, 0]


# %%
def there_and_back(signal: Tensor, K: int, S: int) -> tuple[Tensor, Tensor]:
    """One number in S of a signal (T,), and the signal made of them: (T',), (about T,)."""
    fewer = F.conv1d(signal[None, None], hump(K).to(signal)[None, None], stride=S)[0, 0]
    return fewer, spread(fewer, K, S)


# %%
flat = there_and_back(torch.ones(80, device=DEVICE), K=16, S=8)[1][16:-16]  # away from the ends
claim("a constant signal comes back as it was", flat, equals=torch.ones_like(flat), within=1e-5)

# %%
_, returned = there_and_back(word, K=8, S=4)
lost = returned - word[: len(returned)]
missing = [strength(lost, sound) / strength(word, sound) for sound in SOUNDS]
claim("one number in 4: missing of the hum m", missing[0], at_most=0.12)
claim("one number in 4: missing of the hiss ch", missing[2], at_least=0.98)

# %% [markdown]
# A quarter of the numbers is kept. Of the hum, little is missing, about a tenth of its strength. Of the hiss,
# practically everything is: a wave survives only if it is longer than twice the distance between the numbers kept,
# and the waves of the hiss are shorter. With a stride, a network decides what it can still hear.
#
# Play with both sizes. On top are 40 ms of the vowel and the numbers that are kept (dots); below them, what comes
# back; at the bottom, what the copies of the kernel add up to. That should be a flat line. For a hump it is flat when
# the kernel size is a multiple of the stride, twice or more. Take another ratio, such as 20 and 8 (a little ripple)
# or 8 and 8 (a strong one), and see the ripple in the sound.


# %%
piece = sound[1436:1884]  # 40 ms of the vowel, and 8 ms more at both ends
ms = torch.arange(len(piece)) / 8 - 8
inside = slice(64, 384)


# %%
def scene(fig):
    """Above, a piece of a vowel and the dots that are kept. Then what comes back, and the sum of the kernels."""
    axes = fig.subplots(3, 1, sharex=True, height_ratios=[2, 2, 1])
    for ax in axes[:2]:
        ax.plot(ms, piece, color=color.quiet, lw=3)
        ax.set(ylim=(-0.11, 0.19), yticks=[])
    (dots,) = axes[0].plot([], [], "o", color=color.model, ms=4)
    (line,) = axes[1].plot([], [], color=color.output, lw=1.5)
    (total,) = axes[2].plot([], [], color=color.weights, lw=1.5)
    axes[2].set(xlim=(0, 40), ylim=(0, 2.1), yticks=[0, 1, 2], xlabel="time (ms)")
    for ax, name in zip(axes, ("kept", "back", "copies"), strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center")

    def update(kernel_size, stride):
        fewer, back = there_and_back(piece, kernel_size, stride)
        copies = spread(torch.ones_like(fewer), kernel_size, stride)
        dots.set_data(
            ms[0] + (torch.arange(len(fewer)) * stride + kernel_size / 2 - 0.5) / 8, fewer
        )
        line.set_data(ms[: len(back)], back)
        total.set_data(ms[: len(copies)], copies)
        off = (back[inside] - piece[inside]).norm() / piece[inside].norm()
        span = f"{copies[inside].min():.2f} to {copies[inside].max():.2f}"
        return f"1 in {stride} is kept; {off:.2f} of the sound is missing; copies add up to {span}"

    return update


# %%
sizes = {"kernel_size": slider(1, 32, 16), "stride": slider(1, 16, 8)}
explore(scene, "4.2f", "Fewer numbers, and back.", (8.5, 4), **sizes)

# %% [markdown]
# **Exercise.** A *depthwise* convolution has as many groups as channels: each channel has one filter of its own, and
# channels never meet. Mobile phones run networks full of them, since they need $D$ times fewer products than a
# convolution from $D$ to $D$ channels. Write one without the option `groups`, and without looping over channels: cut
# windows with `unfold`, and find the `einsum` in which the letter of the channel stays.


# %% tags=["exercise"]
def depthwise(x: Tensor, w: Tensor) -> Tensor:
    """Each channel of x (N, D, T) convolved with its own row of w (D, K): (N, D, T - K + 1)."""
    raise NotImplementedError


chance = seed(10)
x = torch.randn(2, 3, 8, generator=chance)  # (N, D, T)
w = torch.randn(3, 4, generator=chance)  # (D, K)
check(
    depthwise,
    ("with kernel size 1 it multiplies each channel", lambda g: (g(x, w[:, :1]), x * w[:, :1])),
    ("the output is shorter by K - 1", lambda g: g(x, w).shape == (2, 3, 5)),
    ("it is conv1d with 3 groups", lambda g: (g(x, w), conv1d(x, w[:, None], groups=3))),
)


# %% tags=["solution", "hide-input"]
def depthwise(x: Tensor, w: Tensor) -> Tensor:
    """The sum runs over k only: d stands on both sides."""
    return torch.einsum("ndtk,dk->ndt", x.unfold(2, w.shape[1], 1), w)


# %% [markdown]
# ### Two dimensions
#
# An image is a tensor of shape $D \times H \times W$: $D$ channels, the colours at first, each a map of $H$ rows and
# $W$ columns. A **convolutional layer** for images does what the one for sequences did, with windows that slide in
# two directions. Each **filter** is now a small block of weights, $D \times K \times L$: all channels deep, $K$ rows
# high, $L$ columns wide. Laid over the image at one place it covers a block of the same size. Multiply number by
# number, add everything up, add the filter's bias: one activation. With $D'$ filters, the block yields a column of
# $D'$ activations. All places of one filter form a map of what that filter found where, its **activation map**. The
# $D'$ maps together are a tensor $D' \times H' \times W'$, and the next layer can treat it like an image.
#
# The size of a map follows the formula for sequences, once for the rows and once for the columns.


# %% [markdown]
# The function below visits the places one after the other. Stride, padding, dilation and groups are as before; the
# first three act on rows and columns alike. `window` picks the rows, or columns, under the kernel: the first one,
# then every one that is a dilation further on, $K$ of them. In the comments there are $N$ images and $G$ groups, and
# the letters $C$ and $E$ stand for the numbers of channels, $D$ and $D'$, since $D$ is the dilation. In the code,
# `unflatten` splits the channels into $G$ groups of $C / G$. The lone 1 in the middle lets PyTorch repeat the block
# for all filters of a group, so that a single `*` multiplies it with each of them.


# %% tags=["export"]
def window(first: int, K: int, D: int) -> slice:
    """K indices from the first on, in steps of D."""
    return slice(first, first + D * (K - 1) + 1, D)


# %% tags=["export"]
def conv2d(x: Tensor, w: Tensor, b=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """Filters w (E, C / groups, K, L) at all places of x (N, C, H, W), plus their biases b (E,)."""
    K, L = w.shape[2:]
    x = F.pad(x, (padding, padding, padding, padding))  # zeros left, right, above, below
    high = output_size(x.shape[2], K, stride, D=dilation)
    wide = output_size(x.shape[3], L, stride, D=dilation)
    filters = w.unflatten(0, (groups, -1))  # (G, E / G, C / G, K, L)
    columns = []
    for i, j in product(range(high), range(wide)):
        rows, across = window(i * stride, K, dilation), window(j * stride, L, dilation)
        block = x[:, :, rows, across].unflatten(1, (groups, 1, -1))  # (N, G, 1, C / G, K, L)
        columns.append((block * filters).sum((3, 4, 5)).flatten(1))  # (N, E)
    y = torch.stack(columns, 2).unflatten(2, (high, wide))  # (N, E, H', W')
    return y if b is None else y + b[:, None, None]


# %% [markdown]
# Loops make this clear, and slow: our function makes one small product after the other, where PyTorch's makes one
# large one. It is here to be read. On photographs we shall use `F.conv2d`, once it has been shown to be the same
# thing.
#
# The **transposed convolution** visits the places of its *input*. The column of $C$ numbers that it finds there is
# used as factors: multiply the kernel of each channel by its number, and add them up. That gives a block, which is
# added to the *output* at the place that the convolution would have read from. Neighbouring blocks overlap, and where
# they do, they add up. With a stride of 2 the blocks land two apart: the signal grows. Padding cuts the rim off in
# the end, where the convolution would have added one.
#
# Let $T'$ be the size of its input now, and $T$ that of its output, in one direction. The formula for the size is the
# convolution's, solved for $T$, and of all solutions it is the smallest: $T = (T' - 1)\, S - 2P + D (K - 1) + 1$. The
# output padding, which asks for a larger one, is left out here.


# %% tags=["export"]
def conv_transpose2d(
    x: Tensor, w: Tensor, b=None, stride=1, padding=0, dilation=1, groups=1
) -> Tensor:
    """Each number of x (N, C, H, W) writes its kernel, of w (C, E / groups, K, L), into the output."""
    N, _, H, W = x.shape
    K, L = w.shape[2:]
    high = (H - 1) * stride + dilation * (K - 1) + 1
    wide = (W - 1) * stride + dilation * (L - 1) + 1
    y = x.new_zeros(N, groups * w.shape[1], high, wide)  # (N, E, H', W')
    kernels = w.unflatten(0, (groups, -1))  # (G, C / G, E / G, K, L)
    for i, j in product(range(H), range(W)):
        rows, across = window(i * stride, K, dilation), window(j * stride, L, dilation)
        column = x[:, :, i, j].unflatten(1, (groups, -1))  # (N, G, C / G)
        block = column[..., None, None, None] * kernels  # (N, G, C / G, E / G, K, L)
        y[:, :, rows, across] += block.sum(2).flatten(1, 2)
    y = y[:, :, padding : high - padding, padding : wide - padding]
    return y if b is None else y + b[:, None, None]


# %% [markdown]
# The line with `+=` is where blocks overlap. Write `=` instead, and each block erases what its neighbours left: a
# mistake that the sizes of the tensors do not betray, but the test below does.
#
# PyTorch's own must agree, in the output and in the gradients of image, weights and biases, whatever the shapes. So
# we roll dice for all of them: kernels of 1 to 3 rows and columns, strides, dilations and groups from 1 to 3, padding
# from 0 to 2. The convolution's weights are stored as filters × channels. The transposed one's are channels ×
# filters; else the two random cases are alike.


# %%
def random_case(chance: torch.Generator, transposed: bool, dtype: torch.dtype) -> tuple:
    """An image, weights and biases of random sizes; stride, padding, dilation and groups."""
    K, L, S, D, G, c, e = torch.randint(1, 4, (7,), generator=chance).tolist()
    H, W = torch.randint(7, 10, (2,), generator=chance).tolist()
    P = torch.randint(0, 3, (1,), generator=chance).item()
    weights = (G * c, e, K, L) if transposed else (G * e, c, K, L)
    shapes = (2, G * c, H, W), weights, (G * e,)
    tensors = [torch.randn(s, generator=chance, dtype=dtype).to(DEVICE) for s in shapes]
    return tensors, {"stride": S, "padding": P, "dilation": D, "groups": G}


# %%
def largest_difference(ours: Callable, torchs: Callable, dtype: torch.dtype) -> float:
    """The largest difference over 12 random cases, in outputs and all gradients."""
    chance = seed(1)
    gaps = []
    for _ in range(12):
        tensors, options = random_case(chance, ours is conv_transpose2d, dtype)
        gaps.append(difference(partial(ours, **options), partial(torchs, **options), *tensors))
    return max(gaps)


# %% [markdown]
# With 64 bits the two ways agree to fourteen digits. With 32 bits they must differ: sums of hundreds of products are
# rounded after each addition, and the two ways add in different orders. So the bar is lower there, a few thousandths.
# The gradients are the largest numbers around, some of them several hundred, and so a thousandth is still the sixth
# digit.

# %%
double, single = torch.float64, torch.float32

# %%
gap = largest_difference(conv2d, F.conv2d, double)
claim("conv2d and torch's, 12 random cases in 64 bits", gap, at_most=1e-11)
gap = largest_difference(conv2d, F.conv2d, single)
claim("conv2d and torch's, 12 random cases in 32 bits", gap, at_most=2e-3)

# %%
gap = largest_difference(conv_transpose2d, F.conv_transpose2d, double)
claim("conv_transpose2d and torch's, 12 random cases in 64 bits", gap, at_most=1e-11)
gap = largest_difference(conv_transpose2d, F.conv_transpose2d, single)
claim("conv_transpose2d and torch's, 12 random cases in 32 bits", gap, at_most=2e-3)

# %% [markdown]
# And is it the transpose in two dimensions, too? As in one: for all $x$ and $y$, the sum of products of $Ax$ with $y$
# must be that of $x$ with $A^\top y$.

# %%
chance = seed(2)
sides = []
for _ in range(8):
    (y, w, _), options = random_case(chance, transposed=True, dtype=double)
    written = conv_transpose2d(y, w, **options)  # A^T y
    x = torch.randn(written.shape, generator=chance, dtype=double).to(DEVICE)
    there = conv2d(x, w, **options)  # A x
    sides.append(torch.stack([(there * y).sum(), (x * written).sum()]))

# %%
left, right = torch.stack(sides).T  # (8,), (8,)
claim("the sums of Ax with y and of x with A'y, 8 random cases", left, equals=right, within=1e-9)

# %% [markdown]
# So the way back through the last of these convolutions is the transposed one, as it was for sequences.

# %%
x = x.requires_grad_()
gradient = torch.autograd.grad(F.conv2d(x, w, None, **options), x, y)[0]
claim("back through conv2d is conv_transpose2d", gradient, equals=written, within=1e-9)

# %% [markdown]
# The cost. A filter has $D K L$ weights and a bias, whatever the size of the image. Each of the weights is multiplied
# once at each of the $H' W'$ places, so the multiplications are $D' H' W' \times D K L$. The transposed layer
# multiplies once for each weight and each place of its input. Here are 16 filters of 5 × 5 on an image of 3 × 16 × 20
# numbers, and on the way back.
#
# `cost` counts both. Our loops must come to the same numbers, and they do: for each filter and place `conv2d` makes
# $DKL = 75$ products, no more and no fewer.

# %%
convolution = nn.Conv2d(3, 16, 5).to(DEVICE)
x = torch.rand(1, 3, 16, 20, generator=seed(3)).to(DEVICE)
parameters, products = cost(convolution, x)
claim("parameters of a convolution are 16 (3 x 5 x 5 + 1)", parameters == 16 * (3 * 25 + 1))
claim("its multiplications are 16 x 12 x 16 x 75", products == 16 * 12 * 16 * 75)

# %%
_, by_hand = cost(conv2d, x, convolution.weight, convolution.bias)
claim("our conv2d multiplies as often as torch's", by_hand == products)

# %%
transposed = nn.ConvTranspose2d(16, 3, 5).to(DEVICE)
y = torch.rand(1, 16, 12, 16, generator=seed(4)).to(DEVICE)
_, products = cost(transposed, y)

# %%
_, by_hand = cost(conv_transpose2d, y, transposed.weight, transposed.bias)
claim("a transposed convolution costs the same, by hand and torch's", by_hand == products)
claim("multiplications of convolution and transposed convolution", products == 16 * 12 * 16 * 75)

# %% [markdown]
# A fully connected layer between the same two tensors has $3 \cdot 16 \cdot 20$ inputs and $16 \cdot 12 \cdot 16$
# outputs: 2.9 million weights, for an image of the size of a thumbnail. The convolution has 1,216. What it gives up
# is that each output could look at each input, and that each place could have rules of its own. For images neither is
# missed. What it gains is more than memory: a weight used at 192 places learns from one image 192 times, where a
# weight used at a single place learns once.
#
# Now the picture to keep in mind. The blocks are the tensors of two running layers, a convolution with four filters
# above, a transposed convolution with four channels below; their faces carry the computed numbers, pale for small
# ones. Drawing a block needs its three visible faces, cut into cells. A face has a corner and two directions, `u` for
# its rows and `v` for its columns, in the coordinates (depth, row, column); depth goes back, to the upper right. The
# table `SLANTED` is all the geometry there is: a step in depth goes 0.4 to the right and 0.4 up on the paper, a step
# down the rows goes one down, a step along the columns one to the right. The product `@ SLANTED` takes any point of
# the block to the paper.

# %%
SLANTED = torch.tensor([[0.4, 0.4], [0.0, -1.0], [1.0, 0.0]])  # depth, row, column to x and y
DEEP, DOWN, ACROSS = torch.eye(3)


def face(corner: Tensor, u: Tensor, v: Tensor, rows: int, columns: int) -> Tensor:
    """The corners of all cells of a face on paper, (rows * columns, 4, 2)."""
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (M, 2)
    square = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]])  # the corners of one cell
    steps = (cells[:, None] + square).float()  # (M, 4, 2)
    return (corner + steps @ torch.stack([u, v])) @ SLANTED


# %%
def faces(shape: tuple, at: tuple = (0, 0, 0)) -> Tensor:
    """All cells that one sees of a block D x H x W: in front, on top, on the right."""
    D, H, W = shape
    corner = torch.tensor(at, dtype=torch.float32)
    front = face(corner, DOWN, ACROSS, H, W)
    top = face(corner, DEEP, ACROSS, D, W)
    return torch.cat([front, top, face(corner + W * ACROSS, DEEP, DOWN, D, H)])


def visible(t: Tensor) -> Tensor:
    """The numbers that belong to those cells."""
    return torch.cat([t[0].flatten(), t[:, 0].flatten(), t[:, :, -1].flatten()])


# %% [markdown]
# A block is drawn as a collection of small quadrilaterals, each coloured by its number. Its sizes are read from the
# tensor, and written at the edges where they belong. (These drawings are long-winded, as drawings are. Nothing below
# depends on how they work.)


# %%
def draw_block(ax, t: Tensor, place: tuple, shade: str, size: float = 1.0, names: str = ""):
    """Draw a tensor (D, H, W) as a block at a place; names for its three sizes, if any."""
    cmap = LinearSegmentedColormap.from_list(shade, ["white", shade])
    cells = size * faces(t.shape) + torch.tensor(place)  # (M, 4, 2)
    block = PolyCollection(cells.numpy(), array=visible(t), cmap=cmap, ec="#999999", lw=0.4)
    ax.add_collection(block)
    block.set_clim(-0.15, 1.2)
    D, H, W = t.shape
    x, y = place
    spots = (W + 0.2 * D + 0.5, 0.2 * D - H - 0.3), (-0.2, -H / 2), (W / 2, -H - 0.2)
    aligned = ("left", "center"), ("right", "center"), ("center", "top")
    for name, count, spot, (ha, va) in zip(names.split(), t.shape, spots, aligned, strict=False):
        ax.text(x + spot[0], y + spot[1], f"{name} = {count}", ha=ha, va=va)
    return block


# %% [markdown]
# The input is a photograph, made tiny: 6 × 8 pixels and 3 colours. For drawing only, each channel of each block is
# stretched to reach from 0 to 1, so shades can be compared within a channel, but not between channels. The two layers
# have random weights: what they compute does not matter here, only from what, and to where.

# %%
shots, names = photographs()
photos = dict(zip(names, shots, strict=True))  # name: (3, 512, 512)

# %%
stretched = {}
seed(3)
x = F.avg_pool2d(photos["clock"][None, :, 64:448].contiguous(), 64)  # (1, 3, 6, 8)
small = nn.Conv2d(3, 4, kernel_size=3)
small_transposed = nn.ConvTranspose2d(4, 3, kernel_size=3)
y = small(x)  # (1, 4, 4, 6)
z = small_transposed(y)  # (1, 3, 6, 8)
pictured = {"x": x, "w": small.weight, "y": y, "v": small_transposed.weight, "z": z}
for name, t in pictured.items():
    t = t.detach()
    low, high = t.amin((2, 3), keepdim=True), t.amax((2, 3), keepdim=True)
    stretched[name] = (t - low) / (high - low)


# %% [markdown]
# A row of the picture is then: the input, four kernels, the output, and two movable blocks that mark which part of
# the input makes which part of the output.


# %%
RIGHT = 24.0  # where the output block stands


def row_of_blocks(ax, source: Tensor, kernels: Tensor, result: Tensor, title: str) -> list:
    """Input, four kernels and output of a layer in a row. Gives the two blocks that will move."""
    draw_block(ax, source, (0, 0), color.input, names="D H W").set_alpha(0.45)
    for k, kernel in enumerate(kernels):
        draw_block(ax, kernel, (13.6 + 3 * (k % 2), 0.2 - 3.4 * (k // 2)), color.weights, 0.6)
    shape = " × ".join(map(str, kernels.shape[1:]))
    ax.text(16.3, -5.3, f"{len(kernels)} kernels {shape}", ha="center", va="top")
    draw_block(ax, result, (RIGHT, 0), color.output, names="D' H' W'").set_alpha(0.45)
    for start in (11.8, 19.8):
        arrow = {"arrowstyle": "-|>", "color": "#777777", "lw": 1.5}
        ax.annotate("", (start + 1.2, -1.2), (start, -1.2), arrowprops=arrow)
    ax.set(xlim=(-2.4, 35.5), ylim=(-7.4, 1.8), aspect="equal", title=title)
    ax.axis("off")
    shades = zip((source, result), (0, RIGHT), (color.input, color.output), strict=True)
    return [draw_block(ax, t[:, :1, :1], (at, 0), shade) for t, at, shade in shades]


# %% [markdown]
# One last function computes the column of the output from the marked block of the input, and from nothing else. So it
# will tell whether the picture marks the right block.


# %%
def column_of(i: int, j: int) -> Tensor:
    """What the four filters make of the block at row i, column j of the input: (4,)."""
    block = pictured["x"][0, :, window(i, 3, 1), window(j, 3, 1)]  # (3, 3, 3)
    return (small.weight * block).sum((1, 2, 3)) + small.bias


# %%
def scene(fig):
    """Two rows of blocks: a convolution, and a transposed convolution that goes the other way."""
    above, below = fig.subplots(2, 1)
    x, w, y, v, z = (stretched[name] for name in "xwyvz")
    read, column = row_of_blocks(above, x[0], w, y[0], "Convolution")
    factors, block = row_of_blocks(below, y[0], v, z[0], "Transposed convolution")
    for moving in (read, column, factors, block):
        moving.set(ec="#222222", lw=0.9)

    def move(moving, t, rows, columns, left):
        part = t[0, :, rows, columns]  # (D, K, L)
        at = faces(part.shape, (0, rows.start, columns.start)) + torch.tensor([left, 0.0])
        moving.set_verts(at.numpy())
        moving.set_array(visible(part))

    def update(row, place_in_row):
        i, j = row, place_in_row
        one = slice(i, i + 1), slice(j, j + 1)
        three = window(i, 3, 1), window(j, 3, 1)
        move(read, x, *three, 0.0)
        move(column, y, *one, RIGHT)
        move(factors, y, *one, 0.0)
        move(block, z, *three, RIGHT)
        numbers = ", ".join(f"{number:.2f}" for number in column_of(i, j))
        return f"27 numbers of the image make a column of 4: {numbers}; below, 4 numbers make 27"

    return update


# %% tags=["figure-4.2"]
places = {"row": slider(0, 3, 0), "place_in_row": slider(0, 5, 3)}
explore(scene, "4.2", "A convolution, and a transposed convolution.", (8.5, 5.2), **places)

# %% [markdown]
# Move the place. Above, a block of the input, as deep as the input and as large as a kernel, is compared with each of
# the four filters and yields a column of four numbers. Below, a column of four numbers says how much of each kernel
# to write into the output. The numbers under the picture are computed from the marked block alone; below we check for
# all 24 places that they are the layer's. In the lower row the neighbours of the marked block are not empty: other
# columns of the input have written there as well, and partly into the same cells.

# %%
made = torch.stack([column_of(i, j) for i, j in product(range(4), range(6))], 1)  # (4, 24)
claim("marked blocks make marked columns, 24 places", made, equals=y[0].flatten(1), within=1e-5)

# %% [markdown]
# ### Kernels written by hand
#
# What does a convolution do to something that one can look at? Before filters were learned, people designed them.
# Take a grey photograph and kernels of 3 × 3. A kernel that is 1 in the middle and 0 elsewhere copies the image. Nine
# times 1/9 averages: a *blur*. The *Laplacian* is the sum of the four neighbours minus four times the pixel: it is
# positive where a pixel is darker than its neighbours. *Sharpening* is the copy minus the Laplacian, and so
# exaggerates how much a pixel differs from its neighbours. The two *Sobel* kernels compare the pixels on the right
# with those on the left, or those below with those above.
#
# Remember that our kernels are not turned round: the weight at the upper left meets the pixel at the upper left.

# %%
kernels = {
    "copy": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "blur": [[1 / 9, 1 / 9, 1 / 9], [1 / 9, 1 / 9, 1 / 9], [1 / 9, 1 / 9, 1 / 9]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "Laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "Sobel, right − left": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "Sobel, below − above": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
}
kernels = {name: torch.tensor(w, device=DEVICE).float() for name, w in kernels.items()}

# %%
dogs = photos["dogs"].mean(0)[None, None].to(DEVICE)  # (1, 1, 512, 512)
dogs = F.avg_pool2d(dogs, 2)  # (1, 1, 256, 256)
half = F.avg_pool2d(dogs, 2)  # (1, 1, 128, 128)
filtered = {name: F.conv2d(half, w[None, None])[0, 0] for name, w in kernels.items()}

# %% [markdown]
# A kernel whose weights add up to 1 leaves even areas as they are: copy, blur and sharpen do. One whose weights add
# up to 0 answers 0 there, and speaks up only where something changes; its results have both signs, so 0 is drawn
# mid-grey. Red weights are negative, blue ones positive.

# %% [markdown]
# Each number in a kernel below belongs to one neighbour; "÷ 9" divides all nine. The photograph has 128 × 128 pixels,
# and without padding each result is two smaller; only the part with the two faces is shown.

# %%
fig, axes = plt.subplots(2, 6, figsize=(7.6, 3.8), width_ratios=[1, 2.2] * 3)
for (name, w), pair in zip(kernels.items(), axes.reshape(6, 2), strict=True):
    grid, result = pair
    unit = w[w != 0].abs().min().item()
    whole = (w / unit).cpu()  # (3, 3), multiples of the smallest weight
    grid.imshow(whole, cmap="RdBu", vmin=-8, vmax=8)
    for i, j in product(range(3), repeat=2):
        grid.text(j, i, f"{whole[i, j]:.0f}", ha="center", va="center", color="#222222")
    grid.set_title(f"÷ {1 / unit:.0f}" if unit < 1 else "", size=11, weight="normal")
    result.imshow(filtered[name][12:82, 24:94].cpu() + 0.5 * (whole.sum() == 0), vmin=0, vmax=1)
    result.set_title(name, size=11)
    for ax in pair:
        ax.axis("off")
deviations = ", ".join(f"{name} {filtered[name].std():.2f}" for name in kernels)
said = (
    f"A photograph of two dogs under six kernels; standard deviation of the results: {deviations}."
)
figure("4.2g", "Kernels of 3 × 3, and what they make of a photograph.", said)

# %% [markdown]
# The first Sobel kernel sees the upright boards on the left and hardly the lying ones on the right; the second sees
# the lying ones and hardly the upright. White is a step from dark to bright in the direction of its name, black one
# from bright to dark. The Laplacian sees both, but thin, as a double line, one on each side of the edge. And all
# three find the curls of the fur.
#
# Two facts about the Sobel kernels are worth a check. First, they measure slopes. On a ramp whose brightness grows by
# $a$ for each column and by $c$ for each row, they answer $8a$ and $8c$ everywhere: the weights on either side add up
# to 4, and the two sides are two pixels apart. Second, each is a product. The first is the column 1, 2, 1, which
# smooths, times the row −1, 0, 1, which compares; in the second, column and row exchange places. Filtering by the one
# and then by the other gives the same, with 6 multiplications for each pixel instead of 9.

# %%
sobel = torch.stack([kernels["Sobel, right − left"], kernels["Sobel, below − above"]])  # (2, 3, 3)

# %%
at = torch.arange(9.0, device=DEVICE)
ramp = 0.3 * at - 0.2 * at[:, None] + 5  # (9, 9), columns and rows
slopes = F.conv2d(ramp[None, None], sobel[:, None])[0].flatten(1) / 8  # (2, 49)
expected = torch.tensor([0.3, -0.2], device=DEVICE)[:, None].expand(2, 49)
claim("the slopes of a ramp at 49 places, by Sobel", slopes, equals=expected, within=1e-5)

# %%
smoothing, comparing = torch.tensor([[1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]], device=DEVICE)
smoothed = F.conv2d(half, smoothing.reshape(1, 1, 3, 1))
twice = F.conv2d(smoothed, comparing.reshape(1, 1, 1, 3))[0, 0]
both = filtered["Sobel, right − left"]
claim("Sobel at once and in two steps", twice, equals=both, within=1e-5)

# %% [markdown]
# Now write a kernel yourself: nine weights over a photograph. Start from the Sobel kernel and turn it by hand; set
# all nine to 0.25 and lower the middle one; put −1 in the centre and 0 elsewhere; find an *emboss* filter that makes
# the clock look carved (negative at the upper left, positive at the lower right). The text under the picture says
# what kind of filter you have made.
#
# A helper finds the words. If all weights are 0, nothing comes through. Otherwise it looks at their sum first, for
# that decides what becomes of an even area: with sum 0 it gives 0, with a negative sum less than 0, and both are
# lifted for drawing, by a half and by 1. A single weight can only move the image and change its brightness. Of
# several, none negative, a mixture of neighbours is made; and where there are both signs, something is compared.
# Where the filtered photograph is all white or all black, the sum of the weights is far above 1, or far below −1.


# %% tags=["export"]
def kind(kernel: Tensor) -> str:
    """What kind of filter a kernel is, in words."""
    total = kernel.sum().item()
    if not kernel.any():
        return "nothing comes through"
    if total == 0:
        return "a detector of changes; even areas give 0, drawn mid-grey"
    if total < 0:
        return "a negative: bright areas become dark; 1 is added for drawing"
    if (kernel != 0).sum() == 1:
        return "a copy, moved and scaled at most"
    manner = "a blur of neighbours" if kernel.min() >= 0 else "differences are exaggerated"
    return f"{manner}; even areas become {total:g} times as bright"


# %% [markdown]
# The clock is a part of a larger photograph, shrunk to 128 × 128 pixels. In the scene, `update` gets the nine weights
# by name, lays them out as a kernel, and filters the photograph anew at each move.


# %%
clock = photos["clock"].mean(0)[None, None]  # (1, 1, 512, 512)
clock = F.avg_pool2d(clock[..., 60:444, 100:484], 3)  # (1, 1, 128, 128)
PLACES = ["top_left", "top", "top_right", "left", "centre", "right"]
PLACES += ["bottom_left", "bottom", "bottom_right"]


def scene(fig):
    """A photograph of a clock, a kernel of nine weights as a heat map, and the filtered photograph."""
    before, middle, after = fig.subplots(1, 3, width_ratios=[4, 2, 4])
    before.imshow(clock[0, 0], vmin=0, vmax=1)
    grid = middle.imshow(torch.zeros(3, 3), cmap="RdBu", vmin=-4, vmax=4)
    spots = list(product(range(3), repeat=2))
    texts = [middle.text(j, i, "", ha="center", va="center") for i, j in spots]
    result = after.imshow(torch.zeros(126, 126), vmin=0, vmax=1)
    for ax, title in ((before, "before"), (middle, "kernel"), (after, "after")):
        ax.axis("off")
        ax.set_title(title)

    def update(**weights):
        w = torch.tensor([weights[place] for place in PLACES]).reshape(3, 3)
        lift = {0: 0.5, -1: 1.0, 1: 0.0}[w.sum().sign().item()]
        result.set_data(F.conv2d(clock, w[None, None])[0, 0] + lift)
        grid.set_data(w)
        for text, value in zip(texts, w.flatten().tolist(), strict=True):
            text.set_text(f"{value:g}")
            text.stale = True  # draw it again, even where its number is the same
        return f"the weights add up to {w.sum():g}: {kind(w)}"

    return update


# %%
start = dict(zip(PLACES, sobel[0].flatten().tolist(), strict=True))
nine = {place: slider(-2.0, 2.0, value, 0.25) for place, value in start.items()}
explore(scene, "4.2h", "A kernel to edit, over a photograph.", (8.5, 3.6), **nine)

# %% [markdown]
# The other numbers to play with are the hyper-parameters. Below, a kernel that averages the pixels under it. On the
# left is the photograph with its padding of zeros, which are black, and the pixels that make the first and the last
# activation (pink dots). On the right is the activation map, drawn with pixels of the same size, so that it shrinks
# when the map does. Things to try: a stride of 2 halves the map. With stride 1 and kernel size 5, padding 2 keeps the
# size, and the dark rim shows its price. A large dilation does not blur like a large kernel, but overlays shifted
# copies: look at the cables. And what a stride of 3 does to a cable that is two pixels wide can be seen best with
# kernel size 1: where nothing is averaged before pixels are dropped, thin things break.

# %%
bridge = F.avg_pool2d(photos["bridge_detail"].mean(0)[None, None], 8)  # (1, 1, 64, 64)


def scene(fig):
    """Left, a photograph of a bridge with a rim of zeros. Right, its average under a kernel."""
    left, right = fig.subplots(1, 2)
    photo = left.imshow(bridge[0, 0], vmin=0, vmax=1)
    ends = left.scatter([], [], s=4, color=color.weights)
    result = right.imshow(bridge[0, 0], vmin=0, vmax=1, interpolation="nearest")
    for ax, title in ((left, "input with padding"), (right, "activation map")):
        ax.set(xlim=(-8.5, 72.5), ylim=(80, -8.5), autoscale_on=False, title=title)
        ax.axis("off")
    size = right.text(31.5, 0, "", ha="center", va="top", size=13)

    def update(kernel_size, stride, padding, dilation):
        K, S, P, D = kernel_size, stride, padding, dilation
        y = F.conv2d(bridge, torch.full((1, 1, K, K), 1 / K**2), None, S, P, D)[0, 0]  # (T', T')
        photo.set_data(F.pad(bridge, (P, P, P, P))[0, 0])
        photo.set_extent((-P - 0.5, 63.5 + P, 63.5 + P, -P - 0.5))
        result.set_data(y)
        start, end = 31.5 - len(y) / 2, 31.5 + len(y) / 2
        result.set_extent((start, end, end, start))
        taps = torch.arange(K) * D - P  # rows, or columns, under the first place
        dots = [torch.cartesian_prod(taps + at, taps + at) for at in (0, S * (len(y) - 1))]
        ends.set_offsets(torch.cat(dots))
        size.set(text=f"{len(y)} × {len(y)}", y=end + 2)
        return f"64 × 64 becomes {len(y)} × {len(y)}: (64 + {2 * P} − {D * (K - 1)} − 1) / {S} + 1, rounded down"

    return update


# %% [markdown]
# In the sentence below the picture the four numbers stand in the formula. Take stride 4 and move the padding: the
# size jumps only at every second step. In between, the rows and columns left over at the end are never looked at,
# which the marked last place shows.

# %%
hyper = {"kernel_size": slider(1, 9, 5), "stride": slider(1, 4, 2)}
hyper |= {"padding": slider(0, 8, 2), "dilation": slider(1, 6, 1)}
explore(scene, "4.2i", "The hyper-parameters, over a photograph.", (8, 4.2), **hyper)

# %% [markdown]
# **Exercise.** Any kernel that is a column times a row can be applied in two steps, as with Sobel above. For a blur
# of 15 × 15 that is 30 multiplications for each pixel instead of 225. Write it for colour images, as two depthwise
# convolutions like those of the last exercise: the same column and row for each channel, channels never mixed, and as
# much padding as keeps the size.


# %% tags=["exercise"]
def separable(x: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """x (N, C, H, W), each channel filtered by column times row, both (K,) with K odd; same size."""
    raise NotImplementedError


spot, ones = torch.zeros(1, 2, 5, 5), torch.ones(2, 3, 6, 7)
spot[0, 1, 2, 2] = 1.0
down, over = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, -1.0])
check(
    separable,
    ("the size stays", lambda g: (g(ones, over, over).shape, ones.shape)),
    (
        "a dot becomes the kernel, turned by half a turn, as with F.conv2d",
        lambda g: (g(spot, down, over)[0, 1, 1:4, 1:4], torch.outer(down, over).flip(0, 1)),
    ),
    ("a dot in one channel stays in it", lambda g: (g(spot, down, over)[0, 0], spot[0, 0])),
    (
        "ones under a sum of 6 x 6 give 36 away from the border",
        lambda g: (g(ones, down, down)[1, 2, 3, 3], torch.tensor(36.0)),
    ),
)


# %% tags=["solution", "hide-input"]
def separable(x: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """With as many groups as channels each filter sees one; it is the same, so `repeat` it."""
    C, K = x.shape[1], len(row)
    high = column.reshape(1, 1, K, 1).repeat(C, 1, 1, 1)  # (C, 1, K, 1)
    wide = row.reshape(1, 1, 1, K).repeat(C, 1, 1, 1)  # (C, 1, 1, K)
    x = F.conv2d(x, high, padding=(K // 2, 0), groups=C)
    return F.conv2d(x, wide, padding=(0, K // 2), groups=C)


# %% [markdown]
# ### A kernel found by gradient descent
#
# Here is a photograph and what an unknown filter of 5 × 5 made of it. Which filter was it? Start with all weights at
# 0, filter the photograph, compare with the given result by the mean squared error, and follow the gradient. The
# filter below smears along a diagonal, as a moving camera does; the descent never sees it, only what it did.
#
# The photograph is of a stream, rich in detail. That matters: neighbouring pixels that are always alike would not let
# us tell their weights apart. We subtract its mean: else one direction, all weights together, would be far steeper
# than all others, and the learning rate would have to suit that one. (We use momentum, section 3.3: each step keeps
# 0.9 of the one before, which crosses long flat valleys faster.)
#
# The kernel has 25 unknown weights. The filtered photograph has 124 × 124 pixels, and each is one equation for them:
# six hundred times as many equations as unknowns. That is the wealth that sharing weights brings.

# %%
stream = photos["stream"].mean(0)[None, None].double()  # (1, 1, 512, 512)
stream = F.avg_pool2d(stream - stream.mean(), 4).to(DEVICE)  # (1, 1, 128, 128)
mystery = torch.eye(5, **EXACT).flip(1)[None, None] / 5  # (1, 1, 5, 5)
given = F.conv2d(stream, mystery)

# %%
found = torch.zeros(1, 1, 5, 5, **EXACT, requires_grad=True)
optimizer = torch.optim.SGD([found], lr=1.0, momentum=0.9)
states = []
for _ in progress(range(300), "finding a kernel"):
    states.append(found.detach().cpu().clone()[0, 0])
    optimizer.zero_grad()
    F.mse_loss(F.conv2d(stream, found), given).backward()
    optimizer.step()

# %%
claim("the unknown kernel found by gradient descent", found, equals=mystery, within=1e-6)

# %% [markdown]
# All 25 weights, to six decimals. The pictures show the kernel on its way: after two steps a blur over all 25 pixels,
# a little stronger along the diagonal, then ever finer distinctions between neighbours. This is what training a
# convolutional layer is, except that there nobody gives the result of the filter: it is left to the loss at the end
# of the network to say what would have been useful.

# %%
fig, axes = plt.subplots(1, 7, figsize=(8, 1.9), width_ratios=[1.6, 1.6] + [1] * 5)
for ax, image, title in zip(axes, (stream, given), ("photograph", "filtered"), strict=False):
    ax.imshow(image[0, 0, :80, :80].cpu())
    ax.set_title(title)
for ax, step in zip(axes[2:], (0, 2, 10, 40, 299), strict=True):
    ax.imshow(states[step], cmap="RdBu", vmin=-0.25, vmax=0.25)
    ax.set_title(f"step {step}", weight="normal", size=11)
for ax in axes:
    ax.axis("off")
gaps = ", ".join(f"{(states[step] - mystery.cpu()).abs().max():.3f}" for step in (0, 2, 10, 40))
figure("4.2j", "A kernel found from its effect.", f"Largest error of a weight: {gaps}, then 0.000.")

# %% [markdown]
# ### Equivariance and invariance
#
# Since the same weights are used everywhere, moving the image and filtering it is the same as filtering it and moving
# the result. A mapping that commutes with a change of its input is said to have **equivariance** to that change. To
# measure it without any border, look at a large photograph through a window of 128 × 128 pixels, and slide the
# window: `view(s)` shows the scene moved to the right by $s$ pixels. The result should be the map of `view(0)`, moved
# as far.
#
# With a stride $S$ the filter is at every $S$-th place only. A move by $S$ pixels then moves the map by one, and a
# move by less cannot be matched: we compare with the nearest whole one. The error is given as a share of the spread
# (standard deviation) of the map.
#
# In the code, `steps` is the number of places by which the map should have moved. Columns that only one of the two
# maps can see have no partner, and are dropped.


# %%
def view(shift: int) -> Tensor:
    """A window onto the photograph in which the scene is moved to the right by so many pixels."""
    return dogs[:, :, 60:188, 60 - shift : 188 - shift]  # (1, 1, 128, 128)


# %%
def error_of_shift(shift: int, S: int) -> float:
    """How far shifting and then filtering is from filtering and then shifting."""
    then_shift = F.conv2d(view(0), sobel[:1, None], stride=S)  # (1, 1, H', W')
    shift_first = F.conv2d(view(shift), sobel[:1, None], stride=S)
    steps = round(shift / S)
    wide = then_shift.shape[3]
    gap = then_shift[..., : wide - steps] - shift_first[..., steps:]
    return (gap.square().mean().sqrt() / then_shift.std()).item()


# %%
errors = {S: torch.tensor([error_of_shift(shift, S) for shift in range(9)]) for S in (1, 2, 4)}
matched = torch.stack([errors[1][8], *errors[1][:8], *errors[2][::2], *errors[4][::4]])
claim("shift and filter commute where the stride divides the shift", matched.max(), at_most=1e-5)

# %%
between = torch.cat([errors[2][1::2], errors[4][[1, 2, 3, 5, 6, 7]]])
claim("smallest error at all other shifts, as a share of the spread", between.min(), at_least=0.85)
claim("largest error at all other shifts, as a share of the spread", between.max(), at_most=1.6)

# %% [markdown]
# All shifts from 0 to 8, with strides 1, 2 and 4, in one picture.

# %%
fig, ax = plt.subplots(figsize=(7, 2.9))
shades = {1: color.model, 2: color.gradient, 4: color.truth}
for S, place in ((4, (6, 1.52)), (2, (2, 0.58)), (1, (3, 0.06))):
    ax.plot(range(9), errors[S], "-o", color=shades[S], lw=1.5)
    ax.text(*place, f"stride {S}", color=shades[S], ha="center", va="bottom")
ax.set(xlabel="shift (pixels)", ylabel="error / spread", ylim=(-0.08, 1.8), xticks=range(9))
said = ". ".join(f"Stride {S}: " + ", ".join(f"{e:.2f}" for e in errors[S]) for S in errors)
figure("4.2k", "Is a shifted image's map the shifted map? For shifts 0 to 8.", f"{said}.")

# %% [markdown]
# Zero where the stride divides the shift, in between 0.9 to 1.5. For comparison: a map of even grey would have an
# error of 1, and an unrelated map one of about $\sqrt 2$, since the variances of the two add up. Several layers
# multiply their strides: three or four with stride 2 have a stride of 8 or 16 together, and most shifts are no
# multiples of that. So real networks are equivariant only to moves by whole cells of their last maps.
#
# Why does it matter? What a network says of a dog in one frame of a film it need not say in the next, two pixels
# further on.
#
# The border is the other exception. The zeros of a padding do not move along with the scene. Filter two views with
# padding 1, and compare what should be equal: inside all is well, at the rim it is not. With each further layer the
# disturbance reaches further in.

# %%
padded = [F.conv2d(view(shift), sobel[:1, None], padding=1)[0, 0] for shift in (0, 4)]
unequal = (padded[0][:, :124] - padded[1][:, 4:]).abs()  # (128, 124)
claim("with padding, largest error inside", unequal[1:-1, 1:-1].max(), at_most=1e-5)
claim("with padding, largest error on the rim", unequal[:, 0].max(), at_least=0.3)

# %% [markdown]
# Nor is there equivariance to other changes, turning for instance. Turn the photograph by a quarter, then filter it
# with Sobel: not the turned map, because now the edges that lay flat stand upright. Equality returns if the kernel is
# turned too.

# %%
turned = F.conv2d(dogs, sobel[:1, None]).rot90(1, (2, 3))
of_turned = F.conv2d(dogs.rot90(1, (2, 3)), sobel[:1, None])
error = (turned - of_turned).square().mean().sqrt() / turned.std()
claim("error of turning, as a share of the spread", error, at_least=0.5)

# %%
quarter = sobel[:1, None].rot90(1, (2, 3))  # (1, 1, 3, 3)
both_turned = F.conv2d(dogs.rot90(1, (2, 3)), quarter)
claim("image and kernel turned: the turned map", both_turned, equals=turned, within=1e-5)

# %% [markdown]
# Sometimes one wants more: *no* change at all. Whether there is a 7 in the image does not depend on where. A mapping
# has **invariance** to a change of its input if its result stays the same. The step from equivariance to invariance
# is short: forget the places. Here a handwritten digit wanders over an empty page, which is filtered by both Sobel
# kernels. The sizes of the answers are then averaged over the whole map (section 4.4 calls that pooling). A sum does
# not care about the order of its terms, so where the edges are is lost, and how many there are is kept.


# %%
wanderer = mnist("train", DEVICE)[0][0]  # (1, 28, 28)


def strengths(right: int, below: int, S: int) -> Tensor:
    """Mean strength (2,) of the edges of a digit placed on a page of 64 x 64, with stride S."""
    page = F.pad(wanderer, (4 + right, 32 - right, 4 + below, 32 - below))  # (1, 64, 64)
    return F.conv2d(page[None], sobel[:, None], stride=S).abs().mean((0, 2, 3))


# %% [markdown]
# The digit visits 9 × 9 places, and we look for the largest change against the first. With stride 1 there should be
# none. With stride 4 the filters look at every fourth row and column only, and which part of the digit lies under
# them depends on where it stands: other terms, another mean.


# %%
def change(S: int) -> Tensor:
    """Largest relative change of the strengths over 81 shifts, with stride S."""
    moved = [strengths(*shift, S) for shift in product(range(9), repeat=2)]
    return (torch.stack(moved) / moved[0] - 1).abs().max()


# %%
claim("edges averaged over the page: largest change over 81 shifts", change(1), at_most=1e-5)
claim("with stride 4 it is no longer invariant", change(4), at_least=0.05)

# %% [markdown]
# ### Receptive field
#
# How much of the image does one activation see? The **receptive field** of an activation is the part of the input
# that it depends on. After one layer it is as large as the kernel. After the next it has grown: that layer's kernel
# spans several activations, each of which sees a kernel's worth of the input, shifted.
#
# Two numbers describe it along one direction: its `size`, and the `jump`, the distance in the image between the
# fields of neighbouring activations. A layer with kernel size $K$, stride $S$ and dilation $D$ reaches over
# $(K - 1) D$ jumps more. Its stride multiplies the jump.
#
# By hand, for a kernel of 3 with stride 2, then another of 3: the first layer has size 1 + 2 · 1 = 3, and neighbours
# two pixels apart. The second sees three of those, so 3 + 2 · 2 = 7 pixels, and its neighbours are again two apart.
# Without the stride it would have been 5.


# %% tags=["export"]
def receptive_field(layers: list[tuple[int, int, int]]) -> tuple[int, int]:
    """Size of the receptive field and jump to the next one, after layers (K, S, D)."""
    size, jump = 1, 1
    for K, S, D in layers:
        size += (K - 1) * D * jump
        jump *= S
    return size, jump


# %% [markdown]
# Or ask the network itself. An activation depends on a pixel if its derivative with respect to that pixel is not
# zero, and Autograd computes that derivative for all pixels at once. With all weights equal to 1 nothing can cancel,
# and the gradient has a meaning of its own: it counts the *ways* that lead from the pixel, through the layers, to the
# activation.


# %% tags=["export"]
def activations_of(x: Tensor, layers: list[tuple[int, int, int]]) -> list[Tensor]:
    """The input and the output of each layer (K, S, D) of a stack with all weights 1."""
    found = [x]
    for K, S, D in layers:
        found.append(F.conv2d(found[-1], x.new_ones(1, 1, K, K), stride=S, dilation=D))
    return found


# %% [markdown]
# To read off the size, take the first activation of the last map, and list the columns from which a way leads to it:
# from the first to the last of these, whatever lies between. (With dilation there may be holes.) The jump is how much
# later the list starts for the next activation.


# %%
def seen(layers: list[tuple[int, int, int]], size: int = 208) -> tuple[int, int]:
    """Size and jump of the receptive field, from gradients."""
    x = torch.zeros(1, 1, size, size, **EXACT, requires_grad=True)
    y = activations_of(x, layers)[-1]  # (1, 1, H', W')
    ways = [torch.autograd.grad(y[0, 0, 0, k], x, retain_graph=True)[0] for k in (0, 1)]
    ends = [w[0, 0].sum(0).nonzero() for w in ways]  # columns from which a way leads
    return (ends[0][-1] - ends[0][0] + 1).item(), (ends[1][0] - ends[0][0]).item()


# %% [markdown]
# Twenty random stacks of one to four layers, kernels up to 5, strides up to 2, dilations up to 3. For each stack
# three lists are drawn, with one number for each of its layers; `zip` makes the layers of them.

# %%
chance = seed(4)
by_formula = []
by_gradient = []
for depth in torch.randint(1, 5, (20,), generator=chance).tolist():
    kernel_sizes = torch.randint(1, 6, (depth,), generator=chance).tolist()
    strides = torch.randint(1, 3, (depth,), generator=chance).tolist()
    dilations = torch.randint(1, 4, (depth,), generator=chance).tolist()
    layers = list(zip(kernel_sizes, strides, dilations, strict=True))
    by_formula.append(receptive_field(layers))
    by_gradient.append(seen(layers))
fields = torch.tensor(by_formula), torch.tensor(by_gradient)  # (20, 2) each
claim("receptive fields by formula and by gradient, 20 stacks", fields[0], equals=fields[1])

# %% [markdown]
# Three layers of kernel size 3, the second with stride 2, on a map of 13 × 13. From the activation in the middle of
# the last map the gradients run down, to all maps in between; within each map, the darker a cell, the more ways. Each
# cell stands above the middle of what it sees. Downwards, one cell becomes three, then seven, then nine: because of
# the stride, neighbouring cells of layer 2 read windows two cells apart, and 3 + 2 · 2 = 7.

# %%
layers = [(3, 1, 1), (3, 2, 1), (3, 1, 1)]
x = torch.zeros(1, 1, 13, 13, device=DEVICE, requires_grad=True)
grids = activations_of(x, layers)  # four of (1, 1, H, H)
middle = grids[-1].shape[-1] // 2
ways = torch.autograd.grad(grids[-1][0, 0, middle, middle], grids)  # four of (1, 1, H, H)

# %% tags=["figure-4.4"]
fig, ax = plt.subplots(figsize=(7.4, 5.6))
regions = []
cmap = LinearSegmentedColormap.from_list("ways", [color.input, color.output])
for k, way in enumerate(ways):
    size, jump = receptive_field(layers[:k])
    at = torch.tensor([(size - jump) / 2, -5.8 * k, (size - jump) / 2])
    H = way.shape[-1]
    cells = face(at, jump * DEEP, jump * ACROSS, H, H)  # (H², 4, 2)
    share = way.flatten().cpu() / way.max().cpu()
    shades = [cmap(s.item()) if s > 0 else "white" for s in share]
    ax.add_collection(PolyCollection(cells.numpy(), fc=shades, ec="#999999", lw=0.6))
    reached = (way[0, 0].sum(0) > 0).sum()
    where = "input" if k == 0 else f"layer {k}, stride {layers[k - 1][1]}"
    at = torch.tensor([6.5, -5.8 * k, 6.5]) - jump * reached.item() / 2 * (DEEP + ACROSS)
    regions.append(jump * reached.item() * (face(at * 0, DEEP, ACROSS, 1, 1)[0]) + at @ SLANTED)
    words = f"{where}: {H} × {H},\n{reached} × {reached} marked"
    ax.text(17.2, 5.8 * k + 2.6, words, va="center")
rays = [torch.stack(pair, 1) for pair in pairwise(regions)]  # three of (4, 2, 2)
ax.add_collection(LineCollection(torch.cat(rays).numpy(), colors="#222222", lw=0.8))
ax.set(xlim=(-0.3, 24.5), ylim=(-0.3, 22.5), aspect="equal")
ax.axis("off")
counts = ", ".join(str(int((way[0, 0].sum(0) > 0).sum())) for way in ways)
said = f"Four stacked grids; cells a side that reach the one in the middle, from below: {counts}."
figure("4.4", "The receptive field of an activation through three convolutions.", said)

# %% [markdown]
# The darker middle is no accident. The pixel in the centre can reach the activation in many ways, one in the corner
# in exactly one. In one direction the ways after $n$ layers are like the sums of $n$ dice: the sum of many throws
# looks like a bell. Its spread (standard deviation) is that of one die times $\sqrt{n}$. For kernel size 3, whose
# "die" shows −1, 0 or 1, the spread of one is $\sqrt{2/3}$. So with $n$ layers of stride 1 the receptive field grows
# like $n$, and the part that matters, the *effective* receptive field, only like $\sqrt n$.

# %% [markdown]
# Instead of one large gradient in two directions we can follow a single row, with the transposed convolution itself:
# begin with a 1 at the activation, and let each layer, from the last to the first, write its kernel of ones.


# %%
def profile(layers: list[tuple[int, int, int]]) -> Tensor:
    """Share of the ways that start at each pixel of the receptive field, in one direction: (size,)."""
    ways = torch.ones(1, 1, 1, dtype=torch.float64)
    for K, S, D in reversed(layers):  # the backward pass: transposed convolutions
        ones = torch.ones(1, 1, K, dtype=torch.float64)
        ways = F.conv_transpose1d(ways, ones, stride=S, dilation=D)
    return (ways / ways.sum()).flatten()


# %%
def deviation(share: Tensor) -> Tensor:
    """Standard deviation of a position, drawn with these shares (size,)."""
    at = torch.arange(len(share), dtype=torch.float64)
    return ((at - (at * share).sum()).square() * share).sum().sqrt()


# %% [markdown]
# Does that agree with Autograd? Take an uneven stack, with another kernel size, stride and dilation in each layer.
# The order must not be mixed up.

# %%
uneven = [(3, 2, 1), (5, 1, 2), (2, 3, 1)]
x = torch.zeros(1, 1, 32, 32, **EXACT, requires_grad=True)
y = activations_of(x, uneven)[-1]
counted = torch.autograd.grad(y[0, 0, 0, 0], x)[0][0, 0].sum(0).cpu()  # (32,)

# %%
counted = counted[: receptive_field(uneven)[0]] / counted.sum()
claim("ways, transposed and by Autograd", profile(uneven), equals=counted, within=1e-12)

# %% [markdown]
# And the law of the square root, for up to 32 layers.

# %%
depths = torch.tensor([1, 2, 4, 8, 16, 32])
spreads = torch.stack([deviation(profile([(3, 1, 1)] * n)) for n in depths.tolist()])
bell = (depths * 2 / 3).double().sqrt()  # (6,)
claim("spread of the effective field", spreads, equals=bell, within=1e-6)

# %% [markdown]
# Networks have random weights, not ones, before they are trained, and a ReLU after each layer, which replaces
# negative numbers by 0 (section 4.3). Does the bell survive? Take 40 networks with random weights, show each a piece
# of the photograph, and average the sizes of the gradients in the receptive field of one activation. For eight layers
# the field has 17 × 17 pixels. The central 9 × 9 are 28 % of its area. Each gradient is divided by its sum, so that
# all networks count the same. Now and then all ReLUs give 0, and the gradient is zero; such a network is left out.


# %%
def random_network(depth: int, width: int = 12) -> nn.Sequential:
    """Convolutions of kernel size 3, each but the last followed by a ReLU; one map at the end."""
    widths = [1] + [width] * (depth - 1) + [1]
    parts = [(nn.Conv2d(a, b, 3), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*[part for pair in parts for part in pair][:-1])


# %%
def mean_gradient(depth: int, networks: int = 40) -> Tensor:
    """Mean size of the gradient over random networks, (2 depth + 1, 2 depth + 1)."""
    side, total = 2 * depth + 1, 0
    for number in range(networks):
        seed(number)
        x = dogs[..., 90 : 90 + side, 90 : 90 + side].to(DEVICE).requires_grad_()
        gradient = torch.autograd.grad(random_network(depth).to(DEVICE)(x).sum(), x)[0]
        total = total + gradient[0, 0].abs() / gradient.abs().sum().clamp(min=1e-20)
    return (total / total.sum()).cpu()


# %%
measured = {depth: mean_gradient(depth) for depth in (2, 4, 8)}
central = measured[8][4:13, 4:13].sum()
claim("8 random layers: share of the gradient in the central 9 x 9", central, at_least=0.55)

# %% [markdown]
# It does. Below, the receptive fields of 2, 4 and 8 layers in frames, all at one scale, with the mean gradients in
# them; and the exact shares of the ways along a row, for 2, 8 and 32 layers. The field of the last has 65 pixels, and
# is nearly empty beyond the central 25.

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.5, 2.5), width_ratios=[1, 1, 1, 1.5])
for ax, (depth, share) in zip(axes, measured.items(), strict=False):
    edge = 8 - depth
    ax.imshow(F.pad(share, (edge, edge, edge, edge)), cmap="Blues")
    ax.add_patch(plt.Rectangle([edge - 0.5] * 2, 2 * depth + 1, 2 * depth + 1, fill=False))
    ax.set_title(f"{depth} layers", size=12)
    ax.axis("off")
for n, shade in ((2, color.input), (8, color.model), (32, color.output)):
    axes[3].plot(torch.arange(-n, n + 1), profile([(3, 1, 1)] * n), color=shade, lw=1.5)
    height = profile([(3, 1, 1)] * n).max()
    axes[3].text(2.2 * n**0.5 / 2 + 1, 0.85 * height, f"{n} layers", color=shade)
axes[3].set(yticks=[], xlim=(-32, 32), xticks=[-32, -16, 0, 16, 32])
axes[3].set(xlabel="pixels from the middle", title="ways")
axes[3].spines["left"].set_visible(False)
percent = f"{100 * central:.0f}"
said = f"Bells inside squares of 5, 9 and 17 pixels; with 8 layers {percent} % lie in the central 9 × 9."
figure("4.2l", "Effective receptive fields: random networks, and ways.", said, held="trained")

# %% [markdown]
# Stack layers yourself. On the left is the receptive field of one activation, in full colour. In the middle, the
# fewer ways start at a pixel, the more it fades. On the right are the ways along a row. Compare three means to see
# far: more layers, larger kernels, or a dilation that doubles from layer to layer ("dilation grows by" 2), which
# reaches far without a single weight more. A stride does it too, but the jump tells what is lost: the next activation
# looks that many pixels away.
#
# Start with one layer and add the others one by one. The field in the frame grows by 4 pixels each time, the bell in
# it more and more slowly. Then take kernel size 3 and let the dilation grow: five layers see 63 pixels with 3 weights
# each. Instead of a bell there is a comb: a pixel may count several times as much as its neighbour. To the pixel in
# the very middle leads one way, to each of its two neighbours lead five.

# %%
comb = profile([(3, 1, 2**n) for n in range(5)])  # (63,)
claim("pixels that five dilated layers see", len(comb), equals=63)
claim("ways in the middle of the comb", 3**5 * comb[30:33], equals=[5, 1, 5], within=1e-9)

# %% [markdown]
# In the code, `torch.outer(ways, ways)` makes a square of the row: the ways down and the ways across can be combined
# freely, so in two directions they multiply.

# %%
scenery = photos["bird_detail"][:, 192:512, 140:460].contiguous()  # (3, 320, 320)
scenery = F.avg_pool2d(scenery, 5).permute(1, 2, 0)  # (64, 64, 3)


def centred(share: Tensor) -> Tensor:
    """A profile cut or filled with zeros to 64 pixels, its middle in the middle."""
    missing = 64 - len(share)  # negative: too long
    return F.pad(share, (missing - missing // 2, missing // 2)).float()  # (64,)


# %%
def scene(fig):
    """A photograph with the square that one activation sees, what counts in it, and the ways."""
    left, middle, right = fig.subplots(1, 3)
    photo, bright = left.imshow(scenery), middle.imshow(scenery)
    frames = [plt.Rectangle((0, 0), 1, 1, fill=False, ec=color.output, lw=2) for _ in "ab"]
    titles = "receptive field", "what counts in it"
    for ax, frame, title in zip((left, middle), frames, titles, strict=True):
        ax.add_patch(frame)
        ax.axis("off")
        ax.set_title(title)
    bars = right.vlines(range(64), 0, torch.zeros(64), color=color.output, lw=3)
    right.set(xlim=(-0.5, 63.5), ylim=(0, 1.05), yticks=[], title="ways", xticks=[0, 16, 32, 48])
    right.spines["left"].set_visible(False)

    def update(layers, kernel_size, stride, dilation_grows_by):
        stack = [(kernel_size, stride, dilation_grows_by**n) for n in range(layers)]
        size, jump = receptive_field(stack)
        share = profile(stack)
        ways = centred(share / share.max())  # (64,)
        inside = centred(torch.ones_like(share))  # (64,)
        shade = 0.2 + 0.8 * torch.outer(inside, inside)[..., None]  # (64, 64, 1)
        photo.set_data(1 - shade * (1 - scenery))  # fades to white
        bright.set_data(1 - torch.outer(ways, ways)[..., None] * (1 - scenery))
        for frame in frames:
            frame.set_bounds(32 - size / 2, 32 - size / 2, size, size)
        bars.set_segments([[(k, 0), (k, way)] for k, way in enumerate(ways.tolist())])
        below = share.cumsum(0)  # share of the ways up to each pixel
        half = ((below > 0.25) & (below - share < 0.75)).sum()
        said = f"along a row half of the ways start in the middle {half} pixels"
        return f"{size} × {size} pixels, jump {jump}; {said}"

    return update


# %%
stack = {"layers": slider(1, 6, 6), "kernel_size": slider(3, 7, 5, 2)}
stack |= {"stride": slider(1, 2, 1), "dilation_grows_by": slider(1, 2, 1)}
explore(scene, "4.2m", "The receptive field of a stack of layers.", (8.5, 3.3), **stack)

# %% [markdown]
# **Exercise.** Padding does not change the size of a receptive field, but it moves it. Give the first and the last
# row of the image that activation number $i$ of the last layer depends on, for layers $(K, S, D, P)$ with padding
# $P$. Count rows and activations from 0. Go on counting beyond the borders: a negative number, or one past the last
# row, says that the window sticks out of the image, over padding of this or a later layer. A hint: walk from the last
# layer to the first. The activations from `first` to `last` of a layer read which of the layer below?


# %% tags=["exercise"]
def rows_seen(layers: list[tuple[int, int, int, int]], i: int) -> tuple[int, int]:
    """First and last row that activation i depends on, after layers (K, S, D, P)."""
    raise NotImplementedError


check(
    rows_seen,
    ("a kernel of 3 at place 5 sees rows 5 to 7", lambda g: (g([(3, 1, 1, 0)], 5), (5, 7))),
    ("with padding 1, rows 4 to 6", lambda g: (g([(3, 1, 1, 1)], 5), (4, 6))),
    ("with stride 2 and dilation 3, rows 10 to 16", lambda g: (g([(3, 2, 3, 0)], 5), (10, 16))),
    (
        "after (5, 2, 1, 2) and (3, 1, 2, 1), activation 4 sees rows 4 to 16",
        lambda g: (g([(5, 2, 1, 2), (3, 1, 2, 1)], 4), (4, 16)),
    ),
)


# %% tags=["solution", "hide-input"]
def rows_seen(layers: list[tuple[int, int, int, int]], i: int) -> tuple[int, int]:
    """Place i of a layer starts at row i S - P below it, and ends (K - 1) D rows further on."""
    first, last = i, i
    for K, S, D, P in reversed(layers):
        first, last = first * S - P, last * S - P + (K - 1) * D
    return first, last


# %% [markdown]
# ### Filters that a network learns
#
# What filters would training choose if nobody said? Here is a small classifier of handwritten digits: eight filters
# of 7 × 7 with stride 2, then sixteen of 3 × 3 with stride 2, each followed by a ReLU, and one fully connected layer
# from the 400 activations to ten scores. We train it twice, with a strong weight decay (section 3.1), which pulls
# weights that do not help towards zero, and with none.
#
# The first layer has 8 · 49 + 8 = 400 parameters, the second 16 · 72 + 16 = 1,168, and the last, fully connected,
# 4,010: here most parameters are where nothing is shared. Both trainings start from the same random weights, and see
# the images in the same order, so that they differ in the decay alone.


# %%
def classifier() -> nn.Sequential:
    """A small convolutional network, always with the same random weights."""
    seed(0)
    first = nn.Conv2d(1, 8, kernel_size=7, stride=2)
    second = nn.Conv2d(8, 16, kernel_size=3, stride=2)
    parts = first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)
    return nn.Sequential(*parts).to(DEVICE)


# %%
images, labels = mnist("train", DEVICE)
images_new, labels_new = mnist("test", DEVICE)


# %%
def trained(decay: float) -> nn.Sequential:
    """The classifier after 4 epochs with this weight decay."""
    network = classifier()
    data = batches(images, labels, size=50)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=decay)
    fit(network, data, lambda model, x, y: F.cross_entropy(model(x), y), optimizer, epochs=4)
    return network


# %%
network = trained(decay=0.5)
accuracy = (network(images_new).argmax(1) == labels_new).float().mean()
claim("convolutional classifier: accuracy on digits never seen", accuracy, at_least=0.93)

# %% [markdown]
# At the start the filters were noise: a weight said nothing about its neighbours. Is there more to them now? Compare
# each weight with its neighbour on the right, and with the one below, over the whole filter. Their correlation is 1
# if neighbours vary together, and about 0 for noise.
#
# Nothing in the loss asks for smoothness. A likely reason for it is in the images: the strokes of a pen are several
# pixels wide, so neighbouring pixels mostly ask for the same. The decay helps. It pulls back what stands out without
# being of use, and without it the filters come out smooth as well, but less so.


# %%
def smoothness(w: Tensor) -> Tensor:
    """Mean correlation of neighbouring weights in filters w (E, K, K)."""
    right = torch.stack([w[:, :, :-1].flatten(1), w[:, :, 1:].flatten(1)], 1)  # (E, 2, M)
    below = torch.stack([w[:, :-1].flatten(1), w[:, 1:].flatten(1)], 1)  # (E, 2, M)
    return torch.stack([pair.corrcoef()[0, 1] for pair in (*right, *below)]).mean()


# %%
def first_filters(model: nn.Sequential) -> Tensor:
    """The filters of the first layer, (8, 7, 7)."""
    return model[0].weight.detach()[:, 0].cpu()


# %%
filters = first_filters(network)  # (8, 7, 7)
noise = smoothness(first_filters(classifier()))
claim("neighbouring weights before training, correlation", noise, at_most=0.2)
claim("neighbouring weights after training, correlation", smoothness(filters), at_least=0.6)

# %%
free = smoothness(first_filters(trained(decay=0.0)))
claim("neighbouring weights, trained without decay, correlation", free, at_least=0.45)
claim("correlation of neighbours that the decay adds", smoothness(filters) - free, at_least=0.03)

# %% [markdown]
# Smooth patches of both signs: pieces of strokes, and edges of strokes. The second and third row are activation maps,
# of a digit and of a photograph, turned into ink: bright is what is darker than the wall. For a convolution the size
# of its input does not matter, so the filters that learned on 28 × 28 pixels of ink filter a clock without complaint.
# The maps are drawn with stride 1, for more detail; the network, with stride 2, computes every second row and column
# of them. Each map is scaled to its own brightest value. Filters of one sign blur the disc of the clock. One with
# strong red beside strong blue answers to one edge of the disc, and not to the opposite one.

# %%
seven = images_new[labels_new == 7][:1].cpu()  # (1, 1, 28, 28)
ink = (4 * (0.6 - clock)).clamp(0, 1)  # (1, 1, 128, 128), what is darker than the wall
inputs = {"digit": seven, "photograph": ink}
bias = network[0].bias.detach().cpu()  # (8,)
answers_to = {name: F.conv2d(x, filters[:, None], bias).relu() for name, x in inputs.items()}
fig, axes = plt.subplots(3, 9, figsize=(8.8, 3.2))
for ax, w in zip(axes[0, 1:], filters, strict=True):
    ax.imshow(w, cmap="RdBu", vmin=-0.6, vmax=0.6)
for line, (name, x) in zip(axes[1:], inputs.items(), strict=True):
    for ax, image in zip(line, (x[0, 0], *answers_to[name][0]), strict=True):
        ax.imshow(image)
for ax, title in zip(axes[1:, 0], ("a digit", "a clock"), strict=True):
    ax.set_title(title, size=12, weight="normal")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
axes[0, 0].text(0.5, 0.5, "8 filters", ha="center", va="center", transform=axes[0, 0].transAxes)
sizes = ", ".join(f"{y.shape[3]} × {y.shape[3]} for a {name}" for name, y in answers_to.items())
said = f"Eight learned filters of 7 × 7, and their activation maps: {sizes}."
figure("4.2n", "Learned filters and their activation maps.", said, held="trained")

# %% [markdown]
# ## 4.3 Activation functions
#
# Five workers each multiply a price by a factor of their own and add a fee, one after the other. However many they
# are, a sixth could replace them all: one factor, one fee. Layers that only multiply and add are no better. A stack
# of affine layers is an affine layer.
#
# Here are five of them, and the one into which they collapse. If $x$ becomes $W x + b$, and the next layer is
# $x \mapsto V x + c$, then together they are $x \mapsto (V W)\, x + (V b + c)$. That is the whole rule, and the loop
# below applies it from the first layer to the last.


# %%
def stack(x: Tensor, layers: list, bend: Callable | None = None) -> Tensor:
    """What affine layers (W, b) make of x (N, D), one after the other; `bend` is applied after each but the last."""
    for number, (W, b) in enumerate(layers, start=1):
        x = x @ W.mT + b  # (N, D)
        x = bend(x) if bend and number < len(layers) else x
    return x


# %%
def collapse(layers: list) -> tuple[Tensor, Tensor]:
    """The matrix (D, D) and the bias (D,) of the one layer that does what the stack does."""
    W, b = torch.eye(8, **EXACT), torch.zeros(8, **EXACT)
    for V, c in layers:
        W, b = V @ W, V @ b + c
    return W, b


# %% [markdown]
# The signal is a photograph of a bridge, 160 pixels wide and without its colours. Its pixels are whole numbers from 0
# to 255, and for the weights we draw whole numbers from −2 to 2. Computations with whole numbers of this size are
# exact in 64 bits, so the two sides must not merely be close. They must be the same.

# %%
photos = photographs("train", DEVICE)
bridge = photos.images[photos.names.index("bridge_detail")].mean(0, keepdim=True)  # (1, 512, 512)
bridge = F.interpolate(bridge[None], (160, 160), mode="bilinear", antialias=True)[0, 0]  # (H, W)
pieces = (255 * bridge).round().double().reshape(-1, 8)  # (N, D), eight pixels each

# %%
whole = {"generator": seed(1), "dtype": torch.float64}
layers = [[torch.randint(-2, 3, s, **whole).to(DEVICE) for s in ((8, 8), (8,))] for _ in range(5)]
W, b = collapse(layers)
claim(
    "five affine layers, and the one they collapse into",
    stack(pieces, layers),
    equals=pieces @ W.mT + b,
)

# %% [markdown]
# Five layers have 360 numbers to train, the one has 72, and both can do the same. Depth has bought nothing. What is
# missing is a **non-linearity**: something between the layers that is not affine. It is called the **activation
# function**, and nearly always it is as simple as possible. It has no weights, and it works on each number by itself.
#
# How does one see that a function is *not* affine? For an affine $f$ the points $f(x)$ and $f(-x)$ lie on a line with
# $f(0)$ exactly halfway, so $f(x) + f(-x) - 2 f(0)$ is zero. (Zero alone would prove nothing: an odd function such as
# $x^3$ passes as well.) Put between the layers the simplest bend that there is, which replaces negative numbers by
# zero, and the test comes out far from zero, as large as the output itself and more.


# %%
def bent(bend: Callable | None) -> Tensor:
    """|f(x) + f(-x) - 2 f(0)| over |f(x)|, typical size of both, for the stack f."""
    f_x, f_minus, f_0 = (stack(k * pieces, layers, bend) for k in (1, -1, 0))  # (N, D) each
    return (f_x + f_minus - 2 * f_0).square().mean().sqrt() / f_x.square().mean().sqrt()


# %%
claim("five affine layers do not bend", bent(None), at_most=0)
claim("five layers with ReLU: bend, relative to the output", bent(torch.relu), at_least=0.3)

# %% [markdown]
# Which bend? The first artificial neurons, in the 1940s and 1950s, fired or did not: they used a step, 0 for negative
# sums and 1 for positive ones. A step cannot be trained by gradient descent, because it is flat on both sides.
# Whatever a weight does, a little more of it changes nothing, so its slope is zero. Here for the sign, a step from −1
# to 1, in front of a linear layer, on real digits: not a single one of 25,088 gradients is different from zero.

# %%
images, labels = mnist("train", DEVICE)
digits = images[:4000].flatten(1)  # (N, 784)
first = (torch.randn(32, 784, generator=seed(2)) / 28).to(DEVICE).requires_grad_()
second = (torch.randn(10, 32, generator=seed(3)) / 6).to(DEVICE)
F.cross_entropy(torch.sign(digits @ first.mT) @ second.mT, labels[:4000]).backward()
claim("behind a step, every gradient is zero", first.grad, equals=torch.zeros_like(first))

# %% [markdown]
# So a bend should have a slope nearly everywhere. Four are in common use.
#
# The **hyperbolic tangent** is a step made smooth, $\tanh(x) = \frac{e^x - e^{-x}}{e^x + e^{-x}}$. It leaves small
# numbers nearly as they are and squeezes all others between −1 and 1. Divide above and below by $e^{-x}$, and it
# becomes $1 - 2 / (1 + e^{2x})$: a single exponential, and when that one overflows to infinity, the result is 1, as
# it should be. Its slope is $1 - \tanh^2(x)$. That is 1 in the middle and nearly 0 outside, where the function
# *saturates*: a unit that has got there hardly learns.


# %% tags=["export"]
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return 1 - 2 / (1 + torch.exp(2 * x))


# %% tags=["export"]
def tanh_slope(x: Tensor) -> Tensor:
    """Its derivative."""
    return 1 - tanh(x) ** 2


# %% [markdown]
# The **rectified linear unit**, ReLU, passes positive numbers on and turns negative ones into zero. Its slope is 1 on
# the right, however large the number is, and 0 on the left. At 0 itself it has a corner and no slope; one takes 0
# there, as PyTorch does. The **Leaky ReLU** lets a little through on the left: it multiplies negative numbers by a
# small leak $a$, so that no number is without a slope. PyTorch takes $a = 0.01$ unless told otherwise.


# %% tags=["export"]
def relu(x: Tensor) -> Tensor:
    """x where it is positive, else 0."""
    return torch.where(x > 0, x, 0)


# %% tags=["export"]
def relu_slope(x: Tensor) -> Tensor:
    """1 where x is positive, else 0."""
    return (x > 0).to(x)


# %% tags=["export"]
def leaky_relu(x: Tensor, leak: float = 0.01) -> Tensor:
    """x where it is positive, else a fraction of it."""
    return torch.where(x > 0, x, leak * x)


# %% tags=["export"]
def leaky_relu_slope(x: Tensor, leak: float = 0.01) -> Tensor:
    """1 where x is positive, else that fraction."""
    return torch.where(x > 0, torch.ones_like(x), leak)


# %% [markdown]
# **GELU** is a ReLU without a corner. A ReLU multiplies $x$ by 1 if it is positive and by 0 if it is negative. Now be
# less sure where the border is: let it be at a random place $Z$, drawn from the Gaussian with mean 0 and variance 1.
# Then $x$ passes with the probability $P(Z \leq x)$, and on average $x\, P(Z \leq x)$ comes out. That is the GELU.
# The probability is the area under the bell curve left of $x$. It has no formula in school functions, but every
# library knows it as the error function, $P(Z \leq x) = \frac{1}{2}\big(1 + \mathrm{erf}(x / \sqrt 2)\big)$. The
# slope of $P(Z \leq x)$ is the bell curve itself, and the product rule gives that of the GELU.


# %% tags=["export"]
def below(x: Tensor) -> Tensor:
    """P(Z <= x) for a Gaussian Z with mean 0 and variance 1."""
    return (1 + torch.erf(x / math.sqrt(2))) / 2


# %% tags=["export"]
def bell(x: Tensor) -> Tensor:
    """The density of that Gaussian, the slope of P(Z <= x)."""
    return torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


# %% tags=["export"]
def gelu(x: Tensor) -> Tensor:
    """x times the probability that a Gaussian number is at most x."""
    return x * below(x)


# %% tags=["export"]
def gelu_slope(x: Tensor) -> Tensor:
    """By the product rule."""
    return below(x) + x * bell(x)


# %% [markdown]
# Two relatives deserve a line. The *sigmoid* $\sigma(x) = 1 / (1 + e^{-x})$ is the hyperbolic tangent, stretched to
# twice its width, moved up and halved: $\sigma(x) = (1 + \tanh(x / 2)) / 2$. So it lies between 0 and 1. It has left
# the hidden layers, since its slope is never above 1/4, and remains where a number from 0 to 1 is wanted. The *SiLU*,
# $x\, \sigma(x)$, is a GELU with the sigmoid in the place of the probability; many language models use it.


# %% tags=["export"]
def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""
    return x / (1 + torch.exp(-x))


# %% tags=["export"]
def silu_slope(x: Tensor) -> Tensor:
    """By the product rule, with the sigmoid's own slope s (1 - s)."""
    s = 1 / (1 + torch.exp(-x))
    return s + x * s * (1 - s)


# %% [markdown]
# Now the five others against PyTorch: our values against its values, our slopes against the gradients that its
# Autograd finds, at 1,201 points from −6 to 6, among them exactly 0, where the corner is.

# %%
SHAPES = {  # name: our function, our slope, PyTorch's function
    "tanh": (tanh, tanh_slope, torch.tanh),
    "ReLU": (relu, relu_slope, F.relu),
    "Leaky ReLU": (leaky_relu, leaky_relu_slope, F.leaky_relu),
    "GELU": (gelu, gelu_slope, F.gelu),
    "SiLU": (silu, silu_slope, F.silu),
}


# %%
def furthest(dtype: torch.dtype) -> float:
    """Largest difference to PyTorch's values and gradients, over all functions."""
    x = (torch.arange(-600, 601, device=DEVICE) / 100).to(dtype).requires_grad_()
    gaps = []
    for ours, slope, torchs in SHAPES.values():
        y = torchs(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        gaps += [(ours(x) - y).abs().max().item(), (slope(x) - gradient).abs().max().item()]
    return max(gaps)


# %%
claim("five functions and slopes, and torch's, in float64", furthest(torch.float64), at_most=1e-13)
claim("the same in float32", furthest(torch.float32), at_most=2e-6)
claim("the same in bfloat16", furthest(torch.bfloat16), at_most=0.07)

# %% [markdown]
# The last bar is not carelessness. A bfloat16 keeps eight binary digits, so around 6 its neighbours are 0.03 apart,
# and our formulas round several times where PyTorch rounds once.
#
# A test against PyTorch's GELU says that we know the same formula. Does it say what the definition says? For that we
# need $P(Z \leq x)$ without the error function, and there are two honest ways. One is to *add up the area* under the
# bell curve in steps of a thousandth, from −12, left of which there is nothing to speak of, to $x$. The other is to
# *draw* Gaussian numbers and count how many are at most $x$. `cumulative_trapezoid` returns the area up to every
# point, one number fewer than there are points, since the first trapezium lies between the first two. So its entry
# 7,999 belongs to `z[8000]`, which is −4, and from there we take every 500th. Here is the definition of the ReLU,
# case by case, and that of the GELU, which we compute in both ways:
#
# $$\mathrm{relu}(x) = \begin{cases} 0 & \text{if } x < 0 \\ x & \text{otherwise} \end{cases} \qquad
# \mathrm{gelu}(x) = x\, P(Z \leq x)$$

# %% tags=["equation-relu"]
z = torch.arange(-12_000, 12_001, **EXACT) / 1000
area = torch.cumulative_trapezoid(bell(z), z)[7999:16_000:500]  # (17,), up to -4, -3.5, … 4
x = z[8000:16_001:500]  # (17,)
drawn = torch.randn(200_000, generator=seed(4), dtype=torch.float64).to(DEVICE)
counted = (drawn <= x[:, None]).double().mean(1)  # (17,)
by_cases = torch.tensor([0.0 if v < 0 else v for v in x.tolist()], **EXACT)  # (17,)

# %%
claim("ReLU case by case, and torch's", by_cases, equals=F.relu(x))
claim("GELU by an integral, and torch's", x * area, equals=F.gelu(x), within=1e-7)
claim("GELU by drawing, and torch's", x * counted, equals=F.gelu(x), within=0.01)

# %% [markdown]
# The error function used to be slow, and so the authors of the GELU gave an approximation by a hyperbolic tangent.
# GPT-2 was trained with it, and PyTorch offers it as `approximate="tanh"`. A model that was trained with one of the
# two should be run with that one, though they differ nowhere by more than half a thousandth.


# %%
def gelu_by_tanh(x: Tensor) -> Tensor:
    """The GELU's usual approximation."""
    return x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


# %%
x = torch.arange(-600, 601, **EXACT) / 100
by_torch = F.gelu(x, approximate="tanh")
claim("GELU by tanh, and torch's", gelu_by_tanh(x), equals=by_torch, within=1e-12)
gap = (gelu_by_tanh(x) - gelu(x)).abs().max()
claim("how far GELU by tanh is from GELU", gap, at_least=4e-4, at_most=5e-4)

# %% [markdown]
# Now look at them. Blue is the function, orange its slope. The Leaky ReLU is drawn with a leak of 0.1, since one of
# 0.01 could not be told from zero. Two things are worth a second look. The GELU falls before it rises. And its slope
# exceeds 1 in one place and is negative in another.

# %% tags=["figure-4.5"]
fig, axes = plt.subplots(1, 4, figsize=(8.6, 2.6), sharey=True)
x = torch.arange(-300, 301, dtype=torch.float64) / 100  # (601,), on the CPU, to be drawn
pairs = {"Tanh": (tanh, tanh_slope), "ReLU": (relu, relu_slope)}
leaky = (lambda x: leaky_relu(x, 0.1), lambda x: leaky_relu_slope(x, 0.1))
pairs |= {"Leaky ReLU": leaky, "GELU": (gelu, gelu_slope)}
for ax, (name, (value, slope)) in zip(axes, pairs.items(), strict=True):
    ax.axhline(0, color=color.quiet, lw=0.8)
    ax.plot(x, slope(x), color=color.gradient, lw=1.6)
    ax.plot(x, value(x), color=color.model)
    ax.set(title=name, ylim=(-1.3, 3.05), xlim=(-3, 3), xticks=(-3, 0, 3), xlabel="$x$")
axes[1].text(2.05, 2.45, "function", color=color.model, ha="right", size=11)
axes[1].text(2.9, 0.67, "slope", color=color.gradient, ha="right", size=11)
lowest, steepest = gelu(x).argmin(), gelu_slope(x).argmax()
said = f"Tanh runs from {tanh(x[0]):.3f} to {tanh(x[-1]):.3f}, its slope is 1 at 0 and "
said += (
    f"{tanh_slope(x[-1]):.3f} at 3. ReLU is 0, then rises with slope 1. Leaky ReLU has slope 0.1 "
)
said += (
    f"on the left. GELU is lowest at {x[lowest]:.2f}, with {gelu(x)[lowest]:.3f}, and steepest at "
)
said += f"{x[steepest]:.2f}, with slope {gelu_slope(x)[steepest]:.3f}."
figure("4.5", "The four activation functions (blue) and their slopes (orange).", said)

# %% [markdown]
# To play with. The first slider picks a function $f$. `sharpness` $s$ makes it $f(s x) / s$, which is the same shape
# seen from further away or from nearer. `leak` $a$ mixes it with the identity, $a\, x + (1 - a) f(x)$; for the ReLU
# that is exactly the Leaky ReLU. `x_at` moves the point at which the tangent touches. On the right is what it does to
# a real signal: 20 milliseconds of the first vowel in the word "seven", 160 numbers divided by their typical size,
# before in grey and after in blue.
#
# Make the GELU sharp: at 10 it is a ReLU to the eye. Make it dull: at 0.2 it is only a gentle bow. The duller it is,
# the nearer it comes to the line $x / 2$, and with a line, depth is worth nothing. A SiLU of sharpness 1.7 looks like
# the GELU of sharpness 1. The ReLU does not care about sharpness at all; its shape is the same from any distance. And
# put the point far out on the tanh: the tangent lies flat.

# %%
BENDS = {
    "GELU": F.gelu,
    "ReLU": F.relu,
    "tanh": torch.tanh,
    "SiLU": F.silu,
    "sigmoid": torch.sigmoid,
}
spoken = speech("human")
seven = spoken.waves[spoken.words == spoken.vocabulary.index("seven")][0].double()  # (T,)
sound = seven[2200:2360] / seven[2200:2360].square().mean().sqrt()  # (160,)


# %%
def curve(x: Tensor, name: str, sharpness: float, leak: float) -> tuple[Tensor, Tensor]:
    """The function and its slope at x (N,)."""
    x = x.clone().requires_grad_()
    y = leak * x + (1 - leak) * BENDS[name](sharpness * x) / sharpness  # (N,)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


# %%
def scene(fig):
    """Left, a function (blue), its slope (orange) and a tangent; right, a spoken sound before and after."""
    left, right = fig.subplots(1, 2, width_ratios=[2, 3])
    x = torch.arange(-400, 401, dtype=torch.float64) / 100  # (801,)
    left.axhline(0, color=color.quiet, lw=0.8)
    left.set(xlim=(-4, 4), ylim=(-2, 4), xlabel="$x$", title="Function and slope")
    milliseconds = torch.arange(160) / 8  # (160,)
    right.plot(milliseconds, sound, color="#aaaaaa", lw=1.2)
    right.set(ylim=(-2, 4), title="A spoken vowel, before and after")
    right.set(xticks=range(0, 21, 5), xlabel="milliseconds")
    (slope,) = left.plot([], [], color=color.gradient, lw=1.4, zorder=3)
    (value,) = left.plot([], [], color=color.model, zorder=3)
    (tangent,) = left.plot([], [], color="#222222", lw=1, zorder=4)
    (point,) = left.plot([], [], "o", color="#222222", ms=6, zorder=4)
    (after,) = right.plot([], [], color=color.model, lw=1.4, zorder=3)

    def update(function, sharpness, leak, x_at):
        y, dy = curve(x, function, sharpness, leak)
        (at,), (steep,) = curve(torch.tensor([x_at], dtype=x.dtype), function, sharpness, leak)
        value.set_data(x, y)
        slope.set_data(x, dy)
        tangent.set_data([x_at - 1.5, x_at + 1.5], [at - 1.5 * steep, at + 1.5 * steep])
        point.set_data([x_at], [at])
        new = curve(sound, function, sharpness, leak)[0]  # (160,)
        after.set_data(milliseconds, new)
        share = (new < 0).double().mean()
        said = f"slope {steep:.3f} at {x_at:.1f}; the sound now runs from {new.min():.2f} to {new.max():.2f}"
        return f"{said}, with {share:.0%} of it below 0"

    return update


# %%
moves = {"sharpness": slider(0.2, 10.0, 1.0, 0.1), "leak": slider(0.0, 1.0, 0.0, 0.05)}
moves |= {"x_at": slider(-4.0, 4.0, 1.0, 0.1), "function": choice(list(BENDS))}
explore(scene, "4.3a", "A function, its slope, and a real signal.", (8.6, 3.5), **moves)

# %% [markdown]
# ### What it does to a photograph
#
# Subtract from each pixel its left neighbour. The result is called an *edge map*, the simplest thing that a
# convolution can find (section 4.2). It is positive where the picture gets brighter from left to right, negative
# where it gets darker. In all pictures but the first, mid-grey is zero, white is positive, black is negative; the
# unit is the typical size of a difference. The tanh is shown three times as strong, since it never exceeds 1.

# %%
edges = bridge[:, 1:] - bridge[:, :-1]  # (160, 159)
edges = edges / edges.square().mean().sqrt()
after = {"the photograph": 6 * bridge - 3, "edges": edges, "tanh, times 3": 3 * tanh(edges)}
after |= {"ReLU": relu(edges), "Leaky ReLU, leak 0.2": leaky_relu(edges, 0.2), "GELU": gelu(edges)}

# %%
fig, axes = plt.subplots(2, 3, figsize=(7, 5))
for ax, (name, map_) in zip(axes.flat, after.items(), strict=True):
    ax.imshow(map_[:90, :90].cpu(), vmin=-3, vmax=3)
    ax.set_title(name, size=12)
    ax.axis("off")
said = "Six grey pictures of a bridge's ropes. " + "; ".join(
    f"{name}: from {map_.min():.2f} to {map_.max():.2f}, {(map_ < 0).double().mean():.2%} negative"
    for name, map_ in list(after.items())[1:]
)
figure("4.3b", "A photograph, its edges, and what four activation functions make of them.", said)

# %% [markdown]
# Each rope of the bridge is a dark line, so it has two edges, one down and one up. The ReLU keeps the second and
# blanks the first: it answers the question "where does it get brighter?" and nothing else. The Leaky ReLU keeps the
# other answer, whispered. The tanh keeps both, and makes strong and very strong edges equal, so that faint ones stand
# out.
#
# Is the half that the ReLU throws away lost to the network? No: another filter of the same layer may look for the
# opposite edge, with all weights negated. The two ReLUs together hold everything, since
# $\mathrm{relu}(x) - \mathrm{relu}(-x) = x$. And their sum is $|x|$, an edge whichever way it goes, which no affine
# layer could have told.

# %%
claim("two ReLUs hold the whole edge map", relu(edges) - relu(-edges), equals=edges)
claim("their sum is its absolute value", relu(edges) + relu(-edges), equals=edges.abs())

# %% [markdown]
# What does it cost? An activation function has no parameters. It does one small thing for each number: a comparison
# for the ReLU, for the Leaky ReLU a multiplication as well. For the others it is an exponential or an error function,
# which `cost` does not count. The linear layer before it makes 256 multiplications for each number if it has 256
# inputs. Counted:

# %%
numbers = torch.randn(64, 256, generator=seed(5)).to(DEVICE)  # (N, D)
linear = nn.Linear(256, 256).to(DEVICE)
claim("cost of ReLU is nothing that we count", cost(relu, numbers) == (0, 0))
claim("Leaky ReLU: one multiplication a number", cost(leaky_relu, numbers) == (0, 64 * 256))
claim(
    "linear layer: 256 multiplications a number",
    cost(linear, numbers) == (257 * 256, 64 * 256 * 256),
)

# %% [markdown]
# That makes it cheap, yet not free. In float32 a ReLU reads four bytes and writes four, for one operation. In the
# language of chapter 2 its intensity is 1/8, so that its time is the time of moving the numbers. This is why fast
# libraries compute it together with the layer before, while the numbers are at hand.
#
# ### What it does to the size of a signal
#
# Section 3.4 gave two rules for the random start of a network without proof: weights with the standard deviation
# $1 / \sqrt D$ for $D$ inputs, and $\sqrt{2 / D}$ before a ReLU. Here is where the 2 comes from.
#
# A unit adds up $D$ products $w_d\, x_d$, with weights that are independent of each other, of mean 0 and variance
# $\sigma^2$. Keep the inputs fixed and average over draws of the weights. The mixed products vanish, and the mean
# *square* of the sum is $\sigma^2 (x_1^2 + \dots + x_D^2)$. That is $D \sigma^2$ times the average of the $x_d^2$. So
# it is the mean square that a layer hands on, and not the variance: the inputs need not have mean 0. What does a ReLU
# do to it? For any number, $\mathrm{relu}(x)^2 + \mathrm{relu}(-x)^2 = x^2$. When $x$ and $-x$ are equally likely,
# the two terms have the same mean, and each is *one half*.
#
# For Gaussian numbers the half must come out as an integral over the bell curve. (The mean of what is left is
# $1 / \sqrt{2 \pi}$, so the variance falls by more, to 0.34.)

# %%
z = torch.arange(-12_000, 12_001, **EXACT) / 1000  # from -12 to 12, as for the GELU
mean_square = torch.trapezoid(relu(z) ** 2 * bell(z), z)
variance = mean_square - torch.trapezoid(relu(z) * bell(z), z) ** 2
claim("mean square of a Gaussian after a ReLU", mean_square, equals=0.5, within=1e-6)
claim("variance of a Gaussian after a ReLU", variance, equals=0.5 - 1 / (2 * math.pi), within=1e-6)

# %% [markdown]
# And in a network it comes out for *any* input, real and far from Gaussian: since each row of weights is as likely as
# its negative, the sum is as likely as its negative. Take a single patch of 16 × 16 pixels of the photograph, and
# 20,000 units with random weights.

# %%
patches = F.unfold(bridge[None, None].double(), 16, stride=16)[0].mT  # (100, 256)
patches = (patches - patches.mean()) / patches.std()
draws = {"generator": seed(6), "dtype": torch.float64}
units = patches[37] @ torch.randn(256, 20_000, **draws).to(DEVICE) / 16  # (20000,)
kept = relu(units).square().mean() / units.square().mean()
claim("share of the mean square that a ReLU keeps, one patch", kept, at_least=0.48, at_most=0.52)

# %% [markdown]
# So with a ReLU between, a layer multiplies the mean square by $D \sigma^2 / 2$, and that is 1 for
# $\sigma = \sqrt{2 / D}$. This is *He's initialization*. PyTorch calls it `kaiming_normal_`, by He's first name.

# %%
weights = nn.init.kaiming_normal_(torch.empty(512, 512), nonlinearity="relu", generator=seed(7))
claim(
    "torch's weights over √(2/D)", weights.std() / math.sqrt(2 / 512), at_least=0.99, at_most=1.01
)

# %% [markdown]
# Thirty layers, then, on all 100 patches of the photograph, for both functions and with both rules. The standard
# deviation of the weights is $g / \sqrt D$, with the gain $g$ equal to 1 or to $\sqrt 2$. Each case is drawn five
# times. To scale the weights is to scale the sums, so a gain can be applied afterwards.


# %%
def through(x: Tensor, weights: Tensor, bend: Callable, gain: float) -> Tensor:
    """The signal x (N, D) and what each layer makes of it, for weights (L, D, D): (L + 1, N, D)."""
    signals = [x]
    for W in weights:
        signals.append(bend(gain * signals[-1] @ W))  # (N, D)
    return torch.stack(signals)


# %%
cases = {"ReLU, gain √2": (F.relu, 2**0.5), "ReLU, gain 1": (F.relu, 1.0)}
cases |= {"tanh, gain √2": (torch.tanh, 2**0.5), "tanh, gain 1": (torch.tanh, 1.0)}
five = [torch.randn(30, 256, 256, **draws).to(DEVICE) / 16 for _ in range(5)]  # (L, D, D)
sizes = {  # name -> mean squares (5, L + 1)
    name: torch.stack([through(patches, W, *case).square().mean((1, 2)) for W in five])
    for name, case in cases.items()
}
factors = {name: ((s[:, -1] / s[:, 0]) ** (1 / 30)).mean() for name, s in sizes.items()}

# %%
claim(
    "ReLU, gain 1: factor of the mean square", factors["ReLU, gain 1"], at_least=0.46, at_most=0.54
)
claim(
    "ReLU, gain √2: factor of the mean square",
    factors["ReLU, gain √2"],
    at_least=0.92,
    at_most=1.08,
)
claim(
    "tanh, gain 1: factor of the mean square", factors["tanh, gain 1"], at_least=0.8, at_most=0.95
)

# %%
fig, ax = plt.subplots(figsize=(7, 3.3))
places = {"ReLU, gain √2": 4, "ReLU, gain 1": 1, "tanh, gain √2": 0.4, "tanh, gain 1": 0.5}
for name, each in sizes.items():
    shade = color.model if name.startswith("ReLU") else color.truth
    ax.plot(each.mT.cpu(), color=shade, lw=1)
    ax.text(30.5, each[:, -1].mean().item() * places[name], name, color=shade, va="center")
ax.set(yscale="log", xlim=(0, 36), ylim=(1e-10, 20), xticks=range(0, 31, 10), xlabel="layer")
ax.set(yticks=[1e-9, 1e-6, 1e-3, 1], ylabel="mean square")
ends = [f"{name}: 10 to the {s[:, -1].mean().log10():.1f}" for name, s in sizes.items()]
said = "Mean squares, layer by layer, five lines for each case. After 30 layers: " + "; ".join(ends)
figure("4.3c", "A photograph's patches on their way through thirty random layers.", said)

# %% [markdown]
# With a ReLU and the gain 1 each layer costs one half, and after thirty a thousand millionth is left. With He's gain
# the signal stays. The tanh forgives more. What is small it hardly changes, so with the gain 1 its losses get smaller
# as the signal does. What is large it cuts, so with a larger gain the signal settles at a size of its own.
#
# The next picture shows the numbers behind the lines. On the left is the mean square after each layer; on the right
# how the activations of one layer are distributed, over 256 units and 20 patches. (What lies beyond ±2 is counted in
# the outermost bars.) Take the ReLU, and move the layer from 1 to 30: the distribution keeps its shape, with half of
# all numbers at zero, and only its width is a matter of the gain. Then take the tanh with a gain of 4. The numbers
# pile up at −1 and 1, where the slope is nearly zero: *saturation*, as a histogram.

# %%
some, one_draw = patches[::5].cpu(), five[0].cpu()  # (20, D), (L, D, D)
edges_of_bins = torch.linspace(-2, 2, 42, dtype=torch.float64)
middles = (edges_of_bins[1:] + edges_of_bins[:-1]) / 2  # (41,), with 0 among them


# %%
def scene(fig):
    """Left, the mean square of the activations after each of 30 layers; right, their histogram after one layer."""
    left, right = fig.subplots(1, 2)
    left.axhline(1, color=color.quiet, lw=1)
    left.set(
        yscale="log", ylim=(1e-10, 1e10), xlim=(-0.5, 30.5), xlabel="layer", title="Mean square"
    )
    right.set(xlim=(-2, 2), ylim=(0, 1), xlabel="activation", title="Share of the numbers")
    (line,) = left.plot([], [], "o-", color=color.model, ms=3, lw=1, zorder=3)
    (dot,) = left.plot([], [], "o", color=color.weights, ms=9, zorder=4)
    bars = right.bar(middles, torch.zeros(41), width=0.09, color=color.model)

    def update(function, gain, layer):
        signals = through(some, one_draw, BENDS[function], gain)  # (L + 1, N, D)
        sizes = signals.square().mean((1, 2))  # (L + 1,)
        line.set_data(range(31), sizes.clamp(1e-11, 1e11))
        dot.set_data([layer], [sizes[layer].clamp(1e-11, 1e11)])
        shares = (
            torch.histogram(signals[layer].clamp(-2, 2), edges_of_bins).hist
            / signals[layer].numel()
        )
        for bar, share in zip(bars, shares, strict=True):
            bar.set_height(share.item())
        zero = (signals[layer].abs() < 0.05).double().mean()
        return (
            f"after layer {layer}: mean square {sizes[layer]:.1e}; {zero:.0%} of the numbers near 0"
        )

    return update


# %%
knobs = {"gain": slider(0.2, 4.0, 1.4, 0.05), "layer": slider(0, 30, 10)}
names = choice(["ReLU", "tanh", "GELU", "SiLU", "sigmoid"])
explore(scene, "4.3d", "Activations layer by layer.", (8.4, 3.3), function=names, **knobs)

# %% [markdown]
# ### Units that die
#
# A ReLU has one weakness. If a unit's sum is negative for *every* example, its slope is zero for every example, and
# its weights get no gradient. One calls it *dead*. In the first layer, where the inputs stay what they are, plain
# gradient descent never moves it again. In a deeper layer it may have better luck: when the layers before it change,
# so do its inputs, and that may wake it. One way to get there is a bias that is far below zero. Here is one unit with
# a bias of −100, on 4,000 digits. The gradient of its mean output is zero with a ReLU. With a Leaky ReLU it is a
# hundredth of what it would be with a bias of +100: little, but it points somewhere.


# %%
def gradient_at(bend: Callable, bias: float) -> Tensor:
    """Norm of the gradient of the mean output of one unit with this bias, for its weights (784,)."""
    w = first[0].detach().clone().requires_grad_()  # (784,)
    return torch.autograd.grad(bend(digits @ w + bias).mean(), w)[0].norm()


# %%
claim("ReLU far below zero: the gradient", gradient_at(relu, -100.0), at_most=0)
ratio = gradient_at(leaky_relu, -100.0) / gradient_at(leaky_relu, 100.0)
claim("Leaky ReLU: its gradient far below zero, over that above", ratio, equals=0.01, within=1e-5)

# %% [markdown]
# How do units get there in practice? By steps that are too large. We train two networks with 100 hidden units from
# the same random start, for one round through the digits with the learning rate 1, ten times what would be sensible:
# one with ReLU, one with Leaky ReLU and a leak of 0.1. Then we count the units that are *off*, negative for each of
# the 4,000 digits. Then one more round, with a sensible learning rate.


# %%
def network(bend: nn.Module) -> nn.Sequential:
    """Digits to 100 hidden units to 10 scores; always from the same random start."""
    seed(0)
    return nn.Sequential(nn.Linear(784, 100), bend, nn.Linear(100, 10)).to(DEVICE)


# %%
def train(model: nn.Module, rate: float) -> None:
    """One round through the digits by plain gradient steps."""
    data = batches(digits, labels[:4000], size=50)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    fit(model, data, lambda model, x, y: F.cross_entropy(model(x), y), optimizer)


# %%
def switched_on(model: nn.Module) -> Tensor:
    """For each hidden unit the share of the digits for which its sum is positive: (100,)."""
    return (model[0](digits) > 0).float().mean(0).detach().cpu()


# %%
def of_units(model: nn.Module) -> Tensor:
    """For each hidden unit its weights and its bias, in a row: (100, 785)."""
    return torch.cat([model[0].weight, model[0].bias[:, None]], dim=1).detach().cpu()


# %%
on, moved = {}, {}
for name, bend in {"ReLU": nn.ReLU(), "Leaky ReLU": nn.LeakyReLU(0.1)}.items():
    model = network(bend)
    train(model, rate=1.0)
    on[name] = switched_on(model)
    before = of_units(model)
    train(model, rate=0.1)
    moved[name] = (of_units(model) != before).any(1)[on[name] == 0]  # for each unit that was off
off = {name: (share == 0).float().mean() for name, share in on.items()}

# %%
claim("ReLU: share of the units that are off", off["ReLU"], at_least=0.2)
claim("Leaky ReLU: share of the units that are off", off["Leaky ReLU"], at_most=0.3)
claim("no ReLU that was off has moved since", not moved["ReLU"].any())
claim("every Leaky ReLU that was off has moved", moved["Leaky ReLU"].all())

# %% [markdown]
# About a third of the ReLUs are dead here (from other random starts we saw up to six in ten), and the calm round
# afterwards has not changed a single one of their weights and biases. Of the Leaky ReLUs fewer went off, and all
# those are still learning. Not that they would all come back within one round: a slope of 0.1 is a slow way home. The
# figure has the units in the order of how many digits switch them on. (The ReLU's line looks flat for longer than its
# dead units reach. About twenty more react to fewer than one digit in five hundred.)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
for name, shade, y in (("ReLU", color.model, 0.1), ("Leaky ReLU", color.truth, 0.72)):
    ax.plot(on[name].sort().values, color=shade, label=name)
    ax.text(97, y, name, color=shade, ha="right")
ax.set(xlabel="unit", ylabel="share of the digits", ylim=(-0.03, 1.03))
longer = max(off, key=off.get)
said = f"Two rising lines, of 100 units each. Both begin at zero; that of {longer} stays there longest."
figure("4.3e", "Share of the digits that switch a unit on.", said, held="trained")

# %% [markdown]
# Was it the size of the steps, or the ReLU? The same network from the same start, with the sensible learning rate
# from the first step on, loses next to none of its units.

# %%
model = network(nn.ReLU())
train(model, rate=0.1)
calm = (switched_on(model) == 0).float().mean()
claim("ReLU, smaller steps: share of the units that are off", calm, at_most=0.05)

# %% [markdown]
# In short: with sensible learning rates few units die, and the ReLU remains the standard choice for convolutional
# networks; GELU and SiLU, which have a slope on the left, are that of Transformers. Which one is best is settled by
# trying, and the differences are small. That there *is* a bend is what matters.
#
# **Exercise.** He's gain is $\sqrt 2$, because a ReLU keeps one half of the mean square of symmetric numbers. Which
# gain must a Leaky ReLU have, with the leak $a$, so that the mean square stays the same from layer to layer? With
# $a = 0$ it is a ReLU; with $a = 1$ it changes nothing.


# %% tags=["exercise"]
def leaky_gain(leak: float) -> float:
    """The gain g for which weights with the standard deviation g / √D keep the mean square."""
    raise NotImplementedError


check(
    leaky_gain,
    ("without a leak it is √2", lambda g: (g(0.0), math.sqrt(2))),
    ("with the leak 1 it is 1", lambda g: (g(1.0), 1.0)),
    ("with the leak 1/2 it is √1.6", lambda g: (g(0.5), math.sqrt(1.6))),
    ("it is PyTorch's", lambda g: (g(0.2), nn.init.calculate_gain("leaky_relu", 0.2))),
)


# %% tags=["solution", "hide-input"]
def leaky_gain(leak: float) -> float:
    """Half of the numbers keep their squares, half have them times leak²: (1 + leak²) / 2 is left."""
    return math.sqrt(2 / (1 + leak**2))


# %% [markdown]
# ## 4.4 Pooling
#
# A photograph has a quarter of a million pixels, and the answer to "which bird is this?" is one word. Somewhere
# between the two the signal must become smaller. **Pooling** is the plainest way: cut the signal into pieces, and
# replace each piece by a single number that speaks for it. Nothing is learned. Each channel is pooled by itself.
#
# Two numbers may speak for a piece. **Max pooling** takes the largest: it says whether something was there, and
# forgets where. **Average pooling** takes the mean: it says how much of it there was.
#
# The words are those of the convolution. A window of $K$ numbers, the kernel size, moves along in steps of $S$, the
# stride. $P$ places are added at either end as padding, and with a dilation $D$ the window looks only at every $D$-th
# number. Unless told otherwise one takes $S = K$, so that the windows lie side by side. As loops, for a signal with
# $T$ steps and $C$ channels, this takes two helpers.
#
# First, how many windows are there? Take 10 numbers, a window of 3 and a stride of 2. The first window begins at 0,
# the last one can begin at 7 at most, and from 0 to 7 there are 3 whole steps of 2: so 4 windows, which begin at 0,
# 2, 4 and 6. The number at place 9 is in none of them. Whoever wants it seen can round the number of steps up instead
# of down (`ceil`): a fifth window begins at 8 and hangs over the end. In letters: with the padding there are
# $T + 2 P$ places. A window spans $D (K - 1) + 1$ of them (a dilated one is wider than it has numbers), so the last
# one can begin at $T + 2 P - D (K - 1) - 1$, which is 7 here. With `ceil`, the extra window $t$ counts only if it
# begins before the signal ends, $t S - P < T$, and not wholly in the padding on the right.
#
# Second, what does window number $t$ see? It begins at $t S - P$, and takes every $D$-th place from there, as long as
# there is anything at that place.


# %% tags=["export"]
def pooled_length(T: int, K: int, S: int, P: int = 0, D: int = 1, ceil: bool = False) -> int:
    """How many windows fit; with `ceil`, also one that hangs over the end, if it begins before it."""
    steps = (T + 2 * P - D * (K - 1) - 1) / S
    if not ceil:
        return math.floor(steps) + 1
    last = math.ceil(steps)
    return last + 1 if last * S < T + P else last


# %% tags=["export"]
def seen(x: Tensor, t: int, K: int, S: int, P: int, D: int = 1) -> Tensor:
    """The numbers of x (N, C, T) that window number t sees: (N, C, at most K)."""
    places = range(t * S - P, t * S - P + D * K, D)
    inside = [k for k in places if 0 <= k < x.shape[2]]
    return x[:, :, inside]


# %% [markdown]
# A window that reaches beyond the end sees fewer numbers. For the maximum that is the end of it: what is not there
# cannot be the largest. (One also says that max pooling pads with $-\infty$. Padding with zeros would be a mistake,
# since zero is larger than any negative number.) For the average there are two customs: divide by $K$, as if there
# were zeros outside, or by how many numbers there are. PyTorch does the first, and with `count_include_pad=False` the
# second.
#
# Both functions follow the definition word for word, one window at a time, and `torch.stack` puts the results of all
# windows side by side again. That is slow, and it does not matter: they are here to be read. PyTorch's `max` returns
# the largest number and its place; we ask for the `values` only.


# %% tags=["export"]
def max_pool1d(x: Tensor, K: int, S: int, P: int = 0, D: int = 1, ceil: bool = False) -> Tensor:
    """The largest number of each window of x (N, C, T): (N, C, T')."""
    count = pooled_length(x.shape[2], K, S, P, D, ceil)
    return torch.stack([seen(x, t, K, S, P, D).max(2).values for t in range(count)], dim=2)


# %% tags=["export"]
def avg_pool1d(x: Tensor, K: int, S: int, P: int = 0, count_padding: bool = True) -> Tensor:
    """The mean of each window of x (N, C, T): (N, C, T')."""
    means = []
    for t in range(pooled_length(x.shape[2], K, S, P)):
        numbers = seen(x, t, K, S, P)  # (N, C, at most K)
        means.append(numbers.sum(2) / (K if count_padding else numbers.shape[2]))
    return torch.stack(means, dim=2)


# %% [markdown]
# Are they PyTorch's? Lengths, kernels, strides, paddings, dilations and both ways of rounding the length are drawn at
# random. `difference` compares the outputs and the gradients. (PyTorch allows a padding of at most half a kernel.)
# The cases come as a list: a signal, and five settings in the order in which both functions take them. Random
# settings make a better test than a few that one has thought of, since mistakes live where two settings meet, such as
# a dilation of 2 with a padding of 1.

# %%
chance = seed(1)


def pick(low: int, high: int) -> int:
    """A random whole number from low to high, both included."""
    return torch.randint(low, high + 1, (), generator=chance).item()


# %%
def cases(count: int, *sizes: tuple) -> list[tuple[Tensor, list]]:
    """Random signals (2, 3, …), and for each a kernel size, stride, padding, dilation and way to round."""
    drawn = []
    for _ in range(count):
        x = torch.randn(
            2, 3, *(pick(*size) for size in sizes), generator=chance, dtype=torch.float64
        )
        K = pick(1, 4)
        drawn.append((x.to(DEVICE), [K, pick(1, 4), pick(0, K // 2), pick(1, 2), bool(pick(0, 1))]))
    return drawn


# %%
def with_setting(pool: Callable, *setting) -> Callable:
    """The same pooling as a function of the signal alone."""

    def set_pool(x: Tensor) -> Tensor:
        return pool(x, *setting)

    return set_pool


# %%
def widest(ours: Callable, torchs: Callable, drawn: list, dtype: torch.dtype) -> float:
    """Largest difference over all cases, in outputs and gradients."""
    gaps = []
    for x, setting in drawn:
        both = [with_setting(pool, *setting) for pool in (ours, torchs)]
        gaps.append(difference(*both, x.to(dtype)))
    return max(gaps)


# %%
DTYPES = (torch.float64, torch.float32)
drawn = cases(40, (7, 20))
lengths = [pooled_length(x.shape[2], *setting) for x, setting in drawn]
expected = [F.max_pool1d(x, *setting).shape[2] for x, setting in drawn]
claim("length of the output and torch's, 40 cases", lengths == expected)

# %%
double, single = (widest(max_pool1d, F.max_pool1d, drawn, d) for d in DTYPES)
claim("max pooling 1-D and torch's, 40 cases, float64", double, at_most=1e-12)
claim("max pooling 1-D and torch's, 40 cases, float32", single, at_most=1e-5)

# %% [markdown]
# For the average the dilation and the rounding are left out (PyTorch has no dilated average), and the custom at the
# border is drawn in their place.


# %%
def torch_average(x: Tensor, K: int, S: int, P: int, count_padding: bool) -> Tensor:
    """PyTorch's average pooling for x (N, C, T) or (N, C, H, W)."""
    pool = F.avg_pool1d if x.dim() == 3 else F.avg_pool2d
    return pool(x, K, S, P, count_include_pad=count_padding)


# %%
plain = [(x, [K, S, P, include]) for x, (K, S, P, _, include) in drawn]
double, single = (widest(avg_pool1d, torch_average, plain, d) for d in DTYPES)
claim("average pooling 1-D and torch's, 40 cases, float64", double, at_most=1e-12)
claim("average pooling 1-D and torch's, 40 cases, float32", single, at_most=1e-5)

# %% [markdown]
# Here is max pooling at work. The signal is eight pixels from one row of a photograph of paint brushes, 32 apart so
# that they differ, with three channels: how red, green and blue they are, from 0 to 255. Windows of two pixels lie
# side by side. In each window and each channel one number wins (dark), and only it goes on. The three winners of a
# window need not be the same pixel: a channel knows nothing of the others.

# %%
photos = photographs("train", DEVICE)
brushes = photos.images[photos.names.index("brushes")]  # (C, H, W)
pixels = (255 * brushes[:, 300, 96:352:32]).round()[None].double()  # (1, C, T)
pixels.requires_grad_()
pooled = max_pool1d(pixels, K=2, S=2)  # (1, C, T')
pooled.sum().backward()
wins = pixels.grad[0].cpu()  # (C, T), 1 for a winner


# %%
def cells(
    ax, rows: Tensor, dark: Tensor, left: float, top: float, width: float, tints: list
) -> None:
    """A box for each number of rows (C, T), `width` apart; those that are `dark` are filled."""
    for c, row in enumerate(rows):
        for t, number in enumerate(row):
            x, y = left + t * width, top - c
            fill = tints[c] if dark[c, t] else "white"
            ax.add_patch(plt.Rectangle((x, y), 1, 0.86, fc=fill, ec="#888888", lw=0.8))
            shade = "white" if dark[c, t] else "#222222"
            ax.text(x + 0.5, y + 0.4, f"{number:.0f}", ha="center", va="center", color=shade)


# %%
def told(rows: Tensor) -> str:
    """The numbers of three rows in words."""
    numbers = [" ".join(f"{number:.0f}" for number in row) for row in rows]
    return "red {}; green {}; blue {}".format(*numbers)


# %% tags=["figure-4.6"]
fig, ax = plt.subplots(figsize=(7, 4.3))
tints = ["#b03a48", "#2f7a4d", "#3564a8"]
before, after = pixels.detach()[0].cpu(), pooled.detach()[0].cpu()  # (C, T), (C, T')
cells(ax, before, wins > 0, 0, 6, 1, tints)
cells(ax, after, torch.ones(3, 4), 0.5, 1, 2, tints)
for t in range(4):
    ax.plot([2 * t, 2 * t + 0.5], [3.9, 1.95], color=color.quiet, lw=1)
    ax.plot([2 * t + 2, 2 * t + 1.5], [3.9, 1.95], color=color.quiet, lw=1)
for c, name in enumerate(("red", "green", "blue")):
    for y in (6.4 - c, 1.4 - c):
        ax.text(-0.2, y, name, color=tints[c], ha="right", va="center")
for y, name in ((5.4, "input\n3 × 8"), (0.4, "output\n3 × 4")):
    ax.text(8.2, y, name, color="#444444", va="center")
ax.set(xlim=(-1.1, 9.2), ylim=(-1.2, 7))
ax.axis("off")
said = (
    f"Three rows of eight numbers: {told(before)}. Below, the larger of each pair: {told(after)}."
)
figure("4.6", "1-D max pooling with kernel size 2 and stride 2, three channels.", said)

# %% [markdown]
# Twenty-four numbers have become twelve, and the price is plain to see. In the first window the red 91 and the blue
# 111 come from one pixel and the green 100 from the next one, and nothing in the output tells. The place within the
# window is lost. That the order of the windows is kept is all that is left of *where*.
#
# How did the figure know who wins? It asked the gradient. If the largest number of a window grows a little, so does
# the output, by the same amount; if another one grows a little, nothing happens. So the slope is 1 for the winner and
# 0 for all others. In the backward pass each window hands its gradient to one number. (With a tie PyTorch picks one
# of them.) An average, by contrast, hands $1/K$ to everyone.

# %%
winner = pixels.detach()[0].reshape(3, 4, 2).argmax(2)  # (C, T'), 0 for the left one of two
expected = F.one_hot(winner, 2).reshape(3, 8)  # (C, T)
claim("the gradient goes to the winner only", pixels.grad[0], equals=expected.to(pixels))
(spread,) = torch.autograd.grad(avg_pool1d(pixels, K=4, S=4).sum(), pixels)
claim("an average of four gives a quarter to each", spread, equals=torch.full_like(pixels, 0.25))

# %% [markdown]
# ### Images
#
# In two dimensions the window is a square. Instead of loops we let PyTorch list all windows: `unfold` adds a
# dimension that runs along the window, once for rows and once for columns, without copying anything. What remains is
# one maximum or one mean. For the custom that counts only what is inside, the sum over a window is divided by the
# same sum over an image of ones.
#
# From an image of 6 × 6 pixels, for example, windows of 2 with a stride of 2 give a tensor of 3 × 3 × 2 × 2. The
# first two numbers say which window, the last two which place in it. Flattened, each of the nine windows is a row of
# four. A dilated window is cut out with its gaps, and then only every $D$-th row and column of it is kept. The
# padding comes first, and it must be $-\infty$ for the maximum and 0 for the average.


# %% tags=["export"]
def windows(x: Tensor, K: int, S: int, P: int = 0, D: int = 1, outside: float = 0.0) -> Tensor:
    """All windows of x (N, C, H, W), each laid out in a row: (N, C, H', W', K K)."""
    x = F.pad(x, (P, P, P, P), value=outside)
    reach = D * (K - 1) + 1
    x = x.unfold(2, reach, S).unfold(3, reach, S)  # (N, C, H', W', reach, reach)
    return x[..., ::D, ::D].flatten(4)  # (N, C, H', W', K K)


# %% tags=["export"]
def max_pool2d(x: Tensor, K: int, S: int, P: int = 0, D: int = 1) -> Tensor:
    """The largest number of each window of x (N, C, H, W): (N, C, H', W')."""
    return windows(x, K, S, P, D, outside=-math.inf).max(-1).values


def avg_pool2d(x: Tensor, K: int, S: int, P: int = 0, count_padding: bool = True) -> Tensor:
    """The mean of each window of x (N, C, H, W): (N, C, H', W')."""
    counts = K**2 if count_padding else windows(torch.ones_like(x), K, S, P).sum(-1)
    return windows(x, K, S, P).sum(-1) / counts


# %%
drawn = cases(30, (7, 15), (7, 15))
flat = [(x, setting[:4]) for x, setting in drawn]
plain = [(x, [K, S, P, include]) for x, (K, S, P, _, include) in drawn]
double, single = (widest(max_pool2d, F.max_pool2d, flat, d) for d in DTYPES)
claim("max pooling 2-D and torch's, 30 cases, float64", double, at_most=1e-12)
claim("max pooling 2-D and torch's, 30 cases, float32", single, at_most=1e-5)

# %%
double, single = (widest(avg_pool2d, torch_average, plain, d) for d in DTYPES)
claim("average pooling 2-D and torch's, 30 cases, float64", double, at_most=1e-12)
claim("average pooling 2-D and torch's, 30 cases, float32", single, at_most=1e-5)

# %% [markdown]
# Average pooling is no news. It is a convolution whose filter has the same weight $1/K^2$ everywhere, one for each
# channel, and never trained. The maximum is not: it is no sum of products at all. And both can be done in stages.
# Pooling by 2 and again by 2 is pooling by 4. Here on a photograph of a bridge, with 256 × 256 pixels.

# %%
whole = photos.images[photos.names.index("bridge_detail")].mean(0)[None, None]  # (1, 1, 512, 512)
bridge = F.interpolate(whole, (256, 256), mode="bilinear", antialias=True).double()  # (1, 1, H, W)
filters = torch.full((1, 1, 3, 3), 1 / 9, **EXACT)
average = avg_pool2d(bridge, 3, S=2, P=1)  # (1, 1, H', W')
convolved = F.conv2d(bridge, filters, stride=2, padding=1)
claim("an average is a convolution with equal weights", average, equals=convolved, within=1e-12)

# %%
twice = max_pool2d(max_pool2d(bridge, 2, 2), 2, 2)  # (1, 1, H / 4, W / 4)
claim("maximum by 2 and by 2, and by 4", twice, equals=max_pool2d(bridge, 4, 4))
twice = avg_pool2d(avg_pool2d(bridge, 2, 2), 2, 2)  # (1, 1, H / 4, W / 4)
claim("average by 2 and by 2, and by 4", twice, equals=avg_pool2d(bridge, 4, 4), within=1e-12)

# %% [markdown]
# What does it cost? There are no parameters. An average makes additions and one division for each output. A maximum
# of $K \times K$ numbers makes $K^2 - 1$ comparisons and not a single multiplication. A convolution that shrinks the
# same image in the same steps makes, at each output place, $K^2$ multiplications for each pair of an input and an
# output channel. Ours has eight channels and windows of 4 × 4: that is 16 · 8 = 128 for each output number.

# %%
maps = torch.randn(1, 8, 64, 64, generator=seed(2)).to(DEVICE)  # (N, C, H, W), 8 · 16 · 16 outputs
outputs = 8 * 16 * 16
claim("cost of max pooling: no products", cost(lambda x: max_pool2d(x, 4, 4), maps) == (0, 0))
claim("average: one division an output", cost(lambda x: avg_pool2d(x, 4, 4), maps) == (0, outputs))
strided = nn.Conv2d(8, 8, 4, stride=4).to(DEVICE)
claim("strided convolution: 128 an output", cost(strided, maps) == (8 * 8 * 16 + 8, 128 * outputs))

# %% [markdown]
# Now to see it. Below, the bridge has been shrunk eightfold in three ways. To keep every eighth pixel and drop the
# rest is no pooling, and it shows why one pools: the ropes become dots, at places that depend on where the grid
# happened to lie. Such false patterns are called *aliasing*. The average is what a camera with fewer pixels would
# have seen: the ropes are there, and grey. The maximum keeps whatever is bright. Dark ropes on a bright sky are *not*
# bright, so they are gone, and the bright strut has grown.

# %%
small = {
    "256 × 256": bridge,
    "every eighth pixel": bridge[:, :, ::8, ::8],
    "average of 8 × 8": avg_pool2d(bridge, 8, 8),
    "maximum of 8 × 8": max_pool2d(bridge, 8, 8),
}

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.6, 2.4))
for ax, (name, map_) in zip(axes, small.items(), strict=True):
    ax.imshow(map_[0, 0].cpu(), vmin=0, vmax=1)
    ax.set_title(name, size=12)
    ax.axis("off")
said = "A bridge's ropes in grey, and three versions of 32 × 32 pixels. Mean brightness: "
said += "; ".join(f"{name} {map_.mean():.3f}" for name, map_ in small.items())
figure("4.4a", "A photograph, and three ways to shrink it.", said)

# %% [markdown]
# In a network one does not pool photographs, but maps that say where some pattern was found. There the maximum makes
# sense: large means "here it is". Take the edge maps of 18 photographs, the differences between neighbouring pixels,
# positive and negative. An average over 8 × 8 of them cancels most. The maximum keeps the strongest edge of each
# window. We measure the typical size of the pooled map, relative to that of the map.

# %%
grey = F.avg_pool2d(photos.images.contiguous().mean(1, keepdim=True), 2)  # (18, 1, 256, 256)
edges = grey[..., 1:] - grey[..., :-1]  # (18, 1, 256, 255)


# %%
def size(maps: Tensor) -> Tensor:
    """The root of the mean square of each of the maps (N, 1, H, W): (N,)."""
    return maps.square().mean((1, 2, 3)).sqrt()


# %%
kept = (size(avg_pool2d(edges, 8, 8)) / size(edges)).mean()
claim("size of an edge map that an average of 8 x 8 keeps", kept, at_most=0.3)
kept = (size(max_pool2d(edges, 8, 8)) / size(edges)).mean()
claim("size of an edge map after a maximum of 8 x 8, over that before", kept, at_least=2)

# %% [markdown]
# The first is about a fifth, the second about two and a half. Apply a ReLU first, and the average has nothing to
# cancel either; in networks that is the usual order.
#
# This is not an accident of edges. An average answers "what is the sum?", and a fine texture, bright and dark in
# turn, has none. A maximum answers "is there any?", and one is enough. The price of the second answer is noise: a
# single wild pixel speaks for its whole window.
#
# In the widget the orange frames on the left are two neighbouring windows, and on the right is the pooled map,
# enlarged to the same size. With a stride smaller than the kernel, windows overlap. With a larger one, some pixels
# are never looked at. Switch from the average to the maximum, and the ropes are gone; then find the largest kernel
# with which the maximum leaves a trace of them.

# %%
photo = F.avg_pool2d(bridge, 2)[0, 0, :, :].cpu()  # (128, 128)


# %%
def scene(fig):
    """Left, a photograph with two windows framed in orange; right, its pooled map, enlarged."""
    left, right = fig.subplots(1, 2)
    for ax in (left, right):
        ax.axis("off")
    left.imshow(photo, vmin=0, vmax=1, extent=(0, 128, 128, 0))
    frames = [plt.Rectangle((0, 0), 1, 1, fill=False, ec=color.gradient, lw=w) for w in (2, 1)]
    for frame in frames:
        left.add_patch(frame)
    picture = right.imshow(photo, vmin=0, vmax=1, extent=(0, 128, 128, 0))
    left.set_title("128 × 128 pixels", size=12)
    title = right.set_title("", size=12)

    def update(kernel, stride, maximum):
        pool = F.max_pool2d if maximum else F.avg_pool2d
        map_ = pool(photo[None], kernel, stride)[0]  # (H', W')
        picture.set_data(map_)
        at = 40 // stride * stride  # where a window begins
        for frame, x in zip(frames, (at, at + stride), strict=True):
            frame.set_bounds(x, at, kernel, kernel)
        H, W = map_.shape
        title.set_text(f"{H} × {W} numbers")
        kind = "the largest" if maximum else "the mean"
        said = f"{H * W:,} numbers, each {kind} of {kernel**2}; they run from {map_.min():.2f}"
        return f"{said} to {map_.max():.2f}, with the mean {map_.mean():.3f}"

    return update


# %%
steps = {"kernel": slider(1, 16, 4), "stride": slider(1, 16, 4)}
explore(scene, "4.4b", "Pooling a photograph.", (7, 3.6), **steps, maximum=toggle(False))

# %% [markdown]
# ### Does it matter where things are?
#
# Move a photograph by one pixel and each pixel has a new value. The picture is the same; its numbers are not. Pooling
# is meant to help: the largest of 8 × 8 numbers is often still the largest after a step of one pixel. If nothing
# changes at all, one speaks of *invariance*.
#
# How far does it go? We cut out the middle of each of the 18 photographs' edge maps, after a ReLU, and the same
# square 1 to 8 pixels further left. Both are pooled. Then we take the typical difference between the pooled maps,
# divided by how much a map varies within itself. With 0 nothing has changed. Two maps that have nothing to do with
# each other differ by $\sqrt 2$, about 1.4: each brings its own variance to the difference, and variances add.


# %%
def change(pool: Callable, shift: int) -> Tensor:
    """How far pooled edge maps change when the photographs move by some pixels, mean over photographs."""
    here = pool(edges.relu()[..., 64:192, 64:192])  # (18, 1, H', W')
    there = pool(edges.relu()[..., 64:192, 64 - shift : 192 - shift])
    varies = size(here - here.mean((1, 2, 3), keepdim=True))  # (18,)
    return (size(here - there) / varies).mean()


# %%
pools = {"none": lambda x: x}
for K in (2, 4, 8):
    pools[f"max {K}"] = with_setting(F.max_pool2d, K)
    pools[f"average {K}"] = with_setting(F.avg_pool2d, K)
changes = {name: torch.stack([change(p, s) for s in range(9)]).cpu() for name, p in pools.items()}

# %%
claim("no shift, no change", max(c[0] for c in changes.values()), at_most=0)
claim("shift by 1, no pooling: change", changes["none"][1], at_least=1.1)
claim("shift by 1, max 8: change", changes["max 8"][1], at_most=0.45)
claim("shift by 1, average 8: change", changes["average 8"][1], at_most=0.35)
claim("shift by 8, max 8: change", changes["max 8"][8], at_least=0.8)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.1), sharey=True)
for ax, kind, shade in zip(axes, ("max", "average"), (color.model, color.truth), strict=True):
    ax.plot(changes["none"], color=color.data, lw=1.4)
    ax.text(8.15, changes["none"][8] + 0.05, "no pooling", color=color.data, va="center", size=11)
    for K in (2, 4, 8):
        ax.plot(changes[f"{kind} {K}"], color=shade, lw=1 + K / 4)
        ax.text(
            8.15, changes[f"{kind} {K}"][8] - 0.03, f"{K} × {K}", color=shade, va="center", size=11
        )
    ax.set(xlim=(0, 10), ylim=(0, 1.6), xticks=range(0, 9, 2), xlabel="shift in pixels")
    ax.set_title(f"{kind} pooling", size=12)
axes[0].set_ylabel("relative change")
said = "Relative change after shifts by 1, 4 and 8 pixels. "
said += "; ".join(f"{n} {c[1]:.2f}, {c[4]:.2f}, {c[8]:.2f}" for n, c in changes.items())
figure("4.4c", "How far edge maps change when the photograph moves.", said)

# %% [markdown]
# Without pooling an edge map has become another one after a single pixel, since edges are thin. With windows of 8 × 8
# a step of one pixel changes it by about a third (maximum) or a quarter (average). So pooling does buy some
# invariance, for steps that are small against the window, and less and less beyond. One often reads this as a merit
# of *max* pooling. On these maps the average is the steadier of the two for a step of one pixel: all of its numbers
# matter a little, and few of them leave the window.
#
# At 8 pixels, one full stride, the change is large, for both. Yet nothing is lost there. The pooled map is exactly
# the old one, moved by one place. Pooling with stride $S$ has turned a shift by $S$ pixels into a shift by one: that
# is the *equivariance* of section 4.2. Only a window as large as the whole map ends in true invariance, as long as
# nothing enters or leaves. It is called *global pooling*, and the image networks of chapter 5 end with it.
# `F.adaptive_avg_pool2d(x, 1)` is told the size of the output and chooses the windows itself: for 1 × 1 numbers, one
# window as large as the map. We let columns that leave on the right enter on the left (`roll`), so that nothing is
# lost.

# %%
moved = bridge.roll(8, dims=3)  # (1, 1, H, W)
expected = max_pool2d(bridge, 8, 8).roll(1, dims=3)  # (1, 1, H', W')
claim("a shift by the stride moves the map by one", max_pool2d(moved, 8, 8), equals=expected)
moved = bridge.roll(37, dims=3)
means = torch.stack([F.adaptive_avg_pool2d(x, 1) for x in (bridge, moved)])  # (2, 1, 1, 1, 1)
claim(
    "global average pooling is the mean",
    means[0],
    equals=bridge.mean((2, 3), keepdim=True),
    within=1e-12,
)
claim("it does not see a shift at all", means[0], equals=means[1], within=1e-12)

# %% [markdown]
# There is a lesson for networks in this. If a map is pooled five times by 2, as is common, a shift by 32 pixels moves
# the last map by exactly one place, while a shift by 16 leads to a map in between, which may be quite another.
# Networks that pool are therefore not as indifferent to shifts as one might hope; training with shifted images does
# the rest.
#
# And sounds. A spoken word swings up and down some hundreds of times a second, and its mean is nothing. But pool its
# size $|x|$, and there is its *envelope*: how loud it is from moment to moment, which tells syllables apart. The
# maximum (blue) lies on the peaks; the average (green) follows at a distance. With a kernel of 10, a little more than
# a millisecond, both still follow each swing. With 600 the maximum has closed the gap between the two syllables of
# "seven". `overlap` halves the stride.

# %%
spoken = speech("human")
seven = spoken.waves[spoken.words == spoken.vocabulary.index("seven")][0, :6000]  # (T,)


# %%
def scene(fig):
    """The size of the sound wave of a spoken word (grey), pooled by maximum (blue) and by average (green)."""
    ax = fig.subplots()
    ax.plot(torch.arange(len(seven)) / 8, seven.abs(), color=color.quiet, lw=0.5)
    ax.set(xlabel="milliseconds", ylabel="size", ylim=(0, 0.2), xlim=(0, len(seven) / 8))
    lines = [
        ax.plot([], [], color=shade, lw=2, zorder=3)[0] for shade in (color.model, color.truth)
    ]
    ax.text(560, 0.17, "maximum", color=color.model)
    ax.text(560, 0.15, "average", color=color.truth)

    def update(kernel, overlap):
        stride = kernel // 2 if overlap else kernel
        largest, mean = (
            pool(seven.abs()[None, None], kernel, stride)[0, 0]  # (T',)
            for pool in (F.max_pool1d, F.avg_pool1d)
        )
        at = (torch.arange(len(mean)) * stride + kernel / 2) / 8  # (T',) the middles of the windows
        lines[0].set_data(at, largest)
        lines[1].set_data(at, mean)
        said = f"{len(mean)} numbers instead of {len(seven)}, one for every {stride / 8:.1f} milliseconds"
        return f"{said}; the maxima reach {largest.max():.3f}, the averages {mean.max():.3f}"

    return update


# %%
kernel = slider(10, 600, 120, 10)
explore(
    scene, "4.4d", "The envelope of a spoken word.", (8, 3), kernel=kernel, overlap=toggle(False)
)

# %% [markdown]
# In short: pooling makes signals smaller at almost no cost, and forgives small shifts. Newer image networks often
# leave it out and take a convolution with a stride instead, which can learn what to keep; the global average at the
# end has stayed. What a maximum has thrown away, nothing behind it can bring back. That is a reason to pool late and
# little where the answer is itself a picture, as in section 6.4, and freely where it is a single word.
#
# **Exercise.** Words have different lengths. In a batch the shorter ones are filled up with anything, so that all fit
# into one tensor (N, C, T), and `lengths` (N,) tells how many steps of each are real. Write a global average pooling
# over time that looks at the real steps only. No loop is needed: compare the numbers $0, 1, \dots, T - 1$ with the
# lengths.
#
# A mean over all steps would be too small when the filling is zero, and worse when it is not. It would also depend on
# how long the *longest* word of the batch happens to be, so that the same word would get another answer in other
# company. Mistakes of this kind are common and hard to see, since nothing fails.


# %% tags=["exercise"]
def mean_of_real(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean (N, C) over the first lengths[n] steps of each signal x[n] (C, T)."""
    raise NotImplementedError


two = torch.tensor([[[1.0, 3.0, 9.0, 9.0]], [[2.0, 4.0, 6.0, 8.0]]])  # (2, 1, 4)
many = torch.randn(3, 2, 5, generator=seed(3))  # (3, 2, 5)
by_loop = torch.stack([x[:, :n].mean(1) for x, n in zip(many, (4, 1, 5), strict=True)])  # (3, 2)
check(
    mean_of_real,
    (
        "with lengths 2 and 4, 1 3 9 9 and 2 4 6 8 give 2 and 5",
        lambda g: (g(two, torch.tensor([2, 4])), torch.tensor([[2.0], [5.0]])),
    ),
    ("two channels, three lengths", lambda g: (g(many, torch.tensor([4, 1, 5])), by_loop)),
)


# %% tags=["solution", "hide-input"]
def mean_of_real(x: Tensor, lengths: Tensor) -> Tensor:
    """What is not real is replaced by 0, which adds nothing; then one divides by how many were real."""
    real = torch.arange(x.shape[2], device=x.device) < lengths[:, None, None]  # (N, 1, T)
    return torch.where(real, x, 0).sum(2) / lengths[:, None]  # (N, C)


# %% [markdown]
# ## 4.5 Dropout
#
# A committee whose members only ever correct each other works as long as all are there, and is lost when one is ill.
# A layer of a network can go the same way. Some units learn to correct the mistakes of certain others, and the group
# works only as a whole and only on the training set. **Dropout** cures it by force. In every training step each
# activation is set to zero with probability $p$, by chance and independently of the others. No unit can rely on any
# other one being there. When the network is used, nothing is dropped.
#
# Geoffrey Hinton and four colleagues proposed it in 2012, and the network that won the ImageNet competition of that
# year used it with $p = \frac{1}{2}$. The detailed account, with many experiments, followed in 2014.
#
# One detail makes this work. If a share $p$ of all activations is gone, the next layer gets less than it is used to.
# So those that stay are divided by $1 - p$. With $p = \frac{1}{2}$, half of them vanish and the other half doubles.
#
# The function below gets the mask ready made: a tensor `keep` of true and false that says which ones stay.
# `torch.where` takes `x` where `keep` is true, and 0 elsewhere. There is no chance in it, and so it can be tested to
# the last digit, whatever device draws the masks.


# %% tags=["export"]
def dropout(x: Tensor, keep: Tensor, p: float) -> Tensor:
    """x (...) where keep, 0 elsewhere, divided by 1 - p: by the probability of being kept."""
    return torch.where(keep, x, 0.0) / (1 - p)


# %% [markdown]
# Who draws the mask? A layer, which must know whether it is being trained. Every `nn.Module` carries that as a flag,
# `training`: calling `train()` or `eval()` on a network sets it for all the layers inside. In evaluation mode our
# layer hands its input on as it is.
#
# In training, `bernoulli_(1 - p)` fills a tensor with ones and zeros, each a one with probability $1 - p$. We draw on
# the CPU and then move the mask to where `x` is, so that a seed gives the same mask with and without a GPU. The line
# with `shape` serves the option `whole_channels`, which comes further below: it makes all dimensions after the second
# one of size one.


# %% tags=["export"]
class Dropout(nn.Module):
    """Sets activations to zero with probability p in training; leaves them alone in evaluation."""

    def __init__(self, p: float, whole_channels: bool = False):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: expected 0 <= p < 1, got {p}")
        self.p, self.whole_channels = p, whole_channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (*x.shape[:2], *[1] * (x.dim() - 2)) if self.whole_channels else x.shape
        keep = torch.empty(shape, dtype=x.dtype).bernoulli_(1 - self.p) == 1
        return dropout(x, keep.to(x.device), self.p)


# %% [markdown]
# On the CPU, PyTorch's own layer asks for its random numbers in just this way. After the same seed both draw the same
# mask, and then outputs and gradients must be equal. `after_seed` makes a layer that starts from the same seed
# whenever it is called, so that chance plays no part in the comparison.


# %%
def after_seed(layer: nn.Module) -> Callable:
    """The layer, but with the same random numbers each time that it is called."""

    def seeded(x: Tensor) -> Tensor:
        seed(5)
        return layer(x)

    return seeded


# %% [markdown]
# The comparison runs over four values of $p$, three shapes, both modes, and single numbers as well as whole channels.
# `itertools.product` lists all combinations: 48 cases. Each is tried in 64 bits and in 32 bits.

# %%
shapes, both = ((3, 4, 5, 6), (2, 7, 8, 1), (1, 9, 2, 2)), (True, False)
cases = list(itertools.product((0, 0.1, 0.5, 0.9), shapes, both, both))


# %%
def gap_to_torch(p: float, shape: tuple, training: bool, whole: bool, dtype: torch.dtype) -> float:
    """Difference between Dropout and torch's layer in one case, on the CPU."""
    x = torch.randn(shape, generator=seed(1), dtype=dtype)
    torchs = (nn.Dropout2d(p) if whole else nn.Dropout(p)).train(training)
    ours = Dropout(p, whole).train(training)
    return difference(after_seed(ours), after_seed(torchs), x)


# %%
exact = max(gap_to_torch(*case, torch.float64) for case in cases)
single = max(gap_to_torch(*case, torch.float32) for case in cases)
claim("Dropout and torch's, 48 cases, 64 bits", exact, at_most=1e-12)
claim("Dropout and torch's, 48 cases, 32 bits", single, at_most=1e-5)

# %% [markdown]
# On a GPU, PyTorch draws its mask there, and it is another one. The two need not agree. But given the mask that
# PyTorch drew, the arithmetic must. We get hold of that mask by a trick: after the same seed, dropout of a tensor of
# ones shows which numbers stay.

# %%
x = torch.randn(6, 50, generator=seed(2)).to(DEVICE)  # (N, D)
torchs = after_seed(nn.Dropout(0.3))
keep = torchs(torch.ones_like(x)) != 0  # (N, D)

# %%
gap = difference(lambda x: dropout(x, keep, 0.3), torchs, x)
claim("dropout and torch's with torch's own mask", gap, at_most=1e-5)

# %% [markdown]
# ### The mean stays
#
# Why divide by $1 - p$? Follow one activation $x$ through the layer. The output $y$ is $x / (1 - p)$ with probability
# $1 - p$, and 0 with probability $p$. So on average it is $x$, as it would be without dropout, and the next layer
# finds what it will find in testing. What the layer adds is noise around that average:
#
# $$\mathbb{E}[y] = (1 - p)\,\frac{x}{1 - p} + p \cdot 0 = x \qquad
# \mathbb{V}[y] = (1 - p) \Big(\frac{x}{1 - p}\Big)^2 - x^2 = \frac{p}{1 - p}\, x^2$$
#
# Averages over chance can be checked without any chance. Ten activations have $2^{10} = 1{,}024$ masks. We go through
# all of them, and weigh each with its probability: $p$ for each number dropped, times $1 - p$ for each kept.
#
# The ten activations shall be real ones. The first layers of trained networks for images nearly always contain
# filters for edges. Here are eight such filters, made by hand: each asks how much brighter a photograph becomes in
# its own direction, every 45 degrees, and a ReLU removes the negative answers. In the code, `bump` is a small round
# hill; times a slope in some direction it becomes a filter with a dark and a bright half. The outermost pixels are
# repeated outwards (`replicate`), so that no edge arises at the border. The division at the end brings the typical
# size to one, so that the numbers are easy to read.


# %% tags=["export"]
def edge_maps(images: Tensor) -> Tensor:
    """Activations of eight edge filters and ReLU on images (N, 3, H, W): (N, 8, H, W)."""
    r = torch.arange(-3.0, 4.0, device=images.device)  # (7,)
    bump = torch.exp(-(r**2 + r[:, None] ** 2) / 3)  # (7, 7)
    angles = torch.arange(8, device=images.device)[:, None, None] * math.pi / 4
    filters = (torch.cos(angles) * r + torch.sin(angles) * r[:, None]) * bump  # (8, 7, 7)
    grey = F.pad(images.mean(1, keepdim=True), (3, 3, 3, 3), mode="replicate")
    maps = F.conv2d(grey, filters[:, None]).relu()  # (N, 8, H, W)
    return maps / maps.square().mean().sqrt()


# %%
squares = photographs("test", DEVICE).images  # (6, 3, 512, 512)
squares = F.interpolate(squares, (128, 128), mode="bilinear", antialias=True).contiguous()
X = edge_maps(squares)  # (N, D, H, W): (6, 8, 128, 128)
print("a tensor of shape", tuple(X.shape), f"with a share of {(X == 0).float().mean():.2f} zeros")

# %% [markdown]
# Half of all activations are zero, and that is no accident: each filter has its opposite, and where one answers
# positively, the ReLU removes the negative answer of the other. Dropout of a zero shows nothing, so we take the ten
# largest of the 80 activations at ten neighbouring positions. `itertools.product` writes down the masks, from ten
# times false to ten times true.

# %%
p, x = 0.3, X[0, :, 60, 60:70].flatten().double().topk(10).values  # (10,)
keep = torch.tensor(list(itertools.product([False, True], repeat=10)), device=DEVICE)  # (1024, 10)

# %% [markdown]
# The probability of a mask depends on how many numbers it keeps. Weighing all outputs with it gives the mean;
# weighing the products of their deviations gives the covariance, with the variances in the diagonal.

# %% tags=["equation-dropout"]
kept = keep.sum(1).double()  # (1024,) how many numbers each mask keeps
probability = (1 - p) ** kept * p ** (10 - kept)  # (1024,)
y = dropout(x, keep, p)  # (1024, 10)
mean = probability @ y  # (10,)
covariance = (y - mean).mT @ (probability[:, None] * (y - mean))  # (10, 10)

# %%
claim("dropout keeps the mean, over all 1024 masks", mean, equals=x, within=1e-12)
variance = (p / (1 - p) * x**2).diag()  # (10, 10)
claim("its covariance, over all 1024 masks", covariance, equals=variance, within=1e-11)

# %% [markdown]
# The second claim says more than the equation. The covariance of two different activations is zero, since each is
# dropped on its own account. And the variance is in proportion to $x^2$. An activation that is zero stays zero, while
# a large one is shaken hard: the more the next layer is given by one single unit, the less it can count on it.
#
# Now with chance, and with the layer itself. Each of the 786,432 activations is drawn once. About a share $p$ of
# those that are not zero has to vanish, and the mean of all has to stay. With so many draws chance has little room:
# the share strays from 0.3 by less than a thousandth, typically.

# %%
seed(3)
Y = Dropout(0.3)(X)  # (N, D, H, W)
gone, ratio = (Y == 0)[X > 0].float().mean(), Y.mean() / X.mean()
claim("share of activations dropped for p = 0.3", gone, at_least=0.295, at_most=0.305)
claim("their mean, as a multiple of the mean before", ratio, at_least=0.99, at_most=1.01)

# %% [markdown]
# This is what happens to six positions along one line of a photograph, in all eight channels. Left are the
# activations. In training with $p = 0.3$, those with a cross are dropped, and all others have grown by a factor of
# 1.43. (A zero is dropped as often as any other number, only it makes no difference.) In testing, nothing has
# happened to them.
#
# For a picture that is the same on every machine we draw the mask ourselves. `torch.rand` gives numbers spread evenly
# from 0 to 1, and a share of $p$ of them lies below $p$.

# %%
small = X[0, :, 60, 61:67]  # (8, 6)
keep_small = (torch.rand(8, 6, generator=seed(5)) >= 0.3).to(DEVICE)  # (8, 6)
trained, tested = dropout(small, keep_small, 0.3), Dropout(0.3).eval()(small)  # (8, 6) each

# %% tags=["figure-4.7"]
fig, axes = plt.subplots(1, 3, figsize=(8.5, 3.5))
titles = ("activations", "in training: × 1.43, or × 0", "in testing: as they are")
for ax, title, values in zip(axes, titles, (small, trained, tested), strict=True):
    ax.imshow(values.cpu(), cmap="Blues", vmin=0, vmax=12, aspect="auto")
    ax.set_title(title)
    ax.axis("off")
    for (d, t), value in np.ndenumerate(values.cpu().numpy()):
        if ax is axes[1] and not keep_small[d, t]:
            ax.scatter(t, d, s=190, marker="x", color=color.gradient, lw=1.3)
        else:
            ax.text(t, d, f"{value:.1f}", ha="center", va="center", size=11)
said = f"Tables of 8 channels by 6 positions. In the second, {(~keep_small).sum()} of 48 are crossed out, "
said += f"the others divided by 0.7: {small.max():.1f} became {trained.max():.1f}. The third is the first."
figure("4.7", "Dropout in training (middle) and in testing (right).", said)

# %% [markdown]
# And this is what it does to a photograph in shades of grey, whose pixels we treat as activations. In the middle is
# one draw; on the right, the average of many. Pull `draws` to 1, and both are the same. Then raise it again: at
# $p = 0.8$ a single draw is little more than noise, four fifths of it black and the rest five times too bright. Yet
# with 64 draws the picture is back, if grainy, and with the right brightness. That is the equation for the mean, at
# work in each pixel. Watch the number below the picture as well. It is the typical error of the average, and falls
# like one over the root of the number of draws: four times as many halve it. In the picture itself the noise is
# strongest where the photograph is bright, since its size is in proportion to $x$. Untick training, and there is
# nothing to average.

# %%
photo = squares[2].mean(0)[:96, 32:].cpu()  # (96, 96) in shades of grey
chance = torch.rand(64, 96, 96, generator=seed(4))


# %%
def scene(fig):
    """A photograph; the same with a share of all numbers dropped; and the average of several such draws."""
    names = ("photograph", "one draw", "average of the draws")
    pictures = []
    for ax, name in zip(fig.subplots(1, 3), names, strict=True):
        pictures.append(ax.imshow(photo, cmap="gray", vmin=0, vmax=1))
        ax.set_title(name)
        ax.axis("off")

    def update(p, draws, training):
        keep = chance[:draws] >= (p if training else 0)  # (draws, 96, 96)
        stays = 1 - p if training else 1
        average = photo * keep.float().mean(0) / stays
        pictures[1].set_data(photo * keep[0] / stays)
        pictures[2].set_data(average)
        off = (average - photo).square().mean().sqrt()
        return f"each number kept counts {1 / stays:.2f} times; the average is off by {off:.3f}"

    return update


# %%
chosen = {"p": slider(0.0, 0.9, 0.5, 0.05), "draws": slider(1, 64, 16), "training": toggle(True)}
explore(scene, "4.5a", "Dropout of a photograph, and its average.", (7.4, 2.9), **chosen)

# %% [markdown]
# ### Whole channels
#
# At $p = 0.5$ one still recognizes the picture in a single draw. Dropout has hardly hidden anything. What is missing
# in one pixel is still to be seen in the next: neighbours in a photograph are alike, and so are neighbours in an
# activation map. How much so, a correlation tells. It is 1 for two pixels that always vary together, and 0 for two
# that know nothing of each other. We measure it between pixels of one row, for growing distances. The function lays
# the map beside a copy of itself that is moved by `distance`, subtracts the means, and compares the mean product with
# the mean squares.


# %%
def correlation(maps: Tensor, distance: int) -> float:
    """Correlation of values so far apart in a row of maps (N, D, H, W), averaged over the maps."""
    pair = torch.stack([maps[..., distance:], maps[..., :-distance]])  # (2, N, D, H, W - distance)
    a, b = pair - pair.mean((-1, -2), keepdim=True)
    sizes = (a.square().mean((-1, -2)) * b.square().mean((-1, -2))).sqrt()  # (N, D)
    return ((a * b).mean((-1, -2)) / sizes).mean().item()


# %%
distances = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
of_pixels = [correlation(squares, distance) for distance in distances]
of_maps = [correlation(X, distance) for distance in distances]
claim("correlation of neighbouring pixels", of_pixels[0], at_least=0.9)
claim("correlation of neighbours in an activation map", of_maps[0], at_least=0.8)

# %% [markdown]
# So let us try to undo the dropout. Each dropped number is replaced by the mean of those of its eight neighbours that
# were kept. (A sum over a square of 3 by 3 is nine times its mean, and the nine cancels.) Where no neighbour was
# kept, the mean of the map must do: added with a tiny weight, it counts only there.


# %%
def fill_in(x: Tensor, keep: Tensor) -> Tensor:
    """x (N, D, H, W) where keep, else the mean of the kept values among the eight neighbours."""
    middle = (x * keep).sum((-1, -2), True) / keep.sum((-1, -2), True).clamp(min=1)  # (N, D, 1, 1)
    total = F.avg_pool2d(x * keep, 3, stride=1, padding=1) + 1e-3 * middle
    count = F.avg_pool2d(keep.to(x), 3, stride=1, padding=1) + 1e-3
    return torch.where(keep, x, total / count)


# %% [markdown]
# How good is such a guess? The dropped values differ from the mean of their map by some variance. The share of it
# that the guess explains is what we call recovered: 1 if all guesses are right, 0 if the mean of the map would have
# been as good.


# %%
def recovered(x: Tensor, keep: Tensor) -> float:
    """Share of the variance of the dropped values that their neighbours explain, at least 0."""
    lost = (fill_in(x, keep) - x)[~keep].square().mean()
    spread = (x - x.mean((-1, -2), keepdim=True))[~keep].square().mean()
    return max(0.0, (1 - lost / spread).item())


# %% [markdown]
# For comparison, the same activations with their positions shuffled: the numbers are the same, but neighbours have
# nothing in common any more. Then the mean of the neighbours is worse than no guess, which we count as 0. All use the
# same random numbers: where such a number is below $p$, the activation is dropped. So whatever is dropped at one rate
# is dropped at all higher rates, too, and the curves below are smooth.

# %%
chance = torch.rand(X.shape, generator=seed(6)).to(DEVICE)
order = torch.randperm(128 * 128, generator=seed(7)).to(DEVICE)
shuffled = X.flatten(2)[..., order].view_as(X)  # (N, D, H, W)

# %% [markdown]
# Three kinds of tensors, then, at seven rates each: the colours of the photographs, activation maps of three of them,
# and the same maps shuffled.

# %%
rates = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9]
kinds = (squares, X[:3], shuffled[:3])
back = {p: [recovered(x, chance[: len(x), : x.shape[1]] >= p) for x in kinds] for p in rates}

# %%
claim("recovered of single pixels, p = 0.5", back[0.5][0], at_least=0.85)
claim("recovered of single activations, p = 0.5", back[0.5][1], at_least=0.75)
claim("recovered of shuffled activations, p = 0.5", back[0.5][2], at_most=0.05)

# %%
shown = (("photographs", of_pixels), ("maps", of_maps))
said = [f"{name} {c[0]:.2f}, {c[3]:.2f}, {c[-1]:.2f}" for name, c in shown]
said = "Correlation at distances 1, 4 and 32: " + "; ".join(said) + ". Recovered at p = 0.5: "
said += ", ".join(f"{share:.2f}" for share in back[0.5])

# %% [markdown]
# On the left, how fast neighbours become strangers with growing distance; on the right, how much of the dropped
# values their neighbours give back.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
names = ("photographs", "activation maps", "shuffled maps")
shades, heights = (color.data, color.model, color.gradient), (1.01, 0.76, 0.05)
curves = torch.tensor(list(back.values())).T  # (3, 7)
for name, shade, at, shares in zip(names, shades, heights, curves, strict=True):
    right.plot(rates, shares, color=shade)
    right.text(0.05, at, name, color=shade)
left.plot(distances, of_pixels, color=color.data)
left.plot(distances, of_maps, color=color.model)
left.text(10, 0.66, "photographs", color=color.data)
left.text(8.5, 0.25, "activation maps", color=color.model)
left.set(xlabel="distance in pixels", title="Correlation in a row", ylim=(0, 1.05), xlim=(0, 33))
right.set(xlabel="$p$", title="Recovered from neighbours", ylim=(-0.02, 1.12), xlim=(0, 0.92))
figure("4.5b", "Neighbours are alike (left), so single losses can be made good (right).", said)

# %% [markdown]
# Dropping half of all activations one by one takes away little: more than four fifths of what is lost can be read
# from the neighbours. The next layer, a convolution that looks at neighbours anyway, can do it as well. So for
# signals in two dimensions one drops whole channels: one coin is thrown for each image and each channel, and the
# entire map stays or goes. That is what `whole_channels` does, by a mask of shape (N, D, 1, 1) that is stretched over
# height and width. It was part of the 48 comparisons above, with PyTorch's `nn.Dropout2d`.
#
# The layer must leave each of our 48 maps, eight channels of six images, as a whole: doubled everywhere, or zero
# everywhere.

# %%
seed(9)
Y = Dropout(0.5, whole_channels=True)(X)  # (N, D, H, W)
doubled, gone = (torch.eq(Y, values).flatten(2).all(2) for values in (2 * X, 0 * X))  # (N, D) each
claim("each map is dropped or doubled as a whole", torch.equal(doubled, ~gone))

# %% [markdown]
# Here it is for all eight channels. We throw the 48 coins ourselves, and show the first two photographs with their
# 16. Crosses mark the maps that are gone; those that stay are doubled, and so look darker. Each image throws its own
# coins: what is lost for the dogs may be there for the mountains.

# %%
stays = (torch.rand(6, 8, generator=seed(9)) >= 0.5).to(DEVICE)  # (N, D)
Y = dropout(X, stays[..., None, None], 0.5)  # (N, D, H, W)

# %% tags=["figure-4.8"]
fig, axes = plt.subplots(2, 9, figsize=(8.5, 2.15))
for n, row in enumerate(axes):
    row[0].imshow(squares[n].permute(1, 2, 0).cpu())
    row[0].set_ylabel(f"n = {n}")
    for d, ax in enumerate(row[1:]):
        ax.imshow(Y[n, d].cpu()[::2, ::2], cmap="gray_r", vmin=0, vmax=6)
        ax.set_title("" if n else f"d = {d}", weight="normal", loc="center")
        if not stays[n, d]:
            ax.plot([4, 59], [4, 59], color=color.gradient, lw=1.5)
            ax.plot([4, 59], [59, 4], color=color.gradient, lw=1.5)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
lost = [", ".join(str(d) for d in range(8) if not stays[n, d]) for n in (0, 1)]
said = f"Two photographs and their 8 maps; crossed out are {lost[0]} of the first, {lost[1]} of the second."
figure("4.8", "Dropout of whole channels: every image draws its own.", said)

# %% [markdown]
# Try both kinds, on four of the eight maps of a quarter of the dogs. The first row shows the activations, the second
# what dropout leaves of them, the third what the neighbours can make of it. With single activations one can raise $p$
# to 0.8, and the third row still shows most of the shapes, though blurred. With whole channels there is nothing to
# guess from, and a map that is gone is gone. What the other maps tell about it is another matter. An edge seen by one
# filter is also seen, more faintly, by the filter next to it, and a network that is trained with dropout has to learn
# to make use of that.

# %%
maps = X[:1, :4, 16:80, 24:88].cpu()  # (1, 4, 64, 64)
coins = torch.rand(maps.shape, generator=seed(8))


# %%
def strip(maps: Tensor) -> Tensor:
    """Maps (1, D, H, W) side by side with three blank columns between: (H, D (W + 3))."""
    return F.pad(maps[0], (0, 3)).permute(1, 0, 2).flatten(1)


# %%
def scene(fig):
    """Three rows of four activation maps: before dropout, after it, and filled in from neighbours."""
    axes = fig.subplots(3, 1)
    pictures = [ax.imshow(strip(maps), cmap="gray_r", vmin=0, vmax=4) for ax in axes]
    for ax, name in zip(axes, ("before", "dropped", "filled in"), strict=True):
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name)
        ax.spines[:].set_visible(False)

    def update(p, whole_channels):
        coin = coins[:, :, :1, :1].expand_as(coins) if whole_channels else coins
        keep = coin >= p  # (1, 4, 64, 64)
        pictures[1].set_data(strip(dropout(maps, keep, p)))
        pictures[2].set_data(strip(fill_in(maps, keep)))
        share = recovered(maps, keep) if not keep.all() else 1.0
        return f"dropped {(~keep).float().mean():.0%}, of that recovered {share:.0%}"

    return update


# %%
chosen = {"p": slider(0.0, 0.9, 0.5, 0.05), "whole_channels": toggle(False)}
explore(scene, "4.5c", "What neighbours can make good.", (5.4, 3.6), **chosen)

# %% [markdown]
# ### What it is good for
#
# Dropout is a regularizer: it works against overfitting. For a linear model this can be computed, without drawing a
# single mask. Let the prediction be $\sum_d w_d x_d$, and drop the inputs. By the equations above the prediction
# keeps its mean, and gets a variance of $\frac{p}{1-p} \sum_d w_d^2 x_d^2$. The mean squared error under noise is the
# squared error of the mean plus that variance, so on average over all masks
#
# $$\mathbb{E}\Big[\big(t - \textstyle\sum_d w_d y_d\big)^2\Big] = \big(t - \textstyle\sum_d w_d x_d\big)^2
# + \frac{p}{1 - p} \sum_d w_d^2 x_d^2$$
#
# for a target $t$. That is a penalty on large weights, much like the one of section 1.3, with one difference. Each
# weight pays according to the activation that it multiplies, and so whoever contributes much pays much. Spreading a
# contribution over several units is cheaper. Once more over all masks:

# %%
p, w, t = 0.4, torch.randn(10, generator=seed(1), dtype=torch.float64).to(DEVICE), 2.0
probability = (1 - p) ** kept * p ** (10 - kept)  # (1024,)
over_masks = probability @ (t - dropout(x, keep, p) @ w).square()
penalized = (t - w @ x) ** 2 + p / (1 - p) * (w * x).square().sum()
claim("squared error over all masks is a penalty", over_masks, equals=penalized, within=1e-9)

# %% [markdown]
# The sum over training examples of that penalty has $\sum_n x_{n,d}^2$ for the weight $d$, the diagonal of
# $X^\top X$. So the best weights *under dropout with all its masks at once* solve a system of linear equations, as in
# section 1.2. (A little is added to the diagonal for pixels that are blank in all images.)


# %%
def fit_with_dropout(X: Tensor, T: Tensor, p: float) -> Tensor:
    """The W (D, C) with the smallest squared error X W - T, (N, C), over all masks of X (N, D)."""
    gram = X.mT @ X  # (D, D)
    penalty = p / (1 - p) * gram.diagonal() + 1e-7 * gram.max()  # (D,)
    return torch.linalg.solve(gram + penalty.diag(), X.mT @ T)


# %% [markdown]
# What does the penalty do at its extremes? With $p$ near 0 it vanishes, and plain least squares remains. With $p$
# near 1 it is so large that the correlations between inputs no longer count beside the diagonal, and each input is
# judged by itself, as though the others did not exist. In between, an input may rely on the others, but not on a
# single one.
#
# Is that right? We take ten activations from each of three photographs, five channels at two positions, plus a half,
# so that none is zero. The probability $p$ is still 0.4, and `keep` holds the 1,024 masks. Write all of them out: one
# example with ten activations becomes 1,024 examples, each weighted with the root of its probability, and three
# examples become 3,072. Plain least squares on all these must find the same weights.

# %%
three = X[:3, :5, 60, 60:62].flatten(1).double() + 0.5  # (3, 10): 5 channels, 2 positions
targets = torch.randn(3, 2, generator=seed(2), dtype=torch.float64).to(DEVICE)  # (3, 2)
masked = probability.sqrt()[:, None] * dropout(three[:, None], keep, p)  # (3, 1024, 10)
copies = probability.sqrt()[:, None] * targets[:, None]  # (3, 1024, 2)

# %%
expected = torch.linalg.lstsq(masked.flatten(0, 1), copies.flatten(0, 1)).solution  # (10, 2)
found = fit_with_dropout(three, targets, p)
claim("weights under dropout, and least squares on all masks", found, equals=expected, within=1e-6)

# %% [markdown]
# Now 300 handwritten digits, and two models that have more weights than that for each class: one reads the 784
# pixels, the other a layer of 600 hidden units with ReLU whose weights are random and stay as they are. Both are
# fitted by the function above, for many values of $p$, and tested on 2,000 other digits. The target of a digit is one
# for its class and zero for the others, less a tenth, so that they add up to nothing.

# %%
images, labels = mnist("train", DEVICE)
images_new, labels_new = mnist("test", DEVICE)
some, new = (x.flatten(1).double() for x in (images[:300], images_new))  # (300, 784), (2000, 784)
targets = F.one_hot(labels[:300], 10).double() - 0.1  # (300, 10)

# %%
hidden = torch.randn(784, 600, generator=seed(3), dtype=torch.float64).to(DEVICE) / 14  # (784, 600)
units, units_new = (some @ hidden).relu(), (new @ hidden).relu()  # (300, 600), (2000, 600)


# %%
def test_error(inputs: Tensor, inputs_new: Tensor, p: float) -> float:
    """Share of new digits that the linear model, fitted under dropout, gets wrong."""
    scores = inputs_new @ fit_with_dropout(inputs, targets, p)  # (2000, 10)
    return (scores.argmax(1) != labels_new).double().mean().item()


# %%
rates = [0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95]
of_pixels = [test_error(some, new, p) for p in rates]
of_hidden = [test_error(units, units_new, p) for p in rates]
gain, smaller_gain = (errors[0] - errors[rates.index(0.5)] for errors in (of_pixels, of_hidden))
too_much = of_hidden[-1] - of_hidden[rates.index(0.5)]

# %% [markdown]
# Look at the left end of each curve, and at the right one. Without dropout the model of pixels fails on about half of
# the new digits, with $p = 0.5$ on a quarter. The hidden units gain less, from more than a quarter to a fifth,
# perhaps because a random layer spreads what it knows over all its units by itself. But they also show that there can
# be too much dropout. Near $p = 1$ each unit is judged by itself, and units that together could tell two digits apart
# no longer do.

# %%
claim("test error that p = 0.5 removes, pixels", gain, at_least=0.1)
claim("test error that p = 0.5 removes, hidden units", smaller_gain, at_least=0.02)
claim("test error that p = 0.95 adds to p = 0.5, hidden units", too_much, at_least=0.02)

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(rates, of_pixels, "-o", color=color.gradient, ms=4)
ax.plot(rates, of_hidden, "-o", color=color.model, ms=4)
ax.text(0.3, 0.31, "784 pixels", color=color.gradient)
ax.text(0.3, 0.15, "600 hidden units", color=color.model)
ax.set(xlabel="$p$", ylabel="test error", ylim=(0, 0.55), xlim=(-0.02, 1))
said = f"Pixels: from about {of_pixels[0]:.1f} without dropout to {min(of_pixels):.1f} at best; "
said += f"hidden units: from about {of_hidden[0]:.1f} to {min(of_hidden):.1f}."
figure("4.5d", "Errors of linear models fitted to 300 digits, over all masks.", said)

# %% [markdown]
# And a network that learns its hidden units? Two of them, with two hidden layers of 128, are trained on 1,000 digits:
# one with dropout after each hidden layer and $p = 0.5$, the other without. Then we test them twice, with all units,
# and with a share of the hidden units taken away by chance.


# %%
def classifier(p: float) -> nn.Module:
    """A network with two hidden layers, each followed by dropout."""
    parts = [nn.Linear(784, 128), nn.ReLU(), Dropout(p), nn.Linear(128, 128), nn.ReLU(), Dropout(p)]
    return nn.Sequential(nn.Flatten(), *parts, nn.Linear(128, 10)).to(DEVICE)


# %%
def trained(p: float) -> nn.Module:
    """The classifier after 10 epochs on 1,000 digits."""
    seed(0)
    model, data = classifier(p), batches(images[:1000], labels[:1000], size=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(model, data, lambda model, x, y: F.cross_entropy(model(x), y), optimizer, epochs=10)
    return model.eval()


# %% [markdown]
# To take units away after the training, the weights are copied into a network of the same form, whose dropout layers
# are left in training mode and so keep on dropping. A new mask is drawn for every digit, and those units that stay
# are divided by one minus the share, as in training. We do it for seven shares, from none to four fifths.


# %%
@torch.no_grad()
def accuracy_without(model: nn.Module, share: float) -> float:
    """Accuracy on new digits when this share of the hidden units is dropped."""
    changed = classifier(share).train(share > 0)
    changed.load_state_dict(model.state_dict())
    seed(1)
    return (changed(images_new).argmax(1) == labels_new).float().mean().item()


# %%
shares = [0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8]
models = [trained(p) for p in (0.5, 0)]
with_dropout, without = ([accuracy_without(model, share) for share in shares] for model in models)

# %%
claim("accuracy of the network with dropout", with_dropout[0], at_least=0.85)
claim("accuracy of the network without dropout", without[0], at_least=0.85)
advantage = with_dropout[4] - without[4]
claim("half of the units gone: advantage of the one with dropout", advantage, at_least=0.05)
further = with_dropout[6] - without[6]
claim("four fifths gone: advantage of the one with dropout", further, at_least=0.05)

# %% [markdown]
# With all units, dropout gains next to nothing. (In five trainings from different seeds, which are not repeated here,
# 88.8 digits of 100 were right on average, instead of 88.4.) The paper of 2014 reports less overfitting, in many
# experiments; a small network on clean digits leaves little to gain.
#
# The book gives another reason. A group of $k$ units survives a step together only with probability $(1 - p)^k$. For
# ten units and $p = \frac{1}{2}$ that is less than one in a thousand, so the training cannot build on groups. This is
# plain to see. Take half of the units away, and the network without dropout falls to about 72, the one with it only
# to about 83. That it copes with one half is no surprise, it was trained for that. But it also stays ahead at larger
# shares, for which it was not.

# %%
fig, ax = plt.subplots(figsize=(6, 2.9))
for curve, shade in ((without, color.gradient), (with_dropout, color.model)):
    ax.plot(shares, curve, "-o", color=shade, ms=4)
ax.text(0.47, 0.88, "trained with dropout", color=color.model)
ax.text(0.33, 0.7, "without", color=color.gradient)
ax.set(xlabel="share of hidden units taken away", ylabel="accuracy", ylim=(0.2, 1))
said = "Both start near 0.9. The network trained with dropout keeps most of it when half of its units go, "
said += f"the other does not: {'it falls behind everywhere' if advantage > 0 else 'not seen here'}."
figure("4.5e", "Networks that lose units after the training.", said, held="trained")

# %% [markdown]
# What does dropout cost? It has no parameters. In training there is one division for each activation, and in testing
# nothing at all. Random numbers are to be drawn as well, and the mask must be remembered until the backward pass. The
# larger price is hidden: with noise in every step the loss falls more slowly, and trainings have to be longer.

# %%
x = X[:2]  # (2, 8, 128, 128)
costs = (cost(Dropout(0.5), x), cost(Dropout(0.5).eval(), x))
expected = ((0, x.numel()), (0, 0))
claim("dropout costs a division for each activation, and nothing in testing", costs == expected)

# %% [markdown]
# **Exercise.** Zero or $\frac{1}{1 - p}$ is not the only noise with which one can multiply. A bell curve does it as
# well: the factor is then a random number with mean 1, and all that has to be chosen is its standard deviation. Write
# `gaussian_dropout(x, noise, p)`, so that its output has the mean and the variance that `Dropout` with $p$ would
# give. `noise` has the shape of the output, mean 0 and variance 1. (In the test, the line `noise = (noise - …)` makes
# both exact, so that no tolerance for chance is needed.)


# %% tags=["exercise"]
def gaussian_dropout(x: Tensor, noise: Tensor, p: float) -> Tensor:
    """x times random factors; noise has the shape of the output, mean 0 and variance 1."""
    raise NotImplementedError


values, noise = torch.tensor([1.0, -2.0, 0.0]), torch.randn(100_000, 3, generator=seed(6))
noise = (noise - noise.mean(0)) / noise.std(0, correction=0)  # (100000, 3)
check(
    gaussian_dropout,
    ("1, -2 and 0 stay 1, -2 and 0 on average", lambda g: (g(values, noise, 0.2).mean(0), values)),
    (
        "for p = 0.2 their variances are 0.25, 1 and 0",
        lambda g: (g(values, noise, 0.2).var(0, correction=0), values**2 / 4),
    ),
    (
        "x = 3, noise 2 and p = 0.5 give 9",
        lambda g: float(g(torch.tensor(3.0), torch.tensor(2.0), 0.5)) == 9,
    ),
)


# %% tags=["solution", "hide-input"]
def gaussian_dropout(x: Tensor, noise: Tensor, p: float) -> Tensor:
    """The variance of x (1 + s noise) is s² x², and that of dropout is p / (1 - p) x²."""
    return x * (1 + (p / (1 - p)) ** 0.5 * noise)


# %% [markdown]
# ## 4.6 Normalizing layers
#
# A deep network multiplies, layer after layer. If each layer makes its input smaller by a fifth, then after twenty
# layers one hundredth is left; if each makes it larger by a fifth, it has grown forty times. With a careful choice of
# the first weights both can be avoided at the start of the training, but training changes the weights. A
# **normalizing layer** does not hope for the right size, it sets it: it measures mean and variance of a group of
# activations, together called the **moments** of the group, subtracts the one and divides by the root of the other.
# The group then has mean 0 and variance 1, whatever came in.
#
# The idea is young, and came in many forms within a few years: batch normalization in 2015, layer normalization in
# 2016, group normalization in 2018, RMS normalization in 2019. Hardly any large network since then does without one
# of them.
#
# Two weights, $\gamma$ and $\beta$, follow. They multiply the result and add to it, so that training can choose
# another size and mean where it needs one. They start at 1 and 0.
#
# What the kinds of normalization differ in is the group. **Batch normalization** takes all activations of one
# channel, over all samples of the batch and all positions. **Layer normalization** takes all activations of one
# sample, over all channels and positions. For a batch of images with activations $x_{n,d,h,w}$, and with
# $\epsilon = 10^{-5}$ against divisions by zero:
#
# $$\hat m_d = \frac{1}{N H W} \sum_{n,h,w} x_{n,d,h,w} \qquad
# \hat v_d = \frac{1}{N H W} \sum_{n,h,w} (x_{n,d,h,w} - \hat m_d)^2 \qquad
# y_{n,d,h,w} = \gamma_d\, \frac{x_{n,d,h,w} - \hat m_d}{\sqrt{\hat v_d + \epsilon}} + \beta_d$$
#
# and for layer normalization the same with $\hat m_n$ and $\hat v_n$, which are means over $d$, $h$ and $w$, and with
# $\gamma_{d,h,w}$ and $\beta_{d,h,w}$: batch normalization has a pair of weights for each channel, layer
# normalization one for each component of a sample.
#
# Four numbers make it plain. A channel with the activations 1, 2, 3 and 6 has the mean 3. The differences are −2, −1,
# 0 and 3, the mean of their squares is 3.5, and its root 1.87. So the four become −1.07, −0.53, 0 and 1.60. Had they
# been 100, 200, 300 and 600, or 1001, 1002, 1003 and 1006, the result would have been the same.
#
# In code the kinds of normalization share one function. `dims` are the dimensions over which the group extends;
# `keepdim` leaves them in place with size one, so that the moments fit the tensor that they came from: for images of
# shape (N, D, H, W) and the dimensions 0, 2 and 3, they are of shape (1, D, 1, 1), and broadcasting does the rest.


# %% tags=["export"]
def moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance of x (...) over some dimensions, which are kept with size one."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    return mean, (centred * centred).mean(dims, keepdim=True)


# %% tags=["export"]
def normalize(x: Tensor, dims: list[int], eps: float = 1e-5) -> Tensor:
    """x (...) with mean 0 and variance 1 over some dimensions."""
    mean, variance = moments(x, dims)
    return (x - mean) / (variance + eps).sqrt()


# %% [markdown]
# Batch normalization: the group extends over all dimensions but number 1, the channels. It works for (N, D), for
# sequences (N, D, T) and for images (N, D, H, W). The helper `per_channel` gives a list of D numbers the shape (D, 1,
# 1), so that they meet the right dimension.


# %% tags=["export"]
def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Numbers (D,) in a shape that fits x (N, D, ...)."""
    return values.reshape(-1, *[1] * (x.dim() - 2))  # (D, 1, 1) for images


# %% tags=["export"]
def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Batch normalization of x (N, D, ...) as in training, with gamma and beta (D,)."""
    over = [0, *range(2, x.dim())]
    return per_channel(gamma, x) * normalize(x, over, eps) + per_channel(beta, x)


# %% [markdown]
# Layer normalization takes as many of the *last* dimensions as $\gamma$ has, as PyTorch's `nn.LayerNorm` does: (D, H,
# W) is the formula above. Group normalization splits the channels of a sample into groups and has, like batch
# normalization, one $\gamma$ and $\beta$ for each channel. To compute it, `reshape` puts all that belongs to one group
# of one sample into a row, the rows are normalized, and the result gets its old shape back.


# %% tags=["export"]
def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer normalization of x over its last dimensions, those of gamma and beta."""
    return gamma * normalize(x, list(range(-gamma.dim(), 0)), eps) + beta


# %% tags=["export"]
def group_norm(x: Tensor, groups: int, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """Group normalization of x (N, D, ...): each sample's channels in so many groups; gamma, beta (D,)."""
    y = normalize(x.reshape(len(x), groups, -1), [-1], eps).reshape(x.shape)
    return per_channel(gamma, x) * y + per_channel(beta, x)


# %% [markdown]
# Last comes the variant of today's large language models, which saves the mean. RMS normalization divides by the root
# of the mean square, subtracts nothing and has no $\beta$.


# %% tags=["export"]
def rms_norm(x: Tensor, gamma: Tensor, eps: float = 1e-5) -> Tensor:
    """x (..., D) divided by the root of its mean square over the last dimension, times gamma (D,)."""
    return gamma * x / ((x * x).mean(-1, keepdim=True) + eps).sqrt()


# %% [markdown]
# First the formula word for word, with its sums as loops, on a small tensor of real activations: four photographs,
# six channels, two rows and three columns. (The channels are those of the edge filters of section 4.5. The
# photographs are shrunk to 96 by 144 pixels, so that squares of 48 by 48, over which we average, make two rows of
# three.)

# %%
from lbdl.chapters.ch04 import edge_maps

# %%
squares = photographs("test", DEVICE).images[:4]  # (4, 3, 512, 512)
squares = F.interpolate(squares, (96, 144), mode="bilinear", antialias=True).contiguous()
X = F.avg_pool2d(edge_maps(squares)[:, :6], 48).double()  # (N, D, H, W): (4, 6, 2, 3)
N, D, H, W = X.shape
chance = seed(1)
gamma, beta = torch.rand(2, D, generator=chance, dtype=torch.float64).to(DEVICE)  # (D,), (D,)
gammas, betas = torch.rand(2, D, H, W, generator=chance, dtype=torch.float64).to(
    DEVICE
)  # (D, H, W), (D, H, W)

# %% [markdown]
# An entry is named by its four numbers $(n, d, h, w)$. Its group consists of all entries that agree with it in one of
# them: in $d$, number 1, for batch normalization; in $n$, number 0, for layer normalization. The loop over entries is
# slow and hides nothing. The numbers after $n$ pick $\gamma$ and $\beta$: the channel alone, or all three.


# %%
def word_for_word(same: int, gamma: Tensor, beta: Tensor) -> Tensor:
    """X normalized entry by entry; a group is all the entries with the same number there."""
    y, entries = torch.zeros_like(X), list(itertools.product(*map(range, X.shape)))
    for at in entries:
        group = [X[other] for other in entries if other[same] == at[same]]
        m = sum(group) / len(group)
        v = sum((z - m) ** 2 for z in group) / len(group)
        own = at[1 : 1 + gamma.dim()]  # (d,) or (d, h, w)
        y[at] = gamma[own] * (X[at] - m) / (v + 1e-5).sqrt() + beta[own]
    return y


# %% tags=["equation-normalization"]
by_batch, by_layer = batch_norm(X, gamma, beta), layer_norm(X, gammas, betas)  # (N, D, H, W) each
batch_loops = word_for_word(1, gamma, beta)  # (N, D, H, W)
layer_loops = word_for_word(0, gammas, betas)  # (N, D, H, W)

# %%
claim("batch normalization by loops and by tensors", by_batch, equals=batch_loops, within=1e-12)
claim("layer normalization by loops and by tensors", by_layer, equals=layer_loops, within=1e-12)

# %% [markdown]
# Then all of them against PyTorch's, outputs and gradients with respect to the input, $\gamma$ and $\beta$. That is
# worth a check, because the backward pass is not obvious: a change of one activation moves the mean and the variance
# of its whole group.
#
# `pairs_of_norms` has a list of our four functions, and one of PyTorch's in the same order; the third list has the
# shapes of $\gamma$ that they want. The two `None` stand where PyTorch could keep moments for testing, which come
# further below. Group normalization gets groups of two channels. RMS normalization has no $\beta$; we add one on both
# sides, so that all four take the same arguments.


# %%
def pairs_of_norms(D: int, last: tuple, eps: float) -> zip:
    """Ours, torch's, and the shape of gamma, for inputs (N, D, ...) whose last dimensions are `last`."""
    ours = [
        lambda x, g, b: batch_norm(x, g, b, eps),
        lambda x, g, b: group_norm(x, D // 2, g, b, eps),
        lambda x, g, b: layer_norm(x, g, b, eps),
        lambda x, g, b: rms_norm(x, g, eps) + b,
    ]
    torchs = [
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True, eps=eps),
        lambda x, g, b: F.group_norm(x, D // 2, g, b, eps),
        lambda x, g, b: F.layer_norm(x, last, g, b, eps),
        lambda x, g, b: F.rms_norm(x, last[-1:], g, eps) + b,
    ]
    return zip(ours, torchs, ((D,), (D,), last, last[-1:]), strict=True)


# %% [markdown]
# The shapes are those of plain vectors, of sequences and of images, each with the dimensions over which layer
# normalization shall go: one, two or three of the last. There are three values of $\epsilon$ as well, one of them so
# large that a forgotten $\epsilon$ would be noticed. With four normalizations that makes 48 cases. All tensors are
# random numbers around 3 with a standard deviation of 2, so that there is a mean to subtract.

# %%
shapes = {(8, 6): (6,), (5, 4, 7): (7,), (4, 6, 3, 5): (3, 5), (2, 8, 4, 4): (8, 4, 4)}
cases = list(itertools.product(shapes.items(), (1e-5, 1e-3, 0.1)))


# %%
def norms_against_torch(dtype: torch.dtype) -> float:
    """Largest difference between our four normalizations and torch's, in 48 cases."""
    gaps, chance = [], seed(2)
    for (shape, last), eps in cases:
        for ours, torchs, weights in pairs_of_norms(shape[1], last, eps):
            of_shapes = (shape, weights, weights)
            tensors = [torch.randn(s, generator=chance, dtype=dtype) for s in of_shapes]
            gaps.append(difference(ours, torchs, *(3 + 2 * t.to(DEVICE) for t in tensors)))
    return max(gaps)


# %%
exact, single = norms_against_torch(torch.float64), norms_against_torch(torch.float32)
claim("four normalizations and torch's, 48 cases, 64 bits", exact, at_most=1e-11)
claim("four normalizations and torch's, 48 cases, 32 bits", single, at_most=1e-3)

# %% [markdown]
# What is that backward pass? Write $z$ for the normalized activations and $g$ for the gradient that arrives at them.
# Whatever comes in, the $z$ of a group add up to 0 and the mean of their squares is 1. They can neither all move up
# together nor all grow together. So the part of $g$ that asks for the first (its mean) and the part that asks for the
# second (the one along $z$) have no effect. Both are removed, and the rest is divided by the standard deviation
# $\sigma$, as the activations were:
#
# $$\nabla \ell_{|x} = \frac{1}{\sigma} \big(g - \overline{g} - z\, \overline{g z}\big)$$
#
# The bar is the mean over the group. Here it is for the channels of a batch, with $\epsilon = 0$, and a random $g$.
# `grad` takes the $g$ that arrives at the output as its third argument.

# %%
x, g = torch.randn(2, 20, 3, generator=seed(12), dtype=torch.float64).to(DEVICE)  # (N, D), (N, D)
z, sigma = normalize(x, [0], eps=0.0), moments(x, [0])[1].sqrt()  # (N, D), (1, D)
by_hand = (g - g.mean(0) - z * (g * z).mean(0)) / sigma  # (N, D)

# %%
x.requires_grad_()
by_autograd = torch.autograd.grad(normalize(x, [0], eps=0.0), x, g)[0]  # (N, D)
claim("backward pass of a normalization", by_hand, equals=by_autograd, within=1e-12)

# %% [markdown]
# ### Which activations belong together
#
# We could draw the groups from their definitions. It is safer to ask the code. The gradient of one output with
# respect to all inputs is zero wherever the input has no influence, so the inputs with a gradient are those that
# share their moments with it. And which outputs change if one entry of $\gamma$ and of $\beta$ does? Those share
# these weights. Here are six normalizations, all as functions of x, $\gamma$ and $\beta$. The two with "position"
# normalize the D channels of one position of one sample, as language models do for each token. They want channels
# last, so we move that dimension there and back. The one for each channel of each sample alone is called instance
# normalization.

# %%
kinds = {
    "batch": batch_norm,
    "layer": layer_norm,
    "groups of two": lambda x, g, b: group_norm(x, len(g) // 2, g, b),
    "instance": lambda x, g, b: group_norm(x, len(g), g, b),
    "layer, position": lambda x, g, b: layer_norm(x.movedim(1, -1), g, b).movedim(-1, 1),
    "RMS, position": lambda x, g, b: (rms_norm(x.movedim(1, -1), g) + b).movedim(-1, 1),
}


# %%
def neutral(kind: str, x: Tensor) -> Tensor:
    """Ones in the shape that gamma has for x (N, D, H, W)."""
    return torch.ones_like(x[0] if kind == "layer" else x[0, :, 0, 0])  # (D, H, W) or (D,)


# %%
def share_moments(kind: str, x: Tensor, entry: tuple) -> Tensor:
    """Which entries of x (N, D, H, W) the output at one entry depends on."""
    x, ones = x.clone().requires_grad_(), neutral(kind, x)
    kinds[kind](x, ones, 0 * ones)[entry].backward()
    return x.grad.abs() > 1e-9  # (N, D, H, W)


# %%
def share_weights(kind: str, x: Tensor, entry: tuple) -> Tensor:
    """Which outputs (N, D, H, W) change with the gamma and beta of one entry."""
    ones = neutral(kind, x)
    gamma, beta = ones.clone(), 0 * ones
    own = entry[1 : 1 + ones.dim()]
    gamma[own], beta[own] = 2.0, 3.0
    return kinds[kind](x, gamma, beta) != kinds[kind](x, ones, 0 * ones)  # (N, D, H, W)


# %%
entry = (1, 2, 0, 1)
shared = {kind: share_moments(kind, X, entry) for kind in kinds}
sizes = {name: members.sum().item() for name, members in shared.items()}
print(sizes)

# %% [markdown]
# The numbers are as they should be: of 4 × 6 × 2 × 3 = 144 activations, batch normalization groups the 24 of a
# channel, layer normalization the 36 of a sample. Instance normalization keeps to what the two have in common.
#
# Now not only the numbers, but each single cell. `meshgrid` gives four tensors in the shape of X that hold the place
# of every cell, one for each dimension, so that a statement like $d = 2$ becomes a tensor of true and false.

# %%
places = (torch.arange(size, device=DEVICE) for size in X.shape)
n, d, h, w = torch.meshgrid(*places, indexing="ij")  # (N, D, H, W) each
channel, two, sample, place = d == 2, (d == 2) | (d == 3), n == 1, (h == 0) & (w == 1)

# %%
claim("batch normalization shares moments over the channel", torch.equal(shared["batch"], channel))
claim("layer normalization shares moments over the sample", torch.equal(shared["layer"], sample))
of_two, of_one = shared["groups of two"], shared["instance"]
claim("groups of two share two channels of a sample", torch.equal(of_two, two & sample))
claim("instance normalization shares what both share", torch.equal(of_one, channel & sample))

# %%
of_layer, of_rms = shared["layer, position"], shared["RMS, position"]
claim("layer, position: shares one place of one sample", torch.equal(of_layer, sample & place))
claim("RMS, position: shares one place of one sample", torch.equal(of_rms, sample & place))

# %%
alike = {kind: share_weights(kind, X, entry) for kind in kinds}
claim("batch: gamma and beta are shared over the channel", torch.equal(alike["batch"], channel))
only_samples = channel & place
claim(
    "layer: gamma and beta are shared over the samples", torch.equal(alike["layer"], only_samples)
)

# %% [markdown]
# To draw the groups, the tensor is cut into its samples: one plate for each, with the channels from top to bottom and
# the positions from front to back. Each cell is one activation. It is drawn as a parallelogram: one step back moves
# it to the right and a little up, one channel further moves it down. `back` and `down` count these steps for its four
# corners. A `PolyCollection` holds all 144 at once, and gives them other colours when it is asked to.


# %%
def plates(ax, shape: tuple = (4, 6, 6)) -> PolyCollection:
    """Draw the cells of a tensor (N, D, H W) as N plates, and give them for colouring, in that order."""
    at = torch.cartesian_prod(*(torch.arange(size) for size in shape))  # (N D HW, 3)
    back = at[:, 2:] + torch.tensor([0, 1, 1, 0])  # (N D HW, 4) for the four corners of each cell
    down = at[:, 1:2] + torch.tensor([0, 0, 1, 1])  # (N D HW, 4)
    x, y = at[:, :1] * 3.7 + 0.48 * back, 0.22 * back - down  # (N D HW, 4) each
    points = torch.stack([x, y], dim=2)  # (N D HW, 4, 2)
    cells = PolyCollection(points.numpy(), edgecolors="white", linewidths=0.7)
    ax.add_collection(cells)
    for n in range(shape[0]):
        ax.text(3.7 * n, -6.25, f"n = {n}", va="top", size=10, color="#666666")
    ax.text(-0.25, -3, "channels d", rotation=90, ha="right", va="center", size=10, color="#666666")
    ax.set(xlim=(-0.9, 14.2), ylim=(-7.4, 1.4), aspect="equal")
    ax.axis("off")
    return cells


# %%
def shades(members: Tensor, entry: tuple, shade: str) -> list:
    """Colours for all cells: those of the group, the entry itself, and the others."""
    colours = ["#e3e3e3" if not member else shade for member in members.flatten().tolist()]
    n, d, h, w = entry
    colours[((n * D + d) * H + h) * W + w] = "#222222"
    return colours


# %% [markdown]
# The black cell is the entry that we asked about. Above, blue, are the activations that share its mean and variance:
# a channel through all plates on the left, a whole plate on the right. Below, pink, are those that share its $\gamma$
# and $\beta$: the same channel for batch normalization, and for layer normalization the same component of every
# sample. So layer normalization computes its moments in one direction and applies its weights in another, and batch
# normalization does both in the same.

# %% tags=["figure-4.9"]
fig, axes = plt.subplots(2, 2, figsize=(7, 4.4))
shares = ((shared, color.model), (alike, color.weights))
for column, name in enumerate(("batch", "layer")):
    for row, (members, shade) in enumerate(shares):
        plates(axes[row, column]).set_facecolors(shades(members[name], entry, shade))
    axes[0, column].set_title(f"{name}: one mean, one variance")
    axes[1, column].set_title(f"{name}: one γ, one β")
said = "Four plates of 6 channels by 6 positions, 144 cells. The moments of one cell are shared by "
said += f"{sizes['batch']} cells, its channel on all plates, for batch normalization; by {sizes['layer']}, "
said += "its whole plate, for layer normalization. "
said += (
    f"Its gamma and beta are shared by the {alike['batch'].sum()} cells of its channel for batch "
)
said += f"normalization; by {alike['layer'].sum()}, one at the same place on each plate, for layer normalization."
figure("4.9", "What shares its moments (top) and weights (bottom) with the black cell.", said)

# %% [markdown]
# Now choose the kind, and the cell. On the right every activation is a dot: what it was, and what it became. All
# members of a group lie on one line, since they were shifted and divided by the same numbers. A steep line is a group
# that had little variance, and where it crosses zero is the mean that the group had. Batch normalization of the six
# channels makes six lines, layer normalization of the four photographs four, and group normalization twelve. With RMS
# normalization all lines pass through the origin, because nothing is subtracted.
#
# Move the channel with batch normalization, and the blue dots jump to another line; move the photograph, and they
# stay where they are, because all photographs share that line. With layer normalization it is the other way round.
# With instance normalization both matter, and each group has six members only: then an activation that stood out
# among all may be quite ordinary in its group, or the reverse.


# %%
def scene(fig):
    """Left, a tensor as four plates of cells. Right, a dot for each cell: before and after normalization."""
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    x, cells = X.cpu(), plates(left)
    right.axhline(0, color=color.quiet, lw=0.8)
    right.set(xlabel="before", ylabel="after", ylim=(-3, 4.5), xlim=(-0.02, x.max() + 0.05))
    groups = [right.scatter([], [], s=14, color=c) for c in (color.quiet, color.model, "#222222")]

    def update(kind, photograph, channel, position):
        entry = (photograph, channel, position // 3, position % 3)
        members = share_moments(kind, x, entry)  # (4, 6, 2, 3)
        cells.set_facecolors(shades(members, entry, color.model))
        ones = neutral(kind, x)
        y = kinds[kind](x, ones, 0 * ones)  # (4, 6, 2, 3)
        pairs = torch.stack([x, y], dim=-1)  # (4, 6, 2, 3, 2)
        for dots, which in zip(groups, (~members, members, entry), strict=True):
            dots.set_offsets(pairs[which].reshape(-1, 2))
        mean, deviation = x[members].mean(), x[members].std(correction=0)
        said = f"{members.sum()} of 144 share a mean of {mean:.2f} and a standard deviation of "
        return said + f"{deviation:.2f}; {x[entry]:.2f} becomes {y[entry]:.2f}"

    return update


# %%
places = {"photograph": slider(0, 3, 1), "channel": slider(0, 5, 2), "position": slider(0, 5, 1)}
chosen = {"kind": choice(list(kinds)), **places}
explore(scene, "4.6a", "Groups, and what becomes of them.", (8.5, 3.3), **chosen)

# %% [markdown]
# ### Training and testing
#
# Batch normalization has a catch: what comes out for one image depends on the other images of the batch. In training
# that is bearable, even useful, as a bit of noise. But when the network is used, there may be one image only, and its
# class should not depend on its company. So the layer keeps an account while it is trained. It has a running mean and
# a running variance for each channel; every batch moves them a tenth of the way to its own. In evaluation it uses
# these, and no longer looks at the batch.
#
# These two lists are neither weights nor temporary results. No gradient leads to them, hence `no_grad`; but they must
# be stored with the network and move with it to a GPU. `register_buffer` is there for such tensors.
#
# The running variance hides one subtlety. To normalize, the sum of squares is divided by the count. For the running
# variance it is divided by the count minus one, because that is what gives the right variance on average, when the
# mean had to be estimated from the same numbers.
#
# `take_account` moves the two lists. `moments` gives the mean and the variance in the shape (1, D, 1, 1), and
# `flatten` makes plain lists of them; `count` is the number of activations in a channel. One alone says nothing about
# a variance, and is refused.


# %% tags=["export"]
class BatchNorm(nn.Module):
    """Batch normalization of (N, D, ...), with running moments for evaluation."""

    def __init__(self, D: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gamma, self.beta = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("variance", torch.ones(D))

    @torch.no_grad()
    def take_account(self, x: Tensor) -> None:
        """Move the running moments towards those of this batch.

        Raises:
            ValueError: there is only one value for each channel.
        """
        count, shape = x.numel() // len(self.mean), tuple(x.shape)
        if count < 2:
            raise ValueError(
                f"BatchNorm: expected more than one value for each channel in training, got {shape}"
            )
        mean, variance = (m.flatten() for m in moments(x, [0, *range(2, x.dim())]))  # (D,), (D,)
        self.mean += self.momentum * (mean - self.mean)
        self.variance += self.momentum * (variance * count / (count - 1) - self.variance)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.take_account(x)
            return batch_norm(x, self.gamma, self.beta, self.eps)
        factor = self.gamma / (self.variance + self.eps).sqrt()  # (D,)
        return per_channel(factor, x) * x + per_channel(self.beta - factor * self.mean, x)


# %% [markdown]
# In evaluation the four numbers of a channel, mean, variance, $\gamma$ and $\beta$, are fixed, and the formula can be
# sorted into one factor and one summand: the last two lines. Now beside PyTorch's layer: the same $\gamma$ and
# $\beta$, five batches in training, and one in evaluation, for (N, D), (N, D, T) and (N, D, H, W). After each batch
# we hold outputs, gradients and running moments against each other. A running moment that is only slightly wrong, by
# a count instead of a count minus one, say, would never be noticed in use. Here it is.


# %%
def five_batches(shape: tuple, torchs: nn.Module, dtype: torch.dtype) -> float:
    """Largest difference between BatchNorm and a torch layer: five batches in training, then evaluation."""
    chance, ours = seed(3), BatchNorm(shape[1])
    nn.init.normal_(torchs.weight), nn.init.normal_(torchs.bias)
    ours.gamma, ours.beta = torchs.weight, torchs.bias
    ours, torchs, gaps = ours.to(DEVICE, dtype), torchs.to(DEVICE, dtype), []
    for batch in range(6):
        x = (1 + 3 * torch.randn(shape, generator=chance, dtype=dtype)).to(DEVICE)
        gaps.append(difference(ours.train(batch < 5), torchs.train(batch < 5), x))
        gaps.append((ours.mean - torchs.running_mean).abs().max().item())
        gaps.append((ours.variance - torchs.running_var).abs().max().item())
    return max(gaps)


# %%
shapes = {(7, 5): nn.BatchNorm1d, (3, 5, 9): nn.BatchNorm1d, (2, 5, 4, 3): nn.BatchNorm2d}
exact = max(five_batches(shape, layer(5), torch.float64) for shape, layer in shapes.items())
single = max(five_batches(shape, layer(5), torch.float32) for shape, layer in shapes.items())
claim("BatchNorm and torch's through 5 batches and evaluation, 64 bits", exact, at_most=1e-11)
claim("BatchNorm and torch's through 5 batches and evaluation, 32 bits", single, at_most=1e-4)

# %% [markdown]
# The function `difference` also compares gradients of the input. Those of $\gamma$ and $\beta$ were compared above,
# for the function that the layer calls in training.
#
# What if a batch has one sample only, with no positions to average over? Then the mean is the sample itself, the
# difference is zero, and every channel outputs its $\beta$, no matter what came in. Nothing of the input is left. And
# for the running variance we would have to divide by a count minus one that is zero. So our layer refuses such a
# batch, and PyTorch does likewise. A single *image* is no problem: its height and width are a group as well.

# %%
alone = 5 * torch.randn(1, 6, generator=seed(4), dtype=torch.float64).to(DEVICE)  # (1, D)
y = batch_norm(alone, gamma, beta)  # (1, D)
claim("batch normalization of one sample gives beta", y, equals=beta[None], within=1e-12)


# %%
def refused(norm: Callable, x: Tensor) -> bool:
    """Whether a batch normalization in training refuses this batch."""
    try:
        norm(x)
    except ValueError:
        return True
    return False


# %%
ours, torchs = BatchNorm(6).to(**EXACT), lambda x: F.batch_norm(x, None, None, training=True)
answers = [refused(norm, batch) for norm in (ours, torchs) for batch in (alone, X[:1])]
claim("both refuse one sample, and take one image", answers == [True, False, True, False])

# %% [markdown]
# How far is training from testing? We take real activations: a layer of 64 units on 8,000 digits. For batches of N
# digits, batch normalization in training gives one output, and the moments of all 8,000 digits, around which the
# running account moves, give another. We measure the typical difference between the two; the outputs themselves have
# typical size one. For each size we draw 200 batches. `units[picks]` has the shape (200, N, 64), so the samples of a
# batch are its dimension 1.

# %%
images, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
weights = torch.randn(784, 64, generator=seed(5)).to(DEVICE) / 10  # (784, 64)
units = images.flatten(1) @ weights  # (8000, 64)
settled = normalize(units, [0])  # (8000, 64) by the moments of all digits

# %%
batch_sizes, chance = [2, 4, 8, 16, 32, 64, 128, 256], seed(6)
off = []
for size in batch_sizes:
    picks = torch.randint(8000, (200, size), generator=chance).to(DEVICE)  # 200 batches of N
    off.append((normalize(units[picks], [1]) - settled[picks]).square().mean().sqrt().item())

# %% [markdown]
# It falls like one over the root of the batch size: four times as many digits halve it. With 4 digits in a batch the
# network is trained on something quite unlike what it will see in testing, with 64 the difference is about a sixth,
# and with 256 it hardly matters. Layer normalization has no such difference at all. It never looks at other samples.

# %%
ratio = off[3] / off[5]
claim("difference with 16 digits, over that with 64", ratio, at_least=1.7, at_most=2.4)
claim("difference between training and testing, 64 digits", off[5], at_least=0.1, at_most=0.25)

# %%
single = torch.cat([layer_norm(x[None], gammas, betas) for x in X])  # (N, D, H, W)
claim("layer normalization of samples one by one", single, equals=by_layer, within=1e-12)

# %% [markdown]
# Both axes below are logarithmic: each step to the right doubles the batch. The dots are measured, the line is the
# law of one over the root.

# %%
pairs = zip(batch_sizes, off, strict=True)
said = ", ".join(f"{value:.2f} for {size}" for size, value in pairs)
said = f"Typical difference between training and testing: {said} digits."

# %%
fig, ax = plt.subplots(figsize=(6, 2.9))
ax.plot(batch_sizes, [off[4] * (32 / size) ** 0.5 for size in batch_sizes], color=color.quiet, lw=1)
ax.plot(batch_sizes, off, "o", color=color.model)
ax.text(11, 0.47, "batch normalization", color=color.model)
ax.text(2.6, 0.85, "one over the root", color="#777777")
log_scale(ax.xaxis, batch_sizes)
log_scale(ax.yaxis, [0.05, 0.1, 0.2, 0.5, 1])
ax.set(xlabel="digits in a batch", ylabel="difference", xlim=(1.8, 300), ylim=(0.05, 1.3))
figure("4.6b", "How far batch normalization in training is from testing.", said)

# %% [markdown]
# ### What it is good for
#
# Here is the problem from the beginning of this section, in a network of 20 layers of 192 units with ReLU, on real
# input: 256 patches of 8 by 8 pixels from photographs. (`unfold` cuts them out, every 12 pixels, and lays the 192
# numbers of each in a column; three colours times 64 pixels. Their typical size is about a half, and `* 2` brings it
# near one.) Its random weights have the right size of section 3.4, times a factor that we choose. On the left is the
# typical size of the activations after each layer, on the right how those of one layer are distributed.

# %%
patches = F.unfold(squares, 8, stride=12)  # (4, 192, 96)
patches = patches.movedim(1, 2).flatten(0, 1)[:256] * 2  # (256, 192)
right_size = torch.randn(20, 192, 192, generator=seed(7)).to(DEVICE) * (2 / 192) ** 0.5

# %%
norms = {
    "none": lambda x: x,
    "batch": lambda x: normalize(x, [0]),
    "layer": lambda x: normalize(x, [1]),
    "RMS": lambda x: rms_norm(x, torch.ones_like(x[0])),
}


# %%
def through(norm: str, factor: float, on: torch.device = DEVICE) -> Tensor:
    """The activations (20, 256, 192) after each of the 20 layers: product, normalization, ReLU."""
    x, all_of_them = patches.to(on), []
    for w in right_size.to(on):
        x = norms[norm](factor * x @ w).relu()  # (256, 192)
        all_of_them.append(x)
    return torch.stack(all_of_them)


# %%
def typical(x: Tensor) -> float:
    """Root of the mean square."""
    return x.square().mean().sqrt().item()


# %% [markdown]
# First in numbers. Without normalization, weights at 0.8 of the right size leave $0.8^{19}$, about 1.4 %, of what
# there was after the first layer; weights of 1.25 times the right size multiply it by 69. With any of the three
# normalizations the last layer has the size of the first, about 0.7: a ReLU removes half of the squares of numbers
# with the mean square 1, and the root of a half is 0.71.

# %%
shrinking, growing = through("none", 0.8), through("none", 1.25)
ratios = [typical(x[-1]) / typical(x[0]) for x in (shrinking, growing)]

# %%
claim("weights 0.8 times: size after layer 20, to that after layer 1", ratios[0], at_most=0.05)
claim("weights 1.25 times: size after layer 20, to that after layer 1", ratios[1], at_least=20)

# %%
cases = itertools.product(("batch", "layer", "RMS"), (0.8, 1.25))
ends = [typical(through(norm, factor)[-1]) for norm, factor in cases]
claim("smallest size after 20 layers with normalization", min(ends), at_least=0.5)
claim("largest size after 20 layers with normalization", max(ends), at_most=1.2)

# %% [markdown]
# Start without normalization and move the factor: a fifth more or less, and after 20 layers nothing is as it was.
# Move the layer along the line, and see the histogram shrink towards zero or run out of the picture. Then choose a
# normalization and try again. The factor has no effect any more; the picture does not even quiver. At a factor of one
# the sizes of all four are alike: about 0.9 without, about 0.7 with. So a normalization is not needed to begin well,
# if one computes the right size. It is needed to stay well when the training moves the weights.


# %%
def axes_of_stack(fig) -> tuple:
    """The two empty pictures: sizes by layer from a millionth to a million, and shares by activation."""
    left, right = fig.subplots(1, 2)
    log_scale(left.yaxis, [1e-6, 1e-3, 1, 1e3, 1e6])
    left.set_yticklabels(["a millionth", "a thousandth", "one", "a thousand", "a million"])
    left.set(ylim=(1e-7, 1e7), xlabel="layer", title="Typical size", xticks=[1, 5, 10, 15, 20])
    right.set(ylim=(0, 0.2), yticks=[0, 0.1, 0.2], xlim=(0, 4))
    right.set(xlabel="activation", title="Shares in this layer")
    return left, right


# %%
def scene(fig):
    """Left, the size of the activations by layer, from a millionth to a million. Right, their histogram in one."""
    left, right = axes_of_stack(fig)
    (line,) = left.plot(range(1, 21), [1] * 20, "-o", ms=4, color=color.model)
    (here,) = left.plot([], [], "o", ms=10, color=color.weights)
    edges = torch.linspace(0, 4, 33)
    bars = right.stairs(torch.zeros(32), edges, fill=True, color=color.weights)

    def update(normalization, factor, layer):
        activations = through(normalization, factor, on="cpu")  # (20, 256, 192)
        sizes = [max(typical(x), 1e-30) for x in activations]
        line.set_data(range(1, 21), sizes)
        here.set_data([layer], [sizes[layer - 1]])
        x = activations[layer - 1]  # (256, 192)
        bars.set_data(torch.histc(x[x > 0], 32, 0, 4) / x.numel())
        zero, large = (x == 0).float().mean(), (x > 4).float().mean()
        said = f"typical size {sizes[layer - 1]:.2g} after layer {layer}; "
        return said + f"{zero:.0%} are zero, {large:.0%} are larger than 4"

    return update


# %%
chosen = {"factor": slider(0.5, 2.0, 0.8, 0.05), "layer": slider(1, 20, 10)}
chosen["normalization"] = choice(list(norms))
explore(scene, "4.6c", "A deep stack of layers.", (8, 3.3), **chosen)

# %% [markdown]
# That is no accident. If all weights before a normalization are multiplied by one number, mean and standard deviation
# are multiplied by it as well, and it cancels. The output does not change at all. (Exactly so for $\epsilon = 0$. We
# take that, so as to see it.)
#
# Our test is one layer of ten units on 100 digits, whose batch-normalized outputs are taken for the scores of the ten
# classes. Two things follow for training. In the direction of the weights themselves nothing changes the loss, so the
# gradient has no part in that direction: it is at a right angle to the weights of each unit. And if the weights are
# three times as large while the loss is the same, then the loss is three times less steep.


# %%
def normalized_loss(w: Tensor) -> Tensor:
    """Cross-entropy of 100 digits, when ten units with weights w (784, 10) are batch-normalized."""
    scores = normalize(images[:100].flatten(1).double() @ w, [0], eps=0.0)  # (100, 10)
    return F.cross_entropy(scores, labels[:100])


# %%
def slopes(w: Tensor) -> Tensor:
    """Gradient (784, 10) of that loss."""
    w = w.clone().requires_grad_()
    return torch.autograd.grad(normalized_loss(w), w)[0]


# %%
w = torch.randn(784, 10, generator=seed(8), dtype=torch.float64).to(DEVICE)  # (784, 10)
one, three = normalized_loss(w), normalized_loss(3 * w)
along, nothing = (w * slopes(w)).sum(0), torch.zeros_like(w[0])  # (10,), (10,)

# %%
claim("weights times 3: the same loss", three, equals=one, within=1e-10)
claim("gradient, at a right angle to each unit's weights", along, equals=nothing, within=1e-10)
claim("weights times 3: a third of the gradient", slopes(3 * w), equals=slopes(w) / 3, within=1e-10)

# %% [markdown]
# The second claim has a nice picture. A step at a right angle to the weights can only make them longer, by
# Pythagoras, never shorter. Weights that get large steps grow quickly, and when they have grown, the same steps turn
# them less: a brake that works by itself.
#
# Put together: what matters is the direction of the weights, and a step of gradient descent turns it the less, the
# larger they are, by one over the *square* of their size. So to a normalized layer a wrong size of its weights is a
# wrong learning rate, no more. A wrong rate can still spoil a training, as we shall see. Ten steps with weights three
# times as large, and a learning rate nine times as large, lead to weights that are three times as large. The losses
# on the way are the same.


# %%
def ten_steps(w: Tensor, rate: float) -> Tensor:
    """Weights after ten steps of gradient descent."""
    for _ in range(10):
        w = w - rate * slopes(w)
    return w


# %%
large, small = ten_steps(3 * w, 9.0), ten_steps(w, 1.0)  # (784, 10) each
claim("ten steps from 3 w at 9 times the rate", large, equals=3 * small, within=1e-8)

# %% [markdown]
# So let us train badly scaled networks: six hidden layers of 64 units, no biases (a normalization has its own), and
# weights from a hundredth to three times what they should be. Without normalization, with our batch normalization,
# and with PyTorch's layer normalization; 1,500 digits, twice, at a learning rate of 0.1. Gradients longer than 1 are
# cut to that length, or the network without normalization, with the largest weights, goes off to infinity in a few
# steps. Such a training is short on purpose, 60 steps: it asks how quickly a network gets going, not how far it comes
# in the end.


# %%
def deep(norm: Callable | None, scale: float) -> nn.Module:
    """A network of six hidden layers whose first weights are `scale` times the right size."""
    seed(0)
    layers, widths = [nn.Flatten()], [784, *[64] * 6]
    for D, E in itertools.pairwise(widths):
        layers.append(nn.Linear(D, E, bias=False))
        nn.init.normal_(layers[-1].weight, std=scale * (2 / D) ** 0.5)
        layers += [norm(E), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10)).to(DEVICE)


# %% [markdown]
# Three numbers are measured. The first is the accuracy on new digits. The second, `apart`, looks at the last hidden
# layer, and takes the variance of its units over all new digits as a share of their mean square. It is zero if every
# digit gives the same activations there. The third, `cut`, is the share of all steps whose gradient was cut. For that
# we ask the optimizer to call a function of ours right before each of its steps (a pre-hook), when a gradient that
# was cut has the length 1.

# %%
images_new, labels_new = mnist("test", DEVICE)


# %%
def length_of_gradient(model: nn.Module) -> float:
    """Length of the gradient of all parameters, taken as one vector."""
    return sum(p.grad.square().sum() for p in model.parameters()).sqrt().item()


# %%
def short_training(norm: Callable | None, scale: float, rate: float = 0.1) -> tuple[float, ...]:
    """Accuracy on new digits, share of the last hidden layer that tells them apart, of steps cut."""
    model, data = deep(norm, scale), batches(images[:1500], labels[:1500], size=50)
    optimizer, lengths = torch.optim.SGD(model.parameters(), lr=rate), []
    optimizer.register_step_pre_hook(lambda *_: lengths.append(length_of_gradient(model)))
    fit(model, data, lambda m, x, y: F.cross_entropy(m(x), y), optimizer, epochs=2, clip=1.0)
    with torch.no_grad():
        hidden = model.eval()[:-1](images_new)  # (2000, 64)
        right = model[-1](hidden).argmax(1) == labels_new  # (2000,)
    apart = hidden.var(0).sum() / hidden.square().mean(0).sum()
    cut = sum(abs(length - 1) < 1e-3 for length in lengths) / len(lengths)
    return right.float().mean().item(), apart.item(), cut


# %%
scales = [0.01, 0.1, 1.0, 3.0]
layers = {"none": None, "batch": BatchNorm, "layer": nn.LayerNorm}
runs = {name: [short_training(norm, scale) for scale in scales] for name, norm in layers.items()}
learned = {name: [end[0] for end in ends] for name, ends in runs.items()}

# %%
claim("accuracy without normalization, weights a tenth", learned["none"][1], at_most=0.3)
claim("accuracy with batch normalization, weights a tenth", learned["batch"][1], at_least=0.75)
claim("accuracy with layer normalization, weights a tenth", learned["layer"][1], at_least=0.45)
lowest = min(learned["batch"][:3])
claim("worst accuracy with batch normalization, 0.01 to 1", lowest, at_least=0.45)

# %% [markdown]
# What to look for in the picture: where each curve has its summit, and how far to both sides it stays above one
# tenth, which is what guessing achieves.

# %%
fig, ax = plt.subplots(figsize=(6, 3))
places = {"none": (0.35, 0.22), "batch": (0.012, 0.92), "layer": (0.035, 0.3)}
for name, shade in (("none", color.gradient), ("batch", color.model), ("layer", color.truth)):
    ax.plot(scales, learned[name], "-o", color=shade)
    ax.text(*places[name], name if name == "none" else f"{name} normalization", color=shade)
log_scale(ax.xaxis, scales)
ax.set(xlabel="size of the first weights, as a multiple of the right one")
ax.set(ylabel="accuracy", ylim=(0, 1))
said = "Without normalization the accuracy is at chance but for weights near the right size. "
said += f"With batch normalization it is high from a hundredth on: {lowest > 0.45}."
figure("4.6d", "A short training from weights of various sizes.", said, held="trained")

# %% [markdown]
# Without normalization there is one narrow summit, at 1. It is the size that section 3.4 computed, and there the
# network needs no help: it does about as well as the others. But with weights of a tenth, six layers shrink the
# signal a million times, no gradient gets through, and it remains at chance. At three times the right size, six
# layers make the last activations $3^6 = 729$ times too large. The loss starts at more than a hundred, where guessing
# has 2.3, and 60 steps of length 0.1 do not bring it down to that.
#
# Of the four sizes, a tenth is best for batch normalization. (In five trainings from different seeds, which are not
# repeated here, 83 to 89 of 100 digits were right.) It is not indifferent to the scale. Nearly all gradients here are
# longer than 1 and are cut, so that every step has the length of the learning rate, 0.1. Such a step turns weights
# that are ten times as large by a tenth of the angle. (Without the cut it would be a hundredth, as above.) If that
# explanation is right, weights of size 1 at ten times the rate must do about as well as weights of a tenth. They do,
# as the first claim below says. (The third counts the cuts.)
#
# Layer normalization is good from a tenth to one, and fails at a hundredth, where the same rate is far too high. A
# step can be 0.1 long, since longer gradients than 1 are cut, and the 4,096 weights of a layer, taken as one vector,
# are 0.11 long at the start: one step may replace a layer. Afterwards all digits give the same activations in the
# last hidden layer, and nothing can be told from them. Layer normalization looks at one digit at a time, and what all
# digits have in common passes through it. Batch normalization subtracts just that, so that only the differences are
# left, and it survives such steps. At a tenth of the rate, layer normalization learns from these weights as well.

# %%
quick, *_ = short_training(BatchNorm, 1.0, rate=1.0)
claim("batch normalization, weights of size 1, at 10 times the rate", quick, at_least=0.7)
loss = F.cross_entropy(deep(None, 3.0)(images[:1500]), labels[:1500])
claim("first loss without normalization, weights 3 times", loss.item(), at_least=100)
fewest = min(cut for _, _, cut in runs["batch"])
claim("smallest share of steps cut, batch normalization", fewest, at_least=0.9)

# %%
claim("layer normalization, a hundredth: part that differs", runs["layer"][0][1], at_most=0.2)
claim("batch normalization, a hundredth: part that differs", runs["batch"][0][1], at_least=0.4)
slow, *_ = short_training(nn.LayerNorm, 0.01, rate=0.01)
claim("layer normalization, a hundredth, at a tenth of the rate", slow, at_least=0.35)

# %% [markdown]
# What does it cost? Two parameters for each channel or component, next to nothing. And three multiplications or
# divisions for each activation: one for the square, one for the standard deviation, one for $\gamma$. In evaluation
# the sorted form of batch normalization needs one, and two for each channel: dividing $\gamma$ by the root, and
# multiplying the mean. (The running account costs another one in training.)

# %%
x = torch.randn(4, 6, 5, 5, generator=seed(9)).to(DEVICE)  # (N, D, H, W)
in_testing = cost(BatchNorm(6).to(DEVICE).eval(), x)
claim("BatchNorm has 2 D parameters; in testing 1 product a number", in_testing == (12, 600 + 12))

# %%
ones = {kind: neutral(kind, x) for kind in kinds}
three = [cost(norm, x, ones[kind], 0 * ones[kind])[1] for kind, norm in kinds.items()]
claim("all six kinds cost 3 products a number in training", three == [3 * 600] * 6)

# %% [markdown]
# Compared to the layer before it, that is little. A convolution with filters of 3 by 3 and 64 input channels makes
# 576 multiplications for each activation. But a normalization must read the whole tensor twice, once for the moments
# and once to apply them, and on a GPU reading costs more time than multiplying, as chapter 2 measured.
#
# Which one to take? Batch normalization is the choice of convolutional networks, with large batches. Where batches
# are small, as for large images, group normalization takes over. For text, layer and RMS normalization are used,
# position by position. There a sentence may have any length, and, in a model that predicts the next word, what is
# computed for a word must not depend on later words, nor on other sentences.
#
# **Exercise.** After the training, batch normalization multiplies each channel by one fixed number and adds another.
# If there is a convolution right before it, the convolution can do that itself. Here `w` and `b` are the
# convolution's filters and bias, `norm` is the `BatchNorm` after it, in evaluation; give the new filters and the new
# bias, with which the convolution alone gives what both gave. Then the layer can be thrown away, and costs nothing at
# all.


# %% tags=["exercise"]
def fold(w: Tensor, b: Tensor, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """New filters (E, D, K, K) and bias (E,): the convolution with w and b, then norm in evaluation."""
    raise NotImplementedError


norm, chance = BatchNorm(2, eps=0.1).to(DEVICE), seed(10)
sizes = ((2, 3, 3, 3), (2,), (4, 3, 6, 6))
w, b, x = (torch.randn(size, generator=chance).to(DEVICE) for size in sizes)
norm.take_account(F.conv2d(x, w, b))
norm.gamma.data = torch.tensor([2.0, -0.5], device=DEVICE)
norm.beta.data = torch.tensor([1.0, 3.0], device=DEVICE)
both = norm.eval()(F.conv2d(x, w, b)).detach()  # (4, 2, 4, 4)
check(
    fold,
    ("the filters keep their shape", lambda g: g(w, b, norm)[0].shape == w.shape),
    ("the bias keeps its shape", lambda g: g(w, b, norm)[1].shape == b.shape),
    (
        "one convolution gives what both gave",
        lambda g: (F.conv2d(x, *g(w, b, norm)).detach(), both),
    ),
)


# %% tags=["solution", "hide-input"]
def fold(w: Tensor, b: Tensor, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """gamma (w x + b - mean) / root is (gamma w / root) x + gamma (b - mean) / root, then + beta."""
    factor = norm.gamma / (norm.variance + norm.eps).sqrt()  # (E,)
    return factor[:, None, None, None] * w, factor * (b - norm.mean) + norm.beta


# %% [markdown]
# ## 4.7 Skip connections
#
# A layer passes on what it has made of its input, and nothing else. What the next layers might have needed of the
# original may be gone, and the gradient, on its way back, has to pass through every layer, too. A **skip connection**
# is a second way for the signal, around one layer or several of them, on which nothing happens to it. Where the two
# ways meet, the tensors are either concatenated along the channels, or added.
#
# The idea came up several times in one year, 2015. U-Net, made to outline cells under the microscope, concatenates.
# Highway networks add, and let trained gates decide, for each number, how much of the original passes and how much of
# the layer's output. ResNet adds as well, without any gates. It had 152 layers and won that year's ImageNet
# competition, where the winner of the year before had 22.
#
# Figure 4.10 shows three uses, each drawn from a module that runs on features of a photograph, with the skips in
# orange. The first module makes its input smaller, works on the small version, makes it larger again, and
# concatenates the result with the original. The last convolution then sees both: what the coarse version knows about
# a wider surrounding, and the detail that was lost on the way. (`F.interpolate` doubles width and height by repeating
# each pixel.) In the code, `concatenated` is True or False, and counts as 1 or 0 where the last convolution gets its
# number of input channels.


# %%
class Skip(nn.Module):
    """Down, work, up, and joined with the input: by concatenation, or by addition."""

    def __init__(self, channels: int, concatenated: bool):
        super().__init__()
        self.concatenated = concatenated
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.work = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d((1 + concatenated) * channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(self.work(self.down(x)).relu(), scale_factor=2)  # (N, C, H, W)
        joined = torch.cat([x, up], dim=1) if self.concatenated else x + up
        return self.last(joined)


# %% [markdown]
# The second adds. To add costs nothing, neither parameters nor multiplications, and what follows keeps its size; a
# concatenation is free, too, but has twice the channels, and the layer that reads it pays. In the third module each
# layer has a skip of its own. It computes $x + f(x)$, where $f$ is a layer or a few of them. This special case is
# called a **residual connection**, since all that is left for $f$ to learn is the *residue*: the difference between
# what should come out and what came in. It asks one thing of $f$: what comes out must have the shape of what goes in,
# or the two cannot be added.


# %% tags=["export"]
class Residual(nn.Module):
    """x + f(x), for any module f whose output has the shape of its input."""

    def __init__(self, f: nn.Module):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


# %%
def convolution() -> nn.Module:
    """A convolution that keeps 16 channels and the size, then ReLU."""
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())


# %%
seed(0)
modules = {
    "concatenated": Skip(16, concatenated=True).to(DEVICE),
    "added": Skip(16, concatenated=False).to(DEVICE),
    "residual": nn.Sequential(Residual(convolution()), Residual(convolution())).to(DEVICE),
}

# %% [markdown]
# The input is a photograph of a bird, 256 × 256 pixels of it. A first convolution, with windows of 8 × 8 pixels that
# do not overlap, turns it into 16 channels of 32 × 32.

# %%
photo = photographs("train", DEVICE).images[4:5, :, 100:356, 100:356]  # (1, 3, 256, 256)
features = nn.Conv2d(3, 16, 8, stride=8).to(DEVICE)(photo.contiguous()).detach()  # (1, 16, 32, 32)

# %% tags=["figure-4.10"]
fig, axes = plt.subplots(1, 3, figsize=(8.5, 4.9))
said = []
for ax, (name, module) in zip(axes, modules.items(), strict=True):
    look = {"names": {"input": "x"}, "output": "y", "passing": color.gradient, "size": 9.5}
    said.append(f"{name}: {schematic(ax, module, features, **look)}")
    ax.set_title(name, loc="center")
figure("4.10", "Skip connections, in orange: concatenated, added, and residual.", " ".join(said))

# %% [markdown]
# Follow the shapes at the arrows. On the left, 16 channels meet 16 channels and 32 go on. In the middle, 16 and 16
# stay 16. On the right the orange line can be followed from the input to the output without entering a single pink
# box: that way will be the point of this section.
#
# Now the same by hand, each operation written out with the functions of section 4.2. For the concatenation we use
# what it means to the next layer. A convolution adds up over its input channels, so that a convolution of two tensors
# side by side is the sum of two convolutions, each with its own half of the weights. Concatenating is therefore the
# more general of the two: with both halves of the weights the same, it would be adding.


# %%
def by_hand(x: Tensor, *weights: Tensor, concatenated: bool) -> Tensor:
    """What the first two modules compute, from the weights and biases of their three convolutions."""
    down, b1, work, b2, last, b3 = weights
    small = F.conv2d(x, down, b1, stride=2, padding=1)  # (N, C, H/2, W/2)
    small = F.conv2d(small, work, b2, padding=1).clamp(min=0)
    up = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # (N, C, H, W)
    if not concatenated:
        return F.conv2d(x + up, last, b3, padding=1)
    original, changed = last.split(x.shape[1], dim=1)  # (C, C, 3, 3) each
    return F.conv2d(x, original, b3, padding=1) + F.conv2d(up, changed, padding=1)


# %% [markdown]
# `repeat_interleave` repeats each row, then each column, and `clamp(min=0)` is ReLU. The third module is two lines.


# %%
def residual_by_hand(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """What the third module computes."""
    between = x + F.conv2d(x, w1, b1, padding=1).clamp(min=0)  # (N, C, H, W)
    return between + F.conv2d(between, w2, b2, padding=1).clamp(min=0)


# %% [markdown]
# Each must agree with its module, in value and in the gradients with respect to the input and to all weights. As in
# section 4.1, `functional_call` runs a module with weights that it is handed, here all of them, in the order in which
# the module lists them. With 32 bits the tolerance has to be wide, since the gradient of each weight is a sum over up
# to $32 \times 32$ places, and the rounding adds up as well.


# %%
def gap(name: str, mine: Callable, dtype: torch.dtype) -> float:
    """Largest difference between a module and what is computed by hand with the same weights."""
    names, weights = zip(*modules[name].named_parameters(), strict=True)
    return difference(
        lambda x, *w: functional_call(modules[name], dict(zip(names, w, strict=True)), x),
        mine,
        *[tensor.to(dtype) for tensor in (features, *weights)],
    )


# %%
mine = {"residual": residual_by_hand, "concatenated": partial(by_hand, concatenated=True)}
mine["added"] = partial(by_hand, concatenated=False)
gaps = {t: [gap(name, f, t) for name, f in mine.items()] for t in (torch.float64, torch.float32)}

# %%
claim("three skips by hand and as modules, 64 bits", max(gaps[torch.float64]), at_most=1e-9)
claim("three skips by hand and as modules, 32 bits", max(gaps[torch.float32]), at_most=0.01)

# %% [markdown]
# And what they cost. The last convolution has 16 output channels and windows of $3 \times 3$; with a concatenation,
# each window is 16 channels deeper. That is $16 \cdot 16 \cdot 9$ more weights, each used at $32 \times 32$ places. A
# residual connection changes no number in the account.

# %%
parameters, products = zip(*[cost(module, features) for module in modules.values()], strict=True)
more = (parameters[0] - parameters[1], products[0] - products[1])
claim("what a concatenation costs the next layer", more == (16 * 16 * 9, 16 * 16 * 9 * 32 * 32))
inside = cost(modules["residual"][0].f, features)
claim("a residual connection costs nothing", cost(modules["residual"][0], features) == inside)

# %% [markdown]
# It can cost memory. In training every layer's input is kept for the backward pass anyway. But when a trained network
# is only used, each tensor can be thrown away as soon as the next one is computed, unless a skip still needs it; with
# a skip around many layers it has to wait for a long time. The original of a U-Net is needed again only at the very
# end.
#
# ### What the gradient sees
#
# Why does it help? Section 3.4 has followed the gradient back through many layers. Each layer multiplies it with its
# Jacobian $J$, the matrix of all its derivatives, and a product of a hundred matrices tends to vanish, or to explode.
# The derivative of $x + f(x)$ is $I + J$, with the identity matrix $I$ from the skip. And for two such layers
#
# $$(I + J_2)(I + J_1) = I + J_1 + J_2 + J_2 J_1,$$
#
# so the gradient arrives by four ways, which are added: past both layers, through either, and through both. With a
# hundred layers there are $2^{100}$ ways. If the $J$ are small, the long ways vanish, but the sum does not: one way
# leads past all layers and multiplies by one. (Against exploding it is no help.)
#
# To check it we need two layers, small enough to write their Jacobians down. Both take six numbers and give six.


# %%
chance = seed(4)
W1, W2 = torch.randn(2, 6, 6, generator=chance).to(**EXACT) / math.sqrt(6)  # (D, D) each
x = torch.randn(6, generator=chance).to(**EXACT)  # (D,)


# %%
def f1(x: Tensor) -> Tensor:
    """A layer (D,) to (D,)."""
    return torch.tanh(W1 @ x)


def f2(x: Tensor) -> Tensor:
    """Another."""
    return torch.tanh(W2 @ x)


# %%
def both(x: Tensor) -> Tensor:
    """The two layers, one after the other, each with a residual connection."""
    between = x + f1(x)
    return between + f2(between)


# %% [markdown]
# PyTorch's `jacobian(f, x)` computes the whole matrix of derivatives of $f$ at $x$. One thing is easily overlooked:
# the second layer's Jacobian must be taken where that layer is, at the *output* of the first, $x + f_1(x)$.

# %%
J1, J2 = jacobian(f1, x), jacobian(f2, x + f1(x))  # (D, D) each
identity = torch.eye(6, **EXACT)
ways = identity + J1 + J2 + J2 @ J1  # (D, D)
slopes = jacobian(both, x)  # (D, D)
claim("two residual layers: derivative, over four ways", slopes, equals=ways, within=1e-12)

# %% [markdown]
# Now a hundred layers, on a real signal: little squares of 8 × 8 pixels from photographs, 64 numbers each. A layer is
# $x_{l+1} = s\, x_l + \tanh(W_l\, x_l)$, where $s = 1$ is a residual connection and $s = 0$ is none. Going forward,
# we keep the signal at all depths, as a backward pass needs it.


# %%
def forward_pass(x: Tensor, W: Tensor, s: float) -> list[Tensor]:
    """The signal (N, D) at all depths 0 … L, for weights (L, D, D)."""
    states = [x]
    for w in W:
        states.append(s * states[-1] + torch.tanh(states[-1] @ w.mT))  # (N, D)
    return states


# %% [markdown]
# The backward pass by hand needs two lines for each layer. The gradient comes back through it, times the slope
# $1 - \tanh^2$ and the weights, and past it, times $s$. The lists are walked through from their ends:
# `states[-2::-1]` begins at the last but one, which was the input of the last layer.


# %%
def backward_pass(states: list[Tensor], W: Tensor, s: float, gradient: Tensor) -> list[Tensor]:
    """The gradients (N, D) with respect to the signals at all depths 0 … L, from that at depth L."""
    found = [gradient]
    for x, w in zip(states[-2::-1], W.flip(0), strict=True):
        slope = 1 - torch.tanh(x @ w.mT).square()  # (N, D)
        found.append(s * found[-1] + (found[-1] * slope) @ w)
    return found[::-1]


# %% [markdown]
# The squares are cut by `unfold`, which slides a window of 8 in steps of 8, once along the rows and once along the
# columns. A hundred of them, chosen at random, are scaled so that all their numbers together have mean 0 and variance
# 1.

# %%
grey = photographs("train").images.mean(1)  # (N, 512, 512)
squares = grey.unfold(1, 8, 8).unfold(2, 8, 8).reshape(-1, 64)  # (N * 64 * 64, 64)
chosen = squares[torch.randperm(len(squares), generator=seed(5))[:100]].double()  # (100, 64)
signal = ((chosen - chosen.mean()) / chosen.std()).to(DEVICE)  # (100, 64)

# %% [markdown]
# The weights have the standard deviation $1/\sqrt{64}$, and a gradient to start from is drawn at random. Before we
# use the two functions, they must agree with autograd; $s = 0.7$ makes sure that both ways count.

# %%
W = torch.randn(100, 64, 64, generator=seed(6), dtype=torch.float64).to(DEVICE) / 8  # (L, D, D)
at_end = torch.randn(100, 64, generator=seed(7), dtype=torch.float64).to(DEVICE)  # (N, D)
start = signal.clone().requires_grad_()
last = forward_pass(start, W, 0.7)[-1]  # (N, D)
by_autograd = torch.autograd.grad(last, start, at_end)[0]  # (N, D)

# %%
mine = backward_pass(forward_pass(signal, W, 0.7), W, 0.7, at_end)[0]  # (N, D)
one, other = mine / mine.norm(), by_autograd / by_autograd.norm()
claim("gradient through 100 layers, by hand and autograd", one, equals=other, within=1e-9)

# %% [markdown]
# Two numbers at each depth tell the story: how large the signal is, as the standard deviation of all its numbers, and
# how long the gradient is, as a multiple of what it was at the end.


# %%
def sizes(x: Tensor, W: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """Typical size of the signal, and of the gradient as a multiple of that at the end, at depths 0 … L."""
    states = forward_pass(x, W, s)
    gradients = backward_pass(states, W, s, at_end[: len(x)].to(x))
    lengths = torch.stack([g.norm(dim=1).mean() for g in gradients])  # (L + 1,)
    return torch.stack([x.std() for x in states]), lengths / lengths[-1]


# %% [markdown]
# `nn.Linear` draws its weights evenly between $-1/\sqrt{D}$ and $1/\sqrt{D}$. That makes their standard deviation
# $0.58/\sqrt{D}$; the factor 0.58, more exactly $1/\sqrt 3$, is the *gain* of section 3.4. With it, and without
# skips, nothing of the gradient survives a hundred layers. With skips, the first layer gets more than the last.

# %%
gain = 1 / math.sqrt(3)
(_, without), (_, skipping) = sizes(signal, gain * W, 0), sizes(signal, gain * W, 1)
claim("100 layers without skips: gradient at the first, over the last", without[0], at_most=1e-18)
claim(
    "100 residual layers: gradient at the first, over the last",
    skipping[0],
    at_least=1,
    at_most=1e4,
)

# %%
fig, ax = plt.subplots()
for curve, shade, words in ((without, color.test, "plain"), (skipping, color.model, "residual")):
    ax.plot(curve.cpu(), color=shade)
    place, by = (40, curve[40].cpu()), {"textcoords": "offset points", "ha": "right"}
    ax.annotate(words, place, (0, 8), color=shade, **by)
ax.set(yscale="log", ylim=(1e-28, 1e6), xlim=(0, 101))
ax.set(xlabel="depth", ylabel="size of the gradient, at the end 1")
zeros = -without[0].log10().round().item()
said = f"The gradient at 101 depths. From the end to the start it falls {zeros:.0f} powers of ten without skips, in a"
said += f" straight line on the logarithmic scale. With skips it grows by a factor of {skipping[0]:.2g}."
figure("4.7a", "The gradient on its way back through 100 layers.", said)

# %% [markdown]
# Read the picture from right to left, as the gradient goes. A straight line on a logarithmic scale means that each
# layer multiplies by the same factor: 24 powers of ten in a hundred steps are a factor of $10^{-0.24} = 0.57$ for
# each, which is the gain, but for chance. The blue curve is steepest at the left. There the signal is still small,
# tanh is steep, and each layer adds much; further to the right the signal is large, tanh has become flat, and each
# layer is little more than its skip.
#
# The gain could have been chosen better; section 3.4 did that. In the widget, set `skip` to 0 and look for the gain
# at which the plain network keeps its gradient: it lies between 1.1 and 1.15. Below it the gradient vanishes, above
# it grows, and a tenth more or less is a factor of about ten in the gradient. Then give the skips some weight. With
# 1, everything becomes less delicate: at any gain up to 1 the gradient comes back between 4 and 300 times as large.
# What you pay is on the left: the signal grows, since each layer adds something to it. This is why networks with
# residual connections also need normalizing layers (section 4.6). And try a skip of 0.9 with the gain 0.2, where the
# layers themselves do little. The way past all of them multiplies by $0.9^{100}$, about 0.00003, and the gradient
# comes back as 0.0003; with a skip of 1 it was 4. (At larger gains the ways *through* the layers make up for the
# loss: it is again a matter of choosing the gain.) Only a skip of exactly 1 needs no help.

# %%
few, W_few = signal[:25].cpu(), W.cpu()  # (25, 64) and (100, 64, 64): enough to move quickly


# %%
def scene(fig):
    """Left, the size of the signal at each depth, right, that of the gradient, both on logarithmic scales."""
    left, right = fig.subplots(1, 2)
    (forth,) = left.plot([], [], color=color.model)
    (back,) = right.plot([], [], color=color.gradient)
    for ax, title in ((left, "the signal, going up"), (right, "the gradient, coming back")):
        ax.axhline(1, color=color.quiet, lw=1)
        ax.set(xlim=(0, 101), xlabel="depth", title=title, yscale="log", ylim=(1e-28, 1e8))
        ax.set_yticks([1e-24, 1e-16, 1e-8, 1, 1e8])

    def update(layers, gain, skip):
        signals, gradients = sizes(few, gain * W_few[:layers], skip)
        forth.set_data(range(layers + 1), signals.clamp(1e-30, 1e30))
        back.set_data(range(layers + 1), gradients.clamp(1e-30, 1e30))
        said = f"after {layers} layers the signal has the size {signals[-1]:.1e}"
        return f"{said}; the gradient comes back {gradients[0]:.1e} times as large as it started"

    return update


# %%
knobs = {"layers": slider(10, 100, 100, 10), "gain": slider(0.2, 2.0, 0.6, 0.05)}
knobs["skip"] = slider(0.0, 1.0, 0.5, 0.05)
explore(scene, "4.7b", "Signal and gradient, with weighted skips.", (8.5, 3.5), **knobs)

# %% [markdown]
# What many layers do to a signal one can see. The photograph below goes through layers of the same kind with
# convolutions instead of matrices, three channels in and three out, with random weights. In the middle are the plain
# layers, on the right those with residual connections. The picture is shrunk to 72 × 72 pixels, so that it moves
# quickly; `antialias=True` averages over the pixels that are left out.

# %%
source = photographs("train").images[4:5]  # (1, 3, 512, 512)
bird = F.interpolate(source, size=(72, 72), antialias=True, mode="bilinear").clamp(0, 1)
kernels = torch.randn(30, 3, 3, 3, 3, generator=seed(8)) / math.sqrt(27)  # (L, C, C, K, K)
centred = bird - bird.mean((2, 3), keepdim=True)  # (1, 3, 72, 72)


# %%
def after(layers: int, gain: float, s: float) -> Tensor:
    """The photograph (1, 3, H, W) after so many layers, with the weight s for the skips."""
    x = centred
    for kernel in kernels[:layers]:
        x = s * x + torch.tanh(F.conv2d(x, gain * kernel, padding=1))
    return x


# %% [markdown]
# The pictures would soon be too dark or too bright to see anything. So each channel is brought to the mean and
# contrast of the photograph before it is shown: a picture that has become faint is not punished for it, only one that
# has lost its contents. How much of the photograph is left is measured by the correlation with it, without the sign,
# since a negative is as good a picture: 1 for the same picture, near 0 for one that has nothing to do with it.


# %%
def shown(x: Tensor) -> Tensor:
    """Channels (1, 3, H, W) as a picture (H, W, 3) of the mean and contrast of the photograph."""
    x = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-20)
    return (bird.mean() + bird.std() * x)[0].clamp(0, 1).permute(1, 2, 0)


# %%
def likeness(x: Tensor) -> float:
    """Correlation, without its sign, of the picture of x (1, 3, H, W) with the photograph's channels."""
    pair = torch.stack([centred[0].permute(1, 2, 0).flatten(), shown(x).flatten()])  # (2, 3 H W)
    return abs(torch.corrcoef(pair)[0, 1].item())


# %%
def scene(fig):
    """A photograph of a bird, and what plain layers and layers with residual connections make of it."""
    axes = fig.subplots(1, 3)
    pictures = [ax.imshow(bird[0].permute(1, 2, 0)) for ax in axes]
    for ax, title in zip(axes, ("the input", "plain layers", "residual connections"), strict=True):
        ax.set_title(title)
        ax.axis("off")

    def update(layers, gain):
        plain, residual = after(layers, gain, s=0), after(layers, gain, s=1)
        pictures[1].set_data(shown(plain).numpy())
        pictures[2].set_data(shown(residual).numpy())
        said = f"after {layers} layers, correlation with the input {likeness(plain):.2f} plain"
        return f"{said}, {likeness(residual):.2f} with skips"

    return update


# %%
knobs = {"layers": slider(1, 30, 16), "gain": slider(0.1, 1.0, 0.3, 0.1)}
explore(scene, "4.7c", "A photograph after many random layers.", (5.4, 2.2), **knobs)

# %% [markdown]
# With each plain layer less of the photograph can be recognized. The smooth shades go first; what stays are edges,
# then ripples. The frame around the picture grows inwards from the border, where the padding has put zeros. With
# residual connections and the gain 0.1 the bird has come through thirty layers as if nothing had happened, since each
# layer changes little. With larger gains the changes add up. At the gain 1 the colours and shades are gone, and yet
# the outlines of bird and lamp stand where they stood. The correlation, which compares shades and not outlines, no
# longer sees this.
#
# ### What training makes of it
#
# The authors of ResNet began with a riddle. They had trained a plain network of 56 layers and one of 20, and the
# deeper one was worse, not only on new images but on the *training set*. So it was not overfitting. And a deeper
# network can do all that the shallower one does: let its additional layers pass on what they get. Training did not
# find such weights. Their answer was to make passing on the default.
#
# We repeat the experiment in small. Two networks of 40 layers, 64 numbers wide, on handwritten digits. They differ in
# `skip`, 1 or 0, and in nothing else: the same layers, the same initial weights, the same data in the same order, the
# same optimizer.


# %%
class Deep(nn.Module):
    """Forty tanh layers between a linear layer in and one out."""

    def __init__(self, skip: float, depth: int = 40, width: int = 64):
        super().__init__()
        self.skip, self.first, self.last = skip, nn.Linear(784, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))  # (N, 64)
        for layer in self.layers:
            x = self.skip * x + torch.tanh(layer(x))
        return self.last(x)  # (N, 10)


# %% [markdown]
# A plain list of layers would hide them from `parameters()`, and the optimizer would never see them; that is what
# `nn.ModuleList` is for. The rest is a training as in chapter 3: the cross-entropy, Adam, four times through 4,000
# digits, 100 at a time.

# %%
(images, labels), (images_new, labels_new) = mnist("train", DEVICE), mnist("test", DEVICE)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of images (N, 1, 28, 28) with their digits (N,)."""
    return F.cross_entropy(model(x), y)


# %%
def trained(skip: float) -> Deep:
    """A network after four epochs."""
    seed(0)
    model = Deep(skip).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = batches(images[:4000], labels[:4000], size=100)
    fit(model, data, loss, optimizer, epochs=4, label=f"skip {skip}")
    return model.eval()


# %%
def accuracy(model: nn.Module) -> float:
    """Share of the digits never seen that a model reads correctly."""
    with torch.no_grad():
        return (model(images_new).argmax(1) == labels_new).float().mean().item()


# %%
networks = {"plain": trained(skip=0), "residual": trained(skip=1)}
with torch.no_grad():
    answers = networks["plain"](images_new).argmax(1).unique()
claim("40 plain layers: number of different answers", len(answers), at_most=1)
claim("40 plain layers: accuracy on digits never seen", accuracy(networks["plain"]), at_most=0.2)
reached = accuracy(networks["residual"])
claim("40 residual layers: accuracy on digits never seen", reached, at_least=0.83)

# %% [markdown]
# The plain network has learned nothing about the images: it gives all of them the same answer, and one in ten is
# right by chance. This is no lack of capacity, as the riddle says. It is the gradient. A plain network of this depth
# is not hopeless, but delicate. We have tried this outside the notebook: weights drawn with the gain 1.1, which the
# widget suggests, biases zero, and three random starts. They read 78 %, 49 % and 27 % of the digits after the same
# four epochs; normalizing layers help more. The residual network needs no such care, and reads nine in ten from every
# start that we tried.
#
# If most of the signal goes past each layer, then no single layer should be indispensable. Take one out of the
# trained network, as if it had never been there, and see how the other 39 do. In a plain network each layer expects
# exactly what the one before it makes: without layer 0, 10, 20, 30 or 39, one at a time, none of the three just
# mentioned kept more than 23 %.


# %%
def without_layer(model: Deep, number: int) -> Deep:
    """A copy of a network in which one of its layers is missing."""
    model = copy.deepcopy(model)
    del model.layers[number]
    return model


# %%
remaining = [accuracy(without_layer(networks["residual"], number)) for number in range(40)]
claim("39 of 40 residual layers: accuracy, whichever is missing", min(remaining), at_least=0.75)

# %% [markdown]
# Without one of the first of the forty a few digits in a hundred are lost, without one of the last hardly any. Each
# layer lies on half of the $2^{40}$ ways through the network; when it is removed, the other half is still there. One
# may think of a residual network as many shallow ones at once. (Veit and others found this in 2016, on ResNets.)
#
# ### The land around a solution
#
# What do the two losses look like, seen from where the training ended? A loss of 217,000 weights cannot be drawn, but
# a plane through that point can. Take two random directions in the space of all weights, scaled so that for every
# layer the direction's rows are as long as those of the weights themselves; otherwise a step would mean one thing in
# a layer with large weights and another in one with small ones. Then compute the loss on a small grid. Two helpers of
# PyTorch are useful: `parameters_to_vector` lines up all parameters in one long vector, and `vector_to_parameters`
# writes such a vector back into the model.


# %%
def random_direction(model: nn.Module, chance: torch.Generator) -> Tensor:
    """A direction in the space of all weights, each row as long as the row of the weights that it changes."""
    rows = []
    for w in model.parameters():
        d = torch.randn(w.shape, generator=chance).to(w)
        rows.append(d * w.norm(dim=-1, keepdim=True) / d.norm(dim=-1, keepdim=True))
    return parameters_to_vector(rows).detach()


# %% [markdown]
# A step of 1 along one direction thus changes each row of weights by its own length: a large step. With both
# directions and 11 steps each there are 121 networks to try, on 250 of the training images.


# %%
@torch.no_grad()
def surface(model: nn.Module, steps: Tensor, chance: torch.Generator) -> Tensor:
    """The loss (M, M) on 250 training images, at steps (M,) along each of two random directions."""
    one, two = random_direction(model, chance), random_direction(model, chance)
    model, losses = copy.deepcopy(model), torch.empty(len(steps), len(steps))
    centre = parameters_to_vector(model.parameters()).clone()
    for i, j in itertools.product(range(len(steps)), repeat=2):
        place = centre + steps[i].item() * one + steps[j].item() * two
        vector_to_parameters(place, model.parameters())
        losses[i, j] = loss(model, images[:250], labels[:250])
    return losses


# %%
steps = torch.linspace(-1, 1, 11)
surfaces = {name: surface(model, steps, seed(9)) for name, model in networks.items()}
flat = surfaces["plain"].max() - surfaces["plain"].min()
claim("plain: all losses in the plane are alike, range", flat, at_most=0.4)

# %% [markdown]
# For the other we compare the middle, where the training has ended, with the 40 points at the border of the grid.

# %%
border = torch.ones(11, 11, dtype=torch.bool)
border[1:-1, 1:-1] = False
rise = surfaces["residual"][border].min() - surfaces["residual"][5, 5]
claim("residual: the loss rises from the middle to every point of the border, by", rise, at_least=1)

# %% [markdown]
# In the picture the loss is drawn like the height on a map, dark where it is low, with the same levels for both
# networks. The pink dot is where each of them has ended.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.7), sharey=True)
levels, ticks = [0, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 9, 100], [-1, 0, 1]
for ax, (name, losses) in zip(axes, surfaces.items(), strict=True):
    ax.contourf(steps, steps, losses.T, levels=levels, cmap="Blues_r", norm="asinh")
    lines = ax.contour(steps, steps, losses.T, levels=levels, colors="white", linewidths=0.7)
    ax.clabel(lines, lines.levels[2::2], fontsize=9, fmt="%g")
    ax.plot(0, 0, "o", color=color.weights)
    ax.set(title=name, aspect="equal", xticks=ticks, yticks=ticks)
    ax.set_xlabel("step along one direction")
axes[0].set_ylabel("along another")
height = f"{surfaces['plain'].mean():.1f}"
axes[0].text(0, 0.1, f"{height} everywhere", ha="center", color="white")
said = f"Two planes of weights with the loss as shade. Plain: one shade, the losses lie around {height}. Residual:"
said += " a bowl whose lowest point is near the middle, where the training ended."
figure("4.7d", "The loss around the end of two trainings, one scale.", said, held="trained")

# %% [markdown]
# On the left is a desert. Wherever one looks, the loss is $\ln 10 = 2.30$, that of a network that gives each digit
# one tenth, and there is hardly any slope to follow. On the right is a bowl. It does not prove that the bowl is what
# made the training succeed: a plane is two directions out of 217,000, and we see it only where each training has
# ended. What it shows fits what we have seen: without skips next to nothing of the image reaches the output, wherever
# in this plane we look, and a network that gives all images nearly the same answer cannot do much better than
# $\ln 10$.
#
# ### Starting as the identity
#
# One more trick belongs here. If the last layer inside a residual connection starts with weights and biases of zero,
# then $f(x) = 0$, and the whole network, however deep, starts as the identity. Nothing vanishes and nothing explodes:
# the signal goes up as it came in, and so does the gradient on its way down. Many large models are begun in this way.
# Here is a tower of a hundred blocks, each with two linear layers and a tanh between them.

# %%
parts = [(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)) for _ in range(100)]
tower = nn.Sequential(*[Residual(nn.Sequential(*part)) for part in parts]).to(**EXACT)
for block in tower:
    nn.init.zeros_(block.f[2].weight)
    nn.init.zeros_(block.f[2].bias)

# %%
start = signal.clone().requires_grad_()
tower(start).backward(at_end)
claim("100 layers that start as the identity: the signal", tower(start), equals=signal)
claim("100 layers that start as the identity: the gradient", start.grad, equals=at_end)

# %% [markdown]
# But did section 3.4 not show that from zeros nothing ever moves? There *all* weights were zero. Here only the last
# layer of each block is, and its gradient is the product of what comes from above and of what the layer below it
# gives, and neither is zero. The layers below have to wait: the way back to them leads through the zeros. After the
# first step the last layers have moved, and the way is open.

# %%
claim("the zeros get a gradient", tower[0].f[2].weight.grad.norm(), at_least=0.1)
below = tower[0].f[0].weight.grad
claim("the layers below them not yet", below, equals=torch.zeros_like(below))

# %% [markdown]
# **Exercise.** In a *densely connected* network (DenseNet, 2016) each layer takes everything that came before: the
# input and the outputs of all earlier layers, concatenated along the channels (dimension 1) in that order. What comes
# out at the end is again everything, the input included. Write its forward pass. The layers are functions; each takes
# a tensor of any number of channels and gives a tensor of the same height and width, with any number of channels of
# its own.


# %% tags=["exercise"]
def densely_connected(layers: list[Callable], x: Tensor) -> Tensor:
    """The input (N, C, H, W) and all outputs, concatenated; each layer takes all that there is so far."""
    raise NotImplementedError


pixels = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
total, first_channel = (lambda x: x.sum(1, keepdim=True)), (lambda x: 10 * x[:, :1])
sums, newest = torch.tensor([1.0, 2, 3, 6, 12]), torch.tensor([1.0, 2, 10, 13])
check(
    densely_connected,
    ("without layers, the input comes out", lambda g: (g([], pixels), pixels)),
    (
        "three layers that each add up all channels turn 1, 2 into 1, 2, 3, 6, 12",
        lambda g: (g([total] * 3, pixels).flatten(), sums),
    ),
    ("what is newest comes last", lambda g: (g([first_channel, total], pixels).flatten(), newest)),
)


# %% tags=["solution", "hide-input"]
def densely_connected(layers: list[Callable], x: Tensor) -> Tensor:
    """The channels grow with each layer; nothing that was computed is ever lost."""
    for layer in layers:
        x = torch.cat([x, layer(x)], dim=1)  # (N, C + all outputs so far, H, W)
    return x


# %% [markdown]
# ## 4.8 Attention layers
#
# "The animal that we had seen near the station, late in the evening, was a penguin." To understand the second word
# one needs the last, and it is fourteen words away. In the next sentence it may be three. A convolution looks a fixed
# number of places to the left and right, and a fully connected layer has one weight for each fixed pair of places.
# What is needed here depends on what the words *are*, not on where they stand.
#
# Attention does this. Each place asks a question, the **query**. Each place also carries a label, the **key**, that
# says what it has to offer, and an offer, the **value**. A query is compared with all keys, and the answer is an
# average of the values, in which a value counts the more, the better its key matches. All three are vectors, and
# later they will be computed from the signal itself. First we take them ready-made.
#
# Suppose a program knows where thirteen countries lie, and is asked for Oslo, which is not in its list. A dictionary
# would raise a `KeyError`. Attention looks for what is *similar*. The keys are the names of the countries, as GloVe
# vectors: 50 numbers for each English word, learned so that words used alike have similar vectors. The values are the
# middles of the countries, in degrees of longitude and latitude. The query is the vector of the word "oslo".

# %%
words, vectors = glove(DEVICE)  # (20000,) and (20000, 50)
row_of = {word: n for n, word in enumerate(words)}  # where each word is

# %%
middles = {"portugal": (-8, 40), "spain": (-4, 40), "france": (2, 47), "england": (-1, 52)}
middles |= {"norway": (9, 62), "sweden": (16, 62), "finland": (26, 63), "germany": (10, 51)}
middles |= {"poland": (20, 52), "italy": (12, 43), "greece": (22, 39), "turkey": (35, 39)}
middles |= {"ukraine": (31, 49)}

# %% [markdown]
# The function below reads the words of a text as vectors. We multiply the queries by 4, which makes the matches more
# decided; in a layer it is the trained weights that find such a factor.


# %%
def read(text: str) -> Tensor:
    """The GloVe vectors (N, 50), in 64 bits, of the N words of a text."""
    return vectors[[row_of[word] for word in text.split()]].double()


# %%
K = read(" ".join(middles))  # (N_KV, D_QK), that is (13, 50)
V = torch.tensor(list(middles.values()), **EXACT)  # (N_KV, D_V), that is (13, 2)
query = 4 * read("oslo")[0]  # (D_QK,)

# %% [markdown]
# The **attention operator** for one query, one number at a time. The match of the query with a key is their dot
# product: multiply the two vectors number by number and add up. It is larger, the more both point the same way, and
# the longer both are. So it is not a pure measure of similarity: a long key may win against one that points in a more
# similar direction. Divide it by the root of the dimension; why, we shall see. Then the exponentials make all matches
# positive, and dividing by their sum makes them shares: a softargmax, as in section 3.1. These shares are the
# *attention scores* $A_k$. The last lines average the values.

# %%
D_QK = len(query)
matches = [sum(query[d] * key[d] for d in range(D_QK)) / math.sqrt(D_QK) for key in K]
total = sum(match.exp() for match in matches)
scores = [match.exp() / total for match in matches]  # 13 numbers that add up to one
oslo = sum(score * value for score, value in zip(scores, V, strict=True))  # (D_V,)

# %%
for k in torch.stack(scores).argsort(descending=True)[:4].tolist():
    print(f"{list(middles)[k]:8} {scores[k]:.2f}")
print(f"the answer: {oslo[0]:.1f} degrees east, {oslo[1]:.1f} degrees north")

# %% [markdown]
# Norway gets most of the attention, its neighbours some, and so does Turkey, though it should not. Oslo lies at 10.8
# degrees east and 59.9 degrees north, so the answer is about 125 kilometres off. That is partly luck: the middle of
# Norway is 250 kilometres from Oslo, and the share of the other countries happens to pull the answer in the direction
# of Oslo, to the south-east. Nobody has told the program what a capital is; that the two words have to do with each
# other is in the vectors.
#
# For many queries at once the loops become two products of matrices. Write the queries as rows of a matrix $Q$, the
# keys as rows of $K$, the values as rows of $V$. With one row for each query and one column for each key, the scores
# are the matrix $A$ of equation (4.1) of the book:
#
# $$A = \operatorname{softargmax}\left(\frac{Q K^\top}{\sqrt{D_{QK}}}\right)$$
#
# The softargmax goes along the rows, over the keys: it is each query that shares out its attention. (`K.mT` is $K$
# with rows and columns exchanged.) Four queries now, one of them no city at all.

# %% tags=["equation-4.1"]
asked = ["oslo", "denmark", "lisbon", "kiev"]
Q = 4 * read(" ".join(asked))  # (N_Q, D_QK), that is (4, 50)
A = (Q @ K.mT / math.sqrt(D_QK)).softmax(dim=1)  # (N_Q, N_KV), that is (4, 13)
claim("equation 4.1 and the loop", A[0], equals=torch.stack(scores), within=1e-12)

# %% [markdown]
# The outputs are equation (4.2), $Y = A V$: row $q$ of $Y$ is the average of the values with the scores of query $q$.

# %% tags=["equation-4.2"]
Y = A @ V  # (N_Q, D_V), that is (4, 2)
claim("equation 4.2 and the loop", Y[0], equals=oslo, within=1e-12)

# %% [markdown]
# That is all of it, and here it is as two functions, one for each equation. They allow further dimensions in front,
# for batches, and one more thing, to which we shall come: a mask.


# %% tags=["export"]
def attention_scores(Q: Tensor, K: Tensor, mask: Tensor | None = None) -> Tensor:
    """The scores (..., N_Q, N_KV) of queries Q (..., N_Q, D_QK) and keys K (..., N_KV, D_QK)."""
    matches = Q @ K.mT / math.sqrt(Q.shape[-1])  # (..., N_Q, N_KV)
    if mask is not None:
        matches = torch.where(mask, matches, -math.inf)
    return matches.softmax(dim=-1)  # (..., N_Q, N_KV)


# %% tags=["export"]
def attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The attention operator: its outputs (..., N_Q, D_V), and the scores (..., N_Q, N_KV).

    Queries Q (..., N_Q, D_QK), keys K (..., N_KV, D_QK) and values V (..., N_KV, D_V). The mask
    (N_Q, N_KV) is True where a query may attend to a key.
    """
    A = attention_scores(Q, K, mask)  # (..., N_Q, N_KV)
    return A @ V, A


# %%
outputs, shares = attention(Q, K, V)  # (4, 2), (4, 13)
claim("the function and equation 4.1", shares, equals=A, within=1e-12)
claim("the function and equation 4.2", outputs, equals=Y, within=1e-12)

# %% [markdown]
# Three facts, each from the softargmax. The scores of a query add up to one. So an output never leaves the region
# that the values span, their *convex hull*: whichever way we look, no output lies beyond the farthest value.
# Attention interpolates; it cannot answer with a place farther north than all it knows. And a vector that is added to
# *all* keys changes nothing: it adds the same number to all matches of a query, and the shares stay what they are.
# Only differences between keys count.

# %%
claim("the scores of a query add up to one", A.sum(1), equals=torch.ones(4, **EXACT), within=1e-12)

# %%
angles = torch.arange(360, **EXACT).deg2rad()
ways = torch.stack([angles.cos(), angles.sin()])  # (2, 360) directions
beyond = ((Y @ ways).max(0).values - (V @ ways).max(0).values).max()  # over queries, values, ways
claim("how far an output lies beyond all values, in degrees", beyond, at_most=0)

# %%
moved, _ = attention(Q, K + read("winter"), V)  # (4, 2)
claim("the same vector added to all keys changes nothing", moved, equals=Y, within=1e-9)

# %% [markdown]
# Does it work for all? Each of the thirteen capitals should attend most to its own country.

# %%
capitals = "lisbon madrid paris london oslo stockholm helsinki"  # in the order of the countries
capitals += " berlin warsaw rome athens ankara kiev"
_, found = attention(4 * read(capitals), K, V)  # (13, 13)
own = found.argmax(dim=1) == torch.arange(13, device=DEVICE)  # (13,)
claim("all 13 capitals attend most to their own country", own.all())

# %% [markdown]
# Figure 4.11 shows both steps. On the left, queries are matched to keys: the stronger the line, the higher the score
# (lines under 0.02 are left out). On the right, the values are averaged with these scores: each answer, a diamond,
# sits between the values that it was drawn from. Denmark is not in the list, and is found between Germany, Sweden,
# Norway and Poland, about a degree too far south and four too far east (its middle lies at 10 degrees east, 56
# north). Lisbon shows the limits. It attends most to Portugal, but with less than half of the whole; Italy, France
# and Spain get most of the rest, and the average ends up at the foot of the Pyrenees. Good matches are needed for
# good answers, and in a layer it is the training that makes them.

# %% tags=["figure-4.11"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 4.2), width_ratios=[3, 4])
shades = [color.classes[k] for k in (0, 1, 2, 3)]
names, places = list(middles), V.cpu()  # (13, 2)
below = ("portugal", "spain", "italy", "greece", "turkey", "germany", "poland", "ukraine")
heights = [2, 5, 8, 11]  # of the queries, beside the keys 0 to 12
for q, shade in enumerate(shades):
    left.text(-0.04, heights[q], asked[q], color=shade, ha="right", va="center", weight="bold")
    for k, score in enumerate(A[q].tolist()):
        ends = torch.stack([Y[q].cpu(), places[k]])  # (2, D_V)
        if score > 0.02:
            left.plot([0, 1], [heights[q], k], color=shade, lw=8 * score, solid_capstyle="butt")
            right.plot(*ends.T, color=shade, lw=8 * score, solid_capstyle="butt")
    right.scatter(*Y[q].cpu(), s=60, marker="D", color=shade, zorder=3)
    east = places[A[q].argmax(), 0] > Y[q, 0]  # then the name goes to the west
    style = {"ha": "right" if east else "left", "color": shade, "weight": "bold"}
    right.annotate(
        asked[q], Y[q].cpu(), (-8 if east else 8, -11), textcoords="offset points", **style
    )
for k, name in enumerate(names):
    left.text(1.04, k, name, va="center")
    style = {"ha": {"portugal": "right", "spain": "left"}.get(name, "center"), "color": color.data}
    up = -15 if name in below else 6
    right.annotate(name, places[k], (0, up), textcoords="offset points", **style)
right.scatter(*places.T, s=14, color=color.data, zorder=3)
left.set(xlim=(-0.5, 1.6), ylim=(12.5, -0.5), title="queries × keys: the scores")
left.axis("off")
right.set(xlim=(-16, 38), ylim=(36, 65))
right.set(xlabel="degrees east", ylabel="degrees north", title="scores × values: the answers")
best = ", ".join(f"{asked[q]} to {names[A[q].argmax()]} {A[q].max():.2f}" for q in range(4))
said = f"Four queries and 13 keys, joined by lines as strong as the scores: {best}. Answers: "
said += "; ".join(f"{asked[q]} {Y[q, 0]:.1f} east, {Y[q, 1]:.1f} north" for q in range(4)) + "."
figure("4.11", "Queries are matched to keys; then the values are averaged.", said)

# %% [markdown]
# In the plane one can take hold of the query. The widget has six keys, drawn as dots, and each has a value, a single
# number from 0 to 5. The arrow is the query. Dots beyond the dashed line, which is at right angles to the arrow, have
# a positive match, those behind it a negative one, and the farther from it the stronger. On the right, each bar
# stands at the value of its key, and is as high as its score; the output is where a board with these bars on it would
# balance.
#
# Turn the query around, and see the attention go from key to key. A longer query is more decided. So is a lower
# *temperature*, a number by which all matches are divided: at 0.1 one key takes nearly all, at 10 the scores come
# close to each other, and the output to the plain mean, 2.5. Key 4 lies between the others. With all six visible it
# is never first, wherever the query points: a dot product is largest for one of the outermost keys. Then hide the
# last keys with the slider for visible keys: a hidden key gets no score, and the others share what it had. With four
# visible keys, key 4 is itself an outermost one: turn the query to the lower left, and it comes first.

# %%
keys = torch.tensor([[2.0, 0.4], [0.9, 1.8], [-1.0, 1.7], [-0.5, 0.2], [-1.5, -1.3], [1.0, -1.8]])
values = torch.tensor([3.0, 5.0, 1.0, 0.0, 4.0, 2.0])  # (6,)


def scene(fig):
    """Left, six keys as dots, the query as an arrow. Right, a bar for each score, at its value."""
    plane, board = fig.subplots(1, 2, width_ratios=[1, 1.2])
    (border,) = plane.plot([], [], color=color.quiet, ls="--", lw=1)
    axes = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.015}
    arrow = plane.quiver([0], [0], [1], [1], color=color.input, **axes)
    dots = plane.scatter(*keys.T, s=60, color=[color.classes[k] for k in range(6)], zorder=2)
    for k, key in enumerate(keys):
        plane.annotate(f"{k + 1}", key, (10, 5), textcoords="offset points")
    bars = board.bar(values, torch.zeros(6), width=0.7, color=[color.classes[k] for k in range(6)])
    balance = board.axvline(0, ymax=0.9, color=color.output, lw=1, ls="--")
    (foot,) = board.plot([0], [-0.035], "^", color=color.output, ms=10, clip_on=False)
    name = board.text(0, 1.02, "Y", color=color.output, ha="center", weight="bold", va="bottom")
    plane.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xlabel="keys and query")
    board.set(xlim=(-0.6, 5.6), ylim=(0, 1.1), xlabel="value", ylabel="score", xticks=range(6))
    board.tick_params(axis="x", length=0, pad=14)

    def update(query_x, query_y, temperature, visible_keys):
        query = torch.tensor([[query_x, query_y]])  # (1, 2)
        mask = torch.arange(6) < visible_keys  # (6,)
        Y, A = attention(query / temperature, keys, values[:, None], mask)  # (1, 1), (1, 6)
        across = 9 * torch.stack([-query[0, 1], query[0, 0]]) / (query.norm() + 1e-9)  # (2,)
        border.set_data(*torch.stack([-across, across], dim=1))
        arrow.set_UVC([query_x], [query_y])
        dots.set_sizes(60 * mask + 4)
        for bar, score in zip(bars, A[0].tolist(), strict=True):
            bar.set_height(score)
        balance.set_xdata([Y.item()] * 2)
        foot.set_xdata([Y.item()])
        name.set_x(Y.item())
        best = A[0].argmax().item()
        return f"key {best + 1} scores most, {A[0, best]:.2f}; the output Y is {Y.item():.2f}"

    return update


# %%
position = {"query_x": slider(-2.5, 2.5, 1.5, 0.1), "query_y": slider(-2.5, 2.5, 1.5, 0.1)}
sharing = {"temperature": slider(0.1, 10, 1.0, log=True), "visible_keys": slider(1, 6, 6)}
explore(scene, "4.8a", "A query among six keys.", (8, 3.7), **position, **sharing)

# %% [markdown]
# ### Why divide by a root
#
# Take a query and a key at random, each number with mean 0 and variance 1, all independent. Each of the $D_{QK}$
# products then also has mean 0 and variance 1, and variances of independent numbers add up: their sum, the dot
# product, has variance $D_{QK}$. Its typical size is the root of that. Divided by $\sqrt{D_{QK}}$, the matches are of
# size 1 in any dimension. Measured on 16,000 dot products for each dimension:

# %%
sizes, variances, slopes = [4, 16, 64, 256, 1024], [], []
for D in sizes:
    chance = seed(D)
    queries = torch.randn(1000, 1, D, generator=chance).to(DEVICE)  # (1000, 1, D_QK)
    against = torch.randn(1000, 16, D, generator=chance).to(DEVICE)  # (1000, 16, D_QK)
    products = (queries * against).sum(dim=2)  # (1000, 16)
    variances.append((products.var() / D).item())
    both = torch.stack([products, products / math.sqrt(D)]).softmax(dim=2)  # (2, 1000, 16)
    slopes.append((both * (1 - both)).sum(dim=2).mean(dim=1))  # (2,) without and with the root

# %%
claim("variance of dot products over their dimension, smallest", min(variances), at_least=0.9)
claim("variance of dot products over their dimension, largest", max(variances), at_most=1.1)

# %% [markdown]
# Why does the size matter? Matches of size 32, as they are for $D_{QK} = 1024$ without the root, make the largest of
# 16 scores nearly one and the others nearly zero. There the softargmax is flat. The slope of a score $A_k$ with
# respect to its own match is $A_k (1 - A_k)$, and it vanishes at both ends. A layer that starts like this picks one
# key and gets hardly any gradient to learn that it should pick another. Below, the formula for the slope is checked
# on three scores. Then come the measurements: added up over 16 keys, the slopes are nearly 0.9 in every dimension
# with the root. Without it they fade away.

# %%
shares = torch.tensor([0.7, 0.2, 0.1], **EXACT)  # (3,) a softargmax of their own logarithms
jacobian = torch.autograd.functional.jacobian(lambda x: x.softmax(dim=0), shares.log())  # (3, 3)
claim("slopes of three scores", jacobian.diagonal(), equals=shares * (1 - shares), within=1e-12)

# %%
unscaled, scaled = torch.stack(slopes, dim=1).tolist()  # 5 numbers each
claim("with the root: slopes in all dimensions, smallest", min(scaled), at_least=0.8)
claim("with the root: slopes in all dimensions, largest", max(scaled), at_most=0.9)
claim("without the root: slopes at dimension 1024", unscaled[-1], at_most=0.1)

# %%
fig, ax = plt.subplots(figsize=(6.5, 2.8))
ax.plot(sizes, scaled, "o-", color=color.model)
ax.plot(sizes, unscaled, "o-", color=color.gradient)
ax.text(60, 0.78, r"matches divided by $\sqrt{D_{QK}}$", color=color.model, va="top")
ax.text(75, 0.24, "plain dot products", color=color.gradient)
log_scale(ax.xaxis, sizes)
ax.set(ylim=(0, 1), xlabel="dimension $D_{QK}$ of queries and keys", ylabel="sum of slopes")
said = f"Sum of the slopes of 16 scores: with root {scaled[0]:.2f} to {scaled[-1]:.2f}; without "
said += f"from {unscaled[0]:.2f} at dimension 4 down to {unscaled[-1]:.2f} at dimension 1024."
figure("4.8b", "How much the scores respond to the matches, for random queries and keys.", said)

# %% [markdown]
# ### Mask and dropout
#
# Sometimes a query must not see all keys. A **mask** says for each pair of query and key whether it may attend. In
# the function above it is a matrix of truth values, and where it is False the match is replaced by $-\infty$ before
# the softargmax. The exponential makes that an exact zero, and the allowed keys share the whole. (A query that may
# attend to nothing at all would divide zero by zero. Each row needs at least one True.)
#
# The most important mask makes attention **causal**. If the places are moments in time, or words that are yet to be
# written, a place may look back but not ahead: query $q$ sees the keys $k \le q$. As a matrix this is a triangle, and
# `tril`, for *lower triangle*, makes it. Language models are built on it, since they predict each word from those
# before.

# %%
causal = torch.ones(4, 4, dtype=torch.bool, device=DEVICE).tril()  # (N, N)
named = read(" ".join(asked))  # (4, 50)
A = attention_scores(named, named, causal)  # (4, 4) the four words among themselves
for word, shares in zip(asked, A.tolist(), strict=True):
    print(f"{word:8}", "  ".join(f"{share:.2f}" for share in shares))

# %% [markdown]
# Oslo, the first, has nobody before it and attends to itself. Kiev, the last, sees all four, and its row is the same
# as without a mask.
#
# The second addition is dropout, as in section 4.5. In training each score is set to zero with probability $p$, and
# those kept are divided by $1 - p$. It forces a layer not to rely on one key alone. Dropout comes *after* the
# softargmax, so the scores of a query no longer add up to one, except on average. As a module, the operator is this.


# %% tags=["export"]
class AttentionOperator(nn.Module):
    """The attention operator with dropout of scores, which acts in training only."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.dropout(attention_scores(Q, K, mask)) @ V  # (..., N_Q, D_V)


# %% [markdown]
# In evaluation nothing is dropped. In training the answers to one question scatter by up to some 25 degrees, since a
# dropped key takes its share away, and the scores no longer add up to one: the answers even leave the convex hull.
# Their mean over 4,000 draws is the answer without dropout, to within three degrees.

# %%
operator = AttentionOperator(dropout=0.25)
claim("in evaluation the operator drops nothing", operator.eval()(Q, K, V), equals=Y, within=1e-12)

# %%
seed(4)  # of the dropout
draws = operator.train()(Q.expand(4000, -1, -1), K, V)  # (4000, N_Q, D_V)
claim("dropout of scores: mean of 4,000 draws, in degrees", draws.mean(0), equals=Y, within=3)
claim("dropout of scores: largest spread of an answer, in degrees", draws.std(0).max(), at_least=20)

# %% [markdown]
# Now with a mask that hides Ukraine, the last key, from all queries. That must be the same as if it were not there.

# %%
mask = torch.ones(4, 13, dtype=torch.bool, device=DEVICE)  # (N_Q, N_KV)
mask[:, -1] = False
without = operator.eval()(Q, K[:-1], V[:-1])  # (4, 2)
hidden = operator(Q, K, V, mask)  # (4, 2)
claim("a hidden key and a key that is not there", hidden, equals=without, within=1e-12)

# %% [markdown]
# Figure 4.12 is drawn from this run: the boxes are the operations that PyTorch reported on the way, for four queries
# and thirteen keys. Read it from the bottom up. The letters at the arrows stand for the sizes that came by; 7.07 is
# the root of 50.

# %% tags=["figure-4.12"]
letters = {4: "$N_Q$", 13: "$N_{KV}$", 50: "$D_{QK}$", 2: "$D_V$"}
fig, ax = plt.subplots(figsize=(4.2, 4.8))
said = schematic(ax, operator, Q, K, V, mask, letters=letters, batch=True, output="Y")
figure("4.12", "The attention operator, as it ran.", said.replace("$", ""))

# %% [markdown]
# ### What it does and what it cannot see
#
# First, is it right? PyTorch has the operator as `F.scaled_dot_product_attention`, with the same meaning of a mask.
# We compare outputs, and gradients with respect to queries, keys and values, in 40 random cases, with up to eight
# signals in a batch, eight heads (to which we come below), eight queries, keys and channels; every third case has no
# mask. As `difference` compares single outputs, a small function leaves the scores out; and `partial` fixes an
# argument of a function, here the mask. Numbers of 64 bits agree to twelve digits and more. Those of 32 bits carry
# seven, and both sides round in their own order, so they may differ in the last ones.


# %%
def attention_output(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> Tensor:
    """The outputs of `attention` without the scores."""
    return attention(Q, K, V, mask)[0]  # (..., N_Q, D_V)


# %%
def largest_difference(dtype: torch.dtype, cases: int = 40) -> float:
    """Largest difference of `attention` from PyTorch's, outputs and gradients, in random cases."""
    chance, found = seed(5), []
    for case in range(cases):
        B, H, N_Q, N_KV, D_QK, D_V = torch.randint(1, 9, (6,), generator=chance).tolist()
        shapes = (B, H, N_Q, D_QK), (B, H, N_KV, D_QK), (B, H, N_KV, D_V)
        QKV = [torch.randn(shape, generator=chance).to(DEVICE, dtype) for shape in shapes]
        mask = torch.rand(N_Q, N_KV, generator=chance).to(DEVICE) < 0.6  # (N_Q, N_KV)
        mask[:, 0] = True  # one key at least
        mask = mask if case % 3 else None
        ours = partial(attention_output, mask=mask)
        torchs = partial(F.scaled_dot_product_attention, attn_mask=mask)
        found.append(difference(ours, torchs, *QKV))
    return max(found)


# %%
in_64, in_32 = largest_difference(torch.float64), largest_difference(torch.float32)
claim("attention and PyTorch's in float64, 40 cases", in_64, at_most=1e-12)
claim("attention and PyTorch's in float32, 40 cases", in_32, at_most=2e-5)

# %% [markdown]
# And with the causal mask, on a line of words. This sentence speaks of two things, and we shall come back to it.

# %%
sentence = "the doctor gave the patient medicine while the pilot landed the aircraft"
X = read(sentence)  # (N, D), that is (12, 50)

# %%
causal = torch.ones(12, 12, dtype=torch.bool, device=DEVICE).tril()  # (N, N)
ours = partial(attention_output, mask=causal)
torchs = partial(F.scaled_dot_product_attention, is_causal=True)
claim("causal attention and PyTorch's", difference(ours, torchs, X, X, X), at_most=1e-12)

# %% [markdown]
# How does each output depend on each word? The Jacobian of section 3.4 tells. Let the words be queries, keys and
# values at once. An output has 50 numbers; we take their sum. Its slope with respect to word $k$ is a vector of 50
# numbers, of which we take the length. Under the causal mask the slope of output $q$ with respect to word $k$ must be
# exactly zero for every later word. For itself and all words before, it must not be.


# %%
def summed(X: Tensor) -> Tensor:
    """The sums (N,) of the outputs of causal attention, for words X (N, D)."""
    return ours(X, X, X).sum(dim=1)


# %%
jacobian = torch.autograd.functional.jacobian(summed, X)  # (N, N, D)
influence = jacobian.norm(dim=2)  # (N, N): how much output q responds to word k
claim("influence of later words under the causal mask", influence[~causal].max(), at_most=0)
claim(
    "smallest influence of a word on its own output or a later one",
    influence[causal].min(),
    at_least=1e-3,
)

# %% [markdown]
# What attention cannot see is order. Shuffle the keys, and the values along with them: the average has the same
# terms, and nothing changes. Shuffle the queries: the outputs come shuffled alike. Without a mask it treats a text as
# a bag of words, "dog bites man" as "man bites dog". The weights of a convolution depend on where a number stands and
# not on what it is; those of attention on what it is and not on where. (A causal mask lets a little order in: the
# shuffled text is masked differently.) If places should matter, they have to be written into the words, and section
# 4.10 does that.

# %%
order = torch.randperm(13, generator=seed(6)).to(DEVICE)
shuffled = attention_output(Q, K[order], V[order])  # (4, 2)
claim("keys and values shuffled together change nothing", shuffled, equals=Y, within=1e-12)

# %%
turned = attention_output(Q.flip(0), K, V)  # (4, 2)
claim("queries in reverse give the outputs in reverse", turned, equals=Y.flip(0), within=1e-12)

# %% [markdown]
# Now look at the sentence itself: each word, as a query, attends to all words, with their bare GloVe vectors as keys.
# Apart from itself, "doctor" turns most to "patient" and "medicine", "landed" to "aircraft" and "pilot", however many
# words lie between. The words of grammar, "the" and "while", turn to each other. The claim below takes three words of
# each topic and sets their scores for themselves, the diagonal, to zero. What a word pays to the two others of its
# topic is held against what it pays to the three of the other topic. For every one of the six it is more.

# %%
A = attention_scores(X, X).fill_diagonal_(0)  # (12, 12)
medical, flying = [1, 4, 5], [8, 9, 11]  # doctor, patient, medicine; pilot, landed, aircraft
staying = torch.cat([A[medical][:, medical].sum(1), A[flying][:, flying].sum(1)])  # (6,)
crossing = torch.cat([A[medical][:, flying].sum(1), A[flying][:, medical].sum(1)])  # (6,)

# %%
claim("two others of a word's topic over the other topic", (staying / crossing).min(), at_least=1.4)

# %% [markdown]
# In the widget, rows are queries and columns are keys; the darker, the higher the score. One query is framed, and its
# scores are drawn as bars. A high temperature spreads each word over all; a low one leaves it with its best match.
# For most words that is the word itself, but not for all: "pilot" prefers "aircraft", the more so the lower the
# temperature, for a dot product also grows with the length of the key. The four "the" share evenly. The causal mask
# blanks the upper triangle, and what it leaves in a row grows (except in the last, where nothing is hidden), since
# the row must add up to one. "Doctor" then cannot see its patient, who comes later; the patient sees the doctor.
# Dropout breaks the sum: some scores vanish, the others grow by one and the same factor, and the sum, written above
# the bars, is no longer one.

# %%
labels, words_cpu = sentence.split(), X.cpu()  # 12 words, (12, 50)
chances = torch.rand(12, 12, generator=seed(7))  # (12, 12) what dropout compares with p


def scene(fig):
    """Left, the scores of 12 words for each other as a matrix. Right, one row of it as bars."""
    left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
    image = left.imshow(torch.zeros(12, 12), cmap="Blues", vmin=0, vmax=1)
    (frame,) = left.plot([], [], color=color.gradient, lw=2, clip_on=False)
    left.set_xticks(range(12), labels, rotation=90)
    left.set_yticks(range(12), labels)
    left.tick_params(length=0, labeltop=True, labelbottom=False)
    bars = right.barh(range(12), torch.zeros(12), color=color.model)
    right.set(xlim=(0, 1), ylim=(11.5, -0.5), xlabel="score", yticks=range(12))
    right.set_yticklabels(labels)
    right.tick_params(axis="y", length=0)
    sum_line = right.text(0, 1.03, "", transform=right.transAxes, color=color.gradient)

    def update(query, temperature, causal_mask, dropout):
        mask = torch.ones(12, 12).tril(0 if causal_mask else 12).bool()  # (12, 12)
        A = attention_scores(words_cpu / temperature, words_cpu, mask)  # (12, 12)
        A = A * (chances >= dropout) / (1 - dropout)  # (12, 12)
        q = query - 1
        image.set_data(A)
        frame.set_data(
            [-0.5, 11.5, 11.5, -0.5, -0.5], [q - 0.5, q - 0.5, q + 0.5, q + 0.5, q - 0.5]
        )
        for bar, score in zip(bars, A[q].tolist(), strict=True):
            bar.set_width(score)
        sum_line.set_text(f"“{labels[q]}”: sum {A[q].sum():.2f}")
        best = A[q].argmax().item()
        said = f"“{labels[q]}” attends most to “{labels[best]}”, {A[q, best]:.2f}"
        return f"{said}; the sum is {A[q].sum():.2f}"

    return update


# %%
which = {"query": slider(1, 12, 9), "temperature": slider(0.1, 3, 0.5, 0.1)}
hidden = {"causal_mask": toggle(), "dropout": slider(0.0, 0.8, 0.0, 0.05)}
explore(scene, "4.8c", "Who attends to whom in a sentence.", (8.5, 4), **which, **hidden)

# %% [markdown]
# ### From an operator to a layer
#
# The operator has no weights. In a layer, queries, keys and values are computed from signals, and this is where the
# training comes in: what to ask, what to answer to, and what to say. An **attention layer** takes three sequences,
# $X_Q$, $X_K$ and $X_V$, with one row of $D$ channels for each place, and maps them by three matrices, without
# biases: $Q = X_Q W_Q^\top$, $K = X_K W_K^\top$, $V = X_V W_V^\top$. When all three sequences are one and the same, a
# signal attends to itself; that is *self-attention*. When keys and values come from another signal, as a translation
# looks at its original, it is *cross-attention*. $X_K$ and $X_V$ must have the same number of places, since each key
# belongs to a value. The number of queries may be another, and no weight depends on either: one layer serves short
# texts and long ones.
#
# One average for each place is little. A word may want to know its subject and its tense, and a single set of scores
# must share itself out between the two. **Multi-head attention** does it several times side by side: $H$ heads, each
# with its own three matrices, look for different things. Their outputs are put next to each other, and a last matrix
# $W_O$ mixes them into $D$ channels again:
#
# $$Y_h = \operatorname{attention}\big(X_Q W_{Q,h}^\top,\; X_K W_{K,h}^\top,\; X_V W_{V,h}^\top\big), \quad h = 1
# \ldots H, \qquad Y = \big(Y_1 \mid \cdots \mid Y_H\big)\, W_O^\top$$
#
# A head in PyTorch is three fully connected layers without bias, and the operator; the layer is a list of heads and
# one more matrix. (`ModuleList` is a list whose modules are registered, so that `parameters()` finds their weights.)


# %% tags=["export"]
class AttentionHead(nn.Module):
    """One head of an attention layer: from signals of D channels to outputs (..., N_Q, D_V)."""

    def __init__(self, D: int, D_QK: int, D_V: int, dropout: float = 0.0):
        super().__init__()
        self.W_Q = nn.Linear(D, D_QK, bias=False)
        self.W_K = nn.Linear(D, D_QK, bias=False)
        self.W_V = nn.Linear(D, D_V, bias=False)
        self.operator = AttentionOperator(dropout)

    def forward(self, X_Q: Tensor, X_K: Tensor, X_V: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.operator(self.W_Q(X_Q), self.W_K(X_K), self.W_V(X_V), mask)


# %% tags=["export"]
class MultiHeadAttention(nn.Module):
    """H heads side by side, mixed by W_O: signals X_Q (..., N_Q, D), X_K and X_V (..., N_KV, D)."""

    def __init__(self, D: int, H: int, D_QK: int, D_V: int, dropout: float = 0.0):
        super().__init__()
        self.heads = nn.ModuleList(AttentionHead(D, D_QK, D_V, dropout) for _ in range(H))
        self.W_O = nn.Linear(H * D_V, D, bias=False)

    def forward(self, X_Q: Tensor, X_K: Tensor, X_V: Tensor, mask: Tensor | None = None) -> Tensor:
        Y = torch.cat([head(X_Q, X_K, X_V, mask) for head in self.heads], dim=-1)
        return self.W_O(Y)  # (..., N_Q, H D_V) to (..., N_Q, D)


# %% [markdown]
# The formula, evaluated with bare matrices, for our sentence as $X_Q$, the thirteen countries as $X_K$, and their
# capitals as $X_V$: from 12 places to 13 others, with three different signals.

# %%
seed(8)  # of the weights
layer = MultiHeadAttention(D=50, H=3, D_QK=16, D_V=20).to(**EXACT)
X_K, X_V = read(" ".join(middles)), read(capitals)  # (N_KV, D) each, that is (13, 50)

# %% tags=["equation-multi-head"]
parts = []
for head in layer.heads:
    W_Q, W_K, W_V = head.W_Q.weight, head.W_K.weight, head.W_V.weight  # (16, 50) (16, 50) (20, 50)
    Q_h, K_h = X @ W_Q.mT, X_K @ W_K.mT  # (N_Q, D_QK) and (N_KV, D_QK), (12, 16) and (13, 16)
    A = (Q_h @ K_h.mT / math.sqrt(16)).softmax(dim=1)  # (N_Q, N_KV)
    parts.append(A @ X_V @ W_V.mT)  # (N_Q, D_V), that is (12, 20)
in_matrices = torch.cat(parts, dim=1) @ layer.W_O.weight.mT  # (N_Q, D)

# %%
claim("the layer and the formula", layer(X, X_K, X_V), equals=in_matrices, within=1e-12)

# %% [markdown]
# Figure 4.13 is that run, drawn. Three heads stand side by side, and each sees all three inputs.

# %% tags=["figure-4.13"]
names = {"W_O": "$W_O$\n60 → 50", AttentionOperator: "attention"}
names |= {"X_Q": "$X_Q$", "X_K": "$X_K$", "X_V": "$X_V$"}
for h in range(3):
    for letter, size in (("Q", 16), ("K", 16), ("V", 20)):
        names[f"heads.{h}.W_{letter}"] = f"$W_{{{letter},{h + 1}}}$\n50 → {size}"
fig, ax = plt.subplots(figsize=(8.5, 4.3))
inputs = X[None], X_K[None], X_V[None]  # each a batch of one
said = schematic(ax, layer, *inputs, closed=(AttentionOperator,), names=names, output="$Y$")
figure("4.13", "A layer of three heads, as it ran.", re.sub(r"[${}]", "", said))

# %% [markdown]
# PyTorch's layer is `nn.MultiheadAttention`. It fixes $D_{QK} = D_V = D / H$ and stores the matrices of all heads
# stacked in one: first all queries', then all keys', then all values'. In a mask for it, True means *forbidden*, the
# opposite of ours and of its own `F.scaled_dot_product_attention`; many an hour has been lost on that. With
# `functional_call`, as in section 4.2, `difference` compares the gradients with respect to the three signals and all
# weights.


# %%
def our_layer(X_Q, X_K, X_V, W, W_O, layer: nn.Module, mask: Tensor | None) -> Tensor:
    """Our layer with the weights W (3 D, D) in PyTorch's order, and W_O (D, D)."""
    parts = W.unflatten(0, (3, len(layer.heads), -1))  # (3, H, D_QK, D)
    weights = {"W_O.weight": W_O}
    for h in range(len(layer.heads)):
        for letter, part in zip("QKV", parts[:, h], strict=True):
            weights[f"heads.{h}.W_{letter}.weight"] = part  # (D_QK, D)
    return functional_call(layer, weights, (X_Q, X_K, X_V, mask))


# %%
def torchs_layer(X_Q, X_K, X_V, W, W_O, layer: nn.Module, mask: Tensor | None) -> Tensor:
    """PyTorch's layer with the same weights."""
    weights = {"in_proj_weight": W, "out_proj.weight": W_O}
    options = {"attn_mask": None if mask is None else ~mask}
    return functional_call(layer, weights, (X_Q, X_K, X_V), options)[0]


# %% [markdown]
# Random cases again: one to four heads, batches, lengths and widths of many kinds, masks in two of three cases, as
# many queries as keys in every other one, in training mode and in evaluation by turns. (Without dropout the two modes
# are the same, and must be.)


# %%
def largest_layer_difference(dtype: torch.dtype, cases: int = 24) -> float:
    """Largest difference between our layer and PyTorch's, in outputs and all gradients."""
    chance, found = seed(9), []
    for case in range(cases):
        B, H, N_Q, N_KV, D_QK = torch.randint(1, 5, (5,), generator=chance).tolist()
        D, N_KV = H * D_QK, N_KV if case % 2 else N_Q
        ours = MultiHeadAttention(D, H, D_QK, D_QK).to(DEVICE, dtype).train(case % 4 < 2)
        theirs = nn.MultiheadAttention(D, H, bias=False, batch_first=True).to(DEVICE, dtype)
        shapes = (B, N_Q, D), (B, N_KV, D), (B, N_KV, D), (3 * D, D), (D, D)
        tensors = [torch.randn(shape, generator=chance) / 2 for shape in shapes]
        tensors = [x.to(DEVICE, dtype) for x in tensors]
        mask = torch.rand(N_Q, N_KV, generator=chance).to(DEVICE) < 0.6  # (N_Q, N_KV)
        mask[:, 0] = True
        options = {"mask": mask if case % 3 else None}
        one = partial(our_layer, layer=ours, **options)
        other = partial(torchs_layer, layer=theirs.train(case % 4 < 2), **options)
        found.append(difference(one, other, *tensors))
    return max(found)


# %%
in_64, in_32 = largest_layer_difference(torch.float64), largest_layer_difference(torch.float32)
claim("layer and PyTorch's in float64, 24 cases", in_64, at_most=1e-12)
claim("layer and PyTorch's in float32, 24 cases", in_32, at_most=2e-5)

# %% [markdown]
# With dropout the two must throw the same dice. For one head they do so in the same order, so after the same seed the
# same scores are dropped.


# %%
def dropped(layer: nn.Module, function: Callable) -> Tensor:
    """The outputs of a layer in training, on the sentence, with fixed weights and dice."""
    W, W_O = torch.randn(200, 50, generator=seed(10)).to(**EXACT).split(150)  # (150, 50), (50, 50)
    return function(X[None], X[None], X[None], W, W_O, layer.to(**EXACT).train(), None)


# %%
ours = dropped(MultiHeadAttention(50, 1, 50, 50, dropout=0.3), our_layer)  # (1, 12, 50)
torchs = nn.MultiheadAttention(50, 1, dropout=0.3, bias=False, batch_first=True)
torchs = dropped(torchs, torchs_layer)  # (1, 12, 50)
claim("one head with dropout, and PyTorch's", ours, equals=torchs, within=1e-9)

# %% [markdown]
# ### Heads that look for different things
#
# What can heads do that a single one cannot? Let us build three by hand. The signal is a line from Shakespeare's
# *Richard III*. Each word is its GloVe vector, and before it come nine numbers that say where it stands: a one at its
# place and zeros elsewhere. The keys are these 59 numbers as they are; only the matrices for the queries differ.
#
# The first head asks for the previous place: its matrix moves the one by a place, and enlarges it, so that the match
# is decided. The second asks for the same word, but earlier: GloVe against GloVe, with a large negative match for its
# own place. The third asks nothing. Its matrix is zero, all matches are equal, and it averages all that has been
# said. All of them are under a causal mask, so the very first word can only attend to itself. (In head 1, `roll`
# makes it ask for the last place, and the mask hides that.)

# %%
line = "a horse a horse my kingdom for a horse"
places = torch.eye(9, **EXACT)  # (9, 9)
X = torch.cat([places, read(line)], dim=1)  # (N, D), that is (9, 59)
causal = torch.ones(9, 9, dtype=torch.bool, device=DEVICE).tril()  # (N, N)

# %%
W_Q = torch.zeros(3, 59, 59, **EXACT)  # (H, D_QK, D)
W_Q[0, :9, :9] = 100 * places.roll(-1, dims=0)  # a one at place t becomes 100 at place t - 1
W_Q[1, :9, :9] = -200 * places
W_Q[1, 9:, 9:] = 4 * torch.eye(50, **EXACT)

# %%
A = attention_scores(X @ W_Q.mT, X, causal)  # (H, N, N), that is (3, 9, 9)
claim("head 1: smallest score of the previous word", A[0].diagonal(-1).min(), at_least=0.99)

# %%
line_words = line.split()
same = [[line_words[q] == line_words[k] and k < q for k in range(9)] for q in range(9)]
again = (A[1] * torch.tensor(same, device=DEVICE)).sum(1)[[2, 3, 7, 8]]  # a, horse, a, horse
claim("head 2: smallest total score of the same word earlier", again.min(), at_least=0.9)

# %%
even = causal.double() / causal.sum(1, keepdim=True)  # (N, N)
claim("head 3: the same score for all so far", A[2], equals=even, within=1e-12)

# %% [markdown]
# The last "horse" asks three questions at once: what came just before ("a"), where it was said already (twice), and
# what it has all been about. One softargmax could not answer them separately. Where no word is repeated, head 2 falls
# back on what is most alike: "my" and "for" turn to "a", grammar to grammar. The outputs of the heads lie side by
# side, so that $W_O$ can use each answer for itself. Heads like the first two have been found in trained language
# models, and nobody had put them there.

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.5, 3.4), sharey=True)
titles = ["head 1: the word before", "head 2: the same word, earlier", "head 3: all so far"]
for ax, scores, title in zip(axes, A.cpu(), titles, strict=True):
    ax.imshow(scores, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(9), line_words, rotation=90)
    ax.set_yticks(range(9), line_words)
    ax.tick_params(length=0)
    ax.set_title(title)
axes[0].set_ylabel("queries")
said = "Scores of three heads for nine words. The last word, horse, attends with head 1 to word 8 "
said += (
    f"({A[0, 8, 7]:.2f}), with head 2 to words 2 and 4 ({A[1, 8, 1]:.2f} and {A[1, 8, 3]:.2f}), "
)
said += f"and with head 3 to each of nine ({A[2, 8, 0]:.2f})."
figure("4.8d", "Three heads under a causal mask; rows are queries, columns keys.", said)

# %% [markdown]
# ### What it costs
#
# Every query meets every key. Each meeting costs $D_{QK}$ multiplications for the match, one division by the root,
# and $D_V$ multiplications for the average: $N_Q N_{KV} (D_{QK} + 1 + D_V)$ in all, not counting the softargmax,
# which `cost` does not see, and no weights. The layer adds its matrices: for each place, $D$ times the width of every
# head's query, key and value, and as much again for $W_O$ as for the values. With $D_{QK} = D_V = D / H$ these are
# four matrices of $D \times D$ weights in all. Counted:

# %%
D, H = 64, 4
layer = MultiHeadAttention(D, H, D // H, D // H).to(DEVICE)


def matching(N: int) -> int:
    """Multiplications of the operators of all heads, for N places that attend to N."""
    return H * N * N * (D // H + 1 + D // H)


# %%
X_100, X_200 = torch.rand(100, D, device=DEVICE), torch.rand(200, D, device=DEVICE)  # (N, D)
counted = [cost(layer, X, X, X) for X in (X_100, X_200)]
predicted = [(4 * D * D, 4 * N * D * D + matching(N)) for N in (100, 200)]
predicted = torch.tensor(predicted)  # (2, 2)
claim("the layer's parameters and multiplications", torch.tensor(counted), equals=predicted)

# %% [markdown]
# The matrices cost twice as much for twice as many places, the meetings four times as much. That is the price of
# letting everything meet everything. Take a layer of usual size, $D = 512$ with eight heads. The two are even at
# about $N = 2 D$, here a thousand places, and from there on the meetings take over. The scores have to be kept for
# the backward pass as well, $H N^2$ of them, with four bytes each:

# %%
D, H = 512, 8
for N in (256, 1024, 4096, 16384):
    share = matching(N) / (4 * N * D * D + matching(N))
    memory = H * N * N * 4 / 2**20  # MiB
    print(f"{N:6,} places: {share:4.0%} of the work is matching; scores {memory:6,.0f} MiB")

# %% [markdown]
# Eight gibibytes for the scores of a single layer: long texts are expensive. (PyTorch's own function computes the
# scores piece by piece and never keeps them all; the multiplications remain.)
#
# **Exercise.** One remedy is not to look at everything. Write the mask of a *sliding window*: query $q$ may attend to
# itself and to the keys just before it, to `width` keys in all, and to none after it. At the beginning there are
# fewer to see. Then each query needs only `width` keys instead of $N$. (Our function still computes all matches and
# then discards them; to save the work, a program must skip them.)


# %% tags=["exercise"]
def window_mask(N: int, width: int) -> Tensor:
    """The mask (N, N), True where query q may attend to key k: for the `width` keys up to q."""
    raise NotImplementedError


two = [[True, False, False], [True, True, False], [False, True, True]]
check(
    window_mask,
    ("3 places, a window of 2", lambda g: (g(3, 2).cpu(), torch.tensor(two))),
    ("a window of 1 is the word itself", lambda g: (g(5, 1).cpu(), torch.eye(5).bool())),
    (
        "a window as wide as the text is causal",
        lambda g: (g(6, 6).cpu(), torch.ones(6, 6).tril() > 0),
    ),
    ("300 places, a window of 50: allowed pairs", lambda g: (g(300, 50).sum().item(), 13775)),
)


# %% tags=["solution", "hide-input"]
def window_mask(N: int, width: int) -> Tensor:
    """The way q - k back from the query must be 0, 1, … width - 1; broadcasting makes all pairs."""
    places = torch.arange(N, device=DEVICE)  # (N,)
    back = places[:, None] - places  # (N, N)
    return (back >= 0) & (back < width)


# %% [markdown]
# ### Moving the brackets
#
# As we saw, the table of scores makes attention expensive where sequences are long. For $N$ positions it has $N^2$
# entries: 4 times as many when the sequence is twice as long, and a million million for a million tokens. A great
# deal of research tries to lower this *quadratic cost*. One of the ideas is so short that we can take it apart here.
# It is called *linear attention* (Katharopoulos et al., 2020).
#
# Leave out the softargmax for a moment. What remains is $(Q K^\top)\, V$, a product of three matrices, and products
# can be bracketed as one likes: $(Q K^\top)\, V = Q\, (K^\top V)$. The left side makes a table of $N \times N$
# matches. The right side never does. Its table $K^\top V$ has $D \times D$ entries, however long the sequence is.
#
# The softargmax stands in the way, because it takes the exponential of each match, and for that the match must exist.
# So replace the exponential. Map each query and each key to a list of *features* $\varphi(q)$ and $\varphi(k)$, and
# let the weight that query $i$ gives to key $j$ be the product $\varphi(q_i) \cdot \varphi(k_j)$, divided by the sum
# over all keys. If no feature is negative, this is an average of the values again:
#
# $$y_i^\top
# = \frac{\sum_j \big(\varphi(q_i) \cdot \varphi(k_j)\big)\, v_j^\top}{\sum_j \varphi(q_i) \cdot \varphi(k_j)}
# = \frac{\varphi(q_i)^\top \sum_j \varphi(k_j)\, v_j^\top}{\varphi(q_i)^\top \sum_j \varphi(k_j)}$$
#
# In the middle is attention with another formula for the matches, and without the exponential. On the right, both
# sums are over the keys alone. They are computed once and serve all queries. There $\varphi(k_j)\, v_j^\top$, a
# column times a row, is the table of all products of a feature of the key with a number of the value. A function of
# two arguments that is such a product of features is called a *kernel* (nothing to do with the kernel of a
# convolution).
#
# The features of the original paper are the simplest that are never negative: $\varphi(x) = x + 1$ for positive $x$,
# and $e^x$ for the others, number by number. PyTorch's `elu` is $e^x - 1$ for negative numbers, so we add 1.


# %% tags=["export"]
def positive(x: Tensor) -> Tensor:
    """The features elu(x) + 1, all positive, of queries or keys x (..., N, D)."""
    return F.elu(x) + 1


# %% [markdown]
# First the middle of the equation, with its table of scores, and with a mask as before.


# %% tags=["export"]
def kernel_attention(Q: Tensor, K: Tensor, V: Tensor, phi: Callable, mask: Tensor | None = None):
    """Attention whose weights are phi(q) · phi(k): averages Y (..., N_Q, D_V), scores A (..., N_Q, N_KV)."""
    A = phi(Q) @ phi(K).mT  # (..., N_Q, N_KV)
    A = A if mask is None else A * mask
    A = A / A.sum(-1, keepdim=True)  # each row adds up to one
    return A @ V, A


# %% [markdown]
# Then the right side. A small device saves the second sum: give each value one more number, a constant 1. Whatever
# the sums do to the values they also do to that 1, so its column ends up as the sum of the weights, and we divide by
# it. `F.pad(V, (0, 1), value=1)` appends that column, and the last line takes it off again. Look at the shapes: `S`
# is all that remains of the keys and values, and no shape has two lengths of sequences in it.


# %% tags=["export"]
def linear_attention(Q: Tensor, K: Tensor, V: Tensor, phi: Callable = positive) -> Tensor:
    """The same averages Y (..., N_Q, D_V) without a table of scores."""
    V = F.pad(V, (0, 1), value=1)  # (..., N_KV, D_V + 1)
    S = phi(K).mT @ V  # (..., D_phi, D_V + 1), all that is kept of keys and values
    Y = phi(Q) @ S  # (..., N_Q, D_V + 1)
    return Y[..., :-1] / Y[..., -1:]


# %% [markdown]
# Four cases with sequences of different lengths, with and without batches and heads, in 64 and in 32 bits. Outputs
# and all gradients have to agree, up to rounding: both compute the same sums of products, only in another order. The
# tool `difference` of the set-up takes functions with a single output, so `with_scores` drops the scores.


# %%
def cases(shapes: tuple, dtype: torch.dtype):
    """Random queries, keys and values, for shapes (batch..., N_Q, N_KV, D, D_V)."""
    chance = seed(1)
    for *batch, N_Q, N_KV, D, D_V in shapes:
        sizes = (*batch, N_Q, D), (*batch, N_KV, D), (*batch, N_KV, D_V)
        yield [torch.randn(size, generator=chance, dtype=dtype).to(DEVICE) for size in sizes]


def with_scores(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Kernel attention by way of its N x N scores."""
    return kernel_attention(Q, K, V, positive)[0]


# %%
shapes = (5, 7, 3, 4), (1, 1, 1, 1), (2, 9, 4, 8, 3), (2, 3, 12, 12, 5, 5)
double = [difference(with_scores, linear_attention, *c) for c in cases(shapes, torch.float64)]
single = [difference(with_scores, linear_attention, *c) for c in cases(shapes, torch.float32)]
claim("linear attention and its table of scores, 4 cases, 64 bits", max(double), at_most=1e-12)
claim("linear attention and its table of scores, 4 cases, 32 bits", max(single), at_most=1e-4)

# %% [markdown]
# ### What the brackets save
#
# Count the multiplications, for one sequence of $N$ positions whose queries, keys and values all have $D$ numbers.
# Attention with scores needs $N^2 D$ for the products of queries and keys, $N^2$ to scale them, and $N^2 D$ to
# average the values. Linear attention needs $N D (D + 1)$ to sum up the keys and values, as many to read the sum with
# all queries, and $N D$ divisions.


# %%
def quadratic(N: int, D: int) -> int:
    """Multiplications of attention over N positions of D numbers."""
    return 2 * N**2 * D + N**2


def linear(N: int, D: int) -> int:
    """Multiplications of linear attention over N positions of D numbers."""
    return 2 * N * D * (D + 1) + N * D


# %%
sizes = [(1, 1), (16, 8), (64, 64), (200, 32), (1024, 64)]
inputs = {size: torch.rand(3, *size, device=DEVICE) for size in sizes}  # Q, K and V, each (N, D)
counted = [cost(attention, *QKV)[1] == quadratic(*size) for size, QKV in inputs.items()]
claim("attention makes 2 N² D + N² multiplications, 5 cases", all(counted))

# %%
counted = [cost(linear_attention, *QKV)[1] == linear(*size) for size, QKV in inputs.items()]
claim("linear attention makes 2 N D (D + 1) + N D, 5 cases", all(counted))

# %% [markdown]
# The `cost` of the set-up watches what PyTorch really multiplies and divides while the layer runs. Inside the
# softargmax it sees nothing, so its $N^2$ exponentials and $N^2$ divisions are left out, as are the $2 N D$
# exponentials of the features.
#
# So the one count grows with the square of $N$ and the other in step with it, and they meet where $N$ is about $D$.
# Moving the brackets pays once the sequence is longer than its vectors are wide. A head usually has 64 or 128
# numbers, and a sequence has thousands of positions.
#
# In numbers: with $D = 64$ and 1,000 positions it is 129 million multiplications against 8 million. With a million
# positions it is 129 million million against 8 thousand million, which is the difference between a day and a few
# seconds. The memory tells the same story. The table of scores of a million positions has a million million entries,
# the table of linear attention still 64 x 65.
#
# On the left below are the matrices that get multiplied first, drawn to scale. The rectangles in grey are given; the
# coloured square is the table that has to be made. Move $N$ and see the upper square outgrow everything, while the
# lower one stays. Then make $D$ large and $N$ small: now it is the lower square that is too big.


# %%
def scene(fig):
    """Left, to scale, the matrices of (Q K')V above and of Q(K'V) below. Right, both counts against N."""
    left, right = fig.subplots(1, 2, width_ratios=[5, 4])
    left.set(xlim=(0, 1080), ylim=(900, -80), aspect="equal")
    left.axis("off")
    centres = (80, 0), (410, 0), (880, 0), (210, 480), (540, 480), (800, 480)
    names, blocks = ("Q", "× Kᵀ", "= N × N matches", "Kᵀ", "× V", "= D × D"), []
    shades = (color.quiet, color.quiet, color.gradient, color.quiet, color.quiet, color.model)
    for (x, y), name, shade in zip(centres, names, shades, strict=True):
        left.text(x, y - 25, name, ha="center")
        blocks.append(left.add_patch(plt.Rectangle((0, 0), 1, 1, color=shade)))
    N_axis = torch.arange(8, 385, 8)
    curves = [right.plot(N_axis, 0 * N_axis + 1, color=shades[k])[0] for k in (2, 5)]
    dots = right.scatter([1, 1], [1, 1], s=50, color=[shades[2], shades[5]], zorder=3)
    right.text(8, 3.5e7, "(Q Kᵀ) V", color=shades[2], fontsize=14)
    right.text(8, 1e7, "Q (Kᵀ V)", color=shades[5], fontsize=14)
    right.set(xlim=(7, 410), ylim=(7e2, 1e8), xlabel="$N$", title="Multiplications")
    log_scale(right.xaxis, [8, 16, 32, 64, 128, 256])
    right.set(yscale="log")

    def update(N, D):
        shapes = (D, N), (N, D), (N, N), (N, D), (D, N), (D, D)  # width and height of each
        for block, (x, y), (width, height) in zip(blocks, centres, shapes, strict=True):
            block.set_bounds(x - width / 2, y, width, height)
        for curve, count in zip(curves, (quadratic, linear), strict=True):
            curve.set_ydata([count(n, D) for n in N_axis.tolist()])
        dots.set_offsets([(N, quadratic(N, D)), (N, linear(N, D))])
        share = linear(N, D) / quadratic(N, D)
        return f"N = {N}, D = {D}: linear attention makes {share:.2f} times as many multiplications"

    return update


# %%
knobs = {"N": slider(8, 384, 256, 8), "D": slider(8, 128, 64, 8)}
explore(scene, "4.8e", "Where the brackets are, and what it costs.", (8.5, 3.6), **knobs)

# %% [markdown]
# ### A state that grows no further
#
# Now let position $t$ see only itself and what came before, as a model of text has to. The sums then run up to $t$,
# and the sum up to $t$ is the sum up to $t - 1$ with one more term. So one can walk along the sequence with a single
# table in hand, the *state*:
#
# $$S_t = S_{t-1} + \varphi(k_t)\, v_t^\top, \qquad y_t^\top = \varphi(q_t)^\top S_t,$$
#
# with the 1 appended to each value as above, and the division by its column at the end. By adding the table
# $\varphi(k_t)\, v_t^\top$, the state files a value under its key. Queries then read from it. (In the code, indices
# with `None` make a column of the features and a row of the value, so that `*` gives this table.)
#
# A model that writes text with ordinary attention must keep the keys and values of all that it has written, for the
# next query may ask for any of them. Here they are added into the state and can be thrown away. That has a price:
# what was added up cannot always be told apart again.


# %% tags=["export"]
def recurrent_attention(Q: Tensor, K: Tensor, V: Tensor, phi: Callable = positive) -> Tensor:
    """Causal linear attention, one position after the other: averages Y (..., N, D_V)."""
    V = F.pad(V, (0, 1), value=1)  # (..., N, D_V + 1)
    S, Y = 0, []  # nothing is filed yet
    for t in range(Q.shape[-2]):
        S = S + phi(K[..., t, :, None]) * V[..., t, None, :]  # (..., D_phi, D_V + 1)
        Y.append((phi(Q[..., t, None, :]) @ S)[..., 0, :])  # (..., D_V + 1)
    Y = torch.stack(Y, dim=-2)  # (..., N, D_V + 1)
    return Y[..., :-1] / Y[..., -1:]


# %% [markdown]
# It has to be the same function as kernel attention with a triangular mask, gradients included. The two look nothing
# like each other. One is a product of matrices that treats all positions at once, as training wants it. The other is
# a loop that needs the same time and memory for every further position, as one wants it when a model writes text
# letter by letter. It is a recurrent network, in fact, of the kind that the last chapter of this companion takes up
# again.


# %%
def with_causal_scores(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Kernel attention by way of its scores, in which row i keeps its first i entries."""
    mask = torch.ones(Q.shape[-2], K.shape[-2], device=Q.device).tril()  # (N, N)
    return kernel_attention(Q, K, V, positive, mask)[0]


# %%
square = (1, 1, 2, 2), (6, 6, 3, 4), (2, 9, 9, 8, 3), (2, 3, 12, 12, 5, 5)
pair = with_causal_scores, recurrent_attention
double = [difference(*pair, *c) for c in cases(square, torch.float64)]
single = [difference(*pair, *c) for c in cases(square, torch.float32)]
claim("state form and masked scores, 4 cases, 64 bits", max(double), at_most=1e-12)
claim("state form and masked scores, 4 cases, 32 bits", max(single), at_most=1e-4)

# %% [markdown]
# What is in such a state? With the plainest of all features one can read it. Take a text of 27 symbols, the letters
# and the space, and give each symbol its own feature, which is 1 for that symbol and 0 for all others. At each
# position the *key* is the letter before, the *value* is the letter here, and the *query* is the letter here, too. In
# words: "file this letter under the one before it; then ask what has so far followed letters like this one". All are
# rows of zeros with a single one in it.

# %%
SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
play = shakespeare("train").text.partition("ORLANDO.\n")[2][:4000].lower()
text = " ".join("".join(c if c in SYMBOLS else " " for c in play).split())[:3000]
symbols = torch.tensor([SYMBOLS.index(c) for c in text])  # (T,)
one_hot = F.one_hot(symbols, 27).double().to(DEVICE)  # (T, 27)

# %% [markdown]
# The state must then be a table of counts, how often each letter came after each other one, and the answer to a query
# must be the shares in one row of it. So we count with Python, pair by pair, and compare at the first 400 positions.
# (Where a letter appears for the first time nothing is filed under it, and the answer is 0 divided by 0.)

# %%
K, Q, V = one_hot[:400], one_hot[1:401], one_hot[1:401]  # (400, 27) each
Y = recurrent_attention(Q, K, V, phi=lambda x: x)  # (400, 27), the vectors are the features
known, shares = [], []
for t in range(400):
    followers = [text[j + 1] for j in range(t + 1) if text[j] == text[t + 1]]
    if followers:
        known.append(t)
        shares.append([followers.count(c) / len(followers) for c in SYMBOLS])
expected = torch.tensor(shares, **EXACT)  # (about 380, 27)

# %%
claim("a state of one-hot keys counts pairs of letters", Y[known], equals=expected, within=1e-12)

# %% [markdown]
# Nothing was trained, and yet this layer predicts. It learns the habits of the text while it reads. Move $t$ and
# watch the table fill. After 600 letters it has found that *h* follows *t* more often than any other letter does, and
# that *u* follows *q*, which it has seen only twice. In the dark first row and column are the spaces, which begin and
# end the words. (The shades are the square roots of the counts, so that rare pairs show, too.)
#
# The second slider lets the state fade: before each step it is multiplied by a number, at first 1. With 0.95, a
# letter 20 steps back counts a third, one 60 steps back a twentieth. Since a state of fixed size cannot hold
# everything, newer variants of linear attention learn what to forget. For the picture the table is computed in one
# go, a pair that is $a$ steps old counting `keep` to the power of $a$; with `keep` at 1 it is the product $K^\top V$.

# %%
MARKS = list("·" + SYMBOLS[1:])


def state(t: int, keep: float) -> Tensor:
    """The state (27, 27) after the first t pairs of letters, when each step keeps that share of it."""
    age = torch.arange(t - 1, -1, -1, dtype=torch.float64)  # (t,)
    S = torch.zeros(27, 27, dtype=torch.float64)
    return S.index_put_((symbols[:t], symbols[1 : t + 1]), keep**age, accumulate=True)


# %%
claim("the table that is drawn is the state", state(400, 1.0).to(DEVICE), equals=K.mT @ V)


# %%
def scene(fig):
    """Left, a table of letter pairs that fills as a text is read. Right, what it predicts to come next."""
    left, right = fig.subplots(1, 2, width_ratios=[1, 1.15])
    table = left.imshow(torch.zeros(27, 27), cmap="Blues", vmin=0, vmax=1)
    row = left.add_patch(plt.Rectangle((-0.5, 0), 27, 1, fill=False, ec=color.gradient, lw=2))
    left.set_xticks(range(27), MARKS, fontsize=9)
    left.set_yticks(range(27), MARKS, fontsize=9)
    left.set(xlabel="value: this letter", ylabel="key: the letter before it")
    bars = right.bar(range(27), torch.zeros(27), color=color.model)
    right.set_xticks(range(27), MARKS)
    right.set(ylim=(0, 1.2), yticks=[0, 0.5, 1], ylabel="predicted share")
    right.set_title("Read so far, and what is expected next")
    for ax in (left, right):
        ax.tick_params(length=0)
    read = right.text(26.4, 1.12, "", ha="right", family="DejaVu Sans Mono", fontsize=10.5)
    comes = right.text(0, 0, "", ha="center", color=color.truth)

    def update(t, keep):
        S, last, coming = state(t, keep), symbols[t].item(), symbols[t + 1].item()
        total = S[last].sum()
        shares = S[last] / total if total > 0 else torch.zeros(27)
        table.set_data((S / S.max()).sqrt())
        row.set_y(last - 0.5)
        for k, (bar, share) in enumerate(zip(bars, shares.tolist(), strict=True)):
            bar.set_height(share)
            bar.set_color(color.truth if k == coming else color.model)
        read.set_text(text[max(0, t - 31) : t + 1].replace(" ", "·"))
        comes.set_position((coming, shares[coming] + 0.03))
        comes.set_text("comes")
        said = f"after {MARKS[last]} comes {MARKS[coming]}"
        return f"t = {t}: {said}, which the state gives a share of {shares[coming]:.2f}"

    return update


# %%
knobs = {"t": slider(1, 2990, 621), "keep": slider(0.9, 1.0, 1.0, 0.005)}
explore(scene, "4.8f", "The state of linear attention, reading Shakespeare.", (8.5, 4.1), **knobs)

# %% [markdown]
# ### How near the softargmax?
#
# Linear attention is a layer of its own; it does not imitate the softargmax. Could it? We need features whose product
# is the exponential, $\varphi(q) \cdot \varphi(k) = e^{q \cdot k}$. Two constructions come near.
#
# The first is the series of the exponential, $e^x = 1 + x + x^2/2 + x^3/6 + \dots$, broken off at some order. Its
# terms can be had from features. The products of two coordinates, $x_a x_b$ for all $a$ and $b$, do it for the
# square: $\sum_{a, b} q_a q_b\, k_a k_b = (q \cdot k)^2$. In the same way, the products of $m$ coordinates give the
# power $m$. Each order comes from the one before it, by multiplying with all coordinates once more; dividing by
# $\sqrt{m}$ on both sides makes the factorial.


# %%
def series(x: Tensor, order: int) -> Tensor:
    """Features (..., 1 + D + D² + ...) of x (..., D) whose product is the series of exp up to an order."""
    parts = [torch.ones_like(x[..., :1])]
    for m in range(1, order + 1):
        products = parts[-1][..., :, None] * x[..., None, :]  # (..., D**(m - 1), D)
        parts.append(products.flatten(-2) / math.sqrt(m))
    return torch.cat(parts, dim=-1)


# %%
chance = seed(2)
Q, K, V = torch.randn(3, 64, 4, generator=chance, dtype=torch.float64).to(DEVICE)  # (64, 4) each
by_features = torch.stack([series(Q, order) @ series(K, order).mT for order in range(5)])
powers = torch.stack([(Q @ K.mT) ** m / math.factorial(m) for m in range(5)])  # (5, 64, 64)
claim(
    "features of order 0 to 4 give the series of exp",
    by_features,
    equals=powers.cumsum(0),
    within=1e-9,
)

# %% [markdown]
# The second construction is *random features* (Choromanski et al., 2021). Draw directions $w_1, \dots, w_R$ from the
# normal distribution, and let feature $r$ be $e^{w_r \cdot x - |x|^2 / 2}$. The product of two such features, that of
# $q$ and that of $k$, averaged over all directions there are, is exactly $e^{q \cdot k}$. With $R$ directions we
# divide each feature by $\sqrt{R}$; then the sum of the $R$ products is their mean. It is right on average, and less
# noisy the more directions there are. And all are positive, while a series that ends with an odd power can turn
# negative, and then its weights are no longer an average.


# %%
def random_features(x: Tensor, w: Tensor) -> Tensor:
    """Positive features (..., R) of x (..., D) for directions w (R, D); on average their product is exp."""
    return torch.exp(x @ w.mT - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(w))


# %% [markdown]
# Is the average right? For six short queries and keys, and 200,000 directions, it must be close to the exponential.

# %%
w = torch.randn(200_000, 4, generator=chance, dtype=torch.float64).to(DEVICE)
queries, keys = Q[:6] / 3, K[:6] / 3  # (6, 4) each
on_average = random_features(queries, w) @ random_features(keys, w).mT  # (6, 6)
off = (on_average / (queries @ keys.mT).exp() - 1).abs().max()
claim("200,000 random features are off exp by a share of", off, at_most=0.03)

# %% [markdown]
# We let both imitate the attention of 64 random queries over 64 keys, of 4 numbers each. How far is each output from
# that of the softargmax, as a share of its length? We take the median over the queries, and for random features over
# 20 draws of the directions as well. For the factor $1 / \sqrt{D}$, queries and keys are divided by $D^{1/4}$ each.


# %%
def miss(Q: Tensor, phi: Callable) -> float:
    """Distance of linear attention with these features from attention itself, relative; the median."""
    exact, scale = attention(Q, K, V)[0], Q.shape[-1] ** 0.25
    distance = (linear_attention(Q / scale, K / scale, V, phi) - exact).norm(dim=-1)  # (64,)
    return (distance / exact.norm(dim=-1)).median().item()


# %%
by_order = [miss(Q, lambda x, n=n: series(x, n)) for n in range(7)]
sharper = [miss(5 * Q, lambda x, n=n: series(x, n)) for n in range(7)]

# %%
by_chance = []
for R in (1, 4, 16, 64, 256, 1024, 4096):
    draws = torch.randn(20, R, 4, generator=chance, dtype=torch.float64).to(DEVICE)
    each = [miss(Q, lambda x, w=w: random_features(x, w)) for w in draws]
    by_chance.append(torch.tensor(each).median().item())

# %%
claim("order 6 misses the softargmax by a share of", by_order[6], at_most=0.02)
claim("4096 random features miss more than order 5, times", by_chance[6] / by_order[5], at_least=5)
claim("order 6, with queries 5 times as long, misses it by", sharper[6], at_least=0.2)

# %%
widths = [sum(4**m for m in range(n + 1)) for n in range(7)]
first = "series", widths, by_order, color.model
second = "series, long queries", widths, sharper, "#77aacc"
third = "random features", [4**k for k in range(7)], by_chance, color.gradient

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), width_ratios=[2, 3])
x = torch.linspace(-3, 3, 200)
left.plot(x, x.exp(), color=color.truth, lw=3)
left.text(3.1, 19.6, "exp", color=color.truth)
for n in (1, 2, 4):
    curve = sum(x**m / math.factorial(m) for m in range(n + 1))  # (200,)
    left.plot(x, curve, color=color.model, lw=1.2)
    left.text(3.1, curve[-1] - 0.4, f"order {n}", color=color.model)
left.set(xlim=(-3, 4.9), ylim=(-3, 21), xticks=[-3, 0, 3], xlabel="product of query and key")
for name, at, values, shade in (first, second, third):
    right.plot(at, values, "o-", color=shade, ms=4, lw=1.5)
    right.text(at[-1] * 1.35, values[-1], name, color=shade, va="center")
right.set(xlim=(0.8, 200_000), ylim=(0.003, 3), xlabel="number of features", title="Share missed")
log_scale(right.xaxis, [1, 10, 100, 1000, 10000])
log_scale(right.yaxis, [0.01, 0.1, 1])
said = f"With series of order 0 to 6 the outputs miss by {by_order[0]:.3f} to {by_order[6]:.3f}, "
said += f"with 1 to 4096 random features by {by_chance[0]:.3f} to {by_chance[6]:.3f}, "
said += f"and with queries 5 times as long still by {sharper[6]:.3f} at order 6."
figure("4.8g", "Imitating the exponential, and attention, with features.", said)

# %% [markdown]
# The series does well: order 5 comes within 2 % (and has 1,365 features, many of them equal). Random features improve
# with their number, but slowly, and 4,096 of them are not there yet. This is the comparison in 4 dimensions. In 64,
# the series of order 2 has 4,161 features already and that of order 4 has 17 million, while one may have as many
# random features as one likes. And the pale curve tells what the imitation costs where attention is at its most
# useful: with queries 5 times as long the scores are sharp, a query picks out few keys, and even order 6, with its
# 5,461 features, misses by two fifths. So in practice linear attention uses simple features and lets the training
# find queries and keys that suit them. Whether it does, we try now.
#
# ### Matching, learned
#
# The book introduces attention with a task: a value is to be averaged over all positions where the keys match. Here
# it is with real data. A row consists of 10 images of handwritten digits, and each comes with a number between −1 and
# 1, its *tag*. The target at each position is the average of the tags of all images in the row that show the same
# digit, its own included. To make matches frequent, the digits of a row are of 4 kinds only, drawn anew for each row.
#
# The function below draws rows. It gives the numbers of the images in the data set, the tags, and a table `ideal` of
# the weights that the averages have: $1 / n$ where two positions show the same digit, if $n$ positions do, and 0
# elsewhere. All digits are to be equally frequent, so the rows draw from `each` images of every digit, as many as
# there are of the rarest. The model will see the images and the tags, and be told the averages. It is never told
# which digit an image shows.


# %%
def draw_rows(labels: Tensor, count: int, N: int, generator: torch.Generator):
    """Rows of N images of 4 kinds: their numbers, tags, each (count, N), and the ideal scores (count, N, N)."""
    each = labels.bincount().min().item()
    places = torch.stack([(labels == k).nonzero()[:each, 0] for k in range(10)])  # (10, each)
    kinds = torch.rand(count, 10, generator=generator).argsort(1)[:, :4]  # (count, 4)
    digits = kinds.gather(1, torch.randint(4, (count, N), generator=generator))  # (count, N)
    chosen = places[digits, torch.randint(each, (count, N), generator=generator)]  # (count, N)
    tags = 2 * torch.rand(count, N, generator=generator) - 1  # (count, N)
    same = (digits[:, :, None] == digits[:, None, :]).float()  # (count, N, N)
    return chosen.to(DEVICE), tags.to(DEVICE), (same / same.sum(2, keepdim=True)).to(DEVICE)


# %%
images, labels = mnist("train")
images_new, labels_new = mnist("test")
chosen, tags, ideal = draw_rows(labels, 8000, 10, seed(3))
target = (ideal @ tags[..., None])[..., 0]  # (8000, 10)

# %% [markdown]
# Is that the task? For the first hundred rows we work it out word for word.

# %%
averages = torch.zeros(100, 10, device=DEVICE)
for r in range(100):
    digits = labels[chosen[r].cpu()]  # (10,)
    for n in range(10):
        averages[r, n] = tags[r, (digits == digits[n]).to(DEVICE)].mean()

# %%
claim("targets, averaged word for word", target[:100], equals=averages, within=1e-6)

# %% [markdown]
# Two lines of the function above deserve a second look. `argsort` of random numbers is a random order, so its first
# four entries are four different kinds of digit. And `digits[:, :, None] == digits[:, None, :]` compares every
# position of a row with every other, which gives a table of yes and no; divided by the sums of its rows it is the
# ideal.
#
# The images are halved in size, to 14 x 14 pixels, which makes the training four times quicker, and go through a
# small network of fully connected layers with ReLU, the same network at every position. From its output come the
# query and the key of the position. The values are the tags. One attention layer, and that is all: what comes out of
# it *is* the prediction. In the code, the 32 numbers of the encoder are cut in half by `chunk`: the first 16 are the
# query, the others the key. The tags get a last dimension of size one, as values of one number each. The function
# that averages is an argument, so that we can exchange it.

# %%
small = F.avg_pool2d(images, 2).flatten(1).to(DEVICE)  # (8000, 196)
small_new = F.avg_pool2d(images_new, 2).flatten(1).to(DEVICE)  # (2000, 196)


def encoder(D: int) -> nn.Module:
    """A network from the 196 pixels of an image to D numbers."""
    hidden = nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(128, D))


# %%
class Matching(nn.Module):
    """Queries and keys from images (B, N, 196), values from tags (B, N): averages of the tags (B, N)."""

    def __init__(self, average: Callable):
        super().__init__()
        self.encoder, self.average = encoder(32), average

    def forward(self, images: Tensor, tags: Tensor) -> Tensor:
        Q, K = self.encoder(images).chunk(2, dim=-1)  # (B, N, 16) each
        return self.average(Q, K, tags[..., None])[..., 0]  # (B, N)


# %% [markdown]
# What would be the alternatives? The same encoder, so that each position has 16 numbers from its image and one from
# its tag, and then one of the layers that we had before. Three *convolutions* along the row, with kernels of size 5:
# each output then sees 6 positions to either side (at the ends of the row up to three positions are out of sight; the
# fully connected layers see all). Or two *fully connected* layers from all 170 numbers to the 10 predictions. Both
# have more weights than the model with attention: the encoder is the same but for its last layer, and their mixers
# have more than 20,000 weights on top. An attention layer has none at all, beyond those that make its queries and
# keys.


# %%
class WithoutAttention(nn.Module):
    """The encoder, with 16 outputs, and a mixer from the positions and their 17 numbers to the predictions (B, N)."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.encoder, self.mixer = encoder(16), mixer

    def forward(self, images: Tensor, tags: Tensor) -> Tensor:
        x = torch.cat([self.encoder(images), tags[..., None]], dim=-1)  # (B, N, 17)
        return self.mixer(x.mT).flatten(1)  # (B, 17, N) goes in, (B, N) comes out


# %%
def convolutions() -> nn.Module:
    """Three convolutions along the row, kernel size 5."""
    first, second = nn.Conv1d(17, 64, 5, padding=2), nn.Conv1d(64, 64, 5, padding=2)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv1d(64, 1, 5, padding=2))


def fully_connected() -> nn.Module:
    """Two fully connected layers over all positions of a row of 10 at once."""
    return nn.Sequential(nn.Flatten(), nn.Linear(170, 128), nn.ReLU(), nn.Linear(128, 10))


# %% [markdown]
# All are trained in the same way: four times through the 8,000 rows, 128 at a time, with the mean squared error,
# Adam, and a learning rate that rises to 0.01 and falls again to nearly nothing (`OneCycleLR`, a schedule of the kind
# of section 3.6). The images themselves are fetched by their numbers only when a batch needs them. Attention gives
# its prediction as a pair, together with the scores; `[0]` takes the prediction.


# %%
def attend(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Attention without its scores."""
    return attention(Q, K, V)[0]


def squared_error(model: nn.Module, chosen: Tensor, tags: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the predictions for some rows."""
    return F.mse_loss(model(small[chosen], tags), target)


# %%
def train(model: nn.Module, label: str, epochs: int = 4) -> nn.Module:
    """The model on DEVICE, trained on the 8,000 rows."""
    model, data = model.to(DEVICE), batches(chosen, tags, target, size=128)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * len(data))
    fit(model, data, squared_error, optimizer, epochs, schedule, label=label)
    return model


# %%
seed(5)
with_attention = train(Matching(attend), "attention")
with_linear = train(Matching(linear_attention), "linear attention")
with_convolution = train(WithoutAttention(convolutions()), "convolutions")
with_full = train(WithoutAttention(fully_connected()), "fully connected")

# %% [markdown]
# The judge is 1,000 rows of digits that no model has seen. As in chapter 1 we ask which share of the variance is
# *explained*: 1 if all targets are met, 0 if one does no better than the mean. Somebody who sees no other position
# can still do something, namely predict a part of each position's own tag, since it is one of those averaged. The
# best such part, found by least squares, is the yardstick.


# %%
def explained(predict: Callable, N: int = 10) -> float:
    """Share of the variance of the targets explained, on 1,000 rows of N test images."""
    chosen, tags, ideal = draw_rows(labels_new, 1000, N, seed(4))
    target = (ideal @ tags[..., None])[..., 0]  # (1000, N)
    with torch.no_grad():
        miss = (predict(small_new[chosen], tags) - target).square().mean()
    return 1 - (miss / target.var()).item()


# %%
models = with_attention, with_linear, with_convolution, with_full
weights = [sum(p.numel() for p in model.parameters()) for model in models]
claim("the models without attention have more weights", max(weights[:2]) < min(weights[2:]))

# %%
part = (tags * target).sum() / tags.square().sum()
print(f"own tag times {part:.2f}: {explained(lambda images, tags: part * tags):.2f} explained")

# %%
claim("matching: explained with attention", explained(with_attention), at_least=0.85)
claim("matching: explained with linear attention", explained(with_linear), at_least=0.75)
claim("matching: explained with convolutions", explained(with_convolution), at_most=0.55)
claim("matching: explained with full connections", explained(with_full), at_most=0.55)

# %% [markdown]
# With attention nearly everything is explained; what is missing are digits that the small encoder misreads. Linear
# attention comes close, without ever making a table of scores. The others gain a tenth over the yardstick and get
# stuck, for a good reason. The weights of a convolution, or of a fully connected layer, belong to *places*: this much
# from two positions to the left. But which position matters is a question of what stands there, and is different in
# every row. They would have to learn a case for every arrangement of digits. In an attention layer the weights of the
# average are computed from the content, anew for each row.
#
# Here is one row of digits never seen, its tags as bars, and what should come out (green lines). Below are the
# weights of the averages, dark for large: the ideal ones, and those that the two models with attention have found.
# For linear attention the table is made only for this picture.

# %%
row, tags_row, ideal_row = draw_rows(labels_new, 1, 10, seed(15))  # (1, 10), (1, 10), (1, 10, 10)
tables = {"ideal": ideal_row[0].cpu()}  # (10, 10) each
with torch.no_grad():
    predicted = {
        m: m(small_new[row], tags_row)[0].cpu() for m in (with_attention, with_convolution)
    }
    Q, K = with_attention.encoder(small_new[row[0]]).chunk(2, dim=-1)  # (10, 16) each
    tables["attention"] = attention(Q, K, K)[1].cpu()
    Q, K = with_linear.encoder(small_new[row[0]]).chunk(2, dim=-1)
    tables["linear attention"] = kernel_attention(Q, K, K, positive)[1].cpu()

# %% [markdown]
# The upper part of the picture is drawn by a function: the images, the tags as bars, and over them, for each
# position, the target as a green line, the prediction with attention as a dot (●) and that with convolutions as a
# diamond (◆).


# %%
def draw_row(top) -> None:
    """A row of digits and tags, with targets and the predictions of two models."""
    here, strip = torch.arange(10), torch.cat([*images_new[row[0].cpu(), 0]], dim=1)  # (28, 280)
    top.imshow(1 - strip, extent=(-0.5, 9.5, 1.1, 2.1), vmin=0, vmax=1)
    top.bar(here, tags_row[0].cpu(), width=0.8, color="#dddddd")
    truth = (ideal_row @ tags_row[..., None])[0, :, 0].cpu()  # (10,)
    top.hlines(truth, here - 0.4, here + 0.4, color=color.truth, lw=2.5)
    top.plot(here - 0.15, predicted[with_attention], "o", color=color.model, ms=6)
    top.plot(here + 0.15, predicted[with_convolution], "D", color=color.gradient, ms=5)
    names = ("tag", "#777777"), ("target", color.truth), ("● attention", color.model)
    for k, (name, shade) in enumerate((*names, ("◆ convolutions", color.gradient))):
        top.text(9.6, 0.75 - 0.35 * k, name, color=shade)
    top.set(xlim=(-0.6, 11.4), ylim=(-1.1, 2.15), xticks=[], yticks=[-1, 0, 1])
    top.spines["bottom"].set_visible(False)
    top.spines["left"].set_bounds(-1, 1)


# %%
fig = plt.figure(figsize=(8.5, 5.2))
grid, here = fig.add_gridspec(2, 3, height_ratios=[1.1, 1]), torch.arange(10)
draw_row(fig.add_subplot(grid[0, :]))
digits = labels_new[row[0].cpu()].tolist()
for k, (name, table) in enumerate(tables.items()):
    ax = fig.add_subplot(grid[1, k], title=name, xlabel="keys", ylabel="queries")
    ax.imshow(table, cmap="Blues", vmin=0, vmax=0.6)
    ax.set_xticks(here, digits)
    ax.set_yticks(here, digits)
said = f"Digits {digits}. Attention is mostly closer to the targets than the convolutions are. "
said += "The tables of scores resemble the ideal one: darkest where the digits are the same."
caption = "A row of new digits with tags; predictions; weights of the averages."
figure("4.8h", caption, said, held="trained")

# %% [markdown]
# The dots lie on the lines, except for the 3s. Attention does not recognize the slanted one: the query of that 3
# finds mostly itself, the other two 3s hardly find it, and so the prediction misses on all three. Linear attention
# reads this row better, as its table shows, though over the 1,000 rows it is slightly worse. The diamonds know little
# more than the tag of their own position: under the fourth 1, whose tag is negative, the convolutions predict a
# negative number, too, where the target is clearly positive.
#
# How much of the attention of a query goes to images of its own digit? Averaged over 1,000 rows, nine tenths. Nothing
# but averages of tags was given for that. The encoder had to discover which images are of one kind, because images of
# one kind in a row share their averages.

# %%
chosen, tags, ideal = draw_rows(labels_new, 1000, 10, seed(6))
with torch.no_grad():
    Q, K = with_attention.encoder(small_new[chosen]).chunk(2, dim=-1)  # (1000, 10, 16) each
    A = attention(Q, K, tags[..., None])[1]  # (1000, 10, 10)

# %%
on_same = (A * (ideal > 0)).sum(-1).mean()
claim("share of the attention that goes to the same digit", on_same, at_least=0.85)

# %% [markdown]
# It learned the ten digits in fact, and we can use that. Keep the queries and keys, and exchange the values: let each
# of the 2,000 test images attend to 4,000 training images whose values are their *labels*, as rows with a single 1.
# The average is a guess at the label. The row now has 4,000 positions instead of 10, the values 10 numbers instead of
# one, and the layer does not mind. No weight was told a label (in the training, the labels entered only through the
# averages), and still it classifies.

# %%
with torch.no_grad():
    Q = with_attention.encoder(small_new)[:, :16]  # (2000, 16)
    K = with_attention.encoder(small[:4000])[:, 16:]  # (4000, 16)
    guess = attention(Q, K, F.one_hot(labels[:4000], 10).float().to(DEVICE))[0]  # (2000, 10)

# %%
accuracy = (guess.argmax(1).cpu() == labels_new).double().mean()
claim("digits classified by matching, accuracy", accuracy, at_least=0.88)

# %% [markdown]
# In longer rows, too, it still works. With 20 and 30 positions there are more images to find and more to confuse, and
# the targets vary less, so that the same slips weigh more. The fully connected layers cannot even be asked, since
# they have weights for 10 positions. The convolutions can, and explain about a tenth in rows of 20, less than the
# yardstick for such rows, about a fifth.

# %%
claim("explained with attention, rows of 20", explained(with_attention, N=20), at_least=0.8)
claim("explained with attention, rows of 30", explained(with_attention, N=30), at_least=0.78)

# %%
_, tags_20, ideal_20 = draw_rows(labels, 8000, 20, seed(3))
target_20 = (ideal_20 @ tags_20[..., None])[..., 0]  # (8000, 20)
part = (tags_20 * target_20).sum() / tags_20.square().sum()
own_tag = explained(lambda images, tags: part * tags, N=20)
print(f"rows of 20, own tag times {part:.2f}: {own_tag:.2f} explained")

# %%
claim("explained with convolutions, rows of 20", explained(with_convolution, N=20), at_most=own_tag)

# %% [markdown]
# And an attention layer does not know where anything is. Shuffle the positions of a row, images and tags together.
# The predictions are shuffled in the same way and do not change otherwise. A layer with this property is called
# *equivariant* to permutations. For this task it is ideal. For a sentence it is not, and section 4.10 is about what
# to do then. The convolutions have no such property: some of their predictions change.

# %%
order = torch.randperm(10, generator=seed(7)).to(DEVICE)
with torch.no_grad():
    moved = with_attention(small_new[chosen[:, order]], tags[:, order])  # (1000, 10)
    unmoved = with_attention(small_new[chosen], tags)
    change = with_convolution(small_new[chosen[:, order]], tags[:, order])
    change = (change - with_convolution(small_new[chosen], tags)[:, order]).abs().max()

# %%
claim("shuffled rows, predictions of attention", moved, equals=unmoved[:, order], within=1e-4)
claim("shuffled rows, largest change with convolutions", change, at_least=0.1)

# %% [markdown]
# Now the matrix live, on test images. The upper digits are the keys, with their tags as bars, the lower ones the
# queries; the lines from the chosen query are as thick as its scores. Under the queries, the bar is what the layer
# predicts and the green line the target. Exchange the first digit with another: row and column of the matrix move
# with it, for the scores go by content. Raise the temperature, by which all matches are divided before the
# softargmax: the attention spreads until the prediction is the mean of all tags. At a low temperature it goes to a
# single position, often not the query's own. In row 1, take each of the four sixes as the query in turn: the lines
# lead to the same four digits from wherever one starts, with a faint fifth line to an 8, and the four rows of the
# matrix look alike. Where the layer misses its target, look for the line that should not be there, or for the one
# that is missing; it is usually a digit that a person would have to look at twice. And hide positions from the right,
# with a mask: what is hidden gets the score 0, and the other scores of each row grow to fill the gap. (The green
# target stays that of the whole row.)

# %%
places, tags_shown, ideal_shown = (x.cpu() for x in draw_rows(labels_new, 12, 10, seed(9)))
with torch.no_grad():
    Q_shown, K_shown = with_attention.encoder(small_new[places.to(DEVICE)]).cpu().chunk(2, dim=-1)


def exchanged(row: int, other: int) -> list[Tensor]:
    """Queries, keys (10, 16), tags, targets (10,) and places of a row, its first and another position exchanged."""
    order = torch.arange(10)
    order[[0, other]] = order[[other, 0]]
    targets = (ideal_shown[row] @ tags_shown[row, :, None])[:, 0]  # (10,)
    return [x[order] for x in (Q_shown[row], K_shown[row], tags_shown[row], targets, places[row])]


# %%
def scene(fig):
    """Left, a row of digits as keys with tags, again as queries, and lines between. Right, the matrix of scores."""
    left, right = fig.subplots(1, 2, width_ratios=[9, 5])
    for name, y in (("tags", 5), ("keys", 3.3), ("queries", 0.3), ("predicted", -1.1)):
        left.text(-0.8, y, name, ha="right", color="#777777")
    blank, here = torch.ones(28, 280), torch.arange(10)
    above = left.imshow(blank, extent=(-0.5, 9.5, 3, 4), vmin=0, vmax=1)
    below = left.imshow(blank, extent=(-0.5, 9.5, 0, 1), vmin=0, vmax=1)
    left.set(xlim=(-2.6, 9.6), ylim=(-1.95, 6.25), aspect="auto")
    left.axis("off")
    lines = left.vlines(here, 1, 3, color=color.model, alpha=0.8)
    tag_bars = left.vlines(here, 5.2, 5.2, color=color.quiet, lw=22)
    bars = left.vlines(here, 0, 0, color=color.model, lw=22)
    marks = left.hlines(here, 0, 1, color=color.truth, lw=2.5)
    frame = left.add_patch(plt.Rectangle((0, 0), 1, 1, fill=False, ec=color.weights, lw=2))
    matrix = right.imshow(torch.zeros(10, 10), cmap="Blues", vmin=0, vmax=0.6)
    line = right.add_patch(plt.Rectangle((-0.5, 0), 10, 1, fill=False, ec=color.weights, lw=2))
    right.set(xticks=[0, 9], yticks=[0, 9], xticklabels=[1, 10], yticklabels=[1, 10])
    right.set(xlabel="keys", ylabel="queries", title="Scores")

    def update(row, query, exchange_first_with, temperature, visible):
        Q, K, tags, targets, shown = exchanged(row - 1, exchange_first_with - 1)
        Y, A = attention(Q / temperature, K, tags[:, None], here < visible)  # (10, 1), (10, 10)
        ink, pale = images_new[shown, 0], torch.where(here < visible, 1, 0.15)  # (10, 28, 28)
        below.set_data(1 - torch.cat([*ink], dim=1))
        above.set_data(1 - torch.cat([*ink * pale[:, None, None]], dim=1))
        lines.set_segments([[(query - 1, 1), (k, 3)] for k in here])
        lines.set_linewidths(9 * A[query - 1])
        tag_bars.set_segments([[(k, 5.2), (k, 5.2 + tags[k])] for k in here])
        bars.set_segments([[(k, -0.95), (k, Y[k, 0] - 0.95)] for k in here])
        marks.set_segments(
            [[(k - 0.4, y - 0.95), (k + 0.4, y - 0.95)] for k, y in enumerate(targets)]
        )
        frame.set_xy((query - 1.5, 0))
        line.set_y(query - 1.5)
        matrix.set_data(A)
        large = (A[query - 1] > 0.05).sum()
        return f"position {query}, a {labels_new[shown[query - 1]]}: {large} scores above 0.05"

    return update


# %%
what = {"row": slider(1, 12, 1), "query": slider(1, 10, 1)}
how = {"temperature": slider(0.1, 10, 1.0, log=True), "visible": slider(1, 10, 10)}
moves = {"exchange_first_with": slider(1, 10, 1)}
caption = "The matrix of a trained attention layer, on digits never seen."
explore(scene, "4.8i", caption, (8.5, 3.9), held="trained", **what, **moves, **how)

# %% [markdown]
# **Exercise.** One step of linear attention in its state form. The state `S`, of shape (D_phi, D_V + 1), holds what
# has been filed so far; its last column belongs to the constant 1 that each value gets appended. Write the function
# that takes the state and the features of one query and one key, already computed, and one value. It returns the
# output for this position, (D_V,), and the state after it. First file, then read: a position sees its own value, too.


# %% tags=["exercise"]
def state_step(S: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output (D_V,) and the new state, for S (D_phi, D_V + 1), features q, k (D_phi,) and v (D_V,)."""
    raise NotImplementedError


def walk(step: Callable, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """The outputs (N, D_V) of a step repeated along a sequence, from an empty state."""
    S, Y = torch.zeros(K.shape[1], V.shape[1] + 1, dtype=V.dtype), []
    for q, k, v in zip(positive(Q), positive(K), V, strict=True):
        y, S = step(S, q, k, v)
        Y.append(y)
    return torch.stack(Y)


chance = seed(8)
some = [torch.randn(6, D, generator=chance, dtype=torch.float64) for D in (3, 3, 2)]  # Q, K, V
one, two, empty = torch.tensor([1.0, 0.0]), torch.tensor([2.0]), torch.zeros(2, 2)
check(
    state_step,
    ("the first output is the first value", lambda g: (g(empty, one, one, two)[0], two)),
    (
        "key (1, 0), value 2: row (2, 1)",
        lambda g: (g(empty, one, one, two)[1][0], torch.tensor([2.0, 1.0])),
    ),
    (
        "step by step it is recurrent_attention",
        lambda g: (walk(g, *some), recurrent_attention(*some)),
    ),
)


# %% tags=["solution", "hide-input"]
def state_step(S: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """File the value and its 1 under the key, then read with the query, and divide by what the ones became."""
    S = S + k[:, None] * F.pad(v, (0, 1), value=1)  # (D_phi, D_V + 1)
    y = q @ S  # (D_V + 1,)
    return y[:-1] / y[-1], S


# %% [markdown]
# ## 4.9 Token embedding
#
# A network computes with vectors, and text is not made of vectors. It is made of letters, words or pieces of words,
# each one of a fixed list of $V$ possible ones. Such an item is called a *token*, and all that a computer has of it
# is its place in the list, a whole number from 0 to $V - 1$. The number itself means nothing. If the blank is 0 and
# "a" is 1, then "b" is 2 and "y" is 25, and no sum or product of the two is of any use.
#
# So we give each token a vector of its own, with $D$ numbers, and let the training find them. The vectors are the
# rows of a table $M$ of shape $V \times D$. An **embedding layer** does one thing: it looks rows up. For token
# numbers $X$ in a tensor of any shape, its output has one dimension more,
#
# $$Y[n, t] = M[X[n, t]],$$
#
# with a whole row of $M$ in place of every number. All $V D$ entries of the table are trainable parameters.
#
# First word for word, a list of rows; then as PyTorch lets us write it, since a tensor of whole numbers in square
# brackets picks rows.


# %%
def word_for_word(tokens: Tensor, M: Tensor) -> Tensor:
    """One row of the table after the other."""
    rows = [M[token] for token in tokens.flatten().tolist()]
    return torch.stack(rows).reshape(*tokens.shape, -1)  # (..., D)


# %% tags=["export"]
def embedding(tokens: Tensor, M: Tensor) -> Tensor:
    """The rows of the table M (V, D) that the whole numbers tokens (...) name: (..., D)."""
    return M[tokens]  # (..., D)


# %% [markdown]
# Both must agree with PyTorch's own, and so must the gradients that training will ask for. We try it on tables of
# random sizes, and on tokens of shapes from a single one to a batch of batches. In 64 bits all three are the same to
# the last digits. In 32 bits they copy the same numbers, too, but a row that was used several times adds its
# gradients up, and a sum in another order rounds differently.
#
# `difference` of the set-up cell calls two functions on the same table, and returns the largest difference of their
# outputs and of the gradients with respect to the table. (`partial(f, tokens)` is the function `f` with its first
# argument already filled in, so that the table is what remains.) An empty shape, `()`, stands for a single token
# without any list around it.

# %%
chance, worst = seed(1), {torch.float64: 0.0, torch.float32: 0.0}
for shape in ((), (7,), (3, 5), (2, 3, 4), (1, 50)) * 4:
    V, D = torch.randint(1, 12, (2,), generator=chance).tolist()
    tokens = torch.randint(V, shape, generator=chance).to(DEVICE)  # (...)
    for dtype in worst:
        M = torch.randn(V, D, generator=chance).to(DEVICE, dtype)  # (V, D)
        for ours in (word_for_word, embedding):
            gap = difference(partial(ours, tokens), partial(F.embedding, tokens), M)
            worst[dtype] = max(worst[dtype], gap)

# %%
claim("20 lookups and torch's: outputs, gradients", worst[torch.float64], at_most=1e-13)
claim("the same in 32 bits", worst[torch.float32], at_most=1e-5)

# %% [markdown]
# What does the gradient look like? The output repeats rows of the table, so the slopes of the output go back to the
# rows they came from. Take the six letters of "banana" and a table of 27 vectors, one for the blank and one for each
# letter. The row of "a" was used three times, and receives the sum of three slopes. The rows of "b" and "n" get
# theirs. The other 24 rows had no part in the output, so their gradient is zero, and a step of plain gradient descent
# moves only the tokens that occurred in the batch. (Adam of section 3.3 averages over earlier gradients, and lets a
# row roll on for some steps.) A rare word is a word that is rarely trained.

# %%
ALPHABET = " abcdefghijklmnopqrstuvwxyz"
banana = torch.tensor([ALPHABET.index(letter) for letter in "banana"], device=DEVICE)  # (6,)
print("banana is", banana.tolist())
M = torch.randn(27, 4, generator=seed(2)).to(**EXACT).requires_grad_()  # (27, 4)
slopes = torch.rand(6, 4, generator=seed(3)).to(**EXACT)  # (6, 4)
embedding(banana, M).backward(slopes)

# %%
of_a = slopes[1] + slopes[3] + slopes[5]  # (4,)
claim("the gradient of a adds up three slopes", M.grad[1], equals=of_a, within=1e-15)
touched = (M.grad != 0).any(1).nonzero()[:, 0]  # the rows with a gradient
claim("only the rows of a, b and n have a gradient", touched.tolist() == [1, 2, 14])

# %% [markdown]
# PyTorch's layer knows one extra. Texts of a batch have different lengths, and the short ones are filled up with a
# token that means nothing. Named as `padding_idx`, its row starts at zero and never learns. By hand: use a copy of
# that row through which no gradient flows, which is what `detach` makes. Here we let "a" be that token.


# %%
def with_padding(M: Tensor) -> Tensor:
    """The vectors of banana, from a table whose row 1 is not trained."""
    frozen = torch.arange(len(M), device=M.device)[:, None] == 1  # (V, 1)
    return embedding(banana, torch.where(frozen, M.detach(), M))


# %%
gap = difference(with_padding, lambda M: F.embedding(banana, M, padding_idx=1), M)
claim("a row that does not learn, and torch's padding_idx", gap, at_most=1e-13)

# %% [markdown]
# ### A matrix product that nobody computes
#
# In theory an embedding layer is nothing new. Write token $v$ as a *one-hot* vector, $V$ numbers that are all 0 but
# for a single 1 in place $v$. The product of this vector with the matrix $M$ multiplies every row by 0, except row
# $v$, which it multiplies by 1. So an embedding layer is a fully connected layer without bias, as in section 4.2, on
# inputs that happen to be one-hot. Every number agrees to the last bit, and the gradients agree, too.


# %%
def by_product(tokens: Tensor, M: Tensor) -> Tensor:
    """The same rows, through a product of matrices."""
    return F.one_hot(tokens, len(M)).to(M) @ M  # (N, V) @ (V, D) = (N, D)


# %%
values = M.detach()  # (27, 4)
claim("one-hot times matrix", by_product(banana, values), equals=embedding(banana, values))
gap = difference(lambda M: by_product(banana, M), lambda M: embedding(banana, M), values)
claim("one-hot times matrix: gradients", gap, at_most=1e-13)

# %% [markdown]
# Then why have a layer of its own? Because the product makes $N V D$ multiplications for $N$ tokens, and all but
# $N D$ of them are by zero. The lookup makes none at all. Count it for a real table, the GloVe vectors of the 20,000
# most frequent English words with $D = 50$, and a line of ten words. The table has a million parameters.

# %%
words, vectors = glove(DEVICE)  # 20,000 words, (20000, 50)
number = {word: k for k, word in enumerate(words)}
text = "to be or not to be that is the question"
line = text.split()
tokens = torch.tensor([number[word] for word in line], device=DEVICE)  # (T,)
lookup = nn.Embedding.from_pretrained(vectors, freeze=False)

# %%
parameters, multiplications = cost(lookup, tokens)
claim("parameters of the word table", parameters == 20_000 * 50 and multiplications == 0)
_, multiplications = cost(by_product, tokens, vectors)
claim("multiplications of the product", multiplications == 10 * 20_000 * 50)
print(f"the lookup: no multiplication; the product: {multiplications:,}")

# %% [markdown]
# Here is what comes out: the line as the network sees it, a signal of $T = 10$ steps in time and $D = 50$ channels.
# Red is positive, blue negative, white near zero. Compare the columns. Both "to" are the same column, and both "be":
# a lookup knows the word and nothing else, neither its neighbours nor its place. The neighbours are brought in by
# attention (section 4.8, and again in chapter 5), and the place by the positional encoding of the next section. Look
# at the rows, too. One channel is dark red and one dark blue for all words of this line. Both go with how frequent a
# word is. The table lists the frequent words first, so the cell after the picture compares the means of these two
# channels over its first and over its last 1,000 words.

# %%
signal = embedding(tokens, vectors)  # (T, D)
fig, ax = plt.subplots(figsize=(7, 3.8))
ax.imshow(signal.mT.cpu(), cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
ax.set_xticks(range(10), line)
ax.set(yticks=[0, 49], ylabel="channel $d$")
ax.xaxis.tick_top()
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
twice = [(s, t) for s in range(10) for t in range(s) if torch.equal(signal[s], signal[t])]
figure(
    "4.9a",
    "A line of Shakespeare as an embedding layer hands it on, one word a column.",
    f"A picture of 50 channels by 10 words. {len(twice)} pairs of columns are equal: "
    + " and ".join(f"{line[s]} at places {t + 1} and {s + 1}" for s, t in twice),
)

# %%
for d in (signal.abs() > 1).all(0).nonzero()[:, 0].tolist():  # dark in every column
    most, least = vectors[:1000, d].mean(), vectors[-1000:, d].mean()
    print(f"channel {d}: mean {most:.1f} of frequent words, {least:.1f} of rare ones")

# %% [markdown]
# ### Where the vectors come from
#
# The table is trained together with whatever uses it. The smallest case that shows something: give each letter only
# $D = 2$ numbers, and predict the next letter of Shakespeare's text from them with one fully connected layer. We make
# everything small letters, and whatever is not a letter a blank; several blanks in a row become one.
#
# The next function turns the text into numbers. Computers store plain letters by an old code, ASCII, in which the
# blank is 32 and "a" to "z" are 97 to 122. Subtract 96, and let everything below 0 be 0.


# %% tags=["export"]
def letters(split: str, device: torch.device) -> Tensor:
    """The text of shakespeare(split) as numbers (T,): 0 for all but letters, 1 to 26 for a to z."""
    small = "".join(c if c.isalpha() else " " for c in shakespeare(split).text.lower())
    codes = torch.tensor(list(" ".join(small.split()).encode()), device=device)  # (T,) ASCII
    return (codes - 96).clamp(min=0)  # "a" is 97 there, and the blank 32


# %% [markdown]
# Inputs are all letters but the last, and what is to be predicted are all letters but the first. The model is an
# embedding layer with 54 numbers, and a fully connected layer with 81. It sees 300,000 pairs of neighbours twice, a
# thousand at a time.

# %%
seed(0)
codes = letters("train", DEVICE)[:300_001]  # (300001,)
model = nn.Sequential(nn.Embedding(27, 2), nn.Linear(2, 27)).to(DEVICE)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
pairs = batches(codes[:-1], codes[1:], size=1000)
fit(model, pairs, lambda model, x, y: F.cross_entropy(model(x), y), optimizer, epochs=2)

# %% [markdown]
# How good can two numbers for a letter be? We measure on text never seen. Predicting each letter by its frequency
# alone costs 2.82 nats a letter. A full table of what follows what, with 729 entries, reaches 2.31. (We count one of
# each pair on top, so that no pair is held to be impossible.)

# %%
new = letters("validation", DEVICE)  # (T,)
frequency = codes.bincount(minlength=27) / len(codes)  # (27,)
alone = -frequency.log()[new[1:]].mean()

# %%
follows = (27 * codes[:-1] + codes[1:]).bincount(minlength=27 * 27).reshape(27, 27) + 1
given = follows / follows.sum(1, keepdim=True)  # (27, 27) of the second letter, given the first
full = -given.log()[new[:-1], new[1:]].mean()
print(f"nats a letter: {alone:.2f} by frequency, {full:.2f} by a table of all pairs")

# %% [markdown]
# Two numbers for each letter save about a third of a nat. Our 135 parameters are well on the way to the full table.

# %%
gain = alone - F.cross_entropy(model(new[:-1]).detach(), new[1:])
claim("nats a letter gained by two numbers for each", gain, at_least=0.25)

# %% [markdown]
# Nobody told the network what a vowel is. Yet vowels are followed by similar letters, so a layer that sees only the
# vector predicts best if they are close to each other. We measure the mean distance between two of "a e i o u", as a
# share of the mean distance between one of them and a consonant. (The "y", which can be either, is left out.)

# %%
places = model[0].weight.detach()  # (27, 2)
gaps = torch.cdist(places, places)  # (27, 27)
vowels = torch.tensor([ALPHABET.index(v) for v in "aeiou"], device=DEVICE)  # (5,)
others = torch.tensor([k for k in range(1, 27) if ALPHABET[k] not in "aeiouy"], device=DEVICE)
among, across = gaps[vowels][:, vowels].sum() / 20, gaps[vowels][:, others].mean()
claim("distance between vowels, as a share of that to consonants", among / across, at_most=0.5)

# %%
fig, ax = plt.subplots(figsize=(7.5, 4.4))
ax.scatter(*places[1:].T.cpu(), s=0)  # invisible, so that the axes know how far they must reach
for k, (x, y) in enumerate(places[1:].tolist(), start=1):
    shade = color.weights if ALPHABET[k] in "aeiou" else color.data
    style = {"color": shade, "ha": "center", "va": "center", "size": 12}
    ax.text(x, y, ALPHABET[k], **style)
ax.margins(0.06)
ax.axis("off")
said = "The 26 letters in a plane; the vowels a, e, i, o and u lie together."
figure("4.9b", "Letters, placed by a network that predicts the next one.", said, held="trained")

# %% [markdown]
# The blank is left out of the picture, so that the letters get the room. The directions of the axes mean nothing.
# Another start of the training may turn, mirror, stretch or skew the map, since the layer that follows can undo all
# of that. What stays, by and large, is which letters lie together. Rare letters such as "q", "x" and "z" were hardly
# trained, and their places depend on chance.
#
# ### Words
#
# For words we take the GloVe vectors as they are. They were trained on billions of words of newspapers and of
# Wikipedia so that, roughly, the product of two vectors tells the logarithm of how often the two words occur near
# each other, up to an offset for each word. How alike are two of them? The usual measure is the cosine of the angle
# between them: 1 for the same direction, 0 for a right angle, whatever the lengths. With all vectors divided by their
# lengths, a single product of matrices gives all cosines.

# %%
table = vectors.double()
directions = table / table.norm(dim=1, keepdim=True)  # (V, D)


# %%
def nearest(vector: Tensor, count: int) -> list[tuple[str, float]]:
    """The words with the largest cosine to a vector (D,), and these cosines."""
    top = (directions @ (vector / vector.norm())).topk(count)
    return [(words[k], c.item()) for c, k in zip(*top, strict=True)]


# %%
for word in ("cat", "guitar", "lisbon", "seven", "doctor"):
    near = [f"{name} {value:.2f}" for name, value in nearest(table[number[word]], 6)[1:]]
    print(f"{word}: {', '.join(near)}")
by_torch = F.cosine_similarity(table[number["cat"]], table, dim=1).topk(2).values[1].item()
_, (name, value) = nearest(table[number["cat"]], 2)  # the first is the cat itself
claim("cat and its neighbour", value, equals=by_torch, within=1e-12)

# %% [markdown]
# More than that: *differences* of vectors can mean something. The famous example is that king − man + woman is near
# queen. One example proves nothing, so here are seven families of pairs. Any two pairs of a family, in either order,
# make a question: $a$ is to $b$ as $c$ is to what? With man ($a$), woman ($b$) and king ($c$) the right answer is
# queen. Ten pairs make $10 \cdot 9 = 90$ questions. Our answer is the word whose vector has the largest cosine to $b
# - a + c$.

# %%
FAMILIES = {
    "country and people": "france french italy italian spain spanish germany german greece greek "
    "egypt egyptian russia russian japan japanese china chinese ireland irish",
    "capital and country": "paris france rome italy madrid spain berlin germany athens greece "
    "cairo egypt moscow russia tokyo japan beijing china dublin ireland",
    "man and woman": "king queen man woman boy girl father mother son daughter brother sister "
    "uncle aunt husband wife prince princess actor actress",
    "one and many": "cat cats dog dogs car cars house houses child children man men bird birds "
    "city cities eye eyes computer computers",
    "big and bigger": "big bigger small smaller good better bad worse fast faster slow slower "
    "high higher strong stronger old older easy easier",
    "now and then": "go went take took see saw come came find found think thought run ran "
    "write wrote speak spoke walk walked",
    "opposites": "good bad happy sad hot cold big small old new rich poor light dark fast slow "
    "strong weak true false",
}

# %% [markdown]
# Two things are usually passed over. First, the three words of the question are left out of the candidates; we also
# count what happens if they are not. Second, a question may be easy without any arithmetic: perhaps the answer is
# just the nearest neighbour of $c$. So we ask that as well.
#
# `best` answers many questions at once. Its one product of matrices compares each query with all 20,000 words. The
# words to be left out get the cosine −1, the smallest there is.


# %%
def best(query: Tensor, left_out: Tensor | None = None) -> Tensor:
    """The words (Q,) with the largest cosine to each query (Q, D), but not those of left_out (Q, 3)."""
    cosines = F.normalize(query, dim=1) @ directions.mT  # (Q, D) @ (D, V) = (Q, V)
    if left_out is not None:
        cosines.scatter_(1, left_out, -1)
    return cosines.argmax(1)


# %% [markdown]
# `quiz` makes all questions of a family. `eye` has ones on its diagonal, so `~` (not) marks all pairs of two
# *different* rows of the family, and `nonzero` lists them: 90 questions, with the words $a$, $b$, $c$ and the answer
# $d$ of each.


# %%
def quiz(family: str) -> list[float]:
    """Shares: right; right, all words allowed; right, neighbour of c; c itself, all words allowed."""
    pairs = torch.tensor([number[w] for w in family.split()], device=DEVICE).reshape(-1, 2)
    two = (~torch.eye(len(pairs), dtype=torch.bool, device=DEVICE)).nonzero()  # (Q, 2)
    (a, b), (c, d) = pairs[two[:, 0]].T, pairs[two[:, 1]].T  # (Q,) each
    query, asked = table[b] - table[a] + table[c], torch.stack([a, b, c], dim=1)  # (Q, D), (Q, 3)
    answers = best(query, asked), best(query), best(table[c], asked)
    right = [answer == d for answer in answers]  # (Q,) each
    return [share.double().mean().item() for share in (*right, answers[1] == c)]


# %%
shares = {name: quiz(family) for name, family in FAMILIES.items()}
print("family                right  all words allowed  then c itself  neighbour of c")
for name, (right, allowed, neighbour, itself) in shares.items():
    print(f"{name:20} {right:6.2f} {allowed:18.2f} {itself:14.2f} {neighbour:15.2f}")

# %%
claim("analogies of country and people", shares["country and people"][0], at_least=0.95)
claim("analogies of opposites", shares["opposites"][0], at_most=0.3)
left_out = min(shares["one and many"][0], shares["big and bigger"][0])
claim("plurals and comparatives, words of the question left out", left_out, at_least=0.65)
allowed = max(shares["one and many"][1], shares["big and bigger"][1])
claim("plurals and comparatives, when all words are allowed", allowed, at_most=0.45)
itself = min(shares["one and many"][3], shares["big and bigger"][3])
claim("plurals and comparatives, answered by c itself", itself, at_least=0.5)
gained = shares["capital and country"][0] - shares["capital and country"][2]
claim("what arithmetic adds to the neighbour, for capitals", gained, at_least=0.5)

# %% [markdown]
# For nations and capitals the arithmetic is nearly always right, where the neighbour alone is right one time in five:
# that is knowledge, learned from nothing but which words stand near which. For opposites it fails, and adds nothing
# to the neighbour. A good and a bad film are written about in the same words, so their vectors are close, and what
# differs is not the same from pair to pair. And when the words of the question may be answers, the score drops for
# all families but the first. For plurals and for "bigger" half of it is gone: the word nearest to $b - a + c$ is then
# $c$ itself in more than half of the questions. The step points the right way, but not exactly enough to leave $c$
# behind.
#
# To look at 50 dimensions, keep the two directions in which the chosen words differ most. These are the *principal
# components*, and the singular value decomposition finds them. On the left are four groups of words; the method was
# not told the groups. On the right are only capitals (blue) and their countries, joined by arrows.
#
# A direction can be turned around and is still the same. So that the picture comes out the same on every computer, we
# take the one in which the first word lies on the positive side.


# %%
def principal(x: Tensor) -> Tensor:
    """The two directions (D, 2) along which the points x (N, D) differ most."""
    centred = x - x.mean(0)  # (N, D)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2].mT  # (D, 2)
    return axes * (centred[0] @ axes).sign()  # of the two ways, the one in which x[0] is positive


# %%
GROUPS = {
    "places": "japan russia tokyo moscow paris",
    "people": "king woman father nurse boy",
    "animals": "cow sheep bird dog horse",
    "music": "guitar violin song opera",
}
CAPITALS = "paris france berlin germany athens greece moscow russia tokyo japan dublin ireland"


# %%
def vectors_of(names: list[str]) -> Tensor:
    """Their rows of the table, (N, D)."""
    return table[[number[name] for name in names]]


# %%
def name_dots(ax, names: list[str], at: Tensor, shade: str, up: int = 5) -> None:
    """A dot for each word, at the places (N, 2), and its name some points above it, or below."""
    ax.scatter(*at.T, s=14, color=shade, zorder=3)
    style = {"textcoords": "offset points", "color": shade, "ha": "center", "size": 11}
    for name, place in zip(names, at.tolist(), strict=True):
        ax.annotate(name, place, (0, up), **style)


# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 4.4), width_ratios=[5, 4])
capitals = CAPITALS.split()
plane = principal(vectors_of(" ".join(GROUPS.values()).split()))  # (D, 2)
for k, names in enumerate(GROUPS.values()):
    at = (vectors_of(names.split()) @ plane).cpu()  # (N, 2)
    name_dots(left, names.split(), at, color.classes[(0, 2, 5, 6)[k]])
ends = vectors_of(capitals) @ principal(vectors_of(capitals))  # (12, 2)
for city, country in ends.reshape(-1, 2, 2).tolist():
    style = {"arrowstyle": "-|>", "color": color.quiet, "shrinkA": 3, "shrinkB": 3}
    right.annotate("", country, city, arrowprops=style)
name_dots(right, capitals[::2], ends[::2].cpu(), color.model, up=-15)
name_dots(right, capitals[1::2], ends[1::2].cpu(), color.data)
for ax in (left, right):
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.margins(0.1)
steps = (ends[1::2] - ends[::2]).cpu()  # (6, 2)
alike = F.cosine_similarity(steps, steps.mean(0)[None], dim=1)  # (6,)
figure(
    "4.9c",
    "Words in the two directions in which they differ most: four groups, and six capitals.",
    f"Left, four groups of words, apart from each other. Right, six arrows from capital to "
    f"country; their cosines with the mean arrow are {alike.min():.2f} to {alike.max():.2f}.",
)

# %% [markdown]
# Now walk. Each family gets a map of its own. Its axis to the right is the mean step from the first word of a pair to
# the second, and its axis upwards the direction in which the words differ most once the step is taken out. Every pair
# is a grey line.
#
# The code below removes from each word what lies along the mean step, and then takes the first principal direction of
# what is left.


# %%
def map_of(family: str) -> tuple[Tensor, Tensor]:
    """The words of a family (20,) and two directions (D, 2) to look at them from."""
    tokens = torch.tensor([number[word] for word in family.split()], device=DEVICE)  # (20,)
    x = table[tokens]  # (20, D)
    along = F.normalize((x[1::2] - x[::2]).mean(0), dim=0)  # (D,)
    rest = x - (x @ along)[:, None] * along  # (20, D) without what lies along the step
    return tokens.cpu(), torch.stack([along, principal(rest)[:, 0]], dim=1).float().cpu()


# %%
rows, units = vectors.cpu(), directions.float().cpu()  # (V, D), (V, D); 32 bits are quicker
maps = {name: map_of(family) for name, family in FAMILIES.items()}

# %% [markdown]
# Two of the ten pairs make a question. The step from $a$ to $b$ (orange) is taken from $c$ (blue), in full with
# `steps` at 1. On the right are the words nearest to where the blue line ends, at the dot, with their cosines. Start
# from "king" and "man" to "woman", and move the steps from 0 to 1: first "prince" leads, and from 0.3 on "queen". But
# that is only since the three words of the question are left out. Allow them, and "king" itself stays in front up to
# a step of 1.15. With 2 steps the arithmetic leaves the words behind, and the cosines fall. Then go through the
# families. The grey lines of nations are nearly parallel, with a mean cosine of 0.92 to the mean step. Those of
# opposites point almost anywhere: 0.43, where ten random steps would give about $1 / \sqrt{10} = 0.32$. That is the
# table above, as a picture.


# %%
def scene(fig):
    """Left, ten pairs of words as lines, and a step from one word. Right, the words nearest to its end."""
    left, right = fig.subplots(1, 2, width_ratios=[5, 4])
    pairs = left.vlines([], 0, 0, color=color.quiet, lw=1)  # lines, as soon as it gets some
    arrows = [left.plot([], [], "-", color=c)[0] for c in (color.gradient, color.model)]
    tips = left.scatter([0, 0], [0, 0], s=40, color=[color.gradient, color.model], zorder=3)
    names = [left.text(0, 0, "", ha=ha, va="center", size=11) for ha in ("right", "left") * 2]
    bars = right.barh(range(8), [0] * 8, color="#cfe3f1")
    texts = [right.text(0.02, k, "", va="center") for k in range(8)]
    left.set(xticks=[], yticks=[], xlim=(-5, 5), ylim=(-4.2, 4.2), xlabel="along the mean step")
    right.set(xlim=(0, 1), ylim=(7.6, -0.6), yticks=[], xlabel="cosine")

    def update(family, pair, start, steps, allow_all_words):
        tokens, flat = maps[family]  # (20,), (D, 2)
        (a, b), (c, d) = tokens.reshape(10, 2)[[pair - 1, start - 1]].tolist()
        end = rows[c] + steps * (rows[b] - rows[a])  # (D,)
        cosines = units @ F.normalize(end, dim=0)  # (V,)
        if not allow_all_words:
            cosines[[k for k in (a, b, c) if k != d]] = -1
        top = cosines.topk(8)
        for bar, text, value, k in zip(bars, texts, top.values, top.indices, strict=True):
            bar.set_width(value.item())
            text.set_text(f"{words[k]}  {value:.2f}")
            text.stale = True  # draw it again, also where it is the same: the bar below it moves
        at = (torch.cat([rows[tokens], end[None]]) - rows[tokens].mean(0)) @ flat  # (21, 2)
        pairs.set_segments(at[:20].reshape(10, 2, 2).numpy())
        ends = at[[2 * pair - 2, 2 * pair - 1, 2 * start - 2, 20]]  # (4, 2)
        for arrow, line in zip(arrows, ends.split(2), strict=True):
            arrow.set_data(*line.T)
        tips.set_offsets(ends[1::2])
        named = (*at[2 * pair - 2 : 2 * pair], *at[2 * start - 2 : 2 * start])
        for text, k, place, side in zip(names, (a, b, c, d), named, (-1, 1, -1, 1), strict=True):
            text.set(text=words[k], position=(place[0] + 0.25 * side, place[1]))
        said = "pair and start are the same" if pair == start else f"expected was {words[d]}"
        return f"{words[a]} : {words[b]} = {words[c]} : {words[top.indices[0]]}; {said}"

    return update


# %%
controls = {"family": choice(list(FAMILIES), "man and woman"), "steps": slider(0.0, 2.0, 1.0, 0.05)}
controls |= {"pair": slider(1, 10, 2), "start": slider(1, 10, 1), "allow_all_words": toggle()}
explore(scene, "4.9d", "Ten pairs of words, and one step.", (8, 3.7), **controls)

# %% [markdown]
# Such vectors also learn what they should not. The direction from "he" to "she" can be held against any word. If it
# meant grammar alone, a profession would be at a right angle to it. Here are the cosines of ten professions with
# "she" minus "he".

# %%
JOBS = ["nurse", "secretary", "dancer", "teacher", "doctor"]
JOBS += ["scientist", "lawyer", "engineer", "boss", "captain"]
she = F.normalize(table[number["she"]] - table[number["he"]], dim=0)  # (D,)
leans = directions[[number[job] for job in JOBS]] @ she  # (10,)
print(", ".join(f"{job} {lean:+.2f}" for job, lean in zip(JOBS, leans, strict=True)))
print(f"over all words, the standard deviation is {(directions @ she).std():.2f}")
claim("nurse leans to she, captain to he", bool(leans[0] > 0.2 and leans[-1] < -0.2))

# %% [markdown]
# Typical for any word is ±0.15, so most of these say little. Nurse and dancer stand out on one side, captain and boss
# on the other, and the secretary somewhat less. A nurse is a she, a captain is a he: the table repeats the habits of
# the texts it was trained on, and so will all that is built on top of it. Whoever sorts applications with such
# vectors should know. It takes care to read such numbers, too: the secretaries that newspapers write about are
# secretaries of state.
#
# ### Tokens that are not discrete
#
# An image has no list of possible pieces, so there is nothing to look up. But the step after the one-hot vector works
# for any vector: multiply by a matrix. Cut an image into patches of 16 by 16 pixels, lay out the
# $3 \cdot 16 \cdot 16 = 768$ numbers of each in a row, and apply a fully connected layer. Out comes one vector for
# each patch, as for a line of words; chapter 5 builds a Transformer on them. It is also what a convolution with
# kernel size 16 and stride 16 does.
#
# `unfold` cuts out the patches and lays each in a row. The convolution takes the same weights, each row of the matrix
# folded back to 3 channels of 16 by 16.

# %%
photo = photographs("test", DEVICE).images[:1, :, :128, :128].double()  # (1, 3, 128, 128)
w, b = nn.Linear(768, 50).to(**EXACT).parameters()  # (50, 768), (50,)


# %%
def patches(photo: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A vector for each patch of 16 x 16 pixels: (N, D, H / 16, W / 16)."""
    rows = F.unfold(photo, kernel_size=16, stride=16).mT  # (N, T, 768)
    return F.linear(rows, w, b).mT.unflatten(
        2, (photo.shape[2] // 16, -1)
    )  # (N, D, H / 16, W / 16)


# %%
def strided(photo: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The same by a convolution."""
    return F.conv2d(photo, w.reshape(50, 3, 16, 16), b, stride=16)


# %%
claim("patches and a strided convolution", difference(patches, strided, photo, w, b), at_most=1e-9)

# %% [markdown]
# **Exercise.** Write the backward pass of the lookup. Given the tokens and the slopes of the loss with respect to the
# vectors that came out, what are the slopes with respect to the table? Remember "banana". A hint: `index_add_` adds
# rows to the rows of another tensor.


# %% tags=["exercise"]
def embedding_gradient(tokens: Tensor, slopes: Tensor, V: int) -> Tensor:
    """The gradient (V, D) of the table, for tokens (T,) and the slopes (T, D) of the output."""
    raise NotImplementedError


ones, none = torch.ones(6, 2, device=DEVICE), torch.zeros(27, 2, device=DEVICE)
times = torch.bincount(banana, minlength=27)[:, None].expand(27, 2).float()  # how often each occurs
check(
    embedding_gradient,
    ("banana with slopes 1: 1 for b, 3 for a, 2 for n", lambda g: (g(banana, ones, 27), times)),
    ("with slopes 0 nothing moves", lambda g: (g(banana, 0 * ones, 27), none)),
    ("with random slopes it is torch's gradient", lambda g: (g(banana, slopes, 27), M.grad)),
)


# %% tags=["solution", "hide-input"]
def embedding_gradient(tokens: Tensor, slopes: Tensor, V: int) -> Tensor:
    """Every slope goes to the row that its vector came from, and a row adds up what it gets."""
    return slopes.new_zeros(V, slopes.shape[1]).index_add_(0, tokens, slopes)


# %% [markdown]
# **Exercise.** Which word does not belong? Of "cat dog guitar rabbit", say. Find the one whose vector has the
# smallest cosine to the mean of the *other* vectors. (To the mean of all would be easier, and the odd one pulls that
# mean towards itself.) Return its place in the list, counted from 0.


# %% tags=["exercise"]
def odd_one_out(x: Tensor) -> int:
    """Place in the list, from 0, of the vector of x (N, D) with the smallest cosine to the mean of the rest."""
    raise NotImplementedError


away = torch.tensor([[1.0, 0.2], [0.9, 0.3], [1.0, 0.1], [-1.0, 2.0]])
long = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [4.0, 8.0]])
four, days = ["cat", "dog", "guitar", "rabbit"], ["france", "monday", "tuesday", "friday"]
check(
    odd_one_out,
    ("of four arrows, the last points elsewhere", lambda g: int(g(away)) == 3),
    ("the longest of four arrows is the odd one", lambda g: int(g(long)) == 3),
    ("guitar is no animal", lambda g: four[g(vectors_of(four))] == "guitar"),
    ("france is no day", lambda g: days[g(vectors_of(days))] == "france"),
)


# %% tags=["solution", "hide-input"]
def odd_one_out(x: Tensor) -> int:
    """The mean of the others is their sum over N - 1; the factor does not matter to a cosine."""
    return F.cosine_similarity(x, x.sum(0) - x, dim=1).argmin().item()


# %% [markdown]
# ## 4.10 Positional encoding
#
# "The dog bit the man" and "the man bit the dog" consist of the same words. What is different is their order, and an
# attention layer does not see it (as long as it has no mask; a causal mask does tell first from last). It compares
# the vector of each word with the vectors of all others, and averages. Nothing in it asks where a word stands. Move
# the words around, and the outputs move with them, unchanged. A fully connected layer that works on each word by
# itself does not see the order either. (A convolution does see who stands beside whom, through its kernel. But it,
# too, treats all places alike; only the zeros that pad the border could tell it where in the signal it is.)
#
# We check that this is exact, with random weights and the GloVe vectors of section 4.9. `layer` makes queries, keys
# and values with three matrices, leaves attention to PyTorch, and puts a fully connected layer with the matrix $W_O$
# behind it, which works on each word by itself.

# %%
words, vectors = glove(DEVICE)  # 20,000 words, (20000, 50)
number = {word: k for k, word in enumerate(words)}
W_Q, W_K, W_V, W_O = torch.randn(4, 50, 50, generator=seed(1)).to(**EXACT) / 7  # (D, D) each


# %%
def embed(sentence: str) -> Tensor:
    """The vectors (T, D) of the words of a sentence."""
    return vectors[[number[word] for word in sentence.split()]].double()


# %%
def layer(x: Tensor) -> Tensor:
    """Attention over the words x (T, D), and a fully connected layer on each word after it."""
    Y = F.scaled_dot_product_attention(x @ W_Q, x @ W_K, x @ W_V)  # (T, D)
    return torch.tanh(Y @ W_O)  # (T, D)


# %% [markdown]
# The second word of one sentence and the fifth of the other are "dog". The layer gives both the very same vector: it
# cannot tell who bit.

# %%
bitten, biting = embed("the man bit the dog"), embed("the dog bit the man")  # (5, 50) each
dogs = layer(bitten)[4], layer(biting)[1]  # (50,), (50,)
claim("the dog that bites and the dog that is bitten", dogs[0], equals=dogs[1], within=1e-12)

# %% [markdown]
# Now a longer text, the opening of Richard III, in an order drawn by chance: the outputs come in that same order, and
# are otherwise what they were. Such a layer treats its input as a *set*, in which nothing comes first. What it
# computes is said to be *equivariant* to permutations: permute the input, and the output is permuted alike.

# %%
line = "now is the winter of our discontent made glorious summer by this sun of york"
x = embed(line)  # (15, 50)
order = torch.randperm(15, generator=seed(2)).to(DEVICE)  # (15,)
claim("attention of shuffled words", layer(x[order]), equals=layer(x)[order], within=1e-12)

# %% [markdown]
# The cure is to write the place into the vector. A **positional encoding** is a vector $p(t)$ of the same size $D$
# for each position $t$, and it is added to the vector of the token that stands there. The Transformer computes it
# from sines and cosines:
#
# $$\text{pos-enc}[t, d] = \begin{cases} \sin\big(t / T^{d/D}\big) & d \text{ even} \\
# \cos\big(t / T^{(d-1)/D}\big) & d \text{ odd} \end{cases} \qquad T = 10^4$$
#
# Word for word it is a loop over $t$ and $d$. In tensors, `d - d % 2` is $d$ for even and $d - 1$ for odd $d$. The
# base $T$ is a parameter of our function, so that we can play with it. (The $T$ of this formula is a constant and not
# the length of the sequence.)


# %% tags=["export"]
def sinusoids(positions: Tensor, D: int, base: float = 10_000.0) -> Tensor:
    """The sinusoidal positional encoding of the positions (...): (..., D)."""
    d = torch.arange(D, dtype=positions.dtype, device=positions.device)  # (D,)
    angles = positions[..., None] / base ** ((d - d % 2) / D)  # (..., D)
    return torch.where(d % 2 == 0, angles.sin(), angles.cos())  # (..., D)


# %% tags=["equation-positional"]
T, D = 10_000, 16  # the T of the formula
by_loops = torch.empty(30, D, **EXACT)
for t in range(30):
    for d in range(D):
        even, odd = math.sin(t / T ** (d / D)), math.cos(t / T ** ((d - 1) / D))
        by_loops[t, d] = even if d % 2 == 0 else odd
in_tensors = sinusoids(torch.arange(30, **EXACT), D)  # (30, D)
claim("positional encoding, by loops and by tensors", in_tensors, equals=by_loops, within=1e-12)

# %% [markdown]
# Each pair of channels is the hand of a clock: its sine and its cosine. The first clock turns by one radian with
# every position, once around in 6.3 of them. Each of the following is slower by the same factor, and with $D = 64$
# the last one needs 47,000 positions for a turn. Fast clocks tell neighbours apart, slow ones the beginning of a book
# from its end, just as seconds, minutes and hours do. The matrix below has the position from left to right and the
# channel from top to bottom; on the right are four of its rows as waves.
#
# Read a column of the picture as the vector $p(t)$ of one position. No two columns are the same. Read a row as what
# one channel does in the course of a text. The upper rows flicker; in the lowest third hardly anything happens within
# 100 positions, and the pairs of stripes are sines that are still near 0 and cosines that are still near 1.

# %%
p = sinusoids(torch.arange(100, **EXACT), 64)  # (T, D)
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), width_ratios=[3, 2])
left.imshow(p.mT.cpu(), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
left.set(xlabel="position $t$", ylabel="channel $d$", yticks=[0, 16, 32, 48, 63])
for k, d in enumerate((0, 8, 16, 32)):
    right.plot(p[:, d].cpu() / 2.4 - k, color=color.model, lw=1.4)
    right.text(102, -k, f"$d$ = {d}", va="center")
right.set(xlabel="position $t$", yticks=[], xlim=(0, 120), xticks=[0, 50, 100])
right.spines["left"].set_visible(False)
turns = [2 * math.pi * 10_000 ** (d / 64) for d in (0, 8, 16, 32)]
said = ", ".join(f"{turn:.1f}" for turn in turns)
figure(
    "4.10a",
    "The encoding of 100 positions in 64 channels, and four of the channels.",
    f"Stripes that get wider from top to bottom; the four waves have periods of {said} positions.",
)

# %% [markdown]
# ### A shift is a rotation
#
# Why clocks? To move on by $k$ positions turns each hand by a fixed angle, wherever it was. A turn is a linear map.
# For one clock with the speed $\omega$ the addition theorems of sine and cosine say
#
# $$\begin{pmatrix} \sin \omega (t + k) \\ \cos \omega (t + k) \end{pmatrix} =
# \begin{pmatrix} \cos \omega k & \sin \omega k \\ -\sin \omega k & \cos \omega k \end{pmatrix}
# \begin{pmatrix} \sin \omega t \\ \cos \omega t \end{pmatrix}$$
#
# Put these $2 \times 2$ blocks on the diagonal of one matrix $R_k$, and $R_k\, p(t) = p(t + k)$ for *every* $t$, with
# the same matrix. A layer that has learned $R_{-3}$ can ask for "the word three places before me" from anywhere.
#
# The code makes the blocks for all speeds at once, one block after the other, and `block_diag` puts them on the
# diagonal of a matrix that is otherwise zero.


# %%
def shift(k: int, D: int, base: float = 10_000.0) -> Tensor:
    """The matrix R_k (D, D) that takes p(t) to p(t + k), for every t."""
    angles = k / base ** (torch.arange(0, D, 2, **EXACT) / D)  # (D / 2,)
    sines, cosines = angles.sin(), angles.cos()
    blocks = torch.stack([cosines, sines, -sines, cosines], dim=1).reshape(-1, 2, 2)
    return torch.block_diag(*blocks)  # (D, D)


# %% [markdown]
# We try steps ahead and steps back, short ones and one of 4,000 positions, each with one matrix for a thousand
# positions.

# %%
t = torch.arange(1000, **EXACT)  # (T,)
worst = 0.0
for k in (-500, -3, 0, 1, 2, 17, 4000):
    moved = sinusoids(t, 64) @ shift(k, 64).mT  # (T, D) @ (D, D) = (T, D)
    worst = max(worst, (moved - sinusoids(t + k, 64)).abs().max().item())
claim("seven shifts of 1000 positions, and their matrices", worst, at_most=1e-9)

# %% [markdown]
# A rotation keeps lengths and angles. So all $p(t)$ have the same length, $\sqrt{D/2}$, since each clock adds
# $\sin^2 + \cos^2 = 1$ to its square. And the product of two encodings depends only on the *difference* of their
# positions. It is a sum of cosines, one for each clock: $p(t) \cdot p(s) = \sum_j \cos \omega_j (t - s)$.

# %%
gram = p @ p.mT  # (T, D) @ (D, T) = (T, T)
claim("length of p(t)", p.norm(dim=1), equals=torch.full((100,), 32**0.5, **EXACT), within=1e-12)
claim("a product, and the same one position on", gram[1:, 1:], equals=gram[:-1, :-1], within=1e-9)

# %%
speeds = 10_000 ** (-torch.arange(0, 64, 2, **EXACT) / 64)  # (D / 2,)
cosines = (torch.arange(100, **EXACT)[:, None] * speeds).cos().sum(1)  # (T,)
claim("products with p(0) are sums of cosines", gram[0], equals=cosines, within=1e-9)

# %% [markdown]
# As a picture: on the left all products, the darker the larger, which are the same along each diagonal. On the right
# two rows of that table, for $t = 20$ and $t = 70$. They are one and the same curve, in another place.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=[2, 3])
left.imshow(gram.cpu(), cmap="Blues")
left.set(xlabel="position $s$", ylabel="position $t$", xticks=[0, 50], yticks=[0, 50])
for t, shade in ((20, color.model), (70, color.gradient)):
    right.plot(gram[t].cpu(), color=shade)
    right.text(t, 33, f"$t$ = {t}", color=shade, ha="center")
right.set(xlabel="position $s$", ylabel=r"$p(t) \cdot p(s)$", ylim=(0, 36))
said = f"From {gram[20, 20]:.1f} at the position itself down to {gram[20, 30]:.1f} ten places away"
figure("4.10b", "Products of encodings: one curve, moved along.", f"A band of stripes. {said}.")

# %% [markdown]
# The curve is highest at $t$ itself and falls, in waves, on both sides: positions that are near to each other have
# similar encodings. Here are the clocks to play with. Above are $D/2$ dials with hands that start at twelve. The
# thick blue hand shows the position $t$, the thin orange one the position $t + k$. Below is the product
# $p(t) \cdot p(t + k)$ for all offsets $k$, with yours as a dot. Move the position: both hands turn, the angle
# between them stays, and so does the dot. Then lower the base to 10. Now even the slowest clock turns once in 47
# positions. The curve falls more steeply, stays under 0.45 from 4 positions on, and then says little about how far
# away the other is. At last take 2 channels, a single clock. After 44 positions it has turned seven times and shows
# the same time again, and the product is back at 1.


# %%
def scene(fig):
    """Above, dials with two hands each. Below, a curve that is highest at the offset 0."""
    top, bottom = fig.subplots(2, 1, height_ratios=[3, 4])
    around = torch.linspace(0, 2 * math.pi, 60)
    dials = [
        top.plot(2.6 * j + around.cos(), around.sin(), color=color.quiet, lw=1)[0] for j in range(8)
    ]
    thick = [top.plot([], [], color=color.model, lw=5)[0] for _ in range(8)]  # at the position
    thin = [top.plot([], [], color=color.gradient, lw=2)[0] for _ in range(8)]  # at the other one
    top.set(xlim=(-1.2, 19.4), ylim=(-1.2, 1.2), aspect="equal")
    top.axis("off")
    offsets = torch.arange(-60, 61)
    (curve,) = bottom.plot([], [], color=color.data, lw=1.5)
    (dot,) = bottom.plot([], [], "o", color=color.gradient, ms=9)
    bottom.set(xlim=(-60, 60), ylim=(-1.05, 1.1), xlabel="offset $k$", ylabel="product / ($D$/2)")

    def update(channels, base, position, offset):
        for j, artists in enumerate(zip(dials, thick, thin, strict=True)):
            for artist in artists:
                artist.set_visible(2 * j < channels)
        here, there = sinusoids(torch.tensor([position, position + offset]).float(), channels, base)
        for hands, p in ((thick, here), (thin, there)):
            for j, (x, y) in enumerate(p.reshape(-1, 2).tolist()):
                hands[j].set_data([2.6 * j, 2.6 * j + x], [0, y])
        products = sinusoids((position + offsets).float(), channels, base) @ here / (channels / 2)
        curve.set_data(offsets, products)
        dot.set_data([offset], [products[offset + 60]])
        return f"product {products[offset + 60]:.3f} of at most 1, at the offset {offset}"

    return update


# %%
controls = {"position": slider(0, 100, 12), "offset": slider(-60, 60, 5)}
controls |= {"channels": slider(2, 16, 16, 2), "base": slider(10.0, 10_000.0, 10_000.0, log=True)}
explore(scene, "4.10c", "Clocks at two positions, and the product.", (8, 3.9), **controls)

# %% [markdown]
# ### Added to the words
#
# The encoding is added, $x_t + p(t)$. Does that not spoil the word? Take the two sentences about the dog. With
# $D = 50$ every $p(t)$ has the length 5, and a GloVe vector is 4.9 long on average, so word and place weigh about the
# same. The two dogs are now told apart. But what has become of the words? For the fifteen of Richard, at the
# positions 0 to 14, we look which of all 20,000 vectors is the nearest to $x_t + p(t)$. ("Nearest" is meant by
# ordinary distance here, not by the cosine.)

# %%
p = sinusoids(torch.arange(15, **EXACT), 50)  # (T, D)
dogs = layer(bitten + p[:5])[4], layer(biting + p[:5])[1]  # (50,), (50,)
claim("the two dogs differ with positions", (dogs[0] - dogs[1]).norm(), at_least=0.2)

# %%
mean_length = vectors.norm(dim=1).mean()
claim("mean length of a word vector", mean_length, at_least=4.7, at_most=5.0)

# %%
text = line.split()
found = torch.cdist(x + p, vectors.double()).argmin(1).tolist()  # (T,)
print("nearest words:", " ".join(words[k] for k in found))
kept = sum(words[k] == word for k, word in zip(found, text, strict=True))
claim("words of 15 that are still nearest after adding", kept, at_least=4, at_most=10)

# %% [markdown]
# Seven are now nearest to another word: "summer", at position 9, to "winter". These vectors were not trained to leave
# room for a place. A network trained with the encoding can learn to keep the two apart. One can also make the words
# longer. The Transformer multiplies its word vectors by $\sqrt{D}$ before it adds; done to GloVe's, which are long
# already, it makes them seven times as long as the places, and all fifteen are found again.

# %%
longer = 50**0.5 * vectors.double()  # (V, D)
found = torch.cdist(50**0.5 * x + p, longer).argmin(1).tolist()  # (T,)
claim("with words multiplied by the root of D, all 15 remain", [words[k] for k in found] == text)

# %% [markdown]
# One could also *append* $p(t)$ to $x_t$, and have vectors of $2D$ numbers. A fully connected layer that follows then
# has a part $W_x$ for the word and a part $W_p$ for the place, $W_x x_t + W_p\, p(t)$. Adding is the special case
# $W_x = W_p$, with half the weights.
#
# So when they are added, the network has to find room for both in the same $D$ channels, and when they are appended
# it does not. In practice $D$ is large, there is room, and adding is what is done.

# %%
W_x = W_Q  # (D, D), any matrix will do
appended = torch.cat([x, p], dim=1) @ torch.cat([W_x, W_x])  # (T, 2D) @ (2D, D) = (T, D)
added = (x + p) @ W_x  # (T, D) @ (D, D) = (T, D)
claim("appended, with the same matrix twice, is added", appended, equals=added, within=1e-12)

# %% [markdown]
# There is no need for sines, either. A *learned* encoding is an embedding layer for positions: a table with a row for
# each, trained with everything else. It can become whatever the task needs. But it ends at its last row, and rows
# that no training sequence was long enough to reach stay what they were at the start.
#
# ### Rotary encoding
#
# Most language models of today do not add anything. If a shift is a rotation, one may as well rotate the queries and
# keys themselves, right before they are compared: pair $j$ of the channels, $(2j, 2j + 1)$, of a vector at position
# $t$ is turned by the angle $t \cdot T^{-2j/D}$. This is called *rotary* encoding. A match is then a product of two
# rotated vectors. If both are turned by the same angle it stays as it was, so of the two positions only their
# difference matters: not roughly, and not after training, but by construction.


# %% tags=["export"]
def rotary(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """The vectors x (..., T, D), pair by pair turned by angles that grow with the positions (T,)."""
    D = x.shape[-1]
    speeds = base ** (-torch.arange(0, D, 2, dtype=x.dtype, device=x.device) / D)  # (D / 2,)
    angles = positions[:, None] * speeds  # (T, D / 2)
    a, b = x[..., 0::2], x[..., 1::2]  # (..., T, D / 2) each
    turned = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
    return torch.stack(turned, dim=-1).flatten(-2)  # (..., T, D)


# %% [markdown]
# A second implementation comes from complex numbers: a pair $(a, b)$ turned by $\theta$ is the complex number
# $a + bi$ multiplied by $\cos \theta + i \sin \theta$. PyTorch can look at pairs that way. The sines and cosines of
# all the angles need not be computed again, either: they are the even and the odd channels of `sinusoids`.


# %%
def as_complex(x: Tensor, positions: Tensor) -> Tensor:
    """The same by multiplying complex numbers."""
    p = sinusoids(positions, x.shape[-1])  # (T, D) sines and cosines in turn
    turns = torch.complex(p[:, 1::2], p[:, 0::2])  # (T, D / 2)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (..., T, D / 2)
    return torch.view_as_real(pairs * turns).flatten(-2)  # (..., T, D)


# %% [markdown]
# Outputs must agree, and gradients. On the way back slopes are turned back: by the same angles the other way round,
# which is what `as_complex` does at the positions $-t$. We compare this with what autograd makes of `rotary`. The
# shapes are those of queries in practice: the last two dimensions are time and channels, and in front of them there
# may be a batch, and several heads. The positions are drawn at random, from 0 to 999.

# %%
chance, worst = seed(3), {torch.float64: 0.0, torch.float32: 0.0}
for shape in ((1, 2), (7, 6), (3, 5, 16), (2, 4, 20, 32)) * 3:
    for dtype in worst:
        x_any, slopes = torch.randn(2, *shape, generator=chance).to(DEVICE, dtype)  # (..., T, D)
        at = torch.randint(1000, shape[-2:-1], generator=chance).to(DEVICE, dtype)  # (T,)
        turned = rotary(x_any.requires_grad_(), at)  # (..., T, D)
        (back,) = torch.autograd.grad(turned, x_any, slopes)  # (..., T, D)
        gaps = turned - as_complex(x_any, at), back - as_complex(slopes, -at)
        worst[dtype] = max(worst[dtype], *(gap.abs().max().item() for gap in gaps))

# %%
claim("12 rotary encodings and complex numbers", worst[torch.float64], at_most=1e-11)
claim("the same in 32 bits (rotary)", worst[torch.float32], at_most=1e-2)

# %% [markdown]
# In 32 bits an angle of some hundred radians is itself only known to about four digits after the point, and the two
# functions round it differently.
#
# Now the property. Queries and keys are random here; all positions are moved on by 1, by 100 and by 5,000, and every
# match stays. So do all lengths: turning changes no length. At the position 0 nothing is turned at all.

# %%
q, k = torch.randn(2, 20, 32, generator=seed(4)).to(**EXACT)  # (T, D) each
t = torch.arange(20, **EXACT)  # (T,)
matches, worst = rotary(q, t) @ rotary(k, t).mT, 0.0  # (T, D) @ (D, T) = (T, T)

# %%
for shifted in (1, 100, 5000):
    again = rotary(q, t + shifted) @ rotary(k, t + shifted).mT  # (T, T)
    worst = max(worst, (again - matches).abs().max().item())
claim("matches, all positions moved by 1, 100 or 5000", worst, at_most=1e-9)

# %%
claim("rotary encoding keeps lengths", rotary(q, t).norm(dim=1), equals=q.norm(dim=1), within=1e-12)
claim("at position 0 it does nothing", rotary(q, t)[0], equals=q[0], within=1e-15)
claim("positions do change the matches", (matches - q @ k.mT).abs().max(), at_least=1)

# %% [markdown]
# A layer can place the peak of the matches where it likes. Let the key be a copy of the query that is turned ahead by
# 3 positions. The match is then largest where the key stands three places *before* the query. Below are the four
# pairs of a vector with $D = 8$, again as hands that start at twelve: the first number of a pair points up, the
# second to the right. Thick and blue is the query at its position, thin and orange the key at its own. Where all
# orange hands lie on the blue ones, the match is 1, its maximum. Move query and key by the same amount and nothing
# happens on the right. Move `preferred` and the peak follows. With a low base the slow hands become faster, and the
# peak sharper.


# %%
def scene(fig):
    """Left, four dials with two hands each. Right, the match against the distance, with one peak."""
    left, right = fig.subplots(1, 2, width_ratios=[2, 3])
    around = torch.linspace(0, 2 * math.pi, 60)
    corners = [(0.0, 2.4), (2.4, 2.4), (0.0, 0.0), (2.4, 0.0)]
    for x, y in corners:
        left.plot(x + around.cos(), y + around.sin(), color=color.quiet, lw=1)
    thick = [left.plot([], [], color=color.model, lw=5)[0] for _ in range(4)]  # the query
    thin = [left.plot([], [], color=color.gradient, lw=2)[0] for _ in range(4)]  # the key
    left.set(aspect="equal", xlim=(-1.3, 3.7), ylim=(-1.3, 3.7))
    left.axis("off")
    distances = torch.arange(-30, 31)  # (61,)
    (curve,) = right.plot([], [], "-o", color=color.data, lw=1, ms=3)
    (dot,) = right.plot([], [], "o", color=color.weights, ms=10)
    right.set(xlim=(-31, 31), ylim=(-1.05, 1.1))
    right.set(xlabel="position of the query − position of the key", ylabel="match")
    one = torch.tensor([[0.5, 0.0] * 4])  # (1, D) of length 1

    def update(query_at, key_at, preferred, base):
        key = rotary(one, torch.tensor([float(preferred)]), base)  # (1, D)
        query = rotary(one, torch.tensor([float(query_at)]), base)  # (1, D)
        turned = rotary(key, torch.tensor([float(key_at)]), base)  # (1, D)
        for hands, vector in ((thick, query), (thin, turned)):
            ends = 1.8 * vector.reshape(4, 2)  # two numbers for each hand: up, and to the right
            for hand, (x, y), (up, across) in zip(hands, corners, ends.tolist(), strict=True):
                hand.set_data([x, x + across], [y, y + up])
        values = (rotary(one.expand(61, 8), distances.float(), base) @ key[0]).tolist()  # (61,)
        match = (query * turned).sum().item()
        curve.set_data(distances, values)
        dot.set_data([query_at - key_at], [match])
        return f"distance {query_at - key_at}, match {match:.3f}"

    return update


# %%
controls = {"query_at": slider(0, 30, 12), "key_at": slider(0, 30, 5)}
controls |= {"preferred": slider(-10, 10, 3), "base": slider(10.0, 10_000.0, 100.0, log=True)}
explore(scene, "4.10d", "Query and key turn; only their distance counts.", (8, 3.6), **controls)

# %% [markdown]
# ### What it is good for
#
# Now a task that needs nothing but order. Text of Shakespeare, in small letters and blanks, is cut into lines of 32
# characters. (`letters` is the function of section 4.9.) For each character the network shall say which one stands
# *three places before* it. That is child's play for whoever can count to three. The network is an embedding layer,
# one attention layer with one head, and a fully connected layer, 32 channels wide. We train it four times: without
# positions, with a learned table of 128 rows, with sinusoids, and with rotary encoding.

# %%
from lbdl.chapters.ch04 import letters

# %% [markdown]
# The class has the parts of all four. What `kind` says decides where the position comes in: into the vectors of the
# letters for the learned table and for the sinusoids, into queries and keys for rotary encoding, or nowhere. In the
# learned table, `self.table`, position $t$ looks up row $t$. The letter itself reaches the output through the values,
# the last of the three.


# %%
class Reader(nn.Module):
    """One layer of attention over letters, with a choice of what it knows about positions."""

    def __init__(self, kind: str, D: int = 32):
        super().__init__()
        self.kind = kind
        self.tokens = nn.Embedding(27, D)
        self.table = nn.Embedding(128, D)
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(D, D)
        self.value = nn.Linear(D, D)
        self.readout = nn.Linear(D, 27)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three tensors (N, T, D) from letters x (N, T)."""
        h, t = self.tokens(x), torch.arange(x.shape[1], device=x.device)  # (N, T, D), (T,)
        if self.kind == "learned":
            h = h + self.table(t)
        if self.kind == "sinusoids":
            h = h + sinusoids(t, h.shape[-1])
        q, k, v = self.query(h), self.key(h), self.value(h)  # (N, T, D) each
        return (rotary(q, t), rotary(k, t), v) if self.kind == "rotary" else (q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, T, 27) of the letter three places before."""
        return self.readout(F.scaled_dot_product_attention(*self.queries_keys_values(x)))


# %% [markdown]
# What could a network reach at best without positions? In one line, all the "e" get the same output. It can be right
# for those "e" that have the most frequent predecessor, and for no others. So we may grant it, for each line and each
# letter, the best answer in hindsight, and count. No network made of attention without a mask and of layers that work
# on each letter by itself can beat that number on these lines, however large. On lines of 32, where many letters
# occur only once, it is 0.56.


# %%
def bound(lines: Tensor) -> Tensor:
    """The largest share of right answers that is possible without positions and mask, on lines (N, T)."""
    line = torch.arange(len(lines), device=lines.device)[:, None]  # (N, 1)
    groups = (27 * line + lines)[:, 3:].flatten()  # equal for equal letters of one line
    answers = lines[:, :-3].flatten()
    counts = torch.zeros(27 * len(lines), 27, device=lines.device)
    counts.index_put_((groups, answers), torch.ones(1, device=lines.device), accumulate=True)
    return counts.max(1).values.sum() / len(answers)


# %%
codes, new = letters("train", DEVICE), letters("validation", DEVICE)  # (T,), (T,)
lines = codes[: 300 * 16 * 32].reshape(-1, 32)  # (4800, 32)
tests = {T: new[: 12_800 // T * T].reshape(-1, T) for T in (32, 48, 64, 96, 128)}  # (N, T) each
most = {T: bound(test).item() for T, test in tests.items()}
claim("the best possible without positions", most[32], at_least=0.5, at_most=0.6)

# %% [markdown]
# The loss is the usual one of a classifier with 27 classes. The first three characters of a line have nothing three
# places before them and are left out: the outputs from place 3 on are held against the letters up to the third from
# the end.


# %%
def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Cross-entropy of the letter three places before, from place 3 on."""
    return F.cross_entropy(model(x)[:, 3:].flatten(0, 1), x[:, :-3].flatten())


# %% [markdown]
# Training is 300 steps with 16 lines each. The learning rate rises at first and then falls to nothing, which is what
# `OneCycleLR` does. All four start from the same seed.


# %%
def train(kind: str) -> Reader:
    """A Reader, trained on all lines once."""
    seed(0)
    model = Reader(kind).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=300)
    fit(model, batches(lines, size=16), loss, optimizer, schedule=schedule, label=kind)
    return model


# %%
models = {kind: train(kind) for kind in ("without", "learned", "sinusoids", "rotary")}


# %%
def share(model: nn.Module, x: Tensor) -> float:
    """Share of right answers on lines x (N, T)."""
    with torch.no_grad():
        return (model(x)[:, 3:].argmax(2) == x[:, :-3]).float().mean().item()


# %%
accuracy = {kind: [share(model, x) for x in tests.values()] for kind, model in models.items()}

# %% [markdown]
# On lines from the ends of the plays, which were not in the training:

# %%
claim("the third letter before: without positions", accuracy["without"][0], at_most=0.3)
claim("the third letter before: with a learned table", accuracy["learned"][0], at_least=0.95)
claim("the third letter before: with sinusoids", accuracy["sinusoids"][0], at_least=0.95)
claim("the third letter before: with rotary encoding", accuracy["rotary"][0], at_least=0.95)

# %% [markdown]
# Without positions it can do little more than name the most frequent character, the blank. With any of the three
# encodings it is nearly perfect. How do they do it? Here is what each looks at on the first test line, one row for
# each position, dark where the attention is high. Each row adds up to one. Without positions all the rows of "e" are
# one and the same, and there is no diagonal. The others have a diagonal three places to the left. Beside the first
# square stand the letters of the line, from top to bottom and in two columns for want of room, with a dot for the
# blank; from left to right they are the same. The first three rows have nothing three places before them and were
# never trained; what they look at means nothing.

# %%
first = tests[32][:1]  # (1, T)
fig, axes = plt.subplots(1, 4, figsize=(8.5, 2.6))
looks = {}
for ax, (kind, model) in zip(axes, models.items(), strict=True):
    q, k, _ = (h.detach()[0] for h in model.queries_keys_values(first))  # (T, D) each
    A = (q @ k.mT / 32**0.5).softmax(1)  # (T, D) @ (D, T) = (T, T)
    ax.imshow(A.cpu(), cmap="Blues", vmin=0, vmax=1)
    ax.set(title=kind, xticks=[], yticks=[], xlabel="looked at")
    looks[kind] = A.diagonal(-3).mean().item()
names = [chr(96 + k) if k else "·" for k in first[0].tolist()]  # 96 + 1 is "a" in ASCII
names[1::2] = [f"{name}   " for name in names[1::2]]  # every second one farther to the left
axes[0].set_yticks(range(32), names, size=7)
axes[0].tick_params(length=0, pad=2)
axes[0].set_ylabel("looks")
found = ", ".join(kind for kind, look in looks.items() if look > 0.6)
figure(
    "4.10e",
    "Attention after training, on one line of 32 characters.",
    f"Four squares. A dark diagonal, three places to the left, is in those of: {found}.",
    held="trained",
)

# %%
weakest = min(looks["learned"], looks["sinusoids"], looks["rotary"])
claim("attention to the third place before, with positions", weakest, at_least=0.6)

# %% [markdown]
# All were trained on lines of 32. What happens on longer ones, which they have never seen? The learned table has rows
# for 128 positions, but those from 32 on were never trained. The share falls steeply. Sinusoids exist at any
# position, and the matrix $R_{-3}$ would be right everywhere. One can read that they therefore carry over to longer
# texts. Here they do so only in part: training has found weights that are right for the 32 positions it saw, and was
# never asked to find $R_{-3}$ itself. Rotary encoding, for which only distances exist, is close to perfect at twice
# the length, and at four times still the best of the three. Even so it loses some there, perhaps since distances
# beyond 31 are new to it.

# %%
short = {kind: values[-1] for kind, values in accuracy.items()}  # on lines of 128
claim("on lines of 128: with a learned table", short["learned"], at_most=0.5)
claim("on lines of 128: with sinusoids", short["sinusoids"], at_most=0.75)
claim("on lines of 128: with rotary encoding", short["rotary"], at_least=0.7)
ahead = accuracy["rotary"][2] - accuracy["sinusoids"][2]
claim("on lines of 64: by how much rotary leads sinusoids", ahead, at_least=0.05)

# %% [markdown]
# The dashed line is the bound computed above, for each length: the best that such a network without positions could
# reach. On longer lines more letters are alike, and the bound is lower. From 96 on the learned table is no better
# than such a network could be. For all but the first 32 places its answers are those of untrained rows, that is, of
# chance.

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
shades = dict(zip(models, (color.data, color.truth, color.gradient, color.model), strict=True))
for kind, values in accuracy.items():
    ax.plot(list(tests), values, "-o", color=shades[kind])
    ax.text(130, values[-1], kind, color=shades[kind], va="center")
ax.plot(list(tests), list(most.values()), "--", color="#777777", lw=1.2)
said = "best possible for\nsuch a network"
ax.text(33, 0.45, said, color="#777777", size=10, va="top")
ax.axvline(32, color=color.quiet, lw=1, zorder=0)
ax.set(xlim=(28, 150), ylim=(0, 1.05), xticks=list(tests))
ax.set(xlabel="length of the lines (trained on 32)", ylabel="share right")
ranked = ", ".join(sorted(short, key=short.get, reverse=True))
said = f"Five curves over the length, from 32 to 128. At the end, from best to worst: {ranked}."
figure("4.10f", "From lines of 32 to longer ones.", said, held="trained")

# %% [markdown]
# **Exercise.** An image has two positions, row and column. Let the first half of the channels encode the row, and the
# second half the column, each with `sinusoids`, and return the encodings of a whole grid. $D$ is a multiple of 4.
# That is what some image models add to their patches.


# %% tags=["exercise"]
def grid_encoding(height: int, width: int, D: int) -> Tensor:
    """Encodings (height, width, D) on the CPU: D / 2 channels for the row, then D / 2 for the column."""
    raise NotImplementedError


three, five = sinusoids(torch.arange(3), 4), sinusoids(torch.arange(5), 4)  # (3, 4), (5, 4)
check(
    grid_encoding,
    ("a grid of 3 by 5, D = 8, has the shape (3, 5, 8)", lambda g: g(3, 5, 8).shape == (3, 5, 8)),
    ("the first half of row 2 is sinusoids(2)", lambda g: (g(3, 5, 8)[2, 4, :4], three[2])),
    ("the second half of column 4 is sinusoids(4)", lambda g: (g(3, 5, 8)[2, 4, 4:], five[4])),
    ("all 15 places differ", lambda g: len(g(3, 5, 8).reshape(15, 8).unique(dim=0)) == 15),
)


# %% tags=["solution", "hide-input"]
def grid_encoding(height: int, width: int, D: int) -> Tensor:
    """Rows are repeated along the width, columns along the height."""
    rows = sinusoids(torch.arange(height), D // 2)[:, None].expand(height, width, D // 2)
    columns = sinusoids(torch.arange(width), D // 2).expand(height, width, D // 2)
    return torch.cat([rows, columns], dim=2)  # (height, width, D)


# %% [markdown]
# ## What was measured
#
# Every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

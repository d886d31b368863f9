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
# # 5 Architectures
#
# The layers of the last chapter are parts. This chapter puts them together in the ways that have lasted: the
# multi-layer perceptron; the convolutional network, from LeNet to the residual networks; and the models made of
# attention, which are the Transformer with its two descendants, GPT for text and the Vision Transformer for images.
# Each is built from PyTorch's own layers, as practitioners build them, held against PyTorch's own or a published
# count, drawn by running it, and trained on real data within half a minute. A simpler method stands beside each.
#
# | section | claim | here |
# |---|---|---|
# | 5.1 Multi-Layer Perceptrons | 24 trained ReLUs: their error over that of 24 computed ones | 3.8 |
# | 5.2 Convolutional networks | residual network: share of accuracy kept without a block | 0.99 |
# | 5.3 Attention models | GPT behind counting, nats a character | 0.03 |
#
# Sections stand alone: run the cells up to the first of them, then the one that you want. Later chapters import from
# this one, as in `from lbdl.chapters.ch05 import GPT`. The same things have many names; here are ours, and those that
# you will meet elsewhere:
#
# | here | torch.nn | nanochat | Hugging Face |
# |---|---|---|---|
# | `D`, channels of the signal | `d_model` | `n_embd` | `hidden_size` |
# | `H`, heads | `nhead` | `n_head` | `num_attention_heads` |
# | `layers` | `num_layers` | `n_layer` | `num_hidden_layers` |
# | `T`, the longest context | | `sequence_len` | `max_position_embeddings` |
# | `V`, tokens in the vocabulary | | `vocab_size` | `vocab_size` |
# | `norm_first=True` | `norm_first=True` | always | always in GPT-2 and Llama |

# %% tags=["export"]
import copy
import datetime
import math
import re
from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import torch
from lbdl import History, Muon, attention_maps, batches, check, choice, claim, claims_made
from lbdl import color, device, explore, figure, fit, note, schematic, seconds, seed, slider, table
from lbdl.chapters.ch03 import CausalNetwork, augment, count_runs, likelihood, next_token_loss
from lbdl.chapters.ch03 import windows
from lbdl.chapters.ch04 import attention_scores, batch_norm, conv2d, cost, difference
from lbdl.chapters.ch04 import rotary, sinusoids
from lbdl.data import fashion_mnist, glove, mnist, shakespeare, speech
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

# %%
DEVICE = device(needs=torch.float64)
EXACT = {"device": DEVICE, "dtype": torch.float64}  # for small demonstrations that should be exact
torch.backends.cudnn.allow_tf32 = False  # else NVIDIA GPUs round the factors of convolutions
summary = {}  # a row for each network that is trained here: for the table at the end

# %% [markdown]
# A few functions serve all sections. One recipe trains nearly everything: AdamW, with a learning rate that rises over
# the first fifth of the steps and then falls to zero (section 3.6).


# %% tags=["export"]
def classification_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the model's logits (B, C) for x (B, …), with classes y (B,) (book, 3.1)."""
    return F.cross_entropy(model(x), y)


def augmented_loss(generator: torch.Generator) -> Callable:
    """The same on images that are slightly turned, sheared, resized and shifted at random (book, 3.6)."""
    return lambda model, x, y: classification_loss(model, augment(x, generator), y)


def train(model, data, loss, rate: float, epochs: int = 1, **adamw) -> History:
    """Train by AdamW with one cycle of the learning rate, up to `rate`; `data` and `loss` as for fit."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, **adamw)
    steps = {"total_steps": epochs * len(data), "pct_start": 0.2, "cycle_momentum": False}
    return fit(model, data, loss, optimizer, epochs, OneCycleLR(optimizer, rate, **steps))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of x (N, …) to which the model, in evaluation mode, gives its class y (N,)."""
    mode = model.training
    model.eval()
    right = [model(x[k : k + 500]).argmax(1) == y[k : k + 500] for k in range(0, len(x), 500)]
    model.train(mode)
    return torch.cat(right).double().mean().item()


# %% [markdown]
# ## 5.1 Multi-Layer Perceptrons
#
# Can a network tell from the *meaning* of a word whether it ends in an s? And how much can a network express at all,
# if somebody gives it the right weights? Both questions can be asked of the simplest deep architecture, a pile of
# fully connected layers with activation functions between them: a **multi-layer perceptron**, or MLP. The perceptron
# of Rosenblatt (1958) had a single layer that learned; the word stayed. Every layer but the last is a **hidden
# layer**: its numbers, the *hidden units*, are neither given by the data nor compared with an answer. Nobody says
# what they should stand for. Training finds a use for them.
#
# The task fixes the two ends, as many inputs as an example has numbers and as many outputs as there are answers. What
# lies between is ours to choose: how many hidden layers, and how wide each of them, are hyper-parameters. Layers that
# get narrower towards the end, as here, make the network say with fewer and fewer numbers what it has found. In
# PyTorch an MLP is a list of modules in the order in which the signal meets them.

# %%
seed(0)
layers = [nn.Linear(50, 25), nn.ReLU(), nn.Linear(25, 10), nn.ReLU(), nn.Linear(10, 2)]
mlp = nn.Sequential(*layers).to(DEVICE)
samples = torch.randn(8, 50, generator=seed(1)).to(DEVICE)  # (B, 50)

# %% [markdown]
# Figures of networks are drawn in this chapter by running them. This one ran on a batch of eight, the $B$ in every
# shape: each sample goes its own way, and no layer mixes them.

# %% tags=["figure-5.1"]
fig, ax = plt.subplots(figsize=(2.6, 4.6))
look = {"names": {"input": "x"}, "letters": {8: "B"}, "batch": True, "output": "y", "size": 13}
said = schematic(ax, mlp, samples, **look)
figure("5.1", "A multi-layer perceptron with two hidden layers, as it ran.", said)

# %% [markdown]
# Each unit has one weight for every number that comes in, and a bias. So the first layer has 25 · 51 parameters, the
# second 10 · 26, the last 2 · 11, and each weight makes one multiplication for each sample. What the module computes
# is three affine maps with a ReLU after the first two, and nothing else; by hand it is three lines.

# %%
counted = cost(mlp, samples)
by_formula = (25 * 51 + 10 * 26 + 2 * 11, 8 * (25 * 50 + 10 * 25 + 2 * 10))
claim("the MLP's 1,557 parameters and its multiplications", counted == by_formula)

# %%
W1, b1, W2, b2, W3, b3 = [p.double() for p in mlp.parameters()]
h1 = (samples.double() @ W1.mT + b1).relu()  # (B, 25)
h2 = (h1 @ W2.mT + b2).relu()  # (B, 10)
in_64_bits = copy.deepcopy(mlp).double()(samples.double())  # (B, 2)
claim("the MLP by hand", in_64_bits, equals=h2 @ W3.mT + b3, within=1e-12)

# %% [markdown]
# Vectors of 50 numbers are at hand: the GloVe vectors of section 4.9, one for each of 20,000 English words, learned
# from which words stand near which. They were not told how words are spelled. Can a network tell from them whether a
# word is bare, like *year* and *run*, or has an s added, like *years* and *runs*? The examples are all pairs of such
# words in the list. The rule is blunt, as it takes *news* for several *new*, but nobody's taste is in it. Both words
# of a pair go to the same side of the split, every fifth pair to the test. So the network cannot profit from having
# seen *year* when it is asked about *years*, and half of the answers are "bare": guessing gets 0.5.

# %%
vectors = glove(DEVICE)
place = {word: i for i, word in enumerate(vectors.words)}
bare = [w for w in place if len(w) > 2 and w.isalpha() and w + "s" in place]

# %%
plural = {w + "s" for w in bare}
bare = [w for w in bare if w not in plural]  # "princes" would be in two pairs
pairs = torch.tensor([[place[w], place[w + "s"]] for w in bare], device=DEVICE)  # (P, 2)
is_test = torch.arange(len(pairs)) % 5 == 4

# %%
x, x_new = (vectors.vectors[p.flatten()] for p in (pairs[~is_test], pairs[is_test]))  # (N, 50)
y, y_new = ((torch.arange(len(words)) % 2).to(DEVICE) for words in (x, x_new))  # (N,) 1 with an s
print(f"{len(x):,} words to train, {len(x_new):,} to test")

# %% [markdown]
# Beside the MLP we train its baseline in the same way: one affine map, which is all that three layers without
# activations could be (section 4.1). Both go ten times through the words, with the cross-entropy of section 3.1.

# %%
seed(0)
affine, right = nn.Linear(50, 2).to(DEVICE), {}
for name, network in (("affine", affine), ("MLP", mlp)):
    history = train(network, batches(x, y, size=64), classification_loss, 3e-3, epochs=10)
    right[name] = accuracy(network, x_new, y_new)

# %%
claim("words with an s: accuracy of the MLP", right["MLP"], at_least=0.86)
claim("words with an s: MLP ahead of one affine map", right["MLP"] - right["affine"], at_least=0.02)
results = [f"{100 * right[name]:.1f} % of new words" for name in ("MLP", "affine")]
summary["MLP 50-25-10-2"] = (*cost(mlp, samples[:1]), history.seconds, results[0], results[1])

# %% [markdown]
# The affine map is right for more than four words in five, which says that one direction in these 50 dimensions
# points from bare words to those with an s. The hidden layers add several points. A likely reason: an s makes a noun
# plural and a verb third person, two different moves, and one direction has to serve both. Spelling was not in the
# data, but what an s does to the company of a word was.
#
# Two things in this small experiment are worth keeping. The baseline was trained in the same way, on the same data
# and for as long; else the difference would say little. And the test words had no part in the training, not even
# through the other word of their pair. Most wrong results in machine learning come from a baseline that got less
# care, or from a test that is not quite separate. In this chapter every network has a baseline beside it in the table
# at the end, and where the baseline wins, the text says so.
#
# ### Universal approximation
#
# How much can an MLP express? With one hidden layer of enough units, every continuous function on a closed and
# bounded region, to any accuracy. That is the **universal approximation theorem** (Cybenko, 1989, and Hornik,
# Stinchcombe and White, 1989, for sigmoids; Leshno and others, 1993, for every continuous activation that is not a
# polynomial). Both conditions matter. A sum of continuous units can only imitate a jump by a steep slope, and is
# wrong near it by half of its height. And outside the region nothing is promised: beyond its last bend a network of
# ReLUs is a straight line for ever.
#
# For functions of one number we can prove the theorem by computing the weights, without any training. We take a curve
# that nobody made up for the purpose: six thousandths of a second of a man saying "five". The recording has 48 values
# for them. A loudspeaker makes a smooth curve of such values, and the Fourier transform does the same with numbers.
# Speech is a fair test: it has slow and fast parts, high and low peaks, and no formula.

# %%
human = speech("human", DEVICE)
five = human.vocabulary.index("five")
word = human.waves[five, : human.lengths[five]].double()  # (T,)
smooth = torch.fft.irfft(torch.fft.rfft(word), n=128 * len(word))[128 * 1012 : 128 * 1060 + 1]
smooth = smooth / smooth.abs().max()  # (6145,)


# %%
def voice(t: Tensor) -> Tensor:
    """The sound pressure at times t (...) from 0 to 1, straight between its 6,145 values."""
    at = t * (len(smooth) - 1)
    left = at.long().clamp(0, len(smooth) - 2)
    return torch.lerp(smooth.to(t)[left], smooth.to(t)[left + 1], at - left)


# %%
def one_hidden(w: Tensor, b: Tensor, activation: nn.Module, v: Tensor, c: Tensor) -> nn.Sequential:
    """The MLP c + sum of v activation(w t + b), for w, b, v (n,) and c (1,)."""
    network = nn.Sequential(nn.Linear(1, len(w)), activation, nn.Linear(len(w), 1)).to(w)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (w[:, None], b, v[None], c), strict=True):
            parameter.copy_(value)
    return network


# %% [markdown]
# A network of one hidden layer is $c + \sum_i v_i\, \sigma(w_i t + b_i)$, and `one_hidden` makes one of given
# numbers.
#
# First with sigmoids. A sigmoid of large weight is nearly a step, so $n$ of them make a staircase of $n + 1$
# plateaus. Each shall be as high as the curve at its middle, so a step must rise by the difference of two neighbours.
# On a plateau one is nowhere further than $\frac{1}{2(n + 1)}$ from its middle; a curve of slope at most $L$ is then
# at most $\frac{L}{2(n + 1)}$ away. For an error of $\varepsilon$, $n + 1 \ge \frac{L}{2 \varepsilon}$ units are
# enough, and the proof is done.
#
# Then with ReLUs. One alone is a bend: flat, then rising. Let every unit have the weight 1 and start to rise at one
# of $n$ equally spaced knots, and let $v_i$ be the *change of slope* there. The sum is a broken line, and it goes
# through the curve at all knots.


# %%
def staircase(f: Callable, n: int, steepness: float) -> nn.Sequential:
    """n sigmoids that follow f on [0, 1] in n + 1 plateaus; steepness in units of a plateau."""
    edges = torch.linspace(0, 1, n + 2, **EXACT)  # (n + 2,)
    heights = f((edges[1:] + edges[:-1]) / 2)  # (n + 1,)
    w = torch.full((n,), steepness * (n + 1), **EXACT)
    return one_hidden(w, -w * edges[1:-1], nn.Sigmoid(), heights.diff(), heights[:1])


def broken_line(f: Callable, n: int) -> nn.Sequential:
    """n ReLUs whose sum goes through f at n + 1 equally spaced knots, straight in between."""
    knots = torch.linspace(0, 1, n + 1, **EXACT)  # (n + 1,)
    slopes = f(knots).diff() * n  # (n,)
    changes = slopes.diff(prepend=torch.zeros(1, **EXACT))  # (n,)
    return one_hidden(torch.ones(n, **EXACT), -knots[:-1], nn.ReLU(), changes, f(knots)[:1])


# %%
t = torch.linspace(0, 1, 6145, **EXACT)[:, None]  # (T, 1)


def largest_error(network: nn.Module) -> float:
    """The largest distance of a network from the voice at the times t."""
    return (network(t) - voice(t)).abs().max().item()


# %%
L = (smooth.diff().abs() * 6144).max().item()
n = math.ceil(L / (2 * 0.03)) - 1  # for an error of 0.03
claim(
    f"{n} sigmoids: error, of 0.03 allowed", largest_error(staircase(voice, n, 1000)), at_most=0.03
)

# %%
knots = torch.linspace(0, 1, 25, **EXACT)[:, None]  # (25, 1)
claim("24 ReLUs meet the voice", broken_line(voice, 24)(knots), equals=voice(knots), within=1e-12)

# %% [markdown]
# How quickly does the error fall? For steps the bound says it: twice the units, half the error. A broken line is
# better, because a smooth curve leaves a chord by at most an eighth of its second derivative times the *square* of
# the chord's length: twice the units, a quarter of the error. We measure both over three doublings; the exponent of
# $n$ should be −1 and −2.


# %%
def power(build: Callable) -> float:
    """The exponent with which the error of a construction falls from 64 to 512 units."""
    return math.log(largest_error(build(512)) / largest_error(build(64)), 8)


# %%
steps, bends = power(lambda n: staircase(voice, n, 1000)), power(lambda n: broken_line(voice, n))
claim("sigmoids: the error falls as n to the power of", steps, at_least=-1.15, at_most=-0.85)
claim("ReLUs: the error falls as n to the power of", bends, at_least=-2.15, at_most=-1.85)

# %% [markdown]
# Try both kinds. The green curve is the voice, the blue one the network, and below are the units that are added up.
# Three things to try. Add units, of either kind, and see where the largest error goes. With sigmoids, lower the
# steepness: gentle steps first do better than sharp ones, until they are so gentle that they miss the peaks. With
# ReLUs, look at the units: each is zero up to its knot, and most leave the picture, since a later one has to undo
# what an earlier one began. Large contributions of opposite signs that nearly cancel are typical of networks, and one
# reason why the weights of a trained one are so hard to read.

# %%
drawn_at = torch.linspace(0, 1, 481, **EXACT)[:, None]  # (T, 1)


# %%
def scene(fig):
    """Above, a piece of a spoken word and a network that follows it. Below, the units it adds up."""
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    milliseconds, sound = 6 * drawn_at[:, 0].cpu(), voice(drawn_at)[:, 0].cpu()
    top.plot(milliseconds, sound, color=color.truth, lw=1.2)
    (line,) = top.plot([], [], color=color.model)
    worst = top.vlines([0], 0, 0, color=color.gradient, lw=2)
    parts = bottom.vlines([], 0, 0, color=color.weights, lw=0.9)
    top.set(xlim=(0, 6), ylim=(-0.9, 1.25), ylabel="network")
    bottom.set(ylim=(-1.4, 1.4), xlabel="time (ms)", ylabel="its units")

    def update(units, steepness, activation):
        relu = activation == "ReLU"
        network = broken_line(voice, units) if relu else staircase(voice, units, steepness)
        with torch.no_grad():
            total = network(drawn_at)[:, 0].cpu()  # (T,)
            each = (network[2].weight * network[:2](drawn_at)).mT.cpu()  # (units, T)
        gap, at = (total - sound).abs().max(dim=0)
        line.set_data(milliseconds, total)
        parts.set_segments([torch.stack([milliseconds, part], dim=1).numpy() for part in each])
        worst.set_segments([[(milliseconds[at], sound[at]), (milliseconds[at], total[at])]])
        return f"{units} units of {activation}: the largest error, in orange, is {gap:.3f}"

    return update


# %%
knobs = {"steepness": slider(1, 40, 20), "activation": choice(["sigmoid", "ReLU"])}
explore(
    scene, "5.1a", "A network computed, not trained.", (7.5, 4), units=slider(2, 60, 16), **knobs
)

# %% [markdown]
# ### Computed against trained
#
# That a good network exists does not say that training finds it. The same curve and 24 ReLUs once more, but now the
# weights start at random, and Adam has 1,500 steps, on all of 193 points at once, so that chance enters only through
# the start. The learning rate goes down to zero in a straight line, so that the network is at rest at the end and not
# caught in the middle of a swing. It could reach the computed weights: they are in its range. Time runs from −1 to 1,
# which is kinder to it: PyTorch draws weights and biases around zero, and about half of the bends fall inside.

# %%
points = torch.linspace(0, 1, 193, **EXACT)[:, None]  # (N, 1)
t_193, sound = 2 * points.float() - 1, voice(points).float()  # (N, 1) each
seed(4)
learner = nn.Sequential(nn.Linear(1, 24), nn.ReLU(), nn.Linear(24, 1)).to(DEVICE)

# %%
optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
fade = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=1500)
data = batches(t_193, sound, size=193)
history = fit(learner, data, lambda f, x, y: F.mse_loss(f(x), y), optimizer, 1500, fade)

# %%
computed = (broken_line(voice, 24)(points) - voice(points)).square().mean().sqrt().detach()
trained = (learner(t_193) - sound).square().mean().sqrt().detach()
claim(
    "24 trained ReLUs: their error over that of 24 computed ones", trained / computed, at_least=1.5
)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
curves = (broken_line(voice, 24)(drawn_at), learner(2 * drawn_at.float() - 1))  # (T, 1) each
for ax, curve, title in zip(axes, curves, ("computed", "trained"), strict=True):
    ax.plot(6 * drawn_at.cpu(), voice(drawn_at).cpu(), color=color.truth)
    ax.plot(6 * drawn_at.cpu(), curve.detach().cpu(), color=color.model)
    ax.set(title=f"24 ReLUs, {title}", xlabel="time (ms)")
said = f"The computed network follows the voice; the trained one is {trained / computed:.1f} times as far off."
figure("5.1b", "The same network, computed and trained.", said, held="trained")

# %% [markdown]
# The trained network does not come near the computed one, though it could be the same. A bend moves only as far as
# the loss pulls it, and between two peaks nothing pulls. Where the bends come to lie is decided by the start, more
# than by the curve. Wide networks are trained more easily for this reason: among many bends there are enough in the
# right places. Another start gives another picture, sometimes worse and sometimes better, but among twenty that we
# tried the trained network was never closer than twice the distance of the computed one.
#
# So the theorem is about what a network can represent, and says nothing of what training will find, nor of how many
# units are needed. In many dimensions the construction itself is hopeless: a grid of ten knots a side in 784
# dimensions, those of a digit, has $10^{784}$ of them. What makes learning possible there is structure, in the data
# and in the network, and the architectures of the other two sections are ways to put some of it in.
#
# **Exercise.** Make a hat from three ReLUs: 0 up to `left`, straight up to 1 at `peak`, straight down to 0 at
# `right`, and 0 from there on. What must the slope change by at each of the three bends?


# %% tags=["exercise"]
def hat(t: Tensor, left: float, peak: float, right: float) -> Tensor:
    """A hat at t (...): 0 outside left to right, 1 at the peak, straight in between; by ReLUs only."""
    raise NotImplementedError


ticks = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 9.0])
even = torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0])
uneven = torch.tensor([0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0])
check(
    hat,
    ("an even hat from 1 to 5", lambda g: (g(ticks, 1.0, 3.0, 5.0), even)),
    ("a hat that falls more slowly than it rises", lambda g: (g(ticks, 1.0, 3.0, 7.0), uneven)),
)


# %% tags=["solution", "hide-input"]
def hat(t: Tensor, left: float, peak: float, right: float) -> Tensor:
    """The slope becomes `up`, then `down`, then 0: changes of up, down - up, and -down."""
    up, down = 1 / (peak - left), -1 / (right - peak)
    return up * (t - left).relu() + (down - up) * (t - peak).relu() - down * (t - right).relu()


# %% [markdown]
# ## 5.2 Convolutional networks
#
# How does a network come to read a digit that stands a little to the left, and how deep may it be? **Image
# processing**, which is to clean pictures, to find things in them, to say what they show, makes two demands on a
# model. A picture has many numbers: a photograph of a telephone has tens of millions. And a thing in it may stand
# anywhere. A fully connected layer has a weight of its own from every pixel to every unit. It pays for each pixel,
# and what it learns about one place it does not know about any other. A convolution (section 4.2) answers both
# demands: its few weights are used at every place, so a stroke learned in one corner is known in all.
#
# A **convolutional network** is built of such layers, and usually has two parts. First come convolutions and pooling.
# From layer to layer the maps have fewer places and more channels: what stands exactly where is given up, bit by bit,
# for what it is. Channels of the first layer answer to edges and strokes, later ones to combinations of these. This
# part is the **feature extractor**; at its end is a list of numbers that describes the picture. Then comes a small
# multi-layer perceptron, the *head*, which reads the list and decides. The most famous early network of this form
# reads handwritten digits: **LeNet** (LeCun and others, 1989 and 1998), here with the maximum pooling and the ReLU
# that came later. Both parts are kept apart by name, since chapter 6 and others use the first without the second.


# %% tags=["export"]
class LeNet(nn.Module):
    """A convolutional network: images (B, 1, 28, 28) to the logits (B, 10) of ten classes (book, 5.2)."""

    def __init__(self):
        super().__init__()
        first = nn.Conv2d(1, 32, kernel_size=5), nn.MaxPool2d(3), nn.ReLU()  # (B, 32, 8, 8)
        second = nn.Conv2d(32, 64, kernel_size=5), nn.MaxPool2d(2), nn.ReLU()  # (B, 64, 2, 2)
        self.features = nn.Sequential(*first, *second, nn.Flatten())  # (B, 256)
        self.head = nn.Sequential(nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 10))  # (B, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"LeNet: expected images (B, 1, 28, 28), got {tuple(x.shape)}")
        return self.head(self.features(x))


# %%
digits, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
digits_new, labels_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
seed(0)
lenet = LeNet().to(DEVICE, memory_format=torch.channels_last)

# %% tags=["figure-5.2"]
fig, ax = plt.subplots(figsize=(4, 6.2))
look = {"names": {"x": "a digit"}, "output": "10 logits", "size": 10}
said = schematic(ax, lenet, digits_new[:1], **look)
figure("5.2", "A LeNet-like network, drawn by running it.", said, fig)

# %% [markdown]
# Read the figure from the bottom up. Each arrow has the shape of the tensor on it: channels first, then height and
# width. A kernel of 5 × 5 has 28 − 5 + 1 = 24 places in a row of 28 pixels, and pooling by 3 leaves 8. The next
# kernel finds 8 − 5 + 1 = 4 places, and pooling by 2 leaves 2. With 64 channels of 2 × 2 that is a list of 256
# numbers for the head, a third of what came in, but numbers of another kind: each says how much of some pattern there
# is in one of four large regions. Convolutions and pooling would take images of any size; it is only the head, with
# its 256 inputs, that asks for 28 × 28 pixels. The pooling stands before the ReLU: cutting off at zero before taking
# the largest number, or after it, gives the same, and afterwards there are nine times fewer numbers to cut.
#
# What does each layer cost? We carry a digit through the network, part by part, and note sizes, parameters and
# multiplications; the formulas of section 4.2 foretell all of them. A convolution from $C$ to $E$ channels has $E\,(C
# K^2 + 1)$ parameters, and uses each weight once at every place of its output. A fully connected layer has a
# parameter for every pair of an input and an output, uses it once, and has a bias for every output.

# %%
sizes, costs, signal = [], {}, digits_new[:1]
names = iter(["convolution 1", "convolution 2", "fully connected 1", "fully connected 2"])
for part in (*lenet.features, *lenet.head):
    if isinstance(part, nn.Conv2d | nn.Linear):
        costs[next(names)] = cost(part, signal)
    signal = part(signal)
    sizes.append(tuple(signal.shape[1:]))
different = list(dict.fromkeys(sizes))  # ReLU and flattening change none

# %%
expected = [(32, 24, 24), (32, 8, 8), (64, 4, 4), (64, 2, 2), (256,), (200,), (10,)]
claim("LeNet's sizes are those of the book", different == expected)
expected = [(32 * 26, 24**2 * 32 * 25), (64 * 801, 4**2 * 64 * 800)]  # convolutions
expected += [(257 * 200, 256 * 200), (201 * 10, 200 * 10)]
claim("LeNet's parameters and multiplications, layer by layer", list(costs.values()) == expected)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 2.4), sharey=True)
titles = {"parameters": color.weights, "multiplications for an image": color.gradient}
for k, (ax, (title, shade)) in enumerate(zip(axes, titles.items(), strict=True)):
    counts = [pair[k] for pair in costs.values()]
    ax.bar_label(ax.barh(list(costs), counts, color=shade), [f"{n:,}" for n in counts], padding=4)
    ax.set(title=f"{title}: {sum(counts):,}", xticks=[], xlim=(0, 1.35 * max(counts)))
axes[0].invert_yaxis()
said = "; ".join(
    f"{layer}: {p:,} parameters, {m:,} multiplications" for layer, (p, m) in costs.items()
)
figure("5.2a", "The first layer has few parameters and much of the work.", said)

# %% [markdown]
# Parameters and work are in different places, and that is typical. The first layer has less than a hundredth of the
# parameters and a third of the work, since each of its weights is used at 576 places. The fully connected layers have
# half of the parameters and hardly any work: each of their weights is used once. Whoever wants a smaller file shrinks
# the head; whoever wants a faster network shrinks the first layers. Residual networks, below, have almost no head
# left, and nearly all of their weights are shared.
#
# Is sharing weights worth anything? The baseline is a perceptron with one hidden layer and as many parameters. Both
# train in the same way on 8,000 digits, which `augment` of section 3.6 turns, shears, resizes and shifts a little,
# anew each time, so that even the perceptron sees every digit in several places.

# %%
seed(0)
perceptron = nn.Sequential(nn.Flatten(), nn.Linear(784, 132), nn.ReLU(), nn.Linear(132, 10))
perceptron, runs = perceptron.to(DEVICE), {}
for name, network in (("perceptron", perceptron), ("LeNet", lenet)):
    run = train(network, batches(digits, labels, size=64), augmented_loss(seed(1)), 4e-3, epochs=9)
    runs[name] = run.seconds, accuracy(network, digits_new, labels_new)

# %%
gain = runs["LeNet"][1] - runs["perceptron"][1]
claim("LeNet: accuracy on digits never seen", runs["LeNet"][1], at_least=0.984)
claim("LeNet ahead of a perceptron of its size", gain, at_least=0.006)
results = [f"{100 * right:.1f} % of new digits" for _, right in runs.values()]
summary["LeNet"] = (*cost(lenet, digits_new[:1]), runs["LeNet"][0], *results[::-1])

# %% [markdown]
# About two thirds of the perceptron's mistakes are gone, for the same number of parameters. With 2,000 test images
# one image is 0.05 %, and the choice of test images alone moves such an accuracy by a quarter of a percent; the gap
# is several times that.
#
# Where does it come from? Move all test digits by two pixels to the right and down, more than `augment` does. Weight
# sharing is made for that: the maps move along, and pooling takes up part of the move. A turn by 90 degrees is
# another matter. Nothing in a convolution knows of turns, and a network that has never seen a lying digit has no
# reason to read it. What an architecture knows without learning is its *inductive bias* (section 1.3), and it is
# always a bias towards something in particular. Where a task has other symmetries, other layers have been built:
# graphs, in which the neighbours have no order (the last chapter has a section on them), or molecules, which may be
# turned in space.


# %%
def right_after(change: Callable, network: nn.Module) -> float:
    """Accuracy on the test digits after a change."""
    return accuracy(network, change(digits_new), labels_new)


def moved(x: Tensor) -> Tensor:
    """Images (B, 1, H, W) moved by two pixels to the right and down."""
    return F.pad(x, (2, -2, 2, -2))


# %%
lost = {
    net: runs[name][1] - right_after(moved, net)
    for name, net in zip(runs, (perceptron, lenet), strict=True)
}

# %%
claim("moved by two pixels: LeNet loses less, by", lost[perceptron] - lost[lenet], at_least=0.01)
turned = right_after(lambda x: x.rot90(1, dims=(2, 3)), lenet)
claim("LeNet: accuracy on digits turned by 90 degrees", turned, at_most=0.3)

# %% [markdown]
# Now disturb a digit yourself, and watch the signal on its way to the answer. Three things to try. Turn it until the
# network changes its mind; how far one may turn depends on the digit, and for some on the direction. Move it, and see
# the 32 maps of the first layer move along, until strokes leave the page. Cover it from above: when the picture is
# blank, the network must still answer, because its ten probabilities always add up to one, and there is no class for
# nothing.

# %%
of_each = [(labels_new == digit).nonzero()[0].item() for digit in range(10)]
ten, reader = digits_new[of_each].cpu(), copy.deepcopy(lenet).cpu()  # (10, 1, 28, 28)


def disturbed(x: Tensor, turn: float, right: int, down: int) -> Tensor:
    """Images (B, 1, H, W) turned by degrees, then moved by pixels."""
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    maps = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]]).expand(len(x), 2, 3)
    turned = F.grid_sample(
        x, F.affine_grid(maps, x.shape, align_corners=False), align_corners=False
    )
    return F.pad(turned, (right, -right, down, -down))


# %%
def scene(fig):
    """A digit, the 32 maps of LeNet's first layer, and ten probabilities as bars."""
    axes = fig.subplots(1, 3, width_ratios=[1, 2, 1])
    picture = axes[0].imshow(ten[0, 0], cmap="gray_r", vmin=0, vmax=1)
    sheet = axes[1].imshow(torch.zeros(36, 72), cmap="Blues", vmin=0, vmax=1)
    bars = axes[2].barh(range(10), [0] * 10, color=color.model)
    axes[2].set(xlim=(0, 1), xticks=[0, 1], yticks=range(10), ylim=(9.6, -0.6))
    titles = ("the digit", "32 maps of 8 × 8", "probability")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    for ax in axes[:2]:
        ax.set(xticks=[], yticks=[])

    def update(digit, turn, right, down, covered_rows):
        x = disturbed(ten[digit : digit + 1], turn, right, down)
        x[:, :, :covered_rows] = 0
        with torch.no_grad():
            maps = F.pad(reader.features[:3](x)[0], (0, 1, 0, 1))  # (32, 9, 9) with a margin
            shares = reader(x).softmax(dim=1)[0].tolist()
        picture.set_data(x[0, 0])
        rows = maps.unflatten(0, (4, 8)).transpose(1, 2)  # (4, 9, 8, 9)
        sheet.set_data(rows.reshape(36, 72))
        for k, (bar, share) in enumerate(zip(bars, shares, strict=True)):
            bar.set_width(share)
            bar.set_color(color.model if k == digit else color.test)
        return f"a {digit}, which LeNet takes for a {shares.index(max(shares))}"

    return update


# %%
knobs = {"digit": slider(0, 9, 3), "turn": slider(-180, 180, 0, 5), "right": slider(-10, 10, 0)}
knobs |= {"down": slider(-10, 10, 0), "covered_rows": slider(0, 28, 0)}
caption = "A digit disturbed, and what LeNet makes of it."
explore(scene, "5.2b", caption, (8.5, 2.4), held="trained", **knobs)

# %% [markdown]
# **Exercise.** What would a layer cost without sharing? Count the parameters of a fully connected layer that has the
# inputs and outputs of a $K \times K$ convolution on square maps of $H \times H$, without padding. (For LeNet's first
# layer compare your answer with the 832 of the convolution.)


# %% tags=["exercise"]
def without_sharing(C: int, E: int, K: int, H: int) -> int:
    """Parameters of a fully connected layer from (C, H, H) to what a K × K convolution to E channels gives."""
    raise NotImplementedError


check(
    without_sharing,
    ("one channel, 2 × 2 kernel, 3 × 3 image: 4 · (9 + 1)", lambda g: (g(1, 1, 2, 3), 40)),
    ("the first layer of LeNet", lambda g: (g(1, 32, 5, 28), 32 * 24**2 * 785)),
    ("the second layer of LeNet", lambda g: (g(32, 64, 5, 8), 64 * 4**2 * (32 * 8**2 + 1))),
)


# %% tags=["solution", "hide-input"]
def without_sharing(C: int, E: int, K: int, H: int) -> int:
    """Each of E (H − K + 1)² outputs has a weight for every input, and a bias."""
    inputs, outputs = C * H**2, E * (H - K + 1) ** 2
    return outputs * (inputs + 1)


# %% [markdown]
# ### Residual networks
#
# LeNet has four layers with weights. Deeper networks should be better, since they can compute all that shallow ones
# compute, and more. For years they were not: beyond some twenty layers even the *training* error rose. It was not a
# matter of overfitting; gradient descent did not find the good weights that must exist. A **residual network**, or
# ResNet (He and others, 2016), puts a way around every few layers (section 4.7). The layers then compute a *change*
# of the signal, and where there is nothing to change, weights near zero are enough. Before, a layer that should leave
# its input alone had to learn the identity.
#
# The unit is the **residual block**. It works on few channels, to save work: a 1 × 1 convolution reduces $C$ channels
# to `hidden` ones, a 3 × 3 convolution looks at the surroundings, another 1 × 1 convolution leads back to $C$. After
# each stands batch normalization (section 4.6), which makes biases superfluous, and after the first two a ReLU. Then
# the input is added, and a last ReLU follows the sum. If the block has a stride $S$ and other channels going out, it
# is a **downscaling residual block**: the input no longer fits, and the way around needs a 1 × 1 convolution of its
# own. The names of the parts are those of torchvision, the most used library of such networks, so that published
# weights fit.
#
# In code the way around is one line. Before the last ReLU, `y` is the change, and `x`, or what the way around makes
# of it, is added. The attribute `skip` is there for one experiment at the end of this section, which takes the way
# around out and leaves everything else as it is.


# %% tags=["export"]
class ResidualBlock(nn.Module):
    """Convolutions 1 × 1, 3 × 3, 1 × 1 and a way around: (B, C, H, W) to (B, C_out, H / S, W / S).

    Without C_out and with stride 1 it is the book's residual block (5.2), else the downscaling one;
    torchvision calls both Bottleneck. `skip = False` on a block takes the way around out.
    """

    def __init__(self, C: int, hidden: int, C_out: int | None = None, stride: int = 1):
        super().__init__()
        C_out, self.skip = C_out or C, True
        self.conv1, self.bn1 = nn.Conv2d(C, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, C_out, 1, bias=False), nn.BatchNorm2d(C_out)
        self.downsample = None
        if C_out != C or stride > 1:
            way_around = nn.Conv2d(C, C_out, 1, stride, bias=False), nn.BatchNorm2d(C_out)
            self.downsample = nn.Sequential(*way_around)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))  # (B, hidden, H, W)
        y = F.relu(self.bn2(self.conv2(y)))  # (B, hidden, H / S, W / S)
        y = self.bn3(self.conv3(y))  # (B, C_out, H / S, W / S)
        if self.skip:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y)


# %% [markdown]
# Both are drawn from a run, with the letters of the book, on maps of 56 × 84 so that $H$ and $W$ can be told apart.
# $C'$ stands for `C_out`. In the second figure both ways make the maps smaller by the same stride, so that they fit
# where they meet: a 3 × 3 convolution with padding 1 and a 1 × 1 convolution without padding both leave every $S$-th
# place.

# %%
block = ResidualBlock(256, 64).to(DEVICE)
downscaling = ResidualBlock(256, 128, 512, stride=2).to(DEVICE)
maps = torch.rand(1, 256, 56, 84, device=DEVICE)  # (B, C, H, W), with H and W told apart
letters = {256: "C", 64: "hidden", 128: "hidden", 512: "C'", 28: "H/S", 42: "W/S", 56: "H", 84: "W"}
look = {"passing": color.gradient, "output": "y", "size": 11, "letters": letters}

# %% tags=["figure-5.3"]
fig, ax = plt.subplots(figsize=(3.2, 6))
said = schematic(ax, block, maps, **look)
figure("5.3", "A residual block, as it ran.", said)

# %% tags=["figure-5.4"]
words = {"conv2": "conv 3 × 3\nstride S, padding 1", "downsample.0": "conv 1 × 1\nstride S"}
fig, ax = plt.subplots(figsize=(3.8, 6))
said = schematic(ax, downscaling, maps, names=words, **look)
figure("5.4", "A downscaling residual block with stride S, as it ran.", said)

# %% [markdown]
# Follow the orange way from the bottom: in the first block it meets nothing but the sum. However many blocks are put
# on top of each other, the signal has a way through all of them, and so has the gradient on its way back. In the
# second block the way around meets one convolution. There are only a few of those in a whole network, one where each
# stage begins. The ReLU stands after the sum, so what travels along the orange way from block to block is never
# negative. Later versions moved normalization and ReLU in front of the convolutions, so that nothing at all stands on
# the way (He and others, 2016, a second paper); the Transformers of the next section have the same choice, and took
# the same turn.
#
# Is it what we know? Here is the block by hand, from chapter 4's convolution and batch normalization. Outputs and all
# gradients must agree, for a plain block, for one with other channels, and for one with a stride.


# %%
def block_by_hand(x: Tensor, *w: Tensor, stride: int = 1) -> Tensor:
    """A residual block with weights in the order of named_parameters; the last three of the way around."""
    y = batch_norm(conv2d(x, w[0]), w[1], w[2]).relu()
    y = batch_norm(conv2d(y, w[3], stride=stride, padding=1), w[4], w[5]).relu()
    y = batch_norm(conv2d(y, w[6]), w[7], w[8])
    around = batch_norm(conv2d(x, w[9], stride=stride), w[10], w[11]) if len(w) > 9 else x
    return (y + around).relu()


def block_gap(C_out: int, stride: int) -> float:
    """Largest difference between block_by_hand and ResidualBlock, in outputs and all gradients."""
    block = ResidualBlock(6, 4, C_out, stride).to(**EXACT)
    names = [name for name, _ in block.named_parameters()]
    tensors = [torch.randn(w.shape, generator=seed(1)).to(**EXACT) for w in block.parameters()]
    x = torch.randn(2, 6, 8, 10, generator=seed(2)).to(**EXACT)

    def by_torch(x: Tensor, *w: Tensor) -> Tensor:
        return functional_call(block, dict(zip(names, w, strict=True)), x)

    return difference(partial(block_by_hand, stride=stride), by_torch, x, *tensors)


# %%
gaps = [block_gap(C_out, stride) for C_out, stride in ((6, 1), (10, 1), (10, 2))]
claim("three residual blocks by hand and by torch, with gradients", max(gaps), at_most=1e-9)

# %% [markdown]
# Why the detour over few channels? One 3 × 3 convolution from 256 to 256 channels would have eight times the weights
# of this whole block, and do eight times the work. The block spends most of its work on 1 × 1 convolutions, which
# look at one place and mix its channels, and little on looking around. Blocks of this form are called *bottlenecks*.
# The shallower members of the family, with 18 and 34 layers, have blocks of two 3 × 3 convolutions instead.

# %%
in_block = sum(w.numel() for w in block.parameters() if w.dim() == 4)
in_one = nn.Conv2d(256, 256, 3, bias=False).weight.numel()
claim("weights of a 3 × 3 convolution over those of a block", in_one / in_block, at_least=8)

# %% [markdown]
# A residual network is a stem, which makes maps of the image, then stages of blocks, then an average over all places
# and one fully connected layer. Within a stage all maps have one size. Each stage but the first begins with a block
# that halves height and width and doubles the channels, so that a quarter of the places has twice the channels. The
# average makes the network independent of the image's size, where LeNet, which flattens its maps, is not; and it
# leaves the head one weight for each channel and class, however large the maps are. A classifier needs only the last
# maps. Detection and segmentation (chapter 6) want those of all stages, coarse ones for what a thing is and fine ones
# for where it is: `maps` returns them.
#
# The stem comes in two kinds. For photographs a 7 × 7 convolution and a pooling, both with stride 2, shrink the image
# to a quarter before any block sees it, because work at full size would be sixteen times as much. For images that are
# small already, a 3 × 3 convolution leaves the size as it is. In the loop $C$ is always the number of channels that
# the next stage will get.


# %% tags=["export"]
class ResNet(nn.Module):
    """A residual network: images (B, channels, H, W) to logits (B, classes); by default ResNet-50.

    depths: blocks of each stage; width: channels of the stem, and hidden channels of the first stage.
    stem: "large" shrinks images to a quarter, as for photographs; "small" keeps their size.
    """

    def __init__(self, depths=(3, 4, 6, 3), classes=1000, channels=3, width=64, stem="large"):
        super().__init__()
        if stem not in ("large", "small"):
            raise ValueError(f"ResNet: expected stem to be 'large' or 'small', got {stem!r}")
        K, stride = (7, 2) if stem == "large" else (3, 1)
        self.conv1 = nn.Conv2d(channels, width, K, stride, padding=K // 2, bias=False)
        self.bn1, self.depths = nn.BatchNorm2d(width), depths
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "large" else nn.Identity()
        C = width
        for k, depth in enumerate(depths):
            hidden, C_out = width * 2**k, 4 * width * 2**k
            blocks = [ResidualBlock(C, hidden, C_out, stride=2 if k else 1)]
            blocks += [ResidualBlock(C_out, hidden) for _ in range(depth - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*blocks))
            C = C_out
        self.fc = nn.Linear(C, classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps (B, C, h, w) after the stem and after each stage."""
        found = [self.maxpool(F.relu(self.bn1(self.conv1(x))))]
        for k in range(len(self.depths)):
            found.append(self.get_submodule(f"layer{k + 1}")(found[-1]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x)[-1].mean(dim=(2, 3)))  # (B, classes)


# %% [markdown]
# **ResNet-50** has 3, 4, 6 and 3 blocks. Fifty counts the layers with weights on the longest way: one convolution in
# the stem, three in each of 16 blocks, and the fully connected layer. For years it was the network against which all
# others were compared. Its parameters and multiply-adds are published numbers, 25.6 million and 4.1 billion for an
# image of 224 × 224 pixels. If ours has exactly as many, down to the last one, it is hardly another network; a test
# of this project also compares the 320 names and shapes of its state with torchvision's. (What this chapter counts as
# multiplications are called multiply-adds or MACs elsewhere, and some count two operations for each.)

# %%
seed(0)
resnet50, image = ResNet().eval().to(DEVICE), torch.rand(1, 3, 224, 224).to(DEVICE)
parameters, multiplications = cost(resnet50, image)
claim("ResNet-50: 25,557,032 parameters", parameters == 25_557_032)
claim("ResNet-50: 4,089,184,256 multiplications", multiplications == 4_089_184_256)

# %%
with torch.no_grad():
    sizes = [tuple(maps.shape[1:]) for maps in resnet50.maps(image)]
expected = [(64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
claim("ResNet-50: maps after the stem and each stage", sizes == expected)

# %% [markdown]
# There is a balance in the design. From one stage to the next there are a quarter of the places, and twice the
# channels on both sides of every convolution, so four times the products at each place. A residual block therefore
# costs the same in every stage, exactly.

# %%
stages = [resnet50.get_submodule(f"layer{k}") for k in (1, 2, 3, 4)]
inputs = [torch.rand(1, *sizes[k]).to(DEVICE) for k in (1, 2, 3, 4)]
costs = [cost(stage[1], x)[1] for stage, x in zip(stages, inputs, strict=True)]
claim("a residual block costs the same in each stage", costs == costs[:1] * 4)

# %% [markdown]
# Figure 5.5 shows the network with its blocks closed. It is too tall for a page, so it is cut in two halves, made of
# the network's own parts; the arrow that leaves the first on top enters the second at the bottom. Blocks of one kind
# that follow each other are drawn once, with their number. Look at the sizes where a stage begins, and at the very
# beginning: the stem alone, a convolution and a pooling, leaves a sixteenth of the places.

# %% tags=["figure-5.5"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 5.9))
stem = [resnet50.conv1, resnet50.bn1, nn.ReLU(), resnet50.maxpool]
lower = nn.Sequential(*stem, resnet50.layer1, resnet50.layer2)
ending = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), resnet50.fc]
upper = nn.Sequential(resnet50.layer3, resnet50.layer4, *ending)
look, said = {"closed": (ResidualBlock,), "size": 10}, []
ends = (("image", "to the second half"), ("from the first half", "logits"))
with torch.no_grad():
    inputs = image, lower(image)
for ax, half, x, (first, last) in zip(axes, (lower, upper), inputs, ends, strict=True):
    names = {ResidualBlock: "residual block", "input": first}
    for name, module in half.named_modules():
        if isinstance(module, ResidualBlock) and module.downsample is not None:
            names[name] = f"downscaling residual block\nstride {module.conv2.stride[0]}"
    said.append(schematic(ax, half, x, names=names, output=last, **look))
figure("5.5", "ResNet-50, from the bottom left to the top right.", " Second half. ".join(said))

# %% [markdown]
# Where, then, are the parameters, the work, the memory? `account` counts them by the formulas, for any choice of
# blocks, width and image size; for ResNet-50 it must agree with what `cost` measured. Memory means what training has
# to keep for the backward pass: what goes into each normalization and what comes out of it, two numbers of 32 bits
# for every number that a convolution makes.

# %%
PARTS = ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"]


def account(depths: tuple, width: int, side: int) -> Tensor:
    """Parameters, multiplications and numbers that come out of convolutions, by part: (6, 3)."""
    side //= 4
    stem = [147 * width + 2 * width, 147 * width * (2 * side) ** 2, width * (2 * side) ** 2]
    rows, C = [stem], width
    for k, depth in enumerate(depths):
        h, row = width * 2**k, torch.zeros(3, dtype=torch.float64)
        for n in range(depth):
            before, side = side, side // 2 if k and n == 0 else side
            shapes = [(C, h, 1, before), (h, h, 3, side), (h, 4 * h, 1, side)]
            shapes += [(C, 4 * h, 1, side)] if n == 0 else []  # the way around
            for c, out, K, places in shapes:
                w, size = c * out * K**2, places**2
                row += torch.tensor([w + 2 * out, w * size, out * size])
            C = 4 * h
        rows.append(row.tolist())
    return torch.tensor([*rows, [1000 * (C + 1), 1000 * C, 1000]])


# %%
totals = account((3, 4, 6, 3), 64, 224).sum(0)  # (3,)
counted = [parameters, multiplications]
claim("the design board counts ResNet-50 right", totals[:2], equals=torch.tensor(counted).float())


# %% [markdown]
# The default of the design board is ResNet-50: its parameters are at the end, its memory at the beginning, its work
# everywhere. Three things to try. Make one stage long, and see which bars grow. Halve the width: parameters and work
# fall to about a quarter, memory to a half. Double the image: work and memory become four times as much, and the
# parameters do not change at all. That is why training on large photographs runs out of memory long before the
# parameters are a problem, and why a small batch is the first remedy.


# %%
def scene(fig):
    """Three panels of bars: a residual network's shares of parameters, multiplications and memory."""
    axes, bars, heads = fig.subplots(1, 3, sharey=True), [], []
    for ax, shade in zip(axes, (color.weights, color.gradient, color.model), strict=True):
        bars.append(ax.barh(PARTS, [1] * 6, color=shade))
        ax.set(xlim=(0, 1), ylim=(5.6, -0.6))
        ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        heads.append(ax.text(0, 1.03, "", weight="bold", transform=ax.transAxes))

    def update(stage_1, stage_2, stage_3, stage_4, width, image_size):
        depths = (stage_1, stage_2, stage_3, stage_4)
        sums = account(depths, width, image_size)  # (6, 3)
        p, m, numbers = sums.sum(0).tolist()
        words = [f"{p / 1e6:.1f} M parameters", f"{m / 1e9:.2f} G multiplications"]
        words.append(
            f"{8 * numbers / 1e6:.0f} MB kept to train"
        )  # in and out of each norm, 32 bits
        for k, shares in enumerate((sums / sums.sum(0)).T.tolist()):
            heads[k].set_text(words[k])
            for bar, share in zip(bars[k], shares, strict=True):
                bar.set_width(share)
        return f"{2 + 3 * sum(depths)} layers deep: " + ", ".join(words) + " for an image"

    return update


# %%
knobs = {f"stage_{i}": slider(1, 36, d) for i, d in enumerate((3, 4, 6, 3), start=1)}
knobs |= {"width": slider(16, 128, 64, 16), "image_size": slider(32, 448, 224, 32)}
explore(scene, "5.2c", "A design board for residual networks.", (8.5, 3), **knobs)

# %% [markdown]
# Does the way around pay? Two networks with 31 convolutions on the longest way and the same weights at the start see
# the same images in the same order; in one the skips are taken out. The images are 5,000 pieces of clothing of ten
# kinds, Fashion-MNIST, which are harder than digits. The baseline is one affine map on the pixels: a deep network
# that does not beat it has learned nothing that needs depth. The depth is that at which plain networks begin to fail:
# ten blocks of three convolutions each, and a stem that shrinks the images at once to 7 × 7, so that a step is quick.
# The learning rate is high for such networks; batch normalization makes it bearable, in the plain one, too.

# %%
clothes, kinds = fashion_mnist("train", DEVICE)  # (5000, 1, 28, 28), (5000,)
clothes_new, kinds_new = fashion_mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
seed(0)
affine = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to(DEVICE)
train(affine, batches(clothes, kinds, size=100), classification_loss, 2e-3, epochs=10)
baseline = accuracy(affine, clothes_new, kinds_new)


# %%
def small_resnet(skip: bool) -> ResNet:
    """A residual network of ten blocks for clothes, with skips or without; always the same at first."""
    seed(0)
    net = ResNet((2, 4, 4), classes=10, channels=1, width=16)
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            block.skip = skip
    return net.to(DEVICE, memory_format=torch.channels_last)


nets = {"residual": small_resnet(True), "plain": small_resnet(False)}
data = {name: batches(clothes, kinds, size=100) for name in nets}
runs = {name: train(net, data[name], classification_loss, 1e-2, 5) for name, net in nets.items()}
right = {name: accuracy(net, clothes_new, kinds_new) for name, net in nets.items()}

# %%
claim("residual network: accuracy on clothes never seen", right["residual"], at_least=0.82)
claim("residual network ahead of an affine map", right["residual"] - baseline, at_least=0.015)
claim("residual network ahead of the plain one", right["residual"] - right["plain"], at_least=0.03)
for name, net in nets.items():
    results = (
        f"{100 * right[name]:.1f} % of new clothes",
        f"{100 * baseline:.1f} % by an affine map",
    )
    summary[f"{name} network"] = (*cost(net, clothes_new[:1]), runs[name].seconds, *results)

# %% [markdown]
# With the skips the network is ahead of the affine map after some twenty seconds; without them, the same weights and
# the same time end behind it. More time would help the plain network, for its loss is still falling: what is shown is
# that it learns more slowly, not that it never could. (Larger networks, more images and more time bring such networks
# well above 0.9 on these clothes; chapter 6 goes some of the way.)
#
# What do the blocks of the residual network do? If each adds a small change to a signal that passes by, then none is
# indispensable. Veit and others (2016) tried it: take one block out of a trained network, without any further
# training, and test it. All blocks but the first of each stage keep the shape, and can be replaced by the identity.
# If the network were a chain of steps, each of which needs the one before, this should ruin it.

# %%
PLACES = [(1, 1), *((2, n) for n in (1, 2, 3)), *((3, n) for n in (1, 2, 3))]  # stage, block


def without(net: ResNet, stage: int, n: int) -> float:
    """Accuracy of a copy in which one block is replaced by the identity."""
    net = copy.deepcopy(net)
    net.get_submodule(f"layer{stage}")[n] = nn.Identity()
    return accuracy(net, clothes_new, kinds_new)


left = {name: [without(net, *place) for place in PLACES] for name, net in nets.items()}
typical = {name: torch.tensor(shares).median() for name, shares in left.items()}
kept = typical["residual"] / right["residual"]
claim("residual network: share of accuracy kept without a block", kept, at_least=0.75)
claim("plain network: accuracy without one block", typical["plain"], at_most=0.4)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3), width_ratios=[1, 1.3])
shades = {"residual": color.model, "plain": color.test}
for k, (name, shade) in enumerate(shades.items()):
    curve = torch.tensor(runs[name].steps).view(-1, 10).mean(1)
    axes[0].plot(range(5, 250, 10), curve, color=shade)
    axes[0].text(252, curve[-1], name, color=shade, va="center")
    axes[1].bar(torch.arange(7) + 0.4 * k, left[name], width=0.38, color=shade)
    axes[1].axhline(right[name], color=shade, ls="--", lw=1)
axes[0].set(xlabel="step", ylabel="training loss", xlim=(0, 330), ylim=(0, 2.5))
axes[1].set(ylim=(0, 1), ylabel="accuracy", xlabel="stage and number of the block that is left out")
axes[1].set_xticks(torch.arange(7) + 0.2, [f"{stage}.{n}" for stage, n in PLACES])
said = "Left, two losses fall, the residual one faster. Right, without one of seven blocks the residual "
said += f"network has an accuracy of about {typical['residual']:.2f}, the plain one {typical['plain']:.2f}."
figure(
    "5.2d", "Training with skips and without, and what one block is worth.", said, held="trained"
)

# %% [markdown]
# On the left are the two trainings, on the right the accuracy without each block; dashed, that of the whole network.
# The residual network hardly misses a block, whichever it is. In the plain one every layer depends on exactly what
# the layer before has made, and one missing block brings it down to little more than guessing. That is a reason why
# depth stops hurting: with a way around, a new block begins as a small correction to a network that works already.
# One can also read it in another way. A signal can take the way around or the branch at every block, so ten blocks
# hold a thousand ways through the network, most of which pass through about half of the branches. To take one block
# out closes half of these ways; in the plain network there is only one.
#
# **Exercise.** In use, batch normalization multiplies each channel by a number and adds another, both known from its
# weights and its stored moments. So a convolution and the normalization after it can be merged into one convolution
# with biases, which is what programs do that run such networks fast. Compute its weights and biases.


# %% tags=["exercise"]
def merged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weights (C_out, C, K, K) and biases (C_out,) of one convolution that does what both do, in use."""
    raise NotImplementedError


def both_ways(g: Callable, C: int, C_out: int, spread: float) -> tuple[Tensor, Tensor]:
    """What the merged convolution gives and what the pair gives, with statistics as after a training."""
    chance = seed(3)
    conv = nn.Conv2d(C, C_out, 3, bias=False).to(DEVICE)
    norm = nn.BatchNorm2d(C_out).to(DEVICE).eval()
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        values.data = (spread * (0.5 + torch.rand(C_out, generator=chance))).to(DEVICE)
    x = torch.rand(2, C, 5, 5, generator=chance).to(DEVICE)
    return F.conv2d(x, *g(conv, norm)).detach(), norm(conv(x)).detach()


check(
    merged,
    ("3 channels to 5", lambda g: both_ways(g, 3, 5, 1.0)),
    ("4 to 4, with other variances", lambda g: both_ways(g, 4, 4, 0.3)),
    ("variances near eps", lambda g: both_ways(g, 2, 3, 1e-4)),
)


# %% tags=["solution", "hide-input"]
def merged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A factor for each output channel, so along the first dimension of the weights."""
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()  # (C_out,)
    weight = conv.weight * factor[:, None, None, None]  # (C_out, C, K, K)
    return weight, norm.bias - factor * norm.running_mean


# %% [markdown]
# ## 5.3 Attention models
#
# How does a network read a sentence, in which the last word may depend on the first? **Natural Language Processing**
# is what a computer does with text: it translates, answers, sums up. In a text, what belongs together may stand far
# apart: a pronoun and its noun, a question and its answer. A convolution with a small kernel needs many layers to
# bring them together. Attention (section 4.8) reaches any distance in one step, and looks where the content says. The
# **Transformer** (Vaswani and others, 2017) is a network of little else. It was built to translate, and nearly all
# language models of today descend from it.
#
# Three things are worth taking from this section. A Transformer is a pile of residual blocks of three kinds, so that
# the signal is a sum to which each block adds. Only attention moves information between positions; all other work is
# done at each position alone. And a causal mask lets one pass through the network train the predictions at all
# positions of a text at once. The second half then takes the same blocks apart again in two ways: GPT keeps only the
# part that writes, and the Vision Transformer only the part that reads. Everything is built from the same few
# classes, and they are worth reading slowly: whoever knows them can read the code of any large language model. Their
# options have names that are common in the field, and the table at the top of the chapter tells how other libraries
# call the sizes.
#
# ### Three blocks
#
# The layer is that of section 4.8, with PyTorch's fused `scaled_dot_product_attention` inside. $B$ sequences of $T$
# positions with $D$ channels each attend to a `source` of $S$ positions, or to themselves where no source is given.
# Three linear layers make of each vector a *query*, what this position looks for, a *key*, what it has to offer, and
# a *value*, what it hands over to those who look; a fourth mixes the results of the $H$ heads. Each head works on $D
# / H$ channels. The scores of a query are the softargmax of its products with all keys, and what comes out is the
# mean of the values, weighted by these scores. A `mask` is True where a position may be attended to, as in
# `scaled_dot_product_attention`; older PyTorch layers mean the opposite by it. The options `causal`, `rotary`
# (section 4.10), `qk_norm` and `cache` serve GPT, and are explained there. `scores` computes what the fused operator
# never writes down: who looks at whom. We shall want it for pictures.
#
# Heads are made by reshaping. A vector of $D$ numbers is read as $H$ rows of $D / H$, and the dimension of the heads
# moves in front of that of the positions, so that PyTorch treats heads like further samples of the batch: products of
# queries and keys are then formed within a head only. At the end the way back puts the results of all heads side by
# side, and the last linear layer mixes them. Nothing else in the layer knows that there are heads. Why several? One
# set of scores can look for one thing at a time; with four heads a word can look for its verb and for the word before
# it at once, at no more cost, since each head is a quarter as wide.


# %% tags=["export"]
class Attention(nn.Module):
    """Multi-head attention (book, 4.8): x (B, T, D) attends to source (B, S, D), or to itself.

    causal: position t sees the source up to its own. rotary: the base of rotary positions. qk_norm:
    RMS norm of queries and keys. A mask, True where x may attend, broadcasts to (B, H, T, S).
    """

    def __init__(self, D, H, causal=False, rotary: float | None = None, qk_norm=False):
        super().__init__()
        if D % H:
            raise ValueError(f"Attention: expected D to be a multiple of H, got {D} and {H}")
        self.H, self.causal, self.rotary, self.qk_norm = H, causal, rotary, qk_norm
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.H, -1)).transpose(1, 2)  # (B, H, T, D / H)

    def placed(self, x: Tensor, start: int) -> Tensor:
        x = F.rms_norm(x, x.shape[-1:]) if self.qk_norm else x
        positions = torch.arange(start, start + x.shape[2], device=x.device)
        return x if self.rotary is None else rotary(x, positions, self.rotary)

    def parts(self, x, source=None, mask=None, cache=None):
        source, start = x if source is None else source, 0 if cache is None else len(cache)
        Q = self.placed(self.heads(self.query(x)), start)
        K = self.placed(self.heads(self.key(source)), start)
        V = self.heads(self.value(source))
        K, V = (K, V) if cache is None else cache.update(K, V)
        if self.causal:  # x has the last T of S positions
            T, S = Q.shape[2], K.shape[2]
            past = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
            mask = past if mask is None else past & mask
        return Q, K, V, mask

    def forward(self, x, source=None, mask=None, cache=None) -> Tensor:
        Q, K, V, mask = self.parts(x, source, mask, cache)
        y = F.scaled_dot_product_attention(Q, K, V, mask)  # (B, H, T, D / H)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, D)

    def scores(self, x, source=None, mask=None) -> Tensor:
        """The attention scores (B, H, T, S), which the fused operator never writes down."""
        Q, K, _, mask = self.parts(x, source, mask)
        return attention_scores(Q, K, mask)


# %% [markdown]
# From it and from a perceptron come three blocks. The **feed-forward block** is a perceptron with one hidden layer,
# the same at each position: what is known at a position is worked on there. The **self-attention block** lets the
# positions of one sequence look at each other. In the **cross-attention block** one sequence looks at another, which
# it does not change: queries come from `x`, keys and values from `source`. That is how a translation looks at its
# original; the source need not even be a text, as long as it has $D$ channels. A self-attention block without the
# others would only average, over and over; a feed-forward block without attention would treat each word as if it
# stood alone. It takes both, in turns, and the depth of a Transformer is the number of such turns. Of the weights of
# a layer two thirds are in the feed-forward block, when its hidden layer is four times as wide as the signal; much of
# what large models know about the world is thought to be kept there.
#
# All three are residual blocks, as in section 5.2, and for the same reason: what a block computes is added to the
# signal. All contain a layer normalization, and where it stands makes a difference. In 2017 it stood behind the sum
# (*post-norm*). Then every block rescales all that came from below, the gradient is rescaled again and again on its
# way back, and training fails unless the learning rate starts very small (Xiong and others, 2020). With `norm_first`
# it stands in front of the branch (*pre-norm*): the branch gets numbers of the right size, and the sum itself stays
# untouched from the first block to the last. Nearly all models since GPT-2 do so, and so do ours unless told
# otherwise.


# %% tags=["export"]
class FeedForwardBlock(nn.Module):
    """A residual block with a perceptron at each position: (B, T, D) to (B, T, D) (book, 5.3)."""

    def __init__(self, D, hidden, norm_first=True, norm=nn.LayerNorm, activation=nn.GELU):
        super().__init__()
        self.norm, self.norm_first = norm(D), norm_first
        self.layers = nn.Sequential(nn.Linear(D, hidden), activation(), nn.Linear(hidden, D))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            return x + self.layers(self.norm(x))
        return self.norm(x + self.layers(x))


class SelfAttentionBlock(nn.Module):
    """A residual block of attention among the positions of x (B, T, D); options as for Attention."""

    def __init__(self, D, H, norm_first=True, norm=nn.LayerNorm, **options):
        super().__init__()
        self.norm, self.norm_first, self.attention = norm(D), norm_first, Attention(D, H, **options)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache=None) -> Tensor:
        if self.norm_first:
            return x + self.attention(self.norm(x), mask=mask, cache=cache)
        return self.norm(x + self.attention(x, mask=mask, cache=cache))


class CrossAttentionBlock(nn.Module):
    """A residual block in which x (B, T, D) attends to a source (B, S, D): to (B, T, D)."""

    def __init__(self, D, H, norm_first=True, norm=nn.LayerNorm, **options):
        super().__init__()
        self.norm, self.norm_first, self.attention = norm(D), norm_first, Attention(D, H, **options)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.norm_first:
            return x + self.attention(self.norm(x), source, mask)
        return self.norm(x + self.attention(x, source, mask))


# %% [markdown]
# In the figure the attention is closed as one box, since the section on it has opened it, and the letters stand for
# the sizes: ten positions, a source of seven, 32 channels. Follow the orange line from $x$: it meets nothing but the
# sum. The source, in the third block, passes by the norm as well, for it was normalized where it was made.

# %% tags=["figure-5.6"]
signal, other = torch.randn(1, 10, 32).to(DEVICE), torch.randn(1, 7, 32).to(DEVICE)
trio = {"feed-forward": FeedForwardBlock(32, 128), "self-attention": SelfAttentionBlock(32, 4)}
trio["cross-attention"] = CrossAttentionBlock(32, 4)
look = {"letters": {10: "T", 7: "S", 32: "D", 128: "4 D"}, "passing": color.gradient}
fig, axes = plt.subplots(1, 3, figsize=(8.5, 4.3))
said = []
for ax, (kind, block) in zip(axes, trio.items(), strict=True):
    inputs = (signal, other) if kind == "cross-attention" else (signal,)
    closed = {"closed": (Attention,), "names": {Attention: f"{kind}\n4 heads"}}
    said.append(f"{kind} block: {schematic(ax, block.to(DEVICE), *inputs, **look, **closed)}")
    ax.set_title(f"{kind} block", loc="center", y=-0.1)
figure("5.6", "The three blocks of a Transformer, as they ran.", " ".join(said))

# %% [markdown]
# PyTorch has two combinations ready. `nn.TransformerEncoderLayer` is a self-attention and a feed-forward block: look
# around, then think. `nn.TransformerDecoderLayer` has a cross-attention block between them: look back at what is
# written, look at the source, think. From our blocks they are two lines each. If ours hold the same numbers under
# other names, outputs and gradients must be the same. `torch_names` translates the names; PyTorch keeps the matrices
# of queries, keys and values in one, on top of each other. The weights are first moved a little, at random: norms
# that are all still one and zero could be exchanged without anybody noticing. The decoder layer holds all three
# blocks, and chapter 4 has held PyTorch's attention against the formula. From here on we need not look inside any
# more.


# %% tags=["export"]
class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward: (B, T, D) to (B, T, D). With causal=True, a layer of GPT."""

    def __init__(
        self, D, H, hidden, norm_first=True, norm=nn.LayerNorm, activation=nn.GELU, **options
    ):
        super().__init__()
        self.attention = SelfAttentionBlock(D, H, norm_first, norm, **options)
        self.feed_forward = FeedForwardBlock(D, hidden, norm_first, norm, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache=None) -> Tensor:
        return self.feed_forward(self.attention(x, mask, cache))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, feed-forward: x (B, S, D), source (B, T, D) to (B, S, D)."""

    def __init__(self, D, H, hidden, norm_first=True, norm=nn.LayerNorm, activation=nn.GELU):
        super().__init__()
        self.attention = SelfAttentionBlock(D, H, norm_first, norm, causal=True)
        self.cross_attention = CrossAttentionBlock(D, H, norm_first, norm)
        self.feed_forward = FeedForwardBlock(D, hidden, norm_first, norm, activation)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.feed_forward(self.cross_attention(self.attention(x), source, mask))


# %%
seed(1)
x, source = (torch.randn(2, size, 12).to(**EXACT) for size in (5, 7))  # (B, T, D), (B, S, D)


# %%
def torch_names(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our DecoderLayer under the names of PyTorch's."""
    found = {}
    for n, (ours, torchs) in enumerate(
        (("attention", "self_attn"), ("cross_attention", "multihead_attn"))
    ):
        for kind in ("weight", "bias"):
            thirds = [w[f"{ours}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"{torchs}.in_proj_{kind}"] = torch.cat(thirds)  # (3 D, D) or (3 D,)
            found[f"{torchs}.out_proj.{kind}"] = w[f"{ours}.attention.out.{kind}"]
            found[f"norm{n + 1}.{kind}"] = w[f"{ours}.norm.{kind}"]
            found[f"linear{n + 1}.{kind}"] = w[f"feed_forward.layers.{2 * n}.{kind}"]
            found[f"norm3.{kind}"] = w[f"feed_forward.norm.{kind}"]
    return found


def layer_gap(norm_first: bool) -> float:
    """Largest difference between our DecoderLayer and PyTorch's: in outputs and gradients."""
    ours = DecoderLayer(12, 3, 48, norm_first).to(**EXACT)
    for w in ours.parameters():
        w.data += torch.randn(w.shape).to(w) / 5
    torchs = nn.TransformerDecoderLayer(12, 3, 48, 0.0, "gelu", 1e-5, True, norm_first).to(**EXACT)
    torchs.load_state_dict(torch_names(dict(ours.named_parameters())))
    future = torch.ones(5, 5, dtype=torch.bool, device=DEVICE).triu(1)  # True: not allowed
    return difference(ours, partial(torchs, tgt_mask=future), x, source)


# %%
gaps = [layer_gap(norm_first) for norm_first in (True, False)]
claim("all three blocks and torch's, norm first and last, with gradients", max(gaps), at_most=1e-10)

# %% [markdown]
# That is about numbers. What do the blocks *do*? Change the vector at the third of five positions, and see at which
# positions the output notices. This one experiment tells the blocks apart, and it is a test worth having for every
# model that is meant to be causal: a network that sees the future in training reaches a wonderful loss, and is
# useless. All three results follow from the structure alone, whatever the weights are, so random ones will do.


# %%
def noticed(block: nn.Module) -> list[int]:
    """Which of five positions, counted from 1, notice a new vector at the third."""
    changed, block = x.clone(), block.to(**EXACT)
    changed[:, 2] = torch.randn(12, generator=seed(5)).to(**EXACT)
    gaps = (block(changed) - block(x)).abs().amax((0, 2))  # (T,)
    return [t + 1 for t in range(5) if gaps[t] > 1e-9]


# %%
claim("feed-forward: each position alone", noticed(FeedForwardBlock(12, 48)) == [3])
claim("self-attention: all positions", noticed(SelfAttentionBlock(12, 3)) == [1, 2, 3, 4, 5])
claim("causal: itself and later ones", noticed(SelfAttentionBlock(12, 3, causal=True)) == [3, 4, 5])

# %% [markdown]
# What does such a layer cost? The four projections make $4\,T D^2$ multiplications, and the feed-forward block, whose
# hidden layer is four times as wide by custom, $8\,T D^2$. To compare all pairs of positions and to mix the values
# takes $2\,T^2 D$. That square is dreaded, and the reason for much research. But its share in the whole is $T / (6 D
# + T)$. It depends on $T / D$ alone, and is one half only at $T = 6 D$, so wide models may read long texts: in a
# layer of GPT-3, with 2,048 tokens and 12,288 channels, it is under three hundredths. For a hundred pages in a narrow
# model it is nearly everything, and then other forms of attention pay, which compare each position with some others
# only. (A causal kernel that skips what the mask hides needs half of the square; `cost` counts all pairs, and a few
# multiplications more for the scaling of the scores.)

# %%
off, square = [], {}
for name, T, D, H in (("GPT-3", 2048, 12288, 96), ("GPT-2", 1024, 768, 12)):
    with torch.device("meta"):  # shapes without numbers
        counted = cost(EncoderLayer(D, H, 4 * D), torch.empty(1, T, D))[1]
    off.append(abs(counted / (12 * T * D**2 + 2 * T**2 * D) - 1))  # it also counts the scaling
    square[name] = 2 * T**2 * D / counted
claim("multiplications of both layers, off the formula by", max(off), at_most=1e-3)
claim("GPT-3: share of the square", square["GPT-3"], at_least=0.02, at_most=0.03)
claim("GPT-2: share of the square", square["GPT-2"], at_least=0.15, at_most=0.2)

# %% [markdown]
# **Exercise.** Somebody plans a model of width $D$ and is willing to spend a given share of a layer's multiplications
# on the square. Up to which length is that enough? Solve the formula for $T$, and round down.


# %% tags=["exercise"]
def longest_text(D: int, share: float) -> int:
    """The largest T for which the square is at most this share (0 to 1) of all multiplications."""
    raise NotImplementedError


check(
    longest_text,
    ("at D = 768, 45 % of the work", lambda g: (g(768, 0.45), 3770)),
    ("at D = 768, 30 % of the work", lambda g: (g(768, 0.3), 1974)),
    ("at D = 100, 65 % of the work", lambda g: (g(100, 0.65), 1114)),
)


# %% tags=["solution", "hide-input"]
def longest_text(D: int, share: float) -> int:
    """From share = T / (6 D + T) follows T = 6 D share / (1 - share)."""
    return math.floor(6 * D * share / (1 - share))


# %% [markdown]
# ### The Transformer
#
# The original Transformer translates, in two halves. The **encoder** reads the whole source at once and gives a
# vector for each of its $T$ tokens, in which by then the whole sentence is reflected. The **decoder** writes the
# target one token after the other. Its causal self-attention looks at what is written so far, its cross-attention at
# the vectors of the encoder, and at the top stand logits for the token that comes next. Tokens are numbers; an
# embedding (section 4.9) makes vectors of them. Attention has no sense of order, so the sinusoids of section 4.10 are
# added to tell the positions.
#
# Sentences of a batch have different lengths, and the shorter ones are filled up with a token that means nothing, the
# *padding*. Nobody may look at it: `mask` is True where there is a real token. A causal encoder and padding go
# together, since `Attention` combines both masks.
#
# The two stacks differ in one layer and one argument. Each ends, where norms come first, with one more normalization:
# the sum that arrives at the top has grown with every block, and what reads it wants numbers of one size. `encode`
# and `decode` are apart, because a translation is written token by token from one and the same encoding.


# %% tags=["export"]
class AddSinusoids(nn.Module):
    """The sinusoidal positional encoding, added: (B, T, D) to (B, T, D) (book, 4.10)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + sinusoids(torch.arange(x.shape[1]).to(x), x.shape[2])  # (B, T, D) + (T, D)


class TransformerEncoder(nn.Module):
    """EncoderLayers: x (B, T, D) to (B, T, D); `mask` (B, T) is True where x has a token, not padding."""

    layer = EncoderLayer

    def __init__(self, D, H, layers, hidden, norm_first=True, norm=nn.LayerNorm, **options):
        super().__init__()
        made = (self.layer(D, H, hidden, norm_first, norm, **options) for _ in range(layers))
        self.layers, self.norm = nn.ModuleList(made), norm(D) if norm_first else nn.Identity()

    def forward(self, x: Tensor, *source: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, *source, mask=None if mask is None else mask[:, None, None])  # (B, T, D)
        return self.norm(x)


class TransformerDecoder(TransformerEncoder):
    """DecoderLayers: x (B, S, D) and source (B, T, D), whose tokens `mask` (B, T) tells, to (B, S, D)."""

    layer = DecoderLayer


# %% tags=["export"]
class Transformer(nn.Module):
    """Tokens of a source (B, T) and a target (B, S) to logits (B, S, target_vocabulary) (book, 5.3)."""

    def __init__(
        self, source_vocabulary, target_vocabulary, D=48, H=4, layers=2, hidden=96, **options
    ):
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary, D)
        self.target_embedding = nn.Embedding(target_vocabulary, D)
        self.positions = AddSinusoids()
        self.encoder = TransformerEncoder(D, H, layers, hidden, **options)
        self.decoder = TransformerDecoder(D, H, layers, hidden, **options)
        self.head = nn.Linear(D, target_vocabulary)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """The encoder's vectors Z (B, T, D)."""
        return self.encoder(self.positions(self.source_embedding(source)), mask=mask)

    def decode(self, target: Tensor, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (B, S, target_vocabulary) of what follows each token of the target."""
        x = self.positions(self.target_embedding(target))  # (B, S, D)
        return self.head(self.decoder(x, Z, mask=mask))

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(source, mask), mask)


# %% [markdown]
# Figure 5.7 is drawn from a run with one layer in each half; the paper had six. The right column is the encoder, the
# left one the decoder, and the encoder's result enters it in the middle block. There the shapes $S \times D$ and $T
# \times D$ meet, and $S \times D$ goes on: however long the source, each position of the target gets one vector.

# %% tags=["figure-5.7"]
drawn = Transformer(124, 13, layers=1).to(DEVICE)
tokens = [torch.ones(1, n, device=DEVICE, dtype=torch.long) for n in (9, 11)]
names = {"source": "source tokens", "target": "target tokens so far"}
names |= {AddSinusoids: "+ positions", FeedForwardBlock: "feed-forward block"}
names |= {SelfAttentionBlock: "self-attention block", CrossAttentionBlock: "cross-attention block"}
names["decoder.layers.0.attention"] = "causal self-attention block"
look = {"letters": {9: "T", 11: "S", 48: "D"}, "output": "logits", "size": 10, "names": names}
closed = (AddSinusoids, FeedForwardBlock, SelfAttentionBlock, CrossAttentionBlock)
fig, ax = plt.subplots(figsize=(4.6, 6))
said = schematic(ax, drawn, *tokens, closed=closed, **look)
figure("5.7", "The encoder-decoder Transformer, as it ran with one layer in each half.", said)

# %% [markdown]
# Two properties make it work, and both are easily lost by a wrong mask. In training the decoder gets the true target
# as its input, moved by one place, and predicts all its tokens in one pass; that is called *teacher forcing*. In use
# it gets what it has written itself, token by token. Both must give the same logits, else it would be trained for
# another task than the one it is used for. And padding must change nothing; without the mask it does, for the network
# would read the filling as words.

# %%
seed(3)
model = Transformer(20, 13).to(**EXACT)
source = torch.randint(20, (4, 9), generator=seed(4)).to(DEVICE)  # (B, T)

# %%
target = torch.randint(13, (4, 6), generator=seed(5)).to(DEVICE)  # (B, S)
at_once, Z = model(source, target), model.encode(source)
one_by_one = torch.stack([model.decode(target[:, : s + 1], Z)[:, -1] for s in range(6)], dim=1)
claim("all tokens at once, and one by one", at_once, equals=one_by_one, within=1e-10)

# %%
padded = F.pad(source, (0, 3))  # (B, T + 3), with token 0
is_token = torch.arange(12, device=DEVICE).expand(4, 12) < 9  # (B, T + 3)
claim("padding changes nothing", model(padded, target, is_token), equals=at_once, within=1e-10)
forgotten = (model(padded, target) - at_once).abs().max().item()
claim("without the mask it does", forgotten, at_least=0.01)

# %% [markdown]
# To learn a language takes millions of sentences and days. So ours translates something smaller that is translated
# every day all the same: people write dates in all kinds of ways, and computers want one, the year first. Here are
# six ways, in two languages. The rules hide in details: the 1st, 2nd and 3rd but the 11th, and two digits of a year
# that mean 1950 to 1999 or 2000 to 2049. The last two ways contradict each other: Americans put the month first, the
# British the day. Where the day is above 12 one can tell; elsewhere nobody can.

# %%
MONTHS = "January February March April May June July August September October November December"
GERMAN = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def ways_to_write(date: datetime.date) -> list[str]:
    """Six ways in which people write a date from 1950 to 2049."""
    d, m, y = date.day, date.month, date.year
    month, monat = (names.split()[m - 1] for names in (MONTHS, GERMAN))
    th = "th" if 10 < d < 14 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    return [
        f"{d} {month} {y}",
        f"{DAYS[date.weekday()]}, the {d}{th} of {month} {y}",
        f"{month[:3]} {d}, '{y % 100:02}",
        f"{d}. {monat} {y}",
        f"{m}/{d}/{y}",
        f"{d}/{m}/{y}",
    ]


# %% [markdown]
# Of the 36,525 days of these hundred years, 200 are set aside: the training texts mention none of them, in any form.
# From the others come 32,000 texts, each a random day in a random way. Source tokens are words in small letters,
# single digits, and punctuation; the list of them is short, because dates are. Target tokens are digits, hyphens, a
# start ▸, from which the first digit is predicted, and an end ◂. Our answers all have ten symbols; in general only
# the network can know when a translation is complete, and says so by the probability of the end. For a real language
# the lists would have tens of thousands of entries, and rare words would be cut into pieces (section 3.2).

# %%
draws, day_one = seed(1), datetime.date(1950, 1, 1)
order = torch.randperm(36525, generator=draws).tolist()  # a number for each day
all_days = [day_one + datetime.timedelta(number) for number in order]
days_new, days_old = all_days[:200], all_days[200:]
picks = torch.randint(len(days_old), (32_000,), generator=draws).tolist()
ways = torch.randint(6, (32_000,), generator=draws).tolist()
texts = [ways_to_write(days_old[k])[way] for k, way in zip(picks, ways, strict=True)]


def pieces(text: str) -> list[str]:
    """The tokens of a text: "3rd, '87" gives 3, rd, comma, apostrophe, 8, 7."""
    return re.findall(r"[^\W\d_]+|\S", text.lower())


vocabulary = [
    "(padding)",
    "(unknown)",
    *sorted({piece for text in texts for piece in pieces(text)}),
]
SYMBOLS, START, number_of = "▸◂-0123456789", 0, {word: n for n, word in enumerate(vocabulary)}


# %%
def to_source(texts: list[str]) -> Tensor:
    """The tokens (B, T) of B texts, with 0 for padding."""
    rows = [torch.tensor([number_of.get(piece, 1) for piece in pieces(text)]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(DEVICE)


def to_target(dates: list[datetime.date]) -> Tensor:
    """The symbols (B, 12) of dates, with start and end."""
    rows = [[0, *map(SYMBOLS.index, date.isoformat()), 1] for date in dates]
    return torch.tensor(rows, device=DEVICE)


def date_loss(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each symbol of targets (B, S + 1), with those before it as input."""
    logits = model(source, target[:, :-1], source != 0)  # (B, S, 13)
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())


# %% [markdown]
# The loss is the cross-entropy of every symbol of the answer, given the symbols before it. Input and target are the
# same sequence, moved against each other by one: without its last symbol it goes in, without its first it is what
# should come out. All twelve tokens but the first are predicted in one pass, each from those before it, and padding
# of the source is hidden by the mask. A mistake of one place here is the classic of the field. Moved by none, the
# network learns to copy its input and reaches a loss of zero; moved by two, it learns next to nothing.
#
# The decoder gives logits; how do we get a text? *Greedy decoding* takes the likeliest token, appends it, and asks
# again. The encoder runs once, the decoder for every token. Here for many sources at once, for a fixed number of
# steps; what comes after an end is to be ignored. Our decoder reads all that is written anew at every step. That is
# wasteful, and GPT, further below, does better; for eleven symbols it does not matter.


# %% tags=["export"]
@torch.no_grad()
def greedy_decode(model, source: Tensor, mask: Tensor | None, start: int, length: int) -> Tensor:
    """The likeliest token again and again: source (B, T) to (B, 1 + length), which begins with `start`."""
    Z = model.encode(source, mask)  # (B, T, D)
    target = torch.full((len(source), 1), start, device=source.device)  # (B, 1)
    for _ in range(length):
        likeliest = model.decode(target, Z, mask)[:, -1].argmax(dim=-1)  # (B,)
        target = torch.cat([target, likeliest[:, None]], dim=1)
    return target


# %%
seed(0)
translator = Transformer(len(vocabulary), len(SYMBOLS)).to(DEVICE)
data = batches(to_source(texts), to_target([days_old[k] for k in picks]), size=32)
history = train(translator, data, date_loss, 5e-3)


def exact_match(texts: list[str], dates: list[datetime.date]) -> float:
    """Share of the texts whose translation has all symbols right."""
    source = to_source(texts)
    written = greedy_decode(translator.eval(), source, source != 0, START, 11)  # (B, 12)
    return (written == to_target(dates)).all(dim=1).double().mean().item()


# %%
exam = [(date, k) for date in days_new for k in range(6) if k < 4 or date.day > 12]
matched = exact_match([ways_to_write(date)[k] for date, k in exam], [date for date, _ in exam])
claim("dates never seen, all symbols right", matched, at_least=0.98)
pair = to_source(["Tuesday, the 3rd of March 1987"]), to_target([datetime.date(1987, 3, 3)])
result = f"{100 * matched:.1f} % of new dates"
summary["Transformer, dates"] = (*cost(translator, *pair), history.seconds, result, "guessing: 0")

# %% [markdown]
# The bar is an exact match: all ten symbols of a date that no training text mentioned. Texts with slashes and a day
# up to 12 can be read in two ways, and are left out of the exam. After 1,000 steps, half a minute, hardly a text is
# wrong. The network was never told what a month is, that *März* and *March* are one, or that a year has four digits;
# all of it is in the examples. The larger Transformer of the paper had 213 million weights, and was trained for three
# and a half days on eight graphics processors to translate from English into German and French.
#
# Where does it look? `attention_maps` of `lbdl` hangs a hook on every `Attention` of a model and asks it for its
# scores as the signal passes. It serves for GPT and for the Vision Transformer as well. Six attentions answer here:
# one in each layer of the encoder, two in each of the decoder.


# %% [markdown]
# The widget shows the maps of the last cross-attention, one for each head: what was read from top to bottom, what is
# written from left to right. A square is dark where the decoder, about to write that symbol, looks at that word.
# Three things to try. Change the way of writing: the heads find year, month and day wherever they stand, and where
# one word serves for two digits, both look at it. Choose the 3rd of April in the last two ways, which look the same.
# Then leave the hundred years of the training, and see when the answers break.

# %%
on_cpu = copy.deepcopy(translator).cpu().eval()


# %%
def scene(fig):
    """Four heat maps, one for each head: tokens read from top to bottom, symbols written across."""
    axes = fig.subplots(1, 4)
    maps = [ax.imshow(torch.zeros(12, 10), "Blues", vmin=0, vmax=1, aspect="auto") for ax in axes]
    for k, ax in enumerate(axes):
        ax.set(xticks=[], yticks=[], title=f"head {k + 1}")
        ax.spines[:].set_visible(False)
    across = [ax.text(s, 11.9, "", ha="center", va="top") for ax in axes for s in range(10)]
    down = [axes[0].text(-0.8, t, "", ha="right", va="center") for t in range(12)]
    axes[0].set_yticks([5], ["wednesday"], color="white")  # keeps room for the words
    axes[0].tick_params(length=0)

    def update(day, month, year, way):
        date = datetime.date(year, month, day)
        text = ways_to_write(date)[way - 1]
        words, source = pieces(text), to_source([text]).cpu()  # (1, T)
        written = greedy_decode(on_cpu, source, None, START, 10)  # (1, 11)
        found = attention_maps(on_cpu, source, written[:, :10])
        heads = found["decoder.layers.1.cross_attention.attention"][0]  # (H, 10, T)
        for picture, scores in zip(maps, F.pad(heads, (0, 12 - len(words))), strict=True):
            picture.set_data(scores.T)
        answer = "".join(SYMBOLS[n] for n in written[0, 1:])
        for letter, symbol in zip(across, 4 * answer, strict=True):
            letter.set_text(symbol)
        for letter, word in zip(down, [*words, *[""] * 12], strict=False):
            letter.set_text(word)
        return "the answer is right" if answer == date.isoformat() else f"it should be {date}"

    return update


# %%
knobs = {"day": slider(1, 28, 23), "month": slider(1, 12, 3), "year": slider(1930, 2069, 1987)}
caption = "A date, translated live, and where the decoder looks."
explore(scene, "5.3a", caption, (8.5, 3.9), held="trained", **knobs, way=slider(1, 6, 2))

# %% [markdown]
# Has it understood dates? On days never seen it is nearly perfect. Here are three more exams on the same 200 days:
# the day written twice, "23 23 March 1987", a slip that any person forgives; the year first, "1987 March 23", with
# words that are all known, but never in this order; and the same days two centuries earlier.

# %%
earlier = [date.replace(year=date.year - 200, day=min(date.day, 28)) for date in days_new]
usual, names = [ways_to_write(date)[0] for date in days_new], MONTHS.split()
exams = {"as in training": (usual, days_new)}
exams["day twice"] = [f"{d.day} {text}" for d, text in zip(days_new, usual, strict=True)], days_new

# %%
exams["year first"] = [f"{d.year} {names[d.month - 1]} {d.day}" for d in days_new], days_new
exams["200 years earlier"] = [ways_to_write(date)[0] for date in earlier], earlier
marks = {name: exact_match(*exam) for name, exam in exams.items()}
claim("dates of another century, all symbols right", marks["200 years earlier"], at_most=0.3)
claim("the year first, all symbols right", marks["year first"], at_most=0.3)

# %%
table(
    ["exam", "all symbols right"],
    [(name, f"{mark:.2f}") for name, mark in marks.items()],
    ["all symbols right"],
)

# %% [markdown]
# The repeated day is mostly forgiven: the decoder looks for a number next to a month, and finds one. The other two
# are not: it has learned where things stand in the texts that it saw, and which hundreds there are, not what a date
# is. Within the range of its examples it is reliable; outside it is wrong, and still answers with a date. The remedy
# in practice is more examples, of everything. Nobody would give such a network dates of the eighteenth century on
# purpose; but data drift, a form gets a new field, and then a test set that was drawn like the training set says
# nothing.
#
# **Exercise.** The mask of a batch of texts follows from their lengths. Write it, on the device of the lengths: True
# where there is a token, False where there is padding.


# %% tags=["exercise"]
def padding_mask(lengths: Tensor, T: int) -> Tensor:
    """The mask (B, T) of B texts with these lengths (B,), filled up to T positions."""
    raise NotImplementedError


two, expected = (
    torch.tensor([1, 3], device=DEVICE),
    torch.tensor([[1, 0, 0], [1, 1, 1]], device=DEVICE) > 0,
)
check(
    padding_mask,
    ("texts of 1 and 3 tokens", lambda g: (g(two, 3), expected)),
    ("the same, filled up to 5", lambda g: (g(two, 5), F.pad(expected, (0, 2)))),
)


# %% tags=["solution", "hide-input"]
def padding_mask(lengths: Tensor, T: int) -> Tensor:
    """A position is a token if its number, counted from 0, is below the length."""
    return torch.arange(T, device=lengths.device) < lengths[:, None]


# %% [markdown]
# ### GPT
#
# Throw the encoder away. What remains is a stack of causal layers that reads a text and says at every position which
# token may come next. It is trained on nothing but text, and then writes: the **Generative Pre-trained Transformer**
# (Radford and others, 2018). *Pre-trained*, since this one training, to predict what comes next, serves as
# preparation for all kinds of tasks (chapter 8). A layer of it is our `EncoderLayer` with a causal mask; there is
# nobody to cross-attend to.
#
# The trick is in the data. Translation needs pairs of texts that somebody has made; a text that is its own exercise
# can be had by the billion. And to predict the next word well, everything that is in a text becomes useful: grammar,
# facts, what people usually do. That this scales, section 3.7 has shown.
#
# Positions are told by a learned table with a vector for each, which is added to the embeddings. So a text may have
# at most $T$ tokens, the *context*: all that the network can have before its eyes at once. Embedding and output are
# *tied*: the matrix that turns a token into a vector also turns the last vectors into logits, as products with the
# vectors of all tokens. That saves $V D$ weights, nearly a third of the smallest GPT-2. Every block begins by adding
# nothing, because the last matrix of each branch starts at zero (section 4.7).
#
# Newer models differ in a few options, and all of these are arguments here: RMS normalization instead of layer
# normalization, rotary positions (section 4.10) instead of the table, normalized queries and keys, which keeps the
# logits of attention in bounds, and other activations, such as the squared ReLU of nanochat. The rest is as in 2019.
#
# The class is short because the blocks have done the work. `forward` looks up the embeddings, adds the positions if
# there is a table for them, and sends the signal through the layers, each with its own cache, if there are caches.
# `layers` is a `ModuleList`, since a plain list would hide the weights from the optimizer. Dropout is left out: with
# one pass through the data there is nothing to overfit.


# %% tags=["export"]
class GPT(nn.Module):
    """Logits (B, T', V) of the next token at every position of tokens (B, T'), T' up to T (book, 5.3).

    By default GPT-2 (Radford et al., 2019), without dropout. rotary: the base of rotary positions, in
    place of the table; options: norm, activation, qk_norm. Longer texts raise a ValueError.
    """

    def __init__(self, V, T, D=128, H=4, layers=2, norm=nn.LayerNorm, rotary=None, **options):
        super().__init__()
        self.T, self.embedding = T, nn.Embedding(V, D)
        self.positions = nn.Embedding(T, D) if rotary is None else None
        options |= {"causal": True, "rotary": rotary}
        made = (EncoderLayer(D, H, 4 * D, norm=norm, **options) for _ in range(layers))
        self.layers, self.norm = nn.ModuleList(made), norm(D)
        self.head = nn.Linear(D, V, bias=False)
        self.head.weight = self.embedding.weight  # tied
        for rows in (self.embedding, self.positions or self.embedding):
            nn.init.normal_(rows.weight, std=0.02)
        for layer in self.layers:  # each block begins by adding nothing (section 4.7)
            for last in (layer.attention.attention.out, layer.feed_forward.layers[2]):
                nn.init.zeros_(last.weight)

    def forward(self, tokens: Tensor, caches: list | None = None) -> Tensor:
        start = len(caches[0]) if caches else 0
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= self.T - start:
            shape = tuple(tokens.shape)
            raise ValueError(f"GPT: expected tokens (B, 1 to {self.T - start}), got {shape}")
        x = self.embedding(tokens)  # (B, T', D)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + tokens.shape[1], device=x.device))
        for layer, cache in zip(self.layers, caches or [None] * len(self.layers), strict=True):
            x = layer(x, cache=cache)  # (B, T', D)
        return self.head(self.norm(x))  # (B, T', V)


# %% [markdown]
# Is it GPT-2? With the sizes of the smallest one, 12 layers of width 768, 50,257 tokens and a context of 1,024, it
# must have that model's number of parameters, to the last one. (On the device "meta" tensors have shapes and no
# numbers.)

# %%
with torch.device("meta"):
    gpt2 = GPT(V=50257, T=1024, D=768, H=12, layers=12)
count = sum(w.numel() for w in gpt2.parameters())
claim("GPT at GPT-2's sizes: 124,439,808 parameters", count == 124_439_808)

# %% [markdown]
# Figure 5.8 is drawn from a small GPT for characters with one layer, which is two blocks. The signal keeps its shape
# from the embedding to the last norm, so there may be as many layers as one likes: two here, 96 in the largest GPT-3.
# Figure 5.6 has opened the blocks; nothing else in the model has many weights but the embedding.

# %%
plays, endings = shakespeare("train", DEVICE), shakespeare("validation", DEVICE)
V, CONTEXT = len(plays.characters), 64
plain, one = GPT(V, CONTEXT).to(DEVICE), plays.codes[None, :CONTEXT]  # one text (1, T)

# %% tags=["figure-5.8"]
names = {"positions": "learned positions", SelfAttentionBlock: "causal self-attention block"}
names |= {FeedForwardBlock: "feed-forward block"}
look = {"letters": {64: "T", 128: "D", V: "V"}, "names": names, "size": 11, "output": "logits"}
fig, ax = plt.subplots(figsize=(4.6, 5.6))
closed = (SelfAttentionBlock, FeedForwardBlock)
said = schematic(ax, GPT(V, CONTEXT, layers=1).to(DEVICE), one, closed=closed, **look)
figure("5.8", "GPT, as it ran with one layer.", said)

# %% [markdown]
# To write, GPT draws a token from its probabilities, appends it, and goes on. For every new token the whole text
# would go through the network again. But keys and values of the old tokens never change, because the mask keeps the
# future from them. So each layer keeps them in a `Cache`, the *KV cache*, and only the new token has to be computed.
# Two details are easily forgotten, and both lead to a model that still writes, only worse, so that nobody notices
# without a test. The first new position is not position 0, neither for the table nor for the rotation. And if several
# tokens come at once, each may look at the whole cache, but among the new ones only back: that is the triangle moved
# by $S - T$ in `Attention`.
#
# `generate` divides the logits by a *temperature* before it draws: below 1 likely tokens become likelier still, above
# 1 all become more alike, and 0 always takes the likeliest. With `top_k` only the $k$ likeliest may be drawn, so that
# one odd token does not spoil a word. A writer that may go on for ever needs a rule for the end of its context. Ours
# is simple: when the context is full, the older half of it is forgotten, and the other half read anew. (To drop one
# token each time would move all positions, and every key would have to be computed again.) Probabilities are drawn
# from on the CPU, in 64 bits and from a generator of its own, so that a text does not depend on the device more than
# the logits do. With `cached=False` everything is computed anew each time, for the comparison.


# %% tags=["export"]
class Cache:
    """The keys and values (B, H, S, D / H) of the S positions that one attention layer has read."""

    def __init__(self):
        self.K = self.V = None

    def __len__(self) -> int:
        return 0 if self.K is None else self.K.shape[2]

    def update(self, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of T new positions (B, H, T, D / H), and return all (B, H, S + T, D / H)."""
        if len(self):
            K, V = torch.cat([self.K, K], dim=2), torch.cat([self.V, V], dim=2)
        self.K, self.V = K, V
        return K, V


@torch.no_grad()
def generate(gpt, tokens, count, temperature=1.0, top_k=None, generator=None, cached=True):
    """Tokens (B, T) and `count` more, drawn one by one: (B, T + count); temperature 0 is greedy."""
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(f"generate: expected a prompt (B, T), T ≥ 1, got {tuple(tokens.shape)}")
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"generate: expected temperature ≥ 0, top_k ≥ 1, got {temperature}, {top_k}"
        )
    begin, caches = max(0, tokens.shape[1] - gpt.T), [Cache() for _ in gpt.layers]
    fresh = tokens[:, begin:]  # not read yet
    for _ in range(count):
        logits = (gpt(fresh, caches) if cached else gpt(tokens[:, begin:]))[:, -1]  # (B, V)
        if top_k is not None:
            smallest = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -math.inf)
        if temperature == 0:
            fresh = logits.argmax(dim=1, keepdim=True)  # (B, 1)
        else:
            shares = (logits.double().cpu() / temperature).softmax(dim=1)  # (B, V)
            fresh = torch.multinomial(shares, 1, generator=generator).to(tokens.device)
        tokens = torch.cat([tokens, fresh], dim=1)
        if tokens.shape[1] - begin > gpt.T:
            begin, caches = tokens.shape[1] - gpt.T // 2, [Cache() for _ in gpt.layers]
            fresh = tokens[:, begin:]
    return tokens


# %% [markdown]
# Two things must hold, for the plain GPT and for one with the newer options. No logit may depend on a later token.
# And the cache must change nothing, whether tokens come one by one or in pieces of any size; then the text that is
# written with it is the same, token for token. All weights are drawn anew at random before, since those that are
# still zero would hide mistakes.

# %%
MODERN = {"norm": nn.RMSNorm, "rotary": 10_000.0, "qk_norm": True}
chance = seed(3)
prompt = torch.randint(11, (5, 20), generator=chance).to(DEVICE)  # (B, T)
changed = torch.cat([prompt[:, :12], (prompt[:, 12:] + 1) % 11], dim=1)

# %%
shaken = {}
for name, options in (("plain", {}), ("modern", MODERN)):
    shaken[name] = GPT(11, T=20, D=24, H=3, layers=2, **options).to(**EXACT)
    for w in shaken[name].parameters():
        w.data = torch.randn(w.shape, generator=chance).to(w) / 4

# %%
for name, gpt in shaken.items():
    logits, later = gpt(prompt), gpt(changed)  # (B, T, V)
    claim(
        f"{name}: nothing depends on what comes later",
        later[:, :12],
        equals=logits[:, :12],
        within=1e-10,
    )
    caches = [Cache() for _ in gpt.layers]
    in_pieces = torch.cat([gpt(piece, caches) for piece in prompt.split([7, 1, 12], dim=1)], dim=1)
    claim(f"{name}: in pieces through the cache", in_pieces, equals=logits, within=1e-10)

# %%
for name, gpt in shaken.items():
    both = [generate(gpt, prompt[:, :8], 40, generator=seed(4), cached=c) for c in (True, False)]
    claim(f"{name}: the same text with the cache and without", both[0], equals=both[1])

# %% [markdown]
# What does the cache save? Without it, token $t$ costs a pass over $t$ tokens; with it, a pass over one that looks at
# $t$. `cost` counts the multiplications for 64 tokens, and the clock says what that is worth.

# %%
without = sum(cost(plain, one[:, :t])[1] for t in range(1, CONTEXT + 1))
caches = [Cache() for _ in plain.layers]
factor = without / sum(cost(plain, token, caches)[1] for token in one.split(1, dim=1))
claim("multiplications without the cache, as a multiple", factor, at_least=30, at_most=36)
full, saved = (partial(generate, plain, one[:, :1], 63, cached=cached) for cached in (False, True))
note(
    "time without the cache, as a multiple",
    f"{seconds(full, DEVICE, repeats=3) / seconds(saved, DEVICE, repeats=3):.1f}",
)

# %% [markdown]
# The gain in time is far below that in multiplications. A small network spends its time on calling operations, not on
# computing, and those are called for one token as often as for 64. The larger the network and the longer the text,
# the nearer the one comes to the other; in large models the cache is what makes writing affordable, and its size, two
# vectors of $D$ numbers for each layer and token, is what limits how many texts a GPU can write at once. Newer models
# shrink it by letting several heads share their keys and values, as SmolLM2 does, which chapter 7 runs.
#
# Now train it. The text is that of section 3.2, nine plays by Shakespeare and their unseen ends, a token for each
# character. Three models read it: the counts of runs of five characters and the causal convolution of section 3.2,
# and a GPT with the newer options. The matrices in its layers are trained by Muon (Jordan and others, 2024). An
# averaged gradient mostly points in a few directions; Muon replaces its singular values by about 1, so that a step
# goes equally far in all, and needs only matrix products for it. The rest is left to AdamW. (PyTorch has a Muon, too,
# which computes in 16 bits; many processors have no instructions for these, so `lbdl` has one that keeps the
# precision of the weights.) Both learning rates rise over the first 30 steps and then fall to zero. The windows of
# text have 65 characters: the first 64 are read, the last 64 are to be predicted, each one place further on, so that
# a window gives 64 examples.


# %% tags=["export"]
def gpt_optimizers(gpt: GPT, steps: int) -> tuple[list, list]:
    """Muon for the matrices in the layers and AdamW for the rest, and their schedules for so many steps."""
    matrices = [w for w in gpt.layers.parameters() if w.ndim == 2]
    rest = [w for w in gpt.parameters() if all(w is not m for m in matrices)]
    optimizers = [Muon(matrices, lr=0.04)]
    optimizers += [torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0)]
    pace = lambda step: min((step + 1) / 30, 1) * (1 - step / steps)  # noqa: E731  warm up, then decay
    return optimizers, [LambdaLR(optimizer, pace) for optimizer in optimizers]


# %%
texts, texts_new = windows(plays.codes, CONTEXT), windows(endings.codes, CONTEXT)  # (N, T + 1)
STEPS = 400


def nats_of(model: nn.Module) -> float:
    """The mean loss of a model on the unseen ends of the plays."""
    with torch.no_grad():
        losses = [next_token_loss(model, window).item() for window in texts_new.split(128)[:-1]]
    return sum(losses) / len(losses)


# %%
seed(0)
gpt = GPT(V, CONTEXT, **MODERN).to(DEVICE)
some = texts[torch.randperm(len(texts), generator=seed(0))[: 16 * STEPS].to(DEVICE)]
optimizers, schedules = gpt_optimizers(gpt, STEPS)
history = fit(gpt, batches(some, size=16), next_token_loss, optimizers, 1, schedules, label="GPT")

# %% [markdown]
# The other two get the same windows. The counts mix runs of one to five characters, as in section 3.2; they are read
# off in a second.

# %%
seed(0)
convolution = CausalNetwork(V).to(DEVICE)
train(convolution, batches(some, size=16), next_token_loss, 1e-2)
lines = ["".join(plays.characters[c] for c in window) for window in some.tolist()]

# %%
seen, new = count_runs("\0".join(lines), 5), endings.text[:20_000]  # no run leaves its window
logs = [
    math.log(likelihood(new[t], new[t - 4 : t], range(1, 6), seen, V)) for t in range(4, len(new))
]
nats = {"GPT": nats_of(gpt), "causal convolution": nats_of(convolution)}
nats["counts of runs of five"] = -sum(logs) / len(logs)

# %%
claim("GPT: nats a character on the plays' ends", nats["GPT"], at_most=1.75)
behind = nats["GPT"] - nats["counts of runs of five"]
ahead = nats["causal convolution"] - nats["GPT"]
claim("GPT behind counting, nats a character", behind, at_least=0)
claim("GPT ahead of the convolution, nats a character", ahead, at_least=0.02)

# %%
results = [f"{loss:.2f} nats a character" for loss in nats.values()]
parameters, multiplications = cost(gpt, one)  # for 64 tokens
costs = (parameters, multiplications // CONTEXT, history.seconds)
summary["GPT, a character"] = (*costs, results[0], f"{results[2]} by counting")
table(["model", "new text"], list(zip(nats, results, strict=True)), varies=["new text"])

# %% [markdown]
# The measure is nats a character, the mean of $-\log p$ for the character that came; no idea at all is $\log 79$, or
# 4.37. All three have read the same 410 thousand characters once. Attention is ahead of the convolution, which sees
# nine characters and has fewer weights, and counting is a little ahead of both. A table learns a run of five
# characters from seeing it once, while each step of gradient descent changes a bit of everything. With little data
# and little time, to count is hard to beat, and a paper that does not show this baseline should be read with care.
# But tables do not grow well: they cannot see that "king" and "queen" are alike, nor look back by a paragraph, and
# longer runs hardly ever return. The network goes on improving with data, parameters and time (section 3.7), and
# where language models work today no table follows.
#
# Three warnings about such a table. The models have seen equal data, not equal time: to count takes a second, the
# convolution a few, GPT half a minute. The learning rates were chosen by the loss on the text on which it is
# reported, which flatters the networks a little. And the sizes are what fits into half a minute, so nothing follows
# for larger ones.

# %% [markdown]
# Let it write. Nobody has written the next passage before; your machine may draw another one. Words are mostly words,
# lines look like lines, names stand where names stand, and it means nothing at all. At a temperature of 1 there would
# be more odd words, at 0.3 the same few phrases over and over. Half a minute of training gets so far; the step from
# here to a model that answers questions is one of size, of data, and of further training on what people want (chapter
# 7), not one of architecture.

# %%
opening = torch.tensor([[plays.characters.index(c) for c in "The king "]], device=DEVICE)  # (1, T)
written = generate(gpt, opening, 300, temperature=0.7, generator=seed(7))[0].tolist()
note("GPT writes", "".join(plays.characters[code] for code in written).replace("\n", " / "))

# %% [markdown]
# What does it expect, and where does it look? The line is from the end of Macbeth, and the ends of the plays are kept
# for testing, so the network never saw it. Blue marks the scores of one head for the characters that were read, seen
# from the last of them; the bars are the probabilities of what may come next, that of the right character in pink.
# Three things to try. Read on, one character at a time: inside a word the bars get sure of themselves, at its
# beginning they do not. Go through the heads: most look at the last few characters, each in its own way. Lower the
# temperature, and the likeliest takes all. A warning: that a head looks at a character does not tell what it takes
# from there, nor what later layers make of it. In the second layer the keys are no longer single characters, for each
# position has already gathered something about those before.

# %%
LINE, SIGNS = "Life's but a walking shadow; a poor player,", "abcdefghijklmnopqrstuvwxyz ,.'\n"
codes, signs = ([plays.characters.index(c) for c in text] for text in (LINE, SIGNS))
line = torch.tensor([codes], device=DEVICE)  # (1, T)
logits = gpt(line)[0].detach().cpu()  # (T, V)
looks = [scores.detach().cpu() for scores in attention_maps(gpt, line).values()]


# %%
def scene(fig):
    """A line of a play, on blue where a head looks, and a bar for each character that may come next."""
    ax = fig.subplots()
    at = [30 * k / 42 for k in range(43)]
    spots = ax.scatter(at, [1.15] * 43, s=190, marker="s", color=color.input)
    letters = [ax.text(x, 1.15, c, ha="center", va="center") for x, c in zip(at, LINE, strict=True)]
    bars = ax.bar(range(31), [0] * 31, color=color.model)
    ax.set(ylim=(0, 1.3), ylabel="probability", yticks=[0, 1], xlim=(-0.7, 30.7))
    ax.set_xticks(range(31), [*SIGNS[:26], "␣", *SIGNS[27:30], "↵"])

    def update(characters_read, layer, head, temperature):
        last, right = characters_read - 1, LINE[characters_read]
        spots.set_alpha(looks[layer - 1][0, head - 1, last].tolist())
        shares = (logits[last] / temperature).softmax(0)  # (V,)
        for k, letter in enumerate(letters):
            letter.set_color("#222222" if k <= last else color.quiet)
        for bar, sign, share in zip(bars, SIGNS, shares[signs].tolist(), strict=True):
            bar.set(height=share, color=color.weights if sign == right else color.model)
        return f"{right!r}, the right one, has the probability {shares[codes[last + 1]]:.2f}"

    return update


# %%
knobs = {"characters_read": slider(1, 42, 19), "layer": slider(1, 2, 1), "head": slider(1, 4, 1)}
knobs["temperature"] = slider(0.2, 2.0, 1.0, 0.1)
explore(scene, "5.3b", "Where GPT looks, and what it expects next.", (8.5, 3), "trained", **knobs)

# %% [markdown]
# **Exercise.** How large are the caches of a GPT that has read $T$ tokens, in bytes? Each number takes 4 bytes unless
# said otherwise. (Try your formula on the largest GPT-3: 96 layers of width 12,288, a context of 2,048 tokens, and 2
# bytes a number. For every text that it writes at the same time it needs that much memory once more.)


# %% tags=["exercise"]
def cache_size(layers: int, D: int, T: int, bytes_each: int = 4) -> int:
    """The bytes in the caches of a GPT that has read T tokens."""
    raise NotImplementedError


check(
    cache_size,
    ("3 layers of width 8, after 10 tokens", lambda g: (g(3, 8, 10), 1920)),
    ("1 layer of width 6, after 7 tokens", lambda g: (g(1, 6, 7), 336)),
    ("2 bytes a number are half of it", lambda g: (g(2, 4, 5, 2), 160)),
)


# %% tags=["solution", "hide-input"]
def cache_size(layers: int, D: int, T: int, bytes_each: int = 4) -> int:
    """A key and a value of D numbers for every layer and token; the heads share the D channels."""
    return 2 * layers * D * T * bytes_each


# %% [markdown]
# ### The Vision Transformer
#
# An attention layer takes a set of vectors and does not ask where they come from. Words gave us vectors through a
# table; an image gives them if we cut it up. The **Vision Transformer**, or ViT (Dosovitskiy and others, 2021), cuts
# an image into square patches, turns each into a vector by one fully connected layer, the same for all patches, and
# goes on as with a line of text, without any mask, since nothing in an image comes later than anything else. A digit
# of 28 × 28 pixels becomes 4 × 4 patches of 49 numbers. The vectors come without an order, so learned positions are
# added.
#
# An encoder gives a vector for each position, and we want one for the whole image. The solution is taken from BERT, a
# model of text (Devlin and others, 2019): a further token stands in front, which belongs to no patch and is the same
# for every image. Layer after layer this **CLS token** (for "class") attends to the patches, and the head reads what
# it has gathered. `features` gives that vector, with which chapter 6 compares images and texts. The head is a single
# linear layer: if the vector is any good, that is enough.


# %% tags=["export"]
def patchify(images: Tensor, patch: int) -> Tensor:
    """The square patches of images (B, C, H, W), row by row, each as a vector: (B, M, C patch²)."""
    return F.unfold(images, patch, stride=patch).mT  # (B, M, C patch²)


class ViT(nn.Module):
    """A Vision Transformer: images (B, channels, size, size) to logits (B, classes) (book, 5.3).

    D: channels of a token; H: heads; hidden: units of the feed-forward blocks.
    """

    def __init__(self, size=28, patch=7, D=64, H=4, layers=3, hidden=128, channels=1, classes=10):
        super().__init__()
        if size % patch:
            raise ValueError(f"ViT: expected size to be a multiple of patch, got {size}, {patch}")
        self.shape, self.patch, M = (channels, size, size), patch, (size // patch) ** 2
        self.embedding = nn.Linear(channels * patch**2, D)
        self.cls = nn.Parameter(torch.zeros(1, 1, D))
        self.positions = nn.Parameter(0.02 * torch.randn(M + 1, D))
        self.encoder = TransformerEncoder(D, H, layers, hidden)
        self.head = nn.Linear(D, classes)

    def features(self, x: Tensor) -> Tensor:
        """The vector of the CLS token after all layers: (B, D)."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"ViT: expected images (B, *{self.shape}), got {tuple(x.shape)}")
        E = self.embedding(patchify(x, self.patch))  # (B, M, D)
        E = torch.cat([self.cls.expand(len(x), -1, -1), E], dim=1) + self.positions  # (B, 1 + M, D)
        return self.encoder(E)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # (B, classes)


# %%
digits, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
digits_new, labels_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)

# %% [markdown]
# Follow the sizes in figure 5.9: 28 × 28 pixels become 16 rows of 49 numbers, then 16 of 64; CLS makes 17. This size
# stays the same through all layers until the first row is taken, and everything else is dropped. That the patches are
# dropped at the end does no harm, for CLS has looked at them in every layer.

# %% tags=["figure-5.9"]
names = {"x": "image", "cls": "CLS", EncoderLayer: "layer", "head": "fully connected"}
fig, ax = plt.subplots(figsize=(5, 7))
look = {"closed": (EncoderLayer,), "names": names, "output": "logits"}
said = schematic(ax, ViT().to(DEVICE).eval(), digits_new[:1], **look)
figure("5.9", "A Vision Transformer, as it ran on one digit.", said)

# %% [markdown]
# What does it know about images before it has seen one? Deal out the patches in another order, the same for all
# images, as a bad jigsaw would, and shuffle the learned positions along: the logits are the same. Without positions
# the order has no effect at all; the network then sees a bag of patches. Attention takes a set.
#
# This has a consequence that is easy to overlook. The positions start as random numbers, in no order, so a start with
# shuffled positions is as likely as the one that we have, and *training* on jigsaws is the same game as training on
# the images: every run on the one is matched by a run on the other, logits, gradients and all. A person who had to
# learn digits from jigsaws would find that much harder. That neighbouring patches belong together, a Vision
# Transformer has to learn; a convolution has it built in.

# %%
shuffle = torch.randperm(16, generator=seed(3)).to(DEVICE)
five = digits[:5].to(**EXACT)


def jigsaw(images: Tensor) -> Tensor:
    """Images (B, 1, 28, 28) with their 16 patches in another order."""
    columns = F.unfold(images, 7, stride=7)[:, :, shuffle]  # (B, 49, 16)
    return F.fold(columns, (28, 28), 7, stride=7)  # (B, 1, 28, 28)


# %%
seed(0)
vit = ViT().to(**EXACT)
along, bag = copy.deepcopy(vit), copy.deepcopy(vit)

# %%
along.positions.data[1:] = vit.positions.data[1:][shuffle]
bag.positions.data[1:] = 0
claim(
    "patches and positions shuffled: the same logits",
    along(jigsaw(five)),
    equals=vit(five),
    within=1e-9,
)
claim("no positions: a bag of patches", bag(jigsaw(five)), equals=bag(five), within=1e-9)

# %% [markdown]
# What does that cost? A Vision Transformer and a small residual network of four blocks get the same 8,000 digits,
# changed a little each time by `augment`, in the same order. Which of two such networks wins depends on their sizes,
# so this compares these two, not the two families. The residual network has less to learn, as its kernels know what
# is near and use the same weights everywhere. Dosovitskiy and others found that a Vision Transformer makes up for it
# when it sees a hundred million photographs; with 8,000 digits it cannot, although `augment` helps it more than
# anything else that we tried.

# %%
from lbdl.chapters.ch05 import ResNet  # section 5.2's: sections stand alone

seed(0)
nets = {"ViT": ViT(), "ResNet": ResNet((2, 2), 10, channels=1, width=16)}
for name, net in nets.items():
    rate, net = 3e-3 if name == "ViT" else 5e-3, net.to(DEVICE, memory_format=torch.channels_last)
    run = train(net, batches(digits, labels, size=64), augmented_loss(seed(1)), rate, epochs=6)
    right = accuracy(net, digits_new, labels_new)
    result = f"{100 * right:.1f} % of new digits"
    summary[f"{name} on digits"] = (
        *cost(net, digits_new[:1]),
        run.seconds,
        result,
        "5.2's perceptron",
    )
    claim(f"{name}: accuracy on digits never seen", right, at_least=0.95)

# %% [markdown]
# The difference shows best on digits that stand elsewhere than in training. To the convolutions a moved stroke is the
# same stroke; to the Vision Transformer it is another set of patches. `augment` has moved the training digits by up
# to one and a half pixels; we take four. Neither network was ever shown such digits, so what they do with them is
# what they know by construction.

# %%
moved = F.pad(digits_new, (4, -4, 0, 0))
read = {name: accuracy(net, moved, labels_new) for name, net in nets.items()}
claim("moved by four pixels: ResNet ahead of ViT by", read["ResNet"] - read["ViT"], at_least=0.1)
note(
    "of digits moved by four pixels, they read", ", ".join(f"{k} {v:.0%}" for k, v in read.items())
)

# %% [markdown]
# Move a digit yourself. In the middle are the scores with which CLS attends to the patches, averaged over the heads;
# on the right what both networks say. Three things to try. Move the digit to the right by one pixel at a time, and
# see which network changes its mind first. Go through the layers: the last one looks where the ink is. Then move the
# digit down until its lower half is gone. The map of one head and one layer is easily taken for an explanation; the
# probabilities beside it are what the network says.

# %%
of_each = [(labels_new == digit).nonzero()[0].item() for digit in range(10)]
ten = digits_new[of_each].cpu()  # (10, 1, 28, 28)
readers = [copy.deepcopy(net).cpu().eval() for net in nets.values()]


def scene(fig):
    """A digit, the scores of CLS for its patches, and the probabilities of two networks as bars."""
    axes = fig.subplots(1, 3, width_ratios=[1, 1, 1.6])
    picture = axes[0].imshow(ten[0, 0], cmap="gray_r", vmin=0, vmax=1)
    sheet = axes[1].imshow(torch.zeros(4, 4), cmap="Blues", vmin=0, vmax=0.3)
    at, bars = torch.arange(10), []
    for k, (name, shade) in enumerate((("ViT", color.model), ("ResNet", color.gradient))):
        bars.append(axes[2].bar(at + 0.4 * k - 0.2, [0] * 10, width=0.4, color=shade, label=name))
    axes[2].set(ylim=(0, 1.05), yticks=[0, 1], xticks=range(10), title="probability")
    axes[2].legend(loc="upper right")
    for ax, title in zip(axes[:2], ("the digit", "CLS attends to"), strict=True):
        ax.set(xticks=[], yticks=[], title=title)

    def update(digit, right, down, layer):
        x = F.pad(ten[digit : digit + 1], (right, -right, down, -down))
        scores = list(attention_maps(readers[0], x).values())[layer - 1]  # (1, H, 17, 17)
        picture.set_data(x[0, 0])
        sheet.set_data(scores[0, :, 0, 1:].mean(0).view(4, 4))
        answers = []
        for reader, rows in zip(readers, bars, strict=True):
            with torch.no_grad():
                shares = reader(x).softmax(1)[0].tolist()
            answers.append(shares.index(max(shares)))
            for bar, share in zip(rows, shares, strict=True):
                bar.set_height(share)
        return f"a {digit}: ViT reads {answers[0]}, ResNet {answers[1]}"

    return update


# %%
knobs = {"right": slider(-8, 8, 0), "down": slider(-8, 8, 0), "layer": slider(1, 3, 3)}
caption = "A digit moved, read by a Vision Transformer and a residual network."
explore(scene, "5.3c", caption, (8.5, 2.6), held="trained", digit=slider(0, 9, 3), **knobs)

# %% [markdown]
# **Exercise.** `patchify` lays the numbers of a patch one after the other: channels first, then rows, then columns;
# and the patches row by row. Write the way back, for images that need not be square. Models that draw pictures out of
# patches need it (chapter 7). The checks use images with three channels and with more columns than rows, since a
# mistake in the order of the dimensions is invisible on a grey square.


# %% tags=["exercise"]
def unpatchify(patches: Tensor, C: int, H: int, W: int, patch: int) -> Tensor:
    """The images (B, C, H, W) that patchify has cut into patches (B, M, C patch²)."""
    raise NotImplementedError


pictures = torch.rand(2, 3, 8, 12, generator=seed(9))
check(
    unpatchify,
    (
        "one patch is the image",
        lambda g: (g(patchify(pictures[..., :8], 8), 3, 8, 8, 8), pictures[..., :8]),
    ),
    ("six patches of 4 × 4", lambda g: (g(patchify(pictures, 4), 3, 8, 12, 4), pictures)),
    ("24 patches of 2 × 2", lambda g: (g(patchify(pictures, 2), 3, 8, 12, 2), pictures)),
)


# %% tags=["solution", "hide-input"]
def unpatchify(patches: Tensor, C: int, H: int, W: int, patch: int) -> Tensor:
    """Split both dimensions, bring rows to rows and columns to columns, and join them."""
    grid = patches.unflatten(2, (C, patch, patch)).unflatten(1, (H // patch, W // patch))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), C, H, W)


# %% [markdown]
# ## What was trained
#
# What each network costs for one example, how long its training took here, and how far it came. The tasks differ, so
# a row compares with its baseline, not with other rows. A training costs about three times the multiplications of an
# example, times the examples seen.

# %%
columns = ["network", "parameters", "multiplications", "seconds", "result", "baseline"]
rows = [(name, f"{p:,}", f"{m:,}", f"{s:.0f}", *rest) for name, (p, m, s, *rest) in summary.items()]
if rows:  # as soon as a section was run
    table(columns, rows, varies=["seconds", "result", "baseline"])

# %% [markdown]
# And every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

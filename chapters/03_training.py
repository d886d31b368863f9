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
# # 3 Training
#
# Chapter 1 said what training is: a search for weights that make a loss small. This chapter says how it is done when
# there are millions of weights. It builds the losses; it makes a model that writes, one letter after another; it
# walks downhill, and finds the slope of a network by a machine of fifty lines; it bends a plane eight times; it
# decides when to stop; and it predicts how good a model will be before it is trained.
#
# As before, run the cells up to the first section, then any section: each stands on its own, though the early ones
# are used to explain the later ones. All training here takes seconds. Where a network is trained, the figures and the
# digits may differ a little on your machine, and the **claims** leave room for that.

# %% tags=["export"]
import copy
import math
import os
import re
import runpy
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from lbdl import batches, check, choice, claim, claims_made, color, device, explore, figure, fit
from lbdl import log_scale, note, progress, seed, slider, toggle
from lbdl.data import PENGUINS, fashion_mnist, mnist, penguins, public_datasets, shakespeare
from lbdl.data import training_costs
from matplotlib import patheffects
from matplotlib.collections import LineCollection
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

# %% [markdown]
# Networks are trained in numbers of 32 bits, as elsewhere in this companion. Demonstrations that are small and should
# be exact have 64, so that two ways to compute the same thing agree to ten digits and more; `EXACT` is short for
# that.

# %%
DEVICE = device(needs=torch.float64)
EXACT = {"device": DEVICE, "dtype": torch.float64}


# %% [markdown]
# ## 3.1 Losses
#
# Training does what the loss asks for, and nothing else. So the loss is where we say what we want. This section
# builds the three that the rest of the book uses: the squared error, for quantities; the cross-entropy, for classes;
# the contrastive loss, for distances. And it shows that all three are stand-ins for what we are really after.
#
# ### Squares are Gaussians
#
# Why *squared* errors? Section 1.1 had practical reasons. Here is a principle: of all models, prefer the one that
# makes the data most probable. Suppose the true mass of a penguin scatters around the prediction $f(x)$ like a bell
# curve, a Gaussian with standard deviation $\sigma$. Then the density of measuring $y$ is
#
# $$p(y \mid x) = \frac{1}{\sigma \sqrt{2 \pi}}\; e^{-(y - f(x))^2 / 2 \sigma^2}.$$
#
# The data are most probable together when the product of these densities is largest. That is where the sum of their
# logarithms is largest, or the mean of the *negative* logarithms is smallest. And the negative logarithm of a
# Gaussian is a square, divided by $2 \sigma^2$, plus a constant. We try it with the first four penguins, and a
# prediction of 4 kg for each.

# %%
masses = penguins("train", DEVICE).measured[:, 3].double() / 1000  # (N,) in kg

# %% [markdown]
# The spread $\sigma$ is set to half a kilogram. PyTorch knows the density of a Gaussian as `Normal`, and gives its
# logarithm.

# %%
y = masses[:4]  # (4,)
prediction = torch.full_like(y, 4.0).requires_grad_()  # (4,)
SIGMA = 0.5
unlikely = -torch.distributions.Normal(prediction, SIGMA).log_prob(y).mean()
squares = (y - prediction).square().mean()
print(f"mean squared error {squares:.4f} kg², mean negative log-density {unlikely:.4f}")

# %%
constant = math.log(SIGMA * math.sqrt(2 * math.pi))
from_squares = squares / (2 * SIGMA**2) + constant
claim("negative log of a Gaussian, from squares", unlikely, equals=from_squares, within=1e-12)

# %% [markdown]
# A constant has no slope, and a factor does not move a minimum. So to minimize the **mean squared error** *is* to
# maximize the likelihood of the data under a Gaussian of fixed width. It also tells when squares are a poor choice:
# when errors are not at all like a bell curve, because a few of them are huge, say.

# %%
(slope,) = torch.autograd.grad(unlikely, prediction, retain_graph=True)
(slope_of_squares,) = torch.autograd.grad(squares, prediction)
from_squares = slope_of_squares / (2 * SIGMA**2)  # (4,)
claim("slopes of that negative log, from squares", slope, equals=from_squares, within=1e-12)

# %% [markdown]
# The same loss trains a density model, one that gives a density $p(x; w)$ instead of a prediction: minimize the mean
# of $-\log p(x_n; w)$. For a Gaussian of which both the centre and the width are weights, the minimum should be what
# everybody would compute, the mean and the standard deviation of the data (divided by $N$, not $N - 1$). So the slope
# must vanish there, and it does, for the masses of all penguins in the training set.

# %%
w = torch.stack([masses.mean(), masses.std(correction=0)]).requires_grad_()  # (2,) centre and width
(-torch.distributions.Normal(w[0], w[1]).log_prob(masses).mean()).backward()
claim("the likeliest Gaussian has the data's mean and spread", w.grad, equals=0 * w, within=1e-12)

# %% [markdown]
# ### From scores to probabilities
#
# A classifier gives one number for each class, such as $f_1 = 2$, $f_2 = -1$, $f_3 = 0.5$. They may be of any size
# and sign, and are called **logits**. We want probabilities from them: positive, with the sum one. The exponential
# makes every number positive, and dividing by the sum does the rest:
#
# $$\hat P(Y = y \mid X = x) = \frac{e^{f(x; w)_y}}{\sum_z e^{f(x; w)_z}}$$
#
# This is the **softargmax**: where one logit is far above the others it gives nearly 1 for that one and nearly 0 for
# the rest, a soft version of picking the largest. Nearly everybody, PyTorch included, calls it **softmax**. What it
# gives for a class is taken as its **posterior probability**: how probable the class is *after* the image has been
# seen, where before we knew only how frequent it is.
#
# Only differences of logits matter. Add 5 to all of them, and every exponential is multiplied by $e^5$, above and
# below the line. The second function makes use of this freedom.


# %%
def naive_softargmax(f: Tensor) -> Tensor:
    """Probabilities (..., C) from logits (..., C), word for word."""
    return f.exp() / f.exp().sum(dim=-1, keepdim=True)


def softargmax(f: Tensor) -> Tensor:
    """The same, with the largest logit moved to 0 first, so that no exponential exceeds 1."""
    shifted = (f - f.max(dim=-1, keepdim=True).values).exp()  # (..., C)
    return shifted / shifted.sum(dim=-1, keepdim=True)


# %% tags=["equation-softargmax"]
f = torch.tensor([2.0, -1.0, 0.5], **EXACT)  # (C,)
P = softargmax(f)  # (C,)
print("probabilities", ", ".join(f"{p:.4f}" for p in P))
claim("softargmax, word for word", P, equals=naive_softargmax(f), within=1e-12)
claim("softargmax and torch's softmax", P, equals=f.softmax(dim=0), within=1e-12)

# %% [markdown]
# A difference of logits is a logarithm of odds. The first logit is 1.5 above the third, so the first class is
# $e^{1.5} \approx 4.5$ times as probable as the third, whatever the second may be: 0.7856 is 4.5 times 0.1753. With
# two classes, one of which has the logit 0, the softargmax of $z$ is $1 / (1 + e^{-z})$, called the *sigmoid*.
#
# On paper the two functions are equal. In a computer $e^{1000}$ is infinity, in 64 bits as in 32, and infinity
# divided by infinity is not a number: `nan`. Logits of −1000 fail the other way, with zero divided by zero. Once a
# `nan` is in a loss, the next step carries it to all weights, and the training is over. The shifted form has no such
# trouble, since its largest exponent is 0.

# %%
huge = torch.tensor([[1000.0, 999.0], [-1000.0, -1001.0]], **EXACT)  # (2, C)
small = torch.tensor([[1.0, 0.0], [1.0, 0.0]], **EXACT)  # (2, C) with the same differences
claim("naive: nothing but nan at 1000 and at -1000", bool(naive_softargmax(huge).isnan().all()))
claim("shifted: as for logits 1 and 0", softargmax(huge), equals=softargmax(small), within=1e-12)

# %% [markdown]
# ### Cross-entropy
#
# Now the principle from above, once more. Make the data probable: here the data are the true classes $y_n$, and the
# model gives each a probability. The mean of their negative logarithms is the **cross-entropy**:
#
# $$\mathscr{L}_{\mathrm{ce}}(w) = -\frac{1}{N} \sum_{n=1}^{N} \log \hat P(Y = y_n \mid X = x_n)
# = \frac{1}{N} \sum_{n=1}^{N} -\log \frac{e^{f(x_n; w)_{y_n}}}{\sum_z e^{f(x_n; w)_z}}$$
#
# A class held for certain costs nothing, $-\log 1 = 0$. One given a probability of one half costs 0.69 nats, one
# tenth costs 2.3, a thousandth 6.9. A model that knows nothing gives each of ten classes a tenth. So 2.3 is where the
# training of a classifier of digits begins.
#
# Five examples and four classes, with random logits: first word for word, then in tensors. The logarithm of the
# quotient is a difference, and `logsumexp` is the logarithm of the sum below the line, with the shift built in.

# %% tags=["equation-cross-entropy"]
y = torch.tensor([0, 3, 1, 1, 2], device=DEVICE)  # (N,)
f = 2 * torch.randn(5, 4, generator=seed(1), dtype=torch.float64).to(DEVICE)  # (N, C)
f.requires_grad_()
word_for_word = 0.0
for n in range(5):
    word_for_word = word_for_word - naive_softargmax(f[n])[y[n]].log() / 5
loss = (f.logsumexp(dim=1) - f[range(5), y]).mean()

# %%
claim("cross-entropy, by a loop and by tensors", word_for_word, equals=loss, within=1e-12)
claim("cross-entropy and torch's", loss, equals=F.cross_entropy(f, y), within=1e-12)

# %% [markdown]
# Why take the logarithm of the softargmax apart like this? A probability may be so small that it is rounded to zero,
# and the logarithm of zero is infinite. The difference of two logarithms stays right.

# %%
wrong = torch.tensor([0.0, 1000.0], **EXACT)  # (C,) and the first class is true
in_two_steps, at_once = -softargmax(wrong)[0].log(), wrong.logsumexp(dim=0) - wrong[0]
print(f"in two steps {in_two_steps:.4f}, at once {at_once:.4f}")
claim("a logit of 1000 for the wrong class costs 1000", at_once, equals=wrong[1], within=1e-9)

# %% [markdown]
# Its slope is the simplest one could wish for. The derivative of the loss of one example with respect to a logit is
# the probability of that class, minus one if it is the true class:
# $\partial\, \mathscr{L} / \partial f_z = \hat P(Y = z) - [z = y]$. If the model gives the truth a probability of
# 0.2, the slope there is −0.8. Going downhill therefore raises the true logit, lowers all the others, each in
# proportion to how much probability it wrongly holds, and fades as the model gets right and certain. The division by
# $N$ comes from the mean.

# %%
loss.backward()
minus_truth = (softargmax(f) - F.one_hot(y, 4)) / 5  # (N, C)
claim("slope of cross-entropy: probabilities minus truth", f.grad, equals=minus_truth, within=1e-12)

# %% [markdown]
# Move the three logits. From left to right: the logits, their probabilities, what the true class (dark) costs, and
# which way each logit will be pushed, downhill. Try to get the loss to zero. Then make the model confidently wrong,
# by raising a wrong logit to 6: the loss grows with the logit, and the push does not get weaker. Last, raise all
# three together: nothing else in the picture moves.

# %%
odds = torch.logspace(-5.5, 0, 300)


def scene(fig):
    """Four panels: bars of three logits, of their probabilities, the curve of the loss, and bars of the push."""
    logits, chances, curve, push = fig.subplots(1, 4, width_ratios=[1, 1, 1.3, 1])
    bars = [ax.bar([1, 2, 3], [1, 1, 1]) for ax in (logits, chances, push)]
    shares = [chances.text(z, 0, "", ha="center", va="bottom", fontsize=10) for z in (1, 2, 3)]
    curve.plot(odds, -odds.log(), color=color.quiet)
    (here,) = curve.plot([], [], "o", color=color.gradient, ms=8)
    for ax, name in zip((logits, chances, push), ("Logits", "Probabilities", "Push"), strict=True):
        ax.set(title=name, xlabel="class", xticks=[1, 2, 3])
    for ax in (logits, push):
        ax.axhline(0, color="#888888", lw=0.8)
    logits.set(ylim=(-6.3, 6.3))
    chances.set(ylim=(0, 1.12), yticks=[0, 0.5, 1])
    push.set(ylim=(-1.05, 1.05), yticks=[-1, 0, 1])
    curve.set(
        title="Loss", xlabel="probability of the truth", xlim=(-0.02, 1.05), ylim=(-0.5, 12.7)
    )

    def update(logit_1, logit_2, logit_3, true_class):
        f = torch.tensor([logit_1, logit_2, logit_3])
        P = softargmax(f)  # (3,)
        truth = F.one_hot(torch.tensor(true_class - 1), 3)  # (3,)
        loss = f.logsumexp(0) - f[true_class - 1]
        shades = ((color.output, "#b9b3dd"), (color.model, "#a6cde6"), (color.gradient, "#f5c4a6"))
        for group, heights, pair in zip(bars, (f, P, truth - P), shades, strict=True):
            for bar, height, true in zip(group, heights.tolist(), truth, strict=True):
                bar.set(height=height, color=pair[0 if true else 1])
        for text, z, p in zip(shares, (1, 2, 3), P.tolist(), strict=True):
            text.set(position=(z, p), text=f"{p:.2f}")
        here.set_data([P[true_class - 1]], [loss.item()])
        pushes = ", ".join(f"{value:+.3f}" for value in truth - P)
        return f"loss {loss:.3f} nats; push on the three logits {pushes}"

    return update


# %%
logits = {"logit_1": slider(-6.0, 6.0, 0.5, 0.1), "logit_2": slider(-6.0, 6.0, 2.0, 0.1)}
logits |= {"logit_3": slider(-6.0, 6.0, -1.0, 0.1), "true_class": slider(1, 3, 1)}
explore(scene, "3.1a", "From logits to a loss, and the push downhill.", (8.5, 2.9), **logits)

# %% [markdown]
# ### Why not squares?
#
# What we want of a classifier is few errors. Could the share of wrong answers not be the loss? Think of two classes
# and a single logit $z$ for the true one, so that its probability is $1 / (1 + e^{-z})$, the sigmoid from above. An
# answer is wrong if $z < 0$, by however much. That is a step (grey): flat on both sides, with nothing to tell a
# search which way is better.
#
# Squares have a slope. One way is to square what the *probability* lacks to one. But follow that curve to the left,
# to an answer that is certain and wrong: it is flat there. Where there is most to learn, nothing pulls. The other way
# is to square what the *logit* lacks to a target, 1 say. It has plenty of slope, also for answers that are more right
# than asked for, which it pulls back. The cross-entropy has neither fault. Far on the left its slope is −1, far on
# the right it is 0.

# %%
z = torch.tensor([-8.0, 8.0], **EXACT, requires_grad=True)  # (2,)
losses_of = {
    "cross-entropy": lambda z: -F.logsigmoid(z),
    "square of the probability": lambda z: (1 - torch.sigmoid(z)).square(),
    "square of the logit": lambda z: (1 - z).square(),
}

# %%
slopes = {name: torch.autograd.grad(g(z).sum(), z)[0] for name, g in losses_of.items()}  # (2,) each
for name, (left, _) in slopes.items():
    print(f"{name}: slope {left:.4f} at -8")

# %%
pull = slopes["cross-entropy"][0] / slopes["square of the probability"][0]
claim("at -8, how many times steeper cross-entropy is", pull, at_least=1000)
claim("at 8, squares of the logit push back", slopes["square of the logit"][1], at_least=1)

# %%
z = torch.linspace(-6, 6, 601)
fig, ax = plt.subplots(figsize=(6.5, 3.2))
ax.plot(z, (z < 0).float(), color=color.quiet)
shades = (color.model, color.gradient, color.weights)
for g, shade in zip(losses_of.values(), shades, strict=True):
    ax.plot(z, g(z), color=shade)
for x, y, name, shade in (
    (-4.45, 4.6, "cross-entropy", color.model),
    (-5.9, 0.55, "square of the probability", color.gradient),
    (3.4, 4.6, "square of the logit", color.weights),
    (-5.9, 1.15, "error", "#777777"),
):
    ax.text(x, y, name, color=shade)
ax.set(ylim=(-0.1, 6), xlabel="logit of the true class", ylabel="loss")
said = "A step; a curve that is flat at both ends; a parabola; and the cross-entropy, at -6 "
figure("3.1b", "Four losses of one answer.", said + f"{losses_of['cross-entropy'](z[0]):.4f}.")

# %% [markdown]
# With real data, the losses of many such answers add up. Take two species, Adelie and Chinstrap, and tell them by the
# length of their bills (centred, in units of its standard deviation). The logit for Chinstrap is $w x + b$: two
# weights, so both losses can be drawn as landscapes. And now a bad start: $w = -10$ and $b = 5$. This model is
# certain that long bills are Adelies, and wrong about 96 of 100 birds.

# %%
birds = penguins("train", DEVICE)
two = birds.species != PENGUINS.index("Gentoo")  # (N,)
bill = birds.measured[two, 0].double()
bill = (bill - bill.mean()) / bill.std()  # (M,)
chinstrap = (birds.species[two] == PENGUINS.index("Chinstrap")).double()  # (M,) 1 or 0


# %%
def two_losses(w: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy and mean squared error of the probability (...), for weights w (..., 2)."""
    z = w[..., :1] * x + w[..., 1:]  # (..., M) logits of class 1
    certain = F.binary_cross_entropy_with_logits(z, y.expand_as(z), reduction="none")
    return {"cross-entropy": certain.mean(-1), "squared error": (z.sigmoid() - y).square().mean(-1)}


# %% [markdown]
# From there we walk downhill on either landscape: 200 steps, each against the slope and in proportion to it. (Section
# 3.3 is about such walks. `binary_cross_entropy_with_logits` is the cross-entropy of two classes with logits $z$ and
# 0.)

# %%
walked = {}
for name in ("cross-entropy", "squared error"):
    w = torch.tensor([-10.0, 5.0], **EXACT, requires_grad=True)
    for _ in range(200):
        (slope,) = torch.autograd.grad(two_losses(w, bill, chinstrap)[name], w)
        w = (w - slope).detach().requires_grad_()
    walked[name] = ((w[0] * bill + w[1] > 0) == chinstrap.bool()).double().mean()

# %%
claim("share of birds right after a walk on cross-entropy", walked["cross-entropy"], at_least=0.9)
claim("the same walk on squared error", walked["squared error"], at_most=0.2)

# %% [markdown]
# Here are the two landscapes, with the orange line pointing downhill, the longer the steeper. On the left are the
# birds, the two species at the heights 0 and 1, and the probability that the model gives. Both losses have their
# lowest point (white star) in the same region. But start at the wrong end of $w$: cross-entropy is a slope that leads
# home from anywhere, and squared error a plateau with a hole in it.

# %%
w_axis, b_axis = torch.linspace(-14, 14, 80), torch.linspace(-10, 10, 60)
each = torch.cartesian_prod(w_axis, b_axis).double()  # (4800, 2)
landscapes = {
    k: v.reshape(80, 60).T for k, v in two_losses(each, bill.cpu(), chinstrap.cpu()).items()
}


# %%
def scene(fig):
    """Left, birds in two rows and an S-shaped curve. Then two landscapes: a valley, and a plateau with a hole."""
    left, *maps = fig.subplots(1, 3, width_ratios=[1, 1.2, 1.2])
    x, y = bill.cpu(), chinstrap.cpu()
    left.scatter(x, y + 0.06 * torch.sin(37 * x), s=6, color=color.data)
    (curve,) = left.plot([], [], color=color.model)
    left.set(xlabel="length of the bill", ylabel="probability of Chinstrap", yticks=[0, 0.5, 1])
    left.set_ylim(-0.2, 1.2)
    left.text(-1.7, 1.1, "Chinstraps", color=color.data, fontsize=11)
    left.text(2.6, -0.16, "Adelies", color=color.data, fontsize=11, ha="right")
    dots, lines = [], []
    for ax, (name, heights) in zip(maps, landscapes.items(), strict=True):
        ax.contourf(w_axis, b_axis, heights, levels=16, cmap="Blues_r")
        lowest = divmod(heights.argmin().item(), 80)  # row and column
        ax.plot(w_axis[lowest[1]], b_axis[lowest[0]], "*", color="white", ms=9)
        lines += ax.plot([], [], color=color.gradient, lw=2.5)
        dots += ax.plot([], [], "o", color=color.weights, ms=8)
        ax.set(xlabel="$w$", title=name.capitalize(), xlim=(-14, 14), ylim=(-10, 10))
    maps[0].set_ylabel("$b$")
    at = torch.linspace(-2.2, 2.6, 150).double()

    def update(w, b):
        weights = torch.tensor([w, b], dtype=torch.float64, requires_grad=True)
        curve.set_data(at, torch.sigmoid(w * at + b))
        words = []
        both = two_losses(weights, x, y)
        for dot, line, name in zip(dots, lines, both, strict=True):
            (slope,) = torch.autograd.grad(both[name], weights, retain_graph=True)
            dot.set_data([w], [b])
            end = weights.detach() - 6 * slope
            line.set_data([w, end[0]], [b, end[1]])
            words.append(f"{name} {both[name].item():.3f} with slope {slope.norm():.4f}")
        return "; ".join(words)

    return update


# %%
controls = {"w": slider(-12.0, 12.0, -10.0, 0.25), "b": slider(-8.0, 8.0, 5.0, 0.25)}
explore(scene, "3.1c", "Two losses of the same model on the same birds.", (8.5, 3.1), **controls)

# %% [markdown]
# ### Distances instead of classes
#
# A face recognition system must tell people apart that it has never seen in training. There a list of classes is no
# use. What helps is a mapping $f$ of images to points such that two images of one person come out near each other and
# images of different people far apart. To learn what near should mean is called **metric learning**. The data are
# then triplets: $x_a$ and $x_b$ of the same class, $x_c$ of another. With $d(a, c)$ for the distance between the
# points for $x_a$ and $x_c$, a **contrastive loss** asks that it exceed the distance $d(a, b)$ by at least one:
#
# $$\mathscr{L} = \max\big(0,\; 1 - d(a, c) + d(a, b)\big)$$
#
# The 1 is called the *margin*. Without it, all distances could shrink to zero and the loss would be content. It does
# not ask for $d(a, c)$ to be large, or $d(a, b)$ to be zero. Once a triplet is in order, it has no say any more: its
# loss is zero, and so is its slope. (The book writes $f(x_a, x_c)$ for the distance itself. Ours is the length of the
# difference of two points, which are what the network computes.)


# %%
def distance(a: Tensor, b: Tensor) -> Tensor:
    """Lengths (...) of the differences of points a and b, each (..., D)."""
    return (a - b).square().sum(dim=-1).sqrt()


def contrastive(a: Tensor, b: Tensor, c: Tensor, margin: float = 1.0) -> Tensor:
    """Triplet losses (...) of points (..., D): c should be farther from a than b is, by the margin."""
    return (margin - distance(a, c) + distance(a, b)).clamp(min=0)


# %% [markdown]
# PyTorch has it as `TripletMarginLoss`, which adds a small `eps` to every difference. The reason is the square root:
# where two points coincide, its slope is infinite. To compare exactly, we set it to zero. Of the fifty random
# triplets some have a loss and some do not, or the comparison would prove little.

# %% tags=["equation-contrastive"]
points = torch.randn(3, 50, 2, generator=seed(2), dtype=torch.float64).to(DEVICE)  # (3, N, D)
points.requires_grad_()
by_hand, by_torch = contrastive(*points).mean(), nn.TripletMarginLoss(margin=1, p=2, eps=0)(*points)
slope, slope_by_torch = (torch.autograd.grad(loss, points)[0] for loss in (by_hand, by_torch))
claim("contrastive loss and torch's", by_hand, equals=by_torch, within=1e-12)
claim("slopes of the contrastive loss and torch's", slope, equals=slope_by_torch, within=1e-12)

# %% [markdown]
# Values and slopes agree. About one in six triplets has no slope at all. In training this share grows: the better the
# network, the fewer triplets still teach it something.

# %%
idle = (slope == 0).all(dim=2).all(dim=0).double().mean()
claim("share of triplets without a slope", idle, at_least=0.1, at_most=0.9)

# %% [markdown]
# Where does a point $c$ of another class get a push? The point $a$ stays in the middle, $b$ is its partner. The shade
# is the loss for every place that $c$ could have: dark is high. Outside the ring it is zero. Move $c$ out of the
# ring, and all three arrows are gone, as $a$ and $b$ depend on the same triplet. Now bring $c$ next to $a$, or make
# the margin large. On the right is the loss against the distance between $a$ and $c$.

# %%
across, up = torch.linspace(-4.5, 4.5, 91), torch.linspace(-3.5, 3.5, 71)
HALO = [patheffects.withStroke(linewidth=4, foreground="white")]  # keeps letters readable
places = torch.stack(torch.meshgrid(across, up, indexing="xy"), dim=2)  # (71, 91, 2)


# %%
def scene(fig):
    """Left, a plane with points a, b and c, a ring around a, and arrows downhill. Right, a hinge."""
    plane, right = fig.subplots(1, 2, width_ratios=[3, 2])
    frame = {"extent": (-4.55, 4.55, -3.55, 3.55), "origin": "lower", "interpolation": "bilinear"}
    shade = plane.imshow(places[..., 0], cmap="Blues", vmin=0, vmax=3.5, **frame)
    (ring,) = plane.plot([], [], color="#888888", lw=1)
    units = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.009}
    arrows = plane.quiver(*torch.ones(4, 3), color=color.gradient, zorder=3, **units)
    shades = [color.model, color.model, color.test]
    dots = plane.scatter(*torch.ones(2, 3), s=60, color=shades, zorder=4)
    names = [plane.text(0, 0, name, fontsize=14, zorder=5, path_effects=HALO) for name in "abc"]
    plane.set(xticks=[], yticks=[], xlim=(-4.5, 4.5), ylim=(-3.5, 3.5))
    plane.spines[:].set_visible(False)
    plane.set_title("The loss, for every place of c")
    (hinge,) = right.plot([], [], color=color.quiet)
    (here,) = right.plot([], [], "o", color=color.test, ms=8)
    right.set(xlabel="distance from a to c", ylabel="loss", xlim=(0, 6), ylim=(-0.2, 6))
    angle = torch.linspace(0, 2 * math.pi, 100)

    def update(margin, c_across, c_up, b_across):
        abc = torch.tensor([[0, 0], [b_across, 0], [c_across, c_up]], requires_grad=True)  # (3, D)
        loss = contrastive(*abc, margin)
        (slope,) = torch.autograd.grad(loss, abc)
        slope = slope.nan_to_num()  # where c lies on a there is no direction
        shade.set_data(contrastive(torch.zeros(2), abc[1].detach(), places, margin))
        radius = margin + abs(b_across)
        ring.set_data(radius * angle.cos(), radius * angle.sin())
        where = abc.detach()
        dots.set_offsets(where)
        arrows.set_offsets(where)
        arrows.set_UVC(*-slope.T)
        for text, place in zip(names, where, strict=True):
            text.set_position((place[0] - 0.1, place[1] + 0.25))
        hinge.set_data([0, radius, 6], [radius, 0, 0])
        here.set_data([distance(*where[[0, 2]])], [loss.item()])
        pushed = f"{int((slope != 0).any(1).sum())} of the three points are pushed"
        return f"loss {loss:.3f}; the ring is at a distance of {radius:.2f}; {pushed}"

    return update


# %%
place = {"c_across": slider(-4.0, 4.0, -1.2, 0.1), "c_up": slider(-3.0, 3.0, 1.0, 0.1)}
place |= {"margin": slider(0.0, 3.0, 1.0, 0.1), "b_across": slider(0.1, 3.0, 1.2, 0.1)}
explore(scene, "3.1d", "Where a point of another class is pushed away.", (8.5, 3.6), **place)

# %% [markdown]
# Now for digits. A small network maps each image to a point in the plane. It is never told which digit it sees, only
# which two of three are alike. (Its layers are the subject of chapters 4 and 5.) To draw a triplet, take any digit as
# $a$; for $c$ another class, and any digit of that; for $b$ any digit of the class of $a$. Once in a thousand times
# that is $a$ itself, which does no harm but for the square root at zero: so we train with PyTorch's loss, and its
# `eps`.


# %%
def triplets(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places (3, count) of examples a and b of one class and c of another, for labels (N,) on the CPU."""
    members = labels.bincount()  # (C,)
    first, order = members.cumsum(0) - members, labels.argsort()

    def any_of(wanted: Tensor) -> Tensor:
        place = torch.rand(count, generator=generator) * members[wanted]  # (count,)
        return order[first[wanted] + place.long()]

    a = torch.randint(len(labels), (count,), generator=generator)  # (count,)
    others = torch.randint(1, len(members), (count,), generator=generator)
    return torch.stack([a, any_of(labels[a]), any_of((labels[a] + others) % len(members))])


# %%
chance = seed(1)
images, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
images_new, labels_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
a, b, c = triplets(labels.cpu(), 16000, chance).to(DEVICE)  # (16000,) each
alike, different = (labels[a] == labels[b]).all(), (labels[a] != labels[c]).all()
claim("a and b are of one class, c of another", bool(alike and different))

# %% [markdown]
# Before training the network has random weights, and we keep where it puts the images, for comparison.

# %%
hidden = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
embed = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 2)).to(DEVICE)
before = [embed(x).detach() for x in (images, images_new)]  # (8000, 2), (2000, 2)

# %% [markdown]
# In each step 128 triplets go through the network, all three images of each through the same weights. The optimizer
# is Adam, which section 3.3 explains, and its learning rate fades to nearly zero in the course of the 375 steps, so
# that the map settles.

# %%
optimizer = torch.optim.Adam(embed.parameters(), lr=3e-3)
fade = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=375)
compare = nn.TripletMarginLoss(margin=1.0)


def loss_of(f: nn.Module, *abc: Tensor) -> Tensor:
    """The contrastive loss of a batch of triplets: all three images of each go through the network at once."""
    return compare(*f(images[torch.cat(abc)]).chunk(3))


fit(embed, batches(a, b, c, size=128), loss_of, optimizer, epochs=3, schedule=fade)
after = [embed(x).detach() for x in (images, images_new)]  # (8000, 2), (2000, 2)

# %% [markdown]
# How good is such a map? Take the mean point of each class over the training images, and give every test image the
# class of the mean point nearest to it. With the random network of the start that is right for about one and a half
# of ten digits, where chance is one. Afterwards it is right for nearly nine.


# %%
def nearest_mean(train: Tensor, test: Tensor) -> Tensor:
    """Share of test points (M, 2) nearest to the mean of the training points (N, 2) of their class."""
    means = torch.stack([train[labels == digit].mean(0) for digit in range(10)])  # (10, 2)
    return (torch.cdist(test, means).argmin(dim=1) == labels_new).float().mean()


# %%
claim("nearest mean in the plane, before training", nearest_mean(*before), at_most=0.4)
claim("nearest mean in the plane, after training", nearest_mean(*after), at_least=0.8)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.8))
for ax, (_, points), title in zip(axes, (before, after), ("Before", "After"), strict=True):
    for digit in range(10):
        cloud, shade = points[labels_new == digit][:100].cpu(), color.classes[digit]
        ax.scatter(*cloud.T, s=4, color=shade, lw=0)
        if title == "After":
            at = {"ha": "center", "va": "center", "fontsize": 18, "weight": "bold"}
            ax.text(*cloud.median(0).values, digit, color=shade, path_effects=HALO, **at)
    most = points.quantile(torch.tensor([0.004, 0.996]).to(points), dim=0).T.tolist()
    ax.set(xlim=most[0], ylim=most[1], aspect="equal", xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
said = "One cloud in which all classes are mixed, then ten, most of them apart."
figure("3.1e", "Test digits, before and after training with triplets.", said, held="trained")

# %% [markdown]
# The loss says nothing of where a cloud should lie. Yet 4, 9 and 7 are neighbours: images that look alike end up near
# each other, and so do their clouds. Nobody asked for it.
#
# ### A loss is a proxy
#
# Back to classes. What we care about is the error rate. What we minimize is the cross-entropy on the training set. It
# is a *proxy*: it can be minimized, and on the whole it goes with what we want. The error rate itself cannot serve,
# because its slope is zero almost everywhere. To see it, take any classifier, the one for bills say. Shift its
# weights a tiny bit in twenty random directions: the cross-entropy changes every time, and the error rate not once.

# %%
w = torch.tensor([1.0, 0.3], **EXACT)  # (2,)
nudges = 1e-6 * torch.randn(20, 2, generator=seed(3), dtype=torch.float64).to(DEVICE)  # (20, 2)

# %% [markdown]
# The error rate is a count of birds on the wrong side. A bird changes sides only if the nudge carries it across the
# border, and no bird is that near.

# %%
nudged = two_losses(w + nudges, bill, chinstrap)["cross-entropy"]  # (20,)
both = torch.stack([bill, torch.ones_like(bill)])  # (2, M)
sides = torch.cat([w[None], w + nudges]) @ both  # (21, M), the first without a nudge
errors = ((sides > 0) != chinstrap.bool()).double().mean(1)  # (21,)
changed = nudged != two_losses(w, bill, chinstrap)["cross-entropy"]  # (20,)
claim("nudges that change the cross-entropy", changed.sum(), at_least=20)
claim("different error rates, with and without nudges", len(errors.unique()), at_most=1)

# %% [markdown]
# A proxy can also part ways with what it stands for. We train a network of 128 hidden units on only 500 digits, which
# it can learn by heart, and measure after every epoch, a pass over the 500, the cross-entropy and the error rate on
# 2,000 test digits. The optimizer is SGD with momentum, the subject of section 3.3; the argument `decay`, of which
# more below, is zero for now. `fit` calls the five `metrics` after each epoch.


# %%
def train_on_few(decay: float, random: int = 0) -> dict[str, Tensor]:
    """Train on 500 digits for 100 epochs; what was measured after each, by name, (100,) each."""
    few = torch.randperm(8000, generator=seed(random))[:500].to(DEVICE)  # (500,)
    x, y = images[few], labels[few]
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)).to(DEVICE)
    metrics = {
        "training loss": lambda net: F.cross_entropy(net(x), y),
        "test loss": lambda net: F.cross_entropy(net(images_new), labels_new),
        "training errors": lambda net: (net(x).argmax(1) != y).float().mean(),
        "test errors": lambda net: (net(images_new).argmax(1) != labels_new).float().mean(),
        "size": lambda net: torch.cat([w.flatten() for w in net.parameters()]).norm(),
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    data, loss = batches(x, y, size=50, seed=random), lambda net, x, y: F.cross_entropy(net(x), y)
    history = fit(net, data, loss, optimizer, epochs=100, metrics=metrics)
    return {name: torch.tensor(values) for name, values in history.metrics.items()}


# %%
free = train_on_few(decay=0.0)
best = free["test loss"].argmin()

# %% [markdown]
# On the training set all goes well: the loss falls towards zero, and from about the fifteenth epoch on there is not
# one error left. The loss on the *test* digits is lowest even before that. Then it rises, by more than a third. By
# the loss alone one would say that the network is getting worse. But the error rate stays where it is: it makes about
# as many errors as before. What grows is its certainty. Certain errors are costly under the logarithm, and the
# training set, on which every answer is right, keeps asking for more certainty.

# %%
claim("training errors at the end", free["training errors"][-1], at_most=0)
rise = free["test loss"][-1] / free["test loss"][best]
claim("test loss at the end, over its lowest", rise, at_least=1.15)

# %%
more = free["test errors"][-10:].mean() - free["test errors"][best]
claim("test error rate at the end, less that at the lowest loss", more, at_most=0.015)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
epochs = range(1, 101)
for ax, what in ((left, "loss"), (right, "errors")):
    ax.plot(epochs, free[f"training {what}"], color=color.train)
    ax.plot(epochs, free[f"test {what}"], color=color.test)
    ax.axvline(best + 1, color=color.quiet, lw=1, zorder=0)
    ax.set(xlabel="epoch", xlim=(0, 101))
left.set(title="Cross-entropy", ylim=(0, 1))
right.set(title="Error rate", ylim=(0, 0.3))
for ax, high, low in ((left, 0.68, 0.04), (right, 0.155, 0.012)):
    ax.text(60, high, "test digits", color=color.test)
    ax.text(60, low, "the 500 training digits", color=color.train)
low, flat = free["test loss"][best], free["test errors"][-10:].mean()
said = f"The test loss falls to {low:.1f} and rises again, the test error rate falls to {flat:.1f} "
said += "and stays. On the training digits both go to zero."
figure("3.1f", "The proxy rises again, what it stands for does not.", said, held="trained")

# %% [markdown]
# ### Weight decay
#
# Certainty needs large logits, and large logits need large weights. So charge for them: add to the loss the sum of
# the squares of all weights, times a small number $\lambda$. The slope of $\lambda \|w\|^2$ is $2 \lambda w$, and a
# step of length $\eta$ downhill becomes
#
# $$w - \eta\, \big(\nabla \mathscr{L} + 2 \lambda w\big) = (1 - 2 \eta \lambda)\, w - \eta\, \nabla \mathscr{L}.$$
#
# Before every step the weights shrink by a fixed factor, hence the name **weight decay**. PyTorch's `weight_decay`
# stands for $2 \lambda$: mind the factor two. We take one step from random weights of a classifier of the three
# species, in three ways.


# %%
x = birds.measured.double()
x = (x - x.mean(0)) / x.std(0)  # (N, D)

# %%
start = torch.randn(4, 3, generator=seed(4), dtype=torch.float64).to(DEVICE)  # (D, C)
LAMBDA, STEP = 0.05, 0.1


def step(make, penalty: float) -> Tensor:
    """The weights (D, C) after one step of an optimizer on the loss plus penalty |w|²."""
    w = start.clone().requires_grad_()
    optimizer = make([w])
    (F.cross_entropy(x @ w, birds.species) + penalty * w.square().sum()).backward()
    optimizer.step()
    return w.detach()


# %%
slope = (start - step(lambda w: torch.optim.SGD(w, lr=STEP), penalty=0)) / STEP  # (D, C)
shrunk = (1 - 2 * STEP * LAMBDA) * start - STEP * slope  # (D, C)
penalized = step(lambda w: torch.optim.SGD(w, lr=STEP), penalty=LAMBDA)
decayed = step(lambda w: torch.optim.SGD(w, lr=STEP, weight_decay=2 * LAMBDA), penalty=0)

# %%
claim("a step with the penalty is a step after shrinking", penalized, equals=shrunk, within=1e-12)
claim("the penalty and SGD's weight_decay", penalized, equals=decayed, within=1e-12)

# %% [markdown]
# The principle of the likely has a word on this, too. Suppose that before seeing any data we hold weights near zero
# for more probable than others, distributed as a Gaussian of width $\sigma$: a *prior*. Multiply the likelihood of
# the $N$ examples by this prior, and take the negative logarithm, divided by $N$. Out comes the cross-entropy plus
# $\|w\|^2 / 2 \sigma^2 N$ plus a constant. So weight decay *is* such a belief, with $\lambda = 1 / 2 \sigma^2 N$. The
# more data there are, the less it counts.

# %%
N = len(x)
prior = torch.distributions.Normal(torch.zeros_like(start), (1 / (2 * LAMBDA * N)) ** 0.5)
w = start.clone().requires_grad_()
log_likelihood = -F.cross_entropy(x @ w, birds.species, reduction="sum")  # of all N birds
(-(log_likelihood + prior.log_prob(w).sum()) / N).backward()
claim("a Gaussian prior is a penalty", w.grad, equals=slope + 2 * LAMBDA * start, within=1e-10)

# %% [markdown]
# One warning. The optimizer Adam, which section 3.3 takes apart, divides each slope by its typical size. In its first
# step it looks at nothing but signs. A penalty in the loss is divided along with the rest. Where the slope of the
# data is large, it is all but lost, as in the step below; where there is none, it is blown up to a full step. How
# much a weight decays then depends on its slopes, and not on its size. `AdamW` shrinks the weights by itself and
# keeps the slope clean. For Adam, a penalty and a decay are therefore different things; with networks of today, AdamW
# is the usual choice.

# %%
plain = step(lambda w: torch.optim.Adam(w, lr=STEP), penalty=0)
charged = step(lambda w: torch.optim.Adam(w, lr=STEP), penalty=1e-3)
apart = step(lambda w: torch.optim.AdamW(w, lr=STEP, weight_decay=2e-3), penalty=0)
claim("a small penalty is lost on Adam's first step", charged, equals=plain, within=1e-6)
claim("AdamW shrinks, then steps", apart, equals=plain - STEP * 2e-3 * start, within=1e-12)

# %% [markdown]
# What does weight decay do for the 500 digits? The same training again, from the same start, with a `weight_decay` of
# 0.01. The training set is still learned, but for a digit or none. But the weights end up at little more than half
# their size, so the network stays less certain, and the loss on test digits hardly rises any more.

# %%
held = train_on_few(decay=0.01)
size, cost = (held[what][-1] / free[what][-1] for what in ("size", "test loss"))
claim("size of the weights, decayed over free", size, at_most=0.7)
claim("final test loss, decayed over free", cost, at_most=0.85)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
for ax, what in ((left, "size"), (right, "test loss")):
    ax.plot(epochs, free[what], color=color.test)
    ax.plot(epochs, held[what], color=color.truth)
    ax.set(xlabel="epoch", xlim=(0, 101))
left.set(title="Size of all weights", ylim=(0, 15), yticks=[0, 5, 10, 15])
right.set(title="Cross-entropy, test digits", ylim=(0, 1))
for ax, high, low in ((left, 10.5, 5.4), (right, 0.7, 0.37)):
    ax.text(45, high, "free", color=color.test)
    ax.text(45, low, "with weight decay", color=color.truth)
said = f"Free weights grow to a size of {free['size'][-1]:.0f}, "
said += f"decayed ones to {held['size'][-1]:.0f}. "
said += "The test loss rises for the free ones, and stays low for the others."
figure("3.1g", "What weight decay does.", said, held="trained")

# %% [markdown]
# On the left, both start from the same random weights and both grow while the digits are being learned. Then the pull
# of the data weakens, since all training digits are right, and the decay wins. It finds a balance: each step shrinks
# the weights by as much as the loss makes them grow. Without decay there is no balance. The loss can always be
# lowered a little by scaling the last layer up, and so the weights grow for as long as one trains.
#
# And the error rate? It is the same with and without, give or take a digit in a hundred. Weight decay has cured the
# proxy more than the thing itself. That matters wherever the probabilities are used, and not only the winner.
#
# **Exercise.** There is another cure for too much certainty: never ask for it. *Label smoothing* takes the share
# $\varepsilon$ away from the true class and divides it equally among all $C$ classes, the true one included. The loss
# is then the mean of $-\sum_z q_z \log \hat P(Y = z)$, where $q$ are these shares. It must also work where logits are
# huge.


# %% tags=["exercise"]
def smoothed(f: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Mean cross-entropy of logits f (N, C) with classes y (N,), smoothed by epsilon."""
    raise NotImplementedError


logits = 2 * torch.randn(6, 4, generator=seed(5)).to(DEVICE)  # (N, C)
classes = torch.tensor([0, 3, 1, 1, 2, 0], device=DEVICE)  # (N,)
plain, by_torch, of_huge = (
    F.cross_entropy(size * logits, classes, label_smoothing=epsilon)
    for size, epsilon in ((1, 0.0), (1, 0.1), (1e3, 0.1))
)
check(
    smoothed,
    ("with epsilon 0 it is the cross-entropy", lambda g: (g(logits, classes, 0.0), plain)),
    ("with epsilon 0.1 it is torch's", lambda g: (g(logits, classes, 0.1), by_torch)),
    ("logits a thousand times as large", lambda g: (g(1e3 * logits, classes, 0.1), of_huge)),
)


# %% tags=["solution", "hide-input"]
def smoothed(f: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The truth costs what it did, times 1 - epsilon; epsilon is spread over the costs of all classes."""
    costs = f.logsumexp(dim=1, keepdim=True) - f  # (N, C)
    return ((1 - epsilon) * costs[range(len(y)), y] + epsilon * costs.mean(dim=1)).mean()


# %% [markdown]
# ## 3.2 Autoregressive models
#
# How likely is a text? There are more texts of a hundred letters than there are atoms in the universe, so no table
# can hold an answer for each. But a text has an order, and that helps: ask only how likely each letter is *given
# those before it*, and multiply. This is the **chain rule** of probability. For three letters,
#
# $$p(x_1, x_2, x_3) = p(x_1)\; p(x_2 \mid x_1)\; p(x_3 \mid x_1, x_2),$$
#
# where the bar is read "given". A model that predicts the elements of a sequence one after another, each from those
# before, is an **autoregressive model**. The elements are called **tokens**, and the finite set from which they come
# is the **vocabulary**. Here a token is a letter, later a piece of a word; it can be a patch of an image just as
# well.
#
# Three letters are few enough to check the rule against a full table. We take all words of three small letters in
# nine plays by Shakespeare, and count how often each of the 26 x 26 x 26 triples occurs.

# %%
corpus = shakespeare("train")
words = re.findall(r"\b[a-z]{3}\b", corpus.text)
letters = torch.tensor([list(word.encode()) for word in words], device=DEVICE) - ord("a")  # (N, 3)

# %% [markdown]
# Then count. `index_put_` with `accumulate` adds a one at the place of each triple, however often the same one comes.

# %%
counts = torch.zeros(26, 26, 26, device=DEVICE)
counts.index_put_(tuple(letters.T), counts.new_ones(()), accumulate=True)
joint = counts / len(words)  # (26, 26, 26)
print(f"{len(words):,} words, {(counts > 0).sum()} different of {counts.numel():,} possible ones")

# %% [markdown]
# First by hand. Of all words keep those that begin with t, of these the ones that go on with h, of these the ones
# that end with e. Each time note which share remains. The three shares multiplied are the share of "the" among all
# words, since each numerator is the next denominator and cancels.

# %%
product, remaining = 1.0, words
for place, letter in enumerate("the"):
    fitting = [word for word in remaining if word[place] == letter]
    product *= len(fitting) / len(remaining)
    print(f"{letter}: {len(fitting):5} / {len(remaining):5} = {len(fitting) / len(remaining):.4f}")
    remaining = fitting
print(f"product {product:.4f}; share of {'the'!r} {words.count('the') / len(words):.4f}")

# %% [markdown]
# The rule does not care for the order. We might as well begin with the last letter and go back to the first; the
# shares would be others, and their product the same. Left to right is simply how texts are written and read.
#
# Now for all triples at once. To sum the table over a letter is to ignore it. To divide by what is left is to
# condition on it: `p3` below has, for each beginning of two letters, the shares of the 26 third ones. (A beginning
# that never occurs would be 0 / 0; `nan_to_num` makes that 0.)

# %% tags=["equation-chain-rule"]
p1 = joint.sum(dim=(1, 2))  # (26,)
p2 = (joint.sum(dim=2) / p1[:, None]).nan_to_num()  # (26, 26), each row adds up to 1 or to 0
p3 = (joint / joint.sum(dim=2, keepdim=True)).nan_to_num()  # (26, 26, 26)
by_chain = p1[:, None, None] * p2[:, :, None] * p3  # (26, 26, 26)

# %%
claim("the chain rule gives back the whole table", by_chain, equals=joint, within=1e-6)
claim("and for one word what counting gives", by_chain[19, 7, 4], equals=product, within=1e-6)

# %% [markdown]
# The rule also works as a recipe. Draw a first letter from `p1`; look up the row of `p2` for it and draw a second
# one; look up the row of `p3` for both and draw the third. We only ever draw one letter, yet whole words must come
# out as often as the table says. We write 100,000 words this way, and compare: half the sum of all differences
# between two lists of shares is the part of the words that would have to be exchanged to make them equal.

# %%
chance, N = seed(1), 100_000
first = torch.multinomial(p1.cpu(), N, replacement=True, generator=chance)  # (N,)
second = torch.multinomial(p2.cpu()[first], 1, generator=chance)[:, 0]  # (N,)
third = torch.multinomial(p3.cpu()[first, second], 1, generator=chance)[:, 0]  # (N,)

# %%
drawn = torch.bincount(26**2 * first + 26 * second + third, minlength=26**3) / N  # (26³,)
apart = (drawn - joint.cpu().flatten()).abs().sum() / 2
claim("drawn letter by letter: share of words to exchange", apart, at_most=0.03)

# %% [markdown]
# ### Perplexity
#
# A model of text is good if it finds real text likely, text that it has not seen. The probability of a long text is
# too small for any number format, so take logarithms: the chain rule becomes a sum, with one term for each token. Its
# mean, with the sign turned, is the cross-entropy of section 3.1, and the exponential of that is the **perplexity**:
#
# $$\text{perplexity} = \exp\Big(-\frac{1}{T} \sum_{t=1}^{T} \log p(x_t \mid x_1, \ldots, x_{t-1})\Big)$$
#
# It can be read as a number of choices. Whoever guesses among $V$ tokens without any idea gives each the probability
# $1/V$ and has perplexity $V$, whatever the text. One who always knows the next token has 1. Below it is once word
# for word and once through PyTorch, for random logits.

# %%
V, T = len(corpus.characters), 50
logits = torch.randn(T, V, generator=seed(2)).to(DEVICE)  # (T, V)
x = corpus.codes[:T].to(DEVICE)  # (T,)

# %% tags=["equation-perplexity"]
total = 0.0
for t in range(T):
    share = logits[t, x[t]].exp() / logits[t].exp().sum()
    total = total - share.log()
perplexity = (total / T).exp()

# %%
by_torch = F.cross_entropy(logits, x).exp()
claim("perplexity and exp of torch's cross_entropy", perplexity, equals=by_torch, within=1e-2)
no_idea = F.cross_entropy(torch.zeros_like(logits), x).exp()
claim("perplexity of one who has no idea", no_idea, equals=float(V), within=1e-3)

# %% [markdown]
# ### Counting
#
# The simplest autoregressive model counts. (From here on "letter" means any of the 79 characters of the plays:
# capitals, blanks, commas and line ends too.) To predict a letter from the four before it, look up where these four
# occurred in the training text, and see what followed. These four and the predicted one are a run of five, a
# *5-gram*. We count the runs of one to six letters. (`Counter` is a dictionary that answers 0 for what it never saw.)


# %% tags=["export"]
def count_runs(text: str, longest: int) -> list[Counter]:
    """For each length from 0 to the longest, how often each run of so many letters occurs in a text."""
    seen = [Counter({"": len(text)})]  # the empty run is everywhere
    for n in progress(range(1, longest + 1), "counting"):
        seen.append(Counter(text[t : t + n] for t in range(len(text) - n + 1)))
    return seen


# %%
text, text_new = corpus.text, shakespeare("validation").text
seen = count_runs(text, 6)
for n in range(1, 7):
    print(f"{len(seen[n]):7,} different runs of {n}, of {V**n:,} possible")

# %% [markdown]
# Long runs are mostly missing, and the plain share has two faults: it is 0 for what was never seen in this place,
# which makes the perplexity infinite, and 0 / 0 after a beginning never seen. So before counting, pretend to have
# seen this beginning five times more, followed by each letter as often as some rougher model expects. In the simplest
# case that model has no idea, and expects $1/V$. Better, it is the model with one letter less to go by, which is
# corrected by a still shorter one, and so on down: then rare beginnings lean on more frequent ones. The function does
# both. `orders=[5]` leans runs of five directly on $1/V$, `orders=[1, 2, 3, 4, 5]` mixes all.


# %% tags=["export"]
def likelihood(letter: str, history: str, orders: list[int], seen: list[Counter], V: int) -> float:
    """The probability of one of V letters after a history, from the counts of runs of these lengths."""
    p = 1 / V
    for n in orders:
        before = history[len(history) - (n - 1) :]  # the last n - 1 letters
        p = (seen[n][before + letter] + 5 * p) / (seen[n - 1][before] + 5)
    return p


# %%
shares = [
    likelihood(letter, "To be, or no", [1, 2, 3, 4, 5, 6], seen, V) for letter in corpus.characters
]
claim("the shares of all letters add up to one", sum(shares), equals=1.0, within=1e-6)

# %% [markdown]
# What does it expect next? Below, a sentence is read up to the pink letter, which is to be predicted. The bars are
# the probabilities, with that of the right letter in pink. Begin with runs of one letter, which look at nothing
# before: the bars are how frequent letters are, wherever you stand. Then let the runs grow. With two, the bars change
# from place to place; with four or more, one of them often towers above the rest. Inside a word it is mostly the
# right one. The first letter of a word stays hard. (31 of the 79 characters are shown, so the bars need not add up to
# one.)

# %%
SENTENCE = "the king is dead, long live the queen"
SIGNS = "abcdefghijklmnopqrstuvwxyz ,.'\n"


def scene(fig):
    """A sentence of which a part is read, and a bar for each letter that may come next."""
    above, below = fig.subplots(2, 1, height_ratios=[1, 4])
    signs = [above.text(k, 0.5, sign, ha="center") for k, sign in enumerate(SENTENCE)]
    above.set(xlim=(-1, len(SENTENCE)))
    above.axis("off")
    bars = below.bar(range(len(SIGNS)), [0] * len(SIGNS), color=color.model)
    below.set(ylim=(0, 1), ylabel="probability", xlim=(-0.7, len(SIGNS) - 0.3))
    below.set_xticks(range(len(SIGNS)), [*SIGNS[:26], "␣", *SIGNS[27:30], "↵"])

    def update(letters_in_a_run, letters_read):
        right, history = SENTENCE[letters_read], SENTENCE[:letters_read]
        orders = list(range(1, letters_in_a_run + 1))
        for k, sign in enumerate(signs):
            later = color.weights if k == letters_read else color.quiet
            sign.set_color("#222222" if k < letters_read else later)
        for bar, sign in zip(bars, SIGNS, strict=True):
            bar.set_height(likelihood(sign, history, orders, seen, V))
            bar.set_color(color.weights if sign == right else color.model)
        p = likelihood(right, history, orders, seen, V)
        return f"the right letter, {right!r}, has probability {p:.3f}: as if one of {1 / p:.1f} equal choices"

    return update


# %%
knobs = {"letters_in_a_run": slider(1, 6, 4), "letters_read": slider(6, 36, 14)}
explore(scene, "3.2a", "What comes next, by counts.", (8, 3), **knobs)

# %% [markdown]
# Let it write: draw a letter, append it, repeat. With one letter at a time the text has only the right letters, with
# two the right neighbours; from four on there are words, and with six nearly sense.
#
# To draw from given probabilities, lay them end to end on a line from 0 to 1, throw a dart at the line, and see in
# whose part it lands: count the parts that end before it.


# %%
def draw(shares: Tensor, generator: torch.Generator) -> int:
    """The place, from 0 on, of one of these shares (V,), drawn as often as it is large."""
    dart = torch.rand((), generator=generator, dtype=torch.float64)
    return int((shares.double().cumsum(0) < dart).sum())


# %%
for n in (1, 2, 4, 6):
    line, chance = "the king ", seed(3)
    for _ in range(70):
        shares = [
            likelihood(letter, line, list(range(1, n + 1)), seen, V) for letter in corpus.characters
        ]
        line += corpus.characters[draw(torch.tensor(shares), chance)]
    print(f"{n}: {line.replace(chr(10), ' / ')}")

# %% [markdown]
# And the perplexity, on the training text and on text that was held out, the ends of the plays. To save time we ask
# at every third letter.


# %%
def measure(text: str, orders: list[int]) -> float:
    """The perplexity of a counting model on a text."""
    places = range(7, len(text), 3)
    logs = [math.log(likelihood(text[t], text[t - 6 : t], orders, seen, V)) for t in places]
    return math.exp(-sum(logs) / len(logs))


# %%
runs = range(1, 7)
longest_train = [measure(text[: len(text_new)], [n]) for n in runs]
longest = [measure(text_new, [n]) for n in runs]
mixed = [measure(text_new, list(range(1, n + 1))) for n in runs]

# %% [markdown]
# Here is the U of section 1.3 again, with the length of the run for capacity. On the training text each further
# letter helps. On new text the longest run alone gains up to four letters, nothing from the fifth, and with six it is
# clearly worse: it knows its text by heart and is lost outside of it, which is overfitting. Mixing cures most of
# that, since the longest run then has a say only where there are counts to support it.

# %%
falls = all(longer < shorter for shorter, longer in pairwise(longest_train))
claim("counting: on its own text each further letter helps", falls)
claim("counting: six letters, as a multiple of four", longest[5] / longest[3], at_least=1.2)
claim("counting: perplexity of mixed runs of five on new text", mixed[4], at_least=4.2, at_most=4.6)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
for name, curve, shade in (
    ("longest run, new text", longest, color.test),
    ("all runs mixed, new text", mixed, color.weights),
    ("longest run, training text", longest_train, color.train),
):
    ax.plot(runs, curve, "o-", color=shade, ms=4)
    ax.text(6.12, curve[-1], name, color=shade, va="center")
ax.set(xlabel="letters in a run, the predicted one included", ylabel="perplexity", xlim=(0.9, 8.2))
ax.set_xticks(runs)
log_scale(ax.yaxis, [3, 5, 10, 20, 30])
said = "Perplexity by letters in a run: "
for n, *values in zip(runs, longest_train, longest, mixed, strict=True):
    said += "{}: {:.2f} on the training text, {:.2f} on new text, {:.2f} mixed; ".format(n, *values)
figure("3.2b", "Perplexity of models that count, by the length of their runs.", said[:-2])

# %% [markdown]
# A perplexity of 4.4 among 79 letters means: on average the model hesitates as if between four or five equally likely
# ones. Much of a language is that predictable. From the sixth letter the mixed model gains nothing more, and hardly
# loses. Of all runs of six in the new text, one in six never occurs in the old one; nine plays are too few.

# %% [markdown]
# ### A causal model
#
# Counts do not see that "king" and "queen" are alike, and more letters need ever more text. A network can share what
# it learns. We could train one to predict the last letter of every beginning of the text: from 1 letter the second,
# from 2 letters the third, and so on. For $T$ letters, that is $1 + 2 + \ldots + T = T(T+1)/2$ letters to process.
#
# A **causal model** does it in one pass, over $T$ letters. It reads the whole sequence and gives logits at *every*
# position, so built that the logits at position $t$ depend on $x_1, \ldots, x_t$ only, never on what comes later.
# Those logits then are a fair prediction of $x_{t+1}$, although the whole text went in.
#
# Our network turns every letter into a list of $D$ numbers (an *embedding*: a table with a row for each letter). Then
# come two *convolutions*: the same linear layer, applied at each position to the $K = 5$ positions that end there.
# All that makes it causal is where the sequence is padded with zeros so that the first positions have neighbours too:
# $K - 1$ zeros before it, none behind. What a convolution gives passes through GELU, a ReLU with a rounded corner,
# and is added to what was there. With `ahead=2` each layer reaches two positions into the future, the whole network
# four; we want that only for comparison. Chapter 4 has more on all these parts.


# %% tags=["export"]
class CausalNetwork(nn.Module):
    """Logits of the next token at every position, from that position and earlier ones: (B, T) to (B, T, V)."""

    def __init__(self, V: int, D: int = 64, K: int = 5, layers: int = 2, ahead: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.convolutions = nn.ModuleList(nn.Conv1d(D, D, K) for _ in range(layers))
        self.readout = nn.Linear(D, V)
        self.padding = (K - 1 - ahead, ahead)  # zeros before and behind

    def read(self, h: Tensor) -> Tensor:
        """Logits (B, T, V) from embeddings (B, T, D)."""
        for convolution in self.convolutions:
            padded = F.pad(h.mT, self.padding)  # (B, D, T + K - 1)
            h = h + F.gelu(convolution(padded)).mT  # (B, T, D)
        return self.readout(h)  # (B, T, V)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.embedding(x))


# %% [markdown]
# The output has one row of $V$ logits for each of the $T$ positions: as many predictions as there are letters, all
# made at once, and all counted in the loss.
#
# Is it causal? Then one pass over a text must give the same logits as separate passes over all its beginnings, of
# which each is asked for its last prediction only. And it must be cheaper. A *hook* is a function that PyTorch calls
# whenever a module was used; ours counts the letters that the network looks up.

# %%
seed(0)
model, processed = CausalNetwork(V).to(DEVICE), []
hook = model.embedding.register_forward_hook(lambda _, x, out: processed.append(x[0].numel()))
at_once = model(x[None])[0]  # (T, V)
one_by_one = torch.stack([model(x[None, : t + 1])[0, -1] for t in range(T)])  # (T, V)
hook.remove()

# %%
claim("one pass gives the logits of T passes", at_once, equals=one_by_one, within=1e-3)
claim("letters processed: T in one pass", processed[0], equals=T)
claim("letters processed: T(T + 1)/2 in T passes", sum(processed[1:]), equals=T * (T + 1) // 2)

# %% [markdown]
# 50 against 1275, for fifty letters. In training, where all letters are there from the start, this makes the
# difference. In sampling they are not, and there is no way around doing one after another.
#
# The book's figure 3.1 shows which inputs modulate which logits. Gradients can tell: if no logit at position $t$
# changes when the embedding at position $s$ is moved a little, the gradient is zero. Not small; zero. `jacobian`
# collects the derivatives of every output by every input. We take the root of the sum of their squares for each pair
# of positions.


# %%
def influence(model: CausalNetwork, x: Tensor, last: bool = False) -> Tensor:
    """How much each input moves the logits at each position, (T, T), or at the last one only, (1, T)."""
    read = (lambda h: model.read(h)[0, -1:]) if last else (lambda h: model.read(h)[0])
    h = model.embedding(x[None]).detach()  # (1, T, D)
    slopes = torch.autograd.functional.jacobian(read, h)  # (T or 1, V, 1, T, D)
    return slopes.square().sum(dim=(1, 2, 4)).sqrt()  # (T or 1, T)


# %%
phrase = "my good lord"
codes = torch.tensor([corpus.characters.index(letter) for letter in phrase], device=DEVICE)  # (12,)
future = influence(model, codes[:-1]).triu(1)  # (11, 11), what is above the diagonal
claim("gradient from the future", future, equals=torch.zeros_like(future))

# %%
off_by_one = influence(CausalNetwork(V, ahead=1).to(DEVICE), codes[:-1]).triu(1)  # (11, 11)
claim("the same with a padding that is off by one", off_by_one.max(), at_least=0.1)

# %% [markdown]
# Now train it, on all of the training text, once. The text is cut into windows of 129 letters: the first 128 are the
# input, the last 128 the answers, each letter one place to the left. That shift is where mistakes like to happen.
# (The steps of the optimizer start small, grow, and shrink again; section 3.3 is about them.)


# %% tags=["export"]
def next_token_loss(model: nn.Module, window: Tensor) -> Tensor:
    """Cross-entropy of the predictions at all positions of windows (B, T + 1)."""
    logits = model(window[:, :-1])  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


# %%
def learn(model: nn.Module, windows: Tensor) -> None:
    """Go through the windows (N, T + 1) once."""
    data = batches(windows, size=16)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=len(data))
    for (window,) in progress(data, "training"):
        optimizer.zero_grad()
        next_token_loss(model, window).backward()
        optimizer.step()
        schedule.step()


# %% tags=["export"]
def windows(codes: Tensor, T: int = 128) -> Tensor:
    """The text cut into windows, without the rest: (N, T + 1)."""
    return codes[: len(codes) // (T + 1) * (T + 1)].view(-1, T + 1)


# %%
train, new = (windows(shakespeare(split, DEVICE).codes) for split in ("train", "validation"))
learn(model, train)
with torch.no_grad():
    of_network = next_token_loss(model, new).exp()

# %% [markdown]
# How good is it? Its weights number 51 thousand, and it sees nine letters back: the last one, and four more for each
# convolution. It is clearly better than the counts of runs of three, somewhat behind those of runs of four, and the
# mixed counts are better still. A few seconds of training do not beat a table of a few hundred thousand counts. (It
# starts blind in every window; without the first eight letters of each it would have 5.5.) That is an honest result,
# and a yardstick for the networks of later chapters.

# %%
claim("causal network: perplexity on new text", of_network, at_least=5, at_most=6.2)
claim("runs of three, as a multiple of the network", mixed[2] / of_network, at_least=1.1)
claim("the network, as a multiple of mixed runs of five", of_network / mixed[4], at_least=1.1)

# %% [markdown]
# For contrast, the same network with a look ahead. We train it on a sixth of the text; that is enough for a
# perplexity close to 1, which sounds like a miracle. It found the answer in its own input, one position to the right.
# Ask it for the last letter of a text, where nothing is to the right, as in sampling, and it does worse than counts
# of pairs, which have 11.9. A mask or a padding off by one does the same: if a perplexity looks too good, check first
# whether the future leaks.

# %%
seed(1)
cheat = CausalNetwork(V, ahead=2).to(DEVICE)
learn(cheat, train[: len(train) // 6])
with torch.no_grad():
    pretended = next_token_loss(cheat, new).exp()
    honest = F.cross_entropy(cheat(new[:, :-1])[:, -1], new[:, -1]).exp()

# %%
claim("looking ahead: perplexity where the answer is in the input", pretended, at_most=1.2)
claim("looking ahead: perplexity where it is not", honest, at_least=15)

# %% [markdown]
# The figure has a row for each prediction, and a column for each letter read. Blue tells how much the letter moves
# the prediction, as a share of the largest in its row. On the left, training: one pass, all rows at once, and exact
# zeros above the diagonal. In the middle, sampling: eleven passes, one for each row, and letters to the right do not
# even exist yet. The rows are the same; that is why what was learned on the left can be used in the middle. On the
# right, the network that looks ahead. Framed in red is the letter to be predicted: its row reads it.

# %%
x = codes[:-1]  # (11,)
passes = [influence(model, x[: t + 1], last=True)[0] for t in range(11)]  # (1,) to (11,)
in_sampling = torch.stack([F.pad(row, (0, 11 - len(row))) for row in passes])  # (11, 11)
tables = influence(model, x), in_sampling, influence(cheat, x)  # (11, 11) each
tables = [(rows / rows.amax(dim=1, keepdim=True)).cpu() for rows in tables]
claim("influence, in sampling and in training", tables[1], equals=tables[0], within=1e-3)

# %% tags=["figure-3.1"]
fig, axes = plt.subplots(1, 3, figsize=(9, 3.5))
shown, middles = phrase.replace(" ", "␣"), torch.arange(11) + 0.5
notes = {"training: one pass": "exactly 0", "sampling: a pass for each row": "not there yet"}
titles = [*notes, "not causal: it reads the answer"]
for ax, title, rows in zip(axes, titles, tables, strict=True):
    missing = (torch.ones(11, 11).triu(1) > 0) & (title == titles[1])
    rows = rows.masked_fill(missing | (rows == 0), math.nan)  # left grey
    ax.set_facecolor("#e4e4e4")
    ax.pcolormesh(rows, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    ax.text(7.4, 3, notes.get(title, ""), color="#777777", ha="center")
    ax.set(xticks=middles, yticks=middles, ylim=(11, 0), aspect="equal", title=title)
    ax.set(xticklabels=shown[:-1], yticklabels=shown[1:], xlabel="letter read")
axes[0].set_ylabel("letter predicted")
for t in range(10):
    axes[2].add_patch(plt.Rectangle((t + 1, t), 1, 1, fill=False, ec=color.test, lw=1.5))
zeros = [int((rows == 0).logical_and(torch.ones(11, 11).triu(1) > 0).sum()) for rows in tables]
said = f"Of 55 influences of later letters, {zeros[0]} are exactly 0 in the causal network, in training "
said += f"as in sampling, and {zeros[2]} in the network that looks ahead."
figure("3.1", "Which letter read moves which prediction.", said, held="trained")

# %% [markdown]
# In the third picture every framed row is darkest in its frame: the network takes the letter it should predict from
# where it stands, and has little use for the others. And what does the honest one write? Sampling is the chain rule
# as a recipe once more. (Your machine may draw other letters than ours.)

# %%
line, chance = "the king ", seed(3)
with torch.no_grad():
    for _ in range(100):
        read = torch.tensor([[corpus.characters.index(letter) for letter in line]], device=DEVICE)
        shares = model(read)[0, -1].softmax(dim=0).cpu()  # (V,)
        line += corpus.characters[draw(shares, chance)]
note("The network writes", line.replace("\n", " / "))

# %% [markdown]
# ### Tokens
#
# Letters are small steps: fifty of them for one line, fifty passes to write it. Whole words would be large steps, but
# there are too many words, and tomorrow new ones. Language models take something in between. A **tokenizer** cuts a
# text into tokens from a fixed vocabulary, frequent words in one piece and rare ones in several, and can put any text
# back together exactly. The usual one is **Byte Pair Encoding**, which is learned by counting. Begin with tokens of a
# single byte. Find the two tokens that stand side by side most often, and merge them into a new one. Repeat.
#
# Why bytes? There are 256 of them, and every text in every script is a sequence of bytes, by the standard called
# UTF-8: one for an English letter, two to four for others. So nothing is ever missing from the vocabulary. Two
# conventions follow the tokenizer of GPT-2. With them our merges and encodings are exactly those of `tokenizers`, the
# library that most language models use; the tests of this companion compare the two. First, the 256 bytes are
# numbered with those that print first:


# %% tags=["export"]
def byte_tokens() -> list[bytes]:
    """The 256 tokens of one byte, as GPT-2 numbers them: first those that print as Latin letters and signs."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in prints]
    return [bytes([byte]) for byte in prints + others]


# %% [markdown]
# Second, the text is cut beforehand into pieces that no token may cross: words, numbers, runs of signs, runs of
# blanks. A blank goes to the front of the word that follows it, and endings such as 's or 'll are cut off. Otherwise
# "dog.", "dog!" and "dog?" would become three tokens.
#
# What is a letter in Thai? Python's regular expressions cannot ask. But `unicodedata` knows the category of each
# character, with a first letter L for letters and N for numbers. So the function below puts an "a" for each letter
# that is not English, a "0" for each number, a tabulator for each blank and "!" for all else. The pattern is applied
# to these stand-ins, and the cuts to the text itself. (In a run of blanks before a word, `(?!\S)` leaves the last one
# for the word.)


# %% tags=["export"]
PIECE = r"'(?:[stmd]|re|ve|ll)| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+"


def stand_in(character: str) -> str:
    """A plain character of the same kind: a letter, a number, a blank or another."""
    if character.isascii():
        return character
    other = "\t" if character.isspace() else "!"
    return {"L": "a", "N": "0"}.get(unicodedata.category(character)[0], other)


def pieces(text: str) -> list[str]:
    """The text cut as GPT-2 does it."""
    kinds = "".join(map(stand_in, text))
    return [text[cut.start() : cut.end()] for cut in re.finditer(PIECE, kinds, re.ASCII)]


# %%
print(pieces("The king's 12 dogs… naïve, 日本語"))

# %% [markdown]
# Now the training. The function `add` enters the pairs of a piece into the books, or with the sign −1 takes them out
# again. Two things make it fast. Equal pieces are cut in the same way, so we count each piece once and remember how
# `often` it occurs. And a merge changes only the pieces that contain its pair, so we keep a list of `where` each pair
# is or has been. Ties are broken by the smaller numbers: the pair whose first token came earlier, then whose second
# did. It is an arbitrary rule, but some rule is needed, or the result would depend on chance.


# %% tags=["export"]
def merge(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """The tokens, with the two of the pair made one wherever they stand side by side."""
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


# %% tags=["export"]
def train_bpe(text: str, merges: int, split=pieces) -> list[tuple[bytes, bytes]]:
    """The pairs of tokens to merge, in this order, learned from a text cut by `split`."""
    number = {token: k for k, token in enumerate(byte_tokens())}
    often = Counter(split(text))
    tokens = {piece: [bytes([byte]) for byte in piece.encode()] for piece in often}
    count, where, found = Counter(), defaultdict(set), []

    def add(piece: str, sign: int) -> None:
        for pair in pairwise(tokens[piece]):
            count[pair] += sign * often[piece]
            where[pair].add(piece)

    for piece in tokens:
        add(piece, 1)
    while len(found) < merges and any(count.values()):
        most = max(count.values())
        best = min((number[a], number[b], (a, b)) for (a, b), c in count.items() if c == most)[2]
        found.append(best)
        number[best[0] + best[1]] = len(number)
        for piece in where.pop(best):
            add(piece, -1)
            tokens[piece] = merge(tokens[piece], best)
            add(piece, 1)
    return found


# %%
merges = train_bpe(corpus.text, 512)
for at in (slice(0, 6), slice(100, 106), slice(430, 436)):
    made = ", ".join(repr((a + b).decode()) for a, b in merges[at])
    print(f"merges {at.start + 1} to {at.stop}: {made}")

# %% [markdown]
# First come pairs of letters, or of a blank and a letter; then short words with their blank; then, among others,
# names of those who speak. To encode a new text, cut it into pieces, each of them into bytes, and merge: always the
# pair that was learned earliest. To decode, put the bytes together, and only then read them as text, since a token
# may end in the middle of a character. The number of a token is its place in the vocabulary, the 256 bytes first,
# then one token for each merge.


# %% tags=["export"]
def encode(text: str, merges: list[tuple[bytes, bytes]], split=pieces) -> list[bytes]:
    """The text as tokens."""
    rank = {pair: k for k, pair in enumerate(merges)}
    cut, known = split(text), {}
    for piece in set(cut):
        tokens = [bytes([byte]) for byte in piece.encode()]
        while len(tokens) > 1:
            ranks = [rank.get(pair, math.inf) for pair in pairwise(tokens)]
            if min(ranks) == math.inf:
                break
            k = ranks.index(min(ranks))
            tokens[k : k + 2] = [tokens[k] + tokens[k + 1]]
        known[piece] = tokens
    return [token for piece in cut for token in known[piece]]


# %% tags=["export"]
def decode(tokens: list[bytes]) -> str:
    """The text that the tokens spell; bytes that are no UTF-8 become the sign �."""
    return b"".join(tokens).decode(errors="replace")


def vocabulary(merges: list[tuple[bytes, bytes]]) -> dict[bytes, int]:
    """The number of each token."""
    tokens = byte_tokens() + [left + right for left, right in merges]
    return {token: k for k, token in enumerate(tokens)}


# %% [markdown]
# Nothing may be lost, on any text, and our merges have only seen plain English. So we try what breaks careless
# tokenizers: a family that is one sign made of three joined by invisible characters, an accent that is a character of
# its own, scripts without blanks or from right to left, control characters. Then every 101st code of the 1,114,112
# that Unicode has room for, in one string. (The codes from 55,296 to 57,343 are no characters.)

# %%
hard = [
    "",
    "  ",
    "👩‍👩‍👧",
    "e\u0301",
    "日本語",
    "עברית وعربي",
    "\0\x1b\x7f\ufeff",
    "\n\t\u00a0\u3000 ",
]
hard.append("".join(chr(code) for code in range(0, 0x110000, 101) if not 0xD800 <= code < 0xE000))
number = vocabulary(merges)

# %%
lossless = all(decode(encode(string, merges)) == string for string in hard)
known = all(token in number for string in hard for token in encode(string, merges))
claim("hard strings come back as they were", lossless and known)
claim("pieces put together are the text", all("".join(pieces(string)) == string for string in hard))

# %% [markdown]
# What is gained? On the held-out text, characters per token: one when nothing is merged, and over two with 512
# merges. A pass of a model now moves ahead twice as far. On the whole, later merges gain less.

# %%
tokens_new = encode(text_new, merges)
claim("tokenizer: new text comes back as it was", decode(tokens_new) == text_new)
compression = len(text_new) / len(tokens_new)
claim("tokenizer: characters per token", compression, at_least=2.1, at_most=2.3)

# %%
steps = [0, 4, 8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512]
sample_new = text_new[:20_000]
gained = [len(sample_new) / len(encode(sample_new, merges[:k])) for k in steps]

# %% [markdown]
# Watch it happen. Each colour change is a border between tokens. Move the merges from 0 up: the frequent words close
# first. The second sentence is not by Shakespeare. In the third many characters take several bytes, which stand there
# by their two-digit hexadecimal codes. Such pairs never occurred in training, so they stay apart: a tokenizer is only
# as good for a language as its training text was.

# %%
SENTENCES = [
    "  KING HENRY. Once more unto the breach, dear friends, once more;\n",
    "Deep learning models read tokens, and unlikely words cost more of them.",
    "Zoë’s naïve café: 日本語, ελληνικά, 👩‍👧. To be or not to be",
]
COLUMNS, ROWS = 28, 3  # of bytes in the picture
shades = torch.tensor([[0.74, 0.88, 0.97], [0.99, 0.83, 0.70], [1, 1, 1]])  # the third is paper


def spelled(byte: int) -> str:
    """A byte as a letter where it is one, else by its code."""
    return {0: "", 10: "↵", 32: "␣"}.get(byte, chr(byte) if 32 < byte < 127 else f"{byte:02x}")


# %%
def scene(fig):
    """A sentence, byte by byte in boxes, coloured by token; beside it, characters per token against merges."""
    left, right = fig.subplots(1, 2, width_ratios=[3.2, 1])
    boxes = left.imshow(torch.ones(ROWS, COLUMNS, 3), extent=(0, COLUMNS, ROWS, 0), aspect="auto")
    gaps = left.vlines([], 0, 1, color="white", lw=3)  # between the tokens, as soon as it gets some
    places = [(k % COLUMNS + 0.5, k // COLUMNS + 0.53) for k in range(ROWS * COLUMNS)]
    signs = [left.text(*place, "", ha="center", va="center") for place in places]
    left.axis("off")
    right.plot(steps, gained, color=color.test)
    (here,) = right.plot([], [], "o", color=color.weights, ms=8)
    right.text(510, 2.28, "new text of the plays", color=color.test, ha="right")
    right.text(510, 0.62, "this sentence", color=color.weights, ha="right")
    right.set(xlabel="merges", title="characters per token", xlim=(-10, 530), ylim=(0.5, 2.5))

    def update(merges_made, sentence):
        text = SENTENCES[sentence - 1]
        tokens = encode(text, merges[:merges_made])
        turn = torch.full((ROWS * COLUMNS,), 2)
        size = torch.tensor([len(token) for token in tokens])
        turn[: size.sum()] = (torch.arange(len(tokens)) % 2).repeat_interleave(size)
        boxes.set_data(shades[turn].reshape(ROWS, COLUMNS, 3))
        ends = [divmod(end, COLUMNS) for end in [0, *size.cumsum(0).tolist()]]
        borders = [[(column, row), (column, row + 1)] for row, column in ends]
        gaps.set_segments(borders + [[(0, row), (COLUMNS, row)] for row in range(ROWS + 1)])
        for sign, byte in zip(signs, text.encode().ljust(len(signs), b"\0"), strict=True):
            sign.set_text("")  # so that each counts as changed, and is drawn above the boxes
            sign.set_text(spelled(byte))
        here.set_data([merges_made], [len(text) / len(tokens)])
        return f"{len(text)} characters, {size.sum()} bytes, {len(tokens)} tokens"

    return update


# %%
knobs = {"merges_made": slider(0, 512, 100), "sentence": slider(1, 3, 1)}
explore(scene, "3.2c", "A sentence becomes tokens.", (8.5, 2.6), **knobs)

# %% [markdown]
# ### Perplexity depends on the tokens
#
# A perplexity of 28 per letter and one of 261 per token cannot be compared: who chooses among more, but takes longer
# steps, need not be worse. Total nats for the same text can. They are usually given as *bits per byte*: the sum of
# all $-\log p$, divided by $\log 2$ to have bits, and by the number of bytes of the text. Two models that only know
# how frequent each token is, one with letters and one with our tokens, show the difference. (To each count we add
# one, for tokens never seen.)


# %%
def surprise(train: list, new: list, size: int) -> list[float]:
    """-log p of each new token, by how frequent it was among those to train, in a vocabulary of this size."""
    often = Counter(train)
    return [-math.log((often[token] + 1) / (len(train) + size)) for token in new]


# %%
per_letter = surprise(list(corpus.text), list(text_new), V)
per_token = surprise(encode(corpus.text, merges), tokens_new, len(number))
perplexities = [math.exp(sum(nats) / len(nats)) for nats in (per_letter, per_token)]
bits = [sum(nats) / math.log(2) / len(text_new.encode()) for nats in (per_letter, per_token)]

# %%
print(f"letters: perplexity {perplexities[0]:.2f}, {bits[0]:.3f} bits per byte")
print(f"tokens:  perplexity {perplexities[1]:.2f}, {bits[1]:.3f} bits per byte")

# %%
multiple, share = perplexities[1] / perplexities[0], bits[1] / bits[0]
claim("tokens: perplexity, as a multiple of that of letters", multiple, at_least=5)
claim("tokens: bits per byte, as a share of those of letters", share, at_most=0.85)

# %% [markdown]
# The perplexity is nine times as large, and yet the tokens know more: what lies inside a token need not be predicted
# any more.
#
# **Exercise.** Write bits per byte for a real model. You get its logits for $T$ tokens, the numbers of the tokens
# that really came, and how many bytes each of them has. Which mean is meant? The text has so many bits in all, and so
# many bytes in all.


# %% tags=["exercise"]
def bits_per_byte(logits: Tensor, numbers: Tensor, lengths: Tensor) -> Tensor:
    """Bits per byte (a single number) from logits (T, V), numbers (T,) and lengths in bytes (T,)."""
    raise NotImplementedError


no_idea, ones = torch.zeros(6, 256), torch.ones(6).long()
four, twos = torch.zeros(2, 4), torch.tensor([2, 2])
sure = torch.tensor([[0.0, 0.0], [0.0, 99.0]])
check(
    bits_per_byte,
    ("a byte without any idea: 8 bits", lambda g: (g(no_idea, ones, ones), torch.tensor(8.0))),
    ("1 of 4, for tokens of 2 bytes: 1 bit", lambda g: (g(four, twos, twos), torch.tensor(1.0))),
    (
        "1 bit for a token of 1 byte, then 0 bits for one of 3 bytes: a quarter",
        lambda g: (g(sure, torch.tensor([0, 1]), torch.tensor([1, 3])), torch.tensor(0.25)),
    ),
)


# %% tags=["solution", "hide-input"]
def bits_per_byte(logits: Tensor, numbers: Tensor, lengths: Tensor) -> Tensor:
    """All bits over all bytes, not the mean over tokens of bits over bytes: long tokens count more."""
    nats = F.cross_entropy(logits, numbers, reduction="sum")
    return nats / math.log(2) / lengths.sum()


# %% [markdown]
# ## 3.3 Gradient descent
#
# With a closed form we would jump to the lowest loss, as in section 1.2. For nearly all models there is none. What
# remains is to go downhill in steps. That needs one thing, the slope in every direction, and it turns out that slopes
# are cheap, even for a billion weights.
#
# We need a loss with something to see. Of Gentoo and Chinstrap penguins we know the mass $x$ and the depth of the
# bill $y$, and look for a line $w_0 + w_1 x$ again. The squared error would let one odd bird count for many. So we
# take the logarithm, $\log(1 + r^2 / s^2)$ for a miss of $r$ millimetres, with $s = 0.4$ mm: near zero it is like a
# square, and each further millimetre of a large miss costs less than the one before. So a line may give some birds up
# to be closer to others. And as the two species form two clouds, it has a choice.

# %%
birds = penguins("train", DEVICE)

# %%
kept = birds.species != PENGUINS.index("Adelie")  # (202,)
x = birds.measured[kept, 3].double() / 1000 - 4.6  # (N,) mass in kg, from 4.6 kg on
y = birds.measured[kept, 1].double()  # (N,) depth of the bill in mm
N, S = len(x), 0.4


# %%
def losses(w: Tensor) -> Tensor:
    """The loss of every bird (..., N), for weights (..., 2) in mm and mm for each kg."""
    return ((y - w[..., :1] - w[..., 1:] * x) / S).square().log1p()  # (..., N)


def loss(w: Tensor) -> Tensor:
    """Their mean (...)."""
    return losses(w).mean(-1)


# %% [markdown]
# The **gradient** $\nabla \mathscr{L}(w)$ is the list of all slopes: how much the loss changes, for each weight, if
# that weight is moved a little and the others stay. One can find it by trying: move one weight up by a tiny $h$, then
# down by $h$, and divide the difference of the losses by $2h$. That takes two evaluations of the loss for each
# weight. PyTorch gets all slopes at once, for about the price of two or three evaluations in all, however many
# weights there are. Section 3.4 shows how. Here both must agree.

# %%
w = torch.tensor([18.0, 2.0], **EXACT, requires_grad=True)
(by_torch,) = torch.autograd.grad(loss(w), w)

# %% [markdown]
# How small should $h$ be? The smaller, the nearer to the slope at the point itself. But the two losses then agree in
# more and more digits, and what is left of their difference is rounding. In 64 bits, $10^{-5}$ is a good compromise.

# %%
h = 1e-5 * torch.eye(2, **EXACT)  # (2, 2) one row moves one weight
by_trying = (loss(w + h) - loss(w - h)) / 2e-5  # (2,)
print(f"slopes {by_torch[0]:.4f} and {by_torch[1]:.4f}")
claim("gradient, by trying and by torch", by_trying, equals=by_torch, within=1e-8)

# %% [markdown]
# The gradient points in the direction in which the loss climbs fastest. So **gradient descent** goes the other way,
# again and again. One **gradient step** is equation (3.1) of the book:
#
# $$w_{n+1} = w_n - \eta\, \nabla \mathscr{L}(w_n)$$
#
# The number $\eta$ is the **learning rate**: how far to go, as a multiple of how steep it is. Twenty steps, first
# word for word; PyTorch's `SGD` does the same.

# %% tags=["equation-3.1"]
ETA = 0.3
w = torch.tensor([18.0, 2.0], **EXACT)
for _ in range(20):
    w.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(w), w)
    w = (w - ETA * gradient).detach()

# %%
theirs = torch.tensor([18.0, 2.0], **EXACT, requires_grad=True)
optimizer = torch.optim.SGD([theirs], lr=ETA)
for _ in range(20):
    optimizer.zero_grad()
    loss(theirs).backward()
    optimizer.step()
claim("equation 3.1, twenty times, and torch's SGD", w, equals=theirs, within=1e-12)

# %% [markdown]
# Two habits hide in that loop. `backward` *adds* to the slopes that are already there, hence `zero_grad` before it.
# And a step must not itself become part of the computation that is differentiated, hence `detach` in ours.
#
# How much does a step gain? Over a short distance a surface is like a plane, so a small step lowers the loss by its
# length times the steepness, which is $\eta \|\nabla \mathscr{L}\|^2$. The promise holds for tiny steps and breaks
# for large ones. A rate of 2 happens to gain more than promised, since the slope gets steeper on the way. With a rate
# of 20 the step flies over the valley, and the loss is higher than before.

# %%
start = torch.tensor([18.0, 2.0], **EXACT)
for eta in (1e-4, 2.0, 20.0):
    gain = (loss(start) - loss(start - eta * by_torch)) / (eta * by_torch.square().sum())
    print(f"learning rate {eta:g}: {gain:.3f} of the promised decrease")

# %%
small = (loss(start) - loss(start - 1e-5 * by_torch)) / (1e-5 * by_torch.square().sum())
claim("a small step keeps its promise, up to this factor", small, at_least=0.999, at_most=1.001)

# %% [markdown]
# For pictures we need many gradients at once, from many places, and so we write this one out by hand. For one bird
# with the miss $r = y - w_0 - w_1 x$, the chain rule of school gives $-2 r / (s^2 + r^2)$ for $w_0$, and that times
# $x$ for $w_1$. It is all that the 48 walks below need, of 2,000 steps each.


# %%
def slopes(w: Tensor) -> Tensor:
    """The gradient (..., N, 2) of the loss of every single bird, for weights (..., 2)."""
    r = y - w[..., :1] - w[..., 1:] * x  # (..., N)
    inner = -2 * r / (S**2 + r**2)  # (..., N)
    return torch.stack([inner, inner * x], dim=-1)  # (..., N, 2)


claim("gradient, by hand and by torch", slopes(start).mean(0), equals=by_torch, within=1e-12)

# %% [markdown]
# The starts are a grid of 8 by 6 over the plane of weights; the walks take their steps all at once.

# %%
starts = torch.cartesian_prod(torch.linspace(12.5, 19, 8), torch.linspace(-4, 4, 6)).double()
trails = [starts.to(DEVICE)]  # (48, 2) each
for _ in range(2000):
    trails.append(trails[-1] - ETA * slopes(trails[-1]).mean(-2))
ends = trails[-1].cpu()  # (48, 2)
places = torch.stack([ends[ends[:, 1] > 0].mean(0), ends[ends[:, 1] < 0].mean(0)])  # (2, 2)

# %% [markdown]
# All end in one of two places. There the gradient is zero, and the surface bends upwards in every direction: the
# matrix of second derivatives, the *Hessian*, has only positive eigenvalues. Each is a **local minimum**: the lowest
# point far and wide, but perhaps not of all. Gradient descent cannot tell. It feels the ground under its feet, and
# which of the two it finds is decided by where it starts.

# %%
gap = torch.cdist(ends, places).min(dim=1).values.max()
claim("all walks end at one of two places, up to", gap, at_most=1e-6)

# %%
bends = [
    torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, p.to(DEVICE))) for p in places
]
claim("the smaller bend at either place", torch.stack(bends).min(), at_least=0.05)
apart = loss(places.to(DEVICE)).diff().abs()  # (1,)
claim("difference between the two minima", apart, at_least=0.02)

# %% [markdown]
# The book's figure is drawn here for our birds. On the left each place is a line: the plane of both weights, dark
# where the loss is low, and the paths of some of the walks, white or orange by where they end. On the right are the
# lines of the two minima. The blue one, where the white paths lead, cuts through the Gentoos and grazes the
# Chinstraps, and has the lower loss. The orange one, the worse minimum, runs along the Gentoos, and says what is true
# within a species: heavier birds have deeper bills. The loss knows nothing of that. What is lowest and what is right
# are two questions.

# %%
w0, w1 = torch.linspace(12, 20, 100), torch.linspace(-5, 5, 100)
pairs = torch.cartesian_prod(w0, w1).to(**EXACT)  # (10000, 2)
surface = loss(pairs).reshape(100, 100).T.cpu()  # (100, 100)

# %% tags=["figure-3.2"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.9), width_ratios=[3, 2])
left.contourf(w0, w1, surface.clamp(max=4.3), levels=24, cmap="Blues_r", vmax=5)
walks = torch.stack(trails[:400]).cpu()  # (400, 48, 2)
shades = ["white" if end < 0 else color.gradient for end in ends[:, 1]]
for walk in (0, 2, 4, 5, 12, 17, 24, 29, 35, 36, 42, 45, 47):
    left.plot(*walks[:, walk].T, "-o", color=shades[walk], lw=1, ms=2.2)
    left.plot(*walks[0, walk], "o", color=shades[walk], ms=6)
for place, shade in zip(places, (color.gradient, "white"), strict=True):
    left.plot(*place, "*", color=shade, ms=13, mec="#222222", mew=0.7, zorder=3)
mass = torch.tensor([-1.8, 1.6])
right.scatter(x.cpu() + 4.6, y.cpu(), s=8, color=color.data)
for (a, b), shade in zip(places, (color.gradient, color.model), strict=True):
    right.plot(mass + 4.6, a + b * mass, color=shade)
right.text(6.2, 13.6, "Gentoos", color=color.data, ha="right")
right.text(2.9, 20.6, "Chinstraps", color=color.data)
left.set(xlabel="$w_0$ (mm at 4.6 kg)", ylabel="$w_1$ (mm for each kg)")
right.set(xlabel="body mass (kg)", ylabel="depth of the bill (mm)")
values = loss(places.to(DEVICE)).tolist()
found = [f"({w[0]:.3f}, {w[1]:.3f}), loss {v:.4f}" for w, v in zip(places, values, strict=True)]
said = f"Paths to two minima: {'; '.join(found)}."
figure("3.2", "Gradient descent on a real loss: the start decides the end.", said)

# %% [markdown]
# ### How long a step?
#
# Too short, and it takes forever. Too long, and the step overshoots the valley and lands higher on the other side.
# For a bowl, the loss of section 1.1, one can say exactly what too long means. Take a bowl of one weight,
# $\frac{1}{2} L w^2$, where $L$ is how much it bends. Its slope is $L w$, and a step multiplies $w$ by $1 - \eta L$.
# With $\eta = 1 / L$ it is at the bottom at once. Up to $2 / L$ it overshoots, but less each time. Beyond, it
# overshoots more each time. With many weights $L$ is the strongest bend, the largest eigenvalue of the Hessian. So
# $2 / L$ is a cliff, and it should not matter at all from where one starts.
#
# The bowl: mean squared error for the same birds and the same line, the mass now from 3 kg on. That makes the two
# weights depend on each other, and the bowl becomes a narrow valley. At a distance $w - w^*$ from its lowest point
# the gradient of a bowl is the Hessian times that distance. For each rate, 200 steps.

# %%
line = torch.stack([torch.ones_like(x), x + 1.6], dim=1)  # (N, 2)
H = 2 / N * line.mT @ line  # (2, 2) the Hessian of the mean squared error
L = torch.linalg.eigvalsh(H).max()
lowest = torch.linalg.lstsq(line, y).solution  # (2,)


def descend(eta: float, steps: int = 200) -> Tensor:
    """All places (steps + 1, 2) of a walk down the bowl with that learning rate."""
    trail = [lowest + torch.tensor([-6.0, 2.0]).to(lowest)]
    for _ in range(steps):
        trail.append(trail[-1] - eta * H @ (trail[-1] - lowest))
    return torch.stack(trail)


# %%
rates = (0.03, 1.0, 1.9, 1.98, 2.02)
off = {rate: (descend(rate / L) - lowest).norm(dim=1) for rate in rates}  # (201,) each

# %%
left_over = {rate: distance[-1] / distance[0] for rate, distance in off.items()}
claim("just below 2 / L: distance to the minimum, end over start", left_over[1.98], at_most=0.5)
claim("just above 2 / L: the same", left_over[2.02], at_least=2)

# %% [markdown]
# The cliff is where it should be: a rate one hundredth below it converges and one hundredth above it explodes. Was
# the Hessian the right one? PyTorch can differentiate twice.

# %%
at_start = torch.autograd.functional.hessian(lambda w: F.mse_loss(line @ w, y), lowest)
claim("the Hessian, by hand and by torch", H, equals=at_start, within=1e-10)

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.5, 2.8), width_ratios=[1, 1, 1, 1.3])
a, b = torch.linspace(-8, 8, 60), torch.linspace(-4.5, 4.5, 60)
around = torch.cartesian_prod(a, b).double().to(DEVICE)  # (3600, 2)
bowl = (around @ H * around).sum(1).sqrt().reshape(60, 60).T.cpu()  # (60, 60)
shades = {0.03: color.model, 1.0: color.truth, 2.02: color.test, 1.9: color.gradient}
for ax, rate in zip(axes, (1.0, 1.9, 2.02), strict=False):
    ax.contour(a, b, bowl, levels=8, colors=color.quiet, linewidths=0.7)
    walk = (descend(rate / L, steps=40) - lowest).cpu()  # (41, 2)
    ax.plot(0, 0, "*", color=color.data, ms=9)
    ax.plot(*walk.T, "-o", color=shades[rate], lw=1, ms=2.5)
    ax.set(xticks=[], yticks=[], title=f"{rate:g} / L", xlim=(-8, 8), ylim=(-4.5, 4.5))
for rate, shade in shades.items():
    axes[3].plot(off[rate].cpu(), color=shade)
    axes[3].text(205, off[rate][-1].cpu(), f"{rate:g} / L", color=shade, va="center")
axes[3].set(title="Distance", xlabel="step", xlim=(0, 205), ylim=(3e-6, 200))
log_scale(axes[3].yaxis, [0.0001, 0.01, 1, 100])
said = ", ".join(f"{rate:g} / L to {off[rate][-1]:.3g}" for rate in shades)
said = f"In 200 steps from {off[1.0][0]:.3f} off the minimum, {said}."
figure("3.3a", "Learning rates in one bowl, from too small to too large.", said)

# %% [markdown]
# With $1 / L$ the walk drops into the valley in one step and then follows it slowly: along the valley the bowl bends
# less, and what is right for the steep direction is small for the other. So it is worth going nearer to the cliff.
# With $1.9 / L$ the walk zigzags across the valley at first, and after 200 steps is 600 times nearer to the minimum
# than with $1 / L$. At $2.02 / L$ it is lost: at first it looks like the others, and then each step is wider than the
# last.
#
# A valley like this is the usual state of affairs in training, and much of what follows is about it. For losses that
# are no bowls, $L$ changes from place to place. There is no formula for the rate then. One tries, by factors of three
# or ten, and takes a value somewhat below the one at which training falls apart.
#
# ### Some of the examples will do
#
# The loss is a mean over examples, and so its gradient is the mean of the gradients of the single examples:
#
# $$\nabla \mathscr{L}(w) = \frac{1}{N} \sum_{n=1}^{N} \nabla \ell_n(w)$$
#
# This is equation (3.2) of the book. It looks harmless, and it is what makes training affordable. If a mean over a
# million examples is too costly for one step, a few examples taken at random will give nearly the same mean. First
# the equation, one bird at a time.

# %% tags=["equation-3.2"]
w = start.clone().requires_grad_()
(at_once,) = torch.autograd.grad(loss(w), w)
one_by_one = torch.zeros_like(w)
for n in range(N):
    (gradient,) = torch.autograd.grad(losses(w)[n], w)
    one_by_one = one_by_one + gradient / N
claim("equation 3.2: one by one, and at once", one_by_one, equals=at_once, within=1e-12)

# %% [markdown]
# Now take a *mini-batch*, a few birds at random, and the mean of only their gradients. It will be off. But it is off
# in no particular direction: on average over all mini-batches that one may draw, it is the full gradient. An estimate
# with this property is called *unbiased*. Two ways to see it. Deal out all 110 birds into 11 batches of ten: the mean
# of the 11 gradients is the full one exactly. That is an *epoch*, one pass over the data. Or draw 4,000 batches
# independently. Then their mean should miss by no more than chance allows, that is by a few standard errors: their
# spread, divided by $\sqrt{4000}$.


# %%
def drawn(size: int, count: int = 4000, random: int = 1) -> Tensor:
    """Gradients (count, 2) at the start, each of a mini-batch of that size, drawn with replacement."""
    chosen = torch.randint(N, (count, size), generator=seed(random)).to(DEVICE)
    return slopes(start)[chosen].mean(dim=1)


# %%
dealt = torch.randperm(N, generator=seed(2)).to(DEVICE).reshape(11, 10)
eleven = slopes(start)[dealt].mean(1)  # (11, 2)
claim("mean over the batches of one epoch", eleven.mean(0), equals=at_once, within=1e-12)

# %% [markdown]
# The epoch gives the full gradient up to rounding. The independent draws give it up to chance: a batch may contain a
# bird twice, and another bird not at all.

# %%
eights = drawn(8)  # (4000, 2)
errors = (eights.mean(0) - at_once).abs() / (eights.std(0) / 4000**0.5)  # (2,)
claim("mean of 4000 mini-batches: off by so many standard errors", errors.max(), at_most=4)

# %% [markdown]
# How far off is a single one? The variance of a mean of $B$ independent draws is that of one draw divided by $B$.
# Here we measure it. On the left are the gradients of 400 mini-batches of 4 birds, and of 64; the cross is the full
# gradient. Sixteen times as many birds bring the dots only four times nearer. That is the bargain: a batch of 64
# costs sixteen steps with a batch of 4.

# %%
sizes = [1, 2, 4, 8, 16, 32, 64]
scatter = torch.stack([drawn(size).var(0).sum() for size in sizes])  # (7,)
of_one = slopes(start).var(0, correction=0).sum()

# %% [markdown]
# If the rule holds, the variance times the batch size is the same for all sizes, and equal to the variance among
# single birds.

# %%
ratio = scatter * torch.tensor(sizes, device=DEVICE) / of_one  # (7,)
claim("variance times batch size, over that of one bird: smallest", ratio.min(), at_least=0.9)
claim("variance times batch size, over that of one bird: largest", ratio.max(), at_most=1.1)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
for size, shade in ((4, color.input), (64, color.model)):
    left.scatter(*drawn(size)[:400].T.cpu(), s=5, color=shade, lw=0)
left.plot(*at_once.cpu(), "x", color=color.gradient, ms=9, mew=2.5)
left.set(xlabel="slope for $w_0$", ylabel="slope for $w_1$")
left.text(0.6, 0.9, "batches of 4", color=color.input, transform=left.transAxes)
left.text(0.6, 0.8, "batches of 64", color=color.model, transform=left.transAxes)
right.plot(sizes, of_one.cpu() / torch.tensor(sizes), color=color.quiet)
right.plot(sizes, scatter.cpu(), "o", color=color.model)
right.text(9, of_one.cpu() / 6, "one bird's, divided by $B$", color="#777777")
right.set(xlabel="batch size $B$", ylabel="variance")
log_scale(right.xaxis, sizes)
log_scale(right.yaxis, [0.01, 0.03, 0.1, 0.3, 1])
said = ", ".join(f"{size}: {value:.4f}" for size, value in zip(sizes, scatter, strict=True))
said = f"Two clouds around one point. Variance by batch size {said}."
figure("3.3b", "Mini-batch gradients, and their variance.", said)

# %% [markdown]
# So it is better to take many rough steps than few exact ones. Going downhill with gradients of mini-batches is
# **stochastic gradient descent**, SGD. How much better? We train a linear classifier of the 8,000 digits in two ways,
# always from zero weights. Gradient descent gets ten passes over the data, which makes ten steps, and the best of
# four learning rates. SGD with batches of 20 gets one pass, which makes 400 steps, at a rate of 0.1 that was not
# tuned. A look at the loss every now and then is not counted.

# %%
images, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)


# %%
def train(size: int, eta: float, epochs: int) -> Tensor:
    """Loss on 2,000 of the training digits, at every twentieth step of an epoch and at the end."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to(DEVICE)
    nn.utils.vector_to_parameters(torch.zeros(7850, device=DEVICE), model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    seen = []
    for _ in progress(range(epochs), f"batches of {size}"):
        for step, (image, label) in enumerate(batches(images, labels, size=size)):
            if step % 20 == 0:
                seen.append(F.cross_entropy(model(images[:2000]), labels[:2000]).item())
            optimizer.zero_grad()
            F.cross_entropy(model(image), label).backward()
            optimizer.step()
    return torch.tensor([*seen, F.cross_entropy(model(images[:2000]), labels[:2000]).item()])


# %%
full = {eta: train(8000, eta, epochs=10) for eta in (0.25, 0.5, 0.7, 1.0)}  # (11,) each
stochastic = train(20, 0.1, epochs=1)  # (21,)

# %%
after_one, after_ten = (min(curve[k] for curve in full.values()) for k in (1, 10))
ratio = after_one / stochastic[-1]
claim("after one pass: loss of gradient descent over that of SGD", ratio, at_least=3)
ratio = after_ten / stochastic[-1]
claim("the same, when gradient descent has had ten passes", ratio, at_least=1.4)

# %% [markdown]
# After one pass the loss of SGD is a quarter of the other's, and after ten passes of gradient descent still half. The
# reason is that examples repeat each other, in what they ask for. Twenty digits do not give the same direction as
# 8,000; the two are some 60 degrees apart. But every batch leans the right way, its errors cancel over the steps, and
# a full gradient costs 400 times as much. Exact answers pay only near the end, where the gradient is small and the
# noise gets in the way.


# %%
def direction(x: Tensor, y: Tensor) -> Tensor:
    """The direction (7840,) of the gradient at zero weights, for images and labels."""
    w = torch.zeros(784, 10, device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(x.flatten(1) @ w, y), w)
    return F.normalize(gradient.flatten(), dim=0)


# %%
of_all, few = direction(images, labels), batches(images, labels, size=20)
cosine = torch.stack([direction(*batch) @ of_all for batch in few]).mean()
claim("cosine between the gradients of 20 digits and of all", cosine, at_least=0.4, at_most=0.6)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.2))
passes = torch.arange(11)
for (eta, curve), up in zip(full.items(), (0.0, 0.0, -0.1, 0.1), strict=True):
    ax.plot(passes, curve, "-o", color=color.model, lw=1.2, ms=3.5)
    ax.text(10.15, curve[-1] + up, f"rate {eta:g}", color=color.model, va="center", fontsize=10)
ax.plot(torch.linspace(0, 1, 21), stochastic, "-", color=color.gradient)
ax.text(1.15, 0.3, "SGD, one pass, 400 steps", color=color.gradient, va="center")
ax.text(3.2, 1.85, "gradient descent, one step a pass", color=color.model)
ax.set(xlabel="passes over the 8,000 digits", ylabel="cross-entropy", ylim=(0, 2.5))
said = f"SGD gets to {stochastic[-1]:.1f} in one pass, gradient descent to {after_ten:.2f} in ten."
figure("3.3c", "The same examples, in many rough steps or a few exact ones.", said, held="trained")

# %% [markdown]
# ### Momentum and Adam
#
# Two improvements are used nearly everywhere. *Momentum* remembers. It keeps a running sum $v$ of the gradients, in
# which old ones fade by a factor $\mu$ at each step, and goes along that: $v \leftarrow \mu v + g$, then
# $w \leftarrow w - \eta v$. In a valley, the gradients across it change sign from step to step and cancel; along it
# they agree and add up. With $\mu = 0.9$ a steady gradient counts ten times.
#
# **Adam** keeps two running averages for each weight: of the gradient, $m$, and of its square, for which everybody
# writes $v$, though it is not the $v$ of momentum. And it divides: the step is $\eta\, m / (\sqrt v + \epsilon)$, so
# that a weight with small slopes moves as fast as one with large ones. ($\epsilon = 10^{-8}$ is there against a
# division by zero.) One detail needs care. Both averages start from zero, and so are too small at first, by a factor
# that is known: after $t$ steps with a fading $\beta$ it is $1 - \beta^t$. Dividing by that is the *bias correction*.
# At the first step, $m$ and $\sqrt v$ are then the gradient and its size, and the step is $\eta$ up or down in every
# weight, no matter how steep it is.


# %%
def with_momentum(eta: float, mu: float, steps: int) -> Tensor:
    """All places (steps + 1, 2) of gradient descent with momentum on the loss of the birds."""
    trail, v = [start], torch.zeros_like(start)
    for _ in range(steps):
        v = mu * v + slopes(trail[-1]).mean(0)
        trail.append(trail[-1] - eta * v)
    return torch.stack(trail)


def with_adam(eta: float, beta1: float, beta2: float, steps: int) -> Tensor:
    """All places (steps + 1, 2) of Adam on the loss of the birds."""
    trail, m, v = [start], torch.zeros_like(start), torch.zeros_like(start)
    for t in range(1, steps + 1):
        g = slopes(trail[-1]).mean(0)  # (2,)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g.square()
        size = (v / (1 - beta2**t)).sqrt() + 1e-8
        trail.append(trail[-1] - eta * m / (1 - beta1**t) / size)
    return torch.stack(trail)


# %%
def of_torch(make, steps: int) -> Tensor:
    """The places (steps + 1, 2) of one of torch's optimizers from the same start."""
    w = start.clone().requires_grad_()
    optimizer, trail = make([w]), [start]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(w).backward()
        optimizer.step()
        trail.append(w.detach().clone())
    return torch.stack(trail)


# %% [markdown]
# Both recipes must give the same 50 places as PyTorch, step by step.

# %%
theirs = of_torch(lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9), 50)  # (51, 2)
ours = with_momentum(0.1, 0.9, 50)  # (51, 2)
claim("momentum by hand and torch's, 50 steps", ours, equals=theirs, within=1e-10)

# %%
theirs = of_torch(lambda w: torch.optim.Adam(w, lr=0.1, betas=(0.9, 0.999)), 50)  # (51, 2)
ours = with_adam(0.1, 0.9, 0.999, 50)  # (51, 2)
claim("Adam by hand and torch's, 50 steps", ours, equals=theirs, within=1e-10)
first, signs = ours[1] - ours[0], at_once.sign()  # (2,), (2,)
claim("Adam's first step: the rate, against the sign", first, equals=-0.1 * signs, within=1e-6)

# %% [markdown]
# For a picture with all of it we need the optimizers in one function. Mini-batches are the first so many birds of an
# order that is random, and different for each step, but the same whenever you come back to the same place of the
# sliders.

# %%
order = torch.rand(60, N, generator=seed(3)).argsort(dim=1)  # (60, N) of birds, for every step


def walk(w: Tensor, eta: float, mu: float, size: int, adam: bool) -> Tensor:
    """The places (61, 2) of 60 steps on the CPU: momentum, or Adam with mu for beta1 and 0.999 for beta2."""
    X, Y = x.cpu(), y.cpu()
    trail, m, v = [w], torch.zeros(2).double(), torch.zeros(2).double()
    for t in range(60):
        mass, depth = X[order[t, :size]], Y[order[t, :size]]  # (B,)
        r = depth - w[0] - w[1] * mass
        inner = -2 * r / (S**2 + r * r)  # (B,)
        g = torch.stack([inner.mean(), (inner * mass).mean()])  # (2,)
        m = mu * m + ((1 - mu) * g if adam else g)
        v = 0.999 * v + 0.001 * g * g
        scaled = m / (1 - mu ** (t + 1)) / (v / (1 - 0.999 ** (t + 1))).sqrt()
        w = w - eta * (scaled if adam else m)
        trail.append(w)
    return torch.stack(trail)


# %%
still = walk(start.cpu(), 0.1, 0.9, N, False), walk(start.cpu(), 0.1, 0.9, N, True)  # (61, 2) each
claim("the picture's momentum", still[0], equals=with_momentum(0.1, 0.9, 60).cpu(), within=1e-9)
claim("the picture's Adam", still[1], equals=with_adam(0.1, 0.9, 0.999, 60).cpu(), within=1e-6)


# %%
def scene(fig):
    """Birds in two clouds and a line; a landscape with two hollows and a path; the loss after every step."""
    left, middle, right = fig.subplots(1, 3, width_ratios=[1, 1.4, 1])
    X, Y = x.cpu(), y.cpu()
    left.scatter(X + 4.6, Y, s=5, color=color.data)
    (line,) = left.plot([], [], color=color.model)
    middle.contourf(w0, w1, surface.clamp(max=4.3), levels=24, cmap="Blues_r", vmax=5)
    (path,) = middle.plot([], [], "-o", color="white", lw=1, ms=2.5)
    ends = middle.scatter([0, 0], [0, 0], s=45, color=["white", color.weights], zorder=3)
    right.axhline(surface.min(), color=color.quiet, lw=1)
    (curve,) = right.plot([], [], color=color.model, lw=1.5)
    left.set(xlabel="body mass (kg)", ylabel="depth of the bill (mm)", ylim=(12.5, 21.5))
    middle.set(xlabel="$w_0$", ylabel="$w_1$", xlim=(12, 20), ylim=(-5, 5))
    right.set(xlabel="step", title="Loss", xlim=(0, 60), ylim=(2, 5))
    mass = torch.tensor([-1.8, 1.6]).double()

    def update(learning_rate, momentum, batch_size, start_w0, start_w1, adam):
        begin = torch.tensor([start_w0, start_w1], dtype=torch.float64)
        trail = walk(begin, learning_rate, momentum, batch_size, adam)  # (61, 2)
        r = Y - trail[:, :1] - trail[:, 1:] * X  # (61, N)
        values = (r / S).square().log1p().mean(1)  # (61,)
        line.set_data(mass + 4.6, trail[-1, 0] + trail[-1, 1] * mass)
        path.set_data(*trail.T)
        ends.set_offsets(trail[[0, -1]])
        curve.set_data(range(61), values)
        return f"after 60 steps at ({trail[-1, 0]:.2f}, {trail[-1, 1]:.2f}), loss {values[-1]:.3f}"

    return update


# %% [markdown]
# All of it in one picture: the line, the path on the surface in 60 steps, and the loss after each (the full one,
# whatever the batch). At first it is plain gradient descent, from a start that leads to the worse minimum. Some
# things to try. At a tenth of the learning rate the path has not arrived after 60 steps; at twice the rate it
# overshoots into the other hollow, and jumps to and fro there for ever. Back at 1, raise the momentum. At 0.8 the
# path rolls over the ridge and into the better minimum; at 0.9 it rolls there and back again. Without momentum, make
# the batch small: the path trembles, and near the end, where the gradient is small, noise is all that is left. Only a
# smaller rate calms it. Last, switch to Adam, with a rate of 0.1 and a momentum of 0.9: at first each weight moves by
# about the rate, however steep the ground. That is its charm. One rate, often 0.001, does tolerably for very
# different models, while a good rate for SGD depends on how steep the loss happens to be.

# %%
controls = {
    "learning_rate": slider(0.01, 10.0, 1.0, 0.1, log=True),
    "momentum": slider(0.0, 0.98, 0.0, 0.02),
}
controls |= {"batch_size": slider(1, 110, 110), "start_w0": slider(12.5, 19.5, 13.0, 0.1)}
controls |= {"start_w1": slider(-4.5, 4.5, 4.0, 0.1), "adam": toggle(False)}
explore(scene, "3.3d", "Sixty steps of an optimizer on a real loss.", (8.5, 3.2), **controls)

# %% [markdown]
# **Exercise.** A batch is too large for the memory, so it comes in parts, and the parts are not of equal size. Each
# gives the mean gradient over its own examples. Combine them into the mean gradient over all. (This is called
# *gradient accumulation*, and with uneven parts it has been done wrong in well-known libraries.)


# %% tags=["exercise"]
def accumulated(gradients: Tensor, sizes: Tensor) -> Tensor:
    """The mean gradient (D,) over all examples, from those of P parts (P, D) with sizes (P,)."""
    raise NotImplementedError


parts = slopes(start).split([50, 40, 20])  # (50, 2), (40, 2), (20, 2)
means, sizes = torch.stack([p.mean(0) for p in parts]), torch.tensor([50, 40, 20], device=DEVICE)
simple = torch.tensor([[1.0], [4.0]], device=DEVICE)  # (P, D)
seven, uneven = torch.tensor([7, 7], device=DEVICE), torch.tensor([3, 1], device=DEVICE)  # (P,)
check(
    accumulated,
    ("two equal parts with 1 and 4 give 2.5", lambda g: (g(simple, seven), 0 * simple[0] + 2.5)),
    ("3 with 1, and one with 4, give 1.75", lambda g: (g(simple, uneven), 0 * simple[0] + 1.75)),
    ("three parts of the birds give the full gradient", lambda g: (g(means, sizes), at_once)),
)


# %% tags=["solution", "hide-input"]
def accumulated(gradients: Tensor, sizes: Tensor) -> Tensor:
    """Each part counts as often as it has examples: a sum of sums, divided once."""
    return (sizes[:, None] * gradients).sum(dim=0) / sizes.sum()


# %% [markdown]
# ## 3.4 Backpropagation
#
# Gradient descent asks for one number for each weight: how much does the loss change when this weight changes a
# little? One could try it out, weight by weight. A network with a million weights would then have to be computed a
# million times for a single step. **Backpropagation** finds all million slopes, exactly, for about the price of
# computing the network three times. It needs nothing but the chain rule of school, and a good order.
#
# A network is a *composition*: the output of one simple mapping is the input of the next, and the last one gives the
# loss. To compute it from the input to the loss is the **forward pass**. The slopes are then found from the loss back
# to the input, one mapping at a time, and that is the **backward pass**.
#
# The order is the point. One could also go the other way, and follow the influence of a single weight forward to the
# loss. That has to be done once for each weight, because each has a way of its own. Seen from the end, all those ways
# are one: whatever a weight does, it does to the next activations first. So the influence of those activations on the
# loss, once known, serves all weights before them.
#
# First with single numbers. The **chain rule** (derivative) says that slopes of nested functions multiply. Take
# $\ell = v^2$ with $v = \tanh(u)$ and $u = 3x$. The three slopes are $3$, then $1 - v^2$ for the hyperbolic tangent,
# then $2v$; each taken at the value that the forward pass left there. Their product must be what a tiny nudge of $x$
# tells.

# %%
x = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
u = 3 * x
v = torch.tanh(u)
slope = 3 * (1 - v**2) * 2 * v
nudged = (torch.tanh(3 * (x + 1e-6)) ** 2 - torch.tanh(3 * (x - 1e-6)) ** 2) / 2e-6
claim("a product of three slopes, and a nudge", slope, equals=nudged, within=1e-8)

# %% [markdown]
# Now with vectors. Mapping number $d$ of a network takes the activations $x^{(d-1)}$ and its own weights $w_d$, and
# gives $x^{(d)} = f(x^{(d-1)}; w_d)$. Each of its outputs has a slope for each of its inputs. Written as a table,
# outputs down and inputs across, these slopes are the **Jacobian** of the mapping, $J_{f|x}$. There is a second one,
# $J_{f|w}$, with a column for each weight. The chain rule keeps its form: slopes become Jacobians, products become
# products of matrices.
#
# Write $\nabla \ell_{|x^{(d)}}$ for the slopes of the loss with respect to the activations $x^{(d)}$. If they are
# known, those one mapping earlier, and those for the weights, are
#
# $$\nabla \ell_{|x^{(d-1)}} = J_{f|x}^\top\, \nabla \ell_{|x^{(d)}} \qquad
# \nabla \ell_{|w_d} = J_{f|w}^\top\, \nabla \ell_{|x^{(d)}}$$
#
# The first equation walks back through the network. The second collects, on the way, what the training needs. Here is
# a network of three mappings with $f(x; w) = \tanh(w\, x)$, where $w$ is a matrix, and the loss
# $\ell = \frac{1}{2} |x^{(3)} - y|^2$, whose gradient with respect to $x^{(3)}$ is simply $x^{(3)} - y$.


# %%
def f(x: Tensor, w: Tensor) -> Tensor:
    """One mapping of the network: tanh(w x), for x (D,) and w (E, D)."""
    return torch.tanh(w @ x)  # (E,)


# %%
chance, widths = seed(1), (5, 4, 4, 3)
doubles = {"generator": chance, "dtype": torch.float64}
w = [torch.randn(E, D, **doubles).to(DEVICE) for D, E in pairwise(widths)]  # three of (E, D)
x, y = torch.randn(5, **doubles).to(DEVICE), torch.randn(3, **doubles).to(DEVICE)

# %% [markdown]
# The forward pass keeps all activations. The backward pass builds both Jacobians of each mapping, which PyTorch
# computes for us entry by entry, and follows the two equations word for word. A Jacobian for the weights has one row
# for each output and one column for each entry of the matrix, so `flatten(1)` lays the entries out in a row. (`d=d`
# keeps the present `d` for the function.)

# %% tags=["equation-backward"]
activations = [x]  # x, x1, x2, x3 of the text
for d in range(3):
    activations.append(f(activations[d], w[d]))
by_jacobians, gradient = {}, activations[3] - y  # (3,)
for d in (2, 1, 0):
    J_x = jacobian(lambda x, d=d: f(x, w[d]), activations[d])  # (E, D)
    J_w = jacobian(lambda w, d=d: f(activations[d], w), w[d]).flatten(1)  # (E, E D)
    by_jacobians[d] = J_w.mT @ gradient  # (E D,)
    gradient = J_x.mT @ gradient  # (D,)

# %% [markdown]
# PyTorch's own machinery for this is called **Autograd**. It records what is done to tensors that ask for it
# (`requires_grad_`), and `backward` walks through the record in reverse. It has to agree.

# %%
inputs = [t.clone().requires_grad_() for t in (x, *w)]
(0.5 * (f(f(f(*inputs[:2]), inputs[2]), inputs[3]) - y).square().sum()).backward()
expected = torch.cat([t.grad.flatten() for t in inputs])
got = torch.cat([gradient, *(by_jacobians[d] for d in range(3))])
claim("gradients through Jacobians and by Autograd", got, equals=expected, within=1e-12)

# %% [markdown]
# All 53 slopes agree, those for the input and those for the three matrices. Read the loop again: it visits the
# mappings from the last to the first, it uses the activations that the forward pass has kept, and it carries a single
# vector, `gradient`, back through all of them.
#
# This is how one should think of it, and not how one should compute it. Jacobians are enormous. Take a modest layer
# from 784 inputs to 100 outputs, on a batch of 100 images: 10,000 outputs, 78,400 weights, and a Jacobian of 784
# million numbers, nearly all zero. But we never want a Jacobian. We want its transpose *times one vector*, and for
# every operation there is a short cut to that.
#
# For our mapping, first go back through the hyperbolic tangent: multiply each entry of the gradient by its slope
# $1 - \tanh^2$. Call the result $s$. Then the product with $J_{f|x}^\top$ is $w^\top s$, and the one with
# $J_{f|w}^\top$ is the table of all products of an entry of $s$ with an entry of $x$. Both cost about as much as the
# forward pass. Here for the last mapping.

# %%
s = (activations[3] - y) * (1 - activations[3] ** 2)  # (E,)
J_x = jacobian(lambda x: f(x, w[2]), activations[2])  # (E, D)
claim("short cut past J_x", w[2].mT @ s, equals=J_x.mT @ (activations[3] - y), within=1e-12)
table = s[:, None] * activations[2]  # (E, D)
claim("short cut past J_w", table.flatten(), equals=by_jacobians[2], within=1e-12)

# %% [markdown]
# ### An Autograd of our own
#
# So far the network was a chain, and we wrote its backward pass by hand. Real networks branch and join, and nobody
# wants to write a backward pass for each. The way out is to let the forward pass write down what it does, and to make
# the backward pass a program that reads those notes.
#
# A *node* holds a value, the nodes it was computed from (its parents), and a function `back` that takes the gradient
# with respect to the value and gives one for each parent: the short cut. That is all that has to be recorded.


# %% tags=["export"]
class Node:
    """A tensor that remembers which nodes it was computed from, and how to send a gradient back to them."""

    def __init__(self, value: Tensor, parents: tuple = (), back=None, name: str = ""):
        self.value, self.parents, self.back, self.name = value, parents, back, name
        self.grad = torch.zeros_like(value)


# %% [markdown]
# The value is computed before the node is made, so by the time that the loss exists, the whole graph of its making
# hangs on it: parents, parents of parents, down to the inputs.
#
# The backward pass must not visit a node before everything that was computed *from* it has been visited, or a part of
# its gradient would be missing. `ordered` lists parents before children; the backward pass goes through that list
# from its end. The loss starts with the gradient 1, its slope with respect to itself. And a value that was used twice
# influences the loss in two ways, so what comes back is *added*: that is the one `+` below, and the most common
# mistake is to leave it out.


# %% tags=["export"]
def ordered(node: Node, seen: set | None = None) -> list[Node]:
    """The node and all it was computed from, each once, parents before children."""
    seen = set() if seen is None else seen
    if node in seen:
        return []
    seen.add(node)
    return [n for parent in node.parents for n in ordered(parent, seen)] + [node]


# %% tags=["export"]
def backpropagate(loss: Node) -> None:
    """Set the grad of every node that the loss was computed from."""
    loss.grad = torch.ones_like(loss.value)
    for node in reversed(ordered(loss)):
        if node.parents:
            for parent, gradient in zip(node.parents, node.back(node.grad), strict=True):
                parent.grad = parent.grad + gradient


# %% [markdown]
# Each operation is now two lines of mathematics: how to compute it, and how to go back. For a product of matrices
# $a b$ the gradients are $g\, b^\top$ and $a^\top g$, where $g$ is the gradient that arrives. A sum passes $g$ on to
# both sides. One thing needs care: to a batch of 100 rows one adds a single row of biases, which PyTorch repeats 100
# times without being asked. A value that was repeated was used 100 times, so its gradients are added up, and that is
# all `unrepeat` does.


# %% tags=["export"]
def unrepeat(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Add up a gradient over the dimensions along which a tensor of this shape was repeated."""
    while gradient.dim() > len(shape):
        gradient = gradient.sum(0)
    for k, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(k, keepdim=True)
    return gradient


# %% tags=["export"]
def add(a: Node, b: Node) -> Node:
    """a + b, where a smaller one is repeated."""
    shapes = a.value.shape, b.value.shape
    return Node(a.value + b.value, (a, b), lambda g: [unrepeat(g, s) for s in shapes], "+")


def multiply(a: Node, b: Node) -> Node:
    """a times b, number by number, for equal shapes."""
    return Node(a.value * b.value, (a, b), lambda g: (g * b.value, g * a.value), "×")


# %% tags=["export"]
def matmul(a: Node, b: Node) -> Node:
    """The product of the matrices a (N, D) and b (D, E): (N, E)."""
    return Node(a.value @ b.value, (a, b), lambda g: (g @ b.value.mT, a.value.mT @ g), "matmul")


# %% [markdown]
# The activations work on each number by itself, so their Jacobian has nothing off its diagonal, and the short cut is
# a product, number by number, with the slope: 1 or 0 for ReLU, $1 - \tanh^2$ for the hyperbolic tangent. What a way
# back needs from the forward pass, `a.value` here or `out`, the small functions keep by themselves. That is memory,
# and we shall come back to it.


# %% tags=["export"]
def relu(a: Node) -> Node:
    """a where it is positive, else 0."""
    return Node(a.value.relu(), (a,), lambda g: (g * (a.value > 0),), "relu")


def tanh(a: Node) -> Node:
    """The hyperbolic tangent; its slope is 1 minus its square."""
    out = a.value.tanh()
    return Node(out, (a,), lambda g: (g * (1 - out**2),), "tanh")


# %% [markdown]
# The loss of a classifier is the cross-entropy of section 3.1: minus the logarithm of the probability that the model
# gives to the right class. Its way back is famous for being simple: the probabilities, minus one for the right class,
# over the size of the batch.


# %% tags=["export"]
def cross_entropy(logits: Node, labels: Tensor) -> Node:
    """Mean of minus the log-probability of the right class, for logits (N, C) and labels (N,)."""
    log_p = logits.value.log_softmax(1)  # (N, C)
    right = F.one_hot(labels, log_p.shape[1]).to(log_p)  # (N, C)
    value = -(log_p * right).sum() / len(labels)
    slope = (log_p.exp() - right) / len(labels)  # (N, C)
    return Node(value, (logits,), lambda g: (g * slope,), "cross-entropy")


# %% [markdown]
# Fifty lines, and it differentiates any network made of these parts. Is it right? The hardest case first: a network
# on real digits that uses one weight matrix and one bias *twice*, and whose first hidden layer goes on by two ways
# that meet again. One bias has the shape (32,) and the other (1, 32), to try both kinds of repeating. The function
# below takes the four operations as arguments, so that it can build the network from our nodes and from PyTorch's
# tensors alike.

# %%
images, labels = mnist("train", DEVICE)
images = images.flatten(1)  # (8000, 784)


def knotted(x, w1, b1, w2, b2, w3, matmul, add, relu, tanh):
    """Logits of a network with a shared layer and two paths that meet again."""
    first = relu(add(matmul(x, w1), b1))  # (N, 32)
    second = tanh(add(matmul(first, w2), b2))  # (N, 32)
    third = tanh(add(matmul(second, w2), b2))  # (N, 32), with the same w2 and b2
    return matmul(add(first, third), w3)  # (N, 10)


# %% [markdown]
# Weights are drawn at random, in 64 bits, and 100 digits go through. First our nodes, then PyTorch's tensors; then
# the gradients of all six, the images among them, in one long row each.

# %%
shapes = ((784, 32), (32,), (32, 32), (1, 32), (32, 10))
doubles = {"generator": seed(2), "dtype": torch.float64}
tensors = [images[:100].double(), *(0.1 * torch.randn(s, **doubles).to(DEVICE) for s in shapes)]

# %%
nodes = [Node(t) for t in tensors]
loss = cross_entropy(knotted(*nodes, matmul, add, relu, tanh), labels[:100])
backpropagate(loss)

# %%
asked = [t.clone().requires_grad_() for t in tensors]
logits = knotted(*asked, torch.matmul, torch.add, torch.relu, torch.tanh)  # (100, 10)
F.cross_entropy(logits, labels[:100]).backward()

# %%
ours = torch.cat([node.grad.flatten() for node in nodes])
torchs = torch.cat([t.grad.flatten() for t in asked])
claim("all gradients of the knotted network, and torch's", ours, equals=torchs, within=1e-12)

# %% [markdown]
# Does it train? A plain network with 64 hidden units, mini-batches of 100 digits, five times through the 8,000, and
# the steps of section 3.3: every weight moves against its gradient, times 0.2. The graph is built anew in every step,
# by computing the loss; then `backpropagate` fills in the gradients, and the old graph is forgotten. On digits never
# seen the network gets more than nine in ten right.


# %%
def digits_loss(x: Tensor, labels: Tensor, weights: list[Tensor]) -> tuple[Node, list[Node]]:
    """The loss of a network with one hidden layer, and the nodes of its weights."""
    w1, b1, w2, b2 = parameters = [Node(w) for w in weights]
    hidden = relu(add(matmul(Node(x), w1), b1))  # (N, 64)
    return cross_entropy(add(matmul(hidden, w2), b2), labels), parameters


# %%
draw = seed(0)
weights = [torch.randn(784, 64, generator=draw) / 28, torch.zeros(64)]
weights += [torch.randn(64, 10, generator=draw) / 8, torch.zeros(10)]
weights = [w.to(DEVICE) for w in weights]

# %%
for _ in progress(range(5), "our own Autograd"):
    for x, digits in batches(images, labels, size=100):
        loss, parameters = digits_loss(x, digits, weights)
        backpropagate(loss)
        weights = [p.value - 0.2 * p.grad for p in parameters]

# %%
images_new, labels_new = mnist("test", DEVICE)
w1, b1, w2, b2 = weights
logits = (images_new.flatten(1) @ w1 + b1).relu() @ w2 + b2  # (2000, 10)
accuracy = (logits.argmax(1) == labels_new).float().mean()
claim("accuracy of a network trained by our own Autograd", accuracy, at_least=0.89)

# %% [markdown]
# That is all there is to Autograd. PyTorch's knows some thousand operations instead of six, keeps the graph in
# compiled code, and runs on any device. The idea is in the fifty lines.
#
# The graph that was recorded can be drawn. Where a box goes follows from the record alone: the first parent of a node
# stands to its left, the second below it.


# %%
def places(node: Node, column: int = 0, row: int = 0) -> dict:
    """Where to draw a node and all it was computed from: {node: (column, row)}."""
    found = {node: (column, row)}
    for parent, at in zip(node.parents, ((column - 1, row), (column, row - 1)), strict=False):
        if parent not in found:
            found |= places(parent, *at)
    return found


# %% [markdown]
# Between a parent and its child run two arrows: the value forward (blue), the gradient back (orange). What is written
# on them, `say` decides. The two texts of each node are returned, so that a picture can change them later.


# %%
def two_arrows(ax, start, end, node: Node, say) -> list:
    """An arrow with the node's value from start to end, one with its gradient back; their texts."""
    up, texts = start[0] == end[0], []
    for name, shade, side in (("value", color.model, 1), ("grad", color.gradient, -1)):
        dx, dy = (-0.05 * side, 0) if up else (0, 0.05 * side)
        tip, tail = (end, start) if side > 0 else (start, end)
        style = {"arrowstyle": "-|>", "color": shade, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
        ends = [(x + dx, y + dy) for x, y in (tip, tail)]
        ax.annotate("", *ends, arrowprops=style)
        middle = ((start[0] + end[0]) / 2 + 2.2 * dx, (start[1] + end[1]) / 2 + 3.2 * dy)
        align = ("right" if side > 0 else "left") if up else "center"
        written = say(getattr(node, name))
        texts.append(ax.text(*middle, written, color=shade, size=11, ha=align, va="center"))
    return texts


# %%
def draw_graph(ax, loss: Node, say, names: dict, shades: dict) -> dict:
    """Draw the graph of a loss: a box for each node, arrows between. Gives {node: its two texts}."""
    at, texts = places(loss), {}
    ax.axis("off")
    ax.set(xlim=(min(x for x, _ in at.values()) - 0.3, 0.85), ylim=(-1.25, 0.32))
    after = {parent: node for node in at for parent in node.parents}
    for node, (x, y) in at.items():
        up = node in after and at[after[node]][1] > y
        start, end = ((x, y + 0.19), (x, y + 0.81)) if up else ((x + 0.28, y), (x + 0.72, y))
        texts[node] = two_arrows(ax, start, end, node, say)
        fill = shades.get(node, "white")
        ax.add_patch(plt.Rectangle((x - 0.26, y - 0.17), 0.52, 0.34, fc=fill, ec="#777777"))
        ax.text(x, y, names.get(node, node.name), ha="center", va="center", size=11)
    return texts


# %% [markdown]
# Here is the plain network on a batch of 100 digits, as our Autograd recorded it. Each arrow carries the shape of its
# tensor. A gradient has the shape of its value, always: there is one slope for each number. This is the whole of
# backpropagation in one picture. Forward along the top from the images to the loss, which is a single number, and
# from that number back, with a branch down to each of the weights. The gradient with respect to the images is
# computed as well; training does not need it, but it says which pixels matter to the loss.

# %%
loss, parameters = digits_loss(images[:100], labels[:100], weights)
backpropagate(loss)
order = ordered(loss)
names = dict(zip(parameters, ("w1", "b1", "w2", "b2"), strict=True))
names |= {order[0]: "images", loss: "cross-\nentropy"}


# %%
def shape(t: Tensor) -> str:
    """The shape of a tensor for a picture, 1 for a single number."""
    return "×".join(map(str, t.shape)) or "1"


shades = dict.fromkeys(parameters, "#fbd5e2") | {order[0]: "#d3f0fb"}

# %% tags=["figure-3.3"]
fig, ax = plt.subplots(figsize=(8.6, 2.4))
draw_graph(ax, loss, shape, names, shades)
said = ", ".join(f"{names.get(n, n.name)} {shape(n.value)}".replace("\n", "") for n in order)
figure("3.3", "Values forward (blue), gradients back (orange).", f"A chain of boxes: {said}.")

# %% [markdown]
# Read it from the right. The loss hands the last sum its gradient, 100 × 10 numbers, one for each score of each
# image. The sum hands it on unchanged to its left, and downwards, added up over the 100 images, to the ten biases.
# The product hands one part to the weights and the other to its left. So it goes, and no box needs to know more than
# its neighbours.
#
# And here with single numbers, to touch. The loss is $\ell = (\tanh(w x + b) - y)^2$. Blue numbers are values, orange
# ones gradients. Below, the loss is drawn against three of its inputs, each with the others held as they are. The
# orange lines have the gradients as their slopes, and just touch the curves: that is what a gradient is.
#
# Push $b$ to 3. The tanh flattens, $1 - \tanh^2$ is nearly 0, and it multiplies every gradient further left: hardly
# any gets through. Set $x$ to 0, and the gradient of $w$ is 0, because $w$ then has no influence. And the last box
# uses its input twice: what comes back to it is the sum of two equal parts.


# %%
def minus(a: Node, b: Node) -> Node:
    """a - b, for equal shapes."""
    return Node(a.value - b.value, (a, b), lambda g: (g, -g), "−")


# %%
def chain(w: float, b: float, x: float, y: float) -> tuple[Node, tuple]:
    """The loss (tanh(w x + b) - y)² as a graph of numbers, and its four inputs."""
    inputs = tuple(Node(torch.tensor(value, dtype=torch.float64)) for value in (w, b, x, y))
    w, b, x, y = inputs
    miss = minus(tanh(add(multiply(x, w), b)), y)
    return multiply(miss, miss), inputs


# %%
ends = torch.linspace(-3, 3, 121, dtype=torch.float64)


def number(t: Tensor) -> str:
    """A number with two decimals and a real minus sign."""
    return f"{t.item():z.2f}".replace("-", "−")


# %%
def scene(fig):
    """Above, a chain of boxes with numbers on arrows both ways. Below, three loss curves with tangents."""
    axes = fig.subplot_mosaic("GGG;wbx", height_ratios=[5, 4], sharey=False)
    loss, leaves = chain(1.0, 0.0, 1.0, 0.0)
    names = dict(zip(leaves, "wbxy", strict=True)) | {loss: "square"}
    shades = dict(zip(leaves, ("#fbd5e2", "#fbd5e2", "#d3f0fb", "#dddddd"), strict=True))
    texts = list(draw_graph(axes["G"], loss, number, names, shades).items())
    order = [ordered(loss).index(node) for node, _ in texts]
    curves, tangents, dots = {}, {}, {}
    for name in "wbx":
        (curves[name],) = axes[name].plot([], [], color=color.model)
        (tangents[name],) = axes[name].plot([], [], color=color.gradient, lw=1.5)
        (dots[name],) = axes[name].plot([], [], "o", color=color.gradient)
        axes[name].set(xlim=(-3, 3), ylim=(-0.1, 4.1), xlabel=f"${name}$", yticks=[0, 2, 4])
    axes["w"].set_ylabel("loss")

    def update(w, b, x, y):
        loss, leaves = chain(w, b, x, y)
        backpropagate(loss)
        nodes = ordered(loss)
        for place, (_, (value, gradient)) in zip(order, texts, strict=True):
            value.set_text(number(nodes[place].value))
            gradient.set_text(number(nodes[place].grad))
        u = {"w": ends * x + b, "b": ends + w * x, "x": ends * w + b}  # (121,) each
        for name, node in zip("wbx", leaves, strict=False):
            at, slope = node.value, node.grad
            curves[name].set_data(ends, (u[name].tanh() - y) ** 2)
            tangents[name].set_data(ends, loss.value + slope * (ends - at))
            dots[name].set_data([at], [loss.value])
        told = (number(node.grad) for node in leaves[:3])
        return f"loss {number(loss.value)}; its slopes in w, b and x are {', '.join(told)}"

    return update


# %%
inputs = {"w": slider(-3.0, 3.0, 1.2, 0.05), "b": slider(-3.0, 3.0, -0.3, 0.05)}
inputs |= {"x": slider(-3.0, 3.0, 0.8, 0.05), "y": slider(-1.0, 1.0, -0.4, 0.05)}
explore(scene, "3.4a", "Four numbers, a loss, and all its slopes.", (8.6, 4.6), **inputs)


# %% [markdown]
# ### What it costs
#
# First the **computational cost**. A layer with $D$ inputs and $E$ outputs needs, for each example, $D E$
# multiplications and as many additions. Going back it needs the same number twice: once for the gradient with respect
# to its inputs, once for the gradient with respect to its weights. So the backward pass costs about twice the forward
# pass. Only the first layer is spared one of the two: nobody asks for the gradient with respect to the images.
# PyTorch can count, and we can too. The network has ten layers; activations and loss are left out, which are small
# change beside the products of matrices.


# %%
def operations(compute) -> int:
    """Multiplications and additions in the matrix products of compute()."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


# %%
seed(0)
widths = (784, *[512] * 9, 10)
model = nn.Sequential(*(nn.Linear(D, E) for D, E in pairwise(widths))).to(DEVICE)
forward = operations(lambda: model(images[:100]))
both = operations(lambda: F.cross_entropy(model(images[:100]), labels[:100]).backward())
backward = both - forward

# %%
by_hand = sum(2 * 100 * D * E for D, E in pairwise(widths))
claim("operations of the forward pass, as counted by hand", forward == by_hand)
spared = 2 * 100 * widths[0] * widths[1]
claim("the backward pass takes twice that, less one layer", backward == 2 * by_hand - spared)
claim("cost of backward, in forwards", backward / forward, at_least=1.8, at_most=2.1)

# %% [markdown]
# Twice the forward pass may not sound like a triumph. But it is the price for *all* 2.5 million slopes of this
# network. To try them out one by one would take 2.5 million forward passes.
#
# Then the **memory requirement**. To use a network, one can forget each activation as soon as the next one is
# computed. To train it, all must be kept until the backward pass comes by, since the short cuts need them. So the
# memory grows with the depth, and for large models it is this, not the weights, that fills a GPU. PyTorch lets us
# watch what it puts aside. We count each tensor once, and leave out the weights, which are there anyway.


# %%
def kept(compute, weights) -> int:
    """Bytes of the tensors that compute() puts aside for a backward pass, without the weights."""
    own, seen = {w.data_ptr() for w in weights}, {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in own:
            seen[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = compute()  # holds on to all that was put aside
    del result
    return sum(seen.values())


# %% [markdown]
# `saved_tensors_hooks` calls `pack` with every tensor that is put aside, and `data_ptr`, the place of a tensor in
# memory, tells which of them are the same (section 2.2).
#
# There is a way out that pays in time. With **checkpointing** only a few activations are kept, say every eighth. When
# the backward pass needs the ones in between, it computes that piece of the network forward again. With $L$ layers
# and a checkpoint at every $\sqrt L$-th, one keeps about $\sqrt L$ checkpoints and, for one piece at a time, another
# $\sqrt L$ activations: $2 \sqrt L$ instead of $L$.
#
# By hand, it goes like this. The forward pass runs under `no_grad`, which puts nothing aside, and keeps the input of
# each piece only. Then the pieces are visited from the last to the first: each is computed once more from its input,
# now with a record, and the gradient that arrived is sent back through it.


# %%
def groups(layers: list, every: int) -> list[nn.Sequential]:
    """The layers in groups of `every`."""
    return [nn.Sequential(*layers[i : i + every]) for i in range(0, len(layers), every)]


# %%
def checkpointed_backward(layers: list, x: Tensor, loss, every: int) -> None:
    """Leave the gradients in the weights of the layers, and keep only every so many activations."""
    checkpoints = [x]
    with torch.no_grad():
        for piece in groups(layers, every):
            checkpoints.append(piece(checkpoints[-1]))  # nothing else is put aside
    end = checkpoints.pop().requires_grad_()
    gradient = torch.autograd.grad(loss(end), end)[0]
    for piece, start in reversed(list(zip(groups(layers, every), checkpoints, strict=True))):
        start = start.detach().requires_grad_()
        piece(start).backward(gradient)  # forward once more, then back
        gradient = start.grad


# %%
chance = {"generator": seed(3), "dtype": torch.float64}
layers = [nn.Sequential(nn.Linear(32, 32), nn.Tanh()).double().to(DEVICE) for _ in range(64)]
x = torch.randn(20, 32, **chance).to(DEVICE)  # (N, D)
weights = list(nn.Sequential(*layers).parameters())


# %%
def gradients(compute) -> Tensor:
    """All gradients that compute() leaves in the weights, in one row."""
    nn.Sequential(*layers).zero_grad()
    compute()
    return torch.cat([w.grad.flatten() for w in weights])


# %% [markdown]
# PyTorch has it as `checkpoint`. All three ways must give the same gradients. And the price is one more forward pass:
# four passes' worth instead of three.


# %%
def size(out: Tensor) -> Tensor:
    """A loss: the sum of all squares."""
    return out.square().sum()


def by_torch(x: Tensor) -> Tensor:
    """The layers with PyTorch's own checkpoints, eight layers apart."""
    for piece in groups(layers, 8):
        x = checkpoint(piece, x, use_reentrant=False)
    return x


# %%
asking = x.clone().requires_grad_()
ways = {
    "plain": lambda: size(nn.Sequential(*layers)(asking)).backward(),
    "ours": lambda: checkpointed_backward(layers, x, size, 8),
    "torch's": lambda: size(by_torch(asking)).backward(),
}
plain, ours, theirs = (gradients(way) for way in ways.values())

# %%
claim("gradients with and without checkpoints", ours, equals=plain, within=1e-12)
claim("our checkpoints and torch's", ours, equals=theirs, within=1e-12)
ratio = operations(ways["ours"]) / operations(ways["plain"])
claim("cost with checkpoints, as a multiple", ratio, at_least=1.25, at_most=1.4)

# %% [markdown]
# The memory for networks of up to 100 such layers: without checkpoints as measured; with them, the measured memory of
# one piece, which is computed again, plus the inputs kept.


# %%
def memory(depth: int, every: int | None = None) -> int:
    """Bytes kept for the backward pass by a network of this depth, with a checkpoint every so many layers."""
    stack = (layers + layers)[:depth]  # 64 layers are not enough for 100: use them twice
    if every is None:
        return kept(lambda: nn.Sequential(*stack)(asking), weights)
    checkpoints = math.ceil(depth / every) * x.numel() * x.element_size()
    inside = kept(lambda: nn.Sequential(*stack[:every])(asking), weights)
    return checkpoints + inside


# %%
depths = [4, 9, 16, 25, 36, 49, 64, 81, 100]
full = torch.tensor([memory(L) for L in depths]) / 1024
sparse = torch.tensor([memory(L, math.isqrt(L)) for L in depths]) / 1024

# %%
claim("memory of 64 layers with checkpoints, as a share", sparse[6] / full[6], at_most=0.3)
steps = full.diff() / torch.tensor(depths).diff()
claim("each layer adds the same memory", steps, equals=torch.full_like(steps, 5.0), within=1e-3)

# %%
fig, ax = plt.subplots(figsize=(6.5, 2.8))
ax.plot(depths, full, "o-", color=color.model)
ax.plot(depths, sparse, "o-", color=color.truth)
ax.text(79, 420, "all activations", color=color.model, ha="right")
ax.text(100, 130, "checkpoints at every $\\sqrt{L}$-th layer", color=color.truth, ha="right")
ax.set(xlabel="depth $L$ (layers)", ylabel="kept (KiB)", ylim=(0, None))
said = f"At 100 layers {full[-1]:.0f} KiB are kept, and {sparse[-1]:.0f} KiB with checkpoints."
figure("3.4b", "Memory for the backward pass against depth.", said)

# %% [markdown]
# The blue line is straight: each layer adds the 20 × 32 numbers of its output, 5 KiB in 64 bits. The green one is a
# root: four times the depth needs twice the memory. Large models are trained that way, and so can have more layers or
# longer texts on the same GPU, for a third more time.
#
# There is a second way out: a layer from whose output the input can be computed. With such a **reversible layer**
# nothing has to be kept at all. Split the activations into two halves, and let each half be changed by adding
# something that depends on the *other* half only:
#
# $$y_1 = x_1 + \tanh(x_2 W), \qquad y_2 = x_2 + \tanh(y_1 V)$$
#
# To go back, subtract in the opposite order: from $y_1$ and $y_2$ first $x_2$, and from $y_1$ and $x_2$ then $x_1$.
# The hyperbolic tangent and the matrices need not be invertible for that. Nobody inverts them; they are only computed
# again.


# %%
def couple(x1: Tensor, x2: Tensor, W: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """The reversible layer, for halves (N, D) and weights (D, D)."""
    y1 = x1 + torch.tanh(x2 @ W)  # (N, D)
    return y1, x2 + torch.tanh(y1 @ V)


# %%
def uncouple(y1: Tensor, y2: Tensor, W: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """The input of that layer, from its output."""
    x2 = y2 - torch.tanh(y1 @ V)  # (N, D)
    return y1 - torch.tanh(x2 @ W), x2


# %% [markdown]
# The backward pass carries two things along: the gradient, and the activations, which it recovers layer by layer.


# %%
def reversed_backward(y: tuple, gradients: tuple, pairs: list) -> tuple:
    """From output and gradients of the whole stack to its input; weights get their gradients."""
    for W, V in reversed(pairs):
        x = tuple(t.detach().requires_grad_() for t in uncouple(*y, W, V))
        torch.autograd.backward(couple(*x, W, V), gradients)
        y, gradients = x, tuple(t.grad for t in x)
    return y


# %% [markdown]
# Fifty such layers, in 64 bits. First PyTorch's way, which keeps everything; then ours, which starts from nothing but
# the output. It should arrive at the input that went in, with the same gradients on the way. What is lost is a little
# precision, because each subtraction rounds; in 32 bits that would show after some hundred layers.

# %%
pairs = [tuple(0.1 * torch.randn(2, 16, 16, **chance).to(DEVICE)) for _ in range(50)]
pairs = [tuple(w.requires_grad_() for w in pair) for pair in pairs]
start = y = x[:, :16], x[:, 16:]  # (N, D) each
for pair in pairs:
    y = couple(*y, *pair)
(size(y[0]) + size(y[1])).backward()
kept_all = torch.stack([w.grad.clone() for pair in pairs for w in pair])  # (100, D, D)

# %%
for pair in pairs:
    pair[0].grad = pair[1].grad = None
last = tuple(t.detach() for t in y)
found = reversed_backward(last, tuple(2 * t for t in last), pairs)
claim("input recovered through 50 layers", torch.cat(found, 1), equals=x, within=1e-12)

# %%
kept_none = torch.stack([w.grad for pair in pairs for w in pair]) / kept_all.abs().max()
kept_all = kept_all / kept_all.abs().max()
claim("gradients without keeping anything", kept_none, equals=kept_all, within=1e-12)


# %% [markdown]
# ### Gradients that fade and gradients that burst
#
# A backward pass multiplies. Through fifty layers it multiplies fifty times, and if each layer changes the size of
# the gradient by the same factor, say 0.7, what arrives at the first layer is $0.7^{50}$ of what set out, two
# hundred-millionths. That is a **vanishing gradient**: the first layers hardly learn. With a factor of 1.4 it is
# twenty million times as long, an **exploding gradient**, and the first step throws the weights away. Which of the
# two happens is decided before training begins, by the **random initialization** of the weights.
#
# Why random at all? Start with zeros, and nothing ever moves: with all activations 0, and all weights 0 to go back
# through, the gradients of both matrices are exactly 0. Start with all weights equal, and all hidden units compute
# the same, get the same gradient, and stay the same: a network of 32 units that is worth one. Chance is what makes
# units different. Here both cases are tried, on all 8,000 digits.


# %%
def two_layers(weights: list, steps: int) -> list:
    """The weights (784, 32) and (32, 10) of a small tanh network after some gradient steps."""
    weights = [w.to(DEVICE).requires_grad_() for w in weights]
    for _ in range(steps):
        logits = torch.tanh(images @ weights[0]) @ weights[1]  # (8000, 10)
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels), weights)
        for w, g in zip(weights, gradients, strict=True):
            w.data -= 0.5 * g
    return [w.detach() for w in weights]


# %%
zeros = two_layers([torch.zeros(784, 32), torch.zeros(32, 10)], steps=3)
claim("from zeros, no weight ever moves", bool((zeros[0] == 0).all() and (zeros[1] == 0).all()))

# %%
alike = two_layers([torch.full((784, 32), 0.01), torch.full((32, 10), 0.01)], steps=20)
moved = (alike[0] - 0.01).abs().max()
spread = (alike[0] - alike[0][:, :1]).abs().max()  # between the 32 units
claim("from equal weights: how units differ, over how they moved", spread / moved, at_most=0.01)

# %% [markdown]
# And how large? Each unit adds up $N$ products. If the inputs have variance 1 and the weights variance $\sigma^2$,
# the sum has variance $N \sigma^2$. To keep the size of a signal from layer to layer one takes $\sigma^2 = 1/N$. The
# same argument holds backwards, for the gradient, with the number of outputs in place of $N$; for square layers, as
# here, the two agree. A ReLU blanks half of the signal, which asks for $2/N$. Below, the standard deviation of a
# weight is written $g / \sqrt N$, with the *gain* $g$: 1 for the first rule (Xavier initialization), $\sqrt 2$ for
# the second (He).
#
# Rules of this kind are derived for signals that behave as if they were independent and random. Whether they hold in
# a network that carries real digits, one has to see.
#
# The network takes real digits and has layers of 64 units. We draw all random numbers once; a gain only scales them.

# %%
draws = {"generator": seed(5), "dtype": torch.float64}
digits, answers = images[:40].double().cpu(), labels[:40].cpu()
digits = (digits - digits.mean()) / digits.std()
enter = torch.randn(784, 64, **draws) / 28
noise = torch.randn(60, 64, 64, **draws) / 8  # (layers, D, D), of variance 1 / D
ACTIVATIONS = {"tanh": torch.tanh, "ReLU": torch.relu, "sigmoid": torch.sigmoid}


# %%
def sizes_by_layer(activation: str, gain: float, depth: int) -> tuple[Tensor, Tensor]:
    """Typical size of the activations, and norm of the gradient, after each layer: (depth + 1,) each."""
    x = [(digits @ enter).requires_grad_()]  # (N, D)
    for layer in noise[:depth]:
        x.append(ACTIVATIONS[activation](x[-1] @ layer * gain))
    loss = F.cross_entropy(x[-1][:, :10], answers)
    gradients = torch.stack(torch.autograd.grad(loss, x))  # (depth + 1, N, D)
    return torch.stack(x).square().mean((1, 2)).sqrt().detach(), gradients.norm(dim=(1, 2))


# %%
def factor(activation: str, gain: float) -> float:
    """By how much a layer changes the norm of the gradient on its way back, on average over 50 layers."""
    norms = sizes_by_layer(activation, gain, 50)[1]
    return ((norms[0] / norms[-1]) ** (1 / 50)).item()


# %%
claim("ReLU, gain √2: factor per layer", factor("ReLU", 2**0.5), at_least=0.9, at_most=1.1)
claim("ReLU, gain 1: factor per layer", factor("ReLU", 1), at_least=0.64, at_most=0.77)
claim("ReLU, gain 2: factor per layer", factor("ReLU", 2), at_least=1.27, at_most=1.56)

# %%
claim("tanh, gain 1: factor per layer", factor("tanh", 1), at_least=0.9, at_most=1)
claim("sigmoid, gain 1: factor per layer", factor("sigmoid", 1), at_most=0.25)

# %% [markdown]
# With ReLU the factor is $g / \sqrt 2$, as the rule says. The sigmoid is hopeless: its slope is nowhere above 1/4.
# The hyperbolic tangent with a gain of 1 loses a few percent a layer, since its slope is below 1 wherever the signal
# is not small. PyTorch's own `nn.Linear` starts with a gain of $1/\sqrt 3$, too small for fifty layers without help.

# %%
cases = {  # (activation, gain) -> how far its label is moved up, as a power of ten
    ("ReLU", 2.0): 0,
    ("ReLU", 2**0.5): 0.6,
    ("tanh", 1.0): -0.9,
    ("ReLU", 1.0): 0,
    ("tanh", 0.5): 0,
    ("sigmoid", 1.0): 0,
}

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
said = []
for (activation, gain), up in cases.items():
    norms = sizes_by_layer(activation, gain, 50)[1]  # (51,)
    words = f"{activation}, gain {gain:.3g}"
    shade = {"ReLU": color.model, "tanh": color.truth, "sigmoid": color.gradient}[activation]
    ax.plot(range(51), norms, color=shade, lw=1.6)
    if norms[0] > 1e-24:
        ax.text(-0.8, norms[0] * 10**up, words, ha="right", va="center", fontsize=11, color=shade)
    else:  # it leaves the frame
        ax.text(18, 2e-24, words, fontsize=11, color=shade)
    said.append(f"{words}: 10 to the {norms[0].log10():.0f}")
ax.set(yscale="log", ylim=(1e-24, 1e9), xlim=(-13, 50), yticks=[1e-24, 1e-16, 1e-8, 1, 1e8])
ax.set(xlabel="layer", ylabel="norm of the gradient", xticks=range(0, 51, 10))
said = "Lines that fan out from the last layer to the first. There: " + "; ".join(said)
figure("3.4c", "The gradient on its way back, from right to left.", said)

# %% [markdown]
# Try it. Blue is the size of the activations, orange the norm of the gradient, layer by layer. Take ReLU and move the
# gain around 1.4: the lines tilt both ways. The room for error shrinks with the depth. With tanh and a large gain the
# activations look healthy, since they cannot exceed 1, and yet the gradient explodes. So it is not enough to look at
# what goes forward. (Skip connections and normalization, sections 4.6 and 4.7, widen the narrow path between the two
# dangers, and made networks of a hundred layers possible.)


# %%
def scene(fig):
    """Left, the size of activations by layer; right, the norm of gradients by layer; logarithmic axes."""
    axes = fig.subplots(1, 2)
    lines = []
    for ax, shade, title in zip(
        axes, (color.model, color.gradient), ("Activations", "Gradient"), strict=True
    ):
        ax.axhline(1, color=color.quiet, lw=1)
        lines += ax.plot([], [], "o-", ms=3, color=shade)
        ax.set(yscale="log", ylim=(1e-12, 1e12), xlim=(0, 60), xlabel="layer", title=title)
        ax.set(yticks=[1e-12, 1e-6, 1, 1e6, 1e12])
    lines[1].set_zorder(3)

    def update(activation, gain, depth):
        both = sizes_by_layer(activation, gain, depth)
        for line, sizes in zip(lines, both, strict=True):
            line.set_data(range(depth + 1), sizes.clamp(1e-13, 1e13))
        each = ((both[1][0] / both[1][-1]) ** (1 / depth)).item()
        said = f"going back, a layer multiplies the gradient by {each:.3f}"
        return f"{said}; {depth} of them by {each**depth:.1e}"

    return update


# %%
controls = {"gain": slider(0.2, 4.0, 1.0, 0.05), "depth": slider(2, 60, 40)}
activation = choice(["ReLU", "tanh", "sigmoid"])
caption = "Signals forward and gradients back through a deep network."
explore(scene, "3.4d", caption, (8.5, 3.2), activation=activation, **controls)

# %% [markdown]
# A good start does not help if training itself wanders to a bad place. The simple cure for a gradient that is
# suddenly too long is **gradient norm clipping**: take all gradients as one long vector, and if its norm exceeds a
# threshold, scale it down to it. The direction stays.


# %%
def clip(gradients: list[Tensor], longest: float) -> list[Tensor]:
    """The gradients, scaled by one factor so that all together are no longer than `longest`."""
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    return [g * (longest / norm).clamp(max=1) for g in gradients]


# %%
weights = [nn.Parameter(torch.zeros(s, device=DEVICE)) for s in ((30, 20), (20,))]
for scale in (1.0, 0.001):  # longer and shorter than 1
    for weight in weights:
        weight.grad = scale * torch.randn(weight.shape, generator=seed(6)).to(DEVICE)
    ours = torch.cat([g.flatten() for g in clip([w.grad for w in weights], 1.0)])
    nn.utils.clip_grad_norm_(weights, 1.0)
    torchs = torch.cat([w.grad.flatten() for w in weights])
    claim(f"clipped gradient and torch's, times {scale:g}", ours, equals=torchs, within=1e-6)

# %% [markdown]
# Networks that apply the *same* weights again and again need it most, since one factor then rules all steps. Ours
# reads a digit row by row: at each of the 28 rows it updates 64 numbers $h$ by
# $h \leftarrow \mathrm{relu}(x_t U + h W)$, and at the end the class is computed from $h$. $W$ starts as the
# identity, for a factor of exactly 1. But the very first gradient has a norm of over a hundred. One step along it
# takes the largest eigenvalue of $W$ from 1 to about 5, $5^{28}$ is $10^{19}$, and two batches later every number is
# `nan`, which counts as the class 0 below. With clipping it learns. We train once each way, through the same 160
# mini-batches. (Networks of this kind are the subject of the last chapter, where gates make them easier to train.)


# %%
def read_rows(x: Tensor, U: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """Logits (N, 10) of a network that reads images (N, 28, 28) from top to bottom."""
    h = torch.zeros(len(x), 64, device=x.device)  # (N, D)
    for row in x.unbind(1):  # (N, 28)
        h = torch.relu(row @ U + h @ W)
    return h @ V


# %%
def train_reader(longest: float) -> float:
    """Accuracy on new digits after two epochs of SGD with gradients clipped to this norm."""
    draw = seed(0)
    U, V = torch.randn(28, 64, generator=draw) / 8, torch.randn(64, 10, generator=draw) / 8
    weights = [w.to(DEVICE).requires_grad_() for w in (U, torch.eye(64), V)]
    for _ in progress(range(2), f"clipped to {longest:g}"):
        for x, digits in batches(images.reshape(-1, 28, 28), labels, size=100):
            loss = F.cross_entropy(read_rows(x, *weights), digits)
            gradients = clip(torch.autograd.grad(loss, weights), longest)
            for w, g in zip(weights, gradients, strict=True):
                w.data -= 0.2 * g
    guesses = read_rows(images_new[:, 0], *weights).nan_to_num().argmax(1)  # (2000,)
    return (guesses == labels_new).float().mean().item()


# %%
claim("reading rows without clipping: accuracy", train_reader(math.inf), at_most=0.3)
claim("reading rows with clipping: accuracy", train_reader(1.0), at_least=0.45)

# %% [markdown]
# Clipping does not cure the cause. Here it acts in every step, and so amounts to steps of a fixed length. In large
# trainings it should act rarely, and keep a rare bad step from undoing thousands of good ones; it is part of nearly
# every recipe. A look at how often it acts is a good thermometer of a training.
#
# **Exercise.** Write the short cut for softargmax, $p_i = e^{z_i} / \sum_j e^{z_j}$. Its Jacobian has $p_i (1 - p_i)$
# on the diagonal and $-p_i p_j$ elsewhere. From the result $p$ and the gradient $g$ with respect to $p$, give the
# gradient with respect to $z$, without ever building that matrix.


# %% tags=["exercise"]
def softargmax_back(p: Tensor, g: Tensor) -> Tensor:
    """The gradient (..., C) with respect to the logits, from p (..., C) and its gradient g (..., C)."""
    raise NotImplementedError


p3, g3 = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([1.0, 0.0, 0.0])
batch = torch.randn(2, 4, 6, generator=seed(7))
z = batch[0].clone().requires_grad_()
(expected,) = torch.autograd.grad(z.softmax(-1), z, batch[1])
check(
    softargmax_back,
    ("p = 0.5, 0.3, 0.2 and g = 1, 0, 0", lambda f: (f(p3, g3), torch.tensor([0.25, -0.15, -0.1]))),
    ("a batch of 4, as torch's", lambda f: (f(batch[0].softmax(-1), batch[1]), expected)),
)


# %% tags=["solution", "hide-input"]
def softargmax_back(p: Tensor, g: Tensor) -> Tensor:
    """Row i of the product is p_i g_i - p_i (sum over j of p_j g_j)."""
    return p * (g - (p * g).sum(-1, keepdim=True))


# %% [markdown]
# ## 3.5 The value of depth
#
# The word *deep* in **deep learning** refers to one number: how many mappings the signal goes through, one after the
# other. That number is the **depth** of a model. Each mapping can be very simple. What many of them do together is
# not, because each works on what the one before has made of the data. To see this, nothing should be hidden: all
# signals in this section are points of the plane, so every layer can be drawn as what it does to the plane.
#
# The data are two arms of a spiral that wind around each other by three quarters of a turn. No straight line
# separates them: the line that least squares finds has a third of the points on the wrong side.


# %%
def arms(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (2 count, 2) on two interleaved arms, slightly noisy, and their classes (2 count,)."""
    t = torch.linspace(0, 1, count, dtype=torch.float64)
    radius, angle = 0.25 + 0.75 * t, 1.5 * math.pi * t
    arm = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)  # (count, 2)
    noise = 0.03 * torch.randn(2 * count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([arm, -arm]) + noise, torch.arange(2).repeat_interleave(count)


# %%
x, y = (t.to(DEVICE) for t in arms(100, seed(0)))  # (N, 2), (N,)
columns = F.pad(x, (0, 1), value=1.0)  # (N, 3)
line = torch.linalg.lstsq(columns, 2 * y[:, None].double() - 1).solution  # (3, 1)
straight = (((columns @ line)[:, 0] > 0) == (y == 1)).float().mean()
claim("share of the points that a straight line gets right", straight, at_most=0.85)

# %% [markdown]
# The network is as narrow as can be. Eight layers, each a 2×2 matrix and two biases, followed by a hyperbolic tangent
# on both coordinates; then an affine map to the two logits. That is 54 numbers. An affine map can turn, stretch,
# shear and shift the plane as a whole, and no more; eight of them in a row would still be one affine map. It is the
# tanh between them that bends: it leaves the middle as it is and squeezes what is far out.
#
# Such narrow networks are hard to train from random matrices, so each layer starts close to doing nothing, with the
# identity plus a little chance. The loss is the cross-entropy of section 3.1, and the steps are those of section 3.3,
# gradient descent on all 200 points with momentum, and with the clipping of section 3.4 and a rate that goes down to
# zero in a straight line.


# %%
def eight_layers(draw: torch.Generator) -> nn.Sequential:
    """Eight layers tanh(W x + b) in the plane, near the identity, and an affine decision."""
    layers = [part for _ in range(8) for part in (nn.Linear(2, 2), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(2, 2)).double()
    for linear in layers[::2]:
        chance = 0.05 * torch.randn(2, 3, generator=draw, dtype=torch.float64)
        linear.weight.data = torch.eye(2, dtype=torch.float64) + chance[:, :2]
        linear.bias.data = chance[:, 2]
    model[-1].weight.data = torch.randn(2, 2, generator=draw, dtype=torch.float64)
    model[-1].bias.data.zero_()
    return model.to(DEVICE)


# %%
model = eight_layers(seed(0))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.95)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=2000)
data = batches(x, y, size=200)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of the points x (N, 2) with their classes y (N,)."""
    return F.cross_entropy(model(x), y)


# %%
fit(model, data, loss, optimizer, epochs=2000, schedule=schedule, clip=0.3)
right = (model(x).argmax(1) == y).double().mean()
claim("share of the points that eight layers get right", right, at_least=1)

# %% [markdown]
# All 200. Of eight random starts that we tried, seven end there; the other one gets stuck with three quarters, which
# is a fact about training and not about depth.
#
# Now the plane itself. We take the points, and a grid of lines drawn over them, and apply one layer after the other.
# Pictures 1 to 8 show where everything is after so many layers. The grid is bent, stretched and squeezed, but never
# torn: each layer moves neighbours to neighbours. Step by step the arms are pulled out of each other. After two
# layers there is a straight line between them, if one with hardly any room; the others widen the gap, until the cut
# is easy. Nothing was said to the first seven layers about what they should prepare. It all came back from the loss
# at the end, through the chain rule.
#
# The grid consists of 18 lines with 61 points each.

# %%
ticks = torch.linspace(-1.2, 1.2, 9, dtype=torch.float64)
fine = torch.linspace(-1.2, 1.2, 61, dtype=torch.float64)
upright = torch.stack(torch.meshgrid(ticks, fine, indexing="ij"), dim=2)  # (9, 61, 2)
grid = torch.cat([upright, upright.flip(2)])  # (18, 61, 2), lines of both directions

# %%
planes, clouds = [grid], [x.cpu()]
with torch.no_grad():
    for d in range(8):
        layer = model[2 * d : 2 * d + 2]
        planes.append(layer(planes[-1].to(DEVICE)).cpu())
        clouds.append(layer(clouds[-1].to(DEVICE)).cpu())

# %% [markdown]
# The model chooses the second class where its logit is above that of the first. In the last plane, their difference
# is an affine function of the place, so it is zero on a straight line: `across` is the direction in which it grows,
# and `along` that of the line.

# %%
decide = model[-1]
across = (decide.weight[1] - decide.weight[0]).detach().cpu()  # (2,)
offset = (decide.bias[1] - decide.bias[0]).item()
along = torch.stack([-across[1], across[0]]) / across.norm()  # (2,)
foot = -offset * across / across.square().sum()  # (2,) the point of the line nearest to the origin
ends = torch.stack([foot - 3 * along, foot + 3 * along])  # (2, 2)

# %%
logit = clouds[-1] @ across + offset  # (N,)
by_model = model(x).diff(dim=1)[:, 0].detach().cpu()
claim("the line in the last plane decides as the model", logit, equals=by_model, within=1e-9)

# %%
shades = [color.classes[1] if k else color.classes[0] for k in y.tolist()]
frame = {"xticks": [], "yticks": [], "xlim": (-1.25, 1.25), "ylim": (-1.25, 1.25)}

# %% tags=["figure-3.4"]
fig, axes = plt.subplots(2, 5, figsize=(8, 3.4))
for d, ax in enumerate(axes.flat[:9]):
    for curve in planes[d]:
        ax.plot(*curve.T, color=color.quiet, lw=0.5)
    ax.scatter(*clouds[d].T, s=5, color=shades, zorder=3)
    ax.set(aspect="equal", **frame)
    ax.set_title("input" if d == 0 else f"after layer {d}", size=11, weight="normal")
    ax.spines[:].set_visible(False)
axes[1, 3].plot(*ends.T, color=color.model)
axes[1, 4].axis("off")
axes[1, 4].text(0, 0.5, "Far apart:\nan easy cut.", color=color.model)
said = "A grid bent by eight layers in turn, at the end of which a line has "
said += f"{right:.0%} of the {len(y)} points on the right side."
figure("3.4", "The plane, layer by layer, and the final decision.", said, held="trained")

# %% [markdown]
# Look at the frames, too. They have the same size in all nine pictures, since the tanh lets nothing beyond 1. To have
# room for a straight cut, the network pushes each arm into a corner, as far from the other as it can.
#
# Move through the layers. Between two whole numbers every point is on the straight way from where it was to where the
# next layer puts it. On the right, what all this means in the original plane: the regions of the two classes, with
# the boundary where the model is undecided.

# %%
side = torch.linspace(-1.2, 1.2, 120, dtype=torch.float64)
square = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=2)  # (120, 120, 2)
with torch.no_grad():
    undecided = model(square.to(DEVICE)).diff(dim=2)[..., 0].cpu()  # (120, 120)


# %%
def scene(fig):
    """Left, the plane with two classes of points on its way through the layers. Right, the regions they come from."""
    left, right = fig.subplots(1, 2)
    mesh = LineCollection([], color=color.quiet, lw=0.6)
    left.add_collection(mesh)
    dots = left.scatter(*clouds[0].T, s=12, color=shades, zorder=3)
    (line,) = left.plot(*ends.T, color=color.model, visible=False)
    tints = ["#d9d5ea", "#f5e0e4"]
    right.contourf(side, side, undecided, levels=[-1e9, 0, 1e9], colors=tints)
    right.contour(side, side, undecided, levels=[0], colors=[color.model])
    right.scatter(*clouds[0].T, s=12, color=shades)
    left.set(aspect="equal", title="On the way", **frame)
    right.set(aspect="equal", title="In the original plane", **frame)

    def update(layers, grid):
        d = min(int(layers), 7)
        part = layers - d
        mesh.set_segments(torch.lerp(planes[d], planes[d + 1], part).numpy())
        mesh.set_visible(grid)
        dots.set_offsets(torch.lerp(clouds[d], clouds[d + 1], part))
        line.set_visible(layers == 8)
        where = "the input" if layers == 0 else f"after {layers:g} layers"
        return f"{where}; {'the final line decides' if layers == 8 else 'on the way'}"

    return update


# %%
layers = slider(0.0, 8.0, 3.0, 0.1)
caption = "A plane on its way through eight layers."
explore(scene, "3.5a", caption, (8, 3.9), held="trained", layers=layers, grid=toggle(True))

# %% [markdown]
# ### Folding
#
# Is depth better than width, for the same number of weights? To compare, count what a network can do. With ReLU as
# its activation, everything in it consists of straight pieces: along a line through its inputs, its output is a
# broken line, and the number of pieces says how rich a function it is. (In more dimensions the pieces are called
# *linear regions*.) With one hidden layer each unit adds one break at most. With several layers, a later unit can
# break *every piece* that is already there.
#
# The pieces can be counted exactly. Between two breaks every unit is a straight line, so where its value changes sign
# can be computed, and that is a new break. Layer by layer they are all found. The function computes the values $z$ of
# a layer's units at all breaks so far. Where $z$ has different signs at the two ends of a piece, it is zero in
# between, at the `share` of the way that the two values tell.


# %%
def count_pieces(layers: list, low: float = 0.0, high: float = 1.0) -> int:
    """Straight pieces of a ReLU network on an interval; layers is a list of weights (D, E) and biases (E,)."""
    t = torch.tensor([low, high], dtype=torch.float64)  # (P + 1,) ends and breaks
    for d in range(len(layers)):
        h = t[:, None]  # (P + 1, 1)
        for W, b in layers[:d]:
            h = (h @ W + b).relu()  # (P + 1, E)
        z = h @ layers[d][0] + layers[d][1]  # (P + 1, E)
        share = z[:-1] / (z[:-1] - z[1:])  # (P, E) where a straight line is zero
        new = t[:-1, None] + share * t.diff()[:, None]
        t = torch.cat([t, new[z[:-1] * z[1:] < 0]]).unique()
    return len(t) - 1


# %% [markdown]
# So how many pieces can a network have? That depends on how well its layers work together.
#
# The champion is a folding: the *tent*, which rises from 0 to 1 on the first half of the interval and falls back on
# the second, is $2\, \mathrm{relu}(x) - 4\, \mathrm{relu}(x - \frac{1}{2})$. Two units. It folds the interval in
# half, as one folds a sheet of paper, and stretches it to its old length. Apply it again and each slope becomes a
# whole tent. After $d$ layers there are exactly $2^d$ pieces. With ten layers these are 1,024 pieces from 61 weights.
# A network with one hidden layer has three weights for each unit and one more, so 61 weights are 20 units, and 21
# pieces at most.


# %%
def tents(depth: int) -> list:
    """The weights of a network of this depth that folds the interval from 0 to 1 in half at each layer."""
    first = torch.tensor([[1.0, 1.0]], dtype=torch.float64)  # (1, 2)
    fold = torch.tensor([[2.0, 2.0], [-4.0, -4.0]], dtype=torch.float64)  # (2, 2)
    b = torch.tensor([0.0, -0.5], dtype=torch.float64)  # (2,)
    return [(first if d == 0 else fold, b) for d in range(depth)]


# %%
counts = torch.tensor([count_pieces(tents(depth)) for depth in range(1, 11)])
claim("tents of depth 1 to 10 have 2, 4, 8, … pieces", counts, equals=2 ** torch.arange(1, 11))

# %% [markdown]
# In other words: to match the ten layers of two units, a single layer would need a thousand units, and each further
# layer of two doubles that.
#
# That is what depth *can* do. What does it do by itself? Random networks of growing depth, each with the width that
# gives about 1,000 weights, twenty of each kind. They have nothing like the possible number of pieces. One layer has
# some 300, as many as it has units; from two layers on there are 50 to 70, whatever the depth. Richness in this sense
# is there to be found by training, or by construction; chance does not find it.


# %%
def random_layers(depth: int, width: int, draw: torch.Generator) -> list:
    """Weights and biases of a random ReLU network of one input."""
    chance = {"generator": draw, "dtype": torch.float64}
    layers = []
    for inputs in [1] + [width] * (depth - 1):
        W = torch.randn(inputs, width, **chance) * (2 / inputs) ** 0.5  # (D, E)
        layers.append((W, 0.5 * torch.randn(width, **chance)))
    return layers


def weights_of(depth: int, width: int) -> int:
    """The number of weights and biases with one input, one output, and `depth` layers of that width."""
    return 2 * width + (depth - 1) * (width**2 + width) + width + 1


# %%
depths, found, drawn = (1, 2, 3, 4, 6, 8, 10), [], seed(1)
for depth in depths:
    width = max(n for n in range(1, 400) if weights_of(depth, n) <= 1000)
    networks = [random_layers(depth, width, drawn) for _ in range(20)]
    found.append(sum(count_pieces(network, -2, 2) for network in networks) / 20)

# %%
claim("random networks: pieces at depth 10, as a share of 2^10", found[-1] / 1024, at_most=0.2)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
ax.plot(range(1, 11), counts, "o-", color=color.truth)
ax.plot(depths, found, "o-", color=color.model)
ax.text(8.8, 700, "tents, $2^d$", color=color.truth, ha="right")
ax.text(1.2, found[0] * 1.25, "random, with 1,000 weights", color=color.model)
ax.set(xlabel="depth $d$", ylabel="straight pieces", xlim=(0.7, 10.3), ylim=(1, 2000))
log_scale(ax.yaxis, [1, 10, 100, 1000])
said = ", ".join(f"{mean:.0f} at depth {depth}" for depth, mean in zip(depths, found, strict=True))
caption = (
    "Pieces against depth: of tents, with up to 61 weights, and of random networks, with 1,000."
)
figure("3.5b", caption, f"Tents double up to 1024; random networks have {said}.")

# %% [markdown]
# There is no contradiction between the two curves. Depth is a promise: there are functions that a deep network has
# with few weights and a shallow one only with exponentially many. Whether the function that we need is of that kind,
# and whether training finds it, is another question. For images, sound and language the answer of the last decade is
# yes, and nobody quite knows why. It helps that such signals are made of parts, which are made of parts.
#
# **Exercise.** How many weights and biases does a fully connected network have? Count them for given sizes of its
# layers, input and output included, and you can make comparisons like the ones above fair.


# %% tags=["exercise"]
def parameter_count(sizes: list[int]) -> int:
    """Weights and biases of a fully connected network with layers of these sizes, input first."""
    raise NotImplementedError


check(
    parameter_count,
    ("eight layers in the plane and a decision have 54", lambda f: (f([2] * 10), 54)),
    ("one input, 20 hidden units, one output: 61", lambda f: (f([1, 20, 1]), 61)),
)


# %% tags=["solution", "hide-input"]
def parameter_count(sizes: list[int]) -> int:
    """Each output of a layer has one weight for each of its inputs, and one bias."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


# %% [markdown]
# ## 3.6 Training protocols
#
# A training has many settings that gradient descent does not choose: how large the network is, how long to train, at
# which rate. Somebody has to choose them by trying. This section is about doing that without fooling oneself.
#
# The data are therefore divided into three parts. The *training set* is what gradient descent sees. The **validation
# set** is kept apart from it, and is what *we* look at to choose settings. And the **test set** is kept apart from
# both, and is looked at once, when everything is chosen. Why the third part? Because choosing is a kind of training
# too: among many candidates, the winner on the validation set is partly the best, and partly the luckiest. Below we
# measure how lucky.
#
# A comparison may help. The training set is the textbook, the validation set the mock exam that you take over and
# over while you decide how to study, the test set the exam. Who has taken the mock exam fifty times and kept the way
# of studying that scored highest has learned something about that mock exam. What counts is the score in the exam.
#
# Our task is to name pieces of clothing, on Fashion-MNIST. We pretend that labels are expensive: 300 images to train,
# 1,000 to validate, and the 2,000 of the test set.

# %%
images, labels = fashion_mnist("train", DEVICE)  # (5000, 1, 28, 28), (5000,)
x, x_validation = images[:300], images[1000:2000]  # (300, 1, 28, 28), (1000, 1, 28, 28)
y, y_validation = labels[:300], labels[1000:2000]  # (300,), (1000,)

# %% [markdown]
# The network has two layers of 256 units between the 784 pixels and the ten scores, 269,322 parameters in all, nine
# hundred for each image. It could learn the images by heart, and will. One pass over the training set is an
# **epoch**: here six steps, of 50 images each. After every epoch `fit` calls the functions in `metrics`, which
# compute the loss on all of the training set and on the validation set, without taking a step. They look and do not
# touch.
#
# The function `train` below starts from the same random weights whenever it is called, and goes through the images in
# the same order, since `seed` and `batches` fix all chance. So two calls with different options differ in nothing but
# the options.


# %%
def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean loss of a classifier on images x (N, 1, 28, 28) with labels y (N,)."""
    return F.cross_entropy(model(x), y)


# %%
def train(epochs: int, **options):
    """A network trained from the same start and in the same order every time, and what happened."""
    seed(1)
    hidden = [nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10)).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    metrics = {
        "training": lambda model: cross_entropy(model, x, y),
        "validation": lambda model: cross_entropy(model, x_validation, y_validation),
    }
    data = batches(x, y, size=50)
    return model, fit(model, data, cross_entropy, optimizer, epochs, metrics=metrics, **options)


# %%
overfitted, history = train(epochs=60)
training, validation = history.metrics["training"], history.metrics["validation"]
best = min(range(60), key=lambda epoch: validation[epoch])

# %% [markdown]
# For a dozen epochs or so both losses fall. Then they part. The training loss goes on towards zero, where every
# training image is named with near certainty. The validation loss turns and climbs: from there on the network learns
# what is true of these 300 images only. That is overfitting as in section 1.3, except that what grows here is not the
# number of weights but the time they were given.

# %%
rise, fall = validation[-1] / validation[best], training[-1] / training[best]
claim("validation loss after 60 epochs over its lowest", rise, at_least=1.2)
claim("training loss after 60 epochs over that at the best epoch", fall, at_most=0.3)

# %% [markdown]
# The cure is to stop in time. We do not know when the lowest point has come, since the curve wiggles; so we wait.
# *Early stopping* with a *patience* of ten ends the training when ten epochs in a row have brought no new lowest
# validation loss, and goes back to the parameters of the best epoch, which were set aside when it came. `fit` does it
# if told what to `watch`. The rule itself is short:


# %%
def stop(losses: list[float], patience: int) -> tuple[int, int]:
    """The epoch after which a training with these losses would stop, and the best one up to it."""
    best = 0
    for epoch, value in enumerate(losses):
        best = epoch if value < losses[best] else best
        if epoch - best >= patience:
            break
    return epoch, best


# %%
stopped, short = train(epochs=60, watch="validation", patience=10)
expected = stop(validation, patience=10)
claim("fit stops where our rule does", (len(short.epochs) - 1, short.best_epoch) == expected)

# %%
with torch.no_grad():
    kept = cross_entropy(stopped, x_validation, y_validation)
lowest = min(short.metrics["validation"])
claim("early stopping returns the best epoch", kept, equals=lowest, within=1e-5)

# %% [markdown]
# The picture shows both losses, epoch by epoch, and where they part. Move the patience. Without much of it the first
# wiggle ends the training, while both losses still fall. With too much, nothing is lost but time, since the best
# parameters are kept; that is why people choose it generously. Where a training takes weeks, that time is money, and
# the patience becomes a matter of taste.


# %%
def scene(fig):
    """Training loss, which falls towards zero, and validation loss, which falls, turns and climbs."""
    ax = fig.subplots()
    epochs = range(1, 61)
    ax.plot(epochs, training, color=color.train)
    ax.plot(epochs, validation, color=color.test)
    ax.axvline(best + 1, color=color.quiet, lw=1, zorder=0)
    ax.text(best + 1, 1.73, "overfitting starts", color="#777777")
    ax.text(61.5, validation[-1], "validation", color=color.test, va="center")
    ax.text(61.5, training[-1], "training", color=color.train, va="center")
    (never,) = ax.fill([], [], color="white", alpha=0.65, lw=0, zorder=3)
    (dot,) = ax.plot([], [], "o", color=color.test, ms=8, zorder=4)
    ax.set(xlim=(0, 61), ylim=(0, 1.7), xlabel="epoch", ylabel="cross-entropy (nats)")

    def update(patience):
        last, chosen = stop(validation, patience)
        never.set_xy([(last + 1, 0.005), (61, 0.005), (61, 1.7), (last + 1, 1.7)])
        dot.set_data([chosen + 1], [validation[chosen]])
        above = validation[chosen] / validation[best] - 1
        where = f"stops after epoch {last + 1}, keeps epoch {chosen + 1}"
        return f"{where}: {above:.0%} above the lowest"

    return update


# %% tags=["figure-3.5"]
caption = "Losses against epochs. The dot is the epoch that early stopping keeps."
explore(scene, "3.5", caption, (7, 3.4), held="trained", patience=slider(1, 40, 10))

# %% [markdown]
# One honest remark. The book's figure, like ours, shows the loss. The share of validation images that are named
# correctly hardly suffers from the long training. What suffers is the network's idea of its own reliability: it is
# mostly wrong where it was wrong, and surer of it.


# %%
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Share of the images x (N, 1, 28, 28) that the model gives their labels y (N,)."""
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).float().mean()


# %%
late, early = (accuracy(m, x_validation, y_validation) for m in (overfitted, stopped))
claim("what 60 epochs change in validation accuracy", late - early, at_least=-0.06, at_most=0.06)


# %%
def sureness(model: nn.Module) -> Tensor:
    """The mean probability that a model gives to its answers on validation images that are wrong."""
    with torch.no_grad():
        shares, answers = model(x_validation).softmax(dim=1).max(dim=1)  # (1000,), (1000,)
    return shares[answers != y_validation].mean()


# %%
surer = sureness(overfitted) - sureness(stopped)
claim("how much surer it is of wrong answers, in probability", surer, at_least=0.05)

# %% [markdown]
# ### The luckiest candidate
#
# How lucky is a winner? To see it we need many candidates, and they should be cheap. Here is one in a few lines:
# multiply the pixels by random numbers that stay as they are, bend the results with a tanh, and solve for the last
# layer by least squares with a penalty, as in section 1.3. The random numbers are what a seed is in other trainings:
# something that nobody chooses for a reason. Sixty of those candidates differ in nothing but them, so in truth they
# are almost equally good.
#
# We let each of them answer for 4,000 images of the training set that it never saw, and note where it was right.


# %%
def random_features(x: Tensor, y: Tensor, x_new: Tensor, generator: torch.Generator) -> Tensor:
    """Classes (M,) for images x_new, from a last layer fitted to x, y over 200 random features."""
    mixing = torch.randn(784, 200, generator=generator).to(x) / 10
    features, new = (torch.tanh(images.flatten(1) @ mixing) for images in (x, x_new))  # (·, 200)
    normal = features.mT @ features + 10 * torch.eye(200, device=x.device)  # (200, 200)
    return (new @ torch.linalg.solve(normal, features.mT @ F.one_hot(y, 10).float())).argmax(dim=1)


# %%
chance = seed(2)
K, pool = 60, slice(1000, 5000)
candidates = [random_features(x, y, images[pool], chance) for _ in range(K)]
right = (torch.stack(candidates) == labels[pool]).float()  # (K, 4000)

# %% [markdown]
# How large should we expect luck to be? A candidate that is right in 74 of 100 cases will, on 100 images drawn at
# random, be right 74 times give or take 4.4, the root of $100 \cdot 0.74 \cdot 0.26$. If sixty candidates each had
# such a deviation of their own, the largest would be well over twice that. They share their images, and an image that
# is hard for one tends to be hard for all, so it will be less.
#
# Now the experiment that one usually cannot afford. Draw a validation set of 100 images. Choose, among the first $k$
# candidates, the one with the highest validation accuracy. Note that accuracy, which is what we would report if we
# had no test set. Note also the winner's accuracy on 2,000 other images, which is the truth. Do all that 400 times
# over, with new validation sets, and average.
#
# In the code `cummax` does the choosing. It goes along the candidates and keeps the highest accuracy so far, and
# where that was: the winner among the first one, the first two, and so on up to all sixty, in one line.

# %%
seems, truly = torch.zeros(2, 400, K, device=DEVICE)  # (400, K) each
for draw in range(400):
    order = torch.randperm(4000, generator=chance).to(DEVICE)
    on_validation = right[:, order[:100]].mean(1)  # (K,)
    seems[draw], winner = on_validation.cummax(0)  # of the first 1, 2, … K candidates
    truly[draw] = right[:, order[2000:]].mean(1)[winner]

# %% [markdown]
# With one candidate there is nothing to choose, and the two agree. With sixty, the winner seems better than the first
# by far, and nearly all of that is luck. The gap is the *optimism* of choosing. It grows with the number of
# candidates and shrinks with the size of the validation set. The remedy costs little: a test set, read once.
#
# It is the same effect that makes a fund of last year's best stocks disappoint this year, and that fills leader
# boards with progress which fades on fresh data. It does not mean that choosing is useless. Here the candidates were
# equally good on purpose. If they differ by more than the luck, the validation set finds the good ones; only its
# *score* for the winner is too kind.

# %%
optimism = (seems - truly).mean(0)  # (K,)
claim("optimism without a choice, in accuracy", optimism[0], at_least=-0.01, at_most=0.01)
claim("optimism of the best of 60, in accuracy", optimism[-1], at_least=0.03, at_most=0.09)

# %%
gained = (truly[:, -1] - truly[:, 0]).mean()
claim("what choosing among 60 truly gained, in accuracy", gained, at_least=-0.02, at_most=0.02)

# %%
fig, ax = plt.subplots(figsize=(6, 3.2))
for curve, name, shade in (
    (seems, "on the validation set", color.gradient),
    (truly, "on new images", color.test),
):
    heights = 100 * curve.mean(0).cpu()  # (K,)
    ax.plot(range(1, K + 1), heights, color=shade)
    ax.text(K, heights[-1] + 0.2, name, color=shade, ha="right")
ax.set(xlabel="number of candidates", ylabel="accuracy of the winner (%)")
ax.set(xlim=(0, K + 1), ylim=(72, 81))
points = [f"{abs(100 * optimism[k]):.0f}" for k in (-1, 0)]
said = f"The winner of {K} seems {points[0]} points better than it is; a single one, {points[1]} points."
figure("3.6a", "The winner among many, on 100 validation images and in truth.", said)

# %% [markdown]
# We have by now chosen one thing with the validation set: when to stop. So this is the moment to read the test set,
# once, for the network that early stopping returned.

# %%
score = accuracy(stopped, *fashion_mnist("test", DEVICE))
claim("test accuracy with 300 training images, read once", score, at_least=0.7)

# %% [markdown]
# ### Learning rate schedules
#
# Section 3.3 kept the learning rate fixed. Yet far from the minimum large steps are welcome, and near it they jump
# back and forth across it. So the rate is usually made to follow a **learning rate schedule**: a function of the step
# that tells which share of the largest rate to use. Four common ones, as plain functions of the step $t$, from 0 to
# $T - 1$:


# %% tags=["export"]
def constant(t: int, T: int) -> float:
    """The same rate at every step."""
    return 1.0


def staircase(t: int, T: int) -> float:
    """A tenth of the rate after each third of the steps."""
    return 0.1 ** (t // math.ceil(T / 3))


def cosine(t: int, T: int) -> float:
    """Half a wave, from 1 down to 0."""
    return (1 + math.cos(math.pi * t / T)) / 2


def warmup_cosine(t: int, T: int, share: float = 0.2) -> float:
    """A straight rise over the first share of the steps, then half a wave down to 0."""
    rise = round(share * T)
    return (t + 1) / rise if t < rise else cosine(t - rise, T - rise)


# %% [markdown]
# The *warm-up* of the last one is for the start. The first gradients are large and point everywhere, and Adam's
# running means have seen too little to be trusted; small steps let both settle.
#
# The names of the arguments are the same in all four: $t$ is the step and $T$ the number of all steps. A staircase
# needs the decision how many stairs, a cosine none, which is one reason why it is popular.
#
# PyTorch has classes for all of them, in `torch.optim.lr_scheduler`. A schedule object changes the rate of an
# optimizer each time its `step` is called. Ours must give the same rates at every one of 60 steps. The fourth is put
# together from two: a straight rise, which here takes 12 steps, and then a cosine.


# %%
def rates(schedule, optimizer: torch.optim.Optimizer, T: int) -> Tensor:
    """The rates (T,) that an optimizer uses in T steps under a schedule of PyTorch's."""
    used = []
    for _ in range(T):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(used)


# %%
schedulers, T = torch.optim.lr_scheduler, 60
optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0) for _ in range(4)]
one, two, three, four = optimizers
rise = schedulers.LinearLR(four, 1 / 12, 1.0, total_iters=11)  # from 1/12 to 12/12 in 11 moves
fall = schedulers.CosineAnnealingLR(four, T - 12)
theirs = {
    constant: rates(schedulers.ConstantLR(one, 1.0), one, T),
    staircase: rates(schedulers.StepLR(two, T // 3), two, T),
    cosine: rates(schedulers.CosineAnnealingLR(three, T), three, T),
    warmup_cosine: rates(schedulers.SequentialLR(four, [rise, fall], [12]), four, T),
}

# %%
for schedule, by_torch in theirs.items():
    ours = torch.tensor([schedule(t, T) for t in range(T)])  # (T,)
    claim(f"the schedule {schedule.__name__} and torch's", ours, equals=by_torch, within=1e-6)

# %% [markdown]
# Which one trains best? All get the same budget, 120 steps, three epochs of 2,000 digits of MNIST; the same network
# with 64 hidden units; the same optimizer, Adam. Each is tried at four peak rates, since a comparison at one rate
# would favour the schedule which that rate happens to suit; and each with three seeds, for the initial weights and
# the order of the images, since one training proves little. `LambdaLR` takes any function of the step, so our own go
# straight into `fit`.

# %%
digits, digit_labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)


# %%
def validation_loss(schedule, peak: float, start: int) -> float:
    """Loss on 2,000 digits after a training under a schedule with a peak rate, from one seed."""
    seed(start)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=peak)
    following = schedulers.LambdaLR(optimizer, lambda t: schedule(t, 120))
    data = batches(digits[:2000], digit_labels[:2000], size=50, seed=start)
    fit(model, data, cross_entropy, optimizer, epochs=3, schedule=following)
    with torch.no_grad():
        return cross_entropy(model, digits[2000:4000], digit_labels[2000:4000]).item()


# %%
SCHEDULES = {"constant": constant, "staircase": staircase}
SCHEDULES |= {"cosine": cosine, "warm-up, cosine": warmup_cosine}
PEAKS, STARTS = (0.003, 0.01, 0.03, 0.1), (0, 1, 2)
runs = [(s, p, start) for s in SCHEDULES.values() for p in PEAKS for start in STARTS]
losses = torch.tensor([validation_loss(*run) for run in progress(runs, "48 trainings")])
losses = losses.reshape(4, 4, 3)  # (schedules, peaks, seeds)

# %%
by_peak = losses.mean(2)  # (4, 4)
claim("cosine over constant at a peak rate of 0.03", by_peak[2, 2] / by_peak[0, 2], at_most=0.88)
claim("warm-up over none at a peak rate of 0.1", by_peak[3, 3] / by_peak[2, 3], at_most=0.9)

# %%
fig, (left, ax) = plt.subplots(1, 2, figsize=(8.5, 3.4), width_ratios=[2, 3])
for k, (name, schedule) in enumerate(SCHEDULES.items()):
    shade = (color.data, color.truth, color.model, color.weights)[k]
    left.plot([schedule(t, 120) for t in range(120)], color=shade)
    ax.plot(PEAKS, by_peak[k], color=shade)
    ax.scatter([p for p in PEAKS for _ in STARTS], losses[k].flatten(), s=10, color=shade)
    ax.text(0.115, (1.1, 0.92, 0.77, 0.47)[k], name, color=shade, va="center")
left.set(xlabel="step", ylabel="share of the peak rate")
ax.set(xlabel="peak learning rate", ylabel="validation loss (nats)")
log_scale(ax.xaxis, [0.003, 0.01, 0.03, 0.1])
log_scale(ax.yaxis, [0.3, 0.4, 0.5, 0.7, 1, 1.5])
ax.set_xlim(0.0028, 0.11)
said = "The constant rate is ahead at a peak of 0.003, the cosine at 0.03; at 0.1 the warm-up is."
figure("3.6b", "Four schedules, and the loss after 120 steps with each.", said, held="trained")

# %% [markdown]
# With a peak of 0.003 the constant rate wins: 120 such steps are few, and the schedules that fall make them smaller
# still. At 0.03 they are far ahead. They take the large steps early and the small ones late. Each at the peak that
# suits it best, the cosine is ahead of the constant rate, when we repeat all this with other data and seeds, by
# between 2 and 17 %: a gain for nothing, and not a miracle. At 0.1 the first large steps spoil the training, and only
# the warm-up softens that, by a lot. At rates that suit this small network it gains nothing. The original Transformer
# hardly trains without it.
#
# ### More from few data
#
# When data are few, two habits promise relief. One is weight decay, section 3.1's pull of all weights towards zero;
# `AdamW` applies it apart from the gradient.
#
# The other is *augmentation*, which makes new training examples out of old ones, by changes that leave the label
# true. A digit that is slightly turned, sheared, grown and shifted is still the same digit. Such a change is an
# affine map, a 2 × 2 matrix and a shift, drawn anew for every image of every batch. For each pixel of the new image,
# `affine_grid` finds the place where to look in the old one, and `grid_sample` looks there, mixing the four nearest
# pixels.
#
# Which changes are harmless has to be known beforehand. A digit may be turned by 15 degrees; turned by 180, a 6 is a
# 9. A photograph of a cat may be mirrored, a page of text may not. Augmentation is a way to put such knowledge into
#   the training, an inductive bias made of data.


# %% tags=["export"]
def augment(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Each image (N, C, H, W) turned by up to 15 degrees, sheared, resized by up to 15 %, and shifted."""
    rolls = 2 * torch.rand(5, len(images), generator=generator) - 1  # (5, N)
    turn, shear, grow, right, down = strength * rolls  # (N,) each
    angle, size = math.pi / 12 * turn, 1 + 0.15 * grow  # (N,), (N,)
    first_row = [size * angle.cos(), 0.2 * shear - angle.sin(), 0.1 * right]
    second_row = [angle.sin(), size * angle.cos(), 0.1 * down]
    maps = torch.stack(first_row + second_row, dim=1).reshape(-1, 2, 3).to(images.device)
    places = F.affine_grid(maps, images.shape, align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, places, align_corners=False)


# %%
still = augment(digits[:5], seed(3), strength=0.0)  # (5, 1, 28, 28)
claim("augmentation of strength 0 changes nothing", still, equals=digits[:5], within=1e-4)

# %% [markdown]
# We train on 200 digits, 200 steps, five times over: plainly, with weight decay, and with augmentation. The network
# is a small convolutional one, of a kind that chapter 4 explains; what matters here is that it has 47,000 weights for
# 200 images. A convolution looks at all places of an image with the same few weights, so it suits images better than
# the network above. Its two parts will be used again in a moment: a *body* that turns an image into 64 numbers, and a
# *head* that turns these into scores.


# %%
def body() -> nn.Module:
    """From images (N, 1, 28, 28) to 64 features (N, 64)."""
    first = [nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(512, 64), nn.ReLU())


# %%
def augmented(generator: torch.Generator):
    """The cross-entropy of a model on images changed at random."""
    return lambda model, x, y: F.cross_entropy(model(augment(x, generator)), y)


# %%
def train_steps(model: nn.Module, x: Tensor, y: Tensor, steps: int, loss=cross_entropy, decay=0.0):
    """Train the model for about so many steps on batches of 25."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=decay)
    data = batches(x, y, size=25, seed=len(x))
    fit(model, data, loss, optimizer, epochs=max(4, steps // len(data)))


# %%
digits_test, digit_labels_test = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
scores = torch.zeros(3, 5)  # (plain, decay, augmentation; seeds)
for start in progress(range(5), "15 trainings"):
    some = slice(200 * start, 200 * start + 200)
    for k, options in enumerate(({}, {"decay": 0.3}, {"loss": augmented(seed(start))})):
        seed(start)
        model = nn.Sequential(body(), nn.Linear(64, 10)).to(DEVICE)
        train_steps(model, digits[some], digit_labels[some], 200, **options)
        scores[k, start] = accuracy(model, digits_test, digit_labels_test)

# %% [markdown]
# Augmentation removes about a third of the errors, from the same 200 digits and in the same number of steps. It tells
# the network something that we know and it does not: which changes do not matter. Weight decay, in this experiment,
# does next to nothing. In 200 steps it has little time to act, and it knows nothing of digits. In long trainings of
# large networks it earns its place, mostly by keeping the weights at a scale at which the learning rate suits them.
#
# A word on the protocol, since this section is about it. Here we read the test set fifteen times. That is in order,
# because we choose nothing by it: all fifteen numbers are shown. Had we kept the best and thrown the others away, it
# would have become a validation set.

# %%
errors = 1 - scores.mean(1)  # (3,)
claim("errors with augmentation over errors without", errors[2] / errors[0], at_most=0.88)

# %%
ratio = errors[1] / errors[0]
claim("errors with weight decay over errors without", ratio, at_least=0.85, at_most=1.12)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), width_ratios=[4, 5])
copies = augment(digits[5:6].expand(15, -1, -1, -1), seed(4))  # (15, 1, 28, 28)
copies[0] = digits[5]
tiles = copies.reshape(3, 5, 28, 28).transpose(1, 2).reshape(84, 140)  # 3 rows of 5
left.imshow(1 - tiles.cpu(), vmin=0, vmax=1)
left.set(xticks=[], yticks=[], xlabel=f"a {digit_labels[5]}, and 14 changes of it")
left.spines[:].set_visible(False)
for row in range(3):
    right.scatter(100 * scores[row], [-row] * 5, s=22, color=color.test)
    right.plot(100 * scores[row].mean(), -row, "|", color=color.data, ms=22)
right.set(yticks=[0, -1, -2], ylim=(-2.5, 0.5))
right.set(yticklabels=["plain", "weight decay", "augmentation"])
right.set(xlabel="test accuracy (%): five trainings, and their mean")
said = "Fifteen versions of one digit; accuracies with augmentation lie above those without."
figure("3.6c", "Augmentation, and what it brings with 200 digits.", said, held="trained")

# %% [markdown]
# ### Fine-tuning
#
# The best remedy for few data is to have many of another kind. Suppose someone has already trained a network on the
# digits from 0 to 4, with plenty of examples: a **pre-trained model**. We want one for the digits from 5 to 9, and
# have only a handful of each. This is our **downstream task**: what we are really after, downstream of the training
# that came first. The curved strokes and corners that tell a 2 from a 3 will also help to tell a 5 from a 6. So keep
# the body, put a new head on it, since the classes are new, and go on training all of it on the few: **fine-tuning**.

# %%
seed(5)
old = digit_labels < 5  # (8000,)
pretrained = nn.Sequential(body(), nn.Linear(64, 5)).to(DEVICE)
train_steps(pretrained, digits[old], digit_labels[old], 800, loss=augmented(seed(6)))
seen = digit_labels_test < 5  # (2000,)
score = accuracy(pretrained, digits_test[seen], digit_labels_test[seen])

# %%
claim("pre-training: accuracy on the digits from 0 to 4", score, at_least=0.96)

# %% [markdown]
# How large is the gain, and does it depend on how few the examples are? We take 2, 5, 10, 30 and 100 of each digit,
# three times each, with other examples and other random weights every time.
#
# The rival starts from scratch: the same network, with random weights in the body too. Both get the same examples and
# take the same steps. The body is copied for each run (`deepcopy`), since training changes it, and every run must
# start from the same pre-trained one.


# %%
def few(n: int, start: int) -> tuple[Tensor, Tensor]:
    """Images and classes, from 0 to 4, of n examples of each of the digits from 5 to 9."""
    order = torch.randperm(8000, generator=seed(start)).to(DEVICE)
    chosen = torch.cat([order[digit_labels[order] == digit][:n] for digit in range(5, 10)])
    return digits[chosen], digit_labels[chosen] - 5


# %%
def downstream(n: int, start: int, pre_trained: bool) -> float:
    """Test accuracy on the digits from 5 to 9 after a training with n examples of each."""
    x, y = few(n, start)
    head = nn.Linear(64, 5)
    model = nn.Sequential(copy.deepcopy(pretrained[0]) if pre_trained else body(), head).to(DEVICE)
    train_steps(model, x, y, 80)
    return accuracy(model, digits_test[~seen], digit_labels_test[~seen] - 5).item()


# %%
EXAMPLES = (2, 5, 10, 30, 100)
runs = [(n, start, pre) for pre in (False, True) for n in EXAMPLES for start in range(3)]
reached = torch.tensor([downstream(*run) for run in progress(runs, "30 trainings")])
scratch, tuned = reached.reshape(2, 5, 3)  # (examples, seeds) each

# %% [markdown]
# Fine-tuning wins at every number of examples. Read the picture sideways, too: along a level line, from scratch to
# fine-tuned, the number of examples needed falls to about a half, and for the best of scratch to a quarter. There are
# two reasons. The features are there already, so that few examples suffice to combine them; and the start is near a
# good solution, so that eighty steps do not lead far away into overfitting. It is a modest gain, for a body
# pre-trained on only 4,000 images of five classes. Section 3.7 is about what happens when it has seen a good part of
# the internet.
#
# There are degrees of fine-tuning. One may train the new head only and leave the body as it is; or all of it, as we
# did; or the body with a smaller rate than the head. A common rule says: the fewer the examples, the less should
# move. In our case it would mislead. We tried the head alone, with the same rate and steps, and it was worse at every
# number of examples: a body that knows five digits is not yet good for the other five.

# %%
ratio = (1 - tuned).mean() / (1 - scratch).mean()
claim("errors when fine-tuned over errors from scratch", ratio, at_most=0.9)

# %%
few_gain = (tuned - scratch)[1:4].mean()
claim("gain in accuracy by fine-tuning, 5 to 30 examples", few_gain, at_least=0.02)

# %%
fig, ax = plt.subplots(figsize=(6, 3.4))
for part, shade in ((scratch, color.data), (tuned, color.model)):
    ax.plot(EXAMPLES, 100 * part.mean(1), color=shade)
    ax.scatter([n for n in EXAMPLES for _ in range(3)], 100 * part.flatten(), s=12, color=shade)
ax.text(25, 100 * tuned[3].mean(), "fine-tuned", color=color.model, ha="right", va="bottom")
ax.text(36, 100 * scratch[3].mean(), "from scratch", color=color.data, va="top")
ax.set(xlabel="examples of each class", ylabel="test accuracy (%)")
log_scale(ax.xaxis, list(EXAMPLES))
said = "Two rising curves, from scratch and fine-tuned; the fine-tuned one lies above throughout."
figure("3.6d", "Digits from 5 to 9, after pre-training on those from 0 to 4.", said, held="trained")

# %% [markdown]
# **Exercise.** A cosine must know in advance when it will end. The schedule of the original Transformer does not: it
# rises in a straight line, to 1 at step $W$, and then falls as one over the root of the step, so that at step $4W$ it
# is a half. Steps are counted from 1 in this formula. At step $W$ both parts agree. Section 3.7 trains with it.


# %% tags=["exercise"]
def inverse_root(step: int, warm_up: int) -> float:
    """The share of the peak rate at a step, counted from 1, with a warm-up of so many steps."""
    raise NotImplementedError


check(
    inverse_root,
    ("at step 1 of a warm-up of 20 it is 1/20", lambda g: (g(1, 20), 0.05)),
    ("at step 20 it is 1", lambda g: (g(20, 20), 1.0)),
    ("at step 80 it is 1/2", lambda g: (g(80, 20), 0.5)),
    ("without a warm-up of more than 1 step, step 9 has 1/3", lambda g: (g(9, 1), 1 / 3)),
)


# %% tags=["solution", "hide-input"]
def inverse_root(step: int, warm_up: int) -> float:
    """Of the two, the rise is the smaller before step W, and the fall after it."""
    return min(step / warm_up, math.sqrt(warm_up / step))


# %% [markdown]
# ## 3.7 The benefits of scale
#
# Make the network larger, give it more data, train it longer: it gets better. That is no surprise. The surprise is
# how *regularly* it gets better. Over many factors of ten, the test loss follows simple curves, so that small models
# tell what a large one will reach before anybody pays for it. Such curves are called **scaling laws**. In this
# section we measure one on Shakespeare, predict a network larger than all that we measured, and then train it to see.
#
# Why should anybody care for curves? Because a large training is bought once. It takes months and cannot be repeated
# with another learning rate. Whoever orders it wants to know beforehand what it will reach, and how to divide the
# money between a larger network and more text.
#
# ### Counting operations
#
# The cost of a training is counted in FLOP, floating point operations: additions and multiplications. For most
# networks it needs only two numbers. Let $N$ be the number of weights, and $D$ the number of examples that it is
# trained on; for text, an example is a *token*, one more piece of text to predict. In the forward pass each weight is
# multiplied with something and the product added to a sum. That makes two operations for every weight and token,
# $2N$. The backward pass does that twice (section 3.4), once for the gradients of the activations and once for those
# of the weights: $4N$. Together, for $D$ tokens,
#
# $$C \approx 6\,N D.$$
#
# Our network guesses the next character from the eight before it. Each of the eight is looked up in a table of 16
# numbers for each of the 79 characters, learned like all the rest; a hidden layer mixes these 128 numbers, with a
# GELU, a smooth ReLU; an output layer gives 79 scores. As is usual, $N$ leaves out the table, in which nothing is
# multiplied, only looked up.

# %%
EMBEDDED, CHARACTERS = 8 * 16, 79


def network(hidden: int) -> nn.Module:
    """From eight characters (B, 8) to the scores (B, 79) of the next."""
    table = [nn.Embedding(CHARACTERS, 16), nn.Flatten()]
    layers = [nn.Linear(EMBEDDED, hidden), nn.GELU(), nn.Linear(hidden, CHARACTERS)]
    return nn.Sequential(*table, *layers).to(DEVICE)


def size(hidden: int) -> int:
    """The number N of weights of that network, without table and biases."""
    return EMBEDDED * hidden + hidden * CHARACTERS


# %% [markdown]
# PyTorch can count the operations of the matrix products that it really carries out. One step of training, on 500
# rows of nine characters:

# %%
text = shakespeare("train", DEVICE).codes.unfold(0, 9, 1)  # (T, 9): eight characters and the next


def next_character(model: nn.Module, text: Tensor) -> Tensor:
    """Cross-entropy of the last character of each row of text (B, 9), given the others."""
    return F.cross_entropy(model(text[:, :-1]), text[:, -1])


# %%
seed(0)
with FlopCounterMode(display=False) as counter:
    next_character(network(128), text[:500]).backward()
counted = counter.get_total_flops()
ratio = counted / (6 * size(128) * 500)
claim("FLOP of a training step over 6ND", ratio, at_least=0.98, at_most=1.02)

# %% [markdown]
# The formula leaves out what is not a matrix product with weights: biases, the GELU, the softmax, the step of the
# optimizer. In a Transformer it also leaves out the attention scores (section 4.8), two more matrix products in which
# no weights take part. For GPT-3, with 96 layers of width 12,288 that look back on up to 2,048 tokens, those are at
# most $2 \times 96 \times 2048 \times 12288$ multiply-adds beside the 175 billion of its weights: 2.8 %.
#
# Such formulas are rough on purpose. Nobody needs three digits of a bill that spans twenty powers of ten; what
# matters is that doubling the network doubles the bill, and so does doubling the text.
#
# The authors of GPT-3 computed their bill by this very formula, from 174.6 billion parameters and 300 billion tokens,
# as we can repeat. And from the bill follows the time, for any machine.

# %%
costs = training_costs()
stated = dict(zip(costs.models, costs.flop.tolist(), strict=True))
gpt3 = 6 * 174.6e9 * 300e9
ratio = gpt3 / stated["GPT-3"]
claim("6ND for GPT-3 over what its authors state", ratio, at_least=0.98, at_most=1.02)

# %%
machines = {"a laptop at 10^11": 1e11, "a GPU at 10^14": 1e14, "1,000 GPUs at 10^17": 1e17}
for machine, speed in machines.items():
    print(f"{machine} FLOP per second: {gpt3 / speed / 86400:,.0f} days")

# %% [markdown]
# ### A law for two numbers
#
# How should the test loss depend on $N$ and $D$? Kaplan and his colleagues tried this in 2020, on Transformers of a
# thousand to a billion weights:
#
# $$L(N, D) = \Big[ \Big(\frac{N_c}{N}\Big)^{\alpha_N / \alpha_D} + \frac{D_c}{D} \Big]^{\alpha_D}$$
#
# With endless data the second term is gone, and $L = (N_c / N)^{\alpha_N}$: a *power law*. Twice the size multiplies
# the loss by $2^{-\alpha_N}$, always, wherever one starts. To gain as much again, the size has to be doubled again:
# progress is steady, and each piece of it costs twice as much as the last. On paper with two logarithmic axes that is
# a straight line, of slope $-\alpha_N$. With an endless network, $L = (D_c / D)^{\alpha_D}$ is a power law in the
# data. The bracket joins the two so that whichever is scarcer decides: a large network on little text is held back by
# the text, a small one on much text by its size, and adding more of what is plentiful brings nothing. That is why
# both have to grow together.
#
# Below, $a$ and $b$ stand for the two terms at $N = 10^4$ and $D = 10^5$, so that all four parameters are handy
# numbers. To fit them we use section 1.1's blind search over the two exponents. Given those, $L^{1/\alpha_D}$ is a
# linear combination of two known functions, so $a$ and $b$ follow by least squares, with all points weighted so that
# *relative* errors count. (These few numbers are fitted on the CPU with 64 bits, on any machine.)


# %% tags=["export"]
def law(parameters: Tensor, N: Tensor, D: Tensor) -> Tensor:
    """Kaplan's L(N, D) for parameters (alpha_N, alpha_D, a, b), the last dimension of (..., 4)."""
    alpha_N, alpha_D, a, b = parameters[..., None].unbind(-2)  # (..., 1) each
    return (a * (1e4 / N) ** (alpha_N / alpha_D) + b * 1e5 / D) ** alpha_D  # (..., M)


# %% tags=["export"]
def fit_law(N: Tensor, D: Tensor, loss: Tensor) -> Tensor:
    """The parameters (4,) of the law that is nearest to the losses (M,), in relative terms."""
    range_N, range_D = torch.linspace(0.03, 0.25, 45), torch.linspace(0.1, 0.5, 41)
    exponents = torch.cartesian_prod(range_N, range_D).double()  # (K, 2)
    alpha_N, alpha_D = exponents.split(1, dim=1)  # (K, 1) each
    first = (1e4 / N) ** (alpha_N / alpha_D)  # (K, M)
    terms = torch.stack([first, (1e5 / D).expand_as(first)], dim=2)  # (K, M, 2)
    terms = terms / (loss ** (1 / alpha_D))[..., None]  # the law now asks for terms @ (a, b) = 1
    normal, target = terms.mT @ terms, terms.sum(1)[..., None]  # least squares with all targets 1
    ab = torch.linalg.solve(normal, target)[..., 0]  # (K, 2)
    parameters = torch.cat([exponents, ab.clamp(min=1e-9)], dim=1)  # (K, 4)
    return parameters[(law(parameters, N, D) / loss - 1).square().mean(1).argmin()]


# %% [markdown]
# A fit should find what we know to be there, or else we would not know whether a strange exponent is the networks' or
# the fit's. So we invent losses from a law with known exponents, and ask for them back.

# %%
known = torch.tensor([0.1, 0.25, 15.0, 7.0], dtype=torch.float64)
grid = torch.cartesian_prod(torch.logspace(3, 5, 5), torch.logspace(4, 6, 5))  # (25, 2)
N, D = grid.double().T  # (25,) each
found = fit_law(N, D, law(known, N, D))  # (4,)
claim("the fit finds the parameters of a law", found, equals=known, within=1e-3)

# %%
endless = torch.tensor(1e30)
halved = law(known, 2 * N, endless) / law(known, N, endless)  # (25,)
expected = torch.full_like(halved, 2**-0.1)
claim("endless data: twice the size is 2^-alpha of the loss", halved, equals=expected, within=1e-4)

# %% [markdown]
# ### Measuring it
#
# Five networks, from 8 to 128 hidden units, each read up to 400,000 characters of Shakespeare once, in the same
# random order. Between the smallest and the largest lies a factor of 16 in size, to which the network that we shall
# predict adds another two; the amounts of text span the same 32. We test at 25,000 characters and each time that the
# amount has doubled. As no row comes twice, $D$ is the size of the data set and the length of the training at once;
# that is also how large language models are trained. The schedule is that of section 3.6's exercise: it does not know
# when the training will end, so that every stop on the way is as good as an end, and one training of each network
# gives five points.
#
# Text comes out of `unfold` as rows of nine characters in a row, shifted by one from row to row; eight are the
# question, the ninth is the answer. The test losses are measured on the ends of the plays, which no network has seen.

# %%
shuffled = text[torch.randperm(len(text), generator=seed(0))[:800_000].to(DEVICE)]  # (800000, 9)
text_new = shakespeare("validation", DEVICE).codes.unfold(0, 9, 1)[::4]  # (27283, 9)


# %%
def learning_curve(hidden: int, stops: tuple[int, ...]) -> Tensor:
    """Test losses (len(stops),) of a network after so many characters."""
    seed(hidden)
    model = network(hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03, betas=(0.9, 0.99))
    share = lambda t: min((t + 1) / 20, (20 / (t + 1)) ** 0.5)  # noqa: E731 inverse_root of section 3.6
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    losses = []
    for first, last in pairwise((0, *stops)):
        data = batches(shuffled[first:last], size=500)
        fit(model, data, next_character, optimizer, schedule=rate, label=f"{hidden} units")
        with torch.no_grad():
            losses.append(next_character(model, text_new).item())
    return torch.tensor(losses, dtype=torch.float64)


# %%
UNITS, STOPS = (8, 16, 32, 64, 128), (25_000, 50_000, 100_000, 200_000, 400_000)
measured = torch.stack([learning_curve(hidden, STOPS) for hidden in UNITS])  # (5, 5)

# %% [markdown]
# Now the fit, and how far to trust it. Between the law and the 25 measured losses is some scatter. So we pretend a
# hundred times that the law is true, scatter its losses by as much, and fit again. The spread of the refitted
# parameters is their standard error. This is called a *bootstrap*: pulling oneself up by one's own straps, because
# the data that were fitted also have to tell how much the fit can be trusted.

# %%
N = torch.tensor([size(hidden) for hidden in UNITS for _ in STOPS]).double()  # (25,)
D = torch.tensor(STOPS * len(UNITS)).double()  # (25,)
fitted = fit_law(N, D, measured.flatten())  # (4,)

# %%
scatter = (measured.flatten() / law(fitted, N, D) - 1).square().mean().sqrt()
noise = 1 + scatter * torch.randn(100, 25, generator=seed(1), dtype=torch.float64)  # (100, 25)
refitted = torch.stack([fit_law(N, D, law(fitted, N, D) * wobble) for wobble in noise])  # (100, 4)

# %%
claim("typical distance of the law from 25 measured losses", scatter, at_most=0.025)
claim("alpha_N, the exponent of the size", fitted[0], at_least=0.07, at_most=0.13)

# %%
claim("standard error of alpha_N", refitted[:, 0].std(), at_most=0.015)
claim("alpha_D, the exponent of the data", fitted[1], at_least=0.15, at_most=0.4)

# %% [markdown]
# A law that describes the points it was fitted to is not much. The test is one that it has never seen, beyond all
# others: 256 hidden units, twice as many as the largest network, on 800,000 characters, twice as many as any read. It
# takes four times the compute of the largest training so far. Before we train it, we write down what the law says,
# and an interval: three standard deviations to either side, which the refits provide, together with the scatter of a
# single loss. A prediction without an interval could not fail, and so would say nothing. (The refits scatter all
# points independently, though five at a time lie on one training, so the interval is if anything too narrow.)

# %%
LARGEST = torch.tensor([size(256)]).double(), torch.tensor([800_000]).double()
single = 1 + scatter * torch.randn(100, generator=seed(2), dtype=torch.float64)  # (100,)
spread = (law(refitted, *LARGEST)[:, 0] * single).std()
predicted = law(fitted, *LARGEST).item()
interval = f"{predicted - 3 * spread:.3f} to {predicted + 3 * spread:.3f}"
note("nats that the largest network will reach", f"{predicted:.3f}, between {interval}")

# %% [markdown]
# And now train.

# %%
largest = learning_curve(256, (*STOPS, 800_000))  # (6,)
error = largest[-1].item() / predicted - 1
claim("the largest network's loss over the prediction, less 1", error, at_least=-0.04, at_most=0.04)

# %%
deviations = abs(predicted - largest[-1].item()) / spread
claim("its distance from the prediction, in standard deviations", deviations, at_most=3)

# %% [markdown]
# That is the point of scaling laws. The five networks that made the prediction cost together half as much as the one
# that was predicted. Those who train large language models predict them from networks at a thousandth of their cost.
#
# In the upper row of the figure are all our losses, against compute, data and size; blue dots went into the fit, red
# ones came after the prediction. Each line on the left is one network on its way through the text. A small one learns
# fast and flattens out; the larger ones overtake it one after the other, and the best that the law allows for each
# amount of compute is nearly a straight line. In the lower row are the laws of Kaplan et al. as they published them:
# $L = (8.8 \cdot 10^{13} / N)^{0.076}$, $L = (5.4 \cdot 10^{13} / D)^{0.095}$ and, with compute in petaflop-days of
# $8.64 \cdot 10^{19}$ FLOP, $L = (3.1 \cdot 10^8 / C)^{0.050}$. Their loss is in nats for each token, a piece of a
# word; ours for each character. Heights cannot be compared, slopes can. In the size ours is about 0.09, near theirs.
# In the data it is far steeper, between 0.2 and 0.3, perhaps because we count the first thousands of characters too,
# on which a network has hardly learned to spell.


# %%
def best_split(C: Tensor) -> tuple[Tensor, Tensor]:
    """For budgets C (M,): the best size N (M,) and the law's loss there (M,)."""
    sizes = torch.logspace(2.5, 6, 400, dtype=torch.float64)  # (400,)
    losses = law(fitted, sizes, C[:, None] / (6 * sizes))  # (M, 400)
    return sizes[losses.argmin(1)], losses.amin(1)


# %%
KAPLAN = {  # scale, exponent, and about the range that they tried
    "compute (petaflop-days)": (3.1e8, 0.050, (1e-6, 10)),
    "data (tokens)": (5.4e13, 0.095, (2.2e7, 2.3e10)),
    "size (parameters)": (8.8e13, 0.076, (1e3, 1.5e9)),
}
read = torch.tensor((*STOPS, 800_000)).double()  # (6,)
sizes = torch.tensor([size(hidden) for hidden in (*UNITS, 256)]).double()  # (6,)
budgets = torch.logspace(8, 12, 60, dtype=torch.float64)


# %%
def draw_measured(by_compute, by_data, by_size) -> None:
    """The upper row: what was measured, and the law."""
    for N, losses in zip(sizes, (*measured, largest), strict=True):
        shade = color.test if losses is largest else color.model
        by_compute.plot(6 * N * read[: len(losses)], losses, "-o", color=shade, lw=1, ms=3)
    by_compute.plot(budgets, best_split(budgets)[1], "--", color=color.gradient)
    two = zip(sizes[-2:], (measured[-1], largest), (color.model, color.test), strict=True)
    for N, losses, shade in two:
        by_data.plot(read[: len(losses)], losses, "o", color=shade, ms=4)
        by_data.plot(read, law(fitted, N, read), "--", color=color.gradient)
    by_size.plot(sizes[:-1], measured[:, -1], "o", color=color.model, ms=4)
    by_size.plot(sizes[-1:], largest[4:5], "o", color=color.test, ms=4)
    by_size.plot(sizes, law(fitted, sizes, read[4]), "--", color=color.gradient)
    for ax, x in ((by_compute, 6 * sizes[-1] * read[-1]), (by_data, read[-1])):
        ax.plot(x, largest[-1], "o", color=color.test, mfc="none", ms=11)


# %%
def draw_published(axes) -> None:
    """The lower row: the laws of Kaplan et al."""
    for ax, (name, (scale, exponent, ends)) in zip(axes, KAPLAN.items(), strict=True):
        x = torch.logspace(*(math.log10(end) for end in ends), 50)
        ax.plot(x, (scale / x) ** exponent, color="#777777")
        at = {"transform": ax.transAxes, "ha": "right", "color": "#777777"}
        ax.text(0.95, 0.85, f"exponent {exponent:.3f}", **at)
        ax.set(xlabel=name, xscale="log")


# %% tags=["figure-3.6"]
fig, axes = plt.subplots(2, 3, figsize=(8.5, 5), sharey="row")
draw_measured(*axes[0])
draw_published(axes[1])
for ax, name in zip(
    axes[0], ("compute (FLOP)", "data (characters)", "size (weights)"), strict=True
):
    ax.set(xlabel=name, xscale="log", ylim=(1.58, 2.95))
axes[0, 0].text(1.6e8, 1.72, "best for\neach budget", color=color.gradient, va="center")
words = {"128 units": (1, 0.88, color.model), "256 units": (1, 0.77, color.test)}
words |= {"400,000 characters": (2, 0.85, color.data)}
for name, (k, height, shade) in words.items():
    at = {"transform": axes[0, k].transAxes, "ha": "right", "color": shade}
    axes[0, k].text(0.95, height, name, **at)
axes[0, 0].set(title="Ours", ylabel="nats a character")
axes[1, 0].set(title="Kaplan et al. (2020)", ylabel="nats a token")
log_scale(axes[0, 0].yaxis, [1.6, 2, 2.5])
log_scale(axes[0, 1].xaxis, [25_000, 100_000, 400_000])
log_scale(axes[0, 2].xaxis, [2000, 10_000, 50_000])
axes[0, 1].set_xlim(2e4, 1.1e6)
log_scale(axes[1, 0].yaxis, [2, 3, 4, 6])
said = "Above, losses fall from about 2.8 to about 1.7 nats, near the dashed law, the predicted one too. "
said += "Below, three published power laws with exponents 0.050, 0.095 and 0.076."
caption = "Test loss against compute, data and size; ringed, the network that was predicted."
figure("3.6", caption, said, held="trained")

# %% [markdown]
# A budget can be spent on size or on data, $C = 6ND$. How best? Move the budget. The blue curve is the law for all
# sizes at that budget, each with the data that are left for it; dots are measured networks, at the point of their way
# where they had spent as much. Too small a network cannot use what it reads; too large a one has not read enough.
# Both sides of the valley are rather flat near the bottom: half or twice the best size costs little, which is a
# comfort for those who must guess it. Watch where the lowest point goes as the budget grows: a good part of the
# growth should go into size. By our law, the best size grows as $C$ to the power of
# $\alpha_D / (\alpha_N + \alpha_D)$. Kaplan et al. advised $C^{0.73}$, though from another law, in size and steps;
# their two exponents above, put into our formula, give $C^{0.56}$. A larger study, Chinchilla in 2022, found about
# $C^{0.5}$: as much more data as size. Such powers depend on the range in which one measures, and on details of the
# training, such as whether the schedule knows its end.

# %%
growth = fitted[1] / (fitted[0] + fitted[1])
claim("the best size grows as C to the power of", growth, at_least=0.6, at_most=0.85)
ratio = (best_split(budgets[-1:])[0] / best_split(budgets[:1])[0]).item()
by_grid = torch.tensor(math.log(ratio) / math.log(1e4))
claim("that power, from the exponents and by search", by_grid, equals=growth.float(), within=0.01)


# %%
def at(losses: list[float], D: float) -> float:
    """The loss after D characters, between the stops on a straight line in log D; nan outside of them."""
    k = math.log2(D / STOPS[0])
    if not 0 <= k <= len(losses) - 1:
        return math.nan
    left = min(int(k), len(losses) - 2)
    return losses[left] + (k - left) * (losses[left + 1] - losses[left])


# %%
def scene(fig):
    """A valley of loss against size at a fixed budget, with its lowest point marked and other valleys in grey."""
    ax = fig.subplots()
    grid = torch.logspace(2.8, 5.5, 120, dtype=torch.float64)  # (120,)
    for budget in torch.logspace(8.5, 11.5, 7, dtype=torch.float64):
        ax.plot(grid, law(fitted, grid, budget / (6 * grid)), color=color.quiet, lw=0.8)
    best = best_split(torch.logspace(8.5, 11.5, 20, dtype=torch.float64))
    ax.plot(*best, "--", color=color.gradient, lw=1)
    ax.set(xlabel="size $N$ (weights)", ylabel="nats a character", xlim=(700, 3e5), ylim=(1.6, 2.8))
    ax.text(1.6e5, 1.66, "best size", color=color.gradient)
    log_scale(ax.xaxis, [1000, 10_000, 100_000])
    (valley,) = ax.plot([], [], color=color.model)
    (dots,) = ax.plot([], [], "o", color=color.data, ms=6)
    (lowest,) = ax.plot([], [], "o", color=color.gradient, ms=9)
    curves = list(zip(sizes.tolist(), (*measured.tolist(), largest.tolist()), strict=True))

    def update(budget):
        valley.set_data(grid, law(fitted, grid, budget / (6 * grid)))
        places = [(N, at(losses, budget / (6 * N))) for N, losses in curves]
        dots.set_data([N for N, _ in places], [loss for _, loss in places])
        N, loss = best_split(torch.tensor([budget], dtype=torch.float64))
        lowest.set_data(N, loss)
        D = budget / (6 * N.item())
        best = f"{N.item():.0e} weights and {D:.0e} characters"
        return f"{budget:.0e} FLOP: best about {best}, for {loss.item():.1f} nats"

    return update


# %%
budget = slider(1e9, 1e11, 1e10, 0.1, log=True)
explore(scene, "3.7a", "One budget, on size or on data.", (7, 3.6), held="trained", budget=budget)

# %% [markdown]
# ### What others spent
#
# The figure collects what it cost to train 31 well-known models. Fourteen of the costs are stated in a paper, their
# own or a later one. Eight are $6ND$ from stated sizes and tokens. Four, of the early networks for images, are
# counted layer by layer. And five are the time on the hardware times its speed, of which we count 30 %, a common
# rate; these may be off by a factor of two. `training_costs().citations` has the source and the arithmetic for each.
#
# Through the 30 models since 2012 we draw a straight line, in logarithms: so many doublings a year. Its standard
# error comes from how far the models lie from it. (LeNet-5 of 1998, with $2.5 \cdot 10^{12}$ FLOP, is far below the
# frame, and five models in the crowd of 2022 and 2023 have no label.)

# %%
years, doublings = costs.years.double(), costs.flop.double().log2()  # (31,), (31,)
recent = years > 2012
line = torch.stack([torch.ones_like(years), years - 2018], dim=1)[recent]  # (30, 2)
w = torch.linalg.lstsq(line, doublings[recent]).solution  # (2,)
level, rate = w
variance = (doublings[recent] - line @ w).square().sum() / (len(line) - 2)
rate_error = (variance * torch.linalg.inv(line.mT @ line)[1, 1]).sqrt()
months, months_error = 12 / rate, 12 / rate**2 * rate_error

# %%
claim("months in which the cost of landmark models doubled", months, at_least=5, at_most=7)
claim("standard error of that, in months", months_error, at_least=0.3, at_most=0.9)

# %% [markdown]
# The error of a slope is the scatter around the line, divided by how widely the years are spread. For the doubling
# time, 12 months over the slope, it is carried over by the derivative, $12 / \text{slope}^2$.
#
# Six months, give or take half a month by the standard error: a factor of four a year, for twelve years. These are
# landmarks chosen by hand, mostly the largest of their time, so it is a statement about the front and not about what
# most people train. Machines did not become faster at that rate: it took more of them, for longer, and more money.
# Language models lead; vision grows more slowly.

# %%
LABELS = {  # name -> where its label goes
    "AlexNet": "above", "VGG-16": "left", "ResNet-152": "right", "GNMT": "left", "GPT": "right",
    "Transformer (base)": "right", "Transformer (big)": "right", "BERT-Large": "right",
    "T5-11B": "left", "OpenAI Five": "left", "GPT-3": "left", "ViT-H/14": "right",
    "AlphaFold 2": "right", "wav2vec 2.0 Large": "below", "CLIP ViT-L/14": "right",
    "DALL-E": "left", "PaLM": "left", "Stable Diffusion 1": "below", "SAM ViT-H": "right",
    "Stable Diffusion 3": "right", "ESM3 98B": "right", "Llama 3.1 405B": "left",
    "DeepSeek-V3": "right", "Chinchilla": "higher", "Gopher": "left",
}  # fmt: skip
PLACES = {
    "left": (-6, 0, "right"), "right": (6, 0, "left"), "higher": (5, 9, "left"),
    "above": (0, 11, "center"), "below": (0, -11, "center"),
}  # fmt: skip

# %% tags=["figure-3.7"]
fig, ax = plt.subplots(figsize=(8.5, 4.8))
domains = {"vision": color.truth, "language": color.model, "other": color.gradient}
for name, year, domain, flop in zip(costs.models, years, costs.domains, costs.flop, strict=True):
    ax.plot(year, flop, "o", color=domains[domain], ms=6)
    if name in LABELS:
        right, up, side = PLACES[LABELS[name]]
        place = {"xytext": (right, up), "textcoords": "offset points", "ha": side, "va": "center"}
        ax.annotate(name, (year, flop), fontsize=9, color=domains[domain], **place)
ends = torch.tensor([2012.0, 2025.2])
ax.plot(ends, 2 ** (level + rate * (ends - 2018)), color=color.quiet, lw=1, zorder=0)
for k, (name, shade) in enumerate(domains.items()):
    ax.text(2012.2, 10 ** (25.4 - 0.75 * k), name, color=shade, fontsize=13)
ax.set(yscale="log", xlim=(2011.8, 2026.3), ylim=(1e17, 1e26), ylabel="training cost (FLOP)")
said = f"30 models rise from 5e17 FLOP in 2012 to 4e25 in 2024, doubling every {months:.1f} months."
figure("3.7", "What it cost to train landmark models.", said)

# %% [markdown]
# Such trainings need data to match. The table lists well-known public collections. The samples of the texts are given
# in books, counted by the book's own rule: 250 pages of 2,000 characters, half a million bytes, make a book. By that
# rule The Pile, of 825 GB, is 1.65 million books. The Little Book prints 1.6 billion, and its other two numbers of
# books are about a thousand times too large as well; our table has what the rule gives, with the book's number beside
# it.

# %% tags=["table-3.1"]
print(f"{'name':14} {'year':>4} {'samples':>17} {'size':>8}   in the book")
for row in public_datasets():
    samples = f"{row.samples:,.0f} {row.unit}"
    line = f"{row.name:14} {row.year:4} {samples:>20} {row.size / 1e9:>8,.0f} GB"
    print(f"{line}   {row.samples_in_the_book}")

# %%
books = {row.name: row for row in public_datasets() if row.unit == "books"}
by_rule = torch.tensor([row.size / (250 * 2000) for row in books.values()])
listed = torch.tensor([row.samples for row in books.values()])
ratio = listed / by_rule  # (3,)
claim("books of the table over size by the rule", ratio, equals=torch.ones(3), within=0.01)

# %% [markdown]
# Nobody spends $10^{25}$ FLOP to solve one task. What is trained at that price is a **foundation model**: a network
# trained on broad data, once, from which many downstream tasks are then served, by fine-tuning (section 3.6) or by
# merely asking (chapter 8). The cost of the one training is then shared by all the tasks, as that of a foundation is
# shared by the rooms above. The best known are **Large Language Models**, trained to predict the next token of text:
# our network of 53,000 weights, with another architecture and several million times as large. To guess well what
# comes next, such a network has to pick up spelling, then grammar, then facts, then a good deal of what the text is
# about, all from one and the same loss. It is that loss which the scaling laws predict. What it will be good *for*
# they do not say. Some numbers:

# %%
parameters = dict(zip(costs.models, costs.parameters.tolist(), strict=True))
for name in ("GPT", "GPT-3", "Chinchilla", "Llama 3.1 405B"):
    N, tokens = parameters[name], stated[name] / (6 * parameters[name])
    said = f"{name:15} {N / 1e9:6.1f} billion weights, {2 * N / 1e9:5.1f} GB at 2 bytes each"
    print(f"{said}; {tokens / N:6.1f} tokens for each weight")

# %% [markdown]
# The third column follows from $D = C / 6N$. GPT-3 saw fewer than two tokens for each weight, as Kaplan's law
# advised; Chinchilla saw twenty, as two of its authors' three estimates advised, and was better with less than half
# of the weights. Llama 3.1 saw nearly forty: a smaller network that was trained for longer is cheaper for all who use
# it afterwards, and the law of the training's cost knows nothing of that. (GPT of 2018 saw its books a hundred times
# over, hence its large number.)
#
# ### Two processes, one training
#
# 405 billion weights of two bytes are 810 GB, more than any single GPU holds, and $4 \cdot 10^{25}$ FLOP would take
# one GPU 12,000 years. So trainings are spread over thousands. The simplest way is *data parallel*: every process has
# a copy of the network and takes its share of each batch. Each computes the gradient for its share. Then they
# exchange gradients and average them, an operation called *all-reduce*, after which all have the same one and take
# the same step. The copies never differ, although nobody ever sends weights around: they start alike and are changed
# alike.
#
# Why is the average right? The loss is a mean over the batch, so its gradient is a mean of gradients (equation 3.2),
# and the mean of two means over equal halves is the mean of all. With the squared error of $w x$ at four points, in
# small numbers:

# %%
w = torch.tensor(1.0, requires_grad=True)
x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 5.0, 9.0])
shares = [torch.autograd.grad(F.mse_loss(w * x[k::2], y[k::2]), w)[0] for k in range(2)]
(whole,) = torch.autograd.grad(F.mse_loss(w * x, y), w)
print(f"gradients of the two shares {shares[0]:.1f} and {shares[1]:.1f}, of the batch {whole:.1f}")
mean = sum(shares) / 2
claim("the mean of the shares' gradients is the batch's", mean, equals=whole, within=1e-6)

# %% [markdown]
# `fit` does this when it finds itself in a team. The script below trains a classifier of penguins. It does not
# mention processes, except that each saves its final parameters under its number, its *rank*. In a team, `fit` takes
# every second example of each batch for the one process and the rest for the other. The last batch of an epoch has
# only two birds here, one for each.

# %%
SCRIPT = """
import os, sys, torch
from torch import nn
from torch.nn import functional as F
from lbdl import batches, fit
from lbdl.data import penguins

birds = penguins("train")
x = birds.measured.double()
x = (x - x.mean(0)) / x.std(0)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)).double()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loss = lambda model, x, y: F.cross_entropy(model(x), y)
history = fit(model, batches(x, birds.species, size=50), loss, optimizer, epochs=10)
parameters = nn.utils.parameters_to_vector(model.parameters()).detach()
if "RANK" in os.environ:
    torch.save(parameters, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
"""

# %% [markdown]
# `torchrun`, here called by its long name, starts it twice and tells each process its rank and where to meet the
# others. The meeting place is this machine, 127.0.0.1, so no network is needed. On a cluster it would be the address
# of one of its machines, and the script would be the same. We run the script both ways, in two processes and in this
# one. The numbers are of 64 bits, so that the only difference left, the order in which gradients are added, shows up
# in the sixteenth digit and not in the seventh.


# %%
def run_in_team(script: Path, processes: int) -> list[Tensor]:
    """The parameters with which each process of a team ends."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    meet = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    settings = {"LBDL_DEVICE": "cpu", "LBDL_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "--nnodes=1", *meet, str(script), str(script.parent)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    saved = [script.parent / f"{rank}.pt" for rank in range(processes)]
    return [torch.load(file, weights_only=True) for file in saved]


# %%
with tempfile.TemporaryDirectory() as folder:
    script = Path(folder) / "train.py"
    script.write_text(SCRIPT)
    first, second = run_in_team(script, processes=2)
    alone = runpy.run_path(str(script))

# %%
claim("both processes end with the same parameters", first, equals=second)
claim("two processes end where one does", first, equals=alone["parameters"], within=1e-9)

# %%
epochs = alone["history"].epochs
claim(
    "the team's script: loss of the last epoch over the first", epochs[-1] / epochs[0], at_most=0.3
)

# %% [markdown]
# What does it cost? Every step, every process sends and receives about two numbers for each weight. For a billion
# weights in four bytes that is 8 GB a step. It pays when computing the gradient takes longer than that, which is a
# matter of large batches and fast cables, and not of mathematics. When the weights do not fit into one GPU, layers or
# single matrices are split too; the sums are the same.
#
# **Exercise.** Chinchilla's law has another form: $L(N, D) = E + A N^{-\alpha} + B D^{-\beta}$. What is the best size
# for a budget $C = 6ND$? Put $D = C / 6N$ into it, set the derivative with respect to $N$ to zero, and solve. With
# their numbers, $A = 406.4$, $B = 410.7$, $\alpha = 0.34$, $\beta = 0.28$, and $E = 1.69$, you can then see what the
# law says about Chinchilla's own budget. (It says 32 billion weights, not the 70 that were trained: of the paper's
# three estimates this one favours data most.)


# %% tags=["exercise"]
def best_size(C: float, A: float, B: float, alpha: float, beta: float) -> float:
    """The N that minimizes A / N^alpha + B / D^beta, where 6 N D = C."""
    raise NotImplementedError


def is_lowest(N: float, C: float, A: float, B: float, alpha: float, beta: float) -> bool:
    """Whether a size 1 % larger or smaller is worse than N."""
    losses = [A / n**alpha + B / (C / (6 * n)) ** beta for n in (0.99 * N, N, 1.01 * N)]
    return losses[1] < min(losses[0], losses[2])


theirs = (5.76e23, 406.4, 410.7, 0.34, 0.28)
check(
    best_size,
    (
        "where all is symmetric, N = D, so C = 600 gives 10",
        lambda g: (g(600.0, 1.0, 1.0, 0.5, 0.5), 10.0),
    ),
    ("A = 4 B with exponents 1/2: four times that", lambda g: (g(600.0, 4.0, 1.0, 0.5, 0.5), 40.0)),
    (
        "exponents 1 and 1/2, A = B = 1, C = 6 give 2^(2/3)",
        lambda g: (g(6.0, 1.0, 1.0, 1.0, 0.5), 2 ** (2 / 3)),
    ),
    (
        "with Chinchilla's numbers, sizes beside it are worse",
        lambda g: is_lowest(g(*theirs), *theirs),
    ),
)


# %% tags=["solution", "hide-input"]
def best_size(C: float, A: float, B: float, alpha: float, beta: float) -> float:
    """alpha A N^-alpha = beta B (6 N / C)^beta: what either term would gain is the same."""
    return (alpha * A / (beta * B) * (C / 6) ** beta) ** (1 / (alpha + beta))


# %% [markdown]
# ## What was measured
#
# Every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

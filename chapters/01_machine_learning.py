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
# # 1 Machine Learning
#
# A program is usually written by someone who knows the rule. Here the rule is not written but *found*: we state
# what a good rule would achieve on examples, and let the computer search. This chapter does so in a few lines at
# a time. It weighs penguins, bends a curve through points, finds out when to distrust a perfect fit, and reads
# handwritten digits.
#
# Run the cells below up to the first section, then any section: each stands on its own. Figures with plain
# numbers show what the book's figures of that number show; those with a letter, like 1.1a, are ours. Pictures
# with sliders move once you have run their cell. Each section ends with an exercise: a function to complete, an
# answer to your attempt at once, and a solution folded away below it.
#
# A line such as "✓ accuracy: at least 0.9" is a **claim**. Were it false, its cell would have stopped with an
# error. The last cell of the chapter gathers them all, with what your machine got. One of each section that
# surprised us, with what ours got:
#
# | section | claim | here |
# |---|---|---|
# | 1.1 Learning from data | mass of penguins never seen, typical error in kg | 0.37 |
# | 1.2 Basis function regression | share of a digit that 14 x 14 bumps explain | 0.95 |
# | 1.3 Under and overfitting | error of 1000 slow waves, as a multiple of the best | 1.3 |
# | 1.4 Categories of models | regression used as a classifier: accuracy on digits never seen | 0.84 |

# %% tags=["export"]
import math

import matplotlib.pyplot as plt
import torch
from lbdl import batches, check, claim, claims_made, color, device, explore, figure, fit
from lbdl import log_scale, seed, slider
from lbdl.data import PENGUINS, mnist, penguins
from torch import Tensor, nn
from torch.nn import functional as F

# %% [markdown]
# The libraries: PyTorch computes, matplotlib draws, and `lbdl` is this companion's own small module for what is
# not itself the subject: figures, sliders, claims, data. `DEVICE` is where the numbers live, on a GPU if you have
# one; for drawing, `.cpu()` brings them back. And all numbers of this chapter have 64 bits, so that two ways to
# compute the same thing agree to ten digits and more. That costs nothing here; chapter 2 explains why larger
# models cannot afford it.

# %%
DEVICE = device(needs=torch.float64)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## 1.1 Learning from data
#
# How heavy is a penguin whose flipper is 21 cm long? No law of physics says. But at Palmer Station in Antarctica
# people have caught hundreds of penguins and measured both, and from such pairs a rule can be found. A rule of
# this kind is a **model**: a function $f$ that takes a signal $x$, here the length of a flipper, and gives a
# prediction $\hat y = f(x)$, here the mass. The mass that was really measured, $y$, is the **ground truth**. The
# pairs $(x_n, y_n)$ that we learn from are the **training set**.
#
# We measure the flipper from 20 cm on, so that $x = 0$ is an ordinary bird. This changes no prediction, but makes
# the first weight below readable: the mass at 20 cm means something, the mass at 0 cm does not.

# %%
measured = penguins("train", DEVICE).measured.double()  # (N, 4)
x = measured[:, 2] / 10 - 20  # (N,) flipper length in cm, from 20 cm on
y = measured[:, 3] / 1000  # (N,) body mass in kg
print(f"{len(x)} penguins; the first has a flipper of {x[0] + 20:.1f} cm and weighs {y[0]:.2f} kg")

# %% [markdown]
# There are far too many functions to look at all of them. A **parametric model** $f(x; w)$ is a whole family of
# functions that share one recipe; the numbers $w$ single one of them out. They are called **trainable
# parameters**, or **weights**, since it is training that will set them. Our recipe is a straight line with two
# weights, $f(x; w) = w_0 + w_1 x$: the mass at 20 cm in kg, and the gain in kg for each cm.
#
# The function below takes one pair of weights, of shape (2,), or a list of many pairs, of shape (M, 2), and gives
# the predictions for all N penguins: (N,) or (M, N). The comment at the end of a line says so, as it will
# throughout; three dots stand for "M or nothing". The colon in `:1` keeps a dimension of size one, which PyTorch
# then stretches along the penguins.


# %%
def f(x: Tensor, w: Tensor) -> Tensor:
    """The line w_0 + w_1 x for weights (..., 2) at points (N,)."""
    return w[..., :1] + w[..., 1:] * x  # (..., N)


# %% [markdown]
# Which weights are good? A **loss** $\mathscr{L}(w)$ answers with a number, small when the predictions are close
# to the ground truth and large when they are not. We square the difference between prediction and truth for each
# penguin and take the mean. Squares cannot cancel: misses of 1 kg and −1 kg average to nothing, their squares to
# 1. And one miss of 2 kg costs as much as four of 1 kg. The unit becomes kg², and the root of the loss is a
# typical error in kg.


# %%
def loss(w: Tensor) -> Tensor:
    """Mean squared error in kg² on the training set, for weights (..., 2)."""
    return (y - f(x, w)).square().mean(-1)  # (...)


# %% [markdown]
# Three guesses. That all penguins weigh 4.2 kg is one; that each cm of flipper brings a whole kg is another; the
# third lies in between, and its loss is about a quarter of theirs.

# %%
guesses = torch.tensor([[4.2, 0.0], [4.2, 1.0], [4.2, 0.5]], device=DEVICE)  # (3, 2)
for w, value in zip(guesses, loss(guesses), strict=True):
    print(f"{w[0]:.1f} kg, and {w[1]:.1f} kg for each cm: loss {value:.4f} kg²")

# %% [markdown]
# **Training** is the search for the weights with the smallest loss, $w^* = \operatorname{argmin}_w
# \mathscr{L}(w)$. With two weights it needs no cleverness at all. Start anywhere. Try 21 values of each weight
# around, 441 pairs; go to the best; and when none is better than where you are, search a square that is four
# times smaller.


# %%
def search(loss, start: Tensor, radius: float = 0.4, rounds: int = 30) -> Tensor:
    """All places (rounds + 1, 2) that a blind search for the smallest loss visits."""
    steps = torch.linspace(-1, 1, 21, device=start.device)
    offsets = torch.cartesian_prod(steps, steps)  # (441, 2); the middle one is no step at all
    trail = [start]
    for _ in range(rounds):
        around = trail[-1] + radius * offsets  # (441, 2)
        trail.append(around[loss(around).argmin()])
        radius = radius / 4 if torch.equal(trail[-1], trail[-2]) else radius
    return torch.stack(trail)


# %%
trail = search(loss, start=torch.tensor([3.0, -0.5], device=DEVICE))
best = trail[-1]
print(f"w* = ({best[0]:.4f} kg, {best[1]:.4f} kg/cm), with loss {loss(best):.4f} kg²")

# %% [markdown]
# That is **machine learning** in full: examples, a family of functions, a loss, a search. The rest of the book
# makes the family richer and the search faster, and the search is what must change most: with three weights the
# same grid has 9,261 candidates, with ten it has 17 million million, and a network has millions of weights.
#
# The question at the top now has an answer. A flipper of 21 cm is one centimetre above our origin, and the line
# says 4.17 + 0.51, about 4.7 kg.
#
# For a line and this loss the minimum can also be computed directly; section 1.2 shows how, and PyTorch has it
# ready. A first column of ones makes $w_0$ a factor like any other. The blind search must have arrived at the
# same place.

# %%
line = torch.stack([torch.ones_like(x), x], dim=1)  # (N, 2) so that line @ w is f(x; w)
exact = torch.linalg.lstsq(line, y).solution  # (2,)
claim("the search ends at the least-squares line", best, equals=exact, within=1e-5)

# %% [markdown]
# Now you are the search. On the left each penguin is a dot, your line is blue, and the orange bars are the errors
# whose squares the loss averages. On the right each *line* is a dot: the plane of all pairs of weights, dark
# where the loss is small, with the path of the search in white and your line as the pink dot. Learning is a walk
# on the right that makes the picture on the left come out well. Move the two weights and get as near to $w^*$ as
# you can. The rings are drawn at equal steps of the typical error, the root of the loss: they tell what a wrong
# weight costs.

# %%
w0, w1 = torch.linspace(2.4, 6, 90), torch.linspace(-0.9, 1.6, 90)
surface = loss(torch.cartesian_prod(w0, w1).to(DEVICE)).reshape(90, 90).T.cpu()  # (90, 90)


# %%
def scene(fig):
    """Left, a cloud of penguins that rises, and a line. Right, a bowl of losses with its lowest point."""
    left, right = fig.subplots(1, 2)
    length, mass = (x + 20).cpu(), y.cpu()
    errors = left.vlines(length, mass, mass, color=color.gradient, lw=0.8)
    left.scatter(length, mass, s=8, color=color.data)
    (model,) = left.plot([], [], color=color.model)
    left.set(xlabel="flipper length (cm)", ylabel="body mass (kg)", ylim=(2.4, 6.6))
    right.contourf(w0, w1, surface.sqrt(), levels=16, cmap="Blues_r")
    right.plot(*trail.T.cpu(), "-o", color="white", lw=1, ms=3)
    for name, place in (("start", trail[0]), ("w*", best)):
        right.annotate(name, place.cpu(), (7, -11), textcoords="offset points", color="white")
    (here,) = right.plot([], [], "o", color=color.weights, ms=9)
    right.set(xlabel="$w_0$ (kg at 20 cm)", ylabel="$w_1$ (kg for each cm)")

    def update(mass_at_20_cm, kg_per_cm):
        w = torch.tensor([mass_at_20_cm, kg_per_cm])
        said = f(length - 20, w)  # (N,)
        bars = torch.stack([length, mass, length, said], dim=1)  # (N, 4)
        errors.set_segments(bars.reshape(-1, 2, 2).numpy())
        model.set_data([17.6, 23.1], f(torch.tensor([-2.4, 3.1]), w))
        here.set_data([mass_at_20_cm], [kg_per_cm])
        value = (mass - said).square().mean()
        return f"loss {value:.3f} kg²; the search reached {loss(best):.3f} kg²"

    return update


# %% [markdown]
# A *scene* like this one first draws what stays, then returns a function that moves the rest. There is one before
# every picture with sliders. Change it if you like: run its cell and the next one again.

# %%
weights = {"mass_at_20_cm": slider(2.5, 5.9, 3.5, 0.02), "kg_per_cm": slider(-0.8, 1.5, 0.2, 0.02)}
explore(scene, "1.1a", "A line through penguins, and the loss of every line.", (8, 3.5), **weights)

# %% [markdown]
# A model is not made to repeat its training set. What counts is a penguin that nobody has weighed yet, and the
# way to find out is to hold some back. On 70 birds that had no part in the training the typical error is 0.37 kg;
# on the training set, the root of the loss above, it is 0.40 kg. With so few birds chance alone moves such a
# number by some hundredths. What matters is that the two are alike: two weights are too few to learn two hundred
# birds by heart.

# %%
held_back = penguins("test", DEVICE).measured.double()  # (70, 4)
predicted = f(held_back[:, 2] / 10 - 20, best)  # (70,)
error = (held_back[:, 3] / 1000 - predicted).square().mean().sqrt()
claim("mass of penguins never seen, typical error in kg", error, at_most=0.45)

# %% [markdown]
# What did *we* decide, before any search? That the family would be the polynomials of degree 1, the straight
# lines; degree 3 would have been another choice. And that the search would try 21 values of each weight. Numbers
# like these, which describe the family or the search and are not found by training, are **hyper-parameters**.
#
# Could the training choose the degree as well? Fit polynomials of growing degree, and look at the loss on the
# training set beside the loss on 70 other birds. (These are not the 70 birds of the last test. Whoever chooses by
# some birds has used them, and their loss is then a little too good. So there are three sets: to train, to
# choose, and to judge at the end.)

# %%
others = penguins("validation", DEVICE).measured.double()  # (70, 4)
x_other, y_other = others[:, 2] / 10 - 20, others[:, 3] / 1000  # (70,), (70,)
for degree in (0, 1, 2, 4, 8, 14):
    powers = torch.arange(degree + 1, device=DEVICE)
    w = torch.linalg.lstsq(x[:, None] ** powers, y).solution  # (degree + 1,)
    training = (x[:, None] ** powers @ w - y).square().mean()
    other = (x_other[:, None] ** powers @ w - y_other).square().mean()
    print(f"degree {degree:2d}, {degree + 1:2d} weights: {training:.4f}, on others {other:.4f}")

# %% [markdown]
# Polynomials of a higher degree contain those of all lower ones, so the training loss cannot rise: training would
# always ask for more. On the other birds it falls at first, then hardly changes, then rises sharply. A
# hyper-parameter must be judged by data that the training has not seen. Why this is so, section 1.3 takes apart.
#
# **Exercise.** The simplest family of all has one weight and ignores its input: $f(x; w) = w$. Which $w$ has the
# smallest mean squared error? Write the function that finds it, from the ground truth alone.


# %% tags=["exercise"]
def best_constant(y: Tensor) -> Tensor:
    """The w, a tensor of one element, with the smallest mean of (y - w)² for y (N,)."""
    raise NotImplementedError


birds, more = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 1.0, 1.0, 5.0, 7.0])
check(
    best_constant,
    ("the best w for the masses 1, 2 and 6 is 3", lambda g: (g(birds), torch.tensor(3.0))),
    ("the best w for 1, 1, 1, 5 and 7 is 3 as well", lambda g: (g(more), torch.tensor(3.0))),
)


# %% tags=["solution", "hide-input"]
def best_constant(y: Tensor) -> Tensor:
    """The derivative of the loss, 2 (w - mean of y), is 0 where w is the mean."""
    return y.mean()


# %% [markdown]
# ## 1.2 Basis function regression
#
# A line cannot follow a curve. But take $K$ simple functions $f_1, \dots, f_K$, fixed once and for all, and let
# the weights only say how much of each goes into the mix:
#
# $$f(x; w) = \sum_{k=1}^{K} w_k\, f_k(x)$$
#
# This is **basis function regression**, and the mix is called a **linear combination**. As a function of $x$ it
# can bend, as far as its ingredients do. As a function of $w$ it is as simple as can be: each weight is
# multiplied by a number, and the products are added. The first gives it power, the second lets us solve it
# exactly.
#
# To see what is going on we need a case where we know the truth. Ours is a wave that swings faster and faster.
# The data lie on it, give or take some noise: one point, at random, in each of `count` equal parts of the
# interval from 0 to 1.


# %% tags=["export"]
def truth(x: Tensor) -> Tensor:
    """The ground truth of the example, for x (...) from 0 to 1: a wave that speeds up."""
    return torch.sin(2 * math.pi * (x / 2 + x**2))


# %% tags=["export"]
def sample(count: int, noise: float, generator: torch.Generator, draws: tuple = ()):
    """Noisy points of the truth: x and y, each (*draws, count), float64, on the CPU."""
    inside = torch.rand(*draws, count, generator=generator, dtype=torch.float64)
    x = (torch.arange(count) + inside) / count  # (*draws, count)
    error = torch.randn(*draws, count, generator=generator, dtype=torch.float64)
    return x, truth(x) + noise * error


# %% [markdown]
# Our basis functions are Gaussian bumps, $f_k(x) = e^{-(x - c_k)^2 / 2 s^2}$: bump $k$ is 1 at its centre $c_k$,
# and has fallen to 0.61 one width $s$ away. All have the same width and stand side by side. Evaluated at all the
# points they fill a matrix $\Phi$, one row for each point and one column for each bump: $\Phi_{n,k} = f_k(x_n)$.
# The product of a matrix with a list of weights, written `Phi @ w`, multiplies each row with the weights and adds
# up. That is the sum above, for all points at once.


# %% tags=["export"]
def gaussian_basis(x: Tensor, count: int, width: float) -> Tensor:
    """Gaussian bumps in the middle of `count` equal parts of [0, 1], at x (...): (..., count)."""
    centres = (torch.arange(count, dtype=x.dtype, device=x.device) + 0.5) / count  # (K,)
    return torch.exp(-((x[..., None] - centres) ** 2) / (2 * width**2))  # (..., K)


# %%
x, y = (t.to(DEVICE) for t in sample(30, noise=0.1, generator=seed(1)))  # (N,), (N,)
N, K, WIDTH = len(x), 8, 0.08
Phi = gaussian_basis(x, K, WIDTH)  # (N, K)
first = ", ".join(f"{value:.4f}" for value in Phi[0, :3])
print(f"{N} x {K} values; at the first point the bumps 1, 2 and 3 are {first}")

# %% [markdown]
# As in section 1.1, the loss is the **mean squared error** over the training set. It is equation (1.1) of the
# book:
#
# $$\mathscr{L}(w) = \frac{1}{N} \sum_{n=1}^{N} \big(y_n - f(x_n; w)\big)^2$$
#
# Here it is first word for word, the sum over points as a loop and the sum over bumps inside it, then in one line
# of tensors. Both must agree with each other and with PyTorch's own, for any weights; so we take random ones.

# %% tags=["equation-1.1"]
w = torch.randn(K, generator=seed(2)).to(DEVICE)  # (K,)
word_for_word = 0.0
for n in range(N):
    prediction = sum(w[k] * Phi[n, k] for k in range(K))
    word_for_word = word_for_word + (y[n] - prediction) ** 2 / N
in_tensors = (y - Phi @ w).square().mean()

# %%
claim("equation 1.1, by loops and by tensors", word_for_word, equals=in_tensors, within=1e-12)
claim("equation 1.1 and torch's mse_loss", in_tensors, equals=F.mse_loss(Phi @ w, y), within=1e-12)

# %% [markdown]
# Now the minimum. Drawn over the weights, as in figure 1.1a, this loss is a bowl, and at the bottom of a bowl the
# slope is zero in every direction. For one weight this is school algebra. The derivative of $(y_n - f(x_n; w))^2$
# with respect to $w_k$ is $-2\,(y_n - f(x_n; w))\, f_k(x_n)$, since $w_k$ multiplies $f_k(x_n)$ only. The mean
# over $n$ is the slope for that weight; the $K$ slopes together are $-\frac{2}{N}\, \Phi^\top (y - \Phi w)$,
# where $\Phi^\top$ (`Phi.mT`) is the matrix with rows and columns exchanged. Setting them to zero leaves $K$
# linear equations for the $K$ weights,
#
# $$\Phi^\top \Phi\, w^* = \Phi^\top y,$$
#
# and for those there are solvers, as long as no bump is a mixture of the others at our points. No search, no
# steps: one line.


# %% tags=["export"]
def least_squares(Phi: Tensor, y: Tensor) -> Tensor:
    """The w (K,) that minimizes |y - Phi w|², for Phi (N, K) with N >= K and y (N,)."""
    return torch.linalg.solve(Phi.mT @ Phi, Phi.mT @ y)


# %%
w_star = least_squares(Phi, y)  # (K,)
by_torch = torch.linalg.lstsq(Phi, y).solution
claim("closed form and torch.linalg.lstsq", w_star, equals=by_torch, within=1e-9)

# %% [markdown]
# Is it really flat down there? PyTorch keeps track of a computation if we ask it to (`requires_grad_`), and can
# then go back through it to find all slopes (`backward`, which leaves them in `.grad`). Chapter 3 builds that
# machinery. Here it tells us the slope of the loss at $w^*$.

# %%
at_bottom = w_star.clone().requires_grad_()  # (K,)
F.mse_loss(Phi @ at_bottom, y).backward()
claim("the slope at w* is zero", at_bottom.grad, equals=torch.zeros_like(w_star), within=1e-12)

# %% [markdown]
# Hardly any other model of this book has a closed form. All those are trained by walking downhill: compute the
# slope, take a small step against it, repeat. For our bowl, which has a single lowest point, both ways must end
# there.
#
# How large may a step be? The bowl bends more in some directions than in others. The strongest bend is the
# largest eigenvalue of the matrix of second derivatives, $\frac{2}{N} \Phi^\top \Phi$, and a step of one over it
# never overshoots. In gentler directions it takes its time; a thousand steps are enough for all.

# %%
curvature = torch.linalg.eigvalsh(2 / N * Phi.mT @ Phi).max()
w = torch.zeros(K, device=DEVICE)
for _ in range(1000):
    slope = -2 / N * Phi.mT @ (y - Phi @ w)  # (K,)
    w = w - slope / curvature
claim("gradient descent and closed form", w, equals=w_star, within=1e-9)

# %% [markdown]
# The figure takes the solution apart. Below, each bump is multiplied by its weight, which turns some of them
# upside down. Above, their sum, point by point, is the fit (blue); the truth, which the model never sees, is
# green.
#
# Both the number of bumps and their width are hyper-parameters. Very narrow bumps leave empty stretches between
# their centres, where the fit is zero. Very wide ones overlap so much that they are nearly copies of each other:
# their weights grow to thousands, of both signs, and almost cancel. The curve still looks good, but digits are
# lost, and with many wide bumps all of them. For the last experiment take 24 bumps and 10 points: the fit then
# passes through every point, and what it does in between is the subject of section 1.3. (Equations with more
# unknowns than points have many solutions; `lstsq` with the driver `gelsd` picks the one with the smallest
# weights.)

# %%
grid = torch.linspace(0, 1, 300)


def scene(fig):
    """Above, points on a wave and a fit through them. Below, the bumps whose sum is the fit."""
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    top.plot(grid, truth(grid), color=color.truth, lw=1)
    (model,) = top.plot([], [], color=color.model)
    dots = top.scatter([], [], s=14, color=color.data)
    mixed = bottom.vlines([], 0, 0, color=color.weights, lw=1)  # curves, as soon as it gets some
    top.set(xlim=(-0.01, 1.01), ylim=(-1.9, 1.9), ylabel="sum, and data")
    bottom.set(xlim=(-0.01, 1.01), ylim=(-2, 2), xlabel="$x$", ylabel="weights × bumps")

    def update(bumps, width, points, noise):
        x, y = sample(points, noise, torch.Generator().manual_seed(1))  # (N,), (N,)
        Phi = gaussian_basis(x, bumps, width)  # (N, K)
        w = torch.linalg.lstsq(Phi, y, driver="gelsd").solution  # (K,), also where K > N
        parts = gaussian_basis(grid, bumps, width) * w  # (300, K)
        model.set_data(grid, parts.sum(1))
        dots.set_offsets(torch.stack([x, y], dim=1))
        drawn = parts.where(parts.abs() > 0.01, math.nan)  # (300, K) without tails on the axis
        mixed.set_segments([torch.stack([grid, part], dim=1).numpy() for part in drawn.T])
        error = (y - Phi @ w).square().mean().sqrt()
        return f"typical error on the points {error:.3f}, largest weight {w.abs().max():.3g}"

    return update


# %% tags=["figure-1.1"]
basis = {"bumps": slider(1, 24, 8), "width": slider(0.01, 0.3, 0.08)}
data = {"points": slider(5, 80, 30), "noise": slider(0.0, 0.6, 0.1)}
explore(scene, "1.1", "Bumps times weights (below) add up to a fit.", (7, 3.8), **basis, **data)

# %% [markdown]
# Nothing in the recipe asks for $x$ to be a single number. An image is a function too: it maps a position, row
# $r$ and column $c$, to the amount of ink there. A bump over the image is a bump in the row times a bump in the
# column, $f_{jk}(r, c) = f_j(r)\, f_k(c)$; `einsum` below says just that, with the same letters. And the same
# closed form then describes the 784 pixels of a real handwritten digit by fewer weights.


# %%
def image_basis(bumps: int) -> Tensor:
    """bumps x bumps Gaussian bumps, over the 28 x 28 pixels of an image: (784, bumps²)."""
    pixels = (torch.arange(28, device=DEVICE) + 0.5) / 28
    side = gaussian_basis(pixels, bumps, 0.7 / bumps)  # (28, K)
    return torch.einsum("rj,ck->rcjk", side, side).reshape(784, bumps**2)  # (784, K²)


# %%
ink = mnist("train", DEVICE)[0][2].double().flatten()  # (784,)
fits = {K: image_basis(K) @ least_squares(image_basis(K), ink) for K in (4, 7, 14)}
shares = {K: 1 - (ink - image).var() / ink.var() for K, image in fits.items()}

# %% [markdown]
# How well? Compare what the fit leaves over with what there was. The pixels differ from each other by some
# variance; the share of it that is gone when the fit is subtracted is said to be *explained*. With 196 weights, a
# quarter of the number of pixels, the digit is nearly complete; with 16 it is a cloud. The grey specks around it
# are the price of smooth bumps at a sharp edge, where their sum swings a little past zero.

# %%
claim("share of a digit that 14 x 14 bumps explain", shares[14], at_least=0.9)

# %%
fig, axes = plt.subplots(1, 4, figsize=(8, 2.75))
for ax, (K, image) in zip(axes, [*fits.items(), (28, ink)], strict=True):
    ax.imshow(1 - image.reshape(28, 28).cpu(), vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=f"{K} × {K} bumps" if K < 28 else "the digit itself")
    ax.set_xlabel(f"{shares[K]:.0%} explained" if K < 28 else "784 pixels")
    ax.spines[:].set_visible(False)
said = ", ".join(f"{K} by {K} bumps explain {share:.3f}" for K, share in shares.items())
figure("1.2a", "Basis function regression of an image.", f"A digit, from a blur to sharp: {said}.")

# %% [markdown]
# **Exercise.** Some measurements deserve more trust than others. Let point $n$ count $c_n$ times, so that the
# loss is $\sum_n c_n \big(y_n - f(x_n; w)\big)^2$. Find the closed form for its minimum: take the derivative for
# one weight as above, and see where the $c_n$ end up.


# %% tags=["exercise"]
def weighted_least_squares(Phi: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """The w (K,) that minimizes the sum of c (y - Phi w)², for Phi (N, K), y (N,) and c (N,)."""
    raise NotImplementedError


once, often = torch.ones_like(y), torch.arange(1, N + 1, device=DEVICE)  # (N,), (N,)
copied = least_squares(Phi.repeat_interleave(often, dim=0), y.repeat_interleave(often))  # (K,)
check(
    weighted_least_squares,
    ("where every point counts once, it is least_squares", lambda g: (g(Phi, y, once), w_star)),
    ("to count 3 times is to be there 3 times", lambda g: (g(Phi, y, often.double()), copied)),
)


# %% tags=["solution", "hide-input"]
def weighted_least_squares(Phi: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """c_n goes with both terms of point n: Phi' C Phi w = Phi' C y, with the c on the diagonal of C."""
    return torch.linalg.solve(Phi.mT @ (c[:, None] * Phi), Phi.mT @ (c * y))


# %% [markdown]
# ## 1.3 Under and overfitting
#
# A model that reproduces its training set has shown that it has a memory, not that it has understood. Two things
# can go wrong. If the family is too poor to follow the truth, the fit is bad everywhere, on the training points
# as well: **underfitting**. If it is rich enough to follow every quirk of the few points that it saw, noise
# included, the fit is close there and bad elsewhere: **overfitting**. How much a family can follow is called its
# **capacity**. Here it is just the number of bumps.
#
# We take the truth, the noisy points and the bumps of section 1.2. The import below fetches them from this very
# chapter, without running the rest of it: that is how sections stand alone, and how later chapters use what
# earlier ones built. The width of the bumps is now the distance between their centres, so that their number is
# the only hyper-parameter left. And `pinv`, the pseudo-inverse, gives the least-squares weights for hundreds of
# training sets at once, also where there are more bumps than points.

# %%
from lbdl.chapters.ch01 import gaussian_basis, sample, truth

NOISE = 0.25
grid = torch.linspace(0, 1, 400, device=DEVICE)


# %%
def bump_fit(x: Tensor, y: Tensor, bumps: int, at: Tensor) -> Tensor:
    """Least-squares fit to x, y (..., N): its values (..., M) at `at` (..., M)."""
    inverse = torch.linalg.pinv(gaussian_basis(x, bumps, 1 / bumps), rtol=1e-10)  # (..., K, N)
    w = inverse @ y[..., None]  # (..., K, 1)
    return (gaussian_basis(at, bumps, 1 / bumps) @ w)[..., 0]  # (..., M)


# %% [markdown]
# Four fits (blue) of the truth (green). On the same 20 points, 3 bumps cannot bend enough, 8 do well, and 18 pass
# close to every point and lose the truth in between. Look where the third one goes wrong. On the left the points
# stand close enough to hold it; at the right end there are few, and it shoots far beyond the frame. But no
# capacity is too large by itself, only compared to the data that hold it in place: the last picture has the same
# 18 bumps, and 200 points.

# %% tags=["figure-1.2"]
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), sharey=True)
said = []
for ax, (bumps, points) in zip(axes, ((3, 20), (8, 20), (18, 20), (18, 200)), strict=True):
    x, y = (t.to(DEVICE) for t in sample(points, NOISE, seed(3)))  # (N,), (N,)
    fitted = bump_fit(x, y, bumps, grid)  # (400,)
    ax.plot(grid.cpu(), fitted.cpu(), color=color.model)
    ax.plot(grid.cpu(), truth(grid).cpu(), color=color.truth, lw=1)
    ax.scatter(x.cpu(), y.cpu(), s=10 if points == 20 else 3, color=color.data, zorder=3)
    ax.set(title=f"{bumps} bumps, {points} points", ylim=(-2, 2), xlabel="$x$")
    off = (fitted - truth(grid)).square().mean().sqrt()
    said.append(f"{bumps} bumps on {points} points are {off:.3f} off the truth")
figure("1.2", "Underfitting, a good fit, overfitting, and its cure.", "; ".join(said))

# %% [markdown]
# One training set proves little. So we draw 300 of them and fit each. At every $x$ there are then 300 predictions
# $\hat f$ for one truth $f$, and their mean squared error splits into two parts. The *bias* is how far their
# average is from the truth: what such fits cannot say. The *variance* is how much they scatter around their
# average: what each picked up from its own 20 points, from their noise above all. With $\mathbb{E}$ for the
# average over the training sets,
#
# $$\underbrace{\mathbb{E}\,(\hat f - f)^2}_{\text{error}}
# = \underbrace{(\mathbb{E}\hat f - f)^2}_{\text{bias}^2}
# + \underbrace{\mathbb{E}\,(\hat f - \mathbb{E}\hat f)^2}_{\text{variance}}$$

# %%
x, y = (t.to(DEVICE) for t in sample(20, NOISE, seed(4), draws=(300,)))  # (300, 20) each
error, bias2, variance, training = torch.zeros(4, 18, device=DEVICE)  # (18,) each
for bumps in range(1, 19):
    fits = bump_fit(x, y, bumps, grid)  # (300, 400)
    error[bumps - 1] = (fits - truth(grid)).square().mean()
    bias2[bumps - 1] = (fits.mean(0) - truth(grid)).square().mean()
    variance[bumps - 1] = (fits - fits.mean(0)).square().mean()
    training[bumps - 1] = (bump_fit(x, y, bumps, x) - y).square().mean()

# %% [markdown]
# The code also averages each part over the grid of $x$. The split is no approximation: for the average over these
# 300 it is algebra, and holds up to rounding for every capacity.

# %%
claim("error is bias² plus variance", error, equals=bias2 + variance, within=1e-12)

# %% [markdown]
# Bias falls with capacity until nothing of it is left, variance rises, and their sum has the shape of a U: there
# is a best capacity, neither the smallest nor the largest. The training error knows nothing of it. On average it
# falls with every bump, and would have us take as many as there are.

# %%
best = error.argmin().item()
claim("the best number of bumps for 20 points", best + 1, at_least=5, at_most=10)
claim("error with 18 bumps, as a multiple of the best", error[-1] / error[best], at_least=2)
claim("the training error falls with every bump", bool((training.diff() < 0).all()))

# %% [markdown]
# The other way to see it: keep 12 bumps, and let the training set grow from 12 points, which a fit with 12 bumps
# meets exactly, to 200. The error on the training points rises, towards the noise in the data, which nothing can
# predict. The error on new points, as noisy as the old ones, is the error against the truth plus that noise; it
# falls. The gap between the two is the overfitting, and data close it.

# %%
counts = [12, 16, 20, 30, 50, 80, 120, 200]
by_count = torch.zeros(2, len(counts))
for k, count in enumerate(counts):
    x, y = (t.to(DEVICE) for t in sample(count, NOISE, seed(5), draws=(100,)))  # (100, N) each
    by_count[0, k] = (bump_fit(x, y, 12, grid) - truth(grid)).square().mean() + NOISE**2
    by_count[1, k] = (bump_fit(x, y, 12, x) - y).square().mean()

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for name, curve, shade, at in (
    ("bias²", bias2, color.truth, (8.7, 0.003)),
    ("variance", variance, color.gradient, (1.3, 0.0027)),
    ("training", training, color.train, (13.5, 0.009)),
    ("error", error, color.test, (13, 0.085)),
):
    left.plot(range(1, 19), curve.cpu(), color=shade, lw=2.5 if name == "error" else 1.4)
    left.text(*at, name, color=shade)
left.set(xlabel="number of bumps", ylabel="mean squared error", title="20 points")
left.set(xticks=[1, 5, 10, 15], ylim=(1e-3, 1))
right.plot(counts, by_count[0], color=color.test, lw=2.5)
right.plot(counts, by_count[1], color=color.train, lw=1.4)
for name, at, shade in (("new points", 0.11, color.test), ("training points", 0.026, color.train)):
    right.text(36, at, name, color=shade)
for ax in (left, right):
    ax.axhline(NOISE**2, color=color.quiet, lw=1, zorder=0)
left.text(18, NOISE**2 * 0.75, "noise", color="#777777", ha="right")
right.set(xlabel="number of training points", title="12 bumps")
log_scale(left.yaxis, [0.001, 0.01, 0.1, 1])
log_scale(right.xaxis, [12, 20, 50, 100, 200])
figure(
    "1.3a",
    "Errors over hundreds of training sets, as capacity grows (left) and as data grow (right).",
    f"Left: a U with its minimum, {error[best]:.3f}, at {best + 1} bumps; the training error falls. "
    f"Right: the error on new points falls from {by_count[0, 0]:.3f} to {by_count[0, -1]:.4f}.",
)

# %% [markdown]
# Why does the training error lie *above* the error on the left, for few bumps? The one is measured against noisy
# points, the other against the true curve. Even the truth itself would score 0.0625 on the noisy points, the
# square of the noise; that is the grey line.
#
# For a long time the U was where textbooks ended. But what if the basis is as large as the training set, or
# larger? With $K = N$ the fit goes through every point. With $K > N$ infinitely many weights do that, and least
# squares alone does not choose between them. The usual choice, which gradient descent from zero also makes, is
# the solution whose weights have the smallest sum of squares; `pinv` computes it. Where one height can be reached
# by one large weight or by several small ones, the second costs less, so this rule spreads the work over many
# functions.
#
# Now it matters what the basis functions are. We take waves, $\cos(\pi k x)$, of two kinds. *Equal* waves are all
# of one height. *Slow* waves are divided by $1 + k$: the fast ones among them can still do everything, but need
# large weights for it, and so the smallest weights prefer those that are slow.


# %%
def wave_basis(x: Tensor, count: int, slow: bool) -> Tensor:
    """The waves cos(pi k x), divided by 1 + k if slow, for x (...): (..., count)."""
    k = torch.arange(count, dtype=x.dtype, device=x.device)  # (K,)
    return torch.cos(math.pi * k * x[..., None]) / (1 + k if slow else 1)  # (..., K)


# %%
def wave_fit(x: Tensor, y: Tensor, at: Tensor, count: int, slow: bool) -> Tensor:
    """Of the best fits to x, y (..., N) the one with the smallest weights: (..., M) at `at` (M,)."""
    w = torch.linalg.pinv(wave_basis(x, count, slow), rtol=1e-12) @ y[..., None]  # (..., K, 1)
    return (wave_basis(at, count, slow) @ w)[..., 0]  # (..., M)


# %% [markdown]
# For 100 training sets of 20 points we take from 1 to 1,000 waves, and note the error against the truth: of the
# 100 errors the median, since near $K = N$ a few are so large that they would rule an average.

# %%
x, y = (t.to(DEVICE) for t in sample(20, NOISE, seed(6), draws=(100,)))  # (100, 20) each
counts = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 18, 20, 22, 25, 30, 40, 60, 100, 200, 400, 1000]
errors = torch.zeros(2, len(counts))  # equal waves, slow waves
for k, count in enumerate(counts):
    for slow in (False, True):
        off = wave_fit(x, y, grid, count, slow) - truth(grid)  # (100, 400)
        errors[int(slow), k] = off.square().mean(-1).median()

# %% [markdown]
# The two kinds agree as long as there are no more waves than points: their mixtures are the same functions, and
# the best one is unique. The error goes through its U and climbs until the waves are as many as the points.
# There, only one mixture passes through all the points, however wild it is. With more waves there are many, and
# the rule may pick a calm one: with slow waves the error *falls a second time*, to within a third of where it was
# at best. Equal waves add up to thin spikes and are nearly zero elsewhere, so their error climbs on, to that of
# predicting zero.

# %%
equal, slow = errors / errors.min()  # (21,), (21,) as multiples of the best
claim("error at 20 waves, as a multiple of the best", slow[counts.index(20)], at_least=3)
claim("error of 1000 slow waves, as a multiple of the best", slow[-1], at_most=2)
claim("error of 1000 equal waves, as a multiple of the best", equal[-1], at_least=5)

# %%
fine = torch.linspace(0, 1, 4001, device=DEVICE)
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
for kind, name, shade, at in (
    (0, "equal waves", color.gradient, 0.3),
    (1, "slow waves", color.model, 0.028),
):
    left.plot(counts, errors[kind], color=shade)
    left.text(1000, at, name, color=shade, ha="right")
    curve = wave_fit(x[0], y[0], fine, 400, slow=bool(kind))  # (4001,)
    right.plot(fine.cpu(), curve.cpu(), color=shade, lw=0.7 + 1.3 * kind)
left.axvline(20, color=color.quiet, lw=1, zorder=0)
left.text(18, 0.6, "as many waves as points", color="#777777", ha="right", fontsize=10)
left.set(xlabel="number of waves", title="Median error", ylim=(0.02, 0.7))
right.plot(grid.cpu(), truth(grid).cpu(), color=color.truth, lw=1)
right.scatter(x[0].cpu(), y[0].cpu(), s=16, color=color.data, zorder=3)
right.set(xlabel="$x$", title="400 waves through 20 points", ylim=(-1.6, 1.6))
log_scale(left.xaxis, [1, 10, 100, 1000])
log_scale(left.yaxis, [0.02, 0.05, 0.1, 0.2, 0.5])
figure(
    "1.3b",
    "Left: the error falls a second time for slow waves only. Right: two fits without training error.",
    f"Error from a minimum of {errors.min():.3f} over a peak of {errors[1, 11]:.3f} at 20 waves to, "
    f"at 1000, {errors[1, -1]:.3f} for slow and {errors[0, -1]:.3f} for equal waves.",
)

# %% [markdown]
# On the right, both fits have 400 waves and pass through every point. The blue one nearly joins the points by
# straight lines, the orange one drops to zero beside each of them. The same number of functions, the same
# training error: what differs is what they do where the data say nothing. Such a preference, built in before any
# data came, is the **inductive bias** of a model (another meaning of the word than in the figure before).
# Choosing it well is what much of this book is about; convolutions, in chapter 4, are an inductive bias for
# images.
#
# A preference can also be put into the loss: charge for large weights, and minimize the squared error plus
# $\lambda \|w\|^2$. The number $\lambda$ is the slider called penalty. On the left is the fit; on the right the
# typical error, on the training points and against the truth, for every number of bumps. At first there are 18
# bumps, 20 points and next to no penalty. Raise the penalty slowly: the error against the truth falls from 0.54
# to 0.15, at a penalty near 0.1, and then rises again, for too strong a penalty is underfitting once more. Then
# take the penalty back, and add points instead.


# %%
def ridge_fit(Phi: Tensor, y: Tensor, strength: float) -> Tensor:
    """The w (K,) that minimizes |y - Phi w|² + strength |w|², for Phi (N, K) and y (N,)."""
    K = Phi.shape[1]
    taller = torch.cat([Phi, strength**0.5 * torch.eye(K, dtype=Phi.dtype)])  # (N + K, K)
    return torch.linalg.lstsq(taller, torch.cat([y, torch.zeros(K, dtype=y.dtype)])).solution


# %%
def fit_and_errors(x: Tensor, y: Tensor, on_grid: Tensor, strength: float):
    """The fit with the basis on_grid (400, K), and its typical errors: on the points, against the truth."""
    K = on_grid.shape[1]
    Phi = gaussian_basis(x, K, 1 / K)  # (N, K)
    w = ridge_fit(Phi, y, strength)  # (K,)
    fitted = on_grid @ w  # (400,)
    off = (fitted - truth(grid.cpu())).square().mean().sqrt().item()
    return fitted, (y - Phi @ w).square().mean().sqrt().item(), off


# %%
def scene(fig):
    """Left, a fit through noisy points and the truth. Right, two errors against the number of bumps."""
    bases = [gaussian_basis(grid.cpu(), K, 1 / K) for K in range(1, 31)]  # (400, K) each
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    left.plot(grid.cpu(), truth(grid).cpu(), color=color.truth, lw=1)
    (model,) = left.plot([], [], color=color.model)
    dots = left.scatter([], [], s=14, color=color.data, zorder=3)
    on_points, on_truth = (right.plot([], [], color=c)[0] for c in (color.train, color.test))
    here = right.scatter([1, 1], [1, 1], s=40, color=[color.train, color.test], zorder=3)
    left.set(xlim=(-0.01, 1.01), ylim=(-2, 2), xlabel="$x$")
    right.set(xlim=(0, 31), ylim=(0.02, 2), xlabel="bumps", title="Typical error")
    right.text(1, 0.024, "on the points", color=color.train)
    right.text(1, 1.45, "against the truth", color=color.test)
    log_scale(right.yaxis, [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2])

    def update(bumps, points, noise, penalty):
        x, y = sample(points, noise, torch.Generator().manual_seed(3))  # (N,), (N,)
        fits, training, off = zip(
            *(fit_and_errors(x, y, basis, penalty) for basis in bases), strict=True
        )
        model.set_data(grid.cpu(), fits[bumps - 1])
        dots.set_offsets(torch.stack([x, y], dim=1))
        on_points.set_data(range(1, 31), training)
        on_truth.set_data(range(1, 31), off)
        here.set_offsets([(bumps, training[bumps - 1]), (bumps, off[bumps - 1])])
        return f"typical error: on the points {training[bumps - 1]:.3f}, against the truth {off[bumps - 1]:.3f}"

    return update


# %%
model = {"bumps": slider(1, 30, 18), "penalty": slider(1e-6, 10, 1e-6, log=True)}
data = {"points": slider(8, 100, 20), "noise": slider(0.0, 0.6, 0.25)}
explore(scene, "1.3c", "Capacity, penalty, data and noise.", (8, 3.4), **model, **data)

# %% [markdown]
# **Exercise.** Find the closed form behind the penalty. Which $w$ minimizes $\|y - \Phi w\|^2 + \lambda \|w\|^2$?
# Set the derivative to zero as in section 1.2; one term is new, and it helps that $\lambda w = \lambda I w$,
# where $I$ is the matrix with ones on its diagonal (`torch.eye`). Our `ridge_fit` above avoids the question: it
# adds $K$ points, each of which asks one weight, times $\sqrt{\lambda}$, to be zero.


# %% tags=["exercise"]
def ridge(Phi: Tensor, y: Tensor, strength: float) -> Tensor:
    """The w (K,) that minimizes |y - Phi w|² + strength |w|², for Phi (N, K) and y (N,)."""
    raise NotImplementedError


Phi, y = gaussian_basis(torch.linspace(0, 1, 9), 4, 0.2), torch.linspace(-1, 2, 9)  # (9, 4), (9,)
one, three = torch.ones(1, 1), torch.tensor([3.0])
check(
    ridge,
    ("with strength 0 it is least squares", lambda g: (g(Phi, y, 0.0), ridge_fit(Phi, y, 0.0))),
    ("Phi = 1, y = 3 and strength 2 give 3 / (1 + 2)", lambda g: (g(one, three, 2.0), three / 3)),
    (
        "with strength 0.3 it is what ridge_fit finds",
        lambda g: (g(Phi, y, 0.3), ridge_fit(Phi, y, 0.3)),
    ),
)


# %% tags=["solution", "hide-input"]
def ridge(Phi: Tensor, y: Tensor, strength: float) -> Tensor:
    """-2 Phi'(y - Phi w) + 2 strength w = 0: the new term goes on the diagonal."""
    diagonal = strength * torch.eye(Phi.shape[1], dtype=Phi.dtype)  # (K, K)
    return torch.linalg.solve(Phi.mT @ Phi + diagonal, Phi.mT @ y)


# %% [markdown]
# ## 1.4 Categories of models
#
# The book sorts models by what they are asked for, into three categories. We build one of each, on real data, and
# then show that the walls between them are thin.
#
# **Regression** asks for a quantity. Section 1.1 did it from one measurement; here is the mass of a penguin from
# three: the length of its bill, the depth of its bill, and the length of its flipper, all in cm. The rule is
# again a linear combination, with a fourth input that is always one, and the training is again least squares.


# %%
def inputs_and_mass(split: str) -> tuple[Tensor, Tensor]:
    """Three lengths in cm and a one, (N, 4), and the mass in kg, (N,)."""
    lengths, mass = penguins(split, DEVICE).measured.double().split([3, 1], dim=1)  # (N, 3), (N, 1)
    return torch.cat([lengths / 10, torch.ones_like(mass)], dim=1), mass[:, 0] / 1000


# %%
inputs, mass = inputs_and_mass("train")  # (202, 4), (202,)
w = torch.linalg.lstsq(inputs, mass).solution  # (4,)

# %% [markdown]
# An error is large or small only beside a yardstick. Ours is somebody without instruments, who guesses the mean
# mass of the training set for every bird. We compare mean absolute errors this time, the plain average of how
# many grams the guess is off. On 70 birds never seen, the model's is less than half of the yardstick's. Nearly
# all of that is the flipper's doing, as the last line shows: what a bill could still tell is less than birds of
# one size differ anyway.

# %%
inputs_new, mass_new = inputs_and_mass("test")  # (70, 4), (70,)
error, yardstick = (inputs_new @ w - mass_new).abs().mean(), (mass.mean() - mass_new).abs().mean()
print(f"off by {1000 * error:.1f} g on average; guessing the mean, by {1000 * yardstick:.1f} g")

w_flipper = torch.linalg.lstsq(inputs[:, 2:], mass).solution  # (2,) for the flipper and the one
without_bill = (inputs_new[:, 2:] @ w_flipper - mass_new).abs().mean()
print(f"from the flipper alone, by {1000 * without_bill:.1f} g")

# %%
claim("regression: error, as a share of the yardstick's", error / yardstick, at_most=0.6)

# %% [markdown]
# **Classification** asks to which of a few classes an example belongs. Our examples are images from MNIST, a
# famous set of real handwritten digits of 28 by 28 pixels: 8,000 to train, 2,000 held back, ten classes. The
# model gives each image ten scores, one for each class. A score is a linear combination of the 784 pixels and a
# one, and the largest score wins. The training goes through the 8,000 images eight times, 100 at a time, and
# after each hundred takes a step downhill. Why the loss is the one named `cross_entropy`, and how `Adam` chooses
# its steps, are matters of chapter 3; `fit` is the loop around them.

# %%
images, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
images_new, labels_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
images, images_new = images.double(), images_new.double()

# %%
seed(0)
classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to(DEVICE)
optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
data = batches(images, labels, size=100)
fit(classifier, data, lambda model, x, y: F.cross_entropy(model(x), y), optimizer, epochs=8)
scores = classifier(images_new).detach()  # (2000, 10)

# %%
accuracy = (scores.argmax(dim=1) == labels_new).double().mean()
claim("classification: accuracy on digits never seen", accuracy, at_least=0.9)

# %% [markdown]
# Nine in ten. Here is the first test image of each class. The bars below are its ten scores, turned into positive
# shares that add up to one, for the classes from 0 to 9; the right class is blue and named, and so is the winner
# where that is another. A share is the model's opinion and no more: it can be sure, and wrong.

# %%
chosen = [(labels_new == digit).nonzero()[0].item() for digit in range(10)]
shares = scores[chosen].softmax(dim=1).cpu()  # (10, 10)
fig, axes = plt.subplots(2, 10, figsize=(9, 2.4))
for digit, (above, below) in enumerate(axes.T):
    above.imshow(1 - images_new[chosen[digit], 0].cpu(), vmin=0, vmax=1)
    above.axis("off")
    shades = [color.model if k == digit else color.test for k in range(10)]
    below.bar(range(10), shares[digit], color=shades)
    winner = shares[digit].argmax().item()
    below.set(xticks=sorted({digit, winner}), yticks=[], xlim=(-1, 10), ylim=(0, 1.05))
    below.spines["left"].set_visible(False)
right = (shares.argmax(dim=1) == torch.arange(10)).sum()
said = f"Ten handwritten digits with ten bars each; {right} of 10 get the right class."
figure("1.4a", "Ten digits and their scores.", said, held="trained")

# %% [markdown]
# In both cases somebody had to tell the right answer for every example, the mass or the digit. Learning from such
# pairs is **supervised learning**. The third category needs no answers. **Density modeling** asks how likely an
# example is at all. It learns a density $p(x)$, a function that is large where data crowd together and small
# where there are none, and from a density one can draw new examples that look like the data. Learning from the
# bare $x$ is **unsupervised learning**.
#
# A simple density is the Gaussian, the bell curve, here in as many dimensions as an image has pixels. It is fixed
# by two things: the *mean* image, and the *covariance*, a matrix that tells for every pair of pixels how far they
# vary together. Both can be read off the data; that is all the training there is. We add a little to the diagonal
# of the covariance, so that each pixel may also vary by itself. Without it the pixels at the border, blank in all
# training images, would make any ink there infinitely unlikely.
#
# The code keeps a *root* of the covariance, a triangular matrix that multiplied by its transpose gives it back
# (`cholesky` finds it). It does for many dimensions what the standard deviation does for one.


# %%
def gaussian(x: Tensor, floor: float = 0.05) -> tuple[Tensor, Tensor]:
    """Mean (D,) and root (D, D), lower triangular, of the covariance of the examples x (N, D)."""
    centred = x - x.mean(0)  # (N, D)
    covariance = centred.mT @ centred / len(x)  # (D, D)
    covariance.diagonal().add_(floor)
    return x.mean(0), torch.linalg.cholesky(covariance)


# %%
def log_density(x: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """Logarithm (N,) of that Gaussian's density at x (N, D)."""
    z = torch.linalg.solve_triangular(root, (x - mean).mT, upper=False)  # (D, N)
    constant = root.diagonal().log().sum() + len(mean) / 2 * math.log(2 * math.pi)
    return -0.5 * z.square().sum(0) - constant


# %% [markdown]
# In words: take how far the image is from the mean, and divide by the spread, which makes a deviation small in
# directions in which the training images vary much, and large where they hardly vary. That is $z$. The
# log-density is $-\frac{1}{2}$ times the squared length of $z$, minus a constant that makes the density add up to
# one. For one dimension this is the bell curve, $e^{-z^2/2} / \sqrt{2 \pi \sigma^2}$. PyTorch has it as well.

# %%
pixels, pixels_new = images.flatten(1), images_new.flatten(1)  # (8000, 784), (2000, 784)
mean, root = gaussian(pixels)
by_torch = torch.distributions.MultivariateNormal(mean, scale_tril=root).log_prob(pixels_new[:100])
by_hand = log_density(pixels_new[:100], mean, root)  # (100,)
claim("log-density and torch's", by_hand, equals=by_torch, within=1e-8)

# %% [markdown]
# Nobody has told it of classes. What does it know? Turned by a quarter, an image consists of the same ink. Yet
# the density finds it less likely, on average by more than forty *nats*. A nat is a factor of $e \approx 2.7$ in
# the density, so that is a factor with seventeen zeros. Only such differences mean something: a density is not a
# probability, and its value itself may well exceed one.

# %%
turned = images_new.rot90(1, dims=(2, 3)).flatten(1)  # (2000, 784)
upright = log_density(pixels_new, mean, root)  # (2000,)
gain = (upright - log_density(turned, mean, root)).mean()
claim("density: nats by which a digit is likelier upright than turned", gain, at_least=40)

# %% [markdown]
# How does one draw from a Gaussian? Take how each training image deviates from the mean image, multiply each
# deviation by a random number, add them all up, divide by the root of their number, and add the mean: the result
# has the covariance of the training images. (We leave out the little that each pixel varies by itself, which
# would only cover the result with grain.)


# %% tags=["export"]
def draw(examples: Tensor, generator: torch.Generator) -> Tensor:
    """A draw (D,) from the Gaussian with the mean and covariance of the examples (N, D)."""
    chance = torch.randn(len(examples), generator=generator, dtype=torch.float64)  # (N,)
    centred = examples - examples.mean(0)  # (N, D)
    return examples.mean(0) + chance.to(examples) @ centred / len(examples) ** 0.5  # (D,)


# %% [markdown]
# Without labels, its samples are a bit of every digit at once. If somebody provides labels $y$, one can have a
# density for each class, written $p(x \mid y)$, "of $x$ given $y$"; now most samples can be read. Above them are
# the test images that the density without labels finds most and least likely. The likeliest are all ones: they
# have little ink, so little of them is unusual. Likely is not typical.

# %%
order, chance = upright.argsort(), seed(7)
rows = {
    "most likely": pixels_new[order[-10:]],
    "least likely": pixels_new[order[:10]],
    "sampled": [draw(pixels, chance) for _ in range(10)],
    "sampled, by class": [draw(pixels[labels == digit], chance) for digit in range(10)],
}

# %%
fig, axes = plt.subplots(4, 1, figsize=(7.5, 3.5))
for ax, (name, row) in zip(axes, rows.items(), strict=True):
    strip = torch.cat([image.clamp(0, 1).reshape(28, 28) for image in row], dim=1)  # (28, 280)
    ax.imshow(1 - strip.cpu(), vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.spines[:].set_visible(False)
ones = (labels_new[order[-10:]] == 1).sum()
said = f"Of the ten most likely images, with {upright.max():.1f} nats at most, {ones} are ones. "
said += f"The least likely start at {upright.min():.1f} nats. Most samples by class can be read."
figure("1.4b", "Test images that a Gaussian finds most and least likely, and samples of it.", said)

# %% [markdown]
# Now for the thin walls. A density for each class gives a classifier for free. By Bayes' rule, the probability
# that an image $x$ is of class $y$ is proportional to $p(x \mid y)\, p(y)$, where $p(y)$ is how frequent the
# class is. So ask all ten densities, and take the class with the largest product. We add logarithms instead,
# which has the same winner.

# %%
log_joint = torch.empty(2000, 10, device=DEVICE)
for digit in range(10):
    members = pixels[labels == digit]  # (about 800, 784)
    frequency = len(members) / len(pixels)
    log_joint[:, digit] = log_density(pixels_new, *gaussian(members)) + math.log(frequency)

# %% [markdown]
# It beats the classifier above, which was trained for nothing else.

# %%
accuracy = (log_joint.argmax(dim=1) == labels_new).double().mean()
claim("density used as a classifier: accuracy on digits never seen", accuracy, at_least=0.94)

# %% [markdown]
# The gain comes from each class having a covariance of its own. The logarithm of its density contains products of
# two pixels, so it can ask whether they are inked *together*, where a linear score can only weigh them one by
# one. To see that, give all classes one and the same covariance, that of the images around the means of their
# classes. The products are then the same in all ten scores, cancel, and what is left is linear again.

# %%
means = torch.stack([pixels[labels == digit].mean(0) for digit in range(10)])  # (10, 784)
_, shared = gaussian(pixels - means[labels])  # (784, 784)
log_shared = torch.stack([log_density(pixels_new, mean, shared) for mean in means], 1)  # (2000, 10)
log_shared = log_shared + (labels.bincount() / len(labels)).log()

# %%
accuracy = (log_shared.argmax(dim=1) == labels_new).double().mean()
claim("the same with one covariance for all classes", accuracy, at_most=0.9)

# %% [markdown]
# Regression, too, can be used as a classifier. Set up ten regressions, each for a quantity that is 1 for its own
# digit and 0 for all others, solve them at once by least squares, with a small penalty as in section 1.3, and
# take the largest answer. It works, though not as well; the squared error is not made for this. Which loss is,
# chapter 3 will tell.

# %%
inputs = F.pad(pixels, (0, 1), value=1)  # (8000, 785), the last one is always one
normal = inputs.mT @ inputs + 10 * torch.eye(785, device=DEVICE)  # (785, 785), with a small penalty
w = torch.linalg.solve(normal, inputs.mT @ F.one_hot(labels, 10).double())  # (785, 10)
answers = F.pad(pixels_new, (0, 1), value=1) @ w  # (2000, 10)

# %%
accuracy = (answers.argmax(dim=1) == labels_new).double().mean()
claim("regression used as a classifier: accuracy on digits never seen", accuracy, at_least=0.83)

# %% [markdown]
# All three in one picture, with penguins again. The density has one Gaussian for each species, over flipper and
# mass together; the rings are its contour lines. Cut it along one flipper length, and divide by the total so that
# the area is one: there is the density of the mass for that flipper, split by species. The largest of the three
# areas is a classification, and the mean of the cut (blue) is a regression. One density answers all three
# questions. Move the cut from 19 to 21 cm, and see the mean climb fastest where one species takes over from the
# others; the line of section 1.1 had to compromise between them.

# %%
birds = penguins("train")
kg = torch.linspace(2.4, 6.8, 200)  # (200,)
pairs = birds.measured[:, 2:].double() / torch.tensor([10, 1000])  # (N, 2) in cm and kg
models = [gaussian(pairs[birds.species == k], floor=0.0) for k in range(3)]
frequencies = birds.species.bincount() / len(pairs)  # (3,)


# %%
def joint(flipper: float) -> Tensor:
    """The density (3, 200) of species and mass at one flipper length in cm."""
    points = torch.stack([torch.full_like(kg, flipper), kg], dim=1)  # (200, 2)
    each = torch.stack([log_density(points, *model).exp() for model in models])  # (3, 200)
    return each * frequencies[:, None]


# %%
cm = torch.linspace(17, 23.6, 90)
heights = torch.stack([joint(flipper) for flipper in cm], dim=2)  # (3, 200, 90)


# %%
def scene(fig):
    """Left, three species as clouds with contour lines. Then the densities on the cut, and their areas."""
    left, middle, right = fig.subplots(1, 3, width_ratios=[3, 2, 2])
    shades = [color.classes[k] for k in (0, 3, 6)]
    left.scatter(*pairs.T, s=6, color=[shades[k] for k in birds.species])
    for height, shade in zip(heights, shades, strict=True):
        left.contour(cm, kg, height, levels=4, colors=[shade], linewidths=0.7)
    line = left.axvline(20, color="#222222", lw=1)
    curves = [middle.plot([], [], color=shade, lw=1.5)[0] for shade in shades]
    mean_line = middle.axhline(4, color=color.model)
    bars = right.barh(PENGUINS, [0, 0, 0], color=shades)
    left.set(xlabel="flipper length (cm)", ylabel="body mass (kg)", title="The density")
    middle.set(ylim=(2.4, 6.8), xlim=(0, 1.2), xlabel="density of the mass", title="The cut")
    right.set(xlim=(0, 1), xlabel="area", title="The species")

    def update(flipper_in_cm):
        density = joint(flipper_in_cm)  # (3, 200)
        areas = density.sum(1) / density.sum()  # (3,)
        mean = (density.sum(0) * kg).sum() / density.sum()
        line.set_xdata([flipper_in_cm] * 2)
        mean_line.set_ydata([mean, mean])
        for curve, bar, values, area in zip(curves, bars, density, areas, strict=True):
            curve.set_data(values / density.sum() / (kg[1] - kg[0]), kg)
            bar.set_width(area.item())
        winner = PENGUINS[areas.argmax()]
        return f"classification: {winner}, with {areas.max():.3f}; regression: {mean:.3f} kg"

    return update


# %%
flipper = slider(17.2, 23.1, 19.6, 0.1)
explore(scene, "1.4c", "A density, cut at one flipper length.", (8.5, 3.3), flipper_in_cm=flipper)

# %% [markdown]
# **Exercise.** Bayes' rule in full, and safe. From $\log p(x \mid y)$ for each class and $\log p(y)$, give the
# probabilities $p(y \mid x)$: the products $p(x \mid y)\, p(y)$, divided by their sum. But logarithms of
# densities easily reach a thousand, and the exponential of 710 is already more than 64 bits can hold. A hint: to
# subtract the same number from all logarithms of an image divides its products and their sum alike, so nothing
# changes. Choose it well.


# %% tags=["exercise"]
def posterior(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """The probabilities p(y | x), (N, C), from log p(x | y), (N, C), and log p(y), (C,)."""
    raise NotImplementedError


half, likely = torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.5, 0.25], [0.1, 0.4]]).log()
uneven, huge = torch.tensor([0.8, 0.2]).log(), torch.tensor([[800.0, 801.0]])
check(
    posterior,
    (
        "0.5 and 0.25 with equal priors give 2/3 and 1/3",
        lambda g: (g(likely, half)[0], torch.tensor([2, 1]) / 3),
    ),
    (
        "0.1 and 0.4 with priors 0.8 and 0.2 are a tie",
        lambda g: (g(likely, uneven)[1], torch.tensor([0.5, 0.5])),
    ),
    ("800 and 801 do not overflow to nan", lambda g: (g(huge, half), (huge - 801).softmax(dim=1))),
)


# %% tags=["solution", "hide-input"]
def posterior(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """To divide by the sum is to subtract its logarithm; logsumexp takes the largest out first."""
    log_joint = log_likelihood + log_prior  # (N, C)
    return (log_joint - log_joint.logsumexp(dim=1, keepdim=True)).exp()


# %% [markdown]
# ## What was measured
#
# Every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

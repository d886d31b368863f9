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
# # 6 Prediction
#
# The architectures of the last chapter are put to work. Seven sections, seven things that a network is asked to say:
# the clean photograph behind the noise, the class of an image, the things in a scene and their boxes, the class of
# every pixel, the words in a sound, the text that fits an image, and what an action is worth in a game.
#
# Each section goes the whole way in half a minute or so of one processor core: real data, or data put together from
# real pieces; a model from chapter 5's blocks; the loss from its equation; a training; and a measurement on what was
# kept back, with the field's own metric, beside a method that needs no training. Each ends with what goes wrong.
#
# | section | claim | here |
# |---|---|---|
#
# Sections stand alone: run the cells up to the first of them, then the one that you want. Later chapters import from
# this one, as in `from lbdl.chapters.ch06 import clip_loss`.

# %% tags=["export"]
import copy
import math
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Audio
from lbdl import History, attention_maps, batches, check, choice, claim, claims_made, color
from lbdl import device, explore, figure, fit, note, progress, schematic, seconds, seed, slider
from lbdl import table, toggle, words
from lbdl.chapters.ch03 import augment
from lbdl.chapters.ch04 import cost, difference
from lbdl.chapters.ch05 import AddSinusoids, LeNet, ResidualBlock, ResNet, TransformerDecoder
from lbdl.chapters.ch05 import TransformerEncoder, accuracy, augmented_loss, classification_loss
from lbdl.chapters.ch05 import greedy_decode, train
from lbdl.data import CLOTHES, SAMPLE_RATE, emoji, fashion_mnist, glove, mnist, photographs
from lbdl.data import speech
from lbdl.games import Breakout
from lbdl.show import MEASURED, publish
from matplotlib.colors import to_rgb
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

# %%
DEVICE = device(needs=torch.float64)
EXACT = {"device": DEVICE, "dtype": torch.float64}  # for small demonstrations that should be exact
torch.backends.cudnn.allow_tf32 = False  # else NVIDIA GPUs round the factors of convolutions
summary = {}  # a row for each network that is trained here: for the table at the end

# %% [markdown]
# Sections 6.3 and 6.4 look for things in scenes, and both need the truth about them: what is where. Nobody has to
# draw it by hand if the scenes are put together from real pieces. Emoji of eight kinds are pasted on squares of
# photographs, and as each comes with its transparency, it is known for every pixel what it shows. Three art styles
# serve for training. A fourth, in which other people have drawn the same eight kinds, is kept for a test.


# %% tags=["export"]
THINGS = ("red apple", "frog", "soccer ball", "hamburger")
THINGS = (*THINGS, "cactus", "umbrella", "automobile", "panda")
STYLES_SEEN, STYLE_UNSEEN = ("twemoji", "noto", "fluent"), ("openmoji",)


class Scenes(NamedTuple):
    """N scenes with up to four things each."""

    images: Tensor  # (N, 3, 64, 64) from 0 to 1
    boxes: Tensor  # (N, 4, 4) x1, y1, x2, y2 in pixels, tight; zeros where no thing is
    classes: Tensor  # (N, 4) of THINGS; -1 where no thing is
    labels: Tensor  # (N, 64, 64) of each pixel: 0 for the photograph, k + 1 for a thing of class k


# %% [markdown]
# An emoji of 32 × 32 cells is to be drawn at any place and in any size. The share of a pixel that a cell covers is a
# share of the height times one of the width, so two matrix products draw it. And the box of a mask goes from the
# first row and column with a pixel in it to the last.


# %% tags=["export"]
def placed(drawings: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """Drawings (M, 4, 32, 32) at corners x, y (M, 2), size (M,) pixels large: (M, 4, 64, 64)."""
    cells, pixels = torch.arange(33, device=size.device) / 32, torch.arange(65, device=size.device)
    covered = []
    for start in corner.T:  # how much of each pixel is in each cell, along x, then along y
        edges = start[:, None, None] + size[:, None, None] * cells  # (M, 1, 33)
        high = pixels[1:, None].minimum(edges[..., 1:])  # (M, 64, 32)
        low = pixels[:-1, None].maximum(edges[..., :-1])
        covered.append((high - low).clamp(min=0)[:, None])  # (M, 1, 64, 32)
    return covered[1] @ drawings @ covered[0].mT  # (M, 4, 64, 64)


def boxes_around(masks: Tensor) -> Tensor:
    """The tight boxes x1, y1, x2, y2 (M, 4) of masks (M, H, W) that are not empty."""
    ends = []
    for line in (masks.any(1).int(), masks.any(2).int()):  # (M, W), (M, H)
        ends += [line.argmax(1), line.shape[1] - line.flip(1).argmax(1)]
    return torch.stack(ends, dim=1)[:, [0, 2, 1, 3]].float()  # (M, 4)


# %% [markdown]
# Chance decides on the photograph and the square of it; for each thing on its drawing, its place, its size from 12 to
# 32 pixels, and whether it is mirrored; and on how many there are. A thing that would touch an earlier one is left
# out. Numbers are drawn on the CPU, so that the scenes are the same on every machine.


# %% tags=["export"]
def make_scenes(N: int, split: str, styles: tuple, chance: torch.Generator, device="cpu") -> Scenes:
    """N scenes with things in these styles, on photographs of a split: "train", "validation" or "test"."""
    if N < 1 or not styles:
        raise ValueError(f"make_scenes: expected N ≥ 1 and some styles, got {N}, {styles}")
    sets = [emoji(style, device=device) for style in styles]
    drawings = torch.cat([s.images[[s.names.index(name) for name in THINGS]] for s in sets])
    colours, alpha = drawings.split([3, 1], dim=1)
    drawings = torch.cat([colours * alpha, alpha], dim=1)  # (D, 4, 32, 32)
    grounds, parts = F.avg_pool2d(photographs(split, device).images, 2), []  # (P, 3, 256, 256)
    for n in range(0, N, 100):
        M = min(100, N - n)
        u, v = torch.rand(M, 24, generator=chance).to(device).split([4, 20], dim=1)
        parts.append(some_scenes(drawings, grounds, u, v.unflatten(1, (4, 5))))
    return Scenes(*map(torch.cat, zip(*parts, strict=True)))


def some_scenes(drawings: Tensor, grounds: Tensor, u: Tensor, v: Tensor) -> Scenes:
    """Scenes that follow from numbers from 0 to 1: u (M, 4) of each scene, v (M, 4, 5) of its things."""
    M, four, at = len(u), torch.arange(4, device=u.device), torch.arange(64, device=u.device)
    y, x = ((193 * u[:, k, None]).long() + at for k in (1, 2))  # (M, 64) of the square
    which = (len(grounds) * u[:, 0, None, None]).long()
    images = grounds[which, :, y[:, :, None], x[:, None]].movedim(3, 1)  # (M, 3, 64, 64)
    size = 12 + 20 * v[..., 0]
    corner = (64 - size)[..., None] * v[..., 1:3]  # (M, 4, 2)
    below = corner[:, :, None] < (corner + size[..., None])[:, None]  # (M, 4, 4, 2)
    touch = (below & below.transpose(1, 2)).all(3)  # (M, 4, 4) which squares meet
    put = four <= (4 * u[:, 3:]).long()  # (M, 4)
    for k in range(1, 4):
        put[:, k] &= ~(touch[:, k, :k] & put[:, :k]).any(1)
    kind = (len(drawings) * v[..., 3]).long()[put]
    mirrored = (v[..., 4][put] < 0.5)[:, None, None, None]
    chosen = torch.where(mirrored, drawings[kind].flip(3), drawings[kind])  # (T, 4, 32, 32)
    layers = placed(chosen, corner[put], size[put])  # (T, 4, 64, 64)
    solid, scene, classes = layers[:, 3] > 0.5, put.nonzero()[:, 0], kind % len(THINGS)
    colours = images.new_zeros(M, 4, 64, 64).index_add(0, scene, layers)
    labels = solid.new_zeros(M, 64, 64, dtype=torch.long)
    labels = labels.index_add(0, scene, solid * (classes + 1)[:, None, None])
    boxes, of_each = images.new_zeros(M, 4, 4), torch.full((M, 4), -1, device=u.device)
    boxes[put], of_each[put] = boxes_around(solid), classes
    images = images * (1 - colours[:, 3:]) + colours[:, :3]  # (M, 3, 64, 64)
    return Scenes(images.clamp(0, 1), boxes, of_each, labels)


def show_scene(ax, image: Tensor, title: str = "") -> None:
    """Draw an image (3, 64, 64) with pixel n reaching from n to n + 1."""
    ax.imshow(image.movedim(0, 2).cpu(), extent=(0, 64, 64, 0), interpolation="bicubic")
    ax.set(xticks=[], yticks=[], xlim=(0, 64), ylim=(64, 0))
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=9)


def draw_boxes(ax, boxes: Tensor, shade: str, names: list[str] | None = None, **look) -> None:
    """Draw boxes (M, 4) on a scene, each with a name at its corner."""
    for (x1, y1, x2, y2), name in zip(boxes.tolist(), names or [""] * len(boxes), strict=True):
        box = {"fill": False, "edgecolor": shade, "lw": 1.3, **look}
        ax.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, **box))
        if name:
            side = {"x": x1, "ha": "left"} if x1 < 32 else {"x": x2, "ha": "right"}
            plate = {"facecolor": shade, "edgecolor": "none", "pad": 0.8}
            ax.text(y=max(y1, 7), s=name, color="white", size=7, va="bottom", bbox=plate, **side)


# %% [markdown]
# ## What was trained
#
# What each network costs for one example, how long its training took here, and how far it came. The tasks differ, and
# so do their metrics: a row compares with its baseline, not with other rows.

# %%
columns = ["network", "parameters", "multiplications", "seconds", "result", "baseline"]
rows = [(name, f"{p:,}", f"{m:,}", f"{s:.0f}", *rest) for name, (p, m, s, *rest) in summary.items()]
if rows:  # as soon as a section was run
    table(columns, rows, varies=["seconds", "result", "baseline"])

# %% [markdown]
# And every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

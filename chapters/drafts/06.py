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
from lbdl import table, words
from lbdl.chapters.ch03 import augment
from lbdl.chapters.ch04 import cost, difference
from lbdl.chapters.ch05 import AddSinusoids, LeNet, ResidualBlock, ResNet, TransformerDecoder
from lbdl.chapters.ch05 import TransformerEncoder, accuracy, augmented_loss, classification_loss
from lbdl.chapters.ch05 import greedy_decode, train
from lbdl.data import SAMPLE_RATE, emoji, fashion_mnist, glove, mnist, photographs, speech
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

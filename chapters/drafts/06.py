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
# The parts are there and the architectures stand. This chapter puts them to work. Seven sections, seven things that
# people want from a network that has to say what is there: a clean photograph behind the noise, the class of an
# image, the things in a scene with a box around each, the class of every pixel, the words in a sound, the text that
# fits a picture, and what an action will be worth in a game. All of it is prediction: of a value, of a label, of a
# sequence, from a signal.
#
# Every task is done from beginning to end, in about a minute of one processor core each. We look at the data. We
# build the model from the blocks of chapters 4 and 5 and write the loss from its equation. We train, on data that are
# real or put together from real pieces. Then we measure on data that were kept back, by the yardstick that the field
# uses, and next to a method that needs no network, because a number alone says little. And each section ends with
# what goes wrong: a style of drawing that was never seen, a voice that speaks to the phone, a question about names
# never read. Where the numbers are far from those of the literature, the reason is mostly the minute.
#
# Sections stand alone, as before: run the cells up to the first section, then the one that you want. The chapters
# that follow import from this one what they need, such as `from lbdl.chapters.ch06 import clip_loss`.

# %% tags=["export"]
import copy
import itertools
import math
import re
import textwrap
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Audio
from lbdl import batches, check, claim, claims_made, color, device, explore, figure, fit, log_scale
from lbdl import note, progress, schematic, seed, slider, synchronize, table, words
from lbdl.chapters.ch03 import cosine
from lbdl.chapters.ch04 import Residual, attention_scores, cost
from lbdl.chapters.ch05 import AddSinusoids, CrossAttentionBlock, FeedForwardBlock, LeNet, ResNet
from lbdl.chapters.ch05 import SelfAttentionBlock, TransformerDecoder, TransformerEncoder, affine
from lbdl.chapters.ch05 import check_sizes, random_affine, stage_of, write_greedily
from lbdl.data import CLOTHES, SAMPLE_RATE, Speech, emoji, fashion_mnist, glove, mnist
from lbdl.data import photographs, speech
from matplotlib.colors import to_rgb
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

# %% [markdown]
# Set-up. Each section writes what its models cost and reached into `summary`, for the table at the end.

# %%
DEVICE = device(needs=torch.float64)
EXACT = {"device": DEVICE, "dtype": torch.float64}  # for small demonstrations that should be exact
torch.backends.cudnn.allow_tf32 = (
    False  # NVIDIA GPUs would otherwise round the factors of convolutions
)
summary = {}  # a row for each model that is trained here


# %% [markdown]
# ## What was measured
#
# All that was trained, in one table: what each model costs for one example, how long its training took here, and how
# far it came. The tasks differ, and so do their measures, so the rows cannot be compared with one another; each has
# its baseline beside it.

# %%
columns = ["model", "parameters", "multiplications for one example", "seconds", "result"]
rows = [
    (name, f"{p:,}", f"{m:,}", f"{s:.0f}", result) for name, (p, m, s, result) in summary.items()
]
if rows:  # as soon as a section was run
    table(columns, rows, varies=["seconds", "result"])

# %% [markdown]
# And every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

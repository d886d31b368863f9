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

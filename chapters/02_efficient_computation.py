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
# # 2 Efficient Computation
#
# A deep network is arithmetic, and very little else: to recognize one photograph takes some billions of
# multiplications, to train the network a billion times more. Whether that takes a day or a century is decided by how
# the numbers travel between the memory and the units that multiply. This chapter weighs the machine that you are
# sitting at, whatever it is: how many products it forms in a second, how fast its memory is, what a batch is good
# for, and what half of the bits of a number are worth. Then it opens the tensor, the one kind of object that
# everything in deep learning is made of.
#
# Sections stand alone, as in chapter 1: run the cells up to the first of them, then the one that you want. Your
# machine's times and rates stand in grey pictures and lines of their own. They will differ from those stored here,
# and no test compares them. What the **claims** say about them are proportions, with so much room that they should
# hold on any machine.

# %% tags=["export"]
import itertools
import math
from collections import OrderedDict
from contextlib import suppress
from functools import partial

import matplotlib.pyplot as plt
import torch
from lbdl import batches, check, claim, claims_made, color, device, explore, figure, fit
from lbdl import log_scale, note, seconds, seed, slider, toggle
from lbdl.data import emoji, mnist, photographs, shakespeare, speech
from matplotlib.colors import ListedColormap
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

# %% [markdown]
# `DEVICE` is a GPU if you have one. What this chapter measures it measures on the CPU and, if there is one, on the
# GPU beside it.

# %%
POINTS = {"textcoords": "offset points"}  # a label's distance from its point is given in points
DEVICE = device()
MACHINES = {"CPU": torch.device("cpu")}
if DEVICE.type != "cpu":
    MACHINES[DEVICE.type.upper()] = DEVICE

# %% [markdown]
# ## 2.1 GPUs, TPUs, and batches
#
# Nearly all the time that a deep model takes goes into products of matrices. An element of the product $C = AB$ is a
# row of $A$ times a column of $B$, element by element, added up:
#
# $$C_{i,j} = \sum_{k} A_{i,k}\, B_{k,j}$$
#
# A layer of a network is little else (chapter 4): the rows of $A$ are its input signals, the columns of $B$ hold its
# weights, and each element of $C$ says how well one signal agrees with one set of weights. There is one
# multiplication and one addition for each triple $i, j, k$, which makes $2 N^3$ operations for two matrices of size
# $N \times N$. Such operations on numbers with a fraction are called floating-point operations, **FLOPs**. Counting
# them is the first thing to do with any computation, because the count belongs to the mathematics and is the same on
# every machine. How many a machine gets done in a second is another matter.
#
# Here is the formula, word for word, in plain Python.


# %%
def product(A: list, B: list) -> list:
    """The product of two square matrices, given as lists of rows, in plain Python."""
    N = len(A)
    C = [[0.0] * N for _ in range(N)]
    for i in range(N):
        for j in range(N):
            for k in range(N):
                C[i][j] += A[i][k] * B[k][j]
    return C


# %% [markdown]
# Three nested loops, and one line that does the work: everybody who learns to program has written this once. PyTorch
# writes the same thing as `A @ B`. Both get the same result, up to the last digits: Python computes with 64 bits, and
# `@` with 32.

# %%
N = 64
A, B = torch.rand(2, N, N, generator=seed(0))  # (N, N) each
by_loops = torch.tensor(product(A.tolist(), B.tolist()))  # (N, N)
claim("three loops and the operator @", by_loops, equals=A @ B, within=1e-4)

# %% [markdown]
# The difference is in the time. `seconds`, from our module, calls a function a few times and takes the median. On a
# GPU it also waits for the result. A GPU takes an order and answers at once, long before it has computed anything,
# and whoever forgets to wait measures only how fast it takes orders.
#
# Whatever we measure in this chapter is prepared by a function that is told the machine to be `on`, and that returns
# the piece of work as a function without arguments. `rates` runs it on each machine. A machine that does not have an
# operation gets nan, "not a number", in its place.


# %%
def rates(prepare, FLOPs: float) -> dict[str, float]:
    """FLOPs in a second, for each machine, of the work that prepare(on) returns."""
    found = dict.fromkeys(MACHINES, math.nan)
    for name, on in MACHINES.items():
        with suppress(NotImplementedError):
            found[name] = FLOPs / seconds(prepare(on), on, repeats=3)
    return found


# %%
def multiply(on: torch.device, N: int, dtype: torch.dtype = torch.float32):
    """The work of multiplying two N x N matrices."""
    A, B = torch.rand(2, N, N, generator=seed(0)).to(on, dtype)  # (N, N) each
    return lambda: A @ B


# %%
A_list, B_list = A.tolist(), B.tolist()
python = 2 * N**3 / seconds(lambda: product(A_list, B_list), repeats=3)
sizes = (64, 256, 1024)
peaks = {n: rates(lambda on, n=n: multiply(on, n), 2 * n**3) for n in sizes}  # n=n keeps this n


# %% [markdown]
# Results that differ from machine to machine are shown in grey behind a colon, in GFLOP/s, thousand million FLOPs in
# a second. (Careful with the word. FLOPs are a number of operations; FLOPS in capitals is often used for their number
# in a second. We write FLOP/s.)


# %%
def shown(values: dict[str, float], unit: str = "GFLOP/s") -> str:
    """The rates of all machines in one line, in units of 1e9."""
    return ", ".join(f"{name} {value / 1e9:,.4g} {unit}" for name, value in values.items())


note("three loops in Python, N = 64", f"{python / 1e9:.4f} GFLOP/s")
for size, rate in peaks.items():
    note(f"A @ B, N = {size}", shown(rate))

# %% [markdown]
# The best rate that a machine can reach, with all numbers at hand and nothing to wait for, is its **peak
# performance**. A large product comes near it; for a small one, the time to call it weighs in. (We compare rates, not
# times, so it does not matter that the products below are larger than the one in Python.) So it was the loops that
# were slow, and not the machine. Python takes some fifty to a hundred nanoseconds to find out, each time anew, what
# `C[i][j] += …` means for these objects. The multiplication and the addition themselves take a fraction of one. Hence
# the first rule of efficient computation: never loop over numbers, hand them over in large pieces.

# %%
gain = peaks[1024]["CPU"] / python
claim("what @ gains over three loops in Python, as a factor", gain, at_least=50)

# %% [markdown]
# ### Many hands
#
# Where do the thousands come from? Roughly half of it, as factors go, is that PyTorch's loops are compiled. The rest
# is order, of which more below, and that every element of $C$ can be computed without knowing the others. A modern
# CPU multiplies 4, 8 or 16 numbers with one instruction, and has several cores that can do so at a time. A
# **Graphical Processing Unit** (GPU) was built to compute the colours of a million pixels, all in the same way and
# each by itself. It has thousands of arithmetic units which do that, and in the years around 2010 people found that a
# network needs nothing else. A **Tensor Processing Unit** (TPU) is a chip made for networks from the start: a large
# square of multipliers, through which the numbers of two matrices are pushed step by step, each being used again and
# again on its way.
#
# Today's GPUs do something similar in small. Their **tensor cores** take a tile of each of two matrices, from 4 x 4
# numbers up, multiply them, and add the result to a third tile, all in one instruction. A large product must
# therefore be cut into tiles. That this is possible is no accident of the hardware. If the elements of a matrix are
# themselves small matrices, the rule above, row times column, remains the same: the tile of $C$ in some place is the
# sum, over $k$, of tiles of $A$ from its row times tiles of $B$ from its column. Every system for deep learning, from
# the GPU's program to a cluster in which the matrices do not fit onto one machine, lives on this.


# %%
def tiled(A: Tensor, B: Tensor, tile: int) -> Tensor:
    """The product (I, J) of A (I, K) and B (K, J), as a sum over products of tiles."""
    C = torch.zeros(len(A), B.shape[1], device=A.device)
    starts = (range(0, size, tile) for size in (*C.shape, len(B)))
    for i, j, k in itertools.product(*starts):
        a, b = A[i : i + tile, k : k + tile], B[k : k + tile, j : j + tile]
        C[i : i + tile, j : j + tile] += a @ b  # what one tensor core does
    return C


# %% [markdown]
# The sizes need not be multiples of the tile. Slices that would reach over the edge are cut off by PyTorch.

# %%
A, B = torch.rand(50, 30).to(DEVICE), torch.rand(30, 70).to(DEVICE)
claim("tiles of 16 and the whole", tiled(A, B, 16), equals=A @ B, within=1e-4)

# %% [markdown]
# ### Numbers on the way
#
# Arithmetic units need numbers, and numbers are kept far away. A modern memory takes about a hundred nanoseconds to
# answer, time enough for a core to do thousands of FLOPs. So between the two there is **cache memory**, small, quick
# and close: what has just been used is kept there, in the hope that it will be wanted again soon. And since
# neighbours are often wanted together, memory is fetched in *lines* of some tens of bytes; 64 bytes, or sixteen
# numbers of four bytes, are common.
#
# The cache makes no difference to what a program computes, and is controlled by no command. But whether the hope is
# fulfilled depends on the order of the work. To watch that, we first list what a product reads, element by element.
# The outer three loops go over tiles, the inner three over the elements of a tile, and the places are counted as if
# $A$, $B$ and $C$ lay in memory one behind the other, row by row. With one tile as large as the matrix, this is the
# order of the three loops above.


# %%
def reads(N: int, tile: int):
    """What a product of N x N matrices reads, in order: the places of A[i, k], B[k, j], C[i, j]."""
    starts = range(0, N, tile)
    for i0, j0, k0 in itertools.product(starts, starts, starts):
        ranges = (range(start, min(start + tile, N)) for start in (i0, j0, k0))
        for i, j, k in itertools.product(*ranges):
            yield from (i * N + k, N * N + k * N + j, 2 * N * N + i * N + j)


# %% [markdown]
# And here is a cache in a few lines of Python. It keeps the lines that were used last; when it is full, the one that
# has not been used for longest must go. It counts the *misses*, how often a number is not there and has to be
# fetched. An `OrderedDict` remembers the order in which things were put in or moved to the end.


# %%
def through_cache(places, lines: int, length: int) -> tuple[int, list[int]]:
    """Misses of a cache of `lines` lines of `length` numbers, and the lines in it at the end."""
    cache, misses = OrderedDict(), 0
    for place in places:
        line = place // length
        if line not in cache:
            misses += 1
            if len(cache) == lines:
                cache.popitem(last=False)  # the one that has not been used for longest
        cache[line] = True
        cache.move_to_end(line)
    return misses, list(cache)


# %% [markdown]
# Take matrices of 32 x 32, lines of 8 numbers, and room for 32 lines, which is a quarter of one matrix. In the order
# of the three loops, each column of $B$ runs through 32 different lines; together with those of $A$ and $C$ this is a
# little more than there is room for, and every line of $B$ is thrown out just before it would have been used again.
# With tiles of 8 x 8, three of which fit, every number that is fetched is used at least eight times before it goes.

# %%
naive, tiles = (through_cache(reads(32, tile), lines=32, length=8)[0] for tile in (32, 8))
print(f"of {3 * 32**3} reads, {naive} go to memory with three loops, {tiles} with tiles of 8")
claim("reads from memory, three loops over tiles of 8", naive / tiles, at_least=20)

# %% [markdown]
# The next picture does it with matrices of 16 x 16, lines of 4 and as much cache as you like. $A$ is on the left of
# the product, $B$ above it. Blue numbers are in the cache, pale ones are not, and orange are the three that are being
# used. Move `products` to the end to run the computation, then change the tile. Which tile is best for 12 lines?
# (Three tiles of 4 x 4 take four lines each.) And how many lines does it take until the three loops are as good?

# %%
SIDE, LINE = 16, 4  # the size of the matrices and of a line
SHADES = ListedColormap(["#ebebeb", "#73b3de", color.gradient])  # not cached, cached, in use


# %%
def scene(fig):
    """Matrix A on the left, B above, their product C below B; a cache holds some of their numbers."""
    (counts, above), (left, below) = fig.subplots(2, 2, gridspec_kw={"hspace": 0.02})
    squares = {"cmap": SHADES, "vmin": 0, "vmax": 2, "edgecolors": "white", "linewidth": 1}
    grids = [ax.pcolormesh(torch.zeros(SIDE, SIDE), **squares) for ax in (left, above, below)]
    for name, ax in zip("ABC", (left, above, below), strict=True):
        ax.set(xticks=[], yticks=[], ylim=(SIDE, 0), aspect="equal")
        ax.set_ylabel(f"${name}$", rotation=0, va="center", labelpad=9)
        ax.spines[:].set_visible(False)
    bars = counts.barh(["this order", "three loops"], [0, 0], color=[color.model, color.quiet])
    counts.set(xlim=(0, 5000), xticks=[0, 2000, 4000], title="reads from memory", box_aspect=0.35)

    def update(tile, cache_lines, products):
        places = list(itertools.islice(reads(SIDE, tile), 3 * products))
        misses, kept = through_cache(places, cache_lines, LINE)
        in_loops = itertools.islice(reads(SIDE, SIDE), 3 * products)
        loops, _ = through_cache(in_loops, cache_lines, LINE)
        state = torch.zeros(3 * SIDE**2, dtype=torch.long)
        state.reshape(-1, LINE)[kept] = 1
        state[places[-3:]] = 2
        for grid, matrix in zip(grids, state.split(SIDE**2), strict=True):
            grid.set_array(matrix.reshape(SIDE, SIDE))
        for bar, count in zip(bars, (misses, loops), strict=True):
            bar.set_width(count)
        return f"{misses} of {len(places)} reads went to memory; with three loops {loops}"

    return update


# %%
order = {"tile": slider(1, SIDE, 4), "cache_lines": slider(3, 96, 12)}
steps = {"products": slider(1, SIDE**3, 1500)}
explore(scene, "2.1a", "A matrix product and a cache.", (6.5, 4.6), **order, **steps)

# %% [markdown]
# Now the real one. The **memory speed** is the number of bytes that can be read or written in a second. To measure it
# we multiply all numbers of an array by two, and do so again and again: one FLOP for four bytes read and four
# written, so the arithmetic does not count. Then we make the array larger and larger. As long as it fits into a
# cache, every round but the first finds its numbers there.


# %%
def memory_speed(count: int, on: torch.device) -> float:
    """Bytes moved in a second, when `count` numbers of 4 bytes are read and written over and over."""
    x, y = torch.ones(2, count, device=on)  # (count,) each
    times = max(1, 2**21 // count)

    def work():
        for _ in range(times):
            torch.mul(x, 2, out=y)

    return 8 * count * times / seconds(work, on, repeats=3)


# %%
sizes = [2**n for n in range(13, 26)]  # numbers in the array, of 4 bytes each
speeds = {name: [memory_speed(n, on) for n in sizes] for name, on in MACHINES.items()}

# %%
gain = max(speeds["CPU"]) / speeds["CPU"][-1]
claim("memory speed with the best size, as a multiple of that at 256 MB", gain, at_least=1.2)

# %% [markdown]
# And the lines. We take an array of 128 MB and copy every number, every second one, every fourth, and so on, always
# to the end. There is no arithmetic at all in this. But a number comes with its whole line, whether or not anybody
# wants the others. Beside neighbours, each pays for itself only. At a distance of 16 each is in a line of its own (of
# 32 on chips with longer lines, such as Apple's), and pays for all of it. Whatever else your machine is doing takes
# from the memory as well, so we measure all distances in turn, five times, and keep the best time of each.


# %%
def copy_times(strides: list[int], on: torch.device) -> list[float]:
    """Seconds for each number when every stride-th number of a large array is copied; best of five rounds."""
    x, times = torch.ones(2**25, device=on), [math.inf] * len(strides)
    for _ in range(5):
        for i, stride in enumerate(strides):
            every = x[::stride]
            copy = partial(torch.empty(len(every), device=on).copy_, every)
            times[i] = min(times[i], seconds(copy, on, repeats=3) / len(every))
    return times


# %%
strides = [1, 2, 4, 8, 16, 32, 64]
times = {name: copy_times(strides, on) for name, on in MACHINES.items()}

# %%
slower = times["CPU"][5] / times["CPU"][1]
claim("time for every 32nd number, as a multiple of every second's", slower, at_least=2)

# %% [markdown]
# Below, the memory in use, for both arrays, against the speed in gigabytes a second, and beside it the time to copy a
# number against the distance to the next one. A gigabyte a second is a byte in a nanosecond.
#
# On the left of the picture the curve begins low, where the arrays are so small that the time is mostly that of
# calling the function. It is highest where the array lies in a cache, and falls each time it outgrows one, down to
# the speed of the main memory at the right.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
for shade, name in zip((color.model, color.output), MACHINES, strict=False):
    gigabytes = [speed / 1e9 for speed in speeds[name]]
    left.plot([8 * n / 1e6 for n in sizes], gigabytes, "-o", color=shade, ms=4)
    right.plot(strides, [t * 1e9 for t in times[name]], "-o", color=shade, ms=4)
    left.annotate(
        name, (8 * sizes[-1] / 1e6, gigabytes[-1]), (0, 8), ha="right", color=shade, **POINTS
    )
log_scale(left.xaxis, [0.1, 1, 10, 100])
log_scale(right.xaxis, strides)
log_scale(right.yaxis, [0.1, 0.3, 1, 3, 10])
left.set(xlabel="both arrays (MB)", ylabel="memory speed (GB/s)", ylim=(0, None))
right.set(xlabel="distance between the numbers", ylabel="time for a number (ns)")
said = "Left, the memory speed against the size of an array, with falls where it outgrows a cache. "
said += "Right, the time to copy a number, which grows with the distance between numbers."
figure("2.1b", "What your memory does.", said, held="measured")

# %% [markdown]
# A large GPU has fast memory of its own, beside its caches, and the way to it from the computer's memory is narrow:
# some tens of gigabytes a second, where its own memory gives a thousand and more. (Chips such as Apple's share one
# memory between CPU and GPU.) So a model's weights are brought there once and stay, the results in between never
# leave, and only the batches of data travel. This is the meaning of all the `.to(DEVICE)` in this companion. A
# program that moves a little back and forth at every step, if only to print a loss, may spend most of its time on the
# road.

# %%
x = torch.ones(2**24)  # 64 MB
trip = 4 * 2**24 / seconds(lambda: x.to(DEVICE), DEVICE) / 1e9
here = "it is the same memory" if DEVICE.type == "cpu" else f"{trip:.3g} GB/s"
note("speed of moving 64 MB from the CPU's memory to DEVICE", here)

# %% [markdown]
# ### The roofline
#
# An operation has to wait for its numbers, or for its arithmetic, whichever takes longer. Which of the two, a ratio
# tells: how many FLOPs are there for each byte that must be moved? This is called the *arithmetic intensity*. To
# double a number takes 1 FLOP for 8 bytes, an intensity of 1/8. A product of two $N \times N$ matrices takes $2N^3$
# FLOPs for three matrices of $4N^2$ bytes, which is $N/6$ FLOPs for a byte, the more the larger they are. The rate
# that an operation can reach is at most
#
# $$\min(\text{peak performance},\ \text{intensity} \times \text{memory speed}).$$
#
# Drawn on logarithmic axes, that is a slope which ends in a flat roof, the *roofline*. To place an operation under
# it, we count what it costs. Here are the costs of the two kinds of layers that hold nearly all the weights of the
# networks in this book: linear layers, and convolutions, which apply the same small weights, the kernel, at every
# place of an image. Chapter 4 builds both. Here it is enough that they are products and sums.


# %%
def linear_cost(batch: int, inputs: int, outputs: int) -> tuple[int, int]:
    """FLOPs, and bytes moved, of a linear layer: signals and weights in, signals out."""
    moved = batch * inputs + inputs * outputs + batch * outputs  # numbers, of 4 bytes
    return 2 * batch * inputs * outputs, 4 * moved


# %%
def convolution_cost(batch: int, inputs: int, outputs: int, kernel: int, size: int):
    """The same for a convolution of images of size x size, with `inputs` channels."""
    to = size - kernel + 1  # so many places has the kernel, along each side
    moved = batch * inputs * size**2 + inputs * outputs * kernel**2 + batch * outputs * to**2
    return 2 * batch * inputs * outputs * kernel**2 * to**2, 4 * moved


# %% [markdown]
# Did we count the FLOPs well? PyTorch has a counter that looks at every product while it happens. It must find the
# same numbers for real layers and real images.

# %%
images = mnist("test")[0][:256]  # (256, 1, 28, 28)
with FlopCounterMode(display=False) as counter:
    activations = nn.Conv2d(1, 32, 5)(images)  # (256, 32, 24, 24)
    nn.Linear(28 * 28, 200)(images.flatten(1))  # (256, 200)

# %%
ours = convolution_cost(256, 1, 32, 5, 28)[0] + linear_cost(256, 784, 200)[0]
claim("FLOPs by our formulas and by PyTorch's counter", ours, equals=counter.get_total_flops())

# %% [markdown]
# The first convolution of 256 images takes 236 million FLOPs, at one a second more than a person could do in seven
# years, awake day and night.
#
# Now the operations to measure. First layers: the two convolutions of a small network for digits (figure 5.2 of the
# book); a ReLU, which sets negative numbers to zero, one FLOP for a number read and written; and a wide linear layer,
# with one signal and with eight. `no_grad` says that no slopes will be needed.


# %%
def layer(on: torch.device, module: nn.Module, *shape: int):
    """The work of applying a module to numbers of this shape, without keeping track of it."""
    module, x = module.to(on), torch.rand(shape, generator=seed(0)).to(on)
    return torch.no_grad()(lambda: module(x))


# %%
wide, count = nn.Linear(4096, 4096), 256 * 32 * 24**2  # activations after the first convolution
first, second = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
costs = convolution_cost(256, 1, 32, 5, 28), convolution_cost(256, 32, 64, 5, 8)

# %%
layers = {  # name -> how to prepare it, and (FLOPs, bytes)
    "ReLU": (lambda on: layer(on, nn.ReLU(inplace=True), count), (count, 8 * count)),
    "linear, 1 signal": (lambda on: layer(on, wide, 1, 4096), linear_cost(1, 4096, 4096)),
    "linear, 8 signals": (lambda on: layer(on, wide, 8, 4096), linear_cost(8, 4096, 4096)),
    "first convolution": (lambda on: layer(on, first, 256, 1, 28, 28), costs[0]),
    "second convolution": (lambda on: layer(on, second, 256, 32, 8, 8), costs[1]),
}

# %% [markdown]
# Second, one and the same product of 4096 x 128 and 128 x 2048, but in slices. We take 1, 4, 16 or all 128 of the
# columns of $A$ at a time, with the rows of $B$ that belong to them, and each time the whole result is read, added
# to, and written. The FLOPs are always the same. The thinner the slices, the more often the result travels.


# %%
def in_slices(on: torch.device, width: int):
    """The work of a product of (4096, 128) and (128, 2048), `width` columns and rows at a time."""
    A, B = torch.rand(4096, 128, device=on), torch.rand(128, 2048, device=on)
    C = torch.zeros(4096, 2048, device=on)
    slices = list(zip(A.split(width, 1), B.split(width), strict=True))
    return lambda: [C.addmm_(a, b) for a, b in slices]  # C = C + a @ b, in place


# %%
slices = {}
for width in (1, 4, 16, 128):
    moved = 4 * (128 // width) * (2 * 4096 * 2048 + (4096 + 2048) * width)
    costs = 2 * 4096 * 2048 * 128, moved
    slices[str(width)] = (lambda on, width=width: in_slices(on, width), costs)

# %%
found = {name: rates(work, FLOPs) for name, (work, (FLOPs, _)) in (layers | slices).items()}

# %%
thin, thick = found["1"]["CPU"], found["128"]["CPU"]
claim("the product in one piece, as a multiple of thin slices' rate", thick / thin, at_least=1.5)

# %% [markdown]
# The roof is drawn from what we measured before: the best product gives the flat part, the longest array the slope.
# Operations at the left wait for memory. To make them faster, there is no use in a chip with more multipliers; only
# moving fewer bytes helps. Operations at the right wait for arithmetic. Nothing guarantees that an operation reaches
# the roof. The first convolution, with a single channel to read, rarely does, because its small kernels do not fill
# the instructions. And points above the roof are no mistake: their numbers were still in a cache, which is faster
# than the memory that the slope stands for, or they were written where they had been read.


# %%
def roofline(ax, machine: str, shade: str, works: dict) -> None:
    """The roof of one machine, and what was measured of some works beneath it."""
    peak, speed = max(rate[machine] for rate in peaks.values()), speeds[machine][-1]
    x = torch.logspace(-1.3, 2.8, 100)
    ax.plot(x, (x * speed).clamp(max=peak) / 1e9, color=color.quiet)
    for name, (_, (FLOPs, moved)) in works.items():
        at, rate = FLOPs / moved, found[name][machine] / 1e9
        ax.plot(at, rate, "o", color=shade, zorder=3)
        side = {"xytext": (7, -10)} if at < 20 else {"xytext": (-7, 5), "ha": "right"}
        white = {"bbox": {"fc": "white", "ec": "none", "pad": 1}, "zorder": 1}
        ax.annotate(name, (at, rate), **side, **POINTS, **white, color=shade)
    ax.set(yscale="log", xlabel="FLOPs for each byte", ylabel="GFLOP/s")
    log_scale(ax.xaxis, [0.1, 1, 10, 100])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.margins(y=0.12)


# %%
size = {"figsize": (8.5, 3.6 * len(MACHINES)), "width_ratios": [2, 3]}
fig, axes = plt.subplots(len(MACHINES), 2, squeeze=False, **size)
for (left, right), machine in zip(axes, MACHINES, strict=True):
    roofline(left, machine, color.gradient, slices)
    roofline(right, machine, color.model, layers)
    left.set_title(f"{machine}: one product, in slices")
    right.set_title(f"{machine}: layers")
said = "A slope that ends in a flat roof, on logarithmic axes. Left, a product in slices of 1, 4, 16 and 128, "
said += "which climbs along the slope. Right, five layers; with few FLOPs for a byte they are slow."
figure("2.1c", "The roofline of this machine, and what it does below.", said, held="measured")

# %% [markdown]
# ### Batches
#
# Here is the lesson in practice. A linear layer that gets a single signal reads all its weights, four bytes for each,
# and does two FLOPs with each of them: half a FLOP for a byte, far down the slope. But the weights are the same for
# all signals. So one gives it many signals at once, a **batch**, as the rows of one matrix, and each weight that is
# fetched is used for all of them. What was a product of a vector and a matrix becomes one of two matrices. The result
# is the same, row by row.

# %%
model = nn.Linear(784, 512).to(DEVICE)
x = mnist("test", DEVICE)[0][:64].flatten(1)  # (B, 784)
one_by_one = torch.stack([model(image) for image in x])  # (B, 512)
claim("a batch of images and one image at a time", model(x), equals=one_by_one, within=1e-4)

# %% [markdown]
# The time is not. Here is a network of three layers for digits, with 46 MB of weights, too many for most caches, that
# gets from one to 1024 images at a time. At first the number of images in a second grows nearly as fast as the batch:
# the others come along for free while the weights pass by. Then the arithmetic has caught up with the memory, and the
# curve becomes a plateau. From there on, a batch twice as large takes about twice as long. (Where it bends, and how
# high the plateau is, depends on your machine. On a GPU the bend usually lies further to the right.)


# %%
def throughputs(network: nn.Module, sizes: list[int], on: torch.device) -> list[float]:
    """Images in a second with batches of these sizes; all sizes in turn, and the best of three times."""
    images, best = torch.rand(max(sizes), 784, device=on), [0.0] * len(sizes)
    for _ in range(3):
        for i, size in enumerate(sizes):
            time = seconds(partial(network.to(on), images[:size]), on, repeats=1)
            best[i] = max(best[i], size / time)
    return best


# %%
sizes = [2**n for n in range(11)]
layers = nn.Linear(784, 4096), nn.ReLU(), nn.Linear(4096, 2048), nn.ReLU(), nn.Linear(2048, 10)
network = nn.Sequential(*layers).requires_grad_(False)
through = {name: throughputs(network, sizes, on) for name, on in MACHINES.items()}

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.3))
for name, shade in zip(MACHINES, (color.model, color.output), strict=False):
    ax.plot(sizes, through[name], "-o", color=shade)
    ax.annotate(name, (sizes[-1], through[name][-1]), (8, -4), **POINTS, color=shade)
log_scale(ax.xaxis, sizes)
ax.set(xlabel="images in a batch", ylabel="images in a second", ylim=(0, None), xlim=(0.9, 1700))
said = "The number of images in a second grows with the batch, then reaches a plateau."
figure("2.1d", "Throughput against batch size.", said, held="measured")

# %%
best = max(through["CPU"][:-1])  # of all batches but the largest
claim("images in a second, best batch against one image", best / through["CPU"][0], at_least=1.5)
claim("what a batch of 1024 gains over the best before it", through["CPU"][-1] / best, at_most=1.4)

# %% [markdown]
# All training and most use of networks is done in batches for this reason. There are prices: activations of all
# images must be kept in memory at once, and somebody who waits for a single answer has to wait for the batch. Also,
# large batches change how well a network learns; that is for chapter 3.
#
# Where the bend lies follows from the roofline, so one can compute it for machines that one does not have. The
# numbers below are those that the makers state; the laptop is a typical one. See how much further the bend is to the
# right for the large chips: their arithmetic has grown faster than their memory. A layer of a large model, 8192 wide,
# needs a batch of some hundreds before a tensor core is worth its price.

# %%
CHIPS = {  # peak performance in FLOP/s, memory speed in bytes/s, bytes of a number
    "a laptop's CPU": (2e11, 5e10, 4),
    "A100, FP32": (19.5e12, 2.0e12, 4),
    "A100, tensor cores": (312e12, 2.0e12, 2),
    "H100, tensor cores": (989e12, 3.35e12, 2),
}
x = torch.logspace(-1, 4, 200)


# %%
def scene(fig):
    """The rooflines of four chips, each a slope that ends in a flat roof, with a dot on it."""
    ax = fig.subplots()
    shades = (color.data, color.input, color.model, color.output)
    for shade, (name, (peak, speed, _)) in zip(shades, CHIPS.items(), strict=True):
        style = "--" if name == "A100, FP32" else "-"
        ax.plot(x, (x * speed).clamp(max=peak) / 1e12, style, color=shade, lw=1.5)
        ax.annotate(name, (x[-1], peak / 1e12), (6, -4), **POINTS, color=shade)
    dots = [ax.plot([], [], "o", color=shade, ms=8)[0] for shade in shades]
    ax.set(xscale="log", yscale="log", xlabel="FLOPs for each byte", ylabel="TFLOP/s")
    ax.set(xticks=[0.1, 1, 10, 100, 1000, 10000], xlim=(0.1, 5e5))

    def update(batch_2_to_the, width_2_to_the):
        batch, width = 2**batch_2_to_the, 2**width_2_to_the
        FLOPs, moved = linear_cost(batch, width, width)
        shares = []
        for dot, (peak, speed, size) in zip(dots, CHIPS.values(), strict=True):
            at = FLOPs / moved * 4 / size
            dot.set_data([at], [min(peak, at * speed) / 1e12])
            shares.append(f"{min(1, at * speed / peak):.1%}")
        listed = ", ".join(f"{name} {share}" for name, share in zip(CHIPS, shares, strict=True))
        return f"batch {batch}, width {width}; share of the peak: {listed}"

    return update


# %%
sizes = {"batch_2_to_the": slider(0, 14, 3), "width_2_to_the": slider(6, 14, 13)}
explore(scene, "2.1e", "A linear layer on four chips, by its roofline.", (8, 3.7), **sizes)

# %% [markdown]
# ### Fewer bits
#
# One more way to move fewer bytes: make each number smaller. The usual format, **FP32**, takes 32 bits. It is the
# scientific notation of school, such as $-3.14 \times 10^5$, in base two. One bit $s$ is the sign. Eight bits are an
# exponent $e$, which says between which two powers of two the number lies. The other $m = 23$ bits are a whole number
# $f$ below $2^m$, the fraction, which says where between the two:
#
# $$x = (-1)^s \cdot 2^{e - \text{bias}} \cdot \Big(1 + \frac{f}{2^{m}}\Big)$$
#
# The bias lets the exponent be negative: it is 127 for eight bits, half of what they can count to. Where all bits of
# the exponent are zero, the 1 is left out and the exponent counts as 1, so that zero itself exists and the numbers
# next to it are evenly spaced; where all are one, the pattern means infinity, or "not a number". FP16 has 5 bits for
# the exponent and 10 for the fraction; BF16, the *brain float*, keeps the eight of FP32 and has but 7 left.

# %% tags=["export"]
FORMATS = {  # the type, the integer of the same size, bits of the exponent, bits of the fraction
    "FP32": (torch.float32, torch.int32, 8, 23),
    "FP16": (torch.float16, torch.int16, 5, 10),
    "BF16": (torch.bfloat16, torch.int16, 8, 7),
}


# %% tags=["export"]
def decode(code: Tensor, exponent_bits: int, fraction_bits: int) -> Tensor:
    """The finite numbers (...), float64, that bit patterns (...), int64, stand for."""
    fraction = (code & (2**fraction_bits - 1)).double() / 2**fraction_bits
    exponent = (code >> fraction_bits) & (2**exponent_bits - 1)
    sign = 1 - 2 * ((code >> (exponent_bits + fraction_bits)) & 1)
    bias = 2 ** (exponent_bits - 1) - 1
    normal = (1 + fraction) * (exponent - bias).double().exp2()
    near_zero = fraction * 2.0 ** (1 - bias)
    return sign * torch.where(exponent == 0, near_zero, normal)


# %% [markdown]
# `&` keeps some of the bits, `>>` shifts them to the right, and `exp2` raises two to a power. Is that all there is to
# it? There are only 65,536 patterns of 16 bits, so we can try every one, and for FP32 a hundred thousand at random.
# `view` reads the same bits as another type; `isfinite` leaves out what is no number.

# %%
for name, (dtype, integer, exponent_bits, fraction_bits) in FORMATS.items():
    total = 1 + exponent_bits + fraction_bits
    some = torch.randint(-(2**31), 2**31, (100_000,), generator=seed(0))
    code = torch.arange(-(2**15), 2**15) if total == 16 else some
    ours = decode(code, exponent_bits, fraction_bits)
    theirs = code.to(integer).view(dtype).double()
    finite = theirs.isfinite()
    claim(f"bits of {name} read by hand", ours[finite], equals=theirs[finite])

# %% [markdown]
# Two questions decide what a format is good for. How large and how small can numbers get? That is up to the exponent.
# And how far is a number from the nearest one that exists? That is up to the fraction: with $m$ bits there are $2^m$
# numbers between one power of two and the next, so rounding changes a number by at most one part in $2^{m+1}$. There
# are also formats without any exponent. INT8 is one of the 255 whole numbers from −127 to 127, times a scale that all
# numbers of a tensor share. We choose the scale such that the largest number becomes 127.


# %% tags=["export"]
def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (...) as whole numbers from -127 to 127, int8, and the scale, a tensor of one element, that gives x back."""
    scale = x.abs().max() / 127
    return (x / scale).round().to(torch.int8), scale


# %% [markdown]
# Twenty thousand numbers of all sizes, from a ten thousand millionth to a million, rounded to each format; for INT8
# those up to 1, which gets the code 127.

# %%
x = torch.cat([torch.tensor([1.0]), torch.rand(20_000, generator=seed(0)).double() * 16 - 10])
x[1:] = 10 ** x[1:]  # from 1e-10 to 1e6
rounded = {name: x.to(dtype).double() for name, (dtype, *_) in FORMATS.items()}
codes, scale = to_int8(x[x <= 1])
errors = {name: (y / x - 1).abs() for name, y in rounded.items()}  # relative, (20001,) each
errors["INT8"] = torch.full_like(x, math.inf)
errors["INT8"][x <= 1] = (codes * scale / x[x <= 1] - 1).abs()

# %%
normal = (x > 1e-4) & (x < 6e4)  # a range in which all three have a full fraction
halves = {name: 2.0 ** -(bits + 1) for name, (_, _, _, bits) in FORMATS.items()}  # of the last bit
worst = torch.tensor([errors[name][normal].max() / half for name, half in halves.items()])
reached = bool((worst > 0.9).all() and (worst <= 1).all())
claim("rounding errors come near to half of the last bit, and none is larger", reached)

# %% [markdown]
# The figure shows, for each format, the largest relative error among numbers of about the same size. The
# floating-point formats are level: they give large and small numbers the same number of digits, FP32 seven, FP16
# three, BF16 two. Only FP16 ends within the picture. Beyond 65,504 it has nothing but infinity, and below 0.00006 it
# runs out of exponents and loses digits. Gradients are often that small, which is why training in FP16 is delicate
# and training in BF16 is not. INT8 is about as good as BF16 near its largest number, and far below it useless: like
# FP16 at the very left, it has nothing but zero there, which is wrong by all of the number.

# %%
edges = torch.linspace(-10, 6, 81).double()  # exponents of ten
places = torch.bucketize(x[1:].log10(), edges) - 1  # in which of the 80 intervals each number is
fig, ax = plt.subplots(figsize=(7.5, 3.6))
labels = {"FP32": (-9.7, 2e-8), "FP16": (-7.6, 8e-2), "BF16": (4.6, 6e-3), "INT8": (-1.3, 2.4e-1)}
shades = (color.data, color.model, color.output, color.gradient)
for (name, (at, height)), shade in zip(labels.items(), shades, strict=True):
    worst = torch.zeros(80).double()
    worst = worst.scatter_reduce(0, places, errors[name][1:], "amax")  # in each interval
    ax.plot(10 ** (edges[1:] - 0.1), worst.where(worst < 1.5, math.nan), color=shade)
    ax.text(10**at, height, name, color=shade)
ax.set(xscale="log", yscale="log", xlabel="number", ylabel="relative error", ylim=(1e-8, 3))
said = "Errors of rounding: level at 6e-8 for FP32 and 4e-3 for BF16; FP16 level at 5e-4 from 6e-5 to 65504, "
said += "with a rise below; INT8 rising steadily from 4e-3 at 1 to 100 % at 0.004."
figure("2.1f", "What rounding costs.", said)

# %% [markdown]
# Look at the bits themselves. Here is one number in four formats: sign in pink, exponent in orange, fraction or whole
# number in blue; a filled square is a one. INT8 has a scale of 1/32 here, which lets it reach from −4 to 4, and
# writes a negative number as 256 minus its size, as most computers do. The power of ten moves the exponent, the
# digits mostly the fraction. Find the places where FP16 gives up and BF16 does not. And see that FP32 with the last
# 16 bits cut off is BF16, up to rounding: turning one into the other is nearly free.


# %%
def bits_of(x: Tensor, name: str) -> tuple[list[int], float]:
    """The bits of a number, highest first, and the number that they stand for."""
    if name == "INT8":
        code = (x * 32).round().clamp(-127, 127).to(torch.int8)  # a scale of 1/32
        return [int(code) >> n & 1 for n in range(7, -1, -1)], int(code) / 32
    dtype, integer, exponent_bits, fraction_bits = FORMATS[name]
    code = int(x.to(dtype).view(integer))
    return [code >> n & 1 for n in range(exponent_bits + fraction_bits, -1, -1)], x.to(dtype).item()


# %%
def how_far(x: float, stored: float) -> str:
    """The distance of a stored number from the right one, in words."""
    if x == stored:
        return "exact"
    if not math.isfinite(stored) or abs(stored) < 0.6 * abs(x):
        return "out of reach"
    return f"wrong by 1 part in {abs(x / (stored - x)):,.0f}"


# %%
KINDS = {name: [1, e, m] for name, (_, _, e, m) in FORMATS.items()} | {"INT8": [1, 0, 7]}


# %%
def scene(fig):
    """Four rows of squares, the bits of one number in FP32, FP16, BF16 and INT8, and what they stand for."""
    ax = fig.subplots()
    roles = (color.weights, color.gradient, color.model)
    rows, values = {}, {}
    for row, (name, kinds) in enumerate(KINDS.items()):
        shades = [shade for shade, count in zip(roles, kinds, strict=True) for _ in range(count)]
        squares = [
            plt.Rectangle((n + 0.1, -row), 0.8, 0.7, ec=s, lw=1) for n, s in enumerate(shades)
        ]
        rows[name] = [
            (ax.add_patch(square), shade) for square, shade in zip(squares, shades, strict=True)
        ]
        ax.text(-0.5, 0.35 - row, name, ha="right", va="center")
        values[name] = ax.text(32.6 if row == 0 else 16.6, 0.35 - row, "", va="center")
    for at, word, shade in zip((0.1, 1.5, 9.1), ("±", "exponent", "fraction"), roles, strict=True):
        ax.text(at, 0.85, word, color=shade)
    ax.set(xlim=(-3, 53), ylim=(-3.2, 1.4))
    ax.axis("off")

    def update(digits, power_of_ten):
        x = torch.tensor(digits * 10.0**power_of_ten, dtype=torch.float64)
        for name, squares in rows.items():
            bits, stored = bits_of(x, name)
            for (square, shade), bit in zip(squares, bits, strict=True):
                square.set_facecolor(shade if bit else "white")
            values[name].set_text(f"{stored:.9g}, {how_far(x.item(), stored)}")
        return f"the number is {x:.9g}; in FP16 {bits_of(x, 'FP16')[1]:.6g}, in BF16 {bits_of(x, 'BF16')[1]:.6g}"

    return update


# %%
numbers = {"digits": slider(-4, 4, 3.14, 0.01), "power_of_ten": slider(-9, 9, 0)}
explore(scene, "2.1g", "One number in four formats.", (9, 2.5), **numbers)

# %% [markdown]
# Rounding once is harmless. Rounding ten thousand times may not be. Add 0.1 again and again, which should give a
# thousand: in FP16 the sum gets stuck at 256, where the next number is 256.25, and 256.1 is nearer to 256. In BF16 it
# is stuck at 32. A sum should be kept in a wider format than what is summed up, and this is why tensor cores multiply
# in 16 bits and add in 32.

# %%
for name, stuck in (("FP16", 256.0), ("BF16", 32.0)):
    dtype = FORMATS[name][0]
    step, total = torch.tensor(0.1, dtype=dtype), torch.tensor(0.0, dtype=dtype)
    for _ in range(10_000):
        total = total + step
    wide = step.expand(10_000).sum(dtype=torch.float32)
    print(f"ten thousand times {step:.6f} in {name}: {total:.2f}; with the sum in FP32: {wide:.1f}")
    claim(f"the sum in {name} is stuck at {stuck:g}", total.float(), equals=stuck)

# %% [markdown]
# The same trap waits in any mean over many numbers, and in training itself: when a weight of 1 in BF16 is to grow by
# less than 0.0039, it does not move at all. So the weights that are trained are kept in FP32, even where all products
# are computed in 16 bits.
#
# What does all this mean for a network? Little, and that is the good news. A network has learned from noisy examples
# to give the right answer with something to spare; one part in a few hundred of the largest weight, more or less, is
# the least of its worries. We train one on digits in FP32, then round all its weights and the images to each of the
# other formats, and count what it still recognizes. (Only what is stored is rounded here; sums are still formed in
# FP32.) Chapter 8 goes much further down.

# %%
images, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
images_new, labels_new = mnist("test", DEVICE)
seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)).to(DEVICE)

# %%
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
data = batches(images, labels, size=100)
fit(network, data, lambda model, x, y: F.cross_entropy(model(x), y), optimizer, epochs=8)


# %%
def rounded_to(x: Tensor, name: str) -> Tensor:
    """x as it is after a stay in another format."""
    if name == "INT8":
        codes, scale = to_int8(x)
        return codes * scale
    return x.to(FORMATS[name][0]).to(x.dtype)


# %%
def accuracy(name: str) -> float:
    """The share of test digits recognized with weights and images in this format."""
    state = {key: rounded_to(value, name) for key, value in network.state_dict().items()}
    scores = torch.func.functional_call(network, state, rounded_to(images_new, name))  # (2000, 10)
    return (scores.argmax(dim=1) == labels_new).double().mean().item()


# %%
claim("accuracy of a small network in FP32", accuracy("FP32"), at_least=0.93)

# %%
change = max(abs(accuracy(name) - accuracy("FP32")) for name in ("FP16", "BF16", "INT8"))
claim("what FP16, BF16 and INT8 change in it, at most", change, at_most=0.01)

# %% [markdown]
# And the speed? For work that waits for memory it is simple: half the bytes, half the time. For products it depends
# on whether the chip has multipliers for the format. With them, each halving of the bits may double the rate; without
# them, the numbers are taken apart one by one, dozens of times slower than in FP32. See what yours has. (`_int_mm`
# multiplies INT8 and adds in 32 bits. The underscore says that PyTorch does not yet promise to keep it.)


# %%
def copying(on: torch.device, dtype: torch.dtype):
    """The work of copying 2**24 numbers."""
    x = torch.ones(2**24, device=on).to(dtype)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


# %%
def multiplying(on: torch.device, dtype: torch.dtype):
    """The work of multiplying two matrices of 512 x 512, whole numbers included."""
    if dtype != torch.int8:
        return multiply(on, 512, dtype)
    A = torch.randint(-127, 128, (512, 512), generator=seed(0)).to(on, dtype)
    return lambda: torch._int_mm(A, A)


# %%
types = {name: dtype for name, (dtype, *_) in FORMATS.items()} | {"INT8": torch.int8}
copied = {name: dict.fromkeys(MACHINES, 0.0) for name in types}
for name, dtype in [*types.items()] * 5:  # five rounds, of which the best counts
    for machine, rate in rates(lambda on, dtype=dtype: copying(on, dtype), 2**24).items():
        copied[name][machine] = max(copied[name][machine], rate)

# %%
for name, dtype in types.items():
    products = rates(lambda on, dtype=dtype: multiplying(on, dtype), 2 * 512**3)
    note(f"{name}, copied", shown(copied[name], "thousand million numbers/s"))
    note(f"{name}, multiplied", shown(products, "thousand million operations/s"))

# %%
gain = copied["INT8"]["CPU"] / copied["FP32"]["CPU"]
claim("numbers copied in a second, INT8 against FP32, as a factor", gain, at_least=1.5)

# %% [markdown]
# **Exercise.** From which batch on is a machine busy with arithmetic, and no longer waiting for memory? A linear
# layer with as many outputs as inputs, `width`, in numbers of 4 bytes, has the intensity that `linear_cost` gives.
# Set it equal to the ratio of peak performance and memory speed, and solve for the batch. For a layer that is too
# narrow there is no such batch: return infinity.


# %% tags=["exercise"]
def balanced_batch(width: int, peak: float, speed: float) -> float:
    """The batch size at which a width x width layer takes as long to compute as to move its bytes.

    peak is in FLOP/s, speed in bytes/s.
    """
    raise NotImplementedError


check(
    balanced_batch,
    ("width 1000, 250 GFLOP/s, 25 GB/s: 20.8", lambda g: (float(g(1000, 250e9, 25e9)), 125 / 6)),
    ("width 16, 100 GFLOP/s, 10 GB/s: never", lambda g: (float(g(16, 100e9, 10e9)), math.inf)),
)


# %% tags=["solution", "hide-input"]
def balanced_batch(width: int, peak: float, speed: float) -> float:
    """2 B W² = (peak / speed) · 4 (2 B W + W²), solved for B."""
    ratio = 4 * peak / speed
    room = 2 * width - 2 * ratio
    return ratio * width / room if room > 0 else math.inf


# %% [markdown]
# ## 2.2 Tensors
#
# Chapter 1 has used tensors without asking what they are. Whatever a network reads, computes or writes, it is a
# **tensor**: a table of numbers of one type, with any number of dimensions. A single number has none, a list one, a
# matrix two. The *shape* says how many entries there are along each. What the dimensions mean is a matter of
# convention, and these are the conventions:
#
# * a time series is $T \times D$: at each of $T$ moments, $D$ numbers; a mono sound has $D = 1$;
# * an image is $D \times H \times W$: for each of $D$ **channels**, a picture of $H$ rows and $W$ columns. A colour
#   image has three, red, green and blue. Deep inside a network there may be hundreds, and nobody can name them;
# * a batch gets one more dimension in front: $N \times D \times H \times W$ for $N$ images;
# * a text of $T$ characters or words is a list of $T$ whole numbers, their places in a vocabulary, and soon becomes
#   $T \times D$, when each place is replaced by a vector (chapter 4).
#
# The channels come before rows and columns, and the images of a batch before everything else. That is PyTorch's
# habit; files of images often have the channels last.
#
# What is computed on the way from the input to the output of a network comes in the same forms. Such intermediate
# tensors, and the numbers in them, are called **activations**. A batch of 256 images with 32 channels of 24 x 24
# activations each is a tensor of 4.7 million numbers, and a small one.
#
# Here is one signal of each kind, from the data that come with this companion.

# %%
voices = speech("test", DEVICE)
sound = voices.waves[0, : voices.lengths[0], None]  # (T, 1)
photos, names, *_ = photographs("train", DEVICE)  # (N, 3, 512, 512)
photo = photos[names.index("brushes")].contiguous()  # (3, 512, 512), in reading order
drawn = emoji("twemoji", "test", DEVICE).images[:12]  # (12, 4, 32, 32), the last one is opacity
faces = drawn[:, :3] * drawn[:, 3:] + 1 - drawn[:, 3:]  # (12, 3, 32, 32), on white paper
play = shakespeare("train", DEVICE)
text = play.codes[:24]  # (24,)

# %%
signals = {"sound": sound, "photograph": photo, "emoji": faces, "text": text}
for name, tensor in signals.items():
    print(f"{name:10} {tuple(tensor.shape)!s:17} {tensor.dtype}, {tensor.numel():,} numbers")

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.5, 2.5), width_ratios=[3, 2, 2.7, 3])
axes[0].plot(sound[:, 0].cpu(), lw=0.5, color=color.data)
axes[1].imshow(photo[:, ::4, ::4].movedim(0, 2).cpu().numpy())
axes[2].imshow(faces.unflatten(0, (3, 4)).permute(0, 3, 1, 4, 2).reshape(96, 128, 3).cpu().numpy())
for n, (character, code) in enumerate(zip(play.text, text.tolist(), strict=False)):
    axes[3].text(n % 6, -2 * (n // 6), character, ha="center", color=color.data)
    axes[3].text(n % 6, -2 * (n // 6) - 0.8, code, ha="center", fontsize=9, color=color.model)
axes[3].set(xlim=(-0.6, 5.6), ylim=(-7.4, 0.9))
for ax, (name, tensor) in zip(axes, signals.items(), strict=True):
    ax.set(xticks=[], yticks=[], anchor="N")
    ax.set_title(f"{name}\n{' × '.join(map(str, tensor.shape))}", linespacing=1.4)
    ax.spines[:].set_visible(False)
shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in signals.items())
figure("2.2a", "Signals are tensors.", f"Four signals with their shapes: {shapes}")

# %% [markdown]
# The numbers of a tensor are all of one type, its `dtype`, such as `float32`, so that an operation can run over them
# without asking. A **framework** such as PyTorch or JAX is three things in one: tensors that live on a CPU or a GPU,
# some hundreds of operations on them that are fast on either, and a record of what was computed from what, with which
# it finds gradients (chapter 3). A Python program only says what is to be done with whole tensors. That is why a slow
# language can drive the fastest machines there are.
#
# ### A row of numbers and a recipe
#
# Memory has no dimensions. It is one long row of cells. How does a table of four dimensions lie in there? A tensor
# consists of two parts. The *storage* is a stretch of cells with the numbers in them. The recipe tells which cell an
# index means: where to start, and for each dimension a *stride*, how many cells to go on for one step of that index:
#
# $$\text{cell} = \text{start} + \sum_d \text{index}_d \times \text{stride}_d$$
#
# In a matrix of 4 rows and 6 columns, written row by row, one step to the right is the next cell, and one row down is
# six cells on: the strides are 6 and 1. The function below computes the formula for all indices at once, one
# dimension after the other. (`None` in an index appends a dimension of size 1, along which the new index is then
# added.)


# %% tags=["export"]
def cells_of(x: Tensor) -> Tensor:
    """For each element of x (...) the number of its cell in the storage: (...), int64."""
    cell = torch.tensor(x.storage_offset(), device=x.device)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        cell = cell[..., None] + stride * torch.arange(size, device=x.device)
    return cell


# %%
x = torch.arange(24.0).reshape(4, 6)
for name, view in {"x": x, "x.T": x.T, "x[1:, ::2]": x[1:, ::2], "x[2]": x[2]}.items():
    shape, strides = tuple(view.shape), view.stride()
    print(f"{name:10} shape {shape!s:7} strides {strides!s:7} starts at {view.storage_offset()}")

# %% [markdown]
# Nothing was moved for any of these. `x.T`, the transposed matrix, swaps the two sizes and the two strides. A slice
# starts elsewhere, and takes a longer step. Such a tensor is called a *view*: it has a recipe of its own, but shares
# the storage. It may reach fewer cells than there are, and they need not be neighbours. If that is all there is to
# it, then the storage, read at our cells, must give the elements of every view whatsoever. Here are some of a real
# photograph: a part of it, every eighth pixel, rows and columns exchanged, the colours as the last dimension, the
# diagonal, one row stretched to many, and all squares of 16 x 16 pixels.

# %%
views = {  # name -> a view of the photograph
    "photo[:, 100:300, 200:500]": photo[:, 100:300, 200:500],
    "photo[:, ::8, ::8]": photo[:, ::8, ::8],
    "photo.mT": photo.mT,
    "photo.movedim(0, 2)": photo.movedim(0, 2),
    "photo.diagonal(0, 1, 2)": photo.diagonal(0, 1, 2),
    "photo[:, 256:257].expand(3, 512, 512)": photo[:, 256:257].expand(3, 512, 512),
    "photo.unfold(1, 16, 16).unfold(2, 16, 16)": photo.unfold(1, 16, 16).unfold(2, 16, 16),
}

# %%
count = photo.untyped_storage().nbytes() // photo.element_size()
storage = photo.as_strided((count,), (1,), 0)  # all cells in a row
for name, view in views.items():
    claim(f"{name}, by its cells", storage[cells_of(view)], equals=view)

# %% [markdown]
# Some of them, with their strides. Read them. Every eighth pixel has eightfold strides in rows and columns. To
# transpose is to swap two of them. The stretched row has a stride of 0: all its rows are the same cells. And to cut
# an image into squares makes five dimensions out of three, with the strides of a step to the next square and of a
# step inside. Chapter 4 will slide kernels over such squares, and chapter 5 feed them to a transformer.

# %%
squares = photo.unfold(1, 16, 16).unfold(2, 16, 16)[:, 9:13, 9:13]  # (3, 4, 4, 16, 16), some
pictures = {
    "every eighth pixel": photo[:, ::8, ::8],
    "transposed": photo.mT,
    "one row, stretched": photo[:, 256:257].expand(3, 512, 512),
    "a part": photo[:, 100:400, 200:500],
    "squares": squares,
}

# %%
fig, axes = plt.subplots(1, 5, figsize=(9, 2.1))
for ax, (name, view) in zip(axes, pictures.items(), strict=True):
    if view is squares:  # leave gaps between them
        view = F.pad(view, (1, 1, 1, 1), value=1).permute(0, 1, 3, 2, 4).reshape(3, 72, 72)
    step = math.ceil(view.shape[1] / 100)
    ax.imshow(view[:, ::step, ::step].movedim(0, 2).cpu().numpy())
    ax.set(xticks=[], yticks=[], title=name)
    ax.set_xlabel(", ".join(map(str, pictures[name].stride())), fontsize=9)
    ax.spines[:].set_visible(False)
said = "; ".join(f"{name}, with strides {view.stride()}" for name, view in pictures.items())
figure("2.2b", "Five views of one photograph and their strides; nothing is copied.", said)

# %% [markdown]
# Here is the whole mechanism with 24 cells. Above is the view as a table, below the row of memory. Blue cells can be
# reached from the view; the orange one is the element picked, whose cell is computed beside it. Cut rows off, take
# larger steps, transpose. Stretch the first row: its four copies are the same cells, reached with a stride of zero.
# Then flatten the table, which makes it a list. As long as a single stride leads from each element to the next, the
# list is a view as well. After transposing there is usually none, and PyTorch has to copy: a second row of memory
# appears.


# %%
def changed(first_row: int, column_step: int, transposed: bool, stretched: bool, flattened: bool):
    """The table of 4 x 6 numbers, and what the controls make of it."""
    x = torch.arange(24).reshape(4, 6)
    view = x[first_row:, ::column_step]
    view = view.T if transposed else view
    view = view[:1].expand(4, -1) if stretched else view
    return x, view.reshape(-1) if flattened else view


# %%
def scene(fig):
    """Above, a table of numbers and its recipe. Below, the row of memory cells in which they lie."""
    ax = fig.subplots()
    boxes = {}
    for kind, edge in (("table", color.model), ("memory", color.quiet), ("copy", color.quiet)):
        squares = [ax.add_patch(plt.Rectangle((0, 0), 0.9, 0.9, ec=edge, lw=1)) for _ in range(24)]
        numbers = [ax.text(0, 0, "", ha="center", va="center", fontsize=10) for _ in range(24)]
        boxes[kind] = list(zip(squares, numbers, strict=True))
    ax.text(-0.3, 0.45, "memory", ha="right", va="center")
    recipe = ax.text(9, 4.2, "", va="center", linespacing=1.6)
    word = ax.text(-0.3, -0.85, "", ha="right", va="center")
    ax.set(xlim=(-2.6, 24.2), ylim=(-1.4, 7.8), aspect="equal")
    ax.axis("off")

    def place(kind, n, across, up, number, shade):
        square, text = boxes[kind][n]
        square.set(xy=(across, up), facecolor=shade, visible=number != "")
        text.set(position=(across + 0.45, up + 0.42), text=number)

    def update(first_row, column_step, transposed, stretched, flattened, picked):
        x, view = changed(first_row, column_step, transposed, stretched, flattened)
        table, cells = view.reshape(-1).tolist(), cells_of(view).reshape(-1).tolist()
        copied = view.data_ptr() != x[first_row:].data_ptr()
        n, columns = min(picked, len(table) - 1), view.shape[-1]
        for k in range(24):
            there = k < len(table)
            shades = [color.gradient if here else "#d6e8f4" for here in (k == n, k == cells[n])]
            place("table", k, k % columns, 6.6 - k // columns, table[k] if there else "", shades[0])
            place("memory", k, k, 0, k, "white" if copied or k not in cells else shades[1])
            place("copy", k, k, -1.3, table[k] if copied and there else "", shades[0])
        index = divmod(n, columns) if view.dim() == 2 else (n,)
        steps = " + ".join(f"{i} × {s}" for i, s in zip(index, view.stride(), strict=True))
        word.set_text("copy" if copied else "")
        said = f"shape {tuple(view.shape)}, strides {view.stride()}, start {view.storage_offset()}"
        sum_of_steps = f"cell {view.storage_offset()} + {steps} = {cells[n]}"
        recipe.set_text(f"{said}\nelement {index}: {sum_of_steps}")
        return ("a copy in new memory: " if copied else "a view: ") + said

    return update


# %%
cut = {"first_row": slider(0, 3, 0), "column_step": slider(1, 5, 2), "picked": slider(0, 23, 4)}
turns = {"transposed": toggle(), "stretched": toggle(), "flattened": toggle()}
caption = "A tensor, and the cells of memory that it reaches."
explore(scene, "2.2c", caption, (8, 2.8), **cut, **turns)

# %% [markdown]
# ### What is free and what is not
#
# Views share their cells. To write into one changes every view that reaches the same cell, which is useful when it is
# meant, and a trap when it is not.

# %%
x = torch.zeros(2, 3, device=DEVICE)
x.T[2, 1] = 7.0
claim("writing into x.T changes x", x[1, 2], equals=torch.tensor(7.0, device=DEVICE))
claim("x and x.T begin at the same cell", x.T.data_ptr() == x.data_ptr())

# %% [markdown]
# The second check compares addresses: `data_ptr` is where in the computer's memory the first element lies.
#
# And a view costs the same microsecond or two, whatever its size, because only the recipe is written. A copy has to
# find new memory, and to read and write every number. PyTorch copies a transposed matrix when one asks for
# `contiguous` memory, in which the elements lie in reading order. It goes about it in tiles, for the reason that
# section 2.1 has shown.

# %%
x = torch.rand(4096, 4096)  # 64 MB
times = {
    "x.T, a view": seconds(lambda: x.T),
    "x.clone(), a copy": seconds(lambda: x.clone(), repeats=3),
    "x.T.contiguous(), a transposed copy": seconds(lambda: x.T.contiguous(), repeats=3),
}
for name, time in times.items():
    note(name, f"{time * 1e6:,.1f} millionths of a second")

# %%
ratio = times["x.clone(), a copy"] / times["x.T, a view"]
claim("time of a copy of 64 MB, as a multiple of a view's", ratio, at_least=100)

# %% [markdown]
# When does `reshape` copy? Whenever the new dimensions cannot be walked with constant strides. It does so without a
# word. `view` is the same, but refuses to copy, so that one gets to know; its message offers `reshape`.

# %%
x = torch.arange(6).reshape(2, 3)
claim("flattening x needs no copy", x.reshape(-1).data_ptr() == x.data_ptr())
claim("flattening x.T needs one", x.T.reshape(-1).data_ptr() != x.data_ptr())

# %%
try:
    x.T.view(-1)
except RuntimeError as error:
    print("PyTorch says:", error)

# %% [markdown]
# ### Broadcasting
#
# A stride of zero has a great use. To subtract from each image of a batch a mean for each channel, one would have to
# repeat the three means over all images, rows and columns, and fill a second batch with copies of three numbers.
# *Broadcasting* does it without repeating anything: where an operation gets tensors of different shapes, it stretches
# them to a common one by strides of zero.
#
# The rule: write the two shapes under each other, aligned at the right, and fill up the shorter one with ones at the
# left. In each place the sizes must be equal, or one of them must be 1; then that one is stretched. Everything else
# is an error.


# %% tags=["export"]
def broadcast_shape(a: tuple, b: tuple) -> tuple:
    """The shape that tensors of shapes a and b are stretched to; ValueError if they do not fit."""
    longest = max(len(a), len(b))
    a, b = ((1,) * (longest - len(shape)) + tuple(shape) for shape in (a, b))
    if any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        raise ValueError(f"expected sizes that are equal or 1, got {a} and {b}")
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


# %% tags=["export"]
def stretch(x: Tensor, shape: tuple) -> Tensor:
    """x as a view of a larger shape: along the dimensions that are new or were 1, the stride is 0."""
    new = len(shape) - x.dim()
    strides = [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(shape, [0] * new + strides, x.storage_offset())


# %% [markdown]
# The test: five hundred pairs of random shapes, of two and of three dimensions with sizes from 1 to 3. Our rule and
# PyTorch's must accept the same pairs, and give the same tensors for them.


# %%
def attempt(function, *inputs):
    """What a function returns, or None if it refuses."""
    try:
        return function(*inputs)
    except (ValueError, RuntimeError):
        return None


# %%
generator, stretched, refused = seed(4), 0, 0
for _ in range(500):
    shapes = [torch.randint(1, 4, (n,), generator=generator).tolist() for n in (2, 3)]
    pair = [torch.rand(shape, generator=generator).to(DEVICE) for shape in shapes]
    theirs, shape = attempt(torch.broadcast_tensors, *pair), attempt(broadcast_shape, *shapes)
    if theirs and shape:
        ours = [stretch(x, shape) for x in pair]
        stretched += all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    refused += theirs is None and shape is None
print(f"{stretched} pairs stretched alike, {refused} refused by both")
claim("pairs of shapes that both treat alike", stretched + refused, equals=500)

# %% [markdown]
# In real use: bring each channel of a batch of images to mean 0 and standard deviation 1, as networks like their
# inputs. The statistics are taken over images, rows and columns, dimensions 0, 2 and 3. To keep those as ones,
# `keepdim=True`, is what makes them fit: (1, 3, 1, 1) beside (12, 3, 32, 32).

# %%
over = {"dim": (0, 2, 3), "keepdim": True}
even = (faces - faces.mean(**over)) / faces.std(**over)  # (12, 3, 32, 32)
loop = [(faces[:, c] - faces[:, c].mean()) / faces[:, c].std() for c in range(3)]
claim("broadcasting, and a loop over channels", even, equals=torch.stack(loop, 1), within=1e-5)

# %% [markdown]
# The price of so much help is a famous trap. A column of N numbers minus a row of N numbers is not N differences, but
# N x N of them, each of the column with each of the row, and no error is raised. Whoever computes a loss from
# predictions of shape (N, 1) and truths of shape (N,) gets a number, and a wrong one. It even trains, badly.

# %%
y = torch.tensor([1.0, 2.0, 3.0])  # (N,)
prediction = y[:, None]  # (N, 1), and perfect
wrong = (prediction - y).square()  # (N, N)
print(f"the loss of a perfect prediction, by mistake: {wrong.mean():.4f}")
claim("the mistake made a table", wrong.shape == (3, 3))

# %% [markdown]
# When shapes surprise, print them; it is the first thing that experienced people do as well.
#
# Try all shapes up to 4 x 5. Pale numbers are not there: they are read again and again with a stride of zero. A row
# and a column make a table, two rows of different lengths nothing at all, unless one has length 1.


# %%
def boxes_of(ax, left: int) -> list:
    """Twenty squares in four rows, with a place for a number in each."""
    corners = [(left + n % 5, 3 - n // 5) for n in range(20)]
    squares = [ax.add_patch(plt.Rectangle(corner, 0.9, 0.9, lw=0)) for corner in corners]
    middle = {"ha": "center", "va": "center"}
    return [
        (square, ax.text(x + 0.45, y + 0.42, "", **middle))
        for square, (x, y) in zip(squares, corners, strict=True)
    ]


def fill(boxes: list, table: Tensor, real: tuple, shade: str) -> None:
    """Write a table into the boxes, pale beyond the rows and columns that are real."""
    for n, (square, text) in enumerate(boxes):
        row, column = divmod(n, 5)
        there = row < table.shape[0] and column < table.shape[1]
        pale = row >= real[0] or column >= real[1]
        square.set(facecolor=shade if there else "white", alpha=0.12 if pale else 0.45)
        text.set(text=table[row, column].item() if there else "", alpha=0.4 if pale else 1)
        text.stale = True  # drawn again, above its square, even if it is the same as before


# %%
def scene(fig):
    """Three tables: A plus B is C. Pale cells are stretched from others."""
    ax = fig.subplots()
    left, middle, right = (boxes_of(ax, at) for at in (0, 7, 14))
    for at, sign in ((5.9, "+"), (12.9, "=")):
        ax.text(at, 2, sign, ha="center", va="center", fontsize=16)
    ax.set(xlim=(-0.2, 19.2), ylim=(-0.2, 4.2), aspect="equal")
    ax.axis("off")

    def update(a_rows, a_columns, b_rows, b_columns):
        sizes = (a_rows, a_columns), (b_rows, b_columns)
        A, B = (torch.arange(1, m * n + 1).reshape(m, n) for m, n in sizes)
        A, shape = 10 * A, attempt(broadcast_shape, *sizes)
        C = A + B if shape else torch.zeros(0, 0)
        fill(left, stretch(A, shape) if shape else A, sizes[0], color.input)
        fill(middle, stretch(B, shape) if shape else B, sizes[1], color.weights)
        fill(right, C, C.shape, color.output)
        fit = f"give {shape}" if shape else "do not fit"
        return f"the shapes {sizes[0]} and {sizes[1]} {fit}"

    return update


# %%
a = {"a_rows": slider(1, 4, 4), "a_columns": slider(1, 5, 1)}
b = {"b_rows": slider(1, 4, 1), "b_columns": slider(1, 5, 5)}
explore(scene, "2.2d", "Broadcasting.", (8, 1.9), **a, **b)

# %% [markdown]
# ### Sums over indices
#
# Many operations of this book are products of tensors, summed over some of their indices. `torch.einsum` takes the
# formula as it stands on paper (the name is Einstein's, who left out the sum signs). `"ik,kj->ij"` is the matrix
# product of section 2.1: the letters before the arrow are the indices of the factors, those after it the indices of
# the result, and every letter that is missing there is summed over. Word for word:


# %% tags=["export"]
def einsum_by_loops(formula: str, *factors: Tensor) -> Tensor:
    """For all values of all letters: multiply the factors' elements, and add to the result's."""
    words, result_word = formula.split("->")[0].split(","), formula.split("->")[1]
    sizes = {}
    for word, factor in zip(words, factors, strict=True):
        sizes.update(zip(word, factor.shape, strict=True))
    result = torch.zeros([sizes[letter] for letter in result_word]).to(factors[0])
    for values in itertools.product(*map(range, sizes.values())):
        at = dict(zip(sizes, values, strict=True))  # such as {"i": 0, "k": 2, "j": 1}
        term = 1
        for word, factor in zip(words, factors, strict=True):
            term = term * factor[tuple(at[letter] for letter in word)]
        result[tuple(at[letter] for letter in result_word)] += term
    return result


# %% [markdown]
# Here are formulas that this book will use, with the shapes of their factors. Read the sixth: for each image or text
# `b` of a batch and each head `h`, every position `t` is compared with every position `s` by the product of two
# vectors, over `d`. In chapter 4 this is the heart of the attention layer, and there it is one line as well.

# %%
formulas = {
    "ik,kj->ij": [(3, 4), (4, 2)],  # a matrix product
    "i,i->": [(5,), (5,)],  # the product of two vectors, one number
    "i,j->ij": [(3,), (4,)],  # all products of two vectors
    "bik,bkj->bij": [(2, 3, 4), (2, 4, 2)],  # a batch of matrix products
    "chw,dc->dhw": [(3, 4, 2), (5, 3)],  # channels mixed, the same way in each pixel
    "bthd,bshd->bhts": [(2, 3, 2, 4), (2, 3, 2, 4)],  # attention scores, chapter 4
    "ij->ji": [(3, 4)],  # a transposed matrix
    "ii->": [(4, 4)],  # the sum of a diagonal
}

# %%
for formula, shapes in formulas.items():
    factors = [torch.rand(shape, generator=seed(n)).to(DEVICE) for n, shape in enumerate(shapes)]
    theirs = torch.einsum(formula, *factors)
    claim(f"{formula} by loops", einsum_by_loops(formula, *factors), equals=theirs, within=1e-5)

# %% [markdown]
# Broadcasting does the same without a loop: give every factor all the letters, with size 1 where it has none, so that
# multiplying stretches them, and sum. `None` in an index makes a new dimension of size 1. The matrix product becomes
# (I, K, 1) times (1, K, J), summed over the middle. For large tensors this is wasteful, because all I x K x J
# products are written to memory before they are summed; `einsum` hands the work to a matrix product wherever it can.

# %%
A, B = torch.rand(3, 4).to(DEVICE), torch.rand(4, 2).to(DEVICE)
by_hand = (A[:, :, None] * B[None, :, :]).sum(1)  # (I, K, J) -> (I, J)
claim("ik,kj->ij by broadcasting", by_hand, equals=A @ B, within=1e-5)

# %%
queries, keys = torch.rand(2, 3, 2, 4).to(DEVICE), torch.rand(2, 5, 2, 4).to(DEVICE)
by_hand = (queries[:, :, None] * keys[:, None]).sum(-1).permute(0, 3, 1, 2)  # (B, H, T, S)
by_einsum = torch.einsum("bthd,bshd->bhts", queries, keys)
claim("bthd,bshd->bhts by broadcasting", by_hand, equals=by_einsum, within=1e-5)

# %% [markdown]
# The fifth formula is a whole class of photo filters. The three numbers of each pixel are multiplied by a matrix of 3
# x 3. With three equal rows the picture becomes grey; the weights say how bright the eye finds red, green and blue.
# Sepia gives the grey a warm tone. The last one hands the channels on in a circle. Chapter 4 will call this a
# convolution with a kernel of size 1.

# %%
filters = {
    "as it is": torch.eye(3),
    "grey": torch.tensor([0.299, 0.587, 0.114]).expand(3, 3),
    "sepia": torch.tensor([[0.39, 0.77, 0.19], [0.35, 0.69, 0.17], [0.27, 0.53, 0.13]]),
    "in a circle": torch.eye(3)[[2, 0, 1]],
}
small = photo[:, ::4, ::4]  # (3, 128, 128)

# %%
fig, axes = plt.subplots(1, 4, figsize=(8, 2.2))
for ax, (name, matrix) in zip(axes, filters.items(), strict=True):
    mixed = torch.einsum("chw,dc->dhw", small, matrix.to(DEVICE)).clamp(0, 1)  # (3, 128, 128)
    ax.imshow(mixed.movedim(0, 2).cpu().numpy())
    ax.set(xticks=[], yticks=[], title=name)
said = f"A photograph of brushes: {', '.join(filters)}. Its mean brightness is {small.mean():.3f}."
figure("2.2e", "Channels mixed by one formula.", said)

# %% [markdown]
# **Exercise.** A new tensor is laid out in reading order: the last index moves fastest. Find the strides of such a
# tensor from its shape. For (4, 6) they are (6, 1). For three dimensions, think of how many cells one passes over
# when the first index grows by one.


# %% tags=["exercise"]
def reading_order_strides(shape: tuple) -> tuple:
    """The strides of a tensor of this shape, all of whose elements lie in reading order."""
    raise NotImplementedError


check(
    reading_order_strides,
    ("(4, 6) has strides (6, 1)", lambda g: (tuple(g((4, 6))), (6, 1))),
    ("(5,) has strides (1,)", lambda g: (tuple(g((5,))), (1,))),
    ("(2, 3, 4, 5)", lambda g: (tuple(g((2, 3, 4, 5))), torch.zeros(2, 3, 4, 5).stride())),
)


# %% tags=["solution", "hide-input"]
def reading_order_strides(shape: tuple) -> tuple:
    """From the right: a step of an index passes over all elements of the indices after it."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


# %% [markdown]
# ## What was measured
#
# Every claim of the sections that you have run, with its bar and what your machine got.

# %%
claims_made()

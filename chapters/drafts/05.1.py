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
computed = (broken_line(voice, 24)(points) - voice(points)).square().mean().sqrt()
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

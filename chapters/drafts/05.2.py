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
resnet50, image = ResNet().eval(), torch.rand(1, 3, 224, 224)
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
one_block = cost(resnet50.layer1[1], torch.rand(1, 256, 56, 56))[1]
others = [
    cost(resnet50.get_submodule(f"layer{k}")[1], torch.rand(1, *sizes[k]))[1] for k in (2, 3, 4)
]
claim("a residual block costs the same in each stage", others == [one_block] * 3)

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

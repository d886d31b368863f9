# %% [markdown]
# ## 6.4 Semantic segmentation
#
# Which pixels belong to the frog? A box is a coarse answer: a cactus does not fill its box, and what lies in the
# corners is something else. **Semantic segmentation** gives a class to *each pixel*, so its answer is an image
# itself, of the same size, with a class where the other has a colour. A car that drives itself wants to know where
# the road ends, and a surgeon where a tumour does.
#
# The scenes are those of section 6.3, and just as there the photographs of the tests are new, the drawings of the
# first test are not, and the second test has a style that is not in the training. With the background there are $C =
# 9$ classes.

# %%
labelled = make_scenes(2400, "train", STYLES_SEEN, seed(1), DEVICE)
labelled_new = make_scenes(400, "test", STYLES_SEEN, seed(2), DEVICE)
labelled_style = make_scenes(400, "test", STYLE_UNSEEN, seed(3), DEVICE)
C, truth = 1 + len(THINGS), labelled_new.labels  # (N, 64, 64)

# %% [markdown]
# How does one count? Not by the share of pixels that are right: most pixels are background, and who always answers
# "background" is right about all of those. Boxes are compared by their intersection over union, and sets of pixels
# can be, too. For a class $c$ take the pixels that are of this class, and those that are said to be:
#
# $$\mathrm{IoU}_c = \frac{\bigl|\{n : y_n = c\} \cap \{n : \hat y_n = c\}\bigr|}
# {\bigl|\{n : y_n = c\} \cup \{n : \hat y_n = c\}\bigr|}$$
#
# All of it can be read off a table with a row for each true class and a column for each answer. What is in both sets
# is on the diagonal. A row adds up to the first set and a column to the second, and in their sum what is in both is
# counted twice. A wrong pixel hurts twice as well: it is missing from the class to which it belongs, and one too many
# in the other. The *mean IoU* is the mean over the classes without the background, so "background everywhere" gets
# what it deserves, zero.


# %% tags=["export"]
def class_iou(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """Intersection over union (C,) of each class, over all pixels of answers and labels (N, H, W)."""
    if answers.shape != labels.shape:
        raise ValueError(f"class_iou: expected one shape, got {answers.shape} and {labels.shape}")
    pairs = (C * labels + answers).flatten().bincount(minlength=C * C).view(C, C)
    both = pairs.diagonal()  # (C,)
    return both / (pairs.sum(0) + pairs.sum(1) - both).clamp(min=1)


def mean_iou(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """The mean of it over the classes 1 to C - 1, without the background."""
    return class_iou(answers, labels, C)[1:].mean()


# %% [markdown]
# It must agree with the definition, class by class with sets. As an answer we take the truth itself, moved by one
# pixel to the right. The measure is severe at borders: that one pixel costs more than a tenth.

# %%
moved = truth.roll(1, dims=2)  # (N, 64, 64)
sets = [((moved == c) & (truth == c), (moved == c) | (truth == c)) for c in range(C)]
by_sets = torch.stack([both.sum() / either.sum() for both, either in sets])  # (C,)
claim("IoU from a table and from sets", class_iou(moved, truth, C), equals=by_sets, within=1e-6)
claim("share of pixels that are background", (truth == 0).double().mean(), at_least=0.8)
claim("mean IoU of the truth, one pixel off", mean_iou(moved, truth, C), at_most=0.9)

# %% [markdown]
# Two baselines. The first is the colour of the pixel alone, cut into eight steps of red, green and blue. In the
# training scenes we count how often each of these 512 shades is of each class, and answer with the most frequent one.
# A pixel of a thing counts three times, as it will for the network, or hardly a shade would be called a thing.


# %%
def shades(images: Tensor) -> Tensor:
    """The shade of each pixel of images (N, 3, H, W), a number from 0 to 511: (N, H, W)."""
    r, g, b = (8 * images).long().clamp(max=7).unbind(1)
    return 64 * r + 8 * g + b


# %%
weights = torch.tensor([1.0] + [3.0] * len(THINGS), device=DEVICE)  # (C,)
pairs = (C * shades(labelled.images) + labelled.labels).flatten()
counts = pairs.bincount(minlength=512 * C).view(512, C)
by_shade = (counts * weights).argmax(1)[shades(labelled_new.images)]  # (N, 64, 64)
baseline = mean_iou(by_shade, truth, C)
claim("mean IoU from the colour of a pixel", baseline, at_least=0.3, at_most=0.42)

# %% [markdown]
# A colour says more than one might think, as an apple is red wherever it lies. But so is a part of the umbrella, and
# the grass of a photograph is as green as a frog.
#
# To do better one must look around, and that is where the difficulty lies. To see *what* it is, a network goes down
# in resolution, as all classifiers do. To say *where* it ends, it must answer for single pixels. The second baseline
# says how much coarse maps lose: a network that knows everything, but has to give one answer for each block of $k
# \times k$ pixels. The best that it can say is the most frequent class of the block. The last maps of our body have
# blocks of 16 × 16.

# %%
one_hot = F.one_hot(truth, C).movedim(3, 1).float()  # (N, C, 64, 64)
best = {}
for k in (2, 4, 8, 16):
    coarse = F.avg_pool2d(one_hot, k).argmax(1, keepdim=True).float()  # (N, 1, 64 / k, 64 / k)
    best[k] = mean_iou(F.interpolate(coarse, scale_factor=k)[:, 0].long(), truth, C).item()
claim("the best mean IoU with answers for 16 × 16 pixels", best[16], at_most=0.4)
print(", ".join(f"blocks of {k}: {value:.2f}" for k, value in best.items()))

# %% [markdown]
# With such blocks the best of all networks would hardly do better than the colours of single pixels. A thing that
# fills less than half of a block is gone, and so are sticks, leaves and wheels.
#
# The *U-Net* (Ronneberger and others, 2015) does both. On one side of the U it goes down; here that is chapter 5's
# ResNet, with its maps of 16 × 16, 8 × 8 and 4 × 4 places. On the other side it goes up again, by transposed
# convolutions (section 4.3) that double height and width, each followed by a residual block. And across run *skips*:
# at each resolution the maps of the way down are added to those of the way up. So the way up learns from below what
# there is, and from the side where it ends. The original puts both beside each other as channels, where we add them
# as in a residual block; that needs fewer weights.
#
# On the last level each place stands for 4 × 4 pixels and gives $16\,C$ numbers, which `PixelShuffle` deals out to
# them. And each level below votes: it gives logits of its own, which are enlarged and added to the others. What the
# coarse levels see then reaches the loss on a short way, and the fine ones have to correct it only at the borders.


# %% tags=["export"]
class UNet(nn.Module):
    """Images (N, 3, H, W), in multiples of 16 pixels, to the logits (N, C, H, W) of each pixel."""

    def __init__(self, C: int, skip: bool = True):
        super().__init__()
        self.body, self.skip = ResNet((1, 1, 1), classes=1, width=16), skip
        self.body.fc = nn.Identity()  # the maps are all that is needed
        self.vote = nn.ModuleList(nn.Conv2d(c, C, 1) for c in (256, 128))
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c // 2, 2, stride=2) for c in (256, 128))
        self.merge = nn.ModuleList(ResidualBlock(c, c // 4) for c in (128, 64))
        self.read = nn.Sequential(nn.Conv2d(64, 16 * C, 1), nn.PixelShuffle(4))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3 or images.shape[2] % 16 or images.shape[3] % 16:
            raise ValueError(f"UNet: expected (N, 3, 16 a, 16 b), got {tuple(images.shape)}")
        *finer, x = self.body.maps(images)[1:]
        votes = None
        for vote, up, merge in zip(self.vote, self.up, self.merge, strict=True):
            votes = vote(x) if votes is None else votes + vote(x)  # (N, C, h, w)
            votes = F.interpolate(votes, scale_factor=2, mode="bilinear")
            across = finer.pop() if self.skip else 0
            x = merge(up(x) + across)
        return self.read(x) + F.interpolate(votes, scale_factor=4, mode="bilinear")  # (N, C, H, W)


# %%
seed(0)
segmenter = UNet(C).to(DEVICE, memory_format=torch.channels_last)
fig, ax = plt.subplots(figsize=(7, 6.4))
blocks = {f"body.layer{k}": "downscaling residual block" for k in (2, 3)}
blocks |= {f"vote.{k}": "vote: conv 1 × 1" for k in (0, 1)}
blocks |= {f"merge.{k}": "residual block" for k in (0, 1)}
blocks |= {"images": "image", "body.layer1": "residual block", "read": "conv 1 × 1, pixel shuffle"}
closed = (nn.Sequential, ResidualBlock)
said = schematic(ax, segmenter.eval(), labelled.images[:1], closed=closed, names=blocks)
figure("6.4a", "The U-Net: down, up again, with skips across and votes beside.", said)

# %% [markdown]
# Read the figure from the bottom up. The way down is the lower half, and the maps of 4 × 4 places in the middle are
# the bottom of the U. The two long arrows on the right are the skips. On the left the votes add up, twice as fine at
# each step. Since there are only convolutions, the network takes images of any size in multiples of 16 pixels.
#
# How does it compare with the Denoiser of section 6.1, which is a U-Net as well? That one goes down by little, since
# noise is a matter of small neighbourhoods, and answers with a colour. This one goes down until a place has seen
# nearly the whole picture, since one has to know what a thing is before one can say which pixels are part of it.
#
# What do the skips bring? A second network is trained in the same way, from the same random weights, without them.
# Its way up hears only from below. The loss is the cross-entropy of section 3.1 at each pixel. As only one pixel in
# nine shows a thing, those count three times, and the sum is divided by the sum of all these weights.


# %%
def pixel_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The weighted cross-entropy over all pixels of images (N, 3, H, W) with labels (N, H, W)."""
    return F.cross_entropy(model(images), labels, weights)


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """The probabilities (N, C, H, W) of the classes for each pixel of images (N, 3, H, W)."""
    return torch.cat([model.eval()(some).softmax(1) for some in images.split(100)])


# %%
seed(0)
nets, runs = {"with skips": segmenter, "without": UNet(C, skip=False)}, {}
for name, net in nets.items():
    net.to(DEVICE, memory_format=torch.channels_last)
    data = batches(labelled.images, labelled.labels, size=16)
    runs[name] = train(net, data, pixel_loss, 6e-3, epochs=2, weight_decay=0.05)

# %%
answers = {name: probabilities(net, labelled_new.images).argmax(1) for name, net in nets.items()}
in_style = probabilities(segmenter, labelled_style.images).argmax(1)  # (N, 64, 64)
reached = {name: mean_iou(answer, truth, C) for name, answer in answers.items()}
gain = reached["with skips"] - reached["without"]
claim("mean IoU on new photographs", reached["with skips"], at_least=0.65)
style = mean_iou(in_style, labelled_style.labels, C)
claim("mean IoU in the style never seen", style, at_least=0.4)
claim("mean IoU: what the skips bring", gain, at_least=0.015)
for name, net in nets.items():
    result = f"mean IoU {reached[name]:.2f}", f"{baseline:.2f} by colour alone"
    summary[f"U-Net {name}"] = (*cost(net, labelled.images[:1]), runs[name].seconds, *result)

# %% [markdown]
# The weights matter for a plain reason: without them, nearly nine tenths of the loss would come from background, and
# for the first steps the best that a network can do about that is to call everything background.
#
# Both networks are far better than the colour alone, and the one with skips is ahead, by several points in most of
# our trials. Where do they help? We take the pixels of things that lie at a border, with a pixel of another class
# right beside them, and those inside, with nothing else within three pixels, and count the wrong answers of both
# networks.


# %%
def near_border(steps: int) -> Tensor:
    """Which pixels have another class within so many steps: (N, 64, 64)."""
    maps, K = truth[:, None].float(), 2 * steps + 1
    largest, smallest = (sign * F.max_pool2d(sign * maps, K, 1, steps) for sign in (1, -1))
    return (largest > smallest)[:, 0]


# %%
places = {"at a border": near_border(1), "inside": ~near_border(3)}
wrong = {}
for name, answer in answers.items():
    for place, mask in places.items():
        wrong[name, place] = (answer != truth)[mask & (truth > 0)].double().mean().item()
rows = [(name, *(f"{wrong[name, place]:.1%}" for place in places)) for name in nets]
table(["wrong pixels of things", *places], rows, varies=[*places])
ratio = wrong["with skips", "at a border"] / wrong["with skips", "inside"]
claim("wrong pixels of things: share at borders over share inside", ratio, at_least=5)

# %% [markdown]
# Mistakes live at the borders. Well inside a thing hardly a pixel is wrong, right beside its border about one in
# five, and that is why the measure is severe. The skips save pixels in both places, most of them at borders, where
# the maps from below say least. Small things pay most: they are nearly all border. People who label photographs by
# hand disagree about borders, too, by a pixel or two, so beyond some point a better mean IoU is no better network.

# %%
COLOURS = torch.tensor([to_rgb(shade) for shade in ("#dddddd", *color.classes[: C - 1])])  # (C, 3)


def show_labels(ax, labels: Tensor) -> None:
    """Draw a map of labels (64, 64), each class in its colour."""
    ax.imshow(COLOURS[labels.cpu()], extent=(0, 64, 64, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


# %% tags=["figure-6.3"]
errors = (in_style != labelled_style.labels).sum((1, 2))  # (N,)
worst = errors.argsort(descending=True, stable=True)[:3].tolist()
shown = [(labelled_new, answers["with skips"], n) for n in range(4)]
shown += [(labelled_style, in_style, n) for n in (0, 1, 2, *worst)]
fig, axes = plt.subplots(3, 10, figsize=(10, 3.3))
for (above, middle, below), (some, answer, n) in zip(axes.T, shown, strict=True):
    show_scene(above, some.images[n])
    show_labels(middle, some.labels[n])
    show_labels(below, answer[n])
    for (x1, y1, x2, _), c in zip(some.boxes[n].tolist(), some.classes[n].tolist(), strict=True):
        if c >= 0:
            place = {"x": (x1 + x2) / 2, "y": y1 - 2, "ha": "center", "in_layout": False}
            middle.text(s=THINGS[c], size=6.5, **place)
for ax, name in zip(axes[:, 0], ("image", "ground truth", "prediction"), strict=True):
    ax.set_ylabel(name)
for k, name in ((0, "styles seen"), (4, "new style"), (7, "its worst")):
    axes[0, k].set_title(name, size=10, loc="left")
said = f"Ten scenes, their labels and the predictions, in {C} colours for the classes."
figure("6.3", "Semantic segmentation: image, ground truth, prediction.", said, held="trained")

# %% [markdown]
# The place is mostly right, also in the style never seen, where a good part of a thing may be missing or of another
# class. What is thin is lost first, such as the stick of an umbrella. The last columns show a failure that no
# detector has: one thing in two colours. Each pixel is judged by itself, and nothing tells the network that a thing
# is one thing. There is also a question that it cannot answer at all. How many? Two frogs side by side are one
# region. To find each thing *and* its outline is called instance segmentation, and networks for it are put together
# from the parts of this section and the one before.
#
# The largest logit is not the only way to decide. On the left is the probability of one class for each pixel, on the
# right the picture, with the pixels lit that reach a threshold. Scenes from 20 on are in the new style. Three things
# to try. Lower the threshold: the lit region grows beyond the thing, and the IoU with its true pixels falls. Raise
# it, and the thing is eaten from its border inwards, since there the network is least sure. Then ask for a class that
# is not in the scene, and see where the network hesitates. A surgeon who must not miss anything and one who must not
# cut too much will set different thresholds.

# %%
parts = torch.cat([labelled_new.images[:20], labelled_style.images[:20]])  # (40, 3, 64, 64)
maps, lit = probabilities(segmenter, parts).cpu(), parts.movedim(1, 3).cpu()  # (40, C, 64, 64)
there = torch.cat([truth[:20], labelled_style.labels[:20]]).cpu()  # (40, 64, 64)


# %%
def scene(fig):
    """The probability of one class for each pixel, and the picture, lit where it reaches a threshold."""
    left, right = fig.subplots(1, 2)
    look = {"extent": (0, 64, 64, 0), "interpolation": "nearest"}
    heat = left.imshow(maps[0, 0], cmap="Blues", vmin=0, vmax=1, **look)
    view = right.imshow(lit[0], **look)
    for ax, title in ((left, "probability"), (right, "reaches the threshold")):
        ax.set_axis_off()
        ax.set_title(title, size=10)

    def update(picture, thing, threshold):
        c = THINGS.index(thing) + 1
        said, true = maps[picture, c] >= threshold, there[picture] == c  # (64, 64)
        heat.set_data(maps[picture, c])
        image = lit[picture]  # (64, 64, 3)
        view.set_data(torch.where(said[..., None], image, 0.75 + 0.25 * image))
        both, either = int((said & true).sum()), int((said | true).sum())
        return f"{int(said.sum())} pixels of {int(true.sum())} true ones; IoU {both / max(either, 1):.2f}"

    return update


# %%
knobs = {"picture": slider(0, 39, 3), "thing": choice(list(THINGS), "cactus")}
caption = "Where one class is more probable than a threshold."
explore(
    scene, "6.4b", caption, (6.6, 3.4), "trained", threshold=slider(0.02, 0.98, 0.5, 0.02), **knobs
)

# %% [markdown]
# **Exercise.** In medicine another measure is in use, the *Dice coefficient*: twice the number of pixels in both
# sets, divided by the sum of the sizes of the two sets. Write it for all classes. A class that is in neither map gets
# 0. (On paper: how does it follow from the IoU? The last check uses that.)


# %% tags=["exercise"]
def dice(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """The Dice coefficient (C,) of each class, over all pixels of answers and labels (N, H, W)."""
    raise NotImplementedError


six = torch.tensor([[[0, 0, 1, 1, 1, 2]], [[0, 1, 1, 1, 1, 0]]], device=DEVICE)  # truth, answer
some, true = (maps[:20].argmax(1), there[:20])
check(
    dice,
    (
        "six pixels",
        lambda g: (g(six[1], six[0], 3), torch.tensor([1 / 2, 6 / 7, 0], device=DEVICE)),
    ),
    ("a class that is nowhere", lambda g: (g(six[0], six[0], 4)[3].item(), 0.0)),
    ("real maps", lambda g: (g(some, true, C), 2 / (1 / class_iou(some, true, C) + 1))),
)


# %% tags=["solution", "hide-input"]
def dice(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """Counting by classes gives the sizes of the sets; a pair of equal classes is in both."""
    both = answers[answers == labels].bincount(minlength=C)  # (C,)
    sizes = answers.flatten().bincount(minlength=C) + labels.flatten().bincount(minlength=C)
    return 2 * both / sizes.clamp(min=1)

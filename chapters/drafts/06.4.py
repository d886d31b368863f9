# %% [markdown]
# ## 6.4 Semantic segmentation
#
# A box is a coarse answer. A cactus does not fill its box, and what lies in the corners belongs to something else.
# **Semantic segmentation** asks the finest question that can be put to an image: what does *each pixel* show? The
# answer is again an image, of the same size, with a class where the other has a colour. A car that drives itself
# wants to know where the road ends, and a surgeon where a tumour does, and neither asks for boxes.
#
# The scenes are those of section 6.3: emoji in three styles on photographs to train with, other photographs to test
# with, and a fourth style that is kept back. They come with a label for every pixel, 0 where the photograph shows and
# $k + 1$ where a thing of class $k$ does. That makes C = 11 classes.

# %%
from lbdl.chapters.ch06 import STYLE_UNSEEN, STYLES_SEEN, THINGS, confusion_matrix
from lbdl.chapters.ch06 import make_scenes, show_scene

labelled = make_scenes(3584, "train", STYLES_SEEN, seed(1), DEVICE)
labelled_new = make_scenes(400, "test", STYLES_SEEN, seed(2), DEVICE)
labelled_style = make_scenes(400, "test", (STYLE_UNSEEN,), seed(3), DEVICE)

# %% [markdown]
# To look at a map of labels we give each class a colour of its own, and the background a light grey. A tensor of
# colours, indexed by a tensor of labels, is a picture: every label is replaced by its colour.

# %%
LABEL_COLOURS = torch.tensor([to_rgb(shade) for shade in ("#dddddd", *color.classes)])  # (C, 3)


def show_labels(ax, labels: Tensor, title: str = "") -> None:
    """Draw a map of labels (64, 64), each class in its colour."""
    ax.imshow(LABEL_COLOURS[labels.cpu()], extent=(0, 64, 64, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=11)


# %%
fig, axes = plt.subplots(2, 5, figsize=(8.5, 3.5))
for n, (above, below) in enumerate(axes.T):
    show_scene(above, labelled_new.images[n])
    show_labels(below, labelled_new.labels[n])
    there = labelled_new.classes[n].tolist()
    for k, box in zip(there, labelled_new.boxes[n].tolist(), strict=True):
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        below.text(*middle, THINGS[k] if k >= 0 else "", ha="center", va="center", size=9)
said = f"Five scenes with things on photographs, and below them their labels: {len(THINGS)} colours for the "
said += "classes, grey for the background."
figure("6.4a", "Scenes, and the class of each of their pixels.", said)

# %% [markdown]
# ### How to count
#
# The obvious measure is the share of pixels that are right. But look at the maps: most of them is grey. Whoever
# answers "background" everywhere, without a glance at the image, is right about this often:

# %%
share_ground = (labelled_new.labels == 0).float().mean()
claim("share of pixels that are background", share_ground, at_least=0.8)

# %% [markdown]
# So this share says little. Section 6.3 compared boxes by their intersection over union, and the same can be done
# with sets of pixels. For a class $c$ take the pixels that are of this class and those that are said to be, and
# divide the number of pixels in both sets by the number of those in at least one:
#
# $$\mathrm{IoU}_c = \frac{\bigl|\{n : y_n = c\} \cap \{n : \hat y_n = c\}\bigr|}
# {\bigl|\{n : y_n = c\} \cup \{n : \hat y_n = c\}\bigr|}$$
#
# Every wrong pixel counts twice, for the class that lost it and for the class that got it. All of it can be read off
# the confusion matrix of section 6.2, with the pixels as examples: the diagonal has what is in both sets, a row adds
# up to the first set and a column to the second, and what is in both is then counted once too often.


# %% tags=["export"]
def class_iou(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """Intersection over union (C,) of each class, over all pixels of answers and labels (N, H, W)."""
    counts = confusion_matrix(answers.flatten(), labels.flatten(), C)  # (C, C)
    both = counts.diagonal()  # (C,)
    return both / (counts.sum(0) + counts.sum(1) - both).clamp(min=1)


# %% [markdown]
# Six pixels by hand: of the two of class 0 one was found and one other was added, 1 of 3; of the three of class 1 all
# were found and one was added, 3 of 4; the one of class 2 was missed. Then, on our scenes, the same by making the
# sets. As an answer we take the true map itself, moved by one pixel to the right. The sign `&` makes the set of
# pixels of which both statements are true, and `|` that of which at least one is.

# %%
six, said_of_six = torch.tensor([[[0, 0, 1, 1, 1, 2]], [[0, 1, 1, 1, 1, 0]]], device=DEVICE)
claim("six pixels by hand", class_iou(said_of_six, six, 3), equals=[1 / 3, 3 / 4, 0], within=1e-6)

# %%
moved_map, true_map = labelled_new.labels.roll(1, dims=2), labelled_new.labels  # (400, 64, 64) each
sets = [((moved_map == c) & (true_map == c), (moved_map == c) | (true_map == c)) for c in range(11)]
by_sets = torch.stack([both.sum() / either.sum() for both, either in sets])  # (C,)
claim(
    "from the matrix and from sets", class_iou(moved_map, true_map, 11), equals=by_sets, within=1e-6
)

# %% [markdown]
# One number for all is the **mean IoU**, the mean over the classes. We leave the background out, as it is easy and
# not what anybody asks for. Then the answer "background everywhere" gets what it deserves, zero. The measure is
# severe at borders: the true map itself, moved by a single pixel, loses a seventh, and moved by three more than a
# third.


# %% tags=["export"]
def mean_iou(answers: Tensor, labels: Tensor, C: int = 11) -> Tensor:
    """The mean intersection over union of the classes 1 to C - 1, without the background."""
    return class_iou(answers, labels, C)[1:].mean()


# %%
claim("mean IoU of background everywhere", mean_iou(0 * true_map, true_map), equals=0, within=0)
by_one, by_three = (mean_iou(true_map.roll(k, dims=2), true_map) for k in (1, 3))
claim("mean IoU of the truth moved by one pixel", by_one, at_least=0.82, at_most=0.87)
claim("mean IoU of the truth moved by three pixels", by_three, at_least=0.6, at_most=0.67)

# %% [markdown]
# ### A pixel on its own
#
# A baseline that learns: how far does one get with the colour of the pixel alone? Each of red, green and blue is cut
# into eight steps, which makes 512 shades, numbered like a number with three digits of which each goes up to 7. We
# count in the training scenes how often each shade goes with each class, in a table with a row for each shade, and
# answer with the most frequent class of the row. A pixel of a thing counts three times as much as one of the
# background, as it will with the network later, or hardly a shade would ever be called anything else.


# %%
def shades_of(images: Tensor) -> Tensor:
    """The shade of each pixel of images (N, 3, H, W), a number from 0 to 511: (N, H, W)."""
    r, g, b = (images * 8).long().clamp(max=7).unbind(dim=1)
    return 64 * r + 8 * g + b


# %%
class_weights = torch.tensor([1.0] + 10 * [3.0], device=DEVICE)  # (C,)
pairs = 11 * shades_of(labelled.images) + labelled.labels  # (3584, 64, 64) of shade and class
shade_counts = pairs.flatten().bincount(minlength=512 * 11).reshape(512, 11)
class_of_shade = (shade_counts * class_weights).argmax(dim=1)  # (512,)
by_shade = class_of_shade[shades_of(labelled_new.images)]  # (400, 64, 64)
style_by_shade = class_of_shade[shades_of(labelled_style.images)]

# %%
shade_score = mean_iou(by_shade, true_map)
claim("mean IoU from the colour of a pixel", shade_score, at_least=0.22, at_most=0.34)
style_shade_score = mean_iou(style_by_shade, labelled_style.labels)
claim("the same in the style never seen", style_shade_score, at_least=0.08, at_most=0.2)

# %% [markdown]
# That is more than one would think. Emoji have few colours, each of them flat, and some of these hardly occur in a
# photograph: a certain green is always a frog. In a style with other colours most of it is gone. To know what a pixel
# belongs to, one must look around.
#
# ### What and where
#
# Here is the difficulty of this task. To see *what* it is, a network has to look at large parts of the image, and all
# classifiers do so by going down in resolution, to maps of a few cells. To say *where* it ends, it must answer for
# single pixels, and a coarse map cannot. How much is lost? Suppose the network knew everything, but had to give one
# answer for each block of $k \times k$ pixels: the best that it could say is the most frequent label of the block. To
# find it, each label becomes 11 maps of zeros and ones, one for each class. Their means over the blocks are the
# shares of the classes, and the largest share wins. `repeat_interleave` writes every answer $k$ times, across and
# downwards.


# %%
def in_blocks(labels: Tensor, k: int) -> Tensor:
    """Maps (N, H, W) in which every block of k x k pixels has its most frequent label."""
    votes = F.avg_pool2d(F.one_hot(labels, 11).movedim(3, 1).float(), k)  # (N, C, H / k, W / k)
    return votes.argmax(dim=1).repeat_interleave(k, dim=1).repeat_interleave(k, dim=2)


# %%
limits = [mean_iou(in_blocks(true_map, k), true_map).item() for k in (2, 4, 8, 16)]
claim("one answer for 2 × 2 pixels: the best mean IoU", limits[0], at_least=0.86, at_most=0.91)
claim("one answer for 8 × 8 pixels: the best mean IoU", limits[2], at_least=0.58, at_most=0.66)
claim("one answer for 16 × 16 pixels: the best mean IoU", limits[3], at_least=0.3, at_most=0.42)

# %%
fig, axes = plt.subplots(1, 5, figsize=(8.5, 2.1))
for ax, k, limit in zip(axes, (1, 2, 4, 8, 16), (1.0, *limits), strict=True):
    show_labels(
        ax, in_blocks(true_map[1:2], k)[0], "truth" if k == 1 else f"{k} × {k}: {limit:.2f}"
    )
said = "A map of labels in blocks of 2, 4, 8 and 16 pixels; the best mean IoU in such blocks is "
said += ", ".join(f"{limit:.2f}" for limit in limits) + "."
figure("6.4b", "One label for each block of pixels, and the best mean IoU that this allows.", said)

# %% [markdown]
# With 8 × 8 pixels the cars lose their wheels, and a small thing is gone as soon as it fills less than half of a
# block. A classifier's last maps are coarser than that.
#
# ### A network in the shape of a U
#
# The **U-Net** (Ronneberger and others, 2015) does both. On the left side of the U it goes down, like a classifier:
# the maps become coarser and have more channels. On the right side it goes up again, with transposed convolutions
# (section 4.3). And across, from left to right, run bridges: at each resolution the maps of the way down are put
# beside those of the way up, and a convolution merges them. So the way up gets from below *what* there is, and from
# the left *where* its borders are.
#
# The blocks are convolutions of 3 × 3 with batch normalization and ReLU, two on each level.


# %% tags=["export"]
def conv_block(ins: int, outs: int) -> nn.Sequential:
    """A convolution, batch normalization, ReLU: maps (N, ins, H, W) to (N, outs, H, W)."""
    conv = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outs), nn.ReLU())


# %% [markdown]
# Convolutions at full resolution would take most of the time. So we begin as the Vision Transformer of section 5.3
# does, and turn each patch of 4 × 4 pixels into one place with all their 48 numbers as its channels. At the end each
# place gives 16 · 11 numbers, the logits of its 16 pixels, so nothing is said in blocks. PyTorch calls these two
# `PixelUnshuffle` and `PixelShuffle`.
#
# In `forward` the way down keeps the maps of each level but the last in a list. The way up takes them out in reverse
# order, the coarsest first: double the resolution, put the kept maps beside, merge. The factor `bridge` is for an
# experiment further down: at 1 the bridges are open, at 0 they carry nothing.


# %% tags=["export"]
class UNet(nn.Module):
    """Images (N, 3, H, W) to the logits (N, C, H, W) of C classes for every pixel.

    `widths`: the channels of each level, from fine to coarse, each half as fine as the one before. H
    and W must be multiples of `patch` and, after that, divisible by 2 as often as there are steps down.
    """

    def __init__(self, C: int, widths: tuple[int, ...] = (32, 64, 96), patch: int = 4):
        super().__init__()
        check_sizes(C=C, patch=patch)
        self.multiple = patch * 2 ** (len(widths) - 1)
        self.to_patches, self.to_pixels = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        levels = list(pairwise((3 * patch**2, *widths)))
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(a, b), conv_block(b, b)) for a, b in levels
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in levels[1:])
        self.merge = nn.ModuleList(conv_block(2 * a, a) for a, _ in levels[1:])
        self.read = nn.Conv2d(widths[0], C * patch**2, 1)

    def forward(self, images: Tensor, bridge: float = 1.0) -> Tensor:
        if images.shape[-2] % self.multiple or images.shape[-1] % self.multiple:
            expected = f"height and width in multiples of {self.multiple}"
            raise ValueError(f"UNet: expected {expected}, got {tuple(images.shape)}")
        x, kept = self.down[0](self.to_patches(images)), []
        for block in self.down[1:]:
            kept.append(x)
            x = block(F.max_pool2d(x, 2))
        for level in reversed(range(len(self.up))):
            beside = torch.cat([self.up[level](x), bridge * kept[level]], dim=1)
            x = self.merge[level](beside)
        return self.to_pixels(self.read(x))  # (N, C, H, W)


# %%
seed(0)
segmenter = UNet(11).to(DEVICE, memory_format=torch.channels_last)
fig, ax = plt.subplots(figsize=(6.4, 5.2))
blocks = {f"down.{i}": "two conv blocks" for i in range(3)}
blocks |= {f"merge.{i}": "conv block" for i in range(2)}
blocks |= {"images": "image", "to_patches": "patches of 4 × 4", "read": "conv 1 × 1"}
blocks |= {"to_pixels": "patches to pixels"}
said = schematic(ax, segmenter.eval(), labelled.images[:1], closed=(nn.Sequential,), names=blocks)
figure("6.4c", "The U-Net: down on the way in, up on the way out, with bridges across.", said)

# %% [markdown]
# The boxes "× 1" are the factor `bridge`. What are the 48 channels of a place? Cut the height into 16 times 4 rows
# and the width into 16 times 4 columns, and put the two fours behind the colours: that must give the same. And since
# there are only convolutions, the network takes images of other sizes, too, such as one that is twice as wide.

# %%
cut = (
    labelled.images[:2].reshape(2, 3, 16, 4, 16, 4).permute(0, 1, 3, 5, 2, 4)
)  # (2, 3, 4, 4, 16, 16)
by_cutting = cut.reshape(2, 48, 16, 16)
claim("patches by cutting", nn.PixelUnshuffle(4)(labelled.images[:2]), equals=by_cutting)
wide = segmenter.eval()(torch.rand(1, 3, 64, 128, generator=seed(3)).to(DEVICE))  # (1, C, 64, 128)
claim("an image twice as wide gets a map twice as wide", tuple(wide.shape) == (1, 11, 64, 128))

# %% [markdown]
# How far does it look? We ask for the gradients of one pixel's logits: those pixels of the image count on which they
# depend. On the way down each place of the coarsest maps, 4 × 4 of them, has come to see all of the image, and nearly
# all of it has some say in every answer. The bridges are at work as well: closing them changes the logits.

# %%
asked = torch.rand(1, 3, 64, 64, generator=seed(4)).to(DEVICE).requires_grad_(requires_grad=True)
segmenter.eval()(asked)[0, :, 21, 38].sum().backward()
reached = asked.grad.abs().sum(dim=(0, 1)) > 0  # (64, 64) the pixels that this answer depends on
claim("share of the image that one answer depends on", reached.float().mean(), at_least=0.9)
change = (segmenter(asked) - segmenter(asked, bridge=0.0)).abs().amax()
claim("closing the bridges changes the logits by up to", change.detach(), at_least=0.01)

# %% [markdown]
# ### The loss
#
# Each pixel is an example with a label, so the loss is the cross-entropy, as ever, averaged over all pixels of all
# scenes. But five in six of them are background, and at first, when the network cannot tell things apart yet, it pays
# to say "background" and wait. A common remedy is a *weight* for each class: 1 for the background, 3 for the others.
# With the probabilities $\hat P_n(c)$ that a softargmax gives for pixel $n$,
#
# $$\mathscr{L} = - \, \frac{\sum_n w_{y_n} \log \hat P_n(y_n)}{\sum_n w_{y_n}}.$$
#
# `F.cross_entropy` takes the classes in dimension 1 and any dimensions after it, and the weights. Here it is by hand
# for two small maps of random logits: `gather` picks for each pixel the logarithm that belongs to its label.

# %%
some_logits = torch.randn(2, 11, 5, 4, generator=seed(1), dtype=torch.float64).to(DEVICE)
some_logits.requires_grad_()
some_labels = torch.randint(11, (2, 5, 4), generator=seed(2)).to(DEVICE)  # (2, 5, 4)
logs = some_logits - some_logits.exp().sum(dim=1, keepdim=True).log()  # (2, C, 5, 4)
weight_of = class_weights.double()[some_labels]  # (2, 5, 4)
picked = logs.gather(1, some_labels[:, None])[:, 0]  # (2, 5, 4)
by_equation = -(weight_of * picked).sum() / weight_of.sum()

# %%
built_in = F.cross_entropy(some_logits, some_labels, class_weights.double())
claim("the loss by its equation", by_equation, equals=built_in, within=1e-12)
slope_a, slope_b = (torch.autograd.grad(v, some_logits)[0] for v in (by_equation, built_in))
claim("its gradients", slope_a, equals=slope_b, within=1e-12)


# %% [markdown]
# ### Training
#
# Five times through 3,584 scenes, 16 at a time, with a learning rate that rises to 0.006 and falls again. Nothing is
# changed at random in them: with 3,584 scenes of ten things in three styles, each thing stands on hundreds of
# grounds.


# %%
def pixel_loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The weighted cross-entropy over all pixels of images (N, 3, H, W) with labels (N, H, W)."""
    return F.cross_entropy(net(images), labels, class_weights)


# %%
as_photos = labelled.images.contiguous(memory_format=torch.channels_last)
pixel_batches = batches(as_photos, labelled.labels, size=16)
pixel_optimizer = torch.optim.AdamW(segmenter.parameters(), weight_decay=1e-3)
pixel_steps = 5 * len(pixel_batches)
pixel_schedule = OneCycleLR(pixel_optimizer, 6e-3, total_steps=pixel_steps, pct_start=0.2)
pixel_training = (segmenter, pixel_batches, pixel_loss, pixel_optimizer)
segmenter_history = fit(*pixel_training, epochs=5, schedule=pixel_schedule)


# %% [markdown]
# Then ask it about all new scenes, a hundred at a time: the answer of a pixel is the class with the largest logit.


# %%
@torch.no_grad()
def segment(images: Tensor, **options) -> Tensor:
    """The class of each pixel of images (N, 3, H, W): (N, H, W)."""
    segmenter.eval()
    return torch.cat([segmenter(part, **options).argmax(dim=1) for part in images.split(100)])


# %%
answer_map, style_map = segment(labelled_new.images), segment(labelled_style.images)
seg_score = mean_iou(answer_map, true_map)
style_score = mean_iou(style_map, labelled_style.labels)
claim("mean IoU on new photographs", seg_score, at_least=0.63)
claim("mean IoU in the style never seen", style_score, at_least=0.33)

# %%
segmented = f"mean IoU {seg_score:.2f}, unseen style {style_score:.2f}; colour alone "
segmented += f"{shade_score:.2f}"
segmenter_cost = cost(segmenter, labelled.images[:1])
summary["segmenter of scenes"] = (*segmenter_cost, segmenter_history.seconds, segmented)

# %% [markdown]
# Now look. On the left are new scenes in the styles that it has learned, on the right in the style that it has never
# seen. The colours are those of the classes.

# %% tags=["figure-6.3"]
fig, axes = plt.subplots(3, 8, figsize=(8.5, 3.4))
halves = (labelled_new, answer_map, 0), (labelled_style, style_map, 4)
for some, its_answers, first in halves:
    for n in range(4):
        column = axes[:, first + n]
        show_scene(column[0], some.images[n + 5])
        show_labels(column[1], some.labels[n + 5])
        show_labels(column[2], its_answers[n + 5])
for ax, name in zip(axes[:, 0], ("image", "truth", "prediction"), strict=True):
    ax.set_ylabel(name)
axes[0, 1].set_title("styles to train on", fontsize=11, loc="left")
axes[0, 5].set_title("style never seen", fontsize=11, loc="left")
said = "Eight scenes, their labels and the predictions. In the four of known styles the prediction has the "
said += "form and mostly the colour of the truth; in the others the colour is often wrong."
figure("6.3", "Semantic segmentation: image, truth and prediction.", said, held="trained")

# %% [markdown]
# The forms are mostly right and a little ragged. In the style never seen the things are still told from the ground,
# but their class is often wrong, or changes within one thing. In five trials, each with other scenes and other
# weights to start from, the mean IoU was 0.69 to 0.73, and 0.45 to 0.49 in the unseen style: more than twice, and
# more than three times, what the colour of a pixel gives.
#
# What contributed? We left something out, in two trials each. Without the weights in the loss it came to 0.72 and
# 0.74, and to 0.44 and 0.48 in the unseen style. So they make no difference: they speed up the beginning, and after a
# thousand steps all that is forgotten. With bridges that were closed from the beginning it came to 0.44 and 0.49,
# which is a good third less. The bridges are what makes it work. Class by class, in both kinds of scenes:

# %%
seg_by_class = class_iou(answer_map, true_map, 11)[1:].cpu()  # (10,)
seg_in_style = class_iou(style_map, labelled_style.labels, 11)[1:].cpu()  # (10,)
seg_order = seg_in_style.argsort().tolist()
fig, ax = plt.subplots(figsize=(7, 3.2))
for height, k in enumerate(seg_order):
    ax.plot([seg_in_style[k], seg_by_class[k]], [height] * 2, color=color.quiet, zorder=1)
ax.scatter(seg_by_class[seg_order], range(10), color=color.model, zorder=2)
ax.scatter(seg_in_style[seg_order], range(10), color=color.test, zorder=2)
ax.text(seg_by_class[seg_order[-1]], 9.5, "styles seen", color=color.model, ha="center")
ax.text(seg_in_style[seg_order[-1]], 9.5, "unseen", color=color.test, ha="right")
ax.set(yticks=range(10), yticklabels=[THINGS[k] for k in seg_order], xlim=(0, 1), ylim=(-0.6, 10.4))
ax.set_xlabel("intersection over union")
lower = (seg_in_style < seg_by_class).sum().item()
said = "Ten classes, each with two dots: its intersection over union in seen styles and in the unseen one. "
said += f"In {'nearly all' if lower >= 8 else 'many'} the unseen style is lower."
figure(
    "6.4d",
    "Each class, in the styles that it has learned and in the one it has not.",
    said,
    held="trained",
)

# %% [markdown]
# ### Mistakes live at the borders
#
# Where are the wrong pixels? Some lie inside things that were taken for something else. But the others line the
# edges. To see it, we sort all pixels by their distance from the nearest border. A pixel is *at* a border if some
# pixel within its square of 3 × 3 has another label: the maximum of the labels there differs from their minimum. One
# step further out are the pixels that have such a pixel within their square, and so on; a `max_pool2d` with stride 1
# finds them all.


# %%
def steps_from_border(labels: Tensor, most: int = 8) -> Tensor:
    """How many pixels each is away from a border in maps (N, H, W), from 0 to `most`: (N, H, W)."""
    maps = labels[:, None].float()  # (N, 1, H, W)
    reached = F.max_pool2d(maps, 3, 1, 1) > -F.max_pool2d(-maps, 3, 1, 1)
    steps = torch.full_like(labels, most)
    for k in range(most):
        steps[reached[:, 0] & (steps == most)] = k
        reached = F.max_pool2d(reached.float(), 3, 1, 1) > 0
    return steps


# %%
half = torch.tensor([[[0] * 6 + [1] * 6] * 4], device=DEVICE)  # (1, 4, 12) two halves
from_border = [5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5]
claim(
    "steps from the border between two halves",
    steps_from_border(half)[0, 2].tolist() == from_border,
)

# %%
distance = steps_from_border(true_map)  # (400, 64, 64)
of_things = true_map > 0
wrong_at = []
for k in range(9):
    band = of_things & (distance == k)
    wrong_at.append((answer_map != true_map)[band].float().mean().item())
claim(
    "wrong pixels of things: at the border over 3 steps inside",
    wrong_at[0] / wrong_at[3],
    at_least=5,
)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3), width_ratios=(1.5, 1))
left.plot(range(9), wrong_at, "o-", color=color.test)
left.set(xlabel="pixels from the border", ylabel="share of wrong pixels", ylim=(0, None))
left.set_xticks(range(9), [*map(str, range(8)), "8 or more"])
right.imshow(LABEL_COLOURS[true_map[1].cpu()], extent=(0, 64, 64, 0), alpha=0.35)
missed = (answer_map != true_map)[1].cpu().float()  # (64, 64)
black = torch.zeros(64, 64, 4)
black[..., 3] = missed
right.imshow(black, extent=(0, 64, 64, 0), interpolation="nearest")
right.set(xticks=[], yticks=[], title="black: wrong")
right.spines[:].set_visible(False)
said = "Left, the share of wrong pixels falls with the distance from the border. Right, a map of labels on "
said += "which most wrong pixels lie along the edges of the things."
figure("6.4e", "Wrong pixels of things, by their distance from a border.", said, held="trained")

# %% [markdown]
# At the border one pixel in four is wrong, and five pixels further in less than one in a hundred. But only large
# things have an inside that deep. A small one is nearly all border, and so it is small things that pay. How much
# borders should count is a question of the task: who wants to know what lies where can do without the last pixel.
#
# ### Close the bridges
#
# What do the bridges carry? We can take a trained network and make the bridges weaker. The factor `bridge` multiplies
# all that crosses them, and at 0 the way up hears only from below. The network was not trained for that, so we ask
# not how good it would be without bridges, but what it has come to expect from them.

# %%
closed_map = segment(labelled_new.images, bridge=0.0)
claim("mean IoU with closed bridges", mean_iou(closed_map, true_map), at_most=0.1)

# %% [markdown]
# Move `bridge` from 1 downwards. For a while hardly anything happens. Below about a half the things fray and lose
# pieces, and at 0.2 hardly anything is left but background: what comes from below alone, in the form in which this
# network sends it, is not enough to name a pixel. Then open the bridges again and add noise to the image, which was
# not part of the training, and see which things go first. In the map on the right a pixel is the paler the less sure
# the network is of it. `example` counts through ten scenes, the last five in the unseen style.

# %%
segmenter_here = copy.deepcopy(segmenter).cpu().eval().requires_grad_(requires_grad=False)
pick = [1, 2, 5, 7, 12]
shown_scenes = torch.cat([labelled_new.images[pick], labelled_style.images[pick]]).cpu()
shown_labels = torch.cat([labelled_new.labels[pick], labelled_style.labels[pick]]).cpu()
speckle = torch.randn(3, 64, 64, generator=seed(7))


# %%
def scene(fig):
    """An image, and beside it the classes that the network sees in it, each in its colour."""
    left, right = fig.subplots(1, 2)
    show_scene(left, shown_scenes[0])
    show_labels(right, shown_labels[0])
    picture, colours = left.images[0], right.images[0]
    words_below = right.text(32, 67.5, "", ha="center", va="top", size=11)

    def update(example, bridge, noise):
        image = (shown_scenes[example - 1] + noise * speckle).clamp(0, 1)  # (3, 64, 64)
        shares = segmenter_here(image[None], bridge)[0].softmax(dim=0)  # (C, 64, 64)
        sure, answer = shares.max(dim=0)  # (64, 64) each
        picture.set_data(image.permute(1, 2, 0))
        shade = LABEL_COLOURS[answer]
        colours.set_data(1 - sure[..., None] * (1 - shade))
        areas = answer.flatten().bincount(minlength=11)[1:]  # (10,)
        largest = [THINGS[k] for k in areas.argsort(descending=True).tolist() if areas[k] > 40][:4]
        words_below.set_text(", ".join(largest) or "nothing but background")
        right_share = (
            (answer == shown_labels[example - 1])[shown_labels[example - 1] > 0].float().mean()
        )
        return f"scene {example}: of the pixels of things {100 * right_share:.0f} % are right"

    return update


# %%
knobs = {"example": slider(1, 10, 1), "bridge": slider(0.0, 1.0, 1.0, 0.05)}
knobs["noise"] = slider(0.0, 0.4, 0.0, 0.02)
caption = "What the network sees in a scene, with its bridges as open as you like."
explore(scene, "6.4f", caption, (7.2, 3.8), held="trained", **knobs)

# %% [markdown]
# ### Where it fails
#
# Pixel by pixel is how it was trained, and pixel by pixel it answers. Nothing tells it that a thing is one thing. So
# its typical failure looks like nothing a detector would do: a ball with the face of a panda on one side, or a car in
# two colours. Here are the scenes with the most wrong pixels.

# %%
wrong_pixels = (answer_map != true_map).sum((1, 2))  # (400,)
worst_scenes = wrong_pixels.argsort(descending=True, stable=True)[:6].tolist()
fig, axes = plt.subplots(3, 6, figsize=(7.4, 3.9))
for column, n in zip(axes.T, worst_scenes, strict=True):
    show_scene(column[0], labelled_new.images[n])
    show_labels(column[1], true_map[n])
    show_labels(column[2], answer_map[n])
for ax, name in zip(axes[:, 0], ("image", "truth", "prediction"), strict=True):
    ax.set_ylabel(name)
said = "Six scenes with large things of which the prediction has the outline, in the colours of other classes, "
said += "often several in one thing."
figure("6.4g", "The scenes with the most wrong pixels.", said, held="trained")

# %% [markdown]
# And there is a question that it cannot answer at all: how many? Two frogs side by side are one region. To find each
# thing *and* its outline one needs both, boxes and pixels; that is called *instance segmentation*, and networks for
# it are put together from the parts of this section and the one before.
#
# **Exercise.** In medicine another measure is in use, the *Dice coefficient*: twice the number of pixels in both
# sets, divided by the sum of the sizes of the two sets. Write it for all C classes. A class that is in neither map
# gets 0. When you have it, find out on paper how it follows from the IoU: one of the checks uses that.


# %% tags=["exercise"]
def dice(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """The Dice coefficient (C,) of each class, over all pixels of answers and labels (N, H, W)."""
    raise NotImplementedError


def from_iou(answers: Tensor, labels: Tensor) -> Tensor:
    """The Dice coefficients (C,) by way of the IoU: d = 2 i / (1 + i)."""
    i = class_iou(answers, labels, 11)  # (C,)
    return 2 * i / (1 + i)


check(
    dice,
    ("six pixels", lambda g: (g(said_of_six, six, 3), torch.tensor([1 / 2, 6 / 7, 0]))),
    ("a class that is nowhere", lambda g: (g(six, six, 4), torch.tensor([1.0, 1.0, 1.0, 0.0]))),
    (
        "maps moved by a pixel",
        lambda g: (g(moved_map, true_map, 11), from_iou(moved_map, true_map)),
    ),
)


# %% tags=["solution", "hide-input"]
def dice(answers: Tensor, labels: Tensor, C: int) -> Tensor:
    """A pixel in both sets counts in both sizes, hence the two. Dice is never below the IoU."""
    counts = confusion_matrix(answers.flatten(), labels.flatten(), C)  # (C, C)
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp(min=1)

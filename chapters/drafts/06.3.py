# %% [markdown]
# ## 6.3 Object detection
#
# Which things are in a picture, and where? A classifier says what a picture shows, as if there were one thing in it.
# **Object detection** has to name all of them, and to put a rectangle around each, the **bounding box**: four numbers
# $x_1, y_1, x_2, y_2$, its left, upper, right and lower edge in pixels. How many answers there are is not known
# beforehand. In practice people draw such boxes by hand on many thousands of photographs, which is slow and dear. Our
# scenes are *semi-synthetic*: both photographs and drawings are real, but we have put them together ourselves, and so
# the boxes are exact.
#
# There are scenes to train with, and two sets to test with. Both have photographs that are not in the training, and
# the second has an art style that is not in the training either.

# %%
scenes = make_scenes(3200, "train", STYLES_SEEN, seed(1), DEVICE)
new_scenes = make_scenes(400, "test", STYLES_SEEN, seed(2), DEVICE)
new_style = make_scenes(400, "test", STYLE_UNSEEN, seed(3), DEVICE)

# %% [markdown]
# How well does one box fit another? The usual answer is the *intersection over union*, or IoU: the area that both
# share, divided by the area that they cover together. It is 1 for equal boxes and 0 for boxes that do not meet. What
# two boxes share is a box itself, from the larger of the two left edges to the smaller of the two right ones. Where
# that leaves less than nothing, it is empty. The usual bar of a half asks for a rather good fit: a square that is
# moved by a third of its side has an IoU of exactly one half with where it was.


# %% tags=["export"]
def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., K, 4) with boxes (..., B, 4): (..., K, B)."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)  # (..., K, B)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-6)


# %% [markdown]
# Boxes whose edges are whole numbers can also be compared by colouring pixels and counting. That takes no formula,
# and must give the same for forty random boxes.

# %%
ends = torch.rand(40, 2, 2, generator=seed(4)).mul(33).round().sort(dim=1).values
some, at = ends.reshape(40, 4).to(DEVICE), torch.arange(33, device=DEVICE) + 0.5  # (40, 4), (33,)
across, down = ((at > some[:, k, None]) & (at < some[:, k + 2, None]) for k in (0, 1))  # (40, 33)
filled = (down[:, :, None] & across[:, None]).flatten(1).float()  # (40, 33 · 33) pixels in each
both = filled @ filled.mT  # (40, 40)
counted = both / (filled.sum(1)[:, None] + filled.sum(1) - both).clamp(min=1)
claim("IoU by counting pixels", iou(some, some), equals=counted, within=1e-5)

# %% [markdown]
# How can a network with a fixed number of outputs give an unknown number of boxes? The **Single Shot Detector**, or
# SSD (Liu and others, 2016), lays a fixed set of *default boxes* over the picture, and says for each of them which
# thing is there, or that there is nothing, and by how much the box has to be moved and stretched to fit. It does so
# for all of them in one pass through the network, which gave it its name.
#
# Small things need many small boxes, large ones a few large boxes. So there are three grids, of 16, 8 and 4 cells a
# side, and in the middle of each cell lies a square, of 12, 20 or 28 pixels. That makes $K = 336$ default boxes. The
# original has several for each cell, of different shapes; our things are about as wide as high.


# %% tags=["export"]
GRIDS = ((16, 12), (8, 20), (4, 28))  # cells a side, and the side of the square in each


def default_boxes() -> Tensor:
    """The default boxes (K, 4) of all grids, row after row of cells."""
    found = []
    for cells, side in GRIDS:
        at = (torch.arange(cells) + 0.5) * 64 / cells
        y, x = torch.cartesian_prod(at, at).T[:, :, None]  # (cells², 1) each, row after row
        found.append(torch.cat([x, y, x, y], dim=1) + side / 2 * torch.tensor([-1, -1, 1, 1]))
    return torch.cat(found)


# %% [markdown]
# For training, each default box must be told what it should have said. It stands for the thing with which it has the
# largest IoU, if that is at least a half. It may happen that no default box is so close to a thing; so each thing
# also gets the one that fits it best, whatever their IoU. All others should say "nothing".


# %% tags=["export"]
def match(defaults: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Which thing of boxes (N, B, 4) each of K default boxes stands for: (N, K), -1 for none."""
    real = classes >= 0  # (N, B)
    low, high = boxes[real].split(2, dim=1)  # (T, 2) each, of the T things in all scenes
    if not len(low) or low.min() < 0 or high.max() > 64 or not (low < high).all():
        raise ValueError("match: expected things, in boxes with x1 < x2 and y1 < y2 from 0 to 64")
    overlap = iou(defaults, boxes) * real[:, None]  # (N, K, B)
    best, owner = overlap.max(2)  # (N, K) each
    closest = (overlap == overlap.amax(1, keepdim=True)) & real[:, None]  # (N, K, B)
    owner = torch.where(closest.any(2), closest.int().argmax(2), owner)
    return torch.where(closest.any(2) | (best >= 0.5), owner, -1)


# %%
defaults = default_boxes().to(DEVICE)  # (K, 4)
owners = match(defaults, scenes.boxes, scenes.classes)  # (N, K)
served = (owners[:, :, None] == torch.arange(4, device=DEVICE)).any(1)  # (N, 4)
without = ((scenes.classes >= 0) & ~served).sum() / (scenes.classes >= 0).sum()
claim("share of things that go without a default box", without, at_most=0.005)
print(f"of the default boxes {(owners >= 0).float().mean():.1%} stand for a thing")

# %% [markdown]
# Four scenes, with the boxes of the things in white and the default boxes that stand for them in blue. Most things
# have several, from the grid that fits their size and sometimes from the next one. Each will be trained to report the
# thing.

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.4, 2.2))
for n, ax in enumerate(axes):
    show_scene(ax, scenes.images[n])
    draw_boxes(ax, defaults[owners[n] >= 0], color.input, lw=0.9)
    draw_boxes(ax, scenes.boxes[n][scenes.classes[n] >= 0], "white", lw=1.8)
counts = int((scenes.classes[:4] >= 0).sum()), int((owners[:4] >= 0).sum())
said = f"Four scenes with {counts[0]} things; around them lie {counts[1]} default boxes."
figure("6.3a", "Things (white), and the default boxes that stand for them (blue).", said)

# %% [markdown]
# Then the default box has to be moved and stretched. The network gives a number for each of the four edges: how far
# it is to go, in tenths of the square's side. So the same number means the same for small and for large boxes, and
# these numbers are of the order of 1. (SSD itself uses the centre and the logarithms of the sides, which comes to
# much the same.)


# %% tags=["export"]
def encode(boxes: Tensor, defaults: Tensor) -> Tensor:
    """How far the edges of default boxes (K, 4) are from those of boxes (..., K, 4): (..., K, 4)."""
    return 10 * (boxes - defaults) / (defaults[:, 2:3] - defaults[:, :1])


def decode(t: Tensor, defaults: Tensor) -> Tensor:
    """The boxes (..., K, 4) that `encode` turns into t (..., K, 4)."""
    return defaults + t / 10 * (defaults[:, 2:3] - defaults[:, :1])


# %% [markdown]
# The network is chapter 5's ResNet, with one residual block in each of three stages. Its maps of 16 × 16, 8 × 8 and
# 4 × 4 places fit the three grids. At each of these a single convolution, the *head*, reads the maps. For each cell
# it gives $4 + C + 1$ numbers: four for the box, and the logits of "nothing" and of the $C$ classes.


# %% tags=["export"]
class SSD(nn.Module):
    """A Single Shot Detector: images (N, 3, 64, 64) to 4 + 1 + C numbers for K boxes (N, K, 5 + C)."""

    def __init__(self, C: int):
        super().__init__()
        self.body = ResNet((1, 1, 1), classes=1, width=16)
        self.body.fc = nn.Identity()  # the maps are all that is needed
        heads = [(nn.Conv2d(c, 5 + C, 3, padding=1), nn.Flatten(2)) for c in (64, 128, 256)]
        self.heads = nn.ModuleList(nn.Sequential(*head) for head in heads)
        self.register_buffer("defaults", default_boxes())

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (3, 64, 64):
            raise ValueError(f"SSD: expected images (N, 3, 64, 64), got {tuple(images.shape)}")
        maps = self.body.maps(images)[1:]  # (N, C_maps, cells, cells) each
        read = [head(x) for head, x in zip(self.heads, maps, strict=True)]
        return torch.cat(read, dim=2).mT  # (N, K, 5 + C)


# %%
seed(0)
detector = SSD(len(THINGS)).to(DEVICE, memory_format=torch.channels_last)

# %% tags=["figure-6.1"]
fig, ax = plt.subplots(figsize=(6, 5.2))
named = {f"body.layer{k}": "downscaling residual block" for k in (2, 3)}
named |= {f"heads.{k}": "head: conv 3 × 3" for k in range(3)}
named |= {"images": "image", "body.layer1": "residual block"}
said = schematic(ax, detector.eval(), scenes.images[:1], closed=(nn.Sequential,), names=named)
figure("6.1", "The detector: maps of decreasing resolution, and a head that reads each.", said)

# %% [markdown]
# From the bottom up the maps have fewer places and more channels. A place of the last maps stands for a sixteenth of
# the picture and has seen much more of it, which is what large things need; a place of the first stands for 4 × 4
# pixels and knows its surroundings. The heads on top give 256, 64 and 16 rows of numbers, one for each default box in
# the order of `default_boxes`. For real detectors the body is usually taken from a classifier that was trained on a
# large data set, as labels of whole images are much cheaper than boxes, and only then trained to detect. Our scenes
# cost nothing, so we start from random weights. The name tells what was new: detectors before it first proposed
# regions of the picture and then classified each of them, in two networks or two passes.
#
# The loss has two parts. Those boxes that stand for a thing, $M$ in a batch, are to be moved to the right place. The
# penalty $h(d)$ for a number that is off by $d$ is $d^2/2$ up to 1 and $|d| - \frac12$ beyond, which is gentle with
# boxes that are still far off. And all boxes should name the right class $y_k$, by cross-entropy over $C + 1$
# classes:
#
# $$\mathscr L = \frac1M \Big(\sum_{k \text{ matched}} \sum_{j=1}^4 h(\hat t_{kj} - t_{kj})
# \; - \sum_{k \text{ matched or hard}} \log P(y_k)\Big)$$
#
# What is "hard"? Only one default box in a hundred or so stands for a thing. To say "nothing" everywhere is a good
# start, and the many easy boxes would drown the few that matter. So of the boxes that stand for nothing only the $3M$
# with the largest loss count, the *hard negatives*: those that look to the network most like a thing. Which these are
# is decided anew in every step, so the network always works on its present mistakes.


# %% tags=["export"]
def ssd_loss(model: nn.Module, images: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """The loss of a detector on images (N, 3, 64, 64), with things in boxes (N, B, 4)."""
    owner, outputs = match(model.defaults, boxes, classes), model(images)
    matched, n = owner >= 0, torch.arange(len(boxes), device=boxes.device)[:, None]
    wanted = torch.where(matched, classes[n, owner] + 1, 0)  # (N, K) 0 is nothing
    losses = F.cross_entropy(outputs[..., 4:].mT, wanted, reduction="none")  # (N, K)
    M, easy = int(matched.sum()), losses[~matched]
    hard = easy.topk(min(3 * M, len(easy))).values
    t = encode(boxes[n, owner], model.defaults)[matched]  # (M, 4)
    place = F.smooth_l1_loss(outputs[..., :4][matched], t, reduction="sum")
    return (place + losses[matched].sum() + hard.sum()) / M


# %%
data = batches(scenes.images, scenes.boxes, scenes.classes, size=32)
run = train(detector, data, ssd_loss, 6e-3, epochs=3, weight_decay=0.05)

# %% [markdown]
# After the training, several default boxes report the same thing. *Non-maximum suppression* takes the repetitions
# out. It goes down the list, best first, and each detection that is still there crosses out all later ones of its
# class with which its IoU is above a threshold.


# %% tags=["export"]
class Detections(NamedTuple):
    """For N scenes K detections each, best first; the class is -1 for those that are crossed out."""

    boxes: Tensor  # (N, K, 4)
    scores: Tensor  # (N, K)
    classes: Tensor  # (N, K) int64


@torch.no_grad()
def detect(model: nn.Module, images: Tensor, K: int = 40) -> Detections:
    """The K pairs of a box and a class with the highest probabilities."""
    outputs = model.eval()(images)  # (N, boxes, 5 + C)
    P = outputs[..., 4:].softmax(2)[..., 1:]  # (N, boxes, C)
    scores, which = P.flatten(1).topk(K)  # (N, K) each
    n, C = torch.arange(len(images), device=images.device)[:, None], P.shape[2]
    boxes = decode(outputs[..., :4], model.defaults)[n, which // C].clamp(0, 64)
    return Detections(boxes, scores, which % C)


def suppress(found: Detections, threshold: float = 0.45) -> Detections:
    """Non-maximum suppression: detections that repeat a better one of their class get class -1."""
    boxes, scores, classes = found
    repeats = (iou(boxes, boxes) > threshold) & (classes[:, :, None] == classes[:, None])
    alive = torch.ones_like(repeats[:, 0])  # (N, K)
    for k in range(classes.shape[1]):
        alive[:, k + 1 :] &= ~(repeats[:, k, k + 1 :] & alive[:, k, None])
    return Detections(boxes, scores, torch.where(alive, classes, -1))


# %% [markdown]
# To judge a detector, go down the list of all its detections of a class, from all scenes, in the order of their
# scores. A detection is a *hit* if the thing of its class that it overlaps most is overlapped by at least a half, and
# no better detection has taken that thing yet; everything else is a false alarm. At each place of the list there is a
# *precision*, the share of hits so far, and a *recall*, the share of things found so far. The *average precision* is
# the area under the curve of precision over recall, where by convention each recall gets the best precision that is
# reached there or later. The mean over the classes is called *mAP*, "at 0.5" for the overlap that a hit needs.


# %% tags=["export"]
def hits(found: Detections, boxes: Tensor, classes: Tensor, at_least: float = 0.5) -> Tensor:
    """Which of the detections (N, K), best first, hit one of the things in boxes (N, B, 4)."""
    same = (found.classes[:, :, None] == classes[:, None]) & (classes >= 0)[:, None]  # (N, K, B)
    best, thing = (iou(found.boxes, boxes) * same).max(2)  # (N, K) each
    taken, hit = torch.zeros_like(same[:, 0]), torch.zeros_like(same[:, :, 0])  # (N, B), (N, K)
    n = torch.arange(len(boxes), device=boxes.device)
    for k in range(best.shape[1]):
        hit[:, k] = (best[:, k] >= at_least) & ~taken[n, thing[:, k]]
        taken[n, thing[:, k]] |= hit[:, k]
    return hit


def average_precisions(found, boxes, classes, C: int, at_least: float = 0.5) -> Tensor:
    """The average precision (C,) of each class, of detections in scenes with things in boxes (N, B, 4)."""
    hit, areas = hits(found, boxes, classes, at_least), []
    for c in range(C):
        mine = found.classes == c
        order = found.scores[mine].argsort(descending=True, stable=True)
        right = hit[mine][order].float()  # (M,)
        precision = right.cumsum(0) / torch.arange(1, len(right) + 1, device=right.device)
        best = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
        areas.append((best * right).sum() / (classes == c).sum())  # each hit is a step in recall
    return torch.stack(areas)


# %% [markdown]
# By hand: three things, and a list of four detections, which are right, wrong, right, and the first once more. The
# precision is 1 up to a recall of 1/3 and 2/3 up to 2/3; the third thing is never found. The area is $\frac13 \cdot 1
# + \frac13 \cdot \frac23 = \frac59$. A test of this project holds the function against another implementation, on
# random boxes.

# %%
things = torch.tensor([[[0.0, 0, 8, 8], [20.0, 0, 28, 8], [40.0, 0, 48, 8]]], device=DEVICE)
listed = torch.stack([things[:, 0], things[:, 0] + 30, things[:, 1], things[:, 0]], dim=1)
zeros = torch.zeros(1, 4, device=DEVICE, dtype=torch.long)
found = Detections(listed, torch.tensor([[0.9, 0.8, 0.7, 0.6]], device=DEVICE), zeros)
area = average_precisions(found, things, zeros[:, :3], C=1)
claim("average precision by hand", area[0], equals=torch.tensor(5 / 9, device=DEVICE), within=1e-6)

# %% [markdown]
# Now the measurement, with suppression and once without.

# %%
listed = [detect(detector, some.images) for some in (new_scenes, new_style)]
found, found_in_style = (suppress(some) for some in listed)
precisions = average_precisions(found, *new_scenes[1:3], len(THINGS))  # (C,)
in_style = average_precisions(found_in_style, *new_style[1:3], len(THINGS))  # (C,)
repeated = average_precisions(listed[0], *new_scenes[1:3], len(THINGS)).mean()
claim("detection: mAP at 0.5 on photographs never seen", precisions.mean(), at_least=0.95)
claim("detection: mAP at 0.5 in a style never seen", in_style.mean(), at_least=0.65)
claim("detection: mAP lost without suppression", precisions.mean() - repeated, at_least=0.08)
result, baseline = f"mAP {precisions.mean():.2f}", f"{repeated:.2f} without suppression"
summary["detector"] = (*cost(detector, scenes.images[:1]), run.seconds, result, baseline)

# %% [markdown]
# Nearly every thing on unknown ground is found. Without suppression many are reported several times, and each
# repetition is a false alarm. But be careful with the first number. The photographs of the test are new, the
# *drawings* are not: they are those of the training, in new places and sizes. The new style asks whether the detector
# has learned what a frog is, or these three frogs. Here the classes differ widely.

# %%
ranking = sorted(zip(in_style.tolist(), THINGS, strict=True))
note("average precisions in the new style", ", ".join(f"{n} {ap:.2f}" for ap, n in ranking))

# %% [markdown]
# The face of a panda is black and white whoever draws it, and nearly all pandas are found. The classes at the other
# end look different in the hands of the fourth team: its umbrella has stripes and a long stick, its hamburger other
# layers. Figure 6.2 shows what is reported with a score of at least a half, blue if it is a hit, red if not; the true
# boxes are dashed. The last row has the worst scenes, and two kinds of failure. Most things in it are not reported at
# all, since nothing that the network knows resembles them enough. And where something is reported, the place is
# mostly right and the name is wrong: a green frog, for instance, may be taken for a cactus.


# %%
sure, right = [], []
for some, answers in ((new_scenes, found), (new_style, found_in_style)):
    sure.append(answers._replace(classes=answers.classes.where(answers.scores >= 0.5, -1)))
    right.append(hits(sure[-1], some.boxes, some.classes))  # (N, K)
wrong = (sure[1].classes >= 0).sum(1) + (new_style.classes >= 0).sum(1) - 2 * right[1].sum(1)
worst = wrong.argsort(descending=True, stable=True)[:5].tolist()
shown = [(k, n) for k, these in ((0, range(5)), (1, range(5)), (1, worst)) for n in these]

# %% tags=["figure-6.2"]
fig, axes = plt.subplots(3, 5, figsize=(8.6, 5.3))
for ax, (k, n) in zip(axes.flat, shown, strict=True):
    some = (new_scenes, new_style)[k]
    show_scene(ax, some.images[n])
    draw_boxes(ax, some.boxes[n][some.classes[n] >= 0], "white", ls=(0, (2, 1.5)))
    for i in (sure[k].classes[n] >= 0).nonzero()[:, 0]:
        name = f"{THINGS[sure[k].classes[n, i]]} {sure[k].scores[n, i]:.2f}"
        shade = color.model if right[k][n, i] else color.test
        draw_boxes(ax, sure[k].boxes[n, i, None], shade, [name])
for ax, name in zip(axes[:, 0], ("styles seen", "new style", "its worst"), strict=True):
    ax.set_ylabel(name)
said = "Fifteen scenes with boxes, classes and scores. In the styles seen nearly all are hits, in the new style most."
figure(
    "6.2", "Hits (blue), false alarms (red), and what was missed (dashed).", said, held="trained"
)

# %% [markdown]
# Two thresholds are left to whoever uses a detector: which *score* is enough to be reported, and which *overlap*
# makes two boxes one thing. Here are the test scenes of both kinds, the new style from 400 on: on the left all boxes
# with enough score, on the right those that suppression leaves. Three things to try. Lower the score: more things are
# found, and false alarms come with them. Raise the overlap to 1, and nothing is crossed out. Then lower it to 0.05 in
# a scene in which two things of a kind stand close together. Which score is enough depends on what a mistake costs: a
# car would rather brake once too often.

# %%
parts = zip((*new_scenes[:3], *listed[0]), (*new_style[:3], *listed[1]), strict=True)
shown = [torch.cat(part).cpu() for part in parts]  # images, boxes, classes; boxes, scores, classes


# %%
def scene(fig):
    """A scene, left with all boxes of enough score, right with those that are not crossed out."""
    axes, frames = fig.subplots(1, 2), []
    for ax, title in zip(axes, ("enough score", "and not crossed out"), strict=True):
        show_scene(ax, shown[0][0], title)
        frames.append(ax.vlines([], 0, 0, lw=1.5))

    def update(picture, score, overlap):
        image, boxes, classes, *one = (part[picture : picture + 1] for part in shown)
        one, things = Detections(*one), (classes >= 0).sum()
        for ax, frame, left in zip(axes, frames, (one, suppress(one, overlap)), strict=True):
            ax.images[0].set_data(image[0].movedim(0, 2))
            enough = (left.classes >= 0) & (left.scores >= score)  # (1, K)
            right = hits(left, boxes, classes)[enough].flip(0)  # (M,) the best last, on top
            corners = left.boxes[enough].flip(0)[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]]  # (M, 10)
            frame.set_segments(corners.view(-1, 5, 2).numpy())
            frame.set_color([color.model if hit else color.test for hit in right])
        return f"things: {things}; boxes that are left: {len(right)}; hits: {right.sum()}"

    return update


# %%
knobs = {"picture": slider(0, 799, 447), "score": slider(0.02, 0.98, 0.1, 0.02)}
knobs["overlap"] = slider(0.05, 1.0, 0.45, 0.05)
caption = "Two thresholds, and what they leave: hits (blue) and false alarms (red)."
explore(scene, "6.3b", caption, (6.6, 3.4), held="trained", **knobs)

# %% [markdown]
# **Exercise.** Two boxes that do not meet have an IoU of 0, whether they are neighbours or far apart; as a loss it
# would not say where to move. The *generalized* IoU takes the smallest box around both, and subtracts the share of it
# that neither covers. For equal boxes it is 1, and for boxes that move apart it falls towards −1. Write it for boxes
# that come in pairs.


# %% tags=["exercise"]
def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """The generalized IoU (N,) of boxes (N, 4) with boxes (N, 4), in pairs."""
    raise NotImplementedError


square = torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 5, device=DEVICE)
moves = torch.tensor([[0.0, 0], [2.0, 2], [4.0, 0], [12.0, 0], [12.0, 12]], device=DEVICE)
others = square + moves.repeat(1, 2)  # (5, 4)
values = torch.tensor([1.0, 1 / 7 - 8 / 36, 0.0, -0.5, -0.875], device=DEVICE)
check(
    generalized_iou,
    ("a square with itself", lambda g: (g(square[:1], square[:1]), values[:1])),
    ("moved by half a side, and beside it", lambda g: (g(square[:3], others[:3]), values[:3])),
    ("two sides away, in line and diagonally", lambda g: (g(others[3:], square[3:]), values[3:])),
)


# %% tags=["solution", "hide-input"]
def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """The union is the areas minus what is shared; the box around goes from the least to the greatest edge."""
    shared = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    shared = shared.clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return shared / union - (around - union) / around

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
# The architectures of the last chapter are put to work. In each section a network is asked to say something: what the
# clean photograph is behind the noise, the class of an image, the things in a scene and their boxes, the class of
# every pixel.
#
# Each section goes the whole way in half a minute or so of one processor core: real data, or data put together from
# real pieces; a model from chapter 5's blocks; the loss from its equation; a training; and a measurement on what was
# kept back, with the field's own metric, beside a method that needs no training. Each ends with what goes wrong.
#
# | section | claim | here |
# |---|---|---|
# | 6.1 Image denoising | faint noise: what the network spoils, in dB | 6.8 |
# | 6.2 Image classification | 250 augmented: errors over 1,000 plain | 1.1 |
# | 6.3 Object detection | detection: mAP at 0.5 in a style never seen | 0.79 |
# | 6.4 Semantic segmentation | the best mean IoU with answers for 16 × 16 pixels | 0.37 |
#
# Sections stand alone: run the cells up to the first of them, then the one that you want. Later chapters import from
# this one, as in `from lbdl.chapters.ch06 import UNet`.

# %% tags=["export"]
import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from lbdl import History, batches, check, choice, claim, claims_made, color
from lbdl import device, explore, figure, note, schematic, seed, slider
from lbdl import table
from lbdl.chapters.ch03 import augment
from lbdl.chapters.ch04 import cost
from lbdl.chapters.ch05 import LeNet, ResidualBlock, ResNet
from lbdl.chapters.ch05 import accuracy, augmented_loss, classification_loss
from lbdl.chapters.ch05 import train
from lbdl.data import CLOTHES, emoji, fashion_mnist, mnist, photographs
from matplotlib.colors import to_rgb
from torch import Tensor, nn
from torch.nn import functional as F

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


# %% tags=["export"]
def show_scene(ax, image: Tensor, title: str = "") -> None:
    """Draw an image (3, 64, 64) with pixel n reaching from n to n + 1."""
    ax.imshow(image.movedim(0, 2).cpu(), extent=(0, 64, 64, 0), interpolation="bicubic")
    ax.set(xticks=[], yticks=[], xlim=(0, 64), ylim=(64, 0))
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=9)


# %% tags=["export"]
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
# ## 6.1 Image denoising
#
# A photograph taken in the dark is grainy: the sensor has counted little light, and each pixel a bit too much or too
# little. How much of the clean photograph can still be recovered? **Image denoising** is to go back from a disturbed
# picture to the clean one. The noise took something away that nobody wrote down, so this sounds impossible. It is
# possible to some extent because pictures are not arbitrary numbers: neighbouring pixels are alike, edges go on,
# textures repeat. Whoever knows how pictures usually look can tell what is probably picture and what is probably
# noise.
#
# A network can learn this from examples, and examples cost nothing: take clean pictures and disturb them yourself.
# The clean picture is called $X$, the disturbed one $\tilde X$. A network that gets $\tilde X$ and is trained to give
# $X$ is a **denoising autoencoder**; "auto", because the picture itself is the answer, and no human has to label
# anything. The data are fourteen photographs, two squares of each, divided by photograph: no part of a test picture
# was seen in training.
#
# The noise is Gaussian, drawn for each pixel and colour, with a standard deviation of 25 grey levels out of 255, the
# usual test in the literature. Light comes in single quanta, and many small accidents add up to something nearly
# Gaussian. In a real camera the noise also depends on the brightness, and what the camera does with its picture
# spreads it over neighbours; a network for a camera is trained on the noise of that camera.


# %% tags=["export"]
def with_noise(images: Tensor, level: float, chance: torch.Generator) -> Tensor:
    """The images, with Gaussian noise of standard deviation `level` added to each number."""
    return images + level * torch.randn(images.shape, generator=chance).to(images.device)


# %%
LEVEL = 25 / 255
clean = photographs("train", DEVICE).images  # (18, 3, 512, 512)
clean_held, clean_new = (photographs(part, DEVICE).images for part in ("validation", "test"))
noisy_held = with_noise(clean_held, LEVEL, seed(7))  # (4, 3, 512, 512)
noisy_new = with_noise(clean_new, LEVEL, seed(8))  # (6, 3, 512, 512)

# %% [markdown]
# Here are pieces of the six test squares; the right half of each is noisy. Smooth ground is easy. Fur, grass and
# stones are hard, for they look a little like noise themselves.

# %%
CORNERS = [(50, 155), (180, 200), (40, 190), (40, 320), (130, 230), (100, 60)]  # row and column


def pieces(images: Tensor) -> Tensor:
    """A piece of each of the six test squares, for drawing: (6, 3, 96, 96)."""
    cut = [x[:, r : r + 96, c : c + 96] for x, (r, c) in zip(images, CORNERS, strict=True)]
    return torch.stack(cut).cpu()


def show(ax, piece: Tensor) -> None:
    """Draw a piece (3, H, W) without axes."""
    ax.imshow(piece.clamp(0, 1).permute(1, 2, 0))  # (H, W, 3)
    ax.axis("off")


# %%
fig, axes = plt.subplots(1, 6, figsize=(8.5, 1.5))
for ax, left, right in zip(axes, pieces(clean_new), pieces(noisy_new), strict=True):
    show(ax, torch.cat([left[..., :48], right[..., 48:]], dim=2))
said = f"Pieces of {len(axes)} test squares, on the left clean, on the right with noise."
figure("6.1a", "Pieces of the test squares: clean on the left, noisy on the right.", said)

# %% [markdown]
# How good is a restored picture? By the mean squared error to the clean one, told in decibels: every 10 dB more are a
# tenth of the error. With white as 1, the *peak signal-to-noise ratio*, or PSNR, is $-10 \log_{10}$ of the mean
# squared error. An error of a tenth in every pixel gives 20 dB, and our noise a little more. Values that no screen
# can show are cut off first.


# %% tags=["export"]
def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in decibels of images (B, C, H, W) that should be the truth."""
    error = (images.clamp(0, 1) - truth).square().flatten(1).mean(dim=1)  # (B,)
    return -10 * error.log10()


# %%
from skimage import filters, metrics, restoration

clean_one, noisy_one = (x[0].clamp(0, 1).cpu().numpy() for x in (clean_new, noisy_new))
theirs = metrics.peak_signal_noise_ratio(clean_one, noisy_one, data_range=1)
claim("PSNR and scikit-image's", psnr(noisy_new, clean_new)[0].item(), equals=theirs, within=1e-4)

# %% [markdown]
# ### What the network learns
#
# Suppose that training with the mean squared error succeeds perfectly. What does the network then answer? What is
# seen does not determine what was there. Several pictures are possible, some more probable than others, and whatever
# $f$ is answered has the expected loss $\mathbb{E}[(f - X)^2]$ over those that are possible, given what is seen. The
# exercise of section 1.1 has found the constant with the smallest mean squared error: the mean. So
#
# $$f^*(\tilde X) = \mathbb{E}[X \mid \tilde X],$$
#
# the *conditional mean*: the average of all clean pictures that may be behind $\tilde X$, each as often as it is
# probable. We test it in a world that is small enough to be listed. A picture is a row of eight pixels, dark up to
# some place and bright from there on. The edge can be at nine places, all equally probable. The noise turns each
# pixel into the other kind with probability ¼, so 256 rows can be seen, and a table holds the probabilities of all
# pairs of $X$ and $\tilde X$.

# %%
X = (torch.arange(8) >= torch.arange(9)[:, None]).to(**EXACT)  # (9, 8) an edge at each place
seen = torch.cartesian_prod(*[torch.arange(2)] * 8).to(**EXACT)  # (256, 8) all that may be seen


def joint_table(flips: float) -> Tensor:
    """The probability (9, 256) of each pair of a clean row and one that is seen."""
    wrong = (X[:, None] != seen).sum(dim=2).to(X)  # (9, 256) pixels changed by the noise
    return flips**wrong * (1 - flips) ** (8 - wrong) / 9


joint = joint_table(0.25)  # (9, 256)
given_seen = joint / joint.sum(dim=0)  # (9, 256) p(X | X~)
conditional_mean = given_seen.mT @ X  # (256, 8)

# %% [markdown]
# The "network" knows nothing of probabilities. It is a list of 256 answers, one for each row that may be seen; it
# starts at zero and follows the gradient of its mean squared error.

# %% tags=["equation-denoiser"]
f = torch.zeros(256, 8, **EXACT, requires_grad=True)
rate = 0.9 / joint.sum(dim=0).max()  # at 1 / max, the steepest direction would no longer settle
for _ in range(1000):
    loss = (joint[:, :, None] * (f - X[:, None]).square()).sum()
    (slope,) = torch.autograd.grad(loss, f)
    f.data -= rate * slope

# %%
claim("trained by squared errors: E[X | X~]", f.detach(), equals=conditional_mean, within=1e-9)

# %% [markdown]
# They agree. For a network it is the same, as far as its weights allow: it is pulled towards all clean pictures that
# may be behind what it sees, to each as strongly as it is probable.
#
# This has a price. In our world every clean row has a sharp edge, and the mean of several sharp edges is a ramp,
# which is none of the possible rows. Where one cannot know, the mean is blurred. Could one not draw one of the
# possible rows at random, each with its probability, and have a sharp answer? One can, at exactly twice the squared
# error. The truth and the drawn row are then two independent draws from the same probabilities, and two draws are, on
# average of the squares, twice as far from each other as one of them from their mean.

# %%
apart = (X[:, None] - X).square().sum(dim=2)  # (9, 9)
drawn = torch.einsum("xs,ys,xy->", joint, given_seen, apart)
claim("a sharp answer drawn: its error over the mean's", drawn / loss, equals=2.0, within=1e-9)


# %%
def scene(fig):
    """Left, three rows of eight pixels: a sharp edge, what is seen of it, the conditional mean. Right, bars."""
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    strip = left.imshow(torch.zeros(12, 8), cmap="gray", vmin=-0.1, vmax=1.2, aspect="auto")
    left.set_yticks((1, 5, 9), ["truth $X$", "seen $\\tilde X$", "mean"])
    left.set(xticks=[])
    left.spines[:].set_visible(False)
    bars = right.bar(range(9), [0] * 9, color=color.model)
    right.set(ylim=(0, 1), yticks=[0, 1], xticks=range(9), xlabel="place of the edge")
    right.set_title("probability (green: the truth)")

    def update(edge, flips, draw):
        chance = torch.Generator().manual_seed(draw)
        flipped = (torch.rand(8, generator=chance) < flips).double()  # (8,)
        truth = X[edge].cpu()
        row = (truth - flipped).abs()  # (8,)
        table = joint_table(flips).cpu()
        share = table[:, (seen.cpu() == row).all(dim=1)][:, 0]  # (9,)
        share = share / share.sum()
        rows = torch.stack([truth, row, share @ X.cpu()]).repeat_interleave(4, dim=0)  # (12, 8)
        rows[3::4] = math.nan  # nothing between them
        strip.set_data(rows)
        for k, (bar, height) in enumerate(zip(bars, share.tolist(), strict=True)):
            bar.set(height=height, color=color.truth if k == edge else color.model)
        return f"{int(flipped.sum())} pixels changed; the edge is at {edge} with probability {share[edge]:.2f}"

    return update


# %% [markdown]
# Three things to try. Raise the noise, and see the edge become a ramp. Go through the draws: some of them point to
# the wrong place with conviction, and no method can know better. At a probability of ½ what is seen says nothing, and
# the answer is the mean of all rows.

# %%
knobs = {"edge": slider(0, 8, 3), "flips": slider(0.02, 0.5, 0.25, 0.01), "draw": slider(1, 12, 7)}
explore(scene, "6.1b", "A sharp edge, seen through noise, becomes a ramp.", (7.5, 2.2), **knobs)

# %% [markdown]
# ### On photographs
#
# What must a network beat? Three classical methods learn nothing, and scikit-image has them. The *blur* replaces each
# pixel by a weighted mean of its neighbours; noise averages away, and so do edges. *Total variation* (Rudin, Osher
# and Fatemi, 1992) looks for a picture that is near the noisy one and has little up and down, where one large step
# costs no more than many small ones: edges may stay. *Non-local means* (Buades, Coll and Morel, 2005) is attention: a
# pixel becomes the mean of those around it whose surroundings look like its own, since textures repeat. Each has a
# strength, which we choose on the validation squares.


# %%
def classical(method: str, images: Tensor, strength: float, level: float = LEVEL) -> Tensor:
    """What one of scikit-image's methods makes of images (B, 3, H, W)."""
    patches = {"patch_size": 5, "patch_distance": 6, "h": strength * level, "sigma": level}
    methods = {
        "blur": lambda x: filters.gaussian(x, strength, channel_axis=2),
        "total variation": lambda x: restoration.denoise_tv_chambolle(x, strength, channel_axis=2),
        "non-local means": lambda x: restoration.denoise_nl_means(x, channel_axis=2, **patches),
    }
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, 3)
    made = torch.stack([torch.tensor(methods[method](x)) for x in arrays])  # (B, H, W, 3)
    return made.permute(0, 3, 1, 2).to(images)  # (B, 3, H, W)


# %%
strengths = {"blur": (0.8, 0.9, 1.0), "total variation": (0.06, 0.08, 0.1)}
strengths["non-local means"] = (0.4, 0.5, 0.6)
middle = (..., slice(128, 384), slice(128, 384))
restored, chosen = {"noisy": noisy_new}, {}
for method, values in strengths.items():
    tried = [classical(method, noisy_held[middle], s) for s in values]
    scores = [psnr(images, clean_held[middle]).mean().item() for images in tried]
    chosen[method] = values[scores.index(max(scores))]
    restored[method] = classical(method, noisy_new, chosen[method])

# %% [markdown]
# Our network is built from chapter 5's residual blocks, and has the form of a U. `nn.PixelUnshuffle(2)` makes each
# 2 × 2 pixels one place with 12 channels: nothing is lost, and there are four times fewer places. One block works
# there; two go down by another factor of two and look from further away; a transposed convolution leads up again, and
# what was there before the descent is added. This form is called *U-Net*. The descent pays because one has to look
# around: whether a bright dot is a grain of noise or one of many pebbles can be told from what lies a dozen pixels
# away, and on coarse maps a small kernel looks far at little cost. Two choices matter for a short training.
# What the network computes is a correction to a blurred picture, which is not bad to begin with. And its last
# convolution starts at zero, so that at first the correction is nothing.


# %% tags=["export"]
class Denoiser(nn.Module):
    """Noisy images (B, 3, H, W) to clean ones, H and W multiples of 4: a blur and a learned correction."""

    def __init__(self, C: int = 24):
        super().__init__()
        bell = torch.exp(-(torch.arange(-3, 4.0) ** 2) / 2)  # (7,)
        self.register_buffer("bell", (torch.outer(bell, bell) / bell.sum() ** 2).repeat(3, 1, 1, 1))
        fold = nn.PixelUnshuffle(2), nn.Conv2d(12, C, 3, padding=1)  # (B, C, H / 2, W / 2)
        self.fine = nn.Sequential(*fold, ResidualBlock(C, C))
        down = ResidualBlock(C, C, 2 * C, stride=2), ResidualBlock(2 * C, C)
        self.coarse = nn.Sequential(*down, nn.ConvTranspose2d(2 * C, C, 2, stride=2))
        last = nn.Conv2d(C, 12, 3, padding=1)
        self.back = nn.Sequential(ResidualBlock(C, C), last, nn.PixelShuffle(2))
        for weights in last.parameters():
            nn.init.zeros_(weights)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] % 4 or x.shape[3] % 4:
            what = "images (B, 3, H, W) with H and W multiples of 4"
            raise ValueError(f"Denoiser: expected {what}, got {tuple(x.shape)}")
        around = F.pad(x, (3, 3, 3, 3), mode="reflect")
        blurred = F.conv2d(around, self.bell, groups=3)  # (B, 3, H, W)
        fine = self.fine(x)  # (B, C, H / 2, W / 2)
        return blurred + self.back(fine + self.coarse(fine))  # (B, 3, H, W)


# %%
seed(0)
denoiser = Denoiser().to(DEVICE, memory_format=torch.channels_last)
blurred = filters.gaussian(noisy_one, 1.0, mode="mirror", truncate=3, channel_axis=0)
untrained = denoiser.eval()(noisy_new[:1].clamp(0, 1))[0].cpu()  # (3, 512, 512)
claim("untrained, it is scikit-image's blur", untrained, equals=torch.tensor(blurred), within=1e-4)

# %% [markdown]
# It trains on tiles of 32 × 32 pixels. Convolutions do not care where in a picture they are, so what is learned on
# tiles holds for whole photographs, and a batch of tiles from many places is more varied than one large picture. Each
# time one is used it may be mirrored, and it gets fresh noise, so the network never sees the same input twice. The
# loss is the root of the mean squared error of each tile. Without the root, the few tiles of fur and gravel, where
# little can be won, would rule the training. The root changes how much a tile counts, and hardly what is best for it.


# %%
def denoising_loss(chance: torch.Generator) -> Callable:
    """The mean over tiles (B, 3, H, W) of the root mean squared error, each with noise of its own."""

    def loss(model: nn.Module, tiles: Tensor) -> Tensor:
        tiles = tiles.flip(3) if torch.rand(1, generator=chance) < 0.5 else tiles
        noisy = with_noise(tiles, LEVEL, chance).contiguous(memory_format=torch.channels_last)
        return (model(noisy) - tiles).square().flatten(1).mean(dim=1).sqrt().mean()

    return loss


# %%
rows = torch.cat(clean.split(32, dim=2))  # (288, 3, 32, 512)
tiles = torch.cat(rows.split(32, dim=3))  # (4608, 3, 32, 32)
history = train(denoiser, batches(tiles, size=12), denoising_loss(seed(1)), 1e-2, epochs=2)


# %% [markdown]
# `restore` asks twice: about the picture, and about its mirror image, whose answer it mirrors back. A photograph in
# the mirror is a photograph, so both answers are equally good, and they do not make quite the same mistakes. Their
# mean is better than either, without any more training.


# %% tags=["export"]
@torch.no_grad()
def restore(net: nn.Module, images: Tensor) -> Tensor:
    """What a denoiser makes of images (B, 3, H, W), one by one to save memory."""
    net.eval()
    return torch.cat([(net(x) + net(x.flip(3)).flip(3)) / 2 for x in images.split(1)])


# %% [markdown]
# Now the judgement, on photographs of which neither the network nor our choices have seen anything. PSNR does not see
# as we do; the *structural similarity*, or SSIM (Wang and others, 2004), compares small windows, and asks whether
# they have the same mean and contrast and vary together. It is 1 for equal pictures.

# %%
restored["network"] = restore(denoiser, noisy_new)  # (6, 3, 512, 512)
decibels, similar, truth = {}, {}, clean_new.cpu().numpy()
for name, images in restored.items():
    pairs = zip(images.clamp(0, 1).cpu().numpy(), truth, strict=True)
    each = [metrics.structural_similarity(*p, channel_axis=0, data_range=1) for p in pairs]
    decibels[name], similar[name] = psnr(images, clean_new).mean().item(), sum(each) / len(each)
rows = [(name, f"{decibels[name]:.2f}", f"{similar[name]:.3f}") for name in restored]
table(("method", "PSNR in dB", "SSIM"), rows, varies=["PSNR in dB", "SSIM"])

# %%
ahead = [scores["network"] - max(scores[name] for name in chosen) for scores in (decibels, similar)]
claim("network ahead of the best classical method, in dB", ahead[0], at_least=0.5)
claim("network ahead of the best classical method, in SSIM", ahead[1], at_least=0.03)
results = [f"{decibels[name]:.1f} dB by {name}" for name in ("network", "non-local means")]
summary["denoiser"] = (*cost(denoiser, noisy_new[:1]), history.seconds, *results)

# %%
names = ["noisy", "total variation", "non-local means", "network", "truth"]
fig, axes = plt.subplots(2, 5, figsize=(7, 3.1))
for row, k in zip(axes, (0, 4), strict=True):
    for ax, name in zip(row, names, strict=True):
        images = clean_new if name == "truth" else restored[name]
        show(ax, pieces(images)[k])
        told = "" if name == "truth" else f"{psnr(images, clean_new)[k]:.1f} dB"
        ax.set_title(f"{name}\n{told}" if k == 0 else told, size=11, weight="normal", loc="center")
said = "Pieces of two test squares: noisy, restored by three methods, and the truth. The network's are "
said += "the cleanest, and smoother than the truth."
figure("6.1c", "Pieces of two test squares; decibels of the whole squares.", said, held="trained")

# %% [markdown]
# Put under a slider: choose a piece and the noise. Non-local means is always told how strong the noise is; the
# network was trained with 25 grey levels and nothing else. Three things to try. At 25, go through the pieces, and
# look for what both have lost: hairs and grains have become smooth ground, as the conditional mean must be where
# nobody can know. With more noise than 25 the network takes the surplus for texture and leaves it. With less it takes
# off what it is used to take off, fine texture among it. Somewhere the noisy picture is better than what the network
# makes of it: find the place.


# %%
small_denoiser, small_pieces = copy.deepcopy(denoiser).cpu(), pieces(clean_new)
grain = torch.randn(1, 3, 96, 96, generator=seed(6))


def scene(fig):
    """A piece of a photograph four times: noisy, by non-local means, by the network, and clean."""
    axes = fig.subplots(1, 4)
    pictures = [ax.imshow(torch.zeros(96, 96, 3)) for ax in axes]
    told = [ax.text(48, 107, "", ha="center") for ax in axes]
    titles = ("noisy", "non-local means", "network", "truth")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, loc="center")
        ax.axis("off")

    def update(piece, noise):
        truth, level = small_pieces[piece : piece + 1], noise / 255
        noisy = truth + level * grain
        ours = restore(small_denoiser, noisy)
        by_means = classical("non-local means", noisy, chosen["non-local means"], level)
        images, values = (noisy, by_means, ours, truth), []
        for picture, text, image in zip(pictures, told, images, strict=True):
            picture.set_data(image[0].clamp(0, 1).permute(1, 2, 0))
            if image is not truth:
                values.append(psnr(image, truth).item())
                text.set_text(f"{values[-1]:.1f} dB")
        return "noisy {:.0f} dB, non-local means {:.0f} dB, network {:.0f} dB".format(*values)

    return update


# %%
knobs = {"piece": slider(0, 5, 2), "noise": slider(2, 60, 25)}
caption = "Noise of your choice, for a network that knows one strength."
explore(scene, "6.1d", caption, (8.5, 2.7), held="trained", **knobs)

# %% [markdown]
# How much harm, on all squares? With noise of 3 grey levels, which one hardly sees, the network makes every picture
# far worse than it was. It has learned from its training data, and not what we had in mind. Networks that must cope
# are trained with all strengths, or told the strength by one more input channel.

# %%
faint = with_noise(clean_new, 3 / 255, seed(9))
spoiled = psnr(faint, clean_new).mean() - psnr(restore(denoiser, faint), clean_new).mean()
claim("faint noise: what the network spoils, in dB", spoiled, at_least=5)

# %% [markdown]
# So the score in the table is that of one kind of noise on one kind of picture. A denoiser that is to be used should
# be tried on what it will meet.
#
# And is it blurred, as the conditional mean must be? Add up the squared differences between neighbouring pixels, a
# measure of detail. A good part of the truth's is gone.

# %%
detail = [x.diff(dim=3).square().sum() for x in (restored["network"], clean_new)]
claim("share of the detail that the network keeps", detail[0] / detail[1], at_most=0.7)

# %% [markdown]
# Its worst failures are of this kind: fur without hairs, a meadow without blades. It does not invent hairs, for the
# mean of all hairs that may be there is none. Whoever wants a picture that looks sharp must draw one of the
# possible ones, at twice the error; chapter 7 does.
#
# **Exercise.** What if the loss is the mean *absolute* error? The best answer is then not the mean but the *median*
# of what is possible: the smallest value such that it and all smaller ones have together a probability of at least
# one half. With two possibilities, black with 0.4 and white with 0.6, the mean is a grey that never occurs, and the
# median is white. From the values of $X$ in rising order and a table of joint probabilities like the one above, give
# the best answer for each value that may be seen. (A column adds up to the probability of seeing its value, not to
# one.)


# %% tags=["exercise"]
def conditional_median(values: Tensor, joint: Tensor) -> Tensor:
    """The median (S,) of X given each of S seen values, for rising values (K,) and joint (K, S)."""
    raise NotImplementedError


two, three = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0, 9.0])
grey = torch.tensor([[0.4], [0.6]])
columns = torch.tensor([[0.3, 0.1], [0.2, 0.4]])
sixteenths = torch.tensor([[4, 3], [2, 2], [2, 3]]) / 16
check(
    conditional_median,
    ("black with 0.4, white with 0.6: white", lambda g: (g(two, grey), torch.tensor([1.0]))),
    ("a column may add up to less", lambda g: (g(two, columns), torch.tensor([0.0, 1.0]))),
    ("half of it is enough", lambda g: (g(three, sixteenths), torch.tensor([1.0, 2.0]))),
)


# %% tags=["solution", "hide-input"]
def conditional_median(values: Tensor, joint: Tensor) -> Tensor:
    """Running sums down each column; the first that reaches half of the column's total."""
    enough = joint.cumsum(dim=0) >= joint.sum(dim=0) / 2  # (K, S)
    return values[enough.int().argmax(dim=0)]


# %% [markdown]
# ## 6.2 Image classification
#
# A program looks at a photograph of a garment and says "coat, 90 %". How often is it right, which garments does it
# take for which, and can the 90 be believed? **Image classification** is to choose, for an image, one class from a
# list that was fixed beforehand. It is the simplest way to get meaning out of a picture. Chapter 5 has built and
# trained the networks; this section is about what decides whether one can be used.
#
# Three questions, then: what is the network worth, what is one of its answers worth, and what can be done if there
# are few images? We begin with the last.
#
# The images are those of chapter 5: 5,000 photographs of clothes of ten kinds and 8,000 handwritten digits to learn
# from, 2,000 of each to test. From the clothes we hold 500 back. Something will be chosen by them, and what is chosen
# by some images can no longer be judged by them.

# %%
garments_new, kinds_new = fashion_mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
digits, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
digits_new, labels_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)

# %%
images, classes = fashion_mnist("train", DEVICE)  # (5000, 1, 28, 28), (5000,)
order = torch.randperm(5000, generator=seed(5)).to(DEVICE)
held, held_kinds = images[order[:500]], classes[order[:500]]
garments, kinds = images[order[500:]], classes[order[500:]]  # (4500, 1, 28, 28), (4500,)

# %% [markdown]
# ### What augmentation is worth
#
# A digit that is turned or moved a little is the same digit, and a coat in the mirror is a coat. **Data
# augmentation** makes use of such knowledge: it changes the training images at random, anew each time, in ways that
# do not change what they show. Section 3.6 did so with `augment`, and fewer errors were left. How much is that worth,
# counted in images? LeNet takes 200 steps on 250 digits and on 1,000, plainly and with `augment`.


# %%
def few_digits(count: int, loss: Callable) -> float:
    """Errors on new digits, as a share, of a LeNet that has taken 200 steps on `count` digits."""
    seed(0)
    net = LeNet().to(DEVICE, memory_format=torch.channels_last)
    data = batches(digits[:count], labels[:count], size=50)
    train(net, data, loss, 4e-3, epochs=200 // len(data))
    return 1 - accuracy(net, digits_new, labels_new)


# %%
plain = {count: few_digits(count, classification_loss) for count in (250, 1000)}
changed = {count: few_digits(count, augmented_loss(seed(1))) for count in (250, 1000)}
rows = [(f"{n:,}", f"{plain[n]:.1%}", f"{changed[n]:.1%}") for n in plain]
head = ("digits", "wrong, plainly", "wrong, augmented")
table(head, rows, varies=head[1:])

# %%
claim("250 digits augmented: errors over plain", changed[250] / plain[250], at_most=0.8)
claim("250 augmented: errors over 1,000 plain", changed[250] / plain[1000], at_most=1.6)

# %% [markdown]
# Augmented, 250 digits teach about as much as 1,000 do plainly. Where does that come from, since no new digit was
# written? From us: each change says that it does not matter, and this is knowledge that the network would otherwise
# have to gather from examples. A convolutional network knows something of shifts by its structure, and nothing of
# turns. It does not replace images without end, for all that it
# can show are variants of what is there; but where images are few and labels are dear, it is the cheapest thing that
# one can do.
#
# Now the clothes. They may be mirrored, which digits may not. Each image of a batch is shown as it is, or with its
# columns in reverse order, as a coin says.


# %% tags=["export"]
def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), about half of them with left and right exchanged."""
    coins = torch.rand(len(images), generator=generator) < 0.5  # (B,)
    return torch.where(coins.to(images.device)[:, None, None, None], images.flip(3), images)


# %% [markdown]
# The network has LeNet's plan, with what chapter 4 has taught since: padding, so that the maps keep more places,
# batch normalization after each convolution, and dropout in front of the head. Images so small need no great depth.
# Dropout switches off a part of the maps' numbers at random in each step, so that the head cannot rely on any single
# one of them; batch normalization lets the learning rate be high from the first steps on. Both behave differently in
# training and in use, which `probabilities` below takes care of.


# %% tags=["export"]
def small_convnet(classes: int = 10) -> nn.Sequential:
    """Two convolutions and a hidden layer: images (B, 1, 28, 28) to logits (B, classes)."""
    first = (
        nn.Conv2d(1, 24, 5, padding=2, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(24),
        nn.ReLU(),
    )
    second = nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(48)
    maps = *first, *second, nn.ReLU(), nn.Flatten(), nn.Dropout(0.4)  # (B, 2352)
    return nn.Sequential(*maps, nn.Linear(2352, 256), nn.ReLU(), nn.Linear(256, classes))


# %%
def clothes_net(count: int, epochs: int, mirrored: bool) -> tuple[nn.Module, History]:
    """A network trained on the first `count` garments, and how that went."""
    chance, net = seed(0), small_convnet().to(DEVICE, memory_format=torch.channels_last)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = mirror(x, chance) if mirrored else x
        return classification_loss(net, x.contiguous(memory_format=torch.channels_last), y)

    return net, train(net, batches(garments[:count], kinds[:count], size=50), loss, 6e-3, epochs)


# %% [markdown]
# Before you go on: on 500 garments, how much will the mirror win on the test images?

# %%
naive, _ = clothes_net(500, 20, mirrored=False)
careful, _ = clothes_net(500, 20, mirrored=True)
flipped = garments_new.flip(3)
gain = accuracy(careful, garments_new, kinds_new) - accuracy(naive, garments_new, kinds_new)
gain_flipped = accuracy(careful, flipped, kinds_new) - accuracy(naive, flipped, kinds_new)
claim("mirror: accuracy it adds on the test images", gain, at_most=0.03)
claim("mirror: accuracy it adds on mirrored test images", gain_flipped, at_least=0.12)

# %% [markdown]
# Nothing to speak of. In this data set all shoes point to the left, in the test images as well, so the mirror
# prepares for something that the test never asks. When the test images are mirrored, it is worth a lot. Augmentation
# adds knowledge, and a test set shows only as much of that as it asks for. Whoever will photograph shoes from both
# sides needs the mirror, whatever the test says. And whoever reads digits must not use it, for a mirrored 2 is none.
# Which changes leave the meaning as it is cannot be read off the data; somebody who knows the task has to say it.
#
# ### How good are the answers?
#
# Now all 4,500 garments. A network that knows mirror images can be asked about both sides, and the two answers are
# not quite the same: it votes with itself. `probabilities` takes the mean of what it says about some views of an
# image. For digits the views are the image and four that `augment` has changed by little.


# %% tags=["export"]
@torch.no_grad()
def probabilities(net: nn.Module, *views: Tensor) -> Tensor:
    """The mean (N, C) of the probabilities that a classifier gives to views (N, …) of the same images."""
    net.eval()
    each = [torch.cat([net(part) for part in view.split(500)]).softmax(dim=1) for view in views]
    return torch.stack(each).mean(dim=0)  # (N, C)


# %%
net, history = clothes_net(4500, 9, mirrored=True)
shares = probabilities(net, garments_new, flipped)  # (2000, 10)
right = (shares.argmax(dim=1) == kinds_new).double()  # (2000,)
claim("clothes: accuracy, both sides asked", right.mean(), at_least=0.875)

# %%
seed(0)
lenet = LeNet().to(DEVICE, memory_format=torch.channels_last)
digit_run = train(lenet, batches(digits, labels, size=64), augmented_loss(seed(1)), 6e-3, epochs=9)

# %%
chance = seed(2)
views = digits_new, *(augment(digits_new, chance, strength=0.5) for _ in range(4))
digit_right = (probabilities(lenet, *views).argmax(dim=1) == labels_new).double().mean()
claim("digits: accuracy, five views asked", digit_right, at_least=0.985)


# %%
def nearest(x: Tensor, y: Tensor, x_new: Tensor, y_new: Tensor) -> str:
    """How often the nearest of the images x (N, …) has the class of x_new (M, …), in words."""
    distances = torch.cdist(x_new.flatten(1), x.flatten(1))  # (M, N)
    share = (y[distances.argmin(dim=1)] == y_new).double().mean()
    return f"{100 * share:.1f} % by the nearest image"


found = nearest(garments, kinds, garments_new, kinds_new)
result = f"{100 * right.mean():.1f} % of new clothes"
summary["network for clothes"] = (*cost(net, flipped[:1]), history.seconds, result, found)
found = nearest(digits, labels, digits_new, labels_new)
result = f"{100 * digit_right:.1f} % of new digits"
summary["LeNet, five views"] = (*cost(lenet, digits_new[:1]), digit_run.seconds, result, found)

# %% [markdown]
# How far can such a number be trusted? Each image is right or wrong like a coin that shows heads with probability
# $p$. The mean of $N$ coins has the standard deviation $\sqrt{p (1 - p) / N}$, its *standard error*, and with 2,000
# images and $p$ near 0.9 that is two thirds of a percent. Differences smaller than two of these, measured on
# different images, should impress nobody. For two networks on the *same* images one can do better: on most of them
# both are right or both are wrong, and only the others tell the two apart. In each section of this chapter a number
# stands for some hundreds or thousands of examples, and it is worth asking every time how many.
#
# One number also hides what is wrong. The *confusion matrix* has a row for each class and a column for each answer,
# and counts. The pairs are numbered as `10 * class + answer`, and `bincount` counts how often each number occurs.

# %%
answers = shares.argmax(dim=1)  # (2000,)
confusion = (10 * kinds_new + answers).bincount(minlength=100).view(10, 10).cpu()  # (10, 10)
claim("the rows count the classes", confusion.sum(dim=1), equals=kinds_new.bincount().cpu())
claim("the diagonal counts what is right", confusion.trace().item() == right.sum().item())

# %%
fig, ax = plt.subplots(figsize=(6.6, 4.3))
ax.imshow(confusion.sqrt(), cmap="Blues", vmin=0, vmax=18, aspect="auto")
for i, j in confusion.nonzero().tolist():
    shade = "white" if confusion[i, j] > 90 else color.data
    ax.text(j, i, confusion[i, j].item(), ha="center", va="center", color=shade, size=11)
ax.set(yticks=range(10), yticklabels=CLOTHES, ylabel="class", xlabel="answer")
ax.set_xticks(range(10), CLOTHES, rotation=35, ha="right")
hardest = CLOTHES[confusion.diagonal().argmin()]
said = f"A ten by ten table, dark on the diagonal. The class most often missed is the {hardest}."
figure("6.2a", "The confusion matrix of 2,000 new garments.", said, held="trained")

# %% [markdown]
# Two blocks hold nearly all mistakes: things for the upper body, and shoes. Across the blocks hardly anything is
# confused. The worst row is that of the shirts, which at this size differ from coats and T-shirts by a collar or a
# row of buttons. Whoever needs to know whether something is a shoe can trust this network far more than its accuracy
# says; whoever sorts shirts, far less. A row tells what happens to a class, the share of it that is found: its
# *recall*. A column tells what an answer is worth, the share of it that is right: its *precision*. Section 6.3 needs
# both.

# %%
upper, shoes = torch.tensor([0, 2, 3, 4, 6]), torch.tensor([5, 7, 9])
wrong = confusion - confusion.diagonal().diag()  # (10, 10)
within = wrong[upper][:, upper].sum() + wrong[shoes][:, shoes].sum()
claim("share of the mistakes within the two blocks", within / wrong.sum(), at_least=0.84)
claim("the class most often missed is the shirt", hardest == "shirt")

# %% [markdown]
# ### Can the probabilities be believed?
#
# The largest probability is how sure the network says it is, its *certainty*. If it says 0.9, it should be right nine
# times out of ten; a classifier of which that is true is called *calibrated*. Sort the test images by certainty into
# ten bins, and compare in each bin $b$ the mean certainty with the share that is right. The mean gap, weighted by the
# number $n_b$ of images, is the *expected calibration error*. It is a matter of its own, next to the accuracy: who
# always answers with the commonest class, and says how common it is, is perfectly calibrated and of no use.
#
#
# $$\mathrm{ECE} = \sum_b \frac{n_b}{N}\, \bigl|\mathrm{right}_b - \mathrm{certainty}_b\bigr|$$


# %% tags=["export"]
def reliability(shares: Tensor, truth: Tensor, bins: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Images, mean certainty and share right (bins,) by certainty, from probabilities (N, C) and classes (N,)."""
    certainty, answer = shares.max(dim=1)  # (N,), (N,)
    member = F.one_hot((certainty * bins).long().clamp(max=bins - 1), bins).to(shares)  # (N, bins)
    count, right = member.sum(dim=0), (answer == truth).to(shares)  # (bins,), (N,)
    return count, certainty @ member / count.clamp(min=1), right @ member / count.clamp(min=1)


def calibration_error(shares: Tensor, truth: Tensor) -> float:
    """The expected calibration error of probabilities (N, C) for classes (N,)."""
    count, certainty, right = reliability(shares, truth)
    return ((count * (right - certainty).abs()).sum() / count.sum()).item()


# %%
four = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])  # (4, 2)
gap = calibration_error(four, torch.tensor([0, 1, 0, 0]))
claim("half of 0.9 right, all of 0.6: off by 0.4", gap, equals=0.4, within=1e-6)

# %% [markdown]
# Take the network that has seen 500 garments. It has seen each of them twenty times, knows them by heart, and was
# rewarded for being ever surer of them. Guo and others (2017) found a remedy with one parameter. Divide all logits by
# a *temperature* $T$ before the softargmax: above 1 it makes the probabilities more alike. The largest stays the
# largest, so no answer changes. $T$ is chosen to make the cross-entropy small, on images that the network has not
# seen: on its training set it is right to be sure. That is what we held 500 garments back for.

# %%
with torch.no_grad():
    held_logits, naive_logits = naive.eval()(held), naive(garments_new)  # (500, 10), (2000, 10)
warmths = torch.logspace(-0.5, 0.7, 121).tolist()
losses = [F.cross_entropy(held_logits / T, held_kinds).item() for T in warmths]
T = warmths[losses.index(min(losses))]
before, after = naive_logits.softmax(dim=1), (naive_logits / T).softmax(dim=1)  # (2000, 10)

# %%
too_sure = before.amax(dim=1).mean() - (before.argmax(dim=1) == kinds_new).float().mean()
claim("500 garments seen: too sure, on average by", too_sure, at_least=0.06)
ratio = calibration_error(after, kinds_new) / calibration_error(before, kinds_new)
claim("temperature: calibration error after over before", ratio, at_most=0.5)

# %%
panels = {"500 garments seen": before, f"the same, at T = {T:.1f}": after, "4,500 seen": shares}
fig, axes = plt.subplots(1, 3, figsize=(8.5, 2.9), sharey=True)
for ax, (title, p) in zip(axes, panels.items(), strict=True):
    count, _, share = (x.cpu() for x in reliability(p, kinds_new))
    ax.plot([0, 1], [0, 1], color=color.truth)
    share[count < 20] = math.nan  # too few to tell
    ax.bar(torch.arange(10) / 10 + 0.05, share, width=0.09, color=color.model)
    ax.scatter(torch.arange(10) / 10 + 0.05, [-0.1] * 10, s=count / 8, color=color.quiet)
    ax.set(title=title, xlim=(0, 1), ylim=(-0.2, 1.03), yticks=[0, 0.5, 1], xlabel="certainty")
axes[0].set_ylabel("share right")
axes[0].text(0.03, 0.16, "calibrated", color=color.truth, rotation=40)
axes[0].text(0.02, -0.12, "images", color=color.data, size=11)
said = (
    "Three diagrams of the share right by certainty. The bars stay below the diagonal on the left, "
)
said += "and reach it in the middle, after a division of the logits, and on the right, after more images."
figure("6.2b", "Certainty against truth: 500 garments make too sure.", said, held="trained")

# %% [markdown]
# Such a picture is called a *reliability diagram*. The dots below tell how many images there are in a bin; most
# images are in the last one, so a small gap there counts for more than a large one in the middle. After few images
# the bars stay below the diagonal: the network is too sure. With the temperature, or with nine times as many images,
# they reach it, and the 90 can be believed. But only about garments. Predict: how sure is the network of clothes when
# it is shown a *digit*? It has no class for "none of these", but it could spread its probabilities.

# %%
strange = probabilities(net, digits_new).amax(dim=1)  # (2000,)
claim("digits: share of which it is surer than 0.9", (strange > 0.9).float().mean(), at_least=0.3)

# %% [markdown]
# The softargmax of ten logits has to add up to one, so something always gets the one. Many digits are taken for
# clothes with conviction. The certainty compares the ten classes with each other; whether any of them fits, it does
# not ask. Calibrated means calibrated on images like those that were tested, and nowhere else.
#
# ### The worst mistakes
#
# These are the garments of which the network was surest and wrong, with the answer in red and the label in green.
# Whoever improves a classifier looks at such a sheet first: it shows in a minute whether images are missing, classes
# overlap, or labels are wrong. Labels are made by people in a hurry or taken from the lists of a shop, and in every
# large data set some of them are false. A network that is better than its labels cannot show it by them. Judge for
# yourself: with some of these one would rather doubt the label.

# %%
surest = shares.amax(dim=1).masked_fill(right == 1, 0).topk(16).indices.tolist()
fig, axes = plt.subplots(2, 8, figsize=(8.5, 3))
for ax, n in zip(axes.flat, surest, strict=True):
    ax.imshow(1 - garments_new[n, 0].cpu(), vmin=0, vmax=1)
    ax.text(13.5, -6.5, CLOTHES[answers[n]], color=color.test, ha="center", size=11)
    ax.text(13.5, -1.5, CLOTHES[kinds_new[n]], color=color.truth, ha="center", size=11)
    ax.axis("off")
said = "Sixteen garments, each with a sure and wrong answer and its label; most are for the upper body, or shoes."
figure("6.2c", "The surest mistakes: the answer in red, the label in green.", said, held="trained")

# %% [markdown]
# Now disturb a garment yourself. Three things to try. Turn it, and see whether the certainty falls *before* the
# answer changes; at a quarter turn nearly everything has become something else, often with conviction. Move it out of
# the picture until hardly anything is left, which must still be something. Then add noise, and watch one garment
# after the other become a shirt or a bag.

# %%
shown, one_each = copy.deepcopy(net).cpu(), [int((kinds_new == k).nonzero()[3]) for k in range(10)]
ten, grain = garments_new[one_each].cpu(), torch.randn(1, 1, 28, 28, generator=seed(8))


def scene(fig):
    """A garment, and ten probabilities as bars."""
    left, right = fig.subplots(1, 2, width_ratios=[1, 2])
    picture = left.imshow(ten[0, 0], cmap="gray_r", vmin=0, vmax=1)
    left.axis("off")
    bars = right.barh(CLOTHES, [0] * 10, color=color.model)
    right.set(xlim=(0, 1), xticks=[0, 0.5, 1], ylim=(9.6, -0.6), xlabel="probability")

    def update(garment, turn, right, noise):
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        map_ = torch.tensor([[[c, -s, -right / 14], [s, c, 0.0]]])  # (1, 2, 3)
        places = F.affine_grid(map_, (1, 1, 28, 28), align_corners=False)
        x = F.grid_sample(ten[garment : garment + 1], places, align_corners=False)
        x = (x + noise * grain).clamp(0, 1)  # (1, 1, 28, 28)
        values = probabilities(shown, x)[0].tolist()
        picture.set_data(x[0, 0])
        for k, (bar, value) in enumerate(zip(bars, values, strict=True)):
            bar.set(width=value, color=color.truth if k == garment else color.test)
        best = values.index(max(values))
        return f"{CLOTHES[garment]}, answer {CLOTHES[best]} with {max(values):.1f}"

    return update


# %%
knobs = {"garment": slider(0, 9, 1), "turn": slider(-180, 180, 15, 5), "right": slider(-14, 14, 0)}
knobs["noise"] = slider(0.0, 0.6, 0.0, 0.05)
caption = "A garment disturbed, and what the network says; green is the label."
explore(scene, "6.2d", caption, (8, 3), held="trained", **knobs)

# %% [markdown]
# **Exercise.** A certainty that can be believed can be used: the program answers where it is sure, and leaves the
# rest to a person. Somebody asks: of what the machine answers, 98 in 100 must be right; how much can it answer? You
# get the certainties of some labelled images, and which of them were answered rightly. The machine answers the $n$
# surest. Return the largest share $n / N$ at which the accuracy of these $n$ is at least what is wanted, and 0 if
# there is none. (The accuracy does not fall evenly: it may be too low for a small $n$ and high enough for a larger
# one.)


# %% tags=["exercise"]
def coverage_for(certainty: Tensor, right: Tensor, wanted: float) -> float:
    """The largest share of images that can be answered, from certainty (N,) and right (N,) of 1 and 0."""
    raise NotImplementedError


sure, half_right = torch.tensor([0.7, 0.9, 0.6, 0.8]), torch.tensor([1.0, 1.0, 0.0, 0.0])
surest_wrong = torch.tensor([1.0, 0.0, 1.0, 1.0])
check(
    coverage_for,
    ("all right among the surest: one of four", lambda g: (g(sure, half_right, 1.0), 0.25)),
    ("two in three right: three of four", lambda g: (g(sure, half_right, 0.6), 0.75)),
    ("the surest is wrong, and yet all", lambda g: (g(sure, surest_wrong, 0.75), 1.0)),
    ("never good enough", lambda g: (g(sure, surest_wrong, 0.9), 0.0)),
)


# %% tags=["solution", "hide-input"]
def coverage_for(certainty: Tensor, right: Tensor, wanted: float) -> float:
    """A running mean from the surest on; the last place at which it is good enough."""
    ordered = right[certainty.argsort(descending=True)]  # (N,)
    counts = torch.arange(1, len(right) + 1, device=right.device)  # (N,)
    enough = ordered.cumsum(dim=0) / counts >= wanted  # (N,)
    return (counts * enough).max().item() / len(right)


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

# %%
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

# %%
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

# %%
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
fig, axes = plt.subplots(3, 5, figsize=(7.6, 4.8))
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

# %%
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

# %%
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

# %%
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

# %%
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


# %%
@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """The probabilities (N, C, H, W) of the classes for each pixel of images (N, 3, H, W)."""
    return torch.cat([model.eval()(some).softmax(1) for some in images.split(100)])


# %%
seed(0)
nets, runs = {"with skips": segmenter, "without": UNet(C, skip=False)}, {}

# %%
for name, net in nets.items():
    net.to(DEVICE, memory_format=torch.channels_last)
    data = batches(labelled.images, labelled.labels, size=16)
    runs[name] = train(net, data, pixel_loss, 6e-3, epochs=2, weight_decay=0.05)

# %%
answers = {name: probabilities(net, labelled_new.images).argmax(1) for name, net in nets.items()}
in_style = probabilities(segmenter, labelled_style.images).argmax(1)  # (N, 64, 64)
reached = {name: mean_iou(answer, truth, C) for name, answer in answers.items()}
gain = reached["with skips"] - reached["without"]
claim("mean IoU on new photographs", reached["with skips"], at_least=0.68)
style = mean_iou(in_style, labelled_style.labels, C)
claim("mean IoU in the style never seen", style, at_least=0.4)
claim("mean IoU: what the skips bring", gain, at_least=0.01)
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

# %%
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


# %%
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
# Where the picture is lit outside of the thing, look at what is there: mostly something of the same colour, which is
# all that the coarse maps had to go by.
#
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

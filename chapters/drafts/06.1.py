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
fig, axes = plt.subplots(2, 5, figsize=(8.5, 3.7))
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

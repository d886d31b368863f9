# %% [markdown]
# ## 6.1 Image denoising
#
# A photograph taken in the dark is grainy: the camera counted little light, and each pixel counted a bit too much or
# a bit too little. **Image denoising** is to go back from such a disturbed picture to the clean one. That sounds
# impossible, since the noise took something away that nobody wrote down. It is possible to some extent because
# pictures are not arbitrary numbers. Neighbouring pixels are alike, edges go on, textures repeat. Whoever knows how
# pictures usually look can tell what is probably picture and what is probably noise.
#
# A network can learn this from examples, and examples cost nothing: take clean pictures and disturb them yourself.
# The clean picture is called $X$, the disturbed one $\tilde X$. The network gets $\tilde X$ and is trained to give
# $X$. A network trained like this is a **denoising autoencoder**: "auto" since the picture itself is the answer to be
# learned, so that no human has to label anything.
#
# The data are 14 photographs, two squares of 512 × 512 pixels from each. They are divided by photograph, so that no
# piece of a test picture was ever seen in training: 18 squares to train, 4 to choose settings, 6 to test.

# %%
clean = photographs("train", DEVICE).images  # (18, 3, 512, 512)
clean_held = photographs("validation", DEVICE).images  # (4, 3, 512, 512)
clean_new = photographs("test", DEVICE).images  # (6, 3, 512, 512)

# %% [markdown]
# The noise is Gaussian with a standard deviation of 25 grey levels out of 255, the usual choice in the literature,
# drawn separately for each pixel and colour. A noisy number may lie below 0 or above 1; we keep it as it is, since to
# cut it off would throw away what little is known.


# %% tags=["export"]
def with_noise(images: Tensor, level: float, chance: torch.Generator) -> Tensor:
    """The images, with Gaussian noise of standard deviation `level` added to each number."""
    noise = torch.randn(images.shape, generator=chance)
    return images + level * noise.to(images.device)


# %%
LEVEL = 25 / 255
noisy_held, noisy_new = (
    with_noise(clean_held, LEVEL, seed(7)),
    with_noise(clean_new, LEVEL, seed(8)),
)
claim("the noise that was added", (noisy_new - clean_new).std(), equals=LEVEL, within=1e-4)

# %% [markdown]
# Here are pieces of the six test squares; the right half of each is noisy. Fur, grass and stones are hard: they look
# a little like noise themselves. Smooth ground is easy.

# %%
corners = [(50, 155), (180, 200), (40, 190), (40, 320), (130, 230), (100, 60)]  # row and column
fig, axes = plt.subplots(1, 6, figsize=(8.5, 1.5))
for n, (ax, (y, x)) in enumerate(zip(axes, corners, strict=True)):
    left, right = (
        clean_new[n, :, y : y + 80, x : x + 40],
        noisy_new[n, :, y : y + 80, x + 40 : x + 80],
    )
    halves = torch.cat([left, right], dim=2)  # (3, 80, 80)
    ax.imshow(halves.clamp(0, 1).permute(1, 2, 0).cpu(), interpolation="bicubic")
    ax.axis("off")
said = f"Pieces of {len(clean_new)} test photographs, clean on the left, on the right with noise."
figure("6.1a", "Pieces of the test squares: clean on the left, noisy on the right.", said)

# %% [markdown]
# ### Two yardsticks
#
# How good is a restored picture? Take the mean squared error to the clean one, after cutting off what no screen can
# show. It is usually told in decibels, on a scale where more is better and every 10 dB mean a tenth of the error.
# That is the *peak signal-to-noise ratio*, PSNR, $-10 \log_{10}$ of the mean squared error when white is 1. An error
# of 0.1 everywhere gives 20 dB, and half of it 6 dB more. By the same formula noise of 25 grey levels has 20.17 dB.


# %% tags=["export"]
def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in decibels of images (N, C, H, W) that should be the truth."""
    error = (images.clamp(0, 1) - truth).square().flatten(1).mean(dim=1)  # (N,)
    return -10 * error.log10()


# %%
tenth_off = psnr(torch.full((1, 3, 8, 8), 0.4), torch.full((1, 3, 8, 8), 0.5))  # (1,)
claim("an error of a tenth is 20 dB", tenth_off.item(), at_least=19.999, at_most=20.001)

# %%
noisy_psnr = psnr(noisy_new, clean_new)  # (6,)
claim("PSNR of the noisy test squares", noisy_psnr.mean(), at_least=20.17, at_most=20.6)

# %% [markdown]
# Cutting off has repaired a little, so it is somewhat more than 20.17.
#
# But PSNR does not see as we do. To make a whole picture a little brighter costs as much as to blur all its edges.
# The *structural similarity*, SSIM (Wang and others, 2004), compares windows of 11 × 11 pixels: do both have the same
# mean $\mu$, the same variance $\sigma^2$, and do they vary together, with a covariance $\sigma_{xy}$ as large as
# that? Each window gets
#
# $$\frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}{(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)},$$
#
# and SSIM is the mean over all windows. It is 1 for two equal pictures only. The small constants keep the fractions
# calm where both pictures are black or flat. In a window the pixels in the middle count most: their weights form a
# bell. A bell in two dimensions is a bell along the rows of a bell along the columns, so two thin convolutions do,
# and `groups` filters each colour by itself.


# %% tags=["export"]
def bell_mean(images: Tensor, width: float) -> Tensor:
    """Means weighted by a bell over windows of 11 × 11: (N, C, H, W) to (N, C, H - 10, W - 10)."""
    C, t = images.shape[1], torch.arange(-5, 6).to(images)
    bell = (-t.square() / (2 * width**2)).exp()  # (11,)
    row = (bell / bell.sum()).expand(C, 1, 1, 11)
    return F.conv2d(F.conv2d(images, row, groups=C), row.mT, groups=C)


def ssim(x: Tensor, y: Tensor, c1: float = 0.01**2, c2: float = 0.03**2) -> Tensor:
    """Structural similarity (N,) of images x and y (N, C, H, W) from 0 to 1."""
    mean_x, mean_y = bell_mean(x, 1.5), bell_mean(y, 1.5)
    spread = bell_mean(x * x + y * y, 1.5) - mean_x.square() - mean_y.square()  # both variances
    together = bell_mean(x * y, 1.5) - mean_x * mean_y  # the covariance
    above = (2 * mean_x * mean_y + c1) * (2 * together + c2)
    below = (mean_x.square() + mean_y.square() + c1) * (spread + c2)
    return (above / below).flatten(1).mean(dim=1)


# %% [markdown]
# On two flat pictures, with the values $a$ and $b$, only the first factor is left. And of two pictures with the same
# PSNR, one brighter and one noisy, SSIM prefers the brighter one by far.

# %%
a, b = torch.full((1, 1, 16, 16), 0.2, **EXACT), torch.full((1, 1, 16, 16), 0.6, **EXACT)
flat = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
claim("SSIM of two flat pictures", ssim(a, b).item(), at_least=flat - 1e-9, at_most=flat + 1e-9)
claim(
    "SSIM of a picture with itself",
    ssim(clean_new, clean_new),
    equals=torch.ones(6).to(DEVICE),
    within=1e-4,
)

# %%
brighter = ssim(0.8 * clean_new + LEVEL, 0.8 * clean_new)  # (6,)
noisier = ssim(0.8 * clean_new + noisy_new - clean_new, 0.8 * clean_new)  # (6,)
claim("SSIM: brighter minus noisy, at one PSNR", (brighter - noisier).min(), at_least=0.2)

# %% [markdown]
# ### What such a network learns
#
# Suppose that training succeeds perfectly, with the mean squared error as its loss. What does the network then give?
# The noisy picture does not determine the clean one. Several are possible, some more probable than others. Whatever
# number $f$ the network answers, its expected loss is $\mathbb{E}[(f - X)^2]$ over all $X$ that are possible, given
# what is seen. Section 1.1 had the exercise: the constant with the smallest mean squared error is the mean. So
#
# $$f^*(\tilde X) = \mathbb{E}[X \mid \tilde X],$$
#
# the *conditional mean*, the average of all clean pictures that could be behind $\tilde X$, each as often as it is
# probable.
#
# Test it where everything can be counted. A single pixel has one of four grey values, mostly the darkest or the
# brightest. The noise adds −1, 0 or 1. So six values can be seen, and a table of 4 × 6 numbers tells how probable
# each pair of $X$ and $\tilde X$ is. The exact conditional mean follows by multiplying and adding.

# %%
greys, probable = torch.arange(4.0, **EXACT), torch.tensor([0.4, 0.1, 0.1, 0.4], **EXACT)
noise_share = torch.tensor([0.25, 0.5, 0.25], **EXACT)  # of -1, 0 and 1
joint_table = torch.zeros(4, 6, **EXACT)  # (X, X~); X~ goes from -1 to 4
for grey in range(4):
    joint_table[grey, grey : grey + 3] = probable[grey] * noise_share
exact_mean = greys @ joint_table / joint_table.sum(dim=0)  # (6,)
print("E[X | X~] for X~ from -1 to 4:", [round(v, 3) for v in exact_mean.tolist()])

# %% [markdown]
# On the other side a "network" that knows nothing of probabilities: a list of six answers, one for each value that
# may be seen. It starts at zero and follows the gradient of its mean squared error.

# %% tags=["equation-denoiser"]
answer_for = torch.zeros(6, **EXACT, requires_grad=True)
for _ in range(300):
    loss_of_answers = (joint_table * (answer_for - greys[:, None]).square()).sum()
    (slope,) = torch.autograd.grad(loss_of_answers, answer_for)
    answer_for.data -= slope

# %%
claim("the trained answers are E[X | X~]", answer_for.detach(), equals=exact_mean, within=1e-9)

# %%
unchanged = torch.arange(-1.0, 5, **EXACT)  # (6,) answer what you see
excess = (joint_table * (unchanged - greys[:, None]).square()).sum() - loss_of_answers
distance = (joint_table.sum(dim=0) * (unchanged - exact_mean).square()).sum()
claim("excess loss is the distance to the mean", excess, equals=distance, within=1e-9)

# %% [markdown]
# They agree. The list was never shown a probability, only errors, and yet it ends at the mean of what is possible.
# For a network it is the same, as far as its weights allow: for every noisy picture it is pulled towards all the
# clean ones that may be behind it, to each as strongly as it is frequent.
#
# Look at the answers: where 1 is seen, the answer is 0.571, although $X$ was 0, 1 or 2 and certainly not a fraction.
# The last claim says more. What any other answer loses above the minimum is exactly its mean squared distance from
# the conditional mean. A loss that cannot be made smaller is left: it is how uncertain $X$ remains.
#
# ### A mean of sharp pictures is blurred
#
# What is harmless in a pixel is a weakness in a picture. For pictures one cannot list all possibilities, unless one
# makes the world small: let there be exactly 2,000 pictures, the first training digits of MNIST, equally probable. We
# see the upper eight rows of one of them, with noise, and nothing of the rest. By Bayes' rule (section 1.4) a digit
# $x_n$ whose rows differ from what is seen by the squared distance $d_n$ has a probability proportional to
# $e^{-d_n / 2 \sigma^2}$. This is a softargmax, and so the conditional mean is attention as in section 4.8: what is
# seen asks, all known digits answer, and their values are averaged.


# %%
def probabilities(known: Tensor, seen: Tensor, rows: int, level: float) -> Tensor:
    """How probable (M, N) each known picture (N, 28, 28) is, given the first rows of M noisy ones."""
    top, seen_top = known[:, :rows].flatten(1), seen[:, :rows].flatten(1)  # (N, 28 r), (M, 28 r)
    distances = torch.cdist(seen_top, top).square()  # (M, N)
    return (-distances / (2 * level**2)).softmax(dim=1)


# %%
all_digits = mnist("train", DEVICE)[0][:2000, 0]  # (2000, 28, 28)
seen_digits = with_noise(all_digits, 0.5, seed(3))
chances = probabilities(all_digits, seen_digits, rows=8, level=0.5)  # (2000, 2000)
digit_means = torch.einsum("mn,nhw->mhw", chances, all_digits)  # (2000, 28, 28)

# %% [markdown]
# Three ways to answer: the mean; the most probable digit; or one drawn at random with these probabilities. The last
# two are perfect digits, sharp and clean. Which has the smallest squared error?

# %%
likeliest = all_digits[chances.argmax(dim=1)]  # (2000, 28, 28)
drawn = all_digits[torch.multinomial(chances.cpu(), 1, generator=seed(4))[:, 0].to(DEVICE)]
digit_errors = [(x - all_digits).square().mean() for x in (digit_means, likeliest, drawn)]
claim("squared error: the mean over the likeliest", digit_errors[0] / digit_errors[1], at_most=0.75)
claim(
    "squared error: drawn over mean", digit_errors[2] / digit_errors[0], at_least=1.8, at_most=2.2
)

# %% [markdown]
# The mean, of course; nothing can beat it. And a digit drawn at random has about *twice* its error, in our five
# trials 1.94 to 2.02 times. That is a law: the truth and the drawn digit are then two independent draws from the same
# probabilities, and two draws lie, on average of the squares, twice as far from each other as one of them from their
# mean. Yet the mean is no digit:

# %%
fig, axes = plt.subplots(4, 8, figsize=(7.5, 4))
names = {"truth": all_digits, "seen": seen_digits, "mean": digit_means, "drawn": drawn}
shown_digits = [9, 23, 33, 47, 62, 80, 95, 99]
for (name, images), row in zip(names.items(), axes, strict=True):
    row[0].text(-4, 14, name, ha="right", va="center", size=12)
    for ax, n in zip(row, shown_digits, strict=True):
        ax.imshow(1 - images[n, : 8 if name == "seen" else 28].cpu(), vmin=0, vmax=1)
        ax.set(xlim=(-0.5, 27.5), ylim=(27.5, -0.5))
        ax.axis("off")
grey_share = ((digit_means > 0.15) & (digit_means < 0.85)).float().mean()
grey_truth = ((all_digits > 0.15) & (all_digits < 0.85)).float().mean()
said = f"Eight digits of which 8 noisy rows are seen. The mean is grey in {100 * grey_share:.0f} % "
said += f"of its pixels, the true digits in {100 * grey_truth:.0f} %; the drawn ones are sharp."
figure("6.1b", "What is true, what is seen of it, its conditional mean, and a random draw.", said)

# %%
claim("grey pixels of the mean over those of digits", grey_share / grey_truth, at_least=2)

# %% [markdown]
# In the second row little can be recognized, and yet the posterior often can, since it compares all 224 visible
# pixels with those of every known digit at once. Where the seen rows leave no doubt, the mean is sharp. Where they
# fit a 7 as well as a 9, it is both, laid over each other, each as strong as it is probable. Drawing gives something
# that looks right, and is more often wrong. The same holds for any network trained with the mean squared error: where
# it cannot know, it blurs. Chapter 7 makes pictures by drawing instead.
#
# In the next picture three digits that fit best stand beside the mean, with their probabilities below. When these are
# all small, many digits share the mean, and it is a cloud. Choose a digit, how many rows of it are seen, and how
# noisy they are. At what number of rows is the matter decided?

# %%
known_cpu, asked_cpu = all_digits.cpu(), all_digits[:40].cpu()
unit_noise = torch.randn(40, 28, 28, generator=seed(5))


# %%
def scene(fig):
    """A digit's upper rows with noise, the mean of all digits that fit, and the three that fit best."""
    axes = fig.subplots(1, 5)
    titles = ["seen", "mean", "likeliest", "second", "third"]
    blank = torch.zeros(28, 28)
    pictures = [ax.imshow(blank, cmap="gray_r", vmin=0, vmax=1) for ax in axes]
    shares = [ax.text(14, 33, "", ha="center", color=color.model, size=12) for ax in axes]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, size=12, loc="center")
        ax.axis("off")

    def update(digit, rows, noise):
        seen = asked_cpu[digit : digit + 1] + noise * unit_noise[digit : digit + 1]
        share = probabilities(known_cpu, seen, rows, noise)[0]  # (2000,)
        best = share.topk(3)
        covered = seen[0].clone()
        covered[rows:] = 0
        mean = (share @ known_cpu.flatten(1)).reshape(28, 28)
        for picture, image in zip(pictures, [covered, mean, *known_cpu[best.indices]], strict=True):
            picture.set_data(image)
        for text, value in zip(shares[2:], best.values.tolist(), strict=True):
            text.set_text(f"{value:.2f}")
        possible = share.square().sum().reciprocal().item()
        return f"{rows} rows seen; about {possible:.0f} digits are still possible"

    return update


# %%
knobs = {"digit": slider(0, 39, 9), "rows": slider(1, 28, 8), "noise": slider(0.1, 2.0, 0.5, 0.1)}
explore(scene, "6.1c", "The mean of all digits that fit what is seen.", (8, 2.3), **knobs)

# %% [markdown]
# ### What one did before
#
# Three classical methods, as a bar to pass. They learn nothing; each has one setting, which we choose with the
# validation squares, as we shall choose those of the network.
#
# The first is the *blur*: replace each pixel by a weighted mean of its neighbours. Noise averages away, and so do the
# edges.


# %% tags=["export"]
def blurred(images: Tensor, width: float) -> Tensor:
    """Images (N, C, H, W), each pixel replaced by the mean of its neighbours, weighted by a bell."""
    return bell_mean(F.pad(images, (5, 5, 5, 5), mode="reflect"), width)


# %% [markdown]
# The second is *total variation* (Rudin, Osher and Fatemi, 1992). It looks for the picture $u$ that is near the noisy
# one, $y$, and has little up and down, $\frac12 \|u - y\|^2 + \lambda \sum_i \|\nabla u_i\|$. Here $\nabla u_i$ are
# the differences of pixel $i$ to the right and to the pixel below, in all three colours, six numbers, and $\|\cdot\|$
# is the length of their vector. Lengths, unlike squares, let one large step cost no more than many small ones, so
# edges may stay.
#
# A length has no derivative at zero, where most pixels should end. The trick (Chambolle, 2004) is to write it as
# $\|\nabla u_i\| = \max p_i \cdot \nabla u_i$ over all vectors $p_i$ with length at most one. For given $p$ the best
# $u$ is $y - \lambda \nabla^\top p$, with the transposed $\nabla^\top$. So walk with $p$ along $\nabla u$, and
# shorten each $p_i$ that gets longer than one. We look a bit ahead in the direction of the last step, a form of
# momentum that makes 20 steps enough.


# %% tags=["export"]
def slopes(images: Tensor) -> Tensor:
    """Differences (2, N, C, H, W) of each pixel to the right and below; 0 at the border."""
    return torch.stack([F.pad(images.diff(dim=3), (0, 1)), F.pad(images.diff(dim=2), (0, 0, 0, 1))])


def slopes_transposed(p: Tensor) -> Tensor:
    """The transposed of `slopes`: (2, N, C, H, W) to images (N, C, H, W)."""
    right, below = p[0][..., :-1], p[1][..., :-1, :]
    across = F.pad(right, (1, 0)) - F.pad(right, (0, 1))
    return across + F.pad(below, (0, 0, 1, 0)) - F.pad(below, (0, 0, 0, 1))


def total_variation(images: Tensor, strength: float, steps: int = 20) -> Tensor:
    """The images (N, C, H, W) near the given ones with little total variation."""
    p = ahead = torch.zeros_like(slopes(images))  # (2, N, C, H, W)
    for step in range(steps):
        u = images - strength * slopes_transposed(ahead)
        longer = ahead + slopes(u) / (8 * strength)
        length = longer.square().sum(dim=(0, 2), keepdim=True).sqrt()  # (1, N, 1, H, W)
        last, p = p, longer / length.clamp_min(1)
        ahead = p + step / (step + 3) * (p - last)
    return images - strength * slopes_transposed(p)


# %% [markdown]
# Is the transposed right? Then $p \cdot \nabla u = \nabla^\top p \cdot u$ for any $p$ and $u$. And is the minimum
# found? For any allowed $p$, $\frac12 \|y\|^2 - \frac12 \|y - \lambda \nabla^\top p\|^2$ is a lower bound of what can
# be reached; the picture that we have may lie only little above it.

# %%
some_u, some_p = torch.rand(2, 3, 9, 8, **EXACT), torch.rand(2, 2, 3, 9, 8, **EXACT)
across_u, across_p = (slopes(some_u) * some_p).sum(), (some_u * slopes_transposed(some_p)).sum()
claim("slopes and their transposed", across_u, equals=across_p, within=1e-9)

# %%
piece = noisy_held[:, :, 128:256, 128:256]  # (4, 3, 128, 128)
flatter = total_variation(piece, 0.1)
variation = slopes(flatter).square().sum(dim=(0, 2)).sqrt().sum()
reached = (flatter - piece).square().sum() / 2 + 0.1 * variation
bound = (piece.square().sum() - flatter.square().sum()) / 2
claim("total variation over its lower bound", reached / bound, at_least=1 - 1e-5, at_most=1.01)

# %% [markdown]
# The third, *non-local means* (Buades, Coll and Morel, 2005), is attention again. Each pixel is replaced by a
# weighted mean of all pixels around it, not only near ones: the weight is large where a 3 × 3 patch around the other
# pixel looks like the one around it, $e^{-d/h^2}$ with the mean squared difference $d$. Textures repeat, and every
# repetition helps. Two noisy patches of the *same* content already differ by $2 \sigma^2$, so this much is taken off
# $d$ first.


# %% tags=["export"]
def non_local_means(images: Tensor, level: float, strength: float, reach: int = 5) -> Tensor:
    """Images (N, C, H, W), each pixel a mean of those around it whose patches look alike."""
    H, W = images.shape[2:]
    around = F.pad(images, (reach,) * 4, mode="reflect")
    total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            other = around[:, :, i : i + H, j : j + W]
            d = (other - images).square().mean(dim=1, keepdim=True)  # (N, 1, H, W)
            d = F.avg_pool2d(d, 3, 1, 1, count_include_pad=False) - 2 * level**2
            weight = (-d.clamp_min(0) / (strength * level) ** 2).exp()
            total += weight * other
            weights += weight
    return total / weights


# %% [markdown]
# The loops go over all 121 places that a neighbour may have, and each pass handles this neighbour of all pixels at
# once. The picture is mirrored at its border, so that every pixel has neighbours on all sides. With an enormous
# strength all weights are one, and it is the plain mean over 11 × 11 pixels.

# %%
plain_mean = F.avg_pool2d(F.pad(piece, (5, 5, 5, 5), mode="reflect"), 11, 1)
claim(
    "all weights one: the plain mean",
    non_local_means(piece, LEVEL, 1e4),
    equals=plain_mean,
    within=1e-4,
)

# %% [markdown]
# A small strength leaves noise, a large one takes detail away. Each gets three settings to choose from, judged on the
# middles of the validation squares.

# %%
middle = (..., slice(128, 384), slice(128, 384))
attempts = {"blur": [0.8, 1.0, 1.2], "total variation": [0.09, 0.11, 0.13]}
attempts["non-local means"] = [0.6, 0.7, 0.8]


# %%
def classical(method: str, images: Tensor, setting: float) -> Tensor:
    """One of the three methods, for noise of 25 grey levels, image by image."""
    if method == "non-local means":
        return torch.cat([non_local_means(one, LEVEL, setting) for one in images.split(1)])
    apply = {"blur": blurred, "total variation": total_variation}[method]
    return torch.cat([apply(one, setting) for one in images.split(1)])


# %%
settings, restored = {}, {"noisy": noisy_new}
for method, values in progress(attempts.items(), "classical methods"):
    held = [
        psnr(classical(method, noisy_held[middle], v), clean_held[middle]).mean().item()
        for v in values
    ]
    settings[method] = values[held.index(max(held))]
    restored[method] = classical(method, noisy_new, settings[method])

# %%
claim("total variation: the setting chosen", settings["total variation"] == 0.11)
claim("non-local means: the setting chosen", settings["non-local means"] == 0.7)
scores = {name: psnr(images, clean_new).mean().item() for name, images in restored.items()}
claim("PSNR of the blur", scores["blur"], at_least=28.5, at_most=29.3)
claim("PSNR of total variation", scores["total variation"], at_least=29.8, at_most=30.6)
claim("PSNR of non-local means", scores["non-local means"], at_least=30.4, at_most=30.8)

# %% [markdown]
# Non-local means is the one to beat. A more elaborate method of the same family, BM3D, is stronger still; it is too
# long for this section.
#
# ### The network
#
# Our network is put together from residual blocks (section 4.7) of two convolutions. Most of them look at the picture
# from further away. First, `nn.PixelUnshuffle(2)` makes each 2 × 2 pixels one place with 12 channels, so that nothing
# is lost and there are four times fewer places. Then a convolution with stride 2 goes down once more, where two
# blocks work with twice as many channels, and a transposed convolution goes up again. What was there before the
# descent is added (a form called *U-Net*). In the end the 12 channels become 2 × 2 pixels of three colours again.
#
# Three choices matter for a short training. The network does not give the picture, only what should be taken off it,
# so it starts from a sensible answer. The last convolution starts with zeros: at first nothing is taken off. And the
# input is shifted and stretched, since pixel values are all positive, and networks learn faster from numbers around
# zero. Batch normalization (section 4.6) did *not* help: in an early trial of 250 steps the network with it was 0.7
# dB worse than the one without. We did not find out why.


# %% tags=["export"]
def two_convolutions(C: int) -> nn.Module:
    """A residual block: images (N, C, H, W) to images of that shape."""
    first, second = (nn.Conv2d(C, C, 3, padding=1) for _ in range(2))
    return Residual(nn.Sequential(first, nn.ReLU(), second))


class Denoiser(nn.Module):
    """Disturbed images (N, C, H, W) to restored ones; H and W are multiples of 4."""

    def __init__(self, C: int = 3, hidden: int = 32):
        super().__init__()
        check_sizes(C=C, hidden=hidden)
        first, wide = nn.Conv2d(4 * C, hidden, 3, padding=1), 2 * hidden
        self.head = nn.Sequential(nn.PixelUnshuffle(2), first, two_convolutions(hidden))
        self.down = nn.Conv2d(hidden, wide, 2, stride=2)
        self.middle = nn.Sequential(two_convolutions(wide), two_convolutions(wide))
        self.up = nn.ConvTranspose2d(wide, hidden, 2, stride=2)
        self.last = nn.Conv2d(hidden, 4 * C, 3, padding=1)
        self.tail = nn.Sequential(two_convolutions(hidden), self.last, nn.PixelShuffle(2))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(
                f"Denoiser: expected (N, C, H, W), H and W of 4 · n, got {tuple(x.shape)}"
            )
        fine = self.head(4 * (x - 0.5))  # (N, hidden, H / 2, W / 2)
        coarse = self.up(self.middle(self.down(fine)))
        return x - 0.1 * self.tail(fine + coarse)


# %%
seed(0)
denoiser = Denoiser().to(DEVICE, memory_format=torch.channels_last)
denoiser_cost = cost(denoiser, noisy_new[:1])
print(f"{denoiser_cost[0]:,} parameters, {denoiser_cost[1] / 512**2:,.0f} multiplications a pixel")
claim("untrained, it takes nothing off", denoiser(noisy_new[:1]), equals=noisy_new[:1])

# %%
fig, ax = plt.subplots(figsize=(3.6, 5.6))
look = {"closed": (Residual,), "names": {"x": "noisy"}}
said = schematic(ax, denoiser, noisy_new[:1, :, :64, :64], **look, output="restored", size=10)
figure("6.1d", "The denoiser, drawn by running it on a piece of 64 × 64 pixels.", said, fig)

# %% [markdown]
# To train it, the 18 squares are cut into 1,152 tiles of 64 × 64 pixels. Each time a tile is used, it may be
# mirrored, and it gets fresh noise, so the network never sees the same input twice.
#
# And the loss? The mean squared error over all tiles is ruled by the difficult ones, with fur or gravel, where little
# can be gained. Its logarithm, taken tile by tile, counts *factors*: to halve the error of a smooth tile is worth as
# much as to halve that of a furry one. Since PSNR is a logarithm too, this loss is, but for a constant factor, the
# mean PSNR itself.


# %% tags=["export"]
def tiles_of(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) cut into squares (N · rows · columns, C, size, size) without overlap."""
    rows = torch.cat(images.split(size, dim=2))  # (N · rows, C, size, W)
    return torch.cat(rows.split(size, dim=3))


def log_error(restored: Tensor, truth: Tensor) -> Tensor:
    """The logarithm of the mean squared error of each image, averaged."""
    return (restored - truth).square().flatten(1).mean(dim=1).log().mean()


# %%
fourth_off = torch.full((2, 3, 8, 8), 0.25)
decibels = -10 / math.log(10) * log_error(fourth_off, 0 * fourth_off)
claim(
    "the loss in decibels is PSNR",
    decibels,
    equals=psnr(fourth_off, 0 * fourth_off).mean(),
    within=1e-4,
)


# %%
def train_restorer(net: nn.Module, spoil, epochs: int, start: int = 0):
    """Train to undo what `spoil` does to tiles (N, 3, 64, 64); what happened."""
    chance, data = seed(100 + start), batches(tiles_of(clean, 64), size=8, seed=start)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-4)
    steps = epochs * len(data)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=steps, pct_start=0.2
    )

    def loss_of(net, tiles):
        tiles = tiles.flip(3) if torch.rand(1, generator=chance) < 0.5 else tiles
        spoiled = spoil(tiles, chance).contiguous(memory_format=torch.channels_last)
        return log_error(net(spoiled), tiles)

    return fit(net, data, loss_of, optimizer, epochs, schedule)


# %%
def add_noise(tiles: Tensor, chance: torch.Generator) -> Tensor:
    """The tiles with the noise of this section."""
    return with_noise(tiles, LEVEL, chance)


# %%
denoiser_history = train_restorer(denoiser, add_noise, epochs=5)


# %% [markdown]
# Five passes over the tiles are 720 steps of 8 tiles. The learning rate rises for the first fifth of them and then
# falls to almost nothing. That is very little training: the networks of the literature see a thousand times as many
# tiles, on a GPU, for a day.
#
# Now the judgement, on photographs of which it has seen nothing. `restore` takes the squares one by one, to save
# memory. It also asks twice, as in section 6.2: about the picture and about its mirror image, whose answer it mirrors
# back. A photograph in the mirror is a photograph, so both answers are equally good, and they do not make quite the
# same mistakes. Their mean is better than either, without any more training.


# %% tags=["export"]
@torch.no_grad()
def restore(net: nn.Module, images: Tensor) -> Tensor:
    """What a trained network makes of images (N, C, H, W)."""
    net.eval()
    answers = [(net(x) + net(x.flip(3)).flip(3)) / 2 for x in images.split(1)]
    return torch.cat(answers)


# %%
restored["network"] = restore(denoiser, noisy_new)  # (6, 3, 512, 512)
scores = {name: psnr(images, clean_new).mean().item() for name, images in restored.items()}
alike = {
    name: ssim(images.clamp(0, 1), clean_new).mean().item() for name, images in restored.items()
}
rows = [(name, f"{scores[name]:.2f}", f"{alike[name]:.3f}") for name in restored]
table(("method", "PSNR in dB", "SSIM"), rows, varies=["PSNR in dB", "SSIM"])

# %% [markdown]
# The methods have the same noisy squares and, like the network, no other knowledge of them. The gain is therefore the
# worth of what was learned from 18 other squares. In its favour the network has seen what photographs look like,
# while the others only have a rule that a person thought of: that pictures are flat in parts, or that they repeat
# themselves.

# %%
best_before = max(scores[name] for name in attempts)
claim("PSNR: network over the best classical method", scores["network"] - best_before, at_least=0.6)

# %%
likest_before = max(alike[name] for name in attempts)
claim(
    "SSIM: network over the best classical method", alike["network"] - likest_before, at_least=0.03
)
each_gain = psnr(restored["network"], clean_new) - psnr(restored["non-local means"], clean_new)
claim("its gain on the least favourable square", each_gain.min(), at_least=0.2)

# %%
denoiser_words = (
    f"{scores['network']:.1f} dB on new photographs; non-local means {best_before:.1f} dB"
)
summary["denoiser"] = (*denoiser_cost, denoiser_history.seconds, denoiser_words)

# %% [markdown]
# In our five trials the network had 31.55 to 31.58 dB, about 1.0 dB more than non-local means, and it was better on
# every square. One decibel is a fifth of the squared error. What does it look like? A piece of one test square, with
# each method's own PSNR on that square:

# %%
fig, axes = plt.subplots(1, 5, figsize=(8.5, 2.3))
shown = {"noisy": noisy_new, "total variation": restored["total variation"]}
shown |= {name: restored[name] for name in ("non-local means", "network")} | {"truth": clean_new}
for ax, (name, images) in zip(axes, shown.items(), strict=True):
    ax.imshow(
        images[0, :, 50:130, 155:235].clamp(0, 1).permute(1, 2, 0).cpu(), interpolation="bicubic"
    )
    told = "" if name == "truth" else f"\n{psnr(images, clean_new)[0]:.1f} dB"
    ax.set_title(name + told, size=11, weight="normal", loc="center")
    ax.axis("off")
said = "A piece of a test photograph: noisy, restored by three methods, and the truth. The network's is the cleanest."
figure("6.1e", "A piece of a test square, restored by three methods.", said, held="trained")

# %% [markdown]
# Now change the noise. The network was trained with 25 grey levels and nothing else. With less noise than that, it
# still takes off what it is used to take off, fine texture among it. With more, it takes the surplus for texture and
# leaves it. Somewhere the noisy picture is even better than what the network makes of it. Find the place.

# %%
small_denoiser = copy.deepcopy(denoiser).cpu().eval().requires_grad_(requires_grad=False)
cut_out = [clean_new[n, :, y : y + 80, x : x + 80] for n, (y, x) in enumerate(corners)]
pieces = torch.stack(cut_out).cpu()  # (6, 3, 80, 80)
grain = torch.randn(1, 3, 80, 80, generator=seed(6))


# %%
def scene(fig):
    """Three pieces of a photograph side by side: noisy, restored by the network, and clean."""
    axes = fig.subplots(1, 3)
    pictures = [ax.imshow(torch.zeros(80, 80, 3), interpolation="bicubic") for ax in axes]
    told = [ax.text(40, 88, "", ha="center", size=12) for ax in axes]
    for ax, title in zip(axes, ("noisy", "restored", "clean"), strict=True):
        ax.set_title(title, loc="center")
        ax.axis("off")

    def update(picture, noise):
        truth = pieces[picture : picture + 1]
        noisy = truth + noise / 255 * grain
        images = noisy, small_denoiser(noisy), truth
        for shown, image in zip(pictures, images, strict=True):
            shown.set_data(image[0].clamp(0, 1).permute(1, 2, 0))
        values = [psnr(image, truth).item() for image in images[:2]]
        for text, value in zip(told[:2], values, strict=True):
            text.set_text(f"{value:.1f} dB")
        return f"noise of {noise} grey levels: {values[0]:.0f} dB before, {values[1]:.0f} dB after"

    return update


# %%
knobs = {"picture": slider(0, 5, 3), "noise": slider(2, 60, 25)}
explore(
    scene, "6.1f", "Noise of your choice, and the network.", (5.2, 2.3), held="trained", **knobs
)

# %% [markdown]
# At the two ends, measured on all six squares: noise of 3 grey levels, an eighth of what it expects, and of 50, twice
# as much.

# %%
weak_noise = with_noise(clean_new, 3 / 255, seed(9))
harm = psnr(weak_noise, clean_new).mean() - psnr(restore(denoiser, weak_noise), clean_new).mean()
claim("weak noise: what the network spoils, in dB", harm, at_least=4)

# %%
strong_noise = with_noise(clean_new, 50 / 255, seed(9))
strong_psnr = psnr(restore(denoiser, strong_noise), clean_new).mean()
claim("twice the noise: what is lost, in dB", scores["network"] - strong_psnr, at_least=6)

# %% [markdown]
# With noise of only 3 grey levels the network does harm: the picture was better before. A denoiser must know how
# strong the noise is. It can be told, by one more input channel that holds the noise level, and be trained with all
# levels; or one trains several. Ours knows one level only, and this is what it means that a network learns from its
# training data and not what we had in mind.
#
# Is the restored picture blurred, as the conditional mean must be where the network cannot know? Add up the squared
# slopes, a measure of how much detail a picture has. A network that gives the conditional mean must have less detail
# than the truth, and ours, whose loss is the logarithm of the squared error, should be close to that. It keeps about
# half.

# %%
detail_kept = slopes(restored["network"]).square().sum() / slopes(clean_new).square().sum()
claim("share of detail that the network keeps", detail_kept, at_least=0.35, at_most=0.75)

# %% [markdown]
# ### Another kind of damage
#
# Nothing in the network says "noise". Spoil the tiles in another way, and the same training learns to undo that. Take
# every picture down to half its size, by averaging 2 × 2 pixels, and up again with `F.interpolate`, by fitting smooth
# cubic curves, as image programs do. Three quarters of the numbers are gone, and the curves are the classical answer.
#
# We need not begin from nothing. The trained denoiser has learned edges and textures already, so we take a copy of it
# as a pre-trained model (section 3.6) and set only its last convolution to zero again. It then changes nothing, gives
# what the curves give, and one pass over the tiles has to teach it the rest.


# %%
def shrink_and_enlarge(images: Tensor, chance: torch.Generator | None = None) -> Tensor:
    """Images (N, C, H, W) at half their resolution, enlarged again to (N, C, H, W)."""
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bicubic")


# %%
sharpener = copy.deepcopy(denoiser)
for zeroed in (sharpener.last.weight, sharpener.last.bias):
    nn.init.zeros_(zeroed)
enlarged = shrink_and_enlarge(clean_new)  # (6, 3, 512, 512)
claim("at first it changes nothing", restore(sharpener, enlarged), equals=enlarged)

# %%
sharpener_history = train_restorer(sharpener, shrink_and_enlarge, epochs=1)
sharpened = restore(sharpener, enlarged)
each_sharper = psnr(sharpened, clean_new) - psnr(enlarged, clean_new)  # (6,)
sharper = each_sharper.mean()
claim("enlarging: network over cubic curves, in dB", sharper, at_least=0.15)
claim("squares on which it wins", int((each_sharper > 0).sum()), at_least=5)

# %%
gain_ssim = (ssim(sharpened.clamp(0, 1), clean_new) - ssim(enlarged.clamp(0, 1), clean_new)).mean()
claim("enlarging: SSIM over that of cubic curves", gain_ssim, at_least=0.002)

# %%
sharper_words = f"enlarges photographs, {sharper:.1f} dB better than cubic curves"
summary["sharpener"] = (*denoiser_cost, sharpener_history.seconds, sharper_words)

# %% [markdown]
# In our trials it won 0.3 to 0.4 dB, after 144 steps. That is little compared with the noise: where nothing is
# random, cubic curves are already near to what can be known. What it cannot do is to bring back a hair that is
# thinner than a pixel of the small picture. It gives the mean of all hairs that could have been there.
#
# **Exercise.** What if the loss is the mean *absolute* error? The best answer is then not the mean but the *median*
# of what is possible: the smallest value such that it and all smaller ones have together a probability of at least
# one half. With two possibilities, black with 0.4 and white with 0.6, the mean is a grey that never occurs, and the
# median is white. Write the table of best answers, one for each value that may be seen, from the values of $X$ in
# rising order and the joint probabilities. (A column adds up to the probability of seeing its value, not to one.)


# %% tags=["exercise"]
def conditional_median(values: Tensor, joint: Tensor) -> Tensor:
    """The median (S,) of X given each of S seen values; values (K,) rising, joint (K, S)."""
    raise NotImplementedError


two_values = torch.tensor([0.0, 1.0])
three_values = torch.tensor([1.0, 2.0, 9.0])
three_joint = torch.tensor([[4, 3], [2, 2], [2, 3]]) / 16
check(
    conditional_median,
    (
        "black with 0.4, white with 0.6: white",
        lambda g: (g(two_values, torch.tensor([[0.4], [0.6]])), torch.tensor([1.0])),
    ),
    (
        "a column may add up to less than one",
        lambda g: (g(two_values, torch.tensor([[0.3, 0.1], [0.2, 0.4]])), torch.tensor([0.0, 1.0])),
    ),
    (
        "of three values, with exactly one half reached at the first",
        lambda g: (g(three_values, three_joint), torch.tensor([1.0, 2.0])),
    ),
)


# %% tags=["solution", "hide-input"]
def conditional_median(values: Tensor, joint: Tensor) -> Tensor:
    """Running sums down each column; the first that reaches half of the column's total."""
    enough = joint.cumsum(dim=0) >= joint.sum(dim=0) / 2  # (K, S)
    return values[enough.int().argmax(dim=0)]

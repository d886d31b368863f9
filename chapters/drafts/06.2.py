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
table(
    ("digits", "wrong, plainly", "wrong, augmented"),
    rows,
    varies=("wrong, plainly", "wrong, augmented"),
)

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
# sides needs the mirror, whatever the test says.
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
claim(
    "digits shown to it: share of which it is surer than 0.9",
    (strange > 0.9).float().mean(),
    at_least=0.3,
)

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
knobs = {"garment": slider(0, 9, 6), "turn": slider(-180, 180, 15, 5), "right": slider(-14, 14, 0)}
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

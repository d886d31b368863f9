# %% [markdown]
# ## 6.2 Image classification
#
# Here is a picture: which of these ten things does it show? **Image classification** is to choose one class out of a
# list that was fixed beforehand. Of all the ways to get meaning out of a picture it is the simplest. The network
# gives a logit for each class, the softargmax of section 3.1 makes probabilities of them, and training makes the
# cross-entropy small. All of that we have, and chapter 5 has built the networks.
#
# So this section is about the rest, which decides whether a classifier can be used: what the number "88 % right" says
# and how far it can be trusted, what is confused with what, whether the network knows when it does not know, and what
# it does with a picture that belongs to none of its classes.
#
# The data are Fashion-MNIST (Xiao and others, 2017): photographs of clothes from a shop, 28 × 28 pixels. We have
# 5,000 to learn from and 2,000 to test.

# %%
garments, garment_kinds = fashion_mnist("train", DEVICE)  # (5000, 1, 28, 28), (5000,)
garments_new, kinds_new = fashion_mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)

# %% [markdown]
# ### Look at the data, then divide it
#
# Before any network is trained, look. Each column is a class. Where would *you* go wrong?

# %%
fig, axes = plt.subplots(5, 10, figsize=(8.5, 4.5))
for k, column in enumerate(axes.T):
    column[0].set_title(CLOTHES[k], size=11, weight="normal")
    for ax, image in zip(column, garments[garment_kinds == k][8:13].cpu(), strict=True):
        ax.imshow(1 - image[0], vmin=0, vmax=1)
        ax.axis("off")
said = f"Five grey photographs of each of ten classes: {', '.join(CLOTHES)}. All shoes point left."
figure("6.2a", "Five of the training images of each class.", said)

# %% [markdown]
# Trousers and bags are easy. T-shirts, pullovers, coats and shirts differ in a collar, a row of buttons, a zip, and
# at this size most of these are gone. The labels are the shop's, not the picture's: a "shirt" is what was sold as
# one. And all shoes point to the left.
#
# We shall make choices on the way, and whatever is chosen by some images can no longer be judged by them. So there
# are three sets. From the 5,000 we hold 500 back for choosing, the *validation set*, and the 2,000 test images are
# only looked at in the end. Taking simply the last 500 would be a mistake here: in the order of this file, 100 of
# them are dresses and 14 are pullovers. We take the last 50 of each class. A one-hot matrix counts: its running sum
# down the column of a class tells for each image the how-manieth of its class it is.

# %%
indicator = F.one_hot(garment_kinds, 10)  # (5000, 10)
place_in_class = (indicator.cumsum(dim=0) * indicator).sum(dim=1)  # (5000,) from 1 to 500
learn, choose = place_in_class <= 450, place_in_class > 450  # (5000,), (5000,) of True and False
held_counts = garment_kinds[choose].bincount(minlength=10)  # (10,)
claim("50 images of each class are held back", held_counts.tolist() == [50] * 10)
claim("no image is in both parts, none in neither", bool((learn ^ choose).all()))

# %% [markdown]
# The sign `^` is "either or": true where exactly one of the two is. If even one image stood in both parts, or had
# been forgotten, the second claim would fail.
#
# ### Two baselines
#
# A number means little alone. Guessing gets 10 % right. What gets a program that does not learn anything? For each
# new image it looks up the *nearest neighbour* among the training images, the one with the smallest sum of squared
# differences pixel by pixel, and repeats its label. `torch.cdist` computes all distances at once.


# %%
def nearest_neighbour(x: Tensor, y: Tensor, x_new: Tensor) -> Tensor:
    """The labels (M,) of those of the images x (N, …), labelled y (N,), that x_new (M, …) are nearest to."""
    distances = torch.cdist(x_new.flatten(1), x.flatten(1))  # (M, N)
    return y[distances.argmin(dim=1)]


# %%
itself = nearest_neighbour(garments[:300], garment_kinds[:300], garments[:300])
claim("an image is its own nearest neighbour", itself, equals=garment_kinds[:300])
by_neighbour = nearest_neighbour(garments[learn], garment_kinds[learn], garments_new)
neighbour_right = (by_neighbour == kinds_new).float()  # (2000,) of 1 and 0
claim("clothes: accuracy of the nearest neighbour", neighbour_right.mean(), at_least=0.77)

# %% [markdown]
# About 79 in 100, without a single weight. That is the bar: a network that does not pass it is not worth its trouble.
# The second baseline is the smallest model that learns, one fully connected layer on the pixels. It needs a training
# procedure, which we write once, for all models of this section. `change` is a function that may change the images of
# a batch at random, which will be the subject in a moment; `keep` leaves them as they are. It gets its own generator
# of random numbers, so that a training can be repeated exactly.


# %%
def keep(images: Tensor, generator: torch.Generator) -> Tensor:
    """No change."""
    return images


# %%
def train_classifier(net: nn.Module, x: Tensor, y: Tensor, epochs: int, change=keep, start=0):
    """Train on images x (N, 1, H, W) of the classes y (N,), changed at random; what happened."""
    chance, data = seed(100 + start), batches(x, y, size=50, seed=start)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=5e-4)
    steps = epochs * len(data)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)

    def loss_of(net, x, y):
        x = change(x, chance).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(net(x), y)

    return fit(net, data, loss_of, optimizer, epochs, schedule)


# %% [markdown]
# The learning rate rises to 0.004 and falls again, as in section 5.2. A batch has 50 images, and a little weight
# decay keeps the weights from growing. They are the same for all models. `logits_of` asks a trained model about many
# images, 500 at a time, in evaluation mode and without gradients.


# %%
@torch.no_grad()
def logits_of(net: nn.Module, x: Tensor) -> Tensor:
    """The logits (N, C) of a trained classifier for images x (N, 1, H, W)."""
    net.eval()
    return torch.cat([net(part) for part in x.split(500)])


# %%
seed(0)
linear_net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to(DEVICE)
linear_history = train_classifier(linear_net, garments[learn], garment_kinds[learn], epochs=10)
linear_right = (logits_of(linear_net, garments_new).argmax(dim=1) == kinds_new).float()
claim("clothes: accuracy of a linear model", linear_right.mean(), at_least=0.77)

# %% [markdown]
# ### The network
#
# Which one? On the validation set we tried narrow residual networks of section 5.2, and relatives of the LeNet of the
# same section, each for about a quarter of a minute. The residual networks came to 86 and 88 %, the relatives of
# LeNet to 88 to 90 %. So for such small images and so little time depth does not pay, and we take this: LeNet's plan
# with padding, so that the images keep more places, and batch normalization (section 4.6) after each convolution.
# Dropout (section 4.5) sets 4 in 10 of the features to zero in training.


# %% tags=["export"]
def small_convnet(classes: int = 10) -> nn.Sequential:
    """Two convolutions and a hidden layer: images (N, 1, 28, 28) to logits (N, classes)."""
    first = nn.Conv2d(1, 24, 5, padding=2, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(24)
    second = nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(48)
    head = nn.Linear(48 * 7 * 7, 256), nn.ReLU(), nn.Linear(256, classes)
    return nn.Sequential(
        *first, nn.ReLU(), *second, nn.ReLU(), nn.Flatten(), nn.Dropout(0.4), *head
    )


# %% [markdown]
# The pooling comes before the normalization, so that there is four times less to normalize. By hand, the weights: 24
# filters of 25, 48 of 24 · 9, two numbers for each normalized channel, then 2,352 features to 256 units and 256 units
# to 10 logits, with biases.

# %%
by_hand = 24 * 25 + 48 * 24 * 9 + 2 * (24 + 48) + 2353 * 256 + 257 * 10
convnet_cost = cost(small_convnet().to(DEVICE).eval(), garments[:1])
claim("the network's parameters, counted by hand", convnet_cost[0] == by_hand)

# %% [markdown]
# ### With and without a mirror
#
# A coat in the mirror is a coat. **Data augmentation** makes use of such knowledge: it changes the training images at
# random, in ways that do not change what they show. Chapters 3 and 5 turned and moved digits. With clothes one may
# mirror, which with digits one may not. Each image of a batch is thrown a coin: it is shown as it is, or with its
# columns in reverse order. `flip(3)` reverses dimension 3, the columns, and `torch.where` takes the mirrored image
# where the coin says so. The coins are thrown on the CPU, so that they fall the same way on every device, and
# stretched over channels, rows and columns by the three `None`.


# %% tags=["export"]
def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), about half of them with left and right exchanged."""
    coins = torch.rand(len(images), generator=generator) < 0.5  # (N,)
    return torch.where(coins.to(images.device)[:, None, None, None], images.flip(3), images)


# %%
mirrored = mirror(garments[:1000], seed(2))
is_same = (mirrored == garments[:1000]).flatten(1).all(dim=1)  # (1000,)
is_turned = (mirrored == garments[:1000].flip(3)).flatten(1).all(dim=1)  # (1000,)
claim("each image is itself or its mirror image", bool((is_same | is_turned).all()))
claim("share that is mirrored", is_turned.float().mean(), at_least=0.44, at_most=0.56)

# %% [markdown]
# Predict first: two networks, the same start, the same 900 steps, one with the mirror and one without. How much will
# the mirror win on the 2,000 test images?

# %%
seed(0)
plain_net = small_convnet().to(DEVICE, memory_format=torch.channels_last)
plain_history = train_classifier(plain_net, garments[learn], garment_kinds[learn], epochs=10)

# %%
seed(0)
mirror_net = small_convnet().to(DEVICE, memory_format=torch.channels_last)
mirror_history = train_classifier(mirror_net, garments[learn], garment_kinds[learn], 10, mirror)

# %%
plain_logits, mirror_logits = (logits_of(net, garments_new) for net in (plain_net, mirror_net))
plain_right = (plain_logits.argmax(dim=1) == kinds_new).float()  # (2000,)
mirror_right = (mirror_logits.argmax(dim=1) == kinds_new).float()  # (2000,)
claim("clothes: accuracy of the network", plain_right.mean(), at_least=0.865)
claim("clothes: accuracy with the mirror", mirror_right.mean(), at_least=0.865)

# %%
garment_words = f"{100 * mirror_right.mean():.1f} % of clothes right; nearest neighbour "
garment_words += f"{100 * neighbour_right.mean():.1f} %"
summary["classifier of clothes"] = (*convnet_cost, mirror_history.seconds, garment_words)

# %% [markdown]
# The mirror wins nothing. In our five trials the network without it had 87.8 to 88.7 % right, with it 87.9 to 88.7 %,
# and in no trial did the two differ by more than 0.2 points. That is not what one reads about augmentation, and the
# figure above says why: all shoes point left, in the test set as well. The mirror prepares for something that this
# test never asks. So ask it: mirror all test images.

# %%
plain_turned = (logits_of(plain_net, garments_new.flip(3)).argmax(dim=1) == kinds_new).float()
mirror_turned = (logits_of(mirror_net, garments_new.flip(3)).argmax(dim=1) == kinds_new).float()
gain_turned = mirror_turned.mean() - plain_turned.mean()
claim("mirrored clothes: what the mirror is worth", gain_turned, at_least=0.15)

# %% [markdown]
# Now it is worth about 26 points: shown from the other side, four in ten clothes are a riddle to the network that
# never saw them so. Augmentation adds knowledge, and a test set shows only as much of that as it asks for. Somebody
# who will photograph shoes from both sides needs the mirror, whatever the test set says.
#
# The two networks can still do something together. They are sometimes wrong on different images, and the second one
# can be asked twice, about an image and about its mirror image: three opinions. Take the mean of their probabilities,
# as in the last exercise on LeNet. A group of networks that decide together is called an *ensemble*.

# %%
opinions = [plain_logits, mirror_logits, logits_of(mirror_net, garments_new.flip(3))]
vote_shares = torch.stack(opinions).softmax(dim=2).mean(dim=0)  # (2000, 10)
vote_right = (vote_shares.argmax(dim=1) == kinds_new).float()  # (2000,)
claim("clothes: accuracy of the vote", vote_right.mean(), at_least=0.88)
mean_of_two = (plain_right.mean() + mirror_right.mean()) / 2
claim("lead of the vote over the mean of the two", vote_right.mean() - mean_of_two, at_least=0)

# %% [markdown]
# In our five trials the vote had 88.5 to 89.0 % right, each time more than either network, on average by 0.6 points.
# To ask three times costs three times as much.
#
# With digits the test set does ask, since people write at all angles. LeNet with the small turns, slants and moves of
# section 5.2, where they removed nearly half of the mistakes, here with the procedure above. In our five trials 98.7
# to 99.0 % were right:

# %%
digit_scans, digit_names = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
digit_scans_new, digit_names_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)
seed(0)
digit_net = LeNet().to(DEVICE, memory_format=torch.channels_last)
digit_history = train_classifier(digit_net, digit_scans, digit_names, 7, random_affine)

# %%
digit_right = (logits_of(digit_net, digit_scans_new).argmax(dim=1) == digit_names_new).float()
claim("digits: accuracy of LeNet", digit_right.mean(), at_least=0.984)
digit_words = f"{100 * digit_right.mean():.1f} % of digits right"
digit_cost = cost(digit_net, digit_scans[:1])
summary["classifier of digits"] = (*digit_cost, digit_history.seconds, digit_words)

# %% [markdown]
# ### How far can such a number be trusted?
#
# Had somebody else drawn the 2,000 test images, the accuracy would be a little different. Each image is right or
# wrong like a coin that shows heads with probability $p$. The mean of $N$ such coins has the standard deviation
#
# $$\sqrt{p\,(1 - p) / N},$$
#
# its *standard error*. For $p = 0.88$ and $N = 2000$ it is 0.7 points. So two numbers that were measured on different
# images and differ by less than two points should not impress anybody. Is the formula right? A *bootstrap* asks the
# data: draw 2,000 images out of the 2,000, with repetition, a thousand times, and see how much the accuracy varies.
# Some images will be drawn twice or three times, others not at all. That is how chance would treat them if the world
# were made of these 2,000. The function below takes any scores, not only ones and zeros; for ones and zeros the
# standard deviation is the root of $p\,(1 - p)$.


# %% tags=["export"]
def standard_error(scores: Tensor) -> Tensor:
    """The standard error of the mean of independent scores (N,)."""
    return scores.std(correction=0) / math.sqrt(len(scores))


# %%
accuracy_now, images_now = mirror_right.mean(), len(mirror_right)
by_formula = (accuracy_now * (1 - accuracy_now) / images_now).sqrt()
standard = standard_error(mirror_right)
claim("the standard error is the formula's", standard, equals=by_formula, within=1e-6)

# %%
redrawn = torch.randint(2000, (1000, 2000), generator=seed(5)).to(DEVICE)  # (1000, 2000)
varied = mirror_right[redrawn].mean(dim=1).std()
claim("bootstrap over formula", varied / standard, at_least=0.9, at_most=1.1)
claim("standard error of an accuracy, in points", 100 * standard, at_least=0.6, at_most=0.8)

# %% [markdown]
# To compare *two* models there is something better than two such numbers. Both saw the same images, and where an
# image is easy both have it right: the luck of the draw is mostly shared. Comparing two such numbers with their two
# standard errors throws this away. So look at the differences, image by image: 1 where only the first is right, −1
# where only the second is, and 0 where they agree. Their mean is the difference of the accuracies, and *its* standard
# error is the one that counts. This is a *paired* comparison.

# %%
paired = mirror_right - plain_right  # (2000,) of −1, 0 and 1
apart = (standard_error(mirror_right) ** 2 + standard_error(plain_right) ** 2).sqrt()
paired_varied = paired[redrawn].mean(dim=1).std()
ratio_paired = paired_varied / standard_error(paired)
claim("paired: bootstrap over formula", ratio_paired, at_least=0.9, at_most=1.1)
claim("paired error over unpaired error", standard_error(paired) / apart, at_most=0.65)

# %% [markdown]
# The paired error is half of the other: what would take four times as many images otherwise, comes for nothing. On
# the left are all accuracies with their standard errors, on the right the paired differences, with bars of two
# standard errors: where such a bar crosses zero, the two models cannot be told apart by these images.

# %%
rights = {"nearest neighbour": neighbour_right, "linear model": linear_right}
rights |= {"network": plain_right, "with mirror": mirror_right, "vote": vote_right}
gaps = {name: 100 * (vote_right - rights[name]) for name in list(rights)[:4]}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.8))
for n, scores in enumerate(rights.values()):
    mean, error = 100 * scores.mean().item(), 100 * standard_error(scores).item()
    left.errorbar(mean, n, xerr=error, fmt="o", color=color.test)
    left.text(mean, n + 0.22, f"{mean:.1f} %", ha="center", color=color.test)
for n, gap in enumerate(gaps.values()):
    right.errorbar(
        gap.mean().item(), n, xerr=2 * standard_error(gap).item(), fmt="o", color=color.model
    )
right.axvline(0, color=color.quiet)
left.set(
    yticks=range(5),
    yticklabels=rights,
    ylim=(-0.5, 4.8),
    xlim=(76, 91),
    xlabel="accuracy on new clothes, %",
)
right.set(yticks=range(4), yticklabels=gaps, ylim=(-0.5, 3.5), xlabel="lead of the vote, points")
lead = round(gaps["nearest neighbour"].mean().item() / 5) * 5
said = (
    f"The vote leads the nearest neighbour by about {lead} points, far beyond the error bar, and "
)
said += "the linear model by nearly as much; the two networks are close to it."
figure("6.2b", "Accuracies with standard errors, and paired differences.", said, held="trained")

# %%
over = mirror_right - neighbour_right  # (2000,)
claim("lead over the neighbour, in standard errors", over.mean() / standard_error(over), at_least=6)

# %% [markdown]
# One source of luck is not in these bars: that of the training. When we looked for good settings, with half as many
# steps, our first pair of networks differed by 1.5 points, with a paired standard error of 0.5: the mirror seemed to
# do harm, by three errors, which looks like proof. In the second pair, from another seed, it was ahead by 0.8. The
# paired comparison tells which of two *trained networks* is better on images of this kind. Which *recipe* is better
# takes several trainings of each. Over five pairs with the settings used here the mean difference is 0.0 points, give
# or take 0.1.
#
# ### What is confused with what
#
# One number hides how the mistakes are distributed. The *confusion matrix* has a row for each true class and a column
# for each answer, and counts. We number the pairs (true, answer) from 0 to 99, as `10 * true + answer`, and
# `bincount` counts how often each number occurs. `minlength` makes it count to 99 even if the last pairs never occur,
# as they must have a place in the table, too. Three sums check it: rows must add up to how many there are of each
# class, columns to how often each answer was given, and the diagonal to what is right. A table with rows and columns
# exchanged would not pass.


# %% tags=["export"]
def confusion_matrix(answers: Tensor, truth: Tensor, classes: int) -> Tensor:
    """How often each class (row) was given each answer (column): (C, C), from answers and truth (N,)."""
    return (classes * truth + answers).bincount(minlength=classes**2).reshape(classes, classes)


# %%
answers = mirror_logits.argmax(dim=1)  # (2000,)
confused = confusion_matrix(answers, kinds_new, 10).cpu()  # (10, 10)
claim("the rows count the classes", confused.sum(1), equals=kinds_new.cpu().bincount())
claim("the columns count the answers", confused.sum(0), equals=answers.cpu().bincount(minlength=10))
share_on_diagonal = confused.trace() / confused.sum()
claim(
    "the diagonal is what is right",
    share_on_diagonal,
    equals=mirror_right.mean().cpu(),
    within=1e-6,
)

# %%
fig, ax = plt.subplots(figsize=(6.6, 4.6))
ax.imshow(confused.float().sqrt(), cmap="Blues", vmin=0, vmax=18, aspect="auto")
for i in range(10):
    for j in range(10):
        if confused[i, j] > 0:
            shade = "white" if confused[i, j] > 90 else color.data
            ax.text(j, i, confused[i, j].item(), ha="center", va="center", color=shade, size=11)
ax.set(yticks=range(10), yticklabels=CLOTHES, ylabel="true class", xlabel="answer")
ax.set_xticks(range(10), CLOTHES, rotation=35, ha="right")
recalls = confused.diagonal() / confused.sum(dim=1)  # (10,)
said = f"A ten by ten table, dark on the diagonal. The class most often missed is {CLOTHES[recalls.argmin()]}: "
said += f"{'fewer' if recalls.min() < 0.75 else 'more'} than three in four are found."
figure("6.2c", "The confusion matrix of 2,000 new clothes.", said, held="trained")

# %% [markdown]
# Two blocks hold nearly all the mistakes: things for the upper body (T-shirt, pullover, dress, coat, shirt), and
# shoes (sandal, sneaker, ankle boot). Across the blocks almost nothing is confused. Of the shirts, the class that was
# a riddle at first sight, only about six in ten are found. The share of a class that is found is its *recall*, the
# diagonal divided by the sum of the row; divided by the sum of the column it is the *precision*, the share of such
# answers that are right.

# %%
upper = torch.tensor([0, 2, 3, 4, 6])  # T-shirt, pullover, dress, coat, shirt
shoes = torch.tensor([5, 7, 9])  # sandal, sneaker, ankle boot
errors = confused - confused.diagonal().diag()  # (10, 10)
in_blocks = errors[upper][:, upper].sum() + errors[shoes][:, shoes].sum()
claim("share of the mistakes within the two blocks", in_blocks / errors.sum(), at_least=0.84)
claim("the class most often missed is the shirt", CLOTHES[recalls.argmin()] == "shirt")

# %% [markdown]
# ### Does it know when it does not know?
#
# The largest of the ten probabilities is how sure the network says it is, its *certainty*. If it says 0.9, it should
# be right nine times out of ten. A classifier of which that is true is called *calibrated*. To see it, sort the test
# images by certainty into ten bins, and compare in each bin $b$ the mean certainty with the share that is right. The
# mean gap, weighted by the number $n_b$ of images in the bin, is the *expected calibration error*:
#
# $$\mathrm{ECE} = \sum_{b} \frac{n_b}{N}\, \bigl|\mathrm{right}_b - \mathrm{certainty}_b\bigr|$$


# %% tags=["export"]
def reliability(shares: Tensor, truth: Tensor, bins: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Images, mean certainty and share of right answers (B,) in bins of certainty, from probabilities (N, C)."""
    certainty, answer = shares.max(dim=1)  # (N,), (N,)
    which = (certainty * bins).long().clamp(max=bins - 1)  # (N,) the bin of each image
    member = F.one_hot(which, bins).to(shares.dtype)  # (N, B)
    count = member.sum(dim=0)  # (B,)
    right = (answer == truth).to(shares.dtype)  # (N,)
    return count, certainty @ member / count.clamp(min=1), right @ member / count.clamp(min=1)


# %% tags=["export"]
def calibration_error(shares: Tensor, truth: Tensor, bins: int = 10) -> Tensor:
    """The expected calibration error of probabilities (N, C) for the true classes (N,)."""
    count, certainty, right = reliability(shares, truth, bins)
    return (count * (right - certainty).abs()).sum() / count.sum()


# %% [markdown]
# `member` has a one in each row, in the column of the image's bin, so a product with it sums over the images of each
# bin. Where a bin is empty, `clamp` divides by 1 instead of 0; its weight in the sum is 0 in any case. Two tests with
# known answers. Four images, two at certainty 0.9 of which one is right, two at 0.6, both right: both bins are off by
# 0.4. And a world in which the labels are *drawn* from the network's own probabilities: there it is calibrated by
# construction, and only chance is left.

# %%
certain = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])  # (4, 2)
off = calibration_error(certain, torch.tensor([0, 1, 0, 0]))
claim("ECE of four images, by hand", off, equals=torch.tensor(0.4), within=1e-6)
said_shares = mirror_logits.softmax(dim=1).repeat(10, 1)  # (20000, 10)
drawn = said_shares.cpu().multinomial(1, generator=seed(6))[:, 0].to(DEVICE)  # (20000,)
off = calibration_error(said_shares, drawn)
claim("ECE when labels are drawn as the network says", off, at_most=0.01)

# %% [markdown]
# And in the real world? Take the network without mirror. It has seen its 4,500 images ten times each, knows almost
# all of them by heart, and has been rewarded for being ever surer of them.

# %%
plain_shares = plain_logits.softmax(dim=1)  # (2000, 10)
too_sure = plain_shares.amax(dim=1).mean() - plain_right.mean()
claim("the network is too sure, on average by", too_sure, at_least=0.025)
ece_before = calibration_error(plain_shares, kinds_new)
claim("its expected calibration error", ece_before, at_least=0.025)

# %% [markdown]
# It is overconfident, as trained networks tend to be (Guo and others, 2017). Their remedy has one parameter: divide
# all logits by a *temperature* $T$ before the softargmax. Above 1 it makes the probabilities more alike. The largest
# stays the largest, so no answer changes. $T$ is chosen to make the cross-entropy small, and on images that the
# network was not trained on: on its training set it is right to be sure. That is what the validation set is for. One
# parameter needs no gradient descent: try 200 values, evenly spaced in their logarithm, as what matters is by which
# factor the logits are too large. Again there is a case with a known answer: labels drawn from the network's
# probabilities, and logits that were doubled. The temperature must come out as 2.


# %% tags=["export"]
def best_temperature(logits: Tensor, truth: Tensor) -> float:
    """The temperature from 0.2 to 5 that gives logits (N, C) the smallest cross-entropy with the truth (N,)."""
    candidates = torch.logspace(math.log10(0.2), math.log10(5), 200).tolist()
    losses = [F.cross_entropy(logits / T, truth).item() for T in candidates]
    return candidates[losses.index(min(losses))]


# %%
double = 2 * said_shares.log()  # logits that are twice too large for the drawn labels
found = best_temperature(double, drawn)
claim("logits twice too large: the temperature found", found, at_least=1.9, at_most=2.1)
plain_held = logits_of(plain_net, garments[choose])  # (500, 10)
temperature = best_temperature(plain_held, garment_kinds[choose])
claim("temperature of the network without mirror", temperature, at_least=1.25, at_most=2)

# %%
cooler = plain_logits / temperature  # (2000, 10)
claim("no answer changes", cooler.argmax(dim=1), equals=plain_logits.argmax(dim=1))
ece_after = calibration_error(cooler.softmax(dim=1), kinds_new)
claim("ECE after over ECE before", ece_after / ece_before, at_most=0.6)
saved = F.cross_entropy(plain_logits, kinds_new) - F.cross_entropy(cooler, kinds_new)
claim("cross-entropy that it saves on new clothes", saved, at_least=0.015)

# %% [markdown]
# On the left of the next picture is a *reliability diagram*: for each bin a bar as high as the share that is right.
# On the diagonal a classifier would be calibrated; below it is too sure. The dots under the bars tell how many images
# a bin has. On the right is the cross-entropy of the validation images at each temperature. Move the temperature
# until the bars meet the diagonal, and compare with the lowest place of the curve.

# %%
TRIED, MIDDLES = torch.linspace(0.5, 3, 51), torch.arange(10) / 10 + 0.05
held_cpu, held_kinds_cpu = plain_held.cpu(), garment_kinds[choose].cpu()
held_losses = [F.cross_entropy(held_cpu / T, held_kinds_cpu).item() for T in TRIED]
plain_cpu, kinds_cpu = plain_logits.cpu(), kinds_new.cpu()
plain_share_right = plain_right.mean().item()


# %%
def scene(fig):
    """Left, bars of the share right by certainty, with a diagonal; right, a loss that has one lowest place."""
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    left.plot([0, 1], [0, 1], color=color.truth)
    left.text(0.03, 0.12, "calibrated", color=color.truth, rotation=30)
    bars = left.bar(MIDDLES, [0] * 10, width=0.09, color=color.model, alpha=0.8)
    counts = left.scatter(MIDDLES, [-0.09] * 10, s=[0] * 10, color=color.quiet)
    said = left.text(0.02, 0.98, "", va="top", color=color.model)
    left.text(-0.02, -0.11, "images", color=color.data, size=11)
    left.set(xlim=(-0.03, 1), ylim=(-0.18, 1.03), yticks=[0, 0.5, 1])
    left.set(xlabel="certainty", ylabel="share right")
    right.plot(TRIED, held_losses, color=color.test)
    (here,) = right.plot([], [], "o", color=color.weights, ms=9)
    right.set(xlabel="temperature", ylabel="cross-entropy, validation set")

    def update(temperature):
        shares = (plain_cpu / temperature).softmax(dim=1)  # (2000, 10)
        count, _, share = reliability(shares, kinds_cpu)
        for bar, height in zip(bars, share.tolist(), strict=True):
            bar.set_height(height)
        counts.set_sizes((count / 5).numpy())
        loss_here = F.cross_entropy(held_cpu / temperature, held_kinds_cpu).item()
        here.set_data([temperature], [loss_here])
        error = 100 * calibration_error(shares, kinds_cpu).item()
        mean = shares.amax(dim=1).mean().item()
        said.set_text(f"mean certainty {100 * mean:.1f} %\nECE {error:.1f} points")
        over = mean - plain_share_right
        verdict = ("too modest", "about right", "too sure")[1 + (over > 0.02) - (over < -0.02)]
        return f"at temperature {temperature:.2f} the network is {verdict}"

    return update


# %%
caption = "Certainty and truth on the test images, at a temperature that you choose."
warmth = slider(0.5, 3.0, 1.0, 0.05)
explore(scene, "6.2d", caption, (8.5, 3.4), held="trained", temperature=warmth)

# %% [markdown]
# The network's own temperature in our five trials was between 1.5 and 1.6, and it brought the calibration error from
# 4 or 5 points down to 1 or 2.
#
# ### Hand over what is uncertain
#
# A certainty that means something can be used. Let the network answer only where its certainty is at least some
# threshold, and give the other images to a person. The share that it answers is its *coverage*. The higher the
# threshold, the smaller the coverage, and the higher the accuracy among what is answered.

# %%
mirror_certainty = mirror_logits.softmax(dim=1).amax(dim=1)  # (2000,)
from_surest = mirror_certainty.argsort(descending=True)  # (2000,)
answered = torch.arange(1, 2001, device=DEVICE)
accuracy_at = mirror_right[from_surest].cumsum(dim=0) / answered  # (2000,)
claim(
    "at full coverage it is the accuracy", accuracy_at[-1], equals=mirror_right.mean(), within=1e-5
)
claim("accuracy on the surest 80 %", accuracy_at[1599], at_least=0.94)
claim("accuracy on the surest half", accuracy_at[999], at_least=0.98)

# %% [markdown]
# Entry $n$ of `accuracy_at` is the accuracy on the $n$ surest images: a running sum of what is right, divided by how
# many there are so far. In our five trials 99 % were right among the surest half. Below, move the threshold. On the
# right, the confusion matrix of what is still answered: which confusions go first, and which stay to the end? These
# are the mistakes that the network makes with conviction.

# %%
certainty_cpu, answers_cpu = mirror_certainty.cpu(), answers.cpu()
coverages, accuracies_cpu = torch.arange(1, 2001) / 2000, accuracy_at.cpu()


# %%
def scene(fig):
    """Left, accuracy falling with coverage; right, a ten by ten table of what is answered."""
    left, right = fig.subplots(1, 2, width_ratios=[4, 5])
    left.plot(coverages[50:], accuracies_cpu[50:], color=color.test)
    (here,) = left.plot([], [], "o", color=color.weights, ms=9)
    left.set(
        xlim=(0, 1.03), ylim=(0.85, 1.005), xlabel="coverage", ylabel="accuracy on what is answered"
    )
    said = left.text(0.05, 0.87, "", color=color.weights)
    table_shown = right.imshow(torch.zeros(10, 10), cmap="Blues", vmin=0, vmax=8)
    right.set(yticks=range(10), yticklabels=CLOTHES, xlabel="answer")
    right.set_xticks(range(10), CLOTHES, rotation=45, ha="right")

    def update(threshold):
        sure = certainty_cpu >= threshold  # (2000,)
        counts = confusion_matrix(answers_cpu[sure], kinds_cpu[sure], 10)  # (10, 10)
        n = max(1, int(sure.sum()))
        here.set_data([coverages[n - 1]], [accuracies_cpu[n - 1]])
        table_shown.set_data(counts.float().sqrt())
        wrong = n - counts.trace().item()
        said.set_text(f"{n / 20:.0f} % answered,\n{100 * wrong / n:.1f} % of these wrong")
        return f"about {10 * round(n / 200)} % answered, with accuracy {1 - wrong / n:.1f}"

    return update


# %%
caption = (
    "The network answers only where it is sure enough; the table shows what it still confuses."
)
bar_to_pass = slider(0.3, 0.99, 0.6, 0.01)
explore(scene, "6.2e", caption, (8.5, 3.9), held="trained", threshold=bar_to_pass)

# %% [markdown]
# And here they are, the surest mistakes, with the answer in red and the label in green. Judge them yourself. With
# some of them one would rather doubt the label. Whoever improves a classifier looks at such a sheet first: it shows
# what kind of mistake remains, and whether the labels are to blame. (Northcutt and others, 2021, estimate that in ten
# common test sets 3 labels in 100 are wrong.)

# %%
mistakes = from_surest[mirror_right[from_surest] == 0][:16]  # (16,)
fig, axes = plt.subplots(2, 8, figsize=(8.5, 2.9))
for ax, n in zip(axes.flat, mistakes.tolist(), strict=True):
    ax.imshow(1 - garments_new[n, 0].cpu(), vmin=0, vmax=1)
    ax.text(13.5, -6.5, CLOTHES[answers_cpu[n]], color=color.test, ha="center", size=11)
    ax.text(13.5, -1.5, CLOTHES[kinds_cpu[n]], color=color.truth, ha="center", size=11)
    ax.axis("off")
said = (
    "Sixteen photographs that the network is sure of and has wrong, each with its answer and the "
)
said += "label. Most are things for the upper body, or shoes."
figure("6.2f", "The surest mistakes: the answer in red, the label in green.", said, held="trained")

# %% [markdown]
# ### Pictures from elsewhere
#
# All of this was about pictures of the same kind as those of the training. Predict first: how sure is the network of
# clothes when it is shown a *digit*? It has no class for "none of these", and its probabilities add up to one
# whatever it sees. But it could spread them.

# %%
strange = logits_of(mirror_net, digit_scans_new).softmax(dim=1)  # (2000, 10)
strange_certainty = strange.amax(dim=1)  # (2000,)
claim("mean certainty when shown a digit", strange_certainty.mean(), at_least=0.75)
quite_sure = (strange_certainty > 0.9).float().mean()
claim("share of digits of which it is surer than 0.9", quite_sure, at_least=0.4)

# %% [markdown]
# Can one at least see from the certainty that something is wrong? Take one piece of clothing and one digit at random:
# how often is the network surer of the clothing? That number is the *area under the ROC curve*; 0.5 is useless, 1 is
# perfect. Comparing all pairs computes it. The digits are as large as the clothes, and dark on white like them as we
# print them; in their form nothing is odd.

# %%
surer = mirror_certainty[:, None] > strange_certainty[None, :]  # (2000, 2000)
claim("how often it is surer of clothes than of a digit", surer.float().mean(), at_most=0.75)

# %%
fig, axes = plt.subplots(1, 10, figsize=(8.5, 1.4))
first_of_each = [int((digit_names_new == k).nonzero()[0]) for k in range(10)]
for ax, n in zip(axes, first_of_each, strict=True):
    ax.imshow(1 - digit_scans_new[n, 0].cpu(), vmin=0, vmax=1)
    ax.text(13.5, -5, CLOTHES[strange[n].argmax()], color=color.test, ha="center", size=11)
    ax.text(13.5, 35, f"{strange_certainty[n]:.2f}", color=color.test, ha="center", size=11)
    ax.axis("off")
said = "Ten digits, from 0 to 9, each with the clothes that the network takes it for and how sure it is."
figure(
    "6.2g",
    "Digits shown to the network of clothes: its answers and certainties.",
    said,
    held="trained",
)

# %% [markdown]
# In our five trials it was 0.50 to 0.64, little better than a coin, and of two in three digits the network was surer
# than 0.9. It takes most of them for sandals, the only clothes with thin lines. So the certainty is no alarm that one
# may rely on. It compares the ten classes with each other; it does not ask whether any of them fits. A calibrated
# classifier is calibrated on its own kind of pictures, and nowhere else.
#
# Last, between the two, disturb a garment yourself. Turn it, move it, add noise to it, and watch the ten
# probabilities. Look for the smallest change that makes a sneaker a bag, and see whether the certainty falls *before*
# the answer changes. That it falls at all cannot be taken for granted: the digits above have shown it. The green bar
# is the label's, so any long red bar is a mistake.

# %%
shown_net = copy.deepcopy(mirror_net).cpu().eval().requires_grad_(requires_grad=False)
one_each = torch.cat([garments_new[kinds_new == k][3:4] for k in range(10)]).cpu()
pixel_noise = torch.randn(1, 1, 28, 28, generator=seed(8))


# %%
def scene(fig):
    """A piece of clothing, and ten probabilities as bars."""
    left, right = fig.subplots(1, 2, width_ratios=[1, 2])
    picture = left.imshow(torch.zeros(28, 28), cmap="gray_r", vmin=0, vmax=1)
    left.axis("off")
    bars = right.barh(range(10), [0] * 10, color=color.model)
    right.set(
        xlim=(0, 1), xticks=[0, 0.5, 1], yticks=range(10), yticklabels=CLOTHES, ylim=(9.6, -0.6)
    )
    right.set_xlabel("probability")

    def update(kind, turn, right, noise):
        one = torch.ones(1)
        move = torch.tensor([[float(right), 0.0]])
        x = affine(one_each[kind : kind + 1], turn * one, one, 0 * one, move)
        x = (x + noise * pixel_noise).clamp(0, 1)  # (1, 1, 28, 28)
        shares = shown_net(x).softmax(dim=1)[0]  # (10,)
        picture.set_data(x[0, 0])
        for k, (bar, share) in enumerate(zip(bars, shares.tolist(), strict=True)):
            bar.set_width(share)
            bar.set_color(color.truth if k == kind else color.test)
        best = shares.argmax().item()
        return f"label {CLOTHES[kind]}, answer {CLOTHES[best]} with {shares[best]:.1f}"

    return update


# %%
knobs = {"kind": slider(0, 9, 7), "turn": slider(-180, 180, 0, 5), "right": slider(-10, 10, 0)}
knobs["noise"] = slider(0.0, 0.6, 0.0, 0.05)
explore(
    scene, "6.2h", "Clothes disturbed, and what the network says.", (8, 3), held="trained", **knobs
)

# %% [markdown]
# **Exercise.** A customer asks: of what the machine answers, 98 in 100 must be right; how much can it answer? You get
# the certainties of some labelled images, and which of them were answered rightly. The machine answers the $n$ surest
# of them. Return the largest share $n / N$ at which the accuracy of these $n$ is at least what is wanted, and 0 if
# there is none. (Accuracy does not fall evenly. It may be too low for a small $n$ and high enough for a larger one.)


# %% tags=["exercise"]
def coverage_for(certainty: Tensor, right: Tensor, wanted: float) -> float:
    """The largest share of images that can be answered; certainty (N,), right (N,) of 1 and 0."""
    raise NotImplementedError


four_sure, four_right = torch.tensor([0.7, 0.9, 0.6, 0.8]), torch.tensor([1.0, 1.0, 0.0, 0.0])
late_right = torch.tensor([1.0, 0.0, 1.0, 1.0])  # the surest is wrong
check(
    coverage_for,
    ("all right among the surest: one of four", lambda g: (g(four_sure, four_right, 1.0), 0.25)),
    ("two in three right: three of four", lambda g: (g(four_sure, four_right, 0.6), 0.75)),
    ("the surest is wrong, and yet all", lambda g: (g(four_sure, late_right, 0.75), 1.0)),
    ("never good enough", lambda g: (g(four_sure, late_right, 0.9), 0.0)),
)


# %% tags=["solution", "hide-input"]
def coverage_for(certainty: Tensor, right: Tensor, wanted: float) -> float:
    """A running mean from the surest on; the last place at which it is good enough, counted from 1."""
    ordered = right[certainty.argsort(descending=True)]  # (N,)
    counts = torch.arange(1, len(right) + 1, device=right.device)  # (N,)
    enough = (ordered.cumsum(dim=0) / counts) >= wanted  # (N,)
    return (counts * enough).max().item() / len(right)

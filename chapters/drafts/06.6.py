# %% [markdown]
# ## 6.6 Text-image representations
#
# A classifier knows the classes that it was built for. You have 1,094 small drawings and want those that fit *red
# fruit*, a question that nobody thought of when the network was trained. Can a network answer it? It can, if it turns
# an image into a vector and a text into a vector *of the same space*, such that an image lies near the texts that
# describe it. This is a **text-image representation**. Any question that can be put in words can then be put to an
# image: compare two vectors.
#
# The best-known recipe is **Contrastive Language-Image Pre-training**, or CLIP (Radford and others, 2021), trained on
# 400 million images with captions from the web. Ours learns from 994 emoji, each with a name and some keywords, and
# each drawn by several artists. That gives an honest exam: we train on three styles of drawing and judge by the
# fourth, Noto, of which the network never sees one image. Another 100 emoji are kept back in all four styles, and
# their names with them.

# %%
STYLES, LEFT_OUT = ("twemoji", "fluent", "openmoji"), "noto"
drawn = [emoji(style, device=DEVICE) for style in (*STYLES, LEFT_OUT)]
names, keywords = drawn[0].names, drawn[0].keywords  # the same in all styles
kept_back = set(emoji(LEFT_OUT, "test").names)
is_new = torch.tensor([name in kept_back for name in names], device=DEVICE)  # (1094,)
old, new = (~is_new).nonzero()[:, 0], is_new.nonzero()[:, 0]  # (994,), (100,)

# %% [markdown]
# The drawings have a fourth channel, alpha, which tells how much each pixel hides of what lies below it. We put them
# on white paper and store how much *ink* there is, one minus the brightness. Blank paper is then zero, so a
# convolution that pads with zeros pads with paper, and so does a drawing that is moved aside.


# %% tags=["export"]
def ink_of(images: Tensor) -> Tensor:
    """Drawings with alpha (N, 4, H, W), put on white paper, as ink (N, 3, H, W): 1 - brightness."""
    return images[:, 3:] * (1 - images[:, :3])


# %%
ink = torch.stack([ink_of(style.images) for style in drawn])  # (4, 1094, 3, 32, 32)
shown = [names.index(name) for name in ("rocket", "snail", "crying face", "broom")]


def to_show(ink: Tensor) -> Tensor:
    """Ink (..., 3, H, W) as images (..., H, W, 3), in few shades so that their files stay small."""
    return ((6 * (1 - ink)).round() / 6).movedim(-3, -1).cpu()


# %%
fig, axes = plt.subplots(1, 4, figsize=(8.5, 1.4))
for ax, n in zip(axes, shown, strict=True):
    ax.imshow(torch.cat(list(to_show(ink[:, n])), dim=1))  # (32, 128, 3)
    ax.set_title(names[n], color=color.model)
    ax.set_xlabel(", ".join(keywords[n][:3]), size=9)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.axvspan(95.5, 127.5, fill=False, edgecolor=color.test, linewidth=2)
said = f"Four emoji in four styles each: {', '.join(names[n] for n in shown)}. Outlines agree, colours and "
said += "details differ. The fourth style is marked: it is kept for the exam."
figure("6.6a", "Name, four drawings, keywords; the framed style is never seen in training.", said)

# %% [markdown]
# ### The loss
#
# Take $N$ images with their texts. One network gives a vector for each image, another a vector for each text, all of
# length one. The inner product of two such vectors is the cosine of their angle: 1 if they point the same way, 0 if
# they have nothing in common. There are $N \times N$ pairs. Let $S_{n,m}$ be the similarity of image $n$ and text
# $m$; the true pairs are on the diagonal.
#
# Read row $n$ as the logits of a classifier that asks which of these texts belongs to image $n$, and column $n$ as
# those of one that asks which image belongs to text $n$. The loss is the mean of the two cross-entropies,
#
# $$\mathscr{L} = -\frac{1}{2N} \sum_{n=1}^{N} \left( \log \frac{\exp S_{n,n}}{\sum_m \exp S_{n,m}} +
# \log \frac{\exp S_{n,n}}{\sum_m \exp S_{m,n}} \right).$$
#
# It is a contrastive loss (section 3.1): a pair comes together because it is pushed away from all others in the
# batch. Nobody has to say what the classes are. The gradient by a similarity is what one knows from every classifier,
# the share that the softmax gives minus the share that would be right, once by rows and once by columns. So the wrong
# pairs that look most alike are pushed hardest. A network that knows nothing gives all texts the same share, $1 / N$,
# and pays the logarithm of $N$; only a loss below that shows that something was learned.


# %% tags=["export"]
def clip_loss(S: Tensor) -> Tensor:
    """Cross-entropy by rows and by columns of similarities S (N, N), pairs on the diagonal (book, 6.6).

    Raises:
        ValueError: S is not square.
    """
    if S.ndim != 2 or S.shape[0] != S.shape[1]:
        raise ValueError(f"clip_loss: expected similarities (N, N), got {tuple(S.shape)}")
    pairs = torch.arange(len(S), device=S.device)  # (N,)
    return (F.cross_entropy(S, pairs) + F.cross_entropy(S.mT, pairs)) / 2


# %% tags=["equation-clip"]
def clip_loss_by_sums(S: Tensor) -> Tensor:
    e, N = S.exp(), range(len(S))
    rows = sum((e[n, n] / sum(e[n, m] for m in N)).log() for n in N)
    columns = sum((e[n, n] / sum(e[m, n] for m in N)).log() for n in N)
    return -(rows + columns) / (2 * len(S))


S = torch.randn(5, 5, generator=seed(1), dtype=torch.float64).to(DEVICE)  # (N, N)
gap = difference(clip_loss, clip_loss_by_sums, S)
claim("the loss by sums and by two cross-entropies, with gradients", gap, at_most=1e-12)

# %% [markdown]
# ### Two encoders
#
# The text first. Each word is the number of its row in a table, where row 0 is padding, and a word without a row is
# left out. A word has two vectors, which are added. One is GloVe's (section 4.9), which is fixed and tells what the
# word means elsewhere. The other starts at zero and is learned, for the words of the training texts. So *wolf*, which
# may be in none of them, still arrives somewhere near *fox*. The mean over the words, through a linear layer and
# brought to length one, is the vector of the text. CLIP, whose captions are sentences, has a Transformer here; for
# names of two or three words, in which the order says little, the mean of the words is enough.


# %%
def words_of(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


vectors = glove()
texts = [f"{names[n]} {' '.join(keywords[n])}" for n in old.tolist()]
met = sorted({word for text in texts for word in words_of(text)})
rows = {
    w: n for n, w in enumerate(dict.fromkeys([*met, *vectors.words]), start=1)
}  # met ones first
fixed = torch.zeros(1 + len(rows), 50)  # (V, 50)
fixed[[rows[word] for word in vectors.words]] = 0.2 * vectors.vectors


# %%
def tokens(texts: list[str], T: int = 8) -> Tensor:
    """The rows of the first T known words of each text: (N, T), 0 for padding."""
    known = [[rows[word] for word in words_of(text) if word in rows] for text in texts]
    return torch.tensor([(row + T * [0])[:T] for row in known])


# %% tags=["export"]
class TextEncoder(nn.Module):
    """Texts as rows of a table (N, T), 0 for padding, to vectors (N, D) of length one.

    The table (V, C) is fixed; the words of its first `taught` rows have a vector to learn besides.
    """

    def __init__(self, table: Tensor, taught: int, D: int = 128):
        super().__init__()
        self.fixed, self.widen = nn.Embedding.from_pretrained(table), nn.Linear(table.shape[1], D)
        self.learned, self.out = nn.Embedding(taught, D, padding_idx=0), nn.Linear(D, D)
        nn.init.zeros_(self.learned.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        own = torch.where(tokens < len(self.learned.weight), tokens, 0)  # (N, T)
        x = self.widen(self.fixed(tokens)) + self.learned(own)  # (N, T, D)
        real = tokens[..., None] > 0  # (N, T, 1)
        mean = (x * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)  # (N, D)
        return F.normalize(self.out(mean), dim=1)


# %% [markdown]
# The image encoder is a residual network of two stages (section 5.2), which ends in maps of 4 × 4. A classifier would
# average each map. We keep all places, so that the linear layer knows *where* something is: an emoji fills its square
# in much the same way in every style.
#
# Cosines lie between −1 and 1, and a softmax of such small numbers is nearly flat, so even a perfect network could
# not bring the loss down. The similarities are therefore divided by a *temperature* below one. CLIP starts at 0.07
# and learns it with the rest, as a logarithm, which keeps it positive.


# %% tags=["export"]
class CLIP(nn.Module):
    """Ink (N, 3, 32, 32) and texts (M, T) to similarities (N, M): cosines over a temperature."""

    def __init__(self, table: Tensor, taught: int, D: int = 128, width: int = 16):
        super().__init__()
        self.stages, self.text = ResNet((1, 1), width=width), TextEncoder(table, taught, D)
        self.stages.fc = nn.Identity()  # its own head is not used
        self.out = nn.Linear(8 * width * 4 * 4, D)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image(self, ink: Tensor) -> Tensor:
        if ink.shape[1:] != (3, 32, 32):
            raise ValueError(f"CLIP: expected ink (N, 3, 32, 32), got {tuple(ink.shape)}")
        maps = self.stages.maps(ink)[-1]  # (N, 8 width, 4, 4)
        return F.normalize(self.out(maps.flatten(1)), dim=1)  # (N, D), of length one

    def forward(self, ink: Tensor, tokens: Tensor) -> Tensor:
        return self.log_scale.exp() * self.image(ink) @ self.text(tokens).mT  # (N, M)


# %%
seed(0)
clip = CLIP(fixed, 1 + len(met)).to(DEVICE, memory_format=torch.channels_last).eval()
with torch.no_grad():
    seen, T = clip.image(ink[0, :50]), clip.text(tokens(list(names[:50])).to(DEVICE))  # (50, D)
    shorter = clip.text(tokens(list(names[:50]), T=6).to(DEVICE))
claim("all vectors have length one", torch.cat([seen, T]).norm(dim=1).min(), at_least=0.9999)
claim("padding does not change a text", shorter, equals=T, within=1e-5)

# %% [markdown]
# In an epoch each of the 994 emoji comes once, in one of the three styles, a little turned, resized and shifted
# (section 3.6). Its text is the name, or some of its keywords. A batch of 128 has 128 true pairs, and 127 times as
# many others that serve as examples of what does not belong together; they cost nothing, since each image and each
# text is encoded once. This is why CLIP makes its batches as large as it can: 32,768 pairs. A word comes up in few
# batches and has to move far when it does, so the text learns at a higher rate than the images.

# %%
chance = seed(3)
variants = [list(names)] * 5
for _ in range(3):
    picked = [torch.randperm(len(k), generator=chance)[:4].tolist() for k in keywords]
    variants.append([" ".join(k[i] for i in p) for k, p in zip(keywords, picked, strict=True)])
choices = torch.stack([tokens(variant) for variant in variants]).to(DEVICE)  # (8, 1094, T)


# %%
def contrast(model: nn.Module, which: Tensor) -> Tensor:
    """The loss of a batch of emoji (N,), each in a random style, with its name or some keywords."""
    style = torch.randint(len(STYLES), which.shape, generator=chance).to(DEVICE)
    text = torch.randint(len(choices), which.shape, generator=chance).to(DEVICE)
    images = augment(ink[style, which], chance, strength=0.5)  # (N, 3, 32, 32)
    images = images.contiguous(memory_format=torch.channels_last)
    return clip_loss(model(images, choices[text, which]))


# %%
quick = [*clip.text.parameters(), clip.log_scale]
slow = [*clip.stages.parameters(), *clip.out.parameters()]
groups = [{"params": quick, "lr": 1e-2}, {"params": slow, "lr": 3e-3}]
data, optimizer = batches(old, size=128, seed=4), torch.optim.AdamW(groups, weight_decay=0.1)
schedule = OneCycleLR(optimizer, [1e-2, 3e-3], total_steps=60 * len(data), pct_start=0.1)
history = fit(clip, data, contrast, optimizer, epochs=60, schedule=schedule)


# %% [markdown]
# ### Zero-shot prediction
#
# Now the style that it has never seen. In **zero-shot prediction** one gives the names of the classes to tell apart,
# and not one example. All names are encoded once; then a drawing belongs to the name whose vector is nearest. *Top-k*
# is the share of drawings whose right name is among the k nearest. Ties count against the network.
#
# What must it beat? Chance gets one in 1,094. A stronger rival needs no training: compare the drawing, pixel by
# pixel, with all drawings of the three known styles, and take the name of the nearest. Artists agree on much, so that
# is not bad at all.

# %%
with torch.no_grad():
    T = clip.text(tokens(list(names)).to(DEVICE))  # (1094, D)
    Z = torch.stack([clip.image(images) for images in ink])  # (4, 1094, D)
cosines = Z @ T.mT  # (4, 1094, 1094)
by_name = cosines[3, old]  # (994, 1094), of the style left out
pixels = ink.flatten(2)  # (4, 1094, 3072)
distances = torch.stack([torch.cdist(pixels[3, old], style) for style in pixels[:3]])
by_pixels = -distances.amin(dim=0)  # (994, 1094), the nearest of three styles


# %% tags=["export"]
def top_share(k: int, S: Tensor, right: Tensor) -> float:
    """The share of rows of similarities S (N, M) whose right column (N,) is among the k largest."""
    own = S.gather(1, right[:, None])  # (N, 1)
    return ((own <= S).sum(dim=1) <= k).double().mean().item()


# %%
def among(count: int, S: Tensor) -> float:
    """Top-1 when only `count` names are asked for, those of the drawings themselves; mean of 20 draws."""
    draws = [torch.randperm(len(S), generator=seed(k))[:count].to(DEVICE) for k in range(20)]
    return (
        sum(top_share(1, S[d][:, old[d]], torch.arange(count, device=DEVICE)) for d in draws) / 20
    )


# %%
top1, pixel1 = top_share(1, by_name, old), top_share(1, by_pixels, old)
top5, pixel5 = top_share(5, by_name, old), top_share(5, by_pixels, old)
claim("a style never seen: top-1 among 1,094 names", top1, at_least=0.36)
claim("a style never seen: top-5, ahead of the nearest pixels", top5 - pixel5, at_least=0.08)
claim("a style never seen: top-1 among 100 names", among(100, by_name), at_least=0.6)

# %% [markdown]
# And emoji that it has met in no style, with names that it has met in no text? If it knows from GloVe that garlic is
# food, it may know a new food when it sees one. We ask for the 100 that were kept back, among their own names, in all
# four styles. The second claim lets the known names compete as well: then hardly any drawing finds its new name, for
# it was the known names that training pulled towards drawings.

# %%
unseen = cosines[:, new][..., new]  # (4, 100, 100)
in_order = torch.arange(100, device=DEVICE)
new1, new5 = (sum(top_share(k, S, in_order) for S in unseen) / 4 for k in (1, 5))
crowded = top_share(1, cosines[:, new].flatten(0, 1), new.repeat(4))
claim("names never seen: top-5 among 100", new5, at_least=0.2)
claim("names never seen, when known names compete: top-1", crowded, at_most=0.04)

# %%
seen100, pixel100 = among(100, by_name), among(100, by_pixels)
table(
    ["what is asked", "ours", "nearest pixels", "chance"],
    [
        ("top-1 among 100 names seen", f"{seen100:.2f}", f"{pixel100:.2f}", "0.01"),
        ("top-1 among all 1,094", f"{top1:.2f}", f"{pixel1:.2f}", "0.001"),
        ("top-5 among all 1,094", f"{top5:.2f}", f"{pixel5:.2f}", "0.005"),
        ("top-1 among 100 names never seen", f"{new1:.2f}", "none", "0.01"),
        ("top-5 among 100 names never seen", f"{new5:.2f}", "none", "0.05"),
    ],
    varies=["ours", "nearest pixels"],
)
example = ink[3, :1], tokens([names[0]]).to(DEVICE)
results = f"top-5 of 1,094: {top5:.2f}", f"pixels: {pixel5:.2f}"
summary["CLIP, emoji"] = (*cost(clip, *example), history.seconds, *results)

# %% [markdown]
# One network, and any list of classes: that is what makes zero-shot prediction useful. Who wants to tell cats from
# dogs writes two sentences, and no example is collected, no weight is changed. The wording matters, though, since it
# is compared with what the network has read; the exercise at the end comes back to it.
#
# Below are six drawings of the style left out, each with its five nearest names. A bar is the share that a softmax
# over all names gives, with the temperature that was learned; the right name is blue. The last drawing is one of
# those kept back.

# %%
asked = ["rocket", "snail", "glowing star", "violin", "hamburger", "pineapple"]
asked = [names.index(name) for name in asked]
shares = (clip.log_scale.exp() * cosines[3, asked]).softmax(dim=1).detach()  # (6, 1094)

# %% tags=["figure-6.4"]
fig, axes = plt.subplots(2, 6, figsize=(8.5, 3.4), width_ratios=[1, 1.6] * 3)
for n, image, ax, row in zip(asked, axes.flat[::2], axes.flat[1::2], shares, strict=True):
    image.imshow(to_show(ink[3, n]))
    image.set_axis_off()
    best = row.topk(5)
    mark = [color.model if m == n else color.quiet for m in best.indices.tolist()]
    ax.barh(range(5), best.values.cpu(), color=mark, height=0.3)
    for y, m in enumerate(best.indices.tolist()):
        ax.text(0, y - 0.25, names[m][:24], color=mark[y] if m == n else color.data, size=8.5)
    ax.set(xlim=(0, 1), ylim=(4.3, -0.9), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
said = (
    f"Drawings of {', '.join(names[n] for n in asked)}, each with its five likeliest names as bars."
)
figure(
    "6.4", "Zero-shot prediction: drawings, and their five likeliest names.", said, held="trained"
)

# %% [markdown]
# So in a style that it has never seen the network names the drawings better than a comparison of pixels does, and the
# more so the longer one lets it guess. Names that it has never met are much harder, though far above chance. CLIP has
# read so many captions that hardly a name is new to it; ours has read those of 994 things.
#
# Look at what comes second and third in the figure. Some names are neighbours in meaning. Others only look alike,
# being of one colour or lying along one diagonal: in a style that is new, the look is all that the network can go by.
#
# ### Retrieval
#
# The space is shared, so one can also start from a text and rank the images. Each column of the table of similarities
# is then sorted instead of each row.

# %%
found5 = top_share(5, by_name[:, old].mT, torch.arange(len(old), device=DEVICE))
claim("from a name to its drawing: top-5 among 994", found5, at_least=0.45)

# %% [markdown]
# This is the everyday use of such models. Photo collections are searched with them, data sets are cleaned by them,
# and networks that draw what a text says read the text through CLIP's encoder or one like it.
#
# In the widget the text is yours; the ten nearest of all 1,094 drawings come up with every letter. The drawings were
# encoded once; only the text is encoded anew, and compared with all of them by one product. Search engines for images
# work like this, with thousands of millions of vectors. Three things to try. Ask for what is not a name: *red fruit*,
# *animal*, *sad face*. Type *not a dog*: there is no understanding of *not*, it is one more word in the mean. And
# type a word with an error in it: it is in no row of the table and is skipped.

# %%
reader, drawings = copy.deepcopy(clip.text).cpu(), to_show(ink[3])  # (1094, 32, 32, 3)
encoded = Z[3].cpu()  # (1094, D)


def scene(fig):
    """Ten drawings in two rows, the nearest to the text first, each with its name."""
    axes = list(fig.subplots(2, 5).flat)
    images = [ax.imshow(torch.ones(32, 32, 3)) for ax in axes]
    for ax in axes:
        ax.set_axis_off()
    titles = [ax.set_title("", size=9) for ax in axes]

    def update(text):
        with torch.no_grad():
            best = (encoded @ reader(tokens([text]))[0]).topk(10).indices.tolist()
        known = tokens([text]).any()
        for image, title, n in zip(images, titles, best, strict=True):
            image.set_data(drawings[n] if known else torch.ones(32, 32, 3))
            title.set_text(names[n][:18] if known else "")
        return f"nearest to {text!r}: {names[best[0]]}" if known else "no word of this is known"

    return update


# %%
typed = words("red fruit", ["moon", "sad face", "qwxz"])
explore(scene, "6.6b", "The nearest drawings of any text.", (8, 3.4), "trained", text=typed)

# %% [markdown]
# One failure is easily made visible. All drawings that the network has met lie on white paper. On black, the same
# drawings are lost to it, though a person would hardly notice the change: it has not learned what the thing is, apart
# from the paper. CLIP met photographs of all kinds and is hurt by less; it fails in its own ways, such as at
# counting.

# %%
black = (
    1 - drawn[3].images[old, 3:] * drawn[3].images[old, :3]
)  # ink (994, 3, 32, 32) on black paper
with torch.no_grad():
    on_black = top_share(5, clip.image(black) @ T.mT, old)
claim("top-5 on white paper, minus that on black", top5 - on_black, at_least=0.2)

# %% [markdown]
# **Exercise.** For CLIP, *a photo of a dog* works better than *dog*, and several such sentences work better still.
# Each of M classes is described by P texts, whose vectors come as they leave a network, of any length. Bring each to
# length one, so that no text counts more than another. Take the mean of each class, and bring it to length one, so
# that no class is preferred. Then give the class of each image: the one with the largest inner product.


# %% tags=["exercise"]
def zero_shot_class(images: Tensor, texts: Tensor) -> Tensor:
    """The class (N,) of each image (N, D), for P texts about each of M classes (P, M, D)."""
    raise NotImplementedError


right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
lengths = torch.tensor([[[0.6, 0.0], [3.0, 3.0]]])  # (P, M, D)
loud = torch.tensor([[[10.0, 0.0], [0.8, 0.6]], [[0.0, 1.0], [0.8, 0.6]]])
torn = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[-0.6, 0.8], [0.6, 0.8]]])
check(
    zero_shot_class,
    ("a longer vector is not a nearer one", lambda g: (g(right, lengths), torch.tensor([0]))),
    ("one loud text does not decide", lambda g: (g(right, loud), torch.tensor([1]))),
    ("a class of unlike texts is not put back", lambda g: (g(up, torn), torch.tensor([0]))),
)


# %% tags=["solution", "hide-input"]
def zero_shot_class(images: Tensor, texts: Tensor) -> Tensor:
    """The lengths of the images do not matter: they do not change which class is the largest."""
    classes = F.normalize(F.normalize(texts, dim=2).mean(dim=0), dim=1)  # (M, D)
    return (images @ classes.mT).argmax(dim=1)  # (N,)

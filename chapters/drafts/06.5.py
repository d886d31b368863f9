# %% [markdown]
# ## 6.5 Speech recognition
#
# Can a computer that has only ever heard machines understand a human being? **Speech recognition** takes a sequence
# of thousands of air pressures a second and writes a sequence of letters, and nothing tells which pressures belong to
# which letter. For fifty years this was done by chains of hand-made parts. Today it is a Transformer that translates,
# as in section 5.3, only that the original is a sound. Whisper (Radford and others, 2022) is built so and was trained
# on 680,000 hours from the web.
#
# Our data are 54 words, digits, days, months and the alphabet of pilots, said by 36 synthetic voices and by one
# human, Allison Smith, at the telephone's 8,000 samples a second. Voices for testing are never heard in training, and
# the human is for testing only. How well they help with her was one of the reasons for which the synthetic voices
# were chosen, so her result is a little too kind.


# %%
spoken = {split: speech(split, DEVICE) for split in ("train", "test", "human")}
VOCABULARY = spoken["train"].vocabulary


def recording(split: str, word: str, voice: int = 0) -> Tensor:
    """A word (samples,), said by the given voice of a split, counted from 0."""
    group = spoken[split]
    right = (group.words == VOCABULARY.index(word)).nonzero()[voice, 0]
    return group.waves[right, : group.lengths[right]]


# %%
def player(sound: Tensor, text: str) -> str:
    """A player for a recording (samples,), as HTML."""
    source = Audio(sound.cpu().numpy(), rate=SAMPLE_RATE).src_attr()
    return f'{text} <audio controls style="width: 9em" src="{source}"></audio> '


HTML("".join(player(recording(split, "seven"), f"“seven”, {split}:") for split in spoken))

# %% [markdown]
# ### Spectrogram
#
# What one hears is how strong each *frequency* is and how that changes. So the wave is cut into short overlapping
# frames. Each is faded in and out by a smooth window $w$, and the Fourier transform tells how much of each frequency
# $k$ is in it:
#
# $$X_{t,k} = \sum_{n=0}^{L-1} w_n\, x_{n + tS}\, e^{-2 \pi i k n / L}$$
#
# The complex exponential is a cosine and a sine in one, swinging $k$ times along the frame. The sum is large where
# the frame swings along with them and small where it does not, since then pluses and minuses cancel; and with both a
# cosine and a sine it does not matter when in the frame a swing begins. We take frames of $L = 256$ samples, 32 ms,
# every $S = 100$ samples. The squared sizes $|X_{t,k}|^2$ for all times $t$ and frequencies $k$ are a
# **spectrogram**.
#
# A frame is a compromise. In a long one frequencies that are close together can be told apart, but not when they
# sounded; in a short one it is the other way round. Most recognizers take about 25 ms, in which the mouth hardly
# moves.
#
# Two things bring it nearer to the ear. High notes are heard less apart than low ones, so frequencies are gathered in
# $M = 40$ channels that become wider upwards, evenly spaced on the *mel scale* $\log(1 + f / 700)$. Each channel is a
# triangle that rises where its neighbour falls. And loudness is heard by factors, so a logarithm is taken. This is
# the *log-mel spectrogram*, which Whisper reads, too.


# %% tags=["export"]
def power_spectrogram(waves: Tensor, window: int = 256, hop: int = 100) -> Tensor:
    """Strength of each frequency in each frame: (..., samples) to (..., T, window // 2 + 1).

    Raises:
        ValueError: fewer samples than one window.
    """
    if waves.shape[-1] < window:
        raise ValueError(
            f"power_spectrogram: {waves.shape[-1]} samples, expected at least {window}"
        )
    frames = waves.unfold(-1, window, hop)  # (..., T, window)
    hann = torch.hann_window(window, device=waves.device, dtype=waves.dtype)
    return torch.fft.rfft(frames * hann).abs().square()


def mel_filters(M: int = 40, stretch: float = 1.0, low: float = 80, high: float = 3500) -> Tensor:
    """M triangles (M, 129) from `low` to `high` Hz; `stretch` moves them, as a smaller head would."""
    low, high = math.log(1 + low / 700), math.log(1 + high / 700)
    corners = stretch * 700 * (torch.linspace(low, high, M + 2).exp() - 1)[:, None]  # in Hz
    slopes = (torch.linspace(0, SAMPLE_RATE / 2, 129) - corners[:-1]) / corners.diff(dim=0)
    return torch.minimum(slopes[:-1], 1 - slopes[1:]).clamp(min=0)  # up one slope, down the next


# %%
seven = recording("human", "seven").to(**EXACT)  # (samples,)
power, hann = power_spectrogram(seven), torch.hann_window(256, **EXACT)  # (T, 129)
by_torch = torch.stft(seven, 256, 100, window=hann, center=False, return_complex=True)  # (129, T)
claim("the spectrogram and torch.stft", power.mT, equals=by_torch.abs() ** 2, within=1e-9)

# %%
tone = torch.sin(2 * math.pi * 1000 * torch.arange(2000).to(**EXACT) / SAMPLE_RATE)  # (2000,)
loudest = power_spectrogram(tone).argmax(dim=-1) * SAMPLE_RATE / 256  # (T,) in Hz
claim("a tone of 1000 Hz is loudest at 1000 Hz", loudest, equals=torch.full_like(loudest, 1000))
shares = mel_filters().sum(dim=0)[4:108]  # from the first peak to the last
claim("the shares of a frequency in all channels", shares, equals=torch.ones(104), within=1e-4)


# %%
def log_mel(wave: Tensor) -> Tensor:
    return (power_spectrogram(wave) @ mel_filters().to(wave).mT + 1e-3).log()  # (T, M)


gray = {"origin": "lower", "aspect": "auto", "cmap": "gray_r"}
fig, axes = plt.subplots(1, 4, figsize=(8.5, 2.3))
axes[0].plot(torch.arange(len(seven)) / SAMPLE_RATE, seven.cpu(), color=color.data, linewidth=0.5)
for ax, split in zip(axes[1:], spoken, strict=True):
    image = log_mel(recording(split, "seven")).mT.cpu()  # (M, T)
    ax.imshow(image, extent=(0, image.shape[1] / 80, 0, 40), **gray)
    ax.set_title(f"log-mel, {split}")
axes[0].set(title="wave, human", yticks=[])
axes[0].set_xlabel("seconds")
said = f"The word seven: a wave of {len(seven)} samples, and log-mel spectrograms of three voices, the human's "
said += f"with {len(power)} frames of 40 channels."
figure("6.5a", "One word as a wave, and as log-mel spectrograms of three voices.", said)

# %% [markdown]
# From the wave one can read when somebody spoke, and hardly anything else; move the microphone by a few centimetres
# and all of its numbers change, though one hears the same word. In the spectrograms dark is loud. The hissing *s* is
# a faint cloud high up; the vowels are stacks of stripes, the multiples of the voice's pitch. Where the stripes are
# darkest depends on the shape of the mouth, and that is what makes an *e* an *e*. The voices differ in length, in
# pitch, and in the height of the dark bands, since heads differ in size.
#
# ### The network
#
# A spectrogram is a sequence of $T$ vectors with 40 numbers, and could go into a Transformer as it is. But a frame of
# 32 ms says little by itself, and attention costs the square of the length. So three convolutions along time come
# first, two of them with stride 2, which make one place of 50 ms out of four frames. Whisper begins in the same way,
# with two. Then come positions, an encoder and a decoder of one layer each (section 5.3). The decoder reads what was
# written so far, looks at the sound by cross-attention, and gives the scores of the next letter. `encode` and
# `decode` have the names that `greedy_decode` of section 5.3 asks for.


# %% tags=["export"]
class SpeechTransformer(nn.Module):
    """Log-mel spectrograms (B, T, M) and what is written so far (B, S): logits (B, S, letters).

    `mask` (B, T / 4, rounded up) is True where the encoder's places are sound and not padding.
    """

    def __init__(self, M: int = 40, letters: int = 29, D: int = 96, H: int = 4):
        super().__init__()
        parts = []
        for C, stride in ((M, 1), (D, 2), (D, 2)):
            parts += [nn.Conv1d(C, D, 5, stride, padding=2), nn.BatchNorm1d(D), nn.ReLU()]
        self.front, self.positions = nn.Sequential(*parts), AddSinusoids()
        self.encoder = TransformerEncoder(D, H, 1, 2 * D)
        self.embedding, self.decoder = nn.Embedding(letters, D), TransformerDecoder(D, H, 1, 2 * D)
        self.head = nn.Linear(D, letters)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        heard = self.front(x.mT).mT  # (B, T / 4, D)
        return self.encoder(self.positions(heard), mask=mask)  # (B, T / 4, D)

    def decode(self, target: Tensor, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        written = self.positions(self.embedding(target))  # (B, S, D)
        return self.head(self.decoder(written, Z, mask=mask))  # (B, S, letters)

    def forward(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(x, mask), mask)


# %%
LETTERS = "_^abcdefghijklmnopqrstuvwxyz$"  # padding, start, …, end
spelled = [torch.tensor([LETTERS.index(c) for c in f"^{word}$"]) for word in VOCABULARY]
SPELLED = nn.utils.rnn.pad_sequence(spelled, batch_first=True).to(DEVICE)  # (54, S)


def text_of(row: list[int]) -> str:
    """What a row of letters says, between its start and its first end."""
    return "".join(LETTERS[n] for n in row[1:]).split("$")[0]


# %% [markdown]
# Voices and microphones differ in loudness, so each spectrogram is brought to mean 0 and deviation 1 over its real
# frames; padding becomes 0. This has to be the same in training and in use. The same function can make other voices
# of the ones we have, which is what this section is about. A little noise is always added. With `augment` there is
# more of it; the voice becomes slower or faster by another step from frame to frame, and its head larger or smaller
# by other filters; and a band of channels and a stretch of time are hidden, which is called *SpecAugment* (Park and
# others, 2019). Whoever recognizes *six* by nothing but its hiss is forced to learn the rest as well.


# %% tags=["export"]
def hidden(size: int, most: int, N: int, generator: torch.Generator) -> Tensor:
    """Where to hide: in each row (N, size) a stretch of up to `most` places, True."""
    start, width = torch.rand(2, N, 1, generator=generator)  # (N, 1) each
    place = torch.arange(size) - start * (size - most)  # (N, size)
    return (place >= 0) & (place < most * width)


def prepare(waves: Tensor, lengths: Tensor, generator: torch.Generator, augment=False):
    """Waves (B, samples) of these lengths (B,) to spectrograms (B, T, M), and their mask (B, T / 4)."""
    B, hop, stretch, quiet = len(waves), 100, 1.0, torch.full((len(waves), 1), 0.01)
    if augment:
        speed, head = torch.rand(2, generator=generator).tolist()
        hop, stretch = round(100 * 2 ** (0.8 * speed - 0.5)), 2 ** (0.5 * head - 0.25)
        quiet = 10 ** -(0.5 + 1.5 * torch.rand(B, 1, generator=generator))  # 10 to 40 dB
    loudness = (waves.square().sum(dim=1, keepdim=True) / lengths[:, None]).sqrt()  # (B, 1)
    noise = quiet * torch.randn(waves.shape, generator=generator)
    power = power_spectrogram(waves / loudness + noise.to(waves.device), hop=hop)  # (B, T, 129)
    x = (power @ mel_filters(stretch=stretch).to(power).mT + 1e-3).log()  # (B, T, M)
    frames = ((lengths - 256) // hop + 1).clamp(max=x.shape[1])  # (B,)
    real = torch.arange(x.shape[1], device=x.device) < frames[:, None]  # (B, T)
    count = 40 * frames[:, None, None]
    x = x - (x * real[..., None]).sum(dim=(1, 2), keepdim=True) / count
    x = x * real[..., None]
    x = x / (x.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()  # (B, T, M)
    if augment:
        x = x.masked_fill(hidden(40, 10, B, generator).to(x.device)[:, None], 0)
        x = x.masked_fill(hidden(x.shape[1], 12, B, generator).to(x.device)[..., None], 0)
    return x, real[:, ::4]


# %%
few = spoken["test"].waves[:8], spoken["test"].lengths[:8]
x, mask = prepare(*few, seed(8))
power, frames = x.square().mean(dim=2).sum(dim=1), (few[1] - 256) // 100 + 1  # (B,), (B,)
claim("prepared: mean square of real frames", power / frames, equals=1 + 0 * power, within=1e-3)
claim("prepared: places of four frames", mask.sum(dim=1), equals=(frames + 3) // 4)

# %% [markdown]
# The loss is the cross-entropy of the next letter, given those before it, as for any translation; padding is not
# counted. With *label smoothing* the right letter is to get nine tenths of the probability and all letters together
# the last one, so that the network need not become ever more sure of examples that it has understood long ago.
#
# To see what the changes bring, two networks are trained, alike in everything else. Five of the synthetic voices are
# put together from recorded pieces of human speech, and are taken three times as often as the others. Both networks
# see all recordings twelve times; the second never hears the same sound twice.


# %%
def listener(augment: bool, number: int = 0) -> tuple[SpeechTransformer, History]:
    """A network trained on the synthetic voices, with or without changes to them."""
    generator, group = seed(number), spoken["train"]
    from_people = (group.voices < 5).nonzero()[:, 0]
    often = torch.cat([torch.arange(len(group.words), device=DEVICE), *2 * [from_people]])

    def loss(model: nn.Module, waves: Tensor, lengths: Tensor, words: Tensor) -> Tensor:
        waves = waves[:, : lengths.max()]
        x, mask = prepare(waves, lengths, generator, augment)
        target = SPELLED[words]  # (B, S)
        logits = model(x, target[:, :-1], mask)  # (B, S - 1, letters)
        labels = target[:, 1:].flatten()
        return F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=0, label_smoothing=0.1)

    model = SpeechTransformer().to(DEVICE)
    data = batches(*(part[often] for part in group[:3]), size=32, seed=number)
    return model, train(model, data, loss, 4e-3, epochs=12, betas=(0.9, 0.98), weight_decay=0.05)


# %%
def write(model: SpeechTransformer, split: str) -> list[str]:
    """What the network writes for every recording of a split."""
    x, mask = prepare(spoken[split].waves, spoken[split].lengths, seed(9))
    rows = greedy_decode(model, x, mask, 1, SPELLED.shape[1] - 1)  # (N, S)
    return [text_of(row) for row in rows.tolist()]


# %% [markdown]
# How wrong is what was written? The field counts words: those that were replaced, left out or put in, as a share of
# the words that were said. This is the *word error rate*. With one word a recording it is the share of recordings
# that were not written correctly, to the last letter.

# %%
networks = {augment: listener(augment) for augment in (False, True)}
written = {(a, s): write(networks[a][0].eval(), s) for a in networks for s in ("test", "human")}
said = {s: [VOCABULARY[w] for w in spoken[s].words.tolist()] for s in ("test", "human")}
rate = {}
for (augmented, split), texts in written.items():
    wrong = [text != word for text, word in zip(texts, said[split], strict=True)]
    rate[augmented, split] = sum(wrong) / len(wrong)

# %%
claim("voices never heard: word error rate", rate[True, "test"], at_most=0.1)
claim("the human voice: word error rate", rate[True, "human"], at_most=0.35)
gain = rate[False, "test"] - rate[True, "test"]
claim("voices never heard: errors that augmentation removes", gain, at_least=0.005)
distance = rate[True, "human"] - rate[True, "test"]
claim("the human voice: errors beyond those of synthetic voices", distance, at_least=0.1)

# %%
percent = {key: f"{100 * share:.1f} %" for key, share in rate.items()}
rows = [
    (a, percent[a == "augmented", "test"], percent[a == "augmented", "human"])
    for a in ("as they are", "augmented")
]
head = ["word error rate", "synthetic voices never heard", "the human voice"]
table(head, rows, varies=head[1:])
model, history = networks[True]
second = torch.zeros(1, 78, 40, device=DEVICE), SPELLED[:1, :-1]
results = f"{rows[1][2]} of human words wrong", f"not augmented: {rows[0][2]}"
summary["Speech recognition"] = (*cost(model, *second), history.seconds, *results)

# %% [markdown]
# Look at the distance between the two columns. A network that understands nearly every word of voices of the kind
# that it has learned from, even of ones it never met, is wrong much more often about a woman on the telephone. A test
# set of the same kind as the training set had not told us. To change the voices costs nothing and removes a good part
# of the errors on synthetic ones. For the human it helped in most of our trials and not in all: she says 54 words, so
# one word is nearly two points, and with another seed the order of the two networks may be the other way round.
# Nobody should judge a recognizer by one speaker. What helps in the end is real variety, and Whisper's 680,000 hours
# were collected for that.
#
# Here are some of the human words that were not understood. Listen, and judge whether you would have done better.

# %%
human = list(zip(said["human"], written[True, "human"], strict=True))
wrong = [(word, text) for word, text in human if word != text][:4]
players = [player(recording("human", word), f"{word}, written {text}:") for word, text in wrong]
shown = {"text/html": f'<span class="{MEASURED}">{"".join(players)}</span>'}
publish("human words that were not understood", shown)

# %% [markdown]
# ### Where it listens
#
# Nobody told the network which sounds belong to which letters; the training data are whole recordings and whole
# words. The scores of the cross-attention tell what it has found out: where the decoder looks while it writes a
# letter. For each letter there is a row of numbers, one for every 50 ms, that add up to one. In the widget the
# spectrogram is above and the four heads' mean below, a row for each letter that was written.
#
# Three things to try. Go through the words and see the attention walk from left to right, as the letters follow the
# sounds. Choose the human instead of a test voice: where the word is written wrongly, the walk often stumbles. And
# find a word with silent letters, such as *eight*, and see where the network looks for what is not to be heard.

# %%
ear, SHOWN = copy.deepcopy(model).cpu().eval(), ["seven", "eight", "november", "tuesday", "zero"]


def listening(voice: str, word: str) -> tuple[Tensor, str, Tensor]:
    """The spectrogram (T, M) of a word, what is written, and the attention (S, T / 4) of its letters."""
    wave = recording(voice, word).cpu()[None]  # (1, samples)
    x, _ = prepare(wave, torch.tensor([wave.shape[1]]), seed(9))
    row = greedy_decode(ear, x, None, 1, SPELLED.shape[1] - 1)  # (1, S)
    maps = attention_maps(ear, x, row)["decoder.layers.0.cross_attention.attention"][0]
    text = text_of(row[0].tolist())
    return x[0], text, maps.mean(dim=0)[: len(text)]  # of all heads (H, S, T / 4)


# %%
def scene(fig):
    """The spectrogram of a word above; below, a row of attention for each letter."""
    above, below = fig.subplots(2, 1, height_ratios=[1, 1.3])
    sound = above.imshow(torch.zeros(40, 80), vmin=-1.5, vmax=3, **gray)
    walk = below.imshow(torch.zeros(9, 20), "Blues", vmin=0, vmax=0.6, aspect="auto")
    above.set(yticks=[], xticks=[])
    below.set_xlabel("places of 50 ms")

    def update(word, a_human):
        x, text, maps = listening("human" if a_human else "test", word)
        for picture, values in ((sound, x.T), (walk, maps)):
            picture.set(
                data=values,
                extent=(0, len(x) / 4, *((0, 40) if picture is sound else (len(values), 0))),
            )
        below.set_yticks(torch.arange(len(text)) + 0.5, list(text))
        return f"said {word}, written {text}"

    return update


# %%
knobs = {"word": choice(SHOWN), "a_human": toggle()}
explore(scene, "6.5b", "Where it listens.", (6, 4), held="trained", **knobs)

# %% [markdown]
# The walk is only a tendency. A place of 50 ms that has passed through convolutions and an encoder knows its
# neighbourhood, so the decoder need not look exactly where the sound is; it may look wherever the encoder has put
# what it needs.
#
# **Exercise.** Words are one unit to count errors in; letters are finer: *fife* for *five* is a small mistake, *nine*
# a large one. The *edit distance* of two texts is the least number of letters to replace, leave out or put in to turn
# one into the other. Write it. Let $d_{ij}$ be the distance between the first $i$ letters of the one and the first
# $j$ of the other; the last step either pairs their last letters, from $d_{i-1,j-1}$, or drops one of them, from
# $d_{i-1,j}$ or $d_{i,j-1}$. Sentences are compared in the same way, word by word; that is the word error rate of
# whole texts.


# %% tags=["exercise"]
def edit_distance(a: str, b: str) -> int:
    """Fewest replacements, deletions and insertions that turn a into b."""
    raise NotImplementedError


check(
    edit_distance,
    ("fife and five: one letter replaced", lambda g: (g("fife", "five"), 1)),
    ("kitten and sitting: two replaced, one put in", lambda g: (g("kitten", "sitting"), 3)),
    ("three and nothing", lambda g: (g("three", ""), 5)),
    ("even and seven: one put in front", lambda g: (g("even", "seven"), 1)),
)


# %% tags=["solution", "hide-input"]
def edit_distance(a: str, b: str) -> int:
    """Row by row of the table d; only the row above is needed."""
    row = list(range(len(b) + 1))
    for i, from_a in enumerate(a, 1):
        above, row = row, [i]
        for j, from_b in enumerate(b, 1):
            paired = above[j - 1] + (from_a != from_b)
            row.append(min(paired, above[j] + 1, row[j - 1] + 1))
    return row[-1]

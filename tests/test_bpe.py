"""The tokenizer of section 3.2 against the reference, Hugging Face's `tokenizers` (tokenizers==0.23.3)."""

import json
import random
import sys
import unicodedata
from itertools import pairwise

import pytest

from lbdl.chapters import ch03
from lbdl.data import shakespeare

tokenizers = pytest.importorskip("tokenizers")  # a dependency of the tests only; CI installs it

MERGES = 1000
SHOWN = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())  # the reference spells each byte by one of these
BYTE = dict(zip(SHOWN, ch03.byte_tokens(), strict=True))
HARD = [
    "",
    " ",
    "  \n\n\t x  ",
    "I'll don't 'twas 'Tis 'S we've'd",
    "12 345,678.90 ½ Ⅷ ²³ ٣",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽",
    "e\u0301 ñ n\u0303 Å",
    "日本語のテキスト。中文",
    "עברית وعربي हिन्दी ไทย",
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x85\ufeff\u200b\u180e",
    "a\u00a0b\u2028c\u3000 d",
    "aaaaaaaaaaa !!!!!!!!! ---- 'ſ ’s",
]


def raw(spelled: str) -> bytes:
    """The bytes of a token as the reference spells it."""
    return b"".join(BYTE[character] for character in spelled)


def reference(text: str, size: int):
    """The reference's tokenizer, trained on the text to a vocabulary of this size, its merges and its vocabulary."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=SHOWN, show_progress=False)
    trained.train_from_iterator([text], trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    numbers = {raw(token): number for token, number in trained.get_vocab().items()}
    return trained, [(raw(left), raw(right)) for left, right in merges], numbers


def characters() -> list[str]:
    """Every character that this Python knows. Its Unicode may be older than the reference's, never newer."""
    codes = (code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    return [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"]


def random_texts(count: int, length: int, seed: int) -> list[str]:
    """Texts of any characters, mixed with common ones, so that letters, numbers, signs and blanks meet."""
    chance, known = random.Random(seed), characters()
    common = [*" \n\t'sdtrevml.,!?-019azAZéß日本١½\u00a0\u3000\u0301\u200d", "'ll", "'re"]
    return ["".join(chance.choice(chance.choice([known, common])) for _ in range(length)) for _ in range(count)]


@pytest.fixture(scope="module")
def play():
    """On Shakespeare: our merges, the reference, its merges and vocabulary."""
    text = shakespeare("train").text
    return ch03.train_bpe(text, MERGES), *reference(text, 256 + MERGES)


def test_the_merges_are_the_same_in_the_same_order(play):
    ours, _, theirs, _ = play
    assert len(theirs) == MERGES
    assert ours == theirs


def test_the_vocabulary_is_the_same(play):
    ours, _, _, numbers = play
    assert ch03.vocabulary(ours) == numbers


def test_encodings_are_the_same(play):
    ours, trained, _, numbers = play
    vocabulary = ch03.vocabulary(ours)
    for text in [shakespeare("validation").text, *HARD, *random_texts(200, 60, seed=0)]:
        tokens = ch03.encode(text, ours)
        assert [vocabulary[token] for token in tokens] == trained.encode(text).ids, ascii(text[:200])
        assert ch03.decode(tokens) == text
        assert set(tokens) <= set(numbers)


@pytest.mark.parametrize("seed", range(5))
def test_merges_learned_from_any_characters_are_the_same(seed):
    """Small counts, so many ties; characters of several bytes; runs of one letter, where pairs overlap."""
    texts = random_texts(30, 40, seed)
    text = " ".join(texts[:15]) + "".join(random.Random(seed).choices("aab '\né日", k=3000))
    trained, theirs, numbers = reference(text, 700)
    ours = ch03.train_bpe(text, len(theirs))
    assert ours == theirs
    vocabulary = ch03.vocabulary(ours)
    assert vocabulary == numbers
    for new in texts[15:]:
        assert [vocabulary[token] for token in ch03.encode(new, ours)] == trained.encode(new).ids


def test_another_way_to_cut_is_honoured(play):
    ours = play[0]
    whole = ch03.encode("to be or not", ours, split=lambda text: [text])
    assert ch03.decode(whole) == "to be or not"
    assert ch03.encode("tobe", ours, split=list) == [b"t", b"o", b"b", b"e"]


def test_the_order_of_the_merges_matters(play):
    """So that a tokenizer with the right merges in a wrong order cannot pass for right."""
    ours, text = play[0], shakespeare("validation").text[:20_000]
    assert ch03.encode(text, ours[::-1]) != ch03.encode(text, ours)
    assert ch03.vocabulary(ours[::-1]) != ch03.vocabulary(ours)


def test_training_stops_when_nothing_is_left_to_merge():
    assert ch03.train_bpe("ab", 10) == [(b"a", b"b")]
    assert ch03.train_bpe("", 10) == []


def test_merging_goes_from_left_to_right():
    assert ch03.merge([b"a"] * 3, (b"a", b"a")) == [b"aa", b"a"]
    assert all(pair != (b"a", b"b") for pair in pairwise(ch03.merge([b"a", b"b"] * 3, (b"a", b"b"))))

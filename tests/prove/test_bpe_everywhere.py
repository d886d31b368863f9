"""The tokenizer of section 3.2 cuts texts as the reference does: tried on every character that there is."""

from lbdl.chapters import ch03
from tests.test_bpe import characters, raw, tokenizers


def test_every_character_is_cut_as_the_reference_does():
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    known = characters()
    for some in (known[k : k + 1000] for k in range(0, len(known), 1000)):
        text = "".join(f"a{c}1 {c}!{c}{c}'s " for c in some)
        theirs = [raw(piece) for piece, _ in cut.pre_tokenize_str(text)]
        assert [piece.encode() for piece in ch03.pieces(text)] == theirs

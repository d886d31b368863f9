"""The shipped data are what their descriptions say, and damage is found before it is used."""

import csv
import functools
import hashlib
import inspect
import io
import itertools
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lbdl import data

OFFLINE = Path(__file__).parent / "offline"
MANIFEST = json.loads((data.FOLDER / "manifest.json").read_text())
README = (data.FOLDER / "README.md").read_text(encoding="utf-8")
PHOTOGRAPHS = [file for file in MANIFEST if file.startswith("photographs/")]

SPLITS = {
    data.mnist: ("train", "test"),
    data.fashion_mnist: ("train", "test"),
    data.photographs: ("train", "validation", "test", "all"),
    data.emoji: ("train", "test", "all"),
    data.shakespeare: ("train", "validation"),
    data.speech: ("train", "validation", "test", "human"),
    data.molecules: ("train", "validation", "test", "all"),
    data.penguins: ("train", "validation", "test", "all"),
}

FILES = {
    data.mnist: ["mnist.npz"],
    data.fashion_mnist: ["fashion_mnist.npz"],
    data.photographs: ["photographs.csv", *PHOTOGRAPHS],
    data.emoji: ["emoji.csv", "emoji.npz"],
    data.shakespeare: ["shakespeare_train.txt.gz", "shakespeare_validation.txt.gz"],
    data.glove: ["glove.npz"],
    data.speech: ["speech.npz", "speech_voices.csv"],
    data.molecules: ["molecules.npz"],
    data.penguins: ["penguins.csv"],
    data.training_costs: ["training_costs.csv"],
    data.public_datasets: ["public_datasets.csv"],
}

TITLES = {
    data.mnist: "MNIST",
    data.fashion_mnist: "Fashion-MNIST",
    data.photographs: "Photographs",
    data.emoji: "Emoji",
    data.shakespeare: "Shakespeare",
    data.glove: "GloVe word vectors",
    data.speech: "Spoken words",
    data.molecules: "Molecules",
    data.penguins: "Palmer penguins",
    data.training_costs: "Training costs of landmark models",
    data.public_datasets: "Public data sets",
}


def every(table):
    """The cases of parametrize: each loader with each of what the table has for it."""
    return [pytest.param(loader, x, id=f"{loader.__name__}-{x}") for loader, xs in table.items() for x in xs]


def each(table):
    return [pytest.param(loader, id=loader.__name__) for loader in table]


loaded = functools.cache(lambda loader, *arguments: loader(*arguments))  # never changed, so read once


def rows_of(file):
    return list(csv.DictReader(io.StringIO((data.FOLDER / file).read_text(encoding="utf-8"))))


def tensors(result):
    return [x for x in result if isinstance(x, torch.Tensor)]


def contents(images):
    """Each image as bytes, to compare by content."""
    return [image.tobytes() for image in (images * 255).round().byte().numpy()]


# MNIST.


@pytest.fixture(scope="module")
def digits():
    return {split: data.mnist(split) for split in ("train", "test")}


@pytest.mark.parametrize("split, count", [("train", 8000), ("test", 2000)])
def test_digits_have_the_shape_type_and_range_that_is_promised(digits, split, count):
    images, labels = digits[split]
    assert images.shape == (count, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.shape == (count,) and labels.dtype == torch.int64


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_digit_is_there_in_about_equal_numbers(digits, split):
    _, labels = digits[split]
    counts = labels.bincount()
    assert len(counts) == len(data.DIGITS) == 10
    assert counts.min() > 0.08 * len(labels) and counts.max() < 0.13 * len(labels)


def test_digits_are_dark_on_a_light_ground_only_when_inverted(digits):
    images, _ = digits["train"]
    assert (images == 0).float().mean() > 0.7  # 0 is paper, and most of a page is paper


def test_the_labels_belong_to_the_images(digits):
    (train, train_labels), (test, test_labels) = digits["train"], digits["test"]
    means = torch.stack([train[train_labels == digit].mean(0).flatten() for digit in range(10)])
    nearest = torch.cdist(test.flatten(1), means).argmin(1)
    assert (nearest == test_labels).float().mean() > 0.75  # by chance: 0.1


def test_no_test_image_is_a_training_image_and_none_is_there_twice(digits):
    everything = torch.cat([digits["train"][0], digits["test"][0]])
    assert len(np.unique((everything * 255).byte().numpy().reshape(10_000, -1), axis=0)) == 10_000


def test_the_train_split_is_the_default():
    assert torch.equal(data.mnist()[1], data.mnist("train")[1])


def test_two_readings_are_equal_and_do_not_share_memory():
    first, second = data.mnist("test")[0], data.mnist("test")[0]
    assert torch.equal(first, second)
    first.zero_()
    assert second.sum() > 0


# Fashion-MNIST.


@pytest.mark.parametrize("split, count", [("train", 5000), ("test", 2000)])
def test_clothes_have_the_shape_type_and_range_that_is_promised(split, count):
    images, labels = loaded(data.fashion_mnist, split)
    assert images.shape == (count, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.shape == (count,) and labels.dtype == torch.int64


@pytest.mark.parametrize("split, count", [("train", 500), ("test", 200)])
def test_there_is_the_same_number_of_each_kind_of_clothes(split, count):
    assert loaded(data.fashion_mnist, split)[1].bincount().tolist() == [count] * len(data.CLOTHES)


def test_the_ground_of_the_clothes_is_zero():
    images, _ = loaded(data.fashion_mnist, "train")
    assert (images[:, 0, :, 0] == 0).float().mean() > 0.85  # the left edge


def test_the_labels_belong_to_the_clothes():
    (train, train_labels), (test, test_labels) = (loaded(data.fashion_mnist, split) for split in ("train", "test"))
    means = torch.stack([train[train_labels == label].mean(0).flatten() for label in range(10)])
    nearest = torch.cdist(test.flatten(1), means).argmin(1)
    assert (nearest == test_labels).float().mean() > 0.6  # by chance: 0.1


@pytest.fixture(scope="module")
def typical():
    """The mean image of each kind of clothes, by name."""
    images, labels = loaded(data.fashion_mnist, "train")
    return {name: images[labels == label, 0].mean(0) for label, name in enumerate(data.CLOTHES)}


def test_the_three_kinds_of_shoes_and_the_bag_are_the_ones_with_an_empty_top(typical):
    by_top = sorted(typical, key=lambda name: typical[name][:7].mean())
    assert set(by_top[:4]) == {"sandal", "sneaker", "ankle boot", "bag"}


def test_trousers_are_the_narrowest_and_a_dress_is_the_next(typical):
    by_sides = sorted(typical, key=lambda name: typical[name][:, [*range(7), *range(21, 28)]].mean())
    assert by_sides[:2] == ["trousers", "dress"]


def test_no_clothes_are_in_both_splits_and_none_is_there_twice():
    everything = [c for split in ("train", "test") for c in contents(loaded(data.fashion_mnist, split)[0])]
    assert len(set(everything)) == 7000


# Photographs.


@pytest.mark.parametrize("split, count", [("train", 18), ("validation", 4), ("test", 6), ("all", 28)])
def test_photographs_have_the_shape_type_and_range_that_is_promised(split, count):
    images, names = loaded(data.photographs, split)
    assert images.shape == (count, 3, 512, 512) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert len(names) == len(set(names)) == count


@pytest.mark.parametrize("split", SPLITS[data.photographs])
def test_whole_views_come_first_and_their_details_in_the_same_order(split):
    names = loaded(data.photographs, split).names
    half = len(names) // 2
    assert names[half:] == tuple(f"{name}_detail" for name in names[:half])


def test_no_photograph_is_in_two_splits_and_together_they_are_all():
    parts = [loaded(data.photographs, split) for split in ("train", "validation", "test")]
    assert sorted(n for part in parts for n in part.names) == sorted(loaded(data.photographs, "all").names)
    apart = [c for part in parts for c in contents(part.images)]
    assert sorted(apart) == sorted(contents(loaded(data.photographs, "all").images))
    assert len(set(apart)) == 28


def test_a_split_has_the_pictures_of_its_names():
    everything = loaded(data.photographs, "all")
    by_name = dict(zip(everything.names, contents(everything.images), strict=True))
    part = loaded(data.photographs, "validation")
    assert [by_name[name] for name in part.names] == contents(part.images)


def test_a_detail_has_the_colours_of_the_view_it_is_named_after():
    images = loaded(data.photographs, "all").images
    colours = torch.stack([torch.cat([channel.histc(16, 0, 1) for channel in image]) for image in images])
    nearest = torch.cdist(colours[:14], colours[14:]).argmin(0)
    assert (nearest == torch.arange(14)).float().mean() > 0.5  # by chance: 0.07


def test_the_channels_are_red_green_and_blue():
    images, names = loaded(data.photographs, "all")
    red, _, blue = images[names.index("fig")].mean((1, 2))
    assert red > 2 * blue
    red, _, blue = images[names.index("bridge")].mean((1, 2))  # under a blue sky
    assert blue > 1.3 * red


@pytest.mark.parametrize("row", rows_of("photographs.csv"), ids=lambda row: row["name"])
def test_a_photograph_has_an_author_a_free_licence_and_is_named_with_both_in_the_readme(row):
    assert row["licence"] in ("CC BY 4.0", "CC BY-SA 4.0", "CC BY-SA 3.0", "CC0 1.0")
    assert f"- {row['name']}: {row['author']}, {row['licence']} (" in README


# Emoji.


@functools.cache
def on_grounds(style):
    """Each emoji of a style as it looks on black and on white, from 0 to 1."""
    images = loaded(data.emoji, style).images
    colours, alpha = images[:, :3], images[:, 3:]
    return [(colours * alpha + ground * (1 - alpha)).flatten(1) for ground in (0, 1)]


styles = pytest.mark.parametrize("style", data.EMOJI_STYLES)
pairs = pytest.mark.parametrize("one, other", [*itertools.combinations(data.EMOJI_STYLES, 2)])


@styles
@pytest.mark.parametrize("split, count", [("train", 994), ("test", 100), ("all", 1094)])
def test_emoji_have_the_shape_type_and_range_that_is_promised(style, split, count):
    emoji = loaded(data.emoji, style, split)
    assert emoji.images.shape == (count, 4, 32, 32) and emoji.images.dtype == torch.float32
    assert emoji.images.min() == 0 and emoji.images.max() == 1
    assert [len(told) for told in emoji[1:]] == [count] * 4


@pytest.mark.parametrize("split", SPLITS[data.emoji])
def test_the_same_emoji_are_in_the_same_order_in_every_style(split):
    told = [loaded(data.emoji, style, split)[1:] for style in data.EMOJI_STYLES]
    assert told == [told[0]] * 4


def test_each_style_draws_the_emoji_in_its_own_way():
    first = [c for style in data.EMOJI_STYLES for c in contents(loaded(data.emoji, style).images)]
    assert len(set(first)) == 4 * 1094


@styles
def test_no_emoji_is_in_two_splits_and_together_they_are_all(style):
    train, test, everything = (loaded(data.emoji, style, split) for split in ("train", "test", "all"))
    assert sorted(train.characters + test.characters) == sorted(everything.characters)
    assert sorted(contents(train.images) + contents(test.images)) == sorted(contents(everything.images))
    assert len(set(contents(everything.images))) == len(set(everything.characters)) == len(set(everything.names))


@styles
@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_and_names_of_a_split_belong_together_as_in_all(style, split):
    everything, part = loaded(data.emoji, style, "all"), loaded(data.emoji, style, split)
    by_name = dict(zip(everything.names, contents(everything.images), strict=True))
    assert [by_name[name] for name in part.names] == contents(part.images)


@styles
def test_colour_is_zero_where_nothing_is_seen_and_is_not_multiplied_by_alpha(style):
    images = loaded(data.emoji, style).images
    colours, alpha = images[:, :3], images[:, 3:]
    assert (colours * (alpha == 0)).max() == 0
    assert ((colours > alpha) & (alpha > 0)).any()


@styles
def test_each_emoji_is_cropped_to_what_is_drawn_and_in_the_middle(style):
    drawn = loaded(data.emoji, style).images[:, 3] > 0
    tall, wide = drawn.any(2), drawn.any(1)
    assert (torch.maximum(tall.sum(1), wide.sum(1)) >= 29).all()  # thin ends fade when they are reduced
    for side in (tall, wide):
        before, after = side.int().argmax(1), side.flip(1).int().argmax(1)
        assert (before - after).abs().max() <= 3


@pairs
def test_the_same_emoji_in_two_styles_is_nearer_than_another_one(one, other):
    between = torch.cdist(on_grounds(one)[1], on_grounds(other)[1])
    same = between.diagonal()
    assert same.mean() < 0.9 * between.mean()  # were the order wrong: 1.0
    assert (same[:, None] > between).float().mean() < 0.25  # 0.5


@styles
def test_no_two_emoji_of_a_style_are_nearly_the_same(style):
    black, white = (torch.cdist(x, x) / x.shape[1] ** 0.5 for x in on_grounds(style))
    assert torch.maximum(black, white).fill_diagonal_(1).min() > 0.08 - 1e-5


@pairs
def test_no_emoji_is_drawn_nearly_the_same_in_two_styles(one, other):
    apart = zip(on_grounds(one), on_grounds(other), strict=True)
    black, white = ((x - y).square().mean(1).sqrt() for x, y in apart)
    assert torch.maximum(black, white).min() > 0.13 - 1e-5


def test_there_are_neither_people_nor_flags():
    emoji = loaded(data.emoji)
    assert not {"People & Body", "Flags", "Component"} & set(emoji.groups)
    assert len(set(emoji.groups)) == 7
    codes = {ord(letter) for character in emoji.characters for letter in character}
    assert not codes & set(range(0x1F1E6, 0x1F200))  # the letters that flags are made of
    assert not codes & {*range(0x1F3FB, 0x1F400), 0x1F468, 0x1F469, 0x1F9D1}  # colours of skin; man, woman, person


def test_each_emoji_has_keywords_that_belong_to_its_name():
    emoji = loaded(data.emoji)
    assert all(word for keywords in emoji.keywords for word in keywords)
    shared = [
        bool(set(re.findall(r"\w+", name)) & set(" ".join(words).split()))
        for name, words in zip(emoji.names, emoji.keywords, strict=True)
    ]
    assert np.mean(shared) > 0.95


@pytest.mark.parametrize(
    "character, name, group",
    [
        ("😀", "grinning face", "Smileys & Emotion"),
        ("🐴", "horse face", "Animals & Nature"),
        ("🍋", "lemon", "Food & Drink"),
    ],
)
def test_known_emoji_have_their_names_and_groups(character, name, group):
    emoji = loaded(data.emoji)
    i = emoji.characters.index(character)
    assert (emoji.names[i], emoji.groups[i]) == (name, group)


@styles
def test_a_lemon_is_yellow_and_a_tree_is_green(style):
    emoji = loaded(data.emoji, style)
    colours = {name: emoji.images[emoji.names.index(name)] for name in ("lemon", "deciduous tree")}
    (red, green, blue), (tree_red, tree_green, tree_blue) = (
        image[:3, image[3] > 0.5].mean(1) for image in colours.values()
    )
    assert red > 1.5 * blue and green > 1.5 * blue
    assert tree_green > tree_red and tree_green > tree_blue


# Shakespeare.


@pytest.mark.parametrize("split, count", [("train", 991_248), ("validation", 109_139)])
def test_the_text_is_as_long_as_promised_and_its_codes_are_places_in_the_characters(split, count):
    text, codes, characters = loaded(data.shakespeare, split)
    assert len(text) == count and codes.shape == (count,) and codes.dtype == torch.int64
    assert text == "".join(characters[code] for code in codes.tolist())


@pytest.mark.parametrize("split", SPLITS[data.shakespeare])
def test_the_text_is_pure_ascii(split):
    assert loaded(data.shakespeare, split).text.isascii()


def test_the_characters_are_sorted_are_the_same_in_both_splits_and_all_are_used():
    train, validation = (loaded(data.shakespeare, split) for split in SPLITS[data.shakespeare])
    assert train.characters == validation.characters == "".join(sorted(set(train.text + validation.text)))
    assert len(train.characters) == 79


def test_no_longer_speech_of_the_validation_text_is_in_the_training_text():
    train, validation = (loaded(data.shakespeare, split).text for split in SPLITS[data.shakespeare])
    speeches = [speech for speech in validation.split("\n\n") if len(speech) > 100]
    assert len(speeches) > 300
    assert not [speech for speech in speeches if speech in train]


def test_there_are_nine_plays_each_from_its_first_act_on():
    text = loaded(data.shakespeare, "train").text
    assert text.startswith("ACT I.")
    assert len(re.findall(r"^A(?:CT|ct) (?:I|1)\b", text, re.MULTILINE)) == 9


@pytest.mark.parametrize(
    "speaker", ["ROSALIND", "BRUTUS", "MACBETH", "SHYLOCK", "BENEDICK", "OTHELLO", "PROSPERO", "MALVOLIO", "LEONTES"]
)
def test_a_speaker_of_each_play_is_named_in_full_on_a_line_of_their_own(speaker):
    text = loaded(data.shakespeare, "train").text
    assert len(re.findall(rf"^{speaker}\.?$", text, re.MULTILINE | re.IGNORECASE)) > 50


def test_no_line_ends_with_a_space_and_no_bracket_is_misprinted():
    text = "".join(loaded(data.shakespeare, split).text for split in SPLITS[data.shakespeare])
    assert " \n" not in text and not set("{}\r\t") & set(text)


def test_the_validation_text_is_about_a_tenth():
    train, validation = (len(loaded(data.shakespeare, split).text) for split in SPLITS[data.shakespeare])
    assert 0.095 < validation / (train + validation) < 0.1


# GloVe.


def test_word_vectors_have_the_shape_and_type_that_is_promised():
    words, vectors = loaded(data.glove)
    assert vectors.shape == (20_000, 50) and vectors.dtype == torch.float32
    assert len(words) == len(set(words)) == 20_000
    assert vectors.isfinite().all() and 0.5 < vectors.std() < 1


def test_words_are_in_lower_case_and_none_is_empty():
    words = loaded(data.glove).words
    assert all(word and word == word.lower() and not re.search(r"\s", word) for word in words)


def test_the_most_frequent_word_comes_first():
    words = loaded(data.glove).words
    assert words[:3] == ("the", ",", ".")
    assert words.index("house") < words.index("cottage") < words.index("sewage")


def test_the_vectors_hold_no_more_than_half_precision():
    vectors = loaded(data.glove).vectors
    assert torch.equal(vectors, vectors.half().float())


@pytest.mark.parametrize(
    "word, expected",
    [
        ("king", {"prince", "queen", "emperor", "throne"}),
        ("france", {"french", "belgium", "paris", "spain"}),
        ("monday", {"tuesday", "wednesday", "thursday", "friday"}),
    ],
)
def test_the_nearest_words_are_plausible(word, expected):
    words, vectors = loaded(data.glove)
    cosines = torch.cosine_similarity(vectors, vectors[words.index(word)], dim=1)
    nearest = [words[i] for i in cosines.topk(10).indices]
    assert nearest[0] == word
    assert expected <= set(nearest)


# Spoken words.


def waves(split):
    """Each recording of a split, without the padding."""
    speech = loaded(data.speech, split)
    return [wave[:length] for wave, length in zip(speech.waves, speech.lengths, strict=True)]


@functools.cache
def spectra(split):
    """Each recording as 24 moments by 20 bands of its logarithmic spectrum."""
    speech = loaded(data.speech, split)
    short = torch.stft(speech.waves, 256, 64, window=torch.hann_window(256), center=False, return_complex=True)
    bands = (short.abs()[:, 4:124].unflatten(1, (20, 6)).mean(2) + 0.01).log()
    moments = [bands[i, :, : (length - 256) // 64 + 1] for i, length in enumerate(speech.lengths.tolist())]
    same = torch.stack([torch.nn.functional.interpolate(m[None], 24, mode="linear")[0] for m in moments])
    return (same - same.mean((1, 2), keepdim=True)).flatten(1)


@pytest.mark.parametrize("split, voices", [("train", 27), ("validation", 4), ("test", 5), ("human", 1)])
def test_recordings_have_the_shape_type_and_range_that_is_promised(split, voices):
    speech, count = loaded(data.speech, split), 54 * voices
    assert speech.waves.shape == (count, speech.lengths.max()) and speech.waves.dtype == torch.float32
    assert speech.waves.min() < -0.1 and speech.waves.max() > 0.1 and speech.waves.abs().max() <= 1
    for numbers in (speech.lengths, speech.words, speech.voices):
        assert numbers.shape == (count,) and numbers.dtype == torch.int64


@pytest.mark.parametrize("split", SPLITS[data.speech])
def test_every_voice_says_every_word_once(split):
    speech = loaded(data.speech, split)
    said = set(zip(speech.voices.tolist(), speech.words.tolist(), strict=True))
    assert said == set(itertools.product(speech.voices.unique().tolist(), range(54)))
    assert len(said) == len(speech.words)


@pytest.mark.parametrize("split", SPLITS[data.speech])
def test_vocabulary_and_speakers_are_those_of_all_splits(split):
    speech = loaded(data.speech, split)
    assert len(set(speech.vocabulary)) == 54 and {"seven", "monday", "november", "zulu"} <= set(speech.vocabulary)
    assert speech.speakers == tuple(row["name"] for row in rows_of("speech_voices.csv"))
    assert len(set(speech.speakers)) == 37


@pytest.mark.parametrize("split", SPLITS[data.speech])
def test_after_its_length_a_wave_is_zero_and_before_it_is_not(split):
    speech = loaded(data.speech, split)
    after = torch.arange(speech.waves.shape[1]) >= speech.lengths[:, None]
    assert (speech.waves * after == 0).all()
    ends = speech.waves.gather(1, speech.lengths[:, None] - 1 - torch.arange(240))  # 30 ms
    assert (ends != 0).any(1).all()


@pytest.mark.parametrize("split", SPLITS[data.speech])
def test_a_word_is_between_a_fifth_of_a_second_and_a_second_and_a_half_long(split):
    seconds = loaded(data.speech, split).lengths / data.SAMPLE_RATE
    assert seconds.min() > 0.2 and seconds.max() < 1.5


@pytest.mark.parametrize("split", SPLITS[data.speech])
def test_all_recordings_are_equally_loud(split):
    loudness = torch.stack([wave.square().mean().sqrt() for wave in waves(split)])
    assert (loudness / (1000 / 32768) - 1).abs().max() < 0.01


def test_no_two_recordings_are_equal():
    said = [wave.numpy().tobytes() for split in SPLITS[data.speech] for wave in waves(split)]
    assert len(said) == len(set(said)) == 1998


def test_no_voice_is_in_two_splits_and_together_they_are_all():
    voices = [set(loaded(data.speech, split).voices.tolist()) for split in SPLITS[data.speech]]
    assert sum(map(len, voices)) == len(set.union(*voices)) == 37


def test_no_variant_of_a_voice_is_in_two_splits():
    splits = {}
    for row in rows_of("speech_voices.csv"):
        splits.setdefault(re.sub(r"-\w+$|\d+$", "", row["name"]), set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) < 37  # some do share a stem


def test_the_human_voice_is_alone_in_its_split():
    rows = rows_of("speech_voices.csv")
    assert [row["name"] for row in rows if row["split"] == "human"] == ["Allison"]
    assert [row["name"] for row in rows if row["engine"] == "human"] == ["Allison"]
    speech = loaded(data.speech, "human")
    assert {speech.speakers[voice] for voice in speech.voices} == {"Allison"}


@pytest.mark.parametrize("split, share", [("validation", 0.8), ("test", 0.7), ("human", 0.35)])
def test_the_word_of_a_recording_is_that_of_the_nearest_one_in_training(split, share):
    nearest = torch.cdist(spectra(split), spectra("train")).argmin(1)
    words = loaded(data.speech, "train").words[nearest]
    assert (words == loaded(data.speech, split).words).float().mean() > share  # by chance: 0.02


@pytest.mark.parametrize(
    "code, value",
    [
        (0xFF, 0), (0xFE, 2), (0xEF, 33), (0xDF, 99), (0xCF, 231), (0xBF, 495), (0xAF, 1023), (0x9F, 2079),
        (0x8F, 4191), (0x80, 8031), (0x7F, 0), (0x7E, -2), (0x0F, -4191), (0x00, -8031),
    ],
)  # fmt: skip
def test_mu_law_codes_stand_for_the_values_of_the_standard(code, value):
    assert data.MU_LAW[code] == np.float32(value / 8192)


def test_mu_law_rises_from_the_least_code_to_zero_and_from_zero_to_the_greatest():
    assert data.MU_LAW.shape == (256,) and data.MU_LAW.dtype == np.float32
    assert (np.diff(data.MU_LAW[:128]) > 0).all()
    assert (np.diff(data.MU_LAW[128:]) < 0).all()
    assert (data.MU_LAW[:128] == -data.MU_LAW[128:]).all()


# Molecules.

ATOM = re.compile(r"\[[^]]*\]|Cl|Br|[BCNOPSFIbcnops]")  # an atom in SMILES: in brackets, or a common element


def symbol(atom):
    return re.match(r"\[?\d*(Cl|Br|Cu|Co|As|Hg|[A-Z]|[a-z])", atom)[1].capitalize()


@pytest.mark.parametrize("split, count", [("train", 3792), ("validation", 500), ("test", 500), ("all", 4792)])
def test_molecules_have_the_shapes_and_types_that_are_promised(split, count):
    graphs = loaded(data.molecules, split)
    atoms, bonds = len(graphs.molecule), len(graphs.bond_types)
    assert [tuple(x.shape) for x in tensors(graphs)] == [(atoms, 3), (bonds, 2), (bonds,), (atoms,), (count,)]
    assert [x.dtype for x in tensors(graphs)] == [torch.int64] * 4 + [torch.float32]
    assert len(graphs.smiles) == count


@pytest.mark.parametrize("split", SPLITS[data.molecules])
def test_atoms_bonds_and_areas_are_in_their_ranges(split):
    graphs = loaded(data.molecules, split)
    elements, hydrogens, charges = graphs.atoms.T
    assert elements.min() == 0 and elements.max() == len(graphs.elements) - 1 == 12
    assert hydrogens.min() == 0 and hydrogens.max() <= 4
    assert charges.min() == -1 and charges.max() <= 3
    assert graphs.bonds.min() == 0 and graphs.bonds.max() == len(graphs.atoms) - 1
    assert graphs.bond_types.unique().tolist() == list(range(len(data.BONDS)))
    assert graphs.area.min() == 0 and graphs.area.max() < 1000


@pytest.mark.parametrize("split", SPLITS[data.molecules])
def test_atoms_are_those_of_the_smiles(split):
    graphs = loaded(data.molecules, split)
    atoms = [[] for _ in graphs.smiles]
    for molecule, element in zip(graphs.molecule.tolist(), graphs.atoms[:, 0].tolist(), strict=True):
        atoms[molecule].append(graphs.elements[element])
    written = [[symbol(atom) for atom in ATOM.findall(smiles)] for smiles in graphs.smiles]
    assert [len(found) for found in atoms] == [len(found) for found in written]
    assert list(map(Counter, atoms)) == list(map(Counter, written))


@pytest.mark.parametrize("split", SPLITS[data.molecules])
def test_a_molecule_has_as_many_bonds_as_its_smiles_has_links_and_rings(split):
    graphs = loaded(data.molecules, split)
    bonds = graphs.molecule[graphs.bonds[:, 0]].bincount(minlength=len(graphs.smiles))
    expected = []
    for smiles in graphs.smiles:
        rings = len(re.findall(r"%\d\d|\d", re.sub(r"\[[^]]*\]", "", smiles))) // 2
        expected.append(len(ATOM.findall(smiles)) - 1 - smiles.count(".") + rings)
    assert bonds.tolist() == expected


@pytest.mark.parametrize("split", SPLITS[data.molecules])
def test_bonds_stay_within_a_molecule_join_two_atoms_and_are_there_once(split):
    graphs = loaded(data.molecules, split)
    first, second = graphs.bonds.T
    assert torch.equal(graphs.molecule[first], graphs.molecule[second])
    assert (first != second).all()
    assert len(graphs.bonds.sort(1).values.unique(dim=0)) == len(graphs.bonds)


@pytest.mark.parametrize("split", SPLITS[data.molecules])
def test_atoms_are_sorted_by_molecule_and_none_is_without(split):
    molecule = loaded(data.molecules, split).molecule
    assert (molecule.diff() >= 0).all()
    assert molecule.unique().tolist() == list(range(len(loaded(data.molecules, split).smiles)))


def test_charges_are_those_of_the_smiles():
    graphs = loaded(data.molecules, "all")
    charges = torch.zeros(len(graphs.smiles), dtype=torch.int64).index_add_(0, graphs.molecule, graphs.atoms[:, 2])
    written = [
        sum(int(sign + (number or "1")) for sign, number in re.findall(r"([+-])(\d?)\]", smiles))
        for smiles in graphs.smiles
    ]
    assert charges.tolist() == written


def test_a_carbon_atom_outside_aromatic_rings_has_four_bonds():
    graphs = loaded(data.molecules, "all")
    orders = torch.zeros(len(graphs.atoms), dtype=torch.int64)
    aromatic = torch.zeros(len(graphs.atoms), dtype=torch.bool)
    for ends in graphs.bonds.T:
        orders.index_add_(0, ends, graphs.bond_types + 1)
        aromatic[ends[graphs.bond_types == data.BONDS.index("aromatic")]] = True
    carbon = (graphs.atoms[:, 0] == graphs.elements.index("C")) & (graphs.atoms[:, 2] == 0) & ~aromatic
    assert carbon.sum() > 20_000
    assert (orders + graphs.atoms[:, 1])[carbon].unique().tolist() == [4]


def test_elements_are_sorted_by_how_many_molecules_hold_them_and_none_is_rare():
    graphs = loaded(data.molecules, "all")
    pairs = torch.stack([graphs.molecule, graphs.atoms[:, 0]], 1).unique(dim=0)
    counts = pairs[:, 1].bincount()
    assert graphs.elements[:3] == ("C", "O", "N")
    assert (counts.diff() <= 0).all() and counts.min() >= 20


@pytest.mark.parametrize("split", SPLITS[data.molecules])
def test_the_polar_area_goes_with_the_number_of_nitrogen_and_oxygen_atoms(split):
    graphs = loaded(data.molecules, split)
    polar = torch.isin(graphs.atoms[:, 0], torch.tensor([graphs.elements.index(e) for e in "NO"])).float()
    counts = torch.zeros(len(graphs.area)).index_add_(0, graphs.molecule, polar)
    assert torch.corrcoef(torch.stack([counts, graphs.area]))[0, 1] > 0.9  # were the order wrong: 0
    assert graphs.area[counts == 0].max() == 0


def test_no_molecule_is_in_two_splits_and_together_they_are_all():
    parts = [loaded(data.molecules, split) for split in ("train", "validation", "test")]
    everything = loaded(data.molecules, "all")
    assert sum((part.smiles for part in parts), ()) == everything.smiles
    assert len(set(everything.smiles)) == 4792
    assert torch.equal(torch.cat([part.area for part in parts]), everything.area)
    assert torch.equal(torch.cat([part.atoms for part in parts]), everything.atoms)
    assert torch.equal(torch.cat([part.bond_types for part in parts]), everything.bond_types)


# Penguins.


@pytest.mark.parametrize("split, count", [("train", 202), ("validation", 70), ("test", 70), ("all", 342)])
def test_penguins_have_the_shape_and_type_that_is_promised(split, count):
    penguins = data.penguins(split)
    assert penguins.measured.shape == (count, len(data.MEASUREMENTS)) and penguins.measured.dtype == torch.float32
    assert penguins.species.shape == (count,) and penguins.species.dtype == torch.int64


def test_the_columns_are_bill_length_bill_depth_flipper_length_and_body_mass():
    measured, _ = data.penguins()
    low, high = measured.min(0).values, measured.max(0).values
    for column, (name, least, most) in enumerate(
        [("bill length", 30, 60), ("bill depth", 13, 22), ("flipper length", 170, 235), ("body mass", 2500, 6500)]
    ):
        assert data.MEASUREMENTS[column] == name
        assert least < low[column] < high[column] < most


def test_every_split_has_every_species_and_gentoo_is_the_heavy_one():
    for split in ("train", "validation", "test"):
        measured, species = data.penguins(split)
        assert species.unique().tolist() == [0, 1, 2]
        mass = [measured[species == i, 3].mean().item() for i in range(3)]
        assert data.PENGUINS[int(np.argmax(mass))] == "Gentoo"


def test_the_three_splits_together_are_all_penguins():
    everyone = [tuple(row) for row in data.penguins("all").measured.tolist()]
    parts = [[tuple(row) for row in data.penguins(s).measured.tolist()] for s in ("train", "validation", "test")]
    assert sorted(everyone) == sorted(row for part in parts for row in part)
    assert len(set(everyone)) == 342  # no two are alike, so that none is in two splits


# Training costs.

NUMBER = r"\d+(?:\.\d+)?(?:e\d+)?"
COSTS = rows_of("training_costs.csv")
UNITS = {"%": 1e-2, "TFLOPS": 1e12, "days": 86400}


def product(text):
    """What the numbers between " x " in a text multiply to, the first one in each part."""
    return math.prod(float(re.search(NUMBER, part)[0]) for part in text.split(" x "))


def arithmetic(row):
    """The (product, result) that the basis of a row spells out; None where it states only a result."""
    text = re.sub(r"\([^)]*\)", "", row["basis"])
    if " = " not in text or "%" in text:
        return None
    left, right = text.split(" = ")
    return product(re.split(r"[;:] ", left)[-1]), float(re.match(NUMBER, right)[0])


def by_model(rows):
    return pytest.mark.parametrize("row", rows, ids=[row["model"] for row in rows])


def test_costs_have_the_shapes_and_types_that_are_promised():
    costs = loaded(data.training_costs)
    assert {x.dtype for x in tensors(costs)} == {torch.float32} and [len(x) for x in costs] == [31] * 6
    assert set(costs.domains) == {"vision", "language", "other"}
    assert len(set(costs.models)) == 31
    assert costs.parameters.min() > 1e4 and costs.parameters.max() < 1e13
    assert costs.flop.min() > 1e12 and costs.flop.max() < 1e26


def test_years_are_sorted_and_have_the_month_as_a_fraction():
    years = loaded(data.training_costs).years
    assert (years.diff() >= 0).all() and 1998 < years[0] < 1999 and 2024 < years[-1] < 2025
    months = [int(row["date"][5:]) for row in COSTS]
    assert ((years % 1) * 12 + 0.5).round().tolist() == months


def test_costs_grow_with_the_years():
    costs = loaded(data.training_costs)
    assert torch.corrcoef(torch.stack([costs.years, costs.flop.log()]))[0, 1] > 0.8


def test_the_loader_gives_the_rows_of_the_file_in_their_order():
    costs = loaded(data.training_costs)
    assert list(costs.models) == [row["model"] for row in COSTS]
    assert costs.flop.tolist() == pytest.approx([float(row["flop"]) for row in COSTS])
    assert costs.parameters.tolist() == pytest.approx([float(row["parameters"]) for row in COSTS])


@by_model(COSTS)
def test_a_cost_has_a_citation_with_a_year_a_basis_and_a_known_method(row):
    citation = loaded(data.training_costs).citations[COSTS.index(row)]
    assert citation == f"{row['citation']}. {row['basis']}"
    assert re.match(r"[^,]+, .*\b(19|20)\d\d, ", row["citation"])
    assert len(row["basis"]) > 30
    assert row["method"] in ("stated", "6ND", "operations", "hardware")
    assert row["year"] == row["date"][:4]


@by_model([row for row in COSTS if row["method"] != "stated"])
def test_a_cost_that_is_computed_shows_its_arithmetic(row):
    assert arithmetic(row)


@by_model([row for row in COSTS if arithmetic(row)])
def test_the_arithmetic_of_a_cost_gives_the_result_it_shows(row):
    expected, shown = arithmetic(row)
    assert shown == pytest.approx(expected, rel=0.005)


@by_model([row for row in COSTS if arithmetic(row)])
def test_a_cost_is_the_result_of_its_arithmetic_to_the_digits_given(row):
    digits = len(row["flop"].split("e")[0].replace(".", ""))
    assert float(row["flop"]) == float(f"{arithmetic(row)[0]:.{digits - 1}e}")


@by_model([row for row in COSTS if ", from " in row["basis"]])
def test_a_stated_cost_agrees_with_the_product_it_is_stated_to_be_from(row):
    stated = re.sub(r"\([^)]*\)", "", row["basis"]).split(", from ")[1]
    assert float(row["flop"]) == pytest.approx(product(stated), rel=0.02)


def test_lamda_cost_agrees_with_the_hardware_hours_that_are_stated():
    (row,) = (row for row in COSTS if row["model"] == "LaMDA")
    assert "56.5% x 123 TFLOPS/s x 1024 TPUv3 chips x 57.7 days" in row["basis"]
    assert float(row["flop"]) == pytest.approx(0.565 * 123e12 * 1024 * 57.7 * 86400, rel=0.02)


@by_model([row for row in COSTS if row["method"] == "6ND"])
def test_a_cost_of_6nd_begins_with_six_times_the_parameters(row):
    parameters = float(re.match(rf"6 x ({NUMBER}) parameters", row["basis"])[1])
    active = "active per token" in row["basis"]  # a mixture of experts, of which the table has all
    assert parameters < float(row["parameters"]) if active else parameters == float(row["parameters"])


@by_model([row for row in COSTS if row["method"] == "stated" and " = " not in row["basis"]])
def test_a_stated_cost_is_in_its_basis(row):
    numbers = [float(found) for found in re.findall(NUMBER, row["basis"])]
    assert float(row["flop"]) in numbers


# Public data sets.


def test_there_are_the_six_rows_of_the_books_table():
    table = [(d.name, d.year, d.samples_in_the_book, d.unit) for d in data.public_datasets()]
    assert table == [
        ("ImageNet", 2012, "1.2M", "images"),
        ("Cityscapes", 2016, "25K", "images"),
        ("LAION-5B", 2022, "5.8B", "images"),
        ("WMT-18-de-en", 2018, "14M", "books"),
        ("The Pile", 2020, "1.6B", "books"),
        ("OSCAR", 2020, "12B", "books"),
    ]


@pytest.mark.parametrize("row", data.public_datasets(), ids=lambda row: row.name)
def test_samples_of_images_are_as_in_the_book_and_those_of_books_a_thousand_times_fewer(row):
    number, unit = float(row.samples_in_the_book[:-1]), row.samples_in_the_book[-1]
    printed = number * {"K": 1e3, "M": 1e6, "B": 1e9}[unit]
    if row.unit == "images":
        assert row.samples == printed
    else:
        assert 850 < printed / row.samples < 1050


@pytest.mark.parametrize("row", [r for r in data.public_datasets() if r.unit == "books"], ids=lambda row: row.name)
def test_a_book_is_half_a_million_bytes(row):
    assert row.samples == pytest.approx(row.size / 500_000, rel=0.05)


@pytest.mark.parametrize("row", data.public_datasets(), ids=lambda row: row.name)
def test_a_public_data_set_has_a_citation_with_a_year_and_numbers(row):
    assert re.match(r".+, (19|20)\d\d, [A-Z]", row.citation)
    assert isinstance(row.year, int) and isinstance(row.samples, float) and isinstance(row.size, float)
    assert row.size > 1e9


# What data/README.md says.


def section(loader):
    """The part of data/README.md on a data set."""
    return README.split(f"\n## {TITLES[loader]}\n")[1].split("\n## ")[0]


def numbers(loader, line):
    """The numbers in a line of a section, such as "counts"."""
    (text,) = re.findall(rf"^- {line}: (.*)$", section(loader), re.MULTILINE)
    return [float(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]


def test_every_section_of_the_readme_is_of_a_known_data_set():
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [*TITLES.values(), "book.yaml"]


@pytest.mark.parametrize("loader", each(FILES))
def test_a_section_names_its_loader(loader):
    assert f"\n- load: `lbdl.data.{loader.__name__}()`\n" in section(loader)


@pytest.mark.parametrize("loader, file", every({**FILES, data.photographs: ["photographs.csv"]}))
def test_a_section_names_its_files_with_the_size_and_the_sum_of_the_manifest(loader, file):
    known = MANIFEST[file]
    assert f"- `{file}`: {known['bytes']:,} bytes, SHA-256 `{known['sha256']}`" in section(loader)


def test_the_readme_names_only_files_that_are_in_the_manifest():
    named = re.findall(r"^- `(\S+)`: [\d,]+ bytes, SHA-256", README, re.MULTILINE)
    assert sorted(named + PHOTOGRAPHS) == sorted(MANIFEST)


def test_the_readme_counts_the_photographs_files_and_their_bytes():
    size = sum(MANIFEST[file]["bytes"] for file in PHOTOGRAPHS)
    assert f"- {len(PHOTOGRAPHS)} JPEG files in `photographs/`, {size:,} bytes;" in section(data.photographs)
    there = [f"photographs/{path.name}" for path in (data.FOLDER / "photographs").iterdir()]
    assert sorted(there) == sorted(PHOTOGRAPHS)


@pytest.mark.parametrize("file", MANIFEST)
def test_a_file_has_the_size_and_the_sum_of_the_manifest(file):
    content = (data.FOLDER / file).read_bytes()
    assert MANIFEST[file] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_readme_gives_the_number_and_total_size_of_the_files():
    total = sum(known["bytes"] for known in MANIFEST.values())
    assert f"\n{len(MANIFEST)} files, {total / 1e6:.1f} MB, " in README


def test_the_whole_folder_is_at_most_25_megabytes():
    files = [path for path in data.FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 25e6


def test_every_licence_text_is_there_and_named():
    named = set(re.findall(r"\(licences/(\S+?)\)", README))
    assert named == {path.name for path in (data.FOLDER / "licences").iterdir()}
    assert all((data.FOLDER / "licences" / name).stat().st_size > 500 for name in named)


@pytest.mark.parametrize("loader", each(FILES))
def test_a_section_says_source_and_licence(loader):
    (source,) = re.findall(r"^- source: (.+)$", section(loader), re.MULTILINE)
    packages = source.split("; ")
    pinned = r"(npm|apt|pip|sdist) package `\S+` \S+, archive SHA-256 `[0-9a-f]{64}`"
    assert source == "written by hand" or all(re.fullmatch(pinned, package) for package in packages)
    assert re.search(r"^- licence and attribution: .{20,}$", section(loader), re.MULTILINE)


def test_digits_are_counted_in_the_readme():
    labels = torch.cat([loaded(data.mnist, split)[1] for split in ("train", "test")])
    counts = labels.bincount()
    assert numbers(data.mnist, "counts") == [len(labels), 70_000, counts.min(), counts.max()]


def test_clothes_are_counted_in_the_readme():
    count = sum(len(loaded(data.fashion_mnist, split)[1]) for split in ("train", "test"))
    assert numbers(data.fashion_mnist, "counts") == [count, 70_000]


def test_photographs_are_counted_in_the_readme():
    names = loaded(data.photographs, "all").names
    assert numbers(data.photographs, "counts") == [len(names) / 2, len(names)]


def test_emoji_are_counted_in_the_readme():
    keywords = loaded(data.emoji).keywords
    kept, drawn, each_has, across, bar_across, within, bar_within = numbers(data.emoji, "counts")[:7]
    assert kept == len(keywords) == drawn - across - within
    assert each_has == round(np.mean([len(words) for words in keywords]), 1)
    assert (bar_across, bar_within) == (0.13, 0.08)


def test_characters_are_counted_in_the_readme():
    train, validation = (loaded(data.shakespeare, split) for split in SPLITS[data.shakespeare])
    expected = [len(train.text), len(validation.text), len(train.characters)]
    assert numbers(data.shakespeare, "counts") == expected


def test_words_are_counted_in_the_readme():
    assert numbers(data.glove, "counts") == [len(loaded(data.glove).words), 400_000]


def test_recordings_are_counted_in_the_readme():
    lengths = torch.cat([loaded(data.speech, split).lengths for split in SPLITS[data.speech]])
    speech = loaded(data.speech, "human")
    minutes = round(lengths.sum().item() / data.SAMPLE_RATE / 60)
    expected = [len(speech.vocabulary), len(speech.speakers) - 1, 1, len(lengths), minutes]
    assert numbers(data.speech, "counts") == expected


def test_molecules_are_counted_in_the_readme():
    graphs = loaded(data.molecules, "all")
    used, _, *rest = numbers(data.molecules, "counts")
    assert used == len(graphs.smiles)
    assert rest == [len(graphs.atoms), len(graphs.elements), len(graphs.bonds)]


def test_penguins_are_counted_in_the_readme():
    count = len(data.penguins("all").species)
    assert numbers(data.penguins, "counts") == [count, len(data.PENGUINS), count + 2, 2]


def test_rows_of_the_tables_of_facts_are_counted_in_the_readme():
    years = loaded(data.training_costs).years.int()
    assert numbers(data.training_costs, "counts") == [len(years), years.min(), years.max()]
    assert numbers(data.public_datasets, "counts") == [len(data.public_datasets())]


@pytest.mark.parametrize(
    "loader, count",
    [
        (data.mnist, lambda x: len(x[1])),
        (data.fashion_mnist, lambda x: len(x[1])),
        (data.photographs, lambda x: len(x.names) // 2),
        (data.emoji, lambda x: len(x.names)),
        (data.speech, lambda x: len(x.voices.unique())),
        (data.molecules, lambda x: len(x.smiles)),
        (data.penguins, lambda x: len(x.species)),
    ],
)
def test_the_sizes_of_the_splits_are_in_the_readme(loader, count):
    splits = [split for split in SPLITS[loader] if split not in ("all", "human")]
    parts = [loaded(loader, *(("twemoji",) if loader is data.emoji else ()), split) for split in splits]
    assert numbers(loader, "split")[: len(splits)] == [count(part) for part in parts]


# All loaders.


def calls(loader):
    """All arguments that a loader takes: splits, and of emoji also styles."""
    if loader is data.emoji:
        return list(itertools.product(data.EMOJI_STYLES, SPLITS[loader]))
    return [(split,) for split in SPLITS.get(loader, ())] or [()]


def test_every_loader_is_tested():
    there = {f for f in vars(data).values() if inspect.isfunction(f) and f.__module__ == "lbdl.data"}
    assert {f for f in there if not f.__name__.startswith("_")} - {data.read} == set(FILES) == set(TITLES)
    assert {f for f in there if "split" in inspect.signature(f).parameters and f.__name__[0] != "_"} == set(SPLITS)


def test_each_loader_reads_its_files_and_no_others_and_together_they_are_the_manifest(monkeypatch):
    asked, read = set(), data.read
    monkeypatch.setattr(data, "read", lambda file: asked.add(file) or read(file))
    for loader, files in FILES.items():
        asked.clear()
        for arguments in calls(loader):
            loader(*arguments)
        assert asked == set(files), loader.__name__
    assert {file for files in FILES.values() for file in files} == set(MANIFEST)


@pytest.mark.parametrize(
    "loader, default",
    [
        (data.mnist, ("train",)),
        (data.fashion_mnist, ("train",)),
        (data.photographs, ("all",)),
        (data.emoji, ("twemoji", "all")),
        (data.shakespeare, ("train",)),
        (data.speech, ("train",)),
        (data.molecules, ("train",)),
        (data.penguins, ("all",)),
    ],
)
def test_the_default_is_the_one_that_is_described(loader, default):
    plain, asked = loader(), loaded(loader, *default)
    assert all(map(torch.equal, tensors(plain), tensors(asked)))
    assert [len(x) for x in plain] == [len(x) for x in asked]


@pytest.mark.parametrize("loader", each(f for f in FILES if f is not data.public_datasets))
def test_what_one_reading_changes_the_next_does_not_see(loader):
    for tensor in tensors(loader()):
        tensor.fill_(7)
    assert all((tensor != 7).any() for tensor in tensors(loader()))


@pytest.mark.parametrize("loader", each(f for f in FILES if f is not data.public_datasets))
def test_every_tensor_is_made_on_the_device_that_is_asked_for(loader, monkeypatch):
    made = tensors(loader(device="meta"))
    assert made and {tensor.device.type for tensor in made} == {"meta"}


@pytest.mark.parametrize("loader", each(f for f in FILES if f is not data.public_datasets))
def test_every_tensor_is_on_the_processor_when_nothing_is_asked_for(loader):
    assert {tensor.device.type for tensor in tensors(loader())} == {"cpu"}


def test_everything_loads_where_the_network_is_blocked():
    program = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except PermissionError as error:
    print(error)
from lbdl import data
for split in ("train", "test"):
    data.mnist(split), data.fashion_mnist(split), data.photographs(split), data.molecules(split), data.penguins(split)
for style in data.EMOJI_STYLES:
    data.emoji(style)
data.shakespeare(), data.glove(), data.speech(), data.training_costs()
print(len(data.public_datasets()), len(data._verified))
"""
    environment = os.environ | {"PYTHONPATH": str(OFFLINE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    blocked, loaded = done.stdout.splitlines()
    assert blocked.startswith("the network is blocked")
    assert loaded == f"6 {len(MANIFEST) - 4}"  # all but the two photographs to validate


# Bad input.


@pytest.mark.parametrize("loader", each(SPLITS))
@pytest.mark.parametrize("split", ["Train", "", None, 0, "training"])
def test_an_unknown_split_is_refused_and_the_known_ones_are_named(loader, split):
    expected = f"expected the split to be one of {', '.join(SPLITS[loader])}, got {split!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        loader(split=split)


@pytest.mark.parametrize("style", ["Noto", "", None, 0, "apple", "train"])
def test_an_unknown_style_is_refused_and_the_known_ones_are_named(style):
    expected = f"expected the style to be one of {', '.join(data.EMOJI_STYLES)}, got {style!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        data.emoji(style)


# Damage.


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A function that copies a file to where it can be damaged; all files not copied count as read and checked."""
    checked = {file: data.read(file) for file in MANIFEST}
    (tmp_path / "manifest.json").write_bytes((data.FOLDER / "manifest.json").read_bytes())
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    monkeypatch.setattr(data, "_verified", checked)

    def copy(file):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(checked.pop(file))
        return tmp_path / file

    return copy


def flipped(content, place):
    content = bytearray(content)
    content[place] ^= 1
    return bytes(content)


DAMAGES = {
    "a flipped bit at the start": lambda content: flipped(content, 0),
    "a flipped bit in the middle": lambda content: flipped(content, len(content) // 2),
    "a flipped bit at the end": lambda content: flipped(content, -1),
    "cut short": lambda content: content[:500],
    "without its last byte": lambda content: content[:-1],
    "a byte too long": lambda content: content + b"\n",
    "empty": lambda content: b"",
}

# Each loader with each of its files; of the photographs, the first and the last to be read.
LOADED = every(
    {**FILES, data.photographs: ["photographs.csv", "photographs/bridge.jpg", "photographs/room_detail.jpg"]}
)


def says_what_to_run(caught, file):
    message = str(caught.value)
    return f"data/{file}" in message and "`git checkout data`" in message and "`python data/build.py`" in message


@pytest.mark.parametrize("file", MANIFEST)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found_and_named_with_what_to_run(copied, file, damage):
    path = copied(file)
    damaged = DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(
        data.DataError, match=rf"^data/{file} is damaged: its {len(damaged):,} bytes .*SHA-256"
    ) as caught:
        data.read(file)
    assert says_what_to_run(caught, file)
    assert f"({MANIFEST[file]['bytes']:,} bytes expected)" in str(caught.value)


@pytest.mark.parametrize("file", MANIFEST)
def test_a_missing_file_is_named_with_what_to_run(copied, file):
    copied(file).unlink()
    with pytest.raises(data.DataError, match=rf"^data/{file} is missing: ") as caught:
        data.read(file)
    assert says_what_to_run(caught, file)


@pytest.mark.parametrize("file", MANIFEST)
def test_a_whole_file_is_read_from_where_it_was_copied_to(copied, file):
    path = copied(file)
    assert data.read(file) == path.read_bytes()


@pytest.mark.parametrize("loader, file", LOADED)
def test_no_loader_goes_on_with_a_damaged_file(copied, loader, file):
    path = copied(file)
    path.write_bytes(flipped(path.read_bytes(), 100))
    with pytest.raises(data.DataError, match=rf"^data/{file} is damaged: "):
        loader()


@pytest.mark.parametrize("loader, file", LOADED)
def test_no_loader_goes_on_without_a_file(copied, loader, file):
    copied(file).unlink()
    with pytest.raises(data.DataError, match=rf"^data/{file} is missing: "):
        loader()


@pytest.mark.parametrize("loader, file", LOADED)
def test_no_loader_goes_on_without_a_manifest(copied, loader, file):
    (copied(file).parents[file.count("/")] / "manifest.json").unlink()
    with pytest.raises(data.DataError, match=r"^data/manifest\.json is missing: ") as caught:
        loader()
    assert says_what_to_run(caught, "manifest.json")


@pytest.mark.parametrize("loader, file", LOADED)
@pytest.mark.parametrize("content", [b"", b"{", b'{"mnist.npz": ', b"\xff\xfe", b"not JSON"])
def test_a_damaged_manifest_is_named_with_what_to_run(copied, loader, file, content):
    (copied(file).parents[file.count("/")] / "manifest.json").write_bytes(content)
    with pytest.raises(data.DataError, match=r"^data/manifest\.json is damaged: ") as caught:
        loader()
    assert says_what_to_run(caught, "manifest.json")


def test_a_file_that_is_not_in_the_manifest_is_refused(copied):
    (copied("penguins.csv").parent / "other.bin").write_bytes(b"anything")
    with pytest.raises(data.DataError, match=r"data/other\.bin is not in the manifest: expected one of .*mnist\.npz"):
        data.read("other.bin")


def test_what_was_read_and_checked_is_not_read_again(copied):
    path = copied("penguins.csv")
    content = data.read("penguins.csv")
    path.unlink()
    assert data.read("penguins.csv") == content


def test_damaged_content_is_not_remembered_as_checked(copied):
    path = copied("penguins.csv")
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    with pytest.raises(data.DataError):
        data.penguins()
    path.write_bytes(whole)
    assert len(data.penguins().species) == 342


# Pickles.

ARRAYS = [case for case in LOADED if case.values[1].endswith(".npz")]


@pytest.mark.parametrize("loader, file", ARRAYS)
def test_an_array_that_hides_a_pickle_is_refused(loader, file, monkeypatch):
    with np.load(data.FOLDER / file, allow_pickle=False) as arrays:
        names = arrays.files
    hidden = io.BytesIO()
    np.savez(hidden, **{name: np.array([print], dtype=object) for name in names})
    monkeypatch.setattr(data, "_verified", {**data._verified, file: hidden.getvalue()})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        loader()


@pytest.mark.parametrize("loader, file", ARRAYS)
def test_a_pickle_in_the_place_of_arrays_is_refused(loader, file, monkeypatch):
    monkeypatch.setattr(data, "_verified", {**data._verified, file: pickle.dumps({"train_images": 1})})
    with pytest.raises(ValueError, match="allow_pickle"):
        loader()


@pytest.mark.parametrize("loader", each(FILES))
def test_no_loader_unpickles_anything(loader, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for arguments in calls(loader):
        loader(*arguments)

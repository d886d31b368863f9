"""The shipped data are what their descriptions say, and damage is found before it is used."""

import inspect
import json
import re
import shutil

import numpy as np
import pytest
import torch

from lbdl import data


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the data in which files can be damaged; nothing is remembered as checked."""
    for file in [*json.loads((data.FOLDER / "manifest.json").read_text()), "manifest.json"]:
        shutil.copy(data.FOLDER / file, tmp_path)
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    monkeypatch.setattr(data, "_verified", {})
    return tmp_path


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


# Bad input and damage.

LOADERS = [
    (data.mnist, "mnist.npz"),
    (data.penguins, "penguins.csv"),
]


def test_every_loader_is_tested():
    there = {f for n, f in vars(data).items() if inspect.isfunction(f) and "split" in inspect.signature(f).parameters}
    assert {f for f in there if not f.__name__.startswith("_")} == {loader for loader, _ in LOADERS}


def test_every_file_of_the_manifest_has_a_loader():
    assert {file for _, file in LOADERS} == set(json.loads((data.FOLDER / "manifest.json").read_text()))


@pytest.mark.parametrize("loader, file", LOADERS)
@pytest.mark.parametrize("split", ["Train", "", None, 0, "training"])
def test_an_unknown_split_is_refused_and_the_known_ones_are_named(loader, file, split):
    with pytest.raises(ValueError, match=re.escape(f"got {split!r}")) as caught:
        loader(split)
    assert "expected the split to be one of train, " in str(caught.value)


@pytest.mark.parametrize("loader, file", LOADERS)
def test_tensors_are_made_on_the_device_that_is_asked_for(loader, file, monkeypatch):
    asked, tensor = [], torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, device=None, **k: asked.append(device) or tensor(*a, **k))
    loader("test", device="there")
    assert asked == ["there", "there"]


@pytest.mark.parametrize("loader, file", LOADERS)
def test_a_missing_file_is_named_with_what_to_run(copied, loader, file):
    (copied / file).unlink()
    with pytest.raises(
        data.DataError, match=rf"data/{file} is missing: .*`git checkout data`.*`python data/build\.py`"
    ):
        loader("train")


def test_a_missing_manifest_is_named(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(data.DataError, match=r"data/manifest\.json is missing"):
        data.penguins()


@pytest.mark.parametrize("loader, file", LOADERS)
@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_flipped_bit_is_found(copied, loader, file, place):
    content = bytearray((copied / file).read_bytes())
    content[place] ^= 1
    (copied / file).write_bytes(content)
    with pytest.raises(data.DataError, match=rf"data/{file} is damaged: .*SHA-256.*`python data/build\.py`"):
        loader("train")


@pytest.mark.parametrize("loader, file", LOADERS)
def test_a_file_cut_short_is_found_and_both_sizes_are_named(copied, loader, file):
    whole = (copied / file).read_bytes()
    (copied / file).write_bytes(whole[:500])
    with pytest.raises(data.DataError, match=rf"its 500 bytes .*\({len(whole):,} bytes expected\)"):
        loader("train")


def test_a_file_that_is_not_in_the_manifest_is_refused(copied):
    (copied / "other.bin").write_bytes(b"anything")
    with pytest.raises(data.DataError, match=r"data/other\.bin is not in the manifest: expected one of .*mnist\.npz"):
        data.read("other.bin")


def test_what_was_read_and_checked_is_not_read_again(copied):
    content = data.read("penguins.csv")
    (copied / "penguins.csv").unlink()
    assert data.read("penguins.csv") == content


def test_damaged_content_is_not_remembered_as_checked(copied):
    whole = (copied / "penguins.csv").read_bytes()
    (copied / "penguins.csv").write_bytes(whole + b"x")
    with pytest.raises(data.DataError):
        data.penguins()
    (copied / "penguins.csv").write_bytes(whole)
    assert len(data.penguins().species) == 342


def test_an_array_that_hides_a_pickle_is_refused(copied, monkeypatch):
    np.savez(copied / "evil.npz", train_images=np.array([print], dtype=object), train_labels=np.zeros(1))
    monkeypatch.setattr(data, "_verified", {"mnist.npz": (copied / "evil.npz").read_bytes()})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.mnist("train")

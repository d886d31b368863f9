"""What chapter 6's functions and networks refuse."""

import pytest
import torch

from lbdl.chapters.ch06 import CLIP, QNetwork, clip_loss, power_spectrogram


def test_similarities_that_are_not_square_are_told():
    with pytest.raises(ValueError, match=r"expected similarities \(N, N\), got \(3, 4\)"):
        clip_loss(torch.zeros(3, 4))


def test_drawings_of_another_size_are_told():
    with pytest.raises(ValueError, match=r"expected ink \(N, 3, 32, 32\), got \(2, 4, 32, 32\)"):
        CLIP(torch.rand(9, 50), 5, D=8, width=4).image(torch.rand(2, 4, 32, 32))


def test_a_field_of_another_size_is_told():
    with pytest.raises(ValueError, match=r"expected \(N, 4, 10, 10\), got \(2, 4, 9, 10\)"):
        QNetwork()(torch.zeros(2, 4, 9, 10))


def test_a_wave_that_is_too_short_is_told():
    with pytest.raises(ValueError, match="100 samples, expected at least 256"):
        power_spectrogram(torch.zeros(100))

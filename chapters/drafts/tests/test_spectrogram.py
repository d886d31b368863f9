"""Section 6.5's spectrogram and mel filters against scipy."""

import math

import numpy as np
import pytest
import torch
from lbdl.chapters.ch06 import (
    edit_distance,
    mel_filters,
    power_spectrogram,
    with_holes,
    word_error_rate,
)
from scipy import signal


@pytest.mark.parametrize(("window", "hop"), [(256, 100), (128, 64), (200, 200)])
def test_spectrogram_is_scipys(window, hop):
    wave = torch.randn(3000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bump = signal.get_window("hann", window)  # periodic, as ours
    stft = signal.ShortTimeFFT(
        bump, hop, fs=8000, fft_mode="onesided", scale_to=None, phase_shift=None
    )
    ours = power_spectrogram(wave, window, hop)
    first = window // 2 / hop  # scipy centres frame p at sample p * hop
    pieces = [bump * wave[t * hop : t * hop + window].numpy() for t in range(len(ours))]
    frames = torch.tensor(np.stack([np.fft.rfft(piece) for piece in pieces]))
    torch.testing.assert_close(ours, frames.abs().square())
    if first == int(first):
        theirs = torch.tensor(
            np.abs(stft.stft(wave.numpy(), p0=int(first), p1=int(first) + len(ours))) ** 2
        ).T
        torch.testing.assert_close(ours, theirs)


def test_mel_filters_have_peaks_where_the_scale_says():
    filters = mel_filters(40, 4096)
    low, high = (2595 * math.log10(1 + f / 700) for f in (60, 4000))
    mel = torch.linspace(low, high, 42)[1:-1]
    peaks = filters.argmax(dim=1) * 4000 / 2048
    torch.testing.assert_close(peaks, 700 * (10 ** (mel / 2595) - 1), atol=2.0, rtol=0)


def test_a_short_wave_is_told():
    with pytest.raises(ValueError, match="at least one window"):
        power_spectrogram(torch.zeros(100), 256)


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], ["a", "b"]) == 2
    assert word_error_rate(["a b"], ["a"]) == 1


@pytest.mark.parametrize("frames", [40, 70])  # as many frames as channels, and more
def test_holes_go_all_the_way_across(frames):
    x = torch.ones(16, frames, 40)
    kept = with_holes(x, torch.full((16,), frames), torch.Generator().manual_seed(1))
    across = (kept == 0).all(dim=1)[:, None] | (kept == 0).all(dim=2)[..., None]
    assert torch.equal(kept == 0, across)
    assert 0.05 < across.double().mean() < 0.6

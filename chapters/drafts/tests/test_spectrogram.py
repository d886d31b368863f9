"""Section 6.5's spectrogram and mel filters against scipy."""

import math

import pytest
import torch
from lbdl.chapters.ch06 import mel_filters, power_spectrogram
from scipy import signal


@pytest.mark.parametrize(("window", "hop"), [(256, 100), (128, 64), (200, 200)])
def test_the_spectrogram_is_scipys(window, hop):
    wave = torch.randn(3000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {
        "window": "hann",
        "nperseg": window,
        "noverlap": window - hop,
        "detrend": False,
        "mode": "complex",
    }
    _, _, theirs = signal.spectrogram(
        wave.numpy(), scaling="spectrum", **options
    )  # divided by the window's sum
    theirs = torch.tensor(theirs).mT * signal.get_window("hann", window).sum()
    torch.testing.assert_close(power_spectrogram(wave, window, hop), theirs.abs().square())


def test_mel_filters_have_their_peaks_where_the_scale_says():
    f = torch.linspace(0, 4000, 129)
    low, high = (math.log(1 + f / 700) for f in (80, 3500))
    peaks = 700 * (torch.linspace(low, high, 42)[1:-1].exp() - 1)
    filters = mel_filters()
    wide = peaks.diff()[1:] > 90  # triangles that hold several frequencies
    centres = (filters * f).sum(dim=1) / filters.sum(dim=1)
    torch.testing.assert_close(centres[2:][wide], peaks[2:][wide], atol=20, rtol=0)

"""The classical methods and yardsticks of section 6.1 against scikit-image."""

import pytest
import torch
from skimage import metrics, restoration

from lbdl.chapters import ch06
from lbdl.data import photographs

LEVEL = 25 / 255


def pair(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A clean and a noisy piece (1, 3, size, size) in 64 bits."""
    clean = photographs("test").images[:1, :, 200 : 200 + size, 200 : 200 + size].double()
    return clean, ch06.with_noise(clean, LEVEL, torch.Generator().manual_seed(1)).double()


def test_psnr_and_ssim():
    clean, noisy = pair()
    noisy = noisy.clamp(0, 1)
    x, y = clean[0].permute(1, 2, 0).numpy(), noisy[0].permute(1, 2, 0).numpy()
    expected = metrics.peak_signal_noise_ratio(x, y, data_range=1)
    assert ch06.psnr(noisy, clean).item() == pytest.approx(expected, abs=1e-6)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = metrics.structural_similarity(x, y, data_range=1, channel_axis=2, **settings)
    assert ch06.ssim(noisy, clean).item() == pytest.approx(expected, abs=1e-6)


def test_total_variation_of_one_channel():
    noisy = pair()[1][:, :1]
    theirs = restoration.denoise_tv_chambolle(
        noisy[0, 0].numpy(), weight=0.1, eps=1e-12, max_num_iter=4000
    )
    ours = ch06.total_variation(noisy, 0.1, steps=1000)[0, 0].numpy()
    assert abs(ours - theirs).max() < 5e-3


def test_non_local_means_by_loops():
    noisy = pair(40)[1][0]
    ours = ch06.non_local_means(noisy[None], LEVEL, 0.7)[0]
    for row, column in ((15, 15), (20, 23), (24, 16)):
        total, weights = 0, 0
        patch = noisy[:, row - 1 : row + 2, column - 1 : column + 2]
        for r in range(row - 5, row + 6):
            for c in range(column - 5, column + 6):
                d = (noisy[:, r - 1 : r + 2, c - 1 : c + 2] - patch).square().mean() - 2 * LEVEL**2
                weight = torch.exp(-max(d, torch.tensor(0.0)) / (0.7 * LEVEL) ** 2)
                total, weights = total + weight * noisy[:, r, c], weights + weight
        assert torch.allclose(ours[:, row, column], total / weights, atol=1e-9)


def test_non_local_means_is_as_good_as_theirs():
    """Not equal: theirs has a patch with a bell of weights and drops small weights."""
    clean, noisy = pair(128)
    image = noisy[0].permute(1, 2, 0).numpy()
    settings = {"patch_size": 3, "patch_distance": 5, "sigma": LEVEL, "fast_mode": False}
    tried = [
        restoration.denoise_nl_means(image, channel_axis=2, h=h * LEVEL, **settings)
        for h in (0.5, 0.6, 0.7, 0.8)
    ]
    best = max(ch06.psnr(torch.tensor(x).permute(2, 0, 1)[None], clean).item() for x in tried)
    assert ch06.psnr(ch06.non_local_means(noisy, LEVEL, 0.7), clean).item() >= best - 0.3


def test_denoiser_says_what_it_expects():
    with pytest.raises(ValueError, match="Denoiser: expected"):
        ch06.Denoiser()(torch.zeros(1, 3, 10, 8))

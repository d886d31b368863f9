"""The denoiser of section 6.1, as other chapters may use it."""

import pytest
import torch
from skimage import metrics

from lbdl.chapters import ch06


def test_psnr_is_that_of_scikit_image_for_each_image():
    clean = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    noisy = ch06.with_noise(clean, 0.1, torch.Generator().manual_seed(1))
    pairs = zip(clean.numpy(), noisy.clamp(0, 1).numpy(), strict=True)
    theirs = [metrics.peak_signal_noise_ratio(x, y, data_range=1) for x, y in pairs]
    assert ch06.psnr(noisy, clean).tolist() == pytest.approx(theirs, abs=1e-4)


def test_restore_treats_both_sides_alike_and_images_one_by_one():
    net, images = ch06.Denoiser(C=8), torch.rand(2, 3, 16, 12)
    for weights in net.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    restored = ch06.restore(net, images)
    assert torch.allclose(ch06.restore(net, images.flip(3)), restored.flip(3), atol=1e-6)
    assert torch.allclose(ch06.restore(net, images[1:]), restored[1:], atol=1e-6)
    assert not torch.allclose(net(images), restored, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 10, 8), (1, 3, 8, 10)])
def test_denoiser_says_what_it_expects(shape):
    with pytest.raises(
        ValueError,
        match=r"Denoiser: expected images \(B, 3, H, W\) with H and W multiples of 4, got",
    ):
        ch06.Denoiser()(torch.zeros(shape))

"""What section 6.2 gives to others: mirroring, asking about views, and calibration, against plain loops."""

import pytest
import torch

from lbdl.chapters import ch06


def chance(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def test_mirror_shows_each_image_or_its_mirror_image():
    images = torch.rand(400, 1, 4, 5, generator=chance(0))
    shown = ch06.mirror(images, chance(1))
    same = (shown == images).flatten(1).all(dim=1)
    turned = (shown == images.flip(3)).flatten(1).all(dim=1)
    assert (same ^ turned).all()
    assert 0.4 < turned.double().mean() < 0.6


def test_probabilities_are_the_mean_over_views_in_evaluation_mode():
    net, x, y = ch06.small_convnet(), *torch.rand(2, 3, 1, 28, 28, generator=chance(0))
    both = ch06.probabilities(net, x, y)
    assert torch.allclose(both, (net(x).softmax(1) + net(y).softmax(1)) / 2, atol=1e-6)
    assert torch.allclose(both, ch06.probabilities(net, y, x), atol=1e-6)


def test_reliability_and_calibration_error_by_loops():
    shares = torch.rand(300, 4, generator=chance(2)).square()
    shares, truth = (
        shares / shares.sum(1, keepdim=True),
        torch.randint(4, (300,), generator=chance(3)),
    )
    gaps = 0
    count, certainty, right = ch06.reliability(shares, truth)
    for b in range(10):
        inside = [
            (p.max().item(), p.argmax() == y)
            for p, y in zip(shares, truth, strict=True)
            if b / 10 <= p.max() < (b + 1) / 10
        ]
        assert count[b] == len(inside)
        if inside:
            sure, good = (sum(map(float, column)) / len(inside) for column in zip(*inside, strict=True))
            assert (certainty[b].item(), right[b].item()) == pytest.approx((sure, good), abs=1e-5)
            gaps += len(inside) * abs(sure - good) / 300
    assert ch06.calibration_error(shares, truth) == pytest.approx(gaps, abs=1e-5)


def test_a_certainty_of_one_is_in_the_last_bin():
    count, certainty, right = ch06.reliability(torch.eye(3), torch.tensor([0, 1, 1]))
    assert count.tolist() == [0] * 9 + [3]
    assert (certainty[-1].item(), right[-1].item()) == pytest.approx((1, 2 / 3))

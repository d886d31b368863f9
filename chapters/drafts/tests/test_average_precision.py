"""The average precision of section 6.3 is that of a reference implementation, on random boxes with many overlaps.

mean-average-precision 2024.1.5.0 (needs pandas) counts pixels inclusively, as VOC does: a box from 2 to 5 is 4 pixels
wide there. Its right and lower edges are therefore ours minus 1. It asks for an overlap of more than the bar, we for
as much: the boxes are no whole numbers, so that none lies exactly on it. "greedy" is VOC's rule: a detection belongs
to the thing that it overlaps most, and is a false alarm if that is taken.
"""

import numpy as np
import pytest
import torch
from lbdl.chapters.ch06 import Detections, average_precisions, hits, iou, suppress
from mean_average_precision import MetricBuilder

N, K, B, C = 30, 25, 5, 4


def random_case(number: int):
    """Things, and detections of which half are things moved a little; some of both are missing (class -1)."""
    chance = torch.Generator().manual_seed(number)
    corner = 30 * torch.rand(N, B, 2, generator=chance)
    truths = torch.cat([corner, corner + 6 + 24 * torch.rand(N, B, 2, generator=chance)], -1)
    classes = torch.randint(-1, C, (N, B), generator=chance)
    which = torch.randint(0, B, (N, K), generator=chance)
    n = torch.arange(N)[:, None]
    off = (
        torch.rand(N, K, 1, generator=chance).sort(dim=1).values
    )  # the better the score, the closer
    boxes = truths[n, which] + 2.5 * off * torch.randn(N, K, 4, generator=chance)
    boxes[..., 2:] = torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    guess = torch.randint(-1, C, (N, K), generator=chance)
    guess = torch.where(torch.rand(N, K, generator=chance) < 0.8, classes[n, which], guess)
    scores = torch.rand(N, K, generator=chance).sort(dim=1, descending=True).values
    return Detections(boxes, scores, guess), truths, classes


def reference(found: Detections, truths, classes, at_least: float) -> list[float]:
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=C)
    edge = torch.tensor([0, 0, 1, 1])
    for n in range(N):
        there, real = found.classes[n] >= 0, classes[n] >= 0
        preds = torch.cat(
            [found.boxes[n] - edge, found.classes[n, :, None], found.scores[n, :, None]], 1
        )[there]
        things = torch.cat([truths[n] - edge, classes[n, :, None], torch.zeros(B, 2)], 1)[real]
        metric.add(preds.double().numpy(), things.double().numpy())
    value = metric.value(iou_thresholds=at_least, mpolicy="greedy")
    return [float(value[at_least][c]["ap"]) for c in range(C)]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("at_least", [0.5, 0.75])
def test_average_precisions_are_those_of_the_reference(number, at_least):
    found, truths, classes = random_case(number)
    ours = average_precisions(found, truths, classes, C, at_least)
    np.testing.assert_allclose(ours.numpy(), reference(found, truths, classes, at_least), atol=1e-5)
    assert 0.1 < ours.mean() < 0.9  # no empty case


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.7])
def test_suppression_is_the_plain_loop(threshold):
    found, *_ = random_case(7)
    kept = suppress(found, threshold).classes
    for n in range(N):
        expected = []
        for k in range(K):
            rivals = [j for j in expected if found.classes[n, j] == found.classes[n, k]]
            overlaps = [iou(found.boxes[n, j : j + 1], found.boxes[n, k : k + 1]) for j in rivals]
            if all(bool(overlap <= threshold) for overlap in overlaps):
                expected.append(k)
        alive = [k for k in expected if found.classes[n, k] >= 0]
        assert (kept[n] >= 0).nonzero()[:, 0].tolist() == alive


def test_a_thing_is_hit_once():
    found, truths, classes = random_case(8)
    assert (hits(found, truths, classes).sum(1) <= (classes >= 0).sum(1)).all()

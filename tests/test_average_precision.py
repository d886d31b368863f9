"""The average precision of section 6.3 is that of a reference implementation, on random boxes with many overlaps.

mean-average-precision 2024.1.5.0 counts pixels inclusively, as VOC does, so its right and lower edges are ours minus
1; and it asks for an overlap of more than the bar, we for as much, which is the same here, as no box is a whole
number. "greedy" is VOC's rule: a detection belongs to the thing that it overlaps most.
"""

import numpy as np
import pytest
import torch
from lbdl.chapters.ch06 import Detections, average_precisions, iou, suppress
from mean_average_precision import MetricBuilder

N, K, B, C = 30, 25, 5, 4
EDGE = torch.tensor([0, 0, 1, 1])


def random_case(number: int):
    """Things, and detections of which most are things moved a little; some of both are missing (class -1)."""
    chance = torch.Generator().manual_seed(number)
    corner = 30 * torch.rand(N, B, 2, generator=chance)
    things = torch.cat([corner, corner + 6 + 24 * torch.rand(N, B, 2, generator=chance)], -1)
    classes = torch.randint(-1, C, (N, B), generator=chance)
    which, n = torch.randint(0, B, (N, K), generator=chance), torch.arange(N)[:, None]
    off = torch.rand(N, K, 1, generator=chance).sort(dim=1).values  # the better the score, the closer
    boxes = things[n, which] + 2.5 * off * torch.randn(N, K, 4, generator=chance)
    boxes[..., 2:] = torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    guess = torch.randint(-1, C, (N, K), generator=chance)
    guess = torch.where(torch.rand(N, K, generator=chance) < 0.8, classes[n, which], guess)
    scores = torch.rand(N, K, generator=chance).sort(dim=1, descending=True).values
    return Detections(boxes, scores, guess), things, classes


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("at_least", [0.5, 0.75])
def test_average_precisions_are_those_of_the_reference(number, at_least):
    found, things, classes = random_case(number)
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=C)
    for n in range(N):
        there, real = found.classes[n] >= 0, classes[n] >= 0
        answers = [found.boxes[n] - EDGE, found.classes[n, :, None], found.scores[n, :, None]]
        truth = [things[n] - EDGE, classes[n, :, None], torch.zeros(B, 2)]
        pair = torch.cat(answers, 1)[there], torch.cat(truth, 1)[real]
        metric.add(*(part.double().numpy() for part in pair))
    value = metric.value(iou_thresholds=at_least, mpolicy="greedy")[at_least]
    ours = average_precisions(found, things, classes, C, at_least)
    np.testing.assert_allclose(ours.numpy(), [value[c]["ap"] for c in range(C)], atol=1e-5)
    assert 0.1 < ours.mean() < 0.9  # no empty case


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.7])
def test_suppression_is_the_plain_loop(threshold):
    found, *_ = random_case(7)
    kept = suppress(found, threshold).classes
    for n in range(N):
        expected: list[int] = []
        for k in range(K):
            rivals = [j for j in expected if found.classes[n, j] == found.classes[n, k]]
            overlaps = iou(found.boxes[n, rivals], found.boxes[n, k, None])
            expected += [k] * bool((overlaps <= threshold).all())
        alive = [k for k in expected if found.classes[n, k] >= 0]
        assert (kept[n] >= 0).nonzero()[:, 0].tolist() == alive

"""The scenes of sections 6.3 and 6.4: boxes and labels tell what the pictures show; bad input is refused."""

import pytest
import torch
from lbdl.chapters.ch06 import (
    SSD,
    STYLE_UNSEEN,
    STYLES_SEEN,
    THINGS,
    UNet,
    class_iou,
    default_boxes,
    make_scenes,
    match,
    placed,
)


def scenes(seed: int = 0, styles: tuple = STYLES_SEEN):
    return make_scenes(120, "test", styles, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("styles", [STYLES_SEEN, STYLE_UNSEEN])
def test_boxes_are_tight_around_the_labels(styles):
    images, boxes, classes, labels = scenes(1, styles)
    assert images.min() >= 0 and images.max() <= 1
    assert classes.max() == len(THINGS) - 1 and ((classes >= 0).sum(1) >= 1).all()
    left = labels > 0
    for n, c in (classes >= 0).nonzero().tolist():
        x1, y1, x2, y2 = boxes[n, c].long().tolist()
        inside = labels[n, y1:y2, x1:x2] == classes[n, c] + 1
        edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
        assert all(bool(edge.any()) for edge in edges)
        left[n, y1:y2, x1:x2] = False
    assert not left.any()  # no pixel of a thing lies outside its box
    assert (boxes[classes < 0] == 0).all()


def test_the_same_seed_gives_the_same_scenes():
    for one, other in zip(scenes(2), scenes(2), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(scenes(2).images, scenes(3).images)


def test_a_drawing_keeps_its_area_wherever_it_is_placed():
    corner, size = torch.tensor([[3.5, 20.0], [0.0, 31.25]]), torch.tensor([8.0, 32.75])
    drawn = placed(torch.ones(2, 4, 32, 32), corner, size)
    torch.testing.assert_close(drawn[:, 3].sum((1, 2)), size.square())


def test_bad_input_is_refused():
    classes, box = torch.tensor([[0]]), torch.tensor([[[1.0, 1.0, 9.0, 9.0]]])
    for boxes, of in ((box + 60, classes), (box - 2, classes), (-box, classes), (box, classes - 1)):
        with pytest.raises(ValueError, match="match: expected things"):
            match(default_boxes(), boxes, of)
    with pytest.raises(ValueError, match="expected N ≥ 1"):
        make_scenes(0, "test", STYLES_SEEN, torch.Generator())
    with pytest.raises(ValueError, match="SSD: expected images"):
        SSD(3)(torch.rand(1, 3, 32, 64))
    with pytest.raises(ValueError, match="UNet: expected"):
        UNet(3)(torch.rand(1, 3, 40, 64))
    with pytest.raises(ValueError, match="class_iou: expected one shape"):
        class_iou(classes, classes[0], 2)

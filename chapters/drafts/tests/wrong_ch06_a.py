"""Wrong answers to the exercises of sections 6.1 and 6.2."""

import torch


def conditional_median(values, joint):
    return values @ joint / joint.sum(dim=0)  # the mean


def conditional_median_2(values, joint):
    return values[
        (joint.cumsum(dim=0) >= 0.5).int().argmax(dim=0)
    ]  # as if each column added up to one


def conditional_median_3(values, joint):
    return values[
        (joint.cumsum(dim=0) > joint.sum(dim=0) / 2).int().argmax(dim=0)
    ]  # more than half


def conditional_median_4(values, joint):
    return values[joint.argmax(dim=0)]  # the most probable


def coverage_for(certainty, right, wanted):
    ordered = right[certainty.argsort(descending=True)]
    share = ordered.cumsum(dim=0) / torch.arange(1, len(right) + 1)
    return (share >= wanted).sum().item() / len(right)  # counts all places, not up to the last


def coverage_for_2(certainty, right, wanted):
    ordered = right[certainty.argsort(descending=True)]
    share = ordered.cumsum(dim=0) / torch.arange(1, len(right) + 1)
    below = (share < wanted).nonzero()
    return (below[0].item() if len(below) else len(right)) / len(
        right
    )  # stops at the first that is too low


def coverage_for_3(certainty, right, wanted):
    return (certainty >= wanted).float().mean().item()  # believes the certainty

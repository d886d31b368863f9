"""Wrong answers to the exercises of chapter 6."""

import torch


def conditional_median(values, joint):
    return values @ joint / joint.sum(dim=0)  # the mean


def conditional_median_2(values, joint):
    return values[(joint.cumsum(dim=0) >= 0.5).int().argmax(dim=0)]  # as if each column added up to one


def conditional_median_3(values, joint):
    return values[(joint.cumsum(dim=0) > joint.sum(dim=0) / 2).int().argmax(dim=0)]  # more than half


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
    return (below[0].item() if len(below) else len(right)) / len(right)  # stops at the first that is too low


def coverage_for_3(certainty, right, wanted):
    return (certainty >= wanted).float().mean().item()  # believes the certainty


def _areas(a, b):
    shared = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    around = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    both = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return shared, around.prod(1), both


def generalized_iou(a, b):
    shared, _, both = _areas(a, b)
    shared = shared.clamp(min=0).prod(1)
    return shared / (both - shared)  # the plain one


def generalized_iou_2(a, b):
    shared, around, both = _areas(a, b)
    shared = shared.prod(1)  # without the clamp, two negative sides make a positive area
    return shared / (both - shared) - (around - both + shared) / around


def generalized_iou_3(a, b):
    shared, around, both = _areas(a, b)
    shared = shared.clamp(min=0).prod(1)
    return shared / both - (around - both) / around  # counts twice what is shared


def _counts(answers, labels, C):
    both = answers[answers == labels].bincount(minlength=C)
    return both, answers.flatten().bincount(minlength=C), labels.flatten().bincount(minlength=C)


def dice(answers, labels, C):
    both, said, true = _counts(answers, labels, C)
    return both / (said + true - both).clamp(min=1)  # the other measure


def dice_2(answers, labels, C):
    both, said, true = _counts(answers, labels, C)
    return both / (said + true).clamp(min=1)  # forgets the two


def dice_3(answers, labels, C):
    both, _, true = _counts(answers, labels, C)
    return both / true.clamp(min=1)  # the recall

"""Wrong answers to the exercises of sections 6.3 and 6.4."""

import torch


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

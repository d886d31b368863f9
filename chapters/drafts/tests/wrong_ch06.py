"""Wrong answers to the exercises of chapter 6."""

import torch
from lbdl.chapters.ch06 import class_iou, confusion_matrix
from torch.nn import functional as F


def conditional_median(values, joint):
    return values @ joint / joint.sum(dim=0)  # the mean


def conditional_median_2(values, joint):
    return values[joint.argmax(dim=0)]  # the most probable value


def conditional_median_3(values, joint):
    return values[
        (joint.cumsum(dim=0) >= 0.5).int().argmax(dim=0)
    ]  # takes a column for probabilities that add up to 1


def coverage_for(certainty, right, wanted):
    ordered = right[certainty.argsort(descending=True)]
    enough = ordered.cumsum(0) / torch.arange(1, len(right) + 1) >= wanted
    return enough.long().cumprod(0).sum().item() / len(
        right
    )  # stops at the first n that is too bad


def coverage_for_2(certainty, right, wanted):
    ordered = right[certainty.argsort()]  # the least sure first
    counts = torch.arange(1, len(right) + 1)
    return (counts * (ordered.cumsum(0) / counts >= wanted)).max().item() / len(right)


def coverage_for_3(certainty, right, wanted):
    return (
        (certainty >= wanted).float().mean().item()
    )  # believes what the network says about itself


def generalized_iou(a, b):
    shared = (
        (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2]))
        .clamp(min=0)
        .prod(-1)
    )
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - shared
    return shared / union  # the plain one


def generalized_iou_2(a, b):
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).prod(
        -1
    )  # no clamp
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - shared
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    return shared / union - (around - union) / around


def generalized_iou_3(a, b):
    shared = (
        (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2]))
        .clamp(min=0)
        .prod(-1)
    )
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(
        -1
    )  # counts what is shared twice
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    return shared / union - (around - union) / around


def dice(answers, labels, C):
    return class_iou(answers, labels, C)  # the other measure


def dice_2(answers, labels, C):
    counts = confusion_matrix(answers.flatten(), labels.flatten(), C)
    return counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp(min=1)  # forgets the two


def dice_3(answers, labels, C):
    counts = confusion_matrix(answers.flatten(), labels.flatten(), C)
    return counts.diagonal() / counts.sum(1).clamp(min=1)  # the recall


def _edits(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j - 1] + (x != y), above[j] + 1, row[j - 1] + 1))
    return row[-1]


def repaired(text, words):
    return min(words, key=lambda word: _edits(text, word))  # the whole text at once


def repaired_2(text, words):
    return " ".join(
        w if w in words else max(words, key=lambda word: _edits(w, word)) for w in text.split()
    )


def repaired_3(text, words):  # by shared letters, without their order
    return " ".join(max(words, key=lambda word: len(set(word) & set(w))) for w in text.split())


def zero_shot_class(pictures, texts):
    return (pictures @ texts.mean(dim=0).mT).argmax(dim=1)  # no lengths at all


def zero_shot_class_2(pictures, texts):
    return (pictures @ F.normalize(texts, dim=2).mean(dim=0).mT).argmax(
        dim=1
    )  # the mean is left shorter


def zero_shot_class_3(pictures, texts):
    return (pictures @ F.normalize(texts.mean(dim=0), dim=1).mT).argmax(
        dim=1
    )  # long texts count more


def best_moves(chances, gain, over, V, gamma):
    return (chances @ V).argmax(dim=1)  # forgets the reward, which is all that the goal has


def best_moves_2(chances, gain, over, V, gamma):
    return (chances @ (gain + gamma * V)).argmax(dim=1)  # goes on where the game is over


def best_moves_3(chances, gain, over, V, gamma):
    intended = chances.argmax(dim=2)  # takes the most likely next state for certain
    return (gain + gamma * V * ~over)[intended].argmax(dim=1)


def double_targets(online, frozen, rewards, terminated, gamma):
    return rewards + gamma * frozen.amax(dim=1) * ~terminated  # the ordinary targets


def double_targets_2(online, frozen, rewards, terminated, gamma):
    best = frozen.argmax(
        dim=1, keepdim=True
    )  # the copy chooses, the network values: the wrong way round
    return rewards + gamma * online.gather(1, best).squeeze(1) * ~terminated


def double_targets_3(online, frozen, rewards, terminated, gamma):
    best = online.argmax(dim=1, keepdim=True)
    return rewards + gamma * frozen.gather(1, best).squeeze(1)  # goes on where the game is over

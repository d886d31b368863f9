"""Wrong answers to the exercises of chapter 3."""

import math
from itertools import pairwise

from torch.nn import functional as F


def smoothed(f, y, epsilon):
    logs = f.softmax(1).log()  # rounds to the logarithm of zero
    q = (1 - epsilon) * F.one_hot(y, f.shape[1]) + epsilon / f.shape[1]
    return -(q * logs).sum(1).mean()


def smoothed_2(f, y, epsilon):
    costs = f.logsumexp(1, keepdim=True) - f
    true = costs[range(len(y)), y]
    return ((1 - epsilon) * true + epsilon * (costs.sum(1) - true) / (f.shape[1] - 1)).mean()  # among the others only


def smoothed_3(f, y, epsilon):
    return (1 - epsilon) * F.cross_entropy(f, y)  # takes away and gives to nobody


def accumulated(gradients, sizes):
    return gradients.mean(0)  # every part counts the same


def accumulated_2(gradients, sizes):
    return gradients.sum(0) / sizes.sum()


def accumulated_3(gradients, sizes):
    return (gradients / sizes[:, None]).sum(0) / (1 / sizes).sum()  # weights the wrong way round


def bits_per_byte(logits, numbers, lengths):
    return F.cross_entropy(logits, numbers) / math.log(2)  # per token


def bits_per_byte_2(logits, numbers, lengths):
    nats = F.cross_entropy(logits, numbers, reduction="none")
    return (nats / math.log(2) / lengths).mean()  # as if all tokens were equally long


def bits_per_byte_3(logits, numbers, lengths):
    return F.cross_entropy(logits, numbers, reduction="sum") / lengths.sum()  # nats


def softargmax_back(p, g):
    return p * (1 - p) * g  # the diagonal only


def softargmax_back_2(p, g):
    return p * (g - g.mean(-1, keepdim=True))  # a plain mean instead of the weighted one


def softargmax_back_3(p, g):
    return p * (g - (p * g).sum())  # sums over the batch as well


def parameter_count(sizes):
    return sum(a * b for a, b in pairwise(sizes))  # forgets the biases


def parameter_count_2(sizes):
    return math.prod(sizes) + sum(sizes[1:])


def parameter_count_3(sizes):
    return sum(a * b for a, b in pairwise(sizes)) + sum(sizes)  # biases for the input too


def inverse_root(step, warm_up):
    return math.sqrt(warm_up / step)  # forgets the warm-up


def inverse_root_2(step, warm_up):
    return step / warm_up if step < warm_up else warm_up / step  # forgets the root


def inverse_root_3(step, warm_up):
    return max(step / warm_up, math.sqrt(warm_up / step))  # takes the larger of the two


def best_size(C, A, B, alpha, beta):
    return (alpha * A / (beta * B) * C**beta) ** (1 / (alpha + beta))  # forgets the 6


def best_size_2(C, A, B, alpha, beta):
    return (A / B * (C / 6) ** beta) ** (1 / (alpha + beta))  # forgets the derivatives' factors


def best_size_3(C, A, B, alpha, beta):
    return (alpha * A / (beta * B) * (C / 6) ** alpha) ** (1 / (alpha + beta))  # the other exponent: that is D

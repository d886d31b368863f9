"""Wrong answers to the exercises of chapter 5."""

import math

import torch
from torch.nn import functional as F


def hat(t, left, peak, right):
    up, down = 1 / (peak - left), -1 / (right - peak)
    return up * (t - left).relu() + down * (t - peak).relu()  # forgets that the rise goes on


def hat_2(t, left, peak, right):
    up = 1 / (peak - left)  # right only where both sides are equally long
    return up * (t - left).relu() - 2 * up * (t - peak).relu() + up * (t - right).relu()


def hat_3(t, left, peak, right):
    up, down = 1 / (peak - left), -1 / (right - peak)
    return up * (t - left).relu() + (down - up) * (t - peak).relu()  # never stops falling


def cubes_needed(L, tolerance, D):
    return math.ceil(L / tolerance) ** D  # forgets that the middle is only half a part away


def cubes_needed_2(L, tolerance, D):
    return D * math.ceil(L / (2 * tolerance))  # adds the sides up


def cubes_needed_3(L, tolerance, D):
    return math.floor(L / (2 * tolerance)) ** D  # rounds the wrong way


def without_sharing(C, E, K, H):
    return E * (C * K**2 + 1)  # the convolution itself, which shares


def without_sharing_2(C, E, K, H):
    return C * H**2 * E * (H - K + 1) ** 2  # forgets the biases


def without_sharing_3(C, E, K, H):
    return E * H**2 * (C * H**2 + 1)  # as if there were padding


def vote(logits):
    return logits.mean(dim=0).argmax(dim=1)  # the loudest version decides


def vote_2(logits):
    return logits.softmax(dim=0).mean(dim=0).argmax(dim=1)  # softmax over the versions


def vote_3(logits):
    return logits[0].argmax(dim=1)  # asks one version only


def downscaling_cost(C, hidden, C_out, S, H, W):  # forgets the skip
    fewer = math.ceil(H / S) * math.ceil(W / S)
    return C * hidden * H * W + (9 * hidden**2 + hidden * C_out) * fewer


def downscaling_cost_2(C, hidden, C_out, S, H, W):  # the stride in the first convolution
    fewer = math.ceil(H / S) * math.ceil(W / S)
    return (C * hidden + 9 * hidden**2 + hidden * C_out + C * C_out) * fewer


def downscaling_cost_3(C, hidden, C_out, S, H, W):  # rounds down
    return C * hidden * H * W + (9 * hidden**2 + hidden * C_out + C * C_out) * (H // S) * (W // S)


def merged(conv, norm):  # forgets eps
    factor = norm.weight / norm.running_var.sqrt()
    return conv.weight * factor[:, None, None, None], norm.bias - factor * norm.running_mean


def merged_2(conv, norm):  # along the input channels
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * factor[: conv.in_channels][None, :, None, None], norm.bias - factor * norm.running_mean


def merged_3(conv, norm):  # does not scale the mean
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * factor[:, None, None, None], norm.bias - norm.running_mean


def path_lengths(blocks):
    longest = sum(max(ways) for ways in blocks)  # which lengths there are, not how many paths
    lengths = {0}
    for ways in blocks:
        lengths = {length + way for length in lengths for way in ways}
    return [int(n in lengths) for n in range(longest + 1)]


def path_lengths_2(blocks):
    counts = [0] * (sum(max(ways) for ways in blocks) + 1)
    for ways in blocks:  # the ways of each block, without going on to the next
        for way in ways:
            counts[way] += 1
    return counts


def path_lengths_3(blocks):
    counts = [1]
    for ways in blocks:
        longer = [0] * (len(counts) + max(ways))
        for length, paths in enumerate(counts):
            longer[length + max(ways)] += paths * len(ways)  # every path through the block, none past it
        counts = longer
    return counts


def padding_mask(lengths, S):
    places = torch.arange(S, device=lengths.device)
    return (places <= lengths[:, None])[:, None, None]  # one place too many


def padding_mask_2(lengths, S):
    places = torch.arange(S, device=lengths.device)
    return (places >= lengths[:, None])[:, None, None]  # True where it is forbidden, as nn.MultiheadAttention has it


def padding_mask_3(lengths, S):
    places = torch.arange(S, device=lengths.device)
    return (places < lengths[:, None])[:, None, :, None]  # masks the queries


def longest_text(D, share):
    return math.floor(2 * D * share / (1 - share))  # forgets the feed-forward block


def longest_text_2(D, share):
    return math.floor(6 * D * share)  # of the rest, not of all


def longest_text_3(D, share):
    return math.floor(12 * D * share / (1 - share))  # forgets that there are two products


def masked_loss(logits, target, padding):
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())  # padding counts


def masked_loss_2(logits, target, padding):
    each = F.cross_entropy(logits.mT, target[:, 1:], ignore_index=padding, reduction="none")
    return each.mean()  # the padding costs nothing, but is divided by


def masked_loss_3(logits, target, padding):
    return F.cross_entropy(logits.flatten(0, 1), target[:, :-1].flatten(), ignore_index=padding)  # not moved by one


def beam_step(score, log_p):
    total, symbols = (score[:, None] + log_p).max(dim=1)  # one for each beginning
    total, parents = total.sort(descending=True)
    return total, parents, symbols[parents]


def beam_step_2(score, log_p):
    total, chosen = log_p.flatten().topk(len(score))  # forgets the beginnings
    return total, chosen // log_p.shape[1], chosen % log_p.shape[1]


def beam_step_3(score, log_p):
    total, chosen = (score[:, None] + log_p).flatten().topk(len(score))
    return total, chosen % log_p.shape[1], chosen // log_p.shape[1]  # the wrong way round


def cache_size(layers, D, T, bytes_each=4):
    return layers * D * T * bytes_each  # keys without values


def cache_size_2(layers, D, T, bytes_each=4):
    return 2 * D * T * bytes_each  # one layer only


def cache_size_3(layers, D, T, bytes_each=4):
    return 2 * layers * D * T * 4  # always 32 bits


def top_k(logits, k):
    p = logits.softmax(dim=-1)
    return p.where(p >= p.topk(k, dim=-1).values[..., -1:], 0)  # no longer adds up to 1


def top_k_2(logits, k):
    values = logits.topk(k, dim=-1).values
    return logits.masked_fill(logits <= values[..., -1:], -torch.inf).softmax(dim=-1)  # one too few


def top_k_3(logits, k):
    smallest = logits.flatten().topk(k).values[-1]  # of all rows together
    return logits.masked_fill(logits < smallest, -torch.inf).softmax(dim=-1)


def put_together(patches, patch):
    size = patch * math.isqrt(patches.shape[1])
    return patches.reshape(len(patches), -1, size, size)  # pixels stay in the order of the patches


def put_together_2(patches, patch):
    size = patch * math.isqrt(patches.shape[1])
    return F.fold(patches.mT, size, patch, stride=patch).mT  # rows and columns exchanged


def put_together_3(patches, patch):
    rows = math.isqrt(patches.shape[1])
    x = patches.unflatten(1, (rows, rows)).unflatten(3, (-1, patch, patch))  # (N, h, w, C, P, P)
    return x.permute(0, 3, 1, 2, 4, 5).reshape(len(x), -1, rows * patch, rows * patch)  # axes not interleaved

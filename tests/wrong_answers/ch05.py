"""Wrong answers to the exercises of chapter 5."""

import math

import torch


def hat(t, left, peak, right):
    up, down = 1 / (peak - left), -1 / (right - peak)
    return up * (t - left).relu() + down * (t - peak).relu()  # forgets that the rise goes on


def hat_2(t, left, peak, right):
    up = 1 / (peak - left)  # right only where both sides are equally long
    return up * (t - left).relu() - 2 * up * (t - peak).relu() + up * (t - right).relu()


def hat_3(t, left, peak, right):
    up, down = 1 / (peak - left), -1 / (right - peak)
    return up * (t - left).relu() + (down - up) * (t - peak).relu()  # never stops falling


def without_sharing(C, E, K, H):
    return E * (C * K**2 + 1)  # the convolution itself, which shares


def without_sharing_2(C, E, K, H):
    return C * H**2 * E * (H - K + 1) ** 2  # forgets the biases


def without_sharing_3(C, E, K, H):
    return E * H**2 * (C * H**2 + 1)  # as if there were padding


def merged(conv, norm):  # forgets eps
    factor = norm.weight / norm.running_var.sqrt()
    return conv.weight * factor[:, None, None, None], norm.bias - factor * norm.running_mean


def merged_2(conv, norm):  # along the input channels
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * factor[: conv.in_channels][None, :, None, None], norm.bias - factor * norm.running_mean


def merged_3(conv, norm):  # does not scale the mean
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * factor[:, None, None, None], norm.bias - norm.running_mean


def longest_text(D, share):
    return math.floor(2 * D * share / (1 - share))  # forgets the feed-forward block


def longest_text_2(D, share):
    return math.floor(6 * D * share)  # of the rest, not of all


def longest_text_3(D, share):
    return math.floor(12 * D * share / (1 - share))  # forgets that there are two products


def cache_size(layers, D, T, bytes_each=4):
    return layers * D * T * bytes_each  # keys without values


def cache_size_2(layers, D, T, bytes_each=4):
    return 2 * D * T * bytes_each  # one layer only


def cache_size_3(layers, D, T, bytes_each=4):
    return 2 * layers * D * T * 4  # always 32 bits


def unpatchify(patches, C, H, W, patch):
    return patches.reshape(len(patches), C, H, W)  # pixels stay in the order of the patches


def unpatchify_2(patches, C, H, W, patch):
    grid = patches.unflatten(2, (C, patch, patch)).unflatten(1, (H // patch, W // patch))
    return grid.permute(0, 3, 1, 2, 4, 5).reshape(len(patches), C, H, W)  # axes not interleaved


def unpatchify_3(patches, C, H, W, patch):
    grid = patches.unflatten(2, (patch, patch, C)).unflatten(1, (H // patch, W // patch))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), C, H, W)  # channels taken for the last


def padding_mask(lengths, T):
    return torch.arange(T, device=lengths.device) <= lengths[:, None]


def padding_mask_2(lengths, T):
    return torch.arange(T, device=lengths.device) >= lengths[:, None]  # True where there is padding


def padding_mask_3(lengths, T):
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]  # not filled up to T

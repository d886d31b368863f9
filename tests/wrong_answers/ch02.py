"""Wrong answers to the exercises of chapter 2."""

import math


def balanced_batch(width, peak, speed):
    return 2 * peak / speed  # forgets that the signals must be moved as well


def balanced_batch_2(width, peak, speed):
    ratio = 4 * peak / speed
    return ratio * width / (2 * width - 2 * ratio)  # a negative batch for a layer that is too narrow


def balanced_batch_3(width, peak, speed):
    ratio = peak / speed  # numbers of one byte
    return ratio * width / (2 * width - 2 * ratio) if width > ratio else math.inf


def reading_order_strides(shape):
    strides = [1]
    for size in shape[:-1]:
        strides.append(strides[-1] * size)  # the first index moves fastest
    return tuple(strides)


def reading_order_strides_2(shape):
    return (*shape[1:], 1)  # right for two dimensions, not for more


def reading_order_strides_3(shape):
    strides = [1]
    for size in reversed(shape):
        strides.insert(0, strides[0] * size)  # one too many
    return tuple(strides)

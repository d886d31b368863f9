"""Wrong answers to the exercises of chapter 4."""

import math

import torch
from torch.nn import functional as F


def trainable_parameters(model):
    return len(list(model.parameters()))  # counts tensors, not numbers


def trainable_parameters_2(model):
    return sum(p.numel() for p in model.state_dict().values())  # buffers and frozen ones, too


def trainable_parameters_3(model):
    layers = model if isinstance(model, torch.nn.Sequential) else [model]  # a layer used twice counts twice
    return sum(p.numel() for layer in layers for p in layer.parameters() if p.requires_grad)


def densely_connected(layers, x):
    for layer in layers:
        x = x + layer(x)  # adds
    return x


def densely_connected_2(layers, x):
    for layer in layers:
        x = torch.cat([layer(x), x], dim=1)  # the newest in front
    return x


def densely_connected_3(layers, x):
    outputs = [x]
    for layer in layers:
        outputs.append(layer(outputs[-1]))  # each sees only the one before
    return torch.cat(outputs, dim=1)


def input_size(outputs, K, S=1, P=0, D=1):
    return S * outputs + D * (K - 1) + 1 - 2 * P  # one step too many


def input_size_2(outputs, K, S=1, P=0, D=1):
    return S * (outputs - 1) + K - 2 * P  # forgets the dilation


def input_size_3(outputs, K, S=1, P=0, D=1):
    return S * (outputs - 1) + D * (K - 1) + 1 - P  # padding on one side only


def depthwise(x, w):
    return torch.einsum("ndtk,dk->nt", x.unfold(2, w.shape[1], 1), w)[:, None]  # sums over the channels


def depthwise_2(x, w):
    return torch.einsum("ndtk,dk->ndt", x.unfold(2, w.shape[1], 1), w.flip(1))  # turns the kernel round


def depthwise_3(x, w):
    return torch.einsum("ndtk,ek->net", x.unfold(2, w.shape[1], 1), w)  # every filter hears every channel


def separable(x, column, row):
    C, K = x.shape[1], len(row)
    high = column.reshape(1, 1, K, 1).repeat(C, C, 1, 1)  # mixes the channels
    wide = row.reshape(1, 1, 1, K).repeat(C, C, 1, 1)
    return F.conv2d(F.conv2d(x, high, padding=(K // 2, 0)), wide, padding=(0, K // 2))


def separable_2(x, column, row):
    C, K = x.shape[1], len(row)
    high = row.reshape(1, 1, K, 1).repeat(C, 1, 1, 1)  # exchanges row and column
    wide = column.reshape(1, 1, 1, K).repeat(C, 1, 1, 1)
    x = F.conv2d(x, high, padding=(K // 2, 0), groups=C)
    return F.conv2d(x, wide, padding=(0, K // 2), groups=C)


def separable_3(x, column, row):
    C, K = x.shape[1], len(row)
    kernel = (column[:, None] + row).repeat(C, 1, 1, 1)  # adds instead of multiplying
    return F.conv2d(x, kernel, padding=K // 2, groups=C)


def rows_seen(layers, i):
    first, last = i, i
    for K, S, D, _ in reversed(layers):
        first, last = first * S, last * S + (K - 1) * D  # forgets the padding
    return first, last


def rows_seen_2(layers, i):
    first, last = i, i
    for K, S, D, P in layers:  # from the wrong end
        first, last = first * S - P, last * S - P + (K - 1) * D
    return first, last


def rows_seen_3(layers, i):
    first, last = i, i
    for K, S, D, P in reversed(layers):
        first, last = first * S - P, last * S - P + K * D  # one step too far
    return first, last


def leaky_gain(leak):
    return math.sqrt(2)  # ignores the leak


def leaky_gain_2(leak):
    return math.sqrt(2 / (1 + leak))  # the leak is not squared


def leaky_gain_3(leak):
    return 2 / (1 + leak**2)  # of the variance, not of the standard deviation


def mean_of_real(x, lengths):
    return x.mean(2)  # counts the filling


def mean_of_real_2(x, lengths):
    real = torch.arange(x.shape[2]) < lengths[:, None, None]
    return torch.where(real, x, 0).mean(2)  # divides by all steps


def mean_of_real_3(x, lengths):
    real = torch.arange(x.shape[2]) <= lengths[:, None, None]  # one step too many
    return torch.where(real, x, 0).sum(2) / lengths[:, None]


def gaussian_dropout(x, noise, p):
    return x * (1 + p / (1 - p) * noise)  # forgets the root


def gaussian_dropout_2(x, noise, p):
    return x + (p / (1 - p)) ** 0.5 * noise  # adds the noise instead of multiplying


def gaussian_dropout_3(x, noise, p):
    return x * (p / (1 - p)) ** 0.5 * noise  # has the mean 0


def fold(w, b, norm):
    factor = norm.gamma / (norm.variance + norm.eps).sqrt()
    return factor[:, None, None, None] * w, b - factor * norm.mean + norm.beta  # leaves the old bias as it is


def fold_2(w, b, norm):
    factor = norm.gamma / norm.variance.sqrt()  # forgets eps
    return factor[:, None, None, None] * w, factor * (b - norm.mean) + norm.beta


def fold_3(w, b, norm):
    factor = norm.gamma / (norm.variance + norm.eps)  # forgets the root
    return factor[:, None, None, None] * w, factor * (b - norm.mean) + norm.beta


def window_mask(N, width):
    places = torch.arange(N)
    back = places[:, None] - places
    return (back >= 0) & (back <= width)  # one key too many


def window_mask_2(N, width):
    places = torch.arange(N)
    return (places[:, None] - places).abs() < width  # looks ahead as well


def window_mask_3(N, width):
    places = torch.arange(N)
    back = places - places[:, None]  # rows are keys here
    return (back >= 0) & (back < width)


def state_step(S, q, k, v):
    y = q @ S  # reads before it files
    return y[:-1] / y[-1], S + k[:, None] * F.pad(v, (0, 1), value=1)


def state_step_2(S, q, k, v):
    S = k[:, None] * F.pad(v, (0, 1), value=1)  # forgets what was filed before
    y = q @ S
    return y[:-1] / y[-1], S


def state_step_3(S, q, k, v):
    S = S + k[:, None] * F.pad(v, (0, 1), value=1)
    y = q @ S
    return y[:-1] / q.sum(), S  # divides by the query's features instead of the sum of the weights


def state_step_4(S, q, k, v):
    S = S + k[:, None] * F.pad(v, (0, 1), value=0)  # the column of ones is never filled
    y = q @ S
    return y[:-1] / y[-1], S


def state_step_5(S, q, k, v):
    S = S + q[:, None] * F.pad(v, (0, 1), value=1)  # files under the query
    y = k @ S
    return y[:-1] / y[-1], S


def embedding_gradient(tokens, slopes, V):
    gradient = slopes.new_zeros(V, slopes.shape[1])
    gradient[tokens] += slopes  # of a repeated token, only one slope arrives
    return gradient


def embedding_gradient_2(tokens, slopes, V):
    counts = torch.bincount(tokens, minlength=V).clamp(min=1)[:, None]  # the mean instead of the sum
    return slopes.new_zeros(V, slopes.shape[1]).index_add_(0, tokens, slopes) / counts


def embedding_gradient_3(tokens, slopes, V):
    return F.one_hot(tokens, V).to(slopes) @ slopes.new_ones(V, slopes.shape[1])  # the forward pass again


def odd_one_out(x):
    return F.cosine_similarity(x, x.mean(0)[None], dim=1).argmin().item()  # the mean of all


def odd_one_out_2(x):
    return F.cosine_similarity(x, x.sum(0) - x, dim=1).argmax().item()  # the most typical one


def odd_one_out_3(x):
    return (x @ x.sum(0)).argmin().item()  # a product, which long vectors win


def grid_encoding(height, width, D):
    from lbdl.chapters.ch04 import sinusoids

    rows, columns = sinusoids(torch.arange(height), D // 2), sinusoids(torch.arange(width), D // 2)
    return torch.cat([columns.expand(height, width, -1), rows[:, None].expand(height, width, -1)], dim=2)  # swapped


def grid_encoding_2(height, width, D):
    from lbdl.chapters.ch04 import sinusoids

    return sinusoids(torch.arange(height * width), D).reshape(height, width, D)  # one long row


def grid_encoding_3(height, width, D):
    from lbdl.chapters.ch04 import sinusoids

    return sinusoids(torch.arange(height), D)[:, None] + sinusoids(torch.arange(width), D)  # added, not side by side

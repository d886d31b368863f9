"""Mistakes that one could make in chapter 2; each must make a cell of its own section fail."""

MUTANTS = [
    # 2.1: products, tiles, the cache, the costs of layers, the bits of a number
    ("2.1", "C[i][j] += A[i][k] * B[k][j]", "C[i][j] += A[i][k] * B[j][k]"),
    ("2.1", "C[i : i + tile, j : j + tile] += a @ b", "C[i : i + tile, j : j + tile] = a @ b"),
    ("2.1", "yield from (i * N + k, N * N + k * N + j,", "yield from (i * N + k, N * N + j * N + k,"),
    ("2.1", "cache.popitem(last=False)", "cache.popitem(last=True)"),
    ("2.1", "line = place // length", "line = place"),
    ("2.1", "return 2 * batch * inputs * outputs, 4", "return batch * inputs * outputs, 4"),
    ("2.1", "to = size - kernel + 1", "to = size - kernel"),
    ("2.1", "[model(image) for image in x]", "[model(x[0]) for image in x]"),
    ("2.1", "bias = 2 ** (exponent_bits - 1) - 1", "bias = 2 ** (exponent_bits - 1)"),
    ("2.1", "near_zero = fraction * 2.0 ** (1 - bias)", "near_zero = fraction * 2.0 ** (-bias)"),
    ("2.1", "sign = 1 - 2 * ((code >>", "sign = 1 - ((code >>"),
    ("2.1", "scale = x.abs().max() / 127", "scale = x.abs().max() / 255"),
    # 2.2: cells and strides, broadcasting, sums over indices
    ("2.2", "cell = torch.tensor(x.storage_offset(), device", "cell = torch.tensor(0, device"),
    ("2.2", "cell = cell[..., None] + stride * torch", "cell = cell[..., None] + size * torch"),
    ("2.2", "tuple(n if m == 1 else m", "tuple(m if m == 1 else n"),
    ("2.2", "m != n and 1 not in (m, n)", "m != n and n != 1"),
    (
        "2.2",
        "result[tuple(at[letter] for letter in result_word)] += term",
        "result[tuple(at[letter] for letter in result_word)] = term + 0",
    ),
    ("2.2", "even = (faces - faces.mean(**over))", "even = (faces + faces.mean(**over))"),
    ("2.2", "(A[:, :, None] * B[None, :, :]).sum(1)", "(A[:, :, None] + B[None, :, :]).sum(1)"),
    (
        "2.2",
        "(queries[:, :, None] * keys[:, None]).sum(-1).permute(0, 3, 1, 2)",
        "(queries[:, :, None] * keys[:, None]).mean(-1).permute(0, 3, 1, 2)",
    ),
]

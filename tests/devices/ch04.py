"""Chapter 4 on an accelerator: see tests/devices."""

import torch
from torch import nn

ALLOWED_ON_CPU = {
    "4.1": {"addmm", "convolution"},  # shapes only, on the device "meta"
    "4.1 widgets": {"addmm", "convolution"},
    "4.2": {"addmm", "convolution", "mm"},  # the dense layer on "meta"; small layers and geometry for pictures
    "4.2 widgets": {"convolution", "mm"},
    "4.3 widgets": {"mm"},  # thirty layers, 256 wide
    "4.6 widgets": {"mm"},  # twenty layers
    "4.7 widgets": {"convolution", "mm"},  # up to a hundred layers, 64 wide
    "4.8 widgets": {"mm"},  # attention of ten or twelve words and images
    "4.9 widgets": {"mm", "mv"},  # one word against all words
    "4.10 widgets": {"mv"},  # rotations of one vector
}

MODELS = {
    "AttentionHead": lambda cls: (cls(D=6, D_QK=4, D_V=5), (torch.rand(2, 3, 6), *torch.rand(2, 2, 7, 6))),
    "AttentionOperator": lambda cls: (cls(), tuple(torch.rand(3, 2, 5, 4))),
    "BatchNorm": lambda cls: (cls(4), torch.rand(8, 4, 3, 3)),
    "Dropout": lambda cls: (cls(0.0), torch.rand(8, 4)),  # which numbers are dropped differs between devices
    "MultiHeadAttention": lambda cls: (
        cls(D=6, H=2, D_QK=4, D_V=5),
        (torch.rand(2, 3, 6), *torch.rand(2, 2, 7, 6)),
    ),
    "Residual": lambda cls: (cls(nn.Linear(4, 4)), torch.rand(8, 4)),
}

"""Sections 6.1 and 6.2 on an accelerator: see tests/devices."""

import torch

ALLOWED_ON_CPU = {
    "6.1 widgets": {"convolution", "native_batch_norm"},  # one small piece of a photograph
    "6.2 widgets": {"addmm", "convolution", "native_batch_norm"},  # one garment
}

MODELS = {
    "Denoiser": lambda cls: (cls(C=8), torch.rand(2, 3, 16, 8)),
}

"""Chapter 6 on an accelerator: see tests/devices."""

import torch

ALLOWED_ON_CPU = {
    "6.1 widgets": {"convolution", "native_batch_norm"},  # one small piece of a photograph
    "6.2 widgets": {"addmm", "convolution", "native_batch_norm"},  # one garment
}

MODELS = {
    "Denoiser": lambda cls: (cls(C=8), torch.rand(2, 3, 16, 8)),
    "SSD": lambda cls: (cls(3), torch.rand(2, 3, 64, 64)),
    "UNet": lambda cls: (cls(3), torch.rand(2, 3, 32, 48)),
}

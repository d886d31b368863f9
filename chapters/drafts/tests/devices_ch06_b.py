"""Sections 6.3 and 6.4 on an accelerator: see tests/devices."""

import torch

ALLOWED_ON_CPU = {}

MODELS = {
    "SSD": lambda cls: (cls(3), torch.rand(2, 3, 64, 64)),
    "UNet": lambda cls: (cls(3), torch.rand(2, 3, 32, 48)),
}

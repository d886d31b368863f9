"""Sections 6.5 to 6.7 on an accelerator: see tests/devices."""

import torch

ALLOWED_ON_CPU = {}

MODELS = {
    "CLIP": lambda cls: (
        cls(torch.rand(9, 50), 5, D=8, width=4),
        (torch.rand(4, 3, 32, 32), torch.arange(12).reshape(4, 3) % 9),
    ),
    "QNetwork": lambda cls: (cls(), torch.rand(8, 4, 10, 10)),
    "SpeechTransformer": lambda cls: (cls(D=16), (torch.rand(2, 24, 40), torch.ones(2, 5).long())),
    "TextEncoder": lambda cls: (cls(torch.rand(9, 50), 5, D=8), torch.arange(12).reshape(4, 3) % 9),
}

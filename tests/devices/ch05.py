"""Chapter 5 on an accelerator: see tests/devices."""

import torch
from torch import nn

ALLOWED_ON_CPU = {
    "5.2 widgets": {"addmm", "convolution"},  # one digit through LeNet
    "5.3": {"addmm", "bmm", "native_layer_norm"},  # layers of GPT-3's size, on the device "meta"
    "5.3 widgets": {  # one text or one digit through the translator, the ViT and the ResNet
        *("addmm", "bmm", "mm", "embedding", "convolution", "native_batch_norm", "native_layer_norm"),
        "_scaled_dot_product_flash_attention_for_cpu",
    },
}

MODELS = {
    "AddSinusoids": lambda cls: (cls(), torch.rand(2, 5, 8)),
    "Attention": lambda cls: (
        cls(8, 2, rotary=10_000.0, qk_norm=True),
        (torch.rand(2, 5, 8), torch.rand(2, 7, 8)),
    ),
    "CrossAttentionBlock": lambda cls: (
        cls(8, 2, norm_first=False),
        (torch.rand(2, 5, 8), torch.rand(2, 7, 8)),
    ),
    "DecoderLayer": lambda cls: (cls(8, 2, 16), (torch.rand(2, 4, 8), torch.rand(2, 5, 8))),
    "EncoderLayer": lambda cls: (cls(8, 2, 16, causal=True), torch.rand(2, 5, 8)),
    "FeedForwardBlock": lambda cls: (cls(8, 32), torch.rand(2, 5, 8)),
    "GPT": lambda cls: (cls(7, 6, D=8, H=2), torch.arange(12).reshape(2, 6) % 7),
    "LeNet": lambda cls: (cls(), torch.rand(2, 1, 28, 28)),
    "ResNet": lambda cls: (cls((1, 2), 5, width=4, stem="small"), torch.rand(4, 3, 32, 32)),
    "ResidualBlock": lambda cls: (cls(8, 2, 12, stride=2), torch.rand(4, 8, 6, 6)),
    "SelfAttentionBlock": lambda cls: (
        cls(8, 2, norm=nn.RMSNorm, causal=True),
        torch.rand(2, 5, 8),
    ),
    "Transformer": lambda cls: (
        cls(9, 7, D=8, H=2, hidden=16),
        (torch.ones(2, 5).long(), torch.ones(2, 4).long()),
    ),
    "TransformerDecoder": lambda cls: (
        cls(8, 2, 2, 16),
        (torch.rand(2, 4, 8), torch.rand(2, 5, 8)),
    ),
    "TransformerEncoder": lambda cls: (cls(8, 2, 2, 16), torch.rand(2, 5, 8)),
    "ViT": lambda cls: (cls(), torch.rand(2, 1, 28, 28)),
}

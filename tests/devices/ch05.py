"""Chapter 5 on an accelerator: see tests/devices."""

import torch

ALLOWED_ON_CPU = {
    "5.1 widgets": {"mm"},  # a network of 64 units, on a curve
    "5.2": {"convolution"},  # a copy of LeNet, for the widgets and the pieces that move a channel most
    "5.2 widgets": {"addmm", "convolution"},  # that copy on one digit
    "5.3": {  # copies of what was trained, for the widgets; costs, counted on "meta" or on the CPU
        *("addmm", "bmm", "convolution", "embedding", "mm", "native_batch_norm", "native_layer_norm"),
        "_scaled_dot_product_flash_attention_for_cpu",
    },
    "5.3 widgets": {  # stacks of at most eight layers with their gradients; the copies on one text
        *("addmm", "bmm", "embedding", "mm", "native_layer_norm", "native_layer_norm_backward"),
        *(f"_scaled_dot_product_flash_attention_for_cpu{way}" for way in ("", "_backward")),
    },
}

MODELS = {
    "AddSinusoids": lambda cls: (cls(), torch.rand(2, 5, 8)),
    "Attention": lambda cls: (cls(8, 2, turned=True, normed=True), (torch.rand(2, 5, 8), torch.rand(2, 7, 8))),
    "Bottleneck": lambda cls: (cls(8, 2, 12, 2), torch.rand(4, 8, 6, 6)),
    "CausalLayer": lambda cls: (cls(8, 2), torch.rand(2, 5, 8)),
    "CrossAttentionBlock": lambda cls: (cls(8, 2, pre=False), (torch.rand(2, 5, 8), torch.rand(2, 7, 8))),
    "DecoderLayer": lambda cls: (cls(8, 2, 16), (torch.rand(2, 4, 8), torch.rand(2, 5, 8))),
    "DownscalingResidualBlock": lambda cls: (cls(8, 2, 12, 2), torch.rand(4, 8, 6, 6)),
    "EncoderLayer": lambda cls: (cls(8, 2, 16), torch.rand(2, 5, 8)),
    "FeedForwardBlock": lambda cls: (cls(8, 32), torch.rand(2, 5, 8)),
    "First": lambda cls: (cls(), torch.rand(2, 5, 8)),
    "GPT": lambda cls: (cls(7, 6, D=8, H=2), torch.arange(12).reshape(2, 6) % 7),
    "LeNet": lambda cls: (cls(), torch.rand(2, 1, 28, 28)),
    "LearnedPlaces": lambda cls: (cls(6, 8), torch.arange(12).reshape(2, 6) % 7),
    "ResNet": lambda cls: (cls((1, 2), 5, width=4), torch.rand(4, 3, 32, 32)),
    "ResidualBlock": lambda cls: (cls(8, 2), torch.rand(4, 8, 6, 6)),
    "SelfAttentionBlock": lambda cls: (cls(8, 2, causal=True), torch.rand(2, 5, 8)),
    "SquaredReLU": lambda cls: (cls(), torch.rand(2, 3) - 0.5),
    "Transformer": lambda cls: (
        cls(7, 6, D=8, H=2, hidden=16),
        (torch.randint(7, (2, 5)), torch.randint(6, (2, 4))),
    ),
    "TransformerDecoder": lambda cls: (cls(8, 2, 2, 16), (torch.rand(2, 4, 8), torch.rand(2, 5, 8))),
    "TransformerEncoder": lambda cls: (cls(8, 2, 2, 16), torch.rand(2, 5, 8)),
    "ViT": lambda cls: (cls(), torch.rand(2, 1, 28, 28)),
}

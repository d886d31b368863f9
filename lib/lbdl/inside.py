"""Look inside a model while it runs."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def attention_maps(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """The attention scores (B, H, T, S) of a model in one forward pass, by the names of its layers.

    Asked is every module that has a method `scores`, which takes what its forward takes (but a cache), such as
    chapter 5's Attention.

    Raises:
        ValueError: the model has no such module.
    """
    found, hooks = {}, []

    def ask(name: str):
        def hook(layer, given, options):
            options = {key: value for key, value in options.items() if key != "cache"}
            found[name] = layer.scores(*given, **options)

        return hook

    for name, module in model.named_modules():
        if hasattr(module, "scores"):
            hooks.append(module.register_forward_pre_hook(ask(name), with_kwargs=True))
    if not hooks:
        raise ValueError(f"attention_maps: expected a model with attention, got {type(model).__name__}")
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found

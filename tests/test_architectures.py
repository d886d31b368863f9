"""What chapter 5's networks refuse, and that weights of torchvision's ResNet-50 would fit ours."""

import pytest
import torch
from lbdl.chapters.ch05 import (
    GPT,
    Attention,
    EncoderLayer,
    LeNet,
    ResNet,
    TransformerEncoder,
    ViT,
    generate,
)
from torch import nn

from lbdl import attention_maps


def tokens(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


@pytest.mark.parametrize("rotary", [None, 10_000.0])
def test_a_text_beyond_the_context_is_refused(rotary):
    gpt = GPT(5, T=6, D=8, H=2, rotary=rotary)
    assert gpt(tokens(6)).shape == (1, 6, 5)
    with pytest.raises(ValueError, match=r"GPT: expected tokens \(B, 1 to 6\), got \(1, 7\)"):
        gpt(tokens(7))


@pytest.mark.parametrize(
    "count, options, words",
    [
        (0, {}, r"expected a prompt \(B, T\), T ≥ 1, got \(1, 0\)"),
        (3, {"temperature": -0.1}, "expected temperature ≥ 0, top_k ≥ 1, got -0.1, None"),
        (3, {"top_k": 0}, "expected temperature ≥ 0, top_k ≥ 1, got 1.0, 0"),
    ],
)
def test_generate_refuses_what_makes_no_sense(count, options, words):
    with pytest.raises(ValueError, match=f"generate: {words}"):
        generate(GPT(5, T=6, D=8, H=2), tokens(count), 2, **options)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Attention(8, 3), "Attention: expected D to be a multiple of H, got 8 and 3"),
        (lambda: ResNet(stem="tiny"), "ResNet: expected stem to be 'large' or 'small', got 'tiny'"),
        (lambda: ViT(size=28, patch=5), "ViT: expected size to be a multiple of patch, got 28, 5"),
        (
            lambda: ViT()(torch.zeros(1, 3, 28, 28)),
            r"ViT: expected images \(B, \*\(1, 28, 28\)\), got \(1, 3, 28, 28\)",
        ),
        (
            lambda: LeNet()(torch.zeros(1, 1, 32, 32)),
            r"LeNet: expected images \(B, 1, 28, 28\), got \(1, 1, 32, 32\)",
        ),
    ],
)
def test_wrong_sizes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def entries(conv: str, norm: str, C: int, C_out: int, K: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a convolution without bias, and of the batch normalization after it."""
    found = {f"{conv}.weight": (C_out, C, K, K), f"{norm}.num_batches_tracked": ()}
    return found | {f"{norm}.{name}": (C_out,) for name in ("weight", "bias", "running_mean", "running_var")}


def test_resnet_50_has_the_names_and_shapes_of_torchvisions():
    """By the table of He et al. (2016) and the names that torchvision uses, without a look at our classes."""
    expected, C = entries("conv1", "bn1", 3, 64, 7), 64
    for stage, (depth, hidden) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            expected |= entries(f"{at}.conv1", f"{at}.bn1", C, hidden, 1)
            expected |= entries(f"{at}.conv2", f"{at}.bn2", hidden, hidden, 3)
            expected |= entries(f"{at}.conv3", f"{at}.bn3", hidden, 4 * hidden, 1)
            if block == 0:
                expected |= entries(f"{at}.downsample.0", f"{at}.downsample.1", C, 4 * hidden, 1)
            C = 4 * hidden
    expected |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    with torch.device("meta"):
        assert {name: tuple(values.shape) for name, values in ResNet().state_dict().items()} == expected


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}])
def test_without_temperature_or_choice_the_likeliest_token_is_written(options):
    torch.manual_seed(0)
    gpt, prompt = GPT(11, T=20, D=24, H=3), torch.arange(8).reshape(2, 4)
    for w in gpt.parameters():
        nn.init.normal_(w)
    written = generate(gpt, prompt, 9, **options)
    assert written.shape == (2, 13) and torch.equal(written[:, :4], prompt)
    assert torch.equal(written[:, 4:], gpt(written[:, :-1])[:, 3:].argmax(2))


def test_a_causal_encoder_ignores_padding_and_what_comes_later():
    torch.manual_seed(0)
    encoder, x = (
        TransformerEncoder(12, 3, 2, 24, causal=True).double(),
        torch.randn(4, 9, 12).double(),
    )
    padded, is_token = (
        nn.functional.pad(x, (0, 0, 0, 3), value=5.0),
        torch.arange(12).expand(4, 12) < 9,
    )
    torch.testing.assert_close(encoder(padded, mask=is_token)[:, :9], encoder(x))
    torch.testing.assert_close(encoder(x)[:, :5], encoder(x[:, :5]))


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_layer_is_pytorchs(norm_first):
    torch.manual_seed(0)
    ours = EncoderLayer(12, 3, 48, norm_first).double()
    theirs = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", 1e-5, True, norm_first).double()
    attention, named = ours.attention.attention, dict(theirs.named_parameters())
    for kind in ("weight", "bias"):
        thirds = [getattr(part, kind) for part in (attention.query, attention.key, attention.value)]
        named[f"self_attn.in_proj_{kind}"].data = torch.cat(thirds).data
        pairs = {
            "self_attn.out_proj": attention.out,
            "norm1": ours.attention.norm,
            "norm2": ours.feed_forward.norm,
        }
        pairs |= {"linear1": ours.feed_forward.layers[0], "linear2": ours.feed_forward.layers[2]}
        for name, part in pairs.items():
            getattr(part, kind).data += torch.randn(getattr(part, kind).shape).double() / 5
            named[f"{name}.{kind}"].data = getattr(part, kind).data
    x = torch.randn(2, 5, 12).double()
    torch.testing.assert_close(ours(x), theirs(x))


def test_attention_maps_are_those_that_the_model_uses():
    torch.manual_seed(0)
    layer, x = Attention(8, 2).double(), torch.randn(1, 5, 8).double()
    model = nn.Sequential(nn.Identity(), layer)
    (scores,) = attention_maps(model, x).values()
    values = layer.heads(layer.value(x))  # (1, H, 5, D / H)
    torch.testing.assert_close(layer.out((scores @ values).transpose(1, 2).flatten(2)), model(x))
    with pytest.raises(ValueError, match="attention_maps: expected a model with attention, got Linear"):
        attention_maps(nn.Linear(2, 2), torch.zeros(1, 2))

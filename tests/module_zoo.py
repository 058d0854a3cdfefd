"""Small models as users write them, for the tests of morphisms of modules.

`build(name, seed)` returns a model and an example; `NAMES` lists the small models. torchvision's models are built by
`vision(name)`, at the smallest resolution that they accept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

VOCABULARY = 50


class MLP(nn.Module):
    """Two hidden layers with a batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(F.relu(self.norm(self.a(x))))))


class Attention(nn.Module):
    """Causal attention. The head size comes from the input's width, is kept, or the number of heads is inferred by a view."""

    def __init__(self, width: int, heads: int, style: str) -> None:
        super().__init__()
        self.n_head, self.n_embd, self.style = heads, width, style
        if style != "width":
            self.head_dim = width // heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        if self.style == "width":
            q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
            q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.style == "kept":
            q, k, v = self.c_attn(x).chunk(3, dim=2)
            q, k, v = (t.view(B, T, self.n_head, self.head_dim).transpose(1, 2) for t in (q, k, v))
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(self.head_dim)
            mask = torch.tril(torch.ones(T, T, dtype=torch.bool))
            y = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        else:
            q, k, v = self.c_attn(x).view(B, T, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))


class Block(nn.Module):
    """A transformer block that normalises first."""

    def __init__(self, width: int, heads: int, style: str) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, style)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A GPT with tied weights, in the style of nanoGPT: `n_head` and `n_embd` are numbers of its classes."""

    def __init__(self, style: str = "width", width: int = 16, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, width), nn.Embedding(12, width)
        self.h = nn.ModuleList(Block(width, heads, style) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class LlamaLayer(nn.Module):
    """RMSNorm, rotary positions, grouped queries, a gated MLP."""

    angles: Tensor

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.head_dim = heads, groups, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.head_dim, bias=False)
        self.v = nn.Linear(width, groups * self.head_dim, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 24, bias=False), nn.Linear(width, 24, bias=False)
        self.down = nn.Linear(24, width, bias=False)
        speeds = 10000 ** -(torch.arange(0, self.head_dim, 2) / self.head_dim)
        self.register_buffer("angles", torch.outer(torch.arange(12.0), speeds))

    def rotate(self, x: Tensor) -> Tensor:
        cos, sin = self.angles[: x.shape[2]].cos(), self.angles[: x.shape[2]].sin()
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        h = self.norm1(x)
        q = self.q(h).view(B, T, self.heads, self.head_dim).transpose(1, 2)
        k, v = (f(h).view(B, T, self.groups, self.head_dim).transpose(1, 2) for f in (self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """A language model in the style of Llama."""

    def __init__(self, width: int = 16, heads: int = 4, groups: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, groups) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class LSTMModel(nn.Module):
    """An LSTM language model with tied weights: the embedding is as wide as the last layer."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.rnn = nn.LSTM(8, 8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.out = nn.Linear(8, VOCABULARY)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.norm(self.rnn(self.embed(tokens))[0]))


class Recurrent(nn.Module):
    """A bidirectional recurrent layer and a classifier."""

    def __init__(self, kind: type[nn.RNNBase] = nn.GRU, layers: int = 2) -> None:
        super().__init__()
        self.rnn = kind(5, 6, layers, batch_first=True, bidirectional=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class CNN(nn.Module):
    """Group normalisation, a grouped convolution, and a flattening before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(12)
        self.fc1 = nn.Linear(12 * 4 * 4, 10)
        self.fc2 = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    """A stem, two residual blocks in an nn.Sequential, and a classifier after global pooling."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))
        self.out = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(x)).mean((2, 3)))


class Encoder(nn.Module):
    """torch's transformer encoder, which normalises last, between two linear layers."""

    def __init__(self, width: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        layer = nn.TransformerEncoderLayer(width, heads, 20, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.embed(x)).mean(1))


def _tokens() -> tuple[Tensor]:
    return (torch.randint(VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0)),)


def _few_tokens() -> tuple[Tensor]:
    # a recurrent layer is exported step by step
    return (_tokens()[0][:, :3],)


def _normal(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64),)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "mlp": (MLP, _normal(4, 5)),
    "cnn": (CNN, _normal(2, 3, 8, 8)),
    "resnet": (ResNet, _normal(2, 3, 6, 6)),
    "gpt": (GPT, _tokens),
    "gpt kept head size": (lambda: GPT("kept"), _tokens),
    "gpt inferred heads": (lambda: GPT("inferred"), _tokens),
    "llama": (Llama, _tokens),
    "lstm": (LSTMModel, _few_tokens),
    "lstm normalised": (lambda: LSTMModel(norm=True), _few_tokens),
    "gru": (Recurrent, _normal(2, 3, 5)),
    "rnn": (lambda: Recurrent(nn.RNN, 1), _normal(2, 3, 5)),
    "encoder": (Encoder, _normal(2, 4, 5)),
}
NAMES = tuple(MODELS)


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a model with weights and buffers drawn from a seed, and an example."""
    make, example = MODELS[name]
    return _drawn(make, seed, dtype), tuple(x.to(dtype) if x.is_floating_point() else x for x in example())


def vision(
    name: str, seed: int = 0, dtype: torch.dtype = torch.float64, size: int = 32, **options: Any
) -> tuple[nn.Module, tuple[Tensor]]:
    """Return a classifier of torchvision and an example of two images. The options are those of its constructor."""
    import torchvision

    model = _drawn(lambda: torchvision.models.get_model(name, weights=None, **options), seed, dtype)
    return model, (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype),)


def _drawn(make: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> nn.Module:
    """Return a model whose normalisations are no identities: their parameters and statistics are drawn as well."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().to(dtype)
        for module in model.modules():
            for tensor in (getattr(module, "weight", None), getattr(module, "bias", None)):
                if "Norm" in type(module).__name__ and tensor is not None:
                    tensor.data.add_(0.3 * torch.randn_like(tensor))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
        for parameter in model.parameters():
            # the head of a vision transformer: all outputs would be zero
            if parameter.dim() > 1 and not parameter.any():
                nn.init.normal_(parameter)
    return model

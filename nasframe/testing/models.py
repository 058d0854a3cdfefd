"""Small models with sizes down to 1, on which the laws of morphisms of modules are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from nasframe.testing.examples import Model

#: the number of examples in a batch
BATCH = 6


def models() -> tuple[SearchStrategy[Model], ...]:
    """Return a strategy for each kind of model."""
    return tuple(
        _sized(build, count) for build, count in ((dense, 4), (convolutional, 3), (temporal, 2), (residual, 2), (recurrent, 2))
    )


def _sized(build: Callable[..., tuple[nn.Module, Any]], count: int) -> SearchStrategy[Model]:
    # Two sizes only: tracing a model is most of the cost of a check, and morphisms share the models that were traced.
    return st.tuples(*[st.sampled_from([1, 3])] * count).map(lambda sizes: Model(build, sizes))


def dense(inputs: int, first: int, second: int, outputs: int) -> tuple[nn.Module, Tensor]:
    """Return linear layers with BatchNorm and dropout. The first hidden unit is dead: its weights and bias are zero."""
    model = nn.Sequential(
        nn.Linear(inputs, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.BatchNorm1d(second),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(second, outputs),
    )
    for parameter in model[0].parameters():
        # The derivative of ReLU at zero is zero, so that training leaves them so.
        parameter.data[0] = 0.0
    return model, torch.randn(BATCH, inputs)


def convolutional(channels: int, first: int, second: int) -> tuple[nn.Module, Tensor]:
    """Return dilated convolutions of images with BatchNorm, and a linear layer of the means of their channels."""
    model = nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=2, dilation=2),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding="same", dilation=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 2),
    )
    return model, torch.randn(BATCH, channels, 5, 4)


def temporal(channels: int, hidden: int) -> tuple[nn.Module, Tensor]:
    """Return dilated convolutions along time."""
    model = nn.Sequential(
        nn.Conv1d(channels, hidden, 3, padding=4, dilation=4),
        nn.Sigmoid(),
        nn.Conv1d(hidden, hidden, 3, padding=2, dilation=2),
        nn.Tanh(),
        nn.Conv1d(hidden, 1, 1),
    )
    return model, torch.randn(BATCH, channels, 9)


class Block(nn.Module):
    """A residual block that normalises first."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus a branch."""
        out: Tensor = x + self.second(torch.relu(self.first(self.norm(x))))
        return out


def residual(width: int, hidden: int) -> tuple[nn.Module, Tensor]:
    """Return residual blocks between linear layers."""
    blocks = nn.Sequential(Block(width, hidden), Block(width, hidden))
    return nn.Sequential(nn.Linear(3, width), blocks, nn.Linear(width, 2)), torch.randn(BATCH, 3)


class Language(nn.Module):
    """A recurrent model of tokens."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.recurrent = nn.LSTM(width, hidden, batch_first=True)
        self.scores = nn.Linear(hidden, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores of the next token at each step."""
        states, _ = self.recurrent(self.embedding(tokens))
        scores: Tensor = self.scores(states)
        return scores


def recurrent(width: int, hidden: int) -> tuple[nn.Module, Tensor]:
    """Return a recurrent model of tokens."""
    return Language(width, hidden), torch.randint(5, (BATCH, 3))

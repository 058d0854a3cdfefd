"""What to compare a network on images with: modules from normalised images (batch, channels, height, width) to alphas."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasframe import Split

#: what logistic regression may weigh the sum of the training losses with, against half the sum of squared weights
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: the one of them that it takes where there is no validation part
DEFAULT = STRENGTHS[-1:]
#: it sees images that are higher or wider averaged down to this height and width
SIDE = 32


def references(train: Split, validation: Split, classes: int, parameters: int) -> Mapping[str, Callable[[], nn.Module]]:
    """The majority class and logistic regression, neither of which is trained, whatever the number of parameters."""
    return {
        "majority class": functools.partial(majority, train, classes),
        "logistic regression": functools.partial(logistic_regression, train, validation),
    }


class Constant(nn.Module):
    """Gives the same alphas for all images."""

    def __init__(self, alphas: Tensor) -> None:
        super().__init__()
        self.alphas = nn.Buffer(alphas)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, ...) to (batch, classes)."""
        return self.alphas.expand(len(inputs), -1)


def majority(train: Split, classes: int) -> Constant:
    """The logarithms of the classes' shares of the training images."""
    example, _ = train.batch(torch.arange(1))
    labels = torch.cat([y for _, y in train.batches()])
    return Constant(labels.bincount(minlength=classes).to(example).div(train.size).log())


def logistic_regression(train: Split, validation: Split) -> nn.Sequential:
    """scikit-learn's on the pixels, at the strength that has the least validation loss; its parameters are fixed.

    lbfgs takes 100 iterations at most at each strength. With 5,000 images of 3 x 32 x 32 that is some ten seconds on one core,
    and with more in proportion.
    """
    example, _ = train.batch(torch.arange(1))
    pool = nn.AdaptiveAvgPool2d(tuple(min(side, SIDE) for side in example.shape[2:]))
    known, held_out = (_pixels(split, pool) for split in (train, validation))
    fits = [_fitted(*known, strength) for strength in (STRENGTHS if validation.size else DEFAULT)]
    best = min(fits, key=lambda fit: cross_entropy(fit(held_out[0]), held_out[1]).item())
    return nn.Sequential(pool, nn.Flatten(), best).to(example)


def _pixels(split: Split, pool: nn.Module) -> tuple[Tensor, Tensor]:
    """The images of a split (images, pixels) and their labels, in memory."""
    x, y = zip(*((pool(x).flatten(1).cpu(), y.cpu()) for x, y in split.batches()), strict=True)
    return torch.cat(x), torch.cat(y)


def _fitted(x: Tensor, y: Tensor, strength: float) -> nn.Linear:
    from sklearn.exceptions import ConvergenceWarning  # slower to import than torch
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where the iterations end first, it was stopped early
        found = LogisticRegression(C=strength).fit(x.numpy(), y.numpy())
    weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if len(bias) == 1:  # of two classes scikit-learn gives the alpha of the second
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    linear = nn.Linear(x.shape[1], len(bias), dtype=x.dtype).requires_grad_(False)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear

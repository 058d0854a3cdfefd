"""References for image networks: modules from standardised images (batch, channels, height, width) to class scores."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasframe import Split

#: the factors of the sum of the training losses, against half the sum of squared weights, that logistic regression tries
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: the factors that it tries where there is no validation part
DEFAULT = STRENGTHS[-1:]
#: the height and width to which it averages larger images
SIDE = 32


def references(train: Split, validation: Split, classes: int, parameters: int) -> Mapping[str, Callable[[], nn.Module]]:
    """Return the majority class and logistic regression.

    Both are fitted when they are built, and none is trained with the networks.

    Args:
        train: the images to fit them on.
        validation: the images on which the strength of logistic regression is chosen.
        classes: the number of classes.
        parameters: the number of parameters of the found network, which does not matter here.
    """
    return {
        "majority class": functools.partial(majority, train, classes),
        "logistic regression": functools.partial(logistic_regression, train, validation),
    }


class Constant(nn.Module):
    """A classifier with the same scores for all images."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Buffer(scores)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores for each image, of shape (batch, classes)."""
        return self.scores.expand(len(inputs), -1)


def majority(train: Split, classes: int) -> Constant:
    """Return the best constant classifier: its scores are the logarithms of the shares that the classes have in training."""
    example, _ = train.batch(torch.arange(1))
    # Cross entropy is least at the logarithms of the shares. A class without examples gets -inf.
    labels = torch.cat([y for _, y in train.batches()])
    return Constant(labels.bincount(minlength=classes).to(example).div(train.size).log())


def logistic_regression(train: Split, validation: Split) -> nn.Sequential:
    """Return scikit-learn's logistic regression on the pixels, at the strength with the smallest validation loss.

    Its parameters need no gradient. At each strength lbfgs takes at most 100 iterations; with 5,000 images of 3 x 32 x 32 that is
    about ten seconds on one core.
    """
    example, _ = train.batch(torch.arange(1))
    pool = nn.AdaptiveAvgPool2d(tuple(min(side, SIDE) for side in example.shape[2:]))
    # Large images are averaged first: the time of a fit grows with the number of pixels.
    known, held_out = (_pixels(split, pool) for split in (train, validation))
    fits = [_fitted(*known, strength) for strength in (STRENGTHS if validation.size else DEFAULT)]
    # without a validation split there is a single fit, and the loss, which is NaN, does not matter
    best = min(fits, key=lambda fit: cross_entropy(fit(held_out[0]), held_out[1]).item())
    return nn.Sequential(pool, nn.Flatten(), best).to(example)


def _pixels(split: Split, pool: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the images of a split, of shape (images, pixels), and their labels."""
    x, y = zip(*((pool(x).flatten(1).cpu(), y.cpu()) for x, y in split.batches()), strict=True)
    return torch.cat(x), torch.cat(y)


def _fitted(x: Tensor, y: Tensor, strength: float) -> nn.Linear:
    from sklearn.exceptions import ConvergenceWarning  # slower to import than torch
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that ends with the iterations is an early stop
        found = LogisticRegression(C=strength).fit(x.numpy(), y.numpy())
    weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if len(bias) == 1:  # for two classes scikit-learn gives the score of the second one only
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    linear = nn.Linear(x.shape[1], len(bias), dtype=x.dtype).requires_grad_(False)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear

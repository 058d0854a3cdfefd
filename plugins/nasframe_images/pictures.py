"""Pictures: images with labels, a part to train on and a part to test on, checked, and shared out class by class."""

from __future__ import annotations

import hashlib

import attrs
import numpy as np
import torch
from torch import Tensor

from nasframe import Seed
from nasframe.errors import DataError

#: more than these are no channels, but another order of the axes
CHANNELS = 4


@attrs.frozen(eq=False)
class Labelled:
    """Images (images, channels, height, width) in uint8 and their labels (images,) in int64."""

    x: Tensor
    y: Tensor

    def at(self, positions: Tensor) -> Labelled:
        """Those at these positions."""
        return Labelled(self.x[positions], self.y[positions])


@attrs.frozen(eq=False)
class Pictures:
    """What errors call the whole; the names of its classes, by label; the part to train on and the part to test on."""

    source: str
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled

    def digest(self) -> str:
        """The SHA-256 of all pixels and labels."""
        found = hashlib.sha256()
        for tensor in (self.train.x, self.train.y, self.test.x, self.test.y):
            found.update(repr(tuple(tensor.shape)).encode())
            found.update(tensor.numpy().data)
        return found.hexdigest()


def checked(
    source: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: np.ndarray | None = None,
) -> Pictures:
    """The pictures in arrays x and y of two parts; what cannot be used is refused by the name of its array.

    Without names for the classes there are as many as there are labels in the training part.
    """
    names = np.unique(train[1]) if classes is None else classes.ravel()
    if len(names) < 2:
        raise DataError(f"{source} has {len(names)} class, with nothing to tell it from; give images of two classes or more")
    found = Pictures(
        source,
        tuple(map(str, names)),
        _labelled(source, "train", *train, len(names)),
        _labelled(source, "test", *test, len(names)),
    )
    one, other = (tuple(part.x.shape[1:]) for part in (found.train, found.test))
    if one != other:
        raise DataError(
            f"{source}: an image of x_train has (channels, height, width) {one}, one of x_test {other}; give images of one shape"
        )
    return found


def stratified(labels: Tensor, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
    """Positions of so many examples, and of all others, both ascending: of each class its share, to less than one example."""
    sizes = labels.bincount()
    exact = sizes * count
    taken = exact // len(labels)
    left = count - int(taken.sum())
    taken[(exact % len(labels)).argsort(descending=True, stable=True)[:left]] += 1
    shuffled = torch.randperm(len(labels), generator=seed.generator())
    order = shuffled[labels[shuffled].argsort(stable=True)]  # class by class, and within one as shuffled
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    chosen = rank < taken[labels[order]]
    return order[chosen].sort()[0], order[~chosen].sort()[0]


def _labelled(source: str, part: str, x: np.ndarray, y: np.ndarray, classes: int) -> Labelled:
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[3:] > (CHANNELS,) or not x.size:
        raise DataError(
            f"{source}: x_{part} is an array of {x.dtype} of the shape {x.shape}; write one image or more in uint8, as (images, "
            f"height, width) or (images, height, width, channels), with at most {CHANNELS} channels"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
        raise DataError(
            f"{source}: y_{part} is an array of {y.dtype} of the shape {y.shape}; write a whole number for each image, "
            f"an array of integers of the shape {x.shape[:1]}"
        )
    for position in np.flatnonzero((y < 0) | (y >= classes))[:1]:
        raise DataError(
            f"{source}: y_{part}[{position}] is {y[position]}, which is no label of {classes} classes; write labels from 0 to "
            f"{classes - 1}"
        )
    images = x.reshape(*x.shape[:3], -1).transpose(0, 3, 1, 2)
    return Labelled(torch.tensor(images).contiguous(), torch.tensor(y.astype(np.int64)))

"""Labelled images in memory: their checks, and the class by class division into parts."""

from __future__ import annotations

import hashlib

import attrs
import numpy as np
import torch
from torch import Tensor

from nasframe import Seed
from nasframe.errors import DataError

#: images of fewer rows than this, with more channels, are taken for images whose channels come first
FEW_ROWS = 5


@attrs.frozen(eq=False)
class Labelled:
    """Images and their labels.

    Args:
        x: the images in uint8, of shape (images, channels, height, width).
        y: the labels in int64, of shape (images,).
    """

    x: Tensor
    y: Tensor

    def at(self, positions: Tensor) -> Labelled:
        """Return the examples at these positions."""
        return Labelled(self.x[positions], self.y[positions])


@attrs.frozen(eq=False)
class Pictures:
    """All images of a source, divided into parts.

    Args:
        source: the name of the source in messages.
        classes: the names of the classes, by label.
        train: the images to train on.
        test: the images for the final test.
        validation: the images for decisions, where the source has such a part.
        notes: what was read otherwise than a user may expect, a sentence each.
    """

    source: str
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    validation: Labelled | None = None
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Labelled]:
        """Return the parts by name: train, test and, if given, validation."""
        validation = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, "test": self.test, **validation}

    def digest(self) -> str:
        """Return the SHA-256 of all pixels and labels in hexadecimal."""
        found = hashlib.sha256()
        for part in self.parts.values():
            for tensor in (part.x, part.y):
                found.update(repr(tuple(tensor.shape)).encode())
                # The memory of the tensor itself, without a copy. Shapes come before, as equal bytes may be images of other
                # sizes.
                found.update(tensor.numpy().data)
        return found.hexdigest()


def checked(
    source: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: np.ndarray | None = None,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    notes: tuple[str, ...] = (),
) -> Pictures:
    """Return the images in arrays.

    Args:
        source: the name of the source in messages.
        train: images (x) and labels (y) to train on. x has the dtype uint8 and the shape (images, height, width) or (images, height,
            width, channels); y has whole numbers from 0, in the shape (images,) or (images, 1).
        test: those of the final test.
        classes: the names of the classes; by default there are as many classes as there are different labels in the training part.
        validation: those for decisions, if there is such a part.
        notes: what a user should know of the reading.

    Raises:
        DataError: an array cannot be used. The message names it.
    """
    names = np.unique(train[1]) if classes is None else classes.ravel()
    if len(names) < 2:
        raise DataError(f"{source} has {len(names)} class, but classification needs two; give images of two classes or more")
    arrays = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    parts = {name: _labelled(source, name, *part, len(names)) for name, part in arrays.items()}
    shapes = {name: tuple(part.x.shape[1:]) for name, part in parts.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise DataError(
                f"{source}: an image of x_train has (channels, height, width) {shapes['train']}, one of x_{name} {shape}; "
                "give images of one shape"
            )
    return Pictures(source, tuple(map(str, names)), parts["train"], parts["test"], parts.get("validation"), notes)


def stratified(labels: Tensor, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
    """Return the positions of a random choice of examples, and those of all others.

    The choice has of each class its share, to less than one example. Both results are ascending.

    Args:
        labels: the labels of all examples.
        count: the number of examples to choose.
        seed: the seed of the choice.
    """
    sizes = labels.bincount()
    # In whole numbers: the share of class c is sizes[c] * count / len(labels), and its remainder decides who gets one more.
    exact = sizes * count
    taken = exact // len(labels)
    # the examples that rounding down leaves go to the classes with the largest remainders
    left = count - int(taken.sum())
    taken[(exact % len(labels)).argsort(descending=True, stable=True)[:left]] += 1
    shuffled = torch.randperm(len(labels), generator=seed.generator())
    order = shuffled[labels[shuffled].argsort(stable=True)]  # class by class, and shuffled within each
    # The rank of each example within its class: its position less the number of examples of the classes before.
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    chosen = rank < taken[labels[order]]
    return order[chosen].sort()[0], order[~chosen].sort()[0]


def _labelled(source: str, part: str, x: np.ndarray, y: np.ndarray, classes: int) -> Labelled:
    given = f"{source}: x_{part} is an array of {x.dtype} of the shape {x.shape}"
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size:
        hint = ", for example (255 * x).round().astype('uint8') if the values are from 0 to 1" if x.dtype.kind == "f" else ""
        raise DataError(
            f"{given}; write one image or more in uint8{hint}, as (images, height, width) or (images, height, width, channels)"
        )
    # (images, 3, 32, 32) is accepted as images of 3 rows and 32 channels by its shape alone, and would train badly without
    # a word.
    if x.ndim == 4 and x.shape[1] < FEW_ROWS <= x.shape[3] == x.shape[2]:
        raise DataError(f"{given}, whose channels seem to come first; write them last: x_{part}.transpose(0, 2, 3, 1)")
    if y.shape == (len(x), 1):
        y = y[:, 0]
    if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
        hint = ", for example y.argmax(1) if each image has a score per class" if y.shape == (len(x), classes) else ""
        raise DataError(
            f"{source}: y_{part} is an array of {y.dtype} of the shape {y.shape}; write a whole number for each image{hint}, "
            f"an array of integers of the shape {x.shape[:1]}"
        )
    for position in np.flatnonzero((y < 0) | (y >= classes))[:1]:
        raise DataError(
            f"{source}: y_{part}[{position}] is {y[position]}, which is no label of {classes} classes; write labels from 0 to "
            f"{classes - 1}"
        )
    images = x.reshape(*x.shape[:3], -1).transpose(0, 3, 1, 2)
    return Labelled(torch.tensor(images).contiguous(), torch.tensor(y.astype(np.int64)))

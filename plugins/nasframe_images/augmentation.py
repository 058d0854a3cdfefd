"""Augmentation of training images: flips, crops and cutout (Liu et al. 2019; DeVries & Taylor 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def moves(height: int, width: int, flip: bool, crop: int) -> Sequence[Callable[[Tensor], Tensor]]:
    """Return the random moves of one image of that size.

    Args:
        height: of the image.
        width: of the image.
        flip: whether it is mirrored from left to right with a probability of one half.
        crop: by how many zeros it is padded before it is cropped to its size at a random position.
    """
    from torchvision.transforms import v2  # slower to import than torch

    flips = [v2.RandomHorizontalFlip()] if flip else []
    return [*flips, v2.RandomCrop((height, width), padding=crop)] if crop else flips


def moved(images: Tensor, moves: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Return images of shape (images, channels, height, width) after random moves, drawn for each image."""
    return torch.stack([_moved(image, moves) for image in images])


def _moved(image: Tensor, moves: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    for move in moves:
        image = move(image)
    return image


def cut(images: Tensor, side: int) -> Tensor:
    """Return the images with a square of zeros at a random position in each.

    The centre of the square is any pixel, so that the square may reach over the border.
    """
    size, _, height, width = images.shape
    # A square is the product of an interval of rows and one of columns.
    hidden = _near(height, side, size).unsqueeze(2) & _near(width, side, size).unsqueeze(1)
    return images.masked_fill(hidden.unsqueeze(1).to(images.device), 0)


def _near(length: int, side: int, size: int) -> Tensor:
    """Return which positions along an axis are in the squares of `size` images, of shape (size, length)."""
    # the distance of each position from the first one in the square
    offsets = torch.arange(length) - torch.randint(length, (size, 1)) + side // 2
    return (offsets >= 0) & (offsets < side)

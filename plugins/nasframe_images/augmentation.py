"""How images are drawn for training: flipped, cropped, cut out (Liu et al. 2019; DeVries & Taylor 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def moves(height: int, width: int, flip: bool, crop: int) -> Sequence[Callable[[Tensor], Tensor]]:
    """What is done to one image of that size: flipped from left to right with even odds, then surrounded by `crop` zeros and
    cropped to its size at any place.
    """
    from torchvision.transforms import v2  # slower to import than torch

    flips = [v2.RandomHorizontalFlip()] if flip else []
    return [*flips, v2.RandomCrop((height, width), padding=crop)] if crop else flips


def moved(images: Tensor, moves: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """The images (images, channels, height, width), each after moves of its own."""
    return torch.stack([_moved(image, moves) for image in images])


def _moved(image: Tensor, moves: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    for move in moves:
        image = move(image)
    return image


def cut(images: Tensor, side: int) -> Tensor:
    """The images with a square of zeros in each, whose centre is any pixel, so that it may reach over the border."""
    size, _, height, width = images.shape
    hidden = _near(height, side, size).unsqueeze(2) & _near(width, side, size).unsqueeze(1)
    return images.masked_fill(hidden.unsqueeze(1).to(images.device), 0)


def _near(length: int, side: int, size: int) -> Tensor:
    """For so many images, which of the places along an axis lie in the square: (size, length)."""
    offsets = torch.arange(length) - torch.randint(length, (size, 1)) + side // 2
    return (offsets >= 0) & (offsets < side)

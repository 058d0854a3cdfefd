"""The task of classifying images: digits, sets of torchvision, a folder of image files, or arrays in a file."""

from __future__ import annotations

import nasframe
from nasframe_images.task import Images

__all__ = ["Images", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the task of this package."""
    return [Images]

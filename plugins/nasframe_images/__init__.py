"""Classification of images: a task on digits, on sets of torchvision's, on a folder of images or on arrays in a file."""

from __future__ import annotations

import nasframe
from nasframe_images.task import Images

__all__ = ["Images", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The task of this package."""
    return [Images]

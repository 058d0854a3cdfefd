"""Classification of images: a task on digits, on sets of torchvision's, on a folder of images or on arrays in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_images.task import Images

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["Images", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The task of this package."""
    return [Images]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Options to draw from."""
    from nasframe_images.examples import examples

    return examples()

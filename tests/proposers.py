"""A plugin of third-party architects and of small parts that worker processes can find."""

from __future__ import annotations

from controller import Controller
from halving import Halving
from inheriting import Inheriting
from standins import STANDINS

import nasframe


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the three architects of the third party, and the stand-ins that they search with."""
    return [Inheriting, Controller, Halving, *STANDINS]

"""A pruner that does not take what it is given."""

from typing import ClassVar

import attrs

import nasframe


@attrs.frozen
class Weakest(nasframe.Pruner):
    """All but the strongest candidate of each node."""

    name: ClassVar[str] = "weakest"

    def remove(self):
        return {}


@nasframe.hookimpl
def nasframe_parts():
    return [Weakest]

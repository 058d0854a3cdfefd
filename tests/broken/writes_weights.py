"""A pruner that sets the scores of what it removes to zero, in place."""

from typing import ClassVar

import attrs

import nasframe
from nasframe.interfaces.pruner import all_but_strongest


@attrs.frozen
class Weakest(nasframe.Pruner):
    """All but the strongest candidate of each node."""

    name: ClassVar[str] = "weakest"

    def remove(self, structure, scores):
        gone = all_but_strongest(structure, scores)
        for address, site in structure.sites():
            if address in scores:
                for place, candidate in enumerate(site.candidates):
                    if candidate.id in gone.get(address, ()):
                        scores[address][place] = 0.0
        return gone


@nasframe.hookimpl
def nasframe_parts():
    return [Weakest]

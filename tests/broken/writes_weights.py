"""A pruner that sets the weights of what goes to zero."""

from typing import ClassVar

import attrs

import nasframe


@attrs.frozen
class Weakest(nasframe.Pruner):
    """All but the strongest candidate of each node."""

    name: ClassVar[str] = "weakest"

    def remove(self, structure, mixing):
        gone = nasframe.all_but_strongest(structure, mixing)
        for address, site in structure.sites():
            if address in mixing:
                for place, candidate in enumerate(site.candidates):
                    if candidate.id in gone.get(address, ()):
                        mixing[address][place] = 0.0
        return gone


@nasframe.hookimpl
def nasframe_parts():
    return [Weakest]

"""What the parts of a plugin are tried on.

By convention the plugin has a submodule `examples` with a function `examples` that returns `Examples`. A plugin that is a single
module has the hook `nasframe_examples` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from hypothesis.strategies import SearchStrategy

from nasframe import Backbone, Operation, Part, Strategy, Task


@attrs.frozen
class Habitat:
    """Searches of one backbone on noise, of many sizes: where the laws try a part out.

    Args:
        backbone: its class.
        strategies: from operations that shall be among the candidates to searches, as `strategies.searches` makes them. Without
            any, the habitat chooses for itself. Where they do not fit the backbone, building one says so with an error.
    """

    backbone: type[Backbone]
    strategies: Callable[[tuple[Operation, ...]], SearchStrategy[Strategy]]


@attrs.frozen
class Waiver:
    """A law that a part is known to break.

    Args:
        part: its class.
        law: the law's id.
        reason: why that is right, or has to wait.
        until: the version of the plugin's distribution at which the waiver expires.
    """

    part: type[Part]
    law: str
    reason: str
    until: str


@attrs.frozen(kw_only=True)
class Examples:
    """What the parts of a plugin are tried on. A part that is not among them is tried with the defaults of its options alone.

    Args:
        parts: for a part whose options matter, or that cannot be made without, parts to draw from.
        habitats: for each backbone of the plugin, where its own laws are tried and others' operations and morphisms, too.
        sources: for a task, a function that writes a source into a folder, and the same with another test part: the two
            tasks must train and validate on the same.
        waivers: laws that are known to be broken, with their reasons.
    """

    parts: Mapping[type[Part], SearchStrategy[Any]] = attrs.field(factory=dict)
    habitats: tuple[Habitat, ...] = ()
    sources: Mapping[type[Task], Callable[[Path], tuple[Task, Task]]] = attrs.field(factory=dict)
    waivers: tuple[Waiver, ...] = ()

"""What the parts of a plugin are tried on.

By convention a plugin has a submodule `examples` with a function `examples` that returns `Examples`. A plugin that is a single
module implements the hook `nasframe_examples` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from hypothesis.strategies import SearchStrategy
from torch import nn

from nasframe import Backbone, Operation, Part, Strategy, Task


@attrs.frozen
class Habitat:
    """Small searches with a backbone, in which laws try the backbone, operations and morphisms.

    Args:
        backbone: the class of the backbone.
        strategies: a function from operations to a Hypothesis strategy of searches, made by `strategies.searches`, that have
            these operations among their candidates. Without operations it chooses some itself. Searches whose backbone does not
            accept the operations may raise an error.
    """

    backbone: type[Backbone]
    strategies: Callable[[tuple[Operation, ...]], SearchStrategy[Strategy]]


@attrs.frozen
class Model:
    """A small model, which need not be a network of a search, on which laws try morphisms of modules.

    Args:
        build: a function of the sizes that returns a new model and its example: a tensor, a tuple of arguments, or a dictionary of
            keyword arguments. It draws from torch's global generator only, and in float32.
        sizes: the arguments of the function.
    """

    build: Callable[..., tuple[nn.Module, Any]]
    sizes: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.build.__name__}({', '.join(map(str, self.sizes))})"


@attrs.frozen
class Waiver:
    """A law that a part is known to break.

    Args:
        part: the class of the part.
        law: the id of the law.
        reason: why the part breaks it.
        until: the version of the plugin's distribution with which the waiver expires.
    """

    part: type[Part]
    law: str
    reason: str
    until: str


@attrs.frozen(kw_only=True)
class Examples:
    """What the parts of a plugin are tried on.

    Args:
        parts: strategies of parts with different options. A part without one is tried with the defaults of its options.
        habitats: searches with the backbones of the plugin. The operations and morphisms of all plugins are tried there.
        models: strategies of models, on which the morphisms of modules of all plugins are tried, beside those of nasframe.
        sources: for a task, a function that writes two sources of data into a folder, which differ in the test split
            alone, and returns a task for each.
        waivers: laws that parts are known to break.
    """

    parts: Mapping[type[Part], SearchStrategy[Any]] = attrs.field(factory=dict)
    habitats: tuple[Habitat, ...] = ()
    models: tuple[SearchStrategy[Model], ...] = ()
    sources: Mapping[type[Task], Callable[[Path], tuple[Task, Task]]] = attrs.field(factory=dict)
    waivers: tuple[Waiver, ...] = ()

"""The interface of morphisms of modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import attrs

from nasframe.change.claim import Claim
from nasframe.change.map import Map
from nasframe.interfaces.part import Part
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import ModuleEdit
from nasframe.seeds import Seed


@attrs.frozen
class Place:
    """A place of a model at which a morphism applies, or the reason why it does not.

    Attributes:
        name: the name that `rewrite` receives, of a module or a tensor.
        size: the present size: units, channels, heads, taps, or the number of blocks.
        note: what a user should know, for example "by an integer factor only".
        refusal: why the change is refused there; None if it is not.
    """

    name: str
    size: int
    note: str = ""
    refusal: str | None = None


@attrs.frozen(eq=False)
class Question:
    """A number that a module keeps, whose new value does not follow from the code.

    Attributes:
        module: the name of the module.
        attribute: the name of the attribute.
        readings: the values that it may get.
    """

    module: str
    attribute: str
    readings: Sequence[int]


@attrs.frozen
class Undo:
    """What reverts a change: another morphism, and its place in the child.

    Attributes:
        morphism: the morphism.
        at: the place.
    """

    morphism: ModuleMorphism
    at: str


@attrs.frozen(eq=False)
class Rewrite:
    """What a morphism does to a model: the edits that give a copy its shapes, and the map that fills it.

    Attributes:
        edits: the edits, in order.
        map: by the name of a tensor of the child, how it is filled. A tensor of the child without an entry is a copy of the tensor
            with the same name; if the parent has none, it keeps its fresh initialisation.
        claim: how far the change preserves the function.
        questions: numbers that the user must give.
        otherwise: the claim if the measured distance is larger than `claim` allows; None if such a change is wrong.
        undo: what reverts the change; None if no morphism does. Directly after the change it restores all shapes of the parent, its
            outputs, and its tensors up to rounding (see `ModuleChange.undone`).
    """

    edits: tuple[ModuleEdit, ...]
    map: Map
    claim: Claim
    questions: tuple[Question, ...] = ()
    otherwise: Claim | None = None
    undo: Undo | None = None


class ModuleMorphism(Part):
    """Base class of morphisms of any `torch.nn.Module`, such as a widening. The fields are its options.

    Required: `name`, `places` and `rewrite`. `nasframe.grow` applies a morphism, whoever wrote it.
    """

    kind: ClassVar[str] = "module_morphism"

    @abstractmethod
    def places(self, coupling: Coupling) -> Iterable[Place]:
        """Yield the places of a model, also those at which the morphism is refused, with the reason.

        Args:
            coupling: the model with the axes of its tensors.
        """

    @abstractmethod
    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return how the model changes. The model itself is not modified.

        Args:
            coupling: the model with the axes of its tensors.
            at: the name of the place.
            seed: the seed of what is drawn.

        Raises:
            ChangeError: if the change is refused, with the reason and the line of the model's code.
        """

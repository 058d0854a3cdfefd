"""Remove the layers that were added after a layer, or the path beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import attrs
from torch import nn

from nasframe.change.claim import Claim
from nasframe.change.map import Take
from nasframe.errors import ChangeError
from nasframe.modules.calls import Calls, submodule, within
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import Unwrap as Edit, named_tensors
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite
from nasframe.modules.parallel import Parallel
from nasframe.modules.stacked import Stacked
from nasframe.seeds import Seed


@attrs.frozen
class Unwrap(ModuleMorphism):
    """Put the first part of an nn.Sequential, `Parallel` or `Stacked` in its place, and remove the others.

    It reverts `Deepen` after a layer and `AddPath` with form="sum". It is exact if the others compute nothing new, as they do directly
    after these changes, and otherwise lossy with the measured distance. Refused where the first part returns another shape.
    """

    name: ClassVar[str] = "unwrap"

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the containers of several parts, with their number."""
        calls = Calls(coupling)
        for name, module in coupling.model.named_modules():
            if isinstance(module, nn.Sequential | Parallel | Stacked) and len(module) > 1:
                try:
                    _require_same_shape(calls, coupling.model, name)
                    yield Place(name, len(module), f"keeps {within(name, next(iter(module._modules)))}")
                except ChangeError as error:
                    yield Place(name, len(module), refusal=str(error))

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edit that removes all parts but the first, whose tensors get the names without its number."""
        calls = Calls(coupling)
        first = _require_same_shape(calls, coupling.model, at)
        tensors = named_tensors(coupling.model.get_submodule(first))
        entries = {within(name, tensor): Take(within(first, tensor)) for name in calls.names(at) for tensor in tensors}
        # Whether the other parts compute something is not looked at: the measured distance decides between the two claims.
        return Rewrite((Edit(at),), entries, Claim.exact(), otherwise=Claim.lossy())


def _require_same_shape(calls: Calls, model: nn.Module, at: str) -> str:
    """Return the name of the first part of a container.

    Raises:
        ChangeError: if there is no container, or its first part returns another shape.
    """
    module = submodule(model, at)
    if not isinstance(module, nn.Sequential | Parallel | Stacked) or len(module) < 2:
        raise ChangeError(
            f"{at or 'the model'} is of type {type(module).__name__}; name an nn.Sequential of several parts, or what deepen or "
            "add_path made"
        )
    first = within(at, next(iter(module._modules)))
    whole, part = ([[tuple(o.meta["val"].shape) for o in call.outputs] for call in calls.of(name)] for name in (at, first))
    # a model that calls the first part elsewhere as well has more calls of it
    if not all(shapes in part for shapes in whole):
        raise ChangeError(f"{at or 'the model'} returns the shapes {whole[0]}, and its first part {part[0]}")
    return first

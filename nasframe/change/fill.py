"""Fill the tensors of a child from those of its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nasframe.change.map import Map, Set, Take
from nasframe.errors import ChangeError


def fill(
    parent: Mapping[str, Tensor],
    child: Mapping[str, Tensor],
    entries: Map,
    hint: Callable[[str, Take | Set], str] = lambda *_: "",
) -> None:
    """Fill the tensors of a child, in place, from those of its parent.

    Args:
        parent: the tensors of the parent, by name.
        child: the tensors of the child, by name. One without an entry keeps its values.
        entries: the map.
        hint: what a message says further about an entry whose shape does not fit.

    Raises:
        ChangeError: if an entry names a tensor that does not exist, or has another shape than its tensor.
    """
    if unknown := entries.keys() - child.keys():
        raise ChangeError(f"the change fills {', '.join(sorted(unknown))}, which the child does not have")
    with torch.no_grad():
        for name, entry in entries.items():
            if isinstance(entry, Take) and entry.source not in parent:
                raise ChangeError(f"the change fills {name} from {entry.source}, which the parent does not have")
            value = entry.tensor if isinstance(entry, Set) else entry(parent[entry.source], child[name])
            if value.shape != child[name].shape:
                raise ChangeError(
                    f"the change fills {name} with the shape {tuple(value.shape)}; its shape is {tuple(child[name].shape)}"
                    f"{hint(name, entry)}"
                )
            # a copy in place, so that the child shares no storage with its parent
            child[name].copy_(value)
            del value  # before the next one is computed: tensors may be large

"""What candidates receive and return when a network is called: the readable form, which fast forms are tested against."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

import attrs
from torch import Tensor, nn

from nasframe.network.mixing import readable
from nasframe.network.outputs import Outputs


@attrs.frozen(eq=False)
class Call:
    """A call of a candidate, or several calls whose samples are concatenated.

    Attributes:
        inputs: the inputs of the candidate, of shape (samples, width) in a recurrent cell.
        output: a tensor whose gradient is that of the candidate's output: the output, or zeros that are added to it.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor


#: the calls of each candidate, by its module, in their order
Calls = Mapping[nn.Module, list[Call]]


@contextlib.contextmanager
def recording(candidates: Collection[nn.Module]) -> Iterator[Calls]:
    """Record the calls of the modules of candidates."""
    calls: dict[nn.Module, list[Call]] = {module: [] for module in candidates}
    # A hook that returns None leaves the output as it is, and `append` returns None.
    handles = [m.register_forward_hook(lambda m, inputs, output: calls[m].append(Call(inputs, output))) for m in calls]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def observed(
    body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor], candidates: Collection[nn.Module]
) -> tuple[Outputs, Calls]:
    """Return the outputs of a body by calling its modules (`readable`), and the calls of candidates.

    Args:
        body: the module that a backbone built.
        inputs: the inputs of the network.
        mixing: the mixing weights of each undecided site, of shape (candidates,), by address.
        candidates: the modules of the candidates.
    """
    with recording(candidates) as calls:
        return readable(body, inputs, mixing), calls

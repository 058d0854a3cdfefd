"""Change the kernels of convolutions: pad them with zeros, crop them, and change their dilation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nasframe.change.claim import Claim
from nasframe.change.map import ZERO, Set, Take
from nasframe.errors import ChangeError
from nasframe.modules.calls import Calls, submodule, within
from nasframe.modules.change import ModuleChange, grow
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import ModuleEdit, Resize, SetNumber
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite, Undo
from nasframe.options import flag
from nasframe.seeds import Seed

Sizes = int | tuple[int, ...]
#: numbers that a convolution keeps; the last one is the padding of F.pad, which modes other than "zeros" use
NUMBERS = ("kernel_size", "padding", "dilation", "_reversed_padding_repeated_twice")


def sizes(instance: Any, attribute: Any, value: Any) -> None:
    """Raise a ValueError unless the value is a whole number of at least 1, or a tuple of one for each axis."""
    each = value if isinstance(value, tuple) else (value,)
    if not each or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in each):
        raise ValueError(
            f"{attribute.name} is {value!r}; it must be a whole number of at least 1, or one for each axis: (5, 3)"
        )


@attrs.frozen
class Kernel:
    """The kernel of a convolution along each axis.

    Attributes:
        taps: for each axis, the tap of the old kernel at each position of the new one, or ZERO.
        dilation: the dilation of each axis.
        padding: the padding of each axis, or "same".
    """

    taps: tuple[tuple[int, ...], ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...] | str


@attrs.frozen
class PadKernel(ModuleMorphism):
    """Put zeros around the kernel of a convolution, and as much more padding around its input (Wei et al. 2016).

    With m more taps on either side of an axis, the padding grows by m times the dilation, so that the old taps see the same entries
    as before and the output keeps its size. This is exact for nn.Conv1d, 2d and 3d and nn.ConvTranspose1d, 2d and 3d, with any stride,
    dilation and groups, and with each padding mode:

        - "zeros", also with padding="same"; padding="valid" becomes a number
        - "reflect", "replicate" and "circular": padding continues outwards, so that entries near the border stay what they were. The
          input must be longer than the new padding with "reflect", and at least as long with "circular"; so must all later inputs.

    The new taps get a gradient at the first step. Refused: another parity (from 3 to 4 taps the output would move by half an entry), a
    smaller kernel, weights that are computed by a parametrization or read outside of a convolution.

    Args:
        kernel: the new kernel size, for all axes or one for each.
    """

    name: ClassVar[str] = "pad_kernel"
    kernel: Sizes = attrs.field(validator=sizes)

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the convolutions, with the size of their kernel along the first axis."""
        return _places(coupling, lambda module: f"kernel {module.kernel_size}, padding mode {module.padding_mode!r}")

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits that enlarge the kernel at `at`, and the map that puts the old one into its middle."""
        rewrite = _rewrite(coupling, at, functools.partial(_with_size, self.kernel, larger=True), Claim.exact())
        module = submodule(coupling.model, at)
        assert isinstance(module, _ConvNd)
        return attrs.evolve(rewrite, undo=Undo(CropKernel(module.kernel_size), at))


@attrs.frozen
class CropKernel(ModuleMorphism):
    """Remove the outer taps of the kernel of a convolution, and as much padding around its input.

    This is exact if all removed taps are zero, as they are directly after `PadKernel`, and otherwise lossy with the measured distance.

    Args:
        kernel: the new kernel size, for all axes or one for each.
    """

    name: ClassVar[str] = "crop_kernel"
    kernel: Sizes = attrs.field(validator=sizes)

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the convolutions, with the size of their kernel along the first axis."""
        for place in _places(coupling, lambda module: f"kernel {module.kernel_size}"):
            weight = coupling.model.get_submodule(place.name).weight
            assert isinstance(weight, torch.Tensor)
            single = place.refusal is None and max(weight.shape[2:]) < 3
            yield attrs.evolve(place, refusal="no axis of the kernel has 3 taps") if single else place

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits that make the kernel at `at` smaller, and the map that takes its middle."""
        rewrite = _rewrite(coupling, at, functools.partial(_with_size, self.kernel, larger=False), Claim.lossy())
        # All names of a tied weight have an entry with the same source and taps.
        (entry,) = {entry.source: entry for entry in rewrite.map.values() if isinstance(entry, Take)}.values()
        weight = coupling.model.get_parameter(entry.source).detach()
        # Exact if no tap is lost that is not zero.
        kept = int(entry.gather(weight).count_nonzero())
        return attrs.evolve(rewrite, claim=Claim.exact()) if kept == int(weight.count_nonzero()) else rewrite


@attrs.frozen
class Dilate(ModuleMorphism):
    """Change the dilation of a convolution.

    By default the function is preserved: a kernel with the dilation d is written with a dilation that divides d, with zeros between its
    taps. A kernel of 3 taps with the dilation 2 becomes one of 5 taps with the dilation 1, whose new taps learn from the first step on.
    With `lossy`, the kernel keeps its taps and they move apart or together, with the padding that keeps the size of the output. This
    changes the function; the distance is measured. A kernel with a single tap along an axis computes the same with any dilation.

    It applies to nn.Conv1d, 2d and 3d and nn.ConvTranspose1d, 2d and 3d, with any stride, groups and padding mode.

    Args:
        dilation: the new dilation, for all axes or one for each.
        lossy: whether the taps move.
    """

    name: ClassVar[str] = "dilate"
    dilation: Sizes = attrs.field(default=1, validator=sizes)
    lossy: bool = flag(False)

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the convolutions, with the size of their kernel along the first axis."""
        return _places(coupling, lambda module: f"kernel {module.kernel_size}, dilation {module.dilation}")

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits that change the dilation at `at`, and the map that moves the taps."""
        rewrite = _rewrite(coupling, at, self._kernel, Claim.lossy() if self.lossy else Claim.exact())
        if not self.lossy:
            return rewrite  # the taps between the old ones are new
        module = submodule(coupling.model, at)
        assert isinstance(module, _ConvNd)
        return attrs.evolve(rewrite, undo=Undo(Dilate(module.dilation, lossy=True), at))

    def _kernel(self, at: str, module: _ConvNd) -> Kernel:
        wanted = _per_axis("dilation", self.dilation, at, module)
        if wanted == module.dilation:
            raise ChangeError(f"{at} has the dilation {wanted} already")
        if self.lossy:
            return Kernel(tuple(tuple(range(k)) for k in module.kernel_size), wanted, self._moved(at, module, wanted))
        taps = []
        for new, old, count in zip(wanted, module.dilation, module.kernel_size, strict=True):
            if count > 1 and old % new:
                raise ChangeError(
                    f"a kernel with the dilation {old} cannot be written with the dilation {new}, which does not divide {old}; to move the "
                    f"taps of {at}, which changes the function, write lossy=True"
                )
            # With one tap there is nothing between taps, and any dilation computes the same.
            apart = old // new if count > 1 else 1
            taps.append(tuple(i // apart if i % apart == 0 else ZERO for i in range((count - 1) * apart + 1)))
        return Kernel(tuple(taps), wanted, module.padding)

    def _moved(self, at: str, module: _ConvNd, wanted: tuple[int, ...]) -> tuple[int, ...] | str:
        if module.padding == "same":
            return "same"
        padding = []
        for p, new, old, count in zip(_padding(module), wanted, module.dilation, module.kernel_size, strict=True):
            # the reach of the kernel grows by this much, one half at either side
            reach = (new - old) * (count - 1)
            if reach % 2 or p + reach // 2 < 0:
                raise ChangeError(
                    f"with the dilation {new} the output of {at} would have another size: its kernel of {count} taps with the dilation "
                    f"{old} has a padding of {p}, which would have to become {p + reach / 2:g}"
                )
            padding.append(p + reach // 2)
        return tuple(padding)


def _per_axis(option: str, value: Sizes, at: str, module: _ConvNd) -> tuple[int, ...]:
    count = len(module.kernel_size)
    each = value if isinstance(value, tuple) else (value,) * count
    if len(each) != count:
        raise ChangeError(f"{at} has {count} axes; {option} is {value!r}, with {len(each)} numbers")
    return each


def _with_size(kernel: Sizes, at: str, module: _ConvNd, *, larger: bool) -> Kernel:
    """Return the kernel with zeros added on either side of its taps, or with its outer taps removed, and as much padding."""
    wanted = _per_axis("kernel", kernel, at, module)
    for size, old in zip(wanted, module.kernel_size, strict=True):
        # An odd difference would add more taps on one side, and the output would move by half an entry.
        if (size - old) % 2 or (size < old if larger else size > old):
            allowed = f"{old}, {old + 2}, {old + 4}, ..." if larger else ", ".join(map(str, range(old, 0, -2)))
            raise ChangeError(
                f"the kernel of {at} has {old} taps along an axis and cannot get {size}: taps are {'added' if larger else 'removed'} on "
                f"both sides, and the middle stays; write {allowed}"
            )
    if wanted == module.kernel_size:
        raise ChangeError(f"the kernel of {at} has the size {wanted} already")
    # the taps that are added on either side; below 0 where they are removed
    more = [(size - old) // 2 for size, old in zip(wanted, module.kernel_size, strict=True)]
    taps = tuple(
        tuple(tap if 0 <= tap < old else ZERO for tap in range(-m, old + m))
        for m, old in zip(more, module.kernel_size, strict=True)
    )
    if module.padding == "same":
        return Kernel(taps, module.dilation, "same")
    padding = [p + m * d for p, m, d in zip(_padding(module), more, module.dilation, strict=True)]
    if min(padding) < 0:
        raise ChangeError(
            f"with the kernel {wanted} the output of {at} would be larger: the padding of {_padding(module)} is too small to be reduced "
            "with the kernel"
        )
    return Kernel(taps, module.dilation, tuple(padding))


def _padding(module: _ConvNd) -> tuple[int, ...]:
    """Return the padding as numbers; it is not "same"."""
    return (0,) * len(module.kernel_size) if isinstance(module.padding, str) else module.padding


def _sharing(calls: Calls, coupling: Coupling, at: str) -> Mapping[str, _ConvNd]:
    """Return the convolutions that share the weight of the one at `at`, by name.

    Raises:
        ChangeError: if there is no convolution there whose kernel can be changed.
    """
    module = submodule(coupling.model, at)
    if not isinstance(module, _ConvNd):
        raise ChangeError(f"{at} is a {type(module).__name__}; only a convolution has a kernel")
    if "weight" not in module._parameters:
        raise ChangeError(f"the weight of {at} is computed by a parametrization; remove it before the change")
    weight = within(at, "weight")
    names = next(names for name, names in coupling.aliases.items() if weight in (name, *names))
    shared = {name.rpartition(".")[0]: coupling.model.get_submodule(name.rpartition(".")[0]) for name in names}
    for name, other in shared.items():
        if not isinstance(other, _ConvNd):
            raise ChangeError(f"the weight of {at} is also that of {name}, a {type(other).__name__}, which has no kernel")
        calls.require_no_readers(name)
    # Refuses a convolution that the example does not reach: its change could not be measured.
    calls.of(at)
    return shared  # type: ignore[return-value]


def _places(coupling: Coupling, note: Callable[[_ConvNd], str]) -> Iterator[Place]:
    calls = Calls(coupling)
    for name, module in coupling.model.named_modules():
        if isinstance(module, _ConvNd):
            try:
                _sharing(calls, coupling, name)
                yield Place(name, module.kernel_size[0], note(module))
            except ChangeError as error:
                yield Place(name, module.kernel_size[0], refusal=str(error))


def _rewrite(coupling: Coupling, at: str, change: Callable[[str, _ConvNd], Kernel], claim: Claim) -> Rewrite:
    calls = Calls(coupling)
    entries: dict[str, Take | Set] = {}
    edits: list[ModuleEdit] = []
    for name, module in _sharing(calls, coupling, at).items():
        kernel = change(name, module)
        weight = module.weight
        # the axes of a weight: two of channels, then those of the kernel
        shape = (*weight.shape[:2], *map(len, kernel.taps))
        if shape != weight.shape:
            # Once, as it gives the weight its shape under all names. The numbers are those of each module.
            if not edits:
                edits.append(Resize(within(at, "weight"), shape))
            index = tuple(torch.tensor(taps, device=weight.device) for taps in kernel.taps)
            entries[within(name, "weight")] = Take(within(at, "weight"), (None, None, *index))
        numbers = _numbers(module, kernel)
        _require_room(calls, name, module, numbers["_reversed_padding_repeated_twice"])
        edits += [SetNumber(name, key, _tuple(new)) for key, new in numbers.items() if getattr(module, key) != new]
    return Rewrite(tuple(edits), entries, claim)


def _numbers(module: _ConvNd, kernel: Kernel) -> dict[str, Any]:
    """Return the numbers that a convolution with another kernel keeps, as torch's constructor computes them."""
    # torch computes the numbers itself. The channels do not enter, and the device "meta" saves the memory.
    cls = getattr(nn, f"Conv{'Transpose' if module.transposed else ''}{len(kernel.taps)}d")
    made = cls(
        1,
        1,
        tuple(map(len, kernel.taps)),
        padding=kernel.padding,
        dilation=kernel.dilation,
        padding_mode=module.padding_mode,
        device="meta",
    )
    return {key: getattr(made, key) for key in NUMBERS}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _require_room(calls: Calls, name: str, module: _ConvNd, reversed_padding: Sequence[int]) -> None:
    """Check that the inputs are long enough for the new padding, where it is made of their entries."""
    # "reflect" repeats entries without the one at the border, and "circular" may repeat the whole input once.
    least = {"reflect": 1, "circular": 0}.get(module.padding_mode)
    if least is None:
        return
    for call in calls.of(name):
        shape = call.inputs[0].meta["val"].shape
        # F.pad lists the last axis first, with the padding before and after it
        for axis in range(len(module.kernel_size)):
            padding, length = max(reversed_padding[2 * axis : 2 * axis + 2]), shape[-1 - axis]
            if padding and length < padding + least:
                raise ChangeError(
                    f"{name} would pad its input by {padding} with the mode {module.padding_mode!r}, which needs an axis of at least "
                    f"{padding + least} entries; with the example it has {length}"
                )


def pad_kernel(
    model: nn.Module, at: str, *, kernel: Sizes, example: Any, numbers: Mapping[str, int] | None = None, seed: int = 0
) -> ModuleChange:
    """Return the change that puts zeros around the kernel of a convolution. The model is not modified.

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the convolution.
        kernel: the new kernel size, for all axes or one for each, such as (5, 3).
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        numbers: the new values of numbers that the model's classes keep, by name.
        seed: the seed of all random draws; a padded kernel draws nothing.

    Raises:
        ChangeError: if the kernel cannot be enlarged, with the reason.

    Example:
        >>> model = nn.Conv2d(1, 1, 3, padding=1)
        >>> pad_kernel(nn.Sequential(model), "0", kernel=(5, 3), example=torch.ones(1, 1, 8, 8)).model[0]
        Conv2d(1, 1, kernel_size=(5, 3), stride=(1, 1), padding=(2, 1))
    """
    return grow(model, PadKernel(kernel), at, example, numbers=numbers, seed=seed)


def crop_kernel(
    model: nn.Module, at: str, *, kernel: Sizes, example: Any, numbers: Mapping[str, int] | None = None, seed: int = 0
) -> ModuleChange:
    """Return the change that removes the outer taps of the kernel of a convolution. The model is not modified.

    The change is exact if the removed taps are zero. Otherwise it is lossy, and has the measured distance.

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the convolution.
        kernel: the new kernel size, for all axes or one for each, such as (3, 1).
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        numbers: the new values of numbers that the model's classes keep, by name.
        seed: the seed of all random draws; a cropped kernel draws nothing.

    Raises:
        ChangeError: if the kernel cannot be made smaller, with the reason.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2))
        >>> change = crop_kernel(model, "0", kernel=(3, 1), example=torch.ones(1, 1, 8, 8))
        >>> change.model[0], change.claim.kind
        (Conv2d(1, 1, kernel_size=(3, 1), stride=(1, 1), padding=(1, 0)), 'lossy')
    """
    return grow(model, CropKernel(kernel), at, example, numbers=numbers, seed=seed)


def dilate(
    model: nn.Module,
    at: str,
    *,
    dilation: Sizes,
    example: Any,
    lossy: bool = False,
    numbers: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ModuleChange:
    """Return the change that writes a convolution with another dilation. The model is not modified.

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the convolution.
        dilation: the new dilation, for all axes or one for each.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        lossy: whether the taps move, which changes the function. Otherwise zeros are put between them, and the new dilation must
            divide the old one.
        numbers: the new values of numbers that the model's classes keep, by name.
        seed: the seed of all random draws; another dilation draws nothing.

    Raises:
        ChangeError: if the dilation cannot be changed, with the reason.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=2, dilation=2))
        >>> dilate(model, "0", dilation=1, example=torch.ones(1, 1, 8)).model[0]
        Conv1d(1, 1, kernel_size=(5,), stride=(1,), padding=(2,))
    """
    return grow(model, Dilate(dilation, lossy), at, example, numbers=numbers, seed=seed)

"""New values of the numbers that modules keep, from the new sizes of axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.coupling import Coupling
from nasframe.modules.morphism import Question
from nasframe.modules.provenance import Attribute, Expression, Result, attributes_of

#: (module, attribute, value)
NewNumber = tuple[str, str, Any]


def numbers(coupling: Coupling, sizes: Mapping[Axis, int]) -> tuple[NewNumber, ...]:
    """Return the numbers that modules must keep when axes get other sizes, as (module, attribute, value).

    Numbers of torch's modules follow from the shapes of their tensors. Those of other classes follow from the code, which gives them
    to operations as sizes; those that do not follow are in `questions`. Numbers that stay as they are are left out.

    Args:
        coupling: the coupling of the model.
        sizes: the new sizes of atoms.

    Raises:
        ChangeError: if the code computes a size that does not fit, whatever its numbers are.
    """
    found: dict[tuple[str, str], Any] = {}
    for module, name, axis in coupling.module_numbers:
        # What torch's modules keep is known without the code: it is the size of an axis of one of their tensors.
        size = axis.size_with(sizes)
        if size != axis.size:
            held = getattr(coupling.model.get_submodule(module), name)
            # `normalized_shape` is a tuple.
            found[module, name] = (size,) if isinstance(held, tuple) else size
    values, open_questions = _solve(coupling, sizes)
    # Numbers that the user is asked for are not known yet, and nothing can be said of a size that depends on them.
    if not open_questions:
        _check(coupling, sizes, values)
    for attribute, value in values.items():
        key = attribute.module, attribute.name
        if value == held_number(coupling, attribute):
            continue
        if attribute.entry is None:
            found[key] = value
        else:
            # Several entries of one tuple may change, each by an attribute.
            entries = list(found[key] if key in found else _held(coupling, attribute))
            entries[attribute.entry] = value
            found[key] = tuple(entries)
    return tuple((module, name, value) for (module, name), value in found.items())


def questions(coupling: Coupling, sizes: Mapping[Axis, int]) -> tuple[Question, ...]:
    """Return the numbers whose new values do not follow from the code, such as both factors of `self.heads * self.size`.

    Args:
        coupling: the coupling of the model.
        sizes: the new sizes of atoms.

    Raises:
        ChangeError: if the code computes a size that does not fit, whatever its numbers are.
    """
    return tuple(Question(a.module, a.name, readings) for a, readings in _solve(coupling, sizes)[1].items())


def held_number(coupling: Coupling, attribute: Attribute) -> int:
    """Return the present value of an attribute."""
    held = _held(coupling, attribute)
    return held if attribute.entry is None else held[attribute.entry]


def _held(coupling: Coupling, attribute: Attribute) -> Any:
    return attrgetter(attribute.name)(coupling.model.get_submodule(attribute.module))


def _solve(coupling: Coupling, sizes: Mapping[Axis, int]) -> tuple[dict[Attribute, int], dict[Attribute, tuple[int, ...]]]:
    """Return the attributes that follow from the code, and for those that do not the values that they might have."""
    known: dict[Attribute, int] = {}
    said: dict[Attribute, str] = {}
    for expression, axis, where in coupling.readings:
        # First the attributes that the code gives as sizes as they are.
        if isinstance(expression, Attribute):
            size = axis.size_with(sizes)
            if known.setdefault(expression, size) != size:
                raise ChangeError(
                    f"{expression} is the size of two axes that would differ: {known[expression]} at {said[expression]}, {size} at "
                    f"{where}; keep a separate number for each axis, or change both"
                )
            said.setdefault(expression, where)
    # Then those that the code computes with: an expression with a single unknown attribute is solved for it.
    waiting = [reading for reading in coupling.readings if isinstance(reading.expression, Result)]
    progress = True
    while progress:  # each round may determine an attribute, by which others follow
        progress = False
        for expression, axis, _ in waiting:
            unknown = [a for a in attributes_of(expression) if a not in known]
            if len(unknown) == 1:
                held = held_number(coupling, unknown[0])
                wanted = axis.size_with(sizes)
                # A floor division has the same value for several numbers: the present one is kept if it is among them.
                fits = _value({**known, unknown[0]: held}, sizes)(expression) == wanted
                value = held if fits else _invert(expression, wanted, unknown[0], _value(known, sizes))
                if value is not None:
                    known[unknown[0]], progress = value, True
    # What is left has several unknown attributes, or none that follows. If the present values fit they stay, and otherwise the
    # user must say which change.
    undecided: dict[Attribute, tuple[int, ...]] = {}
    for expression, axis, _ in waiting:
        unknown = [a for a in attributes_of(expression) if a not in known]
        held_values = {a: held_number(coupling, a) for a in unknown}
        wanted = axis.size_with(sizes)
        if not unknown or _value({**known, **held_values}, sizes)(expression) == wanted:
            continue
        for attribute in unknown:
            # For the question: the value of this attribute if it is the only one that changes.
            others = {**known, **{a: value for a, value in held_values.items() if a != attribute}}
            value = _invert(expression, wanted, attribute, _value(others, sizes))
            undecided[attribute] = tuple(dict.fromkeys(v for v in (held_values[attribute], value) if v is not None))
    return known, undecided


def _check(coupling: Coupling, sizes: Mapping[Axis, int], known: Mapping[Attribute, int]) -> None:
    """Refuse numbers with which the code gives an axis another size than it has."""
    for expression, axis, where in coupling.readings:
        held = {a: held_number(coupling, a) for a in attributes_of(expression)}
        value, wanted = _value({**held, **known}, sizes)(expression), axis.size_with(sizes)
        if value != wanted:
            raise ChangeError(
                f"the code gives an axis the size {expression}, which would be {value} instead of {wanted}, at {where}; keep the size "
                "as a number of the module"
            )


def _value(known: Mapping[Attribute, int], sizes: Mapping[Axis, int]) -> Callable[[Expression], int | None]:
    """Return the function that computes an expression, or returns None if it needs an attribute that is not known."""

    def value(expression: Expression) -> int | None:
        if isinstance(expression, Attribute):
            return known.get(expression)
        if isinstance(expression, Axis):
            return expression.size_with(sizes)
        if not isinstance(expression, Result):
            return expression if isinstance(expression, int) else None
        left, right = value(expression.left), value(expression.right)
        if left is None or right is None:
            return None
        match expression.sign:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case _ if right == 0:
                return None
            case "//":
                return left // right
        return left % right

    return value


def _invert(expression: Expression, wanted: int, attribute: Attribute, value: Callable[[Expression], int | None]) -> int | None:
    """Return the value of an attribute with which an expression has a wanted value, or None if it does not follow.

    The attribute must occur once. The other operands are computed by `value`.
    """
    if expression == attribute:
        return wanted
    if not isinstance(expression, Result):
        return None
    left, right = value(expression.left), value(expression.right)
    # Exactly one side must have the attribute. On both sides, or on none, there is no inverse by one operation.
    if (left is None) == (right is None):
        return None
    inner = None
    match expression.sign:
        case "+":
            inner = wanted - (right if left is None else left)  # type: ignore[operator]
        case "-":
            inner = wanted + right if right is not None else left - wanted  # type: ignore[operator]
        case "*":
            factor = right if left is None else left
            inner = wanted // factor if factor and wanted % factor == 0 else None
        case "//" if right is not None:
            # The least of the numbers with this quotient.
            inner = wanted * right
        case "//" if left is not None and wanted and left % wanted == 0:
            inner = left // wanted
    return None if inner is None else _invert(expression.left if left is None else expression.right, inner, attribute, value)

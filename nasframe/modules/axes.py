"""Axes as expressions over units.

An axis of a tensor is an atom (units that nothing subdivides), a product of axes (a reshape: heads x head size) or a sum of axes (a
concatenation or a split). Two axes that must have the same units are unified. What cannot be expressed in this way is frozen: its
atoms may not change, and say why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from nasframe.errors import ChangeError


class AxisError(ChangeError):
    """Two axes of different sizes that should have the same units."""


class Axis:
    """An axis of a tensor: an expression over units.

    Axes are compared by identity, and change while a graph is read: an atom becomes a product where it is reshaped, a sum where it is
    split, and another axis where the two are unified. Read an axis through its methods, which follow these changes.

    Attributes:
        size: the number of entries.
        form: None for an atom, "*" for a product, "+" for a sum, "=" for an axis that was unified with another one.
        parts: the axes of a product or a sum, in order; for "=" the one axis that replaces this one.

    Example:
        >>> rows = Axis(12)
        >>> heads, size = reshape([rows], (3, 4), "a view")
        >>> rows
        (3*4)
        >>> rows.size_with({heads: 5})
        20
    """

    __slots__ = ("_frozen", "_normalised", "form", "parts", "size")

    def __init__(self, size: int, *, frozen: str | None = None) -> None:
        self.size = int(size)
        self.form: str | None = None
        self.parts: tuple[Axis, ...] = ()
        self._frozen = frozen
        self._normalised: str | None = None

    @property
    def frozen(self) -> str | None:
        """Why the size may not change, or None if some atom may."""
        reasons = [atom._frozen for atom in self.atoms()]
        # One free atom is enough for another size.
        return reasons[0] if all(reasons) else None

    @property
    def normalised(self) -> str | None:
        """Where statistics are taken along the units, or None. Such units may only be replicated equally."""
        return next((atom._normalised for atom in self.atoms() if atom._normalised), None)

    def find(self) -> Axis:
        """Return the axis that this one was unified with, or the axis itself."""
        axis = self
        while axis.form == "=":
            axis = axis.parts[0]
        return axis

    def factors(self) -> list[Axis]:
        """Return the axis as a list of axes that are no products.

        A factor of size 1 is listed if it may grow, such as the heads of an attention with one head. An axis of size 1 that is no
        product has no factors.
        """
        axis = self.find()
        if axis.form == "*":
            return _factors(axis.parts)
        return [] if axis.size == 1 else [axis]

    def summands(self) -> list[Axis]:
        """Return the axis as a list of axes that are no sums."""
        axis = self.find()
        return [summand for part in axis.parts for summand in part.summands()] if axis.form == "+" else [axis]

    def atoms(self) -> list[Axis]:
        """Return the atoms of the expression in order, repeated where the expression repeats them."""
        axis = self.find()
        return [axis] if axis.form is None else [atom for part in axis.parts for atom in part.atoms()]

    def freeze(self, reason: str) -> Axis:
        """Freeze the atoms of the axis, and return the axis. An atom that is frozen keeps its first reason."""
        for atom in self.atoms():
            atom._frozen = atom._frozen or reason
        return self

    def normalise(self, reason: str) -> Axis:
        """Mark that statistics are taken along the axis, and return the axis."""
        for atom in self.atoms():
            atom._normalised = atom._normalised or reason
        return self

    def size_with(self, sizes: Mapping[Axis, int]) -> int:
        """Return the size of the axis if some atoms had other sizes.

        Args:
            sizes: the new sizes of atoms; all others keep theirs.
        """
        axis = self.find()
        if axis.form is None:
            return sizes.get(axis, axis.size)
        parts = [part.size_with(sizes) for part in axis.parts]
        return sum(parts) if axis.form == "+" else prod(parts)

    def become(self, form: str, parts: Sequence[Axis]) -> None:
        """Turn an atom into an expression, whose atoms inherit its marks."""
        assert self.form is None, "only an atom becomes something else"
        self.form, self.parts = form, tuple(parts)
        for part in self.parts:
            if self._frozen:
                part.freeze(self._frozen)
            if self._normalised:
                part.normalise(self._normalised)

    def __repr__(self) -> str:
        axis = self.find()
        if axis.form is None or all(part.size == 1 for part in axis.parts):
            return str(axis.size)
        return f"({axis.form.join(map(repr, axis.parts))})"


def _factors(axes: Iterable[Axis]) -> list[Axis]:
    """Return the factors of a product of axes, with those axes of size 1 that may grow."""
    return [factor for axis in axes for factor in axis.factors() or [axis.find()] if factor.size > 1 or not factor.frozen]


def product(axes: Iterable[Axis]) -> Axis:
    """Return the axis that flattening the given axes makes, the last one varying fastest. Axes of size 1 are left out."""
    return flattened(axis for axis in axes if axis.size > 1)


def flattened(axes: Iterable[Axis]) -> Axis:
    """Return the axis that flattening the given axes makes. Those of size 1 are left out if they may not grow.

    Example:
        One channel of 12 pixels may become several:

        >>> channels, pixels = Axis(1), Axis(12)
        >>> flattened([channels, pixels]).size_with({channels: 3})
        36
    """
    factors = _factors(axes)
    if len(factors) == 1:
        return factors[0]
    axis = Axis(prod(factor.size for factor in factors))
    if factors:
        axis.become("*", factors)
    return axis


def total(axes: Iterable[Axis]) -> Axis:
    """Return the axis that concatenating along the given axes makes."""
    # An empty piece has no units.
    summands = [summand for axis in axes for summand in axis.summands() if summand.size]
    if len(summands) == 1:
        return summands[0]
    axis = Axis(sum(summand.size for summand in summands))
    if summands:
        axis.become("+", summands)
    return axis


def unify(a: Axis, b: Axis, where: str) -> None:
    """Give two axes the same units, entry by entry; freeze both where no expression says this.

    Args:
        a: an axis.
        b: another one of the same size.
        where: the place in the user's code, for the reason.

    Raises:
        AxisError: if the sizes differ.
    """
    a, b = a.find(), b.find()
    if a is b:
        return
    if a.size != b.size:
        raise AxisError(f"axes of {a.size} and {b.size} entries meet at {where}")
    # From here on `a` is the atom, if one of them is.
    if a.form is not None and b.form is None:
        a, b = b, a
    if a.form is None and a in b.atoms():
        # All parts of an expression are smaller than the whole, but for a product with factors of size 1: those may not grow.
        _freeze((atom for atom in b.atoms() if atom is not a), f"it has the size 1 at {where}")
    elif a.form is None:
        # `become` also hands the marks of `a` on to the atoms of `b`.
        a.become("=", (b,))
    elif a.form == b.form == "*":
        _unify_products(a, b, where)
    elif a.form == b.form == "+":
        _unify_sums(a, b, where)
    elif a.form == "+":
        _distribute(a, b, where)
    else:
        _distribute(b, a, where)


def _freeze(axes: Iterable[Axis], reason: str) -> None:
    for axis in axes:
        axis.freeze(reason)


def _unify_products(a: Axis, b: Axis, where: str) -> None:
    """Unify factor by factor from the left; a factor that is larger than the other one is divided.

    Factors of size 1 are unified with those at the same place, and frozen if there are not as many.
    """
    # Both lists have the same product, so that they end together.
    left, right = a.factors(), b.factors()
    while left or right:
        ones = _leading_ones(left), _leading_ones(right)
        if len(ones[0]) == len(ones[1]):
            for x, y in zip(*ones, strict=True):
                unify(x, y, where)
        else:
            _freeze((*ones[0], *ones[1]), f"it has the size 1 at {where}")
        if not left:
            break
        x, y = left.pop(0), right.pop(0)
        if x.size < y.size:
            # The larger one is x, and its list is `left`, to which goes back what is left of it.
            x, y, left, right = y, x, right, left
        if x.size == y.size:
            unify(x, y, where)
        elif x.size % y.size == 0:
            first, rest = divide(x, y.size, where)
            unify(first, y, where)
            left.insert(0, rest)
        else:
            # Neither size divides the other. What lies up to the next place where both products agree is frozen.
            xs, ys = [x], [y]
            while (more := prod(y.size for y in ys) - prod(x.size for x in xs)) != 0:
                (xs if more > 0 else ys).append((left if more > 0 else right).pop(0))
            _freeze((*xs, *ys), f"two reshapes that do not fit meet at {where}")
        # an axis that occurs twice may have been divided meanwhile
        left, right = _factors(left), _factors(right)


def _leading_ones(factors: list[Axis]) -> list[Axis]:
    """Remove the factors of size 1 from the beginning of a list, and return them."""
    count = next((i for i, factor in enumerate(factors) if factor.size > 1), len(factors))
    ones, factors[:] = factors[:count], factors[count:]
    return ones


def _unify_sums(a: Axis, b: Axis, where: str) -> None:
    """Unify summand by summand; a summand that is larger than the other one is split."""
    left, right = a.summands(), b.summands()
    while left and right:
        x, y = left.pop(0), right.pop(0)
        if x.size < y.size:
            # As for products: the larger one is x, and its rest goes back to its list.
            x, y, left, right = y, x, right, left
        if x.size == y.size:
            unify(x, y, where)
        else:
            first, rest = Axis(y.size), Axis(x.size - y.size)
            unify(x, total((first, rest)), where)
            unify(first, y, where)
            left.insert(0, rest)
        left, right = ([summand for axis in rest for summand in axis.summands()] for rest in (left, right))


def _distribute(summed: Axis, multiplied: Axis, where: str) -> None:
    """Unify a sum with a product by the distributive law: (x1 + x2) * rest = x1 * rest + x2 * rest.

    The first factor becomes a sum. A summand x_i of one entry counts the pieces of a concatenation, as in q, k, v = (1 + 1 + 1) * size.
    """
    factors = multiplied.factors()
    _freeze(_leading_ones(factors), f"it has the size 1 at {where}")
    first, *others = factors
    if all(axis.size == 1 for axis in others):
        _freeze(others, f"it has the size 1 at {where}")
        return unify(summed, first, where)
    rest = flattened(others)
    counts, groups, group = [], [], list[Axis]()
    # Summands are collected until they fill whole multiples of the other factors.
    for summand in summed.summands():
        group.append(summand)
        size = sum(axis.size for axis in group)
        if size % rest.size == 0:
            counts.append(size // rest.size)
            groups.append(group)
            group = []
    # A single group would be the whole sum once more, and be distributed without end.
    if group or len(groups) == 1:
        return _freeze((summed, multiplied), f"a reshape and a concatenation that do not fit meet at {where}")
    pieces = [Axis(n, frozen=f"it counts the pieces of a concatenation at {where}" if n == 1 else None) for n in counts]
    unify(first, total(pieces), where)
    for piece, group in zip(pieces, groups, strict=True):
        unify(flattened((piece, rest)), total(group), where)
    return None


def divide(axis: Axis, first: int, where: str) -> tuple[Axis, Axis]:
    """Return the factors (first, rest) of an axis whose size is a multiple of `first`."""
    # `product` leaves out a factor of size 1, so that the axis then is the other factor, and the 1 is not a part of it.
    factors = (Axis(first), Axis(axis.size // first))
    unify(axis, product(factors), where)
    return factors


def reshape(axes: Sequence[Axis], shape: Sequence[int], where: str) -> list[Axis]:
    """Return the axes of a tensor after a reshape, which divides the given axes where it must.

    An axis of size 1 stays one where there is one at the same place after the reshape. Otherwise it becomes a factor of the axis that
    follows, such as a single channel that is flattened; and a new one is a factor of the axis that follows, such as a single head.

    Args:
        axes: the axes before.
        shape: the sizes after.
        where: the place in the user's code, for the reason if no unit is kept whole.
    """
    # `left` are the factors before that are not used yet, `todo` the sizes after, and `new` the axes of size 1 that have no
    # counterpart before. They wait for the axis that follows.
    left = [factor for axis in axes for factor in axis.factors() or [axis.find()]]
    todo = list(shape)
    after, new = list[Axis](), list[Axis]()
    while todo:
        size = todo.pop(0)
        if size == 1:
            if not left or left[0].size > 1:
                new.append(Axis(1))
            after.append(left.pop(0) if left and left[0].size == 1 else new[-1])
            continue
        need, taken = size, _leading_ones(left)
        if new:
            # The next factor f becomes (new * f), so that it grows with what was an axis of size 1.
            rest = Axis(left[0].size)
            unify(left[0], flattened([*new, rest]), where)
            left[:1] = rest.factors()
            new.clear()
        # Take whole factors until the size is reached. The last one is divided if a part of it is enough.
        while need > 1:
            factor = left.pop(0)
            if factor.size > need and factor.size % need == 0:
                factor, rest = divide(factor, need, where)
                left = [f for axis in (rest, *left) for f in axis.factors() or [axis.find()]]
            taken.append(factor)
            if need % factor.size:
                break
            need //= factor.size
        else:
            # No `break`: the size was reached without cutting a unit.
            after.append(flattened(taken))
            continue
        # No unit is kept whole up to the next place where the axes before and after end together.
        sizes = [size]
        while (more := prod(sizes) - prod(factor.size for factor in taken)) != 0:
            if more > 0:
                taken.append(left.pop(0))
            else:
                sizes.append(todo.pop(0))
        reason = f"a reshape that keeps no unit whole, at {where}"
        _freeze(taken, reason)
        after.extend(Axis(n, frozen=reason) for n in sizes)
    _freeze(new, f"it is added with the size 1 at {where}")
    # Only factors of size 1 are left, as the products agree. They belong to the last axis.
    if left and after:
        after[-1] = flattened([after[-1], *left])
    return after

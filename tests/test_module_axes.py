"""Axes as expressions over units: reshapes, concatenations and unification."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import pytest
from hypothesis import assume, given, strategies as st

from nasframe.modules.axes import Axis, AxisError, flattened, product, reshape, total, unify

Label = frozenset[tuple[int, int]]


def labels(axis: Axis) -> list[Label]:
    """The units of each entry of an axis: pairs of an atom and a number. Atoms of size 1 do not tell entries apart."""
    axis = axis.find()
    if axis.form is None:
        return [frozenset({(id(axis), k)} if axis.size > 1 else ()) for k in range(axis.size)]
    parts = [labels(part) for part in axis.parts]
    if axis.form == "+":
        return [label for part in parts for label in part]
    found: list[Label] = [frozenset()]
    for part in parts:
        found = [a | b for a in found for b in part]
    return found


def flat(axes: Sequence[Axis]) -> list[Label]:
    return labels(product(axes))


def numbered(*axes: Axis) -> list[list[Label]]:
    """The units of each entry, with the atoms numbered by their first occurrence."""
    names: dict[int, int] = {}
    for axis in axes:
        for atom in axis.atoms():
            names.setdefault(id(atom), len(names))
    return [[frozenset((names[atom], k) for atom, k in label) for label in labels(axis)] for axis in axes]


@st.composite
def expressions(draw: st.DrawFn, size: int) -> Axis:
    """An axis of a given size: an atom, a product or a sum."""
    form = draw(st.sampled_from(["atom", "product", "sum"]))
    factors = [n for n in range(2, size) if size % n == 0]
    if form == "product" and factors:
        n = draw(st.sampled_from(factors))
        return product([draw(expressions(n)), draw(expressions(size // n))])
    if form == "sum" and size > 1:
        n = draw(st.integers(1, size - 1))
        return total([draw(expressions(n)), draw(expressions(size - n))])
    return Axis(size)


sizes = st.sampled_from([1, 2, 4, 6, 8, 12, 24])


@given(st.data(), sizes)
def test_unified_axes_have_the_same_units(data: st.DataObject, size: int) -> None:
    """Unification gives both axes the same units entry by entry, or freezes some; sizes stay; it is symmetric and transitive."""
    a, b, c = (data.draw(expressions(size)) for _ in range(3))

    unify(a, b, "here")
    unify(c, b, "here")

    assert [axis.size for axis in (a, b, c)] == [size] * 3
    assert all(axis.size_with({}) == size for axis in (a, b, c))
    if not any(atom.frozen for axis in (a, b, c) for atom in axis.atoms() if atom.size > 1):
        assert labels(a) == labels(b) == labels(c)


@given(st.data(), sizes)
def test_unification_does_not_depend_on_the_order(data: st.DataObject, size: int) -> None:
    """unify(a, b) and unify(b, a) lead to the same classes of units, and to repeat it changes nothing."""
    a, b = (data.draw(expressions(size)) for _ in range(2))
    found = []
    for swap in (False, True):
        memo: dict[int, Axis] = {}
        x, y = _copied(a, memo), _copied(b, memo)
        unify(*((y, x) if swap else (x, y)), "here")
        before = repr((x, y)), numbered(x, y)
        unify(x, y, "again")
        assert (repr((x, y)), numbered(x, y)) == before
        assume(not any(atom.frozen for atom in x.atoms() + y.atoms() if atom.size > 1))
        found.append(labels(x) == labels(y))
    assert found == [True, True]


def _copied(axis: Axis, memo: dict[int, Axis]) -> Axis:
    axis = axis.find()
    if id(axis) not in memo:
        copied = memo[id(axis)] = Axis(axis.size)
        if axis.form is not None:
            copied.become(axis.form, [_copied(part, memo) for part in axis.parts])
    return memo[id(axis)]


shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@given(shapes, st.randoms(use_true_random=False))
def test_a_reshape_keeps_all_entries_in_order(shape: list[int], random: object) -> None:
    """A reshape keeps the units of all entries in order, its inverse restores the axes, and it has the sizes asked for."""
    axes = [Axis(n) for n in shape]
    flattened = reshape(axes, [prod(shape)], "flatten")

    assert flat(flattened) == flat(axes)
    back = reshape(flattened, shape, "back")
    assert [axis.size for axis in back] == shape
    assert [labels(x) for x in back] == [labels(x) for x in axes]
    assert not any(axis.frozen for axis in axes)


@given(shapes, st.lists(st.sampled_from([2, 3, 4, 6, 8, 12]), max_size=3))
def test_any_reshape_keeps_the_order_or_freezes(shape: list[int], wanted: list[int]) -> None:
    """Between any two shapes of as many entries, the entries keep their units, or the axes that are cut are frozen."""
    count = prod(shape)
    after = [n for n in wanted if n <= count]
    while after and count % prod(after):
        after.pop()
    after.append(count // prod(after))
    axes = [Axis(n) for n in shape]

    result = reshape(axes, after, "there")

    assert [axis.size for axis in result] == after
    if not any(axis.frozen for axis in result):
        assert flat(result) == flat(axes)


def grown(*expressions: Sequence[Axis]) -> list[set[int]]:
    """For each atom that may grow, the numbers of entries of each list of axes if the atom had twice as many and one more."""
    atoms = dict.fromkeys(atom for axes in expressions for axis in axes for atom in axis.atoms() if not atom.frozen)
    return [{prod(axis.size_with({atom: 2 * atom.size + 1}) for axis in axes) for axes in expressions} for atom in atoms]


@given(shapes, st.lists(st.sampled_from([1, 1, 2, 3, 4, 6, 8, 12]), max_size=5))
def test_a_reshape_loses_no_axis(shape: list[int], wanted: list[int]) -> None:
    """Whichever atom grows, also one of size 1, there are as many entries before a reshape as after it."""
    count = prod(shape)
    after = [n for n in wanted if n <= count]
    while after and count % prod(after):
        after.pop()
    after.append(count // prod(after))
    axes = [Axis(n) for n in shape]

    result = reshape(axes, after, "there")

    assert [axis.size for axis in result] == after
    assert all(len(counts) == 1 for counts in grown(axes, result))
    again = reshape(result, shape, "back")
    assert [axis.size for axis in again] == shape
    assert all(len(counts) == 1 for counts in grown(axes, result, again))


@given(shapes, st.lists(st.integers(0, 9), max_size=2))
def test_flattening_and_back_finds_every_axis_of_size_1(shape: list[int], frozen: list[int]) -> None:
    """Axes of size 1 that are flattened and viewed again are the same axes, also beside those that may not grow."""
    axes = [Axis(n, frozen="it is an input" if k in frozen else None) for k, n in enumerate(shape)]

    back = reshape(reshape(axes, [shape[0], prod(shape[1:])], "flatten"), shape, "back")

    first = 1 if shape[0] > 1 else 0
    assert not any(atom.frozen for k, axis in enumerate(axes) if k >= first and k not in frozen for atom in axis.atoms())
    assert all(axis.find() is old.find() for axis, old in zip(back, axes, strict=True) if axis.size > 1)
    assert all(len(counts) == 1 for counts in grown(axes, back))


@st.composite
def with_ones(draw: st.DrawFn, axis: Axis) -> Axis:
    """A product of an axis and axes of size 1 before or after it."""
    before, after = ([Axis(1) for _ in range(draw(st.integers(0, 2)))] for _ in range(2))
    return flattened([*before, *axis.factors(), *after])


@given(st.data(), sizes)
def test_unified_axes_grow_alike(data: st.DataObject, size: int) -> None:
    """Whichever atom grows, also one of size 1, axes that were unified keep the same size as each other."""
    found = [data.draw(with_ones(data.draw(expressions(size)))) for _ in range(3)]
    a, b, c = found

    unify(a, b, "here")
    unify(c, b, "here")
    unify(a, c, "here")

    assert all(len(counts) == 1 for counts in grown([a], [b], [c]))
    if not any(atom.frozen for axis in found for atom in axis.atoms() if atom.size > 1):
        assert labels(a) == labels(b) == labels(c)


def test_an_axis_that_is_also_a_product_of_itself_has_no_second_factor() -> None:
    """One head times its size meets the size alone: there can be one head only."""
    (heads, size) = reshape([Axis(8)], (1, 8), "view")

    unify(flattened([heads, size]), size, "sum")

    assert heads.frozen == "it has the size 1 at sum"
    assert size.frozen is None


def test_a_reshape_freezes_only_what_it_cuts() -> None:
    """The axes beside those that are cut stay free."""
    batch, height, width, channels = Axis(2), Axis(4), Axis(6), Axis(5)

    result = reshape([batch, height, width, channels], (2, 3, 8, 5), "a view")

    assert [axis.frozen is None for axis in (batch, height, width, channels)] == [True, False, False, True]
    assert [axis.frozen is None for axis in result] == [True, False, False, True]
    assert result[3] is channels


def test_pieces_of_a_product_are_a_sum() -> None:
    """Query, key and value that are split from one axis, or viewed as three, share the heads and their size."""
    rows, pieces = Axis(24), [Axis(8) for _ in range(3)]

    unify(rows, total(pieces), "split")
    three, heads, size = reshape([rows], (3, 2, 4), "view")

    assert three.frozen == "it counts the pieces of a concatenation at view"
    assert {tuple(piece.atoms()) for piece in pieces} == {(heads, size)}
    assert rows.size_with({heads: 5}) == 60
    assert labels(rows) == labels(product([three, heads, size]))


def test_a_channel_shuffle_is_a_product_of_sums() -> None:
    """After a concatenation, a shuffle in two groups and a split, half of each branch is in either piece."""
    left, right = Axis(8), Axis(8)
    group, rest = reshape([total([left, right])], (2, 8), "shuffle")
    first, second = Axis(8), Axis(8)

    unify(product([rest, group]), total([first, second]), "split")

    assert left.size_with({}) == 8
    assert len(left.summands()) == 2
    assert left.atoms() == right.atoms()
    assert first.factors()[0] is left.summands()[0]
    assert not any(atom.frozen for atom in left.atoms())


@given(st.data(), sizes)
def test_marks_pass_to_what_an_axis_becomes(data: st.DataObject, size: int) -> None:
    """A frozen or normalised axis stays so when it is unified or divided, and so do all its atoms."""
    a, b = (data.draw(expressions(size)) for _ in range(2))
    a.freeze("first")
    a.normalise("second")
    a.freeze("third")

    unify(a, b, "here")

    assert all(atom.frozen for atom in a.atoms() + b.atoms())
    # where the two do not fit, they are frozen, and the mark need not pass
    assert all(atom.normalised or "fit" in str(atom.frozen) for atom in a.atoms() + b.atoms() if atom.size > 1)
    assert "third" not in {atom.frozen for atom in a.atoms()}


def test_axes_of_different_sizes_are_an_error() -> None:
    """The error says both sizes and the place."""
    with pytest.raises(AxisError, match="axes of 3 and 4 entries meet at net"):
        unify(Axis(3), Axis(4), "net")

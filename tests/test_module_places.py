"""The table of the places at which a model can grow."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from full import FULL
from module_zoo import NAMES, build
from torch import nn

from nasframe import Seed, installed
from nasframe.errors import ChangeError
from nasframe.modules.change import changed_copy
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.deepen import deepen
from nasframe.modules.kernels import crop_kernel, dilate, pad_kernel
from nasframe.modules.narrow import Narrow, narrow
from nasframe.modules.paths import add_path
from nasframe.modules.places import SHIPPED, places
from nasframe.modules.verify import distances, gradient_distance
from nasframe.modules.widen import Widen, widen


def test_the_table_of_an_mlp() -> None:
    """A layer that can grow is listed with its size and forms, and a layer that cannot with the reason."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    table = str(places(model, torch.ones(5, 3)))

    assert table.splitlines() == [
        "widen",
        "  0       4  replicate or zero",
        "  2       2  refused: it is an axis of the model's output",
        "narrow       1 place (1 refused): 0",
        "deepen       3 places: 0, 1, 2",
        "pad_kernel   none",
        "crop_kernel  none",
        "dilate       none",
        "add_path     4 places: (the model), 0, 1, 2",
    ]


def test_factors_and_norms_are_listed() -> None:
    """Where an axis is a product, each factor is listed, and whether only a multiple of its units is possible."""
    model, example = build("cnn")

    listed = [p for p in places(model, example)["widen"] if p.name == "conv1"]

    assert [p.size for p in listed] == [2, 2, 2]
    assert ["a multiple" in p.note for p in listed] == [False, False, True]
    assert all(f"factor={i}" in p.note for i, p in enumerate(listed))
    assert "module_zoo.py" in listed[2].note


@cache
def coupled(name: str) -> Coupling:
    return couple(*build(name))


#: an MLP, groups and norms, attention whose heads follow from the width, a tied weight of a recurrent layer, and layers of torch
SOME = NAMES if FULL else ("mlp", "cnn", "gpt", "lstm", "encoder")


@pytest.mark.parametrize("name", SOME)
def test_every_place_that_is_not_refused_can_be_widened(name: str) -> None:
    """`widen` does what the table lists: the change is exact and has the gradients of the map, unless numbers must be given."""
    coupling = coupled(name)
    model, given = coupling.model, coupling.example

    for place in Widen(to=1).places(coupling):
        factor = number(place.note, r"factor=(\d+)")
        if place.refusal is not None:
            with pytest.raises(ChangeError):
                Widen(2 * place.size, factor=factor).rewrite(coupling, place.name, Seed((0,)))
            continue
        forms = [("replicate", 0.0), ("replicate", 0.2)] if "a multiple" not in place.note else [("replicate", 0.0)]
        forms = [form for form in [*forms, ("zero", 0.0)] if form[0] in place.note]
        for form, skew in forms:
            rewrite = Widen(2 * place.size, form, skew, factor).rewrite(coupling, place.name, Seed((0,)))
            assert ("needs numbers" in place.note) == bool(rewrite.questions)
            if not rewrite.questions:
                child = changed_copy(model, rewrite.edits, rewrite.map, Seed((0,)))
                distances(model, child, given, rewrite.claim)
                assert gradient_distance(model, child, rewrite.map, given) < 1e-10


@pytest.mark.parametrize("name", SOME)
def test_every_place_that_is_not_refused_can_be_narrowed(name: str) -> None:
    """`narrow` does what the table lists: it removes a step of units and no fewer, and none where it is refused."""
    coupling = coupled(name)
    model, given = coupling.model, coupling.example

    for place in Narrow(to=1).places(coupling):
        factor, step = number(place.note, r"factor=(\d+)"), number(place.note, r"in steps of (\d+)") or 1
        for to in range(place.size - 1, 0, -1) if place.refusal else range(place.size - 1, place.size - step, -1):
            with pytest.raises(ChangeError):
                Narrow(to=to, factor=factor).rewrite(coupling, place.name, Seed((0,)))
        if place.refusal is None:
            rewrite = Narrow(to=place.size - step, factor=factor).rewrite(coupling, place.name, Seed((0,)))
            if not rewrite.questions:
                child = changed_copy(model, rewrite.edits, rewrite.map, Seed((0,)))
                distances(model, child, given, rewrite.claim)


def number(note: str, pattern: str) -> int | None:
    """Return a number in a note."""
    found = re.search(pattern, note)
    return int(found[1]) if found else None


def test_places_of_several_morphisms() -> None:
    """The places of any morphisms can be listed, under their names."""
    model = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2))

    found = places(model, torch.ones(5, 3), [Widen(to=1), Narrow(to=1)])

    assert list(found.places) == ["widen", "narrow"]
    assert found.places["widen"][0].refusal is None
    assert found.places["narrow"][0].refusal == "there is only one unit"
    assert str(found["narrow"]).splitlines()[1] == "  0       1  refused: there is only one unit"
    with pytest.raises(ChangeError, match="'deepen' is not listed; write one of 'widen', 'narrow'"):
        found["deepen"]


def test_every_morphism_that_comes_with_nasframe_is_listed() -> None:
    """A morphism that is added to the core is in the table as well, except for the one that removes what was added."""
    core = next(plugin for plugin in installed().found if plugin.name == "nasframe")
    names = [part.name for part in core.parts if part.kind == "module_morphism"]
    assert sorted([*(morphism.name for morphism in SHIPPED), "unwrap"]) == sorted(names)


def test_a_table_of_a_large_model_is_short() -> None:
    """Of the morphisms after the first, two lines of names are printed, and all of them if one is chosen."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(20)))

    found = places(model, torch.ones(5, 3))

    (line,) = [line for line in str(found).splitlines() if line.startswith("deepen")]
    assert line.startswith("deepen       40 places (20 refused): 0.0, 0.1")
    assert max(map(len, str(found).splitlines())) <= 120
    assert any(line.endswith(" ...") for line in str(found).splitlines())
    assert len(str(found["deepen"]).splitlines()) > 60


@pytest.mark.parametrize("function", [places, couple, widen, narrow, deepen, pad_kernel, crop_kernel, dilate, add_path])
def test_a_class_instead_of_a_model_is_refused(function: Any) -> None:
    """Every function that changes a model, or lists where it can change, says that an instance is needed."""
    at: dict[str, Any] = {} if function in (places, couple) else {"at": "0"}
    if function in (pad_kernel, crop_kernel, dilate):
        at["dilation" if function is dilate else "kernel"] = 3
    if function in (widen, narrow):
        at["to"] = 3

    with pytest.raises(ChangeError, match=r"the model is the class Linear; give an instance .* such as Net\(\)"):
        function(nn.Linear, example=torch.ones(5, 3), **at)


def test_a_model_that_cannot_change_at_all_is_refused() -> None:
    """What every change would refuse, such as a compiled model, is refused before places are listed."""
    with pytest.raises(ChangeError, match=r"result of torch\.compile"):
        places(torch.compile(nn.Linear(3, 4)), torch.ones(5, 3))

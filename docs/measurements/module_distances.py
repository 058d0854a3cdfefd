"""Apply every morphism of modules to models, and measure how far the outputs move, and the gradients from what the map states.

    PYTHONPATH=tests python docs/measurements/module_distances.py distances.jsonl

Each morphism is applied at all places that it lists for a model. In the models of `LARGE`, morphisms other than `widen` are applied at
as many places as `--places` says, evenly distributed. Each model and morphism adds a line to the file, and those that it has are
not measured again. At the end two tables are printed, with a row for each morphism, and for each model and morphism. They have the number
of places, and the largest distances of the outputs in evaluation and training mode, in float64 and in float32, and of the gradients in
training mode (float64). The reasons for refusals follow. A change that claims to be exact and is not, gradients that differ from the map
by more than 1e-7, and a new parameter without a gradient within two steps are wrong.
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import json
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import module_zoo
import torch
from module_growth import without_gradient
from nasframe_splitting import SplitUnits
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from nasframe import ModuleMorphism, Seed
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.axes import Axis
from nasframe.modules.calls import is_leaf
from nasframe.modules.change import make as make_change
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.deepen import Deepen
from nasframe.modules.edits import named_tensors
from nasframe.modules.example import Example
from nasframe.modules.kernels import CropKernel, Dilate, PadKernel
from nasframe.modules.morphism import Place
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.units import chosen, consumers, places_of, positions, producers, sizes_from
from nasframe.modules.verify import gradient_distance
from nasframe.modules.widen import Widen

LARGE = ("mobilenet_v2", "densenet121", "efficientnet_b0", "convnext_tiny")
VISION = ("resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "convnext_tiny")
SMALL = ("vit", "lstm", "lstm normalised", "gpt", "gpt kept head size", "llama", "mlp", "cnn", "encoder")
DILATED = ("resnet18 dilated", "cnn dilated")
COLUMNS = ("eval float64", "train float64", "eval float32", "train float32", "gradients")
#: the largest relative distance of the gradients from the map; a wrong factor gives 0.1 and more
GRADIENTS = 1e-7


@attrs.frozen
class Attempt:
    """What became of a morphism at a place.

    Attributes:
        place: the name of the place.
        outcome: "exact", "lossy", "refused", "wrong", or "crashed" if there was another error than a refusal.
        values: the distances by column.
        reason: why it was refused, or what is wrong.
    """

    place: str
    outcome: str
    values: Mapping[str, float] = attrs.field(factory=dict)
    reason: str = ""


#: a coupling by the name of its dtype
Couplings = Mapping[str, Coupling]


def attempt(couplings: Couplings, place: str, morphisms: Sequence[ModuleMorphism], gradients: bool = True) -> Attempt:
    """Apply the first of the morphisms that is not refused at a place, in each dtype.

    Args:
        couplings: the coupling of the model in each dtype.
        place: the name of the place.
        morphisms: the morphisms.
        gradients: whether to measure the gradients in float64.
    """
    values: dict[str, float] = {}
    kinds: set[str] = set()
    try:
        for dtype, coupling in couplings.items():
            for last, morphism in enumerate(morphisms, 1 - len(morphisms)):
                try:
                    rewrite = morphism.rewrite(coupling, place, Seed((0, "rewrite")))
                    break
                except ChangeError:
                    if not last:
                        raise
            change = make_change(coupling.model, morphism, place, rewrite, coupling.example)
            kinds.add(change.claim.kind)
            values[f"eval {dtype}"], values[f"train {dtype}"] = change.distances.eval, change.distances.train
            if gradients and dtype == "float64" and change.claim.kind == "exact":
                moved = gradient_distance(change.parent, change.model, change.map, coupling.example, training=True)
                values["gradients"] = moved
                missing = without_gradient(change, coupling.example) if isinstance(morphism, Deepen | AddPath) else []
                if not moved <= GRADIENTS or missing:
                    return Attempt(place, "wrong", values, f"gradients differ by {moved:.1e}; none in {missing}")
    except ClaimError as error:
        return Attempt(place, "wrong", values, str(error))
    except ChangeError as error:
        return Attempt(place, "refused", values, str(error))
    except Exception:
        return Attempt(place, "crashed", values, traceback.format_exc())
    return Attempt(place, " in one dtype, ".join(sorted(kinds)), values)


#: the forms of widening, by a label
WIDENINGS: Mapping[str, Mapping[str, Any]] = {"replicate": {}, "replicate, skew 0.2": {"skew": 0.2}, "zero": {"form": "zero"}}


def wider(place: Place, factor: int | None, **form: Any) -> list[Widen]:
    """Return the widening of a place by a third, and the one to twice as many units, where only a multiple is possible."""
    # with a factor, `to` is the number of the atom's units
    sizes = (place.size + max(1, place.size // 3), 2 * place.size)
    return [Widen(to=to, factor=factor or 0, **form) for to in sizes]


def general(reason: str) -> str:
    """Return a reason without the numbers and names of its place, so that equal reasons are counted together."""
    reason = re.sub(r"(?: at [\w.]+(?: \w+)?)? \([\w.]+\.py(?::\d+)?\)", "", reason)
    reason = re.sub(r"^'?[\w.]+'? (?=cannot|is of type|is called with|receives|changes|is in a)", "* ", reason)
    reason = re.sub(r"'?\b(?!nn\.)\w+(?:\.\w+)*\.(?!py\b)\w+\b'?", "*", reason)
    return re.sub(r"\b\d+\b", "N", reason)


def make(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a model and an example, in float64."""
    name, dilated, _ = name.partition(" dilated")
    if name == "vit":
        torch.manual_seed(0)
        model: nn.Module = VisionTransformer(
            image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
        )
        nn.init.normal_(model.get_parameter("heads.head.weight"))  # zero by default, so that no gradient would arrive
        return model.double(), (torch.randn(2, 3, 16, 16).double(),)
    model, example = module_zoo.vision(name, size=64) if name in VISION else module_zoo.build(name)
    if dilated:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation, module.padding = (2, 2), (2, 2)
    return model, example


def single(coupling: Coupling) -> Coupling:
    """Return the coupling of a copy of the model in float32."""
    args = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in coupling.example.args)
    return attrs.evolve(_with_model(coupling, copy.deepcopy(coupling.model).float()), example=Example(args))


def _with_model(coupling: Coupling, model: nn.Module) -> Coupling:
    held = named_tensors(model)
    return attrs.evolve(coupling, model=model, tensors={name: held[name] for name in coupling.tensors})


def with_copies(coupling: Coupling, atoms: Iterable[Axis]) -> Coupling:
    """Return the coupling of a copy of the model in which every second unit is a copy of the one before it.

    As after a widening, the outgoing weights of a copy are a multiple of those of its unit, and equal to them where units are normalised.
    """
    result = _with_model(coupling, copy.deepcopy(coupling.model))
    for atom in atoms:
        half, multiple = atom.size // 2, 0.5 if atom.normalised is None else 1.0
        produced = producers(coupling, atom)
        for name, k in dict.fromkeys([*produced, *consumers(coupling, atom)]):
            units, tensor = positions(coupling, name, k, atom), result.tensors[name].data
            rows = tensor.index_select(k, units[0 : 2 * half : 2].flatten())
            tensor.index_copy_(k, units[1::2].flatten(), rows if (name, k) in produced else multiple * rows)
    return result


def with_dead_units(coupling: Coupling, atoms: Iterable[Axis]) -> Coupling:
    """Return the coupling of a copy of the model in which the outgoing weights of every second unit are zero."""
    result = _with_model(coupling, copy.deepcopy(coupling.model))
    for atom in atoms:
        for name, k in consumers(coupling, atom):
            result.tensors[name].data.index_fill_(k, positions(coupling, name, k, atom)[1::2].flatten(), 0.0)
    return result


#: what is tried at a place: the couplings, and the morphisms of which the first that is not refused counts
Trial = tuple[Place, Callable[[], tuple[Couplings, Sequence[ModuleMorphism]]]]


def widenings(couplings: Couplings, **form: Any) -> list[Trial]:
    """Return a trial of widening for each place."""
    return [
        (place, functools.partial(lambda *of: (couplings, wider(*of, **form)), place, factor))
        for place, factor in places_of(couplings["float64"])
    ]


def narrowings(couplings: Couplings, change: Callable[[Coupling, Iterable[Axis]], Coupling]) -> list[Trial]:
    """Return a trial of narrowing to half of the units for each place.

    Args:
        couplings: the coupling of the model in each dtype.
        change: returns the coupling of a copy of the model, in which units of these atoms are such that they can be removed.
    """
    coupling = couplings["float64"]

    def narrowed(place: Place, factor: int | None) -> tuple[Couplings, Sequence[ModuleMorphism]]:
        to = place.size - place.size // 2
        try:
            atoms: Iterable[Axis] = sizes_from(coupling, chosen(coupling, place.name, factor or 0)[1], to)
        except ChangeError:
            atoms = ()  # the morphism gives the reason
        return {dtype: change(each, atoms) for dtype, each in couplings.items()}, [Narrow(to=to, factor=factor or 0)]

    pairs = zip(Narrow(to=1).places(coupling), places_of(coupling), strict=True)
    return [(place, functools.partial(narrowed, place, factor)) for place, (_, factor) in pairs]


def others(couplings: Couplings, morphism: ModuleMorphism, applies: Callable[[nn.Module], bool] | None = None) -> list[Trial]:
    """Return a trial of a morphism for each of its places with a module to which it applies."""
    coupling = couplings["float64"]
    found = [
        place for place in morphism.places(coupling) if applies is None or applies(coupling.model.get_submodule(place.name))
    ]
    return [(place, lambda: (couplings, [morphism])) for place in found]


Trials = Mapping[str, Callable[[Couplings], list[Trial]]]
#: by the label of a morphism, its trials for a model
TRIALS: Trials = {
    **{f"widen, {label}": functools.partial(widenings, **form) for label, form in WIDENINGS.items()},
    "narrow, copies": functools.partial(narrowings, change=with_copies),
    "narrow, dead units": functools.partial(narrowings, change=with_dead_units),
    "narrow, any units": functools.partial(narrowings, change=lambda coupling, atoms: coupling),
    "deepen, a layer": functools.partial(others, morphism=Deepen(), applies=is_leaf),
    "deepen, a block": functools.partial(others, morphism=Deepen(), applies=lambda module: not is_leaf(module)),
    "pad_kernel to 9": functools.partial(others, morphism=PadKernel(9)),
    "crop_kernel to 1": functools.partial(others, morphism=CropKernel(1)),
    "dilate to 2, moved taps": functools.partial(others, morphism=Dilate(2, lossy=True)),
    "add_path, a sum with 8 units": functools.partial(others, morphism=AddPath(8)),
    "add_path, 8 units concatenated": functools.partial(
        others, morphism=AddPath(8, "concatenate"), applies=lambda module: isinstance(module, nn.Linear | nn.Conv2d)
    ),
    "split_units, eps 0": functools.partial(others, morphism=SplitUnits(0.0)),
    "split_units, eps 0.1": functools.partial(others, morphism=SplitUnits(0.1)),
}
#: the same for the dilated models
DILATED_TRIALS: Trials = {"dilate to 1, zeros between taps": functools.partial(others, morphism=Dilate(1))}


def measure(model: str, labels: Iterable[str], places: int) -> Iterator[dict[str, Any]]:
    """Yield what was measured for each morphism of a model, as JSON values.

    Args:
        model: the name of the model.
        labels: the labels of the morphisms.
        places: the most places of a large model at which a morphism other than `widen` is applied.
    """
    coupling = couple(*make(model))
    couplings = {"float64": coupling, "float32": single(coupling)}
    for label in labels:
        start = time.process_time()
        listed = {**TRIALS, **DILATED_TRIALS}[label](couplings)
        free = [trial for trial in listed if trial[0].refusal is None]
        step = max(1, -(-len(free) // places)) if model in LARGE and not label.startswith("widen") else 1
        attempts = [attempt(given, place.name, morphisms) for place, trial in free[::step] for given, morphisms in [trial()]]
        refused = collections.Counter(general(place.refusal) for place, _ in listed if place.refusal is not None)
        line = {"model": model, "morphism": label, "places": len(listed), "free": len(free), "refused": refused}
        yield line | {"attempts": [attrs.asdict(a) for a in attempts], "seconds": time.process_time() - start}


def numbers(attempts: Sequence[Mapping[str, Any]]) -> str:
    """Return the cells of a row with the largest distances."""
    worst = [max((a["values"][c] for a in attempts if c in a["values"]), default=None) for c in COLUMNS]
    return " | ".join("" if value is None else f"{value:.0e}" if value else "0" for value in worst)


def table(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each morphism and claim, one for each model, morphism and claim, and the reasons for refusals."""
    heads = ["claim", "places", "free", "measured", "refused when made", "wrong", *COLUMNS]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["morphism"], []).append(line)

    def rows(first: str, group: Sequence[Mapping[str, Any]]) -> None:
        attempts = [a for line in group for a in line["attempts"]]
        found = collections.Counter(a["outcome"] for a in attempts)
        wrong = found.pop("wrong", 0) + found.pop("crashed", 0)
        refused = found.pop("refused", 0)
        places, free = (sum(line[key] for line in group) for key in ("places", "free"))
        for claim in found or [""] * bool(places):
            of = [a for a in attempts if a["outcome"] == claim]
            print(f"| {first} | {claim} | {places} | {free} | {len(of)} | {refused} | {wrong} | {numbers(of)} |")

    print(f"| morphism | models | {' | '.join(heads)} |\n{'| --- ' * (2 + len(heads))}|")
    for label, group in groups.items():
        rows(f"{label} | {len({line['model'] for line in group if line['free']})}", group)
    print(f"\n| model | morphism | {' | '.join(heads)} |\n{'| --- ' * (2 + len(heads))}|")
    for line in lines:
        rows(f"{line['model']} | {line['morphism']}", [line])
    for line in lines:
        for a in line["attempts"]:
            if a["outcome"] in ("wrong", "crashed"):
                print(f"\nWRONG {line['model']}: {line['morphism']} at {a['place']}: {a['reason']}")
    print("\n| refused | morphisms | models | reason |\n| --- | --- | --- | --- |")
    reasons: dict[str, collections.Counter[tuple[str, str]]] = collections.defaultdict(collections.Counter)
    for line in lines:
        when_made = [a["reason"] for a in line["attempts"] if a["outcome"] == "refused"]
        for reason in [*when_made, *collections.Counter(line["refused"]).elements()]:
            reasons[general(reason)][line["morphism"].partition(",")[0], line["model"]] += 1
    for reason, found in sorted(reasons.items(), key=lambda item: -item[1].total()):
        morphisms, models = (", ".join(dict.fromkeys(names)) for names in zip(*found, strict=True))
        print(f"| {found.total()} | {morphisms} | {models} | {reason} |")
    print(f"\n{sum(line['seconds'] for line in lines):.0f} seconds")


def main() -> None:
    """Measure what the file does not have, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the file with a line for each model and morphism")
    parser.add_argument("models", nargs="*", default=[*SMALL, *DILATED, *VISION])
    parser.add_argument(
        "--places", type=int, default=4, help="the most places of a large model at which a morphism other than widen is applied"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    def read() -> list[dict[str, Any]]:
        return [*map(json.loads, options.file.read_text().splitlines())] if options.file.exists() else []

    for model in options.models:
        found = {line["morphism"] for line in read() if line["model"] == model}
        if labels := [label for label in (DILATED_TRIALS if model in DILATED else TRIALS) if label not in found]:
            for line in measure(model, labels, options.places):
                with options.file.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    table(read())


if __name__ == "__main__":
    main()

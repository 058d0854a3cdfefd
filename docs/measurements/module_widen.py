"""Widen models at their places, and measure how far the outputs move, and the gradients from what the map states.

    PYTHONPATH=tests python docs/measurements/module_widen.py --places 8

Each place is widened in each form that `nasframe.places` lists for it: to twice the units where they are normalised, otherwise by a
third. Where a model has more places than `--places`, as many are measured, evenly distributed. The script prints a row for each model
and form, and the reasons for refusals. A change that claims to be exact and is not, and gradients that differ from the map by more
than 1e-9, are printed as WRONG.
"""

from __future__ import annotations

import argparse
import collections
import copy
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import module_zoo
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from nasframe import Seed
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.change import answered, changed_copy
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.example import Example
from nasframe.modules.morphism import Place
from nasframe.modules.units import places_of
from nasframe.modules.verify import distances, gradient_distance
from nasframe.modules.widen import Widen

FORMS: Mapping[str, Mapping[str, Any]] = {"replicate": {}, "replicate, skew 0.2": {"skew": 0.2}, "zero": {"form": "zero"}}
VISION = ("resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "convnext_tiny")
SMALL = ("vit", "lstm", "lstm normalised", "gpt", "gpt kept head size", "llama", "mlp", "cnn", "encoder")


@attrs.define
class Row:
    """What was measured for a model and a form."""

    exact: int = 0
    refused: int = 0
    wrong: int = 0
    worst: dict[str, float] = attrs.field(factory=lambda: collections.defaultdict(float))

    def note(self, column: str, value: float) -> None:
        """Keep the largest value of a column."""
        self.worst[column] = max(self.worst[column], value)


def make(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a model and an example, in float64."""
    if name == "vit":
        torch.manual_seed(0)
        model = VisionTransformer(
            image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
        )
        nn.init.normal_(model.heads.head.weight)  # zero by default, so that no gradient would arrive
        return model.double(), (torch.randn(2, 3, 16, 16).double(),)
    return module_zoo.vision(name, size=64) if name in VISION else module_zoo.build(name)


def single(coupling: Coupling) -> Coupling:
    """Return the coupling of a copy of the model in float32."""
    model = copy.deepcopy(coupling.model).float()
    held = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    args = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in coupling.example.args)
    return attrs.evolve(coupling, model=model, example=Example(args), tensors={n: held[n] for n in coupling.tensors})


def measure(
    couplings: Mapping[str, Coupling], place: Place, factor: int | None, form: Mapping[str, Any], row: Row
) -> Iterator[str]:
    """Widen one place in one form, and yield the reason if it is refused or wrong."""
    for dtype, coupling in couplings.items():
        seed = Seed((0,))
        try:
            # with a factor, `to` is the number of the atom's units
            morphism = Widen(to=place.size + max(1, place.size // 3), factor=factor or 0, **form)
            try:
                rewrite = morphism.rewrite(coupling, place.name, seed)
            except ChangeError:
                morphism = attrs.evolve(morphism, to=2 * place.size)
                rewrite = morphism.rewrite(coupling, place.name, seed)
            edits = answered(coupling.model, rewrite.edits, rewrite.questions, {})
            child = changed_copy(coupling.model, edits, rewrite.map, seed)
            found = distances(coupling.model, child, coupling.example, rewrite.claim)
        except ClaimError as error:
            row.wrong += 1
            yield f"WRONG {place.name}: {error}"
            return
        except ChangeError as error:
            row.refused += 1
            yield str(error)
            return
        row.note(f"eval {dtype}", found.eval)
        row.note(f"train {dtype}", found.train)
        if dtype == "float64":
            difference = gradient_distance(coupling.model, child, rewrite.map, coupling.example)
            row.note("gradients", difference)
            if difference > 1e-9:
                row.wrong += 1
                yield f"WRONG gradients at {place.name}: {difference:.1e}"
                return
    row.exact += 1


def main() -> None:
    """Print a table: a row for each model and form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*VISION, *SMALL])
    parser.add_argument("--places", type=int, default=10**6, help="the most places of a model that are measured")
    options = parser.parse_args()
    columns = ["eval float64", "train float64", "eval float32", "train float32", "gradients"]
    print("| model | places | free | form | measured | exact | refused | wrong |", " | ".join(columns), "| seconds |")
    print("| --- " * (9 + len(columns)) + "|")
    reasons: dict[str, collections.Counter[str]] = {}
    for name in options.models:
        model, example = make(name)
        coupling = couple(model, example)
        couplings = {"float64": coupling, "float32": single(coupling)}
        places = list(places_of(coupling))
        free = [(place, factor) for place, factor in places if place.refusal is None]
        counter = reasons.setdefault(name, collections.Counter())
        counter.update(general(place.refusal) for place, _ in places if place.refusal is not None)
        picked = free[:: -(-len(free) // options.places)] if free else []
        for form, given in FORMS.items():
            start, row = time.perf_counter(), Row()
            for place, factor in picked:
                counter.update(f"{form}: {general(reason)}" for reason in measure(couplings, place, factor, given, row))
            values = " | ".join(f"{row.worst[column]:.0e}" if column in row.worst else "" for column in columns)
            counts = f"{len(places)} | {len(free)} | {form} | {len(picked)} | {row.exact} | {row.refused} | {row.wrong}"
            print(f"| {name} | {counts} | {values} | {time.perf_counter() - start:.1f} |", flush=True)
    for name, counter in reasons.items():
        print(f"\n{name}:\n")
        for reason, count in counter.most_common():
            print(f"- {count} x {reason}")


def general(reason: str) -> str:
    """Return a reason without the numbers and names of its place, so that equal reasons are counted together."""
    if reason.startswith("WRONG"):
        return reason
    reason = re.sub(r" at [\w.]+(?: \w+)? \(([\w.]+):\d+\)", r" (\1)", reason)
    return re.sub(r"\b\d+\b", "N", reason)


if __name__ == "__main__":
    main()

"""Deepen models, pad and dilate their kernels and add paths, and measure how far the outputs move.

    PYTHONPATH=tests python docs/measurements/module_deepen.py --places 3

A row is printed for each place: the distances of the outputs in evaluation and training mode, in float64 and float32, and that of the
gradients from the map (float64). Where a model has more places than `--places` for a morphism, as many are measured, evenly
distributed. Places that are refused follow, one row for each reason. A change that claims to be exact and is not, gradients that
differ from the map by more than 1e-7, and a new parameter without a gradient within two steps are printed as WRONG.
"""

from __future__ import annotations

import argparse
import collections
import re
import time
import warnings
from collections.abc import Mapping

import attrs
from module_growth import without_gradient
from module_widen import SMALL, VISION, make, single

from nasframe import ModuleMorphism
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.calls import is_leaf
from nasframe.modules.change import ModuleChange, make as make_change
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.deepen import Deepen
from nasframe.modules.kernels import Dilate, PadKernel
from nasframe.modules.morphism import Place
from nasframe.modules.paths import AddPath
from nasframe.modules.verify import gradient_distance
from nasframe.seeds import Seed


@attrs.frozen
class Row:
    """What was measured at a place."""

    eval64: float
    train64: float
    eval32: float
    train32: float
    gradients: float
    remark: str = ""

    def __str__(self) -> str:
        numbers = (self.eval64, self.train64, self.eval32, self.train32, self.gradients)
        return " | ".join([*(f"{n:.1e}" for n in numbers), self.remark])


def measure(couplings: Mapping[str, Coupling], morphism: ModuleMorphism, place: Place) -> Row:
    """Apply a morphism to a place in both dtypes."""
    changes: dict[str, ModuleChange] = {}
    for dtype, coupling in couplings.items():
        rewrite = morphism.rewrite(coupling, place.name, Seed((0, "rewrite")))
        changes[dtype] = make_change(coupling.model, morphism, place.name, rewrite, coupling.example)
    double, float_ = changes["float64"], changes["float32"]
    gradients, remark = float("nan"), double.claim.kind
    if remark == "exact":
        example = couplings["float64"].example
        gradients = gradient_distance(double.parent, double.model, double.map, example, training=True)
        missing = without_gradient(double, example)
        if gradients > 1e-7 or missing:
            remark = f"WRONG gradients of {', '.join(missing) or 'old parameters'}"
    a, b = double.distances, float_.distances
    return Row(a.eval, a.train, b.eval, b.train, gradients, remark)


def main() -> None:
    """Print a table: a row for each place of each model and morphism, and one for each reason to refuse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*VISION, *SMALL])
    parser.add_argument("--places", type=int, default=10**6, help="the most places of a model and morphism that are measured")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| model | morphism | place | eval float64 | train float64 | eval float32 | train float32 | gradients | claim |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    counts: collections.Counter[str] = collections.Counter()
    for name in options.models:
        start = time.perf_counter()
        coupling = couple(*make(name))
        couplings = {"float64": coupling, "float32": single(coupling)}
        for label, morphism in {
            "deepen, layer": Deepen(),
            "deepen, block": Deepen(),
            "pad_kernel, 9": PadKernel(9),
            "dilate, 2, lossy": Dilate(2, lossy=True),
            "add_path, 8": AddPath(8),
        }.items():
            listed = [*morphism.places(coupling)]
            if isinstance(morphism, Deepen):
                layers = {name for name, module in coupling.model.named_modules() if is_leaf(module)}
                listed = [place for place in listed if (place.name in layers) == (label == "deepen, layer")]
            refused: dict[str, list[str]] = {}
            for place in listed:
                if place.refusal is not None:
                    refused.setdefault(_reason(place.refusal), []).append(f"{place.name or 'the model'}: {place.refusal}")
            free = [place for place in listed if place.refusal is None]
            chosen = {round(i * (len(free) - 1) / max(options.places - 1, 1)) for i in range(options.places)}
            for place in [p for i, p in enumerate(free) if i in chosen] if len(free) > options.places else free:
                try:
                    row = measure(couplings, morphism, place)
                    print(f"| {name} | {label} | {place.name} | {row} |", flush=True)
                    counts["wrong" if "WRONG" in row.remark else row.remark] += 1
                except ClaimError as error:
                    print(f"| {name} | {label} | {place.name} | WRONG {error} |", flush=True)
                    counts["wrong"] += 1
                except ChangeError as error:
                    refused.setdefault(_reason(str(error)), []).append(f"{place.name}: {error}")
                    counts["refused when made"] += 1
            for found in refused.values():
                print(f"| {name} | {label} | {len(found)} of {len(listed)} refused | {found[0]} |", flush=True)
                counts["refused"] += len(found)
        print(f"| {name} | all | {time.perf_counter() - start:.0f} seconds |", flush=True)
    print("\n" + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _reason(text: str) -> str:
    """Return a refusal without the names and numbers in it, by which the others of its kind are found."""
    return re.sub(r"[\w.]*[._\d][\w.:/]*", "*", text)[:60]


if __name__ == "__main__":
    main()

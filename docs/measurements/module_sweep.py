"""Couple torchvision's classification architectures, and check the couplings by permuting and widening.

    PYTHONPATH=tests python docs/measurements/module_sweep.py --parameters 3e7

For each architecture the script prints a row: the seconds of two traces and of reading them, the places at which units are produced and
how many of them are free, how far the outputs move (relative to the largest) when the units of all free atoms are permuted at once in
all tensors that carry them, and how widening two places by replication and by zeros ended. The reasons for frozen places follow.
A distance above 1e-9, and a change that claims to be exact and is not, are WRONG.
"""

from __future__ import annotations

import argparse
import collections
import time
import warnings

import module_zoo
import torch
import torchvision
from module_widen import FORMS, Row, general, measure
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model_weights, list_models

from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.units import places_of

#: the smallest resolutions that the architectures accept, where 64 pixels are too few or another number is built in
RESOLUTION = {
    "inception_v3": 299,
    "maxvit_t": 224,
    "vit_b_16": 224,
    "vit_b_32": 224,
    "vit_l_16": 224,
    "vit_l_32": 224,
    "vit_h_14": 224,
}


def order(axis: Axis, orders: dict[Axis, Tensor]) -> Tensor:
    """Return the entries of an axis whose atoms are permuted."""
    axis = axis.find()
    if axis.form is None:
        return orders.get(axis, torch.arange(axis.size))
    result = torch.zeros(1 if axis.form == "*" else 0, dtype=torch.long)
    for part in axis.parts:
        inner = order(part, orders)
        nested = (result[:, None] * part.size + inner).flatten()
        result = nested if axis.form == "*" else torch.cat([result, inner + len(result)])
    return result


@torch.no_grad()
def permuted_distance(coupling: Coupling) -> float:
    """Permute the units of all free atoms in place and return how far the outputs move, relative to the largest of them."""
    model = coupling.model.eval()
    before = tree_leaves(model(*coupling.example.args))
    atoms = {atom for axes in coupling.axes.values() for axis in axes for atom in axis.atoms() if not atom.frozen}
    orders = {atom: torch.randperm(atom.size) for atom in atoms}
    for name, tensor in coupling.tensors.items():
        for dim, axis in enumerate(coupling.axes[name]):
            tensor.copy_(tensor.index_select(dim, order(axis, orders)))
    after = tree_leaves(model(*coupling.example.args))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before, strict=True))


def main() -> None:
    """Print a row for each architecture, and the reasons for frozen places."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument(
        "--parameters", type=float, default=float("inf"), help="the most parameters of a model that is measured"
    )
    parser.add_argument("--places", type=int, default=2, help="how many places of a model are widened in each form")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = {n: get_model_weights(n).DEFAULT.meta["num_params"] for n in list_models(module=torchvision.models)}
    names = options.models or [n for n in sorted(sizes, key=sizes.__getitem__) if sizes[n] <= options.parameters]
    print("| architecture | parameters | seconds | places | free | permuted | exact | refused | wrong |")
    print("| --- " * 9 + "|")
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        model, example = module_zoo.vision(name, size=RESOLUTION.get(name, 64))
        start = time.perf_counter()
        try:
            coupling = couple(model, example)
        except ChangeError as error:
            print(f"| {name} | {sizes[name] / 1e6:.1f} M | not traced: {error} |", flush=True)
            continue
        seconds = time.perf_counter() - start
        places = list(places_of(coupling))
        free = [(place, factor) for place, factor in places if place.refusal is None]
        for place, _ in places:
            if place.refusal is not None:
                reasons[general(place.refusal)].append(name)
        row = Row()
        for place, factor in free[:: -(-len(free) // options.places)] if options.places else []:
            for form in ("replicate", "zero"):
                for reason in measure({"float64": coupling}, place, factor, FORMS[form], row):
                    reasons[f"{form}: {general(reason)}"].append(name)
        moved = permuted_distance(coupling)
        wrong = row.wrong + (moved > 1e-9)
        counts = f"{len(places)} | {len(free)} | {moved:.0e} | {row.exact} | {row.refused} | {wrong}"
        print(f"| {name} | {sizes[name] / 1e6:.1f} M | {seconds:.1f} | {counts} |", flush=True)
    for reason, found in reasons.items():
        count = collections.Counter(found)
        print(f"\n- {reason}: {', '.join(f'{name} ({n})' for name, n in count.items())}")


if __name__ == "__main__":
    main()

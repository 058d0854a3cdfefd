"""Couple every classification architecture of torchvision, and check the coupling by permuting and widening.

    PYTHONPATH=tests python docs/measurements/module_sweep.py sweep.jsonl --smallest 27
    PYTHONPATH=tests python docs/measurements/module_sweep.py sweep.jsonl --places 1
    PYTHONPATH=tests python docs/measurements/module_sweep.py sweep.jsonl --table

The first two commands add a line to the file for each architecture that the file does not have, smallest first. Each one runs in a
separate process, so that its memory is returned. A line has the seconds of two traces and of reading them; the places at which units are
produced and how many of them are free; how far the outputs move (relative to the largest) when the units of all free atoms are permuted
at once in all tensors that carry them; and how widening some places in three forms ended. The last command prints the table.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import attrs
import module_zoo
import torch
import torchvision
from module_distances import WIDENINGS, attempt, general, wider
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model_weights, list_models

from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.units import places_of

#: two images of this size, or of 64 pixels. Vision transformers are built for the size, which is that of 16 or 4 patches.
PIXELS = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56}
#: models with more parameters are measured in float32
FLOAT64 = 2.5e8
#: models with more parameters are measured without gradients
GRADIENTS = 3e7


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


def sizes() -> dict[str, int]:
    """Return the number of parameters of each architecture, smallest first."""
    found = {n: int(get_model_weights(n).DEFAULT.meta["num_params"]) for n in list_models(module=torchvision.models)}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def measure(name: str, places: int) -> dict[str, Any]:
    """Return what was measured for an architecture, as JSON values.

    Args:
        name: the architecture.
        places: how many of its free places are widened in each form.
    """
    parameters = sizes()[name]
    pixels = PIXELS.get(name, 64)
    dtype = torch.float64 if parameters <= FLOAT64 else torch.float32
    options = {"image_size": pixels} if name.startswith("vit") else {}
    model, example = module_zoo.vision(name, dtype=dtype, size=pixels, **options)
    line: dict[str, Any] = {"architecture": name, "parameters": parameters, "dtype": str(dtype).removeprefix("torch.")}
    start = time.process_time()
    try:
        coupling = couple(model, example)
    except ChangeError as error:
        return line | {"refused": str(error)}
    line["seconds"] = time.process_time() - start
    listed = list(places_of(coupling))
    free = [(place, factor) for place, factor in listed if place.refusal is None]
    line |= {"places": len(listed), "free": len(free)}
    line["frozen"] = collections.Counter(general(place.refusal) for place, _ in listed if place.refusal is not None)
    couplings, start = {str(line["dtype"]): coupling}, time.process_time()
    places = min(places, len(free))
    line["attempts"] = [
        {"form": label, **attrs.asdict(attempt(couplings, place.name, wider(place, factor, **form), parameters <= GRADIENTS))}
        for place, factor in [free[int((i + 0.5) * len(free) / places)] for i in range(places)]
        for label, form in WIDENINGS.items()
    ]
    line["widening seconds"] = time.process_time() - start
    # the last, as it changes the model
    line["permuted"] = permuted_distance(coupling)
    line["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return line


def sweep(path: Path, names: list[str], places: int) -> None:
    """Add a line to the file for each architecture that it does not have."""
    done = {json.loads(line)["architecture"] for line in path.read_text().splitlines()} if path.exists() else set()
    for name in names:
        if name in done:
            continue
        command = [sys.executable, __file__, str(path), name, "--one", "--places", str(places)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        line = process.stdout.splitlines()[-1] if process.returncode == 0 else None
        with path.open("a") as file:
            error = {"architecture": name, "crashed": f"{process.returncode}: {process.stderr[-3000:]}"}
            file.write((line or json.dumps(error)) + "\n")


def table(path: Path) -> None:
    """Print a row for each architecture, what is wrong, and the reasons for refusals."""
    print("| architecture | parameters | dtype | seconds | places | free | permuted | attempts | exact | refused | wrong |")
    print("| --- " * 11 + "|")
    totals: collections.Counter[str] = collections.Counter()
    reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    faults = []
    found = {line["architecture"]: line for line in map(json.loads, path.read_text().splitlines())}
    lines = {name: found[name] for name in sizes() if name in found}
    for name, line in lines.items():
        totals["architectures"] += 1
        if "places" not in line:
            faults.append(f"{name}: {line.get('crashed') or line['refused']}")
            continue
        counts = collections.Counter(a["outcome"] for a in line["attempts"])
        if not line["permuted"] <= (1e-9 if line["dtype"] == "float64" else 1e-3):
            counts["wrong"] += 1
            faults.append(f"{name}: permuted, its outputs move by {line['permuted']:.0e}")
        for a in line["attempts"]:
            if a["outcome"] in ("wrong", "crashed"):
                faults.append(f"{name}: {a['form']} at {a['place']}: {a['reason']}")
            elif a["outcome"] == "refused":
                reasons[f"{a['form']}: {general(a['reason'])}"][name] += 1
        for reason, n in line["frozen"].items():
            reasons[f"not free: {general(reason)}"][name] += n
        totals.update(counts)
        totals["attempts"] += len(line["attempts"])
        ended = f"{len(line['attempts'])} | {counts['exact']} | {counts['refused']} | {counts['wrong'] + counts['crashed']}"
        coupled = f"{line['seconds']:.0f} | {line['places']} | {line['free']} | {line['permuted']:.0e}"
        print(f"| {name} | {line['parameters'] / 1e6:.1f} M | {line['dtype']} | {coupled} | {ended} |")
    print(f"\n{dict(totals)}\n")
    for fault in faults:
        print(f"- WRONG {fault}")
    print("\n| refused | architectures | for example | reason |\n| --- | --- | --- | --- |")
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(f"| {names.total()} | {len(names)} | {', '.join([*names][:3])} | {reason} |")
    if missing := [name for name in sizes() if name not in lines]:
        print(f"\nnot measured: {', '.join(missing)}")


def main() -> None:
    """Measure architectures, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the file with a line for each architecture")
    parser.add_argument("models", nargs="*", help="the architectures, by default all")
    parser.add_argument("--smallest", type=int, help="measure so many architectures, those with the fewest parameters")
    parser.add_argument("--places", type=int, default=3, help="how many places of a model are widened in each form")
    parser.add_argument("--table", action="store_true", help="print the table instead")
    parser.add_argument("--one", action="store_true", help="measure one architecture, and print its line")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.table:
        table(options.file)
    elif options.one:
        print(json.dumps(measure(options.models[0], options.places)))
    else:
        sweep(options.file, options.models or [*sizes()][: options.smallest], options.places)


if __name__ == "__main__":
    main()

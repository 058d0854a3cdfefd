"""Measure the speed and the errors of the least eigenvalues of splitting matrices, and what looking for a split costs in a search.

    python docs/measurements/splitting.py
    python docs/measurements/splitting.py --surrogates

The second command measures what the surrogate of ReLU predicts, on the digits of scikit-learn.

One thread, float32, random inputs and a softplus layer. Times are the medians of the processor time in milliseconds, all variants
interleaved; the time of autograd is that of some units, times their number. Errors are relative to eigenvalues in float64. Memory is
the peak of a separate process minus what it held before.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from dynamic import BACKBONES, strategy_of
from nasframe_splitting import (
    Eigenpairs,
    Split,
    SplittingMatrices,
    SplitUnits,
    exact_eigenpairs,
    lanczos_eigenpairs,
    layer_matrices,
    splittable,
    splitting_matrices,
    unit_layers,
)
from nasframe_splitting.units import Halves
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from nasframe import Context, Seed
from nasframe.modules.change import make
from nasframe.modules.coupling import couple
from nasframe.search.plan import END
from nasframe.testing.fakes import Endless
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("splitting",))
#: (units, inputs, batch): the reference, and a half of each
LAYERS = ((128, 256, 1024), (64, 256, 1024), (128, 128, 1024), (128, 256, 512))
STEPS = (4, 16, 24, 30, 40, 64)
#: units for which autograd computes Hessians
MEASURED = 2
#: what is measured of the surrogate: its sharpness, the steps, the hidden units, the images of a batch and the seeds
SHARPNESS, EPS, HIDDEN, IMAGES, SEEDS = (1.0, 3.0, 10.0, 30.0, 100.0), (0.01, 0.03, 0.1, 0.3), 8, 1000, 5
#: the numbers of units of a supernet, and of proposals, with which looking for splits is measured
WIDTHS, PROPOSALS = (8, 32, 128, 256), (1, 3)
#: the numbers of steps of Lanczos of which the predicted decrease is measured there
FEW = (2, 4, 8, 12)


def main() -> None:
    """Measure and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--surrogates", action="store_true")
    parser.add_argument("--memory", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.surrogates:
        surrogates()
        return
    if options.memory:
        print(held(*options.memory))
        return
    print(f"torch {torch.__version__}, 1 thread, float32, {options.rounds} rounds; milliseconds of processor time, medians")
    for sizes in LAYERS:
        eigenpairs(*sizes, rounds=options.rounds)
    for units, inputs in ((128, 1024), (256, 1024), (128, 2048), (256, 2048)):
        command = [sys.executable, __file__, "--memory", str(units), str(inputs), "256"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        print(f"units {units}, inputs {inputs}, batch 256: Lanczos 16 takes {float(done.stdout):.0f} MiB", flush=True)
    for backbone, hidden in itertools.product(BACKBONES, WIDTHS):
        looking(backbone, hidden, options.rounds)


def layer(units: int, inputs: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs of a softplus layer, its weight, and the gradient of a loss with respect to its output."""
    generator = SEED(units, inputs, batch).generator()
    x = torch.randn(batch, inputs, generator=generator)
    weight = torch.randn(units, inputs, generator=generator) / inputs**0.5
    head = torch.randn(units, 10, generator=generator) / units**0.5
    s = softplus(x @ weight.T).requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(s @ head, torch.randint(10, (batch,), generator=generator)), s)
    return x, weight, g


def matrices_of(x: Tensor, weight: Tensor, g: Tensor) -> SplittingMatrices:
    """Return the splitting matrices of a softplus layer."""
    p = torch.sigmoid(x @ weight.T)
    return SplittingMatrices([x], (g * p * (1 - p))[None, None])


def eigenpairs(units: int, inputs: int, batch: int, *, rounds: int) -> None:
    """Print the time and the errors of each way to the least eigenpairs of a layer."""
    x, weight, g = layer(units, inputs, batch)
    matrices = matrices_of(x, weight, g)
    reference = exact_eigenpairs(matrices_of(x.double(), weight.double(), g.double()))

    def hessians() -> None:
        for unit in range(MEASURED):
            hessian: Any = torch.autograd.functional.hessian
            hessian(lambda theta, unit=unit: (g[:, unit] * softplus(x @ theta)).sum(), weight[unit])

    ways: dict[str, Callable[[], Any]] = {"autograd": hessians, "exact": lambda: exact_eigenpairs(matrices)}
    ways |= {f"Lanczos {steps}": partial(lanczos_eigenpairs, matrices, steps, SEED) for steps in STEPS}
    times = measured(ways, rounds)
    autograd = times.pop("autograd") * units / MEASURED
    print(f"units {units}, inputs {inputs}, batch {batch}: Hessians by autograd {autograd:.0f}", flush=True)
    for name, milliseconds in times.items():
        found: Eigenpairs = ways[name]()
        errors = (found.values.double() / reference.values - 1).abs()
        cosines = (found.vectors.double() * reference.vectors).sum(-1).abs()
        print(
            f"  {name:<11} {milliseconds:8.1f}  1/{autograd / milliseconds:<5.0f} error {errors.median():.1e} median, "
            f"{errors.max():.1e} worst; cosine {cosines.median():.6f} median, {cosines.min():.4f} worst",
            flush=True,
        )


def measured(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median of the milliseconds of processor time of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def held(units: int, inputs: int, batch: int) -> float:
    """Return the MiB at the peak of computing the least eigenpairs of a layer, beyond those before it."""
    lanczos_eigenpairs(matrices_of(*layer(2, 40, 40)), 16, SEED)  # what torch allocates at its first use
    matrices = matrices_of(*layer(units, inputs, batch))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here
    before = peak()
    lanczos_eigenpairs(matrices, 16, SEED)
    return (peak() - before) / 1024


def peak() -> int:
    """Return the largest memory of this process in KiB."""
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])


def looking(backbone: str, hidden: int, rounds: int) -> None:
    """Print the time of proposing splits in a search beside that of a training step, on the weather series."""
    wide = attrs.evolve(BACKBONES[backbone], hidden=hidden)
    strategy = attrs.evolve(strategy_of("weather", backbone, 0), backbone=wide, plan=END, criterion=Endless(), nodes=4)
    trained = TrainedNetwork.of(strategy, 60)
    operations = len([*splittable(trained.network.structure)])
    ways: dict[str, Callable[[], object]] = {"ten steps": lambda: trained.train(10)}
    ways |= {f"{n}": partial(trained.proposals, Split(proposals=n)) for n in PROPOSALS}
    times = measured(ways, rounds)
    step = times["ten steps"] / 10
    looks = "  ".join(f"{n} {'split' if n == 1 else 'splits'} {times[f'{n}'] / step:.1f}" for n in PROPOSALS)
    reached = "  ".join(f"{steps} {share:.3f}" for steps, share in predicted(trained).items())
    print(f"{backbone}, 4 nodes, n_h {hidden}, T 10, batch 50, {operations} operations: step {step:.1f}", flush=True)
    print(f"  steps for looking for  {looks}; share of the predicted decrease by steps of Lanczos  {reached}", flush=True)


def predicted(trained: TrainedNetwork) -> Mapping[int, float]:
    """Return the least share of the exact predicted decrease that so many steps of Lanczos find, over the operations of a supernet."""

    def matrices(context: Context) -> Mapping[Any, Sequence[SplittingMatrices]]:
        network = context.network
        keys = [*splittable(network.structure)]
        return splitting_matrices(network, lambda forward: context.training_loss(network, forward=forward), keys)

    def decrease(pairs: Callable[[SplittingMatrices], Eigenpairs], each: Sequence[SplittingMatrices]) -> float:
        return sum(float(pairs(one).values.clamp(max=0).double().sum()) for one in each)

    found, _ = trained.measured(matrices)
    exact = [decrease(exact_eigenpairs, each) for each in found.values()]
    shares = {}
    for steps in FEW:
        some = [decrease(partial(lanczos_eigenpairs, steps=steps, seed=SEED), each) for each in found.values()]
        shares[steps] = min(one / other for one, other in zip(some, exact, strict=True))
    return shares


def surrogates() -> None:
    """Print for each sharpness of the surrogate how the loss falls if all units with a negative index are split, and what is predicted."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    images = (images - images.mean()) / images.std()
    print(
        f"digits, {IMAGES} images; a split of all units with lambda < 0; real decrease of the loss (predicted, real / predicted)"
    )
    for activation, beta in ((nn.Tanh, None), *((nn.ReLU, beta) for beta in SHARPNESS)):
        rows: dict[float, list[tuple[float, float]]] = {eps: [] for eps in EPS}
        units = []
        for seed in range(SEEDS):
            order = torch.randperm(len(labels), generator=SEED("images", seed).generator())[:IMAGES]
            x, y = images[order], labels[order]
            with SEED("model", seed).as_global():
                model = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), activation(), nn.Linear(HIDDEN, 10))
            optimiser = torch.optim.Adam(model.parameters(), 0.01)
            for _ in range(300):
                optimiser.zero_grad()
                cross_entropy(model(x), y).backward()
                optimiser.step()
            before = float(cross_entropy(model(x), y).detach())
            coupling = couple(model, x)
            (found,) = (each for each in unit_layers(coupling, beta) if each.refusal is None)
            matrices = layer_matrices(coupling, partial(cross_entropy, target=y), [found.layer])
            pairs = exact_eigenpairs(matrices[found.layer.weight])
            chosen = (pairs.values.flatten() < 0).nonzero().flatten().tolist()
            total = float(pairs.values.clamp(max=0).sum())
            units.append(len(chosen))
            for eps in EPS:
                split = SplitUnits(eps)
                rewrite = split.along(coupling, "0", [Halves(found, tuple(chosen), pairs.vectors)])
                child = make(model, split, "0", rewrite, x).model
                rows[eps].append((before - float(cross_entropy(child(x), y).detach()), -(eps**2) / 2 * total))
        shown = []
        for eps, pairs_of in rows.items():
            real, predicted = (statistics.mean(values) for values in zip(*pairs_of, strict=True))
            shown.append(f"eps {eps}: {real:.2e} ({predicted:.2e}, {real / predicted:.2f})")
        name = activation.__name__ + (f", beta {beta:g}" if beta else "")
        print(f"  {name:<15} {statistics.mean(units):.1f} units  " + "  ".join(shown), flush=True)


if __name__ == "__main__":
    main()

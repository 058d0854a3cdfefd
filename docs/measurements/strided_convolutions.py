"""Find out which convolutions write beyond their memory in torch's backward pass on the CPU.

    python docs/measurements/strided_convolutions.py

Needs Linux with glibc's malloc checks (libc_malloc_debug.so.0). Each case runs in separate processes, up to three
times per instruction set, as damage is not always seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import torch

#: the case from which the others differ in what they name
BASE: dict[str, Any] = {"inputs": 4, "outputs": 16, "kernel": 1, "stride": 2, "size": 64, "batch": 4}
CASES: list[dict[str, Any]] = [
    *({"inputs": n} for n in (1, 2, 4, 7, 8, 12, 15, 16, 17)),
    *({"inputs": 4, "size": n} for n in (4, 6, 8, 16, 32, 48, 63)),
    *({"outputs": n} for n in (1, 16, 17, 64)),
    *({"stride": n} for n in (1, 4, (1, 2), (2, 1))),
    {"stride": 3, "size": 63},
    {"padding": 1},
    {"groups": 2},
    {"inputs": 16, "groups": 16},
    {"kernel": 2},
    {"kernel": 3, "padding": 1},
    {"kernel": (1, 3), "padding": (0, 1)},
    {"batch": 1},
    {"dtype": "bfloat16"},
    {"dtype": "float64"},
    {"layout": "contiguous_format"},
    {"gradient": "inputs"},
    {"gradient": "none"},
]


def run(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    size: int,
    batch: int,
    *,
    dtype: str = "float32",
    layout: str = "channels_last",
    gradient: str = "weight",
    **options: Any,
) -> None:
    """Compute a convolution and a gradient, ten times."""
    made = torch.nn.Conv2d(inputs, outputs, kernel, stride, bias=False, dtype=getattr(torch, dtype), **options)
    for _ in range(10):
        x = torch.randn(batch, inputs, size, size, dtype=made.weight.dtype)
        x = x.contiguous(memory_format=getattr(torch, layout)).requires_grad_()
        y = made(x)
        if gradient != "none":
            torch.autograd.grad(y, made.weight if gradient == "weight" else x, torch.randn_like(y))


def outcome(case: dict[str, Any]) -> str:
    """Return how a process ends that runs a case: "ok", or the signal that ended it."""
    if pid := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return signal.Signals(-code).name if code < 0 else "ok" if code == 0 else f"exit {code}"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.alarm(60)
    run(**BASE | case)
    os._exit(0)


def main() -> None:
    """Print a table: a row per case, a column per instruction set."""
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        for case in CASES:
            outcomes = (outcome(case) for _ in range(3))
            print(next((each for each in outcomes if each != "ok"), "ok"), flush=True)
        return
    columns = []
    for isa in ("AVX2", "AVX512_CORE"):
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
        found = subprocess.run(  # noqa: S603 (this file)
            [sys.executable, __file__, isa], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        columns.append(found.stdout.split("\n")[: len(CASES)])
    print("| case | AVX2 | AVX-512 |\n| --- | --- | --- |")
    for case, *outcomes in zip(CASES, *columns, strict=True):
        print("|", ", ".join(f"{name} = {value}" for name, value in case.items()), "|", " | ".join(outcomes), "|")


if __name__ == "__main__":
    main()

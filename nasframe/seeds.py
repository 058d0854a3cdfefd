"""Random numbers by key. A stream belongs to (run seed, purpose, position), so there is no generator state to save and
no plugin that draws shifts the stream of another.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import attrs
import torch


@attrs.frozen
class Seed:
    """A place in the tree of random streams: the run's seed and what the numbers are for."""

    key: tuple[int | str, ...]

    def __call__(self, *purpose: int | str) -> Seed:
        """The seed of a purpose below this one."""
        return Seed((*self.key, *purpose))

    def number(self) -> int:
        """The 63 bits that this key stands for."""
        return int.from_bytes(hashlib.sha256(repr(self.key).encode()).digest()[:8], "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator of its own for code that takes one."""
        return torch.Generator(device).manual_seed(self.number())

    @contextlib.contextmanager
    def as_global(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """Lend this stream to code that knows only the global generator (initialisation, dropout), then give it back."""
        device = torch.device(device)
        others = [device] if device.type != "cpu" else []
        with torch.random.fork_rng(devices=others, device_type=device.type if others else "cuda"):
            # torch.manual_seed would queue a call, with its stack, for every kind of device that is not in use
            torch.default_generator.manual_seed(self.number())
            for other in others:
                module = torch.get_device_module(other)
                with module.device(other):
                    module.manual_seed(self.number())
            yield

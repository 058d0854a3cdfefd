"""Random numbers that depend on a key only.

A random stream is identified by the seed of the run and the purpose and position of the draw. So there is no generator state to
save, and a plugin that draws more numbers does not shift the streams of others.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import attrs
import torch


@attrs.frozen
class Seed:
    """The key of a random stream: the seed of the run, followed by what the numbers are for.

    Attributes:
        key: the parts of the key.

    Example:
        >>> seed = Seed((0,))
        >>> seed("dropout", 12)
        Seed(key=(0, 'dropout', 12))
        >>> torch.rand(2, generator=seed("noise").generator())
        tensor([0.9568, 0.1562])
    """

    key: tuple[int | str, ...]

    def __call__(self, *purpose: int | str) -> Seed:
        """Return the seed whose key is this one followed by `purpose`."""
        return Seed((*self.key, *purpose))

    def number(self) -> int:
        """Return the key as an integer of 63 bits, which seeds any generator."""
        # A hash, so that neighbouring keys give unrelated streams: generators that are seeded with 1, 2, 3 may be
        # correlated. In a repr "1" differs from 1.
        return int.from_bytes(hashlib.sha256(repr(self.key).encode()).digest()[:8], "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a new generator that is seeded with the key."""
        return torch.Generator(device).manual_seed(self.number())

    @contextlib.contextmanager
    def as_global(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """Seed torch's global generators within a `with` block, and restore their state afterwards.

        This is for code that accepts no generator, such as the initialisation of modules and dropout.

        Args:
            device: the device whose generator is seeded, in addition to that of the CPU.
        """
        device = torch.device(device)
        others = [device] if device.type != "cpu" else []
        # The generator of the CPU is saved in any case. Without other devices, "cuda" is a name that torch knows and does not use.
        with torch.random.fork_rng(devices=others, device_type=device.type if others else "cuda"):
            # torch.manual_seed would also queue a call, with its stack, for every kind of device that is not in use
            torch.default_generator.manual_seed(self.number())
            for other in others:
                module = torch.get_device_module(other)
                # `manual_seed` of a device module seeds the generator of the current device
                with module.device(other):
                    module.manual_seed(self.number())
            yield

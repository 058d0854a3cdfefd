"""Examples of the parts of this plugin for the conformance kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from nasframe import Seed
from nasframe.testing.examples import Examples
from nasframe_images.task import Images

#: a task on few digits, some of each class
DIGITS = st.builds(
    Images,
    train=st.integers(40, 80),
    validation=st.sampled_from([0.5, 0.3, 0.0]),
    flip=st.booleans(),
    crop=st.integers(0, 2),
    cutout=st.integers(0, 4),
)


def examples() -> Examples:
    """Return tasks on some of the digits, with or without augmentation, and images in two files."""
    return Examples(parts={Images: DIGITS}, sources={Images: arrays})


def arrays(folder: Path) -> tuple[Images, Images]:
    """Return two tasks on files that differ in the images of the test."""
    generator = Seed(("arrays",)).generator()
    x = torch.randint(256, (40, 4, 5, 3), generator=generator, dtype=torch.uint8).numpy()
    y, made = np.arange(40) % 3, []
    for name, test in {"a": slice(24, 32), "b": slice(32, 40)}.items():
        path = folder / f"{name}.npz"
        np.savez(path, x_train=x[:24], y_train=y[:24], x_test=x[test], y_test=y[test])
        made.append(Images(npz=str(path), flip=True))
    return made[0], made[1]

"""Where pictures come from: scikit-learn, torchvision, a folder of images, a file of arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nasframe import Seed
from nasframe.errors import DataError
from nasframe_images.pictures import Pictures, checked, stratified

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

#: sets of torchvision: the class that loads one, and what it finds in its folder where there is no network
TORCHVISION = {
    "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-python.tar.gz"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz and the three files that belong to it"),
}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def digits() -> Pictures:
    """The digits that come with scikit-learn: 1797 images of 8 x 8 pixels from 0 to 16, a fifth of them to test on."""
    from sklearn.datasets import load_digits  # slower to import than torch

    found = load_digits()
    return _divided("the digits of scikit-learn", found.images.astype(np.uint8), found.target, found.target_names)


def downloaded(name: str, root: str) -> Pictures:
    """A set of torchvision's, from the folder or, where there is a network, downloaded to it."""
    from torchvision import datasets  # slower to import than torch

    kind, archive = TORCHVISION[name]
    try:
        found = [getattr(datasets, kind)(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise DataError(
            f"{name} can be neither read from the folder {root} nor downloaded: {error}; without a network put {archive} into "
            "that folder, or give the images as arrays in a file (`npz`)"
        ) from error
    train, test = ((np.asarray(part.data), np.asarray(part.targets)) for part in found)
    return checked(name, train, test, np.asarray(found[0].classes))


def npz(path: str) -> Pictures:
    """The arrays x_train, y_train, x_test and y_test in a file of numpy's, and the names of the classes if it has `classes`."""
    try:
        with Path(path).open("rb") as stream:  # numpy leaves open what it cannot read
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds one array, not named ones")
            arrays = {name: np.asarray(loaded[name]) for name in (*ARRAYS, "classes") if name in loaded}
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"the file {path} cannot be read: {error}; write it anew with numpy.savez, without objects") from error
    for name in ARRAYS:
        if name not in arrays:
            raise DataError(f"the file {path} has no array {name!r}; it must have {', '.join(ARRAYS)}, and may have classes")
    x_train, y_train, x_test, y_test = (arrays[name] for name in ARRAYS)
    return checked(f"the file {path}", (x_train, y_train), (x_test, y_test), arrays.get("classes"))


def folder(path: str, size: int | None) -> Pictures:
    """The images in a folder with a folder for each class, or with two such folders, train and test; else a fifth is to test on.

    Args:
        size: the shorter side is resized to so many pixels, and of the longer one as many are taken from the middle.
    """
    source = f"the folder {path}"
    parts = [name for name in ("train", "test") if _has_folders(Path(path, name))]
    if len(parts) == 1:
        raise DataError(f"{source} has classes in {parts[0]}/ alone; give it both train/ and test/, or neither")
    found = [_listed(Path(path, part)) for part in parts or ("",)]
    for part in found[1:]:
        if part.classes != found[0].classes:
            raise DataError(
                f"{source} has the classes {', '.join(found[0].classes)} in train/ and {', '.join(part.classes)} in test/; "
                "give both the same"
            )
    x = _stacked([file for part in found for file, _ in part.samples], size)
    y, classes = np.asarray([label for part in found for _, label in part.samples]), np.asarray(found[0].classes)
    if not parts:
        return _divided(source, x, y, classes)
    end = len(found[0].samples)
    return checked(source, (x[:end], y[:end]), (x[end:], y[end:]), classes)


def _divided(source: str, x: np.ndarray, y: np.ndarray, classes: np.ndarray) -> Pictures:
    test, train = (part.numpy() for part in stratified(torch.tensor(y), len(y) // 5, Seed(("images", "test"))))
    if not len(test):
        raise DataError(f"{source} has {len(y)} images, too few to test on a fifth; give five or more, or train/ and test/")
    return checked(source, (x[train], y[train]), (x[test], y[test]), classes)


def _has_folders(path: Path) -> bool:
    return any(inner.is_dir() for inner in path.glob("*"))


def _listed(path: Path) -> ImageFolder:
    from torchvision.datasets import ImageFolder  # slower to import than torch

    try:
        return ImageFolder(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the folder {path} cannot be read: {error}; give a folder with a folder of images for each class"
        ) from error


def _stacked(files: Sequence[str], size: int | None) -> np.ndarray:
    """The images in these files, (images, height, width, channels): grey ones where all are grey, in colour where one is."""
    images = [_image(file, size) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise DataError(
                f"{file} has (height, width) {image.shape[:2]} and {files[0]} {images[0].shape[:2]}; give `size`, to which all "
                "are resized, or images of one size"
            )
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


def _image(file: str, size: int | None) -> np.ndarray:
    """The image (height, width, channels): one channel if it is grey, else three."""
    from PIL import Image
    from torchvision.transforms.v2.functional import center_crop, resize  # slower to import than torch

    try:
        with Image.open(file) as stored:
            if stored.mode.startswith(("I", "F")):
                raise ValueError(f"its mode is {stored.mode}, which is more than 8 bits")
            image = stored.convert("L" if stored.mode in ("1", "L") else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image {file} cannot be read: {error}; save it anew with 8 bits a channel, or take it out of the folder"
        ) from error
    return np.atleast_3d(np.asarray(image if size is None else center_crop(resize(image, [size]), [size])))

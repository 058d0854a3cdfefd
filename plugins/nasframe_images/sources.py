"""Read images from scikit-learn, from torchvision, from a folder of image files, or from a file of arrays."""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nasframe import Seed
from nasframe.errors import DataError
from nasframe_images.pictures import Pictures, checked, stratified

#: for each set of torchvision the class that loads it, and the files that it needs where there is no network
TORCHVISION = {
    "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-python.tar.gz"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz and the three files that belong to it"),
}
#: the arrays of an npz file
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
#: the names of folders that are parts, in lower case, and which part
PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
#: how the names of image files end, in lower case
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: how the names of hidden files and of folders of operating systems begin
IGNORED = (".", "__MACOSX")
#: what reading a file that is damaged or hostile may raise; a header may claim more memory than there is
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    MemoryError,
    OverflowError,
    TypeError,
    KeyError,
    IndexError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def digits() -> Pictures:
    """Return the digits of scikit-learn: 1797 images of 8 x 8 pixels from 0 to 16, a fifth of them for the test."""
    from sklearn.datasets import load_digits  # slower to import than torch

    found = load_digits()
    source = "the digits of scikit-learn"
    return checked(source, *_divided(source, found.images.astype(np.uint8), found.target), found.target_names)


def downloaded(name: str, root: str) -> Pictures:
    """Return a set of torchvision, downloaded if it is not there.

    Args:
        name: a key of TORCHVISION.
        root: the folder that has the set or to which it is downloaded.

    Raises:
        DataError: the set can neither be read nor downloaded.
    """
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
    """Return the images in a file of numpy's `savez`.

    Args:
        path: the file. It has the arrays x_train, y_train, x_test and y_test, and may have `classes`, the names of the classes.

    Raises:
        DataError: the file cannot be read, lacks an array, or has one that cannot be used.
    """
    try:
        with Path(path).open("rb") as stream:  # numpy does not close a file that it cannot read
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds one array, not named ones")
            arrays = {name: np.asarray(loaded[name]) for name in (*ARRAYS, "classes") if name in loaded}
    except UNREADABLE as error:
        raise DataError(f"the file {path} cannot be read: {error}; write it anew with numpy.savez, without objects") from error
    for name in ARRAYS:
        if name not in arrays:
            raise DataError(f"the file {path} has no array {name!r}; it must have {', '.join(ARRAYS)}, and may have classes")
    x_train, y_train, x_test, y_test = (arrays[name] for name in ARRAYS)
    return checked(f"the file {path}", (x_train, y_train), (x_test, y_test), arrays.get("classes"))


def folder(path: str, size: int | None) -> Pictures:
    """Return the images in a folder that has one folder of image files per class, or parts with such folders.

    Parts are folders named train, val and test (PARTS has all names). Without a test part, a fifth of the training
    images are for the test. Hidden files, files of operating systems and files that are no images are skipped, with a note.

    Args:
        path: the folder.
        size: the height and width of the images. The shorter side is resized to it, and the middle of the longer one is kept. By
            default all images must have one size.

    Raises:
        DataError: the folder or one of its images cannot be read or used.
    """
    source, root = f"the folder {path}", Path(path)
    try:
        # A folder named "test" that holds no folders may be a class of that name.
        parts = {name: inner for inner in _folders(root) if (name := PARTS.get(inner.name.lower())) and _folders(inner)}
        if parts and "train" not in parts:
            present = " and ".join(f"{inner.name}/" for inner in parts.values())
            raise DataError(f"{source} has classes in {present} alone; give it a part train/ too, or classes without parts")
        skipped = [inner for inner in _folders(root) if inner not in parts.values()] if parts else []
        listed = {name: _listed(inner, skipped) for name, inner in parts.items()} or {"train": _listed(root, skipped)}
        skipped += [file for file in sorted(root.iterdir()) if not file.is_dir() or file.name.startswith(IGNORED)]
    except (OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read: {error}; give a folder with a folder of images for each class") from error
    classes = list(listed["train"])
    for name, files in listed.items():
        if list(files) != classes:
            raise DataError(
                f"{source} has the classes {', '.join(classes)} in {parts['train'].name}/ and {', '.join(files)} in "
                f"{parts[name].name}/; give both the same"
            )
    labelled = {
        name: [(file, label) for label, inner in enumerate(files.values()) for file in inner] for name, files in listed.items()
    }
    x = _stacked([str(file) for part in labelled.values() for file, _ in part], size)
    # all parts are read at once, so that one set of sizes and channels is checked for all of them
    ends = np.cumsum([len(part) for part in labelled.values()])[:-1]
    arrays = {
        name: (images, np.asarray([label for _, label in part], dtype=np.int64))
        for (name, part), images in zip(labelled.items(), np.split(x, ends), strict=True)
    }
    if "test" not in arrays:
        arrays["train"], arrays["test"] = _divided(source, *arrays["train"])
    notes = () if not skipped else (f"{source}: {_names(skipped, root)} skipped, which are no images of a class",)
    return checked(
        source, arrays["train"], arrays["test"], np.asarray(classes), validation=arrays.get("validation"), notes=notes
    )


def _folders(path: Path) -> list[Path]:
    """Return the visible folders in a folder, in the order of their names."""
    return sorted(inner for inner in path.iterdir() if inner.is_dir() and not inner.name.startswith(IGNORED))


def _listed(path: Path, skipped: list[Path]) -> dict[str, list[Path]]:
    """Return the image files of each class, and add the other files to `skipped`."""
    found: dict[str, list[Path]] = {}
    for inner in _folders(path):
        found[inner.name] = []
        for file in sorted(inner.rglob("*")):
            # Also a visible file in a hidden folder, such as a checkpoint of a notebook.
            hidden = any(name.startswith(IGNORED) for name in file.relative_to(inner).parts)
            if not hidden and file.suffix.lower() in IMAGES and file.is_file():
                found[inner.name].append(file)
            elif not file.is_dir():
                skipped.append(file)
    if empty := [name for name, files in found.items() if not files]:
        raise ValueError(
            f"there is no image in {', '.join(f'{path / name}' for name in empty)}; images end in {', '.join(IMAGES)}"
        )
    if not found:
        raise ValueError(f"there is no folder in {path}")
    return found


def _names(files: Sequence[Path], root: Path) -> str:
    shown = [str(file.relative_to(root)) for file in files[:3]]
    return ", ".join([*shown, f"and {len(files) - 3} more"] if len(files) > 3 else shown)


Arrays = tuple[np.ndarray, np.ndarray]


def _divided(source: str, x: np.ndarray, y: np.ndarray) -> tuple[Arrays, Arrays]:
    """Return images to train on and, a fifth of all, to test on."""
    test, train = (part.numpy() for part in stratified(torch.tensor(y), len(y) // 5, Seed(("images", "test"))))
    if not len(test):
        raise DataError(f"{source} has {len(y)} images, too few to test on a fifth; give five or more, or train/ and test/")
    return (x[train], y[train]), (x[test], y[test])


def _stacked(files: Sequence[str], size: int | None) -> np.ndarray:
    """Return the images in these files, of shape (images, height, width, channels): one channel if all are grey, else three."""
    images = [_image(file, size) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise DataError(
                f"{file} has (height, width) {image.shape[:2]} and {files[0]} {images[0].shape[:2]}; give `size`, to which all "
                "are resized, or images of one size"
            )
    # Grey images among coloured ones get three equal channels.
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


def _image(file: str, size: int | None) -> np.ndarray:
    """Return an image of shape (height, width, channels): one channel if it is grey, else three."""
    from PIL import Image
    from torchvision.transforms.v2.functional import center_crop, resize  # slower to import than torch

    try:
        # Pillow warns of unusual metadata, which do not matter here, and raises an error where pixels are damaged
        with warnings.catch_warnings(action="ignore"), Image.open(file) as stored:
            if stored.mode.startswith(("I", "F")):
                raise ValueError(f"its mode is {stored.mode}, which is more than 8 bits")
            # Palettes, transparency and other colour spaces become RGB.
            image = stored.convert("L" if stored.mode in ("1", "L") else "RGB")
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image {file} cannot be read: {error}; save it anew with 8 bits a channel, or take it out of the folder"
        ) from error
    return np.atleast_3d(np.asarray(image if size is None else center_crop(resize(image, [size]), [size])))

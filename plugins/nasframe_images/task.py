"""The task of classifying images."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasframe import Data, Seed, Split, Task
from nasframe.errors import DataError
from nasframe.network.model import Scale, Signature
from nasframe.options import flag, number
from nasframe_images.augmentation import cut, moved, moves
from nasframe_images.pictures import Labelled, Pictures, stratified
from nasframe_images.references import references
from nasframe_images.sources import TORCHVISION, digits, downloaded, folder, npz

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: the sets that have a name; the digits come with scikit-learn
SOURCES = ("digits", *TORCHVISION)
#: the share of the training images that is held out by default (Liu et al. 2019, 3.1.1)
DEFAULT_SHARE = 0.5


def _is(wanted: str, kinds: Any) -> Any:
    """Return a validator that refuses values of other types."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, kinds):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return check


_string = _is("a string, or left out", str | None)


@attrs.frozen
class Images(Task):
    """Classification of images.

    Inputs have the shape (batch, channels, height, width), targets (batch,), and the network's outputs are class scores (batch,
    classes). Images are standardised per channel, with mean and standard deviation of the images to train on.

    A share of the training images is held out for validation: a search moves the alphas and decides on it. The digits, and a
    folder without a test part, use a fifth of their images for the test. All divisions are made class by class, and are the same
    in every run. `flip`, `crop` and `cutout`, in this order, augment the batches of training (of a search also those
    of the validation part on which the alphas move), and never what is measured.

    Example::

        Images(folder="photos", size=32, flip=True)

    Args:
        source: the name of a set: "digits", which comes with scikit-learn, or a set of torchvision. Give this, `folder` or `npz`.
        folder: the path of a folder with a folder of images for each class, or with parts train/, val/ and test/ of such folders;
            val/ and test/ may be missing. Hidden files and files that are no images are skipped, with a note.
        npz: the path of a file of numpy's `savez` with x_train, y_train, x_test, y_test and, if the classes have names, classes:
            images in uint8 of shape (images, height, width) or (images, height, width, channels), and labels from 0.
        root: the folder to which torchvision downloads the sets that are not there.
        size: the height and width of a folder's images. The shorter side is resized to it, and the middle of the other one kept.
        train: the number of training images that are used; by default all.
        validation: the share of the training images that is held out. With 0.0 all train, and nothing can be decided. By
            default the part val/ of a folder, which then belongs to no share, and otherwise half.
        flip: whether images are mirrored at random.
        crop: the number of zeros by which images are padded before they are cropped to their size at a random position.
        cutout: the side of a square of zeros in each image, in pixels.
        digest: the SHA-256 of all pixels and labels in hexadecimal. Data with another one are refused.
    """

    name: ClassVar[str] = "images"
    replaces: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "folder": ("npz", "source", "digest"),
        "npz": ("folder", "source", "digest"),
        "source": ("folder", "npz", "digest"),
    }
    folder: str | None = attrs.field(default=None, kw_only=True, validator=_string)
    npz: str | None = attrs.field(default=None, kw_only=True, validator=_string)
    source: str | None = attrs.field(
        default=attrs.Factory(lambda self: SOURCES[0] if self.folder is self.npz is None else None, takes_self=True)
    )
    root: str = attrs.field(default="data", validator=_is("a string", str))
    size: int | None = number(None, low=1, whole=True, optional=True)
    train: int | None = number(None, low=1, whole=True, optional=True)
    validation: float | None = number(None, low=0.0, high=1.0, optional=True)
    flip: bool = flag(False)
    crop: int = number(0, low=0, whole=True)
    cutout: int = number(0, low=0, whole=True)
    digest: str | None = attrs.field(default=None, validator=_string)

    @source.validator
    def _check_source(self, attribute: Any, value: Any) -> None:
        given = {"folder": self.folder, "npz": self.npz, "source": value}
        named = [f"{name} is {each!r}" for name, each in given.items() if each is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)}; give one of them")
        if self.folder is self.npz is None and value not in SOURCES:
            raise ValueError(f"source is {value!r}; it must be one of {', '.join(map(repr, SOURCES))}, or folder or npz a path")

    @size.validator
    def _check_size(self, attribute: Any, value: Any) -> None:
        if value is not None and self.folder is None:
            raise ValueError(f"size is {value!r}, but the images of a folder alone are resized; leave it out")

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return the data of the images.

        Raises:
            DataError: the images cannot be read, do not fit the options, or have another digest.
        """
        pictures = self._read()
        if self.digest not in (None, digest := pictures.digest()):
            raise DataError(
                f"{pictures.source} has other images than those of the digest: their SHA-256 is {digest}, not {self.digest}; "
                "give the images as they were, or begin a new search"
            )
        return data(pictures, self, device, dtype)

    def pinned(self) -> Images:
        """Return the task with the absolute path of its images and their digest."""
        if self.source == "digits":
            return self
        # `root` has a default and comes last: it is the place of a set of torchvision, where the other two are not given.
        where = next(name for name in ("folder", "npz", "root") if getattr(self, name) is not None)
        # absolute, so that a run can be resumed from another directory
        held: dict[str, Any] = {where: str(Path(getattr(self, where)).absolute())}
        return attrs.evolve(self, **held, digest=self.digest or self._read().digest())

    def _read(self) -> Pictures:
        if self.folder is not None:
            return folder(self.folder, self.size)
        if self.npz is not None:
            return npz(self.npz)
        assert self.source is not None
        return digits() if self.source == "digits" else downloaded(self.source, self.root)


def data(pictures: Pictures, task: Images, device: torch.device, dtype: torch.dtype) -> Data:
    """Return the data of images: divided, standardised, and augmented as the task says.

    Raises:
        DataError: an option does not fit the images.
    """
    # All images stay in uint8 in memory, a quarter of their size in float32. Batches are normalised when they are drawn.
    train, validation = divided(pictures, task.train, task.validation)
    channels, height, width = train.x.shape[1:]
    least, classes = min(height, width), len(pictures.classes)
    if task.crop >= least or task.cutout > least:
        raise DataError(
            f"crop is {task.crop} and cutout {task.cutout}, but {pictures.source} has images of {height} x {width} pixels; give "
            f"a crop of {least - 1} at most and a cutout of {least} at most"
        )
    normalise = normaliser(train.x, pictures.source).to(device)
    steps = moves(height, width, task.flip, task.crop)

    def split(part: Labelled, augmented: bool = True) -> Split:
        x, y = part.x.to(device), part.y.to(device)

        def batch(positions: Tensor) -> tuple[Tensor, Tensor]:
            return normalise(x[positions]).to(device, dtype), y[positions]

        def draw(positions: Tensor) -> tuple[Tensor, Tensor]:
            # Moves before and cutout after normalisation: padding is black, and the zeros of cutout are the mean of the
            # data (DeVries & Taylor 2017).
            return cut(normalise(moved(x[positions], steps)).to(device, dtype), task.cutout), y[positions]

        return Split(len(y), batch, draw if augmented else batch)

    notes = pictures.notes
    if pictures.validation is not None and task.validation is None:
        notes += (f"{pictures.source}: the {len(validation.y)} images of its part for validation are the validation split",)
    parts = split(train), split(validation)
    return Data(
        sizes={"channels": channels, "classes": classes, "height": height, "width": width},
        train=parts[0],
        validation=parts[1],
        test=split(pictures.test, augmented=False),
        loss=cross_entropy,
        losses=functools.partial(cross_entropy, reduction="none"),
        predict=predict,
        metrics=functools.partial(metrics, classes, device),
        score="accuracy",
        references=functools.partial(references, *parts, classes),
        inputs=normalise,
        signature=Signature(("batch", "channels", "height", "width"), (None, channels, None, None)),
        warnings=notes,
    )


def divided(pictures: Pictures, train: int | None, validation: float | None) -> tuple[Labelled, Labelled]:
    """Return the images to train on and those for validation, with of every class its share.

    Args:
        pictures: the images.
        train: the number of images that are used of those to train on; None for all.
        validation: the share of these that is held out; None for the validation part of the source, or half if it has none. With
            a share, such a part is added to the images to train on first.

    Raises:
        DataError: there are fewer images, or a class without images remains.
    """
    # The seeds of the divisions are constants and not the seed of the run, so that all runs of a study are compared on the
    # same images.
    used, held = pictures.train, pictures.validation
    if held is not None and validation is not None:
        used, held = Labelled(torch.cat([used.x, held.x]), torch.cat([used.y, held.y])), None
    if train is not None:
        if train > len(used.y):
            raise DataError(
                f"train is {train}, but {pictures.source} has {len(used.y)} images to train on; give at most as many"
            )
        used = used.at(stratified(used.y, train, Seed(("images", "train")))[0])
    if held is not None:
        kept = used
    else:
        share = DEFAULT_SHARE if validation is None else validation
        chosen, others = stratified(used.y, round(share * len(used.y)), Seed(("images", "validation")))
        held, kept = used.at(chosen), used.at(others)
    # A class that a part lacks would never be learned, or never be judged, without a word.
    purposes = {"train": kept} | ({"validate": held} if validation != 0 else {})
    for purpose, part in purposes.items():
        for label in (part.y.bincount(minlength=len(pictures.classes)) == 0).nonzero().flatten().tolist():
            raise DataError(
                f"{pictures.source}, class {label} ({pictures.classes[label]}): of {int((pictures.train.y == label).sum())} images "
                f"in the training part none is left to {purpose}; give more of them, a larger `train`, or another `validation` "
                f"than {DEFAULT_SHARE if validation is None else validation}"
            )
    return kept, held


def normaliser(images: Tensor, source: str) -> Scale:
    """Return the standardisation of images in uint8 by mean and standard deviation of the given ones, per channel.

    Raises:
        DataError: all pixels of a channel are equal.
    """
    values = torch.arange(256, dtype=torch.float64)
    # by counting values, so that no copy of all images in float64 is needed
    counts = torch.stack([pixels.flatten().bincount(minlength=256) for pixels in images.unbind(1)])
    # Mean and standard deviation follow from how often each of the 256 values occurs.
    shares = counts.double() / images[:, 0].numel()
    mean = shares @ values
    std = (shares * (values - mean.unsqueeze(1)).square()).sum(1).sqrt()
    for channel in (shares == 1).any(1).nonzero().flatten().tolist():
        raise DataError(
            f"{source}: all images that train are {mean[channel]:g} in every pixel of channel {channel}, which cannot be "
            "normalised; leave the channel out, or give other images"
        )
    return Scale(*(part.view(-1, 1, 1) for part in (mean, std)))


def predict(outputs: Tensor) -> Tensor:
    """Return the class with the largest score."""
    return outputs.argmax(1)


def metrics(classes: int, device: torch.device) -> MetricCollection:
    """Return the metrics of a test: the accuracy."""
    from torchmetrics import MetricCollection  # slower to import than torch
    from torchmetrics.classification import MulticlassAccuracy

    return MetricCollection({"accuracy": MulticlassAccuracy(classes, average="micro")}).to(device)

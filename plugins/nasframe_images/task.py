"""Images: a class for each image of a set that is at hand, of torchvision's sets, of a folder or of a file of arrays."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasframe import Data, Scale, Seed, Split, Task, flag, number
from nasframe.errors import DataError
from nasframe_images.augmentation import cut, moved, moves
from nasframe_images.pictures import Labelled, Pictures, stratified
from nasframe_images.references import references
from nasframe_images.sources import TORCHVISION, digits, downloaded, folder, npz

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: the sets that have a name; digits come with scikit-learn
SOURCES = ("digits", *TORCHVISION)


def _is(wanted: str, kinds: Any) -> Any:
    """A check that a field holds what is wanted."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, kinds):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return check


_string = _is("a string, or left out", str | None)


@attrs.frozen
class Images(Task):
    """Classification of images.

    Inputs are (batch, channels, height, width), targets (batch,), outputs of the network scores (batch, classes). A share of
    the training part is held out for the alphas and for decisions; mean and standard deviation of what remains of it, channel
    by channel, normalise all. Digits, and a folder without a test part, are tested on a fifth. Images are shared out class by
    class, the same way in every run. What both shares of the training part are drawn for is augmented by `flip`, `crop` and
    `cutout`, in this order; what is measured is not.

    Args:
        folder: the path of a folder of images with a folder for each class, or with two such folders, train and test.
        npz: the path of a file of numpy's with x_train, y_train, x_test, y_test and, if they have names, classes: images in
            uint8, (images, height, width) or (images, height, width, channels), and labels from 0.
        source: the name of a set, in the place of either.
        root: the folder to which torchvision downloads the sets that are not there.
        size: the height and width of a folder's images: the shorter side is resized to it, and the middle taken.
        train: only so many images of the training part are used; by default all.
        validation: the share of these that is held out; with 0.0 all train, and there is nothing to decide by.
        flip: images are flipped from left to right with even odds.
        crop: images are surrounded by so many zeros and cropped at any place.
        cutout: the side of a square of zeros in each normalised image, in pixels.
        digest: the SHA-256 of the pixels and labels in hexadecimal; data that have another are refused.
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
    validation: float = number(0.5, low=0.0, high=1.0)
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
        """The data of the images."""
        pictures = self._read()
        if self.digest not in (None, digest := pictures.digest()):
            raise DataError(
                f"{pictures.source} has not the images that the digest was taken of: their SHA-256 is {digest}, not "
                f"{self.digest}; give them as they were, or begin a new search"
            )
        return data(pictures, self, device, dtype)

    def pinned(self) -> Images:
        """The same images by their absolute path and their digest."""
        if self.source == "digits":
            return self
        where = next(name for name in ("folder", "npz", "root") if getattr(self, name) is not None)
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
    """The data of pictures, shared out and drawn as the task says."""
    train, validation = shared(pictures, task.train, task.validation)
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
            return cut(normalise(moved(x[positions], steps)).to(device, dtype), task.cutout), y[positions]

        return Split(len(y), batch, draw if augmented else batch)

    parts = split(train), split(validation)
    return Data(
        sizes={"channels": channels, "classes": classes, "height": height, "width": width},
        train=parts[0],
        validation=parts[1],
        test=split(pictures.test, augmented=False),
        loss=cross_entropy,
        predict=predict,
        metrics=functools.partial(metrics, classes, device),
        score="accuracy",
        references=functools.partial(references, *parts, classes),
        inputs=normalise,
    )


def shared(pictures: Pictures, train: int | None, validation: float) -> tuple[Labelled, Labelled]:
    """What trains and what validates, of so many images of the training part: of every class its share."""
    used = pictures.train
    if train is not None:
        if train > len(used.y):
            raise DataError(
                f"train is {train}, but {pictures.source} has {len(used.y)} images to train on; give so many at most"
            )
        used = used.at(stratified(used.y, train, Seed(("images", "train")))[0])
    held, kept = stratified(used.y, round(validation * len(used.y)), Seed(("images", "validation")))
    parts = {"train": used.at(kept)} | ({"validate": used.at(held)} if validation else {})
    for purpose, part in parts.items():
        counts = part.y.bincount(minlength=len(pictures.classes))
        for label in (counts == 0).nonzero().flatten().tolist():
            raise DataError(
                f"{pictures.source}, class {label} ({pictures.classes[label]}): of {int((pictures.train.y == label).sum())} images "
                f"in the training part none is left to {purpose}; give more of them, a larger `train`, or a `validation` other "
                f"than {validation}"
            )
    return used.at(kept), used.at(held)


def normaliser(images: Tensor, source: str) -> Scale:
    """Images in uint8 less the mean of the given ones, over their standard deviation, channel by channel."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([pixels.flatten().bincount(minlength=256) for pixels in images.unbind(1)])
    shares = counts.double() / images[:, 0].numel()
    mean = shares @ values
    deviation = (shares * (values - mean.unsqueeze(1)).square()).sum(1).sqrt()
    for channel in (shares == 1).any(1).nonzero().flatten().tolist():
        raise DataError(
            f"{source}: all images that train are {mean[channel]:g} in every pixel of channel {channel}, which cannot be "
            "normalised; leave the channel out, or give other images"
        )
    return Scale(*(part.view(-1, 1, 1) for part in (mean, deviation)))


def predict(outputs: Tensor) -> Tensor:
    """The class with the largest alpha."""
    return outputs.argmax(1)


def metrics(classes: int, device: torch.device) -> MetricCollection:
    """The share of images whose class is predicted."""
    from torchmetrics import MetricCollection  # slower to import than torch
    from torchmetrics.classification import MulticlassAccuracy

    return MetricCollection({"accuracy": MulticlassAccuracy(classes, average="micro")}).to(device)

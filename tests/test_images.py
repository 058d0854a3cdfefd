"""Images: what is read, how it is shared out and drawn, and the references."""

from __future__ import annotations

import gzip
import io
import os
import re
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from nasframe_convolutional import DartsConvolutional, Identity
from nasframe_images import Images, augmentation, nasframe_parts, pictures, references, sources, task
from nasframe_images.pictures import Pictures, checked
from nasframe_images.task import data
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from nasframe import Data, Seed, Split, build
from nasframe.errors import DataError
from nasframe.network.model import Model

CPU = torch.device("cpu")
EXACT = torch.float64

#: a folder with images that cannot be shipped
REAL = os.environ.get("NASFRAME_DATA", "")
real = pytest.mark.skipif(not REAL, reason="NASFRAME_DATA does not name the folder of the real images")

Arrays = dict[str, np.ndarray]


def noise(counts: tuple[int, ...] = (6, 6), shape: tuple[int, ...] = (4, 5, 3), test: int = 3, seed: int = 0) -> Arrays:
    """Random images of that shape, so many of each class in the training part and in the test part."""
    rng = np.random.default_rng(seed)
    y_train, y_test = rng.permutation(np.repeat(range(len(counts)), counts)), rng.integers(0, len(counts), test)
    x_train, x_test = (rng.integers(0, 256, (len(y), *shape), np.uint8) for y in (y_train, y_test))
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def made(arrays: Arrays) -> Pictures:
    """Return the pictures that are read from these arrays."""
    x_train, y_train, x_test, y_test = (arrays[name] for name in sources.ARRAYS)
    return checked("noise", (x_train, y_train), (x_test, y_test), arrays.get("classes"))


def loaded(arrays: Arrays, **options: Any) -> Data:
    """Return the data of a task with these arrays."""
    return data(made(arrays), Images(**options), CPU, EXACT)


def whole(split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split and their labels."""
    return split.batch(torch.arange(split.size))


@st.composite
def cases(draw: st.DrawFn) -> Arrays:
    """Two classes or more of four images or more, down to one pixel, with or without an axis of channels."""
    counts = draw(st.lists(st.integers(4, 9), min_size=2, max_size=4).map(tuple))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    channels = draw(st.sampled_from([(), (1,), (3,), (4,)]))
    return noise(counts, shape + channels, draw(st.integers(1, 4)), draw(st.integers(0, 2**32)))


# ------------------------------------------------------------------------------------------------------------- shares


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 2**32))
def test_a_share_is_one_of_every_class(sizes: list[int], share: float, seed: int) -> None:
    """So many examples and the others are all, each in order; of a class there is its share, to less than one example."""
    y = torch.from_numpy(np.repeat(range(len(sizes)), sizes))
    count = round(share * len(y))
    chosen, rest = pictures.stratified(y, count, Seed((seed,)))

    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(len(y)))
    assert len(chosen) == count
    assert torch.equal(chosen, chosen.sort()[0])
    assert torch.equal(rest, rest.sort()[0])
    for size, taken in zip(sizes, y[chosen].bincount(minlength=len(sizes)).tolist(), strict=True):
        assert abs(taken - size * count / len(y)) < 1


def test_a_share_is_drawn_by_its_seed_alone() -> None:
    """Another seed takes other examples; the global generator moves nothing and is not moved."""
    y = torch.arange(60) % 3
    shares = []
    for state in (1, 2):
        with Seed((state,)).as_global():
            shares.append(pictures.stratified(y, 30, Seed((0,)))[0])
            drawn = torch.rand(1)
        with Seed((state,)).as_global():
            assert torch.equal(torch.rand(1), drawn)

    assert torch.equal(*shares)
    assert not torch.equal(shares[0], pictures.stratified(y, 30, Seed((1,)))[0])


@given(cases(), st.sampled_from([0.0, 0.25, 0.5]), st.booleans())
def test_the_training_part_is_shared_out_and_the_test_part_is_not(arrays: Arrays, validation: float, fewer: bool) -> None:
    """Every image used trains or validates, never both, in the share that was asked for; all of the test part tests."""
    x, y = arrays["x_train"], arrays["y_train"]
    x.reshape(len(x), -1)[:, 0] = np.arange(len(x))  # an image's first value says which it is
    used = len(x) - 1 if fewer else len(x)
    found = made(arrays)
    parts = task.divided(found, used if fewer else None, validation)
    places = [part.x[:, 0, 0, 0].tolist() for part in parts]

    assert len(set(places[0] + places[1])) == len(places[0] + places[1]) == used
    assert len(places[1]) == round(validation * used)
    for part, positions in zip(parts, places, strict=True):
        assert part.y.tolist() == y[positions].tolist()
        assert torch.equal(part.x, found.train.x[positions])
    assert whole(loaded(arrays, validation=validation).test)[1].tolist() == arrays["y_test"].tolist()


# -------------------------------------------------------------------------------------------------------------- images


@given(cases())
def test_images_are_normalised_by_what_trains(arrays: Arrays) -> None:
    """An image is its pixels less the mean of those that train, over their deviation, by channel; these have mean 0 and deviation 1."""
    found, parts = loaded(arrays), task.divided(made(arrays), None, 0.5)
    x, pixels = whole(found.train)[0], parts[0].x.double()
    channels = x.shape[1]

    assert found.sizes == {
        "channels": channels,
        "classes": len(set(arrays["y_train"])),
        "height": x.shape[2],
        "width": x.shape[3],
    }
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(channels, dtype=EXACT))
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(channels, dtype=EXACT))
    for split, images in ((found.validation, parts[1].x), (found.test, made(arrays).test.x)):
        shift, scale = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), correction=0, keepdim=True)
        torch.testing.assert_close(whole(split)[0], (images - shift) / scale)


@given(cases())
def test_channels_come_first(arrays: Arrays) -> None:
    """Pixel and channel of an array are where they belong, and an array without channels has one."""
    x = arrays["x_train"]
    found = made(arrays).train.x.numpy()

    assert np.array_equal(found.transpose(0, 2, 3, 1), x.reshape(*x.shape[:3], -1))


@given(cases(), st.integers(0, 2**32))
def test_test_images_are_seen_by_the_test_alone(arrays: Arrays, seed: int) -> None:
    """Other test images change no batch to train on or to validate."""
    before = loaded(arrays)
    after = loaded(arrays | {"x_test": np.random.default_rng(seed).integers(0, 256, arrays["x_test"].shape, np.uint8)})
    for one, other in ((before.train, after.train), (before.validation, after.validation)):
        assert all(map(torch.equal, whole(one), whole(other)))


# --------------------------------------------------------------------------------------------------------------- draws

#: the examples of laws whose faults two examples may miss
several = settings(max_examples=max(4, settings.default.max_examples))


def drawn(split: Split, seed: int = 0) -> Tensor:
    """All images of a split as training draws them."""
    with Seed((seed,)).as_global():
        return split.draw(torch.arange(split.size))[0]


@several
@given(cases(), st.booleans(), st.integers(0, 2), st.integers(0, 4))
def test_a_draw_is_one_of_its_augmentations(arrays: Arrays, flip: bool, crop: int, side: int) -> None:
    """What is drawn is the image or, if asked, its mirror, shifted over black by `crop` at most, less a square of `cutout`."""
    least = min(arrays["x_train"].shape[1:3])
    crop, side = min(crop, least - 1), min(side, least)
    found = loaded(arrays, flip=flip, crop=crop, cutout=side)
    normalise = task.normaliser(task.divided(made(arrays), None, 0.5)[0].x, "noise")
    for split in (found.train, found.validation):
        for image, seen in zip(whole(split)[0], drawn(split), strict=True):
            assert any(np.array_equal(seen, each) for each in augmented(image, normalise, flip, crop, side))


def augmented(image: Tensor, normalise: Callable[[Tensor], Tensor], flip: bool, crop: int, side: int) -> list[np.ndarray]:
    """All that can be drawn of a normalised image."""
    height, width = image.shape[1:]
    wide = normalise(torch.zeros(len(image), height + 2 * crop, width + 2 * crop, dtype=torch.uint8)).numpy()
    every = []
    for mirrored in (image.numpy(), image.numpy()[..., ::-1])[: 1 + flip]:
        wide[:, crop : crop + height, crop : crop + width] = mirrored
        for top, left in np.ndindex(2 * crop + 1, 2 * crop + 1):
            window = wide[:, top : top + height, left : left + width]
            every += [holed(window, y, x, side) for y, x in np.ndindex(height, width)]
    return every


def holed(image: np.ndarray, y: int, x: int, side: int) -> np.ndarray:
    """Cutout as it is published: a square about (y, x), clipped at the border, is zero."""
    (height, width), half, image = image.shape[1:], side // 2, image.copy()
    rows, columns = (np.clip([c - half, c - half + side], 0, end) for c, end in ((y, height), (x, width)))
    image[:, slice(*rows), slice(*columns)] = 0
    return image


@several
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_every_square_is_cut_out_and_no_other(channels: int, height: int, width: int, side: int) -> None:
    """In many draws the holes are those about every pixel, each with the area that is left of it at the border."""
    ones = torch.ones(600, channels, height, width, dtype=EXACT)
    with Seed((0,)).as_global():
        found = augmentation.cut(ones, side).numpy()

    every = [holed(ones[0].numpy(), y, x, side) for y, x in np.ndindex(height, width)]
    assert {image.tobytes() for image in found} == {image.tobytes() for image in every}


def test_every_shift_and_mirror_is_drawn() -> None:
    """In many draws a pixel in the middle comes to every place within `crop` of it, from either side."""
    image = torch.zeros(1, 1, 5, 6, dtype=torch.uint8)
    image[0, 0, 2, 2] = 1
    steps = augmentation.moves(5, 6, flip=True, crop=1)
    with Seed((0,)).as_global():
        seen = augmentation.moved(image.expand(400, -1, -1, -1), steps).nonzero()[:, 2:].tolist()

    assert {tuple(place) for place in seen} == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3, 4)}


AUGMENTED = {"flip": True, "crop": 2, "cutout": 2}


def test_a_draw_is_reproducible() -> None:
    """The global generator's seed fixes what is drawn, and another draws otherwise; labels stay with their images."""
    found = loaded(noise(), **AUGMENTED)
    order = torch.tensor([2, 0])
    for split in (found.train, found.validation):
        assert torch.equal(drawn(split, 1), drawn(split, 1))
        assert not torch.equal(drawn(split, 1), drawn(split, 2))
        assert torch.equal(split.draw(order)[1], split.batch(order)[1])


def test_no_measurement_is_augmented() -> None:
    """A batch is as it would be without augmentation, and without it a draw is a batch; the test is never drawn otherwise."""
    found, plain = loaded(noise(), **AUGMENTED), loaded(noise())
    for name in ("train", "validation", "test"):
        assert torch.equal(whole(getattr(found, name))[0], whole(getattr(plain, name))[0])
        assert torch.equal(drawn(getattr(plain, name)), whole(getattr(plain, name))[0])
    assert torch.equal(drawn(found.test), whole(found.test)[0])


# ---------------------------------------------------------------------------------------------------- a file of arrays


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Arrays], str]:
    """Writes arrays to a file in the working directory; its path, relative to that."""
    monkeypatch.chdir(tmp_path)

    def write(arrays: Arrays) -> str:
        np.savez("noise.npz", **arrays)
        return "noise.npz"

    return write


def test_a_file_gives_what_was_written(file: Callable[[Arrays], str]) -> None:
    """Images, labels and names of the classes are those in the file."""
    arrays = noise() | {"classes": np.array(["cat", "dog"])}
    found, expected = sources.npz(file(arrays)), made(arrays)

    assert found.classes == ("cat", "dog")
    assert found.digest() == expected.digest()
    assert whole(Images(npz="noise.npz").load(CPU, EXACT).train)[0].equal(whole(loaded(arrays).train)[0])


WRONG: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "dtype": (lambda a: {"x_train": a["x_train"] / 255}, r"x_train is an array of float64 of the shape \(12, 4, 5, 3\); write"),
    "floats": (lambda a: {"x_test": a["x_test"] / 255}, r"float64 .*, for example \(255 \* x\).round\(\).astype\('uint8'\) if"),
    "channels first": (
        lambda a: {"x_test": a["x_test"].repeat(2, 1).repeat(2, 2).repeat(4, 3).transpose(0, 3, 1, 2)[:, :3, :8, :8]},
        r"x_test .* \(3, 3, 8, 8\), whose channels seem to come first; write them last: x_test.transpose\(0, 2, 3, 1\)$",
    ),
    "too flat": (lambda a: {"x_train": a["x_train"][:, 0, 0]}, r"x_train .* \(12, 3\); write one image or more in uint8, as"),
    "no image": (lambda a: {k: a[k][:0] for k in ("x_test", "y_test")}, r"x_test .* \(0, 4, 5, 3\); write one image or more"),
    "two shapes": (lambda a: {"x_test": a["x_test"][:, 1:]}, r"x_train has .* \(3, 4, 5\), one of x_test \(3, 3, 5\); give"),
    "lengths": (
        lambda a: {"y_train": a["y_train"][1:]},
        r"y_train is an array of int64 of the shape \(11,\); .* shape \(12,\)$",
    ),
    "halves": (lambda a: {"y_train": a["y_train"] / 2}, "y_train is an array of float64 .*; write a whole number for each"),
    "one hot": (lambda a: {"y_test": np.eye(2, dtype=int)[a["y_test"]]}, r"y_test .* the shape \(3, 2\); write a whole number"),
    "below": (lambda a: {"y_train": a["y_train"] - 1}, r"y_train\[\d+\] is -1, .* 2 classes; write labels from 0 to 1$"),
    "above": (lambda a: {"y_test": a["y_test"] * 0 + 2}, r"y_test\[0\] is 2, which is no label of 2 classes; write labels"),
    "a gap": (lambda a: {"y_train": a["y_train"] * 2**40}, r"y_train\[\d+\] is 1099511627776, which is no label of 2 classes"),
    "one class": (lambda a: {"y_train": a["y_train"] * 0}, " has 1 class, .*; give images of two classes or more$"),
    "one name": (lambda a: {"classes": np.array("cat")}, " has 1 class, but classification needs two; give"),
    "no such class": (
        lambda a: {"classes": np.array(["cat", "dog", "eel"])},
        r"class 2 \(eel\): of 0 images in the training part none is left to train; give more of them",
    ),
    "one of a class": (
        lambda a: {"y_train": np.arange(12) // 11},
        r"class 1 \(1\): of 1 images in the training part none is left to (train|validate); .* than 0.5$",
    ),
    "one colour": (
        lambda a: {"x_train": a["x_train"] * 0 + 7},
        "all images that train are 7 in every pixel of channel 0, which",
    ),
    "objects": (lambda a: {"x_train": np.array([None])}, " cannot be read: Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_arrays_that_cannot_be_used_are_refused(file: Callable[[Arrays], str], fault: str) -> None:
    """Each fault is a DataError that names file and array, what is there, and what to write."""
    change, message = WRONG[fault]
    arrays = noise()
    path = file(arrays | change(arrays))
    with pytest.raises(DataError, match=rf"^the file noise.npz.*{message}"):
        Images(npz=path).load(CPU, EXACT)


def test_labels_may_be_a_column() -> None:
    """Labels of shape (images, 1), as Keras has them, are those of shape (images,)."""
    arrays = noise()
    columns = arrays | {name: arrays[name][:, None].astype(np.uint8) for name in ("y_train", "y_test")}

    assert made(columns).digest() == made(arrays).digest()


def test_images_may_have_any_number_of_channels() -> None:
    """Thirteen channels, as satellites have them, are read, augmented and standardised like three."""
    found = loaded(noise(shape=(8, 8, 13)), flip=True, crop=1, cutout=2)

    assert found.sizes["channels"] == 13
    assert drawn(found.train).shape == (6, 13, 8, 8)


def test_a_model_refuses_images_whose_channels_come_last() -> None:
    """The message has the shape that was given and the one that is expected."""
    found = loaded(noise(shape=(8, 9, 3)))
    backbone = DartsConvolutional(channels=2, cells=1, operations=(Identity(),))
    model = Model(build(backbone.initial(found.sizes, 1), Seed((0,))).eval(), found.inputs, found.outputs, found.signature)
    images = torch.zeros(2, 8, 9, 3)

    assert model(images.permute(0, 3, 1, 2)).shape == (2, 2)
    expected = r"shape \(2, 8, 9, 3\), but the model expects .* \(batch, channels=3, height, width\)"
    with pytest.raises(DataError, match=expected):
        model(images)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000, 1000, 1000), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 2), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,), }",
        "{'descr': 'O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': ('|u1', -5), 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (1,), }",
        "{'shape': 1}",
        "((((((((((",
        "[]",
    ],
)
def test_a_hostile_header_is_a_data_error(tmp_path: Path, header: str) -> None:
    """An array that claims to be larger than memory, of an odd type, or of no shape, is refused."""
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8)
        for name in sources.ARRAYS[1:]:
            stream = io.BytesIO()
            np.save(stream, noise()[name])
            archive.writestr(f"{name}.npy", stream.getvalue())
    with pytest.raises(DataError, match=r"^the file .*a.npz"):
        Images(npz=str(tmp_path / "a.npz")).load(CPU, EXACT)


@pytest.mark.parametrize("name", sources.ARRAYS)
def test_a_missing_array_is_named(file: Callable[[Arrays], str], name: str) -> None:
    """A file without one of the four arrays is refused by its name."""
    path = file({other: array for other, array in noise().items() if other != name})
    with pytest.raises(DataError, match=f"noise.npz has no array '{name}'; it must have x_train, y_train, x_test, y_test"):
        sources.npz(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "No data left"), (b"x,y\n", "pickle"), ("array", "holds one array")],
)
def test_a_file_that_holds_no_arrays_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    """What is not there, is empty, is text, or is a single array, is a DataError with the path."""
    path = tmp_path / "a.npz"
    if content == "array":
        with path.open("wb") as stream:
            np.save(stream, np.arange(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^the file {path} cannot be read: .*{reason}.*; write it anew with numpy.savez"):
        sources.npz(str(path))


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Cuts bytes off, or changes some."""
    end = draw(st.floats(0, 1))
    spots = draw(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=3))

    def apply(content: bytes) -> bytes:
        found = bytearray(content)
        for place, value in spots:
            found[int(place * len(content))] = value
        return bytes(found[: int(end * len(content))] if not spots else found)

    return apply


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@given(st.lists(damage(), min_size=20, max_size=20))
def test_a_damaged_file_is_arrays_or_a_data_error(save: Callable[..., None], damages: list[Callable[[bytes], bytes]]) -> None:
    """Whatever bytes of a file are cut off or changed, it is read or refused."""
    stream = io.BytesIO()
    save(stream, **noise(shape=(1, 1)))
    survives(stream.getvalue(), damages, ".npz", sources.npz)


def survives(content: bytes, damages: list[Callable[[bytes], bytes]], suffix: str, read: Callable[[str], object]) -> None:
    """Reading each damaged content gives something or a DataError."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        for spoil in damages:
            Path(file.name).write_bytes(spoil(content))
            with suppress(DataError):
                read(file.name)


# ------------------------------------------------------------------------------------------------- a folder of images


def fill(folder: Path, files: dict[str, Any]) -> str:
    """A folder with these files, of an image, the one value of an image, or bytes; its path."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            image = content if isinstance(content, np.ndarray) else np.full((2, 3), content, np.uint8)
            Image.fromarray(image).save(folder / name)
    return str(folder)


def grey(parts: tuple[str, ...] = ("",), count: int = 4) -> dict[str, Any]:
    """In each part two classes of grey images of 2 x 3 pixels, no two alike."""
    return {f"{part}{label}/{i}.png": 20 * i + n for part in parts for n, label in enumerate(("a", "b")) for i in range(count)}


def test_a_folder_is_read_with_its_own_test_part(tmp_path: Path) -> None:
    """Folders train and test are the parts, a class is a folder in them, in the order of the alphabet; grey images stay grey."""
    found = sources.folder(fill(tmp_path, grey(("train/", "test/"), 3)), None)

    assert found.classes == ("a", "b")
    assert found.train.x.shape == found.test.x.shape == (6, 1, 2, 3)
    assert found.train.x[:, 0, 0, 0].tolist() == [0, 20, 40, 1, 21, 41]
    assert found.test.y.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_folder_without_a_test_part_gives_a_fifth_of_itself(tmp_path: Path) -> None:
    """Of ten images two test, one of each class, the same at every reading."""
    found, again = (sources.folder(fill(tmp_path, grey(count=5)), None) for _ in range(2))
    values = [*found.train.x[:, 0, 0, 0].tolist(), *found.test.x[:, 0, 0, 0].tolist()]

    assert (found.train.y.tolist(), found.test.y.tolist()) == ([0] * 4 + [1] * 4, [0, 1])
    assert sorted(values) == sorted([*range(0, 100, 20), *range(1, 100, 20)])
    assert found.digest() == again.digest()


def test_one_image_in_colour_makes_all_coloured(tmp_path: Path) -> None:
    """A grey image among those in colour has its value in three channels; palettes and transparency are colours."""
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    fill(tmp_path, grey() | {"a/colour.png": colour})
    Image.fromarray(colour).convert("P").save(tmp_path / "b" / "palette.png")
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "b" / "transparent.png")
    found = sources.folder(str(tmp_path), None)
    images = [*found.train.x.tolist(), *found.test.x.tolist()]

    assert np.full((3, 2, 3), 21).tolist() in images
    assert images.count(colour.transpose(2, 0, 1).tolist()) >= 2


@given(st.integers(1, 6), st.integers(1, 6))
def test_images_are_resized_by_their_shorter_side(height: int, width: int) -> None:
    """Of the longer side the middle remains; what has the size already, and one colour, is as it was."""
    size = min(height, width)
    image = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    top, left = (round((side - size) / 2) for side in (height, width))
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(fill(Path(folder), {"a.png": image, "b.png": 7 + 0 * image}), "a.png"))
        found, plain = sources._image(file, size), sources._image(file.replace("a.png", "b.png"), size + 2)

    assert np.array_equal(found[..., 0], image[top : top + size, left : left + size])
    assert np.array_equal(plain, np.full((size + 2, size + 2, 1), 7))


FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "cannot be read: there is no folder in .*; give a folder with a folder of images for each"),
    "no image": (
        grey() | {"c/notes.txt": b""},
        "cannot be read: there is no image in .*/c; images end in .jpg, .* .webp; give a folder",
    ),
    "one class": ({f"a/{i}.png": i for i in range(5)}, "has 1 class, but classification needs two; give images of two"),
    "too few": (grey(count=2), "has 4 images, too few to test on a fifth; give five or more, or train/ and test/"),
    "val alone": (grey(("val/",)), "has classes in val/ alone; give it a part train/ too"),
    "test alone": (grey(("test/",)), "has classes in test/ alone; give it a part train/ too, or classes without parts"),
    "other classes": (
        grey(("train/", "test/")) | {"test/c/0.png": 0},
        "has the classes a, b in train/ and a, b, c in test/; give both the same",
    ),
    "two sizes": (
        grey() | {"b/odd.png": np.zeros((3, 3), np.uint8)},
        r"b/odd.png has \(height, width\) \(3, 3\) and .*a/0.png \(2, 3\); give `size`, to which all are resized, or images of",
    ),
    "16 bits": (
        grey() | {"b/deep.png": np.zeros((2, 3), np.uint16)},
        r"deep.png cannot be read: its mode is I;16, which is more",
    ),
    "damaged": (
        grey() | {"b/cut.png": b"\x89PNG\r\n"},
        "cut.png cannot be read: cannot identify image file .*; save it anew with 8",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, fault: str) -> None:
    """Each fault is a DataError that names the folder or the file, and says what to give."""
    files, message = FOLDERS[fault]
    with pytest.raises(DataError, match=rf"^(the folder |the image )?{tmp_path}.*{message}"):
        Images(folder=fill(tmp_path, files)).load(CPU, EXACT)


def test_hidden_and_other_files_are_skipped_with_a_note(tmp_path: Path) -> None:
    """What operating systems and tools leave behind changes no image; the note names it, and so does the data."""
    clean = Images(folder=fill(tmp_path / "clean", grey(count=5)))
    clutter: dict[str, Any] = {
        ".ipynb_checkpoints/a.png": 7,
        "__MACOSX/a/._0.png": b"resource fork",
        "a/._0.png": b"resource fork",
        "b/.hidden/0.png": 9,
        "b/Thumbs.db": b"x",
        "notes.txt": b"x",
    }
    cluttered = Images(folder=fill(tmp_path / "clutter", grey(count=5) | clutter))
    found = cluttered._read()

    assert found.digest() == clean._read().digest()
    assert clean.load(CPU, EXACT).warnings == ()
    (note,) = cluttered.load(CPU, EXACT).warnings
    assert re.fullmatch(r"the folder .*/clutter: .*\._0.png, .*, and 3 more skipped, which are no images of a class", note)


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "valid", "TEST"), ("training", "validation"), ("train",)])
def test_a_folder_with_parts_is_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Images of val/ validate and those of test/ test; without test/ a fifth of train/ does, without val/ half of the rest."""
    parts = [sources.PARTS[name.lower()] for name in names]
    images = {
        f"{name}/{c}/{i}.png": 40 * n + 20 * k + i
        for n, name in enumerate(names)
        for k, c in enumerate("ab")
        for i in range(10)
    }
    folder = fill(tmp_path, images)
    found, data = sources.folder(folder, None), Images(folder=folder).load(CPU, EXACT)

    trained = 20 if "test" in parts else 16
    assert (len(found.train.y), len(found.test.y)) == (trained, 20 if "test" in parts else 4)
    if "validation" in parts:
        assert found.validation is not None
        assert found.validation.x[:, 0, 0, 0].tolist() == [40 + 20 * k + i for k in range(2) for i in range(10)]
        assert (data.train.size, data.validation.size) == (trained, 20)
        assert data.warnings == (f"the folder {folder}: the 20 images of its part for validation are the validation split",)
    else:
        assert (found.validation, data.train.size, data.validation.size) == (None, trained // 2, trained // 2)
        assert data.warnings == ()


def test_a_share_for_validation_replaces_the_part_of_a_folder(tmp_path: Path) -> None:
    """With `validation` given, the images of train/ and val/ are divided anew; the digest has those of val/ in any case."""
    folder = fill(tmp_path, grey(("train/", "val/", "test/"), 6))
    sizes = {share: Images(folder=folder, validation=share).load(CPU, EXACT) for share in (None, 0.0, 0.25)}

    assert {share: (d.train.size, d.validation.size) for share, d in sizes.items()} == {
        None: (12, 12),
        0.0: (24, 0),
        0.25: (18, 6),
    }
    assert {share: len(d.warnings) for share, d in sizes.items()} == {
        None: 1,
        0.0: 0,
        0.25: 0,
    }  # val/ is named where it is used
    pinned = Images(folder=folder).pinned()
    Image.fromarray(np.full((2, 3), 200, np.uint8)).save(tmp_path / "val" / "a" / "0.png")
    with pytest.raises(DataError, match="has other images than those of the digest"):
        pinned.load(CPU, EXACT)


@pytest.mark.parametrize("path", ["nowhere", "\0", ""])
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """What is not there, or cannot be a path, is a DataError."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"^the folder .*cannot be read: .*; give a folder with a folder of images for each class"
    ):
        Images(folder=path).load(CPU, EXACT)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "webp", "ppm"])
@given(st.lists(damage(), min_size=20, max_size=20))
def test_a_damaged_image_is_an_image_or_a_data_error(kind: str, damages: list[Callable[[bytes], bytes]]) -> None:
    """Whatever bytes of an image are cut off or changed, it is read or refused."""
    stream = io.BytesIO()
    Image.fromarray(noise()["x_train"][0]).save(stream, kind)
    survives(stream.getvalue(), damages, f".{kind}", lambda path: sources._image(path, 3))


# ---------------------------------------------------------------------------------------------------------- torchvision


def no_network(*_: object, **__: object) -> None:
    raise URLError("no network")


@pytest.mark.parametrize("source", sources.TORCHVISION)
def test_without_a_network_a_set_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A set that is not there and cannot be downloaded is a DataError that names folder and archive."""
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    archive = re.escape(sources.TORCHVISION[source][1])
    with pytest.raises(DataError, match=rf"(?s)^{source} can be neither .* folder {tmp_path} .*no network.*put {archive} into"):
        Images(source, root=str(tmp_path)).load(CPU, EXACT)


def test_an_archive_that_lies_there_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST's four files, put into the folder, are read by the loader of torchvision; cut off, they are refused."""
    arrays, kind = noise(shape=(4, 5)), torchvision.datasets.FashionMNIST
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(kind, "resources", [(name, None) for name, _ in kind.resources])
    monkeypatch.setattr(kind, "classes", ["cat", "dog"])
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for (name, _), array in zip(kind.resources, (arrays[key] for key in sources.ARRAYS), strict=True):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        (raw / name).write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
    found = sources.downloaded("fashion_mnist", str(tmp_path))

    assert found.classes == ("cat", "dog")
    assert found.digest() == made(arrays).digest()
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match="fashion_mnist can be neither read from the folder"):
        sources.downloaded("fashion_mnist", str(tmp_path))


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_a_set_is_loaded_by_torchvision(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Both parts come from torchvision's class, of the folder that was given, downloaded if need be."""
    arrays = noise()

    def loader(root: str, *, train: bool, download: bool) -> SimpleNamespace:
        part = "train" if train else "test"
        assert (Path(root).absolute(), download) == (Path("there").absolute(), True)
        return SimpleNamespace(data=arrays[f"x_{part}"], targets=arrays[f"y_{part}"].tolist(), classes=["cat", "dog"])

    monkeypatch.setattr(torchvision.datasets, sources.TORCHVISION[source][0], loader)
    pinned = Images(source, root="there").pinned()
    found = pinned.load(CPU, EXACT)

    assert pinned.root == str(Path("there").absolute())
    assert whole(found.train)[0].equal(whole(loaded(arrays).train)[0])


# ------------------------------------------------------------------------------------------------------------ the part


def test_the_task_is_a_part_that_needs_nothing() -> None:
    """The plugin gives the task `images`; without options it has the digits, half of whose training part is held out."""
    assert nasframe_parts() == [Images]
    assert (Images.kind, Images.name, Images().source) == ("task", "images", "digits")
    found = Images().load(CPU, EXACT)

    assert found.sizes == {"channels": 1, "classes": 10, "height": 8, "width": 8}
    assert (found.train.size, found.validation.size, found.test.size) == (719, 719, 359)
    assert Images(validation=0.0).load(CPU, EXACT).validation.size == 0


OPTIONS: dict[str, dict[str, Any]] = {
    "source is 'mnist'; it must be one of 'digits', 'cifar10', .*, or folder or npz a path": {"source": "mnist"},
    "source is None; it must be one of 'digits', 'cifar10', .*, or folder or npz a path": {"source": None},
    "folder is 'a' and npz is 'b'; give one of them": {"folder": "a", "npz": "b"},
    "npz is 'b' and source is 'digits'; give one of them": {"npz": "b", "source": "digits"},
    "npz is 3; it must be a string, or left out": {"npz": 3},
    "root is None; it must be a string": {"root": None},
    "size is 8, but the images of a folder alone are resized; leave it out": {"size": 8},
    "size is 0; it must be a whole number of at least 1, or left out": {"folder": "a", "size": 0},
    "validation is 1.5; it must be a number of at least 0.0 and at most 1.0, or left out": {"validation": 1.5},
    "train is 0; it must be a whole number of at least 1, or left out": {"train": 0},
    "flip is 1; it must be true or false": {"flip": 1},
    "crop is -1; it must be a whole number of at least 0": {"crop": -1},
    "cutout is 0.5; it must be a whole number of at least 0": {"cutout": 0.5},
}


@pytest.mark.parametrize("message", OPTIONS)
def test_impossible_options_are_refused(message: str) -> None:
    """Each says what was given and what it must be, before anything is read."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Images(**OPTIONS[message])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 4}, "crop is 4 and cutout 0, but noise has images of 4 x 5 pixels; give a crop of 3 at most and a"),
        ({"cutout": 5}, "crop is 0 and cutout 5, but noise has images of 4 x 5 pixels; give"),
        ({"train": 13}, "train is 13, but noise has 12 images to train on; give at most as many"),
        ({"train": 2}, "noise, class 0 .0.: of 6 images in the training part none is left to (train|validate); give"),
        ({"validation": 0.01}, "none is left to validate; give more of them, a larger `train`, or another `validation` than"),
        ({"validation": 1.0}, "none is left to train; give more of them"),
    ],
)
def test_options_that_do_not_fit_the_images_are_refused(options: dict[str, Any], message: str) -> None:
    """What is larger than an image, more than all, or leaves a class without one, is a DataError."""
    with pytest.raises(DataError, match=message):
        loaded(noise(), **options)


def test_pinned_images_are_found_from_anywhere_and_refused_once_changed(
    tmp_path: Path, file: Callable[[Arrays], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a folder get their absolute path and the digest of what they hold; the digits are what they are."""
    held = [Images(npz=file(noise())).pinned(), Images(folder=Path(fill(tmp_path / "f", grey(count=5))).name, size=2).pinned()]
    monkeypatch.chdir("/")

    assert held == [each.pinned() for each in held]
    assert [held[0].npz, held[1].folder] == [str(tmp_path / "noise.npz"), str(tmp_path / "f")]
    assert Images().pinned() == Images()
    for each in held:
        assert each.load(CPU, EXACT).train.size > 0
    changed = noise()
    changed["x_test"][-1, -1, -1] ^= 1
    np.savez(tmp_path / "noise.npz", **changed)
    (tmp_path / "f" / "a" / "0.png").unlink()
    for each in held:
        with pytest.raises(
            DataError, match=f"has other images than those of the digest: .*, not {each.digest}; give the images"
        ):
            each.load(CPU, EXACT)


@given(cases(), st.data())
def test_a_digest_is_of_every_pixel_and_label(arrays: Arrays, data: st.DataObject) -> None:
    """Equal pictures have equal digests, and any other pixel, label or shape has another."""
    name = data.draw(st.sampled_from(["x_train", "x_test"]))
    changed = {key: array.copy() for key, array in arrays.items()}
    changed[name].reshape(-1)[data.draw(st.integers(0, changed[name].size - 1))] ^= 1
    relabelled = arrays | {"y_test": 1 - arrays["y_test"].clip(0, 1)}
    turned = {key: array.reshape(len(array), 1, -1, 1) if key[0] == "x" else array for key, array in arrays.items()}

    assert made(arrays).digest() == made({key: array.copy() for key, array in arrays.items()}).digest()
    digests = [made(each).digest() for each in (arrays, changed, relabelled)]
    assert len(set(digests)) == 3
    assert arrays["x_train"].shape[1] == 1 or made(turned).digest() not in digests


# ---------------------------------------------------------------------------------------------------------- references


def test_references_reach_their_known_accuracies() -> None:
    """On the digits the majority class and logistic regression have their known test accuracies, and neither trains."""
    found = Images().load(CPU, EXACT)
    made = {name: make() for name, make in found.references(100).items()}

    assert list(made) == ["majority class", "logistic regression"]
    assert found.measure(made["majority class"], found.test)[1][found.score] == pytest.approx(0.100, abs=1e-3)
    assert found.measure(made["logistic regression"], found.test)[1][found.score] == pytest.approx(0.947, abs=1e-3)
    assert not any(p.requires_grad for module in made.values() for p in module.parameters())


@given(cases())
def test_the_majority_class_is_the_best_constant(arrays: Arrays) -> None:
    """It predicts the most frequent class that trains, and its mean training loss is the entropy of the classes."""
    found = loaded(arrays)
    x, y = whole(found.train)
    shares = y.bincount().double() / len(y)
    outputs = found.references(1)["majority class"]()(x)

    assert outputs.shape == (len(y), len(shares))
    assert shares[found.predict(outputs)].eq(shares.max()).all()
    torch.testing.assert_close(found.loss(outputs, y), -(shares * shares.log()).sum())


@pytest.mark.parametrize("counts", [(9, 12), (9, 12, 10)])
def test_logistic_regression_is_scikit_learns(counts: tuple[int, ...]) -> None:
    """Without a validation part it gives scikit-learn's probabilities at its default strength, for two classes and for more."""
    from sklearn.linear_model import LogisticRegression

    found = loaded(noise(counts), validation=0.0)
    x, y = whole(found.train)
    expected = LogisticRegression().fit(x.flatten(1).numpy(), y.numpy()).predict_proba(x.flatten(1).numpy())
    outputs = found.references(1)["logistic regression"]()(x)

    torch.testing.assert_close(outputs.softmax(1), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_the_strength_is_chosen_on_validation() -> None:
    """Where validation contradicts training the least strength wins, where it repeats it the greatest."""
    x, y = torch.randn(40, 1, 2, 2, dtype=EXACT, generator=Seed((0,)).generator()), torch.arange(40) % 2
    x[:, 0, 0, 0] += 2 * y

    def split(labels: Tensor) -> Split:
        return Split(40, lambda index: (x[index], labels[index]))

    contradicted, repeated = (references.logistic_regression(split(y), split(other))(x) for other in (1 - y, y))

    assert contradicted.abs().max() < 0.1
    assert ((repeated.argmax(1) == y).double().mean() > 0.8) & (repeated.abs().max() > 1)


def test_large_images_are_averaged_for_logistic_regression() -> None:
    """Of images of 64 x 33 pixels it sees 32 x 32."""
    linear = loaded(noise(shape=(64, 33))).references(1)["logistic regression"]()[-1]

    assert isinstance(linear, nn.Linear)
    assert linear.in_features == 32 * 32


# ------------------------------------------------------------------------------------------------------------ mutants


SHARED, NEAR, RNG = pictures.stratified, augmentation._near, np.random.default_rng(0)


class TestMutants:
    """Each is a task with one fault; the law named catches it."""

    @pytest.mark.parametrize(
        ("where", "name", "fault", "law"),
        [
            (
                pictures,
                "stratified",
                lambda y, count, seed: (torch.arange(count), torch.arange(count, len(y))),
                test_a_share_is_one_of_every_class,
            ),
            (Seed, "generator", lambda self: None, test_a_share_is_drawn_by_its_seed_alone),
            (
                task,
                "stratified",
                lambda y, count, seed: (SHARED(y, count, seed)[0], torch.arange(len(y))),
                test_the_training_part_is_shared_out_and_the_test_part_is_not,
            ),
            (task, "Split", lambda size, batch, draw: Split(size, draw, draw), test_no_measurement_is_augmented),
            (v2, "RandomHorizontalFlip", v2.RandomVerticalFlip, test_a_draw_is_one_of_its_augmentations),
            (v2, "RandomCrop", partial(v2.RandomCrop, padding_mode="edge"), test_a_draw_is_one_of_its_augmentations),
            (
                augmentation,
                "_near",
                lambda length, side, size: NEAR(length, side - 1, size),
                test_every_square_is_cut_out_and_no_other,
            ),
            (
                augmentation,
                "_near",
                lambda length, side, size: torch.from_numpy(RNG.random((size, length)) < 0.5),
                test_a_draw_is_reproducible,
            ),
            (references, "cross_entropy", lambda *_: torch.tensor(0.0), test_the_strength_is_chosen_on_validation),
            (
                sources,
                "UNREADABLE",
                tuple(error for error in sources.UNREADABLE if error is not zlib.error),
                partial(test_a_damaged_file_is_arrays_or_a_data_error, np.savez_compressed),
            ),
        ],
    )
    def test_a_fault(self, where: Any, name: str, fault: Any, law: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
        """What is shared out, drawn, measured, chosen or let through wrongly is seen."""
        caught = AssertionError, zlib.error
        monkeypatch.setattr(where, name, fault)
        with pytest.raises(caught):
            law()


# ------------------------------------------------------------------------------------------------------ the real images


@real
@pytest.mark.parametrize(("name", "sizes"), [("cifar10", (3, 32, 32)), ("fashion_mnist", (1, 28, 28))])
def test_real_images_are_loaded(name: str, sizes: tuple[int, int, int]) -> None:
    """Of 10,000 images half train, 500 of each class, with mean 0 and deviation 1; 2,000 test."""
    found = Images(npz=f"{REAL}/{name}_12k.npz", flip=True, crop=4, cutout=16).load(CPU, EXACT)
    x, y = whole(found.train)

    assert (found.train.size, found.validation.size, found.test.size) == (5000, 5000, 2000)
    assert (x.shape[1:], found.sizes["classes"]) == (sizes, 10)
    assert y.bincount().tolist() == [500] * 10
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(sizes[0], dtype=EXACT))
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(sizes[0], dtype=EXACT))
    assert drawn(found.train).shape == x.shape

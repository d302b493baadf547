"""IDX files: MNIST, Fashion-MNIST and the splits of EMNIST."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from sppim_core.data.arrays import Dataset, from_arrays
from sppim_core.data.files import Files, Source, open_files
from sppim_core.errors import DataError

_CONTENTS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_MNIST_PARTS = ("train", "t10k")


@dataclass(frozen=True)
class _Split:
    """A split of EMNIST: how many classes its labels name, counted from `first`."""

    name: str
    classes: int
    first: int = 0

    @property
    def parts(self) -> tuple[str, str]:
        return f"emnist-{self.name}-train", f"emnist-{self.name}-test"


_SPLITS = (
    _Split("balanced", 47),
    _Split("byclass", 62),
    _Split("bymerge", 47),
    _Split("digits", 10),
    _Split("letters", 26, first=1),
    _Split("mnist", 10),
)


def _read(files: Files, name: str, ndim: int) -> np.ndarray:
    """One IDX file of bytes, checked: magic, dimensions, length."""
    path, raw = files.path / name, files.read(name)
    if len(raw) < 4 + 4 * ndim:
        raise DataError(f"{path}: {len(raw)} bytes are too few for an IDX file")
    if raw[:4] != bytes((0, 0, 8, ndim)):
        raise DataError(
            f"{path}: starts with {raw[:4].hex()}, expected 000008{ndim:02x} (IDX, bytes, {ndim} dimensions)"
        )
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim))
    expected = math.prod(shape)
    if len(raw) - 4 - 4 * ndim != expected:
        raise DataError(f"{path}: {len(raw) - 4 - 4 * ndim} bytes of data, the header says {shape} = {expected}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _names(part: str, content: str) -> tuple[str, ...]:
    """What a file is called, here and there."""
    dashed = f"{part}-{content}"
    dotted = dashed.replace("-idx", ".idx")
    return dashed, dashed + ".gz", dotted, dotted + ".gz"


def _marks(parts: tuple[str, str]) -> frozenset[str]:
    return frozenset(name for part in parts for content in _CONTENTS for name in _names(part, content))


def _part(files: Files, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, height, width) and labels uint8 (n,) to learn from, or to test with."""
    images, labels = (files.find(*_names(part, content)) for content in _CONTENTS)
    x, y = _read(files, images, 3), _read(files, labels, 1)
    if len(x) != len(y):
        raise DataError(f"{files.path / images} holds {len(x)} images, {files.path / labels} {len(y)} labels")
    if not x.size:
        raise DataError(f"{files.path / images}: no images")
    return x, y


def _load_mnist(files: Files) -> Dataset:
    train, test = (_part(files, part) for part in _MNIST_PARTS)
    return from_arrays(*train, *test, name=files.path.name)


def _emnist_part(files: Files, split: _Split, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as _part() returns them; stored are transposed images, and labels that may count from 1."""
    x, y = _part(files, part)
    wrong = np.flatnonzero((y < split.first) | (y >= split.first + split.classes))
    if len(wrong):
        path, last = files.path / files.find(*_names(part, _CONTENTS[1])), split.first + split.classes - 1
        raise DataError(f"{path}: label {y[wrong[0]]} of image {wrong[0]} is not in {split.first}..{last}")
    return x.transpose(0, 2, 1), y - np.uint8(split.first)


def _load_emnist(files: Files, split: _Split) -> Dataset:
    train, test = (_emnist_part(files, split, part) for part in split.parts)
    return replace(from_arrays(*train, *test, name=f"emnist-{split.name}"), classes=split.classes)


def load_idx(where) -> Dataset:
    """A folder with the four files of MNIST or Fashion-MNIST (train-images-idx3-ubyte ..., plain or .gz)."""
    return _load_mnist(open_files(Path(where)))


SOURCES = (
    Source("mnist", _marks(_MNIST_PARTS), _load_mnist),
    *(Source(f"emnist-{split.name}", _marks(split.parts), partial(_load_emnist, split=split)) for split in _SPLITS),
)

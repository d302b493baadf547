"""What a data set is, and data sets from NumPy and scipy.sparse arrays, .npz files and scikit-learn's digits."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppim_core import check
from sppim_core.arithmetic import image_order, quantize_inputs
from sppim_core.errors import DataError, ShapeError
from sppim_core.sparse import add_entries, is_sparse, quantize_rows

DIGITS_TEST = 360
DIGITS_SPLIT_SEED = 0
_NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Dataset:
    """Training and test images: x int8 (n, inputs) or scipy.sparse CSR of int8, y int32 (n,).

    image: (height, width, channels), in which order x is flattened, the channel fastest; (1, 1, inputs) where the data
    are no images."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    image: tuple[int, int, int]

    @property
    def inputs(self) -> int:
        return self.x_train.shape[1]


def _images(name: str, x):
    """x as (n, inputs) int8, flattened, and the shape of an image; sparse stays sparse (0 is 0 in every format)."""
    if is_sparse(x):
        if x.ndim != 2:
            raise ShapeError(f"{name} must have shape (n, inputs), not {x.shape}")
        rows = add_entries(x, name)
        _check_range(name, rows.data)
        return quantize_rows(rows, name), (1, 1, x.shape[1])
    x = check.plain_array(name, x)
    if x.ndim < 2:
        raise ShapeError(f"{name} must have shape (n, inputs) or more dimensions, not {x.shape}")
    _check_range(name, x)
    return quantize_inputs(x, name).reshape(len(x), math.prod(x.shape[1:])), _image(x.shape[1:])


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width) is of one channel, (height, width, channels) itself, everything else flat."""
    if len(shape) == 3:
        return shape
    return (*shape, 1) if len(shape) == 2 else (1, 1, math.prod(shape))


def _check_range(name: str, values: np.ndarray) -> None:
    """Floats beyond 1 would all saturate: most likely they are bytes."""
    if values.dtype.kind == "f" and values.size and np.abs(values).max() > 1:
        largest = np.abs(values).max()
        raise ValueError(f"{name} holds {largest:g}; floats must lie in -1..1 (bytes 0..255: .astype(np.uint8))")


def from_arrays(x_train, y_train, x_test, y_test, name: str = "arrays") -> Dataset:
    """A data set from arrays: images uint8 (0..255; grey or colour: A2.1), int8 (Q7) or floats in -1..1, of shape
    (n, height, width), (n, height, width, channels), or any other (n, ...), which is flat, or scipy.sparse; labels
    integers from 0."""
    (x_train, image), (x_test, image_test) = _images("x_train", x_train), _images("x_test", x_test)
    y_train = check.array("y_train", y_train, np.int32, 1, 0, 1023)
    y_test = check.array("y_test", y_test, np.int32, 1, 0, 1023)
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.shape[0] != len(y):
            raise ShapeError(f"x_{part} holds {x.shape[0]} images, y_{part} {len(y)} labels")
        if not len(y):
            raise ShapeError(f"x_{part} holds no images")
    if not x_train.shape[1]:
        raise ShapeError(f"x_train has no inputs: shape {x_train.shape}")
    if x_train.shape[1] != x_test.shape[1]:
        raise ShapeError(f"x_train has {x_train.shape[1]} inputs, x_test {x_test.shape[1]}")
    if image != image_test:
        raise ShapeError(f"x_train has images (height, width, channels) {image}, x_test {image_test}")
    classes = max(2, int(y_train.max()) + 1, int(y_test.max()) + 1)
    return Dataset(name, x_train, y_train, x_test, y_test, classes, image)


def load_digits() -> Dataset:
    """scikit-learn's 8 x 8 digits: 1437 images to learn from, 360 held out, a fixed split (A3.6 with seed 0)."""
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ImportError as error:
        raise DataError("the digits need scikit-learn: pip install scikit-learn") from error
    digits = sklearn_digits()
    order = image_order(DIGITS_SPLIT_SEED, 0, len(digits.target))
    x, y = digits.images[order] / 16.0, digits.target[order]
    return from_arrays(x[DIGITS_TEST:], y[DIGITS_TEST:], x[:DIGITS_TEST], y[:DIGITS_TEST], "digits")


def load_npz(path) -> Dataset:
    """A .npz file with x_train, y_train, x_test, y_test as from_arrays takes them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NPZ_NAMES}
    except Exception as error:
        reason = "pickled objects are not read" if "allow_pickle" in str(error) else error
        raise DataError(f"{path}: not a .npz file with {', '.join(_NPZ_NAMES)} ({reason})") from error
    return from_arrays(**arrays, name=Path(path).stem)

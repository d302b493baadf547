"""Data sets: scikit-learn's digits, IDX folders (MNIST, Fashion-MNIST), NumPy and scipy.sparse arrays."""

import gzip
import math
import zlib
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
    """Training and test images: x int8 (n, inputs) or scipy.sparse CSR of int8, y int32 (n,)."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int

    @property
    def inputs(self) -> int:
        return self.x_train.shape[1]


def _images(name: str, x):
    """x as (n, inputs) int8, flattened; sparse stays sparse (0 is 0 in every format)."""
    if is_sparse(x):
        if x.ndim != 2:
            raise ShapeError(f"{name} must have shape (n, inputs), not {x.shape}")
        rows = add_entries(x, name)
        _check_range(name, rows.data)
        return quantize_rows(rows, name)
    x = check.plain_array(name, x)
    if x.ndim < 2:
        raise ShapeError(f"{name} must have shape (n, inputs) or more dimensions, not {x.shape}")
    _check_range(name, x)
    return quantize_inputs(x.reshape(len(x), math.prod(x.shape[1:])), name)


def _check_range(name: str, values: np.ndarray) -> None:
    """Floats beyond 1 would all saturate: most likely they are bytes."""
    if values.dtype.kind == "f" and values.size and np.abs(values).max() > 1:
        largest = np.abs(values).max()
        raise ValueError(f"{name} holds {largest:g}; floats must lie in -1..1 (bytes 0..255: .astype(np.uint8))")


def from_arrays(x_train, y_train, x_test, y_test, name: str = "arrays") -> Dataset:
    """A data set from arrays: images uint8 (0..255), int8 (Q7) or floats in -1..1, any shape (n, ...), or
    scipy.sparse; labels integers from 0."""
    x_train, x_test = _images("x_train", x_train), _images("x_test", x_test)
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
    classes = max(2, int(y_train.max()) + 1, int(y_test.max()) + 1)
    return Dataset(name, x_train, y_train, x_test, y_test, classes)


def load_digits() -> Dataset:
    """scikit-learn's 8 x 8 digits: 1437 images to learn from, 360 held out, a fixed split (A3.6 with seed 0)."""
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ImportError as error:
        raise DataError("the digits need scikit-learn: pip install scikit-learn") from error
    digits = sklearn_digits()
    order = image_order(DIGITS_SPLIT_SEED, 0, len(digits.target))
    x, y = digits.data[order] / 16.0, digits.target[order]
    return from_arrays(x[DIGITS_TEST:], y[DIGITS_TEST:], x[:DIGITS_TEST], y[:DIGITS_TEST], "digits")


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """One IDX file of bytes (plain or .gz), checked: magic, dimensions, length."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error
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


def _find_idx(folder: Path, stem: str) -> Path:
    for name in (stem, stem + ".gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no {stem} or {stem}.gz")


def load_idx(folder) -> Dataset:
    """A folder with the four files of MNIST or Fashion-MNIST (train-images-idx3-ubyte ..., plain or .gz)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    arrays: dict[str, np.ndarray] = {}
    for part, name in (("train", "train"), ("t10k", "test")):
        images = _find_idx(folder, f"{part}-images-idx3-ubyte")
        labels = _find_idx(folder, f"{part}-labels-idx1-ubyte")
        x, y = _read_idx(images, 3), _read_idx(labels, 1)
        if len(x) != len(y):
            raise DataError(f"{images} holds {len(x)} images, {labels} {len(y)} labels")
        if not x.size:
            raise DataError(f"{images}: no images")
        arrays |= {f"x_{name}": x, f"y_{name}": y}
    return from_arrays(**arrays, name=folder.name)


def load_npz(path) -> Dataset:
    """A .npz file with x_train, y_train, x_test, y_test as from_arrays takes them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NPZ_NAMES}
    except Exception as error:
        reason = "pickled objects are not read" if "allow_pickle" in str(error) else error
        raise DataError(f"{path}: not a .npz file with {', '.join(_NPZ_NAMES)} ({reason})") from error
    return from_arrays(**arrays, name=Path(path).stem)


def load(where: str | None = None) -> Dataset:
    """What `sppim train --data` names: "digits" (default), an IDX folder, or a .npz file."""
    if where is None or where == "digits":
        return load_digits()
    path = Path(where)
    if path.is_dir():
        return load_idx(path)
    if path.is_file():
        return load_npz(path)
    raise DataError(f"{where}: no such file or folder ('digits' is built in)")

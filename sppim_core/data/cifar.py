"""CIFAR-10 and CIFAR-100, in the binary and in the Python batches that are published."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sppim_core.arithmetic import quantize_inputs
from sppim_core.data.arrays import Dataset, from_arrays
from sppim_core.data.files import Files, Source
from sppim_core.data.pickles import read_pickle
from sppim_core.errors import DataError

_PIXELS = 3 * 32 * 32
_Labels = dict[str, int]
_Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Set:
    """Batches to learn from and to test with; an image's labels in the order of the binary records, each with its
    number of classes. The last is what is learnt."""

    name: str
    train: tuple[str, ...]
    test: str
    labels: _Labels


_SETS = (
    _Set("cifar10", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", {"labels": 10}),
    _Set("cifar100", ("train",), "test", {"coarse_labels": 20, "fine_labels": 100}),
)


def _read_binary(files: Files, name: str, labels: _Labels) -> _Batch:
    """Images uint8 (n, 3072) and labels uint8 (n, kinds) of records of label bytes and pixels."""
    raw, size = files.read(name), len(labels) + _PIXELS
    if len(raw) % size:
        raise DataError(f"{files.path / name}: {len(raw)} bytes are not a whole number of records of {size}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, size)
    return records[:, len(labels) :], records[:, : len(labels)]


def _read_python(files: Files, name: str, labels: _Labels) -> _Batch:
    """Images uint8 (n, 3072) and labels of any size (n, kinds) of a pickled dictionary."""
    path = files.path / name
    batch = read_pickle(files.read(name), path)
    x = batch.get("data")
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] != _PIXELS:
        raise DataError(f"{path}: 'data' is not an array of bytes (n, {_PIXELS})")
    return x, np.stack([_label_list(batch.get(kind), kind, len(x), path) for kind in labels], axis=1)


def _label_list(values, kind: str, count: int, path) -> np.ndarray:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise DataError(f"{path}: {kind!r} is not a list of integers")
    if len(values) != count:
        raise DataError(f"{path}: {count} images, {len(values)} {kind}")
    return np.array(values, object)  # however large they are


def _checked(files: Files, name: str, labels: _Labels, read: Callable[[Files, str, _Labels], _Batch]) -> _Batch:
    """Images int8 (n, 32, 32, 3) and the last of their labels (n,) of one batch."""
    path = files.path / files.find(name)
    x, y = read(files, name, labels)
    if not len(x):
        raise DataError(f"{path}: no images")
    for column, (kind, classes) in zip(y.T, labels.items(), strict=True):
        wrong = np.flatnonzero((column < 0) | (column >= classes))
        if len(wrong):
            raise DataError(f"{path}: {kind} of image {wrong[0]}: {column[wrong[0]]} is not in 0..{classes - 1}")
    images = np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return quantize_inputs(images), y[:, -1].astype(np.int64)


def _load(files: Files, set_: _Set, ending: str, read) -> Dataset:
    batches = [_checked(files, name + ending, set_.labels, read) for name in set_.train]
    for name, (x, _) in zip(set_.train, batches, strict=True):
        if len(x) != len(batches[0][0]):
            expected = f"{set_.train[0]}{ending} {len(batches[0][0])}"
            raise DataError(f"{files.path / (name + ending)}: holds {len(x)} images, {expected}")
    x_train, y_train = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    test = _checked(files, set_.test + ending, set_.labels, read)
    classes = list(set_.labels.values())[-1]
    return replace(from_arrays(x_train, y_train, *test, name=set_.name), classes=classes)


SOURCES = tuple(
    Source(
        set_.name + suffix,
        frozenset(name + ending for name in (*set_.train, set_.test)),
        partial(_load, set_=set_, ending=ending, read=read),
    )
    for set_ in _SETS
    for suffix, ending, read in (("", ".bin", _read_binary), ("-python", "", _read_python))
)

"""Argument checks: every message names the argument and the value that is wrong."""

import os
from numbers import Integral, Real

import numpy as np

from sppim_core import _core
from sppim_core.errors import IsaError, ShapeError


def integer(name: str, value, low: int, high: int) -> int:
    """value as an int within low..high; bools, floats and strings are refused, never converted."""
    if type(value) is not int and (isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral)):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {number}")
    return number


def number(name: str, value, low: float) -> float:
    """value as a float of at least low; bools, strings and NaN are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    number = float(value)
    if not number >= low:
        raise ValueError(f"{name} must be at least {low:g}, not {number:g}")
    return number


def flag(name: str, value) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def choice(name: str, value, options) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, one of {', '.join(options)}, not {value!r}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, not {value!r}")
    return value


def isa(name: str | None) -> None:
    """An instruction-set level of this machine, or None where the default is usable."""
    levels = ", ".join(_core.isa_names())
    if name is None and _core.isa_default() is None:
        raise IsaError(f"SPPIM_ISA={os.environ['SPPIM_ISA']!r} is not one of {levels}")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"isa must be a string, one of {levels}, not {name!r}")
    if name is not None and name not in _core.isa_names():
        raise IsaError(f"isa must be one of {levels} on this machine, not {name!r}")


def plain_array(name: str, value) -> np.ndarray:
    """value if it is a plain NumPy array; masks and matrices are refused, their meaning would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill it first, masks are not kept")
    if isinstance(value, np.matrix):
        raise TypeError(f"{name} is a numpy.matrix; pass a plain array")
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {type(value).__name__}")
    return value


def _whole_range(dtype, low: int | None, high: int | None) -> bool:
    return low is None or (low, high) == (np.iinfo(dtype).min, np.iinfo(dtype).max)


def array(name: str, value, dtype, ndim: int, low: int | None = None, high: int | None = None) -> np.ndarray:
    """value as a plain aligned C-contiguous array of dtype (copied if its layout differs, never cast).

    Integer arrays of another width are accepted only if low and high are given and all values lie between."""
    value = plain_array(name, value)
    dtype = np.dtype(dtype)
    if value.ndim != ndim:
        raise ShapeError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}, not shape {value.shape}")
    if value.dtype.kind not in "iu" or (low is None and value.dtype != dtype):
        expected = dtype.name if low is None else "integers"
        raise TypeError(f"{name} must hold {expected}, not {value.dtype.name}")
    if type(value) is np.ndarray and value.dtype == dtype and value.flags.carray and _whole_range(dtype, low, high):
        return value
    if low is not None and value.size and (value.min() < low or value.max() > high):
        bad = value.min() if value.min() < low else value.max()
        raise ValueError(f"{name} must hold values in {low}..{high}, found {bad}")
    return np.require(value.astype(dtype, copy=False), requirements=["C", "A", "E"])

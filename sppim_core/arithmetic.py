"""The scalar operations of docs/arithmetic.md (A1 to A6) over arrays, exactly as the C core computes them."""

import numpy as np

from sppim_core import _core, check
from sppim_core.errors import ShapeError

ROUNDINGS = _core.ROUNDINGS[:4]
STREAMS = tuple(_core.STREAMS)
_S64 = (-(2**63), 2**63 - 1)


def _values(name, x):
    return check.array(name, x, np.int64, 1, *_S64)


def requantize(x: np.ndarray, shift: int, rounding: str, low: int, high: int) -> np.ndarray:
    """A1.5: x / 2**shift, rounded (rnu, rne, rdn, rod), saturated to low..high. Integers (n,) -> int64 (n,)."""
    shift = check.integer("shift", shift, 0, 62)
    mode = _core.ROUNDINGS.index(check.choice("rounding", rounding, ROUNDINGS))
    low, high = check.integer("low", low, *_S64), check.integer("high", high, *_S64)
    if low > high:
        raise ValueError(f"low must not exceed high, not {low} > {high}")
    return _core.requantize(_values("x", x), shift, mode, low, high)


def round_stochastic(x: np.ndarray, u: np.ndarray, shift: int) -> np.ndarray:
    """A1.2: x / 2**shift rounded up with the probability of its fraction; u: 16-bit random numbers (n,)."""
    x = check.array("x", x, np.int64, 1, -(2**31) + 1, 2**31 - 1)
    u = check.array("u", u, np.uint16, 1, 0, 65535)
    if len(x) != len(u):
        raise ShapeError(f"x and u must have equal lengths, not {len(x)} and {len(u)}")
    return _core.round_stochastic(x, u, check.integer("shift", shift, 0, 46))


def fit(x: np.ndarray, bits: int, overflow: str = "saturate") -> tuple[np.ndarray, int]:
    """A1.6: x in a finite accumulator of 8..32 bits (0: wide); returns the values and how many changed."""
    bits = check.integer("bits", bits, 0, 32)
    if 0 < bits < 8:
        raise ValueError(f"bits must be 0 (wide) or 8..32, not {bits}")
    rule = _core.OVERFLOWS.index(check.choice("overflow", overflow, _core.OVERFLOWS))
    return _core.fit(_values("x", x), bits, rule)


def pot_mac(acc: np.ndarray, x: np.ndarray, code: np.ndarray) -> np.ndarray:
    """A4.2: acc plus x times the power of two that the four-bit code names. All (n,)."""
    acc = check.array("acc", acc, np.int64, 1, -(2**62) + 1, 2**62 - 1)
    x = check.array("x", x, np.int8, 1, -128, 127)
    code = check.array("code", code, np.uint8, 1, 0, 15)
    if not len(acc) == len(x) == len(code):
        raise ShapeError(f"acc, x and code must have equal lengths, not {len(acc)}, {len(x)}, {len(code)}")
    return _core.pot_mac(acc, x, code)


def product_weights(w: np.ndarray, product_bits: int) -> np.ndarray:
    """A5.2: the top product_bits (2..16) of master weights, rounded; integers (n,) -> int16 (n,)."""
    w = check.array("w", w, np.int16, 1, -32639, 32639)
    return _core.product_weights(w, check.integer("product_bits", product_bits, 2, 16))


def hinge_errors(score: np.ndarray, label: np.ndarray, margin_log2: int) -> tuple[np.ndarray, int]:
    """A6.1: errors of scores (n,), label (n,) 1 where the class is the image's own, else 0; int8 (n,) and how many
    saturated."""
    score = check.array("score", score, np.int64, 1, -(2**62) + 1, 2**62 - 1)
    label = check.array("label", label, np.uint8, 1, 0, 1)
    if len(score) != len(label):
        raise ShapeError(f"score and label must have equal lengths, not {len(score)} and {len(label)}")
    return _core.hinge_errors(score, label, check.integer("margin_log2", margin_log2, 7, 40))


def _draw(function, seed, stream, layer, step, first, count):
    stream = _core.STREAMS[check.choice("stream", stream, STREAMS)]
    seed, layer, step = (
        check.integer(name, value, 0, 2**64 - 1) for name, value in (("seed", seed), ("layer", layer), ("step", step))
    )
    first = check.integer("first", first, 0, 2**32 - 1)
    return function(seed, stream, layer, step, first, check.integer("count", count, 0, 2**32 - first))


def draw32(seed: int, stream: str, layer: int, step: int, count: int, first: int = 0) -> np.ndarray:
    """A3.4: draws first .. first+count-1 of a key, uint32 (count,)."""
    return _draw(_core.draw32, seed, stream, layer, step, first, count)


def draw16(seed: int, stream: str, layer: int, step: int, count: int, first: int = 0) -> np.ndarray:
    """A3.4: the same as 16-bit draws, uint16 (count,)."""
    return _draw(_core.draw16, seed, stream, layer, step, first, count)


def image_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """A3.6: the order in which an epoch visits `count` images, int64 (count,)."""
    return np.argsort(draw32(seed, "order", 0, epoch, count), kind="stable")


def held_out(seed: int, count: int, validation: int) -> np.ndarray:
    """A9.1: the `validation` of `count` training images that are held out, ascending, int64."""
    return np.sort(np.argsort(draw32(seed, "order", 1, 0, count), kind="stable")[:validation])


def quantize_inputs(x, name: str = "x") -> np.ndarray:
    """A2.1: network inputs as int8 with 7 fraction bits, same shape.

    int8 passes; uint8 p becomes p // 2, in colour images (n, height, width, 3) p - 128; floats become
    round-half-up(128 x), saturated; NaN raises."""
    x = check.plain_array(name, x)
    if x.dtype == np.int8:
        return x
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] == 3:
        return (x ^ 128).view(np.int8)
    if x.dtype == np.uint8:
        return (x >> 1).astype(np.int8)
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        hint = "; bytes 0..255 in a wider type: .astype(np.uint8)" if x.dtype.kind in "iu" else ""
        raise TypeError(f"{name} must hold int8, uint8 or floats, not {x.dtype.name}{hint}")
    if np.isnan(x).any():
        raise ValueError(f"{name} holds NaN at {tuple(int(i) for i in np.argwhere(np.isnan(x))[0])}")
    scaled = np.clip(x.astype(np.float64), -2.0, 2.0) * 128  # exact; adding 0.5 before floor would not be
    whole = np.floor(scaled)
    return np.clip(whole + (scaled - whole >= 0.5), -128, 127).astype(np.int8)

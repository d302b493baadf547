"""Convolutions on the products of kernels.py (docs/arithmetic.md, A11.3).

Images are (n, height, width, channels). Windows are unfolded a few images at a time, so that their operands stay near
the processor; everything else is one of the two products."""

import numpy as np

from sppim_core import _core, check, kernels
from sppim_core.errors import ShapeError

_CHUNK_BYTES = 1 << 19  # of unfolded operands


def _images(name: str, x) -> np.ndarray:
    x = check.array(name, x, np.int8, 4)
    if 0 in x.shape[1:]:
        raise ShapeError(f"{name} must have at least one row, column and channel, not shape {x.shape}")
    return x


def _window(size, stride: int, padding: int, x: np.ndarray) -> tuple[int, int, int, int]:
    """(rows, columns, stride, padding) that fit the images x."""
    if not isinstance(size, tuple) or len(size) != 2:
        raise TypeError(f"window must be a tuple (rows, columns), not {size!r}")
    rows, columns = (check.integer("window", n, 1, 65535) for n in size)
    stride = check.integer("stride", stride, 1, 65535)
    padding = check.integer("padding", padding, 0, min(rows, columns) - 1)
    if rows > x.shape[1] + 2 * padding or columns > x.shape[2] + 2 * padding:
        raise ShapeError(f"window {size} is larger than images of {x.shape[1:3]} with padding {padding}")
    return rows, columns, stride, padding


def _chunks(x: np.ndarray, window: tuple[int, int, int, int]):
    """(slice of the images, their unfolded operands), a few images at a time."""
    rows, columns, stride, padding = window
    positions = -(-x.shape[1] // stride) * -(-x.shape[2] // stride)
    step = max(1, _CHUNK_BYTES // (positions * rows * columns * x.shape[3]))
    for first in range(0, len(x), step):
        part = slice(first, min(first + step, len(x)))
        yield part, _core.unfold(x[part], *window)


def _outputs(x: np.ndarray, window: tuple[int, int, int, int]) -> tuple[int, int]:
    rows, columns, stride, padding = window
    return (x.shape[1] + 2 * padding - rows) // stride + 1, (x.shape[2] + 2 * padding - columns) // stride + 1


def forward(x: np.ndarray, weights: kernels.Weights, window: tuple[int, int], stride: int = 1, padding: int = 0, **how):
    """Images int8 (n, h, w, c) times weights (rows x columns x c, m): (n, down, across, m), int32 or int64 as in
    kernels.product(). how: path, isa, threads."""
    x = _images("x", x)
    shape = _window(window, stride, padding, x)
    if not isinstance(weights, kernels.Weights):
        raise TypeError(f"weights must be Weights, not {type(weights).__name__}")
    k, m = weights.shape
    if k != shape[0] * shape[1] * x.shape[3]:
        raise ShapeError(f"weights have {k} rows, a window {shape[0]} x {shape[1]} of {x.shape[3]} channels {window}")
    out = np.empty((len(x), *_outputs(x, shape), m), np.int64 if weights.dtype == np.int16 else np.int32)
    for part, operands in _chunks(x, shape):
        kernels.product(operands.reshape(-1, k), weights, out=out[part].reshape(-1, m), **how)
    return out


def gradient(x: np.ndarray, d: np.ndarray, window: tuple[int, int], stride: int = 1, padding: int = 0, **how):
    """Gradient of the weights: images int8 (n, h, w, c) and errors int8 (n, down, across, m) give int64
    (rows x columns x c, m). how: path, isa, threads."""
    x, d = _images("x", x), _images("d", d)
    shape = _window(window, stride, padding, x)
    if d.shape[:3] != (len(x), *_outputs(x, shape)):
        raise ShapeError(f"d must have shape {(len(x), *_outputs(x, shape))} and channels, not {d.shape}")
    k, m = shape[0] * shape[1] * x.shape[3], d.shape[3]
    total = np.zeros((k, m), np.int64)
    for part, operands in _chunks(x, shape):
        rows, errors = operands.reshape(-1, k), d[part].reshape(-1, m)
        for first in range(0, len(rows), 65535):
            total += kernels.gradient(rows[first : first + 65535], errors[first : first + 65535], **how)
    return total


def error(
    d: np.ndarray,
    w: np.ndarray,
    window: tuple[int, int],
    inputs: tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    **how,
):
    """Error of the inputs: errors int8 (n, down, across, m) back through weights int8 or int16 (rows x columns x c, m)
    to images of inputs = (h, w): (n, h, w, c), int32 or int64. how: path, isa, threads.

    A convolution of the errors, spread out by the stride, with the weights turned around."""
    d = _images("d", d)
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise TypeError(f"inputs must be a tuple (height, width), not {inputs!r}")
    height, width = (check.integer("inputs", n, 1, 65535) for n in inputs)
    n, m = len(d), d.shape[3]
    rows, columns, stride, padding = _window(window, stride, padding, np.empty((0, height, width, 1), np.int8))
    down, across = _outputs(np.empty((0, height, width, 1), np.int8), (rows, columns, stride, padding))
    w = check.plain_array("w", w)
    if d.shape[1:3] != (down, across) or w.ndim != 2 or w.shape[1] != m or w.shape[0] % (rows * columns):
        raise ShapeError(f"d {d.shape} and w {w.shape} do not fit a window {window} on images of {inputs}")
    spread = np.zeros((n, height + rows - 1, width + columns - 1, m), np.int8)  # full padding, positions of the stride
    top, left = rows - 1 - padding, columns - 1 - padding
    spread[:, top : top + down * stride : stride, left : left + across * stride : stride] = d
    turned = w.reshape(rows, columns, -1, m)[::-1, ::-1].transpose(0, 1, 3, 2).reshape(rows * columns * m, -1)
    return forward(spread, kernels.Weights(np.ascontiguousarray(turned)), (rows, columns), **how)

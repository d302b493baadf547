"""A11.3: convolutions against plain loops over the clause."""

import itertools

import numpy as np
import pytest

from sppim_core import _core, convolution, kernels
from sppim_core.errors import ShapeError

CASES = [  # images, window, stride, padding, outputs channels
    ((1, 1, 1, 1), (1, 1), 1, 0, 1),
    ((2, 5, 6, 3), (3, 3), 1, 1, 4),
    ((2, 7, 5, 2), (3, 2), 2, 1, 5),
    ((3, 8, 8, 4), (4, 4), 4, 0, 33),
    ((1, 6, 9, 1), (5, 3), 3, 2, 2),
    ((2, 32, 32, 16), (3, 3), 1, 1, 8),
]


def reference(x, w, d, window, stride, padding):
    """(forward, gradient, error) by the sums of A11.3."""
    (n, height, width, c), (rows, columns), m = x.shape, window, w.shape[1]
    down, across = (height + 2 * padding - rows) // stride + 1, (width + 2 * padding - columns) // stride + 1
    taps = w.reshape(rows, columns, c, m).astype(np.int64)
    y, g, e = np.zeros((n, down, across, m), np.int64), np.zeros_like(taps), np.zeros(x.shape, np.int64)
    for i, j, r, s in itertools.product(range(down), range(across), range(rows), range(columns)):
        h, v = i * stride - padding + r, j * stride - padding + s
        if 0 <= h < height and 0 <= v < width:
            pixels, errors = x[:, h, v].astype(np.int64), d[:, i, j].astype(np.int64)
            y[:, i, j] += pixels @ taps[r, s]
            g[r, s] += pixels.T @ errors
            e[:, h, v] += errors @ taps[r, s].T
    return y, g.reshape(-1, m), e


def random_case(shape, window, stride, padding, m, dtype):
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, shape).astype(np.int8)
    limits = np.iinfo(dtype)
    w = rng.integers(limits.min, limits.max + 1, (window[0] * window[1] * shape[3], m)).astype(dtype)
    outputs = [(size + 2 * padding - part) // stride + 1 for size, part in zip(shape[1:3], window)]
    d = rng.integers(-128, 128, (shape[0], *outputs, m)) * (rng.random((shape[0], *outputs, m)) < 0.3)
    return x, w, d.astype(np.int8)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("path", ["dense", "sparse"])
@pytest.mark.parametrize("shape, window, stride, padding, m", CASES)
def test_against_the_sums(shape, window, stride, padding, m, path, dtype):
    x, w, d = random_case(shape, window, stride, padding, m, dtype)
    y, g, e = reference(x, w, d, window, stride, padding)
    for isa in (_core.isa_names()[0], _core.isa_names()[-1]):
        how = dict(path=path, isa=isa, threads=2)
        got = convolution.forward(x, kernels.Weights(w), window, stride, padding, **how)
        assert np.array_equal(got, y) and got.dtype == (np.int64 if dtype == np.int16 else np.int32)
        assert np.array_equal(convolution.gradient(x, d, window, stride, padding, **how), g)
        assert np.array_equal(convolution.error(d, w, window, shape[1:3], stride, padding, **how), e)


def test_many_images_in_chunks():
    x, w, d = random_case((50, 32, 32, 8), (3, 3), 1, 1, 4, np.int8)
    y, g, _ = reference(x, w, d, (3, 3), 1, 1)
    assert np.array_equal(convolution.forward(x, kernels.Weights(w), (3, 3), padding=1), y)
    assert np.array_equal(convolution.gradient(x, d, (3, 3), padding=1), g)
    assert convolution.forward(x[:0], kernels.Weights(w), (3, 3), padding=1).shape == (0, 32, 32, 4)


X, W = np.ones((1, 4, 4, 2), np.int8), kernels.Weights(np.ones((18, 3), np.int8))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: convolution.forward(X[0], W, (3, 3)), ShapeError, "x must have 4 dimensions"),
        (lambda: convolution.forward(X, W, 3), TypeError, r"window must be a tuple \(rows, columns\), not 3"),
        (lambda: convolution.forward(X, W, (3, 3), 0), ValueError, "stride must be in 1..65535, not 0"),
        (lambda: convolution.forward(X, W, (3, 3), 1, 3), ValueError, "padding must be in 0..2, not 3"),
        (lambda: convolution.forward(X, W, (5, 3)), ShapeError, "is larger than images"),
        (lambda: convolution.forward(X, W, (2, 3)), ShapeError, "weights have 18 rows"),
        (lambda: convolution.forward(X.astype(np.int16), W, (3, 3)), TypeError, "x must hold int8, not int16"),
        (lambda: convolution.gradient(X, X, (3, 3)), ShapeError, "d must have shape"),
        (lambda: convolution.error(X, np.ones((18, 3), np.int8), (3, 3), (4, 4)), ShapeError, "do not fit a window"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()

"""A11: products on their own against NumPy's exact integers and the slow model, on every level, path, thread count."""

import itertools
import os
import pickle
import signal
import threading

import numpy as np
import pytest
import slow

from sppim_core import Accumulator, _core, kernels
from sppim_core.errors import IsaError, ShapeError

SHAPES = [(1, 1, 1), (1, 5, 3), (2, 64, 33), (13, 70, 31), (65, 460, 65), (3, 1000, 130), (64, 32, 257)]
X_TYPES, W_TYPES = ("uint8", "int8", "int16"), ("int8", "int16", "pot")
LEVELS = _core.isa_names()


def values(rng, shape, dtype, zeros=0.0, extreme=False):
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, shape)
    if extreme:
        x = np.where(rng.random(shape) < 0.5, limits.min, limits.max)
    return (x * (rng.random(shape) >= zeros)).astype(dtype)


def weights(rng, shape, kind, extreme=False):
    """(Weights, their values)."""
    if kind != "pot":
        w = values(rng, shape, kind, extreme=extreme)
        return kernels.Weights(w), w.astype(np.int64)
    codes = rng.integers(0, 16, shape).astype(np.uint8)
    plain = [[slow.pot_mac(0, 1, int(code)) for code in row] for row in codes]
    return kernels.Weights.from_codes(codes), np.array(plain)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("x_type, w_type", list(itertools.product(X_TYPES, W_TYPES)))
def test_product(x_type, w_type, isa):
    rng = np.random.default_rng(3)
    for (m, k, n), zeros, extreme in itertools.product(SHAPES, (0.0, 0.7), (False, True)):
        packed, w = weights(rng, (k, n), w_type, extreme)
        x = values(rng, (m, k), x_type, zeros, extreme)
        expected = x.astype(np.int64) @ w
        for path, threads in [("dense", 1), ("sparse", 2), ("auto", 1)]:
            got = kernels.product(x, packed, path=path, isa=isa, threads=threads)
            assert got.dtype == (np.int64 if "int16" in (x_type, w_type) else np.int32)
            assert np.array_equal(got, expected), (m, k, n, path)


@pytest.mark.parametrize("x_type, largest", [("uint8", 127), ("int16", 32639), ("int16", 2047), ("int16", 127)])
def test_narrower_values_take_other_planes(x_type, largest):
    rng = np.random.default_rng(4)
    x = (
        rng.integers(0 if x_type == "uint8" else -largest, largest + 1, (20, 700)) * (rng.random((20, 700)) < 0.4)
    ).astype(x_type)
    for w_type, path in itertools.product(W_TYPES, ("dense", "sparse")):
        packed, w = weights(rng, (700, 40), w_type)
        assert np.array_equal(kernels.product(x, packed, path=path), x.astype(np.int64) @ w)


def test_exact_at_the_largest_sums():
    """More terms than 32 bits hold for words, and the largest sum of bytes."""
    k = 65535
    for x_type, w_type in itertools.product(X_TYPES, ("int8", "int16")):
        x = np.full((2, k), np.iinfo(x_type).max, x_type)
        x[1] = np.iinfo(x_type).min
        w = np.full((k, 3), np.iinfo(w_type).min, w_type)
        got = kernels.product(x, kernels.Weights(w))
        assert got[0, 0] == int(x[0, 0]) * int(w[0, 0]) * k and got[1, 2] == int(x[1, 0]) * int(w[0, 0]) * k


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("bits, overflow", list(itertools.product((8, 13, 16, 20, 24, 31, 32), ("saturate", "wrap"))))
def test_finite_accumulators(bits, overflow, isa):
    rng = np.random.default_rng(bits)
    for x_type, w_type, (m, k, n) in itertools.product(X_TYPES, W_TYPES, [(2, 9, 5), (3, 40, 34)]):
        packed, w = weights(rng, (k, n), w_type)
        x = values(rng, (m, k), x_type, 0.2)
        got, changed = kernels.product(x, packed, accumulator=Accumulator(bits, overflow), isa=isa, threads=2)
        expected, count = np.zeros((m, n), int), 0
        for r, c in itertools.product(range(m), range(n)):
            acc = 0
            for i in range(k):
                acc, moved = slow.fit(acc + int(x[r, i]) * int(w[i, c]), bits, overflow)
                count += bool(moved)
            expected[r, c] = acc
        assert np.array_equal(got, expected) and changed == count
        assert got.dtype == (np.int64 if "int16" in (x_type, w_type) else np.int32)


def test_order_of_a_finite_accumulator():
    """The worked bits of A11.1."""
    w, narrow = kernels.Weights(np.ones((3, 1), np.int8)), Accumulator(8, "saturate")
    for x, result in [((100, 100, -1), 126), ((-1, 100, 100), 127)]:
        assert kernels.product(np.array([x], np.int8), w, accumulator=narrow)[0] == result


@pytest.mark.parametrize("isa", LEVELS)
def test_gradient(isa):
    rng = np.random.default_rng(5)
    for (b, k, n), zeros in itertools.product(
        [(0, 3, 2), (1, 1, 1), (5, 70, 33), (64, 130, 300), (300, 65, 64)], (0.0, 0.8)
    ):
        x, d = values(rng, (b, k), "int8", zeros), values(rng, (b, n), "int8")
        d[rng.random(b) < zeros] = 0
        expected = x.astype(np.int64).T @ d
        for path, threads in [("dense", 2), ("sparse", 1), ("auto", 1)]:
            assert np.array_equal(kernels.gradient(x, d, path=path, isa=isa, threads=threads), expected)


def test_out_and_repeat():
    rng = np.random.default_rng(6)
    x, w = values(rng, (4, 8), "int8"), values(rng, (8, 40), "int8")
    out = np.empty((4, 40), np.int32)
    assert kernels.product(x, kernels.Weights(w), out=out, repeat=3) is out
    assert np.array_equal(out, x.astype(int) @ w)
    assert kernels.product(x[:0], kernels.Weights(w)).shape == (0, 40)
    d, g = values(rng, (4, 40), "int8"), np.empty((8, 40), np.int32)
    assert kernels.gradient(x, d, out=g, repeat=3) is g
    assert np.array_equal(g, x.astype(int).T @ d)


def test_other_layouts_of_the_same_values(tmp_path):
    """Subclasses, other memory layouts and an `out` beside the input take the longer way to the same result."""
    rng = np.random.default_rng(8)
    x, w, d = values(rng, (6, 20), "int16"), values(rng, (20, 7), "int8"), values(rng, (6, 7), "int8")
    packed, product = kernels.Weights(w), x.astype(np.int64) @ w
    raw = np.empty(x.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(np.int16).reshape(x.shape)
    mapped = np.memmap(tmp_path / "x", np.int16, "w+", shape=x.shape)
    misaligned[:] = mapped[:] = x
    for same in (np.asfortranarray(x), x[::-1].copy()[::-1], misaligned, mapped):
        out = np.empty((6, 7), np.longlong)
        assert kernels.product(same, packed, out=out) is out and np.array_equal(out, product)
    out = np.memmap(tmp_path / "out", np.int64, "w+", shape=(6, 7))
    assert kernels.product(x, packed, out=out) is out and np.array_equal(out, product)

    x = x.astype(np.int8)
    g = np.memmap(tmp_path / "g", np.int32, "w+", shape=(20, 7))
    assert kernels.gradient(np.asfortranarray(x), d[:, ::-1].copy()[:, ::-1], out=g) is g
    assert np.array_equal(g, x.astype(int).T @ d)

    memory = np.zeros(1000, np.int8)
    x, out = memory[:20].reshape(1, 20), memory[20:48].view(np.int32).reshape(1, 7)
    x[:] = 1
    assert np.array_equal(kernels.product(x, packed, out=out)[0], w.sum(0))


def test_the_default_level_is_that_of_the_environment_now(monkeypatch):
    kernels.product(X, W)
    monkeypatch.setenv("SPPIM_ISA", "pdp11")
    with pytest.raises(IsaError, match="SPPIM_ISA='pdp11' is not one of ref"):
        kernels.product(X, W)
    monkeypatch.setenv("SPPIM_ISA", "ref")
    assert kernels.product(X, W).tolist() == [[3] * 4] * 2
    assert kernels.product(X, W, threads=np.int64(1), isa=np.str_("ref")).tolist() == [[3] * 4] * 2


@pytest.mark.parametrize("what", ["product", "gradient"])
def test_signals_come_in(what):
    """A thread sends one, so the call has let other threads run; the engine can be used afterwards."""
    x, w = np.ones((64, 300), np.int8), np.ones((300, 64), np.int8)
    call, other = (kernels.product, kernels.Weights(w)) if what == "product" else (kernels.gradient, x)

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGALRM))
    timer.start()
    with pytest.raises(TimeoutError):
        call(x, other, repeat=2**31)  # hours
    timer.join()
    signal.signal(signal.SIGALRM, before)
    assert (call(x, other) == (300 if what == "product" else 64)).all()


def test_weights_are_a_copy_and_pickle():
    w = np.ones((4, 3), np.int8)
    packed = kernels.Weights(w)
    w[:] = 5
    x = np.ones((1, 4), np.int8)
    again = pickle.loads(pickle.dumps(packed))
    assert kernels.product(x, packed).tolist() == kernels.product(x, again).tolist() == [[4, 4, 4]]
    assert again.shape == (4, 3) and again.dtype == np.int8 and repr(again) == "<Weights 4 x 3, int8>"


def test_strided_inputs():
    rng = np.random.default_rng(7)
    x, w = values(rng, (6, 20), "int16"), values(rng, (20, 7), "int16")
    got = kernels.product(x[::2, ::-1], kernels.Weights(np.asfortranarray(w)))
    assert np.array_equal(got, x[::2, ::-1].astype(np.int64) @ w)


def test_threads_have_engines_of_their_own():
    x, packed = np.ones((64, 300), np.int8), kernels.Weights(np.ones((300, 64), np.int8))
    results = []

    def work():
        for _ in range(50):
            results.append(int(kernels.product(x, packed, threads=2).sum()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [300 * 64 * 64] * 200


X, W = np.ones((2, 3), np.int8), kernels.Weights(np.ones((3, 4), np.int8))
READ_ONLY = np.ones((2, 4), np.int32)
READ_ONLY.flags.writeable = False
LONG = np.lib.stride_tricks.as_strided(X, (2, 65536), (0, 0))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: kernels.Weights(np.ones((3, 4))), TypeError, "w must hold int8 or int16, not float64"),
        (lambda: kernels.Weights(np.ones((3, 4), bool)), TypeError, "w must hold int8 or int16, not bool"),
        (lambda: kernels.Weights(np.ones((3, 4), ">i2")), TypeError, "w must hold int8 or int16, not >i2"),
        (lambda: kernels.Weights(np.ones(3, np.int8)), ShapeError, r"w must have 2 dimensions, not shape \(3,\)"),
        (
            lambda: kernels.Weights(np.ones((0, 4), np.int8)),
            ShapeError,
            r"w must have 1..65535 rows, not shape \(0, 4\)",
        ),
        (lambda: kernels.Weights([[1]]), TypeError, "w must be a NumPy array, not list"),
        (
            lambda: kernels.Weights.from_codes(np.full((1, 1), 16, np.uint8)),
            ValueError,
            "codes must hold values in 0..15",
        ),
        (lambda: kernels.product(X, np.ones((3, 4))), TypeError, "weights must be Weights, not ndarray"),
        (lambda: kernels.product(X.astype(float), W), TypeError, "x must hold uint8, int8 or int16, not float64"),
        (lambda: kernels.product(X[:, :2], W), ShapeError, "x has 2 columns, weights 3 rows"),
        (lambda: kernels.product(X, W, path="fast"), ValueError, "path must be one of auto, dense, sparse, not 'fast'"),
        (lambda: kernels.product(X, W, accumulator=8), TypeError, "accumulator must be an Accumulator, not 8"),
        (lambda: kernels.product(X, W, threads=0), ValueError, "threads must be in 1..256, not 0"),
        (lambda: kernels.product(X, W, isa="sse"), IsaError, "isa must be one of"),
        (lambda: kernels.product(X, W, repeat=0), ValueError, "repeat must be in"),
        (lambda: kernels.product(X, W, out=np.ones((2, 3), np.int32)), ShapeError, "out must have shape"),
        (lambda: kernels.product(X, W, out=np.ones((2, 4))), TypeError, "out must hold int32, not float64"),
        (lambda: kernels.product(X, W, out=np.ones((4, 2), np.int32).T), ValueError, "out must be C-contiguous"),
        (lambda: kernels.product(X, W, out=READ_ONLY), ValueError, "out must be C-contiguous, aligned and writable"),
        (lambda: kernels.product(X, W, out=[[1]]), TypeError, "out must be a NumPy array, not list"),
        (lambda: kernels.product(X, W, out=np.ones((2, 4), "u4")), TypeError, "out must hold int32, not uint32"),
        (lambda: kernels.product(X, W, out=np.ma.ones((2, 4), "i4")), TypeError, "out is a masked array"),
        (lambda: kernels.product(X, W, threads=True), TypeError, "threads must be an integer, not True"),
        (lambda: kernels.product(X, W, threads=1.0), TypeError, "threads must be an integer, not 1.0"),
        (lambda: kernels.product(X, W, isa=["ref"]), TypeError, "isa must be a string"),
        (lambda: kernels.product(X, W, path=0), TypeError, "path must be a string, one of auto, dense, sparse, not 0"),
        (lambda: kernels.product(X, W, repeat=True), TypeError, "repeat must be an integer, not True"),
        (lambda: kernels.product(X[0], W), ShapeError, r"x must have 2 dimensions, not shape \(3,\)"),
        (lambda: kernels.product(X.astype(bool), W), TypeError, "x must hold uint8, int8 or int16, not bool"),
        (lambda: kernels.product(X.astype("u2"), W), TypeError, "x must hold uint8, int8 or int16, not uint16"),
        (lambda: kernels.product(X.astype(">i2"), W), TypeError, "x must hold uint8, int8 or int16, not >i2"),
        (lambda: kernels.product([[1]], W), TypeError, "x must be a NumPy array, not list"),
        (lambda: kernels.product(np.matrix(X), W), TypeError, "x is a numpy.matrix"),
        (lambda: kernels.product(np.ma.array(X), W), TypeError, "x is a masked array"),
        (lambda: kernels.gradient(X, X[:1]), ShapeError, "x and d must have equal lengths, not 2 and 1"),
        (lambda: kernels.gradient(X, X.astype(np.int16)), TypeError, "d must hold int8, not int16"),
        (lambda: kernels.gradient(X.astype(np.uint8), X), TypeError, "x must hold int8, not uint8"),
        (lambda: kernels.gradient(X, X[0]), ShapeError, r"d must have 2 dimensions, not shape \(3,\)"),
        (lambda: kernels.gradient(LONG.copy(), X), ShapeError, "x and d must have at most 65535 rows and columns"),
        (lambda: kernels.gradient(LONG.T.copy(), LONG.T), ShapeError, "x and d must have at most 65535 rows"),
        (lambda: kernels.gradient(X, X, path="fast"), ValueError, "path must be one of auto, dense, sparse"),
        (lambda: kernels.gradient(X, X, repeat=0), ValueError, "repeat must be in"),
        (lambda: kernels.gradient(X, X, out=np.ones((3, 2), "i4")), ShapeError, r"out must have shape \(3, 3\)"),
        (lambda: kernels.gradient(X, X, out=np.ones((3, 3), "i8")), TypeError, "out must hold int32, not int64"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_output_over_an_input():
    x = np.ones((8, 8), np.int8)
    over = x.reshape(-1)[:32].view(np.int32).reshape(8, 1)
    with pytest.raises(ValueError, match="out overlaps an input"):
        kernels.product(x, kernels.Weights(np.ones((8, 1), np.int8)), out=over)
    for operands in [(x, x[:, :1].copy()), (np.ones((8, 8), np.int8), x.reshape(64, 1)[:8])]:
        with pytest.raises(ValueError, match="out overlaps an input"):
            kernels.gradient(*operands, out=over)

"""The products of the core on their own (docs/arithmetic.md, A11).

Exact integer matrix products on packed weights, with sparse operands, power-of-two weights and accumulators of any
width."""

import threading

import numpy as np

from sppim_core import _core, check
from sppim_core.errors import ShapeError
from sppim_core.formats import PATHS, Accumulator


class _Engines(threading.local):
    """The engines of a thread, by threads and level, with their threads and memory: each serves one call at a time."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, str], _core.Engine] = {}


_engines = _Engines()


class Weights:
    """A weight matrix (k, n) of int8 or int16, 1..65535 rows and columns, packed once into the layout of the kernels.

    It keeps no link to the array. `shape` and `dtype` are those of the values."""

    def __init__(self, w: np.ndarray):
        w = check.plain_array("w", w)
        if w.dtype not in (np.int8, np.int16):
            raise TypeError(f"w must hold int8 or int16, not {w.dtype}")
        self._pack(w, w.dtype.name)

    @classmethod
    def from_codes(cls, codes: np.ndarray) -> "Weights":
        """Power-of-two weights from codes (A4.1), uint8 (k, n): bit 3 the sign, bits 2..0 the exponent, 7 for zero."""
        codes = check.array("codes", codes, np.uint8, 2, 0, 15)
        weights = cls.__new__(cls)
        weights._pack(codes, "pot")
        return weights

    def _pack(self, w: np.ndarray, kind: str) -> None:
        w = check.array("w", w, w.dtype, 2)
        for name, size in zip(("rows", "columns"), w.shape):
            if not 1 <= size <= 65535:
                raise ShapeError(f"w must have 1..65535 {name}, not shape {w.shape}")
        self._source = (w.copy(), kind)
        self._core = _core.WeightsCore(self._source[0].reshape(-1).view(np.uint8), _core.TYPES[kind], *w.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self._source[0].shape

    @property
    def dtype(self) -> np.dtype:
        """int8 (also of power-of-two weights) or int16."""
        return np.dtype(np.int16 if self._source[1] == "int16" else np.int8)

    def __repr__(self) -> str:
        return f"<Weights {self.shape[0]} x {self.shape[1]}, {self._source[1]}>"

    def __reduce__(self):
        w, kind = self._source
        return (Weights.from_codes if kind == "pot" else Weights), (w,)


def product(
    x: np.ndarray,
    weights: Weights,
    *,
    path: str = "auto",
    accumulator: Accumulator | None = None,
    isa: str | None = None,
    threads: int = 1,
    out: np.ndarray | None = None,
    repeat: int = 1,
):
    """A11.1: x times weights, exact. x: uint8, int8 or int16 (m, k). Returns (m, n), int32 for bytes times bytes, else
    int64.

    accumulator: an Accumulator of 8..32 bits is applied after every addition, k ascending; then the pair (result, how
    often it changed a sum) is returned. path (auto, dense, sparse), isa and threads choose how, never what. out: an
    array for the result. repeat: do it so many times in one call, for benchmarks."""
    if not isinstance(weights, Weights):
        raise TypeError(f"weights must be Weights, not {type(weights).__name__}")
    if accumulator is not None and not isinstance(accumulator, Accumulator):
        raise TypeError(f"accumulator must be an Accumulator, not {accumulator!r}")
    bits, overflow = (accumulator.bits, _core.OVERFLOWS.index(accumulator.overflow)) if accumulator else (0, 0)
    way = PATHS.index(check.choice("path", path, PATHS))
    repeat = check.integer("repeat", repeat, 1, 2**31)
    engine, core = _engine(threads, isa), weights._core
    try:
        y, changed = engine.product(core, x, out, bits, overflow, way, repeat)
    except _core.Unfit:
        y = None
    if y is None:  # outside of the except clause, so that an error here is not shown as one during another
        x, y = _product_arrays(x, weights, out)
        y, changed = engine.product(core, x, y, bits, overflow, way, repeat)
    y = y if out is None else out
    return y if accumulator is None else (y, changed)


def _product_arrays(x, weights: Weights, out) -> tuple[np.ndarray, np.ndarray | None]:
    """x and out checked, as plain arrays; no out stays None."""
    x = check.plain_array("x", x)
    if x.dtype not in (np.uint8, np.int8, np.int16):
        raise TypeError(f"x must hold uint8, int8 or int16, not {x.dtype}")
    x = check.array("x", x, x.dtype, 2)
    if x.shape[1] != weights.shape[0]:
        raise ShapeError(f"x has {x.shape[1]} columns, weights {weights.shape[0]} rows")
    wide = x.dtype == np.int16 or weights.dtype == np.int16
    return x, _output(out, (len(x), weights.shape[1]), np.int64 if wide else np.int32, x)


def gradient(
    x: np.ndarray,
    d: np.ndarray,
    *,
    path: str = "auto",
    isa: str | None = None,
    threads: int = 1,
    out: np.ndarray | None = None,
    repeat: int = 1,
) -> np.ndarray:
    """A11.2: the transpose of x (b, k) times d (b, n), both int8; int32 (k, n).

    Rows of d that are zero cost nothing; on the sparse path neither do zeros of x. repeat: do it so many times in one
    call, for benchmarks. Other arguments as in product()."""
    way = PATHS.index(check.choice("path", path, PATHS))
    repeat = check.integer("repeat", repeat, 1, 2**31)
    engine = _engine(threads, isa)
    try:
        g = engine.gradient(x, d, out, way, repeat)
    except _core.Unfit:
        g = None
    if g is None:  # as in product()
        x, d, g = _gradient_arrays(x, d, out)
        g = engine.gradient(x, d, g, way, repeat)
    return g if out is None else out


def _gradient_arrays(x, d, out) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x, d and out checked, as plain arrays; no out stays None."""
    x, d = check.array("x", x, np.int8, 2), check.array("d", d, np.int8, 2)
    if len(x) != len(d):
        raise ShapeError(f"x and d must have equal lengths, not {len(x)} and {len(d)}")
    if max(*x.shape, d.shape[1]) > 65535:
        raise ShapeError(f"x and d must have at most 65535 rows and columns, not {x.shape} and {d.shape}")
    return x, d, _output(out, (x.shape[1], d.shape[1]), np.int32, x, d)


def _output(out, shape: tuple[int, int], dtype, *inputs: np.ndarray) -> np.ndarray | None:
    """out as a plain array, if it can take the result."""
    if out is None:
        return None
    out = check.plain_array("out", out)
    if out.shape != shape:
        raise ShapeError(f"out must have shape {shape}, not {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out must hold {np.dtype(dtype).name}, not {out.dtype}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out must be C-contiguous, aligned and writable")
    if any(np.may_share_memory(out, x) for x in inputs if x.size):
        raise ValueError("out overlaps an input")
    return np.asarray(out)


def _engine(threads: int, isa: str | None) -> _core.Engine:
    """This thread's engine with so many threads at this level."""
    kept, level = _engines.kept, _core.isa_default() if isa is None else isa
    engine = kept.get((threads, level)) if type(threads) is int and type(level) is str else None
    if engine is None:
        check.isa(isa)
        key = check.integer("threads", threads, 1, 256), str(level)
        engine = kept[key] = kept.get(key) or _core.Engine(*key)
    return engine

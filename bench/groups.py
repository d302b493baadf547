"""What compare.py measures: groups of cases, ours and their peers, each with the ratios that are formed of them.

README.md says row by row what is measured. The time of a case is that of one unit of work of its group (one
product, one step); `work` says how many units a call does, so that peaks and smaller peers can stand beside it.

A peak is a loop in C, a peer is called from Python once a product. So our dense products are two cases: `ours`, called
once a product, for ratios to peers; `ours, in C`, many products in one call, for the peak and the rate."""

import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator

import native
import numpy as np
import scipy.sparse
import timing

from sppim_core import Accumulator, Network, kernels
from sppim_core.errors import IsaError

MNIST_DENSITY = 0.19
DENSE_SHAPES = [(64, 256, 784), (128, 1024, 1024), (1024, 128, 1152), (784, 256, 64)]
SHAPE = DENSE_SHAPES[0]
RATE_SHIFT = 6
IN_C_MACS = 20 * 64 * 256 * 784  # of a call of a case in C: 20 products of SHAPE, some 1 ms


@dataclasses.dataclass
class Case:
    call: Callable
    work: float = 1.0


@dataclasses.dataclass
class Ratio:
    """Time of the fastest of the peers over the time of ours. `peer` names it in the table and in FLOORS."""

    what: str
    ours: str
    peers: tuple[str, ...]
    peer: str


@dataclasses.dataclass
class Group:
    row: int
    shape: tuple[int, ...]
    macs: int = 0
    peak: str = ""  # the case that is the upper bound
    load: int = 0  # other processes that are kept busy meanwhile
    cases: dict[str, Case] = dataclasses.field(default_factory=dict)
    ratios: list[Ratio] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, make: Callable[..., Callable | Case], *operands, **how) -> None:
        """Adds the case that make(*operands, **how) returns, or notes why it is not to be had here."""
        try:
            made = make(*operands, **how)
        except (ImportError, IsaError, native.Unavailable) as error:
            self.missing[name] = str(error)
        else:
            self.cases[name] = made if isinstance(made, Case) else Case(made)

    def add_product(self, name: str, *operands, repeat: int = 0, **how) -> None:
        """Adds our product twice: as `name` and as `name, in C`, `repeat` products in a call."""
        repeat = repeat or max(2, IN_C_MACS // self.macs)
        self.add(name, product, *operands, **how)
        self.add(in_c(name), lambda: Case(product(*operands, repeat=repeat, **how), repeat))

    def against(self, what: str, ours: str, *peers: str, label: str = "") -> None:
        """Wants a ratio of one case to the fastest of others; to the peak, that of the case in C."""
        ours = in_c(ours) if peers == (self.peak,) else ours
        self.ratios.append(Ratio(what, ours, peers, label or peers[0]))

    def add_peak(self, instruction: str) -> None:
        """The peak of an instruction as a case: the time in which it does the MACs of this group."""

        def make() -> Case:
            call, macs = native.peak(instruction)
            return Case(call, macs / self.macs)

        self.add(instruction, make)
        self.peak = instruction


def in_c(name: str) -> str:
    """The case that does the work of another many times in one call."""
    return f"{name}, in C"


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def integers(dtype: str, shape, *, bits: int | None = None, density: float = 1.0) -> np.ndarray:
    """Uniform non-zero values over the type's range or `bits` bits, then zeros outside of the density."""
    rng, info = generator(*shape), np.iinfo(dtype)
    low, high = (info.min, info.max) if bits is None else (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    values = rng.integers(low, high, shape, dtype=np.int64, endpoint=True)
    values[values == 0] = 1
    return (values * (rng.random(shape) < density)).astype(dtype)


def product(x: np.ndarray, w: np.ndarray | kernels.Weights, **how) -> Callable:
    """Our product as a callable, weights packed and output allocated beforehand."""
    weights = w if isinstance(w, kernels.Weights) else kernels.Weights(w)
    out = kernels.product(x, weights, **(how | {"accumulator": None}))
    return functools.partial(kernels.product, x, weights, out=out, **how)


def numpy_matmul(x: np.ndarray, w: np.ndarray, dtype) -> Callable:
    """numpy's product in a type of its own, on one thread or not at all; the conversion is not counted."""
    timing.pin_blas()
    x, w = x.astype(dtype), w.astype(dtype)
    return functools.partial(np.matmul, x, w, out=np.empty((len(x), w.shape[1]), dtype))


def torch_float32(x: np.ndarray, w: np.ndarray) -> Callable:
    """torch.mm; the conversion is not counted."""
    import torch

    x, w = torch.tensor(x, dtype=torch.float32), torch.tensor(w, dtype=torch.float32)
    return functools.partial(torch.mm, x, w, out=torch.empty(len(x), w.shape[1]))


def torch_int_mm(x: np.ndarray, w: np.ndarray) -> Callable:
    """torch's own product of bytes (oneDNN); it packs the weights at each call."""
    import torch

    x, w = torch.from_numpy(x), torch.from_numpy(w)
    return functools.partial(torch._int_mm, x, w, out=torch.empty(len(x), w.shape[1], dtype=torch.int32))


def numkong_dots(x: np.ndarray, w: np.ndarray) -> Callable:
    """numkong takes both operands in one type: unsigned images meet unsigned weights. Packing is not counted."""
    import numkong

    packed = numkong.dots_pack(np.ascontiguousarray(w.T.astype(x.dtype)))
    out = numkong.zeros((len(x), w.shape[1]), dtype="int32" if x.dtype == np.int8 else "uint32")
    return functools.partial(numkong.dots_packed, x, packed, out=out)


def products(row: int, shape: tuple[int, int, int]) -> Group:
    """An empty group for a product (m, n, k)."""
    return Group(row, shape, macs=int(np.prod(shape)))


def dense_bytes(dtype: str, shape: tuple[int, int, int]) -> Group:
    """Row 1."""
    group, (m, n, k) = products(1, shape), shape
    x, w = integers(dtype, (m, k)), integers("int8", (k, n))
    group.add_peak("vpdpbusd")
    group.add_product("ours", x, w, path="dense")
    group.add("torch float32", torch_float32, x, w)
    group.add("torch _int_mm", torch_int_mm, x, w)
    group.add("numkong i8", numkong_dots, x, w)
    group.add("numpy float32", numpy_matmul, x, w, np.float32)
    for peer in ("vpdpbusd", "torch float32", "torch _int_mm", "numkong i8", "numpy float32"):
        group.against(f"{dtype} x int8", "ours", peer)
    return group


def dense_int16(shape: tuple[int, int, int]) -> Group:
    """Row 2."""
    group, (m, n, k) = products(2, shape), shape
    assert k * 1023**2 < 2**31 <= k * 2047**2  # sums of 11 bits fit 32 bits, those of 12 bits need not
    x, w = integers("int16", (m, k), bits=11), integers("int16", (k, n), bits=11)
    group.add_peak("vpdpwssd")
    group.add_product("11 bits", x, w, path="dense")
    for name, bits in (("12 bits", 12), ("any value", None)):
        wider = integers("int16", (m, k), bits=bits), integers("int16", (k, n), bits=bits)
        group.add_product(name, *wider, path="dense")
    group.add("torch float32", torch_float32, x, w)
    group.add("numpy float64", numpy_matmul, x, w, np.float64)
    group.add("numpy int16", numpy_matmul, x, w, np.int16)
    for peer in ("vpdpwssd", "torch float32", "numpy float64", "numpy int16"):
        group.against("int16 x int16, 11 bits, sums fit 32 bits", "11 bits", peer)
    group.against("int16 x int16, 12 bits, exact at any K", "12 bits", "11 bits")
    group.against("int16 x int16, any value", "any value", "11 bits")
    return group


def batch_one() -> Group:
    """Row 3."""
    n, k = 256, 784
    x, w = integers("int8", (1, k)), integers("int8", (k, n))
    group = products(3, (1, n, k))
    group.add("L2 bandwidth", l2_bandwidth, w.nbytes)
    group.add_product("ours", x, w, repeat=200)
    group.add("numpy float32", numpy_matmul, x, w, np.float32)
    for peer in ("L2 bandwidth", "numpy float32"):
        group.against("batch 1, int8 x int8", in_c("ours"), peer)
    group.against("batch 1, int8 x int8, one call", "ours", "numpy float32")
    return group


def l2_bandwidth(size: int) -> Case:
    """Reading `size` bytes at the bandwidth of the second-level cache."""
    call, read = native.l2_read()
    return Case(call, read / size)


def power_of_two(dtype: str, peak: str) -> Group:
    """Row 4."""
    group, (m, n, k) = products(4, SHAPE), SHAPE
    x, codes = integers(dtype, (m, k)), generator(k, n).integers(0, 16, (k, n)).astype(np.uint8)
    group.add_peak(peak)
    group.add_product("ours", x, kernels.Weights.from_codes(codes), path="dense")
    group.add("shift-add", native.shift_add, x, codes)
    group.against(f"{dtype} x PoT", "ours", "shift-add")
    return group


def zero_skipping(left: str, right: str, bits: int | None, zeros: float) -> Group:
    """Row 5."""
    group, (m, n, k) = products(5, SHAPE), SHAPE
    x, w = integers(left, (m, k), bits=bits, density=1 - zeros), integers(right, (k, n), bits=bits)
    sparse = scipy.sparse.csr_matrix(x.astype(np.int32))
    group.add("ours", product, x, w, path="sparse")
    group.add("ours, dense", product, x, w, path="dense")
    group.cases["scipy CSR int32"] = Case(functools.partial(sparse.__matmul__, w.astype(np.int32)))
    for peer in ("scipy CSR int32", "ours, dense"):
        group.against(f"{left} x {right}, {zeros:.0%} zeros", "ours", peer)
    return group


def automatic_path(density: float) -> Group:
    """Row 6."""
    group, (m, n, k) = products(6, SHAPE), SHAPE
    x, w = integers("uint8", (m, k), density=density), integers("int8", (k, n))
    for path in ("auto", "dense", "sparse"):
        group.add(path, product, x, w, path=path)
    group.against(f"uint8 x int8, auto, {density:.0%} non-zero", "auto", "dense", "sparse", label="dense or sparse")
    return group


def gradient(x: np.ndarray, d: np.ndarray, path: str) -> Callable:
    """Our gradient as a callable, output allocated beforehand."""
    return functools.partial(kernels.gradient, x, d, path=path, out=kernels.gradient(x, d))


def filling(shape: tuple[int, int]) -> Callable:
    """Writing a result of int32 without computing it."""
    return functools.partial(np.empty(shape, np.int32).fill, 1)


def gradients(zeros: float, zero_rows: float) -> Group:
    """Row 7."""
    b, k, n = 64, 784, 256
    group = Group(7, (b, k, n), macs=b * k * n)
    x, d = integers("int8", (b, k), density=1 - zeros), integers("int8", (b, n))
    d[generator(b).permutation(b) < round(zero_rows * b)] = 0
    group.add("ours", gradient, x, d, "auto")
    group.add("dense path", gradient, x, d, "dense")
    group.add("filling the result", filling, (k, n))
    group.add("dense operands", gradient, integers("int8", (b, k)), integers("int8", (b, n)), "dense")
    what = f"gradient, {zeros:.0%} zeros in x" + f", {zero_rows:.0%} zero rows in d" * (zero_rows > 0)
    for peer in ("dense operands", "dense path", "filling the result"):
        group.against(what, "ours", peer)
    return group


def training_batches(inputs: int, classes: int, batch: int, density: float):
    """Random images and labels. Few images, so that they stay in the cache; 37 sets of labels, so that they cannot be
    learned by heart."""
    rng = generator(inputs, batch)
    images = [
        (rng.integers(1, 128, (batch, inputs)) * (rng.random((batch, inputs)) < density)).astype(np.int8)
        for _ in range(max(8, 64 // batch))
    ]
    return [(x, rng.integers(0, classes, batch).astype(np.int32)) for _ in range(37) for x in images]


def in_turn(step: Callable[[int], object], count: int) -> Callable:
    """step(i) as a callable without arguments that goes through the batches round robin."""
    numbers = itertools.cycle(range(count))
    return lambda: step(next(numbers))


def our_step(sizes, batches, **options) -> Callable:
    """Network.tick(), at a small rate: the network, and with it the zeros that it skips, stays as it is at the start of
    a training, however many steps are timed. The work of a step does not depend on the rate."""
    network = Network(sizes, batch=len(batches[0][0]), **options)
    return in_turn(lambda i: network.tick(*batches[i], rate_shift=RATE_SHIFT), len(batches))


def torch_step(name: str, sizes, batches) -> Callable:
    """A training step of peers.py."""
    import peers

    return in_turn(getattr(peers, name)(sizes, batches), len(batches))


def training(row: int, sizes: list[int], batch: int) -> Group:
    """An empty group for training steps; its MACs are those of FP and GC, zeros included."""
    return Group(row, (batch, *sizes), macs=2 * batch * sum(a * b for a, b in zip(sizes, sizes[1:])))


def training_steps(batch: int, name: str, density: float) -> Group:
    """Row 8."""
    sizes, widths = [784, 256, 256, 10], (16, 8)
    steps = {"torch autograd": "autograd", "torch by hand": "Backpropagation", "torch LEP": "LocalErrorPrediction"}
    group, batches = training(8, sizes, batch), training_batches(sizes[0], sizes[-1], batch, density)
    for bits in widths:
        group.add(f"ours, {bits} bits", our_step, sizes, batches, product_bits=bits)
    for peer, function in steps.items():
        group.add(peer, torch_step, function, sizes, batches)
    for bits, peer in itertools.product(widths, steps):
        group.against(f"step, batch {batch}, {bits} bits, {name}", f"ours, {bits} bits", peer)
    return group


def apytypes_steps(x: np.ndarray, w: np.ndarray, overflow: str) -> Callable:
    """APyTypes with an accumulator of 20 bits: one step a k, for all sums at once. (Its own matrix product handles the
    overflow of products, not of sums, in version 0.5.1.)"""
    os.environ["APYTYPES_THREAD_COUNT"] = "1"  # read when it is imported
    import apytypes

    fixed = functools.partial(apytypes.APyFixedArray.from_array, frac_bits=0)
    mode = {"saturate": apytypes.OverflowMode.SAT, "wrap": apytypes.OverflowMode.WRAP}[overflow]
    operands = [(fixed(x[:, i : i + 1], int_bits=8), fixed(w[i : i + 1], int_bits=8)) for i in range(len(w))]
    zeros = fixed(np.zeros((len(x), w.shape[1]), np.int8), int_bits=20)

    def call():
        total = zeros
        for column, row in operands:
            total = (total + column * row).cast(int_bits=20, overflow=mode)
        return total

    return call


def apytypes_part(x: np.ndarray, w: np.ndarray, overflow: str) -> Case:
    """APyTypes on 8 of the images, as the part of the whole that it is."""
    return Case(apytypes_steps(x[:8], w, overflow), 8 / len(x))


def finite_accumulators(overflow: str) -> Group:
    """Row 9."""
    group, (m, n, k) = products(9, SHAPE), SHAPE
    x, w = integers("int8", (m, k)), integers("int8", (k, n))
    group.add_peak("vpdpbusd")
    group.add_product("ours", x, w, repeat=2, accumulator=Accumulator(20, overflow))
    group.add("APyTypes", apytypes_part, x, w, overflow)
    group.against(f"int8 x int8, 20 bits, {overflow}", "ours", "APyTypes")
    return group


def peak_of_cores(count: int) -> Case:
    """So many threads at the peak of their cores, each with the work of one; the work of one is the unit."""
    call, _ = native.peak("vpmaddwd", 200000)
    pool = concurrent.futures.ThreadPoolExecutor(count)
    return Case(lambda: list(pool.map(lambda _: call(), range(count))), count)


def free_cores() -> Group:
    """Row 10, the machine: what a second thread can bring now, while others use the cores, too."""
    group = Group(10, ())
    for count in (2, 1):
        group.add(f"{count} cores", peak_of_cores, count)
    group.against("vpmaddwd on 2 cores", "2 cores", "1 cores", label="1 core")
    return group


def two_threads(shape: tuple[int, int, int]) -> Group:
    """Row 10, a product."""
    group, (m, n, k) = products(10, shape), shape
    x, w = integers("int8", (m, k)), integers("int8", (k, n))
    for threads in (2, 1):
        group.add(f"{threads} threads", product, x, w, threads=threads)
    group.against("int8 x int8, 2 threads", "2 threads", "1 threads", label="1 thread")
    return group


def two_threads_step(sizes: list[int], load: int) -> Group:
    """Row 10, a training step; load: processes that want the cores, too."""
    batch = 64
    group, batches = training(10, sizes, batch), training_batches(sizes[0], sizes[-1], batch, MNIST_DENSITY)
    group.load = load
    for threads in (2, 1):
        group.add(f"{threads} threads", our_step, sizes, batches, threads=threads)
    what = "step, 2 threads, MNIST-like" + f", {load} busy processes" * (load > 0)
    group.against(what, "2 threads", "1 threads", label="1 thread")
    return group


def older_level() -> Group:
    """Row 11."""
    group, (m, n, k) = products(11, SHAPE), SHAPE
    x, w = integers("int16", (m, k), bits=12), integers("int16", (k, n), bits=12)
    group.add_peak("vpmaddwd")
    group.add_product("ours", x, w, path="dense", isa="avx2")
    group.add("torch float32", torch_float32, x, w)
    for peer in ("vpmaddwd", "torch float32"):
        group.against("int16 x int16, 12 bits, avx2", "ours", peer)
    return group


_SMALL, _WIDE = [784, 256, 256, 10], [784, 1024, 1024, 10]
_KINDS = [("uint8", "int8", None), ("int16", "int8", None), ("int16", "int16", 12)]
_DENSITIES = (1.0, 0.75, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
_INPUTS = (("dense", 1.0), ("MNIST-like", MNIST_DENSITY))
_MAKERS: dict[int, list[tuple]] = {
    1: [(dense_bytes, dtype, shape) for dtype in ("uint8", "int8") for shape in DENSE_SHAPES],
    2: [(dense_int16, shape) for shape in DENSE_SHAPES[:2]],
    3: [(batch_one,)],
    4: [(power_of_two, "int8", "vpdpbusd"), (power_of_two, "int16", "vpdpwssd")],
    5: [(zero_skipping, *kind, zeros) for kind in _KINDS for zeros in (0.5, 0.9)],
    6: [(automatic_path, density) for density in _DENSITIES],
    7: [(gradients, 0.9, 0.0), (gradients, 0.8, 0.9)],
    8: [(training_steps, batch, *inputs) for batch in (64, 1) for inputs in _INPUTS],
    9: [(finite_accumulators, overflow) for overflow in ("saturate", "wrap")],
    10: [(free_cores,), (two_threads, DENSE_SHAPES[1]), (two_threads_step, _WIDE, 0), (two_threads_step, _SMALL, 2)],
    11: [(older_level,)],
}
ROWS = tuple(_MAKERS)


def of_row(row: int) -> Iterator[Group]:
    """The groups of a row, each made when it is its turn."""
    for make, *operands in _MAKERS[row]:
        yield make(*operands)

"""Benchmarks for pytest-benchmark: operation x instruction-set level x density x shape, and the training step.

`make bench`; README.md here. extra_info holds what a rate means: MACs a call (zeros included), MACs skipped, the level,
GMAC/s and, where native.py knows it, the fraction of this core's peak. compare.py is the place for ratios to peers."""

import functools

import compare
import groups
import native
import numpy as np
import pytest
import scipy.sparse
import timing

from sppim_core import Accumulator, Chip, Network, Schedule, _core, kernels, workload
from sppim_core.layers import parse

BATCH, SIZES = 64, [784, 256, 256, 10]
SHAPES = [(64, 256, 784), (784, 256, 64)]
KINDS = {  # types of x and w, bits of their values
    "u8s8": ("uint8", "int8", None),
    "s8s8": ("int8", "int8", None),
    "s16s8": ("int16", "int8", None),
    "s16s16": ("int16", "int16", 12),
}
WAYS = [("dense", 1.0), ("sparse", 0.5), ("sparse", 0.1)]

levels = pytest.mark.parametrize("isa", _core.isa_names())
ways = pytest.mark.parametrize("path, density", WAYS)


def name(shape) -> str:
    return "x".join(map(str, shape))


def instruction(isa: str, *dtypes: str) -> str | None:
    """The one whose peak bounds a dense product at this level; None if native.py does not measure it."""
    if isa == "vnni":
        return "vpdpwssd" if "int16" in dtypes else "vpdpbusd"
    return "vpmaddwd" if isa == "avx2" else None


@functools.cache
def peak_macs(which: str | None) -> float | None:
    """MAC/s of this core at best, None if it cannot be told here."""
    try:
        call, macs = native.peak(which) if which else (None, 0)
    except native.Unavailable:
        return None
    return macs / timing.interleaved({which: call}, 0.1)[which] if call else None


def record(benchmark, macs: int, *, skipped: int = 0, peak: str | None = None, **facts):
    """Fills extra_info from the least time."""
    if not benchmark.enabled:
        return
    rate = macs / benchmark.stats["min"]
    benchmark.extra_info.update(facts, macs=int(macs), skipped=int(skipped), gmac_s=round(rate * 1e-9, 2))
    if peak_macs(peak):
        benchmark.extra_info["fraction_of_peak"] = round(rate / peak_macs(peak), 3)


@pytest.mark.parametrize("shape", SHAPES, ids=name)
@ways
@pytest.mark.parametrize("kind", KINDS)
@levels
@pytest.mark.benchmark(group="product")
def test_product(benchmark, isa, kind, path, density, shape):
    """x w of each pair of types, dense and skipping zeros."""
    (m, n, k), (left, right, bits) = shape, KINDS[kind]
    x, w = groups.integers(left, (m, k), bits=bits, density=density), groups.integers(right, (k, n), bits=bits)
    benchmark(groups.product(x, w, path=path, isa=isa))
    peak = instruction(isa, left, right) if path == "dense" else None
    skipped = np.count_nonzero(x == 0) * n if path == "sparse" else 0
    record(benchmark, m * n * k, skipped=skipped, peak=peak, isa=isa, path=path, density=density)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@levels
@pytest.mark.benchmark(group="product with PoT weights (64, 256, 784)")
def test_product_pot(benchmark, isa, dtype):
    """x times power-of-two weights."""
    x, codes = groups.integers(dtype, (BATCH, 784)), pot_codes(784, 256)
    benchmark(groups.product(x, kernels.Weights.from_codes(codes), path="dense", isa=isa))
    record(benchmark, BATCH * 784 * 256, peak=instruction(isa, dtype), isa=isa)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.benchmark(group="product with PoT weights (64, 256, 784)")
def test_product_pot_shift_add(benchmark, dtype):
    """The peer: shifts and additions; its result is ours."""
    x, codes = groups.integers(dtype, (BATCH, 784)), pot_codes(784, 256)
    try:
        call = native.shift_add(x, codes)
    except native.Unavailable as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(call(), kernels.product(x, kernels.Weights.from_codes(codes)))
    benchmark(call)
    record(benchmark, BATCH * 784 * 256, isa="shift-add")


def pot_codes(k: int, n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, (k, n)).astype(np.uint8)


@levels
@pytest.mark.benchmark(group="product of one image (1, 256, 784)")
def test_product_batch_one(benchmark, isa):
    """Two hundred products in a call; the bytes of weights a second are gmac_s."""
    x, w = groups.integers("int8", (1, 784)), groups.integers("int8", (784, 256))
    benchmark(groups.product(x, w, isa=isa, repeat=200))
    record(benchmark, 200 * 784 * 256, isa=isa)


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@levels
@pytest.mark.benchmark(group="product with 20-bit accumulators (64, 256, 784)")
def test_product_finite(benchmark, isa, overflow):
    """An accumulator of 20 bits after every addition."""
    x, w = groups.integers("int8", (BATCH, 784)), groups.integers("int8", (784, 256))
    benchmark(groups.product(x, w, accumulator=Accumulator(20, overflow), isa=isa))
    record(benchmark, BATCH * 784 * 256, isa=isa)


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.benchmark(group="product with 20-bit accumulators (64, 256, 784)")
def test_product_finite_apytypes(benchmark, overflow):
    """The peer on 8 images, whose sums overflow; its result is ours."""
    pytest.importorskip("apytypes", reason="apytypes is not installed: pip install 'sppim_core[bench]'")
    x, w = np.abs(groups.integers("int8", (8, 784), bits=8)), groups.integers("int8", (784, 256)) // 2 + 20
    call = groups.apytypes_steps(x, w, overflow)
    expected, changed = kernels.product(x, kernels.Weights(w), accumulator=Accumulator(20, overflow))
    assert changed > 0
    np.testing.assert_array_equal(call().to_numpy(), expected)
    benchmark(call)
    record(benchmark, 8 * 784 * 256, isa="APyTypes")


@ways
@levels
@pytest.mark.benchmark(group="gradient (64, 784, 256)")
def test_gradient(benchmark, isa, path, density):
    """transpose(x) d."""
    x, d = groups.integers("int8", (BATCH, 784), density=density), groups.integers("int8", (BATCH, 256))
    out = np.empty((784, 256), np.int32)
    benchmark(kernels.gradient, x, d, path=path, isa=isa, out=out)
    skipped = np.count_nonzero(x == 0) * 256 if path == "sparse" else 0
    record(benchmark, BATCH * 784 * 256, skipped=skipped, isa=isa, path=path, density=density)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.benchmark(group="product")
def test_product_numpy(benchmark, dtype):
    """The dense peer; float64 is exact."""
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed: numpy would take all cores")
    x, w = groups.integers("int8", (BATCH, 784)), groups.integers("int8", (784, 256))
    benchmark(groups.numpy_matmul(x, w, dtype))
    record(benchmark, BATCH * 784 * 256, isa=f"numpy {dtype}")


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
@pytest.mark.benchmark(group="product")
def test_product_scipy_csr(benchmark, density):
    """The sparse peer; making the CSR matrix is not counted."""
    x = groups.integers("int8", (BATCH, 784), density=density).astype(np.int32)
    weights, sparse = groups.integers("int8", (784, 256)).astype(np.int32), scipy.sparse.csr_matrix(x)
    benchmark(lambda: sparse @ weights)
    record(benchmark, BATCH * 784 * 256, skipped=np.count_nonzero(x == 0) * 256, isa="scipy CSR int32", density=density)


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("density", [1.0, groups.MNIST_DENSITY])
@levels
@pytest.mark.benchmark(group="training step 784-256-256-10, batch 64")
def test_training_step(benchmark, isa, density, bits):
    """FP, EP, GC and update of a batch."""
    batches = groups.training_batches(SIZES[0], SIZES[-1], BATCH, density)
    benchmark(groups.our_step(SIZES, batches, isa=isa, product_bits=bits))
    record(benchmark, groups.training(8, SIZES, BATCH).macs, isa=isa, density=density, bits=bits)


@pytest.mark.parametrize("peer", ["autograd", "Backpropagation", "LocalErrorPrediction"])
@pytest.mark.benchmark(group="training step 784-256-256-10, batch 64")
def test_training_step_torch(benchmark, peer):
    """The training peers of peers.py, one thread."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'sppim_core[bench]'")
    timing.pin_peers()
    benchmark(groups.torch_step(peer, SIZES, groups.training_batches(SIZES[0], SIZES[-1], BATCH, 1.0)))
    record(benchmark, groups.training(8, SIZES, BATCH).macs, isa=f"torch float32 {peer}")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [256, 1024])
@pytest.mark.benchmark(group="training step by threads, 784-width-width-10, batch 64")
def test_training_threads(benchmark, width, threads):
    """What a second thread brings."""
    sizes = [784, width, width, 10]
    batches = groups.training_batches(sizes[0], sizes[-1], BATCH, groups.MNIST_DENSITY)
    benchmark(groups.our_step(sizes, batches, threads=threads))
    record(benchmark, groups.training(8, sizes, BATCH).macs, threads=threads)


@pytest.mark.parametrize("rule", ["local", "bp"])
@levels
@pytest.mark.benchmark(group="training step 32x32x3-32c3m2-64c3m2-128c3m2-128c3-10, batch 64")
def test_convolution_training_step(benchmark, isa, rule):
    """FP, EP, GC and update of a batch of CIFAR-10's size; MACs are those of FP and GC."""
    network = Network([(32, 32, 3), *parse("32c3m2,64c3m2,128c3m2,128c3"), 10], rule=rule, isa=isa)
    x, labels = groups.integers("int8", (BATCH, 32 * 32 * 3)), np.arange(BATCH, dtype=np.int32) % 10
    benchmark(network.tick, x, labels)
    record(benchmark, 2 * BATCH * sum(f.fan_in * f.outputs * f.positions for f in network.formats), isa=isa, rule=rule)


@pytest.mark.benchmark(group="schedule")
def test_schedule(benchmark):
    """Image-layer events a second of the schedule alone."""
    shapes = workload.reference_shapes(Chip.load())
    schedule = Schedule(shapes, Chip.load())
    operands, errors = workload.reference_nonzeros(shapes, 1024, 0.55, 0.79)
    benchmark(schedule.add_batch, operands, errors)
    if benchmark.enabled:
        benchmark.extra_info["million_events_s"] = round(1024 * len(shapes) / benchmark.stats["min"] * 1e-6, 1)


@pytest.mark.parametrize("row", groups.ROWS)
def test_compare(row):
    """compare.py can make, call and judge every case of a row."""
    for group in groups.of_row(row):
        for case in group.cases.values():
            case.call()
        lines = compare.judge(group, dict.fromkeys(group.cases, 1.0))
        assert len(lines) == len(group.ratios)
        assert compare.table(lines).count("\n") == len(lines) + 1


def test_a_peak_is_compared_to_the_case_in_c():
    """Ratios to peers are of one call a product; rate and part of the peak are of many products in a call."""
    group = groups.Group(1, (1, 1, 1), macs=1000, peak="vpdpbusd")
    for peer in ("vpdpbusd", "torch float32"):
        group.against("x w", "ours", peer)
    least = {"ours": 4e-6, "ours, in C": 2e-6, "vpdpbusd": 1e-6, "torch float32": 12e-6}
    to_peak, to_peer = compare.judge(group, least)
    assert to_peak["ratio"] == to_peak["of_peak"] == to_peer["of_peak"] == 0.5 and to_peer["ratio"] == 3
    assert to_peak["gmac_s"] == to_peer["gmac_s"] == 0.5


def test_every_floor_is_used():
    """A floor whose peer no row names would never be checked."""
    every = [group for row in groups.ROWS for group in groups.of_row(row)]
    lines = [line for group in every for line in compare.judge(group, dict.fromkeys(group.cases, 1.0))]
    named = {(line["row"], text) for line in lines for text in (line["peer"], f"{line['what']} / {line['peer']}")}
    floors = {(row, key) for row, floors in compare.FLOORS.items() for key in floors}
    assert floors - named == {(1, "geometric mean")}

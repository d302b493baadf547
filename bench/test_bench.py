"""Benchmarks: operation x instruction-set level x density, and the training step. `make bench`; README.md here.

extra_info holds what a rate means: MACs a call (zeros included), those done, the level."""

import numpy as np
import pytest
import scipy.sparse

from sppim_core import Chip, Network, Schedule, _core, workload

BATCH, SIZES = 64, [784, 256, 256, 10]
MNIST_DENSITY = 0.19


def batch(density: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 128, (BATCH, SIZES[0])) * (rng.random((BATCH, SIZES[0])) < density)
    return x.astype(np.int8), rng.integers(0, SIZES[-1], BATCH).astype(np.int32)


def training_macs() -> int:
    """FP and GC of a batch, zeros included."""
    return 2 * BATCH * sum(a * b for a, b in zip(SIZES, SIZES[1:]))


def record(benchmark, macs: int, **facts):
    if benchmark.enabled:
        benchmark.extra_info.update(facts, macs=int(macs), gmac_s=round(macs / benchmark.stats["min"] * 1e-9, 2))


@pytest.mark.parametrize("density", [1.0, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("path", ["dense", "sparse"])
@pytest.mark.parametrize("isa", _core.isa_names())
@pytest.mark.benchmark(group="forward (64, 256, 784)")
def test_forward(benchmark, isa, path, density):
    network = Network([784, 256], batch=BATCH, isa=isa, path=path)
    x, _ = batch(density)
    benchmark(network.scores, x)
    record(benchmark, BATCH * 784 * 256, isa=isa, path=path, density=density)


@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.benchmark(group="forward (64, 256, 784)")
def test_forward_numpy_float64(benchmark, density):
    """The exact peer: float64 holds these sums exactly."""
    x, weights = batch(density)[0].astype(float), np.ones((784, 256))
    benchmark(np.matmul, x, weights)
    record(benchmark, BATCH * 784 * 256, isa="numpy float64", density=density)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
@pytest.mark.benchmark(group="forward (64, 256, 784)")
def test_forward_scipy_csr(benchmark, density):
    """The sparse peer; making the CSR matrix is not counted."""
    x = scipy.sparse.csr_matrix(batch(density)[0].astype(np.int32))
    weights = np.ones((784, 256), np.int32)
    benchmark(lambda: x @ weights)
    record(benchmark, BATCH * 784 * 256, isa="scipy CSR int32", density=density)


@pytest.mark.benchmark(group="training step 784-256-256-10, batch 64")
def test_training_step_torch(benchmark):
    """The training peer: float32 backpropagation by autograd, plain SGD, one thread."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'sppim_core[bench]'")
    torch.set_num_threads(1)
    layers = [torch.nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:])]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    x, labels = batch(1.0)
    x, labels = torch.tensor(x / 128, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    benchmark(step)
    record(benchmark, training_macs(), isa="torch float32")


@pytest.mark.parametrize("density", [1.0, MNIST_DENSITY])
@pytest.mark.parametrize("isa", _core.isa_names())
@pytest.mark.benchmark(group="training step 784-256-256-10, batch 64")
def test_training_step(benchmark, isa, density):
    network = Network(SIZES, batch=BATCH, isa=isa)
    x, labels = batch(density)
    benchmark(network.tick, x, labels)
    record(benchmark, training_macs(), isa=isa, density=density)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [256, 1024])
@pytest.mark.benchmark(group="training step by threads, 784-width-width-10, batch 64")
def test_training_threads(benchmark, width, threads):
    network = Network([784, width, width, 10], batch=BATCH, threads=threads)
    x, labels = batch(MNIST_DENSITY)
    benchmark(network.tick, x, labels)


@pytest.mark.benchmark(group="schedule")
def test_schedule(benchmark):
    """Image-layer events a second of the schedule alone."""
    shapes = workload.reference_shapes(Chip.load())
    schedule = Schedule(shapes, Chip.load())
    operands, errors = workload.reference_nonzeros(shapes, 1024, 0.55, 0.79)
    benchmark(schedule.add_batch, operands, errors)
    if benchmark.enabled:
        benchmark.extra_info["million_events_s"] = round(1024 * len(shapes) / benchmark.stats["min"] * 1e-6, 1)

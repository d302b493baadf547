"""What the tests share: real data, and networks in two implementations fed the same batches."""

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import slow_network
from slow import mlp_formats

import sppim_core
from sppim_core import Accumulator, Chip, Network
from sppim_core import layer_formats as fast_formats


def pytest_report_header():
    """Which build is under test; SPPIM_EXPECT names the folder it must come from."""
    location = Path(sppim_core.__file__).parent
    expected = os.environ.get("SPPIM_EXPECT")
    if expected and not location.is_relative_to(expected):
        raise pytest.UsageError(f"the package under test is {location}, not the one in {expected}")
    return f"sppim_core from {location}, isa {', '.join(sppim_core._core.isa_names())}"


@pytest.fixture
def mnist_folder():
    """Folder with MNIST's IDX files, named by SPPIM_DATA."""
    root = os.environ.get("SPPIM_DATA")
    if not root:
        pytest.skip("SPPIM_DATA is not set: no MNIST here")
    for folder in (Path(root) / "mnist", Path(root)):
        if list(folder.glob("train-images*")):
            return folder
    pytest.skip(f"SPPIM_DATA={root} holds no MNIST")


def small_chip(columns, lanes, buffers):
    """REF-B with another geometry."""
    toml = (resources.files("sppim_core.chips") / "ref-b.toml").read_text()
    for key, value in {"columns": columns, "lepu_lanes": lanes, "activation_buffers": buffers}.items():
        line = next(line for line in toml.splitlines() if line.startswith(f"{key} = "))
        toml = toml.replace(line, f'{key} = {{ value = {value}, tag = "assumed", source = "test" }}')
    return Chip.parse(toml)


def random_batches(sizes, count=7, batch=8, seed=5, density=0.5):
    """Batches (x int8, labels int32, rate_shift), the last one smaller."""
    rng = np.random.default_rng(seed)
    for t in range(count):
        n = batch if t < count - 1 else max(1, batch - 3)
        x = rng.integers(-128, 128, (n, sizes[0])) * (rng.random((n, sizes[0])) < density)
        yield x.astype(np.int8), rng.integers(0, sizes[-1], n).astype(np.int32), t % 3


def paired_formats(sizes, rule, changes, accumulator=None, **options):
    """The same layer formats for the package and for the slow model; changes: fields that differ from A9."""
    from dataclasses import replace

    fast = fast_formats(sizes, rule, **options)
    slow = mlp_formats(sizes, rule, **options)
    bits, overflow = accumulator or (0, "saturate")
    for i in range(len(fast)):
        fast[i] = replace(
            fast[i], **changes, fp_accumulator=Accumulator(bits, overflow), gc_accumulator=Accumulator(bits, overflow)
        )
        slow[i] |= changes | {
            "fp_acc_bits": bits,
            "fp_acc_overflow": overflow,
            "gc_acc_bits": bits,
            "gc_acc_overflow": overflow,
        }
    return fast, slow


def assert_same_state(network: Network, model: slow_network.SlowNetwork) -> None:
    """Weights, means, score biases and counters agree bit for bit."""
    counters = network.counters()
    for layer in range(len(network.formats)):
        assert network.weights(layer).tolist() == model.W[layer]
        assert network.means(layer).tolist() == model.M[layer]
        assert network.score_bias(layer).tolist() == model.score_bias[layer]
        ours = {name: int(counters[name][layer]) for name in model.counters[layer]}
        assert ours == model.counters[layer]

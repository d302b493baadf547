"""Bad input never crashes, hangs, converts silently or loses data: an exception names the argument and the value."""

import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from sppim_core import (
    Accumulator,
    Chip,
    IsaError,
    Network,
    Schedule,
    ShapeError,
    Trainer,
    _core,
    arithmetic,
    data,
    layer_formats,
    report,
)
from sppim_core import schedule as schedules

SIZES = [6, 4, 3]
GOOD_X, GOOD_Y = np.arange(12, dtype=np.int8).reshape(2, 6), np.array([0, 2])
STRUCTURED = np.zeros((2, 6), [("a", "i1")])

BAD_X = {
    "None with labels": (None, "labels without x"),
    "list": (GOOD_X.tolist(), "x must be a NumPy array, not list"),
    "str": ("abc", "x must be a NumPy array, not str"),
    "bytes": (b"abc", "x must be a NumPy array, not bytes"),
    "memoryview": (memoryview(GOOD_X), "x must be a NumPy array, not memoryview"),
    "masked": (np.ma.masked_array(GOOD_X, GOOD_X > 3), "x is a masked array"),
    "matrix": (np.matrix(GOOD_X), "x is a numpy.matrix"),
    "bool": (GOOD_X > 3, "not bool"),
    "int16": (GOOD_X.astype(np.int16), "x must hold int8, uint8 or floats, not int16"),
    "int64": (GOOD_X.astype(np.int64), "not int64"),
    "complex": (GOOD_X.astype(complex), "not complex128"),
    "object": (GOOD_X.astype(object), "not object"),
    "structured": (STRUCTURED, r"not void"),
    "long double": (GOOD_X.astype(np.longdouble), "x must hold int8, uint8 or floats"),
    "NaN": (np.where(GOOD_X == 7, np.nan, 0.5), r"x holds NaN at \(1, 1\)"),
    "ndim 1": (GOOD_X[0], r"x must have shape \(n, 6\), not \(6,\)"),
    "ndim 3": (GOOD_X[None], r"not \(1, 2, 6\)"),
    "narrow": (GOOD_X[:, :5], r"not \(2, 5\)"),
    "no columns": (GOOD_X[:, :0], r"not \(2, 0\)"),
    "no rows": (GOOD_X[:0], "x and labels must have equal lengths, not 0 and 2"),
    "overflowing product": (np.empty((2**62, 0), np.int8), r"not \(4611686018427387904, 0\)"),
    "sparse of the wrong width": (scipy.sparse.csr_matrix(GOOD_X[:, :5]), r"not \(2, 5\)"),
}
BAD_LABELS = {
    "float": (np.array([0.0, 1.0]), "labels must hold integers, not float64"),
    "bool": (np.array([True, False]), "not bool"),
    "negative": (np.array([0, -1]), "labels must hold values in 0..2, found -1"),
    "too large": (np.array([0, 3]), "labels must hold values in 0..2, found 3"),
    "negative int32": (np.array([0, -1], np.int32), "labels must hold values in 0..2, found -1"),
    "too large int32": (np.array([0, 3], np.int32), "labels must hold values in 0..2, found 3"),
    "largest int32": (np.array([2**31 - 1, 0], np.int32), "found 2147483647"),
    "huge": (np.array([0, 2**40]), "found 1099511627776"),
    "u64": (np.array([0, 2**64 - 1], np.uint64), "found 18446744073709551615"),
    "list": ([0, 1], "labels must be a NumPy array, not list"),
    "ndim 2": (np.array([[0, 1]]), r"not shape \(1, 2\)"),
    "length": (np.array([0, 1, 2]), "x and labels must have equal lengths, not 2 and 3"),
    "length int32": (np.array([0], np.int32), "x and labels must have equal lengths, not 2 and 1"),
    "none int32": (np.array([], np.int32), "x and labels must have equal lengths, not 2 and 0"),
    "float32": (np.array([0, 1], np.float32), "labels must hold integers, not float32"),
    "ndim 0": (np.array(1, np.int32), r"labels must have 1 dimension, not shape \(\)"),
    "None": (None, "labels must be a NumPy array, not NoneType"),
    "object": (np.array([0, 1], object), "labels must hold integers, not object"),
    "masked": (np.ma.masked_array([0, 1], [0, 1]), "labels is a masked array"),
}


@pytest.fixture
def network():
    return Network(SIZES, batch=4)


def refuses_and_stays(network, error, message, call):
    before = network.digest()
    with pytest.raises(error, match=message) as raised:
        call()
    assert raised.value.__context__ is None and not isinstance(raised.value, _core.Unfit)
    assert network.digest() == before and network.in_flight == 0
    network.tick(GOOD_X, GOOD_Y)


@pytest.mark.parametrize("label_type", [np.int32, np.int64])
@pytest.mark.parametrize("case", BAD_X)
def test_x(network, case, label_type):
    x, message = BAD_X[case]
    labels = GOOD_Y.astype(label_type)
    refuses_and_stays(network, (TypeError, ValueError), message, lambda: network.tick(x, labels))
    if x is not None and case != "no rows":
        refuses_and_stays(network, (TypeError, ValueError), message, lambda: network.scores(x))


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels(network, case):
    labels, message = BAD_LABELS[case]
    refuses_and_stays(network, (TypeError, ValueError), message, lambda: network.tick(GOOD_X, labels))


@pytest.mark.parametrize("label_type", [np.int32, np.int64])
@pytest.mark.parametrize("n", [0, 5])
def test_batch_sizes(network, n, label_type):
    message = rf"x must hold 1..4 images \(the batch of this network\), not {n}"
    x, labels = np.zeros((n, 6), np.int8), np.zeros(n, label_type)
    refuses_and_stays(network, ShapeError, message, lambda: network.tick(x, labels))
    assert network.scores(GOOD_X[:0]).shape == (0, 3)


@pytest.mark.parametrize("value", [-1, 17, 2**40, 1.5, True, "1", None])
def test_rate_shift(network, value):
    refuses_and_stays(
        network,
        (TypeError, ValueError),
        f"rate_shift must .*{re.escape(repr(value))}",
        lambda: network.tick(GOOD_X, GOOD_Y, value),
    )


class Subclass(np.ndarray):
    pass


def unaligned(x, dtype):
    return np.frombuffer(b"x" + x.astype(dtype).tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)


PLAIN = {  # what the core takes as it is
    "plain": lambda x: x,
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "part": lambda x: np.concatenate([x, x])[len(x) :],
}
LAYOUTS = {
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "offset": lambda x: np.pad(x, 3)[3:-3, 3:-3],
    "subclass": lambda x: x.view(Subclass),
    "strided subclass": lambda x: np.repeat(x, 2, axis=1).view(Subclass)[:, ::2],
    "uint8": lambda x: (2 * x).astype(np.uint8),
    "uint8 subclass": lambda x: (2 * x).astype(np.uint8).view(Subclass),
    "float": lambda x: x / 128,
    "float32": lambda x: (x / 128).astype(np.float32),
    "big-endian float": lambda x: (x / 128).astype(">f8"),
    "unaligned float": lambda x: unaligned(x / 128, "f8"),
    "float subclass": lambda x: (x / 128).view(Subclass),
    "csr": scipy.sparse.csr_matrix,
    "csc": scipy.sparse.csc_matrix,
    "coo array": scipy.sparse.coo_array,
}


LABEL_LAYOUTS = {
    **{np.dtype(t).name: lambda y, t=t: y.astype(t) for t in "bBhHIlL"},
    "big-endian": lambda y: y.astype(">i4"),
    "big-endian int16": lambda y: y.astype(">i2"),
    "strided": lambda y: np.repeat(y, 2)[::2],
    "reversed": lambda y: y[::-1].copy()[::-1],
    "column": lambda y: np.stack([y, y], axis=1)[:, 0],
    "unaligned": lambda y: unaligned(y, "i4"),
    "subclass": lambda y: y.view(Subclass),
}
LABELS = GOOD_Y.astype(np.int32)


def same_as_plain(network, x, labels):
    other = Network(SIZES, batch=4)
    batch, *left = other.tick(x, labels)
    expected_batch, *expected = network.tick(GOOD_X, LABELS)
    assert batch == expected_batch and other.digest() == network.digest()
    for values, right in zip(left, expected, strict=True):
        assert type(values) is np.ndarray and values.dtype == right.dtype and values.tolist() == right.tolist()
    assert other.scores(x).tolist() == network.scores(GOOD_X).tolist()


@pytest.mark.parametrize("layout", PLAIN)
def test_the_core_takes_plain_arrays_as_they_are(network, layout):
    x, labels = PLAIN[layout](GOOD_X), PLAIN[layout](LABELS)
    same_as_plain(network, x, labels)
    network._core.tick(x, labels, 0)
    network._core.scores(x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_means_the_same(network, layout):
    x = LAYOUTS[layout](GOOD_X)
    for call in (lambda: network._core.tick(x, LABELS, 0), lambda: network._core.scores(x)):
        with pytest.raises(_core.Unfit):
            call()
    same_as_plain(network, x, LABELS)


@pytest.mark.parametrize("layout", LABEL_LAYOUTS)
def test_labels_of_any_layout_mean_the_same(network, layout):
    labels = LABEL_LAYOUTS[layout](LABELS)
    with pytest.raises(_core.Unfit):
        network._core.tick(GOOD_X, labels, 0)
    same_as_plain(network, GOOD_X, labels)


@pytest.mark.parametrize("execution", ["sequential", "pipelined"])
def test_bad_labels_between_batches_in_flight_change_nothing(execution):
    network, twin = (Network(SIZES, batch=4, execution=execution, staleness=1) for _ in range(2))
    for _ in range(5):
        with pytest.raises(ValueError, match=r"labels must hold values in 0\.\.2, found 3"):
            network.tick(GOOD_X, np.array([0, 3], np.int32))
        for each in (network, twin):
            each.tick(GOOD_X, LABELS)
        assert network.in_flight == twin.in_flight and network.batches == twin.batches
    for each in (network, twin):
        each.drain()
    assert network.digest() == twin.digest()


def test_the_smallest_value_of_int8_is_an_input(network):
    """A2.1: int8 passes as it is, -128 included."""
    x = np.full((2, 6), -128, np.int8)
    other = Network(SIZES, batch=4)
    network.tick(x, LABELS)
    other.tick(np.full((2, 6), -1.0), LABELS)
    assert network.digest() == other.digest()


def test_broadcast_input(network):
    x = np.broadcast_to(np.int8(5), (2, 6))
    assert network.scores(x).tolist() == network.scores(x.copy()).tolist()


BAD_NETWORKS = [
    (dict(seed=-1), "seed must be in 0..18446744073709551615, not -1"),
    (dict(seed=1.0), "seed must be an integer, not 1.0"),
    (dict(seed=2**64), "seed must be in"),
    (dict(batch=0), "batch must be in 1..65535, not 0"),
    (dict(batch=True), "batch must be an integer, not True"),
    (dict(threads=0), "threads must be in 1..256, not 0"),
    (dict(threads=-1), "threads .* not -1"),
    (dict(threads=10**6), "threads .* not 1000000"),
    (dict(staleness=65), "staleness must be in 0..64, not 65"),
    (dict(rule="magic"), "rule must be one of local, drtp, dfa, bp, not 'magic'"),
    (dict(rule=0), "rule must be a string"),
    (dict(execution="fast"), "execution must be one of"),
    (dict(path="x"), "path must be one of"),
    (dict(product_bits=1), "product_bits must be in 2..16, not 1"),
    (dict(centred=1), "centred must be True or False, not 1"),
    (dict(isa="mmx"), "isa must be one of ref"),
    (dict(isa=3), "isa must be a string"),
]


@pytest.mark.parametrize("options, message", BAD_NETWORKS, ids=lambda value: str(value)[:40])
def test_network_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Network(SIZES, **options)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ([5], "layers must name inputs and classes at least"),
        ([], "at least"),
        ([0, 3], r"layers\[0\] must be in 1..65535, not 0"),
        ([3, 1], r"layers\[1\] \(classes\) must be in 2..1024, not 1"),
        ([3, 2000], "classes"),
        ([3, -4, 2], r"layers\[1\] .* not -4"),
        ([3, 2.5], r"layers\[1\] \(classes\) must be an integer, not 2.5"),
        ([2**62, 2**62, 2], "not 4611686018427387904"),
        (["3", 2], "not '3'"),
    ],
)
def test_network_sizes(sizes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Network(sizes)


def test_unknown_level_in_the_environment(monkeypatch):
    monkeypatch.setenv("SPPIM_ISA", "pdp11")
    with pytest.raises(IsaError, match="SPPIM_ISA='pdp11' is not one of ref"):
        Network(SIZES)


@pytest.mark.parametrize(
    "changes",
    [
        {"fp_shift": -1},
        {"fp_shift": 63},
        {"update_shift": 31},
        {"pot_levels": 8},
        {"activation_max": 0},
        {"margin_log2": 6},
        {"init_bound": 40000},
        {"fp_round": "sr"},
        {"update_round": "up"},
        {"centred": 1},
        {"fp_accumulator": 16},
        {"inputs": 1.5},
    ],
    ids=str,
)
def test_formats(changes):
    name = next(iter(changes))
    with pytest.raises((TypeError, ValueError), match=name):
        replace(layer_formats(SIZES)[0], **changes)


def test_formats_that_do_not_fit_together():
    first, last = layer_formats(SIZES)
    with pytest.raises(ShapeError, match=r"layers\[1\] has 4 inputs, the layer before it 3 outputs"):
        Network([replace(first, outputs=3), last])
    with pytest.raises(TypeError, match=r"layers\[1\] must be a LayerFormat"):
        Network([first, 3])
    for bits in (7, 33, -1):
        with pytest.raises(ValueError, match="bits must be"):
            Accumulator(bits)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v: arithmetic.requantize(v, -1, "rnu", 0, 1), "shift must be in 0..62, not -1"),
        (lambda v: arithmetic.requantize(v, 1.5, "rnu", 0, 1), "shift must be an integer, not 1.5"),
        (lambda v: arithmetic.requantize(v, True, "rnu", 0, 1), "shift must be an integer, not True"),
        (lambda v: arithmetic.requantize(v, 2**40, "rnu", 0, 1), "shift"),
        (lambda v: arithmetic.requantize(v, 1, "sr", 0, 1), "rounding must be one of"),
        (lambda v: arithmetic.requantize(v, 1, "rnu", 2, 1), "low must not exceed high, not 2 > 1"),
        (lambda v: arithmetic.requantize(v / 2, 1, "rnu", 0, 1), "x must hold integers, not float64"),
        (
            lambda v: arithmetic.requantize(v.astype(np.uint64) + np.uint64(2**63), 1, "rnu", 0, 1),
            "x must hold values in",
        ),
        (lambda v: arithmetic.requantize(v[None], 1, "rnu", 0, 1), r"x must have 1 dimension, not shape \(1, 3\)"),
        (lambda v: arithmetic.round_stochastic(v, v[:2], 3), "x and u must have equal lengths, not 3 and 2"),
        (lambda v: arithmetic.round_stochastic(v, v - 1, 3), "u must hold values in 0..65535, found -1"),
        (lambda v: arithmetic.round_stochastic(v + 2**31, v, 3), "x must hold"),
        (lambda v: arithmetic.round_stochastic(v, v, 47), "shift must be in 0..46"),
        (lambda v: arithmetic.fit(v, 7), "bits must be 0"),
        (lambda v: arithmetic.fit(v, 8, "clip"), "overflow must be one of"),
        (lambda v: arithmetic.pot_mac(v, v, v + 14), "code must hold values in 0..15, found 16"),
        (lambda v: arithmetic.pot_mac(v, v + 127, v), "x must hold values in -128..127, found 129"),
        (lambda v: arithmetic.product_weights(v + 32640, 8), "w must hold values in -32639..32639, found 32642"),
        (lambda v: arithmetic.product_weights(v, 17), "product_bits must be in 2..16, not 17"),
        (lambda v: arithmetic.hinge_errors(v, v, 9), "label must hold values in 0..1, found 2"),
        (lambda v: arithmetic.hinge_errors(v, v[:1], 9), "score and label must have equal lengths, not 3 and 1"),
        (lambda v: arithmetic.hinge_errors(v, v // 2, 6), "margin_log2 must be in 7..40, not 6"),
        (lambda v: arithmetic.draw16(1, "dice", 0, 0, 1), "stream must be one of"),
        (lambda v: arithmetic.draw32(-1, "lepu", 0, 0, 1), "seed"),
        (lambda v: arithmetic.draw32(1, "lepu", 0, 0, 2, first=2**32 - 1), "count must be in 0..1, not 2"),
        (lambda v: arithmetic.draw32(1, "lepu", 0, 0, -1), "count"),
    ],
)
def test_primitives(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(np.arange(3))


def test_tensors_and_layers(network):
    for layer in (-1, 2, 1.0, True):
        with pytest.raises((TypeError, ValueError), match="layer must"):
            network.weights(layer)


def test_trainer_and_schedule(network):
    digits = data.from_arrays(
        np.zeros((3, 5), np.uint8), np.arange(3), np.zeros((3, 5), np.uint8), np.arange(3), "tiny"
    )
    with pytest.raises(ShapeError, match="data 'tiny' has 5 inputs, the network 6"):
        Trainer(network).fit(digits)
    with pytest.raises(ShapeError, match="data 'tiny' has 3 classes, the network 2"):
        Trainer(Network([5, 2])).fit(digits)
    with pytest.raises(ValueError, match="epochs must be in 1..100000, not 0"):
        Trainer(network).fit(digits, epochs=0)
    with pytest.raises(TypeError, match="network must be a Network, not str"):
        Trainer("net")
    with pytest.raises(ValueError, match="layer_pipeline and phase_overlap must be False"):
        Trainer(Network(SIZES, rule="bp"), layer_pipeline=True)
    with pytest.raises(TypeError, match="layer_pipeline must be True or False, not 1"):
        Schedule(schedules.map_network(network, Chip.load()), Chip.load(), layer_pipeline=1)
    with pytest.raises(ValueError, match="counters hold no finished image"):
        Trainer(network).figures()


def test_operating_points():
    chip = Chip.load()
    for voltage in (0.5, 1.2, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"voltage must be in 0.56..1.05 V, not"):
            report.point_at(chip, voltage)
    with pytest.raises(ValueError, match="frequency must be in 0..450 MHz at 1.05 V, not 451"):
        report.point_at(chip, 1.05, 451)

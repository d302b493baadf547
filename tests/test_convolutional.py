"""A12: whole trainings of convolutions, pooling and score windows against the slow model; A9; what is refused."""

import itertools
import pickle
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import slow
import slow_image
import slow_schedule
from conftest import small_chip
from random_networks import (
    Case,
    differences,
    fast_format,
    long_batch_case,
    random_case,
    random_geometry,
    random_way,
    roomy_case,
    slow_shapes,
)

from sppim_core import Conv, Network, Schedule, Trainer, Window, _core, data, layer_formats
from sppim_core.schedule import map_network

RULES = slow.RULES


def check_case(case: Case, ways) -> None:
    model, digests = case.run_slow(), set()
    for how in ways:
        network, left = case.run_fast(**how)
        assert differences(case, model, network, left) == [], how
        digests.add(network.digest())
    assert len(digests) == 1
    if case.rule in ("local", "drtp"):  # A8.4: the same bits
        other = "sequential" if case.execution == "pipelined" else "pipelined"
        assert case.run_fast(execution=other)[0].digest() in digests


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(25))
def test_training_is_that_of_the_slow_model(seed, rule):
    rng = random.Random(f"{seed} {rule}")
    case = random_case(rng, 20_000, rule)
    check_case(case, [random_way(rng, case) for _ in range(4)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(600))
def test_more_trainings(seed):
    rng = random.Random(seed)
    case = random_case(rng, 60_000)
    check_case(case, [random_way(rng, case) for _ in range(5)])


@pytest.mark.parametrize("seed", range(4))
def test_gradients_summed_in_parts(seed):
    """More than 4096 positions in a batch."""
    rng = random.Random(seed)
    case = long_batch_case(rng)
    check_case(case, [{"isa": isa} for isa in _core.isa_names()] + [random_way(rng, case) for _ in range(3)])


@pytest.mark.parametrize("seed", range(12))
def test_updates_that_are_not_done_in_place(seed):
    rng = random.Random(f"roomy {seed}")
    case = roomy_case(rng)
    check_case(case, [{}, *(random_way(rng, case) | {"batch": case.room} for _ in range(3))])


@pytest.mark.parametrize("rule", RULES)
def test_large_networks_have_one_result_however_it_is_computed(rule):
    """Updates too long to be done in place: more than 2^26 multiplications a batch."""
    layers = [(14, 14, 40), Conv(72, score_window=3), Conv(24, (2, 3), stride=2, pool=("mean", 2)), 30, 10]
    rng = np.random.default_rng(5)
    x = (rng.integers(-128, 128, (2, 24, 14 * 14 * 40)) * (rng.random((2, 24, 1)) < 0.8)).astype(np.int8)
    digests = set()
    for isa, threads, path in [("ref", 1, "auto"), *itertools.product(_core.isa_names()[1:], (2,), _core.PATHS)]:
        network = Network(layers, rule=rule, batch=24, isa=isa, threads=threads, path=path)
        for batch in x:
            network.tick(batch, batch[:, 0].astype(int) % 10)
        digests.add(network.digest())
    assert len(digests) == 1


def test_worked_example_of_the_slow_model():
    """A12.9"""
    geometry = slow.convolution((3, 3, 1), 1, (2, 2), 1, 0)
    fmt = slow.layer_format(geometry, True, False, "local", 8, True) | {"fp_shift": 0}
    counter, V, x = dict.fromkeys(slow.COUNTERS, 0), [[1], [0], [0], [1], [0]], list(range(1, 10))
    rows = slow_image.operands(fmt, x, [0])
    a = [slow.activate(fmt, slow.product(fmt, V, slow.fold(fmt, V, [0]), row, counter), counter) for row in rows]
    assert a == [[6], [8], [12], [14]]
    for kind, y, d, G in (
        ("max", 14, [0, 0, 0, 5], [25, 30, 40, 45]),
        ("mean", 10, [5, 5, 5, 5], [60, 80, 120, 140]),
    ):
        pooled = fmt | {"pooling": kind, "pooling_size": 2}
        assert slow_image.pooled(pooled, a) == [y]
        errors = slow_image.position_errors(pooled, a, [5])
        assert errors == [[value] for value in d]
        assert slow.gradient(pooled, rows, errors, [0], counter)[:4] == [[value] for value in G]


@pytest.mark.parametrize("kind, y, G", [("max", 14, [25, 30, 40, 45, 320]), ("mean", 10, [60, 80, 120, 140, 1280])])
@pytest.mark.parametrize("isa", _core.isa_names())
def test_worked_example(kind, y, G, isa):
    """A12.9; delta = 5 comes from an output weight of 5, whose error is 127: 635 / 2^7."""
    conv, output = layer_formats([(3, 3, 1), Conv(1, 2, padding=0, pool=(kind, 2)), 2], "bp", centred=False)
    conv = replace(conv, fp_shift=0, update_shift=0, update_round="rdn")
    output = replace(output, bp_shift=7, margin_log2=7)
    network = Network([conv, output], rule="bp", batch=1, isa=isa)
    for layer, V in enumerate(([1, 0, 0, 1, 0], [5, 0, 0, 0])):
        network._core.set(layer, 0, (256 * np.array(V, np.int16)).view(np.uint8))
    x = np.arange(1, 10, dtype=np.int8).reshape(1, 9)
    assert network.scores(x).tolist() == [[5 * y, 0]]
    network.tick(x, np.array([1]))
    assert network.weights(0).ravel().tolist() == [256 * v - g for v, g in zip([1, 0, 0, 1, 0], G)]


@pytest.mark.parametrize("seed", range(24))
def test_cycles_of_trainings(seed):
    """C3, C4: what tick() returns, scheduled, against durations and schedule in plain Python."""
    rng = random.Random(f"cycles {seed}")
    case = random_case(rng, 6_000)
    network, left = case.run_fast()
    model = case.run_slow()
    chip = small_chip(rng.choice((1, 4, 32)), rng.choice((8, 64)), 8)
    pipeline, overlap = (False, False) if case.rule == "bp" else (rng.random() < 0.5, rng.random() < 0.5)
    switches = {"layer_pipeline": pipeline, "phase_overlap": overlap, "staleness": case.staleness}
    shapes = map_network(network, chip)
    schedule = Schedule(shapes, chip, case.rule, **switches)
    for _, operands, errors, *_ in left:
        schedule.add_batch(operands, errors)
    slow_chip = {"columns": chip["geometry.columns"], "lepu_lanes": chip["geometry.lepu_lanes"]}
    images = []
    for t, (operands, errors) in enumerate(model.trace):
        for i in range(len(operands[0])):
            phases = [
                slow_schedule.durations(s, s["macros"], slow_chip, operands[l][i], errors[l][i], case.rule)
                for l, s in enumerate(slow_shapes(case.layers, [shape.macros for shape in shapes]))
            ]
            image = {name: [phase[name] for phase in phases] for name in slow_schedule.PHASES}
            images.append(image | {"batch": t, "last": i == len(operands[0]) - 1})
    expected = slow_schedule.schedule(images, case.rule, activation_buffers=8, **switches)
    counters = schedule.counters()
    assert counters.cycles == expected["cycles"]
    for l, layer in enumerate(expected["layers"]):
        assert {name: int(counters[name][l]) for name in layer} == layer


def test_a_trainer_counts_cycles_of_pooled_layers():
    """Mean pooling hands every error to all positions of its window: more errors than outputs."""
    rng = np.random.default_rng(3)
    x, labels = rng.integers(0, 128, (40, 12 * 12)).astype(np.int8), rng.integers(0, 3, 40).astype(np.int32)
    for rule, pooling in itertools.product(RULES, ("max", "mean")):
        trainer = Trainer(Network([(12, 12, 1), Conv(4, pool=(pooling, 3), score_window=2), 3], rule=rule, batch=8))
        trainer.fit(data.Dataset("noise", x, labels, x, labels, 3, (12, 12, 1)), 1)
        assert trainer.counters().cycles > 0 and trainer.counters().total("images") == 80


def test_saved_networks_go_on_alike(tmp_path):
    for seed in range(12):
        case = random_case(random.Random(f"saved {seed}"), 4_000)
        network = case.network()
        for batch in case.batches[:-1]:
            network.tick(*batch)
        network.drain()
        network.save(tmp_path / "network.npz")
        others = [Network.load(tmp_path / "network.npz", isa="ref"), pickle.loads(pickle.dumps(network))]
        for each in [network, *others]:
            each.tick(*case.batches[-1])
            each.drain()
        assert {each.digest() for each in others} == {network.digest()}


# A9


def conv_of(geometry, default_scores):
    window = geometry["window"]
    return Conv(
        geometry["outputs"],
        (window["rows"], window["columns"]),
        window["stride"],
        window["padding"],
        None if geometry["pooling"] == "none" else (geometry["pooling"], geometry["pooling_size"]),
        None if default_scores else geometry["score_window"],
    )


@pytest.mark.parametrize("seed", range(100))
def test_default_formats(seed):
    rng = random.Random(f"formats {seed}")
    rule, bits, centred = rng.choice(RULES), rng.randint(2, 16), rng.random() < 0.5
    image = rng.randint(1, 90), rng.randint(1, 90), rng.choice((1, 3, 32, 48))
    layers, convs, first_image = [], [], image
    for _ in range(rng.randint(1, 3)):
        geometry = random_geometry(rng, image, rng.choice((1, 2, 16, 31, 32, 33)))
        if geometry is None or slow_image.output_values(geometry) > 2**17:
            continue
        default_scores = rng.random() < 0.5
        if default_scores:
            geometry["score_window"] = slow.default_score_window(geometry)
        convs.append(conv_of(geometry, default_scores))
        layers.append(geometry)
        image = slow.output_image(geometry)
    values = image[0] * image[1] * image[2]
    if values > 65535 or not convs:
        return
    layers += [slow.dense(values, 17), slow.dense(17, 10)]
    slow_formats = [slow.layer_format(g, l == 0, g is layers[-1], rule, bits, centred) for l, g in enumerate(layers)]
    fast_formats = layer_formats([first_image, *convs, 17, 10], rule, bits, centred)
    assert [asdict(fast) for fast in fast_formats] == [asdict(fast_format(fmt)) for fmt in slow_formats]


# What is refused


def windowed_classes(image, kernel, **window):
    """An output layer of 10 classes that reads an image through a window."""
    inputs = image[0] * image[1] * image[2]
    window = Window(*image, *kernel, **window)
    return replace(layer_formats([inputs, 10])[0], window=window)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Network([(64, 64, 1), Conv(2), 10], batch=17), r"batch must be at most 16, not 17: layer 0 has 4096"),
        (lambda: Network([(256, 257, 1), Conv(1, pool=16), 10], batch=1), "positions .* 65536, not 65792"),
        (lambda: Network([(1024, 1024, 2), Conv(1, stride=64), 10]), r"layers\[1\]: inputs .* 1048576, not 2097152"),
        (lambda: Network([(1024, 1025, 1), Conv(1, stride=64), 10]), r"height x width .* 1048576, not 1049600"),
        (lambda: Network([(256, 256, 1), Conv(17, pool=16), 10], batch=1), "activations .* 1048576, not 1114112"),
        (lambda: Network([(256, 256, 1), Conv(3), 10], batch=1), "outputs .* 131072, not 196608"),
        (lambda: Network([(29, 29, 82), Conv(3, 29), 10]), r"layers\[1\]: operands of a position .* 65535, not 68962"),
        (lambda: Network([8, Conv(2, 1), Conv(2, 2), 10]), r"layers\[2\]: a window of 2 x 2 is larger"),
        (lambda: Network([(6, 6, 1), Conv(2, pool=7), 10]), r"layers\[1\]: pooling by 7 does not fit 6 x 6 positions"),
        (lambda: Network([(6, 6, 1), Conv(2, pool=("max", 17)), 10]), "pool must be in 2..16, not 17"),
        (lambda: Network([(6, 6, 1), Conv(2, pool=1), 10]), "pool must be in 2..16, not 1"),
        (lambda: Network([(6, 6, 1), Conv(2, pool=("sum", 2)), 10]), "pool must be one of max, mean"),
        (lambda: Network([(2, 2, 1), Conv(2, 5, padding=1), 10]), "a window of 5 x 5 is larger than images of 2 x 2"),
        (lambda: Conv(2, 3, padding=3), r"padding must be in 0..2, not 3"),
        (lambda: Conv(2, (3, 1), padding=1), r"padding must be in 0..0, not 1"),
        (lambda: Conv(2, (3, 1, 1)), r"kernel must be a size or \(rows, columns\)"),
        (lambda: Conv(2, score_window=17), "score_window must be in 1..16, not 17"),
        (lambda: Conv(2, stride=0), "stride must be in 1..255, not 0"),
        (lambda: Network([windowed_classes((3, 3, 2), (2, 2))]), "one position and no pooling"),
        (lambda: replace(layer_formats([4, 3])[0], pooling="max", pooling_size=2), "pooling and score_window"),
        (lambda: replace(layer_formats([4, 3])[0], score_window=2), "pooling and score_window need a window"),
        (lambda: replace(layer_formats([4, 3])[0], pooling_size=2), "pooling_size must be in 0..0, not 2"),
        (lambda: replace(windowed_classes((3, 3, 2), (3, 3)), pooling="max", pooling_size=2), "pooling by 2"),
        (lambda: replace(windowed_classes((3, 3, 2), (3, 3)), inputs=19), "inputs must be height x width x channels"),
        (lambda: Window(3, 3, 1, 4, 4), "a window of 4 x 4 is larger than images of 3 x 3 with padding 0"),
        (lambda: Network([(6, 6), Conv(2), 10]), r"layers\[0\] must be a number of inputs or"),
        (lambda: Network([(0, 6, 1), Conv(2), 10]), r"layers\[0\] must be in"),
    ],
)
def test_bounds_of_a_convolution(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_output_layer_is_no_convolution_by_name():
    with pytest.raises(TypeError, match=r"layers\[1\] \(classes\) must be an integer, not Conv"):
        Network([(6, 6, 1), Conv(2)])


def test_the_largest_of_what_is_allowed():
    """A12.1 at its bounds, one position a pixel or one for all."""
    assert Network([(256, 256, 1), Conv(16, 1, pool=16, score_window=1), 10], batch=1).sizes[1] == 16 * 16 * 16
    assert layer_formats([(1024, 1024, 1), Conv(1, 255, stride=255, padding=0), 2])[0].inputs == 2**20
    for rule, channels in itertools.product(("local", "bp"), (1, 2)):
        assert Network([(64, 64, channels), Conv(2), 10], batch=16, rule=rule).formats[0].positions == 4096

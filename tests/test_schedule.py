"""C2 to C4: durations and schedule against the independent simulator, counting against closed forms."""

import itertools
import random

import numpy as np
import pytest
import slow_schedule
from conftest import small_chip

from sppim_core import Chip, Schedule, report, workload
from sppim_core.schedule import Shape, baseline, count_batch, map_network, not_resident, share_macros

PHASES = ("fp", "ep", "gc", "up")


def random_shapes(rng, layers):
    """Dense layers, some of them made convolutions of up to four positions, pooled or with score windows."""
    sizes = [rng.randint(1, 60) for _ in range(layers)] + [rng.randint(2, 12)]
    shapes = []
    for k, n in zip(sizes, sizes[1:]):
        positions = rng.choice((1, 1, 2, 4))
        pooled = int(positions > 1 and rng.random() < 0.5)
        outputs = n * positions // (2 if pooled else 1)
        shapes.append(
            Shape(
                rows=k,
                columns=n,
                positions=positions,
                inputs=k,
                outputs=outputs,
                classes=sizes[-1],
                macros=rng.randint(1, 5),
                bias=rng.randint(0, 1),
                centred=rng.randint(0, 1),
                pooled=pooled,
                features=rng.choice((outputs, rng.randint(1, outputs))),
            )
        )
    return shapes


def slow_result(shapes, chip, rule, batches, **switches):
    """The same work through tests/slow_schedule.py."""
    geometry = {"columns": chip["geometry.columns"], "lepu_lanes": chip["geometry.lepu_lanes"]}
    images = []
    for t, (operands, errors) in enumerate(batches):
        for i in range(operands.shape[1]):
            phases = [
                slow_schedule.durations(
                    vars(s) | {"first": l == 0, "last": l == len(shapes) - 1},
                    s.macros,
                    geometry,
                    int(operands[l, i]),
                    int(errors[l, i]),
                    rule,
                )
                for l, s in enumerate(shapes)
            ]
            image = {name: [phase[name] for phase in phases] for name in ("FP", "EP", "GC", "UP")}
            images.append(image | {"batch": t, "last": i == operands.shape[1] - 1})
    return slow_schedule.schedule(images, rule, activation_buffers=chip["geometry.activation_buffers"], **switches)


def assert_same(schedule, slow):
    counters = schedule.counters()
    assert counters.cycles == slow["cycles"]
    for layer, expected in enumerate(slow["layers"]):
        for name, value in expected.items():
            assert int(counters[name][layer]) == value, (layer, name)


def random_batches(rng, shapes, batches):
    for _ in range(batches):
        n = rng.randint(1, 5)
        density = rng.random()
        yield tuple(
            np.array([[rng.randint(0, int(limit * density)) for _ in range(n)] for limit in limits], np.uint32)
            for limits in ([s.rows * s.positions for s in shapes], [s.columns * s.positions for s in shapes])
        )


@pytest.mark.parametrize(
    "rule, layer_pipeline, phase_overlap",
    [*itertools.product(("local", "drtp", "dfa"), (True, False), (True, False)), ("bp", False, False)],
)
def test_against_the_independent_simulator(rule, layer_pipeline, phase_overlap):
    rng = random.Random(f"{rule}{layer_pipeline}{phase_overlap}")
    for _ in range(200):
        layers = rng.randint(1, 5)
        chip = small_chip(rng.randint(1, 8), rng.choice((8, 64, 128)), rng.randint(max(1, layers - 1), 6))
        shapes, staleness = random_shapes(rng, layers), rng.randint(0, 2)
        batches = list(random_batches(rng, shapes, rng.randint(1, 5)))
        switches = {"layer_pipeline": layer_pipeline, "phase_overlap": phase_overlap, "staleness": staleness}
        schedule = Schedule(shapes, chip, rule, **switches)
        for batch in batches:
            schedule.add_batch(*batch)
            schedule.counters()  # reading in between changes nothing
        assert_same(schedule, slow_result(shapes, chip, rule, batches, **switches))


def test_worked_example():
    """C4: FP (4, 2), EP (1, 0), GC (3, 3): 13 cycles, 26 without overlap."""
    images = [{"FP": [4, 2], "EP": [1, 0], "GC": [3, 3], "UP": [0, 0], "batch": 0, "last": i == 1} for i in range(2)]
    for switch, cycles in ((True, 13), (False, 26)):
        assert slow_schedule.schedule(images, "local", switch, switch, 4, 0)["cycles"] == cycles


@pytest.mark.parametrize(
    "layer_pipeline, phase_overlap, cycles, bubble",
    [(True, True, 1024, 0.006), (True, False, 1559, 0.002), (False, True, 4019, 0.002), (False, False, 6676, 0.002)],
)
def test_pipelining_levels_of_the_reference(layer_pipeline, phase_overlap, cycles, bubble):
    """Steady state of REF-B by hand (C3): longest stage; longest layer; all FP; all phases.

    What comes on top are rounded-up durations, updates and the drain before them."""
    run = workload.count_reference(Chip.load(), layer_pipeline=layer_pipeline, phase_overlap=phase_overlap)
    per_image = run.counters.cycles / run.images
    assert cycles <= per_image <= cycles * (1 + bubble)


def test_busy_and_stall_fit_into_the_cycles():
    run = workload.count_reference(Chip.load(), batches=3)
    c = run.counters
    lepu = sum(c.total(f"ep_{kind}_cycles") for kind in ("busy", "stall"))
    assert 0 < lepu <= c.cycles
    for layer in range(c.layers):
        assert c["fp_busy_cycles"][layer] + c["fp_stall_cycles"][layer] <= c.cycles
        arrays = sum(int(c[f"{phase}_{kind}_cycles"][layer]) for phase in ("gc", "up") for kind in ("busy", "stall"))
        assert arrays <= c.cycles
    serial = run.baseline
    assert sum(serial.total(f"{phase}_busy_cycles") for phase in PHASES) == serial.cycles


def test_counts_in_closed_form():
    """One dense layer of C2, by hand."""
    shape = Shape(rows=3, columns=2, positions=1, inputs=3, outputs=2, classes=2, macros=1)
    counted = count_batch([shape, shape], "local", np.array([[3, 1], [2, 0]]), np.array([[2, 0], [1, 2]]))
    assert counted["fp_macs_total"].tolist() == [2 * 6 + 8] * 2
    assert counted["fp_macs_skipped"].tolist() == [2 * 2, 4 * 2]
    assert counted["gc_macs_skipped"].tolist() == [3 * 2, 3 * 1]
    assert counted["gc_macs_done"].tolist() == [2 * 3 + 8, 1 * 2 + 8]
    assert counted["pot_macs_total"].tolist() == [2 * 2 * 2 * 2, 0]
    for phase in ("fp", "gc"):
        parts = sum(counted[f"{phase}_macs_{part}"] for part in ("done", "skipped", "gated"))
        assert (parts == counted[f"{phase}_macs_total"]).all()


def test_counts_of_a_convolution_in_closed_form():
    """C2 for a layer of 5 rows, 3 columns, 4 positions, no bias: which activation meets which error is not known."""
    shape = Shape(
        rows=5, columns=3, positions=4, inputs=16, outputs=12, classes=2, macros=1, bias=0, centred=0, weight_bytes=4
    )
    counted = count_batch([shape, shape], "bp", np.array([[7, 20], [0, 1]]), np.array([[4, 0], [12, 5]]))
    assert counted["input_values"].tolist() == [40, 40] and counted["input_zeros"].tolist() == [13, 39]
    assert counted["fp_macs_total"].tolist() == [2 * 60] * 2
    assert counted["fp_macs_done"].tolist() == [27 * 3, 1 * 3]
    assert counted["gc_macs_total"].tolist() == [2 * 60] * 2
    assert counted["gc_macs_done"].tolist() == [4 * 5, 17 * 5]
    assert counted["gc_macs_skipped"].tolist() == [20 * 5, 7 * 5]
    assert counted["gc_macs_gated"].tolist() == [0, 0]
    assert counted["ep_macs_done"].tolist() == [0, 17 * 5]
    assert counted["ema_weight_read_bytes"].tolist() == [2 * 15 * 4, 3 * 15 * 4]
    assert counted["ema_activation_read_bytes"].tolist() == [2 * 2 * 16] * 2
    assert counted["ema_error_write_bytes"].tolist() == [0, 2 * 16]


@pytest.mark.parametrize("batch, cut", [(16, 50.8), (128, 59.09), (8192, 60.7)])
def test_traffic_cut_depends_on_the_batch(batch, cut):
    """Weak point 2 of C6."""
    chip = Chip.load()
    run = workload.count_reference(chip, batches=1, batch=batch)
    share = report.external_bytes(chip, run.counters) / report.external_bytes(chip, run.baseline)
    assert 100 * (1 - share) == pytest.approx(cut, abs=0.05)


def test_traffic_cut_has_the_published_ratio_where_it_must():
    """C2: with one word size a layer moves 2r+3 words locally, 6r+4 under bp: 13/22 at r = 3."""
    n, words = 3, 64
    shape = Shape(
        rows=8,
        columns=8,
        positions=1,
        inputs=words,
        outputs=8,
        classes=8,
        macros=1,
        bias=0,
        centred=0,
        activation_bytes=1,
        weight_bytes=1,
    )
    square = [Shape(**{**shape.__dict__, "inputs": words, "outputs": 64, "positions": 8})] * 3
    operands, errors = np.full((3, n), 8), np.full((3, n), 8)

    def total(rule, layer):
        counted = count_batch(square, rule, operands, errors)
        return sum(
            int(counted[f"ema_{name}_{way}_bytes"][layer])
            for name in ("activation", "error", "weight")
            for way in ("read", "write")
        )

    assert (total("local", 1), total("bp", 1)) == ((2 * 3 + 3) * words, (6 * 3 + 4) * words)


def test_mapping():
    from sppim_core import Network

    assert share_macros([6272, 2048, 256], 16) == [11, 4, 1]
    with pytest.raises(ValueError, match="20 layers do not fit a chip of 16 macros"):
        share_macros([1] * 20, 16)
    shapes = map_network(Network([784, 256, 256, 10]), Chip.load())
    assert [shape.macros for shape in shapes] == [11, 4, 1]
    assert sum(shape.weights for shape in shapes) == 784 * 256 + 256 + 256 * 256 + 256 + 2560 + 10
    assert [shape.tiles(Chip.load()) for shape in shapes] == [4 * 8, 8, 1]
    assert not_resident(shapes, Chip.load()) == [0, 1]


def test_reference_workload():
    shapes = workload.reference_shapes(Chip.load())
    assert [shape.macros for shape in shapes] == [3, 3, 3, 3, 3, 1]  # C6
    assert sum(s.rows * s.columns * s.positions for s in shapes) == 693_248  # C6
    assert sum(s.weights for s in shapes) == 43_520
    assert workload.spread(0.45, 1000, 7).sum() == int(0.45 * 7000)


def test_refusals():
    chip, shapes = Chip.load(), workload.reference_shapes(Chip.load())
    with pytest.raises(ValueError, match="rule 'bp' is the baseline"):
        Schedule(shapes, chip, "bp")
    with pytest.raises(ValueError, match="activation_buffers must be at least 5, not 4"):
        Schedule(shapes, chip, "dfa")
    schedule = baseline(shapes, chip)
    with pytest.raises(ValueError, match="operand_nonzeros of layer 0 must be at most 3072, found 1000000"):
        schedule.add_batch(np.full((6, 1), 10**6), np.zeros((6, 1), np.uint32))
    with pytest.raises(TypeError, match="chip must be a Chip"):
        Schedule(shapes, "ref-b")
    with pytest.raises(TypeError, match=r"shapes\[0\] must be a Shape, not 1"):
        Schedule([1, 2], chip)
    with pytest.raises(ValueError, match="shapes must name one layer"):
        Schedule([], chip)
    with pytest.raises(ValueError, match="rows must be in 1..1048576, not -3"):
        Shape(rows=-3, columns=2, positions=1, inputs=3, outputs=2, classes=2, macros=1)
    with pytest.raises(ValueError, match="outputs must be columns x positions = 4, or less if pooled, not 2"):
        Shape(rows=3, columns=2, positions=2, inputs=3, outputs=2, classes=2, macros=1)
    with pytest.raises(ValueError, match="batches must be in"):
        workload.count_reference(chip, batches=0)
    with pytest.raises(ValueError, match="activation_sparsity must be in 0..1"):
        workload.count_reference(chip, activation_sparsity=float("nan"))
    with pytest.raises(ValueError, match="6 layers"):
        schedule.add_batch(np.zeros((5, 1), np.uint32), np.zeros((5, 1), np.uint32))
    with pytest.raises(ValueError, match="operand_nonzeros must hold values in 0..4294967295, found -1"):
        schedule.add_batch(np.full((6, 1), -1), np.zeros((6, 1), np.uint32))
    assert schedule.counters().cycles == 0


def stale_schedule(rule):
    switch = rule != "bp"
    shapes = random_shapes(random.Random(1), 3)
    return Schedule(shapes, Chip.load(), rule, layer_pipeline=switch, phase_overlap=switch, staleness=1)


@pytest.mark.parametrize("rule", ["local", "dfa", "bp"])
def test_a_schedule_goes_on_from_its_state(rule):
    rng = np.random.default_rng(3)
    batches = [(rng.integers(0, 9, (3, 5)), rng.integers(0, 5, (3, 5))) for _ in range(40)]
    whole, first = stale_schedule(rule), stale_schedule(rule)
    for i, batch in enumerate(batches):
        whole.add_batch(*batch)
        first.add_batch(*batch)
        if i % 3 == 0:
            second = stale_schedule(rule)
            second.restore(first.state())
            first = second
    assert first.counters() == whole.counters() and (first.state() == whole.state()).all()


def test_a_damaged_state_is_refused_or_harmless():
    """No words crash the schedule; those of no schedule, of another one or too few change nothing."""
    schedule, other = stale_schedule("dfa"), stale_schedule("local")
    counts = np.full((3, 5), 8, np.uint32), np.full((3, 5), 4, np.uint32)
    for _ in range(9):
        schedule.add_batch(*counts)
    state, refused = schedule.state(), 0
    too_few_or_many = [(words, schedule) for words in (state[:-1], state[:0], np.append(state, state))]
    for words, target in (*too_few_or_many, (state, other)):
        with pytest.raises(ValueError):
            target.restore(words)
    for position in range(len(state)):
        for value in (2**64 - 1, 2**63, 1, 0, 3):
            damaged = state.copy()
            damaged[position] = value
            try:
                schedule.restore(damaged)
            except ValueError:
                refused += 1
            schedule.add_batch(*counts)
            schedule.counters()
            schedule.restore(state)
    assert refused > len(state)

"""A5 to A9: whole training runs against the slow model, and independence of how they are computed."""

import itertools
import pickle

import numpy as np
import pytest
import slow_network
from conftest import assert_same_state, paired_formats, random_batches
from slow import mlp_formats as slow_formats

from sppim_core import Network, _core, layer_formats
from sppim_core.arithmetic import hinge_errors

SIZES = [20, 12, 10, 4]
RULES = ("local", "drtp", "dfa", "bp")
MODES = [
    (rule, execution, staleness)
    for rule, execution, staleness in itertools.product(RULES, ("sequential", "pipelined"), (0, 1, 2))
    if (rule, execution) != ("bp", "pipelined")
]


def run_both(
    sizes, rule="local", execution="sequential", staleness=0, changes={}, accumulator=None, batches=7, options={}, **how
):
    """Trains the package's network and the slow model on the same batches."""
    fast, slow = paired_formats(sizes, rule, changes, accumulator, **options)
    network = Network(fast, rule=rule, seed=3, batch=8, execution=execution, staleness=staleness, **how)
    model = slow_network.SlowNetwork(slow, rule, 3, execution, staleness)
    left = []
    for x, labels, rate_shift in random_batches(sizes, batches):
        left.append(network.tick(x, labels, rate_shift))
        model.tick(x.tolist(), labels.tolist(), rate_shift)
    left += network.drain()
    model.drain()
    return network, model, [batch for batch in left if batch is not None]


def _errors_of(scores, label, margin_log2):
    return hinge_errors(scores, (np.arange(len(scores)) == label).astype(np.uint8), margin_log2)[0]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("product_bits", [8, 16, 5])
@pytest.mark.parametrize("rule, execution, staleness", MODES)
def test_training_is_that_of_the_slow_model(rule, execution, staleness, product_bits, centred):
    network, model, left = run_both(
        SIZES, rule, execution, staleness, options={"product_bits": product_bits, "centred": centred}
    )
    assert_same_state(network, model)
    assert [batch.batch for batch in left] == list(range(7))
    for batch, (slow_inputs, slow_errors) in zip(left, model.trace, strict=True):
        assert batch.input_nonzeros.tolist() == slow_inputs and batch.error_nonzeros.tolist() == slow_errors
    for batch, (_, labels, _) in zip(left, random_batches(SIZES), strict=True):
        margin = network.formats[-1].margin_log2
        errors = [_errors_of(scores, label, margin) for scores, label in zip(batch.scores, labels, strict=True)]
        assert batch.labels.tolist() == labels.tolist()
        assert np.count_nonzero(errors, axis=1).tolist() == batch.error_nonzeros[-1].tolist()
    x = next(random_batches(SIZES, seed=9))[0]
    assert network.scores(x).tolist() == model.scores(x.tolist())


@pytest.mark.parametrize("product_bits", [15, 16])
def test_sums_beyond_32_bits(product_bits):
    """The largest operands, more of them than an s32 sum holds: kernels spill exactly, on every level and path."""
    layers, _ = paired_formats([1100, 17, 3], "local", {"fp_shift": 30}, product_bits=product_bits)
    largest = np.full((1101, 17), 32639, np.int16)
    largest[:, 1::2] *= -1
    x = np.repeat(np.array([[-128], [127]], np.int8), 1100, axis=1)

    def product_weights(w):
        drop, limit = 16 - product_bits, (1 << (product_bits - 1)) - 1
        return np.clip((w.astype(np.int64) + (1 << drop >> 1)) >> drop, -limit, limit)

    sums = x.astype(np.int64) @ product_weights(largest)[:-1] + 64 * product_weights(largest)[-1]
    hidden = np.clip((sums + (1 << 29)) >> 30, 0, 127)
    assert np.abs(sums).max() > 2**31 and hidden.max() > 1
    for isa, path in itertools.product(_core.isa_names(), _core.PATHS):
        network = Network(layers, isa=isa, path=path)
        network._core.set(0, 0, largest.ravel().view(np.uint8))
        second = product_weights(network.weights(1))
        assert network.scores(x).tolist() == (hidden @ second[:-1] + 64 * second[-1]).tolist(), (isa, path)


@pytest.mark.parametrize(
    "accumulator", [(8, "saturate"), (10, "wrap"), (12, "saturate"), (16, "wrap"), (32, "saturate")]
)
@pytest.mark.parametrize("rule", RULES)
def test_finite_accumulators(rule, accumulator):
    network, model, _ = run_both(SIZES, rule, accumulator=accumulator)
    assert_same_state(network, model)
    assert (network.counters().total("acc_saturations") > 0) == (accumulator[0] < 17)


@pytest.mark.parametrize(
    "changes",
    [{"fp_round": mode} for mode in _core.ROUNDINGS[:4]]
    + [{"update_round": mode} for mode in _core.ROUNDINGS]
    + [
        {"update_shift": 0},
        {"activation_max": 15},
        {"delta_shift": 0},
        {"pot_levels": 7},
        {"pot_levels": 3},
        {"margin_log2": 7},
        {"init_bound": 32639},
    ],
    ids=str,
)
def test_every_open_number_of_a_format(changes):
    network, model, _ = run_both(SIZES, changes=changes)
    assert_same_state(network, model)


def test_saturation_is_reached_everywhere():
    """The runs above mean little where nothing ever saturates."""
    network, model, _ = run_both(
        SIZES, changes={"update_shift": 0, "margin_log2": 7, "delta_shift": 0, "fp_shift": 0, "init_bound": 32639}
    )
    assert_same_state(network, model)
    for name in ("activation", "error", "delta", "weight"):
        assert network.counters().total(f"{name}_saturations") > 0, name


@pytest.mark.parametrize(
    "sizes", [[1, 2], [1, 1, 2], [3, 1, 1, 2], [65, 257, 3], [64, 256, 2], [63, 17, 255, 10], [130, 16, 15, 3]]
)
@pytest.mark.parametrize("isa", _core.isa_names())
def test_tails_of_tiles_and_registers(sizes, isa):
    network, model, _ = run_both(sizes, isa=isa, batches=3)
    assert_same_state(network, model)


def test_formats_are_those_of_the_slow_model():
    for sizes in ([1, 2], [64, 128, 128, 10], [784, 256, 256, 10], [65535, 2], [5, 65535, 2], [3072, 1000, 100]):
        for rule, bits, centred in itertools.product(RULES, (2, 4, 8, 16), (True, False)):
            for fast, slow in zip(
                layer_formats(sizes, rule, bits, centred), slow_formats(sizes, rule, bits, centred), strict=True
            ):
                assert {name: getattr(fast, name) for name in slow if "acc_" not in name} == {
                    name: value for name, value in slow.items() if "acc_" not in name
                }


def test_matrix_of_the_lepu():
    from slow import pot_matrix

    network = Network([9, 7, 5, 3], seed=11)
    for layer in range(2):
        assert network.pot_codes(layer).tolist() == pot_matrix(11, layer, 3, network.sizes[layer + 1], 4)


def digest(sizes=(70, 300, 40, 5), batches=6, **how):
    network = Network(list(sizes), batch=8, **how)
    for x, labels, rate_shift in random_batches(sizes, batches):
        network.tick(x, labels, rate_shift)
    network.drain()
    return network.digest()


@pytest.mark.parametrize("rule", RULES)
def test_one_result_however_it_is_computed(rule):
    expected = digest(rule=rule, isa="ref")
    for isa, threads, path in itertools.product(_core.isa_names(), (1, 2, 3, 4, 8), _core.PATHS):
        assert digest(rule=rule, isa=isa, threads=threads, path=path) == expected, (isa, threads, path)


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("rule", ["local", "drtp"])
def test_pipelined_gives_the_bits_of_sequential(rule, staleness):
    assert digest(rule=rule, staleness=staleness, execution="pipelined") == digest(rule=rule, staleness=staleness)


def test_where_pipelining_is_stale():
    """A8.4: dfa differs when pipelined, bp refuses, staleness changes bits."""
    assert digest(rule="dfa", execution="pipelined") != digest(rule="dfa")
    assert digest(staleness=1) != digest()
    with pytest.raises(ValueError, match="execution 'pipelined' is not possible with rule 'bp'"):
        Network([4, 3, 2], rule="bp", execution="pipelined")


def test_the_seed_is_everything():
    assert digest(seed=1) == digest(seed=1) != digest(seed=2)


def test_saved_pickled_and_copied_networks_go_on_alike(tmp_path):
    import copy

    network = Network([20, 12, 4], batch=8)
    batches = list(random_batches([20, 12, 4]))
    for x, labels, shift in batches[:4]:
        network.tick(x, labels, shift)
    network.save(tmp_path / "network.npz")
    others = [
        Network.load(tmp_path / "network.npz", threads=2, isa="ref"),
        pickle.loads(pickle.dumps(network)),
        copy.deepcopy(network),
    ]
    for each in [network, *others]:
        for x, labels, shift in batches[4:]:
            each.tick(x, labels, shift)
    assert {each.digest() for each in others} == {network.digest()}
    assert [file.name for file in tmp_path.iterdir()] == ["network.npz"]


def test_empty_places_change_nothing():
    plain, gaps = Network([20, 12, 4], batch=8), Network([20, 12, 4], batch=8, execution="pipelined")
    for x, labels, shift in random_batches([20, 12, 4]):
        plain.tick(x, labels, shift)
        gaps.tick(x, labels, shift)
        gaps.tick()
    gaps.drain()
    assert gaps.digest() == plain.digest()


def test_predictions_take_the_lowest_of_equal_classes():
    from dataclasses import replace

    network = Network([replace(layer, init_bound=0) for layer in layer_formats([5, 4])])
    assert network.predict(np.ones((3, 5), np.int8)).tolist() == [0, 0, 0]

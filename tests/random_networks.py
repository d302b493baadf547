"""Random small networks with convolutions for the package and for the slow model, and random batches for them."""

import random
from dataclasses import dataclass

import numpy as np
import slow_network
from slow import RULES, convolution, dense, layer_format, output_image
from slow_image import fan_in, feature_count, output_grid, output_values, positions, window

from sppim_core import Accumulator, LayerFormat, Network, Window, _core

ROUNDINGS = ("rnu", "rne", "rdn", "rod")


def fast_format(fmt) -> LayerFormat:
    """A layer of the slow model as the package has it."""
    named = {name: value for name, value in fmt.items() if "acc_" not in name}
    named["window"] = fmt["window"] and Window(**fmt["window"])
    for name in ("fp", "gc"):
        named[f"{name}_accumulator"] = Accumulator(fmt[f"{name}_acc_bits"], fmt[f"{name}_acc_overflow"])
    return LayerFormat(**named)


@dataclass
class Case:
    """What decides the bits of a run. means: M of every layer, or None for zeros."""

    layers: list
    rule: str
    execution: str
    staleness: int
    seed: int
    batches: list
    means: list | None = None

    @property
    def largest_batch(self):
        return max(len(labels) for _, labels, _ in self.batches)

    @property
    def room(self):
        """A much larger batch that the network may be made for: its updates may then not be done in place."""
        values = max(max(fmt["inputs"], output_values(fmt)) for fmt in self.layers)
        return max(self.largest_batch, min(65535, 2**16 // max(map(positions, self.layers)), 2**23 // values))

    def network(self, **how) -> Network:
        network = Network(
            [fast_format(fmt) for fmt in self.layers],
            rule=self.rule,
            seed=self.seed,
            **{"batch": self.largest_batch, "execution": self.execution, "staleness": self.staleness, **how},
        )
        for layer, M in enumerate(self.means or []):
            if self.layers[layer]["centred"]:
                network._core.set(layer, _core.TENSORS.index("means"), np.array(M, np.int16).view(np.uint8))
        return network

    def model(self) -> slow_network.SlowNetwork:
        model = slow_network.SlowNetwork(self.layers, self.rule, self.seed, self.execution, self.staleness)
        if self.means:
            model.M = [list(M) for M in self.means]
            model.follow()
        return model

    def run_fast(self, **how):
        network, left = self.network(**how), []
        for x, labels, rate_shift in self.batches:
            left.append(network.tick(x, labels, rate_shift))
        left += network.drain()
        return network, [batch for batch in left if batch is not None]

    def run_slow(self):
        model = self.model()
        for x, labels, rate_shift in self.batches:
            model.tick(x.tolist(), labels.tolist(), rate_shift)
        model.drain()
        return model


def macs(layers):
    """Multiplications of one image, forward."""
    return sum(positions(fmt) * fmt["outputs"] * fan_in(fmt) for fmt in layers)


def random_channels(rng):
    return rng.choice((1, 2, 3, 4, 5, 7, 8, 9, rng.randint(10, 40), rng.choice((31, 32, 33, 63, 64, 65))))


def random_geometry(rng, image, channels):
    """A convolution over the image, or None if the sizes drawn do not fit."""
    kernel = rng.randint(1, 4), rng.randint(1, 4)
    padding = rng.randint(0, min(kernel) - 1)
    pooling = rng.choice((("none", 0), ("max", 2), ("mean", 2), ("max", 3), ("mean", 3)))
    unpooled = convolution(image, channels, kernel, rng.randint(1, 3), padding, score_window=1)
    if any(length + 2 * padding < size for length, size in zip(image, kernel)):
        return None
    if pooling[0] != "none" and min(output_grid(unpooled)) < pooling[1]:
        return None
    score_window = rng.choice((None, 1, 2, 3, 16))
    return convolution(image, channels, kernel, unpooled["window"]["stride"], padding, pooling, score_window)


def windowed_output(rng, image, classes):
    """An output layer that reads an image through a window with one position: the whole of it, or a part."""
    down, across, _ = image
    rows, columns = rng.randint((down + 1) // 2, down), rng.randint((across + 1) // 2, across)
    padding = rng.randint(0, min(rows, columns) - 1)
    stride = max(down + 2 * padding - rows, across + 2 * padding - columns) + 1
    return convolution(image, classes, (rows, columns), stride, padding, score_window=1)


def random_geometries(rng):
    """1 to 3 convolutions and up to 2 fully connected layers, and the output layer."""
    image = rng.choice((1, 2, 4, 5, 6, 7, 8, 9)), rng.choice((1, 2, 4, 5, 6, 7, 8, 9)), random_channels(rng)
    if rng.random() < 0.1:
        image = 1, 1, image[2]
    layers = []
    for _ in range(rng.randint(1, 3)):
        layer = None
        while layer is None:
            layer = random_geometry(rng, image, random_channels(rng))
        layers.append(layer)
        image = output_image(layer)
    classes = rng.choice((2, 3, 4, 5, 10, 11, 17, 33))
    if rng.random() < 0.3:
        return [*layers, windowed_output(rng, image, classes)]
    values = output_values(layers[-1])
    for _ in range(rng.choice((0, 0, 1, 2))):
        layers.append(dense(values, random_channels(rng)))
        values = layers[-1]["outputs"]
    return [*layers, dense(values, classes)]


def random_changes(rng, fmt):
    """Numbers of a layer's format away from A9."""
    accumulator = rng.choice(((0, "saturate"),) * 3 + ((rng.randint(8, 20), "saturate"), (rng.randint(8, 20), "wrap")))
    other = rng.choice((accumulator, (0, "saturate")))
    changes = {
        "fp_acc_bits": accumulator[0],
        "fp_acc_overflow": accumulator[1],
        "gc_acc_bits": other[0],
        "gc_acc_overflow": other[1],
        "fp_round": rng.choice(ROUNDINGS),
        "update_round": rng.choice((*ROUNDINGS, "sr", "sr", "sr")),
        "activation_max": rng.choice((127, 127, 127, rng.randint(1, 126))),
        "pot_levels": rng.randint(1, 7),
        "weight_bits": rng.choice((16, 16, rng.randint(8, 15))),
        "error_bits": rng.choice((8, 8, rng.randint(2, 7))),
        "error_threshold": rng.choice((0, 0, rng.randint(0, 127))),
        "update_shift": max(0, fmt["update_shift"] - rng.choice((0, 3, 6, 12))),
        "fp_shift": max(0, fmt["fp_shift"] - rng.choice((0, 0, 1, 3, 8))),
        "margin_log2": max(7, fmt["margin_log2"] - rng.choice((0, 0, 2, 4))),
        "delta_shift": rng.choice((4, 4, 2, 0)),
        "bp_shift": max(0, fmt["bp_shift"] - rng.choice((0, 0, 2, 8))),
        "init_bound": rng.choice((fmt["init_bound"], fmt["init_bound"], 32639)),
    }
    return {name: value for name, value in changes.items() if rng.random() < 0.7}


def random_batches(rng, layers, sizes):
    """Batches (x int8, labels int32, rate_shift) of so many images, sparse or not, negative values or none."""
    values = np.random.default_rng(rng.randrange(2**32))
    low, density = rng.choice((-128, 0)), rng.choice((0.1, 0.5, 0.9, 1.0))
    inputs, classes = layers[0]["inputs"], layers[-1]["outputs"]
    for n in sizes:
        x = values.integers(low, 128, (n, inputs)) * (values.random((n, inputs)) < density)
        yield x.astype(np.int8), values.integers(0, classes, n).astype(np.int32), rng.choice((0, 0, 1, 3))


def random_means(rng, layers):
    """M of any sign, as far as A7.4 can bring it; a layer that is not centred keeps 0."""
    limit = rng.choice((300, 8000, 32512))
    return [
        [rng.randint(-limit, limit) if fmt["centred"] else 0 for _ in range(window(fmt)["channels"])] for fmt in layers
    ]


def random_case(rng: random.Random, work=400_000, rule=None) -> Case:
    """A run of at most about so many multiplications forward."""
    geometries = random_geometries(rng)
    while macs(geometries) > work / 4:
        geometries = random_geometries(rng)
    rule = rule or rng.choice(RULES)
    bits, centred, last = rng.choice((8, 8, rng.randint(2, 16))), rng.random() < 0.75, len(geometries) - 1
    layers = [layer_format(g, l == 0, l == last, rule, bits, centred) for l, g in enumerate(geometries)]
    if rng.random() < 0.7:
        layers = [fmt | random_changes(rng, fmt) for fmt in layers]
    execution = "sequential" if rule == "bp" else rng.choice(("sequential", "pipelined"))
    images = max(4, min(rng.choice((30, 30, 30, 700)), work // macs(layers)))
    sizes = [rng.randint(1, max(1, images // 2)) for _ in range(rng.randint(2, 5))]
    while sum(sizes) > images and len(sizes) > 2:
        sizes.pop()
    means = random_means(rng, layers) if rng.random() < 0.5 else None
    batches = list(random_batches(rng, layers, sizes))
    return Case(layers, rule, execution, rng.randint(0, 2), rng.randrange(2**64), batches, means)


def long_batch_case(rng: random.Random) -> Case:
    """More than 4096 positions in a batch: what an image adds to the gradient is summed in parts."""
    side, channels, kernel = rng.randint(14, 16), rng.randint(1, 3), rng.randint(1, 3)
    pooling = rng.choice((("none", 0), ("max", 2), ("mean", 3)))
    first = convolution((side, side, channels), rng.randint(1, 4), (kernel, kernel), 1, (kernel - 1) // 2, pooling)
    layers, rule, bits, centred = [first], rng.choice(RULES), rng.randint(2, 16), rng.random() < 0.7
    if rng.random() < 0.5:
        layers.append(convolution(output_image(first), 3, (2, 2), 2, 0))
    layers.append(dense(output_values(layers[-1]), 3))
    last = len(layers) - 1
    layers = [layer_format(g, l == 0, l == last, rule, bits, centred) for l, g in enumerate(layers)]
    if rng.random() < 0.7:
        layers = [fmt | random_changes(rng, fmt) for fmt in layers]
    n = 4096 // positions(layers[0]) + rng.randint(1, 4)
    execution = "sequential" if rule == "bp" else rng.choice(("sequential", "pipelined"))
    batches = list(random_batches(rng, layers, (n, 3, n)))
    return Case(layers, rule, execution, rng.randint(0, 1), rng.randrange(2**64), batches, random_means(rng, layers))


def roomy_case(rng: random.Random) -> Case:
    """With room for its largest batch, more than 2^26 multiplications: the network's updates are not done in place."""
    while True:
        case = random_case(rng, 40_000)
        if macs(case.layers) * case.room > 2**26:
            return case


def slow_shapes(layers, macros) -> list[dict]:
    """The layers as tests/slow_schedule.py wants them."""
    return [
        {
            "rows": fan_in(fmt),
            "columns": fmt["outputs"],
            "positions": positions(fmt),
            "outputs": output_values(fmt),
            "features": feature_count(fmt),
            "classes": layers[-1]["outputs"],
            "macros": macros[l],
            "bias": 1,
            "centred": fmt["centred"],
            "pooled": fmt["pooling"] != "none",
            "first": l == 0,
            "last": l == len(layers) - 1,
        }
        for l, fmt in enumerate(layers)
    ]


def random_way(rng, case: Case) -> dict:
    """How the package computes: level, threads, path, room for larger batches."""
    how = {"isa": rng.choice(_core.isa_names()), "threads": rng.randint(1, 3), "path": rng.choice(_core.PATHS)}
    return how | ({"batch": case.room} if rng.random() < 0.4 else {})


def differences(case: Case, model, network, left) -> list[str]:
    """Where a run of the package differs from that of the slow model."""
    found, counters = [], network.counters()
    for l in range(len(case.layers)):
        for name, ours, theirs in (
            ("weights", network.weights(l), model.W[l]),
            ("means", network.means(l), model.M[l]),
            ("score_bias", network.score_bias(l), model.score_bias[l]),
        ):
            if ours.tolist() != theirs:
                found.append(f"{name} of layer {l}")
        if l < len(case.layers) - 1 and network.pot_codes(l).tolist() != model.R[l]:
            found.append(f"pot_codes of layer {l}")
        for name, value in model.counters[l].items():
            if int(counters[name][l]) != value:
                found.append(f"{name} of layer {l}: {int(counters[name][l])}, slow {value}")
    if [batch.batch for batch in left] != list(range(len(case.batches))):
        found.append("numbers of the batches that left")
    for batch, (slow_operands, slow_errors) in zip(left, model.trace, strict=True):
        if batch.input_nonzeros.tolist() != slow_operands:
            found.append(f"operands of batch {batch.batch}")
        if batch.error_nonzeros.tolist() != slow_errors:
            found.append(f"errors of batch {batch.batch}")
    x = np.concatenate([x for x, _, _ in case.batches])[: case.largest_batch + 2]  # more than a batch
    if network.scores(x).tolist() != model.scores(x.tolist()):
        found.append("scores")
    return found

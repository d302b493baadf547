"""Networks in words, and their formats (A9, A12)."""

from dataclasses import replace

import numpy as np
import pytest

from sppim_core import Conv, LayerFormat, Network, ShapeError, Window, layer_formats
from sppim_core.layers import coarser_activations, describe, parse

IMAGE = (8, 8, 3)


@pytest.mark.parametrize(
    "text, layers",
    [
        ("", []),
        ("256,64", [256, 64]),
        ("32c3", [Conv(32, (3, 3))]),
        ("32c3m2", [Conv(32, (3, 3), pool=("max", 2))]),
        ("8c5x3s2p1a3v2, 10", [Conv(8, (5, 3), 2, 1, ("mean", 3), 2), 10]),
    ],
)
def test_words(text, layers):
    assert parse(text) == layers


@pytest.mark.parametrize(
    "text", ["x", "32c", "c3", "32c3m", "32c3q2", "256,,64", "-3", "1.5", "0", "32c0", "32c3m1", "32c3p3"]
)
def test_words_that_are_none(text):
    with pytest.raises(ValueError):
        parse(text)


def test_describe_is_what_parse_reads():
    hidden = "16c5s2p1m2-20c2x3a2-7"
    formats = layer_formats([(20, 30, 3), *parse(hidden.replace("-", ",")), 4])
    assert describe(formats) == f"20x30x3-{hidden}-4"
    assert describe(layer_formats([5, 3, 2])) == "5-3-2"


def test_geometry():
    first, second, last = layer_formats([IMAGE, Conv(5, pool=2), Conv(7, 2, padding=0), 4])
    assert (first.fan_in, first.positions, first.image, first.values) == (27, 64, (4, 4, 5), 80)
    assert (second.fan_in, second.positions, second.image) == (20, 9, (3, 3, 7))
    assert (last.window, last.inputs, last.image) == (None, 63, (1, 1, 4))
    network = Network([first, second, last])
    assert network.sizes == [192, 80, 63, 4] and network.image == IMAGE
    assert network.weights(1).shape == (21, 7) and network.means(1).shape == (5,)
    assert network.pot_codes(1).shape == (4, 63) and network.pot_codes(2).size == 0


def test_score_windows_leave_four_by_four_features():
    formats = layer_formats([(32, 20, 1), Conv(4), Conv(4, pool=2), Conv(4, pool=4), 2])
    assert [layer.score_window for layer in formats] == [8, 4, 1, 1]


@pytest.mark.parametrize(
    "layers, message",
    [
        ([IMAGE, Conv(4, 9, padding=0), 2], "window of 9 x 9 is larger than images of 8 x 8"),
        ([IMAGE, Conv(4, pool=9), 2], r"layers\[1\]: pooling by 9 does not fit 8 x 8 positions"),
        ([(8, 8), Conv(4), 2], r"layers\[0\] must be a number of inputs or \(height, width, channels\), not \(8, 8\)"),
        ([IMAGE, Conv(4), Conv(4)], r"layers\[2\] \(classes\)"),
        ([(300, 300, 1), 5, 2], r"values into layers\[1\] must be in 1..65535, not 90000"),
    ],
)
def test_layers_that_do_not_fit(layers, message):
    with pytest.raises((ShapeError, TypeError, ValueError), match=message):
        layer_formats(layers)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": 0}, "channels must be in 1..65535, not 0"),
        ({"channels": 4, "kernel": (3,)}, r"kernel must be a size or \(rows, columns\), not \(3,\)"),
        ({"channels": 4, "kernel": 1.5}, "kernel must be an integer"),
        ({"channels": 4, "stride": 0}, "stride must be in 1..255, not 0"),
        ({"channels": 4, "padding": 3}, "padding must be in 0..2, not 3"),
        ({"channels": 4, "pool": 1}, "pool must be in 2..16, not 1"),
        ({"channels": 4, "pool": ("sum", 2)}, "pool must be"),
        ({"channels": 4, "score_window": 17}, "score_window must be in 1..16, not 17"),
    ],
)
def test_convolutions_that_are_none(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Conv(**arguments)


def test_positions_of_a_batch_are_bounded():
    with pytest.raises(ValueError, match="batch must be at most 64, not 65: layer 0 has 1024 positions"):
        Network([(32, 32, 3), Conv(4), 2], batch=65)


def test_windows_and_formats_that_contradict_each_other():
    first, last = layer_formats([IMAGE, Conv(4), 2])
    for changes, message in (
        ({"inputs": 191}, "inputs must be height x width x channels of the window, not 191"),
        ({"pooling": "max"}, "pooling_size must be in 2..16, not 0"),
        ({"pooling_size": 2}, "pooling_size must be in 0..0, not 2"),
        ({"pooling": "max", "pooling_size": 9}, "pooling by 9"),
        ({"window": (8, 8)}, "window must be a Window"),
        ({"weight_bits": 7}, "weight_bits must be in 8..16, not 7"),
        ({"error_bits": 1}, "error_bits must be in 2..8, not 1"),
        ({"error_threshold": 128}, "error_threshold must be in 0..127, not 128"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            replace(first, **changes)
    with pytest.raises(ValueError, match="pooling and score_window need a window"):
        replace(last, score_window=2)
    with pytest.raises(ShapeError, match="a window of 9 x 3 is larger"):
        Window(8, 8, 1, 9, 3)
    with pytest.raises(ShapeError, match="must have one position"):
        Network([first])


def test_fewer_bits_of_activations_keep_their_range():
    plain = layer_formats([IMAGE, Conv(4, pool=2), 6, 3])
    coarse = coarser_activations(plain, 4)
    assert [layer.activation_max for layer in coarse] == [15, 15, 127]
    assert [a.fp_shift - b.fp_shift for a, b in zip(coarse, plain)] == [3, 0, 0]
    assert [a.update_shift - b.update_shift for a, b in zip(coarse, plain)] == [0, -3, -3]
    assert coarser_activations(plain, 7) == plain
    assert all(isinstance(layer, LayerFormat) for layer in coarse)


def test_a_network_reads_images_as_they_are():

    network = Network([IMAGE, Conv(4), 3], batch=4)
    x = np.arange(2 * 192, dtype=np.uint8).reshape(2, *IMAGE)
    flat = (x.astype(int) - 128).astype(np.int8).reshape(2, -1)  # A2.1: colour
    assert network.scores(x).tolist() == network.scores(flat).tolist()
    with pytest.raises(ShapeError, match=r"x must have shape \(n, 192\) or \(n, 8, 8, 3\), not \(2, 3, 8, 8\)"):
        network.scores(x.transpose(0, 3, 1, 2).copy())

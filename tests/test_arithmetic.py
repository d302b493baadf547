"""A1 to A4: every primitive against the slow model, exhaustively at 8 bits, on all ties and edges at 16."""

import itertools

import numpy as np
import pytest
import slow

from sppim_core import arithmetic

BYTES = np.arange(-128, 128)
EDGES_16 = np.unique(
    np.concatenate(
        [  # all ties of all shifts, and their neighbours; both ends
            [
                sign * (odd << (shift - 1)) + step
                for shift in range(1, 16)
                for odd in range(1, 65536 >> shift, 2)
                for sign in (-1, 1)
                for step in (-1, 0, 1)
            ],
            [-32768, -32767, 0, 32766, 32767],
        ]
    ).clip(-32768, 32767)
)


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
@pytest.mark.parametrize("values", [BYTES, EDGES_16], ids=["all 8-bit", "edges 16-bit"])
def test_requantize(values, rounding):
    bits = 8 if values is BYTES else 16
    for shift in range(bits + 2):
        expected = [slow.requantize(int(x), shift, rounding, -100, 90) for x in values]
        assert arithmetic.requantize(values, shift, rounding, -100, 90).tolist() == expected


def test_requantize_worked_bits():
    """The table of A1.1."""
    x = np.array([-7, -6, -5, -3, -2, -1, 1, 2, 3, 5, 6, 7])
    table = {
        "rnu": [-2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2],
        "rne": [-2, -2, -1, -1, 0, 0, 0, 0, 1, 1, 2, 2],
        "rdn": [-2, -2, -2, -1, -1, -1, 0, 0, 0, 1, 1, 1],
        "rod": [-1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1],
    }
    for rounding, expected in table.items():
        assert arithmetic.requantize(x, 2, rounding, -128, 127).tolist() == expected


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
def test_requantize_at_the_ends_of_s64(rounding):
    x = np.array([-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 1])
    for shift in (1, 31, 32, 62):
        expected = [slow.requantize(int(v), shift, rounding, -(2**63), 2**63 - 1) for v in x]
        assert arithmetic.requantize(x, shift, rounding, -(2**63), 2**63 - 1).tolist() == expected


@pytest.mark.parametrize("shift", range(10))
def test_stochastic_rounding_exhaustive(shift):
    """Every byte with every random number whose product with 2^shift crosses a step, and its neighbours."""
    steps = np.arange(0, 65537, max(1, 65536 >> shift))
    u = np.unique(np.concatenate([steps - 1, steps, steps + 1]).clip(0, 65535))
    x, u = (grid.ravel() for grid in np.meshgrid(BYTES, u))
    expected = [slow.stochastic(int(a), shift, int(b)) for a, b in zip(x, u, strict=True)]
    assert arithmetic.round_stochastic(x, u, shift).tolist() == expected


@pytest.mark.parametrize("shift", [1, 7, 8, 15, 16, 17, 31, 46])
def test_stochastic_rounding_at_the_edges(shift):
    largest = [-(2**31) + 1, -(2**30), 2**30, 2**31 - 1]
    x, u = np.meshgrid(np.concatenate([EDGES_16[::97], largest]), [0, 1, 255, 256, 32767, 32768, 65535])
    expected = [slow.stochastic(int(a), shift, int(b)) for a, b in zip(x.ravel(), u.ravel(), strict=True)]
    assert arithmetic.round_stochastic(x.ravel(), u.ravel(), shift).tolist() == expected


def test_stochastic_rounding_is_unbiased():
    u = np.arange(65536)
    for x in (5, -5, 1234567, -1234567):
        mean = arithmetic.round_stochastic(np.full(65536, x), u, 7).mean()
        assert mean == x / 128


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_fit(overflow):
    values = np.unique(
        np.concatenate(
            [np.arange(-1100, 1101), EDGES_16]
            + [[k * 2**b + d for k in (-3, -2, -1, 1, 2, 3) for d in (-1, 0, 1)] for b in range(7, 33)]
        )
    )
    for bits in [0, *range(8, 33)]:
        pairs = [slow.fit(int(x), bits, overflow) for x in values]
        fitted, changed = arithmetic.fit(values, bits, overflow)
        assert fitted.tolist() == [value for value, _ in pairs]
        assert changed == sum(bool(c) for _, c in pairs)


def test_pot_mac_exhaustive():
    code, x = (grid.ravel() for grid in np.meshgrid(np.arange(16), BYTES))
    acc = (np.arange(len(x)) * 7919) % 1001 - 500
    expected = [slow.pot_mac(int(a), int(b), int(c)) for a, b, c in zip(acc, x, code, strict=True)]
    assert arithmetic.pot_mac(acc, x, code).tolist() == expected
    assert arithmetic.pot_mac(np.array([5]), np.array([-3]), np.array([0b1010])).tolist() == [17]  # A4.2


@pytest.mark.parametrize("product_bits", range(2, 17))
def test_product_weights(product_bits):
    """Every master weight at 8 bits; bytes, ties and edges at the others."""
    w = (
        np.arange(-32639, 32640)
        if product_bits == 8
        else np.concatenate([BYTES, EDGES_16[abs(EDGES_16) < 32640][::13]])
    )
    [expected] = slow.product_weights({"product_bits": product_bits}, [w.tolist()])
    assert arithmetic.product_weights(w, product_bits).tolist() == expected


@pytest.mark.parametrize("margin_log2", [7, 8, 9, 12, 40])
def test_hinge(margin_log2):
    """A6.1: all scores within two margins of zero at small margins, edges and ties at large ones."""
    tau = 2**margin_log2
    step = max(1, tau >> 10)
    score = np.unique(
        np.concatenate([np.arange(-2 * tau, 2 * tau, step) + d for d in (-1, 0, 1)] + [[-(2**62) + 1, 2**62 - 1]])
    )
    for label in (0, 1):
        counter = {"error_saturations": 0}
        expected = [slow.hinge([int(z)], 0 if label else None, margin_log2, counter)[0] for z in score]
        errors, saturated = arithmetic.hinge_errors(score, np.full(len(score), label), margin_log2)
        assert errors.tolist() == expected and saturated == counter["error_saturations"] > 0
    assert arithmetic.hinge_errors(np.array([300]), np.array([1]), 9)[0].tolist() == [-53]  # worked bits


def test_draws():
    for seed, layer, step in itertools.product((0, 1, 2**64 - 1), (0, 3), (0, 10**12)):
        for number, stream in enumerate(arithmetic.STREAMS, 1):
            key = slow.key(seed, number, layer, step)
            assert arithmetic.draw32(seed, stream, layer, step, 20).tolist() == [slow.draw32(key, i) for i in range(20)]
            assert arithmetic.draw16(seed, stream, layer, step, 21, first=5).tolist() == [
                slow.draw16(key, i) for i in range(5, 26)
            ]
    last = 2**32 - 1
    assert arithmetic.draw16(7, "lepu", 0, 0, 1, first=last).tolist() == [slow.draw16(slow.key(7, 2, 0, 0), last)]


def test_mix32_published_values():
    """The finalizer of MurmurHash3 x86_32 as published: fmix32(1) and fmix32(0xDEADBEEF)."""
    assert slow.mix32(0) == 0
    assert slow.mix32(1) == 0x514E28B7
    assert slow.mix32(0xDEADBEEF) == 0x0DE5C6A9


def test_image_order_is_a_permutation():
    order = arithmetic.image_order(3, 2, 1000)
    assert order.tolist() == slow.order(3, 2, 1000)
    assert sorted(order.tolist()) == list(range(1000))


def test_quantize_inputs():
    grey = np.array([0, 1, 254, 255], np.uint8)
    assert arithmetic.quantize_inputs(grey).tolist() == [0, 0, 127, 127]
    for shape, colour in (((2, 2, 2, 3), True), ((2, 4, 3), False), ((2, 2, 3, 2), False), ((8, 3), False)):
        x = np.resize(grey, shape)
        expected = x.astype(int) - 128 if colour else x // 2
        assert arithmetic.quantize_inputs(x).tolist() == expected.tolist()
    half_ulp = 1 / 256
    x = np.array(
        [
            0.0,
            -0.0,
            5e-324,
            half_ulp,
            np.nextafter(half_ulp, 0),
            -half_ulp,
            0.996,
            1.0,
            -1.0,
            -2.0,
            np.inf,
            -np.inf,
            np.nextafter(127.5 / 128, 0),
            1e308,
        ]
    )
    assert arithmetic.quantize_inputs(x).tolist() == [0, 0, 0, 1, 0, 0, 127, 127, -128, -128, 127, -128, 127, 127]
    assert arithmetic.quantize_inputs(x[:-1].astype(np.float32)).tolist()[:3] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"x holds NaN at \(1, 0\)"):
        arithmetic.quantize_inputs(np.array([[0.0], [np.nan]]))

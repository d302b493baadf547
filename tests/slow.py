"""The arithmetic (docs/arithmetic.md) and the counters (docs/chip.md, C2) on plain Python integers.

Written from the words of the two documents alone, to be obviously right rather than fast. Multiplications
are counted one by one, not by the closed forms of C2; only the traffic follows the table of C2.
"""

from fractions import Fraction
from math import floor, isqrt

from slow_image import fan_in, feature_count, means_of_rows, output_grid, positions

RULES = ("local", "drtp", "dfa", "bp")
MASK32, MASK64 = 2**32 - 1, 2**64 - 1
STREAM_WEIGHTS, STREAM_LEPU, STREAM_ROUNDING, STREAM_ORDER, STREAM_AUGMENTATION = 1, 2, 3, 4, 5  # A3.5
WEIGHT_MAX, SCORE_BIAS_MAX = 32639, 2**30  # A2
BIAS_INPUT = 64  # A2: constant input of the bias

COUNTERS = (
    "images",
    "batches",
    "input_values",
    "input_zeros",
    "error_values",
    "error_zeros",
    "fp_macs_total",
    "fp_macs_skipped",
    "fp_macs_gated",
    "fp_macs_done",
    "ep_macs_total",
    "ep_macs_skipped",
    "ep_macs_gated",
    "ep_macs_done",
    "gc_macs_total",
    "gc_macs_skipped",
    "gc_macs_gated",
    "gc_macs_done",
    "pot_macs_total",
    "pot_macs_done",
    "pot_macs_gated",
    "acc_saturations",
    "activation_saturations",
    "error_saturations",
    "delta_saturations",
    "weight_saturations",
    "sram_activation_read_bytes",
    "sram_activation_write_bytes",
    "sram_error_read_bytes",
    "sram_error_write_bytes",
    "sram_weight_read_bytes",
    "sram_weight_write_bytes",
    "sram_gradient_read_bytes",
    "ema_activation_read_bytes",
    "ema_activation_write_bytes",
    "ema_error_read_bytes",
    "ema_error_write_bytes",
    "ema_weight_read_bytes",
    "ema_weight_write_bytes",
    "ema_random_read_bytes",
)


# A1 Rounding and overflow


def shr(x, s, mode):
    """A1.1: x / 2^s rounded to an integer."""
    if not 0 <= s <= 62:
        raise ValueError("A1.1: the shift must be 0..62")
    exact = Fraction(x, 2**s)
    if mode == "rnu":
        return floor(exact + Fraction(1, 2))
    if mode == "rne":
        return round(exact)  # Python rounds a Fraction to nearest, ties to even
    if mode == "rdn":
        return floor(exact)
    if mode == "rod":
        below = floor(exact)
        return below + 1 if exact != below and below % 2 == 0 else below
    raise ValueError("A1.1: unknown mode %r" % (mode,))


def stochastic(x, s, u):
    """A1.2: floor((x + floor(u 2^s / 2^16)) / 2^s)."""
    if not 0 <= s <= 46:
        raise ValueError("A1.2: the shift must be 0..46")
    return (x + u * 2**s // 2**16) // 2**s


def sat(x, lo, hi):
    """A1.3: lo if x < lo, hi if x > hi, else x."""
    return lo if x < lo else hi if x > hi else x


def wrap(x, bits):
    """A1.4: the integer in -2^(B-1) .. 2^(B-1)-1 that is congruent to x modulo 2^B."""
    residue = x % 2**bits
    return residue - 2**bits if residue >= 2 ** (bits - 1) else residue


def requantize(x, s, mode, lo, hi):
    """A1.5: round first, then saturate."""
    return sat(shr(x, s, mode), lo, hi)


def fit(x, bits, overflow):
    """A1.6: the accumulator's rule; bits 0 is wide. Returns (value, changed)."""
    if bits == 0:
        return x, False
    if overflow == "saturate":
        value = sat(x, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    elif overflow == "wrap":
        value = wrap(x, bits)
    else:
        raise ValueError("A1.6: unknown overflow rule %r" % (overflow,))
    return value, value != x


# A3 Random numbers


def mix32(x):
    """A3.1: modulo 2^32."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & MASK32
    x ^= x >> 13
    x = x * 0xC2B2AE35 & MASK32
    return x ^ x >> 16


def mix64(x):
    """A3.2: modulo 2^64."""
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & MASK64
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & MASK64
    return x ^ x >> 33


def key(seed, stream, layer, step):
    """A3.3: (k0, k1), the low and the high half."""
    k = 0
    for word in (seed, stream, layer, step):
        k = mix64(((k ^ word) + 0x9E3779B97F4A7C15) & MASK64)
    return k & MASK32, k >> 32


def draw32(k, i):
    """A3.4: mix32(((i xor k1) + k0) mod 2^32)."""
    k0, k1 = k
    return mix32(((i ^ k1) + k0) & MASK32)


def draw16(k, i):
    """A3.4: the low half of draw32(key, i div 2) for even i, the high half for odd i."""
    both = draw32(k, i // 2)
    return both // 2**16 if i % 2 else both % 2**16


def order(seed, epoch, count):
    """A3.6: the images by ascending draw32(key(seed, 4, 0, p), i)."""
    k = key(seed, STREAM_ORDER, 0, epoch)
    return sorted(range(count), key=lambda i: draw32(k, i))


def augment(rows, index, seed, epoch, flip, crop, fill):
    """A3.7: an image as rows of pixels of channels, as the epoch shows it."""
    u = draw32(key(seed, STREAM_AUGMENTATION, 0, epoch), index)
    v = u % 2**15 * (2 * crop + 1) // 2**15 - crop
    h = u // 2**15 % 2**15 * (2 * crop + 1) // 2**15 - crop
    mirrored = flip and u >= 2**31
    height, width = len(rows), len(rows[0])

    def pixel(y, x):
        row, column = y + v, (width - 1 - x if mirrored else x) + h
        inside = 0 <= row < height and 0 <= column < width
        return rows[row][column] if inside else fill

    return [[pixel(y, x) for x in range(width)] for y in range(height)]


# A4 Power-of-two codes


def pot_value(code):
    """A4.1: bit 3 is the sign, bits 2..0 the exponent; E = 7 codes zero."""
    sign, exponent = divmod(code, 8)
    return 0 if exponent == 7 else (-1) ** sign * 2**exponent


def pot_mac(acc, x, code):
    """A4.2: acc +- (x << E); acc for the zero code."""
    return acc + x * pot_value(code)


def pot_matrix(seed, layer, classes, outputs, levels):
    """A4.3: R[c][j] as codes (j: features, A12.4); sign is bit 15 of u, exponent ((u mod 32768) x levels) div 32768."""
    k = key(seed, STREAM_LEPU, layer, 0)

    def code(i):
        sign, rest = divmod(draw16(k, i), 32768)
        return 8 * sign + rest * levels // 32768

    return [[code(c * outputs + j) for j in range(outputs)] for c in range(classes)]


# A9 Formats


def ceil_log2(n):
    """A9: the smallest i with 2^i >= n."""
    i = 0
    while 2**i < n:
        i += 1
    return i


def round_log2(k):
    """A9: the integer i with 2^(2i-1) <= K^2 < 2^(2i+1)."""
    i = 0
    while k * k >= 2 ** (2 * i + 1):
        i += 1
    return i


# A9: rates (centred, not centred); a or b of A9 comes on top
RATES = {"local": (11, 7), "drtp": (18, 17), "dfa": (13, 14), "bp": (5, 6), "output": (9, 7)}


def mlp_formats(sizes, rule, product_bits=8, centred=True):
    """A9: the default format of every layer of a perceptron with sizes = [inputs, hidden..., classes]."""
    last = len(sizes) - 2
    return [
        layer_format(dense(sizes[l], sizes[l + 1]), l == 0, l == last, rule, product_bits, centred)
        for l in range(last + 1)
    ]


def dense(inputs, outputs):
    """The geometry of a fully connected layer."""
    geometry = {"inputs": inputs, "outputs": outputs, "window": None}
    return geometry | {"pooling": "none", "pooling_size": 0, "score_window": 1}


def convolution(image, channels, kernel, stride, padding, pooling=("none", 0), score_window=None):
    """A12.1: the geometry of a convolution; image = (height, width, channels), kernel = (rows, columns)."""
    window = dict(zip(("height", "width", "channels"), image))
    window |= {"rows": kernel[0], "columns": kernel[1], "stride": stride, "padding": padding}
    geometry = dense(image[0] * image[1] * image[2], channels)
    geometry |= {"window": window, "pooling": pooling[0], "pooling_size": pooling[1]}
    return geometry | {"score_window": default_score_window(geometry) if score_window is None else score_window}


def default_score_window(geometry):
    """A9: the smallest v of 1..16 that leaves at most 4 x 4 features a channel; 16 if none does."""
    for v in range(1, 17):
        if all(-(-length // v) <= 4 for length in output_grid(geometry)):
            return v
    return 16


def output_image(geometry):
    """A12.3: the image that the next layer reads."""
    return *output_grid(geometry), geometry["outputs"]


def layer_format(geometry, first, last, rule, product_bits, centred):
    """A9: one row of defaults."""
    K, features = fan_in(geometry), feature_count(geometry)
    F = 0
    while 6 * 4**F // K < 2**23:  # "the integer with 2^23 <= 6 x 4^F div K < 2^25"
        F += 1
    bound = isqrt(6 * 4**F // K)
    Fin = 7 if first else 5
    FV = F - 16 + product_bits
    a = (ceil_log2(features) + 1) // 2 + ceil_log2(geometry["score_window"] ** 2)
    rate = RATES["output" if last else rule][0 if centred else 1] + (round_log2(K) if last or rule == "bp" else a)
    moved = geometry["window"] is not None and not last
    if moved:
        rate += {"local": 1, "bp": 4 + ceil_log2(positions(geometry))}.get(rule, 0)
    return geometry | {
        "weight_frac": F,
        "init_bound": bound // 2 if last else bound,
        "product_bits": product_bits,
        "fp_shift": 0 if last else max(0, FV + Fin - (5 if moved else 4)),
        "fp_round": "rnu",
        "activation_max": 127,
        "margin_log2": max(7, FV + Fin) if last else 7 + a,
        "delta_shift": 0 if last else 4,
        "bp_shift": max(0, FV),
        "update_shift": max(0, rate + Fin - F),
        "update_round": "sr",
        "pot_levels": 4,
        "centred": centred,
        "weight_bits": 16,
        "error_bits": 8,
        "error_threshold": 0,
        "fp_acc_bits": 0,
        "fp_acc_overflow": "saturate",
        "gc_acc_bits": 0,
        "gc_acc_overflow": "saturate",
    }


# A5 to A7, for one layer


def initial_weights(fmt, seed, layer):
    """A5.1: ((2B+1) u div 2^16) - B; the bias row is 0."""
    k, N, B = key(seed, STREAM_WEIGHTS, layer, 0), fmt["outputs"], fmt["init_bound"]
    rows = [[(2 * B + 1) * draw16(k, row * N + n) // 2**16 - B for n in range(N)] for row in range(fan_in(fmt))]
    if fmt["weight_bits"] < 16:
        g, L = 16 - fmt["weight_bits"], weight_limit(fmt)
        rows = [[sat(2**g * shr(w, g, "rnu"), -L, L) for w in row] for row in rows]
    return rows + [[0] * N]


def weight_limit(fmt):
    """A7.5: the largest weight of so many bits."""
    g = 16 - fmt["weight_bits"]
    return 2**g * (WEIGHT_MAX // 2**g)


def coarse_error(fmt, d):
    """A6.8"""
    h, g = fmt["error_threshold"], 8 - fmt["error_bits"]
    if -h < d < h:
        return 0
    L = 2**g * (2 ** (fmt["error_bits"] - 1) - 1)
    return d if g == 0 else sat(2**g * shr(d, g, "rne"), -L, L)


def product_weights(fmt, W):
    """A5.2: V = requantize(W, 16 - product_bits, rnu, -h, h)."""
    bits = fmt["product_bits"]
    h = 2 ** (bits - 1) - 1
    return [[requantize(w, 16 - bits, "rnu", -h, h) for w in row] for row in W]


def top_bytes(M):
    """A7.4: m[k] = sat(shr(M[k], 8, rnu), -128, 127)."""
    return [sat(shr(value, 8, "rnu"), -128, 127) for value in M]


def fold(fmt, V, m):
    """A5.3: S[n] = 64 V[K][n] - sum over k < K of m[k] V[k][n]; m is that of the channels (A12.2)."""
    K, m = fan_in(fmt), means_of_rows(fmt, m)
    return [BIAS_INPUT * V[K][n] - sum(m[k] * V[k][n] for k in range(K)) for n in range(fmt["outputs"])]


def accumulate(start, terms, bits, overflow, counter):
    """A1.6: fit is applied to the starting value and after every addition; a wide one is exact."""
    if bits == 0:
        return start + sum(terms)
    acc, changed = fit(start, bits, overflow)
    counter["acc_saturations"] += changed
    for term in terms:
        acc, changed = fit(acc + term, bits, overflow)
        counter["acc_saturations"] += changed
    return acc


def product(fmt, V, S, x, counter):
    """A5.4: acc[n] starts at fit(S[n]), then k = 0, 1, .. K-1 in this order; x are the operands of a position."""
    return [
        accumulate(S[n], [x[k] * V[k][n] for k in range(len(x))], fmt["fp_acc_bits"], fmt["fp_acc_overflow"], counter)
        for n in range(fmt["outputs"])
    ]


def activate(fmt, acc, counter):
    """A5.5: requantize(acc[n], fp_shift, fp_round, 0, activation_max)."""
    rounded = [shr(a, fmt["fp_shift"], fmt["fp_round"]) for a in acc]
    counter["activation_saturations"] += sum(v > fmt["activation_max"] for v in rounded)
    return [sat(v, 0, fmt["activation_max"]) for v in rounded]


def saturate_byte(value, counter, name):
    """sat(value, -127, 127), counted under the given name."""
    counter[name] += abs(value) > 127
    return sat(value, -127, 127)


def hinge(z, label, margin_log2, counter):
    """A6.1: the error of the squared hinge for the scores z."""
    e = []
    for c, score in enumerate(z):
        T = 1 if c == label else -1
        v = score - T * 2**margin_log2
        met = T * v >= 0
        e.append(0 if met else saturate_byte(shr(v, margin_log2 - 7, "rnu"), counter, "error_saturations"))
    return e


def gated_delta(y, sums, shift, counter):
    """A6.5, A6.6: d[j] = requantize(sum, shift, rnu, -127, 127) if y[j] > 0, else 0."""
    return [
        saturate_byte(shr(sums[j], shift, "rnu"), counter, "delta_saturations") if y[j] > 0 else 0
        for j in range(len(y))
    ]


def gradient(fmt, xs, ds, m, counter):
    """A7.1: G[k][n]; the images in order, then the term - m[k] D[n]; the bias row adds 64 d[n] image by image.

    A12.7: xs and ds are those of all positions, image by image and in each position by position; m is per channel."""
    K, N, m = fan_in(fmt), fmt["outputs"], means_of_rows(fmt, m)
    rule = fmt["gc_acc_bits"], fmt["gc_acc_overflow"], counter
    D = [sum(d[n] for d in ds) for n in range(N)]
    G = [
        [accumulate(0, [x[k] * d[n] for x, d in zip(xs, ds)] + [-m[k] * D[n]], *rule) for n in range(N)]
        for k in range(K)
    ]
    return G + [[accumulate(0, [BIAS_INPUT * d[n] for d in ds], *rule) for n in range(N)]]


def updated_weights(fmt, W, G, rate_shift, k, counter):
    """A7.2, A7.3, A7.5: W[k][n] = sat(W[k][n] - 2^g q, -L, L)."""
    s, N, result = fmt["update_shift"] + rate_shift, fmt["outputs"], []
    g, L = 16 - fmt["weight_bits"], weight_limit(fmt)
    for row in range(fan_in(fmt) + 1):
        result.append([])
        for n in range(N):
            if fmt["update_round"] == "sr":
                q = stochastic(G[row][n], min(s + g, 46), draw16(k, row * N + n))
            else:
                q = shr(G[row][n], s + g, fmt["update_round"])
            w = W[row][n] - 2**g * q
            counter["weight_saturations"] += abs(w) > L
            result[row].append(sat(w, -L, L))
    return result


def updated_mean(fmt, M, xs):
    """A7.4: M[c] + shr(b - M[c], 4, rnu), only if the layer is centred; A12.8: xs are the pixels of all images."""
    if not fmt["centred"]:
        return M
    n = len(xs)
    means = [(512 * sum(x[c] for x in xs) + n) // (2 * n) for c in range(len(M))]
    return [old + shr(b - old, 4, "rnu") for old, b in zip(M, means)]


def updated_score_bias(fmt, bias, es, counter):
    """A6.7: sat(score_bias[c] - shr(2^(margin_log2-7) sum of e[c], 8, rnu), -2^30, 2^30)."""
    result = []
    for c, old in enumerate(bias):
        value = old - shr(2 ** (fmt["margin_log2"] - 7) * sum(e[c] for e in es), 8, "rnu")
        counter["weight_saturations"] += abs(value) > SCORE_BIAS_MAX
        result.append(sat(value, -SCORE_BIAS_MAX, SCORE_BIAS_MAX))
    return result


def zeros(rows):
    """C2: the number of zeros, over all rows."""
    return sum(row.count(0) for row in rows)


def count_mac(counter, phase, skipping, gating):
    """C1: a zero of the broadcast operand is skipped; a zero of the other one is gated; the rest is done."""
    fate = "skipped" if skipping == 0 else "gated" if gating == 0 else "done"
    counter[phase + "_macs_total"] += 1
    counter[phase + "_macs_" + fate] += 1


def count_pot(counter, done):
    """C1: all zeros in the LEPU are gated."""
    counter["pot_macs_total"] += 1
    counter["pot_macs_done" if done else "pot_macs_gated"] += 1

"""A12 of docs/arithmetic.md on plain Python integers: how a layer's clauses are moved over an image.

Written from the words alone. An image is a flat list in the order (row, column, channel); what a layer makes of its
positions is a list of positions, row by row, each a list of channels.
"""


# A12.1 Geometry


def window(fmt):
    """A12.1: a fully connected layer is the case of an image of 1 x 1 pixels and a window of 1 x 1."""
    if fmt["window"] is not None:
        return fmt["window"]
    one = dict.fromkeys(("height", "width", "rows", "columns", "stride"), 1)
    return one | {"channels": fmt["inputs"], "padding": 0}


def fan_in(fmt):
    """A12.1: K = R S channels."""
    w = window(fmt)
    return w["rows"] * w["columns"] * w["channels"]


def position_grid(fmt):
    """A11.3: floor((h + 2p - R) / t) + 1 positions down, and likewise across."""
    w = window(fmt)
    down = (w["height"] + 2 * w["padding"] - w["rows"]) // w["stride"] + 1
    across = (w["width"] + 2 * w["padding"] - w["columns"]) // w["stride"] + 1
    return down, across


def positions(fmt):
    """A12.1: P."""
    down, across = position_grid(fmt)
    return down * across


def output_grid(fmt):
    """A12.3: the pixels of the output: the positions, or the whole pooling windows."""
    down, across = position_grid(fmt)
    q = fmt["pooling_size"]
    return (down, across) if fmt["pooling"] == "none" else (down // q, across // q)


def output_values(fmt):
    """A12.3: values of an output image."""
    h, w = output_grid(fmt)
    return h * w * fmt["outputs"]


def feature_grid(fmt):
    """A12.4: ceil(h / v) x ceil(w / v) score windows."""
    h, w = output_grid(fmt)
    v = fmt["score_window"]
    return -(-h // v), -(-w // v)


def feature_count(fmt):
    """A12.4: F."""
    down, across = feature_grid(fmt)
    return down * across * fmt["outputs"]


# A12.2 Operands


def pixels(fmt, x):
    """The image as a list of pixels, each a list of channels."""
    channels = window(fmt)["channels"]
    return [x[first : first + channels] for first in range(0, len(x), channels)]


def readings(fmt):
    """A12.2: for each position, the index in the flat image that each operand k reads, and its channel.

    The index is None where that lies outside the image."""
    w, result = window(fmt), []
    down, across = position_grid(fmt)
    for i in range(down):
        for j in range(across):
            result.append([])
            for r in range(w["rows"]):
                for s in range(w["columns"]):
                    row, column = i * w["stride"] - w["padding"] + r, j * w["stride"] - w["padding"] + s
                    inside = 0 <= row < w["height"] and 0 <= column < w["width"]
                    for c in range(w["channels"]):
                        index = (row * w["width"] + column) * w["channels"] + c
                        result[-1].append((index if inside else None, c))
    return result


def operands(fmt, x, m):
    """A12.2: the operands of every position; m[c] outside the image."""
    return [[m[c] if index is None else x[index] for index, c in reading] for reading in readings(fmt)]


def means_of_rows(fmt, m):
    """A12.2: m[k] is m[c], k = (r, s, c)."""
    w = window(fmt)
    return [m[c] for r in range(w["rows"]) for s in range(w["columns"]) for c in range(w["channels"])]


# A12.3 Pooling


def pooling_windows(fmt):
    """A12.3: for each pixel of the output, row by row, the positions of its window, row by row."""
    across, q = position_grid(fmt)[1], fmt["pooling_size"]
    h, w = output_grid(fmt)
    return [[(i * q + r) * across + j * q + s for r in range(q) for s in range(q)] for i in range(h) for j in range(w)]


def pooled(fmt, a):
    """A12.3: the layer's output y, flat, from the activations a of its positions."""
    if fmt["pooling"] == "none":
        return [value for position in a for value in position]
    y, q = [], fmt["pooling_size"]
    for inside in pooling_windows(fmt):
        for n in range(fmt["outputs"]):
            values = [a[p][n] for p in inside]
            y.append(max(values) if fmt["pooling"] == "max" else (2 * sum(values) + q * q) // (2 * q * q))
    return y


# A12.4 Features


def feature_of_outputs(fmt):
    """A12.4: f(j) for every output j."""
    h, w = output_grid(fmt)
    across, v, N = feature_grid(fmt)[1], fmt["score_window"], fmt["outputs"]
    return [(row // v * across + column // v) * N + n for row in range(h) for column in range(w) for n in range(N)]


def features(fmt, y):
    """A12.4: sums of y over the score windows."""
    sums = [0] * feature_count(fmt)
    for value, f in zip(y, feature_of_outputs(fmt)):
        sums[f] += value
    return sums


# A12.5 Error of a position


def position_errors(fmt, a, delta):
    """A12.5: d of every position from delta, an error per output."""
    N = fmt["outputs"]
    if fmt["pooling"] == "none":
        return [delta[first : first + N] for first in range(0, len(delta), N)]
    d = [[0] * N for _ in a]
    for pixel, inside in enumerate(pooling_windows(fmt)):
        for n in range(N):
            if fmt["pooling"] == "max":
                largest = max(a[p][n] for p in inside)
                receivers = [next(p for p in inside if a[p][n] == largest)]
            else:
                receivers = [p for p in inside if a[p][n] > 0]
            for p in receivers:
                d[p][n] = delta[pixel * N + n]
    return d

"""A8 of docs/arithmetic.md on plain Python integers: a network, its ticks, and the counters of docs/chip.md, C2."""

from slow import (
    BIAS_INPUT,
    COUNTERS,
    RULES,
    STREAM_ROUNDING,
    activate,
    coarse_error,
    count_mac,
    count_pot,
    fold,
    gated_delta,
    gradient,
    hinge,
    initial_weights,
    key,
    pot_mac,
    pot_matrix,
    product,
    product_weights,
    top_bytes,
    updated_mean,
    updated_score_bias,
    updated_weights,
    zeros,
)
from slow_image import (
    fan_in,
    feature_count,
    feature_of_outputs,
    features,
    means_of_rows,
    operands,
    output_values,
    pixels,
    pooled,
    position_errors,
    readings,
    window,
)


def nonzeros(row):
    return len(row) - row.count(0)


class Batch:
    """One batch on its way: what the layers have computed on it so far."""

    def __init__(self, number, x, labels, rate_shift, depth):
        self.number, self.labels, self.rate_shift = number, labels, rate_shift
        self.x = [x] + [None] * depth  # x[l] enters layer l, x[l + 1] leaves it; the last are the scores
        self.a = [None] * depth  # activations of the positions, before pooling
        self.e = [None] * depth
        self.delta = [None] * depth  # an error per output
        self.d = [None] * depth  # an error per position and channel
        self.operand_nonzeros = [None] * depth

    @property
    def retired(self):
        return None not in self.d


class SlowNetwork:
    """A8: the state of all layers; tick() feeds a batch, or an empty place."""

    def __init__(self, layers, rule, seed, execution="sequential", staleness=0):
        if rule not in RULES or execution not in ("sequential", "pipelined"):
            raise ValueError("unknown rule or execution")
        if execution == "pipelined" and rule == "bp":
            raise ValueError("A8.4: bp cannot be pipelined")
        self.layers, self.rule, self.seed = layers, rule, seed
        self.pipelined, self.staleness = execution == "pipelined", staleness
        self.depth, self.classes = len(layers), layers[-1]["outputs"]
        self.W = [initial_weights(fmt, seed, l) for l, fmt in enumerate(layers)]
        self.M = [[0] * window(fmt)["channels"] for fmt in layers]
        self.score_bias = [[0] * self.classes for _ in layers[:-1]] + [[]]
        self.R = [
            pot_matrix(seed, l, self.classes, feature_count(fmt), fmt["pot_levels"])
            for l, fmt in enumerate(layers[:-1])
        ]
        self.counters = [dict.fromkeys(COUNTERS, 0) for _ in layers]
        self.places, self.batches, self.trace = [], 0, []
        self.follow()

    def follow(self):
        """A7.3, A7.4: V, m and S follow W and M."""
        self.V = [product_weights(fmt, W) for fmt, W in zip(self.layers, self.W)]
        self.m = [top_bytes(M) for M in self.M]
        self.S = [fold(*of_layer) for of_layer in zip(self.layers, self.V, self.m)]

    @property
    def in_flight(self):
        """Batches not yet updated from in all layers."""
        return self.batches - len(self.trace)

    def drain(self):
        """A8.3: ticks with an empty place until every batch has been updated from in all layers."""
        while self.in_flight:
            self.tick(None)

    def scores(self, x):
        """A8.5: A5 with the state as it is; nothing is counted."""
        rows = x
        for l in range(self.depth):
            rows = self.layer_outputs(l, rows, dict.fromkeys(COUNTERS, 0))[1]
        return rows

    def tick(self, x, labels=None, rate_shift=0):
        """A8: all updates of a tick take effect together at its end."""
        if x is None:
            self.places.append(None)
        else:
            self.places.append(Batch(self.batches, x, labels, rate_shift, self.depth))
            self.batches += 1
        for l in range(self.depth):
            batch = self.place(l if self.pipelined else 0)
            if batch:
                self.forward(l, batch)
        updates = [
            self.backward(l, batch)
            for l in reversed(range(self.depth))
            for batch in [self.place(self.backward_delay(l))]
            if batch
        ]
        for l, W, M, score_bias in updates:
            self.W[l], self.M[l], self.score_bias[l] = W, M, score_bias
        self.follow()
        self.trace += [self.nonzeros(b) for b in self.retired_batches()[len(self.trace) :]]

    def place(self, ago):
        """What entered so many ticks ago: a batch or None."""
        return self.places[-1 - ago] if ago < len(self.places) else None

    def backward_delay(self, l):
        """A8.1, A8.2: how many ticks after its entry a batch has its EP and GC in layer l."""
        if not self.pipelined:
            return self.staleness
        return (self.depth - 1 if self.rule == "dfa" else l) + self.staleness

    def retired_batches(self):
        return [b for b in self.places if b and b.retired]

    def nonzeros(self, batch):
        """The trace of a batch: non-zero operands (those of FP) and errors of every layer and image."""
        errors = [[sum(map(nonzeros, image)) for image in of_layer] for of_layer in batch.d]
        return batch.operand_nonzeros, errors

    def is_hidden(self, l):
        return l < self.depth - 1

    # Forward

    def layer_outputs(self, l, xs, counter):
        """A5.4 to A5.6, A12.2, A12.3: of every image the activations of all positions, and the output; of the output
        layer, which has one position, the scores."""
        fmt, at_positions, outputs = self.layers[l], [], []
        for x in xs:
            accs = [product(fmt, self.V[l], self.S[l], row, counter) for row in operands(fmt, x, self.m[l])]
            at_positions.append([activate(fmt, acc, counter) for acc in accs] if self.is_hidden(l) else accs)
            outputs.append(pooled(fmt, at_positions[-1]))
        return at_positions, outputs

    def forward(self, l, batch):
        """FP of layer l on a batch."""
        counter, xs, V, fmt = self.counters[l], batch.x[l], self.V[l], self.layers[l]
        K, N, n = fan_in(fmt), fmt["outputs"], len(xs)
        batch.a[l], batch.x[l + 1] = self.layer_outputs(l, xs, counter)
        images = [operands(fmt, x, self.m[l]) for x in xs]
        batch.operand_nonzeros[l] = [sum(map(nonzeros, image)) for image in images]
        rows = [row for image in images for row in image]
        for row in rows + [means_of_rows(fmt, self.m[l]) + [BIAS_INPUT]]:  # C2: positions and one more for the fold
            for operand, weights in zip(row, V):
                for weight in weights:
                    count_mac(counter, "fp", operand, weight)
        counter["input_values"] += len(rows) * K
        counter["input_zeros"] += zeros(rows)
        counter["sram_activation_read_bytes"] += n * fmt["inputs"]
        counter["sram_activation_write_bytes"] += n * output_values(fmt)
        counter["ema_activation_read_bytes"] += n * fmt["inputs"]
        counter["ema_activation_write_bytes"] += n * output_values(fmt)
        counter["ema_weight_read_bytes"] += 2 * (K + 1) * N

    # Backward

    def backward(self, l, batch):
        """EP and GC of layer l on a batch; returns the layer's next state."""
        fmt, counter, xs = self.layers[l], self.counters[l], batch.x[l]
        batch.e[l] = self.class_errors(l, batch)
        exact = self.deltas(l, batch) if self.is_hidden(l) else batch.e[l]
        batch.delta[l] = [[coarse_error(fmt, d) for d in row] for row in exact]
        if not self.is_hidden(l):
            batch.e[l] = batch.delta[l]  # what the rule dfa takes (A6.8)
        batch.d[l] = [position_errors(fmt, a, delta) for a, delta in zip(batch.a[l], batch.delta[l])]
        rows = [row for x in xs for row in operands(fmt, x, self.m[l])]
        ds = [d for image in batch.d[l] for d in image]
        G = gradient(fmt, rows, ds, self.m[l], counter)
        k = key(self.seed, STREAM_ROUNDING, l, batch.number)
        W = updated_weights(fmt, self.W[l], G, batch.rate_shift, k, counter)
        score_bias = self.score_bias[l]
        if self.is_hidden(l) and self.rule == "local":
            score_bias = updated_score_bias(fmt, score_bias, batch.e[l], counter)
        self.count_gradient(l, len(xs), rows, ds)
        self.count_backward_traffic(l, len(xs))
        return l, W, updated_mean(fmt, self.M[l], [pixel for x in xs for pixel in pixels(fmt, x)]), score_bias

    def class_errors(self, l, batch):
        """A6.1 to A6.4: e of every image; None for a hidden layer under bp."""
        fmt, counter = self.layers[l], self.counters[l]
        if not self.is_hidden(l) or self.rule == "local":
            rows = batch.x[l + 1]
            scores = [self.project(l, y) for y in rows] if self.is_hidden(l) else rows
            return [hinge(z, label, fmt["margin_log2"], counter) for z, label in zip(scores, batch.labels)]
        if self.rule == "drtp":
            return [[-64 if c == label else 0 for c in range(self.classes)] for label in batch.labels]
        return batch.e[-1] if self.rule == "dfa" else None

    def project(self, l, y):
        """A6.3: z[c] = score_bias[c] + sum over the features of R[c][f] a[f] (A12.4), one PoT MAC at a time."""
        z, sums = list(self.score_bias[l]), features(self.layers[l], y)
        for c, codes in enumerate(self.R[l]):
            for f, code in enumerate(codes):
                z[c] = pot_mac(z[c], sums[f], code)
                count_pot(self.counters[l], sums[f] != 0)
        return z

    def deltas(self, l, batch):
        """A6.5, A6.6: an error for every output of every image of a hidden layer."""
        fmt, counter, ys = self.layers[l], self.counters[l], batch.x[l + 1]
        if self.rule == "bp":
            shift = self.layers[l + 1]["bp_shift"]
            return [
                gated_delta(y, self.transposed_product(l + 1, d), shift, counter) for y, d in zip(ys, batch.d[l + 1])
            ]
        return [gated_delta(y, self.project_back(l, y, e), fmt["delta_shift"], counter) for y, e in zip(ys, batch.e[l])]

    def transposed_product(self, l, d):
        """A6.5, A12.6: for every input of layer l the sum of V[k][n] d[n] over the positions and k that read it.

        C2 counts it as that layer's EP, position by position; what padding would receive is dropped."""
        sums = [0] * self.layers[l]["inputs"]
        for errors, reading in zip(d, readings(self.layers[l])):
            for (index, _), weights in zip(reading, self.V[l]):
                for weight, error in zip(weights, errors):
                    count_mac(self.counters[l], "ep", error, weight)
                    if index is not None:
                        sums[index] += weight * error
        return sums

    def project_back(self, l, y, e):
        """A6.6, A12.4: for every output j the sum over c of R[c][f(j)] e[c], one PoT MAC of each feature at a time."""
        fmt = self.layers[l]
        a, sums = features(fmt, y), [0] * feature_count(fmt)
        for c, codes in enumerate(self.R[l]):
            for f, code in enumerate(codes):
                sums[f] = pot_mac(sums[f], e[c], code)
                count_pot(self.counters[l], e[c] != 0 and a[f] != 0)
        return [sums[f] for f in feature_of_outputs(fmt)]

    def count_gradient(self, l, images, rows, ds):
        """C2: images and batches, errors, and the MACs of GC with one more row for the centring and bias term."""
        counter = self.counters[l]
        D = [sum(column) for column in zip(*ds)]
        f = means_of_rows(self.layers[l], self.m[l]) + [BIAS_INPUT]
        for errors, row in list(zip(ds, rows)) + [(D, f)]:
            for error in errors:
                for operand in row:
                    count_mac(counter, "gc", error, operand)
        counter["images"] += images
        counter["batches"] += 1
        counter["error_values"] += sum(map(len, ds))
        counter["error_zeros"] += zeros(ds)

    def count_backward_traffic(self, l, n):
        """C2: the column GC of the traffic table."""
        counter, fmt, hidden = self.counters[l], self.layers[l], self.is_hidden(l)
        K, N, T = fmt["inputs"], output_values(fmt), (fan_in(fmt) + 1) * fmt["outputs"]
        late, bp = self.rule in ("dfa", "bp"), self.rule == "bp"
        inner, proj = bp and l > 0, hidden and self.rule == "local"
        counter["sram_activation_read_bytes"] += n * K + proj * n * N
        counter["sram_error_read_bytes"] += n * N * (1 + inner)
        counter["sram_error_write_bytes"] += n * N
        counter["sram_weight_read_bytes"] += 2 * T
        counter["sram_weight_write_bytes"] += 2 * T
        counter["sram_gradient_read_bytes"] += 4 * T
        counter["ema_activation_read_bytes"] += late * n * K
        counter["ema_error_read_bytes"] += bp * n * N + inner * n * N
        counter["ema_error_write_bytes"] += inner * n * K
        counter["ema_weight_read_bytes"] += 2 * T * (1 + inner)
        counter["ema_weight_write_bytes"] += 2 * T
        counter["ema_random_read_bytes"] += (self.classes * feature_count(fmt) + 1) // 2 if hidden and not bp else 0

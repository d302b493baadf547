"""A8 of docs/arithmetic.md on plain Python integers: a network, its ticks, and the counters of docs/chip.md, C2."""

from slow import (
    BIAS_INPUT,
    COUNTERS,
    RULES,
    STREAM_ROUNDING,
    activate,
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


class Batch:
    """One batch on its way: what the layers have computed on it so far."""

    def __init__(self, number, x, labels, rate_shift, depth):
        self.number, self.labels, self.rate_shift = number, labels, rate_shift
        self.x = [x] + [None] * depth  # x[l] enters layer l, x[l + 1] leaves it; the last are the scores
        self.e = [None] * depth
        self.d = [None] * depth

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
        self.M = [[0] * fmt["inputs"] for fmt in layers]
        self.score_bias = [[0] * self.classes for _ in layers[:-1]] + [[]]
        self.R = [
            pot_matrix(seed, l, self.classes, fmt["outputs"], fmt["pot_levels"]) for l, fmt in enumerate(layers[:-1])
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
            rows = self.layer_outputs(l, rows, dict.fromkeys(COUNTERS, 0))
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
        """The trace of a batch: non-zero inputs and errors of every layer and image."""
        return tuple(
            [[len(row) - row.count(0) for row in rows] for rows in of_layers] for of_layers in (batch.x[:-1], batch.d)
        )

    def is_hidden(self, l):
        return l < self.depth - 1

    # Forward

    def layer_outputs(self, l, xs, counter):
        """A5.4 to A5.6: activations of a hidden layer, scores of the output layer."""
        fmt = self.layers[l]
        accs = [product(fmt, self.V[l], self.S[l], x, counter) for x in xs]
        return [activate(fmt, acc, counter) for acc in accs] if self.is_hidden(l) else accs

    def forward(self, l, batch):
        """FP of layer l on a batch."""
        counter, xs, V, fmt = self.counters[l], batch.x[l], self.V[l], self.layers[l]
        K, N, n = fmt["inputs"], fmt["outputs"], len(xs)
        batch.x[l + 1] = self.layer_outputs(l, xs, counter)
        for operands in xs + [self.m[l] + [BIAS_INPUT]]:  # C2: the images and one more for the fold
            for operand, weights in zip(operands, V):
                for weight in weights:
                    count_mac(counter, "fp", operand, weight)
        counter["input_values"] += n * K
        counter["input_zeros"] += zeros(xs)
        counter["sram_activation_read_bytes"] += n * K
        counter["sram_activation_write_bytes"] += n * N
        counter["ema_activation_read_bytes"] += n * K
        counter["ema_activation_write_bytes"] += n * N
        counter["ema_weight_read_bytes"] += 2 * (K + 1) * N

    # Backward

    def backward(self, l, batch):
        """EP and GC of layer l on a batch; returns the layer's next state."""
        fmt, counter, xs = self.layers[l], self.counters[l], batch.x[l]
        batch.e[l] = self.class_errors(l, batch)
        batch.d[l] = batch.e[l] if not self.is_hidden(l) else self.deltas(l, batch)
        ds = batch.d[l]
        G = gradient(fmt, xs, ds, self.m[l], counter)
        k = key(self.seed, STREAM_ROUNDING, l, batch.number)
        W = updated_weights(fmt, self.W[l], G, batch.rate_shift, k, counter)
        score_bias = self.score_bias[l]
        if self.is_hidden(l) and self.rule == "local":
            score_bias = updated_score_bias(fmt, score_bias, batch.e[l], counter)
        self.count_gradient(l, xs, ds)
        self.count_backward_traffic(l, len(xs))
        return l, W, updated_mean(fmt, self.M[l], xs), score_bias

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
        """A6.3: z[c] = score_bias[c] + sum over j of R[c][j] y[j], one PoT MAC at a time."""
        z = list(self.score_bias[l])
        for c, codes in enumerate(self.R[l]):
            for j, code in enumerate(codes):
                z[c] = pot_mac(z[c], y[j], code)
                count_pot(self.counters[l], y[j] != 0)
        return z

    def deltas(self, l, batch):
        """A6.5, A6.6: d of every image of a hidden layer."""
        fmt, counter, ys = self.layers[l], self.counters[l], batch.x[l + 1]
        if self.rule == "bp":
            shift = self.layers[l + 1]["bp_shift"]
            return [
                gated_delta(y, self.transposed_product(l + 1, d), shift, counter) for y, d in zip(ys, batch.d[l + 1])
            ]
        return [gated_delta(y, self.project_back(l, y, e), fmt["delta_shift"], counter) for y, e in zip(ys, batch.e[l])]

    def transposed_product(self, l, d):
        """A6.5: sum over n of V[j][n] d[n], on the arrays of layer l, which C2 counts as that layer's EP."""
        sums = [0] * self.layers[l]["inputs"]
        for j in range(len(sums)):
            for weight, error in zip(self.V[l][j], d):
                sums[j] += weight * error
                count_mac(self.counters[l], "ep", error, weight)
        return sums

    def project_back(self, l, y, e):
        """A6.6: sum over c of R[c][j] e[c], one PoT MAC at a time."""
        sums = [0] * len(y)
        for c, codes in enumerate(self.R[l]):
            for j, code in enumerate(codes):
                sums[j] = pot_mac(sums[j], e[c], code)
                count_pot(self.counters[l], e[c] != 0 and y[j] != 0)
        return sums

    def count_gradient(self, l, xs, ds):
        """C2: images and batches, errors, and the MACs of GC with one more for the centring and bias term."""
        counter, fmt = self.counters[l], self.layers[l]
        D = [sum(column) for column in zip(*ds)]
        for errors, operands in list(zip(ds, xs)) + [(D, self.m[l] + [BIAS_INPUT])]:
            for error in errors:
                for operand in operands:
                    count_mac(counter, "gc", error, operand)
        counter["images"] += len(xs)
        counter["batches"] += 1
        counter["error_values"] += len(xs) * fmt["outputs"]
        counter["error_zeros"] += zeros(ds)

    def count_backward_traffic(self, l, n):
        """C2: the column GC of the traffic table."""
        counter, K, N = self.counters[l], self.layers[l]["inputs"], self.layers[l]["outputs"]
        T, hidden = (K + 1) * N, self.is_hidden(l)
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
        counter["ema_random_read_bytes"] += (self.classes * N + 1) // 2 if hidden and not bp else 0

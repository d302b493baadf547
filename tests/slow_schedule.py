"""Durations and schedule (docs/chip.md, C3 and C4) in plain Python, obviously right rather than fast.

A phase is named (name, layer, index): FP, EP and GC carry the number of the image, UP that of the batch.
"""

PHASES = ("FP", "EP", "GC", "UP")


# C3 Durations


def up(a, b):
    """C3: all divisions round up."""
    return -(-a // b)


def durations(shape, macros, chip, nzx, nzd, rule):
    """C3: the cycles of one image (UP: of one batch) in one layer, {'FP':, 'EP':, 'GC':, 'UP':}.

    shape: 'rows', 'columns', 'positions' (of the layer), 'outputs' (of an image: after pooling), 'features' (A12.4),
    'classes', 'bias' (has a bias row), 'centred', 'pooled', 'first', 'last'. chip: 'columns', 'lepu_lanes'.
    nzx: non-zero operands of the image, each once per position that uses it; nzd: its non-zero errors.
    """
    g = up(shape["columns"], chip["columns"])
    passes = 3 if shape["centred"] else 1
    read_out = shape["positions"] if shape["pooled"] else 0
    return {
        "FP": up((nzx + read_out) * g, macros),
        "EP": error_prediction(shape, macros, chip, nzd, rule),
        "GC": up(shape["rows"] * g * nzd, shape["columns"] * macros),
        "UP": up((shape["rows"] + bool(shape["bias"])) * g * passes, macros),
    }


def error_prediction(shape, macros, chip, nzd, rule):
    """C3: EP on the LEPU, 0 for the output layer; for bp on the arrays, 0 for the first layer."""
    if rule == "bp":
        return 0 if shape["first"] else up(nzd * up(shape["rows"], chip["columns"]), macros)
    if shape["last"]:
        return 0
    projections = 2 if rule == "local" else 1  # C2: pot_macs_total is 2 n C F or n C F
    sums = shape["outputs"] if shape["features"] < shape["outputs"] else 0
    return up(projections * shape["classes"] * shape["features"] + sums, chip["lepu_lanes"])


# C4 The static order in which phases are placed


def backward(images, l, i):
    """EP, GC (and UP) of image i in layer l."""
    yield from (("EP", l, i), ("GC", l, i))
    if images[i]["last"]:
        yield "UP", l, images[i]["batch"]


def order_by_ticks(images, depth, rule):
    """layer_pipeline on: what entered at tick T is in layer l at tick T - l; None is a tick without an image."""
    entered, pause = [], [None] * (depth - 1)
    for i, image in enumerate(images):
        entered.append(i)
        if rule == "dfa" and image["last"]:
            entered += pause
    entered += pause
    for T in range(len(entered)):
        for l in reversed(range(depth)):
            forward_at, backward_at = T - l, T - (depth - 1) if rule == "dfa" else T - l
            if forward_at >= 0 and entered[forward_at] is not None:
                yield "FP", l, entered[forward_at]
            if backward_at >= 0 and entered[backward_at] is not None:
                yield from backward(images, l, entered[backward_at])


def order_by_images(images, depth, rule):
    """layer_pipeline off: image by image."""
    for i, image in enumerate(images):
        if rule in ("local", "drtp"):
            for l in range(depth):
                yield "FP", l, i
                yield from backward(images, l, i)
            continue
        for l in range(depth):
            yield "FP", l, i
        for l in reversed(range(depth)):
            if rule == "dfa":
                yield from backward(images, l, i)
            else:
                yield from (("GC", l, i), ("EP", l, i))
        if rule == "bp" and image["last"]:
            for l in reversed(range(depth)):
                yield "UP", l, image["batch"]


# C4 Starts and ends


class Placement:
    """The ends of the phases placed so far, and the time at which each unit becomes free."""

    def __init__(self, images, rule, layer_pipeline, phase_overlap, activation_buffers, staleness):
        self.images, self.rule = images, rule
        self.layer_pipeline, self.phase_overlap = layer_pipeline, phase_overlap
        self.activation_buffers, self.staleness = activation_buffers, staleness
        self.depth = len(images[0]["FP"]) if images else 0
        self.last_image = {image["batch"]: i for i, image in enumerate(images) if image["last"]}
        self.ends, self.free, self.previous_end = {}, {}, 0
        self.layers = [
            {name.lower() + kind: 0 for name in PHASES for kind in ("_busy_cycles", "_stall_cycles")}
            for _ in range(self.depth)
        ]

    def end(self, name, l, index):
        """The end of anything that has not happened (index below 0) is 0."""
        return 0 if index < 0 else self.ends[name, l, index]

    def inputs(self, name, l, index):
        """When the inputs of a phase are ready."""
        waits = getattr(self, "inputs_of_" + name)(l, index)
        if not self.layer_pipeline and not self.phase_overlap:
            waits.append(self.previous_end)  # one thing at a time on the whole chip
        return max(waits)

    def inputs_of_FP(self, l, i):
        waits = [self.end("UP", l, self.images[i]["batch"] - 1 - self.staleness)]
        if l > 0:
            waits.append(self.end("FP", l - 1, i))
        elif not self.layer_pipeline:
            waits.append(self.end("FP", self.depth - 1, i - 1))
        return waits

    def inputs_of_EP(self, l, i):
        if self.rule == "bp":
            return self.inputs_of_GC(l, i)  # both use the error of this layer
        waits = [self.end("FP", l, i)]
        if self.rule == "dfa":
            waits.append(self.end("FP", self.depth - 1, i))
        return waits

    def inputs_of_GC(self, l, i):
        if self.rule != "bp":
            return [self.end("EP", l, i)]
        last = l == self.depth - 1
        return [self.end("FP", l, i) if last else self.end("EP", l + 1, i)]  # the layer above makes the error

    def inputs_of_UP(self, l, t):
        return [self.end("GC", l, self.last_image[t])]

    def buffer_free(self, name, l, i):
        """The output of FP takes one of activation_buffers places (no limit for the output layer)."""
        if name != "FP" or l == self.depth - 1:
            return 0
        return self.end("GC", l + 1, i - self.activation_buffers)

    def units(self, name, l):
        """The units a phase occupies; stalls are measured on the first."""
        arrays, gc_arrays = "FP_%d" % l, "GC_%d" % l
        if name == "EP" and self.rule != "bp":
            return ["LEPU"] if self.phase_overlap else ["LEPU", arrays]
        if name in ("GC", "UP") and self.phase_overlap:
            return [gc_arrays]
        return [arrays]

    def duration(self, name, l, index):
        image = self.last_image[index] if name == "UP" else index
        return self.images[image][name][l]

    def place(self, name, l, index):
        """Start = max(unit free, inputs ready, buffer free); end = start + duration."""
        duration, end = self.duration(name, l, index), self.inputs(name, l, index)
        if duration > 0:  # otherwise it ends when its inputs are ready, occupies no unit and has no stall
            units = self.units(name, l)
            free = [self.free.get(unit, 0) for unit in units]
            start = max(free + [end, self.buffer_free(name, l, index)])
            end = start + duration
            self.free.update((unit, end) for unit in units)
            self.layers[l][name.lower() + "_busy_cycles"] += duration
            self.layers[l][name.lower() + "_stall_cycles"] += start - free[0]
        self.ends[name, l, index] = self.previous_end = end


def schedule(images, rule, layer_pipeline, phase_overlap, activation_buffers, staleness):
    """C4: places all phases. An image is {'FP': [per layer], 'EP':, 'GC':, 'UP':, 'batch': t, 'last': bool}."""
    placement = Placement(images, rule, layer_pipeline, phase_overlap, activation_buffers, staleness)
    depth = placement.depth
    if rule == "bp" and (layer_pipeline or phase_overlap):
        raise ValueError("C4: for bp both switches must be off")
    if activation_buffers < 1:
        raise ValueError("C4: there must be a place for the output of FP")
    if rule == "dfa" and layer_pipeline and activation_buffers < depth - 1:
        raise ValueError("C4: dfa needs at least L-1 activation buffers")
    order = order_by_ticks if layer_pipeline else order_by_images
    for name, l, index in order(images, depth, rule):
        placement.place(name, l, index)
    return {"cycles": max(placement.ends.values(), default=0), "layers": placement.layers}

"""A network in the arithmetic of docs/arithmetic.md; a thin wrapper of the C network."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from sppim_core import _core, check, storage
from sppim_core.arithmetic import quantize_inputs
from sppim_core.counters import CYCLE_NAMES, NAMES, Counters
from sppim_core.errors import ShapeError
from sppim_core.formats import EXECUTIONS, PATHS, RULES, LayerFormat, to_core
from sppim_core.layers import describe, layer_formats
from sppim_core.sparse import is_sparse, quantize_sparse

_DIGEST_COUNTERS = [i for i, name in enumerate(NAMES) if name not in CYCLE_NAMES]
_SCORE_ROWS = 4096
MOST_POSITIONS = 1 << 16  # of a batch in a layer (A12.1)


class Retired(NamedTuple):
    """A batch of n images that all layers have learned from."""

    batch: int
    input_nonzeros: np.ndarray  # uint32 (layers, n)
    error_nonzeros: np.ndarray  # uint32 (layers, n)
    scores: np.ndarray  # of the output layer when it saw them, int64 (n, classes)
    labels: np.ndarray  # int32 (n,)


class Network:
    """A network of fully connected layers and convolutions that learns by error prediction.

    layers: [inputs, hidden ..., classes]; inputs a number or (height, width, channels), hidden layers numbers of
    outputs or Conv objects; product_bits (8) and centred (True) choose their formats (A9). Or LayerFormat objects,
    which have both themselves. rule: how hidden layers get their
    error (local, drtp, dfa, bp). execution: sequential or pipelined (A8). staleness: batches by which
    updates are delayed. batch: largest batch. threads, isa, path choose how it is computed, never what."""

    def __init__(
        self,
        layers,
        *,
        rule: str = "local",
        seed: int = 1,
        batch: int = 64,
        product_bits: int | None = None,
        centred: bool | None = None,
        execution: str = "sequential",
        staleness: int = 0,
        threads: int = 1,
        isa: str | None = None,
        path: str = "auto",
    ):
        self.rule = check.choice("rule", rule, RULES)
        self.formats = _formats(layers, rule, product_bits, centred)
        self.seed = check.integer("seed", seed, 0, 2**64 - 1)
        self.batch = check.integer("batch", batch, 1, 65535)
        self.execution = check.choice("execution", execution, EXECUTIONS)
        self.staleness = check.integer("staleness", staleness, 0, 64)
        self.threads = check.integer("threads", threads, 1, 256)
        self.path = check.choice("path", path, PATHS)
        if rule == "bp" and execution == "pipelined":
            raise ValueError("execution 'pipelined' is not possible with rule 'bp': its errors need the layer above")
        check.isa(isa)
        _check_positions(self.formats, self.batch)
        self._core = _core.Core(
            [to_core(layer) for layer in self.formats],
            self.seed,
            RULES.index(rule),
            EXECUTIONS.index(execution),
            self.staleness,
            self.batch,
            self.threads,
            PATHS.index(path),
            isa,
        )
        self._earlier = np.zeros((len(self.formats), len(NAMES)), np.uint64)

    def __repr__(self) -> str:
        return (
            f"<Network {describe(self.formats)}, rule {self.rule}, {self.execution}, seed {self.seed}, "
            f"isa {self.isa}, {self.threads} thread{'s' * (self.threads > 1)}>"
        )

    @property
    def sizes(self) -> list[int]:
        """Values of an image going in, and coming out of each layer."""
        return [self.formats[0].inputs] + [layer.values for layer in self.formats]

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Height, width, channels of an image going in; None if the first layer is fully connected."""
        window = self.formats[0].window
        return None if window is None else (window.height, window.width, window.channels)

    @property
    def classes(self) -> int:
        return self.formats[-1].outputs

    @property
    def isa(self) -> str:
        """Name of the instruction-set level of the kernels."""
        return self._core.isa

    @property
    def in_flight(self) -> int:
        """Batches that have entered and have not yet been learned from in all layers."""
        return self._core.in_flight

    @property
    def batches(self) -> int:
        """Batches that have entered."""
        return self._core.batches

    def tick(self, x=None, labels=None, rate_shift: int = 0) -> Retired | None:
        """One step of A8: x (n, inputs), or images (n, height, width, channels), as quantize_inputs takes it, or
        scipy.sparse; labels (n,) integers.

        Without x an empty place enters. Returns the batch that left, or None. Interrupted (Ctrl-C) on the way, the
        network is as before; `batches` tells a tick that was interrupted from one that was whole when it
        came."""
        rate_shift = check.integer("rate_shift", rate_shift, 0, 16)
        if x is None and labels is not None:
            raise ValueError("labels without x")
        left = self._tick(x, labels, rate_shift)
        return None if left is None else Retired(*left)

    def _tick(self, x, labels, rate_shift: int) -> tuple | None:
        try:
            return self._core.tick(x, labels, rate_shift)
        except _core.Unfit:
            pass
        # outside of the except clause, so that an error here is not shown as one during another
        return self._core.tick(*self._batch(x, labels), rate_shift)

    def drain(self) -> list[Retired]:
        """Ticks with empty places until nothing is in flight; what tick() returned for each batch that left."""
        left = []
        while self.in_flight:
            left.append(self.tick())
        return [batch for batch in left if batch is not None]

    def scores(self, x) -> np.ndarray:
        """Output layer's accumulators (A5.6), int64 (n, classes). Draining first is the caller's choice (A8.5)."""
        try:
            return self._core.scores(x)
        except _core.Unfit:
            pass
        if not is_sparse(x):  # as in tick()
            return self._core.scores(self._inputs(x))
        rows = quantize_sparse(x, self.sizes[0])
        parts = [rows[i : i + _SCORE_ROWS].toarray() for i in range(0, max(rows.shape[0], 1), _SCORE_ROWS)]
        return np.concatenate([self._core.scores(self._inputs(part)) for part in parts])

    def predict(self, x) -> np.ndarray:
        """Class of each image, int64 (n,); among equal scores the lowest."""
        return self.scores(x).argmax(axis=1)

    def _batch(self, x, labels) -> tuple[np.ndarray, np.ndarray]:
        """x and labels checked, as the core takes them."""
        x = self._inputs(x)
        labels = check.array("labels", labels, np.int32, 1, 0, self.classes - 1)
        if len(labels) != len(x):
            raise ShapeError(f"x and labels must have equal lengths, not {len(x)} and {len(labels)}")
        if not 1 <= len(x) <= self.batch:
            raise ShapeError(f"x must hold 1..{self.batch} images (the batch of this network), not {len(x)}")
        return x, labels

    def _inputs(self, x) -> np.ndarray:
        """x checked and quantized, as the core takes it."""
        x = quantize_sparse(x, self.sizes[0]).toarray() if is_sparse(x) else quantize_inputs(x)
        if x.ndim == 4 and self.image is not None and x.shape[1:] == self.image:
            x = x.reshape(len(x), -1)
        if x.ndim != 2 or x.shape[1] != self.sizes[0]:
            images = "" if self.image is None else f" or (n, {', '.join(map(str, self.image))})"
            raise ShapeError(f"x must have shape (n, {self.sizes[0]}){images}, not {x.shape}")
        return np.require(x, requirements=["C", "A", "E"])

    def counters(self) -> Counters:
        """Counters since creation, without cycles (a Schedule has those)."""
        return Counters(self._earlier + self._core.counters())

    def weights(self, layer: int) -> np.ndarray:
        """Master weights W of a layer, int16 (K + 1, outputs), K its inputs or those of a window; the last row is the
        bias."""
        return self._tensor(layer, "weights").reshape(-1, self.formats[layer].outputs)

    def means(self, layer: int) -> np.ndarray:
        """Running means M of a layer's inputs, int16 (inputs,) or (channels,), 8 more fraction bits than the input."""
        return self._tensor(layer, "means")

    def score_bias(self, layer: int) -> np.ndarray:
        """Score bias of a hidden layer's local classifier, int32 (classes,); empty for the output layer."""
        return self._tensor(layer, "score_bias")

    def pot_codes(self, layer: int) -> np.ndarray:
        """Codes (A4.1) of a hidden layer's LEPU matrix, uint8 (classes, features); empty for the output layer."""
        codes = self._tensor(layer, "pot_codes")
        return codes.reshape(self.classes, -1) if codes.size else codes.reshape(0, self.classes)

    def _tensor(self, layer: int, name: str) -> np.ndarray:
        layer = check.integer("layer", layer, 0, len(self.formats) - 1)
        return self._core.get(layer, _core.TENSORS.index(name))

    def digest(self) -> str:
        """SHA-256 over state and counters (A10): equal digests, equal runs."""
        sha = hashlib.sha256()
        for layer in range(len(self.formats)):
            for name in storage.TENSORS:
                tensor = self._tensor(layer, name)
                sha.update(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        sha.update(self.counters().values[:, _DIGEST_COUNTERS].astype("<u8").tobytes())
        return sha.hexdigest()

    def __reduce__(self):
        """Pickles and copies keep threads and path; the level of the kernels is that of the machine they wake up on."""
        how = {"threads": self.threads, "path": self.path}
        return storage.restore, (type(self), *storage.state_of(self), how)

    def save(self, file) -> None:
        """Writes everything to a .npz file, whole or not at all, with a checksum."""
        storage.save(self, file)

    @classmethod
    def load(cls, file, *, threads: int = 1, isa: str | None = None, path: str = "auto") -> "Network":
        """The network that save() wrote; DataError if the file is not one. threads, isa, path: as for a new network."""
        return storage.load(cls, file, {"threads": threads, "isa": isa, "path": path})


def _formats(layers, rule: str, product_bits: int | None, centred: bool | None) -> list[LayerFormat]:
    given = (("product_bits", product_bits), ("centred", centred))
    options: dict[str, Any] = {name: value for name, value in given if value is not None}
    try:
        layers = list(layers)
    except TypeError:
        raise TypeError(f"layers must be a list of sizes or of LayerFormat, not {layers!r}") from None
    if not any(isinstance(layer, LayerFormat) for layer in layers):
        return layer_formats(layers, rule, **options)
    for name, value in options.items():
        raise ValueError(f"{name}={value!r} beside LayerFormat objects, which have their own")
    for i, layer in enumerate(layers):
        if not isinstance(layer, LayerFormat):
            raise TypeError(f"layers[{i}] must be a LayerFormat like the others, not {layer!r}")
        if i and layer.inputs != layers[i - 1].values:
            raise ShapeError(
                f"layers[{i}] has {layer.inputs} inputs, the layer before it {layers[i - 1].values} outputs"
            )
    check.integer("layers[-1].outputs (classes)", layers[-1].outputs, 2, 1024)
    if layers[-1].values != layers[-1].outputs or layers[-1].pooling != "none":
        raise ShapeError("layers[-1], the output layer, must have one position and no pooling (A12.2)")
    return layers


def _check_positions(layers: list[LayerFormat], batch: int) -> None:
    for i, layer in enumerate(layers):
        if layer.positions * batch > MOST_POSITIONS:
            raise ValueError(
                f"batch must be at most {MOST_POSITIONS // layer.positions}, not {batch}: layer {i} has "
                f"{layer.positions} positions an image, and a batch holds {MOST_POSITIONS} of them (A12.1)"
            )

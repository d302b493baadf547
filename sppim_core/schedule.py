"""The schedule of docs/chip.md (C3, C4): layers on a chip, and the cycles that counted work takes there."""

from dataclasses import dataclass

import numpy as np

from sppim_core import _core, check
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.errors import ShapeError
from sppim_core.formats import RULES, to_core


@dataclass(frozen=True)
class Shape:
    """A layer as the chip sees it: each of `positions` output positions multiplies `rows` operands with rows x columns
    weights (dense: rows = inputs, columns = outputs, one position). inputs, outputs: values per image; macros:
    those that hold the layer; bias, centred, pooled: 0 or 1; features: values per image that the LEPU projects
    (default: outputs)."""

    rows: int
    columns: int
    positions: int
    inputs: int
    outputs: int
    classes: int
    macros: int
    bias: int = 1
    centred: int = 1
    activation_bytes: int = 1
    weight_bytes: int = 2
    pooled: int = 0
    features: int | None = None

    def __post_init__(self):
        for name in ("rows", "columns", "positions", "inputs", "outputs"):
            check.integer(name, getattr(self, name), 1, 1 << 20)
        check.integer("classes", self.classes, 2, 1024)
        check.integer("macros", self.macros, 1, 65535)
        for name in ("bias", "centred", "pooled"):
            check.integer(name, getattr(self, name), 0, 1)
        for name in ("activation_bytes", "weight_bytes"):
            check.integer(name, getattr(self, name), 1, 8)
        errors = self.columns * self.positions
        if errors != self.outputs and not (self.pooled and errors > self.outputs):
            raise ShapeError(f"outputs must be columns x positions = {errors}, or less if pooled, not {self.outputs}")
        if self.features is None:
            object.__setattr__(self, "features", self.outputs)
        check.integer("features", self.features, 1, self.outputs)

    @property
    def weights(self) -> int:
        return (self.rows + self.bias) * self.columns

    def tiles(self, chip: Chip) -> int:
        """Arrays that the layer's weights fill (C3)."""
        return -(-self.rows // chip["geometry.rows"]) * -(-self.columns // chip["geometry.columns"])


def share_macros(work: list[int], macros: int) -> list[int]:
    """Macros per layer, one at least, each further one to the layer that takes longest with what it has."""
    if len(work) > macros:
        raise ShapeError(f"{len(work)} layers do not fit a chip of {macros} macros: each needs one")
    shares = [1] * len(work)
    for _ in range(macros - len(work)):
        slowest = max(range(len(work)), key=lambda layer: work[layer] / shares[layer])
        shares[slowest] += 1
    return shares


def map_network(network, chip: Chip) -> list[Shape]:
    """A network's layers on the chip's macros, shared out by dense FP cycles."""
    columns = chip["geometry.columns"]
    rows = [_core.layer_shape(to_core(layer), network.classes)[1] for layer in network.formats]
    work = [row["rows"] * row["positions"] * -(-row["columns"] // columns) for row in rows]
    shares = share_macros(work, chip["geometry.macros"])
    return [Shape(**(row | {"macros": macros})) for row, macros in zip(rows, shares, strict=True)]


def not_resident(shapes: list[Shape], chip: Chip) -> list[int]:
    """Layers whose weights fill more arrays than they have macros; their exchange is taken as hidden (C3)."""
    return [layer for layer, shape in enumerate(shapes) if shape.tiles(chip) > shape.macros]


def _shape_rows(shapes) -> list[dict]:
    for i, shape in enumerate(shapes):
        if not isinstance(shape, Shape):
            raise TypeError(f"shapes[{i}] must be a Shape, not {shape!r}")
    if not shapes:
        raise ShapeError("shapes must name one layer at least")
    return [dict(vars(shape)) for shape in shapes]


def _counts(name: str, value) -> np.ndarray:
    return check.array(name, value, np.uint32, 2, 0, 2**32 - 1)


def _check_limits(shapes: list[Shape], operands: np.ndarray, errors: np.ndarray) -> None:
    if len(operands) != len(shapes) or operands.shape != errors.shape:
        raise ShapeError(
            f"operand_nonzeros {operands.shape} and error_nonzeros {errors.shape} must be (layers, images), "
            f"{len(shapes)} layers"
        )
    for layer, shape in enumerate(shapes):
        for name, counts, limit in (
            ("operand_nonzeros", operands[layer], shape.rows * shape.positions),
            ("error_nonzeros", errors[layer], shape.columns * shape.positions),
        ):
            if counts.size and counts.max() > limit:
                raise ValueError(f"{name} of layer {layer} must be at most {limit}, found {counts.max()}")


class Schedule:
    """Feed it batches of non-zero counts, read cycles; rule "bp" is the sequential baseline (C4)."""

    def __init__(
        self,
        shapes: list[Shape],
        chip: Chip,
        rule: str = "local",
        *,
        layer_pipeline: bool = True,
        phase_overlap: bool = True,
        staleness: int = 0,
    ):
        check.choice("rule", rule, RULES)
        if not isinstance(chip, Chip):
            raise TypeError(f"chip must be a Chip (Chip.load(...)), not {chip!r}")
        pipeline, overlap = check.flag("layer_pipeline", layer_pipeline), check.flag("phase_overlap", phase_overlap)
        buffers = chip["geometry.activation_buffers"]
        if rule == "bp" and (pipeline or overlap):
            raise ValueError("rule 'bp' is the baseline: layer_pipeline and phase_overlap must be False")
        if rule == "dfa" and pipeline and buffers < len(shapes) - 1:
            raise ValueError(
                f"rule 'dfa' keeps images until the last of {len(shapes)} layers has seen them: "
                f"geometry.activation_buffers must be at least {len(shapes) - 1}, not {buffers}"
            )
        config = {
            "rule": RULES.index(rule),
            "layer_pipeline": int(pipeline),
            "phase_overlap": int(overlap),
            "staleness": check.integer("staleness", staleness, 0, 64),
            "activation_buffers": buffers,
            "macro_columns": chip["geometry.columns"],
            "lepu_lanes": chip["geometry.lepu_lanes"],
        }
        self._shapes = list(shapes)
        self._core = _core.ScheduleCore(config, _shape_rows(shapes))

    def add_batch(self, operand_nonzeros, error_nonzeros) -> None:
        """Non-zero operands and errors of a batch, integers (layers, images)."""
        operands, errors = _counts("operand_nonzeros", operand_nonzeros), _counts("error_nonzeros", error_nonzeros)
        _check_limits(self._shapes, operands, errors)
        self._core.batch(operands, errors)

    def counters(self) -> Counters:
        """Busy and stall cycles by layer and phase, and the cycles from the start to the end of everything so far."""
        cycles, values = self._core.result()
        return Counters(values, cycles)


def baseline(shapes: list[Shape], chip: Chip) -> Schedule:
    """Sequential backpropagation on the same mapping."""
    return Schedule(shapes, chip, "bp", layer_pipeline=False, phase_overlap=False)


def count_batch(shapes: list[Shape], rule: str, operand_nonzeros, error_nonzeros) -> Counters:
    """Counters (C2) of a batch of which only the zeros are known: no saturations, no gating by zero weights."""
    rule_index = RULES.index(check.choice("rule", rule, RULES))
    operands, errors = _counts("operand_nonzeros", operand_nonzeros), _counts("error_nonzeros", error_nonzeros)
    rows = _shape_rows(shapes)
    _check_limits(shapes, operands, errors)
    return Counters(_core.count_batch(rows, rule_index, operands, errors))

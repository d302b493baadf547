"""The schedule of docs/chip.md (C3, C4): layers on a chip, and the cycles that counted work takes there."""

from dataclasses import asdict, dataclass

import numpy as np

from sppim_core import _core, check
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.errors import ShapeError
from sppim_core.formats import RULES


@dataclass(frozen=True)
class Shape:
    """A layer as the chip sees it (sppim_shape in csrc/include/sppim.h)."""

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

    @property
    def weights(self) -> int:
        return (self.rows + self.bias) * self.columns


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
    work = [layer.inputs * -(-layer.outputs // columns) for layer in network.formats]
    return [
        Shape(
            rows=layer.inputs,
            columns=layer.outputs,
            positions=1,
            inputs=layer.inputs,
            outputs=layer.outputs,
            classes=network.classes,
            macros=macros,
            centred=int(layer.centred),
        )
        for layer, macros in zip(network.formats, share_macros(work, chip["geometry.macros"]), strict=True)
    ]


def weight_capacity(chip: Chip) -> int:
    """Weight words that the FP arrays of all macros hold."""
    return chip["geometry.macros"] * chip["geometry.rows"] * chip["geometry.columns"]


def _counts(name: str, value) -> np.ndarray:
    return check.array(name, value, np.uint32, 2, 0, 2**32 - 1)


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
        self._core = _core.ScheduleCore(config, [asdict(shape) for shape in shapes])

    def add_batch(self, operand_nonzeros, error_nonzeros) -> None:
        """Non-zero operands and errors of a batch, integers (layers, images)."""
        self._core.batch(_counts("operand_nonzeros", operand_nonzeros), _counts("error_nonzeros", error_nonzeros))

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
    return Counters(
        _core.count_batch(
            [asdict(shape) for shape in shapes],
            rule_index,
            _counts("operand_nonzeros", operand_nonzeros),
            _counts("error_nonzeros", error_nonzeros),
        )
    )

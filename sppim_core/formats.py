"""Formats of a layer: the numbers that docs/arithmetic.md leaves open, and their defaults (A9)."""

from dataclasses import dataclass, field, fields

from sppim_core import _core, check
from sppim_core.errors import ShapeError

RULES = _core.RULES
EXECUTIONS = _core.EXECUTIONS
PATHS = _core.PATHS

_RANGES = {
    "inputs": (1, 65535),
    "outputs": (1, 65535),
    "weight_frac": (0, 62),
    "init_bound": (0, 32639),
    "product_bits": (2, 16),
    "fp_shift": (0, 62),
    "activation_max": (1, 127),
    "margin_log2": (7, 40),
    "delta_shift": (0, 30),
    "bp_shift": (0, 62),
    "update_shift": (0, 30),
    "pot_levels": (1, 7),
}


@dataclass(frozen=True)
class Accumulator:
    """A1.6: bits 0 is wide (exact), 8..32 finite; overflow "saturate" or "wrap"."""

    bits: int = 0
    overflow: str = "saturate"

    def __post_init__(self):
        if check.integer("bits", self.bits, 0, 32) in range(1, 8):
            raise ValueError(f"bits must be 0 (wide) or 8..32, not {self.bits}")
        check.choice("overflow", self.overflow, _core.OVERFLOWS)


@dataclass(frozen=True)
class LayerFormat:
    """All open numbers of one layer; the clauses are named in csrc/include/sppim.h. Change some with
    dataclasses.replace(). Rounding names: A1.1, and "sr" (stochastic) for the update."""

    inputs: int
    outputs: int
    weight_frac: int
    init_bound: int
    product_bits: int
    fp_shift: int
    activation_max: int
    margin_log2: int
    delta_shift: int
    bp_shift: int
    update_shift: int
    pot_levels: int
    centred: bool = True
    fp_round: str = "rnu"
    update_round: str = "sr"
    fp_accumulator: Accumulator = field(default_factory=Accumulator)
    gc_accumulator: Accumulator = field(default_factory=Accumulator)

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            check.integer(name, getattr(self, name), low, high)
        check.flag("centred", self.centred)
        check.choice("fp_round", self.fp_round, _core.ROUNDINGS[:4])
        check.choice("update_round", self.update_round, _core.ROUNDINGS)
        for name in ("fp_accumulator", "gc_accumulator"):
            if not isinstance(getattr(self, name), Accumulator):
                raise TypeError(f"{name} must be an Accumulator, not {getattr(self, name)!r}")


def _from_core(row: dict) -> LayerFormat:
    named = dict(
        row,
        centred=bool(row["centred"]),
        fp_round=_core.ROUNDINGS[row["fp_round"]],
        update_round=_core.ROUNDINGS[row["update_round"]],
    )
    for name in ("fp_accumulator", "gc_accumulator"):
        named[name] = Accumulator(row[name]["bits"], _core.OVERFLOWS[row[name]["overflow"]])
    return LayerFormat(**named)


def to_core(layer: LayerFormat) -> dict:
    """The same as the C structure has it."""
    row = {f.name: getattr(layer, f.name) for f in fields(layer)}
    row |= {
        "centred": int(layer.centred),
        "fp_round": _core.ROUNDINGS.index(layer.fp_round),
        "update_round": _core.ROUNDINGS.index(layer.update_round),
    }
    for name in ("fp_accumulator", "gc_accumulator"):
        accumulator = row[name]
        row[name] = {"bits": accumulator.bits, "overflow": _core.OVERFLOWS.index(accumulator.overflow)}
    return row


def mlp_formats(sizes, rule: str = "local", product_bits: int = 8, centred: bool = True) -> list[LayerFormat]:
    """A9: default formats of a multi-layer perceptron; sizes = [inputs, hidden ..., classes]."""
    sizes = [check.integer(f"sizes[{i}]", size, 1, 65535) for i, size in enumerate(sizes)]
    if len(sizes) < 2:
        raise ShapeError(f"sizes must name inputs and classes at least, not {sizes}")
    check.integer(f"sizes[{len(sizes) - 1}] (classes)", sizes[-1], 2, 1024)
    rule_index = RULES.index(check.choice("rule", rule, RULES))
    product_bits = check.integer("product_bits", product_bits, 2, 16)
    centred = check.flag("centred", centred)
    last = len(sizes) - 2
    return [
        _from_core(_core.layer_defaults(k, n, rule_index, product_bits, centred, i == 0, i == last))
        for i, (k, n) in enumerate(zip(sizes, sizes[1:]))
    ]

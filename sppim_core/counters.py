"""Counters of a run (docs/chip.md, C2 and C4): exact integers by layer, additive, picklable."""

import numpy as np

from sppim_core import _core, check
from sppim_core.errors import ShapeError

NAMES = _core.counter_names()
UNITS = dict(zip(NAMES, _core.counter_units(), strict=True))
CYCLE_NAMES = tuple(name for name in NAMES if UNITS[name] == "cycles")
MAC_PHASES = ("fp", "ep", "gc")


class Counters:
    """counters["fp_macs_done"] is an int array by layer, counters.total("fp_macs_done") its sum.

    values: uint64 (layers, len(NAMES)); cycles: those of the schedule from start to end, 0 if there was none."""

    def __init__(self, values: np.ndarray, cycles: int = 0):
        self.values = check.array("values", values, np.uint64, 2, 0, 2**64 - 1).copy()
        self.cycles = check.integer("cycles", cycles, 0, 2**64 - 1)
        if self.values.shape[1] != len(NAMES):
            raise ShapeError(f"values must have shape (layers, {len(NAMES)}), not {self.values.shape}")

    @classmethod
    def zeros(cls, layers: int) -> "Counters":
        """Nothing counted yet."""
        return cls(np.zeros((layers, len(NAMES)), np.uint64))

    @staticmethod
    def keys() -> tuple[str, ...]:
        """Names of all counters; their units are in counters.UNITS."""
        return NAMES

    @property
    def layers(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in UNITS:
            raise KeyError(f"no counter {name!r}")
        return self.values[:, NAMES.index(name)]

    def total(self, name: str) -> int:
        """Sum over the layers."""
        return int(self[name].sum())

    def __add__(self, other: "Counters") -> "Counters":
        if not isinstance(other, Counters):
            return NotImplemented
        if self.layers != other.layers:
            raise ValueError(f"counters of {self.layers} and of {other.layers} layers do not add")
        return Counters(self.values + other.values, self.cycles + other.cycles)

    def __sub__(self, other: "Counters") -> "Counters":
        """What happened since `other`, an earlier reading of the same counters."""
        if not isinstance(other, Counters):
            return NotImplemented
        if self.layers != other.layers or (self.values < other.values).any() or self.cycles < other.cycles:
            raise ValueError("not an earlier reading of the same counters")
        return Counters(self.values - other.values, self.cycles - other.cycles)

    def __eq__(self, other) -> bool:
        if not isinstance(other, Counters):
            return NotImplemented
        return self.cycles == other.cycles and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        macs = sum(self.total(f"{phase}_macs_total") for phase in MAC_PHASES)
        return f"<Counters of {self.layers} layers: {macs:,} MACs, {self.cycles:,} cycles>"

    def to_dict(self) -> dict:
        """Plain numbers for JSON: every counter as a list by layer, and the cycles."""
        return {name: [int(x) for x in self[name]] for name in NAMES} | {"cycles": self.cycles}

    def activation_sparsity(self) -> list[float]:
        """Share of zeros among the inputs of each layer."""
        return _ratio(self["input_zeros"], self["input_values"])

    def error_sparsity(self) -> list[float]:
        """Share of zeros among the errors of each layer."""
        return _ratio(self["error_zeros"], self["error_values"])


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[float]:
    return [float(p) / float(w) if w else 0.0 for p, w in zip(part, whole, strict=True)]

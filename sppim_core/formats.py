"""Formats of a layer: the numbers that docs/arithmetic.md leaves open, and their defaults (A9)."""

from dataclasses import dataclass, field, fields

from sppim_core import _core, check
from sppim_core.errors import ShapeError

RULES = _core.RULES
EXECUTIONS = _core.EXECUTIONS
PATHS = _core.PATHS

_RANGES = {
    "inputs": (1, 1 << 20),
    "outputs": (1, 65535),
    "score_window": (1, 16),
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
    "weight_bits": (8, 16),
    "error_bits": (2, 8),
    "error_threshold": (0, 127),
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
class Window:
    """A12.1: rows x columns pixels, moved over an image of height x width pixels with so many channels."""

    height: int
    width: int
    channels: int
    rows: int
    columns: int
    stride: int = 1
    padding: int = 0

    def __post_init__(self):
        for name in ("height", "width", "channels", "rows", "columns", "stride"):
            check.integer(name, getattr(self, name), 1, 65535)
        check.integer("padding", self.padding, 0, min(self.rows, self.columns) - 1)
        if self.rows > self.height + 2 * self.padding or self.columns > self.width + 2 * self.padding:
            raise ShapeError(
                f"a window of {self.rows} x {self.columns} is larger than images of {self.height} x {self.width} "
                f"with padding {self.padding}"
            )

    @property
    def positions(self) -> tuple[int, int]:
        """Down and across (A11.3)."""
        down = (self.height + 2 * self.padding - self.rows) // self.stride + 1
        return down, (self.width + 2 * self.padding - self.columns) // self.stride + 1


def check_window(window: Window, channels: int, pooling_size: int) -> None:
    """The bounds of A12.1 and A12.3 for a layer with so many channels of output; pooling_size 0: no pooling."""
    (down, across), size = window.positions, pooling_size or 1
    if size > min(down, across):
        raise ShapeError(f"pooling by {size} does not fit {down} x {across} positions")
    pixels, operands = window.height * window.width, window.rows * window.columns * window.channels
    for name, value, most in (
        ("height x width", pixels, 1 << 20),
        ("inputs (height x width x channels)", pixels * window.channels, 1 << 20),
        ("operands of a position (rows x columns of the window x channels)", operands, 65535),
        ("positions of the window", down * across, 1 << 16),
        ("activations (positions x channels of the output)", down * across * channels, 1 << 20),
        ("outputs (pixels x channels of the output)", (down // size) * (across // size) * channels, 1 << 17),
    ):
        if value > most:
            raise ShapeError(f"{name} must be at most {most}, not {value} (A12.1)")


@dataclass(frozen=True)
class LayerFormat:
    """All open numbers of one layer; the clauses are named in csrc/include/sppim.h. Change some with
    dataclasses.replace(). Rounding names: A1.1, and "sr" (stochastic) for the update. With a window, outputs are the
    channels of the output's image."""

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
    window: Window | None = None
    pooling: str = "none"
    pooling_size: int = 0
    score_window: int = 1
    weight_bits: int = 16
    error_bits: int = 8
    error_threshold: int = 0

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            check.integer(name, getattr(self, name), low, high)
        check.flag("centred", self.centred)
        check.choice("fp_round", self.fp_round, _core.ROUNDINGS[:4])
        check.choice("update_round", self.update_round, _core.ROUNDINGS)
        for name in ("fp_accumulator", "gc_accumulator"):
            if not isinstance(getattr(self, name), Accumulator):
                raise TypeError(f"{name} must be an Accumulator, not {getattr(self, name)!r}")
        self._check_geometry()

    def _check_geometry(self) -> None:
        pooled = check.choice("pooling", self.pooling, _core.POOLINGS) != "none"
        check.integer("pooling_size", self.pooling_size, *((2, 16) if pooled else (0, 0)))
        if self.window is None:
            check.integer("inputs", self.inputs, 1, 65535)
            if pooled or self.score_window != 1:
                raise ValueError("pooling and score_window need a window (a convolution)")
        elif not isinstance(self.window, Window):
            raise TypeError(f"window must be a Window, not {self.window!r}")
        elif self.inputs != self.window.height * self.window.width * self.window.channels:
            raise ShapeError(f"inputs must be height x width x channels of the window, not {self.inputs}")
        else:
            check_window(self.window, self.outputs, self.pooling_size)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width, channels of the output."""
        height, width = _core.layer_shape(to_core(self), 2)[0]
        return height, width, self.outputs

    @property
    def values(self) -> int:
        """Values of the output."""
        height, width, channels = self.image
        return height * width * channels

    @property
    def positions(self) -> int:
        """P: products of an image, one for each position of the window."""
        return _core.layer_shape(to_core(self), 2)[1]["positions"]

    @property
    def fan_in(self) -> int:
        """K: inputs of a product."""
        w = self.window
        return self.inputs if w is None else w.rows * w.columns * w.channels


def from_core(row: dict) -> LayerFormat:
    named = dict(
        row,
        centred=bool(row["centred"]),
        fp_round=_core.ROUNDINGS[row["fp_round"]],
        update_round=_core.ROUNDINGS[row["update_round"]],
    )
    for name in ("fp_accumulator", "gc_accumulator"):
        named[name] = Accumulator(row[name]["bits"], _core.OVERFLOWS[row[name]["overflow"]])
    window = dict(row["window"])
    named["window"] = Window(**window) if window.pop("struct_size") else None
    named["pooling"] = _core.POOLINGS[row["pooling"]]
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
    row["window"] = window_row(layer.window)
    row["pooling"] = _core.POOLINGS.index(layer.pooling)
    return row


def window_row(window: Window | None) -> dict:
    """The same as the C structure has it; all zero: none."""
    names = [f.name for f in fields(Window)]
    if window is None:
        return dict.fromkeys(("struct_size", *names), 0)
    return {"struct_size": _core.WINDOW_SIZE} | {name: getattr(window, name) for name in names}

"""Counters x chip table -> time, energy and the published figures (docs/chip.md, C5). Knows nothing of the C core."""

from dataclasses import asdict, dataclass

from sppim_core import check
from sppim_core.chip import Chip
from sppim_core.counters import MAC_PHASES, Counters

OPERATIONS_PER_MAC = 2


@dataclass(frozen=True)
class Row:
    """One figure: the published value (None if there is none), the model's, and how the latter came about."""

    figure: str
    unit: str
    published: float | None
    model: float
    how: str


@dataclass(frozen=True)
class Point:
    """Where the chip runs: volts, MHz."""

    voltage: float
    frequency: float

    def __post_init__(self):
        for name in ("voltage", "frequency"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value!r}")


def slow_point(chip: Chip) -> Point:
    return Point(chip["silicon.voltage_min_v"], chip["silicon.frequency_min_mhz"])


def fast_point(chip: Chip) -> Point:
    return Point(chip["silicon.voltage_max_v"], chip["silicon.frequency_max_mhz"])


def point_at(chip: Chip, voltage: float, frequency: float | None = None) -> Point:
    """An operating point; frequency in MHz, None: the fastest clock at that supply."""
    fastest = chip.frequency(voltage)
    if frequency is None:
        return Point(voltage, fastest)
    if not 0 < frequency <= fastest * (1 + 1e-9):
        raise ValueError(f"frequency must be in 0..{fastest:.4g} MHz at {voltage} V, not {frequency}")
    return Point(voltage, frequency)


# ---- counters to quantities -----------------------------------------------------------------------------------


def densities(counters: Counters) -> tuple[float, float]:
    """Share of non-zeros among hidden activations and among hidden errors (all of them if nothing is hidden)."""

    def density(zeros, values, layers):
        whole = int(counters[values][layers].sum())
        return 1 - int(counters[zeros][layers].sum()) / whole if whole else 1.0

    hidden = counters.layers > 1
    return (
        density("input_zeros", "input_values", slice(1 if hidden else 0, None)),
        density("error_zeros", "error_values", slice(None, -1 if hidden else None)),
    )


def peak_gflops(chip: Chip, counters: Counters, frequency: float) -> float:
    """Both arrays of all macros busy, every zero skipped, at the counted densities; 0 if nothing is non-zero."""
    activation, error = densities(counters)
    if not activation or not error:
        return 0.0
    macs = chip["geometry.macros"] * chip["geometry.columns"] * (1 / activation + 1 / error)
    return OPERATIONS_PER_MAC * macs * frequency * 1e-3


def external_bytes(chip: Chip, counters: Counters) -> int:
    """Bytes of the classes that the chip table puts outside."""
    return sum(
        counters.total(f"ema_{name}_{way}_bytes")
        for name, kind in (("activation", "activations"), ("error", "errors"), ("weight", "weights"))
        if chip[f"memory.{kind}_external"]
        for way in ("read", "write")
    ) + (counters.total("ema_random_read_bytes") if chip["memory.random_external"] else 0)


def array_macs(counters: Counters) -> int:
    """All MACs on the arrays, zeros included."""
    return sum(counters.total(f"{phase}_macs_total") for phase in MAC_PHASES)


# ---- figures --------------------------------------------------------------------------------------------------


def figures(
    chip: Chip,
    counters: Counters,
    baseline: Counters,
    epoch_images: int,
    point: Point | None = None,
    same_workload: bool = False,
) -> list[Row]:
    """The chip's figures for a run. counters, baseline: of the same images, the latter of sequential backpropagation;
    epoch_images: images of one epoch. same_workload: the published rates are for this very workload (REF-B)."""
    point = fast_point(chip) if point is None else point_at(chip, point.voltage, point.frequency)
    images = int(counters["images"][0])
    if not images or not counters.cycles:
        raise ValueError("counters hold no finished image or no cycles")
    epoch_images = check.integer("epoch_images", epoch_images, 1, 2**62)
    return (
        _time_rows(chip, counters, images, epoch_images, point, same_workload)
        + _throughput_rows(chip, counters, point)
        + _comparison_rows(chip, counters, baseline)
        + _power_rows(chip, counters, images, epoch_images, point)
    )


def _published(chip: Chip, key: str, applies: bool = True) -> float | None:
    return chip.headline[key].value if applies and key in chip.headline else None


def _time_rows(chip, counters, images, epoch_images, point, same_workload):
    per_image = counters.cycles / images
    epochs_per_s = point.frequency * 1e6 / (per_image * epoch_images)
    bytes_per_epoch = external_bytes(chip, counters) / images * epoch_images
    bandwidth = chip.values["memory.bandwidth_gb_s"]
    memory_limit = bandwidth.value * 1e9 / bytes_per_epoch if bytes_per_epoch else float("inf")
    at = f"{point.frequency:.4g} MHz"
    return [
        Row("cycles per image", "cycles", None, per_image, "schedule (C4), fill and drain included"),
        Row(
            "training speed",
            "epochs/s",
            _published(chip, "epochs_per_s", same_workload),
            epochs_per_s,
            f"{at} / (cycles per image x {epoch_images} images)",
        ),
        Row(
            "training speed, memory-limited",
            "epochs/s",
            None,
            min(epochs_per_s, memory_limit),
            f"at most {bandwidth.value:.4g} GB/s ({bandwidth.tag}) / external bytes",
        ),
        Row(
            "external traffic at full speed",
            "GB/s",
            None,
            bytes_per_epoch * epochs_per_s * 1e-9,
            "external bytes (C2) x epochs/s",
        ),
    ]


def _throughput_rows(chip, counters, point):
    fast, slow, area = fast_point(chip), slow_point(chip), chip["silicon.area_mm2"]
    activation, error = densities(counters)
    sparsity = f"counted zeros {1 - activation:.1%} of activations, {1 - error:.1%} of errors"
    seconds = counters.cycles / (point.frequency * 1e6)
    slow_power = chip.power(slow.voltage, slow.frequency)
    return [
        Row(
            "peak throughput per area",
            "GFLOPS/mm2",
            _published(chip, "gflops_per_mm2"),
            peak_gflops(chip, counters, fast.frequency) / area,
            f"{fast.frequency:.4g} MHz, both arrays busy, {sparsity}",
        ),
        Row(
            "peak efficiency",
            "TFLOPS/W",
            _published(chip, "tflops_per_w"),
            peak_gflops(chip, counters, slow.frequency) / slow_power,
            f"the same at {slow.frequency:.4g} MHz / modelled power",
        ),
        Row(
            "sustained throughput",
            "GFLOPS",
            None,
            OPERATIONS_PER_MAC * array_macs(counters) / seconds * 1e-9,
            "2 x all MACs of the run / time",
        ),
    ]


def _comparison_rows(chip, counters, baseline):
    local, sequential = external_bytes(chip, counters), external_bytes(chip, baseline)
    return [
        Row(
            "speed-up by pipelining",
            "x",
            _published(chip, "speedup"),
            baseline.cycles / counters.cycles,
            "cycles of sequential backpropagation, same zeros / cycles",
        ),
        Row(
            "external traffic cut",
            "%",
            _published(chip, "ema_cut_percent"),
            100 * (1 - local / sequential) if sequential else 0.0,
            "against backpropagation, same layers and batch",
        ),
    ]


def _power_rows(chip, counters, images, epoch_images, point):
    fast, slow = fast_point(chip), slow_point(chip)
    power = chip.power(point.voltage, point.frequency)
    epoch_seconds = counters.cycles / images * epoch_images / (point.frequency * 1e6)

    law = f"C V^2 f + leakage, constants {chip.values['power.capacitance_nf'].tag} (chip table)"
    return [
        Row("power, slow end", "mW", _published(chip, "power_min_mw"), chip.power(slow.voltage, slow.frequency), law),
        Row("power, fast end", "mW", _published(chip, "power_max_mw"), chip.power(fast.voltage, fast.frequency), law),
        Row(
            "energy per epoch",
            "mJ",
            None,
            power * epoch_seconds,
            f"power of the busy chip at {point.voltage:.4g} V, {point.frequency:.4g} MHz x time, memory not limiting",
        ),
        Row("energy per image", "uJ", None, power * epoch_seconds / epoch_images * 1e3, "the same / images"),
        Row(
            "time of this run on the chip",
            "s",
            None,
            counters.cycles / (point.frequency * 1e6),
            "cycles / clock, memory not limiting",
        ),
    ]


# ---- rendering -----------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Four digits that count, no exponents where people would not write one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: list[Row], published: str = "published") -> str:
    """The rows as text: figure, unit, published (under that heading), model, how obtained."""
    cells = [("figure", "unit", published, "model", "how the model's value is obtained")]
    cells += [
        (r.figure, r.unit, "-" if r.published is None else f"{r.published:g}", number(r.model), r.how) for r in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = [
        "  ".join(
            (row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3]), row[4])
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def to_dicts(rows: list[Row]) -> list[dict]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]


def counter_table(counters: Counters) -> str:
    """MACs by layer and phase, zeros and stage occupation as text."""
    head = ("layer", "phase", "MACs", "done", "skipped", "gated", "busy", "stall")
    lines = []
    for layer in range(counters.layers):
        for phase in MAC_PHASES:
            lines.append(_phase_cells(counters, layer, phase))
    lines = [line for line in lines if line]
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *lines]
    )


def _phase_cells(counters: Counters, layer: int, phase: str):
    """One line; EP's MACs are those of the LEPU unless the rule is bp."""
    total, done, skipped, gated = (
        int(counters[f"{phase}_macs_{part}"][layer]) for part in ("total", "done", "skipped", "gated")
    )
    name = phase.upper()
    if phase == "ep" and not total:
        total, done, gated = (int(counters[f"pot_macs_{part}"][layer]) for part in ("total", "done", "gated"))
        name = "EP (PoT)"
    if not total:
        return None
    busy = counters[f"{phase}_busy_cycles"][layer] / counters.cycles if counters.cycles else 0
    stall = counters[f"{phase}_stall_cycles"][layer] / counters.cycles if counters.cycles else 0
    return (
        str(layer),
        name,
        f"{total:,}",
        f"{done / total:.1%}",
        f"{skipped / total:.1%}",
        f"{gated / total:.1%}",
        f"{busy:.1%}",
        f"{stall:.1%}",
    )

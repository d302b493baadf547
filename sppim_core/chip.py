"""A chip: the numbers of one piece of silicon, each with its provenance, and its operating points (C5).

Energy, power and time exist here and in report.py only; the C core counts."""

import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sppim_core.errors import ChipError

TAGS = ("published", "derived", "assumed")
_POSITIVE = (1e-12, 1e12)
_COUNT = (1, 65535)

_Entry = tuple[type, float, float]


def _quantity(*keys: str) -> dict[str, _Entry]:
    return dict.fromkeys(keys, (float, *_POSITIVE))


def _switch(*keys: str) -> dict[str, _Entry]:
    return dict.fromkeys(keys, (bool, 0, 1))


# section -> key -> (type, lowest, highest)
_SCHEMA: dict[str, dict[str, _Entry]] = {
    "silicon": _quantity(
        "process_nm", "area_mm2", "voltage_min_v", "voltage_max_v", "frequency_min_mhz", "frequency_max_mhz"
    ),
    "power": _quantity("capacitance_nf", "leakage_mw", "leakage_decade_v"),
    "geometry": {
        "macros": (int, *_COUNT),
        "rows": (int, *_COUNT),
        "columns": (int, *_COUNT),
        "word_bits": (int, 1, 64),
        "lepu_lanes": (int, 1, 1 << 20),
        "activation_buffers": (int, 1, 1024),
    },
    "memory": _quantity("bandwidth_gb_s")
    | _switch("activations_external", "errors_external", "weights_external", "random_external"),
}
_HEADLINE = (
    "epochs_per_s",
    "gflops_per_mm2",
    "tflops_per_w",
    "speedup",
    "ema_cut_percent",
    "power_min_mw",
    "power_max_mw",
)


@dataclass(frozen=True)
class Value:
    """One number of the table, its tag (published, derived, assumed) and where it comes from."""

    value: float
    tag: str
    source: str


@dataclass(frozen=True)
class Chip:
    """chip["geometry.macros"] is a number, chip.values["geometry.macros"] the same with its provenance."""

    name: str
    description: str
    values: dict
    headline: dict

    @classmethod
    def load(cls, which="ref-b") -> "Chip":
        """A chip that comes with the package ("ref-b") or a TOML file (a name ending in .toml, or a Path)."""
        builtin = resources.files("sppim_core.chips") / f"{which}.toml"
        is_file = isinstance(which, Path) or str(which).lower().endswith(".toml")
        if not is_file and not builtin.is_file():
            raise ChipError(f"chip must be one of {', '.join(names())} or a .toml file, not {str(which)!r}")
        try:
            text = (Path(which) if is_file else builtin).read_bytes().decode("utf-8-sig")  # TOML is UTF-8
        except (OSError, UnicodeDecodeError) as error:
            raise ChipError(f"{which}: {error}") from error
        return cls.parse(text, str(which))

    @classmethod
    def parse(cls, text: str, origin: str = "chip") -> "Chip":
        """A chip from TOML text; ChipError names the key's path."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ChipError(f"{origin}: {error}") from error
        known = {"name", "description", "headline", *_SCHEMA}
        _same_keys(origin, table, known, required=known - {"headline"})
        for key in ("name", "description"):
            if not isinstance(table[key], str):
                raise ChipError(f"{origin}: {key} must be a string, not {table[key]!r}")
        values = {}
        for section, keys in _SCHEMA.items():
            _same_keys(f"{origin}: {section}", table[section], set(keys), required=set(keys))
            for key, (kind, low, high) in keys.items():
                values[f"{section}.{key}"] = _value(f"{origin}: {section}.{key}", table[section][key], kind, low, high)
        headline = table.get("headline", {})
        _same_keys(f"{origin}: headline", headline, set(_HEADLINE), required=set())
        chip = cls(
            table["name"],
            table["description"],
            values,
            {key: _value(f"{origin}: headline.{key}", entry, float, *_POSITIVE) for key, entry in headline.items()},
        )
        chip._check_points(origin)
        return chip

    def __getitem__(self, key: str):
        return self.values[key].value

    def _check_points(self, origin: str) -> None:
        for kind, unit in (("voltage", "v"), ("frequency", "mhz")):
            low, high = self[f"silicon.{kind}_min_{unit}"], self[f"silicon.{kind}_max_{unit}"]
            if not low < high:
                raise ChipError(f"{origin}: silicon.{kind}_min_{unit} = {low} is not below {kind}_max_{unit} = {high}")
        if not -1e3 <= self.threshold_voltage() <= self["silicon.voltage_min_v"] * (1 - 1e-9):
            raise ChipError(f"{origin}: silicon: no clock law goes through both operating points")

    # ---- operating points (C5) ----------------------------------------------------------------------------

    def threshold_voltage(self) -> float:
        """Vt in f = K (V - Vt)^1.5 / V, from the two published points, in volts."""
        v0, v1 = self["silicon.voltage_min_v"], self["silicon.voltage_max_v"]
        ratio = self["silicon.frequency_max_mhz"] / self["silicon.frequency_min_mhz"]
        overdrive = (ratio * v1 / v0) ** (2 / 3)  # (v1 - Vt) / (v0 - Vt); above 1, so Vt < v0
        return (overdrive * v0 - v1) / (overdrive - 1)

    def frequency(self, voltage: float) -> float:
        """Clock in MHz at a supply in volts, within the chip's range."""
        self.check_voltage(voltage)
        vt, v1 = self.threshold_voltage(), self["silicon.voltage_max_v"]
        return (self["silicon.frequency_max_mhz"] * v1 / voltage) * ((voltage - vt) / (v1 - vt)) ** 1.5

    def power(self, voltage: float, frequency: float) -> float:
        """Power in mW of the busy chip at volts and MHz: C V^2 f + leakage."""
        self.check_voltage(voltage)
        leakage = self["power.leakage_mw"] * 10 ** (
            (voltage - self["silicon.voltage_min_v"]) / self["power.leakage_decade_v"]
        )
        return self["power.capacitance_nf"] * voltage**2 * frequency + leakage

    def check_voltage(self, voltage: float) -> None:
        low, high = self["silicon.voltage_min_v"], self["silicon.voltage_max_v"]
        if not (math.isfinite(voltage) and low - 1e-9 <= voltage <= high + 1e-9):
            raise ValueError(f"voltage must be in {low}..{high} V, not {voltage}")


def names() -> list[str]:
    """Chips that come with the package."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in resources.files("sppim_core.chips").iterdir()
        if file.name.endswith(".toml")
    )


def _same_keys(path: str, table, known: set, required: set) -> None:
    if not isinstance(table, dict):
        raise ChipError(f"{path} must be a table, not {table!r}")
    for key in table:
        if key not in known:
            raise ChipError(f"{path}: unknown key {key!r}; known are {', '.join(sorted(known))}")
    for key in sorted(required):
        if key not in table:
            raise ChipError(f"{path}: key {key!r} is missing")


def _value(path: str, entry, kind, low, high) -> Value:
    _same_keys(path, entry, {"value", "tag", "source"}, {"value", "tag", "source"})
    value = entry["value"]
    allowed = (int, float) if kind is float else (kind,)
    if type(value) not in allowed or not low <= value <= high:
        raise ChipError(f"{path}: value must be {kind.__name__} in {low}..{high}, not {value!r}")
    if entry["tag"] not in TAGS:
        raise ChipError(f"{path}: tag must be one of {', '.join(TAGS)}, not {entry['tag']!r}")
    if not isinstance(entry["source"], str) or not entry["source"]:
        raise ChipError(f"{path}: source must say where the value comes from")
    return Value(value, entry["tag"], entry["source"])

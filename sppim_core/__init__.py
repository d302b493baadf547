"""sppim_core: a bit-accurate model of SP-PIM, a chip that learns on the device.

Network, Trainer and Chip do the main job; docs/arithmetic.md and docs/chip.md define every bit and every count."""

from importlib import import_module
from importlib.metadata import version

from sppim_core.arithmetic import quantize_inputs
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.errors import ChipError, DataError, IsaError, ShapeError
from sppim_core.formats import Accumulator, LayerFormat, mlp_formats
from sppim_core.network import Network
from sppim_core.schedule import Schedule
from sppim_core.train import Trainer

__version__ = version("sppim_core")
__all__ = [
    "Accumulator",
    "Chip",
    "ChipError",
    "Counters",
    "DataError",
    "IsaError",
    "LayerFormat",
    "Network",
    "Schedule",
    "ShapeError",
    "Trainer",
    "arithmetic",
    "data",
    "get_include",
    "mlp_formats",
    "plot",
    "quantize_inputs",
    "report",
    "schedule",
    "train",
    "workload",
]

_LAZY = ("arithmetic", "data", "plot", "report", "schedule", "train", "workload")


def __getattr__(name: str):
    if name in _LAZY:
        return import_module(f"sppim_core.{name}")
    raise AttributeError(f"module 'sppim_core' has no attribute {name!r}")


def get_include() -> str:
    """Folder of sppim.h, for C and Cython code that embeds the core."""
    from importlib.util import find_spec

    spec = find_spec("sppim_core.include")
    assert spec and spec.submodule_search_locations
    return spec.submodule_search_locations[0]

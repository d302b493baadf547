"""sppim_core: a bit-accurate model of SP-PIM, a chip that learns on the device.

Network, Trainer and Chip do the main job; docs/arithmetic.md and docs/chip.md define every bit and every count."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path

try:
    from sppim_core import _core as _core
except ImportError as error:
    raise ImportError(
        f"sppim_core is not built in {Path(__file__).parent}: run `make run` or `pip install -e .` there, "
        f"or start Python in another folder to use an installed one ({error})"
    ) from error

from sppim_core import arithmetic, checkpoint, convolution, data, history, kernels, report, schedule, train
from sppim_core.arithmetic import quantize_inputs
from sppim_core.augment import Augmentation
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.errors import ChipError, DataError, IsaError, ShapeError
from sppim_core.formats import Accumulator, LayerFormat, Window
from sppim_core.layers import Conv, layer_formats
from sppim_core.network import Network
from sppim_core.schedule import Schedule, Shape
from sppim_core.train import Trainer

__version__ = version("sppim_core")
__all__ = [
    "Accumulator",
    "Augmentation",
    "Chip",
    "ChipError",
    "Conv",
    "Counters",
    "DataError",
    "IsaError",
    "LayerFormat",
    "Network",
    "Schedule",
    "Shape",
    "ShapeError",
    "Trainer",
    "Window",
    "arithmetic",
    "checkpoint",
    "convolution",
    "data",
    "get_include",
    "history",
    "kernels",
    "layer_formats",
    "plot",
    "quantize_inputs",
    "report",
    "schedule",
    "train",
    "workload",
]


def __getattr__(name: str):
    if name in ("plot", "workload"):
        return import_module(f"sppim_core.{name}")
    raise AttributeError(f"module 'sppim_core' has no attribute {name!r}")


def get_include() -> str:
    """Folder of sppim.h, for C and Cython code that embeds the core."""
    package = Path(__file__).parent
    for folder in (package / "include", package.parent / "csrc" / "include"):  # installed; editable
        if (folder / "sppim.h").is_file():
            return str(folder)
    raise FileNotFoundError(f"no sppim.h beside {package}")

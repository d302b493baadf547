"""Studies: lists of trainings to be compared. Built in, or from a TOML file."""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from sppim_core import check, layers
from sppim_core.errors import DataError
from sppim_core.formats import EXECUTIONS, RULES, LayerFormat
from sppim_core.plan import RATE_STEPS, Plan

FLOAT = "float"  # the rule that stands for float backpropagation
MNIST_NET, CIFAR_NET = "256,256", "32c3m2,64c3m2,128c3m2,128c3"
WIDE_NET = "96c3m2,192c3m2,384c3m2,384c3m2"
SMALLER_STEPS = ((0, 1), (60, 2), (85, 2))  # half of the rates of A9
WIDE_STEPS = ((0, 1), (40, 1), (65, 2), (87, 2))  # wide layers learn better at smaller rates
REF_B_NET = "32c4s4p0,32c3s2p1,32c3,32c3,32c3"  # docs/chip.md, C6
FORMAT_OPTIONS = {
    "product_bits": 8,
    "weight_bits": 16,
    "activation_bits": 7,
    "error_bits": 8,
    "error_threshold": 0,
    "pot_levels": 4,
}


@dataclass(frozen=True)
class Entry:
    """One training of a study. data: name of a data set in the folder of the data; layers: hidden layers in the words
    of layers.parse(); rule: one of RULES, or "float"; formats: those of FORMAT_OPTIONS that are not as there;
    train_images: so many of the training images, 0: all; rate_steps: as in plan.Plan."""

    study: str
    data: str
    layers: str
    rule: str = "local"
    epochs: int = 10
    seed: int = 1
    batch: int = 64
    execution: str = "sequential"
    staleness: int = 0
    centred: bool = True
    flip: bool = False
    crop: int = 0
    train_images: int = 0
    rate_steps: tuple = RATE_STEPS
    formats: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ("study", "data", "layers"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a text, not {getattr(self, name)!r}")
        layers.parse(self.layers)
        check.choice("rule", self.rule, (*RULES, FLOAT))
        check.choice("execution", self.execution, EXECUTIONS)
        for name, low, high in (
            ("epochs", 1, 100_000),
            ("seed", 0, 2**63),
            ("batch", 1, 65535),
            ("staleness", 0, 64),
            ("crop", 0, 127),
            ("train_images", 0, 2**32),
        ):
            check.integer(name, getattr(self, name), low, high)
        for name in ("centred", "flip"):
            check.flag(name, getattr(self, name))
        if not isinstance(self.formats, dict):
            raise TypeError(f"formats must be a table, not {self.formats!r}")
        for name in self.formats:
            check.choice("formats", name, tuple(FORMAT_OPTIONS))
        object.__setattr__(self, "rate_steps", Plan(self.epochs, self.rate_steps).rate_steps)

    @property
    def key(self) -> str:
        """Tells this training from all others, in whatever study it stands."""
        what = {name: value for name, value in asdict(self).items() if name != "study"}
        if self.rate_steps == RATE_STEPS:
            del what["rate_steps"]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """What is particular about it, in a few words."""
        words = [f"{name.replace('_', ' ')} {value}" for name, value in self.formats.items()]
        if self.execution != EXECUTIONS[0] or self.staleness:
            words.append(f"{self.execution}, staleness {self.staleness}")
        if not self.centred:
            words.append("uncentred")
        if self.rate_steps != RATE_STEPS:
            words.append("rate steps " + ",".join(f"{percent}:{shift}" for percent, shift in self.rate_steps))
        if self.flip or self.crop:
            words.append(" and ".join(["flip"] * self.flip + [f"crop {self.crop}"] * (self.crop > 0)))
        return ", ".join(words) or "-"

    def layer_formats(self, image: tuple[int, int, int], classes: int) -> list[LayerFormat]:
        """The formats of its network on images of (height, width, channels)."""
        hidden, options = layers.parse(self.layers), FORMAT_OPTIONS | self.formats
        first = image if layers.reads_images(hidden) else image[0] * image[1] * image[2]
        rule = "bp" if self.rule == FLOAT else self.rule
        formats = layers.layer_formats([first, *hidden, classes], rule, options["product_bits"], self.centred)
        plain = ("weight_bits", "error_bits", "error_threshold", "pot_levels")
        formats = [replace(layer, **{name: options[name] for name in plain}) for layer in formats]
        return layers.coarser_activations(formats, options["activation_bits"])


def _rules(study: str, data: str, net: str, epochs: int, seeds, **more) -> list[Entry]:
    compared = [Entry(study, data, net, rule, epochs, seed, **more) for rule in ("local", FLOAT) for seed in seeds]
    return compared + [Entry(study, data, net, rule, epochs, **more) for rule in ("bp", "dfa", "drtp")]


def _widths(study: str, data: str, net: str, epochs: int) -> list[Entry]:
    """One number of bits changed at a time."""
    values = {
        "weight_bits": (8, 10, 12, 16),
        "product_bits": (4, 6, 8, 16),
        "activation_bits": (2, 3, 4, 5, 6, 7),
        "error_bits": (2, 3, 4, 6, 8),
        "error_threshold": (0, 16, 64),
        "pot_levels": (1, 2, 3, 4, 6),
    }
    changes = [{name: value} for name, row in values.items() for value in row if value != FORMAT_OPTIONS[name]]
    return [Entry(study, data, net, epochs=epochs, formats=change) for change in [{}, *changes]]


def _delays(study: str, data: str, net: str, epochs: int, rate_steps=RATE_STEPS) -> list[Entry]:
    entry = Entry(study, data, net, epochs=epochs, execution="pipelined", rate_steps=rate_steps)
    return [replace(entry, staleness=delay) for delay in (0, 1, 2)]


def built_in() -> dict[str, list[Entry]]:
    """The studies by name."""
    seeds = (1, 2, 3)
    return {
        "mnist": _rules("mnist", "mnist", MNIST_NET, 20, seeds),
        "cifar10": _rules("cifar10", "cifar10", CIFAR_NET, 8, (1,)),
        "cifar10-wide": [
            Entry("cifar10-wide", "cifar10", WIDE_NET, rule, 20, flip=True, crop=4, rate_steps=WIDE_STEPS)
            for rule in ("local", FLOAT)
        ],
        "ref-b": [Entry("ref-b", "cifar10", REF_B_NET, rule, 20) for rule in ("local", FLOAT)],
        "mnist-bits": _widths("mnist-bits", "mnist", MNIST_NET, 10),
        "cifar10-bits": _widths("cifar10-bits", "cifar10", CIFAR_NET, 3),
        "mnist-staleness": _delays("mnist-staleness", "mnist", MNIST_NET, 20),
        "cifar10-staleness": _delays("cifar10-staleness", "cifar10", CIFAR_NET, 8)
        + _delays("cifar10-staleness", "cifar10", CIFAR_NET, 8, SMALLER_STEPS),
    }


def short() -> list[Entry]:
    """Shortened forms of the first studies, for a check in ten minutes."""
    mnist = [Entry("mnist", "mnist", MNIST_NET, rule, 3) for rule in ("local", FLOAT)]
    return mnist + [Entry("cifar10", "cifar10", CIFAR_NET, rule, 2) for rule in ("local", FLOAT)]


def from_toml(path) -> list[Entry]:
    """A file of [[training]] tables whose keys are the fields of Entry; study defaults to the file's name."""
    try:
        document = tomllib.loads(Path(path).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    unknown = set(document) - {"training"}
    if unknown or not isinstance(document.get("training"), list):
        raise DataError(f"{path}: expected [[training]] tables only, found {', '.join(sorted(document)) or 'nothing'}")
    return [_entry(path, i, table) for i, table in enumerate(document["training"])]


def _entry(path, i: int, table: dict) -> Entry:
    known = [f.name for f in fields(Entry)]
    if not isinstance(table, dict):
        raise DataError(f"{path}: training[{i}] must be a table, not {table!r}")
    for key in ("data", "layers"):
        if key not in table:
            raise DataError(f"{path}: training[{i}].{key} is missing")
    for key in table:
        if key not in known:
            raise DataError(f"{path}: training[{i}].{key} is unknown; keys are {', '.join(known)}")
    try:
        return Entry(**{"study": Path(path).stem, **table})
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: training[{i}]: {error}") from error

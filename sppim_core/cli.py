"""The command `sppim`: train, report, chip, info."""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import sppim_core
from sppim_core import _core, report
from sppim_core.chip import Chip
from sppim_core.formats import EXECUTIONS, RULES

DIGITS_EPOCHS, OTHER_EPOCHS = 30, 10


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes like 256,256") from None
    if any(size < 1 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r}: sizes must be positive")
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sppim", description="Bit-accurate on-device learning, counted and mapped onto the SP-PIM chip."
    )
    parser.add_argument("--version", action="version", version=f"sppim_core {sppim_core.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_report(commands)
    chip = commands.add_parser("chip", help="print a chip table with the provenance of every value")
    chip.add_argument("chip", nargs="?", default="ref-b", help="built-in name or .toml file (default: ref-b)")
    info = commands.add_parser("info", help="print versions and instruction-set levels")
    for command in (chip, info):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_train(commands) -> None:
    train = commands.add_parser(
        "train",
        help="train a network and read the chip's figures from its counters",
        description="Trains a multi-layer perceptron in exact fixed point and prints its "
        "accuracy, its counters and what the training costs on the chip.",
    )
    add = train.add_argument
    add(
        "--data",
        metavar="WHERE",
        help="'digits' (default), an IDX folder (MNIST, Fashion-MNIST), or a .npz file with "
        "x_train, y_train, x_test, y_test",
    )
    add("--layers", type=_sizes, default=[128, 128], metavar="SIZES", help="hidden layers (default: 128,128)")
    add("--epochs", type=int, help=f"default: {DIGITS_EPOCHS} for the digits, else {OTHER_EPOCHS}")
    add("--seed", type=int, default=1, help="of all random numbers (default: 1)")
    add("--batch", type=int, default=64, help="images between two updates (default: 64)")
    add("--rule", choices=RULES, default="local", help="where a hidden layer's error comes from (default: local)")
    add(
        "--execution",
        choices=EXECUTIONS,
        default="sequential",
        help="order of the batches' phases (default: sequential)",
    )
    add("--staleness", type=int, default=0, metavar="BATCHES", help="delay of the updates (default: 0)")
    add(
        "--product-bits", type=int, default=8, metavar="BITS", help="bits of a weight that enter a product (default: 8)"
    )
    add("--uncentred", action="store_true", help="no running means")
    add("--threads", type=int, default=1, help="never changes a bit (default: 1)")
    add("--isa", help="instruction-set level (default: SPPIM_ISA or the best)")
    _add_chip(train)
    add(
        "--float-baseline",
        action="store_true",
        help="also train the same network by float backpropagation (scikit-learn)",
    )
    add("--plot", metavar="FILE", help="write a picture (png, pdf, svg)")
    add("--save", metavar="FILE", help="write the trained network (.npz)")
    add("--json", action="store_true", help="print one JSON document")
    add("--quiet", action="store_true", help="no progress")


def _add_report(commands) -> None:
    command = commands.add_parser(
        "report",
        help="print the figures of the reference workload beside the published ones",
        description="Counts the reference workload REF-B (assumed shapes and zeros), schedules "
        "it on the chip and prints published and modelled figures: a fit, not a prediction.",
    )
    _add_chip(command)
    command.add_argument(
        "--activation-sparsity", type=float, default=0.55, help="zeros among hidden activations (default: 0.55)"
    )
    command.add_argument("--error-sparsity", type=float, default=0.79, help="zeros among hidden errors (default: 0.79)")
    command.add_argument("--no-layer-pipeline", action="store_true", help="layers wait for each other")
    command.add_argument("--no-phase-overlap", action="store_true", help="no double buffer: FP waits for GC")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_chip(command) -> None:
    command.add_argument("--chip", default="ref-b", help="built-in name or .toml file (default: ref-b)")
    command.add_argument("--voltage", type=float, metavar="V", help="supply (default: the highest)")
    command.add_argument("--frequency", type=float, metavar="MHZ", help="clock (default: the fastest at that supply)")


def _point(chip: Chip, args) -> report.Point:
    voltage = chip["silicon.voltage_max_v"] if args.voltage is None else args.voltage
    return report.point_at(chip, voltage, args.frequency)


# ---- train ---------------------------------------------------------------------------------------------------


class _ProgressLine:
    """One line a epoch on stderr; on a terminal also a moving line."""

    def __init__(self, epochs: int):
        self.epochs, self.moving, self.last = epochs, sys.stderr.isatty(), 0.0

    def __call__(self, progress) -> None:
        rate = f"{progress.images_per_second:,.0f} images/s, {progress.seconds_left:.0f} s left"
        if progress.epoch:
            done = progress.epoch
            self._write(f"epoch {done.epoch + 1}/{self.epochs}  test accuracy {done.test_accuracy:.2%}  {rate}", "\n")
        elif self.moving and time.monotonic() - self.last > 0.2:
            self.last = time.monotonic()
            self._write(f"{progress.images / progress.total_images:4.0%}  {rate}", "")

    def _write(self, text: str, end: str) -> None:
        print(f"\r\033[K{text}" if self.moving else text, end=end, file=sys.stderr, flush=True)


def _check_outputs(args) -> None:
    """What would go wrong after the training goes wrong before it."""
    for path in (args.plot, args.save):
        if path and not Path(path).absolute().parent.is_dir():
            raise ValueError(f"{path}: no such folder")
    if args.plot:
        sppim_core.plot.check_file(args.plot)
    if args.float_baseline and find_spec("sklearn") is None:
        raise ImportError("--float-baseline needs scikit-learn: pip install 'sppim_core[demo]'")


def _train(args) -> int:
    chip = Chip.load(args.chip)
    point = _point(chip, args)
    _check_outputs(args)
    data = sppim_core.data.load(args.data)
    epochs = args.epochs if args.epochs is not None else DIGITS_EPOCHS if data.name == "digits" else OTHER_EPOCHS
    network = sppim_core.Network(
        [data.inputs, *args.layers, data.classes],
        rule=args.rule,
        seed=args.seed,
        batch=args.batch,
        product_bits=args.product_bits,
        centred=not args.uncentred,
        execution=args.execution,
        staleness=args.staleness,
        threads=args.threads,
        isa=args.isa,
    )
    trainer = sppim_core.Trainer(network, chip)
    if not args.quiet:
        print(
            f"{data.name}: {len(data.y_train)} images to learn from, {len(data.y_test)} held out; {network!r}",
            file=sys.stderr,
        )
    history = trainer.fit(data, epochs, None if args.quiet else _ProgressLine(epochs))
    float_accuracy = None
    if args.float_baseline:
        float_accuracy = sppim_core.train.float_baseline(data, args.layers, epochs, args.seed, args.batch)
    if args.save:
        network.save(args.save)
    if args.plot:
        title = f"{data.name}, {'-'.join(map(str, network.sizes))}, rule {args.rule}, seed {args.seed}"
        sppim_core.plot.draw(args.plot, history, trainer.counters(), args.rule, title, float_accuracy)
    if args.json:
        print(json.dumps(_train_document(args, data, epochs, network, trainer, history, float_accuracy, point)))
    else:
        _print_training(data, network, trainer, history, float_accuracy, point)
    return 0


def _configuration(args, network, epochs: int) -> dict:
    return {
        "layers": network.sizes,
        "epochs": epochs,
        "rule": network.rule,
        "batch": network.batch,
        "execution": network.execution,
        "staleness": network.staleness,
        "threads": network.threads,
        "isa": network.isa,
        "chip": args.chip,
        "formats": [asdict(layer) for layer in network.formats],
    }


def _train_document(args, data, epochs, network, trainer, history, float_accuracy, point) -> dict:
    return {
        "version": sppim_core.__version__,
        "arithmetic_version": _core.ARITHMETIC_VERSION,
        "seed": network.seed,
        "configuration": _configuration(args, network, epochs),
        "data": {"name": data.name, "train_images": len(data.y_train), "test_images": len(data.y_test)},
        "test_accuracy": history.test_accuracy,
        "float_backpropagation_accuracy": float_accuracy,
        "digest": network.digest(),
        "epochs": history.to_dicts(),
        "counters": trainer.counters().to_dict(),
        "operating_point": asdict(point),
        "figures": report.to_dicts(trainer.figures(point)),
    }


def _print_training(data, network, trainer, history, float_accuracy, point) -> None:
    counters = trainer.counters()
    print(
        f"\ntest accuracy    {history.test_accuracy:.2%}  "
        f"({data.name}, {'-'.join(map(str, network.sizes))}, fixed point, rule {network.rule})"
    )
    if float_accuracy is not None:
        print(f"float baseline   {float_accuracy:.2%}  (backpropagation of the same network, as many epochs)")
    print(f"digest           {network.digest()}\n")
    print(f"What was counted (chip {trainer.chip.name}; busy, stall in % of {counters.cycles:,} cycles)\n")
    print(report.counter_table(counters))
    saturated = {
        name: counters.total(name)
        for name in (
            "activation_saturations",
            "error_saturations",
            "delta_saturations",
            "weight_saturations",
            "acc_saturations",
        )
    }
    print(
        "\nsaturated: "
        + ", ".join(f"{count:,} {name.removesuffix('_saturations')}" for name, count in saturated.items())
    )
    print(
        f"\nWhat this training costs on the chip at {point.voltage:g} V, {point.frequency:g} MHz "
        "(published figures are those of another workload)\n"
    )
    print(report.table(trainer.figures(point)))
    words, capacity = sum(shape.weights for shape in trainer.shapes), sppim_core.schedule.weight_capacity(trainer.chip)
    if words > capacity:
        print(
            f"\nnote: {words:,} weights exceed the {capacity:,} words of the arrays; "
            "the schedule takes their exchange as hidden (docs/chip.md, C3)"
        )


# ---- report, chip, info ---------------------------------------------------------------------------------------


def _report(args) -> int:
    chip = Chip.load(args.chip)
    for name in ("activation_sparsity", "error_sparsity"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be in 0..1 (1 excluded), not {getattr(args, name)}")
    point = _point(chip, args)
    run = sppim_core.workload.count_reference(
        chip,
        activation_sparsity=args.activation_sparsity,
        error_sparsity=args.error_sparsity,
        layer_pipeline=not args.no_layer_pipeline,
        phase_overlap=not args.no_phase_overlap,
    )
    rows = report.figures(chip, run.counters, run.baseline, run.epoch_images, point, same_workload=True)
    if args.json:
        print(
            json.dumps(
                {
                    "version": sppim_core.__version__,
                    "chip": chip.name,
                    "operating_point": asdict(point),
                    "figures": report.to_dicts(rows),
                    "counters": run.counters.to_dict(),
                }
            )
        )
        return 0
    print(
        f"Reference workload REF-B on chip {chip.name}: {run.images} counted images of a CIFAR-10 network, "
        f"{point.voltage:g} V, {point.frequency:g} MHz.\n"
        "Shapes, zeros and geometry are assumed and chosen to meet the published headlines: a fit, not a prediction.\n"
    )
    print(report.table(rows))
    return 0


def _chip(args) -> int:
    chip = Chip.load(args.chip)
    if args.json:
        print(
            json.dumps(
                {
                    "name": chip.name,
                    "description": chip.description,
                    "values": {key: asdict(value) for key, value in chip.values.items()},
                    "headline": {key: asdict(value) for key, value in chip.headline.items()},
                }
            )
        )
        return 0
    print(f"{chip.name}: {chip.description}\n")
    headline = {f"headline.{key}": value for key, value in chip.headline.items()}
    for key, value in (chip.values | headline).items():
        print(f"{key:32} {value.value!s:>8}  {value.tag:9}  {value.source}")
    return 0


def _info(args) -> int:
    facts = {
        "version": sppim_core.__version__,
        "arithmetic_version": _core.ARITHMETIC_VERSION,
        "isa": _core.isa_default(),
        "isa_available": list(_core.isa_names()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    if args.json:
        print(json.dumps(facts))
    else:
        for key, value in facts.items():
            print(f"{key:19} {', '.join(value) if isinstance(value, list) else value}")
    return 0


def main(argv=None) -> int:
    """Entry point; returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        return {"train": _train, "report": _report, "chip": _chip, "info": _info}[args.command](args)
    except KeyboardInterrupt:
        print("\nsppim: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"sppim {args.command}: error: {error}", file=sys.stderr)
        return 2

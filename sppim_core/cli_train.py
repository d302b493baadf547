"""The command `sppim train`."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec

import sppim_core
from sppim_core import _core, check, report, storage
from sppim_core.chip import Chip
from sppim_core.formats import EXECUTIONS, RULES

DIGITS_EPOCHS, OTHER_EPOCHS = 30, 10


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes like 256,256") from None
    if any(size < 1 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r}: sizes must be positive")
    return sizes


def add_arguments(commands) -> None:
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
    add(
        "--layers",
        type=_sizes,
        default=[128, 128],
        metavar="SIZES",
        help="hidden layers, '' for none (default: 128,128)",
    )
    add("--epochs", type=int, help=f"default: {DIGITS_EPOCHS} for the digits, else {OTHER_EPOCHS}")
    add("--seed", type=int, default=1, help="of all random numbers (default: 1)")
    add("--batch", type=int, default=64, help="images between two updates (default: 64)")
    add("--rule", choices=RULES, default="local", help="where a hidden layer's error comes from (default: local)")
    add(
        "--execution",
        choices=EXECUTIONS,
        default="sequential",
        help="order in which batches are computed here; the schedule on the chip is the same (default: sequential)",
    )
    add("--staleness", type=int, default=0, metavar="BATCHES", help="delay of the updates (default: 0)")
    add(
        "--product-bits", type=int, default=8, metavar="BITS", help="bits of a weight that enter a product (default: 8)"
    )
    add("--uncentred", action="store_true", help="no running means")
    add("--threads", type=int, default=1, help="never changes a bit (default: 1)")
    add("--isa", help="instruction-set level (default: SPPIM_ISA or the best)")
    add_chip_arguments(train)
    add(
        "--float-baseline",
        action="store_true",
        help="also train the same network by float backpropagation (scikit-learn)",
    )
    add("--plot", metavar="FILE", help="write a picture (png, pdf, svg)")
    add("--save", metavar="FILE", help="write the trained network (.npz)")
    add("--json", action="store_true", help="print one JSON document")
    add("--quiet", action="store_true", help="no progress")


def add_chip_arguments(command) -> None:
    """What `train` and `report` share."""
    add = command.add_argument
    add("--chip", default="ref-b", help="built-in name or .toml file (default: ref-b)")
    add("--voltage", type=float, metavar="V", help="supply (default: the highest)")
    add("--frequency", type=float, metavar="MHZ", help="clock (default: the fastest at that supply)")
    add("--no-layer-pipeline", action="store_true", help="on the chip, layers wait for each other")
    add("--no-phase-overlap", action="store_true", help="no double buffer: on the chip, FP waits for GC")


def operating_point(chip: Chip, args) -> report.Point:
    voltage = chip["silicon.voltage_max_v"] if args.voltage is None else args.voltage
    return report.point_at(chip, voltage, args.frequency)


def schedule_switches(args) -> dict:
    return {"layer_pipeline": not args.no_layer_pipeline, "phase_overlap": not args.no_phase_overlap}


def print_missing_capacity(shapes, chip) -> None:
    """A note for each layer whose weights do not stay in the arrays (C3)."""
    for layer in sppim_core.schedule.not_resident(shapes, chip):
        print(
            f"\nnote: layer {layer} fills {shapes[layer].tiles(chip)} arrays and has {shapes[layer].macros} macros; "
            "the schedule takes the exchange of its weights as hidden (docs/chip.md, C3)"
        )


class _ProgressLine:
    """One line an epoch on stderr; on a terminal also a moving line."""

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
    for option, path in (("--save", args.save), ("--plot", args.plot)):
        if path == "":
            raise ValueError(f"{option} needs a file name")
        if path is not None:
            storage.check_writable(path)
    if args.save and args.plot and os.path.realpath(args.save) == os.path.realpath(args.plot):
        raise ValueError(f"--save and --plot name the same file, {args.plot}")
    if args.plot:
        sppim_core.plot.check_file(args.plot)
    if args.float_baseline and find_spec("sklearn") is None:
        raise ImportError("--float-baseline needs scikit-learn: pip install scikit-learn")


def _network(args, data) -> sppim_core.Network:
    return sppim_core.Network(
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


def run(args) -> int:
    """Trains, prints, then writes what was asked for."""
    chip = Chip.load(args.chip)
    point = operating_point(chip, args)
    _check_outputs(args)
    if args.epochs is not None:
        check.integer("epochs", args.epochs, 1, 100_000)
    data = sppim_core.data.load(args.data)
    epochs = args.epochs or (DIGITS_EPOCHS if args.data in (None, "digits") else OTHER_EPOCHS)
    network = _network(args, data)
    trainer = sppim_core.Trainer(network, chip, **({} if args.rule == "bp" else schedule_switches(args)))
    say = (lambda text: None) if args.quiet else (lambda text: print(text, file=sys.stderr))
    say(f"{data.name}: {len(data.y_train)} images to learn from, {len(data.y_test)} held out; {network!r}")
    history = trainer.fit(data, epochs, None if args.quiet else _ProgressLine(epochs))
    float_accuracy = None
    if args.float_baseline:
        say("float backpropagation of the same network ...")
        float_accuracy = sppim_core.train.float_baseline(data, args.layers, epochs, args.seed, args.batch)
    if args.json:
        print(json.dumps(_document(args, data, network, trainer, history, float_accuracy, point)))
    else:
        _print_training(data, network, trainer, history, float_accuracy, point)
    if args.save:
        network.save(args.save)
    if args.plot:
        title = f"{data.name}, {'-'.join(map(str, network.sizes))}, rule {args.rule}, seed {args.seed}"
        sppim_core.plot.draw(args.plot, history, trainer.counters(), args.rule, title, float_accuracy)
    return 0


def _document(args, data, network, trainer, history, float_accuracy, point) -> dict:
    configuration = {
        "layers": network.sizes,
        "epochs": len(history.epochs),
        "rule": network.rule,
        "batch": network.batch,
        "execution": network.execution,
        "staleness": network.staleness,
        "threads": network.threads,
        "isa": network.isa,
        "chip": trainer.chip.name,
        "chip_source": args.chip,
        "formats": [asdict(layer) for layer in network.formats],
    }
    return {
        "version": sppim_core.__version__,
        "arithmetic_version": _core.ARITHMETIC_VERSION,
        "seed": network.seed,
        "configuration": configuration,
        "data": {
            "name": data.name,
            "source": args.data or "digits",
            "train_images": len(data.y_train),
            "test_images": len(data.y_test),
        },
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
        "(published*: of another workload)\n"
    )
    print(report.table(trainer.figures(point), "published*"))
    print_missing_capacity(trainer.shapes, trainer.chip)

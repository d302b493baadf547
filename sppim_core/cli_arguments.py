"""Arguments of the commands, those of `sppim train` above all."""

import argparse

from sppim_core import report
from sppim_core.chip import Chip
from sppim_core.formats import EXECUTIONS, RULES
from sppim_core.layers import Conv, parse
from sppim_core.plan import RATE_STEPS

DIGITS_EPOCHS, OTHER_EPOCHS = 30, 10


def _layers(text: str) -> list[int | Conv]:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate_steps(text: str) -> tuple:
    try:
        return tuple((int(percent), int(shift)) for percent, shift in (p.split(":") for p in text.split(",") if text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of steps like 60:2,85:2") from None


def add_arguments(commands) -> None:
    train = commands.add_parser(
        "train",
        help="train a network and read the chip's figures from its counters",
        description="Trains a network in exact fixed point and prints its "
        "accuracy, its counters and what the training costs on the chip.",
    )
    add = train.add_argument
    add(
        "--data",
        metavar="WHERE",
        help="'digits' (default); a folder or archive (.tar, .tar.gz, .tgz) with the published files of MNIST, "
        "Fashion-MNIST, EMNIST, CIFAR-10 or CIFAR-100, FOLDER:NAME if it holds several (emnist:emnist-letters); or a "
        ".npz file with x_train, y_train, x_test, y_test",
    )
    add(
        "--layers",
        type=_layers,
        default=[128, 128],
        metavar="LAYERS",
        help="hidden layers, '' for none (default: 128,128); 32c3m2 is a convolution to 32 channels by a 3 x 3 window "
        "with maximum pooling by 2 (c rows [x columns], s stride, p padding, m or a maximum or mean pooling)",
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
    _add_course_arguments(train)
    add_chip_arguments(train)
    add(
        "--float-baseline",
        action="store_true",
        help="also train the same network by float backpropagation (scikit-learn; with convolutions PyTorch)",
    )
    add("--plot", metavar="FILE", help="write a picture (png, pdf, svg)")
    add("--save", metavar="FILE", help="write the trained network (.npz)")
    add("--json", action="store_true", help="print one JSON document")
    add("--quiet", action="store_true", help="no progress")


def _add_course_arguments(train) -> None:
    """How a training goes: from which images, at which rates, kept where."""
    add = train.add_argument
    add(
        "--rate-steps",
        type=_rate_steps,
        default=RATE_STEPS,
        metavar="STEPS",
        help="PERCENT:SHIFT,...: from that percentage of the epochs on, rates are shifted by so much more, "
        "'' for none (default: 60:2,85:2)",
    )
    add("--validation", type=int, default=0, metavar="IMAGES", help="training images held out (default: 0)")
    add("--patience", type=int, metavar="EPOCHS", help="stop after so many without a better validation accuracy")
    add("--flip", action="store_true", help="mirror images at random")
    add("--crop", type=int, default=0, metavar="N", help="shift images at random by up to N pixels (default: 0)")
    add(
        "--checkpoint",
        metavar="FILE",
        help="save everything there on the way; if the file exists, its training is continued",
    )
    add("--every", type=float, default=60.0, metavar="SECONDS", help="between two checkpoints (default: 60)")
    add("--log", metavar="FILE", help="write JSON lines, one an epoch")
    add("--tensorboard", metavar="DIR", help="write events for TensorBoard (needs tensorboardX)")


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

"""The command `sppim`: train (cli_train.py), compare (cli_compare.py), report, chip, info."""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict

import numpy as np

import sppim_core
from sppim_core import _core, cli_arguments, cli_compare, cli_output, cli_train, report
from sppim_core.chip import Chip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sppim", description="Bit-accurate on-device learning, counted and mapped onto the SP-PIM chip."
    )
    parser.add_argument("--version", action="version", version=f"sppim_core {sppim_core.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cli_arguments.add_arguments(commands)
    cli_compare.add_arguments(commands)
    _add_report(commands)
    chip = commands.add_parser("chip", help="print a chip table with the provenance of every value")
    chip.add_argument("chip", nargs="?", default="ref-b", help="built-in name or .toml file (default: ref-b)")
    info = commands.add_parser("info", help="print versions and instruction-set levels")
    for command in (chip, info):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_report(commands) -> None:
    command = commands.add_parser(
        "report",
        help="print the figures of the reference workload beside the published ones",
        description="Counts the reference workload REF-B (assumed shapes and zeros), schedules "
        "it on the chip and prints published and modelled figures: a fit, not a prediction.",
    )
    cli_arguments.add_chip_arguments(command)
    add = command.add_argument
    add("--batch", type=int, default=128, help="images between two updates (default: 128)")
    add("--activation-sparsity", type=float, default=0.55, help="zeros among hidden activations (default: 0.55)")
    add("--error-sparsity", type=float, default=0.79, help="zeros among hidden errors (default: 0.79)")
    add("--json", action="store_true", help="print JSON")


def _report(args) -> int:
    chip = Chip.load(args.chip)
    point = cli_arguments.operating_point(chip, args)
    run = sppim_core.workload.count_reference(
        chip,
        batch=args.batch,
        activation_sparsity=args.activation_sparsity,
        error_sparsity=args.error_sparsity,
        **cli_arguments.schedule_switches(args),
    )
    rows = report.figures(chip, run.counters, run.baseline, run.epoch_images, point, same_workload=True)
    if args.json:
        document = {
            "version": sppim_core.__version__,
            "chip": chip.name,
            "operating_point": asdict(point),
            "figures": report.to_dicts(rows),
            "counters": run.counters.to_dict(),
        }
        print(json.dumps(document))
        return 0
    print(
        f"Reference workload REF-B on chip {chip.name}: {run.images} counted images of a CIFAR-10 network, "
        f"{point.voltage:g} V, {point.frequency:g} MHz.\n"
        "Its shapes, zeros and the geometry of chip REF-B are assumed, chosen to meet the published headlines: "
        "a fit, not a prediction.\n"
    )
    print(report.table(rows))
    cli_output.print_missing_capacity(run.shapes, chip)
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
        "isa": sppim_core.Network([1, 2]).isa,
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
    """Entry point; returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C, 141 if the reader went away."""
    args = _parser().parse_args(argv)
    commands = {"train": cli_train.run, "compare": cli_compare.run, "report": _report, "chip": _chip, "info": _info}
    try:
        status = commands[args.command](args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"\nsppim {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `sppim report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"sppim {args.command}: error: {error}", file=sys.stderr)
        return 2

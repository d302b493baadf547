"""What `sppim train` says: a line on the way, a report or a JSON document at the end."""

import sys
import time
from dataclasses import asdict

import sppim_core
from sppim_core import _core, report
from sppim_core.layers import describe


class ProgressLine:
    """One line an epoch on stderr; on a terminal also a moving line."""

    def __init__(self, epochs: int):
        self.epochs, self.moving, self.last = epochs, sys.stderr.isatty(), 0.0

    def __call__(self, progress) -> None:
        text = (
            f"loss {progress.loss:.4f}  accuracy {progress.accuracy:.2%}  "
            f"{progress.images_per_second:,.0f} images/s, {progress.seconds_left:.0f} s left"
        )
        if progress.epoch:
            done = progress.epoch
            held_out = "" if done.validation_accuracy is None else f"validation {done.validation_accuracy:.2%}  "
            test = f"epoch {done.epoch + 1}/{self.epochs}  test accuracy {done.test_accuracy:.2%}"
            self._write(f"{test}  {held_out}{text}", "\n")
        elif self.moving and time.monotonic() - self.last > 0.2:
            self.last = time.monotonic()
            self._write(f"{progress.images / progress.total_images:4.0%}  {text}", "")

    def _write(self, text: str, end: str) -> None:
        print(f"\r\033[K{text}" if self.moving else text, end=end, file=sys.stderr, flush=True)


def print_missing_capacity(shapes, chip) -> None:
    """A note for each layer whose weights do not stay in the arrays (C3)."""
    for layer in sppim_core.schedule.not_resident(shapes, chip):
        print(
            f"\nnote: layer {layer} fills {shapes[layer].tiles(chip)} arrays and has {shapes[layer].macros} macros; "
            "the schedule takes the exchange of its weights as hidden (docs/chip.md, C3)"
        )


def document(args, data, network, trainer, history, float_accuracy, point) -> dict:
    configuration = {
        "network": describe(network.formats),
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


def print_training(data, network, trainer, history, float_accuracy, point) -> None:
    counters = trainer.counters()
    print(
        f"\ntest accuracy    {history.test_accuracy:.2%}  "
        f"({data.name}, {describe(network.formats)}, fixed point, rule {network.rule})"
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

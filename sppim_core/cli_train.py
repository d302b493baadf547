"""The command `sppim train`."""

import json
import os
import signal
import sys
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from importlib.util import find_spec

import sppim_core
from sppim_core import augment, check, checkpoint, float_baseline, storage
from sppim_core.chip import Chip
from sppim_core.cli_arguments import DIGITS_EPOCHS, OTHER_EPOCHS, operating_point, schedule_switches
from sppim_core.cli_output import ProgressLine, document, print_training
from sppim_core.layers import describe, reads_images
from sppim_core.plan import rate_shift

_OUTPUTS = ("save", "plot", "checkpoint", "log")


def _check_outputs(args) -> None:
    """What would go wrong after the training goes wrong before it."""
    taken: dict[str, str] = {}
    for name in _OUTPUTS:
        path = getattr(args, name)
        if path == "":
            raise ValueError(f"--{name} needs a file name")
        if path is None:
            continue
        storage.check_writable(path)
        other = taken.setdefault(os.path.realpath(path), name)
        if other != name:
            raise ValueError(f"--{other} and --{name} name the same file, {path}")
    if args.plot:
        sppim_core.plot.check_file(args.plot)
    if args.tensorboard == "":
        raise ValueError("--tensorboard needs the name of a folder")
    if args.tensorboard is not None:
        import_module("sppim_core.tensorboard")
    images = reads_images(args.layers)
    module, name, package = ("torch", "PyTorch", "torch") if images else ("sklearn", "scikit-learn", "scikit-learn")
    if args.float_baseline and find_spec(module) is None:
        raise ImportError(f"--float-baseline of this network needs {name}: pip install {package}")


def _network(args, data) -> sppim_core.Network:
    return sppim_core.Network(
        [data.image if reads_images(args.layers) else data.inputs, *args.layers, data.classes],
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


def _plan(args) -> dict:
    """Options of Trainer.fit() that say what is trained."""
    return {
        "epochs": args.epochs or (DIGITS_EPOCHS if args.data in (None, "digits") else OTHER_EPOCHS),
        "rate_steps": args.rate_steps,
        "validation": args.validation,
        "patience": args.patience,
        "augmentation": augment.chosen(args.flip, args.crop),
    }


@contextmanager
def _followed(args, epochs: int):
    """What Trainer.fit() calls on the way."""
    with ExitStack() as stack:
        followers = [] if args.quiet else [ProgressLine(epochs)]
        if args.tensorboard is not None:
            board = import_module("sppim_core.tensorboard").TensorBoard(args.tensorboard)
            followers.append(stack.enter_context(closing(board)))

        def progress(state) -> None:
            for follower in followers:
                follower(state)

        yield progress


@contextmanager
def _stoppable(file: str | None):
    """SIGTERM acts like Ctrl-C; whoever stops a training is told how to go on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if file is not None:
            print(f"\n{_kept(file)}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _kept(file: str) -> str:
    if not os.path.exists(file):
        return f"{file}: nothing kept yet"
    return f"{_where(file)}; the same command continues there"


def _where(file: str) -> str:
    epoch, batch = checkpoint.position(file)
    return f"{file}: epoch {epoch + 1}, after {batch} batches of it"


def _float_accuracy(args, data, network, plan) -> float:
    """Of PyTorch for networks that read images, of scikit-learn for perceptrons."""
    epochs, steps = plan["epochs"], args.rate_steps
    if not reads_images(args.layers):
        return sppim_core.train.float_baseline(data, args.layers, epochs, args.seed, args.batch, steps)
    history = float_baseline.train(
        data,
        network.formats,
        epochs,
        rate_shift=lambda epoch: rate_shift(epoch, epochs, steps),
        seed=args.seed,
        batch=args.batch,
        threads=args.threads,
        augmentation=plan["augmentation"],
    )
    return history[-1].test_accuracy


def run(args) -> int:
    """Trains, prints, then writes what was asked for."""
    chip = Chip.load(args.chip)
    point = operating_point(chip, args)
    _check_outputs(args)
    if args.epochs is not None:
        check.integer("epochs", args.epochs, 1, 100_000)
    plan = _plan(args)
    epochs = plan["epochs"]
    say = (lambda text: None) if args.quiet else (lambda text: print(text, file=sys.stderr))
    data = sppim_core.data.load(args.data)
    network = _network(args, data)
    trainer = sppim_core.Trainer(network, chip, **({} if args.rule == "bp" else schedule_switches(args)))
    say(f"{data.name}: {len(data.y_train)} images to learn from, {len(data.y_test)} held out; {network!r}")
    if args.checkpoint and os.path.exists(args.checkpoint):
        say(f"continues {_where(args.checkpoint)}")

    with _stoppable(args.checkpoint), _followed(args, epochs) as progress:
        history = trainer.fit(
            data, **plan, progress=progress, checkpoint=args.checkpoint, every=args.every, log=args.log
        )
    float_accuracy = None
    if args.float_baseline:
        say("float backpropagation of the same network ...")
        float_accuracy = _float_accuracy(args, data, network, plan)
    if args.json:
        print(json.dumps(document(args, data, network, trainer, history, float_accuracy, point)))
    else:
        print_training(data, network, trainer, history, float_accuracy, point)
    if args.save:
        network.save(args.save)
    if args.plot:
        title = f"{data.name}, {describe(network.formats)}, rule {args.rule}, seed {args.seed}"
        sppim_core.plot.draw(args.plot, history, trainer.counters(), args.rule, title, float_accuracy)
    return 0

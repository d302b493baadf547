"""The main job: learning digits (and, marked slow, MNIST), from Python and from the command line."""

import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from sppim_core import Network, Trainer, cli, data, train

HERE = Path(__file__).parent  # not the root: the package under test is the installed one


def sppim(*args):
    return subprocess.run([sys.executable, "-m", "sppim_core", *args], capture_output=True, text=True, cwd=HERE)


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def trained(digits, epochs, **options):
    network = Network([64, 128, 128, 10], **options)
    trainer = Trainer(network)
    return network, trainer, trainer.fit(digits, epochs)


def test_digits(digits):
    _, trainer, history = trained(digits, 30)
    assert history.test_accuracy >= 0.95
    assert len(history.epochs) == 30 and [e.rate_shift for e in history.epochs] == [0] * 18 + [2] * 8 + [4] * 4
    assert trainer.counters().total("images") == 3 * 30 * 1437


@pytest.mark.parametrize("rule, floor", [("drtp", 0.60), ("dfa", 0.93), ("bp", 0.95)])
def test_other_rules_learn(digits, rule, floor):
    assert trained(digits, 20, rule=rule)[2].test_accuracy >= floor


def test_reproducible_and_pipelined_alike(digits):
    runs = [
        trained(digits, 2, **options) for options in ({}, {}, {"execution": "pipelined"}, {"threads": 2, "isa": "ref"})
    ]
    assert len({network.digest() for network, _, _ in runs}) == 1
    assert all(trainer.counters() == runs[0][1].counters() for _, trainer, _ in runs)
    assert trained(digits, 2, seed=2)[0].digest() != runs[0][0].digest()


def test_stale_training_learns(digits):
    assert trained(digits, 30, staleness=1)[2].test_accuracy >= 0.94


def test_counters_of_a_training_in_closed_form(digits):
    network, trainer, _ = trained(digits, 2)
    c = trainer.counters()
    images, batches = 2 * 1437, 2 * 23
    for layer, (k, n) in enumerate(((64, 128), (128, 128), (128, 10))):
        assert c["images"][layer] == images and c["batches"][layer] == batches
        assert c["fp_macs_total"][layer] == c["gc_macs_total"][layer] == images * k * n + batches * (k + 1) * n
        assert c["pot_macs_total"][layer] == (2 * images * 10 * n if layer < 2 else 0)
        for phase in ("fp", "gc"):
            assert (
                sum(c[f"{phase}_macs_{part}"][layer] for part in ("done", "skipped", "gated"))
                == c[f"{phase}_macs_total"][layer]
            )
        assert c["ema_weight_write_bytes"][layer] == batches * 2 * (k + 1) * n
        assert c["sram_gradient_read_bytes"][layer] == batches * 4 * (k + 1) * n
    zeros = 2 * int((digits.x_train == 0).sum())
    assert c["input_zeros"][0] == zeros and c["input_values"][0] == images * 64
    assert c.total("ep_macs_total") == 0 and 0 < c.cycles < trainer.baseline_counters().cycles


def test_progress(digits):
    seen = []
    Trainer(Network([64, 16, 10])).fit(digits, 2, seen.append)
    assert [p.epoch.epoch for p in seen if p.epoch] == [0, 1]
    assert seen[-1].images == seen[-1].total_images == 2 * 1437 and seen[-1].seconds_left == 0
    assert [p.images for p in seen] == sorted(p.images for p in seen)


def test_rate_schedule():
    assert [train.rate_shift(epoch, 5) for epoch in range(5)] == [0, 0, 0, 2, 2]  # ceil(.6 x 5) = 3, ceil(.85 x 5) = 5
    for epochs in range(1, 1000):
        first, second = math.ceil(Fraction(6, 10) * epochs), math.ceil(Fraction(85, 100) * epochs)
        assert [train.rate_shift(first - 1, epochs), train.rate_shift(first, epochs)] == [0, 2 if first < second else 4]
        assert train.rate_shift(second, epochs) == 4


def test_json(tmp_path):
    result = sppim(
        "train",
        "--epochs",
        "2",
        "--layers",
        "32",
        "--json",
        "--plot",
        str(tmp_path / "p.png"),
        "--save",
        str(tmp_path / "n.npz"),
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["configuration"]["layers"] == [64, 32, 10] and document["seed"] == 1
    assert document["digest"] == Network.load(tmp_path / "n.npz").digest()
    assert document["test_accuracy"] == document["epochs"][-1]["test_accuracy"]
    assert document["counters"]["images"] == [2 * 1437] * 2 and document["counters"]["cycles"] > 0
    assert {row["figure"] for row in document["figures"]} >= {"training speed", "peak efficiency", "energy per epoch"}
    assert "epoch 2/2" in result.stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    again = json.loads(
        sppim("train", "--epochs", "2", "--layers", "32", "--json", "--quiet", "--execution", "pipelined").stdout
    )
    assert again["digest"] == document["digest"]


def test_text_report():
    result = sppim("train", "--epochs", "1", "--layers", "16,16", "--quiet", "--float-baseline")
    assert result.returncode == 0 and result.stderr == ""
    for part in ("test accuracy", "float baseline", "digest", "EP (PoT)", "TFLOPS/W", "22.41"):
        assert part in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["report", "--json"],
        ["chip"],
        ["chip", "--json"],
        ["info"],
        ["info", "--json"],
        ["--help"],
        ["train", "--help"],
        ["report", "--no-layer-pipeline", "--no-phase-overlap"],
    ],
    ids=" ".join,
)
def test_other_commands(arguments):
    result = sppim(*arguments)
    assert result.returncode == 0 and result.stderr == "" and result.stdout
    if "--json" in arguments:
        json.loads(result.stdout)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "/nowhere"], "/nowhere: no such file or folder"),
        (["--layers", "12,x"], "'x' is not a layer like 256 or 32c3m2"),
        (["--layers", "0"], "layer '0' must be in 1..65535, not 0"),
        (["--epochs", "0"], "epochs must be in 1..100000, not 0"),
        (["--seed", "-1"], "seed must be in"),
        (["--threads", "0"], "threads must be in 1..256, not 0"),
        (["--isa", "sse9"], "isa must be one of ref"),
        (["--chip", "none"], "chip must be one of ref-b"),
        (["--voltage", "3"], "voltage must be in 0.56..1.05 V, not 3.0"),
        (["--rule", "bp", "--execution", "pipelined"], "not possible with rule 'bp'"),
        (["--plot", "/no/where.png"], "/no/where.png: no such folder"),
        (["--plot", "picture.doc"], "picture.doc: a picture's name ends in .png, .pdf, .svg"),
        (["--save", "/no/where.npz"], "no such folder"),
        (["--save", ""], "--save needs a file name"),
        (["--save", "a.png", "--plot", "./a.png"], "--save and --plot name the same file, ./a.png"),
        (["--save", "."], "is a folder"),
        (["--checkpoint", "/no/where"], "no such folder"),
        (["--log", "a", "--checkpoint", "./a"], "--checkpoint and --log name the same file, a"),
        (["--tensorboard", ""], "--tensorboard needs the name of a folder"),
        (["--every", "-1", "--checkpoint", "a"], "every must be at least 0, not -1"),
        (["--patience", "2"], "patience=2 needs images to validate with"),
        (["--validation", "1437"], "validation must leave images to learn from, not 1437 of 1437"),
        (["--rate-steps", "60"], "'60' is not a list of steps like 60:2,85:2"),
        (["--rate-steps", "60:20"], "shift of rate_steps must be in 0..16, not 20"),
        (["--product-bits", "40"], "product_bits must be in 2..16, not 40"),
        (["--layers", "70000"], r"must be in 1..65535, not 70000"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_arguments(arguments, message, capsys):
    try:
        status = cli.main(["train", *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_wrong_sparsity(capsys):
    assert cli.main(["report", "--error-sparsity", "1.0"]) == 2
    assert "error_sparsity must be in 0..1 (1 excluded), not 1.0" in capsys.readouterr().err


def test_ctrl_c_on_the_command_line():
    import signal

    process = subprocess.Popen(
        [sys.executable, "-m", "sppim_core", "train", "--epochs", "5000"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where tests run with it ignored
    )
    for line in process.stderr:
        if "epoch 2/" in line:
            process.send_signal(signal.SIGINT)
            break
    assert process.wait(30) == 130
    assert "interrupted" in process.stderr.read()


@pytest.mark.slow
def test_mnist(mnist_folder):
    """784-256-256-10, 10 epochs, fixed-point local error prediction: at least 98.0%, the same bits on every path."""
    mnist = data.load_idx(mnist_folder)
    networks = []
    for options in ({}, {"execution": "pipelined", "threads": 2, "isa": "ref"}):
        network = Network([784, 256, 256, 10], seed=1, **options)
        history = Trainer(network).fit(mnist, 10)
        print(f"\nMNIST, {network!r}: {history.test_accuracy:.2%}, digest {network.digest()[:16]}")
        assert history.test_accuracy >= 0.98
        networks.append(network)
    assert networks[0].digest() == networks[1].digest()

"""Checkpoints: a training that was stopped anywhere, also by kill -9 within a save, ends as if it never had been."""

import dataclasses
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sppim_core import Augmentation, Chip, DataError, Network, Trainer, _core, checkpoint, data, storage

SIZES, EPOCHS = [49, 40, 24, 5], 6
HERE = Path(__file__).parent


def make_data(seed=0) -> data.Dataset:
    rng = np.random.default_rng(seed)
    prototypes = rng.random((5, 49)) * (rng.random((5, 49)) < 0.4)
    y = rng.integers(0, 5, 1000)
    x = np.clip(prototypes[y] + rng.normal(0, 0.3, (1000, 49)), 0, 1)
    x = x.reshape(-1, 7, 7)
    return data.from_arrays(x[:800], y[:800], x[800:], y[800:], "blobs")


DATA = make_data()


class Training:
    """One training in a folder: fit() as often as needed, then the outcome."""

    def __init__(self, folder: Path, network=(), fit=(), **how):
        self.folder, self.file = folder, folder / "checkpoint"
        self.options, self.how, self.fit_options = dict(network), how, dict(fit)
        folder.mkdir(exist_ok=True)

    def fit(self, progress=None, data=DATA, **more):
        self.network = Network(SIZES, batch=32, threads=self.how.get("threads", 1), **self.options)
        if "isa" in self.how:
            self.network = Network(SIZES, batch=32, **self.options, **self.how)
        self.trainer = Trainer(self.network)
        options = {"checkpoint": self.file, "log": self.folder / "log", "epochs": EPOCHS} | self.fit_options | more
        self.history = self.trainer.fit(data, options.pop("epochs"), progress, **options)
        return self

    def outcome(self) -> dict:
        self.network.save(self.folder / "network")
        lines = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return {
            "digest": self.network.digest(),
            "saved": (self.folder / "network").read_bytes(),
            "counters": self.trainer.counters().to_dict(),
            "baseline": self.trainer.baseline_counters().to_dict(),
            "history": [without_seconds(epoch) for epoch in self.history.to_dicts()],
            "log": [without_seconds(line) for line in lines],
        }


def without_seconds(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if name != "seconds"}


def unbroken(tmp_path, **options) -> dict:
    return Training(tmp_path / "unbroken", **options).fit(checkpoint=None).outcome()


def in_child(job) -> int:
    """Runs job() in a forked process; its process id."""
    child = os.fork()
    if child == 0:
        try:
            job()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def wait(child) -> int:
    """How it ended: the exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stop_after(images: int):
    """A progress function: Ctrl-C once so many images have entered."""

    def progress(state):
        if state.images >= images and not state.epoch:
            raise KeyboardInterrupt

    return progress


def train_and_kill(training: Training, delay: float, **fit) -> int:
    """kill -9 so many seconds after the first batch."""
    read, write = os.pipe()
    child = in_child(lambda: training.fit(lambda _: os.write(write, b"."), **fit))
    os.close(write)
    os.read(read, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    status = wait(child)
    os.close(read)
    return status


def kill_often(tmp_path, kills: int, epochs: int, longest: float) -> None:
    expected = unbroken(tmp_path, fit={"epochs": epochs})
    rng, killed, positions = random.Random(kills), 0, set()
    training = Training(tmp_path / "killed", fit={"epochs": epochs})
    for i in range(kills):
        training.how = {"isa": rng.choice(_core.isa_names()), "threads": rng.choice([1, 2])}
        every = 0 if i % 5 == 0 else 0.005  # 0: most of the time passes in saves
        killed += train_and_kill(training, rng.uniform(0, longest), every=every) == -signal.SIGKILL
        if training.file.exists():
            positions.add(checkpoint.position(training.file))
    assert training.fit().outcome() == expected
    assert killed >= kills // 2 and len(positions) >= kills // 4 and any(batch for _, batch in positions)
    assert sorted(file.name for file in training.folder.iterdir()) == ["checkpoint", "log", "network"]


def test_killed_at_any_time(tmp_path):
    kill_often(tmp_path, 20, epochs=40, longest=0.06)


@pytest.mark.slow
def test_killed_two_hundred_times(tmp_path):
    kill_often(tmp_path, 200, epochs=300, longest=0.06)


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("number", [1, 2, 30])
def test_killed_within_a_save(tmp_path, monkeypatch, call, number):
    calls = []

    def die(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(*arguments)

    def train():
        monkeypatch.setattr(storage.os, call, die)
        training.fit(every=0)

    genuine, training = getattr(os, call), Training(tmp_path / "killed", fit={"epochs": 2})
    assert wait(in_child(train)) == -signal.SIGKILL
    assert training.fit().outcome() == unbroken(tmp_path, fit={"epochs": 2})
    assert sorted(file.name for file in training.folder.iterdir()) == ["checkpoint", "log", "network"]


@pytest.mark.parametrize(
    "network, fit",
    [
        ({}, {}),
        ({"rule": "bp"}, {"validation": 100}),
        (
            {"seed": 7},
            {
                "augmentation": Augmentation(flip=True, crop=1),
                "validation": 50,
                "patience": 2,
                "rate_steps": ((50, 3),),
            },
        ),
    ],
    ids=str,
)
def test_stopped_within_an_epoch(tmp_path, network, fit):
    training = Training(tmp_path / "stopped", network, fit)
    with pytest.raises(KeyboardInterrupt):
        training.fit(stop_after(1000))
    assert checkpoint.position(training.file)[0] == 1 and checkpoint.position(training.file)[1] > 0
    training.how = {"threads": 2, "isa": "ref"}
    assert training.fit().outcome() == unbroken(tmp_path, network=network, fit=fit)
    assert training.fit().outcome() == unbroken(tmp_path, network=network, fit=fit)  # nothing left to do


@pytest.mark.parametrize(
    "network",
    [
        {"execution": "pipelined"},
        {"staleness": 2},
        {"execution": "pipelined", "staleness": 1, "rule": "dfa"},
        {"execution": "pipelined", "rule": "drtp"},
    ],
    ids=str,
)
def test_with_batches_in_flight_the_ends_of_epochs_are_kept(tmp_path, network):
    training = Training(tmp_path / "stopped", network, {"every": 0})
    with pytest.raises(KeyboardInterrupt):
        training.fit(stop_after(2000))
    assert checkpoint.position(training.file) == (2, 0)
    assert training.fit().outcome() == unbroken(tmp_path, network=network)


def test_saving_changes_nothing(tmp_path):
    expected = unbroken(tmp_path, fit={"epochs": 2})
    for every in (0, math.inf):
        training = Training(tmp_path / f"every {every}", fit={"every": every, "epochs": 2})
        assert training.fit().outcome() == expected


def test_a_signal_waits_for_the_end_of_a_step(tmp_path):
    """Signals at any instant: counters and network belong together, and what is kept is the very batch."""
    training, stops, armed = Training(tmp_path / "stopped"), 0, []

    def interrupt(*_):
        if armed:
            raise KeyboardInterrupt

    def stopped() -> bool:
        try:
            armed.append(True)
            training.fit()
            armed.clear()
            return False
        except KeyboardInterrupt:
            armed.clear()
            return True

    before = signal.signal(signal.SIGTERM, interrupt)
    child = in_child(lambda: terminate_parent(0.02))
    while stopped():
        stops += 1
        trainer = training.trainer  # both sides of its account have the same images, none twice
        assert (trainer.counters()["images"] == trainer.baseline_counters()["images"]).all()
        wait(child)
        child = in_child(partial(terminate_parent, 0.02 + 0.0013 * stops))
    wait(child)
    signal.signal(signal.SIGTERM, before)
    assert stops and training.outcome() == unbroken(tmp_path)


def terminate_parent(delay: float) -> None:
    time.sleep(delay)
    os.kill(os.getppid(), signal.SIGTERM)


def finished(tmp_path) -> Training:
    return Training(tmp_path / "done", fit={"epochs": 1}).fit()


def test_damaged_checkpoints_are_refused(tmp_path):
    training = finished(tmp_path)
    whole, rng = training.file.read_bytes(), random.Random(1)
    damages = [whole[:size] for size in {0, 1, len(whole) - 1, *rng.sample(range(len(whole)), 60)}]
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damages.append(bytes(damaged))
    for damage in [*damages, whole + b"\0"]:
        training.file.write_bytes(damage)
        with pytest.raises(DataError, match="checkpoint: not a saved checkpoint"):
            checkpoint.position(training.file)
    with pytest.raises(DataError, match="checkpoint: not a saved checkpoint"):
        training.fit()


def test_checkpoints_and_networks_are_not_each_other(tmp_path):
    training = finished(tmp_path)
    training.network.save(tmp_path / "network")
    with pytest.raises(DataError, match="not a saved network but a checkpoint"):
        Network.load(training.file)
    with pytest.raises(DataError, match="not a saved checkpoint but a network"):
        training.fit(checkpoint=tmp_path / "network")


def test_what_a_checkpoint_lacks_is_an_error_that_names_the_file(tmp_path):
    training = finished(tmp_path)
    config, arrays = storage.read(training.file, "checkpoint")
    for name in arrays.keys() - {"score_bias_2"}:  # has no elements
        storage.write(training.file, "checkpoint", config, arrays | {name: arrays[name][:-1]})
        with pytest.raises(DataError, match="checkpoint: not a saved checkpoint"):
            training.fit()
    for name in config.keys() - {"configuration", "kind"}:
        storage.write(training.file, "checkpoint", {key: config[key] for key in config if key != name}, arrays)
        with pytest.raises(DataError, match="checkpoint: not a saved checkpoint"):
            training.fit()


OTHERS = {
    "network.seed is 1 there, 2 here": ({"seed": 2}, {}),
    "network.rule is 'local' there, 'drtp' here": ({"rule": "drtp"}, {}),
    "network.execution is 'sequential' there, 'pipelined' here": ({"execution": "pipelined"}, {}),
    "network.staleness is 0 there, 1 here": ({"staleness": 1}, {}),
    r"network.formats\[0\].product_bits is 8 there, 7 here": ({"product_bits": 7}, {}),
    "plan.epochs is 1 there, 2 here": ({}, {"epochs": 2}),
    "plan.validation is 0 there, 10 here": ({}, {"validation": 10}),
    r"plan.rate_steps\[0\]\[1\] is 2 there, 1 here": ({}, {"rate_steps": [(60, 1), (85, 2)]}),
    r"plan.augmentation is None there, 'Augmentation\(flip=True, crop=1\)' here": (
        {},
        {"augmentation": Augmentation(flip=True, crop=1)},
    ),
    "training_data is": ({}, {"data": make_data(1)}),
    "test_data is": ({}, {"data": dataclasses.replace(DATA, y_test=DATA.y_test[::-1])}),
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_training_is_refused(tmp_path, message):
    network, fit = OTHERS[message]
    training = finished(tmp_path)
    training.options = network
    with pytest.raises(DataError, match=f"a checkpoint of another training: {message}"):
        training.fit(**fit)


def test_another_chip_is_refused(tmp_path):
    training = finished(tmp_path)
    with pytest.raises(DataError, match="schedule.layer_pipeline is 1 there, 0 here"):
        Trainer(Network(SIZES, batch=32), Chip.load(), layer_pipeline=False).fit(DATA, 1, checkpoint=training.file)


def test_starting_anew(tmp_path):
    training = finished(tmp_path)
    assert len(training.fit(epochs=2, resume=False).history.epochs) == 2
    assert len((training.folder / "log").read_text().splitlines()) == 3


def test_no_checkpoint_where_none_can_be_written(tmp_path):
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "no" / "file", "no such folder")):
        for option in ("checkpoint", "log"):
            with pytest.raises(OSError, match=message):
                Training(tmp_path / "t").fit(**{option: path})
    with pytest.raises(ValueError, match="every must be at least 0, not -1"):
        Training(tmp_path / "t").fit(every=-1)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    training = Training(tmp_path / "full")
    with pytest.raises(KeyboardInterrupt):
        training.fit(stop_after(1000))
    kept = training.file.read_bytes()

    def with_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, len(kept) // 2))
        with pytest.raises(OSError, match="File too large"):
            training.fit(every=0, log=None)

    assert wait(in_child(with_little_room)) == 0
    assert training.file.read_bytes() == kept
    assert sorted(file.name for file in training.folder.iterdir()) == ["checkpoint", "log"]
    assert training.fit().outcome() == unbroken(tmp_path)


def test_held_out_images(tmp_path):
    training = Training(tmp_path / "t", fit={"validation": 300}).fit()
    draws = _core.draw32(1, _core.STREAMS["order"], 1, 0, 0, 800)
    held = sorted(sorted(range(800), key=lambda i: draws[i])[:300])
    accuracy = (training.network.predict(DATA.x_train[held]) == DATA.y_train[held]).mean()
    assert training.history.epochs[-1].validation_accuracy == accuracy
    assert training.trainer.counters()["images"][0] == EPOCHS * 500
    rest = np.delete(np.arange(800), held)
    same = dataclasses.replace(DATA, x_train=DATA.x_train[rest], y_train=DATA.y_train[rest])
    assert Training(tmp_path / "s").fit(data=same).network.digest() == training.network.digest()


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"validation": 800}, ValueError, "validation must leave images to learn from, not 800 of 800"),
        ({"validation": -1}, ValueError, "validation must be in"),
        ({"patience": 3}, ValueError, "patience=3 needs images to validate with"),
        ({"patience": 0, "validation": 5}, ValueError, "patience must be in 1..100000, not 0"),
        ({"rate_steps": ((101, 1),)}, ValueError, "percent of rate_steps must be in 0..100, not 101"),
        ({"rate_steps": ((1, 9), (2, 8))}, ValueError, "rate_steps must add up to at most 16"),
        ({"rate_steps": 5}, TypeError, "rate_steps must be pairs"),
        ({"augmentation": abs}, TypeError, "augmentation must be a dataclass object that can be called"),
        ({"resume": 1}, TypeError, "resume must be True or False, not 1"),
        ({"every": "x"}, TypeError, "every must be a number, not 'x'"),
    ],
    ids=str,
)
def test_wrong_options(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        Training(tmp_path / "t").fit(**options)


def test_patience(tmp_path):
    """It stops when the best epoch is so long ago; the network is as after the last."""
    fit = {"validation": 200, "patience": 3, "epochs": 60, "rate_steps": ()}
    training = Training(tmp_path / "t", fit=fit).fit()
    accuracies = [epoch.validation_accuracy for epoch in training.history.epochs]
    best = training.history.best_epoch
    assert best == accuracies.index(max(accuracies)) and len(accuracies) == best + 4 < 60
    held_out_part = training.fit(epochs=60).history.epochs[-1]  # from the finished checkpoint
    assert held_out_part.validation_accuracy == accuracies[-1]


def test_rate_steps(tmp_path):
    history = Training(tmp_path / "t", fit={"rate_steps": [(0, 1), (50, 2)], "epochs": 4}).fit().history
    assert [epoch.rate_shift for epoch in history.epochs] == [1, 1, 3, 3]


def test_loss_and_accuracy_of_an_epoch(tmp_path):
    """A9.2 and A5.6, from the scores that an equal network shows batch by batch."""
    fit = {"epochs": 1, "rate_steps": ()}
    epoch = Training(tmp_path / "t", {"rule": "drtp"}, fit).fit().history.epochs[0]
    network, loss, correct = Network(SIZES, batch=32, rule="drtp"), 0.0, 0
    order = np.argsort(_core.draw32(1, _core.STREAMS["order"], 0, 0, 0, 800), kind="stable")
    for chosen in order.reshape(-1, 32):
        scores = network.scores(DATA.x_train[chosen])
        signs = np.where(np.arange(5) == DATA.y_train[chosen][:, None], 1, -1)
        loss += (np.maximum(0, 1 - signs * scores / 2 ** network.formats[-1].margin_log2) ** 2).sum()
        correct += (scores.argmax(axis=1) == DATA.y_train[chosen]).sum()
        network.tick(DATA.x_train[chosen], DATA.y_train[chosen])
    assert epoch.train_loss == pytest.approx(loss / 800) and epoch.train_accuracy == correct / 800


def test_progress_of_a_continued_training(tmp_path):
    seen, training = [], Training(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        training.fit(stop_after(1000))
    training.fit(seen.append)
    assert seen[0].resumed_images > 900 and seen[0].images == seen[0].resumed_images + 32
    assert seen[-1].images == EPOCHS * 800 and seen[-1].seconds_left == 0
    assert seen[-1].loss == training.history.epochs[-1].train_loss
    assert 0 < seen[0].loss < 9 and 0 < seen[0].accuracy <= 1


def test_log(tmp_path):
    training = finished(tmp_path)
    first, only = map(json.loads, (training.folder / "log").read_text().splitlines())
    assert first["configuration"]["network"]["seed"] == 1
    assert first["versions"].keys() == {"sppim_core", "python", "numpy"}
    assert only == training.history.to_dicts()[0]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    folder = tmp_path / "events"
    result = subprocess.run(
        command(tmp_path, "--epochs", "6", "--tensorboard", folder), capture_output=True, text=True, cwd=HERE
    )
    assert result.returncode == 0, result.stderr
    (events,) = folder.iterdir()
    for name in (b"train_loss", b"train_accuracy", b"validation_accuracy", b"test_accuracy", b"error_sparsity/1"):
        assert events.read_bytes().count(name) == 6


def test_tensorboard_is_only_asked_for_by_its_option(tmp_path):
    code = f"import sys; sys.modules['tensorboardX'] = None; sys.argv = {command(tmp_path, '--epochs', '1')[2:]}"
    run = "from sppim_core.cli import main; sys.exit(main())"
    for more, status in (("", 0), ("sys.argv += ['--tensorboard', 'x']", 2)):
        script = "\n".join((code, more, run))
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=HERE)
        assert result.returncode == status, result.stderr
    assert "--tensorboard needs tensorboardX: pip install tensorboardX" in result.stderr


def command(tmp_path, *more):
    file = tmp_path / "data.npz"
    np.savez(file, **{name: getattr(DATA, name) for name in ("x_train", "y_train", "x_test", "y_test")})
    options = f"--data {file} --layers 16 --epochs 400 --validation 100 --every 0.1"
    arguments = ["train", *options.split(), "--checkpoint", tmp_path / "c", "--log", tmp_path / "log", *more]
    return [sys.executable, "-m", "sppim_core", *map(str, arguments)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_on_the_command_line(tmp_path, number):
    process = subprocess.Popen(
        command(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where tests run with it ignored
    )
    for line in process.stderr:
        if "epoch 3/" in line:
            assert "validation" in line and "loss" in line and "images/s" in line
            process.send_signal(number)
            break
    assert process.wait(30) == 130
    said = process.stderr.read()
    assert "the same command continues there" in said and "interrupted" in said
    again = subprocess.run(command(tmp_path, "--patience", "1"), capture_output=True, text=True, cwd=HERE)
    assert again.returncode == 2 and "plan.patience is None there, 1 here" in again.stderr
    assert f"continues {tmp_path}/c: epoch " in again.stderr

"""Carries out the trainings of a study, several at a time, once each: what is done stays done."""

import json
import os
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import sppim_core
from sppim_core import _core, augment, float_baseline, workers
from sppim_core.data import Dataset
from sppim_core.errors import DataError
from sppim_core.layers import describe
from sppim_core.plan import rate_shift
from sppim_core.report import OPERATIONS_PER_MAC
from sppim_core.study import FLOAT, Entry

RESULTS = "results.jsonl"


def load_data(sources: dict[str, str], name: str) -> Dataset:
    """sources: where data sets are, by name; "" names the folder that holds all others."""
    if name in sources:
        return sppim_core.data.load(sources[name])
    if name == "digits":
        return sppim_core.data.load(name)
    folder = Path(sources.get("", "."))
    if not (folder / name).exists():
        raise DataError(f"no data set {name!r} in {folder}: name it with --data {name}=WHERE")
    return sppim_core.data.load(str(folder / name))


def _training_data(entry: Entry, sources: dict[str, str]) -> Dataset:
    data = load_data(sources, entry.data)
    if not entry.train_images:
        return data
    part = slice(entry.train_images)
    return replace(data, x_train=data.x_train[part], y_train=data.y_train[part])


def _say(entry: Entry, epoch: int, accuracy: float, seconds: float) -> None:
    print(
        f"  {entry.study}: {entry.layers} {entry.rule}, {entry.label}, seed {entry.seed}: "
        f"epoch {epoch + 1}/{entry.epochs}  {accuracy:.2%}  {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def _train_float(entry: Entry, data: Dataset, formats) -> dict:
    history = float_baseline.train(
        data,
        formats,
        entry.epochs,
        rate_shift=lambda epoch: rate_shift(epoch, entry.epochs, entry.rate_steps),
        seed=entry.seed,
        batch=entry.batch,
        augmentation=augment.chosen(entry.flip, entry.crop),
        progress=lambda done: _say(entry, done.epoch, done.test_accuracy, done.seconds),
    )
    return {"accuracy": history[-1].test_accuracy, "curve": [epoch.test_accuracy for epoch in history]}


def _network(entry: Entry, formats) -> sppim_core.Network:
    return sppim_core.Network(
        formats,
        rule=entry.rule,
        seed=entry.seed,
        batch=entry.batch,
        execution=entry.execution,
        staleness=entry.staleness,
    )


def _train(entry: Entry, data: Dataset, formats, folder: Path) -> dict:
    network = _network(entry, formats)
    trainer = sppim_core.Trainer(network)

    def progress(now):
        if now.epoch:
            _say(entry, now.epoch.epoch, now.epoch.test_accuracy, now.epoch.seconds)

    kept = folder / f"{entry.key}.checkpoint"
    history = trainer.fit(
        data,
        entry.epochs,
        progress,
        rate_steps=entry.rate_steps,
        augmentation=augment.chosen(entry.flip, entry.crop),
        checkpoint=kept,
        every=120.0,
    )
    epochs = history.epochs
    row = {
        "accuracy": history.test_accuracy,
        "curve": [epoch.test_accuracy for epoch in epochs],
        "train_curve": [epoch.train_accuracy for epoch in epochs],
        "activation_sparsity": [list(map(float, epoch.activation_sparsity)) for epoch in epochs],
        "error_sparsity": [list(map(float, epoch.error_sparsity)) for epoch in epochs],
        "digest": network.digest(),
    }
    return row | _chip_figures(trainer)


def _chip_figures(trainer) -> dict:
    """What the training took on the chip, and its work an image (forward, gradient, errors)."""
    counters = trainer.counters()
    images = int(counters["images"][0])
    figures = {row.figure: row.model for row in trainer.figures()}
    macs = {
        fate: sum(counters.total(f"{phase}_macs_{fate}") for phase in ("fp", "ep", "gc", "pot")) / images
        for fate in ("total", "done")
    }
    return {
        "chip": trainer.chip.name,
        "macs_per_image": macs["total"],
        "macs_done_per_image": macs["done"],
        "operations_per_mac": OPERATIONS_PER_MAC,
        "energy_mj_per_epoch": figures["energy per epoch"],
        "seconds_per_epoch": 1 / figures["training speed"],
        "speedup": figures["speed-up by pipelining"],
        "traffic_cut_percent": figures["external traffic cut"],
    }


def run_entry(entry: Entry, sources: dict[str, str], folder: str) -> dict:
    """One training from its beginning, or its checkpoint, to its row of results."""
    start = time.perf_counter()
    data = _training_data(entry, sources)
    formats = entry.layer_formats(data.image, data.classes)
    result = _train_float(entry, data, formats) if entry.rule == FLOAT else _train(entry, data, formats, Path(folder))
    facts = {
        "key": entry.key,
        "entry": asdict(entry),
        "network": describe(formats),
        "version": sppim_core.__version__,
        "arithmetic_version": _core.ARITHMETIC_VERSION,
        "train_images": len(data.y_train),
        "wall_seconds": time.perf_counter() - start,
    }
    return facts | result


def read_results(folder: Path) -> dict[str, dict]:
    """Rows that are there, by key. A last line that a kill cut short, so without its end, is left out."""
    rows: dict[str, dict] = {}
    path = folder / RESULTS
    try:
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a file of results ({error})") from error
    for i, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            missing = {"network", "accuracy", "curve"} - row.keys()
            rows[row["key"]] = row
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: line {i} is not a result ({error})") from error
        if missing:
            raise DataError(f"{path}: line {i} is not a result ({', '.join(sorted(missing))} missing)")
    return rows


def _append(folder: Path, row: dict) -> None:
    path = folder / RESULTS
    text = path.read_text() if path.exists() else ""
    with open(path, "a") as stream:
        if text and not text.endswith("\n"):  # cut short by a kill
            stream.truncate(text.rfind("\n") + 1)
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    (folder / f"{row['key']}.checkpoint").unlink(missing_ok=True)


def _check(entries: list[Entry], sources: dict[str, str]) -> None:
    """What a training would complain about is said before hours of work."""
    data = {name: load_data(sources, name) for name in sorted({entry.data for entry in entries})}
    for entry in entries:
        try:
            formats = entry.layer_formats(data[entry.data].image, data[entry.data].classes)
            augment.chosen(entry.flip, entry.crop)
            if entry.rule != FLOAT:
                _network(entry, formats)
        except (TypeError, ValueError) as error:
            name = f"{entry.study}: {entry.data}, {entry.layers} {entry.rule}, {entry.label}"
            raise DataError(f"{name}: {error}") from error


def run_study(entries: list[Entry], sources: dict[str, str], folder, jobs: int = 1) -> list[dict]:
    """Rows of all entries, in their order; trainings whose rows are in `folder` are not repeated, those that were
    interrupted go on from their checkpoints (float ones from their beginning). jobs: trainings at a time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_results(folder)
    missing = {entry.key: entry for entry in entries if entry.key not in rows}
    _check(list(missing.values()), sources)
    done = len(entries) - len(missing)
    calls = [(entry, sources, str(folder)) for entry in missing.values()]
    with closing(workers.results(run_entry, calls, jobs)) as finished:
        for row in finished:
            _append(folder, row)
            rows[row["key"]] = row
            done += 1
            name = f"{row['entry']['study']}, {row['entry']['rule']}, {missing[row['key']].label}"
            print(f"{done}/{len(entries)}  {name}: {row['accuracy']:.2%}", file=sys.stderr, flush=True)
    return [rows[entry.key] | {"entry": asdict(entry)} for entry in entries]

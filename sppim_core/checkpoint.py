"""Checkpoints: everything that a training needs to go on as if it had never stopped, in one file."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sppim_core import check, storage
from sppim_core.errors import DataError
from sppim_core.history import Epoch, History, Tally

KIND = "checkpoint"


class Keeper:
    """Keeps a run in a file, every so many seconds where it is asked to; path None: keeps nothing."""

    def __init__(self, path, every: float, resume: bool):
        self.resume = resume
        self.path = None if path is None else Path(path)
        self.every = check.number("every", every, 0)
        self._last = time.monotonic()
        if self.path is not None:
            storage.check_writable(self.path)
            storage.remove_leftovers(self.path)

    def save(self, run) -> None:
        """Nothing may be in flight."""
        if self.path is not None:
            storage.write(self.path, KIND, *_state(run))
            self._last = time.monotonic()

    def save_if_due(self, run) -> None:
        """With batches in flight it waits: they are no part of a checkpoint."""
        if self.path is not None and time.monotonic() - self._last >= self.every and not run.network.in_flight:
            self.save(run)

    def restore(self, run) -> None:
        """Puts what the file holds, if there is one, into a run of the same configuration."""
        if not self.resume or self.path is None or not self.path.exists():
            return
        config, arrays = storage.read(self.path, KIND)
        difference = _difference(config.get("configuration"), _plain(run.configuration), "")
        if difference:
            raise DataError(f"{self.path}: a checkpoint of another training: {difference}")
        storage.check_idle(run.network)
        with storage.reading(self.path, KIND):
            _put(run, config, arrays)


def position(file) -> tuple[int, int]:
    """(epoch, batch within it) at which a checkpoint goes on, both from 0; DataError if the file is none."""
    config, _ = storage.read(file, KIND)
    with storage.reading(file, KIND):
        return len(config["epochs"]), config["batch"]


def _state(run) -> tuple[dict, dict]:
    network, arrays = storage.state_of(run.network)
    config = {
        "configuration": run.configuration,
        "log_header": run.log_header,
        "network": network,
        "epochs": run.history.to_dicts(),
        "batch": run.batch,
        "seconds": run.epoch_seconds,
        "tally": asdict(run.tally),
    }
    return config, arrays | run.account.state() | {"epoch_before": run.before.values}


def _put(run, config: dict, arrays: dict) -> None:
    storage.put_state(run.network, config["network"], arrays)
    run.account.restore(arrays)
    run.before = storage.counters_in(arrays, "epoch_before", len(run.network.formats))
    run.history = History([Epoch(**fields) for fields in config["epochs"]])
    run.tally = Tally(**config["tally"])
    run.log_header = config["log_header"]
    run.go_on(check.integer("batch", config["batch"], 0, 2**32), config["seconds"])


def _plain(value) -> Any:
    """As it looks once written and read."""
    return json.loads(json.dumps(value))


def _difference(there, here, name: str) -> str | None:
    """The first value that differs, in words."""
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() == here.keys():
        parts = [(f"{name}.{key}".lstrip("."), there[key], here[key]) for key in here]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        parts = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(there, here, strict=True))]
    else:
        return None if there == here else f"{name} is {there!r} there, {here!r} here"
    return next(filter(None, (_difference(a, b, part) for part, a, b in parts)), None)

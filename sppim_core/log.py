"""The log of a training: JSON lines, the first for what is trained, then one an epoch."""

import json
import platform
from dataclasses import asdict

import numpy as np

import sppim_core
from sppim_core import storage
from sppim_core.history import Epoch


def header(configuration: dict) -> dict:
    """The first line: configuration and versions."""
    versions = {"sppim_core": sppim_core.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return {"configuration": configuration, "versions": versions}


class Log:
    """Writes the lines of a training so far, then appends; a log of something else in that file is replaced.

    A continued training knows its epochs from the checkpoint, so the log holds each of them once, whatever a killed
    process left there. path None: no log."""

    def __init__(self, path, run):
        self._path = path
        if path is not None:
            storage.check_writable(path)
            self._write("w", [run.log_header, *run.history.to_dicts()])

    def add(self, epoch: Epoch) -> None:
        if self._path is not None:
            self._write("a", [asdict(epoch)])

    def _write(self, mode: str, lines: list[dict]) -> None:
        with open(self._path, mode, encoding="utf-8") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))

"""Keeping a network: its state as plain arrays, saved whole or not at all, loaded without executing anything."""

import json
import os
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sppim_core import _core, check
from sppim_core.counters import Counters
from sppim_core.errors import DataError
from sppim_core.formats import Accumulator, LayerFormat, Window

TENSORS = _core.TENSORS[:3]  # what a layer's state consists of
_OPTIONS = ("rule", "seed", "batch", "execution", "staleness")


def state_of(network) -> tuple[dict, dict]:
    """(configuration, arrays) of a network that has nothing in flight."""
    if network.in_flight:
        raise RuntimeError(f"{network.in_flight} batches are in flight; drain() first")
    config = {name: getattr(network, name) for name in (*_OPTIONS, "batches")}
    config |= {
        "formats": [asdict(layer) for layer in network.formats],
        "arithmetic_version": _core.ARITHMETIC_VERSION,
    }
    arrays = {f"{name}_{i}": network._tensor(i, name) for i in range(len(network.formats)) for name in TENSORS}
    return config, arrays | {"counters": network.counters().values}


def _format(fields: dict) -> LayerFormat:
    accumulators = {name: Accumulator(**fields[name]) for name in ("fp_accumulator", "gc_accumulator")}
    window = Window(**fields["window"]) if fields["window"] else None
    return LayerFormat(**{**fields, **accumulators, "window": window})


def restore(cls, config: dict, arrays: dict, how: dict):
    """The network of class cls that state_of() described; how: threads, isa, path."""
    version = config["arithmetic_version"]
    if version != _core.ARITHMETIC_VERSION:
        raise DataError(f"made with arithmetic version {version}, this is version {_core.ARITHMETIC_VERSION}")
    formats = [_format(fields) for fields in config["formats"]]
    network = cls(formats, **{name: config[name] for name in _OPTIONS}, **how)
    for layer in range(len(formats)):
        for name in TENSORS:
            _set_tensor(network, layer, name, arrays[f"{name}_{layer}"])
    network._core.batches = check.integer("batches", config["batches"], 0, 2**63)
    counters = Counters(arrays["counters"])
    if counters.layers != len(formats):
        raise DataError(f"counters of {counters.layers} layers, expected {len(formats)}")
    network._earlier = counters.values
    return network


def _set_tensor(network, layer: int, name: str, values: np.ndarray) -> None:
    present = network._tensor(layer, name)
    if values.dtype != present.dtype or values.shape != present.shape:
        raise DataError(f"{name}_{layer} is {values.dtype} {values.shape}, expected {present.dtype} {present.shape}")
    if not np.array_equal(values, present):  # what a rule never writes cannot be written (it is 0)
        data = np.require(values, requirements=["C", "A"]).view(np.uint8)
        network._core.set(layer, _core.TENSORS.index(name), data)


def save(network, file) -> None:
    """Writes a .npz file; a temporary file in the same folder is renamed over it."""
    file = Path(os.path.realpath(file))  # a link stays a link
    check_writable(file)
    config, arrays = state_of(network)
    descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=".sppim.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, config=np.frombuffer(json.dumps(config).encode(), np.uint8), **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, _file_mode(file))
        os.replace(part, file)
    except BaseException:
        os.unlink(part)
        raise


def load(cls, file, how: dict):
    """The network in a file; DataError if it holds none, OSError if it cannot be opened."""
    cls([1, 2], **how)  # wrong options are not the file's fault
    with open(file, "rb") as stream:
        try:
            return _read(cls, stream, how)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged archive makes zipfile, numpy or json say
            raise DataError(f"{file}: not a saved network ({type(error).__name__}: {error})") from error


def _read(cls, stream, how: dict):
    with zipfile.ZipFile(stream) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in names}
    return restore(cls, json.loads(arrays.pop("config").tobytes()), arrays, how)


def check_writable(file) -> None:
    """Raises OSError now if a file could not be written or replaced later."""
    file = Path(os.path.realpath(file))
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder")
    if file.exists() and not file.is_file():
        raise OSError(f"{file} is not a regular file")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file}: no such folder")
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise PermissionError(f"{file} cannot be written")


def _file_mode(file: Path) -> int:
    """That of the file to be replaced, else what the umask leaves of rw-rw-rw-."""
    if file.exists():
        return file.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask

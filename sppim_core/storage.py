"""Files that are whole or not at all: one container, a .npz with a checksum, for networks and checkpoints.

The file is an archive as np.savez writes it, whose comment, its last 64 bytes, is the SHA-256 (in hexadecimal) of all
bytes before it. What it holds: `config`, a JSON object as bytes that names its kind, and arrays. Nothing in it
is executed."""

import hashlib
import io
import json
import os
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sppim_core import _core, check
from sppim_core.counters import Counters
from sppim_core.errors import DataError
from sppim_core.formats import Accumulator, LayerFormat, Window

TENSORS = _core.TENSORS[:3]  # what a layer's state consists of
OPTIONS = ("rule", "seed", "batch", "execution", "staleness")
_CHECKSUM_BYTES = 64


# ---- the container ------------------------------------------------------------------------------------------


def write(file, kind: str, config: dict, arrays: dict) -> None:
    """Writes a temporary file in the same folder and renames it over `file`, a link's target if it is one."""
    file = Path(os.path.realpath(file))
    check_writable(file)
    content = _pack(config | {"kind": kind}, arrays)
    descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, _file_mode(file))
        os.replace(part, file)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    _sync_folder(file.parent)


def read(file, kind: str) -> tuple[dict, dict]:
    """(config, arrays) of a file that write() made; DataError if it is damaged or of another kind."""
    content = Path(file).read_bytes()
    with reading(file, kind):
        config, arrays = _unpack(content)
    if config.get("kind") != kind:
        raise DataError(f"{file}: not a saved {kind} but a {config.get('kind')}")
    return config, arrays


@contextmanager
def reading(file, kind: str):
    """Makes a DataError that names the file of whatever a damaged one makes zipfile, numpy, json or a check say."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{file}: not a saved {kind} ({type(error).__name__}: {error})") from error


def _pack(config: dict, arrays: dict) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, config=np.frombuffer(json.dumps(config).encode(), np.uint8), **arrays)
    return _seal(stream.getvalue())


def _seal(archive: bytes) -> bytes:
    body = archive[:-2] + _CHECKSUM_BYTES.to_bytes(2, "little")  # an archive ends with the length of its comment
    return body + hashlib.sha256(body).hexdigest().encode()


def _unpack(content: bytes) -> tuple[dict, dict]:
    body = memoryview(content)[:-_CHECKSUM_BYTES]
    if hashlib.sha256(body).hexdigest().encode() != content[-_CHECKSUM_BYTES:]:
        raise ValueError("its checksum is wrong")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in names}
    return dict(json.loads(arrays.pop("config").tobytes())), arrays


def remove_leftovers(file) -> None:
    """Removes what killed processes left of write()s to a file that nobody is writing now."""
    file = Path(os.path.realpath(file))
    for part in file.parent.iterdir():
        if part.name.startswith(f".{file.name}.") and part.suffix == ".part":
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """The rename, too, is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


# ---- networks -----------------------------------------------------------------------------------------------


def state_of(network) -> tuple[dict, dict]:
    """(configuration, arrays) of a network that has nothing in flight."""
    check_idle(network)
    config = {name: getattr(network, name) for name in (*OPTIONS, "batches")}
    config |= {
        "formats": [asdict(layer) for layer in network.formats],
        "arithmetic_version": _core.ARITHMETIC_VERSION,
    }
    arrays = {f"{name}_{i}": network._tensor(i, name) for i in range(len(network.formats)) for name in TENSORS}
    return config, arrays | {"counters": network.counters().values}


def check_idle(network) -> None:
    if network.in_flight:
        raise RuntimeError(f"{network.in_flight} batches are in flight; drain() first")


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
    network = cls(formats, **{name: config[name] for name in OPTIONS}, **how)
    put_state(network, config, arrays)
    return network


def put_state(network, config: dict, arrays: dict) -> None:
    """Puts what state_of() described into a network of the same configuration."""
    check_idle(network)
    for layer in range(len(network.formats)):
        for name in TENSORS:
            _set_tensor(network, layer, name, arrays[f"{name}_{layer}"])
    network._core.batches = check.integer("batches", config["batches"], 0, 2**63)
    counters = counters_in(arrays, "counters", len(network.formats))
    network._earlier = counters.values - network._core.counters()  # modulo 2^64, as the sum that undoes it


def counters_in(arrays: dict, name: str, layers: int) -> Counters:
    counters = Counters(arrays[name])
    if counters.layers != layers:
        raise DataError(f"{name} of {counters.layers} layers, expected {layers}")
    return counters


def _set_tensor(network, layer: int, name: str, values: np.ndarray) -> None:
    present = network._tensor(layer, name)
    if values.dtype != present.dtype or values.shape != present.shape:
        raise DataError(f"{name}_{layer} is {values.dtype} {values.shape}, expected {present.dtype} {present.shape}")
    if not np.array_equal(values, present):  # what a rule never writes cannot be written (it is 0)
        data = np.require(values, requirements=["C", "A"]).view(np.uint8)
        network._core.set(layer, _core.TENSORS.index(name), data)


def save(network, file) -> None:
    """Writes a network as write() does."""
    write(file, "network", *state_of(network))


def load(cls, file, how: dict):
    """The network in a file; DataError if it holds none, OSError if it cannot be opened."""
    cls([1, 2], **how)  # wrong options are not the file's fault
    config, arrays = read(file, "network")
    with reading(file, "network"):
        return restore(cls, config, arrays, how)

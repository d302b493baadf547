"""Data sets: digits, MNIST, Fashion-MNIST, EMNIST, CIFAR-10, CIFAR-100; NumPy and scipy.sparse arrays."""

from pathlib import Path

from sppim_core.data import cifar, idx
from sppim_core.data.arrays import Dataset, from_arrays, load_digits, load_npz
from sppim_core.data.files import ARCHIVES, open_files
from sppim_core.data.idx import load_idx
from sppim_core.errors import DataError

__all__ = ["Dataset", "from_arrays", "load", "load_digits", "load_idx", "load_npz"]

_SOURCES = (*idx.SOURCES, *cifar.SOURCES)


def load(where: str | None = None) -> Dataset:
    """What `sppim train --data` names: "digits" (default), a folder or archive (.tar, .tar.gz, .tgz) with the files of
    MNIST, Fashion-MNIST, EMNIST, CIFAR-10 or CIFAR-100 as they are published, or a .npz file.

    If a folder holds several data sets, "FOLDER:NAME" chooses one, for example "emnist:emnist-letters"."""
    if where is None or where == "digits":
        return load_digits()
    path, name = Path(where), None
    if not path.exists() and ":" in path.name:
        path, name = path.with_name(path.name.rpartition(":")[0]), path.name.rpartition(":")[2]
    if path.is_dir() or (path.is_file() and path.name.endswith(ARCHIVES)):
        return _load_known(path, name)
    if path.is_file() and name is None:
        return load_npz(path)
    raise DataError(f"{where}: no such file or folder ('digits' is built in)")


def _load_known(path: Path, name: str | None) -> Dataset:
    """The one data set in a folder or archive, or the one that was chosen by name."""
    files = open_files(path)
    found = {source.name: source for source in _SOURCES if source.marks & files.readers.keys()}
    if not found:
        raise DataError(f"{path}: no files of a known data set ({', '.join(source.name for source in _SOURCES)})")
    if name is None and len(found) > 1:
        raise DataError(f"{path}: holds {', '.join(found)}; choose one, for example {path}:{next(iter(found))}")
    if name is not None and name not in found:
        raise DataError(f"{path}: holds {', '.join(found)}, not {name!r}")
    return found[name or next(iter(found))].load(files)

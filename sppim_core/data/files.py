"""The files of a folder or of an archive as it was downloaded, by name; the data sets that are known by their files."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sppim_core.data.arrays import Dataset
from sppim_core.errors import DataError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
_COMPRESSED = (".gz", ".tgz")
_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError)


@dataclass(frozen=True)
class Files:
    """Files by name, each with what reads it; folders within an archive are left out of the names."""

    path: Path
    readers: dict[str, Callable[[], bytes]]

    def find(self, *names: str) -> str:
        """The first of the names that is here; DataError if none is."""
        for name in names:
            if name in self.readers:
                return name
        raise DataError(f"{self.path}: no {' or '.join(names)}")

    def read(self, name: str) -> bytes:
        """A file's bytes, decompressed if it ends in .gz; DataError if it cannot be read."""
        try:
            return _decompress(name, self.readers[name]())
        except _UNREADABLE as error:
            raise DataError(f"{self.path / name}: {error}") from error


@dataclass(frozen=True)
class Source:
    """A data set that is known by its files: where one of `marks` is, it is expected to be whole."""

    name: str
    marks: frozenset[str]
    load: Callable[[Files], Dataset]


def open_files(path: Path) -> Files:
    """A folder, or an archive whose name ends in .tar, .tar.gz or .tgz; DataError if it is neither."""
    try:
        readers = _members(path) if path.is_file() and path.name.endswith(ARCHIVES) else _entries(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: not a folder or archive ({', '.join(ARCHIVES)})") from error
    except _UNREADABLE as error:
        raise DataError(f"{path}: {error}") from error
    return Files(path, readers)


def _decompress(name: str, raw: bytes) -> bytes:
    return gzip.decompress(raw) if name.endswith(_COMPRESSED) else raw


def _entries(folder: Path) -> dict[str, Callable[[], bytes]]:
    return {entry.name: entry.read_bytes for entry in folder.iterdir() if entry.is_file()}


def _members(archive: Path) -> dict[str, Callable[[], bytes]]:
    """The files of an archive, all in memory: a compressed one cannot be read here and there."""
    content = io.BytesIO(_decompress(archive.name, archive.read_bytes()))
    readers: dict[str, Callable[[], bytes]] = {}
    with tarfile.open(fileobj=content, mode="r:") as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and (file := tar.extractfile(member)):
                if name in readers:
                    raise tarfile.TarError(f"holds two files {name}")
                readers[name] = partial(bytes, file.read())
    return readers

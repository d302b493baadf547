"""CIFAR-10 and CIFAR-100: both forms of their batches, every broken file, and pickles that would do harm."""

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sppim_core import DataError, data
from sppim_core.data.pickles import read_pickle

LABELS = {"cifar10": {"labels": 10}, "cifar100": {"coarse_labels": 20, "fine_labels": 100}}
BATCHES = {"cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "cifar100": ["train", "test"]}


def batch(kind, number, count=2):
    """Images uint8 (count, 3072), planes red, green, blue, and lists of labels."""
    rng = np.random.default_rng(number)
    labels = {name: rng.integers(0, classes, count).tolist() for name, classes in LABELS[kind].items()}
    return rng.integers(0, 256, (count, 3072)).astype(np.uint8), labels


def binary(x, labels):
    return np.column_stack([*labels.values(), x]).astype(np.uint8).tobytes()


def python2(x, labels, order="C"):
    """What Python 2 wrote at protocol 2: {"batch_label": text, kind: [integers], "data": array, "filenames": [...]}."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    lists = b"".join(
        text(kind.encode()) + b"q\x04]q\x05(" + b"".join(map(number, values)) + b"e" for kind, values in labels.items()
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08(K\x01"
    array += number(len(x)) + number(x.shape[1]) + b"\x86cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a"
    array += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + (b"\x88" if order == "F" else b"\x89")
    array += b"T" + struct.pack("<i", x.size) + x.tobytes(order) + b"tb"
    names = b"]r\x00\x01\x00\x00(" + text(b"a.png") + text(b"b.png") + b"e"
    ends = text(b"batch_label") + b"q\x02" + text(b"testing batch 1 of 1") + b"q\x03"
    return b"\x80\x02}q\x01(" + ends + lists + text(b"data") + array + text(b"filenames") + names + b"u."


FORMS = {"binary": (".bin", binary), "python": ("", python2)}


def write(folder, kind, form):
    folder.mkdir(exist_ok=True)
    ending, encode = FORMS[form]
    for number, name in enumerate(BATCHES[kind]):
        (folder / (name + ending)).write_bytes(encode(*batch(kind, number)))
    return folder


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture(params=LABELS)
def kind(request):
    return request.param


def test_both_forms_hold_the_same(tmp_path, kind, form):
    found = data.load(str(write(tmp_path, kind, form)))
    last = list(LABELS[kind])[-1]
    assert found.name == kind and found.image == (32, 32, 3) and found.classes == LABELS[kind][last]
    made = [batch(kind, number) for number in range(len(BATCHES[kind]))]
    assert found.y_train.tolist() == [label for _, labels in made[:-1] for label in labels[last]]
    assert found.y_test.tolist() == made[-1][1][last]
    for i, (row, column, channel) in enumerate(np.ndindex(32, 32, 3)):
        assert found.x_test[1, i] == int(made[-1][0][1, 1024 * channel + 32 * row + column]) - 128
    assert len(found.x_train) == 2 * len(made) - 2 and found.x_train.dtype == np.int8


def test_archive(tmp_path, kind, form):
    folder = write(tmp_path / "batches", kind, form)
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-batches")
    packed, unpacked = (data.load(str(where)) for where in (tmp_path / "cifar.tar.gz", folder))
    assert packed.x_train.tobytes() == unpacked.x_train.tobytes() and packed.y_test.tolist() == unpacked.y_test.tolist()


def test_two_sets_in_a_folder(tmp_path):
    write(write(tmp_path, "cifar10", "binary"), "cifar10", "python")
    with pytest.raises(DataError, match="holds cifar10, cifar10-python; choose one"):
        data.load(str(tmp_path))
    assert data.load(f"{tmp_path}:cifar10-python").y_test.tolist() == data.load(f"{tmp_path}:cifar10").y_test.tolist()


def relabel(kind, value):
    def change(raw):
        x, labels = batch(kind, 0)
        return binary(x, labels | {list(labels)[0]: [0, value]})

    return change


BROKEN = {
    "empty": (lambda raw: b"", "no images"),
    "truncated": (lambda raw: raw[:-1], "6145 bytes are not a whole number of records of 3073"),
    "trailing": (lambda raw: raw + b"x", "6147 bytes are not a whole number of records"),
    "a record less": (lambda raw: raw[:3073], "holds 1 images, data_batch_1.bin 2"),
    "label": (relabel("cifar10", 10), "labels of image 1: 10 is not in 0..9"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_binary_batch(tmp_path, how):
    change, message = BROKEN[how]
    file = write(tmp_path, "cifar10", "binary") / "data_batch_3.bin"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=f"data_batch_3.bin: {message}"):
        data.load(str(tmp_path))


def test_coarse_label_out_of_range(tmp_path):
    file = write(tmp_path, "cifar100", "binary") / "train.bin"
    file.write_bytes(relabel("cifar100", 20)(b""))
    with pytest.raises(DataError, match="train.bin: coarse_labels of image 1: 20 is not in 0..19"):
        data.load(str(tmp_path))


def test_missing_batch(tmp_path, kind, form):
    write(tmp_path, kind, form)
    file = tmp_path / (BATCHES[kind][-1] + FORMS[form][0])
    file.unlink()
    for make in (lambda: None, file.mkdir):  # missing, then a folder in its place
        make()
        with pytest.raises(DataError, match=f"{tmp_path}: no {file.name}"):
            data.load(str(tmp_path))


X, Y = batch("cifar10", 0)
BROKEN_PYTHON = {
    "empty": (b"", "not a pickle"),
    "text": (b"PNG!", "not a pickle"),
    "trailing": (python2(X, Y) + b"x", "1 bytes follow its end"),
    "no data": (pickle.dumps({}, 2), r"'data' is not an array of bytes \(n, 3072\)"),
    "a list": (pickle.dumps([], 2), "it holds no dictionary"),
    "narrow": (python2(X[:, :768], Y), r"'data' is not an array of bytes \(n, 3072\)"),
    "no labels": (python2(X, {"other": [0, 1]}), "'labels' is not a list of integers"),
    "labels of another kind": (python2(X, Y).replace(b"(K", b"(NK", 1), "'labels' is not a list of integers"),
    "too few labels": (python2(X, {"labels": [0]}), "2 images, 1 labels"),
    "label": (python2(X, {"labels": [0, 1000]}), "labels of image 1: 1000 is not in 0..9"),
    "other dtype": (python2(X, Y).replace(b"u1", b"u2"), "a call of numpy dtype"),
    "wrong shape": (python2(X, Y).replace(b"M\x00\x0c", b"M\x01\x0c"), "cannot reshape"),
    "no images": (python2(X[:0], {"labels": []}), "no images"),
    "protocol 4": (pickle.dumps({"labels": [0, 1]}, 4), "instruction FRAME"),
}


@pytest.mark.parametrize("how", BROKEN_PYTHON)
def test_broken_python_batch(tmp_path, how):
    raw, message = BROKEN_PYTHON[how]
    (write(tmp_path, "cifar10", "python") / "data_batch_2").write_bytes(raw)
    with pytest.raises(DataError, match=f"data_batch_2: .*{message}"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_pickles_of_these_tests_are_pickles(order):
    """Python's own unpickler reads the same from them."""
    raw = python2(X, Y, order)
    ours, python = read_pickle(raw, "file"), pickle.loads(raw, encoding="latin1")
    assert ours.keys() == python.keys() and ours["labels"] == python["labels"] == Y["labels"]
    assert ours["data"].tolist() == python["data"].tolist() == X.tolist()
    assert ours["filenames"] == ["a.png", "b.png"]


def test_every_truncated_pickle():
    raw = python2(X, Y)
    for size in [*range(400), *range(400, len(raw), 97), len(raw) - 1]:
        with pytest.raises(DataError, match="file: not a pickle"):
            read_pickle(raw[:size], "file")


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_damaged_pickles():
    """Any byte replaced: refused, or still a dictionary; never another exception."""
    raw = python2(np.zeros((1, 20), np.uint8), {"labels": [3]})
    for position in range(len(raw)):
        for value in range(position % 3, 256, 3):
            with contextlib.suppress(DataError):
                assert isinstance(read_pickle(raw[:position] + bytes([value]) + raw[position + 1 :], "file"), dict)


class Call:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def harmful(target):
    """Pickles that create the file target if they are executed."""
    touch = f"open({target!r}, 'w').close()"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps({"data": Call(exec, touch)}, protocol)
        yield pickle.dumps({"data": Call(os.mkdir, target)}, protocol)
    name, argument = b"cbuiltins\nexec\n", b"X" + struct.pack("<i", len(touch)) + touch.encode()
    yield b"\x80\x02" + name + argument + b"\x85R."
    yield b"(" + argument + b"ibuiltins\nexec\n."  # INST
    yield b"(" + name + argument + b"o."  # OBJ
    yield b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + argument + b"\x85R."
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + name + argument + b"\x85R" + b"\x85R."
    yield b"\x80\x02" + array


def test_pickles_are_not_executed(tmp_path):
    target = tmp_path / "touched"
    folder = write(tmp_path / "cifar", "cifar10", "python")
    for raw in harmful(str(target)):
        (folder / "data_batch_1").write_bytes(raw)
        with pytest.raises(DataError, match="data_batch_1: not a pickle of strings, integers and bytes"):
            data.load(str(folder))
        assert not target.exists()


def test_those_pickles_would_do_harm(tmp_path):
    target = tmp_path / "touched"
    for raw in harmful(str(target)):
        with contextlib.suppress(TypeError):  # what is made of the result comes too late
            pickle.loads(raw)
        assert target.exists()
        target.rmdir() if target.is_dir() else target.unlink()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """All of CIFAR-10 as binary batches, unpacked by a script beside the data."""
    script = Path(os.environ.get("SPPIM_DATA", "none")) / "unpack-cifar10"
    if not script.is_file():
        pytest.skip("SPPIM_DATA names no folder with unpack-cifar10: no CIFAR-10 here")
    pytest.importorskip("PIL", reason="unpack-cifar10 needs pillow")
    target = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, script, target], check=True, capture_output=True)
    return target / "cifar-10-batches-bin"


def test_real_cifar10(real):
    found = data.load(str(real))
    assert found.x_train.shape == (50000, 3072) and found.x_test.shape == (10000, 3072) and found.classes == 10
    assert np.bincount(found.y_train).tolist() == [5000] * 10 and np.bincount(found.y_test).tolist() == [1000] * 10
    assert found.x_train.min() == -128 and found.x_train.max() == 127
    images = found.x_train[:5000].reshape(-1, 32, 32, 3).astype(int)
    neighbours = [np.abs(np.diff(images, axis=axis)).mean() for axis in (1, 2, 3)]
    assert max(neighbours) < 20  # smooth in each direction: axes in another order would be noise

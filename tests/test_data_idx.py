"""IDX files in folders and archives: what is read, and what is refused with the file's name."""

import gzip
import os
import tarfile

import numpy as np
import pytest

from sppim_core import DataError, data


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A tiny MNIST: 5 + 3 images of 2 x 3."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 5), ("t10k", 3)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (n, 2, 3)).astype(np.uint8)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n).astype(np.uint8))))
    return tmp_path


def test_idx(folder):
    tiny = data.load(str(folder))
    assert tiny.x_train.shape == (5, 6) and tiny.x_train.dtype == np.int8 and tiny.x_train.min() >= 0
    assert tiny.y_test.tolist() == [0, 1, 2] and tiny.classes == 5 and tiny.image == (2, 3, 1)


IMAGES = "train-images-idx3-ubyte"
BREAK = {
    "empty": (lambda raw: b"", "0 bytes are too few"),
    "truncated": (lambda raw: raw[:-1], r"29 bytes of data, the header says \(5, 2, 3\) = 30"),
    "trailing": (lambda raw: raw + b"x", "31 bytes of data"),
    "magic": (lambda raw: b"PNG!" + raw[4:], "starts with 504e4721"),
    "type": (lambda raw: raw[:2] + b"\x0d" + raw[3:], "starts with 00000d03, expected 00000803"),
    "dimensions": (
        lambda raw: raw[:4] + b"\xff" * 12 + raw[16:],
        r"the header says \(4294967295, 4294967295, 4294967295\)",
    ),
    "fewer": (lambda raw: idx(np.zeros((4, 2, 3), np.uint8)), "holds 4 images, .* 5 labels"),
    "none": (lambda raw: idx(np.zeros((0, 2, 3), np.uint8)), "holds 0 images"),
    "zero size": (lambda raw: idx(np.zeros((5, 0, 3), np.uint8)), "no images"),
}


@pytest.mark.parametrize("how", BREAK)
def test_broken_idx(folder, how):
    change, message = BREAK[how]
    (folder / IMAGES).write_bytes(change((folder / IMAGES).read_bytes()))
    with pytest.raises(DataError, match=message):
        data.load(str(folder))


def test_every_truncation_of_a_compressed_file(folder):
    labels = folder / "train-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for size in range(len(whole)):
        labels.write_bytes(whole[:size])
        with pytest.raises(DataError, match="train-labels"):
            data.load_idx(folder)


def emnist(folder, split, first, count, **changes):
    """A tiny split of EMNIST: images of 2 x 3, stored as 3 x 2; `count` classes from `first`."""
    for part in ("train", "test"):
        labels = np.arange(first, first + count).astype(np.uint8)
        images = np.arange(6 * count).reshape(count, 3, 2).astype(np.uint8)
        stem = folder / f"emnist-{split}-{part}"
        stem.with_name(stem.name + "-images-idx3-ubyte").write_bytes(idx(changes.get("images", images)))
        stem.with_name(stem.name + "-labels-idx1-ubyte").write_bytes(idx(changes.get("labels", labels)))


def test_emnist(tmp_path):
    emnist(tmp_path, "letters", 1, 26)
    letters = data.load(str(tmp_path))
    assert letters.name == "emnist-letters" and letters.image == (2, 3, 1) and letters.classes == 26
    assert letters.y_train.tolist() == letters.y_test.tolist() == list(range(26))
    assert letters.x_train[1].tolist() == [3, 4, 5, 3, 4, 5]  # 6 8 10, 7 9 11 halved
    emnist(tmp_path, "byclass", 0, 10)
    with pytest.raises(DataError, match=f"{tmp_path}: holds emnist-byclass, emnist-letters; choose one, for example"):
        data.load(str(tmp_path))
    assert data.load(f"{tmp_path}:emnist-letters").y_test.tolist() == letters.y_test.tolist()
    assert data.load(f"{tmp_path}:emnist-byclass").classes == 62
    with pytest.raises(DataError, match="holds emnist-byclass, emnist-letters, not 'emnist-mnist'"):
        data.load(f"{tmp_path}:emnist-mnist")
    (tmp_path / "emnist-letters-test-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no emnist-letters-test-labels-idx1-ubyte or"):
        data.load(f"{tmp_path}:emnist-letters")


@pytest.mark.parametrize(
    "split, labels, message",
    [
        ("letters", [1, 0], "letters-train-labels-idx1-ubyte: label 0 of image 1 is not in 1..26"),
        ("letters", [27, 1], "label 27 of image 0 is not in 1..26"),
        ("balanced", [46, 47], "label 47 of image 1 is not in 0..46"),
        ("digits", [9], "holds 2 images, .* 1 labels"),
    ],
)
def test_broken_emnist(tmp_path, split, labels, message):
    emnist(tmp_path, split, 0, 2, labels=np.array(labels, np.uint8))
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path))


def test_archive(folder, tmp_path):
    """The same data from an archive; damaged, it is refused wherever it ends."""
    expected, path = data.load(str(folder)), tmp_path / "tiny.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file in folder.glob("*-ubyte*"):
            tar.add(file, f"inner/{file.name}")
    found = data.load(str(path))
    assert found.x_train.tolist() == expected.x_train.tolist() and found.y_test.tolist() == [0, 1, 2]
    assert data.load(f"{path}:mnist").name == "tiny.tar.gz"
    whole = path.read_bytes()
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="tiny.tar.gz"):
            data.load(str(path))
    plain, raw = tmp_path / "tiny.tar", gzip.decompress(whole)
    for size in range(0, len(raw) - 10240, 100):
        plain.write_bytes(raw[:size])
        with pytest.raises(DataError, match="tiny.tar"):
            data.load(str(plain))


def test_archive_with_one_name_twice(folder, tmp_path):
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for inner in ("a", "b"):
            tar.add(folder / IMAGES, f"{inner}/{IMAGES}")
    with pytest.raises(DataError, match="twice.tar: holds two files train-images"):
        data.load(str(tmp_path / "twice.tar"))


def test_unknown_folder(tmp_path):
    with pytest.raises(DataError, match="no files of a known data set .mnist, emnist-balanced, .*cifar100"):
        data.load(str(tmp_path))
    for where in (f"{tmp_path}:mnist", f"{tmp_path}/no:mnist", f"{tmp_path}/no"):
        with pytest.raises(DataError, match="no files of a known data set|no such file or folder"):
            data.load(where)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: not a folder or archive"):
        data.load_idx(tmp_path / "file")


def test_missing(folder, tmp_path):
    (folder / IMAGES).unlink()
    with pytest.raises(DataError, match="no train-images-idx3-ubyte or"):
        data.load_idx(folder)
    (folder / IMAGES).mkdir()
    with pytest.raises(DataError, match="no train-images-idx3-ubyte or"):
        data.load_idx(folder)
    os.mkfifo(folder / "pipe")
    for name in ("nowhere", "pipe"):
        with pytest.raises(DataError, match="no such file or folder"):
            data.load(str(folder / name))
    with pytest.raises(DataError, match="not a folder"):
        data.load_idx(folder / "nowhere")

"""Arrays, .npz files and saved networks: what is read, and what is refused with the name of the argument or file."""

import os

import numpy as np
import pytest
import scipy.sparse

from sppim_core import DataError, Network, ShapeError, Trainer, data, storage


def test_npz(tmp_path):
    arrays = {"x_train": np.zeros((4, 3)), "y_train": np.arange(4), "x_test": np.zeros((2, 3)), "y_test": np.arange(2)}
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    assert data.load(str(path)).name == "set"
    np.savez(path, **{k: v for k, v in arrays.items() if k != "y_test"})
    with pytest.raises(DataError, match="set.npz: not a .npz file with x_train"):
        data.load_npz(path)
    np.savez(path, **arrays | {"x_train": np.array([[object()]], object)})
    with pytest.raises(DataError, match="set.npz"):  # pickles are never loaded
        data.load_npz(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="set.npz"):
        data.load_npz(path)


@pytest.mark.parametrize(
    "part, value, message",
    [
        (
            "x_train",
            np.zeros((3, 3), np.int64),
            "x_train must hold .*, not int64; bytes 0..255 in a wider type",
        ),
        ("x_train", np.zeros(3), "x_train must have shape"),
        (
            "x_train",
            scipy.sparse.csr_matrix(np.eye(3, dtype=np.int64)),
            "x_train must hold int8, uint8 or floats, not int64",
        ),
        ("y_train", np.array([0, 1, 2000]), "y_train must hold values in 0..1023, found 2000"),
        ("y_train", np.arange(2), "x_train holds 3 images, y_train 2"),
        ("x_test", np.zeros((3, 4)), "x_train has 3 inputs, x_test 4"),
        ("x_test", np.zeros((0, 3)), "x_test holds 0 images"),
        ("x_train", np.full((3, 3), np.nan), "NaN"),
    ],
)
def test_arrays(part, value, message):
    arrays = {"x_train": np.zeros((3, 3)), "y_train": np.arange(3), "x_test": np.zeros((3, 3)), "y_test": np.arange(3)}
    with pytest.raises((TypeError, ValueError), match=message):
        data.from_arrays(**arrays | {part: value})


@pytest.mark.parametrize(
    "shape, image", [((4,), (1, 1, 4)), ((2, 3), (2, 3, 1)), ((2, 3, 4), (2, 3, 4)), ((2, 1, 1, 2), (1, 1, 4))]
)
def test_shape_of_an_image(shape, image):
    x, y = np.zeros((2, *shape)), np.arange(2)
    assert data.from_arrays(x, y, x, y).image == image


def test_images_of_two_shapes():
    x, y = np.zeros((2, 2, 3)), np.arange(2)
    with pytest.raises(ShapeError, match=r"x_train has images .* \(2, 3, 1\), x_test \(3, 2, 1\)"):
        data.from_arrays(x, y, x.reshape(2, 3, 2), y)


def test_colour(tmp_path):
    """Bytes with three channels are colour: p - 128, the channel fastest; all others p // 2."""
    x, y = np.arange(24, 48).astype(np.uint8).reshape(2, 2, 2, 3), np.arange(2)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    colour = data.load(str(tmp_path / "set.npz"))
    assert colour.x_train.tolist() == [list(range(-104, -92)), list(range(-92, -80))] and colour.image == (2, 2, 3)
    grey = data.from_arrays(x[..., 0], y, x[..., 0], y)
    assert grey.x_train.tolist() == [[12, 13, 15, 16], [18, 19, 21, 22]] and grey.image == (2, 2, 1)
    sparse = scipy.sparse.csr_matrix(x.reshape(2, 12))
    assert data.from_arrays(sparse, y, sparse, y).image == (1, 1, 12)


@pytest.mark.parametrize("value", [255.0, 1.5, -1.01, np.inf])
def test_floats_beyond_one_are_refused(value):
    """Bytes as floats would all saturate, silently."""
    x = np.zeros((3, 3))
    x[1, 1] = value
    for make in (np.asarray, scipy.sparse.csr_matrix):
        with pytest.raises(ValueError, match="x_train holds .*; floats must lie in -1..1"):
            data.from_arrays(make(x), np.arange(3), np.zeros((3, 3)), np.arange(3))


@pytest.mark.parametrize("make", [scipy.sparse.coo_matrix, scipy.sparse.csr_matrix])
def test_entries_of_one_cell_are_added(make):
    def cell(*entries):
        place = ([0] * len(entries), [0] * len(entries))
        if make is scipy.sparse.coo_matrix:
            return make((entries, place))
        return make((entries, place[1], [0, len(entries)]), shape=(1, 1))

    network = Network([1, 2])
    assert network.scores(cell(0.6, 0.6)).tolist() == network.scores(np.array([[1.0]])).tolist()
    assert network.scores(cell(1.2, -0.6)).tolist() == network.scores(np.array([[0.6]])).tolist()
    label = np.array([0])
    assert data.from_arrays(cell(1.2, -0.6), label, cell(0.5), label).x_train.toarray().tolist() == [[77]]
    with pytest.raises(ValueError, match="x_train holds 1.2; floats must lie in -1..1"):
        data.from_arrays(cell(0.6, 0.6), label, cell(0.5), label)
    with pytest.raises(ValueError, match="sum does not fit int8"):
        network.scores(scipy.sparse.coo_matrix((np.array([100, 100], np.int8), ([0, 0], [0, 0]))))


@pytest.mark.parametrize("format_", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
def test_every_sparse_format(format_):
    x = scipy.sparse.random(5, 6, 0.5, format=format_, random_state=0)
    network = Network([6, 3])
    assert network.scores(x).tolist() == network.scores(x.toarray()).tolist()
    with pytest.raises(ValueError, match=r"x must have shape \(n, 7\)"):
        Network([7, 3]).scores(x)
    with pytest.raises(ValueError, match=r"not \(5, 1000000000\)"):  # before a dense copy is made
        Network([7, 3]).scores(scipy.sparse.csr_matrix((5, 10**9)))
    assert network.scores(scipy.sparse.csr_matrix((0, 6))).shape == (0, 3)


def test_sparse_is_dense():
    rng = np.random.default_rng(0)
    x = rng.random((50, 20)) * (rng.random((50, 20)) < 0.3)
    y = rng.integers(0, 3, 50)
    digests = set()
    for make in (np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_array):
        network = Network([20, 16, 3])
        Trainer(network).fit(data.from_arrays(make(x), y, make(x), y), epochs=2)
        digests.add(network.digest())
    assert len(digests) == 1


def test_digits_split_is_fixed():
    digits = data.load_digits()
    assert digits.x_train.shape == (1437, 64) and digits.x_test.shape == (360, 64) and digits.classes == 10
    assert np.bincount(digits.y_test).min() > 20 and digits.image == (8, 8, 1)


DAMAGE = {
    "nonsense": lambda arrays: None,
    "no config": lambda arrays: arrays.pop("config"),
    "other version": lambda arrays: edit(arrays, b'"arithmetic_version": 1', b'"arithmetic_version": 9'),
    "negative batches": lambda arrays: edit(arrays, b'"batches": 0', b'"batches": -1'),
    "fraction of a batch": lambda arrays: edit(arrays, b'"batches": 0', b'"batches": 1.5'),
    "too few weights": lambda arrays: arrays.update(weights_0=arrays["weights_0"][:-1]),
    "float weights": lambda arrays: arrays.update(weights_0=arrays["weights_0"].astype(float)),
    "weights out of range": lambda arrays: arrays.update(weights_0=np.full_like(arrays["weights_0"], -32768)),
    "counters of one layer": lambda arrays: arrays.update(counters=arrays["counters"][:1]),
    "float counters": lambda arrays: arrays.update(counters=arrays["counters"] - 3.7),
    "pickled": lambda arrays: arrays.update(means_0=np.array([object()])),
}


def edit(arrays, old, new):
    text = arrays["config"].tobytes()
    assert old in text
    arrays["config"] = np.frombuffer(text.replace(old, new), np.uint8)


@pytest.mark.parametrize("damage", DAMAGE)
def test_broken_saved_network(tmp_path, damage):
    path = tmp_path / "net.npz"
    Network([4, 3, 2]).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    DAMAGE[damage](arrays)
    if damage == "nonsense":
        path.write_bytes(b"nonsense")
    else:
        np.savez(path, **arrays)
        path.write_bytes(storage._seal(path.read_bytes()))
    with pytest.raises(DataError, match="net.npz: not a saved network"):
        Network.load(path)


def test_flipped_bits_of_a_saved_network(tmp_path):
    path, network = tmp_path / "net.npz", Network([4, 3, 2])
    network.save(path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="net.npz: not a saved network"):
            Network.load(path)


def test_every_truncation_of_a_saved_network(tmp_path):
    path = tmp_path / "net.npz"
    Network([4, 3, 2]).save(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="net.npz"):
            Network.load(path)


def test_wrong_options_are_not_the_file(tmp_path):
    Network([4, 3, 2]).save(tmp_path / "net.npz")
    with pytest.raises(ValueError, match="threads must be in 1..256, not 0") as caught:
        Network.load(tmp_path / "net.npz", threads=0)
    assert not isinstance(caught.value, DataError)
    with pytest.raises(FileNotFoundError):
        Network.load(tmp_path / "none.npz")


def test_where_a_network_is_saved(tmp_path):
    """Through links, with the mode of the old file or the umask, never over a folder or a device."""
    network, real, link = Network([4, 3, 2]), tmp_path / "real.npz", tmp_path / "link.npz"
    link.symlink_to(real)
    network.save(link)
    assert link.is_symlink() and Network.load(real).digest() == network.digest()
    assert real.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    real.chmod(0o640)
    network.save(real)
    assert real.stat().st_mode & 0o777 == 0o640
    os.mkfifo(tmp_path / "pipe")
    refused = {"": "is a folder", "pipe": "not a regular file", "no/where": "no such folder"}
    for target, message in refused.items():
        with pytest.raises(OSError, match=message):
            network.save(tmp_path / target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.npz", "pipe", "real.npz"]


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask

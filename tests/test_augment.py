"""Augmentation (A3.7) against the independent model, its distribution, and what it refuses."""

import numpy as np
import pytest
import slow

from sppim_core.augment import Augmentation

INDICES = np.array([70_000, 70_001, 0, 7, 65_535, 3])


def images(shape, count=6, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, (count, *shape)).astype(np.int8)


def as_rows(x):
    return x.reshape(len(x), -1)


def test_worked_example():
    x = np.array([[1, 2, 3, 4, 5, 6]], np.int8)
    shown = Augmentation(flip=True, crop=1)(x, (2, 3, 1), np.array([0]), 1, 0, np.array([0]))
    assert shown.dtype == np.int8 and shown.tolist() == [[0, 6, 5, 0, 0, 0]]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [0, 1, 4, 127])
@pytest.mark.parametrize("shape", [(5, 7, 3), (4, 4, 1), (1, 9, 2), (9, 1, 4)])
def test_against_the_model(shape, crop, flip):
    x, fill = images(shape), np.arange(shape[2]) - 128
    for seed, epoch in ((1, 0), (2**64 - 1, 99)):
        shown = Augmentation(flip, crop)(as_rows(x), shape, INDICES, seed, epoch, fill)
        expected = [
            slow.augment(rows, int(index), seed, epoch, flip, crop, fill.tolist())
            for rows, index in zip(x.tolist(), INDICES)
        ]
        assert shown.reshape(x.shape).tolist() == expected


def test_the_last_index():
    x, last = images((3, 3, 1), 1), 2**32 - 1
    shown = Augmentation(True, 1)(as_rows(x), (3, 3, 1), np.array([last]), 1, 0, np.array([9]))
    assert shown.reshape(x.shape).tolist() == [slow.augment(x[0].tolist(), last, 1, 0, True, 1, [9])]


def test_nothing_chosen_changes_nothing():
    x = as_rows(images((4, 5, 3)))
    before = x.copy()
    shown = Augmentation()(x, (4, 5, 3), np.arange(6), 1, 0, np.zeros(3, np.int8))
    assert shown.tolist() == before.tolist() and not np.shares_memory(shown, x)
    Augmentation(True, 2)(x, (4, 5, 3), np.arange(6), 1, 0, np.zeros(3, np.int8))
    assert x.tolist() == before.tolist()


def test_an_image_is_shown_alike_in_any_batch():
    """The numbers depend on the index, not on the company; another epoch or seed shows other images."""
    x, indices, fill = as_rows(images((8, 8, 3), 50)), np.arange(50) * 3, np.zeros(3, np.int8)
    show = Augmentation(flip=True, crop=2)
    whole = show(x, (8, 8, 3), indices, 1, 0, fill)
    order = np.random.default_rng(1).permutation(50)
    for part in np.split(order, [1, 20]):
        assert show(x[part], (8, 8, 3), indices[part], 1, 0, fill).tolist() == whole[part].tolist()
    assert show(x[:0], (8, 8, 3), indices[:0], 1, 0, fill).shape == (0, 192)
    for seed, epoch in ((1, 1), (2, 0)):
        assert (show(x, (8, 8, 3), indices, seed, epoch, fill) != whole).any(axis=1).mean() > 0.9


def test_every_shift_is_as_likely():
    """Where a single bright pixel goes: all shifts, mirrored or not, about equally often."""
    x = np.zeros((18000, 35), np.int8)
    x[:, 2 * 7 + 2] = 1  # row 2, column 2 of 5 x 7: mirrored, column 4
    shown = Augmentation(flip=True, crop=1)(x, (5, 7, 1), np.arange(18000), 3, 5, np.array([0]))
    count = shown.sum(axis=0).reshape(5, 7)
    assert count.sum() == 18000 and (count > 0).sum() == 15
    assert abs(count[1:4, [1, 2, 4, 5]] - 1000).max() < 150 and abs(count[1:4, 3] - 2000).max() < 200


X, FILL = np.zeros((2, 12), np.int8), np.zeros(3, np.int8)
ARGUMENTS = dict(x=X, image=(2, 2, 3), indices=np.arange(2), seed=1, epoch=0, fill=FILL)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(x=X.astype(float)), "x must hold int8, not float64"),
        (dict(x=X[0]), "x must have 2 dimensions"),
        (dict(image=(2, 2)), r"image must be \(height, width, channels\) of 12 inputs, not \(2, 2\)"),
        (dict(image=(2, 3, 3)), r"of 12 inputs, not \(2, 3, 3\)"),
        (dict(image=(-2, -2, 3)), r"of 12 inputs, not \(-2, -2, 3\)"),
        (dict(image=(1, 1, 12)), r"more than one pixel to be augmented, not \(1, 1, 12\)"),
        (dict(indices=np.arange(3)), "indices must name 2 images, not 3"),
        (dict(indices=np.array([0, -1])), "indices must hold values in .*, found -1"),
        (dict(indices=np.array([0.0, 1.0])), "indices must hold integers, not float64"),
        (dict(seed=-1), "seed must be in"),
        (dict(epoch=-1), "epoch must be in .*, not -1"),
        (dict(epoch=0.5), "epoch must be an integer, not 0.5"),
        (dict(fill=FILL[:1]), "fill must hold 3 values, not 1"),
        (dict(fill=FILL + np.int16(128)), "fill must hold values in -128..127, found 128"),
    ],
    ids=str,
)
def test_wrong_arguments(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Augmentation(flip=True, crop=1)(**ARGUMENTS | wrong)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(flip=1), "flip must be True or False, not 1"),
        (dict(crop=-1), r"crop must be in 0..127, not -1"),
        (dict(crop=128), r"crop must be in 0..127, not 128"),
        (dict(crop=2.0), "crop must be an integer, not 2.0"),
    ],
    ids=str,
)
def test_wrong_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Augmentation(**options)

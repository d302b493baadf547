"""Augmentation of training images: shifts and mirrored images, the same on every machine (docs/arithmetic.md, A3.7)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sppim_core import check
from sppim_core.arithmetic import draw32
from sppim_core.errors import ShapeError

_CROP_MAX = 127  # A3.7


@dataclass(frozen=True)
class Augmentation:
    """flip: mirror each image left to right with probability 1/2. crop: see it through a window that is off by
    -crop..crop pixels (0..127) in both directions."""

    flip: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        check.flag("flip", self.flip)
        check.integer("crop", self.crop, 0, _CROP_MAX)

    def __call__(
        self,
        x: np.ndarray,
        image: tuple[int, int, int],
        indices: np.ndarray,
        seed: int,
        epoch: int,
        fill: np.ndarray,
    ) -> np.ndarray:
        """The images x as `epoch` (from 0) shows them, int8 (n, inputs).

        x: int8 (n, inputs). image: (height, width, channels). indices: positions in the training set, integers (n,).
        fill: what lies beyond the border, integers -128..127 (channels,)."""
        x = check.array("x", x, np.int8, 2)
        height, width, channels = _check_image(image, x.shape[1])
        indices = check.array("indices", indices, np.int64, 1, 0, 2**32 - 1)
        fill = check.array("fill", fill, np.int8, 1, -128, 127)
        if len(indices) != len(x):
            raise ShapeError(f"indices must name {len(x)} images, not {len(indices)}")
        if len(fill) != channels:
            raise ShapeError(f"fill must hold {channels} values, not {len(fill)}")
        down, right, mirrored = self._choices(indices, seed, check.integer("epoch", epoch, 0, 2**64 - 1))
        rows = self._shifted(x.reshape(len(x), height, width * channels), fill, down, right)
        if self.flip:
            images = rows.reshape(len(x), height, width, channels)
            images[mirrored] = images[mirrored, :, ::-1]
        return rows.reshape(x.shape)

    def _choices(self, indices, seed, epoch):
        """Row and column, 0..2 crop, where each image begins in its padded self; whether bit 31 says mirrored."""
        if not len(indices):
            return indices, indices, indices.astype(bool)
        first = int(indices.min())
        draws = draw32(seed, "augmentation", 0, epoch, int(indices.max()) - first + 1, first)[indices - first]
        down, right = ((draws >> shift & 0x7FFF) * np.uint32(2 * self.crop + 1) >> 15 for shift in (0, 15))
        return down, right, draws >> 31 == 1

    def _shifted(self, rows, fill, down, right):
        """Each image (n, height, width x channels) cut out of itself with a border of fill, at its own place."""
        count, height, length = rows.shape
        top, left = self.crop, self.crop * len(fill)
        padded = np.empty((count, height + 2 * top, length + 2 * left), np.int8)
        padded[:] = np.tile(fill, padded.shape[2] // len(fill))
        padded[:, top : top + height, left : left + length] = rows
        windows = sliding_window_view(padded, (height, length), axis=(1, 2))
        return windows[np.arange(count), down, right * len(fill)]


def _check_image(image, inputs: int) -> tuple[int, int, int]:
    if len(image) != 3 or min(image) < 1 or math.prod(image) != inputs:
        raise ShapeError(f"image must be (height, width, channels) of {inputs} inputs, not {image}")
    if image[0] == image[1] == 1:
        raise ShapeError(f"image must have more than one pixel to be augmented, not {image}")
    return image


def chosen(flip: bool, crop: int) -> Augmentation | None:
    """None if nothing is asked for."""
    return Augmentation(flip=flip, crop=crop) if flip or crop else None

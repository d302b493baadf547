"""The reference workload REF-B of docs/chip.md, C6: counted, not trained. Its shapes and sparsities are assumed."""

from dataclasses import dataclass

import numpy as np

from sppim_core import schedule
from sppim_core.chip import Chip
from sppim_core.counters import NAMES, Counters
from sppim_core.schedule import Schedule, Shape

EPOCH_IMAGES = 50_000  # published data set: CIFAR-10
BATCH = 128


def _conv(kernel: int, channels: int, side: int, out_channels: int, out_side: int, macros: int) -> Shape:
    return Shape(
        rows=kernel * kernel * channels,
        columns=out_channels,
        positions=out_side**2,
        inputs=channels * side**2,
        outputs=out_channels * out_side**2,
        classes=10,
        macros=macros,
        bias=0,
        centred=0,
        activation_bytes=2,
    )


def reference_shapes() -> list[Shape]:
    """conv 4x4/4 3-32; conv 3x3/2 32; 3 x conv 3x3 32; fc 512-10."""
    fc = Shape(
        rows=512,
        columns=10,
        positions=1,
        inputs=512,
        outputs=10,
        classes=10,
        macros=1,
        bias=0,
        centred=0,
        activation_bytes=2,
    )
    return [_conv(4, 3, 32, 32, 8, 3), _conv(3, 32, 8, 32, 4, 3), *[_conv(3, 32, 4, 32, 4, 3)] * 3, fc]


def spread(density: float, size: int, images: int) -> np.ndarray:
    """Integer counts whose running mean stays within one of density x size."""
    steps = np.floor(np.arange(images + 1) * (density * size) + 1e-6)
    return np.diff(steps).astype(np.uint32)


def reference_nonzeros(images: int, activation_sparsity: float, error_sparsity: float):
    """(operand_nonzeros, error_nonzeros), uint32 (6, images); the input and the output layer's errors have no zeros."""
    shapes = reference_shapes()
    densities = [1.0] + [1 - activation_sparsity] * (len(shapes) - 1)
    errors = [1 - error_sparsity] * (len(shapes) - 1) + [1.0]
    return (
        np.stack([spread(d, s.rows * s.positions, images) for d, s in zip(densities, shapes, strict=True)]),
        np.stack([spread(d, s.outputs, images) for d, s in zip(errors, shapes, strict=True)]),
    )


@dataclass(frozen=True)
class Counted:
    """A counted workload: what report.figures() needs of it."""

    counters: Counters
    baseline: Counters
    shapes: list
    images: int
    epoch_images: int


def count_reference(
    chip: Chip, batches: int = 32, activation_sparsity: float = 0.55, error_sparsity: float = 0.79, **switches
) -> Counted:
    """Runs REF-B's zero counts through the counting and the schedule; switches go to Schedule."""
    shapes = reference_shapes()
    pipelined, sequential = Schedule(shapes, chip, "local", **switches), schedule.baseline(shapes, chip)
    operands, errors = reference_nonzeros(batches * BATCH, activation_sparsity, error_sparsity)
    nothing = Counters(np.zeros((len(shapes), len(NAMES))))
    local = backpropagation = nothing
    for first in range(0, batches * BATCH, BATCH):
        part = slice(first, first + BATCH)
        batch = np.ascontiguousarray(operands[:, part]), np.ascontiguousarray(errors[:, part])
        for timeline in (pipelined, sequential):
            timeline.add_batch(*batch)
        local += schedule.count_batch(shapes, "local", *batch)
        backpropagation += schedule.count_batch(shapes, "bp", *batch)
    return Counted(
        local + pipelined.counters(), backpropagation + sequential.counters(), shapes, batches * BATCH, EPOCH_IMAGES
    )

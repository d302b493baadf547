"""The reference workload REF-B of docs/chip.md, C6: counted, not trained. Its shapes and sparsities are assumed."""

from dataclasses import dataclass

import numpy as np

from sppim_core import check, schedule
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.schedule import Schedule, Shape

EPOCH_IMAGES = 50_000  # published data set: CIFAR-10
BATCH = 128


def _layers() -> list[dict]:
    """conv 4x4/4 3-32; conv 3x3/2 32; 3 x conv 3x3 32; fc 512-10."""

    def conv(kernel: int, channels: int, side: int, out_side: int) -> dict:
        return {
            "rows": kernel * kernel * channels,
            "columns": 32,
            "positions": out_side**2,
            "inputs": channels * side**2,
            "outputs": 32 * out_side**2,
        }

    fc = {"rows": 512, "columns": 10, "positions": 1, "inputs": 512, "outputs": 10}
    return [conv(4, 3, 32, 8), conv(3, 32, 8, 4), *[conv(3, 32, 4, 4)] * 3, fc]


def reference_shapes(chip: Chip) -> list[Shape]:
    """The layers on the chip's macros, shared out by dense FP cycles (on 16 macros of 32 columns: 3, 3, 3, 3, 3, 1)."""
    layers = _layers()
    work = [layer["rows"] * layer["positions"] * -(-layer["columns"] // chip["geometry.columns"]) for layer in layers]
    shares = schedule.share_macros(work, chip["geometry.macros"])
    common = {"classes": 10, "bias": 0, "centred": 0, "activation_bytes": 2}
    return [Shape(**layer, macros=macros, **common) for layer, macros in zip(layers, shares)]


def spread(density: float, size: int, images: int) -> np.ndarray:
    """Integer counts whose running mean stays within one of density x size."""
    steps = np.floor(np.arange(images + 1) * (density * size) + 1e-6)
    return np.diff(steps).astype(np.uint32)


def reference_nonzeros(shapes: list[Shape], images: int, activation_sparsity: float, error_sparsity: float):
    """(operand_nonzeros, error_nonzeros), uint32 (6, images); the input and the output layer's errors have no zeros."""
    for name, value in (("activation_sparsity", activation_sparsity), ("error_sparsity", error_sparsity)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in 0..1 (1 excluded), not {value}")
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
    chip: Chip,
    batches: int = 32,
    batch: int = BATCH,
    activation_sparsity: float = 0.55,
    error_sparsity: float = 0.79,
    **switches,
) -> Counted:
    """Runs REF-B's zero counts through the counting and the schedule; switches go to Schedule."""
    batches, batch = check.integer("batches", batches, 1, 10**6), check.integer("batch", batch, 1, 65535)
    shapes = reference_shapes(chip)
    pipelined, sequential = Schedule(shapes, chip, "local", **switches), schedule.baseline(shapes, chip)
    operands, errors = reference_nonzeros(shapes, batches * batch, activation_sparsity, error_sparsity)
    local = backpropagation = Counters.zeros(len(shapes))
    for first in range(0, batches * batch, batch):
        part = slice(first, first + batch)
        counts = np.ascontiguousarray(operands[:, part]), np.ascontiguousarray(errors[:, part])
        for timeline in (pipelined, sequential):
            timeline.add_batch(*counts)
        local += schedule.count_batch(shapes, "local", *counts)
        backpropagation += schedule.count_batch(shapes, "bp", *counts)
    return Counted(
        counters=local + pipelined.counters(),
        baseline=backpropagation + sequential.counters(),
        shapes=shapes,
        images=batches * batch,
        epoch_images=EPOCH_IMAGES,
    )

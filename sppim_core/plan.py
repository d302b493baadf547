"""The plan of a training: how long, at which rates, from which images."""

from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np

from sppim_core import check
from sppim_core.arithmetic import held_out
from sppim_core.errors import ShapeError
from sppim_core.history import History

RATE_STEPS = ((60, 2), (85, 2))  # A9
MAX_RATE_SHIFT = 16


@dataclass(frozen=True)
class Plan:
    """epochs: at most so many. rate_steps: (percent, shift), from that percentage of the epochs on `shift` more is
    added to every update_shift. validation: images held out (A9.1). patience: stop after so many epochs without a
    better validation accuracy. augmentation: a dataclass object that is called with x int8 (n, inputs), image
    (h, w, c), indices (n,), seed, epoch, fill int8 (c,) and returns what to learn from instead of x, like it."""

    epochs: int
    rate_steps: tuple = RATE_STEPS
    validation: int = 0
    patience: int | None = None
    augmentation: Any = None

    def __post_init__(self):
        check.integer("epochs", self.epochs, 1, 100_000)
        check.integer("validation", self.validation, 0, 2**32 - 1)
        object.__setattr__(self, "rate_steps", _rate_steps(self.rate_steps))
        if self.patience is not None:
            check.integer("patience", self.patience, 1, 100_000)
            if not self.validation:
                raise ValueError(f"patience={self.patience} needs images to validate with: validation must not be 0")
        if self.augmentation is not None and not (callable(self.augmentation) and is_dataclass(self.augmentation)):
            raise TypeError(f"augmentation must be a dataclass object that can be called, not {self.augmentation!r}")

    def rate_shift(self, epoch: int) -> int:
        """Shift added to every layer's update_shift in an epoch (from 0)."""
        return rate_shift(epoch, self.epochs, self.rate_steps)

    def split(self, seed: int, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the images to learn from and of those held out, both ascending, int64."""
        if self.validation >= images:
            raise ShapeError(f"validation must leave images to learn from, not {self.validation} of {images}")
        held = held_out(seed, images, self.validation)
        return np.delete(np.arange(images), held), held

    def finished(self, history: History) -> bool:
        best, done = history.best_epoch, len(history.epochs)
        waited = self.patience is not None and best is not None and done - 1 - best >= self.patience
        return done >= self.epochs or waited

    def describe(self) -> dict:
        """Plain values by which two plans can be compared."""
        augmentation = None if self.augmentation is None else repr(self.augmentation)
        return vars(self) | {"rate_steps": [list(step) for step in self.rate_steps], "augmentation": augmentation}


def rate_shift(epoch: int, epochs: int, steps=RATE_STEPS) -> int:
    """A9: shift added to every layer's update_shift in an epoch (from 0) of `epochs`."""
    return sum(shift for percent, shift in steps if 100 * epoch >= percent * epochs)


def _rate_steps(steps) -> tuple:
    try:
        pairs = tuple((percent, shift) for percent, shift in steps)
    except (TypeError, ValueError):
        raise TypeError(f"rate_steps must be pairs (percent, shift), not {steps!r}") from None
    checked = tuple(
        (
            check.integer("percent of rate_steps", percent, 0, 100),
            check.integer("shift of rate_steps", shift, 0, MAX_RATE_SHIFT),
        )
        for percent, shift in pairs
    )
    if sum(shift for _, shift in checked) > MAX_RATE_SHIFT:
        raise ValueError(f"rate_steps must add up to at most {MAX_RATE_SHIFT}, not {checked}")
    return checked

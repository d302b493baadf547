"""What is known of a training while it goes on and afterwards: loss, accuracies, zeros, time."""

import math
from dataclasses import asdict, dataclass, field
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Epoch:
    """One epoch, its number from 0: loss (A9.2) and accuracy on the images it learned from, as it saw them; accuracy
    after it on the test images and on those held out, if any; shares of zeros by layer."""

    epoch: int
    rate_shift: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float | None
    test_accuracy: float
    activation_sparsity: list
    error_sparsity: list
    seconds: float


@dataclass
class History:
    """What Trainer.fit() returns."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def test_accuracy(self) -> float:
        return self.epochs[-1].test_accuracy

    @property
    def best_epoch(self) -> int | None:
        """The first epoch of the highest validation accuracy; None if nothing was held out."""
        accuracies = [epoch.validation_accuracy for epoch in self.epochs if epoch.validation_accuracy is not None]
        return accuracies.index(max(accuracies)) if accuracies else None

    def to_dicts(self) -> list[dict]:
        return [asdict(epoch) for epoch in self.epochs]


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `images` of `total_images` have entered, `resumed_images` of them before the training
    was continued, the others in `seconds`. loss, accuracy: of the epoch so far. `epoch` is set once it has ended."""

    images: int
    total_images: int
    seconds: float
    epoch: Epoch | None = None
    loss: float = 0.0
    accuracy: float = 0.0
    resumed_images: int = 0

    @property
    def images_per_second(self) -> float:
        return (self.images - self.resumed_images) / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        rate = self.images_per_second
        return (self.total_images - self.images) / rate if rate else math.inf


@cache
def _signs(classes: int) -> np.ndarray:
    """T of A6.1 by label and class."""
    return 2 * np.eye(classes, dtype=np.int64) - 1


@dataclass
class Tally:
    """Sums over the images that an epoch has learned from."""

    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0

    def add(self, scores: np.ndarray, labels: np.ndarray, margin_log2: int) -> None:
        """scores int64 (n, classes), labels int32 (n,); A9.2 and A5.6."""
        self.correct += int(np.count_nonzero(scores.argmax(axis=1) == labels))
        missing = (1 << margin_log2) - _signs(scores.shape[1])[labels] * scores
        missing = np.maximum(missing, 0).astype(float).ravel()
        self.loss_sum += float(missing.dot(missing)) / 4**margin_log2
        self.images += len(labels)

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images if self.images else 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.images if self.images else 0.0

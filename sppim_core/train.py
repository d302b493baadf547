"""Training: epochs over a data set, with what happened counted and placed on the chip."""

import math
import time
import warnings
from dataclasses import asdict, dataclass, field

import numpy as np

from sppim_core import check, report, schedule
from sppim_core.arithmetic import image_order
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.data import Dataset
from sppim_core.errors import ShapeError
from sppim_core.network import Network
from sppim_core.schedule import Schedule

RATE_STEPS = (60, 85)  # A9: two shifts more from these percentages of the epochs on
RATE_STEP = 2
FLOAT_RATE = 1e-3  # of the float baseline, scikit-learn's default for Adam


@dataclass(frozen=True)
class Epoch:
    """One epoch: its number from 0, accuracy on the test images after it, shares of zeros by layer."""

    epoch: int
    rate_shift: int
    test_accuracy: float
    activation_sparsity: list
    error_sparsity: list
    seconds: float


@dataclass
class History:
    """What Trainer.fit() returns."""

    epochs: list = field(default_factory=list)

    @property
    def test_accuracy(self) -> float:
        return self.epochs[-1].test_accuracy

    def to_dicts(self) -> list[dict]:
        return [asdict(epoch) for epoch in self.epochs]


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `images` of `total_images` done; `epoch` is set once that epoch has ended."""

    images: int
    total_images: int
    seconds: float
    epoch: Epoch | None = None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        return (self.total_images - self.images) / self.images_per_second if self.images else math.inf


def rate_shift(epoch: int, epochs: int) -> int:
    """A9: shift added to every layer's update_shift in an epoch (from 0) of `epochs`."""
    return RATE_STEP * sum(100 * epoch >= percent * epochs for percent in RATE_STEPS)


class Trainer:
    """Trains a network and keeps the chip's account of it.

    chip: default Chip.load(). layer_pipeline, phase_overlap: pipelining levels of the schedule (C4; off under
    rule "bp", which is the baseline); they change cycles, never bits."""

    def __init__(
        self,
        network: Network,
        chip: Chip | None = None,
        *,
        layer_pipeline: bool | None = None,
        phase_overlap: bool | None = None,
    ):
        if not isinstance(network, Network):
            raise TypeError(f"network must be a Network, not {type(network).__name__}")
        self.network = network
        if chip is not None and not isinstance(chip, Chip):
            raise TypeError(f"chip must be a Chip (Chip.load({chip!r})), not {type(chip).__name__}")
        self.chip = chip or Chip.load()
        self.shapes = schedule.map_network(network, self.chip)
        default = network.rule != "bp"
        self._schedule = Schedule(
            self.shapes,
            self.chip,
            network.rule,
            staleness=network.staleness,
            layer_pipeline=default if layer_pipeline is None else layer_pipeline,
            phase_overlap=default if phase_overlap is None else phase_overlap,
        )
        self._baseline_schedule = schedule.baseline(self.shapes, self.chip)
        self._baseline_counts = Counters.zeros(len(network.formats))
        self._before = network.counters()
        self._images = 0

    def fit(self, data: Dataset, epochs: int = 10, progress=None) -> History:
        """Learns for `epochs`; progress, if given, is called with a Progress after every batch and epoch.

        Each call is a training of its own: orders of the images and steps of the rate start from epoch 0.

        Drains at the end of each epoch (A8.3). Interrupted (Ctrl-C), the network is as after its last whole batch."""
        epochs = check.integer("epochs", epochs, 1, 100_000)
        self._check_data(data)
        self._images = len(data.y_train)
        history, start, done = History(), time.perf_counter(), 0
        total = epochs * len(data.y_train)
        for epoch in range(epochs):
            before, epoch_start = self.network.counters(), time.perf_counter()
            for x, labels in self._batches(data, epoch):
                self._account(self.network.tick(x, labels, rate_shift(epoch, epochs)))
                done += len(labels)
                if progress:
                    progress(Progress(done, total, time.perf_counter() - start))
            for left in self.network.drain():
                self._account(left)
            history.epochs.append(self._epoch(data, epoch, epochs, before, epoch_start))
            if progress:
                progress(Progress(done, total, time.perf_counter() - start, history.epochs[-1]))
        return history

    def _check_data(self, data: Dataset) -> None:
        if not isinstance(data, Dataset):
            raise TypeError(f"data must be a Dataset (sppim_core.data.from_arrays, ...), not {type(data).__name__}")
        if data.inputs != self.network.sizes[0]:
            raise ShapeError(f"data {data.name!r} has {data.inputs} inputs, the network {self.network.sizes[0]}")
        if data.classes > self.network.classes:
            raise ShapeError(f"data {data.name!r} has {data.classes} classes, the network {self.network.classes}")

    def _batches(self, data: Dataset, epoch: int):
        order = image_order(self.network.seed, epoch, len(data.y_train))
        for first in range(0, len(order), self.network.batch):
            chosen = order[first : first + self.network.batch]
            yield data.x_train[chosen], data.y_train[chosen]

    def _account(self, left) -> None:
        """Schedules the batch that left the network, if one did, here and on the baseline."""
        if left is None:
            return
        _, operands, errors = left
        self._schedule.add_batch(operands, errors)
        self._baseline_schedule.add_batch(operands, errors)
        self._baseline_counts += schedule.count_batch(self.shapes, "bp", operands, errors)

    def _epoch(self, data, epoch, epochs, before, start) -> Epoch:
        accuracy = float((self.network.predict(data.x_test) == data.y_test).mean())
        during = self.network.counters() - before
        return Epoch(
            epoch,
            rate_shift(epoch, epochs),
            accuracy,
            during.activation_sparsity(),
            during.error_sparsity(),
            time.perf_counter() - start,
        )

    def counters(self) -> Counters:
        """Counters of everything this trainer did, cycles included."""
        return self.network.counters() - self._before + self._schedule.counters()

    def baseline_counters(self) -> Counters:
        """The same images with the same zeros under sequential backpropagation: traffic and cycles."""
        return self._baseline_counts + self._baseline_schedule.counters()

    def figures(self, point: report.Point | None = None) -> list[report.Row]:
        """The chip's figures for what was trained (docs/chip.md, C5); an epoch is one of the last fit()'s data."""
        return report.figures(self.chip, self.counters(), self.baseline_counters(), self._images, point)


def float_baseline(data: Dataset, hidden, epochs: int, seed: int = 1, batch: int = 64) -> float:
    """Test accuracy of float backpropagation (scikit-learn's MLPClassifier: ReLU, softmax, Adam) of the same network
    on the same inputs, with as many epochs and the same steps of the learning rate."""
    from sklearn.neural_network import MLPClassifier

    x, x_test = ((images / 128).astype(np.float32) for images in (data.x_train, data.x_test))
    model = MLPClassifier(tuple(hidden), batch_size=min(batch, len(data.y_train)), alpha=0.0, warm_start=True)
    shifts = [rate_shift(epoch, epochs) for epoch in range(epochs)]
    with warnings.catch_warnings(record=True) as caught:  # "not converged": the number of epochs is chosen
        warnings.simplefilter("always")
        for step, shift in enumerate(sorted(set(shifts))):
            count = shifts.count(shift)
            model.set_params(
                learning_rate_init=FLOAT_RATE / 2**shift,
                max_iter=count,
                n_iter_no_change=count + 1,
                random_state=(seed + step) % 2**32,
            )
            model.fit(x, data.y_train)
            if any("interrupted" in str(warning.message) for warning in caught):  # fit() swallows Ctrl-C
                raise KeyboardInterrupt
    return float((model.predict(x_test) == data.y_test).mean())

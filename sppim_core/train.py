"""Training: epochs over a data set, with what happened counted and placed on the chip."""

import warnings

import numpy as np

from sppim_core import check, report
from sppim_core.account import Account
from sppim_core.checkpoint import Keeper
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.data import Dataset
from sppim_core.errors import ShapeError
from sppim_core.history import History
from sppim_core.network import Network
from sppim_core.plan import RATE_STEPS, Plan, rate_shift
from sppim_core.run import Run

FLOAT_RATE = 1e-3  # of the float baseline, scikit-learn's default for Adam


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
        default = network.rule != "bp"
        self._account = Account(
            network,
            self.chip,
            default if layer_pipeline is None else layer_pipeline,
            default if phase_overlap is None else phase_overlap,
        )
        self.shapes = self._account.shapes
        self._images = 0

    def fit(
        self,
        data: Dataset,
        epochs: int = 10,
        progress=None,
        *,
        rate_steps=RATE_STEPS,
        validation: int = 0,
        patience: int | None = None,
        augmentation=None,
        checkpoint=None,
        every: float = 60.0,
        resume: bool = True,
        log=None,
    ) -> History:
        """Learns for `epochs`; progress, if given, is called with a Progress after every batch and epoch.

        rate_steps, validation, patience, augmentation: see plan.Plan. After an early stop the network is as after the
        last epoch, not as after History.best_epoch.

        checkpoint: a file to which everything is saved after every epoch and, where no batches are in flight, every
        `every` seconds. If it exists, its training is continued to the same end, whatever this network has learned so
        far; one of another configuration or other data is a DataError. resume False: starts anew over it. One training
        at a time per file. log: a file of JSON lines, one an epoch.

        Each call is a training of its own: orders of the images and steps of the rate start from epoch 0.

        Drains at the end of each epoch (A8.3). Interrupted (Ctrl-C), the network is as after its last whole batch, and
        so is the checkpoint if none is in flight."""
        plan = Plan(epochs, rate_steps, validation, patience, augmentation)
        self._check_data(data)
        run = Run(self.network, self._account, data, plan)
        self._images = len(run.training)
        return run.train(Keeper(checkpoint, every, check.flag("resume", resume)), log, progress)

    def _check_data(self, data: Dataset) -> None:
        if not isinstance(data, Dataset):
            raise TypeError(f"data must be a Dataset (sppim_core.data.from_arrays, ...), not {type(data).__name__}")
        if data.inputs != self.network.sizes[0]:
            raise ShapeError(f"data {data.name!r} has {data.inputs} inputs, the network {self.network.sizes[0]}")
        if data.classes > self.network.classes:
            raise ShapeError(f"data {data.name!r} has {data.classes} classes, the network {self.network.classes}")

    def counters(self) -> Counters:
        """Counters of everything this trainer did, cycles included."""
        return self._account.counters()

    def baseline_counters(self) -> Counters:
        """The same images with the same zeros under sequential backpropagation: traffic and cycles."""
        return self._account.baseline_counters()

    def figures(self, point: report.Point | None = None) -> list[report.Row]:
        """The chip's figures for what was trained (docs/chip.md, C5); an epoch is one of the last fit()'s data."""
        return report.figures(self.chip, self.counters(), self.baseline_counters(), self._images, point)


def float_baseline(data: Dataset, hidden, epochs: int, seed: int = 1, batch: int = 64, rate_steps=RATE_STEPS) -> float:
    """Test accuracy of float backpropagation (scikit-learn's MLPClassifier: ReLU, softmax, Adam) of the same network
    on the same inputs, with as many epochs and the same steps of the learning rate."""
    from sklearn.neural_network import MLPClassifier

    x, x_test = ((images / 128).astype(np.float32) for images in (data.x_train, data.x_test))
    model = MLPClassifier(tuple(hidden), batch_size=min(batch, len(data.y_train)), alpha=0.0, warm_start=True)
    shifts = [rate_shift(epoch, epochs, rate_steps) for epoch in range(epochs)]
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

"""One training from its first batch to its last: what Trainer.fit() does."""

import hashlib
import time
from dataclasses import asdict
from functools import cached_property

import numpy as np

from sppim_core import _core
from sppim_core.account import Account
from sppim_core.arithmetic import image_order
from sppim_core.checkpoint import Keeper
from sppim_core.data import Dataset
from sppim_core.history import Epoch, History, Progress, Tally
from sppim_core.interrupts import Hold
from sppim_core.log import Log, header
from sppim_core.network import Network
from sppim_core.plan import Plan
from sppim_core.sparse import is_sparse
from sppim_core.storage import OPTIONS


class Run:
    """Its position is the epoch len(history.epochs) and, within it, `batch`: the batches that have entered."""

    def __init__(self, network: Network, account: Account, data: Dataset, plan: Plan):
        self.network, self.account, self.data, self.plan = network, account, data, plan
        self.training, self.held_out = plan.split(network.seed, len(data.y_train))
        self.history, self.tally, self.before = History(), Tally(), network.counters()
        self.go_on(0, 0.0)

    @cached_property
    def configuration(self) -> dict:
        return _configuration(self.network, self.account, self.data, self.plan)

    @cached_property
    def log_header(self) -> dict:
        return header(self.configuration)

    def go_on(self, batch: int, seconds: float) -> None:
        """Sets the position within the epoch; seconds: what it has taken so far."""
        self.batch, self._entered = batch, self.network.batches
        self._start = time.perf_counter()
        self._epoch_start, self._resumed = self._start - seconds, self.images

    @property
    def images(self) -> int:
        """How many have entered."""
        count = len(self.training)
        return len(self.history.epochs) * count + min(self.batch * self.network.batch, count)

    @property
    def epoch_seconds(self) -> float:
        return time.perf_counter() - self._epoch_start

    def train(self, keeper: Keeper, log_path, progress) -> History:
        """To the end of the plan."""
        with Hold(self.network._core) as hold:
            with hold.step():
                keeper.restore(self)
                log = Log(log_path, self)
            try:
                while not self.plan.finished(self.history):
                    self._train_epoch(hold, keeper, log, progress)
            except KeyboardInterrupt:
                if self._whole:
                    with hold.step():
                        keeper.save(self)
                raise
        return self.history

    @property
    def _whole(self) -> bool:
        """Nothing is in flight, and every batch that has entered is accounted for."""
        return not self.network.in_flight and self.network.batches == self._entered

    def _train_epoch(self, hold: Hold, keeper: Keeper, log: Log, progress) -> None:
        order = self.training[image_order(self.network.seed, len(self.history.epochs), len(self.training))]
        size = self.network.batch
        for first in range(self.batch * size, len(order), size):
            with hold.step():
                self._learn(order[first : first + size])
                keeper.save_if_due(self)
            self._report(progress)
        with hold.step():
            epoch = self._end_epoch()
            log.add(epoch)
            keeper.save(self)
        self._report(progress, epoch)

    def _learn(self, chosen: np.ndarray) -> None:
        epoch = len(self.history.epochs)
        x = self.data.x_train[chosen]
        if self.plan.augmentation is not None:
            x = self._augmented(x, chosen, epoch)
        self._account(self.network.tick(x, self.data.y_train[chosen], self.plan.rate_shift(epoch)))
        self.batch += 1
        self._entered = self.network.batches

    def _augmented(self, x, chosen: np.ndarray, epoch: int) -> np.ndarray:
        image = self.data.image
        x = x.toarray() if is_sparse(x) else x
        return self.plan.augmentation(x, image, chosen, self.network.seed, epoch, np.zeros(image[2], np.int8))

    def _account(self, left) -> None:
        """The batch that left the network, if one did."""
        if left is not None:
            self.account.add(left)
            self.tally.add(left.scores, left.labels, self.network.formats[-1].margin_log2)

    def _end_epoch(self) -> Epoch:
        """Drains (A8.3), evaluates, goes to the next epoch."""
        while self.network.in_flight:
            self._account(self.network.tick())
        counters, number = self.network.counters(), len(self.history.epochs)
        during = counters - self.before
        epoch = Epoch(
            epoch=number,
            rate_shift=self.plan.rate_shift(number),
            train_loss=self.tally.loss,
            train_accuracy=self.tally.accuracy,
            validation_accuracy=self._validate() if len(self.held_out) else None,
            test_accuracy=self._accuracy(self.data.x_test, self.data.y_test),
            activation_sparsity=during.activation_sparsity(),
            error_sparsity=during.error_sparsity(),
            seconds=self.epoch_seconds,
        )
        self.history.epochs.append(epoch)
        self.batch, self.tally, self.before, self._epoch_start = 0, Tally(), counters, time.perf_counter()
        return epoch

    def _validate(self) -> float:
        return self._accuracy(self.data.x_train[self.held_out], self.data.y_train[self.held_out])

    def _accuracy(self, x, labels) -> float:
        return float((self.network.predict(x) == labels).mean())

    def _report(self, progress, epoch: Epoch | None = None) -> None:
        if progress is None:
            return
        progress(
            Progress(
                self.images,
                self.plan.epochs * len(self.training),
                time.perf_counter() - self._start,
                epoch,
                epoch.train_loss if epoch else self.tally.loss,
                epoch.train_accuracy if epoch else self.tally.accuracy,
                self._resumed,
            )
        )


def _configuration(network: Network, account: Account, data: Dataset, plan: Plan) -> dict:
    """What is computed, never how: two runs of equal configuration end alike."""
    return {
        "arithmetic_version": _core.ARITHMETIC_VERSION,
        "network": {name: getattr(network, name) for name in OPTIONS}
        | {"formats": [asdict(layer) for layer in network.formats]},
        "plan": plan.describe(),
        "training_data": _fingerprint(data.x_train, data.y_train),
        "test_data": _fingerprint(data.x_test, data.y_test),
        "schedule": account.describe(),
    }


def _fingerprint(x, labels: np.ndarray) -> str:
    """SHA-256 of images and labels."""
    sha = hashlib.sha256()
    for part in (x.data, x.indices, x.indptr, labels) if is_sparse(x) else (x, labels):
        sha.update(f"{part.dtype.str} {part.shape};".encode())
        sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()

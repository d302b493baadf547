"""The chip's account of a training: traffic and cycles of what was learned, and of the baseline doing the same."""

import numpy as np

from sppim_core import schedule, storage
from sppim_core.chip import Chip
from sppim_core.counters import Counters
from sppim_core.network import Network, Retired
from sppim_core.schedule import Schedule


class Account:
    """Counts from its creation on; give it every batch that leaves the network."""

    def __init__(self, network: Network, chip: Chip, layer_pipeline: bool, phase_overlap: bool):
        self.network = network
        self.shapes = schedule.map_network(network, chip)
        self._schedules = {
            "schedule": Schedule(
                self.shapes,
                chip,
                network.rule,
                staleness=network.staleness,
                layer_pipeline=layer_pipeline,
                phase_overlap=phase_overlap,
            ),
            "baseline_schedule": schedule.baseline(self.shapes, chip),
        }
        self._baseline_counts = Counters.zeros(len(self.shapes))
        self._before = network.counters()

    def add(self, batch: Retired) -> None:
        for each in self._schedules.values():
            each.add_batch(batch.input_nonzeros, batch.error_nonzeros)
        self._baseline_counts += schedule.count_batch(self.shapes, "bp", batch.input_nonzeros, batch.error_nonzeros)

    def counters(self) -> Counters:
        """What the network did, cycles included."""
        return self.network.counters() - self._before + self._schedules["schedule"].counters()

    def baseline_counters(self) -> Counters:
        """The same images with the same zeros under sequential backpropagation: traffic and cycles."""
        return self._baseline_counts + self._schedules["baseline_schedule"].counters()

    def describe(self) -> dict:
        """Plain values by which two accounts can be compared."""
        return self._schedules["schedule"].describe()

    def state(self) -> dict[str, np.ndarray]:
        """Arrays for restore()."""
        counts = {"account_before": self._before.values, "baseline_counts": self._baseline_counts.values}
        return counts | {name: each.state() for name, each in self._schedules.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on from the state() of an account that describe() describes alike."""
        for name, each in self._schedules.items():
            each.restore(arrays[name])
        layers = len(self.shapes)
        self._before = storage.counters_in(arrays, "account_before", layers)
        self._baseline_counts = storage.counters_in(arrays, "baseline_counts", layers)

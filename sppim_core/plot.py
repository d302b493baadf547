"""The picture of a training: learning curve, sparsity by layer, pipeline occupancy, fate of the MACs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sppim_core.counters import MAC_PHASES, Counters

_PHASES = ("fp", "ep", "gc", "up")
_COLOURS = {
    "fp": "#4477aa",
    "ep": "#ccbb44",
    "gc": "#228833",
    "up": "#aa3377",
    "done": "#4477aa",
    "skipped": "#bbbbbb",
    "gated": "#ccbb44",
}
_FATES = {"done": "done", "skipped": "skipped (saves a cycle)", "gated": "gated (saves energy)"}
FORMATS = ("png", "pdf", "svg")


def check_file(path) -> None:
    """Raises before hours of training what draw() would raise after them."""
    if Path(path).suffix.lstrip(".").lower() not in FORMATS:
        raise ValueError(f"{path}: a picture's name ends in .{', .'.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise ImportError("pictures need matplotlib: pip install matplotlib")


def draw(path, history, counters: Counters, rule: str, title: str, float_accuracy: float | None = None) -> None:
    """Writes the picture; the file name's ending chooses the format (png, pdf, svg)."""
    check_file(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(title)
    _learning_curve(axes[0, 0], history, rule, float_accuracy)
    _sparsity(axes[0, 1], counters)
    _occupancy(axes[1, 0], counters)
    _macs(axes[1, 1], counters)
    figure.savefig(path, dpi=110)


def _legend_below(ax, columns, below=-0.12):
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=columns, frameon=False, fontsize="small")


def _layer_names(layers) -> list[str]:
    """Short where many have to fit."""
    return [f"layer {layer}" if len(layers) <= 6 else str(layer) for layer in layers]


def _learning_curve(ax, history, rule, float_accuracy):
    epochs = [e.epoch + 1 for e in history.epochs]
    ax.plot(
        epochs,
        [100 * e.test_accuracy for e in history.epochs],
        marker="o",
        markersize=4,
        color=_COLOURS["fp"],
        label=f"fixed point, rule {rule}",
    )
    if float_accuracy is not None:
        ax.axhline(
            100 * float_accuracy, color="black", linestyle="--", linewidth=1, label="float backpropagation, all epochs"
        )
    ax.set(title="Learning curve", xlabel="epoch", ylabel="test accuracy, %")
    ax.set_xticks(epochs[:: max(1, len(epochs) // 10)])
    ax.legend(loc="lower right")
    ax.grid(alpha=0.3)


def _sparsity(ax, counters):
    layers = np.arange(counters.layers)
    ax.bar(
        layers - 0.2,
        np.multiply(counters.activation_sparsity(), 100),
        0.4,
        color=_COLOURS["fp"],
        label="inputs (FP skips)",
    )
    ax.bar(
        layers + 0.2, np.multiply(counters.error_sparsity(), 100), 0.4, color=_COLOURS["gc"], label="errors (GC skips)"
    )
    ax.set(
        title="Zeros by layer",
        ylabel="zeros, %",
        ylim=(0, 105),
        xticks=layers,
        xticklabels=_layer_names(layers),
    )
    _legend_below(ax, 2)


def _occupancy(ax, counters):
    rows = np.arange(counters.layers)
    phases = [phase for phase in _PHASES if counters.total(f"{phase}_busy_cycles")]
    height = 0.8 / len(phases)
    for i, phase in enumerate(phases):
        busy = 100 * counters[f"{phase}_busy_cycles"] / counters.cycles
        waiting = 100 * counters[f"{phase}_stall_cycles"] / counters.cycles
        y = rows + (i - (len(phases) - 1) / 2) * height
        ax.barh(y, busy, height * 0.9, color=_COLOURS[phase], label=f"{phase.upper()} busy")
        ax.barh(
            y, waiting, height * 0.9, left=busy, color="none", edgecolor=_COLOURS[phase], hatch="////", linewidth=0.5
        )
    ax.barh([0], [0], color="none", edgecolor="grey", hatch="////", label="waiting")
    ax.set(
        title="Pipeline occupancy, share of all cycles in %", yticks=rows, yticklabels=_layer_names(rows), xlim=(0, 100)
    )
    ax.invert_yaxis()
    _legend_below(ax, len(phases) + 1)


def _macs(ax, counters):
    bars = [
        (f"L{layer} {phase.upper()}", [int(counters[f"{phase}_macs_{part}"][layer]) for part in _FATES])
        for layer in range(counters.layers)
        for phase in MAC_PHASES
        if counters[f"{phase}_macs_total"][layer]
    ]
    names, bottom = [name for name, _ in bars], np.zeros(len(bars))
    for i, part in enumerate(_FATES):
        share = np.array([100 * parts[i] / sum(parts) for _, parts in bars])
        ax.bar(names, share, bottom=bottom, color=_COLOURS[part], label=_FATES[part])
        bottom += share
    crowded = len(bars) > 8
    ax.set(title="MACs on the arrays (the LEPU's are in the report)", ylabel="share, %", ylim=(0, 100))
    ax.tick_params(axis="x", labelrotation=90 if crowded else 0, labelsize="small" if crowded else "medium")
    _legend_below(ax, 3, -0.2 if crowded else -0.12)

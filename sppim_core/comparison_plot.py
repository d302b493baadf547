"""Pictures of a comparison: learning curves, bit widths, zeros over training, accuracy against energy."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

from sppim_core.comparison_table import group
from sppim_core.plan import RATE_STEPS
from sppim_core.study import FLOAT, FORMAT_OPTIONS, Entry

_COLOURS = {"local": "#4477aa", "drtp": "#ccbb44", "dfa": "#228833", "bp": "#aa3377", FLOAT: "#555555"}
_WIDTHS = {name: name.replace("_", " ") for name in FORMAT_OPTIONS}


def _figure(count: int):
    """A figure of so many axes, up to three side by side."""
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(6.5 * columns, 5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _name(entry: dict) -> str:
    label = Entry(**entry).label
    rule = "float backpropagation" if entry["rule"] == FLOAT else entry["rule"]
    return rule if label == "-" else f"{rule}, {label}"


def _titled(ax, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)


def _plain_numbers(axis) -> None:
    """On a logarithmic axis: 1, 2, 5, 10 ..., without powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _by_study(rows: list[dict], wanted: Callable[[dict], bool]) -> dict[str, list[dict]]:
    studies: dict[str, list[dict]] = {}
    for row in rows:
        if wanted(row):
            studies.setdefault(row["entry"]["study"], []).append(row)
    return studies


def _of_widths(row: dict) -> bool:
    """Whether it belongs to a study of one number of bits at a time."""
    return row["entry"]["study"].endswith("bits") and row["entry"]["rule"] == "local"


def _legend(ax) -> None:
    ax.legend(frameon=False, fontsize="small")


def _mean_curve(seeds: list[dict], name: str) -> list[float]:
    return [100 * mean(values) for values in zip(*(row[name] for row in seeds))]


def _line(ax, x, y, entry: dict, marker: str = "") -> None:
    """Rules by colour, staleness by dashes; pale: other steps of the rate than by default."""
    dashes = {0: "-", 1: "--", 2: ":"}.get(entry["staleness"], "-.")
    shade = 1 if tuple(map(tuple, entry["rate_steps"])) == RATE_STEPS else 0.5
    ax.plot(x, y, marker + dashes, color=_COLOURS[entry["rule"]], alpha=shade, label=_name(entry))


def draw_curves(rows: list[dict], path: Path) -> bool:
    """Test accuracy by epoch, mean over the seeds; studies of one bit width at a time are too many lines."""
    studies = _by_study(rows, lambda row: not row["entry"]["formats"])
    studies = {name: chosen for name, chosen in studies.items() if len(group(chosen)) > 1}
    if not studies:
        return False
    figure, axes = _figure(len(studies))
    for ax, (study, chosen) in zip(axes, studies.items(), strict=True):
        for seeds in group(chosen):
            entry, curve = seeds[0]["entry"], _mean_curve(seeds, "curve")
            _line(ax, range(1, len(curve) + 1), curve, entry)
        _titled(ax, f"{study}: {chosen[0]['network']}", "epoch", "test accuracy, %")
        ax.xaxis.get_major_locator().set_params(integer=True)
        _legend(ax)
    figure.savefig(path, dpi=110)
    return True


def draw_widths(rows: list[dict], path: Path) -> bool:
    """Test error against each number of bits, the others as by default."""
    studies = _by_study(rows, lambda row: _of_widths(row) and len(row["entry"]["formats"]) <= 1)
    if not studies:
        return False
    figure, axes = _figure(len(studies))
    for ax, (study, chosen) in zip(axes, studies.items(), strict=True):
        plain = [row for row in chosen if not row["entry"]["formats"]]
        for name, colour in zip((n for n in _WIDTHS if n.endswith("bits")), _COLOURS.values(), strict=False):
            changed = [row for row in chosen if name in row["entry"]["formats"]]
            points = [(row["entry"]["formats"][name], 100 - 100 * row["accuracy"]) for row in changed]
            points += [(FORMAT_OPTIONS[name], 100 - 100 * row["accuracy"]) for row in plain]
            ax.plot(*zip(*sorted(points)), "o-", color=colour, label=_WIDTHS[name]) if changed else None
        ax.set_yscale("log")
        _plain_numbers(ax.yaxis)
        _titled(ax, f"{study}: {chosen[0]['network']}", "bits", "test error, %")
        _legend(ax)
    figure.savefig(path, dpi=110)
    return True


def draw_zeros(rows: list[dict], path: Path) -> bool:
    """Shares of zero inputs and errors by layer over the epochs, for rule local."""
    chosen = [row for row in rows if row["entry"]["rule"] == "local" and not _of_widths(row) and len(row["curve"]) > 1]
    chosen = [seeds[0] for seeds in group(chosen) if Entry(**seeds[0]["entry"]).label == "-"]
    if not chosen:
        return False
    figure, axes = _figure(len(chosen))
    for ax, row in zip(axes, chosen, strict=True):
        epochs = range(1, len(row["curve"]) + 1)
        layers = len(row["error_sparsity"][0])
        for layer in range(layers):
            shade = 0.3 + 0.7 * (layer + 1) / layers
            for name, what, colour, dash in (
                ("activation", "inputs", "#4477aa", "-"),
                ("error", "errors", "#aa3377", "--"),
            ):
                values = [100 * epoch[layer] for epoch in row[f"{name}_sparsity"]]
                ax.plot(epochs, values, dash, color=colour, alpha=shade, label=f"{what} of layer {layer}")
        _titled(ax, f"{row['entry']['data']}: {row['network']}", "epoch", "zeros, %")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=110)
    return True


def draw_energy(rows: list[dict], path: Path) -> bool:
    """Accuracy along a training against the modelled energy spent so far."""
    studies = _by_study(rows, lambda row: "energy_mj_per_epoch" in row and not _of_widths(row))
    if not studies:
        return False
    figure, axes = _figure(len(studies))
    for ax, (study, chosen) in zip(axes, studies.items(), strict=True):
        for seeds in group(chosen):
            entry, curve = seeds[0]["entry"], _mean_curve(seeds, "curve")
            spent = [seeds[0]["energy_mj_per_epoch"] * 1e-3 * (epoch + 1) for epoch in range(len(curve))]
            _line(ax, spent, curve, entry, ".")
        ax.set_xscale("log")
        _plain_numbers(ax.xaxis)
        _titled(ax, f"{study}: {chosen[0]['network']}", "modelled energy so far, J", "test accuracy, %")
        _legend(ax)
    figure.savefig(path, dpi=110)
    return True


PICTURES = {
    "curves.png": draw_curves,
    "bit_widths.png": draw_widths,
    "zeros.png": draw_zeros,
    "energy.png": draw_energy,
}


def draw(rows: list[dict], folder) -> list[Path]:
    """Writes the pictures that the rows allow; their paths."""
    return [Path(folder) / name for name, make in PICTURES.items() if make(rows, Path(folder) / name)]

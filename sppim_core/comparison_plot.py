"""Pictures of a comparison: learning curves, bit widths, zeros over training, accuracy against energy."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

from sppim_core.comparison_table import group
from sppim_core.plan import RATE_STEPS
from sppim_core.study import FLOAT, FORMAT_OPTIONS, Entry

_COLOURS = {"local": "#4477aa", "drtp": "#ccbb44", "dfa": "#228833", "bp": "#aa3377", FLOAT: "#555555"}
_WIDTHS = {name: name.replace("_", " ") for name in FORMAT_OPTIONS}


def _draw(path: Path, panels: list[tuple[str, list[dict]]], draw_panel: Callable) -> bool:
    """A picture of panels, titles and rows, up to three side by side; draw_panel(ax, rows). False: there are none."""
    from matplotlib.figure import Figure

    if not panels:
        return False
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, 5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (title, chosen) in zip(axes, panels, strict=False):
        ax.set_title(title, fontsize="medium")
        ax.grid(alpha=0.3)
        draw_panel(ax, chosen)
    for unused in axes[len(panels) :]:
        unused.remove()
    figure.savefig(path, dpi=110)
    return True


def _name(entry: dict) -> str:
    label = Entry(**entry).label
    rule = "float backpropagation" if entry["rule"] == FLOAT else entry["rule"]
    return rule if label == "-" else f"{rule}, {label}"


def _named(ax, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def _plain_numbers(axis) -> None:
    """On a logarithmic axis: 1, 2, 5, 10 ..., without powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _by_study(rows: list[dict], wanted: Callable[[dict], bool]) -> list[tuple[str, list[dict]]]:
    """Titles and rows of a panel a study."""
    networks: dict[str, str] = {}
    studies: dict[str, list[dict]] = {}
    for row in filter(wanted, rows):
        study = row["entry"]["study"]
        title = f"{study}: {networks.setdefault(study, row['network'])}"
        studies.setdefault(title, []).append(row)
    return list(studies.items())


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
    return _draw(path, [(title, chosen) for title, chosen in studies if len(group(chosen)) > 1], _curves)


def _curves(ax, rows: list[dict]) -> None:
    for seeds in group(rows):
        curve = _mean_curve(seeds, "curve")
        _line(ax, range(1, len(curve) + 1), curve, seeds[0]["entry"])
    _named(ax, "epoch", "test accuracy, %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    _legend(ax)


def draw_widths(rows: list[dict], path: Path) -> bool:
    """Test error against each number of bits, the others as by default."""
    return _draw(path, _by_study(rows, lambda row: _of_widths(row) and len(row["entry"]["formats"]) <= 1), _widths)


def _widths(ax, rows: list[dict]) -> None:
    plain = [row for row in rows if not row["entry"]["formats"]]
    for name, colour in zip((n for n in _WIDTHS if n.endswith("bits")), _COLOURS.values(), strict=False):
        changed = [row for row in rows if name in row["entry"]["formats"]]
        points = [(row["entry"]["formats"][name], 100 - 100 * row["accuracy"]) for row in changed]
        points += [(FORMAT_OPTIONS[name], 100 - 100 * row["accuracy"]) for row in plain]
        if changed:
            ax.plot(*zip(*sorted(points)), "o-", color=colour, label=_WIDTHS[name])
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis)
    _named(ax, "bits", "test error, %")
    _legend(ax)


def draw_zeros(rows: list[dict], path: Path) -> bool:
    """Shares of zero inputs and errors by layer over the epochs, for rule local."""
    chosen = [row for row in rows if row["entry"]["rule"] == "local" and not _of_widths(row) and len(row["curve"]) > 1]
    chosen = [seeds[0] for seeds in group(chosen) if Entry(**seeds[0]["entry"]).label == "-"]
    return _draw(path, [(f"{row['entry']['data']}: {row['network']}", [row]) for row in chosen], _zeros)


def _zeros(ax, rows: list[dict]) -> None:
    (row,) = rows
    epochs, layers = range(1, len(row["curve"]) + 1), len(row["error_sparsity"][0])
    for layer in range(layers):
        shade = 0.3 + 0.7 * (layer + 1) / layers
        for name, what, colour, dash in (
            ("activation", "inputs", "#4477aa", "-"),
            ("error", "errors", "#aa3377", "--"),
        ):
            values = [100 * epoch[layer] for epoch in row[f"{name}_sparsity"]]
            ax.plot(epochs, values, dash, color=colour, alpha=shade, label=f"{what} of layer {layer}")
    _named(ax, "epoch", "zeros, %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize="x-small", ncols=2)


def draw_energy(rows: list[dict], path: Path) -> bool:
    """Accuracy along a training against the modelled energy spent so far."""
    return _draw(path, _by_study(rows, lambda row: "energy_mj_per_epoch" in row and not _of_widths(row)), _energy)


def _energy(ax, rows: list[dict]) -> None:
    for seeds in group(rows):
        curve = _mean_curve(seeds, "curve")
        spent = [seeds[0]["energy_mj_per_epoch"] * 1e-3 * (epoch + 1) for epoch in range(len(curve))]
        _line(ax, spent, curve, seeds[0]["entry"], ".")
    ax.set_xscale("log")
    _plain_numbers(ax.xaxis)
    _named(ax, "modelled energy so far, J", "test accuracy, %")
    _legend(ax)


PICTURES = {
    "curves.png": draw_curves,
    "bit_widths.png": draw_widths,
    "zeros.png": draw_zeros,
    "energy.png": draw_energy,
}


def draw(rows: list[dict], folder) -> list[Path]:
    """Writes the pictures that the rows allow; their paths."""
    return [Path(folder) / name for name, make in PICTURES.items() if make(rows, Path(folder) / name)]

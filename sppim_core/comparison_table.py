"""Tables of a comparison: text and Markdown."""

from statistics import mean

from sppim_core.study import FLOAT, Entry

_HEAD = (
    "training",
    "epochs",
    "seeds",
    "accuracy %",
    "against float",
    "zero activations",
    "zero errors",
    "MACs / image",
    "done",
    "mJ / epoch, modelled",
    "s / epoch, modelled",
)


def _without_seed(entry: dict) -> tuple:
    return tuple((name, str(value)) for name, value in entry.items() if name not in ("seed", "study"))


def group(rows: list[dict]) -> list[list[dict]]:
    """Rows that differ in the seed only, together."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(_without_seed(row["entry"]), []).append(row)
    return list(groups.values())


def float_accuracy(rows: list[dict], entry: dict) -> float | None:
    """Mean accuracy of float backpropagation of the same network, data, batch, epochs and augmentation."""
    same = ("data", "layers", "batch", "epochs", "flip", "crop", "train_images", "rate_steps")
    found = [
        row["accuracy"]
        for row in rows
        if row["entry"]["rule"] == FLOAT and all(row["entry"][name] == entry[name] for name in same)
    ]
    return mean(found) if found else None


def _shares(seeds: list[dict], name: str, part: slice) -> str:
    """Share of zeros in the last epoch: mean over the layers that skip them (C5)."""
    if name not in seeds[0]:
        return "-"
    return f"{mean(mean(row[name][-1][part] or row[name][-1]) for row in seeds):.1%}"


def _number(seeds: list[dict], name: str, scale: float, form: str) -> str:
    return form.format(mean(row[name] for row in seeds) * scale) if name in seeds[0] else "-"


def _share_done(seeds: list[dict]) -> str:
    """MACs that were neither skipped nor gated."""
    if "macs_per_image" not in seeds[0]:
        return "-"
    return f"{mean(row['macs_done_per_image'] / row['macs_per_image'] for row in seeds):.0%}"


def _accuracy(seeds: list[dict]) -> str:
    values = [100 * row["accuracy"] for row in seeds]
    spread = f" ({min(values):.2f}..{max(values):.2f})" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def cells(seeds: list[dict], rows: list[dict]) -> tuple:
    """One line of a table."""
    entry = seeds[0]["entry"]
    reference = float_accuracy(rows, entry)
    gap = None if reference is None or entry["rule"] == FLOAT else mean(r["accuracy"] for r in seeds) - reference
    name = "float backpropagation" if entry["rule"] == FLOAT else f"rule {entry['rule']}"
    label = Entry(**entry).label
    return (
        name + ("" if label == "-" else f", {label}"),
        str(entry["epochs"]),
        str(len(seeds)),
        _accuracy(seeds),
        "-" if gap is None else f"{100 * gap:+.2f}",
        _shares(seeds, "activation_sparsity", slice(1, None)),
        _shares(seeds, "error_sparsity", slice(None, -1)),
        _number(seeds, "macs_per_image", 1e-6, "{:.3g} M"),
        _share_done(seeds),
        _number(seeds, "energy_mj_per_epoch", 1, "{:.3g}"),
        _number(seeds, "seconds_per_epoch", 1, "{:.3g}"),
    )


def markdown(rows: list[dict]) -> str:
    """A table a study."""
    texts = []
    for study in dict.fromkeys(row["entry"]["study"] for row in rows):
        chosen = [row for row in rows if row["entry"]["study"] == study]
        networks = ", ".join(dict.fromkeys(f"{row['entry']['data']}, {row['network']}" for row in chosen))
        lines = [_HEAD, *(cells(seeds, rows) for seeds in group(chosen))]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
        lines.insert(1, tuple("-" * width for width in widths))
        padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
        table = "\n".join("| " + " | ".join(line) + " |" for line in padded)
        texts.append(f"## {study}: {networks}\n\n{table}\n")
    return "\n".join(texts)

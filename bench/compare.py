"""Ratios of our times to those of peers and to what this core can do: python bench/compare.py --help.

Each group of cases runs interleaved in one process; what counts is the ratio of minima. README.md says what the rows
are. With --check, a ratio under its floor makes the exit status 1; a group that misses is measured again first, since a
busy machine only ever makes a minimum larger."""

import argparse
import importlib.metadata
import json
import math
import pathlib
import platform
import subprocess
import sys

import groups
import native
import timing

from sppim_core import _core

# By row: peer, or "what / peer" where a row has several kinds; a number, or one by shape.
FLOORS: dict[int, dict] = {
    1: {
        "vpdpbusd": dict(zip(groups.DENSE_SHAPES, (0.92, 0.92, 0.90, 0.82))),
        "torch float32": 4.2,
        "torch _int_mm": 0.95,
        "geometric mean": 1.1,
        "numkong i8": 1.5,
    },
    2: {
        "vpdpwssd": 0.94,
        "torch float32": 2.3,
        "numpy float64": 4.2,
        "numpy int16": 60,
        "int16 x int16, 12 bits, exact at any K / 11 bits": 0.85,
    },
    3: {"L2 bandwidth": 0.75, "batch 1, int8 x int8 / numpy float32": 4},
    4: {"int8 x PoT / shift-add": 8, "int16 x PoT / shift-add": 4.5},
    5: {
        "uint8 x int8, 50% zeros / scipy CSR int32": 18,
        "uint8 x int8, 90% zeros / scipy CSR int32": 15,
        "int16 x int8, 50% zeros / scipy CSR int32": 14,
        "int16 x int8, 90% zeros / scipy CSR int32": 12,
        "int16 x int16, 50% zeros / scipy CSR int32": 9,
        "int16 x int16, 90% zeros / scipy CSR int32": 7.5,
    },
    6: {"dense or sparse": 0.95},
    7: {
        "gradient, 90% zeros in x / dense operands": 3.5,
        "gradient, 80% zeros in x, 90% zero rows in d / dense operands": 9,
    },
    8: {
        "step, batch 64, 16 bits, dense / torch autograd": 3.2,
        "step, batch 64, 16 bits, dense / torch by hand": 2.5,
        "step, batch 64, 16 bits, dense / torch LEP": 2.5,
        "step, batch 64, 16 bits, MNIST-like / torch autograd": 5,
        "step, batch 64, 16 bits, MNIST-like / torch by hand": 4,
        "step, batch 64, 8 bits, dense / torch autograd": 5,
        "step, batch 64, 8 bits, dense / torch LEP": 2.5,
        "step, batch 1, 16 bits, dense / torch LEP": 6,
        "step, batch 1, 8 bits, dense / torch LEP": 6,
        "step, batch 1, 16 bits, MNIST-like / torch LEP": 6,
        "step, batch 1, 8 bits, MNIST-like / torch LEP": 6,
    },
    9: {"int8 x int8, 20 bits, saturate / APyTypes": 100},
    10: {
        "int8 x int8, 2 threads / 1 thread": 1.9,
        "step, 2 threads, MNIST-like / 1 thread": 1.9,
        "step, 2 threads, MNIST-like, 2 busy processes / 1 thread": 1.0,
    },
    11: {"vpmaddwd": 0.80, "torch float32": 1.6},
}
AGAIN = 2
COLUMNS = ("row", "what", "shape", "ours us", "GMAC/s", "of peak", "peer", "peer us", "ratio", "floor", "ok")
PACKAGES = ("numpy", "scipy", "torch", "numkong", "apytypes", "threadpoolctl")


def floor_of(row: int, what: str, peer: str, shape: tuple[int, ...]) -> float | None:
    """The least ratio that FLOORS allows, None if there is none."""
    floors = FLOORS[row]
    floor = floors.get(f"{what} / {peer}", floors.get(peer))
    return floor.get(shape) if isinstance(floor, dict) else floor


def measure(group: groups.Group, seconds: float) -> dict[str, float]:
    """Least seconds of one unit of work of each case."""
    with timing.busy_processes(group.load):
        least = timing.interleaved({name: case.call for name, case in group.cases.items()}, seconds)
    return {name: least[name] / case.work for name, case in group.cases.items()}


def judge(group: groups.Group, least: dict[str, float]) -> list[dict]:
    """The lines of a group: one dictionary a ratio; ratio and ok are None where a case is missing.

    The rate and its part of the peak are those in C where that is measured, whichever case the ratio is of."""
    lines = []
    for ratio in group.ratios:
        line = dict(row=group.row, what=ratio.what, shape=group.shape, peer=ratio.peer)
        line["floor"] = floor_of(group.row, ratio.what, ratio.peer, group.shape)
        reasons = [group.missing[name] for name in (ratio.ours, *ratio.peers) if name in group.missing]
        ours = least.get(ratio.ours)
        if ours:
            in_c = least.get(groups.in_c(ratio.ours), ours)
            line |= dict(ours_us=ours * 1e6, gmac_s=group.macs / in_c * 1e-9 if group.macs else None)
            if group.peak in least:
                line["of_peak"] = least[group.peak] / in_c
        if reasons:
            line |= dict(missing="; ".join(reasons), ratio=None, ok=None)
        else:
            peer = min(least[name] for name in ratio.peers)
            line |= dict(peer_us=peer * 1e6, ratio=peer / ours)
            line["ok"] = None if line["floor"] is None else line["ratio"] >= line["floor"]
        lines.append(line)
    return lines


def run_group(group: groups.Group, seconds: float, again: int) -> list[dict]:
    """Measures a group; while a ratio misses its floor, up to `again` times more, the minima of all runs counting."""
    least = measure(group, seconds)
    lines = judge(group, least)
    while again and any(line["ok"] is False for line in lines):
        more = measure(group, seconds)
        least = {name: min(least[name], more[name]) for name in least}
        lines, again = judge(group, least), again - 1
    return lines


def geometric_mean(lines: list[dict]) -> list[dict]:
    """The line that sums up torch._int_mm over all types and shapes of row 1; none unless all are there."""
    ratios = [line["ratio"] for line in lines if line["row"] == 1 and line["peer"] == "torch _int_mm"]
    if not ratios or None in ratios:
        return []
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    floor = FLOORS[1]["geometric mean"]
    what = dict(row=1, what="torch _int_mm, all of row 1", shape=(), peer="geometric mean")
    return [what | dict(ratio=mean, floor=floor, ok=mean >= floor)]


def cells(line: dict) -> list[str]:
    """A line as text, column by column."""

    def number(key: str, form: str) -> str:
        return format(line[key], form) if line.get(key) is not None else "-"

    ok = {True: "yes", False: "NO", None: ""}[line["ok"]]
    return [
        str(line["row"]),
        line["what"],
        "-".join(map(str, line["shape"])),
        number("ours_us", ".1f"),
        number("gmac_s", ".1f"),
        number("of_peak", ".3g"),
        line["peer"],
        number("peer_us", ".1f"),
        number("ratio", ".3g"),
        number("floor", "g"),
        f"not checked: {line['missing']}" if "missing" in line else ok,
    ]


def table(lines: list[dict]) -> str:
    """All lines as a Markdown table, columns aligned."""
    rows = [list(COLUMNS)] + [cells(line) for line in lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def gcc_version() -> str | None:
    try:
        return subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_facts() -> dict[str, str]:
    """Model, family and model number of the first processor, as Linux tells them."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {"model name": platform.processor()}
    facts = dict(map(str.strip, line.split(":", 1)) for line in text.splitlines() if ":" in line)
    return {key: facts[key] for key in ("model name", "cpu family", "model") if key in facts}


def machine() -> dict:
    """What the figures depend on."""
    peaks = {}
    for name in native.PEAKS:
        try:
            call, macs = native.peak(name)
        except native.Unavailable as error:
            peaks[name] = str(error)
        else:
            peaks[name] = round(macs / timing.interleaved({name: call}, 0.1)[name] * 1e-9, 1)
    return {
        "cpu": cpu_facts(),
        "isa": _core.isa_default() or _core.isa_names()[-1],
        "peak_gmac_s": peaks,
        "python": platform.python_version(),
        "gcc": gcc_version(),
        "packages": {package: version(package) for package in PACKAGES},
    }


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the lines and the machine there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio is under its floor")
    parser.add_argument("--only", type=int, action="append", choices=groups.ROWS, metavar="ROW", help="1 to 11")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each group (default 1)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    facts, lines = machine(), []
    print(json.dumps(facts), file=sys.stderr)
    for row in options.only or groups.ROWS:
        for group in groups.of_row(row):
            lines += run_group(group, options.seconds, AGAIN if options.check else 0)
            print(f"row {row}, {group.shape}", file=sys.stderr)
        lines += geometric_mean(lines) if row == 1 else []
    print(table(lines))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "lines": lines}, indent=1) + "\n")
    missed = sum(line["ok"] is False for line in lines)
    checked = sum(line["ok"] is not None for line in lines)
    print(f"{checked} ratios checked, {missed} under their floors")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `sppim compare`."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from sppim_core import check, comparison, comparison_plot, comparison_table, study


def add_arguments(commands) -> None:
    names = ", ".join(study.built_in())
    command = commands.add_parser(
        "compare",
        help="train a list of networks by several rules and formats; tables and pictures",
        description="Carries out the trainings of one or more studies, writes their rows to DIR/results.jsonl, tables "
        "to DIR/results.md and pictures beside them. What is done is not repeated: call it again to go on after an "
        f"interruption. Studies: {names}, all (all of these), short (ten minutes), or a .toml file.",
    )
    add = command.add_argument
    add("studies", nargs="+", metavar="STUDY", help="name of a study, or a file with [[training]] tables")
    add("--out", required=True, metavar="DIR", help="folder of the results")
    add(
        "--data",
        action="append",
        default=[],
        metavar="WHERE",
        help="folder that holds the data sets by name (default: SPPIM_DATA), or NAME=WHERE for one of them "
        "(as `sppim train --data`); may be repeated",
    )
    add("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    add("--json", action="store_true", help="print the rows as JSON instead of tables")


def _entries(names: list[str]) -> list[study.Entry]:
    known = study.built_in()
    found: dict[tuple, study.Entry] = {}
    for name in names:
        if name == "all":
            chosen = [entry for entries in known.values() for entry in entries]
        elif name == "short":
            chosen = study.short()
        elif name.endswith(".toml"):
            chosen = study.from_toml(name)
        else:
            chosen = known[check.choice("STUDY", name, (*known, "all", "short"))]
        found |= {(entry.study, entry.key): entry for entry in chosen}
    return list(found.values())


def _sources(given: list[str]) -> dict[str, str]:
    sources = {"": os.environ["SPPIM_DATA"]} if os.environ.get("SPPIM_DATA") else {}
    for where in given:
        name, equals, path = where.partition("=")
        sources |= {name: path} if equals else {"": where}
    return sources


def _check_extras(entries: list[study.Entry]) -> None:
    """What would go wrong after hours goes wrong at once."""
    needed = {"matplotlib"} | {"torch" for entry in entries if entry.rule == study.FLOAT}
    for module in sorted(needed):
        if find_spec(module) is None:
            raise ImportError(f"sppim compare needs {module}: pip install 'sppim_core[compare]'")


def run(args) -> int:
    entries = _entries(args.studies)
    _check_extras(entries)
    rows = comparison.run_study(entries, _sources(args.data), args.out, check.integer("jobs", args.jobs, 1, 256))
    tables = comparison_table.markdown(rows)
    (Path(args.out) / "results.md").write_text(tables)
    pictures = comparison_plot.draw(rows, args.out)
    if args.json:
        print(json.dumps(rows))
    else:
        print(tables)
        print("pictures: " + ", ".join(map(str, pictures)))
    return 0

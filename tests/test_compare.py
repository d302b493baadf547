"""Studies: what they list, what is kept, what goes on after an interruption; and, marked slow, the short comparison."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from sppim_core import (
    DataError,
    cli,
    comparison,
    comparison_plot,
    comparison_table,
    data,
    float_baseline,
    study,
    workers,
)
from sppim_core.study import Entry

TOML = """
[[training]]
data = "digits"
layers = "16"
epochs = 3
[[training]]
data = "digits"
layers = "8c3m2"
epochs = 2
formats = { weight_bits = 10, activation_bits = 5, error_bits = 5, pot_levels = 2 }
[[training]]
data = "digits"
layers = "16"
epochs = 3
execution = "pipelined"
staleness = 1
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "little.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def test_comparison(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["compare", str(file), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["network"] for row in rows] == ["64-16-10", "8x8x1-8c3m2-10", "64-16-10"]
    assert "3/3  little" in printed.err and "epoch 3/3" not in printed.out
    for row in rows:
        assert row["accuracy"] == row["curve"][-1] > 0.5 and len(row["curve"]) == row["entry"]["epochs"]
        assert 0 < row["macs_done_per_image"] < row["macs_per_image"] and row["energy_mj_per_epoch"] > 0
    assert {path.name for path in out.iterdir()} >= {
        "results.jsonl",
        "results.md",
        "curves.png",
        "zeros.png",
        "energy.png",
    }
    assert not list(out.glob("*.checkpoint"))

    before = (out / "results.jsonl").read_bytes()
    assert cli.main(["compare", str(file), "--out", str(out)]) == 0  # nothing is done twice
    table = capsys.readouterr().out
    assert (out / "results.jsonl").read_bytes() == before
    assert table.startswith("## little: digits, 64-16-10, digits, 8x8x1-8c3m2-10") and "weight bits 10" in table


def test_a_row_is_what_a_trainer_gives(file, tmp_path):
    from sppim_core import Network, Trainer

    entry = study.from_toml(file)[1]
    row = comparison.run_entry(entry, {}, str(tmp_path))
    digits = data.load_digits()
    network = Network(entry.layer_formats((8, 8, 1), 10), seed=1)
    history = Trainer(network).fit(digits, 2)
    assert row["digest"] == network.digest() and row["accuracy"] == history.test_accuracy
    weights = network.weights(0)
    assert np.all(weights % 64 == 0) and np.abs(weights).max() <= 32576  # A7.5
    assert network.formats[0].activation_max == 31


def test_goes_on_after_a_kill(file, tmp_path):
    """A training that was interrupted continues from its checkpoint; a line cut short is written anew."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    entries = study.from_toml(file)
    rows = comparison.run_study(entries, {}, whole)
    broken.mkdir()
    line = (whole / "results.jsonl").read_text().splitlines()[0]
    (broken / "results.jsonl").write_text(line + "\n" + line[: len(line) // 2])
    again = comparison.run_study(entries, {}, broken)
    assert [row["digest"] for row in again] == [row["digest"] for row in rows]
    assert len((broken / "results.jsonl").read_text().splitlines()) == 3
    (broken / "results.jsonl").write_text("{}\n" + line + "\n")
    with pytest.raises(DataError, match="line 1 is not a result"):
        comparison.read_results(broken)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[training]]\nlayers = '8'\n", r"training\[0\]\.data is missing"),
        ("[[training]]\ndata='digits'\nlayers='8'\nformats=3\n", "formats must be a table, not 3"),
        ("training=[1]\n", r"training\[0\] must be a table, not 1"),
        ("[[training]]\ndata='digits'\nlayers='8'\nlayer='9'\n", r"training\[0\]\.layer is unknown"),
        ("[[training]]\ndata='digits'\nlayers='8q'\n", r"'8q' is not a layer"),
        ("[[training]]\ndata='digits'\nlayers='8'\nepochs=0\n", "epochs must be in 1..100000, not 0"),
        ("[[training]]\ndata='digits'\nlayers='8'\nrule='x'\n", "rule must be"),
        ("[[training]]\ndata='digits'\nlayers='8'\nformats={bits=1}\n", "formats must be"),
        ("[training]\n", "expected"),
        ("a = 1\n", "found a"),
        ("a = \n", "Invalid value"),
    ],
)
def test_broken_studies(text, message, tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        study.from_toml(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\xa4\n", "not a file of results"),
        (b"garbage\n", "line 1 is not a result"),
        (b"[1]\n", "line 1 is not a result"),
        (b'{"key": "1"}\n', r"line 1 is not a result \(accuracy, curve, network missing\)"),
        (b'{"key": [1], "network": "", "accuracy": 0, "curve": []}\n', "line 1 is not a result"),
    ],
)
def test_broken_results(content, message, tmp_path):
    (tmp_path / "results.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=f"results.jsonl: {message}"):
        comparison.read_results(tmp_path)


def test_float_backpropagation_is_that_of_the_same_batch():
    rows = [
        {"entry": asdict(Entry("s", "digits", "8", "float", batch=batch)), "accuracy": accuracy}
        for batch, accuracy in ((64, 0.5), (32, 0.75))
    ]
    for batch, accuracy in ((64, 0.5), (32, 0.75), (16, None)):
        assert comparison_table.float_accuracy(rows, asdict(Entry("s", "digits", "8", batch=batch))) == accuracy


def test_a_result_without_its_end_is_left_out(tmp_path):
    """It will be cut off, so it does not count as done."""
    (tmp_path / "results.jsonl").write_text('{"key": "1", "network": "", "accuracy": 0, "curve": []}')
    assert comparison.read_results(tmp_path) == {}


def test_a_broken_text(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="broken.toml: 'utf-8' codec"):
        study.from_toml(path)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"layers": "8c9p0"}, "digits, 8c9p0 local, -: .*larger than images"),
        ({"rule": "bp", "execution": "pipelined"}, "digits, 8 bp, .*is not possible with rule 'bp'"),
        ({"formats": {"product_bits": 99}}, "product bits 99: product_bits must be in 2..16"),
    ],
)
def test_impossible_trainings_are_named_before_the_first(wrong, message, tmp_path):
    entries = [Entry("s", "digits", "8"), Entry(**{"study": "s", "data": "digits", "layers": "8"} | wrong)]
    with pytest.raises(DataError, match=message):
        comparison.run_study(entries, {}, tmp_path)
    assert not (tmp_path / "results.jsonl").exists()


def test_whoever_stops_interrupts_all_workers():
    start = time.monotonic()
    with closing(workers.results(time.sleep, [(0,), (60,), (60,), (60,)], 2)) as finished:
        assert next(finished) is None
    assert time.monotonic() - start < 30


def test_a_worker_that_dies():
    with pytest.raises(ChildProcessError, match="killed, or ran out of memory"):
        list(workers.results(os._exit, [(1,)], 1))


def test_refusals(file, tmp_path, capsys):
    for arguments, message in (
        (["nothing"], "STUDY must be"),
        ([str(tmp_path / "no.toml")], "No such file"),
        (["mnist", "--data", str(tmp_path)], "no data set 'mnist'"),
        ([str(file), "--jobs", "0"], "jobs must be in 1..256, not 0"),
    ):
        pytest.importorskip("torch", reason="the built-in studies need torch") if arguments[0] == "mnist" else None
        assert cli.main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_entries_have_keys_of_their_own():
    entries = [entry for group in study.built_in().values() for entry in group]
    different = {json.dumps(asdict(entry) | {"study": ""}, sort_keys=True) for entry in entries}
    assert len({entry.key for entry in entries}) == len(different)
    for entry in entries:
        entry.layer_formats({"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[entry.data], 10)


def test_float_backpropagation_learns(digits):
    pytest.importorskip("torch", reason="torch is not installed: float backpropagation is not tested")
    for hidden in ("32", "8c3m2,8c3a2"):
        formats = Entry("s", "digits", hidden).layer_formats((8, 8, 1), 10)
        history = float_baseline.train(digits, formats, 12, rate_shift=lambda epoch: 0)
        assert history[-1].test_accuracy > 0.85
        again = float_baseline.train(digits, formats, 1, rate_shift=lambda epoch: 0)
        assert again[0].test_accuracy == history[0].test_accuracy


def test_float_backpropagation_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'sppim_core\[compare\]'"):
        float_baseline.build(Entry("s", "digits", "8").layer_formats((8, 8, 1), 10))


def _unpacked(tmp_path) -> dict[str, str]:
    root = os.environ.get("SPPIM_DATA")
    if not root or not (Path(root) / "unpack-cifar10").is_file():
        pytest.skip("SPPIM_DATA names no folder with MNIST and unpack-cifar10")
    subprocess.run([sys.executable, Path(root) / "unpack-cifar10", tmp_path], check=True, capture_output=True)
    return {"": root, "cifar10": str(tmp_path / "cifar-10-batches-bin")}


@pytest.mark.slow
def test_short_comparison(tmp_path):
    """Shortened forms of the first studies, beside float backpropagation."""
    pytest.importorskip("torch", reason="torch is not installed: make compare-short installs it")
    entries = study.short()
    rows = comparison.run_study(entries, _unpacked(tmp_path / "cifar"), tmp_path / "out", jobs=2)
    print(comparison_table.markdown(rows))
    assert comparison_plot.draw(rows, tmp_path / "out")
    reached = {(row["entry"]["data"], row["entry"]["rule"]): row["accuracy"] for row in rows}
    assert reached["mnist", "local"] >= max(0.97, reached["mnist", "float"] - 0.005)
    assert reached["cifar10", "local"] >= 0.55

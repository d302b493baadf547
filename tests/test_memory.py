"""Out of memory is an exception and leaves nothing behind; many calls leak nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sppim_core import Chip, Network, Schedule
from sppim_core import schedule as schedules

ROOT = Path(__file__).parent.parent
SOURCES = sorted(str(path) for path in (ROOT / "csrc").rglob("*.c"))


@pytest.mark.skipif(not (SOURCES and shutil.which("gcc")), reason="needs the sources and gcc")
def test_every_allocation_fails_once(tmp_path):
    program = tmp_path / "out_of_memory"
    sanitize = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    renamed = ["-Dmalloc=failing_malloc", "-Dcalloc=failing_calloc", "-Daligned_alloc=failing_aligned_alloc"]
    command = ["gcc", "-std=c11", *sanitize, *renamed, "-I", ROOT / "csrc/include", ROOT / "tests/c/out_of_memory.c"]
    subprocess.run([*command, *SOURCES, "-o", program, "-pthread"], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    network, schedule, products = map(int, result.stdout.split())
    assert network > 50 and schedule == 2 and products >= 10


@pytest.mark.skipif(not (SOURCES and shutil.which("gcc")), reason="needs the sources and gcc")
def test_an_interrupted_tick_leaves_nothing_behind(tmp_path):
    program = tmp_path / "interrupted"
    command = ["gcc", "-std=c11", "-O1", "-I", ROOT / "csrc/include", ROOT / "tests/c/interrupted.c"]
    subprocess.run([*command, *SOURCES, "-o", program, "-pthread"], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[1]) > 300


def test_a_network_too_large_for_memory():
    code = """if True:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        from sppim_core import Network
        try:
            Network([65535, 65535, 2])
        except MemoryError as error:
            print(error, len(Network([4, 3, 2]).digest()))"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests")
    assert result.stdout == "network: out of memory 64\n", result.stderr


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_many_calls_leak_nothing():
    network = Network([30, 20, 4], batch=8)
    x, labels = np.ones((8, 30), np.int8), np.zeros(8, np.int32)
    shapes, chip = schedules.map_network(network, Chip.load()), Chip.load()

    def use():
        network.tick(x, labels)
        network.scores(x)
        network.counters()
        network.digest()
        Schedule(shapes, chip).add_batch(np.ones((2, 8), np.uint32), np.ones((2, 8), np.uint32))
        Network([30, 20, 4])

    for _ in range(500):
        use()
    before = resident_bytes()
    for _ in range(4000):
        use()
    assert resident_bytes() - before < 1 << 20

"""Builds native.c with gcc and calls it: peaks of this core, its second-level cache, a shift-add loop."""

import ctypes
import functools
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

PEAKS = ("vpdpbusd", "vpdpwssd", "vpmaddwd")
L2_BYTES = 256 * 1024


class Unavailable(RuntimeError):
    """The yardsticks cannot be had here; the text says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """native.c as a loaded library, built once a process."""
    gcc = shutil.which("gcc")
    if gcc is None:
        raise Unavailable("gcc is not installed")
    source = pathlib.Path(__file__).with_name("native.c")
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "native.so"
        done = subprocess.run(
            [gcc, "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-o", target, source],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Unavailable(f"gcc cannot build {source.name}: {done.stderr.strip()}")
        loaded = ctypes.CDLL(str(target))
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    signatures = dict.fromkeys((f"peak_{name}" for name in PEAKS), [long])
    signatures |= dict.fromkeys(("shift_add_s8", "shift_add_s16"), [pointer, pointer, long, long, long, pointer])
    signatures["read_bytes"] = [pointer, long, long]
    for name, types in signatures.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = types, long
    return loaded


def peak(instruction: str, iterations: int = 20000):
    """A callable that runs independent chains of vpdpbusd, vpdpwssd (zmm) or vpmaddwd + vpaddd (ymm), and its MACs."""
    function = getattr(library(), f"peak_{instruction}")
    macs = function(1) * iterations
    if macs == 0:
        raise Unavailable(f"this processor has no {instruction}")
    return functools.partial(function, iterations), macs


def l2_read(rounds: int = 8):
    """A callable that reads a buffer of 256 KiB, which fits the second-level cache only, and the bytes it reads."""
    memory = np.zeros(L2_BYTES + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    buffer = memory[start : start + L2_BYTES]
    read = library().read_bytes
    if read(buffer.ctypes.data, L2_BYTES, 1) == 0:
        raise Unavailable("this processor has no AVX2")
    return lambda: read(buffer.ctypes.data, L2_BYTES, rounds), L2_BYTES * rounds


def shift_add(x: np.ndarray, codes: np.ndarray):
    """A callable that multiplies x (m, k), int8 or int16, by PoT codes (k, n) with shifts and additions in 32-bit lanes
    (sums modulo 2^32); it returns the product, int32 (m, n), the same array each time."""
    function = getattr(library(), {"int8": "shift_add_s8", "int16": "shift_add_s16"}[x.dtype.name])
    x, codes = np.ascontiguousarray(x), np.ascontiguousarray(codes, np.uint8)
    out = np.empty((len(x), codes.shape[1]), np.int32)
    addresses = x.ctypes.data, codes.ctypes.data, *x.shape, codes.shape[1], out.ctypes.data

    def call():
        if function(*addresses) == 0:
            raise Unavailable("no AVX2, or columns not a multiple of 32")
        return out

    call.keep = x, codes
    call()
    return call

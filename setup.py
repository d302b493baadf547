"""Builds the one extension module; everything else about the package is in pyproject.toml."""

import os
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup


def require_compiler() -> None:
    """One clear line instead of a page of build output where something is missing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = [Path(sysconfig.get_paths()["include"]), Path(sys.prefix) / "include"]
    headers += [Path(folder) for folder in os.environ.get("CPATH", "").split(os.pathsep) if folder]
    missing = []
    if not (shutil.which(os.environ.get("CC", compiler).split()[0]) or shutil.which("gcc")):
        missing.append("a C compiler (Debian: apt-get install gcc libc6-dev)")
    if not any((folder / "Python.h").exists() for folder in headers):
        missing.append("Python's headers (Debian: apt-get install python3-dev)")
    if missing:
        sys.exit("sppim_core is built from C sources and needs " + " and ".join(missing))


require_compiler()
debug = os.environ.get("SPPIM_DEBUG") == "1"
flags = ["-std=c11", "-fvisibility=hidden"]
flags += ["-O1", "-g", "-UNDEBUG", "-fno-wrapv"] if debug else ["-O3", "-g0"]
flags += os.environ.get("SPPIM_CFLAGS", "").split()
core = Extension(
    "sppim_core._core",
    sources=["sppim_core/_core.pyx", *sorted(glob("csrc/*.c")), *sorted(glob("csrc/*/*.c"))],
    depends=[*glob("csrc/*.h"), *glob("csrc/*/*.h"), "sppim_core/sppim.pxd"],
    include_dirs=["csrc/include"],
    extra_compile_args=flags,
    extra_link_args=os.environ.get("SPPIM_LDFLAGS", "").split() + ["-pthread"],
)
setup(ext_modules=cythonize([core], language_level=3))

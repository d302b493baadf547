"""What is shipped: sdist, wheel, header, exports; and the C sources on their own."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sppim_core
from sppim_core import _core

ROOT = Path(__file__).parent.parent
SOURCES = sorted(str(path) for path in (ROOT / "csrc").rglob("*.c"))
STRICT = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]

pytestmark = pytest.mark.skipif(not SOURCES, reason="not a source tree")


def run(*command, cwd=ROOT / "tests", **options):
    """Standard output of a command, not run in ROOT, where Python would find the sources before the package."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, **options)
    assert result.returncode == 0, result.stderr or result.stdout
    return result.stdout


def compiler(name: str) -> str:
    path = shutil.which(name)
    if not path:
        pytest.skip(f"no {name} here")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the sdist as an installer would, and the sdist."""
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPPIM_")}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, env=clean)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_wheel_is_built_from_the_sdist(wheel, tmp_path):
    built, sdist = wheel
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {
        "csrc/fixed.h",
        "csrc/x86/avx2.c",
        "csrc/include/sppim.h",
        "tests/slow.py",
        "docs/arithmetic.md",
        "examples/embed.c",
        "bench/test_bench.py",
        "Makefile",
        "sppim_core/_core.pyx",
        "LICENSE",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path)
        names = set(archive.namelist())
    assert {
        "sppim_core/include/sppim.h",
        "sppim_core/chips/ref-b.toml",
        "sppim_core/py.typed",
        "sppim_core/_core.pyi",
        "sppim_core/sppim.pxd",
    } <= names
    assert not [name for name in names if name.startswith("tests")]
    code = (
        "import sppim_core, pathlib; n = sppim_core.Network([4, 3, 2]); print(sppim_core.__file__, n.digest(), "
        "pathlib.Path(sppim_core.get_include(), 'sppim.h').exists())"
    )
    location, digest, header = run(
        sys.executable, "-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    ).split()
    assert Path(location).is_relative_to(tmp_path)
    assert digest == sppim_core.Network([4, 3, 2]).digest() and header == "True"


def test_exports():
    symbols = run(compiler("nm"), "-D", "--defined-only", _core.__file__).split()[2::3]
    assert [name for name in symbols if not name.startswith(("PyInit_", "__asan", "__odr_asan", "__ubsan"))] == []


@pytest.mark.parametrize(
    "language",
    [
        ["gcc", "-std=c99", "-xc"],
        ["gcc", "-std=c11", "-xc"],
        ["g++", "-std=c++17", "-xc++"],
        ["clang", "-std=c11", "-xc"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_header_alone(language, tmp_path):
    name, *options = language
    source = tmp_path / "use.c"
    source.write_text('#include "sppim.h"\nint main(void) { return sppim_abi_version() != SPPIM_ABI_VERSION; }\n')
    run(compiler(name), *options, *STRICT, "-I", ROOT / "csrc/include", "-fsyntax-only", source)


def compile_object(source, out, *options):
    run(compiler("gcc"), "-std=c11", *options, "-I", ROOT / "csrc/include", "-c", source, "-o", out)
    return out


def build_embed(program, *options, cc="gcc"):
    """examples/embed.c with the whole core."""
    sources = [ROOT / "examples/embed.c", *SOURCES]
    run(compiler(cc), "-std=c11", *options, "-I", ROOT / "csrc/include", *sources, "-o", program, "-pthread")
    return program


def test_sources_without_a_warning(tmp_path):
    for source in SOURCES:
        compile_object(source, tmp_path / "o.o", "-O2", *STRICT)


def test_one_result_at_every_optimization_level(tmp_path):
    """examples/embed.c at -O0 and -O3 (and clang), at every instruction-set level: one hash."""
    hashes = set()
    builds = [("gcc", "-O0"), ("gcc", "-O3")] + ([("clang", "-O2")] if shutil.which("clang") else [])
    for cc, level in builds:
        program = build_embed(tmp_path / f"embed{cc}{level}", level, "-Wall", "-Wextra", "-Werror", cc=cc)
        for isa in _core.isa_names():
            hashes.add(run(program, env=os.environ | {"SPPIM_ISA": isa}).split("hash ")[1])
    assert len(hashes) == 1


def test_threads_without_a_race(tmp_path):
    """examples/embed.c on four threads under the thread sanitizer, which cannot stand address randomization."""
    if subprocess.run([compiler("setarch"), "-R", "true"], capture_output=True).returncode:
        pytest.skip("setarch -R is not permitted here")
    watched = build_embed(tmp_path / "embed_tsan", "-O1", "-g", "-fsanitize=thread")
    plain = build_embed(tmp_path / "embed", "-O2")
    assert run(compiler("setarch"), "-R", watched, 4) == run(plain, 1)


def test_nothing_newer_outside_the_dispatched_sources(tmp_path):
    """No AVX registers in what every machine runs; a Nehalem (emulated, if qemu is here) gives the same bits."""
    for source in SOURCES:
        if "/x86/" not in source:
            compiled = compile_object(source, tmp_path / "o.o", "-O3")
            assert "%ymm" not in run(compiler("objdump"), "-d", compiled), source
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if not qemu:
        pytest.skip("no qemu-x86_64 here: not run on an emulated Nehalem")
    program = build_embed(tmp_path / "embed", "-O2")
    old = run(qemu, "-cpu", "Nehalem", program)
    assert old.startswith("isa ref") and old.split("hash ")[1] == run(program).split("hash ")[1]


def test_quickstart():
    assert "test accuracy 9" in run(sys.executable, ROOT / "examples/quickstart.py")


def test_sources_say_that_they_are_not_built(tmp_path):
    shutil.copytree(ROOT / "sppim_core", tmp_path / "sppim_core", ignore=shutil.ignore_patterns("*.so"))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import sppim_core"
    result = subprocess.run([sys.executable, "-S", "-c", code, tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert f"sppim_core is not built in {tmp_path}" in result.stderr


def test_import_is_light():
    heavy = ("sklearn", "matplotlib", "pandas", "torch", "scipy.sparse", "scipy.optimize")
    code = f"import sys, sppim_core; print([name for name in {heavy} if name in sys.modules])"
    assert run(sys.executable, "-c", code).strip() == "[]"

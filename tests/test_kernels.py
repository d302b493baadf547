"""Every instruction-set level computes what "ref" computes (tests/c/kernels.c), here and on emulated machines; and the
loops that do the work keep their sums in registers."""

import platform
import re
import shutil
import subprocess
from collections import Counter

import pytest
from test_package import ROOT, SOURCES, compile_object, compiler, run

from sppim_core import _core

PROGRAM = ROOT / "tests/c/kernels.c"
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(not SOURCES, reason="not a source tree")


def build(program, *options, cc="gcc", root=ROOT):
    sources = [PROGRAM, *sorted((root / "csrc").rglob("*.c"))]
    includes = ["-I", root / "csrc/include", "-I", root / "csrc"]
    run(compiler(cc), "-std=c11", *options, *includes, *sources, "-o", program, "-pthread")
    return program


def emulator(name: str) -> str:
    path = shutil.which(f"{name}-static") or shutil.which(name)
    if not path:
        pytest.skip(f"no {name}-static here")
    return path


def levels(output: str) -> list[str]:
    return output.splitlines()[0].split()[1:]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("kernels") / "kernels", "-O2", "-Wall", "-Wextra", "-Werror")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_level_gives_the_bits_of_ref(program, seed):
    output = run(program, seed)
    assert levels(output) == list(_core.isa_names())
    assert int(output.split("checks ")[1]) >= 20000 * (len(levels(output)) - 1)


def test_every_level_under_sanitizers(tmp_path):
    assert levels(run(build(tmp_path / "kernels", "-O1", *SANITIZE))) == list(_core.isa_names())


@pytest.mark.parametrize(("processor", "usable"), [("Nehalem", ["ref"]), ("Haswell", ["ref", "avx2"])])
def test_older_processors(program, processor, usable):
    """A level is not usable where its instructions are missing, and uses no others: qemu stops at those."""
    emulated = emulator("qemu-x86_64")
    if platform.machine() != "x86_64":
        pytest.skip("the program is not one for x86-64")
    assert levels(run(emulated, "-cpu", processor, program)) == usable


def test_aarch64(tmp_path):
    qemu = emulator("qemu-aarch64")
    arm = build(tmp_path / "kernels", "-O2", "-static", cc="aarch64-linux-gnu-gcc")
    assert levels(run(qemu, arm)) == ["ref"] + (["neon"] if (ROOT / "csrc/arm/neon.c").exists() else [])


# ---- the program finds bugs ------------------------------------------------------------------------------------------

# Level that the bug is in, file, what it replaces, by what.
BUGS = [
    ("avx2", "x86/avx2.c", "i < rows ? load(x + row[i] * ld)", "i <= rows ? load(x + row[i] * ld)"),
    ("avx2", "x86/avx2.c", "_mm256_set1_epi16(INT16_MAX));", "_mm256_set1_epi16(INT16_MAX - 1));"),
    ("avx2", "x86/avx2.c", "if (accumulator.bits == 32)", "if (accumulator.bits == 33)"),
    ("avx2", "x86/avx2.c", "steps - s >= 8", "steps - s >= 7"),
    ("avx2", "x86/avx2.c", "_mm256_max_epi16(a, b)", "_mm256_max_epi16(a, a)"),
    ("avx2", "x86/avx2.c", "x.negatives > i ? (x.negatives - i) / 4 : 0", "x.negatives / 4"),
    ("avx2", "x86/avx2.c", "4 * steps, 128)", "4 * steps, 255)"),
    ("avx2", "x86/avx2.c", "to->start ? to->start + 16 * h : out", "to->start ? to->start : out"),
    ("avx2", "x86/avx2.c", "_mm256_cmpeq_epi32(most, bound)) == 8", "_mm256_cmpeq_epi32(most, bound)) >= 7"),
    ("avx2", "x86/avx2.c", "draw32(u, first / 2 + 1)", "draw32(u, (first + 1) / 2 + 1)"),
    ("avx2", "x86/avx2.c", "p % 2 * SPPIM_PANEL,", "p % 2 * SPPIM_PANEL / 2,"),
    ("avx2", "x86/avx2.c", "_mm256_adds_epi16(w, c->half)", "_mm256_add_epi16(w, c->half)"),
    ("avx2", "x86/avx2.c", "_mm256_cmpgt_epi16(wide_y,", "_mm256_cmpeq_epi16(wide_y,"),
    ("avx512", "x86/avx512.c", "_mm512_set1_epi16(255)", "_mm512_set1_epi16(127)"),
    ("avx512", "x86/avx512.h", "most, c->highest) == 0", "most, c->highest) != 1"),
    ("avx512", "x86/avx512.h", "negate(high, 4 * groups);", ""),
    (
        "avx512",
        "x86/avx512.h",
        "size_t)pair[i];\n        __m512i next[2]",
        "size_t)pair[i / 2];\n        __m512i next[2]",
    ),
    ("avx512", "x86/avx512.h", "_mm512_set1_epi64(hi), one", "_mm512_set1_epi64(hi - 1), one"),
    ("avx512", "x86/avx512.h", "whole = count / 64 * 64", "whole = count / 64 * 64 - (count > 64 ? 64 : 0)"),
    ("avx512", "x86/avx512.h", "tb, c->low_words, ta, c->words_down", "ta, c->low_words, ta, c->words_down"),
    (
        "avx512",
        "x86/avx512.h",
        "next[v] = _mm512_subs_epi16(_mm512_loadu_si512(w + 32 * v), q[v])",
        "next[v] = _mm512_sub_epi16(_mm512_loadu_si512(w + 32 * v), q[v])",
    ),
    ("vnni", "x86/vnni.c", "_mm512_add_epi16(places, half)", "places"),
    ("vnni", "x86/vnni.c", "_mm512_srli_epi16(words, 8)", "_mm512_srai_epi16(words, 7)"),
    ("avx2", "ref.c", "saturated += rounded > hi;\n        y[c]", "saturated += rounded >= hi;\n        y[c]"),
    ("avx2", "ref.c", "value * quads[sppim_in_quads(k, lane)]", "(int8_t)(value * quads[sppim_in_quads(k, lane)])"),
    ("avx2", "ref.c", "i < rows ? x[row[i] * ld + c] : 0;\n}", "i < rows ? x[row[i] * ld + c] : 1;\n}"),
]


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Objects of all sources, so that a planted bug costs the compilation of one file."""
    folder = tmp_path_factory.mktemp("objects")
    for source in [PROGRAM, *map(ROOT.joinpath, SOURCES)]:
        compile_one(source, folder / object_name(source))
    return folder


def object_name(source) -> str:
    return str(source.relative_to(ROOT)).replace("/", "_") + ".o"


def compile_one(source, out, root=ROOT):
    includes = ["-I", root / "csrc/include", "-I", root / "csrc"]
    run(compiler("gcc"), "-std=c11", "-O1", *includes, "-c", source, "-o", out)


def planted(tmp_path, objects, file, old, new):
    """The program with one bug. A changed header is compiled by the sources beside it."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    text = (tmp_path / "csrc" / file).read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
    (tmp_path / "csrc" / file).write_text(text.replace(old, new))
    changed = {"x86/avx512.h": ["x86/avx512.c", "x86/vnni.c"]}.get(file, [file])
    for name in changed:
        compile_one(tmp_path / "csrc" / name, tmp_path / object_name(ROOT / "csrc" / name), tmp_path)
    linked = [tmp_path / path.name if (tmp_path / path.name).exists() else path for path in sorted(objects.iterdir())]
    run(compiler("gcc"), *linked, "-o", tmp_path / "kernels", "-pthread")
    return tmp_path / "kernels"


@pytest.mark.parametrize(("level", "file", "old", "new"), BUGS, ids=[f"{bug[1]}: {bug[3]}" for bug in BUGS])
def test_planted_bugs_are_found(tmp_path, objects, level, file, old, new):
    if level not in _core.isa_names():
        pytest.skip(f"level {level} is not usable here")
    result = subprocess.run([planted(tmp_path, objects, file, old, new)], capture_output=True, text=True)
    assert result.returncode == 1 and ", level " in result.stdout, result.stdout


# ---- registers -------------------------------------------------------------------------------------------------------

HOT_KERNELS = (
    "product_s8 product_s16 product_sparse_s8 product_sparse_s16s8 product_sparse_s16 update_s16 update_outer_s16"
)
HOT = re.compile(f"({'|'.join(HOT_KERNELS.split())})_")
MULTIPLIES = {"vpdpbusd", "vpdpwssd", "vpmaddwd", "vpmulld"}
PADDING = ("nop", "xchg", "data16", "cs")
INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")


def disassemble(compiled):
    """{function: [(address, mnemonic, operands)]}"""
    functions, body = {}, []
    for line in run(compiler("objdump"), "-d", "--no-show-raw-insn", compiled).splitlines():
        if found := re.match(r"[0-9a-f]+ <(\w+)[.\w]*>:", line):
            body = functions.setdefault(found[1], [])
        elif found := INSTRUCTION.match(line):
            body.append((int(found[1], 16), found[2], found[3]))
    return functions


def unreached(graph, body):
    return set(graph).difference([body[0][0]], *(following for _, following in graph.values()))


def blocks(body):
    """{address of a basic block: (its instructions, addresses of those that may follow)}"""
    inside = {address for address, _, _ in body}
    jumps = {a: int(args.split()[0], 16) for a, name, args in body if name[0] == "j" and args[0] not in "*"}
    jumps = {a: target for a, target in jumps.items() if target in inside}
    after = {a: following for (a, _, _), (following, _, _) in zip(body, body[1:])}
    starts = {body[0][0], *jumps.values(), *(after[a] for a, name, _ in body if name[0] in "jrn" and a in after)}
    result = {}
    for instruction in body:
        address, name, _ = instruction
        if address in starts:
            current = result.setdefault(address, ([], []))
        current[0].append(instruction)
        if address in jumps:
            current[1].append(jumps[address])
        if name not in ("jmp", "notrack", "ret") and after.get(address) in starts:
            current[1].append(after[address])
    for address in unreached(result, body):
        if all(name.startswith(PADDING) for _, name, _ in result[address][0]):
            del result[address]
    cases = unreached(result, body)
    for instructions, following in result.values():  # a switch leads where nothing else does
        _, name, args = instructions[-1]
        if name in ("jmp", "notrack") and "*" in args and "(%rip)" not in args:
            following += cases
    return result


def dominators(graph, entry):
    dominating = {node: set(graph) for node in graph} | {entry: {entry}}
    before = {node: [other for other in graph if node in graph[other][1]] for node in graph}
    changed = True
    while changed:
        changed = False
        for node in graph:
            if node == entry or not before[node]:
                continue
            found = set.intersection(*(dominating[other] for other in before[node])) | {node}
            changed |= found != dominating[node]
            dominating[node] = found
    return dominating, before


def find_loops(body):
    """Instructions of each loop, and whether it is an innermost one. A loop is a jump back to a block that every path
    to the jump crosses. Left out: loops inside it, and what surrounds a call, where nothing can stay in registers."""
    graph = blocks(body)
    dominating, before = dominators(graph, body[0][0])
    loops = {}
    for node, (_, following) in graph.items():
        for head in following:
            if head in dominating[node]:
                members, pending = loops.setdefault(head, {head}), [node]
                while pending:
                    member = pending.pop()
                    if member not in members:
                        members.add(member)
                        pending += before[member]
    for head, members in loops.items():
        inside = [loops[other] for other in loops if other != head and other in members]
        own = sorted(members.difference(*inside))
        hot = [graph[member][0] for member in own if "call" not in [name for _, name, _ in graph[member][0]]]
        yield [instruction for block in hot for instruction in block], not inside


def stack_accesses(body, loop, stores_only):
    """Moves between vector registers and the stack. An operand with an index is a table, not a spilled register."""
    framed = any(name == "mov" and args == "%rsp,%rbp" for _, name, args in body)
    place = r"\(%r[sb]p\)" if framed else r"\(%rsp\)"
    for address, name, args in loop:
        if re.search(place, args) and re.search(r"%[yz]mm", args):
            stored = re.search(place + "$", args)
            if stored or not stores_only:
                yield f"{address:x}: {name} {args}"


@pytest.mark.parametrize("name", ["vnni", "avx512", "avx2"])
def test_hot_loops_spill_nothing(name, tmp_path):
    if "avx2" not in _core.isa_names():
        pytest.skip("not an x86-64 with AVX2")
    compiled, spilled, seen = tmp_path / "o.o", [], Counter()
    compile_object(ROOT / f"csrc/x86/{name}.c", compiled, "-O3")
    for function, body in disassemble(compiled).items():
        if not HOT.match(function):
            continue
        for loop, innermost in find_loops(body):
            hot = innermost or function.startswith("update_")  # which looks for wide gradients in a loop inside
            if not hot or MULTIPLIES.isdisjoint(mnemonic for _, mnemonic, _ in loop):
                continue
            seen[function.removesuffix(f"_{name}")] += 1
            # the constants of the update alone are more than the 16 registers of AVX2: those it may load
            found = list(stack_accesses(body, loop, stores_only=name == "avx2" and function.startswith("update_")))
            if found:
                spilled.append(f"{function}, loop at {loop[0][0]:x}: {len(found)}, first {found[0]}")
    assert set(seen) == set(HOT_KERNELS.split())
    assert seen["product_s8"] >= 5 and seen["product_s16"] >= 5, f"a loop for each size of a tile is expected: {seen}"
    assert not spilled, "\n".join(spilled)

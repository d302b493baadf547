#!/bin/sh
# Runs the test suite on a build with sanitizers: tools/sanitize.sh VENV FLAGS
#
# The build lies in build/sanitized, apart from the one that is installed. Signed overflow is undefined here as C has it
# (Python's own flags define it), asserts are on. Left out: tests of packages and of
# memory, which look at other builds, of how fast Ctrl-C is answered, which this one slows down, and those that fork.
set -eu
venv=$1 flags=$2
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$root" && cd "$venv/bin" && pwd)/python
source=$root/build/sanitized/source target=$root/build/sanitized/site
rm -rf "$root/build/sanitized"
mkdir -p "$source"
cp -r "$root/csrc" "$root/sppim_core" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$source"
rm -f "$source"/sppim_core/*.so "$source"/sppim_core/_core.c
SPPIM_DEBUG=1 SPPIM_CFLAGS="$flags" SPPIM_LDFLAGS="$flags" "$python" -m pip install -q --no-deps --target "$target" "$source"
nm -D "$target"/sppim_core/_core*.so | grep -q __asan_init || { echo "the build has no sanitizer" >&2; exit 1; }
cd "$root/tests"
real=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
PYTHONPATH="$target:$("$python" -c 'import site; print(site.getsitepackages()[0])')" \
PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
SPPIM_EXPECT="$target" LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    "$real" -m pytest -q -s -p no:cacheprovider -m "not slow" -k "not fork and not test_ctrl_c" test_arithmetic.py test_network.py test_schedule.py \
    test_bad_input.py test_products.py test_convolution.py test_convolutional.py test_layers.py test_chip.py test_data.py test_data_idx.py test_train.py test_interrupt.py

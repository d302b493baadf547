#!/bin/sh
# Makes a virtual environment and installs the package into it: tools/venv.sh PYTHON VENV REQUIREMENT...
#
# A bare Debian has python3 without pip and without Python.h. Where they are missing and apt-get is there, the
# Debian packages that hold them are unpacked into VENV/debian: no root needed, nothing on the system changes.
set -eu
python=$1 venv=$2
shift 2

unpack() { # unpack PACKAGE...: the Debian packages' files, below VENV/debian
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    mkdir -p "$venv/debian/packages"
    (cd "$venv/debian/packages" && apt-get -q -o APT::Sandbox::User=root download "$@" >/dev/null && for file in *.deb; do dpkg -x "$file" ..; done && rm ./*.deb)
}

missing() { # missing WHAT PACKAGE...: the last word where unpacking did not help
    echo "$1 is missing; on Debian or Ubuntu: apt-get update && apt-get install python3-venv python3-dev" >&2
    exit 1
}

command -v "$python" >/dev/null || { echo "no $python; set PYTHON=..., 3.11 or newer" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $python is older" >&2; exit 1; }
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ ! -x "$venv/bin/pip" ]; then
    echo "making $venv"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$venv"
    else
        "$python" -m venv --without-pip "$venv"
        unpack python3-pip-whl || missing pip
        wheel=$(ls "$venv"/debian/usr/share/python-wheels/pip-*.whl)
        "$venv/bin/python" "$wheel/pip" install -q "$wheel"
    fi
fi

headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
if [ ! -e "$headers/Python.h" ]; then
    if [ ! -e "$venv/include/Python.h" ]; then # builds in a virtual environment look there, too
        unpack "libpython$version-dev" || missing "Python.h"
        cp -r "$venv/debian/usr/include/." "$venv/debian/usr/include/python$version/." "$venv/include"
    fi
fi

echo "installing $* and what it needs into $venv"
"$venv/bin/pip" install -q --disable-pip-version-check "$@"

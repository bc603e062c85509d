#!/bin/sh
# Makes a virtual environment with a Python that TensorFlow 2.15 runs on: 3.10 or 3.11. Where there
# is only another one, uv provides 3.11.
# usage: make_venv.sh FOLDER     (PYTHON=... names the interpreter to use)
set -eu
folder=$1
needed="Python 3.10 or 3.11 is needed (TensorFlow 2.15 runs on no newer one)"

fail() {
    echo "error: $1" >&2
    exit 1
}

# make_with PYTHON: makes the environment with the interpreter's own venv module.
make_with() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 has no venv module: install it (Debian: apt-get install python3-venv)."
    rm -rf "$folder"
    "$1" -m venv "$folder"
}

# install_uv: puts uv into a folder of its own, with whatever Python there is.
install_uv() {
    for python in python3 python; do
        "$python" -m venv "$folder-uv" >/dev/null 2>&1 &&
            "$folder-uv/bin/python" -m pip install --quiet --disable-pip-version-check uv \
                >/dev/null 2>&1 && return
    done
    rm -rf "$folder-uv"
    return 1
}

# find_uv: sets `uv` to the one on PATH, the one installed earlier, or one that it installs now.
find_uv() {
    uv=uv
    command -v uv >/dev/null 2>&1 && return
    uv=$folder-uv/bin/uv
    [ -x "$uv" ] || install_uv
}

[ -x "$folder/bin/python" ] && exit 0
for python in ${PYTHON:-python3.11 python3.10 python3 python}; do
    fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))'
    if command -v "$python" >/dev/null 2>&1 && "$python" -c "$fits" 2>/dev/null; then
        make_with "$python"
        exit 0
    fi
done
[ -z "${PYTHON:-}" ] || fail "$needed: PYTHON=$PYTHON is not one of them: name another, or leave PYTHON out."
echo "No Python 3.10 or 3.11 is here: uv provides 3.11 (https://docs.astral.sh/uv)..."
find_uv || fail "$needed, and uv, which would provide one, cannot be installed: check the network, or install Python 3.11 or uv, or set PYTHON=/path/to/python3.11."
rm -rf "$folder"
"$uv" venv --quiet --python 3.11 --seed "$folder" >/dev/null 2>&1 ||
    fail "$needed, and uv cannot provide 3.11: check the network, or install Python 3.11, or set PYTHON=/path/to/python3.11."

#!/bin/sh
# Makes a virtual environment with a Python that TensorFlow 2.15 runs on: 3.10 or 3.11.
# usage: make_venv.sh FOLDER     (PYTHON=... names the interpreter to use)
set -eu
folder=$1
[ -x "$folder/bin/python" ] && exit 0
for python in ${PYTHON:-python3.11 python3.10 python3 python}; do
    fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))'
    if command -v "$python" >/dev/null 2>&1 && "$python" -c "$fits" 2>/dev/null; then
        if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "error: $python has no venv module: install it (Debian: apt-get install python3-venv)." >&2
            exit 1
        fi
        rm -rf "$folder"
        "$python" -m venv "$folder"
        exit 0
    fi
done
echo "error: Python 3.10 or 3.11 is needed (TensorFlow 2.15 runs on no newer one): install one of them, or set PYTHON=/path/to/python3.11." >&2
exit 1

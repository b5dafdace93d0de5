#!/bin/sh
# Prints the path of a Python that vLLM's wheels support and that can make a virtual environment; else says what to do.
# $PYTHON, where it is set, is the only one looked at.

without_venv=""
for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
    found=$("$name" -c 'import sys; print(sys.executable if (3, 11) <= sys.version_info < (3, 15) else "")' 2>/dev/null)
    [ -n "$found" ] || continue
    if "$found" -c 'import ensurepip, venv' 2>/dev/null; then
        printf '%s\n' "$found"
        exit 0
    fi
    without_venv=$found
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$without_venv cannot make a virtual environment: its venv module is not installed." >&2
    echo "On Debian or Ubuntu: apt install python$version-venv. Then run make again." >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON is not a Python from 3.11 to 3.14, which vLLM needs." >&2
    echo "Set PYTHON to one, or leave it out to have it looked for." >&2
else
    echo "No Python from 3.11 to 3.14 was found on the PATH; vLLM needs one of these." >&2
    echo "Install one (Debian 12, Ubuntu 24.04 or newer: apt install python3 python3-venv) or name it: make run PYTHON=/path/to/python3.12" >&2
fi
exit 1

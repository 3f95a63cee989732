# Sourced by the other sheets: a virtual environment in .venv (or $STARLOOP_VENV), made once for each state of the
# requirements. STARLOOP_PYTHON=... uses that interpreter as it is and installs nothing.
#   source run_sheets/setup.sh requirements.txt

if [ -n "${STARLOOP_PYTHON:-}" ]; then
    PYTHON=$STARLOOP_PYTHON
else
    venv=${STARLOOP_VENV:-.venv}
    PYTHON=$venv/bin/python
    wanted=$(cat requirements.txt "$1" | sha256sum | cut -d ' ' -f 1)
    if [ ! -x "$PYTHON" ] || [ "$(cat "$venv/requirements.sha256" 2>/dev/null)" != "$wanted" ]; then
        echo "setting up $venv from $1 (some minutes, once)"
        rm -rf "$venv"
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11 or newer" >&2; exit 2; }
        python3 -m venv "$venv"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' requirements.txt)"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$1"
        echo "$wanted" > "$venv/requirements.sha256"
    fi
fi

# Sourced by the other sheets: a virtual environment in .venv (or $STARLOOP_VENV), made anew when requirements.txt has
# changed, and extended when a sheet needs more. STARLOOP_PYTHON=... uses that interpreter and installs nothing.
#   source run_sheets/setup.sh requirements-dev.txt

if [ -n "${STARLOOP_PYTHON:-}" ]; then
    PYTHON=$STARLOOP_PYTHON
else
    venv=${STARLOOP_VENV:-.venv}
    PYTHON=$venv/bin/python
    for file in requirements.txt "$1"; do
        have=$venv/$file.installed
        cmp --silent "$file" "$have" && [ -x "$PYTHON" ] && continue
        echo "installing $file into $venv (some minutes, once)"
        if [ "$file" = requirements.txt ]; then
            python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11 or newer" >&2; exit 2; }
            rm -rf "$venv"
            python3 -m venv "$venv"
            "$PYTHON" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' requirements.txt)"
        fi
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$file"
        cp "$file" "$have"
    done
fi

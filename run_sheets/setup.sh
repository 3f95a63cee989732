# Sourced by the other sheets: a virtual environment in .venv, made anew when requirements.txt has changed, and extended when a sheet
# needs more.
#   source run_sheets/setup.sh requirements-dev.txt
# STARLOOP_VENV=DIR     another folder for it; a path that is not absolute is one within the repository
# STARLOOP_PYTHON=FILE  that interpreter as it is: nothing is made or installed. For conda, uv, modules, or a .venv of your own
# Only a folder that carries this sheet's stamp is ever deleted; any other that is in the way stops it.

setup_mistake() { echo "setup.sh: $1" >&2; exit 2; }

# Runs a command whose output goes to a file, and every 20 s a line that says what it is at; its last lines if it fails.
setup_step() {
    local log=$1 child code=0 every=${STARLOOP_SAY_EVERY:-20} begun=$SECONDS next
    next=$every
    shift
    "$@" > "$log" 2>&1 &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$child" 2> /dev/null; do
        sleep 0.2
        [ $((SECONDS - begun)) -lt "$next" ] && continue
        echo "  $((SECONDS - begun)) s: $(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1 | cut -c 1-100)"
        next=$((next + every))
    done
    wait "$child" || code=$?
    trap - INT TERM
    [ "$code" -eq 0 ] && return
    tail -n 20 "$log" >&2
    setup_mistake "pip ended with code $code; the whole of what it said is in $log"
}

# The first interpreter of a version that all requirements have.
setup_interpreter() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null && { echo "$name"; return; }
    done
    setup_mistake "needs Python 3.11, 3.12 or 3.13, found $(python3 --version 2>&1 || true); or give STARLOOP_PYTHON"
}

if [ -n "${STARLOOP_PYTHON:-}" ]; then
    PYTHON=$STARLOOP_PYTHON
    "$PYTHON" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("torch"))' 2> /dev/null || setup_mistake "STARLOOP_PYTHON '$PYTHON': expected an interpreter that has torch"
else
    venv=${STARLOOP_VENV:-.venv}
    PYTHON=$venv/bin/python
    stamp=$venv/made_by_starloop
    for file in requirements.txt "$1"; do
        have=$venv/$file.installed
        cmp --silent "$file" "$have" && [ -x "$PYTHON" ] && continue
        if [ "$file" = requirements.txt ]; then
            # an environment that an earlier version of this sheet made has requirements.txt.installed for a stamp
            if [ -e "$venv" ] && [ ! -e "$stamp" ] && [ ! -e "$have" ] && [ -n "$(ls -A "$venv" 2>&1)" ]; then
                setup_mistake "'$venv' is there and was not made by this sheet, so it stays: use it as it is with STARLOOP_PYTHON=$PYTHON, or give another folder with STARLOOP_VENV"
            fi
            base=$(setup_interpreter)
            [ -e "$stamp" ] || [ -e "$have" ] && { echo "$venv is of other requirements: it is made anew"; rm -rf -- "$venv"; }
            echo "making $venv with $base"
            "$base" -m venv "$venv"
            touch "$stamp"
            echo "installing torch (some minutes, once)"
            setup_step "$venv/pip.log" "$PYTHON" -m pip install --disable-pip-version-check "$(grep '^torch==' requirements.txt)"
        fi
        echo "installing $file into $venv (some minutes, once)"
        setup_step "$venv/pip.log" "$PYTHON" -m pip install --disable-pip-version-check -r "$file"
        cp "$file" "$have"
    done
fi

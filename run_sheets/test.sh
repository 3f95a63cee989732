#!/usr/bin/env bash
# Set the environment up and run all tests in two processes. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/setup.sh requirements-dev.txt
export OMP_NUM_THREADS=1 MPLBACKEND=Agg
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check --quiet . || { echo "ruff format . would change files: run it" >&2; exit 1; }
exec "$PYTHON" -m pytest -n 2 --dist worksteal "$@"

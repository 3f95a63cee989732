#!/usr/bin/env bash
# Set the environment up and run all tests in two processes. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/setup.sh requirements-dev.txt
export OMP_NUM_THREADS=1 MPLBACKEND=Agg
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -n 2 --dist worksteal "$@"

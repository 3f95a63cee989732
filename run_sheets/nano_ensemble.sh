#!/usr/bin/env bash
# The whole job on one machine, seed after seed; under a scheduler use submit.sh. Interrupted, run it again.
#   DATA=/data/challenge BLIND=/data/test_dataset bash run_sheets/nano_ensemble.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/site.sh
NETWORKS=                                # one recipe, CONFIG; for several: advanced_ensemble.sh
export "${SITE[@]}"
for seed in $SEEDS; do
    bash run_sheets/stage.sh train "$seed"
    bash run_sheets/stage.sh predict "$seed"
done
bash run_sheets/stage.sh ensemble

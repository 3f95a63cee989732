#!/usr/bin/env bash
# Different networks, each with some seeds, and their ensemble: the plain mean in RUNS/ens_mean, the one whose weights are fitted on
# validation in RUNS/ens_stack, which also says how the two compare on objects held out. Interrupted, run it again: what is done stays.
#   DATA=/data/challenge BLIND=/data/test bash run_sheets/advanced_ensemble.sh --models "enhanced_vit,robust_resnet,pinn_lens" --seeds "42 101"
# --models     names of run_sheets/<name>.yaml; a run is in RUNS/<name>_s<seed>
# --seeds      of each of them; site.sh has the default
# --calibrate  of the ensemble's probabilities: none, temperature, vector or isotonic (isotonic wants a large validation split)
# --scheduler  slurm, pbspro or torque: submits all of it (submit.sh); without, it runs here, one after the other
# GPUS=4 trains each run on four. Parameters that a network infers of the lenses (pinn_lens) fill their columns of submission.csv.
set -euo pipefail
cd "$(dirname "$0")/.."
mistake() { echo "advanced_ensemble.sh: $1" >&2; exit 2; }

NETWORKS=${NETWORKS:-enhanced_vit robust_resnet pinn_lens} CALIBRATE=${CALIBRATE:-temperature} scheduler=
while [ $# -gt 0 ]; do
    case $1 in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac       # --models=a is --models a
    case $1 in
    --models) NETWORKS=${2-} ;;
    --seeds) SEEDS=${2-} ;;
    --calibrate) CALIBRATE=${2-} ;;
    --scheduler) scheduler=${2-} ;;
    *) mistake "got '$1', expected --models, --seeds, --calibrate or --scheduler" ;;
    esac
    shift 2 || mistake "$1: expected a value after it"
done
source run_sheets/site.sh
read -r -a networks <<< "${NETWORKS//,/ }"
read -r -a seeds <<< "${SEEDS//,/ }"
[ ${#networks[@]} -gt 0 ] && [ ${#seeds[@]} -gt 0 ] || mistake "--models '$NETWORKS' --seeds '$SEEDS': expected at least one of each"
for network in "${networks[@]}"; do
    if [ ! -e "run_sheets/$network.yaml" ] || grep -q '^task:' "run_sheets/$network.yaml"; then
        known=$(grep -L '^task:' run_sheets/*.yaml | xargs -n 1 basename | sed 's/\.yaml$//' | paste -sd ' ')
        mistake "--models: got '$network', expected some of $known"
    fi
done
case $CALIBRATE in
none | temperature | vector | isotonic) ;;
*) mistake "--calibrate: got '$CALIBRATE', expected none, temperature, vector or isotonic" ;;
esac
NETWORKS=${networks[*]} SEEDS=${seeds[*]}
export "${SITE[@]}"
[ -n "$scheduler" ] && exec bash run_sheets/submit.sh "$scheduler"

for network in "${networks[@]}"; do
    for seed in "${seeds[@]}"; do
        bash run_sheets/stage.sh train "$seed" "run_sheets/$network.yaml"
        bash run_sheets/stage.sh predict "$seed" "run_sheets/$network.yaml"
    done
done
bash run_sheets/stage.sh ensemble

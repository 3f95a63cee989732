#!/usr/bin/env bash
# Submit the whole job: an array of training runs (one a seed), an array of predictions after it, the ensemble last.
#   DATA=/data/challenge bash run_sheets/submit.sh slurm        (or pbspro, or torque)
# Several networks, each with all seeds, and the ensemble of all: advanced_ensemble.sh --scheduler slurm.
# A run that meets its wall time or is preempted goes on where it was: Slurm requeues it; under PBS the next of LINKS
# training jobs takes it up, and finds nothing to do where the seed is done.
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/site.sh
export DATA BLIND RUNS STORES CONFIG NETWORKS CALIBRATE SEEDS EXTRA MAX_TIME GPUS PYTHON PREPARE
read -r -a seeds <<< "$SEEDS"
read -r -a networks <<< "${NETWORKS:-$CONFIG}"
last=$((${#networks[@]} * ${#seeds[@]} - 1))
result=$RUNS/$(basename "$CONFIG" .yaml)_ensemble
[ -n "$NETWORKS" ] && result=$RUNS/ens_stack
mkdir -p "$RUNS/logs"

case ${1:-} in
slurm)
    common=(--parsable --requeue --cpus-per-task="$CPUS" --mem="${MEMORY^^}" --gres="gpu:$GPUS" --output="$RUNS/logs/%x_%A_%a.log" --open-mode=append)
    [ -n "$QUEUE" ] && common+=(--partition="$QUEUE")
    train=$(sbatch "${common[@]}" --job-name=train --array="0-$last" --time="$WALLTIME" --signal=B:USR1@300 run_sheets/stage.sh train)
    predict=$(sbatch "${common[@]}" --job-name=predict --array="0-$last" --time=04:00:00 --dependency="afterok:${train%%;*}" run_sheets/stage.sh predict)
    ensemble=$(sbatch "${common[@]}" --job-name=ensemble --time=01:00:00 --dependency="afterok:${predict%%;*}" run_sheets/stage.sh ensemble)
    ;;
pbspro | torque)
    array=-J any=afterany ok=afterok resources="select=1:ncpus=$CPUS:ngpus=$GPUS:mem=$MEMORY"
    [ "$1" = torque ] && array=-t any=afteranyarray ok=afterokarray resources="nodes=1:ppn=$CPUS:gpus=$GPUS,mem=$MEMORY"
    common=(-V -r y -l "$resources" -j oe -o "$RUNS/logs/")
    [ -n "$QUEUE" ] && common+=(-q "$QUEUE")
    train=""
    for _ in $(seq "$LINKS"); do
        train=$(STAGE=train qsub "${common[@]}" -N train $array "0-$last" -l "walltime=$WALLTIME" ${train:+-W "depend=$any:$train"} run_sheets/stage.sh)
    done
    predict=$(STAGE=predict qsub "${common[@]}" -N predict $array "0-$last" -l walltime=04:00:00 -W "depend=$ok:$train" run_sheets/stage.sh)
    ensemble=$(STAGE=ensemble qsub "${common[@]}" -N ensemble -l walltime=01:00:00 -W "depend=$ok:$predict" run_sheets/stage.sh)
    ;;
*)
    echo "submit.sh: got '${1:-}', expected slurm, pbspro or torque" >&2
    exit 2
    ;;
esac
echo "train $train, predict $predict, ensemble $ensemble; logs in $RUNS/logs, result in $result/submission.csv"

#!/usr/bin/env bash
# Submit the whole job: an array of training runs (one a seed), an array of predictions after it, the ensemble last.
#   DATA=/data/challenge bash run_sheets/submit.sh slurm        (or pbspro, or torque)
# A run that meets its wall time or is preempted goes on where it was: Slurm requeues it; under PBS the next of LINKS
# training jobs takes it up, and finds nothing to do where the seed is done.
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/site.sh
export DATA BLIND RUNS STORES CONFIG SEEDS EXTRA MAX_TIME GPUS PYTHON PREPARE
read -r -a seeds <<< "$SEEDS"
last=$((${#seeds[@]} - 1))
mkdir -p "$RUNS/logs"

case ${1:-} in
slurm)
    common=(--parsable --requeue --cpus-per-task="$CPUS" --mem="${MEMORY^^}" --gres="gpu:$GPUS" --output="$RUNS/logs/%x_%A_%a.log" --open-mode=append)
    [ -n "$QUEUE" ] && common+=(--partition="$QUEUE")
    train=$(sbatch "${common[@]}" --job-name=train --array="0-$last" --time="$WALLTIME" --signal=B:USR1@300 run_sheets/stage.sh train)
    predict=$(sbatch "${common[@]}" --job-name=predict --array="0-$last" --time=04:00:00 --dependency="afterok:${train%%;*}" run_sheets/stage.sh predict)
    ensemble=$(sbatch "${common[@]}" --job-name=ensemble --time=01:00:00 --dependency="afterok:${predict%%;*}" run_sheets/stage.sh ensemble)
    ;;
pbspro)
    common=(-V -r y -l "select=1:ncpus=$CPUS:ngpus=$GPUS:mem=$MEMORY" -j oe -o "$RUNS/logs/")
    [ -n "$QUEUE" ] && common+=(-q "$QUEUE")
    train=""
    for _ in $(seq "$LINKS"); do
        train=$(STAGE=train qsub "${common[@]}" -N train -J "0-$last" -l "walltime=$WALLTIME" ${train:+-W "depend=afterany:$train"} run_sheets/stage.sh)
    done
    predict=$(STAGE=predict qsub "${common[@]}" -N predict -J "0-$last" -l walltime=04:00:00 -W "depend=afterok:$train" run_sheets/stage.sh)
    ensemble=$(STAGE=ensemble qsub "${common[@]}" -N ensemble -l walltime=01:00:00 -W "depend=afterok:$predict" run_sheets/stage.sh)
    ;;
torque)
    common=(-V -r y -l "nodes=1:ppn=$CPUS:gpus=$GPUS,mem=$MEMORY" -j oe -o "$RUNS/logs/")
    [ -n "$QUEUE" ] && common+=(-q "$QUEUE")
    train=""
    for _ in $(seq "$LINKS"); do
        train=$(STAGE=train qsub "${common[@]}" -N train -t "0-$last" -l "walltime=$WALLTIME" ${train:+-W "depend=afteranyarray:$train"} run_sheets/stage.sh)
    done
    predict=$(STAGE=predict qsub "${common[@]}" -N predict -t "0-$last" -l walltime=04:00:00 -W "depend=afterokarray:$train" run_sheets/stage.sh)
    ensemble=$(STAGE=ensemble qsub "${common[@]}" -N ensemble -l walltime=01:00:00 -W "depend=afterokarray:$predict" run_sheets/stage.sh)
    ;;
*)
    echo "submit.sh: got '${1:-}', expected slurm, pbspro or torque" >&2
    exit 2
    ;;
esac
echo "train $train, predict $predict, ensemble $ensemble; logs in $RUNS/logs, result in $RUNS/$(basename "$CONFIG" .yaml)_ensemble/submission.csv"

#!/usr/bin/env bash
# Submit the whole job: packing, an array of training runs (one a seed), an array of predictions after it, the ensemble last.
#   DATA=/data/challenge bash run_sheets/submit.sh slurm        (or pbspro, openpbs, torque)
# Several networks, each with all seeds, and the ensemble of all: advanced_ensemble.sh --scheduler slurm.
# A run that meets its wall time or is preempted goes on where it was: Slurm requeues it; under PBS the next of LINKS
# training jobs takes it up, and finds nothing to do where the seed is done.
# Accounts, queues, modules, conda, containers, several nodes: site.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/site.sh
mistake() { echo "submit.sh: $1" >&2; exit 2; }

DIALECT=${1:-}
[ "$DIALECT" = openpbs ] && DIALECT=pbspro
case $DIALECT in
slurm) submit='sbatch' ;;
pbspro | torque) submit='qsub' ;;
*) mistake "got '$DIALECT', expected slurm, pbspro, openpbs or torque" ;;
esac
read -r -a seeds <<< "$SEEDS"
read -r -a networks <<< "${NETWORKS:-$CONFIG}"
[ ${#seeds[@]} -gt 0 ] || mistake "SEEDS '$SEEDS': expected at least one number"
for name in GPUS NODES PREDICT_GPUS CPUS LINKS; do
    [[ ${!name} =~ ^[0-9]+$ ]] || mistake "$name '${!name}': expected a whole number"
done
[ "$NODES" -ge 1 ] && [ "$LINKS" -ge 1 ] && [ "$CPUS" -ge 1 ] || mistake "NODES $NODES, LINKS $LINKS, CPUS $CPUS: expected 1 or more of each"
WALLTIME=$(walltime_of "$(seconds_of_walltime "$WALLTIME" || mistake "WALLTIME '$WALLTIME': expected [days-]hours:minutes:seconds")")
flags_of_site "$DIALECT"

# What a job would only find out after hours in a queue.
if [ "$CHECK" != 0 ]; then
    command -v $submit > /dev/null || mistake "$submit is not at hand: log in to a node that submits, or take bash run_sheets/nano_ensemble.sh, which needs no scheduler"
    [ -d "$DATA" ] || mistake "DATA '$DATA' is not a folder: expected one with slsim_lenses, slsim_nonlenses, hsc_lenses, hsc_nonlenses"
    [ -z "$BLIND" ] || [ -e "$BLIND" ] || mistake "BLIND '$BLIND' does not exist: expected a folder or a manifest of cutouts"
    for network in "${networks[@]}"; do
        recipe=$network
        [ -n "$NETWORKS" ] && recipe=run_sheets/$network.yaml
        [ -f "$recipe" ] || mistake "there is no recipe '$recipe'"
    done
    # shellcheck disable=SC2086  # LAUNCH is several words, or none
    (prepare && $LAUNCH "$PYTHON" -c 'import torch') > /dev/null 2>&1 ||
        mistake "'${LAUNCH:+$LAUNCH }$PYTHON' after '$PREPARE' does not import torch here: set PYTHON, PREPARE or LAUNCH (site.sh); CHECK=0 if it is only there on compute nodes"
    if [ -n "$ACCOUNT" ] && [ "$DIALECT" = slurm ] && command -v sacctmgr > /dev/null; then
        accounts=$(sacctmgr --noheader --parsable2 show associations user="${USER:-$(id -un)}" format=account 2> /dev/null | sort -u | paste -sd ' ')
        [ -z "$accounts" ] || [[ " $accounts " == *" $ACCOUNT "* ]] || mistake "ACCOUNT '$ACCOUNT': Slurm knows for you $accounts"
    fi
fi
mkdir -p "$RUNS/logs"
export "${SITE[@]}"

# An array of one is no array (PBS Pro refuses it): then there is a plain job, and `array` is empty.
last=$((${#networks[@]} * ${#seeds[@]} - 1))
result=$RUNS/$(basename "$CONFIG" .yaml)_ensemble
[ -n "$NETWORKS" ] && result=$RUNS/ens_stack
pack=

case $DIALECT in
slurm)
    common=(--parsable --export=ALL --mem="${MEMORY^^}" --cpus-per-task="$CPUS" --open-mode=append --requeue "${site_flags[@]}")
    light=("${common[@]}" ${CPU_QUEUE:+--partition="$CPU_QUEUE"})
    heavy=("${common[@]}" ${QUEUE:+--partition="$QUEUE"} --nodes="$NODES" --ntasks-per-node=1)
    [ "$GPUS" -gt 0 ] && heavy+=(--gres="gpu:$GPUS")
    middle=("${light[@]}")
    [ "$PREDICT_GPUS" -gt 0 ] && middle=("${common[@]}" ${QUEUE:+--partition="$QUEUE"} --gres="gpu:$PREDICT_GPUS")
    array=() each=afterok logs=(--output="$RUNS/logs/%x_%j.log")
    [ "$last" -gt 0 ] && array=(--array="0-$last") each=aftercorr logs=(--output="$RUNS/logs/%x_%A_%a.log")
    # a prediction waits for its own run alone; what waits for a job that failed is taken off the queue
    after() { echo "--kill-on-invalid-dep=yes --dependency=$1:${2%%;*}"; }
    if [ "$PACK" != 0 ]; then
        pack=$(sbatch "${light[@]}" --output="$RUNS/logs/%x_%j.log" --job-name=pack --time="$STORE_WALLTIME" run_sheets/stage.sh pack)
    fi
    # shellcheck disable=SC2046  # `after` gives two words
    {
        train=$(sbatch "${heavy[@]}" "${logs[@]}" "${array[@]}" --job-name=train --time="$WALLTIME" --signal=B:USR1@300 ${pack:+$(after afterok "$pack")} run_sheets/stage.sh train)
        predict=$(sbatch "${middle[@]}" "${logs[@]}" "${array[@]}" --job-name=predict --time=04:00:00 $(after $each "$train") run_sheets/stage.sh predict)
        ensemble=$(sbatch "${light[@]}" --output="$RUNS/logs/%x_%j.log" --job-name=ensemble --time=01:00:00 $(after afterok "$predict") run_sheets/stage.sh ensemble)
    }
    ;;
pbspro | torque)
    # resources of a job: nodes, GPUs a node
    if [ "$DIALECT" = pbspro ]; then
        resources() { echo "select=$1:ncpus=$CPUS$([ "$2" -gt 0 ] && echo ":ngpus=$2"):mem=$MEMORY"; }
        flag=-J any=afterany ok=afterok
    else
        resources() { echo "nodes=$1:ppn=$CPUS$([ "$2" -gt 0 ] && echo ":gpus=$2"),mem=$MEMORY"; }
        flag=-t any=afteranyarray ok=afterokarray
    fi
    array=()
    [ "$last" -gt 0 ] && array=("$flag" "0-$last")
    [ "$last" -gt 0 ] || any=afterany ok=afterok
    common=(-V -r y -j oe -o "$RUNS/logs/" "${site_flags[@]}")
    light=("${common[@]}" ${CPU_QUEUE:+-q "$CPU_QUEUE"} -l "$(resources 1 0)")
    heavy=("${common[@]}" ${QUEUE:+-q "$QUEUE"} -l "$(resources "$NODES" "$GPUS")")
    [ "$NODES" -gt 1 ] && [ "$DIALECT" = pbspro ] && heavy+=(-l place=scatter)
    middle=("${light[@]}")
    [ "$PREDICT_GPUS" -gt 0 ] && middle=("${common[@]}" ${QUEUE:+-q "$QUEUE"} -l "$(resources 1 "$PREDICT_GPUS")")
    wait=
    if [ "$PACK" != 0 ]; then
        pack=$(STAGE=pack qsub "${light[@]}" -N pack -l "walltime=$STORE_WALLTIME" run_sheets/stage.sh)
        wait=afterok:$pack
    fi
    for _ in $(seq "$LINKS"); do
        train=$(STAGE=train qsub "${heavy[@]}" -N train "${array[@]}" -l "walltime=$WALLTIME" ${wait:+-W "depend=$wait"} run_sheets/stage.sh)
        wait=$any:$train
    done
    predict=$(STAGE=predict qsub "${middle[@]}" -N predict "${array[@]}" -l walltime=04:00:00 -W "depend=$ok:$train" run_sheets/stage.sh)
    ensemble=$(STAGE=ensemble qsub "${light[@]}" -N ensemble -l walltime=01:00:00 -W "depend=$ok:$predict" run_sheets/stage.sh)
    ;;
esac
echo "pack ${pack:-with the first run}, train $train, predict $predict, ensemble $ensemble; logs in $RUNS/logs, result in $result/submission.csv"

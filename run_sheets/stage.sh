#!/usr/bin/env bash
# One stage of the pipeline, the same under every scheduler and without one:
#   bash run_sheets/stage.sh train [seed [recipe]]      bash run_sheets/stage.sh predict [seed [recipe]]      bash run_sheets/stage.sh ensemble
# In an array job seed and recipe follow from the array index. Exit code 75: stopped with a checkpoint, to be run again.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-${PBS_O_WORKDIR:-$(dirname "$0")/..}}"
source run_sheets/site.sh
eval "$PREPARE"
stage=${1:-$STAGE}
read -r -a seeds <<< "$SEEDS"
recipes=("$CONFIG")
if [ -n "$NETWORKS" ]; then recipes=(); for network in $NETWORKS; do recipes+=("run_sheets/$network.yaml"); done; fi
index=${SLURM_ARRAY_TASK_ID:-${PBS_ARRAY_INDEX:-${PBS_ARRAYID:-}}}       # all seeds of the first recipe, then all of the next
seed=${2:-${index:+${seeds[index % ${#seeds[@]}]}}}
recipe=${3:-${recipes[${index:-0} / ${#seeds[@]}]}}
name=$(basename "$recipe" .yaml)

case $stage in
train)
    run=$RUNS/${name}_s$seed
    [ -e "$run/results.json" ] && { echo "$run is done"; exit 0; }
    launch=("$PYTHON")
    [ "$GPUS" -gt 1 ] && launch=("$PYTHON" -m torch.distributed.run --nproc_per_node "$GPUS")
    # shellcheck disable=SC2086  EXTRA is several words
    "${launch[@]}" train.py --config "$recipe" --data "$DATA" --store_dir "$STORES" --seed "$seed" --save_dir "$run" --max_time "$MAX_TIME" $EXTRA &
    child=$!
    trap 'kill -TERM $child 2>/dev/null' USR1 TERM       # a batch system signals this shell; torchrun hands on TERM alone
    code=0
    wait $child || code=$?
    while kill -0 $child 2>/dev/null; do code=0; wait $child || code=$?; done
    [ -e "$run/results.json" ] && exit 0
    [ $code -eq 0 ] && code=1
    # torchrun turns the code of its ranks into 1; a run that stopped with a checkpoint says so in its log
    [ $code -eq 1 ] && tail -n 1 "$run/train.log" 2>/dev/null | grep -q "run the same command again" && code=75
    if [ $code -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
        job=$SLURM_JOB_ID
        [ -n "${SLURM_ARRAY_JOB_ID:-}" ] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
        scontrol requeue "$job"
    fi
    exit $code
    ;;
predict)
    run=$RUNS/${name}_s$seed
    predict=("$PYTHON" predict.py --model_path "$run/best.pt" --store_dir "$STORES")
    "${predict[@]}" --data "$DATA" --which val --output_dir "$run/pred_val"
    source=(--data "$DATA")
    [ -n "$BLIND" ] && source=(--images "$BLIND")
    "${predict[@]}" "${source[@]}" --which test --output_dir "$run/pred_test"
    ;;
ensemble)
    val=(); test=(); inferred=()
    for recipe in "${recipes[@]}"; do
        for seed in "${seeds[@]}"; do
            run=$RUNS/$(basename "$recipe" .yaml)_s$seed
            val+=("$run/pred_val/pred_val.csv")
            test+=("$run/pred_test/pred_test.csv")
            [ -e "$run/pred_test/parameters_test.csv" ] && inferred+=("$run/pred_test/parameters_test.csv")
        done
    done
    ensemble=("$PYTHON" ensemble.py --val "${val[@]}" --test "${test[@]}" --calibrate "$CALIBRATE")
    [ ${#inferred[@]} -gt 0 ] && ensemble+=(--test_parameters "${inferred[@]}")     # of the members that infer any: columns of the submission
    if [ -z "$NETWORKS" ]; then
        "${ensemble[@]}" --out_dir "$RUNS/${name}_ensemble"
    else
        "${ensemble[@]}" --combine mean --out_dir "$RUNS/ens_mean"
        "${ensemble[@]}" --combine stack --out_dir "$RUNS/ens_stack"
    fi
    ;;
*)
    echo "stage.sh: got '$stage', expected train, predict or ensemble" >&2
    exit 2
    ;;
esac

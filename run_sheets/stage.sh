#!/usr/bin/env bash
# One stage of the pipeline, the same under every scheduler and without one:
#   bash run_sheets/stage.sh pack       bash run_sheets/stage.sh train [seed [recipe]]
#   bash run_sheets/stage.sh predict [seed [recipe]]        bash run_sheets/stage.sh ensemble
# In an array job seed and recipe follow from the array index; without one they are the first. Exit code 75: stopped with a checkpoint, to be run again.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-${PBS_O_WORKDIR:-$(dirname "$0")/..}}"
source run_sheets/site.sh
prepare
export HF_HUB_OFFLINE
stage=${1:-$STAGE}
read -r -a seeds <<< "$SEEDS"
recipes=("$CONFIG")
if [ -n "$NETWORKS" ]; then recipes=(); for network in $NETWORKS; do recipes+=("run_sheets/$network.yaml"); done; fi
index=${SLURM_ARRAY_TASK_ID:-${PBS_ARRAY_INDEX:-${PBS_ARRAYID:-0}}}       # all seeds of the first recipe, then all of the next
seed=${2:-${seeds[index % ${#seeds[@]}]}}
recipe=${3:-${recipes[index / ${#seeds[@]}]}}
name=$(basename "$recipe" .yaml)
read -r -a python <<< "$LAUNCH"
python+=("$PYTHON")

# Fills `launch` with what runs train.py: python, torchrun, or torchrun on each node. The nodes meet at the first of them, at a port
# that follows from the job.
launch_of_training() {
    launch=("${python[@]}")
    [ "$GPUS" -gt 1 ] || [ "$NODES" -gt 1 ] || return 0
    launch+=(-m torch.distributed.run --nproc_per_node "$((GPUS > 0 ? GPUS : 1))")
    [ "$NODES" -gt 1 ] || return 0
    local job=${SLURM_JOB_ID:-${PBS_JOBID:-0}} nodes
    local number=${job%%[!0-9]*}
    if [ -n "${SLURM_JOB_ID:-}" ]; then nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST"); else nodes=$(cat "$PBS_NODEFILE"); fi
    local port=$((20000 + (number * 16 + index) % 20000))
    launch+=(--nnodes "$NODES" --rdzv_backend c10d --rdzv_endpoint "${nodes%%$'\n'*}:$port" --rdzv_id "${number}_$index" --max_restarts 0)
    case ${NODE_LAUNCH:-${DIALECT:-slurm}} in
    slurm) launch=(srun --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 "${launch[@]}") ;;
    pbspro | torque)
        # pbsdsh brings neither the environment nor the folder of this shell: the nodes find them in a file
        local each="$RUNS/logs/node_${number}_$index.sh" per_node=()
        [ "$DIALECT" = torque ] && per_node=(-u)
        { export -p; printf 'cd %q\nexec "$@"\n' "$PWD"; } > "$each"
        launch=(pbsdsh "${per_node[@]}" -- bash "$(realpath "$each")" "${launch[@]}")
        ;;
    *)
        local by
        read -r -a by <<< "$NODE_LAUNCH"
        launch=("${by[@]}" "${launch[@]}")
        ;;
    esac
}

case $stage in
pack)
    # the recipes may want images of other sizes: each has its store, or finds it there
    for recipe in "${recipes[@]}"; do
        # shellcheck disable=SC2086  # EXTRA is several words
        "${python[@]}" train.py --config "$recipe" --data "$DATA" --store_dir "$STORES" --save_dir "$RUNS/packed_$(basename "$recipe" .yaml)" --num_workers "$CPUS" $EXTRA --pack_only
    done
    ;;
train)
    run=$RUNS/${name}_s$seed
    [ -e "$run/results.json" ] && { echo "$run is done"; exit 0; }
    launch_of_training
    # shellcheck disable=SC2086  # EXTRA is several words
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
    predict=("${python[@]}" predict.py --model_path "$run/best.pt" --store_dir "$STORES")
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
    ensemble=("${python[@]}" ensemble.py --val "${val[@]}" --test "${test[@]}" --calibrate "$CALIBRATE")
    [ ${#inferred[@]} -gt 0 ] && ensemble+=(--test_parameters "${inferred[@]}")     # of the members that infer any: columns of the submission
    if [ -z "$NETWORKS" ]; then
        "${ensemble[@]}" --out_dir "$RUNS/${name}_ensemble"
    else
        "${ensemble[@]}" --combine mean --out_dir "$RUNS/ens_mean"
        "${ensemble[@]}" --combine stack --out_dir "$RUNS/ens_stack"
    fi
    ;;
*)
    echo "stage.sh: got '$stage', expected pack, train, predict or ensemble" >&2
    exit 2
    ;;
esac

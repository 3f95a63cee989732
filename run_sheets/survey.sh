#!/usr/bin/env bash
# A survey of 10^6 to 10^9 cutouts (docs/survey.md): the plan, an array that packs, an array that predicts, the account last.
#   IMAGES=/data/manifest.txt.gz SURVEY=/scratch/survey MODELS="runs/nano_s42/best.pt runs/nano_s101/best.pt" bash run_sheets/survey.sh slurm
# (or pbspro, or torque). Submit the same again after any end: what is done is skipped. Without a scheduler, the four stages in turn:
#   bash run_sheets/survey.sh plan      ... pack 0      ... predict 0      ... reduce          (the number is the part, of PARTS)
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-${PBS_O_WORKDIR:-$(dirname "$0")/..}}"
source run_sheets/site.sh
: "${IMAGES:=}"                          # folder, or manifest with the bands of an object on adjacent lines
: "${SURVEY:=survey}"                    # shards, stores, predictions and logs go here
: "${MODELS:=runs/nano_s42/best.pt}"     # one checkpoint or several: the mean of their probabilities, in one pass over the pixels
: "${SHARD_SIZE:=1000000}"               # files of a shard
: "${PARTS:=100}"                        # tasks of each array; sites limit it, often to 1000
: "${AT_ONCE:=}"                         # how many of them may run at the same time; empty: as many as the site allows
: "${DISCARD:=}"                         # 1: no packing beforehand, and each shard's pixels go once it is predicted: little disk
: "${PLAN:=}"                             # more flags for survey.py plan, such as --band_alias VIS=i
: "${PREDICT:=--tta}"                    # more flags for survey.py predict
: "${PACK_QUEUE:=$CPU_QUEUE}"            # queue of the jobs without a GPU
: "${PACK_WALLTIME:=24:00:00}"           # of one packing task
: "${PREDICT_WALLTIME:=24:00:00}"        # of one predicting task
export IMAGES SURVEY MODELS SHARD_SIZE PARTS DISCARD PLAN PREDICT "${SITE[@]}"
read -r -a python <<< "$LAUNCH"
python+=("$PYTHON")
read -r -a models <<< "$MODELS"
stage=${1:-${STAGE:-}}
part=${2:+--part $2}                     # in an array job it follows from the array's index

# A chain of jobs: predictions wait for the end of packing, whatever it was, and pack what is missing; the account names what failed.
array="0-$((PARTS - 1))${AT_ONCE:+%$AT_ONCE}"
case $stage in
slurm | pbspro | torque)
    [ "$PARTS" -lt 2 ] && { echo "survey.sh: got PARTS=$PARTS, expected at least 2: an array of one is no array" >&2; exit 2; }
    mkdir -p "$SURVEY/logs"
    flags_of_site "$stage"
    ;;&
slurm)
    common=(--parsable --requeue --mem="${MEMORY^^}" --output="$SURVEY/logs/%x_%A_%a.log" --open-mode=append --export=ALL --kill-on-invalid-dep=yes "${site_flags[@]}")
    light=("${common[@]}" ${PACK_QUEUE:+--partition="$PACK_QUEUE"})
    heavy=("${common[@]}" ${QUEUE:+--partition="$QUEUE"} --cpus-per-task="$CPUS")
    [ "$GPUS" -gt 0 ] && heavy+=(--gres="gpu:$GPUS")
    plan=$(sbatch "${light[@]}" --job-name=plan --time=12:00:00 run_sheets/survey.sh plan)
    after="afterok:${plan%%;*}"
    if [ -z "$DISCARD" ]; then
        pack=$(sbatch "${light[@]}" --job-name=pack --cpus-per-task="$CPUS" --array="$array" --time="$PACK_WALLTIME" --dependency="$after" run_sheets/survey.sh pack)
        after+=",afterany:${pack%%;*}"
    fi
    predict=$(sbatch "${heavy[@]}" --job-name=predict --array="$array" --time="$PREDICT_WALLTIME" --dependency="$after" run_sheets/survey.sh predict)
    reduce=$(sbatch "${light[@]}" --job-name=reduce --time=12:00:00 --dependency="afterok:${plan%%;*},afterany:${predict%%;*}" run_sheets/survey.sh reduce)
    ;;
pbspro | torque)
    flag=-J any=afterany small="select=1:ncpus=1:mem=$MEMORY" medium="select=1:ncpus=$CPUS:mem=$MEMORY" large="select=1:ncpus=$CPUS:ngpus=$GPUS:mem=$MEMORY"
    [ "$stage" = torque ] && flag=-t any=afteranyarray small="nodes=1:ppn=1,mem=$MEMORY" medium="nodes=1:ppn=$CPUS,mem=$MEMORY" large="nodes=1:ppn=$CPUS:gpus=$GPUS,mem=$MEMORY"
    [ "$GPUS" -eq 0 ] && large=$medium
    common=(-V -r y -j oe -o "$SURVEY/logs/" "${site_flags[@]}")
    light=("${common[@]}" ${PACK_QUEUE:+-q "$PACK_QUEUE"})
    heavy=("${common[@]}" ${QUEUE:+-q "$QUEUE"})
    plan=$(STAGE=plan qsub "${light[@]}" -N plan -l "$small" -l walltime=12:00:00 run_sheets/survey.sh)
    after="afterok:$plan"
    if [ -z "$DISCARD" ]; then
        pack=$(STAGE=pack qsub "${light[@]}" -N pack $flag "$array" -l "$medium" -l "walltime=$PACK_WALLTIME" -W "depend=$after" run_sheets/survey.sh)
        after+=",$any:$pack"
    fi
    predict=$(STAGE=predict qsub "${heavy[@]}" -N predict $flag "$array" -l "$large" -l "walltime=$PREDICT_WALLTIME" -W "depend=$after" run_sheets/survey.sh)
    reduce=$(STAGE=reduce qsub "${light[@]}" -N reduce -l "$small" -l walltime=12:00:00 -W "depend=afterok:$plan,$any:$predict" run_sheets/survey.sh)
    ;;
plan)
    prepare
    # networks of other bands or images are refused here, before anything is packed
    # shellcheck disable=SC2086  # PLAN is several words, or none
    exec "${python[@]}" survey.py plan --images "$IMAGES" --out "$SURVEY" --shard_size "$SHARD_SIZE" --model_path "${models[@]}" $PLAN
    ;;
pack)
    prepare
    # shellcheck disable=SC2086  # part is two words, or none
    exec "${python[@]}" survey.py pack --out "$SURVEY" --parts "$PARTS" $part --num_workers "$CPUS"
    ;;
predict)
    prepare
    launch=("${python[@]}")
    [ "$GPUS" -gt 1 ] && launch=("${python[@]}" -m torch.distributed.run --nproc_per_node "$GPUS")
    # shellcheck disable=SC2086  # part and PREDICT are several words
    exec "${launch[@]}" survey.py predict --out "$SURVEY" --parts "$PARTS" $part --model_path "${models[@]}" --num_workers "$CPUS" \
        ${DISCARD:+--discard_pixels} $PREDICT
    ;;
reduce)
    prepare
    exec "${python[@]}" survey.py reduce --out "$SURVEY" --parts "$PARTS" --model_path "${models[@]}" --csv
    ;;
*)
    echo "survey.sh: got '$stage', expected slurm, pbspro or torque; or plan, pack, predict or reduce" >&2
    exit 2
    ;;
esac
case $stage in slurm | pbspro | torque)
    echo "plan $plan, pack ${pack:-with predict}, predict $predict, reduce $reduce; logs in $SURVEY/logs, result in $SURVEY/predictions" ;;
esac

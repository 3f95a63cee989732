#!/usr/bin/env bash
# From nothing to a submission on one machine: environment, simulated cutouts, two seeds, predictions, ensemble, table.
# Under five minutes on two cores once the environment is there. OUT, OBJECTS, BLIND_OBJECTS and EPOCHS change place and size.
set -euo pipefail
cd "$(dirname "$0")/.."
source run_sheets/setup.sh requirements.txt
out=${OUT:-quickstart}
export OMP_NUM_THREADS=1                      # one core a seed

"$PYTHON" simulate.py challenge --out "$out/data" --objects "${OBJECTS:-500}" --blind "${BLIND_OBJECTS:-200}" --seed 7

one_seed() {
    run=$out/resnet_s$1
    "$PYTHON" train.py --config run_sheets/quickstart.yaml ${EPOCHS:+--epochs "$EPOCHS"} --data "$out/data" --store_dir "$out/stores" \
        --seed "$1" --save_dir "$run"
    for which in val test; do
        "$PYTHON" predict.py --model_path "$run/best.pt" --data "$out/data" --store_dir "$out/stores" \
            --which $which --output_dir "$run/pred_$which"
    done
    "$PYTHON" predict.py --model_path "$run/best.pt" --images "$out/data/test_dataset" --store_dir "$out/stores" \
        --which blind --output_dir "$run/pred_blind"
}
one_seed 42 & first=$!
one_seed 101 & second=$!
wait $first
wait $second

"$PYTHON" ensemble.py --val "$out"/resnet_s*/pred_val/pred_val.csv --test "$out"/resnet_s*/pred_test/pred_test.csv --out_dir "$out/ensemble"
"$PYTHON" ensemble.py --test "$out"/resnet_s*/pred_blind/pred_blind.csv --threshold_file "$out/ensemble/threshold.txt" --out_dir "$out"
head -n 3 "$out/submission.csv"

"""The commands of the request that began the project, word for word, paths aside."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import ROOT


TRAIN = r"""python src/train.py \
  --slsim_lenses   /path/to/slsim_lenses \
  --slsim_nonlenses /path/to/slsim_nonlenses \
  --hsc_lenses     /path/to/hsc_lenses \
  --hsc_nonlenses  /path/to/hsc_nonlenses \
  --model_size nano --seed 42 \
  --epochs 20 --batch_size 128 --num_workers 8 \
  --apply_normalization --smoothing_mode gaussian --gaussian_sigma 1.0 \
  --drop_path 0.05 --device cuda \
  --save_dir ./res/_full_ckpt_fulltrain_nano_s42_YYYYMMDD_HHMMSS"""
PREDICT = r"""python src/predict.py \
  --slsim_lenses   /test_buckets/slsim_lenses \
  --slsim_nonlenses /test_buckets/slsim_nonlenses \
  --hsc_lenses     /test_buckets/hsc_lenses \
  --hsc_nonlenses  /test_buckets/hsc_nonlenses \
  --which test \
  --batch_size 128 --num_workers 8 \
  --model_path ./res/_full_ckpt_fulltrain_nano_s42_.../best.pt \
  --model_size nano --drop_path 0.05 --device cuda \
  --output_dir ./res/_full_ckpt_fulltrain_nano_s42_..._pred_test_YYYYMMDD_HHMMSS \
  --apply_normalization --smoothing_mode gaussian --gaussian_sigma 1.0"""


def run(command: str, folder: Path, places: dict[str, Path]) -> subprocess.CompletedProcess:
    for written, real in places.items():
        command = command.replace(written, str(real))
    command = re.sub(r"python src/", f"{sys.executable} {ROOT}/", command).replace("\\\n", " ")
    done = subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def few(challenge, tmp_path_factory) -> Path:
    """The four buckets with one band of each object: the request's network, nano, is slow on a CPU."""
    root = tmp_path_factory.mktemp("request")
    for bucket in ("slsim_lenses", "slsim_nonlenses", "hsc_lenses", "hsc_nonlenses"):
        (root / bucket).mkdir()
        for path in (challenge / bucket).glob("*_g.fits"):
            os.symlink(path, root / bucket / path.name)
    return root


def test_the_requests_commands_run(few, challenge, tmp_path):
    done = run(TRAIN, tmp_path, {"/path/to": few})
    assert "no GPU is visible" in done.stderr or "cuda" in done.stderr
    run_dir = tmp_path / "res" / "_full_ckpt_fulltrain_nano_s42_YYYYMMDD_HHMMSS"
    assert {"best.pt", "last.pt", "training_log.csv", "train.log", "results.json"} <= {
        path.name for path in run_dir.iterdir()
    }
    assert "roc_auc" in json.loads((run_dir / "results.json").read_text())["test"]

    buckets = tmp_path / "buckets"  # section 5: symlinks to all unlabelled FITS in the four folders
    for number, bucket in enumerate(("slsim_lenses", "slsim_nonlenses", "hsc_lenses", "hsc_nonlenses")):
        (buckets / bucket).mkdir(parents=True)
        for path in sorted((challenge / "test_dataset").glob("*.fits"))[number::4]:
            os.symlink(path, buckets / bucket / path.name)
    checkpoint = {"./res/_full_ckpt_fulltrain_nano_s42_.../best.pt": run_dir / "best.pt"}
    run(PREDICT, tmp_path, {"/test_buckets": buckets} | checkpoint)
    run(PREDICT.replace("--which test", "--which val"), tmp_path, {"/test_buckets": few} | checkpoint)
    out = tmp_path / "res" / "_full_ckpt_fulltrain_nano_s42_..._pred_test_YYYYMMDD_HHMMSS"
    table = pd.read_csv(out / "pred_test.csv")
    assert table.columns.tolist() == ["path", "domain", "label", "prob", "pred"] and len(table) == 16
    assert (out / "pred_val.csv").exists()

    ensemble = (
        f"python src/ensemble.py --val {out}/pred_val.csv --test {out}/pred_test.csv --out_dir {tmp_path}/ens"
    )
    run(ensemble, tmp_path, {})
    assert {"val_ens.csv", "threshold.txt", "metrics_val_ens.json", "test_ens.csv", "submission.csv"} <= {
        p.name for p in (tmp_path / "ens").iterdir()
    }
    header = (tmp_path / "ens" / "submission.csv").read_text().splitlines()[0]
    assert header == (
        "id,preds,RA,Dec,zlens,vel "
        "disp,ell_m,ell_m_PA,sh,sh_PA,Rein,ell_l,ell_l_PA,Reff_l,n_l_sers,mag_lens_g,mag_lens_r,"
        "mag_lens_i,mag_lens_z,mag_lens_y,zsrc,srcx,srcy,mag_src_g,mag_src_r,mag_src_i,mag_src_z,mag_src_y,ell_s,ell_s_PA,"
        "Reff_s,n_s_sers"
    )
    threshold = json.loads((tmp_path / "ens" / "metrics_val_ens.json").read_text())["global"]["threshold"]
    assert threshold == float((tmp_path / "ens" / "threshold.txt").read_text())

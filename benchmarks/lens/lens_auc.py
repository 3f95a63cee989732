"""AUC on simulated lenses: a two-seed atto ensemble beside a plain timm loop,
on the same split and for the same epochs.

    python simulate.py challenge --out runs/lens_auc/data --objects 3000 --seed 7
    python benchmarks/lens/lens_auc.py --data runs/lens_auc/data --fractions 0.1 0.3333 1.0

For each fraction of the training and validation objects (the test objects are always the same): ours, single
seeds and their mean; ours on single bands, fused for each object, with --single; the timm loop at two
learning rates, plain and with per-image standardisation and flips. Every AUC is for objects, on the test
split. Two jobs run at once, a core each.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from utils import config  # noqa: E402  the path above comes first
from utils.config import several  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

BANDS = ["--bands", "g", "r", "i", "z", "y"]
RECIPE = (
    "--model_size atto --batch_size 32 --lr 3e-4 --ema_decay 0.998 --drop_path 0 --apply_normalization"
).split()


@dataclass(frozen=True)
class Config:
    data: str = ""  # folder of the four buckets
    out: str = "runs/lens_auc"  # runs, predictions and results.json go here
    fractions: list[float] = several(1.0)  # of the training and validation objects
    epochs: int = 20  # of everybody
    single: bool = False  # also single bands, fused; a fifth of the epochs, which are as many steps
    timm: bool = True  # also the timm loop
    cores: int = 2  # jobs at once

    def __post_init__(self):
        if not self.data:
            raise Mistake("--data: expected the folder of the four buckets")


def run(*argv) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, argv))}\n{done.stderr[-2000:]}")


def shared(options: Config, fraction: float, mode: str) -> list:
    return [
        "--data",
        Path(options.data).resolve(),
        "--store_dir",
        Path(options.out).resolve() / "stores",
        "--band_mode",
        mode,
        *BANDS,
        "--take_train_frac",
        fraction,
        "--take_val_frac",
        fraction,
    ]


def ours(options: Config, fraction: float, mode: str, seed: int) -> Path:
    out = Path(options.out).resolve() / f"{mode}_{fraction:g}_s{seed}"
    run(
        "train.py",
        *shared(options, fraction, mode),
        *RECIPE,
        "--patience",
        0,
        "--epochs",
        options.epochs if mode == "stack" else max(1, options.epochs // 5),
        "--seed",
        seed,
        "--save_dir",
        out,
        "--device",
        "cpu",
    )
    for which in ("val", "test"):
        run(
            "predict.py",
            "--model_path",
            out / "best.pt",
            "--data",
            Path(options.data).resolve(),
            "--store_dir",
            Path(options.out).resolve() / "stores",
            "--which",
            which,
            "--tta",
            "--output_dir",
            out,
            "--device",
            "cpu",
        )
    return out


def timm(options: Config, fraction: float, lr: float, *flags: str) -> Path:
    out = Path(options.out).resolve() / f"timm_{fraction:g}_{lr:g}{''.join(flags)}"
    run(
        "benchmarks/lens/baseline_timm.py",
        *shared(options, fraction, "stack"),
        "--epochs",
        options.epochs,
        "--batch_size",
        32,
        "--lr",
        lr,
        "--output_dir",
        out,
        *flags,
    )
    return out


def auc(out: Path, which: str = "test") -> tuple[float, list[float]]:
    """Of objects: the bands' probabilities averaged first; with its 95 % interval."""
    run(
        "evaluate.py",
        "--from_csv",
        "--csv",
        out / f"pred_{which}.csv",
        "--by_object",
        "--tag",
        which,
        "--out_dir",
        out,
    )
    figures = json.loads((out / f"metrics_{which}.json").read_text())["global"]
    return figures["roc_auc"], [figures["roc_auc_low"], figures["roc_auc_high"]]


def ensemble(options: Config, runs: list[Path], name: str) -> tuple[float, list[float], float]:
    out = Path(options.out).resolve() / name
    run(
        "ensemble.py",
        "--val",
        *(r / "pred_val.csv" for r in runs),
        "--test",
        *(r / "pred_test.csv" for r in runs),
        "--out_dir",
        out,
    )
    figures = json.loads((out / "metrics_test_ens.json").read_text())["global"]
    return figures["roc_auc"], [figures["roc_auc_low"], figures["roc_auc_high"]], figures["threshold"]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    began, results = time.monotonic(), {}
    for fraction in options.fractions:
        with ThreadPoolExecutor(options.cores) as pool:
            modes = ["stack", "single"] if options.single else ["stack"]
            mine = {
                mode: [pool.submit(ours, options, fraction, mode, seed) for seed in (42, 101)]
                for mode in modes
            }
            peers = {
                f"timm, lr {lr:g}{' ' + ' '.join(flags) if flags else ''}": pool.submit(
                    timm, options, fraction, lr, *flags
                )
                for lr in (1e-3, 3e-4)
                for flags in ((), ("--normalise", "--flips"))
                if options.timm
            }
        rows = {}
        for mode, jobs in mine.items():
            runs = [job.result() for job in jobs]
            for seed, out in zip((42, 101), runs):
                rows[f"ours, {mode}, seed {seed}"] = auc(out)
            rows[f"ours, {mode}, two seeds"] = ensemble(options, runs, f"ensemble_{mode}_{fraction:g}")
        rows |= {name: auc(job.result()) for name, job in peers.items()}
        results[f"{fraction:g}"] = rows
        print(
            f"\nfraction {fraction:g}, {options.epochs} epochs, {(time.monotonic() - began) / 60:.0f} "
            "minutes so far"
        )
        for name, (value, (low, high), *threshold) in rows.items():
            print(
                f"  {name:<42} {value:.4f}  [{low:.4f}, {high:.4f}]"
                + (f"  t* {threshold[0]:.4f}" if threshold else ""),
                flush=True,
            )
        (Path(options.out) / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    config.run_script(main)

"""Kill training with SIGKILL at random moments, run the same command again, and compare every bit with an unbroken run.

    python benchmarks/kill_resume.py --kills 50

Over {1, 2 ranks} x {fp32, fp16 with its GradScaler} x {accumulate 1, 3}: the lens task, ConvNeXt V2 atto, augmentation
and drop path on, a checkpoint every second step. Prints one line a configuration; exit code 1 if any bit differs.
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils import checkpoint, config  # noqa: E402  the path above comes first
from utils.mistake import Mistake  # noqa: E402

ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS="1")


@dataclass(frozen=True)
class Config:
    kills: int = 50                      # in all, shared by the configurations
    seed: int = 0                        # of the moments of the kills
    folder: str = "runs/kill_resume"     # what is there is deleted


def command(folder: Path, save_dir: Path, ranks: int, precision: str, accumulate: int) -> list[str]:
    launch = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [*launch, str(ROOT / "train.py"), "--data", str(folder / "data"), "--store_dir", str(folder / "stores"), "--save_dir", str(save_dir),
            "--model_size", "atto", "--epochs", "5", "--batch_size", "16", "--apply_normalization", "--precision", precision, "--device", "cpu",
            "--accumulate", str(accumulate), "--save_every", "2", "--log_every", "1000", "--patience", "0"]


def start(argv: list[str]) -> subprocess.Popen:
    return subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finish(argv: list[str]) -> float:
    began = time.monotonic()
    process = start(argv)
    if process.wait() != 0:
        raise SystemExit(f"failed with code {process.returncode}: {' '.join(argv)}")
    return time.monotonic() - began


def fingerprint(run: Path) -> dict[str, str]:
    """SHA-256 of each part of the last checkpoint, of the best weights and of the log."""
    parts = checkpoint.load(run / "last.pt")["state"]
    return {name: checkpoint.digest(part) for name, part in parts.items()} \
        | {"best.pt": checkpoint.digest(checkpoint.load(run / "best.pt")["model"]), "training_log.csv": (run / "training_log.csv").read_text()}


def step_of(run: Path) -> int:
    newest = checkpoint.load_newest(run, lambda text: None) if run.exists() else None
    return newest["state"]["progress"]["step"] if newest else 0


def main(argv: list[str]) -> None:
    options, = config.read(argv, Config)
    if options.kills < 1:
        raise Mistake(f"--kills: got {options.kills}, expected at least 1")
    folder, generator = Path(options.folder), random.Random(options.seed)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, str(ROOT / "simulate.py"), "challenge", "--out", str(folder / "data"), "--objects", "24",
                    "--bands", "g", "r", "--workers", "1"], check=True, stdout=subprocess.DEVNULL)
    grid = list(product((1, 2), ("fp32", "fp16"), (1, 3)))
    wrong = 0
    for number, (ranks, precision, accumulate) in enumerate(grid):
        quota = options.kills * (number + 1) // len(grid) - options.kills * number // len(grid)
        whole, broken = (folder / f"{name}_{number}" for name in ("whole", "broken"))
        lasts = finish(command(folder, whole, ranks, precision, accumulate))
        kills, resumed_at = 0, []
        while kills < quota:
            process = start(command(folder, broken, ranks, precision, accumulate))
            time.sleep(generator.uniform(0.3, 1.0) * lasts)
            if process.poll() is not None:               # it was faster than the kill: begin anew, and kill that
                shutil.rmtree(broken)
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            resumed_at.append(step_of(broken))
        finish(command(folder, broken, ranks, precision, accumulate))
        ours, theirs = fingerprint(broken), fingerprint(whole)
        differs = [name for name in theirs if ours[name] != theirs[name]]
        wrong += bool(differs)
        print(f"{ranks} rank{'s' * (ranks > 1)}  {precision}  accumulate {accumulate}: {kills} kills, resumed at steps {resumed_at}: "
              + (f"DIFFERS in {', '.join(differs)}" if differs else f"same bits, model {theirs['model'][:16]}"), flush=True)
    print(f"{options.kills} kills, {len(grid)} configurations, {wrong} mismatches")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    config.run(main)

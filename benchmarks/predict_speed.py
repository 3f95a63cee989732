"""From a folder of FITS cutouts to a CSV of probabilities: predict.py beside the loop that most would write,
and from a packed store.

    python benchmarks/predict_speed.py
    python benchmarks/predict_speed.py --files 1000 --packed 0

ConvNeXt V2 atto in fp32 on the CPU, weights drawn at random (those of the response norm too, which start at
zero), simulated blind files of the challenge in the page cache; both sides have the same weights and the
challenge's preprocessing (Gaussian of one pixel, zeros beyond the edge; background, clipping, unit spread).
Ours is `predict.main` with an empty store: packing, predicting, CSV. The peer (predict_one_by_one.py) reads
each file by fitsio, preprocesses it by itself, and stacks 128 by a DataLoader for timm's network. One thread,
process time, in turns, the least of the turns; the peer in processes of its own, as it would run without our
settings of threads and memory. Packing is the first prediction less the same again, which finds the store.
From a packed store: wall time on two cores, by two threads, and by two ranks of torchrun less the time of two
ranks with two examples, which is what they need to start.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402, F401  before torch: it says how threads wait

import pandas as pd  # noqa: E402  the path above comes first
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import predict  # noqa: E402
import simulate  # noqa: E402
from table import Row, show  # noqa: E402
from tasks import lens  # noqa: E402
from train import TrainConfig  # noqa: E402
from utils import checkpoint, config  # noqa: E402
from utils.mistake import Mistake  # noqa: E402
from utils.schedule import ScheduleConfig  # noqa: E402

BATCH = 128
TASK = lens.Config(
    model_size="atto",
    apply_normalization=True,
    smoothing_mode="gaussian",
    gaussian_sigma=1.0,
    smoothing_edge="zero",
)


@dataclass(frozen=True)
class Config:
    files: int = 4000  # FITS files, for both sides; a multiple of five, the bands of an object
    # examples of the packed store; two ranks share them well from 16,384; 0 leaves this out
    packed: int = 16384
    turns: int = 3  # of each side; the fastest counts
    seed: int = 7  # of files and weights
    json: str = ""  # also write the rows to this file


def make_checkpoint(path: Path, seed: int) -> dict[str, Tensor]:
    """best.pt of a network that was never trained; its weights, by timm's names."""
    torch.manual_seed(seed)
    model = lens.build_network(TASK, 1)
    for name, parameter in model.named_parameters():
        if "grn" in name or name.endswith("head.fc.weight"):
            nn.init.normal_(parameter, std=0.1)  # so that every layer counts and probabilities spread
    options = config.flat_options(TrainConfig(precision="fp32"), ScheduleConfig(), TASK)
    checkpoint.save(
        path,
        dict(
            record=dict(options=options, data=dict(bands=["g", "r", "i", "z", "y"])), model=model.state_dict()
        ),
    )
    return model.network.state_dict()


def our_arguments(folder: Path, images: Path) -> list[str]:
    return [
        "--model_path",
        f"{folder}/best.pt",
        "--images",
        str(images),
        "--store_dir",
        f"{folder}/stores",
        "--output_dir",
        f"{folder}/ours",
        "--which",
        "blind",
        "--device",
        "cpu",
        "--batch_size",
        str(BATCH),
    ]


def quietly(argv: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict.main(argv)


def seconds(work: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def theirs(images: Path, weights: Path, out: Path) -> tuple[float, str]:
    """(process time of the peer, its versions). Raises Mistake where it fails."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "predict_one_by_one.py"),
        str(images),
        str(weights),
        str(out),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | dict(OMP_NUM_THREADS="1")
    )
    if done.returncode:
        raise Mistake(
            f"the peer failed ({done.stderr.strip().splitlines()[-1]}): pip install -r "
            "requirements-benchmarks.txt"
        )
    took, versions = done.stdout.strip().split("\t")
    return float(took), versions


def simulate_blind(folder: Path, files: int, seed: int) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        simulate.main(
            [
                "challenge",
                "--out",
                str(folder),
                "--objects",
                "0",
                "--blind",
                str(-(-files // 5)),
                "--seed",
                str(seed),
                "--workers",
                "1",
            ]
        )
    return folder / "test_dataset"


def from_files(options: Config, folder: Path) -> list[Row]:
    images = simulate_blind(folder / "files", options.files, options.seed)
    count = len(list(images.glob("*.fits")))
    argv, peer, equal = our_arguments(folder, images), "", ""
    times: dict[str, list[float]] = dict(whole=[], packed=[], theirs=[])
    for _ in range(options.turns):
        shutil.rmtree(folder / "stores", ignore_errors=True)
        times["whole"].append(seconds(lambda: quietly(argv), time.process_time))
        times["packed"].append(seconds(lambda: quietly(argv), time.process_time))
        try:
            took, peer = theirs(images, folder / "weights.pt", folder / "theirs.csv")
            times["theirs"].append(took)
        except Mistake as mistake:
            print(f"predict_speed.py: {mistake}", file=sys.stderr)
    whole, packed, peers = (min(column, default=None) for column in times.values())
    if peers:
        both = pd.read_csv(folder / "ours" / "pred_blind.csv").merge(
            pd.read_csv(folder / "theirs.csv"), on="path", suffixes=("", "_theirs")
        )
        low, high = both["prob"].min(), both["prob"].max()
        equal = (
            f"{len(both):,} of {count:,} files in both; probabilities, {low:.2g} to {high:.2g}, differ by at "
            f"most {(both['prob'] - both['prob_theirs']).abs().max():.1e}"
        )
    return [
        Row(
            "FITS folder to CSV, atto fp32, one thread",
            "files/s",
            count / whole,
            peer,
            count / peers if peers else None,
            aim=5,
            equal=equal,
        ),
        Row("... of this, packing into the store", "ms for 1,000 files", 1e6 * (whole - packed) / count),
        Row("... of this, predicting and CSV", "ms for 1,000 files", 1e6 * packed / count),
    ]


def from_store(options: Config, folder: Path) -> list[Row]:
    argv = our_arguments(folder, simulate_blind(folder / "many", options.packed, options.seed))
    quietly([*argv, "--max_samples", "2"])  # packs
    count = options.packed
    whole = [*argv, "--max_samples", str(count)]
    torch.set_num_threads(2)
    threads = min(seconds(lambda: quietly(whole), time.perf_counter) for _ in range(options.turns))
    torch.set_num_threads(1)
    ranks = min(seconds(lambda: as_two_ranks(whole), time.perf_counter) for _ in range(options.turns))
    start = min(
        seconds(lambda: as_two_ranks([*argv, "--max_samples", "2"]), time.perf_counter)
        for _ in range(options.turns)
    )
    print(
        f"{count:,} examples from a packed store: two threads {threads:.1f} s; two ranks {ranks:.1f} s, of "
        f"which {start:.1f} s to start"
    )
    by, best = min(("two threads", threads), ("two ranks", ranks - start), key=lambda pair: pair[1])
    return [
        Row(
            f"packed store to CSV, atto fp32, two cores ({by}), wall time without the start",
            "cutouts/s",
            count / best,
            limit=2000,
        )
    ]


def as_two_ranks(argv: list[str]) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(ROOT / "predict.py"),
            *argv,
        ],
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        check=True,
        capture_output=True,
    )


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        torch.save(make_checkpoint(Path(name) / "best.pt", options.seed), Path(name) / "weights.pt")
        rows = from_files(options, Path(name))
        return rows + (from_store(options, Path(name)) if options.packed else [])


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)

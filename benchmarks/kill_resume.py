"""Kill training with SIGKILL at random moments, run the same command again,
and compare every bit with an unbroken run.

    python benchmarks/kill_resume.py --kills 2000

Over {1, 2 ranks} x {fp32, fp16 with its GradScaler} x {accumulate 1, 3}: the lens task with augmentation,
drop path, batch norm and EMA, 45 steps in 5 epochs, a checkpoint every second step. Kills come as in a
Poisson process, so that every moment of a process is as likely as any other: its start, its saves, its
evaluations and its end. A run that has come to its end is compared, and the next one begins. Of two ranks
both are killed at once in half of the cases; in the others one of them, either, and the second up to half a
second later. After every kill the newest checkpoint is loaded, and last.pt, if it is there, must be whole.

So that 2,000 kills take less than an hour, the network is a small one of timm (2 MB of state), no figures are
drawn (half of the time of such a run, no part of its state), and every attempt is a fork of this process,
which has imported everything and computed nothing;
torchrun is not asked: its environment is set. Only kills of a process that was alive count. Exit code 1 if
any bit differs, or a checkpoint cannot be loaded.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a process with threads of OpenMP cannot be forked

import random  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections import Counter  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from itertools import product  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402, F401  before torch: it says how threads wait
import pandas  # noqa: E402, F401  this and the next are imported late by a run; here they are imported once for all
import torch.utils.tensorboard  # noqa: E402, F401

import train  # noqa: E402
from table import Row, show  # noqa: E402
from models.timm_door import import_timm  # noqa: E402
from tasks.lens import judge  # noqa: E402
from utils import checkpoint, config, plots  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

EPOCHS, EPOCH_STEPS = 5, 9
# start: before the first step; end: after the last
PLACES = ("start", *(f"epoch {number + 1}" for number in range(EPOCHS)), "end")
LATER = 0.5  # seconds, at most, by which the second of two ranks outlives the first
PATIENCE = 120  # seconds after which a run that is not killed has hung


@dataclass(frozen=True)
class Config:
    kills: int = 2000  # in all, shared by the configurations
    # expected while an unbroken run would last; a run that is killed often lasts longer
    kills_a_run: float = 4.0
    network: str = "test_efficientnet"  # of timm
    seed: int = 0  # of the moments of the kills
    folder: str = "runs/kill_resume"  # what is there is deleted
    json: str = ""  # also write the rows to this file


@dataclass
class Tally:
    """What became of one configuration."""

    ranks: int
    precision: str
    accumulate: int
    kills: int = 0
    writing: int = 0  # kills that fell while a checkpoint was being written
    places: Counter = field(default_factory=Counter)
    runs: int = 0
    # a line for each mismatch and each checkpoint that could not be loaded
    wrong: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.ranks} rank{'s' * (self.ranks > 1)}, {self.precision}, accumulate {self.accumulate}"


def arguments(folder: Path, run: Path, network: str, tally: Tally) -> list[str]:
    return [
        "--data",
        str(folder / "data"),
        "--store_dir",
        str(folder / "stores"),
        "--save_dir",
        str(run),
        "--apply_normalization",
        "--model",
        "timm",
        "--model_kwargs",
        f"timm_name={network}",
        "--epochs",
        str(EPOCHS),
        "--batch_size",
        "6",
        "--precision",
        tally.precision,
        "--accumulate",
        str(tally.accumulate),
        "--device",
        "cpu",
        "--save_every",
        "2",
        "--log_every",
        "1000",
        "--patience",
        "0",
    ]


def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def start(argv: list[str], ranks: int, said: Path) -> list[int]:
    """The process of each rank, which says what it says to a file."""
    places = (
        dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port()) if ranks > 1 else {}
    )
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if process == 0:
            code = 70
            try:
                os.environ.update(places, **(dict(RANK=str(rank), LOCAL_RANK=str(rank)) if ranks > 1 else {}))
                file = os.open(f"{said}_{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, 1)
                os.dup2(file, 2)
                train.main(argv)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)  # nothing of the parent's is run twice
        os.setpgid(process, process)  # so that what it starts is killed with it
        processes.append(process)
    return processes


def ended(process: int) -> int | None:
    """How a process ended; None while it lives."""
    status = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return status and (
        -status.si_status if status.si_code in (os.CLD_KILLED, os.CLD_DUMPED) else status.si_status
    )


def kill(processes: list[int], pause: float = 0.0) -> bool:
    """Kill what is left of them, the first and after `pause` seconds the others.
    Returns whether a live one was among them.
    """
    for number, process in enumerate(processes):
        time.sleep(pause if number else 0)
        os.killpg(process, signal.SIGKILL)  # one that has ended is there until it is waited for
    return -signal.SIGKILL in [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def attempt(
    argv: list[str], ranks: int, said: Path, moment: float = float("inf"), pause: float = 0.0, first: int = 0
) -> bool:
    """Run to the end, or until the ranks are killed after `moment` seconds, rank `first` before the other.
    Returns whether they were.

    Raises SystemExit when a rank fails or hangs.
    """
    began, processes = time.monotonic(), start(argv, ranks, said)
    killed = processes[first:] + processes[:first]
    try:
        while (now := time.monotonic() - began) < moment:
            codes = [ended(process) for process in processes]
            if any(codes) or now > PATIENCE:
                texts = [Path(f"{said}_{rank}").read_text()[-2000:] for rank in range(ranks)]
                raise SystemExit(
                    "\n".join([f"exit codes {codes} after {now:.1f} s: {' '.join(argv)}", *texts])
                )
            if None not in codes:
                break
            time.sleep(min(0.01, moment - now))
    except BaseException:
        kill(killed)
        raise
    return kill(killed, pause)


def fingerprint(run: Path) -> dict[str, str]:
    """SHA-256 of each part of the last checkpoint, of the best weights and of the log."""
    parts = checkpoint.load(run / "last.pt")["state"]
    return {name: checkpoint.digest(part) for name, part in parts.items()} | {
        "best.pt": checkpoint.digest(checkpoint.load(run / "best.pt")["model"]),
        "training_log.csv": (run / "training_log.csv").read_text(),
    }


def begun_files(run: Path) -> dict[str, int]:
    """The checkpoints that are not whole yet (or never will be), and when they were last written to."""
    return {path.name: path.stat().st_mtime_ns for path in run.glob("*.pt.tmp")}


def place(said: str) -> str:
    """Where a run was, from what it has said of itself in train.log since it was started."""
    if "training examples" not in said:
        return "start"
    resumed = re.search(r"resumed at step (\d+)", said)
    epochs = (int(resumed[1]) // EPOCH_STEPS if resumed else 0) + len(re.findall(r" epoch \d+  train_", said))
    return PLACES[1 + min(epochs, EPOCHS)]


def break_and_compare(
    folder: Path, tally: Tally, quota: int, options: Config, generator: random.Random
) -> None:
    """Two unbroken runs, then as many broken ones as `quota` kills need."""
    whole, broken, said = folder / "whole", folder / "broken", folder / "said"
    wanted = []
    for _ in range(2):
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()  # of the second in the end: the first also packs the data
        attempt(arguments(folder, whole, options.network, tally), tally.ranks, said)
        lasts = time.monotonic() - began
        wanted.append(fingerprint(whole))
    if wanted[0] != wanted[1]:
        tally.wrong.append("two unbroken runs differ")
    argv, kills = arguments(folder, broken, options.network, tally), 0
    shutil.rmtree(broken, ignore_errors=True)
    while tally.kills < quota or kills:
        files, log = begun_files(broken), broken / "train.log"
        told = log.stat().st_size if log.exists() else 0
        moment = generator.expovariate(options.kills_a_run / lasts) if tally.kills < quota else float("inf")
        if attempt(
            argv,
            tally.ranks,
            said,
            moment,
            generator.choice((0.0, generator.uniform(0, LATER))),
            generator.randrange(tally.ranks),
        ):
            tally.kills, kills = tally.kills + 1, kills + 1
            tally.writing += begun_files(broken) != files
            tally.places[place(log.read_text()[told:] if log.exists() else "")] += 1
            try:
                checkpoint.load_newest(broken, tally.wrong.append)
            except Mistake as mistake:
                tally.wrong.append(str(mistake))
                tally.runs, kills = tally.runs + 1, 0
                shutil.rmtree(broken)
        else:
            ours = fingerprint(broken)
            if differs := [name for name, value in wanted[0].items() if ours.get(name) != value]:
                kept = folder / f"differs_{tally.ranks}_{tally.precision}_{tally.accumulate}_{tally.runs}"
                shutil.copytree(broken, kept)
                tally.wrong.append(f"after {kills} kills it differs in {', '.join(differs)}: {kept}")
            tally.runs, kills = tally.runs + bool(kills), 0
            shutil.rmtree(broken)


def measure(options: Config) -> list[Row]:
    if options.kills < 1 or options.kills_a_run <= 0:
        raise Mistake(
            f"--kills and --kills_a_run: got {options.kills} and {options.kills_a_run}, expected at least 1, "
            "and more than 0"
        )
    folder, generator = Path(options.folder).absolute(), random.Random(options.seed)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "simulate.py"),
            "challenge",
            "--out",
            str(folder / "data"),
            "--objects",
            "9",
            "--bands",
            "g",
            "r",
            "--workers",
            "1",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    import_timm()
    judge.illustrate = plots.figure_training = plots.save_figure = lambda *_: None
    tallies, rows = [Tally(*each) for each in product((1, 2), ("fp32", "fp16"), (1, 3))], []
    for number, tally in enumerate(tallies):
        began, quota = (
            time.monotonic(),
            options.kills * (number + 1) // len(tallies) - options.kills * number // len(tallies),
        )
        break_and_compare(folder, tally, quota, options, generator)
        print(
            f"{tally.name}: {tally.kills} kills in {tally.runs} runs, {len(tally.wrong)} wrong, "
            f"{tally.writing} while a checkpoint was written; "
            f"{', '.join(f'{place} {tally.places[place]}' for place in PLACES)}; "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        print("".join(f"    {line}\n" for line in tally.wrong), end="", flush=True)
        rows.append(row(tally.name, [tally]))
    return [*rows, row("all", tallies)]


def row(name: str, tallies: list[Tally]) -> Row:
    kills, writing, runs, wrong = (
        sum(column) for column in zip(*((t.kills, t.writing, t.runs, len(t.wrong)) for t in tallies))
    )
    return Row(
        f"mismatches after SIGKILL, {name}",
        "",
        wrong,
        limit=0,
        equal=f"{kills} kills, {writing} of them while a checkpoint was written, in {runs} runs: "
        + ("DIFFERS" if wrong else "the same SHA-256 of every part, the same log"),
    )


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    rows = measure(options)
    show(rows, options.json)
    sys.exit(1 if any(row.ours for row in rows) else 0)


if __name__ == "__main__":
    config.run_script(main)

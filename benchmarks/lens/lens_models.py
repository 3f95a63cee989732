"""Every lens network on the same simulated objects, for the same epochs, with what it costs;
and their ensembles.

    python benchmarks/lens/lens_models.py --work runs/lens_models --cores 2
    python benchmarks/lens/lens_models.py --work runs/lens_models --only convnextv2,pinn_lens --seeds 42 101
    python benchmarks/lens/lens_models.py --work runs/lens_models --table_only

Nothing is done twice: interrupted, the same command goes on where it was, a run of a network and a seed from
its last checkpoint. Two such commands may share --work. Everything is for objects of the test split, all
bands stacked; t* is Youden's on validation, and which calibration is used is decided there, by the likelihood
of objects held out. Intervals are 95 % of a bootstrap. Train minutes are those of the processor, with the
validation after each epoch; images/s are predicted, one thread, batches of 64.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

import predict  # noqa: E402  the path above comes first
from contract import InPrecision  # noqa: E402
from data.cutouts.buckets import DOMAINS  # noqa: E402
from evaluation import calibration, figures_of_merit, folds, identity, predictions  # noqa: E402
from physics.lens_parameters import GEOMETRY  # noqa: E402
from tasks import lens  # noqa: E402
from tasks.lens import inputs as lens_inputs  # noqa: E402
from trained import load_weights  # noqa: E402
from utils import config  # noqa: E402
from utils.config import several  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

SHARED = (
    "--band_mode stack --batch_size 64 --patience 0 --ema_decay 0.99 --warmup_epochs 1 --apply_normalization "
    "--degrade_noise 0.5 --rotate 0.7"
).split()
# what is known of the training lenses is learnt by all
SHARED += ["--device", "cpu", "--regression", *GEOMETRY]
LINEAR = "--clip_q -1"  # for those that fit or find light: a clipped core is no light profile
RESNET = "--model_size {} --drop_path 0.2 --lr 4e-3 --model_kwargs width=0.5"
# Without metadata film_conditioned is a ResNet, to the bit; so it is the 34 here,
# or the table would have one network twice.
RECIPES = {
    name: flags.split()
    for name, flags in {
        "convnextv2": "--model convnextv2 --model_size nano --drop_path 0.05 --lr 1e-3",
        "enhanced_vit": "--model enhanced_vit --model_size small --drop_path 0.05 --lr 1e-3",
        "robust_resnet": f"--model robust_resnet {RESNET.format(18)} symmetric=true",
        "plain_resnet": f"--model robust_resnet {RESNET.format(18)}",  # what symmetry is worth
        "pinn_lens": f"--model pinn_lens --model_size small --drop_path 0.2 --lr 4e-3 --use_physics {LINEAR}",
        "film_conditioned": f"--model film_conditioned {RESNET.format(34)} symmetric=true",
        "gat_lens": f"--model gat_lens --drop_path 0 --lr 1e-3 {LINEAR}",
        "bayesian_ensemble": "--model bayesian_ensemble --model_size small --model_kwargs symmetric=true "
        "--drop_path 0 --lr 1e-3 --weight_decay 0",
    }.items()
}
AIMS = {"a network": 0.92, "an ensemble": 0.95}  # accuracy
AIM_ECE = 0.03


@dataclass(frozen=True)
class Runs:
    """What the benchmarks of the lens networks share: where their runs are, of which data,
    and how long they train.
    """

    work: str = "runs/lens_models"  # data, stores, runs and tables; what is there is not done again
    data: str = ""  # folder of the four buckets; empty: they are simulated in --work
    store_dir: str = ""  # where they are packed; empty: in --work
    objects: int = 5000  # simulated, in each of the four buckets
    bands: list[str] = several(*"grizy")  # channels of an example
    epochs: int = 10  # of everybody
    fraction: float = 1.0  # of the training and validation objects, to try it out
    seeds: list[int] = several(42)  # a run each
    tta: bool = False  # predict with the eight symmetries of the square
    cores: int = 1  # processes at once, of one thread each
    table_only: bool = False  # train and predict nothing, show what is there


@dataclass(frozen=True)
class Config(Runs):
    only: str = ""  # networks, with commas between; empty: all

    def __post_init__(self):
        for name in filter(None, self.only.split(",")):
            config.pick("only", name, RECIPES)


def script(log: Path, name: str, *argv) -> float:
    """CPU seconds of a script of the project, on one thread; what it says goes to `log`,
    whose folder no other process has meanwhile.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log.parent / "lock", "w") as lock, open(log, "a") as out:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process has the lock, too, should it outlive this one
        process = subprocess.Popen(
            [sys.executable, name, *map(str, argv)],
            cwd=ROOT,
            env=os.environ | dict(OMP_NUM_THREADS="1"),
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise Mistake(
            f"{name} ended with {process.returncode}: {(log.read_text().split(chr(10))[-2:] or [''])[0]} "
            f"({log})"
        )
    return used.ru_utime + used.ru_stime


def inputs(options: Runs) -> list[str]:
    """The flags that name the data."""
    work = Path(options.work).resolve()
    return [
        "--data",
        str(Path(options.data or work / "data").resolve()),
        "--store_dir",
        str(Path(options.store_dir or work / "stores").resolve()),
    ]


def prepare(options: Runs) -> None:
    """Simulate the data, unless they are given, and pack them: no run's time has this in it."""
    flags = inputs(options)
    if not options.data and not Path(flags[1], "objects.csv").exists():
        script(
            Path(options.work, "simulate.log"),
            "simulate.py",
            "challenge",
            "--out",
            flags[1],
            "--objects",
            options.objects,
            "--seed",
            11,
        )
    lens_inputs.open_inputs(config.read_options(flags, lens.Config)[0], options.cores)


def trained(options: Runs, name: str, seed: int, *flags: str, data: list[str] | None = None) -> Path:
    """The directory of a finished run, of RECIPES' network that `name` begins with (what follows "-" says
    what `flags` change).
    """
    part = f"_f{options.fraction:g}" if options.fraction != 1 else ""
    out = Path(options.work).resolve() / f"{name}_e{options.epochs}{part}_s{seed}"
    if (out / "results.json").exists() or options.table_only:
        return out
    log = out / "training_log.csv"
    # epochs of an earlier part, whose time nobody took
    before = len(log.read_text().splitlines()) - 1 if log.exists() else 0
    seconds = script(
        out / "scripts.log",
        "train.py",
        *(data or inputs(options)),
        "--bands",
        *options.bands,
        *SHARED,
        *RECIPES[name.split("-")[0]],
        "--epochs",
        options.epochs,
        "--seed",
        seed,
        "--take_train_frac",
        options.fraction,
        "--take_val_frac",
        options.fraction,
        "--save_dir",
        out,
        *flags,
    )
    if options.epochs > before:
        (out / "minutes.json").write_text(
            json.dumps(seconds / 60 * options.epochs / (options.epochs - before))
        )
    return out


def asked(
    options: Runs,
    run: Path,
    folder: str = "",
    splits: tuple[str, ...] = ("val", "test"),
    data: list[str] | None = None,
) -> Path:
    """The folder with the predictions of a run for these splits."""
    out = run / (folder or ("tta" if options.tta else "single"))
    for which in splits:
        if not (out / f"pred_{which}.csv").exists() and not options.table_only:
            script(
                run / "scripts.log",
                "predict.py",
                "--model_path",
                run / "best.pt",
                *(data or inputs(options)),
                "--which",
                which,
                "--output_dir",
                out,
                "--device",
                "cpu",
                *(["--tta"] if options.tta else []),
            )
    return out


def finished(out: Path, splits: tuple[str, ...] = ("val", "test")) -> bool:
    return all((out / f"pred_{which}.csv").exists() for which in splits)


def judged(members: list[Path], out: Path, combine: str = "mean") -> dict:
    """Figures of the test objects by ensemble.py, of one member or many: global and by domain;
    `ece_after` calibration and its `kind`.
    """
    paths = {which: [str(member / f"pred_{which}.csv") for member in members] for which in ("val", "test")}

    def figures(folder: Path, *flags) -> dict:
        path = folder / "metrics_test_ens.json"
        if not path.exists() or json.loads(path.read_text())["about"]["members"] != paths["test"]:
            script(
                out / "scripts.log",
                "ensemble.py",
                "--val",
                *paths["val"],
                "--test",
                *paths["test"],
                "--combine",
                combine,
                "--out_dir",
                folder,
                *flags,
            )
        return json.loads(path.read_text())

    plain = figures(out / "raw")
    kind = best_calibration(
        next(
            path for name in ("val_ens_objects", "val_ens") if (path := out / "raw" / f"{name}.csv").exists()
        )
    )
    after = figures(out / kind, "--calibrate", kind) if kind != "none" else plain
    return plain | dict(kind=kind, ece_after=after["global"]["ece"])


def best_calibration(path: Path) -> str:
    """The kind that makes the labels of validation likeliest, each fold calibrated by the others;
    "none" where none can be fitted.
    """
    table, loss = predictions.read_predictions(str(path)), {}
    logit, label = predictions.logit(table["prob"].to_numpy()), table["label"].to_numpy()
    rows = identity.keys_of_rows(table)
    for kind in typing.get_args(calibration.Kind):
        # too few, or logits that do not rise with the label: it says nothing yet
        with contextlib.suppress(Mistake):
            loss[kind] = figures_of_merit.nll(
                label, calibration.out_of_fold(kind, logit, label, folds.deal_folds(rows, label, 42))
            )
    return min(loss, key=loss.get, default="none")


def opened(run: Path, *flags: str):
    """(the network of a run, the answer that predict.py would use:
    its examples, and how it asks the network).
    """
    options, own, task, saved = predict.read_options(
        ["--model_path", str(run / "best.pt"), "--device", "cpu", *flags]
    )
    answer = lens.answer(options, own, task, saved)
    return load_weights(answer.model, saved, torch.device("cpu")), answer


def cost(options: Runs, run: Path) -> dict[str, float]:
    """parameters, images/s of prediction and minutes of training (NaN where an interruption left
    no record).
    """
    if not (path := run / "cost.json").exists():
        torch.set_num_threads(1)
        network, answer = opened(run, *inputs(options))
        batch, seconds = answer.data.__getitems__(list(range(min(64, len(answer.data))))), []
        with torch.no_grad():
            for _ in range(6):  # the first warms up; of the others the best, as the machine has other work
                began = time.process_time()
                answer.predict(InPrecision(network, torch.float32), batch)
                seconds.append(time.process_time() - began)
        minutes = (
            json.loads((run / "minutes.json").read_text())
            if (run / "minutes.json").exists()
            else float("nan")
        )
        path.write_text(
            json.dumps(
                dict(
                    parameters=sum(p.numel() for p in network.parameters()),
                    speed=len(batch["label"]) / min(seconds[1:]),
                    minutes=minutes,
                )
            )
        )
    return json.loads(path.read_text())


def aligned(rows: list[tuple]) -> str:
    """Rows of text as a table for the screen; the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def line(name: str, figures: dict, spent: dict[str, float] | None) -> tuple:
    def interval(key: str) -> str:
        low, high = (whole.get(f"{key}_{side}") for side in ("low", "high"))
        return f"{whole[key]:.4f}" + (f" [{low:.4f}, {high:.4f}]" if low is not None else "")

    whole = figures["global"]
    costs = (
        (f"{spent['parameters']:,}", f"{spent['speed']:,.0f}", f"{spent['minutes']:.1f}")
        if spent
        else ("", "", "")
    )
    return (
        name,
        interval("accuracy"),
        interval("roc_auc"),
        interval("tpr_at_fpr_1e-3"),
        f"{whole['ece']:.4f}",
        f"{figures['ece_after']:.4f} {figures['kind']}",
        *(f"{figures[f'domain::{name}']['roc_auc']:.4f}" for name in DOMAINS),
        *costs,
    )


def in_parallel(options: Runs, jobs: dict) -> dict:
    """name -> the result of each job () -> result; one that fails is named on stderr, and missing."""
    results = {}
    if not options.table_only:
        prepare(options)
    with ThreadPoolExecutor(options.cores) as pool:
        for name, future in {name: pool.submit(job) for name, job in jobs.items()}.items():
            try:
                results[name] = future.result()
            except Mistake as mistake:
                print(f"{name}: {mistake}", file=sys.stderr, flush=True)
    return results


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    names = list(filter(None, options.only.split(","))) or list(RECIPES)
    found = in_parallel(
        options,
        {
            (name, seed): lambda name=name, seed=seed: asked(options, trained(options, name, seed))
            for seed in options.seeds
            for name in names
        },
    )
    members = {key: out for key, out in found.items() if finished(out)}
    rows = [
        (
            "test objects",
            "accuracy",
            "AUC",
            "TPR at FPR 1e-3",
            "ECE",
            "calibrated",
            "AUC slsim",
            "hsc",
            "parameters",
            "images/s",
            "train min",
        )
    ]
    singles, ensembles, where = (
        {},
        {},
        Path(options.work).resolve() / f"ensembles_e{options.epochs}{'_tta' if options.tta else ''}",
    )
    for (name, seed), out in sorted(members.items(), key=lambda item: names.index(item[0][0])):
        singles[f"{name}, seed {seed}"] = figures = judged([out], out / "judged")
        rows.append(line(f"{name}, seed {seed}", figures, cost(options, out.parent)))
    for name in names:
        if len(outs := [out for (other, _), out in members.items() if other == name]) > 1:
            ensembles[f"{name}, {len(outs)} seeds"] = judged(outs, where / name)
    if len({name for name, _ in members}) > 1:
        for combine in ("mean", "stack"):
            ensembles[f"all {len(members)}, {combine}"] = judged(
                list(members.values()), where / combine, combine
            )
    rows += [line(name, figures, None) for name, figures in ensembles.items()]
    print(aligned(rows) if members else "no run has finished", flush=True)
    for what, figures in (("a network", singles), ("an ensemble", ensembles)):
        if figures:
            best, largest = (
                max(f["global"]["accuracy"] for f in figures.values()),
                max(f["ece_after"] for f in figures.values()),
            )
            print(
                f"{what}: best accuracy {best:.4f}, aim {AIMS[what]:g}, "
                f"{'met' if best >= AIMS[what] else 'missed'}; largest calibrated ECE {largest:.4f}, aim "
                f"{AIM_ECE:g}, {'met' if largest < AIM_ECE else 'missed'}"
            )
    if members:
        (Path(options.work) / f"table_e{options.epochs}.json").write_text(
            json.dumps(singles | ensembles, indent=1) + "\n"
        )


if __name__ == "__main__":
    config.run_script(main)

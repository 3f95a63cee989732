"""The light-curve autoencoder on simulated curves: beside a constant rate, log-normal scatter,
the request's loss, and hand-made statistics.

    python benchmarks/light_curves/light_curve_vae.py --out benchmarks/out/curves

Simulates 4,096 three-band curves of six processes, trains the recommended configuration; then, for as many
seconds of the processor, the request's as it stands, and the recommended network with the request's loss; and
prints their held-out figures and probes. Last, a network that never saw eruptions says how anomalous they
are.
"""

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import pandas as pd  # noqa: E402  the path above comes first
from sklearn.metrics import roc_auc_score  # noqa: E402

from evaluation import probe  # noqa: E402
from utils import config  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
SHEETS = ROOT / "run_sheets"
ODD = "qpe"  # the process that the last network never sees


@dataclass(frozen=True)
class Config:
    out: str = "benchmarks/out/curves"  # where data and runs go
    curves: int = 4096  # to simulate
    seed: int = 42  # of training
    epochs: int = 0  # of the recommended configuration; 0 = its own


def script(name: str, *arguments) -> str:
    return subprocess.run(
        [sys.executable, ROOT / name, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def train(run: Path, sheet: str, data: Path, *options) -> float:
    """Seconds of the processor, which what else runs on the machine does not lengthen."""
    start = spent()
    script(
        "train.py",
        "--config",
        SHEETS / sheet,
        "--data",
        data,
        "--store_dir",
        run.parent / "stores",
        "--save_dir",
        run,
        "--restart",
        "--plot_every",
        0,
        *options,
    )
    return spent() - start


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def embedded(run: Path, data: Path, labels: Path) -> tuple[dict, pd.DataFrame]:
    script(
        "predict.py",
        "--model_path",
        run / "best.pt",
        "--data",
        data,
        "--store_dir",
        run.parent / "stores",
        "--which",
        "all",
        "--output_dir",
        run / "embedding",
        "--probe",
        f"{labels}:process",
    )
    return json.loads((run / "embedding/probe_all.json").read_text()), pd.read_parquet(
        run / "embedding/embedding_all.parquet"
    )


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    out = Path(options.out)
    data, labels = out / "data", out / "data/labels.csv"
    print(
        script(
            "simulate.py",
            "light_curves",
            "--out",
            data,
            "--curves",
            options.curves,
            "--seed",
            7,
            "--workers",
            1,
        ).strip()
    )
    table, probes = [], {}

    def judged(name: str, sheet: str, seconds: float | None, *more) -> float:
        """Train to the end, or for so many seconds as measured on two epochs before."""
        run, common = out / name, ("--seed", options.seed, *more)
        if seconds is not None:
            once, twice = (train(run, sheet, data, *common, "--epochs", epochs) for epochs in (1, 3))
            common += ("--epochs", max(1, round((seconds - once) / ((twice - once) / 2))))
        elif options.epochs:
            common += ("--epochs", options.epochs)
        cost = train(run, sheet, data, *common)
        results = json.loads((run / "results.json").read_text())
        probes[name], _ = embedded(run, data, labels)
        table.append(
            dict(run=name, seconds=round(cost), epochs=results["epochs"])
            | {
                figure: round(results["test"].get(figure, float("nan")), 4)
                for figure in ("deviance", "gain", "gain_hidden", "gain_log_normal", "active_units", "kl")
            }
        )
        return cost

    seconds = judged("recommended", "light_curve_recommended.yaml", None)
    judged("request", "light_curve_request.yaml", seconds)
    judged("request_faster", "light_curve_request.yaml", seconds, "--lr", 1e-3)
    judged(
        "request_loss",
        "light_curve_recommended.yaml",
        seconds,
        "--likelihood",
        "squared_error",
        "--kl_weight",
        0.001,
        "--scatter",
        "false",
    )
    print(pd.DataFrame(table).to_string(index=False))
    print(
        probe.probe_table(
            {name: result["embedding"] for name, result in probes.items()}
            | {"nine statistics": probes["recommended"]["nine_statistics"]}
        )
    )

    truth = pd.read_csv(labels)
    known = out / "without_odd.txt"
    known.write_text("".join(f"data/{path}\n" for path in truth["path"][truth["process"] != ODD]))
    train(
        out / "without_odd",
        "light_curve_recommended.yaml",
        known,
        "--seed",
        options.seed,
        *(("--epochs", options.epochs) if options.epochs else ()),
    )
    _, frame = embedded(out / "without_odd", data, labels)
    frame = frame.merge(truth[["source", "process"]], on="source")
    frame = frame[(frame["process"] == ODD) | (frame["split"] == "test")]
    statistics = (
        frame["shortfall"],
        frame.eval("deviance / points"),
        frame.eval("constant_deviance / points"),
        frame["stat_excess_variance"],
    )
    print(
        f"AUC of {ODD}, never seen in training, against held-out curves of the other processes: "
        + ", ".join(
            f"{name} {roc_auc_score(frame['process'] == ODD, values):.3f}"
            for name, values in zip(
                ("anomaly", "shortfall", "deviance a point", "constant's deviance", "excess variance"),
                (frame["anomaly"], *statistics),
            )
        )
    )


if __name__ == "__main__":
    config.run_script(main)

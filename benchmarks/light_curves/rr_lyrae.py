"""RR Lyrae of type ab or c, told from what the autoencoder learned of their light curves without labels or
periods.

    pip install -r requirements-benchmarks.txt
    python benchmarks/light_curves/rr_lyrae.py --curves light_curves.csv.gz --labels periods.csv --out runs/rr

The curves of Sesar et al. 2010 (ApJ 708, 717): 483 stars of SDSS Stripe 82 in ugriz; a table of id, time
(days), mag, magerr, band, and one of Num (the id), Type (ab or c) and Per, which nothing here reads: a
threshold on it is right every time. For each seed run_sheets/light_curve_rr_lyrae.yaml is trained on all
curves and each is embedded; five-fold probes (evaluation/probe.py) of the embedding stand beside the
majority, a threshold on the amplitude in g, and features of the light-curve package.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from data.light_curves.curve import LightCurve, Reading  # noqa: E402  the path above comes first
from data.light_curves.files import read_light_curves  # noqa: E402
from evaluation.probe import FOLDS, probe, probe_table  # noqa: E402
from utils import config  # noqa: E402
from utils.config import several  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

SHEET = "run_sheets/light_curve_rr_lyrae.yaml"
ROUND = 0.6  # mag: the threshold on the amplitude that has been quoted


@dataclass(frozen=True)
class Config:
    curves: str = ""  # table of the light curves, .csv or .csv.gz
    labels: str = ""  # CSV of Num and Type
    out: str = "runs/rr_lyrae"  # runs, embeddings and results.json go here
    seeds: list[int] = several(42, 101, 202)  # of the trainings

    def __post_init__(self):
        for name in ("curves", "labels"):
            if not Path(getattr(self, name)).is_file():
                raise Mistake(
                    f"--{name}: there is no file {getattr(self, name)!r}; see the head of this script for "
                    "what it holds"
                )
        if not self.seeds:
            raise Mistake("--seeds: expected at least one")


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


def embedded(options: Config, seed: int) -> tuple[pd.DataFrame, float]:
    """The embedding of each curve, by source, and the seconds that training took (next to none where it had
    been done).
    """
    out, began = Path(options.out).resolve() / f"s{seed}", time.monotonic()
    inputs = ["--data", Path(options.curves).resolve(), "--store_dir", Path(options.out).resolve() / "stores"]
    run("train.py", "--config", SHEET, *inputs, "--seed", seed, "--save_dir", out, "--device", "cpu")
    seconds = time.monotonic() - began
    run(
        "predict.py",
        "--model_path",
        out / "best.pt",
        *inputs,
        "--which",
        "all",
        "--output_dir",
        out,
        "--device",
        "cpu",
    )
    frame = pd.read_parquet(out / "embedding_all.parquet").set_index("source")
    if len(refused := frame[frame["reason"] != ""]):
        raise Mistake(
            f"{options.curves}: {len(refused)} curves have no embedding ({refused.index[0]}: "
            f"{refused['reason'].iloc[0]})"
        )
    return frame, seconds


def sets_of(frame: pd.DataFrame, colours: np.ndarray) -> dict[str, np.ndarray]:
    """Features [N, F] by name: what the network says of each curve,
    with and without the colours that `curve_scale` takes out.
    """
    means = frame.filter(regex="^z_").to_numpy(np.float64)
    whole = np.hstack([means, np.log(frame.filter(regex="^s_").to_numpy(np.float64))])
    return {
        "means": means,
        "means and log deviations": whole,
        "means and colours": np.hstack([means, colours]),
        "means, log deviations, colours": np.hstack([whole, colours]),
    }


def colours_of(curves: list[LightCurve]) -> np.ndarray:
    """[N, C - 1]: ln of the ratio of the mean rates in neighbouring bands."""
    means = [
        [curve.rate[curve.observed[:, band], band].mean() for band in range(len(curve.bands))]
        for curve in curves
    ]
    return np.diff(np.log(means), axis=1)


def magnitudes(curve: LightCurve, band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """time (days), magnitude and its error [T] each, float64, where the band was observed."""
    there = curve.observed[:, band]
    rate, error = (field[there, band].astype(np.float64) for field in (curve.rate, curve.error_up))
    return (
        curve.time[there] / 86400,
        Reading().zero_point - 2.5 * np.log10(rate),
        error / rate / (0.4 * np.log(10)),
    )


def features_of_package(curves: list[LightCurve]) -> np.ndarray:
    """[N, C, F] of magnitudes: the features of the light-curve package
    (Malanchev et al. 2021, MNRAS 502, 5147) that look for no period.
    """
    import light_curve as package

    extractor = package.Extractor(
        package.Amplitude(),
        package.AndersonDarlingNormal(),
        package.BeyondNStd(1),
        package.BeyondNStd(2),
        package.Cusum(),
        package.Eta(),
        package.EtaE(),
        package.ExcessVariance(),
        package.InterPercentileRange(0.02),
        package.InterPercentileRange(0.1),
        package.InterPercentileRange(0.25),
        package.Kurtosis(),
        package.LinearFit(),
        package.LinearTrend(),
        package.MagnitudePercentageRatio(0.4, 0.05),
        package.MagnitudePercentageRatio(0.2, 0.1),
        package.MaximumSlope(),
        package.Mean(),
        package.Median(),
        package.MedianAbsoluteDeviation(),
        package.MedianBufferRangePercentage(0.1),
        package.OtsuSplit(),
        package.PercentAmplitude(),
        package.PercentDifferenceMagnitudePercentile(0.05),
        package.ReducedChi2(),
        package.Skew(),
        package.StandardDeviation(),
        package.StetsonK(),
        package.WeightedMean(),
    )
    return np.array(
        [
            [extractor(*magnitudes(curve, band), sorted=True) for band in range(len(curve.bands))]
            for curve in curves
        ]
    )


def threshold(amplitude: np.ndarray, large: np.ndarray) -> float:
    """The amplitude above which calling a star `large` is right most often; amplitude, large [N]."""
    here = np.sort(amplitude)
    middles = np.r_[here[0] - 1, (here[:-1] + here[1:]) / 2]
    return float(middles[np.argmax([((amplitude > middle) == large).mean() for middle in middles])])


def of_amplitude(amplitude: np.ndarray, large: np.ndarray) -> dict[str, float]:
    """Accuracy of a threshold chosen on all stars, of the round one,
    and of one chosen without the stars that are judged.
    """
    from sklearn.model_selection import StratifiedKFold

    # the folds of the probes
    each = [
        ((amplitude[test] > threshold(amplitude[known], large[known])) == large[test]).mean()
        for known, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(amplitude, large)
    ]
    best = threshold(amplitude, large)
    return dict(
        best=best,
        in_sample=float(((amplitude > best) == large).mean()),
        round=float(((amplitude > ROUND) == large).mean()),
        accuracy=float(np.mean(each)),
        error=float(np.std(each, ddof=1) / FOLDS**0.5),
    )


def types_of(path: str, sources: list[str]) -> np.ndarray:
    """[N] str, the type of each source; the period is not read."""
    try:
        types = pd.read_csv(path, usecols=["Num", "Type"], dtype=str).set_index("Num")["Type"].to_dict()
    except ValueError as error:
        raise Mistake(f"--labels {path!r}: {error}; expected columns Num and Type") from error
    if missing := [source for source in sources if source not in types]:
        raise Mistake(
            f"--labels {path!r}: {len(missing)} of {len(sources)} curves have no type, such as {missing[0]!r}"
        )
    return np.array([types[source] for source in sources])


def over_seeds(results: list[dict[str, Any]]) -> str:
    """A line: the mean accuracy of a set of features over seeds, the standard error of folds,
    the deviation from seed to seed.
    """
    parts = []
    for kind in ("linear", "forest"):
        accuracy = [result[kind]["accuracy"] for result in results]
        spread = f", seeds {np.std(accuracy, ddof=1):.3f}" if len(accuracy) > 1 else ""
        parts.append(
            f"{np.mean(accuracy):.3f} +- {np.mean([result[kind]['error'] for result in results]):.3f}{spread}"
        )
    return "  ".join(parts)


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    try:
        import light_curve  # noqa: F401  said before the work, not after
    except ImportError as error:
        raise Mistake(
            f"the light-curve package is missing ({error}): pip install -r requirements-benchmarks.txt"
        ) from error
    curves = read_light_curves(options.curves, Reading())
    labels = types_of(options.labels, sources := [curve.source for curve in curves])
    bands = curves[0].bands
    amplitude = np.array([np.ptp(magnitudes(curve, bands.index("g"))[1]) for curve in curves])
    by_hand = of_amplitude(amplitude, labels == "ab")
    print(
        f"{len(curves)} stars, "
        f"{', '.join(f'{count} {name}' for name, count in zip(*np.unique(labels, return_counts=True)))}, "
        f"in {' '.join(bands)}; accuracy in {FOLDS}-fold cross-validation, with its standard error over "
        "folds\n"
        f"amplitude in g: {by_hand['accuracy']:.3f} +- {by_hand['error']:.3f}; in sample "
        f"{by_hand['in_sample']:.3f} above {by_hand['best']:.3f} mag, "
        f"{by_hand['round']:.3f} above {ROUND:g} mag",
        flush=True,
    )
    package, colours = features_of_package(curves), colours_of(curves)
    runs = {seed: embedded(options, seed) for seed in options.seeds}
    frames = {seed: frame.loc[sources] for seed, (frame, _) in runs.items()}
    everywhere, name = package.reshape(len(curves), -1), f"light-curve, {package.shape[2]}"
    others = {
        "colours": colours,
        "amplitude in g and colours": np.column_stack([amplitude, colours]),
        "nine statistics": frames[options.seeds[0]].filter(regex="^stat_").to_numpy(np.float64),
        f"{name} in g": package[:, bands.index("g")],
        f"{name} in each band": everywhere,
        f"{name} in each band, and colours": np.hstack([everywhere, colours]),
    }
    probes = {name: probe(features, labels) for name, features in others.items()}
    print(probe_table(probes), flush=True)
    ours = {
        seed: {name: probe(features, labels) for name, features in sets_of(frame, colours).items()}
        for seed, frame in frames.items()
    }
    print(f"ours, mean of {len(ours)} seeds; the deviation from seed to seed last")
    for name in ours[options.seeds[0]]:
        print(f"  {name:<30}  {over_seeds([result[name] for result in ours.values()])}")
    print("seconds to train: " + ", ".join(f"{seconds:.0f}" for _, seconds in runs.values()))
    (Path(options.out) / "results.json").write_text(
        json.dumps(dict(amplitude=by_hand, others=probes, ours=ours), indent=1) + "\n"
    )


if __name__ == "__main__":
    config.run_script(main)

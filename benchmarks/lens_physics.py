"""What the physics is worth: false positives with and without its terms, and how well the inferred lens is known.

    python benchmarks/lens_physics.py --work runs/lens_physics --cores 2 --epochs 6
    python benchmarks/lens_physics.py --work runs/lens_physics --arms plain,regression,physics --only robust_resnet --table_only

Pairs of runs that differ in the terms of the loss alone: same network, weights at the start, order, epochs. "plain": the label alone; for
pinn_lens the geometry then stays near its first guess, and what judges sees the residuals of that. "regression": the geometry of the
training lenses besides, from parameters.fits. "physics": this, and the terms of the fitted lens (--use_physics). False positives are
counted on test at the threshold that finds 90 % of the test lenses. Like benchmarks/lens_models.py, it goes on where it was.
The parameters are those of pinn_lens with physics, for the lenses of the test split; errors are predict.py's, calibrated on validation.
Within 1 sigma is meant of the logarithm for a positive quantity. The size of an ellipticity or a shear cannot be normal near zero:
it is never below, and what is inferred of it as a vector is nearer to zero than it is.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from data import parameters  # noqa: E402  the path above comes first
from data.buckets import parse_name  # noqa: E402
from lens_models import RECIPES, Runs, aligned, asked, finished, in_parallel, trained  # noqa: E402
from physics.lens_parameters import QUANTITIES  # noqa: E402
from utils import config, figures_of_merit, predictions  # noqa: E402
from utils.config import several  # noqa: E402

COMPLETENESS = 0.9
AIM = -0.10                      # relative change of the false positives
AIM_ERROR, AIM_COVERAGE = 0.10, (0.63, 0.73)
ARMS = {name: ["--rotate", "0", *flags] for name, flags in {             # few epochs: what delays learning by heart is not needed yet
    "plain": ["--no_use_physics", "--regression_weight", "0"],
    "regression": ["--no_use_physics"],
    "physics": ["--use_physics"],
}.items()}


@dataclass(frozen=True)
class Config(Runs):
    work: str = "runs/lens_physics"          # data, stores and runs; what is there is not done again
    epochs: int = 6                          # of everybody
    seeds: list[int] = several(42, 101, 202, 303, 404)     # a pair of runs each
    only: str = "pinn_lens,robust_resnet"    # networks, with commas between
    arms: str = "plain,physics"              # of plain, regression and physics, with commas between; each is compared with the first

    def __post_init__(self):
        for name in self.only.split(","):
            config.pick("only", name, RECIPES)
        for arm in self.arms.split(","):
            config.pick("arms", arm, ARMS)


def objects(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row an object, of a table whose rows are its bands; those that the network did not see lack `column`."""
    table = table[table[column].notna()]
    return table.assign(object=[parse_name(path)[0] for path in table["path"]]).drop_duplicates("object")


def false_positives(folder: Path) -> int:
    """Test objects that are no lens and score as high as the lens that completes 90 % of them."""
    table = objects(predictions.read(str(folder / "pred_test.csv")), "prob")
    curve = figures_of_merit.curve(table["label"], table["prob"])
    return int(curve.fp[np.argmax(curve.tp >= COMPLETENESS * curve.tp[-1])])


def interval(change: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of the mean of some numbers, 95 % by Student's t; NaN for less than two."""
    mean = float(np.mean(change))
    half = float(stats.t.ppf(0.975, len(change) - 1) * stats.sem(change)) if len(change) > 1 else float("nan")
    return mean, mean - half, mean + half


def compared(options: Config, found: dict[tuple, Path]) -> None:
    arms = options.arms.split(",")
    counts = {key: false_positives(out) for key, out in found.items()}
    rows = [("false positives at completeness 0.9", *(f"seed {seed}" for seed in options.seeds), "mean", "change, paired by seed [95 %]")]
    for name in options.only.split(","):
        for arm in arms:
            mine = {seed: counts[name, arm, seed] for seed in options.seeds if (name, arm, seed) in counts}
            pairs = {seed: counts[name, arms[0], seed] for seed in mine if counts.get((name, arms[0], seed))}
            said = ""
            if arm != arms[0] and pairs:
                mean, low, high = interval(np.array([mine[seed] / before - 1 for seed, before in pairs.items()]))
                met = "met" if high < AIM else "the mean alone" if mean < AIM else "missed"
                said = f"{mean:+.1%} [{low:+.1%}, {high:+.1%}] of {len(pairs)}, aim {AIM:+.0%}: {met}"
            rows.append((f"{name}, {arm}", *(str(mine.get(seed, "")) for seed in options.seeds),
                         f"{np.mean([*mine.values()]):.1f}" if mine else "", said))
    print(aligned(rows), flush=True)


def known(folder: Path, which: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(what was inferred, what is true) of the lenses of a split, both by object."""
    labels = objects(predictions.read(str(folder / f"pred_{which}.csv")), "prob")
    inferred = objects(pd.read_csv(folder / f"parameters_{which}.csv"), "Rein")
    inferred = inferred[inferred["object"].isin(labels.loc[labels["label"] == 1, "object"])].set_index("object")
    truth = parameters.read(inferred["path"]).set_index("object").reindex(inferred.index)
    return inferred, truth


def recovered(inferred: pd.DataFrame, truth: pd.DataFrame) -> list[tuple]:
    """A row for each column of the challenge's table that was inferred: how far off, and how many within one standard error."""
    rows = [("lenses of the test split", "median |error|", "relative", "within 1 sigma", "n")]
    for quantity in QUANTITIES.values():
        for column in quantity.columns:
            if column not in inferred or column not in truth:
                continue
            off = (inferred[column] - truth[column]).to_numpy()
            if quantity.kind == "axis" and column == quantity.columns[1]:
                off = (off + 90) % 180 - 90                  # of a position angle
            there, error = np.isfinite(off), inferred[f"{column}_err"].to_numpy()
            if there.any():
                off, error, value = (np.abs(each[there]) for each in (off, error, truth[column].to_numpy()))
                relative, within = "", off <= error
                if quantity.kind == "positive":              # the error is that of the logarithm, times the value
                    mine = inferred[column].to_numpy()[there]
                    relative, within = f"{np.median(off / value):.3f}", np.abs(np.log(mine / value)) <= error / mine
                rows.append((column, f"{np.median(off):.4g}", relative, f"{within.mean():.3f}", f"{there.sum():,}"))
    return rows


def main(argv: list[str]) -> None:
    options, = config.read(argv, Config)
    jobs = {(name, arm, seed): lambda name=name, arm=arm, seed=seed:
            asked(options, trained(options, f"{name}-{arm}", seed, *ARMS[arm]), splits=("test",))
            for seed in options.seeds for name in options.only.split(",") for arm in options.arms.split(",")}
    found = {key: out for key, out in in_parallel(options, jobs).items() if finished(out, ("test",))}
    compared(options, found)
    for seed in options.seeds:
        if ("pinn_lens", "physics", seed) in found:
            rows = recovered(*known(found["pinn_lens", "physics", seed]))
            print(f"\npinn_lens, seed {seed}\n{aligned(rows)}")
            radius = next(row for row in rows if row[0] == "Rein")
            low, high = AIM_COVERAGE
            print(f"Einstein radius: median relative error {radius[2]}, aim {AIM_ERROR:g}, {'met' if float(radius[2]) < AIM_ERROR else 'missed'}; "
                  f"within 1 sigma {radius[3]}, aim {low:g} to {high:g}, {'met' if low <= float(radius[3]) <= high else 'missed'}", flush=True)


if __name__ == "__main__":
    config.run(main)

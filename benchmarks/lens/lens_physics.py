"""What the physics is worth: false positives with and without its terms.

    python benchmarks/lens/lens_physics.py --work runs/lens_physics --cores 2 --epochs 6
    python benchmarks/lens/lens_physics.py --work runs/lens_physics --arms plain,regression,physics --only \
        robust_resnet --table_only

Pairs of runs that differ in the terms of the loss alone: same network, weights at the start, order, epochs.
"plain": the label alone; for pinn_lens the geometry then stays near its first guess, and what judges sees the
residuals of that. "regression": the geometry of the training lenses besides, from parameters.fits. "physics":
this, and the terms of the fitted lens (--use_physics). False positives are counted on test at the threshold
that finds 90 % of the test lenses. Like benchmarks/lens/lens_models.py, it goes on where it was.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "lens")]

from lens_models import RECIPES, Runs, aligned, asked, finished, in_parallel, trained  # noqa: E402  the path above comes first
from lens_quantities import objects  # noqa: E402
from evaluation import figures_of_merit, predictions  # noqa: E402
from utils import config  # noqa: E402
from utils.config import several  # noqa: E402

COMPLETENESS = 0.9
AIM = -0.10  # relative change of the false positives
# few epochs: what delays learning by heart is not needed yet
ARMS = {
    name: ["--rotate", "0", *flags]
    for name, flags in {
        "plain": ["--no_use_physics", "--regression_weight", "0"],
        "regression": ["--no_use_physics"],
        "physics": ["--use_physics"],
    }.items()
}


@dataclass(frozen=True)
class Config(Runs):
    work: str = "runs/lens_physics"  # data, stores and runs; what is there is not done again
    epochs: int = 6  # of everybody
    seeds: list[int] = several(42, 101, 202, 303, 404)  # a pair of runs each
    only: str = "pinn_lens,robust_resnet"  # networks, with commas between
    # of plain, regression and physics, with commas between; each is compared with the first
    arms: str = "plain,physics"

    def __post_init__(self):
        for name in self.only.split(","):
            config.pick("only", name, RECIPES)
        for arm in self.arms.split(","):
            config.pick("arms", arm, ARMS)


def false_positives(folder: Path) -> int:
    """Test objects that are no lens and score as high as the lens that completes 90 % of them."""
    table = objects(predictions.read_predictions(str(folder / "pred_test.csv")), "prob")
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
    rows = [
        (
            "false positives at completeness 0.9",
            *(f"seed {seed}" for seed in options.seeds),
            "mean",
            "change, paired by seed [95 %]",
        )
    ]
    for name in options.only.split(","):
        for arm in arms:
            mine = {seed: counts[name, arm, seed] for seed in options.seeds if (name, arm, seed) in counts}
            pairs = {seed: counts[name, arms[0], seed] for seed in mine if counts.get((name, arms[0], seed))}
            said = ""
            if arm != arms[0] and pairs:
                mean, low, high = interval(
                    np.array([mine[seed] / before - 1 for seed, before in pairs.items()])
                )
                met = "met" if high < AIM else "the mean alone" if mean < AIM else "missed"
                said = f"{mean:+.1%} [{low:+.1%}, {high:+.1%}] of {len(pairs)}, aim {AIM:+.0%}: {met}"
            rows.append(
                (
                    f"{name}, {arm}",
                    *(str(mine.get(seed, "")) for seed in options.seeds),
                    f"{np.mean([*mine.values()]):.1f}" if mine else "",
                    said,
                )
            )
    print(aligned(rows), flush=True)


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    jobs = {
        (name, arm, seed): lambda name=name, arm=arm, seed=seed: asked(
            options, trained(options, f"{name}-{arm}", seed, *ARMS[arm]), splits=("test",)
        )
        for seed in options.seeds
        for name in options.only.split(",")
        for arm in options.arms.split(",")
    }
    found = {key: out for key, out in in_parallel(options, jobs).items() if finished(out, ("test",))}
    compared(options, found)


if __name__ == "__main__":
    config.run_script(main)

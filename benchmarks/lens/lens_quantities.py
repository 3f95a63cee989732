"""How well the inferred lens is known: parameters of the lenses of the test split,
beside those that they were simulated with.

    python benchmarks/lens/lens_quantities.py --work runs/lens_models --cores 2 --epochs 12
    python benchmarks/lens/lens_quantities.py --work runs/lens_models --epochs 12 --only pinn_lens

The networks are those of benchmarks/lens/lens_models.py, trained for their label and the geometry together;
what is trained there is not trained again. Errors are predict.py's, calibrated on validation. Within 1 sigma
is meant of the logarithm for a positive quantity. The size of an ellipticity or a shear cannot be normal near
zero: it is never below, and what is inferred of it as a vector is nearer to zero than it is.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "lens")]

from data.cutouts import truth as parameters  # noqa: E402  the path above comes first
from data.names import parse_name  # noqa: E402
from lens_models import RECIPES, Runs, aligned, asked, finished, in_parallel, trained  # noqa: E402
from evaluation import predictions  # noqa: E402
from physics.lens_parameters import QUANTITIES  # noqa: E402
from utils import config  # noqa: E402

AIM_ERROR, AIM_COVERAGE = 0.10, (0.63, 0.73)  # of the Einstein radius


@dataclass(frozen=True)
class Config(Runs):
    only: str = "pinn_lens"  # networks, with commas between

    def __post_init__(self):
        for name in self.only.split(","):
            config.pick("only", name, RECIPES)


def objects(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row an object, of a table whose rows are its bands;
    those that the network did not see lack `column`.
    """
    table = table[table[column].notna()]
    return table.assign(object=[parse_name(path)[0] for path in table["path"]]).drop_duplicates("object")


def known(folder: Path, which: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(what was inferred, what is true) of the lenses of a split, both by object."""
    labels = objects(predictions.read_predictions(str(folder / f"pred_{which}.csv")), "prob")
    inferred = objects(pd.read_csv(folder / f"parameters_{which}.csv"), "Rein")
    inferred = inferred[inferred["object"].isin(labels.loc[labels["label"] == 1, "object"])].set_index(
        "object"
    )
    truth = parameters.read_truth(inferred["path"]).set_index("object").reindex(inferred.index)
    return inferred, truth


def recovered(inferred: pd.DataFrame, truth: pd.DataFrame) -> list[tuple]:
    """A row for each column of the challenge's table that was inferred:
    how far off, and how many within one standard error.
    """
    rows = [("lenses of the test split", "median |error|", "relative", "within 1 sigma", "n")]
    for quantity in QUANTITIES.values():
        for column in quantity.columns:
            if column not in inferred or column not in truth:
                continue
            off = (inferred[column] - truth[column]).to_numpy()
            if quantity.kind == "axis" and column == quantity.columns[1]:
                off = (off + 90) % 180 - 90  # of a position angle
            there, error = np.isfinite(off), inferred[f"{column}_err"].to_numpy()
            if there.any():
                off, error, value = (np.abs(each[there]) for each in (off, error, truth[column].to_numpy()))
                relative, within = "", off <= error
                if quantity.kind == "positive":  # the error is that of the logarithm, times the value
                    mine = inferred[column].to_numpy()[there]
                    relative, within = (
                        f"{np.median(off / value):.3f}",
                        np.abs(np.log(mine / value)) <= error / mine,
                    )
                rows.append(
                    (column, f"{np.median(off):.4g}", relative, f"{within.mean():.3f}", f"{there.sum():,}")
                )
    return rows


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    jobs = {
        (name, seed): lambda name=name, seed=seed: asked(options, trained(options, name, seed))
        for seed in options.seeds
        for name in options.only.split(",")
    }
    for (name, seed), out in in_parallel(options, jobs).items():
        if not finished(out):
            continue
        rows = recovered(*known(out))
        print(f"{name}, seed {seed}\n{aligned(rows)}")
        radius, (low, high) = next(row for row in rows if row[0] == "Rein"), AIM_COVERAGE
        print(
            f"Einstein radius: median relative error {radius[2]}, aim {AIM_ERROR:g}, "
            f"{'met' if float(radius[2]) < AIM_ERROR else 'missed'}; within 1 sigma {radius[3]}, aim {low:g} "
            f"to {high:g}, {'met' if low <= float(radius[3]) <= high else 'missed'}\n",
            flush=True,
        )


if __name__ == "__main__":
    config.run_script(main)

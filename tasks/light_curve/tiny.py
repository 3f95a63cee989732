"""A few optical light curves in two bands, for tests and a first try."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.seeding import seed_from

STARS = 40
POINTS = 9  # of each


def tiny(folder: Path) -> list[str]:
    """Writes 40 curves to `folder`/curves.csv; returns the flags that train a small network on them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed_from("tiny", "light curves"))
    rows = []
    for star in range(STARS):
        for time in np.sort(draw.uniform(0, 30, POINTS)):
            for band in "gr":
                magnitude = 20 + np.sin(time + star) + 0.1 * draw.standard_normal()
                rows.append((f"star_{star}", time, magnitude, 0.1, band))
    path = folder / "curves.csv"
    pd.DataFrame(rows, columns=["id", "time", "mag", "magerr", "band"]).to_csv(path, index=False)
    data = ["--data", str(path), "--store_dir", str(folder / "stores")]
    split = ["--train_frac", "0.6", "--val_frac", "0.2", "--test_frac", "0.2"]
    small = ["--hidden", "8", "--latent", "3", "--layers", "1", "--harmonics", "4"]
    exact = ["--hide", "0", "--dropout", "0", "--kl_warm_up", "0", "--plot_every", "0"]
    return data + split + small + exact

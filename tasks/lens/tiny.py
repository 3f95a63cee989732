"""A few cutouts, lenses with a ring and galaxies without, for tests and a first try."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from data.cutouts.buckets import BUCKETS
from utils.seeding import seed_from

OBJECTS = 12  # in each bucket
SIDE = 41  # pixels
NOISE = 0.02  # of the brightest pixel of a galaxy


def tiny(folder: Path) -> list[str]:
    """Writes 48 objects in bands g and r to `folder`/cutouts;
    returns the flags that train a small network on them.
    """
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    radius = np.hypot(x, y)
    for bucket, (_, label) in BUCKETS.items():
        place = folder / "cutouts" / bucket
        place.mkdir(parents=True, exist_ok=True)
        for number in range(OBJECTS):
            draw = np.random.default_rng(seed_from("tiny", bucket, number))
            ring = np.exp(-(((radius - draw.uniform(6, 10)) / 1.5) ** 2)) if label else 0.0
            for band, colour in (("g", 1.0), ("r", 0.3)):
                image = np.exp(-radius / draw.uniform(2, 4)) + 0.5 * colour * ring
                image += NOISE * draw.standard_normal(image.shape)
                name = f"{bucket}_{number:04d}_{band}.fits"
                fits.PrimaryHDU(image.astype(np.float32)).writeto(place / name, overwrite=True)
    data = ["--data", str(folder / "cutouts"), "--store_dir", str(folder / "stores"), "--band_mode", "stack"]
    split = ["--train_frac", "0.5", "--val_frac", "0.25", "--test_frac", "0.25"]
    small = [
        "--model",
        "robust_resnet",
        "--model_size",
        "18",
        "--model_kwargs",
        "width=0.125",
        "--drop_path",
        "0",
    ]
    return data + split + small

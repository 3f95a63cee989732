"""Einstein radii of real lenses, SLACS as Hubble saw them, by pinn_lens, which has seen simulated ones alone.

    python benchmarks/lens/slacs_rings.py --work runs/lens_models --slacs slacs_hst --epochs 20

--slacs is a folder with 198x198/*.fits (ACS F814W, 0.05 arcsec) and slacs_params.csv, as in
github.com/phdenzel/slacs-match. The network is trained on the i band of simulated cutouts. Each image is
brought to what such a cutout is: Gaussian blur to the seeing of the simulated i band, 41x41 pixels of 0.2
arcsec that conserve the flux, counts of zero point 27, and the noise of a coadd of one year, sky and photons.
What stays different: F814W is wider than i; these lenses are nearer, larger and brighter than nearly all
simulated ones; and single exposures are full of cosmic rays, which are counted but not removed. The radius of
the catalogue is of a free-form model, ours of an isothermal ellipse. Beside it, the guess of one who knows
the simulated lenses' median radius alone.
"""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "lens")]

from data.catalogues.resample import cropped, resampled  # noqa: E402
from data.cutouts import quality  # noqa: E402  the path above comes first
from data.names import parse_name  # noqa: E402
from simulations.challenge.images import SURVEYS, pixel_noise, rubin_gain  # noqa: E402
from simulations.challenge.lenses import BANDS, PIXEL_SCALE, ZERO_POINT  # noqa: E402
from simulations.challenge.sky import SIZE  # noqa: E402
from lens_models import Runs, aligned, asked, finished, in_parallel, script, trained  # noqa: E402
from lens_quantities import known, recovered  # noqa: E402
from utils import config  # noqa: E402
from utils.config import several  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

HUBBLE_SCALE = 0.05  # arcsec
HUBBLE_SEEING = 0.10  # arcsec, full width of ACS in F814W
RADIUS = re.compile(r"([\d.]+)_\{-([\d.]+)\}\^\{\+([\d.]+)\}")


@dataclass(frozen=True)
class Config(Runs):
    slacs: str = ""  # folder of the real images; empty: the simulated lenses alone
    bands: list[str] = several("i")  # the one that is nearest to F814W
    epochs: int = 20  # of the network

    def __post_init__(self):
        if len(self.bands) != 1:
            raise Mistake(f"--bands {' '.join(self.bands)}: expected one, as the real images have")


def catalogue(path: Path) -> pd.DataFrame:
    """object -> Einstein radius in arcsec, and its errors downwards and upwards."""
    table = pd.read_csv(path)
    found = [RADIUS.fullmatch(text) for text in table["/R_{Einstein} [arcsec]/"]]
    return pd.DataFrame(
        [[float(number) for number in match.groups()] for match in found],
        index=table["Name"],
        columns=["radius", "low", "high"],
    )


def as_cutout(
    image: np.ndarray, magnitude_of_one: float, band: str, random: np.random.Generator
) -> np.ndarray:
    """float64 [SIZE, SIZE] counts in a band, of an image [H, W] with pixels of HUBBLE_SCALE whose flux 1 has
    that AB magnitude.
    """
    place = BANDS.index(band)
    width = math.sqrt(SURVEYS["slsim"].seeing[place] ** 2 - HUBBLE_SEEING**2)
    seen = gaussian_filter(
        image.astype(np.float64), width / math.sqrt(8 * math.log(2)) / HUBBLE_SCALE, mode="nearest"
    )
    part = cropped(seen.astype(np.float32), round(SIZE * PIXEL_SCALE / HUBBLE_SCALE))
    counts = resampled(part, (SIZE, SIZE)).astype(np.float64) * 10 ** (0.4 * (ZERO_POINT - magnitude_of_one))
    counts -= np.median(np.concatenate([counts[0], counts[-1], counts[:, 0], counts[:, -1]]))
    noise, gain = float(pixel_noise()[place]), float(rubin_gain()[place])
    return counts + random.normal(size=counts.shape) * np.sqrt(noise**2 + counts.clip(0) / gain)


def write_cutouts(options: Config, out: Path) -> dict[str, float]:
    """NAME_<band>.fits of each real image; object -> its share of pixels that are like cosmic rays."""
    out.mkdir(parents=True, exist_ok=True)
    rays, (band,) = {}, options.bands
    for number, path in enumerate(sorted((Path(options.slacs) / "198x198").glob("*.fits"))):
        with fits.open(path) as file:
            image, header = file[1].data.astype(np.float32), file[1].header
        # ACS Data Handbook, section 5.1.1
        zero_point = -2.5 * math.log10(header["PHOTFLAM"]) - 5 * math.log10(header["PHOTPLAM"]) - 2.408
        cutout = as_cutout(image, zero_point, band, np.random.default_rng(number))
        fits.PrimaryHDU(cutout).writeto(out / f"{path.stem}_{band}.fits", overwrite=True)
        rays[path.stem] = float(quality.measure_quality(image[None])["cosmic_ray_fraction"][0])
    return rays


def real(options: Config, run: Path, guess: float) -> list[tuple]:
    """The rows of the real lenses; the last two sum up. guess:
    arcsec, the median radius of simulated lenses.
    """
    work = Path(options.work).resolve() / "slacs"
    rays, truth, out = (
        write_cutouts(options, work / "images"),
        catalogue(Path(options.slacs) / "slacs_params.csv"),
        run / "slacs",
    )
    script(
        run / "scripts.log",
        "predict.py",
        "--model_path",
        run / "best.pt",
        "--images",
        work / "images",
        "--store_dir",
        work / "stores",
        "--which",
        "blind",
        "--tta",
        "--output_dir",
        out,
        "--device",
        "cpu",
    )
    said = pd.read_csv(out / "parameters_blind.csv")
    said["prob"] = pd.read_csv(out / "pred_blind.csv")["prob"]
    said = said.set_index(said["path"].map(lambda path: parse_name(path)[0]))
    rows, errors = (
        [
            (
                "SLACS lens",
                "catalogue, arcsec",
                "inferred",
                "difference",
                "in sigma",
                "P(lens)",
                "like cosmic rays",
            )
        ],
        [],
    )
    for name, (radius, low, high) in truth.sort_values("radius").iterrows():
        mine, error = said.loc[name, ["Rein", "Rein_err"]]
        sigma = math.hypot(error, high if mine > radius else low)
        errors.append(
            (abs(mine / radius - 1), abs(guess / radius - 1), abs(mine - radius) <= sigma, rays[name] < 1e-3)
        )
        rows.append(
            (
                name,
                f"{radius:.3f} -{low:.3f} +{high:.3f}",
                f"{mine:.3f} +- {error:.3f}",
                f"{mine / radius - 1:+.1%}",
                f"{(mine - radius) / sigma:+.1f}",
                f"{said.loc[name, 'prob']:.3f}",
                f"{rays[name]:.2%}",
            )
        )
    errors = np.array(errors, dtype=float)
    for what, here in (("all", np.ones(len(errors), bool)), ("without cosmic rays", errors[:, 3] == 1)):
        if here.any():
            rows.append(
                (
                    f"{what}: {here.sum()}",
                    f"guess {guess:.3f}: {np.median(errors[here, 1]):.1%} off",
                    "median error",
                    f"{np.median(errors[here, 0]):.1%}",
                    f"{int(errors[here, 2].sum())} within 1",
                    "",
                    "",
                )
            )
    return rows


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    name = f"pinn_lens-{options.bands[0]}"
    jobs = {
        seed: lambda seed=seed: asked(options, trained(options, name, seed), splits=("test",))
        for seed in options.seeds
    }
    for seed, out in in_parallel(options, jobs).items():
        if not finished(out, ("test",)):
            continue
        inferred, truth = known(out)
        print(
            f"pinn_lens on the {options.bands[0]} band, seed "
            f"{seed}\n{aligned(recovered(inferred, truth)[:2])}"
        )
        if options.slacs:
            print("\n" + aligned(real(options, out.parent, float(truth["Rein"].median()))), flush=True)


if __name__ == "__main__":
    config.run_script(main)

"""Simulated eROSITA light curves: visits, exposures, background and counts of a source whose rate follows a
known process.

A curve is a function of (seed, number) and of the options of Survey alone
(simulations/light_curves/products.py makes files of it). What is drawn, with its sources, is told in
docs/light_curve_simulation.md.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from astropy.io import fits

from physics import count_rates
from simulations.light_curves.processes import ERODAY, PROCESSES, draw, log_uniform
from utils.config import Options, option
from utils.mistake import Mistake
from utils.seeding import seed_from

BANDS = ("0.2-0.6", "0.6-2.3", "2.3-5")  # keV
REFERENCE_BAND = 1  # the band whose FRACEXP decides whether a bin is kept
MIN_FRACEXP = 0.1  # eRebin drops bins with a smaller fractional exposure (as does bexvar)
GRID = 626069290.94  # s since MJDREF, where the grid of bins begins (that of the public eFEDS curves)

# The telescope: field of view of 1.03 deg diameter, scans at 360 deg in four hours
# (Predehl et al. 2021, A&A 647, A1).
FIELD_RADIUS = 0.515  # deg
SCAN_SPEED = 360 / ERODAY  # deg/s
# Vignetting at an off-axis angle: 1 - VIGNETTING * angle below 2.3 keV, that to the power 1.5 above. FRACAREA
# against OFFAXIS of the public eFEDS curves is met within 0.04 and 0.07 out to 0.5 deg.
VIGNETTING = 1.44  # 1/deg
VIGNETTING_POWER = (1.0, 1.0, 1.5)
STEP = 0.25  # s, sampling of a crossing
CROSSING = np.arange(-24, 24, STEP) + STEP / 2

# Fractions of a source's counts in the bands. The public eFEDS curves have 0.03 in the hardest,
# which would hardly be seen: 0.15 is a hard source.
MEAN_COLOUR = (0.35, 0.50, 0.15)
COLOUR_SCATTER = 0.4  # of their logarithms, before they are made to sum to one
# Background: the range of the public eFEDS curves, and their share of 2.3-5.0 keV;
# that of the softest band is assumed.
# counts/s in the source region and all bands, per second in the field of view
BACKGROUND_LEVEL = (0.02, 0.13)
BACKGROUND_SHARE = (0.22, 0.46, 0.32)
BATCH = 256  # curves computed together, always: floats may depend on the batch


@dataclass(frozen=True)
class Survey(Options):
    """What is simulated; its fields are command-line flags."""

    # a curve's expected source counts, over all bands and points, are log-uniform from this
    counts_low: float = option(200.0, least=1)
    counts_high: float = option(20000.0, least=1)  # to this
    # a curve's visits, four hours apart, are uniform from this number
    points_low: int = option(10, least=2)
    points_high: int = option(60, least=2)  # to this
    # folder of srctool light curves whose FRACEXP, BACKRATIO and background are used instead of the model's
    exposures: str = ""
    # rebinned: a row a visit (eRebin); srctool: a row each 100 s, mostly empty
    format: Literal["rebinned", "srctool"] = "rebinned"
    # rebinned: RATE of source and background together (eRebin's default) or of the source
    rates: Literal["total", "src"] = "total"

    def __post_init__(self):
        super().__post_init__()
        for low, high in (("counts_low", "counts_high"), ("points_low", "points_high")):
            if getattr(self, low) > getattr(self, high):
                raise Mistake(
                    f"--{low} is {getattr(self, low)} and --{high} {getattr(self, high)}; give the lower one "
                    "first"
                )
        if self.exposures and not Path(self.exposures).is_dir():
            raise Mistake(
                f"--exposures {self.exposures}: there is no such folder; give one that holds srctool light "
                "curves"
            )


class Bins(NamedTuple):
    """Where, how long and how deeply a source was looked at: K bins (a bin of a visit, or a whole visit),
    C bands.
    """

    visit: np.ndarray  # [K] which visit a bin belongs to
    time: np.ndarray  # [K] centre, s
    width: np.ndarray  # [K] s
    fractime: np.ndarray  # [K] fraction of it with the source in the field of view
    fracexp: np.ndarray  # [K, C] vignetted exposure over width
    offaxis: np.ndarray  # [K] mean off-axis angle while in the field, deg
    backratio: np.ndarray  # [K] source area over background area
    expected: np.ndarray  # [K, C] expected counts in the background region

    @property
    def exposure(self) -> np.ndarray:
        return self.width[:, None] * self.fracexp


class Curve(NamedTuple):
    """One simulated light curve: its bins, what was counted, and the truth."""

    number: int
    bins: Bins
    rate: np.ndarray  # [K, C] true source rate, counts/s
    counts: np.ndarray  # [K, C] counts in the source region
    back_counts: np.ndarray  # [K, C] counts in the background region
    truth: dict  # process, total_counts, points, colours, parameters


def simulate(seed: int, number: int, survey: Survey) -> Curve:
    """Curve `number`: its process is PROCESSES[number % 6], so that all are equally frequent."""
    generator = np.random.default_rng(seed_from(seed, "light_curves", number))
    process = PROCESSES[number % len(PROCESSES)]
    centre, impact = draw_visits(generator, survey)
    relative, parameters = draw(
        process, centre, np.full(len(centre), 2 * FIELD_RADIUS / SCAN_SPEED), generator, len(BANDS)
    )
    total = log_uniform(generator, survey.counts_low, survey.counts_high)
    colour = np.array(MEAN_COLOUR) * np.exp(COLOUR_SCATTER * generator.standard_normal(len(BANDS)))
    colour /= colour.sum()
    # The source is drawn before its exposures, so that it is the same source in each form and with anybody's
    # exposures.
    if survey.exposures:
        bins = bins_from_files(generator, centre, read_exposures(survey.exposures))
    else:
        bins = bins_from_model(generator, centre, impact, survey.format)
    # The level of each band is such that the bins' expected source counts are its share of the total.
    relative = relative[bins.visit]
    rate = relative * (total * colour / (relative * bins.exposure).sum(0))
    counts = generator.poisson(rate * bins.exposure + bins.expected * bins.backratio[:, None])
    truth = (
        {"process": process, "total_counts": total, "points": len(centre)}
        | {f"colour_{band}": float(share) for band, share in enumerate(colour)}
        | parameters
    )
    return Curve(number, bins, rate, counts, generator.poisson(bins.expected), truth)


def draw_visits(generator: np.random.Generator, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """When the scans cross the source [V], s, and how far from the field's centre [V], deg.

    One visit in each eroday; each is followed by a missed one with probability 0.05 and, in one curve of
    five, once by a break of one to three days. The scanned circle drifts evenly over the source, in at one
    edge of the field and out at the other: few visits near the ecliptic, many near its poles
    (Predehl et al. 2021).
    """
    number = int(generator.integers(survey.points_low, survey.points_high + 1))
    steps = 1 + (generator.random(number) < 0.05)
    if generator.random() < 0.2:
        steps[generator.integers(1, number)] += generator.integers(6, 19)
    steps[0] = 0
    slot = np.cumsum(steps)
    start = GRID + generator.uniform(0, 180 * 86400)
    centre = start + ERODAY * slot + generator.normal(0, 5, number)
    edge = 0.97 * FIELD_RADIUS
    return centre, edge * (2 * (slot + generator.random()) / (slot[-1] + 1) - 1)


def bins_from_model(
    generator: np.random.Generator, centre: np.ndarray, impact: np.ndarray, form: str
) -> Bins:
    """The bins of straight crossings of a round, vignetted field:
    10 s bins merged to visits as eRebin does, or those of 100 s.
    """
    width = 100.0 if form == "srctool" else 10.0
    moment = centre[:, None] + CROSSING
    angle = np.hypot(impact[:, None], SCAN_SPEED * CROSSING)
    inside = angle < FIELD_RADIUS
    area = np.where(inside, 1 - VIGNETTING * angle, 0)
    # Visits are hours apart, so a bin of the grid never holds two of them.
    numbers, place = np.unique(
        np.floor((moment[inside] - GRID) / width).astype(np.int64), return_inverse=True
    )

    def summed(values):
        return np.bincount(place, values[inside], len(numbers))

    steps = summed(inside.astype(float))
    fractime = steps * STEP / width
    fracexp = np.stack([summed(area**power) for power in VIGNETTING_POWER], 1) * STEP / width
    visit = np.zeros(len(numbers), np.int64)
    visit[place] = np.broadcast_to(np.arange(len(centre))[:, None], inside.shape)[inside]
    time = GRID + (numbers + 0.5) * width
    offaxis = summed(angle) / steps
    length = np.full(len(numbers), width)
    if form == "rebinned":
        kept = fracexp[:, REFERENCE_BAND] >= MIN_FRACEXP
        number = np.bincount(visit[kept], minlength=len(centre))
        assert number.all(), "draw_visits keeps to crossings of 10 s or more, of which a bin has enough"

        def mean(values):
            return np.bincount(visit[kept], values[kept]) / number

        length = number * width
        time = mean(time - GRID) + GRID
        fractime = mean(fractime)
        offaxis = mean(offaxis)
        fracexp = np.stack([mean(band) for band in fracexp.T], 1)
        visit = np.arange(len(number))
    # The outer part of the background annulus leaves the field before the source does:
    # BACKRATIO grows outwards.
    backratio = generator.lognormal(np.log(0.007), 0.25) * (1 + 0.5 * offaxis / FIELD_RADIUS)
    level = log_uniform(generator, *BACKGROUND_LEVEL) * generator.lognormal(0, 0.1, len(centre))
    in_source_region = (level[visit] * length * fractime)[:, None] * BACKGROUND_SHARE
    return Bins(
        visit, time, length, fractime, fracexp, offaxis, backratio, in_source_region / backratio[:, None]
    )


def bins_from_files(generator: np.random.Generator, centre: np.ndarray, rows: list[np.ndarray]) -> Bins:
    """A bin a visit, with exposures and background of real rows,
    taken in their order as blocks of 4 to 12 rows.
    """
    blocks = []
    missing = len(centre)
    while missing > 0:
        table = rows[generator.integers(len(rows))]
        first, length = generator.integers(len(table)), generator.integers(4, 13)
        blocks.append(table[first : first + min(length, missing)])
        missing -= len(blocks[-1])
    taken = np.concatenate(blocks)
    width = taken["width"]
    time = GRID + (np.floor((centre - GRID) / width) + 0.5) * width
    return Bins(
        np.arange(len(centre)),
        time,
        width,
        taken["fractime"],
        taken["fracexp"],
        taken["offaxis"],
        taken["backratio"],
        taken["expected"],
    )


@lru_cache
def read_exposures(folder: str) -> list[np.ndarray]:
    """The good rows (FRACEXP above 0.1 in all bands) of each srctool light curve in `folder`;
    raises Mistake if there are none, and for other files.
    """
    kind = np.dtype(
        [
            ("width", "f8"),
            ("fractime", "f8"),
            ("fracexp", "f8", 3),
            ("offaxis", "f8"),
            ("backratio", "f8"),
            ("expected", "f8", 3),
        ]
    )
    columns = ("TIMEDEL", "FRACTIME", "FRACEXP", "OFFAXIS", "BACKRATIO", "BACK_COUNTS")
    rows = []
    for path in sorted(Path(folder).glob("*.fits*")):
        try:
            with fits.open(path) as hdus:
                data = hdus["RATE"].data
                taken = [data[name] for name in columns]
        except (OSError, EOFError, KeyError, TypeError) as error:
            raise Mistake(
                f"--exposures {folder}: {path.name} is not a whole srctool light curve ({error}); take it "
                "away"
            ) from error
        if data["FRACEXP"].shape[1:] != (len(BANDS),):
            raise Mistake(
                f"--exposures {folder}: {path.name} has not {len(BANDS)} bands in each row; take it away"
            )
        good = (data["FRACEXP"] > MIN_FRACEXP).all(1) & np.isfinite(data["BACKRATIO"])
        table = np.zeros(good.sum(), kind)
        for name, column in zip(kind.names, taken):
            table[name] = column[good]
        if len(table):
            rows.append(table)
    if not rows:
        raise Mistake(
            f"--exposures {folder}: no srctool light curve with an exposed row is there; give another folder"
        )
    return rows


def source_rates(curves: list[Curve], rates: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rate, error_low, error_up) [K, C] of each curve, counts/s:
    "src" of the source, "total" of source and background (much faster).
    """

    def joined(values):
        return torch.from_numpy(np.concatenate(values).astype(float))

    counts = joined([curve.counts for curve in curves])
    exposure = joined([curve.bins.exposure for curve in curves])
    if rates == "total":
        estimate = count_rates.total_rate(counts, exposure)
    else:
        back_counts = joined([curve.back_counts for curve in curves])
        backratio = joined([curve.bins.backratio for curve in curves])
        estimate = count_rates.source_rate(counts, back_counts, backratio[:, None], exposure)
    ends = np.cumsum([len(curve.counts) for curve in curves])[:-1]
    return list(zip(*(np.split(part.numpy(), ends) for part in estimate)))

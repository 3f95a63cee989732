"""How the rate of an X-ray source varies: the processes of the simulated light curves,
with parameters drawn for each source.

A rate here is relative: dimensionless, to be multiplied by the mean level of its band. All bands vary
together; a factor for each band, drawn from BAND_FACTOR, says how strongly: it multiplies ln rate (red_noise,
log_normal), the optical depth (eclipse) or the amplitude above the base (flare, qpe).
"""

import numpy as np

PROCESSES = ("constant", "red_noise", "flare", "eclipse", "qpe", "log_normal")
ERODAY = 14400.0  # s, the survey's scans come back to a source each four hours
BAND_FACTOR = (0.7, 1.3)
HOUR = 3600.0
# Gauss-Legendre over a bin: its mean rate, not that of its centre
NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)


def draw(
    process: str, time: np.ndarray, width: np.ndarray, generator: np.random.Generator, bands: int = 3
) -> tuple[np.ndarray, dict[str, float]]:
    """A realisation of `process` at the bins.

    time, width: [T] centre and width of each bin in s, increasing. Returns the relative rate [T, bands],
    float64, dimensionless, and the parameters drawn (times in s; moments in s since time[0]). The
    deterministic shapes are means over the bin; the stochastic ones are sampled at its centre, as their time
    scales, eight hours and more, are far longer than a bin.
    Raises KeyError for a process not in PROCESSES.
    """
    return DRAW[process](np.asarray(time, float), np.asarray(width, float), generator, bands)


def constant(time, width, generator, bands):
    return np.ones((len(time), bands)), {}


def red_noise(time, width, generator, bands):
    """ln rate is an Ornstein-Uhlenbeck process, the damped random walk of Kelly,
    Bechtold & Siemiginowska 2009 (ApJ 698, 895).
    """
    sigma = generator.uniform(0.3, 1.0)
    damping_time = log_uniform(generator, 2, 12) * spacing(time)
    factor = band_factors(generator, bands)
    return np.exp(ornstein_uhlenbeck(time, sigma, damping_time, generator)[:, None] * factor), {
        "sigma": sigma,
        "damping_time": damping_time,
    } | named(factor)


def log_normal(time, width, generator, bands):
    """ln rate is normal and independent from bin to bin, as bexvar assumes
    (Buchner et al. 2022, A&A 661, A18).
    """
    sigma = generator.uniform(0.3, 1.0)
    factor = band_factors(generator, bands)
    return np.exp(sigma * generator.standard_normal(len(time))[:, None] * factor), {"sigma": sigma} | named(
        factor
    )


def flare(time, width, generator, bands):
    """A constant rate and one flare of exponential rise and decay (Norris et al. 1996, ApJ 459, 393, eq.
    1 with nu = 1).
    """
    decay_time = generator.uniform(1.5, 8) * spacing(time)
    rise_time = generator.uniform(0.1, 0.5) * decay_time
    # The peak is 3 to 30 times the base; the base is 1.
    peak = log_uniform(generator, 3, 30)
    peak_time = generator.uniform(0, time[-1] - time[0])
    factor = band_factors(generator, bands)
    shape = mean_over_bins(
        lambda t: fast_rise_exponential_decay(t - time[0] - peak_time, rise_time, decay_time), time, width
    )
    return 1 + (peak - 1) * shape[:, None] * factor, {
        "peak": peak,
        "peak_time": peak_time,
        "rise_time": rise_time,
        "decay_time": decay_time,
    } | named(factor)


def eclipse(time, width, generator, bands):
    """Periodic trapezoidal dips, as of an eclipsing or dipping binary;
    exp(-optical depth) is transmitted at the bottom.
    """
    between = spacing(time)
    period = log_uniform(generator, 3, 20) * between
    # No shorter than the distance of two visits, so that a dip within an unbroken run of visits is seen.
    duration = max(generator.uniform(0.1, 0.3) * period, between)
    ingress = generator.uniform(0.05, 0.3) * duration
    depth = generator.uniform(0.7, 1.0)
    # One dip has its centre within the observed span; the others follow by the period.
    dip_time = generator.uniform(0, time[-1] - time[0])
    factor = band_factors(generator, bands)
    covered = mean_over_bins(
        lambda t: trapezoid(t - time[0] - dip_time, period, duration, ingress), time, width
    )
    return 1 - covered[:, None] * (1 - (1 - depth) ** factor), {
        "period": period,
        "duration": duration,
        "ingress": ingress,
        "depth": depth,
        "dip_time": dip_time,
    } | named(factor)


def qpe(time, width, generator, bands):
    """Quasi-periodic eruptions: Gaussian bursts on a constant rate (Miniutti et al. 2019, Nature 573, 381;
    Arcodia et al. 2021, Nature 592, 704): recurrence of hours with a scatter from burst to burst,
    stronger in harder bands.
    """
    recurrence = generator.uniform(5, 20) * HOUR
    scatter = generator.uniform(0.05, 0.10)
    fwhm = generator.uniform(0.1, 0.3) * recurrence
    peak = log_uniform(generator, 5, 50)
    factor = np.sort(band_factors(generator, bands))
    # Bursts from one before the first point to past the last:
    # the intervals are recurrence * (1 + scatter * normal).
    number = int((time[-1] - time[0]) / (recurrence * (1 - scatter))) + 8
    intervals = recurrence * (1 + scatter * generator.standard_normal(number))
    bursts = time[0] - generator.uniform(1, 2) * recurrence + np.cumsum(intervals)
    shape = mean_over_bins(
        lambda t: np.exp(-4 * np.log(2) * ((t[..., None] - bursts) / fwhm) ** 2).sum(-1), time, width
    )
    return 1 + (peak - 1) * shape[:, None] * factor, {
        "peak": peak,
        "recurrence": recurrence,
        "scatter": scatter,
        "fwhm": fwhm,
        "first_burst": bursts[0] - time[0],
    } | named(factor)


DRAW = {
    "constant": constant,
    "red_noise": red_noise,
    "flare": flare,
    "eclipse": eclipse,
    "qpe": qpe,
    "log_normal": log_normal,
}
assert tuple(DRAW) == PROCESSES


def ornstein_uhlenbeck(
    time: np.ndarray, sigma: float, damping_time: float, generator: np.random.Generator
) -> np.ndarray:
    """[T]: a stationary process of mean 0, deviation `sigma` and autocorrelation exp(-|dt| / damping_time).

    The transition is exact for any spacing: x(t + dt) is normal of mean x(t) a and variance sigma^2 (1 -
    a^2), a = exp(-dt/damping_time) (Gillespie 1996, Phys. Rev. E 54, 2084).
    """
    kept = np.exp(-np.diff(time) / damping_time)
    kick = sigma * generator.standard_normal(len(time))
    kick[1:] *= np.sqrt(1 - kept**2)
    values = [kick[0]]
    for a, k in zip(kept.tolist(), kick[1:].tolist()):
        values.append(a * values[-1] + k)
    return np.array(values)


def fast_rise_exponential_decay(since_peak: np.ndarray, rise_time: float, decay_time: float) -> np.ndarray:
    """1 at the peak, exp(t / rise_time) before it, exp(-t / decay_time) after it;
    same shape as `since_peak`, s.
    """
    return np.exp(np.where(since_peak < 0, since_peak / rise_time, -since_peak / decay_time))


def trapezoid(since_centre: np.ndarray, period: float, duration: float, ingress: float) -> np.ndarray:
    """Covered fraction, 0 to 1: 1 about the centre, 0 outside, linear in between;
    `duration` is the width at one half, s.
    """
    distance = np.abs((since_centre + period / 2) % period - period / 2)
    return np.clip(0.5 + (duration / 2 - distance) / ingress, 0, 1)


def mean_over_bins(shape, time: np.ndarray, width: np.ndarray) -> np.ndarray:
    """[T]: the mean of the function `shape` over each bin, by three Gauss-Legendre nodes;
    its value at the centre where width is 0.
    """
    return (shape(time[:, None] + width[:, None] / 2 * NODES) * (WEIGHTS / 2)).sum(1)


def spacing(time: np.ndarray) -> float:
    """The usual distance of two visits, s."""
    return float(np.median(np.diff(time))) if len(time) > 1 else ERODAY


def log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** generator.random())


def band_factors(generator: np.random.Generator, bands: int) -> np.ndarray:
    return generator.uniform(*BAND_FACTOR, bands)


def named(factor: np.ndarray) -> dict[str, float]:
    return {f"factor_{band}": float(value) for band, value in enumerate(factor)}

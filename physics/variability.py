"""What simple descriptions make of a light curve's counts: a constant rate,
and rates scattered log-normally about a mean.

These are the baselines that a learned description has to beat. counts C ~ Poisson(rate * exposure +
background), with counts, background [counts] and exposure [s] of shape [B, T, C] (curve, point, band);
`observed` [B, T, C] bool says which points are there. Computed in float64, on the device of the input.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NODES = 16  # of the Gauss-Hermite rule about each point's posterior mode
ROUNDS = 50  # of expectation and maximisation
RELAXATION = 1.8  # of the scatter's steps, which alone would creep


def constant_rate(counts: Tensor, background: Tensor, exposure: Tensor, observed: Tensor) -> Tensor:
    """[B, 1, C] counts/s: the most likely constant rate of each curve in each band, at least 0;
    0 where nothing is observed.

    The root of d ln L / d rate = sum E (C / (rate E + b) - 1), which falls with the rate (Cash 1979, ApJ 228,
    939), by bisection.
    """
    c, b, e = (
        torch.where(observed, x.double(), other)
        for x, other in ((counts, 0.0), (background, 0.0), (exposure, 0.0))
    )
    low = torch.zeros_like(c[:, :1])
    # right without background, else too high
    high = c.sum(1, keepdim=True) / e.sum(1, keepdim=True).clamp(min=1e-300) * (1 + 1e-9)
    for _ in range(60):
        rate = (low + high) / 2
        slope = (e * (c / (rate * e + b).clamp(min=1e-300) - 1)).sum(1, keepdim=True)
        low, high = torch.where(slope > 0, rate, low), torch.where(slope > 0, high, rate)
    return high.to(counts.dtype)


def constant_rate_of_errors(rate: Tensor, error_low: Tensor, error_up: Tensor, observed: Tensor) -> Tensor:
    """[B, 1, C], in the rates' unit: the constant that minimises chi^2 with the error towards it,
    for data without counts.

    The root of a slope that rises with the constant, by bisection between the lowest and the highest datum.
    """
    datum, down, up = rate.double(), error_low.double(), error_up.double()
    low = torch.where(observed, datum, math.inf).amin(1, keepdim=True)
    high = torch.where(observed, datum, -math.inf).amax(1, keepdim=True)
    low, high = torch.where(low.isfinite(), low, 0), torch.where(high.isfinite(), high, 0)
    for _ in range(60):
        level = (low + high) / 2
        scale = torch.where(level > datum, up, down).clamp(min=1e-150)
        slope = torch.where(observed, (level - datum) / scale.square(), 0).sum(1, keepdim=True)
        low, high = torch.where(slope < 0, level, low), torch.where(slope < 0, high, level)
    return ((low + high) / 2).to(rate.dtype)


def log_normal_evidence(
    counts: Tensor, background: Tensor, exposure: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(ln evidence, mean of ln rate, scatter of ln rate), each [B, C]:
    each point's rate is drawn from a log-normal.

    The evidence, in nats, is the product over points of the integral of Poisson(C | e^x E + b) N(x | mean,
    scatter^2) over x, at the mean and scatter that make it largest: the model of bexvar (Buchner et al. 2022,
    A&A 661, A18, eqs. 9-11) at its best parameters instead of averaged over them. Adaptive Gauss-Hermite
    quadrature, expectation maximisation; a curve that a constant rate explains better has that evidence and
    no scatter.
    """
    c, b, e = (
        torch.where(observed, x.double(), other)
        for x, other in ((counts, 0.0), (background, 0.0), (exposure, 1.0))
    )
    number = observed.sum(1, keepdim=True).clamp(min=1)
    place, weight = gauss_hermite(NODES, c)
    first = torch.log(((c - b).clamp(min=0) + 0.5) / e)
    mean = torch.where(observed, first, 0).sum(1, keepdim=True) / number
    scatter = (
        (torch.where(observed, first - mean, 0).square().sum(1, keepdim=True) / number).sqrt().clamp(0.1, 3)
    )
    x = first.clone()
    for last in [False] * ROUNDS + [True]:
        for _ in range(3):  # Newton from the mode of the round before, damped to one e-fold
            slope, curvature = derivatives(x, c, b, e)
            curvature = curvature.clamp(min=0) + scatter**-2
            x = x + ((slope - (x - mean) / scatter.square()) / curvature).clamp(-1, 1)
        spread = (derivatives(x, c, b, e)[1].clamp(min=0) + scatter**-2).rsqrt()
        node = x[..., None] + math.sqrt(2) * spread[..., None] * place
        expected = node.exp() * e[..., None] + b[..., None]
        log_weight = (
            c[..., None] * expected.clamp(min=1e-300).log()
            - expected
            - torch.lgamma(c + 1)[..., None]
            - 0.5 * ((node - mean[..., None]) / scatter[..., None]).square()
            - scatter.log()[..., None]
            - 0.5 * math.log(2 * math.pi)
            + weight.log()
            + place.square()
            + 0.5 * math.log(2)
            + spread.log()[..., None]
        )
        evidence = log_weight.logsumexp(-1)
        if last:
            break
        share = (log_weight - evidence[..., None]).exp()
        first_moment, second = (share * node).sum(-1), (share * node.square()).sum(-1)
        mean = torch.where(observed, first_moment, 0).sum(1, keepdim=True) / number
        best = (
            (
                torch.where(observed, second - 2 * mean * first_moment + mean.square(), 0).sum(
                    1, keepdim=True
                )
                / number
            )
            .clamp(min=0)
            .sqrt()
        )
        scatter = (scatter * (best / scatter) ** RELAXATION).clamp(1e-3, 5)
    evidence = torch.where(observed, evidence, 0).sum(1)
    rate = constant_rate(c, b, torch.where(observed, e, 0), observed)
    expected = rate * e + b
    without = torch.where(observed, torch.special.xlogy(c, expected) - expected - torch.lgamma(c + 1), 0).sum(
        1
    )
    steady = without >= evidence
    return (
        torch.where(steady, without, evidence),
        torch.where(steady, rate[:, 0].log(), mean[:, 0]),
        torch.where(steady, 0, scatter[:, 0]),
    )


def derivatives(x: Tensor, c: Tensor, b: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of ln Poisson(C | e^x E + b) in x = ln rate, and minus its curvature."""
    source = x.exp() * e
    expected = source + b
    ratio = c / expected.clamp(min=1e-300)
    return source * (ratio - 1), source * (1 - ratio) + ratio * source.square() / expected.clamp(min=1e-300)


def gauss_hermite(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights [count] of the integral of exp(-t^2) f(t),
    by the eigenvalues of Golub & Welsch 1969.
    """
    off = torch.arange(1, count, dtype=torch.float64).div(2).sqrt()
    value, vector = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return value.to(like), (math.sqrt(math.pi) * vector[0].square()).to(like)


FLOOR = 1e-3  # of the error of a mean, below which its logarithm is not followed
WINDOWS = 8  # equal spans of a curve, in which bands that are observed in turn are compared

STATISTICS = (
    "log_mean",
    "excess_variance",
    "skewness",
    "kurtosis",
    "lag_1",
    "rise_to_fall",
    "stetson_k",
    "amplitude",
    "hardness",
)


def statistics(rate: Tensor, error_low: Tensor, error_up: Tensor, observed: Tensor) -> Tensor:
    """[B, 9], STATISTICS of each curve, summed over its bands:
    what one would compute by hand before training anything.

    rate, error_low, error_up [B, T, C] of one unit, whatever it is, observed [B, T, C] bool;
    only points with all bands observed count: of a curve without any, all are NaN.
    log_mean            ln of the mean rate
    excess_variance     normalised by the mean's square (Vaughan et al. 2003, MNRAS 345, 1271, eq. 9)
    skewness, kurtosis  third and fourth standardised moments of the rates
    lag_1               autocorrelation from each point to the next
    rise_to_fall        ln of the sum of all rises over that of all falls
    stetson_k           robust kurtosis of the residuals in units of their errors (Stetson 1996, PASP 108,
                        851)
    amplitude           (highest - lowest) / their errors in quadrature
    hardness            (last - first) / sum of the bands' mean rates
    """
    there = observed.all(-1)
    count = there.sum(1).clamp(min=1)
    total = torch.where(there, rate.double().sum(-1), 0)
    error = torch.where(there, ((error_low + error_up).double() / 2).square().sum(-1).sqrt(), 1).clamp(
        min=1e-100
    )
    mean = total.sum(1) / count
    off = torch.where(there, total - mean[:, None], 0)
    tiny = 1e-12 * mean.square() + 1e-140
    variance = off.square().sum(1) / count
    excess = (
        off.square().sum(1) / (count - 1).clamp(min=1) - torch.where(there, error.square(), 0).sum(1) / count
    )
    excess = torch.where(mean == 0, 0, excess / mean.square().clamp(min=1e-300))
    moments = [(off**power).sum(1) / count / (variance + tiny) ** (power / 2) for power in (3, 4)]
    both = there[:, 1:] & there[:, :-1]
    lag = torch.where(both, off[:, 1:] * off[:, :-1], 0).sum(1) / (off.square().sum(1) + tiny)
    step = torch.where(both, total.diff(dim=1), 0)
    rise, fall = step.clamp(min=0).sum(1), (-step).clamp(min=0).sum(1)
    weight = torch.where(there, error**-2, 0)
    residual = torch.where(
        there, (total - ((weight * total).sum(1) / weight.sum(1).clamp(min=1e-300))[:, None]) / error, 0
    )
    stetson = residual.abs().sum(1) / count / ((residual.square().sum(1) / count).sqrt() + 1e-12)
    highest = torch.where(there, total, -math.inf).argmax(1)
    lowest = torch.where(there, total, math.inf).argmin(1)
    at = torch.arange(len(total), device=total.device)
    amplitude = (total[at, highest] - total[at, lowest]) / torch.hypot(error[at, highest], error[at, lowest])
    band = torch.where(there[..., None], rate.double(), 0).sum(1) / count[:, None]
    hardness = (band[:, -1] - band[:, 0]) / (band.sum(1) + 1e-300)
    error_of_mean = torch.where(there, error.square(), 0).sum(1).sqrt() / count
    columns = [
        torch.maximum(mean, FLOOR * error_of_mean).clamp(min=1e-300).log(),
        excess,
        *moments,
        lag,
        ((rise + 1e-6 * mean + 1e-300) / (fall + 1e-6 * mean + 1e-300)).log(),
        stetson,
        amplitude,
        hardness,
    ]
    return torch.where(there.any(1, keepdim=True), torch.stack(columns, 1), math.nan).float()


def names_by_band(bands: Sequence[str]) -> list[str]:
    """The names of `statistics_by_band`."""
    of_band = [f"{name}_{band}" for band in bands for name in STATISTICS[:-1]]
    return of_band + [f"hardness_{soft}_{hard}" for soft, hard in zip(bands, bands[1:])]


def statistics_by_band(
    rate: Tensor, error_low: Tensor, error_up: Tensor, observed: Tensor, time: Tensor
) -> Tensor:
    """[B, 9 C - 1]: the first eight of STATISTICS in each band by itself, which need not be observed with
    the others, then the hardness of each pair of neighbouring bands; NaN where a band has no point.

    time [B, T], rising, of any unit; else as for `statistics`. hardness: (second - first) / sum of the bands'
    mean rates, where the curve's span is cut into WINDOWS equal ones and each that has points of both counts
    once: what a source did while only one band looked is in neither.
    """
    B, T, C = rate.shape
    order = torch.argsort(observed.byte(), dim=1, descending=True, stable=True)  # a band's points in a row

    def alone(values: Tensor) -> Tensor:
        return values.gather(1, order).transpose(1, 2).reshape(B * C, T, 1)

    there = alone(observed)
    each = statistics(alone(rate), alone(error_low), alone(error_up), there)[:, :-1]
    window = torch.where(observed.any(2), time.double(), 0)
    first = torch.where(observed.any(2), time.double(), math.inf).amin(1, keepdim=True)
    span = (window.amax(1, keepdim=True) - first).clamp(min=1e-300)
    window = ((window - first) / span * WINDOWS).clamp(0, WINDOWS - 1).long()
    member = torch.nn.functional.one_hot(window, WINDOWS).double()  # [B, T, W]
    count = torch.einsum("btw,btc->bwc", member, observed.double())
    total = torch.einsum("btw,btc->bwc", member, torch.where(observed, rate.double(), 0))
    mean = total / count.clamp(min=1)
    both = (count[..., 1:] > 0) & (count[..., :-1] > 0)
    soft, hard = (torch.where(both, part, 0).sum(1) for part in (mean[..., :-1], mean[..., 1:]))
    hardness = torch.where(both.any(1), (hard - soft) / (hard.abs() + soft.abs() + 1e-300), math.nan)
    return torch.cat([each.reshape(B, -1), hardness.float()], 1)

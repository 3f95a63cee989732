"""Rates from photon counts: what a bin of a light curve says of a source, in counts per second.

A bin holds `counts` photons in the source region, of which some are background; `background_counts` photons
were seen in a background region whose area is 1 / `background_ratio` of the source's. `exposure` is in s and
includes vignetting and the fraction of the bin that was observed (TIMEDEL * FRACEXP).
Everything broadcasts and is computed in float64.
"""

import torch
from torch import Tensor

CHUNK = 2**11  # points at a time: their quadrature fits the cache
ITERATIONS, CLOSE = 80, 1e-6  # Newton's method, whose next step would be of the square of that, ends so close
NODES = torch.linspace(-7.0, 7.0, 49, dtype=torch.float64)


def source_rate(
    counts: Tensor,
    background_counts: Tensor | float,
    background_ratio: Tensor | float,
    exposure: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely rate of a source over its background, and the distances to where the likelihood is
    exp(-1/2) of that.

    The likelihood is Poisson's, marginalised over the background that `background_counts` allow under a flat
    prior: L(r) = integral of Poisson(counts | r exposure + background_ratio b) Gamma(b | background_counts +
    1) db.

    counts, background_counts, background_ratio, exposure: [...] broadcastable, counts or s.
    Returns: rate, error_low, error_up [...] float64, counts/s. Where even a rate of zero is more likely than
        exp(-1/2), error_low = rate: the datum is an upper limit.
        Where the exposure is zero they are not finite.
    Raises: ValueError for counts or ratios that are negative or not finite.
    Source: the estimator of eRebin (github.com/rarcodia/eRebin);
        the interval is that of Cash 1979, ApJ 228, 939, sec. III.
    """
    device = torch.as_tensor(counts).device
    arrays = torch.broadcast_tensors(
        *(
            torch.as_tensor(x, dtype=torch.float64, device=device)
            for x in (counts, background_counts, background_ratio, exposure)
        )
    )
    if not all(bool((torch.isfinite(array) & (array >= 0)).all()) for array in arrays[:3]):
        raise ValueError("counts, background counts and their ratio must be finite and not negative")
    flat = [array.reshape(-1) for array in arrays]
    result = torch.zeros(3, len(flat[0]), dtype=torch.float64, device=device)
    result[2] = 0.5  # of no counts the likelihood is exp(-r exposure), whatever the background
    some = torch.nonzero(flat[0] > 0)[:, 0]
    for chunk in some.split(CHUNK):
        result[:, chunk] = torch.stack(_interval(*(array[chunk] for array in flat[:3])))
    return tuple((result / flat[3]).reshape(3, *arrays[0].shape))


def total_rate(counts: Tensor, exposure: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """`source_rate` of all that is in the source region, background too:
    shapes, units and errors are the same.
    """
    return source_rate(counts, 0.0, 0.0, exposure)


def thinned(
    counts: Tensor, background: Tensor, exposure: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rate, error_low, error_up [...] of counts drawn anew, as of the share `kept` of the exposure:
    each photon stays with that chance.

    counts, background (expected, counts), exposure (s): broadcastable; kept in (0, 1]. Exact for the counts;
    the interval is its expansion n -+ sqrt(n) + 1/3 (1/2 above none), within 5 % of `source_rate`'s where
    there are more counts than background (else up to twice too long) and free of its quadrature,
    for use in training.
    """
    drawn = torch.binomial(*torch.broadcast_tensors(counts, kept))
    exposure = torch.where(exposure > 0, exposure * kept, 1.0)  # what has none is not observed
    rate = ((drawn - background * kept) / exposure).clamp(min=0)
    low = torch.minimum((drawn.sqrt() - 1 / 3).clamp(min=0) / exposure, rate)
    return rate, low, torch.where(drawn > 0, drawn.sqrt() + 1 / 3, 0.5) / exposure


def is_upper_limit(rate: Tensor, error_low: Tensor) -> Tensor:
    """bool [...]: the lower error reaches just to zero, as `source_rate` has it where zero is not excluded.

    An error that reaches below zero is that of a measurement without significance, and no limit.
    """
    return (rate >= 0) & ((error_low - rate).abs() <= 1e-5 * rate)


def equivalent_counts(rate: Tensor, error_low: Tensor, error_up: Tensor) -> tuple[Tensor, Tensor]:
    """(counts, exposure) [...] that have this rate and its errors: (rate / error)^2 counts in rate / error^2.

    rate, error_low, error_up [...] of one unit, of whatever origin; the exposure is in the inverse of that
    unit. A rate of zero is that of no counts, whose error_up is 1/2 / exposure (see `source_rate`); a rate
    below zero is taken for zero. Errors that are measured with the rates are small where the rates came out
    low; with these, as with counts, the model says how large they are, and no constant is drawn to low rates.
    Source: Bohm & Zech 2014, NIM A 748, 1 (the scaled Poisson distribution).
    """
    error = torch.where(is_upper_limit(rate, error_low), error_up, (error_low + error_up) / 2)
    positive = rate.clamp(min=0)
    known = error > 0
    error = torch.where(known, error, 1)
    up = torch.where(known, error_up, 1)
    exposure = torch.maximum(positive / error / error, 0.5 / up)
    exposure = torch.where(known, exposure, 0)
    return positive * exposure, exposure


def noisier(rate: Tensor, error_low: Tensor, error_up: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rate, error_low, error_up [...] of rates without counts,
    with noise added as if only the share `kept` of the time had been observed.
    """
    stray = torch.randn_like(rate)
    stray = stray * torch.where(stray > 0, error_up, error_low) * (1 / kept - 1).sqrt()
    return rate + stray, error_low / kept.sqrt(), error_up / kept.sqrt()


def srctool_rate(
    counts: Tensor, background_counts: Tensor, background_ratio: Tensor, exposure: Tensor
) -> Tensor:
    """RATE of eSASS srctool [...], counts/s: the difference of the counts,
    negative where the background won.
    """
    return (counts - background_counts * background_ratio) / exposure


def srctool_error(
    counts: Tensor, background_counts: Tensor, background_ratio: Tensor, exposure: Tensor, fracexp: Tensor
) -> Tensor:
    """RATE_ERR of eSASS srctool [...], counts/s, as its files hold it:
    symmetric, and far too small for few counts in slivers.

    fracexp: [...], the fractional exposure FRACEXP, at most 0.1 in slivers.
    Source: reproduces srctool's products to 1e-4. Above 0.1 it is Gehrels 1986, ApJ 303, 336, eq. 7, for both
        regions (the ratio would have to be squared), in slivers the square root of the counts.
    """
    upper = (torch.sqrt(counts + 0.75) + 1) ** 2 + background_ratio * (
        torch.sqrt(background_counts + 0.75) + 1
    ) ** 2
    return (
        torch.sqrt(torch.where(fracexp > 0.1, upper, counts + background_ratio**2 * background_counts))
        / exposure
    )


def _interval(counts: Tensor, background: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mode, distance to the lower end, to the upper end) of the expected source counts;
    [n] each, counts > 0.
    """
    likelihood = _likelihood((counts - ratio * background).clamp(min=0.3), counts, background, ratio)
    spread = torch.sqrt(counts + ratio**2 * background)
    zero = torch.zeros_like(counts)

    def slope(expected):
        return likelihood(expected)[1:]

    # At zero the integral is a Beta function, and its slope has the sign of counts - ratio * background.
    inside = (counts - ratio * background).clamp(min=0)
    mode = _root(slope, inside, zero, torch.where(inside > 0, counts, zero))
    target = likelihood(mode)[0] - 0.5

    def fall(expected):
        log, first, _ = likelihood(expected)
        return log - target, first

    def rise(expected):
        log, first, _ = likelihood(expected)
        return target - log, -first

    # Background makes the likelihood fall faster beyond `counts`, so pure Poisson bounds its end:
    # N + sqrt(N) + 1/2 at most.
    highest = counts + torch.sqrt(counts) + 0.6
    up = _root(fall, torch.minimum(mode + spread + 0.3, highest), mode, highest)
    # an upper limit has no lower end to look for
    lowest = torch.where(likelihood(zero)[0] >= target, mode, zero)
    low = _root(rise, torch.maximum(mode - spread + 0.3, torch.maximum(mode / 4, lowest)), lowest, mode)
    return mode, torch.where(low < mode, mode - low, mode), up - mode


def _root(function, start: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where a falling function is zero between `low` and `high`:
    Newton's method, bisection where that steps out. [n] each.
    """
    here = start
    for _ in range(ITERATIONS):
        value, slope = function(here)
        low, high = torch.where(value > 0, here, low), torch.where(value > 0, high, here)
        step = here - value / slope
        step = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        moved = (step - here).abs()
        here = step
        if bool((moved <= CLOSE * (here + 0.01)).all()):
            break
    return here


def _likelihood(around: Tensor, counts: Tensor, background: Tensor, ratio: Tensor):
    """The function: expected source counts -> ln L, up to a constant, and its first and second derivative;
    [n] each.

    The integral over b is done in ln b. There its integrand has one peak, the positive root of a quadratic,
    and falls exponentially on both sides: a trapezoidal rule whose nodes spread like a hyperbolic sine
    converges geometrically. The nodes are laid once, for `around` expected counts, and serve for all that are
    not far less likely. Between the ends of the interval ln L is right to 1e-6 up to a ratio of one,
    to 3e-3 at thirty.
    """
    shape, both = background + 1, 1 + ratio
    middle = both * around - ratio * (counts + shape)
    root = torch.sqrt(middle**2 + 4 * ratio * both * shape * around)
    peak = torch.where(middle > 0, 2 * shape * around / (middle + root), (root - middle) / (2 * ratio * both))
    share = ratio * peak / (around + ratio * peak)
    width = torch.rsqrt(shape + counts * share**2)[:, None]
    nodes = NODES.to(around.device) if bool((ratio > 0).any()) else NODES.new_zeros(1, device=around.device)
    offset = 2 * width * torch.sinh(nodes / 2)
    b = ratio[:, None] * peak[:, None] * torch.exp(offset)
    centre = around[:, None] + b
    log = (
        torch.xlogy(counts[:, None], centre)
        + shape[:, None] * offset
        - (both * peak)[:, None] * torch.exp(offset)
    )
    prior = torch.softmax(log + torch.log(torch.cosh(nodes / 2)), 1)

    def likelihood(expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = 1 / (expected[:, None] + b)
        weight = prior * (centre * inverse) ** -counts[:, None]
        total = weight.sum(1)
        weight *= inverse
        first, second = weight.sum(1) / total, (weight * inverse).sum(1) / total
        slope = counts * first
        return torch.log(total) - (expected - around), slope - 1, counts * (counts - 1) * second - slope**2

    return likelihood

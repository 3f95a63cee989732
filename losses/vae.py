"""Losses of a variational autoencoder of light curves: how far each datum is from the model,
and the latents from N(0, 1).

What cannot be (NaN, negative counts, an error bar of no length) costs inf and has no slope, so that the
finiteness check names it where it is observed, and `sum_observed` can leave it out where it is not:
0 times an infinite slope would be NaN.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SHAPE = 1e9  # of the gamma distribution beyond which rounding would cost more than the scatter that is left


def kl_gaussian(mean: Tensor, logvar: Tensor, free_nats: float = 0.0) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(logvar)) from N(0, 1), in nats, summed over latents: [B].

    mean [B, L], logvar [B, L]. A latent below `free_nats` counts as that much, without slope;
    0 is the exact divergence.
    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B; free nats:
        Kingma et al. 2016, arXiv:1606.04934, "free bits".
    """
    mean, logvar = wide(mean), wide(logvar)
    each = 0.5 * (mean.square() + torch.expm1(logvar) - logvar)
    return (each.clamp(min=free_nats) if free_nats > 0 else each).sum(-1)


def kl_weight(step: int, warm_up_steps: int, beta: float = 1.0) -> float:
    """Weight of the divergence: from 0 at step 0 linearly to `beta` at `warm_up_steps`,
    and `beta` from there on.
    """
    return beta * min(1.0, step / warm_up_steps) if warm_up_steps > 0 else beta


def poisson_nll(counts: Tensor, expected: Tensor) -> Tensor:
    """-log of the Poisson probability of `counts`, in nats, where `expected` are expected:
    of their common shape.

    Both in counts, not in counts/s and not as logarithms: expected = rate * exposure + background.
    No counts where none are expected cost nothing.
    """
    return where_possible(
        may_be_drawn(counts, expected),
        lambda c, mu: mu - c_log(c, mu) + torch.lgamma(c + 1),
        counts,
        expected,
    )


def poisson_deviance(counts: Tensor, expected: Tensor) -> Tensor:
    """Twice how much less likely, in nats, `counts` are than where they themselves are expected; at least 0.

    counts and expected as for `poisson_nll`. Its mean is about 1 for a true model of many counts.
    Source: Cash 1979, ApJ 228, 939, less its value at expected = counts.
    """
    return where_possible(
        may_be_drawn(counts, expected),
        lambda c, mu: 2 * (c_log(c, c) - c_log(c, mu) - c + mu).clamp(min=0),
        counts,
        expected,
    )


def scattered_poisson_nll(counts: Tensor, expected: Tensor, stray: Tensor) -> Tensor:
    """`poisson_nll` where the mean itself strays about `expected` with standard deviation `stray`, in counts:
    of their common shape.

    The negative binomial of that mean and of variance expected + stray^2:
    the counts of a rate that is gamma-distributed.
    Without stray it is the Poisson, to 1e-3 nats up to 10^5 counts.
    Source: Hilbe 2011, Negative Binomial Regression, eq. 8.9 (with alpha = stray^2 / expected^2).
    """

    def nll(c, mu, stray):
        shape = (mu / stray.clamp(min=1e-30)).square().clamp(max=SHAPE)
        return (
            torch.lgamma(shape)
            + torch.lgamma(c + 1)
            - torch.lgamma(c + shape)
            + shape * torch.log1p(mu / shape)
            - c_log(c, mu)
            + c * torch.log(shape + mu)
        )

    def nll_of_none(c, mu, stray):
        return torch.where(mu > 0, nll(c, torch.where(mu > 0, mu, 1.0), stray), 0.0)

    known = may_be_drawn(counts, expected) & torch.isfinite(stray) & (stray >= 0)
    return where_possible(known, nll_of_none, counts, expected, stray)


def split_normal_nll(
    rate: Tensor, datum: Tensor, error_low: Tensor, error_up: Tensor, upper_limit: Tensor
) -> Tensor:
    """-log of the density, in nats, of a model's `rate` under a datum with unequal error bars:
    of their common shape.

    rate, datum, error_low, error_up in one unit; upper_limit bool. The error towards the model counts:
    error_up where the model is above the datum. An upper limit is the probability that a measurement with
    noise error_up stays below datum + error_up: a model at that limit costs 0.52 more than one at the datum,
    as the likelihood has it whose drop by 1/2 defines error_up.
    Source: Wallis 2014, Statistical Science 29, 106, eq. 1.
    """

    def density(rate, datum, low, up):
        scale = torch.where(rate > datum, up, low)
        return 0.5 * ((rate - datum) / scale).square() + torch.log(low + up) + 0.5 * math.log(math.pi / 2)

    def censored(rate, datum, up):
        return -torch.special.log_ndtr(1 + (datum - rate) / up)

    known = torch.isfinite(rate) & torch.isfinite(datum) & (error_up > 0)
    return torch.where(
        upper_limit,
        where_possible(known, censored, rate, datum, error_up),
        where_possible(known & (error_low > 0), density, rate, datum, error_low, error_up),
    )


def student_t_nll(
    rate: Tensor, datum: Tensor, error_low: Tensor, error_up: Tensor, upper_limit: Tensor, freedom: Tensor
) -> Tensor:
    """`split_normal_nll` with tails: Student's t of `freedom` degrees of freedom on either side,
    whose scale is the error towards the model.

    freedom > 0, broadcastable; the larger, the nearer to the normal. An upper limit is the normal's.
    Source: Lange, Little & Taylor 1989, JASA 84, 881, eq. 1; the halves joined as Wallis 2014 joins normals.
    """

    def density(rate, datum, low, up, freedom):
        scale = torch.where(rate > datum, up, low)
        beyond = torch.log1p(((rate - datum) / scale).square() / freedom) * (freedom + 1) / 2
        constant = torch.lgamma(freedom / 2) - torch.lgamma((freedom + 1) / 2) + torch.log(freedom) / 2
        return beyond + constant + torch.log(low + up) + 0.5 * math.log(math.pi / 4)

    known = torch.isfinite(rate) & torch.isfinite(datum) & (error_up > 0) & (error_low > 0) & (freedom > 0)
    return torch.where(
        upper_limit,
        split_normal_nll(rate, datum, error_low, error_up, torch.ones_like(upper_limit)),
        where_possible(known, density, rate, datum, error_low, error_up, freedom),
    )


def squared_error(rate: Tensor, datum: Tensor) -> Tensor:
    """(rate - datum)^2 of tensors of one unit, of their common shape."""
    return where_possible(
        torch.isfinite(rate) & torch.isfinite(datum), lambda m, d: (m - d).square(), rate, datum
    )


def sum_observed(values: Tensor, observed: Tensor) -> Tensor:
    """Sum of each curve's values where they are observed: [B].

    values [B, T, C], observed [B, T, C] bool. What stands elsewhere, be it NaN, changes neither the sum nor a
    slope.

    Raises ValueError where the shapes differ: a mask that broadcasts would count a band for another.
    """
    if values.shape != observed.shape:
        raise ValueError(
            f"got values {list(values.shape)} and observed {list(observed.shape)}: expected both [B, T, C]"
        )
    return torch.where(observed, values, 0).flatten(1).sum(1)


def where_possible(possible: Tensor, formula: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`formula` of the inputs where `possible`; inf, without slope, elsewhere. In float64 inside: float32
    knows C ln(mu) of a bin of 10^5 counts to no better than 0.1.
    """
    inside = formula(*(torch.where(possible, x.double(), 1.0) for x in inputs))
    kind = torch.float32
    for x in inputs:
        kind = torch.promote_types(kind, x.dtype)
    return torch.where(possible, inside, math.inf).to(kind)


def may_be_drawn(counts: Tensor, expected: Tensor) -> Tensor:
    finite = torch.isfinite(counts) & torch.isfinite(expected)
    return finite & (counts >= 0) & ((expected > 0) | ((expected == 0) & (counts == 0)))


def c_log(counts: Tensor, expected: Tensor) -> Tensor:
    """counts * ln(expected), with 0 ln(0) = 0 and no slope there."""
    return counts * torch.log(torch.where(counts > 0, expected, 1.0))


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

"""The recurrent autoencoder: a curve is described by itself alone, in its own units, in every band,
at its own times.
"""

import io
from typing import NamedTuple

import pytest
import torch

from losses import vae
from models.recurrent_vae import Reconstruction, RecurrentVAE
from tasks.light_curve.scores import Noise, misfit

REQUEST = dict()
RECOMMENDED = dict(
    layers=1, dropout=0.0, bidirectional=True, time_inputs=True, curve_scale=True, harmonics=16, scatter=True
)
LIKELIHOOD = {"request": "squared_error", "recommended": "poisson"}
configurations = pytest.mark.parametrize("options", [REQUEST, RECOMMENDED], ids=["request", "recommended"])
INPUTS = ("rate", "error_low", "error_up")
BETWEEN = 14400.0  # s from visit to visit


def model_of(options: dict, dtype=torch.float64, **more) -> RecurrentVAE:
    torch.manual_seed(1)
    model = RecurrentVAE(**options | dict(hidden=10, latent=4) | more).to(dtype).eval()
    model.cadence.fill_(BETWEEN)
    with torch.no_grad():  # as if trained: the decoder says something
        model.out.weight.mul_(20)
        model.spread.weight.mul_(3)
    return model


def curves(lengths=(9, 1, 4, 7, 2), dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Curves with gaps, upper limits, points without one band, and one curve (the third)
    without a whole one.
    """
    generator = torch.Generator().manual_seed(2)
    B, T, C = len(lengths), max(lengths), 3
    length = torch.tensor(lengths)
    inside = torch.arange(T) < length[:, None]
    observed = inside[..., None] & (torch.rand(B, T, C, generator=generator) > 0.15)
    observed[:, 0] = True
    if B > 2:
        observed[2, :, 1] = False
    gaps = BETWEEN * torch.randint(1, 30, (B, T), generator=generator)
    time = torch.where(inside, gaps.cumsum(1) - gaps[:, :1], 0)
    exposure = torch.where(observed, 10 + 30 * torch.rand(B, T, C, generator=generator), 0)
    background = 0.02 * exposure
    counts = torch.poisson(
        2 * exposure * torch.rand(B, T, C, generator=generator).square() + background, generator
    )
    unit = exposure.clamp(min=1e-9)
    batch = dict(
        rate=(counts - background).clamp(min=0) / unit,
        error_low=(counts.sqrt() - 1 / 3).clamp(min=0) / unit,
        error_up=torch.where(counts > 0, counts.sqrt() + 1 / 3, 0.5) / unit,
        exposure=exposure,
        background=background,
        counts=counts,
    )
    batch["error_low"] = torch.minimum(batch["error_low"], batch["rate"])
    batch = {name: torch.where(observed, values, 0).to(dtype) for name, values in batch.items()}
    return batch | dict(time=time.to(dtype), length=length, observed=observed)


class Described(NamedTuple):
    rate: torch.Tensor
    scatter: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor


def described(model: RecurrentVAE, batch: dict, noise=None, seen=None) -> Described:
    """Its tensors, to be compared; what a signed network adds has tests of its own."""
    said = model(
        *(batch[name] for name in INPUTS),
        batch["observed"] if seen is None else seen,
        batch["time"],
        batch["length"],
        noise,
    )
    return Described(*said[:4])


def losses(model: RecurrentVAE, batch: dict, likelihood: str, noise=None) -> torch.Tensor:
    said = described(model, batch, noise)
    return vae.sum_observed(
        misfit(Reconstruction(*said), batch, Noise("", likelihood)), batch["observed"]
    ) + vae.kl_gaussian(said.mean, said.logvar)


def results(
    model: RecurrentVAE, batch: dict, likelihood: str, noise: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What is said of each curve, zero beyond its end, with its loss;
    and the slopes of the sum of the losses.
    """
    said, value = described(model, batch, noise), losses(model, batch, likelihood, noise)
    inside = (torch.arange(batch["time"].shape[1]) < batch["length"][:, None])[..., None]
    clean = [torch.where(inside, x, 0) for x in (said.rate, said.scatter)]
    return [*clean, said.mean, said.logvar, value], list(
        torch.autograd.grad(value.sum(), list(model.parameters()))
    )


def take(batch: dict, rows) -> dict:
    """Those curves alone, cut to the longest of them."""
    T = int(batch["length"][rows].max())
    return {name: x[rows] if x.ndim == 1 else x[rows][:, :T] for name, x in batch.items()}


def padded(batch: dict, more: int, filler: float) -> dict:
    """With `more` points of padding; whatever is not observed, and the data and times of the padding,
    are `filler`, times of no meaning.
    """

    def longer(x):
        return x if x.ndim == 1 else torch.cat([x, x.new_zeros(len(x), more, *x.shape[2:])], 1)

    batch = {name: longer(x) for name, x in batch.items()}
    inside = torch.arange(batch["time"].shape[1]) < batch["length"][:, None]
    batch |= {name: torch.where(batch["observed"], batch[name], filler) for name in (*INPUTS, "counts")}
    strange = filler if abs(filler) < 1e7 else 1e7
    return batch | dict(time=torch.where(inside, batch["time"], strange))


def close(ours, theirs, tolerance=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_defaults_are_the_requests():
    """Nine inputs a point, two layers of 64 units, 40 latent units; three bands come out."""
    model = RecurrentVAE()
    assert (
        model.encoder.input_size,
        model.encoder.hidden_size,
        model.encoder.num_layers,
        model.encoder.bidirectional,
    ) == (9, 64, 2, False)
    assert (
        model.encoder.dropout == 0.2
        and model.posterior.out_features == 2 * 40
        and model.out.out_features == 3
    )
    said = described(model.eval(), curves(dtype=torch.float32))
    assert (
        said.rate.shape == (5, 9, 3)
        and said.mean.shape == said.logvar.shape == (5, 40)
        and (said.scatter == 0).all()
    )


@configurations
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_shapes_and_signs(options, bands):
    model = model_of(options, torch.float32, bands=bands)
    batch = {
        name: x[..., :1].expand(-1, -1, bands) if x.ndim == 3 else x
        for name, x in curves(dtype=torch.float32).items()
    }
    said = described(model, batch)
    assert said.rate.shape == said.scatter.shape == (
        5,
        9,
        bands,
    ) and said.mean.shape == said.logvar.shape == (5, 4)
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in said)
    inside = torch.arange(9) < batch["length"][:, None]
    assert (
        (said.rate[inside] > 0).all()
        and (said.scatter >= 0).all()
        and (said.scatter[inside] > 0).all() == bool(options)
    )


@configurations
def test_a_curve_is_described_alike_alone_in_a_batch_and_in_any_order(options):
    model, batch, likelihood = (
        model_of(options),
        curves(),
        LIKELIHOOD["recommended" if options else "request"],
    )
    noise = torch.randn(5, 4, dtype=torch.float64)
    whole, slopes = results(model, batch, likelihood, noise)
    assert all(x.isfinite().all() for x in whole + slopes)
    summed = [torch.zeros_like(p) for p in slopes]
    for b in range(5):
        alone, its_slopes = results(model, take(batch, [b]), likelihood, noise[[b]])
        T = alone[0].shape[1]
        close(alone, [x[[b]][:, :T] if x.ndim == 3 else x[[b]] for x in whole])
        summed = [total + slope for total, slope in zip(summed, its_slopes)]
    close(summed, slopes)
    order = [3, 0, 4, 2, 1]
    turned, again = results(model, take(batch, order), likelihood, noise[order])
    close(turned, [x[order] for x in whole])
    close(again, slopes)


@configurations
@pytest.mark.parametrize(
    "more, filler", [(0, 7.0), (3, 0.0), (1, -1e5), (40, 1e30), (5, float("inf")), (5, float("nan"))]
)
def test_defect_03_padding_is_masked_in_decoder_and_loss(options, more, filler):
    """Padding of any length and content, and what stands where a band was not observed,
    changes neither what is said nor a slope.
    """
    model, batch, likelihood = (
        model_of(options),
        curves(),
        LIKELIHOOD["recommended" if options else "request"],
    )
    noise = torch.randn(5, 4, dtype=torch.float64)
    clean, slopes = results(model, batch, likelihood, noise)
    spoiled = padded(batch, more, filler)
    if filler != filler:  # times are numbers everywhere; NaN is what data may have
        spoiled["time"] = spoiled["time"].nan_to_num(5.0)
    dirty, its_slopes = results(model, spoiled, likelihood, noise)
    close([x[:, :9] if x.ndim == 3 else x for x in dirty], clean)
    close(its_slopes, slopes)


@configurations
def test_padding_in_single_precision(options):
    model, batch = model_of(options, torch.float32), curves(dtype=torch.float32)
    with torch.no_grad():
        clean, dirty = described(model, batch), described(model, padded(batch, 20, float("nan")))
    inside = torch.arange(9) < batch["length"][:, None]
    close(
        [dirty.rate[:, :9][inside], dirty.mean, dirty.logvar], [clean.rate[inside], clean.mean, clean.logvar]
    )


def test_defect_01_z_reaches_its_own_sequence():
    """Each point of a curve follows from that curve's latent vector, and from no other's;
    a repeated and reshaped vector mixes them.
    """
    for options in (REQUEST, RECOMMENDED):
        model, batch = model_of(options), curves((3, 3, 3, 3))
        sampling, waves = model.sampling(batch["time"], batch["length"])
        scale = model.scale(batch["rate"], batch["error_up"], batch["observed"])
        slopes = torch.autograd.functional.jacobian(
            lambda z: model.decode(z, batch["length"], scale, sampling, waves)[0],  # noqa: B023
            torch.randn(4, 4, dtype=torch.float64),
        )  # [B, T, C, B, L]
        of_curve = slopes.abs().amax((2, 4))
        own = torch.eye(4, dtype=torch.bool)[:, None].expand(4, 3, 4)
        assert (of_curve[own] > 1e-6).all() and (of_curve[~own] == 0).all()


def fitted(model: RecurrentVAE, batch: dict, steps: int) -> torch.Tensor:
    """The rates said of a batch after some steps on nothing else, by its Poisson likelihood."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        vae.sum_observed(
            misfit(Reconstruction(*described(model, batch)), batch, Noise("counts", "poisson")),
            batch["observed"],
        ).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return described(model, batch).rate


def noiseless(rate: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch of these rates [B, T, C], with a hundred counts or more each time."""
    exposure = 100 / rate.amin((1, 2), keepdim=True).expand_as(rate)
    counts = rate * exposure
    time = (BETWEEN * torch.arange(rate.shape[1])).expand(rate.shape[:2])
    error = counts.sqrt() / exposure
    return dict(
        rate=rate,
        error_low=error,
        error_up=error,
        exposure=exposure,
        background=torch.zeros_like(rate),
        counts=counts,
        time=time,
        length=torch.full((len(rate),), rate.shape[1]),
        observed=torch.ones_like(rate, dtype=torch.bool),
    )


def test_defect_02_every_band_is_reconstructed():
    """Bands of unlike level and unlike course, each of which comes out as it went in."""
    t = torch.linspace(0, 1, 8)
    courses = torch.stack([1 + t, 5 - 4 * t, 0.3 + 0 * t], -1)
    batch = noiseless(torch.stack([courses, courses.flip(0), courses * torch.tensor([2.0, 0.5, 1])]))
    for options in (REQUEST, RECOMMENDED | dict(harmonics=4)):
        torch.manual_seed(0)
        rate = fitted(
            RecurrentVAE(**options | dict(hidden=16, latent=4, dropout=0.0)).train(False), batch, 150
        )
        assert rate.shape == batch["rate"].shape
        assert ((rate / batch["rate"]).log().abs().mean((0, 1)) < 0.1).all()


def test_defect_06_gaps_are_seen_and_rates_of_any_scale_are_fit():
    """When a curve was not looked at reaches the latent vector and the rates;
    rates over ten decades are all fit alike.
    """
    model, batch = model_of(RECOMMENDED), curves((9, 9))
    later = batch | dict(time=batch["time"] + 40 * BETWEEN * (torch.arange(9) >= 5))
    before, after = described(model, batch), described(model, later)
    assert ((before.mean - after.mean).abs().amax(1) > 1e-4).all() and (
        (before.rate / after.rate).log().abs().amax((1, 2)) > 1e-4
    ).all()

    t = torch.linspace(0, 1, 8)
    course = torch.stack([1 + 2 * t, 3 - 2 * t, 2 + 0 * t], -1)
    batch = noiseless(course * (10.0 ** torch.arange(-5, 6))[:, None, None])
    torch.manual_seed(0)
    model = RecurrentVAE(**RECOMMENDED | dict(hidden=16, latent=4, harmonics=4)).eval()
    with torch.no_grad():
        assert ((described(model, batch).rate / batch["rate"]).log().abs() < 1.5).all()  # before any training
    assert ((fitted(model, batch, 100) / batch["rate"]).log().abs() < 0.15).all()


@configurations
def test_the_decoder_is_told_when_the_points_were(options):
    """With the same latent vector, another sampling gives other rates, in the request's configuration too."""
    model, batch = model_of(options), curves()
    scale = model.scale(batch["rate"], batch["error_up"], batch["observed"])
    latent = torch.randn(5, 4, dtype=torch.float64)

    def rates(time):
        return model.decode(latent, batch["length"], scale, *model.sampling(time, batch["length"]))[0]

    moved = batch["time"] + 30 * BETWEEN * (torch.arange(9) >= 3)
    long = batch["length"] > 3
    assert ((rates(batch["time"]) / rates(moved)).log().abs()[long].amax((1, 2)) > 1e-4).all()
    assert torch.equal(rates(batch["time"])[~long][:, :2], rates(moved)[~long][:, :2])


@configurations
@pytest.mark.parametrize("factor", [1000.0, 1e-6])
def test_rates_come_out_in_the_units_that_went_in(options, factor):
    model, batch = model_of(options), curves()
    before = described(model, batch)
    model.typical_rate.mul_(factor)
    after = described(model, batch | {name: batch[name] * factor for name in INPUTS})
    close([after.rate / factor, after.scatter, after.mean, after.logvar], before)


@configurations
def test_seconds_or_days(options):
    model, batch = model_of(options), curves()
    before = described(model, batch)
    model.cadence.div_(86400)
    close(described(model, batch | dict(time=batch["time"] / 86400)), before)


def test_the_scale_is_the_curves_mean_rate():
    """Of the observed points, plus what an upper error bar shared by all would add;
    where a band was never observed, the typical one.
    """
    model, batch = model_of(RECOMMENDED), curves()
    model.typical_rate.copy_(torch.tensor([0.3, 0.2, 0.1]))
    scale = model.scale(batch["rate"], batch["error_up"], batch["observed"])
    there = batch["observed"][0, :, 1]
    mean = batch["rate"][0, there, 1].mean() + batch["error_up"][0, there, 1].mean() / there.sum()
    assert scale[0, 1].item() == pytest.approx(mean.item()) and scale[2, 1].item() == pytest.approx(0.2)
    assert model_of(REQUEST).scale(batch["rate"], batch["error_up"], batch["observed"]).unique().tolist() == [
        1
    ]


@configurations
def test_a_curve_of_upper_limits_or_of_nothing_is_finite(options):
    likelihood = LIKELIHOOD["recommended" if options else "request"]
    model, batch = model_of(options), curves()
    batch |= dict(rate=0 * batch["rate"], error_low=0 * batch["rate"], counts=0 * batch["rate"])
    parameters = list(model.parameters())
    for seen in (batch["observed"], torch.zeros_like(batch["observed"])):
        said = described(model, batch, seen=seen)
        value = vae.sum_observed(
            misfit(Reconstruction(*said), batch, Noise("", likelihood)), batch["observed"]
        ) + vae.kl_gaussian(said.mean, said.logvar)
        assert all(x.isfinite().all() for x in (*said, value, *torch.autograd.grad(value.sum(), parameters)))


@pytest.mark.parametrize(
    "likelihood, scatter",
    [
        ("poisson", True),
        ("poisson", False),
        ("split_normal", True),
        ("squared_error", True),
        ("squared_error", False),
        ("split_normal", False),
        ("scaled_poisson", True),
        ("scaled_poisson", False),
    ],
)
def test_every_likelihood_has_finite_slopes_at_upper_limits_and_padding(likelihood, scatter):
    model = model_of(REQUEST, scatter=scatter)
    value = losses(model, curves(), likelihood)
    assert value.isfinite().all() and all(
        slope.isfinite().all() for slope in torch.autograd.grad(value.sum(), list(model.parameters()))
    )


@configurations
def test_extreme_latents_do_not_overflow(options):
    model, batch = model_of(options, torch.float32), curves(dtype=torch.float32)
    said = described(model, batch, 1e6 * torch.randn(5, 4))
    assert said.rate.isfinite().all() and said.scatter.isfinite().all() and (said.rate > 0).all()


@configurations
def test_the_latent_vector_is_drawn_in_training_and_the_mean_elsewhere(options):
    model, batch = model_of(options, dropout=0.0), curves()
    assert torch.equal(described(model, batch).rate, described(model, batch).rate)
    close(described(model, batch), described(model, batch, torch.zeros(1, 4, dtype=torch.float64)))
    model.train()
    assert not torch.equal(described(model, batch).rate, described(model, batch).rate)
    noise = torch.randn(5, 4, dtype=torch.float64)
    said = described(model, batch, noise)
    scale = model.scale(batch["rate"], batch["error_up"], batch["observed"])
    latent = said.mean + noise * (said.logvar / 2).exp()
    close(
        model.decode(latent, batch["length"], scale, *model.sampling(batch["time"], batch["length"])),
        said[:2],
    )


@configurations
def test_the_state_dict_holds_everything(options):
    model, batch, file = model_of(options), curves(), io.BytesIO()
    model.typical_rate.mul_(0.3)
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = RecurrentVAE(**options | dict(hidden=10, latent=4)).double().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(described(model, batch), described(other, batch)))
    assert {
        "typical_rate",
        "cadence",
        "encoder.weight_ih_l0",
        "posterior.weight",
        "out.bias",
    } <= model.state_dict().keys()

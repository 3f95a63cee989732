"""physics/ for lens images against lenstronomy, caustics, astropy, finite differences and closed limits,
in float64.
"""

import math

import numpy as np
import pytest
import torch

from physics import cosmology, imaging, lensing, light

DOUBLE = torch.float64
# Three lenses: ordinary, flat and off-centre, nearly round.
SIE = dict(
    x0=[0.0, 0.11, -0.05],
    y0=[0.0, -0.07, 0.02],
    einstein_radius=[0.9, 1.4, 0.5],
    axis_ratio=[0.7, 0.35, 0.995],
    angle=[0.4, 2.0, 1.1],
)
SHEAR = dict(shear_1=[0.03, -0.05, 0.0], shear_2=[-0.02, 0.01, 0.04])
SOURCE = dict(
    x0=[0.1, -0.2, 0.05],
    y0=[-0.05, 0.1, 0.1],
    half_light_radius=[0.15, 0.3, 0.08],
    index=[1.0, 1.6, 0.7],
    axis_ratio=[0.6, 0.9, 0.8],
    angle=[1.0, 0.2, 2.5],
)
LIGHT = dict(
    x0=[0.0, 0.11, -0.05],
    y0=[0.0, -0.07, 0.02],
    half_light_radius=[0.6, 0.9, 0.4],
    index=[4.0, 3.0, 2.2],
    axis_ratio=[0.75, 0.6, 0.97],
    angle=[0.5, 1.9, 1.0],
)


def batch(values: dict) -> dict:
    return {name: torch.tensor(value, dtype=DOUBLE)[:, None, None] for name, value in values.items()}


def one(values: dict, i: int) -> dict:
    return {name: value[i] for name, value in values.items()}


def grid(size=41):
    # Half a pixel off a symmetric grid, so that no point falls on a singular centre of the other packages.
    x, y = imaging.pixel_grid(size, 0.2, dtype=DOUBLE)
    return x + 0.013, y - 0.007


def image_of_scene(x, y):
    source = lensing.shoot_rays(
        x,
        y,
        lensing.deflection_sie(x, y, **batch(SIE), core=1e-10),
        lensing.deflection_shear(x, y, **batch(SHEAR)),
    )
    return source, batch(SOURCE), batch(LIGHT)


def relative(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def test_deflections_equal_lenstronomy():
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    x, y = grid()
    sie, shear = (
        lensing.deflection_sie(x, y, **batch(SIE), core=1e-10),
        lensing.deflection_shear(x, y, **batch(SHEAR)),
    )
    kappa = lensing.convergence_sie(x, y, **batch(SIE), core=1e-10)
    for i in range(3):
        p = one(SIE, i)
        e1, e2 = phi_q2_ellipticity(p["angle"], p["axis_ratio"])
        lens = [dict(theta_E=p["einstein_radius"], e1=e1, e2=e2, center_x=p["x0"], center_y=p["y0"])]
        external = [dict(gamma1=SHEAR["shear_1"][i], gamma2=SHEAR["shear_2"][i])]
        theirs = LensModel(["SIE"]).alpha(x.numpy(), y.numpy(), lens)
        assert relative(sie[0][i], theirs[0]) < 1e-6 and relative(sie[1][i], theirs[1]) < 1e-6
        theirs = LensModel(["SHEAR"]).alpha(x.numpy(), y.numpy(), external)
        assert relative(shear[0][i], theirs[0]) < 1e-12 and relative(shear[1][i], theirs[1]) < 1e-12
        assert relative(kappa[i], LensModel(["SIE"]).kappa(x.numpy(), y.numpy(), lens)) < 1e-5


def test_images_equal_lenstronomy():
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    x, y = grid()
    (bx, by), source, lens_light = image_of_scene(x, y)
    # lenstronomy takes another b_n, and the brightness at the half-light radius instead of the flux.
    ours = torch.zeros(3, *x.shape, dtype=DOUBLE)
    for (px, py), profile in (((bx, by), source), ((x, y), lens_light)):
        b = 1.9992 * profile["index"] - 0.3271
        ours = ours + light.brightness_sersic(px, py, flux=1.0, b=b, **profile)
    for i in range(3):
        p = one(SIE, i)
        e1, e2 = phi_q2_ellipticity(p["angle"], p["axis_ratio"])
        lens = [
            dict(theta_E=p["einstein_radius"], e1=e1, e2=e2, center_x=p["x0"], center_y=p["y0"]),
            dict(gamma1=SHEAR["shear_1"][i], gamma2=SHEAR["shear_2"][i]),
        ]
        at = LensModel(["SIE", "SHEAR"]).ray_shooting(x.numpy(), y.numpy(), lens)
        theirs = 0
        for (px, py), values in ((at, SOURCE), ((x.numpy(), y.numpy()), LIGHT)):
            s = one(values, i)
            n, radius = s["index"], s["half_light_radius"]
            b = 1.9992 * n - 0.3271
            at_half = b ** (2 * n) * math.exp(-b) / (2 * math.pi * n * radius**2 * math.gamma(2 * n))
            e1, e2 = phi_q2_ellipticity(s["angle"], s["axis_ratio"])
            theirs = theirs + LightModel(["SERSIC_ELLIPSE"]).surface_brightness(
                px,
                py,
                [
                    dict(
                        amp=at_half,
                        R_sersic=radius,
                        n_sersic=n,
                        e1=e1,
                        e2=e2,
                        center_x=s["x0"],
                        center_y=s["y0"],
                    )
                ],
            )
        assert relative(ours[i], theirs) < 1e-5


def test_scene_equals_caustics():
    from caustics.lenses.func import reduced_deflection_angle_sie
    from caustics.light.func import brightness_sersic, k_sersic

    x, y = grid()
    (bx, by), source, lens_light = image_of_scene(x, y)
    sie, p = batch(SIE), batch(SOURCE)
    ax, ay = reduced_deflection_angle_sie(
        sie["x0"], sie["y0"], sie["axis_ratio"], sie["angle"], sie["einstein_radius"], x, y, s=1e-10
    )
    shear = batch(SHEAR)
    ax = ax + shear["shear_1"] * x + shear["shear_2"] * y
    ay = ay + shear["shear_2"] * x - shear["shear_1"] * y
    assert relative(bx, (x - ax).numpy()) < 1e-7 and relative(by, (y - ay).numpy()) < 1e-7
    ours = light.brightness_sersic(bx, by, flux=1.0, **source)
    n, b = p["index"], k_sersic(p["index"])
    at_half = torch.exp(2 * n * torch.log(b) - b - torch.lgamma(2 * n)) / (
        2 * math.pi * n * p["half_light_radius"] ** 2
    )
    theirs = brightness_sersic(
        p["x0"],
        p["y0"],
        p["axis_ratio"],
        p["angle"],
        n,
        p["half_light_radius"] / p["axis_ratio"].sqrt(),
        at_half,
        x - ax,
        y - ay,
        b,
    )
    assert relative(ours, theirs.numpy()) < 1e-5


def test_potentials_give_the_deflections():
    x, y = (t.clone().requires_grad_() for t in grid(11))
    for potential, deflection, values in (
        (lensing.potential_sie, lensing.deflection_sie, batch(SIE)),
        (lensing.potential_shear, lensing.deflection_shear, batch(SHEAR)),
    ):
        gradient = [torch.autograd.grad(potential(x, y, **one(values, i)).sum(), (x, y)) for i in range(3)]
        alpha = deflection(x, y, **values)
        for i in range(3):
            for ours, theirs in zip(alpha, gradient[i]):
                torch.testing.assert_close(ours[i], theirs, rtol=1e-7, atol=1e-7)


def test_gradients_equal_finite_differences():
    x, y = grid(5)

    def scene(radius, q, angle, shear, flux, size, index, source_q):
        source = lensing.shoot_rays(
            x,
            y,
            lensing.deflection_sie(x, y, 0.02, 0.01, radius, q, angle),
            lensing.deflection_shear(x, y, shear, 0.01),
        )
        arms = light.contrast_arms(x, y, 0.0, 0.0, source_q, angle, 2.0, index, size, angle, size)
        return light.brightness_sersic(
            *source, 0.1, 0.0, flux, size, index, source_q, angle
        ) + arms * light.brightness_ring(x, y, 0.0, 0.0, flux, radius, size, source_q, angle)

    for q in (0.6, 0.9999):  # the second goes through the series of the round lens
        values = [
            torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.9, q, 0.3, 0.02, 5.0, 0.3, 1.5, 0.7)
        ]
        assert torch.autograd.gradcheck(scene, values, eps=1e-7, atol=1e-5, rtol=1e-4)


def test_round_lens_and_centre():
    x, y = imaging.pixel_grid(41, 0.2, dtype=DOUBLE)  # odd: the centre is a pixel
    q = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    ax, ay = lensing.deflection_sie(x, y, 0.0, 0.0, 1.2, q, 0.3, core=1e-9)
    radius = torch.hypot(x, y)
    away = radius > 0
    torch.testing.assert_close(torch.hypot(ax, ay)[away], torch.full_like(x, 1.2)[away], rtol=1e-8, atol=0)
    near = lensing.deflection_sie(x, y, 0.0, 0.0, 1.2, torch.tensor(1 - 1e-6, dtype=DOUBLE), 0.3, core=1e-9)
    torch.testing.assert_close(near[0], ax, rtol=1e-5, atol=1e-5)
    for dtype in (torch.float32, DOUBLE):
        x, y = (t.to(dtype).requires_grad_() for t in (x, y))
        total = sum(t.sum() for t in lensing.deflection_sie(x, y, 0.0, 0.0, 1.2, q.to(dtype), 0.3))
        index = torch.tensor(4.0, dtype=dtype)
        total = total + light.brightness_sersic(x, y, 0.0, 0.0, 1.0, 0.6, index, 0.8, 0.0).sum()
        for gradient in torch.autograd.grad(total, (x, y, q)):
            assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match="core is 0"):
        lensing.deflection_sie(x, y, 0.0, 0.0, 1.2, q, 0.3, core=0)


def test_total_flux_and_half_light():
    x, y = imaging.pixel_grid(400, 0.02, dtype=DOUBLE)
    for index in (0.6, 1.0, 2.5):
        n = torch.tensor(index, dtype=DOUBLE)
        image = light.brightness_sersic(x, y, 0.0, 0.0, 7.0, 0.5, n, 0.6, 0.4) * 0.02**2
        inside = light.radius_ellipse(x, y, 0.0, 0.0, 0.6, 0.4) < 0.5
        assert abs(float(image[inside].sum()) / 3.5 - 1) < 5e-3
    arms = light.contrast_arms(
        x, y, 0.0, 0.0, 0.6, 0.4, 2.0, *(torch.tensor(v, dtype=DOUBLE) for v in (3, 0.4, 1, 0.2))
    )
    ring = light.brightness_ring(
        x, y, 0.0, 0.0, 7.0, *(torch.tensor(v, dtype=DOUBLE) for v in (1.0, 0.2)), 0.6, 0.4
    )
    assert abs(float(ring.sum()) * 0.02**2 / 7 - 1) < 1e-4
    assert abs(float((ring * arms).sum()) * 0.02**2 / 7 - 1) < 1e-3  # arms move light, they make none
    magnitude = torch.tensor([20.0, 27.0])
    torch.testing.assert_close(light.flux_from_magnitude(magnitude, 27.0), torch.tensor([630.957, 1.0]))
    torch.testing.assert_close(
        light.magnitude_from_flux(light.flux_from_magnitude(magnitude, 27.0), 27.0), magnitude
    )


def test_b_sersic_encloses_half():
    from scipy.special import gammaincinv

    n = torch.linspace(0.5, 8, 40, dtype=DOUBLE)
    torch.testing.assert_close(
        light.b_sersic(n), torch.from_numpy(gammaincinv(2 * n.numpy(), 0.5)), rtol=4e-4, atol=0
    )
    assert relative(light.b_sersic(n[n > 2]), gammaincinv(2 * n[n > 2].numpy(), 0.5)) < 1e-6


def test_convolution_and_kernels():
    from astropy.modeling.functional_models import Moffat2D
    from scipy.signal import fftconvolve

    x, y = imaging.pixel_grid(25, 0.2, dtype=DOUBLE)
    fwhm = torch.tensor([0.7, 0.9], dtype=DOUBLE)[:, None, None]
    kernel = imaging.kernel_moffat(x, y, fwhm, 3.0)
    theirs = Moffat2D(gamma=0.35 / (2 ** (1 / 3) - 1) ** 0.5, alpha=3.0)(x.numpy(), y.numpy())
    assert relative(kernel[0], theirs / theirs.sum()) < 1e-12
    stretched = imaging.kernel_moffat(x, y, fwhm, 3.0, 0.05, 0.0)[0]
    assert float((stretched * (x**2 - y**2)).sum()) > 0  # shape_1 > 0 is long in x
    image = torch.rand(2, 41, 41, dtype=DOUBLE)
    gaussian = imaging.kernel_gaussian(x[8:17, 8:17], y[8:17, 8:17], fwhm * 0.5)
    ours = imaging.convolve(image, kernel, gaussian)
    for i in range(2):
        both = fftconvolve(fftconvolve(image[i], kernel[i]), gaussian[i])
        assert relative(ours[i], both[16:-16, 16:-16]) < 1e-12
    with pytest.raises(ValueError, match="odd"):
        imaging.convolve(image, kernel[..., :24])
    fine = torch.rand(3, 8, 8, dtype=DOUBLE)
    torch.testing.assert_close(imaging.integrate_pixels(fine, 0.2, 4).sum(), fine.sum() * 0.05**2)


def test_convolution_equals_lenstronomy():
    from lenstronomy.ImSim.Numerics.convolution import PixelKernelConvolution

    kernel = imaging.kernel_moffat(
        *imaging.pixel_grid(15, 0.2, dtype=DOUBLE), torch.tensor(0.7, dtype=DOUBLE), 3.0, 0.1, -0.05
    )
    image = torch.rand(3, 32, 41, dtype=DOUBLE)
    ours = imaging.convolve(image, kernel)
    for i in range(3):
        theirs = PixelKernelConvolution(kernel.numpy(), convolution_type="grid").convolution2d(
            image[i].numpy()
        )
        assert relative(ours[i], theirs) < 1e-12


def test_elliptical_moffat_has_its_width_and_shape():
    from astropy.modeling.functional_models import Moffat2D

    x, y = imaging.pixel_grid(41, 0.1, dtype=DOUBLE)
    fwhm, beta, shape, angle = 0.8, 2.5, 0.15, 0.6
    kernel = imaging.kernel_moffat(
        x, y, torch.tensor(fwhm, dtype=DOUBLE), beta, shape * math.cos(2 * angle), shape * math.sin(2 * angle)
    )
    # astropy's is round: on coordinates along the axes, stretched so that the area stays and the axis ratio
    # is (1 - g) / (1 + g).
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    stretch = math.sqrt((1 - shape) / (1 + shape))
    theirs = Moffat2D(gamma=0.5 * fwhm / (2 ** (1 / beta) - 1) ** 0.5, alpha=beta)(
        (along * stretch).numpy(), (across / stretch).numpy()
    )
    assert relative(kernel, theirs / theirs.sum()) < 1e-12


def test_noise_variance():
    from lenstronomy.Data.image_noise import covariance_matrix
    from lenstronomy.Util.data_util import bkg_noise

    # Ten exposures of 30 s at 2 electrons a count: lenstronomy has electrons per second,
    # we have counts of the sum.
    sky = torch.linspace(-5, 400, 100, dtype=DOUBLE)
    time, gain, read_noise, background = 300.0, 2.0, 9.0, 1.5
    per_second = bkg_noise(read_noise, 30.0, background, 1.0, 10)
    theirs = covariance_matrix((sky * gain / time).numpy(), per_second, time)
    ours = imaging.noise_variance(sky, per_second * time / gain, gain)
    assert relative(ours, theirs * (time / gain) ** 2) < 1e-12
    torch.testing.assert_close(imaging.noise_variance(torch.tensor([-7.0]), 2.0, 2.0), torch.tensor([4.0]))
    # Photons drawn one by one.
    torch.manual_seed(0)
    drawn = torch.poisson(torch.full((200000,), 40.0 * gain + 25.0, dtype=DOUBLE)) / gain
    assert float(drawn.var()) == pytest.approx(
        float(imaging.noise_variance(torch.tensor(40.0), math.sqrt(25.0) / gain, gain)), rel=0.02
    )


def test_noise_of_the_challenge_equals_lenstronomy():
    from simulations.challenge import images as survey
    from lenstronomy.Util.data_util import bkg_noise, magnitude2cps

    ours, gain = survey.pixel_noise(), survey.rubin_gain()
    for i in range(5):
        # Its brightness is per square arcsec, its noise per pixel in electrons a second.
        sky = magnitude2cps(survey.RUBIN_SKY[i], survey.RUBIN_ZERO_POINT[i])
        time = survey.RUBIN_VISITS[i] * survey.RUBIN_VISIT
        rate = bkg_noise(
            survey.RUBIN_READ_NOISE, survey.RUBIN_VISIT, sky, survey.PIXEL_SCALE, survey.RUBIN_VISITS[i]
        )
        assert float(ours[i]) == pytest.approx(rate * time / float(gain[i]), rel=1e-5)


def test_distances_equal_astropy():
    from astropy.cosmology import FlatLambdaCDM

    cosmology_astropy = FlatLambdaCDM(H0=70, Om0=0.3)
    lens, source = (
        torch.tensor([0.2, 0.724, 1.3], dtype=DOUBLE),
        torch.tensor([0.9, 2.398, 5.0], dtype=DOUBLE),
    )
    theirs = cosmology_astropy.comoving_distance(source.numpy()).value
    assert relative(cosmology.distance_comoving(source), theirs) < 1e-8
    ratio = (
        cosmology_astropy.angular_diameter_distance(lens.numpy(), source.numpy())
        / cosmology_astropy.angular_diameter_distance(source.numpy())
    ).value
    assert relative(cosmology.distance_ratio(lens, source), ratio) < 1e-8
    radius = 4 * math.pi * (250 / cosmology.SPEED_OF_LIGHT) ** 2 * ratio / cosmology.ARCSEC
    sigma = cosmology.velocity_dispersion_isothermal(torch.from_numpy(radius), lens, source)
    torch.testing.assert_close(sigma, torch.full_like(sigma, 250.0), rtol=1e-8, atol=0)

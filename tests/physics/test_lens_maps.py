"""physics/lens_maps.py against lenstronomy, closed forms of the isothermal lens and finite differences."""

import math

import numpy as np
import pytest
import torch

from physics import imaging, lens_maps, lensing, multipoles, nfw, power_law

DOUBLE = torch.float64
EPL = dict(
    x0=[0.05, -0.1, 0.0],
    y0=[-0.03, 0.04, 0.02],
    einstein_radius=[0.9, 1.2, 1.5],
    axis_ratio=[0.9, 0.6, 0.4],
    angle=[0.3, 1.0, 2.0],
    slope=[1.0, 1.3, 0.8],
)
SHEAR = dict(shear_1=[0.03, -0.05, 0.0], shear_2=[-0.02, 0.01, 0.04])


def batch(values: dict) -> dict:
    return {name: torch.tensor(value, dtype=DOUBLE)[:, None, None] for name, value in values.items()}


def lens(x, y):
    first, second = (
        power_law.deflection_epl(x, y, **batch(EPL), core=1e-8),
        lensing.deflection_shear(x, y, **batch(SHEAR)),
    )
    return first[0] + second[0], first[1] + second[1]


def sie(x, y, core=1e-8):
    return lensing.deflection_sie(
        x, y, **{name: value for name, value in batch(EPL).items() if name != "slope"}, core=core
    )


def lenstronomy_lens(i):
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    e1, e2 = phi_q2_ellipticity(EPL["angle"][i], EPL["axis_ratio"][i])
    return LensModel(["EPL", "SHEAR"]), [
        dict(
            theta_E=EPL["einstein_radius"][i],
            gamma=EPL["slope"][i] + 1,
            e1=e1,
            e2=e2,
            center_x=EPL["x0"][i],
            center_y=EPL["y0"][i],
        ),
        dict(gamma1=SHEAR["shear_1"][i], gamma2=SHEAR["shear_2"][i]),
    ]


def grid(size=41, width=8.2):
    x, y = imaging.pixel_grid(size, width / size, dtype=DOUBLE)
    return x + 0.013, y - 0.007


def test_jacobian_maps_equal_lenstronomy():
    x, y = grid()
    with torch.no_grad():
        mapping = lens_maps.jacobian(lens, x, y)
    kappa, shear_1, shear_2 = lens_maps.convergence_and_shear(mapping)
    inverse = lens_maps.determinant(mapping)
    torch.testing.assert_close(lens_maps.magnification(mapping), 1 / inverse)
    tangential, radial = lens_maps.stretch(mapping)
    torch.testing.assert_close(tangential * radial, inverse, rtol=1e-9, atol=1e-9)
    for i in range(3):
        model, values = lenstronomy_lens(i)
        at = x.numpy(), y.numpy(), values
        theirs = model.gamma(*at)
        for ours, other in (
            (kappa, model.kappa(*at)),
            (shear_1, theirs[0]),
            (shear_2, theirs[1]),
            (inverse, 1 / model.magnification(*at)),
        ):
            assert np.abs(ours[i].numpy() - other).max() < 1e-9 * np.abs(other).max()


def test_magnification_of_the_sie_equals_lenstronomy():
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    x, y = grid()
    ours = lens_maps.magnification(lens_maps.jacobian(lambda x, y: sie(x, y, 1e-12), x, y))
    for i in range(3):
        e1, e2 = phi_q2_ellipticity(EPL["angle"][i], EPL["axis_ratio"][i])
        values = dict(
            theta_E=EPL["einstein_radius"][i], e1=e1, e2=e2, center_x=EPL["x0"][i], center_y=EPL["y0"][i]
        )
        exact = LensModel(["EPL"]).magnification(x.numpy(), y.numpy(), [values | dict(gamma=2.0)])
        np.testing.assert_allclose(1 / ours[i].numpy(), 1 / exact, rtol=1e-8, atol=1e-8)
        # lenstronomy's SIE takes the second derivatives by differences.
        theirs = LensModel(["SIE"]).magnification(x.numpy(), y.numpy(), [values])
        np.testing.assert_allclose(1 / ours[i].numpy(), 1 / theirs, rtol=1e-4, atol=1e-4)


def test_jacobian_equals_finite_differences_and_has_gradients():
    def of_everything(x, y):
        parts = (
            power_law.deflection_epl(x, y, 0.0, 0.0, 1.0, 0.7, 0.4, 1.2),
            nfw.deflection_nfw(x, y, 0.1, 0.0, 2.0, 0.1),
            multipoles.deflection_multipole(x, y, 0.0, 0.0, 4, 0.02, 0.1),
            lensing.deflection_sie(x, y, 0.5, 0.5, 0.1, 0.9, 0.0),
        )
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    x, y = grid(7)
    ours, h = lens_maps.jacobian(of_everything, x, y), 1e-6
    for axis, (dx, dy) in enumerate(((h, 0), (0, h))):
        up, down = (
            torch.stack(lensing.shoot_rays(x + s * dx, y + s * dy, of_everything(x + s * dx, y + s * dy)), -1)
            for s in (1, -1)
        )
        torch.testing.assert_close(ours[..., axis], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)

    def inverse(radius, q, slope):
        mapping = lens_maps.jacobian(
            lambda x, y: power_law.deflection_epl(x, y, 0.0, 0.0, radius, q, 0.4, slope), x, y
        )
        return lens_maps.determinant(mapping)

    assert torch.autograd.gradcheck(
        inverse,
        [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (1.0, 0.7, 1.2)],
        atol=1e-4,
        rtol=1e-5,
    )


def test_critical_curves_and_caustics_equal_lenstronomy():
    from lenstronomy.LensModel.lens_model_extensions import LensModelExtensions

    x, y = grid(201)
    with torch.no_grad():
        segments, there = lens_maps.critical_curves(lens, x, y)
        traced = lens_maps.caustics(lens, segments)
    assert segments.shape[1] == there.sum(1).max() and not segments[~there].any()
    for i in range(3):
        model, values = lenstronomy_lens(i)
        point, source = segments[i][there[i]].flatten(0, 1).numpy(), traced[i][there[i]].flatten(0, 1).numpy()
        # Every point is on the curve, and is traced to the caustic.
        xx, xy, yx, yy = model.hessian(*point.T, values)
        assert np.abs((1 - xx) * (1 - yy) - xy * yx).max() < 1e-8
        np.testing.assert_allclose(
            np.stack(model.ray_shooting(*point.T, values), -1), source, rtol=1e-9, atol=1e-9
        )
        # The curve is whole: lenstronomy's points, 0.02 apart and not moved onto the curve, are never far
        # from ours, 0.04 apart and more in the source plane, where the radial curve is stretched.
        theirs = [
            np.concatenate(part)
            for part in LensModelExtensions(model).critical_curve_caustics(
                values, compute_window=6, grid_scale=0.02
            )
        ]
        for ours, (their_x, their_y), near in ((point, theirs[:2], 0.04), (source, theirs[2:], 0.15)):
            gap = np.hypot(ours[:, :1] - their_x, ours[:, 1:] - their_y)
            assert gap.min(0).max() < near and gap.min(1).max() < near
        # Each point ends one segment and starts another.
        starts, ends = (segments[i][there[i]][:, k] for k in (0, 1))
        assert torch.cdist(starts, ends).amin(1).max() < 1e-7


def test_contour_of_a_circle_and_of_a_saddle():
    x, y = imaging.pixel_grid(101, 0.05, dtype=DOUBLE)
    radius = torch.tensor([1.0, 1.7, 9.0], dtype=DOUBLE)[:, None, None]
    segments, there = lens_maps.contour(torch.hypot(x, y) - radius, x, y)
    assert there.sum(1)[2] == 0 and there.sum(1)[0] < there.sum(1)[1]
    (x1, y1), (x2, y2) = (end.unbind(-1) for end in segments.unbind(2))
    area, length = 0.5 * (x1 * y2 - x2 * y1).sum(1), torch.hypot(x2 - x1, y2 - y1).sum(1)
    for i, r in enumerate((1.0, 1.7)):
        assert abs(float(area[i])) == pytest.approx(math.pi * r**2, rel=1e-3) and float(
            length[i]
        ) == pytest.approx(2 * math.pi * r, rel=1e-3)
    # Two of four corners inside, across: two segments, and the curve stays closed.
    values = torch.tensor([[[1.0, 1, 1, 1], [1, -1, 1, 1], [1, 1, -1, 1], [1, 1, 1, 1]]], dtype=DOUBLE)
    segments, there = lens_maps.contour(values, *imaging.pixel_grid(4, 1.0, dtype=DOUBLE))
    assert there.sum() == 8 and torch.cdist(segments[0, :, 0], segments[0, :, 1]).amin(1).max() < 1e-12
    values = -values
    segments, there = lens_maps.contour(values, *imaging.pixel_grid(4, 1.0, dtype=DOUBLE))
    assert there.sum() == 8 and torch.cdist(segments[0, :, 0], segments[0, :, 1]).amin(1).max() < 1e-12


def test_einstein_radius_from_the_area():
    x, y = grid(161)
    radius = torch.tensor(EPL["einstein_radius"], dtype=DOUBLE)
    torch.testing.assert_close(lens_maps.einstein_radius_effective(sie, x, y), radius, rtol=2e-4, atol=0)
    # The area of lenstronomy's curve, for lenses of which it is no ellipse.
    from lenstronomy.LensModel.lens_model_extensions import LensModelExtensions

    ours = lens_maps.einstein_radius_effective(lens, x, y)
    for i in range(3):
        model, values = lenstronomy_lens(i)
        at = LensModelExtensions(model).critical_curve_caustics(values, compute_window=7, grid_scale=0.02)[:2]
        area = max(abs(0.5 * np.sum(u * np.roll(v, -1) - v * np.roll(u, -1))) for u, v in zip(*at))
        assert float(ours[i]) == pytest.approx(math.sqrt(area / math.pi), rel=1e-3)
    # A curve that leaves the grid has no area; no mass has no curve.
    assert torch.isnan(lens_maps.einstein_radius_effective(sie, x / 8, y / 8)).all()
    assert (
        lens_maps.einstein_radius_effective(
            lambda x, y: lensing.deflection_sie(x, y, 0.0, 0.0, torch.zeros(2, 1, 1, dtype=DOUBLE), 0.8, 0.0),
            x,
            y,
        )
        == 0
    ).all()


def test_einstein_radius_is_differentiable():
    x, y = grid(41)

    def effective(radius, q):
        return lens_maps.einstein_radius_effective(
            lambda x, y: lensing.deflection_sie(x, y, 0.0, 0.0, radius, q, 0.3), x, y
        )

    values = [torch.tensor([[[v]]], dtype=DOUBLE, requires_grad=True) for v in (1.2, 0.7)]
    assert torch.autograd.gradcheck(effective, values, eps=1e-7, atol=1e-5)
    (slope,) = torch.autograd.grad(effective(*values).sum(), values[0])
    assert float(slope) == pytest.approx(1, abs=0.02)


def test_mean_convergence_inside_the_einstein_radius_is_one():
    p = batch(EPL)

    def kappa(x, y):
        return power_law.convergence_epl(x, y, **p, core=1e-12)

    radius = p["einstein_radius"]
    mean = lens_maps.mean_convergence(kappa, radius, p["x0"], p["y0"], p["axis_ratio"], p["angle"])
    torch.testing.assert_close(mean, torch.ones(3, dtype=DOUBLE), rtol=1e-6, atol=0)
    round_lens = p | {"axis_ratio": torch.tensor(1.0, dtype=DOUBLE)}
    mean = lens_maps.mean_convergence(
        lambda x, y: power_law.convergence_epl(x, y, **round_lens, core=1e-12), radius, p["x0"], p["y0"]
    )
    torch.testing.assert_close(mean, torch.ones(3, dtype=DOUBLE), rtol=1e-6, atol=0)
    # For a halo it is the deflection over the radius.
    r = torch.tensor([0.3, 2.0, 20.0], dtype=DOUBLE)[:, None, None]
    mean = lens_maps.mean_convergence(
        lambda x, y: nfw.convergence_nfw(x, y, 0.0, 0.0, 2.0, 0.2, core=1e-9), r
    )
    alpha = nfw.deflection_nfw(r, torch.zeros_like(r), 0.0, 0.0, 2.0, 0.2, core=1e-9)[0]
    torch.testing.assert_close(mean, (alpha / r)[:, 0, 0], rtol=1e-6, atol=0)
    # Inside a circle that is not the lens's own shape: by Gauss's theorem,
    # the outward deflection of lenstronomy along the circle.
    mean = lens_maps.mean_convergence(kappa, radius, p["x0"], p["y0"])
    turn = np.arange(400) * (2 * np.pi / 400)
    for i in range(3):
        model, values = lenstronomy_lens(i)
        r = EPL["einstein_radius"][i]
        alpha = model.alpha(EPL["x0"][i] + r * np.cos(turn), EPL["y0"][i] + r * np.sin(turn), values, k=0)
        assert float(mean[i]) == pytest.approx(
            (alpha[0] * np.cos(turn) + alpha[1] * np.sin(turn)).mean() / r, rel=1e-6
        )

"""physics/power_law.py against lenstronomy, caustics, scipy's hypergeometric function,
the isothermal lens and finite differences.
"""

import numpy as np
import pytest
import torch

from physics import imaging, lensing, power_law

DOUBLE = torch.float64
# Ordinary, flat and steep off-centre, nearly round and shallow, the flattest.
EPL = dict(
    x0=[0.0, 0.11, -0.05, 0.0],
    y0=[0.0, -0.07, 0.02, 0.0],
    einstein_radius=[0.9, 1.4, 0.5, 1.1],
    axis_ratio=[0.7, 0.35, 0.995, 0.2],
    angle=[0.4, 2.0, 1.1, -0.3],
    slope=[1.0, 1.4, 0.6, 1.1],
)
COUNT = len(EPL["x0"])


def batch(dtype=DOUBLE) -> dict:
    return {name: torch.tensor(value, dtype=dtype)[:, None, None] for name, value in EPL.items()}


def grid(size=41):
    # Off a symmetric grid, so that no point falls on a singular centre of the other packages.
    x, y = imaging.pixel_grid(size, 0.2, dtype=DOUBLE)
    return x + 0.013, y - 0.007


def relative(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


def test_equals_lenstronomy():
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    x, y = grid()
    alpha = power_law.deflection_epl(x, y, **batch(), core=1e-10)
    kappa, potential = (
        function(x, y, **batch(), core=1e-10)
        for function in (power_law.convergence_epl, power_law.potential_epl)
    )
    epl = LensModel(["EPL"])
    for i in range(COUNT):
        e1, e2 = phi_q2_ellipticity(EPL["angle"][i], EPL["axis_ratio"][i])
        lens = [
            dict(
                theta_E=EPL["einstein_radius"][i],
                gamma=EPL["slope"][i] + 1,
                e1=e1,
                e2=e2,
                center_x=EPL["x0"][i],
                center_y=EPL["y0"][i],
            )
        ]
        at = x.numpy(), y.numpy(), lens
        for ours, theirs in zip(alpha, epl.alpha(*at)):
            assert relative(ours[i], theirs) < 1e-10
        assert relative(kappa[i], epl.kappa(*at)) < 1e-10
        assert relative(potential[i], epl.potential(*at)) < 1e-10


def test_equals_caustics():
    from caustics.lenses.func import convergence_epl, potential_epl, reduced_deflection_angle_epl

    x, y = grid()
    alpha = power_law.deflection_epl(x, y, **batch(), core=1e-10)
    kappa, potential = (
        function(x, y, **batch(), core=1e-10)
        for function in (power_law.convergence_epl, power_law.potential_epl)
    )
    for i in range(COUNT):  # its functions take one slope at a time
        lens = [
            torch.tensor(EPL[name][i], dtype=DOUBLE)
            for name in ("x0", "y0", "axis_ratio", "angle", "einstein_radius", "slope")
        ]
        for ours, theirs in zip(alpha, reduced_deflection_angle_epl(*lens, x, y, n_iter=120)):
            assert relative(ours[i], theirs) < 1e-10
        assert relative(kappa[i], convergence_epl(*lens, x, y)) < 1e-10
        assert relative(potential[i], potential_epl(*lens, x, y, n_iter=120, chunk_size=120)) < 1e-10


def test_series_equals_the_hypergeometric_function():
    from scipy.special import hyp2f1

    turn = torch.exp(1j * torch.linspace(0, 2 * np.pi, 37, dtype=DOUBLE))
    for q, dtype, tolerance in (
        (0.9, DOUBLE, 1e-14),
        (0.2, DOUBLE, 2e-12),
        (0.1, DOUBLE, 2e-8),
        (0.05, DOUBLE, 1e-5),
        (0.2, torch.float32, 1e-6),
    ):
        for t in (0.01, 0.5, 1.0, 1.5, 1.99):
            z = (1 - q) / (1 + q) * turn
            real, imaginary = power_law._angular(
                z.real.to(dtype), z.imag.to(dtype), torch.tensor(t, dtype=dtype)
            )
            assert (
                relative(real.double() + 1j * imaginary.double(), hyp2f1(1, t / 2, 2 - t / 2, z.numpy()))
                < tolerance
            )


def test_isothermal_slope_is_the_sie():
    x, y = grid()
    p = batch() | {"slope": torch.tensor(1.0, dtype=DOUBLE)}
    sie = {name: value for name, value in p.items() if name != "slope"}
    for ours, theirs in zip(
        power_law.deflection_epl(x, y, **p, core=1e-10), lensing.deflection_sie(x, y, **sie, core=1e-10)
    ):
        assert relative(ours, theirs) < 1e-8
    assert relative(power_law.convergence_epl(x, y, **p), lensing.convergence_sie(x, y, **sie)) < 1e-14
    assert (
        relative(
            power_law.potential_epl(x, y, **p, core=1e-10), lensing.potential_sie(x, y, **sie, core=1e-10)
        )
        < 1e-8
    )


def test_potential_deflection_and_convergence_agree():
    x, y = (t.expand(COUNT, -1, -1).clone().requires_grad_() for t in grid(11))
    alpha = power_law.deflection_epl(x, y, **batch(), core=1e-8)
    gradient = torch.autograd.grad(power_law.potential_epl(x, y, **batch(), core=1e-8).sum(), (x, y))
    for ours, theirs in zip(alpha, gradient):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    divergence = (
        torch.autograd.grad(alpha[0].sum(), x, retain_graph=True)[0]
        + torch.autograd.grad(alpha[1].sum(), y)[0]
    )
    torch.testing.assert_close(
        divergence / 2, power_law.convergence_epl(x, y, **batch(), core=1e-8), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("q, t", [(0.6, 1.3), (1.0, 0.7), (0.9999, 1.0), (0.25, 1.9)])
def test_gradients_equal_finite_differences(q, t):
    def lens(x, y, radius, axis_ratio, angle, slope):
        at = (x, y, 0.02, 0.01, radius, axis_ratio, angle, slope)
        return torch.stack(
            [*power_law.deflection_epl(*at), power_law.convergence_epl(*at), power_law.potential_epl(*at)]
        )

    # At one point the core matters; gradcheck's steps are small beside it.
    x = torch.tensor([0.5, -0.3, 0.021], dtype=DOUBLE, requires_grad=True)
    y = torch.tensor([0.2, 0.9, 0.0107], dtype=DOUBLE, requires_grad=True)
    values = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.9, q, 0.3, t)]
    assert torch.autograd.gradcheck(lens, [x, y, *values], eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_centre_is_finite(dtype):
    x, y = (t.to(dtype).requires_grad_() for t in imaging.pixel_grid(5, 0.2))  # odd: the centre is a pixel
    values = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (1.2, 1.0, 0.3, 1.8)]
    at = (x, y, 0.0, 0.0, *values)
    alpha = power_law.deflection_epl(*at)
    assert alpha[0][2, 2] == 0 and alpha[1][2, 2] == 0
    total = (
        alpha[0].sum()
        + alpha[1].sum()
        + power_law.convergence_epl(*at).sum()
        + power_law.potential_epl(*at).sum()
    )
    for gradient in torch.autograd.grad(total, (x, y, *values)):
        assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match="core is 0"):
        power_law.deflection_epl(*at, core=0)


def test_single_precision_and_batches():
    x, y = grid()
    double, single = (
        power_law.deflection_epl(x, y, **batch()),
        power_law.deflection_epl(x.float(), y.float(), **batch(torch.float32)),
    )
    assert all(relative(ours, theirs) < 2e-6 for ours, theirs in zip(single, double))
    alone = power_law.deflection_epl(x, y, **{name: value[1] for name, value in EPL.items()})
    assert all(relative(ours, theirs[1]) < 1e-14 for ours, theirs in zip(alone, double))

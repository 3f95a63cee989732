"""physics/multipoles.py against lenstronomy, its own potential and finite differences."""

import numpy as np
import pytest
import torch

from physics import imaging, lensing, multipoles

DOUBLE = torch.float64
VALUES = dict(
    x0=[0.0, 0.1, -0.05], y0=[0.0, -0.07, 0.02], strength=[0.05, -0.02, 0.1], angle=[0.4, 2.0, -1.1]
)


def batch() -> dict:
    return {name: torch.tensor(value, dtype=DOUBLE)[:, None, None] for name, value in VALUES.items()}


def grid(size=41):
    x, y = imaging.pixel_grid(size, 0.2, dtype=DOUBLE)
    return x + 0.013, y - 0.007


@pytest.mark.parametrize("order", [2, 3, 4])
def test_equals_lenstronomy(order):
    from lenstronomy.LensModel.lens_model import LensModel

    x, y = grid()
    alpha = multipoles.deflection_multipole(x, y, order=order, **batch(), core=1e-9)
    kappa = multipoles.convergence_multipole(x, y, order=order, **batch(), core=1e-9)
    potential = multipoles.potential_multipole(x, y, order=order, **batch(), core=1e-9)
    model = LensModel(["MULTIPOLE"])
    for i in range(3):
        at = (
            x.numpy(),
            y.numpy(),
            [
                dict(
                    m=order,
                    a_m=VALUES["strength"][i],
                    phi_m=VALUES["angle"][i],
                    center_x=VALUES["x0"][i],
                    center_y=VALUES["y0"][i],
                    r_E=1.0,
                )
            ],
        )
        for ours, theirs in zip(
            (*alpha, kappa, potential), (*model.alpha(*at), model.kappa(*at), model.potential(*at))
        ):
            assert np.abs(ours[i].numpy() - theirs).max() < 1e-12 * np.abs(theirs).max()


@pytest.mark.parametrize("order", [3, 4])
def test_potential_deflection_and_convergence_agree(order):
    # the centre too
    x, y = (t.expand(3, -1, -1).clone().requires_grad_() for t in imaging.pixel_grid(11, 0.2, dtype=DOUBLE))
    alpha = multipoles.deflection_multipole(x, y, order=order, **batch())
    gradient = torch.autograd.grad(multipoles.potential_multipole(x, y, order=order, **batch()).sum(), (x, y))
    for ours, theirs in zip(alpha, gradient):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    x, y = (t.expand(3, -1, -1).clone().requires_grad_() for t in grid(11))
    alpha = multipoles.deflection_multipole(x, y, order=order, **batch(), core=1e-8)
    divergence = (
        torch.autograd.grad(alpha[0].sum(), x, retain_graph=True)[0]
        + torch.autograd.grad(alpha[1].sum(), y)[0]
    )
    torch.testing.assert_close(
        divergence / 2,
        multipoles.convergence_multipole(x, y, order=order, **batch(), core=1e-8),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("order", [3, 4])
def test_gradients_equal_finite_differences(order):
    def lens(x, y, strength, angle):
        at = (x, y, 0.02, 0.01, order, strength, angle)
        return torch.stack(
            [
                *multipoles.deflection_multipole(*at),
                multipoles.convergence_multipole(*at),
                multipoles.potential_multipole(*at),
            ]
        )

    # The first point is in the core.
    x = torch.tensor([0.0201, 0.3, -2.0], dtype=DOUBLE, requires_grad=True)
    y = torch.tensor([0.01005, 0.2, 1.0], dtype=DOUBLE, requires_grad=True)
    values = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.05, 0.7)]
    assert torch.autograd.gradcheck(lens, [x, y, *values], eps=1e-8, atol=1e-4, rtol=1e-4)


def test_contours_move_by_the_strength():
    """An isothermal lens with a multipole has the convergence of an isothermal lens whose radius is moved by
    a_m cos(m phi).
    """
    phi = torch.linspace(0, 6, 50, dtype=DOUBLE)
    radius = 1.3 + 0.05 * torch.cos(4 * (phi - 0.2))
    x, y = radius * torch.cos(phi), radius * torch.sin(phi)
    kappa = lensing.convergence_sie(
        x, y, 0.0, 0.0, 1.3, 1.0, 0.0, core=1e-9
    ) + multipoles.convergence_multipole(x, y, 0.0, 0.0, 4, 0.05, 0.2)
    torch.testing.assert_close(kappa, torch.full_like(kappa, 0.5), rtol=1e-8, atol=0)


def test_refusals():
    x, y = grid(3)
    with pytest.raises(ValueError, match="order is 1"):
        multipoles.deflection_multipole(x, y, 0.0, 0.0, 1, 0.1, 0.0)
    with pytest.raises(ValueError, match="order is 2.5"):
        multipoles.deflection_multipole(x, y, 0.0, 0.0, 2.5, 0.1, 0.0)
    with pytest.raises(ValueError, match="core is 0"):
        multipoles.potential_multipole(x, y, 0.0, 0.0, 3, 0.1, 0.0, core=0)
